"""Families of vectors: covariances, marginals and conditionals of a part, and draws."""

import math

import pyro.distributions as dist
import pytest
import torch
from laws import assert_cdf
from scipy.stats import beta

from ardist import families as fam

DRAWS = 100_000

GAUSSIANS = [fam.MultivariateNormal(4), fam.LowRankMultivariateNormal(4, rank=2)]
gaussians = pytest.mark.parametrize("family", GAUSSIANS, ids=str)


@gaussians
def test_gaussian_draws_have_the_covariance_of_the_distribution(family, float64):
    params = torch.randn(family.num_params)
    draws = family.sample(params.expand(DRAWS, -1))
    expected = family(params)
    scale = expected.covariance_matrix.diagonal().sqrt()
    error = (draws.mean(0) - expected.mean) / scale
    torch.testing.assert_close(error, torch.zeros(4), rtol=0, atol=0.02)
    error = (draws.T.cov() - expected.covariance_matrix) / scale.outer(scale)
    torch.testing.assert_close(error, torch.zeros(4, 4), rtol=0, atol=0.02)


@gaussians
def test_gaussian_marginals_are_those_of_the_part_of_the_covariance(family, float64):
    """A mask a row, each of the 16 that there are."""
    mask = torch.cartesian_prod(*[torch.tensor([False, True])] * 4)
    params = torch.randn(3, 1, family.num_params).requires_grad_()
    value = torch.randn(3, 16, 4)
    found = family.marginal_log_prob(params, value, mask)
    whole = family(params)
    for row, kept in enumerate(mask):
        covariance = whole.covariance_matrix[:, 0][:, kept][:, :, kept]
        part = dist.MultivariateNormal(whole.mean[:, 0, kept], covariance) if kept.any() else None
        expected = part.log_prob(value[:, row, kept]) if part else torch.zeros(3)
        torch.testing.assert_close(found[:, row], expected)
    torch.testing.assert_close(found[:, -1], family.log_prob(params, value)[:, -1])
    (gradient,) = torch.autograd.grad(found.sum(), params)
    assert gradient.isfinite().all()


@gaussians
def test_gaussian_draws_given_a_part_follow_the_conditional(family, float64):
    mask = torch.tensor([[True, False, False, True], [False, True, False, False], [False] * 4])
    params, value = torch.randn(family.num_params), torch.randn(3, 4)
    draws = family.sample_given(params, value.expand(DRAWS, 3, 4), mask)
    assert torch.equal(draws[..., mask], value[mask].expand(DRAWS, -1))
    whole = family(params)
    for row, kept in enumerate(mask):
        cross = whole.covariance_matrix[~kept][:, kept]
        gain = cross @ whole.covariance_matrix[kept][:, kept].inverse()
        mean = whole.mean[~kept] + gain @ (value[row] - whole.mean)[kept]
        covariance = whole.covariance_matrix[~kept][:, ~kept] - gain @ cross.T
        scale = covariance.diagonal().sqrt()
        drawn = draws[:, row, ~kept]
        error = (drawn.mean(0) - mean) / scale
        torch.testing.assert_close(error, torch.zeros_like(error), rtol=0, atol=0.02)
        error = (drawn.T.cov() - covariance) / scale.outer(scale)
        torch.testing.assert_close(error, torch.zeros_like(error), rtol=0, atol=0.02)


@gaussians
def test_wild_parameters_give_finite_marginals(family):
    params = (10 * torch.randn(2000, family.num_params)).requires_grad_()
    value, mask = family.sample(params), torch.rand(2000, 4) < 0.5
    score = family.marginal_log_prob(params, value, mask)
    assert score.isfinite().all()
    (gradient,) = torch.autograd.grad(score.sum(), params)
    assert gradient.isfinite().all()
    draws = family.sample_given(params, value, mask)
    assert draws.isfinite().all()
    assert torch.equal(draws[mask], value[mask])


def test_independent_vectors_may_be_cut(float64):
    family = fam.Independent(GAUSSIANS[0], (2,))
    params, value = torch.randn(family.num_params), torch.randn(2, 4)
    mask = torch.tensor([[True, False, True, False], [True] * 4])
    each = GAUSSIANS[0].marginal_log_prob(params.unflatten(-1, (2, -1)), value, mask)
    torch.testing.assert_close(family.marginal_log_prob(params, value, mask), each.sum())
    assert torch.equal(family.sample_given(params, value, mask)[mask], value[mask])
    family = fam.Independent(fam.Dirichlet(4), (2,))
    with pytest.raises(ValueError, match="mask: expected whole blocks"):
        family.marginal_log_prob(torch.randn(8), value, mask)


@pytest.mark.parametrize("concentration", [0.02, 0.3, 5.0])
def test_dirichlet_draws_follow_their_density_and_have_its_gradient(concentration, float64):
    raw = math.log2(2 ** (concentration - 0.01) - 1)  # the inverse of the link
    params = torch.full((2,), raw).requires_grad_()
    draws = fam.Dirichlet(2).rsample(params.expand(DRAWS, 2))[:, 0]
    (found,) = torch.autograd.grad(draws.mean(), params)
    distribution = fam.Dirichlet(2)(params)
    (expected,) = torch.autograd.grad(distribution.mean[0], params)
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0)
    # Those below one half: near one they round to it.
    lower = draws[:5000][draws[:5000] < 0.5]
    follows = beta(concentration, concentration)
    assert_cdf(lower, lambda x: follows.cdf(x) / follows.cdf(0.5))
