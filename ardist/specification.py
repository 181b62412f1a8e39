"""Specifications, which convert objects to JSON and back, without code in the JSON.

An object is written as the name of its class and the arguments of its constructor, and rebuilt by
calling that class. A specification can name only classes and functions of ardist, of the tables
below and of the caller.
"""

import inspect
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, NoReturn

import pyro.distributions as pyro_distributions
import torch
import torch.nn.functional as F
from pyro.distributions import constraints as pyro_constraints
from pyro.distributions import transforms as pyro_transforms
from torch import Tensor, nn
from torch.distributions import Distribution, Transform, constraints, transforms
from torch.distributions.transforms import _InverseTransform

from ardist.shapes import described, is_sequence

MAX_DEPTH = 64  # of values inside values
MAX_ELEMENTS = 2**18  # of an event
MAX_SIZE = 2**24  # of an integer that a network, a family or a rule takes

_FUNCTIONS = "abs cos erf exp log1p relu selu sigmoid sin square tanh"
_ACTIVATIONS = (
    "celu elu gelu glu hardshrink hardsigmoid hardswish hardtanh leaky_relu logsigmoid mish relu "
    "relu6 selu sigmoid silu softplus softshrink softsign tanh tanhshrink threshold"
)
_SHARED = (nn.Module, Tensor, Transform)  # objects that two places may share

_known: dict[str, Any] = {}  # all that a specification may name without the caller's classes
_names: dict[int, str] = {}  # the first name of each, by identity


def register(prefix: str, values: Mapping[str, Any]) -> None:
    """Lets specifications name values, as `prefix.name`."""
    for name, value in values.items():
        _known[f"{prefix}.{name}"] = value
        _names.setdefault(id(value), f"{prefix}.{name}")


def _is_part(value: Any) -> bool:
    """Whether a value is a class of distributions, transforms or constraints, or a constraint."""
    if isinstance(value, type):
        parts = (Distribution, Transform, constraints.Constraint)
        return issubclass(value, parts) and not issubclass(value, nn.Module)
    return isinstance(value, constraints.Constraint)


for _prefix, _module, _listed in (
    ("torch", torch, _FUNCTIONS.split()),
    ("torch.nn.functional", F, _ACTIVATIONS.split()),
    ("torch.nn", nn, nn.modules.activation.__all__),
):
    register(_prefix, {name: getattr(_module, name) for name in _listed})
for _prefix, _module in (
    ("torch.distributions", torch.distributions),
    ("torch.transforms", transforms),
    ("torch.constraints", constraints),
    ("pyro.distributions", pyro_distributions),
    ("pyro.transforms", pyro_transforms),
    ("pyro.constraints", pyro_constraints),
):
    _parts = {name: getattr(_module, name) for name in _module.__all__}
    register(_prefix, {name: value for name, value in _parts.items() if _is_part(value)})


class Specified:
    """A value or network that a specification describes, by the arguments of its constructor.

    Each argument is an attribute of the same name, unless a class overrides `_arguments`.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        root, part, *_ = [*cls.__module__.split("."), ""]
        if root == "ardist":
            prefix = part if part in ("families", "networks", "rules") else root
            register(prefix, {cls.__name__: cls})

    @property
    def _maker(self) -> Callable[..., Any]:
        """The callable that makes the object: its class, or a registered function."""
        return _class_of(self)

    @property
    def _arguments(self) -> Mapping[str, Any]:
        """The arguments of `_maker`, by name."""
        return _attributes(self, self._maker)

    def to_spec(self) -> dict[str, Any]:
        """The specification: the class and the arguments of its constructor, as JSON values.

        `ardist.save` writes it into a file. It does not hold the weights of a network.

        Raises:
            ValueError: if an argument cannot be described, such as a lambda or a module of
                another library.

        >>> import ardist as ad
        >>> ad.Ordering.random(3).to_spec()
        {'class': 'Ordering.random', 'args': {'seed': 3}}
        """
        spec: dict[str, Any] = Writer().write(self, type(self).__name__)
        return spec


def _class_of(value: Any) -> type:
    """The class of a value, skipping subclasses that torch and Pyro make at run time."""
    for kind in type(value).__mro__:
        if id(kind) in _names or kind.__module__.partition(".")[0] not in ("torch", "pyro"):
            return kind
    return object


def _attributes(value: Any, maker: Callable[..., Any]) -> dict[str, Any]:
    """The arguments of a constructor, from the attributes of the same names."""
    found, is_module = {}, _names.get(id(maker), "").startswith("torch.nn.")
    for name, parameter in inspect.signature(maker).parameters.items():
        held = [attribute for attribute in (name, f"_{name}") if hasattr(value, attribute)]
        if not held and is_module and parameter.default in (None, parameter.empty):
            continue  # a device or dtype, an old name of another argument, or *args that are empty
        if not held:
            raise ValueError(
                f"to_spec: expected {type(value).__name__} to keep the argument {name!r} of its "
                f"constructor as an attribute, got none of that name; a frozen dataclass keeps "
                f"them, and a network of your own can make such a module in its constructor"
            )
        kept = getattr(value, held[0])
        found[name] = dict(kept) if parameter.kind is parameter.VAR_KEYWORD else kept
    return found


class Writer:
    """Writes objects as JSON values, and notes which classes of the caller they need."""

    def __init__(self) -> None:
        self.classes: dict[str, Any] = {}
        self._shared: dict[int, tuple[int, Any]] = {}  # holds objects, so that ids stay unique

    def write(self, value: Any, where: str) -> Any:
        """A value as JSON; `where` says in errors which one it is."""
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, Integral):
            return int(value)
        if isinstance(value, Real):
            number = float(value)
            return number if math.isfinite(number) else {"float": str(number)}
        if is_sequence(value):
            return [self.write(part, f"{where}[{i}]") for i, part in enumerate(value)]
        if isinstance(value, set | frozenset):
            return {"set": [self.write(part, where) for part in sorted(value, key=repr)]}
        if isinstance(value, Mapping):
            parts = value.items()
            return {"dict": [[key, self.write(part, f"{where}[{key!r}]")] for key, part in parts]}
        if isinstance(value, type) or inspect.isroutine(value) or id(value) in _names:
            return {"name": self._name(value, where)}
        if id(value) in self._shared:
            return {"same": self._shared[id(value)][0]}
        if isinstance(value, Tensor):
            written = self._tensor(value, where)
        elif isinstance(value, _InverseTransform):
            written = {"inverse": self.write(value.inv, where)}
        else:
            written = self._instance(value, where)
        if isinstance(value, _SHARED):
            self._shared[id(value)] = len(self._shared), value
        return written

    def _name(self, value: Any, where: str) -> str:
        name: str = _names.get(id(value), "") or getattr(value, "__name__", "")
        if name in _known:
            return name
        if not name.isidentifier() or self.classes.setdefault(name, value) is not value:
            what = getattr(value, "__qualname__", described(value))
            self._refuse(where, what, "functions and classes need a name of their own")
        return name

    def _tensor(self, value: Tensor, where: str) -> dict[str, Any]:
        if value.requires_grad:
            cure = "a module of your own can make it in its constructor"
            self._refuse(where, "a learned tensor", cure)
        return {
            "tensor": self.write(value.flatten().tolist(), where),
            "shape": list(value.shape),
            "dtype": str(value.dtype).removeprefix("torch."),
        }

    def _instance(self, value: Any, where: str) -> dict[str, Any]:
        is_specified = isinstance(value, Specified)
        maker = value._maker if is_specified else _class_of(value)
        if maker.__module__ in ("builtins", "functools", "numpy"):
            cure = "a network of your own can make it in its constructor"
            self._refuse(where, described(value), cure)
        name = self._name(maker, where)
        given = value._arguments if is_specified else _attributes(value, maker)
        args = {key: self.write(part, f"{where}.{key}") for key, part in given.items()}
        return {"class": name, "args": args}

    def _refuse(self, where: str, what: str, cure: str) -> None:
        raise ValueError(
            f"to_spec: expected a value that JSON can hold as {where}, got {what}; {cure}"
        )


class Reader:
    """Makes objects from their specifications. Anything else raises a `ValueError`.

    Args:
        subject: the argument that errors name.
        classes: classes and functions of the caller.
    """

    def __init__(self, subject: str, classes: Iterable[Any] = ()) -> None:
        self._subject = subject
        self._known = {**_known, **{kind.__name__: kind for kind in classes}}
        self._shared: list[Any] = []

    def read(self, node: Any, depth: int = 0) -> Any:
        """The object that a specification describes."""
        if depth > MAX_DEPTH:
            self._refuse(f"a specification of at most {MAX_DEPTH} levels", "more")
        if isinstance(node, list):
            return tuple(self.read(part, depth + 1) for part in node)
        if isinstance(node, int) and abs(node) >= 2**63:
            self._refuse("integers of 64 bits", described(node))
        if not isinstance(node, dict):
            return node
        keys = set(node)
        if keys == {"name"}:
            return self._find(node["name"])
        if keys == {"class", "args"} and isinstance(node["args"], dict):
            maker = self._find(node["class"])
            args = {key: self.read(part, depth + 1) for key, part in node["args"].items()}
            return self._make(node["class"], _call, maker, args)
        if keys == {"same"}:
            return self._make("same", self._shared.__getitem__, self.read(node["same"], depth + 1))
        names = next((names for names in _FORMS if set(names) == keys), None)
        if names is None:
            self._refuse("a specification", described(node))
        parts = [self.read(node[name], depth + 1) for name in names]
        return self._make(names[0], _FORMS[names], *parts)

    def _find(self, name: Any) -> Any:
        if not isinstance(name, str) or name not in self._known:
            self._refuse("names of ardist, torch, Pyro and classes=", described(name))
        return self._known[name]

    def _make(self, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            made = function(*arguments)
        except Exception as error:  # whatever a constructor raises
            raise ValueError(f"{self._subject}: {what} cannot be made: {error}") from error
        if isinstance(made, _SHARED) and what != "same":
            self._shared.append(made)
        return made

    def _refuse(self, expected: str, got: str) -> NoReturn:
        raise ValueError(f"{self._subject}: expected {expected}, got {got}")


def _call(maker: Callable[..., Any], args: dict[str, Any]) -> Any:
    """Calls a constructor with its arguments, after a check of their sizes."""
    signature = inspect.signature(maker)
    if unknown := sorted(set(args) - set(signature.parameters)):
        raise ValueError(f"expected arguments {list(signature.parameters)}, got {unknown}")
    flat = {name: value if isinstance(value, tuple) else (value,) for name, value in args.items()}
    sizes = {name: [n for n in values if isinstance(n, int)] for name, values in flat.items()}
    if _names.get(id(maker), "").startswith(("families.", "networks.", "rules.")):
        for name, numbers in sizes.items():
            if max(map(abs, numbers), default=0) > MAX_SIZE:
                raise ValueError(f"{name}: expected at most {MAX_SIZE}, got {max(numbers)}")
    if math.prod(sizes.get("event_shape", ())) > MAX_ELEMENTS:
        raise ValueError(
            f"event_shape: expected at most {MAX_ELEMENTS} elements, got {sizes['event_shape']}"
        )
    bound = inspect.BoundArguments(signature, OrderedDict(args))
    return maker(*bound.args, **bound.kwargs)


def _tensor(values: Sequence[Any], shape: Sequence[int], dtype: str) -> Tensor:
    return torch.tensor(values, dtype=DTYPES[dtype]).reshape(shape)


DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in vars(torch).values()
    if isinstance(dtype, torch.dtype)
}

# The keys of each kind of plain value, and the function that makes the value.
_FORMS: dict[tuple[str, ...], Callable[..., Any]] = {
    ("float",): float,
    ("set",): frozenset,
    ("dict",): dict,
    ("inverse",): lambda transform: transform.inv,
    ("tensor", "shape", "dtype"): _tensor,
}
