"""Calls of modules with replaced or gathered parameters, or with recomputation."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils.checkpoint import checkpoint

from ardist.modes import in_modes
from ardist.shapes import is_recorded, is_transformed

Result = TypeVar("Result")


_WEIGHT_HOOKS = (BasePruningMethod, SpectralNorm, WeightNorm)


class _Scope(nn.Module):
    """A module around another one, so that any call can run under `functional_call`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)


def call_with_params(
    module: nn.Module, tensors: Mapping[str, Tensor], function: Callable[..., Result], *args: Any
) -> Result:
    """Calls a function while tensors replace parameters and buffers of a module, by name."""
    named = {f"module.{name}": value for name, value in tensors.items()}
    return functional_call(_Scope(module), named, (function, *args))


def compute_weights(module: nn.Module) -> None:
    """Computes the weights that torch's hooks compute before a call of a module, as in pruning.

    Networks also read the weights of modules that they do not call.
    """
    for part in module.modules():
        if part._forward_pre_hooks:
            for hook in part._forward_pre_hooks.values():
                if isinstance(hook, _WEIGHT_HOOKS):
                    hook(part, ())


def recomputed(module: nn.Module, function: Callable[..., Result], *args: Any) -> Result:
    """Calls a function of a module without keeping its activations for the backward pass.

    The backward pass calls the function again, with the parameters, buffers and modes that the
    module has now. They may have changed by then, after `functional_call` or in evaluation mode.
    Without gradients, in a graph that is recorded, and under transforms of `torch.func`, which do
    not support recomputation, this is a plain call.
    """
    if not torch.is_grad_enabled() or is_recorded() or is_transformed():
        return function(*args)
    if torch.compiler.is_compiling() or is_sharded(module):  # hooks of FSDP set the parameters
        return checkpoint(function, *args, use_reentrant=False)
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    modes = [(part, part.training) for part in module.modules()]

    def again(*args: Any) -> Result:
        with in_modes(modes):
            return call_with_params(module, tensors, function, *args)

    return checkpoint(again, *args, use_reentrant=False)


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Gathers the whole weights of a module on each process, if FSDP2 has sharded it.

    All processes have to enter this context together.
    """
    if not is_sharded(module):
        yield
        return
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    parts = [part for part in module.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.unshard()
    try:
        if any(isinstance(parameter, DTensor) for parameter in module.parameters()):
            raise ValueError(
                f"network: expected fully_shard on the {type(module).__name__} itself, not on a "
                f"module around it, since a draw gathers its weights"
            )
        yield
    finally:
        for part in parts:
            part.reshard()


def is_sharded(module: nn.Module) -> bool:
    """Whether FSDP2 has sharded the module, a part of it, or a module around it."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    return any(isinstance(part, FSDPModule) for part in module.modules()) or any(
        isinstance(parameter, DTensor) for parameter in module.parameters()
    )
