"""Fits the parameters of a family to values by maximum likelihood, without a network.

Any family can be fitted by its `log_prob`. The optimizer is Rprop (Riedmiller and Braun 1993). Its
steps depend only on the signs of the gradient, so the units of the data do not matter. A step that
makes the values less likely is taken back, since a scale could otherwise become so small that its
gradient is zero.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ardist.families.guards import widest

if TYPE_CHECKING:
    from ardist.families.base import Family

_MOST_ROWS = 256  # values of a block in the likelihood
_NUM_STEPS = 150
_GROWTH, _SHRINKAGE = 1.3, 0.5  # of a step if the gradient keeps its sign, and otherwise
_SLACK = 0.02  # nats that a step may lose without being taken back
_MOST_TIES = 4  # a continuous block has ties if more than one in so many of its values are equal
_TOLERANCE = 1e-3  # a parameter stays if it can gain fewer nats
_PROGRESS = 0.01  # the search of a block ends if it gains fewer nats in ten steps


def maximum_likelihood(family: "Family", values: Tensor, mask: Tensor) -> Tensor:
    """The parameters of each of n blocks, (n, num_params), as `Family.fit` describes."""
    values, weights = _summary(family, values, mask)
    start = family._start(values, weights)
    if start is None:
        start = apart(weights.new_zeros(weights.shape[1], family.num_params))
    # The best parameters so far, the last ones that were not taken back, and the next ones to try.
    best = last = params = start  # (n, num_params)
    highest = score = weights.new_full(values.shape[1:2], -math.inf)
    gradient, sizes = torch.zeros_like(params), torch.full_like(params, 0.5)
    # The density at a value that occurs many times is unbounded. So the mean log density of a
    # block with ties is only raised to 0.
    count = values.shape[0]
    gap = count // _MOST_TIES
    ties = values[gap:] == values[: count - gap]  # (., n, *event_shape), of sorted values
    ties = ties.reshape(*ties.shape[:2], -1).any(-1)
    is_tied = (ties & ~family._is_atom(values[gap:])).any(0)  # (n,); also of few rows
    before, goes_on = highest, torch.ones_like(is_tied)
    for step in range(_NUM_STEPS):
        with torch.enable_grad():
            leaf = params.detach().requires_grad_()
            each = torch.where(weights > 0, family.log_prob(leaf, values), 0.0)
            found = (each * weights).sum(0)  # (n,)
            (slope,) = torch.autograd.grad(found.sum(), leaf)
        best = torch.where((found > highest).unsqueeze(-1), params, best)
        highest = torch.where(found > highest, found, highest)
        is_kept = found > score - _SLACK
        score, is_kept = torch.where(is_kept, found, score), is_kept.unsqueeze(-1)
        is_longer = is_kept & (gradient * slope >= 0)
        sizes = sizes * torch.where(is_longer, _GROWTH, _SHRINKAGE)
        last, gradient = torch.where(is_kept, params, last), torch.where(is_kept, slope, gradient)
        # Without a tolerance, the logit of an unseen state would fall forever.
        gain = gradient.abs() * torch.maximum(sizes, 0.1 * (last.abs() + 1))
        if step % 10 == 9:
            goes_on, before = goes_on & (highest > before + _PROGRESS), highest
        moves = (gain > _TOLERANCE) & (goes_on & ~(is_tied & (highest > 0))).unsqueeze(-1)
        if not moves.any():
            break
        params = last + torch.where(moves, gradient.sign() * sizes, 0.0)
    return best


def frequencies(states: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """The frequencies of S states under a mask, with one pseudo-count spread over them: (S, n).

    Args:
        states: (S,), increasing.
        values: (rows, n).
        mask: (rows, n) bool.
    """
    states = states.to(values)
    index = torch.searchsorted(states, values.contiguous()).clamp(max=states.shape[0] - 1)
    counts = torch.zeros(states.shape[0], values.shape[1], device=values.device)
    counts.scatter_add_(0, index, mask.to(counts.dtype))
    return (counts + 1 / states.shape[0]) / (mask.sum(0) + 1)


def apart(params: Tensor) -> Tensor:
    """Parameters plus fixed noise, since the components of a mixture must not start equal."""
    generator = torch.Generator().manual_seed(0)
    return params + torch.randn(params.shape[-1], generator=generator, device="cpu").to(params) / 2


def moments(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the variance of numbers (rows, n) with weights (rows, n): both (n,), float64.

    Without values, they are the moments of a uniform number in (0, 1). If all numbers are equal,
    the variance is the square of their mean.
    """
    wide = widest(values.device)
    total = weights.sum(0).to(wide)
    shares = weights / total.clamp(min=1e-30)
    values = torch.where(weights > 0, values, 0.0).to(wide)
    mean = torch.where(total > 0, (shares * values).sum(0), 0.5)
    variance, square = (shares * (values - mean).square()).sum(0), mean.square()
    variance = torch.where(variance > 1e-12 * square, variance, square)
    return mean, torch.where(total > 0, variance, 1 / 12)


def _summary(family: "Family", values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """A few values that represent all values, (K, n, *event_shape), and their weights (K, n)."""
    if family.event_shape:
        mask = mask.flatten(2).all(-1)
        # The rows under the mask come first. From these, rows at equal distances are taken.
        order = (~mask).to(torch.uint8).argsort(dim=0, stable=True)
    else:
        states = family.enumerate_support()
        if states is not None and states.shape[0] <= _MOST_ROWS:
            states = states.to(values).sort().values
            weights = frequencies(states, values, mask)
            return states.unsqueeze(-1).expand(weights.shape), weights
        last = math.inf if values.is_floating_point() else torch.iinfo(values.dtype).max
        order = values.masked_fill(~mask, last).argsort(0)
    count = min(_MOST_ROWS, values.shape[0])
    places = (torch.arange(count, device=values.device) + 0.5) / count  # quantiles
    total = mask.sum(0)  # (n,)
    index = order.gather(0, (places.unsqueeze(-1) * total).long())  # (K, n)
    dims = (1,) * len(family.event_shape)
    index = index.reshape((*index.shape, *dims)).expand(-1, -1, *family.event_shape)
    weights = ((total > 0) / count).expand(count, -1)  # zero if all values are missing
    return values.gather(0, index), weights
