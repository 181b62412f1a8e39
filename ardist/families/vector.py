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
from ardist.families.implicit import with_gradient
from ardist.families.links import Bounded, Positive
from ardist.families.logs import HALF_LOG_TAU
from ardist.families.noise import gumbel_noise
from ardist.families.saddle import deviance, gamma_excess
from ardist.shapes import as_positive, expand_to_batch

# With larger entries the condition number of a covariance exceeds the precision of float32.
_FACTOR = Bounded(100.0)


@dataclass(frozen=True, repr=False)
class _Gaussian(Family):
    """loc + scale * (root @ e) for standard normal e. Each row of the root contains a one.

    The root has no unit, so that its entries stay in the range of float32 for every scale.
    """

    size: int
    support = constraints.real_vector
    needs_double = True

    def __post_init__(self) -> None:
        self._check(as_positive, "size")

    # Features are asinh, the default. Scale and root both depend on earlier draws, so a draw may
    # grow as the square of an earlier draw, again and again.

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
        z = torch.linalg.solve_triangular(factor, away, upper=False).squeeze(-1)
        log_det = factor.diagonal(dim1=-2, dim2=-1).abs().log()
        return -(0.5 * z.square() + log_det + mask * (scale.log() + HALF_LOG_TAU)).sum(-1)

    def sample_given(self, params: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        # Matheron's rule: a draw of all elements is moved by the regression of the others on the
        # error at the kept elements (Wilson et al. 2021, "Pathwise conditioning of Gaussian
        # processes").
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
    """The product, in a form that autocast does not round."""
    return (matrix * vector.unsqueeze(-2)).sum(-1)


def _factor_of_kept(root: Tensor, mask: Tensor) -> Tensor:
    """A triangular root of the covariance of the elements under the mask, with 1 for the others.

    It uses the QR decomposition of the root, which cannot fail. The Cholesky decomposition of a
    covariance can fail.
    """
    kept = root * mask.unsqueeze(-1)
    others = torch.diag_embed((~mask).to(root.dtype))
    others = others.expand(*kept.shape[:-1], -1)
    return torch.linalg.qr(torch.cat((kept, others), -1).mT).R.mT


@dataclass(frozen=True, repr=False)
class MultivariateNormal(_Gaussian):
    """The normal distribution of a vector, by its location and `scale_tril`.

    The parameters are loc, the diagonal of `scale_tril` before `links.Positive`, and the entries
    below the diagonal, row by row. An entry is in units of the diagonal entry of its row, divided
    by the square root of `size`. So the inverse of `scale_tril` stays in the range of float32 for
    the parameters of every untrained network.

    Args:
        size: length of the vector, at least 1.

    Raises:
        ValueError: if it is not a positive integer.

    >>> import torch, ardist as ad
    >>> family = ad.families.MultivariateNormal(3)
    >>> family.num_params, family(torch.zeros(9)).scale_tril.diag()
    (9, tensor([1.0000, 1.0000, 1.0000]))
    """

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
        return dist.MultivariateNormal(loc, scale_tril=scale_tril, validate_args=False)

    def to_noise(self, params: Tensor, value: Tensor) -> Tensor:
        loc, scale = self._loc_scale(params)
        away = ((value - loc) / scale).unsqueeze(-1)
        return torch.linalg.solve_triangular(
            self._root(params), away, upper=False, unitriangular=True
        ).squeeze(-1)

    def log_abs_det_jacobian(self, params: Tensor, value: Tensor) -> Tensor:
        return expand_to_batch(self._loc_scale(params)[1].log().sum(-1), value.shape[:-1])

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        z = self.to_noise(params, value)
        return -(0.5 * z.square() + HALF_LOG_TAU).sum(-1) - self.log_abs_det_jacobian(params, z)


@dataclass(frozen=True, repr=False)
class LowRankMultivariateNormal(_Gaussian):
    """The normal distribution of a vector, with a diagonal plus low-rank covariance.

    The cost is linear in `size`. The parameters are loc, the square root of the diagonal part
    before `links.Positive`, and the factor (size, rank), row by row. An entry of the factor is in
    units of the square root of its row, and within [-100, 100].

    Args:
        size: length of the vector, at least 1.
        rank: rank of the low-rank part, at least 1.

    Raises:
        ValueError: if `size` or `rank` is not a positive integer.

    >>> import torch, ardist as ad
    >>> family = ad.families.LowRankMultivariateNormal(784, rank=5)
    >>> family.num_params, family.sample(torch.zeros(2, family.num_params)).shape
    (5488, torch.Size([2, 784]))
    """

    rank: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(as_positive, "rank")

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
        return dist.LowRankMultivariateNormal(loc, factor, scale.square(), validate_args=False)

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        noise, root = self._mean_noise(params, value)
        _, scale = self._loc_scale(params)
        log_det = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        distance = noise.square().sum(-1)
        return -0.5 * distance - log_det - (scale.log() + HALF_LOG_TAU).sum(-1)

    def pathwise(self, params: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        value = value.detach()
        if noise is None:
            # Many noises give this value. The gradient is linear in the noise, so take the mean.
            with torch.no_grad():
                noise = self._mean_noise(params, value)[0]
        return with_gradient(value, self.from_noise(params, noise))

    def _mean_noise(self, params: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of the noise given a value, and the root of its precision."""
        loc, scale = self._loc_scale(params)
        factor, away = self._factor(params), (value - loc) / scale
        with torch.autocast(params.device.type, enabled=False):
            inner = torch.eye(self.rank, dtype=factor.dtype, device=factor.device)
            root = torch.linalg.cholesky(inner + factor.mT @ factor)
        towards = _apply(factor.mT, away).unsqueeze(-1)
        shared = torch.cholesky_solve(towards, root).squeeze(-1)
        return torch.cat((shared, away - _apply(factor, shared)), -1), root


@dataclass(frozen=True, repr=False)
class Dirichlet(Family):
    """The Dirichlet distribution of `size` shares of one, by concentrations of at least 0.01.

    The density may be infinite at a share of zero. Such a share is scored as the smallest positive
    number, and draws that round to zero are moved to it.

    Args:
        size: number of shares, at least 1.

    Raises:
        ValueError: if it is not a positive integer.

    >>> import torch, ardist as ad
    >>> ad.families.Dirichlet(3)(torch.zeros(3)).concentration
    tensor([1.0100, 1.0100, 1.0100])
    """

    size: int
    support = constraints.simplex
    has_rsample = True  # by the class of torch
    needs_double = True

    def __post_init__(self) -> None:
        self._check(as_positive, "size")

    @property
    def event_shape(self) -> torch.Size:
        return torch.Size((self.size,))

    @property
    def num_params(self) -> int:
        return self.size

    def __call__(self, params: Tensor) -> Distribution:
        return dist.Dirichlet(Positive(1e-2)(params), validate_args=False)

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        each = Positive(1e-2)(params)
        total = each.sum(-1)
        fit = deviance(each, total.unsqueeze(-1) * value) + gamma_excess(each)
        normal = gamma_excess(total) - total.log() + total * (value.sum(-1) - 1)
        return normal + (each.log() - value.log() - fit).sum(-1)

    def sample(self, params: Tensor) -> Tensor:
        # Gamma draws for small concentrations underflow, but their logarithms do not. A draw for
        # concentration a + 1 times u^(1/a) is a draw for a (Marsaglia and Tsang 2000).
        with torch.no_grad():
            concentration = Positive(1e-2)(params)
            uniform = torch.rand_like(concentration).clamp(min=torch.finfo(params.dtype).tiny)
            larger = dist.Gamma(concentration + 1, 1.0, validate_args=False).sample()
            return (larger.log() + uniform.log() / concentration).softmax(-1)

    def features(self, value: Tensor) -> Tensor:
        return value


@dataclass(frozen=True, repr=False)
class OneHotCategorical(Family):
    """A categorical distribution of unit vectors, as floats. Its parameters are the logits.

    A draw is the argmax of logits plus Gumbel noise (Maddison et al. 2014, "A* sampling").

    Args:
        num_categories: length of the vectors, at least 1.

    Raises:
        ValueError: if it is not a positive integer.

    >>> import torch, ardist as ad
    >>> ad.families.OneHotCategorical(3).log_prob(torch.zeros(3), torch.tensor([0.0, 1.0, 0.0]))
    tensor(-1.0986)
    """

    num_categories: int
    support = constraints.one_hot

    def __post_init__(self) -> None:
        self._check(as_positive, "num_categories")

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
        return dist.OneHotCategorical(logits=params, validate_args=False)

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        # The other logits are masked: they may be -inf, and zero times -inf is NaN.
        return (params.log_softmax(-1).masked_fill(value == 0, 0.0) * value).sum(-1)

    def sample_noise(self, out: Tensor) -> Tensor:
        return gumbel_noise(out)

    def from_noise(self, params: Tensor, noise: Tensor) -> Tensor:
        index = (params + noise).argmax(-1)
        return F.one_hot(index, self.num_categories).to(params.dtype)

    def features(self, value: Tensor) -> Tensor:
        return value
