"""The loop over the steps of a draw from an autoregressive distribution."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Size, Tensor

from ardist.batch import Batch
from ardist.decoding import Decoder
from ardist.drawing_order import DrawingOrder
from ardist.families.truncated import state_logits_of
from ardist.layout import Layout
from ardist.restriction import Restriction
from ardist.rows import repeat_rows
from ardist.rules.base import At, State, map_state, rows_of
from ardist.shapes import is_vmapped

_NOISE_AT_ONCE = 2**20  # numbers drawn ahead
_STEPS_OF_A_PASS = 2  # a pass over a window takes at least as long as this many single steps

# Maps conditionals and their parameters to blocks.
Update = Callable[[Layout, Tensor], Tensor]


def steps_per_check(reference: Tensor) -> int:
    """The number of steps between checks whether all rows have ended, which wait for the device."""
    return 1 if reference.device.type == "cpu" else 16


class Step:
    """A step of a rollout, or a window of steps that are solved together.

    Blocks and parameters are (rows, ...), laid out as in `Layout`, and contain only the blocks of
    the step.

    Args:
        rollout: the rollout of the step.
        span: the index of the first step, and one more than the index of the last step.
        layouts: `layout` and `source`.
        params: the network's parameters, without the limits of a rule; in a window, the parameters
            before any guess of its blocks.
        evaluate: in a window, maps a guess of its blocks to the network's parameters.

    Attributes:
        index: the index of the first step, from 0.
        stop: one more than the index of the last step.
        layout: the conditionals of the blocks.
        source: the conditionals that blocks are drawn from: `layout`, or the conditionals without
            the rule if the rule corrects draws.
        drawn: the accepted blocks, or None.
        passes: how often the parameters of a window were computed.
    """

    def __init__(
        self,
        rollout: "Rollout",
        span: tuple[int, int],
        layouts: tuple[Layout, Layout],
        params: Tensor,
        evaluate: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._rollout, self._evaluate = rollout, evaluate
        self.index, self.stop = self._span = span
        self.layout, self.source = layouts
        self._plain = params
        self._before = rollout.before(None, *span) if evaluate is None else None
        # If a rule corrects free draws, only `params` and `accept` need limits and compute them.
        self._limits: Tensor | None = None
        self._params: Tensor | None = None
        if self.source is self.layout:
            self._limits = rollout.limits(self._before, *span)
            self._params = rollout.restricted(params, self._limits, *span)
        self.drawn: Tensor | None = None
        self.passes = 1

    @property
    def params(self) -> Tensor:
        """The parameters of `layout`; in a window, before any guess of its blocks."""
        if self._params is not None:
            return self._params
        limits = self._rollout.limits(self._before, *self._span)
        return self._rollout.restricted(self._plain, limits, *self._span)

    @property
    def is_window(self) -> bool:
        """Whether the blocks belong to several steps and depend on each other."""
        return self._evaluate is not None

    @property
    def evidence(self) -> tuple[Tensor, Tensor] | None:
        """Values and a mask of the blocks, if some are observed in part."""
        rollout = self._rollout
        return rollout.evidence_of(*self._span) if rollout.is_partial else None

    def accept(self, blocks: Tensor) -> Tensor:
        """Takes the blocks of the step, and returns them with observed values put in."""
        rollout, span = self._rollout, self._span
        self.drawn = rollout.clamp(blocks, *span)
        if rollout.may_reach_dead_end:
            before = rollout.before(self.drawn, *span) if self.is_window else self._before
            limits = rollout.limits(before, *span) if self._limits is None else self._limits
            rollout.check_possible(limits, *span)
        rollout.follow(self.drawn, *span)
        return self.drawn

    def sample(self) -> Tensor:
        """A draw of the blocks, given their observed elements."""
        evidence = self.evidence
        if evidence is None:
            return self.draw(Layout.sample)
        return self.layout.sample_given(self.params, *evidence)

    def draw(self, update: Update) -> Tensor:
        """The blocks that `update` computes from `source` and its parameters; in a window, its
        fixed point.
        """
        if self._evaluate is not None:
            drawn, self.passes = self.solve(update)
            return drawn
        if self.source is self.layout:
            return update(self.source, self.params)
        drawn = update(self.source, self._plain)
        return self._rollout.corrected(drawn, self._before, *self._span)

    def solve(self, update: Update, tol: float | None = None) -> tuple[Tensor, int]:
        """The fixed point of a window: `update` maps the parameters given these blocks to the same
        blocks.

        A pass makes at least one more step final. As many passes as steps always suffice, and the
        result equals a draw step by step. Usually far fewer passes suffice (Song et al. 2021,
        "Accelerating feedforward computation via parallel nonlinear equation solving").

        Args:
            update: maps `source` and its parameters to blocks.
            tol: stops when no real number x changes by more than tol * (1 + abs(x)). The default
                is 8 units in the last place. Integers must not change at all.

        Returns:
            the blocks, and the number of passes.
        """
        rollout, span = self._rollout, self._span
        restriction = rollout.restriction

        def drawn(params: Tensor, before: State) -> Tensor:
            params = rollout.restricted(params, rollout.limits(before, *span), *span)
            return rollout.clamp(update(self.layout, params), *span)

        def solved(params: Tensor, guess: Tensor | None) -> Tensor:
            if restriction is None:
                return drawn(params, None)
            if restriction.corrects:
                free = rollout.clamp(update(self.source, params), *span)
                corrected = rollout.corrected(free, rollout.before(free, *span), *span)
                return rollout.clamp(corrected, *span)
            guess = drawn(params, None) if guess is None else guess
            return drawn(params, rollout.before(guess, *span))

        if restriction is not None and restriction.follows_reals:
            tol = 0.0  # a block that is certain given the others fits them exactly
        guess, passes = solved(self._plain, None), 1
        while self._evaluate is not None and passes < self.stop - self.index:
            before, guess = guess, solved(self._evaluate(rollout.readable(guess, *span)), guess)
            passes += 1
            if _is_settled(before, guess, self.layout, tol):
                break
        return guess, passes

    def state_log_prob(self, number: int, states: Tensor, dtype: torch.dtype) -> Tensor:
        """The log probability of the states of a block under the rule and the evidence.

        Args:
            number: the number of the block within the step.
            states: (n, *event_shape), all values of the block.
            dtype: the dtype of the result.

        Returns:
            (rows, n).
        """
        family, layout = self.layout.families[number], self.layout
        params = layout.block("param", self.params, number)
        log_prob = state_logits_of(family, params).to(dtype).log_softmax(-1)
        evidence = self._rollout.evidence_of(*self._span)
        if evidence is None:
            return log_prob
        observed, mask = (
            repeat_rows(layout.block("value", part, number), params.shape[0]) for part in evidence
        )
        if self._rollout.is_partial:
            each = params.unsqueeze(1).expand(-1, states.shape[0], -1)
            under = mask.reshape(-1, 1, *states.shape[1:]).expand(mask.shape[0], *states.shape)
            given = family.given_log_prob(each, states.expand_as(under), under).to(dtype)
            log_prob = torch.where(mask.any(-1, keepdim=True), given, log_prob)
        log_prob = torch.where(mask.all(-1, keepdim=True), 0.0, log_prob)
        flat = states.reshape(states.shape[0], -1)
        agree = ((flat == observed.unsqueeze(1)) | ~mask.unsqueeze(1)).all(-1)
        return log_prob.masked_fill(~agree, -torch.inf)

    def select(self, rows: Tensor) -> None:
        """Reorders, repeats or drops rows: row i continues what row `rows[i]` was.

        The contexts of the rows must not change: rows[i] % N == i % N.
        """
        parts = self._plain, self._before, self._limits, self._params
        self._plain, self._before, self._limits, self._params = map_state(
            lambda part: part.index_select(0, rows), parts
        )
        self._rollout.select(rows)


class Rollout:
    """Iterates over the steps of a draw, for each of which the caller supplies the blocks.

        for step in Rollout(batch):
            step.accept(step.sample())

    It manages the decoder, the prefill of a prefix that is observed in all rows, the evidence, the
    state of a rule, orders that differ from row to row, and early stopping. The caller enters
    `torch.no_grad`, `eval_mode` and `with_params`, which must be active whenever the next step is
    requested.

    Args:
        batch: the rows.
        decoder: replaces the network's own decoder.
        num_steps: how many steps are drawn; all by default.
        windows: whether steps may come in windows, which the caller then solves.
        whole: whether there is one window of all steps, evaluated by parallel passes.
        prefill: whether the observed prefix is skipped.
        follow: blocks in raster order that the rule follows instead of the accepted ones.
    """

    def __init__(
        self,
        batch: Batch,
        *,
        decoder: Decoder | None = None,
        num_steps: int | None = None,
        windows: bool = False,
        whole: bool = False,
        prefill: bool = True,
        follow: Tensor | None = None,
    ) -> None:
        self.batch, self.order = batch, batch.order
        self.num_steps = self.order.num_steps if num_steps is None else num_steps
        self.restriction, self.is_partial = batch.restriction, batch.is_partial
        self.source = batch.source
        """The order of the conditionals that blocks are drawn from, see `Step.source`."""
        self._reference = batch.bound.reference
        self._decoder, self._follow = decoder, follow
        self._pieces: list[Tensor] = []
        self._raster: Tensor | None = None  # the blocks, if whole passes draw them
        self._rows: Tensor | None = None  # of the decoder, if `select` has changed them
        # The rows that `select` chose, and the number of pieces before.
        self._selections: list[tuple[int, Tensor]] = []
        self.num_taken = 0
        self._state: State = None  # of the rule
        self.rest: Tensor | None = None
        """The blocks of all steps that follow, if the rule makes them certain."""
        self._evidence = batch.evidence
        is_ragged = self.order.is_ragged or torch._C._is_tracing()
        self._is_whole = whole or (decoder is None and is_ragged)
        # If a step takes one pass, a guess of a window takes as many as all steps.
        self._windows = whole or (windows and not (self._is_whole and batch.reads_sets))
        self.num_prefilled = 0
        """The number of first steps that are observed in all rows and skipped."""
        if batch.evidence is not None and not self._is_whole:
            values, mask = (self.order.to_drawing(part) for part in batch.evidence)
            self._evidence = values, mask
            if prefill:
                self.num_prefilled = min(_prefix_length(mask, self.order), self.num_steps)

    def __iter__(self) -> Iterator[Step]:
        if is_vmapped():
            raise NotImplementedError(
                "sample: torch.func.vmap does not support the steps of a draw, which write in "
                "place; give the context a leading dimension, or p.expand, to draw many at once"
            )
        if self._is_whole:
            return self._by_whole_passes()
        if self.restriction is not None:
            batch, rule = self.batch, self.restriction.rule
            self._state = rule.start(batch.num_rows, batch.contexts, self._reference)
        prefix = self._take_prefix()
        if self.num_taken == self.num_steps or self.rest is not None:
            return iter(())
        if self._decoder is None:
            self._decoder = self._make_decoder()
        if self._windows and self._decoder.max_window > 1:
            return self._by_windows(self._decoder, prefix)
        params = self._decoder.step(None) if prefix is None else self._decoder.prefill(prefix)
        return self._by_steps(self._decoder, params, self.num_steps)

    @property
    def has_equal_steps(self) -> bool:
        """Whether each step draws one block, and all blocks have the same family."""
        layout = self.source.layout
        is_even = not (layout.flat or self.order.is_ragged)
        return is_even and len(self.order.steps) == layout.num_blocks

    def _make_decoder(self) -> Decoder:
        if self.batch.num_rows == 0:
            return _NoRows(self.batch)
        return self.batch.bound.make_decoder(self.batch.num_rows, self.batch.ranks)

    def _take_prefix(self) -> Tensor | None:
        if self._evidence is None or not self.num_prefilled:
            return None
        prefix = self._evidence[0][:, : self.order.ends[self.num_prefilled]]
        self.follow(prefix, 0, self.num_prefilled)
        self._take(prefix, self.num_prefilled)
        return self.readable(prefix, 0, self.num_prefilled)

    def _by_steps(self, decoder: Decoder, params: Tensor, stop: int) -> Iterator[Step]:
        """The steps up to `stop`, from the parameters of the first of them."""
        layouts = [*zip(self.order.step_layouts, self.source.step_layouts, strict=True)]
        plain = self.batch.factorization.layout.select(self.order.steps[self.num_taken])
        plain.check_params(params, self.batch.num_rows, type(decoder).__name__)
        for index in range(self.num_taken, stop):
            step = Step(self, (index, index + 1), layouts[index], params)
            yield step
            if self._take(step.drawn, index + 1) or index + 1 == self.num_steps:
                return
            if self._rows is not None:
                decoder.select(self._rows)
                self._rows = None
            params = decoder.step(self.readable(self._pieces[-1], index, index + 1))

    def _by_windows(self, decoder: Decoder, prefix: Tensor | None) -> Iterator[Step]:
        if prefix is not None:
            decoder.prefill(prefix)
        num_single = 4 * decoder.max_window  # steps that are drawn singly after a slow window
        size = 1 + 2 * decoder.max_window // 3  # of the first window, which may be slow
        while self.num_taken < self.num_steps:
            start = self.num_taken
            stop = min(start + size, self.num_steps)
            window = decoder.window(stop - start)
            layouts = self.order.layout_of(start, stop), self.source.layout_of(start, stop)
            step = Step(self, (start, stop), layouts, window(None), window)
            yield step
            is_last = self._take(step.drawn, stop) or stop == self.num_steps
            window.keep(self.readable(self._pieces[-1], start, stop))
            if is_last:
                return
            size = decoder.max_window
            is_slow = step.passes * _STEPS_OF_A_PASS > decoder.max_window
            if is_slow and self.has_equal_steps:  # unequal steps would draw other noise
                until = min(stop + num_single, self.num_steps)
                yield from self._by_steps(decoder, decoder.step(None), until)
                if self.rest is not None:
                    return
                num_single *= 2

    def _by_whole_passes(self) -> Iterator[Step]:
        """The steps by parallel passes over all blocks, if no decoder can draw them: the steps
        differ in width from row to row, or `torch.jit.trace` would record the decoder's loop with
        the sizes at hand.
        """
        batch, layout = self.batch, self.batch.layout
        layouts = layout, self.source.layout
        self._raster = batch.placeholders
        if self._evidence is not None:
            self._raster = torch.where(self._evidence[1], self._evidence[0], self._raster)
        if self._windows and not torch._C._is_tracing():
            step = Step(
                self,
                (0, self.num_steps),
                layouts,
                batch.plain_forward(self._raster),
                batch.plain_forward,
            )
            yield step
            self._raster = _accepted(step.drawn)
            return
        left = torch.ones_like(self._raster, dtype=torch.bool)
        if self._evidence is not None:
            left = ~self._evidence[1]
        ranks = batch.all_ranks.to(left.device).expand(batch.num_rows, -1)
        for index in range(self.num_steps):
            now = left & layout.expand_to_elements(ranks == index)
            if not now.any():
                continue
            params = batch.step_forward(self._raster, index)
            step = Step(self, (index, index + 1), layouts, params)
            yield step
            self._raster = torch.where(now, _accepted(step.drawn), self._raster)

    def clamp(self, blocks: Tensor, start: int, stop: int) -> Tensor:
        """Blocks of the steps from `start` to `stop`, with observed values put in."""
        evidence = self.evidence_of(start, stop)
        if evidence is None:
            return blocks
        values, observed = (repeat_rows(part, blocks.shape[0]) for part in evidence)
        return torch.where(observed, values, blocks)

    # The rule.

    def before(self, guess: Tensor | None, start: int, stop: int) -> State:
        """The state of the rule before each block of these steps, (rows, n, ...).

        Args:
            guess: the blocks of these steps, if there is more than one step.
        """
        rule = self.restriction
        if rule is None:
            return None
        if self._is_whole:
            return self.batch.before(_accepted(self._raster if guess is None else guess))
        at = self._at(rule, start, stop, rows_of(self._state))
        return rule.before(self._state, guess, at)

    def limits(self, before: State, start: int, stop: int) -> Tensor | None:
        """The limits that the rule sets to the blocks of these steps, given the states before them;
        None, which allows everything, without states.
        """
        rule = self.restriction
        if rule is None or before is None:
            return None
        at = self._at(rule, start, stop, rows_of(before))
        return rule.limits_of(before, at, self._reference)

    def restricted(self, params: Tensor, limits: Tensor | None, start: int, stop: int) -> Tensor:
        """The parameters of these steps under the limits of the rule."""
        rule = self.restriction
        if rule is None:
            return params
        return rule.restrict(params, limits, self._at(rule, start, stop, params.shape[0]))

    def corrected(self, blocks: Tensor, before: State, start: int, stop: int) -> Tensor:
        """Blocks of these steps that were drawn without the rule, moved to allowed values."""
        rule = self.restriction
        if rule is None:
            return blocks
        return rule.correct(blocks, before, self._at(rule, start, stop, blocks.shape[0]))

    @property
    def may_reach_dead_end(self) -> bool:
        """Whether the rule is a user's, which may allow no value of a block."""
        rule = self.restriction
        return rule is not None and rule.is_custom and not self._is_whole

    def check_possible(self, limits: Tensor | None, start: int, stop: int) -> None:
        """Raises a `ValueError` if the rule allowed no value of a block of these steps."""
        rule = self.restriction
        if rule is not None and limits is not None:
            rule.check_possible(limits, self._at(rule, start, stop, limits.shape[0]))

    def readable(self, blocks: Tensor, start: int, stop: int) -> Tensor:
        """The blocks of these steps as a network reads them."""
        rule = self.restriction
        if rule is None or not rule.has_constants or self._is_whole:
            return blocks  # `Batch.plain_forward` converts the blocks of whole passes
        return rule.readable(self.order.layout_of(start, stop), blocks)

    def follow(self, blocks: Tensor, start: int, stop: int) -> None:
        """Advances the state of the rule by the blocks of these steps."""
        restriction = self.restriction
        if restriction is None or self._is_whole:
            return
        if self._follow is not None:
            blocks = self.order.part(self._follow, start, stop)
        at = self._at(restriction, start, stop, blocks.shape[0])
        self._state = restriction.advance(self._state, blocks, at)
        every = steps_per_check(self._reference)
        is_due = start // every < stop // every
        if restriction.may_end and is_due and stop < self.order.num_steps:
            after = self._at(restriction, stop, self.order.num_steps, blocks.shape[0])
            self.rest = restriction.rule.rest(self._state, after)

    def _at(self, restriction: Restriction, start: int, stop: int, rows: int) -> At:
        """The places of the blocks of these steps, in each row if rows have orders."""
        if self._is_whole:
            return restriction.all_places(self.batch.ranks)
        order = None if self.batch.ranks is None else self.order.values.order
        return restriction.at(start, stop, repeat_rows(order, rows))

    def part(self, x: Tensor, step: Step) -> Tensor:
        """The values of the blocks of a step, from x of all blocks in raster order."""
        return x if self._is_whole else self.order.part(x, step.index, step.stop)

    def evidence_of(self, start: int, stop: int) -> tuple[Tensor, Tensor] | None:
        """The values and mask of the steps from `start` to `stop`, if there is evidence."""
        if self._evidence is None or self._is_whole:
            return self._evidence
        entries = slice(self.order.ends[start], self.order.ends[stop])
        return self._evidence[0][:, entries], self._evidence[1][:, entries]

    def _take(self, blocks: Tensor | None, stop: int) -> bool:
        """Keeps the blocks of the steps up to `stop`. Returns whether the rest is certain."""
        self._pieces.append(_accepted(blocks))
        self.num_taken = stop
        return self.rest is not None

    def select(self, rows: Tensor) -> None:
        """Row i becomes what row `rows[i]` was; see `Step.select`."""
        self._rows = rows if self._rows is None else self._rows.index_select(0, rows)
        self._selections.append((len(self._pieces), rows))
        self._state = map_state(lambda part: part.index_select(0, rows), self._state)

    @property
    def drawn(self) -> Tensor:
        """The blocks so far, in raster order, and placeholders: (rows, *value_shape)."""
        if self._raster is not None:
            return self._raster
        pieces, selections = list(self._pieces), list(self._selections)
        rows: Tensor | None = None
        for number in range(len(pieces) - 1, -1, -1):  # from the last selection to the first
            while selections and selections[-1][0] > number:
                earlier = selections.pop()[1]
                rows = earlier if rows is None else earlier.index_select(0, rows)
            pieces[number] = pieces[number] if rows is None else pieces[number][rows]
        blocks = torch.cat(pieces, 1) if pieces else self.batch.placeholders[:, :0]
        if self.rest is not None:
            blocks = torch.cat((blocks, self.rest.to(blocks.dtype)), 1)
        if blocks.shape[1] == self.order.ends[-1]:
            return self.order.to_raster(blocks)
        rest = self.batch.placeholders[:1].expand(blocks.shape[0], *self.batch.layout.value_shape)
        return self.order.put(rest.to(blocks.dtype), blocks, 0)

    def events(self) -> Tensor:
        """The events so far: (*lead, *event_shape)."""
        return self.batch.events(self.drawn)

    def in_raster(self, scores: Iterable[Tensor]) -> Tensor:
        """The scores of all blocks in raster order, (rows, num_blocks), if rows share an order.

        Args:
            scores: the scores of each step's blocks, (rows, number). Blocks of other steps get 0.
        """
        found = torch.cat([*scores], 1)
        zeros = found.new_zeros(found.shape[0], self.batch.layout.num_blocks)
        start = self.order.ends_of("block")[self.num_prefilled]
        return self.order.flat("block").to(found.device).put(zeros, found, start)


def _accepted(blocks: Tensor | None) -> Tensor:
    if blocks is None:
        raise RuntimeError("step: its blocks were not accepted; call step.accept(blocks)")
    return blocks


def _prefix_length(mask: Tensor, order: DrawingOrder) -> int:
    """The number of first steps whose elements are under a mask in all rows."""
    everywhere = mask.unsqueeze(-1).flatten(2).all(-1).all(0).tolist()
    length = len(everywhere) if all(everywhere) else everywhere.index(False)
    return bisect_right(order.ends, length) - 1


def _is_settled(before: Tensor, after: Tensor, layout: Layout, tol: float | None) -> bool:
    """Whether an iteration has changed nothing beyond the tolerance."""
    if all(family.support.is_discrete for family in layout.distinct):
        return torch.equal(before, after)
    allowed: Any = 8 * torch.finfo(after.dtype).eps if tol is None else tol
    if any(family.support.is_discrete for family in layout.distinct):
        exact = [family.support.is_discrete for family in layout.families]
        by_block = torch.tensor(exact, device=after.device)
        allowed = torch.where(layout.expand_to_elements(by_block), 0.0, allowed)
    else:  # the largest numbers decide most cases
        largest = torch.dist(before, after, torch.inf).item()
        if largest <= allowed:
            return True
        if largest > allowed * (1 + torch.linalg.vector_norm(after, torch.inf).item()):
            return False
    change = (after - before).abs_()
    return bool((change <= allowed * (1 + after.abs())).all())


class Noise:
    """Draws by `Family.from_noise`, from noise for many steps at once if all steps are alike."""

    def __init__(self, rollout: Rollout) -> None:
        self._reference, self._rows = rollout.batch.bound.reference, rollout.batch.num_rows
        self._ahead, self._used = self._reference.new_empty(0), 0  # and how much of it is used
        self._singles: Sequence[Tensor] = ()
        layout, self._at_once = rollout.source.layout, 0
        if rollout.has_equal_steps:
            each = rollout.batch.num_rows * layout.families[0].noise_shape.numel()
            self._at_once = min(layout.num_blocks, max(1, _NOISE_AT_ONCE // max(1, each)))

    def __call__(self, step: Step) -> Tensor:
        """A draw of the blocks of a step or a window."""
        if self._at_once:
            noise = [self._next(step.source, step.stop - step.index)]
        else:
            noise = step.source.noise(self._rows, self._reference)
        return step.draw(lambda layout, params: layout.from_noise(params, noise))

    def _next(self, layout: Layout, count: int) -> Tensor:
        """The noise of the next blocks, which is the same in single steps as in a window."""
        while self._used + count > self._ahead.shape[0]:
            shape, reference = Size((self._at_once, self._rows, 1)), self._reference
            family = layout.families[0]
            new = family.noise(shape, dtype=reference.dtype, device=reference.device)
            self._ahead, self._used = torch.cat((self._ahead[self._used :], new)), 0
            self._singles = ()
        start, self._used = self._used, self._used + count
        if count == 1:
            self._singles = self._singles or self._ahead.unbind(0)
            return self._singles[start]
        return self._ahead[start : self._used, :, 0].transpose(0, 1).contiguous()


def uses_noise(batch: Batch) -> bool:
    """Whether draws are functions of parameters and of noise that does not depend on them."""
    return batch.layout.has_noise and not batch.is_partial


def sampler(rollout: Rollout) -> Callable[[Step], Tensor]:
    """A function that draws the blocks of each step."""
    return Noise(rollout) if uses_noise(rollout.batch) else Step.sample


def draw(batch: Batch, num_steps: int | None = None) -> Tensor:
    """Draws events (*lead, *event_shape), or only their first `num_steps` steps."""
    if batch.num_rows == 0:
        reference, dtype = batch.bound.reference, batch.layout.dtype(batch.bound.reference.dtype)
        shape = (*batch.lead, *batch.factorization.event_shape)
        return reference.new_empty(shape, dtype=dtype)
    rollout = Rollout(batch, num_steps=num_steps, windows=uses_noise(batch))
    sample = sampler(rollout)
    with batch.bound.eval_mode():
        for step in rollout:
            step.accept(sample(step))
    return rollout.events()


def rollout_by_steps(batch: Batch, prefill: bool = True) -> Rollout:
    """A rollout whose steps have the same number of blocks in all rows."""
    rollout = Rollout(batch, prefill=prefill)
    if batch.order.is_ragged:
        raise ValueError(
            "p: expected one order for all rows, where blocks differ in family or are tied, "
            f"got ranks of shape {tuple(batch.all_ranks.shape)}"
        )
    return rollout


class _NoRows(Decoder):
    """A decoder of zero rows, which networks need not support."""

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch.factorization, 0)
        plain, self._reference = batch.factorization.layout, batch.bound.reference
        self._layouts = [plain.select(blocks) for blocks in batch.order.steps]

    def step(self, previous: Tensor | None) -> Tensor:
        self.num_taken += previous is not None
        return self._reference.new_empty(0, *self._layouts[self.num_taken].param_shape)

    def select(self, rows: Tensor) -> None:
        pass
