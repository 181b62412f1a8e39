"""MADE: a masked multilayer perceptron."""

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ardist.decoding import Decoder, Window
from ardist.factorization import Factorization
from ardist.layout import Layout
from ardist.networks.base import ConditionalNetwork, start_near_noise
from ardist.networks.masking import MaskedLinear, VisibleSets, within
from ardist.pathwise import Sweep
from ardist.rows import add_to_rows, repeat_rows
from ardist.shapes import as_callable, as_flag, as_probability, as_size, constant

_UNITS_AT_ONCE = 128  # of the widest layer, in one window of the decoder


class MADE(ConditionalNetwork):
    """A multilayer perceptron masked to the dependencies (Germain et al. 2015, arXiv:1502.03509).

    It follows any dependencies: orders, ties and graphs, and blocks of unequal size. A context
    is visible to every block.

    Args:
        factorization: whose dependencies make the masks.
        hidden_features: width of each hidden layer; `()` leaves the direct connections alone.
        context_shape: `(C,)`, or `()` for none.
        direct: whether inputs are also connected to outputs directly. They make a layer with
            fewer units than there are distinct sets of dependencies keep its reach.
        residual: whether layers of equal width add their input to their output.
        activation: elementwise.
        dropout: the probability with which a hidden unit is dropped in training mode: by
            `log_prob`, not by draws and what is scored with them.

    Raises:
        ValueError: where, without direct connections, a layer is too narrow to reach all
            dependencies, or an argument is off.

    >>> import torch, ardist as ad
    >>> fac = ad.Factorization((4,), ad.families.Normal())
    >>> net = ad.networks.MADE(fac, hidden_features=(32, 32), context_shape=(2,))
    >>> p = net.condition(torch.zeros(7, 2))
    >>> p.sample((3,)).shape, p.log_prob(torch.zeros(4)).shape
    (torch.Size([3, 7, 4]), torch.Size([7]))
    """

    def __init__(
        self,
        factorization: Factorization,
        *,
        hidden_features: int | Sequence[int],
        context_shape: Sequence[int] = (),
        direct: bool = True,
        residual: bool = False,
        activation: Callable[[Tensor], Tensor] = torch.relu,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(factorization, context_shape=context_shape)
        self.residual = as_flag(residual, "residual")
        self.activation: Callable[[Tensor], Tensor] = as_callable(activation, "activation")
        widths = as_size(hidden_features, "hidden_features")
        if not as_flag(direct, "direct") and not widths:
            raise ValueError("hidden_features: expected a layer, or direct=True, got neither")
        self.dropout = as_probability(dropout, "dropout")
        visible = VisibleSets(factorization, with_empty=bool(self.context_shape))
        if not direct and min(widths) < visible.sets.shape[0]:
            raise ValueError(
                f"hidden_features: without direct connections every layer needs a unit for each "
                f"of the {visible.sets.shape[0]} distinct sets of dependencies, got {tuple(widths)}"
            )
        self.hidden_features = tuple(widths)
        layout = factorization.layout
        features = torch.eye(layout.num_blocks, dtype=torch.bool).repeat_interleave(
            torch.tensor(layout.sizes["feature"]), 0
        )  # which block each feature belongs to, as a set
        outputs = factorization.dependencies.repeat_interleave(
            torch.tensor(layout.sizes["param"]), 0
        )
        seen, layers, available = features, [], []
        for width in widths:
            units = visible.assign(width)
            sets = visible.sets[units]
            layers.append(MaskedLinear(within(seen, sets)))
            available.append(visible.available[units])
            seen = sets
        self.hidden = nn.ModuleList(layers)
        self.available = available  # by layer and unit, the step from which it can be computed
        self.head = MaskedLinear(within(seen, outputs)) if widths else None
        self.direct = MaskedLinear(within(features, outputs), bias=not widths) if direct else None
        start_near_noise(factorization, self.head, self.direct)
        if self.context_shape:
            (size,) = self.context_shape
            self.context_to_hidden = nn.Linear(size, widths[0], bias=False) if widths else None
            self.context_to_output = (
                nn.Linear(size, outputs.shape[0], bias=False) if direct else None
            )
            start_near_noise(factorization, self.context_to_output)

    def forward(
        self, blocks: Tensor, context: Tensor | None = None, ranks: Tensor | None = None
    ) -> Tensor:
        layout = self.factorization.layout
        features = layout.features(blocks).to(self.output_bias.dtype)
        to_hidden, to_output = self.encode(context)
        hidden = features
        for number, layer in enumerate(self.hidden):
            before = layer(hidden)
            if number == 0 and to_hidden is not None:
                before = add_to_rows(before, to_hidden)
            hidden = self.activate(number, before, hidden)
            hidden = F.dropout(hidden, self.dropout, self.training)
        maps = ((self.head, hidden), (self.direct, features))
        parts: list[Tensor] = [layer(source) for layer, source in maps if layer is not None]
        params = reduce(torch.add, parts)
        if to_output is not None:
            params = add_to_rows(params, to_output)
        return params.reshape(blocks.shape[0], *layout.param_shape)

    def encode(self, context: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """What the context adds to the first hidden layer and to the outputs."""
        if context is None:
            return None, None
        to_hidden, to_output = self.context_to_hidden, self.context_to_output
        return (
            None if to_hidden is None else to_hidden(context),
            None if to_output is None else to_output(context),
        )

    def activate(
        self, layer: int, before: Tensor, source: Tensor, rows: slice = slice(None)
    ) -> Tensor:
        """A hidden layer's units from their sums; `rows` of the layer below go with them."""
        after = self.activation(before)
        return after + source[rows] if self.adds(layer) else after

    def adds(self, layer: int) -> bool:
        """Whether a hidden layer's units add those of the layer below."""
        widths = self.hidden_features
        if not self.residual or not 0 < layer < len(widths):
            return False
        return widths[layer] == widths[layer - 1]

    @property
    def output_bias(self) -> Tensor:
        biases = [layer.bias for layer in (self.head, self.direct) if layer is not None]
        return biases[0]

    @constant
    def schedule(self) -> "_Schedule":
        return _Schedule(self.factorization, self.available)

    def make_decoder(
        self,
        factorization: Factorization,
        batch_size: int,
        context: Tensor | None,
        ranks: Tensor | None,
    ) -> Decoder:
        """A decoder that uses each weight once in a whole sample."""
        return _MADEDecoder(self, batch_size, context)

    def _sweep(self, blocks: Tensor, context: Tensor | None) -> Sweep:
        """Gradients through a draw that use each weight once."""
        return _MADESweep(_MADEDecoder(self, blocks.shape[0], context), blocks)


class _Schedule:
    """What becomes known when: the index work of a MADE's decoders, done once.

    With features and outputs in the order of drawing and hidden units in the order of
    availability, what becomes known at a step is a range of each state (the features, then each
    hidden layer), computed from the range before it.

    Attributes:
        ends: for each state and t, where what is known before step t's draw ends.
        output_ends: for each t, where the outputs of the first t steps end.
        max_window: how many steps to evaluate at once.
    """

    def __init__(self, factorization: Factorization, available: Sequence[Tensor]) -> None:
        order = self._order = factorization.drawing_order
        self._flat = {kind: order.flat(kind) for kind in ("feature", "param")}
        times = torch.arange(order.num_steps + 1)
        units = [torch.searchsorted(layer, times).tolist() for layer in available]
        self.ends = [order.ends_of("feature"), *units]
        self.output_ends = order.ends_of("param")
        widest = max(self.output_ends[-1], *(ends[-1] for ends in units), 1)
        share = _UNITS_AT_ONCE * order.num_steps // widest
        self.max_window = max(1, min(order.num_steps, share))

    def layout(self, start: int, stop: int) -> Layout:
        """The blocks of the steps from `start` to `stop`."""
        return self._order.layout_of(start, stop)

    def in_order(self, weight: Tensor, kind: str, dim: int) -> Tensor:
        """Features or parameters along `dim` from raster order to the order of drawing."""
        return self._flat[kind].to(weight.device).to_drawing(weight, dim)


class _MADEDecoder(Decoder):
    """Computes each unit when it becomes available, and so uses each weight once in a sample.

    States are (units, rows), so that a range of units is contiguous.
    """

    def __init__(self, network: MADE, batch_size: int, context: Tensor | None) -> None:
        super().__init__(network.factorization, batch_size)
        self._network, self._schedule = network, network.schedule
        self.max_window = self._schedule.max_window
        in_order = self._schedule.in_order
        layers = [layer for layer in network.hidden if isinstance(layer, MaskedLinear)]
        self.weights = [layer.masked_weight() for layer in layers]
        if self.weights:
            self.weights[0] = in_order(self.weights[0], "feature", 1)
        to_hidden, to_output = network.encode(context)
        # Copies, as the weights are: a sweep back reads them after an optimizer may have stepped.
        self.biases = [layer.bias.clone().unsqueeze(-1) for layer in layers]
        if to_hidden is not None:
            self.biases[0] = self.biases[0] + self._for_rows(to_hidden)
        # The maps from a state to the outputs.
        self.outputs: list[tuple[int, Tensor]] = []
        if network.head is not None:
            self.outputs.append(
                (len(self.weights), in_order(network.head.masked_weight(), "param", 0))
            )
        if network.direct is not None:
            weight = in_order(network.direct.masked_weight(), "param", 0)
            self.outputs.append((0, in_order(weight, "feature", 1)))
        bias = network.output_bias.unsqueeze(-1)
        bias = bias if to_output is None else bias + self._for_rows(to_output)
        self.output_bias = in_order(bias, "param", 0)
        self.states = [bias.new_zeros(ends[-1], batch_size) for ends in self._schedule.ends]

    def _for_rows(self, encoding: Tensor) -> Tensor:
        """An encoding (contexts, units) as (units, rows)."""
        return repeat_rows(encoding, self.batch_size).T

    @torch.no_grad()
    def step(self, previous: Tensor | None) -> Tensor:
        if previous is not None:
            self._write(previous, self.num_taken, self.num_taken + 1)
        return self._evaluate(self.num_taken, self.num_taken + 1)

    @torch.no_grad()
    def prefill(self, blocks: Tensor) -> Tensor:
        self._write(blocks, 0, self._num_steps_of(blocks))
        return self._evaluate(0, self.num_taken + 1)

    def select(self, rows: Tensor) -> None:
        self.batch_size = rows.shape[0]
        self.states = [state.index_select(1, rows) for state in self.states]
        self.biases = [_select(bias, rows) for bias in self.biases]
        self.output_bias = _select(self.output_bias, rows)

    def window(self, num_steps: int) -> Window:
        self.num_taken += num_steps
        return _MADEWindow(self, self.num_taken - num_steps, self.num_taken)

    def _write(self, blocks: Tensor, start: int, stop: int) -> None:
        """Takes the blocks of the steps from `start` to `stop`."""
        ends = self._schedule.ends[0]
        features = self._schedule.layout(start, stop).features(blocks)
        self.states[0][ends[start] : ends[stop]] = features.T
        self.num_taken = stop

    def _evaluate(self, start: int, stop: int) -> Tensor:
        """Computes the units that become available in these steps; the last one's parameters."""
        ends, output_ends = self._schedule.ends, self._schedule.output_ends
        for layer, weight in enumerate(self.weights):
            rows = slice(ends[layer + 1][start], ends[layer + 1][stop])
            seen = ends[layer][stop if layer else stop - 1]
            source = self.states[layer]
            before = torch.addmm(self.biases[layer][rows], weight[rows, :seen], source[:seen])
            self.states[layer + 1][rows] = self._network.activate(layer, before, source, rows)
        rows = slice(output_ends[stop - 1], output_ends[stop])
        params = self.output_bias[rows]
        for number, weight in self.outputs:
            seen = ends[number][stop if number else stop - 1]
            params = torch.addmm(params, weight[rows, :seen], self.states[number][:seen])
        return _as_params(params, self._schedule.layout(stop - 1, stop))


class _MADESweep(Sweep):
    """Sends gradients back through each unit when all that read it have theirs.

    Gradients are (units, rows), in the decoder's orders of outputs, units and features. Those that
    are not known yet are zero, and so are the weights that would read them.
    """

    def __init__(self, decoder: _MADEDecoder, blocks: Tensor) -> None:
        self._decoder, self._blocks = decoder, blocks

    def _prepare(self) -> None:
        """All slopes at the draw, and views of what each step reads and writes."""
        decoder, network = self._decoder, self._decoder._network
        schedule, layers = decoder._schedule, range(len(decoder.weights))
        features = network.factorization.layout.features(self._blocks)
        state = schedule.in_order(features, "feature", 1).T
        sizes = [[b - a for a, b in pairwise(ends)] for ends in schedule.ends]
        outputs = state.new_zeros(schedule.output_ends[-1], self._blocks.shape[0])
        slopes, sums, self._units = [], [], []
        for layer in layers:
            before = torch.addmm(decoder.biases[layer], decoder.weights[layer], state)
            with torch.enable_grad():
                leaf = before.detach().requires_grad_()
                slopes.append(torch.autograd.grad(network.activation(leaf).sum(), leaf)[0])
            state = network.activate(layer, before, state)
            sums.append(torch.zeros_like(before))
            self._units.append(torch.empty_like(before).split(sizes[layer + 1]))
        # By step: the slopes of the units that become known, and the gradients of their sums.
        self._slopes = [part.split(size) for part, size in zip(slopes, sizes[1:], strict=True)]
        self._sums = [part.split(size) for part, size in zip(sums, sizes[1:], strict=True)]
        self._outputs = outputs.split([b - a for a, b in pairwise(schedule.output_ends)])
        # By state and step: the weights that read its entries, and the gradients of the readers.
        self._readers: list[list[tuple[tuple[Tensor, ...], Tensor]]] = [[] for _ in sizes]
        for source, weight in decoder.outputs:
            self._readers[source].append((weight.T.split(sizes[source]), outputs))
        for layer in layers:
            weight = decoder.weights[layer]
            self._readers[layer].append((weight.T.split(sizes[layer]), sums[layer]))

    def step(self, step: int, params: Tensor) -> Tensor:
        if step + 1 == self._decoder.factorization.num_steps:
            self._prepare()
        self._outputs[step].copy_(params)
        for layer in range(len(self._slopes) - 1, -1, -1):
            gradient = self._into(layer + 1, step)
            if self._decoder._network.adds(layer):
                self._units[layer][step].copy_(gradient)
            torch.mul(gradient, self._slopes[layer][step], out=self._sums[layer][step])
        return self._into(0, step - 1)

    def _into(self, state: int, step: int) -> Tensor:
        """The gradient of the entries of a state that become known at a step."""
        (weights, gradients), *others = self._readers[state]
        total = torch.mm(weights[step], gradients)
        for weights, gradients in others:
            total.addmm_(weights[step], gradients)
        if self._decoder._network.adds(state):
            total += self._units[state][step]
        return total


class _MADEWindow(Window):
    """Steps from `start` to `stop`. What comes from before them is computed once."""

    def __init__(self, decoder: _MADEDecoder, start: int, stop: int) -> None:
        schedule = decoder._schedule
        self._layout = schedule.layout(start, stop)
        self._activate = decoder._network.activate
        inside = [slice(ends[start], ends[stop]) for ends in schedule.ends]
        self._kept = [state[part] for state, part in zip(decoder.states, inside, strict=True)]
        self._states = list(self._kept)

        def divide(base: Tensor, weight: Tensor, rows: slice, source: int) -> tuple[Tensor, Tensor]:
            """The base with all that is known added, and the weights from the inside."""
            seen = inside[source].start
            if seen:
                base = torch.addmm(base, weight[rows, :seen], decoder.states[source][:seen])
            return base, weight[rows, inside[source]]

        self._hidden = [
            divide(decoder.biases[layer][rows], weight, rows, layer)
            for layer, (weight, rows) in enumerate(zip(decoder.weights, inside[1:], strict=True))
        ]
        rows = slice(schedule.output_ends[start], schedule.output_ends[stop])
        self._base, self._outputs = decoder.output_bias[rows], []
        for source, weight in decoder.outputs:
            self._base, inner = divide(self._base, weight, rows, source)
            self._outputs.append((source, inner))

    def __call__(self, guess: Tensor | None) -> Tensor:
        states = self._states
        if guess is not None:
            states[0] = self._layout.features(guess).to(self._base.dtype).T
        for layer, (base, weight) in enumerate(self._hidden):
            before = torch.addmm(base, weight, states[layer])
            states[layer + 1] = self._activate(layer, before, states[layer])
        params = self._base
        for source, weight in self._outputs:
            params = torch.addmm(params, weight, states[source])
        return _as_params(params, self._layout)

    def keep(self, blocks: Tensor) -> None:
        self._states[0] = self._layout.features(blocks).T
        for kept, state in zip(self._kept, self._states, strict=True):
            kept.copy_(state)


def _as_params(units: Tensor, layout: Layout) -> Tensor:
    """Outputs (units, rows) as parameters (rows, ...)."""
    if layout.flat:
        return units.T
    return units.view(layout.num_blocks, -1, units.shape[-1]).permute(2, 0, 1)


def _select(units: Tensor, rows: Tensor) -> Tensor:
    """Rows of a tensor (units, rows), or of one (units, 1) that serves all rows."""
    return units if units.shape[1] == 1 else units.index_select(1, rows)
