"""Rules with the other parts: chunks, nested events, Pyro, torch.func, orders of rows, reals."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws import assert_follows
from torch.distributions import biject_to, transform_to

import ardist as ad
from ardist import families as fam
from ardist import networks, rules
from ardist.rules.base import places

SYMBOLS = ad.Factorization(5, fam.Categorical(3), rule=rules.Sum(5))
BOXES = ad.Factorization.columns(
    a=fam.Normal(), b=fam.Gamma(), c=fam.Normal(), rule=rules.Within(a=(-0.5, 1.0), b=(2.0, None))
)


class Own(rules.Rule):
    """A user's rule. The state is the sum so far."""

    reads_context = False

    def start(self, rows, context, reference):
        return torch.zeros(rows, dtype=torch.int64)

    def advance(self, state, value, at):
        return state + value.long()


class Dead(Own):
    """Nothing is allowed after a sum of two."""

    def allowed(self, state, at):
        return (state < 2).unsqueeze(-1).expand(*state.shape, 3)


class DeadByContext(Dead):
    """Its events are not enumerated."""

    reads_context = True


class Crossed(Own):
    """The ends of an interval are in the wrong order after the first number."""

    def allowed(self, state, at):
        ones = torch.ones(state.shape)
        return rules.Interval(ones * at.positions, 0 * ones)


@pytest.mark.parametrize("network", ["rnn", "transformer", "wavenet"])
def test_scores_in_chunks(network):
    net = {
        "rnn": lambda: networks.RNN(SYMBOLS, hidden_size=8),
        "transformer": lambda: networks.Transformer(SYMBOLS, dim=8, depth=1, heads=2),
        "wavenet": lambda: networks.WaveNet(SYMBOLS, channels=8, depth=2),
    }[network]().eval()
    x = torch.cat((net.condition().sample((4,)), torch.zeros(1, 5, dtype=torch.int64)))
    scores = [net.condition(chunk_size=n, validate_args=False).log_prob(x) for n in (None, 3)]
    torch.testing.assert_close(*scores)
    assert torch.equal(scores[1] > -torch.inf, x.sum(-1) == 5)


def test_rules_of_nested_events_and_over_them(float64):
    notes = ad.Factorization(3, fam.Bernoulli(), rule=rules.Sum(1))
    inner = networks.MADE(notes, context_shape=(4,), hidden_features=8)
    fac = ad.Factorization((3, 3), fam.Nested(inner), partition=ad.Partition.along(0))
    p = networks.RNN(fac, hidden_size=8).condition()
    assert p.factorization.num_states == 27
    assert p.log_prob(p.enumerate_support()).exp().sum().item() == pytest.approx(1)
    assert_follows(p, p.sample((1000,)))
    different = p.with_rule(rules.Distinct())
    assert different.factorization.num_states == 6
    assert_follows(different, different.sample((1000,)))


def test_pyro_sites_under_a_rule():
    pyro.set_rng_seed(0)
    net = networks.MADE(SYMBOLS, hidden_features=8, context_shape=(2,))

    def model():
        with pyro.plate("rows", 3):
            return pyro.sample("z", net.condition(torch.zeros(3, 2)))

    trace = pyro.poutine.trace(model).get_trace()
    trace.compute_log_prob()
    site = trace.nodes["z"]
    assert site["log_prob"].shape == (3,)
    assert site["value"].sum(-1).eq(5).all()
    one_hot = networks.MADE(
        ad.Factorization(3, fam.Bernoulli(), rule=rules.Sum(1)), hidden_features=8
    ).condition()

    def enumerated():
        z = pyro.sample("z", one_hot, infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(z @ torch.arange(3.0), 1.0), obs=torch.tensor(1.0))

    elbo = pyro.infer.TraceEnum_ELBO(max_plate_nesting=0)
    states = one_hot.enumerate_support()
    joint = one_hot.log_prob(states) + dist.Normal(states @ torch.arange(3.0), 1.0).log_prob(
        torch.tensor(1.0)
    )
    assert -elbo.loss(enumerated, lambda: None) == pytest.approx(
        joint.logsumexp(0).item(), abs=1e-5
    )


def test_boxes_of_reals_are_known_to_pyro_and_torch(float64):
    net = networks.MADE(BOXES, hidden_features=8)
    p, z = net.condition(), torch.randn(50, 3)
    for registry in (biject_to, transform_to):
        link = registry(p.support)
        assert p.support.check(link(z)).all()
        torch.testing.assert_close(link.inv(link(z)), z, atol=1e-6, rtol=1e-6)
    link = biject_to(p.support)
    x = link(z)
    jacobian = torch.func.vmap(torch.func.jacrev(link))(z)
    expected = torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(link.log_abs_det_jacobian(z, x), expected)
    guide = pyro.infer.autoguide.AutoNormal(lambda: pyro.sample("x", p))
    svi = pyro.infer.SVI(guide.model, guide, pyro.optim.Adam({"lr": 0.01}), pyro.infer.Trace_ELBO())
    assert torch.isfinite(torch.tensor(svi.step()))
    # As a guide, with gradients through its draws.
    assert p.rsample((5,)).requires_grad


def test_mixtures_and_marginals_of_boxes_have_their_supports(float64):
    nets = [networks.MADE(BOXES, hidden_features=8) for _ in range(2)]
    weights = torch.distributions.Categorical(torch.ones(2))
    mixture = ad.Mixture(weights, [net.condition() for net in nets])
    first = nets[0].condition().marginal(torch.tensor([True, True, False]))
    for p, size in ((mixture, 3), (first, 2)):
        link, z = biject_to(p.support), torch.randn(50, size)
        x = link(z)
        assert p.support.check(x).all()
        assert p.log_prob(x).isfinite().all()
        torch.testing.assert_close(link.inv(x), z, atol=1e-6, rtol=1e-6)
        assert not p.support.check(torch.full((size,), -1.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_intervals_in_half_precision(dtype):
    p = networks.MADE(BOXES, hidden_features=8).to(dtype).condition()
    x = p.sample((2000,))
    assert x.dtype == dtype
    assert p.support.check(x).all()
    assert p.log_prob(x).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("ends", [(None, 1.2), (0.1, None), (0.1, 1.2)])
def test_the_ends_of_an_interval_are_inside(ends, dtype):
    fac = ad.Factorization.columns(a=fam.Normal(), rule=rules.Within(a=ends))
    p = networks.MADE(fac, hidden_features=8).to(dtype).condition(validate_args=True)
    for end in ends:
        x = torch.tensor([0.5 if end is None else end], dtype=dtype)
        assert p.support.check(x)
        assert p.log_prob(x).isfinite()
    x = p.sample((5000,))
    assert p.support.check(x).all()
    assert p.support.check(biject_to(p.support)(torch.randn(50, 1, dtype=dtype))).all()


@pytest.mark.parametrize(
    "family",
    [fam.Rounded(fam.Normal()), fam.Hurdle((0.0,), fam.LogNormal()), fam.Poisson()],
    ids=str,
)
def test_the_support_of_numbers_that_are_limited_and_not_real(family):
    rule = rules.Within(a=(-1.0, 2.0), b=(None, 1.5))
    p = networks.MADE(
        ad.Factorization.columns(a=family, b=fam.Normal(), rule=rule), hidden_features=8
    ).condition()
    x = p.sample((50,))
    assert p.support.check(x).all()
    assert not p.support.check(x + 4).any()
    assert p.marginal(torch.tensor([True, False])).support.check(x[:, :1]).all()


@pytest.mark.parametrize("kept", [[True, True, False], [True, True, True]])
def test_a_marginal_takes_constants_outside_the_support(kept):
    when = rules.When("a", {1}, b=-1.0, c=-2.0)
    fac = ad.Factorization.columns(a=fam.Bernoulli(), b=fam.LogNormal(), c=fam.Poisson(), rule=when)
    p = networks.Masked(fac, hidden_features=8).condition(validate_args=True)
    q = p.marginal(torch.tensor(kept))
    x = q.sample((50,))
    assert (x[:, 1] == -1).any()
    assert q.support.check(x).all()
    assert q.log_prob(x).isfinite().all()


def test_orders_of_rows_and_other_orders(float64):
    net = networks.Transformer(SYMBOLS, dim=8, depth=1, heads=2).eval()
    ranks = torch.stack([torch.randperm(5) for _ in range(3)])
    p = net.condition().with_ordering(ranks)
    every = SYMBOLS.enumerate_support()
    scores = p.log_prob(every.unsqueeze(1))
    torch.testing.assert_close(scores.logsumexp(0), torch.zeros(3))
    for row in range(3):
        alone = net.condition().with_ordering(ad.Ordering.from_ranks(ranks[row]))
        torch.testing.assert_close(alone.log_prob(every), scores[:, row])
    assert p.sample((50,)).sum(-1).eq(5).all()


@pytest.mark.parametrize(
    ("family", "rule"),
    [
        (fam.Categorical(3), rules.Within(a={0, 1}, b={1, 2})),
        (fam.Normal(), rules.Within(a=(0.0, 1.0), b=(2.0, None))),
    ],
    ids=["sets", "intervals"],
)
def test_columns_are_within_their_limits_in_orders_of_rows(family, rule):
    fac = ad.Factorization.columns(a=family, b=family, rule=rule)
    p = networks.Transformer(fac, dim=8, depth=1, heads=2).condition()
    p = p.with_ordering(torch.tensor([[0, 1], [1, 0], [0, 1]]))
    x = p.sample((50,))
    assert p.support.check(x).all()
    assert p.log_prob(x).isfinite().all()


def test_one_event_that_breaks_a_rule_in_the_order_of_a_row():
    even = rules.Automaton([[0, 1, 1], [1, 0, 0]], {0})
    fac = ad.Factorization(3, fam.Categorical(3), rule=even)
    p = networks.Transformer(fac, dim=8, depth=1, heads=2).condition(validate_args=True)
    p = p.with_ordering(torch.tensor([[0, 1, 2], [2, 1, 0]]))
    with pytest.raises(ValueError, match=r"^value: expected block \(2,\) to follow Automaton"):
        p.log_prob(torch.tensor([1, 1, 1]))


@pytest.mark.parametrize("network", ["made", "rnn"])
def test_a_dead_end_raises(network):
    def built(fac, **kwargs):
        if network == "made":
            return networks.MADE(fac, hidden_features=8, **kwargs)
        return networks.RNN(fac, hidden_size=8, **kwargs)

    message = r"^rule: expected Dead\w*\(\) to allow a value of block \(.*,\) in step .*at\.left$"
    with pytest.raises(ValueError, match=message):
        ad.Factorization(5, fam.Categorical(3), rule=Dead())
    fac = ad.Factorization(5, fam.Categorical(3), rule=DeadByContext())
    p = built(fac, context_shape=(2,)).condition(torch.zeros(2), validate_args=False)
    with pytest.raises(ValueError, match=message):
        p.sample((50,))
    with pytest.raises(ValueError, match=message):
        p.log_prob(torch.tensor([1, 1, 0, 0, 0]))
    with pytest.raises(ValueError, match=message):
        ad.sampling.beam_search(p, 3)
    assert p.log_prob(torch.zeros(5, dtype=torch.int64)).isfinite().all()
    fac = ad.Factorization(3, fam.Normal(), rule=Crossed())
    with pytest.raises(ValueError, match=r"^rule: expected Crossed\(\) .* block \(1,\) in step 1"):
        built(fac).condition().sample((5,))


def test_the_methods_of_a_rule_of_ones_own_take_names():
    rule, at = Dead(), places(ad.Factorization(2, fam.Categorical(3)))
    state = rule.start(4, None, torch.empty(0))
    after = rule.advance(state, at=at.each[0], value=torch.ones(4))
    assert after.tolist() == [1, 1, 1, 1]
    assert rule.allowed(after.unsqueeze(1), at=at.each[1]).shape == (4, 1, 3)


def test_vmap_scores_and_refuses_to_draw():
    net = networks.MADE(SYMBOLS, hidden_features=8)
    with pytest.raises(NotImplementedError, match=r"^sample: torch\.func\.vmap .* dimension"):
        torch.func.vmap(lambda _: net.condition().sample(), randomness="different")(torch.zeros(3))
