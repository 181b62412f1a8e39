"""Dilated causal convolutions over a sequence."""

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ardist.decoding import Decoder
from ardist.drawing_order import Permutation
from ardist.factorization import Factorization
from ardist.networks.fingerprint import entry
from ardist.networks.sequence import (
    BlockEmbedding,
    BlockHead,
    SequenceNetwork,
    SequenceStep,
    encoding_at,
)
from ardist.networks.sizes import block_width
from ardist.recomputation import recomputed
from ardist.rows import select_rows
from ardist.shapes import as_flag, as_integer, as_positive, as_probability
from ardist.static import StaticStep, Tensors


class WaveNet(SequenceNetwork):
    """Gated dilated convolutions over the blocks in autoregressive order.

    Each layer has a residual connection to the next layer and a skip connection to the sum that
    gives the parameters (van den Oord et al. 2016, "WaveNet: a generative model for raw audio").
    The network supports any order without ties. If the blocks have one family, it also supports
    factorizations of any other length.

    A conditional depends on the last `receptive_field` blocks before its own. Dependencies further
    back are ignored.

    Args:
        factorization: in an order in which each block depends on all earlier ones.
        channels: width of each layer. By default it is twice the number of features of the widest
            block, rounded up to a power of two within 64 and 256.
        depth: number of layers. By default there are as many as the receptive field needs to cover
            all blocks, within 2 and 30.
        kernel_size: the number of inputs, `dilation` apart, of each output of a layer; at least 2.
        max_dilation: the dilations of the layers are 1, 2, 4, ... up to this, and then 1 again.
        skip_channels: width of the sum over the layers and of the map after it; `channels` by
            default.
        dropout: the probability of dropping an entry of a layer's output in training mode. It
            applies to `log_prob`, not to draws.
        context_shape: `(C,)`, `(*grid_shape, C)` for a context of kind "blocks", `()` for none.
        context_kind: "vector", or "blocks", a vector for each block, which enters at its step. The
            context enters the gated activations of all layers.
        checkpoint_layers: whether the backward pass of `log_prob` computes each layer again instead
            of keeping its activations.

    Raises:
        ValueError: if the ordering has ties or is a graph's, or an argument is invalid.

    >>> import torch, ardist as ad
    >>> fac = ad.Factorization((100,), ad.families.Categorical(5))
    >>> net = ad.networks.WaveNet(fac, channels=8, depth=5)
    >>> net.condition().sample((3,)).shape
    torch.Size([3, 100])
    >>> net.receptive_field  # 1 + 1 + 2 + 4 + 8 + 16
    32
    """

    _sizes = ("channels", "depth")

    def __init__(
        self,
        factorization: Factorization,
        *,
        channels: int | None = None,
        depth: int | None = None,
        kernel_size: int = 2,
        max_dilation: int = 512,
        skip_channels: int | None = None,
        dropout: float = 0.0,
        context_shape: Sequence[int] = (),
        context_kind: str = "vector",
        checkpoint_layers: bool = False,
    ) -> None:
        super().__init__(factorization, context_shape=context_shape, context_kind=context_kind)
        channels = block_width(factorization) if channels is None else channels
        self.channels = channels = as_positive(channels, "channels")
        kernel_size = as_integer(kernel_size, "kernel_size", 2)
        cycle = as_positive(max_dilation, "max_dilation").bit_length()
        if depth is None:
            reach = accumulate((kernel_size - 1) * 2 ** (layer % cycle) for layer in range(30))
            depth = 1 + sum(reached + 1 < factorization.num_blocks for reached in reach)
            depth = min(max(depth, 2), 30)
        self.depth = depth = as_positive(depth, "depth")
        width = as_positive(channels if skip_channels is None else skip_channels, "skip_channels")
        context_size = self.context_shape[-1] if self.context_shape else 0
        self.embedding = BlockEmbedding(factorization, channels)
        self.start = nn.Parameter(torch.randn(channels) * 0.1)
        self.layers = nn.ModuleList(
            _Layer(channels, kernel_size, 2 ** (layer % cycle), context_size)
            for layer in range(depth)
        )
        # The last layer has no residual connection, since no layer reads it.
        bound = channels**-0.5
        residual = torch.empty(depth - 1, channels, channels).uniform_(-bound, bound)
        self.residual = nn.Parameter(residual)
        self.skip = nn.Linear(depth * channels, width)  # from all layers, concatenated
        self.mix = nn.Linear(width, width)
        self.head = BlockHead(factorization, width)
        self.dropout = as_probability(dropout, "dropout")
        self.checkpoint_layers = as_flag(checkpoint_layers, "checkpoint_layers")

    @property
    def receptive_field(self) -> int:
        """The number of last blocks on which a conditional depends."""
        return 1 + sum(layer.reach for layer in self.gated_layers)

    @property
    def gated_layers(self) -> "list[_Layer]":
        """The layers, typed."""
        return list(self.layers)  # type: ignore[arg-type]

    def hidden_states(
        self, blocks: Tensor, context: Tensor | None = None, ranks: Tensor | None = None
    ) -> Tensor:
        order = self.permutation(ranks, blocks.device)
        vectors = self.embedding(blocks).transpose(0, 1)  # (T, M * N, channels)
        drawn = order.to_drawing(vectors, 0)
        hidden = order.to_raster(self.run(drawn[:-1], self.encode(context, order)), 0)
        return hidden.transpose(0, 1)  # (M * N, T, width)

    def encode(self, context: Tensor | None, order: Permutation) -> Tensor | None:
        """The context in the order of drawing: (1 or T, N, C)."""
        if context is None or self.context_kind == "vector":
            return None if context is None else context.unsqueeze(0)
        vectors = context.reshape(context.shape[0], -1, context.shape[-1]).transpose(0, 1)
        return order.to_drawing(vectors, 0)

    # Steps are the first dimension, so that the inputs of all rows a dilation back are one matrix.

    def run(
        self, drawn: Tensor, context: Tensor | None, caches: "Sequence[_Cache] | None" = None
    ) -> Tensor:
        """The vectors (t + 1, rows, width) from which the head computes the parameters.

        Args:
            drawn: (t, rows, channels), the embeddings of the blocks of the first t steps.
            context: as returned by `encode`, for at least these steps.
            caches: the caches of a decoder, one for each layer, which are filled.
        """
        hidden = torch.cat((self.start.expand(1, drawn.shape[1], -1), drawn))
        shape, context = hidden.shape, None if context is None else context[: hidden.shape[0]]
        hidden = hidden.flatten(0, 1)  # ((t + 1) * rows, channels)
        skip: Tensor = self.skip.bias
        to_skip, residuals = self.skip.weight.T.split(self.channels), self.residual.unbind()
        for number, layer in enumerate(self.gated_layers):
            args = (hidden, shape[1], context)
            if caches is not None:  # without the hooks of FSDP, which would free the weights
                caches[number].fill(hidden.view(shape))
                gated = layer.forward(*args)
            else:
                gated = recomputed(layer, layer, *args) if self.checkpoint_layers else layer(*args)
            gated = F.dropout(gated, self.dropout, self.training)
            skip = torch.addmm(skip, gated, to_skip[number])
            if number < len(residuals):
                hidden = torch.addmm(hidden, gated, residuals[number])
        mixed: Tensor = self.mix(skip.relu()).relu()
        return mixed.view(*shape[:2], -1)

    def _fingerprint(self) -> dict[str, list[str]]:
        """Includes the dilations, since the shapes of the weights do not determine them."""
        dilations = [layer.dilation for layer in self.gated_layers]
        return {**super()._fingerprint(), "dilations": entry(dilations)}

    def make_decoder(
        self,
        factorization: Factorization,
        batch_size: int,
        context: Tensor | None,
        ranks: Tensor | None,
    ) -> Decoder:
        """A decoder whose cost per step does not grow with the length or the receptive field."""
        return _WaveNetDecoder(self, factorization, batch_size, context)

    def make_static_step(self, factorization: Factorization) -> StaticStep:
        """A step whose cost does not grow with the length or the receptive field."""
        return _WaveNetStep(self, factorization)


class _Layer(nn.Module):
    """A layer's gated activations: a causal convolution plus the context, and its gates."""

    def __init__(self, channels: int, kernel_size: int, dilation: int, context_size: int) -> None:
        super().__init__()
        self.dilation, self.reach = dilation, (kernel_size - 1) * dilation
        # For the current step, one dilation back, two dilations back, ...
        bound = (kernel_size * channels) ** -0.5
        taps = torch.empty(kernel_size, channels, 2 * channels).uniform_(-bound, bound)
        self.taps = nn.Parameter(taps)
        self.bias = nn.Parameter(torch.zeros(2 * channels))
        if context_size:
            self.context = nn.Linear(context_size, 2 * channels, bias=False)

    def forward(self, hidden: Tensor, rows: int, context: Tensor | None) -> Tensor:
        """The gated activations (t * rows, channels).

        Args:
            hidden: (t * rows, channels).
            rows: the number of rows.
            context: as returned by `WaveNet.encode`.
        """
        current, *earlier = self.taps.unbind()
        if context is None:
            sums = torch.addmm(self.bias, hidden, current)
        else:
            bias = self.context_bias(context)
            sums = (hidden @ current).view(-1, rows // bias.shape[1], *bias.shape[1:])
            sums = (sums + bias.unsqueeze(1)).flatten(0, 2)
        for number, tap in enumerate(earlier, 1):
            back = number * self.dilation * rows
            if back < hidden.shape[0]:
                later = torch.addmm(sums[back:], hidden[:-back], tap)
                sums = torch.cat((sums[:back], later))
        return _gate(sums)

    def context_bias(self, context: Tensor | None) -> Tensor:
        """The bias plus the encoding of the context: (1 or t, 1 or N, 2 * channels)."""
        if context is None:
            return self.bias.view(1, 1, -1)
        return F.linear(context, self.context.weight, self.bias)

    def extra_repr(self) -> str:
        kernel_size, channels, _ = self.taps.shape
        return f"channels={channels}, kernel_size={kernel_size}, dilation={self.dilation}"


def _gate(sums: Tensor) -> Tensor:
    """Gated activations, from sums (..., 2 * channels) to (..., channels)."""
    signal, gate = sums.chunk(2, -1)
    return signal.tanh() * gate.sigmoid()


class _WaveNetDecoder(Decoder):
    """Computes each layer at the new step only.

    One sigmoid serves both signal and gate, since tanh(a) = 2 sigmoid(2 a) - 1. Therefore the sums
    of the signal are doubled. One operation, gate - 2 * signal * gate, gives the negated gated
    activation, so the maps that read it have negated weights.
    """

    def __init__(
        self,
        network: WaveNet,
        factorization: Factorization,
        batch_size: int,
        context: Tensor | None,
    ) -> None:
        super().__init__(factorization, batch_size)
        self._network = network
        self._blocks = factorization.drawing_order.blocks
        order = network.permutation(factorization.ranks.flatten(), network.start.device)
        self._context = network.encode(context, order)
        self._caches = [
            _Cache(layer, batch_size, factorization.num_blocks, self._context)
            for layer in network.gated_layers
        ]
        self._residuals = (-network.residual).unbind()
        self._skip = _as_transposed(-network.skip.weight), network.skip.bias
        self._mix = _as_transposed(network.mix.weight), network.mix.bias
        # The embedding and the head, if they are the same for all blocks.
        self._embedding, self._head = None, None
        if not factorization.layout.flat:
            self._embedding = network.embedding.map_of(0)
            weight, bias = network.head.map_of(0)
            self._head = _as_transposed(weight), bias
        self._make_buffers()

    def _make_buffers(self) -> None:
        """Makes buffers for the sums of one layer, and for the negated activations of all."""
        channels, reference = self._network.channels, self._network.start
        self._sums = reference.new_empty(self.batch_size, 2 * channels)
        self._halves = self._sums.chunk(2, 1)
        self._negated = reference.new_empty(self.batch_size, len(self._caches) * channels)
        self._parts = self._negated.split(channels, 1)

    @torch.no_grad()
    def step(self, previous: Tensor | None) -> Tensor:
        network, (signal, gate) = self._network, self._halves
        vector: Tensor = network.start
        if previous is not None:
            block = self._blocks[self.num_taken]
            family, weight, bias = self._embedding or network.embedding.map_of(block)
            vector = family.project(previous.reshape(-1, *family.event_shape), weight, bias)
            self.num_taken += 1
        step = self.num_taken
        hidden = self._caches[0].slot(step).copy_(vector)  # (rows, channels)
        for number, cache in enumerate(self._caches):
            cache.sums(step, hidden, self._sums)
            self._sums.sigmoid_()
            negated = torch.addcmul(gate, signal, gate, value=-2, out=self._parts[number])
            if number < len(self._residuals):
                slot = self._caches[number + 1].slot(step)
                hidden = torch.addmm(hidden, negated, self._residuals[number], out=slot)
        skip = F.linear(self._negated, *self._skip).relu_()
        return self._params(F.linear(skip, *self._mix).relu_())

    @torch.no_grad()
    def prefill(self, blocks: Tensor) -> Tensor:
        self.num_taken = self._num_steps_of(blocks)
        network = self._network
        drawn = network.embedding(blocks, self._blocks[: self.num_taken]).transpose(0, 1)
        with network.eval_mode():
            hidden = network.run(drawn, self._context, self._caches)
        return self._params(hidden[-1])

    @torch.no_grad()
    def select(self, rows: Tensor) -> None:
        self._context = select_rows(self._context, rows, 1)
        for cache in self._caches:
            cache.select(rows, self._context)
        self.batch_size = rows.shape[0]
        self._make_buffers()

    def _params(self, hidden: Tensor) -> Tensor:
        """The next step's parameters, from vectors (rows, width)."""
        if self._head is not None:
            return F.linear(hidden, *self._head).unsqueeze(1)
        return F.linear(hidden, *self._network.head.map_of(self._blocks[self.num_taken]))


def _as_transposed(weight: Tensor) -> Tensor:
    """The same weight as a view of its contiguous transpose, which is faster for few rows."""
    return weight.T.contiguous().T


class _Cache:
    """The last inputs of a layer, and their contributions to later sums.

    Steps are divided into spans of the length of the dilation. At the end of a span, one matrix
    product for each tap computes the contributions of earlier spans to all sums of the next span.
    So a step only adds the contribution of its own input.
    """

    def __init__(self, layer: _Layer, rows: int, num_steps: int, context: Tensor | None) -> None:
        self._layer, self._num_steps = layer, num_steps
        channels, reference = layer.taps.shape[1], layer.taps
        self._scale = torch.cat(
            (reference.new_full((channels,), 2.0), reference.new_ones(channels))
        )
        self._taps = (layer.taps * self._scale).unbind()
        # Ring buffers: for the inputs, with a span for each tap except the first, and for the
        # partial sums of one span.
        self._inputs = reference.new_empty(min(layer.reach, num_steps), rows, channels)
        self._partial = reference.new_empty(min(layer.dilation, num_steps), rows, 2 * channels)
        self._make_views(context)
        self._start_span(0)

    def _make_views(self, context: Tensor | None) -> None:
        """Makes views of the ring buffers, and keeps the context of their rows."""
        rows = self._partial.shape[1]
        self._slots = self._inputs.unbind()  # one a step, (rows, channels)
        self._spans = self._inputs.flatten(0, 1).split(self._layer.dilation * rows)
        self._partial_sums = self._partial.unbind()  # one a step, (rows, 2 * channels)
        self._flat = self._partial.flatten(0, 1)
        # The context is one for all steps, or a vector for each.
        is_shared = context is None or context.shape[0] == 1
        self._context = None if is_shared else context
        self._bias = self._scaled_bias(context if is_shared else None)
        num_contexts = 1 if context is None else context.shape[1]
        repeats = rows // max(num_contexts, 1)  # there may be no rows
        self._grouped = self._partial.unflatten(1, (repeats, num_contexts))

    def _scaled_bias(self, context: Tensor | None) -> Tensor:
        """The bias with the context, doubled for the signal: (1 or t, 1, 1 or N, 2 * channels)."""
        return (self._layer.context_bias(context) * self._scale).unsqueeze(1)

    def slot(self, step: int) -> Tensor:
        """The buffer for the layer's input at a step, (rows, channels)."""
        return self._slots[step % len(self._slots)]

    def sums(self, step: int, hidden: Tensor, out: Tensor) -> None:
        """Computes the layer's sums at a step, doubled for the signal.

        Args:
            step: the number of the step.
            hidden: the layer's input, (rows, channels), which is already in its slot.
            out: the buffer for the result, (rows, 2 * channels).
        """
        partial = self._partial_sums[step % len(self._partial_sums)]
        torch.addmm(partial, hidden, self._taps[0], out=out)
        if (step + 1) % self._layer.dilation == 0:
            self._start_span(step + 1)

    def _start_span(self, start: int) -> None:
        """Computes the partial sums of the span from `start` on, from context and earlier spans."""
        if start >= self._num_steps:
            return
        dilation = self._layer.dilation
        if self._context is None:
            self._grouped.copy_(self._bias)
        else:
            bias = self._scaled_bias(self._context[start : start + dilation])
            self._grouped[: bias.shape[0]].copy_(bias)
        for number in range(1, min(start // dilation + 1, len(self._taps))):
            span = self._spans[(start // dilation - number) % len(self._spans)]
            self._flat.addmm_(span, self._taps[number])

    def fill(self, inputs: Tensor) -> None:
        """Fills the cache with the layer's inputs at the first steps, (t, rows, channels)."""
        steps = torch.arange(inputs.shape[0], device=inputs.device)[-len(self._slots) :]
        self._inputs.index_copy_(0, steps % len(self._slots), inputs[-len(self._slots) :])
        self._start_span(inputs.shape[0] // self._layer.dilation * self._layer.dilation)

    def select(self, rows: Tensor, context: Tensor | None) -> None:
        """Row i becomes a copy of the previous row `rows[i]`. `context` belongs to the new rows."""
        self._inputs = self._inputs.index_select(1, rows)
        self._partial = self._partial.index_select(1, rows)
        self._make_views(context)


class _WaveNetStep(SequenceStep):
    """Computes each layer at the new step. The state is a ring of inputs for each layer.

    A ring is (rows, reach, channels) and has the input of a step at the step's number modulo the
    reach. It starts with zeros, which are the inputs before the first step.
    """

    def start(self, blocks: Tensor, context: Tensor | None) -> tuple[Tensors, Tensors]:
        network, rows = self.network, blocks.shape[0]
        order = Permutation(self.order, self.ranks)
        encoding = network.encode(context, order)  # (1 or T, rows, C)
        encodings = () if encoding is None else (encoding.transpose(0, 1),)
        rings = [
            network.start.new_zeros(rows, layer.reach, network.channels)
            for layer in network.gated_layers
        ]
        return encodings, tuple(rings)

    def advance(
        self, blocks: Tensor, position: Tensor, encodings: Tensors, state: Tensors
    ) -> Tensor:
        network = self.network
        context = encoding_at(encodings[0], position) if encodings else None  # (rows, C)
        hidden = self.read(blocks, position, network.start)  # (rows, channels)
        gated: list[Tensor] = []
        for layer, ring in zip(network.gated_layers, state, strict=True):
            current, *earlier = layer.taps.unbind()
            bias = layer.bias if context is None else layer.context_bias(context)
            sums = bias + hidden @ current
            for number, tap in enumerate(earlier, 1):
                slot = (position - number * layer.dilation) % layer.reach
                sums = sums + ring.index_select(1, slot.reshape(1)).squeeze(1) @ tap
            ring.index_copy_(1, (position % layer.reach).reshape(1), hidden.unsqueeze(1))
            gated.append(_gate(sums))
            if len(gated) < len(state):
                hidden = hidden + gated[-1] @ network.residual[len(gated) - 1]
        skip = network.skip(torch.cat(gated, -1)).relu()
        return self.params_of(network.mix(skip).relu())
