"""Guards: `Family` wraps the methods of each subclass so that all families have these properties.

- Half precision is computed in float32. Results are rounded back, and draws stay in the support.
- Families with `needs_double` are scored in float64.
- Infinite values, values outside the support and numbers between the states of a discrete family
  score -inf and have no gradient.
- A value at a closed end of the support, where the density may be infinite, is scored as the
  nearest number inside. Draws that round to such an end are moved to the same number.
- A CDF is 0 below the support and 1 above it, also at the ends of a continuous support.
  Probabilities of intervals are computed in float64.
- Floating-point tensors that a family holds follow the dtype and the device of the arguments.
"""

import math
from collections.abc import Callable
from functools import reduce, wraps
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints, transform_to

HALF = (torch.float16, torch.bfloat16)
Method = Callable[..., Any]
C = TypeVar("C", bound=type)


class Ends(NamedTuple):
    """The ends of the interval that contains the elements of a support."""

    lower: float = -math.inf
    upper: float = math.inf
    has_lower: bool = True  # whether the end itself is in the support
    has_upper: bool = True
    is_discrete: bool = False

    @property
    def middle(self) -> float:
        """A number in the support."""
        return min(max(0.0 if self.is_discrete else 0.5, self.lower), self.upper)

    @property
    def has_ends(self) -> bool:
        """Whether an end is finite."""
        return self.lower > -math.inf or self.upper < math.inf

    def within(self, dtype: torch.dtype) -> tuple[float, float]:
        """The smallest and the largest number inside, without the ends of a continuous support."""
        if self.is_discrete:
            most = torch.finfo(dtype).max if dtype.is_floating_point else math.inf
            return max(self.lower, -most), min(self.upper, most)
        return next_inside(self.lower, 1, dtype), next_inside(self.upper, -1, dtype)


def elementwise(constraint: constraints.Constraint) -> constraints.Constraint:
    """A constraint without `constraints.independent` around it."""
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    return constraint


def ends_of(support: constraints.Constraint) -> Ends:
    """The ends of a support: infinite if its elements have no fixed ends, or different ends."""
    support = elementwise(support)
    if isinstance(support, type(constraints.simplex)):
        return Ends(lower=0.0)
    if isinstance(support, type(constraints.boolean)):
        return Ends(0.0, 1.0, is_discrete=True)
    lower, upper = (getattr(support, f"{name}_bound", None) for name in ("lower", "upper"))
    return Ends(
        -math.inf if lower is None or _is_many(lower) else float(lower),
        math.inf if upper is None or _is_many(upper) else float(upper),
        not isinstance(support, constraints.greater_than),
        not isinstance(support, (constraints.less_than, constraints.half_open_interval)),
        support.is_discrete,
    )


class _AtMost(constraints.Constraint):
    """The real numbers up to and including an end. torch's `less_than` excludes the end."""

    def __init__(self, upper_bound: float) -> None:
        self.upper_bound = upper_bound
        super().__init__()

    def __repr__(self) -> str:
        return f"AtMost(upper_bound={self.upper_bound})"

    def check(self, value: Tensor) -> Tensor:
        return value <= self.upper_bound


for _registry in (biject_to, transform_to):
    _registry.register(_AtMost, lambda c, of=_registry: of(constraints.less_than(c.upper_bound)))


def interval(lower: float, upper: float) -> constraints.Constraint:
    """The real numbers between two ends, which may be infinite."""
    if upper == math.inf:
        return constraints.real if lower == -math.inf else constraints.greater_than_eq(lower)
    if lower == -math.inf:
        return _AtMost(upper)
    return constraints.interval(lower, upper)


def _is_many(bound: Any) -> bool:
    return isinstance(bound, Tensor) and bound.numel() != 1


def next_inside(end: float, direction: int, dtype: torch.dtype) -> float:
    """The next number of this dtype after `end` in a direction; `end` may be of another dtype."""
    info = torch.finfo(dtype)
    if end == 0:
        return direction * max(info.tiny, 1e-300)  # its reciprocal is finite
    if math.isinf(end):
        return -direction * info.max
    mantissa, exponent = math.frexp(abs(end))
    # Numbers below a power of two are twice as dense as above it.
    is_denser = mantissa == 0.5 and direction * end < 0
    spacing = info.eps * 2.0 ** (exponent - 1 - is_denser)
    count = math.floor(end / spacing) + 1 if direction > 0 else math.ceil(end / spacing) - 1
    return min(max(count * spacing, -info.max), info.max)


def at_least_single(dtype: torch.dtype) -> torch.dtype:
    """float32 for half precision, and other dtypes unchanged."""
    return torch.float32 if dtype in HALF else dtype


def floats_like(held: object, reference: Tensor) -> dict[str, Tensor]:
    """The float tensors of an object, in the dtype and on the device of `reference`."""
    return {
        name: part.to(reference)
        for name, part in vars(held).items()
        if isinstance(part, Tensor) and part.is_floating_point()
    }


def widest(device: torch.device) -> torch.dtype:
    """float64, or float32 on mps, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def _to(value: Any, dtype: torch.dtype) -> Any:
    is_float = isinstance(value, Tensor) and value.is_floating_point()
    return value.to(dtype) if is_float else value


def _widened(self: Any, value: Tensor, dtype: torch.dtype) -> Tensor:
    wide: Tensor = self._widened(value, dtype) if value.is_floating_point() else value
    return wide


def _common(*given: Any) -> torch.dtype:
    """The promoted dtype of all floating-point tensors."""
    floats = {t.dtype for t in given if isinstance(t, Tensor) and t.is_floating_point()}
    return floats.pop() if len(floats) == 1 else reduce(torch.promote_types, floats)


def _with_params(method: Method, self: Any, params: Tensor) -> Any:
    return method(self._following(params), params)


def _with_value(method: Method, self: Any, value: Tensor, *args: Any, **kwargs: Any) -> Any:
    family = self._following(value) if value.is_floating_point() else self
    return method(family, value, *args, **kwargs)


def _score(method: Method, self: Any, params: Tensor, value: Tensor, *mask: Tensor) -> Any:
    dtype = _common(params, value)
    wide = self._score_dtype(dtype, params.device)
    outside = None
    if not self._is_scored_by_parts or value.dtype in HALF:  # half precision has its own ends
        value, outside = self._onto_states(*self._into_support(value, dtype))
    params, value = self._widened_params(params, wide), _widened(self, value, wide)
    result: Tensor = method(self._following(params), params, value, *mask).to(dtype)
    if outside is None:
        return result
    outside = outside & mask[0] if mask else outside
    return result.masked_fill(self._any_of_block(outside), -math.inf)


def _cumulate(method: Method, self: Any, params: Tensor, value: Tensor) -> Any:
    dtype, given = _common(params, value), value
    wide = self._score_dtype(dtype, params.device)
    value, outside = self._into_support(value, dtype)
    params, value = self._widened_params(params, wide), _widened(self, value, wide)
    result: Tensor = method(self._following(params), params, value).clamp(0, 1).to(dtype)
    if outside is None:
        return result
    ends = self._ends
    if not ends.is_discrete:  # all of the mass is between the ends, also what rounds to them
        outside = outside | (given <= ends.lower) | (given >= ends.upper)
    return torch.where(outside, (given > ends.middle).to(dtype), result)


def _invert(method: Method, self: Any, params: Tensor, uniform: Tensor) -> Any:
    dtype = _common(params, uniform)
    wide = self._draw_dtype(dtype)
    params, uniform = self._widened_params(params, wide), uniform.to(wide)
    return self._rounded(method(self._following(params), params, uniform), dtype)


def _between(method: Method, self: Any, params: Tensor, low: Any, high: Any) -> Any:
    dtype, wide = params.dtype, widest(params.device)
    params = self._widened_params(params, wide)
    low, high = (_as_end(self, end, params) for end in (low, high))
    return method(self._following(params), params, low, high).to(dtype)


def _as_end(self: Any, end: Any, params: Tensor) -> Tensor:
    if isinstance(end, Tensor) and end.is_floating_point():
        return _widened(self, end.to(params.device), params.dtype)
    return torch.as_tensor(end, dtype=params.dtype, device=params.device)


def _draw(method: Method, self: Any, params: Tensor, *args: Any, **kwargs: Any) -> Any:
    if _is_plain(self, params, args, kwargs):  # the common case, in the loop over steps
        return self._rounded(method(self._following(params), params, *args, **kwargs), params.dtype)
    given, dtype = params.dtype, _common(params, *args, *kwargs.values())
    draw = _converted(method, self, params, *args, **kwargs)
    # The noise for parameters in half precision is in float32.
    return self._rounded(draw, given if given in HALF else dtype)


def _is_plain(self: Any, params: Tensor, args: Any, kwargs: Any) -> bool:
    """Whether all arguments have the dtype that the method computes in."""
    dtype = params.dtype
    return self._draw_dtype(dtype) == dtype and all(
        not isinstance(part, Tensor) or part.dtype in (dtype, torch.int64, torch.bool)
        for part in (*args, *kwargs.values())
    )


def _converted(method: Method, self: Any, params: Tensor, *args: Any, **kwargs: Any) -> Any:
    wide = self._draw_dtype(_common(params, *args, *kwargs.values()))
    params = self._widened_params(params, wide)
    args = tuple(_to(part, wide) for part in args)
    kwargs = {name: _to(part, wide) for name, part in kwargs.items()}
    return method(self._following(params), params, *args, **kwargs)


_GUARDS = {
    "__call__": _with_params,
    "features": _with_value,
    "project": _with_value,
    "log_prob": _score,
    "marginal_log_prob": _score,
    "cdf": _cumulate,
    "icdf": _invert,
    "interval_log_prob": _between,
    **dict.fromkeys(("sample", "rsample", "pathwise", "from_noise", "sample_given"), _draw),
    **dict.fromkeys(("to_noise", "log_abs_det_jacobian", "to_noise_and_log_det"), _converted),
}


def guard(cls: C) -> C:
    """The class, with the methods that it defines wrapped in place."""
    for name in _GUARDS:
        method = vars(cls).get(name)
        if method is not None and not getattr(method, "__isabstractmethod__", False):
            setattr(cls, name, _guarded(name, method))
    return cls


def _guarded(name: str, method: Method) -> Method:
    wrapper: Any = _GUARDS[name]

    @wraps(method)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(type(self), name) is guarded:
            return wrapper(method, self, *args, **kwargs)
        return method(self, *args, **kwargs)  # called by super() from an override with a guard

    return guarded
