"""The end of a sequence, the rule that all blocks drawn after an end symbol are padding."""

import itertools
import math
import operator
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pyro.distributions import Categorical
from torch import Tensor
from torch.distributions import Distribution

from ardist.families import Family
from ardist.families.truncated import state_logits_of


class End(NamedTuple):
    """The end of sequences of one index a block: after `symbol` every block is `pad`.

    "After" refers to the order of drawing. The state of a draw is whether each row has ended,
    (rows, 1) bool.

    Attributes:
        symbol: the index that ends a sequence.
        pad: the index of all blocks after the end.
    """

    symbol: int
    pad: int

    # In a parallel pass: blocks in raster order.

    def ended(self, blocks: Tensor, ranks: Tensor) -> Tensor:
        """Whether each block comes after an end: (*lead, num_blocks) bool.

        Args:
            blocks: (*lead, num_blocks).
            ranks: of the blocks, (num_blocks,) or (*lead, num_blocks).
        """
        ranks = ranks.to(blocks.device)
        is_end = torch.eq(blocks, self.symbol)
        return ranks > torch.where(is_end, ranks, blocks.shape[-1]).amin(-1, keepdim=True)

    def misplaced(self, blocks: Tensor, ranks: Tensor) -> Tensor:
        """Whether each block comes after an end and is not `pad`; arguments as of `ended`."""
        return self.ended(blocks, ranks) & torch.ne(blocks, self.pad)

    def mask_scores(self, scores: Tensor, blocks: Tensor, ranks: Tensor) -> Tensor:
        """Scores of blocks: 0 for padding after an end, -inf for any other value there."""
        ended = self.ended(blocks, ranks)
        certain = torch.where(torch.eq(blocks, self.pad), 0.0, -torch.inf).to(scores)
        return torch.where(ended, certain, scores)

    # In a draw: blocks in the order of drawing.

    def start(self, rows: Tensor) -> Tensor:
        """The state before the first block, (rows, 1), for as many rows as a tensor has."""
        return torch.zeros(rows.shape[0], 1, dtype=torch.bool, device=rows.device)

    def clamp(self, blocks: Tensor, state: Tensor, observed: Tensor | None = None) -> Tensor:
        """Drawn blocks (rows, n) with `pad` after an end, except where they are `observed`."""
        ended = state
        if blocks.shape[1] > 1:
            is_end = torch.eq(blocks, self.symbol)
            ended = (is_end.cumsum(1) > is_end.long()) | state
        if observed is not None:
            ended = ended & ~observed
        return blocks.masked_fill(ended, self.pad)

    def advance(self, blocks: Tensor, state: Tensor) -> Tensor:
        """The state after blocks (rows, n)."""
        return torch.eq(blocks, self.symbol).any(1, keepdim=True) | state

    # Of one block: its conditional and its states.

    def conditional(self, family: Family, params: Tensor, ended: Tensor) -> Distribution:
        """A conditional of indices, which is certain to be `pad` where a sequence has ended."""
        logits = self.restrict(state_logits_of(family, params), ended)
        return Categorical(logits=logits, validate_args=False)

    def restrict(self, logits: Tensor, ended: Tensor) -> Tensor:
        """Logits (..., states) of an index, certain of `pad` if `ended`, (...) bool."""
        certain = torch.full_like(logits, -torch.inf)
        certain[..., self.pad] = 0.0
        return torch.where(ended.unsqueeze(-1), certain, logits)

    def num_states(self, sizes: Sequence[int]) -> int:
        """The number of sequences whose blocks have these numbers of states, in drawing order."""
        # Those that end at each step, and those that never end.
        return sum(itertools.accumulate((size - 1 for size in sizes), operator.mul, initial=1))

    def states(self, sizes: Sequence[int], dtype: torch.dtype) -> Tensor:
        """All sequences, in drawing order, sorted by the place of their end: (states, blocks)."""
        alive = torch.empty(1, 0, dtype=dtype)  # prefixes that have not ended
        rows = []
        for step, size in enumerate(sizes):
            ended = F.pad(alive, (0, 1), value=self.symbol)
            rows.append(F.pad(ended, (0, len(sizes) - step - 1), value=self.pad))
            others = torch.tensor([s for s in range(size) if s != self.symbol], dtype=dtype)
            prefixes = alive.repeat_interleave(others.shape[0], 0)
            alive = torch.cat((prefixes, others.repeat(alive.shape[0]).unsqueeze(-1)), -1)
        return torch.cat((*rows, alive))

    def check_families(self, families: Sequence[Family]) -> None:
        """Raises a `ValueError` if a block is not an index, or has no such symbol."""
        for family in families:
            states = None if family.event_shape else family.enumerate_support()
            if states is None or not torch.equal(states.long(), torch.arange(states.shape[0])):
                raise ValueError(
                    f"end: expected blocks of one index each, 0, ..., n - 1, got {family}"
                )
            for name, symbol in (("end", self.symbol), ("pad", self.pad)):
                if not 0 <= symbol < math.prod(states.shape):
                    raise ValueError(
                        f"{name}: expected one of 0, ..., {states.shape[0] - 1}, got {symbol!r}"
                    )
