"""A family whose values are transformed by bijections."""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import (
    AffineTransform,
    ComposeTransform,
    Distribution,
    Transform,
    constraints,
)
from torch.distributions.transforms import _InverseTransform

from ardist.families.base import Family
from ardist.families.composed import Derived
from ardist.families.guards import elementwise, floats_like, interval, next_inside
from ardist.families.implicit import with_gradient
from ardist.shapes import is_sequence

Ends = tuple[float, float]  # of an interval of the reals
_REALS = (-math.inf, math.inf)


@dataclass(frozen=True, repr=False, eq=False, init=False)
class Transformed(Derived):
    """A continuous family whose values are transformed by fixed or learned bijections.

    It has the parameters and features of the inner family: a network reads the value before the
    transforms. A transform that is a module (Pyro's `TransformModule`) is learned, and networks
    register it. Draws that would round to an end of the support, as with `tanh` in float32, stay
    just inside. Two such families are equal if their transforms are the same objects, or equal and
    made of plain numbers.

    Args:
        family: a continuous family, the distribution before the transforms.
        transforms: one transform of torch or Pyro, or several in the order of application.

    Raises:
        ValueError: if the family is discrete, a transform is not bijective, or values do not fit
            the domain of a transform.

    >>> import torch, ardist as ad
    >>> from torch.distributions import AffineTransform, SigmoidTransform
    >>> percent = ad.families.Transformed(
    ...     ad.families.Normal(), [SigmoidTransform(), AffineTransform(0.0, 100.0)]
    ... )
    >>> percent.support
    Interval(lower_bound=0.0, upper_bound=100.0)
    >>> percent.cdf(torch.zeros(2), torch.tensor(50.0))
    tensor(0.5000)
    """

    transforms: tuple[Transform, ...]
    _event_shape: torch.Size
    _support: constraints.Constraint
    _stages: tuple[Ends | None, ...]  # the ends after 0, 1, ... transforms

    def __init__(self, family: Family, transforms: Transform | Sequence[Transform]) -> None:
        vars(self).update(family=family)
        super().__post_init__()
        if family.support.is_discrete:
            raise ValueError(f"family: expected a continuous family, got {family}")
        given: Any = transforms if is_sequence(transforms) else (transforms,)
        vars(self).update(transforms=tuple(_flat(given)))
        if not self.transforms:
            raise ValueError("transforms: expected at least one transform, got none")
        support, shape = elementwise(family.support), family.event_shape
        ends = [_ends(support)]
        for transform in self.transforms:
            if transform.domain.event_dim > len(shape):
                raise ValueError(
                    f"transforms: expected values of at least {transform.domain.event_dim} "
                    f"dimensions for {transform!r}, got values of {family} with shape "
                    f"{tuple(shape)}; Independent(family, shape) makes blocks of numbers"
                )
            support, shape = _image(support, transform, family), transform.forward_shape(shape)
            ends.append(_ends(support))
        spare = len(shape) - support.event_dim
        support = constraints.independent(support, spare) if spare else support
        vars(self).update(_stages=tuple(ends), _support=support, _event_shape=torch.Size(shape))
        self._try()

    def _try(self) -> None:
        """Raises if the transforms do not apply to the family's values."""
        tensors = [tensor for transform in self.transforms for tensor in _tensors(transform)]
        tensors += [parameter for module in self.modules for parameter in module.parameters()]
        reference = next(iter(tensors), torch.empty(0))
        for rows in (2, 3):  # a tensor that broadcasts along rows fits at most one of these
            value = self.family.placeholder().to(reference).expand(rows, *self.family.event_shape)
            try:
                with torch.no_grad():
                    found = self._forward(value).shape
            except RuntimeError as error:
                raise ValueError(
                    f"transforms: expected transforms of values of shape "
                    f"{tuple(self.family.event_shape)}, as {self.family} has, got "
                    f"{self._spelled()}, which raises: {error}"
                ) from error
            if found != (rows, *self.event_shape):
                raise ValueError(
                    f"transforms: expected {self._spelled()} to map {rows} values of {self.family} "
                    f"to shape {(rows, *self.event_shape)}, got {tuple(found)}"
                )

    @property
    def needs_double(self) -> bool:
        # A small scale magnifies the rounding errors of a transform. Transforms that multiply
        # by matrices need values in the dtype of the matrices.
        return not self.modules and all(
            part.domain.event_dim == 0 or not _tensors(part) for part in self.transforms
        )

    @property
    def event_shape(self) -> torch.Size:
        return self._event_shape

    @property
    def support(self) -> constraints.Constraint:
        return self._support

    @property
    def has_cdf(self) -> bool:
        return self.family.has_cdf and self._is_monotone

    @property
    def has_cdf_gradient(self) -> bool:
        return self.family.has_cdf_gradient and self._is_monotone

    @property
    def is_bijective(self) -> bool:
        return self.family.is_bijective and self.family.noise_shape == self.event_shape

    @property
    def _is_monotone(self) -> bool:
        is_scalar = not (self.event_shape or self.family.event_shape)
        return is_scalar and all(map(_has_sign, self.transforms))

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        own = (_forward_of(transform)[0] for transform in self.transforms)
        return (*(part for part in own if isinstance(part, nn.Module)), *self.family.modules)

    @property
    def free_affine(self) -> list[int]:
        """The indices of affine transforms of all reals, whose numbers do not move the support."""
        stages = zip(self.transforms, self._stages[:-1], strict=True)
        return [
            place
            for place, (transform, ends) in enumerate(stages)
            if type(transform) is AffineTransform and ends == _REALS and not _tensors(transform)
        ]

    def _following(self, reference: Tensor) -> "Transformed":
        held = any(map(_tensors, self.transforms))
        if not held:
            return self
        moved = tuple(_moved(transform, reference) for transform in self.transforms)
        return self.with_attributes({"transforms": moved})

    def __call__(self, params: Tensor) -> Distribution:
        return dist.TransformedDistribution(
            self.family(params), [_fresh(part) for part in self.transforms], validate_args=False
        )

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        x, log_slopes = self._backward(value)
        return self.family.log_prob(params, x) - self._total(log_slopes)

    def _start(self, values: Tensor, weights: Tensor) -> Tensor | None:
        with torch.no_grad():
            return self.family._start(self._backward(values)[0], weights)

    def _total(self, log_slopes: list[Tensor]) -> Tensor:
        """log abs(det dy/dx) of all transforms: (...), from the terms that `_backward` returns."""
        dims = len(self.event_shape)
        total = torch.zeros((), dtype=log_slopes[0].dtype, device=log_slopes[0].device)
        for transform, log_abs_det_jacobian in zip(
            reversed(self.transforms), log_slopes, strict=True
        ):
            dims -= transform.codomain.event_dim
            total = total + _sum_last(log_abs_det_jacobian, dims)
            dims += transform.domain.event_dim
        return total

    def sample(self, params: Tensor) -> Tensor:
        with torch.no_grad():
            return self._forward(self.family.sample(params))

    def pathwise(self, params: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        with torch.no_grad():
            x = self._backward(value)[0]
        return with_gradient(value, self._forward(self.family.pathwise(params, x, noise)))

    def from_noise(self, params: Tensor, noise: Tensor) -> Tensor:
        return self._forward(self.family.from_noise(params, noise))

    def to_noise(self, params: Tensor, value: Tensor) -> Tensor:
        return self.family.to_noise(params, self._backward(value)[0])

    def log_abs_det_jacobian(self, params: Tensor, value: Tensor) -> Tensor:
        x, log_slopes = self._backward(value)
        return self.family.log_abs_det_jacobian(params, x) + self._total(log_slopes)

    def to_noise_and_log_det(self, params: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        x, log_slopes = self._backward(value)
        noise, log_abs_det_jacobian = self.family.to_noise_and_log_det(params, x)
        return noise, log_abs_det_jacobian + self._total(log_slopes)

    inside, placeholder = Family.inside, Family.placeholder
    enumerate_support = Family.enumerate_support

    def features(self, value: Tensor) -> Tensor:
        value, _ = self._into_support(value, value.dtype)
        return self.family.features(self._backward(value)[0])

    def project(self, value: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        value, _ = self._into_support(value, value.dtype)
        return self.family.project(self._backward(value)[0], weight, bias)

    def cdf(self, params: Tensor, value: Tensor) -> Tensor:
        if not self._is_monotone:
            return super().cdf(params, value)
        return self._turned(self.family.cdf(params, self._backward(value)[0]))

    def icdf(self, params: Tensor, uniform: Tensor) -> Tensor:
        if not self._is_monotone:
            return super().icdf(params, uniform)
        return self._forward(self.family.icdf(params, self._turned(uniform)))

    def log_tails(self, params: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        tails = self.family.log_tails(params, self._backward(value)[0])
        increases = self._increases(value)
        below, above = (torch.where(increases, *pair) for pair in (tails, tails[::-1]))
        return below, above

    def _increases(self, reference: Tensor) -> Tensor:
        """Whether the transforms together are increasing."""
        sign = math.prod(transform.sign for transform in self.transforms)
        return torch.as_tensor(sign, device=reference.device) > 0

    def _turned(self, uniform: Tensor) -> Tensor:
        """One minus the uniform if the transforms together are decreasing."""
        return torch.where(self._increases(uniform), uniform, 1 - uniform)

    def marginal_log_prob(self, params: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        if not self._is_elementwise:
            return super().marginal_log_prob(params, value, mask)
        x, log_slopes = self._backward(value)
        total = _sum_last(torch.where(mask, sum(log_slopes), 0.0), len(self.event_shape))
        return self.family.marginal_log_prob(params, x, mask) - total

    def sample_given(self, params: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        if not self._is_elementwise:
            return super().sample_given(params, value, mask)
        with torch.no_grad():
            x = self.family.sample_given(params, self._backward(value)[0], mask)
            return torch.where(mask, value, self._forward(x))

    @property
    def _is_elementwise(self) -> bool:
        return all(
            part.domain.event_dim == part.codomain.event_dim == 0 for part in self.transforms
        )

    def _forward(self, x: Tensor) -> Tensor:
        for transform, ends in zip(self.transforms, self._stages[1:], strict=True):
            y = _fresh(transform)(x.to(_dtype_of(transform, x)))
            x = _inside(y.to(x.dtype), ends)
        return x

    def _backward(self, y: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The inner family's value, and log |dy/dx| of each transform from last to first."""
        y, log_slopes = _inside(y, self._stages[-1]), []
        for number in reversed(range(len(self.transforms))):
            transform = _fresh(self.transforms[number])
            given = y.to(_dtype_of(transform, y))
            x = _inside(_inverse(transform)(given), self._stages[number])
            log_slopes.append(transform.log_abs_det_jacobian(x, given).to(y.dtype))
            y = x.to(y.dtype)
        return y, log_slopes

    # Values and copies.

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Transformed)
            and self.family == other.family
            and len(self.transforms) == len(other.transforms)
            and all(map(_equal, self.transforms, other.transforms))
        )

    def __hash__(self) -> int:
        return hash((self.family, tuple(map(type, self.transforms))))

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy of torch's inverse of a transform loses its reference to the transform.
        return _rebuild, (self.family, [_forward_of(transform) for transform in self.transforms])

    def _spelled(self) -> str:
        parts = [_spell(transform) for transform in self.transforms]
        return parts[0] if len(parts) == 1 else f"[{', '.join(parts)}]"

    def __repr__(self) -> str:
        return f"Transformed({self.family}, {self._spelled()})"


def _rebuild(family: Family, parts: list[tuple[Transform, bool]]) -> Transformed:
    return Transformed(
        family, [_inverse(part) if is_inverse else part for part, is_inverse in parts]
    )


def _flat(transforms: Sequence[Transform]) -> Iterator[Transform]:
    """The transforms, checked, with compositions replaced by their parts."""
    for transform in transforms:
        if isinstance(transform, ComposeTransform):
            yield from _flat(transform.parts)
            continue
        if not (isinstance(transform, Transform) and transform.bijective):
            raise ValueError(f"transforms: expected bijective transforms, got {transform!r}")
        if any(tensor.requires_grad for tensor in _tensors(transform)):
            raise ValueError(
                f"transforms: expected a learned transform to be a torch.nn.Module, so that "
                f"networks can register it, got {_spell(transform)}"
            )
        yield transform


def _forward_of(transform: Transform) -> tuple[Transform, bool]:
    """The transform, or the one that it is the inverse of, and whether it is an inverse."""
    is_inverse = isinstance(transform, _InverseTransform)
    return (transform.inv if is_inverse else transform), is_inverse


def _fresh(transform: Transform) -> Transform:
    """The transform for a single call, as a copy with an empty cache if it has a cache.

    A cached value might have been computed before the parameters changed.
    """
    part, is_inverse = _forward_of(transform)
    if part._cache_size or isinstance(part, nn.Module):
        part = copy.copy(part)  # its parameters stay the same objects
        part._cached_x_y, part._inv = (None, None), None
    return _inverse(part) if is_inverse else part


def _inverse(transform: Transform) -> Transform:
    """The inverse. Unlike `transform.inv` it makes no reference cycle, which would keep caches."""
    part, is_inverse = _forward_of(transform)
    return part if is_inverse else _InverseTransform(part)


def _tensors(transform: Transform) -> list[Tensor]:
    """The tensors of a transform that is not a module."""
    part, _ = _forward_of(transform)
    if isinstance(part, nn.Module):
        return []
    return [value for value in vars(part).values() if isinstance(value, Tensor)]


def _moved(transform: Transform, reference: Tensor) -> Transform:
    """The transform with its float tensors in the dtype and on the device of `reference`."""
    part, is_inverse = _forward_of(transform)
    if isinstance(part, nn.Module):
        return transform
    part = copy.copy(part)
    vars(part).update(floats_like(part, reference))
    return _inverse(part) if is_inverse else part


def _dtype_of(transform: Transform, reference: Tensor) -> torch.dtype:
    """The dtype in which a transform computes: a module's own, or else the dtype of the values."""
    part, _ = _forward_of(transform)
    parameters = part.parameters() if isinstance(part, nn.Module) else ()
    return next((parameter.dtype for parameter in parameters), reference.dtype)


def _equal(one: Transform, other: Transform) -> bool:
    # Tensors may change. So a transform with tensors is equal only to itself.
    alike = type(one) is type(other) and not _tensors(one)
    return one is other or (alike and bool(one == other))


def _has_sign(transform: Transform) -> bool:
    try:
        return transform.sign is not None
    except NotImplementedError:
        return False


def _spell(transform: Transform) -> str:
    part, is_inverse = _forward_of(transform)
    numbers = [] if isinstance(part, nn.Module) else vars(part).items()
    inside = ", ".join(
        f"{name}={_number(value)}"
        for name, value in numbers
        if not name.startswith("_") and isinstance(value, int | float | Tensor)
    )
    return f"{type(part).__name__}({inside}){'.inv' if is_inverse else ''}"


def _number(value: float | Tensor) -> object:
    if isinstance(value, Tensor):
        return value.item() if value.numel() == 1 else f"<{tuple(value.shape)}>"
    return value


def _sum_last(value: Tensor, dims: int) -> Tensor:
    return value.sum(tuple(range(-dims, 0))) if dims else value


# The image of a support.


def _ends(constraint: constraints.Constraint) -> Ends | None:
    """The ends of an interval of the reals, or None for values with dimensions."""
    if constraint.event_dim:
        return None
    ends = (("lower_bound", -math.inf), ("upper_bound", math.inf))
    lower, upper = (float(getattr(constraint, *end)) for end in ends)
    return lower, upper


def _image(
    support: constraints.Constraint, transform: Transform, family: Family
) -> constraints.Constraint:
    """The image of a support under a transform, without `independent` around it."""
    domain, codomain = map(elementwise, (transform.domain, transform.codomain))
    ends, limits = _ends(support), _ends(domain)
    misfit = ValueError(
        f"transforms: expected {family} to fill the domain {domain} of {_spell(transform)}, got "
        f"values in {support}"
    )
    if ends is None or limits is None:
        if type(support) is not type(domain):
            raise misfit
        return codomain
    if ends == limits:
        return codomain
    # A fixed map of single numbers maps a part of its domain to the interval between the images
    # of the part's ends. A learned one would move this interval.
    around = _ends(codomain)
    is_fixed = not isinstance(_forward_of(transform)[0], nn.Module)
    if not (is_fixed and limits[0] <= ends[0] and ends[1] <= limits[1]):
        raise misfit
    if transform.domain.event_dim or around is None:
        raise misfit
    images = torch.stack([transform(torch.tensor([end], dtype=torch.float64)) for end in ends])
    first, last = images.flatten(1)[:, 0].tolist()
    if bool((images != images[:, :1]).any()) or not first != last:
        raise misfit
    start, stop = around if first < last else around[::-1]
    first = start if ends[0] == limits[0] else first
    last = stop if ends[1] == limits[1] else last
    return interval(min(first, last), max(first, last))


def _inside(value: Tensor, ends: Ends | None) -> Tensor:
    """Numbers that were rounded to an end, or to infinity, moved to the nearest number inside."""
    if ends is None or ends == _REALS:
        return value
    lower, upper = ends
    return value.clamp(next_inside(lower, 1, value.dtype), next_inside(upper, -1, value.dtype))
