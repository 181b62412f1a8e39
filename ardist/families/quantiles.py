"""Inverses of CDFs, and the incomplete beta function, which torch does not have."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ardist.families.saddle import gamma_excess

_MOST_TERMS = 5000  # of a continued fraction
_LARGE, _HUGE = 200.0, 1e6  # above these the incomplete beta function has approximations

Function = Callable[[Tensor], Tensor]


def of_states(masses: Tensor, uniform: Tensor) -> Tensor:
    """The first state at which the cumulated masses (..., num_states) reach the uniform (...)."""
    cumulative = masses.cumsum(-1).contiguous()
    # The total is one up to rounding, and a uniform number may exceed it. A state without mass does
    # not reach zero.
    threshold = uniform.unsqueeze(-1) * cumulative[..., -1:]
    threshold = threshold.clamp(min=torch.finfo(threshold.dtype).tiny).contiguous()
    return torch.searchsorted(cumulative, threshold).squeeze(-1)


def of_counts(cdf: Function, uniform: Tensor) -> Tensor:
    """The smallest integer whose CDF is above 0 and reaches the uniform: (...).

    The search doubles the bounds, then bisects. It also ends if no number of the dtype lies
    between the bounds.
    """
    most = torch.finfo(uniform.dtype).max / 4
    lower, upper = torch.full_like(uniform, -1.0), torch.zeros_like(uniform)
    reached = cdf(lower)
    above = (reached > 0) & (reached >= uniform)
    while bool(above.any()):
        upper = torch.where(above, lower, upper)
        lower = torch.where(above, (2 * lower).clamp(min=-most), lower)
        reached = cdf(lower)
        above = (reached > 0) & (reached >= uniform) & (lower > -most)
    below = (cdf(upper) < uniform) & (upper < most)
    while bool(below.any()):
        lower = torch.where(below, upper, lower)
        upper = torch.where(below, (2 * upper + 1).clamp(max=most), upper)
        below = (cdf(upper) < uniform) & (upper < most)
    while True:
        middle = ((lower + upper) / 2).floor()
        if not bool(((lower < middle) & (middle < upper)).any()):
            return upper
        below = cdf(middle) < uniform
        lower, upper = torch.where(below, middle, lower), torch.where(below, upper, middle)


def of_reals(cdf: Function, ends: tuple[float | Tensor, float | Tensor], uniform: Tensor) -> Tensor:
    """The smallest number between two ends whose CDF reaches the uniform: (...).

    The bisection runs over the ordered numbers of the dtype. So the result is monotone in the
    uniform even if the CDF is monotone only up to rounding.
    """
    integer = {32: torch.int32, 64: torch.int64}[torch.finfo(uniform.dtype).bits]
    lower, upper = (
        _ordinal(torch.as_tensor(end).to(uniform).expand(uniform.shape).contiguous().view(integer))
        for end in ends
    )
    for _ in range(torch.finfo(uniform.dtype).bits):
        middle = (lower & upper) + ((lower ^ upper) >> 1)  # the mean, without overflow
        below = cdf(_ordinal(middle).view(uniform.dtype)) < uniform
        lower, upper = torch.where(below, middle, lower), torch.where(below, upper, middle)
    return _ordinal(upper).view(uniform.dtype)


def _ordinal(bits: Tensor) -> Tensor:
    """The bits of floats as integers in the order of the floats. It is its own inverse."""
    return torch.where(bits < 0, torch.iinfo(bits.dtype).min - bits, bits)


def _gauss_legendre(count: int) -> tuple[list[float], list[float]]:
    """Nodes and weights of the quadrature over (0, 1), as floats (Press et al. 2007, 4.6)."""
    nodes, weights = [], []
    for number in range(count):
        x, slope = math.cos(math.pi * (number + 0.75) / (count + 0.5)), 1.0
        for _ in range(8):  # steps of Newton's method for the root of a Legendre polynomial
            last, this = 0.0, 1.0
            for k in range(count):
                last, this = this, ((2 * k + 1) * x * this - k * last) / (k + 1)
            slope = count * (x * this - last) / (x * x - 1)
            x -= this / slope
        nodes.append((x + 1) / 2)
        weights.append(1 / ((1 - x * x) * slope * slope))
    return nodes, weights


# Not tensors: they would keep the mode (inference, tracing) that they were made in.
_RULES = {count: _gauss_legendre(count) for count in (24, 48)}


def quadrature(count: int, reference: Tensor) -> tuple[Tensor, Tensor]:
    """The nodes and weights of Gauss's rule over (0, 1), for the dtype and device of a tensor."""
    nodes, weights = (
        torch.tensor(numbers, dtype=reference.dtype, device=reference.device)
        for numbers in _RULES[count]
    )
    return nodes, weights


def betainc(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """The regularized incomplete beta function I_x(a, b): (...), float64, without gradients."""
    a, b, x = torch.broadcast_tensors(*(part.detach().double() for part in (a, b, x)))
    is_normal = (a > _LARGE) & (b > _LARGE)
    is_gamma = ~is_normal & (torch.maximum(a, b) > _HUGE)
    one = torch.ones_like(a)
    rest = is_normal | is_gamma
    result = _by_fraction(torch.where(rest, one, a), torch.where(rest, one, b), x)
    large = _by_quadrature(torch.where(is_normal, a, 1e4), torch.where(is_normal, b, 1e4), x)
    return torch.where(is_normal, large, torch.where(is_gamma, _by_gamma(a, b, x), result))


def _by_gamma(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """If one of a and b is much larger than the other (Wise 1950), accurate to 1e-7."""
    few, many = torch.minimum(a, b), torch.maximum(a, b)
    log = torch.where(a < b, (-x).log1p(), x.log())
    mean = -(many + (few - 1) / 2) * log
    return torch.where(a < b, torch.special.gammainc(few, mean), torch.special.gammaincc(few, mean))


def _by_quadrature(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """If a and b are large: Gauss's rule over the tail beyond x (Press et al. 2007, 6.4)."""
    total = a + b
    mean = a / total
    deviation = (mean * (1 - mean) / (total + 1)).sqrt()
    is_above = x > mean
    above = torch.maximum(mean + 10 * deviation, x + 5 * deviation).clamp(max=1.0)
    below = torch.minimum(mean - 10 * deviation, x - 5 * deviation).clamp(min=0.0)
    reach = torch.where(is_above, above, below) - x
    nodes, weights = quadrature(48, x)
    away = (x - mean) + reach * nodes.reshape(-1, *(1,) * x.dim())  # (nodes, ...)
    density = (a - 1) * (away / mean).log1p() + (b - 1) * (-away / (1 - mean)).log1p()
    peak = gamma_excess(total) - gamma_excess(a) - gamma_excess(b) + total.log()
    mass = torch.tensordot(weights, (density + peak).exp(), 1) * reach.abs()
    return torch.where(is_above, 1 - mass, mass)


def _by_fraction(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """The continued fraction by the modified Lentz method (Press et al. 2007, "Numerical Recipes",
    6.4). The number of terms grows as the square root of the larger of a and b.
    """
    front = a * x.log() + b * (-x).log1p() + (a + b).lgamma() - a.lgamma() - b.lgamma()
    # The fraction converges fast below the mean. Above it, I_x(a, b) = 1 - I_(1-x)(b, a).
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
