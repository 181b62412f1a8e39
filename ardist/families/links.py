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

    def inverse(self, number: Tensor) -> Tensor:
        """The raw parameter that gives a number, which is first moved above the minimum."""
        above = (number - self.minimum).clamp(min=1e-3 * self.minimum)
        return above + torch.log2(-torch.expm1(-math.log(2) * above))


@dataclass(frozen=True)
class Bounded:
    """`limit * tanh(raw / limit)`: in (-limit, limit), and close to the identity near zero."""

    limit: float

    def __call__(self, raw: Tensor) -> Tensor:
        return self.limit * torch.tanh(raw / self.limit)

    def inverse(self, number: Tensor) -> Tensor:
        """The raw parameter that gives a number, which is first moved inside the limits."""
        return self.limit * torch.atanh((number / self.limit).clamp(-0.99, 0.99))
