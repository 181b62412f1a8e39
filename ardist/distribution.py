"""The product of conditionals as one distribution."""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, ClassVar, TypeVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor, nn
from torch.distributions import Distribution, constraints
from torch.func import functional_call

from ardist.factorization import Factorization
from ardist.layout import Layout
from ardist.sampling import Decoder, WholePasses, draw
from ardist.shapes import spelled

_MAX_STATES = 4096  # of an event that is enumerated

Result = TypeVar("Result")


class AutoregressiveDistribution(TorchDistribution):
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
        validate_args: bool | None = None,
    ) -> None:
        core = unwrap(network)
        if factorization is not None and (reason := core.accepts(factorization)) is not None:
            raise ValueError(f"factorization: {reason}, got {factorization}")
        if params is not None:
            known = {name for name, _ in core.named_parameters()}
            if unknown := sorted(set(params) - known):
                raise ValueError(f"params: {type(core).__name__} has no parameters {unknown}")
        self.network = network
        self.context = context
        self.factorization: Factorization = factorization or core.factorization
        self.params = params
        self._core = core
        self._check_context()
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
        return self.factorization.support

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
        value = self._checked(value)
        result = self._replaced(self._score, value).sum(-1)
        return result.expand(torch.broadcast_shapes(result.shape, self.batch_shape))

    def log_prob_blocks(self, value: Tensor) -> Tensor:
        """Each block's log_prob given those before it, in nats: (*lead, *grid_shape)."""
        value = self._checked(value)
        result = self._replaced(self._score, value)
        lead = torch.broadcast_shapes(result.shape[:-1], self.batch_shape)
        return result.expand((*lead, -1)).reshape((*lead, *self.factorization.grid_shape))

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
            return layout.families[0](params.reshape(*lead, *fac.grid_shape, -1))
        pieces = params.split(layout.sizes["param"], -1) if layout.flat else params.unbind(-2)
        each = [family(piece) for family, piece in zip(layout.families, pieces, strict=True)]
        return tuple(each) if fac.names is None else dict(zip(fac.names, each, strict=True))

    # Draws.

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Events drawn step by step from cached state: sample_shape + batch_shape + event_shape."""
        with torch.no_grad():
            return self._replaced(self._draw, Size(sample_shape), False)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Events with gradients to the parameters and the context, by autograd through the steps.

        Raises:
            NotImplementedError: where a family has no `rsample`.
        """
        if not self.factorization.has_rsample:
            without = [f for f in self.factorization.layout.distinct if not f.has_rsample]
            raise NotImplementedError(f"rsample: no gradients through draws of {without}")
        return self._replaced(self._draw, Size(sample_shape), True)

    def sample_and_log_prob(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """A draw and its log_prob, both from the network without dropout."""
        x = self.sample(sample_shape)
        return x, self._unchecked_log_prob(x)

    def rsample_and_log_prob(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """A draw with gradients and its log_prob."""
        x = self.rsample(sample_shape)
        return x, self._unchecked_log_prob(x)

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
        return Size(torch.broadcast_shapes(lead, self._context_batch))

    def _pass(self, value: Tensor) -> tuple[Tensor, Tensor, Size]:
        """Blocks and parameters of all rows, in one parallel pass."""
        lead = self._lead(value)
        events = self._rows(value.expand((*lead, *self.event_shape)), lead)
        blocks = self.factorization.split(events)
        if len(blocks) == 0:  # which recurrent modules of torch refuse
            return (
                blocks,
                self._reference.new_empty(0, *self.factorization.layout.param_shape),
                lead,
            )
        return blocks, self._network(blocks, self._contexts), lead

    def _network(self, blocks: Tensor, context: Tensor | None, _: None = None) -> Tensor:
        """The network, told the order where that is not its own."""
        if self.factorization is self._core.factorization:
            params: Tensor = self.network(blocks, context)
        else:
            ranks = self.factorization.ranks.flatten().to(self._reference.device)
            params = self.network(blocks, context, ranks)
        expected = (len(blocks), *self.factorization.layout.param_shape)
        if params.shape != expected:
            raise ValueError(
                f"network: {type(self._core).__name__} returned parameters of shape "
                f"{tuple(params.shape)}, expected {expected}"
            )
        return params.to(self._reference.dtype)  # under autocast it was computed in another

    def _score(self, value: Tensor) -> Tensor:
        blocks, params, lead = self._pass(value)
        if len(blocks) == 0:
            return params.new_zeros(*lead, self.factorization.num_blocks)
        return self._unrows(self.factorization.layout.log_prob(params, blocks), lead)

    def _params(self, value: Tensor) -> Tensor:
        _, params, lead = self._pass(value)
        return self._unrows(params, lead)

    def _draw(self, sample_shape: Size, reparameterized: bool) -> Tensor:
        fac, lead = self.factorization, sample_shape + self.batch_shape
        rows, like = prod(lead), self._reference
        if rows == 0:
            return like.new_empty(*lead, *self.event_shape, dtype=fac.layout.dtype(like.dtype))
        # Decoders write into buffers of the network's dtype, which autocast would not know.
        with self._core.evaluating(), torch.autocast(like.device.type, enabled=False):
            if reparameterized:
                decoder: Decoder = WholePasses(self._network, fac, rows, self._contexts, like=like)
            else:
                other = {} if fac is self._core.factorization else {"factorization": fac}
                decoder = self._core.decoder(rows, self._contexts, **other)
            blocks = draw(decoder, like, Layout.rsample if reparameterized else None)
        return self._unrows(fac.merge(blocks), lead)

    def _unchecked_log_prob(self, x: Tensor) -> Tensor:
        with self._core.evaluating():
            return self._replaced(self._score, x).sum(-1)

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
        if self._validate_args and value.numel() and not _all(self.factorization.inside(value)):
            self._explain(value)
        return value.to(dtype)

    def _explain(self, value: Tensor) -> None:
        """Raises with the first block that is outside its support."""
        fac = self.factorization
        where = (~fac.inside(value)).nonzero()[0].tolist()
        row, block = tuple(where[:-1]), where[-1]
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


def _all(mask: Tensor) -> bool:
    return bool(torch._is_all_true(mask))


def _broadcastable(first: Size, second: Size) -> bool:
    pairs = zip(reversed(first), reversed(second), strict=False)
    return all(a == b or 1 in (a, b) for a, b in pairs)
