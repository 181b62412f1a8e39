"""The factorization of a joint distribution into conditionals of blocks."""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import constraints

from ardist import columns as named_columns
from ardist.constraints import BlockConstraint, RuleConstraint
from ardist.drawing_order import DrawingOrder
from ardist.families import Family
from ardist.families.base import states_of
from ardist.families.guards import elementwise
from ardist.families.truncated import Likeliest
from ardist.layout import Layout
from ardist.ordering import Ordering
from ardist.partition import Blocks, Partition
from ardist.restriction import Restriction
from ardist.rules.base import Rule, choices, places
from ardist.rules.end import End
from ardist.shapes import (
    as_integer,
    as_size,
    check_tensor,
    check_type,
    constant,
    described,
    lead_of,
    spelled,
)
from ardist.specification import Specified


class Factorization(Specified):
    """The blocks of an event, the order in which they are drawn, and their conditionals' families.

    A frozen value, compared by meaning: two factorizations with the same blocks, dependencies and
    families are equal, however they were written.

    Args:
        event_shape: shape of one event.
        families: one for all blocks, or one for each in raster order of the grid.
        partition: how the event is partitioned into blocks; `Partition.scalars()` by default.
        ordering: the order in which the blocks are drawn; `Ordering.raster()` by default.
        names: the names of the blocks, if they are columns.
        rule: which values a block may have, given the blocks drawn before it; see `ardist.rules`.
        end: the symbol that ends a sequence, for blocks of one index each and an ordering without
            ties. All blocks drawn after it are `pad`, with probability one. It is short for
            `rule=rules.End(end, pad)`.
        pad: the symbol after the end; `end` by default.

    Raises:
        ValueError: if the arguments do not fit each other.

    >>> import ardist as ad
    >>> fac = ad.Factorization((2, 3), ad.families.Normal(), ordering=ad.Ordering.reverse())
    >>> fac.ranks
    tensor([[5, 4, 3],
            [2, 1, 0]])
    >>> fac.dependencies.sum(-1)  # the number of blocks on which each one depends
    tensor([5, 4, 3, 2, 1, 0])
    """

    event_shape: Size
    families: tuple[Family, ...]  # of each block, or a single one for all
    partition: Partition
    ordering: Ordering
    names: tuple[str, ...] | None
    rule: Rule | None

    # Not a dataclass: programs that write dataclasses field by field, such as the mixin of the
    # Hugging Face hub, could not read it back.

    def __init__(
        self,
        event_shape: int | Sequence[int],
        families: Family | Sequence[Family],
        *,
        partition: Partition | None = None,
        ordering: Ordering | None = None,
        names: Sequence[str] | None = None,
        rule: Rule | None = None,
        end: int | None = None,
        pad: int | None = None,
    ) -> None:
        values = {
            "event_shape": as_size(event_shape, "event_shape"),
            "partition": Partition.scalars() if partition is None else partition,
            "ordering": Ordering.raster() if ordering is None else ordering,
            "names": names,
            "rule": _rule_of(rule, end, pad),
        }
        self.__dict__.update(values)
        check_type(self.partition, Partition, "partition")
        self.__dict__["families"] = self._check_families(families)
        self._check()

    @staticmethod
    def columns(
        columns: Mapping[str, Family] | None = None,
        *,
        ordering: Ordering | None = None,
        rule: Rule | None = None,
        **families: Family,
    ) -> "Factorization":
        """A row of named columns, each with its own family, given by keyword or in a dict.

        >>> import ardist as ad
        >>> fac = ad.Factorization.columns(sex=ad.families.Bernoulli(), age=ad.families.Gamma())
        >>> fac.names, fac.event_shape
        (('sex', 'age'), torch.Size([2]))
        """
        if columns is not None:
            check_type(columns, Mapping, "columns")
        named = {**(columns or {}), **families}
        if not named:
            raise ValueError("columns: expected at least one column, got none")
        for name, family in named.items():
            if not isinstance(name, str) or not isinstance(family, Family):
                raise ValueError(
                    f"columns: expected a family for each name, got {described(family)} for "
                    f"{name!r}"
                )
        shapes: list[int | tuple[int, ...]] = [
            tuple(family.event_shape) or 1 for family in named.values()
        ]
        scalar = all(shape == 1 for shape in shapes)
        return Factorization(
            sum(math.prod(family.event_shape) for family in named.values()),
            tuple(named.values()),
            partition=Partition.scalars() if scalar else Partition.split(shapes),
            ordering=ordering,
            names=tuple(named),
            rule=rule,
        )

    # Derived from the arguments.

    @constant
    def blocks(self) -> Blocks:
        """The grid of blocks, their shapes, and the elements of the event that each one holds."""
        return self.partition.apply(self.event_shape)

    @property
    def grid_shape(self) -> Size:
        """Shape of the grid of blocks."""
        return self.blocks.grid_shape

    @constant
    def num_blocks(self) -> int:
        """The number of blocks of an event."""
        return math.prod(self.grid_shape)

    @constant
    def ranks(self) -> Tensor:
        """The step in which each block is drawn, from 0: (*grid_shape) int64."""
        return self.ordering.ranks(self.grid_shape)

    @constant
    def num_steps(self) -> int:
        """The number of steps of a draw, which is the number of distinct ranks."""
        return int(self.ranks.max()) + 1

    @constant
    def dependencies(self) -> Tensor:
        """Whether block i may depend on block j: (num_blocks, num_blocks) bool."""
        return self.ordering.dependencies(self.grid_shape)

    @constant
    def steps(self) -> list[list[int]]:
        """The raster indices of the blocks of each step."""
        order = torch.argsort(self.ranks.flatten(), stable=True).tolist()
        ranks = self.ranks.flatten().tolist()
        return [list(tied) for _, tied in itertools.groupby(order, key=ranks.__getitem__)]

    @constant
    def layout(self) -> Layout:
        """All conditionals, in raster order of the grid."""
        count = self.num_blocks if self.is_uniform else 1
        return Layout(self.families * count, flat=not self.is_uniform)

    @constant
    def drawing_order(self) -> DrawingOrder:
        """The conditionals of each step, and the permutation between raster and drawing order."""
        return DrawingOrder(self.layout, self.steps)

    @property
    def end(self) -> int | None:
        """The symbol that ends a sequence, if the rule is an `End`."""
        return self.rule.symbol if isinstance(self.rule, End) else None

    @property
    def pad(self) -> int | None:
        """The symbol after the end, if the rule is an `End`."""
        return self.rule.pad if isinstance(self.rule, End) else None

    @constant
    def restriction(self) -> Restriction | None:
        """The rule over these blocks, if there is one."""
        return None if self.rule is None else Restriction(self.rule.bind(self), self)

    @property
    def conditionals(self) -> Layout:
        """The conditionals that blocks are drawn from: `layout`, restricted by the rule if any."""
        return self.layout if self.restriction is None else self.restriction.layout

    @property
    def conditional_order(self) -> DrawingOrder:
        """The steps of `conditionals`."""
        return self.drawing_order if self.restriction is None else self.restriction.order

    @property
    def is_uniform(self) -> bool:
        """Whether all blocks have one family, and so one shape."""
        return len(self.families) == 1

    @property
    def is_total(self) -> bool:
        """Whether blocks are drawn one by one and each depends on all blocks before it."""
        if self.num_steps != self.num_blocks:
            return False
        pairs = self.num_blocks * (self.num_blocks - 1) // 2
        return not self.ordering.is_graph or int(self.dependencies.sum()) == pairs

    @constant
    def is_transitive(self) -> bool:
        """Whether each block depends on the dependencies of its dependencies, as in any ranking."""
        if not self.ordering.is_graph:
            return True
        edges = self.dependencies.float()
        return not bool(((edges @ edges > 0) & ~self.dependencies).any())

    @property
    def has_rsample(self) -> bool:
        """Whether draws of every block have gradients to the parameters."""
        return self.conditionals.has_rsample

    @constant
    def support(self) -> constraints.Constraint:
        """The set of possible events."""
        if self.restriction is not None and self.rule is not None:
            layout = self.restriction.layout_within()
            if layout is not None:
                return BlockConstraint(layout, self.blocks.elements, self.event_shape)
            is_discrete = any(family.support.is_discrete for family in self.conditionals.distinct)
            return RuleConstraint(self.inside, len(self.event_shape), self.rule, is_discrete)
        first = elementwise(self.families[0].support)
        if self.is_uniform and first.event_dim == 0:
            return constraints.independent(first, len(self.event_shape))
        block, count = self.families[0].event_shape, len(self.event_shape)
        trailing = self.event_shape[count - len(block) :] == block
        if self.is_uniform and self.is_in_order and trailing:
            return constraints.independent(self.families[0].support, count - len(block))
        return self._block_constraint

    @constant
    def _block_constraint(self) -> BlockConstraint:
        return BlockConstraint(self.layout, self.blocks.elements, self.event_shape)

    @constant
    def _num_states(self) -> list[int] | None:
        """The number of states of each block, in the order of drawing, if all are finite."""
        counts = {}
        for family in self.layout.distinct:
            if (states := family.enumerate_support()) is None:
                return None
            counts[family] = states.shape[0]
        return [counts[self.layout.families[block]] for block in itertools.chain(*self.steps)]

    @constant
    def num_states(self) -> int | None:
        """The number of possible events.

        None if a block has no finite set of states, if the rule depends on the context, or if the
        rule itself has too many states; see `Rule.num_events`.
        """
        sizes, restriction = self._num_states, self.restriction
        if sizes is None:
            return None
        if restriction is None:
            return math.prod(size**times for size, times in Counter(sizes).items())
        return None if restriction.rule.reads_context else restriction.rule.num_events(self)

    def enumerate_support(self) -> Tensor:
        """All events, in order: (num_states, *event_shape).

        They are on torch's default device. All other tensors of a factorization are on the CPU.

        Raises:
            ValueError: if a block has no finite set of states.
        """
        if self._num_states is None:
            raise ValueError(f"families: expected finite discrete ones, got {self}")
        dtype = torch.int64 if self.layout.is_index else torch.get_default_dtype()
        with torch.device("cpu"):
            rule = None if self.restriction is None else self.restriction.rule
            blocks = self._all_events(dtype) if rule is None else self._allowed_events(rule, dtype)
            events = self.merge(blocks)
        return events.to(torch.get_default_device())

    def _all_events(self, dtype: torch.dtype) -> Tensor:
        """All events, as blocks (num_states, *value_shape) in raster order."""
        layout = self.layout
        states = list(map(states_of, layout.families))
        choices = torch.cartesian_prod(*(torch.arange(values.shape[0]) for values in states))
        choices = choices.reshape(-1, len(states))
        flat = [
            values[choice].reshape(choice.shape[0], -1)
            for values, choice in zip(states, choices.unbind(-1), strict=True)
        ]
        rows = torch.cat([part.to(dtype) for part in flat], -1)
        return rows.reshape(-1, *layout.value_shape)

    def _allowed_events(self, rule: Rule, dtype: torch.dtype) -> Tensor:
        """All events that follow a rule, as blocks in raster order."""
        state, pieces = rule.start(1, None, torch.empty(0)), list[Tensor]()
        for at in places(self).each:
            row, number, state = choices(rule, state, at)
            pieces = [part.index_select(0, row) for part in pieces]
            pieces.append(states_of(at.family)[number].to(dtype))
        if self.layout.flat:
            drawn = torch.cat([part.unsqueeze(-1).flatten(1) for part in pieces], 1)
        else:
            drawn = torch.stack(pieces, 1)
        return self.drawing_order.to_raster(drawn)

    def inside(self, x: Tensor) -> Tensor:
        """Whether each block of the events is inside its support and follows the rule.

        Args:
            x: events (*lead, *event_shape).

        Returns:
            (*lead, num_blocks) bool.
        """
        blocks = self.split(x)
        if self.restriction is None:
            return self.layout.inside(blocks)
        rows = blocks.reshape(-1, *self.layout.value_shape)
        reference = rows if rows.is_floating_point() else rows.to(torch.get_default_dtype())
        limits = self.restriction.limits(rows, None, None, reference)
        inside = self.restriction.inside(rows, limits)
        return inside.reshape(*lead_of(x, self.event_shape), self.num_blocks)

    def block_name(self, block: int) -> str:
        """The name of a block in messages: the name of its column or its place on the grid."""
        if not 0 <= as_integer(block, "block") < self.num_blocks:
            raise ValueError(f"block: expected one of 0, ..., {self.num_blocks - 1}, got {block}")
        if self.names is not None:
            return f"column {self.names[block]!r}"
        place = torch.unravel_index(torch.tensor(block), self.grid_shape or (1,))
        return f"block {tuple(int(at) for at in place)}"

    # Events and blocks.

    def placeholder(self, reference: Tensor) -> Tensor:
        """Blocks inside the support, or padding if sequences have an end: (*value_shape)."""
        each = self.layout.placeholder(reference)
        if self.rule is None or self.rule.filler is None:
            return each
        return torch.full_like(each, self.rule.filler)

    @constant
    def is_in_order(self) -> bool:
        """Whether the blocks, one after the other, hold the elements in the order of the event."""
        return torch.equal(self.blocks.elements, torch.arange(self.blocks.elements.shape[0]))

    def split(self, x: Tensor) -> Tensor:
        """Events (*lead, *event_shape) as blocks in raster order of the grid.

        Blocks are (*lead, num_blocks, *block_shape) if all have one family. Otherwise they are
        flat, (*lead, total), block after block.
        """
        check_tensor(x, "x")
        lead = lead_of(x, self.event_shape)
        if x.shape[len(lead) :] != self.event_shape:
            raise ValueError(
                f"x: expected (*lead, {spelled(self.event_shape)}), got {tuple(x.shape)}"
            )
        flat = x.reshape(*lead, self.blocks.elements.shape[0])
        if not self.is_in_order:
            flat = flat.index_select(-1, self.blocks.elements.to(x.device))
        return flat.reshape((*lead, *self.layout.value_shape))

    def merge(self, blocks: Tensor) -> Tensor:
        """The inverse of `split`."""
        check_tensor(blocks, "blocks")
        shape = self.layout.value_shape
        lead = lead_of(blocks, shape)
        if blocks.shape[len(lead) :] != shape:
            raise ValueError(
                f"blocks: expected (*lead, {spelled(shape)}), got {tuple(blocks.shape)}"
            )
        flat = blocks.reshape(*lead, self.blocks.elements.shape[0])
        if not self.is_in_order:
            flat = flat.index_select(-1, self.blocks.elements.argsort().to(blocks.device))
        return flat.reshape((*lead, *self.event_shape))

    def pack(self, columns: Mapping[str, Any]) -> Tensor:
        """Packs named columns, each (*lead, *column_shape), into events (*lead, *event_shape).

        Missing numbers, such as None and pandas.NA, become NaN. Floats have the dtype of the
        tensors among the columns, or else torch's default dtype.

        Args:
            columns: a dict or a data frame of tensors, arrays, series or lists.

        Raises:
            ValueError: if the factorization has no names, or a column is missing, is not numeric
                or has another shape than the other columns.
        """
        return named_columns.pack(self._named(), self.layout, columns)

    def unpack(self, x: Tensor) -> dict[str, Tensor]:
        """The inverse of `pack`. Columns of indices become int64, and stay floats if one is NaN."""
        names = self._named()
        self.split(x)  # checks the shape
        return named_columns.unpack(names, self.layout, x)

    def _named(self) -> tuple[str, ...]:
        if self.names is None:
            raise ValueError(
                "columns: this factorization has no names; Factorization.columns gives them"
            )
        return self.names

    # Variations.

    def with_ordering(self, ordering: Ordering) -> "Factorization":
        """The same blocks and families in another order."""
        other: Factorization = object.__new__(Factorization)
        kept = [*Factorization.__annotations__, "blocks", "num_blocks", "layout", "is_in_order"]
        kept += ["_block_constraint"] + (["support", "num_states"] if self.rule is None else [])
        values = {name: self.__dict__[name] for name in kept if name in self.__dict__}
        other.__dict__.update({**values, "ordering": ordering})
        other._check()
        return other

    def with_families(self, families: Family | Sequence[Family]) -> "Factorization":
        """The same blocks in the same order with other conditional families."""
        return self.replace(families=families)

    @constant
    def likeliest(self) -> "Factorization":
        """The same factorization, whose conditionals always return their likeliest states."""
        families = [Likeliest(family) for family in self.families]
        return self.with_families(families[0] if self.is_uniform else families)

    def replace(self, **changes: Any) -> "Factorization":
        """The same factorization with other arguments of the constructor."""
        return _rebuild({**self._arguments, **changes})

    # Values and checks.

    def _check_families(self, families: Family | Sequence[Family]) -> tuple[Family, ...]:
        given = tuple(families) if isinstance(families, Sequence) else (families,)
        for family in given:
            if not isinstance(family, Family):
                raise ValueError(
                    f"families: expected members of ardist.families, got {family!r}; a family "
                    f"is Normal(), and dist.Normal(0., 1.) is a value of it"
                )
            if not isinstance(family, Hashable):
                raise ValueError(
                    f"families: expected hashable families, as frozen dataclasses are, got "
                    f"{family!r}"
                )
        if not isinstance(families, Family) and len(given) != self.num_blocks:
            raise ValueError(
                f"families: expected one for all or one for each of the {self.num_blocks} "
                f"blocks, got {len(given)}"
            )
        shapes = self.blocks.block_shapes
        # A single shape goes with all families, and a single family with all shapes.
        number = max(len(shapes), len(given))
        pairs = zip(shapes * (number // len(shapes)), given * (number // len(given)), strict=True)
        for shape, family in dict.fromkeys(pairs):
            if not type(family).__module__.startswith("ardist."):
                _check_own_family(family)
            if family.event_shape != shape:
                raise ValueError(
                    f"families: {family} is a distribution of shape "
                    f"{tuple(family.event_shape)}, but its block has shape {tuple(shape)}"
                    + (f"; Independent({family}, {tuple(shape)}) fits" if shape else "")
                )
        return given[:1] if all(family == given[0] for family in given) else given

    def _check(self) -> None:
        """Checks the other arguments, and computes constants that torch.compile cannot trace."""
        if not isinstance(self.ordering, Ordering):
            raise ValueError(
                f"ordering: expected an Ordering, such as Ordering.permutation([1, 0]), got "
                f"{self.ordering!r}"
            )
        self.ranks  # noqa: B018  raises if the ordering does not fit the grid
        if self.names is not None:
            self.__dict__["names"] = named_columns.check_names(self.names, self.num_blocks)
        self._check_rule()
        self.is_in_order, self.num_states, self.layout.sizes, self.layout.placeholders  # noqa: B018

    def _check_rule(self) -> None:
        if self.rule is None:
            return
        check_type(self.rule, Rule, "rule")
        self.restriction  # noqa: B018  raises if the rule does not suit the blocks
        if self.rule.needs_total and not self.is_total:
            name = "end" if isinstance(self.rule, End) else "rule"
            raise ValueError(
                f"{name}: expected an order without ties, in which each block may depend on all "
                f"that are drawn before it, got {self.ordering!r}"
            )

    @constant
    def order_key(self) -> Tensor:
        """The ranks, or the dependencies of a graph if they are fewer than the ranks allow."""
        ranks = self.ranks.flatten()
        if not self.ordering.is_graph:
            return self.ranks
        follows_ranks = torch.equal(self.dependencies, ranks.unsqueeze(-1) > ranks)
        return self.ranks if follows_ranks else self.dependencies

    @constant
    def block_key(self) -> tuple[Any, ...]:
        """All that equality compares, except the families and the rule."""
        elements = None if self.is_in_order else tuple(self.blocks.elements.tolist())
        return (
            *(self.event_shape, self.grid_shape, self.blocks.block_shapes, elements),
            *(self.names, tuple(self.order_key.flatten().tolist())),
        )

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name}: a factorization is frozen; replace makes another one")

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Factorization)
            and (self.families, self.rule) == (other.families, other.rule)
            and self.block_key == other.block_key
        )

    def __hash__(self) -> int:
        return hash((self.block_key, self.families, self.rule))

    def __reduce__(self) -> tuple[Callable[..., "Factorization"], tuple[Any, ...]]:
        return _rebuild, (self._arguments,)

    @property
    def _arguments(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        families = self.families[0] if self.is_uniform else self.families
        values = {name: getattr(self, name) for name in Factorization.__annotations__}
        return {**values, "families": families}

    def __repr__(self) -> str:
        if self.names is not None:
            inside = ", ".join(
                f"{name}={family}"
                for name, family in zip(self.names, self.layout.families, strict=True)
            )
            start = f"Factorization.columns({inside}"
        else:
            families = self.families[0] if self.is_uniform else list(self.families)
            start = f"Factorization({tuple(self.event_shape)}, {families}"
            if self.partition != Partition.scalars():
                start += f", partition={self.partition!r}"
        if self.ordering != Ordering.raster():
            start += f", ordering={self.ordering!r}"
        if self.end is not None:
            start += f", end={self.end}" + (f", pad={self.pad}" if self.pad != self.end else "")
        elif self.rule is not None:
            start += f", rule={self.rule!r}"
        return start + ")"


def _check_own_family(family: Family) -> None:
    """Checks the members that a user's family defines, by a call for two conditionals."""
    number = as_integer(family.num_params, f"families: num_params of {family}", 0)
    check_type(family.support, constraints.Constraint, f"families: support of {family}")
    with torch.no_grad(), torch.random.fork_rng(()):
        made = family(torch.zeros(2, number))
    if (made.batch_shape, made.event_shape) != ((2,), family.event_shape):
        raise ValueError(
            f"families: expected {family} to return a distribution of batch_shape (2,) and "
            f"event_shape {tuple(family.event_shape)} for parameters (2, {number}), got "
            f"{tuple(made.batch_shape)} and {tuple(made.event_shape)}"
        )


def _rule_of(rule: Rule | None, end: int | None, pad: int | None) -> Rule | None:
    """The rule, or an `End` if the end of sequences is given instead."""
    if end is None:
        if pad is not None:
            raise ValueError(f"pad: expected none without an end, got {pad}")
        return rule
    if rule is not None:
        raise ValueError(
            f"rule, end: expected one of them, got {rule!r} and {end!r}; "
            f"rules.All(rule, rules.End(end, pad)) combines them"
        )
    return End(as_integer(end, "end"), None if pad is None else as_integer(pad, "pad"))


def _rebuild(arguments: dict[str, Any]) -> Factorization:
    return Factorization(**arguments)
