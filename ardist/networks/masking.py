"""Masks that follow from the dependencies.

Each hidden unit has a set of blocks on which it may depend. A unit of a later layer is connected to
the units whose sets are subsets of its own, and the outputs of a block to the units whose sets are
subsets of the block's dependencies. This covers any order, ties and graphs. Germain et al. (2015)
mask by the degrees of units in one order; the sets generalize the degrees.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ardist.factorization import Factorization
from ardist.networks.constants import register_constant


class VisibleSets:
    """The sets of blocks on which hidden units may depend, in the order that they become available.

    Args:
        factorization: its distinct dependencies are the sets.
        with_empty: whether to include the empty set, whose units depend on the context alone.

    Attributes:
        sets: (num_sets, num_blocks) bool.
        available: (num_sets,) int64, the first step before which all blocks of the set are drawn.
    """

    def __init__(self, factorization: Factorization, with_empty: bool) -> None:
        sets: Tensor = torch.unique(factorization.dependencies, dim=0)
        if not with_empty and sets.shape[0] > 1:
            sets = sets[sets.any(-1)]
        available = torch.where(sets, factorization.ranks.flatten() + 1, 0).amax(-1)
        order = available.argsort(stable=True)
        self.sets, self.available = sets[order], available[order]

    def assign(self, width: int) -> Tensor:
        """The set of each of `width` units, evenly and in order, as an index: (width,) int64."""
        return torch.arange(width) * self.sets.shape[0] // width


def is_subset(inner: Tensor, outer: Tensor) -> Tensor:
    """Whether each inner set is a subset of each outer set: (num_outer, num_inner) bool.

    Args:
        inner: (num_inner, num_blocks) bool.
        outer: (num_outer, num_blocks) bool.
    """
    return (~outer).float() @ inner.float().T == 0


class PerceptronMasks:
    """The masks of a perceptron from the features of blocks to their parameters.

    Args:
        factorization: gives the dependencies.
        visible: the sets of blocks on which units may depend.
        widths: the widths of the hidden layers.

    Attributes:
        hidden: for each layer, (width, units below or features) bool.
        available: for each layer, the first step before which each unit can be computed, (width,).
        head: from the last layer to the outputs, (outputs, width) bool; None without a layer.
        direct: from the features to the outputs, (outputs, features) bool.
    """

    def __init__(
        self, factorization: Factorization, visible: VisibleSets, widths: Sequence[int]
    ) -> None:
        sizes, dependencies = factorization.layout.sizes, factorization.dependencies
        of_feature, of_output = (  # the block of each
            torch.arange(dependencies.shape[0]).repeat_interleave(torch.tensor(sizes[kind]))
            for kind in ("feature", "param")
        )
        units = [visible.assign(width) for width in widths]
        sets = [visible.sets[each] for each in units]  # (width, num_blocks)
        self.available = [visible.available[each] for each in units]
        self.hidden = [each[:, of_feature] for each in sets[:1]]
        self.hidden += [is_subset(below, above) for below, above in pairwise(sets)]
        self.head = is_subset(sets[-1], dependencies)[of_output] if sets else None
        self.direct = dependencies[of_output][:, of_feature]


class MaskedLinear(nn.Linear):
    """A linear map in which masked weights act as zeros.

    The mask is applied in `forward`, so optimizers and writes to the weight cannot undo it.

    Args:
        mask: (out_features, in_features) bool, whether an output may depend on an input.
        bias: whether there is a bias.
    """

    mask: Tensor

    def __init__(self, mask: Tensor, *, bias: bool = True) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = mask.shape
        register_constant(self, "mask", mask.to(torch.get_default_dtype()))
        self.weight = nn.Parameter(torch.empty(mask.shape))
        self.register_parameter(
            "bias", nn.Parameter(torch.empty(self.out_features)) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Resets as `nn.Linear` does, with the number of unmasked inputs of each output."""
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
