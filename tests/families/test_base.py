"""Families: draws inside the support, finite scores and gradients, agreement with torch."""

import math

import pyro.distributions as dist
import pytest
import torch
from table import FAMILIES, VECTORS
from torch.distributions import (
    AffineTransform,
    SigmoidTransform,
    SoftplusTransform,
    TanhTransform,
    constraints,
)

from ardist import families as fam
from ardist.families.restricted import Limited

ALL = {**FAMILIES, **VECTORS}
families = pytest.mark.parametrize("family", ALL.values(), ids=ALL.keys())
named = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())

DRAWS = 100_000


@named
def test_extreme_parameters_give_finite_numbers_inside_the_support(family):
    """100,000 conditionals with raw parameters from N(0, 3^2), in float32."""
    params = (3 * torch.randn(DRAWS, family.num_params)).requires_grad_()
    value = family.sample(params)
    assert value.shape == (DRAWS,)
    assert family.support.check(value).all()
    score = family.log_prob(params, value)
    assert score.isfinite().all()
    (gradient,) = torch.autograd.grad(score.sum(), params)
    assert gradient.isfinite().all()
    assert family.features(value).isfinite().all()
    assert family.features(value).abs().max() < 100


@families
def test_fitted_parameters_are_at_least_as_likely_as_the_true_ones(family):
    """Of two blocks, the second of which has a few values; where others are missing."""
    torch.manual_seed(0)
    true = torch.randn(2, family.num_params)
    values = family.sample(true.expand(1000, 2, -1))
    mask = torch.ones_like(values, dtype=torch.bool)
    mask[8:, 1] = False
    found = family.fit(values, mask)
    assert found.shape == true.shape
    assert found.isfinite().all()
    if isinstance(family, (fam.TopK, fam.Nucleus)):  # no gradient says which states to keep
        return
    gain = family.log_prob(found, values) - family.log_prob(true, values)
    assert gain[:, 0].mean() > -0.05
    assert gain[:8, 1].mean() > -0.05


LOCATED = [
    fam.Normal,
    fam.Laplace,
    fam.Logistic,
    fam.StudentT,
    lambda **k: fam.Mixture(fam.Normal(**k), 5),
]


@pytest.mark.parametrize("make", LOCATED)
def test_a_fit_does_not_depend_on_the_units_of_values(make):
    torch.manual_seed(0)
    family, z = make(min_scale=1e-12), torch.randn(400, 1)
    known, nats = torch.ones(400, 1, dtype=torch.bool), []
    for mean, unit in ((0, 1), (3e-4, 1e-4), (3e3, 10), (1e5, 1e3), (-1e7, 1e3)):
        values = mean + unit * z
        scores = family.log_prob(family.fit(values, known), values)
        nats.append(-scores.mean().item() - math.log(unit))
    assert max(nats) - min(nats) < 0.2  # of 1.42


@pytest.mark.parametrize("unit", [1e-6, 1e-3, 1e3])
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_fit_of_numbers_next_to_a_spike_does_not_depend_on_their_units(share, unit):
    torch.manual_seed(0)
    family = fam.Hurdle((0.0,), fam.Mixture(fam.Normal(min_scale=1e-12), 5))
    z = torch.randn(400, 1)
    z[: int(share * 400)] = 0.0
    known, means = torch.ones(400, 1, dtype=torch.bool), []
    for values, nats in ((z, 0.0), (unit * z, math.log(unit))):
        scores = family.log_prob(family.fit(values, known), values)
        means.append((scores + nats * (values != 0)).mean())
    assert (means[0] - means[1]).abs() < 0.05


NARROW = [
    *((family, 5e3, 70.0) for family in (fam.StudentT(1e-12), fam.Gamma(), fam.NegativeBinomial())),
    (fam.NegativeBinomial(), 5e3, 300.0),
    (fam.NegativeBinomial(), 5e5, 800.0),
    (fam.Beta(), 0.9, 0.004),
    (fam.Mixture(fam.Gamma(), 2), 5e3, 70.0),
    (fam.Hurdle((0.0,), fam.Gamma()), 5e3, 70.0),
    (fam.Truncated(fam.Gamma(), low=1e-3), 5e3, 70.0),
    (fam.Rounded(fam.Gamma()), 5e3, 70.0),
    (fam.Transformed(fam.Gamma(), AffineTransform(0.0, 20.0)), 5e3, 70.0),
]


@pytest.mark.parametrize(("family", "mean", "deviation"), NARROW, ids=str)
def test_a_fit_finds_a_deviation_that_is_far_smaller_than_the_mean(family, mean, deviation):
    torch.manual_seed(0)
    is_free = not (family.support.is_discrete or isinstance(family, fam.Beta))
    for unit in (1e-3, 1.0, 1e4) if is_free else (1.0,):
        values = unit * (mean + deviation * torch.randn(400, 1))
        if family.support.is_discrete:
            values = values.round()
        found = family.fit(values, torch.ones_like(values, dtype=torch.bool))
        normal = dist.Normal(values.mean(), values.std())  # which the family nearly is
        nats = normal.log_prob(values).mean() - family.log_prob(found, values).mean()
        assert nats < 0.03


def test_a_fit_gives_unseen_states_a_probability():
    values, mask = torch.tensor([[0], [0], [2]]), torch.ones(3, 1, dtype=torch.bool)
    for family in (fam.Categorical(4), fam.DiscretizedLogisticMixture(2, bins=4)):
        probs = family(family.fit(values, mask)).probs.squeeze(0)
        assert probs.argmax() == 0
        assert (probs > 0.01).all()
    probs = fam.Categorical(4)(fam.Categorical(4).fit(values, mask)).probs
    torch.testing.assert_close(probs, torch.tensor([[2.25, 0.25, 1.25, 0.25]]) / 4)
    hurdle = fam.Hurdle((0.0, 5.0), fam.Normal())
    values = torch.tensor([[0.0], [0.0], [1.0], [2.0]])
    params = hurdle.fit(values, torch.ones(4, 1, dtype=torch.bool))
    assert hurdle.log_prob(params, torch.tensor([5.0])).item() > -20


WILD = [
    *(fam.MultivariateNormal(size) for size in (1, 3, 32)),
    *(fam.LowRankMultivariateNormal(*sizes) for sizes in ((1, 1), (3, 2), (200, 20))),
    *(fam.Dirichlet(size) for size in (1, 3, 1000)),
    *(fam.OneHotCategorical(size) for size in (1, 30)),
    fam.TopK(fam.Categorical(30), 4),
    fam.TopK(fam.OneHotCategorical(5), 2),
    fam.TopK(fam.DiscretizedLogisticMixture(3, 16), 3),
    fam.Nucleus(fam.Categorical(30), 0.9),
    fam.Nucleus(fam.TopK(fam.Tempered(fam.Categorical(65), 0.8), 40), 0.9),
    fam.Tempered(fam.Laplace(), 3.0),
    fam.Tempered(fam.DiscretizedLogisticMixture(3, 16), 0.3),
    fam.Tempered(fam.Independent(fam.Bernoulli(), (4,)), 0.1),
    *(fam.Spline(bins) for bins in (1, 8, 64)),
    fam.Mixture(fam.Spline(5), 4),
    fam.Transformed(fam.Normal(), AffineTransform(3.0, -2.0)),
    fam.Transformed(fam.Normal(), [TanhTransform(), AffineTransform(0.0, 100.0)]),
    fam.Transformed(fam.Laplace(), SoftplusTransform()),
    fam.Transformed(fam.Mixture(fam.Logistic(), 3), SigmoidTransform()),
]


@pytest.mark.parametrize("family", WILD, ids=str)
def test_wild_parameters_give_finite_draws_scores_and_gradients(family):
    """Raw parameters from N(0, 10^2), in float32."""
    params = (10 * torch.randn(500, family.num_params)).requires_grad_()
    value = family.sample(params)
    assert family.support.check(value).all()
    assert family.features(value).isfinite().all()
    score = family.log_prob(params, value)
    assert score.isfinite().all()
    (gradient,) = torch.autograd.grad(score.sum(), params)
    assert gradient.isfinite().all()
    if family.has_rsample:
        draw = family.rsample(params)
        (gradient,) = torch.autograd.grad((draw * torch.randn_like(draw)).sum(), params)
        assert gradient.isfinite().all()


@families
def test_scores_have_finite_second_slopes(family):
    params = torch.randn(50, family.num_params).requires_grad_()
    scores = family.log_prob(params, family.sample(params))
    (slope,) = torch.autograd.grad(scores.sum(), params, create_graph=True)
    if slope.requires_grad:  # a normalized score may be linear
        (second,) = torch.autograd.grad(slope.square().sum(), params)
        assert second.isfinite().all()


@pytest.mark.parametrize(
    "family",
    [
        *FAMILIES.values(),
        fam.Truncated(fam.Normal(), high=1.0),
        fam.Mixture(fam.Truncated(fam.Logistic(), high=-3.0), 2),
        Limited(fam.Normal()),
        fam.Relaxed(fam.OneHotCategorical(3), 0.5, straight_through=True),
    ],
    ids=str,
)
def test_draws_of_the_smallest_uniform_numbers_are_likely_enough(family, monkeypatch):
    """Of 2^24 uniform numbers in [0, 1) one is zero, at which a quantile is infinite."""
    monkeypatch.setattr(torch, "rand", lambda *size, **kwargs: torch.zeros(*size, **kwargs))
    monkeypatch.setattr(torch, "rand_like", torch.zeros_like)
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda x, low=0.0, high=1.0: x.fill_(low))
    params = torch.zeros(3, family.num_params)
    if isinstance(family, Limited):
        params[:, -2] = -torch.inf
    value = family.sample(params)
    assert family.inside(value).all()
    assert (family.log_prob(params, value) > -200).all()
    if family.has_rsample:
        params.requires_grad_()
        draw = family.rsample(params)
        assert torch.autograd.grad(draw.sum(), params)[0].isfinite().all()


@families
def test_fused_scores_are_those_of_the_distribution(family, float64):
    params = 2 * torch.randn(500, family.num_params)
    value = family.sample(params)
    expected = family(params).log_prob(value)
    torch.testing.assert_close(family.log_prob(params, value), expected, rtol=1e-6, atol=1e-7)


@families
def test_shapes(family):
    params = torch.randn(4, 3, family.num_params)
    assert family(params).batch_shape == (4, 3)
    assert family(params).event_shape == family.event_shape
    value = family.sample(params)
    assert value.shape == (4, 3, *family.event_shape)
    assert family.log_prob(params, value).shape == (4, 3)
    assert family.log_prob(params, value[:1]).shape == (4, 3)
    assert family.log_prob(params[:1], value).shape == (4, 3)
    features = family.features(value)
    assert features.shape == (4, 3, family.num_features)
    weight, bias = torch.randn(7, family.num_features), torch.randn(7)
    projected = family.project(value, weight, bias)
    torch.testing.assert_close(projected, features @ weight.T + bias, rtol=1e-4, atol=1e-5)
    assert family.support.event_dim == len(family.event_shape)
    if family.has_noise:
        noise = family.noise((4, 3))
        assert noise.shape == (4, 3, *family.noise_shape)
        assert family.from_noise(params, noise).shape == value.shape
    if family.has_rsample:
        assert family.rsample(params.requires_grad_()).requires_grad


@families
def test_leading_dimensions_of_parameters_and_values_broadcast(family):
    shape, event = (4, 3), family.event_shape
    params, uniform = torch.randn(*shape, family.num_params), torch.rand(shape)
    value, known = family.sample(params), torch.ones((*shape, *event), dtype=torch.bool)
    calls = [lambda p, v, u, m: family.log_prob(p, v), lambda p, v, u, m: family.mass(p, v)]
    calls.append(lambda p, v, u, m: family.marginal_log_prob(p, v, m))
    if family.has_cdf:
        calls.append(lambda p, v, u, m: family.cdf(p, v))
        calls.append(lambda p, v, u, m: family.icdf(p, u))
        calls.append(lambda p, v, u, m: family.interval_log_prob(p, v, v + 1))
    if family.has_rsample:
        calls.append(lambda p, v, u, m: family.pathwise(p, v))
    if family.is_bijective:
        calls.append(lambda p, v, u, m: family.to_noise(p, v))
        calls.append(lambda p, v, u, m: family.log_abs_det_jacobian(p, v))
        calls.append(lambda p, v, u, m: family.to_noise_and_log_det(p, v)[1])
    for of_params, of_value in (((0, 0), ...), (..., (0, 0)), (..., 0), (slice(1), ...)):
        parts = [params[of_params], *(part[of_value] for part in (value, uniform, known))]
        full = [
            part.expand(*shape, *dims)
            for part, dims in zip(parts, ((-1,), event, (), event), strict=True)
        ]
        for call in calls:
            torch.testing.assert_close(call(*parts), call(*full), rtol=1e-4, atol=1e-5)
    for call in calls:
        assert call(params[:0], value[:0], uniform[:0], known[:0]).shape[:2] == (0, 3)


@families
def test_values_are_compared_by_value(family):
    again = {**FAMILIES, **VECTORS}
    same = [other for other in again.values() if other == family]
    assert same == [family]
    assert len({family, *same}) == 1


@pytest.mark.parametrize(
    "family",
    [
        *(fam.Mixture(f, 3) for f in (fam.Normal(), fam.Laplace(), fam.Logistic())),
        fam.Mixture(fam.LogNormal(), 2),
        fam.Mixture(fam.Exponential(), 2),
        fam.Spline(3),
        fam.Mixture(fam.Spline(3), 2),
        fam.Transformed(fam.Normal(), SigmoidTransform()),
        fam.Exponential(),
        fam.Gamma(),
        fam.Beta(),
    ],
    ids=str,
)
def test_rsample_has_the_gradient_of_the_expectation(family, float64):
    """d/d params E[f(x)], by draws and by quadrature over the density."""
    params = (0.5 * torch.randn(family.num_params)).requires_grad_()

    def function(x):
        return (x / (1 + x.square())).sin()

    draws = function(family.rsample(params.expand(200_000, -1)))
    (found,) = torch.autograd.grad(draws.mean(), params)
    transform = torch.distributions.biject_to(family.support)
    u = torch.linspace(-40, 40, 400_001)
    x = transform(u)
    weight = transform.log_abs_det_jacobian(u, x)
    inside = (x > 0) & (x < 1) if family.support is constraints.unit_interval else x.isfinite()
    x, weight = x[inside], weight[inside]
    integral = (function(x) * (family.log_prob(params, x) + weight).exp()).sum() * 80 / 400_000
    (expected,) = torch.autograd.grad(integral, params)
    torch.testing.assert_close(found, expected, rtol=0, atol=6e-3)


def test_a_support_that_torch_cannot_transform_to_has_an_anchor_all_the_same():
    class Known(constraints.Constraint):
        event_dim = 0

        def check(self, value):
            return value > 5

    class Shifted(fam.Family):
        num_params = 1
        support = Known()

        def __call__(self, params):
            away = dist.Exponential(params[..., 0].exp(), validate_args=False)
            return dist.TransformedDistribution(away, AffineTransform(5.0, 1.0))

    assert Shifted().placeholder() > 5
    assert torch.equal(Shifted().placeholder(), Shifted().placeholder())


@pytest.mark.parametrize("family", VECTORS.values(), ids=VECTORS)
def test_no_rows_are_inside(family):
    assert family.inside(torch.zeros(2, 0, *family.event_shape)).shape == (2, 0)
