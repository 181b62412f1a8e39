"""A family whose conditionals are spline flows."""

from dataclasses import dataclass

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import AffineTransform, Distribution, Transform, constraints

from ardist.families.base import Family
from ardist.families.links import Positive
from ardist.families.logs import HALF_LOG_TAU, log_ndtr
from ardist.shapes import as_positive, as_scale


@dataclass(frozen=True, repr=False)
class Spline(Family):
    """A normal transformed by a monotone rational-quadratic spline (Durkan et al. 2019).

    A value is `loc + scale * u`. A spline with `bins` pieces maps u to a standard normal variable
    on [-bound, bound] and is the identity outside. The network gives all parameters: loc, scale,
    the widths and heights of the pieces and the slopes between them. So a conditional can have
    several modes, skew or a plateau, with density, CDF and draws in closed form. With all
    parameters at zero it is close to the standard normal. Unlike the spline alone, loc and scale
    can move mass out of [-bound, bound].

    Args:
        bins: number of pieces, at least 1.
        bound: the end of the spline, in units of the scale.
        min_scale: a lower bound on the scale, in the units of the data.

    Raises:
        ValueError: if an argument is invalid.

    >>> import torch, ardist as ad
    >>> family = ad.families.Spline(8)
    >>> family.num_params, family.log_prob(torch.zeros(25), torch.tensor(0.0))
    (25, tensor(-0.9179))
    """

    bins: int
    bound: float = 4.0
    min_scale: float = 1e-6
    support = constraints.real
    needs_double = True

    def __post_init__(self) -> None:
        self._check(as_positive, "bins")
        self._check(as_scale, "bound", "min_scale")

    @property
    def num_params(self) -> int:
        return 3 * self.bins + 1

    def _parts(self, params: Tensor) -> tuple[Tensor, Tensor, "_Curve"]:
        """loc, scale and the curve from standardized values to noise."""
        loc, raw, sizes, slopes = params.split((1, 1, 2 * self.bins, self.bins - 1), -1)
        # Each piece has at least a hundredth of an equal share.
        shares = 0.99 * sizes.unflatten(-1, (2, self.bins)).softmax(-1) + 0.01 / self.bins
        places = (2 * shares[..., :-1].cumsum(-1) - 1) * self.bound
        places = F.pad(F.pad(places, (1, 0), value=-self.bound), (0, 1), value=self.bound)
        slopes = F.pad(Positive(1e-3)(slopes), (1, 1), value=1.0)  # the identity's at both ends
        knots = torch.cat((places, slopes.unsqueeze(-2)), -2)
        scale = Positive(self.min_scale)(raw.squeeze(-1))
        return loc.squeeze(-1), scale, _Curve(knots, self.bound)

    def __call__(self, params: Tensor) -> Distribution:
        loc, scale, curve = self._parts(params)
        noise = dist.Normal(torch.zeros_like(loc), torch.ones_like(loc), validate_args=False)
        return dist.TransformedDistribution(
            noise, [curve.inv, AffineTransform(loc, scale)], validate_args=False
        )

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        loc, scale, curve = self._parts(params)
        z, log_abs_det_jacobian = curve.evaluate((value - loc) / scale)
        return log_abs_det_jacobian - 0.5 * z * z - HALF_LOG_TAU - scale.log()

    def cdf(self, params: Tensor, value: Tensor) -> Tensor:
        return torch.special.ndtr(self.to_noise(params, value))

    def log_tails(self, params: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        noise = self.to_noise(params, value)
        return log_ndtr(noise), log_ndtr(-noise)

    def icdf(self, params: Tensor, uniform: Tensor) -> Tensor:
        wide = self._score_dtype(params.dtype, params.device)  # the dtype of `cdf`
        return self.from_noise(params.to(wide), torch.special.ndtri(uniform.to(wide)))

    def sample_noise(self, out: Tensor) -> Tensor:
        return out.normal_()

    def from_noise(self, params: Tensor, noise: Tensor) -> Tensor:
        loc, scale, curve = self._parts(params)
        return torch.addcmul(loc, scale, curve._inverse(noise))

    def to_noise(self, params: Tensor, value: Tensor) -> Tensor:
        return self.to_noise_and_log_det(params, value)[0]

    def log_abs_det_jacobian(self, params: Tensor, value: Tensor) -> Tensor:
        return self.to_noise_and_log_det(params, value)[1]

    def to_noise_and_log_det(self, params: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        loc, scale, curve = self._parts(params)
        z, log_abs_det_jacobian = curve.evaluate((value - loc) / scale)
        return z, scale.log() - log_abs_det_jacobian


class _Curve(Transform):
    """A monotone rational-quadratic spline, the identity outside [-bound, bound].

    Pyro's `_monotonic_rational_spline` computes the same function. But it indexes by masks and
    asserts on values, which vmap and broadcasting do not support, and its gradients far outside
    the bound are NaN.

    Args:
        knots: (..., 3, bins + 1): positions before and after the map, and slopes.
    """

    domain = constraints.real
    codomain = constraints.real
    bijective = True
    sign = 1

    def __init__(self, knots: Tensor, bound: float) -> None:
        super().__init__()
        self._knots, self._bound = knots, bound

    def _around(self, row: int, at: Tensor) -> list[Tensor]:
        """The knots left and right of numbers within the bound: two positions and a slope each."""
        index = (at.unsqueeze(-1) >= self._knots[..., row, 1:-1]).sum(-1)[..., None, None]
        knots = self._knots[(None,) * (index.dim() - self._knots.dim())]
        pair = [knots.take_along_dim(index + side, -1) for side in (0, 1)]
        return [number for knot in pair for number in knot.squeeze(-1).unbind(-1)]

    def evaluate(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The curve at u and the logarithm of its slope: both (...)."""
        at = u.clamp(-self._bound, self._bound)
        left, bottom, first, right, top, last = self._around(0, at)
        mean = (top - bottom) / (right - left)
        t = (at - left) / (right - left)
        mixed = t * (1 - t)
        below = mean * (1 - 2 * mixed) + (first + last) * mixed
        z = bottom + (top - bottom) * (mean * t * t + first * mixed) / below
        above = last * t * t + 2 * mean * mixed + first * (1 - t).square()
        log_abs_det_jacobian = 2 * (mean / below).log() + above.log()
        outside = u != at
        return torch.where(outside, u, z), log_abs_det_jacobian.masked_fill(outside, 0.0)

    def _call(self, u: Tensor) -> Tensor:
        return self.evaluate(u)[0]

    def log_abs_det_jacobian(self, u: Tensor, z: Tensor) -> Tensor:
        return self.evaluate(u)[1]

    def _inverse(self, z: Tensor) -> Tensor:
        at = z.clamp(-self._bound, self._bound)
        left, bottom, first, right, top, last = self._around(1, at)
        mean = (top - bottom) / (right - left)
        t = (at - bottom) / (top - bottom)
        # The root of Durkan's quadratic in a form without cancellation. With e as below, the
        # discriminant is a sum of squares, and e > 0 and e < 0 are mirror images.
        e = first * (1 - t) - last * t
        root = e.abs() + (e * e + 4 * mean * mean * t * (1 - t)).sqrt()
        rise, rest = 2 * mean * t, 2 * mean * (1 - t)
        share = torch.where(e >= 0, rise / (rise + root), root / (root + rest))
        return torch.where(z == at, left + (right - left) * share, z)
