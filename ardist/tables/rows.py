"""The density of rows by a trained network: scores, conditionals and draws of their blocks."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ardist.conditioning import observed_first
from ardist.distribution import AutoregressiveDistribution
from ardist.factorization import Factorization
from ardist.networks.base import ConditionalNetwork
from ardist.rules import Within
from ardist.sampling import Particles, smc
from ardist.shapes import described
from ardist.tables.columns import Column, Levels, inward, plain
from ardist.tables.events import Events

_PASSES = 2**16  # in one batch, one for each row and block
_DRAWN = 4096  # rows that are drawn at once, block after block
_ROWS_OF_A_PATTERN = 16  # on average, at least, to draw one pattern of missing cells at a time
_QUANTILES = 64  # among which the mode of numbers is searched
_SEARCHED = 2048  # rows at once, so that their quantiles stay in the processor's caches


@dataclass(frozen=True)
class Rows:
    """Queries to a network about rows (rows, blocks), whose unknown blocks are NaN."""

    network: ConditionalNetwork
    events: Events

    @property
    def joint(self) -> AutoregressiveDistribution:
        """The joint distribution of all blocks.

        Values outside the support score -inf, since other tables may contain them.
        """
        return self._joint(self.network.factorization)

    def _joint(self, factorization: Factorization) -> AutoregressiveDistribution:
        return self.network.condition(
            factorization=factorization, nan_policy="marginalize", validate_args=False
        )

    @staticmethod
    def _batches(rows: Tensor) -> Iterator[Tensor]:
        return iter(rows.split(max(1, _PASSES // rows.shape[1])))

    @torch.no_grad()
    def scores(self, rows: Tensor) -> np.ndarray:
        """The log-likelihood of each block in nats, (rows, blocks) float64; 0 if it is unknown."""
        check_unknown(self.network, rows)
        scores = [self.joint.log_prob_blocks(part) for part in self._batches(rows)]
        return torch.cat(scores).double().numpy()

    def params(self, rows: Tensor, blocks: Sequence[int]) -> dict[int, Tensor]:
        """The parameters of some blocks, each given the known blocks of its row."""
        parts = [self._params(part, blocks) for part in self._batches(rows)]
        return {block: torch.cat([part[block] for part in parts]) for block in blocks}

    @torch.no_grad()
    def _params(self, rows: Tensor, blocks: Sequence[int]) -> dict[int, Tensor]:
        joint, known = self.joint, ~rows.isnan()
        values = torch.where(known, rows, joint.bound.placeholder)
        if self.network.has_masks:
            batch = joint.batch_of(values)
            params = batch.bound.forward(batch.blocks(values), observed=known)
            return {block: self._of(params, block) for block in blocks}
        found = {}
        for block in blocks:
            stage = 2 * (~known).long()
            stage[:, block] = 1
            batch = _in_order(joint, stage).batch_of(values)
            found[block] = self._of(batch.forward(batch.blocks(values)), block)
        return found

    def _of(self, params: Tensor, block: int) -> Tensor:
        """The parameters of one block, (rows, num_params)."""
        layout = self.network.factorization.layout
        return layout.gather_blocks("param", params, [block]).flatten(1)

    def fill(self, rows: Tensor, method: str) -> Tensor:
        """Rows whose unknown cells are the median or the mode given the known cells."""
        start, holes, filled = len(self.events.flagged), rows.isnan(), rows.clone()
        blocks = holes.any(0)[start:].nonzero().flatten().add(start).tolist()
        for block, params in self.params(rows, blocks).items():
            column, hole = self.events.schema.columns[block - start], holes[:, block]
            parts = [_point_of(column, part, method) for part in params[hole].split(_SEARCHED)]
            filled[hole, block] = torch.cat(parts).to(rows.dtype)
        return filled

    def draw(self, rows: Tensor, *, is_listed: bool = False) -> Tensor:
        """Rows whose unknown blocks are drawn.

        Args:
            rows: (rows, blocks).
            is_listed: whether drawn cells have listed values, and are never missing.
        """
        joint = self._joint(self.events.listed if is_listed else self.events.drawn)
        count = 0 if is_listed else len(self.events.flagged)
        return torch.cat([self._draw(joint, part, count) for part in rows.split(_DRAWN)])

    def _draw(self, joint: AutoregressiveDistribution, rows: Tensor, count: int) -> Tensor:
        """Rows whose unknown blocks are drawn. The first `count` blocks are flags."""
        last = torch.zeros(rows.shape, dtype=torch.bool)
        if count:
            flags = self._complete(joint, rows, last)[:, :count]
            rows = torch.cat((flags, rows[:, count:]), 1)
            last[:, [count + place for place in self.events.flagged]] = flags > 0
        return self._complete(joint, rows, last)

    @torch.no_grad()
    def _complete(self, joint: AutoregressiveDistribution, rows: Tensor, last: Tensor) -> Tensor:
        """Rows whose unknown blocks are drawn. Those in `last` come last, and affect no others."""
        known = ~rows.isnan()
        values = torch.where(known, rows, joint.bound.placeholder)
        stage = torch.where(known, 0, 1 + last.long())
        patterns, owner = _distinct(stage)
        if patterns.shape[0] * _ROWS_OF_A_PATTERN > rows.shape[0]:  # each row has its own order
            parts = zip(*map(self._batches, (stage, values, known)), strict=True)
            each = [_in_order(joint, part).given(*given).sample() for part, *given in parts]
            return torch.cat(each).to(rows.dtype)
        drawn = torch.empty_like(rows)
        for number, pattern in enumerate(patterns.unbind()):
            part = owner == number
            p = _in_order(joint, pattern).given(values[part], known[part])
            drawn[part] = p.sample().to(rows.dtype)
        return drawn

    def probability(self, row: Tensor, where: Mapping[str, Any], count: int) -> float:
        """The probability that one row (blocks) is within limits, by a number of particles."""
        row, rules = self._rules(row, where)
        return float(self._particles(row, rules, count).log_prob.exp()) if rules else 1.0

    def limited(self, row: Tensor, where: Mapping[str, Any], count: int, least: int) -> Tensor:
        """Rows (count, blocks) with the known blocks, and draws of the columns that are limited.

        If the network has one order, they also have draws of the columns before a limited column,
        since later draws cannot condition on it without them.

        Args:
            row: the known blocks.
            where: limits by name.
            count: the number of rows.
            least: the least number of particles.
        """
        row, rules = self._rules(row, where)
        rows, blocks = row.repeat(count, 1), list(map(self.events.block, rules))
        if rules:
            found = self._particles(row, rules, max(count, least))
            weights = found.log_weight.softmax(0)
            chosen = found.value[weights.multinomial(count, replacement=count > 1)]
            if not self.network.has_row_orders:
                ranks = self.network.factorization.ranks.flatten()
                blocks = (ranks <= ranks[blocks].max()).nonzero().flatten().tolist()
            rows[:, blocks] = chosen[:, blocks].to(rows.dtype)
        return rows

    def _particles(self, row: Tensor, rules: Mapping[str, Any], count: int) -> Particles:
        """Weighted draws of the unknown blocks of one row."""
        known = ~row.isnan()
        joint = _in_order(self._joint(self.events.drawn), (~known).long())
        p = joint.given(torch.where(known, row, joint.bound.placeholder), known)
        return smc(p, Within(rules), count)

    def _rules(self, row: Tensor, where: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """The row, with flags that limited cells are not missing, and limits of unknown cells.

        Raises:
            ValueError: if a known cell is not within its limits.
        """
        if not isinstance(where, Mapping) or not where:
            raise ValueError(f"where: expected limits by name, got {described(where)}")
        row, rules = row.clone(), dict[str, Any]()
        for name, given in where.items():
            column, code = self.events.column(name), row[self.events.block(name)]
            allowed = column.within(given)
            if code.isnan():
                rules[name] = inward(*allowed) if isinstance(allowed, tuple) else allowed
            elif not _holds(allowed, float(code)):
                value = plain(column.decode(np.array([float(code)])).iloc[0])
                raise ValueError(
                    f"where: expected limits of {name!r} that its given value {value!r} is within, "
                    f"got {described(given)}"
                )
            if (flag := self.events.flag(name)) is not None:
                row[flag] = 0.0
        return row, rules


def _in_order(joint: AutoregressiveDistribution, stage: Tensor) -> AutoregressiveDistribution:
    """The joint in an order by stages. Blocks of one stage keep their order.

    Args:
        joint: the distribution.
        stage: the stage of each block, (blocks) or (rows, blocks) int64.
    """
    own = joint.factorization.ranks.flatten()
    ranks = (stage * own.shape[0] + own).argsort(-1).argsort(-1)
    if (ranks == own).all():
        return joint
    _check_any_order(joint.bound.unwrapped, "to condition on later columns")
    return joint.with_ordering(ranks)


def check_unknown(network: ConditionalNetwork, rows: Tensor) -> None:
    """Raises a `ValueError` if the network cannot integrate out the unknown blocks of rows."""
    if observed_first(network.factorization, None, ~rows.isnan()) is not None:
        purpose = "to integrate out missing cells, or columns that a marginal lacks, before others"
        _check_any_order(network, purpose)


def _check_any_order(network: torch.nn.Module, purpose: str) -> None:
    if not getattr(network, "has_row_orders", False):
        raise ValueError(
            f"network: expected one that follows any order, such as 'masked', {purpose}, got "
            f"{type(network).__name__}"
        )


def _distinct(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct rows of small integers (rows, n), and the index of each row among them."""
    keys = rows.to(torch.uint8).numpy().view(f"V{rows.shape[1]}").ravel()
    _, first, owner = np.unique(keys, return_index=True, return_inverse=True)
    return rows[torch.from_numpy(first)], torch.from_numpy(owner)


def _point_of(column: Column, params: Tensor, method: str) -> Tensor:
    """The codes of the median or mode among listed values, (rows,)."""
    if method == "median" and column.is_ordered:
        return column.listed.icdf(params, torch.tensor(0.5))
    family, params = column.listed, params.unsqueeze(1)
    if isinstance(column, Levels):
        candidates = torch.arange(float(len(column.levels))).expand(params.shape[0], -1)
    else:
        middles = (torch.arange(_QUANTILES) + 0.5) / _QUANTILES
        candidates = family.icdf(params, middles)  # (rows, quantiles)
    scores = family.log_prob(params, candidates)
    mass = family.mass(params, candidates)
    # A point with less than half of the probability may still exceed a density, in other units.
    if not column.family.support.is_discrete or (mass == 0).any():
        scores = torch.where(mass > 0, torch.where(mass > 0.5, math.inf, -math.inf), scores)
    best = scores.argmax(1, keepdim=True)
    return candidates.gather(1, best).squeeze(1)


def _holds(allowed: set[float] | tuple[float, float], code: float) -> bool:
    """Whether a code in float32 is allowed."""
    if isinstance(allowed, set):
        return code in allowed
    low, high = map(np.float32, allowed)
    return bool(low <= code <= high)
