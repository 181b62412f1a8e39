"""Transformed families and splines: agreement with torch and Pyro, learned transforms."""

import copy
import pickle

import pyro.distributions as dist
import pyro.distributions.transforms as flows
import pytest
import torch
from pyro.distributions.transforms.spline import _monotonic_rational_spline
from table import random_made
from torch.distributions import (
    AffineTransform,
    ComposeTransform,
    ExpTransform,
    IndependentTransform,
    PowerTransform,
    SigmoidTransform,
    SoftplusTransform,
    StickBreakingTransform,
    TanhTransform,
    constraints,
)

import ardist as ad
from ardist import families as fam

PAIR = fam.Independent(fam.Normal(), (2,))
TRANSFORMED = [
    (fam.Normal(), SigmoidTransform()),
    (fam.Normal(), [AffineTransform(0.5, -2.0), TanhTransform()]),
    (fam.Laplace(), ComposeTransform([SoftplusTransform(), AffineTransform(1.0, 3.0)])),
    (fam.Beta(), SigmoidTransform().inv),
    (fam.Gamma(), PowerTransform(-2.0)),
    (fam.Exponential(), [AffineTransform(1.0, 2.0), ExpTransform().inv]),
    (fam.Mixture(fam.Normal(), 3), ExpTransform()),
    (PAIR, StickBreakingTransform()),
    (PAIR, [ExpTransform(), AffineTransform(torch.tensor([0.0, 0.0]), 2.0)]),
    (fam.Dirichlet(3), StickBreakingTransform().inv),
    (fam.MultivariateNormal(2), [flows.Householder(2), flows.OrderedTransform()]),
    (fam.Independent(fam.Normal(), (3, 2)), StickBreakingTransform()),
]  # fmt: skip
SCALARS = [
    fam.Spline(5),
    fam.Transformed(fam.Normal(), SigmoidTransform()),
    fam.Transformed(fam.Normal(), [AffineTransform(0.5, -0.3), TanhTransform()]),
    fam.Transformed(fam.Spline(3), ExpTransform()),
    fam.Mixture(fam.Spline(4), 3),
]
transformed = pytest.mark.parametrize(
    "family", [fam.Transformed(*parts) for parts in TRANSFORMED], ids=str
)
scalars = pytest.mark.parametrize("family", SCALARS, ids=str)


@transformed
def test_scores_and_shapes_are_those_of_torch(family, float64):
    params = torch.randn(4, 5, family.num_params)
    inner = family.family(params)
    expected = torch.distributions.TransformedDistribution(inner, list(family.transforms))
    assert family.event_shape == expected.event_shape
    assert family.support.event_dim == len(family.event_shape)
    x = family.sample(params)
    assert x.shape == (4, 5, *family.event_shape)
    assert family.support.check(x).all()
    torch.testing.assert_close(
        family.log_prob(params, x), expected.log_prob(x), rtol=1e-6, atol=1e-6
    )
    for transform in reversed(family.transforms):
        x = transform.inv(x)
    features = family.features(family._forward(x))
    torch.testing.assert_close(features, family.family.features(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "transforms", "support"),
    [
        (fam.Normal(), [SigmoidTransform(), AffineTransform(1.0, -3.0)], (-2.0, 1.0)),
        (fam.Beta(), AffineTransform(-1.0, 2.0), (-1.0, 1.0)),
        (fam.Exponential(), AffineTransform(5.0, 2.0), (5.0, torch.inf)),
        (fam.Exponential(), AffineTransform(5.0, -2.0), (-torch.inf, 5.0)),
        (fam.Gamma(), ExpTransform(), (1.0, torch.inf)),
        (fam.Gamma(), ExpTransform().inv, (-torch.inf, torch.inf)),
        (fam.Gamma(), PowerTransform(-1.0), (0.0, torch.inf)),
        (fam.Exponential(), SigmoidTransform(), (0.5, 1.0)),
    ],
)
def test_the_support_is_where_the_transforms_carry_that_of_the_family(family, transforms, support):
    result = fam.Transformed(family, transforms).support
    ends = getattr(result, "lower_bound", -torch.inf), getattr(result, "upper_bound", torch.inf)
    assert ends == support
    net = random_made(ad.Factorization((), fam.Transformed(family, transforms)), hidden_features=4)
    ad.testing.check_normalized(net.double().condition(), num_points=2001, tolerance=1e-6)


@pytest.mark.parametrize("family", [family for family in SCALARS if family.has_noise], ids=str)
def test_gradients_match_finite_differences(family, float64):
    params = torch.randn(20, family.num_params, requires_grad=True)
    x = family.sample(params / 3).requires_grad_()
    assert torch.autograd.gradcheck(family.log_prob, (params, x), fast_mode=True)
    assert torch.autograd.gradcheck(family.cdf, (params, x), fast_mode=True)
    if not isinstance(family, fam.Mixture):
        noise = family.noise(torch.Size((20,)))
        assert torch.autograd.gradcheck(
            lambda p: family.from_noise(p, noise), (params,), fast_mode=True
        )


@scalars
def test_the_density_is_the_slope_of_the_cdf(family, float64):
    assert family.has_cdf_gradient
    params = 2 * torch.randn(300, family.num_params)
    x = family.sample(params).requires_grad_()
    cdf = family.cdf(params, x)
    assert ((cdf >= 0) & (cdf <= 1)).all()
    (slope,) = torch.autograd.grad(cdf.sum(), x)
    torch.testing.assert_close(slope, family.log_prob(params, x).exp(), rtol=1e-5, atol=1e-7)


def test_draws_stay_inside_where_rounding_would_put_them_at_an_end():
    family = fam.Transformed(fam.Normal(), TanhTransform())
    params = torch.tensor([[50.0, 0.0], [-50.0, 0.0]])
    x = family.rsample(params)
    assert (x.abs() < 1).all()
    assert family.log_prob(params, x).isfinite().all()
    assert family.features(torch.tensor([-1.0, 1.0])).isfinite().all()
    family = fam.Transformed(fam.Normal(), ExpTransform())
    x = family.sample(torch.tensor([[200.0, 0.0], [-200.0, 0.0]]))
    assert (x > 0).all()
    assert x.isfinite().all()


def test_transforms_of_constants_are_compared_by_value_and_others_by_identity():
    def affine(scale):
        return fam.Transformed(fam.Normal(), [AffineTransform(0.0, scale), ExpTransform()])

    assert affine(2.0) == affine(2.0)
    assert hash(affine(2.0)) == hash(affine(2.0))
    assert affine(2.0) != affine(3.0)
    assert affine(2.0) != fam.Transformed(fam.Laplace(), affine(2.0).transforms)
    tensor = AffineTransform(torch.zeros(()), 1.0)
    assert fam.Transformed(fam.Normal(), tensor) == fam.Transformed(fam.Normal(), tensor)
    assert fam.Transformed(fam.Normal(), tensor) != affine(1.0)
    one, other = (fam.Transformed(PAIR, flows.Householder(2)) for _ in range(2))
    assert one == one
    assert one != other
    assert hash(one) == hash(fam.Transformed(PAIR, one.transforms[0]))


@pytest.mark.parametrize("change", [copy.deepcopy, lambda f: pickle.loads(pickle.dumps(f))])
@pytest.mark.parametrize("transform", [ExpTransform().inv, SigmoidTransform()], ids=str)
def test_copies_are_equal(change, transform):
    """torch's inverses forget of what when they are copied."""
    base = fam.LogNormal() if isinstance(transform, type(ExpTransform().inv)) else fam.Normal()
    family = fam.Transformed(base, transform)
    assert transform.inv is not None  # which stores the inverse on the transform
    assert change(family) == family
    x = family.sample(torch.zeros(5, 2))
    same = change(family).log_prob(torch.zeros(2), x)
    torch.testing.assert_close(same, family.log_prob(torch.zeros(2), x))


LEARNED = [flows.Spline(2, count_bins=4), flows.Householder(2), flows.affine_coupling(2)]


@pytest.mark.parametrize("transform", LEARNED, ids=lambda transform: type(transform).__name__)
@pytest.mark.parametrize("inverse", [False, True])
def test_learned_transforms_are_trained_with_the_network(transform, inverse):
    transform = copy.deepcopy(transform)
    family = fam.Transformed(PAIR, transform.inv if inverse else transform)
    fac = ad.Factorization((3, 2), family, partition=ad.Partition.along(0))
    net = random_made(fac, hidden_features=8)
    names = {id(value): name for name, value in net.named_parameters()}
    own = list(transform.parameters())
    assert own
    assert all(names[id(value)].startswith("nested.0.") for value in own)
    x = net.condition().sample((50,))
    before = net.condition().log_prob(x)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-2)
    (-before.mean()).backward()
    assert all(value.grad.abs().sum() > 0 for value in own)
    optimizer.step()
    params = torch.linspace(-1, 1, 4)
    scores = family.log_prob(params, x)
    with torch.no_grad():
        for value in own:
            value.add_(0.1 * torch.randn_like(value))
    # Nothing that was computed before comes back, nor is in the way of copies.
    assert not torch.allclose(family.log_prob(params, x), scores)
    after = net.condition().log_prob(x)
    again = copy.deepcopy(net)
    torch.testing.assert_close(again.condition().log_prob(x), after)
    inside = again.factorization.families[0].modules
    assert inside[0] is again.nested[0]
    assert inside[0] is not transform
    torch.testing.assert_close(pickle.loads(pickle.dumps(net)).condition().log_prob(x), after)
    ad.testing.check_decoder(net)
    replaced = {name: torch.zeros_like(value) for name, value in net.named_parameters()}
    assert not torch.allclose(net.condition(params=replaced).log_prob(x), after)


def test_a_state_holds_what_a_transform_learned():
    nets = []
    for _ in range(2):
        family = fam.Transformed(PAIR, flows.Spline(2, count_bins=4))
        fac = ad.Factorization((3, 2), family, partition=ad.Partition.along(0))
        nets.append(random_made(fac, hidden_features=8))
    first, second = nets
    x = first.condition().sample((5,))
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(second.condition().log_prob(x), first.condition().log_prob(x))


def test_elements_are_given_and_kept_through_transforms_of_single_numbers(float64):
    normal, family = (
        fam.MultivariateNormal(3),
        fam.Transformed(fam.MultivariateNormal(3), [AffineTransform(1.0, -2.0), ExpTransform()]),
    )
    params = torch.randn(50, family.num_params)
    x = family.sample(params)
    z = (x.log() - 1) / -2
    mask = torch.rand(50, 3) < 0.5
    slope = (mask * (2 * x).log()).sum(-1)
    expected = normal.marginal_log_prob(params, z, mask) - slope
    torch.testing.assert_close(family.marginal_log_prob(params, x, mask), expected)
    torch.manual_seed(3)
    drawn = family.sample_given(params, x, mask)
    torch.manual_seed(3)
    expected = (1 - 2 * normal.sample_given(params, z, mask)).exp()
    torch.testing.assert_close(drawn, expected)
    assert torch.equal(drawn[mask], x[mask])
    simplex = fam.Transformed(PAIR, StickBreakingTransform())
    values = simplex.sample(torch.zeros(5, 4))
    with pytest.raises(ValueError, match="mask: expected whole blocks"):
        simplex.marginal_log_prob(torch.zeros(4), values, torch.tensor([True, False, False]))


def test_a_transformed_family_prints_as_it_was_written():
    parts = [AffineTransform(0.0, 2.0), SigmoidTransform(), SigmoidTransform().inv]
    family = fam.Transformed(fam.Normal(), parts)
    assert str(family) == (
        "Transformed(Normal(), [AffineTransform(loc=0.0, scale=2.0), SigmoidTransform(), "
        "SigmoidTransform().inv])"
    )
    vector = fam.Transformed(PAIR, IndependentTransform(ExpTransform(), 1))
    assert vector.support.event_dim == 1
    assert vector.support.base_constraint is constraints.positive


# Splines.


@pytest.mark.parametrize("bins", [1, 2, 8])
def test_a_spline_is_pyros(bins, float64):
    family = fam.Spline(bins, bound=3.0)
    params = 3 * torch.randn(1000, family.num_params)
    _, _, curve = family._parts(params)
    across, up, slopes = curve._knots.unbind(-2)
    at = 2.5 * torch.randn(1000)
    for inverse in (False, True):
        expected, log_abs_det_jacobian = _monotonic_rational_spline(
            at,
            across.diff() / 6,
            up.diff() / 6,
            slopes[:, 1:-1],
            inverse=inverse,
            bound=3.0,
            min_bin_width=0.0,
            min_bin_height=0.0,
            min_derivative=0.0,
            eps=0.0,
        )
        found = curve.inv(at) if inverse else curve(at)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
        pair = (at, found)
        found = (curve.inv if inverse else curve).log_abs_det_jacobian(*pair)
        torch.testing.assert_close(found, log_abs_det_jacobian, rtol=1e-6, atol=1e-6)


def test_a_spline_of_zeros_is_nearly_a_standard_normal():
    x = torch.linspace(-6, 6, 101)
    for bins in (1, 4, 32):
        family = fam.Spline(bins)
        params = torch.zeros(family.num_params)
        expected = dist.Normal(0.0, 1.0).log_prob(x)
        torch.testing.assert_close(family.log_prob(params, x), expected, rtol=0, atol=3e-3)


@pytest.mark.parametrize("spread", [1.0, 10.0])
def test_splines_are_normalized_whatever_the_parameters(spread, float64):
    family = fam.Spline(6)
    params = spread * torch.randn(10, 1, family.num_params)
    params[..., :2] = torch.tensor([0.5, 0.0])
    x = torch.linspace(-12, 12, 400_001)
    mass = family.log_prob(params, x).exp().sum(-1) * 24 / 400_000
    torch.testing.assert_close(mass, torch.ones(10), rtol=0, atol=1e-4)


@pytest.mark.parametrize("spread", [1.0, 10.0])
def test_noise_and_value_are_inverses_in_float32(spread):
    family = fam.Spline(8)
    params = spread * torch.randn(20_000, family.num_params)
    params[:, :2] = 0
    noise = family.noise((20_000,))
    value = family.from_noise(params, noise)
    back = family.cdf(params, value)
    # The steepest piece rises by 792 a unit, in which numbers near the bound are 5e-7 apart.
    torch.testing.assert_close(back, torch.special.ndtr(noise), rtol=0, atol=2e-3)
    far = torch.tensor([-1e30, -5.0, 4.0, 1e30])
    _, _, curve = family._parts(params[:1])
    torch.testing.assert_close(curve(far), far, rtol=0, atol=0)
    torch.testing.assert_close(curve.inv(far), far, rtol=0, atol=0)


def test_splines_work_under_vmap():
    family = fam.Spline(4)
    params, x = torch.randn(5, 3, family.num_params), torch.randn(5, 3)
    for function in (family.log_prob, family.from_noise, family.cdf):
        found = torch.vmap(function)(params, x)
        torch.testing.assert_close(found, function(params, x))
        gradient = torch.vmap(torch.func.grad(lambda p, v, f=function: f(p, v).sum()))(params, x)
        assert gradient.isfinite().all()
