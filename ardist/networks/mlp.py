"""The plain network that stands where a user gives no module."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class Constant(nn.Module):
    """Learned outputs (size,), the same for each row of whatever is given."""

    def __init__(self, size: int) -> None:
        super().__init__()
        # Not zero: the components of a mixture have to differ.
        self.value = nn.Parameter(torch.empty(size).uniform_(-1, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.value.expand(inputs.shape[0], -1)

    def extra_repr(self) -> str:
        return f"{self.value.shape[0]}"


def mlp(widths: Sequence[int]) -> nn.Module:
    """Linear maps with ReLU between them, from the first width to the last.

    Without inputs it is a constant, which torch's Linear would warn of.
    """
    if widths[0] == 0:
        return Constant(widths[-1])
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
