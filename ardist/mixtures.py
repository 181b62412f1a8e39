"""Mixtures of the joints that one network gives under several orderings."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor, nn
from torch.distributions import constraints

from ardist.constraints import SequenceConstraint
from ardist.distribution import AutoregressiveDistribution
from ardist.joint import unwrap
from ardist.ordering import Ordering


class OrderingMixture(TorchDistribution):
    """The mean of the joints that a network gives under several orderings, each as likely.

    Each ordering of a network for any order is a joint of its own, and their mean scores better
    than they do on average (Uria et al. 2014, "A deep and tractable density estimator").

    Args:
        network: a conditional network, or one wrapped, that follows all the orderings.
        orderings: of the blocks; one that is given twice counts twice.
        context: as of `AutoregressiveDistribution`.
        params: as of `AutoregressiveDistribution`.
        validate_args: whether values and the context are checked; torch's default if None.

    Attributes:
        components: the joint under each ordering, as a tuple.

    Raises:
        ValueError: where there is no ordering, the network does not follow one, or the context
            or the params do not fit.

    >>> import torch, ardist as ad
    >>> _ = torch.manual_seed(0)
    >>> fac = ad.Factorization((2, 3), ad.families.Bernoulli())
    >>> net = ad.networks.Transformer(fac, dim=16, depth=1, heads=2, context_shape=(5,))
    >>> orderings = [ad.Ordering.random(seed) for seed in range(4)]
    >>> p = ad.OrderingMixture(net, orderings, torch.zeros(7, 5))
    >>> p
    OrderingMixture(Transformer, 4 orderings, batch_shape=(7,), event_shape=(2, 3))
    >>> x = p.sample((3,))
    >>> x.shape, p.log_prob(x).shape
    (torch.Size([3, 7, 2, 3]), torch.Size([3, 7]))
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(
        self,
        network: nn.Module,
        orderings: Sequence[Ordering],
        context: Tensor | None = None,
        *,
        params: Mapping[str, Tensor] | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if not isinstance(orderings, Sequence) or not orderings:
            raise ValueError(f"orderings: expected a sequence of some, got {orderings!r}")
        joint = AutoregressiveDistribution(
            network, context, params=params, validate_args=validate_args
        )
        self.components = tuple(
            _under(joint, ordering, f"orderings[{index}]")
            for index, ordering in enumerate(orderings)
        )
        self._end = joint.factorization.end
        if self._end is not None:  # what lies outside the support of one may lie inside another's
            for component in self.components:
                component._validate_args = False
        # One decoder may draw rows in different orders, where each step is of one block alike.
        each = [component.factorization for component in self.components]
        alike = all(fac.is_total and fac.is_uniform for fac in each)
        by_rows = alike and unwrap(network).has_row_orders
        self._ranks = torch.stack([fac.ranks for fac in each]) if by_rows else None
        # Instance attributes: Pyro assigns them.
        self.has_rsample = joint.has_rsample
        self.has_enumerate_support = joint.has_enumerate_support
        super().__init__(joint.batch_shape, joint.event_shape, validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """Where events lie under any of the orderings."""
        if self._end is None:
            return self.components[0].factorization.support
        return SequenceConstraint(self._inside, len(self.event_shape), self._end)

    def _inside(self, x: Tensor) -> Tensor:
        """Whether each event lies inside a component's support: (*lead, 1) bool."""
        return torch.stack([p.support.check(x) for p in self.components], -1).any(-1, keepdim=True)

    def expand(
        self, batch_shape: Sequence[int], _instance: "OrderingMixture | None" = None
    ) -> "OrderingMixture":
        """The same distribution with a larger batch_shape, in constant time: nothing is run."""
        components = tuple(component.expand(batch_shape) for component in self.components)
        changed = {"components": components, "_batch_shape": components[0].batch_shape}
        new = object.__new__(type(self)) if _instance is None else _instance
        new.__dict__.update({**self.__dict__, **changed})
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability or density of events, in nats: a parallel pass for each ordering."""
        if self._validate_args and self._end is not None:
            self._validate_sample(value)
        scores = torch.stack([component.log_prob(value) for component in self.components])
        return scores.logsumexp(0) - math.log(len(scores))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Events, each in an ordering that is drawn first."""
        with torch.no_grad():
            return self._draw(Size(sample_shape), AutoregressiveDistribution.sample)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Events with gradients, which are exact: the draw of an ordering depends on nothing.

        Raises:
            NotImplementedError: where a family has no `rsample`.
        """
        return self._draw(Size(sample_shape), AutoregressiveDistribution.rsample)

    def _draw(
        self, sample_shape: Size, draw: Callable[[AutoregressiveDistribution], Tensor]
    ) -> Tensor:
        first, lead = self.components[0], sample_shape + self.batch_shape
        which = torch.randint(len(self.components), lead)
        if self._ranks is not None:
            return draw(first.expand(lead).with_ordering(self._ranks[which]))
        contexts, shape = first.context, unwrap(first.network).context_shape
        if contexts is not None:
            contexts = contexts.expand(*lead, *shape).reshape(-1, *shape)
        pieces, rows = [], []
        for index, component in enumerate(self.components):
            rows.append((which.flatten() == index).nonzero().squeeze(-1))
            part = AutoregressiveDistribution(
                component.network,
                None if contexts is None else contexts[rows[-1]],
                factorization=component.factorization,
                params=component.params,
                validate_args=False,
            )
            pieces.append(draw(part.expand(rows[-1].shape)))
        drawn = torch.cat(pieces)[torch.cat(rows).argsort()]
        return drawn.reshape((*lead, *self.event_shape))

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All events: (num_states, *batch_shape, *event_shape), or with ones for batch_shape.

        Raises:
            NotImplementedError: where blocks are not discrete or there are more than 4096 states.
        """
        some = self.components[: 1 if self._end is None else None]
        states = torch.cat([component.enumerate_support(expand) for component in some])
        return states if len(some) == 1 else states.unique(dim=0)

    def __repr__(self) -> str:
        name = type(unwrap(self.components[0].network)).__name__
        return (
            f"OrderingMixture({name}, {len(self.components)} orderings, "
            f"batch_shape={tuple(self.batch_shape)}, event_shape={tuple(self.event_shape)})"
        )


def _under(
    joint: AutoregressiveDistribution, ordering: Ordering, name: str
) -> AutoregressiveDistribution:
    """A joint under another ordering, or an error that says which one it was."""
    if not isinstance(ordering, Ordering):
        raise ValueError(f"{name}: expected an Ordering, got {ordering!r}")
    try:
        return joint.with_ordering(ordering)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
