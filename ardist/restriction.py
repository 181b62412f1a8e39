"""A rule over the blocks of a factorization: the one place that turns it into parameters."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Size, Tensor

from ardist.drawing_order import DrawingOrder, Permutation
from ardist.families.restricted import Bits, Limited, Pinned, Restricted, States
from ardist.layout import Layout
from ardist.rules import All
from ardist.rules.base import At, Rule, Specification, State, map_state, places, rows_of


class Restriction:
    """The conditionals of a factorization under a rule.

    A rule follows the numbers of blocks: that of its state if a block has finitely many, and else
    its value. What it allows becomes limits, one tensor for all blocks, and these become part of
    the parameters of restricted families. Limits are laid out as parameters are.

    Args:
        rule: bound to the factorization.
        factorization: the blocks, in their order.

    Attributes:
        layout: the restricted conditionals, in raster order. Values are those of the plain layout.
        order: their steps.
    """

    def __init__(self, rule: Rule, factorization: Specification) -> None:
        self.rule, self._plain = rule, factorization.layout
        families = self._plain.families
        forms = [rule.restricted(family, block) for block, family in enumerate(families)]
        self._forms = forms
        conditionals = [
            family if form is None else form for family, form in zip(families, forms, strict=True)
        ]
        flat = self._plain.flat or any(form != forms[0] for form in forms)
        if flat and not self._plain.flat and families[0].event_shape:
            raise ValueError(
                f"rule: expected one that limits all blocks or none of {families[0]}, got {rule!r}"
            )
        self.layout = Layout(conditionals, flat, self._plain.is_index)
        self.order = DrawingOrder(self.layout, factorization.steps)
        # All places, in the order of drawing and in raster order.
        self._all = places(factorization)
        self._permutation, raster = self.order.flat("block"), torch.arange(self._all.total)
        positions = self._permutation.to_raster(self._all.positions, 0)
        own = families if len(self._plain.distinct) > 1 else families[:1]
        self._raster = At(positions, raster, own, self._all.total)
        # The numbers of the states of finite blocks.
        finite = {f: States(f) for f in self._plain.distinct if f.enumerate_support() is not None}
        self._numbers: list[States | None] = [finite.get(family) for family in families]
        shown = [form for form in self.layout.distinct if isinstance(form, Restricted)]
        for form in (*shown, *finite.values()):
            form.prepare()
        self._is_finite = all(states is not None for states in self._numbers)
        self._places: dict[tuple[int, int], At] = {}
        # Whether a draw is that without limits if it is allowed, and else the only other value.
        # The limits that follow from free draws of several steps are then those of corrected draws.
        self.corrects = not isinstance(rule, All) and all(
            form is None or isinstance(form, Bits | Pinned) for form in forms
        )
        self.has_constants = any(isinstance(f, Pinned) for f in self.layout.distinct)
        self.follows_reals = rule.follows_reals and any(
            isinstance(family, Limited) for family in self.layout.distinct
        )

    # In a parallel pass: all blocks, in raster order.

    def limits(
        self, blocks: Tensor, ranks: Tensor | None, context: Tensor | None, reference: Tensor
    ) -> Tensor:
        """The limits of all blocks, given the blocks before them: (rows, *limit_shape).

        Args:
            blocks: (rows, *value_shape) in raster order.
            ranks: (rows, num_blocks), if rows have orders of their own.
            context: of each row, (rows, *context_shape), or None.
            reference: a tensor of the dtype and device of the parameters.
        """
        rows = blocks.shape[0]
        numbers = self._numbers_of(blocks, self._raster)
        permutation, at = self._order_of(ranks)
        permutation = permutation.to(blocks.device)
        state = self.rule.start(rows, context, reference)
        before, _ = self.rule.scan(state, permutation.to_drawing(numbers), at)
        before = map_state(permutation.to_raster, before)
        own = self._raster
        if ranks is not None and permutation.inverse is not None:
            own = At(permutation.inverse.cpu(), own.blocks, own.families, own.total)
        return self._limits(before, own, reference)

    def _order_of(self, ranks: Tensor | None) -> tuple[Permutation, At]:
        """The order of drawing of single blocks, and all places in it."""
        if ranks is None:
            return self._permutation, self._all
        order = ranks.argsort(dim=-1, stable=True)
        at = self._all
        return Permutation(order), At(at.positions, order, at.families, at.total)

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
        inside = form.allows(limits, value)
        return inside if isinstance(form, Pinned | Limited) else inside & plain

    def certain(self, limits: Tensor) -> Tensor:
        """Whether each block has only one value within its limits: (rows, num_blocks) bool."""
        if not self.layout.flat:
            form = self._forms[0]
            return limits[..., 0] != limits[..., 0] if form is None else form.is_certain(limits)
        free = torch.zeros(limits.shape[0], dtype=torch.bool, device=limits.device)
        each = [
            free if form is None or piece is None else form.is_certain(piece)
            for form, piece in self._pieces(limits, range(len(self._forms)))
        ]
        return torch.stack(each, -1)

    def check_order(self, ranks: Tensor, factorization: Specification) -> None:
        """Raises a `ValueError` if the rule does not suit the orders of the rows."""
        self.rule.check_order(factorization, ranks)

    # In a draw: blocks of steps, in the order of drawing.

    def at(self, start: int, stop: int, order: Tensor | None = None) -> At:
        """The places of the blocks of the steps from `start` to `stop`.

        Args:
            order: (rows, num_blocks), the raster indices in the order of drawing, if rows have
                orders of their own.
        """
        if (start, stop) not in self._places:
            own = slice(*(self.order.ends_of("block")[step] for step in (start, stop)))
            families = self._all.families
            self._places[start, stop] = At(
                self._all.positions[own],
                self._all.blocks[own],
                families[own] if len(families) > 1 else families,
                self._all.total,
            )
        at = self._places[start, stop]
        if order is None:
            return at
        return At(at.positions, order[:, start:stop], at.families, at.total)

    def step_limits(self, state: State, guess: Tensor | None, at: At, reference: Tensor) -> Tensor:
        """The limits of the blocks of some steps, (rows, ...).

        Args:
            state: of the rule before them.
            guess: the blocks, (rows, ...), if there is more than one step.
            at: their places.
        """
        if guess is None:
            count = at.positions.shape[-1]
            before = map_state(lambda p: p.unsqueeze(1).expand(-1, count, *p.shape[1:]), state)
        else:
            before, _ = self.rule.scan(state, self._numbers_of(guess, at), at)
        return self._limits(before, at, reference)

    def advance(self, state: State, blocks: Tensor, at: At) -> State:
        """The state of the rule after blocks (rows, ...)."""
        numbers = self._numbers_of(blocks, at)
        if numbers.shape[1] > 1:
            return self.rule.scan(state, numbers, at)[1]
        return self.rule.advance(state, at.number(numbers.squeeze(1)), at)

    def log_mass(self, params: Tensor, limits: Tensor, at: At) -> Tensor:
        """The log probability of what is allowed, of each of some blocks: (rows, n), in nats.

        Args:
            params: of the plain conditionals, (rows, ...).
            limits: of the same blocks.

        Raises:
            ValueError: if only one number is allowed of a continuous block, which has none.
        """
        if not self.layout.flat:
            return self._log_mass(0, params, limits)
        members = at.blocks.tolist()
        own, pieces = self._params_of(params, members), self._pieces(limits, members)
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
        """Parameters of the restricted conditionals, of all blocks or of those at some places.

        Args:
            params: of the plain conditionals, (rows, ...).
            limits: of the same blocks; everything is allowed without them.
        """
        if not self.layout.flat:
            form = self._forms[0]
            return params if form is None else form.restrict(params, limits)
        members = (at or self._raster).blocks.tolist()
        own, each = self._params_of(params, members), list[Tensor]()
        for (form, piece), part in zip(self._pieces(limits, members), own, strict=True):
            each.append(part if form is None else form.restrict(part, piece))
        return torch.cat(each, -1)

    def _params_of(self, params: Tensor, members: Sequence[int]) -> Sequence[Tensor]:
        """The parameters of each of some blocks, (rows, num_params), from those of all of them."""
        if not self._plain.flat:
            return params.unbind(-2)
        return params.split([self._plain.sizes["param"][block] for block in members], -1)

    def correct(self, blocks: Tensor, limits: Tensor, at: At | None = None) -> Tensor:
        """Draws without limits as they are under limits, if `corrects`: (rows, ...)."""
        if not self.layout.flat:
            form = self._forms[0]
            return blocks if form is None else form.correct(blocks, limits)
        members = (at or self._raster).blocks.tolist()
        sizes = [self._plain.sizes["value"][block] for block in members]
        each = list[Tensor]()
        for (form, piece), part in zip(
            self._pieces(limits, members), blocks.split(sizes, -1), strict=True
        ):
            if form is not None and piece is not None:
                part = form.correct(part.squeeze(-1), piece).unsqueeze(-1)
            each.append(part)
        return torch.cat(each, -1)

    def _pieces(
        self, limits: Tensor | None, members: Sequence[int]
    ) -> list[tuple[Restricted | None, Tensor | None]]:
        """The forms and the limits of some blocks, of limits that are flat."""
        forms = [self._forms[block] for block in members]
        if limits is None:
            return [(form, None) for form in forms]
        sizes = [0 if form is None else form.limit_size for form in forms]
        return list(zip(forms, limits.split(sizes, -1), strict=True))

    def readable(self, layout: Layout, blocks: Tensor) -> Tensor:
        """The blocks that a network reads: placeholders instead of constants outside supports."""
        if not self.has_constants:
            return blocks
        each = layout.map(
            lambda f, v: f.readable(v) if isinstance(f, Restricted) else v, ("value", blocks)
        )
        return layout.join_values(each, blocks)

    def _limits(self, before: State, at: At, reference: Tensor) -> Tensor:
        """The limits of blocks, given the states before each of them, (rows, n, ...)."""
        rows = rows_of(before)
        if not self.layout.flat:
            form, count = self._forms[0], at.positions.shape[-1]
            if form is None:
                return reference.new_zeros(rows, count, 0)
            return form.limits(self.rule.allowed(before, at), Size((rows, count)), reference)
        each = [reference.new_zeros(rows, 0)]
        for number, block in enumerate(at.blocks.tolist()):
            form = self._forms[block]
            if form is not None:
                one = map_state(partial(_narrow, number), before)
                allowed = self.rule.allowed(one, at.each[number])
                limits = form.limits(allowed, Size((rows, 1)), reference)
                each.append(limits.squeeze(1).to(reference.dtype))
        return torch.cat(each, -1)

    def _numbers_of(self, values: Tensor, at: At) -> Tensor:
        """The numbers that the rule follows, (rows, n), of the values of blocks (rows, ...)."""
        if not self._plain.flat:
            states = self._numbers[0]
            if states is not None:
                return states.number(values)
            return values if values.dim() == 2 else values.flatten(2)[..., 0]
        members = at.blocks.tolist()
        sizes = [self._plain.sizes["value"][block] for block in members]
        each = list[Tensor]()
        for block, piece in zip(members, values.split(sizes, -1), strict=True):
            states = self._numbers[block]
            if states is None:
                each.append(piece[:, 0])
            else:
                number = states.number(piece.reshape(-1, *states.event_shape))
                each.append(number if self._is_finite else number.to(values.dtype))
        return torch.stack(each, 1)


def _narrow(number: int, part: Tensor) -> Tensor:
    """One of the entries along dimension 1."""
    return part[:, number : number + 1]
