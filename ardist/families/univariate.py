"""The named families of single numbers."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, constraints

from ardist.families import student
from ardist.families.base import Family
from ardist.families.estimation import apart, frequencies, moments
from ardist.families.implicit import reparameterized, with_gradient
from ardist.families.incomplete import log_betainc, log_gammainc
from ardist.families.links import Bounded, Positive
from ardist.families.logs import HALF_LOG_TAU, log_ndtr, log_one_minus_exp
from ardist.families.noise import gumbel_noise, uniform_noise
from ardist.families.saddle import (
    deviance,
    gamma_excess,
    log_beta_density,
    log_gamma_density,
)
from ardist.shapes import as_positive, as_scale, expand_to_batch, gather_last

_LOG_ODDS = Bounded(15.0)  # larger odds give counts that float32 cannot tell apart


@dataclass(frozen=True, repr=False)
class Bernoulli(Family):
    """The Bernoulli distribution of 0 and 1, as floats. Its parameter is the log odds.

    >>> import torch, ardist as ad
    >>> ad.families.Bernoulli()(torch.tensor([0.0])).probs
    tensor(0.5000)
    """

    num_params = 1
    support = constraints.boolean

    def __call__(self, params: Tensor) -> Distribution:
        return dist.Bernoulli(logits=params[..., 0], validate_args=False)

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        return F.logsigmoid(params[..., 0] * (2 * value).sub_(1))

    def fit(self, values: Tensor, mask: Tensor) -> Tensor:
        return frequencies(torch.arange(2), values, mask)[1:].T.logit()

    def inside(self, value: Tensor) -> Tensor:
        return value.sign().abs_() == value  # takes half the time of two comparisons

    def features(self, value: Tensor) -> Tensor:
        return value.unsqueeze(-1)

    def sample_noise(self, out: Tensor) -> Tensor:
        return torch.logit(uniform_noise(out))

    def from_noise(self, params: Tensor, noise: Tensor) -> Tensor:
        return (params[..., 0] > noise).to(params.dtype)


@dataclass(frozen=True, repr=False)
class Categorical(Family):
    """A categorical distribution of int64 indices. Its parameters are the logits.

    A draw is the argmax of logits plus Gumbel noise (Maddison et al. 2014, "A* sampling").

    Args:
        num_categories: number of indices, at least 1.

    Raises:
        ValueError: if it is not a positive integer.

    >>> import ardist as ad
    >>> ad.families.Categorical(65).num_params
    65
    """

    num_categories: int
    is_index = True

    def __post_init__(self) -> None:
        self._check(as_positive, "num_categories")

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
        return dist.Categorical(logits=params, validate_args=False)

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        return gather_last(params.log_softmax(-1), value.long())

    def features(self, value: Tensor) -> Tensor:
        dtype = value.dtype if value.is_floating_point() else torch.get_default_dtype()
        states = torch.arange(self.num_categories, device=value.device)
        return (value.unsqueeze(-1) == states).to(dtype)  # F.one_hot fails under vmap of grad

    def project(self, value: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if value.is_floating_point():  # an infinite value is no index
            value = value.clamp(0, self.num_categories - 1)
        table, is_eager = weight.t(), not torch.compiler.is_compiling()
        # The bias is added to the smaller tensor. A recorded graph serves any number of rows.
        if bias is not None and is_eager and value.numel() > self.num_categories:
            table, bias = table + bias, None
        rows = F.embedding(value.long(), table)
        return rows if bias is None else rows + bias

    def fit(self, values: Tensor, mask: Tensor) -> Tensor:
        return frequencies(torch.arange(self.num_categories), values, mask).T.log()

    def _state_probs(self, params: Tensor, states: Tensor) -> Tensor:
        return params.softmax(-1)

    @property
    def noise_shape(self) -> torch.Size:
        return torch.Size((self.num_categories,))

    def sample_noise(self, out: Tensor) -> Tensor:
        return gumbel_noise(out)

    def from_noise(self, params: Tensor, noise: Tensor) -> Tensor:
        return (params + noise).argmax(-1)


@dataclass(frozen=True, repr=False)
class LocationScale(Family):
    """A family of loc + scale * z. Its parameters are loc and the scale before `links.Positive`.

    Args:
        min_scale: a lower bound on the scale, in the units of the data.
    """

    min_scale: float = 1e-6
    num_params = 2
    support: ClassVar[constraints.Constraint] = constraints.real
    distribution: ClassVar[Any]

    def __post_init__(self) -> None:
        self._check(as_scale, "min_scale")

    def _loc_scale(self, params: Tensor) -> tuple[Tensor, Tensor]:
        loc, raw = params.unbind(-1)
        return loc, Positive(self.min_scale)(raw)

    def __call__(self, params: Tensor) -> Distribution:
        loc, scale = self._loc_scale(params)
        return self.distribution(loc, scale, validate_args=False)

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        loc, scale = self._loc_scale(params)
        return self._standard_log_prob((value - loc) / scale) - scale.log()

    def from_noise(self, params: Tensor, noise: Tensor) -> Tensor:
        loc, scale = self._loc_scale(params)
        return torch.addcmul(loc, scale, noise)

    def to_noise(self, params: Tensor, value: Tensor) -> Tensor:
        loc, scale = self._loc_scale(params)
        return (value - loc) / scale

    def log_abs_det_jacobian(self, params: Tensor, value: Tensor) -> Tensor:
        return expand_to_batch(self._loc_scale(params)[1].log(), value.shape)

    def to_noise_and_log_det(self, params: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        loc, scale = self._loc_scale(params)
        return (value - loc) / scale, expand_to_batch(scale.log(), value.shape)

    def cdf(self, params: Tensor, value: Tensor) -> Tensor:
        return self._standard_cdf(self.to_noise(params, value))

    def icdf(self, params: Tensor, uniform: Tensor) -> Tensor:
        return self.from_noise(params, self._standard_icdf(uniform))

    def log_tails(self, params: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        z = self.to_noise(params, value)
        return self._standard_log_cdf(z), self._standard_log_cdf(-z)

    def features(self, value: Tensor) -> Tensor:
        return value.unsqueeze(-1)

    @abstractmethod
    def _standard_log_prob(self, z: Tensor) -> Tensor:
        """Log density of z."""

    @abstractmethod
    def _standard_cdf(self, z: Tensor) -> Tensor:
        """The probability of at most z."""

    @abstractmethod
    def _standard_log_cdf(self, z: Tensor) -> Tensor:
        """The logarithm of `_standard_cdf`. The densities are symmetric."""

    @abstractmethod
    def _standard_icdf(self, uniform: Tensor) -> Tensor:
        """The inverse of `_standard_cdf`."""


@dataclass(frozen=True, repr=False)
class Normal(LocationScale):
    """The normal distribution, by loc and scale.

    Args:
        min_scale: a lower bound on the scale, in the units of the data.

    Raises:
        ValueError: if it is not positive.

    >>> import torch, ardist as ad
    >>> ad.families.Normal()(torch.zeros(2))
    Normal(loc: 0.0, scale: 1.0000009536743164)
    """

    distribution = dist.Normal

    def _standard_log_prob(self, z: Tensor) -> Tensor:
        return -0.5 * z * z - HALF_LOG_TAU

    def _standard_cdf(self, z: Tensor) -> Tensor:
        return torch.special.ndtr(z)

    def _standard_log_cdf(self, z: Tensor) -> Tensor:
        return log_ndtr(z)

    def _standard_icdf(self, uniform: Tensor) -> Tensor:
        return torch.special.ndtri(uniform)

    def sample_noise(self, out: Tensor) -> Tensor:
        return out.normal_()


@dataclass(frozen=True, repr=False)
class Laplace(LocationScale):
    """The Laplace distribution, by loc and scale. `min_scale` is as in `Normal`.

    >>> import torch, ardist as ad
    >>> ad.families.Laplace()(torch.zeros(2))
    Laplace(loc: 0.0, scale: 1.0000009536743164)
    """

    distribution = dist.Laplace

    def _standard_log_prob(self, z: Tensor) -> Tensor:
        return -z.abs() - math.log(2)

    def _standard_cdf(self, z: Tensor) -> Tensor:
        tail = 0.5 * (-z.abs()).exp()
        return torch.where(z < 0, tail, 1 - tail)

    def _standard_log_cdf(self, z: Tensor) -> Tensor:
        above = torch.log1p(-0.5 * (-z.clamp(min=0)).exp())
        return torch.where(z < 0, z - math.log(2), above)

    def _standard_icdf(self, uniform: Tensor) -> Tensor:
        tail = torch.minimum(uniform, 1 - uniform)
        # Finite at 0 and 1: the logarithm of the smallest number of float64 is -744.
        return (uniform - 0.5).sign() * -(2 * tail).log().clamp(min=-750.0)

    def sample_noise(self, out: Tensor) -> Tensor:
        return self._standard_icdf(uniform_noise(out))


@dataclass(frozen=True, repr=False)
class Logistic(LocationScale):
    """The logistic distribution, by loc and scale. `min_scale` is as in `Normal`.

    >>> import torch, ardist as ad
    >>> ad.families.Logistic().cdf(torch.zeros(2), torch.tensor(1.0))
    tensor(0.7311)
    """

    distribution = dist.Logistic

    def _standard_log_prob(self, z: Tensor) -> Tensor:
        return F.logsigmoid(z) + F.logsigmoid(-z)

    def _standard_cdf(self, z: Tensor) -> Tensor:
        return z.sigmoid()

    def _standard_log_cdf(self, z: Tensor) -> Tensor:
        return F.logsigmoid(z)

    def _standard_icdf(self, uniform: Tensor) -> Tensor:
        return uniform.logit()

    def sample_noise(self, out: Tensor) -> Tensor:
        return torch.logit(uniform_noise(out))


@dataclass(frozen=True, repr=False)
class LogNormal(Normal):
    """The log-normal distribution, by loc and scale of the logarithm.

    Networks read the logarithm. Draws are finite for all parameters. `min_scale` is a lower bound
    on the scale of the logarithm.

    >>> import torch, ardist as ad
    >>> ad.families.LogNormal().support
    GreaterThan(lower_bound=0.0)
    >>> ad.families.LogNormal()(torch.zeros(2)).mean
    tensor(1.6487)
    """

    support = constraints.positive
    distribution = dist.LogNormal
    needs_double = True

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        return super().log_prob(params, value.log()) - value.log()

    def from_noise(self, params: Tensor, noise: Tensor) -> Tensor:
        limit = math.log(torch.finfo(params.dtype).max) - 1
        return super().from_noise(params, noise).clamp(-limit, limit).exp()

    def to_noise(self, params: Tensor, value: Tensor) -> Tensor:
        return super().to_noise(params, value.log())

    def log_abs_det_jacobian(self, params: Tensor, value: Tensor) -> Tensor:
        return super().log_abs_det_jacobian(params, value) + value.log()

    def to_noise_and_log_det(self, params: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        noise, log_abs_det_jacobian = super().to_noise_and_log_det(params, value.log())
        return noise, log_abs_det_jacobian + value.log()

    def features(self, value: Tensor) -> Tensor:
        return value.clamp(min=torch.finfo(value.dtype).tiny).log().unsqueeze(-1)


@dataclass(frozen=True, repr=False)
class StudentT(Family):
    """Student's t distribution, by loc, scale and degrees of freedom above 1.

    Its CDF is computed by quadrature, and draws have implicit gradients by the CDF. `min_scale` is
    as in `Normal`.

    >>> import torch, ardist as ad
    >>> ad.families.StudentT()(torch.zeros(3))
    StudentT(df: 2.0, loc: 0.0, scale: 1.0000009536743164)
    """

    min_scale: float = 1e-6
    num_params = 3
    support = constraints.real
    needs_double = True

    def __post_init__(self) -> None:
        self._check(as_scale, "min_scale")

    def _loc_scale_df(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        loc, scale, df = params.unbind(-1)
        return loc, Positive(self.min_scale)(scale), Positive(1.0)(df)

    def __call__(self, params: Tensor) -> Distribution:
        loc, scale, df = self._loc_scale_df(params)
        return dist.StudentT(df, loc, scale, validate_args=False)

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        loc, scale, df = self._loc_scale_df(params)
        return student.log_density((value - loc) / scale, df) - scale.log()

    def _start(self, values: Tensor, weights: Tensor) -> Tensor:
        mean, variance = moments(values, weights)
        start = mean, Positive(self.min_scale).inverse(variance.sqrt()), torch.ones_like(mean)
        return apart(torch.stack(start, -1).to(weights))  # the first steps are long

    def cdf(self, params: Tensor, value: Tensor) -> Tensor:
        return self.log_tails(params, value)[0].exp()

    def log_tails(self, params: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        loc, scale, df = self._loc_scale_df(params)
        return student.log_tails((value - loc) / scale, df)


@dataclass(frozen=True, repr=False)
class _ThroughDraws(Family):
    """A family whose draws have gradients in torch, which give its CDF gradients: dF = -p(x) dx."""

    needs_double = True

    def pathwise(self, params: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        value = value.detach()
        return with_gradient(value, reparameterized(self(params), value))

    def cdf(self, params: Tensor, value: Tensor) -> Tensor:
        return self.log_tails(params, value)[0].exp()

    def log_tails(self, params: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            below, above = self._log_tails(params, value)
        if not torch.is_grad_enabled():
            return below, above
        density = self.log_prob(params, value).detach()
        moved = value - self.pathwise(params, value)  # zero, with a gradient
        return below + (density - below).exp() * moved, above - (density - above).exp() * moved

    @abstractmethod
    def _log_tails(self, params: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """`log_tails` without gradients."""


@dataclass(frozen=True, repr=False)
class Gamma(_ThroughDraws):
    """The gamma distribution, by a concentration of at least 0.01 and a rate.

    >>> import torch, ardist as ad
    >>> ad.families.Gamma()(torch.zeros(2)).mean
    tensor(1.0100)
    """

    num_params = 2
    support = constraints.positive

    def _concentration_rate(self, params: Tensor) -> tuple[Tensor, Tensor]:
        concentration, rate = params.unbind(-1)
        return Positive(1e-2)(concentration), Positive()(rate)

    def __call__(self, params: Tensor) -> Distribution:
        return dist.Gamma(*self._concentration_rate(params), validate_args=False)

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        concentration, rate = self._concentration_rate(params)
        return log_gamma_density(concentration, value * rate) - value.log()

    def _start(self, values: Tensor, weights: Tensor) -> Tensor:
        mean, variance = moments(values, weights)
        rate = mean / variance
        start = Positive(1e-2).inverse(mean * rate), Positive().inverse(rate)
        return torch.stack(start, -1).to(weights)

    def _log_tails(self, params: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        concentration, rate = self._concentration_rate(params)
        return log_gammainc(concentration, value * rate)

    def features(self, value: Tensor) -> Tensor:
        return value.clamp(min=0).log1p().unsqueeze(-1)


@dataclass(frozen=True, repr=False)
class Beta(_ThroughDraws):
    """The beta distribution, by two concentrations of at least 0.01.

    The density may be infinite at 0 and 1. These values are scored as the nearest number inside,
    and draws that round to them are moved to the same number.

    >>> import torch, ardist as ad
    >>> ad.families.Beta()(torch.zeros(2)).mean
    tensor(0.5000)
    """

    num_params = 2
    support = constraints.unit_interval

    def __call__(self, params: Tensor) -> Distribution:
        first, second = Positive(1e-2)(params).unbind(-1)
        return dist.Beta(first, second, validate_args=False)

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        first, second = Positive(1e-2)(params).unbind(-1)
        rest = 1 - value
        return log_beta_density(first, second, value, rest) - value.log() - rest.log()

    def _start(self, values: Tensor, weights: Tensor) -> Tensor:
        mean, variance = moments(values, weights)
        mean = mean.clamp(1e-6, 1 - 1e-6)
        total = (mean * (1 - mean) / variance - 1).clamp(min=2)  # from a density without peaks
        both = torch.stack((mean, 1 - mean), -1) * total.unsqueeze(-1)
        return Positive(1e-2).inverse(both).to(weights)

    def _log_tails(self, params: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        first, second = Positive(1e-2)(params).unbind(-1)
        return log_betainc(first, second, value, 1 - value)

    def features(self, value: Tensor) -> Tensor:
        return value.unsqueeze(-1)


@dataclass(frozen=True, repr=False)
class Exponential(Family):
    """The exponential distribution, by its rate.

    >>> import torch, ardist as ad
    >>> ad.families.Exponential()(torch.zeros(1)).rate
    tensor(1.0000)
    """

    num_params = 1
    support = constraints.nonnegative

    def __call__(self, params: Tensor) -> Distribution:
        return dist.Exponential(Positive()(params[..., 0]), validate_args=False)

    def sample_noise(self, out: Tensor) -> Tensor:
        return -uniform_noise(out).log()

    def from_noise(self, params: Tensor, noise: Tensor) -> Tensor:
        return noise / Positive()(params[..., 0])

    def to_noise(self, params: Tensor, value: Tensor) -> Tensor:
        return value * Positive()(params[..., 0])

    def cdf(self, params: Tensor, value: Tensor) -> Tensor:
        return -torch.expm1(-self.to_noise(params, value))

    def log_tails(self, params: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        noise = self.to_noise(params, value)
        return log_one_minus_exp(-noise), -noise

    def icdf(self, params: Tensor, uniform: Tensor) -> Tensor:
        return self.from_noise(params, -torch.log1p(-uniform))

    def features(self, value: Tensor) -> Tensor:
        return value.clamp(min=0).log1p().unsqueeze(-1)


@dataclass(frozen=True, repr=False)
class _Count(Family):
    """A family of the counts 0, 1, 2, ..., as floats."""

    support = constraints.nonnegative_integer
    needs_double = True

    def features(self, value: Tensor) -> Tensor:
        return value.clamp(min=0).log1p().unsqueeze(-1)


@dataclass(frozen=True, repr=False)
class Poisson(_Count):
    """The Poisson distribution of counts, by its rate.

    >>> import torch, ardist as ad
    >>> ad.families.Poisson()(torch.zeros(1)).rate
    tensor(1.0000)
    """

    num_params = 1

    def __call__(self, params: Tensor) -> Distribution:
        return dist.Poisson(Positive()(params[..., 0]), validate_args=False)

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        return -deviance(value, Positive()(params[..., 0])) - gamma_excess(value)

    def cdf(self, params: Tensor, value: Tensor) -> Tensor:
        return self.log_tails(params, value)[0].exp()

    def log_tails(self, params: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        above, below = log_gammainc(value.floor() + 1, Positive()(params[..., 0]))
        return below, above


@dataclass(frozen=True, repr=False)
class NegativeBinomial(_Count):
    """The negative binomial distribution of counts, by total count and log odds.

    The total count is at least 0.01, and the log odds are within [-15, 15].

    >>> import torch, ardist as ad
    >>> ad.families.NegativeBinomial()(torch.zeros(2)).mean
    tensor(1.0100)
    """

    num_params = 2

    def _count_logits(self, params: Tensor) -> tuple[Tensor, Tensor]:
        count, logits = params.unbind(-1)
        return Positive(1e-2)(count), _LOG_ODDS(logits)

    def __call__(self, params: Tensor) -> Distribution:
        count, logits = self._count_logits(params)
        return dist.NegativeBinomial(count, logits=logits, validate_args=False)

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        count, logits = self._count_logits(params)
        total = count + value
        fit = deviance(value, total * logits.sigmoid()) + deviance(
            count, total * (-logits).sigmoid()
        )
        excess = gamma_excess(total) - gamma_excess(count) - gamma_excess(value)
        return excess - fit + (count / total).log()

    def _start(self, values: Tensor, weights: Tensor) -> Tensor:
        mean, variance = moments(values, weights)
        mean = mean.clamp(min=1e-3)
        excess = torch.maximum(variance - mean, 1e-4 * mean)  # of a Poisson it is zero
        start = (
            Positive(1e-2).inverse(mean.square() / excess),
            _LOG_ODDS.inverse((excess / mean).log()),
        )
        return torch.stack(start, -1).to(weights)

    def cdf(self, params: Tensor, value: Tensor) -> Tensor:
        return self.log_tails(params, value)[0].exp()

    def log_tails(self, params: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        count, logits = self._count_logits(params)
        return log_betainc(count, value.floor() + 1, (-logits).sigmoid(), logits.sigmoid())


@dataclass(frozen=True, repr=False)
class Geometric(_Count):
    """The geometric distribution of the number of failures before the first success.

    Its parameter is the log odds of a success, within [-15, 15].

    >>> import torch, ardist as ad
    >>> ad.families.Geometric()(torch.zeros(1)).mean
    tensor(1.)
    """

    num_params = 1

    def __call__(self, params: Tensor) -> Distribution:
        return dist.Geometric(logits=_LOG_ODDS(params[..., 0]), validate_args=False)

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        logits = _LOG_ODDS(params[..., 0])
        return value * F.logsigmoid(-logits) + F.logsigmoid(logits)

    def sample_noise(self, out: Tensor) -> Tensor:
        return -uniform_noise(out).log()

    def from_noise(self, params: Tensor, noise: Tensor) -> Tensor:
        return (noise / F.softplus(_LOG_ODDS(params[..., 0]))).floor()

    def cdf(self, params: Tensor, value: Tensor) -> Tensor:
        return -torch.expm1(self.log_tails(params, value)[1])

    def log_tails(self, params: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        after = (value.floor() + 1).clamp(min=0)
        above = -after * F.softplus(_LOG_ODDS(params[..., 0]))
        return log_one_minus_exp(above), above

    def icdf(self, params: Tensor, uniform: Tensor) -> Tensor:
        reached = -torch.log1p(-uniform) / F.softplus(_LOG_ODDS(params[..., 0]))
        return (reached.ceil() - 1).clamp(min=0)


@dataclass(frozen=True, repr=False)
class VonMises(Family):
    """The von Mises distribution of an angle in [-pi, pi], by loc and concentration.

    Networks read the cosine and the sine. There is no CDF and no `rsample`.

    >>> import torch, ardist as ad
    >>> ad.families.VonMises().features(torch.tensor(torch.pi / 2)).round()
    tensor([-0., 1.])
    """

    num_params = 2
    num_features = 2
    support = constraints.interval(-math.pi, math.pi)
    needs_double = True

    def __call__(self, params: Tensor) -> Distribution:
        loc, concentration = params.unbind(-1)
        return dist.VonMises(loc, Positive(1e-3)(concentration), validate_args=False)

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        loc, concentration = params[..., 0], Positive(1e-3)(params[..., 1])
        away = concentration * ((value - loc) / 2).sin().square()
        return -2 * away - _log_i0e(concentration) - math.log(2 * math.pi)

    def features(self, value: Tensor) -> Tensor:
        value = value.clamp(-math.pi, math.pi)
        return torch.stack((value.cos(), value.sin()), -1)


def _log_i0e(x: Tensor) -> Tensor:
    """log(exp(-x) * I_0(x)), above 100 by its expansion (Abramowitz and Stegun 1964, 9.7.1).

    For such x torch's derivative of `i0e` is a difference of nearly equal numbers.
    """
    is_large = x > 100
    series = torch.zeros_like(x)
    inverse = torch.where(is_large, x, 100.0).reciprocal() / 8
    for k in range(8, 0, -1):
        series = (1 + series) * inverse * ((2 * k - 1) ** 2 / k)
    large = series.log1p() - 0.5 * (math.log(2 * math.pi) + x.log())
    small: Tensor = torch.special.i0e(torch.where(is_large, 1.0, x))
    return torch.where(is_large, large, small.log())
