"""Inverses of CDFs."""

from collections.abc import Callable

import torch
from torch import Tensor

from ardist.shapes import is_vmapped

Function = Callable[[Tensor], Tensor]


def of_states(masses: Tensor, uniform: Tensor) -> Tensor:
    """The first index at which the cumulative masses (..., num_states) reach the uniform (...)."""
    cumulative = masses.cumsum(-1).contiguous()
    # The total is one up to rounding, and a uniform number may exceed it. A state without mass does
    # not reach zero.
    threshold = uniform.unsqueeze(-1) * cumulative[..., -1:]
    threshold = threshold.clamp(min=torch.finfo(threshold.dtype).tiny).contiguous()
    return torch.searchsorted(cumulative, threshold).squeeze(-1)


def of_counts(cdf: Function, uniform: Tensor) -> Tensor:
    """The smallest integer whose CDF is above 0 and reaches the uniform: (...).

    The search doubles the bounds, then bisects. It also ends if no number of the dtype lies
    between the bounds. In a graph, which has no loops, and under vmap it bisects all numbers of the
    dtype, at more evaluations of the CDF.
    """
    most = torch.finfo(uniform.dtype).max / 4
    uniform = uniform.clamp(min=torch.finfo(uniform.dtype).tiny)  # reached where the CDF is above 0
    if torch.compiler.is_exporting() or is_vmapped():
        return of_reals(lambda value: cdf(value.floor()), (-most, most), uniform)
    lower, upper = torch.full_like(uniform, -1.0), torch.zeros_like(uniform)
    above = cdf(lower) >= uniform
    while bool(above.any()):
        upper = torch.where(above, lower, upper)
        lower = torch.where(above, (2 * lower).clamp(min=-most), lower)
        above = (cdf(lower) >= uniform) & (lower > -most)
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
