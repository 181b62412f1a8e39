"""The batches of a training run: rows to train and to validate on, shares of processes, orders."""

import zlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    Subset,
    TensorDataset,
    default_collate,
)
from torch.utils.data.distributed import DistributedSampler

from ardist import shapes
from ardist.distribution import AutoregressiveDistribution
from ardist.networks.base import ConditionalNetwork, LogLikelihood
from ardist.ordering import Ordering
from ardist.shapes import described
from ardist.training.processes import place

_CHECKED_ROWS = 32  # from which it is known whether the data is the same


def as_dataset(model: nn.Module, name: str, x: Any, context: Any = None) -> Any:
    """A Dataset or DataLoader as it is, and tensors as a dataset."""
    if isinstance(x, Dataset | DataLoader):
        if context is not None:
            raise ValueError(
                f"context: expected none next to a {type(x).__name__}, whose items are "
                f"(x, context), got {described(context)}"
            )
        if not isinstance(x, DataLoader) and not hasattr(x, "__len__"):
            raise ValueError(
                f"{name}: expected a Dataset with a length, got {type(x).__name__}; a DataLoader "
                f"of it makes batches of a stream"
            )
        return x
    if not isinstance(x, Tensor):
        raise ValueError(
            f"{name}: expected a tensor, a Dataset or a DataLoader, got {type(x).__name__}; "
            f"torch.as_tensor({name}) converts numbers"
        )
    shapes.check_data(x, name)
    if context is not None:
        shapes.check_data(context, "context")
        if context.shape[:1] != x.shape[:1]:
            raise ValueError(
                f"context: expected one for each row of {name}, {tuple(x.shape)}, got "
                f"{tuple(context.shape)}"
            )
    if isinstance(model, LogLikelihood):
        p = AutoregressiveDistribution(model.network, context, nan_policy=model.nan_policy)
        p.check_value(x, name)
        if x.dim() != len(p.event_shape) + 1 or x.shape[0] == 0:
            event = shapes.spelled(p.event_shape)
            raise ValueError(f"{name}: expected (N, {event}), got {tuple(x.shape)}")
        if context is not None and len(p.batch_shape) > 1:
            features = shapes.spelled(p.bound.unwrapped.context_shape)
            raise ValueError(f"context: expected (N, {features}), got {tuple(context.shape)}")
    return TensorDataset(x) if context is None else TensorDataset(x, context)


def split(data: Any, options: Any, model: nn.Module) -> tuple[Any, Any]:
    """The rows to train on, and those to validate on or None."""
    valid = options.valid
    if isinstance(valid, Tensor | Dataset | DataLoader):
        return data, as_dataset(model, "valid", valid)
    if isinstance(valid, tuple) and len(valid) == 2:
        return data, as_dataset(model, "valid", *valid)
    if valid is None or not shapes.as_real(
        valid, "valid", "a share in [0, 1) or a set", lambda x: 0 <= x < 1
    ):
        return data, None
    if isinstance(data, DataLoader):
        raise ValueError(
            f"valid: expected rows to validate on, or None, since a DataLoader cannot be split, "
            f"got {valid}"
        )
    count = max(1, round(valid * len(data)))
    if count >= len(data):
        raise ValueError(
            f"valid: expected a share that leaves a row to train on, got {valid} of "
            f"{len(data)} rows"
        )
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(options.seed))
    return Subset(data, order[count:].tolist()), Subset(data, order[:count].tolist())


def checksum(data: Any) -> str:
    """A short text that differs for other data, from a few rows that are spread over it.

    It leaves out the rows of a dataset that makes them at random, and all of a DataLoader.
    """
    if isinstance(data, DataLoader):
        return "a DataLoader"
    count = len(data)
    places = range(0, count, -(-count // _CHECKED_ROWS) or 1)
    first, second = (_checksum([data[place] for place in places]) for _ in range(2))
    return f"{count} rows" + (f" with checksum {first:08x}" if first == second else "")


def _checksum(items: list[Any]) -> int:
    result = 0
    for tensor in tensors_of(default_collate(items)):
        raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        result = zlib.crc32(raw.numpy().tobytes(), result)
    return result


def make_loader(data: Any, options: Any, shuffle: bool) -> DataLoader[Any]:
    """The batches of this process, in an order that depends on the seed and the epoch alone."""
    if isinstance(data, DataLoader):
        return data
    rank, world = place()
    if options.batch_size % world:
        raise ValueError(
            f"batch_size: expected a multiple of {world} processes, got {options.batch_size}"
        )
    sampler: Any = DistributedSampler(data, world, rank, shuffle=shuffle, seed=options.seed)
    size = options.batch_size // world
    if isinstance(getattr(data, "dataset", data), TensorDataset):  # takes a batch at once
        return DataLoader(data, None, sampler=BatchSampler(sampler, size, drop_last=False))
    return DataLoader(data, size, sampler=sampler)


def tensors_of(batch: Any) -> list[Tensor]:
    """What the network is called with for a batch: (x,) or (x, context)."""
    tensors = list(batch) if isinstance(batch, list | tuple) else [batch]
    if not tensors or not all(isinstance(each, Tensor) for each in tensors):
        raise ValueError(f"x: expected batches of a tensor or of tensors, got {described(batch)}")
    return tensors


def sampler_of(loader: Any) -> Any:
    sampler = getattr(loader.sampler, "sampler", loader.sampler)
    return sampler if isinstance(sampler, DistributedSampler) else None


def order_of(options: Any) -> Callable[[int], Ordering | Tensor] | None:
    """A function that draws the order of a batch of so many rows."""
    kinds = options.orderings
    if kinds is None:
        return None
    if shapes.is_sequence(kinds) and kinds and all(isinstance(each, Ordering) for each in kinds):
        return lambda rows: kinds[int(torch.randint(len(kinds), ()))]
    if not isinstance(kinds, str) or kinds not in ("row", "batch"):
        raise ValueError(f'orderings: expected "row", "batch" or Orderings, got {described(kinds)}')
    parts = options.network.modules()
    net = next((part for part in parts if isinstance(part, ConditionalNetwork)), None)
    if net is None:
        raise ValueError(
            f"orderings: expected None, since no conditional network is inside "
            f"{type(options.network).__name__}, got {kinds!r}"
        )
    fac = net.factorization

    def draw(rows: int) -> Tensor:
        ranks = torch.rand(rows if kinds == "row" else 1, fac.num_blocks).argsort(-1)
        ranks[torch.rand(ranks.shape[0]) < options.in_order] = fac.ranks.flatten()
        ranks = ranks.reshape(-1, *fac.grid_shape)
        return ranks if kinds == "row" else ranks[0]

    return draw
