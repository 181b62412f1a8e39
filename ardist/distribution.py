"""The product of conditionals as one distribution."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions.score_parts import ScoreParts
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from ardist.conditioning import Marginal, dense, observed_first
from ardist.constraints import SequenceConstraint
from ardist.factorization import Factorization
from ardist.families import Family
from ardist.families.truncated import Likeliest
from ardist.joint import Joint
from ardist.ordering import Ordering
from ardist.shapes import (
    as_choice,
    as_flag,
    as_integers,
    as_shape,
    as_tolerance,
    check_data,
    check_tensor,
    expanded,
    is_recorded,
    leading,
    over_batch,
)

_MAX_STATES = 4096  # of an event that is enumerated
_NAN_POLICIES = ("raise", "marginalize")


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
        params: tensors that replace the network's parameters, by name. They stand in the network
            while it computes, so that no other thread may use it then.
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
        self.nan_policy = as_choice(nan_policy, _NAN_POLICIES, "nan_policy")
        if validate_args is not None:
            as_flag(validate_args, "validate_args")
        self.joint = Joint(network, factorization, context, params)
        self._reset()
        super().__init__(
            self.joint.row_batch, self.factorization.event_shape, validate_args=validate_args
        )
        if self._validate_args and context is not None and not _all(context.isfinite()):
            count = int((~context.isfinite()).sum())
            raise ValueError(
                f"context: expected finite numbers, got NaN or infinity in {count} of "
                f"{context.numel()}"
            )

    def _reset(self) -> None:
        """What Pyro assigns, as it follows from the families."""
        self.has_rsample = self.factorization.has_rsample
        states = self.factorization.num_states
        self.has_enumerate_support = states is not None and states <= _MAX_STATES

    @property
    def network(self) -> nn.Module:
        """The conditional network, wrapped or not."""
        return self.joint.network

    @property
    def context(self) -> Tensor | None:
        """What the joint is conditioned on."""
        return self.joint.context

    @property
    def factorization(self) -> Factorization:
        """The blocks, their order and their families."""
        return self.joint.factorization

    @property
    def params(self) -> Mapping[str, Tensor] | None:
        """What replaces the network's parameters."""
        return self.joint.params

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """Where events lie; `biject_to` and `transform_to` know it."""
        fac = self.factorization
        if self.joint.ranks is None or fac.end is None:
            return fac.support
        inside = partial(fac.inside, ranks=self.joint.ranks)
        return SequenceConstraint(inside, len(fac.event_shape), fac.end)

    @property
    def ordering(self) -> Ordering | Tensor:
        """In which order blocks are drawn; ranks (*batch_shape, *grid_shape) where rows differ."""
        if self.joint.ranks is None:
            return self.factorization.ordering
        ranks = self.joint.ranks.expand(*self.batch_shape, self.factorization.num_blocks)
        return ranks.reshape(*self.batch_shape, *self.factorization.grid_shape)

    def expand(
        self, batch_shape: Sequence[int], _instance: "AutoregressiveDistribution | None" = None
    ) -> "AutoregressiveDistribution":
        """The same distribution with a larger batch_shape, in constant time: nothing is run."""
        new: AutoregressiveDistribution = expanded(self, batch_shape, _instance)
        return new

    # Scores.

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability or density of events, in nats: sample_shape + batch_shape.

        One parallel pass over all blocks. `value` (*lead, *event_shape) broadcasts against
        batch_shape in both directions. Dropout is on if the network is in training mode, while
        draws never drop out: call `network.eval()` before scores are compared, or score draws by
        `sample_and_log_prob`.
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
            return self.joint.replaced(self.joint.score, self.checked(value))
        kept = ~value.isnan()
        return self.scores_of(torch.where(kept, value, self.joint.placeholder), kept)

    def scores_of(self, value: Tensor, kept: Tensor) -> Tensor:
        """Each block's share of the log_prob of the elements `kept`: (*lead, num_blocks).

        For families and distributions that are made of this one; elements that are not kept are
        inside the support.
        """
        if self.joint.observed is not None:
            values, mask = self.joint.observed
            value = torch.where(mask & ~kept, values, value)
        first = self._first(kept)
        return first.joint.replaced(first.joint.score, first.checked(value, mask=kept), kept)

    def conditionals(
        self, value: Tensor
    ) -> Distribution | tuple[Distribution, ...] | dict[str, Distribution]:
        """The conditional of every block given the blocks before it in `value`.

        One distribution of batch_shape (*lead, *grid_shape) where all blocks have one family,
        otherwise a tuple by block; a dict by name for named columns.
        """
        value, joint = self.checked(value), self.joint
        fac, layout = self.factorization, self.factorization.layout
        _, params, shape = joint.replaced(joint.teach, value)
        lead = torch.broadcast_shapes(shape, self.batch_shape)
        params = joint.unrows(params, shape).expand((*lead, *layout.param_shape))
        if fac.is_uniform and fac.names is None:
            family = layout.families[0]
            params = params.reshape(*lead, *fac.grid_shape, family.num_params)
            if fac.end is None:
                return family(params)
            ended = fac.ended(fac.split(value), joint.ranks).expand(*lead, -1)
            return fac.padded(family, params, ended.reshape(*lead, *fac.grid_shape))
        pieces = params.split(layout.sizes["param"], -1) if layout.flat else params.unbind(-2)
        pairs = list(zip(layout.families, pieces, strict=True))
        if fac.end is None:
            each = [family(piece) for family, piece in pairs]
        else:
            after = fac.ended(fac.split(value), joint.ranks).expand(*lead, -1).unbind(-1)
            each = [fac.padded(*pair, ended) for pair, ended in zip(pairs, after, strict=True)]
        return tuple(each) if fac.names is None else dict(zip(fac.names, each, strict=True))

    # Draws.

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Events drawn step by step from cached state: sample_shape + batch_shape + event_shape."""
        with torch.no_grad():
            lead = as_shape(sample_shape, "sample_shape") + self.batch_shape
            drawn = self.joint.replaced(self.joint.draw, lead)
        return drawn.detach()  # torch.jit.trace records no torch.no_grad

    def draws_of(self, sample_shape: Sequence[int], kept: Tensor) -> Tensor:
        """Events of which only the elements `kept` are drawn; for what is made of this one."""
        fac, joint = self.factorization, self.joint
        ranks = fac.ranks.flatten() if joint.ranks is None else joint.ranks
        steps = ranks[..., fac.layout.count(fac.split(kept)).to(ranks.device) > 0]
        lead = as_shape(sample_shape, "sample_shape") + self.batch_shape
        with torch.no_grad():
            return joint.replaced(joint.draw, lead, int(steps.max()) + 1 if steps.numel() else 1)

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
            NotImplementedError: under `torch.jit.trace`, as in Pyro's JitTrace_ELBO.
            RuntimeError: in a backward pass with `create_graph=True`: a draw is differentiable
                once.
        """
        return self._rsample(sample_shape, tol, scored=False)[0]

    def sample_and_log_prob(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """A draw and its log_prob, both from the network without dropout."""
        x = self.sample(sample_shape)
        with self.joint.unwrapped.eval_mode():
            return x, self.joint.replaced(self.joint.score, x).sum(-1)

    def rsample_and_log_prob(
        self, sample_shape: Sequence[int] = (), *, tol: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """A draw with gradients and its log_prob, from the same pass; args as of `rsample`."""
        x, scores = self._rsample(sample_shape, tol, scored=True)
        return x, scores.sum(-1)

    def _rsample(
        self, sample_shape: Sequence[int], tol: float, scored: bool
    ) -> tuple[Tensor, Tensor]:
        fac, joint = self.factorization, self.joint
        lead = as_shape(sample_shape, "sample_shape") + self.batch_shape
        tol = as_tolerance(tol, "tol")
        if torch._C._is_tracing():
            raise NotImplementedError(
                "rsample: torch.jit.trace does not record gradients through draws; "
                "has_rsample_(False) asks Pyro for the score function instead"
            )
        if not (fac.has_rsample or self.has_rsample):
            without = [f for f in fac.layout.distinct if not f.has_rsample]
            raise NotImplementedError(
                f"rsample: no gradients through draws of {without}; has_rsample_(True) asks for "
                f"those of the other blocks"
            )
        if (block := joint.cut_block) is not None:
            raise NotImplementedError(f"rsample: no gradients through {block}, observed in part")
        return joint.replaced(joint.rsample, lead, tol, scored)

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
        as_flag(expand, "expand")
        states = self.factorization.num_states
        if states is None or states > _MAX_STATES:
            raise NotImplementedError(
                f"enumerate_support: expected at most {_MAX_STATES} states, got "
                f"{'infinitely many' if states is None else states}"
            )
        reference = self.joint.reference
        values = self.factorization.enumerate_support().to(reference.device)
        if not self.factorization.layout.is_index:
            values = values.to(reference.dtype)
        return over_batch(values, self.batch_shape, expand)

    @property
    def mean(self) -> Tensor:
        """Not known in closed form."""
        raise NotImplementedError(
            "mean: has no closed form; p.sample((1000,)).mean(0) estimates it"
        )

    @property
    def variance(self) -> Tensor:
        """Not known in closed form."""
        raise NotImplementedError(
            "variance: has no closed form; p.sample((1000,)).var(0) estimates it"
        )

    @property
    def mode(self) -> Tensor:
        """The event that takes the likeliest state of each block given those before it, greedily:
        batch_shape + event_shape. Other events may be likelier; `ardist.sampling.beam_search`
        finds them.

        Raises:
            NotImplementedError: where a block has no finite set of states.
        """
        fac = self.factorization
        if infinite := [f for f in fac.layout.distinct if f.enumerate_support() is None]:
            raise NotImplementedError(
                f"mode: expected blocks with a finite set of states, got {infinite}; the likeliest "
                f"of some draws is x[p.log_prob(x).argmax(0)] with x = p.sample((1000,))"
            )
        likeliest = [Likeliest(family) for family in fac.families]  # of uniform blocks one
        return self.with_families(likeliest[0] if fac.is_uniform else likeliest).sample()

    # Distributions that follow from this one.

    def with_ordering(self, ordering: Ordering | Tensor) -> "AutoregressiveDistribution":
        """The joint that the network gives under another order of the same blocks.

        Args:
            ordering: one for all, or ranks (*lead, *grid_shape) int64: an order for each row,
                where `lead` broadcasts with batch_shape.

        Raises:
            ValueError: where the network does not follow it.
        """
        joint, grid = self.joint, self.factorization.grid_shape
        if joint.observed is not None:
            return self._with(observed=None).with_ordering(ordering).given(*joint.observed)
        if isinstance(ordering, Ordering):
            factorization = self.factorization.with_ordering(ordering)
            return self._with(factorization=factorization, ranks=None)
        check_tensor(ordering, "ordering")
        ordering = as_integers(ordering, "ordering")
        lead = leading(ordering.shape, grid, self.batch_shape, "ordering")
        if not lead:
            return self.with_ordering(Ordering.from_ranks(ordering))
        if not joint.unwrapped.has_row_orders:
            raise ValueError(
                f"ordering: {type(joint.unwrapped).__name__} has one order for all rows, got ranks "
                f"{tuple(ordering.shape)}"
            )
        ranks = ordering.reshape(*lead, self.factorization.num_blocks)
        ranks = dense(ranks.to(joint.reference.device, torch.int64))
        if ranks.numel():  # rows are refused for their ties, if at all: the one with most tells
            row = ranks.flatten(0, -2)[ranks.amax(-1).flatten().argmin()]
            one = self.factorization.with_ordering(Ordering.from_ranks(row.reshape(grid)))
            if (reason := joint.unsupported_reason(one)) is not None:
                raise ValueError(f"ordering: {reason}, got {one}")
        return self._with(ranks=ranks)

    def with_families(self, families: Family | Sequence[Family]) -> "AutoregressiveDistribution":
        """The same network with conditionals of other forms, such as `TopK` or `Tempered` ones.

        Raises:
            ValueError: where they take other numbers of parameters than the network gives.
        """
        return self._with(factorization=self.factorization.with_families(families))

    def given(self, value: Tensor, mask: Tensor) -> "AutoregressiveDistribution":
        """The whole event with the elements of `value` under `mask` observed.

        Its `log_prob` is that of the others given these, -inf where a value disagrees with them;
        its `sample` returns whole events. Exact for this joint where the observed blocks are
        ancestral, that is where none depends on a block that is not observed: a prefix, say, or
        the ancestors in a graph. Elsewhere a network for any order answers under the ordering
        that puts the observed blocks first, both parts in their old order. That is another joint,
        as good as the network learned that order; `given(...).ordering` shows which it is.

        Args:
            value: (*lead, *event_shape), of which only what is observed counts.
            mask: (*lead, *event_shape) bool; leading dimensions of both broadcast with
                batch_shape. Rows may differ where all are ancestral, or the network takes an
                order for each row. A mask that cuts a block goes to its family; a nested block
                is answered in the order that `families.Nested.ordering_given` shows.

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
        check_data(value, "value")
        leading(value.shape, self.event_shape, self.batch_shape, "value")
        first = self._first(mask)
        value = torch.where(mask, value, self.joint.placeholder)
        if self.joint.observed is not None:
            before, seen = self.joint.observed
            value, mask = torch.where(seen, before, value), mask | seen
        self._try(self.factorization.layout.given_log_prob, mask)
        value = first.checked(value, mask=mask)
        if not _all(value.isfinite()):
            raise ValueError(
                f"value: expected finite numbers under the mask, got "
                f"{value[~value.isfinite()][0].item()}, given which nothing has a density"
            )
        return first._with(observed=(value, mask))

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
        first = self._first(mask)
        result = Marginal(first, mask, first._validate_args)
        self._try(self.factorization.layout.marginal_log_prob, mask)
        return result

    def _first(self, mask: Tensor) -> "AutoregressiveDistribution":
        """This joint where the elements under a mask are ancestral in it, else the one under the
        order that puts them first.
        """
        fac, observed = self.factorization, self.joint.observed
        if observed is not None:
            mask = mask | observed[1]
        ordering = observed_first(fac, self.joint.ranks, fac.split(mask))
        if ordering is None:
            return self
        try:
            other = self._with(observed=None).with_ordering(ordering)
        except ValueError as error:
            raise ValueError(
                f"mask: blocks under it depend on others in the order {self.ordering!r}, and the "
                f"order that puts them first is refused: {error}; a Transformer follows any order"
            ) from error
        if observed_first(other.factorization, other.joint.ranks, fac.split(mask)) is not None:
            cut = fac.layout.partially_observed(fac.split(mask)).nonzero()[:, -1].unique().tolist()
            raise ValueError(
                f"mask: expected one that cuts no block on which another one depends, got one "
                f"that cuts {', '.join(map(fac.block_name, cut))}"
            )
        return other._with(observed=observed)

    @torch.no_grad()
    def _try(self, score: Callable[[Tensor, Tensor, Tensor], Tensor], mask: Tensor) -> None:
        """Raises what a family says of a mask that cuts its block."""
        fac, layout = self.factorization, self.factorization.layout
        if layout.is_partially_observed(fac.split(mask)):
            rows = fac.split(mask.reshape(-1, *self.event_shape).unique(dim=0))
            params = self.joint.reference.new_zeros(rows.shape[0], *layout.param_shape)
            score(params, fac.split(self.joint.placeholder).expand_as(rows), rows)

    def _with(self, **changes: Any) -> "AutoregressiveDistribution":
        """The same with another factorization, or other ranks and observations of rows."""
        joint = self.joint.replace(**changes)
        new = self.expand(torch.broadcast_shapes(self.batch_shape, joint.row_batch))
        new.joint = joint
        if joint.factorization.families != self.factorization.families:
            new._reset()
        if joint.ranks is not None and joint.factorization.end is not None:
            new.has_enumerate_support = False  # rows have different states
        return new

    # Checks of what users give.

    def _checked_mask(self, mask: Tensor) -> Tensor:
        """A mask on the network's device, whose leading dimensions fit batch_shape."""
        check_data(mask, "mask")
        leading(mask.shape, self.event_shape, self.batch_shape, "mask")
        if mask.dtype != torch.bool:
            raise ValueError(f"mask: expected dtype torch.bool, got {mask.dtype}")
        return mask.to(self.joint.reference.device)

    def checked(self, value: Tensor, name: str = "value", *, mask: Tensor | None = None) -> Tensor:
        """A value of the right shape and dtype and, if asked for, inside the support; for what is
        made of this distribution. Of a block that a mask cuts, only the elements under it count.
        """
        self.check_value(value, name)
        layout = self.factorization.layout
        dtype = layout.dtype(self.joint.reference.dtype)
        if not layout.is_index:  # whole floats pass for indices, which only the check can tell
            value = value.to(dtype)
        # torch's checks of vectors fail on no values at all
        if self._validate_args and value.numel():
            inside = self.factorization.inside(value, self.joint.ranks)
            if mask is not None and not _all(inside):
                inside = inside | self._possible(value, mask)
            if not _all(inside):
                self._explain(value, inside, name)
        return value.to(dtype)

    @torch.no_grad()
    def _possible(self, value: Tensor, mask: Tensor) -> Tensor:
        """Which blocks are under a mask in part, by elements that some value of the block has."""
        fac, layout = self.factorization, self.factorization.layout
        blocks, part = torch.broadcast_tensors(fac.split(value), fac.split(mask))
        if not layout.is_partially_observed(part):
            return torch.zeros((), dtype=torch.bool, device=value.device)
        lead = blocks.shape[: blocks.dim() - len(layout.value_shape)]
        params = self.joint.reference.new_zeros(*lead, *layout.param_shape)
        return layout.partially_observed(part) & (
            layout.marginal_log_prob(params, blocks, part) > -torch.inf
        )

    def check_value(self, value: Tensor, name: str) -> None:
        """Raises where the shape, dtype or device of a value is wrong."""
        check_tensor(value, name)
        leading(value.shape, self.event_shape, self.batch_shape, name)
        self.joint.check_kind(name, value, exact=False)

    def _explain(self, value: Tensor, inside: Tensor, name: str) -> None:
        """Raises with the first block that is outside its support."""
        fac = self.factorization
        where = (~inside).nonzero()[0].tolist()
        row, block = tuple(where[:-1]), where[-1]
        if fac.end is not None and fac.layout.inside(fac.split(value)).all():
            raise ValueError(
                f"{name}: expected pad {fac.pad} in {fac.block_name(block)}, which comes after "
                f"the end {fac.end}, got {fac.split(value)[row][block].item()}"
            )
        entries = fac.layout.gather_blocks("value", fac.split(value)[row].unsqueeze(0), [block])
        family = fac.layout.families[block]
        hint = '; nan_policy="marginalize" takes NaN as missing' if entries.isnan().any() else ""
        raise ValueError(
            f"{name}: expected {fac.block_name(block)} inside the support {family.support} of "
            f"{family}, got {entries.flatten().tolist()}{hint}"
        )

    def __repr__(self) -> str:
        return (
            f"AutoregressiveDistribution({type(self.joint.unwrapped).__name__}, "
            f"batch_shape={tuple(self.batch_shape)}, event_shape={tuple(self.event_shape)})"
        )


def _all(mask: Tensor) -> bool:
    """Whether a check holds everywhere; a graph that is recorded has none."""
    return is_recorded() or bool(torch._is_all_true(mask))
