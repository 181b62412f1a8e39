"""Recurrent networks."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ardist.decoding import Decoder
from ardist.drawing_order import Permutation
from ardist.factorization import Factorization
from ardist.families import Family
from ardist.networks.sequence import (
    BlockEmbedding,
    BlockHead,
    SequenceNetwork,
    SequenceStep,
    encoding_at,
)
from ardist.networks.sizes import block_width
from ardist.rows import add_to_rows, repeat_rows, select_rows
from ardist.shapes import as_choice, as_positive, as_probability, is_transformed
from ardist.static import StaticStep, Tensors


class RNN(SequenceNetwork):
    """A recurrent network over the blocks in autoregressive order.

    It supports any order without ties. If the blocks have one family, it also supports
    factorizations of any other length. A vector context enters the initial state and every step.

    If the cell is "tanh" or "gru", the weights of the state start as orthogonal matrices, one for
    each gate (Saxe et al. 2014, "Exact solutions to the nonlinear dynamics of learning in deep
    linear neural networks"), and the biases as zero.

    Args:
        factorization: in an order in which each block depends on all earlier ones.
        cell: "tanh" (Elman 1990), "gru" (Cho et al. 2014) or "lstm" (Hochreiter & Schmidhuber
            1997).
        hidden_size: width of the state of each layer. By default it is twice the number of features
            of the widest block, rounded up to a power of two within 64 and 256.
        num_layers: number of layers.
        context_shape: `(C,)`, `(*grid_shape, C)` for a context of kind "blocks", `()` for none.
        context_kind: "vector", or "blocks", a vector for each block, which enters at its step.
        embedding_size: width of the embedding of a block; `hidden_size` by default.
        dropout: the probability of dropping an entry of a layer's input, or of the last layer's
            output, in training mode (Zaremba et al. 2014). It applies to `log_prob`, not to draws.

    Raises:
        ValueError: if the ordering has ties or is a graph's, or an argument is invalid.

    >>> import torch, ardist as ad
    >>> net = ad.networks.RNN(ad.Factorization((20,), ad.families.Categorical(5)), hidden_size=8)
    >>> net.condition().sample((3,)).shape
    torch.Size([3, 20])
    >>> longer = ad.Factorization((50,), ad.families.Categorical(5))
    >>> ad.AutoregressiveDistribution(net, factorization=longer).sample().shape
    torch.Size([50])
    """

    _sizes = ("hidden_size",)

    def __init__(
        self,
        factorization: Factorization,
        *,
        cell: str = "gru",
        hidden_size: int | None = None,
        num_layers: int = 1,
        context_shape: Sequence[int] = (),
        context_kind: str = "vector",
        embedding_size: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(factorization, context_shape=context_shape, context_kind=context_kind)
        self.cell = as_choice(cell, sorted(_CELLS), "cell")
        hidden_size = block_width(factorization) if hidden_size is None else hidden_size
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
        for layer in range(num_layers) if cell != "lstm" else ():  # an LSTM gains nothing by it
            _, of_state, *biases = self.weights(layer)
            for gate in of_state.detach().split(hidden_size):
                start = torch.empty_like(gate, dtype=torch.float32)  # QR takes no half precision
                gate.copy_(nn.init.orthogonal_(start))
            for bias in biases:
                nn.init.zeros_(bias)
        self.head = BlockHead(factorization, hidden_size)
        # If all blocks share a head and have finitely many values, there is no unit of measurement
        # to fit, and random outputs are a better start (benchmarks/starts.py).
        family, *others = factorization.layout.distinct
        self.starts_at_data = bool(others) or family.enumerate_support() is None
        # The hidden state of each layer, and for an LSTM the cell state.
        num_states = 2 if cell == "lstm" else 1
        self.initial = nn.Parameter(torch.zeros(num_states, num_layers, hidden_size))
        if self.context_shape:
            width = self.context_shape[-1]
            self.context_to_input = nn.Linear(width, size, bias=False)
            if context_kind == "vector":
                self.context_to_state = nn.Linear(width, self.initial.numel(), bias=False)

    def hidden_states(
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
        hidden = self._hidden(inputs, state)  # (M * N, T, hidden_size)
        hidden = F.dropout(hidden, self.dropout, self.training)
        return order.to_raster(hidden)

    def encode(
        self, context: Tensor | None, rows: int, order: Permutation
    ) -> tuple[Tensor | None, Tensor]:
        """The encoding that is added to the inputs, and the initial states.

        Args:
            context: (N, *context_shape), or None.
            rows: the number of rows, M * N.
            order: the order of drawing.

        Returns:
            the encoding (N, 1 or T, size) in the order of drawing, or None, and the states
            (states, layers, rows, hidden_size).
        """
        states = self.initial.unsqueeze(2)  # (states, layers, 1, hidden_size)
        if context is None:
            return None, states.expand(-1, -1, rows, -1)
        encoding = self.context_to_input(self.context_in_order(context, order))
        if self.context_kind == "blocks":
            return encoding, states.expand(-1, -1, rows, -1)
        shift = self.context_to_state(context).view(context.shape[0], *self.initial.shape)
        states = states + shift.permute(1, 2, 0, 3)  # (states, layers, N, hidden_size)
        return encoding.unsqueeze(1), repeat_rows(states, rows, 2)

    def _hidden(self, inputs: Tensor, states: Tensor) -> Tensor:
        """The last layer's hidden states, (rows, T, hidden_size).

        Args:
            inputs: (rows, T, size).
            states: the initial states, (states, layers, rows, hidden_size).
        """
        if not is_transformed():
            # On some processors oneDNN has no LSTM in the types of autocast.
            is_half = inputs.device.type == "cpu" and torch.is_autocast_enabled("cpu")
            with torch.autocast("cpu", enabled=False) if is_half else nullcontext():
                inputs, states = (part.to(self.start.dtype) for part in (inputs, states))
                return self.rnn(inputs, self._as_torch_state(states))[0]
        # torch's modules do not support the transforms of `torch.func`.
        step = _CELLS[self.cell].step
        for layer, initial in enumerate(states.unbind(1)):
            if layer > 0:
                inputs = F.dropout(inputs, self.dropout, self.training)
            state, hidden = initial.unbind(), list[Tensor]()
            for x in inputs.unbind(1):
                state = step(x, state, *self.weights(layer))
                hidden.append(state[0])
            inputs = torch.stack(hidden, 1)
        return inputs

    def weights(self, layer: int) -> Iterator[Tensor]:
        """The weights of a layer for its input and its state, and then their biases."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return (getattr(self.rnn, f"{name}_l{layer}") for name in names)

    def _as_torch_state(self, states: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Initial states in the form that torch's modules take."""
        parts = tuple(part.contiguous() for part in states.unbind())
        return parts if self.cell == "lstm" else parts[0]

    def make_decoder(
        self,
        factorization: Factorization,
        batch_size: int,
        context: Tensor | None,
        ranks: Tensor | None,
    ) -> Decoder:
        """A decoder that runs one cell of each layer per step."""
        return _RNNDecoder(self, factorization, batch_size, context)

    def make_static_step(self, factorization: Factorization) -> StaticStep:
        """A step that runs one cell of each layer."""
        return _RNNStep(self, factorization)

    def _differentiable_decoder(
        self, factorization: Factorization, batch_size: int, context: Tensor | None
    ) -> Decoder:
        return _DifferentiableRNNDecoder(self, factorization, batch_size, context)


class _Cell(NamedTuple):
    """A cell as one linear map of its input and state, followed by elementwise operations.

    Attributes:
        module: torch's module, for the parallel pass.
        step: from an input, states and torch's weights to the next states, for draws with gradients
            and under transforms of `torch.func`.
        chunks: the outputs of the linear map, in chunks of hidden_size. For each chunk, the chunks
            of torch's weights for the input and for the state; None stands for zeros.
        parts: from the sums (rows, len(chunks) * hidden_size) to their views for `advance`.
        advance: updates the states in place, given (parts, hidden state, cell state).
    """

    module: Callable[..., nn.RNNBase]
    step: Callable[..., tuple[Tensor, ...]]
    chunks: tuple[tuple[int | None, int | None], ...]
    parts: Callable[[Tensor], tuple[Tensor, ...]]
    advance: Callable[[tuple[Tensor, ...], Tensor, Tensor], object]


# Names as in torch's formulas: w_ih and b_ih are for the input, w_hh and b_hh for the state.


def _step_tanh(
    x: Tensor, states: tuple[Tensor, ...], w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor
) -> tuple[Tensor, ...]:
    return (torch.tanh(F.linear(x, w_ih, b_ih) + F.linear(states[0], w_hh, b_hh)),)


def _step_gru(
    x: Tensor, states: tuple[Tensor, ...], w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor
) -> tuple[Tensor, ...]:
    reset_i, update_i, new_i = F.linear(x, w_ih, b_ih).chunk(3, -1)
    reset_h, update_h, new_h = F.linear(states[0], w_hh, b_hh).chunk(3, -1)
    candidate = torch.tanh(new_i + torch.sigmoid(reset_i + reset_h) * new_h)
    return (torch.lerp(candidate, states[0], torch.sigmoid(update_i + update_h)),)


def _step_lstm(
    x: Tensor, states: tuple[Tensor, ...], w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor
) -> tuple[Tensor, ...]:
    sums = F.linear(x, w_ih, b_ih) + F.linear(states[0], w_hh, b_hh)
    input_gate, forget_gate, candidate, output_gate = sums.chunk(4, -1)
    added = torch.sigmoid(input_gate) * torch.tanh(candidate)
    cell = torch.sigmoid(forget_gate) * states[1] + added
    return torch.sigmoid(output_gate) * torch.tanh(cell), cell


def _advance_gru(parts: tuple[Tensor, ...], hidden: Tensor, _: Tensor) -> None:
    gates, reset, update, new_i, new_h = parts
    gates.sigmoid_()
    candidate = new_i.addcmul_(reset, new_h).tanh_()
    torch.lerp(candidate, hidden, update, out=hidden)


def _advance_lstm(parts: tuple[Tensor, ...], hidden: Tensor, cell: Tensor) -> None:
    gates, input_gate, forget_gate, output_gate, candidate = parts
    gates.sigmoid_()
    cell.mul_(forget_gate).addcmul_(input_gate, candidate.tanh_())
    torch.mul(output_gate, cell.tanh(), out=hidden)


_CELLS = {
    "tanh": _Cell(
        nn.RNN,
        _step_tanh,
        chunks=((0, 0),),
        parts=lambda sums: (sums,),
        advance=lambda parts, hidden, _: torch.tanh(parts[0], out=hidden),
    ),
    # The reset gate multiplies the part of the candidate that comes from the state, so the two
    # parts of the candidate are separate chunks.
    "gru": _Cell(
        nn.GRU,
        _step_gru,
        chunks=((0, 0), (1, 1), (2, None), (None, 2)),
        parts=lambda sums: (sums.chunk(2, -1)[0], *sums.chunk(4, -1)),
        advance=_advance_gru,
    ),
    # torch's order is input, forget, cell, output. Here the three gates are contiguous, so that one
    # sigmoid serves all.
    "lstm": _Cell(
        nn.LSTM,
        _step_lstm,
        chunks=((0, 0), (1, 1), (3, 3), (2, 2)),
        parts=lambda sums: (sums[:, : 3 * sums.shape[1] // 4], *sums.chunk(4, -1)),
        advance=_advance_lstm,
    ),
}


class _RNNDecoder(Decoder):
    """Runs one cell of each layer per step.

    The hidden states of all layers are one tensor (rows, layers * size), so that the input and the
    state of a layer are one contiguous view.
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
        # The transposed map of each layer's (input, state). For the first layer it maps the state
        # alone, and `_input_weight` (size, sums) maps the input.
        size = network.start.shape[0]
        first, self._bias = self._joint_map(0)
        self._input_weight = first[:size]
        self._maps, self._biases = [first[size:]], [self._bias]
        for layer in range(1, network.num_layers):
            weight, bias = self._joint_map(layer)
            self._maps.append(weight)
            self._biases.append(bias)
        self._start = torch.addmv(self._bias, self._input_weight.T, network.start)
        self._head = network.head.map_of(0)
        self._embeddings: dict[int, tuple[Family, Tensor, Tensor]] = {}
        self._context_sums = None
        if self._encoding is not None and self._encoding.shape[1] == 1:
            self._context_sums = self._project_context(self._encoding, 0)

    def _joint_map(self, layer: int) -> tuple[Tensor, Tensor]:
        """The weight (input + state, sums) and bias (sums,) of a layer, in the cell's chunks."""
        w_ih, w_hh, b_ih, b_hh = (
            part.split(self._network.hidden_size) for part in self._network.weights(layer)
        )
        chunks, size = self._cell.chunks, self._network.hidden_size
        num_inputs = w_ih[0].shape[1]
        weight = w_ih[0].new_zeros(num_inputs + size, len(chunks) * size)
        bias = w_ih[0].new_zeros(len(chunks) * size)
        for number, (of_input, of_state) in enumerate(chunks):
            columns = slice(number * size, (number + 1) * size)
            if of_input is not None:
                weight[:num_inputs, columns] = w_ih[of_input].T
                bias[columns] += b_ih[of_input]
            if of_state is not None:
                weight[num_inputs:, columns] = w_hh[of_state].T
                bias[columns] += b_hh[of_state]
        return weight, bias

    def _set_states(self, states: Tensor) -> None:
        """Sets the states, (states, layers, rows, size), and makes views and buffers."""
        size = self._network.hidden_size
        # A copy, since steps write in place and the states may be a view of the parameter.
        self._all_hidden = states[0].permute(1, 0, 2).flatten(1).clone()
        self._inputs = [  # the input and the state of each layer; the first has its state alone
            self._all_hidden[:, size * max(layer - 1, 0) : size * (layer + 1)]
            for layer in range(self._network.num_layers)
        ]
        self._hidden = list(self._all_hidden.split(size, 1))  # of each layer, (rows, size)
        # Only the LSTM has cell states. The other cells leave these copies unchanged.
        self._cells = [state.clone() for state in states[-1]]
        num_rows, num_chunks = self._all_hidden.shape[0], len(self._cell.chunks)
        self._sums = self._all_hidden.new_empty(num_rows, num_chunks * size)
        self._parts = self._cell.parts(self._sums)

    def _embedding_of(self, block: int) -> tuple[Family, Tensor, Tensor]:
        """The map from a drawn block straight to the first layer's sums."""
        key = block if self.factorization.layout.flat else 0
        if key not in self._embeddings:
            family, weight, bias = self._network.embedding.map_of(block)
            # Its transpose is contiguous, since a categorical block gathers a row of it.
            folded = (weight.T @ self._input_weight).T  # (sums, num_features)
            folded_bias = torch.addmv(self._bias, self._input_weight.T, bias)
            self._embeddings[key] = (family, folded, folded_bias)
        return self._embeddings[key]

    def _project_context(self, encoding: Tensor, step: int) -> Tensor:
        """The contribution of the context to the first layer's sums at a step: (rows, sums)."""
        return repeat_rows(encoding[:, step] @ self._input_weight, self.batch_size)

    @torch.no_grad()
    def step(self, previous: Tensor | None) -> Tensor:
        if previous is None:
            sums = self._start.expand(self.batch_size, -1)
        else:
            family, weight, bias = self._embedding_of(self._blocks[self.num_taken])
            sums = family.project(previous.reshape(-1, *family.event_shape), weight, bias)
            self.num_taken += 1
        if self._encoding is not None:
            context_sums = self._context_sums
            if context_sums is None:
                context_sums = self._project_context(self._encoding, self.num_taken)
            sums = sums + context_sums
        for layer, weight in enumerate(self._maps):
            bias = sums if layer == 0 else self._biases[layer]
            torch.addmm(bias, self._inputs[layer], weight, out=self._sums)
            self._cell.advance(self._parts, self._hidden[layer], self._cells[layer])
        return self._params(self._hidden[-1])

    @torch.no_grad()
    def prefill(self, blocks: Tensor) -> Tensor:
        self.num_taken = self._num_steps_of(blocks)
        network = self._network
        vectors = network.embedding(blocks, self._blocks[: self.num_taken])
        inputs = torch.cat((network.start.expand(vectors.shape[0], 1, -1), vectors), 1)
        if self._encoding is not None:
            inputs = add_to_rows(inputs, self._encoding[:, : inputs.shape[1]])
        hidden = torch.stack(self._hidden)  # (layers, rows, size)
        state = (hidden, torch.stack(self._cells)) if network.cell == "lstm" else hidden
        with network.eval_mode():
            output, final = network.rnn(inputs, state)
        states = torch.stack(final) if isinstance(final, tuple) else final.unsqueeze(0)
        self._set_states(states)
        return self._params(output[:, -1])

    def select(self, rows: Tensor) -> None:
        states = torch.stack((torch.stack(self._hidden), torch.stack(self._cells)))
        self._set_states(states.index_select(2, rows))
        self._encoding = select_rows(self._encoding, rows)
        self.batch_size = rows.shape[0]
        if self._context_sums is not None:
            self._context_sums = self._context_sums.index_select(0, rows)

    def _params(self, hidden: Tensor) -> Tensor:
        """The next step's parameters, from the last layer's hidden states (rows, size)."""
        if not self.factorization.layout.flat:
            return F.linear(hidden, *self._head).unsqueeze(1)
        return F.linear(hidden, *self._network.head.map_of(self._blocks[self.num_taken]))


class _DifferentiableRNNDecoder(Decoder):
    """Runs one cell of each layer per step and keeps the graph, for draws with gradients."""

    def __init__(
        self, network: RNN, factorization: Factorization, batch_size: int, context: Tensor | None
    ) -> None:
        super().__init__(factorization, batch_size)
        self._network, self._step = network, _CELLS[network.cell].step
        self._blocks = factorization.drawing_order.blocks
        order = network.permutation(factorization.ranks.flatten(), network.start.device)
        self._encoding, states = network.encode(context, batch_size, order)
        self._states = [tuple(layer.unbind(0)) for layer in states.unbind(1)]  # by layer

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
        self._encoding = select_rows(self._encoding, rows)


class _RNNStep(SequenceStep):
    """Runs one cell of each layer. The state is (rows, states, layers, hidden_size)."""

    def __init__(self, network: RNN, factorization: Factorization) -> None:
        super().__init__(network, factorization)
        # The compiler does not trace torch's own modules with these weights.
        self.weights = nn.ModuleList(
            nn.ParameterList(network.weights(layer)) for layer in range(network.num_layers)
        )

    def start(self, blocks: Tensor, context: Tensor | None) -> tuple[Tensors, Tensors]:
        order = Permutation(self.order, self.ranks)
        encoding, states = self.network.encode(context, blocks.shape[0], order)
        encodings = () if encoding is None else (encoding,)  # (rows, 1 or T, size)
        return encodings, (states.permute(2, 0, 1, 3).clone(),)

    def advance(
        self, blocks: Tensor, position: Tensor, encodings: Tensors, state: Tensors
    ) -> Tensor:
        network, (states,) = self.network, state
        x = self.read(blocks, position, network.start)
        for encoding in encodings:
            x = x + encoding_at(encoding, position)
        for layer, weights in enumerate(cast(Iterable[Iterable[Tensor]], self.weights)):
            before = states[:, :, layer].unbind(1)
            after = _CELLS[network.cell].step(x, before, *weights)
            states[:, :, layer] = torch.stack(after, 1)
            x = after[0]
        return self.params_of(x)
