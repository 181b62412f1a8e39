"""Drawing step by step: the contract of decoders, and the loops over them."""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate, chain

import torch
from torch import Tensor

from ardist.factorization import Factorization
from ardist.layout import Layout
from ardist.ordering import Ordering

_NOISE_AT_ONCE = 2**20  # numbers drawn ahead


class Decoder(ABC):
    """The incremental twin of a network's `forward`: the same numbers, a step at a time.

    It holds what was computed from the blocks given so far, for `batch_size` rows. The blocks of
    a step, and the parameters of its conditionals, are laid out as in `forward`, with the
    blocks of that step alone, in raster order. A decoder never drops out and keeps no graph.

    >>> import torch, ardist as ad
    >>> net = ad.networks.MADE(ad.Factorization(4, ad.families.Normal()), hidden_features=8)
    >>> decoder = net.decoder(5)
    >>> decoder.step(None).shape  # of the first block, in five rows: loc and scale
    torch.Size([5, 1, 2])
    >>> decoder.step(torch.zeros(5, 1)).shape  # of the second, given the first
    torch.Size([5, 1, 2])
    """

    def __init__(self, factorization: Factorization, batch_size: int) -> None:
        self.factorization = factorization
        self.batch_size = batch_size
        self.num_taken = 0  # steps whose blocks were given

    max_window: int = 1
    """How many steps `window` is worth asking for at once; 1 where there is no `window`."""

    @abstractmethod
    def step(self, previous: Tensor | None) -> Tensor:
        """Takes the blocks of the step before, None at the first; the next step's parameters."""

    def prefill(self, blocks: Tensor) -> Tensor:
        """Takes the blocks of the first steps, step after step; the next step's parameters.

        The same as calling `step` for each; decoders that can do it in one pass override this.
        """
        widths = step_widths(self.factorization)[: self._num_steps_of(blocks)]
        params = self.step(None)
        for piece in blocks.split(widths, 1):
            params = self.step(piece)
        return params

    @abstractmethod
    def select(self, rows: Tensor) -> None:
        """Reorders, repeats or drops rows of the cache: row i becomes what row `rows[i]` was."""

    def window(self, num_steps: int) -> "Window":
        """The next steps together; only where `max_window` is more than 1."""
        raise NotImplementedError(f"{type(self).__name__} evaluates one step at a time")

    def _num_steps_of(self, blocks: Tensor) -> int:
        """How many steps, from the first on, these blocks are of."""
        ends = list(accumulate(step_widths(self.factorization)))
        if self.num_taken or blocks.shape[1] not in ends:
            raise ValueError(
                f"blocks: expected those of whole steps from the first, which end at "
                f"{', '.join(map(str, ends[:6]))}, ..., got {blocks.shape[1]} after "
                f"{self.num_taken} steps"
            )
        return ends.index(blocks.shape[1]) + 1


class Window(ABC):
    """Some steps evaluated together on a guess of their blocks, as often as asked."""

    @abstractmethod
    def __call__(self, guess: Tensor | None) -> Tensor:
        """The steps' parameters under a guess of their blocks; at first there may be none."""

    @abstractmethod
    def keep(self, blocks: Tensor) -> None:
        """Takes the blocks of the steps, whose last guess was right but for the last step."""


class WholePasses(Decoder):
    """A decoder for any network, by parallel passes.

    A pass a step or, where the families have a `from_noise`, as many as a fixed-point iteration
    over all steps needs: the same draws, and usually far fewer passes. With `ranks` for each row a
    step is of one block, which differs from row to row.
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        factorization: Factorization,
        batch_size: int,
        context: Tensor | None = None,
        ranks: Tensor | None = None,
        *,
        reference: Tensor,
    ) -> None:
        self._order: Tensor | None = None  # the blocks of each row in the order of drawing
        if ranks is not None and ranks.dim() > 1:
            factorization = factorization.with_ordering(Ordering.raster())
            self._order = ranks.argsort(-1)
        super().__init__(factorization, batch_size)
        self._network, self._context, self._ranks = network, context, ranks
        self.max_window = factorization.num_steps
        layout = factorization.layout
        # Blocks not drawn yet are hidden from those that are, but have to be inside the support.
        self._blocks = layout.placeholder(reference).expand(batch_size, *layout.value_shape)

    def step(self, previous: Tensor | None) -> Tensor:
        if previous is not None:
            self._put(previous, self.num_taken, self.num_taken + 1)
        return self._params(self.num_taken, self.num_taken + 1)

    def prefill(self, blocks: Tensor) -> Tensor:
        self._put(blocks, 0, self._num_steps_of(blocks))
        return self.step(None)

    def window(self, num_steps: int) -> Window:
        return _WholeWindow(self, self.num_taken, self.num_taken + num_steps)

    def _put(self, blocks: Tensor, start: int, stop: int) -> None:
        """Takes the blocks of the steps from `start` to `stop`."""
        if self._order is None:
            which = list(chain(*self.factorization.steps[start:stop]))
            self._blocks = self.factorization.layout.scatter_blocks(self._blocks, which, blocks)
        else:
            at = _like(self._order[:, start:stop], blocks)
            self._blocks = self._blocks.scatter(1, at, blocks)
        self.num_taken = stop

    def _params(self, start: int, stop: int) -> Tensor:
        """Of the steps from `start` to `stop`."""
        params = self._network(self._blocks, self._context, self._ranks)
        if self._order is not None:
            return params.gather(1, _like(self._order[:, start:stop], params[:, start:stop]))
        which = list(chain(*self.factorization.steps[start:stop]))
        return self.factorization.layout.gather_blocks("param", params, which)

    def select(self, rows: Tensor) -> None:
        self._blocks = self._blocks.index_select(0, rows)
        if self._order is not None and self._ranks is not None:
            self._order = self._order.index_select(0, rows)
            self._ranks = self._ranks.index_select(0, rows)
        self.batch_size = rows.shape[0]
        if self._context is not None:
            self._context = self._context.index_select(0, rows % self._context.shape[0])


class _WholeWindow(Window):
    """Steps from `start` to `stop`, by whole passes."""

    def __init__(self, decoder: WholePasses, start: int, stop: int) -> None:
        self._decoder, self._steps = decoder, (start, stop)

    def __call__(self, guess: Tensor | None) -> Tensor:
        if guess is not None:
            self._decoder._put(guess, *self._steps)
        return self._decoder._params(*self._steps)

    def keep(self, blocks: Tensor) -> None:
        self._decoder._put(blocks, *self._steps)


def _like(blocks: Tensor, entries: Tensor) -> Tensor:
    """Numbers of blocks (rows, n) for all entries of those, (rows, n, ...)."""
    return blocks.reshape(*blocks.shape, *(1,) * (entries.dim() - 2)).expand_as(entries)


def step_widths(factorization: Factorization) -> list[int]:
    """How many entries along dimension 1 the blocks of each step have."""
    layout = factorization.layout
    if not layout.flat:
        return [len(blocks) for blocks in factorization.steps]
    return [sum(layout.sizes["value"][block] for block in step) for step in factorization.steps]


class Forced:
    """What is not drawn freely: observed blocks, and those after the end of a sequence.

    Args:
        factorization: of the draw.
        observed: values and a mask of what is observed, each (rows, ...) with the blocks in the
            order of drawing.
        num_steps: how many steps are wanted; by default all.
    """

    def __init__(
        self,
        factorization: Factorization,
        observed: tuple[Tensor, Tensor] | None,
        num_steps: int | None = None,
    ) -> None:
        self.num_steps = num_steps or factorization.num_steps
        self._end, self._pad = factorization.end, factorization.pad
        self._observed = observed
        self._ended: Tensor | None = None  # (rows, 1) bool: whether a row's end was drawn
        # For each t, where the entries of the first t steps end.
        self.ends = [0, *accumulate(step_widths(factorization))]
        self.num_known = 0  # how many of the first steps are observed in all rows
        if observed is not None:
            everywhere = observed[1].unsqueeze(-1).flatten(2).all(-1).all(0).tolist()
            known = len(everywhere) if all(everywhere) else everywhere.index(False)
            self.num_known = min(bisect_right(self.ends, known) - 1, self.num_steps)

    @property
    def known(self) -> list[Tensor]:
        """The blocks of the first steps, if those are observed in all rows."""
        if self._observed is None or not self.num_known:
            return []
        return [self._observed[0][:, : self.ends[self.num_known]]]

    def begin(self, decoder: Decoder) -> Tensor:
        """The parameters of the first step that is not known."""
        if not self.num_known:
            return decoder.step(None)
        self.take(self.known[0])
        return decoder.prefill(self.known[0])

    def columns(self, start: int, stop: int) -> tuple[Tensor, Tensor] | None:
        """What is observed of the steps from `start` to `stop`."""
        if self._observed is None:
            return None
        columns = slice(self.ends[start], self.ends[stop])
        return self._observed[0][:, columns], self._observed[1][:, columns]

    def apply(self, blocks: Tensor, start: int, stop: int) -> Tensor:
        """Freely drawn blocks of the steps from `start` to `stop`, as they have to be."""
        observed = self.columns(start, stop)
        if observed is not None:
            blocks = torch.where(observed[1], observed[0], blocks)
        if self._end is not None and self._pad is not None:
            is_end = blocks == self._end
            ended = is_end.cumsum(1) > is_end.long()
            ended = ended if self._ended is None else ended | self._ended
            ended = ended if observed is None else ended & ~observed[1]
            blocks = blocks.masked_fill(ended, self._pad)
        return blocks

    def take(self, blocks: Tensor) -> bool:
        """Takes what the last steps came to; whether nothing but padding can follow."""
        if self._end is None:
            return False
        ended = (blocks == self._end).any(1, keepdim=True)
        self._ended = ended if self._ended is None else ended | self._ended
        return bool(self._ended.all())


Sample = Callable[[Layout, Tensor], Tensor]


def draw(
    decoder: Decoder,
    factorization: Factorization,
    reference: Tensor,
    observed: tuple[Tensor, Tensor] | None = None,
    num_steps: int | None = None,
    attach: Callable[[Layout, Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """A draw of all blocks, in raster order of the grid.

    Args:
        decoder: from which nothing was drawn yet.
        factorization: the decoder's, or one with other families of the same parameters.
        like: a tensor of the parameters' dtype and device.
        observed: values and a mask, each (rows, *value_shape), of what is not drawn but given.
        num_steps: how many are wanted; the blocks of the others are left at some value.
        attach: from a step's blocks, their parameters and a draw of them to the draw as it goes
            on; a decoder that keeps the graph goes step by step.
    """
    layout, order = factorization.layout, list(chain(*factorization.steps))
    is_partially_observed = observed is not None and layout.is_partially_observed(observed[1])
    if observed is not None:
        values, mask = (layout.gather_blocks("value", part, order) for part in observed)
        observed = values, mask
    forced = Forced(factorization, observed, num_steps)
    if is_partially_observed or not layout.has_noise:
        pieces = _draw_steps(
            decoder, factorization, Layout.sample, forced, is_partially_observed, attach
        )
    elif decoder.max_window > 1 and attach is None:
        pieces = _draw_windows(decoder, factorization, reference, forced)
    else:
        pushes = _Pushes(decoder, factorization, reference)
        pieces = _draw_steps(decoder, factorization, pushes, forced, attach=attach)
    drawn = torch.cat(pieces, 1)
    total = layout.value_shape[0]
    if drawn.shape[1] == total and order == sorted(order):
        return drawn
    rest = (
        layout.placeholder(reference)
        if factorization.pad is None
        else drawn.new_tensor(factorization.pad)
    )
    blocks = rest.expand(drawn.shape[0], *layout.value_shape)
    taken = forced.ends.index(drawn.shape[1])
    return layout.scatter_blocks(blocks, list(chain(*factorization.steps[:taken])), drawn)


def _draw_steps(
    decoder: Decoder,
    factorization: Factorization,
    sample: Sample,
    forced: Forced,
    is_partially_observed: bool = False,
    attach: Callable[[Layout, Tensor, Tensor], Tensor] | None = None,
) -> list[Tensor]:
    pieces, layouts = forced.known, factorization.step_layouts
    if forced.num_known == forced.num_steps:
        return pieces
    params = forced.begin(decoder)
    for step in range(forced.num_known, forced.num_steps):
        observed = forced.columns(step, step + 1) if is_partially_observed else None
        if observed is not None:
            drawn = layouts[step].sample_given(params, *observed)
        elif attach is None:
            drawn = sample(layouts[step], params)
        else:
            drawn = attach(layouts[step], params, sample(layouts[step], params.detach()))
        pieces.append(forced.apply(drawn, step, step + 1))
        if forced.take(pieces[-1]) or step + 1 == forced.num_steps:
            break
        params = decoder.step(pieces[-1])
    return pieces


class _Pushes:
    """Draws from noise that is drawn for many steps at once, where all steps are alike."""

    def __init__(self, decoder: Decoder, factorization: Factorization, reference: Tensor) -> None:
        self._rows, self._reference = decoder.batch_size, reference
        layouts = factorization.step_layouts
        alike = not layouts[0].flat and all(layout.num_blocks == 1 for layout in layouts)
        self._ahead: Iterator[Tensor] = iter(())
        self._at_once = 0
        if alike:
            each = decoder.batch_size * layouts[0].families[0].noise_shape.numel()
            self._at_once = min(len(layouts), max(1, _NOISE_AT_ONCE // each))

    def __call__(self, layout: Layout, params: Tensor) -> Tensor:
        if not self._at_once:
            return layout.from_noise(params, layout.noise(self._rows, self._reference))
        noise = next(self._ahead, None)
        if noise is None:
            shape = torch.Size((self._at_once, self._rows, 1))
            reference, family = self._reference, layout.families[0]
            ahead = family.noise(shape, dtype=reference.dtype, device=reference.device)
            self._ahead = iter(ahead.unbind(0))
            noise = next(self._ahead)
        return layout.from_noise(params, [noise])


def _draw_windows(
    decoder: Decoder, factorization: Factorization, reference: Tensor, forced: Forced
) -> list[Tensor]:
    """Windows of steps, each solved by fixed-point iteration under noise that stays.

    A pass over a window makes at least one more of its steps final, so that as many passes as
    steps always suffice and give what drawing one by one gives; usually far fewer do
    (Song et al. 2021, "Accelerating feedforward computation via parallel nonlinear equation
    solving").
    """
    pieces, end = forced.known, forced.num_steps
    if 0 < forced.num_known < end:
        forced.begin(decoder)
    for start in range(forced.num_known, end, decoder.max_window):
        stop = min(start + decoder.max_window, end)
        window, layout = decoder.window(stop - start), factorization.layout_of(start, stop)
        noise = layout.noise(decoder.batch_size, reference)
        guess = forced.apply(layout.from_noise(window(None), noise), start, stop)
        for _ in range(stop - start - 1):
            drawn = layout.from_noise(window(guess), noise)
            before, guess = guess, forced.apply(drawn, start, stop)
            if _settled(before, guess, layout):
                break
        window.keep(guess)
        pieces.append(guess)
        if forced.take(guess):
            break
    return pieces


def _settled(before: Tensor, after: Tensor, layout: Layout) -> bool:
    """Whether an iteration changed nothing, beyond the rounding of its own arithmetic."""
    if all(family.support.is_discrete for family in layout.distinct):
        return torch.equal(before, after)
    change = (after - before).abs_()
    return bool((change <= 8 * torch.finfo(after.dtype).eps * (1 + after.abs())).all())


def draw_by_rows(
    network: Callable[[Tensor], Tensor],
    factorization: Factorization,
    ranks: Tensor,
    reference: Tensor,
    observed: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """A draw of all blocks, in an order for each row, by parallel passes.

    For blocks that no decoder takes: their steps differ in width from row to row. Where the
    families have a `from_noise`, passes are iterated until nothing changes, as in windows;
    elsewhere, and in a trace, which would repeat how often that was, they are as many as steps.

    Args:
        network: from blocks (rows, *value_shape) to all parameters, under these ranks.
        ranks: (rows, num_blocks) int64, dense in each row.
        like, observed: as for `draw`.
    """
    layout = factorization.layout
    blocks = layout.placeholder(reference).expand(ranks.shape[0], *layout.value_shape)
    left, is_partially_observed = torch.ones_like(blocks, dtype=torch.bool), False
    if observed is not None:
        blocks, left = torch.where(observed[1], observed[0], blocks), ~observed[1]
        is_partially_observed = layout.is_partially_observed(observed[1])
    num_steps = int(ranks.max()) + 1
    if layout.has_noise and not is_partially_observed and not torch._C._is_tracing():
        noise = layout.noise(ranks.shape[0], reference)
        for _ in range(num_steps):
            drawn = layout.from_noise(network(blocks), noise)
            if factorization.end is not None and factorization.pad is not None:
                ended = factorization.ended(torch.where(left, drawn, blocks), ranks)
                drawn = drawn.masked_fill(ended, factorization.pad)
            before, blocks = blocks, torch.where(left, drawn, blocks)
            if _settled(before, blocks, layout):
                break
        return blocks
    for step in range(num_steps):
        now = left & layout.expand_to_elements(ranks == step)
        if not now.any():
            continue
        params = network(blocks)
        if observed is not None and is_partially_observed:
            drawn = layout.sample_given(params, *observed)
        else:
            drawn = layout.sample(params)
        if factorization.end is not None and factorization.pad is not None:
            ended = factorization.ended(
                blocks.masked_fill(layout.expand_to_elements(ranks >= step), -1), ranks
            )
            drawn = drawn.masked_fill(ended, factorization.pad)
        blocks = torch.where(now, drawn, blocks)
    return blocks
