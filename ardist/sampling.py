"""Ways to draw from an autoregressive distribution, and to search it, beside its own `sample`."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from itertools import accumulate, chain
from math import prod
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Size, Tensor
from torch.distributions import Distribution

from ardist.decoding import Decoder, _Forced
from ardist.distribution import AutoregressiveDistribution
from ardist.families import Family
from ardist.layout import Layout
from ardist.ordering import Ordering
from ardist.shapes import as_positive

Result = TypeVar("Result")


class Step(NamedTuple):
    """A step of `ancestral`, with `lead` for sample_shape + batch_shape.

    Attributes:
        index: of the step, from 0.
        blocks: the blocks of the step, by their raster index: (number,) int64; (*lead, 1) where
            rows have orders of their own.
        conditional: of each block given those of the steps before. One distribution of batch_shape
            (*lead, number) where all blocks of the event have one family, otherwise a tuple of
            distributions of batch_shape `lead`, one for each block of the step.
        value: what was drawn, or observed: (*lead, number, *block_shape), or a tuple likewise.
        event: the event so far, (*lead, *event_shape). Blocks of later steps are at some value
            inside the support, those after the end of a sequence at its padding, so that the last
            step has the whole event.
    """

    index: int
    blocks: Tensor
    conditional: Distribution | tuple[Distribution, ...]
    value: Tensor | tuple[Tensor, ...]
    event: Tensor


def ancestral(
    p: AutoregressiveDistribution,
    sample_shape: Sequence[int] = (),
    *,
    given: tuple[Tensor, Tensor] | None = None,
    progress: bool = False,
) -> Iterator[Step]:
    """Draws step by step from cached state, as `p.sample` does, and shows each step.

    It stops where all sequences have ended. Steps whose blocks are observed are shown too, with
    the conditionals under which their values were to be expected.

    Args:
        p: the distribution.
        sample_shape: of the draw, whose shape is sample_shape + batch_shape + event_shape.
        given: a value and a mask, for `p.given(value, mask)`.
        progress: whether to show a bar, by tqdm.

    Raises:
        ValueError: where orders differ from row to row and have ties, or blocks differ in family.
        ImportError: for a bar without tqdm.

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
    _check(p)
    if given is not None:
        p = p.given(*given)
    rows = _Rows(p, Size(sample_shape) + p.batch_shape)
    steps: Iterable[int] = range(rows.factorization.num_steps)
    if progress:
        try:
            steps = import_module("tqdm").tqdm(steps)
        except ImportError as error:
            raise ImportError("progress: the bar is tqdm's; pip install tqdm") from error
    return _each_step(rows, steps)


def _each_step(rows: "_Rows", steps: Iterable[int]) -> Iterator[Step]:
    decoder, forced = rows.call(rows.decoder), _Forced(rows.factorization, rows.observed)
    blocks, previous = rows.anchor, None
    ended = torch.zeros(len(blocks), 1, dtype=torch.bool, device=blocks.device)
    for step in steps:
        params = rows.call(decoder.step, previous)
        layout = rows.factorization.step_layouts[step]
        observed = forced.columns(step, step + 1) if rows.is_cut else None
        if observed is None:
            drawn = rows.call(layout.sample, params)
        else:
            drawn = rows.call(layout.sample_given, params, *observed)
        previous = forced.apply(drawn, step, step + 1)
        blocks = rows.put(blocks, previous, rows.ends[step])
        yield rows.show(step, params, previous, ended, blocks)
        ended = ended | (previous == rows.factorization.end)
        if forced.take(previous):
            return


def fixed_point(
    p: AutoregressiveDistribution, sample_shape: Sequence[int] = (), *, tol: float | None = None
) -> tuple[Tensor, int]:
    """Draws by fixed-point iteration over whole parallel passes: the same distribution.

    The noise is drawn once. A pass turns it into an event under the conditionals that the event of
    the pass before gives, and makes at least one more step final; so as many passes as steps
    always suffice, and give what drawing step by step from that noise gives. Often far fewer do,
    where blocks depend weakly on each other (Song et al. 2021, "Accelerating feedforward
    computation via parallel nonlinear equation solving"; Wiggers and Hoogeboom 2020, "Predictive
    sampling with forecasting autoregressive models").

    Args:
        p: a distribution whose families make draws from noise that does not depend on their
            parameters: by an inverse CDF, a location and a scale, or Gumbels.
        sample_shape: of the draw.
        tol: stop when a pass changes no real number x by more than tol * (1 + |x|). By default
            that is rounding, 8 units in the last place; more is an approximation. Integers have
            to stay as they are.

    Returns:
        the draw, sample_shape + batch_shape + event_shape, and how many passes it took.

    Raises:
        ValueError: where a family has no such noise, or a block is observed in part.

    >>> import torch, ardist as ad
    >>> _ = torch.manual_seed(0)
    >>> fac = ad.Factorization(64, ad.families.Bernoulli())
    >>> x, passes = ad.sampling.fixed_point(ad.networks.MADE(fac, hidden_features=32).condition())
    >>> x.shape, passes < 20
    (torch.Size([64]), True)
    """
    _check(p)
    layout, like = p.factorization.layout, p._reference
    if not layout.has_push:
        without = [family for family in layout.distinct if not family.has_push]
        raise ValueError(f"p: expected families that draw from noise of their own, got {without}")
    if tol is None:
        tol = 8 * torch.finfo(like.dtype).eps
    elif not tol >= 0:
        raise ValueError(f"tol: expected a number of at least 0, got {tol!r}")
    lead = Size(sample_shape) + p.batch_shape
    if prod(lead) == 0:
        return p.sample(sample_shape), 0
    blocks, passes = _call(p, _iterate, p, lead, tol)
    return p._unrows(p.factorization.merge(blocks), lead), passes


def _iterate(p: AutoregressiveDistribution, lead: Size, tol: float) -> tuple[Tensor, int]:
    """Blocks in raster order, (rows, *value_shape), and how many passes they took."""
    fac, layout, like = p.factorization, p.factorization.layout, p._reference
    ranks, observed = p._row_ranks(lead), p._row_observed(lead)
    if observed is not None and layout.is_cut(observed[1]):
        raise ValueError("p: expected no block observed in part, since such draws have no noise")
    exact = torch.tensor([family.support.is_discrete for family in layout.families])
    allowed = layout.spread(torch.where(exact, 0.0, tol).to(like))
    num_steps = fac.num_steps if ranks is None else int(ranks.max()) + 1
    noise = layout.noise(prod(lead), like)
    blocks = fac.split(p.anchor)
    blocks = blocks.expand(prod(lead), *blocks.shape)
    for passes in range(1, num_steps + 1):
        drawn = layout.push(p._network(blocks, p._contexts, ranks), noise)
        if fac.end is not None:
            drawn = drawn.masked_fill(fac.ended(drawn, ranks), fac.pad)
        if observed is not None:
            drawn = torch.where(observed[1], observed[0], drawn)
        settled = bool(((drawn - blocks).abs() <= allowed * (1 + drawn.abs())).all())
        blocks = drawn
        if settled:
            break
    return blocks, passes


def greedy(p: AutoregressiveDistribution) -> tuple[Tensor, Tensor]:
    """The event that takes the likeliest state of each block given those before: a beam of one.

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
    """Events of high probability, found by keeping the `width` best beginnings at every block.

    Sequences that have ended stay in the beam with the log_prob that they have. Blocks of one step
    are added one by one, in raster order.

    Args:
        p: a distribution over finite discrete blocks.
        width: how many beginnings are kept, for each row of the batch. With as many as there are
            events all are found.

    Returns:
        the events, (found, *batch_shape, *event_shape), and their log_prob, (found, *batch_shape),
        in nats and falling. As many as `width` are found where there are so many of positive
        probability; a row of the batch that has fewer than another is filled up with events of
        log_prob -inf.

    Raises:
        ValueError: where blocks have no finite set of states, or orders differ from row to row and
            have ties, or blocks differ in family.

    >>> import ardist as ad
    >>> net = ad.networks.RNN(ad.Factorization(9, ad.families.Categorical(4)), hidden_size=8)
    >>> x, log_prob = ad.sampling.beam_search(net.condition(), 5)
    >>> x.shape, bool((log_prob[:-1] >= log_prob[1:]).all())
    (torch.Size([5, 9]), True)
    """
    _check(p)
    events, log_prob, _ = _call(p, _search, p, as_positive(width, "width"), False)
    return events, log_prob


def without_replacement(
    p: AutoregressiveDistribution, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Draws `k` different events: the first by p, each further one by p without those before it.

    A beam search over log-probabilities perturbed by Gumbels, which finds the k largest of all
    events exactly (Kool et al. 2019, "Stochastic beams and where to find them"). With g the last,
    k-th, of the perturbed log-probabilities, the sum over the k - 1 others of
    f(x) p(x) / (1 - exp(-exp(log p(x) - g))) is an unbiased estimate of the expectation of f.

    Args:
        p: a distribution over finite discrete blocks.
        k: how many events, for each row of the batch.

    Returns:
        the events, (k, *batch_shape, *event_shape), their log_prob and their perturbed
        log-probabilities, both (k, *batch_shape), the latter falling: in the order of the draw.
        Where there are fewer events than k, as for `beam_search`.

    Raises:
        ValueError: as `beam_search`.

    >>> import ardist as ad
    >>> net = ad.networks.RNN(ad.Factorization(9, ad.families.Bernoulli()), hidden_size=8)
    >>> x, log_prob, perturbed = ad.sampling.without_replacement(net.condition(), 20)
    >>> len(x.unique(dim=0))
    20
    """
    _check(p)
    return _call(p, _search, p, as_positive(k, "k"), True)


def _search(
    p: AutoregressiveDistribution, width: int, perturb: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The events whose log_prob, or perturbed log_prob, is largest, with both."""
    states = {family: family.enumerate_support() for family in p.factorization.layout.distinct}
    if infinite := [family for family, values in states.items() if values is None]:
        raise ValueError(f"p: expected blocks with a finite set of states, got {infinite}")
    rows = _Rows(p, p.batch_shape)
    fac, batch, decoder = rows.factorization, len(rows.anchor), rows.decoder()
    forced = _Forced(fac, rows.observed)
    # Rows are beams by contexts, the contexts' own last: as networks have them.
    drawn = forced.known[0] if forced.known else rows.anchor[:, :0]
    log_prob = rows.like.new_zeros(1, batch)
    score = _gumbels(log_prob) if perturb else log_prob
    params = forced.begin(decoder) if forced.num_known < fac.num_steps else rows.like
    for step in range(forced.num_known, fac.num_steps):
        kept = torch.arange(len(drawn), device=drawn.device)
        layout, at = fac.step_layouts[step], 0
        for family in layout.families:
            single, values = layout.select([0]), states[family]
            ...
    raise NotImplementedError
