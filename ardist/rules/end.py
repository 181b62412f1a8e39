"""Sequences that end: after an end symbol all blocks are padding."""

import itertools
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ardist.families import Family
from ardist.families.base import states_of
from ardist.families.restricted import Pinned
from ardist.families.truncated import is_range
from ardist.rules.automaton import Automaton
from ardist.rules.base import At, Rule, Specification, State, bound, num_values
from ardist.shapes import as_integer


@dataclass(frozen=True, init=False)
class End(Rule):
    """Sequences that end: after `symbol`, every block is `pad`.

    Each block is one index, and "after" refers to the order of drawing.
    `Factorization(..., end=symbol, pad=pad)` is short for this rule. The rule does not change the
    conditionals before the end. So the result is also the distribution of the unrestricted blocks
    up to their first end.

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
    _forms: ClassVar[Mapping[Family, Pinned]]  # of a bound rule

    def __init__(self, symbol: int, pad: int | None = None) -> None:
        symbol = as_integer(symbol, "symbol")
        vars(self).update(symbol=symbol, pad=symbol if pad is None else as_integer(pad, "pad"))

    def bind(self, factorization: Specification, loose: bool = False) -> "End":
        for family in factorization.layout.distinct:
            states = family.enumerate_support()
            if states is None or not is_range(states):
                raise ValueError(
                    f"end: expected blocks of one index each, 0, ..., n - 1, got {family}"
                )
            for name, symbol in (("end", self.symbol), ("pad", self.pad)):
                if not 0 <= symbol < states.shape[0]:
                    raise ValueError(
                        f"{name}: expected one of 0, ..., {states.shape[0] - 1}, got {symbol!r}"
                    )
        families = factorization.layout.distinct
        return bound(self, _forms={family: Pinned(family, self.pad) for family in families})

    def restricted(self, family: Family, block: int) -> Pinned:
        return self._forms[family]

    # The state is whether each row has not ended yet, (rows,) bool.

    def start(self, rows: int, context: Tensor | None, reference: Tensor) -> Tensor:
        return torch.ones(rows, dtype=torch.bool, device=reference.device)

    def allowed(self, state: State, at: At) -> Tensor:
        free: Tensor = state
        return free

    def advance(self, state: State, value: Tensor, at: At) -> Tensor:
        return state & torch.ne(value, self.symbol)

    def scan(self, state: State, values: Tensor, at: At) -> tuple[Tensor, Tensor]:
        # ONNX has no cumulative product.
        goes_on = torch.eq(torch.eq(values, self.symbol).cumsum(1, dtype=torch.int32), 0)
        goes_on = goes_on & state.unsqueeze(1)
        return torch.cat((state.unsqueeze(1), goes_on[:, :-1]), 1), goes_on[:, -1]

    def rest(self, state: State, at: At) -> Tensor | None:
        if state.any():
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
        # The events that end at each step, and the events that never end.
        others = {f: states_of(f).shape[0] - 1 for f in factorization.layout.distinct}
        each = [others[factorization.layout.families[block]] for (block,) in factorization.steps]
        return sum(itertools.accumulate(each, operator.mul, initial=1))
