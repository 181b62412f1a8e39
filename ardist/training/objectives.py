"""Training objectives other than `log_prob`, and a measure of exposure bias.

Teacher forcing trains on true prefixes, in one parallel pass. Draws are conditioned on the model's
own prefixes, on which it was not trained. This is known as exposure bias (Ranzato et al. 2016).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ardist.batch import Batch
from ardist.conditionals import Conditionals
from ardist.distribution import AutoregressiveDistribution
from ardist.families.guards import at_least_single
from ardist.information import check_evidence, divergence_of_blocks
from ardist.rollout import Rollout
from ardist.shapes import as_positive, as_share, check_type, expand_to_batch, lead_of

__all__ = [
    "Exposure",
    "exposure_bias",
    "masked_log_prob",
    "pseudo_log_prob",
    "scheduled_log_prob",
]


def masked_log_prob(
    p: AutoregressiveDistribution,
    x: Tensor,
    observed: Tensor | None = None,
    *,
    in_order: float = 0.0,
) -> Tensor:
    """An unbiased estimate of the mean of log_prob over all orders, in nats, by one pass.

    The first t blocks of a random order are the input, and all others are scored given these
    (Uria et al. 2014, "A deep and tractable density estimator"; Hoogeboom et al. 2022,
    "Autoregressive diffusion models"). The sum over these T - t blocks is weighted by T / (T - t).
    The sizes t are uniform over 0, ..., T - 1, and spread evenly over the events, which lowers the
    variance of their mean.

    Missing elements are neither read nor scored, and an order ranks only the other blocks. A
    block that is missing in part is scored given all whole blocks, by the marginal of its family.

    Args:
        p: the distribution of a network that predicts from any set, such as `networks.Masked`.
        x: events (*lead, *event_shape), where `lead` broadcasts with batch_shape. NaN is a missing
            element if the `nan_policy` of p is "marginalize".
        observed: (*lead, *event_shape) bool, False for elements that are missing in x.
        in_order: the share of events whose input is a prefix in the order of p, instead of a
            random set. The network becomes better in that order. The result then estimates neither
            the mean over all orders nor the log_prob in that order: each block after the prefix is
            scored given only the prefix.

    Returns:
        an estimate for each event, of shape (*lead).

    Raises:
        ValueError: if the network does not predict from any set, something is observed in p, or
            the sequences have an end.

    >>> import torch, ardist as ad
    >>> fac = ad.Factorization(4, ad.families.Bernoulli())
    >>> net = ad.networks.Masked(fac, hidden_features=8)
    >>> loss = -ad.training.masked_log_prob(net.condition(), torch.ones(16, 4)).mean()
    """
    _check_any_set(p)
    in_order = as_share(in_order, "in_order")
    if isinstance(x, Tensor) and p.nan_policy == "marginalize" and x.isnan().any():
        present = ~x.isnan()
        observed = present if observed is None else present & p.checked_mask(observed, "observed")
    if observed is None:
        x = p.checked(x, "x")
    else:
        p.check_value(x, "x")
        observed = p.checked_mask(observed, "observed")
        x = p.checked(torch.where(observed, x, p.bound.placeholder), "x", mask=observed)
    batch = p.batch_of(x)
    known = None if observed is None else batch.blocks(observed)
    result = p.bound.with_params(_masked, batch, batch.blocks(x), known, in_order)
    return expand_to_batch(result, p.batch_shape)


def _masked(batch: Batch, blocks: Tensor, known: Tensor | None, in_order: float) -> Tensor:
    layout, rows = batch.layout, batch.num_rows
    whole = torch.ones(rows, layout.num_blocks, dtype=torch.bool, device=blocks.device)
    partial = ~whole
    if known is not None:
        whole, partial = layout.whole(known), layout.partially_observed(known)
    count = whole.sum(-1)
    steps = count + partial.any(-1)  # of an order: the last step scores partly observed blocks
    places = torch.rand(rows, device=blocks.device) + torch.randperm(rows, device=blocks.device)
    size = (places / rows * steps).long().minimum(steps - 1).clamp(min=0)  # of the set that is read
    place = torch.rand(whole.shape, device=blocks.device)
    kept = torch.rand(rows, 1, device=blocks.device) < in_order
    place = torch.where(kept, place + batch.all_ranks.to(place.device), place)
    order = place.masked_fill(~whole, math.inf).argsort(-1)
    read = order.argsort(-1) < size.unsqueeze(-1)
    params = batch.bound.forward(blocks, observed=read)
    if known is not None and partial.any():
        scores = layout.marginal_log_prob(params, blocks, known)
    else:
        scores = layout.log_prob(params, blocks)
    is_last = (size == count).unsqueeze(-1)
    scored = torch.where(is_last, partial, whole & ~read)
    weight = steps.to(at_least_single(scores.dtype)) / (count - size).clamp(min=1)
    return batch.unflatten(torch.where(scored, scores, 0.0).sum(-1) * weight)


def pseudo_log_prob(p: AutoregressiveDistribution, x: Tensor) -> Tensor:
    """The pseudo-log-likelihood of events, in nats: each block is scored given all others.

    It is the sum over blocks of log p(x_i | all x_j, j != i) (Besag 1975; Salazar et al. 2020,
    "Masked language model scoring"). It takes one forward pass per block. It is not the
    log-probability of the event, which is `p.log_prob(x)`.

    Args:
        p: the distribution of a network that predicts from any set, such as `networks.Masked`.
        x: events (*lead, *event_shape), where `lead` broadcasts with batch_shape.

    Returns:
        the sum over blocks, of shape (*lead).

    Raises:
        ValueError: as `masked_log_prob`.

    >>> import torch, ardist as ad
    >>> fac = ad.Factorization(4, ad.families.Bernoulli())
    >>> net = ad.networks.Masked(fac, hidden_features=8)
    >>> ad.training.pseudo_log_prob(net.condition(), torch.ones(16, 4)).shape
    torch.Size([16])
    """
    _check_any_set(p)
    x = p.checked(x, "x")
    batch = p.batch_of(x)
    result = p.bound.with_params(_pseudo, batch, batch.blocks(x))
    return expand_to_batch(result, p.batch_shape)


def _pseudo(batch: Batch, blocks: Tensor) -> Tensor:
    layout, rows = batch.layout, batch.num_rows
    each = []  # added up at once: in half precision a running sum of many would stop growing
    for own in torch.eye(layout.num_blocks, dtype=torch.bool, device=blocks.device):
        params = batch.bound.forward(blocks, observed=(~own).expand(rows, -1))
        each.append(layout.log_prob(params, blocks)[:, own])
    return batch.unflatten(torch.cat(each, -1).sum(-1))


def _check_any_set(p: AutoregressiveDistribution) -> None:
    check_type(p, AutoregressiveDistribution, "p")
    _check_nothing_observed(p)
    if not p.bound.unwrapped.has_masks:
        raise ValueError(
            f"p: expected a network that predicts from any set, such as Masked, got "
            f"{type(p.bound.unwrapped).__name__}"
        )
    if p.factorization.rule is not None:
        raise ValueError(
            f"p: expected no rule, since what it allows depends on the order, got "
            f"{p.factorization}; train p.with_rule(None)"
        )


def _check_nothing_observed(p: AutoregressiveDistribution) -> None:
    if p.evidence is not None:
        mask = p.evidence[1]
        raise ValueError(
            f"p: expected nothing observed in it, got {int(mask.sum())} of {mask.numel()} elements"
        )


def scheduled_log_prob(p: AutoregressiveDistribution, x: Tensor, probability: float) -> Tensor:
    """The log_prob of events given prefixes that are partly the model's own draws, in nats.

    Scheduled sampling (Bengio et al. 2015): each block of a prefix is replaced, with this
    probability, by a draw of the model. A parallel network makes two passes, and draws given true
    prefixes (Mihaylova and Martins 2019). An RNN goes step by step, and draws given prefixes that
    contain earlier draws. No gradient flows through the draws. For probability 0 the result is
    `log_prob`. Otherwise it is a training objective, and not a likelihood of `x`.

    Args:
        p: the distribution.
        x: events (*lead, *event_shape), where `lead` broadcasts with batch_shape.
        probability: of replacing a block; usually increased during training.

    Returns:
        the sum over blocks, of shape (*lead).

    Raises:
        ValueError: if the probability is outside [0, 1], or part of the event is observed.

    >>> import torch, ardist as ad
    >>> net = ad.networks.MADE(ad.Factorization(4, ad.families.Bernoulli()), hidden_features=8)
    >>> loss = -ad.training.scheduled_log_prob(net.condition(), torch.ones(16, 4), 0.25).mean()
    """
    check_type(p, AutoregressiveDistribution, "p")
    as_share(probability, "probability")
    _check_nothing_observed(p)
    x = p.checked(x, "x")
    batch = p.batch_of(x)
    result = p.bound.with_params(_scheduled, batch, batch.blocks(x), probability)
    return expand_to_batch(result, p.batch_shape)


def _scheduled(batch: Batch, blocks: Tensor, probability: float) -> Tensor:
    layout = batch.layout
    finite = layout.finite(blocks)  # a network reads no infinite numbers
    replaced = torch.rand(batch.num_rows, layout.num_blocks, device=blocks.device) < probability
    replaced = layout.expand_to_elements(replaced)
    decoder = None
    if batch.num_rows and batch.ranks is None:
        decoder = batch.bound.differentiable_decoder(batch.num_rows)
    if decoder is None:
        with torch.no_grad():
            drawn = layout.sample(batch.forward(finite))
        params = batch.plain_forward(torch.where(replaced, drawn, finite))
        scores = layout.log_prob(batch.restrict(params, batch.limits(blocks)), blocks)
    else:
        each = []
        rollout = Rollout(batch, decoder=decoder, follow=blocks)
        for step in rollout:
            scored, true, own = (rollout.part(x, step) for x in (blocks, finite, replaced))
            each.append(step.layout.log_prob(step.params, scored))
            step.accept(torch.where(own, step.layout.sample(step.params.detach()), true))
        scores = rollout.in_raster(each)
    return batch.unflatten(scores).sum(-1)


class Exposure(NamedTuple):
    """Nats of each block, (*grid_shape), on prefixes from data and on the model's own prefixes.

    >>> import torch, ardist as ad
    >>> net = ad.networks.MADE(ad.Factorization(4, ad.families.Bernoulli()), hidden_features=8)
    >>> on_data, on_own = ad.training.exposure_bias(net.condition(), torch.ones(16, 4))
    >>> on_data.shape
    torch.Size([4])
    """

    on_data: Tensor
    on_own: Tensor


@torch.no_grad()
def exposure_bias(
    p: AutoregressiveDistribution,
    x: Tensor,
    truth: AutoregressiveDistribution | None = None,
    num_samples: int = 1000,
) -> Exposure:
    """The nats of each block on prefixes from data and on prefixes that the model draws.

    If the `truth` is known, nats are KL divergences of the truth's conditional from p's, given
    the same prefix. On prefixes from data their sum is KL(truth || p). The excess on the model's
    own prefixes is exposure bias: errors that lead to errors. If the truth is not known, nats are
    -log p of the next block, in the data and in the model's own draws. The second sum is p's
    entropy. A difference shows that draws are unlike data: their nats are lower if they are
    overconfident and repetitive, and higher if they are too diverse. Dropout is not active.

    Args:
        p: the distribution.
        x: data (*lead, *event_shape). The nats of a block are the mean over the events in which it
            is not missing, if NaN is a missing element by the `nan_policy` of p.
        truth: a distribution over the same event in the same order. The batch_shapes broadcast.
        num_samples: number of draws of p for each of its contexts.

    Raises:
        ValueError: if the truth has another event or order, or different elements are observed.
        NotImplementedError: if torch has no KL divergence of the conditionals.

    >>> import torch, ardist as ad
    >>> net = ad.networks.MADE(ad.Factorization(4, ad.families.Bernoulli()), hidden_features=8)
    >>> ad.training.exposure_bias(net.condition(), torch.ones(16, 4)).on_own.shape
    torch.Size([4])
    """
    check_type(p, AutoregressiveDistribution, "p")
    fac = p.factorization
    if truth is not None:
        check_type(truth, AutoregressiveDistribution, "truth")
        other = truth.factorization
        same = (other.event_shape, other.grid_shape) == (fac.event_shape, fac.grid_shape)
        if not same or bool((_ranks(truth) != _ranks(p)).any()):
            raise ValueError(f"truth: expected one over {fac}, got {other}")
        p = p.expand(torch.broadcast_shapes(p.batch_shape, truth.batch_shape))
        check_evidence(p, truth, "truth")
    p.check_value(x, "x")
    if not x.isnan().any():  # NaN may be a missing element
        x = p.checked(x, "x")
    own = p.sample((as_positive(num_samples, "num_samples"),))
    if truth is None:
        with p.bound.unwrapped.eval_mode():
            found = [-p.log_prob_blocks(prefix) for prefix in (x, own)]
        is_missing = fac.layout.whole(fac.split(x.isnan()))  # (*lead, num_blocks)
        is_missing = is_missing.reshape((*is_missing.shape[:-1], *fac.grid_shape))
        found[0] = found[0].masked_fill(is_missing, torch.nan)
    else:
        with p.bound.unwrapped.eval_mode(), truth.bound.unwrapped.eval_mode():
            found = [_divergences(truth, p, prefix) for prefix in (x, own)]
    rows = (each.reshape(-1, *fac.grid_shape) for each in found)
    on_data, on_own = (each.to(at_least_single(each.dtype)).nanmean(0) for each in rows)
    return Exposure(on_data, on_own)


def _ranks(p: AutoregressiveDistribution) -> Tensor:
    """The ranks of blocks, (num_blocks,), or (*lead, num_blocks) if rows have their own orders."""
    return p.factorization.ranks.flatten() if p.ranks is None else p.ranks.cpu()


def _divergences(
    truth: AutoregressiveDistribution, p: AutoregressiveDistribution, prefix: Tensor
) -> Tensor:
    """The KL divergence of each block's conditionals: (*lead, *grid_shape)."""
    lead = torch.broadcast_shapes(lead_of(prefix, p.event_shape), p.batch_shape)
    prefix = prefix.expand((*lead, *p.event_shape))
    each = Conditionals(truth, prefix).by_block(divergence_of_blocks, Conditionals(p, prefix))
    return each.reshape((*lead, *p.factorization.grid_shape))
