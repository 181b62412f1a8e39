"""The named families of vectors."""

import math
from abc import abstractmethod
from dataclasses import dataclass

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, constraints

from ardist.families.base import Family
from ardist.families.links import Bounded, Positive
from ardist.families.saddle import deviance, gamma_excess
from ardist.families.univariate import gumbel
from ardist.shapes import as_positive

_HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)
# Beyond this float32 cannot tell the smallest from the largest direction of a covariance.
_FACTOR = Bounded(100.0)


@dataclass(frozen=True, repr=False)
class _Gaussian(Family):
    """loc + scale * (root @ e) for standard normal e, where each row of the root holds a one.

    The root has no unit, so that numbers stay in float32's range whatever the scale.
    """

    size: int
    support = constraints.real_vector
    has_rsample = True
    has_noise = True
    _needs_double = True

    def __post_init__(self) -> None:
        self._hold(as_positive, "size")

    # Features are the default, asinh: scale and root both follow what was drawn before, so that
    # a draw may grow as its square, and draws of draws without end.

    @property
    def event_shape(self) -> torch.Size:
        return torch.Size((self.size,))

    def _loc_scale(self, params: Tensor) -> tuple[Tensor, Tensor]:
        return params[..., : self.size], Positive()(params[..., self.size : 2 * self.size])

    @abstractmethod
    def _root(self, params: Tensor) -> Tensor:
        """(..., size, *noise_shape)."""

    def from_noise(self, params: Tensor, noise: Tensor) -> Tensor:
        loc, scale = self._loc_scale(params)
        return torch.addcmul(loc, scale, _apply(self._root(params), noise))

    def sample_noise(self, out: Tensor) -> Tensor:
        return out.normal_()

    def marginal_log_prob(self, params: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        loc, scale = self._loc_scale(params)
        factor = _factor_of_kept(self._root(params), mask)
        away = torch.where(mask, (value - loc) / scale, 0.0).unsqueeze(-1)
        z: Tensor = torch.linalg.solve_triangular(factor, away, upper=False).squeeze(-1)
        log_det = factor.diagonal(dim1=-2, dim2=-1).abs().log()
        return -(0.5 * z.square() + log_det + mask * (scale.log() + _HALF_LOG_TAU)).sum(-1)

    def sample_given(self, params: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        # Matheron's rule: a draw of all, moved by what the error at the kept elements says of
        # the others (Wilson et al. 2021, "Pathwise conditioning of Gaussian processes").
        with torch.no_grad():
            lead = torch.broadcast_shapes(params.shape[:-1], value.shape[:-1], mask.shape[:-1])
            params = params.expand(*lead, -1)
            loc, scale = self._loc_scale(params)
            root = self._root(params)
            drawn = _apply(root, self._noise_for(params).to(params.dtype))
            error = ((value - loc) / scale - drawn) * mask
            factor = _factor_of_kept(root, mask)
            weight = torch.cholesky_solve(error.unsqueeze(-1), factor).squeeze(-1)
            drawn = drawn + _apply(root, _apply(root.mT, weight))
            return torch.where(mask, value, torch.addcmul(loc, scale, drawn))


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    """Their product, by which autocast does not round."""
    return (matrix * vector.unsqueeze(-2)).sum(-1)


def _factor_of_kept(root: Tensor, mask: Tensor) -> Tensor:
    """A triangular root of the covariance of the elements under the mask, one for each other.

    From the QR decomposition of the root: it cannot fail, as the Cholesky decomposition of a
    covariance can.
    """
    kept = root * mask.unsqueeze(-1)
    others = torch.diag_embed((~mask).to(root.dtype))
    others = others.expand(*kept.shape[:-1], -1)
    upper: Tensor = torch.linalg.qr(torch.cat((kept, others), -1).mT).R
    return upper.mT


@dataclass(frozen=True, repr=False)
class MultivariateNormal(_Gaussian):
    """The normal distribution of a vector, by its location and `scale_tril`.

    Parameters: loc, the diagonal of `scale_tril` through `links.Positive`, and what is below it,
    row after row, each in units of its row's diagonal over the root of `size`. So its inverse
    stays in float32's range for parameters of any network that was not trained yet.

    >>> import torch, ardist as ad
    >>> family = ad.families.MultivariateNormal(3)
    >>> family.num_params, family(torch.zeros(9)).scale_tril.diag()
    (9, tensor([1.0000, 1.0000, 1.0000]))
    """

    is_reparameterized = True
    is_bijective = True

    @property
    def num_params(self) -> int:
        return self.size + self.size * (self.size + 1) // 2

    @property
    def noise_shape(self) -> torch.Size:
        return self.event_shape

    def _root(self, params: Tensor) -> Tensor:
        below = params[..., 2 * self.size :] / math.sqrt(self.size)
        rows, columns = torch.tril_indices(self.size, self.size, -1, device=params.device)
        root = torch.diag_embed(torch.ones_like(params[..., : self.size]))
        root[..., rows, columns] = below
        return root

    def __call__(self, params: Tensor) -> Distribution:
        loc, scale = self._loc_scale(params)
        scale_tril = scale.unsqueeze(-1) * self._root(params)
        result: Distribution = dist.MultivariateNormal(
            loc, scale_tril=scale_tril, validate_args=False
        )
        return result

    def to_noise(self, params: Tensor, value: Tensor) -> Tensor:
        loc, scale = self._loc_scale(params)
        away = ((value - loc) / scale).unsqueeze(-1)
        z: Tensor = torch.linalg.solve_triangular(
            self._root(params), away, upper=False, unitriangular=True
        ).squeeze(-1)
        return z

    def log_abs_det_jacobian(self, params: Tensor, value: Tensor) -> Tensor:
        return self._loc_scale(params)[1].log().sum(-1).expand(value.shape[:-1])

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        z = self.to_noise(params, value)
        return -(0.5 * z.square() + _HALF_LOG_TAU).sum(-1) - self.log_abs_det_jacobian(params, z)


@dataclass(frozen=True, repr=False)
class LowRankMultivariateNormal(_Gaussian):
    """The normal distribution of a vector whose covariance is a diagonal plus one of low rank.

    Its cost grows with `size` as that of independent normals. Parameters: loc, the root of the
    covariance's diagonal part through `links.Positive`, and the factor (size, rank), row after
    row, each in units of its row's root and within 100 of zero.

    >>> import torch, ardist as ad
    >>> family = ad.families.LowRankMultivariateNormal(784, rank=5)
    >>> family.num_params, family.sample(torch.zeros(2, family.num_params)).shape
    (5488, torch.Size([2, 784]))
    """

    rank: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self._hold(as_positive, "rank")

    @property
    def num_params(self) -> int:
        return self.size * (2 + self.rank)

    @property
    def noise_shape(self) -> torch.Size:
        return torch.Size((self.rank + self.size,))

    def _factor(self, params: Tensor) -> Tensor:
        return _FACTOR(params[..., 2 * self.size :].unflatten(-1, (self.size, self.rank)))

    def _root(self, params: Tensor) -> Tensor:
        factor = self._factor(params)
        own = torch.eye(self.size, dtype=factor.dtype, device=factor.device)
        return torch.cat((factor, own.expand(*factor.shape[:-1], -1)), -1)

    def from_noise(self, params: Tensor, noise: Tensor) -> Tensor:
        loc, scale = self._loc_scale(params)
        shared, own = noise.split((self.rank, self.size), -1)
        return torch.addcmul(loc, scale, _apply(self._factor(params), shared) + own)

    def __call__(self, params: Tensor) -> Distribution:
        loc, scale = self._loc_scale(params)
        factor = scale.unsqueeze(-1) * self._factor(params)
        result: Distribution = dist.LowRankMultivariateNormal(
            loc, factor, scale.square(), validate_args=False
        )
        return result

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        noise, root = self._mean_noise(params, value)
        _, scale = self._loc_scale(params)
        log_det: Tensor = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        distance = noise.square().sum(-1)
        return -0.5 * distance - log_det - (scale.log() + _HALF_LOG_TAU).sum(-1)

    def pathwise(self, params: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        value = value.detach()
        if noise is None:  # Many give this value. A gradient is linear in them: take the mean.
            with torch.no_grad():
                noise = self._mean_noise(params, value)[0]
        again = self.from_noise(params, noise)
        return value + (again - again.detach())

    def _mean_noise(self, params: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The mean, and mode, of the noise given a value, and the root of its precision."""
        loc, scale = self._loc_scale(params)
        factor, away = self._factor(params), (value - loc) / scale
        with torch.autocast(params.device.type, enabled=False):
            inner = torch.eye(self.rank, dtype=factor.dtype, device=factor.device)
            root: Tensor = torch.linalg.cholesky(inner + factor.mT @ factor)
        towards = _apply(factor.mT, away).unsqueeze(-1)
        shared: Tensor = torch.cholesky_solve(towards, root).squeeze(-1)
        return torch.cat((shared, away - _apply(factor, shared)), -1), root


@dataclass(frozen=True, repr=False)
class Dirichlet(Family):
    """The Dirichlet distribution of `size` shares of one, by concentrations of at least 0.01.

    A share of zero, at which the density may be infinite, is scored as the smallest positive
    number, to which draws are moved too.

    >>> import torch, ardist as ad
    >>> ad.families.Dirichlet(3)(torch.zeros(3)).concentration
    tensor([1.0100, 1.0100, 1.0100])
    """

    size: int
    support = constraints.simplex
    has_rsample = True
    _needs_double = True

    def __post_init__(self) -> None:
        self._hold(as_positive, "size")

    @property
    def event_shape(self) -> torch.Size:
        return torch.Size((self.size,))

    @property
    def num_params(self) -> int:
        return self.size

    def __call__(self, params: Tensor) -> Distribution:
        result: Distribution = dist.Dirichlet(Positive(1e-2)(params), validate_args=False)
        return result

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        each = Positive(1e-2)(params)
        total = each.sum(-1)
        fit = deviance(each, total.unsqueeze(-1) * value) + gamma_excess(each)
        normal = gamma_excess(total) - total.log() + total * (value.sum(-1) - 1)
        return normal + (each.log() - value.log() - fit).sum(-1)

    def sample(self, params: Tensor) -> Tensor:
        # Gamma draws of small concentrations underflow, their logarithms do not: a draw for
        # a + 1 times u^(1/a) is one for a (Marsaglia and Tsang 2000).
        with torch.no_grad():
            concentration = Positive(1e-2)(params)
            uniform = torch.rand_like(concentration).clamp(min=torch.finfo(params.dtype).tiny)
            larger: Tensor = dist.Gamma(concentration + 1, 1.0, validate_args=False).sample()
            return (larger.log() + uniform.log() / concentration).softmax(-1)

    def features(self, value: Tensor) -> Tensor:
        return value


@dataclass(frozen=True, repr=False)
class OneHotCategorical(Family):
    """One of `num_categories` unit vectors, as floats. Its parameters are the logits.

    >>> import torch, ardist as ad
    >>> ad.families.OneHotCategorical(3).log_prob(torch.zeros(3), torch.tensor([0.0, 1.0, 0.0]))
    tensor(-1.0986)
    """

    num_categories: int
    support = constraints.one_hot
    has_noise = True

    def __post_init__(self) -> None:
        self._hold(as_positive, "num_categories")

    @property
    def event_shape(self) -> torch.Size:
        return torch.Size((self.num_categories,))

    @property
    def num_params(self) -> int:
        return self.num_categories

    @property
    def noise_shape(self) -> torch.Size:
        return self.event_shape

    def __call__(self, params: Tensor) -> Distribution:
        result: Distribution = dist.OneHotCategorical(logits=params, validate_args=False)
        return result

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        # Of the state alone: the logits of others may be -inf, and zero times that is NaN.
        return (params.log_softmax(-1).masked_fill(value == 0, 0.0) * value).sum(-1)

    def sample_noise(self, out: Tensor) -> Tensor:
        return gumbel(out)

    def from_noise(self, params: Tensor, noise: Tensor) -> Tensor:
        index = (params + noise).argmax(-1)
        return F.one_hot(index, self.num_categories).to(params.dtype)

    def features(self, value: Tensor) -> Tensor:
        return value
