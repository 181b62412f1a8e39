"""Shapes: checks of what users give, batches that are expanded, and the modes of torch around."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, wraps
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.utils._python_dispatch import _disable_current_modes

T = TypeVar("T")


@contextmanager
def outside_modes() -> Iterator[None]:
    """Makes plain tensors on the CPU, whatever mode or default device is set, for caches: a tensor
    of `inference_mode` or a fake one would break the calls that come after the mode.
    """
    if torch.compiler.is_dynamo_compiling():  # which follows no change of modes
        yield
        return
    with torch.inference_mode(False), torch.device("cpu"), _disable_current_modes():
        yield


def constant(function: Callable[[Any], T]) -> cached_property[T]:
    """A cached property of a value that is the same under any mode of torch."""

    @wraps(function)
    def plain(instance: Any) -> T:
        with outside_modes():
            return function(instance)

    return cached_property(plain)


def is_recorded() -> bool:
    """Whether torch.export or torch.jit.trace records a graph, which is for all values and cannot
    depend on those at hand.
    """
    exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)  # torch 2.7
    return torch.jit.is_tracing() or exporting()


def as_size(shape: int | Iterable[int], name: str) -> torch.Size:
    """`shape` as a `torch.Size` of positive integers, or a `ValueError` that calls it `name`."""
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    if not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes):
        raise ValueError(f"{name}: expected positive integers, got {sizes}")
    return torch.Size(sizes)


def as_positive(value: int, name: str) -> int:
    """`value` if it is a positive integer, else a `ValueError` that calls it `name`."""
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ValueError(f"{name}: expected a positive integer, got {value!r}")
    return value


def as_probability(value: float, name: str) -> float:
    """`value` if it is a probability below 1, else a `ValueError` that calls it `name`."""
    if not 0 <= value < 1:
        raise ValueError(f"{name}: expected a probability below 1, got {value}")
    return value


def as_integers(values: Sequence[Any] | Tensor, name: str) -> Tensor:
    """`values` as a tensor of integers, or a `ValueError` that calls them `name`."""
    tensor = torch.as_tensor(values)
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"{name}: expected integers, got {tensor.dtype}")
    return tensor


def expanded(p: Distribution, batch_shape: Iterable[int], instance: Any, **changes: Any) -> Any:
    """A distribution, with changed attributes, under a larger batch_shape, in constant time: in
    `instance` if there is one. A `ValueError` where it cannot be expanded to that.
    """
    old, wanted = p.batch_shape, torch.Size(batch_shape)
    spare = len(wanted) - len(old)
    pairs = zip(old, wanted[max(spare, 0) :], strict=False)
    if spare < 0 or any(one not in (1, size) for one, size in pairs):
        raise ValueError(f"batch_shape: {tuple(old)} cannot be expanded to {tuple(wanted)}")
    new = object.__new__(type(p)) if instance is None else instance
    new.__dict__.update({**p.__dict__, **changes, "_batch_shape": wanted})
    return new


def over_batch(states: Tensor, batch_shape: torch.Size, expand: bool) -> Tensor:
    """States (n, *event_shape) as `enumerate_support` gives them: (n, *batch_shape, *event_shape),
    or with ones for batch_shape.
    """
    event_shape = states.shape[1:]
    states = states.reshape(states.shape[0], *(1,) * len(batch_shape), *event_shape)
    return states.expand(-1, *batch_shape, *event_shape) if expand else states


def check_tensor(value: object, name: str) -> None:
    """A `ValueError` that calls a value `name` if it is not a tensor."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name}: expected a tensor, got {type(value).__name__}")


def leading(shape: torch.Size, event: torch.Size, batch: torch.Size, name: str) -> torch.Size:
    """`lead` of a shape (*lead, *event), if it broadcasts with `batch`, else a `ValueError` that
    calls it `name`.
    """
    lead = shape[: max(len(shape) - len(event), 0)]
    pairs = zip(reversed(lead), reversed(batch), strict=False)
    if shape[len(lead) :] != event or any(a != b and 1 not in (a, b) for a, b in pairs):
        raise ValueError(
            f"{name}: expected (*lead, {spelled(event)}) whose lead broadcasts with batch_shape "
            f"{tuple(batch)}, got {tuple(shape)}"
        )
    return lead


def spelled(shape: Iterable[int]) -> str:
    """A shape as it stands inside parentheses."""
    return ", ".join(map(str, shape))


def shortened(values: Sequence[object]) -> str:
    """The first of many values, for messages."""
    shown = ", ".join(map(str, values[:8]))
    return f"{shown}, ..." if len(values) > 8 else shown
