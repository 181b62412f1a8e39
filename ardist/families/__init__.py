"""Families: the forms that a conditional can have. `Family` is the contract."""

from ardist.families.base import Family
from ardist.families.composed import DiscretizedLogisticMixture, Independent, Mixture
from ardist.families.parametric import Parametric
from ardist.families.univariate import (
    Bernoulli,
    Beta,
    Categorical,
    Exponential,
    Gamma,
    Geometric,
    Laplace,
    Logistic,
    LogNormal,
    NegativeBinomial,
    Normal,
    Poisson,
    StudentT,
    VonMises,
)

__all__ = [
    "Bernoulli",
    "Beta",
    "Categorical",
    "DiscretizedLogisticMixture",
    "Exponential",
    "Family",
    "Gamma",
    "Geometric",
    "Independent",
    "Laplace",
    "LogNormal",
    "Logistic",
    "Mixture",
    "NegativeBinomial",
    "Normal",
    "Parametric",
    "Poisson",
    "StudentT",
    "VonMises",
]
