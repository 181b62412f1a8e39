"""Attention layers that run over all tokens at once and a token at a time alike."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Part(NamedTuple):
    """Some tokens, and how they attend. Leading dimensions are 1, N or M * N.

    Attributes:
        contents, queries: what the tokens are, but for the blocks that they read.
        asks, keys: rotations of what all of them ask and of the content tokens' keys, if any.
        mask: which keys each token sees; without one each sees those before it and itself.
    """

    contents: Tensor
    queries: Tensor | None
    asks: Tensor | None
    keys: Tensor | None
    mask: Tensor | None


class Memory(NamedTuple):
    """Keys and values of a context's sequence, (N, heads, S, size) each."""

    keys: Tensor
    values: Tensor


class Cache:
    """Keys and values of the tokens so far, in a buffer for all that come."""

    def __init__(self, buffer: Tensor, length: int = 0) -> None:
        self._buffer = buffer  # (2, rows, heads, all tokens, size)
        self._length = length

    def append(self, new: Tensor) -> Tensor:
        """Takes keys and values (2, rows, heads, tokens, size), and returns those of all tokens."""
        start, self._length = self._length, self._length + new.shape[3]
        self._buffer.narrow(3, start, new.shape[3]).copy_(new)
        return self._buffer.narrow(3, 0, self._length)

    def select(self, rows: Tensor) -> "Cache":
        return Cache(self._buffer.index_select(1, rows), self._length)


class State(NamedTuple):
    """What a layer works with: its weights by name, a context's sequence, tokens before."""

    weights: dict[str, tuple[Tensor, Tensor]]
    memory: Memory | None
    cache: Cache | None = None

    def select(self, rows: Tensor) -> "State":
        memory = self.memory and Memory(*(select_rows(part, rows) for part in self.memory))
        return State(self.weights, memory, self.cache and self.cache.select(rows))


class AttentionLayer(nn.Module):
    """Attention to the tokens before, to the context's sequence if there is one, a perceptron.

    It is called with its weights and on rows of tokens without a dimension for their number,
    since at a single step what is around the arithmetic costs as much as the arithmetic.
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
        self.perceptron_norm = nn.LayerNorm(dim)
        self.perceptron = nn.Linear(dim, hidden_features)
        self.perceptron_out = nn.Linear(hidden_features, dim)

    def weights(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Bias and weight of each part by name; that of a linear map is (inputs, outputs)."""
        parts: Any = self.named_children()
        return {name: (part.bias, part.weight.t()) for name, part in parts}

    def remember(self, sequence: Tensor) -> Memory:
        """Keys and values of an encoded context (N, S, dim)."""
        return Memory(*map(self._split, self.cross_memory(sequence).chunk(2, -1)))

    def forward(
        self, x: Tensor, rows: int, part: Part, num_keys: int, state: State, dropout: float
    ) -> Tensor:
        """Tokens (rows * L, dim), of which the first `num_keys` of a row are seen by others."""
        weights, heads = state.weights, self.heads
        parts = _linear(_norm(x, weights["attend_norm"]), weights["attend"])
        parts = parts.view(rows, -1, 3, heads, x.shape[1] // heads).permute(2, 0, 3, 1, 4)
        asks, pairs = parts[0], parts[1:]  # (rows, heads, L, size) and (2, ...)
        length = asks.shape[2]
        if num_keys < length:
            pairs = pairs[:, :, :, :num_keys]
        if part.asks is not None and part.keys is not None:
            asks = _turn(asks, part.asks)
            pairs = torch.stack((_turn(pairs[0], part.keys), pairs[1]))
        if state.cache is not None:
            pairs = state.cache.append(pairs)
        causal = part.mask is None and length > 1
        keys, values = pairs.unbind(0)
        heard = F.scaled_dot_product_attention(asks, keys, values, part.mask, is_causal=causal)
        x = x + drop(_linear(_join(heard), weights["attend_out"]), dropout)
        if state.memory is not None:
            asks = _linear(_norm(x, weights["cross_norm"]), weights["cross"])
            heard = _cross(self._split(asks.view(rows, length, -1)), state.memory)
            x = x + drop(_linear(_join(heard), weights["cross_out"]), dropout)
        inner = F.gelu(_linear(_norm(x, weights["perceptron_norm"]), weights["perceptron"]))
        return x + drop(_linear(inner, weights["perceptron_out"]), dropout)

    def _split(self, x: Tensor) -> Tensor:
        """(rows, L, dim) as (rows, heads, L, size)."""
        return x.view(*x.shape[:2], self.heads, x.shape[2] // self.heads).transpose(1, 2)


def select_rows(x: Tensor, rows: Tensor) -> Tensor:
    """Rows of what has one for each row or context, or one for all."""
    return x if len(x) == 1 else x.index_select(0, rows % len(x))


def _norm(x: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
    bias, weight = weights
    return torch.layer_norm(x, weight.shape, weight, bias)


def _linear(x: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
    return torch.addmm(weights[0], x, weights[1])


def drop(x: Tensor, dropout: float) -> Tensor:
    return F.dropout(x, dropout) if dropout else x


def _join(x: Tensor) -> Tensor:
    """(rows, heads, L, size) as (rows * L, dim)."""
    rows, heads, length, size = x.shape
    return x.transpose(1, 2).reshape(rows * length, heads * size)


def _cross(asks: Tensor, memory: Memory) -> Tensor:
    """All rows of a context ask its memory together, which is not repeated."""
    contexts, length = len(memory.keys), asks.shape[2]
    grouped = asks.unflatten(0, (-1, contexts)).permute(1, 2, 0, 3, 4).flatten(2, 3)
    heard = F.scaled_dot_product_attention(grouped, memory.keys, memory.values)
    parted = heard.view(*heard.shape[:2], -1, length, heard.shape[3])
    return parted.permute(2, 0, 1, 3, 4).flatten(0, 1)


def waves(places: Tensor, size: int, like: Tensor) -> Tensor:
    """Cosines, then sines, of places at frequencies from 1 to 1/10000: (*places, size)."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    powers = torch.arange(0, size, 2, dtype=dtype, device=places.device) / size
    angles = places.unsqueeze(-1) * 10000**-powers
    return torch.cat((angles.cos(), angles.sin()), -1).to(like.dtype)


def _turn(x: Tensor, turns: Tensor) -> Tensor:
    """Pairs of entries of x (..., L, size), rotated by angles (..., L, size)."""
    (first, second), (cosine, sine) = x.chunk(2, -1), turns.chunk(2, -1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1)
