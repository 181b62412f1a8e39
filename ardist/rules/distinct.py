"""Each value at most once, as in tours and permutations."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ardist.families.base import states_of
from ardist.rules.automaton import Automaton
from ardist.rules.base import At, Rule, Specification, State, bound, check_finite

_MOST_LISTED = 10  # the most values of an automaton, whose states are all sets of values


@dataclass(frozen=True)
class Distinct(Rule):
    """Each block differs from all others: tours, permutations, assignments, a row of a Sudoku.

    All blocks have the same finite family, such as `Categorical(n)`. The state is which values are
    used.

    >>> import ardist as ad
    >>> tours = ad.Factorization(20, ad.families.Categorical(20), rule=ad.rules.Distinct())
    >>> tours.num_states  # 20!
    2432902008176640000
    """

    depends_on_order = False
    follows_reals = False
    _count: ClassVar[int] = 0  # of values, of a bound rule

    def bind(self, factorization: Specification, loose: bool = False) -> "Distinct":
        families = factorization.layout.distinct
        check_finite(self, families)
        if len(families) > 1:
            raise ValueError(
                f"rule: expected blocks of one family for {self!r}, got {len(families)} families"
            )
        count, blocks = states_of(families[0]).shape[0], factorization.num_blocks
        if count < blocks:
            raise ValueError(
                f"rule: expected at least {blocks} states for as many different blocks, got "
                f"{count} of {families[0]}: no event follows {self!r}"
            )
        return bound(self, _count=count)

    # The state is whether each value is used, (rows, num_values) bool.

    def start(self, rows: int, context: Tensor | None, reference: Tensor) -> Tensor:
        return torch.zeros(rows, self._count, dtype=torch.bool, device=reference.device)

    def allowed(self, state: State, at: At) -> Tensor:
        return torch.logical_not(state)

    def advance(self, state: State, value: Tensor, at: At) -> Tensor:
        return state.scatter(-1, value.long().unsqueeze(-1), True)

    def scan(self, state: State, values: Tensor, at: At) -> tuple[Tensor, Tensor]:
        is_value = F.one_hot(values.long(), self._count)  # (rows, n, num_values)
        used = is_value.cumsum(1) + state.unsqueeze(1)
        return (used - is_value) > 0, used[:, -1] > 0

    def num_events(self, factorization: Specification) -> int:
        return math.perm(self._count, factorization.num_blocks)

    def as_automaton(self, factorization: Specification) -> Automaton | None:
        if self._count > _MOST_LISTED:
            return None
        # A state is a set, as the bits of a number.
        sets, values = torch.arange(2**self._count).unsqueeze(1), 2 ** torch.arange(self._count)
        return Automaton(torch.where((sets & values) == 0, sets | values, -1), range(sets.shape[0]))
