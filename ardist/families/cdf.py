"""The CDF of a family and its inverse."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ardist.families.guards import guard
from ardist.families.quantiles import of_counts, of_reals, of_states


@guard
class Cumulative:
    """The part of `Family` for the CDF. A family of one number has it if it defines `cdf`.

    The CDF of a finite discrete family of one number is the sum of its probabilities. Here `self`
    is any `Family`.
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
        """Probability of at most `value`, if `has_cdf`: (...).

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
        shape = torch.broadcast_shapes(cumulative.shape[:-1], count.shape)
        cumulative = cumulative.expand(*shape, cumulative.shape[-1])
        return cumulative.gather(-1, count.expand(shape).unsqueeze(-1)).squeeze(-1)

    def icdf(self: Any, params: Tensor, uniform: Tensor) -> Tensor:
        """The smallest value whose CDF reaches `uniform`, if `has_cdf`: (...).

        The default searches for it and has no gradients.

        Raises:
            NotImplementedError: if the family has no CDF.
        """
        with torch.no_grad():
            shape = torch.broadcast_shapes(params.shape[:-1], uniform.shape)
            params, uniform = params.expand(*shape, -1), uniform.expand(shape)
            states, cdf = self._ordered_states(), partial(self.cdf, params)
            if states is not None:
                states = states.to(uniform.device, torch.int64 if self.is_index else uniform.dtype)
                return states[of_states(self._state_probs(params, states), uniform)]
            if self.support.is_discrete:
                return of_counts(cdf, uniform)
            return of_reals(cdf, self._ends.within(uniform.dtype), uniform)

    def _ordered_states(self: Any) -> Tensor | None:
        """All values of a finite discrete family of one number, in ascending order."""
        return None if self.event_shape else self.enumerate_support()

    def _state_probs(self: Any, params: Tensor, states: Tensor) -> Tensor:
        """The probabilities of `_ordered_states`: (..., num_states)."""
        return self.log_prob(params.unsqueeze(-2), states.to(params.device)).exp()
