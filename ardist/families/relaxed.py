"""Continuous relaxations of discrete families, whose draws have gradients."""

import math
from dataclasses import dataclass

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, constraints

from ardist.families.base import Family
from ardist.families.composed import Derived
from ardist.families.implicit import with_gradient
from ardist.families.noise import gumbel_noise
from ardist.families.univariate import Bernoulli
from ardist.families.vector import OneHotCategorical
from ardist.shapes import as_flag, as_scale


@dataclass(frozen=True, repr=False)
class Relaxed(Derived):
    """The concrete distribution of a discrete family (Maddison et al. 2017; Jang et al. 2017).

    A draw uses the noise of the discrete family, with a softmax or a sigmoid at a temperature
    instead of the hard choice. It lies inside the simplex for `OneHotCategorical` and inside
    (0, 1) for `Bernoulli`, closer to a corner at lower temperatures. So draws have gradients, and
    `log_prob` is a density. Draws that would round to a corner stay just inside.

    With `straight_through=True`, values are drawn and scored by the discrete family. Only the
    gradient of a draw comes from the relaxed draw under the same noise, and it is biased.

    A relaxed family has the parameters and features of the discrete family, so that a trained
    network can use it without changes.

    Args:
        family: `OneHotCategorical` or `Bernoulli`.
        temperature: above 0.
        straight_through: whether draws are discrete.

    Raises:
        ValueError: if the family is another one, or an argument is invalid.

    >>> import torch, ardist as ad
    >>> net = ad.networks.MADE(ad.Factorization(4, ad.families.Bernoulli()), hidden_features=8)
    >>> p = net.condition().with_families(ad.families.Relaxed(ad.families.Bernoulli(), 0.5))
    >>> p.rsample((2,)).requires_grad
    True
    """

    temperature: float
    straight_through: bool = False
    has_rsample = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.family) not in (Bernoulli, OneHotCategorical):
            raise ValueError(
                f"family: expected Bernoulli or OneHotCategorical, got {self.family}; for a vector "
                f"use Independent(Relaxed(family, temperature), shape)"
            )
        self._check(as_scale, "temperature")
        self._check(as_flag, "straight_through")

    @property
    def needs_double(self) -> bool:
        return not self.straight_through

    @property
    def _is_binary(self) -> bool:
        return isinstance(self.family, Bernoulli)

    @property
    def support(self) -> constraints.Constraint:
        if self.straight_through:
            return self.family.support
        return constraints.unit_interval if self._is_binary else constraints.simplex

    @property
    def has_cdf_gradient(self) -> bool:
        return self._is_binary and not self.straight_through

    inside, placeholder = Family.inside, Family.placeholder
    enumerate_support = Family.enumerate_support

    def __call__(self, params: Tensor) -> Distribution:
        if self.straight_through:
            return self.family(params)
        temperature = torch.as_tensor(self.temperature, dtype=params.dtype, device=params.device)
        if self._is_binary:
            return dist.RelaxedBernoulli(temperature, logits=params[..., 0], validate_args=False)
        return dist.RelaxedOneHotCategorical(temperature, logits=params, validate_args=False)

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        if self.straight_through:
            return self.family.log_prob(params, value)
        t, log_value = self.temperature, _log(value)
        if self._is_binary:
            z, log_rest = self._logistic(params, value), _log(1 - value)
            return F.logsigmoid(z) + F.logsigmoid(-z) + math.log(t) - log_value - log_rest
        each = (params - t * log_value).log_softmax(-1) - log_value
        return each.sum(-1) + math.lgamma(self.num_params) + (self.num_params - 1) * math.log(t)

    def cdf(self, params: Tensor, value: Tensor) -> Tensor:
        if self.straight_through:
            return self.family.cdf(params, value)
        return self._logistic(params, value).sigmoid()

    def icdf(self, params: Tensor, uniform: Tensor) -> Tensor:
        if self.straight_through:
            return self.family.icdf(params, uniform)
        return self._soft(params, -uniform.logit())

    def _logistic(self, params: Tensor, value: Tensor) -> Tensor:
        """The logistic variable that gives a number in (0, 1), before the log odds are added."""
        return self.temperature * (_log(value) - _log(1 - value)) - params[..., 0]

    def from_noise(self, params: Tensor, noise: Tensor) -> Tensor:
        soft = self._soft(params, noise)
        if not self.straight_through:
            return soft
        return with_gradient(self.family.from_noise(params, noise), soft)

    def pathwise(self, params: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        if noise is None:
            with torch.no_grad():
                recover = self._hard_noise if self.straight_through else self._noise
                noise = recover(params, value)
        return with_gradient(value, self._soft(params, noise))

    def _soft(self, params: Tensor, noise: Tensor) -> Tensor:
        least = torch.finfo(params.dtype).tiny
        if self._is_binary:
            soft = ((params[..., 0] - noise) / self.temperature).sigmoid()
            return soft.clamp(least, 1 - torch.finfo(params.dtype).eps / 2)
        return ((params + noise) / self.temperature).softmax(-1).clamp(min=least)

    def _noise(self, params: Tensor, value: Tensor) -> Tensor:
        """Noise that gives a relaxed value. For vectors it is one of many, with equal gradients."""
        if self._is_binary:
            return -self._logistic(params, value)
        return self.temperature * _log(value) - params

    def _hard_noise(self, params: Tensor, value: Tensor) -> Tensor:
        """A draw of the noise given the discrete value."""
        if self._is_binary:
            sign, logits = 2 * value - 1, params[..., 0]
            tail = torch.rand_like(logits.expand(value.shape)).log() + F.logsigmoid(sign * logits)
            return sign * (tail - torch.log1p(-tail.exp()))
        # The maximum of logits plus noise is independent of its index. The other sums are drawn
        # below the maximum (Maddison et al. 2014, "A* sampling").
        noise = self.family.noise(value.shape[:-1], dtype=params.dtype, device=params.device)
        largest = params.logsumexp(-1, keepdim=True) + gumbel_noise(
            torch.empty_like(value[..., :1])
        )
        below = -torch.logaddexp(-largest, -(params + noise))
        return torch.where(value > 0, largest, below) - params


def _log(value: Tensor) -> Tensor:
    return value.clamp(min=torch.finfo(value.dtype).tiny).log()
