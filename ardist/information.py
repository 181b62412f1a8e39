"""Entropy and divergence of autoregressive distributions, block by block, and their calibration."""

from collections.abc import Callable
from math import prod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    OneHotCategorical,
)
from torch.distributions.kl import kl_divergence as analytic_kl
from torch.distributions.kl import register_kl

from ardist.calibration import Calibration, calibration, crps
from ardist.conditionals import Conditionals, eval_mode
from ardist.distribution import AutoregressiveDistribution
from ardist.families import Family
from ardist.families.composed import Derived
from ardist.families.guards import at_least_single
from ardist.shapes import as_integer, check_type, described

__all__ = ["Calibration", "Estimate", "calibration", "crps", "entropy", "kl_divergence"]

_NUM_SAMPLES = 1000  # the default


class Estimate(NamedTuple):
    """A number for each distribution of the batch, in nats.

    Attributes:
        value: the estimate, differentiable: (*batch_shape).
        standard_error: its estimated standard deviation, 0 if it is exact: (*batch_shape).

    >>> import ardist as ad
    >>> net = ad.networks.MADE(ad.Factorization(3, ad.families.Bernoulli()), hidden_features=8)
    >>> value, standard_error = ad.information.entropy(net.condition())
    >>> standard_error  # a sum over eight events
    tensor(0.)
    """

    value: Tensor
    standard_error: Tensor


def entropy(p: AutoregressiveDistribution, num_samples: int | None = None) -> Estimate:
    """The entropy H(p) = E_x sum_i H(p(x_i | earlier x)) with x from p, in nats.

    The entropy of each block is analytic if torch has a formula for it. This usually removes most
    of the variance of -log p(x). Otherwise it is -log p(x_i | earlier x), as for a mixture.

    The gradient of the value with respect to all inputs of p is unbiased. It goes through the draws
    if `p.has_rsample`. Otherwise it uses the score function: the log_prob of each block is weighted
    by the sum of the terms of this block and all later blocks, minus the mean of this sum over the
    other draws. Under `torch.no_grad()` no gradient is computed. Dropout is off.

    Args:
        p: the distribution. Observed blocks and blocks after an end contribute 0.
        num_samples: the number of draws, at least 2. By default, the value and the gradient are
            exact sums over all events if `p.has_enumerate_support`, and estimates from 1000 draws
            otherwise.

    Returns:
        The estimate and its standard error, each (*batch_shape).

    Raises:
        ValueError: if an argument is invalid, or the entropy is estimated and a block is observed
            in part.

    >>> import torch, ardist as ad
    >>> _ = torch.manual_seed(0)
    >>> fac = ad.Factorization(8, ad.families.Bernoulli())
    >>> p = ad.networks.RNN(fac, hidden_size=16).condition()
    >>> exact, estimate = ad.information.entropy(p), ad.information.entropy(p, 1000)
    >>> bool((estimate.value - exact.value).abs() < 4 * estimate.standard_error)
    True
    """
    _check(p, num_samples, "-p.log_prob(x)")
    with eval_mode(p):
        if _is_summed(p, num_samples):
            return _sum(p, lambda x, log_prob: -log_prob)
        return _estimate(p, num_samples, lambda own, x: (own.by_block(_entropy), None))


def kl_divergence(
    p: AutoregressiveDistribution, q: Distribution, num_samples: int | None = None
) -> Estimate:
    """KL(p || q) = E_x sum_i KL(p(x_i | earlier x) || q(x_i | earlier x)) with x from p, in nats.

    This holds if q has the same blocks and none of them depends on a block that p draws later. The
    divergence of each block is analytic if torch has a formula for the two families. Otherwise it
    is log p(x_i | earlier x) - log q(x_i | earlier x). For any other q the estimate is the mean of
    log p(x) - log q(x), whose errors cancel if q is close to p. An infinite divergence has no
    gradient. If it is estimated, its standard error is infinite.

    `torch.distributions.kl_divergence` returns the value if it is exact, and otherwise raises a
    `NotImplementedError`.

    Args:
        p: as in `entropy`. The gradient is computed as in `entropy`, with respect to p and q.
        q: a distribution over the same events. The batch_shapes broadcast.
        num_samples: as in `entropy`.

    Returns:
        The estimate and its standard error, each of the broadcast batch_shape.

    Raises:
        ValueError: as for `entropy`, if the events differ in shape, if a draw of p is outside the
            support of q (the divergence is infinite), or if different elements are observed.

    >>> import torch, ardist as ad
    >>> _ = torch.manual_seed(0)
    >>> net = ad.networks.MADE(ad.Factorization(8, ad.families.Normal()), hidden_features=16)
    >>> q = torch.distributions.Normal(torch.zeros(8), 1.0)
    >>> p = net.condition()
    >>> estimate = ad.information.kl_divergence(p, torch.distributions.Independent(q, 1))
    >>> estimate.value.backward()
    >>> ad.information.kl_divergence(p, p).value
    tensor(0., grad_fn=<MeanBackward1>)
    """
    _check(p, num_samples, "(p.log_prob(x) - q.log_prob(x))")
    check_type(q, Distribution, "q")
    if q.event_shape != p.event_shape:
        raise ValueError(
            f"q: expected the event_shape {tuple(p.event_shape)} of p, got {tuple(q.event_shape)}"
        )
    try:
        p = p.expand(torch.broadcast_shapes(p.batch_shape, q.batch_shape))
    except RuntimeError as error:
        raise ValueError(
            f"q: expected a batch_shape that broadcasts with {tuple(p.batch_shape)}, "
            f"got {tuple(q.batch_shape)}"
        ) from error
    check_evidence(p, q, "q")
    with eval_mode(p, q):
        if _is_summed(p, num_samples):
            return _sum(p, lambda x, log_prob: log_prob - q.log_prob(x))
        if isinstance(q, AutoregressiveDistribution) and _is_one_chain(p, q):
            return _estimate(
                p, num_samples, lambda own, x: (own.by_block(_divergence, Conditionals(q, x)), None)
            )
        return _estimate(p, num_samples, lambda own, x: (own.log_prob(), -q.log_prob(x)))


def _exact_kl(p: AutoregressiveDistribution, q: Distribution) -> Tensor:
    """The divergence for torch's `kl_divergence` and Pyro's `TraceMeanField_ELBO`."""
    if not _is_summed(p, None):
        raise NotImplementedError(
            f"p: expected events that can be enumerated, for the exact divergence, got {p}; "
            f"ardist.information.kl_divergence(p, q) estimates it"
        )
    return kl_divergence(p, q).value


register_kl(AutoregressiveDistribution, Distribution)(_exact_kl)


def _conditional(family: Family, params: Tensor) -> Distribution:
    """The conditional in the dtype of its scores, since formulas need the same precision."""
    inner = family
    while isinstance(inner, Derived) and not inner.needs_double:
        inner = inner._inner
    dtype = inner._score_dtype(params.dtype, params.device)
    return family(family._widened_params(params, dtype))


def _entropy(family: Family, params: Tensor, values: Tensor) -> Tensor:
    conditional = _conditional(family, params)
    if isinstance(conditional, AutoregressiveDistribution):
        return Conditionals(conditional, values).by_block(_entropy).sum(-1)
    try:
        return conditional.entropy().to(params.dtype)
    except NotImplementedError:
        return -family.log_prob(params, values)


def _divergence(
    family: Family, params: Tensor, values: Tensor, other: Family, others: Tensor, same: Tensor
) -> Tensor:
    p, q = family(params), other(others)
    if (
        isinstance(p, AutoregressiveDistribution)
        and isinstance(q, AutoregressiveDistribution)
        and _is_one_chain(p, q)
    ):
        return Conditionals(p, values).by_block(_divergence, Conditionals(q, same)).sum(-1)
    try:
        return divergence_of_blocks(family, params, values, other, others, same)
    except NotImplementedError:
        return family.log_prob(params, values) - other.log_prob(others, same)


def divergence_of_blocks(
    family: Family, params: Tensor, values: Tensor, other: Family, others: Tensor, same: Tensor
) -> Tensor:
    """KL(p || q) of conditionals in closed form, for `Conditionals.by_block`; raises a
    NotImplementedError if torch has none.
    """
    nats = analytic_divergence(_conditional(family, params), _conditional(other, others))
    return nats.to(params.dtype)


def analytic_divergence(p: Distribution, q: Distribution) -> Tensor:
    """KL(p || q) in closed form; raises a NotImplementedError if torch has none."""
    if isinstance(p, Independent) and isinstance(q, Independent):
        dims = p.reinterpreted_batch_ndims
        if dims == q.reinterpreted_batch_ndims:
            each = analytic_divergence(p.base_dist, q.base_dist)
            return each.sum(tuple(range(-dims, 0))) if dims else each
    first, second = _log_probs(p), _log_probs(q)
    if first is None or second is None or first.shape[-1] != second.shape[-1]:
        return analytic_kl(p, q)
    # torch's divergence is infinite if a probability rounds to 0 or 1, as a sigmoid of 17 does,
    # and its gradient is NaN if a probability is 0.
    possible = first > -torch.inf
    gap = torch.where(possible, first, 0.0) - torch.where(possible, second, 0.0)
    return _expected(first, gap).sum(-1)


def _expected(log_prob: Tensor, nats: Tensor) -> Tensor:
    """The terms of the expectation of `nats`. A term with infinite nats is infinite and has no
    gradient, even if its probability rounds to 0.
    """
    infinite = nats == torch.inf
    terms = log_prob.exp() * nats.masked_fill(infinite, 0.0)
    return terms.masked_fill(infinite, torch.inf)


def _log_probs(p: Distribution) -> Tensor | None:
    """The log-probabilities of the states of torch's finite distributions: (..., num_states)."""
    if isinstance(p, Bernoulli):
        return torch.stack((F.logsigmoid(-p.logits), F.logsigmoid(p.logits)), -1)
    return p.logits if isinstance(p, Categorical | OneHotCategorical) else None


def _estimate(
    p: AutoregressiveDistribution,
    num_samples: int | None,
    shares: Callable[[Conditionals, Tensor], tuple[Tensor, Tensor | None]],
) -> Estimate:
    """The mean over draws of the sum of all blocks' shares, plus the event's share if there is one.

    Args:
        shares: maps conditionals and draws x, (num_samples, *batch_shape, *event_shape), to the
            shares of the blocks (..., num_blocks) and the share of the event (...) or None.
    """
    count = num_samples or _NUM_SAMPLES
    if prod(p.batch_shape) == 0:
        nothing = p.log_prob(p.sample())
        return Estimate(nothing, nothing.detach())
    # Unless all blocks have rsample, the score function gives the whole gradient.
    pathwise = torch.is_grad_enabled() and p.has_rsample and p.factorization.has_rsample
    x = p.rsample((count,)) if pathwise else p.sample((count,))
    own = Conditionals(p, x)
    each, rest = shares(own, x)
    each = each.to(at_least_single(each.dtype))  # in which they are added up
    total = each.sum(-1) if rest is None else each.sum(-1) + rest
    value = total.mean(0)
    variance = (total - value).detach().square().sum(0) / (count - 1)
    variance = variance.masked_fill(value == torch.inf, torch.inf)
    if total.requires_grad and not pathwise:
        with torch.no_grad():
            reward = _from_here_on(each, own.ranks)
            reward = reward if rest is None else reward + rest.unsqueeze(-1)
            # The reward minus the mean over the other draws is n / (n - 1) times the reward minus
            # the mean over all draws.
            advantage = (reward - reward.mean(0)) / (count - 1)
            advantage = advantage.masked_fill(~advantage.isfinite(), 0.0)  # no gradient of infinity
        score = (advantage * own.log_prob()).sum((0, -1))
        value = value + score - score.detach()
    return Estimate(value, (variance / count).sqrt())


def _from_here_on(each: Tensor, ranks: Tensor) -> Tensor:
    """For each block, the sum over all blocks that are not drawn before it."""
    ordered, order = ranks.sort(-1)
    sums = each.gather(-1, order).flip(-1).cumsum(-1).flip(-1)
    first = torch.searchsorted(ordered, ranks.contiguous())  # of the blocks drawn in one step
    return sums.gather(-1, first)


def _sum(p: AutoregressiveDistribution, nats: Callable[[Tensor, Tensor], Tensor]) -> Estimate:
    """The exact expectation under p of a function of events and their log_prob."""
    x = p.enumerate_support(expand=False)
    log_prob = p.log_prob(x)
    possible = log_prob > -torch.inf
    log_prob = torch.where(possible, log_prob, 0.0)
    each = torch.where(possible, nats(x, log_prob), 0.0)
    value = _expected(log_prob, each).sum(0)
    return Estimate(value, torch.zeros_like(value))


def _is_summed(p: AutoregressiveDistribution, num_samples: int | None) -> bool:
    return num_samples is None and p.has_enumerate_support


def _is_one_chain(p: AutoregressiveDistribution, q: AutoregressiveDistribution) -> bool:
    """Whether both have the same blocks, and no block of q depends on one that p draws later."""
    mine, theirs = p.factorization, q.factorization
    shapes = [[f.event_shape for f in fac.layout.families] for fac in (mine, theirs)]
    if (
        shapes[0] != shapes[1]
        or mine.rule != theirs.rule
        or not torch.equal(mine.blocks.elements, theirs.blocks.elements)
    ):
        return False
    ranks = mine.ranks.flatten() if p.ranks is None else p.ranks.cpu()
    if q.ranks is None:
        depends = theirs.dependencies
    else:
        depends = q.ranks.cpu().unsqueeze(-1) > q.ranks.cpu().unsqueeze(-2)
    return not bool((depends & (ranks.unsqueeze(-2) > ranks.unsqueeze(-1))).any())


def check_evidence(p: AutoregressiveDistribution, q: Distribution, name: str) -> None:
    """Raises a `ValueError` unless the distribution q, an argument, observes what p observes."""
    if not _observe_the_same(p, q):
        raise ValueError(
            f"{name}: expected the observed elements and values of p, got {_num_observed(q)} "
            f"observed elements in {name} and {_num_observed(p)} in p, or other values; "
            f"{name}.given(value, mask) observes them"
        )


def _observe_the_same(p: AutoregressiveDistribution, q: Distribution) -> bool:
    mine = p.evidence
    theirs = q.evidence if isinstance(q, AutoregressiveDistribution) else None
    if mine is None or theirs is None:
        return mine is theirs
    (value, mask), (other, others) = mine, theirs
    return bool(((mask == others) & ((value == other) | ~mask)).all())


def _num_observed(p: Distribution) -> int:
    observed = p.evidence if isinstance(p, AutoregressiveDistribution) else None
    return 0 if observed is None else int(observed[1].sum())


def _check(p: AutoregressiveDistribution, num_samples: int | None, estimate: str) -> None:
    """Raises a `ValueError` that says how to estimate the quantity if p is of another class."""
    if not isinstance(p, AutoregressiveDistribution):
        raise ValueError(
            f"p: expected an AutoregressiveDistribution, got {described(p)}; with x = "
            f"p.sample((1000,)), {estimate}.mean(0) estimates it for others, such as a Mixture"
        )
    if num_samples is not None:
        as_integer(num_samples, "num_samples", 2)
