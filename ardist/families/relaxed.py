"""Discrete families made continuous, so that gradients flow through their draws."""

import math
from dataclasses import dataclass

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, constraints

from ardist.families.composed import _OfFamily
from ardist.families.univariate import Bernoulli, gumbel
from ardist.families.vector import OneHotCategorical
from ardist.shapes import as_flag, as_scale


@dataclass(frozen=True, repr=False)
class Relaxed(_OfFamily):
    """The concrete distribution of a discrete family (Maddison et al. 2017; Jang et al. 2017).

    A draw is that of the family under the same noise, with a softmax or a sigmoid at a temperature
    in place of the choice: a point inside the simplex for `OneHotCategorical`, inside (0, 1) for
    `Bernoulli`, the closer to the corners the lower the temperature. So it has a gradient, and
    `log_prob` is a density. What rounding would put at a corner stays just inside.

    With `straight_through` draws and `log_prob` are those of the discrete family. Only the
    gradient of a draw is that of the relaxed one under the same noise: a biased one, since the
    draw is not the one that moves.

    It keeps the family's parameters and features, so that a trained network serves it as it is.

    Args:
        family: `OneHotCategorical` or `Bernoulli`.
        temperature: above 0.
        straight_through: whether draws are discrete.

    Raises:
        ValueError: where the family is another one, or the temperature not positive.

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
                f"family: expected Bernoulli or OneHotCategorical, alone or inside "
                f"Independent(Relaxed(...), shape), got {self.family}"
            )
        self._hold(as_scale, "temperature")
        self._hold(as_flag, "straight_through")

    @property
    def _needs_double(self) -> bool:  # type: ignore[override]
        return not self.straight_through

    @property
    def _is_binary(self) -> bool:
        return isinstance(self.family, Bernoulli)

    @property
    def event_shape(self) -> torch.Size:
        return self.family.event_shape

    @property
    def num_params(self) -> int:
        return self.family.num_params

    @property
    def num_features(self) -> int:
        return self.family.num_features

    @property
    def support(self) -> constraints.Constraint:
        if self.straight_through:
            return self.family.support
        return constraints.unit_interval if self._is_binary else constraints.simplex

    @property
    def has_cdf_gradient(self) -> bool:
        return self._is_binary and not self.straight_through

    def features(self, value: Tensor) -> Tensor:
        return self.family.features(value)

    def __call__(self, params: Tensor) -> Distribution:
        if self.straight_through:
            return self.family(params)
        temperature = torch.as_tensor(self.temperature, dtype=params.dtype, device=params.device)
        if self._is_binary:
            logits, form = params[..., 0], dist.RelaxedBernoulli
        else:
            logits, form = params, dist.RelaxedOneHotCategorical
        result: Distribution = form(temperature, logits=logits, validate_args=False)
        return result

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
        """The logistic variable that the log odds moved to give a number in (0, 1)."""
        return self.temperature * (_log(value) - _log(1 - value)) - params[..., 0]

    @property
    def noise_shape(self) -> torch.Size:
        return self.family.noise_shape

    def sample_noise(self, out: Tensor) -> Tensor:
        return self.family.sample_noise(out)

    def from_noise(self, params: Tensor, noise: Tensor) -> Tensor:
        soft = self._soft(params, noise)
        if not self.straight_through:
            return soft
        return self.family.from_noise(params, noise) + (soft - soft.detach())

    def pathwise(self, params: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        if noise is None:
            with torch.no_grad():
                given = self._hard_noise if self.straight_through else self._noise
                noise = given(params, value)
        soft = self._soft(params, noise)
        return value.detach() + (soft - soft.detach())

    def _soft(self, params: Tensor, noise: Tensor) -> Tensor:
        least = torch.finfo(params.dtype).tiny
        if self._is_binary:
            soft = ((params[..., 0] - noise) / self.temperature).sigmoid()
            return soft.clamp(least, 1 - torch.finfo(params.dtype).eps / 2)
        return ((params + noise) / self.temperature).softmax(-1).clamp(min=least)

    def _noise(self, params: Tensor, value: Tensor) -> Tensor:
        """Noise that gives a relaxed value; of a vector it is one of many with equal gradients."""
        if self._is_binary:
            return -self._logistic(params, value)
        return self.temperature * _log(value) - params

    def _hard_noise(self, params: Tensor, value: Tensor) -> Tensor:
        """A draw of the noise given the discrete value that it led to."""
        if self._is_binary:
            sign, logits = 2 * value - 1, params[..., 0]
            tail = torch.rand_like(logits.expand(value.shape)).log() + F.logsigmoid(sign * logits)
            return sign * (tail - torch.log1p(-tail.exp()))
        # The largest sum of logits and noise does not depend on which it is; the others are
        # drawn below it (Maddison et al. 2014, "A* sampling").
        noise = self.family.noise(value.shape[:-1], dtype=params.dtype, device=params.device)
        largest = params.logsumexp(-1, keepdim=True) + gumbel(torch.empty_like(value[..., :1]))
        below = -torch.logaddexp(-largest, -(params + noise))
        return torch.where(value > 0, largest, below) - params


def _log(value: Tensor) -> Tensor:
    return value.clamp(min=torch.finfo(value.dtype).tiny).log()
