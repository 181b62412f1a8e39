"""A multilayer perceptron that predicts every block from any set of the others."""

from collections.abc import Sequence
from itertools import chain, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ardist.decoding import CacheDecoder, Decoder
from ardist.drawing_order import Permutation, arrange
from ardist.factorization import Factorization
from ardist.networks.any_set import AnySet, Passes, is_partial_order
from ardist.networks.base import start_near_noise
from ardist.networks.from_module import MaskedModule
from ardist.networks.sizes import hidden_layers
from ardist.rows import add_to_rows, repeat_rows, select_rows
from ardist.shapes import as_flag, as_probability, as_size, is_readable

_PASSES_AT_ONCE = 2048  # by default on a CPU, since its caches then hold the hidden units
_LEAST_ROWS = 128  # the fewest rows of a draw for which finding equal prefixes saves time


class Masked(AnySet):
    """A perceptron that reads any set of blocks and predicts all other blocks.

    Uria et al. 2014, "A deep and tractable density estimator", train such a network on random
    orders. Its inputs are the features of the blocks times their mask, and the mask. One pass
    predicts all blocks that are not observed, so training by `ardist.training.masked_log_prob`
    takes one pass for each event.

    It supports any order, with or without ties, which may change from call to call and from row to
    row. It supports a graph only if it was built for that graph. `log_prob` under an order is
    exact, and takes a pass for each step, all in one batch. The passes share the first layer: its
    sums under an order are cumulative sums over the blocks. A draw only adds each new block to the
    sums.

    Each order defines a joint distribution of its own. `given` and `marginal` of any set use an
    order in which the set comes first.

    Args:
        factorization: the blocks, and the order that applies by default.
        hidden_features: width of each hidden layer; at least one is needed. By default
            there are two layers, whose width is four times the number of features of the event,
            rounded up to a power of two within 256 and 512.
        residual: whether layers of equal width add their input to their output.
        dropout: the probability of dropping a hidden unit in training mode. It applies to
            `log_prob`, not to draws.
        context_shape: `(C,)`, `(*grid_shape, C)` or `(S, C)`, by its kind; `()` for none.
        context_kind: "vector", "blocks" or "sequence". Every block depends on the whole context.
        chunk_size: the largest number of passes in one batch of `log_prob`, which limits the
            memory. The passes of one event stay together. By default 2048 on a CPU, since larger
            batches are slower there, and all elsewhere. The `chunk_size` of `condition` is
            different: it counts blocks, and this network does not support it.

    Raises:
        ValueError: if an argument is invalid.

    >>> import torch, ardist as ad
    >>> fac = ad.Factorization((4, 4), ad.families.Bernoulli())
    >>> net = ad.networks.Masked(fac, hidden_features=(32, 32))
    >>> x = net.condition().sample((3,))
    >>> loss = -ad.training.masked_log_prob(net.condition(), x).mean()  # to train on
    >>> known = torch.rand(4, 4) < 0.3
    >>> net.condition().given(x, known).sample().shape
    torch.Size([3, 4, 4])
    """

    context_kinds = ("vector", "blocks", "sequence")
    starts_at_data = True
    _sizes = ("hidden_features",)

    def __init__(
        self,
        factorization: Factorization,
        *,
        hidden_features: int | Sequence[int] | None = None,
        residual: bool = True,
        dropout: float = 0.0,
        context_shape: Sequence[int] = (),
        context_kind: str = "vector",
        chunk_size: int | None = None,
    ) -> None:
        super().__init__(
            factorization,
            context_shape=context_shape,
            context_kind=context_kind,
            chunk_size=chunk_size,
        )
        layout = factorization.layout
        if hidden_features is None:
            hidden_features = hidden_layers(sum(layout.sizes["feature"]))
        self.hidden_features = widths = as_size(hidden_features, "hidden_features")
        if not widths:
            raise ValueError("hidden_features: expected at least one layer, got ()")
        self.residual = as_flag(residual, "residual")
        self.dropout = as_probability(dropout, "dropout")
        self._feature_ends, self._param_ends = layout.ends_of("feature"), layout.ends_of("param")
        # A row for each feature, and one for each block, which marks it as observed.
        self.features_in = nn.Parameter(torch.empty(self._feature_ends[-1], widths[0]))
        self.observed_in = nn.Parameter(torch.empty(layout.num_blocks, widths[0]))
        self.bias = nn.Parameter(torch.empty(widths[0]))
        bound = (self._feature_ends[-1] + layout.num_blocks) ** -0.5
        with torch.no_grad():
            for parameter in (self.features_in, self.observed_in, self.bias):
                parameter.uniform_(-bound, bound)
        self.context_in = (
            nn.Linear(self.context_shape.numel(), widths[0], bias=False)
            if self.context_shape
            else None
        )
        self.hidden = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))
        self.head = nn.Linear(widths[-1], self._param_ends[-1])
        start_near_noise(factorization, self.head)

    @staticmethod
    def from_module(
        module: nn.Module,
        factorization: Factorization,
        *,
        mask: float | Tensor,
        context_shape: Sequence[int] = (),
        chunk_size: int | None = None,
    ) -> MaskedModule:
        """Wraps a bidirectional module, such as a BERT, as a network of the same kind.

        The module can be a masked language model (Devlin et al. 2019, "BERT"). It is called as
        `module(blocks)`, or `module(blocks, context)`. The blocks are in raster order,
        (rows, num_blocks, *block_shape), and int64 if they are indices (tokens), with `mask` in
        place of each block that is not observed. The module returns the parameters of all blocks,
        (rows, num_blocks, num_params), as a tensor or as the first entry of its output. If the
        family is a Categorical, extra logits, for symbols of the vocabulary that are never drawn,
        are dropped.

        `log_prob` calls the module on one row for each event and step of the order. A draw calls
        the module once for each step.

        Args:
            module: predicts every block from the blocks that are not masked.
            factorization: blocks of one family, in any order.
            mask: the input in place of a block that is not observed: a token (BERT's is 103), or
                a number or tensor that broadcasts to a block.
            context_shape: the shape of a context, `()` for none.
            chunk_size: the largest number of rows in one call of the module; all by default. The
                rows of one pass stay together.

        Raises:
            ValueError: if the blocks differ in family, an argument is invalid, or the module
                returns another shape. Draws raise it if dropout or batch norm is active: call
                `module.eval()` first.

        >>> import torch, ardist as ad
        >>> class Bag(torch.nn.Module):  # the logits of each token from all tokens
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.table = torch.nn.Embedding(6, 6)
        ...     def forward(self, tokens):
        ...         return self.table(tokens).sum(1, keepdim=True).expand(-1, tokens.shape[1], -1)
        >>> fac = ad.Factorization((4,), ad.families.Categorical(5))
        >>> net = ad.networks.Masked.from_module(Bag(), fac, mask=5)
        >>> net.condition().sample((3,)).shape
        torch.Size([3, 4])
        """
        return MaskedModule(
            module, factorization, mask=mask, context_shape=context_shape, chunk_size=chunk_size
        )

    def predict(self, blocks: Tensor, observed: Tensor, context: Tensor | None) -> Tensor:
        layout = self.factorization.layout
        features = layout.features(blocks).to(self.bias.dtype)  # (M * N, total features)
        read = observed.to(self.bias.dtype)
        masked = features * read.index_select(1, self._blocks_of("feature"))
        sums = masked @ self.features_in + read @ self.observed_in
        hidden = self.run(add_to_rows(sums, self.encode(context)))
        params: Tensor = self.head(hidden)
        return params.reshape(blocks.shape[0], *layout.param_shape)

    def under_order(self, blocks: Tensor, context: Tensor | None, passes: Passes) -> Tensor:
        rows, encoding = blocks.shape[0], self.encode(context)
        most = self.chunk_size
        if most is None and is_readable(blocks):
            most = _PASSES_AT_ONCE
        at_once = rows if most is None else max(1, most // passes.count)
        if at_once >= rows:
            return self._under_order(blocks, encoding, passes)
        encoding = repeat_rows(encoding, rows)
        parts = zip(blocks.split(at_once), encoding.split(at_once), strict=True)
        return torch.cat(
            [
                self._under_order(*part, passes.of_rows(slice(start, start + at_once)))
                for start, part in zip(range(0, rows, at_once), parts, strict=True)
            ]
        )

    def _under_order(self, blocks: Tensor, encoding: Tensor, passes: Passes) -> Tensor:
        each = self.contributions(blocks)  # (M * N, T, width)
        if passes.sets is not None:
            sums = passes.sets.to(each.dtype) @ each  # (M * N, K, width)
        else:
            ranks = passes.owner
            steps = torch.arange(passes.count, device=ranks.device)
            # How many blocks come before each step, (K,) or (M * N, K).
            counts = torch.searchsorted(
                ranks.sort(-1).values, steps.expand(*ranks.shape[:-1], -1).contiguous()
            )
            drawn = Permutation(ranks.argsort(-1)).to_drawing(each)
            sums = arrange(F.pad(drawn.cumsum(1), (0, 0, 1, 0)), counts)
        sums = add_to_rows(sums, encoding.unsqueeze(1))
        hidden = self.run(sums.flatten(0, 1)).unflatten(0, sums.shape[:2])  # (M * N, K, width)
        return self._outputs(arrange(hidden, passes.owner))

    def contributions(self, blocks: Tensor) -> Tensor:
        """The term that each observed block adds to the first layer, (M * N, T, width)."""
        layout = self.factorization.layout
        features = layout.features(blocks).to(self.bias.dtype)  # (M * N, total features)
        if not layout.flat:
            features = features.unflatten(1, (layout.num_blocks, -1))
            weight = self.features_in.unflatten(0, (layout.num_blocks, -1))  # (T, F, width)
            return torch.einsum("rtf,tfh->rth", features, weight) + self.observed_in
        sizes = layout.sizes["feature"]
        parts = zip(features.split(sizes, 1), self.features_in.split(sizes), strict=True)
        return torch.stack([part @ weight for part, weight in parts], 1) + self.observed_in

    def encode(self, context: Tensor | None) -> Tensor:
        """The bias and context terms of the first layer's sums, (1, width) or (N, width)."""
        if context is None or self.context_in is None:
            return self.bias.unsqueeze(0)
        encoding: Tensor = self.context_in(context.flatten(1))
        return encoding + self.bias

    def run(self, sums: Tensor, dropout: bool | None = None) -> Tensor:
        """The last hidden layer, (rows, width), from the sums of the first layer.

        Args:
            sums: (rows, width).
            dropout: whether dropout is active; by default it is in training mode.
        """
        active = self.training if dropout is None else dropout
        hidden = F.dropout(sums.relu(), self.dropout, active)
        for layer in self.hidden:
            units = layer(hidden).relu_()
            if self.residual and units.shape == hidden.shape:
                units = units + hidden if torch.is_grad_enabled() else units.add_(hidden)
            hidden = F.dropout(units, self.dropout, active)
        return hidden

    def _outputs(self, hidden: Tensor) -> Tensor:
        """The parameters of each block from a hidden layer of its own, (M * N, T, width)."""
        layout = self.factorization.layout
        if not layout.flat:
            weight = self.head.weight.unflatten(0, (layout.num_blocks, -1))  # (T, P, width)
            bias = self.head.bias.unflatten(0, (layout.num_blocks, -1))
            return torch.einsum("rth,tph->rtp", hidden, weight) + bias
        sizes = layout.sizes["param"]
        parts = zip(
            hidden.unbind(1),
            self.head.weight.split(sizes),
            self.head.bias.split(sizes),
            strict=True,
        )
        return torch.cat([F.linear(*part) for part in parts], -1)

    def make_decoder(
        self,
        factorization: Factorization,
        batch_size: int,
        context: Tensor | None,
        ranks: Tensor | None,
    ) -> Decoder:
        """A decoder that adds each block to the first layer, and makes one pass for each step."""
        if is_partial_order(factorization):
            return super().make_decoder(factorization, batch_size, context, ranks)
        return _MaskedDecoder(self, factorization, batch_size, context, ranks)


class _MaskedDecoder(CacheDecoder):
    """Keeps the sums of the first layer over all blocks so far, (rows or contexts, width).

    Rows that have drawn the same blocks share their sums and a pass, until most rows differ.
    """

    def __init__(
        self,
        network: Masked,
        factorization: Factorization,
        batch_size: int,
        context: Tensor | None,
        ranks: Tensor | None,
    ) -> None:
        super().__init__(factorization, batch_size)
        self._network = network
        self._sums = network.encode(context)  # one for each context, until a block is added
        # The index of the sums of each row, (rows,), while rows share sums.
        self._owner: Tensor | None = None
        if ranks is None and self._sums.shape[0] == 1 and batch_size >= _LEAST_ROWS:
            self._owner = torch.zeros(batch_size, dtype=torch.int64, device=self._sums.device)
        # The block that each row draws at each step, if the rows have orders of their own.
        self._order = None if ranks is None else ranks.argsort(-1)  # (rows, T)

    def select(self, rows: Tensor) -> None:
        self.batch_size = rows.shape[0]
        if self._owner is None:
            self._sums = select_rows(self._sums, rows)
        else:
            self._owner = self._owner.index_select(0, rows)
        if self._order is not None:
            self._order = self._order.index_select(0, rows)

    def take(self, blocks: Tensor, num_steps: int) -> None:
        fac, network, start = self.factorization, self._network, self.num_taken
        stop = start + num_steps
        layout = fac.drawing_order.layout_of(start, stop)
        if self._order is None and layout.num_blocks == 1:
            (block,) = fac.steps[start]
            first, last = network._feature_ends[block : block + 2]
            family, weight = layout.families[0], network.features_in[first:last]
            value = self._distinct(blocks.reshape(self.batch_size, *family.event_shape))
            added = family.project(value, weight.T, network.observed_in[block])
            self._sums = add_to_rows(added, self._sums)
            return
        self._unshare()
        features = layout.features(blocks).to(self._sums.dtype)  # (rows, features of the steps)
        if self._order is None:
            drawn = list(chain(*fac.steps[start:stop]))
            columns = fac.layout.columns("feature", drawn)
            added = features @ network.features_in[columns]
            self._sums = add_to_rows(added + network.observed_in[drawn].sum(0), self._sums)
            return
        drawn_by_row = self._order[:, start:stop]  # (rows, n)
        weight = network.features_in.unflatten(0, (fac.num_blocks, -1))[drawn_by_row]
        features = features.unflatten(1, (layout.num_blocks, -1))
        added = torch.einsum("rnf,rnfh->rh", features, weight)
        self._sums = add_to_rows(added + network.observed_in[drawn_by_row].sum(1), self._sums)

    def _distinct(self, value: Tensor) -> Tensor:
        """The values of the next block, (rows, *event_shape), reduced to one per distinct prefix.

        The sums are expanded to one for each of these prefixes, or to one for each row, without
        reducing the values, if most rows have different prefixes.
        """
        if self._owner is None or value.dim() > 1 or not is_readable(value):
            self._unshare()
            return value
        _, code = value.unique(return_inverse=True)
        prefixes, owner = (self._owner * value.shape[0] + code).unique(return_inverse=True)
        if 2 * prefixes.shape[0] > value.shape[0]:
            self._unshare()
            return value
        places = torch.arange(value.shape[0], device=value.device)
        first = torch.empty_like(prefixes).scatter_(0, owner, places)  # a row of each prefix
        self._sums = self._sums.index_select(0, self._owner[first])
        self._owner = owner
        return value[first]

    def _unshare(self) -> None:
        """Gives each row sums of its own, unless all rows have the same sums."""
        if self._owner is not None and self._sums.shape[0] > 1:
            self._sums = self._sums.index_select(0, self._owner)
        self._owner = None

    def evaluate(self) -> Tensor:
        fac, head = self.factorization, self._network.head
        hidden = self._network.run(self._sums, dropout=False)
        if self._order is not None:
            block = self._order[:, self.num_taken]  # (rows,)
            hidden = repeat_rows(hidden, self.batch_size)
            weight = head.weight.unflatten(0, (fac.num_blocks, -1))[block]  # (rows, P, width)
            bias = head.bias.unflatten(0, (fac.num_blocks, -1))[block]
            return (torch.einsum("rh,rph->rp", hidden, weight) + bias).unsqueeze(1)
        blocks = fac.steps[self.num_taken]
        if len(blocks) == 1:
            rows = slice(*self._network._param_ends[blocks[0] : blocks[0] + 2])
            params = F.linear(hidden, head.weight[rows], head.bias[rows])
        else:
            columns = fac.layout.columns("param", blocks)
            params = F.linear(hidden, head.weight[columns], head.bias[columns])
        shape = fac.drawing_order.step_layouts[self.num_taken].param_shape
        if self._owner is None:
            params = repeat_rows(params, self.batch_size)
        else:
            params = params.index_select(0, self._owner)
        return params.reshape(self.batch_size, *shape)
