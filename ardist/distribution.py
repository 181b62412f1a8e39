"""The product of conditionals as one distribution."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions.score_parts import ScoreParts
from torch import Size, Tensor, nn
from torch.distributions import Distribution, constraints

from ardist.batch import Batch
from ardist.bound_network import BoundNetwork
from ardist.conditioning import (
    Marginal,
    check_kept,
    check_mask,
    dense,
    is_ancestral,
    observed_first,
)
from ardist.constraints import RuleConstraint
from ardist.factorization import Factorization
from ardist.families import Family
from ardist.gradients import reparameterized, rsample
from ardist.ordering import Ordering
from ardist.rollout import draw
from ardist.rules.base import Rule
from ardist.scoring import score, teacher_forced_params
from ardist.shapes import (
    as_choice,
    as_flag,
    as_integers,
    as_shape,
    as_tolerance,
    check_tensor,
    expand_to_batch,
    expanded,
    holds,
    lead_of,
    leading,
    over_batch,
)

_MAX_STATES = 4096  # of an event that is enumerated
NAN_POLICIES = ("raise", "marginalize")


class AutoregressiveDistribution(dist.TorchDistribution):
    """p(x | c) = prod_i p(x_i | earlier x, c), parameterized by a conditional network.

    A cheap object: create a new one for every training step. The parameters are in the network.
    It is a torch and a Pyro distribution. `log_prob` and everything derived from it are in nats.

    Args:
        network: a conditional network, or one wrapped by `torch.compile` or DDP. The wrapper is
            called for parallel passes.
        context: the context to condition on, (*batch_shape, *network.context_shape). None if the
            network takes none; batch_shape is () then.
        factorization: replaces the network's own factorization, if the network supports it.
        params: tensors that replace the network's parameters, by name. They are inside the network
            during each computation, so no other thread may use the network at that time.
        nan_policy: "raise", or "marginalize": NaN in a value given to `log_prob` marks a missing
            element, and only the other elements are scored, as by `marginal`. Such a value is a
            floating-point tensor, even if its elements are indices.
        chunk_size: the number of blocks whose parameters `log_prob` holds at a time. The backward
            pass recomputes them. This bounds the memory for long events with many parameters per
            block, such as the logits of a large vocabulary. If families differ, the parameters of
            at least one event are held. `RNN`, `Transformer`, `WaveNet` and `PixelCNN` support it.
            By default all parameters are held.
        validate_args: whether to check values and the context; torch's default if None.

    Raises:
        ValueError: if the context, the factorization or the params do not fit the network.

    >>> import torch, ardist as ad
    >>> _ = torch.manual_seed(0)
    >>> fac = ad.Factorization((2, 3), ad.families.Bernoulli())
    >>> net = ad.networks.MADE(fac, hidden_features=(16,), context_shape=(5,))
    >>> p = net.condition(torch.zeros(7, 5))
    >>> p
    AutoregressiveDistribution(MADE, batch_shape=(7,), event_shape=(2, 3))
    >>> x = p.sample((4,))
    >>> x.shape, p.log_prob(x).shape, p.log_prob_blocks(x).shape
    (torch.Size([4, 7, 2, 3]), torch.Size([4, 7]), torch.Size([4, 7, 2, 3]))
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(
        self,
        network: nn.Module,
        context: Tensor | None = None,
        *,
        factorization: Factorization | None = None,
        params: Mapping[str, Tensor] | None = None,
        nan_policy: str = "raise",
        chunk_size: int | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.nan_policy = as_choice(nan_policy, NAN_POLICIES, "nan_policy")
        if validate_args is not None:
            as_flag(validate_args, "validate_args")
        self.bound = BoundNetwork(network, factorization, context, params, chunk_size)
        self.ranks: Tensor | None = None  # (*lead, num_blocks), if rows differ in their order
        self.evidence: tuple[Tensor, Tensor] | None = None  # values and mask (*lead, *event_shape)
        self._reset()
        super().__init__(
            self.bound.context_batch, self.factorization.event_shape, validate_args=validate_args
        )
        if self._validate_args and context is not None and not holds(context.isfinite()):
            count = int((~context.isfinite()).sum())
            raise ValueError(
                f"context: expected finite numbers, got NaN or infinity in {count} of "
                f"{context.numel()}"
            )

    def _reset(self) -> None:
        """Gives the attributes that users and Pyro may assign their default values."""
        self.has_rsample = self.factorization.has_rsample and self.partial_block is None
        self.has_enumerate_support = self._is_enumerable

    @property
    def network(self) -> nn.Module:
        """The conditional network, wrapped or not."""
        return self.bound.network

    @property
    def context(self) -> Tensor | None:
        """The context, as it was given."""
        return self.bound.context

    @property
    def factorization(self) -> Factorization:
        """The blocks, their order and their families."""
        return self.bound.factorization

    @property
    def params(self) -> Mapping[str, Tensor] | None:
        """The tensors that replace the network's parameters."""
        return self.bound.params

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """The set of possible events.

        If the blocks are continuous, `biject_to` and `transform_to` map reals onto it. Under a
        rule, they do so only for the intervals of `rules.Within`.
        """
        fac, support = self.factorization, self.factorization.support
        if isinstance(support, RuleConstraint) and self._differs_by_row:
            dims = len(fac.event_shape)
            return RuleConstraint(self._inside, dims, support.rule, support.is_discrete)
        return support

    @property
    def _differs_by_row(self) -> bool:
        """Whether rows may have different events."""
        rule = self.factorization.rule
        if rule is None:
            return False
        return rule.reads_context or (rule.depends_on_order and self.ranks is not None)

    @property
    def _is_enumerable(self) -> bool:
        """Whether all rows have the same events, at most `_MAX_STATES` of them."""
        states = self.factorization.num_states
        return states is not None and states <= _MAX_STATES and not self._differs_by_row

    @property
    def ordering(self) -> Ordering | Tensor:
        """The order of the blocks: ranks (*batch_shape, *grid_shape) if it differs by row."""
        if self.ranks is None:
            return self.factorization.ordering
        ranks = self.ranks.expand(*self.batch_shape, self.factorization.num_blocks)
        return ranks.reshape((*self.batch_shape, *self.factorization.grid_shape))

    def expand(
        self, batch_shape: Sequence[int], _instance: "AutoregressiveDistribution | None" = None
    ) -> "AutoregressiveDistribution":
        """The same distribution with a larger batch_shape, in constant time: nothing is run."""
        return expanded(self, batch_shape, _instance)

    # Rows.

    @property
    def row_shape(self) -> Size:
        """The dimensions of batch_shape along which the context, order or evidence may differ."""
        shapes = [self.bound.context_batch]
        if self.ranks is not None:
            shapes.append(self.ranks.shape[:-1])
        for part in self.evidence or ():
            shapes.append(lead_of(part, self.event_shape))
        return Size(torch.broadcast_shapes(*shapes))

    def batch(self, lead: Sequence[int]) -> Batch:
        """The rows of a computation on events with these leading dimensions."""
        return Batch(self.bound, Size(lead), self.ranks, self.evidence)

    def batch_of(self, events: Tensor) -> Batch:
        """The rows of events (*lead, *event_shape)."""
        lead = lead_of(events, self.event_shape)
        return self.batch(torch.broadcast_shapes(lead, self.row_shape))

    # Scores.

    def log_prob(self, value: Tensor) -> Tensor:
        """The log probability or density of events, in nats: sample_shape + batch_shape.

        One parallel pass scores all blocks. Dropout is active if the network is in training mode,
        while draws never use it. Call `network.eval()` before you compare scores, or use
        `sample_and_log_prob` to score draws.

        Args:
            value: (*lead, *event_shape). `lead` broadcasts with batch_shape.
        """
        return expand_to_batch(self._log_prob_blocks(value).sum(-1), self.batch_shape)

    def log_prob_blocks(self, value: Tensor) -> Tensor:
        """The log_prob of each block given the earlier blocks, in nats: (*lead, *grid_shape).

        It is 0 for blocks that are observed, or missing under `nan_policy="marginalize"`.
        """
        result = self._log_prob_blocks(value)
        lead = torch.broadcast_shapes(result.shape[:-1], self.batch_shape)
        return result.expand((*lead, -1)).reshape((*lead, *self.factorization.grid_shape))

    def _log_prob_blocks(self, value: Tensor) -> Tensor:
        if self.nan_policy == "raise" or not isinstance(value, Tensor) or not value.isnan().any():
            value = self.checked(value, follows=False)
            scores = self._score(value)
            # Under a rule the scores show whether the value follows it.
            if self._validate_args and not holds(scores > -torch.inf):
                self.checked(value)
            return scores
        self.check_value(value, "value")
        kept = ~value.isnan()
        value = torch.where(kept, value, self.bound.placeholder)
        return self.scores_of(value, kept, "value: blocks without NaN")

    def _score(self, value: Tensor, kept: Tensor | None = None) -> Tensor:
        return self.bound.with_params(score, self.batch_of(value), value, kept)

    def scores_of(
        self, value: Tensor, kept: Tensor, subject: str = "mask: blocks under it"
    ) -> Tensor:
        """The share of each block in the log_prob of the `kept` elements: (*lead, num_blocks).

        Used by families and distributions that wrap this one.

        Args:
            value: (*lead, *event_shape); elements that are not kept are inside the support.
            kept: (*event_shape) or (*lead, *event_shape) bool.
            subject: how an error begins if the kept elements cannot come first.
        """
        if self.evidence is not None:
            values, mask = self.evidence
            value = torch.where(mask & ~kept, values, value)
        first = self.with_next(kept, subject)
        value = first.checked(value, mask=kept)
        scores = first._score(value, kept)
        if (
            first.ranks is None
            or self.ranks is not None
            or not self.factorization.ordering.is_graph
        ):
            return scores
        # The order of a row cannot express a graph, and is not needed if the set is ancestral.
        mask = kept if self.evidence is None else kept | self.evidence[1]
        ancestral = is_ancestral(self.factorization, None, self.factorization.split(mask))
        return torch.where(ancestral, self._score(value, kept), scores)

    def observed_log_prob(self, value: Tensor, mask: Tensor) -> Tensor:
        """The log_prob of the elements that `given` conditions on: (*lead,).

        Used by distributions that wrap this one.

        Args:
            value: (*lead, *event_shape); elements that are not observed are ignored.
            mask: (*lead, *event_shape) bool. Elements that are already evidence contribute 0. If
                their values differ from the evidence, the result is -inf.
        """
        mask = self.checked_mask(mask)
        new = mask if self.evidence is None else mask & ~self.evidence[1]
        scores = self.scores_of(torch.where(new, value, self.bound.placeholder), new).sum(-1)
        differs = self.factorization.split(self._contradicts(value, mask))
        differs = self.factorization.layout.count(differs).any(-1)
        return scores.masked_fill(differs, -torch.inf)

    def _contradicts(self, value: Tensor, mask: Tensor) -> Tensor:
        """Whether each element under a mask is already evidence with another value."""
        if self.evidence is None:
            return torch.zeros_like(mask)
        before, seen = self.evidence
        value = value.to(before.dtype) if before.is_floating_point() else value
        return mask & seen & (value != before)

    def conditionals(
        self, value: Tensor
    ) -> Distribution | tuple[Distribution, ...] | dict[str, Distribution]:
        """The conditional of each block given the blocks before it in `value`.

        Returns:
            one distribution of batch_shape (*lead, *grid_shape) if all blocks have one family (and
            a rule restricts all of them in the same way), otherwise a tuple by block, or a dict by
            name for named columns.
        """
        value = self.checked(value)
        fac, batch = self.factorization, self.batch_of(value)
        layout = batch.layout
        params = self.bound.with_params(teacher_forced_params, batch, value)[1]
        lead = torch.broadcast_shapes(batch.lead, self.batch_shape)
        params = batch.unflatten(params).expand((*lead, *layout.param_shape))
        if not layout.flat and fac.names is None:
            family = layout.families[0]
            return family(params.reshape(*lead, *fac.grid_shape, family.num_params))
        each = layout.distributions(params)
        return each if fac.names is None else dict(zip(fac.names, each, strict=True))

    # Draws.

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Events drawn step by step from cached state: sample_shape + batch_shape + event_shape."""
        with torch.no_grad():
            lead = as_shape(sample_shape, "sample_shape") + self.batch_shape
            drawn = self.bound.with_params(draw, self.batch(lead))
        return drawn.detach()  # torch.jit.trace records no torch.no_grad

    def draws_of(self, sample_shape: Sequence[int], kept: Tensor) -> Tensor:
        """Events drawn up to the last step that has `kept` elements; later blocks are placeholders.

        Used by distributions that wrap this one.
        """
        fac = self.factorization
        ranks = fac.ranks.flatten() if self.ranks is None else self.ranks
        steps = ranks[..., fac.layout.count(fac.split(kept)).to(ranks.device) > 0]
        num_steps = int(steps.max()) + 1 if steps.numel() else 1
        lead = as_shape(sample_shape, "sample_shape") + self.batch_shape
        with torch.no_grad():
            return self.bound.with_params(draw, self.batch(lead), num_steps)

    def rsample(self, sample_shape: Sequence[int] = (), *, tol: float = 0.0) -> Tensor:
        """Events with gradients to the parameters and to the context.

        It draws the same events as `sample`. The gradient equals the gradient of plain autograd
        through the steps. Implicit differentiation computes it in the memory of one parallel pass.
        A MADE needs one reverse sweep over the steps. An RNN keeps the graph of its steps. Other
        networks iterate, with at most one backward pass for each step.

        Args:
            tol: for networks that iterate. They stop when a pass changes no entry of a row's
                gradient by more than this share of the largest entry. The gradient is then
                approximate, and its error can be large if blocks depend strongly on each other.
                0 is exact.

        Raises:
            NotImplementedError: if a family has no `rsample`, a block is observed in part, or
                under `torch.jit.trace`, as in Pyro's JitTrace_ELBO.
            RuntimeError: in a backward pass with `create_graph=True`, since a draw is
                differentiable only once.
        """
        return self._rsample(sample_shape, tol, scored=False)[0]

    def sample_and_log_prob(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """A draw and its log_prob, both from the network without dropout."""
        x = self.sample(sample_shape)
        with self.bound.unwrapped.eval_mode():
            return x, self._score(x).sum(-1)

    def rsample_and_log_prob(
        self, sample_shape: Sequence[int] = (), *, tol: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """A draw with gradients, and its log_prob from the same pass; see `rsample`."""
        x, scores = self._rsample(sample_shape, tol, scored=True)
        return x, scores.sum(-1)

    def _rsample(
        self, sample_shape: Sequence[int], tol: float, scored: bool
    ) -> tuple[Tensor, Tensor]:
        fac = self.factorization
        lead = as_shape(sample_shape, "sample_shape") + self.batch_shape
        tol = as_tolerance(tol, "tol")
        if torch._C._is_tracing():
            raise NotImplementedError(
                "rsample: torch.jit.trace does not record gradients through draws; "
                "has_rsample_(False) asks Pyro for the score function instead"
            )
        if not (fac.has_rsample or self.has_rsample):
            without = [f for f in fac.conditionals.distinct if not f.has_rsample]
            raise NotImplementedError(
                f"rsample: no gradients through draws of {without}; has_rsample_(True) asks for "
                f"gradients of the other blocks"
            )
        if (block := self.partial_block) is not None:
            raise NotImplementedError(f"rsample: no gradients through {block}, observed in part")
        return self.bound.with_params(rsample, self.batch(lead), tol, scored)

    def reparameterized(self, value: Tensor) -> Tensor:
        """A draw (*lead, *event_shape) with the gradients of `rsample`.

        Used by families that wrap this distribution.
        """
        batch = self.batch_of(value)
        return self.bound.with_params(reparameterized, batch, value)[0]

    @property
    def partial_block(self) -> str | None:
        """The name of a block that is observed in part, if there is one."""
        fac = self.factorization
        mask = None if self.evidence is None else fac.split(self.evidence[1])
        if mask is None or not fac.layout.is_partially_observed(mask):
            return None
        return fac.block_name(int(fac.layout.partially_observed(mask).nonzero()[0, -1]))

    def score_parts(self, x: Tensor, *args: Any, **kwargs: Any) -> ScoreParts:
        """The terms that Pyro's ELBOs use for a draw.

        `has_rsample` is true if all blocks are reparameterized. `p.has_rsample_(True)` also allows
        a mixed chain: gradients through the reparameterized blocks, and the score function for the
        others. `Trace_ELBO` and `TraceEnum_ELBO` are unbiased for it. `TraceGraph_ELBO` does not
        ask for the parts of a site with `has_rsample`, and is biased. Wrappers such as `to_event`
        do not pass the parts on.
        """
        layout = self.factorization.conditionals
        if not self.has_rsample or layout.has_rsample:
            return super().score_parts(x, *args, **kwargs)  # type: ignore[no-untyped-call]
        blocks = self._log_prob_blocks(x)
        scored = torch.tensor([not f.has_rsample for f in layout.families], device=blocks.device)
        shape = torch.broadcast_shapes(blocks.shape[:-1], self.batch_shape)
        whole, score = (part.sum(-1).expand(shape) for part in (blocks, blocks[..., scored]))
        return ScoreParts(whole, score, whole)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All events: (num_states, *batch_shape, *event_shape), or with ones for batch_shape.

        Raises:
            NotImplementedError: if blocks are not discrete or there are more than 4096 states.
        """
        as_flag(expand, "expand")
        states = self.factorization.num_states
        if states is None or states > _MAX_STATES:
            raise NotImplementedError(
                f"enumerate_support: expected at most {_MAX_STATES} states, got "
                f"{'infinitely many' if states is None else states}"
            )
        reference = self.bound.reference
        values = self.factorization.enumerate_support().to(reference.device)
        if not self.factorization.layout.is_index:
            values = values.to(reference.dtype)
        return over_batch(values, self.batch_shape, expand)

    @property
    def mean(self) -> Tensor:
        """Raises a `NotImplementedError`: there is no closed form."""
        raise NotImplementedError(
            "mean: has no closed form; p.sample((1000,)).mean(0) estimates it"
        )

    @property
    def variance(self) -> Tensor:
        """Raises a `NotImplementedError`: there is no closed form."""
        raise NotImplementedError(
            "variance: has no closed form; p.sample((1000,)).var(0) estimates it"
        )

    @property
    def mode(self) -> Tensor:
        """The greedy event: batch_shape + event_shape.

        Each block has its likeliest state given the blocks before it. Other events may be likelier,
        and `ardist.sampling.beam_search` may find them.

        Raises:
            NotImplementedError: if a block has no finite set of states.
        """
        fac = self.factorization
        if infinite := [f for f in fac.layout.distinct if f.enumerate_support() is None]:
            raise NotImplementedError(
                f"mode: expected blocks with a finite set of states, got {infinite}; the likeliest "
                f"of some draws is x[p.log_prob(x).argmax(0)] with x = p.sample((1000,))"
            )
        return self._with(bound=self.bound.replace(factorization=fac.likeliest)).sample()

    # Distributions that are derived from this one.

    def with_ordering(self, ordering: Ordering | Tensor) -> "AutoregressiveDistribution":
        """The joint distribution that the network defines for another order of the same blocks.

        Args:
            ordering: one ordering for all rows, or ranks (*lead, *grid_shape) int64 with an order
                for each row. `lead` broadcasts with batch_shape.

        Raises:
            ValueError: if the network does not support the ordering.
        """
        bound, grid = self.bound, self.factorization.grid_shape
        if self.evidence is not None:
            return self._with(evidence=None).with_ordering(ordering).given(*self.evidence)
        if isinstance(ordering, Ordering):
            factorization = self.factorization.with_ordering(ordering)
            return self._with(bound=bound.replace(factorization=factorization), ranks=None)
        check_tensor(ordering, "ordering")
        ordering = as_integers(ordering, "ordering")
        lead = leading(ordering.shape, grid, self.batch_shape, "ordering")
        if not lead:
            return self.with_ordering(Ordering.from_ranks(ordering))
        if not bound.unwrapped.has_row_orders:
            raise ValueError(
                f"ordering: {type(bound.unwrapped).__name__} has one order for all rows, got ranks "
                f"{tuple(ordering.shape)}"
            )
        ranks = ordering.reshape(*lead, self.factorization.num_blocks)
        ranks = dense(ranks.to(bound.reference.device, torch.int64))
        if ranks.numel():  # networks refuse only ties: check the row with the most ties
            row = ranks.flatten(0, -2)[ranks.amax(-1).flatten().argmin()]
            one = self.factorization.with_ordering(Ordering.from_ranks(row.reshape(grid)))
            if (reason := bound.unsupported_reason(one)) is not None:
                raise ValueError(f"ordering: {reason}, got {one}")
        if self.factorization.restriction is not None and ranks.numel():
            rule = self.factorization.restriction.rule
            rule.check_order(self.factorization, ranks.flatten(0, -2))
        return self._with(ranks=ranks)

    def with_rule(self, rule: Rule | None) -> "AutoregressiveDistribution":
        """The distribution of the same network under another rule, or under no rule.

        The network computes the same parameters, whether or not it was trained with the rule. Each
        conditional is restricted to the values that the rule allows, and renormalized. This differs
        from the distribution conditioned on the rule, which `ardist.sampling.smc` samples.

        Raises:
            ValueError: if no event follows the rule, the rule does not suit the blocks, or an
                observed value violates it.

        >>> import torch, ardist as ad
        >>> net = ad.networks.MADE(ad.Factorization(4, ad.families.Bernoulli()), hidden_features=8)
        >>> net.condition().with_rule(ad.rules.Sum(2)).sample((3,)).sum(-1)
        tensor([2., 2., 2.])
        """
        if self.evidence is not None:
            return self._with(evidence=None).with_rule(rule).given(*self.evidence)
        factorization = self.factorization.replace(rule=rule)
        new = self._with(bound=self.bound.replace(factorization=factorization))
        new._reset()
        return new if self.ranks is None else new.with_ordering(self.ordering)

    def with_families(self, families: Family | Sequence[Family]) -> "AutoregressiveDistribution":
        """The same network with conditionals of other families, such as `TopK` or `Tempered`.

        Raises:
            ValueError: if the network computes other numbers of parameters than the families need,
                or only one of the two, the network or `families`, has a single family for all
                blocks.
        """
        factorization = self.factorization.with_families(families)
        return self._with(bound=self.bound.replace(factorization=factorization))

    def given(self, value: Tensor, mask: Tensor) -> "AutoregressiveDistribution":
        """The whole event, conditioned on the elements of `value` under `mask`.

        Its `log_prob` scores the other elements given the observed ones, and is -inf if a value
        disagrees with the observed elements. Its `sample` returns whole events.

        The result is exact for this joint distribution if the observed set is ancestral: no
        observed block depends on an unobserved one. A prefix and a set of ancestors in a graph are
        ancestral. Otherwise an any-order network uses the ordering that puts the observed blocks
        first and keeps the relative order within both parts. That is another joint distribution,
        as good as the network's fit in that order. `given(...).ordering` shows the order.

        Args:
            value: (*lead, *event_shape); elements that are not observed are ignored.
            mask: (*lead, *event_shape) bool. The leading dimensions of `value` and `mask` broadcast
                with batch_shape. Rows may differ in their masks if all observed sets are ancestral,
                or if the network supports an order for each row, which then replaces a graph in all
                rows. If a mask covers only a part of a block, the block's family conditions on
                this part. `families.Nested.ordering_given` shows the order of a nested block.

        Raises:
            ValueError: if neither this joint distribution nor the network under another order can
                condition on the observed set, a family cannot condition on a part of its block, or
                elements are already observed with other values.

        >>> import torch, ardist as ad
        >>> _ = torch.manual_seed(0)
        >>> net = ad.networks.MADE(ad.Factorization(4, ad.families.Normal()), hidden_features=8)
        >>> observed = torch.tensor([True, True, False, False])
        >>> p = net.condition().given(torch.tensor([0.5, -1.0, 0.0, 0.0]), observed)
        >>> p.sample((2,))[:, :2]
        tensor([[ 0.5000, -1.0000],
                [ 0.5000, -1.0000]])
        """
        mask = self.checked_mask(mask)
        self.check_value(value, "value")
        first = self.with_first(mask)
        value = torch.where(mask, value, self.bound.placeholder)
        if self.evidence is not None:
            before, seen = self.evidence
            if not holds(~(differs := self._contradicts(value, mask))):
                raise ValueError(
                    f"value: expected no other values of elements that are observed already, got "
                    f"{int(differs.sum())}"
                )
            value, mask = torch.where(seen, before, value), mask | seen
        self._try(self.factorization.layout.given_log_prob, mask)
        value = first.checked(value, mask=mask)
        if not holds(value.isfinite()):
            raise ValueError(
                f"value: expected finite numbers under the mask, got "
                f"{value[~value.isfinite()][0].item()}, which cannot be conditioned on"
            )
        given = first._with(evidence=(value, mask))
        if given.partial_block is not None:  # so that Pyro draws without gradients
            given.has_rsample = False
        return given

    def marginal(self, mask: Tensor) -> Marginal:
        """The marginal distribution of the elements under `mask`, as vectors.

        It is exact for this joint distribution if the kept set is ancestral (see `given`).
        Otherwise an any-order network uses the ordering that puts the kept blocks first.
        `marginal(...).ordering` shows the order.

        Args:
            mask: (*event_shape) bool.

        Raises:
            ValueError: as `given`.

        >>> import torch, ardist as ad
        >>> net = ad.networks.MADE(ad.Factorization(4, ad.families.Normal()), hidden_features=8)
        >>> p = net.condition().marginal(torch.tensor([True, True, False, False]))
        >>> p.sample((3,)).shape
        torch.Size([3, 2])
        """
        check_kept(mask, self.event_shape)
        mask = mask.to(self.bound.reference.device)
        first = self.with_next(mask)
        result = Marginal(first, mask, first._validate_args)
        self._try(self.factorization.layout.marginal_log_prob, mask)
        return result

    def with_first(
        self, mask: Tensor, subject: str = "mask: blocks under it"
    ) -> "AutoregressiveDistribution":
        """This distribution if the elements under a mask are ancestral, else the distribution under
        the order that puts them first.
        """
        fac, evidence = self.factorization, self.evidence
        if evidence is not None:
            mask = mask | evidence[1]
        ordering = observed_first(fac, self.ranks, fac.split(mask))
        if ordering is None:
            return self
        try:
            other = self._with(evidence=None).with_ordering(ordering)
        except ValueError as error:
            raise ValueError(
                f"{subject} depend on others in the order {self.ordering!r}, and the order that "
                f"puts them first is refused: {error}; Masked and Transformer follow "
                f"any order"
            ) from error
        if observed_first(other.factorization, other.ranks, fac.split(mask)) is not None:
            raise self._refused_cut(mask)
        return other._with(evidence=evidence)

    def with_next(
        self, mask: Tensor, subject: str = "mask: blocks under it"
    ) -> "AutoregressiveDistribution":
        """As `with_first`, with the elements under the mask after the evidence, so that they depend
        on it.
        """
        first = self.with_first(mask, subject)
        if first is self or self.evidence is None:
            return first
        # The order of both together may have moved evidence behind blocks under the mask.
        other = first.with_first(torch.zeros_like(mask), subject)
        if other.with_first(mask, subject) is not other:
            raise self._refused_cut(mask | self.evidence[1])
        return other

    def _refused_cut(self, mask: Tensor) -> ValueError:
        fac = self.factorization
        cut = fac.layout.partially_observed(fac.split(mask)).nonzero()[:, -1].unique().tolist()
        return ValueError(
            f"mask: expected whole blocks if other blocks depend on them, got "
            f"parts of {', '.join(map(fac.block_name, cut))}"
        )

    @torch.no_grad()
    def _try(self, score: Callable[[Tensor, Tensor, Tensor], Tensor], mask: Tensor) -> None:
        """Raises the error of a family that does not support a mask over a part of its block."""
        fac, layout = self.factorization, self.factorization.layout
        if layout.is_partially_observed(fac.split(mask)):
            rows = fac.split(mask.reshape(-1, *self.event_shape).unique(dim=0))
            params = self.bound.reference.new_zeros(rows.shape[0], *layout.param_shape)
            score(params, fac.split(self.bound.placeholder).expand_as(rows), rows)

    def _with(self, **changes: Any) -> "AutoregressiveDistribution":
        """The same with another `bound`, `ranks` or `evidence`."""
        new = self.expand(self.batch_shape)
        new.__dict__.update(changes)
        new = new.expand(torch.broadcast_shapes(self.batch_shape, new.row_shape))
        if new.factorization.families != self.factorization.families:
            new._reset()
        elif new._differs_by_row != self._differs_by_row:
            new.has_enumerate_support = new._is_enumerable
        return new

    # Checks of arguments.

    def checked_mask(self, mask: Tensor, name: str = "mask") -> Tensor:
        """The mask on the network's device, after a check that its leading dimensions fit
        batch_shape.
        """
        check_mask(mask, self.event_shape, self.batch_shape, name)
        return mask.to(self.bound.reference.device)

    def checked(
        self,
        value: Tensor,
        name: str = "value",
        *,
        mask: Tensor | None = None,
        follows: bool = True,
    ) -> Tensor:
        """The value in the dtype of events, after checks of its shape, its dtype and, if arguments
        are validated, its support.

        Args:
            value: (*lead, *event_shape).
            name: the name of the value in errors.
            mask: if given, only the elements under it need to be inside the support.
            follows: whether to check also that the value follows the rule.
        """
        self.check_value(value, name)
        fac, layout = self.factorization, self.factorization.layout
        dtype = layout.dtype(self.bound.reference.dtype)
        if not layout.is_index:  # floats may be indices, as the check below finds
            value = value.to(dtype)
        if self._validate_args and value.numel():  # torch's checks of vectors fail on no values
            inside = self._inside(value) if follows else fac.conditionals.inside(fac.split(value))
            if mask is not None and not holds(inside):
                untouched = layout.count(fac.split(mask)) == 0
                inside = inside | untouched.to(inside.device) | self._possible(value, mask)
            if not holds(inside):
                self._explain(value, inside, name)
        return value.to(dtype)

    @torch.no_grad()
    def _possible(self, value: Tensor, mask: Tensor) -> Tensor:
        """Whether a mask covers each block in part and the elements under it are possible."""
        fac, layout = self.factorization, self.factorization.layout
        blocks, part = torch.broadcast_tensors(fac.split(value), fac.split(mask))
        if not layout.is_partially_observed(part):
            return torch.zeros((), dtype=torch.bool, device=value.device)
        lead = lead_of(blocks, layout.value_shape)
        params = self.bound.reference.new_zeros((*lead, *layout.param_shape))
        possible = layout.marginal_log_prob(params, blocks, part) > -torch.inf
        return layout.partially_observed(part) & possible

    def _inside(self, value: Tensor) -> Tensor:
        """Whether each block is inside its support and follows the rule: (*lead, num_blocks)."""
        if self.factorization.rule is None:
            return self.factorization.inside(value)
        batch = self.batch_of(value)
        return batch.unflatten(batch.inside(batch.blocks(value)))

    def check_value(self, value: Tensor, name: str) -> None:
        """Raises a `ValueError` if the shape, dtype or device of a value is wrong."""
        check_tensor(value, name)
        leading(value.shape, self.event_shape, self.batch_shape, name)
        self.bound.check_kind(name, value, exact=False)

    def _explain(self, value: Tensor, inside: Tensor, name: str) -> None:
        """Raises a `ValueError` that shows the first block outside its support."""
        fac = self.factorization
        *row, block = (~inside).nonzero()[0].tolist()
        blocks = fac.split(value.expand((*inside.shape[:-1], *self.event_shape)))
        entries = fac.layout.gather_blocks("value", blocks[tuple(row)].unsqueeze(0), [block])
        if fac.rule is not None and fac.layout.inside(blocks).all():
            got = entries.flatten().tolist()
            raise ValueError(
                f"{name}: expected {fac.rule.expected(fac.block_name(block))}, got "
                f"{got[0] if len(got) == 1 else got}"
            )
        family = fac.layout.families[block]
        hint = ""
        if entries.isnan().any() and self.nan_policy == "raise":
            hint = '; for log_prob, nan_policy="marginalize" takes NaN as missing'
        raise ValueError(
            f"{name}: expected {fac.block_name(block)} inside the support {family.support} of "
            f"{family}, got {entries.flatten().tolist()}{hint}"
        )

    def __repr__(self) -> str:
        return (
            f"AutoregressiveDistribution({type(self.bound.unwrapped).__name__}, "
            f"batch_shape={tuple(self.batch_shape)}, event_shape={tuple(self.event_shape)})"
        )
