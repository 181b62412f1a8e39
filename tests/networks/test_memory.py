"""Scores in chunks and recomputed layers: the same numbers and gradients, in less memory."""

import pytest
import torch
from table import CONTEXT, FACTORIZATIONS, build, random_made
from torch.utils._python_dispatch import TorchDispatchMode

import ardist as ad
from ardist import networks

CHUNKED = [
    ("rnn-lstm", "categorical-2"),
    ("rnn-gru", "ended"),
    ("transformer", "bernoulli-ties"),
    ("transformer", "columns-ties"),
    ("wavenet", "normal-permutation"),
    ("wavenet", "columns"),
    ("pixelcnn", "image-snake"),
    ("pixelcnn", "image-channels"),
    ("transformer", "nested"),
]


def gradients(net, score):
    """A score, and its gradients to all parameters."""
    net.zero_grad()
    result = score()
    result.sum().backward()
    return [result.detach(), *(p.grad for p in net.parameters() if p.grad is not None)]


@pytest.mark.parametrize("chunk_size", [1, 5, 1000])
@pytest.mark.parametrize(("network", "factorization"), CHUNKED)
def test_chunks_give_the_same_scores_and_gradients(network, factorization, chunk_size):
    net = build(network, factorization, CONTEXT).double()
    context = torch.randn(2, *CONTEXT, dtype=torch.float64)
    whole, chunked = net.condition(context), net.condition(context, chunk_size=chunk_size)
    x = whole.sample((3,))
    expected = gradients(net, lambda: whole.log_prob_blocks(x))
    torch.testing.assert_close(gradients(net, lambda: chunked.log_prob_blocks(x)), expected)
    module = ad.LogLikelihood(net, chunk_size=chunk_size)
    expected = gradients(net, lambda: whole.log_prob(x))
    torch.testing.assert_close(gradients(net, lambda: module(x, context)), expected)


@pytest.mark.parametrize("kind", ["given", "marginal", "missing"])
def test_chunks_serve_evidence_marginals_and_missing_values(kind):
    net = build("rnn-gru", "independent-along")
    mask = torch.tensor([[True, True], [True, False]])
    x = net.condition().sample((5,))

    def score(**options):
        p = net.condition(nan_policy="marginalize", **options)
        if kind == "given":
            return p.given(x, mask).log_prob(x)
        if kind == "marginal":
            return p.marginal(mask).log_prob(x[:, mask])
        return p.log_prob(x.masked_fill(~mask, torch.nan))

    torch.testing.assert_close(
        gradients(net, lambda: score(chunk_size=3)), gradients(net, lambda: score())
    )


class Averages(networks.ConditionalNetwork):
    """A network with hidden states and a head, whose forward is the default."""

    def __init__(self, factorization):
        super().__init__(factorization)
        self.head = torch.nn.Linear(1, factorization.layout.families[0].num_params)

    def hidden_states(self, blocks, context=None, ranks=None):
        return (blocks.cumsum(1) - blocks).unsqueeze(-1)


def test_a_network_of_ones_own_with_hidden_states_and_a_head_scores_in_chunks():
    net = Averages(ad.Factorization(5, ad.families.Normal()))
    x = net.condition().sample((3,))
    expected = net.condition().log_prob(x)
    torch.testing.assert_close(net.condition(chunk_size=2).log_prob(x), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_backward_pass_uses_the_parameters_and_the_mode_of_the_forward_pass(dtype):
    """They have changed back when it computes chunks again, and so have the buffers."""
    torch.manual_seed(0)
    inner = random_made(
        ad.Factorization(2, ad.families.Bernoulli()), hidden_features=8, context_shape=(3,),
        dropout=0.5,
    )  # fmt: skip
    fac = ad.Factorization((4, 2), ad.families.Nested(inner), partition=ad.Partition.along(0))
    net = networks.RNN(fac, hidden_size=8)
    params = {name: p.detach().to(dtype) + 1 for name, p in net.named_parameters()}
    leaves = [{name: p.clone().requires_grad_() for name, p in params.items()} for _ in range(2)]
    x = net.condition().sample((3,)).to(dtype)
    with net.eval_mode():
        scores = [
            net.condition(params=leaf, chunk_size=size).log_prob(x)
            for leaf, size in zip(leaves, (None, 2), strict=True)
        ]
    assert net.training
    for score in scores:
        score.sum().backward()
    for one, other in zip(*(leaf.values() for leaf in leaves), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


CHECKPOINTED = {
    "transformer": (networks.Transformer, {"dim": 16, "depth": 2, "heads": 2, "dropout": 0.3}),
    "wavenet": (networks.WaveNet, {"channels": 8, "depth": 3, "dropout": 0.3}),
    "pixelcnn": (networks.PixelCNN, {"channels": 8, "depth": 2, "dropout": 0.3}),
}


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize(
    ("name", "factorization"),
    [
        ("transformer", "image-snake"),
        ("transformer", "columns-ties"),
        ("wavenet", "image-snake"),
        ("pixelcnn", "image-raster"),
        ("pixelcnn", "image-snake"),
    ],
)
def test_layers_that_are_computed_again_give_the_same_gradients(name, factorization, replaced):
    network, options = CHECKPOINTED[name]
    fac, found = FACTORIZATIONS[factorization], []
    x = network(fac, **options).condition().sample((3,))
    for checkpoint_layers in (False, True):
        torch.manual_seed(1)
        net = network(fac, context_shape=CONTEXT, checkpoint_layers=checkpoint_layers, **options)
        torch.manual_seed(2)  # of dropout
        context, leaves = torch.randn(CONTEXT), dict(net.named_parameters())
        if replaced:
            leaves = {name: (p.detach() + 0.1).requires_grad_() for name, p in leaves.items()}
        p = net.condition(context, params=leaves if replaced else None)
        score = p.log_prob(x).sum()
        net.eval()
        score.backward()
        found.append([score.detach(), *(leaf.grad for leaf in leaves.values())])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("name", CHECKPOINTED)
def test_layers_that_are_computed_again_keep_less(name):
    network, options = CHECKPOINTED[name]
    kept = []
    for checkpoint_layers in (False, True):
        net = network(
            ad.Factorization((8, 8), ad.families.Bernoulli()),
            checkpoint_layers=checkpoint_layers,
            **options,
        )
        sizes = {}

        def keep(tensor, sizes=sizes):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            net.condition().log_prob(torch.zeros(4, 8, 8)).sum().backward()
        kept.append(sum(sizes.values()))
    assert kept[1] < 0.75 * kept[0]


class Largest(TorchDispatchMode):
    """The largest tensor that an operation makes."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple | list) else (result,):
            if isinstance(part, torch.Tensor):
                self.size = max(self.size, part.numel())
        return result


def test_chunks_never_hold_all_logits():
    net = networks.RNN(ad.Factorization(64, ad.families.Categorical(500)), hidden_size=8)
    x, sizes = torch.zeros(2, 64, dtype=torch.int64), []
    for chunk_size in (None, 16):
        with Largest() as largest:
            net.condition(chunk_size=chunk_size).log_prob(x).sum().backward()
        sizes.append(largest.size)
    assert sizes == [2 * 64 * 500, 16 * 500]


def test_a_subclass_with_a_forward_of_its_own_has_no_chunks():
    class Louder(networks.RNN):
        def forward(self, blocks, context=None, ranks=None):
            return 2 * super().forward(blocks, context, ranks)

    net = Louder(FACTORIZATIONS["normal-raster"], hidden_size=8)
    with pytest.raises(ValueError, match="chunk_size: expected none for Louder"):
        net.condition(chunk_size=2)
