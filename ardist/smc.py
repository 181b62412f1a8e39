"""Sequential Monte Carlo: a distribution conditioned on a rule."""

import math
import warnings
from typing import NamedTuple

import torch
from torch import Size, Tensor

from ardist.batch import Batch
from ardist.distribution import AutoregressiveDistribution
from ardist.factorization import Factorization
from ardist.families.guards import at_least_single
from ardist.families.restricted import AsItIs
from ardist.restriction import Restriction
from ardist.rollout import Step, rollout_by_steps
from ardist.rows import repeat_rows
from ardist.rules.base import At, Rule, map_state
from ardist.shapes import as_positive, as_share, check_type

_LEAST_SHARE = 0.1  # of the particles, as an effective sample size
_LEAST_LOG_PROB = -30.0


class Particles(NamedTuple):
    """Weighted draws of a distribution given a rule, from `smc`.

    A mean over the particles with the weights `log_weight.softmax(0)` estimates the expectation
    under the distribution given the rule. `str` describes the result, and says if it cannot be
    trusted.

    Attributes:
        value: (num_particles, *batch_shape, *event_shape).
        log_weight: (num_particles, *batch_shape), in nats.
        log_prob: the estimated log probability of the rule in nats, batch_shape: the logarithm of
            the mean weight. Its exponential is an unbiased estimate. If the rule has potentials,
            the estimate is of the expectation of their product, which is 0 for events that violate
            the rule.
        ess: the smallest effective sample size of all steps, before resampling, batch_shape.

    >>> import torch, ardist as ad
    >>> net = ad.networks.Markov(ad.Factorization(4, ad.families.Bernoulli()), hidden_features=())
    >>> particles = ad.sampling.smc(net.condition(), ad.rules.Sum(2), 100)
    >>> particles.value.sum(-1).unique(), particles.problem
    (tensor([2.]), None)
    """

    value: Tensor
    log_weight: Tensor
    log_prob: Tensor
    ess: Tensor

    @property
    def problem(self) -> str | None:
        """Why the result cannot be trusted, or None if no reason is known.

        The result cannot be trusted if the effective sample size is under 10 % of the number of
        particles, or the log probability of the rule is under -30 nats.
        """
        count = self.log_weight.shape[0]
        few, unlikely = self.ess < _LEAST_SHARE * count, self.log_prob < _LEAST_LOG_PROB
        found = []
        if few.any():
            found.append(
                f"the effective sample size fell to {float(self.ess.min()):.3g} of {count} "
                f"particles{_share(few)}; use more"
            )
        if unlikely.any():
            found.append(
                f"the rule has an estimated log probability of {float(self.log_prob.min()):.4g} "
                f"nats{_share(unlikely)}, and conditionals are unreliable for such rare events"
            )
        return f"the particles cannot be trusted: {', and '.join(found)}" if found else None

    def __str__(self) -> str:
        lead, least = tuple(self.log_prob.shape), " at least" if self.log_prob.dim() else ""
        text = f"{self.log_weight.shape[0]} particles{f' for each of {lead} rows' if lead else ''}"
        if self.ess.numel() == 0:
            return text
        text += f": log probability of the rule{least} {float(self.log_prob.min()):.4g} nats, "
        text += f"effective sample size{least} {float(self.ess.min()):.4g}"
        return text if self.problem is None else f"{text}; {self.problem}"


def _share(rows: Tensor) -> str:
    return f" in {int(rows.sum())} of {rows.numel()} rows" if rows.dim() else ""


def smc(
    p: AutoregressiveDistribution,
    rule: Rule,
    num_particles: int,
    *,
    threshold: float = 0.5,
) -> Particles:
    """Draws weighted samples of p conditioned on a rule, by sequential Monte Carlo.

    `p.with_rule(rule)` renormalizes each conditional. This differs from p given that the rule
    holds: a prefix keeps its probability, even if hardly any of its continuations follow the rule.
    `smc` draws each block from the restricted conditional, and multiplies the weight of the
    particle by the probability of the allowed values under the unrestricted conditional. Particles
    of low weight are replaced by copies of other particles (Gordon, Salmond and Smith 1993, "Novel
    approach to nonlinear/non-Gaussian Bayesian state estimation"; Del Moral 2004, "Feynman-Kac
    formulae").

    If the rule limits only some columns, independently of their order, and the network supports an
    order that puts these columns first, as `Transformer` and `Masked` do, then that order is used.
    The other columns then have no effect on the weights. As with `p.given`, another order of an
    any-order network is another joint distribution.

    The rule may have dead ends: prefixes that it allows but that no event continues, as in `All`
    of rules that limit the same blocks. Such particles get a weight of zero. `Rule.log_potential`
    is added to the log weight after each step.

    Args:
        p: the distribution. It may have evidence (`p.given`) and a rule of its own, and both hold
            for the particles as well.
        rule: intervals and sets of values by `Within`, a pattern, a sum, or a rule of your own.
        num_particles: the number of particles for each row of the batch.
        threshold: resample if the effective sample size is under this share of the particles,
            from 0 (never) to 1.

    Returns:
        the particles, their weights, and the estimated probability of the rule. A warning says if
        they cannot be trusted, as `Particles.problem` does.

    Raises:
        ValueError: if the rule does not suit the blocks, a block is observed in part, or the rule
            fixes a continuous block to a number, which has probability zero: use `p.given`.

    >>> import torch, ardist as ad
    >>> _ = torch.manual_seed(0)
    >>> fac = ad.Factorization.columns(age=ad.families.Normal(), job=ad.families.Categorical(3))
    >>> p = ad.networks.MADE(fac, hidden_features=(8,)).condition()
    >>> found = ad.sampling.smc(p, ad.rules.Within(age=(0.5, None), job={0, 2}), 1000)
    >>> found.value.shape, bool((found.value[:, 0] >= 0.5).all())
    (torch.Size([1000, 2]), True)
    >>> print(found)
    1000 particles: log probability of the rule -2.021 nats, effective sample size 1000
    """
    check_type(p, AutoregressiveDistribution, "p")
    check_type(rule, Rule, "rule")
    count = as_positive(num_particles, "num_particles")
    share = as_share(threshold, "threshold")
    if (block := p.partial_block) is not None:
        raise ValueError(f"p: expected no block observed in part, got {block}")
    p = _limited_first(p, rule)
    sampler = _Sampler(p.batch(Size((count, *p.batch_shape))), rule, share)
    with torch.no_grad(), p.bound.eval_mode():
        found: Particles = p.bound.with_params(sampler.run)
    if found.problem is not None:
        warnings.warn(f"smc: {found.problem}", stacklevel=2)
    return found


def _bound(rule: Rule, factorization: Factorization) -> Rule:
    with torch.device("cpu"):  # where factorizations and the tables of rules are
        return rule.bind(factorization, loose=True)


def _limited_first(p: AutoregressiveDistribution, rule: Rule) -> AutoregressiveDistribution:
    """p in the order that puts the blocks that a rule limits first, if the network supports it and
    the same events follow the rule in any order.
    """
    fac, plain = p.factorization, _without_rule(p.factorization)
    bound = _bound(rule, plain)
    families = enumerate(plain.layout.families)
    limited = [bound.restricted(family, block) is not None for block, family in families]
    if bound.depends_on_order or all(limited):
        return p
    blocks = fac.layout.expand_to_elements(torch.tensor(limited, device=p.bound.reference.device))
    try:
        first = p.with_next(fac.merge(blocks))
        _bound(rule, _without_rule(first.factorization))
    except ValueError:  # the network has one order, or the rule needs another one
        return p
    return first


class _Sampler:
    """A run: the state of the rule and the weight of each particle, next to the rollout of p."""

    def __init__(self, batch: Batch, rule: Rule, threshold: float) -> None:
        self.batch, self.threshold = batch, threshold
        self.rollout, plain = rollout_by_steps(batch), _without_rule(batch.factorization)
        self.restriction = Restriction(_bound(rule, plain), plain)
        if batch.ranks is not None and self.restriction.layout.flat:
            raise ValueError(
                f"p: expected one order for all rows, since {rule!r} limits some blocks, got "
                f"ranks of shape {tuple(batch.ranks.shape)}"
            )
        reference = batch.bound.reference
        self.contexts = batch.contexts_for(self.restriction)
        self.state = self.restriction.rule.start(batch.num_rows, self.contexts, reference)
        # In half precision the squares of the shares of many particles would be zero.
        dtype = at_least_single(reference.dtype)
        self.log_weight = reference.new_zeros(batch.lead, dtype=dtype)  # (particles, *batch_shape)
        self.ess = reference.new_full(batch.lead[1:], batch.lead[0], dtype=dtype)

    def at(self, index: int) -> At:
        """The places of the blocks of a step."""
        order = None if self.batch.ranks is None else self.batch.order.values.order
        return self.restriction.at(index, index + 1, order)

    def run(self) -> Particles:
        rollout = self.rollout
        steps = iter(rollout)
        self.follow_drawn(0, rollout.num_prefilled)
        for step in steps:
            self.follow(step.index, step.accept(self.draw(step)))
        self.follow_drawn(rollout.num_taken, rollout.num_steps)
        if self.batch.evidence is not None or rollout.num_taken < rollout.num_steps:
            self.drop_outside(rollout.drawn)
        self.measure()
        log_prob = self.log_weight.logsumexp(0) - math.log(self.log_weight.shape[0])
        return Particles(rollout.events(), self.log_weight, log_prob, self.ess)

    def draw(self, step: Step) -> Tensor:
        """The blocks of a step, drawn within the rule after weighting and resampling."""
        restriction, at = self.restriction, self.at(step.index)
        before = restriction.before(self.state, None, at)
        limits = restriction.limits_of(before, at, self.batch.bound.reference)
        log_mass = restriction.log_mass(step.params, limits, at)  # (rows, blocks)
        evidence = self.rollout.evidence_of(step.index, step.stop)
        if evidence is not None:
            observed = step.layout.whole(repeat_rows(evidence[1], self.batch.num_rows))
            log_mass = log_mass.masked_fill(observed, 0.0)
        lost = log_mass.isnan()  # the mass of an interval whose ends are in the wrong order
        self.weigh(log_mass.masked_fill(lost, -torch.inf).sum(-1))
        if (rows := self.resample(self.measure())) is not None:
            step.select(rows)
            limits = limits.index_select(0, rows)
            self.state = map_state(lambda part: part.index_select(0, rows), self.state)
        layout = restriction.order.step_layouts[step.index]
        drawn = layout.sample(restriction.restrict(step.params, limits, at))
        dead = self.batch.flatten(self.log_weight == -torch.inf, Size())
        if not dead.any():
            return drawn
        # Dead particles continue under the rule of p alone, which need not allow a constant.
        free = step.layout.sample(step.params)
        return torch.where(dead.reshape(-1, *(1,) * (drawn.dim() - 1)), free, drawn)

    def follow(self, index: int, blocks: Tensor) -> None:
        """Advances the state of the rule by the blocks of a step, and weighs by its potential."""
        at = self.at(index)
        # Observed blocks and the blocks of dead particles may break the rule.
        self.state = self.restriction.advance(self.state, blocks, at, is_allowed=False)
        potential = self.restriction.rule.log_potential(self.state, at)
        if potential is not None:
            self.weigh(potential)

    def follow_drawn(self, start: int, stop: int) -> None:
        """Follows the steps from `start` to `stop`, whose blocks the rollout has."""
        rollout = self.rollout
        for index in range(start, stop):
            self.follow(index, rollout.order.part(rollout.drawn, index, index + 1))

    def drop_outside(self, blocks: Tensor) -> None:
        """Gives a weight of zero to rows in which observed or certain blocks break the rule."""
        reference = self.batch.bound.reference
        limits = self.restriction.limits(blocks, self.batch.ranks, self.contexts, reference)
        inside = self.restriction.inside(blocks, limits).all(-1)
        self.weigh(torch.where(inside, 0.0, -torch.inf).to(reference))

    def weigh(self, log_factor: Tensor) -> None:
        """Multiplies the weights of rows, (rows,)."""
        self.log_weight = self.log_weight + self.batch.unflatten(log_factor)

    def measure(self) -> Tensor:
        """The effective sample sizes (Kong, Liu and Wong 1994), batch_shape."""
        shares = self.log_weight.softmax(0).nan_to_num(0.0)  # NaN if no particle is left
        squares = shares.square().sum(0)
        size = torch.where(squares > 0, 1 / squares, 0.0)
        self.ess = torch.minimum(self.ess, size)
        return size

    def resample(self, size: Tensor) -> Tensor | None:
        """The row that each row continues, or None if the effective sample sizes suffice.

        It uses systematic resampling (Kitagawa 1996), which does not change the mean weight.
        """
        count = self.log_weight.shape[0]
        uneven = (size < self.threshold * count) & (size > 0)
        if not uneven.any():
            return None
        shares = self.log_weight.double().softmax(0).nan_to_num(1 / count)
        ends = shares.reshape(count, -1).T.cumsum(-1)
        offsets = torch.rand(ends.shape[0], 1, dtype=ends.dtype, device=ends.device)
        own = torch.arange(count, device=ends.device)
        chosen = torch.searchsorted(ends / ends[:, -1:], (own + 1 - offsets) / count)
        chosen = torch.where(uneven.reshape(-1, 1), chosen, own).T  # (num_particles, batch)
        mean = self.log_weight.logsumexp(0) - math.log(count)
        self.log_weight = torch.where(uneven, mean, self.log_weight)
        rows = self.batch.unflatten(torch.arange(self.batch.num_rows, device=ends.device))
        rows = rows.reshape(count, -1).gather(0, chosen)
        return self.batch.flatten(rows.reshape(self.batch.lead), Size())


def _without_rule(factorization: Factorization) -> Factorization:
    """The factorization without its rule, whose families are the conditionals under that rule."""
    layout = factorization.conditionals
    each = [AsItIs(f) if f.enumerate_support() is not None else f for f in layout.families]
    return factorization.replace(rule=None, families=each if layout.flat else each[0])
