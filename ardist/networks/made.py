"""MADE: a masked multilayer perceptron."""

from collections.abc import Callable, Sequence
from functools import cached_property, reduce
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ardist.decoding import Decoder, Window
from ardist.factorization import Factorization
from ardist.layout import Layout
from ardist.networks.base import ConditionalNetwork, start_near_noise
from ardist.networks.constants import reference_of
from ardist.networks.masking import MaskedLinear, PerceptronMasks, VisibleSets
from ardist.networks.sizes import hidden_layers
from ardist.pathwise import Sweep
from ardist.rows import add_to_rows, repeat_rows, select_rows
from ardist.shapes import as_callable, as_flag, as_probability, as_size, constant, described

_UNITS_AT_ONCE = 128  # units of the widest layer in one window
_UNITS_OF_FEW_ROWS = 192  # the same in a draw of at most _UNITS_AT_ONCE rows, whose steps are short


class MADE(ConditionalNetwork):
    """A multilayer perceptron with masked weights (Germain et al. 2015, arXiv:1502.03509).

    The masks follow from the dependencies. Any dependencies are supported: orders, ties and graphs,
    and blocks of different sizes. All blocks depend on the context. The weights from other blocks
    to the outputs start at zero, so that blocks start out independent given the context. See also
    `start_at`.

    Args:
        factorization: its dependencies give the masks.
        hidden_features: width of each hidden layer; `()` gives direct connections only. By
            default there are two layers, whose width is four times the number of features of the
            event, rounded up to a power of two within 256 and 512. Without direct connections it is
            at least the number of distinct sets of dependencies.
        context_shape: `(C,)`, or `()` for none.
        direct: whether there are also direct connections from inputs to outputs. With them, all
            dependencies are kept even if a layer has fewer units than there are distinct sets of
            dependencies.
        residual: whether layers of equal width add their input to their output.
        activation: elementwise, a function or a module.
        dropout: the probability of dropping a hidden unit in training mode. It applies to
            `log_prob`, not to draws and the log-probabilities computed with them.

    Raises:
        ValueError: if, without direct connections, a layer is too narrow for all dependencies, or
            an argument is invalid.

    >>> import torch, ardist as ad
    >>> fac = ad.Factorization((4,), ad.families.Normal())
    >>> net = ad.networks.MADE(fac, hidden_features=(32, 32), context_shape=(2,))
    >>> p = net.condition(torch.zeros(7, 2))
    >>> p.sample((3,)).shape, p.log_prob(torch.zeros(4)).shape
    (torch.Size([3, 7, 4]), torch.Size([7]))
    """

    starts_at_data = True
    _sizes = ("hidden_features",)

    def __init__(
        self,
        factorization: Factorization,
        *,
        hidden_features: int | Sequence[int] | None = None,
        context_shape: Sequence[int] = (),
        direct: bool = True,
        residual: bool = False,
        activation: Callable[[Tensor], Tensor] = torch.relu,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(factorization, context_shape=context_shape)
        self.residual = as_flag(residual, "residual")
        self.activation: Callable[[Tensor], Tensor] = as_callable(activation, "activation")
        _check_elementwise(activation)
        layout = factorization.layout
        visible = VisibleSets(factorization, with_empty=bool(self.context_shape))
        if hidden_features is None:
            least = 0 if direct else visible.sets.shape[0]
            ruled = hidden_layers(sum(layout.sizes["feature"]))
            hidden_features = [max(width, least) for width in ruled]
        widths = as_size(hidden_features, "hidden_features")
        if not as_flag(direct, "direct") and not widths:
            raise ValueError("hidden_features: expected a layer, or direct=True, got neither")
        self.dropout = as_probability(dropout, "dropout")
        if not direct and min(widths) < visible.sets.shape[0]:
            raise ValueError(
                f"hidden_features: without direct connections every layer needs a unit for each "
                f"of the {visible.sets.shape[0]} distinct sets of dependencies, got {tuple(widths)}"
            )
        self.hidden_features = tuple(widths)
        with torch.device("cpu"):  # where the dependencies are
            masks = PerceptronMasks(factorization, visible, self.hidden_features)
        self.hidden = nn.ModuleList(MaskedLinear(mask) for mask in masks.hidden)
        self.available = masks.available
        self.head = None if masks.head is None else MaskedLinear(masks.head)
        self.direct = MaskedLinear(masks.direct, bias=not widths) if direct else None
        if self.context_shape:
            (size,) = self.context_shape
            self.context_to_hidden = nn.Linear(size, widths[0], bias=False) if widths else None
            self.context_to_output = (
                nn.Linear(size, masks.direct.shape[0], bias=False) if direct else None
            )
        start_near_noise(factorization, *self.output_maps)
        # The biases stay random, since the components of a mixture have to differ. The weights of
        # the context stay random, too: a network that encodes the context learns through them.
        for layer in (self.head, self.direct):
            if layer is not None:
                nn.init.zeros_(layer.weight)

    def forward(
        self,
        blocks: Tensor,
        context: Tensor | None = None,
        ranks: Tensor | None = None,
        sweep: Sweep | None = None,
    ) -> Tensor:
        layout = self.factorization.layout
        features = layout.features(blocks).to(self.output_bias.dtype)  # (M * N, total features)
        to_hidden, to_output = self.encode(context)
        hidden = features
        for number, layer in enumerate(self.hidden):
            sums = layer(hidden)  # (M * N, width)
            if number == 0 and to_hidden is not None:
                sums = add_to_rows(sums, to_hidden)
            sums = sums if sweep is None else sweep.cut(sums)
            hidden = self.activate(number, sums, hidden)
            hidden = F.dropout(hidden, self.dropout, self.training)
        maps = ((self.head, hidden), (self.direct, features))
        parts: list[Tensor] = [layer(source) for layer, source in maps if layer is not None]
        params = reduce(torch.add, parts)  # (M * N, total params)
        if to_output is not None:
            params = add_to_rows(params, to_output)
        return params.reshape(blocks.shape[0], *layout.param_shape)

    def encode(self, context: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The encodings that are added to the first hidden layer and to the outputs, (N, units)."""
        if context is None:
            return None, None
        to_hidden, to_output = self.context_to_hidden, self.context_to_output
        return (
            None if to_hidden is None else to_hidden(context),
            None if to_output is None else to_output(context),
        )

    def activate(self, layer: int, sums: Tensor, below: Tensor) -> Tensor:
        """The units of a hidden layer.

        Args:
            layer: its number.
            sums: the inputs of the activation.
            below: the units of the layer below, for a residual connection.
        """
        activated = self.activation(sums)
        return activated + below if self.has_residual(layer) else activated

    @property
    def hidden_layers(self) -> list[MaskedLinear]:
        """The hidden layers, typed."""
        return [layer for layer in self.hidden if isinstance(layer, MaskedLinear)]

    def has_residual(self, layer: int) -> bool:
        """Whether a hidden layer adds the units of the layer below to its own."""
        widths = self.hidden_features
        if not self.residual or not 0 < layer < len(widths):
            return False
        return widths[layer] == widths[layer - 1]

    @property
    def output_maps(self) -> list[nn.Linear]:
        """The maps to the outputs. The head has the bias, or else the direct map."""
        own = [self.head, self.direct, self.context_to_output if self.context_shape else None]
        return [layer for layer in own if layer is not None]

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
        """A decoder that uses each weight once per sample."""
        return _MADEDecoder(self, batch_size, context)

    def _sweep(self) -> Sweep:
        """Gradients through a draw that use each weight once."""
        return _MADESweep(self)

    def weights_in_order(self) -> tuple[list[Tensor], list[tuple[int, Tensor]]]:
        """Copies of the weights, with features and outputs in the order of drawing.

        Returns:
            the weights of each hidden layer, and the weights of the maps to the outputs. Each map
            has the number of the layer that it reads, or 0 if it reads the features.
        """
        in_order = self.schedule.in_order
        hidden = [layer.masked_weight() for layer in self.hidden_layers]
        if hidden:
            hidden[0] = in_order(hidden[0], "feature", 1)
        outputs: list[tuple[int, Tensor]] = []
        if self.head is not None:
            outputs.append((len(hidden), in_order(self.head.masked_weight(), "param", 0)))
        if self.direct is not None:
            weight = in_order(self.direct.masked_weight(), "param", 0)
            outputs.append((0, in_order(weight, "feature", 1)))
        return hidden, outputs


@torch.no_grad()
def _check_elementwise(activation: Callable[[Tensor], Tensor]) -> None:
    """Raises a `ValueError` if an activation is not elementwise, as with a slope for each unit.

    The dimensions of units and rows are swapped in decoders.
    """
    like = reference_of(activation) if isinstance(activation, nn.Module) else torch.empty(0)
    x = torch.linspace(-2, 2, 35).reshape(5, 7).to(like)
    found: object
    try:
        with torch.random.fork_rng(()):  # it may be random
            found, again, part = (activation(each.clone()) for each in (x, x, x[:4, :3]))
    except Exception as error:  # whatever a function raises
        found = error
    if not isinstance(found, Tensor) or found.shape != x.shape:
        given = str(found) if isinstance(found, Exception) else described(found)
        got = f"which gives for shape (5, 7): {given}"
    elif torch.equal(found, again) and not torch.allclose(found[:4, :3], part, atol=1e-2):
        got = "which gives other numbers if there are fewer units or rows"
    else:
        return
    raise ValueError(
        f"activation: expected an elementwise function, got {described(activation)}, {got}"
    )


class _Schedule:
    """The units that can be computed at each step, as index ranges for the decoders of a MADE.

    The states of a decoder are the features and then each hidden layer. Features and outputs are in
    the order of drawing, and hidden units in the order in which they become available. So a step
    computes a range of each state from the ranges before it.

    Attributes:
        ends: for each state and step t, the number of entries that are available before step t.
        output_ends: for each t, the number of outputs of the first t steps.
        sizes, output_sizes: the numbers of entries and of outputs that each step adds.
    """

    def __init__(self, factorization: Factorization, available: Sequence[Tensor]) -> None:
        order = self._order = factorization.drawing_order
        self._flat = {kind: order.flat(kind) for kind in ("feature", "param")}
        times = torch.arange(order.num_steps + 1)
        units = [torch.searchsorted(layer, times).tolist() for layer in available]
        self.ends = [order.ends_of("feature"), *units]
        self.output_ends = order.ends_of("param")
        self.sizes = [_differences(ends) for ends in self.ends]
        self.output_sizes = _differences(self.output_ends)
        self.num_steps, self.layouts = order.num_steps, order.step_layouts
        self._widest = max(self.output_ends[-1], *(ends[-1] for ends in units), 1)

    def max_window(self, units: int) -> int:
        """The number of steps to evaluate at once, with about `units` units of a layer."""
        return max(1, min(self.num_steps, units * self.num_steps // self._widest))

    def layout(self, start: int, stop: int) -> Layout:
        """The blocks of the steps from `start` to `stop`."""
        return self._order.layout_of(start, stop)

    def in_order(self, weight: Tensor, kind: str, dim: int) -> Tensor:
        """Moves features or parameters along `dim` from raster order to the order of drawing."""
        return self._flat[kind].to(weight.device).to_drawing(weight, dim)


class _MADEDecoder(Decoder):
    """Computes each unit when it becomes available, so that each weight is used once per sample.

    States are (units, rows), so that a range of units is contiguous.
    """

    def __init__(self, network: MADE, batch_size: int, context: Tensor | None) -> None:
        super().__init__(network.factorization, batch_size)
        self._network, self._schedule = network, network.schedule
        is_small = batch_size <= _UNITS_AT_ONCE
        units = _UNITS_OF_FEW_ROWS if is_small else _UNITS_AT_ONCE
        self.max_window = self._schedule.max_window(units)
        self.weights, self.outputs = network.weights_in_order()
        to_hidden, to_output = network.encode(context)
        self.biases = [layer.bias.unsqueeze(-1) for layer in network.hidden_layers]
        if to_hidden is not None:
            self.biases[0] = self.biases[0] + self._for_rows(to_hidden)
        bias = network.output_bias.unsqueeze(-1)
        bias = bias if to_output is None else bias + self._for_rows(to_output)
        self.output_bias = self._schedule.in_order(bias, "param", 0)
        self.states = [bias.new_zeros(ends[-1], batch_size) for ends in self._schedule.ends]
        self._current: _MADEWindow | None = None  # the window of single steps

    def _for_rows(self, encoding: Tensor) -> Tensor:
        """From an encoding (N, units) to (units, rows)."""
        return repeat_rows(encoding, self.batch_size).T

    @torch.no_grad()
    def step(self, previous: Tensor | None) -> Tensor:
        schedule = self._schedule
        if previous is not None:
            inside = slice(*schedule.ends[0][self.num_taken : self.num_taken + 2])
            self.states[0][inside] = schedule.layouts[self.num_taken].features(previous).T
            self.num_taken += 1
        if self._current is None or self.num_taken == self._current.stop:
            stop = min(self.num_taken + self.max_window, schedule.num_steps)
            self._current = _MADEWindow(self, self.num_taken, stop)
        return self._current.step(self.num_taken)

    @torch.no_grad()
    def prefill(self, blocks: Tensor) -> Tensor:
        window = self.window(self._num_steps_of(blocks))
        window.compute_units(blocks)
        window.keep(blocks)
        return self.step(None)

    def select(self, rows: Tensor) -> None:
        self.batch_size, self._current = rows.shape[0], None
        self.states = [state.index_select(1, rows) for state in self.states]
        self.biases = [select_rows(bias, rows, 1) for bias in self.biases]
        self.output_bias = select_rows(self.output_bias, rows, 1)

    def window(self, num_steps: int) -> "_MADEWindow":
        self.num_taken, self._current = self.num_taken + num_steps, None
        return _MADEWindow(self, self.num_taken - num_steps, self.num_taken)


class _MADESweep(Sweep):
    """Backpropagates through each unit when the gradients of all its outputs are known.

    Gradients are (entries, rows), in the decoder's orders: of the features, of the sums of each
    hidden layer, and of the outputs. Steps are taken in windows. The contributions of later
    windows to a window are computed once. Inside a window, gradients that are not complete yet are
    multiplied by weights of zero.
    """

    def __init__(self, network: MADE) -> None:
        super().__init__()
        self._network, schedule = network, network.schedule
        self._max_window = schedule.max_window(_UNITS_AT_ONCE)
        # Features are needed one step after their block.
        self._ends = [[0, *schedule.ends[0]], *schedule.ends[1:], schedule.output_ends]
        self._sizes = [_differences(ends) for ends in self._ends]
        # For each state, copies of the maps that read it, since an optimizer may change the weights
        # before the sweep.
        weights, outputs = network.weights_in_order()
        self._readers = [[(state + 1, weight.T)] for state, weight in enumerate(weights)] + [[]]
        for state, weight in outputs:
            self._readers[state].append((-1, weight.T))
        self._all_slopes: list[Tensor] = []  # of each layer, (width, rows)

    def cut(self, sums: Tensor) -> Tensor:
        # Slopes are computed in the forward pass, since the activation's parameters or mode may
        # have changed by the sweep.
        with torch.enable_grad():
            leaf = sums.detach().T.requires_grad_()
            units = self._network.activation(leaf.clone())  # it may write in place
            self._all_slopes.append(torch.autograd.grad(units.sum(), leaf)[0].contiguous())
        return super().cut(sums)

    def step(self, step: int, params: Tensor) -> Tensor:
        if step + 2 == len(self._ends[-1]):
            self._start(params)
        if step < self._first:
            self._enter(max(0, step + 1 - self._max_window), step + 1)
        place = step - self._first
        *states, outputs = self._parts
        outputs[place].copy_(params)
        above = params  # the gradient of the units of the layer above
        for state in range(len(states) - 1, -1, -1):
            gradient = states[state][place]
            for weights, of_outputs in self._inside[state]:
                gradient.addmm_(weights[place], of_outputs)
            if self._network.has_residual(state):
                gradient += above
            if self._network.has_residual(state - 1):
                above = gradient.clone()
            if state:
                gradient *= self._slopes[state - 1][place]
        return states[0][place]

    def _start(self, params: Tensor) -> None:
        """Makes gradients of zero."""
        self._first = len(self._ends[-1]) - 1
        self._gradients = [params.new_zeros(ends[-1], params.shape[1]) for ends in self._ends]

    def _enter(self, start: int, stop: int) -> None:
        """Enters the window of the steps from `start` to `stop`, after all later windows."""
        self._first = start
        inside = [slice(ends[start], ends[stop]) for ends in self._ends]
        sizes = [each[start:stop] for each in self._sizes]
        gradients = [g[part] for g, part in zip(self._gradients, inside, strict=True)]
        for state, readers in enumerate(self._readers):
            for reader, weight in readers:
                later = self._ends[reader][stop]
                known = self._gradients[reader][later:]
                gradients[state].addmm_(weight[inside[state], later:], known)

        self._parts = [g.split(size) for g, size in zip(gradients, sizes, strict=True)]
        self._slopes = [
            slopes[part].split(size)
            for slopes, part, size in zip(self._all_slopes, inside[1:-1], sizes[1:-1], strict=True)
        ]
        self._inside = [
            [
                (weight[inside[state], inside[reader]].split(sizes[state]), gradients[reader])
                for reader, weight in readers
            ]
            for state, readers in enumerate(self._readers)
        ]

    def gradients(self) -> list[Tensor]:
        return [of_sums.T for of_sums in self._gradients[1:-1]]


class _MADEWindow(Window):
    """The steps from `start` to `stop`, evaluated together or one after the other.

    The contributions of earlier steps are computed once.
    """

    def __init__(self, decoder: _MADEDecoder, start: int, stop: int) -> None:
        schedule = self._schedule = decoder._schedule
        self.start, self.stop = start, stop
        self._activate = decoder._network.activate
        inside = [slice(ends[start], ends[stop]) for ends in schedule.ends]
        self._kept = [state[part] for state, part in zip(decoder.states, inside, strict=True)]
        self._states = list(self._kept)

        def split(bias: Tensor, weight: Tensor, units: slice, index: int) -> tuple[Tensor, Tensor]:
            """The bias plus the contribution of earlier steps, and the weights of the window."""
            width = inside[index].start
            if width:
                bias = torch.addmm(bias, weight[units, :width], decoder.states[index][:width])
            return bias, weight[units, inside[index]]

        self._hidden = [
            split(decoder.biases[layer][units], weight, units, layer)
            for layer, (weight, units) in enumerate(zip(decoder.weights, inside[1:], strict=True))
        ]
        units = slice(schedule.output_ends[start], schedule.output_ends[stop])
        self._output_bias, self._outputs = decoder.output_bias[units], []
        for index, weight in decoder.outputs:
            self._output_bias, inner = split(self._output_bias, weight, units, index)
            self._outputs.append((index, inner))

    def __call__(self, guess: Tensor | None) -> Tensor:
        self.compute_units(guess)
        params = self._output_bias
        for index, weight in self._outputs:
            params = torch.addmm(params, weight, self._states[index])
        return _as_params(params, self._schedule.layout(self.start, self.stop))

    def compute_units(self, guess: Tensor | None) -> None:
        """Computes all hidden units from a guess of the blocks."""
        states = self._states
        if guess is not None:
            features = self._schedule.layout(self.start, self.stop).features(guess)
            states[0] = features.to(self._output_bias.dtype).T
        for layer, (bias, weight) in enumerate(self._hidden):
            sums = torch.addmm(bias, weight, states[layer])
            states[layer + 1] = self._activate(layer, sums, states[layer])

    def keep(self, blocks: Tensor) -> None:
        self._states[0] = self._schedule.layout(self.start, self.stop).features(blocks).T
        for kept, state in zip(self._kept, self._states, strict=True):
            kept.copy_(state)

    def step(self, index: int) -> Tensor:
        """The parameters of one step. Computes the units that become available at that step.

        Units that are not known yet are zero, and the weights that multiply them are masked.
        """
        step = index - self.start
        states, hidden, sums, outputs = self._by_step
        for layer, (biases, weights) in enumerate(hidden):
            each = torch.addmm(biases[step], weights[step], self._kept[layer])
            states[layer + 1][step].copy_(self._activate(layer, each, states[layer][step]))
        params = sums[step]
        for state, weights in outputs:
            params = torch.addmm(params, weights[step], self._kept[state])
        return _as_params(params, self._schedule.layouts[index])

    @cached_property
    def _by_step(self) -> Any:
        """States, biases and weights, by step."""
        steps, schedule = slice(self.start, self.stop), self._schedule
        sizes, widths = [each[steps] for each in schedule.sizes], schedule.output_sizes[steps]
        states = [kept.split(size) for kept, size in zip(self._kept, sizes, strict=True)]
        hidden = [
            (bias.split(size), weight.split(size))
            for (bias, weight), size in zip(self._hidden, sizes[1:], strict=True)
        ]
        outputs = [(index, weight.split(widths)) for index, weight in self._outputs]
        return states, hidden, self._output_bias.split(widths), outputs


def _differences(ends: list[int]) -> list[int]:
    return [after - before for before, after in pairwise(ends)]


def _as_params(units: Tensor, layout: Layout) -> Tensor:
    """From outputs (units, rows) to parameters (rows, *param_shape)."""
    if layout.flat:
        return units.T
    size = units.shape[0] // layout.num_blocks
    return units.view(layout.num_blocks, size, units.shape[1]).permute(2, 0, 1)
