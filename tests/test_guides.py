"""Autoregressive guides: their graph, their gradients, and Pyro's contract of guides."""

import copy
import math
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    SVI,
    Predictive,
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from pyro.infer.autoguide import AutoGuideList, AutoNormal, init_to_value
from pyro.infer.reparam import NeuTraReparam
from table import random_made
from torch.autograd.functional import hessian, jacobian
from torch.distributions import constraints

import ardist as ad
from ardist import families as fam
from ardist.guides import AutoAutoregressive

MIXTURE = fam.Mixture(fam.Normal(), 3)


def funnel():
    v = pyro.sample("v", dist.Normal(0.0, 1.5))
    with pyro.plate("three", 3):
        pyro.sample("x", dist.Normal(0.0, (v / 2).exp()))


def schools():
    mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
    scale = pyro.sample("scale", dist.HalfCauchy(5.0))
    with pyro.plate("schools", 4):
        noise = pyro.sample("noise", dist.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", mean + scale * noise)
        pyro.sample("y", dist.Normal(theta, 10.0), obs=torch.tensor([28.0, 8.0, -3.0, 7.0]))


def grid():
    """Two plates that cross, latents in each, in both and in none, and vectors."""
    rows, columns = pyro.plate("rows", 3, dim=-2), pyro.plate("columns", 2, dim=-1)
    with columns:
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with rows:
        a = pyro.sample("a", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    top = pyro.sample("top", dist.Normal(0.0, 1.0))
    with rows, columns:
        c = pyro.sample("c", dist.Normal(a.sum(-1) + b, 1.0))
        pyro.sample("y", dist.Normal(c + 0.5 * top, 1.0), obs=torch.ones(3, 2))


def chain():
    """Latents of a random walk, and one that only their sum observes."""
    x, total = torch.tensor(0.0), torch.tensor(0.0)
    for t in range(4):
        x = pyro.sample(f"x{t}", dist.Normal(x, 1.0))
        pyro.sample(f"y{t}", dist.Normal(x, 1.0), obs=torch.tensor(1.0))
    for name in ("u", "w"):
        total = total + pyro.sample(name, dist.Normal(0.0, 1.0))
    pyro.factor("sum", -total.square())


def separate():
    """Two groups of latents that have nothing to do with each other."""
    with pyro.plate("p", 2):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=torch.ones(2))


def made(model, *args, **kwargs):
    pyro.clear_param_store()  # which goes by names, alike in all guides of a class
    guide = AutoAutoregressive(model, *args, **kwargs)
    guide()
    return guide


def parents(guide):
    return guide.network.factorization.dependencies


def stir(guide):
    """Other weights than those of the start, which are zero where they reach the conditionals."""
    with torch.no_grad():
        for weight in guide.network.parameters():
            weight.normal_(0.0, 0.3)


def train(model, guide, steps, lr):
    plan = {"optimizer": torch.optim.Adam, "optim_args": {"lr": lr}, "T_max": steps}
    plan = pyro.optim.CosineAnnealingLR(plan)
    elbo = Trace_ELBO(num_particles=32, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(model, guide, plan, elbo)
    for _ in range(steps):
        svi.step()
        plan.step()


def loss(model, guide, num_particles=4000):
    elbo = Trace_ELBO(num_particles=num_particles, vectorize_particles=True, max_plate_nesting=1)
    with torch.no_grad():
        return elbo.loss(model, guide)


def walk():
    """A plate that is entered twice, whose slices meet in between."""
    steps = pyro.plate("steps", 5)
    with steps:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
    x = z.cumsum(-1)
    with steps:
        pyro.sample("y", dist.Normal(x, 0.3), obs=torch.ones(5))


# The model's graph.


def test_dense_by_default():
    assert parents(made(schools)).sum(-1).tolist() == list(range(6))
    reverse = made(schools, ordering=ad.Ordering.reverse())
    assert parents(reverse).sum(-1).tolist() == list(range(6))[::-1]


def test_what_is_local_comes_at_the_end_and_in_one_step():
    for model, shared in ((funnel, 1), (schools, 2)):
        guide = made(model, ordering="model")
        own = parents(guide)
        assert own[shared:, :shared].all()
        assert not own[:, shared:].any()
        assert own[:shared, :shared].sum() == shared - 1
        assert guide.network.factorization.num_steps == shared + 1


@pytest.mark.parametrize(
    ("model", "edges"),
    [(grid, None), (chain, 4), (separate, 0), (walk, 10)],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_the_graph_is_what_the_posterior_needs(model, edges, float64):
    """In a Gaussian posterior, regressions on all that is earlier have weights on parents only."""
    guide = made(model, ordering="model")
    trace = guide.prototype_trace
    shapes = {name: trace.nodes[name]["value"].shape for name in trace.stochastic_nodes}

    def log_joint(vector):
        parts = vector.split([shape.numel() for shape in shapes.values()])
        values = {name: x.reshape(shapes[name]) for name, x in zip(shapes, parts, strict=True)}
        return poutine.trace(poutine.condition(model, values)).get_trace().log_prob_sum()

    covariance = -hessian(log_joint, torch.randn(guide.latent_dim)).inverse()
    order = guide.network.factorization.ranks.argsort(stable=True)
    needed = torch.zeros_like(parents(guide))
    for place, element in enumerate(order):
        earlier = order[:place]
        block, row = covariance[earlier][:, earlier], covariance[earlier, element]
        needed[element, earlier] = torch.linalg.solve(block, row).abs() > 1e-9
    torch.testing.assert_close(parents(guide), needed)
    if edges is not None:
        assert needed.sum() == edges


def test_elements_of_one_event_depend_on_each_other():
    def model():
        with pyro.plate("p", 2):
            pyro.sample("z", dist.Dirichlet(torch.ones(4)))

    own = parents(made(model, ordering="model"))  # two simplices of three numbers each
    blocks = torch.block_diag(*[torch.ones(3, 3).tril(-1)] * 2).bool()
    assert torch.equal(own, blocks) or torch.equal(own, blocks | blocks.T)
    assert own.sum() == 6


@pytest.mark.parametrize("model", [schools, grid])
def test_the_posterior_follows_the_graph(model, float64):
    guide = made(model, fam.Spline(4), ordering="model")
    stir(guide)
    z = torch.randn(guide.latent_dim)
    slopes = jacobian(guide.get_base_dist().log_prob_blocks, z) != 0
    torch.testing.assert_close(slopes, parents(guide) | torch.eye(len(z), dtype=torch.bool))


def test_latents_in_the_context_of_an_autoregressive_prior():
    fac = ad.Factorization(3, fam.Normal())
    prior = random_made(fac, hidden_features=8, context_shape=(2,))

    def model():
        pyro.module("prior", prior)
        c = pyro.sample("c", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        pyro.sample("z", prior.condition(c))
        pyro.sample("apart", dist.Normal(0.0, 1.0))

    own = parents(made(model, ordering="model"))
    assert own[:5, :5].sum() == 10
    assert not own[5].any()
    assert not own[:, 5].any()


# The fit.


@pytest.mark.slow
def test_a_gaussian_posterior_is_reached(float64):
    observed = torch.tensor([1.0, 2.0])

    def model():
        with pyro.plate("two", 2):
            x = pyro.sample("x", dist.Normal(0.0, 2.0))
        mean = torch.stack((x[..., 0] + x[..., 1], x[..., 0] - 0.5 * x[..., 1]), -1)
        with pyro.plate("observed", 2):
            pyro.sample("y", dist.Normal(mean, 0.7), obs=observed)

    guide = made(model, hidden_features=(), init_scale=0.5)
    train(model, guide, 200, 0.1)
    maps = torch.tensor([[1.0, 1.0], [1.0, -0.5]])
    covariance = (torch.eye(2) / 4 + maps.T @ maps / 0.49).inverse()
    mean = covariance @ maps.T @ observed / 0.49
    evidence = dist.MultivariateNormal(torch.zeros(2), 4 * maps @ maps.T + 0.49 * torch.eye(2))
    exact = -evidence.log_prob(observed).item()
    assert loss(model, guide) == pytest.approx(exact, abs=0.005)  # their difference is the KL
    torch.testing.assert_close(guide.median()["x"], mean, rtol=0, atol=0.06)
    levels = [0.05, 0.95]
    normal = dist.Normal(mean, covariance.diagonal().sqrt())
    expected = torch.stack([normal.icdf(torch.tensor(level)) for level in levels])
    torch.testing.assert_close(guide.quantiles(levels)["x"], expected, rtol=0, atol=0.1)


@pytest.mark.slow
def test_a_funnel_is_learned():
    """Far nearer than the best Gaussian with independent elements, whose KL is known."""
    guide = made(funnel, ordering="model", hidden_features=32, init_scale=0.5)
    train(funnel, guide, 150, 0.05)
    gaussian = 0.5 * math.log(1.5**2 * (1 / 1.5**2 + 3 / 2))
    assert loss(funnel, guide) < 0.25 * gaussian  # the evidence is 1


@pytest.mark.parametrize("family", [fam.Normal(), MIXTURE], ids=str)
def test_gradients_match_quadrature(family, float64):
    def model():
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        b = pyro.sample("b", dist.Normal(a.sin(), (a / 2).exp()))
        pyro.sample("y", dist.Normal(a * b, 0.5), obs=torch.tensor(0.7))

    guide = made(model, family, hidden_features=8, init_scale=0.7)
    stir(guide)
    guide.zero_grad()
    elbo = Trace_ELBO(num_particles=40_000, vectorize_particles=True, max_plate_nesting=0)
    elbo.differentiable_loss(model, guide).backward()
    found = torch.cat([weight.grad.flatten() for weight in guide.parameters()])

    axis = torch.linspace(-14.0, 14.0, 701)
    x = torch.cartesian_prod(axis, axis)
    a, b = x.unbind(-1)
    log_p = dist.Normal(0.0, 1.0).log_prob(a) + dist.Normal(a.sin(), (a / 2).exp()).log_prob(b)
    log_p = log_p + dist.Normal(a * b, 0.5).log_prob(torch.tensor(0.7))
    log_q = guide.get_posterior().log_prob(x)
    mass = log_q.exp() * (axis[1] - axis[0]) ** 2
    assert mass.sum().item() == pytest.approx(1.0, abs=1e-3)
    exact = torch.autograd.grad((mass * (log_q - log_p)).sum(), list(guide.parameters()))
    expected = torch.cat([gradient.flatten() for gradient in exact])
    assert (found - expected).norm() < 0.08 * expected.norm()


# The initialization.


@pytest.mark.parametrize("family", [fam.Normal(), fam.Spline(8), MIXTURE], ids=str)
def test_it_starts_around_the_initial_values(family):
    start = init_to_value(values={"v": torch.tensor(2.0), "x": torch.tensor([-1.0, 0.0, 1.0])})
    guide = made(funnel, family, init_loc_fn=start, init_scale=0.01)
    draws = guide.get_posterior().sample((4000,))
    torch.testing.assert_close(
        draws.mean(0), torch.tensor([2.0, -1.0, 0.0, 1.0]), rtol=0, atol=0.006
    )
    assert ((draws.std(0) > 0.005) & (draws.std(0) < 0.02)).all()
    assert draws.T.corrcoef().triu(1).abs().max() < 0.1


def test_it_takes_the_models_dtype(float64):
    guide = made(schools)
    torch.set_default_dtype(torch.float32)
    assert {weight.dtype for weight in guide.parameters()} == {torch.float64}
    assert guide.get_posterior().sample().dtype == torch.float64


def test_the_default_width_grows_with_the_sets_of_dependencies():
    def model():
        pyro.sample("z", dist.Normal(torch.zeros(30), 1.0).to_event(1))

    assert made(model).network.hidden_features == (120, 120)
    assert made(schools, ordering="model").network.hidden_features == (64, 64)


# Pyro's contract of guides.


class Below(dist.Normal):
    support = constraints.less_than(1.0)


def constrained():
    a = pyro.sample("a", dist.HalfNormal(1.0))
    pyro.sample("below", Below(-9.0, 1.0))
    pyro.sample("b", dist.Beta(2.0, a + 1.0))
    corr = pyro.sample("corr", dist.LKJCholesky(3, a + 1.0))
    with pyro.plate("p", 2):
        pyro.sample("d", dist.Dirichlet(torch.ones(4)))
        pyro.sample("y", dist.Normal(corr[..., 1, 0], 1.0), obs=torch.ones(2))


@pytest.mark.parametrize("ordering", [None, "model"])
def test_constrained_latents(ordering):
    guide = made(constrained, MIXTURE, ordering=ordering)
    SVI(constrained, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step()
    sites = {name: site["fn"] for name, site in guide.prototype_trace.iter_stochastic_nodes()}
    low, middle, high = (
        {name: value[i] for name, value in guide.quantiles([0.1, 0.5, 0.9]).items()}
        for i in range(3)
    )
    for values in (guide(), guide.median(), low, middle, high):
        assert {name: value.shape for name, value in values.items()} == {
            name: fn.shape() for name, fn in sites.items()
        }
        assert all(fn.support.check(values[name]).all() for name, fn in sites.items())
    assert low["a"] < middle["a"] < high["a"]
    assert low["below"] < middle["below"] < high["below"]
    drawn = Predictive(constrained, guide=guide, num_samples=5)()
    assert drawn["d"].shape == (5, 2, 4)


def test_density_of_constrained_latents():
    """With the Jacobian of the constraint, the density of a draw integrates to one."""

    def model():
        pyro.sample("a", dist.Gamma(2.0, 1.0))

    guide = made(model, init_scale=0.5)
    a = torch.linspace(0.001, 60.0, 200_000)
    latent = a.log()
    density = (guide.get_posterior().log_prob(latent[:, None]) - latent).exp()
    assert torch.trapezoid(density, a).item() == pytest.approx(1.0, abs=1e-3)
    trace = poutine.trace(guide).get_trace()
    value = trace.nodes["a"]["value"]
    expected = guide.get_posterior().log_prob(value.log()[None]) - value.log()
    torch.testing.assert_close(trace.log_prob_sum(), expected)


@pytest.mark.parametrize("kind", [Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO, RenyiELBO])
@pytest.mark.parametrize("ordering", [None, "model"])
def test_bounds(kind, ordering):
    guide = made(funnel, ordering=ordering)
    options = {"alpha": 0.999} if kind is RenyiELBO else {}
    bound = kind(num_particles=2000, vectorize_particles=True, max_plate_nesting=1, **options)
    guide.zero_grad()
    assert bound.loss_and_grads(funnel, guide) == pytest.approx(loss(funnel, guide), rel=0.02)
    assert all(weight.grad.isfinite().all() for weight in guide.parameters())
    assert guide.network.direct.weight.grad.abs().sum() > 0
    kind(num_particles=2, max_plate_nesting=1, **options).loss_and_grads(funnel, guide)


def test_draws_inside_a_plate():
    guide = made(schools, ordering="model")
    with pyro.plate("draws", 7, dim=-2):
        values = guide()
    assert values["noise"].shape == (7, 4)
    assert values["mean"].shape == (7, 1)
    assert guide.get_posterior().rsample((3, 2)).shape == (3, 2, 6)


def test_as_a_reparameterization():
    guide = made(funnel, init_scale=0.7)
    apart = NeuTraReparam(guide).reparam(funnel)
    trace = poutine.trace(apart).get_trace()
    x = guide.loc + guide.scale * trace.nodes["v_shared_latent"]["value"]
    given = poutine.condition(funnel, {"v": x[0], "x": x[1:]})
    expected = poutine.trace(given).get_trace().log_prob_sum() + guide.scale.log().sum()
    torch.testing.assert_close(trace.log_prob_sum(), expected)


def test_a_step_gives_the_new_values():  # trap 28
    guide = made(schools)
    x = guide.get_posterior().rsample()
    before = guide.get_posterior().log_prob(x)
    SVI(schools, guide, pyro.optim.SGD({"lr": 0.01}), Trace_ELBO()).step()
    assert not torch.isclose(guide.get_posterior().log_prob(x), before)


def test_saving_and_copying():
    guide = made(funnel, MIXTURE, ordering="model")
    stir(guide)
    x = torch.randn(5, 4)
    expected = guide.get_posterior().log_prob(x)
    other = made(funnel, MIXTURE, ordering="model")
    assert not torch.allclose(other.get_posterior().log_prob(x), expected)
    other.load_state_dict(guide.state_dict())
    for copied in (other, copy.deepcopy(guide), pickle.loads(pickle.dumps(guide))):
        torch.testing.assert_close(copied.get_posterior().log_prob(x), expected)
    with pytest.raises(ValueError, match=r"state_dict: made for another factorization"):
        made(funnel, MIXTURE).load_state_dict(guide.state_dict())


def test_parameters_in_the_store():
    guide = made(funnel)
    SVI(funnel, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step()
    stored = {id(weight) for _, weight in pyro.get_param_store().named_parameters()}
    assert {id(weight) for weight in guide.parameters()} <= stored


def test_beside_other_guides_and_enumeration():
    def model():
        weight = pyro.sample("weight", dist.Beta(1.0, 1.0))
        loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 3.0).to_event(1))
        pyro.sample("other", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 4):
            k = pyro.sample("k", dist.Bernoulli(weight), infer={"enumerate": "parallel"})
            where = torch.where(k > 0, loc[..., :1], loc[..., 1:])
            pyro.sample("y", dist.Normal(where, 1.0), obs=torch.tensor([-2.0, -2.0, 2.0, 2.0]))

    guide = AutoGuideList(model)
    guide.append(AutoAutoregressive(poutine.block(model, expose=["weight", "loc"])))
    guide.append(AutoNormal(poutine.block(model, expose=["other"])))
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), TraceEnum_ELBO(max_plate_nesting=1))
    losses = [svi.step() for _ in range(40)]
    assert sum(losses[-10:]) < sum(losses[:10])
    assert guide.median()["loc"].shape == (2,)


# Errors.


@pytest.mark.parametrize(
    "family",
    [
        fam.Gamma(),
        fam.Beta(),
        fam.Bernoulli(),
        fam.VonMises(),
        fam.Independent(fam.Normal(), 2),
        fam.MultivariateNormal(2),
        dist.Normal(0.0, 1.0),
        fam.Parametric(dist.Stable),
    ],
    ids=str,
)
def test_families_that_are_refused(family):
    with pytest.raises(ValueError, match=r"family: expected one of a number on the real line"):
        AutoAutoregressive(funnel, family)


def test_errors():
    with pytest.raises(ValueError, match=r'ordering: expected an Ordering, "model" or None, got 3'):
        AutoAutoregressive(funnel, ordering=3)
    with pytest.raises(ValueError, match=r"init_scale: expected a positive number, got 0.0"):
        AutoAutoregressive(funnel, init_scale=0.0)
    with pytest.raises(ValueError, match=r"ordering: expected one over the 4 blocks"):
        made(funnel, ordering=ad.Ordering.permutation([1, 0]))
    with pytest.raises(ValueError, match=r"hidden_features: expected positive integers"):
        made(funnel, hidden_features=0)


def test_models_that_are_refused():
    def subsampled():
        with pyro.plate("data", 10, subsample_size=3):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    def discrete():
        pyro.sample("k", dist.Bernoulli(0.5))

    with pytest.raises(
        ValueError,
        match=r"model: expected no latents inside subsampled plates, got 'z' in 'data' with 3 of",
    ):
        made(subsampled)
    with pytest.raises(ValueError, match=r"cannot handle discrete sample site 'k'"):
        made(discrete)
    with pytest.raises(RuntimeError, match=r"found no latent variables"):
        made(lambda: None)


def test_data_may_be_subsampled():
    data = torch.randn(10)

    def model():
        mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
        with pyro.plate("data", 10, subsample_size=5) as index:
            pyro.sample("y", dist.Normal(mean, 1.0), obs=data[index])

    guide = made(model, ordering="model")
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    assert math.isfinite(svi.step() + svi.step())
    assert guide.latent_dim == 1
