"""Particles given a rule, against enumeration and quadrature."""

import math
import re
import warnings
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from fuzz_rules import Listed
from table import DEVICE

import ardist as ad
from ardist import families as fam
from ardist import networks, rules
from ardist.sampling import Particles, smc

RUNS = 200


@dataclass(frozen=True)
class Adjacent(rules.Rule):
    """A potential for each block that equals the one before it.

    The state is the last block, and whether it did.
    """

    log_factor: float
    follows_reals = False

    def start(self, rows, context, reference):
        return torch.full((rows, 2), -1, device=reference.device)

    def allowed(self, state, at):
        return None

    def advance(self, state, value, at):
        return torch.stack((value.long(), (value == state[:, 0]).long()), -1)

    def log_potential(self, state, at):
        return self.log_factor * state[:, 1].double()


@dataclass(frozen=True)
class AtMost(rules.Rule):
    """Symbols up to a number that comes with the context of each row."""

    reads_context = True
    follows_reals = False

    def start(self, rows, context, reference):
        return context[:, 0]

    def allowed(self, state, at):
        return torch.arange(3) <= state.unsqueeze(-1)

    def advance(self, state, value, at):
        return state


BITS = ad.Factorization(5, fam.Bernoulli(), ordering=ad.Ordering.permutation([3, 0, 4, 1, 2]))
SYMBOLS = ad.Factorization(4, fam.Categorical(3))
ENDED = ad.Factorization(4, fam.Categorical(3), end=2)
COLUMNS = ad.Factorization.columns(
    a=fam.Categorical(3), b=fam.Bernoulli(), c=fam.Categorical(4), d=fam.Ordinal(3)
)
TIED = ad.Factorization.columns(
    {"a": fam.Categorical(3), "b": fam.Bernoulli(), "c": fam.Categorical(4), "d": fam.Bernoulli()},
    ordering=ad.Ordering.from_ranks([1, 0, 0, 1]),
)
OF_ONE_FAMILY = ad.Factorization.columns(
    {name: fam.Categorical(3) for name in "abcd"}, ordering=ad.Ordering.from_ranks([0, 1, 1, 1])
)
NO_TWO = rules.Automaton.walk([[1, 1], [1, 0]])  # no two ones in a row

# A factorization, a rule, and whether events (n, 4 or 5) follow it.
CASES = {
    "sum": (BITS, rules.Sum(2), lambda x: x.sum(-1) == 2),
    "automaton": (SYMBOLS, rules.Automaton.regex("a(b|c)*|b{3}.", "abc"), None),
    "walk": (BITS, NO_TWO, lambda x: ~(drawn(x)[:, 1:] * drawn(x)[:, :-1]).any(-1)),
    "distinct": (
        ad.Factorization(3, fam.Categorical(4)),
        rules.Distinct(),
        lambda x: (x.sort(-1).values.diff() > 0).all(-1),
    ),
    "end": (SYMBOLS, rules.End(1, pad=0), None),
    "within": (
        COLUMNS,
        rules.Within(b={1}, c=(1, 2)),
        lambda x: (x[:, 1] == 1) & (x[:, 2] % 3 > 0),
    ),
    "within, ordinal": (COLUMNS, rules.Within(d=(1, None)), lambda x: x[:, 3] >= 1),
    "within ties": (TIED, rules.Within(a={0, 2}, c={3}), lambda x: (x[:, 0] != 1) & (x[:, 2] == 3)),
    "when": (
        COLUMNS,
        rules.When("a", {0, 1}, c=2, b=1),
        lambda x: (x[:, 0] < 2) | ((x[:, 2] == 2) & (x[:, 1] == 1)),
    ),
    "dead ends": (
        BITS,
        rules.All(rules.Sum(2), NO_TWO),
        lambda x: (x.sum(-1) == 2) & ~(drawn(x)[:, 1:] * drawn(x)[:, :-1]).any(-1),
    ),
    "all": (
        COLUMNS,
        rules.All(rules.Within(b={1}), rules.When("a", {0}, c=2)),
        lambda x: (x[:, 1] == 1) & ((x[:, 0] == 0) | (x[:, 2] == 2)),
    ),
    "all, several constants": (
        OF_ONE_FAMILY,
        rules.All(
            rules.All(rules.When("a", {1}, b=0, c=1, d=2), rules.Within(b=(0, 1), c={1, 2})),
            rules.Within(a=(0, 2), d={0, 2}),
        ),
        lambda x: (
            (x[:, 1] < 2)
            & (x[:, 2] > 0)
            & (x[:, 3] != 1)
            & ((x[:, 0] == 1) | (x == torch.tensor([3, 0, 1, 2]))[:, 1:].all(-1))
        ),
    ),
    "most probable states": (
        ad.Factorization(
            3, [fam.TopK(fam.Categorical(4), 2), *2 * [fam.Nucleus(fam.Ordinal(4), 0.6)]]
        ),
        rules.Automaton.walk(1 - torch.eye(4)),
        lambda x: (x[:, 1:] != x[:, :-1]).all(-1),
    ),
    "its own rule": (
        ad.Factorization(
            4,
            [
                fam.Ordinal(3),
                fam.Mixture(fam.Categorical(3), 2),
                fam.DiscretizedLogisticMixture(1, bins=3),
                fam.TopK(fam.Categorical(3), 2),
            ],
            rule=rules.Sum(4),
        ),
        rules.Automaton.walk([[0, 1, 1], [1, 1, 1], [1, 1, 0]]),
        lambda x: ((x[:, 1:] != x[:, :-1]) | (x[:, 1:] == 1)).all(-1),
    ),
    "its own end": (ENDED, rules.Automaton.regex("(ab?)*", "abc", end=2), None),
}


def drawn(x):
    """Bits in the order of drawing."""
    return x[:, BITS.ranks.argsort()]


def follows(name, states):
    predicate = CASES[name][2]
    if predicate is not None:
        return predicate(states)
    patterns = {
        "automaton": "a(b|c)*|b{3}.",
        "end": "[ac]*(ba*)?",
        "its own end": "(ab?)*c*",
    }
    texts = ["".join("abc"[i] for i in state) for state in states.tolist()]
    return torch.tensor([bool(re.fullmatch(patterns[name], text)) for text in texts])


def uneven(net):
    """A network in double precision with conditionals that are far from even."""
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn_like(weight) * (0.6 if weight.dim() > 1 else 0.3))
    return net.double()


def made(factorization, **options):
    torch.manual_seed(0)
    return uneven(networks.MADE(factorization, hidden_features=(16,), **options))


def within_errors(samples, expected, count=3.0):
    """The mean of samples (n, ...) is the expected one, up to some of its standard errors."""
    error = samples.std(0) / math.sqrt(len(samples))
    assert ((samples.mean(0) - expected).abs() <= count * error + 1e-12).all()


def quietly(*args, **options):
    """Particles that are too few to be trusted, on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return smc(*args, **options)


@pytest.mark.parametrize("threshold", [0.0, 0.7])
@pytest.mark.parametrize("name", CASES)
def test_probability_and_particles_are_unbiased(name, threshold):
    """The runs are the rows of a batch, each with particles of its own."""
    factorization, rule, _ = CASES[name]
    p = made(factorization).condition()
    states = p.enumerate_support()
    exact = p.log_prob(states).detach().exp() * follows(name, states)
    found = quietly(p.expand((RUNS,)), rule, 6, threshold=threshold)
    assert found.log_weight.shape == (6, RUNS)
    assert found.log_prob.shape == found.ess.shape == (RUNS,)
    torch.testing.assert_close(found.log_weight.exp().mean(0), found.log_prob.exp())
    within_errors(found.log_prob.exp(), exact.sum())
    same = (found.value.unsqueeze(2) == states).all(-1)  # (6, RUNS, states)
    alive = found.log_weight > -math.inf
    assert same[alive].any(-1).all()
    assert not same[alive][:, exact == 0].any()
    weights = (same * found.log_weight.exp().unsqueeze(-1)).mean(0)
    for block in range(states.shape[1]):  # events that are too rare to be counted come together
        is_value = F.one_hot(states[:, block].long()).double()
        within_errors(weights @ is_value, exact @ is_value, 4.5)


def truncated_moments(p, low, high):
    """The mass of low <= x <= high under two Normal columns, and the integral of x_0 over it.

    A Simpson sum over x_0 of its density times the mass of x_1 given it.
    """
    grid = torch.linspace(low[0], high[0], 2001, dtype=torch.float64)
    first, second = p.conditionals(torch.stack((grid, torch.zeros_like(grid)), -1)).values()
    mass = second.cdf(torch.tensor(high[1])) - second.cdf(torch.tensor(low[1]))
    weights = torch.tensor([1.0] + [4.0, 2.0] * 999 + [4.0, 1.0], dtype=torch.float64)
    density = first.log_prob(grid).exp() * mass * weights * (grid[1] - grid[0]) / 3
    return torch.stack((density.sum(), density @ grid)).detach()


@pytest.mark.parametrize("threshold", [0.0, 0.7])
def test_intervals_of_reals(threshold):
    p = made(ad.Factorization.columns(a=fam.Normal(), b=fam.Normal())).condition()
    low, high = (-0.5, 0.2), (3.0, 1.5)
    rule = rules.Within(a=(low[0], high[0]), b=(low[1], high[1]))
    found = quietly(p.expand((RUNS,)), rule, 6, threshold=threshold)
    weights, first = found.log_weight.exp(), found.value[..., 0]
    estimates = torch.stack((weights.mean(0), (weights * first).mean(0)), -1)
    within_errors(estimates, truncated_moments(p, low, high))
    for column in range(2):
        assert (low[column] <= found.value[..., column]).all()
        assert (found.value[..., column] <= high[column]).all()


@pytest.mark.parametrize("constant", [0.1, -1.0])
@pytest.mark.parametrize("ends", [(0.3, 0.7), (-1.2, 0.5), (0.5, None), (None, 0.2), (None, -0.5)])
def test_an_interval_of_a_column_that_may_be_a_constant(ends, constant):
    when = rules.When("a", {1}, b=constant)
    p = made(ad.Factorization.columns(a=fam.Bernoulli(), b=fam.LogNormal(), rule=when)).condition()
    low, high = (-torch.inf if ends[0] is None else ends[0]), (ends[1] or torch.inf)
    x = p.sample((40_000,))[:, 1]
    share = ((low <= x) & (x <= high)).double().mean().item()
    if share == 0:
        with pytest.raises(ValueError, match="no event follows Within"):
            smc(p, rules.Within(b=ends), 4000)
        return
    found = smc(p, rules.Within(b=ends), 4000)
    assert found.log_prob.exp().item() == pytest.approx(share, abs=0.05)
    kept = found.value[found.log_weight > -torch.inf, 1]
    assert ((low <= kept) & (kept <= high)).all()


def test_an_interval_far_in_the_tail():
    """The log probability is that of the tail, where probabilities underflow."""
    p = made(ad.Factorization.columns(a=fam.Normal())).condition()
    normal = p.conditionals(torch.zeros(1, dtype=torch.float64))["a"]
    end = float((normal.loc + 40 * normal.scale).detach())
    found = quietly(p, rules.Within(a=(end, None)), 3)
    tail = -(40.0**2) / 2 - math.log(40 * math.sqrt(2 * math.pi))
    torch.testing.assert_close(found.log_prob, torch.tensor(tail).double(), rtol=1e-5, atol=0)


def test_potentials_weigh_events():
    p = made(SYMBOLS).condition()
    states = p.enumerate_support()
    equal = (states[:, 1:] == states[:, :-1]).sum(-1)
    exact = (p.log_prob(states) + 0.7 * equal).exp().sum().detach()
    found = quietly(p.expand((RUNS,)), Adjacent(0.7), 8)
    within_errors(found.log_prob.exp(), exact)


@pytest.mark.parametrize("observed", [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]])
def test_evidence_holds_and_is_not_weighed(observed):
    """The probability is that of the rule given the evidence, and 0 if the evidence breaks it."""
    rule, mask = rules.Automaton.regex("a(b|c)*|b{3}.", "abc"), torch.tensor(observed).bool()
    p = made(SYMBOLS).condition()
    states = p.enumerate_support()
    for value in ([0, 2, 1, 1], [1, 1, 1, 0], [2, 0, 0, 0]):
        given = p.given(torch.tensor(value), mask)
        exact = given.log_prob(states).detach().exp() * follows("automaton", states)
        found = quietly(given.expand((RUNS,)), rule, 6)
        within_errors(found.log_prob.exp(), exact.sum())
        assert (found.value[..., mask] == torch.tensor(value)[mask]).all()


@pytest.mark.parametrize("count", [1, 4])
def test_evidence_under_constants(count):
    mask = torch.arange(4) < count
    given = made(OF_ONE_FAMILY).condition().given(torch.tensor([0, 0, 1, 2]), mask)
    states = given.enumerate_support()
    exact = (given.log_prob(states).exp() * follows("all, several constants", states)).sum()
    found = quietly(given, CASES["all, several constants"][1], 10)
    torch.testing.assert_close(found.log_prob, exact.log())


def test_evidence_that_differs_by_row():
    p = made(BITS).condition()
    first = (BITS.ranks == 0).to(DEVICE)
    value = torch.eye(2).double()[:, :1] * first
    found = quietly(p.given(value, first), rules.Sum(1), 50)
    states = p.enumerate_support().unsqueeze(1)
    exact = (p.given(value, first).log_prob(states).exp() * (states.sum(-1) == 1)).sum(0)
    torch.testing.assert_close(found.log_prob[0], exact[0].log())  # all others are zero
    assert found.log_prob[1] == pytest.approx(exact[1].log().item(), abs=0.5)
    assert (found.value[:, :, first].squeeze(-1) == value[:, first].squeeze(-1)).all()


def test_rows_of_contexts_are_apart():
    """Each row of the batch has the probability under its own context, expanded or not."""
    p = made(SYMBOLS, context_shape=(2,)).condition(2 * torch.randn(3, 2, dtype=torch.float64))
    rule, states = rules.Automaton.regex("a.*|.*c", "abc"), p.enumerate_support()
    matched = ((states[:, 0, :] == 0)[:, 0] | (states[:, 0, :] == 2)[:, -1]).double()
    exact = (p.log_prob(states).exp() * matched.unsqueeze(-1)).sum(0).detach()
    found = quietly(p.expand((RUNS, 3)), rule, 4)
    assert found.value.shape == (4, RUNS, 3, 4)
    within_errors(found.log_prob.exp(), exact)
    assert float(exact.std()) > 0.02  # contexts matter
    assert quietly(p.expand((0, 3)), rule, 4).value.shape == (4, 0, 3, 4)


def test_a_rule_that_reads_the_context():
    most = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    p = made(SYMBOLS, context_shape=(1,)).condition(most)
    states = p.enumerate_support()
    inside = (states <= most).all(-1)
    exact = (p.log_prob(states).exp() * inside).sum(0).detach()
    found = quietly(p.expand((RUNS, 3)), AtMost(), 4)
    within_errors(found.log_prob.exp(), exact)
    torch.testing.assert_close(exact[2], torch.ones_like(exact[2]))


@pytest.mark.parametrize(
    "build",
    [
        lambda fac: networks.RNN(fac, hidden_size=16),
        lambda fac: networks.Transformer(fac, dim=16, depth=2, heads=2),
        lambda fac: networks.WaveNet(fac, channels=8, depth=2),
        lambda fac: networks.Markov(fac, window=2, hidden_features=(8,)),
    ],
    ids=["rnn", "transformer", "wavenet", "markov"],
)
def test_decoders_follow_the_resampled_rows(build):
    torch.manual_seed(1)
    p = uneven(build(SYMBOLS)).condition()
    states = p.enumerate_support()
    exact = p.log_prob(states).detach().exp() * follows("automaton", states)
    found = quietly(p.expand((RUNS,)), CASES["automaton"][1], 8, threshold=1.0)
    within_errors(found.log_prob.exp(), exact.sum())


class Switch(networks.ConditionalNetwork):
    """A fair first bit. The others are fair after a zero, and ones with probability 0.95 after a
    one.
    """

    def forward(self, blocks, context=None, ranks=None):
        odds = math.log(19) * blocks[:, :1].expand_as(blocks)
        return F.pad(odds[:, 1:], (1, 0)).unsqueeze(-1)


def test_local_is_not_global():
    """Both have the support of the rule. By the rule the first bit stays fair. Given the rule it is
    a one with probability 0.87, since the other bits are then likely to be ones.
    """
    p = Switch(ad.Factorization(4, fam.Bernoulli())).condition()
    rule = rules.Automaton.regex(".111", "01")
    states = torch.tensor([[0.0, 1, 1, 1], [1, 1, 1, 1]])
    exact = p.log_prob(states).exp()
    torch.testing.assert_close(exact, torch.tensor([0.5**4, 0.5 * 0.95**3]))
    by_rule = p.with_rule(rule).log_prob(states).exp()
    torch.testing.assert_close(by_rule, torch.tensor([0.5, 0.5]))
    found = smc(p, rule, 20_000)
    ones = (found.value[:, 0] * found.log_weight.softmax(0)).sum()
    torch.testing.assert_close(ones, (exact / exact.sum())[1], rtol=0, atol=0.02)
    torch.testing.assert_close(found.log_prob, exact.sum().log(), rtol=0, atol=0.02)
    assert float((by_rule - exact / exact.sum()).abs().sum()) / 2 == pytest.approx(0.373, abs=1e-3)


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_limited_columns_come_first_if_the_network_follows_any_order(threshold):
    """Then all weights are equal, and the probability that of the limited columns."""
    torch.manual_seed(0)
    fac = ad.Factorization.columns(a=fam.Normal(), b=fam.Normal(), c=fam.Categorical(3))
    rule = rules.Within(c={1, 2})
    p = uneven(networks.Transformer(fac, dim=16, depth=1, heads=2)).condition()
    found = smc(p, rule, 50, threshold=threshold)
    first = p.with_ordering(ad.Ordering.permutation([2, 0, 1]))
    x = torch.zeros(3, 3, dtype=torch.float64)
    x[:, 2] = torch.arange(3)
    marginal = first.marginal(torch.tensor([False, False, True])).log_prob(x[:, 2:])
    torch.testing.assert_close(found.log_prob, marginal[1:].logsumexp(0).detach())
    torch.testing.assert_close(found.log_weight, found.log_prob.expand(50))
    assert found.ess == pytest.approx(50)
    observed = torch.tensor([True, False, False])
    given = smc(p.given(torch.tensor([0.25, 0, 0]).double(), observed), rule, 50)
    assert given.log_weight.std() < 1e-6
    assert (given.value[:, 0] == 0.25).all()
    one = made(fac).condition()
    assert smc(one, rule, 50).log_weight.std() > 0.01


def test_limited_columns_come_after_the_evidence_of_a_graph(float64):
    torch.manual_seed(0)
    graph = torch.zeros(5, 5).bool()
    graph[1, 0] = graph[3, 2] = graph[4, 2] = graph[4, 3] = True
    columns = dict.fromkeys("abcde", fam.Categorical(3))
    fac = ad.Factorization.columns(columns, ordering=ad.Ordering.from_graph(graph))
    net = networks.Masked(fac, hidden_features=16).double()
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(torch.randn_like(weight))
    p = net.condition().given(torch.ones(5).long(), torch.tensor([0, 0, 1, 1, 1]).bool())
    found = smc(p, rules.Within({"b": (0, 1)}), 20_000)
    second = p.marginal(torch.tensor([False, True, False, False, False]))
    probs = second.log_prob(torch.arange(3).unsqueeze(-1)).exp()
    expected = probs[1] / probs[:2].sum()
    share = (found.log_weight.softmax(0) * (found.value[:, 1] == 1)).sum()
    assert (share - expected).abs() < 6 * (expected * (1 - expected) / 20_000).sqrt()


def test_many_particles_are_resampled_in_their_proportion():
    """Particles of a weight of zero are never copied, and others about as often as they weigh."""
    p = made(BITS).condition()
    found = smc(p, rules.All(rules.Sum(2), NO_TWO), 4000, threshold=1.0)
    states = p.enumerate_support()
    exact = p.log_prob(states).detach().exp() * follows("dead ends", states)
    same = (found.value.unsqueeze(1) == states).all(-1).double()
    shares = found.log_weight.softmax(0) @ same
    torch.testing.assert_close(shares, exact / exact.sum(), rtol=0, atol=0.03)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_many_particles_in_half_precision(dtype):
    p = made(SYMBOLS).to(dtype).condition()
    rule = rules.Automaton.regex("a.*", "abc")
    found = smc(p, rule, 20_000)
    assert found.problem is None
    assert 19_000 < found.ess <= 20_000
    first = p.conditionals(torch.zeros(4, dtype=torch.int64)).logits[0].log_softmax(-1)[0]
    assert found.log_prob.item() == pytest.approx(first.item(), abs=0.02)


def test_what_cannot_be_trusted_says_so():
    p = Switch(ad.Factorization(50, fam.Bernoulli())).condition()
    rule = rules.Automaton.regex("01*", "01")  # of probability 2 ** -50
    with pytest.warns(UserWarning, match="smc: the particles cannot be trusted: the rule has an"):
        found = smc(p, rule, 100)
    assert found.log_prob == pytest.approx(-50 * math.log(2))
    assert str(found) == (
        "100 particles: log probability of the rule -34.66 nats, effective sample size 100; "
        f"{found.problem}"
    )
    assert found.problem == (
        "the particles cannot be trusted: the rule has an estimated log probability of -34.66 "
        "nats, and conditionals are unreliable for such rare events"
    )
    few = found._replace(log_prob=torch.tensor(-4.6), ess=torch.tensor(9.0))
    assert few.problem == (
        "the particles cannot be trusted: the effective sample size fell to 9 of 100 particles; "
        "use more"
    )
    assert few._replace(ess=torch.tensor(11.0)).problem is None
    rows = Particles(found.value, torch.zeros(100, 3), torch.tensor([-31.0, 0, 0]), torch.ones(3))
    assert "in 3 of 3 rows" in rows.problem
    assert "in 1 of 3 rows" in rows.problem
    assert str(rows).startswith(
        "100 particles for each of (3,) rows: log probability of the rule at"
    )
    none = smc(p.expand((0,)), rule, 100)
    assert str(none) == "100 particles for each of (0,) rows"


@pytest.mark.parametrize(
    ("factorization", "rule"),
    [
        (SYMBOLS, rules.All(rules.Sum(8), rules.Automaton.regex("[ab]*", "abc"))),
        (
            ad.Factorization.columns(a=fam.Normal(), b=fam.Gamma()),
            rules.All(rules.Within(b=(0.5, 1)), rules.Within(b=(2, 3))),
        ),
    ],
    ids=["states", "intervals"],
)
def test_no_particle_is_left(factorization, rule):
    """Rules without a common event: the probability is zero, and nothing is NaN."""
    p = made(factorization).condition()
    with pytest.warns(UserWarning, match="effective sample size fell to 0 of 20 particles"):
        found = smc(p, rule, 20)
    assert found.log_prob == -math.inf
    assert (found.log_weight == -math.inf).all()
    assert found.ess == 0
    assert factorization.inside(found.value).all()


@pytest.mark.parametrize("observed", [None, 2])
def test_a_rule_of_ones_own_advances_by_what_it_allows(observed):
    """Also after particles that are lost, and blocks that are observed."""
    p, rule = made(SYMBOLS).condition(), Listed([(0, 0, 0, 0), (1, 0, 1, 1)])  # knows no 2
    if observed is not None:
        p = p.given(torch.tensor([observed, 0, 0, 0]), torch.arange(4) < 1)
    found = quietly(p, rules.All(rule, rules.Automaton.regex("[ac]b.*|b.*", "abc")), 100)
    if observed is not None:
        assert found.log_prob == -math.inf
        return
    exact = p.log_prob(torch.tensor([1, 0, 1, 1]))
    assert found.log_prob.item() == pytest.approx(exact.item(), abs=0.5)
    assert (found.value[found.log_weight > -math.inf] == torch.tensor([1, 0, 1, 1])).all()


def test_particles_that_are_lost_follow_the_rule_of_the_distribution():
    """It refuses to go on after anything else."""
    own = Listed([(2, 1, 0, 1), (1, 1, 2, 2), (1, 2, 2, 2)])
    p = networks.RNN(SYMBOLS, hidden_size=8).condition().with_rule(own)
    rule = rules.Sum(6)
    states = p.enumerate_support()
    expected = p.log_prob(states)[states.sum(-1) == 6].detach()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = smc(p, rule, 2000, threshold=0.0)
    assert (found.log_weight == -math.inf).any()
    assert p.support.check(found.value).all()
    alive = found.value[found.log_weight > -math.inf]
    assert torch.equal(alive.unique(dim=0), states[states.sum(-1) == 6])
    assert abs(found.log_prob - expected.logsumexp(0)) < 0.3
