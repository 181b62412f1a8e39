"""The training and evaluation modes of modules."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.dropout import _DropoutNd


@contextmanager
def in_modes(modes: list[tuple[nn.Module, bool]]) -> Iterator[None]:
    """Puts modules in the given modes, training or not, and restores their own modes afterwards."""
    changed = [(part, mode) for part, mode in modes if part.training != mode]
    for part, mode in changed:
        part.training = mode
    try:
        yield
    finally:
        for part, mode in changed:
            part.training = not mode


def is_noisy(module: nn.Module) -> bool:
    """Whether a module has dropout or batch norm, which training mode turns on."""
    # Recurrent and attention modules have the probability of their dropout under this name.
    rate = module.p if isinstance(module, _DropoutNd) else getattr(module, "dropout", 0)
    return isinstance(module, _BatchNorm) or (isinstance(rate, float | int) and rate > 0)


def follows_mode(module: nn.Module) -> bool:
    """Whether a module may compute different results in training and in evaluation mode."""
    is_known = type(module).__module__.startswith(("ardist.", "torch.nn.modules."))
    if not is_known or module._forward_pre_hooks or module._forward_hooks:  # as spectral_norm has
        return True
    return is_noisy(module) or isinstance(module, _NormBase | nn.RReLU)
