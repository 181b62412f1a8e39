"""Convolutional networks over images."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ardist.decoding import Decoder
from ardist.factorization import Factorization
from ardist.networks.base import ConditionalNetwork
from ardist.networks.gated_stacks import Encodings, GatedStacks, symmetry_of
from ardist.networks.locally_masked import LocallyMasked
from ardist.networks.sequence import BlockEmbedding, BlockHead, encoding_at
from ardist.networks.sizes import block_width
from ardist.shapes import as_flag, as_positive, as_probability, as_size, is_integer
from ardist.static import StaticStep, Tensors


class PixelCNN(ConditionalNetwork):
    """Masked convolutions over a two-dimensional grid of pixels.

    The masks of the kernels follow from the dependencies. In raster order, also transposed or
    flipped, all pixels have the same mask, and the network has gated layers in a vertical and a
    horizontal stack, without a blind spot (van den Oord et al. 2016, "Conditional image generation
    with PixelCNN decoders"). In any other order, including ties and transitive graphs, each pixel
    has its own mask (Jain et al. 2020, "Locally masked convolution for autoregressive models").

    Each layer extends the receptive field of a pixel by `r = kernel_size // 2` pixels, times its
    dilation. In raster order over a grid (H, W), without dilation, the receptive field is a whole
    rectangle of earlier pixels: `depth * r + 1` pixels to the left, and as many rows above with
    `depth * r` columns to both sides. It covers all earlier pixels if
    `depth * r >= max(W - 1, H - 2)`.

    Args:
        factorization: over a two-dimensional grid; blocks of one family, of any shape.
        channels: width of each layer. By default it is twice the number of features of a pixel,
            rounded up to a power of two within 64 and 256.
        depth: number of layers; by default one for each `dilation`. If all layers have one
            dilation, the default is the number of layers, at most 12, whose receptive field reaches
            over half of the longer side of the grid.
        kernel_size: odd, at least 3; a layer uses the part of the kernel on earlier pixels.
        dilation: the distance between the pixels that a kernel reads, for all layers or for each.
        dropout: the probability of dropping an entry of a layer's output in training mode. It
            applies to `log_prob`, not to draws.
        context_shape: `(C,)`, `(H, W, C)` for a context of kind "blocks", `()` for none.
        context_kind: "vector", or "blocks", a feature map with a vector for each pixel. The context
            enters all layers.
        checkpoint_layers: whether the backward pass of `log_prob` computes each layer again instead
            of keeping its activations.

    Raises:
        ValueError: if the grid is not two-dimensional, the blocks differ in family, the
            dependencies are not transitive, or an argument is invalid.

    >>> import torch, ardist as ad
    >>> fac = ad.Factorization((8, 6), ad.families.Bernoulli())
    >>> net = ad.networks.PixelCNN(fac, channels=16, depth=6)
    >>> net.condition().sample((3,)).shape
    torch.Size([3, 8, 6])
    >>> ad.testing.check_autoregressive(net).reach
    1.0
    """

    context_kinds = ("vector", "blocks")

    _sizes = ("channels", "depth")

    def __init__(
        self,
        factorization: Factorization,
        *,
        channels: int | None = None,
        depth: int | None = None,
        kernel_size: int = 3,
        dilation: int | Sequence[int] = 1,
        dropout: float = 0.0,
        context_shape: Sequence[int] = (),
        context_kind: str = "vector",
        checkpoint_layers: bool = False,
    ) -> None:
        super().__init__(factorization, context_shape=context_shape, context_kind=context_kind)
        _check(factorization)
        if as_positive(kernel_size, "kernel_size") % 2 == 0 or kernel_size == 1:
            raise ValueError(
                f"kernel_size: expected an odd number of at least 3, got {kernel_size}"
            )
        dilations = as_size(dilation, "dilation")
        if depth is None:
            reach = kernel_size // 2 * dilations[0] if is_integer(dilation) else 0
            sides = max(factorization.grid_shape)
            depth = min(-(-sides // (2 * reach)), 12) if reach else len(dilations)
        self.depth = depth = as_positive(depth, "depth")
        if is_integer(dilation):
            dilations = dilations * depth
        elif len(dilations) != depth:
            raise ValueError(
                f"dilation: expected one for all or one for each of {depth} layers, "
                f"got {tuple(dilations)}"
            )
        channels = block_width(factorization) if channels is None else channels
        self.channels = channels = as_positive(channels, "channels")
        self.embedding = BlockEmbedding(factorization, channels)
        # Convolutions alone depend on the position only through the zeros at the border.
        self.position = nn.Parameter(torch.randn(factorization.num_blocks, channels) * 0.1)
        body = LocallyMasked if symmetry_of(factorization) is None else GatedStacks
        self.body = body(
            factorization,
            channels=channels,
            kernel_size=kernel_size,
            dilations=dilations,
            context_size=self.context_shape[-1] if self.context_shape else 0,
            dropout=as_probability(dropout, "dropout"),
            checkpoint_layers=as_flag(checkpoint_layers, "checkpoint_layers"),
        )
        self.mix = nn.Linear(channels, channels)
        self.head = BlockHead(factorization, channels)

    def hidden_states(
        self, blocks: Tensor, context: Tensor | None = None, ranks: Tensor | None = None
    ) -> Tensor:
        features = self.embedding(blocks) + self.position  # (M * N, T, channels)
        grid = features.unflatten(1, self.factorization.grid_shape)  # (M * N, H, W, channels)
        hidden = self.body(grid, self.as_grid(context))
        return self.mixed(hidden.flatten(1, 2))

    def as_grid(self, context: Tensor | None) -> Tensor | None:
        """The context as (N, H, W, C), or (N, 1, 1, C) if it is one vector."""
        if context is None or self.context_kind == "blocks":
            return context
        return context[:, None, None]

    def mixed(self, hidden: Tensor) -> Tensor:
        """The inputs of the head from the outputs of the body, both (N, T, channels)."""
        return self.mix(hidden.relu()).relu()

    def make_decoder(
        self,
        factorization: Factorization,
        batch_size: int,
        context: Tensor | None,
        ranks: Tensor | None,
    ) -> Decoder:
        """A decoder that computes each layer once at each pixel."""
        return _PixelCNNDecoder(self, batch_size, context)

    def make_static_step(self, factorization: Factorization) -> StaticStep:
        """A step that keeps the inputs of layers, or a whole pass if masks differ by pixel."""
        if isinstance(self.body, GatedStacks):
            return _PixelCNNStep(self, factorization)
        return super().make_static_step(factorization)


def _check(factorization: Factorization) -> None:
    """Raises a `ValueError` if PixelCNN does not support a factorization."""
    if len(factorization.grid_shape) != 2:
        raise ValueError(
            f"factorization: PixelCNN takes a two-dimensional grid of blocks, "
            f"got one of shape {tuple(factorization.grid_shape)}; Partition.along makes a block of "
            f"the channels of a pixel"
        )
    if not factorization.is_uniform:
        raise ValueError(f"factorization: PixelCNN takes blocks of one family, got {factorization}")
    if not factorization.is_transitive:
        raise ValueError(
            f"factorization: PixelCNN needs transitive dependencies, since a pixel reads the "
            f"hidden states of those it depends on, got {factorization.ordering!r}"
        )


class _PixelCNNDecoder(Decoder):
    """Maps drawn pixels to features and hidden states to parameters, around the body's steps."""

    def __init__(self, network: PixelCNN, batch_size: int, context: Tensor | None) -> None:
        super().__init__(network.factorization, batch_size)
        self._network = network
        self._body = network.body.incremental(batch_size, network.as_grid(context))
        self._family, self._weight, bias = network.embedding.map_of(0)
        self._offsets = [network.position[step] + bias for step in self.factorization.steps]

    @torch.no_grad()
    def step(self, previous: Tensor | None) -> Tensor:
        features = None
        if previous is not None:
            features = self._read(previous, self._offsets[self.num_taken])
            self.num_taken += 1
        return self._params(self._body.step(features))

    @torch.no_grad()
    def prefill(self, blocks: Tensor) -> Tensor:
        self.num_taken = self._num_steps_of(blocks)
        features = self._read(blocks, torch.cat(self._offsets[: self.num_taken]))
        return self._params(self._body.prefill(features))

    def select(self, rows: Tensor) -> None:
        self._body.select(rows)
        self.batch_size = rows.shape[0]

    def _params(self, hidden: Tensor) -> Tensor:
        """The parameters of pixels from the outputs of the body, (rows, pixels, channels)."""
        return self._network.head(self._network.mixed(hidden))

    def _read(self, blocks: Tensor, offsets: Tensor) -> Tensor:
        """Features (rows, pixels, channels) of drawn blocks."""
        return self._family.project(blocks, self._weight) + offsets


class _PixelCNNStep(StaticStep):
    """Computes the vertical stack at the row of the new pixel, and the horizontal one at the pixel.

    Rows and columns are counted on the grid in raster order. For each layer the state has the
    inputs of the vertical part, (rows, channels, reach + H, reach + W + reach), and the inputs of
    the horizontal part at the new row, (rows, channels, 1, reach + W). The margins of `reach`
    pixels are zeros.
    """

    def start(self, blocks: Tensor, context: Tensor | None) -> tuple[Tensors, Tensors]:
        network, rows = self.network, blocks.shape[0]
        height, width = network.body.raster_grid
        encodings = network.body.encode(network.as_grid(context))
        channels, zeros = network.position.shape[1], network.position.new_zeros
        state = []
        for block in network.body.blocks:
            reach = block.reach
            state.append(zeros(rows, channels, reach + height, width + 2 * reach))
            state.append(zeros(rows, channels, 1, reach + width))
        return tuple(part for pair in encodings for part in pair if part is not None), tuple(state)

    def advance(
        self, blocks: Tensor, position: Tensor, encodings: Tensors, state: Tensors
    ) -> Tensor:
        network, width = self.network, self.network.body.raster_grid[1]
        row, column = (position // width).reshape(1), (position % width).reshape(1)
        columns = torch.arange(width, device=position.device)
        # The inputs of the first layer: the features of the row above and of the pixel before.
        above = self._features(blocks, (row - 1) * width + columns, row > 0)
        left = self._features(blocks, position.reshape(1) - 1, column > 0)
        for number, block in enumerate(network.body.blocks):
            grid, line = state[2 * number : 2 * number + 2]
            vertical, horizontal = self._encodings_at(encodings, number, row, column)
            reach = block.reach
            grid[..., reach : reach + width].index_copy_(2, row + reach, above)
            rows = torch.arange(reach + 1, device=position.device) + row
            above = above + block.from_above(grid.index_select(2, rows), vertical)
            rest = block.to_left(above.index_select(3, column), horizontal)
            line.index_copy_(3, column + reach, left)
            taps = torch.arange(reach + 1, device=position.device) + column
            left = left + block.out(block.from_left(line.index_select(3, taps), rest))
        return network.head(network.mixed(left.flatten(2).transpose(1, 2)))

    def _features(self, blocks: Tensor, steps: Tensor, inside: Tensor) -> Tensor:
        """The features of pixels by their steps, (rows, channels, 1, pixels); zeros if outside."""
        pixels = self.order.index_select(0, steps.clamp(min=0))
        features = self.network.embedding(blocks.index_select(1, pixels))
        features = features + self.network.position.index_select(0, pixels)
        return torch.where(inside, features, 0.0).transpose(1, 2).unsqueeze(2)

    def _encodings_at(
        self, encodings: Tensors, layer: int, row: Tensor, column: Tensor
    ) -> Encodings:
        """A layer's encodings at the row, for the vertical part, and at the pixel."""
        if not encodings:
            return None, None
        vertical, horizontal = (
            encoding_at(part, row, 2).unsqueeze(2) for part in encodings[2 * layer : 2 * layer + 2]
        )
        return vertical, encoding_at(horizontal, column, 3).unsqueeze(3)
