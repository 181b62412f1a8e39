"""Buffers that the arguments of a network determine, and the network's dtype and device."""

import torch
from torch import Tensor, nn


def register_constant(module: nn.Module, name: str, value: Tensor | None) -> None:
    """Registers a buffer that the arguments of a network determine, such as a mask.

    The buffer is not part of a state dict. `load_state_dict` of the network writes its values
    again, since `to_empty` and the meta device lose them.
    """
    if value is not None:
        vars(module).setdefault("_constants", {})[name] = value
        value = value.to(reference_of(module).device)
    module.register_buffer(name, value, persistent=False)


def constant_of(module: nn.Module, name: str) -> Tensor:
    """The value of a constant, even if its buffer has lost it."""
    value: Tensor = vars(module)["_constants"][name]
    return value


@torch.no_grad()
def fill_constants(network: nn.Module, _: object) -> None:
    """Writes the values of all constants, after `load_state_dict`."""
    reference = reference_of(network)
    for module in network.modules():
        for name, value in vars(module).get("_constants", {}).items():
            buffer: Tensor = getattr(module, name)
            if not buffer.is_meta:
                buffer.copy_(value)
                continue
            dtype = reference.dtype if value.is_floating_point() else value.dtype
            setattr(module, name, value.to(reference.device, dtype))


def reference_of(network: nn.Module) -> Tensor:
    """A tensor of the dtype and device in which the network computes."""
    return next(network.parameters(), torch.empty(0))
