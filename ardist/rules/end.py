"""Sequences that end: after an end symbol all blocks are padding."""

import itertools
import operator
from dataclasses import dataclass

import torch
from torch import Tensor

from ardist.families import Family
from ardist.families.restricted import Pinned, is_range
from ardist.rules.automaton import Automaton
from ardist.rules.base import At, Rule, Specification, State, num_values
from ardist.shapes import as_integer


@dataclass(frozen=True, init=False)
class End(Rule):
    """Sequences of one index a block, which end: after `symbol` every block is `pad`.

    "After" refers to the order of drawing. `Factorization(..., end=symbol, pad=pad)` is short for
    this rule. It leaves the conditionals before the end as they are, so that it is also the
    distribution of the unrestricted blocks up to their first end.

    Args:
        symbol: the index that ends a sequence.
        pad: the index of all blocks after the end; `symbol` by default.

    Raises:
        ValueError: if an argument is not an integer.

    >>> import ardist as ad
    >>> fac = ad.Factorization(3, ad.families.Categorical(2), rule=ad.rules.End(1, pad=0))
    >>> fac.enumerate_support().tolist()
    [[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]]
    """

    symbol: int
    pad: int

    follows_reals = False

    def __init__(self, symbol: int, pad: int | None = None) -> None:
        object.__setattr__(self, "symbol", as_integer(symbol, "end"))
        object.__setattr__(self, "pad", self.symbol if pad is None else as_integer(pad, "pad"))

    def bind(self, factorization: Specification, loose: bool = False) -> "End":
        for family in factorization.layout.distinct:
            states = None if family.event_shape else family.enumerate_support()
            if states is None or not is_range(states, family.event_shape):
                raise ValueError(
                    f"end: expected blocks of one index each, 0, ..., n - 1, got {family}"
                )
            for name, symbol in (("end", self.symbol), ("pad", self.pad)):
                if not 0 <= symbol < states.shape[0]:
                    raise ValueError(
                        f"{name}: expected one of 0, ..., {states.shape[0] - 1}, got {symbol!r}"
                    )
        return self

    def restricted(self, family: Family, block: int) -> Pinned:
        return Pinned(family, self.pad)

    # The state is whether each row has ended, (rows,) bool.

    def start(self, rows: int, context: Tensor | None, reference: Tensor) -> Tensor:
        return torch.zeros(rows, dtype=torch.bool, device=reference.device)

    def allowed(self, state: State, at: At) -> Tensor:
        return torch.logical_not(state)

    def advance(self, state: State, value: Tensor, at: At) -> Tensor:
        return torch.eq(value, self.symbol) | state

    def scan(self, state: State, values: Tensor, at: At) -> tuple[Tensor, Tensor]:
        is_end = torch.eq(values, self.symbol)
        before = (is_end.cumsum(1) > is_end.long()) | state.unsqueeze(1)
        return before, is_end.any(1) | state

    def rest(self, state: State, at: At) -> Tensor | None:
        if not state.all():
            return None
        return torch.full((state.shape[0], at.positions.shape[-1]), self.pad, device=state.device)

    def as_automaton(self, factorization: Specification) -> Automaton | None:
        width = num_values(factorization)
        if width is None:
            return None
        table = torch.zeros(2, width, dtype=torch.int64)
        table[0, self.symbol], table[1] = 1, -1
        table[1, self.pad] = 1
        return Automaton(table, (0, 1))

    def expected(self, block_name: str) -> str:
        return f"pad {self.pad} in {block_name}, which comes after the end {self.symbol}"

    @property
    def filler(self) -> float:
        return self.pad

    def num_events(self, factorization: Specification) -> int:
        # Those that end at each step, and those that never end.
        others = {}
        for family in factorization.layout.distinct:
            states = family.enumerate_support()
            others[family] = (0 if states is None else states.shape[0]) - 1
        each = [others[factorization.layout.families[block]] for (block,) in factorization.steps]
        return sum(itertools.accumulate(each, operator.mul, initial=1))
