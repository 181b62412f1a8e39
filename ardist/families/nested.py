"""A conditional that is itself an autoregressive distribution."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from ardist.families.base import MOST_STATES, Family
from ardist.shapes import described


@dataclass(frozen=True, repr=False)
class Nested(Family):
    """A block with an autoregressive distribution of its own: a network inside a network.

    Its parameters are the inner network's context. The inner network becomes a submodule of the
    outer one, which trains, moves and saves it. A step of the outer draw is a whole inner draw,
    each through its own decoder. RNN-NADE (Boulanger-Lewandowski et al. 2012) is a `MADE` inside
    an `RNN`; PixelCNN++'s dependent channels (Salimans et al. 2017) are a small network over 3
    channels inside a `PixelCNN`. Equal to another where the network is the same object.

    Args:
        network: a conditional network with a context.

    Raises:
        ValueError: where it is none, or has no context.

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
    _scores_by_others = True

    def __post_init__(self) -> None:
        shape = getattr(self.network, "context_shape", None)
        if shape is None:
            raise ValueError(
                f"network: expected a conditional network, got {described(self.network)}"
            )
        if not shape:
            raise ValueError(
                "network: expected one with a context_shape, by which it is told the past, got ()"
            )

    @property
    def _inner(self) -> Any:
        return self.network

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return (self.network,)

    @property
    def event_shape(self) -> torch.Size:
        shape: torch.Size = self._inner.factorization.event_shape
        return shape

    @property
    def num_params(self) -> int:
        return math.prod(self._inner.context_shape)

    @property
    def num_features(self) -> int:
        return sum(self._inner.factorization.layout.sizes["feature"])

    @property
    def support(self) -> constraints.Constraint:
        support: constraints.Constraint = self._inner.factorization.support
        return support

    @property
    def has_rsample(self) -> bool:
        return bool(self._inner.factorization.has_rsample)

    @property
    def is_index(self) -> bool:
        return bool(self._inner.factorization.layout.is_index)

    # The inner network has a dtype, and its families look after themselves.

    def _score_dtype(self, dtype: torch.dtype, device: torch.device) -> torch.dtype:
        return dtype

    def _draw_dtype(self, dtype: torch.dtype) -> torch.dtype:
        return dtype

    def _rounded(self, draw: Tensor, dtype: torch.dtype) -> Tensor:
        return draw

    def __call__(self, params: Tensor) -> Distribution:
        result: Distribution = self._given(params)
        return result

    def _given(self, params: Tensor) -> Any:
        context = params.reshape(*params.shape[:-1], *self._inner.context_shape)
        return self._inner.condition(context, validate_args=False)

    def pathwise(self, params: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        result: Tensor = self._given(params).reparameterized(value)
        return result

    def marginal_log_prob(self, params: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        p = self._given(params)
        if p._first(mask) is not p:  # another joint, whose draws do not follow this one's
            raise ValueError(
                f"mask: expected all of a block or a part that {self} draws first, got one that "
                f"only another order of its network puts first"
            )
        scores: Tensor = p.scores_of(value, mask)
        return scores.sum(-1)

    def ordering_given(self, mask: Tensor) -> Any:
        """In which order the inner network draws a block whose elements under a mask are observed.

        Its own where what is observed comes first in it; otherwise one that a network for any
        order serves: another joint, as `AutoregressiveDistribution.given` has it.

        Args:
            mask: (*lead, *event_shape) bool.

        Returns:
            an `Ordering`, or ranks (*lead, *grid_shape) where rows differ.

        Raises:
            ValueError: where the network serves no order in which what is observed comes first.
        """
        reference = next(self.network.parameters())
        p = self._given(reference.new_zeros(self.num_params))
        return p._first(mask).ordering

    def is_ancestral(self, mask: Tensor) -> bool:
        return self.ordering_given(mask) is self._inner.factorization.ordering

    def given_log_prob(
        self, params: Tensor, value: Tensor, mask: Tensor, kept: Tensor | None = None
    ) -> Tensor:
        # Of one joint, which may be under another order than `log_prob`'s.
        given = self._given(params).given(value, mask)
        scores: Tensor = given.log_prob(value) if kept is None else given.scores_of(value, kept)
        return scores if kept is None else scores.sum(-1)

    def sample_given(self, params: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        drawn: Tensor = self._given(params).given(value, mask).sample()
        return drawn

    def features(self, value: Tensor) -> Tensor:
        factorization = self._inner.factorization
        features: Tensor = factorization.layout.features(factorization.split(value))
        return features

    def placeholder(self) -> Tensor:
        factorization = self._inner.factorization
        placeholder: Tensor = factorization.merge(factorization.layout.placeholder(torch.empty(0)))
        return placeholder if factorization.pad is None else placeholder.fill_(factorization.pad)

    def enumerate_support(self) -> Tensor | None:
        factorization = self._inner.factorization
        states = factorization.num_states
        if states is None or states > MOST_STATES:
            return None
        values: Tensor = factorization.enumerate_support()
        return values

    def __repr__(self) -> str:
        return f"Nested({type(self.network).__name__}, {self._inner.factorization})"
