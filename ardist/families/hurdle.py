"""Numbers with spikes: point masses and any family."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from ardist.families.base import Family, choose
from ardist.families.cdf import are_between
from ardist.families.composed import Selecting
from ardist.families.conditional import Conditional
from ardist.families.logs import log_sum_exp
from ardist.families.quantiles import of_reals
from ardist.shapes import as_real, described, gather_last, is_sequence


@dataclass(frozen=True, repr=False)
class Hurdle(Selecting):
    """A mixture of point masses and a family, such as an income that is often zero.

    The parameters are the logits of the points and of the rest, then the parameters of the family.
    With a continuous family, the score of a point is its log-probability. The score of another
    value is the log-probability of the rest plus its log density in the family. So scores are log
    densities with respect to the sum of the counting measure on the points and Lebesgue measure.
    With a discrete family, all scores are log-probabilities. If the family can also produce a
    point, both probabilities are added, as in zero-inflated counts (Lambert 1992).

    A network reads which point the value is, and the features of the family. The support counts as
    discrete, as for an event with a discrete block, and draws have no gradients.

    Args:
        points: different numbers.
        family: a family of one number that is not an index.

    Raises:
        ValueError: if an argument is invalid.

    >>> import torch, ardist as ad
    >>> family = ad.families.Hurdle((0.0,), ad.families.LogNormal())
    >>> family.num_params, family.log_prob(torch.zeros(4), torch.tensor([0.0, 1.0])).exp()
    (4, tensor([0.5000, 0.1995]))
    """

    points: tuple[float, ...]
    _count: int
    _is_scored_by_parts = True

    def __init__(self, points: Sequence[float], family: Family) -> None:
        numbers = _as_points(points)
        vars(self).update(family=family, points=numbers, _count=len(numbers))
        self.__post_init__()
        if family.event_shape or family.is_index:
            raise ValueError(
                f"family: expected a family of single numbers that are not indices, got {family}"
            )

    def __repr__(self) -> str:
        return f"Hurdle({self.points}, {self.family})"

    @property
    def num_params(self) -> int:
        return self._count + 1 + self.family.num_params

    @property
    def num_features(self) -> int:
        return self._count + self.family.num_features

    @property
    def support(self) -> constraints.Constraint:
        return Spiked(self.points, self.family)

    is_index = False
    has_rsample = is_reparameterized = is_bijective = has_cdf_gradient = False
    project, inside = Family.project, Family.inside

    @property
    def has_cdf(self) -> bool:
        return self.family.has_cdf

    def enumerate_support(self) -> Tensor | None:
        states = self.family.enumerate_support()
        return None if states is None else torch.cat((torch.tensor(self.points), states)).unique()

    def _split(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities of the points (..., K) and the rest, and the family's parameters."""
        logits, inner = params.tensor_split((self._count + 1,), -1)
        weights = logits.log_softmax(-1)
        return weights[..., :-1], weights[..., -1], inner

    def _points(self, reference: Tensor) -> Tensor:
        return _points_like(self.points, reference)

    def _is_point(self, value: Tensor) -> Tensor:
        """(..., K) bool"""
        return value.unsqueeze(-1) == self._points(value)

    def _without_points(self, value: Tensor, is_point: Tensor) -> Tensor:
        """The value with a placeholder for points, where the family may have no density."""
        return torch.where(is_point, self.family.placeholder().to(value), value)

    def __call__(self, params: Tensor) -> Distribution:
        return Conditional(self, params)

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        at, rest, inner = self._split(params)
        if not value.is_floating_point():
            value = value.to(params.dtype)
        each = self._is_point(value)
        is_point = each.any(-1)
        point = at.masked_fill(~each, -torch.inf).amax(-1)
        if self.family.support.is_discrete:  # the family may have the point too
            rest = rest + self.family.log_prob(inner, value)
            both = rest.masked_fill(~self.family._is_atom(value), -torch.inf)
            point = log_sum_exp(torch.stack((point, both), -1))
        else:
            rest = rest + self.family.log_prob(inner, self._without_points(value, is_point))
        return torch.where(is_point, point, rest)

    def _start(self, values: Tensor, weights: Tensor) -> Tensor | None:
        is_point = self._is_point(values.to(weights)).any(-1)
        inner = self.family._start(values, weights.masked_fill(is_point, 0.0))
        if inner is None:
            return None
        return torch.cat((inner.new_zeros(inner.shape[0], self._count + 1), inner), -1)

    def _is_atom(self, value: Tensor) -> Tensor:
        return self._is_point(value).any(-1) | self.family._is_atom(value)

    def sample(self, params: Tensor) -> Tensor:
        with torch.no_grad():
            _, _, inner = self._split(params)
            uniform = torch.rand(params.shape[:-1], dtype=params.dtype, device=params.device)
            return self._chosen(params, uniform, self.family.sample(inner))

    def _chosen(self, params: Tensor, uniform: Tensor, value: Tensor) -> Tensor:
        """The point that a uniform number selects, or the family's value."""
        count = self._count
        index = choose(params[..., : count + 1], uniform)
        point = gather_last(self._points(value), index.clamp(max=count - 1))
        return torch.where(index < count, point, value)

    def from_noise(self, params: Tensor, noise: Tensor) -> Tensor:
        uniform, inner = self._split_noise(noise)
        return self._chosen(params, uniform, self.family.from_noise(self._split(params)[2], inner))

    def cdf(self, params: Tensor, value: Tensor) -> Tensor:
        at, rest, inner = self._split(params)
        reached = self._points(value) <= value.unsqueeze(-1)
        points = torch.where(reached, at.exp(), 0.0).sum(-1)
        return points + rest.exp() * self.family.cdf(inner, value)

    def _search(
        self,
        cdf: Callable[[Tensor], Tensor],
        uniform: Tensor,
        low: Tensor | float = -math.inf,
        high: Tensor | float = math.inf,
    ) -> Tensor:
        lower, upper = self._inside_of(low, high, uniform)
        below = torch.nextafter(lower, torch.full_like(lower, -math.inf))  # `low` may be a point
        return of_reals(cdf, (below, upper), uniform)

    def interval_log_prob(self, params: Tensor, low: Any, high: Any) -> Tensor:
        at, rest, inner = self._split(params)
        within = (rest + self.family.interval_log_prob(inner, low, high)).unsqueeze(-1)
        at = torch.where(are_between(self._points(params), low, high), at, -torch.inf)
        return log_sum_exp(torch.cat((at.expand(*within.shape[:-1], self._count), within), -1))

    def _widened(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        # A point stays a point: in a wider dtype, another number is nearest to it.
        at, wide = self._is_point(value), self.family._widened(value, dtype)
        return torch.where(at.any(-1), gather_last(self._points(wide), at.int().argmax(-1)), wide)

    def features(self, value: Tensor) -> Tensor:
        if not value.is_floating_point():
            value = value.to(torch.get_default_dtype())
        each = self._is_point(value)
        is_point = each.any(-1)
        inner = self.family.features(self._without_points(value, is_point))
        return torch.cat((each.to(inner), inner.masked_fill(is_point.unsqueeze(-1), 0.0)), -1)

    def _rounded(self, draw: Tensor, dtype: torch.dtype) -> Tensor:
        is_point = self._is_point(draw).any(-1)
        return torch.where(is_point, draw.to(dtype), self.family._rounded(draw, dtype))


def _as_points(points: Any) -> tuple[float, ...]:
    numbers = tuple(points) if is_sequence(points) else ()
    wanted = "at least one number, all finite and different"
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"points: expected {wanted}, got {described(points)}")
    return tuple(float(as_real(x, "points", wanted, math.isfinite)) for x in numbers)


def _points_like(points: tuple[float, ...], reference: Tensor) -> Tensor:
    """The points as floats, in the dtype of the reference if it has floats."""
    dtype = reference.dtype if reference.is_floating_point() else torch.get_default_dtype()
    return torch.as_tensor(points, dtype=dtype, device=reference.device)


class Spiked(constraints.Constraint):
    """The union of points and the support of a family."""

    is_discrete = True
    event_dim = 0

    def __init__(self, points: tuple[float, ...], family: Family) -> None:
        self.points, self.family = points, family
        ends, numbers = family._ends, torch.as_tensor(points, dtype=torch.float64)
        self.lower_bound = min(numbers.min().item(), ends.lower)
        self.upper_bound = max(numbers.max().item(), ends.upper)
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        is_point = value.unsqueeze(-1) == _points_like(self.points, value)
        return self.family.inside(value) | is_point.any(-1)

    def __repr__(self) -> str:
        return f"Spiked({self.points}, {self.family.support})"
