"""Gradients of families' draws, against quadrature and against torch's own."""

import math

import pyro.distributions as dist
import pytest
import torch
from laws import assert_mean
from table import FAMILIES, VECTORS
from torch.distributions import AffineTransform, SigmoidTransform, StickBreakingTransform

from ardist import families as fam

PAIR = fam.Independent(fam.Normal(), (2,))
# Of torch's gradients of Gamma and Beta draws a few digits are right.
BY_TORCH = [
    fam.Gamma(),
    fam.Beta(),
    fam.Mixture(fam.Gamma(), 2),
    fam.Mixture(fam.Beta(), 2),
    fam.Parametric(dist.InverseGamma),
    fam.Transformed(fam.Beta(), SigmoidTransform().inv),
]
SCALARS = [
    *(family for family in FAMILIES.values() if family.has_rsample),
    *(fam.Mixture(f(), 3) for f in (fam.Laplace, fam.Logistic, fam.LogNormal, fam.Exponential)),
    fam.Mixture(fam.StudentT(), 2),
    fam.Mixture(fam.Spline(3), 2),
    fam.Mixture(fam.Relaxed(fam.Bernoulli(), 0.5), 2),
    fam.Tempered(fam.Laplace(), 2.0),
    fam.Transformed(fam.Spline(3), [AffineTransform(0.5, -0.3), SigmoidTransform()]),
    fam.Transformed(fam.Mixture(fam.Normal(), 2), SigmoidTransform()),
    fam.Transformed(fam.StudentT(), SigmoidTransform()),
    *map(fam.Parametric, (dist.Cauchy, dist.HalfNormal, dist.Kumaraswamy, dist.Weibull)),
    *BY_TORCH,
]
# A third of them covers each way to a gradient: from noise, by a CDF, by torch.
SCALARS_AND_SLOW = [
    family if number % 3 == 0 else pytest.param(family, marks=pytest.mark.slow)
    for number, family in enumerate(SCALARS)
]
# They grow slowly: under some parameters the families have no moments.
FUNCTIONS = (torch.atan, torch.asinh, lambda x: (-x.square()).exp())


@pytest.mark.parametrize("family", SCALARS_AND_SLOW, ids=str)
def test_draws_have_the_gradient_of_the_expectation(family, float64):
    """E[f(x)] by quadrature over a normal variable; its slopes by differences."""
    z = torch.linspace(-3, 3, 41)
    uniform, weight = torch.special.ndtr(z), (-0.5 * z * z).exp() * 0.15 / math.sqrt(2 * math.pi)
    params = (0.7 * torch.randn(family.num_params)).requires_grad_()

    def expectations(x):
        return torch.stack([(function(x) * weight).sum(-1) for function in FUNCTIONS])

    x = family.icdf(params, uniform).detach()
    drawn = family.pathwise(params.expand(len(z), -1), x)
    assert torch.equal(drawn, x)
    found = torch.stack(
        [torch.autograd.grad(e, params, retain_graph=True)[0] for e in expectations(drawn)]
    )
    step = 2e-5 * torch.eye(family.num_params).unsqueeze(1)
    above, below = (expectations(family.icdf(params + sign * step, uniform)) for sign in (1, -1))
    tolerance = 1e-3 if family in BY_TORCH else 1e-6
    torch.testing.assert_close(found, (above - below) / 4e-5, rtol=tolerance, atol=tolerance)


GAUSSIANS = [
    PAIR,
    fam.MultivariateNormal(2),
    fam.LowRankMultivariateNormal(2, 1),
    fam.LowRankMultivariateNormal(2, 3),
    fam.Parametric(dist.MultivariateNormal, event_shape=(2,)),
    fam.Parametric(dist.Normal, event_shape=(2,)),
]


@pytest.mark.parametrize("family", GAUSSIANS, ids=str)
def test_gaussian_draws_have_the_gradient_of_the_expectation(family, float64):
    z = torch.cartesian_prod(*[torch.linspace(-7, 7, 141)] * 2)
    weight = (-0.5 * z.square().sum(-1)).exp() * 0.1**2 / (2 * math.pi)
    params = (0.5 * torch.randn(family.num_params)).requires_grad_()
    law = family(params)
    x = (law.mean + z @ torch.linalg.cholesky(_covariance(law)).T).detach()
    drawn, scores = family.pathwise(params.expand(len(z), -1), x), family.log_prob(params, x)
    direction = torch.tensor([0.6, -0.3])
    for function in FUNCTIONS:
        (found,) = torch.autograd.grad(
            (function(drawn @ direction) * weight).sum(), params, retain_graph=True
        )
        (expected,) = torch.autograd.grad(
            (function(x @ direction) * scores * weight).sum(), params, retain_graph=True
        )
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def _covariance(law):
    is_product = isinstance(law, torch.distributions.Independent)
    return law.variance.diag() if is_product else law.covariance_matrix


@pytest.mark.parametrize(
    "family",
    [
        fam.Dirichlet(3),
        fam.Parametric(dist.Dirichlet, event_shape=(3,)),
        fam.Transformed(PAIR, StickBreakingTransform()),
        fam.Relaxed(fam.OneHotCategorical(3), 0.8),
        fam.Independent(fam.Mixture(fam.Gamma(), 2), (2,)),
    ],
    ids=str,
)
def test_draws_of_vectors_have_the_gradient_of_the_expectation(family, float64):
    """The mean of what scores give."""
    rows = 100_000
    params = (0.5 * torch.randn(family.num_params)).expand(rows, -1).clone().requires_grad_()
    x = family.sample(params.detach())
    drawn, scores = family.pathwise(params, x), family.log_prob(params, x)
    direction = torch.linspace(-1, 2, family.event_shape[0])
    for function in FUNCTIONS:
        values = function(drawn @ direction)
        total = values - (values - values.mean()).detach() * scores
        (error,) = torch.autograd.grad(total.sum(), params, retain_graph=True)
        assert_mean(error, 0.0)


@pytest.mark.parametrize(
    "family",
    [family for family in {**FAMILIES, **VECTORS}.values() if family.is_reparameterized],
    ids=str,
)
def test_the_noise_is_told_from_the_value(family, float64):
    params = torch.randn(50, family.num_params).requires_grad_()
    noise = family.noise((50,), dtype=torch.float64)
    value = family.from_noise(params, noise)
    torch.testing.assert_close(family.to_noise(params, value), noise)
    along = torch.randn_like(value)
    (expected,) = torch.autograd.grad((value * along).sum(), params, retain_graph=True)
    for known in (None, noise):
        again = family.pathwise(params, value, known)
        assert torch.equal(again, value)
        (found,) = torch.autograd.grad((again * along).sum(), params)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


CLASSES = [
    *((cls, ()) for cls in (dist.Normal, dist.Laplace, dist.LogNormal, dist.Exponential)),
    *((cls, ()) for cls in (dist.Gumbel, dist.Cauchy, dist.HalfNormal, dist.HalfCauchy)),
    *((cls, ()) for cls in (dist.Weibull, dist.Kumaraswamy, dist.Logistic, dist.Gamma)),
    *((cls, ()) for cls in (dist.Chi2, dist.InverseGamma, dist.Beta)),
    *((cls, (3,)) for cls in (dist.Dirichlet, dist.MultivariateNormal, dist.Gamma, dist.Gumbel)),
]


@pytest.mark.parametrize(("cls", "shape"), CLASSES)
def test_gradients_are_those_of_torch(cls, shape, float64):
    family = fam.Parametric(cls, event_shape=shape)
    assert family.has_rsample
    params = torch.randn(200, family.num_params).requires_grad_()
    drawn = family(params).rsample()
    along = torch.randn_like(drawn)
    (expected,) = torch.autograd.grad((drawn * along).sum(), params)
    again = family.pathwise(params, drawn)
    torch.testing.assert_close(again, drawn, rtol=1e-15, atol=1e-15)  # an end is moved inside
    (found,) = torch.autograd.grad((again * along).sum(), params)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def test_a_class_whose_given_draws_have_no_gradient_has_no_rsample():
    family = fam.Parametric(dist.StudentT)
    assert family(torch.zeros(3)).has_rsample
    assert not family.has_rsample
    assert not family.has_cdf
    with pytest.raises(NotImplementedError):
        family.pathwise(torch.zeros(3), torch.tensor(1.0))
    assert not fam.Parametric(dist.VonMises).has_rsample
    gamma = fam.Parametric(dist.Gamma)
    assert gamma.has_cdf
    assert not gamma.has_cdf_gradient


@pytest.mark.parametrize(
    "family",
    [fam.Gamma(), fam.Beta(), fam.StudentT(), fam.Mixture(fam.Gamma(), 3), fam.Dirichlet(50)],
    ids=str,
)
@pytest.mark.parametrize("spread", [3.0, 30.0])
def test_wild_parameters_give_finite_gradients_in_float32(family, spread):
    params = (spread * torch.randn(5000, family.num_params)).requires_grad_()
    x = family.rsample(params)
    (gradient,) = torch.autograd.grad((x * torch.randn_like(x)).sum(), params)
    assert gradient.isfinite().all()
