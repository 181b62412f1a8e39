"""The batches of a training run: rows to train and to validate on, shares of processes, orders."""

import inspect
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
)
from torch.utils.data.distributed import DistributedSampler

from ardist import shapes
from ardist.distribution import AutoregressiveDistribution
from ardist.likelihood import LogLikelihood
from ardist.networks.base import ConditionalNetwork
from ardist.ordering import Ordering
from ardist.shapes import described
from ardist.training.processes import gathered, place

_CHECKED_ROWS = 32  # in the checksum of a dataset


def as_dataset(model: nn.Module, name: str, x: Any, context: Any = None) -> Any:
    """Wraps tensors in a dataset, and returns a Dataset or DataLoader unchanged."""
    if isinstance(x, Dataset | DataLoader):
        if context is not None:
            raise ValueError(
                f"context: expected none next to a {type(x).__name__}, whose items are "
                f"(x, context), got {described(context)}"
            )
        is_stream = isinstance(x, IterableDataset) or not hasattr(x, "__len__")
        if is_stream and not isinstance(x, DataLoader):
            raise ValueError(
                f"{name}: expected a Dataset with a length and items by index, got "
                f"{type(x).__name__}; a DataLoader of it makes batches of a stream"
            )
        return x
    if not isinstance(x, Tensor):
        raise ValueError(
            f"{name}: expected a tensor, a Dataset or a DataLoader, got {type(x).__name__}; "
            f"torch.as_tensor({name}) converts numbers"
        )
    _check_rows(x, name)
    if context is not None:
        _check_rows(context, "context")
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


def _check_rows(rows: Any, name: str) -> None:
    shapes.check_data(rows, name)
    if not rows.is_leaf:
        raise ValueError(
            f"{name}: expected data, got a result with a graph, of which fit would need a new one "
            f"in each step; {name}.detach() has none"
        )


def split(data: Any, options: Any, model: nn.Module) -> tuple[Any, Any]:
    """The rows to train on, and the rows to validate on or None."""
    valid = options.valid
    if isinstance(valid, Tensor) and isinstance(data, TensorDataset) and len(data.tensors) == 2:
        raise ValueError(
            f"valid: expected (x, context), as the rows to train on, got {described(valid)}"
        )
    if isinstance(valid, Tensor | Dataset | DataLoader):
        return data, as_dataset(model, "valid", valid)
    if isinstance(valid, tuple | list) and len(valid) == 2:
        return data, as_dataset(model, "valid", *valid)
    if valid is None or not shapes.as_real(
        valid, "valid", "a share in [0, 1), a set or (x, context)", lambda x: 0 <= x < 1
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
    generator = torch.Generator().manual_seed(options.seed)
    order = torch.randperm(len(data), generator=generator, device="cpu")
    return Subset(data, order[count:].tolist()), Subset(data, order[:count].tolist())


def checksum(data: Any, name: str) -> str:
    """A short text that identifies data, from a few rows that are spread over it.

    It leaves out rows that a dataset makes at random, and all rows of a DataLoader.
    """
    if isinstance(data, DataLoader):
        return "a DataLoader"
    count = len(data)
    places = range(0, count, -(-count // _CHECKED_ROWS) or 1)
    first, second = (_checksum([data[place] for place in places], name) for _ in range(2))
    return f"{count} rows" + (f" with checksum {first:08x}" if first == second else "")


def _checksum(items: list[Any], name: str) -> int:
    result = 0
    for tensor in tensors_of(default_collate(items), name):
        raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        result = zlib.crc32(raw.numpy().tobytes(), result)
    return result


def make_loader(data: Any, options: Any, name: str) -> DataLoader[Any]:
    """The batches of this process, in an order that depends on the seed and the epoch alone."""
    rank, world = place()
    if isinstance(data, DataLoader):
        sampler = _sampler(data)
        if world > 1 and isinstance(sampler, RandomSampler | SequentialSampler):
            raise ValueError(
                f"{name}: expected a DataLoader with a DistributedSampler, since each of {world} "
                f"processes has a share of the rows, got one with a {type(sampler).__name__}"
            )
        return data
    if options.batch_size % world:
        raise ValueError(
            f"batch_size: expected a multiple of {world} processes, got {options.batch_size}"
        )
    sampler = DistributedSampler(data, world, rank, shuffle=name == "x", seed=options.seed)
    size = options.batch_size // world
    whole = data.dataset if type(data) is Subset else data
    if type(whole) is TensorDataset:  # takes a batch at once; other datasets may change each item
        return DataLoader(data, None, sampler=BatchSampler(sampler, size, drop_last=False))
    return DataLoader(data, size, sampler=sampler)


def tensors_of(batch: Any, name: str) -> list[Tensor]:
    """The tensors of a batch, with which the network is called: (x,) or (x, context)."""
    tensors = list(batch) if isinstance(batch, list | tuple) else [batch]
    if not tensors or not all(isinstance(each, Tensor) for each in tensors):
        raise ValueError(
            f"{name}: expected batches of a tensor or of tensors, got {described(batch)}"
        )
    return tensors


def explain(
    model: nn.Module,
    name: str,
    tensors: list[Tensor],
    kwargs: dict[str, Any],
    error: Exception,
) -> None:
    """Raises an error that explains why a model failed on a batch of the argument `name`."""
    if not isinstance(model, LogLikelihood):
        signature = inspect.signature(model.forward)
        try:
            signature.bind(*tensors, **kwargs)
        except TypeError:
            more = "".join(f" and {key}=" for key in kwargs)
            raise ValueError(
                f"network: expected a forward that takes the tensors of a batch, {len(tensors)}"
                f"{more}, got {type(model).__name__}.forward{signature}"
            ) from error
        return
    x, *context = tensors
    p = AutoregressiveDistribution(model.network, *context, nan_policy=model.nan_policy)
    p.check_value(x, name)
    kept = ~x.isnan()
    if model.nan_policy == "raise" or kept.all():
        p.checked(x, name)
        return
    p.checked(torch.where(kept, x, p.bound.placeholder), name, mask=kept)
    network = p.bound.unwrapped
    if not network.has_row_orders and not network.has_masks:
        raise ValueError(
            f'nan_policy: expected "raise", or blocks without NaN that come first in the order of '
            f"the {type(network).__name__}, got {model.nan_policy!r} with NaN before other blocks; "
            f"networks.Masked follows any order"
        ) from error


def check_numbers(model: nn.Module, name: str, loader: Any) -> None:
    """Raises if rows contain infinity, NaN that is not a missing value, or only missing values."""
    may_miss = isinstance(model, LogLikelihood) and model.nan_policy == "marginalize"
    wrong = missing = count = 0
    for batch in loader:
        x = tensors_of(batch, name)[0]
        wrong += int((x.isinf() if may_miss else ~x.isfinite()).sum())
        missing, count = missing + int(x.isnan().sum()), count + x.numel()
    wrong, missing, count = map(sum, zip(*gathered((wrong, missing, count)), strict=True))
    if wrong:
        raise ValueError(
            f"{name}: expected finite numbers, got NaN or infinity in {wrong} of {count}"
        )
    if missing == count:
        raise ValueError(f"{name}: expected a number at least, got NaN in all {count}")


def _sampler(loader: Any) -> Any:
    """The sampler that chooses the rows of a loader, one by one."""
    batches = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    return getattr(batches, "sampler", batches)


def sampler_of(loader: Any) -> Any:
    sampler = _sampler(loader)
    return sampler if isinstance(sampler, DistributedSampler) else None


def order_of(options: Any, model: nn.Module) -> Callable[[int], Ordering | Tensor] | None:
    """A function that draws the order of a batch, or of its rows, from the number of rows."""
    kinds = options.orderings
    if kinds is None:
        return None
    parts = options.network.modules()
    net = next((part for part in parts if isinstance(part, ConditionalNetwork)), None)
    if shapes.is_sequence(kinds) and kinds and all(isinstance(each, Ordering) for each in kinds):
        if isinstance(model, LogLikelihood):
            _check_orders(net, kinds, kinds)
        return lambda rows: kinds[int(torch.randint(len(kinds), ()))]
    if not isinstance(kinds, str) or kinds not in ("row", "batch"):
        raise ValueError(f'orderings: expected "row", "batch" or Orderings, got {described(kinds)}')
    if net is None:
        raise ValueError(
            f"orderings: expected None, since no conditional network is inside "
            f"{type(options.network).__name__}, got {kinds!r}"
        )
    if isinstance(model, LogLikelihood):
        _check_orders(net, kinds, [Ordering.random(0)])
    fac = net.factorization

    def draw(rows: int) -> Tensor:
        ranks = torch.rand(rows if kinds == "row" else 1, fac.num_blocks).argsort(-1)
        is_in_order = torch.rand(ranks.shape[0], 1) < options.in_order
        ranks = torch.where(is_in_order, fac.ranks.flatten().to(ranks.device), ranks)
        ranks = ranks.reshape(-1, *fac.grid_shape)
        return ranks if kinds == "row" else ranks[0]

    return draw


def _check_orders(network: Any, kinds: Any, orders: Sequence[Ordering]) -> None:
    """Raises if a network does not support the orders, or needs one order for all rows."""
    fac, name = network.factorization, type(network).__name__
    reasons = [network.unsupported_reason(fac.with_ordering(order)) for order in orders]
    if kinds == "row" and not network.has_row_orders:
        reasons.append(f"{name} has one order for all rows")
    if reason := next(filter(None, reasons), None):
        raise ValueError(
            f"orderings: expected None, since {reason}, got {kinds!r}; networks.Masked and "
            f"Transformer follow any order"
        )
