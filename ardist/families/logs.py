"""Sums and differences of probabilities, by their logarithms."""

import math

import torch
from torch import Tensor

HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)  # of the density of a normal variable
_LOG_HALF = math.log(0.5)


def log_sum_exp(x: Tensor) -> Tensor:
    """`logsumexp` over the last dimension. If all entries are -inf, the gradient is 0, not NaN."""
    nothing = (x == -torch.inf).all(-1, keepdim=True)
    return x.masked_fill(nothing, 0.0).logsumexp(-1).masked_fill(nothing.squeeze(-1), -torch.inf)


def log_one_minus_exp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x <= 0, bounded from below (Maechler 2012)."""
    is_small = x > _LOG_HALF
    near = torch.where(is_small, x, _LOG_HALF).clamp(max=-torch.finfo(x.dtype).tiny)
    far = torch.where(is_small, _LOG_HALF, x).exp()
    return torch.where(is_small, (-torch.expm1(near)).log(), torch.log1p(-far))


def both_logs(below: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
    """The logarithms of both tails, bounded from below so that their gradients are finite."""
    tiny = torch.finfo(below.dtype).tiny
    return below.clamp(min=tiny).log(), above.clamp(min=tiny).log()


def log_between(below: Tensor, above: Tensor, until: Tensor, beyond: Tensor) -> Tensor:
    """log P(low < X <= high), by the logarithms of both tails of `low` and of `high`.

    It is the difference of the nearer tails, or one minus both tails if the median is inside.
    """
    below, above, until, beyond = torch.broadcast_tensors(below, above, until, beyond)
    is_left, is_right = until < _LOG_HALF, above < _LOG_HALF
    is_around = ~(is_left | is_right)
    nearer = torch.where(is_left, until, torch.where(is_right, above, 0.0))
    other = torch.where(is_left, below, torch.where(is_right, beyond, -torch.inf))
    apart = (other - nearer).clamp(min=torch.finfo(below.dtype).min, max=0.0)
    tails = [torch.where(is_around, tail, -1.0).exp() for tail in (below, beyond)]
    outside = (tails[0] + tails[1]).clamp(max=1 - torch.finfo(below.dtype).eps)
    return torch.where(is_around, torch.log1p(-outside), nearer + log_one_minus_exp(apart))


def log_ndtr(z: Tensor) -> Tensor:
    """The logarithm of the standard normal CDF.

    Below -1e4 it uses the first terms of Mills' ratio (Abramowitz and Stegun 1964, 26.2.12), since
    torch's derivative of `log_ndtr` is wrong there.
    """
    is_far = z < -1e4
    most = torch.finfo(z.dtype).max ** 0.5  # the square of a larger number is infinite
    far = torch.where(is_far, z, -1e4).clamp(min=-most)
    tail = -0.5 * far * far - (-far).log() - HALF_LOG_TAU - far.square().reciprocal()
    return torch.where(is_far, tail, torch.special.log_ndtr(torch.where(is_far, 0.0, z)))
