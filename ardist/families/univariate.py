"""The named families of one number."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, constraints

from ardist.families.base import Family
from ardist.families.links import Bounded, Positive
from ardist.shapes import as_positive

_HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)
_LOG_ODDS = Bounded(15.0)  # odds beyond e^15 leave the range in which float32 can count


def _uniform(out: Tensor) -> Tensor:
    """Uniform draws in the open interval (0, 1), in place."""
    return out.uniform_().clamp_(min=torch.finfo(out.dtype).tiny)


def gumbel(out: Tensor) -> Tensor:
    """Gumbel draws, in place: the largest sum of these and logits is a draw by the logits."""
    return out.exponential_().log_().neg_()


@dataclass(frozen=True, repr=False)
class Bernoulli(Family):
    """0 or 1, as floats. One parameter: the log odds.

    >>> import torch, ardist as ad
    >>> ad.families.Bernoulli()(torch.tensor([0.0])).probs
    tensor(0.5000)
    """

    num_params = 1
    support = constraints.boolean
    has_push = True

    def __call__(self, params: Tensor) -> Distribution:
        result: Distribution = dist.Bernoulli(logits=params[..., 0], validate_args=False)
        return result

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        return F.logsigmoid(params[..., 0] * (2 * value).sub_(1))

    def inside(self, value: Tensor) -> Tensor:
        return value.sign().abs_() == value  # in half the time of two comparisons

    def features(self, value: Tensor) -> Tensor:
        return value.unsqueeze(-1)

    def _fill(self, out: Tensor) -> Tensor:
        return torch.logit(_uniform(out))

    def push(self, params: Tensor, noise: Tensor) -> Tensor:
        return (params[..., 0] > noise).to(params.dtype)


@dataclass(frozen=True, repr=False)
class Categorical(Family):
    """One of `num_categories` indices, as int64. Its parameters are the logits.

    Drawn as the largest of the logits plus Gumbel noise (Maddison et al. 2014, "A* sampling").

    >>> import ardist as ad
    >>> ad.families.Categorical(65).num_params
    65
    """

    num_categories: int
    has_push = True
    is_index = True

    def __post_init__(self) -> None:
        as_positive(self.num_categories, "num_categories")

    @property
    def num_params(self) -> int:
        return self.num_categories

    @property
    def num_features(self) -> int:
        return self.num_categories

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.num_categories - 1)

    def __call__(self, params: Tensor) -> Distribution:
        result: Distribution = dist.Categorical(logits=params, validate_args=False)
        return result

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        shape = torch.broadcast_shapes(params.shape[:-1], value.shape)
        logits = params.expand(*shape, self.num_categories).reshape(-1, self.num_categories)
        index = value.expand(shape).reshape(-1).long()
        # torch would score its ignore_index, -100 by default, as certain.
        never = torch.iinfo(torch.int64).min
        losses = F.cross_entropy(logits, index, reduction="none", ignore_index=never)
        return -losses.view(shape)

    def features(self, value: Tensor) -> Tensor:
        one_hot = F.one_hot(value.long(), self.num_categories)
        return one_hot.to(value.dtype if value.is_floating_point() else torch.get_default_dtype())

    def project(self, value: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        rows = F.embedding(value.long(), weight.t())
        return rows if bias is None else rows + bias

    @property
    def noise_shape(self) -> torch.Size:
        return torch.Size((self.num_categories,))

    def _fill(self, out: Tensor) -> Tensor:
        return gumbel(out)

    def push(self, params: Tensor, noise: Tensor) -> Tensor:
        return (params + noise).argmax(-1)


@dataclass(frozen=True, repr=False)
class LocationScale(Family):
    """loc + scale * z, with two parameters: loc and the scale through `links.Positive`.

    `min_scale` bounds the scale from below, in the units of the data.
    """

    min_scale: float = 1e-6
    num_params = 2
    support: ClassVar[constraints.Constraint] = constraints.real
    has_rsample = True
    has_push = True
    has_cdf_gradient = True
    distribution: ClassVar[Any]

    def __post_init__(self) -> None:
        if not self.min_scale > 0:
            raise ValueError(f"min_scale: expected a positive number, got {self.min_scale}")

    def _loc_scale(self, params: Tensor) -> tuple[Tensor, Tensor]:
        loc, raw = params.unbind(-1)
        return loc, Positive(self.min_scale)(raw)

    def __call__(self, params: Tensor) -> Distribution:
        loc, scale = self._loc_scale(params)
        result: Distribution = self.distribution(loc, scale, validate_args=False)
        return result

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        loc, scale = self._loc_scale(params)
        return self._standard_log_prob((value - loc) / scale) - scale.log()

    def push(self, params: Tensor, noise: Tensor) -> Tensor:
        loc, scale = self._loc_scale(params)
        return torch.addcmul(loc, scale, noise)

    def rsample(self, params: Tensor) -> Tensor:
        return self.push(params, self._noise_for(params))

    def features(self, value: Tensor) -> Tensor:
        return value.unsqueeze(-1)

    @abstractmethod
    def _standard_log_prob(self, z: Tensor) -> Tensor:
        """Log density of z."""


@dataclass(frozen=True, repr=False)
class Normal(LocationScale):
    """The normal distribution.

    >>> import torch, ardist as ad
    >>> ad.families.Normal()(torch.zeros(2))
    Normal(loc: 0.0, scale: 1.0000009536743164)
    """

    distribution = dist.Normal

    def _standard_log_prob(self, z: Tensor) -> Tensor:
        return -0.5 * z * z - _HALF_LOG_TAU

    def _fill(self, out: Tensor) -> Tensor:
        return out.normal_()


@dataclass(frozen=True, repr=False)
class Laplace(LocationScale):
    """The Laplace distribution."""

    distribution = dist.Laplace

    def _standard_log_prob(self, z: Tensor) -> Tensor:
        return -z.abs() - math.log(2)

    def _fill(self, out: Tensor) -> Tensor:
        centred = _uniform(out) - 0.5
        return -centred.sign() * torch.log1p(-2 * centred.abs()).clamp(min=-100.0)


@dataclass(frozen=True, repr=False)
class Logistic(LocationScale):
    """The logistic distribution."""

    distribution = dist.Logistic

    def _standard_log_prob(self, z: Tensor) -> Tensor:
        return F.logsigmoid(z) + F.logsigmoid(-z)

    def _fill(self, out: Tensor) -> Tensor:
        return torch.logit(_uniform(out))


@dataclass(frozen=True, repr=False)
class LogNormal(Normal):
    """The exponential of a normal; features are the logarithm, and draws stay finite."""

    support = constraints.positive
    distribution = dist.LogNormal

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        return super().log_prob(params, value.log()) - value.log()

    def push(self, params: Tensor, noise: Tensor) -> Tensor:
        limit = math.log(torch.finfo(params.dtype).max) - 1
        return super().push(params, noise).clamp(-limit, limit).exp()

    def features(self, value: Tensor) -> Tensor:
        return value.log().unsqueeze(-1)


@dataclass(frozen=True, repr=False)
class StudentT(Family):
    """Student's t with loc, scale and degrees of freedom above 1 as its three parameters."""

    min_scale: float = 1e-6
    num_params = 3
    support = constraints.real
    has_rsample = True

    def __call__(self, params: Tensor) -> Distribution:
        loc, scale, df = params.unbind(-1)
        result: Distribution = dist.StudentT(
            Positive(1.0)(df), loc, Positive(self.min_scale)(scale), validate_args=False
        )
        return result


@dataclass(frozen=True, repr=False)
class Gamma(Family):
    """The gamma distribution, by concentration (at least 0.01) and rate."""

    num_params = 2
    support = constraints.positive
    has_rsample = True

    def __call__(self, params: Tensor) -> Distribution:
        concentration, rate = params.unbind(-1)
        result: Distribution = dist.Gamma(
            Positive(1e-2)(concentration), Positive()(rate), validate_args=False
        )
        return result

    def features(self, value: Tensor) -> Tensor:
        return value.log1p().unsqueeze(-1)


@dataclass(frozen=True, repr=False)
class Beta(Family):
    """The beta distribution, by two concentrations of at least 0.01."""

    num_params = 2
    support = constraints.unit_interval
    has_rsample = True

    def __call__(self, params: Tensor) -> Distribution:
        first, second = Positive(1e-2)(params).unbind(-1)
        result: Distribution = dist.Beta(first, second, validate_args=False)
        return result

    def sample(self, params: Tensor) -> Tensor:
        return self._inside(super().sample(params))

    def rsample(self, params: Tensor) -> Tensor:
        return self._inside(super().rsample(params))

    @staticmethod
    def _inside(value: Tensor) -> Tensor:
        # In float32 a draw near an end rounds to it, where the density may be infinite.
        return value.clamp(torch.finfo(value.dtype).tiny, 1 - torch.finfo(value.dtype).eps / 2)

    def features(self, value: Tensor) -> Tensor:
        return value.unsqueeze(-1)


@dataclass(frozen=True, repr=False)
class Exponential(Family):
    """The exponential distribution, by its rate."""

    num_params = 1
    support = constraints.nonnegative
    has_rsample = True
    has_push = True
    has_cdf_gradient = True

    def __call__(self, params: Tensor) -> Distribution:
        result: Distribution = dist.Exponential(Positive()(params[..., 0]), validate_args=False)
        return result

    def _fill(self, out: Tensor) -> Tensor:
        return -_uniform(out).log()

    def push(self, params: Tensor, noise: Tensor) -> Tensor:
        return noise / Positive()(params[..., 0])

    def rsample(self, params: Tensor) -> Tensor:
        return self.push(params, self._noise_for(params))

    def features(self, value: Tensor) -> Tensor:
        return value.log1p().unsqueeze(-1)


@dataclass(frozen=True, repr=False)
class _Count(Family):
    """Families of the numbers 0, 1, 2, ..., as floats."""

    support = constraints.nonnegative_integer

    def features(self, value: Tensor) -> Tensor:
        return value.log1p().unsqueeze(-1)


@dataclass(frozen=True, repr=False)
class Poisson(_Count):
    """The Poisson distribution, by its rate."""

    num_params = 1

    def __call__(self, params: Tensor) -> Distribution:
        result: Distribution = dist.Poisson(Positive()(params[..., 0]), validate_args=False)
        return result


@dataclass(frozen=True, repr=False)
class NegativeBinomial(_Count):
    """The negative binomial, by its total count (at least 0.01) and log odds within 15."""

    num_params = 2

    def __call__(self, params: Tensor) -> Distribution:
        count, logits = params.unbind(-1)
        result: Distribution = dist.NegativeBinomial(
            Positive(1e-2)(count), logits=_LOG_ODDS(logits), validate_args=False
        )
        return result


@dataclass(frozen=True, repr=False)
class Geometric(_Count):
    """The number of failures before the first success, by its log odds, within 15."""

    num_params = 1
    has_push = True

    def __call__(self, params: Tensor) -> Distribution:
        result: Distribution = dist.Geometric(logits=_LOG_ODDS(params[..., 0]), validate_args=False)
        return result

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        logits = _LOG_ODDS(params[..., 0])
        return value * F.logsigmoid(-logits) + F.logsigmoid(logits)

    def _fill(self, out: Tensor) -> Tensor:
        return -_uniform(out).log()

    def push(self, params: Tensor, noise: Tensor) -> Tensor:
        return (noise / F.softplus(_LOG_ODDS(params[..., 0]))).floor()


@dataclass(frozen=True, repr=False)
class VonMises(Family):
    """An angle in [-pi, pi], by loc and concentration; features are its cosine and sine."""

    num_params = 2
    support = constraints.interval(-math.pi, math.pi)

    def __call__(self, params: Tensor) -> Distribution:
        loc, concentration = params.unbind(-1)
        result: Distribution = dist.VonMises(
            loc, Positive(1e-3)(concentration), validate_args=False
        )
        return result

    def sample(self, params: Tensor) -> Tensor:
        # float32's pi is above math.pi
        return super().sample(params).clamp(-math.pi, math.pi)

    @property
    def num_features(self) -> int:
        return 2

    def features(self, value: Tensor) -> Tensor:
        return torch.stack((value.cos(), value.sin()), -1)
