"""Recurrent networks."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ardist.decoding import Decoder
from ardist.drawing_order import Permutation
from ardist.factorization import Factorization
from ardist.families import Family
from ardist.networks.sequence import BlockEmbedding, BlockHead, SequenceNetwork
from ardist.rows import add_to_rows, repeat_rows, select_rows
from ardist.shapes import as_choice, as_positive, as_probability, is_transformed


class RNN(SequenceNetwork):
    """A recurrent network over the blocks in the order of drawing.

    It accepts a factorization of any length whose blocks have one family, in any order without
    ties. A context goes into the initial state and into every step.

    Args:
        factorization: in an order in which each block depends on all that come before it.
        cell: "tanh" (Elman 1990), "gru" (Cho et al. 2014) or "lstm" (Hochreiter & Schmidhuber
            1997).
        hidden_size: width of the state of each layer.
        num_layers: how many layers.
        context_shape: `(C,)`, `(*grid_shape, C)` for a context of kind "blocks", `()` for none.
        context_kind: "vector", or "blocks": a vector for each block, which goes into its step.
        embedding_size: in how many numbers a block is read; hidden_size by default.
        dropout: the probability with which an entry of a layer's input, or of the last one's
            output, is dropped in training mode (Zaremba et al. 2014): by `log_prob`, not by draws.

    Raises:
        ValueError: where the ordering has ties or is a graph's, or an argument is off.

    >>> import torch, ardist as ad
    >>> net = ad.networks.RNN(ad.Factorization((20,), ad.families.Categorical(5)), hidden_size=8)
    >>> net.condition().sample((3,)).shape
    torch.Size([3, 20])
    >>> longer = ad.Factorization((50,), ad.families.Categorical(5))
    >>> ad.AutoregressiveDistribution(net, factorization=longer).sample().shape
    torch.Size([50])
    """

    def __init__(
        self,
        factorization: Factorization,
        *,
        cell: str = "gru",
        hidden_size: int,
        num_layers: int = 1,
        context_shape: Sequence[int] = (),
        context_kind: str = "vector",
        embedding_size: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(factorization, context_shape=context_shape, context_kind=context_kind)
        self.cell = as_choice(cell, sorted(_CELLS), "cell")
        self.hidden_size = hidden_size = as_positive(hidden_size, "hidden_size")
        self.num_layers = num_layers = as_positive(num_layers, "num_layers")
        size = hidden_size if embedding_size is None else embedding_size
        size = as_positive(size, "embedding_size")
        self.embedding = BlockEmbedding(factorization, size)
        self.start = nn.Parameter(torch.randn(size) * 0.1)
        self.dropout = as_probability(dropout, "dropout")
        self.rnn = _CELLS[cell].module(
            size,
            hidden_size,
            num_layers,
            batch_first=True,
            dropout=dropout if num_layers > 1 else 0.0,
        )
        self.head = BlockHead(factorization, hidden_size)
        # Hidden state, and for an LSTM its cell state, of each layer.
        self._num_states = 2 if cell == "lstm" else 1
        self.initial = nn.Parameter(torch.zeros(self._num_states, num_layers, hidden_size))
        if self.context_shape:
            width = self.context_shape[-1]
            self.context_to_input = nn.Linear(width, size, bias=False)
            if context_kind == "vector":
                self.context_to_state = nn.Linear(width, self.initial.numel(), bias=False)

    def forward(
        self, blocks: Tensor, context: Tensor | None = None, ranks: Tensor | None = None
    ) -> Tensor:
        order = self.permutation(ranks, blocks.device)
        vectors = self.embedding(blocks)  # (M * N, T, size)
        start = self.start.expand(vectors.shape[0], 1, -1)
        inputs = torch.cat((start, order.to_drawing(vectors)[:, :-1]), 1)
        encoding, state = self.encode(context, blocks.shape[0], order)
        if encoding is not None:
            inputs = add_to_rows(inputs, encoding)
        inputs = F.dropout(inputs, self.dropout, self.training)
        hidden = self._hidden(inputs, state)
        hidden = F.dropout(hidden, self.dropout, self.training)
        return self.head(order.to_raster(hidden))

    def encode(
        self, context: Tensor | None, rows: int, order: Permutation
    ) -> tuple[Tensor | None, Tensor]:
        """What the context adds to the inputs, (N, 1 or T, size), and the initial states.

        Inputs are in the order of drawing; states are (states, layers, rows, hidden_size).
        """
        states = self.initial.unsqueeze(2)
        if context is None:
            return None, states.expand(-1, -1, rows, -1)
        encoding = self.context_to_input(context)
        if self.context_kind == "blocks":
            encoding = order.to_drawing(encoding.unsqueeze(1).flatten(1, -2))
            return encoding, states.expand(-1, -1, rows, -1)
        own = self.context_to_state(context).view(context.shape[0], *self.initial.shape)
        states = states + own.permute(1, 2, 0, 3)
        return encoding.unsqueeze(1), repeat_rows(states, rows, 2)

    def _hidden(self, inputs: Tensor, states: Tensor) -> Tensor:
        """The last layer's hidden states, (rows, T, hidden_size), from the initial states."""
        if not is_transformed():
            return self.rnn(inputs, self._as_state(states))[0]
        step = _CELLS[self.cell].step
        for layer, state in enumerate(states.unbind(1)):
            if layer > 0:
                inputs = F.dropout(inputs, self.dropout, self.training)
            own, each = state.unbind(), list[Tensor]()
            for x in inputs.unbind(1):
                own = step(x, own, *self.weights(layer))
                each.append(own[0])
            inputs = torch.stack(each, 1)
        return inputs

    def weights(self, layer: int) -> Iterator[Tensor]:
        """Of a layer: from its input, from its state, and the bias of each."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return (getattr(self.rnn, f"{name}_l{layer}") for name in names)

    def _as_state(self, states: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Initial states as torch's modules take them."""
        parts = tuple(part.contiguous() for part in states.unbind())
        return parts if self.cell == "lstm" else parts[0]

    def make_decoder(
        self,
        factorization: Factorization,
        batch_size: int,
        context: Tensor | None,
        ranks: Tensor | None,
    ) -> Decoder:
        """A decoder that costs one cell a step."""
        return _RNNDecoder(self, factorization, batch_size, context)

    def _differentiable_decoder(
        self, factorization: Factorization, batch_size: int, context: Tensor | None
    ) -> Decoder:
        return _RNNSteps(self, factorization, batch_size, context)


class _Cell(NamedTuple):
    """A cell as one linear map of its input and state, and what is done with the sums.

    Attributes:
        module: torch's own, for the parallel pass.
        step: one step, from its input, states and weights to its states, for draws with gradients
            and under transforms of `torch.func`.
        rows: the rows of that map in units of hidden_size, each taken from torch's weights of the
            input and of the state; None is zero.
        parts: views of the sums (rows, len(rows) * hidden_size), as `advance` takes them.
        advance: of (parts, hidden state, second state), in place.
    """

    module: Callable[..., nn.RNNBase]
    step: Callable[..., tuple[Tensor, ...]]
    rows: tuple[tuple[int | None, int | None], ...]
    parts: Callable[[Tensor], tuple[Tensor, ...]]
    advance: Callable[[tuple[Tensor, ...], Tensor, Tensor], object]


def _step_tanh(
    x: Tensor, states: tuple[Tensor, ...], inner: Tensor, outer: Tensor, bias: Tensor, other: Tensor
) -> tuple[Tensor, ...]:
    return (torch.tanh(F.linear(x, inner, bias) + F.linear(states[0], outer, other)),)


def _step_gru(
    x: Tensor, states: tuple[Tensor, ...], inner: Tensor, outer: Tensor, bias: Tensor, other: Tensor
) -> tuple[Tensor, ...]:
    reset, update, from_input = F.linear(x, inner, bias).chunk(3, -1)
    reset_too, update_too, from_state = F.linear(states[0], outer, other).chunk(3, -1)
    candidate = torch.tanh(from_input + torch.sigmoid(reset + reset_too) * from_state)
    return (torch.lerp(candidate, states[0], torch.sigmoid(update + update_too)),)


def _step_lstm(
    x: Tensor, states: tuple[Tensor, ...], inner: Tensor, outer: Tensor, bias: Tensor, other: Tensor
) -> tuple[Tensor, ...]:
    sums = F.linear(x, inner, bias) + F.linear(states[0], outer, other)
    take, keep, candidate, show = sums.chunk(4, -1)
    cell = torch.sigmoid(keep) * states[1] + torch.sigmoid(take) * torch.tanh(candidate)
    return torch.sigmoid(show) * torch.tanh(cell), cell


def _advance_gru(parts: tuple[Tensor, ...], hidden: Tensor, _: Tensor) -> None:
    gates, reset, update, from_input, from_state = parts
    gates.sigmoid_()
    candidate = from_input.addcmul_(reset, from_state).tanh_()
    torch.lerp(candidate, hidden, update, out=hidden)


def _advance_lstm(parts: tuple[Tensor, ...], hidden: Tensor, cell: Tensor) -> None:
    gates, take, keep, show, candidate = parts
    gates.sigmoid_()
    cell.mul_(keep).addcmul_(take, candidate.tanh_())
    torch.mul(show, cell.tanh(), out=hidden)


_CELLS = {
    "tanh": _Cell(
        nn.RNN,
        _step_tanh,
        rows=((0, 0),),
        parts=lambda sums: (sums,),
        advance=lambda parts, hidden, _: torch.tanh(parts[0], out=hidden),
    ),
    # The reset gate keeps the two parts of the candidate apart.
    "gru": _Cell(
        nn.GRU,
        _step_gru,
        rows=((0, 0), (1, 1), (2, None), (None, 2)),
        parts=lambda sums: (sums.chunk(2, -1)[0], *sums.chunk(4, -1)),
        advance=_advance_gru,
    ),
    # torch's order is input, forget, cell, output; here the three sigmoids are side by side.
    "lstm": _Cell(
        nn.LSTM,
        _step_lstm,
        rows=((0, 0), (1, 1), (3, 3), (2, 2)),
        parts=lambda sums: (sums[:, : 3 * sums.shape[1] // 4], *sums.chunk(4, -1)),
        advance=_advance_lstm,
    ),
}


class _RNNDecoder(Decoder):
    """One cell a step. The hidden states of all layers lie side by side, (rows, layers * size),
    so that a layer's input and own state are one matrix.
    """

    def __init__(
        self, network: RNN, factorization: Factorization, batch_size: int, context: Tensor | None
    ) -> None:
        super().__init__(factorization, batch_size)
        self._network, self._cell = network, _CELLS[network.cell]
        self._blocks = factorization.drawing_order.blocks
        order = network.permutation(factorization.ranks.flatten(), network.start.device)
        self._encoding, states = network.encode(context, batch_size, order)
        self._set_states(states)
        # Each layer's map of (its input, its state), transposed; the first one's input is
        # projected apart.
        size = network.start.shape[0]
        first, self._bias = self._joint_map(0)
        self._inner = first[:size]
        self._maps, self._biases = [first[size:]], [self._bias]
        for layer in range(1, network.num_layers):
            weight, bias = self._joint_map(layer)
            self._maps.append(weight)
            self._biases.append(bias)
        self._start = torch.addmv(self._bias, self._inner.T, network.start)
        self._head = network.head.map_of(0)
        self._readers: dict[int, tuple[Family, Tensor, Tensor]] = {}
        self._from_context = None
        if self._encoding is not None and self._encoding.shape[1] == 1:
            self._from_context = self._project_context(self._encoding, 0)

    def _joint_map(self, layer: int) -> tuple[Tensor, Tensor]:
        """(input + state, sums) and (sums,): a layer's weights and bias as its cell has them."""
        inner, outer, *biases = (
            part.split(self._network.hidden_size) for part in self._network.weights(layer)
        )
        rows, size = self._cell.rows, self._network.hidden_size
        split = inner[0].shape[1]
        weight = inner[0].new_zeros(split + size, len(rows) * size)
        bias = inner[0].new_zeros(len(rows) * size)
        for number, (of_input, of_state) in enumerate(rows):
            columns = slice(number * size, (number + 1) * size)
            if of_input is not None:
                weight[:split, columns] = inner[of_input].T
                bias[columns] += biases[0][of_input]
            if of_state is not None:
                weight[split:, columns] = outer[of_state].T
                bias[columns] += biases[1][of_state]
        return weight, bias

    def _set_states(self, states: Tensor) -> None:
        """From (states, layers, rows, size)."""
        size = self._network.hidden_size
        # A copy: steps write in place, and the states may be a view of the parameter.
        self._hidden = states[0].permute(1, 0, 2).reshape(states.shape[2], -1).clone()
        self._views = [
            self._hidden[:, size * max(layer - 1, 0) : size * (layer + 1)]
            for layer in range(self._network.num_layers)
        ]
        self._own = list(self._hidden.split(size, 1))
        # Cells but the LSTM's have no second state, and do not touch what stands for it.
        self._second = [state.clone() for state in states[-1]]
        self._sums = self._hidden.new_empty(self._hidden.shape[0], len(self._cell.rows) * size)
        self._parts = self._cell.parts(self._sums)

    def _reader(self, block: int) -> tuple[Family, Tensor, Tensor]:
        """How a drawn block is read straight into the first layer's sums."""
        key = block if self.factorization.layout.flat else 0
        if key not in self._readers:
            family, weight, bias = self._network.embedding.map_of(block)
            # Its transpose, whose rows a categorical block picks, is contiguous.
            folded = (weight.T @ self._inner).T
            self._readers[key] = (family, folded, torch.addmv(self._bias, self._inner.T, bias))
        return self._readers[key]

    def _project_context(self, encoding: Tensor, step: int) -> Tensor:
        """What the context adds to the first layer's sums: (rows, sums)."""
        return repeat_rows(encoding[:, step] @ self._inner, self.batch_size)

    @torch.no_grad()
    def step(self, previous: Tensor | None) -> Tensor:
        if previous is None:
            sums = self._start.expand(self.batch_size, -1)
        else:
            family, weight, bias = self._reader(self._blocks[self.num_taken])
            sums = family.project(previous.reshape(-1, *family.event_shape), weight, bias)
            self.num_taken += 1
        if self._encoding is not None:
            shared = self._from_context
            if shared is None:
                shared = self._project_context(self._encoding, self.num_taken)
            sums = sums + shared
        for layer, weight in enumerate(self._maps):
            base = sums if layer == 0 else self._biases[layer]
            torch.addmm(base, self._views[layer], weight, out=self._sums)
            self._cell.advance(self._parts, self._own[layer], self._second[layer])
        return self._params(self._own[-1])

    @torch.no_grad()
    def prefill(self, blocks: Tensor) -> Tensor:
        self.num_taken = self._num_steps_of(blocks)
        network = self._network
        vectors = network.embedding(blocks, self._blocks[: self.num_taken])
        inputs = torch.cat((network.start.expand(vectors.shape[0], 1, -1), vectors), 1)
        if self._encoding is not None:
            inputs = add_to_rows(inputs, self._encoding[:, : inputs.shape[1]])
        hidden = torch.stack(self._own)
        given = (hidden, torch.stack(self._second)) if network.cell == "lstm" else hidden
        with network.eval_mode():
            output, final = network.rnn(inputs, given)
        states = torch.stack(final) if isinstance(final, tuple) else final.unsqueeze(0)
        self._set_states(states)
        return self._params(output[:, -1])

    def select(self, rows: Tensor) -> None:
        states = torch.stack((torch.stack(self._own), torch.stack(self._second)))
        self._set_states(states.index_select(2, rows))
        if self._encoding is not None:
            self._encoding = select_rows(self._encoding, rows)
        self.batch_size = rows.shape[0]
        if self._from_context is not None:
            self._from_context = self._from_context.index_select(0, rows)

    def _params(self, hidden: Tensor) -> Tensor:
        if not self.factorization.layout.flat:
            return F.linear(hidden, *self._head).unsqueeze(1)
        return F.linear(hidden, *self._network.head.map_of(self._blocks[self.num_taken]))


class _RNNSteps(Decoder):
    """One cell a step, with the graph of all steps: for draws with gradients."""

    def __init__(
        self, network: RNN, factorization: Factorization, batch_size: int, context: Tensor | None
    ) -> None:
        super().__init__(factorization, batch_size)
        self._network, self._step = network, _CELLS[network.cell].step
        self._blocks = factorization.drawing_order.blocks
        order = network.permutation(factorization.ranks.flatten(), network.start.device)
        self._encoding, states = network.encode(context, batch_size, order)
        self._states = [tuple(layer.unbind(0)) for layer in states.unbind(1)]

    def step(self, previous: Tensor | None) -> Tensor:
        network = self._network
        if previous is None:
            x = network.start.expand(self.batch_size, -1)
        else:
            x = network.embedding(previous, [self._blocks[self.num_taken]]).squeeze(1)
            self.num_taken += 1
        if self._encoding is not None:
            steps = self._encoding.shape[1]
            x = add_to_rows(x, self._encoding[:, min(self.num_taken, steps - 1)])
        for layer, states in enumerate(self._states):
            self._states[layer] = self._step(x, states, *network.weights(layer))
            x = self._states[layer][0]
        return network.head(x.unsqueeze(1), [self._blocks[self.num_taken]])

    def select(self, rows: Tensor) -> None:
        self.batch_size = rows.shape[0]
        self._states = [
            tuple(state.index_select(0, rows) for state in states) for states in self._states
        ]
        if self._encoding is not None:
            self._encoding = select_rows(self._encoding, rows)
