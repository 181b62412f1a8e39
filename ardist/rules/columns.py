"""Rules about columns by their names: conditions, and columns that depend on a trigger."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ardist.families import Family
from ardist.families.base import states_of
from ardist.families.hurdle import Spiked
from ardist.families.interval import Truncated, ceil, floor
from ardist.families.restricted import Pinned, Restricted, restricted
from ardist.rules.automaton import Automaton
from ardist.rules.base import At, Interval, Rule, Specification, State, bound, num_values, places
from ardist.shapes import as_real, check_type, described, is_sequence


@dataclass(frozen=True, init=False)
class Within(Rule):
    """Restricts columns to an interval or a set of values, such as `age=(40, None), job={1, 4}`.

    Each conditional is restricted by itself. So columns drawn before a restricted column do not
    take the restriction into account.

    Args:
        columns: for each name a tuple of two ends, None for no end, or a set or list of values.

    Raises:
        ValueError: if an argument is neither two ends nor a set or list of values.

    >>> import ardist as ad
    >>> fac = ad.Factorization.columns(
    ...     age=ad.families.Gamma(),
    ...     job=ad.families.Categorical(12),
    ...     rule=ad.rules.Within(age=(40, None), job={1, 4}),
    ... )
    >>> x = ad.networks.MADE(fac, hidden_features=(16,)).condition().sample((100,))
    >>> bool((x[:, 0] >= 40).all()), x[:, 1].unique()
    (True, tensor([1., 4.]))
    """

    columns: tuple[tuple[str, tuple[float | None, float | None] | frozenset[float]], ...]

    needs_total = False
    depends_on_order = False
    follows_reals = False
    _masks: ClassVar[Mapping[int, Tensor]]  # by block: whether each state is allowed
    _ends: ClassVar[Mapping[int, tuple[float, float]]]

    def __init__(self, columns: Mapping[str, Any] | None = None, **named: Any) -> None:
        if columns is not None:
            check_type(columns, Mapping, "columns")
        given = {**(columns or {}), **named}
        if not given or not all(isinstance(name, str) for name in given):
            raise ValueError(f"columns: expected at least one name, got {described([*given])}")
        pairs = tuple((name, _as_range(name, values)) for name, values in given.items())
        vars(self).update(columns=pairs)

    @property
    def _arguments(self) -> dict[str, Any]:
        return {"columns": dict(self.columns)}

    def __repr__(self) -> str:
        parts = [
            f"{name}={_spelled(values) if isinstance(values, frozenset) else values}"
            for name, values in self.columns
        ]
        return f"Within({', '.join(parts)})"

    def bind(self, factorization: Specification, loose: bool = False) -> "Within":
        masks, ends = dict[int, Tensor](), dict[int, tuple[float, float]]()
        for name, values in self.columns:
            block = block_of(factorization, name)
            family = factorization.layout.families[block]
            states = family.enumerate_support()
            if states is not None and not family.event_shape:
                masks[block] = _mask(states, values)
                is_possible = bool(masks[block].any())
            else:
                if isinstance(values, frozenset) or family.event_shape or not family.has_cdf:
                    raise ValueError(
                        f"{name}: expected a column with finitely many values for a set, or one "
                        f"number with a CDF for an interval, got {family} for {described(values)}"
                    )
                ends[block] = _numbers(values)
                is_possible = _is_possible(family, *ends[block])
            if not is_possible:
                raise ValueError(
                    f"{name}: expected values of {family}, got {described(values)}: no event "
                    f"follows {self!r}"
                )
        return bound(self, _masks=masks, _ends=ends)

    def restricted(self, family: Family, block: int) -> Restricted | None:
        return restricted(family) if block in {*self._masks, *self._ends} else None

    def family_within(self, family: Family, block: int) -> Family | None:
        if block not in self._ends:
            return None if block in self._masks else family
        low, high = self._ends[block]
        is_one = low == high
        return None if is_one or family.support.is_discrete else Truncated(family, low, high)

    # There is nothing to remember: the state is (rows, 0).

    def start(self, rows: int, context: Tensor | None, reference: Tensor) -> Tensor:
        return reference.new_zeros(rows, 0)

    def allowed(self, state: State, at: At) -> Tensor | Interval | None:
        lead, blocks = state.shape[:-1], at.blocks.flatten().tolist()
        masks = [self._masks.get(block) for block in blocks]
        if any(mask is not None for mask in masks):
            every = torch.ones(states_of(at.family).shape[0], dtype=torch.bool)
            each = torch.stack([every if mask is None else mask for mask in masks])
            each = each.to(state.device).unflatten(0, at.blocks.shape)  # (n, K) or (rows, n, K)
            return each.expand(*lead, -1)
        everything = (-math.inf, math.inf)
        ends = state.new_tensor(
            [self._ends.get(block, everything) for block in blocks], dtype=torch.float64
        )
        low, high = ends.unflatten(0, at.blocks.shape).unbind(-1)
        return Interval(low.expand(lead), high.expand(lead))

    def advance(self, state: State, value: Tensor, at: At) -> Tensor:
        return state

    def scan(self, state: State, values: Tensor, at: At) -> tuple[Tensor, Tensor]:
        return state.unsqueeze(1).expand(-1, values.shape[1], -1), state

    def as_automaton(self, factorization: Specification) -> Automaton | None:
        width = num_values(factorization)
        if width is None:
            return None
        every = torch.ones(width, dtype=torch.bool)
        blocks = places(factorization).blocks.tolist()
        masks = torch.stack([self._masks.get(block, every) for block in blocks])
        return Automaton(torch.where(masks, 0, -1).unsqueeze(1), (0,))

    def expected(self, block_name: str) -> str:
        return f"{block_name} within {self!r}"


@dataclass(frozen=True, init=False)
class When(Rule):
    """Columns that are constant unless another column has one of the given values.

    `When("employed", {1}, income=0.0)`: the income is zero, with probability one, unless the person
    is employed. Surveys call this a skip pattern. The constant may lie outside the support of the
    column's family, such as zero for a `LogNormal`; the network then reads a placeholder.

    Args:
        column: the name of the trigger, with finitely many values. It is drawn before the others,
            which may depend on it.
        values: the values of the trigger for which the other columns are free.
        absent: the constant of each of the other columns, by name.

    Raises:
        ValueError: if an argument is invalid.

    >>> import ardist as ad
    >>> fac = ad.Factorization.columns(
    ...     employed=ad.families.Bernoulli(),
    ...     income=ad.families.LogNormal(),
    ...     rule=ad.rules.When("employed", {1}, income=0.0),
    ... )
    >>> x = ad.networks.MADE(fac, hidden_features=(16,)).condition().sample((100,))
    >>> torch.equal(x[:, 1] == 0, x[:, 0] == 0)
    True
    """

    column: str
    values: frozenset[float]
    absent: tuple[tuple[str, float], ...]

    needs_total = False
    depends_on_order = False
    follows_reals = False
    _trigger: ClassVar[int]
    _is_value: ClassVar[Tensor]  # of each state of the trigger
    _constants: ClassVar[Mapping[int, float]]

    def __init__(self, column: str, values: Any, **absent: float) -> None:
        if not isinstance(column, str):
            raise ValueError(f"column: expected a name, got {described(column)}")
        if not absent:
            raise ValueError("absent: expected a constant for at least one column, got none")
        listed = _as_set("values", values)
        constants = tuple(
            (name, as_real(value, "absent", f"a number for {name!r}", math.isfinite))
            for name, value in absent.items()
        )
        vars(self).update(column=column, values=listed, absent=constants)

    @property
    def _arguments(self) -> dict[str, Any]:
        return {"column": self.column, "values": self.values, "absent": dict(self.absent)}

    def __repr__(self) -> str:
        absent = "".join(f", {name}={value}" for name, value in self.absent)
        return f"When({self.column!r}, {_spelled(self.values)}{absent})"

    def bind(self, factorization: Specification, loose: bool = False) -> "When":
        trigger = block_of(factorization, self.column)
        family = factorization.layout.families[trigger]
        states = family.enumerate_support()
        if states is None or family.event_shape:
            raise ValueError(
                f"column: expected one with finitely many numbers as the trigger, got {family} of "
                f"{self.column!r}"
            )
        constants = dict[int, float]()
        for name, constant in self.absent:
            block = block_of(factorization, name)
            own = factorization.layout.families[block]
            listed = own.enumerate_support()
            if own.event_shape or (listed is not None and constant not in listed.tolist()):
                raise ValueError(f"{name}: expected a number that {own} can have, got {constant}")
            if block == trigger:
                raise ValueError(f"{name}: expected another column than the trigger")
            constants[block] = constant
        new = bound(
            self, _trigger=trigger, _is_value=_mask(states, self.values), _constants=constants
        )
        new.check_order(factorization, factorization.ranks.reshape(1, -1))
        for block in constants:
            if not factorization.dependencies[block, trigger]:
                raise ValueError(_late(factorization, block, trigger))
        return new

    def check_order(self, factorization: Specification, ranks: Tensor) -> None:
        for block in self._constants:
            if not bool((ranks[:, block] > ranks[:, self._trigger]).all()):
                raise ValueError(_late(factorization, block, self._trigger))

    def restricted(self, family: Family, block: int) -> Restricted | None:
        return Pinned(family, self._constants[block]) if block in self._constants else None

    # The state is whether the trigger has one of the values, (rows,) bool.

    def start(self, rows: int, context: Tensor | None, reference: Tensor) -> Tensor:
        return torch.zeros(rows, dtype=torch.bool, device=reference.device)

    def allowed(self, state: State, at: At) -> Tensor:
        depends = torch.zeros(at.total, dtype=torch.bool)
        depends[list(self._constants)] = True
        return state | ~depends[at.blocks.cpu()].to(state.device)

    def advance(self, state: State, value: Tensor, at: At) -> Tensor:
        return state | self._frees(value.unsqueeze(1), at).squeeze(1)

    def scan(self, state: State, values: Tensor, at: At) -> tuple[Tensor, Tensor]:
        frees = self._frees(values, at)
        before = (frees.cumsum(1) > frees.long()) | state.unsqueeze(1)
        return before, frees.any(1) | state

    def _frees(self, values: Tensor, at: At) -> Tensor:
        """Whether each value, (rows, n), belongs to the trigger and is one of `values`."""
        table = self._is_value.to(values.device)
        number = values.nan_to_num(0).long().clamp(0, table.shape[0] - 1)
        return (at.blocks.to(values.device) == self._trigger) & table[number]

    def expected(self, block_name: str) -> str:
        return f"{block_name} to be its constant under {self!r}"


def block_of(factorization: Specification, name: str) -> int:
    """The index of the block of a column."""
    names = factorization.names
    if names is None:
        raise ValueError(
            f"rule: expected named columns, got a factorization without names; "
            f"Factorization.columns gives them, here {name!r}"
        )
    if name not in names:
        raise ValueError(f"rule: expected names of columns among {sorted(names)}, got {name!r}")
    return names.index(name)


def _late(factorization: Specification, block: int, trigger: int) -> str:
    return (
        f"rule: expected the trigger {factorization.block_name(trigger)} before "
        f"{factorization.block_name(block)}, which has to depend on it, got another order; a "
        f"trigger that is missing or not observed comes later than what is observed"
    )


def _as_range(name: str, values: Any) -> tuple[float | None, float | None] | frozenset[float]:
    if isinstance(values, tuple):
        wanted = f"two ends (low, high), None for no end, for {name!r}"
        if len(values) != 2:
            raise ValueError(f"columns: expected {wanted}, got {described(values)}")
        ends = [
            None if end is None else as_real(end, "columns", wanted, lambda x: x == x)
            for end in values
        ]
        return ends[0], ends[1]
    return _as_set("columns", values, f" for {name!r}")


def _as_set(argument: str, values: Any, whose: str = "") -> frozenset[float]:
    given = list(values) if isinstance(values, set | frozenset) or is_sequence(values) else []
    if not given:
        raise ValueError(f"{argument}: expected a set of values{whose}, got {described(values)}")
    return frozenset(as_real(value, argument, f"numbers{whose}", math.isfinite) for value in given)


def _spelled(values: frozenset[float]) -> str:
    return "{" + ", ".join(map(repr, sorted(values))) + "}"


def _numbers(ends: tuple[float | None, float | None]) -> tuple[float, float]:
    low, high = ends
    return -math.inf if low is None else low, math.inf if high is None else high


def _is_possible(family: Family, low: float, high: float) -> bool:
    """Whether a family of one number has values from `low` to `high`."""
    support, ends = family.support, family._ends
    if isinstance(support, Spiked):
        is_point = any(low <= point <= high for point in support.points)
        return is_point or _is_possible(support.family, low, high)
    if ends.is_discrete:  # the integers between its ends
        return ceil(max(low, ends.lower)) <= floor(min(high, ends.upper))
    return low <= high and high > ends.lower and low < ends.upper


def _mask(states: Tensor, values: tuple[float | None, float | None] | frozenset[float]) -> Tensor:
    """Whether each state is one of the values, or between the ends: (num_states,) bool."""
    if isinstance(values, frozenset):
        return torch.tensor([state in values for state in states.tolist()])
    low, high = _numbers(values)
    return (states >= low) & (states <= high)
