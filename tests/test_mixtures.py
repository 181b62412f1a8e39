"""Mixtures over orderings: exact, and a distribution like any other."""

import copy
import math
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from table import CONTEXT, GPT, Plain
from torch.distributions import biject_to, constraints

import ardist as ad
from ardist import families as fam
from ardist import networks

ORDERINGS = [ad.Ordering.raster(), ad.Ordering.random(1), ad.Ordering.reverse()]


class AnyOrder(networks.ConditionalNetwork):
    """Serves any order but no order for each row: a linear map, masked by the ranks."""

    def __init__(self, factorization, context_shape=()):
        super().__init__(factorization, context_shape=context_shape)
        count = factorization.num_blocks
        width = factorization.families[0].num_params
        self.weight = torch.nn.Parameter(torch.randn(count, width, count))
        self.bias = torch.nn.Parameter(torch.randn(count, width))
        self.context = torch.nn.Linear(3, count * width) if context_shape else None

    def accepts(self, factorization):
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
DISCRETE = [name for name in MIXTURES if "normal" not in name]
each = pytest.mark.parametrize("name", MIXTURES)
discrete = pytest.mark.parametrize("name", DISCRETE)


def mixture(name, batch=None, **options):
    """A mixture of the table, under `batch` contexts, or without a context."""
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
    counts = same.sum(1).double()
    expected = p.log_prob(states).exp().double() * len(x)
    kept = expected > 5
    chi2 = torch.where(kept, (counts - expected) ** 2 / expected, 0.0).sum(0)
    freedom = kept.sum(0) - 1
    assert (chi2 < freedom + 5 * (2 * freedom) ** 0.5 + 5).all()


@pytest.mark.parametrize("name", ["normal", "normal, groups"])
def test_continuous_samples_follow_log_prob(name, float64):
    """Importance weights between the mixture and one of its components have mean one."""
    p = mixture(name, (2,))
    x = p.sample((1500,))
    for component in p.components:
        weight = (component.log_prob(x) - p.log_prob(x)).exp()  # at most the number of components
        error = weight.std(0) / len(x) ** 0.5
        assert ((weight.mean(0) - 1).abs() < 5 * error).all()
        assert (error > 1e-4).all()


@each
def test_shapes_expansion_and_broadcasting(name):
    for batch in (None, (), (2,), (3, 1)):
        p = mixture(name, batch)
        shape, event = p.batch_shape, p.event_shape
        assert (shape, event) == (torch.Size(batch or ()), MIXTURES[name][1].event_shape)
        for sample in ((), (2,), (3, 2), (0,)):
            x = p.sample(sample)
            assert x.shape == p.shape(sample) == torch.Size(sample) + shape + event
            assert p.log_prob(x).shape == torch.Size(sample) + shape
        x = p.sample()
        filled = tuple(4 if size == 1 else size for size in shape)
        for larger in (shape, filled, (2, *shape), (3, 1, *shape)):
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


@pytest.mark.parametrize("name", ["rows", "groups"])
def test_at_observed_and_latent_sites_of_pyro(name):
    p = mixture(name, (5,))
    x = p.sample()
    net = p.components[0].network

    def model(x=None):
        pyro.module("net", net)
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


@each
def test_pickled_and_printed(name):
    p = mixture(name, (2,))
    x = p.sample((3,))
    assert torch.equal(pickle.loads(pickle.dumps(p)).log_prob(x), p.log_prob(x))
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
    with pytest.raises(ValueError, match=r"orderings: expected a sequence of some, got \[\]"):
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
