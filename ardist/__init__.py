"""Autoregressive distributions for PyTorch and Pyro.

A joint distribution p(x | c) = prod_i p(x_i | earlier x, c), with any ordering and any partition of
the variables and conditionals of any family, is one object with the `torch.distributions` API.
"""

from ardist import families, guides, information, networks, sampling, testing, training, transforms
from ardist.conditioning import Marginal
from ardist.distribution import AutoregressiveDistribution
from ardist.factorization import Factorization
from ardist.mixtures import Mixture, OrderingMixture
from ardist.networks.base import LogLikelihood
from ardist.ordering import Ordering
from ardist.partition import Partition
from ardist.saving import load, save

__version__ = "0.1.0"

__all__ = [
    "AutoregressiveDistribution",
    "Factorization",
    "LogLikelihood",
    "Marginal",
    "Mixture",
    "Ordering",
    "OrderingMixture",
    "Partition",
    "families",
    "guides",
    "information",
    "load",
    "networks",
    "sampling",
    "save",
    "testing",
    "training",
    "transforms",
]
