"""Families: draws inside the support, finite scores and gradients, agreement with torch."""

import math

import pyro.distributions as dist
import pytest
import torch
from table import FAMILIES, VECTORS
from torch.distributions import constraints

from ardist import families as fam

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
    if family.has_push:
        noise = family.noise((4, 3))
        assert noise.shape == (4, 3, *family.noise_shape)
        assert family.push(params, noise).shape == value.shape
    if family.has_rsample:
        assert family.rsample(params.requires_grad_()).requires_grad


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


def test_a_mixture_is_torchs_mixture(float64):
    family = fam.Mixture(fam.Normal(), 4)
    params = torch.randn(50, family.num_params)
    reference = dist.MixtureSameFamily(
        dist.Categorical(logits=params[:, :4]), fam.Normal()(params[:, 4:].unflatten(-1, (4, 2)))
    )
    x = torch.randn(50)
    torch.testing.assert_close(family.log_prob(params, x), reference.log_prob(x))
    torch.testing.assert_close(family.cdf(params, x), reference.cdf(x))


@pytest.mark.parametrize("bins", [2, 17, 256])
def test_discretized_logistics_are_normalized_and_safe_in_the_tails(bins):
    family = fam.DiscretizedLogisticMixture(3, bins)
    params = 6 * torch.randn(1000, 1, family.num_params)
    scores = family.log_prob(params, torch.arange(bins))
    assert scores.isfinite().all()
    torch.testing.assert_close(scores.logsumexp(-1), torch.zeros(1000), rtol=0, atol=1e-4)


def test_discretized_logistics_are_differences_of_the_cdf(float64):
    family = fam.DiscretizedLogisticMixture(1, 5)
    params = torch.tensor([0.0, 0.3, 1.0])
    scale = torch.tensor(1 + 2 ** (1.0 - 2)).log2() + 0.01 / 5
    edges = torch.tensor([-math.inf, -0.75, -0.25, 0.25, 0.75, math.inf])
    mass = torch.sigmoid((edges - 0.3) / scale).diff()
    torch.testing.assert_close(family.log_prob(params, torch.arange(5)).exp(), mass)


def test_parametric_takes_logits_and_scale_tril():
    assert fam.Parametric(dist.Bernoulli).num_params == 1
    assert fam.Parametric(dist.NegativeBinomial).num_params == 2
    assert fam.Parametric(dist.MultivariateNormal, event_shape=(3,)).num_params == 12
    assert fam.Parametric(dist.OneHotCategorical, event_shape=(4,)).num_params == 4
    assert fam.Parametric(dist.Categorical, shapes={"logits": (5,)}).num_params == 5
    assert fam.Parametric(dist.Normal, event_shape=(3,)).num_params == 6


def test_parametric_takes_constants_and_links():
    family = fam.Parametric(dist.Binomial, fixed={"total_count": 10})
    assert family.num_params == 1
    assert family.support.upper_bound == 10
    family = fam.Parametric(dist.Normal, fixed={"loc": 0.0}, links={"scale": torch.ones_like})
    assert family(torch.tensor([3.0])).scale == 1.0
    family = fam.Parametric(dist.Bernoulli, fixed={}, links={"logits": torch.neg})
    assert family(torch.tensor([2.0])).logits == -2.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fam.Parametric(dist.Pareto), "cls: expected a distribution whose support is"),
        (lambda: fam.Parametric(dist.Uniform), "cls: expected a distribution class whose arg_c"),
        (lambda: fam.Parametric(dist.Binomial), "fixed: Binomial's total_count is discrete"),
        (lambda: fam.Parametric(dist.Categorical), "shapes: the shape of Categorical's logits"),
        (lambda: fam.Parametric(dist.Normal, links={"x": torch.exp}), "x: expected a free param"),
        (lambda: fam.Parametric(dist.Normal, fixed={"x": 1}), r"fixed: Normal takes no \['x'\]"),
        (lambda: fam.Parametric(int), "cls: expected a distribution class whose"),
        (
            lambda: fam.Parametric(dist.Normal, fixed={"loc": 0.0, "scale": 1.0}),
            "fixed: expected a free parameter of Normal, got none",
        ),
        (lambda: fam.Categorical(0), "num_categories: expected positive integers, got"),
        (lambda: fam.Normal(min_scale=0.0), "min_scale: expected a positive number, got 0.0"),
        (lambda: fam.Mixture(dist.Normal, 3), "family: expected a family, got"),
        (lambda: fam.Mixture(fam.Normal(), 0), "num_components: expected positive integers"),
        (lambda: fam.DiscretizedLogisticMixture(2, 1), "bins: expected an integer of at least 2"),
        (lambda: fam.Independent(fam.Normal(), (0,)), "shape: expected positive integers"),
        (lambda: fam.Independent(3, (2,)), "family: expected a family, got 3"),
    ],
)
def test_bad_families_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
