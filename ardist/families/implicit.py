"""Draws of torch's distributions once more, with their gradients to the parameters."""

from functools import singledispatch
from typing import Any

import torch
import torch.distributions as dist
from torch import Tensor


@singledispatch
def attached(distribution: dist.Distribution, value: Tensor) -> Tensor:
    """A draw, as a function of the distribution's parameters that is differentiable once.

    Where nothing better is known the gradient is implicit, dx = -dF / p(x), by the CDF.

    Args:
        value: a draw of `distribution`, without a graph.

    Raises:
        NotImplementedError: where the class has no CDF.
    """
    density = distribution.log_prob(value).detach().exp()
    return by_cdf(distribution.cdf(value), density, value)


def by_cdf(cdf: Tensor, density: Tensor, value: Tensor) -> Tensor:
    """The value, whose gradient is that of `cdf` over minus the density."""
    step = (cdf - cdf.detach()) / density.clamp(min=torch.finfo(density.dtype).tiny)
    return value - step.to(value.dtype)


@attached.register(dist.Independent)  # which older torch does not let be subscripted
def _independent(distribution: "dist.Independent[Any]", value: Tensor) -> Tensor:
    again: Tensor = attached(distribution.base_dist, value)
    return again


@attached.register
def _transformed(distribution: dist.TransformedDistribution, value: Tensor) -> Tensor:
    base, transforms = distribution.base_dist, distribution.transforms
    # A uniform base is an inverse CDF spelled out, and rounds near one.
    is_quantile = isinstance(base, dist.Uniform)
    if is_quantile or not all(transform.bijective for transform in transforms):
        by_default: Tensor = attached.dispatch(dist.Distribution)(distribution, value)
        return by_default
    with torch.no_grad():
        inner = value
        for transform in reversed(transforms):
            inner = transform.inv(inner)
    again: Tensor = attached(base, inner)
    for transform in transforms:
        again = transform(again)
    return again


@attached.register
def _gamma(distribution: dist.Gamma, value: Tensor) -> Tensor:
    concentration: Tensor = distribution.concentration
    rate: Tensor = distribution.rate
    standard = (value * rate).detach()
    known = concentration.detach().expand_as(standard)
    slope = torch._standard_gamma_grad(known, standard)
    result: Tensor = (standard + slope * (concentration - concentration.detach())) / rate
    return result


@attached.register
def _dirichlet(distribution: dist.Dirichlet, value: Tensor) -> Tensor:
    concentration: Tensor
    value, concentration = torch.broadcast_tensors(value, distribution.concentration)
    if value.shape[-1] == 1:  # always one, with a slope of 0 / 0
        return concentration * 0 + value
    known = concentration.detach()
    slope = torch._dirichlet_grad(value, known, known.sum(-1, keepdim=True).expand_as(value))
    step = slope * (concentration - concentration.detach())
    result: Tensor = value + step - value * step.sum(-1, keepdim=True)
    return result


@attached.register
def _beta(distribution: dist.Beta, value: Tensor) -> Tensor:
    both = torch.stack((distribution.concentration1, distribution.concentration0), -1)
    shares = dist.Dirichlet(both, validate_args=False)
    return _dirichlet(shares, torch.stack((value, 1 - value), -1))[..., 0]


@attached.register
def _normal(distribution: dist.MultivariateNormal, value: Tensor) -> Tensor:
    root: Tensor = distribution.scale_tril
    loc: Tensor = distribution.loc
    with torch.no_grad():
        away = (value - loc).unsqueeze(-1)
        noise = torch.linalg.solve_triangular(root, away, upper=False).squeeze(-1)
    result: Tensor = loc + (root * noise.unsqueeze(-2)).sum(-1)
    return result
