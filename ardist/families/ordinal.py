"""Ordered categories."""

import math
from dataclasses import dataclass
from functools import partial

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, constraints

from ardist.families.base import Family
from ardist.families.links import Positive
from ardist.families.logs import log_one_minus_exp
from ardist.families.noise import uniform_noise
from ardist.shapes import as_integer, gather_last


@dataclass(frozen=True, repr=False)
class Ordinal(Family):
    """Ordered categories 0, ..., `num_levels` - 1, by cumulative logits (McCullagh 1980).

    P(X <= k) = sigmoid(t_k) with increasing thresholds t_k. The first parameter moves all
    thresholds and the others scale the gaps between them. With all parameters at zero the levels
    are equally likely. A network reads, for each threshold, whether the value is above it.

    Args:
        num_levels: number of categories, at least 2.

    Raises:
        ValueError: if `num_levels` is not an integer of at least 2.

    >>> import torch, ardist as ad
    >>> family = ad.families.Ordinal(5)
    >>> family.num_params, family.log_prob(torch.zeros(4), torch.arange(5)).exp()
    (4, tensor([0.2000, 0.2000, 0.2000, 0.2000, 0.2000]))
    """

    num_levels: int
    is_index = True

    def __post_init__(self) -> None:
        self._check(partial(as_integer, least=2), "num_levels")

    @property
    def num_params(self) -> int:
        return self.num_levels - 1

    @property
    def num_features(self) -> int:
        return self.num_levels - 1

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.num_levels - 1)

    def _gaps(self, params: Tensor) -> Tensor:
        """The gaps between neighboring thresholds: (..., num_levels - 2)."""
        equal = torch.arange(1, self.num_levels, dtype=torch.float64).div(self.num_levels).logit()
        return equal.diff().to(params) * Positive()(params[..., 1:])

    def _thresholds(self, params: Tensor) -> Tensor:
        """(..., num_levels - 1)"""
        first = params[..., :1] - math.log(self.num_levels - 1)
        return torch.cat((first, first + self._gaps(params).cumsum(-1)), -1)

    def _scores(self, params: Tensor) -> Tensor:
        """The log-probabilities of all levels: (..., num_levels)."""
        t = self._thresholds(params)
        # log(sigmoid(a) - sigmoid(b)) = logsigmoid(a) + logsigmoid(-b) + log(1 - exp(b - a)).
        below, above = F.pad(F.logsigmoid(t), (0, 1)), F.pad(F.logsigmoid(-t), (1, 0))
        return below + above + F.pad(log_one_minus_exp(-self._gaps(params)), (1, 1))

    def __call__(self, params: Tensor) -> Distribution:
        return dist.Categorical(logits=self._scores(params), validate_args=False)

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        return gather_last(self._scores(params), value.long())

    def _state_probs(self, params: Tensor, states: Tensor) -> Tensor:
        return self._scores(params).exp()

    def features(self, value: Tensor) -> Tensor:
        dtype = value.dtype if value.is_floating_point() else torch.get_default_dtype()
        levels = torch.arange(self.num_levels - 1, device=value.device)
        return (value.unsqueeze(-1) > levels).to(dtype)

    def sample_noise(self, out: Tensor) -> Tensor:
        return uniform_noise(out).logit_()

    def from_noise(self, params: Tensor, noise: Tensor) -> Tensor:
        return (noise.unsqueeze(-1) > self._thresholds(params)).sum(-1)
