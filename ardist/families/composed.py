"""Families made of other families."""

import math
from dataclasses import dataclass
from functools import partial

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.distributions import Independent as TorchIndependent

from ardist.families.base import Family, choose, log_sum_exp, product
from ardist.families.links import Positive
from ardist.shapes import as_integer, as_positive, as_size, check_type


@dataclass(frozen=True, repr=False)
class _OfFamily(Family):
    """A family made of one other."""

    family: Family

    def __post_init__(self) -> None:
        check_type(self.family, Family, "family")

    @property
    def has_noise(self) -> bool:
        return self.family.has_noise

    @property
    def is_index(self) -> bool:
        return self.family.is_index

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return self.family.modules

    def is_ancestral(self, mask: Tensor) -> bool:
        return self.family.is_ancestral(mask)


@dataclass(frozen=True, repr=False)
class _OfSameValues(_OfFamily):
    """A family made of one other, whose values it has and shows to networks likewise."""

    @property
    def event_shape(self) -> torch.Size:
        return self.family.event_shape

    @property
    def num_features(self) -> int:
        return self.family.num_features

    @property
    def support(self) -> constraints.Constraint:
        return self.family.support

    def inside(self, value: Tensor) -> Tensor:
        return self.family.inside(value)

    def features(self, value: Tensor) -> Tensor:
        return self.family.features(value)

    def project(self, value: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.family.project(value, weight, bias)

    def placeholder(self) -> Tensor:
        return self.family.placeholder()

    def enumerate_support(self) -> Tensor | None:
        return self.family.enumerate_support()


@dataclass(frozen=True, repr=False)
class Mixture(_OfSameValues):
    """`num_components` of one family, mixed. Parameters: the logits, then each component's.

    A continuous mixture has `rsample` where its component has a CDF with gradients to its
    parameters (all named ones of one number do, but `VonMises`), by implicit differentiation of
    the mixture's CDF (Figurnov et al. 2018).

    >>> import torch, ardist as ad
    >>> family = ad.families.Mixture(ad.families.Normal(), 8)
    >>> family.num_params, family.log_prob(torch.zeros(24), torch.tensor(0.0))
    (24, tensor(-0.9189))
    """

    num_components: int
    _scores_by_others = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._hold(as_positive, "num_components")

    @property
    def num_params(self) -> int:
        return self.num_components * (1 + self.family.num_params)

    @property
    def has_rsample(self) -> bool:
        return self.family.has_cdf_gradient and not self.event_shape

    @property
    def has_cdf(self) -> bool:
        return self.family.has_cdf

    @property
    def has_cdf_gradient(self) -> bool:
        return self.family.has_cdf_gradient

    def _split(self, params: Tensor) -> tuple[Tensor, Tensor]:
        logits = params[..., : self.num_components]
        return logits, params[..., self.num_components :].unflatten(-1, (self.num_components, -1))

    def _for_each(self, value: Tensor) -> Tensor:
        return value.unsqueeze(-1 - len(self.event_shape))

    def __call__(self, params: Tensor) -> Distribution:
        logits, each = self._split(params)
        result: Distribution = dist.MixtureSameFamily(
            dist.Categorical(logits=logits, validate_args=False),
            self.family(each),
            validate_args=False,
        )
        return result

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        logits, each = self._split(params)
        return log_sum_exp(
            logits.log_softmax(-1) + self.family.log_prob(each, self._for_each(value))
        )

    def _component(self, params: Tensor, uniform: Tensor) -> Tensor:
        """The parameters of the component that these uniforms choose."""
        logits, each = self._split(params)
        index = choose(logits, uniform)
        index = index[..., None, None].expand(*index.shape, 1, each.shape[-1])
        return each.gather(-2, index).squeeze(-2)

    def sample(self, params: Tensor) -> Tensor:
        with torch.no_grad():
            uniform = torch.rand(params.shape[:-1], dtype=params.dtype, device=params.device)
            return self.family.sample(self._component(params, uniform))

    @property
    def noise_shape(self) -> torch.Size:
        return torch.Size((1 + math.prod(self.family.noise_shape),))

    def sample_noise(self, out: Tensor) -> Tensor:
        out[..., 0].uniform_()
        inner = self.family.noise(out.shape[:-1], dtype=out.dtype, device=out.device)
        out[..., 1:] = inner.reshape(*out.shape[:-1], -1)
        return out

    def from_noise(self, params: Tensor, noise: Tensor) -> Tensor:
        inner = noise[..., 1:].reshape(*noise.shape[:-1], *self.family.noise_shape)
        return self.family.from_noise(self._component(params, noise[..., 0]), inner)

    def cdf(self, params: Tensor, value: Tensor) -> Tensor:
        logits, each = self._split(params)
        return (logits.softmax(-1) * self.family.cdf(each, self._for_each(value))).sum(-1)


@dataclass(frozen=True, repr=False)
class DiscretizedLogisticMixture(Family):
    """A mixture of logistics rounded to the integers 0, ..., `bins` - 1 (Salimans et al. 2017).

    The mass of the outermost bins reaches to infinity. For each component a logit, a location
    and a scale, the latter two in units where the bins span [-1, 1].

    >>> import torch, ardist as ad
    >>> family = ad.families.DiscretizedLogisticMixture(5, bins=256)
    >>> family.log_prob(torch.randn(15), torch.arange(256)).exp().sum().round(decimals=4)
    tensor(1.)
    """

    num_components: int
    bins: int
    has_noise = True
    is_index = True
    noise_shape = torch.Size((2,))

    def __post_init__(self) -> None:
        self._hold(as_positive, "num_components")
        self._hold(partial(as_integer, least=2), "bins")

    @property
    def _needs_double(self) -> bool:  # type: ignore[override]
        return self.bins > 2**12  # of which float32 cannot tell the edges

    @property
    def num_params(self) -> int:
        return 3 * self.num_components

    @property
    def num_features(self) -> int:
        return 1

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.bins - 1)

    def __call__(self, params: Tensor) -> Distribution:
        values = torch.arange(self.bins, device=params.device)
        return dist.Categorical(
            logits=self.log_prob(params.unsqueeze(-2), values), validate_args=False
        )

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        logits, loc, raw = params.unflatten(-1, (3, -1)).unbind(-2)
        half = 1 / (self._scale(raw) * (self.bins - 1))
        away = self._away(value, loc)
        # log(sigmoid(a) - sigmoid(b)) = logsigmoid(a) + logsigmoid(-b) + log(1 - exp(b - a)),
        # in which no term cancels; an end bin keeps the factor of its inner edge alone.
        first, last = (value == 0).unsqueeze(-1), (value == self.bins - 1).unsqueeze(-1)
        upper = F.logsigmoid((away + 1) * half).masked_fill(last, 0.0)
        lower = F.logsigmoid((1 - away) * half).masked_fill(first, 0.0)
        width = torch.log(-torch.expm1(-2 * half)).masked_fill(first | last, 0.0)
        result: Tensor = (logits.log_softmax(-1) + upper + lower + width).logsumexp(-1)
        return result

    def _away(self, value: Tensor, loc: Tensor) -> Tensor:
        """How far values are from loc, in half bins: (..., num_components).

        In two parts, the larger of which is exact: a sharp scale magnifies rounding.
        """
        last = self.bins - 1
        grid = 2.0 ** (22 - last.bit_length())
        near = (loc.detach() * grid).round() / grid
        return (2 * value.unsqueeze(-1) - last).to(loc.dtype) - near * last - (loc - near) * last

    def _scale(self, raw: Tensor) -> Tensor:
        # A scale of a hundredth of a bin is certainty already.
        return Positive(0.01 / self.bins)(raw - 2.0)

    def sample_noise(self, out: Tensor) -> Tensor:
        out.uniform_().clamp_(min=torch.finfo(out.dtype).tiny)
        out[..., 1].logit_()
        return out

    def from_noise(self, params: Tensor, noise: Tensor) -> Tensor:
        logits, loc, raw = params.unflatten(-1, (3, -1)).unbind(-2)
        chosen = choose(logits, noise[..., 0]).unsqueeze(-1)
        loc, raw = loc.gather(-1, chosen).squeeze(-1), raw.gather(-1, chosen).squeeze(-1)
        value = torch.addcmul(loc, self._scale(raw), noise[..., 1])
        return ((value + 1) * ((self.bins - 1) / 2)).round().clamp(0, self.bins - 1).long()

    def cdf(self, params: Tensor, value: Tensor) -> Tensor:
        logits, loc, raw = params.unflatten(-1, (3, -1)).unbind(-2)
        edge = (self._away(value.floor(), loc) + 1) / (self._scale(raw) * (self.bins - 1))
        below = (logits.softmax(-1) * edge.sigmoid()).sum(-1)
        below = torch.where(value < self.bins - 1, below, 1.0)
        return torch.where(value < 0, 0.0, below)

    def features(self, value: Tensor) -> Tensor:
        return (value * (2 / (self.bins - 1)) - 1).unsqueeze(-1)


@dataclass(frozen=True, repr=False)
class Independent(_OfFamily):
    """A block of `shape` whose elements are independent conditionals of one family.

    >>> import ardist as ad
    >>> ad.families.Independent(ad.families.Bernoulli(), (88,)).num_params
    88
    """

    shape: tuple[int, ...]
    _scores_by_others = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._hold(lambda shape, name: tuple(as_size(shape, name)), "shape")

    @property
    def event_shape(self) -> torch.Size:
        return torch.Size(self.shape) + self.family.event_shape

    @property
    def num_params(self) -> int:
        return math.prod(self.shape) * self.family.num_params

    @property
    def num_features(self) -> int:
        return math.prod(self.shape) * self.family.num_features

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(self.family.support, len(self.shape))

    @property
    def has_rsample(self) -> bool:
        return self.family.has_rsample

    @property
    def noise_shape(self) -> torch.Size:
        return torch.Size(self.shape) + self.family.noise_shape

    def _each(self, params: Tensor) -> Tensor:
        return params.reshape(*params.shape[:-1], *self.shape, self.family.num_params)

    def _total(self, each: Tensor) -> Tensor:
        return each.sum(tuple(range(-len(self.shape), 0))) if self.shape else each

    def __call__(self, params: Tensor) -> Distribution:
        inner = self.family(self._each(params))
        return TorchIndependent(inner, len(self.shape), validate_args=False)

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        return self._total(self.family.log_prob(self._each(params), value))

    def sample(self, params: Tensor) -> Tensor:
        return self.family.sample(self._each(params))

    def pathwise(self, params: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.family.pathwise(self._each(params), value, noise)

    def sample_noise(self, out: Tensor) -> Tensor:
        lead = out.shape[: out.dim() - len(self.family.noise_shape)]
        return self.family.noise(lead, dtype=out.dtype, device=out.device)

    def from_noise(self, params: Tensor, noise: Tensor) -> Tensor:
        return self.family.from_noise(self._each(params), noise)

    @property
    def is_reparameterized(self) -> bool:
        return self.family.is_reparameterized

    @property
    def is_bijective(self) -> bool:
        return self.family.is_bijective

    def to_noise(self, params: Tensor, value: Tensor) -> Tensor:
        return self.family.to_noise(self._each(params), value)

    def log_abs_det_jacobian(self, params: Tensor, value: Tensor) -> Tensor:
        return self._total(self.family.log_abs_det_jacobian(self._each(params), value))

    def features(self, value: Tensor) -> Tensor:
        return self.family.features(value).flatten(-1 - len(self.shape))

    def inside(self, value: Tensor) -> Tensor:
        valid, dims = self.family.inside(value), len(self.shape)
        return valid.flatten(-dims).all(-1) if dims else valid

    def placeholder(self) -> Tensor:
        return self.family.placeholder().expand(self.event_shape)

    def enumerate_support(self) -> Tensor | None:
        states = self.family.enumerate_support()
        return None if states is None else product(states, self.shape)

    def marginal_log_prob(self, params: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        return self._total(self.family.marginal_log_prob(self._each(params), value, mask))

    def is_ancestral(self, mask: Tensor) -> bool:
        return all(map(self.family.is_ancestral, mask.reshape(-1, *self.family.event_shape)))

    def sample_given(self, params: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        return self.family.sample_given(self._each(params), value, mask)
