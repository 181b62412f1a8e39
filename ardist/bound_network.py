"""A network with the context, the factorization and the parameters that a distribution uses."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Size, Tensor, nn

from ardist.decoding import Decoder
from ardist.factorization import Factorization
from ardist.families.guards import HALF
from ardist.recomputation import call_with_params, compute_weights, gathered
from ardist.shapes import as_positive, check_kind, check_tensor, check_type, described, spelled

if TYPE_CHECKING:
    from ardist.pathwise import Sweep

Result = TypeVar("Result")


class BoundNetwork:
    """A network bound to a context, a factorization and parameters.

    Args:
        network: a conditional network, wrapped or not.
        factorization: replaces the network's own.
        context: (*context_batch, *network.context_shape).
        params: tensors by the names of the parameters that they replace.
        chunk_size: the number of blocks whose parameters exist at a time during scoring.

    Attributes:
        unwrapped: the conditional network inside `network`.
        context_batch: the leading dimensions of the context.
        is_own: whether the factorization is the network's own, except for families and rule.

    Raises:
        ValueError: if the arguments do not fit the network.
    """

    def __init__(
        self,
        network: nn.Module,
        factorization: Factorization | None = None,
        context: Tensor | None = None,
        params: Mapping[str, Tensor] | None = None,
        chunk_size: int | None = None,
    ) -> None:
        self.network, self.unwrapped = network, unwrap(network)
        self.context, self.params = context, params
        found = checked_factorization(self.unwrapped, factorization)
        self.factorization, self.network_factorization = found
        self.is_own = self.network_factorization is self.unwrapped.factorization
        self.unwrapped._register_in_pyro()
        self._check_params()
        self.chunk_size = checked_chunk_size(network, chunk_size)
        self.context_batch = context_batch(self.unwrapped, context)
        if context is not None:
            can_be_cast = context.dtype in HALF and not context.is_meta
            if can_be_cast and torch.is_autocast_enabled(context.device.type):
                self.context = context = context.to(self.reference.dtype)  # from an encoder
            self.check_kind("context", context, exact=True)

    def replace(self, **changes: Any) -> "BoundNetwork":
        """The same bound network with other arguments."""
        names = ("network", "factorization", "context", "params", "chunk_size")
        return BoundNetwork(**{**{name: getattr(self, name) for name in names}, **changes})

    def unsupported_reason(self, factorization: Factorization) -> str | None:
        """Why the network does not support a factorization, or None if it does."""
        own = self.unwrapped.factorization
        wanted = as_built_for(own, factorization)
        return None if wanted is own else self.unwrapped.unsupported_reason(wanted)

    @property
    def reference(self) -> Tensor:
        """A tensor of the dtype and device in which the network computes."""
        if self.params:
            return next(iter(self.params.values())).detach()
        for parameter in self.unwrapped.parameters():
            # FSDP makes the parameters DTensors. The shard of this process suffices.
            return getattr(parameter, "to_local", lambda own=parameter: own)().detach()
        return torch.empty(0) if self.context is None else self.context.detach()

    @property
    def placeholder(self) -> Tensor:
        """An event well inside the support; only padding if sequences have an end."""
        return self.factorization.merge(self.factorization.placeholder(self.reference))

    def with_params(self, function: Callable[..., Result], *args: Any) -> Result:
        """Calls a function while `params` replace the network's own."""
        if self.params is None:
            return function(*args)
        tensors = {**self._moved_buffers(), **self.params}
        return call_with_params(self.unwrapped, tensors, function, *args)

    def _moved_buffers(self) -> dict[str, Tensor]:
        """The buffers in the dtype and on the device of `params`, if the network's own differ."""
        other = self.reference
        own = next(self.unwrapped.parameters(), other)
        if own.dtype == other.dtype and own.device == other.device:
            return {}
        return {
            name: buffer.to(other if buffer.is_floating_point() else other.device)
            for name, buffer in self.unwrapped.named_buffers()
        }

    @contextmanager
    def eval_mode(self) -> Iterator[None]:
        """Puts the network in the mode of draws: no dropout, whole weights, its own dtype."""
        if self.reference.device.type == "meta":
            raise ValueError("network: expected parameters with data, got some on device meta")
        # Decoders write into buffers of the network's dtype, which autocast does not know.
        off = torch.autocast(self.reference.device.type, enabled=False)
        with self.unwrapped.eval_mode(), gathered(self.unwrapped), off:
            yield

    @property
    def contexts(self) -> Tensor | None:
        """The context with one leading dimension."""
        if self.context is None:
            return None
        return self.context.reshape(prod(self.context_batch), *self.unwrapped.context_shape)

    def forward(
        self,
        blocks: Tensor,
        ranks: Tensor | None = None,
        observed: Tensor | None = None,
        sweep: "Sweep | None" = None,
    ) -> Tensor:
        """The parameters of all blocks of rows, in one parallel pass.

        A block with an infinite element scores -inf and has no effect on others: the network
        reads its placeholder instead.

        Args:
            blocks: (rows, *value_shape) in raster order.
            ranks: (rows, num_blocks), if the rows have orders of their own.
            observed: (rows, num_blocks) bool, the blocks that all conditionals of a row depend on
                instead of the earlier ones; only if the network `has_masks`.
            sweep: carries gradients from layer to layer, instead of the graph.
        """
        shape = self.factorization.layout.param_shape
        if blocks.shape[0] == 0:  # modules may refuse zero rows; the gradients are zeros
            nothing = self.reference.new_zeros(0, *shape)
            return nothing + torch.stack([part.flatten()[:0].sum() for part in self.sources]).sum()
        given = {"observed": observed, "sweep": sweep}
        others = {name: part for name, part in given.items() if part is not None}
        compute_weights(self.unwrapped)
        params: Tensor = self.network(*self._inputs(blocks, ranks), **others)
        name = type(self.unwrapped).__name__
        self.factorization.layout.check_params(params, blocks.shape[0], name)
        return params.to(self.reference.dtype)  # autocast computes in another dtype

    def _inputs(self, blocks: Tensor, ranks: Tensor | None) -> tuple[Tensor | None, ...]:
        """The arguments of the network: finite blocks, the contexts, and ranks if not its own."""
        blocks = self.factorization.layout.finite(blocks)
        if ranks is None and not self.is_own:
            ranks = self.factorization.ranks.flatten().to(self.reference.device)
        return (blocks, self.contexts) if ranks is None else (blocks, self.contexts, ranks)

    def hidden_states(self, blocks: Tensor, ranks: Tensor | None = None) -> Tensor:
        """The hidden states of all blocks, (rows, num_blocks, size); arguments as in `forward`."""
        compute_weights(self.unwrapped)
        hidden: Tensor = self.unwrapped.hidden_states(*self._inputs(blocks, ranks))
        return hidden

    def head(self, hidden: Tensor) -> Tensor:
        """The parameters that the head computes from hidden states of some blocks or rows."""
        params: Tensor = self.unwrapped.head(hidden)
        return params.to(self.reference.dtype)

    def make_decoder(self, num_rows: int, ranks: Tensor | None = None) -> Decoder:
        """The network's decoder, for the factorization of the distribution."""
        other = {} if self.is_own else {"factorization": self.network_factorization}
        return self.unwrapped.decoder(num_rows, self.contexts, ranks, **other)

    def differentiable_decoder(self, num_rows: int) -> Decoder | None:
        """A decoder that keeps the graph of its steps, if the network has one."""
        compute_weights(self.unwrapped)
        return self.unwrapped._differentiable_decoder(
            self.network_factorization, num_rows, self.contexts
        )

    def sweep(self) -> "Sweep | None":
        """The network's reverse sweep through a draw, if it has one."""
        return self.unwrapped._sweep() if self.is_own else None

    @property
    def sources(self) -> list[Tensor]:
        """The tensors from which parameters are computed."""
        own = [self.reference, *(self.params or {}).values(), *self.unwrapped.parameters()]
        return own if self.context is None else [*own, self.context]

    def _check_params(self) -> None:
        if self.params is None:
            return
        check_type(self.params, Mapping, "params")
        if torch._C._is_tracing():
            raise NotImplementedError(
                "params: torch.jit.trace does not record a network whose parameters are replaced; "
                "use Pyro's inference without Jit ELBOs and jit_compile=True"
            )
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
            if len(self.params) < len(own):  # all of them may be of another kind together
                check_kind(value, f"params[{key!r}]", own[key], exact=True)

    def check_kind(self, name: str, tensor: Tensor, exact: bool) -> None:
        """Checks that dtype and device are the network's. Integers may be floats if not `exact`."""
        check_kind(tensor, name, self.reference, exact)


def as_built_for(own: Factorization, wanted: Factorization) -> Factorization:
    """A factorization as a network for `own` sees it: with the families and the rule of `own`.

    A network does not depend on the families beyond their numbers of parameters and features.
    If these numbers differ, the result is `wanted`. If the result equals `own`, it is `own` itself.
    """
    if wanted is own:
        return own
    widths = [
        [(family.event_shape, family.num_params, family.num_features) for family in fac.families]
        for fac in (wanted, own)
    ]
    differs = wanted.families != own.families or wanted.rule != own.rule
    if widths[0] == widths[1] and differs:
        if wanted.block_key == own.block_key:
            return own
        families = own.families[0] if own.is_uniform else own.families
        return wanted.replace(families=families, rule=None)
    return own if wanted == own else wanted


def checked_factorization(
    network: Any, wanted: Factorization | None
) -> tuple[Factorization, Factorization]:
    """A factorization, by default the network's own, and the same as the network sees it.

    Raises:
        ValueError: if the network does not support it.
    """
    own: Factorization = network.factorization
    if wanted is None:
        return own, own
    check_type(wanted, Factorization, "factorization")
    built_for = as_built_for(own, wanted)
    if built_for is not own and (reason := network.unsupported_reason(built_for)) is not None:
        raise ValueError(f"factorization: {reason}, got {wanted}")
    return wanted, built_for


def context_batch(network: Any, context: Tensor | None) -> Size:
    """The leading dimensions of a context, whose last dimensions must fit the network."""
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
        hint = "; torch.nn.functional.one_hot(labels).float() makes vectors" if labels else ""
        raise ValueError(
            f"context: expected (*batch_shape, {spelled(shape)}), got {tuple(context.shape)}{hint}"
        )
    return context.shape[: -len(shape)]


def check_contexts(network: Any, context: Tensor | None, num_rows: int, name: str) -> None:
    """Raises a `ValueError` unless a context is (N, *network.context_shape) and N divides the rows.

    Args:
        network: a conditional network.
        context: the contexts of the rows; row i has context i % N.
        num_rows: the number of rows.
        name: the name of the argument `num_rows` in errors.
    """
    batch = context_batch(network, context)
    if context is None:
        return
    check_kind(context, "context", next(network.parameters(), context), exact=True)
    if len(batch) != 1 or batch[0] == 0 or num_rows % batch[0]:
        raise ValueError(
            f"context: expected (N, {spelled(network.context_shape)}) with an N that divides "
            f"{name} {num_rows}, got {tuple(context.shape)}"
        )


def checked_chunk_size(network: nn.Module, chunk_size: int | None) -> int | None:
    """`chunk_size` if the network can score in chunks; a `ValueError` otherwise."""
    if chunk_size is None:
        return None
    unwrapped = unwrap(network)
    if not unwrapped.has_hidden_states:
        raise ValueError(
            f"chunk_size: expected none for {type(unwrapped).__name__}, which has no hidden states "
            f"that give the parameters of some of the blocks, got {described(chunk_size)}"
        )
    if network is not unwrapped:
        raise ValueError(
            f"chunk_size: expected none for a wrapped network, whose wrapper would not be called, "
            f"got {described(chunk_size)}; wrap LogLikelihood(network, chunk_size=...) instead"
        )
    return as_positive(chunk_size, "chunk_size")


def unwrap(network: nn.Module, name: str = "network") -> Any:
    """The conditional network inside a wrapper, such as `torch.compile` or DDP."""
    unwrapped: Any = network
    # Found by its class, since a wrapper may forward the attributes of the network inside.
    while not hasattr(type(unwrapped), "unsupported_reason"):
        inner = getattr(unwrapped, "_orig_mod", None) or getattr(unwrapped, "module", None)
        if not isinstance(inner, nn.Module):
            raise ValueError(f"{name}: expected a conditional network, got {described(network)}")
        unwrapped = inner
    return unwrapped
