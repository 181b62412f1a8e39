"""The base of networks over a sequence of blocks: embeddings, heads and the order of blocks."""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ardist.drawing_order import Permutation
from ardist.factorization import Factorization
from ardist.families import Family
from ardist.networks.base import ConditionalNetwork, start_near_noise
from ardist.networks.fingerprint import fingerprint
from ardist.rows import X
from ardist.static import StaticStep


class BlockEmbedding(nn.Module):
    """Maps blocks to vectors, by each family's `project`.

    If all blocks have one family they share one map, for any number of blocks. Otherwise each block
    has its own map.

    Args:
        factorization: the blocks and their families.
        size: the size of the vectors.
    """

    def __init__(self, factorization: Factorization, size: int) -> None:
        super().__init__()
        self._layout = layout = factorization.layout
        sizes = layout.sizes["feature"]
        self._sizes = sizes if layout.flat else sizes[:1]
        self._ends = [0, *accumulate(self._sizes)]
        # A row for each feature. A categorical block gathers one row.
        self.weight = nn.Parameter(torch.empty(sum(self._sizes), size))
        self.bias = nn.Parameter(torch.zeros(len(self._sizes), size))
        with torch.no_grad():
            for part in self.weight.split(self._sizes):
                part.normal_(std=part.shape[0] ** -0.5)

    def map_of(self, block: int) -> tuple[Family, Tensor, Tensor]:
        """The family, weight (size, num_features) and bias (size,) of a block."""
        index = block if self._layout.flat else 0
        weight = self.weight[self._ends[index] : self._ends[index + 1]]
        return self._layout.families[index], weight.T, self.bias[index]

    def forward(self, blocks: Tensor, which: Sequence[int] | None = None) -> Tensor:
        """Vectors (N, num_blocks, size) of all blocks in raster order, or of `which` blocks."""
        if not self._layout.flat:
            family, weight, bias = self.map_of(0)
            return family.project(blocks, weight, bias)
        sizes = self._layout.sizes["value"]
        maps: Iterable[tuple[Family, Tensor, Tensor]]
        if which is None:  # one split, since the gradient of each slice is as large as all weights
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
    """Maps vectors to the conditionals' parameters, by one map or one map for each block.

    Args:
        factorization: the blocks and their families.
        size: the size of the vectors.
    """

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
        """From (N, num_blocks, size) to (N, num_blocks, num_params), or to flat (N, total)."""
        if not self._layout.flat:
            return F.linear(hidden, self.weight, self.bias)
        maps: Iterable[tuple[Tensor, Tensor]]
        if which is None:  # one split, as in `BlockEmbedding`
            parts = self.weight.split(self._sizes), self.bias.split(self._sizes)
            maps = zip(*parts, strict=True)
        else:
            maps = map(self.map_of, which)
        pairs = zip(hidden.unbind(1), maps, strict=True)
        return torch.cat([F.linear(h, weight, bias) for h, (weight, bias) in pairs], -1)


class SequenceNetwork(ConditionalNetwork):
    """A network over the blocks in autoregressive order, for any order without ties.

    If the blocks have one family, it supports factorizations of any length in its own order.
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
        if (reason := self._invalid_reason(factorization)) is not None:
            raise ValueError(f"factorization: {reason}")
        self._permutation = Permutation.of_ranks(factorization.ranks.flatten())

    def _invalid_reason(self, factorization: Factorization) -> str | None:
        """Why no such network can be built for a factorization, or None if one can."""
        if not factorization.is_total:
            return (
                f"{type(self).__name__} needs an order without ties, in which each block depends "
                f"on all earlier blocks, got {factorization.ordering!r}"
            )
        return None

    def unsupported_reason(self, factorization: Factorization) -> str | None:
        built_for = self.factorization
        if not (built_for.is_uniform and factorization.families == built_for.families):
            return super().unsupported_reason(factorization)
        if self.context_kind == "blocks" and self.context_shape and factorization != built_for:
            return self._built_for(" with context_kind='blocks'")
        if factorization.ordering != built_for.ordering and factorization != built_for:
            return f"{type(self).__name__} was trained in the order {built_for.ordering!r}"
        return self._invalid_reason(factorization)

    def permutation(self, ranks: Tensor | None, device: torch.device) -> Permutation:
        """The permutation between raster order and the order of `ranks`, or the network's order."""
        return (self._permutation if ranks is None else Permutation.of_ranks(ranks)).to(device)

    def context_in_order(self, context: X, order: Permutation) -> X:
        """The context with its blocks in the order of drawing: (N, C) or (N, num_blocks, C)."""
        if context is None or self.context_kind == "vector":
            return context
        return order.to_drawing(context.unsqueeze(1).flatten(1, -2))  # for any grid, even ()

    def _fingerprint(self) -> dict[str, list[str]]:
        """As for any network, but without the length if the network supports any length."""
        return fingerprint(self.factorization, any_length=self.factorization.is_uniform)


class UniformNetwork(SequenceNetwork):
    """A sequence network with one map for all blocks, which must have one family.

    A subclass defines `in_order`, which only handles blocks in the order of drawing.
    """

    def _invalid_reason(self, factorization: Factorization) -> str | None:
        families = factorization.layout.families
        other = next((block for block, f in enumerate(families) if f != families[0]), None)
        if other is not None:
            name = factorization.block_name
            return (
                f"{type(self).__name__} needs blocks of one family, since it has one map for all "
                f"blocks, got {families[0]} for {name(0)} and {families[other]} for {name(other)}"
            )
        return super()._invalid_reason(factorization)

    def in_order(self, blocks: Tensor, context: Tensor | None) -> Tensor:
        """The same as `forward` with all blocks in the order of drawing: (rows, T, num_params).

        Args:
            blocks: (rows, T, *block_shape).
            context: (N, C), or (N, T, C) if its kind is "blocks".
        """
        raise NotImplementedError(f"{type(self).__name__} does not define in_order")

    def forward(
        self, blocks: Tensor, context: Tensor | None = None, ranks: Tensor | None = None
    ) -> Tensor:
        order = self.permutation(ranks, blocks.device)
        params = self.in_order(order.to_drawing(blocks), self.context_in_order(context, order))
        return order.to_raster(params)


class SequenceStep(StaticStep):
    """A step of a network that has an embedding, a vector `start` and a head."""

    def read(self, blocks: Tensor, position: Tensor, start: Tensor) -> Tensor:
        """The embedding of the block of the step before, or `start` at first: (rows, size)."""
        before = self.block_at(position - 1)
        if self.is_single:
            vectors = self.network.embedding(blocks.index_select(1, before))
        else:
            vectors = self.network.embedding(blocks).index_select(1, before)
        return torch.where(position == 0, start, vectors.squeeze(1))

    def params_of(self, hidden: Tensor) -> Tensor:
        """The parameters that `advance` returns, from a hidden state (rows, size)."""
        count = 1 if self.is_single else self.factorization.num_blocks
        params: Tensor = self.network.head(hidden.unsqueeze(1).expand(-1, count, -1))
        return params


def encoding_at(encoding: Tensor, position: Tensor, dim: int = 1) -> Tensor:
    """The entry of an encoding at a step; along `dim` it has one for each step, or one for all."""
    return (
        encoding.select(dim, 0)
        if encoding.shape[dim] == 1
        else encoding.index_select(dim, position.reshape(1)).squeeze(dim)
    )
