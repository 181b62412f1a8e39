"""The interface of decoders, which evaluate a network one step at a time."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import deepcopy
from typing import Self

import torch
from torch import Tensor, nn

from ardist.drawing_order import DrawingOrder
from ardist.factorization import Factorization
from ardist.rows import select_rows


class Decoder(ABC):
    """Evaluates a network one step at a time, with the same numbers as its `forward`.

    A decoder caches what it computed from the blocks of earlier steps, for `batch_size` rows. The
    blocks of a step and the parameters of its conditionals are laid out as in `forward`, restricted
    to the blocks of that step, in raster order. Dropout is never active, and no graph is kept.

    To write one, define `step` and `select`, or subclass `CacheDecoder`. Override `prefill` if a
    prefix can be evaluated in one pass, and `window` if several steps can.

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
        self.num_taken = 0
        """The number of steps whose blocks the decoder has taken."""

    max_window: int = 1
    """The number of steps of a `window`; 1 if the decoder has none."""

    @abstractmethod
    def step(self, previous: Tensor | None) -> Tensor:
        """Takes the blocks of the previous step: None at the first one, and after a window.

        Returns:
            the parameters of the next step.
        """

    def prefill(self, blocks: Tensor) -> Tensor:
        """Takes the blocks of the first steps, like one call of `step` for each of them.

        Returns:
            the parameters of the next step.
        """
        ends = self.factorization.drawing_order.ends
        params = self.step(None)
        for index in range(self._num_steps_of(blocks)):
            params = self.step(blocks[:, ends[index] : ends[index + 1]])
        return params

    @abstractmethod
    def select(self, rows: Tensor) -> None:
        """Reorders, repeats or drops rows of the cache: row i becomes what row `rows[i]` was.

        A row keeps its context: rows[i] % N == i % N.
        """

    def copy(self) -> Self:
        """A decoder that continues from the same step, with a cache of its own.

        Prefill a prompt once, and draw from a copy as often as needed. It shares the modules and
        the factorization.
        """
        # A method of a network holds the network.
        parts = [getattr(part, "__self__", part) for part in vars(self).values()]
        modules = [
            module for part in parts if isinstance(part, nn.Module) for module in part.modules()
        ]
        shared = [*modules, self.factorization, self.factorization.drawing_order]
        return deepcopy(self, {id(part): part for part in shared})

    def window(self, num_steps: int) -> "Window":
        """The next steps together, if `max_window` is more than 1."""
        raise NotImplementedError(f"{type(self).__name__} evaluates one step at a time")

    def _num_steps_of(self, blocks: Tensor) -> int:
        """The number of steps that these blocks fill, from the first one on."""
        ends = self.factorization.drawing_order.ends[1:]
        if self.num_taken or blocks.shape[1] not in ends:
            raise ValueError(
                f"blocks: expected blocks of whole steps from the first, which end at "
                f"{', '.join(map(str, ends[:6]))}, ..., got {blocks.shape[1]} after "
                f"{self.num_taken} steps"
            )
        return ends.index(blocks.shape[1]) + 1


class CacheDecoder(Decoder):
    """A decoder that first writes blocks into its cache and then evaluates the next step from it.

    To write one, define `take`, `evaluate` and `select`.
    """

    @torch.no_grad()
    def step(self, previous: Tensor | None) -> Tensor:
        if previous is not None:
            self.take(previous, 1)
            self.num_taken += 1
        return self.evaluate()

    @torch.no_grad()
    def prefill(self, blocks: Tensor) -> Tensor:
        num_steps = self._num_steps_of(blocks)
        self.take(blocks, num_steps)
        self.num_taken = num_steps
        return self.evaluate()

    @abstractmethod
    def take(self, blocks: Tensor, num_steps: int) -> None:
        """Writes the blocks of the next steps, from step `num_taken` on, into the cache."""

    @abstractmethod
    def evaluate(self) -> Tensor:
        """The parameters of step `num_taken`, from the cache."""


class Window(ABC):
    """Several steps that are evaluated together, on guesses of their blocks."""

    @abstractmethod
    def __call__(self, guess: Tensor | None) -> Tensor:
        """The parameters of the steps given a guess of their blocks; None for the first call."""

    @abstractmethod
    def keep(self, blocks: Tensor) -> None:
        """Takes the blocks of the steps. The last guess equals them up to the last step."""


class WholePasses(CacheDecoder):
    """A decoder for any network, by parallel passes.

    It makes one pass for each step. If the families have `from_noise`, draws use it as a window of
    all steps and make as many passes as a fixed-point iteration needs, usually far fewer.

    Args:
        network: maps blocks, contexts and ranks to parameters, as `ConditionalNetwork.forward`.
        factorization: the factorization, with the order of the draw.
        batch_size: the number of rows.
        context: (N, *context_shape).
        ranks: passed to the network; (rows, num_blocks) if the rows have orders of their own.
        reference: a tensor of the parameters' dtype and device.
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
        super().__init__(factorization, batch_size)
        self._network, self._context, self._ranks = network, context, ranks
        self._order = factorization.drawing_order
        if ranks is not None and ranks.dim() > 1:
            self._order = DrawingOrder(factorization.layout, (), ranks)
        self.max_window = self._order.num_steps
        layout = factorization.layout
        # Blocks that are not drawn yet have no effect, but must be inside the support.
        self._blocks = layout.placeholder(reference).expand(batch_size, *layout.value_shape)

    def take(self, blocks: Tensor, num_steps: int) -> None:
        self.put(blocks, self.num_taken)

    def evaluate(self) -> Tensor:
        return self.params(self.num_taken, self.num_taken + 1)

    def window(self, num_steps: int) -> Window:
        return _WholeWindow(self, self.num_taken, self.num_taken + num_steps)

    def put(self, blocks: Tensor, start: int) -> None:
        """Replaces the blocks of the steps from `start` on."""
        self._blocks = self._order.put(self._blocks, blocks.to(self._blocks.dtype), start)

    def params(self, start: int, stop: int) -> Tensor:
        """The parameters of the steps from `start` to `stop`, by one pass."""
        params = self.all_params(start)
        self.factorization.layout.check_params(params, self.batch_size, "the network")
        return self._order.part(params, start, stop, "param")

    def all_params(self, start: int) -> Tensor:
        """The parameters of all blocks. Only the steps from `start` on are used."""
        return self._network(self._blocks, self._context, self._ranks)

    def select(self, rows: Tensor) -> None:
        self._blocks = self._blocks.index_select(0, rows)
        self._order = self._order.select(rows)
        if self._ranks is not None and self._ranks.dim() > 1:
            self._ranks = self._ranks.index_select(0, rows)
        self.batch_size = rows.shape[0]
        self._context = select_rows(self._context, rows)


class _WholeWindow(Window):
    """Steps from `start` to `stop`, by whole passes."""

    def __init__(self, decoder: WholePasses, start: int, stop: int) -> None:
        self._decoder, self._steps = decoder, (start, stop)

    def __call__(self, guess: Tensor | None) -> Tensor:
        if guess is not None:
            self._decoder.put(guess, self._steps[0])
        return self._decoder.params(*self._steps)

    def keep(self, blocks: Tensor) -> None:
        self._decoder.put(blocks, self._steps[0])
        self._decoder.num_taken = self._steps[1]
