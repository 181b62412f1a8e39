"""Layouts of many blocks in one tensor, whose conditionals are evaluated together."""

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import accumulate
from math import prod
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Distribution

from ardist.families import Family
from ardist.families.stacked import form_of, stack
from ardist.shapes import constant, described, is_between, lead_of, outside_modes


class Layout:
    """A sequence of blocks in one tensor, whose conditionals are evaluated together.

    If all blocks have one family, values are `(..., num_blocks, *block_shape)` and parameters
    `(..., num_blocks, num_params)`. Otherwise the layout is flat: both are `(..., total)`, block
    after block, and nothing is padded. Families of one form, such as normal distributions in
    different units, are called once for all their blocks (see `families.stacked`).

    Args:
        families: one family for each block.
        flat: whether the layout is flat; if not, all families are the same.
        is_index: whether values are int64; by default, if all blocks are indices.
    """

    def __init__(
        self, families: Sequence[Family], flat: bool, is_index: bool | None = None
    ) -> None:
        self.families = tuple(families)
        self.flat = flat
        self.distinct = list(dict.fromkeys(self.families)) if flat else [self.families[0]]
        if is_index is None:
            is_index = all(family.is_index for family in self.distinct)
        self.is_index = is_index
        # The blocks of each form, and one stacked family for them.
        self._members: list[Sequence[int]] = [range(len(self.families))]
        self.stacked = self.distinct
        self._indices: dict[torch.device, dict[str, tuple[Tensor, Tensor]]] = {}
        if len(self.distinct) > 1:
            with outside_modes():
                self._stack()

    def _stack(self) -> None:
        """Finds the blocks of each form, and how to sort entries by form."""
        forms = {family: form_of(family) for family in self.distinct}
        places = {form: place for place, form in enumerate(dict.fromkeys(forms.values()))}
        owners = [places[forms[family]] for family in self.families]
        members: list[list[int]] = [[] for _ in places]
        for block, place in enumerate(owners):
            members[place].append(block)
        self._members = [*members]
        self.stacked = [stack([self.families[b] for b in each]) for each in members]
        if len(places) > 1:
            owner = torch.tensor(owners)
            self._indices[owner.device] = {
                kind: _grouped(owner.repeat_interleave(torch.tensor(sizes)))
                for kind, sizes in self.sizes.items()
            }

    def __reduce__(self) -> tuple[Any, ...]:  # copies make their own stacks
        return Layout, (self.families, self.flat, self.is_index)

    @cached_property
    def sizes(self) -> dict[str, list[int]]:
        """The number of entries of each kind that each block has."""
        families = self.families if self.flat else self.families[:1]
        each = {
            "block": [1] * len(families),
            "value": [prod(family.event_shape) for family in families],
            "param": [family.num_params for family in families],
            "feature": [family.num_features for family in families],
        }
        return each if self.flat else {k: sizes * self.num_blocks for k, sizes in each.items()}

    @property
    def num_blocks(self) -> int:
        return len(self.families)

    @property
    def has_rsample(self) -> bool:
        return all(family.has_rsample for family in self.distinct)

    @property
    def has_noise(self) -> bool:
        return all(family.has_noise for family in self.distinct)

    @property
    def value_shape(self) -> Size:
        """Shape of the values in one row."""
        if self.flat:
            return Size((sum(self.sizes["value"]),))
        return Size((self.num_blocks, *self.families[0].event_shape))

    @property
    def param_shape(self) -> Size:
        """Shape of the parameters in one row."""
        if self.flat:
            return Size((sum(self.sizes["param"]),))
        return Size((self.num_blocks, self.families[0].num_params))

    def dtype(self, params: torch.dtype) -> torch.dtype:
        """The dtype of values, given the dtype of the parameters."""
        return torch.int64 if self.is_index else params

    def select(self, blocks: Sequence[int]) -> "Layout":
        """The layout of some of the blocks, with values of the same dtype."""
        return Layout([self.families[block] for block in blocks], self.flat, self.is_index)

    def ends_of(self, kind: str) -> list[int]:
        """For each t, the number of entries of a kind, a key of `sizes`, in the first t blocks."""
        return [0, *accumulate(self.sizes[kind])]

    def columns(self, kind: str, blocks: Sequence[int]) -> list[int]:
        """The flat positions of the entries of some blocks; `kind` is a key of `sizes`."""
        ends = self.ends_of(kind)
        return [at for block in blocks for at in range(ends[block], ends[block + 1])]

    def block(self, kind: str, rows: Tensor, number: int) -> Tensor:
        """The values or parameters of one block, (N, n), from a tensor (N, ...) of all blocks."""
        if not self.flat:
            return rows[:, number].flatten(1) if rows.dim() > 2 else rows[:, number : number + 1]
        start = sum(self.sizes[kind][:number])
        return rows[:, start : start + self.sizes[kind][number]]

    def gather_blocks(self, kind: str, rows: Tensor, blocks: Sequence[int]) -> Tensor:
        """The values or parameters of some blocks, in this order, from (N, ...) of all blocks."""
        wanted = self.columns(kind, blocks) if self.flat else blocks
        return rows.index_select(1, torch.tensor(wanted, device=rows.device))

    def scatter_blocks(self, rows: Tensor, blocks: Sequence[int], values: Tensor) -> Tensor:
        """A copy of the values (N, ...) of all blocks, with the values of some blocks replaced."""
        wanted = self.columns("value", blocks) if self.flat else blocks
        return rows.index_copy(1, torch.tensor(wanted, device=rows.device), values)

    def placeholder(self, reference: Tensor) -> Tensor:
        """Constant values well inside the support: (*value_shape)."""
        each = torch.tensor(
            self.placeholders, dtype=self.dtype(reference.dtype), device=reference.device
        )
        return (each if self.flat else each.repeat(self.num_blocks)).reshape(self.value_shape)

    @constant
    def placeholders(self) -> list[float]:
        """The numbers of `placeholder`: for all blocks, or for one if the layout is not flat."""
        found = {family: family.placeholder().flatten().tolist() for family in self.distinct}
        return [x for f in (self.families if self.flat else self.distinct) for x in found[f]]

    def finite(self, values: Tensor) -> Tensor:
        """The values, with placeholders for the blocks that have an infinite element."""
        if not values.is_floating_point() or is_between(values, -math.inf, math.inf):
            return values
        if not self.flat and not self.families[0].event_shape:
            return values.nan_to_num(math.nan, *2 * self.placeholders)
        infinite = values.isinf()
        if any(family.event_shape for family in self.distinct):
            infinite = self.expand_to_elements(self.count(infinite) > 0)
        return torch.where(infinite, self.placeholder(values), values)

    def expand_to_elements(self, each: Tensor) -> Tensor:
        """A number for each block, (..., num_blocks), repeated for each of its elements."""
        if not self.flat:
            dims = (1,) * len(self.families[0].event_shape)
            return each.reshape((*each.shape, *dims)).expand((*each.shape[:-1], *self.value_shape))
        sizes = enumerate(self.sizes["value"])
        owners = [block for block, size in sizes for _ in range(size)]
        return each.index_select(-1, torch.tensor(owners, device=each.device))

    def count(self, mask: Tensor) -> Tensor:
        """The number of elements of each block under a mask (..., *value_shape)."""
        if not self.flat:
            lead = lead_of(mask, self.value_shape)
            return mask.reshape((*lead, self.num_blocks, self.sizes["value"][0])).sum(-1)
        if max(self.sizes["value"]) == 1:  # a shortcut for columns, which may be many
            return mask.long()
        pieces = mask.split(self.sizes["value"], -1)
        return torch.stack([piece.sum(-1) for piece in pieces], -1)

    def whole(self, mask: Tensor) -> Tensor:
        """Whether all elements of each block are under a mask (..., *value_shape)."""
        return self.count(mask) == torch.tensor(self.sizes["value"], device=mask.device)

    def is_partially_observed(self, mask: Tensor) -> bool:
        """Whether a mask covers a block in part."""
        return max(self.sizes["value"]) > 1 and bool(self.partially_observed(mask).any())

    def partially_observed(self, mask: Tensor) -> Tensor:
        """Whether a mask (..., *value_shape) covers each block in part: (..., num_blocks) bool."""
        return (self.count(mask) > 0) & ~self.whole(mask)

    def check_params(self, params: object, rows: int, name: str) -> None:
        """Raises a `ValueError` unless params are a tensor (rows, *param_shape)."""
        shape = tuple(params.shape) if isinstance(params, Tensor) else None
        if shape != (rows, *self.param_shape):
            raise ValueError(
                f"network: {name} returned parameters of shape "
                f"{described(params) if shape is None else shape}, expected "
                f"{(rows, *self.param_shape)}"
            )

    # Functions of all conditionals, which are called once for each stacked family.

    def map(self, function: Callable[..., Any], *rows: tuple[str, Tensor | None]) -> list[Any]:
        """Calls a function for each stacked family and the entries of its blocks.

        Args:
            function: called with a family and, for each of `rows`, (..., its blocks, *shape).
            rows: pairs of a kind, "value" or "param", and a tensor of all blocks or None.
        """
        parts = [
            [None] * len(self.stacked) if all_blocks is None else self.split(kind, all_blocks)
            for kind, all_blocks in rows
        ]
        return [function(*each) for each in zip(self.stacked, *parts, strict=True)]

    def distributions(self, params: Tensor) -> tuple[Distribution, ...]:
        """The conditional of each block."""
        pieces = params.split(self.sizes["param"], -1) if self.flat else params.unbind(-2)
        return tuple(family(piece) for family, piece in zip(self.families, pieces, strict=True))

    def log_prob(self, params: Tensor, values: Tensor) -> Tensor:
        """The log probability of each block, in nats: (..., num_blocks)."""
        if not self.flat:
            return self.distinct[0].log_prob(params, values)
        rows = (("param", params), ("value", values))
        return self.join("block", self.map(lambda f, *given: f.log_prob(*given), *rows))

    def fit(self, values: Tensor, mask: Tensor) -> Tensor:
        """Parameters of each block under which its values are likely: (total params,).

        Args:
            values: (rows, *value_shape).
            mask: (rows, *value_shape) bool, False for missing elements.
        """
        each = self.of_families(values, mask)
        return self.join("param", [f.fit(*given).flatten() for f, *given in each])

    def of_families(self, values: Tensor, mask: Tensor) -> list[tuple[Family, Tensor, Tensor]]:
        """Each stacked family with the values of its blocks, and a mask of their elements."""
        return self.map(lambda *given: given, ("value", values), ("value", mask))

    def marginal_log_prob(self, params: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """The log probability of the elements of each block under a mask, with the other elements
        integrated out.
        """
        rows = (("param", params), ("value", values), ("value", mask))
        return self.join("block", self.map(lambda f, *given: f.marginal_log_prob(*given), *rows))

    def given_log_prob(
        self, params: Tensor, values: Tensor, mask: Tensor, kept: Tensor | None = None
    ) -> Tensor:
        """The log probability of the other elements of each block, or only of the `kept` elements,
        given the elements under a mask.
        """
        rows = (("param", params), ("value", values), ("value", mask), ("value", kept))
        return self.join("block", self.map(lambda f, *given: f.given_log_prob(*given), *rows))

    def inside(self, values: Tensor) -> Tensor:
        """Whether each block is inside its support: (..., num_blocks) bool."""
        return self.join("block", self.map(lambda f, value: f.inside(value), ("value", values)))

    def features(self, values: Tensor) -> Tensor:
        """The numbers that networks read, block after block: (..., total features)."""
        each = self.map(lambda f, value: f.features(value).flatten(-2), ("value", values))
        return self.join("feature", each)

    def sample(self, params: Tensor) -> Tensor:
        """A draw of each block, without gradients."""
        return self.join_values(self.map(lambda f, p: f.sample(p), ("param", params)), params)

    def rsample(self, params: Tensor) -> Tensor:
        """A draw of each block, with gradients to the parameters."""
        return self.join_values(self.map(lambda f, p: f.rsample(p), ("param", params)), params)

    def pathwise(self, params: Tensor, values: Tensor) -> Tensor:
        """The same values, with their gradients to the parameters if the family has them."""
        each = self.map(
            lambda f, p, v: f.pathwise(p, v) if f.has_rsample else v,
            ("param", params),
            ("value", values),
        )
        return self.join_values(each, params)

    def sample_given(self, params: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """A draw of each block given its elements under a mask, without gradients."""
        rows = (("param", params), ("value", values), ("value", mask))
        each = self.map(lambda f, *given: f.sample_given(*given), *rows)
        return self.join_values(each, params)

    def noise(self, rows: int, reference: Tensor) -> list[Tensor]:
        """The noise that `from_noise` maps to draws, for each stacked family."""
        return [
            family.noise(Size((rows, len(blocks))), dtype=reference.dtype, device=reference.device)
            for family, blocks in zip(self.stacked, self._members, strict=True)
        ]

    def from_noise(self, params: Tensor, noise: Sequence[Tensor]) -> Tensor:
        """Maps noise to draws, whose dtype may be more precise than the parameters' dtype."""
        if not self.flat:  # the result is the same, and this is the innermost loop of a draw
            return self.distinct[0].from_noise(params, noise[0])
        parts = zip(self.stacked, self.split("param", params), noise, strict=True)
        return self.join_values([f.from_noise(p, given) for f, p, given in parts], params)

    def slopes(
        self, kind: str, rows: Tensor, function: Callable[[Family, Tensor, int], Tensor]
    ) -> list[Tensor | None]:
        """The Jacobian of a function of each block, in raster order.

        Args:
            kind: the kind of the inputs, "value" or "param".
            rows: the inputs of all blocks, (rows, ...).
            function: maps a family, the inputs of its blocks, and the family's index in `stacked`
                to the outputs.

        Returns:
            for each block (inputs, outputs, rows), (inputs, rows) if there is one output, or None
            if the Jacobian is zero.
        """
        found: list[Tensor | None] = [None] * self.num_blocks
        for number, part in enumerate(self.split(kind, rows)):
            with torch.enable_grad():
                leaf, shape = part.detach().requires_grad_(), (*part.shape[:2], -1)
                outputs = function(self.stacked[number], leaf, number).reshape(shape)
                if not outputs.requires_grad:  # no gradients through draws, or discrete features
                    continue
                each = [
                    torch.autograd.grad(output.sum(), leaf, retain_graph=True)[0].reshape(shape)
                    for output in outputs.unbind(-1)
                ]
            jacobian = torch.stack(each).permute(2, 3, 0, 1).contiguous()
            jacobian = jacobian.squeeze(2) if len(each) == 1 else jacobian
            for block, one in zip(self._members[number], jacobian.unbind(0), strict=True):
                found[block] = one
        return found

    def join_values(self, each: list[Tensor], params: Tensor) -> Tensor:
        """The inverse of `split` for values, whose dtype follows from the parameters' dtype."""
        if not self.flat:
            return each[0]
        dims = [len(family.event_shape) for family in self.stacked]
        dtype = self.dtype(params.dtype)
        flat = [part.flatten(-1 - dim).to(dtype) for part, dim in zip(each, dims, strict=True)]
        return self.join("value", flat)

    def split(self, kind: str, rows: Tensor) -> list[Tensor]:
        """Splits entries by stacked family: (..., blocks of the family, *shape) for each.

        `kind` is "value" or "param".
        """
        if not self.flat:
            return [rows]
        if len(self.stacked) > 1:
            rows = rows.index_select(-1, self._index(rows.device, kind)[0])
        shapes = [
            (len(members), *(family.event_shape if kind == "value" else (family.num_params,)))
            for family, members in zip(self.stacked, self._members, strict=True)
        ]
        parts = zip(rows.split([prod(shape) for shape in shapes], -1), shapes, strict=True)
        return [part.unflatten(-1, shape) for part, shape in parts]

    def join(self, kind: str, parts: list[Tensor]) -> Tensor:
        """The inverse of `split` for parts whose last dimension is flat."""
        if len(parts) == 1:
            return parts[0]
        together = torch.cat(parts, -1)
        return together.index_select(-1, self._index(together.device, kind)[1])

    def _index(self, device: torch.device, kind: str) -> tuple[Tensor, Tensor]:
        """The flat positions sorted by stacked family, and the inverse permutation."""
        if device not in self._indices:
            plain = next(iter(self._indices.values()))
            with outside_modes():
                self._indices[device] = {
                    name: (order.to(device), inverse.to(device))
                    for name, (order, inverse) in plain.items()
                }
        return self._indices[device][kind]


def _grouped(owners: Tensor) -> tuple[Tensor, Tensor]:
    """The stable permutation that sorts entries by owner, and its inverse."""
    order = owners.argsort(stable=True)
    return order, order.argsort()
