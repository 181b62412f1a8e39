"""Transformers, with attention over earlier blocks."""

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
    StaticCache,
    TokenStep,
    drop,
    sinusoids,
)
from ardist.networks.base import ConditionalNetwork
from ardist.networks.constants import register_constant
from ardist.networks.fingerprint import fingerprint
from ardist.networks.sequence import BlockEmbedding, BlockHead, SequenceStep, encoding_at
from ardist.networks.sizes import block_width
from ardist.recomputation import recomputed
from ardist.rows import add_to_rows, repeat_rows, select_rows
from ardist.shapes import as_choice, as_flag, as_positive, as_probability
from ardist.static import StaticStep, Tensors

_POSITIONS = ("learned", "rotary")
_DEVIATION = 0.1  # initial standard deviation of the vectors that are added up to a token


class Transformer(ConditionalNetwork):
    """A pre-norm Transformer (Vaswani et al. 2017; Radford et al. 2019).

    Without ties there is one stream of tokens. The token of a step embeds the block of the previous
    step and the position of the block that it predicts (Pannatier et al. 2024, "sigma-GPTs"), and
    attends to itself and the tokens before it. With ties, or with a transitive graph of
    dependencies, there are two streams: content tokens embed blocks, and query tokens predict them
    and attend to content tokens only (Yang et al. 2019, "XLNet").

    Args:
        factorization: with any ordering whose dependencies are transitive.
        dim: width of a token. By default it is twice the number of features of the widest block,
            rounded up to a power of two within 64 and 256.
        depth: number of layers. By default it is half the binary logarithm of the number of blocks,
            within 2 and 6.
        heads: number of attention heads, which divides `dim`; by default 4, or a smaller power of
            two if heads would have an odd width.
        any_order: whether tokens also embed the position of the block that they read. Then the
            order may change from call to call, by `factorization=`, and from row to row, by
            `ranks`. A network that was built without ties supports any order without ties. If
            False, the network is a plain GPT.
        positions: "learned", or "rotary" (Su et al. 2021). With rotary positions the network
            supports factorizations of other lengths, if the blocks have one family.
        context_shape: `(C,)`, `(*grid_shape, C)` or `(S, C)`, by its kind; `()` for none.
        context_kind: "vector", added to all tokens; "blocks", a vector for each block, added to
            the token that predicts it; or "sequence", to which all tokens cross-attend.
        hidden_features: width of the hidden layer of each MLP; 4 times `dim` by default.
        dropout: the probability of dropping an entry of the tokens, or of a layer's output, in
            training mode. It applies to `log_prob`, not to draws.
        checkpoint_layers: whether the backward pass of `log_prob` computes each layer again instead
            of keeping its activations.

    Raises:
        ValueError: if the dependencies are not transitive, or an argument is invalid.

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
    _sizes = ("dim", "depth", "heads")
    _order: Tensor | None
    _visible: Tensor | None

    def __init__(
        self,
        factorization: Factorization,
        *,
        dim: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        any_order: bool = True,
        positions: str = "learned",
        context_shape: Sequence[int] = (),
        context_kind: str = "vector",
        hidden_features: int | None = None,
        dropout: float = 0.0,
        checkpoint_layers: bool = False,
    ) -> None:
        super().__init__(factorization, context_shape=context_shape, context_kind=context_kind)
        if not factorization.is_transitive:
            raise ValueError(
                f"factorization: Transformer needs transitive dependencies, since a token reads "
                f"the hidden states of those it depends on, got {factorization.ordering!r}"
            )
        dim = as_positive(block_width(factorization) if dim is None else dim, "dim")
        if depth is None:
            depth = min(max(factorization.num_blocks.bit_length() // 2, 2), 6)
        heads = max(math.gcd(dim, 8) // 2, 1) if heads is None else as_positive(heads, "heads")
        self.dim, self.depth, self.heads = dim, as_positive(depth, "depth"), heads
        self.has_row_orders = self.any_order = as_flag(any_order, "any_order")
        if dim % (2 * heads if positions == "rotary" else heads):
            divisor = "twice the number of" if positions == "rotary" else "the number of"
            raise ValueError(f"heads: expected {divisor} heads to divide dim {dim}, got {heads}")
        self.positions = as_choice(positions, _POSITIONS, "positions")
        self.dropout = as_probability(dropout, "dropout")
        self.checkpoint_layers = as_flag(checkpoint_layers, "checkpoint_layers")
        self.embedding = BlockEmbedding(factorization, dim)
        self.head = BlockHead(factorization, dim)
        self.norm = nn.LayerNorm(dim)
        self.start = nn.Parameter(torch.empty(dim))
        self.two_streams = not factorization.is_total
        self.query = nn.Parameter(torch.empty(dim)) if self.two_streams else None
        # Embeddings of the positions of the block that a token reads and the block it predicts.
        # With one fixed order, either position determines the other.
        is_learned, has_both = positions == "learned", any_order or self.two_streams
        places = _place_table(factorization.grid_shape, dim)
        self.read_places = nn.Parameter(places.clone()) if is_learned and has_both else None
        self.target_places = nn.Parameter(places) if is_learned else None
        self.target_map = nn.Linear(dim, dim, bias=False) if has_both and not is_learned else None
        cross = bool(self.context_shape) and context_kind == "sequence"
        if self.context_shape:
            self.context_map = nn.Linear(self.context_shape[-1], dim, bias=cross)
            if cross:
                self.context_places = nn.Parameter(torch.empty(self.context_shape[0], dim))
        width = as_positive(
            4 * dim if hidden_features is None else hidden_features, "hidden_features"
        )
        self.layers = nn.ModuleList(
            AttentionLayer(dim, heads, width, cross) for _ in range(self.depth)
        )
        self._initialize()
        order = Permutation.of_ranks(factorization.ranks.flatten()).order
        register_constant(self, "_order", order)
        visible = factorization.dependencies if self.two_streams else None
        register_constant(self, "_visible", visible)

    @torch.no_grad()
    def _initialize(self) -> None:
        """Initializes the weights, except tables of positions, norms and nested networks.

        All vectors that are added up to a token have the same standard deviation. The two tables of
        positions start equal, with similar vectors for nearby places, so that attention starts with
        nearby blocks. As in GPT-2, the outputs of layers start small.
        """
        for name, weight in self.named_parameters():
            part = name.split(".")[0]
            if part != "nested" and name.endswith("bias"):
                weight.zero_()
            elif part == "layers" and weight.dim() == 2:
                scale = math.sqrt(2 * self.depth) if name.endswith("_out.weight") else 1.0
                weight.normal_(std=0.5 / scale / math.sqrt(weight.shape[1]))
            elif part in ("head", "target_map"):
                weight.normal_(std=0.02)
            elif part in ("start", "query", "embedding", "context_map", "context_places"):
                weight.normal_(std=_DEVIATION)

    def unsupported_reason(self, factorization: Factorization) -> str | None:
        built_for, name = self.factorization, type(self).__name__
        if factorization == built_for:
            return None
        if factorization.families != built_for.families:
            return super().unsupported_reason(factorization)
        shapes = (factorization.event_shape, factorization.partition)
        if shapes != (built_for.event_shape, built_for.partition):
            if self.positions != "rotary" or not built_for.is_uniform:
                return self._built_for(f" with {self.positions} positions")
            if self.context_kind == "blocks" and self.context_shape:
                return self._built_for(" with context_kind='blocks'")
        if not self.any_order and factorization.ordering != built_for.ordering:
            return f"{name} with any_order=False was trained in the order {built_for.ordering!r}"
        if factorization.ordering.is_graph and not factorization.is_total:
            return f"{name} takes another order as ranks, which cannot express a graph"
        if not self.two_streams and not factorization.is_total:
            return f"{name} was built without ties, and supports orders without ties only"
        return None

    def _fingerprint(self) -> dict[str, list[str]]:
        """As for any network, but without the order, or the length, if it may be replaced."""
        any_length = self.positions == "rotary" and self.factorization.is_uniform
        entries = fingerprint(self.factorization, any_length)
        if self.any_order:
            del entries["ordering"]
        return entries

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}\nheads={self.heads}, any_order={self.any_order}, "
            f"positions={self.positions!r}, two_streams={self.two_streams}"
        )

    def hidden_states(
        self, blocks: Tensor, context: Tensor | None = None, ranks: Tensor | None = None
    ) -> Tensor:
        vectors = self.embedding(blocks)  # (M * N, T, dim)
        encoding, sequence = self.encode(context)
        given = [sequence] * self.depth
        raster = torch.arange(vectors.shape[1], device=vectors.device)
        if self.two_streams:  # in raster order, since only the mask depends on the order
            visible = self._visible if ranks is None else ranks.unsqueeze(-1) > ranks.unsqueeze(-2)
            return self.run(self.tokens(raster, encoding, visible).all(), vectors, given)
        order = Permutation(self._order if ranks is None else ranks.argsort(-1))
        tokens = self.tokens(raster if order.order is None else order.order, encoding)
        hidden = self.run(tokens.all(), order.to_drawing(vectors)[:, :-1], given)
        return order.to_raster(hidden)  # (M * N, T, dim)

    @property
    def attention_layers(self) -> list[AttentionLayer]:
        """The layers, typed."""
        return [layer for layer in self.layers if isinstance(layer, AttentionLayer)]

    def encode(self, context: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The encoding that is added to tokens, (N, 1 or T, dim), and the encoded sequence to which
        tokens cross-attend, (N, S, dim). At least one of them is None.
        """
        if context is None:
            return None, None
        encoding = self.context_map(context)
        if self.context_kind == "sequence":
            return None, encoding + self.context_places
        if self.context_kind == "blocks":
            return encoding.unsqueeze(1).flatten(1, -2), None
        return encoding.unsqueeze(1), None

    def tokens(
        self, order: Tensor, encoding: Tensor | None, visible: Tensor | None = None
    ) -> "_Tokens":
        """All tokens of a draw, without the embeddings of the blocks.

        Args:
            order: the raster index of each block in the order of the tokens, (T,), or (M * N, T) if
                the rows have orders of their own.
            encoding: the encoding of the contexts, (N, 1 or T, dim), in raster order.
            visible: for two streams, (..., T, T) bool, whether each block depends on each other
                block, in the order of the tokens.
        """
        size = self.dim // self.heads
        start = self.start.expand(*order.shape[:-1], 1, -1)
        reads = targets = self.start.new_zeros(*order.shape, self.dim)  # (., T, dim)
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
            rotations = _as_rows(sinusoids(places, size, self.start)).unsqueeze(1)
        if self.query is None or visible is None:
            contents = torch.cat((start, reads[..., :-1, :]), -2) + targets
            return _Tokens(_as_rows(contents), None, rotations, None)
        if encoding is not None:
            reads = reads + encoding
            start = start.expand(*reads.shape[:-2], 1, -1)
        # A content token attends to the start, to itself and to the blocks on which its block
        # depends. A query token attends to the same tokens, except to the token of its block.
        diagonal = torch.eye(visible.shape[-1], dtype=torch.bool, device=visible.device)
        rows = torch.cat((F.pad(visible | diagonal, (0, 0, 1, 0)), visible), -2)
        mask = _as_rows(F.pad(rows, (1, 0), value=True)).unsqueeze(1)  # (., 1, 1 + 2 * T, 1 + T)
        contents = torch.cat((start, reads), -2)  # (., 1 + T, dim)
        return _Tokens(_as_rows(contents), _as_rows(self.query + targets), rotations, mask)

    def run(self, part: Part, vectors: Tensor, given: Sequence[State | Tensor | None]) -> Tensor:
        """The final hidden states of the tokens that predict blocks, (rows, L, dim).

        Args:
            part: the tokens. Earlier tokens are in the caches.
            vectors: the embeddings of the blocks that content tokens read, (rows, L or L - 1, dim).
                The start token reads no block.
            given: the argument of `AttentionLayer.forward` for each layer.
        """
        if vectors.shape[1] < part.contents.shape[1]:
            vectors = F.pad(vectors, (0, 0, 1, 0))
        tokens = add_to_rows(vectors, part.contents)  # (rows, L, dim)
        num_keys = tokens.shape[1]
        if part.queries is not None:
            queries = repeat_rows(part.queries, tokens.shape[0])
            tokens = torch.cat((tokens, queries), 1)
        is_draw = isinstance(given[0], State)
        dropout = self.dropout if self.training and not is_draw else 0.0
        shape = tokens.shape
        x = drop(tokens.flatten(0, 1), dropout)
        for layer, own in zip(self.attention_layers, given, strict=True):
            args = (x, shape, part, num_keys, own, dropout)
            if is_draw:  # without the hooks of FSDP, which would free the weights of the draw
                x = layer.forward(*args)  # (rows * length, dim)
            else:
                x = recomputed(layer, layer, *args) if self.checkpoint_layers else layer(*args)
        hidden = x.view(shape)
        hidden = hidden if part.queries is None else hidden[:, num_keys:]
        return self.norm(hidden)

    def make_decoder(
        self,
        factorization: Factorization,
        batch_size: int,
        context: Tensor | None,
        ranks: Tensor | None,
    ) -> Decoder:
        """A decoder that computes each token once, with a cache of keys and values."""
        return _TransformerDecoder(self, factorization, batch_size, context, ranks)

    def make_static_step(self, factorization: Factorization) -> StaticStep:
        """A step with caches of all keys and values, or a whole pass if there are two streams."""
        if self.two_streams:
            return super().make_static_step(factorization)
        return _TransformerStep(self, factorization)


class _Tokens(NamedTuple):
    """All tokens of a draw, without the embeddings of the blocks that they read.

    The first dimension is 1, N or M * N. There are K content tokens: T with one stream, 1 + T with
    two streams.

    Attributes:
        contents: (., K, dim). Token 0 reads no block, and token p + 1 reads the block at place p of
            the order. Without queries, token p also predicts the block at place p.
        queries: (., T, dim). Each query token predicts a block.
        rotations: for the start and for the positions of the blocks, (., 1, 1 + T, size).
        mask: whether each content token, and then each query token, attends to each content token:
            (., 1, K + T, K).
    """

    contents: Tensor
    queries: Tensor | None
    rotations: Tensor | None
    mask: Tensor | None

    def all(self) -> Part:
        num_queries = 0 if self.queries is None else self.queries.shape[1]
        return self.part(0, self.contents.shape[1], 0, num_queries)

    def part(self, start: int, stop: int, first: int, last: int) -> Part:
        """Content tokens from `start` to `stop`, and query tokens from `first` to `last`."""
        contents, rotations = self.contents[:, start:stop], self.rotations
        of_keys = None if rotations is None else rotations[..., start:stop, :]
        if self.queries is None or self.mask is None:
            of_queries = None if rotations is None else rotations[..., start + 1 : stop + 1, :]
            return Part(contents, None, of_queries, of_keys, None)
        of_queries = None
        if rotations is not None and of_keys is not None:
            of_queries = torch.cat((of_keys, rotations[..., first + 1 : last + 1, :]), -2)
        count = self.contents.shape[1]
        of_contents, masks = self.mask[..., start:stop, :stop], self.mask[..., count:, :stop]
        mask = torch.cat((of_contents, masks[..., first:last, :]), -2)
        return Part(contents, self.queries[:, first:last], of_queries, of_keys, mask)

    def select(self, rows: Tensor) -> "_Tokens":
        others = (self.queries, self.rotations, self.mask)
        contents = select_rows(self.contents, rows)
        return _Tokens(contents, *(select_rows(part, rows) for part in others))


class _TransformerDecoder(Decoder):
    """Computes each token once, with a cache of keys and values."""

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
        visible = None
        if network.two_streams:
            visible = factorization.dependencies.to(device)[order][:, order]
        if ranks is not None:
            order = ranks.argsort(-1)
        encoding, sequence = network.encode(context)
        self._tokens = network.tokens(order, encoding, visible)
        length, size = self._tokens.contents.shape[1], network.dim // network.heads
        self._states = []
        for layer in network.attention_layers:
            memory = None if sequence is None else layer.project_memory(sequence)
            weights = {name: (b, w.contiguous()) for name, (b, w) in layer.weights().items()}
            buffer = network.start.new_empty(2, batch_size, network.heads, 0, size)
            self._states.append(State(weights, memory, Cache(buffer, length)))
        self._ends = factorization.drawing_order.ends_of("block")
        self._num_read = 0  # the number of content tokens in the caches
        self._make_token_steps()

    def _make_token_steps(self) -> None:
        """Makes fast layers for steps of one token, without rotations and cross-attention."""
        is_plain = self._tokens.rotations is None and self._tokens.queries is None
        self._added = self._tokens.contents.unbind(1) if is_plain else ()  # (., dim) for each token
        self._token_steps = [
            TokenStep(state.weights, state.cache)
            for state in self._states
            if is_plain and state.memory is None
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
        """The next step's parameters, after the embeddings of new blocks, (rows, n, dim)."""
        network, blocks = self._network, self.factorization.steps[self.num_taken]
        start, stop = self._ends[self.num_taken : self.num_taken + 2]
        if self._token_steps and self._num_read == start > 0:
            x = add_to_rows(vectors.squeeze(1), self._added[start])  # (rows, dim)
            for layer in self._token_steps:
                x = layer(x)
            hidden = network.norm(x).unsqueeze(1)
        else:
            part = self._tokens.part(self._num_read, start + 1, start, stop)
            hidden = network.run(part, vectors, self._states)
        self._num_read = start + 1
        return network.head(hidden[:, -len(blocks) :], blocks)

    @torch.no_grad()
    def select(self, rows: Tensor) -> None:
        self.batch_size = rows.shape[0]
        self._tokens = self._tokens.select(rows)
        self._states = [state.select(rows) for state in self._states]
        self._make_token_steps()


class _TransformerStep(SequenceStep):
    """Computes one token. The state of each layer is (rows, 2, heads, T, size): keys and values.

    The token attends to all places of the caches, and the places of later steps are masked.
    """

    def start(self, blocks: Tensor, context: Tensor | None) -> tuple[Tensors, Tensors]:
        network, rows = self.network, blocks.shape[0]
        encoding, sequence = network.encode(context)
        encodings: Tensors = ()
        if sequence is not None:
            memories = [layer.project_memory(sequence) for layer in network.attention_layers]
            encodings = tuple(torch.stack(memory, 1) for memory in memories)
        elif encoding is not None:  # (rows, 1 or T, dim), in the order of drawing
            order = Permutation(None if encoding.shape[1] == 1 else self.order)
            encodings = (order.to_drawing(encoding),)
        shape = (rows, 2, network.heads, self.order.shape[0], network.dim // network.heads)
        return encodings, tuple(network.start.new_zeros(shape) for _ in network.attention_layers)

    def advance(
        self, blocks: Tensor, position: Tensor, encodings: Tensors, state: Tensors
    ) -> Tensor:
        network = self.network
        # Of the first two tokens of an order that starts with these blocks, this is the second,
        # or the first at step 0.
        pair = torch.cat((self.block_at(position - 1), self.block_at(position)))
        place = (position > 0).long().reshape(1)
        tokens = network.tokens(pair, None)
        contents = tokens.contents.index_select(1, place)
        memories: Sequence[Memory | None] = [None] * len(state)
        if network.context_kind == "sequence" and encodings:
            memories = [Memory(*memory.unbind(1)) for memory in encodings]
        elif encodings:
            contents = contents + encoding_at(encodings[0], position).unsqueeze(1)
        rotations = [
            None if tokens.rotations is None else tokens.rotations.index_select(-2, place + shift)
            for shift in (0, 1)
        ]
        steps = torch.arange(self.order.shape[0], device=self.order.device)
        mask = (steps <= position).view(1, 1, 1, -1)
        part = Part(contents, None, rotations[1], rotations[0], mask)
        layers = zip(network.attention_layers, memories, state, strict=True)
        given = [
            State(layer.weights(), memory, StaticCache(buffer.transpose(0, 1), position))
            for layer, memory, buffer in layers
        ]
        vectors = self.read(blocks, position, torch.zeros_like(network.start))
        hidden: Tensor = network.run(part, vectors.unsqueeze(1), given)
        return self.params_of(hidden.squeeze(1))


def _as_rows(x: Tensor) -> Tensor:
    """From (T, dim) to (1, T, dim); a tensor (rows, T, dim) stays."""
    return x if x.dim() == 3 else x.unsqueeze(0)


def _place_table(grid_shape: Sequence[int], size: int) -> Tensor:
    """A vector for each place of a grid, similar for nearby places: (num_places, size).

    Each entry is a cosine or a sine of one coordinate, centred. The wavelengths are geometric, from
    2 places to 4 sides of the grid.
    """
    dims = [side for side in grid_shape if side > 1] or [1]
    share = -(-size // (2 * len(dims)))  # the number of wavelengths for each coordinate
    waves = []
    for coordinate, side in zip(
        torch.meshgrid(*map(torch.arange, dims), indexing="ij"), dims, strict=True
    ):
        lengths = 2.0 * (2.0 * side) ** torch.linspace(0, 1, share)
        angles = 2 * math.pi * coordinate.reshape(-1, 1) / lengths  # (num_places, share)
        waves += [angles.cos(), angles.sin()]
    table = torch.cat(waves, -1)[:, :size]
    table = table - table.mean(0)
    return table * (_DEVIATION / table.std(correction=0).clamp(min=1e-6))
