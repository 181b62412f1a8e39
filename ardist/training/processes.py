"""Communication between the processes of a training run, if there are several."""

from typing import Any

from torch import Tensor, distributed


def place() -> tuple[int, int]:
    """The rank of this process, and the number of processes."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def gathered(value: Any) -> list[Any]:
    """The values of all processes."""
    values = [value] * place()[1]
    if len(values) > 1:
        distributed.all_gather_object(values, value)
    return values


def mean(total: Tensor, rows: int, name: str) -> float:
    """The mean over the rows of an argument in all processes."""
    totals, counts = zip(*gathered((total.item(), rows)), strict=True)
    if not any(counts):
        raise ValueError(f"{name}: expected a batch at least, got none")
    return sum(totals) / sum(counts)
