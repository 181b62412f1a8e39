"""What networks over a sequence of blocks share: reading blocks, their order, and heads."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ardist.factorization import Factorization
from ardist.families import Family
from ardist.networks.base import ConditionalNetwork


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
        self.weight = nn.Parameter(torch.empty(size, sum(self._sizes)))
        self.bias = nn.Parameter(torch.zeros(len(self._sizes), size))
        with torch.no_grad():
            for part in self.weight.split(self._sizes, 1):
                part.normal_(std=part.shape[1] ** -0.5)

    def map_of(self, block: int) -> tuple[Family, Tensor, Tensor]:
        """A block's family and the weight (size, num_features) and bias (size,) that read it."""
        index = block if self._layout.flat else 0
        weight = self.weight.split(self._sizes, 1)[index]
        return self._layout.families[index], weight, self.bias[index]

    def forward(self, blocks: Tensor) -> Tensor:
        """Blocks of a row in raster order of the grid as (N, num_blocks, size)."""
        if not self._layout.flat:
            family, weight, bias = self.map_of(0)
            return family.project(blocks, weight, bias)
        pieces = blocks.split(self._layout.sizes["value"], -1)
        vectors = []
        for block, piece in enumerate(pieces):
            family, weight, bias = self.map_of(block)
            value = piece.reshape(len(blocks), *family.event_shape)
            vectors.append(family.project(value, weight, bias))
        return torch.stack(vectors, 1)


class BlockHead(nn.Module):
    """Vectors to the conditionals' parameters, as `BlockEmbedding` shared or one for each block."""

    def __init__(self, factorization: Factorization, size: int) -> None:
        super().__init__()
        self._layout = layout = factorization.layout
        sizes = layout.sizes["param"]
        self._sizes = sizes if layout.flat else sizes[:1]
        linear = nn.Linear(size, sum(self._sizes))
        self.weight, self.bias = linear.weight, linear.bias

    def map_of(self, block: int) -> tuple[Tensor, Tensor]:
        """The weight (num_params, size) and bias (num_params,) of a block."""
        index = block if self._layout.flat else 0
        return self.weight.split(self._sizes)[index], self.bias.split(self._sizes)[index]

    def forward(self, hidden: Tensor) -> Tensor:
        """(N, num_blocks, size) to (N, num_blocks, num_params), or flat (N, total)."""
        if not self._layout.flat:
            return F.linear(hidden, self.weight, self.bias)
        parts = [F.linear(h, *self.map_of(block)) for block, h in enumerate(hidden.unbind(1))]
        return torch.cat(parts, -1)


def drawing_order(ranks: Tensor) -> Tensor | None:
    """The blocks of total ranks in the order of drawing; None where it is raster order."""
    order = ranks.argsort()
    return None if torch.equal(order, torch.arange(len(order), device=order.device)) else order


class SequenceNetwork(ConditionalNetwork):
    """A network over the blocks in the order of drawing, in any order without ties.

    It accepts a factorization of any length in its own order, where the blocks have one family.
    """

    context_kinds = ("vector", "blocks")

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
        self._order = drawing_order(factorization.ranks.flatten())

    def _refuses(self, factorization: Factorization) -> str | None:
        if not factorization.is_total:
            return (
                f"{type(self).__name__} follows orders in which each block depends on all that "
                f"come before it, without ties, got {factorization.ordering}"
            )
        return None

    def accepts(self, factorization: Factorization) -> str | None:
        own = self.factorization
        if not (own.is_uniform and factorization.families == own.families):
            return super().accepts(factorization)
        if self.context_kind == "blocks" and self.context_shape:
            return super().accepts(factorization)
        if factorization.ordering != own.ordering and factorization != own:
            return f"{type(self).__name__} was trained in the order {own.ordering}"
        return self._refuses(factorization)

    def order(self, ranks: Tensor | None, device: torch.device) -> Tensor | None:
        """The blocks in the order of drawing; None where it is raster order."""
        order = self._order if ranks is None else drawing_order(ranks)
        return None if order is None else order.to(device)

    def _fingerprint(self) -> dict[str, object]:
        """Any length fits, so a state says only the order and the families."""
        if not self.factorization.is_uniform:
            return super()._fingerprint()
        ordering = self.factorization.ordering
        return {"families": str(self.factorization.families[0]), "ordering": repr(ordering)}
