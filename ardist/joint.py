"""What a distribution computes: the scores and draws of a joint, row by row.

A network sees rows: one leading dimension. Here events (*lead, *event_shape) become rows and come
back; orders, observations and parameters that stand in for the network's own are told to it.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from math import prod
from typing import Any, TypeVar

import torch
from torch import Size, Tensor, nn
from torch.func import functional_call

from ardist.decoding import Decoder, draw, draw_by_rows
from ardist.factorization import Factorization
from ardist.layout import Layout
from ardist.ordering import Ordering
from ardist.pathwise import attach, by_iteration, by_sweep
from ardist.shapes import check_kind, check_tensor, check_type, described, spelled

Result = TypeVar("Result")


class Joint:
    """A network under a context, and what may differ from row to row.

    Args:
        network: as of `AutoregressiveDistribution`, like the next three.
        factorization: in place of the network's own.
        context: (*context_batch, *network.context_shape).
        params: tensors by the names of the parameters that they replace.
        ranks: an order for each row, (*lead, num_blocks).
        observed: values and a mask of what is observed, (*lead, *event_shape).

    Attributes:
        core: the network inside `network`, which may be wrapped.
        row_batch: what the leading dimensions of rows broadcast to.

    Raises:
        ValueError: where they do not fit the network.
    """

    def __init__(
        self,
        network: nn.Module,
        factorization: Factorization | None = None,
        context: Tensor | None = None,
        params: Mapping[str, Tensor] | None = None,
        ranks: Tensor | None = None,
        observed: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.network, self.unwrapped = network, unwrap(network)
        if factorization is not None:
            check_type(factorization, Factorization, "factorization")
        self.factorization: Factorization = factorization or self.unwrapped.factorization
        self.context, self.params, self.ranks, self.observed = context, params, ranks, observed
        self._known = self.factorization.with_families_of(self.unwrapped.factorization)
        self._is_own = self._known is self.unwrapped.factorization
        if (reason := self.unsupported_reason(self.factorization)) is not None:
            raise ValueError(f"factorization: {reason}, got {factorization}")
        self.unwrapped._tell_pyro()
        self._check_params()
        self._context_batch = context_batch(self.unwrapped, context)
        if context is not None:
            self.check_kind("context", context, exact=True)
        shapes = [self._context_batch]
        if ranks is not None:
            shapes.append(ranks.shape[:-1])
        if observed is not None:
            event_dim = len(self.factorization.event_shape)
            shapes += [part.shape[: part.dim() - event_dim] for part in observed]
        self.row_batch = Size(torch.broadcast_shapes(*shapes))

    def replace(self, **changes: Any) -> "Joint":
        """The same with other arguments."""
        names = ("network", "factorization", "context", "params", "ranks", "observed")
        return Joint(**{**{name: getattr(self, name) for name in names}, **changes})

    def unsupported_reason(self, factorization: Factorization) -> str | None:
        """Why the network does not follow a factorization, if it does not."""
        known = factorization.with_families_of(self.unwrapped.factorization)
        same = known is self.unwrapped.factorization
        reason: str | None = None if same else self.unwrapped.unsupported_reason(known)
        return reason

    @property
    def reference(self) -> Tensor:
        """A tensor of the dtype and device in which the network computes."""
        given = iter((self.params or {}).values())
        first = next(given, None)
        if first is None:
            first = next(self.unwrapped.parameters(), self.context)
        return torch.empty(0) if first is None else first.detach()

    @property
    def placeholder(self) -> Tensor:
        """An event well inside the support, in which no sequence ends before it is padded."""
        fac = self.factorization
        placeholder = fac.merge(fac.layout.placeholder(self.reference))
        return placeholder if fac.pad is None else placeholder.fill_(fac.pad)

    def replaced(self, function: Callable[..., Result], *args: Any) -> Result:
        """A call while `params` stand in for the network's own."""
        if self.params is None:
            return function(*args)
        named = {f"network.{name}": value for name, value in self.params.items()}
        result: Result = functional_call(_Scope(self.unwrapped), named, (function, *args))
        return result

    @contextmanager
    def as_drawn(self) -> Iterator[None]:
        """The network as it is in draws: without dropout, and in its own dtype."""
        # Decoders write into buffers of the network's dtype, which autocast would not know.
        off = torch.autocast(self.reference.device.type, enabled=False)
        with self.unwrapped.eval_mode(), off:
            yield

    # Rows: one leading dimension, the context's own dimensions last in it, so that row i of N
    # contexts goes with the rows i, N + i, ... of events.

    def _order(self, lead: Size) -> list[int]:
        """The dimensions of `lead`, those along which the context does not vary first."""
        context = (1,) * (len(lead) - len(self._context_batch)) + self._context_batch
        shared = [dim for dim, size in enumerate(context) if size == 1]
        return shared + [dim for dim, size in enumerate(context) if size != 1]

    def rows(self, each: Tensor, shape: Size, lead: Size) -> Tensor:
        """What may differ from row to row, (..., *shape), as (rows, *shape)."""
        each, order = each.expand((*lead, *shape)), self._order(lead)
        return each.permute((*order, *range(len(lead), each.dim()))).reshape((prod(lead), *shape))

    def unrows(self, rows: Tensor, lead: Size) -> Tensor:
        """The inverse: (*lead, *shape)."""
        order = self._order(lead)
        x = rows.reshape((*(lead[dim] for dim in order), *rows.shape[1:]))
        inverse = sorted(range(len(order)), key=order.__getitem__)
        return x.permute((*inverse, *range(len(lead), x.dim())))

    def lead(self, events: Tensor) -> Size:
        """The leading dimensions of events, under those of the rows."""
        lead = events.shape[: events.dim() - len(self.factorization.event_shape)]
        return Size(torch.broadcast_shapes(lead, self.row_batch))

    def blocks(self, events: Tensor, lead: Size) -> Tensor:
        """The blocks of events, or of what is like them: (rows, *value_shape)."""
        fac = self.factorization
        return fac.split(self.rows(events, fac.event_shape, lead))

    def events(self, blocks: Tensor, lead: Size) -> Tensor:
        """The inverse: (*lead, *event_shape)."""
        return self.unrows(self.factorization.merge(blocks), lead)

    def row_ranks(self, lead: Size) -> Tensor | None:
        """(rows, num_blocks) where they differ."""
        return None if self.ranks is None else self.rows(self.ranks, self.ranks.shape[-1:], lead)

    def row_observed(self, lead: Size) -> tuple[Tensor, Tensor] | None:
        """The blocks that are observed, and a mask of them, (rows, *value_shape)."""
        if self.observed is None:
            return None
        values, mask = (self.blocks(part, lead) for part in self.observed)
        return values, mask

    def take(self, rows: Tensor, lead: Size) -> "Joint":
        """The joint of some of the rows of `lead`, by their numbers."""
        places = torch.unravel_index(rows, lead or (1,))

        def take(part: Tensor, dims: int) -> Tensor:
            own = part.shape[: part.dim() - dims]
            if own.numel() == 1:  # not repeated: a context is encoded once
                return part.reshape(part.shape[len(own) :])
            last = zip(places[len(lead) - len(own) :], own, strict=True)
            return part[tuple(at if size > 1 else torch.zeros_like(at) for at, size in last)]

        context, ranks, observed = self.context, self.ranks, self.observed
        event_dim = len(self.factorization.event_shape)
        return self.replace(
            context=None if context is None else take(context, len(self.unwrapped.context_shape)),
            ranks=None if ranks is None else take(ranks, 1),
            observed=observed and tuple(take(part, event_dim) for part in observed),
        )

    @property
    def cut_block(self) -> str | None:
        """The name of a block that is observed in part, if there is one."""
        fac = self.factorization
        mask = None if self.observed is None else fac.split(self.observed[1])
        if mask is None or not fac.layout.is_partially_observed(mask):
            return None
        return fac.block_name(int(fac.layout.partially_observed(mask).nonzero()[0, -1]))

    @property
    def _contexts(self) -> Tensor | None:
        if self.context is None:
            return None
        return self.context.reshape(prod(self._context_batch), *self.unwrapped.context_shape)

    # Passes of the network.

    def run(self, blocks: Tensor, ranks: Tensor | None) -> Tensor:
        """The parameters of all blocks of rows, in one parallel pass.

        An infinite block has no density, and reaches no other one: the network reads its anchor.
        """
        if blocks.shape[0] == 0:  # which modules may refuse: no numbers, whose gradients are zeros
            nothing = self.reference.new_zeros(0, *self.factorization.layout.param_shape)
            return nothing + torch.stack([part.flatten()[:0].sum() for part in self._sources]).sum()
        blocks = self.factorization.layout.finite(blocks)
        if ranks is None and not self._is_own:
            ranks = self.factorization.ranks.flatten().to(self.reference.device)
        given = (blocks, self._contexts) if ranks is None else (blocks, self._contexts, ranks)
        params: Tensor = self.network(*given)
        expected = (blocks.shape[0], *self.factorization.layout.param_shape)
        if params.shape != expected:
            raise ValueError(
                f"network: {type(self.unwrapped).__name__} returned parameters of shape "
                f"{tuple(params.shape)}, expected {expected}"
            )
        return params.to(self.reference.dtype)  # under autocast it was computed in another

    def teach(self, events: Tensor) -> tuple[Tensor, Tensor, Size]:
        """Blocks and parameters of all rows, each given what is before it in `events`."""
        lead = self.lead(events)
        blocks = self.blocks(events, lead)
        return blocks, self.run(blocks, self.row_ranks(lead)), lead

    def decoder(self, num_rows: int, ranks: Tensor | None = None) -> Decoder:
        """The network's decoder, told the factorization where that is not its own."""
        told = {} if self._is_own else {"factorization": self._known}
        decoder: Decoder = self.unwrapped.decoder(num_rows, self._contexts, ranks, **told)
        return decoder

    def differentiable_decoder(self, lead: Size) -> Decoder | None:
        """A decoder that keeps the graph of its steps, where there is one."""
        if self.ranks is not None:
            return None
        decoder: Decoder | None = self.unwrapped._differentiable_decoder(
            self._known, prod(lead), self._contexts
        )
        return decoder

    # Scores.

    def score(self, events: Tensor, kept: Tensor | None = None) -> Tensor:
        """Each block's log_prob, or that of its elements `kept`, given what is observed:
        (*lead, num_blocks).
        """
        blocks, params, lead = self.teach(events)
        fac, layout = self.factorization, self.factorization.layout
        if blocks.shape[0] == 0:
            return params.new_zeros(*lead, fac.num_blocks) + params.sum()
        scores = layout.log_prob(params, blocks)
        if fac.end is not None:
            ranks = self.row_ranks(lead)
            scores = scores.masked_fill(fac.ended(blocks, ranks), 0.0)
            scores = scores.masked_fill(fac.misplaced(blocks, ranks), -torch.inf)
        observed = self.row_observed(lead)
        scored = None if kept is None else self.blocks(kept, lead)

        def share(mask: Tensor) -> Tensor:
            if layout.is_partially_observed(mask):
                return layout.marginal_log_prob(params, blocks, mask)
            return torch.where(layout.whole(mask), scores, 0.0)

        result = scores
        if observed is not None and layout.is_partially_observed(observed[1]):
            result = layout.given_log_prob(params, blocks, observed[1], scored)
        elif scored is not None:
            result = share(scored if observed is None else scored | observed[1])
        if observed is not None:
            values, mask = observed
            result = torch.where(layout.whole(mask), 0.0, result)
            differs = layout.count((blocks != values) & mask) > 0
            result = result.masked_fill(differs, -torch.inf)
        return self.unrows(result, lead)

    # Draws.

    def draw(self, lead: Size, num_steps: int | None = None) -> Tensor:
        """Events (*lead, *event_shape), of which only some steps are drawn if that is asked for."""
        fac, reference, layout = self.factorization, self.reference, self.factorization.layout
        if prod(lead) == 0:
            return reference.new_empty(*lead, *fac.event_shape, dtype=layout.dtype(reference.dtype))
        ranks, observed = self.row_ranks(lead), self.row_observed(lead)
        with self.as_drawn():
            if torch._C._is_tracing() or (
                ranks is not None and (layout.flat or _has_ties(ranks))
            ):  # a trace would repeat what a decoder's loop made of values, so it makes passes
                order = fac.ranks.flatten().expand(prod(lead), -1) if ranks is None else ranks
                blocks = draw_by_rows(lambda x: self.run(x, ranks), fac, order, reference, observed)
            elif ranks is None:
                blocks = draw(self.decoder(prod(lead)), fac, reference, observed, num_steps)
            else:  # steps of one block, which differs from row to row
                steps = fac.with_ordering(Ordering.raster())
                order = layout.expand_to_elements(ranks.argsort(-1))
                if observed is not None:
                    observed = observed[0].gather(1, order), observed[1].gather(1, order)
                decoder = self.decoder(prod(lead), ranks)
                blocks = draw(decoder, steps, reference, observed, num_steps)
                blocks = blocks.gather(1, layout.expand_to_elements(ranks))
        return self.events(blocks, lead)

    def rsample(self, lead: Size, tol: float = 0.0, scored: bool = False) -> tuple[Tensor, Tensor]:
        """Events with gradients, and the scores of their blocks if they are asked for."""
        if prod(lead) > 0:
            with self.as_drawn():
                decoder = self.differentiable_decoder(lead)
                if decoder is not None:
                    return self._by_steps(decoder, lead)
        with torch.no_grad():
            x = self.draw(lead)
        return self.attach(x, tol, scored)

    def _by_steps(self, decoder: Decoder, lead: Size) -> tuple[Tensor, Tensor]:
        """By plain autograd through the steps of a draw."""
        fac, layout, each = self.factorization, self.factorization.layout, list[Tensor]()
        observed = self.row_observed(lead)

        def again(step: Layout, params: Tensor, drawn: Tensor) -> Tensor:
            drawn = step.pathwise(params, drawn)
            each.append(step.log_prob(params, drawn))
            return drawn

        blocks = draw(decoder, fac, self.reference, observed, attach=again)
        scores = blocks.new_zeros(blocks.shape[0], fac.num_blocks, dtype=self.reference.dtype)
        if each:
            last = decoder.num_taken + 1
            drawn = list(chain(*fac.steps[last - len(each) : last]))
            scores = scores.index_copy(
                1, torch.tensor(drawn, device=blocks.device), torch.cat(each, 1)
            )
        if observed is not None:
            scores = scores.masked_fill(layout.whole(observed[1]), 0.0)
        value, scores = attach(blocks.detach(), blocks, scores, lambda *gradients: gradients)
        return self.events(value, lead), self.unrows(scores, lead)

    # Gradients through draws.

    def attach(self, x: Tensor, tol: float = 0.0, scored: bool = False) -> tuple[Tensor, Tensor]:
        """Draws (*lead, *event_shape) with their gradients, and the scores of their blocks, zeros
        if not asked for.
        """
        families = self.factorization.layout.distinct
        wanted = self.has_gradients() and any(family.has_rsample for family in families)
        if not wanted or x.numel() == 0:
            x = x + self.teach(x)[1].sum() if wanted else x  # zero, with its gradients
            with self.unwrapped.eval_mode():
                return x, self.score(x) if scored else x.new_zeros(())
        lead = self.lead(x)
        value, each = self.attach_rows(lead, self.blocks(x.detach(), lead), tol=tol, scored=scored)
        return self.events(value, lead), self.unrows(each, lead)

    def has_gradients(self, *others: Tensor) -> bool:
        """Whether a gradient is kept of these, or of what makes the joint."""
        sources = (*others, *self._sources, *(self.observed or ()))
        return torch.is_grad_enabled() and any(part.requires_grad for part in sources)

    @property
    def _sources(self) -> list[Tensor]:
        """What parameters are computed from."""
        own = [self.reference, *(self.params or {}).values(), *self.unwrapped.parameters()]
        return own if self.context is None else [*own, self.context]

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
        fac, layout = self.factorization, self.factorization.layout
        ranks, observed = self.row_ranks(lead), self.row_observed(lead)
        with self.as_drawn():
            with torch.no_grad():
                own = ranks is None and self._is_own
                sweep = self.unwrapped._sweep(blocks, self._contexts) if own else None
            leaf = blocks.detach().requires_grad_(scored or sweep is None)
            params = self.run(leaf, ranks)
        same, free = (again or layout.pathwise)(params, blocks), None
        scores = blocks.new_zeros(blocks.shape[0], fac.num_blocks)
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

    # Checks of what it is made of.

    def _check_params(self) -> None:
        if self.params is None:
            return
        check_type(self.params, Mapping, "params")
        own, name = dict(self.unwrapped.named_parameters()), type(self.unwrapped).__name__
        if unknown := sorted(set(self.params) - set(own), key=str):
            raise ValueError(f"params: {name} has no parameters {unknown}")
        for key, value in self.params.items():
            check_tensor(value, f"params[{key!r}]")
            if value.shape != own[key].shape:
                raise ValueError(
                    f"params: expected {key!r} of shape {tuple(own[key].shape)}, as in {name}, got "
                    f"{tuple(value.shape)}; for several networks at once use "
                    f"torch.func.vmap, and in Pyro vectorize_particles=False or parallel=False"
                )

    def check_kind(self, name: str, tensor: Tensor, exact: bool) -> None:
        """That dtype and device are the network's; integers pass for floats if not `exact`."""
        check_kind(tensor, name, self.reference, exact)


def context_batch(network: Any, context: Tensor | None) -> Size:
    """The leading dimensions of a context, whose others fit the network."""
    shape = network.context_shape
    if context is None:
        if shape:
            raise ValueError(
                f"context: expected (*batch_shape, {spelled(shape)}), got none; "
                f"the network was built with context_shape {tuple(shape)}"
            )
        return Size()
    check_tensor(context, "context")
    if not shape:
        raise ValueError(
            f"context: expected none, since the network was built with context_shape (), "
            f"got {tuple(context.shape)}"
        )
    if context.shape[-len(shape) :] != shape:
        labels = context.dtype == torch.int64
        hint = "; torch.nn.functional.one_hot makes vectors of labels" if labels else ""
        raise ValueError(
            f"context: expected (*batch_shape, {spelled(shape)}), got {tuple(context.shape)}{hint}"
        )
    return context.shape[: -len(shape)]


class _Scope(nn.Module):
    """A module around a network, so that any call can run under `functional_call`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)


def unwrap(network: nn.Module, name: str = "network") -> Any:
    """The conditional network inside what `torch.compile` or DDP made of it."""
    unwrapped: Any = network
    while not (isinstance(unwrapped, nn.Module) and hasattr(unwrapped, "factorization")):
        inner = getattr(unwrapped, "_orig_mod", None) or getattr(unwrapped, "module", None)
        if not isinstance(inner, nn.Module):
            raise ValueError(f"{name}: expected a conditional network, got {described(network)}")
        unwrapped = inner
    return unwrapped


def _has_ties(ranks: Tensor) -> bool:
    return int(ranks.amax(-1).min()) < ranks.shape[-1] - 1
