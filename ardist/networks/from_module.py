"""Wrappers that make conditional networks of other modules, causal or bidirectional."""

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from ardist.decoding import CacheDecoder, Decoder
from ardist.factorization import Factorization
from ardist.families import Categorical
from ardist.modes import is_noisy
from ardist.networks.any_set import AnySet
from ardist.networks.base import ConditionalNetwork
from ardist.networks.constants import constant_of, reference_of, register_constant
from ardist.networks.fingerprint import entry
from ardist.networks.sequence import UniformNetwork
from ardist.rows import repeat_rows, select_rows
from ardist.shapes import as_flag, as_real, as_tensor, check_type
from ardist.testing import CheckError, check_autoregressive


class _Foreign(ConditionalNetwork):
    """A network that wraps a module. The user sets the training mode of that module."""

    module: nn.Module
    _filler: str  # the name of the input in place of a block

    @property
    def filler(self) -> Tensor:
        """The input in place of a block, (*block_shape), even if its buffer has lost its value."""
        return constant_of(self, self._filler)

    @contextmanager
    def eval_mode(self) -> Iterator[None]:
        """As for any network, but raises a `ValueError` if dropout or batch norm is active.

        The user decides whether dropout and batch norm are part of the model.
        """
        _check_not_noisy(self.module)
        with super().eval_mode():
            yield

    def evaluate(
        self, inputs: Tensor, context: Tensor | None, **options: Any
    ) -> tuple[Tensor, Any]:
        """Calls the module.

        Args:
            inputs: (rows, length, *block_shape).
            context: (rows, C), or None.
            options: keyword arguments of the module.

        Returns:
            the parameters (rows, length, num_params), and the module's whole output.

        Raises:
            ValueError: if the parameters have another shape.
        """
        others = () if context is None else (context,)
        try:
            output = self.module(inputs, *others, **options)
        except IndexError as error:  # of an embedding, of tokens or of positions
            filler = getattr(self, self._filler)
            with suppress(IndexError):
                self.module(inputs.masked_fill(inputs == filler, 0), *others, **options)
                raise ValueError(
                    f"{self._filler}: expected an input of the module, got {filler.tolist()}, and "
                    f"from the module: {error}"
                ) from error
            raise
        params: Tensor = output if isinstance(output, Tensor) else output[0]
        family = self.factorization.layout.families[0]
        if isinstance(family, Categorical):  # without the logits of symbols that are never drawn
            params = params[..., : family.num_params]
        expected = (*inputs.shape[:2], family.num_params)
        if params.shape != expected:
            raise ValueError(
                f"module: expected outputs of shape {expected}, got {tuple(params.shape)}"
            )
        return params, output


class FromModule(_Foreign, UniformNetwork):
    """Wraps a causal module, such as a Hugging Face GPT-2, as a conditional network.

    The module is called as `module(blocks)`, or `module(blocks, context)`. The blocks are in
    autoregressive order, (rows, length, *block_shape), and int64 if they are indices (tokens). The
    module returns the parameters of one block for each position, (rows, length, num_params), either
    as a tensor or as the first entry of its output, as Hugging Face models do. If the family is a
    Categorical, extra logits, for symbols of the vocabulary that are never drawn, are dropped.

    With `shift`, the output at a position depends on the input at that position, and gives the
    parameters of the next block. The input is then `start` and all blocks except the last. Without
    `shift`, the output at a position gives the parameters of the block at that position, and must
    not depend on that block.

    Draws use the module's own cache if its `forward` takes `past_key_values` and `use_cache` and
    the cache has `reorder_cache`, as in Hugging Face models. Other modules are run at each step: on
    all blocks so far, or, without `shift`, on events of full length.

    Args:
        module: takes any length up to the factorization's (without `shift`, exactly that length).
        factorization: blocks of one family, in an order without ties. The distribution may replace
            it by one of another length.
        shift: whether to shift the inputs, since the module's output at a position depends on the
            input at that position.
        start: the input before the first block: a token (GPT-2's is 50256), even one that is never
            drawn, or a number or tensor that broadcasts to a block.
        check: whether to check for leaks now, with `ardist.testing.check_autoregressive`.
        context_shape: `(C,)` if the module takes a context, `()` for none.

    Raises:
        ValueError: if the blocks differ in family, the ordering has ties or is a graph's, the check
            finds a leak, or the module returns another shape. Draws raise it if dropout or batch
            norm is active: call `module.eval()` first.

    >>> import torch, ardist as ad
    >>> class Bigram(torch.nn.Module):  # logits for the next token
    ...     def __init__(self, num_tokens):
    ...         super().__init__()
    ...         self.table = torch.nn.Embedding(num_tokens, num_tokens)
    ...     def forward(self, tokens):
    ...         return self.table(tokens)
    >>> fac = ad.Factorization((20,), ad.families.Categorical(5))
    >>> net = ad.networks.FromModule(Bigram(6), fac, start=5, check=True)
    >>> net.condition().sample((3,)).shape
    torch.Size([3, 20])
    """

    context_kinds = ("vector",)
    start: Tensor
    _filler = "start"

    def __init__(
        self,
        module: nn.Module,
        factorization: Factorization,
        *,
        shift: bool = True,
        start: float | Tensor = 0,
        check: bool = False,
        context_shape: Sequence[int] = (),
    ) -> None:
        check_type(module, nn.Module, "module")
        super().__init__(factorization, context_shape=context_shape)
        self.module = module
        self.shift = as_flag(shift, "shift")
        register_constant(self, "start", _as_block(self, start, "start"))
        accepted = inspect.signature(module.forward).parameters
        self.has_cache = shift and {"past_key_values", "use_cache"} <= set(accepted)
        if as_flag(check, "check"):
            self._check()

    def _check(self) -> None:
        try:
            context = (
                reference_of(self).new_zeros(self.context_shape) if self.context_shape else None
            )
            check_autoregressive(self, context)
        except CheckError as error:
            hint = "" if self.shift else "; an inclusive module needs shift=True"
            raise CheckError(f"module: {error}{hint}") from error

    def in_order(self, blocks: Tensor, context: Tensor | None) -> Tensor:
        if self.shift:
            start = self.start.expand(blocks.shape[0], 1, *self.start.shape)
            blocks = torch.cat((start, blocks[:, :-1]), 1)
        options = {"use_cache": False} if self.has_cache else {}
        return self.evaluate(blocks, repeat_rows(context, blocks.shape[0]), **options)[0]

    def make_decoder(
        self,
        factorization: Factorization,
        batch_size: int,
        context: Tensor | None,
        ranks: Tensor | None,
    ) -> Decoder:
        """A decoder with the module's own cache, or one that runs it on all blocks so far."""
        with self.eval_mode():  # raises at once if dropout or batch norm is active
            if not self.shift:
                return super().make_decoder(factorization, batch_size, context, ranks)
        return _ModuleDecoder(self, factorization, batch_size, repeat_rows(context, batch_size))

    def _fingerprint(self) -> dict[str, list[str]]:
        start = self.filler.float().tolist() if self.shift else None
        return {**super()._fingerprint(), "shift": entry(self.shift), "start": entry(start)}

    def extra_repr(self) -> str:
        start = f", start={self.filler.tolist()}" if self.shift else ""
        return f"{super().extra_repr()}\nshift={self.shift}{start}"


class MaskedModule(_Foreign, AnySet):
    """A bidirectional module as a network that reads any set; see `Masked.from_module`."""

    mask: Tensor
    _filler = "mask"

    def __init__(
        self,
        module: nn.Module,
        factorization: Factorization,
        *,
        mask: float | Tensor,
        context_shape: Sequence[int] = (),
        chunk_size: int | None = None,
    ) -> None:
        check_type(module, nn.Module, "module")
        super().__init__(factorization, context_shape=context_shape, chunk_size=chunk_size)
        if not factorization.is_uniform:
            raise ValueError(
                f"factorization: expected blocks of one family, since a module has one form of "
                f"output, got {factorization}"
            )
        self.module = module
        register_constant(self, "mask", _as_block(self, mask, "mask"))

    def predict(self, blocks: Tensor, observed: Tensor, context: Tensor | None) -> Tensor:
        layout = self.factorization.layout
        inputs = torch.where(layout.expand_to_elements(observed), blocks, self.mask)
        return self.evaluate(inputs, repeat_rows(context, blocks.shape[0]))[0]

    def _fingerprint(self) -> dict[str, list[str]]:
        return {**super()._fingerprint(), "mask": entry(self.filler.float().tolist())}

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}\nmask={self.filler.tolist()}"


def _as_block(network: _Foreign, value: float | Tensor, name: str) -> Tensor:
    """The value of an input in place of a block: (*block_shape)."""
    layout, reference = network.factorization.layout, reference_of(network.module)
    if not isinstance(value, Tensor):
        as_real(value, name, "a number or a tensor", math.isfinite)
    block, shape = as_tensor(value, name), layout.families[0].event_shape
    if layout.is_index and block.dtype != torch.int64:
        raise ValueError(f"{name}: expected an integer, as blocks are, got {value}")
    try:
        return block.to(layout.dtype(reference.dtype)).expand(shape).clone()
    except RuntimeError as error:
        raise ValueError(
            f"{name}: expected a shape that broadcasts to a block {tuple(shape)}, got "
            f"{tuple(block.shape)}"
        ) from error


def _check_not_noisy(foreign: nn.Module) -> None:
    """Raises a `ValueError` if dropout or batch norm is active."""
    for name, module in foreign.named_modules():
        if module.training and is_noisy(module):
            raise ValueError(
                f"module: expected no active dropout or batch norm in draws, got "
                f"{type(module).__name__} at {name!r}; call .eval() first"
            )


class _ModuleDecoder(CacheDecoder):
    """Runs the module on the blocks that are not in its cache, or on all blocks if it has none."""

    def __init__(
        self,
        network: FromModule,
        factorization: Factorization,
        batch_size: int,
        context: Tensor | None,
    ) -> None:
        super().__init__(factorization, batch_size)
        self._network, self._context = network, context
        self._inputs = network.start.expand(batch_size, 1, *network.start.shape)
        self._cache: Any = None

    def select(self, rows: Tensor) -> None:
        self.batch_size = rows.shape[0]
        self._inputs = self._inputs.index_select(0, rows)
        self._context = repeat_rows(select_rows(self._context, rows), self.batch_size)
        if self._cache is not None:
            self._cache.reorder_cache(rows)

    def take(self, blocks: Tensor, num_steps: int) -> None:
        uncached = [] if self._cache is not None else [self._inputs]
        self._inputs = torch.cat([*uncached, blocks], 1)

    def evaluate(self) -> Tensor:
        network = self._network
        options = {"past_key_values": self._cache, "use_cache": True} if network.has_cache else {}
        with network.eval_mode():
            params, output = network.evaluate(self._inputs, self._context, **options)
        if network.has_cache:
            self._cache = output.past_key_values
        return params[:, -1:]
