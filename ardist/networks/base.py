"""The contract of conditional networks."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn

from ardist.bound_network import context_batch, unwrap
from ardist.decoding import Decoder, WholePasses
from ardist.distribution import AutoregressiveDistribution
from ardist.factorization import Factorization
from ardist.ordering import Ordering
from ardist.pathwise import Sweep
from ardist.shapes import (
    as_choice,
    as_integers,
    as_positive,
    as_size,
    check_kind,
    check_type,
    outside_modes,
    shortened,
)

_STATE_SIZE = 2048  # bytes of a network's extra state, always the same


class ConditionalNetwork(nn.Module):
    """Maps the past, and a context, to the parameters of every conditional.

    To write one, define `forward`; whatever dependencies the factorization does not allow it
    must not have (`ardist.testing.check_autoregressive` tells). `decoder` makes sampling cost
    one step a step instead of a whole pass; by default it makes whole passes, by fixed-point
    iteration where that may be fewer than one a step.

    Args:
        factorization: the only source of truth about blocks, order and families.
        context_shape: shape of one context, `()` for none.
        context_kind: what the context is: `"vector"` (C,), `"blocks"` (*grid_shape, C): a vector
            for each block, or `"sequence"` (S, C): of any other length; as far as the network
            takes them.

    Raises:
        ValueError: where the network cannot follow the factorization or take such a context.

    >>> import torch, ardist as ad
    >>> class Counting(ad.networks.ConditionalNetwork):
    ...     "The more ones before, the more probable is another one."
    ...     def forward(self, blocks, context=None, ranks=None):
    ...         return (blocks.cumsum(1) - blocks).unsqueeze(-1)
    >>> net = Counting(ad.Factorization(3, ad.families.Bernoulli()))
    >>> net.condition().log_prob(torch.ones(3)).exp()  # 1/2 * sigmoid(1) * sigmoid(2)
    tensor(0.3220)
    """

    context_kinds: ClassVar[tuple[str, ...]] = ("vector",)
    has_row_orders: ClassVar[bool] = False
    """Whether `ranks` may be given for each row."""

    def __init__(
        self,
        factorization: Factorization,
        *,
        context_shape: Sequence[int] = (),
        context_kind: str = "vector",
    ) -> None:
        super().__init__()
        check_type(factorization, Factorization, "factorization")
        self.factorization = factorization
        # What families have inside is trained, moved and saved with the network.
        inside = [module for f in factorization.layout.distinct for module in f.modules]
        if inside:
            self.nested = nn.ModuleList(dict.fromkeys(inside))
        self.context_shape = as_size(context_shape, "context_shape")
        self.context_kind = as_choice(context_kind, self.context_kinds, "context_kind")
        grid = tuple(map(str, factorization.grid_shape)) if context_kind == "blocks" else ()
        expected = {"vector": (), "blocks": grid, "sequence": ("S",)}[context_kind]
        given = tuple(self.context_shape)
        lead = given[:-1] if context_kind == "blocks" else expected[: len(given) - 1]
        if given and (len(given) != len(expected) + 1 or tuple(map(str, lead)) != expected):
            wanted = ", ".join([*expected, "C"]) + ("" if expected else ",")
            raise ValueError(
                f"context_shape: expected ({wanted}) for a context of kind {context_kind!r}, "
                f"got {given}"
            )

    def forward(
        self, blocks: Tensor, context: Tensor | None = None, ranks: Tensor | None = None
    ) -> Tensor:
        """The parameters of every conditional, given all blocks: teacher forcing.

        Args:
            blocks: (M * N, num_blocks, *block_shape) in raster order of the grid, whatever the
                ordering; flat, (M * N, total), where families differ.
            context: (N, *context_shape); row i goes with the blocks' rows i, N + i, ...
            ranks: (num_blocks,) or (M * N, num_blocks) int64, only where they differ from the
                factorization's own.

        Returns:
            (M * N, num_blocks, num_params), or flat like the blocks.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define forward")

    def decoder(
        self,
        batch_size: int,
        context: Tensor | None = None,
        ranks: Tensor | None = None,
        *,
        factorization: Factorization | None = None,
    ) -> Decoder:
        """The incremental twin of `forward`, for `batch_size` rows and a context as there.

        Args:
            ranks: as in `forward`; for each row where `has_row_orders`.
            factorization: in place of the network's own, where that differs in length or order.

        Raises:
            ValueError: where the network does not serve that order or factorization.
        """
        own = self.factorization
        wanted = own if factorization is None else factorization
        check_type(wanted, Factorization, "factorization")
        batch_size = as_positive(batch_size, "batch_size")
        context_batch(self, context)
        if context is not None:
            check_kind(context, "context", next(self.parameters(), context), exact=True)
        if ranks is not None:
            ranks = as_integers(ranks, "ranks")
            if ranks.shape[-1:] != (wanted.num_blocks,):
                raise ValueError(
                    f"ranks: expected one for each of the {wanted.num_blocks} blocks, got "
                    f"{tuple(ranks.shape)}"
                )
        if ranks is not None and ranks.dim() == 1:
            ordering = Ordering.from_ranks(ranks.reshape(wanted.grid_shape))
            wanted, ranks = wanted.with_ordering(ordering), None
        if wanted is not own and (reason := self.unsupported_reason(wanted)) is not None:
            raise ValueError(f"factorization: {reason}, got {wanted}")
        if ranks is not None and not self.has_row_orders:
            raise ValueError(
                f"ranks: {type(self).__name__} draws all rows in one order, "
                f"got {tuple(ranks.shape)}"
            )
        if ranks is not None:  # each step is of one block, which differs from row to row
            _check_rows(ranks, wanted)
            wanted = wanted.with_ordering(Ordering.raster())
        with torch.no_grad():
            return self.make_decoder(wanted, batch_size, context, ranks)

    def make_decoder(
        self,
        factorization: Factorization,
        batch_size: int,
        context: Tensor | None,
        ranks: Tensor | None,
    ) -> Decoder:
        """By whole passes; ranks are given only for each row, where `has_row_orders`."""
        if ranks is None and factorization is not self.factorization:
            ranks = factorization.ranks.flatten().to(reference_of(self).device)
        return WholePasses(
            self._evaluate, factorization, batch_size, context, ranks, reference=reference_of(self)
        )

    def _sweep(self, blocks: Tensor, context: Tensor | None) -> Sweep | None:
        """What sends gradients back through a draw in one sweep over its steps.

        By default there is none, and they are found by iteration.
        """
        return None

    def _differentiable_decoder(
        self, factorization: Factorization, batch_size: int, context: Tensor | None
    ) -> Decoder | None:
        """A decoder that keeps the graph of its steps, where that is the way to gradients."""
        return None

    @contextmanager
    def eval_mode(self) -> Iterator[None]:
        """Without dropout, whatever the mode, which is as before afterwards: for draws."""
        training = [module for module in self.modules() if module.training]
        for module in training:
            module.training = False
        try:
            yield
        finally:
            for module in training:
                module.training = True

    @torch.no_grad()
    def _evaluate(
        self, blocks: Tensor, context: Tensor | None = None, ranks: Tensor | None = None
    ) -> Tensor:
        """A parallel pass as decoders make them."""
        with self.eval_mode():
            params: Tensor = self(blocks, context, ranks)
        return params

    def unsupported_reason(self, factorization: Factorization) -> str | None:
        """None where this network can serve that factorization, else the reason why not."""
        if factorization == self.factorization:
            return None
        return f"{type(self).__name__} was built for {self.factorization}"

    def condition(
        self,
        context: Tensor | None = None,
        *,
        params: Mapping[str, Tensor] | None = None,
        nan_policy: str = "raise",
        validate_args: bool | None = None,
    ) -> AutoregressiveDistribution:
        """The distribution given a context: see `AutoregressiveDistribution`.

        Its scores call this network, not what wraps it. Under DDP or FSDP gradients are averaged
        over processes only if the wrapper is called: train `LogLikelihood(network)`, wrapped, or
        `AutoregressiveDistribution(wrapped, context)`. A program that is given this method, as
        torchrl is by `distribution_class=network.condition`, does not know the network's
        parameters: register the network with its modules.
        """
        return AutoregressiveDistribution(
            self, context, params=params, nan_policy=nan_policy, validate_args=validate_args
        )

    def _tell_pyro(self) -> None:
        """Registers the parameters of what was made a `PyroModule`; every distribution asks for it.

        Scores are computed when a model has run, and Pyro does not see what is read then: a
        parameter would not be trained, and a `PyroSample` be drawn anew by each pass.

        Raises:
            ValueError: where an attribute is a `PyroSample`.
        """
        if not any("_pyro_samples" in module.__dict__ for module in self.modules()):
            return
        for path, module in self.named_modules():
            if not isinstance(module, PyroModule):
                continue
            parts = [part for kind in type(module).__mro__ for part in vars(kind).items()]
            declared = [name for name, value in parts if isinstance(value, PyroSample)]
            for name in [*module._pyro_samples, *declared]:
                full = f"{path}.{name}".lstrip(".")
                raise ValueError(
                    f"network: {full!r} of {type(self).__name__} is a PyroSample, which would be "
                    f"drawn anew whenever the network runs; leave it a Parameter, draw its value "
                    f"by pyro.sample and pass it as condition(context, "
                    f"params={{{full!r}: value}})"
                )
            for name in [*module._parameters, *module._pyro_params]:
                getattr(module, name)  # a pyro.param statement, inside of a model

    def extra_repr(self) -> str:
        context = f"\ncontext_shape={tuple(self.context_shape)}" if self.context_shape else ""
        return f"{self.factorization}{context}"

    # Weights mean nothing under another order or width: the state says what it was made for.

    def _fingerprint(self) -> dict[str, list[str]]:
        """What a state has to agree in, by name, as `part` writes it."""
        return fingerprint(self.factorization)

    def get_extra_state(self) -> Tensor:
        text = json.dumps(self._fingerprint(), ensure_ascii=False).encode().ljust(_STATE_SIZE)
        with outside_modes():
            return torch.tensor(list(text), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        given, own = json.loads(bytes(state.tolist())), self._fingerprint()
        different = []
        for name, (shown, *digests) in own.items():
            theirs, *others = given.get(name, ["nothing"])
            if set(digests).isdisjoint(others):
                known = "another" if theirs == shown else theirs
                different.append(f"{name} is {known}, here {shown}")
        if different:
            raise ValueError(f"state_dict: made for another factorization; {'; '.join(different)}")


class LogLikelihood(nn.Module):
    """The log_prob of a network's distribution as a module's `forward`.

    What wraps a module's `forward` (DDP, FSDP, `torch.func.functional_call`) wraps this. In
    training mode dropout is on, as in `log_prob`.

    >>> import torch, ardist as ad
    >>> net = ad.networks.MADE(ad.Factorization(3, ad.families.Normal()), hidden_features=(8,))
    >>> ad.LogLikelihood(net)(torch.zeros(5, 3)).shape
    torch.Size([5])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        unwrap(network)  # raises if there is no conditional network inside
        self.network = network

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """log_prob of events x (*lead, *event_shape), in nats: (*lead)."""
        return AutoregressiveDistribution(self.network, context).log_prob(x)


def _check_rows(ranks: Tensor, factorization: Factorization) -> None:
    """That a decoder can follow an order for each row."""
    if factorization.layout.flat:
        raise ValueError(
            f"ranks: expected one order for all rows, since the blocks differ in family, "
            f"got {tuple(ranks.shape)}"
        )
    raster = torch.arange(ranks.shape[-1], device=ranks.device)
    if not torch.equal(ranks.sort(-1).values, raster.expand_as(ranks)):
        raise ValueError("ranks: expected no ties where each row has its own, got some")


def fingerprint(factorization: Factorization, any_length: bool = False) -> dict[str, list[str]]:
    """What the weights of a network for this factorization mean, by name, as `part` writes it; of
    one for any length what all lengths share.
    """
    partition, ordering = factorization.partition, factorization.ordering
    families, names = factorization.families, factorization.names
    elements, order = factorization.blocks.elements, factorization.order_key
    cuts: list[object] = [elements]
    orders: list[object] = [order]
    if any_length:
        cuts = ["in order" if factorization.is_in_order else elements, vars(partition)]
        raster = torch.arange(factorization.num_blocks)
        orders = ["raster" if torch.equal(order.flatten(), raster) else order, vars(ordering)]
    return {
        **({} if any_length else {"grid_shape": part(tuple(factorization.grid_shape))}),
        "families": part(shortened(families), families),
        "names": part(names and shortened(names), names),
        "partition": part(repr(partition), *cuts),
        "ordering": part(repr(ordering), *orders),
    }


def part(shown: object, *meant: object) -> list[str]:
    """A part of a state's fingerprint: a short text, and digests of what it may go by: tensors or
    what has a full repr, by default of what is shown. States agree where one of the digests does.
    """
    text = str(shown)
    text = text if len(text.encode()) <= 64 else text.encode()[:61].decode(errors="ignore") + "..."
    digests = []
    for one in meant or (shown,):
        raw = one.cpu().numpy().tobytes() if isinstance(one, Tensor) else repr(one).encode()
        digests.append(hashlib.sha256(raw).hexdigest()[:16])
    return [text, *digests]


def reference_of(network: nn.Module) -> Tensor:
    """A tensor of the dtype and device in which the network computes."""
    return next(network.parameters(), torch.empty(0))


@torch.no_grad()
def start_near_noise(factorization: Factorization, *layers: nn.Module | None) -> None:
    """Shrinks new layers that give the parameters, if draws are bijections of noise.

    With small parameters a draw is nearly its noise, so that a stack of such bijections starts
    near the identity. Otherwise it would magnify large values from layer to layer.
    """
    if all(family.is_bijective for family in factorization.layout.distinct):
        for layer in layers:
            for parameter in () if layer is None else layer.parameters():
                parameter.mul_(0.01)
