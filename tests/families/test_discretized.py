"""DiscretizedLogisticMixture: its normalization and its tails."""

import math

import pytest
import torch

from ardist import families as fam


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
