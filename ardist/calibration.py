"""Calibration: tests of conditionals against data, block by block, and a score of draws."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ardist.conditionals import Conditionals, eval_mode
from ardist.distribution import AutoregressiveDistribution
from ardist.families import Family
from ardist.families.guards import at_least_single
from ardist.shapes import check_data, check_type, described, is_sequence, lead_of, pyplot

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Calibration:
    """The fit of conditionals to data, block by block. `calibration` returns it.

    Attributes:
        pit: the probability integral transform of each block of each event, (N, num_blocks). It
            is uniform if the model is correct. It is NaN for blocks without a CDF, for observed
            blocks and for blocks after an end.
        statistic: the Kolmogorov-Smirnov statistic of each block, (num_blocks,): the largest
            distance between the empirical CDF of its pit and the CDF of the uniform distribution.
        p_value: the probability of so large a statistic under a correct model, (num_blocks,). It
            is computed by the asymptotic series with Stephens' correction (1970) for few events.
        blocks: the names of the blocks.

    >>> import ardist as ad
    >>> fac = ad.Factorization.columns(age=ad.families.Gamma(), income=ad.families.LogNormal())
    >>> p = ad.networks.MADE(fac, hidden_features=8).condition()
    >>> ad.information.calibration(p, p.sample((100,))).blocks
    ("column 'age'", "column 'income'")
    """

    pit: Tensor
    statistic: Tensor
    p_value: Tensor
    blocks: tuple[str, ...]

    def plot(self, axes: "Sequence[Axes] | None" = None) -> "list[Axes]":
        """Plots histograms of the pit. Dashed lines bound 95 % of the bars of a correct model.

        Args:
            axes: matplotlib axes, one for each block. If there are fewer axes than blocks, the
                blocks with the smallest p-values are plotted. The default is a new figure with
                at most 12 blocks.

        Returns:
            The axes.

        Raises:
            ImportError: if matplotlib is not installed.
            ValueError: if axes is not a sequence of axes.
        """
        plt = pyplot("Calibration.plot")
        tested = [block for block, p in enumerate(self.p_value.tolist()) if p == p]
        if axes is None:
            count = min(len(tested), 12)
            rows = ceil(count / 4) or 1
            columns = ceil(count / rows) or 1
            figure = plt.figure(figsize=(2.6 * columns, 2.1 * rows), layout="constrained")
            axes = [figure.add_subplot(rows, columns, 1 + at) for at in range(count)]
        axes = axes.tolist() if hasattr(axes, "tolist") else axes  # plt.subplots returns an array
        if not is_sequence(axes):
            raise ValueError(f"axes: expected a sequence of axes, got {described(axes)}")
        for ax in axes:
            check_type(ax, plt.Axes, "axes")
        worst = sorted(tested, key=self.p_value.tolist().__getitem__)[: len(axes)]
        for ax, block in zip(axes, sorted(worst), strict=False):
            pit = self.pit[:, block]
            pit = pit[~pit.isnan()]
            bins = max(5, min(20, pit.shape[0] // 20))
            heights = (pit.histc(bins, 0, 1) * (bins / pit.shape[0])).tolist()
            edges = [bar / bins for bar in range(bins)]
            ax.bar(edges, heights, 1 / bins, align="edge", color="lightsteelblue")
            band = 1.96 * ((bins - 1) / pit.shape[0]) ** 0.5
            for level, style in ((1, "-"), (1 - band, "--"), (1 + band, "--")):
                ax.axhline(level, color="steelblue", linestyle=style, linewidth=1)
            top = max(2.0, 1.05 * max(heights))
            ax.set(xlim=(0, 1), ylim=(0, top), xticks=[0, 0.5, 1], yticks=[0, 1])
            ax.set_title(f"{self.blocks[block]}, p = {self.p_value[block]:.2g}", fontsize="medium")
        return list(axes)


@torch.no_grad()
def calibration(p: AutoregressiveDistribution, x: Tensor) -> Calibration:
    """Tests the conditionals of each block against data by the probability integral transform.

    If the model is correct, the conditional CDF of a block at its observed value is uniform. For a
    discrete block the transform is drawn uniformly between the CDF below the value and the CDF at
    the value. Use data that the model was not trained on: training data pass too easily.

    Args:
        p: the distribution.
        x: events, (*lead, *event_shape). `lead` broadcasts with batch_shape to the N rows of the
            result.

    Raises:
        ValueError: if x is invalid, no block has a CDF, or a block is observed in part.

    >>> import torch, ardist as ad
    >>> _ = torch.manual_seed(0)
    >>> net = ad.networks.MADE(ad.Factorization(3, ad.families.Normal()), hidden_features=8)
    >>> p = net.condition()
    >>> ad.information.calibration(p, p.sample((500,))).p_value > 0.01
    tensor([True, True, True])
    >>> ad.information.calibration(p, 2 * p.sample((500,))).p_value > 0.01
    tensor([False, False, False])
    """
    check_type(p, AutoregressiveDistribution, "p")
    fac = p.factorization
    if not any(family.has_cdf for family in fac.conditionals.distinct):
        raise ValueError(f"p: expected a family with a CDF, got {fac.layout.distinct}")
    x = p.checked(x, "x")
    lead = torch.broadcast_shapes(lead_of(x, p.event_shape), p.batch_shape)
    with eval_mode(p):
        own = Conditionals(p, x.expand((*lead, *p.event_shape)))
        pit = own.by_block(_pit).masked_fill(own.certain, torch.nan)
    pit = pit.reshape(-1, fac.num_blocks)
    statistic, p_value = _kolmogorov_smirnov(pit)
    names = tuple(fac.block_name(block) for block in range(fac.num_blocks))
    return Calibration(pit, statistic, p_value, names)


def crps(draws: Tensor, x: Tensor) -> Tensor:
    """The continuous ranked probability score (CRPS) of a forecast, element by element.

    It is E|X - x| - E|X - X'| / 2 for independent X and X' from the forecast, in the units of x.
    For a forecast without spread it is the absolute error. Lower is better, and no forecast has a
    lower mean score than the true distribution (Gneiting and Raftery 2007, "Strictly proper scoring
    rules, prediction, and estimation"). The estimate from draws is unbiased (Ferro 2014, "Fair
    scores for ensemble forecasts").

    Args:
        draws: draws from the forecast, (num_draws, *lead, *event_shape), at least two.
        x: the observed values, which broadcast with one draw.

    Returns:
        The score of each element, of the shape of one draw and x. It is differentiable.

    Raises:
        ValueError: if there are fewer than two draws, or x does not broadcast with a draw.

    >>> import torch, ardist as ad
    >>> _ = torch.manual_seed(0)
    >>> p = ad.networks.RNN(ad.Factorization(5, ad.families.Normal()), hidden_size=8).condition()
    >>> ad.information.crps(p.sample((1000,)), torch.zeros(5)).shape
    torch.Size([5])
    """
    check_data(draws, "draws")
    check_data(x, "x")
    count = draws.shape[0] if draws.dim() else 0
    if count < 2:
        raise ValueError(
            f"draws: expected at least two in the first dimension, got {tuple(draws.shape)}"
        )
    try:
        shape = torch.broadcast_shapes(draws.shape[1:], x.shape)
    except RuntimeError as error:
        raise ValueError(
            f"draws, x: expected (num_draws, *shape) and a shape that broadcasts with it, got "
            f"{tuple(draws.shape)} and {tuple(x.shape)}"
        ) from error
    dtype = torch.promote_types(torch.result_type(draws, x), torch.get_default_dtype())
    draws, x = draws.to(dtype), x.to(dtype)
    weights = torch.arange(1 - count, count, 2, dtype=dtype, device=draws.device)
    spread = torch.tensordot(weights, draws.sort(0).values, 1) / (count * (count - 1))
    draws = draws.reshape(count, *[1] * (len(shape) + 1 - draws.dim()), *draws.shape[1:])
    return (draws - x).abs().mean(0) - spread


def _pit(family: Family, params: Tensor, values: Tensor) -> Tensor:
    if not family.has_cdf:
        return params.new_full(params.shape[:-1], torch.nan)
    # Half precision has few uniform numbers.
    params = family._widened_params(params, at_least_single(params.dtype))
    pit = family.cdf(params, values)
    if family.support.is_discrete:
        pit = pit - torch.rand_like(pit) * family.mass(params, values)
    return pit.clamp(0, 1)


def _kolmogorov_smirnov(pit: Tensor) -> tuple[Tensor, Tensor]:
    """The statistic and p-value of each column of (N, columns), without NaN: both (columns,)."""
    count = (~pit.isnan()).sum(0)
    ordered = pit.sort(0).values  # NaN last
    at = torch.arange(pit.shape[0], device=pit.device).unsqueeze(-1)
    apart = torch.maximum((at + 1) / count - ordered, ordered - at / count)
    apart = F.pad(apart.masked_fill(at >= count, -torch.inf), (0, 0, 0, 1), value=-torch.inf)
    statistic = apart.amax(0)
    statistic = statistic.masked_fill(count == 0, torch.nan)
    root = count.sqrt()
    # Below 0.1 the series converges slowly, and its sum is 1.
    scaled = (statistic * (root + 0.12 + 0.11 / root)).clamp(min=0.1)
    terms = torch.arange(1, 51, device=pit.device).unsqueeze(-1)
    series = -2 * (-1.0) ** terms * (-2 * (terms * scaled).square()).exp()
    return statistic, series.sum(0).clamp(0, 1)
