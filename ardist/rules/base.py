"""The contract of rules, which restrict a block given the blocks drawn before it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Size, Tensor

from ardist.families import Family
from ardist.families.base import states_of
from ardist.families.restricted import Pinned, Restricted, restricted
from ardist.layout import Layout
from ardist.ordering import Ordering
from ardist.shapes import constant, described
from ardist.specification import Specified

if TYPE_CHECKING:
    from ardist.rules.automaton import Automaton

State = Any  # a tensor (rows, ...), or a tuple of such tensors

R = TypeVar("R", bound="Rule")

_MOST_CHOICES = 2**21  # pairs of a rule's state and a block's value, while events are counted


class Interval(NamedTuple):
    """The numbers from `low` to `high`, which may be infinite: (rows, n) each.

    If both ends are equal for a continuous family, the block is that number with probability one.

    >>> import torch, ardist as ad
    >>> class Sorted(ad.rules.Rule):
    ...     "Each number is at least the one before it."
    ...     def start(self, rows, context, reference):
    ...         return reference.new_full((rows,), -torch.inf)
    ...     def allowed(self, state, at):
    ...         return ad.rules.Interval(state, torch.full_like(state, torch.inf))
    ...     def advance(self, state, value, at):
    ...         return value
    >>> fac = ad.Factorization(3, ad.families.Normal(), rule=Sorted())
    >>> x = ad.networks.MADE(fac, hidden_features=8).condition().sample((100,))
    >>> bool((x.diff() >= 0).all())
    True
    """

    low: Tensor
    high: Tensor


@dataclass(frozen=True, eq=False)
class At:
    """The places of n blocks: in the order of drawing, and on the grid.

    A rule of your own gets them on the device of its state.

    Attributes:
        positions: the number of blocks drawn before each block, (n,) int64, or (rows, n) if rows
            have orders of their own.
        blocks: the raster index of each block, (n,) or (rows, n) int64.
        families: the family of each block, or one family for all blocks.
        total: the number of blocks of an event.

    >>> import ardist as ad
    >>> class Last(ad.rules.Rule):
    ...     "The last bit is one."
    ...     def start(self, rows, context, reference):
    ...         return reference.new_zeros(rows)
    ...     def allowed(self, state, at):
    ...         is_last = (at.left == 0).expand(state.shape)
    ...         return torch.stack((~is_last, torch.ones_like(is_last)), -1)
    ...     def advance(self, state, value, at):
    ...         return state
    >>> ad.Factorization(2, ad.families.Bernoulli(), rule=Last()).enumerate_support().tolist()
    [[0.0, 1.0], [1.0, 1.0]]
    """

    positions: Tensor
    blocks: Tensor
    families: tuple[Family, ...]
    total: int

    @property
    def family(self) -> Family:
        """The family of the first block. All blocks in a call of `allowed` have the same family."""
        return self.families[0]

    def _on(self, device: torch.device) -> "At":
        """The same places on a device."""
        if self.positions.device == self.blocks.device == device:
            return self
        return replace(self, positions=self.positions.to(device), blocks=self.blocks.to(device))

    def number(self, value: Tensor) -> Tensor:
        """A value of a single block as rules get it: an integer if the family is finite."""
        return value if self.family.enumerate_support() is None else value.long()

    @property
    def left(self) -> Tensor:
        """The number of blocks drawn after each block, (n,) or (rows, n) int64."""
        return self.total - 1 - self.positions

    @constant
    def each(self) -> "list[At]":
        """The places of the blocks, one by one."""
        count = self.positions.shape[-1]
        families = self.families if len(self.families) == count else self.families[:1] * count
        return [
            At(
                self.positions[..., t : t + 1],
                self.blocks[..., t : t + 1],
                (families[t],),
                self.total,
            )
            for t in range(count)
        ]


class Specification(Protocol):
    """The part of `Factorization` that rules use."""

    @property
    def layout(self) -> Layout: ...
    @property
    def steps(self) -> list[list[int]]: ...
    @property
    def num_blocks(self) -> int: ...
    @property
    def names(self) -> tuple[str, ...] | None: ...
    @property
    def ranks(self) -> Tensor: ...
    @property
    def dependencies(self) -> Tensor: ...
    @property
    def ordering(self) -> Ordering: ...
    @property
    def is_total(self) -> bool: ...
    def block_name(self, block: int) -> str: ...


@dataclass(frozen=True)
class Rule(Specified, ABC):
    """Which values a block may have, given the blocks that are drawn before it.

    A rule is local: the conditional of each block is restricted to the allowed values and
    normalized again. The joint is an exact distribution on the events that follow the rule. It
    differs from the distribution without the rule, conditioned on these events, which
    `ardist.sampling.smc` gives.

    To write a rule, define `start`, `allowed` and `advance`: the state before the first block, the
    values that a state allows, and the state after a block. Rows are independent, and row i of a
    result depends only on row i of the arguments. The value of a finite family is passed as its
    index in the support, and any other value as the number that was drawn. Override `scan` if all
    states can be computed at once. An allowed prefix must always have an allowed continuation: look
    ahead, with `at.left`.

    >>> import torch, ardist as ad
    >>> class Balanced(ad.rules.Rule):
    ...     "Brackets, 0 to open and 1 to close. The state is the number of open ones."
    ...     def start(self, rows, context, reference):
    ...         return torch.zeros(rows, dtype=torch.int64, device=reference.device)
    ...     def allowed(self, state, at):
    ...         return torch.stack((state < at.left, state > 0), -1)
    ...     def advance(self, state, value, at):
    ...         return state + 1 - 2 * value
    >>> fac = ad.Factorization(8, ad.families.Bernoulli(), rule=Balanced())
    >>> fac.num_states  # the fourth Catalan number
    14
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.__module__.startswith("ardist."):
            for name in ("allowed", "advance", "scan", "rest", "log_potential"):
                if name in vars(cls):
                    setattr(cls, name, _with_places(vars(cls)[name]))

    needs_total: ClassVar[bool] = True
    """Whether it needs one block per step, and a block to depend on all blocks before it."""
    reads_context: ClassVar[bool] = False
    """Whether the allowed values depend on the context. Events are then not enumerated."""
    depends_on_order: ClassVar[bool] = True
    """Whether the set of events that follow the rule depends on the order of drawing."""
    follows_reals: ClassVar[bool] = True
    """Whether the allowed values depend on real numbers that were drawn."""

    def bind(self, factorization: Specification, loose: bool = False) -> Self:
        """The rule for the blocks of a factorization: checks it, and computes its tables.

        Args:
            factorization: the blocks, in their order.
            loose: whether allowed prefixes may have no allowed continuation, as in
                `ardist.sampling.smc`, which drops such prefixes.

        Raises:
            ValueError: if no event follows the rule, or it does not suit the blocks.
        """
        return self

    def restricted(self, family: Family, block: int) -> Restricted | None:
        """The form of a block's conditional under the rule, or None if it never limits the block.

        By default `allowed` may limit each block with a finite set of states, and each number whose
        family has a CDF.
        """
        return restricted(family)

    def family_within(self, family: Family, block: int) -> Family | None:
        """A family whose support is the set of allowed values of a block, or None, the default.

        It exists if the set is the same in all events. If all blocks have one, and none is
        discrete, `biject_to` supports the support of events.
        """
        return None

    @abstractmethod
    def start(self, rows: int, context: Tensor | None, reference: Tensor) -> State:
        """The state before the first block: a tensor (rows, ...), or a tuple of such tensors.

        Args:
            rows: the number of rows.
            context: the context of each row, (rows, *context_shape), or None.
            reference: a tensor of the dtype and device of the parameters.
        """

    @abstractmethod
    def allowed(self, state: State, at: At) -> Tensor | Interval | None:
        """The values that each of n blocks may have, given the state before it.

        Args:
            state: (rows, n, ...), the state before each block.
            at: the blocks, all of one family.

        Returns:
            for blocks with a finite set of states, whether each state is allowed, (rows, n,
            num_states) bool; for numbers an `Interval`; None if everything is allowed.
        """

    @abstractmethod
    def advance(self, state: State, value: Tensor, at: At) -> State:
        """The state after a block.

        Args:
            state: (rows, ...), the state before it.
            value: (rows,), the index in the support of a finite family as int64, or the number that
                was drawn.
            at: the block.
        """

    def scan(self, state: State, values: Tensor, at: At) -> tuple[State, State]:
        """The states before each of n consecutive blocks, and the state after the last one.

        Some values may not be allowed, as in a guess of blocks or in an event outside the support.
        Such a value may count as any allowed value. The default goes block by block, and replaces
        it by the first allowed state or the nearest end of the interval.

        Args:
            state: (rows, ...), the state before the first block.
            values: (rows, n), as in `advance`, but all are floats if one of them is.
            at: the blocks.

        Returns:
            the states before the blocks, (rows, n, ...), and the state after them, (rows, ...).
        """
        before = list[State]()
        for value, one in zip(values.unbind(1), at.each, strict=True):
            before.append(state)
            ahead = map_state(lambda part: part.unsqueeze(1), state)
            form = self.restricted(one.family, int(one.blocks.flatten()[0]))
            number = one.number(value)
            if form is not None:
                number = _nearest(form, allowed_by(self, ahead, one), number)
            state = self.advance(state, number, one)
        parts = (torch.stack(each, 1) for each in zip(*map(_parts, before), strict=True))
        return tuple(parts) if isinstance(state, tuple) else next(parts), state

    def rest(self, state: State, at: At) -> Tensor | None:
        """All blocks that follow, (rows, n), if they are certain in all rows; otherwise None.

        Sampling then stops early.

        Args:
            state: (rows, ...), the state before these blocks.
            at: the blocks that follow.
        """
        return None

    def as_automaton(self, factorization: Specification) -> "Automaton | None":
        """The same rule as an `Automaton`, or None. `All` combines automata."""
        return None

    def log_potential(self, state: State, at: At) -> Tensor | None:
        """A log weight of the state after a block, (rows,), for `ardist.sampling.smc`."""
        return None

    def check_order(self, factorization: Specification, ranks: Tensor) -> None:
        """Raises a `ValueError` if blocks cannot be drawn in these ranks, (rows, num_blocks)."""

    def expected(self, block_name: str) -> str:
        """How an error describes what is expected of a block that breaks the rule."""
        return f"{block_name} to follow {self!r}, given the blocks drawn before it"

    @property
    def filler(self) -> float | None:
        """The value of blocks that are not drawn; None for any value inside the support."""
        return None

    def num_events(self, factorization: Specification) -> int | None:
        """The number of events that follow the rule.

        The default counts the prefixes that lead to each state of the rule. It returns None if it
        would have to look at more than two million pairs of a state and the next block's value.
        """
        state, left = self.start(1, None, torch.empty(0)), _MOST_CHOICES
        counts = [1]  # of the prefixes that lead to each state
        for step, at in enumerate(places(factorization).each):
            left -= len(counts) * states_of(at.family).shape[0]
            if left < 0:
                return None
            rows, _, state = choices(self, state, at)
            if is_custom(self) and rows.unique().shape[0] < len(counts):
                raise dead_end(self, factorization.block_name(int(at.blocks)), step)
            state, inverse = _distinct(state)
            merged = [0] * rows_of(state)
            for target, source in zip(inverse.tolist(), rows.tolist(), strict=True):
                merged[target] += counts[source]
            counts = merged
        return sum(counts)


def is_custom(rule: Rule) -> bool:
    """Whether a rule, or a part of it, is a user's. Its allowed values are then checked."""
    parts = getattr(rule, "rules", (rule,))
    return any(not type(part).__module__.startswith("ardist.") for part in parts)


def allowed_by(rule: Rule, state: State, at: At) -> Tensor | Interval | None:
    """What a rule allows, after a check of its shape if the rule is a user's."""
    allowed = rule.allowed(state, at)
    if allowed is None or type(rule).__module__.startswith("ardist."):
        return allowed
    lead, states = (rows_of(state), at.positions.shape[-1]), at.family.enumerate_support()
    wanted = "an Interval" if states is None else f"bool of shape {(*lead, states.shape[0])}"
    if isinstance(allowed, Interval):
        if states is not None or any(end.shape != lead for end in map(torch.as_tensor, allowed)):
            ends = [tuple(torch.as_tensor(end).shape) for end in allowed]
            wanted = f"an Interval of two tensors {lead}" if states is None else wanted
            raise ValueError(
                f"rule: expected {rule!r} to allow {wanted}, got an Interval of {ends}"
            )
    elif not isinstance(allowed, Tensor) or states is None:
        raise ValueError(f"rule: expected {rule!r} to allow {wanted}, got {described(allowed)}")
    elif (allowed.dtype, tuple(allowed.shape)) != (torch.bool, (*lead, states.shape[0])):
        got = f"{allowed.dtype} of shape {tuple(allowed.shape)}"
        raise ValueError(f"rule: expected {rule!r} to allow {wanted}, got {got}")
    return allowed


def dead_end(rule: Rule, block: str, step: int) -> ValueError:
    """The error for an allowed prefix that has no allowed continuation."""
    return ValueError(
        f"rule: expected {rule!r} to allow a value of {block} in step {step}, got none after an "
        f"allowed prefix, which must always have an allowed continuation; look ahead, with at.left"
    )


def choices(rule: Rule, state: State, at: At) -> tuple[Tensor, Tensor, State]:
    """The values of a finite block that a rule allows after each of its states, (rows, ...).

    Returns:
        for each allowed value its row, its index in the support, and the rule's state after it.
    """
    family, rows = at.family, rows_of(state)
    states, form = states_of(family), rule.restricted(family, int(at.blocks))
    mask = torch.ones(rows, states.shape[0], dtype=torch.bool)
    if form is not None:
        allowed = allowed_by(rule, map_state(lambda part: part.unsqueeze(1), state), at)
        limits = form.limits(allowed, Size((rows, 1)), torch.empty(0))
        mask = form.allows(
            limits.expand(rows, states.shape[0], -1), states.expand(rows, *states.shape)
        )
    row, number = mask.nonzero().unbind(1)
    chosen = map_state(lambda part: part.index_select(0, row), state)
    return row, number, rule.advance(chosen, number, at)


def places(factorization: Specification) -> At:
    """All blocks in the order of drawing."""
    blocks = [block for step in factorization.steps for block in step]
    families = tuple(factorization.layout.families[block] for block in blocks)
    if len(factorization.layout.distinct) == 1:
        families = families[:1]
    count = len(blocks)
    return At(torch.arange(count), torch.tensor(blocks, dtype=torch.int64), families, count)


def _with_places(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a method of a rule, which then gets places on the device of the state."""

    @wraps(method)
    def placed(self: Rule, state: State, *arguments: Any, **named: Any) -> Any:
        tensors = [part for part in _parts(state) if part is not None]

        def moved(argument: Any) -> Any:
            is_place = tensors and isinstance(argument, At)
            return argument._on(tensors[0].device) if is_place else argument

        named = {name: moved(argument) for name, argument in named.items()}
        return method(self, state, *map(moved, arguments), **named)

    return placed


def map_state(function: Callable[[Tensor], Tensor], state: State) -> State:
    """Applies a function to each tensor of a state."""
    if state is None:
        return None
    if isinstance(state, tuple):
        return tuple(map_state(function, part) for part in state)
    return function(state)


def _parts(state: State) -> tuple[Tensor, ...]:
    if not isinstance(state, tuple):
        return (state,)
    return tuple(tensor for part in state for tensor in _parts(part))


def rows_of(state: State) -> int:
    """The number of rows of a state."""
    return _parts(state)[0].shape[0]


def _distinct(state: State) -> tuple[State, Tensor]:
    """The distinct rows of a state, and for each row the index of its distinct row."""
    flat = torch.cat([part.unsqueeze(-1).flatten(1).double() for part in _parts(state)], 1)
    if not flat.shape[1]:
        first_only = map_state(lambda part: part[:1], state)
        return first_only, torch.zeros(flat.shape[0], dtype=torch.int64)
    inverse = torch.zeros(flat.shape[0], dtype=torch.int64)
    for column in flat.unbind(1):  # a hundred times as fast as `unique` of rows
        number = column.unique(return_inverse=True)[1]
        inverse = (inverse * flat.shape[0] + number).unique(return_inverse=True)[1]
    first = torch.empty(int(inverse.max()) + 1, dtype=torch.int64)
    first.scatter_(0, inverse.flip(0), torch.arange(flat.shape[0]).flip(0))
    return map_state(lambda part: part.index_select(0, first), state), inverse


def _nearest(form: Restricted, allowed: Tensor | Interval | None, value: Tensor) -> Tensor:
    """Values (rows,), with the first allowed state or the nearer end if they are not allowed."""
    if allowed is None:
        return value
    if isinstance(allowed, Interval):
        low, high = (torch.as_tensor(end).to(value) for end in allowed)
        return torch.minimum(torch.maximum(value, low.squeeze(-1)), high.squeeze(-1))
    if isinstance(form, Pinned):  # `allowed` is whether the block is free
        states = form.family.enumerate_support()
        constant = (
            form.constant if states is None else int((states == form.constant).int().argmax())
        )
        return value.masked_fill(~allowed.squeeze(1), constant)
    mask = allowed.squeeze(1)
    is_allowed = mask.gather(-1, value.unsqueeze(-1)).squeeze(-1)
    return torch.where(is_allowed, value, mask.int().argmax(-1))


def check_finite(rule: Rule, families: Sequence[Family]) -> None:
    """Raises a `ValueError` unless all families have a finite set of states."""
    for family in families:
        if family.enumerate_support() is None:
            raise ValueError(
                f"rule: expected blocks with a finite set of states for {rule!r}, got {family}"
            )


def bound(rule: R, **tables: Any) -> R:
    """A copy of a rule with tables, for `Rule.bind`."""
    new = copy(rule)
    vars(new).update(tables)
    return new


def num_values(factorization: Specification) -> int | None:
    """The number of states of a block, if it is the same for all blocks."""
    states = [family.enumerate_support() for family in factorization.layout.distinct]
    counts = {None if each is None else each.shape[0] for each in states}
    return counts.pop() if len(counts) == 1 else None
