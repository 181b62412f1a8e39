"""The density and the tails of Student's t distribution, for any degrees of freedom."""

import torch
from torch import Tensor

from ardist.families.logs import HALF_LOG_TAU
from ardist.families.quadrature import quadrature


def log_density(z: Tensor, df: Tensor) -> Tensor:
    """The log density: (...)."""
    half = df / 2
    return _log_ratio(half) - (half + 0.5) * torch.log1p(z.square() / df) - HALF_LOG_TAU


def _log_ratio(x: Tensor) -> Tensor:
    """lgamma(x + 1 / 2) - lgamma(x) - log(x) / 2.

    Above 100, where its terms would cancel, it is a series (Abramowitz and Stegun 1964, 6.1.47).
    """
    is_large = x > 100
    inverse = torch.where(is_large, x, 100.0).reciprocal()
    square = inverse * inverse
    series = -inverse * (1 / 8 - square * (1 / 192 - square / 640))
    small = torch.where(is_large, 1.0, x)
    difference = (small + 0.5).lgamma() - small.lgamma() - 0.5 * small.log()
    return torch.where(is_large, series, difference)


def log_tails(z: Tensor, df: Tensor) -> tuple[Tensor, Tensor]:
    """log P(T <= z) and log P(T > z), by Gauss's rule: both (...).

    Near zero, both follow from the mass of (0, z). Elsewhere, the substitution
    v = ((df + z^2) / (df + t^2))^(df / 2) turns the integral of the density beyond z into

        density(z) * (1 + z^2 / df) * integral over (0, 1) of (z^2 + df * (1 - v^(2 / df)))^(-1 / 2)

    The integrand is smooth for all df. In the limit of the normal distribution it contains the
    logarithm of v, so v is a power of the nodes.
    """
    most = torch.finfo(z.dtype).max ** 0.5 / 2  # the square of a larger number is infinite
    z = z.clamp(-most, most)
    is_near, is_left = z.abs() < 1.5, z < 0
    near, far = torch.where(is_near, z, 0.0), torch.where(is_near, 1.5, z.abs())
    nodes, weights = quadrature(24, z)
    each = df.unsqueeze(-1)
    mass = near * (log_density(near.unsqueeze(-1) * nodes, each).exp() * weights).sum(-1)
    square = far.square().unsqueeze(-1) - each * torch.expm1(8 / each * nodes.log())
    integral = (4 * nodes**3 * weights / square.sqrt()).sum(-1)
    tail = log_density(far, df) + torch.log1p(far.square() / df) + integral.log()
    rest = torch.log1p(-tail.exp())
    below = torch.where(is_near, (0.5 + mass).log(), torch.where(is_left, tail, rest))
    above = torch.where(is_near, (0.5 - mass).log(), torch.where(is_left, rest, tail))
    return below, above
