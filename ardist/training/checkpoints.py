"""Checkpoints of a training run, which any number of processes can resume."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ardist.training.processes import place


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes a state with full tensors. All processes call it. The file is replaced at once."""
    state = _whole(state)
    if place()[0] == 0:
        new = path.with_name(f"{path.name}.new")
        torch.save(state, new)
        new.replace(path)


def load_checkpoint(
    path: Path, settings: dict[str, Any], model: nn.Module, optimizer: Optimizer
) -> dict[str, Any]:
    """Reads a state, and shards its tensors as the model and the optimizer are sharded."""
    own = model.state_dict()
    params = [each for group in optimizer.param_groups for each in group["params"]]
    device = next(iter(own.values())).device
    saved = _read(path, device)
    found = saved["settings"]
    if differing := [name for name in settings if found.get(name) != settings[name]]:
        expected, got = ({name: each.get(name) for name in differing} for each in (settings, found))
        raise ValueError(
            f"checkpoint: expected one of a run with {expected}, got {got}; resume=False starts "
            f"again"
        )
    trained = [each["params"] for each in optimizer.state_dict()["param_groups"]]
    is_own = trained == [each["params"] for each in saved["optimizer"]["param_groups"]]
    if not is_own or any(_shapes(saved[part]) != _shapes(own) for part in ("model", "best")):
        raise ValueError(
            f"checkpoint: expected one of this network, got {path} with weights of other names or "
            f"shapes, or with others that are trained; resume=False starts again"
        )
    for part in ("model", "best"):
        saved[part] = {name: _sharded(value, own[name]) for name, value in saved[part].items()}
    for index, state in saved["optimizer"]["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == params[index].shape:
                state[name] = _sharded(value, params[index])
    return saved


def _read(path: Path, device: torch.device) -> dict[str, Any]:
    saved, cause = None, None
    try:
        saved = torch.load(path, map_location=device, weights_only=True)
    except (UnpicklingError, RuntimeError, LookupError, EOFError, OSError) as error:
        cause = error
    if not isinstance(saved, dict) or "settings" not in saved:
        raise ValueError(
            f"checkpoint: expected a file that fit has written, got {path}; resume=False replaces "
            f"it"
        ) from cause
    return saved


def _shapes(weights: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in weights.items()}


def _whole(value: Any) -> Any:
    """The value, with full tensors in place of FSDP2 shards."""
    if isinstance(value, dict):
        return {key: _whole(each) for key, each in value.items()}
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def _sharded(value: Tensor, own: Any) -> Tensor:
    """The tensor, sharded as `own` is, if `own` is sharded."""
    if not hasattr(own, "full_tensor"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, own.device_mesh, own.placements)
