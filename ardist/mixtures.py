"""Mixtures of joints that have the same events: of any, and of one network's orderings."""

from collections.abc import Mapping, Sequence
from copy import copy
from math import prod
from types import MethodType
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor, nn
from torch.distributions import Categorical, Distribution, constraints

from ardist.bound_network import unwrap
from ardist.constraints import BlockConstraint, SequenceConstraint
from ardist.distribution import AutoregressiveDistribution
from ardist.families.base import log_sum_exp
from ardist.ordering import Ordering
from ardist.shapes import (
    as_flag,
    as_shape,
    check_type,
    described,
    expanded,
    is_sequence,
    over_batch,
)


class Mixture(TorchDistribution):
    """A mixture of distributions, say of autoregressive ones with different networks.

    A draw costs one component and not all, as it does in torch's `MixtureSameFamily`: each
    autoregressive component draws the events that fell to it. (One of another class that differs
    along the batch cannot be told to, and draws them all.)

    It has `rsample` where the components have it and the weights require no gradient: the choice
    of a component then depends on nothing, and gradients are exact.

    Args:
        mixing: the weights, a Categorical over the components.
        components: distributions of torch or Pyro over the same events; their batch_shapes and
            that of `mixing` broadcast. Sequences that end may do so in different orders.
        validate_args: whether a sequence is checked to be in one component's support, where
            these differ; torch's default if None. Components check as they were told to.

    Attributes:
        mixing: as given.
        components: as given, as a tuple.

    Raises:
        ValueError: where there are not as many components as weights, or shapes or supports do
            not fit.

    >>> import torch, ardist as ad
    >>> _ = torch.manual_seed(0)
    >>> fac = ad.Factorization((2, 3), ad.families.Normal())
    >>> smooth = ad.networks.MADE(fac, hidden_features=8, context_shape=(5,))
    >>> rough = ad.networks.RNN(fac, hidden_size=8)
    >>> weights = torch.distributions.Categorical(torch.tensor([0.7, 0.3]))
    >>> p = ad.Mixture(weights, [smooth.condition(torch.zeros(7, 5)), rough.condition()])
    >>> p
    Mixture(2 components, batch_shape=(7,), event_shape=(2, 3))
    >>> x = p.sample((4,))
    >>> x.shape, p.log_prob(x).shape
    (torch.Size([4, 7, 2, 3]), torch.Size([4, 7]))
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(
        self,
        mixing: Categorical,
        components: Sequence[Distribution],
        *,
        validate_args: bool | None = None,
    ) -> None:
        check_type(mixing, Categorical, "mixing")
        if validate_args is not None:
            as_flag(validate_args, "validate_args")
        _check_some(components, "components")
        for index, component in enumerate(components):
            check_type(component, Distribution, f"components[{index}]")
            if component.event_shape != components[0].event_shape:
                raise ValueError(
                    f"components[{index}]: expected the event_shape "
                    f"{tuple(components[0].event_shape)} of the first one, got "
                    f"{tuple(component.event_shape)}"
                )
        count = mixing.param_shape[-1]
        if len(components) != count:
            raise ValueError(
                f"components: expected {count}, as mixing has weights, got {len(components)}"
            )
        shapes = [part.batch_shape for part in (mixing, *components)]
        try:
            batch_shape = Size(torch.broadcast_shapes(*shapes))
        except RuntimeError as error:
            raise ValueError(
                f"components: expected batch_shapes that broadcast with {tuple(shapes[0])}, that "
                f"of mixing, got {[tuple(shape) for shape in shapes[1:]]}"
            ) from error
        self._sequences = _sequences(components)
        if not self._sequences:
            _check_supports(components)
        self.mixing = mixing
        self.components: tuple[Distribution, ...] = self._sequences or tuple(components)
        # Instance attributes: Pyro assigns them.
        self.has_rsample = all(map(_is_pathwise, components)) and not mixing.logits.requires_grad
        self.has_enumerate_support = all(part.has_enumerate_support for part in components)
        super().__init__(batch_shape, components[0].event_shape, validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint | None:
        """Where events lie under any of the components."""
        if not self._sequences:
            return self.components[0].support
        end: Any = self._sequences[0].factorization.end
        return SequenceConstraint(self._inside, len(self.event_shape), end)

    def _inside(self, x: Tensor) -> Tensor:
        """Whether each event lies inside a component's support: (*lead, 1) bool."""
        checks = torch.broadcast_tensors(*(part.support.check(x) for part in self._sequences))
        return torch.stack(checks, -1).any(-1, keepdim=True)

    def expand(self, batch_shape: Sequence[int], _instance: "Mixture | None" = None) -> "Mixture":
        """The same distribution with a larger batch_shape, in constant time: nothing is run."""
        return expanded(self, batch_shape, _instance)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability or density of events, in nats: that of each component, and their sum."""
        if self._validate_args and self._sequences:
            self._validate_sample(value)
        scores = torch.broadcast_tensors(*(part.log_prob(value) for part in self.components))
        result = log_sum_exp(torch.stack(scores, -1) + self.mixing.logits)
        return result.expand(torch.broadcast_shapes(result.shape, self.batch_shape))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Events, each of a component that is drawn first."""
        with torch.no_grad():
            return self._draw(as_shape(sample_shape, "sample_shape"), pathwise=False)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Events with gradients, which are exact: the choice of a component depends on nothing.

        Raises:
            NotImplementedError: where a component has no `rsample`, or the weights require
                gradients, which draws do not have.
        """
        if without := [part for part in self.components if not _is_pathwise(part)]:
            raise NotImplementedError(f"rsample: no gradients through draws of {without}")
        if self.mixing.logits.requires_grad:
            raise NotImplementedError(
                "rsample: no gradients through draws to the weights, which require them; "
                "detach them, or leave the gradient to the score function"
            )
        return self._draw(as_shape(sample_shape, "sample_shape"), pathwise=True)

    def _draw(self, sample_shape: Size, pathwise: bool) -> Tensor:
        which = self.mixing.expand(sample_shape + self.batch_shape).sample()
        return self._draw_from(which, pathwise)

    def _draw_from(self, which: Tensor, pathwise: bool) -> Tensor:
        """Events of the components with these numbers, all leading dimensions given."""
        rows = [
            (which.flatten() == index).nonzero().squeeze(-1)
            for index in range(len(self.components))
        ]
        pieces = [
            _draw_rows(part, some, which.shape, pathwise)
            for part, some in zip(self.components, rows, strict=True)
        ]
        drawn = torch.cat(pieces)[torch.cat(rows).argsort()]
        return drawn.reshape((*which.shape, *self.event_shape))

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All events: (num_states, *batch_shape, *event_shape), or with ones for batch_shape.

        Raises:
            NotImplementedError: where a component does not enumerate its own.
        """
        as_flag(expand, "expand")
        some = self._sequences or self.components[:1]
        each = [part.enumerate_support(expand=False) for part in some]
        states = torch.cat([part.reshape(part.shape[0], *self.event_shape) for part in each])
        if len(some) > 1:
            states = states.unique(dim=0)
        return over_batch(states, self.batch_shape, expand)

    def __repr__(self) -> str:
        return (
            f"Mixture({len(self.components)} components, batch_shape={tuple(self.batch_shape)}, "
            f"event_shape={tuple(self.event_shape)})"
        )


class OrderingMixture(Mixture):
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

    components: tuple[AutoregressiveDistribution, ...]

    def __init__(
        self,
        network: nn.Module,
        orderings: Sequence[Ordering],
        context: Tensor | None = None,
        *,
        params: Mapping[str, Tensor] | None = None,
        validate_args: bool | None = None,
    ) -> None:
        _check_some(orderings, "orderings")
        whole = AutoregressiveDistribution(
            network, context, params=params, validate_args=validate_args
        )
        components = [
            _under(whole, ordering, f"orderings[{index}]")
            for index, ordering in enumerate(orderings)
        ]
        # One decoder may draw rows in different orders, where each step is of one block alike.
        each = [component.factorization for component in components]
        alike = all(fac.is_total and fac.is_uniform for fac in each)
        by_rows = alike and unwrap(network).has_row_orders
        self._ranks = torch.stack([fac.ranks for fac in each]) if by_rows else None
        weights = Categorical(logits=whole.bound.reference.new_zeros(len(components)))
        super().__init__(weights, components, validate_args=validate_args)

    def _draw_from(self, which: Tensor, pathwise: bool) -> Tensor:
        if self._ranks is None:
            return super()._draw_from(which, pathwise)
        ranks = self._ranks.to(which.device)[which]
        p = self.components[0].expand(which.shape).with_ordering(ranks)
        return p.rsample() if pathwise else p.sample()

    def __repr__(self) -> str:
        name = type(unwrap(self.components[0].network)).__name__
        return (
            f"OrderingMixture({name}, {len(self.components)} orderings, "
            f"batch_shape={tuple(self.batch_shape)}, event_shape={tuple(self.event_shape)})"
        )


def _check_some(values: Sequence[object], name: str) -> None:
    if not is_sequence(values) or not values:
        raise ValueError(f"{name}: expected a sequence of some, got {described(values)}")


def _under(
    joint: AutoregressiveDistribution, ordering: Ordering, name: str
) -> AutoregressiveDistribution:
    """A joint under another ordering, or an error that says which one it was."""
    check_type(ordering, Ordering, name)
    try:
        return joint.with_ordering(ordering)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _sequences(components: Sequence[Distribution]) -> tuple[AutoregressiveDistribution, ...]:
    """The components, if all are over sequences with one symbol for the end.

    Their supports differ with their orders, and that of the mixture is any of them. So these are
    copies that do not check values.
    """
    copies = [
        part.expand(part.batch_shape)
        for part in components
        if isinstance(part, AutoregressiveDistribution) and part.factorization.end is not None
    ]
    if len(copies) < len(components) or len({part.factorization.end for part in copies}) > 1:
        return ()
    for part in copies:
        part._validate_args = False
    return tuple(copies)


def _check_supports(components: Sequence[Distribution]) -> None:
    first = components[0].support
    for index, component in enumerate(components):
        if _key(component.support) != _key(first):
            raise ValueError(
                f"components[{index}]: expected the support {first} of the first one, got "
                f"{component.support}"
            )


def _key(value: Any) -> Any:
    """What constraints that allow the same have in common; for other values, what they equal."""
    if isinstance(value, constraints.Constraint):
        dim = value.event_dim
        while isinstance(value, constraints.independent):
            value = value.base_constraint
        if not isinstance(value, BlockConstraint):
            return dim, type(value), {name: _key(part) for name, part in vars(value).items()}
        parts = [_key(family.support) for family in value.layout.families]
        if value.layout.families[0].support.event_dim == 0 and all(p == parts[0] for p in parts):
            return dim, *parts[0][1:]
        return dim, parts, value.elements.tolist(), value.event_shape
    if isinstance(value, MethodType):  # of a factorization, which is compared by value
        return value.__self__
    if isinstance(value, list | tuple):
        return [_key(part) for part in value]
    return value.tolist() if isinstance(value, Tensor) else value


def _is_pathwise(p: Distribution) -> bool:
    """Whether draws have all their gradients, and not those of some blocks alone."""
    whole = not isinstance(p, AutoregressiveDistribution) or p.factorization.has_rsample
    return bool(p.has_rsample) and whole


def _draw_rows(p: Distribution, rows: Tensor, lead: Size, pathwise: bool) -> Tensor:
    """Of a draw (*lead, *event_shape) the events of these numbers: (rows, *event_shape)."""
    shape: Size = Size()
    chosen: Tensor | slice = slice(None)
    if isinstance(p, AutoregressiveDistribution):
        p = _take(p, rows, lead)
    elif prod(p.batch_shape) == 1:  # all rows are alike
        shape = rows.shape
    else:  # a copy, since some of Pyro's change in place when they are expanded
        p, chosen = copy(p).expand(lead), rows
    drawn: Tensor = p.rsample(shape) if pathwise else p.sample(shape)
    return drawn.reshape(-1, *p.event_shape)[chosen]


def _take(p: AutoregressiveDistribution, rows: Tensor, lead: Size) -> AutoregressiveDistribution:
    """Some rows of a distribution expanded to `lead`, by their numbers: a batch of them."""
    places = torch.unravel_index(rows, lead or (1,))

    def take(part: Tensor, dims: int) -> Tensor:
        own = part.shape[: part.dim() - dims]
        if own.numel() == 1:  # not repeated: a context is encoded once
            return part.reshape(part.shape[len(own) :])
        last = zip(places[len(lead) - len(own) :], own, strict=True)
        return part[tuple(at if size > 1 else torch.zeros_like(at) for at, size in last)]

    taken, context, event_dim = copy(p), p.context, len(p.event_shape)
    if context is not None:
        context_dim = len(p.bound.unwrapped.context_shape)
        taken.bound = p.bound.replace(context=take(context, context_dim))
    taken.ranks = None if p.ranks is None else take(p.ranks, 1)
    if p.evidence is not None:
        value, mask = p.evidence
        taken.evidence = take(value, event_dim), take(mask, event_dim)
    Distribution.__init__(taken, rows.shape, p.event_shape, validate_args=False)
    return taken
