"""Checks of arguments, expanded batches, and the modes of torch."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, wraps
from importlib import import_module
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.utils._python_dispatch import _disable_current_modes

T = TypeVar("T")


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Sets the default dtype, in which networks and families make tensors of plain numbers."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def outside_modes() -> Iterator[None]:
    """Makes plain tensors on the CPU, whatever mode or default device is set.

    For caches: a tensor of `inference_mode`, or a fake one, breaks calls outside of that mode.
    """
    if torch.compiler.is_dynamo_compiling():  # it cannot trace a change of modes
        yield
        return
    with torch.inference_mode(False), torch.device("cpu"), _disable_current_modes():
        yield


def constant(function: Callable[[Any], T]) -> cached_property[T]:
    """A cached property whose value is computed outside of torch's modes."""

    @wraps(function)
    def plain(instance: Any) -> T:
        with outside_modes():
            return function(instance)

    return cached_property(plain)


def is_recorded() -> bool:
    """Whether torch.export or torch.jit.trace records a graph.

    The graph must hold for all values, so no branch may depend on the values at hand.
    """
    return torch._C._is_tracing() or torch.compiler.is_exporting()


def holds(check: Tensor) -> bool:
    """Whether a check holds everywhere. In a graph that is being recorded, nothing is checked."""
    return is_recorded() or bool(torch._is_all_true(check))


def is_transformed() -> bool:
    """Whether a transform of `torch.func` is active; some kernels of torch do not support it."""
    compiling = torch.compiler.is_compiling()  # it cannot trace the call below
    return not compiling and torch._C._functorch.peek_interpreter_stack() is not None


def is_vmapped() -> bool:
    """Whether `torch.func.vmap` is the transform that is active."""
    if not is_transformed():
        return False
    stack = torch._C._functorch.peek_interpreter_stack()
    return bool(stack.key() == torch._C._functorch.TransformType.Vmap)


def is_readable(value: Tensor) -> bool:
    """Whether reading the numbers is cheap and breaks no graph.

    It is on a CPU, outside of torch.compile, torch.export, torch.jit.trace and torch.func.
    """
    return (
        not torch.compiler.is_compiling()
        and type(value) is Tensor
        and value.device.type == "cpu"
        and not torch._C._is_tracing()
        and not is_transformed()
    )


def is_between(values: Tensor, lower: float, upper: float) -> bool:
    """Whether all values are readable, finite and from `lower` to `upper`."""
    if not is_readable(values) or values.numel() == 0:
        return False
    least, most = (float(end) for end in values.detach().aminmax())
    return lower <= least and most <= upper and math.isfinite(least) and math.isfinite(most)


def as_size(shape: Any, name: str) -> torch.Size:
    """`shape` as a `torch.Size` of positive integers; a `ValueError` that names it otherwise."""
    sizes = (shape,) if is_integer(shape) else shape
    if not is_sequence(sizes) or not all(is_integer(size) and size > 0 for size in sizes):
        raise ValueError(f"{name}: expected positive integers, got {described(shape)}")
    return torch.Size(map(int, sizes))


def as_shape(shape: Any, name: str) -> torch.Size:
    """A batch_shape or sample_shape as a `torch.Size`; a `ValueError` that names it otherwise."""
    if not is_sequence(shape) or not all(map(_is_count, shape)):
        raise ValueError(
            f"{name}: expected a sequence of integers of at least 0, got {described(shape)}"
        )
    plain = int | torch.SymInt | Tensor  # the last two while tracing: they stay what they are
    sizes: list[Any] = [size if isinstance(size, plain) else int(size) for size in shape]
    return torch.Size(sizes)


def as_integer(value: Any, name: str, least: float = -math.inf) -> int:
    """`value` if it is an integer of at least `least`; a `ValueError` that names it otherwise."""
    if not is_integer(value) or value < least:
        above = {-math.inf: "an integer", 1: "a positive integer"}
        wanted = above.get(least, f"an integer of at least {least}")
        raise ValueError(f"{name}: expected {wanted}, got {described(value)}")
    return int(value) if isinstance(value, Integral) else value


def as_positive(value: Any, name: str) -> int:
    """`value` if it is a positive integer; a `ValueError` that names it otherwise."""
    return as_integer(value, name, 1)


def as_count(value: Any, name: str) -> int:
    """`value` if it is an integer of at least 0; a `ValueError` that names it otherwise."""
    return as_integer(value, name, 0)


def as_seed(value: Any, name: str) -> int:
    """`value` if it is an integer that torch accepts as a seed and a file can hold; a `ValueError`
    that names it otherwise.
    """
    seed = as_integer(value, name)
    if abs(seed) >= 2**63:
        raise ValueError(f"{name}: expected an integer between -2**63 and 2**63, got {seed}")
    return seed


def as_real(value: Any, name: str, wanted: str, holds: Callable[[float], bool]) -> float:
    """`value` if it is a number with a property; a `ValueError` that names it otherwise."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not holds(float(value)):
        raise ValueError(f"{name}: expected {wanted}, got {described(value)}")
    return value if type(value) is int else float(value)


def as_scale(value: Any, name: str) -> float:
    """`value` if it is a positive number; a `ValueError` that names it otherwise."""
    return as_real(value, name, "a positive number", lambda x: 0 < x < math.inf)


def as_tolerance(value: Any, name: str) -> float:
    """`value` if it is a number of at least 0; a `ValueError` that names it otherwise."""
    return as_real(value, name, "a number of at least 0", lambda x: 0 <= x < math.inf)


def as_probability(value: Any, name: str) -> float:
    """`value` if it is a probability below 1; a `ValueError` that names it otherwise."""
    return as_real(value, name, "a probability in [0, 1)", lambda x: 0 <= x < 1)


def as_share(value: Any, name: str) -> float:
    """`value` if it is a number in [0, 1]; a `ValueError` that names it otherwise."""
    return as_real(value, name, "one within [0, 1]", lambda x: 0 <= x <= 1)


def as_flag(value: Any, name: str) -> bool:
    """`value` if it is True or False; a `ValueError` that names it otherwise."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected True or False, got {described(value)}")
    return value


def as_path(value: Any, name: str) -> Path:
    """`value` as a path; a `ValueError` that names it otherwise."""
    if not isinstance(value, str | os.PathLike):
        raise ValueError(f"{name}: expected a path, got {described(value)}")
    return Path(value)


def as_file(value: Any, name: str) -> Path:
    """`value` as the path of a file that can be written; a `ValueError` that names it otherwise."""
    path = as_path(value, name)
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"{name}: expected a file in a folder that exists, got {path}")
    return path


def as_callable(value: Any, name: str) -> Any:
    """`value` if it is callable; a `ValueError` that names it otherwise."""
    if not callable(value):
        raise ValueError(f"{name}: expected a callable, got {described(value)}")
    return value


def as_callables(value: Any, name: str) -> Any:
    """`value` if it is a sequence of callables; a `ValueError` that names it otherwise."""
    if not is_sequence(value) or not all(map(callable, value)):
        raise ValueError(f"{name}: expected a sequence of callables, got {described(value)}")
    return value


def as_choice(value: Any, choices: Iterable[str], name: str) -> str:
    """`value` if it is one of the choices; a `ValueError` that names it otherwise."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}: expected one of {list(choices)}, got {described(value)}")
    return value


def as_integers(values: Sequence[Any] | Tensor, name: str) -> Tensor:
    """`values` as a tensor of integers; a `ValueError` that names them otherwise."""
    tensor = as_tensor(values, name)
    if tensor.is_floating_point() or tensor.dtype == torch.bool:
        raise ValueError(f"{name}: expected integers, got {tensor.dtype}")
    return tensor


def as_array(values: Any) -> np.ndarray:
    """Converts values to a numpy array, also tensors that numpy refuses; masked values are NaN."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values
    if isinstance(values, np.ma.MaskedArray):  # `asarray` would show the values under the mask
        is_number = values.dtype.kind in "iuf"
        dtype = np.result_type(values.dtype, 1.0) if is_number else np.dtype(object)
        found = np.array(values.data, dtype)
        found[np.ma.getmaskarray(values)] = np.nan
        return found
    return np.asarray(values)


def as_tensor(values: Any, name: str) -> Tensor:
    """Real numbers as a tensor; a `ValueError` that names them otherwise."""
    try:
        tensor = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name}: expected numbers, got {described(values)}") from error
    check_data(tensor, name)
    return tensor


def check_type(value: object, kind: type, name: str) -> None:
    """Raises a `ValueError` that names the value if it is not of this class."""
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise ValueError(f"{name}: expected {article} {kind.__name__}, got {described(value)}")


def is_sequence(value: object) -> bool:
    """Whether a value is a sequence, but not a string."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def is_integer(value: object) -> bool:
    """Whether a value is an integer of Python or numpy, or a symbolic one, but not a boolean."""
    if type(value) is int:  # the usual case, and faster than the test below
        return True
    return isinstance(value, Integral | torch.SymInt) and not isinstance(value, bool)


def _is_count(size: Any) -> bool:
    """Whether a size is an integer of at least 0; under tracing, sizes are tensors or symbols."""
    if isinstance(size, Tensor):
        return torch._C._is_tracing() and not size.is_floating_point()
    return is_integer(size) and size >= 0


def described(value: object) -> str:
    """A value as error messages show it: a line of at most 100 characters."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}, {value.dtype} on {value.device}"
    if isinstance(value, nn.Module):
        return f"a module {type(value).__name__}"
    text = repr(value)
    text = " ".join(text.split()) if "\n" in text else text  # arrays and tables
    return text if len(text) <= 100 else f"{text[:100]}..."


def pyplot(caller: str) -> Any:
    """`matplotlib.pyplot`, or an error that names what needs it."""
    try:
        return import_module("matplotlib.pyplot")
    except ImportError as error:
        raise ImportError(f"{caller} needs matplotlib: pip install 'ardist[examples]'") from error


def expanded(p: Distribution, batch_shape: Sequence[int], instance: Any, **changes: Any) -> Any:
    """A copy of a distribution with a larger batch_shape and changed attributes.

    Args:
        p: the distribution.
        batch_shape: the batch_shape of the copy; a `ValueError` if p cannot be expanded to it.
        instance: the object that becomes the copy; a new one if None.
        changes: attributes of the copy.
    """
    old, wanted = p.batch_shape, as_shape(batch_shape, "batch_shape")
    spare = len(wanted) - len(old)
    pairs = zip(old, wanted[max(spare, 0) :], strict=False)
    if spare < 0 or any(one not in (1, size) for one, size in pairs):
        raise ValueError(f"batch_shape: {tuple(old)} cannot be expanded to {tuple(wanted)}")
    new = object.__new__(type(p)) if instance is None else instance
    new.__dict__.update({**p.__dict__, **changes, "_batch_shape": wanted})
    return new


def over_batch(states: Tensor, batch_shape: torch.Size, expand: bool) -> Tensor:
    """States (n, *event_shape) as `enumerate_support` returns them.

    Returns:
        (n, *batch_shape, *event_shape), or with ones for batch_shape if not `expand`.
    """
    event_shape = states.shape[1:]
    states = states.reshape(states.shape[0], *(1,) * len(batch_shape), *event_shape)
    return states.expand(-1, *batch_shape, *event_shape) if expand else states


def lead_of(x: Tensor, event_shape: Sequence[int]) -> torch.Size:
    """The shape `lead` of a tensor (*lead, *event_shape)."""
    return x.shape[: x.dim() - len(event_shape)]


def expand_to_batch(x: Tensor, batch_shape: torch.Size) -> Tensor:
    """A result whose shape broadcasts with the batch, expanded to the common shape."""
    return x.expand(torch.broadcast_shapes(x.shape, batch_shape))


def gather_last(x: Tensor, index: Tensor) -> Tensor:
    """The entries of x (..., n) at indices (...), which broadcast: (...)."""
    shape = torch.broadcast_shapes(x.shape[:-1], index.shape)
    return x.expand(*shape, -1).gather(-1, index.expand(shape).unsqueeze(-1)).squeeze(-1)


def check_tensor(value: object, name: str) -> None:
    """Raises a `ValueError` that names the value if it is not a dense tensor."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name}: expected a tensor, got {type(value).__name__}")
    if value.layout != torch.strided:
        raise ValueError(
            f"{name}: expected a dense tensor, got {value.layout}; {name}.to_dense() converts it"
        )


def check_data(value: object, name: str) -> None:
    """Raises a `ValueError` that names the value if it is not a dense tensor of real numbers."""
    check_tensor(value, name)
    if isinstance(value, Tensor) and value.device.type == "meta":
        raise ValueError(f"{name}: expected a tensor with data, got {described(value)}")
    if isinstance(value, Tensor) and value.is_complex():
        raise ValueError(f"{name}: expected real numbers, got {described(value)}")


def check_kind(tensor: Tensor, name: str, reference: Tensor, exact: bool) -> None:
    """Checks that dtype and device are the network's. Integers may be floats if not `exact`."""
    if tensor.device != reference.device:
        raise ValueError(
            f"{name}: expected a tensor on {reference.device}, as the network, got {tensor.device}"
        )
    floats = tensor.is_floating_point() or tensor.is_complex()
    if tensor.dtype != reference.dtype and (exact or floats):
        raise ValueError(
            f"{name}: expected dtype {reference.dtype}, as the network, got {tensor.dtype}; "
            f"{name}.to({reference.dtype}) converts it"
        )


def leading(shape: torch.Size, event: torch.Size, batch: torch.Size, name: str) -> torch.Size:
    """The shape `lead` of a shape (*lead, *event), which broadcasts with `batch`.

    Any other shape raises a `ValueError` that names it.
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
    """A shape as text, without the parentheses."""
    return ", ".join(map(str, shape))


def shortened(values: Sequence[object]) -> str:
    """The first values of a sequence, for error messages."""
    shown = ", ".join(map(str, values[:8]))
    return f"{shown}, ..." if len(values) > 8 else shown
