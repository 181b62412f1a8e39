"""The rows of one call: events with any leading dimensions as rows of one, and back."""

from functools import cached_property
from math import prod

import torch
from torch import Size, Tensor

from ardist.bound_network import BoundNetwork
from ardist.drawing_order import DrawingOrder


class Batch:
    """Rows that a bound network computes together, each with its order and its evidence.

    A network sees one leading dimension. The leading dimensions of events are flattened so that
    those along which the context varies come last: row i has context i % N.

    Args:
        bound: the network.
        lead: the leading dimensions.
        ranks: an order for each row, (..., num_blocks), whose leading dimensions broadcast
            to `lead`.
        evidence: values and a mask of the observed elements, (..., *event_shape), which broadcast
            in the same way.

    Attributes:
        num_rows: the product of `lead`.
        ranks: (rows, num_blocks), or None.
        evidence: the blocks of values and mask in raster order, (rows, *value_shape), or None.
    """

    def __init__(
        self,
        bound: BoundNetwork,
        lead: Size,
        ranks: Tensor | None = None,
        evidence: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.bound, self.lead = bound, lead
        self.factorization = bound.factorization
        self.layout = bound.factorization.layout
        self.num_rows = prod(lead)
        context = (1,) * (len(lead) - len(bound.context_batch)) + bound.context_batch
        shared = [dim for dim, size in enumerate(context) if size == 1]
        self._dims = shared + [dim for dim, size in enumerate(context) if size != 1]
        self.ranks = None if ranks is None else self.flatten(ranks, ranks.shape[-1:])
        self.evidence: tuple[Tensor, Tensor] | None = None
        if evidence is not None:
            self.evidence = self.blocks(evidence[0]), self.blocks(evidence[1])

    def flatten(self, x: Tensor, shape: Size) -> Tensor:
        """(..., *shape), broadcast to all leading dimensions, as rows (rows, *shape)."""
        x = x.expand((*self.lead, *shape))
        dims = (*self._dims, *range(len(self.lead), x.dim()))
        return x.permute(dims).reshape((self.num_rows, *shape))

    def unflatten(self, rows: Tensor) -> Tensor:
        """The inverse: (rows, *shape) as (*lead, *shape)."""
        x = rows.reshape((*(self.lead[dim] for dim in self._dims), *rows.shape[1:]))
        inverse = sorted(range(len(self._dims)), key=self._dims.__getitem__)
        return x.permute((*inverse, *range(len(self.lead), x.dim())))

    def blocks(self, events: Tensor) -> Tensor:
        """The blocks of events (..., *event_shape) in raster order: (rows, *value_shape)."""
        return self.factorization.split(self.flatten(events, self.factorization.event_shape))

    def events(self, blocks: Tensor) -> Tensor:
        """The inverse: (*lead, *event_shape)."""
        return self.unflatten(self.factorization.merge(blocks))

    @cached_property
    def order(self) -> DrawingOrder:
        """The order of drawing: one for all rows, or one for each."""
        shared = self.factorization.drawing_order
        return shared if self.ranks is None else DrawingOrder(self.layout, (), self.ranks)

    @property
    def all_ranks(self) -> Tensor:
        """Ranks of the blocks: (num_blocks,), or (rows, num_blocks)."""
        return self.factorization.ranks.flatten() if self.ranks is None else self.ranks

    @cached_property
    def is_partial(self) -> bool:
        """Whether a block is observed in part."""
        return self.evidence is not None and self.layout.is_partially_observed(self.evidence[1])

    def forward(self, blocks: Tensor) -> Tensor:
        """The parameters of all blocks, each given the blocks before it: teacher forcing."""
        return self.bound.forward(blocks, self.ranks)

    def hidden_states(self, blocks: Tensor) -> Tensor:
        """The hidden states from which the parameters follow, (rows, num_blocks, size)."""
        return self.bound.hidden_states(blocks, self.ranks)

    @cached_property
    def placeholders(self) -> Tensor:
        """Blocks inside the support, for those that are not drawn: (rows, *value_shape)."""
        reference, rule = self.bound.reference, self.factorization.rule
        if rule is None:
            each = self.layout.placeholder(reference)
        else:
            dtype = self.layout.dtype(reference.dtype)
            each = torch.full((), rule.pad, dtype=dtype, device=reference.device)
        return each.expand(self.num_rows, *self.layout.value_shape)

    @property
    def zeros(self) -> Tensor:
        """A score of zero for each block: (rows, num_blocks)."""
        return self.bound.reference.new_zeros(self.num_rows, self.layout.num_blocks)
