"""The contract of a family: from unconstrained reals to one block's conditional."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, constraints, transform_to

from ardist.families.guards import HALF, Ends, at_least_single, ends_of, guard
from ardist.families.implicit import attached, by_cdf
from ardist.families.quantiles import of_counts, of_reals, of_states
from ardist.shapes import is_between

MOST_STATES = 2**16  # of one block that is enumerated


class Family(ABC):
    """The form of one block's conditional: turns unconstrained reals into a distribution.

    A family is a frozen value, compared by value: `Normal()` has no loc, `dist.Normal(0., 1.)`
    is a value of it. In every method `params` is `(..., num_params)` and a value is
    `(..., *event_shape)`; leading dimensions broadcast.

    To write one, give it the members below that differ, as class attributes or properties, and
    define `__call__`. Override `log_prob`, `sample` and `features` where something faster or
    safer is known, and `from_noise` and `sample_noise` where a draw is a function of the
    parameters and of noise that does not depend on them: such families are sampled with all noise
    drawn ahead. Where draws have gradients, `pathwise` finds them by `to_noise`, the inverse of
    `from_noise`, else by a `cdf` that has gradients, else from the class of torch that `__call__`
    returns.

    What these methods leave out is done for all families: half precision is computed in float32,
    draws are inside the support, what is beyond its ends or infinite scores -inf without a
    gradient, a CDF is 0 below and 1 above, and tensors that a family holds follow the network.

    >>> from dataclasses import dataclass
    >>> import torch, ardist as ad
    >>> from torch.distributions import HalfNormal, constraints
    >>> @dataclass(frozen=True)
    ... class Positive(ad.families.Family):
    ...     num_params = 1
    ...     support = constraints.nonnegative
    ...     def __call__(self, params):
    ...         return HalfNormal(params[..., 0].exp(), validate_args=False)
    >>> ad.Factorization(3, Positive())
    Factorization((3,), Positive())
    """

    _needs_double: ClassVar[bool] = False  # to be scored, where parameters are float32
    _scores_by_others: ClassVar[bool] = False  # which look after the ends of the support

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        guard(cls)

    @property
    def event_shape(self) -> torch.Size:
        """Shape of the block."""
        return torch.Size()

    @property
    @abstractmethod
    def num_params(self) -> int:
        """How many unconstrained reals parameterize one conditional."""

    @property
    def num_features(self) -> int:
        """How many numbers a network reads of a drawn block."""
        return math.prod(self.event_shape)

    @property
    @abstractmethod
    def support(self) -> constraints.Constraint:
        """Where values lie, the same for all parameters; its event_dim is the block's."""

    @property
    def has_rsample(self) -> bool:
        """Whether draws have gradients to the parameters."""
        return False

    @property
    def has_noise(self) -> bool:
        """Whether `noise` and `from_noise` exist."""
        return False

    @property
    def noise_shape(self) -> torch.Size:
        """Shape of the noise of one value."""
        return torch.Size()

    @property
    def is_reparameterized(self) -> bool:
        """Whether `to_noise` exists; then `from_noise` has the gradients of draws."""
        return False

    @property
    def is_bijective(self) -> bool:
        """Whether `from_noise` is a bijection of real noise; then `log_abs_det_jacobian` exists."""
        return False

    @property
    def has_cdf(self) -> bool:
        """Whether `cdf` and `icdf` exist; they do for finite discrete families of one number."""
        return self.has_cdf_gradient or self._numbers() is not None

    @property
    def has_cdf_gradient(self) -> bool:
        """Whether `cdf` exists and has gradients to the parameters and the value."""
        return False

    @property
    def is_index(self) -> bool:
        """Whether values are int64 indices; by default, whether those of `__call__` are."""
        ends = self._ends
        return ends.is_discrete and math.isfinite(ends.upper) and self._draws_integers

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """Modules inside, which a network with this family registers as its own."""
        return ()

    def _hold(self, check: Callable[[Any, str], object], *names: str) -> None:
        """Sets fields to what a check of `ardist.shapes` makes of them."""
        for name in names:
            object.__setattr__(self, name, check(getattr(self, name), name))

    def __repr__(self) -> str:
        """The constructor's call, without what is left at its default."""
        given: tuple[Field[Any], ...] = fields(self) if is_dataclass(self) else ()
        values = [(field, getattr(self, field.name)) for field in given]
        parts = [
            repr(value) if field.default is MISSING else f"{field.name}={value!r}"
            for field, value in values
            if value != field.default
        ]
        return f"{type(self).__name__}({', '.join(parts)})"

    @abstractmethod
    def __call__(self, params: Tensor) -> Distribution:
        """The distribution of batch_shape `(...)` and the block's event_shape."""

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        """Log probability or log density of `value`, in nats: (...)."""
        result: Tensor = self(params).log_prob(value)
        return result

    def sample(self, params: Tensor) -> Tensor:
        """A draw without gradients: (..., *event_shape)."""
        with torch.no_grad():
            return self._sample_from_noise(params) if self.has_noise else self(params).sample()

    def rsample(self, params: Tensor) -> Tensor:
        """A draw with gradients to `params`, where `has_rsample`: (..., *event_shape)."""
        if self.is_reparameterized:
            return self._sample_from_noise(params)
        return self.pathwise(params, self.sample(params))

    def pathwise(self, params: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        """A draw once more, with its exact gradient to `params`, where `has_rsample`.

        The gradient is that of the draw under fixed noise, or, where the noise cannot be told from
        the draw, the implicit one (Figurnov et al. 2018): dx = -dF / p(x), by the CDF.

        Args:
            value: a draw under these parameters, (..., *event_shape).
            noise: what `from_noise` made it from, where that is known.
        """
        value = value.detach()
        if self.is_reparameterized:
            if noise is None:
                with torch.no_grad():
                    noise = self.to_noise(params, value)
            again = self.from_noise(params, noise)
        elif self.has_cdf_gradient:
            density = self.log_prob(params, value).detach().exp()
            again = by_cdf(self.cdf(params, value), density, value)
        else:
            again = attached(self(params), value)
        return value + (again - again.detach())

    def inside(self, value: Tensor) -> Tensor:
        """Whether values are inside the support: (...) bool."""
        if value.dtype in HALF and isinstance(self.support, type(constraints.simplex)):
            # Rounded shares sum to one within a unit in the last place.
            error = (value.float().sum(-1) - 1).abs()
            return (value >= 0).all(-1) & (error <= torch.finfo(value.dtype).eps)
        valid: Tensor = self.support.check(value)
        return valid

    def features(self, value: Tensor) -> Tensor:
        """What a network reads of a drawn block: (..., num_features) floats.

        By default the flattened value through asinh, the identity near zero and logarithmic far
        out, so that one extreme draw does not blow up what follows it.
        """
        return flatten_event(value, self.event_shape).asinh()

    def project(self, value: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """`F.linear(features(value), weight, bias)`, by a gather where features are one-hot."""
        return F.linear(self.features(value).to(weight.dtype), weight, bias)

    def noise(
        self,
        shape: torch.Size,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> Tensor:
        """Draws that `from_noise` turns into values, where `has_noise`: (*shape, *noise_shape).

        In half precision, in which a uniform has a few hundred values, they are float32.
        """
        dtype = at_least_single(dtype or torch.get_default_dtype())
        return self.sample_noise(
            torch.empty((*shape, *self.noise_shape), dtype=dtype, device=device)
        )

    def from_noise(self, params: Tensor, noise: Tensor) -> Tensor:
        """The value that this noise gives under these parameters, where `has_noise`."""
        raise NotImplementedError(f"{self} has no noise that is independent of its parameters")

    def to_noise(self, params: Tensor, value: Tensor) -> Tensor:
        """The inverse of `from_noise`, where `is_reparameterized`: (..., *noise_shape)."""
        raise NotImplementedError(f"{self} does not tell the noise from the value")

    def log_abs_det_jacobian(self, params: Tensor, value: Tensor) -> Tensor:
        """log abs(det dvalue/dnoise) of `from_noise` at this value, where `is_bijective`: (...)."""
        raise NotImplementedError(f"{self} does not tell the noise from the value")

    def _to_noise_and_log_det(self, params: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Both of these, for families in which they share work."""
        return self.to_noise(params, value), self.log_abs_det_jacobian(params, value)

    def sample_noise(self, out: Tensor) -> Tensor:
        """Noise of `from_noise`, drawn into an empty tensor or made from it."""
        raise NotImplementedError(f"{self} has no noise that is independent of its parameters")

    def _sample_from_noise(self, params: Tensor) -> Tensor:
        return self.from_noise(params, self._noise_for(params))

    def _noise_for(self, params: Tensor) -> Tensor:
        return self.noise(params.shape[:-1], dtype=params.dtype, device=params.device)

    def placeholder(self) -> Tensor:
        """A value well inside the support, always the same: (*event_shape)."""
        if not self.support.is_discrete:
            try:
                link = transform_to(self.support)
            except NotImplementedError:  # torch knows no transform: any draw, always the same
                with torch.random.fork_rng(()):
                    torch.manual_seed(0)
                    return self.sample(torch.zeros(self.num_params))
            placeholder: Tensor = link(torch.zeros(link.inverse_shape(self.event_shape)))
            return placeholder
        zeros = torch.zeros(self.event_shape)
        states = None if bool(self.inside(zeros).all()) else self.enumerate_support()
        return zeros if states is None else states[0]

    def marginal_log_prob(self, params: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """log_prob of the elements under `mask`, with the others integrated out: (...).

        Args:
            mask: (..., *event_shape) bool; `value` is inside the support elsewhere too.

        Raises:
            ValueError: where the mask cuts a block of a family that has no such marginals.
        """
        return torch.where(self._whole(mask), self.log_prob(params, value), 0.0)

    def is_ancestral(self, mask: Tensor) -> bool:
        """Whether elements of a draw have the law that `marginal_log_prob` scores.

        Args:
            mask: (*event_shape) bool: which elements, in part.
        """
        return True

    def given_log_prob(
        self, params: Tensor, value: Tensor, mask: Tensor, kept: Tensor | None = None
    ) -> Tensor:
        """log_prob of the other elements, or of those `kept`, given those under `mask`: (...).

        Args and errors are those of `marginal_log_prob`.
        """
        every = torch.ones_like(mask) if kept is None else kept | mask
        whole = self.marginal_log_prob(params, value, every)
        return whole - self.marginal_log_prob(params, value, mask)

    def sample_given(self, params: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """A draw, without gradients, given the elements of `value` under `mask`, which it keeps.

        Args and errors are those of `marginal_log_prob`; the result is (..., *event_shape).
        """
        self._whole(mask)
        return torch.where(mask, value, self.sample(params))

    def _whole(self, mask: Tensor) -> Tensor:
        """Whether blocks are under the mask, (...) bool, if it cuts none."""
        elements = mask.reshape(*mask.shape[: mask.dim() - len(self.event_shape)], -1)
        whole = elements.all(-1)
        if not torch.equal(whole, elements.any(-1)):
            part = elements[elements.any(-1) & ~whole][0]
            raise ValueError(
                f"mask: expected one that cuts no block, since {self} is not given in part, got "
                f"{int(part.sum())} of a block's {part.shape[0]} elements"
            )
        return whole

    def enumerate_support(self) -> Tensor | None:
        """All values of a block, (num_states, *event_shape), or None where there is no end."""
        return _states(self.support, self.event_shape)

    def cdf(self, params: Tensor, value: Tensor) -> Tensor:
        """Probability of at most `value`, where `has_cdf`: (...)."""
        numbers = self._numbers()
        if numbers is None:
            result: Tensor = self(params).cdf(value)
            return result
        cumulative = F.pad(self._masses(params, numbers).cumsum(-1).clamp(max=1.0), (1, 0))
        count = torch.searchsorted(numbers.to(value), value.contiguous(), right=True)
        shape = torch.broadcast_shapes(cumulative.shape[:-1], count.shape)
        cumulative = cumulative.expand(*shape, cumulative.shape[-1])
        return cumulative.gather(-1, count.expand(shape).unsqueeze(-1)).squeeze(-1)

    def icdf(self, params: Tensor, uniform: Tensor) -> Tensor:
        """The smallest value whose CDF reaches `uniform`, where `has_cdf`: (...).

        Where it is found by search it has no gradients.
        """
        with torch.no_grad():
            shape = torch.broadcast_shapes(params.shape[:-1], uniform.shape)
            params, uniform = params.expand(*shape, -1), uniform.expand(shape)
            numbers, cdf = self._numbers(), partial(self.cdf, params)
            if numbers is not None:
                numbers = numbers.to(
                    uniform.device, torch.int64 if self.is_index else uniform.dtype
                )
                return numbers[of_states(self._masses(params, numbers), uniform)]
            if self.support.is_discrete:
                return of_counts(cdf, uniform)
            return of_reals(cdf, self._ends.within(uniform.dtype), uniform)

    # What the guards ask.

    @property
    def _ends(self) -> Ends:
        ends: Ends | None = vars(self).get("_known_ends")
        if ends is None:
            ends = ends_of(self.support)
            if not torch.compiler.is_compiling():  # which enters no lock, as of cached_property
                vars(self)["_known_ends"] = ends
        return ends

    @cached_property
    def _draws_integers(self) -> bool:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            return not self(torch.zeros(self.num_params)).sample().is_floating_point()

    def _following(self, reference: Tensor) -> "Family":
        """The family, with the tensors that it holds in the dtype and on the device of another."""
        held = {
            name: part.to(reference)
            for name, part in vars(self).items()
            if isinstance(part, Tensor) and part.is_floating_point()
        }
        if not held:
            return self
        family = copy.copy(self)
        vars(family).update(held)
        return family

    def _score_dtype(self, dtype: torch.dtype, device: torch.device) -> torch.dtype:
        if self._needs_double and device.type != "mps":  # which has no float64
            return torch.float64
        return at_least_single(dtype)

    def _draw_dtype(self, dtype: torch.dtype) -> torch.dtype:
        return at_least_single(dtype)

    def _into_support(self, value: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """The value with numbers at closed ends moved inside, and which were beyond them."""
        if not value.is_floating_point():
            if self.is_index:
                return value, None
            value = value.to(dtype)
        ends = self._ends
        lower, upper = ends.within(value.dtype)
        if is_between(value, lower, upper):
            return value, None
        outside = value.isinf()
        if ends.lower > -math.inf:
            outside = outside | (value < ends.lower if ends.has_lower else value <= ends.lower)
        if ends.upper < math.inf:
            outside = outside | (value > ends.upper if ends.has_upper else value >= ends.upper)
        value = value.masked_fill(outside, ends.middle)
        has_ends = ends.lower > -math.inf or ends.upper < math.inf
        return value.clamp(lower, upper) if has_ends else value, outside

    def _rounded(self, draw: Tensor, dtype: torch.dtype) -> Tensor:
        """A draw in its own dtype, and inside the support again."""
        if self.is_index:
            return draw.long()
        has_ends = self._ends.lower > -math.inf or self._ends.upper < math.inf
        draw, is_rounded = draw.to(dtype), dtype in HALF
        return draw.clamp(*self._ends.within(dtype)) if has_ends or is_rounded else draw

    def _of_block(self, each: Tensor) -> Tensor:
        """Whether any element of a block is: (..., *event_shape) to (...) bool."""
        dims = len(self.event_shape)
        return each.flatten(-dims).any(-1) if dims else each

    def _numbers(self) -> Tensor | None:
        """All values of a finite discrete family of one number, in ascending order."""
        return None if self.event_shape else self.enumerate_support()

    def _masses(self, params: Tensor, numbers: Tensor) -> Tensor:
        """The probabilities of `_numbers`: (..., how many)."""
        return self.log_prob(params.unsqueeze(-2), numbers.to(params.device)).exp()


guard(Family)


def flatten_event(value: Tensor, event_shape: torch.Size) -> Tensor:
    """`(..., *event_shape)` as `(..., number of elements)`, in floating point."""
    lead = value.shape[: value.dim() - len(event_shape)]
    flat = value.reshape(*lead, math.prod(event_shape))
    return flat if flat.is_floating_point() else flat.to(torch.get_default_dtype())


def _states(support: constraints.Constraint, event_shape: torch.Size) -> Tensor | None:
    if isinstance(support, constraints.independent) and support.base_constraint.event_dim == 0:
        single = _states(support.base_constraint, torch.Size())
        return None if single is None else product(single, event_shape)
    # Copies of a constraint are other objects.
    if isinstance(support, type(constraints.boolean)):
        return torch.tensor([0.0, 1.0])
    if isinstance(support, type(constraints.one_hot)):
        return torch.eye(event_shape[-1])
    if isinstance(support, constraints.integer_interval):
        return torch.arange(int(support.lower_bound), int(support.upper_bound) + 1)
    return None


def product(states: Tensor, shape: Sequence[int]) -> Tensor | None:
    """All grids of these states, (num_grids, *shape, *state's), or None if there are too many."""
    count, each = math.prod(shape), torch.arange(states.shape[0])
    if states.shape[0] ** count > MOST_STATES:
        return None
    return states[torch.cartesian_prod(*[each] * count).reshape(-1, *shape)]


def log_sum_exp(x: Tensor) -> Tensor:
    """Over the last dimension; where all are -inf the gradient is zero, and not NaN."""
    nothing = (x == -torch.inf).all(-1, keepdim=True)
    return x.masked_fill(nothing, 0.0).logsumexp(-1).masked_fill(nothing.squeeze(-1), -torch.inf)


def choose(logits: Tensor, uniform: Tensor) -> Tensor:
    """The index that a uniform in [0, 1) chooses, by the inverse of the CDF: (...) int64."""
    cumulative = logits.softmax(-1).cumsum(-1).contiguous()
    # The total, which rounding leaves near one, is never reached; zero probability never chosen.
    threshold = uniform.unsqueeze(-1) * cumulative[..., -1:]
    return torch.searchsorted(cumulative, threshold.contiguous(), right=True).squeeze(-1)
