"""The product of conditionals as one distribution."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from math import prod
from typing import Any, ClassVar, TypeVar

import pyro.distributions as dist
import torch
from pyro.distributions.score_parts import ScoreParts
from torch import Size, Tensor, nn
from torch.distributions import Distribution, constraints
from torch.func import functional_call

from ardist.conditioning import Marginal, dense, observed_first
from ardist.constraints import SequenceConstraint
from ardist.decoding import Decoder, draw, draw_by_rows
from ardist.factorization import Factorization
from ardist.families import Family
from ardist.layout import Layout
from ardist.ordering import Ordering
from ardist.pathwise import attach, by_iteration, by_sweep
from ardist.shapes import spelled

_MAX_STATES = 4096  # of an event that is enumerated
_NAN_POLICIES = ("raise", "marginalize")

Result = TypeVar("Result")


class AutoregressiveDistribution(dist.TorchDistribution):
    """p(x | c) = prod_i p(x_i | earlier x, c), parameterized by a conditional network.

    A light value, made and thrown away at every step: the parameters live in the network. It is
    a distribution of torch and of Pyro; log_prob and all that follows from it are in nats.

    Args:
        network: a conditional network, or one wrapped by `torch.compile` or DDP; the wrapper is
            called for parallel passes.
        context: what the joint is conditioned on, (*batch_shape, *network.context_shape); None
            where the network takes none, and then batch_shape is ().
        factorization: in place of the network's own, where the network accepts it.
        params: tensors that replace the network's parameters, by name.
        nan_policy: "raise", or "marginalize": NaN in a value given to `log_prob` (in floating
            point, of indices too) means missing, and what is scored is the rest, as by `marginal`.
        validate_args: whether values and the context are checked; torch's default if None.

    Raises:
        ValueError: where the context, the factorization or the params do not fit the network.

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
        validate_args: bool | None = None,
    ) -> None:
        core = unwrap(network)
        factorization = factorization or core.factorization
        self._known = factorization.with_forms_of(core.factorization)
        same = self._known is core.factorization
        if not same and (reason := core.accepts(self._known)) is not None:
            raise ValueError(f"factorization: {reason}, got {factorization}")
        if nan_policy not in _NAN_POLICIES:
            raise ValueError(f"nan_policy: expected one of {_NAN_POLICIES}, got {nan_policy!r}")
        if params is not None:
            known = {name for name, _ in core.named_parameters()}
            if unknown := sorted(set(params) - known):
                raise ValueError(f"params: {type(core).__name__} has no parameters {unknown}")
        self.network = network
        self.context = context
        self.factorization: Factorization = factorization
        self.params = params
        self.nan_policy = nan_policy
        self._core = core
        self._check_context()
        # What may differ from row to row: the order, and what is observed.
        self._ranks: Tensor | None = None  # (*lead, num_blocks)
        self._observed: tuple[Tensor, Tensor] | None = None  # values and mask, (*lead, *event)
        self._row_batch = self._context_batch
        # Instance attributes: Pyro assigns them.
        self.has_rsample = self.factorization.has_rsample
        states = self.factorization.num_states
        self.has_enumerate_support = states is not None and states <= _MAX_STATES
        super().__init__(
            self._context_batch, self.factorization.event_shape, validate_args=validate_args
        )
        if self._validate_args and context is not None and not _all(~context.isnan()):
            raise ValueError("context: expected no NaN")

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """Where events lie; `biject_to` and `transform_to` know it."""
        fac = self.factorization
        if self._ranks is None or fac.end is None:
            return fac.support
        inside = partial(fac.inside, ranks=self._ranks)
        return SequenceConstraint(inside, len(fac.event_shape), fac.end)

    @property
    def ordering(self) -> Ordering | Tensor:
        """In which order blocks are drawn; ranks (*batch_shape, *grid_shape) where rows differ."""
        if self._ranks is None:
            return self.factorization.ordering
        ranks = self._ranks.expand(*self.batch_shape, self.factorization.num_blocks)
        return ranks.reshape(*self.batch_shape, *self.factorization.grid_shape)

    def expand(
        self, batch_shape: Sequence[int], _instance: "AutoregressiveDistribution | None" = None
    ) -> "AutoregressiveDistribution":
        """The same distribution with a larger batch_shape, in constant time: nothing is run."""
        wanted = Size(batch_shape)
        spare = len(wanted) - len(self.batch_shape)
        if spare < 0 or any(
            old not in (1, new) for old, new in zip(self.batch_shape, wanted[spare:], strict=True)
        ):
            raise ValueError(
                f"batch_shape: {tuple(self.batch_shape)} cannot be expanded to {tuple(wanted)}"
            )
        new = object.__new__(type(self)) if _instance is None else _instance
        new.__dict__.update({**self.__dict__, "_batch_shape": wanted})
        return new

    # Scores.

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability or density of events, in nats: sample_shape + batch_shape.

        One parallel pass over all blocks. `value` (*lead, *event_shape) broadcasts against
        batch_shape in both directions.
        """
        result = self._log_prob_blocks(value).sum(-1)
        return result.expand(torch.broadcast_shapes(result.shape, self.batch_shape))

    def log_prob_blocks(self, value: Tensor) -> Tensor:
        """Each block's log_prob given those before it, in nats: (*lead, *grid_shape).

        It is 0 for blocks that are observed, or missing under `nan_policy="marginalize"`.
        """
        result = self._log_prob_blocks(value)
        lead = torch.broadcast_shapes(result.shape[:-1], self.batch_shape)
        return result.expand((*lead, -1)).reshape((*lead, *self.factorization.grid_shape))

    def _log_prob_blocks(self, value: Tensor) -> Tensor:
        if self.nan_policy == "raise" or not isinstance(value, Tensor) or not value.isnan().any():
            value = self._checked(value)
            return self._replaced(self._score, value)
        kept = ~value.isnan()
        return self.scores_of(torch.where(kept, value, self.anchor), kept)

    def scores_of(self, value: Tensor, kept: Tensor) -> Tensor:
        """Each block's share of the log_prob of the elements `kept`: (*lead, num_blocks).

        For families and distributions that are made of this one; elements that are not kept are
        inside the support.
        """
        if self._observed is not None:
            values, mask = self._observed
            value = torch.where(mask & ~kept, values, value)
        first = self._first(kept)
        return first._replaced(first._score, first._checked(value), kept)

    def conditionals(
        self, value: Tensor
    ) -> Distribution | tuple[Distribution, ...] | dict[str, Distribution]:
        """The conditional of every block given the blocks before it in `value`.

        One distribution of batch_shape (*lead, *grid_shape) where all blocks have one family,
        otherwise a tuple by block; a dict by name for named columns.
        """
        value = self._checked(value)
        params = self._replaced(self._params, value)
        fac, layout = self.factorization, self.factorization.layout
        shape = params.shape[: params.dim() - len(layout.param_shape)]
        lead = torch.broadcast_shapes(shape, self.batch_shape)
        params = params.expand((*lead, *layout.param_shape))
        if fac.is_uniform and fac.names is None:
            whole = layout.families[0](params.reshape(*lead, *fac.grid_shape, -1))
            if fac.end is None:
                return whole
            ended = fac.ended(fac.split(value), self._ranks).expand(*lead, -1)
            return self._padded(whole, ended.reshape(*lead, *fac.grid_shape))
        pieces = params.split(layout.sizes["param"], -1) if layout.flat else params.unbind(-2)
        each = [family(piece) for family, piece in zip(layout.families, pieces, strict=True)]
        if fac.end is not None:
            after = fac.ended(fac.split(value), self._ranks).expand(*lead, -1).unbind(-1)
            each = [self._padded(one, ended) for one, ended in zip(each, after, strict=True)]
        return tuple(each) if fac.names is None else dict(zip(fac.names, each, strict=True))

    def _padded(self, free: Distribution, ended: Tensor) -> Distribution:
        """A conditional over indices, certain of `pad` where the sequence has ended."""
        logits = free.log_prob(free.enumerate_support(expand=False)).movedim(0, -1)
        certain = torch.full_like(logits, -torch.inf)
        certain[..., self.factorization.pad] = 0.0
        logits = torch.where(ended.unsqueeze(-1), certain, logits)
        result: Distribution = dist.Categorical(logits=logits, validate_args=False)
        return result

    # Draws.

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Events drawn step by step from cached state: sample_shape + batch_shape + event_shape."""
        with torch.no_grad():
            return self._replaced(self._draw, Size(sample_shape))

    def draws_of(self, sample_shape: Sequence[int], kept: Tensor) -> Tensor:
        """Events of which only the elements `kept` are drawn; for what is made of this one."""
        fac = self.factorization
        ranks = fac.ranks.flatten() if self._ranks is None else self._ranks
        steps = ranks[..., fac.layout.count(fac.split(kept)).to(ranks.device) > 0]
        with torch.no_grad():
            return self._replaced(self._draw, Size(sample_shape), int(steps.max()) + 1)

    def rsample(self, sample_shape: Sequence[int] = (), *, tol: float = 0.0) -> Tensor:
        """Events with gradients to the parameters, the context and what made it.

        The draw is that of `sample`, and its gradient that of plain autograd through the steps,
        by implicit differentiation, in the memory of one parallel pass. A MADE finds it in one
        sweep back over the steps, and an RNN keeps the graph of its steps; other networks iterate,
        up to one pass back a step.

        Args:
            tol: where iterating, stop when a pass changes no entry of a row's gradient by more
                than this share of the largest. That is an approximation, and where blocks depend
                strongly on each other it can be a bad one; 0 is exact.

        Raises:
            NotImplementedError: where a family has no `rsample`, or a block is observed in part.
            RuntimeError: in a backward pass with `create_graph=True`: a draw is differentiable
                once.
        """
        return self._replaced(self._rsample, Size(sample_shape), tol, False)[0]

    def sample_and_log_prob(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """A draw and its log_prob, both from the network without dropout."""
        x = self.sample(sample_shape)
        with self._core.evaluating():
            return x, self._replaced(self._score, x).sum(-1)

    def rsample_and_log_prob(
        self, sample_shape: Sequence[int] = (), *, tol: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """A draw with gradients and its log_prob, from the same pass; args as of `rsample`."""
        x, scores = self._replaced(self._rsample, Size(sample_shape), tol, True)
        return x, scores.sum(-1)

    def score_parts(self, x: Tensor, *args: Any, **kwargs: Any) -> ScoreParts:
        """What Pyro's ELBOs need of a draw.

        `has_rsample` is true where all blocks are reparameterized. `p.has_rsample_(True)` asks
        for a chain of both kinds: gradients through the blocks that have them, and the score
        function of the others. `Trace_ELBO` and `TraceEnum_ELBO` are unbiased under it;
        `TraceGraph_ELBO` does not ask for the parts of a site with `has_rsample`, and is biased,
        and wrappers such as `to_event` do not pass them on.
        """
        layout = self.factorization.layout
        if not self.has_rsample or layout.has_rsample:
            parts: ScoreParts = super().score_parts(x, *args, **kwargs)  # type: ignore[no-untyped-call]
            return parts
        blocks = self._log_prob_blocks(x)
        scored = torch.tensor([not f.has_rsample for f in layout.families], device=blocks.device)
        shape = torch.broadcast_shapes(blocks.shape[:-1], self.batch_shape)
        whole, score = (part.sum(-1).expand(shape) for part in (blocks, blocks[..., scored]))
        return ScoreParts(whole, score, whole)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All events: (num_states, *batch_shape, *event_shape), or with ones for batch_shape.

        Raises:
            NotImplementedError: where blocks are not discrete or there are more than 4096 states.
        """
        states = self.factorization.num_states
        if states is None or states > _MAX_STATES:
            raise NotImplementedError(
                f"enumerate_support: expected at most {_MAX_STATES} states, got "
                f"{'infinitely many' if states is None else states}"
            )
        values = self.factorization.enumerate_support().to(self._reference.device)
        if not self.factorization.layout.is_index:
            values = values.to(self._reference.dtype)
        ones = (1,) * len(self.batch_shape)
        values = values.reshape(states, *ones, *self.event_shape)
        return values.expand(states, *self.batch_shape, *self.event_shape) if expand else values

    # Distributions that follow from this one.

    def with_ordering(self, ordering: Ordering | Tensor) -> "AutoregressiveDistribution":
        """The joint that the network gives under another order of the same blocks.

        Args:
            ordering: one for all, or ranks (*lead, *grid_shape) int64: an order for each row,
                where `lead` broadcasts with batch_shape.

        Raises:
            ValueError: where the network does not follow it.
        """
        if self._observed is not None:
            return self._with(_observed=None).with_ordering(ordering).given(*self._observed)
        if isinstance(ordering, Ordering):
            factorization = self.factorization.with_ordering(ordering)
            return self._with(factorization, _ranks=None)
        grid, core = self.factorization.grid_shape, self._core
        lead = ordering.shape[: max(ordering.dim() - len(grid), 0)]
        if ordering.shape[len(lead) :] != grid or not _broadcastable(lead, self.batch_shape):
            raise ValueError(
                f"ordering: expected ranks (*lead, {spelled(grid)}) whose lead broadcasts with "
                f"batch_shape {tuple(self.batch_shape)}, got {tuple(ordering.shape)}"
            )
        if not lead:
            return self.with_ordering(Ordering.from_ranks(ordering))
        if ordering.is_floating_point() or ordering.dtype == torch.bool:
            raise ValueError(f"ordering: expected ranks of integers, got {ordering.dtype}")
        if not core.has_row_orders:
            raise ValueError(
                f"ordering: {type(core).__name__} has one order for all rows, got ranks "
                f"{tuple(ordering.shape)}"
            )
        ranks = dense(
            ordering.reshape(*lead, self.factorization.num_blocks).to(
                self._reference.device, torch.int64
            )
        )
        if ranks.numel():  # rows are refused for their ties, if at all: the one with most tells
            row = ranks.flatten(0, -2)[ranks.amax(-1).flatten().argmin()]
            one = self._known.with_ordering(Ordering.from_ranks(row.reshape(grid)))
            if (reason := core.accepts(one)) is not None:
                raise ValueError(f"ordering: {reason}, got {one}")
        return self._with(_ranks=ranks)

    def with_families(self, families: Family | Sequence[Family]) -> "AutoregressiveDistribution":
        """The same network with conditionals of other forms, such as `TopK` or `Tempered` ones.

        Raises:
            ValueError: where they take other numbers of parameters than the network gives.
        """
        return self._with(self.factorization.with_families(families))

    def given(self, value: Tensor, mask: Tensor) -> "AutoregressiveDistribution":
        """The whole event with the elements of `value` under `mask` observed.

        Its `log_prob` is that of the others given these, -inf where a value disagrees with them;
        its `sample` returns whole events. Exact for this joint where the observed blocks are
        ancestral, that is where none depends on a block that is not observed: a prefix, say, or
        the ancestors in a graph. Elsewhere a network for any order answers under the ordering
        that puts the observed blocks first, both parts in their old order. That is another joint,
        and `given(...).ordering` shows which order it has.

        Args:
            value: (*lead, *event_shape), of which only what is observed counts.
            mask: (*lead, *event_shape) bool; leading dimensions of both broadcast with
                batch_shape. Rows may differ where all are ancestral, or the network takes an
                order for each row. A mask that cuts a block goes to its family.

        Raises:
            ValueError: where neither this joint nor the network under another order can tell,
                or a family is not given in part.

        >>> import torch, ardist as ad
        >>> _ = torch.manual_seed(0)
        >>> net = ad.networks.MADE(ad.Factorization(4, ad.families.Normal()), hidden_features=8)
        >>> observed = torch.tensor([True, True, False, False])
        >>> p = net.condition().given(torch.tensor([0.5, -1.0, 0.0, 0.0]), observed)
        >>> p.sample((2,))[:, :2]
        tensor([[ 0.5000, -1.0000],
                [ 0.5000, -1.0000]])
        """
        mask = self._checked_mask(mask)
        event_dim = len(self.event_shape)
        if value.shape[max(value.dim() - event_dim, 0) :] != self.event_shape:
            raise ValueError(
                f"value: expected (*lead, {spelled(self.event_shape)}), got {tuple(value.shape)}"
            )
        first = self._first(mask)
        value = first._checked(torch.where(mask, value, self.anchor))
        if self._observed is not None:
            before, seen = self._observed
            value, mask = torch.where(seen, before, value), mask | seen
        return first._with(_observed=(value, mask))

    def marginal(self, mask: Tensor) -> Marginal:
        """The distribution of the elements under `mask` alone, as vectors.

        Exact for this joint where the kept blocks are ancestral (see `given`); elsewhere a
        network for any order answers under the ordering that puts them first, which
        `marginal(...).ordering` shows.

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
        mask = self._checked_mask(mask)
        if mask.shape != self.event_shape or not mask.any():
            raise ValueError(
                f"mask: expected {tuple(self.event_shape)} with an element to keep, got "
                f"{tuple(mask.shape)} with {int(mask.sum())}"
            )
        return Marginal(self._first(mask), mask)

    def _first(self, mask: Tensor) -> "AutoregressiveDistribution":
        """This joint where the elements under a mask are ancestral in it, else the one under the
        order that puts them first.
        """
        fac = self.factorization
        if self._observed is not None:
            mask = mask | self._observed[1]
        ordering = observed_first(fac, self._ranks, fac.split(mask))
        if ordering is None:
            return self
        try:
            other = self._with(_observed=None).with_ordering(ordering)
        except ValueError as error:
            raise ValueError(
                f"mask: blocks under it depend on others in the order {self.ordering!r}, and the "
                f"order that puts them first is refused: {error}"
            ) from error
        if observed_first(other.factorization, other._ranks, fac.split(mask)) is not None:
            raise ValueError("mask: expected one that cuts no block on which another one depends")
        return other._with(_observed=self._observed)

    def _with(
        self, factorization: Factorization | None = None, **rows: Any
    ) -> "AutoregressiveDistribution":
        """The same with another factorization, or other `_ranks` and `_observed`."""
        new = AutoregressiveDistribution(
            self.network,
            self.context,
            factorization=factorization or self.factorization,
            params=self.params,
            nan_policy=self.nan_policy,
            validate_args=self._validate_args,
        )
        if new.factorization.families == self.factorization.families:
            new.has_rsample = self.has_rsample
            new.has_enumerate_support = self.has_enumerate_support
        new.__dict__.update({"_ranks": self._ranks, "_observed": self._observed, **rows})
        if new._ranks is not None and new.factorization.end is not None:
            new.has_enumerate_support = False  # rows have different states
        shapes = [self._context_batch]
        if new._ranks is not None:
            shapes.append(new._ranks.shape[:-1])
        if new._observed is not None:
            event_dim = len(self.event_shape)
            shapes += [part.shape[: part.dim() - event_dim] for part in new._observed]
        new._row_batch = Size(torch.broadcast_shapes(*shapes))
        new._batch_shape = Size(torch.broadcast_shapes(self.batch_shape, new._row_batch))
        return new

    # A network sees rows: one leading dimension, the contexts' own dimensions last in it, so
    # that row i of N contexts goes with the rows i, N + i, ... of events.

    def _order(self, lead: Size) -> list[int]:
        """The dimensions of `lead`, those along which the context does not vary first."""
        context = (1,) * (len(lead) - len(self._context_batch)) + self._context_batch
        varies = [size != 1 for size in context]
        return sorted(range(len(lead)), key=varies.__getitem__)

    def _rows(self, x: Tensor, lead: Size) -> Tensor:
        """Events (*lead, ...) as (rows, ...)."""
        order = self._order(lead)
        rest = range(len(lead), x.dim())
        return x.permute((*order, *rest)).reshape((prod(lead), *x.shape[len(lead) :]))

    def _unrows(self, rows: Tensor, lead: Size) -> Tensor:
        """The inverse of `_rows`."""
        order = self._order(lead)
        x = rows.reshape((*(lead[dim] for dim in order), *rows.shape[1:]))
        inverse = sorted(range(len(order)), key=order.__getitem__)
        return x.permute((*inverse, *range(len(lead), x.dim())))

    @property
    def _contexts(self) -> Tensor | None:
        if self.context is None:
            return None
        return self.context.reshape(prod(self._context_batch), *self._core.context_shape)

    def _lead(self, value: Tensor) -> Size:
        lead = value.shape[: value.dim() - len(self.event_shape)]
        return Size(torch.broadcast_shapes(lead, self._row_batch))

    def _per_row(self, each: Tensor, shape: Size, lead: Size) -> Tensor:
        """What may differ from row to row, (..., *shape), as (rows, *shape)."""
        return self._rows(each.expand((*lead, *shape)), lead)

    def _pass(self, value: Tensor) -> tuple[Tensor, Tensor, Size]:
        """Blocks and parameters of all rows, in one parallel pass."""
        lead, fac = self._lead(value), self.factorization
        blocks = fac.split(self._per_row(value, self.event_shape, lead))
        if len(blocks) == 0:  # which recurrent modules of torch refuse
            return blocks, self._reference.new_empty(0, *fac.layout.param_shape), lead
        return blocks, self._network(blocks, self._contexts, self._row_ranks(lead)), lead

    def _row_ranks(self, lead: Size) -> Tensor | None:
        if self._ranks is None:
            return None
        return self._per_row(self._ranks, self._ranks.shape[-1:], lead)

    def _row_observed(self, lead: Size) -> tuple[Tensor, Tensor] | None:
        """The blocks that are observed, and a mask of them, (rows, *value_shape)."""
        if self._observed is None:
            return None
        split = self.factorization.split
        values, mask = (split(self._per_row(p, self.event_shape, lead)) for p in self._observed)
        return values, mask

    def _network(self, blocks: Tensor, context: Tensor | None, ranks: Tensor | None) -> Tensor:
        """The network, told the order where that is not its own."""
        if ranks is None and self._known is not self._core.factorization:
            ranks = self.factorization.ranks.flatten().to(self._reference.device)
        given = (blocks, context) if ranks is None else (blocks, context, ranks)
        params: Tensor = self.network(*given)
        expected = (len(blocks), *self.factorization.layout.param_shape)
        if params.shape != expected:
            raise ValueError(
                f"network: {type(self._core).__name__} returned parameters of shape "
                f"{tuple(params.shape)}, expected {expected}"
            )
        return params.to(self._reference.dtype)  # under autocast it was computed in another

    def _score(self, value: Tensor, kept: Tensor | None = None) -> Tensor:
        """Each block's log_prob, or that of its elements `kept`, given what is observed."""
        blocks, params, lead = self._pass(value)
        fac, layout = self.factorization, self.factorization.layout
        if len(blocks) == 0:
            return params.new_zeros(*lead, fac.num_blocks)
        scores = layout.log_prob(params, blocks)
        if fac.end is not None:
            ranks = self._row_ranks(lead)
            scores = scores.masked_fill(fac.ended(blocks, ranks), 0.0)
            scores = scores.masked_fill(fac.misplaced(blocks, ranks), -torch.inf)
        observed = self._row_observed(lead)
        scored = None if kept is None else fac.split(self._per_row(kept, self.event_shape, lead))

        def share(mask: Tensor) -> Tensor:
            if layout.is_cut(mask):
                return layout.marginal_log_prob(params, blocks, mask)
            return torch.where(layout.whole(mask), scores, 0.0)

        result = scores
        if scored is not None:
            result = share(scored if observed is None else scored | observed[1])
        if observed is not None:
            values, mask = observed
            if layout.is_cut(mask):
                result = layout.given_log_prob(params, blocks, mask, scored)
            result = torch.where(layout.whole(mask), 0.0, result)
            differs = layout.count((blocks != values) & mask) > 0
            result = result.masked_fill(differs, -torch.inf)
        return self._unrows(result, lead)

    def _params(self, value: Tensor) -> Tensor:
        _, params, lead = self._pass(value)
        return self._unrows(params, lead)

    def _draw(self, sample_shape: Size, num_steps: int | None = None) -> Tensor:
        fac, lead = self.factorization, sample_shape + self.batch_shape
        rows, like, layout = prod(lead), self._reference, self.factorization.layout
        if rows == 0:
            return like.new_empty(*lead, *self.event_shape, dtype=layout.dtype(like.dtype))
        contexts, ranks, observed = self._contexts, self._row_ranks(lead), self._row_observed(lead)
        # Decoders write into buffers of the network's dtype, which autocast would not know.
        with self._core.evaluating(), torch.autocast(like.device.type, enabled=False):
            if ranks is not None and (layout.flat or _has_ties(ranks)):
                network = partial(self._network, context=contexts, ranks=ranks)
                blocks = draw_by_rows(network, fac, ranks, like, observed)
                return self._unrows(fac.merge(blocks), lead)
            decoder = self._core.decoder(rows, contexts, ranks, **self._other)
            if ranks is None:
                blocks = draw(decoder, fac, like, observed, num_steps)
            else:  # steps of one block, which differs from row to row
                steps, order = (
                    fac.with_ordering(Ordering.raster()),
                    layout.spread(ranks.argsort(-1)),
                )
                if observed is not None:
                    observed = observed[0].gather(1, order), observed[1].gather(1, order)
                blocks = draw(decoder, steps, like, observed, num_steps)
                blocks = blocks.gather(1, layout.spread(ranks))
        return self._unrows(fac.merge(blocks), lead)

    @property
    def _other(self) -> dict[str, Factorization]:
        """The factorization, as decoders are told it where it is not the network's own."""
        return {} if self._known is self._core.factorization else {"factorization": self._known}

    # Draws with gradients.

    def _rsample(self, sample_shape: Size, tol: float, scored: bool) -> tuple[Tensor, Tensor]:
        """Events, and the scores of their blocks if they are asked for."""
        fac, lead = self.factorization, sample_shape + self.batch_shape
        if not (fac.has_rsample or self.has_rsample):
            without = [f for f in fac.layout.distinct if not f.has_rsample]
            raise NotImplementedError(
                f"rsample: no gradients through draws of {without}; has_rsample_(True) asks for "
                f"those of the other blocks"
            )
        if self._observed is not None and fac.layout.is_cut(fac.split(self._observed[1])):
            raise NotImplementedError("rsample: no gradients through a block observed in part")
        if self._ranks is None and prod(lead) > 0:
            with (
                self._core.evaluating(),
                torch.autocast(self._reference.device.type, enabled=False),
            ):
                decoder = self.differentiable_decoder(lead)
                if decoder is not None:
                    return self._by_steps(decoder, lead)
        with torch.no_grad():
            x = self._draw(sample_shape)
        return self.attach(x, tol, scored)

    def differentiable_decoder(self, lead: Size) -> Decoder | None:
        """A decoder for these rows that keeps the graph of its steps, where there is one."""
        decoder: Decoder | None = self._core._differentiable_decoder(
            self._known, prod(lead), self._contexts
        )
        return decoder

    def _by_steps(self, decoder: Decoder, lead: Size) -> tuple[Tensor, Tensor]:
        """By plain autograd through the steps of a draw."""

        def again(step: int, layout: Layout, params: Tensor, drawn: Tensor) -> Sequence[Tensor]:
            drawn = layout.pathwise(params, drawn)
            return drawn, layout.log_prob(params, drawn)

        blocks, scores = self.through_steps(decoder, lead, again)
        value, scores = attach(blocks.detach(), blocks, scores, lambda *gradients: gradients)
        return self._unrows(self.factorization.merge(value), lead), self._unrows(scores, lead)

    def through_steps(
        self,
        decoder: Decoder,
        lead: Size,
        each: Callable[[int, Layout, Tensor, Tensor], Sequence[Tensor]],
    ) -> tuple[Tensor, Tensor]:
        """A draw step by step that keeps its graph: blocks and scores of all rows.

        Args:
            decoder: one that keeps the graph.
            each: from a step, the layout of its blocks, their parameters and a draw of them to
                the blocks as they go on, and their scores.
        """
        fac, layout, scores = self.factorization, self.factorization.layout, list[Tensor]()
        observed = self._row_observed(lead)

        def take(step: Layout, params: Tensor, drawn: Tensor) -> Tensor:
            drawn, score = each(decoder.num_taken, step, params, drawn)
            scores.append(score)
            return drawn

        blocks = draw(decoder, fac, self._reference, observed, attach=take)
        last = decoder.num_taken + 1
        drawn = list(chain(*fac.steps[last - len(scores) : last])) if scores else []
        found = blocks.new_zeros(len(blocks), fac.num_blocks, dtype=self._reference.dtype)
        if scores:
            found = found.index_copy(
                1, torch.tensor(drawn, device=blocks.device), torch.cat(scores, 1)
            )
        if observed is not None:
            found = found.masked_fill(layout.whole(observed[1]), 0.0)
        return blocks, found

    def attach(self, x: Tensor, tol: float = 0.0, scored: bool = False) -> tuple[Tensor, Tensor]:
        """Draws (*lead, *event_shape) of this distribution with their gradients, and the scores
        of their blocks, zeros if not asked for; for what is made of this one.
        """
        fac, layout, core = self.factorization, self.factorization.layout, self._core
        given = (self.context, *(self.params or {}).values(), *(self._observed or ()))
        sources = (*core.parameters(), *(part for part in given if part is not None))
        wanted = torch.is_grad_enabled() and any(part.requires_grad for part in sources)
        wanted = wanted and any(family.has_rsample for family in layout.distinct)
        if not wanted or x.numel() == 0:
            with core.evaluating():
                return x, self._score(x) if scored else x.new_zeros(())
        lead = self._lead(x)
        blocks = fac.split(self._per_row(x.detach(), self.event_shape, lead))
        value, each = self.attach_rows(lead, blocks, tol=tol, scored=scored)
        return self._unrows(fac.merge(value), lead), self._unrows(each, lead)

    def attach_rows(
        self,
        lead: Size,
        blocks: Tensor,
        again: Callable[[Tensor, Tensor], Tensor] | None = None,
        tol: float = 0.0,
        scored: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """As `attach`, for the blocks of rows.

        Args:
            again: from all parameters and blocks to the same blocks, with gradients to the
                parameters, and perhaps to more; by default `Layout.pathwise`.
        """
        fac, layout, core = self.factorization, self.factorization.layout, self._core
        ranks, observed, contexts = self._row_ranks(lead), self._row_observed(lead), self._contexts
        with core.evaluating(), torch.autocast(blocks.device.type, enabled=False):
            with torch.no_grad():
                own = ranks is None and not self._other
                sweep = core._sweep(blocks, contexts) if own else None
            leaf = blocks.detach().requires_grad_(scored or sweep is None)
            params = self._network(leaf, contexts, ranks)
        same, free = (again or layout.pathwise)(params, blocks), None
        scores = blocks.new_zeros(len(blocks), fac.num_blocks)
        if scored:
            scores = layout.log_prob(params, leaf)
        if observed is not None:
            free = ~observed[1]
            same = torch.where(free, same, observed[0])
            scores = scores.masked_fill(layout.whole(observed[1]), 0.0)
        if sweep is not None:
            solve = by_sweep(fac, sweep, params, blocks, free)
        else:
            steps = fac.num_steps if ranks is None else fac.num_blocks
            solve = by_iteration(same, leaf, steps, tol)

        def adjoint(
            of_value: Tensor | None, of_scores: Tensor | None
        ) -> tuple[Tensor | None, Tensor | None]:
            if of_scores is not None:
                (through,) = torch.autograd.grad(scores, leaf, of_scores, retain_graph=True)
                of_value = through if of_value is None else of_value + through
            return None if of_value is None else solve(of_value), of_scores

        value, each = attach(blocks, same, scores, adjoint)
        return value, each

    def _replaced(self, function: Callable[..., Result], *args: Any) -> Result:
        """A call while `params` stand in for the network's own."""
        if self.params is None:
            return function(*args)
        named = {f"network.{name}": value for name, value in self.params.items()}
        result: Result = functional_call(_Scope(self._core), named, (function, *args))
        return result

    @property
    def _reference(self) -> Tensor:
        """A tensor of the dtype and device in which the network computes."""
        given = iter((self.params or {}).values())
        first = next(given, None)
        if first is None:
            first = next(self._core.parameters(), self.context)
        return torch.empty(0) if first is None else first.detach()

    @property
    def anchor(self) -> Tensor:
        """An event well inside the support, in which no sequence ends before it is padded."""
        fac = self.factorization
        anchor = fac.merge(fac.layout.anchor(self._reference))
        return anchor if fac.pad is None else anchor.fill_(fac.pad)

    # Checks of what users give.

    def _check_context(self) -> None:
        context, shape = self.context, self._core.context_shape
        if context is None:
            if shape:
                raise ValueError(
                    f"context: expected (*batch_shape, {spelled(shape)}), got none; "
                    f"the network was built with context_shape {tuple(shape)}"
                )
            self._context_batch = Size()
            return
        if not isinstance(context, Tensor):
            raise ValueError(f"context: expected a tensor, got {type(context).__name__}")
        if not shape:
            raise ValueError(
                f"context: expected none, since the network was built without context_shape, "
                f"got {tuple(context.shape)}"
            )
        if context.shape[-len(shape) :] != shape:
            raise ValueError(
                f"context: expected (*batch_shape, {spelled(shape)}), got {tuple(context.shape)}"
            )
        self._check_kind("context", context, exact=True)
        self._context_batch = context.shape[: -len(shape)]

    def _check_kind(self, name: str, tensor: Tensor, exact: bool) -> None:
        """That dtype and device are the network's; integers pass for floats if not `exact`."""
        like = self._reference
        if tensor.device != like.device:
            raise ValueError(
                f"{name}: expected a tensor on {like.device}, as the network, got {tensor.device}"
            )
        floats = tensor.is_floating_point() or tensor.is_complex()
        if tensor.dtype != like.dtype and (exact or floats):
            raise ValueError(
                f"{name}: expected dtype {like.dtype}, as the network, got {tensor.dtype}; "
                f"{name}.to({like.dtype}) converts it"
            )

    def _checked_mask(self, mask: Tensor) -> Tensor:
        """A mask on the network's device, whose leading dimensions fit batch_shape."""
        lead = mask.shape[: max(mask.dim() - len(self.event_shape), 0)]
        if mask.dtype != torch.bool or mask.shape[len(lead) :] != self.event_shape:
            raise ValueError(
                f"mask: expected (*lead, {spelled(self.event_shape)}) of dtype torch.bool, got "
                f"{tuple(mask.shape)} of dtype {mask.dtype}"
            )
        if not _broadcastable(lead, self.batch_shape):
            raise ValueError(
                f"mask: expected leading dimensions that broadcast with batch_shape "
                f"{tuple(self.batch_shape)}, got {tuple(mask.shape)}"
            )
        return mask.to(self._reference.device)

    def _checked(self, value: Tensor) -> Tensor:
        """A value of the right shape and dtype and, if asked for, inside the support."""
        if not isinstance(value, Tensor):
            raise ValueError(f"value: expected a tensor, got {type(value).__name__}")
        event_dim = len(self.event_shape)
        lead = value.shape[: max(value.dim() - event_dim, 0)]
        if value.shape[len(lead) :] != self.event_shape:
            raise ValueError(
                f"value: expected (*lead, {spelled(self.event_shape)}), got {tuple(value.shape)}"
            )
        if not _broadcastable(lead, self.batch_shape):
            raise ValueError(
                f"value: expected leading dimensions that broadcast with batch_shape "
                f"{tuple(self.batch_shape)}, got {tuple(value.shape)}"
            )
        self._check_kind("value", value, exact=False)
        layout = self.factorization.layout
        dtype = layout.dtype(self._reference.dtype)
        if not layout.is_index:  # whole floats pass for indices, which only the check can tell
            value = value.to(dtype)
        # torch's checks of vectors fail on no values at all
        if self._validate_args and value.numel():
            inside = self.factorization.inside(value, self._ranks)
            if not _all(inside):
                self._explain(value, inside)
        return value.to(dtype)

    def _explain(self, value: Tensor, inside: Tensor) -> None:
        """Raises with the first block that is outside its support."""
        fac = self.factorization
        where = (~inside).nonzero()[0].tolist()
        row, block = tuple(where[:-1]), where[-1]
        if fac.end is not None and fac.layout.inside(fac.split(value)).all():
            raise ValueError(
                f"value: expected pad {fac.pad} in {fac.block_name(block)}, which comes after "
                f"the end {fac.end}, got {fac.split(value)[row][block].item()}"
            )
        entries = fac.layout.take("value", fac.split(value)[row].unsqueeze(0), [block])
        family = fac.layout.families[block]
        raise ValueError(
            f"value: expected {fac.block_name(block)} inside the support {family.support} of "
            f"{family}, got {entries.flatten().tolist()}"
        )

    def __repr__(self) -> str:
        return (
            f"AutoregressiveDistribution({type(self._core).__name__}, "
            f"batch_shape={tuple(self.batch_shape)}, event_shape={tuple(self.event_shape)})"
        )


class _Scope(nn.Module):
    """A module around a network, so that any call can run under `functional_call`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)


def unwrap(network: nn.Module) -> Any:
    """The conditional network inside what `torch.compile` or DDP made of it."""
    core: Any = network
    while not hasattr(core, "factorization"):
        inner = getattr(core, "_orig_mod", None) or getattr(core, "module", None)
        if inner is None:
            raise ValueError(f"network: expected a conditional network, got {network!r}")
        core = inner
    return core


def _has_ties(ranks: Tensor) -> bool:
    return int(ranks.amax(-1).min()) < ranks.shape[-1] - 1


def _all(mask: Tensor) -> bool:
    return bool(torch._is_all_true(mask))


def _broadcastable(first: Size, second: Size) -> bool:
    pairs = zip(reversed(first), reversed(second), strict=False)
    return all(a == b or 1 in (a, b) for a, b in pairs)
