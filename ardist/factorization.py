"""How a joint distribution is written as a product: the only source of truth about it."""

import itertools
import math
import operator
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pyro.distributions import Categorical
from torch import Size, Tensor
from torch.distributions import Distribution, constraints

from ardist.constraints import BlockConstraint, SequenceConstraint
from ardist.families import Family
from ardist.families.truncated import state_logits_of
from ardist.layout import Layout
from ardist.ordering import Ordering
from ardist.partition import Cut, Partition
from ardist.shapes import (
    as_integer,
    as_size,
    check_tensor,
    check_type,
    constant,
    described,
    is_sequence,
    shortened,
    spelled,
)


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Factorization:
    """How an event is cut into blocks, in which order, and the form of each conditional.

    A frozen value, compared by what it means: two that cut and order an event alike are equal,
    however they were written down.

    Args:
        event_shape: shape of one event.
        families: one for all blocks, or one for each in raster order of the grid.
        partition: how the event is cut into blocks; `Partition.scalars()` by default.
        ordering: in which order the blocks are drawn; `Ordering.raster()` by default.
        names: of the blocks, where they are columns.
        end: a symbol that ends a sequence, for blocks of one index each, in an order without
            ties: whatever is drawn after it is `pad`, with probability one.
        pad: what stands after the end; `end` by default.

    Raises:
        ValueError: where the parts do not fit each other.

    >>> import ardist as ad
    >>> fac = ad.Factorization((2, 3), ad.families.Normal(), ordering=ad.Ordering.reverse())
    >>> fac.ranks
    tensor([[5, 4, 3],
            [2, 1, 0]])
    >>> fac.dependencies.sum(-1)  # on how many blocks each depends
    tensor([5, 4, 3, 2, 1, 0])
    """

    event_shape: Size
    families: tuple[Family, ...]  # of each block, or a single one for all
    partition: Partition
    ordering: Ordering
    names: tuple[str, ...] | None
    end: int | None
    pad: int | None

    def __init__(
        self,
        event_shape: int | Sequence[int],
        families: Family | Sequence[Family],
        *,
        partition: Partition | None = None,
        ordering: Ordering | None = None,
        names: Sequence[str] | None = None,
        end: int | None = None,
        pad: int | None = None,
    ) -> None:
        values = {
            "event_shape": as_size(event_shape, "event_shape"),
            "partition": Partition.scalars() if partition is None else partition,
            "ordering": Ordering.raster() if ordering is None else ordering,
            "names": names,
            "end": None if end is None else as_integer(end, "end"),
            "pad": end if pad is None else as_integer(pad, "pad"),
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
        **families: Family,
    ) -> "Factorization":
        """A row of named columns, each with a family of its own, given by keyword or in a dict.

        >>> import ardist as ad
        >>> fac = ad.Factorization.columns(sex=ad.families.Bernoulli(), age=ad.families.Gamma())
        >>> fac.names, fac.event_shape
        (('sex', 'age'), torch.Size([2]))
        """
        if columns is not None:
            check_type(columns, Mapping, "columns")
        named = {**(columns or {}), **families}
        if not named:
            raise ValueError("families: expected at least one column, got none")
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
        )

    # What follows from the four choices.

    @constant
    def _cut(self) -> Cut:
        return self.partition.apply(self.event_shape)

    @property
    def grid_shape(self) -> Size:
        """Shape of the grid of blocks."""
        return self._cut.grid_shape

    @constant
    def num_blocks(self) -> int:
        """How many blocks an event has."""
        return math.prod(self.grid_shape)

    @constant
    def ranks(self) -> Tensor:
        """When each block is drawn, from 0; ties are drawn together: (*grid_shape) int64."""
        return self.ordering.ranks(self.grid_shape)

    @constant
    def num_steps(self) -> int:
        """How many steps a draw takes: the number of distinct ranks."""
        return int(self.ranks.max()) + 1

    @constant
    def dependencies(self) -> Tensor:
        """(num_blocks, num_blocks) bool: whether the block of the row may depend on the other."""
        return self.ordering.dependencies(self.grid_shape)

    @constant
    def steps(self) -> list[list[int]]:
        """The blocks of each step, by their raster index."""
        order = torch.argsort(self.ranks.flatten(), stable=True).tolist()
        ranks = self.ranks.flatten().tolist()
        return [list(tied) for _, tied in itertools.groupby(order, key=ranks.__getitem__)]

    @constant
    def layout(self) -> Layout:
        """All conditionals, in raster order of the grid."""
        uniform = len(self.families) == 1
        return Layout(self.families * self.num_blocks if uniform else self.families, not uniform)

    @constant
    def step_layouts(self) -> list[Layout]:
        """The conditionals of each step; steps of equally many alike blocks share one."""
        if not self.is_uniform:
            return [self.layout.select(blocks) for blocks in self.steps]
        shared = {count: self.layout.select(range(count)) for count in set(map(len, self.steps))}
        return [shared[len(blocks)] for blocks in self.steps]

    def layout_of(self, start: int, stop: int) -> Layout:
        """The conditionals of the steps from `start` to `stop`, in the order of drawing."""
        if (start, stop) not in self._ranges:
            blocks = list(itertools.chain(*self.steps[start:stop]))
            self._ranges[start, stop] = self.layout.select(blocks)
        return self._ranges[start, stop]

    @constant
    def _ranges(self) -> dict[tuple[int, int], Layout]:
        return {}

    @property
    def is_uniform(self) -> bool:
        """Whether all blocks have one family, and so one shape."""
        return len(self.families) == 1

    @property
    def is_total(self) -> bool:
        """Whether each block depends on all that are drawn before it, one by one."""
        if self.num_steps != self.num_blocks:
            return False
        pairs = self.num_blocks * (self.num_blocks - 1) // 2
        return self.ordering.name != "from_graph" or int(self.dependencies.sum()) == pairs

    @constant
    def is_transitive(self) -> bool:
        """Whether each block depends on all that its dependencies depend on, as in any ranking."""
        if self.ordering.name != "from_graph":
            return True
        edges = self.dependencies.float()
        return not bool(((edges @ edges > 0) & ~self.dependencies).any())

    @property
    def has_rsample(self) -> bool:
        """Whether draws of every block have gradients to the parameters."""
        return self.layout.has_rsample

    @constant
    def support(self) -> constraints.Constraint:
        """Where events lie."""
        if self.end is not None:
            return SequenceConstraint(self.inside, len(self.event_shape), self.end)
        first = self.families[0].support
        while isinstance(first, constraints.independent):
            first = first.base_constraint
        if self.is_uniform and first.event_dim == 0:
            return constraints.independent(first, len(self.event_shape))
        block, count = self.families[0].event_shape, len(self.event_shape)
        if self.is_uniform and self._in_order and self.event_shape[count - len(block) :] == block:
            return constraints.independent(self.families[0].support, count - len(block))
        return self._block_constraint

    @constant
    def _block_constraint(self) -> BlockConstraint:
        return BlockConstraint(self.layout, self._cut.elements, self.event_shape)

    @constant
    def num_states(self) -> int | None:
        """How many events there are, or None where blocks are not discrete and finite."""
        counts: dict[Family, int] = {}
        for family in self.layout.distinct:
            states = family.enumerate_support()
            if states is None:
                return None
            counts[family] = states.shape[0]
        sizes = [counts[self.layout.families[block]] for step in self.steps for block in step]
        if self.end is None:
            return math.prod(sizes)
        # Those that end at each step, and those that never do.
        return sum(itertools.accumulate((size - 1 for size in sizes), operator.mul, initial=1))

    def enumerate_support(self) -> Tensor:
        """All events, in order: (num_states, *event_shape); a `ValueError` if there is no end."""
        layout = self.layout
        found = [family.enumerate_support() for family in layout.families]
        states = [values for values in found if values is not None]
        if len(states) < len(found):
            raise ValueError(f"families: expected finite discrete ones, got {self}")
        if self.end is not None:
            return self.merge(self._enumerate_ended([values.shape[0] for values in states]))
        choices = torch.cartesian_prod(*(torch.arange(values.shape[0]) for values in states))
        choices = choices.reshape(-1, len(states))
        flat = [
            values[choice].reshape(choice.shape[0], -1)
            for values, choice in zip(states, choices.unbind(-1), strict=True)
        ]
        dtype = torch.int64 if layout.is_index else torch.get_default_dtype()
        rows = torch.cat([part.to(dtype) for part in flat], -1)
        return self.merge(rows.reshape(-1, *layout.value_shape))

    def _enumerate_ended(self, sizes: Sequence[int]) -> Tensor:
        """All blocks of sequences with an end, by where it is: (num_states, num_blocks)."""
        order, end = list(itertools.chain(*self.steps)), self.end
        dtype = torch.int64 if self.layout.is_index else torch.get_default_dtype()
        rows = []
        alive = torch.empty(1, 0, dtype=dtype)  # of those that have not ended, in drawing order
        for step, block in enumerate(order):
            rows.append(F.pad(alive, (0, 1), value=end))
            rows[-1] = F.pad(rows[-1], (0, len(order) - step - 1), value=self.pad)
            others = torch.tensor([s for s in range(sizes[block]) if s != end], dtype=dtype)
            alive = torch.cat(
                (
                    alive.repeat_interleave(others.shape[0], 0),
                    others.repeat(alive.shape[0]).unsqueeze(-1),
                ),
                -1,
            )
        drawn = torch.cat((*rows, alive))
        return torch.empty_like(drawn).index_copy_(1, torch.tensor(order), drawn)

    def inside(self, x: Tensor, ranks: Tensor | None = None) -> Tensor:
        """Whether each block of the events is inside its support: (*lead, num_blocks) bool.

        `ranks`, (*lead, num_blocks), in place of the factorization's own, matter to what may
        follow an end.
        """
        blocks = self.split(x)
        inside = self.layout.inside(blocks)
        return inside if self.end is None else inside & ~self.misplaced(blocks, ranks)

    def ended(self, blocks: Tensor, ranks: Tensor | None = None) -> Tensor:
        """Which blocks come after an end in the order of drawing: (*lead, num_blocks) bool."""
        ranks = self.ranks.flatten().to(blocks.device) if ranks is None else ranks
        end: Any = self.end
        is_end = torch.eq(blocks, end)
        return ranks > torch.where(is_end, ranks, self.num_blocks).amin(-1, keepdim=True)

    def misplaced(self, blocks: Tensor, ranks: Tensor | None = None) -> Tensor:
        """Which blocks come after an end and are not `pad`: (*lead, num_blocks) bool."""
        pad: Any = self.pad
        return self.ended(blocks, ranks) & torch.ne(blocks, pad)

    def padded(self, family: Family, params: Tensor, ended: Tensor) -> Distribution:
        """A conditional over indices, certain of `pad` where the sequence has ended."""
        logits = state_logits_of(family, params)
        certain = torch.full_like(logits, -torch.inf)
        certain[..., self.pad] = 0.0
        logits = torch.where(ended.unsqueeze(-1), certain, logits)
        result: Distribution = Categorical(logits=logits, validate_args=False)
        return result

    def block_name(self, block: int) -> str:
        """How messages call a block: by its column's name or its place on the grid."""
        if self.names is not None:
            return f"column {self.names[block]!r}"
        place = torch.unravel_index(torch.tensor(block), self.grid_shape or (1,))
        return f"block {tuple(int(at) for at in place)}"

    # Events and blocks.

    @constant
    def _in_order(self) -> bool:
        elements = self._cut.elements
        return torch.equal(elements, torch.arange(elements.shape[0]))

    def split(self, x: Tensor) -> Tensor:
        """Events (*lead, *event_shape) as blocks in raster order of the grid.

        Blocks are (*lead, num_blocks, *block_shape) where all have one family; otherwise they
        are flat, (*lead, total), block after block.
        """
        check_tensor(x, "x")
        lead = x.shape[: x.dim() - len(self.event_shape)]
        if x.shape[len(lead) :] != self.event_shape:
            raise ValueError(
                f"x: expected (*lead, {spelled(self.event_shape)}), got {tuple(x.shape)}"
            )
        flat = x.reshape(*lead, self._cut.elements.shape[0])
        if not self._in_order:
            flat = flat.index_select(-1, self._cut.elements.to(x.device))
        return flat.reshape((*lead, *self.layout.value_shape))

    def merge(self, blocks: Tensor) -> Tensor:
        """The inverse of `split`."""
        check_tensor(blocks, "blocks")
        shape = self.layout.value_shape
        lead = blocks.shape[: blocks.dim() - len(shape)]
        if blocks.shape[len(lead) :] != shape:
            raise ValueError(
                f"blocks: expected (*lead, {spelled(shape)}), got {tuple(blocks.shape)}"
            )
        flat = blocks.reshape(*lead, self._cut.elements.shape[0])
        if not self._in_order:
            flat = flat.index_select(-1, self._cut.elements.argsort().to(blocks.device))
        return flat.reshape((*lead, *self.event_shape))

    def pack(self, columns: Mapping[str, Any]) -> Tensor:
        """Named columns, each (*lead, *column_shape), as events: a dict or a frame of tensors,
        arrays, series or lists.

        Missing numbers, such as None and pandas.NA, become NaN. Floats are of the dtype of the
        tensors among the columns, and of torch's default dtype if there is none.
        """
        names = self._named()
        found = getattr(columns, "columns", columns)  # polars iterates over the columns
        if found is columns and not isinstance(columns, Mapping):
            raise ValueError(f"columns: expected a dict or a frame, got {described(columns)}")
        given_names = set(found)
        if given_names != set(names):
            raise ValueError(f"columns: expected {sorted(names)}, got {sorted(given_names)}")
        given = [columns[name] for name in names]
        tensors = [_as_column(name, column) for name, column in zip(names, given, strict=True)]
        if not self.layout.is_index:
            floats = [c.dtype for c in given if isinstance(c, Tensor) and c.is_floating_point()]
            dtype = floats[0] if floats else torch.get_default_dtype()
            tensors = [column.to(dtype) for column in tensors]
        parts = []
        shapes = [family.event_shape for family in self.layout.families]
        lead = tensors[0].shape[: tensors[0].dim() - len(shapes[0])]
        for name, column, shape in zip(names, tensors, shapes, strict=True):
            if column.shape != lead + shape:
                raise ValueError(
                    f"columns: expected {tuple(lead + shape)} in {name!r}, got "
                    f"{tuple(column.shape)}"
                )
            parts.append(column.reshape(*lead, shape.numel()))
        return torch.cat(parts, -1)

    def unpack(self, x: Tensor) -> dict[str, Tensor]:
        """The inverse of `pack`; columns of indices come back as int64."""
        names = self._named()
        self.split(x)  # a misfit raises
        pieces = x.split(self.layout.sizes["value"], -1)
        return {
            name: (piece.long() if family.is_index else piece).reshape(
                *x.shape[:-1], *family.event_shape
            )
            for name, piece, family in zip(names, pieces, self.layout.families, strict=True)
        }

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
        kept = ["_cut", "num_blocks", "layout", "_block_constraint", "_in_order"]
        kept += ["support", "num_states"] if self.end is None else []
        derived = {name: self.__dict__[name] for name in kept if name in self.__dict__}
        other.__dict__.update({**self._fields, **derived, "ordering": ordering})
        other._check()
        return other

    def with_families(self, families: Family | Sequence[Family]) -> "Factorization":
        """The same blocks in the same order with conditionals of another form."""
        return _rebuild({**self._fields, "families": families})

    def with_families_of(self, other: "Factorization") -> "Factorization":
        """This cut and order with the families and the end of another one, which a network has;
        itself where its blocks do not have the same widths, and the other one where they agree.
        """
        if self is other:
            return other
        mine, theirs = (
            [(family.event_shape, family.num_params, family.num_features) for family in families]
            for families in (self.families, other.families)
        )
        known = self
        forms: dict[str, Any] = {"families": other.families, "end": other.end, "pad": other.pad}
        if mine == theirs and any(getattr(self, name) != form for name, form in forms.items()):
            if other.is_uniform:
                forms["families"] = other.families[0]
            known = _rebuild({**self._fields, **forms})
        return other if known == other else known

    # Values and checks.

    def _check_families(self, families: Family | Sequence[Family]) -> tuple[Family, ...]:
        given = tuple(families) if isinstance(families, Sequence) else (families,)
        for family in given:
            if not isinstance(family, Family):
                raise ValueError(
                    f"families: expected members of ardist.families, got {family!r}; a family "
                    f"is Normal(), and dist.Normal(0., 1.) is a value of it"
                )
        if not isinstance(families, Family) and len(given) != self.num_blocks:
            raise ValueError(
                f"families: expected one for all or one for each of the {self.num_blocks} "
                f"blocks, got {len(given)}"
            )
        shapes = self._cut.block_shapes
        # One of either serves all of the other.
        number = max(len(shapes), len(given))
        pairs = zip(shapes * (number // len(shapes)), given * (number // len(given)), strict=True)
        for shape, family in dict.fromkeys(pairs):
            if family.event_shape != shape:
                raise ValueError(
                    f"families: {family} is a distribution of shape "
                    f"{tuple(family.event_shape)}, but its block has shape {tuple(shape)}"
                    + (f"; Independent({family}, {tuple(shape)}) fits" if shape else "")
                )
        return given[:1] if all(family == given[0] for family in given) else given

    def _check(self) -> None:
        """Checks what families do not tell, and fills what torch.compile cannot trace."""
        self._check_ordering()
        self._check_names()
        self._check_end()
        self._in_order, self.num_states, self.layout.sizes, self.layout.placeholders  # noqa: B018

    def _check_ordering(self) -> None:
        if not isinstance(self.ordering, Ordering):
            raise ValueError(
                f"ordering: expected an Ordering, such as Ordering.permutation([1, 0]), got "
                f"{self.ordering!r}"
            )
        self.ranks  # noqa: B018  a misfit raises

    def _check_names(self) -> None:
        names = self.names
        if names is None:
            return
        if (
            not is_sequence(names)
            or len(names) != self.num_blocks
            or not all(isinstance(name, str) for name in names)
            or len(set(names)) < len(names)
        ):
            raise ValueError(
                f"names: expected {self.num_blocks} different strings, one for each block, got "
                f"{described(names)}"
            )
        self.__dict__["names"] = tuple(names)

    def _check_end(self) -> None:
        if self.end is None:
            if self.pad is not None:
                raise ValueError(f"pad: expected none without an end, got {self.pad}")
            return
        for family in self.layout.distinct:
            states = None if family.event_shape else family.enumerate_support()
            if states is None or not torch.equal(states.long(), torch.arange(states.shape[0])):
                raise ValueError(
                    f"end: expected blocks of one index each, 0, ..., n - 1, got {family}"
                )
            for name, symbol in (("end", self.end), ("pad", self.pad)):
                if symbol not in range(states.shape[0]):
                    raise ValueError(
                        f"{name}: expected one of 0, ..., {states.shape[0] - 1}, got {symbol!r}"
                    )
        if not self.is_total:
            raise ValueError(
                f"end: expected an order without ties, in which all that is drawn after the end "
                f"may depend on it, got {self.ordering!r}"
            )

    @constant
    def _order(self) -> Tensor:
        """All about the order: the ranks, or the dependencies of a graph that allows less."""
        ranks = self.ranks.flatten()
        if self.ordering.name != "from_graph":
            return self.ranks
        follows_ranks = torch.equal(self.dependencies, ranks.unsqueeze(-1) > ranks)
        return self.ranks if follows_ranks else self.dependencies

    @constant
    def _key(self) -> tuple[Any, ...]:
        elements = None if self._in_order else tuple(self._cut.elements.tolist())
        return (
            *(self.event_shape, self.grid_shape, self._cut.block_shapes, elements),
            *(self.families, self.names, tuple(self._order.flatten().tolist())),
            *(self.end, self.pad),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Factorization) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __reduce__(self) -> tuple[Callable[..., "Factorization"], tuple[Any, ...]]:
        families = self.families[0] if self.is_uniform else self.families
        return _rebuild, ({**self._fields, "families": families},)

    @property
    def _fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

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
        return start + ")"


def _rebuild(fields: dict[str, Any]) -> Factorization:
    return Factorization(**fields)


def _as_column(name: str, values: Any) -> Tensor:
    """A column as a tensor: what is no tensor becomes int64 or of the default dtype."""
    if isinstance(values, Tensor):
        return values
    try:
        array = np.asarray(values)
        if array.dtype == object:  # as of nullable columns: numbers, and what stands for none
            missing = (None, getattr(sys.modules.get("pandas"), "NA", None))
            each = np.array([np.nan if any(x is m for m in missing) else x for x in array.flat])
            array = each.reshape((*array.shape, *each.shape[1:]))
        kind = {"b": np.int64, "i": np.int64, "u": np.int64, "f": np.float64}[array.dtype.kind]
    except (KeyError, TypeError, ValueError) as error:
        found = list(values) if isinstance(values, Iterable) else [values]
        raise ValueError(
            f"columns: expected numbers in {name!r}, categories as 0, 1, ..., got "
            f"{shortened(found)}"
        ) from error
    column = torch.from_numpy(array.astype(kind))
    return column.to(torch.get_default_dtype()) if column.is_floating_point() else column
