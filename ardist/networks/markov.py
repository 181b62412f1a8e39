"""Networks whose conditionals depend on a window of the last blocks."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ardist.decoding import CacheDecoder, Decoder
from ardist.drawing_order import Permutation
from ardist.factorization import Factorization
from ardist.families import Family
from ardist.networks.base import start_near_noise
from ardist.networks.constants import reference_of, register_constant
from ardist.networks.fingerprint import entry, fingerprint
from ardist.networks.mlp import mlp
from ardist.networks.sequence import UniformNetwork, encoding_at
from ardist.networks.sizes import hidden_layers
from ardist.rows import repeat_rows, select_rows
from ardist.shapes import as_flag, as_positive, as_size, check_type
from ardist.static import StaticStep, Tensors


class Markov(UniformNetwork):
    """One module for all steps, which reads the last blocks and the index of the step.

    Examples are autoregressive processes AR(k), n-grams (a window of n - 1 blocks) and, with tensor
    blocks and a window of one, the reverse chain of a diffusion. The order has no ties, and all
    blocks have one family.

    The module is called as `module(past, step)`, or `module(past, step, context)`. A parallel pass
    calls it for all rows and steps at once, and a draw calls it for a single step:

    - `past` (rows, window, *block_shape): the last blocks, the latest at the end; int64 if they are
      indices. Entries before the first block are zero.
    - `step` (rows,) int64: the number of earlier blocks. The first `window - step` entries of the
      window are before the first block.
    - `context` (rows, C).

    It returns the parameters, as (rows, num_params) or a shape that flattens to it. The default
    module, a multilayer perceptron, reads the features of blocks (the value, for a Normal) and a
    learned vector for the step. It ignores entries before the first block.

    Args:
        factorization: in an order in which each block depends on all earlier ones. Dependencies
            beyond the window are ignored.
        window: the number of last blocks on which a conditional depends.
        hidden_features: width of each hidden layer of the perceptron; `()` makes it linear. By
            default there are two layers, whose width is four times the number of features in the
            window, rounded up to a power of two within 256 and 512.
        module: a module as above, instead of `hidden_features`.
        stationary: whether `step` is clamped to at most `window`. Then the chain is homogeneous
            once the window is full, and the network supports any length.
        context_shape: `(C,)`, `(*grid_shape, C)` for a context of kind "blocks", `()` for none.
        context_kind: "vector", or "blocks", a vector for each block, which the module gets at the
            step of that block.

    Raises:
        ValueError: if the blocks differ in family, the ordering has ties or is a graph's, or both
            `hidden_features` and `module` are given.

    >>> import torch, ardist as ad
    >>> trigram = ad.networks.Markov(
    ...     ad.Factorization((20,), ad.families.Categorical(5)), window=2, hidden_features=()
    ... )
    >>> trigram.condition().sample((3,)).shape
    torch.Size([3, 20])

    An AR(2) process, x_t = a x_{t-2} + b x_{t-1} + noise:

    >>> class AR(torch.nn.Module):
    ...     def __init__(self, order):
    ...         super().__init__()
    ...         self.mean = torch.nn.Linear(order, 1, bias=False)
    ...         self.scale = torch.nn.Parameter(torch.zeros(1))
    ...     def forward(self, past, step):  # (rows, order)
    ...         mean = self.mean(past)
    ...         return torch.cat((mean, self.scale.expand_as(mean)), -1)
    >>> fac = ad.Factorization((100,), ad.families.Normal())
    >>> net = ad.networks.Markov(fac, window=2, module=AR(2), stationary=True)
    >>> longer = ad.Factorization((300,), ad.families.Normal())
    >>> ad.AutoregressiveDistribution(net, factorization=longer).sample().shape
    torch.Size([300])
    """

    padding: Tensor
    _sizes = ("hidden_features",)

    def __init__(
        self,
        factorization: Factorization,
        *,
        window: int = 1,
        hidden_features: int | Sequence[int] | None = None,
        module: nn.Module | None = None,
        stationary: bool = False,
        context_shape: Sequence[int] = (),
        context_kind: str = "vector",
    ) -> None:
        super().__init__(factorization, context_shape=context_shape, context_kind=context_kind)
        if hidden_features is not None and module is not None:
            raise ValueError("hidden_features, module: expected at most one of the two, got both")
        if module is not None:
            check_type(module, nn.Module, "module")
        self.window = as_positive(window, "window")
        self.stationary = as_flag(stationary, "stationary")
        family = factorization.layout.families[0]
        self.encoder: nn.Module = nn.Identity()
        if module is None:
            if hidden_features is None:
                hidden_features = hidden_layers(self.window * family.num_features)
            hidden = as_size(hidden_features, "hidden_features")
            widths = (*hidden, family.num_params)
            num_steps = self.window + 1 if stationary else factorization.num_steps
            module = _WindowMLP(family, self.window, num_steps, widths)
            last = list(module.rest.modules())[-1] if hidden else module
            start_near_noise(factorization, last)
            if self.context_shape:
                self.encoder = nn.Linear(self.context_shape[-1], widths[0], bias=False)
            # The padding has no effect, but has to be inside the support.
            padding = factorization.layout.placeholder(torch.empty(0))[0]
        else:
            dtype = factorization.layout.dtype(reference_of(module).dtype)
            padding = torch.zeros(family.event_shape, dtype=dtype)
        self.module, self.hidden_features = module, hidden_features
        register_constant(self, "padding", padding)

    @property
    def output_maps(self) -> list[nn.Module]:
        """The last layer of the default perceptron, if that has a hidden layer."""
        rest = self.module.rest if isinstance(self.module, _WindowMLP) else None
        return [list(rest.modules())[-1]] if isinstance(rest, nn.Sequential) else []

    def in_order(self, blocks: Tensor, context: Tensor | None) -> Tensor:
        rows, length = blocks.shape[:2]
        start = self.padding.expand(rows, self.window, *self.padding.shape)
        padded = torch.cat((start, blocks[:, :-1]), 1)
        past = padded.unfold(1, self.window, 1).movedim(-1, 2)  # (rows, T, window, *block_shape)
        step = torch.arange(length, device=blocks.device).expand(rows, length)
        encoding = self.encode(context)
        if encoding is not None:
            encoding = repeat_rows(encoding, rows).expand(rows, length, -1).flatten(0, 1)
        params = self.evaluate(past.flatten(0, 1), step.flatten(), encoding)
        return params.view(rows, length, -1)

    def encode(self, context: Tensor | None) -> Tensor | None:
        """The context in the form that the module takes, (N, 1 or T, size), in drawing order."""
        if context is None:
            return None
        vectors: Tensor = self.encoder(context)
        return vectors.unsqueeze(1) if self.context_kind == "vector" else vectors

    def evaluate(self, past: Tensor, step: Tensor, encoding: Tensor | None) -> Tensor:
        """The parameters (rows, num_params), by one call of the module."""
        if self.stationary:
            step = step.clamp(max=self.window)
        inputs = (past, step) if encoding is None else (past, step, encoding)
        params: Tensor = self.module(*inputs).flatten(1)
        expected = (past.shape[0], self.factorization.layout.families[0].num_params)
        if params.shape != expected:
            raise ValueError(
                f"module: expected parameters (rows, {expected[1]}), got {tuple(params.shape)} "
                f"for {past.shape[0]} rows"
            )
        return params

    def make_decoder(
        self,
        factorization: Factorization,
        batch_size: int,
        context: Tensor | None,
        ranks: Tensor | None,
    ) -> Decoder:
        """A decoder that calls the module once per step."""
        return _MarkovDecoder(self, factorization, batch_size, context)

    def make_static_step(self, factorization: Factorization) -> StaticStep:
        """A step that calls the module once."""
        return _MarkovStep(self, factorization)

    def unsupported_reason(self, factorization: Factorization) -> str | None:
        """As for any network, but only a stationary network supports other lengths."""
        if self.stationary or factorization == self.factorization:
            return super().unsupported_reason(factorization)
        return self._built_for(" with stationary=False")

    def _fingerprint(self) -> dict[str, list[str]]:
        """As for any network, but without the length if the network is stationary."""
        entries = fingerprint(self.factorization, any_length=self.stationary)
        return {**entries, "window": entry(self.window)}

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}\nwindow={self.window}, stationary={self.stationary}"


class _WindowMLP(nn.Module):
    """A multilayer perceptron whose first layer has a linear map for each place in the window.

    The encodings of the step and of the context are added to the sums of the first layer.
    """

    def __init__(self, family: Family, window: int, num_steps: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.family = family
        shape = (window, family.num_features, widths[0])
        # A row for each feature. A categorical block gathers one row.
        self.weight = nn.Parameter(torch.randn(shape) * (window * family.num_features) ** -0.5)
        self.steps = nn.Parameter(torch.randn(num_steps, widths[0]) * 0.1)
        self.rest: nn.Module = nn.Identity()
        if len(widths) > 1:
            self.rest = nn.Sequential(nn.ReLU(), mlp(widths))

    def forward(self, past: Tensor, step: Tensor, encoding: Tensor | None = None) -> Tensor:
        sums = self.steps[step]  # (rows, width)
        if encoding is not None:
            sums = sums + encoding
        num_missing = past.shape[1] - step.unsqueeze(-1)  # (rows, 1)
        for place, weight in enumerate(self.weight.unbind()):
            is_block = num_missing <= place
            sums = sums + is_block * self.family.project(past[:, place], weight.T)
        return self.rest(sums)

    def extra_repr(self) -> str:
        return f"weight={tuple(self.weight.shape)}, steps={tuple(self.steps.shape)}"


class _MarkovDecoder(CacheDecoder):
    """Runs the module on the last blocks, which it keeps as (rows, window, *block_shape)."""

    def __init__(
        self, network: Markov, factorization: Factorization, batch_size: int, context: Tensor | None
    ) -> None:
        super().__init__(factorization, batch_size)
        self._network = network
        order = network.permutation(factorization.ranks.flatten(), network.padding.device)
        self._encoding = network.encode(network.context_in_order(context, order))
        padding = network.padding
        self._past = padding.expand(batch_size, network.window, *padding.shape)

    def select(self, rows: Tensor) -> None:
        self.batch_size = rows.shape[0]
        self._past = self._past.index_select(0, rows)
        self._encoding = select_rows(self._encoding, rows)

    def take(self, blocks: Tensor, num_steps: int) -> None:
        self._past = torch.cat((self._past, blocks), 1)[:, -self._network.window :]

    def evaluate(self) -> Tensor:
        step = torch.full((self.batch_size,), self.num_taken, device=self._past.device)
        encoding = self._encoding
        if encoding is not None:
            encoding = encoding[:, self.num_taken if encoding.shape[1] > 1 else 0]
            encoding = repeat_rows(encoding, self.batch_size)
        with self._network.eval_mode():
            return self._network.evaluate(self._past, step, encoding).unsqueeze(1)


class _MarkovStep(StaticStep):
    """Runs the module on the last blocks. There is no state."""

    def start(self, blocks: Tensor, context: Tensor | None) -> tuple[Tensors, Tensors]:
        network = self.network
        order = Permutation(self.order, self.ranks)
        encoding = network.encode(network.context_in_order(context, order))
        return () if encoding is None else (encoding,), ()

    def advance(
        self, blocks: Tensor, position: Tensor, encodings: Tensors, state: Tensors
    ) -> Tensor:
        network, rows = self.network, blocks.shape[0]
        steps = position - network.window + torch.arange(network.window, device=blocks.device)
        past = blocks.index_select(1, self.order.index_select(0, steps.clamp(min=0)))
        is_before = (steps < 0).view(-1, *(1,) * network.padding.dim())
        past = torch.where(is_before, network.padding, past)
        encoding = encoding_at(encodings[0], position) if encodings else None
        params: Tensor = network.evaluate(past, position.expand(rows), encoding)
        return params.unsqueeze(1)
