"""Families of conditional distributions. `Family` is their base class."""

from ardist.families.base import Family
from ardist.families.composed import Independent, Mixture
from ardist.families.discretized import DiscretizedLogisticMixture
from ardist.families.hurdle import Hurdle
from ardist.families.interval import Rounded, Truncated
from ardist.families.nested import Nested
from ardist.families.ordinal import Ordinal
from ardist.families.parametric import Parametric
from ardist.families.proposed import auto
from ardist.families.relaxed import Relaxed
from ardist.families.spline import Spline
from ardist.families.transformed import Transformed
from ardist.families.truncated import Nucleus, Tempered, TopK
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
from ardist.families.vector import (
    Dirichlet,
    LowRankMultivariateNormal,
    MultivariateNormal,
    OneHotCategorical,
)

__all__ = [
    "Bernoulli",
    "Beta",
    "Categorical",
    "Dirichlet",
    "DiscretizedLogisticMixture",
    "Exponential",
    "Family",
    "Gamma",
    "Geometric",
    "Hurdle",
    "Independent",
    "Laplace",
    "LogNormal",
    "Logistic",
    "LowRankMultivariateNormal",
    "Mixture",
    "MultivariateNormal",
    "NegativeBinomial",
    "Nested",
    "Normal",
    "Nucleus",
    "OneHotCategorical",
    "Ordinal",
    "Parametric",
    "Poisson",
    "Relaxed",
    "Rounded",
    "Spline",
    "StudentT",
    "Tempered",
    "TopK",
    "Transformed",
    "Truncated",
    "VonMises",
    "auto",
]
