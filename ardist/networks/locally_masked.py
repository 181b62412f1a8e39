"""Convolutions in which every pixel has a mask of its own, for any order of an image's pixels."""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ardist.factorization import Factorization
from ardist.rows import add_to_rows, repeat_rows, select_rows

_READ_AT_ONCE = 2**18  # numbers, which so stay in the cache


class LocallyMasked(nn.Module):
    """Residual layers of locally masked convolutions (Jain et al. 2020, "Locally masked
    convolution for autoregressive models").

    A pixel reads those pixels of its window on which it depends, and from the second layer on
    itself. Where dependencies are transitive, all it is told so comes from them. What cannot be
    reached by windows that each lead to a pixel drawn earlier is not seen: orders that jump about
    want a large kernel, or dilation.

    Args:
        factorization: over a grid (H, W), with transitive dependencies.
        channels: width of the layers, and of the features.
        kernel_size: odd.
        dilations: of each layer.
        context_size: width of the context, 0 for none.
        dropout: probability, of what each layer adds.
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
    ) -> None:
        super().__init__()
        self.register_buffer(
            "order", torch.tensor(factorization.drawing_order.blocks), persistent=False
        )
        # Between which places of that order the pixels of each step are.
        self.bounds = factorization.drawing_order.ends_of("block")
        # Features tell which pixels are read; this tells which one reads.
        self.position = nn.Parameter(torch.randn(self.order.shape[0], channels) * 0.1)
        self.layers = nn.ModuleList()
        for number, dilation in enumerate(dilations):
            windows = _windows(factorization, kernel_size, dilation, reads_itself=number > 0)
            self.layers.append(_Layer(windows, channels, context_size))
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor, context: Tensor | None = None) -> Tensor:
        """What each pixel's past tells: (M * N, H, W, channels) from features of that shape.

        `context` is (N, 1 or H, 1 or W, context_size).
        """
        # Pixels come first from here on, so that gathering some copies long rows.
        inputs = features.flatten(1, 2).transpose(0, 1)  # (H * W, M * N, channels)
        hidden = self.position.unsqueeze(1)
        for layer in self.layers:
            hidden = hidden + self.dropout(layer(inputs, context))
            inputs = hidden.relu()
        return hidden.transpose(0, 1).unflatten(1, features.shape[1:3])

    def incremental(self, batch_size: int, context: Tensor | None) -> "_Incremental":
        """The same a step at a time, each layer computed only at the step's pixels."""
        return _Incremental(self, batch_size, context)


def _windows(
    factorization: Factorization, kernel_size: int, dilation: int, *, reads_itself: bool
) -> Tensor:
    """Which pixel each one reads through each tap, H * W for none: (H * W, taps) int64."""
    height, width = factorization.grid_shape
    num_pixels = height * width
    visible = factorization.dependencies
    if reads_itself:
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
    """A locally masked convolution, and a linear map of its activations.

    Args:
        windows: which pixel each one reads through each tap, as `_windows` gives it.
    """

    windows: Tensor
    sources: Tensor
    targets: Tensor

    def __init__(self, windows: Tensor, channels: int, context_size: int) -> None:
        super().__init__()
        num_pixels, num_taps = windows.shape
        self.register_buffer("windows", windows, persistent=False)
        # The same as pairs of pixels, tap after tap.
        taps, targets = windows.T.ne(num_pixels).nonzero(as_tuple=True)
        self.register_buffer("sources", windows[targets, taps], persistent=False)
        self.register_buffer("targets", targets, persistent=False)
        self._pairs = taps.bincount(minlength=num_taps).tolist()  # of each tap
        # As `nn.Conv2d` begins, by how many numbers a pixel reads on average.
        bound = max(taps.shape[0] / num_pixels * channels, 1) ** -0.5
        self.weight = nn.Parameter(torch.empty(num_taps, channels, channels))
        self.bias = nn.Parameter(torch.empty(channels))
        with torch.no_grad():
            self.weight.uniform_(-bound, bound)
            self.bias.uniform_(-bound, bound)
        self.out = nn.Linear(channels, channels, bias=False)
        self.context = nn.Linear(context_size, channels, bias=False) if context_size else None

    def forward(self, pixels: Tensor, context: Tensor | None) -> Tensor:
        """(H * W, M * N, channels) from the same."""
        sources, targets = self.sources.split(self._pairs), self.targets.split(self._pairs)
        # Of the dtype of products under autocast, and vectorized by vmap if they are.
        sums = (pixels[:0] @ self.weight[0]).new_zeros(pixels.shape)
        # A product a tap, of what is read through it: nothing masked is multiplied.
        for read, reading, weight in zip(sources, targets, self.weight, strict=True):
            products = pixels.index_select(0, read).flatten(0, 1) @ weight
            sums.index_add_(0, reading, products.view(-1, *pixels.shape[1:]))
        biases = self.biases(context)
        return self.out(add_to_rows(sums.transpose(0, 1), biases).transpose(0, 1).relu())

    def biases(self, context: Tensor | None) -> Tensor:
        """What is added to the sums, under a context if there is one: (N, 1 or H * W, channels)."""
        if self.context is None or context is None:
            return self.bias.view(1, 1, -1)
        encoding: Tensor = self.context(context.flatten(1, 2))
        return encoding + self.bias

    def extra_repr(self) -> str:
        taps, channels, _ = self.weight.shape
        visible = self.sources.shape[0] / self.windows.numel()
        return f"channels={channels}, taps={taps}, visible={visible:.0%}"


class _Incremental:
    """The inputs of each layer at the pixels so far, (rows, H * W + 1, channels).

    Everything is in the order of drawing, so that a step's pixels are a slice. The last pixel
    stays zero: it is what a masked tap reads.
    """

    def __init__(self, body: LocallyMasked, batch_size: int, context: Tensor | None) -> None:
        order, position, layers = body.order, body.position, cast(list[_Layer], [*body.layers])
        num_pixels, channels = position.shape
        place = F.pad(order.argsort(), (0, 1), value=num_pixels)  # of each pixel in that order
        self._bounds = body.bounds
        self._next = 0
        self._position = position[order]
        self._layers = [
            (place[layer.windows[order]], layer.weight.flatten(0, 1), layer.out.weight.T)
            for layer in layers
        ]
        self._inputs = [position.new_zeros(batch_size, num_pixels + 1, channels) for _ in layers]
        biases = torch.stack([layer.biases(context) for layer in layers], 2)
        # (N, 1 or H * W, layers, channels)
        self._biases = biases if biases.shape[1] == 1 else biases[:, order]

    def step(self, previous: Tensor | None) -> Tensor:
        """What the next step's pixels are told, (rows, pixels, channels).

        `previous` are the features of the step before, of such a shape.
        """
        start, end = self._bounds[self._next : self._next + 2]
        if previous is not None:
            self._inputs[0][:, start - previous.shape[1] : start] = previous
        self._next += 1
        return self._advance(start, end)

    def prefill(self, features: Tensor) -> Tensor:
        """The same after the features of the first steps, whose pixels are computed together."""
        rows, taken, _ = features.shape
        self._inputs[0][:, :taken] = features
        self._next = self._bounds.index(taken)
        together = max(1, _READ_AT_ONCE // (rows * self._layers[0][1].shape[0]))
        for start in range(0, taken, together):
            self._advance(start, min(start + together, taken))
        return self.step(None)

    def select(self, rows: Tensor) -> None:
        """Row i becomes what row `rows[i]` was."""
        self._inputs = [inputs.index_select(0, rows) for inputs in self._inputs]
        self._biases = select_rows(self._biases, rows)

    def _advance(self, start: int, end: int) -> Tensor:
        """Computes all layers at a slice of the pixels; the last one's hidden."""
        rows, count = self._inputs[0].shape[0], end - start
        biases = self._biases if self._biases.shape[1] == 1 else self._biases[:, start:end]
        biases = repeat_rows(biases.expand(-1, count, -1, -1), rows)
        hidden = self._position[start:end].repeat(rows, 1)  # (rows * count, channels)
        for inputs, (windows, weight, out), bias in zip(
            self._inputs, self._layers, biases.flatten(0, 1).unbind(1), strict=True
        ):
            if inputs is not self._inputs[0]:
                torch.clamp(hidden.view(rows, count, -1), min=0, out=inputs[:, start:end])
            read = inputs.index_select(1, windows[start:end].flatten())
            sums = torch.addmm(bias, read.view(rows * count, -1), weight)
            hidden = torch.addmm(hidden, sums.relu_(), out)
        return hidden.view(rows, count, -1)
