"""The incomplete gamma and beta functions, by the logarithms of both tails.

The density of log(t), or of the log odds of t, is log-concave. So beyond x, the log density is
below its tangent at x, by a convex function of the distance y from x. With v = exp(-rate * y), the
tail is

    density(x) / rate * integral over v in (0, 1) of exp((rate - abs(slope)) * y - convex(y))

The integrand is smooth, and Gauss's rule has about 12 digits, however far x is from the mass.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ardist.families.guards import widest
from ardist.families.logs import both_logs, log_one_minus_exp
from ardist.families.quadrature import quadrature
from ardist.families.saddle import log_beta_density, log_gamma_density
from ardist.shapes import is_recorded

_FAR = 5.0  # deviations from the mode
_MOST_GROWTH = 500.0  # its exponential is finite

Tails = tuple[Tensor, Tensor]


def log_gammainc(a: Tensor, x: Tensor) -> Tails:
    """log P(a, x) and log(1 - P(a, x)), regularized: both (...), float64, without gradients.

    torch's functions are used unless a tail is close to the smallest number of the dtype.
    """
    a, x = _wide(a, x)
    below, above = torch.special.gammainc(a, x), torch.special.gammaincc(a, x)
    logs = both_logs(below, above)
    is_far = torch.minimum(below, above) < torch.finfo(x.dtype).tiny ** 0.9
    if not (is_recorded() or bool(is_far.any())):
        return logs
    each, sign = x.unsqueeze(-1), torch.where(x < a, -1.0, 1.0).unsqueeze(-1)
    far = _log_tails(
        log_gamma_density(a, x), a - x, x, lambda y: each * ((sign * y).expm1() - sign * y)
    )
    return _where(is_far, far, logs)


def log_betainc(a: Tensor, b: Tensor, x: Tensor, rest: Tensor) -> Tails:
    """log I_x(a, b) and log(1 - I_x(a, b)), regularized: both (...), float64, without gradients.

    Args:
        a: (...).
        b: (...).
        x: (...).
        rest: 1 - x.
    """
    a, b, x, rest = _wide(a, b, x, rest)
    # Near the mode, the integrand is not smooth if a or b is below 1, which is then raised by 1.
    slope, curvature = _beta_slopes(a, b, x, rest)
    is_near = slope.abs() < _FAR * curvature.sqrt()
    lifts_a, lifts_b = is_near & (a < 1), is_near & (b < 1)
    more, further = a + lifts_a, b + lifts_b
    tails, is_lifted = _log_beta_tails(more, further, x, rest), lifts_a | lifts_b
    if not (is_recorded() or bool(is_lifted.any())):
        return tails
    gained = torch.where(lifts_a, log_beta_density(a, b, x, rest).exp() / a, 0.0)
    lost = torch.where(lifts_b, log_beta_density(more, b, x, rest).exp() / b, 0.0)
    below, above = (tail.exp() for tail in tails)
    lifted = both_logs(below + (gained - lost), above - (gained - lost))
    return _where(is_lifted, lifted, tails)


def _log_beta_tails(a: Tensor, b: Tensor, x: Tensor, rest: Tensor) -> Tails:
    slope, curvature = _beta_slopes(a, b, x, rest)
    # log1p(x * expm1(y)) - x * y, or the same with 1 - x and -y: exact with the smaller share.
    total, share = (a + b).unsqueeze(-1), torch.minimum(x, rest).unsqueeze(-1)
    sign = torch.where((x < rest) == (slope < 0), 1.0, -1.0).unsqueeze(-1)

    def convex(y: Tensor) -> Tensor:
        outer = sign * y
        inner = outer.clamp(max=_MOST_GROWTH)
        return total * ((share * inner.expm1()).log1p() + (outer - inner) - share * outer)

    return _log_tails(log_beta_density(a, b, x, rest), slope, curvature, convex)


def _beta_slopes(a: Tensor, b: Tensor, x: Tensor, rest: Tensor) -> Tails:
    """The first and the negative second derivative of the log density of the log odds."""
    return a * rest - b * x, (a + b) * x * rest


def _log_tails(
    density: Tensor, slope: Tensor, curvature: Tensor, convex: Callable[[Tensor], Tensor]
) -> Tails:
    """The logarithms of both tails of a log-concave density.

    Args:
        density: the log density at x, (...).
        slope: its derivative, (...). If it is positive, the smaller tail is to the left.
        curvature: its negative second derivative, (...).
        convex: a function of the distances y >= 0 from x into the smaller tail, (..., nodes), by
            which the log density is below its tangent at x.
    """
    nodes, weights = quadrature(32, density)
    rate = (slope.square() + curvature).sqrt()
    y = -4 * nodes.log() / rate.unsqueeze(-1)  # v is the fourth power of the nodes
    inner = ((rate - slope.abs()).unsqueeze(-1) * y - convex(y)).exp()
    integral = (inner * (4 * nodes**3 * weights)).sum(-1)
    small = (density - rate.log() + integral.log()).clamp(torch.finfo(density.dtype).min, 0.0)
    rest = log_one_minus_exp(small)
    return _where(slope > 0, (small, rest), (rest, small))


def _where(mask: Tensor, tails: Tails, others: Tails) -> Tails:
    return torch.where(mask, tails[0], others[0]), torch.where(mask, tails[1], others[1])


def _wide(*numbers: Tensor) -> tuple[Tensor, ...]:
    return torch.broadcast_tensors(*(each.detach().to(widest(each.device)) for each in numbers))
