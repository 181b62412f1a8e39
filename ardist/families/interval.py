"""Truncated and rounded families, by the probabilities of intervals."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from ardist.families.base import Family
from ardist.families.composed import Derived
from ardist.families.conditional import Conditional
from ardist.families.guards import interval
from ardist.families.logs import log_one_minus_exp, log_sum_exp
from ardist.families.noise import uniform_noise
from ardist.families.truncated import Chosen, state_logits_of
from ardist.shapes import as_real, is_readable

_AtLeast: Any = type(constraints.nonnegative_integer)
_SMALL = -12.0  # the logarithm of a mass below which one minus the rest is not accurate


@dataclass(frozen=True, repr=False)
class Truncated(Derived):
    """A family conditioned on `low <= value <= high`.

    It has the parameters and features of the family. Scores are computed by `interval_log_prob`,
    so they stay accurate up to about a million scales from the family's mass. Draws invert the CDF
    within the interval. With an upper bound, a family of counts becomes finite.

    Args:
        family: a family of one number with a CDF.
        low: below `high`; -inf for no bound.
        high: inf for no bound.

    Raises:
        ValueError: if the family has no CDF, is `TopK` or `Nucleus` of another family, or has no
            values in the interval.

    >>> import torch, ardist as ad
    >>> family = ad.families.Truncated(ad.families.Normal(), low=0.0, high=1.0)
    >>> family.log_prob(torch.zeros(2), torch.tensor([0.5, 2.0]))
    tensor([0.0309,   -inf])
    >>> ad.families.Truncated(ad.families.Poisson(), low=1).support
    IntegerGreaterThan(lower_bound=1)
    """

    low: float = -math.inf
    high: float = math.inf
    _inner_ends: ClassVar[tuple[float, float]]  # of the family's values in the interval
    _is_scored_by_parts = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(lambda x, name: as_real(x, name, "a number", lambda x: x == x), "low", "high")
        family, ends = self.family, self.family._ends
        if (chosen := _chosen_in(family)) is not None:
            raise ValueError(
                f"family: expected a family without {type(chosen).__name__}, got {family}; apply "
                f"{type(chosen).__name__} to the Truncated family instead"
            )
        is_counted = isinstance(family.support, constraints.integer_interval | _AtLeast)
        if family.event_shape or not family.has_cdf or ends.is_discrete != is_counted:
            raise ValueError(
                f"family: expected a CDF, and a single real number or integers from a least one "
                f"on, got {family}"
            )
        low, high = max(self.low, ends.lower), min(self.high, ends.upper)
        if is_counted:
            low, high = ceil(low), floor(high)
        if low > high if is_counted else low >= high:
            raise ValueError(
                f"low, high: expected an interval of values of {family} in {family.support}, got "
                f"{self.low} and {self.high}"
            )
        vars(self)["_inner_ends"] = low, high

    @property
    def support(self) -> constraints.Constraint:
        low, high = self._inner_ends
        if self.family.support.is_discrete:
            if high < math.inf:
                return constraints.integer_interval(int(low), int(high))
            return _AtLeast(int(low))
        return interval(low, high)

    has_noise = is_reparameterized = is_bijective = False
    needs_double = True
    inside, enumerate_support = Family.inside, Family.enumerate_support

    def placeholder(self) -> Tensor:
        if self.family.support.is_discrete:
            return self.family.placeholder().clamp(*self._inner_ends)
        return Family.placeholder(self)

    @property
    def has_rsample(self) -> bool:
        return self.has_cdf_gradient

    def __call__(self, params: Tensor) -> Distribution:
        return Conditional(self, params)

    @cached_property
    def _listed(self) -> list[int] | None:
        """The values of a discrete family whose probabilities are summed.

        These are the values inside the interval, or the values below it if it has no upper end.
        """
        if not self.family.support.is_discrete:
            return None
        low, high = self._inner_ends
        if high < math.inf:
            return list(range(int(low), int(high) + 1))
        return list(range(int(self.family._ends.lower), int(low)))

    @cached_property
    def _kept(self) -> slice | None:
        """The slice of a finite family's states that are inside the interval."""
        states = self.family._ordered_states()
        if states is None:
            return None
        first = int(self._inner_ends[0] - states[0])
        return slice(first, first + int(self._inner_ends[1] - self._inner_ends[0]) + 1)

    def _state_probs(self, params: Tensor, states: Tensor) -> Tensor:
        if self._kept is None:
            return super()._state_probs(params, states)
        return state_logits_of(self.family, params)[..., self._kept].softmax(-1)

    def _log_mass(self, params: Tensor) -> Tensor:
        """The log-probability of the interval: (...)."""
        low, high = self._inner_ends
        if self._kept is not None:
            return log_sum_exp(
                state_logits_of(self.family, params).log_softmax(-1)[..., self._kept]
            )
        if self._listed is None:
            return self.family.interval_log_prob(params, low, high)
        total = log_sum_exp(self._scores_of(params, self._listed))
        if high < math.inf:
            return total
        mass = log_one_minus_exp(total.clamp(max=0.0))
        is_small = mass < _SMALL
        if is_readable(mass) and not is_small.any():
            return mass
        # One minus a probability near one has no digits. The terms from `low` on then fall fast,
        # and the first of them have the whole mass, unless the tail is long.
        first = int(low)
        each = self._scores_of(params, range(first, 4 * first + 32))
        above = log_sum_exp(each)
        is_long = each[..., -1] > above - 15
        long = self.family.interval_log_prob(params, low, high)
        return torch.where(is_small, torch.where(is_long, long, above), mass)

    def _scores_of(self, params: Tensor, values: Sequence[int]) -> Tensor:
        """The log-probabilities of these values of a discrete family: (..., number of values)."""
        states = torch.tensor(values, device=params.device, dtype=params.dtype)
        return self.family.log_prob(params.unsqueeze(-2), states)

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        return self.family.log_prob(params, value) - self._log_mass(params)

    def cdf(self, params: Tensor, value: Tensor) -> Tensor:
        if self._ordered_states() is not None:
            return super().cdf(params, value)
        return self._cdf_of(params)(value)

    def _cdf_of(self, params: Tensor) -> Callable[[Tensor], Tensor]:
        return self.family._cdf_within(params, *self._inner_ends)

    def log_tails(self, params: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self._inner_ends
        mass, inner = self._log_mass(params), self.family
        after = value.floor() + 1 if inner.support.is_discrete else value
        below = inner.interval_log_prob(params, low, value) - mass
        return below, inner.interval_log_prob(params, after, high) - mass

    def sample(self, params: Tensor) -> Tensor:
        def invert(params: Tensor) -> Tensor:
            return self.icdf(params, uniform_noise(torch.empty_like(params[..., 0])))

        with torch.no_grad():
            if self._ordered_states() is not None or not is_readable(params):
                return invert(params)
            return self.family._sample_between(
                params, *self._inner_ends, lambda rows: invert(params[rows])
            )


@dataclass(frozen=True, repr=False)
class Rounded(Derived):
    """The values of a continuous family, rounded to the nearest integer.

    P(k) is the probability of [k - 1/2, k + 1/2] under the family, by `interval_log_prob`. Use it
    to turn a mixture or a transformed family of reals into a family of counts with a free scale.
    It has the parameters and features of the family.

    Args:
        family: a continuous family of one number with a CDF.

    Raises:
        ValueError: if the family is not such a family.

    >>> import torch, ardist as ad
    >>> family = ad.families.Rounded(ad.families.Normal())
    >>> family.log_prob(torch.zeros(2), torch.tensor([0.0, 1.0])).exp()
    tensor([0.3829, 0.2417])
    """

    is_index = False
    needs_double = True
    has_cdf_gradient = has_rsample = is_reparameterized = is_bijective = False

    def __post_init__(self) -> None:
        super().__post_init__()
        family = self.family
        if family.event_shape or not family.has_cdf or family.support.is_discrete:
            raise ValueError(
                f"family: expected a continuous one of a single number with a CDF, got {family}"
            )

    @property
    def support(self) -> constraints.Constraint:
        ends = self.family._ends
        lower, upper = floor(ends.lower + 0.5), ceil(ends.upper - 0.5)
        if upper < math.inf and lower > -math.inf:
            return constraints.integer_interval(int(lower), int(upper))
        return integers if lower == -math.inf else _AtLeast(int(lower))

    inside, placeholder = Family.inside, Family.placeholder
    enumerate_support = Family.enumerate_support

    def __call__(self, params: Tensor) -> Distribution:
        return Conditional(self, params)

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        return self.family.interval_log_prob(params, value - 0.5, value + 0.5)

    def sample(self, params: Tensor) -> Tensor:
        return self.family.sample(params).round()

    def from_noise(self, params: Tensor, noise: Tensor) -> Tensor:
        return self.family.from_noise(params, noise).round()

    def cdf(self, params: Tensor, value: Tensor) -> Tensor:
        return self.family.cdf(params, value.floor() + 0.5)

    def icdf(self, params: Tensor, uniform: Tensor) -> Tensor:
        return (self.family.icdf(params, uniform) - 0.5).ceil()

    def log_tails(self, params: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        return self.family.log_tails(params, value.floor() + 0.5)


def _chosen_in(family: Family) -> Chosen | None:
    """The `TopK` or `Nucleus` in a family, which may leave out all states in an interval."""
    while isinstance(family, Derived):
        if isinstance(family, Chosen):
            return family
        family = family.family
    return None


class _Integers(constraints.Constraint):
    """All integers, as floats."""

    is_discrete = True
    event_dim = 0

    def check(self, value: Tensor) -> Tensor:
        return value % 1 == 0

    def __repr__(self) -> str:
        return "Integers()"


integers: Any = _Integers()


def floor(x: float) -> float:
    return x if math.isinf(x) else math.floor(x)


def ceil(x: float) -> float:
    return x if math.isinf(x) else math.ceil(x)
