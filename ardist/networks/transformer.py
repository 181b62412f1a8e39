"""Transformers: attention over the blocks that are drawn already."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ardist.decoding import Decoder
from ardist.drawing_order import Permutation
from ardist.factorization import Factorization
from ardist.networks.attention import (
    AttentionLayer,
    Cache,
    Memory,
    Part,
    State,
    TokenStep,
    drop,
    sinusoids,
)
from ardist.networks.base import ConditionalNetwork, fingerprint
from ardist.networks.sequence import BlockEmbedding, BlockHead
from ardist.rows import add_to_rows, repeat_rows, select_rows
from ardist.shapes import as_choice, as_flag, as_positive, as_probability

_POSITIONS = ("learned", "rotary")


class Transformer(ConditionalNetwork):
    """Pre-norm self-attention (Vaswani et al. 2017; Radford et al. 2019).

    Without ties there is one stream of tokens: the token of a step reads the block drawn before,
    is told which block it predicts (Pannatier et al. 2024, "sigma-GPTs"), and sees the tokens
    before it. With ties, or a graph of dependencies that is transitive, blocks are read by
    content tokens and predicted by query tokens, which see content alone (Yang et al. 2019,
    "XLNet").

    Args:
        factorization: in an order of any kind, as long as it is transitive.
        dim: width of a token.
        depth: how many layers.
        heads: of the attention; they divide `dim`.
        any_order: whether each token is told which block it reads too, so that the order may
            change from call to call, by `factorization=`, and from row to row, by `ranks`. Built
            without ties, it serves orders without ties. False is the plain GPT.
        positions: "learned", or "rotary" (Su et al. 2021), which serves a factorization of
            another length, where blocks have one family.
        context_shape: `(C,)`, `(*grid_shape, C)` or `(S, C)`, by its kind; `()` for none.
        context_kind: "vector", added to every token; "blocks", a vector for each block, added to
            the token that predicts it; "sequence", which all tokens cross-attend to.
        hidden_features: width inside a layer's perceptron; 4 times `dim` by default.
        dropout: the probability with which an entry of the tokens, or of what a layer adds to
            them, is dropped in training mode: by `log_prob`, not by draws.

    Raises:
        ValueError: where the dependencies are not transitive, or an argument is off.

    >>> import torch, ardist as ad
    >>> fac = ad.Factorization((20,), ad.families.Categorical(5))
    >>> net = ad.networks.Transformer(fac, dim=16, depth=2, heads=2)
    >>> net.condition().sample((3,)).shape
    torch.Size([3, 20])
    >>> other = fac.with_ordering(ad.Ordering.random(1))
    >>> ad.AutoregressiveDistribution(net, factorization=other).sample().shape
    torch.Size([20])
    """

    context_kinds = ("vector", "blocks", "sequence")
    has_row_orders = True
    _order: Tensor | None
    _seen: Tensor | None

    def __init__(
        self,
        factorization: Factorization,
        *,
        dim: int,
        depth: int,
        heads: int,
        any_order: bool = True,
        positions: str = "learned",
        context_shape: Sequence[int] = (),
        context_kind: str = "vector",
        hidden_features: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(factorization, context_shape=context_shape, context_kind=context_kind)
        if not factorization.is_transitive:
            raise ValueError(
                f"factorization: Transformer follows transitive dependencies, since a token also "
                f"sees what those before it have seen, got {factorization.ordering!r}"
            )
        self.dim, self.depth = as_positive(dim, "dim"), as_positive(depth, "depth")
        self.heads, self.any_order = as_positive(heads, "heads"), as_flag(any_order, "any_order")
        if dim % (2 * heads if positions == "rotary" else heads):
            even = "twice the number of" if positions == "rotary" else "the number of"
            raise ValueError(f"heads: expected {even} heads to divide dim {dim}, got {heads}")
        self.positions = as_choice(positions, _POSITIONS, "positions")
        self.dropout = as_probability(dropout, "dropout")
        self.embedding = BlockEmbedding(factorization, dim)
        self.head = BlockHead(factorization, dim)
        self.norm = nn.LayerNorm(dim)
        self.start = nn.Parameter(torch.randn(dim) * 0.02)
        self.two_streams = not factorization.is_total
        self.query = nn.Parameter(torch.randn(dim) * 0.02) if self.two_streams else None
        # What tells a token the block that it reads, and the one that it predicts.
        places, told = factorization.num_blocks, any_order or self.two_streams
        learned = positions == "learned"
        self.read_places = (
            nn.Parameter(torch.randn(places, dim) * 0.02) if learned and told else None
        )
        self.target_places = nn.Parameter(torch.randn(places, dim) * 0.02) if learned else None
        self.target_map = nn.Linear(dim, dim, bias=False) if told and not learned else None
        cross = bool(self.context_shape) and context_kind == "sequence"
        if self.context_shape:
            self.context_map = nn.Linear(self.context_shape[-1], dim, bias=cross)
            if cross:
                self.context_places = nn.Parameter(torch.randn(self.context_shape[0], dim) * 0.02)
        inner = as_positive(
            4 * dim if hidden_features is None else hidden_features, "hidden_features"
        )
        self.layers = nn.ModuleList(AttentionLayer(dim, heads, inner, cross) for _ in range(depth))
        with torch.no_grad():  # as GPT-2: what the layers add to the tokens starts small
            for name, weight in self.named_parameters():
                if name.endswith("bias"):
                    weight.zero_()
                elif weight.dim() == 2:
                    scale = math.sqrt(2 * depth) if name.endswith("_out.weight") else 1.0
                    weight.normal_(std=0.02 / scale)
        order = Permutation.of_ranks(factorization.ranks.flatten()).order
        self.register_buffer("_order", order, persistent=False)
        seen = factorization.dependencies if self.two_streams else None
        self.register_buffer("_seen", seen, persistent=False)

    def unsupported_reason(self, factorization: Factorization) -> str | None:
        own, name = self.factorization, type(self).__name__
        if factorization == own:
            return None
        if factorization.families != own.families:
            return super().unsupported_reason(factorization)
        shapes = (factorization.event_shape, factorization.partition)
        if shapes != (own.event_shape, own.partition):
            if self.positions != "rotary" or not own.is_uniform:
                return f"{name} with {self.positions} positions was built for {own}"
            if self.context_kind == "blocks" and self.context_shape:
                return super().unsupported_reason(factorization)
        if not self.any_order and factorization.ordering != own.ordering:
            return f"{name} with any_order=False was trained in the order {own.ordering!r}"
        if factorization.ordering.is_graph and not factorization.is_total:
            return f"{name} takes another order by its ranks, which do not tell a graph"
        if not self.two_streams and not factorization.is_total:
            return f"{name} was built without ties, and serves orders without ties"
        return None

    def _fingerprint(self) -> dict[str, list[str]]:
        """Any-order networks leave out the order, and those for any length the length."""
        any_length = self.positions == "rotary" and self.factorization.is_uniform
        own = fingerprint(self.factorization, any_length)
        if self.any_order:
            del own["ordering"]
        return own

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}\nheads={self.heads}, any_order={self.any_order}, "
            f"positions={self.positions!r}, two_streams={self.two_streams}"
        )

    def forward(
        self, blocks: Tensor, context: Tensor | None = None, ranks: Tensor | None = None
    ) -> Tensor:
        vectors = self.embedding(blocks)  # (M * N, T, dim)
        encoding, memories = self.encode(context)
        states = [
            State(layer.weights(), memory)
            for layer, memory in zip(self.own_layers, memories, strict=True)
        ]
        raster = torch.arange(vectors.shape[1], device=vectors.device)
        if self.two_streams:  # in raster order: the mask alone knows of the order
            seen = self._seen if ranks is None else ranks.unsqueeze(-1) > ranks.unsqueeze(-2)
            hidden = self.run(self.tokens(raster, encoding, seen).all(), vectors, states)
        else:
            order = Permutation(self._order if ranks is None else ranks.argsort(-1))
            tokens = self.tokens(raster if order.order is None else order.order, encoding)
            hidden = self.run(tokens.all(), order.to_drawing(vectors)[:, :-1], states)
            hidden = order.to_raster(hidden)
        return self.head(hidden)

    @property
    def own_layers(self) -> list[AttentionLayer]:
        return [layer for layer in self.layers if isinstance(layer, AttentionLayer)]

    def encode(self, context: Tensor | None) -> tuple[Tensor | None, list[Memory | None]]:
        """What is added to the tokens, (N, 1 or T, dim), and what each layer cross-attends to."""
        if context is None:
            return None, [None] * self.depth
        encoding = self.context_map(context)
        if self.context_kind == "sequence":
            memory = encoding + self.context_places
            return None, [layer.project_memory(memory) for layer in self.own_layers]
        if self.context_kind == "blocks":
            return encoding.unsqueeze(1).flatten(1, -2), [None] * self.depth
        return encoding.unsqueeze(1), [None] * self.depth

    def tokens(
        self, order: Tensor, encoding: Tensor | None, seen: Tensor | None = None
    ) -> "_Tokens":
        """What all tokens of a draw are told, but for the values of the blocks.

        Args:
            order: the blocks as the tokens come, (T,), or (M * N, T) for each row.
            encoding: of the contexts, (N, 1 or T, dim), in raster order.
            seen: for two streams, (..., T, T) bool: which blocks each may see, as in `order`.
        """
        size = self.dim // self.heads
        start = self.start.expand(*order.shape[:-1], 1, -1)
        reads = targets = self.start.new_zeros(*order.shape, self.dim)
        if self.read_places is not None:
            reads = F.embedding(order, self.read_places)
        if self.target_places is not None:
            targets = F.embedding(order, self.target_places)
        elif self.target_map is not None:
            targets = self.target_map(sinusoids(order, self.dim, self.start))
        if encoding is not None:
            if encoding.shape[1] > 1 or order.dim() > 1:
                encoding = encoding.expand(-1, order.shape[-1], -1)
                encoding = Permutation(order).to_drawing(encoding)
            targets = targets + encoding
        rotations = None
        if self.positions == "rotary":
            places = F.pad(order, (1, 0), value=-1)
            rotations = _rows(sinusoids(places, size, self.start)).unsqueeze(1)
        if self.query is None or seen is None:
            contents = torch.cat((start, reads[..., :-1, :]), -2) + targets
            return _Tokens(_rows(contents), None, rotations, None)
        if encoding is not None:
            reads = reads + encoding
            start = start.expand(*reads.shape[:-2], 1, -1)
        # A content token sees the start, itself and what its block may see; a query not itself.
        own = torch.eye(seen.shape[-1], dtype=torch.bool, device=seen.device)
        rows = torch.cat((F.pad(seen | own, (0, 0, 1, 0)), seen), -2)
        mask = _rows(F.pad(rows, (1, 0), value=True)).unsqueeze(1)
        contents = torch.cat((start, reads), -2)
        return _Tokens(_rows(contents), _rows(self.query + targets), rotations, mask)

    def run(self, part: Part, vectors: Tensor, states: Sequence[State]) -> Tensor:
        """Tokens through all layers, and what those of them that predict have become.

        Args:
            part: which tokens; what comes before them is in the caches.
            vectors: the blocks that they read, embedded; none for the start token.
            states: of the layers.
        """
        if vectors.shape[1] < part.contents.shape[1]:
            vectors = F.pad(vectors, (0, 0, 1, 0))
        tokens = add_to_rows(vectors, part.contents)
        num_keys = tokens.shape[1]
        if part.queries is not None:
            queries = repeat_rows(part.queries, tokens.shape[0])
            tokens = torch.cat((tokens, queries), 1)
        dropout = self.dropout if self.training and states[0].cache is None else 0.0
        rows, length, dim = tokens.shape
        x = drop(tokens.reshape(-1, dim), dropout)
        for layer, state in zip(self.own_layers, states, strict=True):
            x = layer(x, rows, part, num_keys, state, dropout)
        hidden = x.view(rows, length, dim)
        hidden = hidden if part.queries is None else hidden[:, num_keys:]
        return self.norm(hidden)

    def make_decoder(
        self,
        factorization: Factorization,
        batch_size: int,
        context: Tensor | None,
        ranks: Tensor | None,
    ) -> Decoder:
        """A decoder that computes each token once, against a cache of keys and values."""
        return _TransformerDecoder(self, factorization, batch_size, context, ranks)


class _Tokens(NamedTuple):
    """All tokens of a draw, but for the blocks that they read.

    Attributes:
        contents: (., K, dim). Token 0 reads nothing, and token p + 1 the block at p. Without
            queries, token p also predicts the block at p.
        queries: (., T, dim); each predicts a block.
        turns: rotations of the start and of the places of the blocks, (., 1, 1 + T, size).
        mask: which of the K each content token sees, and then each query: (., 1, K + T, K).
    """

    contents: Tensor
    queries: Tensor | None
    rotations: Tensor | None
    mask: Tensor | None

    def all(self) -> Part:
        num_queries = 0 if self.queries is None else self.queries.shape[1]
        return self.part(0, self.contents.shape[1], 0, num_queries)

    def part(self, start: int, stop: int, ask: int, end: int) -> Part:
        """Content tokens from `start` to `stop`, and queries from `ask` to `end`."""
        contents, rotations = self.contents[:, start:stop], self.rotations
        of_keys = None if rotations is None else rotations[..., start:stop, :]
        if self.queries is None or self.mask is None:
            of_queries = None if rotations is None else rotations[..., start + 1 : stop + 1, :]
            return Part(contents, None, of_queries, of_keys, None)
        of_queries = None
        if rotations is not None and of_keys is not None:
            of_queries = torch.cat((of_keys, rotations[..., ask + 1 : end + 1, :]), -2)
        first = self.contents.shape[1]
        rows = (self.mask[..., start:stop, :stop], self.mask[..., first + ask : first + end, :stop])
        queries = self.queries[:, ask:end]
        return Part(contents, queries, of_queries, of_keys, torch.cat(rows, -2))

    def select(self, rows: Tensor) -> "_Tokens":
        queries, rotations, mask = (
            None if part is None else select_rows(part, rows)
            for part in (self.queries, self.rotations, self.mask)
        )
        return _Tokens(select_rows(self.contents, rows), queries, rotations, mask)


class _TransformerDecoder(Decoder):
    """Each token once, against a cache of keys and values."""

    def __init__(
        self,
        network: Transformer,
        factorization: Factorization,
        batch_size: int,
        context: Tensor | None,
        ranks: Tensor | None,
    ) -> None:
        super().__init__(factorization, batch_size)
        self._network = network
        device = network.start.device
        order = torch.tensor(factorization.drawing_order.blocks, device=device)
        seen = None
        if network.two_streams:
            seen = factorization.dependencies.to(device)[order][:, order]
        if ranks is not None:
            order = ranks.argsort(-1)
        encoding, memories = network.encode(context)
        self._tokens = network.tokens(order, encoding, seen)
        length, size = self._tokens.contents.shape[1], network.dim // network.heads
        self._states = []
        for layer, memory in zip(network.own_layers, memories, strict=True):
            weights = {name: (b, w.contiguous()) for name, (b, w) in layer.weights().items()}
            buffer = network.start.new_empty(2, batch_size, network.heads, length, size)
            self._states.append(State(weights, memory, Cache(buffer)))
        self._ends = factorization.drawing_order.ends_of("block")
        self._num_read = 0  # content tokens
        self._prepare()

    def _prepare(self) -> None:
        """Makes what steps of one token need, where that is all there is to them."""
        plain = self._tokens.rotations is None and self._tokens.queries is None
        self._added = self._tokens.contents.unbind(1) if plain else ()
        self._layers = [
            TokenStep(state.weights, state.cache)
            for state in self._states
            if plain and state.memory is None and state.cache is not None
        ]

    @torch.no_grad()
    def step(self, previous: Tensor | None) -> Tensor:
        if previous is None:
            return self._advance(
                self._network.start.new_empty(self.batch_size, 0, self._network.dim)
            )
        self.num_taken += 1
        read = self.factorization.steps[self.num_taken - 1]
        return self._advance(self._network.embedding(previous, read))

    @torch.no_grad()
    def prefill(self, blocks: Tensor) -> Tensor:
        self.num_taken = self._num_steps_of(blocks)
        read = self.factorization.drawing_order.blocks[: self._ends[self.num_taken]]
        return self._advance(self._network.embedding(blocks, read))

    def _advance(self, vectors: Tensor) -> Tensor:
        """Reads embedded blocks; the next step's parameters."""
        network, wanted = self._network, self.factorization.steps[self.num_taken]
        now, end = self._ends[self.num_taken : self.num_taken + 2]
        if self._layers and self._num_read == now > 0:
            x = add_to_rows(vectors.squeeze(1), self._added[now])
            for layer in self._layers:
                x = layer(x)
            hidden = network.norm(x).unsqueeze(1)
        else:
            part = self._tokens.part(self._num_read, now + 1, now, end)
            hidden = network.run(part, vectors, self._states)
        self._num_read = now + 1
        return network.head(hidden[:, -len(wanted) :], wanted)

    def select(self, rows: Tensor) -> None:
        self.batch_size = rows.shape[0]
        self._tokens = self._tokens.select(rows)
        self._states = [state.select(rows) for state in self._states]
        self._prepare()


def _rows(x: Tensor) -> Tensor:
    """With a leading dimension."""
    return x if x.dim() == 3 else x.unsqueeze(0)
