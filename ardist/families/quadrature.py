"""Gauss's rule, for integrals of smooth functions."""

import math

import torch
from torch import Tensor


def _gauss_legendre(count: int) -> tuple[list[float], list[float]]:
    """Nodes and weights of the quadrature over (0, 1), as floats (Press et al. 2007, 4.6)."""
    nodes, weights = [], []
    for number in range(count):
        x, slope = math.cos(math.pi * (number + 0.75) / (count + 0.5)), 1.0
        for _ in range(8):  # steps of Newton's method for the root of a Legendre polynomial
            last, this = 0.0, 1.0
            for k in range(count):
                last, this = this, ((2 * k + 1) * x * this - k * last) / (k + 1)
            slope = count * (x * this - last) / (x * x - 1)
            x -= this / slope
        nodes.append((x + 1) / 2)
        weights.append(1 / ((1 - x * x) * slope * slope))
    return nodes, weights


# Not tensors: they would keep the mode (inference, tracing) that they were made in.
_RULES = {count: _gauss_legendre(count) for count in (24, 32)}


def quadrature(count: int, reference: Tensor) -> tuple[Tensor, Tensor]:
    """The nodes and weights of Gauss's rule over (0, 1), for the dtype and device of a tensor."""
    nodes, weights = (
        torch.tensor(numbers, dtype=reference.dtype, device=reference.device)
        for numbers in _RULES[count]
    )
    return nodes, weights
