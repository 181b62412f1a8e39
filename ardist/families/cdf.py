"""The CDF of a family, its inverse, and the probability of an interval."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ardist.families.guards import Ends, guard, widest
from ardist.families.logs import both_logs, log_between, log_sum_exp
from ardist.families.quantiles import of_counts, of_reals, of_states
from ardist.shapes import gather_last, lead_of

_MOST_ATTEMPTS = 32  # of draws within an interval, before the CDF is inverted


@guard
class Cumulative:
    """The CDF methods of `Family`.

    A family of single numbers has a CDF if it defines `cdf`, or if it is discrete and finite: then
    the CDF sums its probabilities. Here `self` is any `Family`.
    """

    @property
    def has_cdf(self: Any) -> bool:
        """Whether `cdf` and `icdf` exist: `cdf` is defined, or the family is finite.

        Families of vectors have no CDF.
        """
        is_defined = "cdf" in self._defined and not self.event_shape
        return is_defined or self._ordered_states() is not None

    @property
    def has_cdf_gradient(self: Any) -> bool:
        """Whether `cdf` has gradients to the parameters and the value.

        The default is True for continuous families that define `cdf`. Set it to False if the
        gradients are missing.
        """
        return "cdf" in self._defined and not (self.event_shape or self.support.is_discrete)

    def cdf(self: Any, params: Tensor, value: Tensor) -> Tensor:
        """P(X <= value), if `has_cdf`: (...).

        Raises:
            NotImplementedError: if the family has no CDF.
        """
        states = self._ordered_states()
        if states is None:
            try:
                return self(params).cdf(value)
            except NotImplementedError as error:
                raise NotImplementedError(
                    f"cdf, icdf: {self} has neither a CDF nor an inverse; sample(params) draws "
                    f"from it and log_prob(params, value) scores the value"
                ) from error
        cumulative = F.pad(self._state_probs(params, states).cumsum(-1).clamp(max=1.0), (1, 0))
        count = torch.searchsorted(states.to(value), value.contiguous(), right=True)
        return gather_last(cumulative, count)

    def icdf(self: Any, params: Tensor, uniform: Tensor) -> Tensor:
        """The smallest value whose CDF reaches `uniform`, if `has_cdf`: (...).

        The default searches for it and has no gradients.

        Raises:
            NotImplementedError: if the family has no CDF.
        """
        with torch.no_grad():
            shape = torch.broadcast_shapes(params.shape[:-1], uniform.shape)
            params, uniform = params.expand(*shape, -1), uniform.expand(shape)
            states = self._ordered_states()
            if states is not None:
                states = states.to(uniform.device, torch.int64 if self.is_index else uniform.dtype)
                return states[of_states(self._state_probs(params, states), uniform)]
            return self._search(self._cdf_of(params), uniform)

    def _cdf_of(self: Any, params: Tensor) -> Callable[[Tensor], Tensor]:
        """The CDF under these parameters, as a function of the value."""
        return partial(self.cdf, params)

    def _cdf_within(
        self: Any, params: Tensor, low: Tensor | float, high: Tensor | float
    ) -> Callable[[Tensor], Tensor]:
        """The CDF of the values in an interval, as a function of values inside it.

        The mass of the interval is computed once.
        """
        until = partial(self.interval_log_prob, params.to(widest(params.device)), low)
        mass = until(high)
        return lambda value: (until(value) - mass).exp().to(params.dtype)

    def _search(
        self: Any,
        cdf: Callable[[Tensor], Tensor],
        uniform: Tensor,
        low: Tensor | float = -math.inf,
        high: Tensor | float = math.inf,
    ) -> Tensor:
        """The smallest values at which `cdf` reaches `uniform`, for a family that is not finite.

        `cdf` may be the CDF of the values from `low` to `high`.
        """
        if self.support.is_discrete:
            return of_counts(cdf, uniform)
        return of_reals(cdf, self._inside_of(low, high, uniform), uniform)

    def _sample_between(
        self: Any,
        params: Tensor,
        low: Tensor | float,
        high: Tensor | float,
        invert: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Draws of the values in an interval, without gradients.

        Draws of the family that are in the interval have this distribution, and are far cheaper
        than a search for a quantile. Draws that are not are repeated, and in the end inverted.

        Args:
            invert: draws from the same distribution, for the parameters at a mask (...).
        """
        draws = self.sample(params)
        for attempt in range(_MOST_ATTEMPTS):
            outside = ~((low <= draws) & (draws <= high))
            if not outside.any():
                break
            is_last = attempt + 1 == _MOST_ATTEMPTS
            draws[outside] = invert(outside) if is_last else self.sample(params[outside])
        return draws

    def _inside_of(
        self: Any, low: Tensor | float, high: Tensor | float, reference: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The ends of an interval, clamped to the support."""
        least, most = self._ends.within(reference.dtype)
        lower, upper = (torch.as_tensor(end).to(reference) for end in (low, high))
        return lower.clamp(min=least), upper.clamp(max=most)

    def log_tails(self: Any, params: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """log P(X <= value) and log P(X > value), if `has_cdf`: both (...).

        `interval_log_prob` calls it with values inside the support, in float64. The default is
        the logarithm of the CDF, which is accurate down to probabilities of about 1e-16 in the
        upper tail. Override it if there is a form without cancellation.
        """
        return both_logs(cdf := self.cdf(params, value), 1 - cdf)

    def interval_log_prob(
        self: Any, params: Tensor, low: Tensor | float, high: Tensor | float
    ) -> Tensor:
        """log P(low <= X <= high) in nats, if `has_cdf`: (...).

        This is the score of a value that is only known to be in an interval. It is computed from
        the nearer tail, so it stays accurate far from the mass. Bounds may be infinite. An
        interval without probability scores -inf. The result has gradients if `has_cdf_gradient`,
        or if the family is finite.

        Args:
            low: the lower bounds (...), or a number.
            high: the upper bounds (...), or a number.

        Raises:
            NotImplementedError: if the family has no CDF.

        >>> import torch, ardist as ad
        >>> family, params = ad.families.Normal(), torch.zeros(2)
        >>> family.interval_log_prob(params, -1.0, 1.0).exp()
        tensor(0.6827)
        >>> family.interval_log_prob(params, 30.0, 31.0)
        tensor(-454.3203)
        """
        if not self.has_cdf:
            raise NotImplementedError(f"interval_log_prob: {self} has no CDF")
        states = self._ordered_states()
        if states is None:
            return self._interval_log_prob(params, low, high)
        values = states.to(params.device, torch.int64 if self.is_index else params.dtype)
        scores = self.log_prob(params.unsqueeze(-2), values)
        scores, inside = torch.broadcast_tensors(scores, are_between(values, low, high))
        return log_sum_exp(scores.masked_fill(~inside, -torch.inf))

    def _interval_log_prob(self: Any, params: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """log P(low <= X <= high), for a family that is not finite, in float64."""
        ends = self._ends
        if ends.is_discrete:
            low, high = low.ceil() - 1, high.floor()
        is_least, is_most = (low < ends.lower) | (low == -torch.inf), high >= ends.upper
        if not ends.is_discrete:
            is_least = low <= ends.lower
        inside = partial(_moved, ends=ends)
        below, above = self.log_tails(params, inside(low))
        below, above = below.masked_fill(is_least, -torch.inf), above.masked_fill(is_least, 0.0)
        until, beyond = self.log_tails(params, inside(high))
        until, beyond = until.masked_fill(is_most, 0.0), beyond.masked_fill(is_most, -torch.inf)
        is_empty = (high <= low) | (high < ends.lower) | (low >= ends.upper)
        if not ends.is_discrete:
            is_empty = is_empty | (high <= ends.lower)
        result = log_between(below, above, until, beyond)
        return result.masked_fill(is_empty, -torch.inf)

    def mass(self: Any, params: Tensor, value: Tensor) -> Tensor:
        """The probability of exactly this value, which is 0 in a continuous family: (...)."""
        if self.support.is_discrete:
            return torch.where(self._is_atom(value), self.log_prob(params, value).exp(), 0.0)
        shape = torch.broadcast_shapes(params.shape[:-1], lead_of(value, self.event_shape))
        return params.new_zeros(shape)

    def _is_atom(self: Any, value: Tensor) -> Tensor:
        """Whether values have a probability instead of a density: (...) bool."""
        inside: Tensor = self.inside(value)
        return inside if self.support.is_discrete else torch.zeros_like(inside)

    def _ordered_states(self: Any) -> Tensor | None:
        """All values of a finite discrete family of one number, in ascending order."""
        return None if self.event_shape else self.enumerate_support()

    def _state_probs(self: Any, params: Tensor, states: Tensor) -> Tensor:
        """The probabilities of `_ordered_states`: (..., num_states)."""
        return self.log_prob(params.unsqueeze(-2), states.to(params.device)).exp()


def are_between(numbers: Tensor, low: Any, high: Any) -> Tensor:
    """Whether numbers (K,) are from `low` to `high`, both (...): (..., K) bool."""
    inside: Tensor = (low.unsqueeze(-1) <= numbers) & (numbers <= high.unsqueeze(-1))
    return inside


def _moved(value: Tensor, ends: Ends) -> Tensor:
    """Values moved inside the support.

    A value beyond an end becomes `ends.middle`. A value between an end and the nearest number
    inside, such as 1e-310, becomes that number.
    """
    least, most = ends.within(value.dtype)
    is_below = (value < least) & ~(value > ends.lower)
    is_above = (value > most) & ~(value < ends.upper)
    return torch.where(is_below | is_above, ends.middle, value.clamp(least, most))
