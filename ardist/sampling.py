"""Functions that sample from an autoregressive distribution or search it."""

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from math import prod
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from ardist.batch import Batch
from ardist.distribution import AutoregressiveDistribution
from ardist.families.guards import at_least_single
from ardist.families.noise import gumbel_noise
from ardist.rollout import Rollout, rollout_by_steps
from ardist.rollout import Step as RolloutStep
from ardist.shapes import (
    as_flag,
    as_positive,
    as_shape,
    as_tolerance,
    check_type,
    described,
    is_sequence,
)
from ardist.smc import Particles, smc

__all__ = [
    "Particles",
    "Step",
    "ancestral",
    "beam_search",
    "fixed_point",
    "greedy",
    "smc",
    "without_replacement",
]

Result = TypeVar("Result")


class Step(NamedTuple):
    """A step of `ancestral`; `lead` is sample_shape + batch_shape.

    Attributes:
        index: the index of the step, from 0.
        blocks: the raster indices of the blocks of the step, (number,) int64, or (*lead, 1) if
            rows have orders of their own.
        conditional: the conditional of each block given the earlier steps. It is one distribution
            of batch_shape (*lead, number) if all blocks of the event have one family, otherwise a
            tuple of distributions of batch_shape `lead`, one for each block of the step.
        value: the drawn or observed blocks, (*lead, number, *block_shape), or a tuple as for
            `conditional`.
        event: the event so far, (*lead, *event_shape). Blocks of later steps hold placeholders
            inside the support, or padding if sequences have an end. The last step has the whole
            event.

    >>> import ardist as ad
    >>> net = ad.networks.MADE(ad.Factorization(3, ad.families.Normal()), hidden_features=8)
    >>> first = next(ad.sampling.ancestral(net.condition(), (5,)))
    >>> first.value.shape, first.event.shape
    (torch.Size([5, 1]), torch.Size([5, 3]))
    """

    index: int  # type: ignore[assignment]  # instead of the tuple's method
    blocks: Tensor
    conditional: Distribution | tuple[Distribution, ...]
    value: Tensor | tuple[Tensor, ...]
    event: Tensor


def ancestral(
    p: AutoregressiveDistribution,
    sample_shape: Sequence[int] = (),
    *,
    given: tuple[Tensor, Tensor] | None = None,
    skip_observed: bool = False,
    progress: bool = False,
) -> Iterator[Step]:
    """Draws step by step from cached state, as `p.sample` does, and yields each step.

    It stops when all sequences have ended. Steps of observed blocks are included, with their
    conditionals, unless `skip_observed`.

    Args:
        p: the distribution.
        sample_shape: of the draw, whose shape is sample_shape + batch_shape + event_shape.
        given: a value and a mask to condition on, as in `p.given(value, mask)`.
        skip_observed: whether to begin after the first steps that are observed in all rows, such as
            a prompt, which the network then reads in one pass.
        progress: whether to show a progress bar of tqdm.

    Raises:
        ValueError: if rows have orders of their own, and these orders have ties or the blocks
            differ in family.
        ImportError: if `progress` is true and tqdm is not installed.

    >>> import torch, ardist as ad
    >>> net = ad.networks.MADE(ad.Factorization(3, ad.families.Normal()), hidden_features=8)
    >>> for step in ad.sampling.ancestral(net.condition(), (5,)):
    ...     print(step.index, step.blocks.tolist(), step.conditional.mean.shape)
    0 [0] torch.Size([5, 1])
    1 [1] torch.Size([5, 1])
    2 [2] torch.Size([5, 1])
    >>> step.event.shape
    torch.Size([5, 3])
    """
    check_type(p, AutoregressiveDistribution, "p")
    if given is not None:
        if not is_sequence(given) or len(given) != 2:
            raise ValueError(f"given: expected a value and a mask, got {described(given)}")
        p = p.given(*given)
    skip = as_flag(skip_observed, "skip_observed")
    rollout = rollout_by_steps(
        p.batch(as_shape(sample_shape, "sample_shape") + p.batch_shape), skip
    )
    steps = _each_step(p, rollout)
    if not as_flag(progress, "progress"):
        return steps
    try:
        bar = import_module("tqdm").tqdm(steps, total=rollout.num_steps - rollout.num_prefilled)
    except ImportError as error:
        raise ImportError("progress: the bar is tqdm's; pip install tqdm") from error
    return iter(bar)


def _each_step(p: AutoregressiveDistribution, rollout: Rollout) -> Iterator[Step]:
    steps = _call(p, iter, rollout)
    blocks = rollout.drawn if rollout.num_prefilled else rollout.batch.placeholders
    while (step := _call(p, next, steps, None)) is not None:
        drawn = step.accept(_call(p, step.sample))
        blocks = rollout.order.put(blocks, drawn, step.index)
        if rollout.rest is not None:
            blocks = rollout.order.put(blocks, rollout.rest.to(blocks.dtype), step.stop)
        yield _shown(rollout, step, drawn, blocks)


def _shown(rollout: Rollout, step: RolloutStep, drawn: Tensor, blocks: Tensor) -> Step:
    """A step as users see it, with the blocks so far."""
    batch, layout = rollout.batch, step.layout
    params, drawn = batch.unflatten(step.params), batch.unflatten(drawn)
    conditional: Distribution | tuple[Distribution, ...]
    value: Tensor | tuple[Tensor, ...]
    if not layout.flat:
        conditional, value = layout.families[0](params), drawn
    else:
        conditional = layout.distributions(params)
        values = zip(layout.families, drawn.split(layout.sizes["value"], -1), strict=True)
        value = tuple(part.reshape((*batch.lead, *f.event_shape)) for f, part in values)
    return Step(step.index, _blocks_of(rollout, step), conditional, value, batch.events(blocks))


def _blocks_of(rollout: Rollout, step: RolloutStep) -> Tensor:
    """The raster indices of the blocks of a step, (number,), or of each row, (*lead, 1)."""
    by_row = rollout.order.values.order
    if rollout.batch.ranks is None or by_row is None:
        return torch.tensor(rollout.order.steps[step.index], device=step.params.device)
    return rollout.batch.unflatten(by_row[:, step.index : step.stop])


def fixed_point(
    p: AutoregressiveDistribution, sample_shape: Sequence[int] = (), *, tol: float | None = None
) -> tuple[Tensor, int]:
    """Draws from p by fixed-point iteration over parallel passes.

    The noise is drawn once. Each pass maps the noise to an event, with the conditionals given the
    event of the previous pass, and makes at least one more step final. As many passes as steps
    always suffice, and the result equals a draw step by step from the same noise. Far fewer passes
    often suffice if blocks depend weakly on each other (Song et al. 2021, "Accelerating feedforward
    computation via parallel nonlinear equation solving"; Wiggers and Hoogeboom 2020, "Predictive
    sampling with forecasting autoregressive models").

    Args:
        p: a distribution whose families draw from noise that does not depend on their
            parameters: by an inverse CDF, a location and a scale, or Gumbels.
        sample_shape: of the draw.
        tol: stop when a pass changes no real number x by more than tol * (1 + abs(x)). The default
            is 8 units in the last place, the size of rounding errors. With a larger value the draw
            is approximate. Integers must not change.

    Returns:
        the draw, sample_shape + batch_shape + event_shape, and the number of passes.

    Raises:
        ValueError: if a family does not draw from such noise, or a block is observed in part.

    >>> import torch, ardist as ad
    >>> _ = torch.manual_seed(0)
    >>> fac = ad.Factorization(64, ad.families.Bernoulli())
    >>> x, passes = ad.sampling.fixed_point(ad.networks.MADE(fac, hidden_features=32).condition())
    >>> x.shape, passes < 20
    (torch.Size([64]), True)
    """
    check_type(p, AutoregressiveDistribution, "p")
    layout = p.factorization.conditionals
    if not layout.has_noise:
        without = [family for family in layout.distinct if not family.has_noise]
        raise ValueError(f"p: expected families that draw from noise of their own, got {without}")
    tol = None if tol is None else as_tolerance(tol, "tol")
    batch = p.batch(as_shape(sample_shape, "sample_shape") + p.batch_shape)
    if batch.num_rows == 0:
        return p.sample(sample_shape), 0
    if (block := p.partial_block) is not None:
        raise ValueError(
            f"p: expected no block observed in part, since such draws have no noise, got {block}"
        )
    return _call(p, _solved, batch, tol)


def _solved(batch: Batch, tol: float | None) -> tuple[Tensor, int]:
    """The events, drawn in one window of all steps, and the number of passes."""
    passes = 0
    noise = batch.source.layout.noise(batch.num_rows, batch.bound.reference)
    for step in (rollout := Rollout(batch, whole=True)):
        blocks, passes = step.solve(lambda layout, params: layout.from_noise(params, noise), tol)
        step.accept(blocks)
    return rollout.events(), passes


def greedy(p: AutoregressiveDistribution) -> tuple[Tensor, Tensor]:
    """The likeliest state of each block given the earlier ones: a beam search of width one.

    Returns:
        the events, batch_shape + event_shape, and their log_prob, batch_shape.

    Raises:
        ValueError: as `beam_search`.

    >>> import ardist as ad
    >>> net = ad.networks.RNN(ad.Factorization(9, ad.families.Bernoulli()), hidden_size=8)
    >>> x, log_prob = ad.sampling.greedy(net.condition())
    >>> x.shape, log_prob.shape
    (torch.Size([9]), torch.Size([]))
    """
    events, log_prob = beam_search(p, 1)
    return events[0], log_prob[0]


def beam_search(p: AutoregressiveDistribution, width: int) -> tuple[Tensor, Tensor]:
    """Finds events of high probability: keeps the `width` best prefixes at each block.

    Sequences that have ended stay in the beam with their log_prob. The blocks of one step are
    added one by one, in raster order.

    Args:
        p: a distribution over finite discrete blocks.
        width: the number of prefixes to keep for each row of the batch. If it is the number of
            possible events, all are found.

    Returns:
        the events, (found, *batch_shape, *event_shape), and their log_prob in nats, (found,
        *batch_shape), in descending order. The log_prob is in float32 if the network is in half
        precision. `found` is `width`, or the number of events of positive probability if that is
        smaller. Rows of the batch with fewer events than other rows repeat their first event, with
        log_prob -inf.

    Raises:
        ValueError: if blocks have no finite set of states, or if rows have orders of their own,
            and these orders have ties or the blocks differ in family.

    >>> import ardist as ad
    >>> net = ad.networks.RNN(ad.Factorization(9, ad.families.Categorical(4)), hidden_size=8)
    >>> x, log_prob = ad.sampling.beam_search(net.condition(), 5)
    >>> x.shape, bool((log_prob[:-1] >= log_prob[1:]).all())
    (torch.Size([5, 9]), True)
    """
    check_type(p, AutoregressiveDistribution, "p")
    events, log_prob, _ = _call(p, _search, p, as_positive(width, "width"), False)
    return events, log_prob


def without_replacement(p: AutoregressiveDistribution, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draws `k` different events: each from p restricted to the events not drawn before.

    A beam search over log-probabilities that are perturbed by Gumbel noise. It finds the k largest
    of all events exactly (Kool et al. 2019, "Stochastic beams and where to find them"). If g is
    the k-th largest perturbed log-probability, the sum over the k - 1 others of
    f(x) p(x) / (1 - exp(-exp(log p(x) - g))) is an unbiased estimate of the expectation of f.

    Args:
        p: a distribution over finite discrete blocks.
        k: the number of events for each row of the batch.

    Returns:
        the events, (k, *batch_shape, *event_shape), their log_prob, and their perturbed
        log-probabilities, both (k, *batch_shape). The perturbed log-probabilities are in descending
        order, which is the order of the draw. If there are fewer than k events, the shapes and
        repetitions are as in `beam_search`.

    Raises:
        ValueError: as `beam_search`.

    >>> import ardist as ad
    >>> net = ad.networks.RNN(ad.Factorization(9, ad.families.Bernoulli()), hidden_size=8)
    >>> x, log_prob, perturbed = ad.sampling.without_replacement(net.condition(), 20)
    >>> len(x.unique(dim=0))
    20
    """
    check_type(p, AutoregressiveDistribution, "p")
    return _call(p, _search, p, as_positive(k, "k"), True)


def _search(
    p: AutoregressiveDistribution, width: int, perturb: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The events of highest rank, their log_prob, and their rank: the perturbed log_prob if
    `perturb`, otherwise the log_prob.
    """
    families = p.factorization.conditionals.distinct
    states = {f: values for f in families if (values := f.enumerate_support()) is not None}
    if infinite := [family for family in families if family not in states]:
        raise ValueError(f"p: expected blocks with a finite set of states, got {infinite}")
    # A sum in half precision would lose whole nats, and with them the order of the events.
    dtype = at_least_single(p.bound.reference.dtype)
    if prod(p.batch_shape) == 0:
        scores = p.bound.reference.new_zeros(1, *p.batch_shape, dtype=dtype)
        return p.sample((1,)), scores, scores
    batch = p.batch(p.batch_shape)
    rollout = rollout_by_steps(batch)
    states = {family: values.to(batch.placeholders) for family, values in states.items()}
    # The rows are beams by contexts, the contexts' own dimension last.
    log_prob = batch.bound.reference.new_zeros(1, batch.num_rows, dtype=dtype)
    rank = gumbel_noise(torch.empty_like(log_prob)) if perturb else log_prob
    for step in rollout:
        drawn = list[Tensor]()
        for number, family in enumerate(step.layout.families):
            values = states[family]
            each = step.state_log_prob(number, values, dtype).unflatten(0, (-1, batch.num_rows))
            total = log_prob.unsqueeze(-1) + each  # (beams, contexts, states)
            ranked = _perturbed(total, rank.unsqueeze(-1)) if perturb else total
            parents, chosen, rank = _best(ranked, width)
            log_prob = total.flatten(0, 1)[parents, chosen].reshape(rank.shape)
            log_prob = log_prob.masked_fill(rank == -torch.inf, -torch.inf)
            step.select(parents)
            block = values[chosen].reshape(parents.shape[0], -1, *step.layout.value_shape[1:])
            drawn = [*(part.index_select(0, parents) for part in drawn), block]
        step.accept(torch.cat(drawn, 1))
    found = p.batch((log_prob.shape[0], *p.batch_shape))
    events = found.events(rollout.drawn)
    log_prob, rank = (found.unflatten(x.flatten()) for x in (log_prob, rank))
    possible = (log_prob > -torch.inf).reshape((*found.lead, *(1,) * len(p.event_shape)))
    return torch.where(possible, events, events[:1]), log_prob, rank


def _best(ranked: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best pairs of a beam and a state for each context, of all (beam, context, state).

    Returns:
        their rows and states, (found * contexts,), and their ranks (found, contexts).
    """
    beams, batch, count = ranked.shape
    best, at = ranked.transpose(0, 1).flatten(1).topk(min(width, beams * count))
    found = max(1, int((best > -torch.inf).sum(-1).max()))
    best, at = best[:, :found].T, at[:, :found].T
    at = torch.where(best > -torch.inf, at, at[:1])  # the first one is possible
    parents = at // count * batch + torch.arange(batch, device=at.device)
    return parents.flatten(), (at % count).flatten(), best


def _perturbed(log_prob: Tensor, largest: Tensor) -> Tensor:
    """Gumbel noise plus `log_prob` (..., states), given the largest of the sums."""
    free = log_prob + gumbel_noise(torch.empty_like(log_prob))
    gap = free.amax(-1, keepdim=True) - free
    above = largest - free + torch.log(-torch.expm1(-gap))
    drawn = largest - above.relu() - torch.log1p(torch.exp(-above.abs()))
    return drawn.masked_fill(log_prob == -torch.inf, -torch.inf)


def _call(p: AutoregressiveDistribution, function: Callable[..., Result], *args: Any) -> Result:
    """Calls a function without gradients and with the network in eval mode."""
    with torch.no_grad(), p.bound.eval_mode():
        return p.bound.with_params(function, *args)
