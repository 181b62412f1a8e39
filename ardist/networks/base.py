"""The base class of conditional networks."""

import inspect
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import torch
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn

from ardist.bound_network import check_contexts
from ardist.decoding import Decoder, WholePasses
from ardist.distribution import AutoregressiveDistribution
from ardist.factorization import Factorization
from ardist.families import Nested
from ardist.modes import follows_mode, in_modes
from ardist.networks.constants import fill_constants, reference_of
from ardist.networks.fingerprint import fingerprint
from ardist.ordering import Ordering
from ardist.pathwise import Sweep
from ardist.recomputation import compute_weights
from ardist.shapes import (
    as_choice,
    as_integers,
    as_positive,
    as_size,
    check_kind,
    check_type,
    outside_modes,
)
from ardist.specification import Specified
from ardist.static import StaticDecoder, StaticStep, WholePassStep

_MOST_EVENTS = 4096  # from which marginals are computed
_STATE_SIZE = 2048  # bytes of a network's extra state, the same for all networks


class ConditionalNetwork(Specified, nn.Module):
    """Maps earlier blocks and a context to the parameters of all conditionals.

    To write a network, define `forward`, or `hidden_states` and a `head`. The parameters of a block
    must depend only on the blocks that the factorization allows. Check it with
    `ardist.testing.check_autoregressive`. Override `make_decoder` to make each step of sampling
    cheaper than a whole pass. By default the decoder makes whole passes, and uses fixed-point
    iteration if that may need fewer passes than steps.

    Args:
        factorization: the blocks, their order and their families.
        context_shape: the shape of one context, `()` for none.
        context_kind: `"vector"`, a context (C,); `"blocks"`, a vector for each block,
            (*grid_shape, C); or `"sequence"`, of a fixed length, (S, C). A network supports
            the kinds in its `context_kinds`.

    Raises:
        ValueError: if the network does not support the factorization or such a context.

    >>> import torch, ardist as ad
    >>> class Counting(ad.networks.ConditionalNetwork):
    ...     "Each earlier one raises the probability of another one."
    ...     def forward(self, blocks, context=None, ranks=None):
    ...         return (blocks.cumsum(1) - blocks).unsqueeze(-1)
    >>> net = Counting(ad.Factorization(3, ad.families.Bernoulli()))
    >>> net.condition().log_prob(torch.ones(3)).exp()  # 1/2 * sigmoid(1) * sigmoid(2)
    tensor(0.3220)
    """

    context_kinds: ClassVar[tuple[str, ...]] = ("vector",)
    has_row_orders: bool = False
    """Whether each row may have its own `ranks`."""
    has_masks: ClassVar[bool] = False
    """Whether `forward` also takes `observed`, the set of blocks that each row depends on."""
    starts_at_data: bool = False
    """Whether `ad.training.fit` calls `start_at` first."""
    records_steps: bool = False
    """Whether draws record a step as a CUDA graph and replay it. Set it on a network on CUDA. It
    has no effect if the network's `StaticStep` makes whole passes."""
    _sizes: ClassVar[tuple[str, ...]] = ()
    """Arguments for which None means a size for the factorization, kept as an attribute."""

    __signature__: ClassVar[inspect.Signature]
    _constructed: tuple[tuple[Any, ...], dict[str, Any], torch.dtype]

    # The arguments of the constructor, and the dtype of its constants, for a specification.
    # `__init__` cannot keep them: a subclass calls its base's `__init__` with other arguments.

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        make: Any = super().__new__
        network = make(cls) if make is object.__new__ else make(cls, *args, **kwargs)
        network.__dict__["_constructed"] = args, kwargs, torch.get_default_dtype()
        return network

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__signature__ = _signature_of(cls)  # instead of the signature of `__new__`

    def __init__(
        self,
        factorization: Factorization,
        *,
        context_shape: Sequence[int] = (),
        context_kind: str = "vector",
    ) -> None:
        super().__init__()
        check_type(factorization, Factorization, "factorization")
        if torch.get_default_device().type == "meta":
            raise ValueError(
                f"network: expected a device that computes masks, got meta for "
                f"{type(self).__name__}; build it on the CPU, then move it with .to('meta')"
            )
        self.register_load_state_dict_post_hook(fill_constants)  # type: ignore[no-untyped-call]
        self.factorization = factorization
        # Submodules, so that modules inside families are trained, moved and saved with the network.
        nested = [module for f in factorization.layout.distinct for module in f.modules]
        if nested:
            self.nested = nn.ModuleList(dict.fromkeys(nested))
        self.context_shape = as_size(context_shape, "context_shape")
        self.context_kind = as_choice(context_kind, self.context_kinds, "context_kind")
        grid = tuple(map(str, factorization.grid_shape)) if context_kind == "blocks" else ()
        expected = {"vector": (), "blocks": grid, "sequence": ("S",)}[context_kind]
        shape = tuple(self.context_shape)
        lead = shape[:-1] if context_kind == "blocks" else expected[: len(shape) - 1]
        if shape and (len(shape) != len(expected) + 1 or tuple(map(str, lead)) != expected):
            spelled = ", ".join([*expected, "C"]) + ("" if expected else ",")
            raise ValueError(
                f"context_shape: expected ({spelled}) for a context of kind {context_kind!r}, "
                f"got {shape}"
            )

    def forward(
        self, blocks: Tensor, context: Tensor | None = None, ranks: Tensor | None = None
    ) -> Tensor:
        """The parameters of all conditionals, given all blocks (teacher forcing).

        By default they are the `head` of the `hidden_states`.

        Args:
            blocks: (M * N, num_blocks, *block_shape) in raster order of the grid, whatever the
                ordering. If the families differ, the blocks are flat, (M * N, total).
            context: (N, *context_shape). Its row i belongs to the rows i, N + i, ... of the blocks.
            ranks: (num_blocks,) or (M * N, num_blocks) int64, if they differ from the ranks of the
                factorization.

        Returns:
            (M * N, num_blocks, num_params), or (M * N, total) if the families differ.
        """
        hidden = self.hidden_states(blocks, context, ranks)
        head: Any = self.head
        params: Tensor = head(hidden)
        return params

    def hidden_states(
        self, blocks: Tensor, context: Tensor | None = None, ranks: Tensor | None = None
    ) -> Tensor:
        """The hidden states of all blocks, (M * N, num_blocks, size), with `forward`'s arguments.

        Define it instead of `forward` if `self.head` is a module that maps the hidden state of each
        block to its parameters. Then `log_prob` can compute the parameters of a few blocks at a
        time, with `chunk_size`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} defines no hidden_states, which the default forward needs"
        )

    @property
    def has_hidden_states(self) -> bool:
        """Whether `forward` applies the head to `hidden_states`.

        It does not if a subclass defines `forward` alone.
        """
        own = (vars(kind) for kind in type(self).__mro__)
        defined = next(names for names in own if {"hidden_states", "forward"} & names.keys())
        return defined.get("hidden_states") not in (None, ConditionalNetwork.hidden_states)

    def decoder(
        self,
        batch_size: int,
        context: Tensor | None = None,
        ranks: Tensor | None = None,
        *,
        factorization: Factorization | None = None,
    ) -> Decoder:
        """A decoder, which evaluates the network one step at a time.

        Args:
            batch_size: the number of rows.
            context: (N, *context_shape). N divides `batch_size`.
            ranks: as in `forward`. Each row may have its own order if `has_row_orders`.
            factorization: in place of the network's own, if it differs in length or order.

        Returns:
            a decoder that computes the same parameters as `forward` without dropout.

        Raises:
            ValueError: if the network does not support that order or factorization.
        """
        fac = self.factorization if factorization is None else factorization
        check_type(fac, Factorization, "factorization")
        batch_size = as_positive(batch_size, "batch_size")
        check_contexts(self, context, batch_size, "batch_size")
        if ranks is not None:
            ranks = as_integers(ranks, "ranks").long()
            if ranks.shape not in ((fac.num_blocks,), (batch_size, fac.num_blocks)):
                raise ValueError(
                    f"ranks: expected one for each of the {fac.num_blocks} blocks, in all rows or "
                    f"in each of {batch_size}, got {tuple(ranks.shape)}"
                )
            if ranks.dim() == 1:
                ordering = Ordering.from_ranks(ranks.reshape(fac.grid_shape))
                fac, ranks = fac.with_ordering(ordering), None
        if fac is not self.factorization and (reason := self.unsupported_reason(fac)) is not None:
            raise ValueError(f"factorization: {reason}, got {fac}")
        if ranks is not None:  # a step draws one block of each row, not the same one
            self._check_row_orders(ranks, fac)
            fac = fac.with_ordering(Ordering.raster())
        with torch.no_grad():
            compute_weights(self)
            if self.records_steps and ranks is None:
                step = self.make_static_step(fac)
                if not isinstance(step, WholePassStep):
                    return StaticDecoder(step, batch_size, context, reference_of(self))
            return self.make_decoder(fac, batch_size, context, ranks)

    def _check_row_orders(self, ranks: Tensor, factorization: Factorization) -> None:
        """Raises a `ValueError` if a decoder cannot draw each row in its own order."""
        if not self.has_row_orders:
            raise ValueError(
                f"ranks: {type(self).__name__} draws all rows in one order, "
                f"got {tuple(ranks.shape)}"
            )
        if factorization.layout.flat:
            raise ValueError(
                f"ranks: expected one order for all rows, since the blocks differ in family, "
                f"got {tuple(ranks.shape)}"
            )
        raster = torch.arange(ranks.shape[-1], device=ranks.device)
        if not torch.equal(ranks.sort(-1).values, raster.expand_as(ranks)):
            raise ValueError("ranks: expected no ties if each row has its own order, got ties")

    @property
    def output_maps(self) -> Sequence[nn.Module]:
        """The last linear maps, whose sum or concatenation gives the parameters; empty if unknown.

        Their biases, concatenated, are the biases of all blocks in raster order, or the biases that
        all blocks share. The default is the `head`, if it is linear.
        """
        head: Any = getattr(self, "head", None)
        return [head] if isinstance(getattr(head, "bias", None), Tensor) else []

    @torch.no_grad()
    def start_at(self, x: Tensor) -> None:
        """Sets the output layers so that all conditionals equal the marginals of data.

        Call it before training, which otherwise learns the marginals first. The weights of the
        output layers become zero, and each family fits the biases to the values of its blocks
        (`Family.fit`). If all blocks have one family, they share one map in all networks except
        `MADE`, `Masked` and `Unshared`, and start at the distribution of all blocks together.
        Networks in `Nested` families start at the values of their blocks.

        Args:
            x: events (*lead, *event_shape). At most 4096 of them are used. NaN marks a missing
                element.

        Raises:
            ValueError: if the network does not end with linear maps, or x has no events, another
                shape or dtype, or values outside the support.

        >>> import torch, ardist as ad
        >>> fac = ad.Factorization.columns(a=ad.families.Bernoulli(), b=ad.families.Normal())
        >>> net = ad.networks.MADE(fac, hidden_features=8)
        >>> net.start_at(torch.tensor([[1.0, 30.0], [1.0, 40.0], [0.0, 50.0]]))
        >>> p = net.condition().conditionals(torch.ones(2))["a"]
        >>> round(p.probs.item(), 3)  # (2 + 1/2) / (3 + 1)
        0.625
        """
        maps: Any = self.output_maps
        if not maps:
            raise ValueError(
                f"network: expected one that ends with linear maps, such as MADE, got "
                f"{type(self).__name__}"
            )
        biases = [layer.bias for layer in maps if layer.bias is not None]
        values, known = self._marginal_sample(x, biases[0])
        layout, sizes = self.factorization.layout, [bias.numel() for bias in biases]
        for family, each, mask in layout.of_families(values, known):
            inner: Any = family.network if isinstance(family, Nested) else None
            if inner is not None and inner.output_maps:
                events = torch.where(mask, each, math.nan) if each.is_floating_point() else each
                inner.start_at(events.flatten(0, 1))
        if sum(sizes) < layout.param_shape.numel():  # all blocks share one map
            values, known = (part.flatten(0, 1).unsqueeze(1) for part in (values, known))
            layout = layout.select([0])
        params = layout.fit(values, known).split(sizes)
        for bias, start in zip(biases, params, strict=True):
            bias.copy_(start.view_as(bias))
        for layer in maps:
            if (weight := getattr(layer, "weight", None)) is not None:  # a constant has none
                weight.zero_()

    def _marginal_sample(self, x: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """At most 4096 of the events, (rows, *value_shape), and a mask of the scored elements."""
        fac, layout = self.factorization, self.factorization.layout
        blocks = fac.split(x).reshape(-1, *layout.value_shape)
        check_kind(x, "x", reference, exact=False)
        if blocks.shape[0] == 0:
            raise ValueError(f"x: expected at least one event, got {tuple(x.shape)}")
        count = min(_MOST_EVENTS, blocks.shape[0])
        chosen = torch.arange(count, device=blocks.device) * blocks.shape[0] // count
        blocks = blocks.index_select(0, chosen)
        known = ~blocks.isnan()
        blocks = torch.where(known, blocks, layout.placeholder(reference))
        blocks = blocks.to(layout.dtype(reference.dtype))
        inside = fac.conditionals.inside(blocks)
        if not inside.all():
            raise ValueError(
                f"x: expected values inside the support, or NaN for missing ones, got "
                f"{int((~inside).sum())} blocks outside"
            )
        restriction = fac.restriction
        if restriction is None:
            return blocks, known
        if not restriction.rule.reads_context:
            # Blocks that the rule makes certain, such as padding, are not data.
            certain = restriction.certain(restriction.limits(blocks, None, None, reference))
            known = known & ~layout.expand_to_elements(certain)
        return restriction.readable(fac.conditionals, blocks), known

    def make_decoder(
        self,
        factorization: Factorization,
        batch_size: int,
        context: Tensor | None,
        ranks: Tensor | None,
    ) -> Decoder:
        """The decoder that `decoder` returns after its checks; override it for cheaper steps.

        By default it makes whole passes.

        Args:
            factorization: with the order of the draw.
            batch_size: the number of rows.
            context: as in `forward`.
            ranks: (batch_size, num_blocks) if the rows have orders of their own, which needs
                `has_row_orders`; otherwise None.
        """
        if ranks is None and factorization is not self.factorization:
            ranks = factorization.ranks.flatten().to(reference_of(self).device)
        return WholePasses(
            self._evaluate, factorization, batch_size, context, ranks, reference=reference_of(self)
        )

    def make_static_step(self, factorization: Factorization) -> StaticStep:
        """The step of a draw that compilers and exporters record; override it for cheaper steps.

        By default it makes whole passes. `DrawStep` calls it after its checks.

        Args:
            factorization: with the order of the draw.
        """
        return WholePassStep(self, factorization)

    def _sweep(self) -> Sweep | None:
        """Backpropagation through a draw in one sweep over its steps.

        By default it is None, and gradients are computed by iteration. A network that returns a
        sweep takes it as the argument `sweep` of `forward`.
        """
        return None

    def _differentiable_decoder(
        self, factorization: Factorization, batch_size: int, context: Tensor | None
    ) -> Decoder | None:
        """A decoder that keeps the autograd graph of its steps, or None if there is none."""
        return None

    @contextmanager
    def eval_mode(self) -> Iterator[None]:
        """Puts the network in evaluation mode, without dropout, and restores the mode afterwards.

        Modules that compute the same in both modes keep their mode. So several threads can draw
        from a network without dropout while another thread trains it.
        """
        training = (module for module in self.modules() if module.training)
        with in_modes([(module, False) for module in training if follows_mode(module)]):
            yield

    @torch.no_grad()
    def _evaluate(
        self,
        blocks: Tensor,
        context: Tensor | None = None,
        ranks: Tensor | None = None,
        **masks: Tensor,
    ) -> Tensor:
        """A parallel pass without dropout or gradients, for decoders."""
        with self.eval_mode():
            params: Tensor = self(blocks, context, ranks, **masks)
        return params

    @property
    def _arguments(self) -> dict[str, Any]:
        args, kwargs, _ = self._constructed
        bound = inspect.signature(self._maker).bind(*args, **kwargs)
        bound.apply_defaults()
        sizes = {name for name in self._sizes if bound.arguments.get(name, ...) is None}
        return {**bound.arguments, **{name: getattr(self, name) for name in sizes}}

    def unsupported_reason(self, factorization: Factorization) -> str | None:
        """Why the network does not support a factorization, or None if it does."""
        if factorization == self.factorization:
            return None
        return self._built_for()

    def _built_for(self, option: str = "") -> str:
        """The reason why the network, with an option, does not support another factorization."""
        return f"{type(self).__name__}{option} was built for {self.factorization}"

    def condition(
        self,
        context: Tensor | None = None,
        *,
        factorization: Factorization | None = None,
        params: Mapping[str, Tensor] | None = None,
        nan_policy: str = "raise",
        chunk_size: int | None = None,
        validate_args: bool | None = None,
    ) -> AutoregressiveDistribution:
        """The distribution given a context; see `AutoregressiveDistribution` for the arguments.

        `log_prob` calls this network, not a wrapper around it. DDP and FSDP average gradients over
        processes only if the wrapper is called: wrap and train `LogLikelihood(network)`, or use
        `AutoregressiveDistribution(wrapped, context)`. A program that is given this method, such as
        torchrl with `distribution_class=network.condition`, cannot find the network's parameters:
        register the network as one of its modules.

        Args:
            context: (*batch_shape, *context_shape), or None if the network takes none.
            factorization: in place of the network's own, if the network supports it: of another
                length, order or family.
            params: tensors by the names of the parameters that they replace.
            nan_policy: as for `AutoregressiveDistribution`.
            chunk_size: as for `AutoregressiveDistribution`.
            validate_args: as for `AutoregressiveDistribution`.

        Raises:
            ValueError: if the arguments do not fit the network.

        >>> import torch, ardist as ad
        >>> fac = ad.Factorization(3, ad.families.Normal())
        >>> net = ad.networks.MADE(fac, hidden_features=8, context_shape=(2,))
        >>> net.condition(torch.zeros(7, 2)).batch_shape
        torch.Size([7])
        """
        return AutoregressiveDistribution(
            self,
            context,
            factorization=factorization,
            params=params,
            nan_policy=nan_policy,
            chunk_size=chunk_size,
            validate_args=validate_args,
        )

    def _register_in_pyro(self) -> None:
        """Registers the parameters of modules that are `PyroModule`s; each distribution calls it.

        Pyro computes log-probabilities after the model has run, when it no longer registers
        parameters. Without this call the parameters would not be trained. A `PyroSample` would be
        resampled in each pass.

        Raises:
            ValueError: if an attribute is a `PyroSample`.
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
                    f"resampled in each pass of the network; keep it a Parameter, draw its value "
                    f"by pyro.sample and pass it as condition(context, "
                    f"params={{{full!r}: value}})"
                )
            for name in [*module._parameters, *module._pyro_params]:
                getattr(module, name)  # a pyro.param statement, within a model

    def extra_repr(self) -> str:
        context = f"\ncontext_shape={tuple(self.context_shape)}" if self.context_shape else ""
        return f"{self.factorization}{context}"

    # Weights are meaningless for another order or other widths, so a state dict contains a
    # fingerprint of the factorization.

    def _fingerprint(self) -> dict[str, list[str]]:
        """The entries, by name, in which a state dict must agree with the network; see `entry`."""
        return fingerprint(self.factorization)

    def get_extra_state(self) -> Tensor:
        text = json.dumps(self._fingerprint(), ensure_ascii=False).encode().ljust(_STATE_SIZE)
        with outside_modes():
            return torch.tensor(list(text), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        loaded, differences = json.loads(bytes(state.tolist())), []
        for name, (expected, *digests) in self._fingerprint().items():
            got, *others = loaded.get(name, ["nothing"])
            if set(digests).isdisjoint(others):
                got = "another" if got == expected else got
                differences.append(f"{name} is {got}, here {expected}")
        if differences:
            raise ValueError(
                f"state_dict: made for another factorization; {'; '.join(differences)}"
            )


def _signature_of(kind: Any) -> inspect.Signature:
    """The signature of a constructor, without `self`."""
    signature = inspect.signature(kind.__init__)
    return signature.replace(parameters=[*signature.parameters.values()][1:])


ConditionalNetwork.__signature__ = _signature_of(ConditionalNetwork)


@torch.no_grad()
def start_near_noise(factorization: Factorization, *layers: nn.Module | None) -> None:
    """Scales down new output layers if all families are bijections of their noise.

    With small parameters a draw is close to its noise, so a stack of such bijections starts near
    the identity. Otherwise the stack would magnify large values from layer to layer.
    """
    if all(family.is_bijective for family in factorization.layout.distinct):
        for layer in layers:
            for parameter in () if layer is None else layer.parameters():
                parameter.mul_(0.01)
