"""Rules: which values a block may have, given the blocks drawn before it."""

import copy
import itertools
import pickle
from typing import NamedTuple

import pytest
import torch
from fuzz_rules import Balanced
from laws import assert_follows
from table import NETWORKS

import ardist as ad
from ardist import families as fam
from ardist import networks, rules
from ardist.drawing_order import DrawingOrder

BIT, SYMBOL = fam.Bernoulli(), fam.Categorical(3)
ORDERS = {
    "raster": ad.Ordering.raster(),
    "permuted": ad.Ordering.permutation([2, 0, 3, 1]),
}
EDGES = torch.tensor([[0, 1, 1], [1, 0, 0], [0, 1, 1]])
CITIES = torch.tensor([[0, 1, 1, 0], [1, 0, 1, 1], [1, 1, 0, 1], [0, 1, 1, 0]])


def is_balanced(drawn):
    depths = list(itertools.accumulate(1 - 2 * bit for bit in drawn))
    return min(depths) >= 0 and depths[-1] == 0


def is_padded(drawn):
    after = drawn[drawn.index(2) + 1 :] if 2 in drawn else []
    return all(symbol == 0 for symbol in after)


class Case(NamedTuple):
    """A rule, the families of four blocks, and whether the blocks in drawing order follow it."""

    rule: rules.Rule
    families: object
    follows: object


CASES = {
    "end": Case(rules.End(2, pad=0), SYMBOL, is_padded),
    "distinct": Case(rules.Distinct(), fam.Categorical(4), lambda x: len(set(x)) == 4),
    "bits": Case(rules.Sum(2), BIT, lambda x: sum(x) == 2),
    "sum": Case(rules.Sum(5), SYMBOL, lambda x: sum(x) == 5),
    "parity": Case(rules.Automaton([[0, 1], [1, 0]], {0}), BIT, lambda x: sum(x) % 2 == 0),
    "walk": Case(
        rules.Automaton.walk(EDGES, start=0, stop=2),
        SYMBOL,
        lambda x: x[0] == 0 and x[-1] == 2 and all(EDGES[a, b] for a, b in itertools.pairwise(x)),
    ),
    "regex": Case(
        rules.Automaton.regex("a(b|c)*", "abc", end=2),
        SYMBOL,
        lambda x: is_word(x),
    ),
    "path": Case(
        rules.All(rules.Distinct(), rules.Automaton.walk(CITIES)),
        fam.Categorical(4),
        lambda x: len(set(x)) == 4 and all(CITIES[a, b] for a, b in itertools.pairwise(x)),
    ),
    "bits-that-end": Case(
        rules.All(rules.Sum(3), rules.End(2, pad=0)),
        SYMBOL,
        lambda x: sum(x) == 3 and is_padded(x),
    ),
    "brackets": Case(Balanced(), BIT, is_balanced),
    "brackets-of-symbols": Case(Balanced(), fam.Categorical(2), is_balanced),
    "mixture": Case(rules.Sum(5), fam.Mixture(SYMBOL, 2), lambda x: sum(x) == 5),
    "mixed": Case(
        rules.Sum(4),
        [SYMBOL, BIT, fam.Categorical(2), fam.Categorical(4)],
        lambda x: sum(x) == 4,
    ),
    "tempered": Case(rules.Sum(2), fam.Tempered(BIT, 0.5), lambda x: sum(x) == 2),
    "likely": Case(rules.Distinct(), fam.TopK(fam.Categorical(5), 4), lambda x: len(set(x)) == 4),
}  # fmt: skip


def is_word(drawn):
    """An `a`, then any number of `b`, then the end and padding, both c; or no end."""
    text = "".join("abc"[symbol] for symbol in drawn)
    return text[0] == "a" and set(text[1:].rstrip("c")) <= {"b"}


def fitting(name):
    case = CASES[name]
    is_uniform = isinstance(case.families, fam.Family)
    skipped = set() if is_uniform else {"markov", "foreign", "masked-module", "pixelcnn"}
    quick = (
        "made",
        "rnn-gru",
        "transformer-plain",
        "transformer",
        "unshared",
        "masked",
        "foreign",
        "plain",
        "markov",
        "wavenet",
    )
    return [network for network in quick if network not in skipped]


PAIRS = [
    (name, order, network)
    for name in CASES
    for order in ORDERS
    for network in fitting(name)
    if network == "made"
    or (order == "permuted" and name in ("distinct", "bits", "walk", "brackets-of-symbols"))
]


def build(factorization, network="made"):
    torch.manual_seed(0)
    net = NETWORKS[network](factorization).double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return net


def drawn(fac, x):
    """The numbers of an event in the order of drawing."""
    order = fac.ranks.flatten().argsort()
    return [int(number) for number in x.flatten()[order]]


def of_case(name, order):
    case = CASES[name]
    return ad.Factorization(4, case.families, ordering=ORDERS[order], rule=case.rule)


@pytest.mark.parametrize(("name", "order", "network"), PAIRS)
def test_it_is_an_exact_distribution_on_the_events_that_follow_the_rule(
    name, order, network, float64
):
    fac = of_case(name, order)
    net = build(fac, network)
    p = net.condition(validate_args=False)
    every = fac.replace(rule=None).enumerate_support()
    follows = torch.tensor([CASES[name].follows(drawn(fac, x)) for x in every])
    scores = p.log_prob(every)
    is_truncated = isinstance(fac.families[0], fam.TopK)
    assert torch.equal(scores > -torch.inf, follows) or is_truncated
    assert not (scores > -torch.inf)[~follows].any()
    assert scores.exp().sum().item() == pytest.approx(1)
    assert torch.equal(p.support.check(every), follows)
    # By hand: the conditionals without the rule, masked and normalized.
    free = p.with_rule(None)
    assert p.factorization.num_states == int(follows.sum())
    states = p.enumerate_support()
    assert sorted(states.tolist()) == sorted(every[follows].tolist())
    if not is_truncated and name not in ("end",):
        torch.testing.assert_close(p.log_prob(states), by_hand(free, states, every[follows]))
    x = p.sample((2000,))
    assert_follows(p, x, every)
    # Gradients, also of events that do not follow the rule.
    p.log_prob_blocks(every).clamp(min=-1e3).sum().backward()
    assert all(part.grad is None or part.grad.isfinite().all() for part in net.parameters())


def by_hand(free, states, allowed):
    """The product of conditionals over the values that some allowed event has after a prefix."""
    fac = free.factorization
    order = fac.ranks.flatten().argsort().tolist()
    sizes = [family.enumerate_support() for family in fac.layout.families]
    total = torch.zeros(states.shape[0])
    with torch.no_grad():
        blocks = free.log_prob_blocks(states)
        for number, block in enumerate(order):
            before = order[:number]
            mass = torch.zeros(states.shape[0])
            for value in sizes[block].to(states.dtype):
                other = states.clone()
                other[:, block] = value
                same = (other[:, None, before] == allowed[None, :, before]).all(-1)
                possible = (same & (allowed[None, :, block] == value)).any(1)
                mass += free.log_prob_blocks(other)[:, block].exp() * possible
            total += blocks[:, block] - mass.log()
    return total


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("order", ORDERS)
def test_searches_and_other_ways_to_draw_follow_the_rule(name, order, float64):
    fac = of_case(name, order)
    p = build(fac).condition()
    count = fac.num_states
    x, scores = ad.sampling.beam_search(p, count)
    torch.testing.assert_close(p.log_prob(x), scores)
    assert scores.exp().sum().item() == pytest.approx(1)
    best, score = ad.sampling.greedy(p)
    torch.testing.assert_close(p.log_prob(best), score)
    assert torch.equal(best, p.mode)
    different = ad.sampling.without_replacement(p, 5)[0]
    assert different.unique(dim=0).shape[0] == different.shape[0]
    assert p.support.check(different).all()
    if fac.conditionals.has_noise:
        x, passes = ad.sampling.fixed_point(p, (2000,))
        assert_follows(p, x)
        assert passes <= 4
    total = torch.zeros(20)
    for step in ad.sampling.ancestral(p, (20,)):
        one, value = step.conditional, step.value
        if isinstance(one, tuple):
            (one,), (value,) = one, value
        total = total + one.log_prob(value).reshape(20)
    torch.testing.assert_close(total, p.log_prob(step.event))
    each = p.conditionals(step.event)
    if isinstance(each, tuple):
        scores = [
            part.log_prob(value) for part, value in zip(each, step.event.unbind(-1), strict=True)
        ]
        torch.testing.assert_close(sum(scores), p.log_prob(step.event))
    else:
        torch.testing.assert_close(each.log_prob(step.event).sum(-1), p.log_prob(step.event))


@pytest.mark.parametrize("name", CASES)
def test_what_is_given_is_followed(name, float64):
    fac = of_case(name, "permuted")
    p = build(fac).condition()
    states = p.enumerate_support()
    mask = fac.ranks < 2
    value = states[0]
    agree = (states[:, mask] == value[mask]).all(-1)
    expected = torch.where(agree, p.log_prob(states).exp(), 0.0)
    q = p.given(value, mask)
    torch.testing.assert_close(q.log_prob(states).exp(), expected / expected.sum())
    assert_follows(q, q.sample((500,)), states)
    kept = p.marginal(mask)
    torch.testing.assert_close(kept.log_prob(value[mask]).exp(), expected.sum())
    assert (states[:, None, mask] == kept.sample((50,))).all(-1).any(0).all()
    # Rows in which different prefixes are observed.
    rows = torch.stack([fac.ranks < number for number in range(4)])
    x = p.given(states[:4] if len(states) > 3 else states[:1].expand(4, -1), rows).sample((50,))
    assert p.support.check(x).all()


# Columns.

ONE, THREE = {"a": BIT, "b": SYMBOL, "c": fam.Categorical(4)}, {"a": BIT, "b": BIT, "c": BIT}
COLUMNS = {
    "within": (rules.Within(b={0, 2}, c=(1, None)), ONE, lambda a, b, c: b != 1 and c >= 1),
    "when": (
        rules.When("a", {1}, b=1, c=3), ONE, lambda a, b, c: a == 1 or (b, c) == (1, 3)
    ),
    "both": (
        rules.All(rules.Within(c={1, 3}), rules.When("a", {1}, b=1)),
        ONE,
        lambda a, b, c: (a == 1 or b == 1) and c in (1, 3),
    ),
    "a-trigger-that-is-limited": (
        rules.All(rules.Within(a={0}), rules.When("a", {1}, b=0)),
        THREE,
        lambda a, b, c: (a, b) == (0, 0),
    ),
    "two-of-one-family": (
        rules.All(rules.Within(a={0}), rules.Within(c={1})),
        THREE,
        lambda a, b, c: (a, c) == (0, 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("network", ["made", "rnn-gru", "transformer", "unshared", "masked"])
@pytest.mark.parametrize("name", COLUMNS)
def test_rules_about_columns(name, network, float64):
    rule, columns, follows = COLUMNS[name]
    fac = ad.Factorization.columns(columns, rule=rule)
    p = build(fac, network).condition(validate_args=False)
    every = fac.replace(rule=None).enumerate_support()
    wanted = torch.tensor([bool(follows(*event)) for event in every.tolist()])
    scores = p.log_prob(every)
    assert torch.equal(scores > -torch.inf, wanted)
    assert torch.equal(p.support.check(every), wanted)
    assert scores.exp().sum().item() == pytest.approx(1)
    assert sorted(fac.enumerate_support().tolist()) == sorted(every[wanted].tolist())
    assert fac.num_states == int(wanted.sum())
    assert_follows(p, p.sample((2000,)), every)
    if fac.conditionals.has_noise:
        assert_follows(p, ad.sampling.fixed_point(p, (2000,))[0], every)


@pytest.mark.parametrize(
    ("family", "empty", "least"),
    [
        (fam.Poisson(), (0.2, 0.8), (0.2, 1.0)),
        (fam.Rounded(fam.Normal()), (-0.8, -0.2), (-1.0, -0.2)),
        (fam.Hurdle((-5, -1), fam.LogNormal()), (-4.0, -2.0), (-4.0, -1.0)),
        (fam.Mixture(fam.Hurdle((-5,), fam.Poisson()), 2), (0.2, 0.8), (-6.0, -5.0)),
    ],
    ids=str,
)
def test_limits_between_the_values_of_a_family_are_refused(family, empty, least, float64):
    with pytest.raises(ValueError, match=r"^a: expected values of .*: no event follows Within"):
        ad.Factorization.columns(a=family, rule=rules.Within(a=empty))
    p = build(ad.Factorization.columns(a=family, rule=rules.Within(a=least))).condition()
    x = p.sample((5,))
    assert ((least[0] <= x) & (x <= least[1])).all()
    assert p.log_prob(x).isfinite().all()


def test_blocks_in_one_step_may_be_limited(float64):
    fac = ad.Factorization.columns(
        ONE, ordering=ad.Ordering.from_ranks([1, 0, 0]), rule=rules.Within(b={0, 2}, a={1})
    )
    p = build(fac).condition()
    assert_follows(p, p.sample((2000,)))
    assert p.log_prob(fac.enumerate_support()).exp().sum().item() == pytest.approx(1)
    tied = ad.Ordering.from_ranks([0, 1, 1])
    fac = ad.Factorization.columns(ONE, ordering=tied, rule=rules.When("a", {1}, b=1, c=0))
    p = build(fac).condition()
    assert_follows(p, p.sample((2000,)))


# Real blocks.


def integral(density, low, high):
    x = torch.linspace(low, high, 20001)[1:-1]
    return torch.trapezoid(density(x), x).item()


@pytest.mark.parametrize("network", ["made", "rnn-gru"])
def test_intervals_of_reals(network, float64):
    fac = ad.Factorization.columns(
        a=fam.Normal(),
        b=fam.Gamma(),
        c=fam.Poisson(),
        d=fam.Mixture(fam.Laplace(), 2),
        rule=rules.Within(a=(0.5, 1.5), b=(0.5, None), c=(1, 3), d=(None, 0.0)),
    )
    p = build(fac, network).condition(validate_args=False)
    x = p.sample((500,))
    assert p.support.check(x).all()
    assert p.log_prob(x).isfinite().all()
    each = p.conditionals(x[:1].expand(20001 - 2, 4))
    ends = {"a": (0.5, 1.5), "b": (0.5, 60.0), "d": (-60.0, 0.0)}
    for name, (low, high) in ends.items():
        total = integral(lambda v, own=each[name]: own.log_prob(v).exp(), low, high)
        assert total == pytest.approx(1, abs=5e-3)
        outside = torch.full((19999,), low - 0.1)
        if name != "d":
            assert (each[name].log_prob(outside) == -torch.inf).all()
    counts = torch.arange(5.0).reshape(5, 1).expand(5, 19999)
    probs = each["c"].log_prob(counts).exp()[:, 0]
    assert probs[[0, 4]].eq(0).all()
    assert probs.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("network", ["made", "rnn-gru", "transformer"])
def test_a_constant_outside_the_support_is_certain(network, float64):
    rule = rules.When("works", {1}, income=0.0, score=0.0)
    fac = ad.Factorization.columns(works=BIT, income=fam.LogNormal(), score=fam.Normal(), rule=rule)
    net = build(fac, network)
    p = net.condition()
    x = p.sample((500,))
    works = x[:, 0] == 1
    assert torch.equal(x[:, 1] > 0, works)
    assert x[~works, 1:].eq(0).all()
    blocks = p.log_prob_blocks(x)
    assert blocks[~works, 1:].eq(0).all()
    blocks.sum().backward()
    assert all(part.grad.isfinite().all() for part in net.parameters() if part.grad is not None)
    # The total mass: of those who do not work, and the density of the others.
    off = p.log_prob(torch.zeros(3)).exp()
    first = p.conditionals(x[works][:1].expand(19999, 3))
    on = first["works"].log_prob(torch.ones(19999))[0].exp()
    assert (off + on).item() == pytest.approx(1)
    total = integral(lambda t: (first["income"].log_prob(t.exp()) + t).exp(), -40.0, 40.0)
    assert total == pytest.approx(1, abs=1e-3)
    with pytest.raises(ValueError, match=r"income.* to be its constant under When"):
        p.log_prob(torch.tensor([0.0, 1.0, 0.0]))
    u = ad.transforms.Rosenblatt(p).randomized(x)
    torch.testing.assert_close(ad.transforms.Rosenblatt(p).inv(u), x)


@pytest.mark.parametrize("family", [fam.Normal(), fam.Gamma(), fam.Exponential()], ids=repr)
@pytest.mark.parametrize("network", ["made", "rnn-gru", "transformer"])
def test_reals_add_up(family, network, float64):
    fac = ad.Factorization(3, family, rule=rules.Sum(1.5))
    p = build(fac, network).condition(validate_args=False)
    x = p.sample((500,))
    torch.testing.assert_close(x.sum(-1), torch.full((500,), 1.5))
    assert p.log_prob(x).isfinite().all()
    assert p.log_prob_blocks(x)[:, -1].eq(0).all()
    assert p.log_prob(x + 0.1).eq(-torch.inf).all()
    # The density of the first two integrates to one, with the third one certain.
    s, u = (
        part.flatten()
        for part in torch.meshgrid(*[torch.linspace(-20, 20, 121)] * 2, indexing="ij")
    )
    if family == fam.Normal():
        a, b, slope = s, u, torch.ones(())
    else:  # parts of the total, by logistic functions
        a = 1.5 * s.sigmoid()
        b = (1.5 - a) * u.sigmoid()
        slope = a * (-s).sigmoid() * b * (-u).sigmoid()
    density = p.log_prob(torch.stack((a, b, 1.5 - a - b), -1)).exp() * slope
    assert density.sum().item() / 9 == pytest.approx(1, abs=0.01)


GRADIENTS = {
    "interval": ad.Factorization.columns(
        a=fam.Normal(), b=fam.Gamma(), c=fam.Laplace(), rule=rules.Within(a=(0.5, 1.5), b=(None, 2))
    ),
    "sum": ad.Factorization(3, fam.Normal(), rule=rules.Sum(3.0)),
    "positive": ad.Factorization(
        3, fam.Gamma(), rule=rules.Sum(2.0), ordering=ad.Ordering.permutation([2, 0, 1])
    ),
}  # fmt: skip


@pytest.mark.parametrize("network", ["made", "rnn-gru", "transformer"])
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_through_draws_are_differences_under_common_noise(name, network, float64):
    fac = GRADIENTS[name]
    net = build(fac, network)
    parameters = list(net.parameters())
    direction = [torch.randn_like(part) for part in parameters]
    weights = torch.arange(1.0, 4)

    def outcome(x):
        return (weights * x).sum() + x.square().sum() / 2

    def moved(step):
        with torch.no_grad():
            for part, way in zip(parameters, direction, strict=True):
                part.add_(step * way)
            torch.manual_seed(5)
            p = net.condition()
            x = p.sample((10,))
            result = outcome(x) + p.log_prob(x).sum() / 10
            for part, way in zip(parameters, direction, strict=True):
                part.sub_(step * way)
        return result

    torch.manual_seed(5)
    x, score = net.condition().rsample_and_log_prob((10,))
    (outcome(x) + score.sum() / 10).backward()
    found = sum(
        (part.grad * way).sum()
        for part, way in zip(parameters, direction, strict=True)
        if part.grad is not None
    )
    # Draws by inverse CDFs are as smooth as their numbers: a larger step than of a smooth function.
    expected = (moved(1e-4) - moved(-1e-4)) / 2e-4
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [0, 2, 1]])
@pytest.mark.parametrize("inner", [fam.Bernoulli(), fam.Hurdle((0,), fam.Poisson())], ids=str)
def test_sums_of_integers_and_reals_end_in_a_real(inner, order, float64):
    """Every draw can be completed, or the order is refused."""
    fac = ad.Factorization(
        3, [fam.Normal(), inner, fam.Exponential()], ordering=ad.Ordering.permutation(order)
    )
    if order[-1] == 1:
        with pytest.raises(ValueError, match="rule: expected a real block last"):
            fac.replace(rule=rules.Sum(2.5))
        return
    p = build(fac.replace(rule=rules.Sum(2.5))).condition()
    x = p.sample((200,))
    torch.testing.assert_close(x.sum(-1), torch.full((200,), 2.5))
    assert p.log_prob(x).isfinite().all()


def test_sums_of_reals_in_single_precision():
    torch.manual_seed(0)
    for family, total in ((fam.Normal(), 0.3), (fam.Exponential(), 100.0)):
        fac = ad.Factorization(6, family, rule=rules.Sum(total))
        p = networks.MADE(fac, hidden_features=16).condition()
        x = p.sample((3000,))
        assert p.log_prob(x).isfinite().all()
        x[:, -1] = total - x[:, :-1].flip(-1).sum(-1)  # rounded in another order
        inside = p.support.check(x)
        assert inside.double().mean() > 0.9
        assert p.log_prob(x[inside]).isfinite().all()


# Everything of a distribution.


def test_local_is_not_global(float64):
    """Normalizing at each step is another distribution than conditioning on the rule."""
    p = build(ad.Factorization(4, fam.Categorical(4))).condition()
    local = p.with_rule(rules.Distinct())
    tours = local.enumerate_support()
    weights = p.log_prob(tours).exp()
    apart = (local.log_prob(tours).exp() - weights / weights.sum()).abs().sum() / 2
    assert 0.05 < apart < 0.95


def test_the_rule_may_be_put_on_and_taken_off():
    p = build(ad.Factorization(4, BIT)).condition()
    q = p.with_rule(rules.Sum(2))
    assert (q.factorization.rule, q.factorization.num_states) == (rules.Sum(2), 6)
    assert q.has_enumerate_support
    assert q.with_rule(None).factorization == p.factorization
    x = q.sample((50,))
    torch.testing.assert_close(q.with_rule(None).log_prob(x), p.log_prob(x))
    given = p.given(torch.tensor([1.0, 1, 0, 0]).double(), torch.tensor([True, True, False, False]))
    assert given.with_rule(rules.Sum(2)).sample().tolist() == [1, 1, 0, 0]
    with pytest.raises(ValueError, match=r"value: expected block .* to follow Sum"):
        given.with_rule(rules.Sum(1))
    turned = build(ad.Factorization(4, BIT), "transformer").condition().with_rule(rules.Sum(2))
    turned = turned.with_ordering(ad.Ordering.reverse())
    assert turned.sample((20,)).sum(-1).eq(2).all()
    assert turned.expand((3,)).sample((20,)).shape == (20, 3, 4)


@pytest.mark.parametrize(
    "rule", [rules.Distinct(), rules.Automaton.walk(1 - torch.eye(4))], ids=repr
)
def test_rows_with_orders_of_their_own(rule, float64):
    fac = ad.Factorization(4, fam.Categorical(4), rule=rule)
    p = build(fac, "transformer").condition()
    ranks = torch.tensor([[0, 1, 2, 3], [3, 1, 0, 2]])
    rows = p.with_ordering(ranks)
    assert rows.has_enumerate_support != rule.depends_on_order
    assert rows.with_ordering(ad.Ordering.raster()).has_enumerate_support
    x = rows.sample((300,))
    assert rows.support.check(x).all()
    for row in range(2):
        one = p.with_ordering(ad.Ordering.from_ranks(ranks[row]))
        torch.testing.assert_close(rows.log_prob(x)[:, row], one.log_prob(x[:, row]))
    orders = [ad.Ordering.from_ranks(order) for order in ranks]
    mixed = ad.OrderingMixture(p.network, orders)
    assert mixed.log_prob(mixed.sample((50,))).isfinite().all()
    assert mixed.log_prob(mixed.enumerate_support()).exp().sum().item() == pytest.approx(1)
    # A set that is not a prefix is asked of another order.
    mask = torch.tensor([False, False, True, True])
    given = p.given(torch.tensor([0, 0, 3, 1]), mask)
    assert given.support.check(given.sample((50,))).all()
    assert given.ordering != p.ordering


def test_a_rule_is_part_of_the_value():
    fac = ad.Factorization(4, BIT, rule=rules.Sum(2))
    assert repr(fac) == "Factorization((4,), Bernoulli(), rule=Sum(total=2))"
    assert fac == ad.Factorization(4, BIT, rule=rules.Sum(2.0))
    assert fac != ad.Factorization(4, BIT, rule=rules.Sum(3))
    assert ad.Factorization(4, SYMBOL, rule=rules.End(2, 0)) == ad.Factorization(
        4, SYMBOL, end=2, pad=0
    )
    for name in CASES:
        one = of_case(name, "raster")
        for same in (pickle.loads(pickle.dumps(one)), copy.deepcopy(one), one.replace()):
            assert same == one
            assert hash(same) == hash(one)
            assert repr(same) == repr(one)


class Masked(rules.Rule):
    """Actions that the context allows: (num_blocks * num_actions) zeros and ones."""

    reads_context = True

    def start(self, rows, context, reference):
        return context.unflatten(-1, (4, 3)) > 0  # (rows, 4, 3)

    def allowed(self, state, at):
        return torch.stack([state[:, n, at.positions[n]] for n in range(state.shape[1])], 1)

    def advance(self, state, value, at):
        return state


@pytest.mark.parametrize("network", ["rnn-gru", "transformer-plain"])
def test_a_mask_may_come_with_the_context(network):
    torch.manual_seed(0)
    fac = ad.Factorization(4, SYMBOL, rule=Masked())
    masks = (torch.rand(5, 4, 3) < 0.5).float()
    masks[..., 0] = 1
    options = {"rnn-gru": networks.RNN, "transformer-plain": networks.Transformer}
    sizes = {"rnn-gru": {"hidden_size": 8}, "transformer-plain": {"dim": 8, "depth": 1, "heads": 1}}
    net = options[network](fac, context_shape=(12,), **sizes[network])
    p = net.condition(masks.flatten(1))
    x = p.sample((200,))
    assert masks.expand(200, 5, 4, 3).gather(-1, x.unsqueeze(-1)).all()
    assert p.log_prob(x).isfinite().all()
    assert fac.num_states is None
    assert not p.has_enumerate_support
    every = ad.Factorization(4, SYMBOL).enumerate_support().unsqueeze(1)
    q = net.condition(masks.flatten(1), validate_args=False)
    torch.testing.assert_close(q.log_prob(every).exp().sum(0), torch.ones(5))
    assert torch.equal(q.support.check(every), q.log_prob(every) > -torch.inf)


def test_counts_without_a_list():
    tours = ad.Factorization(20, fam.Categorical(20), rule=rules.Distinct())
    assert tours.num_states == 2432902008176640000
    assert not build(tours, "rnn-gru").condition().has_enumerate_support
    bits = ad.Factorization(40, BIT, rule=rules.Sum(20))
    assert bits.num_states == 137846528820
    # Ones that are not next to each other: Fibonacci's numbers.
    apart = ad.Factorization(50, BIT, rule=rules.Automaton.walk([[1, 1], [1, 0]]))
    assert apart.num_states == 32951280099
    pixels = [ad.Factorization(64, fam.Categorical(256), rule=rules.Sum(n)) for n in (2, 16318)]
    assert [fac.num_states for fac in pixels] == [64 * 65 // 2] * 2  # one is the other's negative
    states, digits = torch.arange(3000).unsqueeze(-1), torch.arange(10)
    modulo = rules.Automaton((states + digits) % 3000, {3})
    assert ad.Factorization(50, fam.Categorical(10), rule=modulo).num_states == 50 * 51 * 52 // 6
    brackets = ad.Factorization(40, BIT, rule=Balanced())
    assert brackets.num_states == 6564120420  # the 20th Catalan number


class NoRepeat(rules.Rule):
    """A symbol differs from the last two."""

    rows = 0

    def start(self, rows, context, reference):
        return torch.full((rows, 2), -1)

    def allowed(self, state, at):
        symbols = torch.arange(at.family.num_categories)
        return (state.unsqueeze(-1) != symbols).all(-2)

    def advance(self, state, value, at):
        type(self).rows += value.shape[0]
        return torch.stack((state[:, 1], value), -1)


def test_counting_ends_before_it_takes_long():
    """It is part of building a factorization."""
    few = ad.Factorization(10, fam.Categorical(20), rule=NoRepeat())
    assert few.num_states == 20 * 19 * 18**8
    NoRepeat.rows = 0
    many = ad.Factorization(100, fam.Categorical(1000), rule=NoRepeat())
    assert many.num_states is None
    assert NoRepeat.rows < 2**21
    assert not build(many, "rnn-gru").condition().has_enumerate_support


def test_a_step_of_a_draw_does_not_look_at_all_others(monkeypatch):
    """The time of a draw is not the square of its length."""
    fac = ad.Factorization(60, BIT, rule=rules.Sum(30))
    p, calls = build(fac, "rnn-gru").condition(), []
    plain = DrawingOrder.ends_of
    monkeypatch.setattr(
        DrawingOrder, "ends_of", lambda self, kind: calls.append(kind) or plain(self, kind)
    )
    p.sample((2,))
    assert len(calls) < 10


def test_graphs_and_transforms_of_torch():
    fac = ad.Factorization(6, BIT, rule=rules.Sum(3))
    net = networks.MADE(fac, hidden_features=16)
    x = net.condition().sample((5,))
    expected = net.condition().log_prob(x)

    def score(x):
        return net.condition(validate_args=False).log_prob(x)

    torch.testing.assert_close(torch.func.vmap(score)(x), expected)
    compiled = torch.compile(score, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected)


@pytest.mark.parametrize("name", [*CASES, *COLUMNS])
def test_a_file_holds_the_rule(name, tmp_path):
    if name in COLUMNS:
        rule, columns, _ = COLUMNS[name]
        fac = ad.Factorization.columns(columns, rule=rule)
    else:
        fac = of_case(name, "permuted")
    net = networks.Unshared(fac, hidden_features=4)
    ad.save(net, tmp_path / "net")
    assert ad.load(tmp_path / "net", classes=[Balanced]).factorization == fac
