"""Restricts the conditionals of a factorization to the values that a rule allows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Size, Tensor

from ardist.drawing_order import DrawingOrder, Permutation
from ardist.families.restricted import Bits, Limited, Pinned, Restricted, States
from ardist.layout import Layout
from ardist.rules import All
from ardist.rules.base import (
    At,
    Rule,
    Specification,
    State,
    allowed_by,
    dead_end,
    is_custom,
    map_state,
    places,
    rows_of,
)
from ardist.shapes import is_readable


class Restriction:
    """The conditionals of a factorization under a rule.

    A rule reads one number of each block: the number of its state if the block has finitely many,
    and its value otherwise. The values that the rule allows are encoded as limits, one tensor for
    all blocks, which becomes part of the parameters of restricted families. Limits are laid out as
    parameters are.

    Args:
        rule: a rule that is bound to the factorization.
        factorization: the blocks, in their order.

    Attributes:
        layout: the restricted conditionals, in raster order. Values are laid out as in the layout
            without the rule.
        order: the steps of these conditionals.
    """

    def __init__(self, rule: Rule, factorization: Specification) -> None:
        self.rule, self._plain, self._name = rule, factorization.layout, factorization.block_name
        self.is_custom = is_custom(rule)
        self._rule_allows = partial(allowed_by, rule) if self.is_custom else rule.allowed
        families = self._plain.families
        forms = [rule.restricted(family, block) for block, family in enumerate(families)]
        self._forms = forms
        conditionals = [
            family if form is None else form for family, form in zip(families, forms, strict=True)
        ]
        distinct = [*dict.fromkeys(forms)]
        flat = self._plain.flat or len(distinct) > 1
        if flat and not self._plain.flat and families[0].event_shape:
            raise ValueError(
                f"rule: expected one that limits all blocks or none of {families[0]}, got {rule!r}"
            )
        self.layout = Layout(conditionals, flat, self._plain.is_index)
        self.order = DrawingOrder(self.layout, factorization.steps)
        self._ends = self.order.ends_of("block")
        # All places, in the order of drawing and in raster order.
        drawn = self._drawing_places = places(factorization)
        self._permutation = self.order.flat("block")
        self._raster_places = replace(
            drawn,
            positions=self._permutation.to_raster(drawn.positions, 0),
            blocks=torch.arange(drawn.total),
            families=families if len(self._plain.distinct) > 1 else families[:1],
        )
        # The numbers of the states of finite blocks.
        finite = {f: States(f) for f in self._plain.distinct if f.enumerate_support() is not None}
        self._numbers: list[States | None] = [finite.get(family) for family in families]
        for form in (*distinct, *finite.values()):
            if form is not None:
                form.prepare()
        self._is_finite = all(states is not None for states in self._numbers)
        self._places: dict[tuple[int, int], At] = {}
        # Whether a draw under the rule is the free draw if that is allowed, and otherwise the only
        # allowed value. Then free draws of several steps lead to the same limits as corrected
        # draws.
        self.corrects = not isinstance(rule, All) and all(
            form is None or isinstance(form, Bits | Pinned) for form in distinct
        )
        self.may_end = type(rule).rest is not Rule.rest
        self.has_constants = any(isinstance(form, Pinned) and form.is_outside for form in distinct)
        self.follows_reals = rule.follows_reals and any(
            isinstance(form, Limited) for form in distinct
        )

    def layout_within(self) -> Layout | None:
        """Conditionals whose supports are the allowed values, or None if these depend on the event
        or a block is discrete.
        """
        pairs = enumerate(self._plain.families)
        within = [self.rule.family_within(family, block) for block, family in pairs]
        found = [family for family in within if family and not family.support.is_discrete]
        if len(found) < len(within):
            return None
        flat = self._plain.flat or any(family != found[0] for family in found)
        return Layout(found, flat, self._plain.is_index)

    # In a parallel pass: all blocks, in raster order.

    def limits(
        self, blocks: Tensor, ranks: Tensor | None, context: Tensor | None, reference: Tensor
    ) -> Tensor:
        """The limits of all blocks, given the blocks before them: (rows, *limit_shape).

        The arguments are as in `before_all`.
        """
        before = self.before_all(blocks, ranks, context, reference)
        return self.limits_of(before, self.all_places(ranks), reference)

    def before_all(
        self, blocks: Tensor, ranks: Tensor | None, context: Tensor | None, reference: Tensor
    ) -> State:
        """The states of the rule before each block, (rows, num_blocks, ...).

        Args:
            blocks: (rows, *value_shape) in raster order, inside their supports or not.
            ranks: (rows, num_blocks), if rows have orders of their own.
            context: the context of each row, (rows, *context_shape), or None.
            reference: a tensor of the dtype and device of the parameters.
        """
        numbers = self._numbers_of(blocks, self._raster_places, States.nearest_number)
        permutation, at = self._permutation, self._drawing_places
        if ranks is not None:
            order, inverse = _orders_of(ranks)
            permutation = Permutation(order, inverse)
            at = replace(at, blocks=order)
        permutation = permutation.to(blocks.device)
        state = self.rule.start(blocks.shape[0], context, reference)
        before, _ = self.rule.scan(state, permutation.to_drawing(numbers), at)
        return map_state(permutation.to_raster, before)

    def all_places(self, ranks: Tensor | None) -> At:
        """The places of all blocks, in raster order."""
        if ranks is None:
            return self._raster_places
        _, positions = _orders_of(ranks)
        return replace(self._raster_places, positions=positions.cpu())

    def inside(self, blocks: Tensor, limits: Tensor) -> Tensor:
        """Whether each block, (rows, *value_shape), is within its limits: (rows, num_blocks)."""
        plain = self._plain.inside(blocks)
        if not self.layout.flat:
            form = self._forms[0]
            return plain if form is None else self._allows(form, limits, blocks, plain)
        each = list(plain.unbind(-1))
        pieces = self._pieces(limits, range(len(self._forms)))
        for block, (form, piece) in enumerate(pieces):
            if form is not None and piece is not None:
                value = self.layout.block("value", blocks, block)
                value = value.reshape(-1, *form.event_shape)
                each[block] = self._allows(form, piece, value, each[block])
        return torch.stack(each, -1)

    def _allows(self, form: Restricted, limits: Tensor, value: Tensor, plain: Tensor) -> Tensor:
        """Whether blocks are within their limits; `plain` is whether they are in their supports."""
        inside = form.allows(limits, value)
        return inside if isinstance(form, Pinned | Limited) else inside & plain

    def certain(self, limits: Tensor) -> Tensor:
        """Whether each block has only one value within its limits: (rows, num_blocks) bool."""
        return self._whether(
            lambda form, own: form.is_certain(own), limits, self._raster_places, False
        )

    def _whether(
        self,
        question: Callable[[Restricted, Tensor], Tensor],
        limits: Tensor,
        at: At,
        otherwise: bool,
    ) -> Tensor:
        """The answers of restricted families about blocks at some places: (rows, n) bool."""
        if not self.layout.flat and self._forms[0] is not None:
            return question(self._forms[0], limits)
        answer = torch.full((limits.shape[0], 1), otherwise, device=limits.device)
        each = [
            answer[:, 0] if form is None or own is None else question(form, own)
            for form, own in self._pieces(limits, at.blocks.tolist())
        ]
        return torch.stack(each, -1)

    def check_events(self, blocks: Tensor, limits: Tensor, ranks: Tensor | None) -> None:
        """Raises a `ValueError` if an allowed prefix of events ends in a block without a value."""
        if self.is_custom and is_readable(limits):
            self.check_possible(limits, self.all_places(ranks), self.inside(blocks, limits))

    def check_possible(self, limits: Tensor, at: At, inside: Tensor | None = None) -> None:
        """Raises a `ValueError` if no value is allowed of a block after an allowed prefix.

        Args:
            limits: the limits of the blocks at these places.
            at: the places.
            inside: whether each block is within its limits, (rows, n) bool; by default they are.
        """
        lost = ~self._whether(lambda form, own: form.is_possible(own), limits, at, True)
        position = at.positions.to(lost.device).expand(lost.shape)
        if inside is not None:
            lost &= position <= torch.where(inside, at.total, position).amin(-1, keepdim=True)
        if bool(lost.any()):
            first = torch.where(lost, position, at.total).argmin()
            block, step = (
                int(x.expand(lost.shape).flatten()[first]) for x in (at.blocks, position)
            )
            raise dead_end(self.rule, self._name(block), step)

    # In a draw: blocks of steps, in the order of drawing.

    def at(self, start: int, stop: int, order: Tensor | None = None) -> At:
        """The places of the blocks of the steps from `start` to `stop`.

        Args:
            order: (rows, num_blocks), the raster indices in the order of drawing, if rows have
                orders of their own.
        """
        if (start, stop) not in self._places:
            own = slice(self._ends[start], self._ends[stop])
            families = self._drawing_places.families
            self._places[start, stop] = replace(
                self._drawing_places,
                positions=self._drawing_places.positions[own],
                blocks=self._drawing_places.blocks[own],
                families=families[own] if len(families) > 1 else families,
            )
        at = self._places[start, stop]
        return at if order is None else replace(at, blocks=order[:, start:stop])

    def before(self, state: State, guess: Tensor | None, at: At) -> State:
        """The states before the blocks of some steps, (rows, n, ...).

        Args:
            state: the state before the first of these blocks.
            guess: the blocks, (rows, ...), if there is more than one step.
            at: the places of the blocks.
        """
        if guess is None:
            return map_state(partial(_repeated, at.positions.shape[-1]), state)
        return self.rule.scan(state, self._numbers_of(guess, at), at)[0]

    def advance(self, state: State, blocks: Tensor, at: At, is_allowed: bool = True) -> State:
        """The state of the rule after blocks (rows, ...).

        Args:
            is_allowed: whether the rule allows the blocks. Only `Rule.scan` takes other blocks.
        """
        numbers = self._numbers_of(blocks, at)
        if numbers.shape[1] > 1 or not is_allowed:
            return self.rule.scan(state, numbers, at)[1]
        number = numbers.squeeze(1)
        return self.rule.advance(state, number if self._is_finite else at.number(number), at)

    def log_mass(self, params: Tensor, limits: Tensor, at: At) -> Tensor:
        """The log probability of the allowed values of each block: (rows, n), in nats.

        Args:
            params: the parameters of the blocks without the rule, (rows, ...).
            limits: the limits of the blocks.
            at: the places of the blocks.

        Raises:
            ValueError: if only one number is allowed for a continuous block, which has probability
                zero.
        """
        if not self.layout.flat:
            return self._log_mass(0, params, limits)
        members = at.blocks.tolist()
        own, pieces = self._split("param", params, members), self._pieces(limits, members)
        each = [
            self._log_mass(block, part, piece)
            for block, part, (_, piece) in zip(members, own, pieces, strict=True)
        ]
        return torch.stack(each, -1)

    def _log_mass(self, block: int, params: Tensor, limits: Tensor | None) -> Tensor:
        form = self._forms[block]
        if form is None or limits is None:
            return params.new_zeros(params.shape[:-1])
        family = self._plain.families[block]
        if not family.support.is_discrete and bool(form.is_certain(limits).any()):
            raise ValueError(
                f"rule: expected intervals of {family} that have a probability, got a number under "
                f"{self.rule!r}; p.given(value, mask) conditions on it"
            )
        return form.log_mass(params, limits)

    # Both.

    def restrict(self, params: Tensor, limits: Tensor | None, at: At | None = None) -> Tensor:
        """Parameters of the restricted conditionals, of all blocks or of the blocks at some places.

        Args:
            params: the parameters of the blocks without the rule, (rows, ...).
            limits: the limits of the blocks; None allows everything.
            at: the places of the blocks; all blocks by default.
        """
        if not self.layout.flat:
            form = self._forms[0]
            return params if form is None else form.restrict(params, limits)
        members = (at or self._raster_places).blocks.tolist()
        own, each = self._split("param", params, members), list[Tensor]()
        for (form, piece), part in zip(self._pieces(limits, members), own, strict=True):
            each.append(part if form is None else form.restrict(part, piece))
        return torch.cat(each, -1)

    def _split(self, kind: str, rows: Tensor, members: Sequence[int]) -> Sequence[Tensor]:
        """The values or parameters of each block, (rows, n), from one tensor for these blocks."""
        if kind == "param" and not self._plain.flat:
            return rows.unbind(-2)
        return rows.split([self._plain.sizes[kind][block] for block in members], -1)

    def correct(self, blocks: Tensor, before: State, at: At) -> Tensor:
        """Draws without limits, moved to allowed values, if the rule `corrects`: (rows, ...).

        Args:
            blocks: the draws.
            before: the states before the blocks, (rows, n, ...).
            at: the places of the blocks.
        """
        if not self.layout.flat:
            form = self._forms[0]
            return blocks if form is None else form.correct(blocks, self._rule_allows(before, at))
        values = self._split("value", blocks, at.blocks.tolist())
        pieces = zip(self._allowed(before, at), values, strict=True)
        return torch.cat(
            [v if form is None else form.correct(v, allowed) for (form, allowed), v in pieces], -1
        )

    def _pieces(
        self, limits: Tensor | None, members: Sequence[int]
    ) -> list[tuple[Restricted | None, Tensor | None]]:
        """The forms and the limits of some blocks, from flat limits."""
        forms = [self._forms[block] for block in members]
        if limits is None:
            return [(form, None) for form in forms]
        sizes = [0 if form is None else form.limit_size for form in forms]
        return list(zip(forms, limits.split(sizes, -1), strict=True))

    def readable(self, layout: Layout, blocks: Tensor) -> Tensor:
        """The blocks as a network reads them: placeholders replace constants outside supports."""
        if not self.has_constants:
            return blocks
        each = layout.map(
            lambda f, v: f.readable(v) if isinstance(f, Restricted) else v, ("value", blocks)
        )
        return layout.join_values(each, blocks)

    def limits_of(self, before: State, at: At, reference: Tensor) -> Tensor:
        """The limits of blocks, (rows, ...), given the states before them, (rows, n, ...)."""
        rows = rows_of(before)
        if not self.layout.flat:
            form, count = self._forms[0], at.positions.shape[-1]
            if form is None:
                return reference.new_zeros(rows, count, 0)
            return form.limits(self._rule_allows(before, at), Size((rows, count)), reference)
        each = [reference.new_zeros(rows, 0)]
        for form, allowed in self._allowed(before, at):
            if form is not None:
                limits = form.limits(allowed, Size((rows, 1)), reference)
                each.append(limits.squeeze(1).to(reference.dtype))
        return torch.cat(each, -1)

    def _allowed(self, before: State, at: At) -> Iterator[tuple[Restricted | None, Any]]:
        """For each block its form and, if it is limited, what the rule allows."""
        for number, block in enumerate(at.blocks.tolist()):
            form = self._forms[block]
            if form is None:
                yield None, None
            else:
                one = map_state(partial(_narrow, number), before)
                yield form, self._rule_allows(one, at.each[number])

    def _numbers_of(
        self, values: Tensor, at: At, number: Callable[[States, Tensor], Tensor] = States.number
    ) -> Tensor:
        """The numbers that the rule reads, (rows, n), from values of blocks (rows, ...)."""
        if not self._plain.flat:
            states = self._numbers[0]
            if states is not None:
                return number(states, values)
            return values if values.dim() == 2 else values.flatten(2)[..., 0]
        members = at.blocks.tolist()
        each = list[Tensor]()
        for block, piece in zip(members, self._split("value", values, members), strict=True):
            states = self._numbers[block]
            if states is None:
                each.append(piece[:, 0])
            else:
                own = number(states, piece.reshape(-1, *states.event_shape))
                each.append(own if self._is_finite else own.to(values.dtype))
        return torch.stack(each, 1)


def _repeated(count: int, part: Tensor) -> Tensor:
    """(rows, ...) as (rows, count, ...)."""
    repeated = part.unsqueeze(1)
    return repeated if count == 1 else repeated.expand(-1, count, *part.shape[1:])


def _orders_of(ranks: Tensor) -> tuple[Tensor, Tensor]:
    """The blocks of each row in the order of drawing, and the place of each block in it."""
    order = ranks.argsort(dim=-1, stable=True)
    return order, order.argsort(-1)


def _narrow(number: int, part: Tensor) -> Tensor:
    """The entry with this number along dimension 1, which is kept."""
    return part[:, number : number + 1]
