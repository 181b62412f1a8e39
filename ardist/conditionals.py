"""The conditionals of a distribution at given events, and functions of the conditionals."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import prod

import torch
from torch import Tensor
from torch.distributions import Distribution

from ardist.distribution import AutoregressiveDistribution
from ardist.families import Family
from ardist.scoring import teacher_forced_params
from ardist.shapes import lead_of


class Conditionals:
    """The conditionals of a distribution at events, from one parallel pass.

    Attributes:
        ranks: the rank of each block, (*lead, num_blocks).
        certain: whether each block is observed, or the rule allows only one value of it, as after
            an end: (*lead, num_blocks) bool.

    Args:
        p: the distribution.
        x: events, (*lead, *event_shape).

    Raises:
        ValueError: if x is outside the support, or a block is observed in part.
    """

    def __init__(self, p: AutoregressiveDistribution, x: Tensor) -> None:
        fac = self.factorization = p.factorization
        x = p.checked(x)
        lead = lead_of(x, p.event_shape)
        blocks, batch = fac.split(x), p.batch_of(x)
        self.layout = batch.layout
        rows, params = p.bound.with_params(teacher_forced_params, batch, x)
        self.values = blocks.reshape(prod(lead), *self.layout.value_shape)
        self.params = batch.unflatten(params).reshape(prod(lead), *self.layout.param_shape)
        ranks = fac.ranks.flatten() if p.ranks is None else p.ranks
        self.ranks = ranks.to(params.device).expand(*lead, fac.num_blocks)
        self.certain = torch.zeros_like(self.ranks, dtype=torch.bool)
        limits = batch.limits(rows)
        if batch.restriction is not None and limits is not None:
            self.certain = batch.unflatten(batch.restriction.certain(limits))
        if p.evidence is not None:
            if (block := p.partial_block) is not None:
                raise ValueError(
                    f"p: expected blocks that are observed as a whole or not at all, got {block} "
                    f"observed in part"
                )
            mask = fac.split(p.evidence[1])
            self.certain = self.certain | fac.layout.whole(mask)

    def log_prob(self) -> Tensor:
        """The log_prob of each block, in nats: (*lead, num_blocks)."""
        return self._unflatten(self.layout.log_prob(self.params, self.values))

    def by_block(self, function: Callable[..., Tensor], *others: "Conditionals") -> Tensor:
        """Applies a function to the conditionals of each block, here and in `others`.

        The function is called once for all blocks that have the same families. Its arguments are
        the family, params (rows, blocks, num_params) and values (rows, blocks, *event_shape) of
        this object, then the same three of each of the `others`.

        Returns:
            (*lead, num_blocks), with 0 for certain blocks.
        """
        every = (self, *others)
        groups: dict[tuple[Family, ...], list[int]] = {}
        families = zip(*(one.layout.families for one in every), strict=True)
        for block, key in enumerate(families):
            groups.setdefault(key, []).append(block)
        found = [
            function(*(part for one in every for part in one._of(blocks)))
            for blocks in groups.values()
        ]
        order = torch.tensor([block for blocks in groups.values() for block in blocks])
        return self._unflatten(torch.cat(found, 1)[:, order.argsort()])

    def _of(self, blocks: Sequence[int]) -> tuple[Family, Tensor, Tensor]:
        """The family, parameters and values of blocks of one family."""
        layout = self.layout
        family, shape = layout.families[blocks[0]], (self.params.shape[0], len(blocks))
        params = layout.gather_blocks("param", self.params, blocks)
        values = layout.gather_blocks("value", self.values, blocks)
        return (
            family,
            params.reshape(*shape, family.num_params),
            values.reshape((*shape, *family.event_shape)),
        )

    def _unflatten(self, each: Tensor) -> Tensor:
        """(rows, num_blocks) to (*lead, num_blocks), with 0 for certain blocks."""
        return each.reshape(self.certain.shape).masked_fill(self.certain, 0.0)


@contextmanager
def eval_mode(*distributions: Distribution) -> Iterator[None]:
    """Puts the networks of distributions in evaluation mode, without dropout, as for draws."""
    with ExitStack() as stack:
        for p in distributions:
            if isinstance(p, AutoregressiveDistribution):
                stack.enter_context(p.bound.unwrapped.eval_mode())
        yield
