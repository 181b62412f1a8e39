"""Numbers with a fixed sum."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ardist.families import Family
from ardist.families.base import states_of
from ardist.families.guards import widest
from ardist.families.hurdle import Spiked
from ardist.families.restricted import Restricted, restricted
from ardist.rules.automaton import Automaton
from ardist.rules.base import At, Interval, Rule, Specification, State, bound, num_values, places
from ardist.shapes import as_real


@dataclass(frozen=True)
class Sum(Rule):
    """The blocks add up to `total`: exactly k of n bits, particles of a lattice, parts of a budget.

    Blocks are single numbers: consecutive integers, such as `Bernoulli`, `Categorical` and
    `Poisson` have, or reals whose family has a CDF. Each block is restricted to values from which
    the later blocks can complete the sum. So the last block is certain. If there are real blocks,
    one of them must come last, and the density is the density of all other blocks. The state is the
    sum so far.

    Args:
        total: a number.

    Raises:
        ValueError: if it is not finite.

    >>> import ardist as ad
    >>> ad.Factorization(40, ad.families.Bernoulli(), rule=ad.rules.Sum(20)).num_states
    137846528820
    """

    total: float

    depends_on_order = False
    # Of a bound rule. Bounds on the sum of the first t blocks from which the others can complete
    # it, and for each finite block its value at index 0.
    _least: ClassVar[Tensor]
    _most: ClassVar[Tensor]
    _first: ClassVar[Tensor]
    _is_finite: ClassVar[bool]

    def __post_init__(self) -> None:
        value = as_real(self.total, "total", "a finite number", math.isfinite)
        object.__setattr__(self, "total", int(value) if value == int(value) else value)

    def bind(self, factorization: Specification, loose: bool = False) -> "Sum":
        each = [one.family for one in places(factorization).each]
        low, high = torch.tensor([self._ends(family) for family in each], dtype=torch.float64).T
        least, most = self.total - _sums_of_rest(high), self.total - _sums_of_rest(low)
        is_real = torch.tensor([not family.support.is_discrete for family in each])
        # Reals do not reach their ends together.
        is_possible = least[0] < 0 < most[0] if is_real.any() else least[0] <= 0 <= most[0]
        if not is_possible:
            raise ValueError(
                f"total: expected a sum from {float(low.sum()):g} to {float(high.sum()):g} of "
                f"{factorization.num_blocks} blocks, got {self.total}: no event follows {self!r}"
            )
        is_counted = not is_real.any()
        if is_counted and self.total != int(self.total):
            raise ValueError(f"total: expected an integer for blocks of integers, got {self.total}")
        is_finite = [family.enumerate_support() is not None for family in each]
        first = torch.where(torch.tensor(is_finite), low, 0.0)
        if all(is_finite):
            least, most, first = least.long(), most.long(), first.long()
        self.check_order(factorization, factorization.ranks.reshape(1, -1))
        return bound(
            self,
            _least=least,
            _most=most,
            _first=first,
            _is_finite=all(is_finite),
            follows_reals=not is_counted,
        )

    def check_order(self, factorization: Specification, ranks: Tensor) -> None:
        real = [not family.support.is_discrete for family in factorization.layout.families]
        integer = [block for block in ranks.argmax(-1).unique().tolist() if not real[block]]
        if any(real) and integer:
            raise ValueError(
                f"rule: expected a real block last for {self!r}, since an integer cannot complete "
                f"a sum of reals, got {factorization.block_name(integer[0])}"
            )

    def _ends(self, family: Family) -> tuple[float, float]:
        """The least and the largest value of a block."""
        states = None if family.event_shape else family.enumerate_support()
        if states is not None and bool((states.double().diff() == 1).all()):
            return float(states[0]), float(states[-1])
        is_numeric = states is None and not family.event_shape and family.has_cdf
        if is_numeric and (_is_counted(family) or not isinstance(family.support, Spiked)):
            return family._ends.lower, family._ends.upper
        raise ValueError(
            f"rule: expected consecutive integers or numbers with a CDF for {self!r}, got {family}"
        )

    def restricted(self, family: Family, block: int) -> Restricted | None:
        return restricted(family)

    def start(self, rows: int, context: Tensor | None, reference: Tensor) -> Tensor:
        # In double precision, so that `advance` and `scan` give the same last number.
        dtype = torch.int64 if self._is_finite else widest(reference.device)
        return torch.zeros(rows, dtype=dtype, device=reference.device)

    def allowed(self, state: State, at: At) -> Tensor | Interval:
        after = at.positions + 1
        low = _of(self._least, after, state) - state
        high = _of(self._most, after, state) - state
        states = at.family.enumerate_support()
        if states is None:
            return Interval(low, high)
        # The values come first while they are compared, since they are few.
        values = states.to(state.device, state.dtype).reshape(-1, *(1,) * state.dim())
        return ((low <= values) & (values <= high)).movedim(0, -1)

    def advance(self, state: State, value: Tensor, at: At) -> Tensor:
        return state + value.to(state.dtype) + _of(self._first, at.positions, state).squeeze(-1)

    def scan(self, state: State, values: Tensor, at: At) -> tuple[Tensor, Tensor]:
        values = values.to(state.dtype) + _of(self._first, at.positions, state)
        sums = values.cumsum(1) + state.unsqueeze(1)
        # A sum beyond a bound stays there: the later blocks are then certain.
        least, most = (_of(part, at.positions + 1, state) for part in (self._least, self._most))
        sums = torch.where(sums < least, least, torch.where(sums > most, most, sums))
        return torch.cat((state.unsqueeze(1), sums[:, :-1]), 1), sums[:, -1]

    def num_events(self, factorization: Specification) -> int | None:
        if not self._is_finite:
            return None
        # The coefficient of x ** rest in the product over the blocks of 1 + x + ... + x ** (width -
        # 1), which is (1 - x ** width) / (1 - x).
        rest, count = int(self.total) - int(self._first.sum()), factorization.num_blocks
        numerator = Counter({0: 1})
        widths = Counter(states_of(family).shape[0] for family in factorization.layout.families)
        for width, times in widths.items():
            before, numerator = numerator, Counter()
            for power, factor in before.items():
                for chosen in range(min(times, (rest - power) // width) + 1):
                    term = (-1) ** chosen * math.comb(times, chosen) * factor
                    numerator[power + chosen * width] += term
        return sum(
            factor * math.comb(rest - power + count - 1, count - 1)
            for power, factor in numerator.items()
        )

    def as_automaton(self, factorization: Specification) -> Automaton | None:
        width = num_values(factorization)
        if not self._is_finite or width is None:
            return None
        # A state is a sum, counted from the smallest possible sum.
        least = int(self._first.clamp(max=0).sum())
        most = int((self._first + width - 1).clamp(min=0).sum())
        after = torch.arange(most - least + 1).unsqueeze(1) + torch.arange(width)
        table = after + self._first.reshape(-1, 1, 1)  # (num_blocks, sums, width)
        table = torch.where((table >= 0) & (table <= most - least), table, -1)
        return Automaton(table, (int(self.total) - least,), -least)


def _is_counted(family: Family) -> bool:
    """Whether all values are consecutive integers, which reals with a spike are not."""
    support = family.support
    if not isinstance(support, Spiked):
        return support.is_discrete
    ends = support.family._ends
    are_inside = all(x % 1 == 0 and ends.lower <= x <= ends.upper for x in support.points)
    return are_inside and _is_counted(support.family)


def _sums_of_rest(each: Tensor) -> Tensor:
    """For t from 0 to n, the sum of all but the first t of n numbers."""
    return F.pad(each.flip(0).cumsum(0).flip(0), (0, 1))


def _of(table: Tensor, places: Tensor, reference: Tensor) -> Tensor:
    """The entries of a table (n,), in the dtype and on the device of a reference."""
    return table.to(reference.device, reference.dtype)[places]
