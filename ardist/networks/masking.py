"""Masks from dependencies.

Every hidden unit is given a set of blocks that it may see. A unit of a later layer sees those
units whose sets are within its own, and a block's outputs see those within its dependencies.
Nothing else is needed for any order, ties and graphs (Germain et al. 2015 for one order; the
sets generalize its degrees).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ardist.factorization import Factorization


class VisibleSets:
    """The sets of blocks that hidden units may see, in the order in which they become known.

    Args:
        factorization: whose distinct dependencies are the sets.
        with_empty: whether the empty set is among them, which sees a context alone.

    Attributes:
        sets: (num_sets, num_blocks) bool.
        available: (num_sets,) int64: the step before which all blocks of the set are drawn.
    """

    def __init__(self, factorization: Factorization, with_empty: bool) -> None:
        sets: Tensor = torch.unique(factorization.dependencies, dim=0)
        if not with_empty and sets.shape[0] > 1:
            sets = sets[sets.any(-1)]
        available = torch.where(sets, factorization.ranks.flatten() + 1, 0).amax(-1)
        order = available.argsort(stable=True)
        self.sets, self.available = sets[order], available[order]

    def assign(self, width: int) -> Tensor:
        """For each of `width` units its set, spread evenly and in order: (width,) int64."""
        return torch.arange(width) * self.sets.shape[0] // width


def within(inner: Tensor, outer: Tensor) -> Tensor:
    """Whether each inner set is within each outer one: (outer, inner) bool."""
    return (~outer).float() @ inner.float().T == 0


class MaskedLinear(nn.Linear):
    """A linear map some of whose weights are zero and stay so.

    The mask is applied in `forward`, so that no optimizer and no write can undo it.

    Args:
        mask: (out_features, in_features) bool: which inputs each output may see.
    """

    mask: Tensor

    def __init__(self, mask: Tensor, *, bias: bool = True) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = mask.shape
        self.register_buffer("mask", mask.to(torch.get_default_dtype()), persistent=False)
        self.weight = nn.Parameter(torch.empty(mask.shape))
        self.register_parameter(
            "bias", nn.Parameter(torch.empty(self.out_features)) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As `nn.Linear`, by how many inputs an output really sees."""
        with torch.no_grad():
            bound = 1 / self.mask.sum(-1).clamp(min=1).sqrt()
            self.weight.uniform_(-1, 1).mul_(bound.unsqueeze(-1))
            if self.bias is not None:
                self.bias.uniform_(-1, 1).mul_(bound)

    def masked_weight(self) -> Tensor:
        return self.weight * self.mask

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.masked_weight(), self.bias)

    def extra_repr(self) -> str:
        share = self.mask.mean().item() if math.prod(self.mask.shape) else 0.0
        return f"{super().extra_repr()}, visible={share:.0%}"
