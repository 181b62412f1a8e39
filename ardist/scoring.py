"""The log probability of events, block by block."""

import torch
from torch import Tensor

from ardist.batch import Batch


def teacher_forced_params(batch: Batch, events: Tensor) -> tuple[Tensor, Tensor]:
    """The blocks of events (..., *event_shape), and their parameters given the earlier blocks.

    Both are rows: (rows, *value_shape) and (rows, *param_shape).
    """
    blocks = batch.blocks(events)
    return blocks, batch.forward(blocks)


def score(batch: Batch, events: Tensor, kept: Tensor | None = None) -> Tensor:
    """The log probability of each block, given the evidence: (*lead, num_blocks), in nats.

    Args:
        events: (..., *event_shape).
        kept: (..., *event_shape) bool; only these elements are scored, and the others are
            integrated out.
    """
    blocks, params = teacher_forced_params(batch, events)
    if batch.num_rows == 0:
        return params.new_zeros(*batch.lead, batch.layout.num_blocks) + params.sum()
    layout, rule, evidence = batch.layout, batch.factorization.rule, batch.evidence
    scores = layout.log_prob(params, blocks)
    if rule is not None:
        scores = rule.mask_scores(scores, blocks, batch.all_ranks)
    scored = None if kept is None else batch.blocks(kept)
    if evidence is not None:
        scores = _given(batch, scores, params, blocks, evidence, scored)
    elif scored is not None:
        scores = _marginal(batch, scores, params, blocks, scored)
    return batch.unflatten(scores)


def _marginal(batch: Batch, scores: Tensor, params: Tensor, blocks: Tensor, mask: Tensor) -> Tensor:
    """Scores of the elements under a mask alone."""
    layout = batch.layout
    if layout.is_partially_observed(mask):
        return layout.marginal_log_prob(params, blocks, mask)
    return torch.where(layout.whole(mask), scores, 0.0)


def _given(
    batch: Batch,
    scores: Tensor,
    params: Tensor,
    blocks: Tensor,
    evidence: tuple[Tensor, Tensor],
    scored: Tensor | None,
) -> Tensor:
    """Scores given the evidence: 0 for observed blocks, -inf for those that differ from it."""
    layout, (values, mask) = batch.layout, evidence
    if batch.is_partial:
        scores = layout.given_log_prob(params, blocks, mask, scored)
    elif scored is not None:
        scores = _marginal(batch, scores, params, blocks, scored | mask)
    scores = torch.where(layout.whole(mask), 0.0, scores)
    differs = layout.count((blocks != values) & mask) > 0
    # Under a block that differs, the evidence of later blocks may be impossible: NaN.
    impossible = differs.any(-1, keepdim=True) & scores.isnan()
    return scores.masked_fill(differs | impossible, -torch.inf)
