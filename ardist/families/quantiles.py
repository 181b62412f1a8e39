"""Inverses of CDFs, and a CDF that torch does not have."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints

_MOST_TERMS = 5000  # of a continued fraction

Function = Callable[[Tensor], Tensor]


def of_states(masses: Tensor, uniform: Tensor) -> Tensor:
    """The first state at which the sum of masses (..., num_states) reaches the uniform (...)."""
    cumulative = masses.cumsum(-1).contiguous()
    # Rounding leaves the total near one, and a uniform may be above it.
    threshold = (uniform.unsqueeze(-1) * cumulative[..., -1:]).contiguous()
    return torch.searchsorted(cumulative, threshold).squeeze(-1)


def of_counts(cdf: Function, uniform: Tensor) -> Tensor:
    """The smallest of the numbers 0, 1, 2, ... whose CDF reaches the uniform.

    By doubling, then by bisection, up to the largest number from which one can count.
    """
    most = 2 / torch.finfo(uniform.dtype).eps
    lower, upper = torch.full_like(uniform, -1.0), torch.zeros_like(uniform)
    below = (cdf(upper) < uniform) & (upper < most)
    while bool(below.any()):
        lower = torch.where(below, upper, lower)
        upper = torch.where(below, (2 * upper + 1).clamp(max=most), upper)
        below = (cdf(upper) < uniform) & (upper < most)
    while bool((upper - lower > 1).any()):
        middle = ((lower + upper) / 2).floor()
        below = cdf(middle) < uniform
        lower, upper = torch.where(below, middle, lower), torch.where(below, upper, middle)
    return upper


def of_reals(
    cdf: Function, density: Function, support: constraints.Constraint, uniform: Tensor
) -> Tensor:
    """Where a continuous CDF is the uniform: by bisection over all numbers, then by Newton."""
    link = torch.sinh if type(support) is type(constraints.real) else biject_to(support)
    most = 0.99 * math.log(torch.finfo(uniform.dtype).max)
    lower, upper = torch.full_like(uniform, -most), torch.full_like(uniform, most)
    for _ in range(32 if uniform.dtype == torch.float32 else 60):
        middle = (lower + upper) / 2
        below = cdf(link(middle)) < uniform
        lower, upper = torch.where(below, middle, lower), torch.where(below, upper, middle)
    value: Tensor = link((lower + upper) / 2)
    for _ in range(2):
        error = cdf(value) - uniform
        closer = value - error / density(value)
        better = (cdf(closer) - uniform).abs() < error.abs()
        value = torch.where(better & support.check(closer), closer, value)
    return value


def betainc(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """The regularized incomplete beta function I_x(a, b), in float64 and without gradients.

    By the modified Lentz evaluation of its continued fraction (Press et al. 2007, "Numerical
    Recipes", 6.4), which takes as many terms as the root of the larger of a and b.
    """
    a, b, x = torch.broadcast_tensors(*(part.detach().double() for part in (a, b, x)))
    front = a * x.log() + b * (-x).log1p() + (a + b).lgamma() - a.lgamma() - b.lgamma()
    # The fraction converges fast on one side of the mean, and I_x(a, b) = 1 - I_(1-x)(b, a).
    other = x > (a + 1) / (a + b + 2)
    a, b, x = torch.where(other, b, a), torch.where(other, a, b), torch.where(other, 1 - x, x)
    c, d = torch.ones_like(x), _away_from_zero(1 - (a + b) * x / (a + 1)).reciprocal()
    total = d
    for m in range(1, _MOST_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        before = total
        for term in (even, odd):
            d = _away_from_zero(1 + term * d).reciprocal()
            c = _away_from_zero(1 + term / c)
            total = total * c * d
        if not bool(((total - before).abs() > 5e-15 * total.abs()).any()):
            break
    result = front.exp() * total / a
    return torch.where(other, 1 - result, result)


def _away_from_zero(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 1e-300, 1e-300, x)
