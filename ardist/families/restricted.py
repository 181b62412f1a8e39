"""Families under a rule, which determines the allowed values of each block.

A tensor of *limits* represents the allowed values of a block. A restricted family computes the
parameters of its conditionals from the parameters of the family and the limits.
"""

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, constraints

from ardist.families.base import Family, states_of
from ardist.families.composed import Derived, attribute, forwarded
from ardist.families.conditional import Conditional
from ardist.families.hurdle import Hurdle, Spiked
from ardist.families.logs import log_sum_exp
from ardist.families.noise import uniform_noise
from ardist.families.truncated import (
    FiniteFamily,
    Likeliest,
    Tempered,
    is_range,
    state_logits_of,
)
from ardist.families.univariate import Bernoulli
from ardist.shapes import is_readable


@dataclass(frozen=True, repr=False)
class Restricted(Derived):
    """A family whose values are limited by a rule.

    Values, features and limits have the leading dimensions of the parameters.
    """

    _is_scored_by_parts = True
    is_reparameterized = is_bijective = False

    @property
    @abstractmethod
    def limit_size(self) -> int:
        """The number of limits of one block."""

    @abstractmethod
    def limits(self, allowed: Any, lead: torch.Size, reference: Tensor) -> Tensor:
        """The limits (*lead, limit_size) of what `Rule.allowed` returns; None allows everything."""

    @abstractmethod
    def restrict(self, params: Tensor, limits: Tensor | None) -> Tensor:
        """The parameters, (..., num_params), from the family's parameters and limits, if any."""

    @abstractmethod
    def allows(self, limits: Tensor, value: Tensor) -> Tensor:
        """Whether values are within the limits: (...) bool."""

    @abstractmethod
    def is_certain(self, limits: Tensor) -> Tensor:
        """Whether the limits leave one value: (...) bool."""

    @abstractmethod
    def is_possible(self, limits: Tensor) -> Tensor:
        """Whether the limits leave a value: (...) bool."""

    @abstractmethod
    def log_mass(self, params: Tensor, limits: Tensor) -> Tensor:
        """log P(allowed values) in nats under parameters of the family: (...)."""

    def prepare(self) -> None:
        """Fills the caches, which torch.compile cannot do."""

    def correct(self, value: Tensor, allowed: Any) -> Tensor:
        """A draw without limits, replaced if the rule allows a single value instead of all."""
        raise TypeError(f"{self} draws again under other limits")

    def readable(self, value: Tensor) -> Tensor:
        """The value that a network reads, with a placeholder for values outside the support."""
        return value


@dataclass(frozen=True, repr=False)
class States(FiniteFamily, Restricted):
    """A finite family, restricted to some of its states.

    Its parameters are the log-probabilities of the states, up to a constant, and -inf for states
    that are not allowed. Its limits are a mask of the allowed states.

    The truncation of `TopK` and `Nucleus` and the temperature of `Tempered` come after the limits.
    """

    @property
    def num_params(self) -> int:
        return self._num_states

    @property
    def limit_size(self) -> int:
        return self._num_states

    def number(self, value: Tensor) -> Tensor:
        """The index of the state that each value equals: int64."""
        return value.long() if self._counts else self._number(value)

    def nearest_number(self, value: Tensor) -> Tensor:
        """As `number`, and the index of some state for a value outside the support."""
        return self.number(value).clamp(0, self._num_states - 1)

    def prepare(self) -> None:
        self._counts, self._num_states, self._is_range  # noqa: B018

    def limits(self, allowed: Any, lead: torch.Size, reference: Tensor) -> Tensor:
        shape = (*lead, self._num_states)
        if allowed is None:
            return torch.ones(shape, dtype=torch.bool, device=reference.device)
        return allowed.expand(shape)

    def restrict(self, params: Tensor, limits: Tensor | None) -> Tensor:
        if limits is None:
            return state_logits_of(self.family, params)
        return _limited_logits(self.family, params, limits.bool())

    def state_logits(self, params: Tensor) -> Tensor:
        return params

    def changed(self, logits: Tensor) -> Tensor:
        return logits

    def allows(self, limits: Tensor, value: Tensor) -> Tensor:
        number = self.nearest_number(value)
        return limits.bool().gather(-1, number.unsqueeze(-1)).squeeze(-1)

    def is_certain(self, limits: Tensor) -> Tensor:
        return limits.sum(-1) == 1

    def is_possible(self, limits: Tensor) -> Tensor:
        return limits.bool().any(-1)

    def log_mass(self, params: Tensor, limits: Tensor) -> Tensor:
        scores = state_logits_of(self.family, params).log_softmax(-1)
        return log_sum_exp(scores.masked_fill(~limits.bool(), -torch.inf))


def _limited_logits(family: Family, params: Tensor, allowed: Tensor) -> Tensor:
    """The logits of a family's states, with -inf for states that are not allowed.

    If all allowed states have probability zero, they become equally likely. If no state is
    allowed, all states become equally likely.
    """
    if isinstance(family, Tempered):
        family = family._inner
    if isinstance(family, FiniteFamily):
        return family.changed(_limited_logits(family.family, params, allowed))
    logits = state_logits_of(family, params).masked_fill(~allowed, -torch.inf)
    lost = (logits == -torch.inf).all(-1, keepdim=True)
    if is_readable(lost) and not lost.any():
        return logits
    even = torch.where(allowed | ~allowed.any(-1, keepdim=True), 0.0, -torch.inf)
    return torch.where(lost, even.to(logits), logits)


@dataclass(frozen=True, repr=False)
class AsItIs(Derived):
    """A finite family whose limits apply last, after its truncation and temperature.

    The limits then condition its conditionals, which `ardist.sampling.smc` needs.
    """

    __call__ = forwarded("__call__")

    def __repr__(self) -> str:
        return repr(self.family)

    def state_logits(self, params: Tensor) -> Tensor:
        """Log-probabilities of the states, up to a constant: (..., num_states)."""
        return state_logits_of(self.family, params)


@dataclass(frozen=True, repr=False)
class Bits(Restricted):
    """`States` of a Bernoulli: its log odds are infinite if only one state is allowed."""

    limit_size = _num_states = 2
    limits = States.limits

    def correct(self, value: Tensor, allowed: Any) -> Tensor:
        if allowed is None:
            return value
        zero, one = allowed.unbind(-1)
        return torch.where(zero == one, value, one.to(value.dtype))

    def restrict(self, params: Tensor, limits: Tensor | None) -> Tensor:
        if limits is None:
            return params
        zero, one = limits.bool().unsqueeze(-2).unbind(-1)
        params = params.masked_fill(one & ~zero, torch.inf)
        return params.masked_fill(zero & ~one, -torch.inf)

    def __call__(self, params: Tensor) -> Distribution:
        return dist.Categorical(logits=self.state_logits(params), validate_args=False)

    def state_logits(self, params: Tensor) -> Tensor:
        return torch.cat((F.logsigmoid(-params), F.logsigmoid(params)), -1)

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        # The gradient to the value would be infinite.
        return self.family.log_prob(params, value.detach())

    from_noise = forwarded("from_noise")

    def _state_probs(self, params: Tensor, states: Tensor) -> Tensor:
        return self.state_logits(params).exp()

    def allows(self, limits: Tensor, value: Tensor) -> Tensor:
        zero, one = limits.bool().unbind(-1)
        return torch.where(value == 1, one, zero)

    def is_certain(self, limits: Tensor) -> Tensor:
        zero, one = limits.bool().unbind(-1)
        return zero ^ one

    is_possible = States.is_possible

    def log_mass(self, params: Tensor, limits: Tensor) -> Tensor:
        return log_sum_exp(self.state_logits(params).masked_fill(~limits.bool(), -torch.inf))


@dataclass(frozen=True, repr=False)
class Pinned(Restricted):
    """A block that is free and follows a family, or is a constant with probability one.

    The constant may lie outside the support of the family. The limit is whether the block is free,
    and it is the last parameter. The score of the constant is a log-probability, as for a point of
    a `Hurdle`.

    Args:
        family: a family of one number.
        constant: a number.
    """

    constant: float

    @cached_property
    def is_outside(self) -> bool:
        """Whether the constant is outside the support of the family."""
        return not bool(self.family.inside(torch.tensor(float(self.constant))))

    @cached_property
    def _is_listed(self) -> bool:
        """Whether the values of the family are 0, 1, ..., n - 1."""
        return is_range(self.family.enumerate_support())

    def prepare(self) -> None:
        self.is_outside, self._is_listed  # noqa: B018

    @property
    def num_params(self) -> int:
        return self.family.num_params + 1

    limit_size = 1

    def limits(self, allowed: Any, lead: torch.Size, reference: Tensor) -> Tensor:
        if allowed is None:
            return torch.ones((*lead, 1), dtype=torch.bool, device=reference.device)
        return (allowed if allowed.shape == lead else allowed.expand(lead)).unsqueeze(-1)

    def restrict(self, params: Tensor, limits: Tensor | None) -> Tensor:
        if limits is None:
            return F.pad(params, (0, 1), value=1.0)
        return torch.cat((params, limits.to(params.dtype)), -1)

    def correct(self, value: Tensor, allowed: Any) -> Tensor:
        if allowed is None:
            return value
        return value.masked_fill(allowed.logical_not(), self.constant)

    def _split(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """The parameters of the family, and whether the block is free: (...) bool."""
        return params[..., :-1], params[..., -1] != 0

    @property
    def support(self) -> constraints.Constraint:
        if self.is_outside or not self.family.support.is_discrete:
            return Spiked((self.constant,), self.family)
        return self.family.support

    has_cdf_gradient = False
    project, inside = Family.project, Family.inside

    def enumerate_support(self) -> Tensor | None:
        states = self.family.enumerate_support()
        if states is None or not self.is_outside:
            return states
        return torch.cat((states.new_tensor([self.constant]), states)).unique()

    def __call__(self, params: Tensor) -> Distribution:
        if self._is_listed:
            return dist.Categorical(logits=self.state_logits(params), validate_args=False)
        return Conditional(self, params)

    def state_logits(self, params: Tensor) -> Tensor:
        inner, free = self._split(params)
        logits = state_logits_of(self.family, inner)
        is_constant = states_of(self.family).to(logits.device) == self.constant
        certain = torch.where(is_constant, 0.0, -torch.inf).to(logits)
        return torch.where(free.unsqueeze(-1), logits, certain)

    def readable(self, value: Tensor) -> Tensor:
        if not self.is_outside:
            return value
        return torch.where(value == self.constant, self.family.placeholder().to(value), value)

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        inner, free = self._split(params)
        scores = self.family.log_prob(inner, self.readable(value))
        if self.is_outside:
            scores = scores.masked_fill(value == self.constant, -torch.inf)
        certain = torch.where(value == self.constant, 0.0, -torch.inf).to(scores)
        return torch.where(free, scores, certain)

    def _drawn(self, free: Tensor, value: Tensor) -> Tensor:
        return value.masked_fill(~free, self.constant)

    def sample(self, params: Tensor) -> Tensor:
        inner, free = self._split(params)
        return self._drawn(free, self.family.sample(inner))

    def from_noise(self, params: Tensor, noise: Tensor) -> Tensor:
        inner, free = self._split(params)
        return self._drawn(free, self.family.from_noise(inner, noise))

    def pathwise(self, params: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        inner, free = self._split(params)
        return self._drawn(free, self.family.pathwise(inner, self.readable(value), noise))

    def cdf(self, params: Tensor, value: Tensor) -> Tensor:
        inner, free = self._split(params)
        reached = (value >= self.constant).to(params.dtype)
        return torch.where(free, self.family.cdf(inner, value), reached)

    def icdf(self, params: Tensor, uniform: Tensor) -> Tensor:
        inner, free = self._split(params)
        return self._drawn(free, self.family.icdf(inner, uniform))

    # The constant may lie among reals, as a point of a `Hurdle` does.
    _search = Hurdle._search

    def interval_log_prob(self, params: Tensor, low: Any, high: Any) -> Tensor:
        inner, free = self._split(params)
        reached = (low <= self.constant) & (self.constant <= high)
        certain = torch.where(reached, 0.0, -torch.inf).to(params)
        return torch.where(free, self.family.interval_log_prob(inner, low, high), certain)

    def mass(self, params: Tensor, value: Tensor) -> Tensor:
        inner, free = self._split(params)
        is_constant = (value == self.constant).to(params.dtype)
        return torch.where(free, self.family.mass(inner, value), is_constant)

    def _is_atom(self, value: Tensor) -> Tensor:
        return (value == self.constant) | self.family._is_atom(value)

    def _widened(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        wide = self.family._widened(value, dtype)
        return wide.masked_fill(value == self.constant, self.constant)

    def allows(self, limits: Tensor, value: Tensor) -> Tensor:
        free = limits.bool().squeeze(-1)
        return torch.where(free, self.family.inside(value), value == self.constant)

    def is_certain(self, limits: Tensor) -> Tensor:
        return ~limits.bool().squeeze(-1)

    def is_possible(self, limits: Tensor) -> Tensor:
        return torch.ones_like(limits[..., 0], dtype=torch.bool)

    def log_mass(self, params: Tensor, limits: Tensor) -> Tensor:
        value = torch.tensor(self.constant, device=params.device)
        mass = self.family.mass(params, value.to(torch.int64 if self.is_index else params.dtype))
        return torch.where(limits.bool().squeeze(-1), 0.0, mass.log())

    # The constant must not be moved away from an end of the family's support.

    def _score_dtype(self, dtype: torch.dtype, device: torch.device) -> torch.dtype:
        return dtype

    def _rounded(self, draw: Tensor, dtype: torch.dtype) -> Tensor:
        if self.is_index:
            return draw.long()
        is_constant = draw == self.constant
        return torch.where(is_constant, draw.to(dtype), self.family._rounded(draw, dtype))


@dataclass(frozen=True, repr=False)
class Limited(Restricted):
    """A family of one number with a CDF, restricted to an interval.

    The limits are the two ends of the interval, and they are the last two parameters. If both ends
    are equal in a continuous family, the block is this number with probability one, and its score
    is a log-probability. Draws invert the CDF within the interval at uniform noise.
    """

    @property
    def num_params(self) -> int:
        return self.family.num_params + 2

    limit_size = 2

    def limits(self, allowed: Any, lead: torch.Size, reference: Tensor) -> Tensor:
        ends = (-torch.inf, torch.inf) if allowed is None else allowed
        low, high = (torch.as_tensor(end).to(reference).expand(lead) for end in ends)
        return torch.stack((low, high), -1)

    def restrict(self, params: Tensor, limits: Tensor | None) -> Tensor:
        if limits is None:
            limits = self.limits(None, params.shape[:-1], params)
        return torch.cat((params, limits.to(params.dtype)), -1)

    has_noise = True
    noise_shape = torch.Size()

    @property
    def has_rsample(self) -> bool:
        return self.family.has_cdf_gradient

    needs_double = True

    def _widened_params(self, params: Tensor, dtype: torch.dtype) -> Tensor:
        ends = [self.family._widened(end, dtype) for end in params[..., -2:].unbind(-1)]
        return torch.cat((params[..., :-2].to(dtype), torch.stack(ends, -1)), -1)

    @property
    def _has_integers(self) -> bool:
        """Whether all values are integers, not only the points of reals with spikes."""
        return self.family.support.is_discrete and not isinstance(self.family.support, Spiked)

    def _split(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The parameters of the family, both ends, and whether a continuous block is one number.

        The ends of such a block are returned as infinite, so that its scores stay finite.
        """
        inner, low, high = params[..., :-2], params[..., -2], params[..., -1]
        if self.family.support.is_discrete:
            is_one = torch.zeros_like(low, dtype=torch.bool)
        else:
            is_one = low == high
        return (
            inner,
            low.masked_fill(is_one, -torch.inf),
            high.masked_fill(is_one, torch.inf),
            is_one,
        )

    def _safe(self, params: Tensor, value: Tensor) -> Tensor:
        """The value, or a placeholder if the block is one number."""
        is_one = params[..., -2] == params[..., -1]
        return torch.where(is_one, self.family.placeholder().to(value), value)

    def __call__(self, params: Tensor) -> Distribution:
        return Conditional(self, params)

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        inner, low, high, is_one = self._split(params)
        mass = self.family.interval_log_prob(inner, low, high)
        scores = self.family.log_prob(inner, self._safe(params, value)) - mass
        outside = (value < low) | (value > high)
        certain = torch.where(_is_close(value, params[..., -1]), 0.0, -torch.inf).to(scores)
        return torch.where(is_one, certain, scores.masked_fill(outside, -torch.inf))

    def cdf(self, params: Tensor, value: Tensor) -> Tensor:
        inner, low, high, is_one = self._split(params)
        own = torch.minimum(self._safe(params, value), high)
        inside = self.family._cdf_within(inner, low, high)(own)
        return torch.where(is_one, (value >= params[..., -2]).to(inside), inside)

    _is_atom = forwarded("_is_atom")
    _rounded = forwarded("_rounded")

    def mass(self, params: Tensor, value: Tensor) -> Tensor:
        *_, is_one = self._split(params)
        return torch.where(
            is_one, (value == params[..., -1]).to(params), super().mass(params, value)
        )

    def icdf(self, params: Tensor, uniform: Tensor) -> Tensor:
        with torch.no_grad():
            shape = torch.broadcast_shapes(params.shape[:-1], uniform.shape)
            params, uniform = params.expand(*shape, -1), uniform.expand(shape)
            inner, low, high, _ = self._split(params)
            cdf = self.family._cdf_within(inner, low, high)
            draw = self.family._search(cdf, uniform, low, high)
            ends = params[..., -2], params[..., -1]
            return torch.minimum(torch.maximum(draw, ends[0]), ends[1])

    def sample_noise(self, out: Tensor) -> Tensor:
        return uniform_noise(out)

    def from_noise(self, params: Tensor, noise: Tensor) -> Tensor:
        return self.icdf(params, noise)

    def sample(self, params: Tensor) -> Tensor:
        def invert(params: Tensor) -> Tensor:
            return self.icdf(params, self._noise_for(params))

        with torch.no_grad():
            if not is_readable(params):
                return invert(params)
            inner, low, high, is_one = self._split(params)
            draws = self.family._sample_between(inner, low, high, lambda rows: invert(params[rows]))
            return torch.where(is_one, params[..., -1].to(draws), draws)

    def pathwise(self, params: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        *_, is_one = self._split(params)
        if not self.has_cdf_gradient:
            return value
        value = value.detach()
        apart = Family.pathwise(self, params, value)
        # A block with equal ends moves with them.
        return torch.where(is_one, params[..., -1].to(value), apart)

    def allows(self, limits: Tensor, value: Tensor) -> Tensor:
        low, high = limits.unbind(-1)
        is_one = (low == high) & _is_close(value, low)
        return is_one | ((low <= value) & (value <= high) & self.family.inside(value))

    def is_certain(self, limits: Tensor) -> Tensor:
        low, high = limits.unbind(-1)
        return low.ceil() == high.floor() if self._has_integers else low == high

    def is_possible(self, limits: Tensor) -> Tensor:
        low, high = limits.unbind(-1)
        return low.ceil() <= high.floor() if self._has_integers else low <= high

    def log_mass(self, params: Tensor, limits: Tensor) -> Tensor:
        low, high = limits.unbind(-1)
        return self.family.interval_log_prob(params, low, high)


def _is_close(value: Tensor, wanted: Tensor) -> Tensor:
    """Whether values equal others up to rounding, such as the rounding of a reordered sum.

    The tolerance is for float32, from which a guard may have converted both.
    """
    return (value - wanted).abs() <= 8 * torch.finfo(torch.float32).eps * (1 + wanted.abs())


@dataclass(frozen=True, repr=False)
class LikeliestState(Likeliest, Restricted):
    """`Likeliest` of a restricted family."""

    limit_size = attribute("limit_size")
    limits = forwarded("limits")
    restrict = forwarded("restrict")
    allows = forwarded("allows")
    is_certain = forwarded("is_certain")
    is_possible = forwarded("is_possible")
    log_mass = forwarded("log_mass")


def restricted(family: Family) -> Restricted | None:
    """The family restricted to some states or to an interval; None if it can be neither."""
    if isinstance(family, Likeliest):
        inner = restricted(family.family)
        return None if not isinstance(inner, States | Bits) else LikeliestState(inner)
    if type(family) is Bernoulli:
        return Bits(family)
    if family.enumerate_support() is not None:
        return States(family)
    return Limited(family) if family.has_cdf and not family.event_shape else None
