"""The log probability of events, block by block."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ardist.batch import Batch
from ardist.recomputation import recomputed

# A function of the parameters, values, masks and so on of blocks, by rows.
Function = Callable[..., Tensor]


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
    blocks = batch.blocks(events)
    if batch.num_rows == 0:  # no scores, but with a graph to the parameters
        return batch.unflatten(batch.zeros + batch.forward(blocks).sum())
    evaluate = _evaluator(batch, blocks)
    scored = None if kept is None else batch.blocks(kept)
    if batch.evidence is None:
        return batch.unflatten(_under_mask(batch, evaluate, blocks, scored))
    return batch.unflatten(_given(batch, evaluate, blocks, batch.evidence, scored))


def _evaluator(batch: Batch, blocks: Tensor) -> Callable[..., Tensor]:
    """Evaluates functions of the parameters of blocks, (rows, *value_shape).

    Returns:
        `evaluate(function, *rows)`, which is `function(params, *rows)`, (rows, num_blocks). With a
        chunk_size it calls the function for a few blocks at a time.
    """
    chunk_size = batch.bound.chunk_size
    if chunk_size is None:
        params = batch.forward(blocks)
        return lambda function, *rows: function(params, *rows)
    return partial(_by_chunks, batch, batch.hidden_states(blocks), batch.limits(blocks), chunk_size)


def _by_chunks(
    batch: Batch,
    hidden: Tensor,
    limits: Tensor | None,
    chunk_size: int,
    function: Function,
    *rows: Tensor | None,
) -> Tensor:
    """Calls a function of parameters for a few blocks at a time, and recomputes it backward.

    The parameters of at most `chunk_size` blocks exist at a time, or of one row if that has more
    blocks and the layout is flat.

    Args:
        hidden: the hidden states of all blocks, (rows, num_blocks, size).
        limits: the limits of a rule, laid out as parameters are.
        function: maps parameters and `rows` to (rows, num_blocks).
        rows: values, masks or None, (rows, *value_shape).
    """
    bound, shape, rows = batch.bound, hidden.shape[:2], (limits, *rows)

    def evaluated(hidden: Tensor, limits: Tensor | None, *rows: Tensor | None) -> Tensor:
        return function(batch.restrict(bound.head(hidden), limits), *rows)

    if batch.layout.flat:  # each block has a map of its own: whole rows
        step = max(1, chunk_size // shape[1])
    else:  # one map for all: each block of each row becomes a row of one block
        step = chunk_size
        hidden = hidden.flatten(0, 1).unsqueeze(1)
        rows = tuple(None if part is None else part.flatten(0, 1).unsqueeze(1) for part in rows)
    pieces = zip(*(_pieces(part, hidden.shape[0], step) for part in (hidden, *rows)), strict=True)
    chunks = [recomputed(bound.unwrapped, evaluated, *piece) for piece in pieces]
    return torch.cat(chunks).view(shape)


def _pieces(rows: Tensor | None, count: int, step: int) -> list[Tensor | None]:
    """The rows in chunks of `step`; without rows, None for each chunk."""
    return [None] * -(-count // step) if rows is None else [*rows.split(step)]


def _under_mask(
    batch: Batch, evaluate: Callable[..., Tensor], blocks: Tensor, mask: Tensor | None
) -> Tensor:
    """Scores of the elements under a mask alone, or of all elements."""
    layout = batch.layout
    if mask is not None and layout.is_partially_observed(mask):
        return evaluate(layout.marginal_log_prob, blocks, mask)
    scores = evaluate(layout.log_prob, blocks)
    return scores if mask is None else torch.where(layout.whole(mask), scores, 0.0)


def _given(
    batch: Batch,
    evaluate: Callable[..., Tensor],
    blocks: Tensor,
    evidence: tuple[Tensor, Tensor],
    scored: Tensor | None,
) -> Tensor:
    """Scores given the evidence: 0 for observed blocks, -inf for blocks that differ from it."""
    layout, (values, mask) = batch.layout, evidence
    if batch.is_partial:
        scores = evaluate(layout.given_log_prob, blocks, mask, scored)
    else:
        counted = None if scored is None else scored | mask
        scores = _under_mask(batch, evaluate, blocks, counted)
    scores = torch.where(layout.whole(mask), 0.0, scores)
    differs = layout.count((blocks != values) & mask) > 0
    # After a block that differs, the evidence of later blocks may be impossible and score NaN.
    impossible = differs.any(-1, keepdim=True) & scores.isnan()
    return scores.masked_fill(differs | impossible, -torch.inf)
