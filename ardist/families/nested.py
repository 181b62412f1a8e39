"""A family whose conditionals are autoregressive distributions."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from ardist.families.base import MOST_STATES, Family
from ardist.ordering import Ordering
from ardist.shapes import described


@dataclass(frozen=True, repr=False)
class Nested(Family):
    """A block with an autoregressive distribution of its own: a network inside a network.

    The parameters of the conditional are the context of the inner network. The inner network is a
    submodule of the outer one, which trains, moves and saves it. Each step of the outer draw runs
    a whole inner draw with its own decoder. RNN-NADE (Boulanger-Lewandowski et al. 2012) is a
    `MADE` inside an `RNN`. The dependent channels of PixelCNN++ (Salimans et al. 2017) are a small
    network over 3 channels inside a `PixelCNN`. Two nested families are equal if their networks
    are the same object.

    Args:
        network: a conditional network with a context_shape.

    Raises:
        ValueError: if it is not a conditional network, or has no context.

    >>> import torch, ardist as ad
    >>> chord = ad.Factorization(88, ad.families.Bernoulli())
    >>> inner = ad.networks.MADE(chord, context_shape=(32,), hidden_features=64)
    >>> fac = ad.Factorization(
    ...     (100, 88), ad.families.Nested(inner), partition=ad.Partition.along(0)
    ... )
    >>> p = ad.networks.RNN(fac, hidden_size=16).condition()
    >>> p.log_prob(torch.zeros(5, 100, 88)).shape
    torch.Size([5])
    """

    network: nn.Module
    _is_scored_by_parts = True

    def __post_init__(self) -> None:
        shape = getattr(self.network, "context_shape", None)
        if shape is None:
            raise ValueError(
                f"network: expected a conditional network, got {described(self.network)}"
            )
        if not shape:
            raise ValueError(
                "network: expected a network with a context, which gives it the parameters of the "
                "block, got context_shape=()"
            )

    @property
    def _inner(self) -> Any:
        return self.network

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return (self.network,)

    @property
    def event_shape(self) -> torch.Size:
        return self._inner.factorization.event_shape

    @property
    def num_params(self) -> int:
        return math.prod(self._inner.context_shape)

    @property
    def num_features(self) -> int:
        return sum(self._inner.factorization.layout.sizes["feature"])

    @property
    def support(self) -> constraints.Constraint:
        return self._inner.factorization.support

    def fit(self, values: Tensor, mask: Tensor) -> Tensor:
        """Zeros, since the inner network sets its own biases (`start_at`)."""
        return torch.zeros(values.shape[1], self.num_params, device=values.device)

    @property
    def has_rsample(self) -> bool:
        return bool(self._inner.factorization.has_rsample)

    @property
    def is_index(self) -> bool:
        return bool(self._inner.factorization.layout.is_index)

    # The inner network has a dtype of its own, and its families have guards.

    def _score_dtype(self, dtype: torch.dtype, device: torch.device) -> torch.dtype:
        return dtype

    def _draw_dtype(self, dtype: torch.dtype) -> torch.dtype:
        return dtype

    def _rounded(self, draw: Tensor, dtype: torch.dtype) -> Tensor:
        return draw

    def __call__(self, params: Tensor) -> Distribution:
        return self._condition(params)

    def _condition(self, params: Tensor) -> Any:
        context = params.reshape((*params.shape[:-1], *self._inner.context_shape))
        return self._inner.condition(context, validate_args=False)

    def pathwise(self, params: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        return self._condition(params).reparameterized(value)

    def marginal_log_prob(self, params: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        p = self._condition(params)
        if p.with_first(mask) is not p:  # draws have another joint distribution
            raise ValueError(
                f"mask: expected a whole block, or elements that come first in the order of "
                f"{self}, got elements that come first only in another order of its network"
            )
        return p.scores_of(value, mask).sum(-1)

    def ordering_given(self, mask: Tensor) -> Ordering | Tensor:
        """The order in which the inner network draws a block with observed elements.

        This is the network's own order if the observed elements come first in it. Otherwise it is
        another order, if the network supports any order. The joint distribution is then another
        one too, as in `AutoregressiveDistribution.given`.

        Args:
            mask: (*lead, *event_shape) bool: the observed elements.

        Returns:
            An `Ordering`, or ranks (*lead, *grid_shape) if the rows differ.

        Raises:
            ValueError: if the network supports no order in which the observed elements come first.
        """
        reference = next(self.network.parameters())
        p = self._condition(reference.new_zeros(self.num_params))
        ordering: Ordering | Tensor = p.with_first(mask).ordering
        return ordering

    def is_ancestral(self, mask: Tensor) -> bool:
        return self.ordering_given(mask) is self._inner.factorization.ordering

    def given_log_prob(
        self, params: Tensor, value: Tensor, mask: Tensor, kept: Tensor | None = None
    ) -> Tensor:
        # All scores are of one joint distribution, maybe in another order than in `log_prob`.
        given = self._condition(params).given(value, mask)
        return given.log_prob(value) if kept is None else given.scores_of(value, kept).sum(-1)

    def sample_given(self, params: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        return self._condition(params).given(value, mask).sample()

    def features(self, value: Tensor) -> Tensor:
        factorization = self._inner.factorization
        return factorization.layout.features(factorization.split(value))

    def placeholder(self) -> Tensor:
        factorization = self._inner.factorization
        placeholder: Tensor = factorization.merge(factorization.placeholder(torch.empty(0)))
        return placeholder

    def enumerate_support(self) -> Tensor | None:
        factorization = self._inner.factorization
        states = factorization.num_states
        if states is None or states > MOST_STATES:
            return None
        return factorization.enumerate_support()

    def __repr__(self) -> str:
        return f"Nested({type(self.network).__name__}, {self._inner.factorization})"
