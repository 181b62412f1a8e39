"""Mixtures of networks and of orderings: exact, and a distribution like any other."""

import copy
import math
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws import assert_frequencies, assert_mean
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from table import CONTEXT, GPT, Plain, random_made
from torch.distributions import biject_to, constraints

import ardist as ad
from ardist import families as fam
from ardist import networks

ORDERINGS = [ad.Ordering.raster(), ad.Ordering.random(1), ad.Ordering.reverse()]


class AnyOrder(networks.ConditionalNetwork):
    """Supports any order, the same for all rows: a linear map, masked by the ranks."""

    def __init__(self, factorization, context_shape=()):
        super().__init__(factorization, context_shape=context_shape)
        count = factorization.num_blocks
        width = factorization.families[0].num_params
        self.weight = torch.nn.Parameter(torch.randn(count, width, count))
        self.bias = torch.nn.Parameter(torch.randn(count, width))
        self.context = torch.nn.Linear(3, count * width) if context_shape else None

    def unsupported_reason(self, factorization):
        return None

    def forward(self, blocks, context=None, ranks=None):
        ranks = self.factorization.ranks.flatten() if ranks is None else ranks
        sees = (ranks.unsqueeze(-1) > ranks).unsqueeze(1)
        values = blocks.to(self.weight.dtype)
        params = torch.einsum("nj,ipj->nip", values, self.weight * sees) + self.bias
        if context is None:
            return params
        encoding = self.context(context).view(len(context), *self.bias.shape)
        return (params.unflatten(0, (-1, len(context))) + encoding).flatten(0, 1)


def _transformer(factorization, context_shape=()):
    net = networks.Transformer(factorization, **GPT, context_shape=context_shape)
    with torch.no_grad():  # orders that differ clearly
        for weight in net.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
    return net


TOTAL = ad.Factorization((2, 2), fam.Bernoulli())
TIES = TOTAL.with_ordering(ad.Ordering.checkerboard())
COLUMNS = ad.Factorization.columns(a=fam.Bernoulli(), b=fam.Categorical(3), c=fam.Bernoulli())
ENDED = ad.Factorization(3, fam.Categorical(3), end=1, pad=0)
MIXTURES = {  # network, its factorization, and the orderings
    "rows": (_transformer, TOTAL, ORDERINGS),
    "one": (_transformer, TOTAL, ORDERINGS[1:2]),
    "ties": (_transformer, TIES, [*ORDERINGS, ad.Ordering.checkerboard()]),
    "columns": (_transformer, COLUMNS, ORDERINGS),
    "ended": (_transformer, ENDED, ORDERINGS),
    "scalar": (_transformer, ad.Factorization((), fam.Bernoulli()), ORDERINGS[:2]),
    "scalar, groups": (AnyOrder, ad.Factorization((), fam.Bernoulli()), ORDERINGS[:2]),
    "groups": (AnyOrder, TOTAL, ORDERINGS),
    "normal": (_transformer, ad.Factorization(3, fam.Normal()), ORDERINGS),
    "normal, groups": (AnyOrder, ad.Factorization(3, fam.Normal()), ORDERINGS),
}
each = pytest.mark.parametrize("name", MIXTURES)

THREE = ad.Factorization(3, fam.Normal())
SCALAR = ad.Factorization((), fam.Bernoulli())


def _joint(build, factorization, batch=None, **options):
    """A network's distribution with random weights, under `batch` contexts if any."""
    shape = () if batch is None else CONTEXT
    net = build(factorization, context_shape=shape, **options).to(torch.get_default_dtype())
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(torch.randn_like(weight) * 0.5)
    return net.condition(None if batch is None else torch.randn(*batch, *CONTEXT))


def made(factorization, batch=None):
    return _joint(random_made, factorization, batch, hidden_features=(8,))


def rnn(factorization, batch=None):
    return _joint(networks.RNN, factorization, batch, hidden_size=8)


def ordered(batch):
    """An order for each row."""
    ranks = torch.stack([torch.randperm(4) for _ in range(math.prod(batch))])
    return _joint(networks.Transformer, TOTAL, None, **GPT).with_ordering(ranks.view(*batch, 2, 2))


def observed(batch):
    """As many observed elements as the number of the row, from the first on."""
    count = torch.arange(math.prod(batch)).view(*batch, 1, 1) % 4
    value = torch.randint(2, (*batch, 2, 2)).to(torch.get_default_dtype())
    return made(TOTAL, batch).given(value, torch.arange(4).view(2, 2) < count)


COMPONENTS = {  # from the batch_shape to the components
    "networks": lambda batch: [made(TOTAL, batch), rnn(TOTAL), made(TOTAL)],
    "networks, one": lambda batch: [rnn(TOTAL, batch)],
    "networks, columns": lambda batch: [made(COLUMNS, batch), rnn(COLUMNS, batch)],
    "networks, scalar": lambda batch: [made(SCALAR, batch), dist.Bernoulli(0.2)],
    "networks, ended": lambda batch: [
        made(ENDED, batch),
        rnn(ENDED.with_ordering(ad.Ordering.reverse()), batch),
    ],
    "networks, ordered": lambda batch: [ordered(batch or ()), rnn(TOTAL)],
    "networks, given": lambda batch: [observed(batch or ()), rnn(TOTAL)],
    "networks, product": lambda batch: [
        made(TOTAL, batch),
        dist.Bernoulli(torch.rand(*(batch or ()), 2, 2)).to_event(2),
    ],
    "networks, changed by expand": lambda batch: [
        made(ad.Factorization(2, fam.Bernoulli()), batch),
        dist.ExpandedDistribution(made(ad.Factorization(2, fam.Bernoulli())), batch or ()),
    ],
    "networks, marginal": lambda batch: [
        made(TOTAL, batch).marginal(torch.tensor([[True, True], [False, False]])),
        rnn(ad.Factorization(2, fam.Bernoulli())),
    ],
    "networks, normal": lambda batch: [
        made(THREE, batch),
        rnn(THREE),
        dist.MultivariateNormal(torch.ones(*(batch or ()), 3), torch.eye(3)),
    ],
}
DISCRETE = [
    name
    for name in (*MIXTURES, *COMPONENTS)
    if not any(part in name for part in ("normal", "marginal"))
]
every = pytest.mark.parametrize("name", [*MIXTURES, *COMPONENTS])
discrete = pytest.mark.parametrize("name", DISCRETE)
of_networks = pytest.mark.parametrize("name", COMPONENTS)


def mixture(name, batch=None, **options):
    """A mixture of the tables, under `batch` contexts, or without a context."""
    if name in COMPONENTS:
        components = COMPONENTS[name](batch)
        logits = torch.randn(*(batch or ()), len(components))
        return ad.Mixture(dist.Categorical(logits=logits), components, **options)
    build, factorization, orderings = MIXTURES[name]
    net = build(factorization, () if batch is None else CONTEXT).to(torch.get_default_dtype())
    context = None if batch is None else torch.randn(*batch, *CONTEXT)
    return ad.OrderingMixture(net, orderings, context, **options)


@each
def test_log_prob_is_that_of_the_mean_over_orderings(name, float64):
    p = mixture(name, (2,))
    net, context = p.components[0].network, p.components[0].context
    x = p.sample((5,))
    probs = [
        ad.AutoregressiveDistribution(
            net,
            context,
            factorization=net.factorization.with_ordering(ordering),
            validate_args=False,
        ).log_prob(x).exp()
        for ordering in MIXTURES[name][2]
    ]  # fmt: skip
    if len(probs) > 1 and MIXTURES[name][1].num_blocks > 1:
        assert not torch.allclose(probs[0], probs[1], rtol=1e-3)
    torch.testing.assert_close(p.log_prob(x).exp(), torch.stack(probs).mean(0))


@discrete
def test_probabilities_sum_to_one(name, float64):
    p = mixture(name, (2,))
    states = p.enumerate_support()
    assert len(states.unique(dim=0)) == len(states)
    assert p.support.check(states).all()
    torch.testing.assert_close(p.log_prob(states).exp().sum(0), torch.ones(2))


@discrete
def test_samples_follow_log_prob(name):
    """By counts, for each context."""
    p = mixture(name, (2,))
    x = p.sample((3000,))
    states = p.enumerate_support(expand=False)
    same = (x == states.unsqueeze(1)).reshape(len(states), *x.shape[:2], -1).all(-1)
    assert same.any(0).all()
    for counts, probs in zip(same.sum(1).T, p.log_prob(states).exp().T, strict=True):
        assert_frequencies(counts, probs)


@pytest.mark.parametrize("name", ["normal", "normal, groups", "networks, normal"])
def test_continuous_samples_follow_log_prob(name, float64):
    """Importance weights between the mixture and one of its components have mean one."""
    p = mixture(name, (2,))
    x = p.sample((1500,))
    for component in p.components:
        weight = (component.log_prob(x) - p.log_prob(x)).exp()  # at most one over its share
        assert_mean(weight, 1.0)
        assert (weight.std(0) > 1e-2).all()


@every
def test_shapes_expansion_and_broadcasting(name):
    for batch in (None, (), (3, 1)):
        p = mixture(name, batch)
        shape, event = p.batch_shape, p.event_shape
        assert (shape, event) == (torch.Size(batch or ()), p.components[0].event_shape)
        for sample in ((), (2,), (3, 2), (0,)):
            x = p.sample(sample)
            assert x.shape == p.shape(sample) == torch.Size(sample) + shape + event
            if 0 not in sample or name in MIXTURES:  # torch's checks fail on no vectors
                assert p.log_prob(x).shape == torch.Size(sample) + shape
        x = p.sample()
        filled = tuple(4 if size == 1 else size for size in shape)
        for larger in (filled, (3, 1, *shape)):
            q = p.expand(larger)
            assert q.batch_shape == torch.Size(larger)
            y = q.sample((2,))
            assert y.shape == (2, *larger, *event)
            torch.testing.assert_close(q.log_prob(x), p.log_prob(x).expand(larger))
            torch.testing.assert_close(q.log_prob(y), p.log_prob(y))
        single = x.reshape(-1, *event)[0]
        torch.testing.assert_close(p.log_prob(single), p.log_prob(single.expand((*shape, *event))))


@each
def test_the_mixture_beats_the_mean_of_its_orderings_on_all_data(name):  # Jensen
    p = mixture(name, (2,), validate_args=False)
    x = p.sample((20,))
    scores = torch.stack([component.log_prob(x) for component in p.components])
    assert (p.log_prob(x) >= scores.mean(0) - 1e-5).all()
    assert (p.log_prob(x) >= scores.amax(0) - math.log(len(scores)) - 1e-5).all()
    assert (p.log_prob(x) <= scores.amax(0) + 1e-5).all()


def test_sequences_that_end_are_inside_under_any_of_the_orderings():
    p = mixture("ended")
    forwards, backwards, neither = torch.tensor([[2, 0, 1], [1, 0, 2], [1, 2, 1]])
    raster, _, reverse = (component.support for component in p.components)
    assert [raster.check(x).item() for x in (forwards, backwards, neither)] == [True, False, False]
    assert [reverse.check(x).item() for x in (forwards, backwards, neither)] == [False, True, False]
    assert p.support.check(torch.stack((forwards, backwards, neither))).tolist() == [1, 1, 0]
    assert p.log_prob(torch.stack((forwards, backwards))).isfinite().all()
    with pytest.raises(ValueError, match="to be within the support"):
        p.log_prob(neither)


@every
def test_at_observed_and_latent_sites_of_pyro(name):
    p = mixture(name, (5,))
    x = p.sample()

    def model(x=None):
        with pyro.plate("rows", 5):
            return pyro.sample("x", p, obs=x)

    trace = poutine.trace(model).get_trace(x)
    trace.compute_log_prob()
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], p.log_prob(x))
    with pyro.plate("outer", 3, dim=-2):
        assert model().shape == (3, *x.shape)


def test_a_prior_learns_under_svi():
    net = networks.Transformer(ad.Factorization(2, fam.Normal()), **GPT)
    orderings = [ad.Ordering.raster(), ad.Ordering.reverse()]
    data = torch.randn(20, 2) @ torch.tensor([[1.0, 0.9], [0.0, 0.3]])

    def model():
        pyro.module("net", net)
        with pyro.plate("data", 20):
            z = pyro.sample("z", ad.OrderingMixture(net, orderings))
            pyro.sample("x", dist.Normal(z, 0.1).to_event(1), obs=data)

    guide = pyro.infer.autoguide.AutoNormal(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.03}), Trace_ELBO())
    losses = [svi.step() for _ in range(25)]
    assert sum(losses[-5:]) < sum(losses[:5])


@pytest.mark.parametrize("name", ["normal", "normal, groups"])
def test_rsample_has_the_gradients_of_its_path(name, float64):
    p = mixture(name)
    net = p.components[0].network
    weights = dict(list(net.named_parameters())[:2])

    def draw(*values):
        torch.manual_seed(3)
        params = dict(zip(weights, values, strict=True))
        return ad.OrderingMixture(net, ORDERINGS, params=params).rsample((4,))

    values = [weight.detach().clone().requires_grad_() for weight in weights.values()]
    assert torch.autograd.gradcheck(draw, values, fast_mode=True)
    assert p.has_rsample
    assert not mixture("rows").has_rsample
    with pytest.raises(NotImplementedError, match="rsample: no gradients through draws"):
        mixture("rows").rsample()


def test_params_replace_those_of_the_network():
    p = mixture("rows")
    net = p.components[0].network
    other = copy.deepcopy(net)
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.5)
    replaced = ad.OrderingMixture(net, ORDERINGS, params=dict(other.named_parameters()))
    x = p.sample((4,))
    expected = ad.OrderingMixture(other, ORDERINGS).log_prob(x)
    torch.testing.assert_close(replaced.log_prob(x), expected)
    assert not torch.allclose(p.log_prob(x), expected)
    replaced.log_prob(x).sum().backward()
    assert all(weight.grad is None for weight in net.parameters())
    assert any(weight.grad.abs().sum() > 0 for weight in other.parameters())


@every
def test_pickled_and_printed(name):
    p = mixture(name, (2,))
    x = p.sample((3,))
    assert torch.equal(pickle.loads(pickle.dumps(p)).log_prob(x), p.log_prob(x))
    if name in COMPONENTS:
        shapes = f"batch_shape=(2,), event_shape={tuple(p.event_shape)}"
        assert repr(p) == f"Mixture({len(p.components)} components, {shapes})"
        return
    build, factorization, orderings = MIXTURES[name]
    kind = "AnyOrder" if build is AnyOrder else "Transformer"
    assert repr(p) == (
        f"OrderingMixture({kind}, {len(orderings)} orderings, batch_shape=(2,), "
        f"event_shape={tuple(factorization.event_shape)})"
    )


def test_what_torch_and_pyro_read():
    p, q = mixture("rows", (2,)), mixture("normal")
    assert p.has_enumerate_support
    assert not q.has_enumerate_support
    assert p.enumerate_support(expand=False).shape == (16, 1, 2, 2)
    assert p.support.is_discrete
    assert isinstance(type(p).support, constraints.Constraint)  # a plain property is none
    assert biject_to(q.support)(torch.randn(5, 3)).shape == (5, 3)
    assert p.to_event(1).log_prob(p.sample()).shape == ()
    with pytest.raises(NotImplementedError, match="at most 4096 states, got infinitely many"):
        q.enumerate_support()


def test_a_wrapped_network():
    net = _transformer(TOTAL)
    p = ad.OrderingMixture(torch.nn.DataParallel(net), ORDERINGS)
    x = p.sample((3,))
    torch.testing.assert_close(p.log_prob(x), ad.OrderingMixture(net, ORDERINGS).log_prob(x))
    assert repr(p).startswith("OrderingMixture(Transformer, 3 orderings")


def test_what_does_not_fit_is_refused_by_name():
    net = _transformer(TOTAL)
    with pytest.raises(
        ValueError, match=r"orderings: expected a sequence that is not empty, got \[\]"
    ):
        ad.OrderingMixture(net, [])
    with pytest.raises(ValueError, match=r"orderings: expected .* got Ordering.raster\(\)"):
        ad.OrderingMixture(net, ad.Ordering.raster())
    with pytest.raises(ValueError, match=r"orderings\[1\]: expected an Ordering, got 3"):
        ad.OrderingMixture(net, [ad.Ordering.raster(), 3])
    ties = [ad.Ordering.raster(), ad.Ordering.checkerboard()]
    with pytest.raises(ValueError, match=r"orderings\[1\]: .* was built without ties"):
        ad.OrderingMixture(net, ties)
    with pytest.raises(ValueError, match=r"orderings\[0\]: factorization: Plain was built for"):
        ad.OrderingMixture(Plain(TOTAL), [ad.Ordering.reverse()])
    with pytest.raises(ValueError, match="context: expected none"):
        ad.OrderingMixture(net, ties, torch.zeros(3))
    with pytest.raises(ValueError, match=r"params: Transformer has no parameters \['no'\]"):
        ad.OrderingMixture(net, ORDERINGS, params={"no": torch.zeros(1)})
    p = ad.OrderingMixture(net, ORDERINGS)
    with pytest.raises(ValueError, match=r"value: expected block \(0, 1\) inside the support"):
        p.log_prob(torch.tensor([[0.0, 2.0], [0.0, 1.0]]))
    with pytest.raises(ValueError, match=r"batch_shape: .* cannot be expanded"):
        p.expand((2,)).expand((3,))


# Mixtures of networks.


@of_networks
def test_log_prob_is_that_of_the_weighted_sum(name, float64):
    for batch in (None, (2,), (3, 1)):
        p = mixture(name, batch, validate_args=False)
        x = p.sample((5,))
        parts = [component.log_prob(x).exp() for component in p.components]
        expected = sum(w * part for w, part in zip(p.mixing.probs.unbind(-1), parts, strict=True))
        torch.testing.assert_close(p.log_prob(x).exp(), expected)


def test_weights_may_have_a_batch_of_their_own(float64):
    parts = [made(TOTAL), rnn(TOTAL)]
    p = ad.Mixture(dist.Categorical(torch.tensor([[1.0, 3.0], [0.5, 0.5], [0.0, 1.0]])), parts)
    assert p.batch_shape == (3,)
    x = p.sample((1000,))
    assert p.log_prob(x[:, :1]).shape == (1000, 3)
    states = p.enumerate_support()
    torch.testing.assert_close(p.log_prob(states).exp().sum(0), torch.ones(3))
    for row, share in enumerate((0.25, 0.5, 0.0)):
        first, second = (part.log_prob(states[:, 0]).exp() for part in parts)
        torch.testing.assert_close(
            p.log_prob(states)[:, row].exp(), share * first + (1 - share) * second
        )
        found = torch.tensor([(x[:, row] == state).all((-1, -2)).sum() for state in states[:, 0]])
        expected = p.log_prob(states)[:, row].exp() * 1000
        assert ((found - expected).abs() < 5 * expected.sqrt() + 3).all()


@pytest.mark.parametrize("name", ["networks", "networks, ended"])
def test_a_component_draws_its_own_rows_and_no_others(name, monkeypatch):
    p = mixture(name, (4,))
    taken = []
    for component in p.components:
        network = component.network

        def counted(rows, *args, inner=network.decoder, **options):
            taken.append(rows)
            return inner(rows, *args, **options)

        monkeypatch.setattr(network, "decoder", counted)
    assert p.sample((50,)).shape[:2] == (50, 4)
    assert sum(taken) == 200
    assert len(taken) == len(p.components)


def test_each_row_has_its_own_context():
    """Contexts that leave no doubt of an event."""
    net = random_made(TOTAL, hidden_features=(), context_shape=(1,))
    with torch.no_grad():
        for name, weight in net.named_parameters():
            weight.fill_(100.0 if "context" in name else 0.0)
    bits = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    sure = net.condition((2 * bits - 1).unsqueeze(-1))
    p = ad.Mixture(dist.Categorical(torch.ones(2)), [sure, sure])
    for q in (p, p.expand((4, 3, 2))):
        for sample in ((), (7,)):
            x = q.sample(sample)
            assert torch.equal(x, bits.view(3, 2, 1, 1).expand(x.shape))


def test_orders_and_observations_of_rows_stay_with_them():
    p = mixture("networks, given", (4,))
    values, mask = p.components[0].evidence
    only = ad.Mixture(dist.Categorical(torch.tensor([1.0, 0.0])), p.components)
    for q in (only, only.expand((3, 4))):
        x = q.sample((20,))
        assert ((x == values) | ~mask).all()
    p = mixture("networks, ordered", (2, 3))
    only = ad.Mixture(dist.Categorical(torch.tensor([1.0, 0.0])), p.components)
    x = only.sample((2000,))
    states = only.enumerate_support().flatten(1, 2)[:, 0]
    rows = only.components[0].log_prob(states.unsqueeze(1).unsqueeze(1)).exp()
    counts = (x.unsqueeze(0) == states.view(16, 1, 1, 1, 2, 2)).all(-1).all(-1).sum(1)
    for found, probs in zip(counts.flatten(1).T, rows.flatten(1).T, strict=True):
        assert_frequencies(found, probs)
    with pytest.raises(AssertionError):  # of another context
        assert_frequencies(counts[:, 0, 0], rows[:, 0, 1])


def test_gradients_reach_the_weights_the_contexts_and_the_networks(float64):
    net, other = (random_made(THREE, hidden_features=(4,), context_shape=CONTEXT) for _ in range(2))
    x = torch.randn(5, 2, 3)

    def score(logits, context, bias):
        parts = [net.condition(context), other.condition(context, params={"head.bias": bias})]
        return ad.Mixture(dist.Categorical(logits=logits), parts).log_prob(x)

    given = torch.randn(2, 2), torch.randn(2, *CONTEXT), torch.randn_like(other.head.bias)
    assert torch.autograd.gradcheck(score, [part.requires_grad_() for part in given])


def test_draws_have_gradients_where_these_are_exact(float64):
    net = random_made(THREE, hidden_features=(4,))
    weights = dist.Categorical(torch.tensor([0.4, 0.6]))

    def draw(bias, loc):
        torch.manual_seed(3)
        normal = dist.Normal(loc, 0.5).expand((2, 3)).to_event(1)
        p = ad.Mixture(weights, [net.condition(params={"head.bias": bias}), normal])
        assert p.has_rsample
        return p.rsample((5,))

    given = torch.randn_like(net.head.bias).requires_grad_(), torch.randn(3).requires_grad_()
    assert torch.autograd.gradcheck(draw, given)
    learned = dist.Categorical(logits=torch.zeros(2, requires_grad=True))
    p = ad.Mixture(learned, [net.condition(), net.condition()])
    assert not p.has_rsample
    with pytest.raises(NotImplementedError, match=r"rsample: .* to the weights, which require"):
        p.rsample()
    p = ad.Mixture(weights, [part.has_rsample_(True) for part in (made(COLUMNS), rnn(COLUMNS))])
    assert not p.has_rsample
    with pytest.raises(NotImplementedError, match=r"rsample: no gradients .* of \[Autoregressive"):
        p.rsample()


def test_score_function_gradients_of_a_guide_are_unbiased(float64):
    """To the weights and the components: the mean over many draws against the sum."""
    factorization = ad.Factorization(2, fam.Bernoulli())
    parts = [random_made(factorization, hidden_features=(4,)) for _ in range(2)]
    logits = torch.tensor([0.3, -0.5], requires_grad=True)
    target = torch.tensor([[0.1, 0.2], [0.3, 0.4]])

    def law():
        return ad.Mixture(dist.Categorical(logits=logits), [net.condition() for net in parts])

    def model():
        x = torch.ones(2)
        with pyro.plate("particles", 20_000):
            x = pyro.sample("x", dist.Bernoulli(0.5).expand([2]).to_event(1))
            index = x.long()
            pyro.factor("f", (target[index[:, 0], index[:, 1]] * 4).log())

    def guide():
        with pyro.plate("particles", 20_000):
            pyro.sample("x", law())

    weights = [logits, *parts[0].parameters(), *parts[1].parameters()]
    loss = Trace_ELBO().differentiable_loss(model, guide) / 20_000
    found = torch.autograd.grad(loss, weights)
    states = law().enumerate_support()
    log_q = law().log_prob(states)
    exact = (log_q.exp() * (log_q - target.flatten().log())).sum()
    for one, other in zip(found, torch.autograd.grad(exact, weights), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0.02)


def test_enumerated_by_pyro(float64):
    p = mixture("networks", (3,))
    x = torch.randn(3)

    def model():
        with pyro.plate("rows", 3):
            z = pyro.sample("z", p, infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(z.sum((-1, -2)), 1.0), obs=x)

    loss = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(model, lambda: None)
    states = p.enumerate_support()
    joint = p.log_prob(states) + dist.Normal(states.sum((-1, -2)), 1.0).log_prob(x)
    torch.testing.assert_close(-loss, joint.logsumexp(0).sum())


def test_what_is_missing_is_integrated_out(float64):
    nets = [random_made(THREE, hidden_features=(4,)) for _ in range(2)]
    p = ad.Mixture(
        dist.Categorical(torch.tensor([0.3, 0.7])),
        [net.condition(nan_policy="marginalize") for net in nets],
    )
    mask = torch.tensor([True, True, False])
    kept = ad.Mixture(p.mixing, [component.marginal(mask) for component in p.components])
    x = torch.randn(4, 3)
    missing = torch.where(mask, x, torch.nan)
    torch.testing.assert_close(p.log_prob(missing), kept.log_prob(x[:, mask]))


CONDITIONABLE = [name for name in MIXTURES if "scalar" not in name and name != "columns"]


@pytest.mark.parametrize("lead", [(), (2,), (3, 2)])
def test_given_is_the_conditional_of_the_mixture(lead, float64):
    """Components of one order, so that a prefix is ancestral in both."""
    batch = lead[-1:] or None
    inner = ad.Mixture(dist.Categorical(torch.tensor([0.4, 0.6])), [rnn(TOTAL), made(TOTAL)])
    logits = torch.randn(*(batch or ()), 2)
    p = ad.Mixture(dist.Categorical(logits=logits), [made(TOTAL, batch), inner]).expand(lead)
    mask = torch.tensor([[True, True], [False, False]])
    x = torch.randint(2, (*lead, 2, 2)).double()
    states = p.enumerate_support()  # (16, *lead, 2, 2)
    agree = ((states == x) | ~mask).all(-1).all(-1)
    expected = p.log_prob(states).masked_fill(~agree, -torch.inf)
    q = p.given(x, mask)
    assert q.batch_shape == lead
    observed = expected.logsumexp(0)
    torch.testing.assert_close(q.log_prob(states), expected - observed)
    torch.testing.assert_close(p.marginal(mask).log_prob(x[..., mask]), observed)
    assert (q.sample((50,)) == x)[..., mask].all()
    half = torch.tensor([[True, False], [False, False]])
    torch.testing.assert_close(p.given(x, half).given(x, mask).log_prob(states), q.log_prob(states))
    first, two = half[mask], p.marginal(mask)
    found = two.given(x[..., mask], first).log_prob(x[..., mask])
    torch.testing.assert_close(found, observed - two.marginal(first).log_prob(x[..., half]))


@pytest.mark.parametrize("name", [n for n in DISCRETE if n in CONDITIONABLE])
def test_given_of_any_set_is_normalized_and_sampled_from(name, float64):
    p = mixture(name, validate_args=False)
    mask = torch.zeros(p.event_shape, dtype=torch.bool)
    mask.view(-1)[-1 if p.components[0].factorization.rule is None else 0] = True
    x = p.sample()
    if name == "ended":  # in the first order alone
        p = ad.Mixture(dist.Categorical(torch.ones(1)), p.components[:1])
    q = p.given(x, mask)
    states = p.enumerate_support()
    probs = q.log_prob(states).exp()
    torch.testing.assert_close(probs.sum(), torch.ones(()))
    agree = ((states == x) | ~mask).flatten(1).all(-1)
    assert (probs[~agree] == 0).all()
    draws = q.sample((2000,))
    counts = (draws.unsqueeze(1) == states).flatten(2).all(-1).sum(0)
    assert_frequencies(counts, probs)


def test_the_weights_of_a_conditional_are_those_of_bayes(float64):
    p = mixture("normal", (4,))
    x, mask = torch.randn(5, 4, 3), torch.tensor([False, True, False])
    q = p.given(x, mask)
    assert q.batch_shape == (5, 4)
    scores = [part.marginal(mask).log_prob(x[..., mask]) for part in p.components]
    torch.testing.assert_close(q.mixing.probs, torch.stack(scores, -1).softmax(-1))
    with torch.no_grad():
        draw = p.given(x, mask).rsample()
    assert torch.equal(draw[..., mask], x[..., mask])


PAIRS = ad.Factorization(
    (2, 2),
    fam.Independent(fam.TopK(fam.Bernoulli(), 1), (2,)),
    partition=ad.Partition.along(0),
)


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("batch", [(), (4,)])
def test_components_that_cannot_have_the_evidence_drop_out(batch, cut, float64):
    """Since they were given other evidence, or give the evidence probability zero."""
    mask = torch.tensor([[True, not cut], [False, False]])
    seen = torch.tensor([[True, True], [False, False]])
    apart = [made(TOTAL).given(torch.full((*batch, 2, 2), x), seen) for x in (0.0, 1.0)]
    inner = ad.Mixture(dist.Categorical(torch.ones(2)), apart)
    bits = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4)
    states = bits.reshape(16, *(1,) * len(batch), 2, 2)
    for components in (apart, [made(PAIRS, batch) for _ in range(5)], [*apart, inner]):
        p = ad.Mixture(dist.Categorical(torch.ones(len(components))), components)
        for x in p.sample((3,)):
            q = p.given(x, mask)
            agree = ((states == x) | ~mask).all(-1).all(-1)
            joint = p.log_prob(states).masked_fill(~agree, -torch.inf)
            torch.testing.assert_close(q.log_prob(states), joint - joint.logsumexp(0))
            assert (q.sample((20,)) == x)[..., mask].all()


def test_marginals_may_cut_blocks_whose_elements_are_not_independent(float64):
    parts = ad.Partition.split([2, ()])
    inner = random_made(
        ad.Factorization(3, [fam.OneHotCategorical(2), fam.Bernoulli()], partition=parts),
        context_shape=(4,),
        hidden_features=8,
    )
    fac = ad.Factorization((2, 3), fam.Nested(inner), partition=ad.Partition.along(0))
    mixing = dist.Categorical(torch.tensor([0.4, 0.6]))
    p = ad.Mixture(mixing, [made(fac), made(fac)], validate_args=True)
    kept = torch.tensor([[True, True, True], [True, True, False]])
    states, q = p.enumerate_support(), p.marginal(kept)
    for value in states[:, kept].unique(dim=0):
        total = p.log_prob(states[(states[:, kept] == value).all(-1)]).logsumexp(0)
        torch.testing.assert_close(q.log_prob(value), total)
    assert not q.support.check(torch.full((5,), 0.5))


def test_evidence_that_does_not_fit_the_batch_is_refused_by_name():
    p, x, mask = mixture("groups", (3,)), torch.zeros(5, 2, 2), torch.ones(2, 2) > 0
    with pytest.raises(ValueError, match=r"^value: expected .* \(3,\), got \(5, 2, 2\)"):
        p.given(x, mask)
    with pytest.raises(ValueError, match=r"^mask: expected .* \(3,\), got \(5, 2, 2\)"):
        p.given(x[0], mask.expand(5, 2, 2))


@pytest.mark.parametrize("name", ["networks", "networks, ended"])
def test_the_components_are_left_as_they_are(name):  # trap 21
    parts = COMPONENTS[name]((2,))
    p = ad.Mixture(dist.Categorical(torch.ones(len(parts))), parts, validate_args=False)
    p.expand((3, 2)).log_prob(p.sample())
    assert all(part._validate_args and part.batch_shape in ((), (2,)) for part in parts)
    with pytest.raises(ValueError, match="inside the support"):
        parts[0].log_prob(torch.full_like(p.sample(), 7))


def test_supports_agree_by_what_they_allow():
    laplace = ad.Factorization(3, [fam.Laplace(), fam.Normal(), fam.Laplace()])
    columns = ad.Factorization.columns(a=fam.Bernoulli(), b=fam.Categorical(3), c=fam.Bernoulli())
    half = dist.Uniform(torch.zeros(3), 1.0).to_event(1)
    weights = dist.Categorical(torch.ones(2))
    for first, second in (
        (made(laplace), made(THREE)),
        (made(laplace), dist.MultivariateNormal(torch.zeros(3), torch.eye(3))),
        (made(COLUMNS), rnn(columns)),
        (half, dist.Uniform(torch.zeros(3), 1.0).to_event(1)),
        (dist.Dirichlet(torch.ones(3)), dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0]))),
        (made(SCALAR), dist.Bernoulli(0.1)),
    ):
        p = ad.Mixture(weights, [first, second])
        assert p.support.check(p.sample((9,))).all()
    for first, second in (
        (made(THREE), made(ad.Factorization(3, fam.Gamma()))),
        (made(COLUMNS), made(ad.Factorization(3, fam.Categorical(3)))),
        (half, dist.Uniform(torch.zeros(3), 2.0).to_event(1)),
        (made(ENDED), made(ad.Factorization(3, fam.Categorical(3)))),
        (made(ENDED), made(ad.Factorization(3, fam.Categorical(3), end=2))),
    ):
        with pytest.raises(ValueError, match=r"components\[1\]: expected the support .* got"):
            ad.Mixture(weights, [first, second])


def test_components_that_do_not_fit_are_refused_by_name():
    parts, weights = [made(TOTAL), rnn(TOTAL)], dist.Categorical(torch.ones(2))
    with pytest.raises(ValueError, match="mixing: expected a Categorical, got Bernoulli"):
        ad.Mixture(dist.Bernoulli(0.5), parts)
    with pytest.raises(
        ValueError, match=r"components: expected a sequence that is not empty, got \[\]"
    ):
        ad.Mixture(weights, [])
    with pytest.raises(ValueError, match=r"components: expected a sequence .* got Autoregressive"):
        ad.Mixture(weights, parts[0])
    with pytest.raises(ValueError, match=r"components\[1\]: expected a Distribution, got 3"):
        ad.Mixture(weights, [parts[0], 3])
    with pytest.raises(
        ValueError, match="components: expected 3, one for each weight of mixing, got 2"
    ):
        ad.Mixture(dist.Categorical(torch.ones(3)), parts)
    with pytest.raises(ValueError, match=r"components\[1\]: .* event_shape \(2, 2\) .* got \(3,\)"):
        ad.Mixture(weights, [parts[0], made(THREE)])
    message = r"components: .* with the batch_shape \(3,\) of mixing, got \[\(2,\), \(\)\]"
    with pytest.raises(ValueError, match=message):
        ad.Mixture(dist.Categorical(torch.ones(3, 2)), [made(TOTAL, (2,)), parts[1]])
    p = ad.Mixture(weights, parts)
    with pytest.raises(ValueError, match=r"batch_shape: \(2,\) cannot be expanded to \(3,\)"):
        p.expand((2,)).expand((3,))
    with pytest.raises(ValueError, match=r"value: expected block \(0, 1\) inside the support"):
        p.log_prob(torch.tensor([[0.0, 2.0], [0.0, 1.0]]))
    with pytest.raises(NotImplementedError, match="at most 4096 states, got infinitely many"):
        ad.Mixture(weights, [made(THREE), rnn(THREE)]).enumerate_support()


def test_events_that_no_component_can_draw_have_no_gradients():
    torch.manual_seed(0)
    fac = ad.Factorization(2, fam.TopK(fam.Categorical(3), 1))
    nets = [random_made(fac, hidden_features=4) for _ in range(2)]
    weights = torch.distributions.Categorical(torch.ones(2))
    p = ad.Mixture(weights, [net.condition() for net in nets])
    scores = p.log_prob(torch.cartesian_prod(torch.arange(3), torch.arange(3)))
    possible = scores > -torch.inf
    assert 0 < possible.sum() < 9
    scores[possible].sum().backward()
    assert all(w.grad.isfinite().all() for net in nets for w in net.parameters())
    params = torch.randn(8, requires_grad=True)
    scores = fam.Mixture(fam.TopK(fam.Categorical(3), 1), 2).log_prob(params, torch.arange(3))
    scores[scores > -torch.inf].sum().backward()
    assert params.grad.isfinite().all()


def test_networks_of_their_own_may_nest_sequences():
    """Equal supports are of other objects."""

    def net():
        word = ad.Factorization(2, fam.Bernoulli(), end=1)
        inner = random_made(word, context_shape=(2,), hidden_features=8)
        partition = ad.Partition.along(0)
        fac = ad.Factorization((2, 2), fam.Nested(inner), partition=partition)
        return random_made(fac, hidden_features=8)

    p = ad.Mixture(dist.Categorical(torch.ones(2)), [net().condition(), net().condition()])
    assert p.support.check(p.sample((20,))).all()
