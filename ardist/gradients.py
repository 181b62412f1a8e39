"""Draws with gradients: by implicit differentiation, or through the steps of a decoder."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ardist.batch import Batch
from ardist.decoding import Decoder
from ardist.pathwise import by_iteration, by_sweep, with_gradient
from ardist.rollout import Rollout, draw, sampler
from ardist.scoring import score
from ardist.shapes import is_transformed


def rsample(batch: Batch, tol: float = 0.0, scored: bool = False) -> tuple[Tensor, Tensor]:
    """Events with gradients, and the scores of their blocks: (*lead, ...) both.

    Args:
        batch: the rows.
        tol: see `AutoregressiveDistribution.rsample`.
        scored: whether scores are wanted; they may be zeros otherwise.
    """
    if batch.num_rows > 0 and batch.ranks is None and not is_transformed():
        with batch.bound.eval_mode():
            decoder = batch.bound.differentiable_decoder(batch.num_rows)
            if decoder is not None:
                return _through_steps(batch, decoder)
    with torch.no_grad():
        x = draw(batch)
    return reparameterized(batch, x, tol, scored)


def _through_steps(batch: Batch, decoder: Decoder) -> tuple[Tensor, Tensor]:
    """Draws by `decoder`, with plain autograd through its steps."""
    each = list[Tensor]()
    rollout = Rollout(batch, decoder=decoder)
    sample = sampler(rollout)
    for step in rollout:
        with torch.no_grad():
            drawn = sample(step)
        drawn = step.accept(step.layout.pathwise(step.params, drawn))
        each.append(step.layout.log_prob(step.params, drawn))
    blocks = rollout.drawn
    scores = rollout.in_raster(each) if each else batch.zeros
    if batch.evidence is not None:
        scores = scores.masked_fill(batch.layout.whole(batch.evidence[1]), 0.0)
    value, scores = with_gradient(blocks.detach(), lambda *gradients: gradients, blocks, scores)
    return batch.events(value), batch.unflatten(scores)


def reparameterized(
    batch: Batch, x: Tensor, tol: float = 0.0, scored: bool = False
) -> tuple[Tensor, Tensor]:
    """Draws x (*lead, *event_shape) with their gradients, and the scores of their blocks."""
    families = batch.layout.distinct
    wanted = has_gradients(batch) and any(family.has_rsample for family in families)
    if not wanted or x.numel() == 0:
        if wanted:  # zero, with its gradients
            x = x + batch.forward(batch.blocks(x)).sum()
        with batch.bound.unwrapped.eval_mode():
            return x, score(batch, x) if scored else x.new_zeros(())
    value, scores = reparameterized_rows(batch, batch.blocks(x.detach()), tol=tol, scored=scored)
    return batch.events(value), batch.unflatten(scores)


def has_gradients(batch: Batch, *others: Tensor) -> bool:
    """Whether gradients to the parameters, the context, the evidence or the others are needed."""
    sources = (*others, *batch.bound.sources, *(batch.evidence or ()))
    return torch.is_grad_enabled() and any(part.requires_grad for part in sources)


def reparameterized_rows(
    batch: Batch,
    blocks: Tensor,
    function: Callable[[Tensor, Tensor], Tensor] | None = None,
    tol: float = 0.0,
    scored: bool = False,
) -> tuple[Tensor, Tensor]:
    """As `reparameterized`, for the blocks of rows.

    Args:
        batch: the rows.
        blocks: the draws, (rows, *value_shape).
        function: maps all parameters and blocks to the same blocks, with gradients to the
            parameters and possibly to other tensors; `Layout.pathwise` by default.
        tol, scored: as in `rsample`.
    """
    layout, bound, evidence = batch.layout, batch.bound, batch.evidence
    if is_transformed():
        raise NotImplementedError(
            "rsample: transforms of torch.func do not take gradients through draws, which are "
            "implicit; torch.autograd.grad and backward do"
        )
    with bound.eval_mode():
        # A sweep treats limits as constants, but they may depend on real numbers drawn before.
        is_fixed = batch.restriction is None or not batch.restriction.follows_reals
        with torch.no_grad():
            read = batch.readable(blocks)
            sweep = bound.sweep() if batch.ranks is None and is_fixed else None
        leaf = blocks.detach().requires_grad_(scored or sweep is None)
        params = batch.forward(leaf if sweep is None else blocks, sweep)
    if not params.requires_grad:
        params.requires_grad_()
    same, free = (function or layout.pathwise)(params, blocks), None
    scores = layout.log_prob(params, leaf) if scored else batch.zeros.to(blocks.dtype)
    if evidence is not None:
        free = ~evidence[1]
        same = torch.where(free, same, evidence[0])
        scores = scores.masked_fill(layout.whole(evidence[1]), 0.0)
    if sweep is not None:
        solve = by_sweep(batch.factorization, sweep, params, blocks, read, free)
    else:
        solve = by_iteration(same, leaf, batch.order.num_steps, tol)

    def adjoint(of_value: Tensor | None, of_scores: Tensor | None) -> Sequence[Tensor | None]:
        of_params: Tensor | None = None
        if of_scores is not None:
            through, of_params = torch.autograd.grad(
                scores, (leaf, params), of_scores, retain_graph=True, materialize_grads=True
            )
            of_value = through if of_value is None else of_value + through
        total = None if of_value is None else solve(of_value, of_params)
        return total, of_scores, *(sweep.gradients() if sweep is not None else ())

    sums = [] if sweep is None else sweep.sums
    value, each = with_gradient(blocks, adjoint, same, scores, *sums)
    return value, each
