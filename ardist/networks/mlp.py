"""The multilayer perceptron that networks use if the user gives no module."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class Constant(nn.Module):
    """Learned outputs (size,), the same for each row of any input."""

    def __init__(self, size: int) -> None:
        super().__init__()
        # Not zero, since the components of a mixture have to differ.
        self.bias = nn.Parameter(torch.empty(size).uniform_(-1, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.bias.expand(inputs.shape[0], -1)

    def extra_repr(self) -> str:
        return f"{self.bias.shape[0]}"


def mlp(widths: Sequence[int]) -> nn.Module:
    """Linear maps with ReLU between them, from the first width to the last.

    If the first width is 0, it is a `Constant`, since torch's `Linear` warns about 0 inputs.
    """
    if widths[0] == 0:
        return Constant(widths[-1])
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
