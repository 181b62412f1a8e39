"""Saves and loads networks: tensors in a .safetensors file, a specification in its metadata."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from torch.utils._pytree import tree_leaves, tree_map_only

import ardist
from ardist.bound_network import unwrap
from ardist.networks.base import ConditionalNetwork
from ardist.shapes import as_file, as_path, check_type, default_dtype, described, is_sequence
from ardist.specification import DTYPES, Reader, Writer

FORMAT = 1  # of the metadata

# Limits on the requests of a file. `ardist.specification` bounds the numbers of a specification.
MAX_HEADER = 2**24  # bytes
MAX_BYTES = 2**26, 16  # allocated by constructors: a constant, and a factor of the file's bytes
MAX_CALLS = 20_000, 200  # of torch in constructors: a constant, and a number per tensor and object


def save(
    network: nn.Module, path: str | os.PathLike[str], *, metadata: Mapping[str, str] | None = None
) -> None:
    """Saves the weights of a network and a specification to rebuild it, in one file.

    The file has the safetensors format. Its metadata hold the specification, `network.to_spec()`,
    as JSON: class names and constructor arguments, and no code. Attributes that were changed after
    construction are not saved.

    Args:
        network: a conditional network, or a wrapper around one, as `torch.compile` returns.
        path: the file, usually with the suffix `.safetensors`. An existing file is replaced.
        metadata: additional texts for the metadata, which `safetensors.safe_open` reads.

    Raises:
        ValueError: if the folder does not exist, if a constructor argument cannot be described,
            such as a lambda or a module of another library, or if the network has other tensors
            than its constructor makes.

    >>> import tempfile, torch, ardist as ad
    >>> path = f"{tempfile.mkdtemp()}/made.safetensors"
    >>> net = ad.networks.MADE(ad.Factorization(3, ad.families.Normal()), hidden_features=8)
    >>> ad.save(net, path)
    >>> x = torch.randn(5, 3)
    >>> torch.equal(ad.load(path).condition().log_prob(x), net.condition().log_prob(x))
    True
    """
    path = as_file(path, "path")
    texts = {} if metadata is None else metadata
    check_type(texts, Mapping, "metadata")
    if not all(isinstance(text, str) for pair in texts.items() for text in pair):
        raise ValueError(f"metadata: expected texts by name, got {described(metadata)}")
    inner = unwrap(network)
    inner = getattr(inner, "_orig_mod", inner)  # a compiled module forwards its attributes
    check_type(inner, ConditionalNetwork, "network")
    writer = Writer()
    spec = json.dumps(
        writer.write(inner, type(inner).__name__), ensure_ascii=False, separators=(",", ":")
    )
    texts = {
        **texts,
        "format": "pt",
        "ardist.format": str(FORMAT),
        "ardist.version": ardist.__version__,
        "ardist.dtype": str(inner._constructed[2]).removeprefix("torch."),
        "ardist.spec": spec,
    }
    whole = torch.contiguous_format  # as safetensors stores all tensors, also channels_last ones
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=whole)
        for name, tensor in _distinct(inner).items()
    }
    _make("network", texts, tensors, list(writer.classes.values()))
    texts.pop("ardist.sha256", None)  # the checksum of another file, if its metadata were given
    texts["ardist.sha256"] = _digest(texts, tensors)
    part = path.with_name(f"{path.name}.part")
    save_file(tensors, part, texts)
    if (size := _header_size(part)) > MAX_HEADER:
        part.unlink()
        raise ValueError(
            f"metadata: expected {MAX_HEADER / 2**20:.0f} MiB at most, with the specification, got "
            f"{size / 2**20:.1f}"
        )
    os.replace(part, path)


def load(
    path: str | os.PathLike[str],
    *,
    classes: Sequence[Any] = (),
    map_location: torch.device | str | None = None,
) -> ConditionalNetwork:
    """Loads a network that `save` wrote, in eval mode. It runs no code from the file.

    It calls the constructors of ardist's classes, of the transforms, constraints and distributions
    of torch and Pyro, and of the classes that you pass, with arguments from the file. A file cannot
    name anything else.

    Args:
        path: the file.
        classes: your own families, networks and functions that the network is made of.
        map_location: the device of the network, the CPU by default.

    Raises:
        ValueError: if the file is damaged, was written in a newer format, names an unknown class,
            or asks for more memory than a network with its tensors needs.

    >>> import tempfile, torch, ardist as ad
    >>> class Small(ad.networks.MADE):
    ...     def __init__(self, factorization):
    ...         super().__init__(factorization, hidden_features=8)
    >>> path = f"{tempfile.mkdtemp()}/small.safetensors"
    >>> ad.save(Small(ad.Factorization(3, ad.families.Normal())), path)
    >>> type(ad.load(path, classes=[Small])).__name__
    'Small'
    """
    return read(path, classes=classes, map_location=map_location)[0]


def read(
    path: str | os.PathLike[str],
    *,
    classes: Sequence[Any] = (),
    map_location: torch.device | str | None = None,
) -> tuple[ConditionalNetwork, dict[str, str]]:
    """Loads a network as `load` does, and also returns the metadata of the file."""
    if not is_sequence(classes) or not all(hasattr(kind, "__name__") for kind in classes):
        raise ValueError(f"classes: expected a sequence of classes, got {described(classes)}")
    if not isinstance(map_location, torch.device | str | None):
        raise ValueError(f"map_location: expected a device, got {described(map_location)}")
    path = as_path(path, "path")
    texts = _metadata(path)
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"path: {path.name} is damaged: {error}") from error
    network = _make("path", texts, tensors, classes)
    if texts.pop("ardist.sha256", "") != _digest(texts, tensors):
        raise ValueError(f"path: {path.name} is damaged: its checksum does not match its content")
    _fill(network, tensors)
    return network.eval().to("cpu" if map_location is None else map_location), texts


def _metadata(path: Path) -> dict[str, str]:
    """The metadata of a file in this format or an older one."""
    size = _header_size(path)
    is_whole = size <= min(MAX_HEADER, path.stat().st_size - 8)
    with path.open("rb") as file:
        header = _json(file.read(8 + size)[8:]) if is_whole else None
    texts = header.get("__metadata__") if isinstance(header, dict) else None
    texts = texts if isinstance(texts, dict) else {}
    if not str(texts.get("ardist.format")).isdecimal():
        raise ValueError(
            f"path: expected a file that ardist.save wrote, got {path.name}; torch.load reads "
            f"files of torch.save"
        )
    if int(texts["ardist.format"]) > FORMAT:
        raise ValueError(
            f"path: expected format {FORMAT}, got {texts['ardist.format']}, which ardist "
            f"{texts.get('ardist.version')} wrote; a newer ardist reads it"
        )
    return texts


def _header_size(path: Path) -> int:
    """The bytes of the metadata and of the table of tensors."""
    with path.open("rb") as file:
        return int.from_bytes(file.read(8), "little")


def _json(text: str | bytes) -> Any:
    """Strict JSON: finite numbers, and each key once."""
    try:
        return json.loads(
            text, object_pairs_hook=_unique, parse_float=_finite, parse_constant=_finite
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"path: expected JSON in the file, got {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a key twice among {sorted(found)}")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text}")
    return number


def _names(network: nn.Module) -> dict[str, str]:
    """For each name in a state dict, the first name of the same tensor."""
    state, first = network.state_dict(keep_vars=True), dict[int, str]()
    return {name: first.setdefault(id(tensor), name) for name, tensor in state.items()}


def _distinct(network: nn.Module) -> dict[str, Tensor]:
    """The tensors of a state dict, each under its first name."""
    state = network.state_dict(keep_vars=True)
    return {name: state[name] for name in dict.fromkeys(_names(network).values())}


def _digest(texts: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(texts, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content: Any = tensor.contiguous().flatten().view(torch.uint8).numpy()
        digest.update(content)
    return digest.hexdigest()


def _make(
    subject: str, texts: Mapping[str, str], tensors: Mapping[str, Tensor], classes: Sequence[Any]
) -> ConditionalNetwork:
    """The network of a specification, after a check that its tensors have the names, shapes and
    dtypes of `tensors`.
    """
    spec, dtype = texts.get("ardist.spec", ""), DTYPES.get(texts.get("ardist.dtype", ""))
    node = _json(spec)
    if dtype is None or not dtype.is_floating_point:
        raise ValueError(f"{subject}: expected a dtype of floats, got {texts.get('ardist.dtype')}")
    with _Budget(spec, tensors), default_dtype(dtype), torch.random.fork_rng(devices=[]):
        network = Reader(subject, classes).read(node)
    check_type(network, ConditionalNetwork, subject)
    made = _distinct(network)
    for name in sorted({*made, *tensors}):
        if name not in made or name not in tensors or _kind(made[name]) != _kind(tensors[name]):
            raise ValueError(
                f"{subject}: expected the tensors that the constructor of "
                f"{type(network).__name__} makes, got another {name!r}; changes after "
                f"construction, such as weight_norm, belong in the constructor"
            )
    return network


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), "float" if tensor.is_floating_point() else tensor.dtype


def _fill(network: ConditionalNetwork, tensors: Mapping[str, Tensor]) -> None:
    """Loads tensors into a network, in the tensors' own dtypes."""
    made = _distinct(network)
    floats = [tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()]
    if floats:
        network.to(floats[0])  # also the buffers that no state dict has
    for name, tensor in made.items():
        tensor.data = tensor.data.to(tensors[name].dtype)
    try:
        network.load_state_dict({name: tensors[first] for name, first in _names(network).items()})
    except Exception as error:  # raised by a network's own loading
        raise ValueError(f"path: the tensors do not fit the specification: {error}") from error


class _Budget(TorchFunctionMode):
    """Bounds the memory and the calls of torch that the constructors of a file may take.

    The bound of the memory holds for the sum of the tensors that `torch.empty` and similar
    functions make. It also holds for each result of another call; most of these are temporary.
    """

    def __init__(self, spec: str, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        size = sum(tensor.nbytes for tensor in tensors.values())
        self.bytes = MAX_BYTES[0] + MAX_BYTES[1] * size
        self.calls = MAX_CALLS[0] + MAX_CALLS[1] * (len(tensors) + spec.count('"class"'))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        size = _allocated(func, args, kwargs)
        self.calls -= 1
        self.bytes -= size if func in _device_constructors() else 0
        if self.calls < 0 or self.bytes < size:
            what = "calls of torch" if self.calls < 0 else "memory"
            raise ValueError(f"it takes more {what} than a network with these tensors needs")
        return func(*args, **kwargs)


def _allocated(func: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> int:
    """The bytes of the new tensors that a call returns, found on the meta device."""
    if func in (torch.tensor, torch.as_tensor):  # their results hold only the given numbers
        return 0
    leaves = tree_leaves((args, kwargs))
    factors = [part.numel() for part in leaves if isinstance(part, Tensor)]
    factors += [abs(part) for part in leaves if isinstance(part, int)]
    if func not in _device_constructors() and math.prod(max(1, n) for n in factors) < 2**16:
        return 0  # no other call returns more elements than that
    inputs = tree_map_only(Tensor, lambda tensor: tensor.detach().to("meta"), (args, kwargs))
    old = {_storage(tensor) for tensor in tree_leaves(inputs) if isinstance(tensor, Tensor)}
    try:
        with torch.device("meta"):
            made = func(*inputs[0], **{k: v for k, v in inputs[1].items() if k != "device"})
    except Exception:  # the call reads values, and has no more results than values
        return 0
    new = {_storage(part) for part in tree_leaves(made) if isinstance(part, Tensor)} - old
    return sum(size for _, size in new)


def _storage(tensor: Tensor) -> tuple[int, int]:
    """The identity of a storage, and its size in bytes."""
    storage = tensor.untyped_storage()
    return storage._cdata, storage.nbytes()
