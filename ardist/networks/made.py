"""MADE: a masked multilayer perceptron."""

from collections.abc import Callable, Sequence
from itertools import accumulate, chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ardist.factorization import Factorization
from ardist.networks.base import ConditionalNetwork, add_encoding
from ardist.networks.masking import MaskedLinear, VisibleSets, within
from ardist.sampling import Decoder, Window, step_widths
from ardist.shapes import as_positive

_UNITS_AT_ONCE = 64  # of the widest layer, in one window of the decoder


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
        hidden_features: Sequence[int],
        context_shape: Sequence[int] = (),
        direct: bool = True,
        residual: bool = False,
        activation: Callable[[Tensor], Tensor] = F.relu,
    ) -> None:
        super().__init__(factorization, context_shape=context_shape)
        widths = [as_positive(width, "hidden_features") for width in hidden_features]
        if not widths and not direct:
            raise ValueError("hidden_features: expected a layer, or direct=True, got neither")
        visible = VisibleSets(factorization, with_empty=bool(self.context_shape))
        if not direct and min(widths) < len(visible.sets):
            raise ValueError(
                f"hidden_features: without direct connections every layer needs a unit for each "
                f"of the {len(visible.sets)} distinct sets of dependencies, got {tuple(widths)}"
            )
        self.hidden_features, self.residual, self.activation = tuple(widths), residual, activation
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
        if self.context_shape:
            (size,) = self.context_shape
            self.context_to_hidden = nn.Linear(size, widths[0], bias=False) if widths else None
            self.context_to_output = nn.Linear(size, len(outputs), bias=False) if direct else None

    def forward(
        self, blocks: Tensor, context: Tensor | None = None, ranks: Tensor | None = None
    ) -> Tensor:
        layout = self.factorization.layout
        features = layout.features(blocks).to((self.head or self.direct).weight.dtype)
        to_hidden, to_output = self._encode(context)
        hidden = features
        for number, layer in enumerate(self.hidden):
            before = layer(hidden)
            if number == 0 and to_hidden is not None:
                before = add_encoding(before, to_hidden)
            after = self.activation(before)
            hidden = hidden + after if self._adds(number) else after
        params = torch.zeros(()) if self.head is None else self.head(hidden)
        if self.direct is not None:
            params = self.direct(features) if self.head is None else params + self.direct(features)
        if to_output is not None:
            params = add_encoding(params, to_output)
        return params.reshape(len(blocks), *layout.param_shape)

    def _encode(self, context: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """What the context adds to the first hidden layer and to the outputs."""
        if context is None:
            return None, None
        to_hidden, to_output = self.context_to_hidden, self.context_to_output
        return (
            None if to_hidden is None else to_hidden(context),
            None if to_output is None else to_output(context),
        )

    def _adds(self, layer: int) -> bool:
        """Whether a hidden layer adds its input to its output."""
        widths = self.hidden_features
        return self.residual and layer > 0 and widths[layer] == widths[layer - 1]

    def decoder(
        self,
        batch_size: int,
        context: Tensor | None = None,
        ranks: Tensor | None = None,
        *,
        factorization: Factorization | None = None,
    ) -> Decoder:
        """A decoder that uses each weight once in a whole sample."""
        with torch.no_grad():
            return _MADEDecoder(self, batch_size, context)


class _MADEDecoder(Decoder):
    """Features and outputs in the order of drawing, hidden units in the order of availability.

    So arranged, what becomes known at a step is a range of each layer, computed from the range
    before it, and a whole sample uses each weight once. States are (units, rows), so that a
    range of units is contiguous.
    """

    def __init__(self, network: MADE, batch_size: int, context: Tensor | None) -> None:
        factorization = network.factorization
        super().__init__(factorization, batch_size)
        self._network, self._layout = network, factorization.layout
        steps, sizes = factorization.steps, factorization.layout.sizes
        order = list(chain(*steps))
        times = torch.arange(len(steps) + 1)

        def step_ends(kind: str) -> list[int]:
            return [0, *accumulate(sum(sizes[kind][block] for block in step) for step in steps)]

        # For each t, where what is known or computed before step t ends, in each state.
        available = [torch.searchsorted(units, times).tolist() for units in network.available]
        self._ends = [step_ends("feature"), *available]
        self._output_ends = step_ends("param")

        def in_order(weight: Tensor, kind: str, dim: int) -> Tensor:
            if order == sorted(order):
                return weight
            wanted = self._layout.columns(kind, order)
            return weight.index_select(dim, torch.tensor(wanted, device=weight.device))

        self._weights = [layer.masked_weight() for layer in network.hidden]
        if self._weights:
            self._weights[0] = in_order(self._weights[0], "feature", 1)
        to_hidden, to_output = network._encode(context)
        self._biases = [layer.bias.unsqueeze(-1) for layer in network.hidden]
        if to_hidden is not None:
            self._biases[0] = self._biases[0] + self._for_rows(to_hidden)
        last = len(self._weights)  # the state that the head reads
        maps = [(last, network.head), (0, network.direct)]
        maps = [(source, layer) for source, layer in maps if layer is not None]
        self._outputs = [
            (source, in_order(layer.masked_weight(), "param", 0)) for source, layer in maps
        ]
        if network.direct is not None:
            self._outputs[-1] = (0, in_order(self._outputs[-1][1], "feature", 1))
        bias = maps[0][1].bias.unsqueeze(-1)
        bias = bias if to_output is None else bias + self._for_rows(to_output)
        self._output_bias = in_order(bias, "param", 0)
        self._states = [bias.new_zeros(ends[-1], batch_size) for ends in self._ends]
        widest = max(self._output_ends[-1], *(ends[-1] for ends in self._ends[1:]), 1)
        self.max_window = max(1, min(len(steps), _UNITS_AT_ONCE * len(steps) // widest))

    def _for_rows(self, encoding: Tensor) -> Tensor:
        """An encoding (contexts, units) as (units, rows)."""
        return encoding.T.repeat(1, self.batch_size // len(encoding))

    @torch.no_grad()
    def step(self, previous: Tensor | None) -> Tensor:
        if previous is not None:
            self._write(previous, self.num_taken, self.num_taken + 1)
            self.num_taken += 1
        return self._evaluate(self.num_taken, self.num_taken + 1)

    @torch.no_grad()
    def prefill(self, blocks: Tensor) -> Tensor:
        taken = len(list(self._pieces(blocks)))
        self._write(blocks, 0, taken)
        self.num_taken = taken
        return self._evaluate(0, taken + 1)

    def select(self, rows: Tensor) -> None:
        self.batch_size = len(rows)
        self._states = [state.index_select(1, rows) for state in self._states]
        self._biases = [_select(bias, rows) for bias in self._biases]
        self._output_bias = _select(self._output_bias, rows)

    def window(self, num_steps: int) -> Window:
        self.num_taken += num_steps
        return _MADEWindow(self, self.num_taken - num_steps, self.num_taken)

    def _write(self, blocks: Tensor, start: int, stop: int) -> None:
        """Takes the blocks of steps from `start` to `stop`."""
        layout = self._layout.select(list(chain(*self.factorization.steps[start:stop])))
        first, last = self._ends[0][start], self._ends[0][stop]
        self._states[0][first:last] = layout.features(blocks).T

    def _evaluate(self, start: int, stop: int) -> Tensor:
        """Computes the units that become available in these steps; the last one's parameters."""
        for layer, weight in enumerate(self._weights):
            rows = slice(self._ends[layer + 1][start], self._ends[layer + 1][stop])
            seen = self._ends[layer][stop if layer else stop - 1]
            before = torch.addmm(
                self._biases[layer][rows], weight[rows, :seen], self._states[layer][:seen]
            )
            self._states[layer + 1][rows] = self._activate(layer, rows, before)
        rows = slice(self._output_ends[stop - 1], self._output_ends[stop])
        params = self._output_bias[rows]
        for source, weight in self._outputs:
            seen = self._ends[source][stop if source else stop - 1]
            params = torch.addmm(params, weight[rows, :seen], self._states[source][:seen])
        return self._as_params(params, stop - 1, stop)

    def _activate(self, layer: int, rows: slice, before: Tensor) -> Tensor:
        after = self._network.activation(before)
        return self._states[layer][rows] + after if self._network._adds(layer) else after

    def _as_params(self, units: Tensor, start: int, stop: int) -> Tensor:
        """Outputs (units, rows) of some steps as their parameters."""
        if self._layout.flat:
            return units.T
        blocks = sum(len(step) for step in self.factorization.steps[start:stop])
        return units.unflatten(0, (blocks, -1)).permute(2, 0, 1)


class _MADEWindow(Window):
    """Steps from `start` to `stop`: what comes from before them is computed once."""

    @torch.no_grad()
    def __init__(self, decoder: _MADEDecoder, start: int, stop: int) -> None:
        self._decoder, self._start, self._stop = decoder, start, stop
        self._layout = decoder._layout.select(list(chain(*decoder.factorization.steps[start:stop])))
        states, ends = decoder._states, decoder._ends
        inside = [slice(end[start], end[stop]) for end in ends]
        outputs = slice(decoder._output_ends[start], decoder._output_ends[stop])

        def divide(
            base: Tensor, weight: Tensor, rows: slice, source: int
        ) -> tuple[Tensor, Tensor]:
            """What is known already is added to the base; the weights left are of the inside."""
            seen = inside[source].start
            known = torch.addmm(base, weight[rows, :seen], states[source][:seen])
            return known, weight[rows, inside[source]].contiguous()

        self._hidden = [
            divide(decoder._biases[layer][inside[layer + 1]], weight, inside[layer + 1], layer)
            for layer, weight in enumerate(decoder._weights)
        ]
        self._base, self._outputs = decoder._output_bias[outputs], []
        for source, weight in decoder._outputs:
            self._base, inner = divide(self._base, weight, outputs, source)
            self._outputs.append((source, inner))
        self._inside = inside
        self._states = [state[part] for state, part in zip(states, inside, strict=True)]

    @torch.no_grad()
    def __call__(self, guess: Tensor | None) -> Tensor:
        decoder, states = self._decoder, self._states
        if guess is not None:
            states[0].copy_(self._layout.features(guess).T)
        for layer, (base, weight) in enumerate(self._hidden):
            before = torch.addmm(base, weight, states[layer])
            states[layer + 1].copy_(decoder._activate(layer, self._inside[layer + 1], before))
        params = self._base
        for source, weight in self._outputs:
            params = torch.addmm(params, weight, states[source])
        return decoder._as_params(params, self._start, self._stop)


def _select(units: Tensor, rows: Tensor) -> Tensor:
    """Rows of a tensor (units, rows), or of one (units, 1) that serves all rows."""
    return units if units.shape[1] == 1 else units.index_select(1, rows)
