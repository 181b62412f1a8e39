"""The rows of one call: flattens the leading dimensions of events to one, and back."""

from functools import cached_property
from math import prod
from typing import Any

from torch import Size, Tensor

from ardist.bound_network import BoundNetwork
from ardist.drawing_order import DrawingOrder
from ardist.restriction import Restriction
from ardist.rows import repeat_rows
from ardist.rules.base import State


class Batch:
    """Rows that a bound network computes together, each with its order and its evidence.

    A network sees one leading dimension. The leading dimensions of events are flattened, and the
    dimensions along which the context varies come last: row i has context i % N.

    Args:
        bound: the network.
        lead: the leading dimensions.
        ranks: an order for each row, (..., num_blocks), whose leading dimensions broadcast
            to `lead`.
        evidence: values and a mask of the observed elements, (..., *event_shape), which broadcast
            in the same way.

    Attributes:
        layout: the conditionals, which a rule may restrict.
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
        self.layout = bound.factorization.conditionals
        self.restriction = bound.factorization.restriction
        self.num_rows = prod(lead)
        context = (1,) * (len(lead) - len(bound.context_batch)) + bound.context_batch
        shared = [dim for dim, size in enumerate(context) if size == 1]
        self._dims = shared + [dim for dim, size in enumerate(context) if size != 1]
        self.ranks = None if ranks is None else self.flatten(ranks, ranks.shape[-1:])
        self.evidence: tuple[Tensor, Tensor] | None = None
        if evidence is not None:
            self.evidence = self.blocks(evidence[0]), self.blocks(evidence[1])

    def flatten(self, x: Tensor, shape: Size) -> Tensor:
        """Broadcasts (..., *shape) to all leading dimensions, and flattens it to (rows, *shape)."""
        x = x.expand((*self.lead, *shape))
        dims = (*self._dims, *range(len(self.lead), x.dim()))
        return x.permute(dims).reshape((self.num_rows, *shape))

    def unflatten(self, rows: Tensor) -> Tensor:
        """The inverse of `flatten`: from (rows, *shape) to (*lead, *shape)."""
        x = rows.reshape((*(self.lead[dim] for dim in self._dims), *rows.shape[1:]))
        inverse = sorted(range(len(self._dims)), key=self._dims.__getitem__)
        return x.permute((*inverse, *range(len(self.lead), x.dim())))

    def blocks(self, events: Tensor) -> Tensor:
        """The blocks of events (..., *event_shape) in raster order: (rows, *value_shape)."""
        return self.factorization.split(self.flatten(events, self.factorization.event_shape))

    def events(self, blocks: Tensor) -> Tensor:
        """The inverse of `blocks`: (*lead, *event_shape)."""
        return self.unflatten(self.factorization.merge(blocks))

    @cached_property
    def order(self) -> DrawingOrder:
        """The order of drawing: one for all rows, or one for each row."""
        shared = self.factorization.conditional_order
        return shared if self.ranks is None else DrawingOrder(self.layout, (), self.ranks)

    @cached_property
    def source(self) -> DrawingOrder:
        """The order of the conditionals that blocks are drawn from, which do not have the rule if
        it corrects draws.
        """
        if self.restriction is None or not self.restriction.corrects:
            return self.order
        if self.ranks is None:
            return self.factorization.drawing_order
        return DrawingOrder(self.factorization.layout, (), self.ranks)

    @property
    def all_ranks(self) -> Tensor:
        """The ranks of the blocks: (num_blocks,), or (rows, num_blocks)."""
        return self.factorization.ranks.flatten() if self.ranks is None else self.ranks

    @cached_property
    def is_partial(self) -> bool:
        """Whether a block is observed in part."""
        return self.evidence is not None and self.layout.is_partially_observed(self.evidence[1])

    def forward(self, blocks: Tensor, sweep: Any = None) -> Tensor:
        """The parameters of all blocks, each given the blocks before it: teacher forcing."""
        limits = self.limits(blocks)
        if self.restriction is not None and limits is not None:
            self.restriction.check_events(blocks, limits, self.ranks)
        return self.restrict(self.plain_forward(blocks, sweep), limits)

    def plain_forward(self, blocks: Tensor, sweep: Any = None) -> Tensor:
        """The parameters that the network computes, without the limits of a rule."""
        return self.bound.forward(self.readable(blocks), self.ranks, sweep=sweep)

    @property
    def reads_sets(self) -> bool:
        """Whether one pass gives a step of the rows' own orders, and all steps take one each."""
        return self.ranks is not None and self.bound.unwrapped.has_masks

    def step_forward(self, blocks: Tensor, step: int) -> Tensor:
        """The parameters of all blocks by one pass. Those of the blocks of the step are right."""
        observed = self.ranks < step if self.ranks is not None and self.reads_sets else None
        return self.bound.forward(self.readable(blocks), self.ranks, observed)

    def readable(self, blocks: Tensor) -> Tensor:
        """The blocks as a network reads them: without constants outside of supports."""
        if self.restriction is None:
            return blocks
        return self.restriction.readable(self.layout, blocks)

    def limits(self, blocks: Tensor) -> Tensor | None:
        """The limits of each block given the blocks before it; None without a rule."""
        if self.restriction is None:
            return None
        return self.restriction.limits(blocks, self.ranks, self.contexts, self.bound.reference)

    def before(self, blocks: Tensor) -> State:
        """The state of the rule before each block, (rows, num_blocks, ...)."""
        if self.restriction is None:
            return None
        reference = self.bound.reference
        return self.restriction.before_all(blocks, self.ranks, self.contexts, reference)

    def restrict(self, params: Tensor, limits: Tensor | None) -> Tensor:
        """The parameters of all blocks under the limits of the rule."""
        return params if self.restriction is None else self.restriction.restrict(params, limits)

    def contexts_for(self, restriction: Restriction | None) -> Tensor | None:
        """The context of each row, (rows, *context_shape), if the rule reads it."""
        if restriction is None or not restriction.rule.reads_context:
            return None
        return repeat_rows(self.bound.contexts, self.num_rows)

    @property
    def contexts(self) -> Tensor | None:
        """The contexts that the rule of the factorization reads."""
        return self.contexts_for(self.restriction)

    def inside(self, blocks: Tensor) -> Tensor:
        """Whether each block is inside its support and follows the rule: (rows, num_blocks)."""
        limits = self.limits(blocks)
        if self.restriction is None or limits is None:
            return self.layout.inside(blocks)
        return self.restriction.inside(blocks, limits)

    def hidden_states(self, blocks: Tensor) -> Tensor:
        """The hidden states that the head maps to parameters, (rows, num_blocks, size)."""
        return self.bound.hidden_states(self.readable(blocks), self.ranks)

    @cached_property
    def placeholders(self) -> Tensor:
        """Values inside the support, for blocks that are not drawn: (rows, *value_shape)."""
        each = self.factorization.placeholder(self.bound.reference)
        return each.expand(self.num_rows, *self.layout.value_shape)

    @property
    def zeros(self) -> Tensor:
        """A score of zero for each block: (rows, num_blocks)."""
        return self.bound.reference.new_zeros(self.num_rows, self.layout.num_blocks)
