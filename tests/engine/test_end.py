"""Sequences that end: what follows the end is padding, with probability one."""

import pytest
import torch
from laws import assert_frequencies
from table import GPT, NETWORKS, random_made

import ardist as ad
from ardist import families as fam
from ardist import networks, rollout, rules

ORDERS = [ad.Ordering.raster(), ad.Ordering.reverse(), ad.Ordering.permutation([2, 0, 3, 1])]


def build(ordering, end=2, pad=None, size=4):
    torch.manual_seed(0)
    fac = ad.Factorization(size, fam.Categorical(3), ordering=ordering, end=end, pad=pad)
    return random_made(fac, hidden_features=16).condition()


@pytest.mark.parametrize("ordering", ORDERS, ids=repr)
@pytest.mark.parametrize(("end", "pad"), [(2, None), (0, 1), (1, 0)])
def test_probabilities_are_those_of_the_free_sequence_up_to_its_end(ordering, end, pad):
    p = build(ordering, end, pad)
    fac = p.factorization
    free = ad.Factorization(4, fam.Categorical(3), ordering=ordering)
    torch.manual_seed(0)
    q = random_made(free, hidden_features=16).condition()
    states = p.enumerate_support()
    assert len(states) == fac.num_states == 1 + 2 + 4 + 8 + 16
    assert len(states.unique(dim=0)) == len(states)
    assert p.support.check(states).all()
    assert p.log_prob(states).exp().sum().item() == pytest.approx(1)
    # By hand, one sequence at a time.
    every = q.enumerate_support()
    order = ordering.ranks(fac.grid_shape).argsort()
    blocks = q.log_prob_blocks(every)
    for event, scores in zip(every, blocks, strict=True):
        drawn = event[order].tolist()
        length = drawn.index(end) + 1 if end in drawn else 4
        expected = scores[order][:length].sum()
        if any(symbol != fac.pad for symbol in drawn[length:]):
            assert not p.support.check(event)
            with pytest.raises(ValueError, match=f"value: expected pad {fac.pad} in block"):
                p.log_prob(event)
            p._validate_args = False
            assert p.log_prob(event) == -torch.inf
            p._validate_args = True
        else:
            torch.testing.assert_close(p.log_prob(event), expected)


@pytest.mark.parametrize("ordering", ORDERS, ids=repr)
@pytest.mark.parametrize(("end", "pad"), [(2, None), (1, 0)])
def test_conditionals_are_certain_after_the_end(ordering, end, pad):
    p = build(ordering, end, pad)
    states = p.enumerate_support()
    each = p.conditionals(states)
    assert each.batch_shape == (31, 4)
    torch.testing.assert_close(each.log_prob(states).sum(-1), p.log_prob(states))
    torch.testing.assert_close(each.probs.sum(-1), torch.ones(31, 4))
    columns = ad.Factorization(
        2, [fam.Categorical(3), fam.Bernoulli()], end=1, ordering=ad.Ordering.reverse()
    )
    q = random_made(columns, hidden_features=8).condition()
    x = q.enumerate_support()
    scores = [
        one.log_prob(value) for one, value in zip(q.conditionals(x), x.unbind(-1), strict=True)
    ]
    torch.testing.assert_close(sum(scores), q.log_prob(x))


ENDED = [
    fam.Bernoulli(),
    fam.Mixture(fam.Categorical(3), 2),
    fam.TopK(fam.Categorical(3), 2),
    fam.DiscretizedLogisticMixture(2, bins=3),
]


@pytest.mark.parametrize("families", [*ENDED, ENDED[:3]], ids=str)
def test_conditionals_of_every_family_of_indices(families):
    """Those that torch's distributions do not enumerate, too."""
    torch.manual_seed(0)
    fac = ad.Factorization(3, families, end=1, pad=0)
    p = random_made(fac, hidden_features=16).condition()
    states = p.enumerate_support()
    each = p.conditionals(states)
    if not fac.is_uniform:
        scores = sum(one.log_prob(v) for one, v in zip(each, states.unbind(-1), strict=True))
    else:
        scores = each.log_prob(states).sum(-1)
    torch.testing.assert_close(scores, p.log_prob(states))
    scores = torch.zeros(20)
    for step in ad.sampling.ancestral(p, (20,)):
        one, value = step.conditional, step.value
        if not fac.is_uniform:
            (one,), (value,) = one, value
        scores = scores + one.log_prob(value).reshape(20)
    torch.testing.assert_close(scores, p.log_prob(step.event))


def test_what_is_given_may_have_ended():
    p = build(ad.Ordering.raster())
    prefix = torch.tensor([True, True, False, False])
    states = p.enumerate_support()
    for start in ([0, 1], [0, 2], [2, 2]):
        value = torch.tensor([*start, 0, 0])
        agree = (states[:, :2] == value[:2]).all(-1)
        expected = torch.where(agree, p.log_prob(states).exp(), 0.0)
        q = p.given(value, prefix)
        torch.testing.assert_close(q.log_prob(states).exp(), expected / expected.sum())
        if 2 in start:
            assert q.sample((5,)).eq(torch.tensor([*start, 2, 2])).all()
    with pytest.raises(ValueError, match="value: expected pad 2 in block"):
        p.given(torch.tensor([2, 0, 0, 0]), prefix)


class Counting(networks.ConditionalNetwork):
    """Ends at once, and counts how often it is asked."""

    calls = 0

    def forward(self, blocks, context=None, ranks=None):
        self.calls += 1
        return torch.tensor([-50.0, -50.0, 50.0]).expand(*blocks.shape, 3)


def test_sampling_stops_when_all_have_ended():
    net = Counting(ad.Factorization(100, fam.Categorical(3), end=2, pad=0))
    x = net.condition().sample((7,))
    assert net.calls <= 2  # of which one tells that nothing changes
    assert x[:, 0].eq(2).all()
    assert x[:, 1:].eq(0).all()
    window = build(ad.Ordering.raster(), size=100)
    with torch.no_grad():
        window.network.head.bias.copy_(torch.tensor([-50.0, -50.0, 50.0]).repeat(100))
    assert window.sample((7,)).eq(2).all()


def test_a_draw_that_asks_rarely_whether_it_has_ended_is_the_same(monkeypatch):
    torch.manual_seed(0)
    net = networks.RNN(ad.Factorization(100, fam.Categorical(3), end=2, pad=0), hidden_size=8)
    draws, asked, rest = [], [], rules.End.rest
    monkeypatch.setattr(rules.End, "rest", lambda *args: asked.append(args) or rest(*args))
    for every in (1, 16):
        monkeypatch.setattr(rollout, "steps_per_check", lambda _, every=every: every)
        torch.manual_seed(1)
        asked.clear()
        draws.append(net.condition().sample((20,)))
    assert torch.equal(*draws)
    last = int(draws[0].eq(2).int().argmax(1).max())
    assert len(asked) == last // 16 + 1


def test_another_length_and_order_keep_the_end():
    fac = ad.Factorization(5, fam.Categorical(3), end=0)
    net = networks.RNN(fac, hidden_size=8)
    p = ad.AutoregressiveDistribution(
        net, factorization=ad.Factorization(9, fam.Categorical(3), end=0)
    )
    assert p.support.check(p.sample((20,))).all()
    # The end is the distribution's, not the network's.
    free = ad.AutoregressiveDistribution(net, factorization=ad.Factorization(5, fam.Categorical(3)))
    x = free.sample((50,))
    assert not fac.support.check(x).all()
    assert free.log_prob(x).isfinite().all()
    gpt = networks.Transformer(fac, **GPT).condition()
    turned = gpt.with_ordering(ad.Ordering.reverse())
    x = turned.sample((50,))
    assert turned.support.check(x).all()
    assert x[x[:, -1] == 0].eq(0).all()
    rows = gpt.with_ordering(torch.tensor([[0, 1, 2, 3, 4], [4, 3, 2, 1, 0]]))
    x = rows.sample((50,))
    assert rows.support.check(x).all()
    assert rows.log_prob(x).isfinite().all()
    torch.testing.assert_close(rows.log_prob(x)[:, 1], turned.log_prob(x[:, 1]))


def test_the_end_is_part_of_the_value():
    fac = ad.Factorization(4, fam.Categorical(3), end=2, pad=0)
    assert repr(fac) == "Factorization((4,), Categorical(3), end=2, pad=0)"
    assert fac != ad.Factorization(4, fam.Categorical(3))
    assert fac != ad.Factorization(4, fam.Categorical(3), end=2)
    assert ad.Factorization(4, fam.Categorical(3), end=2).pad == 2
    assert fac.with_ordering(ad.Ordering.reverse()).end == 2
    assert fac.with_families(fam.Categorical(4)).pad == 0


@pytest.mark.parametrize("network", ["made", "plain", "rnn-gru"])
def test_rows_that_end_at_different_places_in_what_is_given(network, float64):
    """Ends that are observed pad what follows; what is observed is never padded."""
    torch.manual_seed(0)
    fac = ad.Factorization(4, fam.Categorical(3), end=2, pad=0)
    net = NETWORKS[network](fac).double()
    masks = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]]).bool()
    values = torch.tensor([[1, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]])
    p = net.condition().given(values, masks)
    x = p.sample((2000,))
    assert p.log_prob(x).isfinite().all()
    states = net.condition().enumerate_support()
    for row in range(4):
        counts = (x[:, row].unsqueeze(1) == states).all(-1).sum(0)
        assert_frequencies(counts, p.log_prob(states.unsqueeze(1))[:, row].exp())
