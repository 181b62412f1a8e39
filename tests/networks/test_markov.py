"""Markov: what its module is given, how far it reaches, and the models it contains."""

import pytest
import torch
from torch import nn

import ardist as ad
from ardist import families as fam
from ardist import networks


class Recording(nn.Module):
    """Linear in the window; keeps what it is given."""

    def __init__(self, window, outputs, dropout=0.0):
        super().__init__()
        self.map = nn.Linear(window, outputs)
        self.dropout = nn.Dropout(dropout)
        self.seen = []

    def forward(self, past, *rest):
        self.seen.append((past, *rest))
        return self.dropout(self.map(past.to(self.map.weight.dtype)))


class AutoRegression(nn.Module):
    """A mean that is linear in the window, and a constant scale."""

    def __init__(self, order):
        super().__init__()
        self.mean = nn.Linear(order, 1)
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, past, step):
        mean = self.mean(past)
        return torch.cat((mean, self.scale.expand_as(mean)), -1)


class Denoiser(nn.Module):
    """Convolutions, and an embedding of the step: a diffusion's reverse step in small."""

    def __init__(self, num_steps, context=0):
        super().__init__()
        self.inner, self.outer = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)
        self.steps = nn.Embedding(num_steps, 4)
        self.context = nn.Linear(context, 4) if context else None

    def forward(self, past, step, context=None):
        hidden = self.inner(past[:, 0]) + self.steps(step)[..., None, None]
        if context is not None:
            hidden = hidden + self.context(context)[..., None, None]
        return self.outer(hidden.relu()).movedim(1, -1)  # (rows, 8, 8, 2)


def series(length, ordering=None):
    return ad.Factorization((length,), fam.Normal(), ordering=ordering)


def test_the_module_is_given_the_window_the_step_and_the_context():
    fac = ad.Factorization((3,), fam.Categorical(9), ordering=ad.Ordering.reverse())
    module = Recording(2, 9)
    net = networks.Markov(fac, window=2, module=module, context_shape=(1,))
    net(torch.tensor([[7, 6, 5], [4, 3, 2]]), torch.tensor([[0.5], [1.5]]))
    past, step, context = module.seen[0]
    assert past.tolist() == [[0, 0], [0, 5], [5, 6], [0, 0], [0, 2], [2, 3]]
    assert past.dtype == torch.int64
    assert step.tolist() == [0, 1, 2] * 2
    assert context[:, 0].tolist() == [0.5] * 3 + [1.5] * 3


def test_a_draw_costs_one_call_a_step():
    module = Recording(1, 2)
    networks.Markov(series(5), module=module).condition().sample((4,))
    assert [step.tolist() for _, step in module.seen] == [[index] * 4 for index in range(5)]


@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize("stationary", [False, True])
def test_a_block_reacts_to_its_window(window, stationary):
    fac = series(5, ad.Ordering.permutation([3, 0, 4, 1, 2]))
    net = networks.Markov(fac, window=window, hidden_features=(32,), stationary=stationary)
    found = ad.testing.check_autoregressive(net)
    distance = fac.ranks.unsqueeze(-1) - fac.ranks
    assert torch.equal(found.influence, (distance > 0) & (distance <= window))
    assert found.reach == found.influence.sum().item() / 10
    ad.testing.check_decoder(net)


def test_a_stationary_chain_has_any_length_and_forgets_where_it_is():
    net = networks.Markov(series(4), window=2, hidden_features=(8,), stationary=True)
    longer = series(9)
    assert net.unsupported_reason(longer) is None
    ad.testing.check_decoder(net, factorization=longer)
    params = net(torch.tensor([[0.3, -1.0] * 4 + [0.3]]))[0]
    torch.testing.assert_close(params[2:7], params[4:9])  # the same window, later
    assert not torch.isclose(params[0], params[2]).any()  # the start is told apart
    counting = networks.Markov(series(4), window=2, hidden_features=(8,))
    assert "stationary=False was built for Factorization((4,)" in counting.unsupported_reason(
        longer
    )
    assert not torch.isclose(counting(torch.zeros(1, 4))[0, 2], params[3]).any()


def test_linear_maps_recover_an_ar2_process():
    """By maximum likelihood, which here is least squares."""
    truth = networks.Markov(series(300), window=2, module=AutoRegression(2), stationary=True)
    with torch.no_grad():
        truth.module.mean.weight.copy_(torch.tensor([[-0.5, 0.9]]))  # of x_{t-2} and x_{t-1}
        truth.module.mean.bias.fill_(0.2)
    x = truth.condition().sample((20,))
    net = networks.Markov(series(300), window=2, module=AutoRegression(2), stationary=True)
    maximize(net, x)
    padded = torch.cat((torch.zeros(20, 2), x), 1)
    past = torch.stack((padded[:, :-2], padded[:, 1:-1], torch.ones_like(x)), -1)
    best = torch.linalg.lstsq(past.flatten(0, 1), x.reshape(-1, 1)).solution[:, 0]
    found = torch.cat((net.module.mean.weight[0], net.module.mean.bias)).detach()
    torch.testing.assert_close(found, best, atol=2e-3, rtol=0)
    torch.testing.assert_close(found, torch.tensor([-0.5, 0.9, 0.2]), atol=0.04, rtol=0)


def maximize(net, x):
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = -net.condition().log_prob(x).mean()
        loss.backward()
        return loss

    optimizer.step(closure)


def test_a_linear_window_of_one_is_a_bigram_model():
    """Maximum likelihood gives the counts."""
    fac = ad.Factorization((30,), fam.Categorical(3))
    x = torch.randint(3, (40, 30)) * torch.randint(2, (40, 30))
    net = networks.Markov(fac, window=1, hidden_features=(), stationary=True)
    maximize(net, x)
    counts = torch.zeros(3, 3).index_put_(
        (x[:, :-1].flatten(), x[:, 1:].flatten()), torch.ones(40 * 29), accumulate=True
    )
    expected = counts / counts.sum(-1, keepdim=True)
    found = net(torch.tensor([[0, 0], [1, 0], [2, 0]]))[:, 1].softmax(-1)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)
    first = torch.bincount(x[:, 0], minlength=3) / 40
    torch.testing.assert_close(net(x[:1])[0, 0].softmax(-1), first, atol=2e-3, rtol=0)


class Trigram(nn.Module):
    """A table of logits, with a symbol of its own for what lies before the start."""

    def __init__(self, size):
        super().__init__()
        self.table = nn.Parameter(torch.randn(size + 1, size + 1, size))

    def forward(self, past, step):
        known = step.unsqueeze(-1) + torch.arange(2) >= 2
        first, second = torch.where(known, past, self.table.shape[-1]).unbind(-1)
        return self.table[first, second]


def test_a_table_is_an_n_gram_model():
    fac = ad.Factorization((4,), fam.Categorical(3))
    net = networks.Markov(fac, window=2, module=Trigram(3), stationary=True)
    ad.testing.check_normalized(net.condition())
    ad.testing.check_decoder(net)
    table = net.module.table.log_softmax(-1)
    found = net.condition().log_prob_blocks(torch.tensor([2, 0, 1, 1]))
    expected = torch.stack((table[3, 3, 2], table[3, 2, 0], table[2, 0, 1], table[0, 1, 1]))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", ["none", "vector", "blocks"])
def test_the_reverse_chain_of_a_diffusion(kind):
    fac = ad.Factorization(
        (6, 1, 8, 8), fam.Independent(fam.Normal(), (1, 8, 8)), partition=ad.Partition.along(0)
    )
    given = {"none": {}, "vector": {"context_shape": (3,)}, "blocks": {"context_shape": (6, 3)}}
    kinds = {"context_kind": "blocks"} if kind == "blocks" else {}
    module = Denoiser(6, context=0 if kind == "none" else 3)
    net = networks.Markov(fac, module=module, **given[kind], **kinds)
    context = torch.randn(2, *net.context_shape) if net.context_shape else None
    found = ad.testing.check_autoregressive(net, context)
    assert torch.equal(found.influence, torch.eye(6, dtype=torch.bool).roll(1, 0).tril(-1))
    assert found.context_reach == (None if kind == "none" else 1.0)
    ad.testing.check_decoder(net, context)
    p = net.condition(context)
    x = p.sample((3,))
    assert x.shape == (3, *p.batch_shape, 6, 1, 8, 8)
    blocks = p.log_prob_blocks(x)
    # The third image given the second.
    inputs = [x[..., 1, :, :, :].reshape(-1, 1, 1, 8, 8)]
    inputs.append(torch.full((len(inputs[0]),), 2))
    if context is not None:
        vectors = context[:, 2] if kind == "blocks" else context
        inputs.append(vectors.repeat(3, 1))
    params = module(*inputs).flatten(1)
    expected = fac.families[0](params).log_prob(x[..., 2, :, :, :].reshape(-1, 1, 8, 8))
    torch.testing.assert_close(blocks[..., 2].flatten(), expected)


@pytest.mark.parametrize("hidden_features", [(), (16,)])
def test_a_vector_for_each_block_goes_into_its_own_step(hidden_features):
    fac = series(4, ad.Ordering.permutation([2, 0, 3, 1]))
    net = networks.Markov(
        fac,
        window=2,
        hidden_features=hidden_features,
        context_shape=(4, 3),
        context_kind="blocks",
    )
    context, blocks = torch.randn(2, 4, 3), torch.randn(2, 4)
    ad.testing.check_decoder(net, context)
    changed = context.clone()
    changed[:, 1] += 1.0
    differs = (net(blocks, changed) != net(blocks, context)).any(-1)
    assert differs.tolist() == [[False, True, False, False]] * 2


def test_decoders_do_not_drop_out():
    net = networks.Markov(series(3), module=Recording(1, 2, dropout=0.5))
    x = torch.randn(6, 3)
    found = net.decoder(6).prefill(x[:, :2])
    assert net.module.dropout.training
    torch.testing.assert_close(found, net.eval()(x)[:, 2:])


def test_a_state_of_another_window_length_or_order_is_refused():
    def build(length=4, window=1, ordering=None):
        module = AutoRegression(3)  # which fits any of them
        return networks.Markov(series(length, ordering), window=window, module=module)

    net = build()
    for other, difference in [
        (build(window=2), "window is 2, here 1"),
        (build(length=5), r"grid_shape is \(5,\), here \(4,\)"),
        (build(ordering=ad.Ordering.reverse()), "ordering is"),
    ]:
        with pytest.raises(ValueError, match=f"made for another factorization; .*{difference}"):
            net.load_state_dict(other.state_dict())
    net.load_state_dict(build().state_dict())


def test_the_repr_shows_factorization_and_sizes():
    net = networks.Markov(series(5), window=3, hidden_features=(7,))
    text = repr(net)
    assert repr(net.factorization) in text
    assert "window=3, stationary=False" in text
    assert "weight=(3, 1, 7), steps=(5, 7)" in text
