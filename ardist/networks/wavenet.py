"""Dilated causal convolutions over a sequence."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ardist.decoding import Decoder
from ardist.drawing_order import Permutation
from ardist.factorization import Factorization
from ardist.networks.base import part
from ardist.networks.sequence import BlockEmbedding, BlockHead, SequenceNetwork
from ardist.rows import select_rows
from ardist.shapes import as_integer, as_positive, as_probability


class WaveNet(SequenceNetwork):
    """Gated dilated convolutions over the blocks in the order of drawing.

    Each layer adds to what it reads, and to a sum over all layers from which the parameters are
    made (van den Oord et al. 2016, "WaveNet: a generative model for raw audio"). It accepts a
    factorization of any length whose blocks have one family, in any order without ties.

    A conditional sees the last `receptive_field` blocks that were drawn before its own.
    Dependencies further back, where the factorization has any, are ignored.

    Args:
        factorization: in an order in which each block depends on all that come before it.
        channels: width of each layer.
        depth: how many layers.
        kernel_size: how many inputs, `dilation` apart, a layer reads for each output; at least 2.
        max_dilation: the layers' dilations are 1, 2, 4, ... up to this, and then 1 again.
        skip_channels: width of the sum over the layers and of the map after it; `channels` by
            default.
        dropout: the probability with which an entry of what a layer adds is dropped in training
            mode: by `log_prob`, not by draws.
        context_shape: `(C,)`, `(*grid_shape, C)` for a context of kind "blocks", `()` for none.
        context_kind: "vector", or "blocks": a vector for each block, which goes into its step.
            Either goes into the gates of every layer.

    Raises:
        ValueError: where the ordering has ties or is a graph's, or an argument is off.

    >>> import torch, ardist as ad
    >>> fac = ad.Factorization((100,), ad.families.Categorical(5))
    >>> net = ad.networks.WaveNet(fac, channels=8, depth=5)
    >>> net.condition().sample((3,)).shape
    torch.Size([3, 100])
    >>> net.receptive_field  # 1 + 1 + 2 + 4 + 8 + 16
    32
    """

    def __init__(
        self,
        factorization: Factorization,
        *,
        channels: int,
        depth: int,
        kernel_size: int = 2,
        max_dilation: int = 512,
        skip_channels: int | None = None,
        dropout: float = 0.0,
        context_shape: Sequence[int] = (),
        context_kind: str = "vector",
    ) -> None:
        super().__init__(factorization, context_shape=context_shape, context_kind=context_kind)
        self.channels = channels = as_positive(channels, "channels")
        depth = as_positive(depth, "depth")
        kernel_size = as_integer(kernel_size, "kernel_size", 2)
        cycle = as_positive(max_dilation, "max_dilation").bit_length()
        width = as_positive(channels if skip_channels is None else skip_channels, "skip_channels")
        context_size = self.context_shape[-1] if self.context_shape else 0
        self.embedding = BlockEmbedding(factorization, channels)
        self.start = nn.Parameter(torch.randn(channels) * 0.1)
        self.layers = nn.ModuleList(
            _Layer(channels, kernel_size, 2 ** (layer % cycle), context_size)
            for layer in range(depth)
        )
        # What the last layer would add to itself is not read.
        bound = channels**-0.5
        residual = torch.empty(depth - 1, channels, channels).uniform_(-bound, bound)
        self.residual = nn.Parameter(residual)
        self.skip = nn.Linear(depth * channels, width)  # of all layers, side by side
        self.mix = nn.Linear(width, width)
        self.head = BlockHead(factorization, width)
        self.dropout = as_probability(dropout, "dropout")

    @property
    def receptive_field(self) -> int:
        """How many blocks, of those drawn last, a conditional can see."""
        return 1 + sum(layer.reach for layer in self.gated_layers)

    @property
    def gated_layers(self) -> "list[_Layer]":
        """The layers, each with its dilation."""
        return list(self.layers)  # type: ignore[arg-type]

    def forward(
        self, blocks: Tensor, context: Tensor | None = None, ranks: Tensor | None = None
    ) -> Tensor:
        order = self.permutation(ranks, blocks.device)
        vectors = self.embedding(blocks).transpose(0, 1)  # (T, M * N, channels)
        drawn = order.to_drawing(vectors, 0)
        hidden = order.to_raster(self.run(drawn[:-1], self.encode(context, order)), 0)
        return self.head(hidden.transpose(0, 1))

    def encode(self, context: Tensor | None, order: Permutation) -> Tensor | None:
        """The context in the order of drawing: (1 or T, N, C)."""
        if context is None or self.context_kind == "vector":
            return None if context is None else context.unsqueeze(0)
        vectors = context.reshape(context.shape[0], -1, context.shape[-1]).transpose(0, 1)
        return order.to_drawing(vectors, 0)

    # Time comes first, so that the past of all rows, a dilation back, is one matrix.

    def run(
        self, drawn: Tensor, context: Tensor | None, pasts: "Sequence[_Past] | None" = None
    ) -> Tensor:
        """Vectors (t + 1, rows, width) from which the parameters of t + 1 steps are made.

        Args:
            drawn: (t, rows, channels), the blocks of the first t steps.
            context: as `encode` has it, for these steps at least.
            pasts: a decoder's, of each layer, which take what it reads.
        """
        hidden = torch.cat((self.start.expand(1, drawn.shape[1], -1), drawn))
        shape, context = hidden.shape, None if context is None else context[: hidden.shape[0]]
        hidden = hidden.flatten(0, 1)
        skip: Tensor = self.skip.bias
        to_skip, residuals = self.skip.weight.T.split(self.channels), self.residual.unbind()
        for number, layer in enumerate(self.gated_layers):
            if pasts is not None:
                pasts[number].fill(hidden.view(shape))
            gated = _gate(layer(hidden, shape[1], context))
            gated = F.dropout(gated, self.dropout, self.training)
            skip = torch.addmm(skip, gated, to_skip[number])
            if number < len(residuals):
                hidden = torch.addmm(hidden, gated, residuals[number])
        mixed: Tensor = self.mix(skip.relu()).relu()
        return mixed.view(*shape[:2], -1)

    def _fingerprint(self) -> dict[str, list[str]]:
        """Dilations too, which no weight's shape tells."""
        dilations = [layer.dilation for layer in self.gated_layers]
        return {**super()._fingerprint(), "dilations": part(dilations)}

    def make_decoder(
        self,
        factorization: Factorization,
        batch_size: int,
        context: Tensor | None,
        ranks: Tensor | None,
    ) -> Decoder:
        """A decoder whose steps cost the same however long the past and the receptive field."""
        return _WaveNetDecoder(self, factorization, batch_size, context)


class _Layer(nn.Module):
    """The sums in the gates of a layer: a causal convolution, and the context."""

    def __init__(self, channels: int, kernel_size: int, dilation: int, context_size: int) -> None:
        super().__init__()
        self.dilation, self.reach = dilation, (kernel_size - 1) * dilation
        # Of the present, a dilation back, two back, ...
        bound = (kernel_size * channels) ** -0.5
        taps = torch.empty(kernel_size, channels, 2 * channels).uniform_(-bound, bound)
        self.taps = nn.Parameter(taps)
        self.bias = nn.Parameter(torch.zeros(2 * channels))
        if context_size:
            self.context = nn.Linear(context_size, 2 * channels, bias=False)

    def forward(self, hidden: Tensor, rows: int, context: Tensor | None) -> Tensor:
        """(t * rows, 2 * channels) of (t * rows, channels); context as in `WaveNet.encode`."""
        present, *past = self.taps.unbind()
        if context is None:
            sums = torch.addmm(self.bias, hidden, present)
        else:
            base = self.base(context)
            sums = (hidden @ present).view(-1, rows // base.shape[1], *base.shape[1:])
            sums = (sums + base.unsqueeze(1)).flatten(0, 2)
        for number, tap in enumerate(past, 1):
            back = number * self.dilation * rows
            if back < hidden.shape[0]:
                later = torch.addmm(sums[back:], hidden[:-back], tap)
                sums = torch.cat((sums[:back], later))
        return sums

    def base(self, context: Tensor | None) -> Tensor:
        """What does not depend on the blocks: (1 or t, 1 or N, 2 * channels)."""
        if context is None:
            return self.bias.view(1, 1, -1)
        return F.linear(context, self.context.weight, self.bias)

    def extra_repr(self) -> str:
        kernel_size, channels, _ = self.taps.shape
        return f"channels={channels}, kernel_size={kernel_size}, dilation={self.dilation}"


def _gate(sums: Tensor) -> Tensor:
    """A signal and how much of it passes: (..., 2 * channels) to (..., channels)."""
    signal, gate = sums.chunk(2, -1)
    return signal.tanh() * gate.sigmoid()


class _WaveNetDecoder(Decoder):
    """Each layer is computed at the new step alone.

    One sigmoid serves signal and gate, since tanh(a) = 2 sigmoid(2 a) - 1: the sums of the signal
    are taken twice, and minus what passes, gate - 2 * signal * gate, meets negative weights.
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
        self._pasts = [
            _Past(layer, batch_size, factorization.num_blocks, self._context)
            for layer in network.gated_layers
        ]
        self._residuals = (-network.residual).unbind()
        self._skip = _for_few_rows(-network.skip.weight), network.skip.bias
        self._mix = _for_few_rows(network.mix.weight), network.mix.bias
        # How blocks are read, and parameters read off, where that is the same for all blocks.
        self._reader, self._head = None, None
        if not factorization.layout.flat:
            self._reader = network.embedding.map_of(0)
            weight, bias = network.head.map_of(0)
            self._head = _for_few_rows(weight), bias
        self._make_buffers()

    def _make_buffers(self) -> None:
        """For the sums of one layer, and for minus what each of them lets pass."""
        channels, reference = self._network.channels, self._network.start
        self._sums = reference.new_empty(self.batch_size, 2 * channels)
        self._halves = self._sums.chunk(2, 1)
        self._passed = reference.new_empty(self.batch_size, len(self._pasts) * channels)
        self._parts = self._passed.split(channels, 1)

    @torch.no_grad()
    def step(self, previous: Tensor | None) -> Tensor:
        network, (signal, gate) = self._network, self._halves
        read: Tensor = network.start
        if previous is not None:
            block = self._blocks[self.num_taken]
            family, weight, bias = self._reader or network.embedding.map_of(block)
            read = family.project(previous.reshape(-1, *family.event_shape), weight, bias)
            self.num_taken += 1
        now = self.num_taken
        hidden = self._pasts[0].slot(now).copy_(read)
        for number, past in enumerate(self._pasts):
            past.sums(now, hidden, self._sums)
            self._sums.sigmoid_()
            minus = torch.addcmul(gate, signal, gate, value=-2, out=self._parts[number])
            if number < len(self._residuals):
                slot = self._pasts[number + 1].slot(now)
                hidden = torch.addmm(hidden, minus, self._residuals[number], out=slot)
        skip = F.linear(self._passed, *self._skip).relu_()
        return self._params(F.linear(skip, *self._mix).relu_())

    @torch.no_grad()
    def prefill(self, blocks: Tensor) -> Tensor:
        self.num_taken = self._num_steps_of(blocks)
        network = self._network
        drawn = network.embedding(blocks, self._blocks[: self.num_taken]).transpose(0, 1)
        with network.eval_mode():
            hidden = network.run(drawn, self._context, self._pasts)
        return self._params(hidden[-1])

    def select(self, rows: Tensor) -> None:
        if self._context is not None:
            self._context = select_rows(self._context, rows, 1)
        for past in self._pasts:
            past.select(rows, self._context)
        self.batch_size = rows.shape[0]
        self._make_buffers()

    def _params(self, hidden: Tensor) -> Tensor:
        if self._head is not None:
            return F.linear(hidden, *self._head).unsqueeze(1)
        return F.linear(hidden, *self._network.head.map_of(self._blocks[self.num_taken]))


def _for_few_rows(weight: Tensor) -> Tensor:
    """The same weight as a view of its transpose, by which a few rows are multiplied faster."""
    return weight.T.contiguous().T


class _Past:
    """What a layer has read last, and what that adds to its sums.

    Time is cut into spans as long as the dilation. At the end of a span one matrix product for
    each tap tells what all of it adds to a coming span, so that a step has the present to add.
    """

    def __init__(self, layer: _Layer, rows: int, num_steps: int, context: Tensor | None) -> None:
        self._layer, self._num_steps = layer, num_steps
        channels, reference = layer.taps.shape[1], layer.taps
        self._scale = torch.cat(
            (reference.new_full((channels,), 2.0), reference.new_ones(channels))
        )
        self._taps = (layer.taps * self._scale).unbind()
        # Rings: of inputs for as many spans as there are taps of the past, of sums for one span.
        self._inputs = reference.new_empty(min(layer.reach, num_steps), rows, channels)
        self._ahead = reference.new_empty(min(layer.dilation, num_steps), rows, 2 * channels)
        self._read(context)
        self._look_ahead(0)

    def _read(self, context: Tensor | None) -> None:
        """Takes the context of the rows, and makes views of the rings."""
        rows = self._ahead.shape[1]
        self._slots = self._inputs.unbind()
        self._spans = self._inputs.flatten(0, 1).split(self._layer.dilation * rows)
        self._bases = self._ahead.unbind()
        self._flat = self._ahead.flatten(0, 1)
        # One for all steps, or a vector for each.
        shared = context is None or context.shape[0] == 1
        self._context = None if shared else context
        self._base = self._scaled_base(context if shared else None)
        repeated = 1 if context is None else context.shape[1]
        self._grouped = self._ahead.unflatten(1, (-1, repeated))

    def _scaled_base(self, context: Tensor | None) -> Tensor:
        """Of each step or all, each context or all: (steps, 1, contexts, 2 * channels)."""
        return (self._layer.base(context) * self._scale).unsqueeze(1)

    def slot(self, step: int) -> Tensor:
        """Where the layer's input at a step has to be put: (rows, channels)."""
        return self._slots[step % len(self._slots)]

    def sums(self, step: int, hidden: Tensor, out: Tensor) -> None:
        """The layer's sums at a step, those of the signal twice; its input is in its slot."""
        torch.addmm(self._bases[step % len(self._bases)], hidden, self._taps[0], out=out)
        if (step + 1) % self._layer.dilation == 0:
            self._look_ahead(step + 1)

    def _look_ahead(self, start: int) -> None:
        """What context and past add to the sums of the span from `start` on."""
        if start >= self._num_steps:
            return
        dilation = self._layer.dilation
        if self._context is None:
            self._grouped.copy_(self._base)
        else:
            base = self._scaled_base(self._context[start : start + dilation])
            self._grouped[: base.shape[0]].copy_(base)
        for number in range(1, min(start // dilation + 1, len(self._taps))):
            span = self._spans[(start // dilation - number) % len(self._spans)]
            self._flat.addmm_(span, self._taps[number])

    def fill(self, inputs: Tensor) -> None:
        """Takes the layer's inputs at the first steps: (t, rows, channels)."""
        steps = torch.arange(inputs.shape[0], device=inputs.device)[-len(self._slots) :]
        self._inputs.index_copy_(0, steps % len(self._slots), inputs[-len(self._slots) :])
        self._look_ahead(inputs.shape[0] // self._layer.dilation * self._layer.dilation)

    def select(self, rows: Tensor, context: Tensor | None) -> None:
        """Of all rows; the context is that of the rows chosen."""
        self._inputs = self._inputs.index_select(1, rows)
        self._ahead = self._ahead.index_select(1, rows)
        self._read(context)
