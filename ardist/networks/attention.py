"""Attention layers, for all tokens at once or for one token at a time."""

from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ardist.rows import select_rows
from ardist.shapes import is_transformed


class Part(NamedTuple):
    """Some of the tokens, and what they attend to. Leading dimensions are 1, N or M * N.

    Attributes:
        contents: content tokens (., L, dim), without the embeddings of the blocks that they read.
        queries: query tokens, if there are two streams, (., Q, dim).
        query_rotations: for the queries of all tokens, if positions are rotary.
        key_rotations: for the keys of the content tokens, if positions are rotary.
        mask: the keys that each token attends to. None is the causal mask.
    """

    contents: Tensor
    queries: Tensor | None
    query_rotations: Tensor | None
    key_rotations: Tensor | None
    mask: Tensor | None


class Memory(NamedTuple):
    """Keys and values of the encoded sequence of a context, (N, heads, S, size) each."""

    keys: Tensor
    values: Tensor


class Cache:
    """Keys and values of the tokens so far, in a buffer for all tokens.

    Attributes:
        buffer: (2, rows, heads, all tokens, size).
        length: the number of tokens so far.
    """

    def __init__(self, buffer: Tensor, length: int = 0) -> None:
        self.buffer, self.length = buffer, length

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Adds new tokens, (rows, heads, tokens, size) each, and returns those of all tokens."""
        start, self.length = self.length, self.length + keys.shape[2]
        filled = self.buffer.narrow(3, 0, self.length)  # (2, rows, heads, length, size)
        for part, new in zip(filled, (keys, values), strict=True):
            part[:, :, start:] = new
        return filled[0], filled[1]

    def select(self, rows: Tensor) -> "Cache":
        return Cache(self.buffer.index_select(1, rows), self.length)


class StaticCache(Cache):
    """A cache whose next token has its position in a tensor. It gives the keys of all tokens."""

    def __init__(self, buffer: Tensor, position: Tensor) -> None:
        super().__init__(buffer)
        self.position = position.reshape(1)

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        self.buffer.index_copy_(3, self.position, torch.stack((keys, values)))
        return self.buffer[0], self.buffer[1]


class State(NamedTuple):
    """What a layer keeps between the steps of a draw: weights by name, cross-attention, a cache."""

    weights: dict[str, tuple[Tensor, Tensor]]
    memory: Memory | None
    cache: Cache

    def select(self, rows: Tensor) -> "State":
        memory = self.memory and Memory(*(select_rows(part, rows) for part in self.memory))
        return State(self.weights, memory, self.cache.select(rows))


class AttentionLayer(nn.Module):
    """Self-attention, cross-attention to a context's sequence if there is one, and an MLP.

    `forward` takes tokens as one matrix (rows * L, dim) and, in a draw, the weights as an argument.
    In a step of a single token, attribute access and reshapes would cost as much as the arithmetic.
    """

    def __init__(self, dim: int, heads: int, hidden_features: int, cross: bool) -> None:
        super().__init__()
        self.heads = heads
        self.attend_norm = nn.LayerNorm(dim)
        self.attend = nn.Linear(dim, 3 * dim)
        self.attend_out = nn.Linear(dim, dim)
        if cross:
            self.cross_norm = nn.LayerNorm(dim)
            self.cross = nn.Linear(dim, dim)
            self.cross_memory = nn.Linear(dim, 2 * dim)
            self.cross_out = nn.Linear(dim, dim)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = nn.Linear(dim, hidden_features)
        self.mlp_out = nn.Linear(hidden_features, dim)

    def weights(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Bias and weight of each part by name; the weight of a linear map is (inputs, outputs)."""
        parts: Any = self.named_children()
        return {
            name: (part.bias, part.weight.t() if isinstance(part, nn.Linear) else part.weight)
            for name, part in parts
        }

    def project_memory(self, sequence: Tensor) -> Memory:
        """Keys and values of an encoded context (N, S, dim)."""
        return Memory(*map(self._split, self.cross_memory(sequence).chunk(2, -1)))

    def forward(
        self,
        x: Tensor,
        rows: int,
        part: Part,
        num_keys: int,
        given: State | Tensor | None,
        dropout: float,
    ) -> Tensor:
        """Tokens (rows * L, dim) to the same.

        Args:
            x: the tokens.
            rows: the number of rows.
            part: what they attend to.
            num_keys: the number of first tokens of each row that have keys.
            given: the state in a draw; otherwise the encoded sequence of the context, (N, S, dim),
                or None.
            dropout: a probability.
        """
        if isinstance(given, State):
            weights, memory, cache = given
        else:
            weights, cache = self.weights(), None
            memory = None if given is None else self.project_memory(given)
        heads = self.heads
        parts = _linear(_norm(x, weights["attend_norm"]), weights["attend"])  # (rows * L, 3 * dim)
        parts = parts.view(rows, -1, 3, heads, x.shape[1] // heads).permute(2, 0, 3, 1, 4)
        queries, keys, values = parts.unbind(0)  # (rows, heads, L, size)
        length = queries.shape[2]
        if num_keys < length:
            keys, values = keys[:, :, :num_keys], values[:, :, :num_keys]
        if part.query_rotations is not None and part.key_rotations is not None:
            queries = _rotate(queries, part.query_rotations)
            keys = _rotate(keys, part.key_rotations)
        if cache is not None:
            keys, values = cache.append(keys, values)
        causal = bool(part.mask is None and length > 1)  # a tensor under torch.jit.trace
        attended = _attend(queries, keys, values, part.mask, causal)
        x = x + drop(_linear(_join(attended), weights["attend_out"]), dropout)
        if memory is not None:
            queries = _linear(_norm(x, weights["cross_norm"]), weights["cross"])
            attended = _cross(self._split(queries.view(rows, length, -1)), memory)
            x = x + drop(_linear(_join(attended), weights["cross_out"]), dropout)
        inner = F.gelu(_linear(_norm(x, weights["mlp_norm"]), weights["mlp"]))
        return x + drop(_linear(inner, weights["mlp_out"]), dropout)

    def _split(self, x: Tensor) -> Tensor:
        """From (rows, L, dim) to (rows, heads, L, size)."""
        return x.view(*x.shape[:2], self.heads, x.shape[2] // self.heads).transpose(1, 2)


class TokenStep:
    """A layer at one token of each row, which attends to all tokens in the cache.

    It gives the same numbers as `AttentionLayer`, without rotations and cross-attention. Buffers
    and views are made once, and the constants of GELU are folded into the weights, since with so
    little arithmetic the number of operations matters.
    """

    def __init__(self, weights: dict[str, tuple[Tensor, Tensor]], cache: Cache) -> None:
        _, rows, heads, _, size = cache.buffer.shape
        self._weights, self._cache = weights, cache
        self._slots = cache.buffer.unbind(3)  # one a token, (2, rows, heads, size)
        self._keys, self._values = cache.buffer.unbind(0)  # (rows, heads, all tokens, size)
        self._parts = cache.buffer.new_empty(rows, 3 * heads * size)
        parts = self._parts.view(rows, 3, heads, size)
        self._queries = parts[:, 0].unsqueeze(2)  # (rows, heads, 1, size)
        self._new = parts[:, 1:].transpose(0, 1)  # keys and values, (2, rows, heads, size)
        # GELU(x) = u * (1 + erf(u)) / sqrt(2) of u = x / sqrt(2).
        (bias, weight), (out_bias, out_weight) = weights["mlp"], weights["mlp_out"]
        self._inner = bias * 0.5**0.5, weight * 0.5**0.5
        self._out = out_bias, out_weight * 0.5**0.5

    def __call__(self, x: Tensor) -> Tensor:
        """Tokens (rows, dim) to the same."""
        weights, cache = self._weights, self._cache
        bias, weight = weights["attend"]
        torch.addmm(bias, _norm(x, weights["attend_norm"]), weight, out=self._parts)
        self._slots[cache.length].copy_(self._new)
        cache.length += 1
        keys, values = (
            self._keys.narrow(2, 0, cache.length),
            self._values.narrow(2, 0, cache.length),
        )
        attended = F.scaled_dot_product_attention(self._queries, keys, values).reshape(x.shape)
        x = x + _linear(attended, weights["attend_out"])
        inner = _linear(_norm(x, weights["mlp_norm"]), self._inner)
        return x + _linear(torch.addcmul(inner, inner, inner.erf()), self._out)


def _norm(x: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
    bias, weight = weights
    return torch.layer_norm(x, weight.shape, weight, bias)


def _linear(x: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
    return torch.addmm(weights[0], x, weights[1])


def drop(x: Tensor, dropout: float) -> Tensor:
    return F.dropout(x, dropout) if dropout else x


def _join(x: Tensor) -> Tensor:
    """From (rows, heads, L, size) to (rows * L, dim)."""
    rows, heads, length, size = x.shape
    return x.transpose(1, 2).reshape(rows * length, heads * size)


def _cross(queries: Tensor, memory: Memory) -> Tensor:
    """Cross-attention of queries (M * N, heads, L, size); the memory of N contexts is not repeated.

    All queries of a context attend to its memory together.
    """
    contexts, length = memory.keys.shape[0], queries.shape[2]
    grouped = queries.unflatten(0, (-1, contexts)).permute(1, 2, 0, 3, 4)  # (N, heads, M, L, size)
    attended = _attend(grouped.flatten(2, 3), memory.keys, memory.values)
    separate = attended.view(*attended.shape[:2], -1, length, attended.shape[3])
    return separate.permute(2, 0, 1, 3, 4).flatten(0, 1)


def sinusoids(positions: Tensor, size: int, reference: Tensor) -> Tensor:
    """Cosines, then sines, of positions at frequencies from 1 to 1/10000: (*positions, size)."""
    dtype = torch.promote_types(reference.dtype, torch.float32)
    powers = torch.arange(0, size, 2, dtype=dtype, device=positions.device) / size
    angles = positions.unsqueeze(-1) * 10000**-powers  # (*positions, size / 2)
    return torch.cat((angles.cos(), angles.sin()), -1).to(reference.dtype)


def _attend(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """Softmax attention of queries (., heads, L, size) over keys (., heads, K, size)."""
    # torch's fused kernels do not support vmap and jvp.
    with sdpa_kernel(SDPBackend.MATH) if is_transformed() else nullcontext():
        return F.scaled_dot_product_attention(queries, keys, values, mask, is_causal=causal)


def _rotate(x: Tensor, rotations: Tensor) -> Tensor:
    """Pairs of entries of x (..., L, size), rotated by cosines and sines (..., L, size)."""
    (first, second), (cosine, sine) = x.chunk(2, -1), rotations.chunk(2, -1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1)
