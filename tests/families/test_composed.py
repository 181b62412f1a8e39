"""Mixture and Independent, against the families that they are made of."""

import pyro.distributions as dist
import pytest
import torch

from ardist import families as fam


def test_a_mixture_is_torchs_mixture(float64):
    family = fam.Mixture(fam.Normal(), 4)
    params = torch.randn(50, family.num_params)
    reference = dist.MixtureSameFamily(
        dist.Categorical(logits=params[:, :4]), fam.Normal()(params[:, 4:].unflatten(-1, (4, 2)))
    )
    x = torch.randn(50)
    torch.testing.assert_close(family.log_prob(params, x), reference.log_prob(x))
    torch.testing.assert_close(family.cdf(params, x), reference.cdf(x))


@pytest.mark.parametrize("component", [fam.Normal(), fam.LogNormal(), fam.Gamma()])
def test_the_distribution_of_a_mixture_has_the_quantiles_of_the_family(component, float64):
    family = fam.Mixture(component, 3)
    params = torch.randn(4, family.num_params)
    uniform = torch.tensor([[0.05], [0.5], [0.95]])
    found = family(params)
    torch.testing.assert_close(found.icdf(uniform), family.icdf(params, uniform))
    assert found.expand((2, 4)).icdf(uniform[0]).shape == (2, 4)


def test_independent_elements_are_given_and_kept_one_by_one(float64):
    family = fam.Independent(fam.Categorical(3), (2, 2))
    params, value = torch.randn(5, 12), torch.randint(3, (5, 2, 2))
    mask = torch.rand(5, 2, 2) < 0.5
    each = fam.Categorical(3).log_prob(params.unflatten(-1, (2, 2, 3)), value)
    expected = (each * mask).sum((-1, -2))
    torch.testing.assert_close(family.marginal_log_prob(params, value, mask), expected)
    draws = torch.stack([family.sample_given(params, value, mask) for _ in range(50)])
    assert torch.equal(draws[:, mask], value[mask].expand(50, -1))
    assert (draws[:, ~mask] != draws[0, ~mask]).any(0).all()


@pytest.mark.parametrize(
    "family",
    [
        fam.Mixture(fam.Normal(), 3),
        fam.Mixture(fam.MultivariateNormal(2), 2),
        fam.Hurdle((0.0,), fam.Normal()),
        fam.DiscretizedLogisticMixture(2, bins=4),
    ],
    ids=str,
)
def test_parameters_broadcast_over_noise_that_selects_a_part(family, float64):
    params, noise = torch.randn(3, family.num_params), family.noise(torch.Size((5, 3)))
    expected = family.from_noise(params.expand(5, 3, -1), noise)
    torch.testing.assert_close(family.from_noise(params, noise), expected)
    torch.testing.assert_close(family.from_noise(params[0], noise)[:, 0], expected[:, 0])
