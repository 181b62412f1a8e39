"""Convolutions with a mask for each pixel, for any order of an image's pixels."""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ardist.factorization import Factorization
from ardist.networks.constants import register_constant
from ardist.recomputation import recomputed
from ardist.rows import add_to_rows, repeat_rows, select_rows

_READ_AT_ONCE = 2**18  # numbers that fit the processor's cache


class LocallyMasked(nn.Module):
    """Residual layers of locally masked convolutions (Jain et al. 2020, "Locally masked
    convolution for autoregressive models").

    A pixel reads the pixels of its window on which it depends, and also itself from the second
    layer on. Since dependencies are transitive, its output depends on no other pixels. The
    receptive field consists of the pixels that chains of such windows reach. Orders with long jumps
    need a large kernel or dilation.

    Args:
        factorization: over a grid (H, W), with transitive dependencies.
        channels: width of the layers, and of the features.
        kernel_size: odd.
        dilations: one for each layer.
        context_size: width of the context, 0 for none.
        dropout: probability, for the output that each layer adds.
        checkpoint_layers: whether the backward pass computes each layer again.
    """

    order: Tensor

    def __init__(
        self,
        factorization: Factorization,
        *,
        channels: int,
        kernel_size: int,
        dilations: Sequence[int],
        context_size: int,
        dropout: float,
        checkpoint_layers: bool = False,
    ) -> None:
        super().__init__()
        self._recomputes = checkpoint_layers
        register_constant(self, "order", torch.tensor(factorization.drawing_order.blocks))
        # The pixels of step t are the slice from bounds[t] to bounds[t + 1] of that order.
        self.bounds = factorization.drawing_order.ends_of("block")
        # The features embed the positions of the pixels that are read. This embeds the position of
        # the pixel that reads.
        self.position = nn.Parameter(torch.randn(self.order.shape[0], channels) * 0.1)
        self.layers = nn.ModuleList()
        for number, dilation in enumerate(dilations):
            with torch.device("cpu"):  # where the dependencies are
                windows = _windows(factorization, kernel_size, dilation, with_center=number > 0)
            self.layers.append(_Layer(windows, channels, context_size))
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor, context: Tensor | None = None) -> Tensor:
        """The hidden state of each pixel, from the earlier pixels: (M * N, H, W, channels).

        Args:
            features: (M * N, H, W, channels).
            context: (N, 1 or H, 1 or W, context_size).
        """
        # Pixels come first, so that gathering pixels copies long rows.
        inputs = features.flatten(1, 2).transpose(0, 1)  # (H * W, M * N, channels)
        hidden = self.position.unsqueeze(1)
        for layer in self.layers:
            args = (inputs, context)
            update = recomputed(layer, layer, *args) if self._recomputes else layer(*args)
            hidden = hidden + self.dropout(update)
            inputs = hidden.relu()
        return hidden.transpose(0, 1).unflatten(1, features.shape[1:3])

    def incremental(self, batch_size: int, context: Tensor | None) -> "_Incremental":
        """Evaluates the network one step at a time. Each layer is computed at its pixels only."""
        return _Incremental(self, batch_size, context)


def _windows(
    factorization: Factorization, kernel_size: int, dilation: int, *, with_center: bool
) -> Tensor:
    """The pixel that each pixel reads through each tap, or H * W for none: (H * W, taps) int64."""
    height, width = factorization.grid_shape
    num_pixels = height * width
    visible = factorization.dependencies
    if with_center:
        visible = visible | torch.eye(num_pixels, dtype=torch.bool)
    offsets = (torch.arange(kernel_size) - kernel_size // 2) * dilation
    # (H, W, kernel_size, kernel_size)
    row = torch.arange(height).view(-1, 1, 1, 1) + offsets.unsqueeze(-1)
    column = torch.arange(width).view(-1, 1, 1) + offsets
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    pixels = (row * width + column).where(inside, 0).view(num_pixels, -1)
    read = inside.view(num_pixels, -1) & visible.gather(1, pixels)
    return pixels.where(read, num_pixels)


class _Layer(nn.Module):
    """A locally masked convolution and a linear map of its activations.

    Args:
        windows: as returned by `_windows`, (H * W, taps).
        channels: width.
        context_size: width of the context, 0 for none.
    """

    windows: Tensor
    sources: Tensor
    targets: Tensor

    def __init__(self, windows: Tensor, channels: int, context_size: int) -> None:
        super().__init__()
        num_pixels, num_taps = windows.shape
        register_constant(self, "windows", windows)
        # The same windows as pairs of a source and a target, tap after tap.
        taps, targets = windows.T.ne(num_pixels).nonzero(as_tuple=True)
        register_constant(self, "sources", windows[targets, taps])
        register_constant(self, "targets", targets)
        self._num_pairs = taps.bincount(minlength=num_taps).tolist()  # for each tap
        # Initialized as `nn.Conv2d`, with the average number of inputs of a pixel.
        bound = max(taps.shape[0] / num_pixels * channels, 1) ** -0.5
        self.weight = nn.Parameter(torch.empty(num_taps, channels, channels))
        self.bias = nn.Parameter(torch.empty(channels))
        with torch.no_grad():
            self.weight.uniform_(-bound, bound)
            self.bias.uniform_(-bound, bound)
        self.out = nn.Linear(channels, channels, bias=False)
        self.context = nn.Linear(context_size, channels, bias=False) if context_size else None

    def forward(self, pixels: Tensor, context: Tensor | None) -> Tensor:
        """The update of pixels (H * W, M * N, channels), of the same shape."""
        sources, targets = self.sources.split(self._num_pairs), self.targets.split(self._num_pairs)
        # An empty product gives the dtype under autocast and the batching under vmap.
        sums = (pixels[:0] @ self.weight[0]).new_zeros(pixels.shape)
        # One product for each tap, over its unmasked pairs only.
        for source, target, weight in zip(sources, targets, self.weight, strict=True):
            products = pixels.index_select(0, source).flatten(0, 1) @ weight  # (pairs * M * N, C)
            sums.index_add_(0, target, products.view(-1, *pixels.shape[1:]))
        biases = self.biases(context)
        return self.out(add_to_rows(sums.transpose(0, 1), biases).transpose(0, 1).relu())

    def biases(self, context: Tensor | None) -> Tensor:
        """The biases of the sums, with the context if there is one: (N, 1 or H * W, channels)."""
        if self.context is None or context is None:
            return self.bias.view(1, 1, -1)
        encoding: Tensor = self.context(context.flatten(1, 2))
        return encoding + self.bias

    def extra_repr(self) -> str:
        taps, channels, _ = self.weight.shape
        visible = self.sources.shape[0] / self.windows.numel()
        return f"channels={channels}, taps={taps}, visible={visible:.0%}"


class _Incremental:
    """The layers a step at a time, with the inputs of each layer, (rows, H * W + 1, channels).

    Pixels are in the order of drawing, so that the pixels of a step are a slice. The last entry
    stays zero, since masked taps read it.
    """

    def __init__(self, body: LocallyMasked, batch_size: int, context: Tensor | None) -> None:
        order, position, layers = body.order, body.position, cast(list[_Layer], [*body.layers])
        num_pixels, channels = position.shape
        inverse = F.pad(order.argsort(), (0, 1), value=num_pixels)
        self._bounds = body.bounds
        self._next = 0
        self._position = position[order]
        self._layers = [
            (inverse[layer.windows[order]], layer.weight.flatten(0, 1), layer.out.weight.T)
            for layer in layers
        ]
        self._inputs = [position.new_zeros(batch_size, num_pixels + 1, channels) for _ in layers]
        biases = torch.stack([layer.biases(context) for layer in layers], 2)
        # (N, 1 or H * W, layers, channels)
        self._biases = biases if biases.shape[1] == 1 else biases[:, order]

    def step(self, previous: Tensor | None) -> Tensor:
        """The hidden states of the next step's pixels, (rows, pixels, channels).

        Args:
            previous: the features of the previous step's pixels, (rows, pixels, channels).
        """
        start, end = self._bounds[self._next : self._next + 2]
        if previous is not None:
            self._inputs[0][:, start - previous.shape[1] : start] = previous
        self._next += 1
        return self._run(start, end)

    def prefill(self, features: Tensor) -> Tensor:
        """The hidden states of the next step's pixels, after the first steps in one pass.

        Args:
            features: of the pixels of the first steps, (rows, pixels, channels).
        """
        rows, count, _ = features.shape
        self._inputs[0][:, :count] = features
        self._next = self._bounds.index(count)
        chunk = max(1, _READ_AT_ONCE // (rows * self._layers[0][1].shape[0]))
        for start in range(0, count, chunk):
            self._run(start, min(start + chunk, count))
        return self.step(None)

    def select(self, rows: Tensor) -> None:
        """Row i becomes a copy of the previous row `rows[i]`."""
        self._inputs = [inputs.index_select(0, rows) for inputs in self._inputs]
        self._biases = select_rows(self._biases, rows)

    def _run(self, start: int, end: int) -> Tensor:
        """Runs all layers at a slice of the pixels: (rows, pixels, channels)."""
        rows, count = self._inputs[0].shape[0], end - start
        biases = self._biases if self._biases.shape[1] == 1 else self._biases[:, start:end]
        biases = repeat_rows(biases.expand(-1, count, -1, -1), rows)
        hidden = self._position[start:end].repeat(rows, 1)  # (rows * count, channels)
        for inputs, (windows, weight, out), bias in zip(
            self._inputs, self._layers, biases.flatten(0, 1).unbind(1), strict=True
        ):
            if inputs is not self._inputs[0]:
                torch.clamp(hidden.view(rows, count, -1), min=0, out=inputs[:, start:end])
            read = inputs.index_select(1, windows[start:end].flatten())  # (rows, count * taps, C)
            sums = torch.addmm(bias, read.view(rows * count, -1), weight)
            hidden = torch.addmm(hidden, sums.relu_(), out)
        return hidden.view(rows, count, -1)
