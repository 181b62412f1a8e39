"""FromModule: GPT-2 of Hugging Face with its cache, and modules of a few lines without one."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from laws import assert_follows
from table import FACTORIZATIONS, TinyGPT
from torch import nn

import ardist as ad
from ardist import families as fam
from ardist import networks

START = 3  # of three tokens and a symbol in front of them
FAC = ad.Factorization((5,), fam.Categorical(3))


def gpt2(**options):
    """Randomly initialized, with weights large enough to matter."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        **{"vocab_size": 4, "n_positions": 8, "n_embd": 16, "n_layer": 2, "n_head": 2, **options},
        initializer_range=0.3,
        bos_token_id=START,
        eos_token_id=START,
    )
    return GPT2LMHeadModel(config).eval()


def build(factorization=FAC, **options):
    return networks.FromModule(gpt2(), factorization, **{"start": START, **options})


def record_lengths(monkeypatch, module):
    """The lengths of what a module is called with, as they come."""
    lengths, forward = [], module.forward

    def recorded(blocks, *args, **options):
        lengths.append(blocks.shape[1])
        return forward(blocks, *args, **options)

    monkeypatch.setattr(module, "forward", recorded)
    return lengths


@pytest.mark.parametrize("ordering", [None, ad.Ordering.permutation([2, 0, 4, 1, 3])])
def test_log_prob_is_that_of_the_shifted_logits(ordering):
    fac = ad.Factorization((5,), fam.Categorical(3), ordering=ordering)
    net = build(fac)
    x = torch.randint(3, (4, 5))
    drawn = x[:, fac.ranks.argsort()]
    inputs = torch.cat((torch.full((4, 1), START), drawn[:, :-1]), 1)
    logits = net.module(inputs).logits[..., :3]
    each = logits.log_softmax(-1).gather(-1, drawn.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(net.condition().log_prob(x), each.sum(-1))
    torch.testing.assert_close(net.condition().log_prob_blocks(x), each[:, fac.ranks])


@pytest.mark.parametrize("ordering", [None, ad.Ordering.random(1)])
def test_gpt2_is_autoregressive_and_its_cache_gives_the_same_numbers(ordering):
    net = build(ad.Factorization((6,), fam.Categorical(3), ordering=ordering))
    assert ad.testing.check_autoregressive(net).reach == 1.0
    ad.testing.check_decoder(net)
    ad.testing.check_decoder(net.double())


def test_the_cache_is_used(monkeypatch):
    net = build()
    lengths = record_lengths(monkeypatch, net.module.transformer)
    net.condition().sample((2,))
    assert lengths == [1] * 5
    lengths.clear()
    decoder = net.decoder(2)
    decoder.prefill(torch.zeros(2, 3, dtype=torch.int64))
    decoder.step(torch.zeros(2, 1, dtype=torch.int64))
    assert lengths == [4, 1]


def test_a_cache_is_selected_again_and_again():
    net, x = build(), torch.randint(3, (4, 5))
    decoder, params = net.decoder(4), net(x)
    decoder.prefill(x[:, :2])
    rows = torch.tensor([3, 3, 0, 1, 2, 0])
    decoder.select(rows)
    torch.testing.assert_close(decoder.step(x[rows, 2:3]), params[rows, 3:4])
    decoder.select(torch.tensor([2, 0]))
    torch.testing.assert_close(decoder.step(x[[0, 3], 3:4]), params[[0, 3], 4:5])


def test_probabilities_of_the_tokens_sum_to_one_and_samples_follow_them(float64):
    p = build().double().condition()
    ad.testing.check_normalized(p, tolerance=1e-9)
    assert_follows(p, p.sample((4000,)))


def test_round_trips_and_dtypes():
    net = build()
    p = net.condition()
    x = p.sample((3,))
    score = p.log_prob(x)
    other = build()
    other.load_state_dict(net.state_dict())
    for same in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), other):
        assert torch.equal(same.condition().log_prob(x), score)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = p.log_prob(p.sample((3,)))
        assert rough.isfinite().all()
        torch.testing.assert_close(p.log_prob(x), score, atol=0.3, rtol=0)
    # Of five terms, in float32 through layers of weights of about unit scale.
    wide = net.double().condition().log_prob(x)
    torch.testing.assert_close(wide.float(), score, atol=1e-4, rtol=1e-4)


def test_a_state_with_another_start_is_refused():
    net = build()
    with pytest.raises(ValueError, match=r"start is 0.0, here 3.0"):
        net.load_state_dict(build(start=0).state_dict())
    with pytest.raises(ValueError, match="shift is False, here True; start is None"):
        net.load_state_dict(build(shift=False).state_dict())


def test_any_length_up_to_the_modules_own():
    net = build()
    ad.testing.check_decoder(net, factorization=ad.Factorization((8,), fam.Categorical(3)))
    longer = ad.Factorization((9,), fam.Categorical(3))
    with pytest.raises(IndexError):
        ad.AutoregressiveDistribution(net, factorization=longer).sample()


def test_active_dropout_is_refused_in_draws_alone():
    net = build().train()
    p = net.condition()
    x = torch.zeros(5, dtype=torch.int64)
    assert not torch.equal(p.log_prob(x), p.log_prob(x))
    draws = [lambda: p.sample((2,)), p.sample_and_log_prob, lambda: net.decoder(2)]
    for draw in draws:
        with pytest.raises(ValueError, match=r"got Dropout at 'transformer\.drop'; call"):
            draw()
    net.eval()
    ad.testing.check_decoder(net)
    p.sample((2,))


@pytest.mark.parametrize(
    ("layer", "noisy"),
    [
        (lambda: nn.Dropout(0.5), True),
        (lambda: nn.Dropout(0.0), False),
        (lambda: nn.BatchNorm1d(4), True),
        (lambda: nn.LSTM(2, 2, num_layers=2, dropout=0.5), True),
        (lambda: nn.LSTM(2, 2), False),
        (lambda: nn.MultiheadAttention(2, 1, dropout=0.5), True),
    ],
)
@pytest.mark.parametrize("shift", [True, False])
def test_what_acts_otherwise_in_training(layer, noisy, shift):
    module = Strict()
    module.layer = layer()
    net = networks.FromModule(module, FACTORIZATIONS["normal-raster"], shift=shift)
    if noisy:
        with pytest.raises(ValueError, match=r"active dropout or batch norm.*call .eval\(\) first"):
            net.condition().rsample()
        with pytest.raises(ValueError, match="at 'layer'"):
            net.decoder(2)
    net.condition().log_prob(torch.zeros(4))
    net.eval()
    assert net.condition().reparameterized(torch.zeros(4)).requires_grad
    if not shift:  # its decoder gives the module whole events
        net.condition().rsample()


class NanoGPT(nn.Module):
    """In the manner of nanoGPT: logits for the next token, and no cache."""

    def __init__(self, num_tokens, length, width=16):
        super().__init__()
        self.token, self.place = nn.Embedding(num_tokens, width), nn.Embedding(length, width)
        self.attend = nn.Linear(width, 3 * width)
        self.head = nn.Linear(width, num_tokens)

    def forward(self, tokens):
        x = self.token(tokens) + self.place.weight[: tokens.shape[1]]
        x = x + F.scaled_dot_product_attention(*self.attend(x).chunk(3, -1), is_causal=True)
        return self.head(x), None  # as nanoGPT's loss


def test_a_module_without_a_cache_is_given_the_prefix(monkeypatch):
    net = networks.FromModule(NanoGPT(3, 5), FAC)  # starts with the token 0
    assert ad.testing.check_autoregressive(net).reach == 1.0
    ad.testing.check_decoder(net)
    ad.testing.check_normalized(net.condition())
    lengths = record_lengths(monkeypatch, net.module)
    net.condition().sample((2,))
    assert lengths == [1, 2, 3, 4, 5]
    lengths.clear()
    net.decoder(2).prefill(torch.zeros(2, 3, dtype=torch.int64))
    assert lengths == [4]


class Strict(nn.Module):
    """A masked linear map: it needs all of an event, and an output does not see its own block."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4, 2))

    def forward(self, blocks):
        return F.linear(blocks, self.weight.tril(-1)).unsqueeze(-1) + self.bias


def test_a_strictly_causal_module_is_not_shifted():
    fac = FACTORIZATIONS["normal-permutation"]
    net = networks.FromModule(Strict(), fac, shift=False, check=True)
    assert ad.testing.check_autoregressive(net).reach == 1.0
    ad.testing.check_decoder(net)
    net.condition().rsample((3,)).sum().backward()
    assert net.module.bias.grad.abs().sum() > 0


@pytest.mark.parametrize("shift", [True, False])
def test_dropout_that_cannot_be_seen_is_turned_off_in_decoders(shift):
    class Hidden(Strict):
        def forward(self, blocks):
            return F.dropout(super().forward(blocks), 0.5, self.training)

    class Inclusive(nn.Linear):
        def forward(self, blocks):
            return F.dropout(super().forward(blocks.unsqueeze(-1)), 0.5, self.training)

    module = Inclusive(1, 2) if shift else Hidden()
    net = networks.FromModule(module, FACTORIZATIONS["normal-raster"], shift=shift)
    x = torch.randn(20, 4)
    found = net.decoder(20).prefill(x[:, :3])
    assert module.training
    assert not found.requires_grad
    torch.testing.assert_close(found, net.eval()(x)[:, 3:].detach())


def test_a_leak_is_named_on_request():
    module, fac = NanoGPT(3, 5), FAC
    networks.FromModule(module, fac, shift=False)  # not asked
    message = (
        r"module: 5 leaks: the parameters of block \(0,\) \(rank 0\) react to block \(0,\) "
        r"\(rank 0\), on which they may not depend; an inclusive module needs shift=True"
    )
    with pytest.raises(ad.testing.CheckError, match=message):
        networks.FromModule(module, fac, shift=False, check=True)
    blind = nn.Sequential(nn.Embedding(3, 4), nn.Conv1d(5, 5, 1), nn.Linear(4, 3))
    with pytest.raises(ValueError, match=r"10 leaks: .* react to block \(0,\)") as error:
        networks.FromModule(blind, fac, check=True)
    assert "shift" not in str(error.value)


def test_blocks_that_are_vectors_start_with_a_vector():
    pair = fam.Independent(fam.Normal(), (2,))
    fac = ad.Factorization((2, 2), pair, partition=ad.Partition.along(1))
    start = torch.tensor([1.0, -1.0])
    net = networks.FromModule(TinyGPT(fac), fac, start=start)
    x = torch.randn(3, 2, 2)
    inputs = torch.stack((start.expand(3, 2), x[:, :, 0]), 1)  # a block is a column
    torch.testing.assert_close(net(fac.split(x)), net.module(inputs))
    assert torch.equal(networks.FromModule(TinyGPT(fac), fac, start=2).start, torch.full((2,), 2.0))


def test_the_module_is_given_a_context_for_each_row():
    fac = FACTORIZATIONS["normal-reverse"]
    module = TinyGPT(fac, (3,))
    net = networks.FromModule(module, fac, context_shape=(3,), check=True)
    context, x = torch.randn(2, 3), torch.randn(6, 4)
    inputs = torch.cat((torch.zeros(6, 1), x.flip(1)[:, :-1]), 1)
    expected = module(inputs, context.repeat(3, 1)).flip(1)
    torch.testing.assert_close(net(x, context), expected)


def test_the_repr_shows_factorization_and_module():
    text = repr(build())
    assert repr(FAC) in text
    assert "shift=True, start=3" in text
    assert "(wte): Embedding(4, 16)" in text
