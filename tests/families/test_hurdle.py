"""Point masses and a family."""

import pytest
import torch
from laws import assert_frequencies

from ardist import families as fam


def test_a_hurdle_is_a_mixture_of_two_measures(float64):
    family = fam.Hurdle((0.0, 2.0), fam.LogNormal())
    params = torch.randn(30, 1, family.num_params)
    weights = params[..., :3].softmax(-1)
    value = torch.tensor([0.0, 2.0, 1.0, 3.5])
    scores = family.log_prob(params, value).exp()
    torch.testing.assert_close(scores[:, :2], weights[:, 0, :2])
    density = fam.LogNormal().log_prob(params[..., 3:], value[2:]).exp()
    torch.testing.assert_close(scores[:, 2:], weights[..., 2] * density)
    mass = family.mass(params, value)
    torch.testing.assert_close(mass[:, :2], weights[:, 0, :2])
    assert (mass[:, 2:] == 0).all()


def test_counts_are_zero_inflated(float64):
    family = fam.Hurdle((0.0, -1.0), fam.Poisson())
    params, counts = torch.randn(10, 1, 4), torch.arange(-1.0, 60.0)
    weights = params[..., :3].softmax(-1)
    expected = weights[..., 2] * fam.Poisson().log_prob(params[..., 3:], counts.clamp(min=0)).exp()
    expected[:, 0] = weights[:, 0, 1]
    expected[:, 1] += weights[:, 0, 0]
    torch.testing.assert_close(family.log_prob(params, counts).exp(), expected)
    torch.testing.assert_close(
        family.interval_log_prob(params, 0.0, 3.0).exp(), expected[:, 1:5].sum(1, keepdim=True)
    )
    draws = family.sample(params[0].expand(20_000, -1))
    assert_frequencies((draws.unsqueeze(-1) == counts).sum(0), expected[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_draw_is_exactly_a_point(dtype):
    family = fam.Hurdle((0.0, 0.1), fam.LogNormal())
    params = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0], dtype=dtype).expand(2000, -1)
    draws = family.sample(params)
    share = family._is_point(draws).double().mean(0)
    assert ((share - 0.42).abs() < 0.06).all()
    assert family.log_prob(params, draws).isfinite().all()


def test_quantiles_stop_at_points(float64):
    family = fam.Hurdle((0.0,), fam.Normal())
    params = torch.zeros(4)
    uniform = torch.tensor([0.1, 0.3, 0.7, 0.9])
    value = family.icdf(params, uniform)
    assert value[1:3].tolist() == [0.0, 0.0]
    torch.testing.assert_close(family.cdf(params, value)[[0, 3]], uniform[[0, 3]])
