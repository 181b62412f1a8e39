"""Flags of families follow from the methods that a class defines."""

import pyro.distributions as dist
import pytest
import torch
from laws import assert_cdf
from torch.distributions import AffineTransform, constraints

from ardist import families as fam


class Gumbel(fam.Family):
    """A user's family that adds what it has step by step."""

    num_params = 1
    support = constraints.real

    def __call__(self, params):
        return dist.Gumbel(params[..., 0], torch.ones(()), validate_args=False)


class ByNoise(Gumbel):
    def sample_noise(self, out):
        return -out.exponential_().log()

    def from_noise(self, params, noise):
        return params[..., 0] + noise


class ByInverse(ByNoise):
    def to_noise(self, params, value):
        return value - params[..., 0]


class ByBijection(ByInverse):
    def log_abs_det_jacobian(self, params, value):
        return torch.zeros_like(value)


class ByCdf(Gumbel):
    def cdf(self, params, value):
        return torch.exp(-torch.exp(params[..., 0] - value))


class WithoutSlope(ByCdf):
    has_cdf_gradient = False


class ByPathwise(Gumbel):
    def pathwise(self, params, value, noise=None):
        return value.detach() + (params - params.detach())[..., 0]


FLAGS = (
    *("has_noise", "is_reparameterized", "is_bijective"),
    *("has_cdf", "has_cdf_gradient", "has_rsample"),
)


@pytest.mark.parametrize(
    ("cls", "flags"),
    [
        (Gumbel, ()),
        (ByNoise, ("has_noise",)),
        (ByInverse, ("has_noise", "is_reparameterized", "has_rsample")),
        (ByBijection, ("has_noise", "is_reparameterized", "is_bijective", "has_rsample")),
        (ByCdf, ("has_cdf", "has_cdf_gradient", "has_rsample")),
        (WithoutSlope, ("has_cdf",)),
        (ByPathwise, ("has_rsample",)),
    ],
)
def test_flags_follow_from_what_a_family_defines(cls, flags, float64):
    family = cls()
    assert [flag for flag in FLAGS if getattr(family, flag)] == [f for f in FLAGS if f in flags]
    params = torch.randn(2000, 1, requires_grad=True)
    assert_cdf(family.sample(params) - params[:, 0].detach(), "gumbel_r")
    if family.has_rsample:
        (slope,) = torch.autograd.grad(family.rsample(params).sum(), params)
        torch.testing.assert_close(slope, torch.ones_like(slope))
    wrapped = fam.Independent(fam.Transformed(family, AffineTransform(1.0, 2.0)), (2,))
    expected = [f for f in flags if not f.startswith("has_cdf")]
    assert [flag for flag in FLAGS if getattr(wrapped, flag)] == [f for f in FLAGS if f in expected]
    mixed = fam.Mixture(family, 2)
    assert mixed.has_noise == family.has_noise
    assert mixed.has_rsample == family.has_cdf_gradient


@pytest.mark.parametrize(
    "family",
    [
        fam.VonMises(),
        fam.Dirichlet(2),
        fam.Transformed(fam.VonMises(), AffineTransform(0.0, 2.0)),
        fam.Transformed(fam.Independent(fam.Normal(), (2,)), AffineTransform(0.0, 2.0)),
    ],
    ids=str,
)
def test_a_family_without_a_cdf_is_named(family):
    params = torch.zeros(family.num_params)
    for method in (family.cdf, family.icdf):
        with pytest.raises(NotImplementedError, match=r"^cdf, icdf: .* has neither a CDF .*sample"):
            method(params, torch.full(family.event_shape, 0.5))
