"""Families made of other families."""

import math
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions import Independent as TorchIndependent

from ardist.families.base import Family, choose, product
from ardist.families.estimation import apart
from ardist.families.guards import ends_of
from ardist.families.logs import log_sum_exp
from ardist.families.noise import uniform_noise
from ardist.families.quantiles import of_counts, of_reals
from ardist.shapes import as_positive, as_size, check_type


def forwarded(name: str) -> Any:
    """A method that calls the inner family's method of this name."""

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._inner, name)(*args, **kwargs)

    method.__name__ = name
    return method


def attribute(name: str) -> Any:
    """A property that returns the inner family's attribute of this name."""
    return property(lambda self: getattr(self._inner, name))


def _flag(name: str) -> Any:
    """A flag that is set if this class defines the methods and the inner family has the flag."""
    follows = getattr(Family, name).fget
    return property(lambda self: follows(self) and getattr(self._inner, name))


@dataclass(frozen=True, repr=False)
class Derived(Family):
    """A family made from another family.

    It has the parameters, values, noise and features of that family, unless a subclass changes
    them. A subclass defines how values are sampled and scored.
    """

    family: Family

    def __post_init__(self) -> None:
        check_type(self.family, Family, "family")

    @property
    def _inner(self) -> Family:
        return self.family

    has_rsample = _flag("has_rsample")
    has_noise = _flag("has_noise")
    is_reparameterized = _flag("is_reparameterized")
    is_bijective = _flag("is_bijective")
    has_cdf = _flag("has_cdf")
    has_cdf_gradient = _flag("has_cdf_gradient")

    event_shape = attribute("event_shape")
    num_params = attribute("num_params")
    num_features = attribute("num_features")
    support = attribute("support")
    noise_shape = attribute("noise_shape")
    is_index = attribute("is_index")
    modules = attribute("modules")

    inside = forwarded("inside")
    features = forwarded("features")
    project = forwarded("project")
    placeholder = forwarded("placeholder")
    enumerate_support = forwarded("enumerate_support")
    is_ancestral = forwarded("is_ancestral")
    sample_noise = forwarded("sample_noise")
    _widened = forwarded("_widened")
    _start = forwarded("_start")


@dataclass(frozen=True, repr=False)
class Selecting(Derived):
    """A family whose draws select a part by a uniform number, then draw from this part.

    The noise is the uniform number, followed by the noise of the inner family.
    """

    @property
    def noise_shape(self) -> torch.Size:
        return torch.Size((1 + math.prod(self.family.noise_shape),))

    def sample_noise(self, out: Tensor) -> Tensor:
        uniform_noise(out[..., 0])
        inner = self.family.noise(out.shape[:-1], dtype=out.dtype, device=out.device)
        out[..., 1:] = inner.reshape(*out.shape[:-1], -1)
        return out

    def _split_noise(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The uniform number (...), and the noise of the inner family."""
        inner = noise[..., 1:].reshape((*noise.shape[:-1], *self.family.noise_shape))
        return noise[..., 0], inner


class _MixtureDistribution(dist.MixtureSameFamily):  # type: ignore[misc]  # it has no types
    """torch's mixture, with quantiles if its components have a CDF."""

    @torch.no_grad()
    def icdf(self, value: Tensor) -> Tensor:
        uniform = value.expand(torch.broadcast_shapes(value.shape, self.batch_shape))
        ends = ends_of(self.support)
        if ends.is_discrete:
            return of_counts(self.cdf, uniform)
        return of_reals(self.cdf, ends.within(uniform.dtype), uniform)


@dataclass(frozen=True, repr=False)
class Mixture(Selecting):
    """A mixture of `num_components` conditionals of one family.

    Its parameters are the logits of the components, then the parameters of each component. A
    continuous mixture has `rsample` if the CDF of its components has gradients. This holds for
    all named families of one real number except `VonMises`. The gradients of draws are implicit,
    by the CDF of the mixture (Figurnov et al. 2018).

    Args:
        family: the family of the components.
        num_components: number of components, at least 1.

    Raises:
        ValueError: if an argument is invalid.

    >>> import torch, ardist as ad
    >>> family = ad.families.Mixture(ad.families.Normal(), 8)
    >>> family.num_params, family.log_prob(torch.zeros(24), torch.tensor(0.0))
    (24, tensor(-0.9189))
    """

    num_components: int
    _is_scored_by_parts = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(as_positive, "num_components")

    @property
    def num_params(self) -> int:
        return self.num_components * (1 + self.family.num_params)

    @property
    def has_rsample(self) -> bool:
        return self.has_cdf_gradient

    def _split(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (..., K) and parameters of the components (..., K, num_params)."""
        logits = params[..., : self.num_components]
        return logits, params[..., self.num_components :].unflatten(-1, (self.num_components, -1))

    def _for_each(self, value: Tensor) -> Tensor:
        return value.unsqueeze(-1 - len(self.event_shape))

    def __call__(self, params: Tensor) -> Distribution:
        logits, each = self._split(params)
        mixing = dist.Categorical(logits=logits, validate_args=False)
        return _MixtureDistribution(mixing, self.family(each), validate_args=False)

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        logits, each = self._split(params)
        return log_sum_exp(
            logits.log_softmax(-1) + self.family.log_prob(each, self._for_each(value))
        )

    def _start(self, values: Tensor, weights: Tensor) -> Tensor | None:
        each = self.family._start(values, weights)
        if each is None:
            return None
        logits = each.new_zeros(each.shape[0], self.num_components)
        return apart(torch.cat((logits, each.repeat(1, self.num_components)), -1))

    def _component(self, params: Tensor, uniform: Tensor) -> Tensor:
        """The parameters of the component that a uniform number selects, (..., 1, num_params)."""
        logits, each = self._split(params)
        index = choose(logits, uniform)
        each = each.expand((*index.shape, *each.shape[-2:]))
        return each.gather(-2, index[..., None, None].expand(*index.shape, 1, each.shape[-1]))

    def _only(self, each: Tensor) -> Tensor:
        """The inverse of `_for_each` for one component."""
        return each.squeeze(-1 - len(self.event_shape))

    def sample(self, params: Tensor) -> Tensor:
        with torch.no_grad():
            uniform = torch.rand(params.shape[:-1], dtype=params.dtype, device=params.device)
            return self._only(self.family.sample(self._component(params, uniform)))

    def from_noise(self, params: Tensor, noise: Tensor) -> Tensor:
        uniform, inner = self._split_noise(noise)
        inner = inner.unsqueeze(-1 - len(self.family.noise_shape))
        return self._only(self.family.from_noise(self._component(params, uniform), inner))

    def cdf(self, params: Tensor, value: Tensor) -> Tensor:
        logits, each = self._split(params)
        return (logits.softmax(-1) * self.family.cdf(each, self._for_each(value))).sum(-1)

    # A component may have both points and a density, as `Hurdle` has.
    _is_atom = forwarded("_is_atom")
    _search = forwarded("_search")
    _rounded = forwarded("_rounded")

    def interval_log_prob(self, params: Tensor, low: Any, high: Any) -> Tensor:
        logits, each = self._split(params)
        within = self.family.interval_log_prob(each, low.unsqueeze(-1), high.unsqueeze(-1))
        return log_sum_exp(logits.log_softmax(-1) + within)

    def log_tails(self, params: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        logits, each = self._split(params)
        mixing, tails = logits.log_softmax(-1), self.family.log_tails(each, self._for_each(value))
        below, above = (log_sum_exp(mixing + tail) for tail in tails)
        return below, above


@dataclass(frozen=True, repr=False)
class Independent(Derived):
    """A block of independent elements, all of one family.

    Its event_shape is `(*shape, *family.event_shape)`.

    Args:
        family: the family of the elements.
        shape: positive integers.

    Raises:
        ValueError: if an argument is invalid.

    >>> import ardist as ad
    >>> ad.families.Independent(ad.families.Bernoulli(), (88,)).num_params
    88
    """

    shape: tuple[int, ...]
    _is_scored_by_parts = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(lambda shape, name: tuple(as_size(shape, name)), "shape")

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
    def noise_shape(self) -> torch.Size:
        return torch.Size(self.shape) + self.family.noise_shape

    project = Family.project

    def _each(self, params: Tensor) -> Tensor:
        return params.reshape(*params.shape[:-1], *self.shape, self.family.num_params)

    def _start(self, values: Tensor, weights: Tensor) -> Tensor | None:
        size = math.prod(self.shape)
        values = values.reshape(values.shape[0], -1, *self.family.event_shape)
        each = self.family._start(values, weights.repeat_interleave(size, 1))
        return None if each is None else each.reshape(weights.shape[1], -1)

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

    def from_noise(self, params: Tensor, noise: Tensor) -> Tensor:
        return self.family.from_noise(self._each(params), noise)

    def to_noise(self, params: Tensor, value: Tensor) -> Tensor:
        return self.family.to_noise(self._each(params), value)

    def log_abs_det_jacobian(self, params: Tensor, value: Tensor) -> Tensor:
        return self._total(self.family.log_abs_det_jacobian(self._each(params), value))

    def features(self, value: Tensor) -> Tensor:
        return self.family.features(value).flatten(-1 - len(self.shape))

    def inside(self, value: Tensor) -> Tensor:
        return self._all(self.family.inside(value))

    def _is_atom(self, value: Tensor) -> Tensor:
        return self._all(self.family._is_atom(value))

    def _all(self, each: Tensor) -> Tensor:
        dims = len(self.shape)
        return each.flatten(-dims).all(-1) if dims else each

    _rounded = forwarded("_rounded")

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
