"""Distributions as bijections: against autograd's Jacobians, and against the distributions."""

import copy
import gc
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws import assert_cdf, assert_mean, quantile
from pyro.distributions.transforms import Permute
from table import build, condition, fits, random_made
from torch.distributions import AffineTransform, ComposeTransform, TanhTransform

import ardist as ad
from ardist import families as fam
from ardist import networks
from ardist.transforms import AutoregressiveTransform, Rosenblatt

pytestmark = pytest.mark.usefixtures("float64")

STANDARD = {  # families and the law of their noise
    "normal": (fam.Normal(), dist.Normal),
    "laplace": (fam.Laplace(), dist.Laplace),
    "logistic": (fam.Logistic(), dist.Logistic),
    "log_normal": (fam.LogNormal(), dist.Normal),
    "spline": (fam.Spline(4), dist.Normal),
    "tempered": (fam.Tempered(fam.Laplace(), 0.5), dist.Laplace),
    "transformed": (fam.Transformed(fam.Logistic(), TanhTransform()), dist.Logistic),
    "decreasing": (fam.Transformed(fam.LogNormal(), AffineTransform(3.0, -2.0)), dist.Normal),
}


def _made(family=None, shape=4, ordering=None, **options):
    fac = ad.Factorization(shape, family or fam.Normal(), ordering=ordering)
    net = random_made(fac, hidden_features=(24,), **options)
    with torch.no_grad():  # blocks that depend on each other
        for parameter in net.parameters():
            parameter.mul_(1.5)
    return net


def _noise(law, size=4):
    return law(torch.zeros(size), torch.ones(size)).to_event(1)


def _layers(context=None, **options):
    nets = [_made(ordering=o, **options) for o in (ad.Ordering.raster(), ad.Ordering.reverse())]
    return [AutoregressiveTransform(net, context) for net in nets]


def _jacobian(transform, x):
    """log |det| of autograd's Jacobian at one event."""
    jacobian = torch.autograd.functional.jacobian(lambda x: transform(x).flatten(), x)
    return torch.linalg.slogdet(jacobian.reshape(x.numel(), x.numel())).logabsdet


# From noise to events.


@pytest.mark.parametrize("family", STANDARD)
def test_the_families_own_noise_gives_the_networks_distribution(family):
    family, law = STANDARD[family]
    net = _made(family, context_shape=(3,))
    context = torch.randn(5, 3)
    p, transform = net.condition(context), AutoregressiveTransform(net, context)
    d = dist.TransformedDistribution(_noise(law), [transform])
    assert (d.batch_shape, d.event_shape) == (p.batch_shape, p.event_shape)
    x = p.sample((6,))
    torch.testing.assert_close(d.log_prob(x), p.log_prob(x), rtol=1e-9, atol=1e-9)
    assert p.support.check(d.sample((20,))).all()


@pytest.mark.parametrize("family", STANDARD)
def test_the_inverse_and_the_jacobian(family):
    transform = AutoregressiveTransform(_made(STANDARD[family][0], ordering=ad.Ordering.random(1)))
    z = torch.randn(7, 4)
    x = transform(z)
    torch.testing.assert_close(transform.inv(x), z, rtol=1e-7, atol=1e-7)
    expected = torch.stack([_jacobian(transform, one) for one in z])
    torch.testing.assert_close(transform.log_abs_det_jacobian(z, x), expected)
    torch.testing.assert_close(transform.inv.log_abs_det_jacobian(x, z), -expected)


@pytest.mark.parametrize(
    ("network", "ordering"),
    [
        (network, ordering)
        for network in ("made", "rnn-gru", "wavenet", "transformer", "unshared", "markov", "plain")
        for ordering in ("raster", "random", "ties", "graph")
        if fits(network, f"normal-{ordering}")
    ],
)
def test_draws_and_gradients_are_those_of_autograd_through_the_steps(network, ordering):
    net = build(network, f"normal-{ordering}", context_shape=(3,))
    context = torch.randn(2, 3, requires_grad=True)
    z, weight = torch.randn(3, 2, 4, requires_grad=True), torch.randn(3, 2, 4)
    inputs = [z, context, *net.parameters()]

    x = torch.zeros(6, 4)
    for _ in range(net.factorization.num_steps):
        params = net(x, context)
        x = net.factorization.families[0].from_noise(params, z.reshape(6, 4))
    found = AutoregressiveTransform(net, context)(z)
    torch.testing.assert_close(found, x.reshape(3, 2, 4), rtol=1e-9, atol=1e-9)
    expected, gradients = (
        torch.autograd.grad((value * weight).sum(), inputs, allow_unused=True)
        for value in (x.reshape(3, 2, 4), found)
    )
    for one, other in zip(gradients, expected, strict=True):
        if other is not None:
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_gradients_of_blocks_of_several_families():
    columns = {"a": fam.Normal(), "b": fam.Spline(3), "c": fam.Logistic(), "d": fam.LogNormal()}
    fac = ad.Factorization.columns(columns, ordering=ad.Ordering.permutation([2, 0, 3, 1]))
    transform = AutoregressiveTransform(random_made(fac, hidden_features=(16,)))
    z = torch.randn(4)
    torch.testing.assert_close(transform.inv(transform(z)), z)
    forward = torch.autograd.functional.jacobian(transform, z)
    back = torch.autograd.functional.jacobian(transform.inv, transform(z).detach())
    torch.testing.assert_close(forward @ back, torch.eye(4))
    ranks = fac.ranks
    assert (forward[ranks.unsqueeze(1) < ranks] == 0).all()


@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_events_of_any_shape(shape):
    net = networks.Unshared(ad.Factorization(shape, fam.Normal()), hidden_features=(8,))
    transform = AutoregressiveTransform(net)
    z = torch.randn(5, *shape)
    x = transform(z)
    torch.testing.assert_close(transform.inv(x), z)
    assert transform.log_abs_det_jacobian(z, x).shape == (5,)
    assert transform.domain.event_dim == transform.codomain.event_dim == len(shape)


@pytest.mark.parametrize(
    "family", [fam.Independent(fam.Laplace(), (2,)), fam.MultivariateNormal(2)]
)
def test_blocks_of_several_elements(family):
    fac = ad.Factorization((3, 2), family, partition=ad.Partition.along(0))
    transform = AutoregressiveTransform(random_made(fac, hidden_features=(12,)))
    z = torch.randn(3, 2)
    x = transform(z)
    torch.testing.assert_close(transform.inv(x), z)
    torch.testing.assert_close(transform.log_abs_det_jacobian(z, x), _jacobian(transform, z))


def test_no_rows():
    transform = AutoregressiveTransform(build("rnn-gru", "normal-raster"))
    for direction in (transform, transform.inv):
        assert direction(torch.empty(0, 4)).shape == (0, 4)
    assert transform.log_abs_det_jacobian(torch.empty(0, 4), torch.empty(0, 4)).shape == (0,)
    for direction in (transform, transform.inv):
        transform.zero_grad()
        direction(torch.empty(0, 4)).sum().backward()
        assert not any(weight.grad.any() for weight in transform.parameters())


# Stacks.


def _stack(dim):
    first, second, third = (
        AutoregressiveTransform(_made(family, dim, ordering))
        for family, ordering in [
            (fam.Normal(), ad.Ordering.raster()),
            (fam.Spline(4), ad.Ordering.reverse()),
            (fam.Laplace(), ad.Ordering.random(1)),
        ]
    )
    return [first, second.inv, Permute(torch.arange(dim).roll(1)), third]


@pytest.mark.parametrize("dim", [3, 4])
def test_a_stack_has_autograds_jacobian(dim):
    stack = ComposeTransform(_stack(dim))
    z = torch.randn(5, dim)
    x = stack(z)
    expected = torch.stack([_jacobian(stack, one) for one in z])
    torch.testing.assert_close(stack.log_abs_det_jacobian(z, x), expected)
    back = torch.stack([_jacobian(stack.inv, one) for one in x.detach()])
    torch.testing.assert_close(back, -expected)


def test_a_stack_is_normalized():
    layers = _layers(shape=2)
    flow = dist.TransformedDistribution(_noise(dist.Normal, 2), layers)
    with torch.no_grad():
        x = flow.sample((100_000,))
        proposal = dist.MultivariateNormal(x.mean(0), 4 * x.T.cov())
        y = proposal.sample((100_000,))
        weights = (flow.log_prob(y) - proposal.log_prob(y)).exp()
    assert weights.std() < 15  # so that the mean is known to a twentieth
    assert_mean(weights, 1.0)


@pytest.mark.parametrize("inverse", [False, True])
def test_stacks_in_pyro(inverse):
    layers = _layers(torch.randn(6, 3), context_shape=(3,))
    flow = [layer.inv for layer in layers] if inverse else layers
    modules = torch.nn.ModuleList(layers)
    data = torch.randn(6, 4)

    def model():
        pyro.module("flow", modules)
        with pyro.plate("rows", 6):
            pyro.sample("z", _noise(dist.Normal))
            pyro.sample("x", dist.TransformedDistribution(_noise(dist.Normal), flow), obs=data)

    def guide():
        pyro.module("flow", modules)
        with pyro.plate("rows", 6):
            pyro.sample("z", dist.TransformedDistribution(_noise(dist.Normal), flow))

    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), pyro.infer.Trace_ELBO())
    before = copy.deepcopy(modules.state_dict())
    losses = [svi.step() for _ in range(30)]
    assert sum(losses[-5:]) < sum(losses[:5])
    after = modules.state_dict()
    for name, old in before.items():
        if name.endswith("weight"):
            assert not torch.equal(old, after[name]), name


def test_a_transformed_family_registers_the_network_inside():
    inner = AutoregressiveTransform(_made(shape=3))
    family = fam.Transformed(fam.Independent(fam.Normal(), (3,)), inner)
    fac = ad.Factorization((2, 3), family, partition=ad.Partition.along(0))
    net = random_made(fac, hidden_features=(8,))
    assert set(inner.parameters()) <= set(net.parameters())
    p = net.condition()
    x = p.rsample((5,))
    p.log_prob(x).sum().backward()
    assert all(parameter.grad is not None for parameter in inner.parameters())


# Modules, copies and caches.


def test_it_is_a_module_that_can_be_copied_and_saved():
    transform = AutoregressiveTransform(_made())
    other = AutoregressiveTransform(_made())
    other.load_state_dict(transform.state_dict())
    z = torch.randn(5, 4)
    for same in (other, copy.deepcopy(transform), pickle.loads(pickle.dumps(transform))):
        torch.testing.assert_close(same(z), transform(z))
    assert {id(p) for p in transform.parameters()} == {
        id(p) for p in transform.network.parameters()
    }


def test_the_context_moves_with_the_network():
    context = torch.randn(2, 3, requires_grad=True)
    transform = AutoregressiveTransform(_made(context_shape=(3,)), context)
    z = torch.randn(5, 2, 4)
    expected = transform(z)
    assert "context" not in transform.state_dict()
    found = transform.float()(z.float())
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    found.sum().backward()
    assert context.grad.abs().sum() > 0
    learned = AutoregressiveTransform(_made(context_shape=(3,)), torch.nn.Parameter(context))
    assert "context" in dict(learned.named_parameters())


def test_nothing_stale_after_an_optimizer_step():  # trap 28
    transform = AutoregressiveTransform(_made())
    z = torch.randn(5, 4)
    x = transform(z).detach()
    with torch.no_grad():
        for parameter in transform.parameters():
            parameter.add_(0.1)
    assert not torch.allclose(transform.inv(x), z)
    assert not torch.allclose(transform(z), x)


def test_a_cache_keeps_the_last_pair():
    transform = AutoregressiveTransform(_made()).with_cache()
    z = torch.randn(5, 4)
    assert transform.inv(transform(z)) is z
    assert transform.with_cache(0)(z) is not transform(z)
    assert Rosenblatt(_made().condition()).with_cache()._cache_size == 1


def test_it_never_drops_out():
    fac = ad.Factorization(4, fam.Normal())
    net = networks.Transformer(fac, dim=8, depth=1, heads=2, dropout=0.5).train()
    transform, z = AutoregressiveTransform(net), torch.randn(5, 4)
    torch.testing.assert_close(transform.inv(transform(z)), z)
    u = Rosenblatt(net.condition())(z)
    torch.testing.assert_close(Rosenblatt(net.condition()).inv(u), z)
    assert net.training


def test_without_gradients_there_is_no_graph():
    transform = AutoregressiveTransform(_made().requires_grad_(False))
    assert not transform(torch.randn(4)).requires_grad
    assert transform(torch.randn(4, requires_grad=True)).requires_grad


def test_a_second_derivative_raises():
    transform, z = AutoregressiveTransform(_made()), torch.randn(4, requires_grad=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(transform(z).sum(), z, create_graph=True)


# Uniforms.

CONTINUOUS = (
    *(f"normal-{name}" for name in ("raster", "random", "ties", "graph")),
    *(f"{name}-2" for name in ("laplace", "logistic", "log_normal", "mixture", "spline")),
    *(f"{name}-2" for name in ("transformed", "transformed_decreasing", "tempered")),
    *(f"{name}-2" for name in ("gamma", "beta", "exponential", "student_t")),
    "image-diagonal",
)
DISCRETE = (
    *(f"{name}-2" for name in ("bernoulli", "categorical", "poisson", "geometric")),
    *(f"{name}-2" for name in ("negative_binomial", "discretized", "top_k", "nucleus")),
    *("columns", "columns-permuted", "columns-ties", "bernoulli-random"),
    *("ended", "ended-padded", "ended-columns"),
)


@pytest.mark.parametrize("factorization", CONTINUOUS + DISCRETE)
def test_uniforms_are_uniform_and_lead_back(factorization):
    net = build("made", factorization, context_shape=(3,)).double()
    p = condition(net, 2)
    transform, x = Rosenblatt(p), p.sample((4000,))
    with torch.no_grad():
        u = transform(x) if transform.bijective else transform.randomized(x)
        assert u.shape == x.shape
        assert ((u >= 0) & (u <= 1)).all()
        for each in u.flatten(1).T:
            assert_cdf(each)
        flat = u.flatten(2)
        products = ((flat - 0.5).unsqueeze(-1) * (flat - 0.5).unsqueeze(-2)).mean(0)
        off = products - torch.diag_embed(products.diagonal(dim1=-2, dim2=-1))
        assert off.abs().max() < quantile(4000) / 12 / 4000**0.5
        if factorization in DISCRETE:
            other = transform.randomized(x)
            assert not torch.equal(u, other)
        back = transform.inv(u[:200])
    torch.testing.assert_close(back, x[:200], rtol=1e-6, atol=1e-6)


def test_uniforms_of_another_distribution_are_not_uniform():
    p = condition(build("made", "normal-raster").double())
    with torch.no_grad():
        u = Rosenblatt(p)(p.sample((4000,)) + 0.2)
    with pytest.raises(AssertionError):
        assert_cdf(u[:, 0])


@pytest.mark.parametrize("network", ["rnn-gru", "transformer", "wavenet", "unshared", "foreign"])
@pytest.mark.parametrize("factorization", ["normal-raster", "categorical-2"])
def test_uniforms_of_other_networks(network, factorization):
    p = condition(build(network, factorization).double())
    x = p.sample((50,))
    transform = Rosenblatt(p)
    torch.testing.assert_close(transform.inv(transform(x)), x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", [fam.Normal(), fam.Spline(4), fam.Mixture(fam.Normal(), 2)])
def test_uniforms_have_the_density_as_their_jacobian(family):
    p = _made(family).condition()
    transform, x = Rosenblatt(p), p.sample((4,))
    u = transform(x)
    score = transform.log_abs_det_jacobian(x, u)
    torch.testing.assert_close(score, p.log_prob(x))
    torch.testing.assert_close(score, torch.stack([_jacobian(transform, one) for one in x]))
    back = torch.stack([_jacobian(transform.inv, one) for one in u.detach()])
    torch.testing.assert_close(back, -score)


def test_there_is_no_jacobian_under_a_rule():
    net = networks.MADE(ad.Factorization.columns(a=fam.Normal()), hidden_features=8)
    p = net.condition().with_rule(ad.rules.Within(a=(0.0, None)))
    transform, x = Rosenblatt(p), p.sample((4,))
    with pytest.raises(NotImplementedError, match="no bijection of draws under Within"):
        transform.log_abs_det_jacobian(x, transform(x))


def test_gradients_back_from_uniforms():
    net = _made(fam.Logistic(), context_shape=(3,), ordering=ad.Ordering.random(1))
    context = torch.randn(2, 3, requires_grad=True)
    u, weight = torch.rand(2, 4, requires_grad=True), torch.randn(2, 4)
    inputs = [u, context, *net.parameters()]
    x = AutoregressiveTransform(net, context)(u.logit())
    found = Rosenblatt(net.condition(context)).inv(u)
    torch.testing.assert_close(found, x)
    expected, gradients = (
        torch.autograd.grad((value * weight).sum(), inputs) for value in (x, found)
    )
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


def test_gradients_back_from_uniforms_of_discrete_and_continuous_blocks():
    fac = ad.Factorization.columns(
        a=fam.Normal(), b=fam.Categorical(3), c=fam.Gamma(), d=fam.Logistic(), e=fam.Bernoulli()
    )
    transform = Rosenblatt(random_made(fac, hidden_features=(12,)).condition())
    u, step = torch.rand(5), 1e-6
    found = torch.autograd.functional.jacobian(transform.inv, u)
    sides = [transform.inv(u + sign * step * torch.eye(5)).T.detach() for sign in (1, -1)]
    # Of torch's gradients of Gamma draws a few digits are right.
    torch.testing.assert_close(found, (sides[0] - sides[1]) / (2 * step), rtol=1e-3, atol=1e-6)
    assert (found[2:, 0] != 0).sum() == 2


@pytest.mark.parametrize("factorization", ["normal-raster", "categorical-2", "ended", "columns"])
def test_rows_in_orders_of_their_own(factorization):
    net = build("transformer", factorization).double()
    size = net.factorization.num_blocks
    orders = torch.stack([torch.randperm(size) for _ in range(30)])
    p = net.condition().with_ordering(orders)
    x = p.sample()
    transform = Rosenblatt(p)
    torch.testing.assert_close(transform.inv(transform(x)), x, rtol=1e-6, atol=1e-6)
    one = Rosenblatt(net.condition().with_ordering(ad.Ordering.from_ranks(orders[7])))
    torch.testing.assert_close(transform(x)[7], one(x[7]))


def test_uniforms_under_other_params():
    net = _made()
    params = {name: value.detach() + 0.1 for name, value in net.named_parameters()}
    transform, x = Rosenblatt(net.condition(params=params)), torch.randn(4)
    assert not torch.allclose(transform(x), Rosenblatt(net.condition())(x))
    torch.testing.assert_close(transform.inv(transform(x)), x)


def test_the_ends_of_the_unit_interval_give_finite_events():
    p = _made().condition()
    assert Rosenblatt(p).inv(torch.tensor([[0.0] * 4, [1.0] * 4])).isfinite().all()


# Where a stack starts, and how many passes it takes.

BIJECTIVE = {  # from the families of the table that a transform takes
    "normal": fam.Normal(),
    "laplace": fam.Laplace(),
    "logistic": fam.Logistic(),
    "spline": fam.Spline(8),
    "tempered": fam.Tempered(fam.Normal(), 1.0),
    "multivariate_normal": fam.MultivariateNormal(3),
    "independent": fam.Independent(fam.Normal(), (3,)),
    "transformed": fam.Transformed(fam.Normal(), AffineTransform(0.0, 1.0)),
}


def _new_stack(network, family, depth, **options):
    """As users make it, for rows of six numbers."""
    wide = bool(family.event_shape)
    partition = ad.Partition.along(0) if wide else None
    layers = []
    for layer in range(depth):
        ordering = ad.Ordering.reverse() if layer % 2 else ad.Ordering.raster()
        fac = ad.Factorization(
            (2, 3) if wide else 6, family, partition=partition, ordering=ordering
        )
        layers.append(AutoregressiveTransform(network(fac, **options)))
    return layers


def _heavy(wide, count=200):
    """Standardized draws of Student's t with three degrees of freedom, the farthest 40 away."""
    x = dist.StudentT(3.0).sample((count, 6))
    x = (x - x.mean(0)) / x.std(0)
    x[0], x[1] = 40.0, -40.0
    return x.reshape(count, 2, 3) if wide else x


@pytest.mark.parametrize("family", BIJECTIVE)
def test_a_stack_starts_near_the_identity(family):
    torch.manual_seed(0)
    family = BIJECTIVE[family]
    wide = bool(family.event_shape)
    noise = dist.Normal(0.0, 1.0).expand((2, 3) if wide else (6,)).to_event(2 if wide else 1)
    x = _heavy(wide).float()
    for depth in range(1, 9):
        layers = _new_stack(random_made, family, depth, hidden_features=(64, 64))
        modules = torch.nn.ModuleList(layers).float()
        flow = dist.TransformedDistribution(noise, layers)
        z = ComposeTransform(layers).inv(x)
        inside = x.abs().flatten(1).amax(-1) < 5
        assert (z - x)[inside].abs().max() < 0.3 * depth
        scores = flow.log_prob(x)
        assert scores.isfinite().all()
        scores.mean().backward()
        assert all(parameter.grad.isfinite().all() for parameter in modules.parameters())


@pytest.mark.parametrize(
    "make",
    [
        lambda fac: random_made(fac, hidden_features=()),
        lambda fac: networks.Unshared(fac, hidden_features=(32,)),
        lambda fac: networks.Unshared(fac, hidden_features=()),
        lambda fac: networks.Markov(fac, window=2, hidden_features=(32,)),
        lambda fac: networks.Markov(fac, window=2, hidden_features=()),
        lambda fac: networks.RNN(fac, hidden_size=32),
        lambda fac: networks.WaveNet(fac, channels=16, depth=3),
        lambda fac: networks.Transformer(fac, dim=16, depth=2, heads=2),
    ],
    ids=[
        *("linear", "unshared", "unshared-linear", "markov", "markov-linear"),
        *("rnn", "wavenet", "transformer"),
    ],
)
def test_stacks_of_other_networks_start_near_the_identity(make):
    torch.manual_seed(0)
    layers, x = _new_stack(make, fam.Normal(), 5), _heavy(wide=False)
    z = ComposeTransform(layers).inv(x)
    assert (z - x)[x.abs().amax(-1) < 5].abs().max() < 2
    scores = dist.TransformedDistribution(dist.Normal(torch.zeros(6), 1.0).to_event(1), layers)
    assert scores.log_prob(x).isfinite().all()


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("family", BIJECTIVE)
def test_a_score_takes_one_pass_a_layer(family, inverse):
    layers = _new_stack(random_made, BIJECTIVE[family], 5, hidden_features=8)
    wide = bool(BIJECTIVE[family].event_shape)
    x, passes = _heavy(wide, 7), []
    for layer in layers:
        layer.network.register_forward_hook(lambda *given: passes.append(given))
    noise = dist.Normal(0.0, 1.0).expand(x.shape[1:]).to_event(x.dim() - 1)
    if inverse:  # a draw and its score, as in variational inference
        cached = [layer.with_cache() for layer in layers]
        flow = dist.TransformedDistribution(noise, [layer.inv for layer in cached])
        x = flow.rsample((7,))
    else:
        flow = dist.TransformedDistribution(noise, layers)
    score = flow.log_prob(x)
    assert len(passes) == 5
    again = flow.log_prob(x.clone() if not inverse else x)
    torch.testing.assert_close(again, score)
    score.sum().backward()


def test_a_jacobian_is_of_the_pair_and_of_the_parameters_that_are_there():
    transform = AutoregressiveTransform(_made())
    other = copy.deepcopy(transform)
    x = torch.randn(5, 4)
    z = transform.inv(x)
    torch.testing.assert_close(
        other.log_abs_det_jacobian(z, x), transform.log_abs_det_jacobian(z, x)
    )
    with torch.no_grad():
        z = transform.inv(x)
        fixed = transform.log_abs_det_jacobian(z, x)
        z = transform.inv(x)
    graph = transform.log_abs_det_jacobian(z, x)  # of noise that was made without gradients
    assert graph.requires_grad
    assert not fixed.requires_grad
    torch.testing.assert_close(graph, fixed)
    z = transform.inv(x)
    moved = transform.log_abs_det_jacobian(z, x + 1)
    z = transform.inv(x)
    with torch.no_grad():
        for parameter in transform.parameters():
            parameter.add_(0.1)
    stepped = transform.log_abs_det_jacobian(z, x)
    torch.testing.assert_close(stepped, copy.deepcopy(transform).log_abs_det_jacobian(z, x))
    assert not torch.allclose(moved, fixed)
    assert not torch.allclose(stepped, fixed)
    context = torch.zeros(3)
    bound = AutoregressiveTransform(_made(context_shape=(3,)), context)
    z = bound.inv(x)
    context.add_(1)
    stepped = bound.log_abs_det_jacobian(z, x)
    torch.testing.assert_close(stepped, copy.deepcopy(bound).log_abs_det_jacobian(z, x))
    copies = copy.deepcopy(transform), pickle.loads(pickle.dumps(transform))  # while noise lives
    assert all(torch.equal(one.inv(x), transform.inv(x)) for one in copies)
    z = transform.inv(x)
    del z
    gc.collect()
    assert not ad.transforms._log_dets  # nothing is left of noise that is gone
