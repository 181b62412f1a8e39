"""Exact gradients through draws, by implicit differentiation.

A draw x solves x = F(x, theta): F computes the parameters of each block from the earlier blocks,
and the block from its parameters and its noise. Hence dx = (1 - J)^-1 dF/dtheta, where J = dF/dx is
strictly triangular in the order of drawing. The backward pass replaces a gradient g of x by the
solution of lambda = g + J^T lambda, and passes lambda on to the parameters. The draw needs no
graph: one parallel pass at x builds it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ardist.factorization import Factorization


class Sweep(ABC):
    """The reverse of a decoder: it sends gradients from the last step of a draw to the first.

    The network's `forward` passes the sums (pre-activations) of each layer to `cut`. Their graph
    leads to the weights, but not to the layer below.

    Attributes:
        sums: the sums of each layer, (rows, units).
    """

    def __init__(self) -> None:
        self.sums: list[Tensor] = []

    def cut(self, sums: Tensor) -> Tensor:
        """Takes the sums of the next layer, and returns them without a graph."""
        self.sums.append(sums)
        return sums.detach()

    @abstractmethod
    def step(self, step: int, params: Tensor) -> Tensor:
        """Takes the gradient of the parameters of a step.

        It is called for each step, in reverse order. Gradients are (entries, rows), with
        parameters and features in the order of drawing.

        Returns:
            the complete gradient of the features of the step before.
        """

    @abstractmethod
    def gradients(self) -> list[Tensor]:
        """The gradients of `sums`, after the last call of `step`."""


# Maps the gradients of draws and scores to the gradients of the tensors they are computed from.
Adjoint = Callable[[Tensor | None, Tensor | None], Sequence[Tensor | None]]
# Maps g, and the gradient of the parameters that does not come through the draws, to lambda.
Solve = Callable[[Tensor, Tensor | None], Tensor]


def with_gradient(
    value: Tensor, adjoint: Adjoint, reparameterized: Tensor, scores: Tensor, *sums: Tensor
) -> Any:
    """Returns draws and their scores, with gradients by `adjoint`.

    Args:
        value: the draws, (rows, ...).
        adjoint: maps the gradients of value and scores to the gradients of the arguments after
            `adjoint`; None means zeros.
        reparameterized: the same values, as a function of the parameters of their own blocks.
        scores: the log probability of each block, (rows, num_blocks).
        sums: the sums of a sweep.
    """
    return _WithGradient.apply(value, adjoint, reparameterized, scores, *sums)  # type: ignore[no-untyped-call]


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, value: Tensor, adjoint: Adjoint, same: Tensor, scores: Tensor, *sums: Tensor
    ) -> Any:
        ctx.adjoint = adjoint
        ctx.set_materialize_grads(False)
        return value.clone(), scores.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "rsample: a draw is differentiable once; its second derivative, which "
                "create_graph=True asks for, would be wrong"
            )
        known = [part for part in gradients if part is not None]
        if not known:
            return (None,) * len(ctx.needs_input_grad)
        with torch.autocast(known[0].device.type, enabled=False):
            return None, None, *ctx.adjoint(*gradients)


def by_iteration(reparameterized: Tensor, blocks: Tensor, num_steps: int, tol: float) -> Solve:
    """Solves lambda = g + J^T lambda by repeated backward passes through the network.

    J is nilpotent, so nothing changes after `num_steps` passes.

    Args:
        reparameterized: draws as a function of `blocks`, through the network.
        tol: stops when, in each row, a pass changes no entry by more than this share of the
            largest entry. The result is exact for 0, and otherwise approximate.
    """

    def solve(gradient: Tensor, of_params: Tensor | None) -> Tensor:  # `gradient` has both
        total = gradient
        for _ in range(num_steps - 1):
            pulled: Tensor | None = torch.autograd.grad(
                reparameterized, blocks, total, retain_graph=True, allow_unused=True
            )[0]
            if pulled is None:
                break
            before, total = total, gradient + pulled
            change = (total - before).abs().flatten(1).amax(1)
            if bool((change <= tol * total.abs().flatten(1).amax(1)).all()):
                break
        return total

    return solve


def by_sweep(
    factorization: Factorization,
    sweep: Sweep,
    params: Tensor,
    blocks: Tensor,
    read: Tensor,
    free: Tensor | None,
) -> Solve:
    """Solves lambda = g + J^T lambda in one sweep from the last step to the first.

    Args:
        params: the parameters of all conditionals, (rows, ...), at the draw `blocks`.
        read: the same blocks as the network reads them.
        free: the elements that were drawn, not observed, (rows, *value_shape) bool.
    """
    layout, steps = factorization.conditionals, factorization.steps
    sizes = factorization.layout.sizes
    values = layout.split("value", blocks)
    # Computed here, since an optimizer may change the parameters before the backward pass.
    drawn = layout.slopes(
        "param",
        params,
        lambda f, p, n: f.pathwise(p, values[n]) if f.has_rsample else values[n],
    )
    # A rule appends its limits to the parameters of the network.
    drawn = [
        None if slope is None else slope[:width]
        for slope, width in zip(drawn, sizes["param"], strict=True)
    ]
    slopes = layout.slopes("value", read, lambda family, v, _: family.features(v))

    def solve(gradient: Tensor, of_params: Tensor | None) -> Tensor:
        columns = gradient.flatten(1).T.clone(memory_format=torch.contiguous_format)
        total = columns.split(sizes["value"])
        chosen = None if free is None else free.flatten(1).T.split(sizes["value"])
        others = None if of_params is None else of_params.flatten(1).T.split(layout.sizes["param"])
        for step in range(len(steps) - 1, -1, -1):
            each = []
            for block in steps[step]:
                one = total[block] if chosen is None else total[block] * chosen[block]
                slope, width = drawn[block], sizes["param"][block]
                part = (
                    one.new_zeros(width, one.shape[1]) if slope is None else _contract(slope, one)
                )
                each.append(part if others is None else part + others[block][:width])
            features, before = sweep.step(step, _together(each)), steps[step - 1] if step else ()
            widths = [sizes["feature"][block] for block in before]
            parts = (features,) if len(before) == 1 else features.split(widths)
            for block, part in zip(before, parts, strict=True):
                if (slope := slopes[block]) is not None:
                    total[block].add_(_contract(slope, part))
        return columns.T.reshape(gradient.shape)

    return solve


def _together(pieces: list[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _contract(jacobian: Tensor, gradient: Tensor) -> Tensor:
    """The Jacobian of a block, from `Layout.slopes`, times (outputs, rows): (inputs, rows)."""
    return jacobian * gradient if jacobian.dim() == 2 else (jacobian * gradient).sum(1)
