"""The base of networks that predict every block from any set of the others."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ardist.decoding import Decoder, WholePasses
from ardist.factorization import Factorization
from ardist.networks.base import ConditionalNetwork
from ardist.networks.constants import reference_of, register_constant
from ardist.networks.fingerprint import fingerprint
from ardist.rows import repeat_rows
from ardist.shapes import as_positive, is_readable
from ardist.static import StaticStep, WholePassStep


@dataclass(frozen=True)
class Passes:
    """The sets of blocks that `under_order` conditions on, in one pass of the network for each set.

    Attributes:
        count: the number of sets, K.
        owner: the index of the set on which each block depends, int64: (T,), or (rows, T) if the
            rows have orders of their own.
        sets: (K, T) bool, the sets of a graph. None if set k has the blocks whose owner is
            less than k, as in any ranking.
    """

    count: int
    owner: Tensor
    sets: Tensor | None

    def visible(self, start: int, stop: int) -> Tensor:
        """The sets from `start` to `stop`: (stop - start, T) or (rows, stop - start, T) bool."""
        if self.sets is not None:
            return self.sets[start:stop]
        steps = torch.arange(start, stop, device=self.owner.device)
        return self.owner.unsqueeze(-2) < steps.unsqueeze(-1)

    def of_rows(self, rows: slice) -> "Passes":
        """The passes of some rows."""
        if self.owner.dim() == 1:
            return self
        return replace(self, owner=self.owner[rows])


class AnySet(ConditionalNetwork):
    """A network that reads any set of blocks and its mask, and predicts all other blocks.

    One pass gives the conditionals of all blocks given one set. Under an order each step has its
    own set, so `forward` makes a pass for each step. The passes are batched.

    A subclass defines `predict`. It may override `under_order` if the passes of an order share
    work.

    Args:
        factorization: with any order, which may change from call to call and from row to row.
        context_shape: as for `ConditionalNetwork`.
        context_kind: as for `ConditionalNetwork`.
        chunk_size: the largest number of passes of a row in one batch; all by default.
    """

    has_row_orders = True
    has_masks = True
    _owner: Tensor
    _sets: Tensor | None

    def __init__(
        self,
        factorization: Factorization,
        *,
        context_shape: Sequence[int] = (),
        context_kind: str = "vector",
        chunk_size: int | None = None,
    ) -> None:
        super().__init__(factorization, context_shape=context_shape, context_kind=context_kind)
        self.chunk_size = None if chunk_size is None else as_positive(chunk_size, "chunk_size")
        sets, owner = None, factorization.ranks.flatten()
        if is_partial_order(factorization):
            sets, owner = torch.unique(factorization.dependencies, dim=0, return_inverse=True)
        register_constant(self, "_owner", owner)
        register_constant(self, "_sets", sets)
        self._num_passes = int(owner.max()) + 1

    @abstractmethod
    def predict(self, blocks: Tensor, observed: Tensor, context: Tensor | None) -> Tensor:
        """The parameters of every block given the observed blocks, in one pass.

        Args:
            blocks: as in `forward`. Blocks that are not observed have no effect.
            observed: (M * N, num_blocks) bool.
            context: as in `forward`.

        Returns:
            (M * N, *param_shape). The parameters of an observed block may depend on the block.
        """

    def forward(
        self,
        blocks: Tensor,
        context: Tensor | None = None,
        ranks: Tensor | None = None,
        observed: Tensor | None = None,
    ) -> Tensor:
        """The parameters of all conditionals, under an order or given one set for each row.

        Args:
            blocks: as in `ConditionalNetwork.forward`.
            context: as in `ConditionalNetwork.forward`.
            ranks: as in `ConditionalNetwork.forward`, with or without ties.
            observed: (M * N, num_blocks) bool. If given, all blocks are predicted from these
                blocks in one pass, and the order has no effect.
        """
        if observed is not None:
            return self.predict(blocks, observed, context)
        return self.under_order(blocks, context, self._passes(ranks))

    def _passes(self, ranks: Tensor | None) -> Passes:
        if ranks is None:
            return Passes(self._num_passes, self._owner, self._sets)
        # While a graph is recorded, and on other devices, there are as many passes as blocks.
        count = int(ranks.max()) + 1 if is_readable(ranks) else ranks.shape[-1]
        return Passes(count, ranks, None)

    def under_order(self, blocks: Tensor, context: Tensor | None, passes: Passes) -> Tensor:
        """The parameters of all conditionals, (M * N, *param_shape), each from its own set."""
        rows, layout = blocks.shape[0], self.factorization.layout
        at_once = passes.count if self.chunk_size is None else max(1, self.chunk_size // rows)
        params = blocks.new_empty(0)
        owner = passes.owner.index_select(-1, self._blocks_of("param"))  # (., total params)
        owner = owner.reshape((*owner.shape[:-1], *layout.param_shape))
        for start in range(0, passes.count, at_once):
            stop = min(start + at_once, passes.count)
            visible = passes.visible(start, stop).expand(rows, -1, -1)  # (M * N, n, T)
            repeated = repeat_rows(blocks, rows * (stop - start))  # pass after pass
            found = self.predict(repeated, visible.transpose(0, 1).flatten(0, 1), context)
            for index, part in enumerate(found.unflatten(0, (-1, rows)).unbind(), start):
                params = torch.where(owner == index, part, params) if index else part
        return params

    def _blocks_of(self, kind: str) -> Tensor:
        """The block of each entry of a kind (see `Layout.sizes`), (total,) int64."""
        sizes = self.factorization.layout.sizes[kind]
        return torch.repeat_interleave(torch.tensor(sizes)).to(self._owner.device)

    def make_decoder(
        self,
        factorization: Factorization,
        batch_size: int,
        context: Tensor | None,
        ranks: Tensor | None,
    ) -> Decoder:
        """A decoder that makes one pass for each step."""
        if is_partial_order(factorization):  # the blocks of a step may depend on different sets
            return super().make_decoder(factorization, batch_size, context, ranks)
        decoder = _AnySetDecoder(
            self._evaluate, factorization, batch_size, context, ranks, reference=reference_of(self)
        )
        decoder.max_window = 1  # a guess of all blocks would take as many passes as steps
        return decoder

    def make_static_step(self, factorization: Factorization) -> StaticStep:
        """A step that makes one pass."""
        if is_partial_order(factorization):
            return super().make_static_step(factorization)
        return _AnySetStep(self, factorization)

    def unsupported_reason(self, factorization: Factorization) -> str | None:
        built_for, name = self.factorization, type(self).__name__
        if factorization == built_for:
            return None
        own = (built_for.families, built_for.event_shape, built_for.partition)
        if (factorization.families, factorization.event_shape, factorization.partition) != own:
            return super().unsupported_reason(factorization)
        if is_partial_order(factorization):
            return f"{name} takes another order as ranks, which cannot express a graph"
        return None

    def _fingerprint(self) -> dict[str, list[str]]:
        """Without the order, since any is supported."""
        entries = fingerprint(self.factorization)
        del entries["ordering"]
        return entries


def is_partial_order(factorization: Factorization) -> bool:
    """Whether blocks may depend on fewer blocks than all blocks of lower rank."""
    return factorization.ordering.is_graph and not factorization.is_total


class _AnySetDecoder(WholePasses):
    """A decoder that predicts the blocks of a step from all drawn blocks, in one pass."""

    def all_params(self, start: int) -> Tensor:
        ranks = self.factorization.ranks.flatten() if self._ranks is None else self._ranks
        observed = (ranks.to(self._blocks.device) < start).expand(self.batch_size, -1)
        return self._network(self._blocks, self._context, observed=observed)


class _AnySetStep(WholePassStep):
    """A step that predicts all blocks from the blocks of earlier steps."""

    def params(self, blocks: Tensor, position: Tensor, context: Tensor | None) -> Tensor:
        observed = (self.ranks < position).expand(blocks.shape[0], -1)
        params: Tensor = self.network.predict(blocks, observed, context)
        return params
