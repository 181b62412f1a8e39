"""What networks over a sequence of blocks share: reading blocks, their order, and heads."""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ardist.drawing_order import Permutation
from ardist.factorization import Factorization
from ardist.families import Family
from ardist.networks.base import ConditionalNetwork, fingerprint, start_near_noise


class BlockEmbedding(nn.Module):
    """Drawn blocks as vectors, read through each family's `project`.

    One map serves all blocks where they have one family, so that their number is free;
    otherwise each block has its own.
    """

    def __init__(self, factorization: Factorization, size: int) -> None:
        super().__init__()
        self._layout = layout = factorization.layout
        sizes = layout.sizes["feature"]
        self._sizes = sizes if layout.flat else sizes[:1]
        self._ends = [0, *accumulate(self._sizes)]
        # A row for each feature, which a categorical block picks.
        self.weight = nn.Parameter(torch.empty(sum(self._sizes), size))
        self.bias = nn.Parameter(torch.zeros(len(self._sizes), size))
        with torch.no_grad():
            for part in self.weight.split(self._sizes):
                part.normal_(std=part.shape[0] ** -0.5)

    def map_of(self, block: int) -> tuple[Family, Tensor, Tensor]:
        """A block's family and the weight (size, num_features) and bias (size,) that read it."""
        index = block if self._layout.flat else 0
        weight = self.weight[self._ends[index] : self._ends[index + 1]]
        return self._layout.families[index], weight.T, self.bias[index]

    def forward(self, blocks: Tensor, which: Sequence[int] | None = None) -> Tensor:
        """Blocks as vectors (N, num_blocks, size); all in raster order, or `which` of them."""
        if not self._layout.flat:
            family, weight, bias = self.map_of(0)
            return family.project(blocks, weight, bias)
        sizes = self._layout.sizes["value"]
        maps: Iterable[tuple[Family, Tensor, Tensor]]
        if which is None:  # split once, or each block would have a gradient of all weights
            weights = (weight.T for weight in self.weight.split(self._sizes))
            maps = zip(self._layout.families, weights, self.bias.unbind(), strict=True)
        else:
            maps, sizes = map(self.map_of, which), [sizes[block] for block in which]
        vectors = []
        for (family, weight, bias), piece in zip(maps, blocks.split(sizes, -1), strict=True):
            value = piece.reshape(blocks.shape[0], *family.event_shape)
            vectors.append(family.project(value, weight, bias))
        return torch.stack(vectors, 1)


class BlockHead(nn.Module):
    """Vectors to the conditionals' parameters, as `BlockEmbedding` shared or one for each block."""

    def __init__(self, factorization: Factorization, size: int) -> None:
        super().__init__()
        self._layout = layout = factorization.layout
        sizes = layout.sizes["param"]
        self._sizes = sizes if layout.flat else sizes[:1]
        self._ends = [0, *accumulate(self._sizes)]
        linear = nn.Linear(size, sum(self._sizes))
        self.weight, self.bias = linear.weight, linear.bias
        start_near_noise(factorization, self)

    def map_of(self, block: int) -> tuple[Tensor, Tensor]:
        """The weight (num_params, size) and bias (num_params,) of a block."""
        index = block if self._layout.flat else 0
        rows = slice(self._ends[index], self._ends[index + 1])
        return self.weight[rows], self.bias[rows]

    def forward(self, hidden: Tensor, which: Sequence[int] | None = None) -> Tensor:
        """(N, num_blocks, size) to (N, num_blocks, num_params), or flat (N, total)."""
        if not self._layout.flat:
            return F.linear(hidden, self.weight, self.bias)
        maps: Iterable[tuple[Tensor, Tensor]]
        if which is None:  # as for embeddings
            parts = self.weight.split(self._sizes), self.bias.split(self._sizes)
            maps = zip(*parts, strict=True)
        else:
            maps = map(self.map_of, which)
        each = zip(hidden.unbind(1), maps, strict=True)
        return torch.cat([F.linear(h, weight, bias) for h, (weight, bias) in each], -1)


class SequenceNetwork(ConditionalNetwork):
    """A network over the blocks in the order of drawing, in any order without ties.

    It accepts a factorization of any length in its own order, where the blocks have one family.
    """

    context_kinds: ClassVar[tuple[str, ...]] = ("vector", "blocks")

    def __init__(
        self,
        factorization: Factorization,
        *,
        context_shape: Sequence[int] = (),
        context_kind: str = "vector",
    ) -> None:
        super().__init__(factorization, context_shape=context_shape, context_kind=context_kind)
        if (reason := self._refuses(factorization)) is not None:
            raise ValueError(f"factorization: {reason}")
        self._permutation = Permutation.of_ranks(factorization.ranks.flatten())

    def _refuses(self, factorization: Factorization) -> str | None:
        if not factorization.is_total:
            return (
                f"{type(self).__name__} follows orders in which each block depends on all that "
                f"come before it, without ties, got {factorization.ordering!r}"
            )
        return None

    def unsupported_reason(self, factorization: Factorization) -> str | None:
        own = self.factorization
        if not (own.is_uniform and factorization.families == own.families):
            return super().unsupported_reason(factorization)
        if self.context_kind == "blocks" and self.context_shape:
            return super().unsupported_reason(factorization)
        if factorization.ordering != own.ordering and factorization != own:
            return f"{type(self).__name__} was trained in the order {own.ordering!r}"
        return self._refuses(factorization)

    def permutation(self, ranks: Tensor | None, device: torch.device) -> Permutation:
        """Between raster order and the order of drawing: that of `ranks`, or its own."""
        return (self._permutation if ranks is None else Permutation.of_ranks(ranks)).to(device)

    def _fingerprint(self) -> dict[str, list[str]]:
        """Of what all lengths share, where any length fits."""
        return fingerprint(self.factorization, any_length=self.factorization.is_uniform)


class UniformNetwork(SequenceNetwork):
    """A sequence network with one map for all blocks, which so need one family.

    A subclass defines `in_order`, where raster order is of no concern.
    """

    def _refuses(self, factorization: Factorization) -> str | None:
        families = factorization.layout.families
        other = next((block for block, f in enumerate(families) if f != families[0]), None)
        if other is not None:
            name = factorization.block_name
            return (
                f"{type(self).__name__} has one map for all blocks, which need one family, got "
                f"{families[0]} for {name(0)} and {families[other]} for {name(other)}"
            )
        return super()._refuses(factorization)

    def in_order(self, blocks: Tensor, context: Tensor | None) -> Tensor:
        """`forward` for blocks and a context that are in the order of drawing."""
        raise NotImplementedError(f"{type(self).__name__} does not define in_order")

    def forward(
        self, blocks: Tensor, context: Tensor | None = None, ranks: Tensor | None = None
    ) -> Tensor:
        order = self.permutation(ranks, blocks.device)
        params = self.in_order(order.to_drawing(blocks), self.context_in_order(context, order))
        return order.to_raster(params)

    def context_in_order(self, context: Tensor | None, order: Permutation) -> Tensor | None:
        """The context, with a vector for each block in the order of drawing: (N, num_blocks, C)."""
        if context is None or self.context_kind == "vector":
            return context
        return order.to_drawing(context.unsqueeze(1).flatten(1, -2))  # on any grid
