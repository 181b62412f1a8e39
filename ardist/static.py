"""Steps of a draw with static shapes, for compilers, exporters and CUDA graphs."""

from abc import ABC, abstractmethod
from typing import Any, Self

import torch
from torch import Tensor, nn

from ardist.bound_network import check_contexts, checked_factorization, unwrap
from ardist.decoding import CacheDecoder
from ardist.factorization import Factorization
from ardist.rows import repeat_rows
from ardist.shapes import as_positive

Tensors = tuple[Tensor, ...]
_WARM_UP = 3  # steps before a CUDA graph is recorded, in which torch's libraries set themselves up


class StaticStep(nn.Module, ABC):
    """One step of a draw as a function of tensors, with the same numbers as the network's decoder.

    A `Decoder` is fast in a loop of Python: its shapes grow, and its computation depends on the
    number of the step. Here the number is a tensor, all shapes are the same at each step, and no
    value is read back. So one graph works for all steps, and `torch.compile(fullgraph=True)`,
    `torch.export`, ONNX and CUDA graphs can record it. The network has to be in evaluation mode.

    The first dimension of all tensors but the position is the rows, and each row has its own
    context.

    To write one, define `start` and `advance`, and return it from `make_static_step` of a network.

    Args:
        network: a conditional network.
        factorization: the factorization, with the order of the draw.

    Attributes:
        order: the raster index of each block in the order of drawing, (num_blocks,) int64.
        is_single: whether each step draws one block, and all blocks have one family. If so,
            `advance` returns the parameters of that block, otherwise the parameters of all blocks.

    >>> import torch, ardist as ad
    >>> net = ad.networks.RNN(ad.Factorization(9, ad.families.Normal()), hidden_size=8).eval()
    >>> step = net.make_static_step(net.factorization)
    >>> blocks = torch.zeros(5, 9)
    >>> encodings, state = step.start(blocks, None)
    >>> params, state = step(blocks, torch.tensor(0), encodings, state)
    >>> params.shape  # of the first block, in five rows: loc and scale
    torch.Size([5, 1, 2])
    """

    order: Tensor
    ranks: Tensor

    def __init__(self, network: nn.Module, factorization: Factorization) -> None:
        super().__init__()
        self.network: Any = network
        self.factorization = factorization
        self.is_single = factorization.is_uniform and (
            factorization.num_steps == factorization.num_blocks
        )
        device = next((parameter.device for parameter in network.parameters()), None)
        order = torch.tensor(factorization.drawing_order.blocks, device=device)
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("ranks", factorization.ranks.flatten().to(order), persistent=False)

    @abstractmethod
    def start(self, blocks: Tensor, context: Tensor | None) -> tuple[Tensors, Tensors]:
        """The encodings of the context, and the state before the first step.

        Args:
            blocks: (rows, *value_shape). Only the number of rows is used.
            context: (rows, *context_shape), or None.

        Returns:
            tensors that no step changes, and buffers that `advance` writes into.
        """

    @abstractmethod
    def advance(
        self, blocks: Tensor, position: Tensor, encodings: Tensors, state: Tensors
    ) -> Tensor:
        """The parameters of a step. It writes into the state. Call it for the steps in order.

        Args:
            blocks: the blocks of earlier steps, (rows, *value_shape) in raster order. Other blocks
                have no effect, but must be inside the support.
            position: the number of the step, () int64.
            encodings: as returned by `start`.
            state: as returned by `start`.

        Returns:
            (rows, 1, num_params) if `is_single`; otherwise (rows, *param_shape), where the entries
            of other steps have no meaning.
        """

    def forward(
        self, blocks: Tensor, position: Tensor, encodings: Tensors, state: Tensors
    ) -> tuple[Tensor, Tensors]:
        """The parameters of a step and the next state, as new tensors; see `advance`."""
        state = tuple(part.clone() for part in state)
        return self.advance(blocks, position, encodings, state), state

    def block_at(self, position: Tensor) -> Tensor:
        """The raster index of the block of a step, (1,) int64, if each step draws one block.

        A negative position counts as 0.
        """
        return self.order.index_select(0, position.clamp(min=0).reshape(1))


class WholePassStep(StaticStep):
    """A step of any network, by a parallel pass over all blocks."""

    def start(self, blocks: Tensor, context: Tensor | None) -> tuple[Tensors, Tensors]:
        return () if context is None else (context,), ()

    def advance(
        self, blocks: Tensor, position: Tensor, encodings: Tensors, state: Tensors
    ) -> Tensor:
        params = self.params(blocks, position, encodings[0] if encodings else None)
        return params.index_select(1, self.block_at(position)) if self.is_single else params

    def params(self, blocks: Tensor, position: Tensor, context: Tensor | None) -> Tensor:
        """The parameters of all blocks, (rows, *param_shape). Only the step's blocks are used."""
        is_own = self.factorization is self.network.factorization
        params: Tensor = self.network(blocks, context, None if is_own else self.ranks)
        return params


class StaticDecoder(CacheDecoder):
    """A decoder made of a `StaticStep`, which on CUDA replays one graph at each step.

    A step of an eager decoder launches dozens of small kernels, and on a GPU the launches take
    longer than the kernels. This decoder runs its first steps eagerly and records one step in a
    CUDA graph. Each later step is a single launch. On other devices all steps are eager, and slower
    than the steps of the network's own decoder. Set `network.records_steps = True` to draw with it.

    Args:
        step: the step of the draw, but no step by whole passes.
        batch_size: the number of rows.
        context: (N, *context_shape), where N divides `batch_size`, or None.
        reference: a tensor of the parameters' dtype and device.
    """

    def __init__(
        self, step: StaticStep, batch_size: int, context: Tensor | None, reference: Tensor
    ) -> None:
        super().__init__(step.factorization, batch_size)
        layout, order = step.factorization.layout, step.factorization.drawing_order
        self._step, self._values = step, order.values.to(reference.device)
        blocks = layout.placeholder(reference).expand(batch_size, *layout.value_shape)
        self._blocks = blocks.clone()
        encodings, self._state = step.start(self._blocks, repeat_rows(context, batch_size))
        self._encodings = tuple(part.contiguous() for part in encodings)
        self._position = torch.zeros((), dtype=torch.int64, device=reference.device)
        self._num_advanced = 0
        self._num_eager = 0  # since the buffers were made
        self._graph: Any = None
        self._params: Tensor  # of the last step

    def take(self, blocks: Tensor, num_steps: int) -> None:
        ends, start = self.factorization.drawing_order.ends, self.num_taken
        taken = slice(ends[start], ends[start + num_steps])
        if self._values.order is None:
            self._blocks[:, taken] = blocks
        else:
            blocks = blocks.to(self._blocks.dtype)
            self._blocks.index_copy_(1, self._values.order[taken], blocks)

    def evaluate(self) -> Tensor:
        while self._num_advanced <= self.num_taken:  # each step of a prefix, too
            self._advance()
            self._num_advanced += 1
        if self._step.is_single:
            return self._params.clone()  # since the next replay overwrites them
        order, index = self.factorization.drawing_order, self.num_taken
        return order.part(self._params, index, index + 1, "param").clone()

    def _advance(self) -> None:
        """The parameters of the next step."""
        if self._graph is None and self._num_eager >= _WARM_UP and has_graphs(self._blocks):
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):  # this records the step and does not run it
                self._run()
            self._graph = graph
        if self._graph is None:
            self._run()
            self._num_eager += 1
        else:
            self._graph.replay()

    def _run(self) -> None:
        args = self._blocks, self._position, self._encodings, self._state
        with self._step.network.eval_mode():
            self._params = self._step.advance(*args)
        self._position += 1

    def select(self, rows: Tensor) -> None:
        parts = (self._blocks, *self._encodings, *self._state)
        chosen = [part.index_select(0, rows) for part in parts]
        if rows.shape[0] == self.batch_size:  # the graph goes on with the same buffers
            for part, new in zip(parts, chosen, strict=True):
                part.copy_(new)
            return
        self.batch_size, split = rows.shape[0], 1 + len(self._encodings)
        self._blocks = chosen[0]
        self._encodings, self._state = tuple(chosen[1:split]), tuple(chosen[split:])
        self._graph, self._num_eager = None, 0

    def copy(self) -> Self:
        graph, self._graph = self._graph, None  # a graph writes into this decoder's buffers
        try:
            copied = super().copy()
        finally:
            self._graph = graph
        copied._num_eager = 0
        return copied


def has_graphs(reference: Tensor) -> bool:
    """Whether CUDA graphs can record operations on tensors of this device."""
    return reference.is_cuda


class DrawStep(nn.Module):
    """A module whose `forward` draws the blocks of one step, for compilers and exporters.

    It takes and returns events and a state, so that a loop of a few lines draws in any program that
    runs the graph. All shapes are the same at each step, and no value is read back:
    `torch.compile(fullgraph=True)`, `torch.export` and CUDA graphs can record it. See `StaticStep`.
    `AutoregressiveDistribution.sample` is faster in plain Python.

    To condition on the first blocks, such as a prompt, write them into the events after the steps
    that draw them.

    Args:
        network: a conditional network in evaluation mode.
        factorization: replaces the network's own, as for `AutoregressiveDistribution`.

    Raises:
        ValueError: if there is no conditional network inside, it is in training mode, it does not
            support the factorization, or a rule reads the context.

    >>> import torch, ardist as ad
    >>> net = ad.networks.RNN(ad.Factorization(9, ad.families.Normal()), hidden_size=8).eval()
    >>> draw = ad.DrawStep(net)
    >>> with torch.no_grad():
    ...     events, encodings, state = draw.start(5)
    ...     for position in range(9):
    ...         events, state = draw(events, torch.tensor(position), encodings, state)
    >>> events.shape
    torch.Size([5, 9])
    """

    def __init__(self, network: nn.Module, *, factorization: Factorization | None = None) -> None:
        super().__init__()
        unwrapped = unwrap(network)
        if any(module.training for module in unwrapped.modules()):
            raise ValueError(
                f"network: expected evaluation mode, since a recorded step cannot switch dropout "
                f"off, got a {type(unwrapped).__name__} in training mode; call network.eval()"
            )
        self.factorization, built_for = checked_factorization(unwrapped, factorization)
        rule = self.factorization.rule
        if rule is not None and rule.reads_context:
            raise ValueError(
                f"factorization: expected a rule that does not read the context, which a recorded "
                f"step does not keep, got {type(rule).__name__}"
            )
        self.step: StaticStep = unwrapped.make_static_step(built_for)

    def start(
        self, num_rows: int, context: Tensor | None = None
    ) -> tuple[Tensor, Tensors, Tensors]:
        """The arguments of the first call, except the position.

        Args:
            num_rows: the number of events.
            context: (N, *context_shape), where N divides num_rows. Row i has context i % N.

        Returns:
            events inside the support (num_rows, *event_shape), the encodings of the context, which
            all calls take, and the state before the first step.

        Raises:
            ValueError: if the context does not fit the network or the number of rows.
        """
        as_positive(num_rows, "num_rows")
        check_contexts(self.step.network, context, num_rows, "num_rows")
        context = repeat_rows(context, num_rows)
        fac, reference = self.factorization, next(self.parameters(), torch.empty(0))
        blocks = fac.layout.placeholder(reference).expand(num_rows, *fac.layout.value_shape)
        return fac.merge(blocks).clone(), *self.step.start(blocks, context)

    def forward(
        self, events: Tensor, position: Tensor, encodings: Tensors, state: Tensors
    ) -> tuple[Tensor, Tensors]:
        """The events with the blocks of one more step, and the next state.

        Args:
            events: the events with the blocks of the earlier steps, (rows, *event_shape).
            position: the number of the step, () int64.
            encodings: the encodings from `start`.
            state: the state from `start` or from the previous call.
        """
        fac, rule = self.factorization, self.factorization.restriction
        blocks = fac.split(events)
        readable = blocks if rule is None else rule.readable(fac.layout, blocks)
        params, state = self.step(readable, position, encodings, state)
        if rule is not None:
            limits = rule.limits(blocks, None, None, params)
            if self.step.is_single and rule.layout.flat:
                params = params.expand(-1, fac.num_blocks, -1)
            elif self.step.is_single:
                limits = limits.index_select(1, self.step.block_at(position))
            params = rule.restrict(params, limits)
        drawn = fac.conditionals.sample(params)
        is_drawn = fac.layout.expand_to_elements(self.step.ranks == position)
        return fac.merge(torch.where(is_drawn, drawn, blocks)), state
