"""Constraints for events whose blocks have different supports, and for events under a rule."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import biject_to, constraints, transform_to
from torch.distributions.transforms import Transform

from ardist.layout import Layout


class BlockConstraint(constraints.Constraint):
    """Constrains each block of an event to its own support.

    `biject_to` and `transform_to` map a vector of unconstrained reals to the event. The vector can
    be longer or shorter than the event: under `biject_to` a simplex of 3 has 2 free coordinates. As
    in `constraints.cat`, the constraint is discrete if one block is.

    Args:
        layout: the blocks and their families.
        elements: the flat position in the event of each element, block after block.
        event_shape: the shape of an event.
    """

    def __init__(self, layout: Layout, elements: Tensor, event_shape: Size) -> None:
        self.layout = layout
        self.elements = elements
        self.event_shape = event_shape
        self.is_discrete = any(family.support.is_discrete for family in layout.distinct)
        self.event_dim = len(event_shape)
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Whether each event is inside: (...) bool."""
        rows = self.rows(value)
        blocks = rows if self.layout.flat else rows.unflatten(-1, self.layout.value_shape)
        return self.layout.inside(blocks).all(-1)

    def rows(self, value: Tensor) -> Tensor:
        """The elements of events (..., *event_shape), block after block: (..., numel)."""
        flat = value.reshape(*value.shape[: value.dim() - self.event_dim], -1)
        return flat.index_select(-1, self.elements.to(value.device))

    def __repr__(self) -> str:
        return f"BlockConstraint({', '.join(repr(f.support) for f in self.layout.distinct)})"


class RuleConstraint(constraints.Constraint):
    """Constrains events to those that follow a rule.

    Args:
        inside: maps events (..., *event_shape) to whether each block is inside its support and
            follows the rule, (..., num_blocks) bool.
        event_dim: the number of dimensions of an event.
        rule: the rule, for the text of errors.
        is_discrete: whether a block is discrete.
    """

    def __init__(
        self, inside: Callable[[Tensor], Tensor], event_dim: int, rule: object, is_discrete: bool
    ) -> None:
        self.inside, self.event_dim = inside, event_dim
        self.rule, self.is_discrete = rule, is_discrete
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Whether each event is inside: (...) bool."""
        return self.inside(value).all(-1)

    def __repr__(self) -> str:
        return f"RuleConstraint({self.rule!r})"


def _no_transform(constraint: RuleConstraint) -> Transform:
    raise NotImplementedError(
        f"biject_to, transform_to: no map from reals onto the events that follow "
        f"{constraint.rule!r}; there is one for rules.Within with intervals of continuous columns"
    )


biject_to.register(RuleConstraint, _no_transform)
transform_to.register(RuleConstraint, _no_transform)


class BlockTransform(Transform):
    """Maps unconstrained reals to an event, by a transform for each block.

    Args:
        constraint: the constraint of the events.
        registry: `biject_to` or `transform_to`.
        cache_size: as for torch's transforms.
    """

    domain = constraints.real_vector

    def __init__(self, constraint: BlockConstraint, registry: Any, cache_size: int = 0) -> None:
        super().__init__(cache_size)
        self.constraint = self.codomain = constraint
        self.registry = registry
        families = constraint.layout.families
        self.parts: list[Transform] = [registry(family.support) for family in families]
        self.bijective = all(part.bijective for part in self.parts)
        self.shapes = [family.event_shape for family in families]
        self.free_shapes = [
            Size(part.inverse_shape(shape))
            for part, shape in zip(self.parts, self.shapes, strict=True)
        ]

    def with_cache(self, cache_size: int = 1) -> "BlockTransform":
        return BlockTransform(self.constraint, self.registry, cache_size)

    def forward_shape(self, shape: Size) -> Size:
        return Size(shape[:-1]) + self.constraint.event_shape

    def inverse_shape(self, shape: Size) -> Size:
        free = sum(free.numel() for free in self.free_shapes)
        return Size((*shape[: len(shape) - self.constraint.event_dim], free))

    def _call(self, x: Tensor) -> Tensor:
        pieces = zip(self.parts, _split(x, self.free_shapes), strict=True)
        flat = torch.cat([part(piece).reshape(*x.shape[:-1], -1) for part, piece in pieces], -1)
        order = self.constraint.elements.argsort().to(x.device)
        return flat.index_select(-1, order).reshape(self.forward_shape(x.shape))

    def _inverse(self, y: Tensor) -> Tensor:
        rows = self.constraint.rows(y)
        pieces = zip(self.parts, _split(rows, self.shapes), strict=True)
        return torch.cat([part.inv(p).reshape(*rows.shape[:-1], -1) for part, p in pieces], -1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        result = x.new_zeros(x.shape[:-1])
        blocks = _split(self.constraint.rows(y), self.shapes)
        for part, free, block in zip(self.parts, _split(x, self.free_shapes), blocks, strict=True):
            term = part.log_abs_det_jacobian(free, block)
            result = result + term.reshape(*x.shape[:-1], -1).sum(-1)
        return result


def _split(rows: Tensor, shapes: list[Size]) -> list[Tensor]:
    """Splits (..., total) into one tensor (..., *shape) for each shape."""
    pieces = rows.split([shape.numel() for shape in shapes], -1)
    lead = rows.shape[:-1]
    return [piece.reshape((*lead, *shape)) for piece, shape in zip(pieces, shapes, strict=True)]


biject_to.register(BlockConstraint, lambda constraint: BlockTransform(constraint, biject_to))
transform_to.register(BlockConstraint, lambda constraint: BlockTransform(constraint, transform_to))
