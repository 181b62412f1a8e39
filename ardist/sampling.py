"""Drawing step by step: the contract of decoders, and the loops over them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from itertools import accumulate, chain

import torch
from torch import Tensor

from ardist.factorization import Factorization
from ardist.layout import Layout

_NOISE_AT_ONCE = 2**20  # numbers drawn ahead


class Decoder(ABC):
    """The incremental twin of a network's `forward`: the same numbers, a step at a time.

    It holds what was computed from the blocks given so far, for `batch_size` rows. The blocks of
    a step, and the parameters of its conditionals, are laid out as in `forward`, with the
    blocks of that step alone, in raster order. A decoder never drops out and keeps no graph.
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

    layout: Layout
    """The steps' blocks, in the order of drawing."""

    @abstractmethod
    def __call__(self, guess: Tensor | None) -> Tensor:
        """The steps' parameters under a guess of their blocks; at first there may be none."""

    @abstractmethod
    def keep(self, blocks: Tensor) -> None:
        """Takes the blocks of the steps, whose last guess was right but for the last step."""


class WholePasses(Decoder):
    """A decoder for any network: a parallel pass a step. It does keep the graph, if one is on."""

    def __init__(
        self,
        network: Callable[..., Tensor],
        factorization: Factorization,
        batch_size: int,
        context: Tensor | None = None,
        ranks: Tensor | None = None,
        *,
        like: Tensor,
    ) -> None:
        super().__init__(factorization, batch_size)
        self._network, self._context, self._ranks = network, context, ranks
        layout = factorization.layout
        # Blocks not drawn yet are hidden from those that are, but have to be inside the support.
        filler = layout.sample(like.new_zeros(1, *layout.param_shape))
        self._blocks = filler.expand(batch_size, *layout.value_shape)

    def step(self, previous: Tensor | None) -> Tensor:
        steps, layout = self.factorization.steps, self.factorization.layout
        if previous is not None:
            self._blocks = layout.put(self._blocks, steps[self.num_taken], previous)
            self.num_taken += 1
        params = self._network(self._blocks, self._context, self._ranks)
        return layout.take("param", params, steps[self.num_taken])

    def select(self, rows: Tensor) -> None:
        self._blocks = self._blocks.index_select(0, rows)
        self.batch_size = len(rows)
        if self._context is not None:
            self._context = self._context.index_select(0, rows % len(self._context))


def step_widths(factorization: Factorization) -> list[int]:
    """How many entries along dimension 1 the blocks of each step have."""
    layout = factorization.layout
    if not layout.flat:
        return [len(blocks) for blocks in factorization.steps]
    return [sum(layout.sizes["value"][block] for block in step) for step in factorization.steps]


def draw(
    decoder: Decoder, like: Tensor, sample: Callable[[Layout, Tensor], Tensor] | None = None
) -> Tensor:
    """A draw of all blocks, in raster order of the grid.

    Args:
        decoder: from which nothing was drawn yet.
        like: a tensor of the parameters' dtype and device.
        sample: how a step's blocks are drawn from their parameters; by default `Layout.sample`,
            with the noise drawn ahead where the families have a `push`.
    """
    factorization = decoder.factorization
    layout = factorization.layout
    if sample is not None or not layout.has_push:
        pieces = _draw_steps(decoder, sample or Layout.sample)
    elif decoder.max_window > 1:
        pieces = _draw_windows(decoder, like)
    else:
        pieces = _draw_steps(decoder, _Pushes(decoder, like))
    drawn = torch.cat(pieces, 1)
    order = list(chain(*factorization.steps))
    if order == sorted(order):
        return drawn
    return layout.put(torch.empty_like(drawn), order, drawn)


def _draw_steps(decoder: Decoder, sample: Callable[[Layout, Tensor], Tensor]) -> list[Tensor]:
    pieces: list[Tensor] = []
    previous = None
    for layout in decoder.factorization.step_layouts:
        previous = sample(layout, decoder.step(previous))
        pieces.append(previous)
    return pieces


class _Pushes:
    """Draws from noise that is drawn for many steps at once, where all steps are alike."""

    def __init__(self, decoder: Decoder, like: Tensor) -> None:
        self._rows, self._like = decoder.batch_size, like
        layouts = decoder.factorization.step_layouts
        alike = not layouts[0].flat and all(layout.num_blocks == 1 for layout in layouts)
        self._ahead: Iterator[Tensor] = iter(())
        self._at_once = 0
        if alike:
            each = decoder.batch_size * layouts[0].families[0].noise_shape.numel()
            self._at_once = min(len(layouts), max(1, _NOISE_AT_ONCE // each))

    def __call__(self, layout: Layout, params: Tensor) -> Tensor:
        if not self._at_once:
            return layout.push(params, layout.noise(self._rows, self._like))
        noise = next(self._ahead, None)
        if noise is None:
            shape = torch.Size((self._at_once, self._rows, 1))
            like, family = self._like, layout.families[0]
            ahead = family.noise(shape, dtype=like.dtype, device=like.device)
            self._ahead = iter(ahead.unbind(0))
            noise = next(self._ahead)
        return layout.push(params, [noise])


def _draw_windows(decoder: Decoder, like: Tensor) -> list[Tensor]:
    """Windows of steps, each solved by fixed-point iteration under noise that stays.

    A pass over a window makes at least one more of its steps final, so that as many passes as
    steps always suffice and give what drawing one by one gives; usually far fewer do
    (Song et al. 2021, "Accelerating feedforward computation via parallel nonlinear equation
    solving").
    """
    factorization = decoder.factorization
    discrete = all(family.support.is_discrete for family in factorization.layout.distinct)
    pieces = []
    for start in range(0, factorization.num_steps, decoder.max_window):
        num_steps = min(decoder.max_window, factorization.num_steps - start)
        window = decoder.window(num_steps)
        layout = window.layout
        noise = layout.noise(decoder.batch_size, like)
        guess = layout.push(window(None), noise)
        for _ in range(num_steps - 1):
            before, guess = guess, layout.push(window(guess), noise)
            if _settled(before, guess, discrete):
                break
        window.keep(guess)
        pieces.append(guess)
    return pieces


def _settled(before: Tensor, after: Tensor, discrete: bool) -> bool:
    """Whether an iteration changed nothing, beyond the rounding of its own arithmetic."""
    if discrete:
        return torch.equal(before, after)
    change = (after - before).abs_().max().item()
    return change <= 8 * torch.finfo(after.dtype).eps
