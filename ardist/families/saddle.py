"""Log-probabilities without cancellation of large terms (Loader 2000).

With a large parameter a log-probability is a small difference of large terms, such as
`x * log(m) - m - lgamma(x + 1)` for the Poisson. Loader ("Fast and accurate computation of binomial
probabilities", the algorithm of R's dpois, dbinom, dgamma and dt) writes it as a deviance plus the
remainder of lgamma. Both are small, and accurate to 1e-9 in float64 for parameters up to 1e12.
"""

import math

import torch
from torch import Tensor


def deviance(x: Tensor, mean: Tensor) -> Tensor:
    """`x * log(x / mean) + mean - x`, for x >= 0 and mean > 0."""
    mean = mean.clamp(max=torch.finfo(mean.dtype).max)
    away = x - mean
    is_near = away.abs() < 0.5 * mean
    near = torch.where(is_near, away / torch.where(is_near, mean, 1.0), 0.0).log1p()
    far = x.clamp(min=torch.finfo(x.dtype).tiny).log() - mean.log()
    return x * torch.where(is_near, near, far) - away


def gamma_excess(x: Tensor) -> Tensor:
    """`lgamma(x + 1) - x * log(x) + x`, which grows as log(x) / 2, for x >= 0.

    Above 100 it uses Stirling's series.
    """
    is_large, log = x > 100, x.clamp(min=torch.finfo(x.dtype).tiny).log()
    inverse = torch.where(is_large, x, 100.0).reciprocal()
    square = inverse * inverse
    series = inverse * (1 / 12 - square * (1 / 360 - square / 1260))
    small = torch.where(is_large, 1.0, x)
    return torch.where(
        is_large,
        0.5 * (log + math.log(2 * math.pi)) + series,
        (small + 1).lgamma() - small * log + small,
    )


def log_gamma_density(concentration: Tensor, x: Tensor) -> Tensor:
    """The log density of log(t) at t = x, for a gamma variable t of rate 1."""
    return concentration.log() - deviance(concentration, x) - gamma_excess(concentration)


def log_beta_density(first: Tensor, second: Tensor, x: Tensor, rest: Tensor) -> Tensor:
    """The log density of the log odds of t at t = x, for a beta variable t; `rest` is 1 - x."""
    total = first + second
    fit = deviance(first, total * x) + deviance(second, total * rest)
    excess = gamma_excess(total) - gamma_excess(first) - gamma_excess(second)
    return excess - fit + (first / total).log() + second.log()
