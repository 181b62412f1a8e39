"""Families with a temperature or with truncated support, for the parameters of a trained family.

They have its parameters and features, so that a trained network can use them without changes.
They are normalized, so that `log_prob` is the log probability of their draws.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, constraints

from ardist.families.base import Family, states_of
from ardist.families.composed import Derived, Independent, forwarded
from ardist.families.conditional import Conditional
from ardist.families.guards import at_least_single
from ardist.families.noise import gumbel_noise
from ardist.families.univariate import Categorical, Laplace, LocationScale, Normal
from ardist.families.vector import OneHotCategorical
from ardist.shapes import as_positive, as_real, as_scale, constant, gather_last


@dataclass(frozen=True, repr=False)
class FiniteFamily(Derived):
    """A finite family that is defined by the log-probabilities of its states."""

    has_noise = True

    def state_logits(self, params: Tensor) -> Tensor:
        """Log-probabilities of the states, up to a constant: (..., num_states)."""
        return self.changed(state_logits_of(self.family, params))

    @abstractmethod
    def changed(self, logits: Tensor) -> Tensor:
        """The logits of this family, from the logits of the inner family."""

    @constant
    def _num_states(self) -> int:
        return states_of(self.family).shape[0]

    @constant
    def _counts(self) -> bool:
        """Whether each value is the index of its state, as a float or an integer."""
        return is_range(states_of(self.family))

    @constant
    def _is_range(self) -> bool:
        """Whether each value is the index of its state, as an integer."""
        return self.is_index and self._counts

    def _states_like(self, reference: Tensor) -> Tensor:
        dtype = torch.int64 if self.is_index else reference.dtype
        return states_of(self.family).to(reference.device, dtype)

    def _number(self, value: Tensor) -> Tensor:
        """The index of the state that each value equals: (...) int64."""
        if self._is_range:
            return value.long()
        if isinstance(self.support, type(constraints.one_hot)):
            return value.argmax(-1)
        dim = len(self.event_shape)
        same = value.unsqueeze(-1 - dim) == self._states_like(value)
        return same.unsqueeze(-1).flatten(-1 - dim).all(-1).int().argmax(-1)

    def __call__(self, params: Tensor) -> Distribution:
        if self._is_range:
            return dist.Categorical(logits=self.state_logits(params), validate_args=False)
        return Conditional(self, params)

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        return gather_last(self.state_logits(params).log_softmax(-1), self._number(value))

    def _state_probs(self, params: Tensor, states: Tensor) -> Tensor:
        return self.state_logits(params).softmax(-1)

    @property
    def noise_shape(self) -> torch.Size:
        return torch.Size((self._num_states,))

    def sample_noise(self, out: Tensor) -> Tensor:
        return gumbel_noise(out)

    def from_noise(self, params: Tensor, noise: Tensor) -> Tensor:
        number = (self.state_logits(params) + noise).argmax(-1)
        return number if self._is_range else self._states_like(params)[number]


def is_range(states: Tensor | None) -> bool:
    """Whether the states of a family are 0, 1, ..., n - 1."""
    if states is None or states.dim() > 1:
        return False
    return torch.equal(states, torch.arange(states.shape[0]).to(states))


def state_logits_of(family: Family, params: Tensor) -> Tensor:
    """Log-probabilities of a finite family's states, up to a constant: (..., num_states)."""
    if isinstance(family, Tempered):
        family = family._inner
    if (own := getattr(family, "state_logits", None)) is not None:
        return own(params)
    if type(family) in (Categorical, OneHotCategorical):
        return params
    states = states_of(family).to(params.device)
    if not family.is_index:
        states = states.to(params.dtype)
    return family.log_prob(params.unsqueeze(-2), states)


@dataclass(frozen=True, repr=False)
class _TemperedStates(FiniteFamily):
    temperature: float

    def __repr__(self) -> str:
        return f"Tempered({self.family}, {self.temperature})"

    def changed(self, logits: Tensor) -> Tensor:
        return logits / self.temperature


@dataclass(frozen=True, repr=False)
class _Stretched(LocationScale):
    """A location-scale family whose scale is multiplied by `stretch`."""

    stretch: float = 1.0

    def _loc_scale(self, params: Tensor) -> tuple[Tensor, Tensor]:
        loc, scale = super()._loc_scale(params)
        return loc, scale * self.stretch


class _StretchedNormal(_Stretched, Normal):
    pass


class _StretchedLaplace(_Stretched, Laplace):
    pass


def _tempered(family: Family, temperature: float) -> Family:
    """The family of densities to the power 1 / temperature, normalized."""
    if isinstance(family, Tempered):
        return _tempered(family.family, family.temperature * temperature)
    if isinstance(family, Independent):
        return Independent(_tempered(family.family, temperature), family.shape)
    if type(family) is Normal:
        return _StretchedNormal(family.min_scale, math.sqrt(temperature))
    if type(family) is Laplace:
        return _StretchedLaplace(family.min_scale, temperature)
    if family.enumerate_support() is not None:
        return _TemperedStates(family, temperature)
    raise ValueError(
        f"family: expected a finite discrete family, Normal, Laplace, or Independent of one of "
        f"these, got {family}"
    )


@dataclass(frozen=True, repr=False)
class Tempered(Derived):
    """The conditionals of a family, raised to the power 1 / `temperature` and normalized.

    Conditionals are sharper for temperatures below 1 and flatter above 1. The temperature applies
    to each conditional, not to the joint distribution.

    Args:
        family: a finite discrete family, `Normal`, `Laplace`, or `Independent` of one of these.
        temperature: above 0.

    Raises:
        ValueError: if the family is another one, or the temperature is not positive.

    >>> import torch, ardist as ad
    >>> family = ad.families.Tempered(ad.families.Categorical(2), 0.5)
    >>> family(torch.tensor([0.75, 0.25]).log()).probs
    tensor([0.9000, 0.1000])
    """

    temperature: float
    _is_scored_by_parts = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(as_scale, "temperature")
        self._inner  # noqa: B018  raises if the family cannot be tempered

    @cached_property
    def _inner(self) -> Family:
        """The tempered family, with the same parameters."""
        return _tempered(self.family, self.temperature)

    __call__ = forwarded("__call__")
    log_prob = forwarded("log_prob")
    sample = forwarded("sample")
    rsample = forwarded("rsample")
    pathwise = forwarded("pathwise")
    from_noise = forwarded("from_noise")
    to_noise = forwarded("to_noise")
    log_abs_det_jacobian = forwarded("log_abs_det_jacobian")
    to_noise_and_log_det = forwarded("to_noise_and_log_det")
    cdf = forwarded("cdf")
    icdf = forwarded("icdf")
    log_tails = forwarded("log_tails")
    marginal_log_prob = forwarded("marginal_log_prob")
    sample_given = forwarded("sample_given")


@dataclass(frozen=True, repr=False)
class Likeliest(FiniteFamily):
    """A finite family that always draws its most probable state, the first one on ties."""

    has_noise = False

    def changed(self, logits: Tensor) -> Tensor:
        return logits

    def sample(self, params: Tensor) -> Tensor:
        with torch.no_grad():
            return self.from_noise(params, torch.zeros_like(params[..., :1]))

    def sample_given(self, params: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        with torch.no_grad():
            states, wanted, kept = (
                part.unsqueeze(-1).flatten(-1 - len(self.event_shape))
                for part in (self._states_like(params), value, mask)
            )
            agree = ((states == wanted.unsqueeze(-2)) | ~kept.unsqueeze(-2)).all(-1)
            return self.from_noise(params, torch.where(agree, 0.0, -torch.inf).to(params.dtype))


@dataclass(frozen=True, repr=False)
class Chosen(FiniteFamily):
    """A subset of the states, renormalized. The other states have probability 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.family, Independent):
            raise ValueError(
                f"family: expected a family of single values, got {self.family}; "
                f"Independent({type(self).__name__}({self.family.family}, ...), "
                f"{tuple(self.family.shape)}) truncates each element"
            )
        if self.event_shape and not isinstance(self.support, type(constraints.one_hot)):
            raise ValueError(f"family: expected a family of single values, got {self.family}")
        states_of(self.family)

    @abstractmethod
    def _kept(self, logits: Tensor) -> Tensor:
        """Whether each state is kept: (..., num_states) bool."""

    def state_logits(self, params: Tensor) -> Tensor:
        return super().state_logits(params.to(at_least_single(params.dtype)))

    def changed(self, logits: Tensor) -> Tensor:
        return logits.masked_fill(~self._kept(logits.detach()), -math.inf)


@dataclass(frozen=True, repr=False)
class TopK(Chosen):
    """The `k` most probable states of a family, renormalized (Fan et al. 2018).

    The first states are kept on ties. The support is unchanged, and the other states have a
    log_prob of -inf. In rare cases a draw also scores -inf: if the last state kept and the first
    state left out differ by less than the rounding between a decoder's step and the parallel pass.

    Args:
        family: a finite discrete family of single values, or `OneHotCategorical`.
        k: number of states to keep, at least 1. If there are fewer, all are kept.

    Raises:
        ValueError: if the family is another one, or `k` is not a positive integer.

    >>> import torch, ardist as ad
    >>> family = ad.families.TopK(ad.families.Tempered(ad.families.Categorical(65), 0.8), 40)
    >>> int((family(torch.randn(65)).probs > 0).sum())
    40
    """

    k: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(as_positive, "k")

    def _kept(self, logits: Tensor) -> Tensor:
        if self.k >= self._num_states:
            return torch.ones_like(logits, dtype=torch.bool)
        last = logits.topk(self.k, -1).values[..., -1:]
        above, equal = logits > last, logits == last
        return above | (equal & (equal.cumsum(-1) <= self.k - above.sum(-1, keepdim=True)))


def _as_mass(value: float, name: str) -> float:
    return as_real(value, name, "a probability in (0, 1]", lambda x: 0 < x <= 1)


@dataclass(frozen=True, repr=False)
class Nucleus(Chosen):
    """The smallest set of most probable states with mass `p`, renormalized (Holtzman et al. 2020).

    At least one state is kept, and the first states are kept on ties. The other states score as in
    `TopK`.

    Args:
        family: a finite discrete family of single values, or `OneHotCategorical`.
        p: the mass to keep, above 0 and at most 1.

    Raises:
        ValueError: if the family is another one, or `p` is out of range.

    >>> import torch, ardist as ad
    >>> family = ad.families.Nucleus(ad.families.Categorical(4), 0.75)
    >>> family(torch.tensor([0.1, 0.3, 0.5, 0.1]).log()).probs
    tensor([0.0000, 0.3750, 0.6250, 0.0000])
    """

    p: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(_as_mass, "p")

    def _kept(self, logits: Tensor) -> Tensor:
        if self.p == 1:  # a rounded sum may reach 1 before the last state
            return torch.ones_like(logits, dtype=torch.bool)
        probs, order = logits.softmax(-1).sort(dim=-1, descending=True, stable=True)
        before = F.pad(probs.cumsum(-1)[..., :-1], (1, 0))
        return torch.empty_like(before, dtype=torch.bool).scatter_(-1, order, before < self.p)
