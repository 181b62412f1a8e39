"""The distribution object of a family for which torch has no class."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution, constraints

from ardist.families.base import Family
from ardist.shapes import over_batch


class Conditional(TorchDistribution):
    """A distribution that calls the methods of a family.

    Args:
        family: a family that defines `log_prob` and `sample`.
        params: (*batch_shape, num_params).
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, family: Family, params: Tensor) -> None:
        self._family, self._params = family, params
        self.has_rsample = family.has_rsample
        self.has_enumerate_support = family.enumerate_support() is not None
        super().__init__(params.shape[:-1], family.event_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return self._family.support

    def expand(
        self, batch_shape: Sequence[int], _instance: Distribution | None = None
    ) -> "Conditional":
        return Conditional(self._family, self._params.expand(*batch_shape, -1))

    def log_prob(self, value: Tensor) -> Tensor:
        return self._family.log_prob(self._params, value)

    def cdf(self, value: Tensor) -> Tensor:
        return self._family.cdf(self._params, value)

    def icdf(self, value: Tensor) -> Tensor:
        return self._family.icdf(self._params, value)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self._family.sample(self._drawn_from(sample_shape))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self._family.rsample(self._drawn_from(sample_shape))

    def _drawn_from(self, sample_shape: Sequence[int]) -> Tensor:
        return self._params.expand((*sample_shape, *self._params.shape))

    def enumerate_support(self, expand: bool = True) -> Tensor:
        states = self._family.enumerate_support()
        if states is None:
            return super().enumerate_support(expand)  # raises
        dtype = torch.int64 if self._family.is_index else self._params.dtype
        states = states.to(self._params.device, dtype)
        return over_batch(states, self.batch_shape, expand)
