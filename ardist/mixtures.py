"""Mixtures of joint distributions: of any distributions, and of one network's orderings."""

from collections.abc import Mapping, Sequence
from copy import copy
from math import prod
from types import MethodType
from typing import Any, ClassVar, cast

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor, nn
from torch.distributions import Categorical, Distribution, constraints

from ardist.bound_network import unwrap
from ardist.conditioning import Marginal, check_mask
from ardist.constraints import BlockConstraint, RuleConstraint
from ardist.distribution import AutoregressiveDistribution
from ardist.families.guards import elementwise
from ardist.families.logs import log_sum_exp
from ardist.ordering import Ordering
from ardist.shapes import (
    as_flag,
    as_shape,
    check_data,
    check_type,
    described,
    expand_to_batch,
    expanded,
    holds,
    is_sequence,
    leading,
    over_batch,
)


class Mixture(TorchDistribution):
    """A mixture of distributions, such as autoregressive ones with different networks.

    Each event is drawn from its own component only, while torch's `MixtureSameFamily` draws it from
    all components. (A component that is no `AutoregressiveDistribution` and differs along the batch
    still draws all events.)

    It has `rsample` if all components have it and the weights require no gradient. Then the choice
    of a component needs no gradient, so the gradients of draws are exact.

    Args:
        mixing: the weights, a Categorical over the components.
        components: distributions of torch or Pyro over the same events. Their batch_shapes and
            the batch_shape of `mixing` broadcast. If all follow one rule, such as `rules.End`,
            their orders may differ.
        validate_args: whether to check that events follow the rule of the components, if they have
            one, in the order of at least one component; torch's default if None. Components
            without a rule check values by their own `validate_args`.

    Attributes:
        mixing: the weights.
        components: a tuple.

    Raises:
        ValueError: if the numbers of components and weights differ, or shapes or supports do not
            match.

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
        _check_not_empty(components, "components")
        for index, component in enumerate(components):
            check_type(component, Distribution, f"components[{index}]")
            if component.event_shape != components[0].event_shape:
                raise ValueError(
                    f"components[{index}]: expected the event_shape "
                    f"{tuple(components[0].event_shape)} of the first component, got "
                    f"{tuple(component.event_shape)}"
                )
        count = mixing.param_shape[-1]
        if len(components) != count:
            raise ValueError(
                f"components: expected {count}, one for each weight of mixing, got "
                f"{len(components)}"
            )
        shapes = [part.batch_shape for part in (mixing, *components)]
        try:
            batch_shape = Size(torch.broadcast_shapes(*shapes))
        except RuntimeError as error:
            raise ValueError(
                f"components: expected batch_shapes that broadcast with the batch_shape "
                f"{tuple(shapes[0])} of mixing, got {[tuple(shape) for shape in shapes[1:]]}"
            ) from error
        self._unchecked = _unchecked(components)
        if not self._unchecked:
            _check_supports(components)
        self.mixing = mixing
        self.components: tuple[Distribution, ...] = self._unchecked or tuple(components)
        # Instance attributes, since Pyro assigns them.
        self.has_rsample = all(map(_is_pathwise, components)) and not mixing.logits.requires_grad
        self.has_enumerate_support = all(part.has_enumerate_support for part in components)
        super().__init__(batch_shape, components[0].event_shape, validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint | None:
        """The union of the components' supports."""
        if not self._unchecked:
            return self.components[0].support
        first: Any = self._unchecked[0].support
        return RuleConstraint(self._inside, len(self.event_shape), first.rule, first.is_discrete)

    def _inside(self, x: Tensor) -> Tensor:
        """Whether each event is inside the support of a component: (*lead, 1) bool."""
        checks = torch.broadcast_tensors(*(part.support.check(x) for part in self._unchecked))
        return torch.stack(checks, -1).any(-1, keepdim=True)

    def expand(self, batch_shape: Sequence[int], _instance: "Mixture | None" = None) -> "Mixture":
        """The same distribution with a larger batch_shape, in constant time."""
        return expanded(self, batch_shape, _instance)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-probability or log-density of events, in nats. It evaluates all components.

        Args:
            value: (*sample_shape, *batch_shape, *event_shape), or broadcastable to such a shape.

        Returns:
            (*sample_shape, *batch_shape).

        Raises:
            ValueError: if validation is on and a value is outside the support.
        """
        if self._validate_args and self._unchecked:
            self._validate_sample(value)
        scores = torch.broadcast_tensors(*(part.log_prob(value) for part in self.components))
        result = log_sum_exp(torch.stack(scores, -1) + self.mixing.logits)  # (*lead,)
        return expand_to_batch(result, self.batch_shape)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Events, each from a component that is drawn with the mixing weights.

        Returns:
            (*sample_shape, *batch_shape, *event_shape).
        """
        with torch.no_grad():
            return self._draw(as_shape(sample_shape, "sample_shape"), pathwise=False)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Events with exact gradients, if the weights require no gradient.

        Returns:
            (*sample_shape, *batch_shape, *event_shape).

        Raises:
            NotImplementedError: if a component has no `rsample`, or the weights require gradients,
                since draws have no gradient to the weights.
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
        """Events (*lead, *event_shape) of the components with these indices, (*lead)."""
        rows = [
            (which.flatten() == index).nonzero().squeeze(-1)
            for index in range(len(self.components))
        ]
        pieces = [
            _draw_rows(component, part, which.shape, pathwise)
            for component, part in zip(self.components, rows, strict=True)
        ]
        drawn = torch.cat(pieces)[torch.cat(rows).argsort()]  # (rows, *event_shape)
        return drawn.reshape((*which.shape, *self.event_shape))

    def given(self, value: Tensor, mask: Tensor) -> "Mixture":
        """The whole event, conditioned on the elements of `value` under `mask`.

        Each component is conditioned on them, and its weight is multiplied by the component's
        probability or density of these elements. The result is exact if conditioning each component
        is exact; see `AutoregressiveDistribution.given`.

        Args:
            value: (*lead, *event_shape); elements that are not observed are ignored.
            mask: (*lead, *event_shape) bool. The leading dimensions of `value` and `mask` broadcast
                with batch_shape.

        Raises:
            ValueError: if a component is not an autoregressive distribution, or a mixture or a
                marginal of those; if a component cannot be conditioned on the elements; or if the
                elements are impossible in every component.

        >>> import torch, ardist as ad
        >>> _ = torch.manual_seed(0)
        >>> net = ad.networks.Masked(ad.Factorization(4, ad.families.Normal()), hidden_features=8)
        >>> p = ad.OrderingMixture(net, [ad.Ordering.random(seed) for seed in range(4)])
        >>> last = torch.tensor([False, False, False, True])
        >>> p.given(torch.full((4,), 0.5), last).sample((2,))[:, 3]
        tensor([0.5000, 0.5000])
        """
        check_mask(mask, self.event_shape, self.batch_shape)
        check_data(value, "value")
        leading(value.shape, self.event_shape, self.batch_shape, "value")
        logits = self._joint_with(value, mask)  # (*lead, K)
        possible = logits.isfinite()
        if not holds(possible.any(-1)):
            raise ValueError(
                "value: expected elements under the mask that a component can have, got "
                f"{int((~possible.any(-1)).sum())} of {possible[..., 0].numel()} that none can"
            )
        components = [
            part.given(value, _only_rows(mask, rows, self.event_shape))
            for part, rows in zip(self._conditionable, possible.unbind(-1), strict=True)
        ]
        return self._with(Categorical(logits=logits), components)

    def marginal(self, mask: Tensor) -> "Mixture":
        """The marginal distribution of the elements under `mask`, as vectors.

        It is the mixture of the components' marginals.

        Args:
            mask: (*event_shape) bool.

        Raises:
            ValueError: if a component is not an autoregressive distribution, or a mixture or a
                marginal of those, or has no such marginal (see
                `AutoregressiveDistribution.marginal`).
        """
        return self._with(self.mixing, [part.marginal(mask) for part in self._conditionable])

    def _with(self, mixing: Categorical, components: Sequence[Distribution]) -> "Mixture":
        """A mixture of other components, expanded to at least the batch_shape of this mixture."""
        mixture = Mixture(mixing, components, validate_args=self._validate_args)
        return mixture.expand(torch.broadcast_shapes(mixture.batch_shape, self.batch_shape))

    @property
    def _conditionable(self) -> "tuple[AutoregressiveDistribution | Marginal | Mixture, ...]":
        for index, part in enumerate(self.components):
            if not isinstance(part, AutoregressiveDistribution | Marginal | Mixture):
                raise ValueError(
                    f"components[{index}]: expected an AutoregressiveDistribution, or a Mixture or "
                    f"Marginal of those, which condition on parts of an event, got {part}"
                )
        return cast("tuple[AutoregressiveDistribution | Marginal | Mixture, ...]", self.components)

    def observed_log_prob(self, value: Tensor, mask: Tensor) -> Tensor:
        """See `AutoregressiveDistribution.observed_log_prob`."""
        return log_sum_exp(self._joint_with(value, mask))

    def _joint_with(self, value: Tensor, mask: Tensor) -> Tensor:
        """The joint log_prob of each component and the elements under a mask: (*lead, K)."""
        scores = [part.observed_log_prob(value, mask) for part in self._conditionable]
        return torch.stack(torch.broadcast_tensors(*scores), -1) + self.mixing.logits

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All events: (num_states, *batch_shape, *event_shape).

        Args:
            expand: if False, the batch dimensions are ones.

        Raises:
            NotImplementedError: if a component does not enumerate its support.
        """
        as_flag(expand, "expand")
        sources = self._unchecked or self.components[:1]
        parts = [source.enumerate_support(expand=False) for source in sources]
        states = torch.cat([part.reshape(part.shape[0], *self.event_shape) for part in parts])
        if len(sources) > 1:
            states = states.unique(dim=0)
        return over_batch(states, self.batch_shape, expand)

    def __repr__(self) -> str:
        return (
            f"Mixture({len(self.components)} components, batch_shape={tuple(self.batch_shape)}, "
            f"event_shape={tuple(self.event_shape)})"
        )


class OrderingMixture(Mixture):
    """A mixture of one network's joint distributions under several orderings, with equal weights.

    An any-order network defines one joint distribution for each ordering. The log-likelihood of
    their mixture is at least their average log-likelihood (Uria et al. 2014, "A deep and tractable
    density estimator").

    Args:
        network: a conditional network that supports all the orderings, wrapped or not.
        orderings: orderings of the blocks. An ordering that is listed twice has twice the weight.
        context: as for `AutoregressiveDistribution`.
        params: as for `AutoregressiveDistribution`.
        validate_args: whether to check values and the context; torch's default if None.

    Attributes:
        components: the joint distribution under each ordering, as a tuple.

    Raises:
        ValueError: if there is no ordering, the network does not support one of them, or the
            context or the params do not fit.

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
        _check_not_empty(orderings, "orderings")
        p = AutoregressiveDistribution(network, context, params=params, validate_args=validate_args)
        components = [
            _with_ordering(p, ordering, f"orderings[{index}]")
            for index, ordering in enumerate(orderings)
        ]
        # One decoder can draw rows in different orders if each step draws one block of one family.
        factorizations = [component.factorization for component in components]
        is_plain = all(fac.is_total and fac.is_uniform for fac in factorizations)
        by_rows = is_plain and unwrap(network).has_row_orders
        self._ranks = torch.stack([fac.ranks for fac in factorizations]) if by_rows else None
        weights = Categorical(logits=p.bound.reference.new_zeros(len(components)))
        super().__init__(weights, components, validate_args=validate_args)

    def _draw_from(self, which: Tensor, pathwise: bool) -> Tensor:
        if self._ranks is None:
            return super()._draw_from(which, pathwise)
        ranks = self._ranks.to(which.device)[which]  # (*lead, *grid_shape)
        p = self.components[0].expand(which.shape).with_ordering(ranks)
        return p.rsample() if pathwise else p.sample()

    def __repr__(self) -> str:
        name = type(unwrap(self.components[0].network)).__name__
        return (
            f"OrderingMixture({name}, {len(self.components)} orderings, "
            f"batch_shape={tuple(self.batch_shape)}, event_shape={tuple(self.event_shape)})"
        )


def _check_not_empty(values: Sequence[object], name: str) -> None:
    if not is_sequence(values) or not values:
        raise ValueError(f"{name}: expected a sequence that is not empty, got {described(values)}")


def _with_ordering(
    p: AutoregressiveDistribution, ordering: Ordering, name: str
) -> AutoregressiveDistribution:
    """A distribution under another ordering. Errors begin with the name of the ordering."""
    check_type(ordering, Ordering, name)
    try:
        return p.with_ordering(ordering)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _unchecked(components: Sequence[Distribution]) -> tuple[AutoregressiveDistribution, ...]:
    """Copies of the components that do not check values; empty unless all follow the same rule.

    Their supports differ with their orders, and the support of the mixture is the union.
    """
    copies = [
        part.expand(part.batch_shape)
        for part in components
        if isinstance(part, AutoregressiveDistribution) and isinstance(part.support, RuleConstraint)
    ]
    if len(copies) < len(components) or len({part.factorization.rule for part in copies}) > 1:
        return ()
    for part in copies:
        part._validate_args = False
    return tuple(copies)


def _check_supports(components: Sequence[Distribution]) -> None:
    first = components[0].support
    for index, component in enumerate(components):
        if _key(component.support) != _key(first):
            raise ValueError(
                f"components[{index}]: expected the support {first} of the first component, got "
                f"{component.support}"
            )


def _key(value: Any) -> Any:
    """A value that is equal for equal constraints, which torch compares by identity.

    Attributes of constraints are converted as well, so that they compare by value.
    """
    if isinstance(value, constraints.Constraint):
        dim, value = value.event_dim, elementwise(value)
        if not isinstance(value, BlockConstraint):
            return dim, type(value), {name: _key(part) for name, part in vars(value).items()}
        parts = [_key(family.support) for family in value.layout.families]
        if value.layout.families[0].support.event_dim == 0 and all(p == parts[0] for p in parts):
            return dim, *parts[0][1:]
        return dim, parts, value.elements.tolist(), value.event_shape
    if isinstance(value, MethodType):  # a method of a factorization, which compares by value
        return value.__self__
    if isinstance(value, list | tuple):
        return [_key(part) for part in value]
    return value.tolist() if isinstance(value, Tensor) else value


def _only_rows(mask: Tensor, rows: Tensor, event_shape: Size) -> Tensor:
    """The mask in these rows, (*lead,) bool, and False in all other rows.

    In the other rows the observed elements are impossible in a component. Its weight is zero there,
    and it is not conditioned on the elements, since it would score NaN.
    """
    return mask if holds(rows) else mask & rows.reshape((*rows.shape, *(1,) * len(event_shape)))


def _is_pathwise(p: Distribution) -> bool:
    """Whether draws have gradients through all blocks."""
    is_complete = not isinstance(p, AutoregressiveDistribution) or p.factorization.has_rsample
    return bool(p.has_rsample) and is_complete


def _draw_rows(p: Distribution, rows: Tensor, lead: Size, pathwise: bool) -> Tensor:
    """The events with these flat indices of a draw (*lead, *event_shape): (n, *event_shape)."""
    shape: Size = Size()
    chosen: Tensor | slice = slice(None)
    if isinstance(p, AutoregressiveDistribution):
        p = _select_rows(p, rows, lead)
    elif prod(p.batch_shape) == 1:  # all rows have the same distribution
        shape = rows.shape
    else:  # a copy, since some distributions of Pyro change in place when they are expanded
        p, chosen = copy(p).expand(lead), rows
    drawn: Tensor = p.rsample(shape) if pathwise else p.sample(shape)
    return drawn.reshape(-1, *p.event_shape)[chosen]


def _select_rows(
    p: AutoregressiveDistribution, rows: Tensor, lead: Size
) -> AutoregressiveDistribution:
    """The rows with these flat indices of a distribution expanded to `lead`: batch_shape (n,)."""
    indices = torch.unravel_index(rows, lead or (1,))

    def select(part: Tensor, dims: int) -> Tensor:
        batch = part.shape[: part.dim() - dims]
        if batch.numel() == 1:  # not repeated, so that a context is encoded once
            return part.reshape(part.shape[len(batch) :])
        pairs = zip(indices[len(lead) - len(batch) :], batch, strict=True)
        return part[tuple(i if size > 1 else torch.zeros_like(i) for i, size in pairs)]

    selected, context, event_dim = copy(p), p.context, len(p.event_shape)
    if context is not None:
        context_dim = len(p.bound.unwrapped.context_shape)
        selected.bound = p.bound.replace(context=select(context, context_dim))
    selected.ranks = None if p.ranks is None else select(p.ranks, 1)
    if p.evidence is not None:
        value, mask = p.evidence
        selected.evidence = select(value, event_dim), select(mask, event_dim)
    Distribution.__init__(selected, rows.shape, p.event_shape, validate_args=False)
    return selected
