"""Gradients of given draws of torch's distributions to the parameters."""

from functools import singledispatch
from typing import Any

import torch
import torch.distributions as dist
from torch import Tensor


@singledispatch
def reparameterized(distribution: dist.Distribution, value: Tensor) -> Tensor:
    """A draw as a function of the distribution's parameters, differentiable once.

    The default gradient is implicit, by the CDF: dx = -dF / p(x).

    Args:
        value: a draw of `distribution`, without a graph.

    Raises:
        NotImplementedError: if the class has no CDF.
    """
    density = distribution.log_prob(value).detach().exp()
    return by_cdf(distribution.cdf(value), density, value)


def by_cdf(cdf: Tensor, density: Tensor, value: Tensor) -> Tensor:
    """The value, whose gradient is minus the gradient of `cdf` divided by the density."""
    step = (cdf - cdf.detach()) / density.clamp(min=torch.finfo(density.dtype).tiny)
    return value - step.to(value.dtype)


def with_gradient(value: Tensor, draw: Tensor) -> Tensor:
    """The value, with the gradient of `draw`: the same draw as a function of the parameters."""
    return value.detach() + (draw - draw.detach())


@reparameterized.register(dist.Independent)  # older torch cannot evaluate the annotation
def _independent(distribution: "dist.Independent[Any]", value: Tensor) -> Tensor:
    return reparameterized(distribution.base_dist, value)


@reparameterized.register
def _transformed(distribution: dist.TransformedDistribution, value: Tensor) -> Tensor:
    base, transforms = distribution.base_dist, distribution.transforms
    # A uniform base makes the transforms an inverse CDF, which rounds near one.
    is_quantile = isinstance(base, dist.Uniform)
    if is_quantile or not all(transform.bijective for transform in transforms):
        return reparameterized.dispatch(dist.Distribution)(distribution, value)
    with torch.no_grad():
        inner = value
        for transform in reversed(transforms):
            inner = transform.inv(inner)
    outer = reparameterized(base, inner)
    for transform in transforms:
        outer = transform(outer)
    return outer


@reparameterized.register
def _gamma(distribution: dist.Gamma, value: Tensor) -> Tensor:
    concentration, rate = distribution.concentration, distribution.rate
    standard = (value * rate).detach()
    known = concentration.detach().expand_as(standard)
    slope = torch._standard_gamma_grad(known, standard)
    return (standard + slope * (concentration - concentration.detach())) / rate


@reparameterized.register
def _dirichlet(distribution: dist.Dirichlet, value: Tensor) -> Tensor:
    value, concentration = torch.broadcast_tensors(value, distribution.concentration)
    if value.shape[-1] == 1:  # always one; its slope would be 0 / 0
        return concentration * 0 + value
    known = concentration.detach()
    slope = torch._dirichlet_grad(value, known, known.sum(-1, keepdim=True).expand_as(value))
    step = slope * (concentration - concentration.detach())
    return value + step - value * step.sum(-1, keepdim=True)


@reparameterized.register
def _beta(distribution: dist.Beta, value: Tensor) -> Tensor:
    both = torch.stack((distribution.concentration1, distribution.concentration0), -1)
    shares = dist.Dirichlet(both, validate_args=False)
    return _dirichlet(shares, torch.stack((value, 1 - value), -1))[..., 0]


@reparameterized.register
def _normal(distribution: dist.MultivariateNormal, value: Tensor) -> Tensor:
    root, loc = distribution.scale_tril, distribution.loc
    with torch.no_grad():
        away = (value - loc).unsqueeze(-1)
        noise = torch.linalg.solve_triangular(root, away, upper=False).squeeze(-1)
    return loc + (root * noise.unsqueeze(-2)).sum(-1)
