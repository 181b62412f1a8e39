"""A network for each conditional."""

from collections.abc import Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from ardist.decoding import CacheDecoder, Decoder
from ardist.factorization import Factorization
from ardist.networks.base import ConditionalNetwork, start_near_noise
from ardist.networks.constants import reference_of, register_constant
from ardist.networks.mlp import Constant, mlp
from ardist.networks.sizes import hidden_layers
from ardist.rows import repeat_rows, select_rows
from ardist.shapes import as_size, described


class Unshared(ConditionalNetwork):
    """A separate network for each conditional, such as three for p(a) p(b | a) p(c | a, b).

    It supports any dependencies: orders, ties and graphs, and blocks of different sizes and
    families. The cost grows with the square of the number of blocks, so use it for few blocks.

    The module of a block takes one tensor (rows, inputs). The inputs are the features of the blocks
    on which it depends, block after block in raster order (each `family.features`,
    `family.num_features` wide), and then the context. It returns the parameters of the block,
    (rows, num_params). Without earlier blocks and context the tensor is (rows, 0).

    Args:
        factorization: its dependencies give the inputs of each module.
        hidden_features: width of each hidden layer of the perceptrons, one for each block; `()`
            makes them linear. By default there are two layers, whose width is four times the number
            of features of the event, rounded up to a power of two within 256 and 512.
        modules: instead of `hidden_features`, a module for each block in raster order of the grid,
            or a dict by the names of the columns. None makes the parameters of a block learned
            constants.
        context_shape: `(C,)`, or `()` for none.

    Raises:
        ValueError: if both `hidden_features` and `modules` are given, or a module does not fit its
            block. The constructor calls each module once to check it.

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
    _sizes = ("hidden_features",)

    def __init__(
        self,
        factorization: Factorization,
        *,
        hidden_features: int | Sequence[int] | None = None,
        modules: Sequence[nn.Module | None] | Mapping[str, nn.Module | None] | None = None,
        context_shape: Sequence[int] = (),
    ) -> None:
        super().__init__(factorization, context_shape=context_shape)
        if hidden_features is not None and modules is not None:
            raise ValueError("hidden_features, modules: expected at most one of the two, got both")
        layout = factorization.layout
        columns = [
            layout.columns("feature", parents.nonzero().flatten().tolist())
            for parents in factorization.dependencies
        ]
        # The features that each module reads, as indices into all features, in one tensor.
        register_constant(self, "columns", torch.tensor([*chain(*columns)]).long())
        self.widths = [len(features) for features in columns]
        num_inputs = [width + sum(self.context_shape) for width in self.widths]
        self._has_mlps = modules is None
        if modules is None:
            if hidden_features is None:
                hidden_features = hidden_layers(sum(layout.sizes["feature"]))
            widths = as_size(hidden_features, "hidden_features")
            sizes = zip(num_inputs, layout.sizes["param"], strict=True)
            factors = [mlp((inputs, *widths, outputs)) for inputs, outputs in sizes]
        else:
            factors = _as_list(modules, factorization)
        self.factors, self.hidden_features = nn.ModuleList(factors), hidden_features
        start_near_noise(factorization, *self.output_maps)
        with torch.no_grad(), self.eval_mode():
            for block, inputs in enumerate(num_inputs):
                self._check_factor(block, inputs)

    def _check_factor(self, block: int, inputs: int) -> None:
        """Raises a `ValueError` if the inputs or outputs of a block's module have a wrong width."""
        module, name = self.factors[block], self.factorization.block_name(block)
        reference = reference_of(module)
        expected = (2, self.factorization.layout.sizes["param"][block])
        try:
            found = module(torch.zeros(2, inputs, dtype=reference.dtype, device=reference.device))
        except RuntimeError as error:
            raise ValueError(
                f"modules: expected a module for {name} that takes inputs of shape "
                f"(rows, {inputs}), got the error: {error}"
            ) from error
        if found.shape != expected:
            raise ValueError(
                f"modules: expected the module for {name} to return shape {expected} for 2 rows, "
                f"got {tuple(found.shape)}"
            )

    def forward(
        self, blocks: Tensor, context: Tensor | None = None, ranks: Tensor | None = None
    ) -> Tensor:
        layout = self.factorization.layout
        features = layout.features(blocks).to(reference_of(self).dtype)  # (M * N, total)
        inputs = features.index_select(1, self.columns).split(self.widths, 1)
        context = repeat_rows(context, blocks.shape[0])
        params = [self.evaluate(block, part, context) for block, part in enumerate(inputs)]
        return torch.cat(params, 1).reshape(blocks.shape[0], *layout.param_shape)

    @property
    def output_maps(self) -> list[nn.Module]:
        """The last layer of each default perceptron; unknown for the user's modules."""
        return [list(factor.modules())[-1] for factor in self.factors] if self._has_mlps else []

    def evaluate(self, block: int, inputs: Tensor, context: Tensor | None) -> Tensor:
        """The parameters of a block, (rows, num_params).

        Args:
            block: its index in raster order.
            inputs: the features on which it depends, (rows, inputs).
            context: (rows, C), or None.
        """
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
        """A decoder that evaluates each module once per sample."""
        return _UnsharedDecoder(self, batch_size, context)


def _as_list(
    modules: Sequence[nn.Module | None] | Mapping[str, nn.Module | None],
    factorization: Factorization,
) -> list[nn.Module]:
    """The modules in raster order of the blocks, with a `Constant` for None."""
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
    factors = []
    for block, module in enumerate(modules):
        if module is None:
            module = Constant(factorization.layout.sizes["param"][block])
        if not isinstance(module, nn.Module):
            raise ValueError(
                f"modules: expected a module or None for {factorization.block_name(block)}, got "
                f"{module!r}"
            )
        factors.append(module)
    return factors


class _UnsharedDecoder(CacheDecoder):
    """Runs the modules of a step on the features of drawn blocks, (rows, total features)."""

    def __init__(self, network: Unshared, batch_size: int, context: Tensor | None) -> None:
        super().__init__(network.factorization, batch_size)
        self._network = network
        width = sum(self.factorization.layout.sizes["feature"])
        self._features = reference_of(network).new_zeros(batch_size, width)
        self._columns = network.columns.split(network.widths)
        self._context = repeat_rows(context, batch_size)

    def select(self, rows: Tensor) -> None:
        self.batch_size = rows.shape[0]
        self._features = self._features.index_select(0, rows)
        self._context = repeat_rows(select_rows(self._context, rows), self.batch_size)

    def take(self, blocks: Tensor, num_steps: int) -> None:
        fac, stop = self.factorization, self.num_taken + num_steps
        layout = fac.drawing_order.layout_of(self.num_taken, stop)
        drawn = list(chain(*fac.steps[self.num_taken : stop]))
        features = layout.features(blocks).to(self._features.dtype)
        self._features[:, fac.layout.columns("feature", drawn)] = features

    def evaluate(self) -> Tensor:
        fac = self.factorization
        with self._network.eval_mode():
            params = [
                self._network.evaluate(
                    block, self._features.index_select(1, self._columns[block]), self._context
                )
                for block in fac.steps[self.num_taken]
            ]
        layout = fac.drawing_order.step_layouts[self.num_taken]
        return torch.cat(params, 1).reshape(self.batch_size, *layout.param_shape)
