"""A family: the form of one block's conditional distribution."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, constraints, transform_to

from ardist.families.cdf import Cumulative
from ardist.families.estimation import maximum_likelihood
from ardist.families.guards import (
    HALF,
    Ends,
    at_least_single,
    ends_of,
    floats_like,
    guard,
    widest,
)
from ardist.families.implicit import by_cdf, reparameterized, with_gradient
from ardist.families.noise import FromNoise
from ardist.shapes import is_between, is_readable, lead_of
from ardist.specification import Specified

MOST_STATES = 2**16  # the most states of a block that are enumerated

# The methods that a family may define, from which its flags follow.
_OPTIONAL = ("sample_noise", "from_noise", "to_noise", "log_abs_det_jacobian", "cdf", "pathwise")


@guard
class Family(FromNoise, Cumulative, Specified, ABC):
    """The form of one block's conditional: it turns unconstrained reals into a distribution.

    A family is a frozen value and is compared by value. It is not a distribution: `Normal()` has
    no loc. In every method `params` has shape `(..., num_params)` and a value has shape
    `(..., *event_shape)`. Their leading dimensions broadcast.

    To write a family, define `num_params`, `support` and `__call__`, and `event_shape` if a block
    is not a single number. Everything else is optional:

    - `log_prob` and `sample`, if there is a faster or more stable way than through `__call__`;
    - `features` and `num_features`, if networks should read something other than asinh;
    - `sample_noise` and `from_noise`, if draws are a function of the parameters and of noise that
      is independent of them. Samplers then draw the noise of all steps in advance;
    - `to_noise`, the inverse of `from_noise`, which gives draws gradients, and
      `log_abs_det_jacobian`, if `from_noise` is a bijection of real noise, as flows need;
    - `cdf`, which gives draws of a continuous family gradients too, and `icdf`, if there is a
      faster way than a search;
    - `fit`, if there is a faster way to fit parameters to values than by gradients;
    - `needs_double = True`, if scores lose too many digits in float32.

    The flags `has_noise`, `is_reparameterized`, `is_bijective`, `has_cdf`, `has_cdf_gradient` and
    `has_rsample` follow from the methods that are defined. A class can also set them.

    All families, including yours, have the following. Half precision is computed in float32.
    Draws lie inside the support. Values outside the support and infinite values score -inf and
    have no gradient. A CDF is 0 below the support and 1 above it. Tensor attributes follow the
    dtype and the device of the network.

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

    _is_scored_by_parts: ClassVar[bool] = False  # by families that check the ends themselves

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        guard(cls)
        cls._defined = frozenset(
            name for name in _OPTIONAL if getattr(cls, name) is not getattr(Family, name)
        )

    @property
    def event_shape(self) -> torch.Size:
        """Shape of the block."""
        return torch.Size()

    @property
    @abstractmethod
    def num_params(self) -> int:
        """Number of unconstrained reals that parameterize one conditional."""

    @property
    def num_features(self) -> int:
        """Number of features that a network reads from one block."""
        return math.prod(self.event_shape)

    @property
    @abstractmethod
    def support(self) -> constraints.Constraint:
        """The support, which is the same for all parameters. Its event_dim is the block's."""

    @property
    def has_rsample(self) -> bool:
        """Whether draws have gradients to the parameters.

        The default is True if the noise can be recovered from a value, if the CDF has gradients,
        or if the family defines `pathwise`.
        """
        return self.is_reparameterized or self.has_cdf_gradient or "pathwise" in self._defined

    @property
    def needs_double(self) -> bool:
        """Whether to compute scores in float64, since float32 loses too many digits."""
        return False

    @property
    def is_index(self) -> bool:
        """Whether values are int64 indices. The default is True if `__call__` draws integers."""
        ends = self._ends
        return ends.is_discrete and math.isfinite(ends.upper) and self._draws_integers

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """Modules of the family. A network with this family registers them as its own."""
        return ()

    def _check(self, check: Callable[[Any, str], object], *names: str) -> None:
        """Replaces each field by the result of a check from `ardist.shapes`."""
        for name in names:
            object.__setattr__(self, name, check(getattr(self, name), name))

    def __repr__(self) -> str:
        """The constructor's call, without arguments that have their default values."""
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
        """The distribution, with batch_shape `(...)` and the block's event_shape."""

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        """Log probability or log density of `value`, in nats: (...)."""
        return self(params).log_prob(value)

    def sample(self, params: Tensor) -> Tensor:
        """A draw without gradients: (..., *event_shape)."""
        with torch.no_grad():
            if self.has_noise:
                return self.from_noise(params, self._noise_for(params))
            return self(params).sample()

    def rsample(self, params: Tensor) -> Tensor:
        """A draw with gradients to `params`, if `has_rsample`: (..., *event_shape)."""
        if self.is_reparameterized:
            return self.from_noise(params, self._noise_for(params))
        return self.pathwise(params, self.sample(params))

    def pathwise(self, params: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        """A given draw with its exact gradient to `params`, if `has_rsample`: (..., *event_shape).

        This is the gradient of the draw while its noise is held fixed. If the noise cannot be
        recovered from the draw, the gradient is implicit, by the CDF: dx = -dF / p(x) (Figurnov
        et al. 2018, "Implicit reparameterization gradients").

        Args:
            value: a draw under these parameters, (..., *event_shape).
            noise: the noise from which `from_noise` made the draw, if known.

        Raises:
            NotImplementedError: if neither the family nor its torch class has such gradients.
        """
        value = value.detach()
        if self.is_reparameterized:
            if noise is None:
                with torch.no_grad():
                    noise = self.to_noise(params, value)
            return with_gradient(value, self.from_noise(params, noise))
        if self.has_cdf_gradient:
            density = self.log_prob(params, value).detach().exp()
            return with_gradient(value, by_cdf(self.cdf(params, value), density, value))
        return with_gradient(value, reparameterized(self(params), value))

    def inside(self, value: Tensor) -> Tensor:
        """Whether values are inside the support: (...) bool."""
        if value.dtype in HALF and isinstance(self.support, type(constraints.simplex)):
            # The sum of rounded shares differs from one by up to a unit in the last place.
            error = (value.float().sum(-1) - 1).abs()
            return (value >= 0).all(-1) & (error <= torch.finfo(value.dtype).eps)
        if value.numel() == 0:  # torch's `independent` raises
            return value.new_ones(lead_of(value, self.event_shape), dtype=torch.bool)
        return self.support.check(value)

    def features(self, value: Tensor) -> Tensor:
        """The features of a block that a network reads: (..., num_features) floats.

        The default is asinh of the flattened value. It is close to the identity near zero and
        logarithmic for large values, so that one extreme draw does not make later parameters
        overflow.
        """
        return flatten_event(value, self.event_shape).asinh()

    def project(self, value: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """`F.linear(features(value), weight, bias)`. Families of indices gather rows instead."""
        return F.linear(self.features(value).to(weight.dtype), weight, bias)

    def fit(self, values: Tensor, mask: Tensor) -> Tensor:
        """Parameters of each of n blocks, fitted to values of the block: (n, num_params).

        The default maximizes the likelihood by gradients of `log_prob`, on at most 256 values of
        each block.

        Args:
            values: inside the support, (rows, n, *event_shape).
            mask: (rows, n, *event_shape) bool, False for missing elements. A value is left out if
                one of its elements is missing.
        """
        return maximum_likelihood(self, values, mask)

    def _start(self, values: Tensor, weights: Tensor) -> Tensor | None:
        """The parameters of n blocks from which the default `fit` starts.

        A family whose likelihood has a narrow valley starts with the moments of the values.

        Args:
            values: inside the support, (rows, n, *event_shape).
            weights: (rows, n), which sum to 1, or to 0 for a block without values.

        Returns:
            (n, num_params), or None to start near zero.
        """
        return None

    def placeholder(self) -> Tensor:
        """A fixed value well inside the support: (*event_shape)."""
        if not self.support.is_discrete:
            try:
                link = transform_to(self.support)
            except NotImplementedError:  # torch has no transform: a draw with a fixed seed
                with torch.random.fork_rng(()):
                    torch.manual_seed(0)
                    return self.sample(torch.zeros(self.num_params))
            return link(torch.zeros(link.inverse_shape(self.event_shape)))
        zeros = torch.zeros(self.event_shape)
        states = None if bool(self.inside(zeros).all()) else self.enumerate_support()
        return zeros if states is None else states[0]

    def enumerate_support(self) -> Tensor | None:
        """All values of a block, (num_states, *event_shape), or None if there are too many."""
        return _states_of(self.support, self.event_shape)

    def marginal_log_prob(self, params: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """log_prob of the elements under `mask`, with the other elements integrated out: (...).

        Args:
            value: (..., *event_shape). Elements outside the mask must be inside the support too.
            mask: (..., *event_shape) bool.

        Raises:
            ValueError: if the mask selects a part of a block and the family has no marginals.
        """
        return torch.where(self._is_whole(mask), self.log_prob(params, value), 0.0)

    def is_ancestral(self, mask: Tensor) -> bool:
        """Whether elements of a draw have the distribution that `marginal_log_prob` scores.

        Args:
            mask: (*event_shape) bool, the elements: a part of the block.
        """
        return True

    def given_log_prob(
        self, params: Tensor, value: Tensor, mask: Tensor, kept: Tensor | None = None
    ) -> Tensor:
        """log_prob of elements given the elements under `mask`: (...).

        It scores the elements under `kept`, or all other elements by default. Other arguments and
        errors are as in `marginal_log_prob`.
        """
        either = torch.ones_like(mask) if kept is None else kept | mask
        joint = self.marginal_log_prob(params, value, either)
        return joint - self.marginal_log_prob(params, value, mask)

    def sample_given(self, params: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """A draw without gradients, given the elements of `value` under `mask`, which it keeps.

        Arguments and errors are as in `marginal_log_prob`. The result is (..., *event_shape).
        """
        self._is_whole(mask)
        return torch.where(mask, value, self.sample(params))

    def _is_whole(self, mask: Tensor) -> Tensor:
        """Whether each block is under the mask: (...) bool. Raises if a part of a block is."""
        elements = mask.reshape(*lead_of(mask, self.event_shape), math.prod(self.event_shape))
        whole = elements.all(-1)
        if not torch.equal(whole, elements.any(-1)):
            part = elements[elements.any(-1) & ~whole][0]
            raise ValueError(
                f"mask: expected whole blocks, since {self} cannot be conditioned on a part of "
                f"its block, got {int(part.sum())} of {part.shape[0]} elements"
            )
        return whole

    # For the guards.

    @property
    def _ends(self) -> Ends:
        ends: Ends | None = vars(self).get("_known_ends")
        if ends is None:
            ends = ends_of(self.support)
            if not torch.compiler.is_compiling():  # cached_property would take a lock
                vars(self)["_known_ends"] = ends
        return ends

    @cached_property
    def _draws_integers(self) -> bool:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            return not self(torch.zeros(self.num_params)).sample().is_floating_point()

    def _following(self, reference: Tensor) -> "Family":
        """The family with its float tensors in the dtype and on the device of `reference`."""
        held = floats_like(self, reference)
        return self.with_attributes(held) if held else self

    def with_attributes(self, changes: Mapping[str, Any]) -> Self:
        """A copy of the family with other attributes, which are not checked."""
        family = object.__new__(type(self))
        vars(family).update(vars(self), **changes)
        return family

    def _score_dtype(self, dtype: torch.dtype, device: torch.device) -> torch.dtype:
        return widest(device) if self.needs_double else at_least_single(dtype)

    def _widened(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        """A value, or an end of an interval, in the dtype that the family computes in."""
        return value.to(dtype)

    def _widened_params(self, params: Tensor, dtype: torch.dtype) -> Tensor:
        """Parameters, some of which may be values, in the dtype that the family computes in."""
        return params.to(dtype)

    def _draw_dtype(self, dtype: torch.dtype) -> torch.dtype:
        return at_least_single(dtype)

    def _into_support(self, value: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """The value moved inside the support, and which of its numbers were outside, or None."""
        if not (value.is_floating_point() or self.is_index):
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
        has_open_ends = ends.has_ends and not ends.is_discrete
        return value.clamp(lower, upper) if has_open_ends else value, outside

    def _onto_states(self, value: Tensor, outside: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """As `_into_support`, for numbers that lie between the states of a discrete family."""
        if not self._ends.is_discrete or self.event_shape or not value.is_floating_point():
            return value, outside
        if is_readable(value) and torch.equal(value, value.floor()):
            return value, outside
        between = ~self.inside(value)
        value = value.masked_fill(between, self._ends.middle)
        return value, between if outside is None else outside | between

    def _rounded(self, draw: Tensor, dtype: torch.dtype) -> Tensor:
        """A draw rounded to its dtype and moved inside the support."""
        if self.is_index:
            return draw.long()
        ends = self._ends
        is_finite = ends.is_discrete and ends.upper < math.inf  # its draws are states
        is_moved = dtype in HALF or (ends.has_ends and not is_finite)
        return draw.to(dtype).clamp(*ends.within(dtype)) if is_moved else draw.to(dtype)

    def _any_of_block(self, elements: Tensor) -> Tensor:
        """Whether any element of a block is true: (..., *event_shape) to (...) bool."""
        dims = len(self.event_shape)
        return elements.flatten(-dims).any(-1) if dims else elements


def flatten_event(value: Tensor, event_shape: torch.Size) -> Tensor:
    """`(..., *event_shape)` as `(..., number of elements)`, in floating point."""
    lead = lead_of(value, event_shape)
    flat = value.reshape(*lead, math.prod(event_shape))
    return flat if flat.is_floating_point() else flat.to(torch.get_default_dtype())


def _states_of(support: constraints.Constraint, event_shape: torch.Size) -> Tensor | None:
    if isinstance(support, constraints.independent) and support.base_constraint.event_dim == 0:
        single = _states_of(support.base_constraint, torch.Size())
        return None if single is None else product(single, event_shape)
    # Compared by type, since a copy of a constraint is another object.
    if isinstance(support, type(constraints.boolean)):
        return torch.tensor([0.0, 1.0])
    if isinstance(support, type(constraints.one_hot)):
        return torch.eye(event_shape[-1])
    if isinstance(support, constraints.integer_interval):
        return torch.arange(int(support.lower_bound), int(support.upper_bound) + 1)
    return None


def states_of(family: Family) -> Tensor:
    """All values of a block, (num_states, *event_shape). Raises if they cannot be enumerated."""
    states = family.enumerate_support()
    if states is None:
        raise ValueError(f"family: expected a finite discrete family, got {family}")
    return states


def product(states: Tensor, shape: Sequence[int]) -> Tensor | None:
    """All grids of states, (num_grids, *shape, *state_shape), or None if there are too many."""
    count, each = math.prod(shape), torch.arange(states.shape[0])
    if states.shape[0] ** count > MOST_STATES:
        return None
    return states[torch.cartesian_prod(*[each] * count).reshape(-1, *shape)]


def choose(logits: Tensor, uniform: Tensor) -> Tensor:
    """The index that a uniform number in [0, 1) selects, by the inverse CDF: (...) int64."""
    cumulative = logits.softmax(-1).cumsum(-1)
    # The threshold stays below the total, which is one up to rounding. So an index of zero
    # probability is never selected.
    threshold = (uniform.unsqueeze(-1) * cumulative[..., -1:]).contiguous()
    cumulative = cumulative.expand(*threshold.shape[:-1], -1).contiguous()
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)
