"""Links: maps from unconstrained reals to a distribution's parameters, stable in float32."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Link = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Positive:
    """`minimum + log2(1 + 2 ** raw)`: about 1 at zero, and linear for large numbers."""

    minimum: float = 1e-6

    def __call__(self, raw: Tensor) -> Tensor:
        return F.softplus(raw, beta=math.log(2)) + self.minimum


@dataclass(frozen=True)
class Bounded:
    """`limit * tanh(raw / limit)`: in (-limit, limit), and close to the identity near zero."""

    limit: float

    def __call__(self, raw: Tensor) -> Tensor:
        return self.limit * torch.tanh(raw / self.limit)
