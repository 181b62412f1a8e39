"""The order in which a set can be conditioned on, and marginals of sets."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints

from ardist.constraints import BlockConstraint
from ardist.factorization import Factorization
from ardist.families.guards import elementwise
from ardist.layout import Layout
from ardist.ordering import Ordering
from ardist.shapes import check_data, check_tensor, expand_to_batch, expanded, holds, leading

if TYPE_CHECKING:
    from ardist.distribution import AutoregressiveDistribution


def observed_first(
    factorization: Factorization, ranks: Tensor | None, mask: Tensor
) -> Ordering | Tensor | None:
    """The order that puts the blocks under a mask first, and else keeps their relative order.

    Args:
        factorization: the blocks and their order.
        ranks: (*lead, num_blocks), if rows have orders of their own.
        mask: (*lead, *value_shape) bool. Blocks that it covers in part come after the blocks that
            it covers as a whole.

    Returns:
        None if the set is ancestral: no block under the mask depends on a block that is not, and
        the present order gives the marginal of the set. Otherwise an ordering or, if rows differ,
        ranks (*lead, *grid_shape). Rows with an ancestral set keep their order, unless it comes
        from a graph.
    """
    layout, count = factorization.layout, factorization.num_blocks
    wrong = ~is_ancestral(factorization, ranks, mask)
    if not wrong.any():
        return None
    whole, touched = layout.whole(mask), layout.count(mask) > 0
    own = factorization.ranks.flatten().to(mask.device) if ranks is None else ranks
    wanted = own + count * (2 - whole.long() - touched.long())
    rows = wanted.reshape(-1, count)
    if ranks is None and bool((rows == rows[:1]).all()):
        return Ordering.from_ranks(dense(rows[0]).reshape(factorization.grid_shape))
    # The order of a row cannot express a graph.
    if ranks is not None or not factorization.ordering.is_graph:
        wanted = torch.where(wrong, wanted, own)
    return dense(wanted).reshape((*wanted.shape[:-1], *factorization.grid_shape))


def is_ancestral(factorization: Factorization, ranks: Tensor | None, mask: Tensor) -> Tensor:
    """Whether no block under a mask depends on a block that is not: (*lead, 1) bool.

    The arguments are as in `observed_first`.
    """
    layout, count = factorization.layout, factorization.num_blocks
    whole, touched = layout.whole(mask), layout.count(mask) > 0
    if ranks is None and factorization.ordering.is_graph:
        dependencies = factorization.dependencies.to(mask.device)
        lacking = (~whole).float() @ dependencies.T.float() > 0
    else:
        own = factorization.ranks.flatten().to(mask.device) if ranks is None else ranks
        lacking = own > torch.where(whole, count, own).amin(-1, keepdim=True)
    return ~(touched & lacking).any(-1, keepdim=True)


def dense(ranks: Tensor) -> Tensor:
    """The ranks (..., n) as numbers 0, 1, ... without gaps; ties stay ties."""
    ordered, order = ranks.sort(-1)
    steps = F.pad((ordered[..., 1:] != ordered[..., :-1]).cumsum(-1), (1, 0))
    return torch.empty_like(ranks).scatter_(-1, order, steps)


def check_mask(mask: Tensor, event_shape: Size, batch_shape: Size, name: str = "mask") -> None:
    """Raises a `ValueError` unless a mask is a bool tensor of shape (*lead, *event_shape)."""
    check_data(mask, name)
    leading(mask.shape, event_shape, batch_shape, name)
    if mask.dtype != torch.bool:
        raise ValueError(f"{name}: expected dtype torch.bool, got {mask.dtype}")


def check_kept(mask: Tensor, event_shape: Size) -> None:
    """Raises a `ValueError` unless a mask (*event_shape) bool keeps an element."""
    check_mask(mask, event_shape, Size())
    if mask.shape != event_shape or not mask.any():
        raise ValueError(
            f"mask: expected {tuple(event_shape)} with an element to keep, got "
            f"{tuple(mask.shape)} with {int(mask.sum())}"
        )


class Marginal(TorchDistribution):
    """The marginal distribution of the elements of an event under a mask, as vectors.

    `AutoregressiveDistribution.marginal` creates it.

    Args:
        whole: an autoregressive distribution in which the kept elements are ancestral.
        mask: the elements that are kept, (*event_shape) bool.

    >>> import torch, ardist as ad
    >>> net = ad.networks.MADE(ad.Factorization(4, ad.families.Normal()), hidden_features=8)
    >>> first_two = net.condition().marginal(torch.tensor([True, True, False, False]))
    >>> first_two.event_shape, first_two.log_prob(torch.zeros(3, 2)).shape
    (torch.Size([2]), torch.Size([3]))
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(
        self,
        whole: "AutoregressiveDistribution",
        mask: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        _check_draws(whole.factorization, mask)
        # Values are checked here: with the evidence, events may be impossible, and score -inf.
        self.whole, self.kept = whole.expand(whole.batch_shape), mask
        self.whole._validate_args = False
        self._places = mask.flatten().nonzero().flatten()  # (number kept,)
        self.has_rsample = whole.has_rsample and whole.factorization.has_rsample
        super().__init__(whole.batch_shape, self._places.shape, validate_args=validate_args)

    @property
    def ordering(self) -> Ordering | Tensor:
        """The order in which blocks of the whole event are drawn."""
        return self.whole.ordering

    @constraints.dependent_property(event_dim=1)
    def support(self) -> constraints.Constraint:
        """The set of possible vectors."""
        found = _support(self.whole.factorization, self.kept)
        if found is not None:
            return found
        return _Part(self.whole.support, self._places, self.whole.bound.placeholder)

    def expand(self, batch_shape: Sequence[int], _instance: "Marginal | None" = None) -> "Marginal":
        """The same distribution with a larger batch_shape, in constant time."""
        whole = self.whole.expand(batch_shape)
        return expanded(self, batch_shape, _instance, whole=whole)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log probability or density of vectors (*lead, number kept), in nats: (*lead)."""
        self._check_shape(value)
        if self._validate_args and value.numel():  # torch's checks of vectors fail on no values
            inside = self.support.check(value)
            if not holds(inside):
                raise ValueError(
                    f"value: expected elements inside the support {self.support}, got "
                    f"{value[~inside][0].tolist()}"
                )
        blocks = self.whole.scores_of(self._fill(value), self.kept)
        return expand_to_batch(blocks.sum(-1), self.batch_shape)

    def given(self, value: Tensor, mask: Tensor) -> "Marginal":
        """The same vectors, conditioned on the elements of `value` under `mask`.

        Args:
            value: (*lead, number kept); elements that are not observed are ignored.
            mask: (*lead, number kept) bool. The leading dimensions of `value` and `mask` broadcast
                with batch_shape.

        Raises:
            ValueError: as `AutoregressiveDistribution.given`.

        >>> import torch, ardist as ad
        >>> net = ad.networks.MADE(ad.Factorization(4, ad.families.Normal()), hidden_features=8)
        >>> first_two = net.condition().marginal(torch.tensor([True, True, False, False]))
        >>> first_two.given(torch.tensor([0.5, 0.0]), torch.tensor([True, False])).sample()[0]
        tensor(0.5000)
        """
        check_mask(mask, self.event_shape, self.batch_shape)
        self._check_shape(value)
        given = self._validating.given(self._fill(value), self._spread(mask))
        return given.marginal(self.kept)

    def marginal(self, mask: Tensor) -> "Marginal":
        """The marginal distribution of the elements under a mask (number kept,).

        Raises:
            ValueError: as `AutoregressiveDistribution.marginal`.

        >>> import torch, ardist as ad
        >>> net = ad.networks.MADE(ad.Factorization(4, ad.families.Normal()), hidden_features=8)
        >>> first_two = net.condition().marginal(torch.tensor([True, True, False, False]))
        >>> first_two.marginal(torch.tensor([True, False])).event_shape
        torch.Size([1])
        """
        check_kept(mask, self.event_shape)
        return self._validating.marginal(self._spread(mask))

    def observed_log_prob(self, value: Tensor, mask: Tensor) -> Tensor:
        """See `AutoregressiveDistribution.observed_log_prob`."""
        return self.whole.observed_log_prob(self._fill(value), self._spread(mask))

    @property
    def mode(self) -> Tensor:
        """The kept elements of the greedy `mode` of the event: batch_shape + (number kept,)."""
        return self.whole.mode[..., self.kept]

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of the kept elements; later steps are not drawn."""
        return self.whole.draws_of(sample_shape, self.kept)[..., self.kept]

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of the kept elements with gradients, if the event has them."""
        return self.whole.rsample(sample_shape)[..., self.kept]

    def _check_shape(self, value: Tensor) -> None:
        check_tensor(value, "value")
        leading(value.shape, self.event_shape, self.batch_shape, "value")
        self.whole.bound.check_kind("value", value, exact=False)

    @property
    def _validating(self) -> "AutoregressiveDistribution":
        """The distribution of whole events, which checks values if this one does."""
        whole = self.whole.expand(self.batch_shape)
        whole._validate_args = self._validate_args
        return whole

    def _spread(self, mask: Tensor) -> Tensor:
        """Converts a mask over the kept elements to a mask over events."""
        events = self.kept.new_zeros(()).expand(*mask.shape[:-1], self.kept.numel())
        spread = events.index_copy(-1, self._places, mask.to(self.kept.device))
        return spread.reshape((*mask.shape[:-1], *self.kept.shape))

    def _fill(self, value: Tensor) -> Tensor:
        return _filled(value, self._places, self.whole.bound.placeholder)

    def __repr__(self) -> str:
        return (
            f"Marginal({self.whole}, batch_shape={tuple(self.batch_shape)}, "
            f"event_shape={tuple(self.event_shape)})"
        )


def _filled(value: Tensor, places: Tensor, placeholder: Tensor) -> Tensor:
    """Events with these elements in places of the flattened event, and placeholders elsewhere.

    Args:
        value: (*lead, n).
        places: (n,) int64.
        placeholder: an event.
    """
    dtype = torch.promote_types(placeholder.dtype, value.dtype)
    events = placeholder.to(dtype).flatten().expand((*value.shape[:-1], -1))
    events = events.index_copy(-1, places, value.to(dtype))
    return events.reshape((*value.shape[:-1], *placeholder.shape))


def _check_draws(factorization: Factorization, mask: Tensor) -> None:
    """Checks that the kept part of each block has the same distribution in scores and draws."""
    layout, blocks = factorization.layout, factorization.split(mask)
    for block in layout.partially_observed(blocks).nonzero().flatten().tolist():
        family = layout.families[block]
        part = layout.gather_blocks("value", blocks.unsqueeze(0), [block])
        if not family.is_ancestral(part.reshape(family.event_shape)):
            raise ValueError(
                f"mask: expected all of {factorization.block_name(block)} or a part that {family} "
                f"draws first, got {int(part.sum())} of its {part.numel()} elements"
            )


class _Part(constraints.Constraint):
    """The vectors that are possible elements of an event.

    Args:
        whole: the support of events.
        places: the places of the elements in the flattened event, (n,) int64.
        placeholder: an event whose other elements are possible.
    """

    event_dim = 1

    def __init__(self, whole: constraints.Constraint, places: Tensor, placeholder: Tensor) -> None:
        self.whole, self.is_discrete = whole, whole.is_discrete
        self.places, self.placeholder = places, placeholder
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Whether each vector is inside: (...) bool."""
        return self.whole.check(_filled(value, self.places, self.placeholder))

    def __repr__(self) -> str:
        return f"part of {self.whole}"


def _support(factorization: Factorization, mask: Tensor) -> constraints.Constraint | None:
    """The support of the elements under a mask.

    None if a block is kept in part and its support is not elementwise.
    """
    split, merge, layout = factorization.split, factorization.merge, factorization.layout
    restriction = factorization.restriction
    within = None if restriction is None else restriction.layout_within()
    families = (factorization.conditionals if within is None else within).families
    blocks = torch.arange(layout.num_blocks, device=mask.device)
    owners = merge(layout.expand_to_elements(blocks))[mask].tolist()
    each = [elementwise(families[block].support) for block in owners]
    if all(constraint.event_dim == 0 for constraint in each):
        if len(set(map(id, each))) == 1:
            return constraints.independent(each[0], 1)
        return constraints.independent(constraints.cat(each, -1, [1] * len(each)), 1)
    if layout.is_partially_observed(split(mask)):
        return None
    places = torch.full(mask.shape, -1, device=mask.device)
    places[mask] = torch.arange(len(owners), device=mask.device)
    kept = sorted(set(owners))
    order = layout.gather_blocks("value", split(places).unsqueeze(0), kept).flatten()
    parts = Layout([families[block] for block in kept], flat=True)
    return BlockConstraint(parts, order.cpu(), Size((len(owners),)))
