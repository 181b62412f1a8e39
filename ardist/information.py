"""Entropy, divergence and calibration of autoregressive distributions, block by block."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import ceil, prod
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    OneHotCategorical,
)
from torch.distributions.kl import kl_divergence as analytic_kl
from torch.distributions.kl import register_kl

from ardist.distribution import AutoregressiveDistribution
from ardist.families import Family
from ardist.scoring import teacher_forced_params
from ardist.shapes import as_integer, check_type, described, is_sequence

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Calibration", "Estimate", "calibration", "entropy", "kl_divergence"]

_NUM_SAMPLES = 1000  # where nothing else is said


class Estimate(NamedTuple):
    """A number for each row of the batch, in nats.

    Attributes:
        value: the estimate, batch_shape; differentiable.
        standard_error: its standard deviation, estimated likewise: batch_shape. 0 if exact.

    >>> import ardist as ad
    >>> net = ad.networks.MADE(ad.Factorization(3, ad.families.Bernoulli()), hidden_features=8)
    >>> value, standard_error = ad.information.entropy(net.condition())
    >>> standard_error  # eight events are summed
    tensor(0.)
    """

    value: Tensor
    standard_error: Tensor


def entropy(p: AutoregressiveDistribution, num_samples: int | None = None) -> Estimate:
    """H(p) = E_x sum_i H(p(x_i | earlier x)), with x drawn from p.

    The entropy of each block is analytic where torch has it, which usually takes away most of
    the variance that -log p(x) has, and -log p(x_i | earlier x) elsewhere (a mixture, say).

    The gradient of the value is unbiased, to all that p was made from. It goes through the draws
    where `p.has_rsample`; elsewhere, or where that was set to False, it is the score function's:
    each block's log_prob is weighted by its own share and those of the blocks after it, less the
    mean of that over the other draws. Under `torch.no_grad()` nothing is spent on it. Dropout is
    off.

    Args:
        p: the distribution. Blocks that are observed, and those after an end, contribute 0.
        num_samples: how many draws, at least 2. By default there are none where
            `p.has_enumerate_support`: all events are summed over, and value and gradient are
            exact; elsewhere there are 1000.

    Raises:
        ValueError: where a block is observed in part, unless events are summed over.

    >>> import torch, ardist as ad
    >>> _ = torch.manual_seed(0)
    >>> fac = ad.Factorization(8, ad.families.Bernoulli())
    >>> p = ad.networks.MADE(fac, hidden_features=16).condition()
    >>> exact, estimate = ad.information.entropy(p), ad.information.entropy(p, 1000)
    >>> bool((estimate.value - exact.value).abs() < 4 * estimate.standard_error)
    True
    """
    _check(p, num_samples)
    with _evaluating(p):
        if _is_summed(p, num_samples):
            return _sum(p, lambda x, log_prob: -log_prob)
        return _estimate(p, num_samples, lambda own, x: (own.by_block(_entropy), None))


def kl_divergence(
    p: AutoregressiveDistribution, q: Distribution, num_samples: int | None = None
) -> Estimate:
    """KL(p || q) = E_x sum_i KL(p(x_i | earlier x) || q(x_i | earlier x)), with x drawn from p.

    That holds where q is cut into the same blocks and none of them depends on one that p draws
    later. The divergence of each block is analytic where torch has it for the two families, and
    log p(x_i | earlier x) - log q(x_i | earlier x) elsewhere. For any other q it is
    log p(x) - log q(x), in which errors cancel where q is near p. An infinite divergence has no
    gradient, and if it is estimated an infinite standard error.

    `torch.distributions.kl_divergence` gives the value where it is exact, and elsewhere raises a
    `NotImplementedError`.

    Args:
        p: as in `entropy`, and so is the gradient, which goes to q as well.
        q: a distribution over the same events; batch_shapes broadcast.
        num_samples: as in `entropy`.

    Raises:
        ValueError: as in `entropy`; where events differ in shape; where a draw of p is outside
            the support of q, for which the divergence is infinite; where not the same is observed
            in both.

    >>> import torch, ardist as ad
    >>> _ = torch.manual_seed(0)
    >>> net = ad.networks.MADE(ad.Factorization(8, ad.families.Normal()), hidden_features=16)
    >>> q = torch.distributions.Normal(torch.zeros(8), 1.0)
    >>> p = net.condition()
    >>> estimate = ad.information.kl_divergence(p, torch.distributions.Independent(q, 1))
    >>> estimate.value.backward()
    >>> ad.information.kl_divergence(p, p).value
    tensor(0., grad_fn=<MeanBackward1>)
    """
    _check(p, num_samples)
    check_type(q, Distribution, "q")
    if q.event_shape != p.event_shape:
        raise ValueError(
            f"q: expected the event_shape {tuple(p.event_shape)} of p, got {tuple(q.event_shape)}"
        )
    try:
        p = p.expand(torch.broadcast_shapes(p.batch_shape, q.batch_shape))
    except RuntimeError as error:
        raise ValueError(
            f"q: expected a batch_shape that broadcasts with {tuple(p.batch_shape)}, "
            f"got {tuple(q.batch_shape)}"
        ) from error
    if not _observe_the_same(p, q):
        raise ValueError(
            f"q: expected the same observed in it as in p, got {_num_observed(q)} elements where "
            f"p has {_num_observed(p)}, or other values"
        )
    with _evaluating(p, q):
        if _is_summed(p, num_samples):
            return _sum(p, lambda x, log_prob: log_prob - q.log_prob(x))
        if isinstance(q, AutoregressiveDistribution) and _is_one_chain(p, q):
            return _estimate(
                p, num_samples, lambda own, x: (own.by_block(_divergence, _Pass(q, x)), None)
            )
        return _estimate(p, num_samples, lambda own, x: (own.log_prob(), -q.log_prob(x)))


def _exact_kl(p: AutoregressiveDistribution, q: Distribution) -> Tensor:
    """The divergence as torch's `kl_divergence` gives it, and Pyro's `TraceMeanField_ELBO`."""
    if not _is_summed(p, None):
        raise NotImplementedError(
            f"kl_divergence: exact only where all events are enumerated, which {p} does not do; "
            f"ardist.information.kl_divergence estimates it"
        )
    return kl_divergence(p, q).value


register_kl(AutoregressiveDistribution, Distribution)(_exact_kl)


class _Pass:
    """The conditionals of a joint at events (*lead, *event_shape), from one parallel pass."""

    def __init__(self, p: AutoregressiveDistribution, x: Tensor) -> None:
        fac = self.factorization = p.factorization
        x = p.checked(x)
        lead = x.shape[: x.dim() - len(p.event_shape)]
        blocks, batch = fac.split(x), p.batch_of(x)
        params = batch.unflatten(p.bound.with_params(teacher_forced_params, batch, x)[1])
        self.values = blocks.reshape(prod(lead), *fac.layout.value_shape)
        self.params = params.reshape(prod(lead), *fac.layout.param_shape)
        ranks = fac.ranks.flatten() if p.ranks is None else p.ranks
        self.ranks = ranks.to(params.device).expand(*lead, fac.num_blocks)
        self.certain = torch.zeros_like(self.ranks, dtype=torch.bool)  # observed or after an end
        if fac.rule is not None:
            self.certain = fac.rule.ended(blocks, self.ranks)
        if p.evidence is not None:
            if (block := p.partial_block) is not None:
                raise ValueError(f"p: expected no block observed in part, got {block}")
            mask = fac.split(p.evidence[1])
            self.certain = self.certain | fac.layout.whole(mask)

    def log_prob(self) -> Tensor:
        """Of each block: (*lead, num_blocks)."""
        return self._outer(self.factorization.layout.log_prob(self.params, self.values))

    def by_block(self, function: Callable[..., Tensor], *others: "_Pass") -> Tensor:
        """A function of each conditional, and of those of `others`: (*lead, num_blocks).

        It is called with family, params (rows, blocks, num_params) and values of each pass in
        turn, for all blocks that have the same families.
        """
        passes = (self, *others)
        groups: dict[tuple[Family, ...], list[int]] = {}
        families = zip(*(each.factorization.layout.families for each in passes), strict=True)
        for block, key in enumerate(families):
            groups.setdefault(key, []).append(block)
        found = [
            function(*(part for each in passes for part in each._of(blocks)))
            for blocks in groups.values()
        ]
        order = torch.tensor([block for blocks in groups.values() for block in blocks])
        return self._outer(torch.cat(found, 1)[:, order.argsort()])

    def _of(self, blocks: Sequence[int]) -> tuple[Family, Tensor, Tensor]:
        layout = self.factorization.layout
        family, shape = layout.families[blocks[0]], (self.params.shape[0], len(blocks))
        params = layout.gather_blocks("param", self.params, blocks).reshape(
            *shape, family.num_params
        )
        values = layout.gather_blocks("value", self.values, blocks).reshape(
            *shape, *family.event_shape
        )
        return family, params, values

    def _outer(self, each: Tensor) -> Tensor:
        return each.reshape(self.certain.shape).masked_fill(self.certain, 0.0)


def _entropy(family: Family, params: Tensor, values: Tensor) -> Tensor:
    conditional = family(params)
    if isinstance(conditional, AutoregressiveDistribution):
        return _Pass(conditional, values).by_block(_entropy).sum(-1)
    try:
        return conditional.entropy()
    except NotImplementedError:
        return -family.log_prob(params, values)


def _divergence(
    family: Family, params: Tensor, values: Tensor, other: Family, others: Tensor, same: Tensor
) -> Tensor:
    p, q = family(params), other(others)
    if (
        isinstance(p, AutoregressiveDistribution)
        and isinstance(q, AutoregressiveDistribution)
        and _is_one_chain(p, q)
    ):
        return _Pass(p, values).by_block(_divergence, _Pass(q, same)).sum(-1)
    try:
        return _analytic(p, q)
    except NotImplementedError:
        return family.log_prob(params, values) - other.log_prob(others, same)


def _analytic(p: Distribution, q: Distribution) -> Tensor:
    """KL(p || q), or a NotImplementedError."""
    if isinstance(p, Independent) and isinstance(q, Independent):
        dims = p.reinterpreted_batch_ndims
        if dims == q.reinterpreted_batch_ndims:
            return _analytic(p.base_dist, q.base_dist).sum(tuple(range(-dims, 0)))
    first, second = _log_probs(p), _log_probs(q)
    if first is None or second is None or first.shape[-1] != second.shape[-1]:
        result: Tensor = analytic_kl(p, q)
        return result
    # torch's is infinite where a probability rounds to 0 or 1, as a sigmoid of 17 does, and its
    # gradient has NaN where one is 0.
    possible = first > -torch.inf
    gap = torch.where(possible, first, 0.0) - torch.where(possible, second, 0.0)
    return _expected(first, gap).sum(-1)


def _expected(log_prob: Tensor, nats: Tensor) -> Tensor:
    """Terms of an expectation: infinite, and without a gradient, where nats are infinite, even
    where the probability rounds to 0.
    """
    infinite = nats == torch.inf
    terms = log_prob.exp() * nats.masked_fill(infinite, 0.0)
    return terms.masked_fill(infinite, torch.inf)


def _log_probs(p: Distribution) -> Tensor | None:
    """Of the states of a finite distribution, (..., num_states), where torch has a class for it."""
    if isinstance(p, Bernoulli):
        return torch.stack((F.logsigmoid(-p.logits), F.logsigmoid(p.logits)), -1)
    return p.logits if isinstance(p, Categorical | OneHotCategorical) else None


def _estimate(
    p: AutoregressiveDistribution,
    num_samples: int | None,
    shares: Callable[[_Pass, Tensor], tuple[Tensor, Tensor | None]],
) -> Estimate:
    """The mean over draws of the sum of each block's share and, it may be, of one of the event."""
    count = num_samples or _NUM_SAMPLES
    if prod(p.batch_shape) == 0:
        nothing = p.log_prob(p.sample())
        return Estimate(nothing, nothing.detach())
    # A chain of both kinds of blocks has its gradient by scores alone.
    pathwise = torch.is_grad_enabled() and p.has_rsample and p.factorization.has_rsample
    x = p.rsample((count,)) if pathwise else p.sample((count,))
    own = _Pass(p, x)
    each, rest = shares(own, x)
    total = each.sum(-1) if rest is None else each.sum(-1) + rest
    value = total.mean(0)
    variance = (total - value).detach().square().sum(0) / (count - 1)
    variance = variance.masked_fill(value == torch.inf, torch.inf)
    if total.requires_grad and not pathwise:
        with torch.no_grad():
            reward = _from_here_on(each, own.ranks)
            reward = reward if rest is None else reward + rest.unsqueeze(-1)
            # less the mean over the other draws: n / (n - 1) of what it is less the mean
            advantage = (reward - reward.mean(0)) / (count - 1)
            advantage = advantage.masked_fill(~advantage.isfinite(), 0.0)  # infinity has no slope
        score = (advantage * own.log_prob()).sum((0, -1))
        value = value + score - score.detach()
    return Estimate(value, (variance / count).sqrt())


def _from_here_on(each: Tensor, ranks: Tensor) -> Tensor:
    """For each block the sum over those that are not drawn before it."""
    ordered, order = ranks.sort(-1)
    sums = each.gather(-1, order).flip(-1).cumsum(-1).flip(-1)
    first = torch.searchsorted(ordered, ranks.contiguous())  # of those drawn in one step
    return sums.gather(-1, first)


def _sum(p: AutoregressiveDistribution, nats: Callable[[Tensor, Tensor], Tensor]) -> Estimate:
    """The expectation under p of a function of events and their log_prob, over all events."""
    x = p.enumerate_support(expand=False)
    log_prob = p.log_prob(x)
    possible = log_prob > -torch.inf
    log_prob = torch.where(possible, log_prob, 0.0)
    each = torch.where(possible, nats(x, log_prob), 0.0)
    value = _expected(log_prob, each).sum(0)
    return Estimate(value, torch.zeros_like(value))


def _is_summed(p: AutoregressiveDistribution, num_samples: int | None) -> bool:
    # Where sequences end in orders of their own, rows do not have the same events.
    same_events = p.factorization.end is None or p.ranks is None
    return num_samples is None and p.has_enumerate_support and same_events


def _is_one_chain(p: AutoregressiveDistribution, q: AutoregressiveDistribution) -> bool:
    """Whether both have the same blocks, and no block of q depends on one that p draws later."""
    mine, theirs = p.factorization, q.factorization
    shapes = [[f.event_shape for f in fac.layout.families] for fac in (mine, theirs)]
    if (
        shapes[0] != shapes[1]
        or (mine.end, mine.pad) != (theirs.end, theirs.pad)
        or not torch.equal(mine.blocks.elements, theirs.blocks.elements)
    ):
        return False
    ranks = mine.ranks.flatten() if p.ranks is None else p.ranks.cpu()
    if q.ranks is None:
        depends = theirs.dependencies
    else:
        depends = q.ranks.cpu().unsqueeze(-1) > q.ranks.cpu().unsqueeze(-2)
    return not bool((depends & (ranks.unsqueeze(-2) > ranks.unsqueeze(-1))).any())


def _observe_the_same(p: AutoregressiveDistribution, q: Distribution) -> bool:
    mine = p.evidence
    theirs = q.evidence if isinstance(q, AutoregressiveDistribution) else None
    if mine is None or theirs is None:
        return mine is theirs
    (value, mask), (other, others) = mine, theirs
    return bool(((mask == others) & ((value == other) | ~mask)).all())


def _num_observed(p: Distribution) -> int:
    observed = p.evidence if isinstance(p, AutoregressiveDistribution) else None
    return 0 if observed is None else int(observed[1].sum())


def _check(p: AutoregressiveDistribution, num_samples: int | None) -> None:
    check_type(p, AutoregressiveDistribution, "p")
    if num_samples is not None:
        as_integer(num_samples, "num_samples", 2)


@contextmanager
def _evaluating(*distributions: Distribution) -> Iterator[None]:
    """Without dropout, as draws are."""
    with ExitStack() as stack:
        for p in distributions:
            if isinstance(p, AutoregressiveDistribution):
                stack.enter_context(p.bound.unwrapped.eval_mode())
        yield


# Calibration.


@dataclass(frozen=True, eq=False)
class Calibration:
    """How well conditionals fit data, block by block; made by `calibration`.

    Attributes:
        pit: the probability integral transform of each block of each event, (N, num_blocks):
            uniform where the model is right. NaN for blocks without a CDF, and for those that
            are observed or after an end.
        statistic: of Kolmogorov and Smirnov, for each block: the largest distance between the
            distribution function of its pit and that of the uniform.
        p_value: how probable so large a statistic is under a right model, for each block, by the
            asymptotic series with Stephens' correction (1970) for few events.
        blocks: what they are called.

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
        """Draws histograms of the pit; broken lines hold 95 % of a right model's bars.

        Args:
            axes: where to draw, one block each: those of the smallest p-values, if there are
                fewer axes than blocks. A new figure of at most 12 by default.

        Returns:
            The axes.

        Raises:
            ImportError: without matplotlib.
        """
        try:
            import matplotlib.axes
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise ImportError(
                "Calibration.plot needs matplotlib: pip install 'ardist[examples]'"
            ) from error
        tested = [block for block, p in enumerate(self.p_value.tolist()) if p == p]
        if axes is None:
            count = min(len(tested), 12)
            rows = ceil(count / 4)
            columns = ceil(count / rows)
            figure = plt.figure(figsize=(2.6 * columns, 2.1 * rows), layout="constrained")
            axes = [figure.add_subplot(rows, columns, 1 + at) for at in range(count)]
        axes = axes.tolist() if hasattr(axes, "tolist") else axes  # an array, as of plt.subplots
        if not is_sequence(axes):
            raise ValueError(f"axes: expected a sequence of them, got {described(axes)}")
        for ax in axes:
            check_type(ax, matplotlib.axes.Axes, "axes")
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
    """Tests each block's conditionals against data, by the probability integral transform.

    The CDF of a block given those before it, at the value that it has, is uniform where the model
    is right. For a discrete block it is drawn uniformly between the CDF below the value and at it.
    Data that the model was trained on pass too easily.

    Args:
        p: the distribution.
        x: events, (*lead, *event_shape), whose lead broadcasts with batch_shape; together they
            are the N rows of the result.

    Raises:
        ValueError: where no block has a CDF, or one is observed in part.

    >>> import torch, ardist as ad
    >>> _ = torch.manual_seed(0)
    >>> net = ad.networks.MADE(ad.Factorization(3, ad.families.Normal()), hidden_features=8)
    >>> p = net.condition()
    >>> ad.information.calibration(p, p.sample((500,))).p_value > 0.01
    tensor([True, True, True])
    >>> ad.information.calibration(p, 2 * p.sample((500,))).p_value > 0.01
    tensor([False, False, False])
    """
    _check(p, None)
    fac = p.factorization
    if not any(family.has_cdf for family in fac.layout.distinct):
        raise ValueError(f"p: expected blocks with a CDF, got {fac.layout.distinct}")
    x = p.checked(x, "x")
    lead = torch.broadcast_shapes(x.shape[: x.dim() - len(p.event_shape)], p.batch_shape)
    with _evaluating(p):
        own = _Pass(p, x.expand(*lead, *p.event_shape))
        pit = own.by_block(_pit).masked_fill(own.certain, torch.nan).flatten(0, -2)
    statistic, p_value = _kolmogorov_smirnov(pit)
    names = tuple(fac.block_name(block) for block in range(fac.num_blocks))
    return Calibration(pit, statistic, p_value, names)


def _pit(family: Family, params: Tensor, values: Tensor) -> Tensor:
    if not family.has_cdf:
        return params.new_full(params.shape[:-1], torch.nan)
    pit = family.cdf(params, values)
    if family.support.is_discrete:
        pit = pit - torch.rand_like(pit) * family.log_prob(params, values).exp()
    return pit.clamp(0, 1)


def _kolmogorov_smirnov(pit: Tensor) -> tuple[Tensor, Tensor]:
    """Of each column (N, columns), without its NaN: the statistic and its p-value."""
    count = (~pit.isnan()).sum(0)
    ordered = pit.sort(0).values  # NaN last
    at = torch.arange(pit.shape[0], device=pit.device).unsqueeze(-1)
    apart = torch.maximum((at + 1) / count - ordered, ordered - at / count)
    apart = F.pad(apart.masked_fill(at >= count, -torch.inf), (0, 0, 0, 1), value=-torch.inf)
    statistic = apart.amax(0)
    statistic = statistic.masked_fill(count == 0, torch.nan)
    root = count.sqrt()
    # Below 0.1 the series is slow, and its sum is 1.
    scaled = (statistic * (root + 0.12 + 0.11 / root)).clamp(min=0.1)
    terms = torch.arange(1, 51, device=pit.device).unsqueeze(-1)
    series = -2 * (-1.0) ** terms * (-2 * (terms * scaled).square()).exp()
    return statistic, series.sum(0).clamp(0, 1)
