"""The hyperbolic sine as a transform: linear around zero, exponential away from it."""

import math

import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Transform, constraints

from ardist.specification import register


class SinhTransform(Transform):
    """y = sinh(x). If x has light tails, y has heavy tails."""

    domain = codomain = constraints.real
    bijective = True
    sign = +1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SinhTransform)

    __hash__ = Transform.__hash__

    def _call(self, x: Tensor) -> Tensor:
        return x.sinh()

    def _inverse(self, y: Tensor) -> Tensor:
        return y.asinh()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        size = x.abs()
        return size + F.softplus(-2 * size) - math.log(2)  # log cosh


register("ardist.transforms", {"SinhTransform": SinhTransform})
