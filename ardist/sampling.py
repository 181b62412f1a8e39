"""Ways to draw from an autoregressive distribution, and to search it, beside its own `sample`."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from itertools import chain
from math import prod
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Size, Tensor
from torch.distributions import Distribution

from ardist.decoding import Decoder, Forced
from ardist.distribution import AutoregressiveDistribution
from ardist.factorization import Factorization
from ardist.families import Family
from ardist.families.truncated import state_logits_of
from ardist.families.univariate import gumbel
from ardist.layout import Layout
from ardist.ordering import Ordering
from ardist.shapes import (
    as_flag,
    as_positive,
    as_shape,
    as_tolerance,
    check_type,
    described,
    is_sequence,
)

__all__ = ["Step", "ancestral", "beam_search", "fixed_point", "greedy", "without_replacement"]

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
    check_type(p, AutoregressiveDistribution, "p")
    if given is not None:
        if not is_sequence(given) or len(given) != 2:
            raise ValueError(f"given: expected a value and a mask, got {described(given)}")
        p = p.given(*given)
    rows = _Rows(p, as_shape(sample_shape, "sample_shape") + p.batch_shape)
    steps: Iterable[int] = range(rows.factorization.num_steps)
    if as_flag(progress, "progress"):
        try:
            steps = import_module("tqdm").tqdm(steps)
        except ImportError as error:
            raise ImportError("progress: the bar is tqdm's; pip install tqdm") from error
    return _each_step(rows, steps)


def _each_step(rows: "_Rows", steps: Iterable[int]) -> Iterator[Step]:
    p, fac = rows.p, rows.factorization
    decoder, forced = _call(p, rows.decoder), Forced(fac, rows.observed)
    blocks, start, previous = rows.placeholder, 0, None
    ended = rows.ended(blocks[:, :0])
    for step in steps:
        layout, params = fac.step_layouts[step], _call(p, decoder.step, previous)
        observed = forced.columns(step, step + 1) if rows.is_partially_observed else None
        if observed is None:
            drawn = _call(p, layout.sample, params)
        else:
            drawn = _call(p, layout.sample_given, params, *observed)
        previous = forced.apply(drawn, step, step + 1)
        blocks = rows.put(blocks, previous, start)
        yield rows.show(step, params, previous, ended, blocks)
        start, ended = start + previous.shape[1], ended | rows.ended(previous)
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
        tol: stop when a pass changes no real number x by more than tol * (1 + abs(x)). By default
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
    check_type(p, AutoregressiveDistribution, "p")
    layout, reference = p.factorization.layout, p.joint.reference
    if not layout.has_noise:
        without = [family for family in layout.distinct if not family.has_noise]
        raise ValueError(f"p: expected families that draw from noise of their own, got {without}")
    tol = 8 * torch.finfo(reference.dtype).eps if tol is None else as_tolerance(tol, "tol")
    lead = as_shape(sample_shape, "sample_shape") + p.batch_shape
    if prod(lead) == 0:
        return p.sample(sample_shape), 0
    blocks, passes = _call(p, _iterate, p, lead, tol)
    return p.joint.events(blocks, lead), passes


def _iterate(p: AutoregressiveDistribution, lead: Size, tol: float) -> tuple[Tensor, int]:
    """Blocks in raster order, (rows, *value_shape), and how many passes they took."""
    fac, layout, joint = p.factorization, p.factorization.layout, p.joint
    ranks, observed, reference = joint.row_ranks(lead), joint.row_observed(lead), joint.reference
    if (block := joint.cut_block) is not None:
        raise ValueError(
            f"p: expected no block observed in part, since such draws have no noise, got {block}"
        )
    exact = torch.tensor([family.support.is_discrete for family in layout.families])
    allowed = layout.expand_to_elements(torch.where(exact, 0.0, tol).to(reference))
    num_steps = fac.num_steps if ranks is None else int(ranks.max()) + 1
    noise = layout.noise(prod(lead), reference)
    placeholder = fac.split(p.joint.placeholder)
    blocks, passes, settled = placeholder.expand(prod(lead), *placeholder.shape), 0, False
    while passes < num_steps and not settled:
        drawn = layout.from_noise(joint.run(blocks, ranks), noise)
        if observed is not None:
            drawn = torch.where(observed[1], observed[0], drawn)
        if fac.end is not None and fac.pad is not None:
            drawn = drawn.masked_fill(fac.ended(drawn, ranks), fac.pad)
        settled = bool(((drawn - blocks).abs() <= allowed * (1 + drawn.abs())).all())
        blocks, passes = drawn, passes + 1
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
        probability; a row of the batch that has fewer than another is filled up with its first
        event, at log_prob -inf.

    Raises:
        ValueError: where blocks have no finite set of states, or orders differ from row to row and
            have ties, or blocks differ in family.

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
    check_type(p, AutoregressiveDistribution, "p")
    return _call(p, _search, p, as_positive(k, "k"), True)


def _search(
    p: AutoregressiveDistribution, width: int, perturb: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The events that rank highest by log_prob, or by that perturbed; their log_prob, and rank."""
    families = p.factorization.layout.distinct
    states = {f: values for f in families if (values := f.enumerate_support()) is not None}
    if infinite := [family for family in families if family not in states]:
        raise ValueError(f"p: expected blocks with a finite set of states, got {infinite}")
    if prod(p.batch_shape) == 0:
        scores = p.joint.reference.new_zeros(1, *p.batch_shape)
        return p.sample((1,)), scores, scores
    rows = _Rows(p, p.batch_shape)
    fac, decoder, batch = rows.factorization, rows.decoder(), rows.placeholder.shape[0]
    forced = Forced(fac, rows.observed)
    # Beams by contexts, the contexts' own dimension last, are the rows.
    drawn = torch.cat([rows.placeholder[:, :0], *forced.known], 1)
    log_prob = torch.zeros(1, batch, dtype=rows.reference.dtype, device=rows.reference.device)
    rank = gumbel(torch.empty_like(log_prob)) if perturb else log_prob
    params = forced.begin(decoder) if forced.num_known < fac.num_steps else log_prob
    for step in range(forced.num_known, fac.num_steps):
        layout, taken = fac.step_layouts[step], drawn.shape[1]
        kept = unmoved = torch.arange(drawn.shape[0], device=drawn.device)
        for number, family in enumerate(layout.families):
            values = states[family].to(drawn)
            each = rows.scores(family, _by_block(layout, params)[number], values, drawn)
            each = each.unflatten(0, (-1, batch))
            total = log_prob.unsqueeze(-1) + each  # beam, context, state
            ranked = _perturbed(total, rank.unsqueeze(-1)) if perturb else total
            parents, chosen, rank = _best(ranked, width)
            log_prob = total.flatten(0, 1)[parents, chosen].reshape(rank.shape)
            kept, params, drawn = kept[parents], params[parents], drawn[parents]
            block = values[chosen].reshape(drawn.shape[0], -1, *drawn.shape[2:])
            drawn = torch.cat((drawn, block), 1)
        if step + 1 == fac.num_steps or bool(rows.ended(drawn).all()):
            break
        if not torch.equal(kept, unmoved):
            decoder.select(kept)
        params = decoder.step(drawn[:, taken:])
    lead = Size((log_prob.shape[0], *p.batch_shape))
    blocks = rows.put(
        rows.placeholder[:1].expand(drawn.shape[0], *rows.placeholder.shape[1:]), drawn, 0
    )
    log_prob, rank = (p.joint.unrows(x.flatten(), lead) for x in (log_prob, rank))
    events = rows.events(blocks, lead)
    found = (log_prob > -torch.inf).reshape(*lead, *(1,) * len(p.event_shape))
    return torch.where(found, events, events[:1]), log_prob, rank


def _by_block(layout: Layout, params: Tensor) -> Sequence[Tensor]:
    """The parameters of each block, (..., num_params)."""
    return params.split(layout.sizes["param"], -1) if layout.flat else params.unbind(-2)


def _best(ranked: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best of all (beam, context, state) for each context; ranks of -inf only fill up.

    Returns:
        their rows and states, (found * contexts,), and their ranks (found, contexts).
    """
    beams, batch, count = ranked.shape
    best, at = ranked.transpose(0, 1).flatten(1).topk(min(width, beams * count))
    found = max(1, int((best > -torch.inf).sum(-1).max()))
    best, at = best[:, :found].T, at[:, :found].T
    parents = at // count * batch + torch.arange(batch, device=at.device)
    return parents.flatten(), (at % count).flatten(), best


def _perturbed(log_prob: Tensor, largest: Tensor) -> Tensor:
    """Gumbels at `log_prob` (..., states), given that this is the largest of them."""
    free = log_prob + gumbel(torch.empty_like(log_prob))
    gap = free.amax(-1, keepdim=True) - free
    above = largest - free + torch.log(-torch.expm1(-gap))
    drawn = largest - above.relu() - torch.log1p(torch.exp(-above.abs()))
    return drawn.masked_fill(log_prob == -torch.inf, -torch.inf)


class _Rows:
    """The rows of a distribution, with blocks in the order in which they are drawn.

    Args:
        p: the distribution.
        lead: shape of the draw, which ends with batch_shape.
    """

    def __init__(self, p: AutoregressiveDistribution, lead: Size) -> None:
        fac, layout = p.factorization, p.factorization.layout
        ranks, observed = p.joint.row_ranks(lead), p.joint.row_observed(lead)
        if ranks is None:
            order = list(chain(*fac.steps))
            columns = layout.columns("value", order) if layout.flat else order
            self._columns = torch.tensor([columns], device=p.joint.reference.device)
        elif layout.flat or bool((ranks.amax(-1) + 1 < layout.num_blocks).any()):
            raise ValueError(
                "p: expected one order for all rows, where blocks differ in family or are tied, "
                f"got ranks of shape {tuple(ranks.shape)}"
            )
        else:
            self._columns, fac = ranks.argsort(-1), fac.with_ordering(Ordering.raster())
        self.p, self._lead, self._ranks = p, lead, ranks
        self.factorization = fac  # whose steps are those of the draw
        self.reference = p.joint.reference
        placeholder = fac.split(p.joint.placeholder)
        self.placeholder = placeholder.expand(prod(lead), *placeholder.shape)
        self.observed: tuple[Tensor, Tensor] | None = None
        self.is_partially_observed = False
        if observed is not None:
            values, mask = (part.gather(1, self._at(part, 0)) for part in observed)
            self.observed, self.is_partially_observed = (
                (values, mask),
                layout.is_partially_observed(observed[1]),
            )

    def decoder(self) -> Decoder:
        if prod(self._lead) == 0:
            return _NoRows(self.factorization, self.reference)
        return self.p.joint.decoder(prod(self._lead), self._ranks)

    def put(self, blocks: Tensor, values: Tensor, start: int) -> Tensor:
        """Blocks in raster order with those replaced that are drawn from `start` on."""
        return blocks.scatter(1, self._at(values, start), values)

    def _at(self, values: Tensor, start: int) -> Tensor:
        """Where in raster order values belong that are drawn from `start` on."""
        at = self._columns[:, start : start + values.shape[1]]
        at = at if at.shape[0] == 1 else at.repeat(values.shape[0] // max(1, at.shape[0]), 1)
        return at.reshape(*at.shape, *(1,) * (values.dim() - 2)).expand_as(values)

    def events(self, blocks: Tensor, lead: Size) -> Tensor:
        """Blocks in raster order as events."""
        return self.p.joint.events(blocks, lead)

    def ended(self, drawn: Tensor) -> Tensor:
        """Whether nothing but padding can follow: (rows, 1) bool."""
        end = self.factorization.end
        if end is None:
            return torch.zeros(drawn.shape[0], 1, dtype=torch.bool, device=drawn.device)
        return (drawn == end).any(1, keepdim=True)

    def scores(self, family: Family, params: Tensor, values: Tensor, drawn: Tensor) -> Tensor:
        """log_prob of the next block's states, which may have to be padding or what is observed.

        Args:
            family: of the block.
            params: (rows, num_params).
            values: the states, (n, *event_shape).
            drawn: what comes before it.

        Returns:
            (rows, n).
        """
        log_prob = state_logits_of(family, params).log_softmax(-1)
        states = values.flatten(1) if values.dim() > 1 else values.unsqueeze(-1)
        if (pad := self.factorization.pad) is not None:
            certain = torch.where(states.T.eq(pad), 0.0, -torch.inf).to(log_prob)
            log_prob = torch.where(self.ended(drawn), certain, log_prob)
        if self.observed is not None:
            width = states.shape[1] if self.factorization.layout.flat else 1
            columns = slice(drawn.shape[1], drawn.shape[1] + width)
            observed, mask = (
                part[:, columns].flatten(1).repeat(drawn.shape[0] // part.shape[0], 1)
                for part in self.observed
            )
            if self.is_partially_observed:
                each = params.unsqueeze(1).expand(-1, values.shape[0], -1)
                under = mask.reshape(-1, 1, *values.shape[1:]).expand(mask.shape[0], *values.shape)
                given = family.given_log_prob(each, values.expand_as(under), under)
                log_prob = torch.where(mask.any(-1, keepdim=True), given, log_prob)
            log_prob = torch.where(mask.all(-1, keepdim=True), 0.0, log_prob)
            agree = ((states == observed.unsqueeze(1)) | ~mask.unsqueeze(1)).all(-1)
            log_prob = log_prob.masked_fill(~agree, -torch.inf)
        return log_prob

    def show(self, step: int, params: Tensor, value: Tensor, ended: Tensor, event: Tensor) -> Step:
        """What a user sees of a step."""
        layout, fac = self.factorization.step_layouts[step], self.factorization
        params, value, ended = (self.p.joint.unrows(x, self._lead) for x in (params, value, ended))
        conditional: Distribution | tuple[Distribution, ...]
        shown: Tensor | tuple[Tensor, ...]
        if not layout.flat:
            family, shown = layout.families[0], value
            conditional = family(params) if fac.end is None else fac.padded(family, params, ended)
        else:
            pairs = zip(layout.families, _by_block(layout, params), strict=True)
            conditional = tuple(
                family(piece) if fac.end is None else fac.padded(family, piece, ended.squeeze(-1))
                for family, piece in pairs
            )
            values = zip(layout.families, value.split(layout.sizes["value"], -1), strict=True)
            shown = tuple(part.reshape(*self._lead, *f.event_shape) for f, part in values)
        if self._ranks is None:
            blocks = torch.tensor(fac.steps[step], device=self.reference.device)
        else:
            blocks = self.p.joint.unrows(self._columns[:, step : step + 1], self._lead)
        return Step(step, blocks, conditional, shown, self.events(event, self._lead))


class _NoRows(Decoder):
    """Of no events, which networks need not serve."""

    def __init__(self, factorization: Factorization, reference: Tensor) -> None:
        super().__init__(factorization, 0)
        self._reference = reference

    def step(self, previous: Tensor | None) -> Tensor:
        self.num_taken += previous is not None
        return self._reference.new_empty(
            0, *self.factorization.step_layouts[self.num_taken].param_shape
        )

    def select(self, rows: Tensor) -> None:
        pass


def _call(p: AutoregressiveDistribution, function: Callable[..., Result], *args: Any) -> Result:
    """A call under which networks are as they are in draws."""
    with torch.no_grad(), p.joint.as_drawn():
        return p.joint.replaced(function, *args)
