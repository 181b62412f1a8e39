"""One network for each factor."""

from collections.abc import Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from ardist.decoding import Decoder
from ardist.factorization import Factorization
from ardist.networks.base import ConditionalNetwork, reference_of, start_near_noise
from ardist.networks.mlp import Constant, mlp
from ardist.rows import repeat_rows
from ardist.shapes import as_size, described


class Unshared(ConditionalNetwork):
    """A network of its own for each conditional: p(a) p(b | a) p(c | a, b) with three of them.

    It follows any dependencies: orders, ties and graphs, and blocks of unequal size and family.
    The work grows with the square of the number of blocks: it is for few.

    A block's module is given one tensor (rows, inputs): the features of the blocks on which it
    depends, block after block in raster order (each `family.features`, `family.num_features`
    wide), and the context last. It returns the block's parameters, (rows, num_params). Where
    there is neither past nor context the tensor is (rows, 0).

    Args:
        factorization: whose dependencies say what each module is given.
        hidden_features: width of each hidden layer of a perceptron for each block; `()` makes
            them linear.
        modules: instead, a module for each block in raster order of the grid, or a dict by the
            name of the column; None makes a block's parameters learned constants.
        context_shape: `(C,)`, or `()` for none.

    Raises:
        ValueError: where both or neither of `hidden_features` and `modules` are given, or a
            module does not fit its block, which a trial call tells.

    >>> import torch, ardist as ad
    >>> fac = ad.Factorization.columns(a=ad.families.Bernoulli(), b=ad.families.Normal())
    >>> net = ad.networks.Unshared(fac, hidden_features=(16,))
    >>> net.condition().sample((3,)).shape
    torch.Size([3, 2])
    >>> net = ad.networks.Unshared(fac, modules={"a": None, "b": torch.nn.Linear(1, 2)})
    >>> net.condition().log_prob(torch.zeros(2)).shape
    torch.Size([])
    """

    columns: Tensor

    def __init__(
        self,
        factorization: Factorization,
        *,
        hidden_features: int | Sequence[int] | None = None,
        modules: Sequence[nn.Module | None] | Mapping[str, nn.Module | None] | None = None,
        context_shape: Sequence[int] = (),
    ) -> None:
        super().__init__(factorization, context_shape=context_shape)
        if (hidden_features is None) == (modules is None):
            raise ValueError(
                "hidden_features, modules: expected one of the two, got "
                f"{'neither' if modules is None else 'both'}"
            )
        layout = factorization.layout
        seen = [
            layout.columns("feature", sees.nonzero().flatten().tolist())
            for sees in factorization.dependencies
        ]
        # Of the features of all blocks, those that each block's module reads, in one list.
        self.register_buffer("columns", torch.tensor([*chain(*seen)]).long(), persistent=False)
        self.widths = [len(columns) for columns in seen]
        given = [width + sum(self.context_shape) for width in self.widths]
        if modules is None:
            widths = as_size(() if hidden_features is None else hidden_features, "hidden_features")
            sizes = zip(given, layout.sizes["param"], strict=True)
            each = [mlp((inputs, *widths, outputs)) for inputs, outputs in sizes]
            start_near_noise(factorization, *(list(factor.modules())[-1] for factor in each))
        else:
            each = _listed(modules, factorization)
        self.factors = nn.ModuleList(each)
        with torch.no_grad(), self.eval_mode():
            for block, inputs in enumerate(given):
                self._try(block, inputs)

    def _try(self, block: int, inputs: int) -> None:
        """Raises where a block's module does not take this many inputs or is of wrong width."""
        module, name = self.factors[block], self.factorization.block_name(block)
        reference = reference_of(module)
        expected = (2, self.factorization.layout.sizes["param"][block])
        try:
            found = module(torch.zeros(2, inputs, dtype=reference.dtype, device=reference.device))
        except RuntimeError as error:
            raise ValueError(
                f"modules: that of {name} is given ({', '.join(('rows', str(inputs)))}), which "
                f"it does not take: {error}"
            ) from error
        if found.shape != expected:
            raise ValueError(
                f"modules: that of {name} returned {tuple(found.shape)} for 2 rows, expected "
                f"{expected}"
            )

    def forward(
        self, blocks: Tensor, context: Tensor | None = None, ranks: Tensor | None = None
    ) -> Tensor:
        layout = self.factorization.layout
        features = layout.features(blocks).to(reference_of(self).dtype)
        inputs = features.index_select(1, self.columns).split(self.widths, 1)
        if context is not None:
            context = repeat_rows(context, blocks.shape[0])
        each = [self.evaluate(block, seen, context) for block, seen in enumerate(inputs)]
        return torch.cat(each, 1).reshape(blocks.shape[0], *layout.param_shape)

    def evaluate(self, block: int, inputs: Tensor, context: Tensor | None) -> Tensor:
        """A block's parameters (rows, num_params), given its past and context in these rows."""
        if context is not None:
            inputs = torch.cat((inputs, context), 1)
        return self.factors[block](inputs)

    def make_decoder(
        self,
        factorization: Factorization,
        batch_size: int,
        context: Tensor | None,
        ranks: Tensor | None,
    ) -> Decoder:
        """A decoder that evaluates each factor once in a whole sample."""
        return _UnsharedDecoder(self, batch_size, context)


def _listed(
    modules: Sequence[nn.Module | None] | Mapping[str, nn.Module | None],
    factorization: Factorization,
) -> list[nn.Module]:
    """The modules in raster order of the blocks."""
    names = factorization.names
    if isinstance(modules, Mapping):
        if names is None or set(modules) != set(names):
            expected = "a sequence, since columns have no names" if names is None else list(names)
            raise ValueError(f"modules: expected {expected}, got {list(modules)}")
        modules = [modules[name] for name in names]
    if not isinstance(modules, Sequence) or len(modules) != factorization.num_blocks:
        got = len(modules) if isinstance(modules, Sequence) else described(modules)
        raise ValueError(
            f"modules: expected one for each of the {factorization.num_blocks} blocks, got {got}"
        )
    listed = []
    for block, module in enumerate(modules):
        if module is None:
            module = Constant(factorization.layout.sizes["param"][block])
        if not isinstance(module, nn.Module):
            raise ValueError(
                f"modules: expected a module or None for {factorization.block_name(block)}, got "
                f"{module!r}"
            )
        listed.append(module)
    return listed


class _UnsharedDecoder(Decoder):
    """Keeps the features of what was drawn, (rows, features of all blocks)."""

    def __init__(self, network: Unshared, batch_size: int, context: Tensor | None) -> None:
        super().__init__(network.factorization, batch_size)
        self._network = network
        width = sum(self.factorization.layout.sizes["feature"])
        self._features = reference_of(network).new_zeros(batch_size, width)
        self._columns = network.columns.split(network.widths)
        self._context = None if context is None else repeat_rows(context, batch_size)

    def step(self, previous: Tensor | None) -> Tensor:
        if previous is not None:
            self._take(previous, 1)
        return self._evaluate()

    def prefill(self, blocks: Tensor) -> Tensor:
        self._take(blocks, self._num_steps_of(blocks))
        return self._evaluate()

    def select(self, rows: Tensor) -> None:
        self.batch_size = rows.shape[0]
        self._features = self._features.index_select(0, rows)
        if self._context is not None:
            self._context = self._context.index_select(0, rows)

    def _take(self, blocks: Tensor, num_steps: int) -> None:
        """Takes the blocks of the next steps."""
        fac, end = self.factorization, self.num_taken + num_steps
        layout = fac.drawing_order.layout_of(self.num_taken, end)
        drawn = list(chain(*fac.steps[self.num_taken : end]))
        features = layout.features(blocks).to(self._features.dtype)
        self._features[:, fac.layout.columns("feature", drawn)] = features
        self.num_taken = end

    @torch.no_grad()
    def _evaluate(self) -> Tensor:
        """The next step's parameters, by its own factors alone."""
        step = self.factorization.steps[self.num_taken]
        with self._network.eval_mode():
            each = [
                self._network.evaluate(
                    block, self._features.index_select(1, self._columns[block]), self._context
                )
                for block in step
            ]
        params = torch.cat(each, 1)
        return params.reshape(
            self.batch_size,
            *self.factorization.drawing_order.step_layouts[self.num_taken].param_shape,
        )
