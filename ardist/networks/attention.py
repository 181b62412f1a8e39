"""Attention layers, for all tokens at once or for one token at a time."""

from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ardist.rows import select_rows
from ardist.shapes import is_transformed

_GROWTH = 32  # number of places by which a cache grows


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
    """Keys and values of the tokens so far, in a buffer that grows with them.

    A single query reads the whole buffer and computes little. Two matrix products over a contiguous
    buffer are two to three times as fast as `scaled_dot_product_attention` over the filled part of
    a buffer for all tokens. So there are at most 31 free places, whose scores are masked.

    Attributes:
        buffer: (2, rows, heads, places, size).
        length: the number of tokens so far.
        most: the largest number of tokens.
    """

    def __init__(self, buffer: Tensor, most: int, length: int = 0) -> None:
        self.length, self.most = length, most
        self._set(buffer)

    def _set(self, buffer: Tensor) -> None:
        """Sets the buffer, and makes the views of it that steps of a single token need."""
        self.buffer = buffer
        self._num_filled = self.length
        self._free = buffer[:, :, :, self.length :].unbind(3)  # (2, rows, heads, size) each
        keys, self._values = buffer.flatten(1, 2).unbind(0)  # (rows * heads, places, size)
        self._keys = keys.transpose(1, 2)
        # If k places are free, the mask is the slice from k on, as long as the number of places.
        self._masks = buffer.new_zeros(1, 1, keys.shape[1] + _GROWTH)
        self._masks[..., keys.shape[1] :] = -torch.inf
        # Half-precision scores would be rounded before the softmax.
        self._by_products = buffer.is_cpu and buffer.dtype in (torch.float32, torch.float64)

    def _reserve(self, count: int) -> None:
        """Makes room for new tokens."""
        places, wanted = self.buffer.shape[3], self.length + count
        if wanted <= places:
            return
        places = min(self.most, -(-wanted // _GROWTH) * _GROWTH)
        *lead, _, size = self.buffer.shape
        buffer = self.buffer.new_empty(*lead, places, size)
        buffer[:, :, :, : self.length] = self.buffer[:, :, :, : self.length]
        buffer[:, :, :, self.length :] = 0.0  # the free places are read, too
        self._set(buffer)

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Adds keys and values, (rows, heads, tokens, size) each, and returns all so far."""
        self._reserve(keys.shape[2])
        start, self.length = self.length, self.length + keys.shape[2]
        filled = self.buffer.narrow(3, 0, self.length)  # (2, rows, heads, length, size)
        for part, new in zip(filled, (keys, values), strict=True):
            part[:, :, start:] = new
        return filled[0], filled[1]

    def put(self, new: Tensor) -> None:
        """Adds the keys and values of one token, (2, rows, heads, size)."""
        self._reserve(1)
        self._free[self.length - self._num_filled].copy_(new)
        self.length += 1

    def attend(self, queries: Tensor) -> Tensor:
        """Attention of one query a row, (rows, heads, 1, size), to all: (rows, heads * size)."""
        rows, heads, _, size = queries.shape
        if not self._by_products:
            keys, values = self.buffer.narrow(3, 0, self.length)
            return F.scaled_dot_product_attention(queries, keys, values).flatten(1)
        places = self._keys.shape[2]
        mask = self._masks.narrow(2, places - self.length, places)
        queries = queries.reshape(-1, 1, size)
        scores = torch.baddbmm(mask, queries, self._keys, alpha=size**-0.5)
        return torch.bmm(scores.softmax(-1), self._values).view(rows, heads * size)

    def select(self, rows: Tensor) -> "Cache":
        return Cache(self.buffer.index_select(1, rows), self.most, self.length)


class StaticCache(Cache):
    """A cache of fixed length, in which the position of the next token is a tensor."""

    def __init__(self, buffer: Tensor, position: Tensor) -> None:
        super().__init__(buffer, buffer.shape[3])
        self.position = position.reshape(1)

    def _set(self, buffer: Tensor) -> None:
        self.buffer = buffer

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        self.buffer.index_copy_(3, self.position, torch.stack((keys, values)))
        return self.buffer[0], self.buffer[1]


class State(NamedTuple):
    """The state of a layer in a draw: weights by name, the memory of cross-attention, a cache."""

    weights: dict[str, tuple[Tensor, Tensor]]
    memory: Memory | None
    cache: Cache

    def select(self, rows: Tensor) -> "State":
        memory = self.memory and Memory(*(select_rows(part, rows) for part in self.memory))
        return State(self.weights, memory, self.cache.select(rows))


class AttentionLayer(nn.Module):
    """Self-attention, cross-attention to a context's sequence if there is one, and an MLP.

    `forward` takes tokens as one matrix (rows * L, dim) and, in a draw, the weights as an argument:
    in a step of a single token, attribute access and reshapes cost as much as the arithmetic.
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
        """Bias and weight of each part by name. The weight of a linear map is (inputs, outputs)."""
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
        shape: torch.Size,
        part: Part,
        num_keys: int,
        given: State | Tensor | None,
        dropout: float,
    ) -> Tensor:
        """The output of the layer, (rows * L, dim).

        Args:
            x: the tokens, (rows * L, dim).
            shape: the shape of the tokens, (rows, L, dim).
            part: gives the rotations and the mask.
            num_keys: the number of tokens, at the start of each row, that have keys.
            given: the state in a draw. Otherwise the encoded sequence of the context, (N, S, dim),
                or None.
            dropout: a probability.
        """
        if isinstance(given, State):
            weights, memory, cache = given
        else:
            weights, cache = self.weights(), None
            memory = None if given is None else self.project_memory(given)
        (rows, length, dim), heads = shape, self.heads
        parts = _linear(_norm(x, weights["attend_norm"]), weights["attend"])  # (rows * L, 3 * dim)
        parts = parts.view(rows, length, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)
        queries, keys, values = parts.unbind(0)  # (rows, heads, L, size)
        if num_keys < length:
            keys, values = keys[:, :, :num_keys], values[:, :, :num_keys]
        if part.query_rotations is not None and part.key_rotations is not None:
            queries = _rotate(queries, part.query_rotations)
            keys = _rotate(keys, part.key_rotations)
        if cache is not None:
            keys, values = cache.append(keys, values)
        causal = bool(part.mask is None and length > 1)  # a tensor under torch.jit.trace
        if cache is not None and part.mask is None and length == 1:
            attended = cache.attend(queries)
        else:
            attended = _join(_attend(queries, keys, values, part.mask, causal))
        x = x + drop(_linear(attended, weights["attend_out"]), dropout)
        if memory is not None:
            queries = _linear(_norm(x, weights["cross_norm"]), weights["cross"])
            attended = _cross(self._split(queries.view(shape)), memory)
            x = x + drop(_linear(_join(attended), weights["cross_out"]), dropout)
        inner = F.gelu(_linear(_norm(x, weights["mlp_norm"]), weights["mlp"]))
        return x + drop(_linear(inner, weights["mlp_out"]), dropout)

    def _split(self, x: Tensor) -> Tensor:
        """From (rows, L, dim) to (rows, heads, L, size)."""
        return x.view(*x.shape[:2], self.heads, x.shape[2] // self.heads).transpose(1, 2)


class TokenStep:
    """A layer at one token of each row, which attends to all tokens in the cache.

    It computes the same as an `AttentionLayer` without rotations and cross-attention. Buffers and
    views are made once, and the constants of GELU are folded into the weights, since with so little
    arithmetic the number of operations matters.
    """

    def __init__(self, weights: dict[str, tuple[Tensor, Tensor]], cache: Cache) -> None:
        _, rows, heads, _, size = cache.buffer.shape
        self._weights, self._cache = weights, cache
        self._parts = cache.buffer.new_empty(rows, 3 * heads * size)
        parts = self._parts.view(rows, 3, heads, size)
        self._queries = parts[:, 0].unsqueeze(2)  # (rows, heads, 1, size)
        self._new = parts[:, 1:].transpose(0, 1)  # keys and values, (2, rows, heads, size)
        # GELU(x) = u * (1 + erf(u)) / sqrt(2), with u = x / sqrt(2).
        (bias, weight), (out_bias, out_weight) = weights["mlp"], weights["mlp_out"]
        self._inner = bias * 0.5**0.5, weight * 0.5**0.5
        self._out = out_bias, out_weight * 0.5**0.5

    def __call__(self, x: Tensor) -> Tensor:
        """The output of the layer, (rows, dim), at tokens (rows, dim)."""
        weights, cache = self._weights, self._cache
        bias, weight = weights["attend"]
        torch.addmm(bias, _norm(x, weights["attend_norm"]), weight, out=self._parts)
        cache.put(self._new)
        x = x + _linear(cache.attend(self._queries), weights["attend_out"])
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
    """Cross-attention of queries (M * N, heads, L, size) to the memory of N contexts.

    All queries of a context attend to its memory together, so the memory is not repeated.
    """
    contexts, length = memory.keys.shape[0], queries.shape[2]
    if queries.shape[0] == contexts:  # a graph of the division below would not hold for one row
        return _attend(queries, memory.keys, memory.values)
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
    """Rotates pairs of entries of x (..., L, size) by cosines and sines (..., L, size)."""
    (first, second), (cosine, sine) = x.chunk(2, -1), rotations.chunk(2, -1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1)
