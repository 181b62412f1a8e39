"""Autoregressive distributions for PyTorch and Pyro.

A joint distribution p(x | c) = prod_i p(x_i | earlier x, c), with any ordering and any partition of
the variables and conditionals of any family, is one object with the `torch.distributions` API.
"""

from ardist import (
    export,
    families,
    guides,
    information,
    networks,
    rules,
    sampling,
    testing,
    training,
    transforms,
)
from ardist.conditioning import Marginal
from ardist.distribution import AutoregressiveDistribution
from ardist.factorization import Factorization
from ardist.likelihood import LogLikelihood
from ardist.mixtures import Mixture, OrderingMixture
from ardist.ordering import Ordering
from ardist.partition import Partition
from ardist.saving import load, save
from ardist.static import DrawStep

__version__ = "0.1.0"

__all__ = [
    "AutoregressiveDistribution",
    "DrawStep",
    "Factorization",
    "LogLikelihood",
    "Marginal",
    "Mixture",
    "Ordering",
    "OrderingMixture",
    "Partition",
    "export",
    "families",
    "guides",
    "information",
    "load",
    "networks",
    "rules",
    "sampling",
    "save",
    "testing",
    "training",
    "transforms",
]
