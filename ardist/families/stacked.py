"""Stacks families that differ only in numbers into one, whose numbers are tensors over the blocks.

Each column of a table has a location, a scale and points of its own, and so a family of its own. A
method of the stacked family is called once for all columns.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch.distributions import AffineTransform

from ardist.families.base import Family
from ardist.families.composed import Mixture
from ardist.families.hurdle import Hurdle
from ardist.families.interval import Rounded
from ardist.families.transformed import Transformed
from ardist.families.univariate import Laplace, LocationScale, Logistic, LogNormal, Normal

# The attributes that may be tensors. By type, since a subclass may need plain numbers.
_NUMBERS: dict[type, tuple[str, ...]] = {
    **dict.fromkeys((Normal, Laplace, Logistic, LogNormal), ("min_scale",)),
    **dict.fromkeys((Mixture, Rounded, Transformed), ()),
    Hurdle: ("points",),
}
# Joins an attribute of n families: a number of each, or several numbers. The second argument is how
# many dimensions values have after the dimension of the blocks.
_Join = Callable[[list[Any], int], Any]


def form_of(family: Family) -> Hashable:
    """A key that is equal for families that `stack` can join.

    It omits the numbers that do not move the support. A family that cannot be stacked is its own
    key.
    """
    is_stackable = type(family) in _NUMBERS and not family.event_shape
    if not is_stackable or family.enumerate_support() is not None:
        return family
    return _joined([family], _without_numbers), family._ends


def stack(families: Sequence[Family]) -> Family:
    """One family for as many blocks. Each block has the numbers of one of these families.

    Args:
        families: one for each block, all with the same `form_of`.
    """
    if all(family == families[0] for family in families):
        return families[0]
    joined: Family = _joined(families, _over_blocks)
    return joined


def _joined(families: Sequence[Any], join: _Join, dims: int = 0) -> Any:
    """The first family, with each number replaced by what `join` returns for all of them."""
    first = families[0]
    # A mixture has the features of its components, which must not depend on their numbers.
    if type(first) not in _NUMBERS or (dims and not isinstance(first, LocationScale)):
        return first

    def joined(name: str, parts: Sequence[Any]) -> Any:
        return join([getattr(part, name) for part in parts], dims)

    changes = {name: joined(name, families) for name in _NUMBERS[type(first)]}
    if isinstance(first, Transformed):
        transforms = list(first.transforms)
        for place in first.free_affine:
            parts = [family.transforms[place] for family in families]
            transforms[place] = AffineTransform(joined("loc", parts), joined("scale", parts))
        changes["transforms"] = tuple(transforms)
    if hasattr(first, "family"):
        inner = [family.family for family in families]
        changes["family"] = _joined(inner, join, dims + isinstance(first, Mixture))
    return first.with_attributes(changes)


def _without_numbers(numbers: list[Any], dims: int) -> Any:
    (given,) = numbers
    return tuple(range(len(given))) if isinstance(given, tuple) else 1.0


def _over_blocks(numbers: list[Any], dims: int) -> torch.Tensor:
    """The numbers as (n, *ones, *shape of one), which broadcasts with (..., n, *components)."""
    each = torch.tensor(numbers, dtype=torch.float64)
    return each.reshape(each.shape[0], *(1,) * dims, *each.shape[1:])
