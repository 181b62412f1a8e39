"""Exports trained networks as graphs, for programs without this package."""

import json
import math
from itertools import pairwise
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils._pytree import tree_map

from ardist.bound_network import unwrap
from ardist.factorization import Factorization
from ardist.networks.base import ConditionalNetwork
from ardist.networks.constants import reference_of
from ardist.shapes import as_path
from ardist.static import DrawStep, Tensors

__all__ = ["record", "write"]

_ROWS = 5  # of recorded calls: torch would fix 1, or a number that is the size of a dimension


def record(module: nn.Module, args: tuple[Any, ...]) -> ExportedProgram:
    """Records the graph of a module by `torch.export`, for any number of rows.

    Args:
        module: a `LogLikelihood`, a `DrawStep`, a `networks.StaticStep`, or another module whose
            arguments have their rows first.
        args: the arguments of one call, with more than one row. Tensors without dimensions, such as
            a position, have no rows.

    Returns:
        a program that `torch.export.save` saves, and `torch.onnx.export` takes.

    >>> import torch, ardist as ad
    >>> net = ad.networks.MADE(ad.Factorization(4, ad.families.Normal()), hidden_features=8)
    >>> program = ad.export.record(ad.LogLikelihood(net.eval()), (torch.zeros(2, 4),))
    >>> program.module()(torch.zeros(5, 4)).shape
    torch.Size([5])
    """
    rows = Dim("rows", min=1)
    shapes = tree_map(lambda part: {0: rows} if part.dim() else {}, args)
    with torch.no_grad():
        return torch.export.export(module, args, dynamic_shapes=shapes)


def write(network: nn.Module, folder: str | PathLike[str]) -> None:
    """Writes graphs that score and sample with a network into a folder.

    `torch.export.load` reads the three graphs. None of them needs this package.

    - `log_prob.pt2`: maps events (rows, *event_shape), and contexts (rows, *context_shape) if the
      network takes them, to log-probabilities in nats (rows,), which are -inf outside the support.
    - `start.pt2`: maps a float32 tensor (rows,), whose values are ignored, and the contexts to the
      events, encodings and state of the first step.
    - `step.pt2`: maps events, a position () int64, encodings and state to the events with the
      blocks of that step drawn, and the next state; see `DrawStep`. `torch.manual_seed` seeds it.
    - `model.json`: the shapes and the dtypes of an event and a context, and for each step the flat
      indices of the elements that it draws.

    Args:
        network: a conditional network in evaluation mode.
        folder: the folder, which is created if it does not exist.

    Raises:
        ValueError: if the network is in training mode.

    >>> import tempfile, torch, ardist as ad
    >>> net = ad.networks.MADE(ad.Factorization(4, ad.families.Normal()), hidden_features=8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ad.export.write(net.eval(), folder)
    ...     log_prob = torch.export.load(f"{folder}/log_prob.pt2").module()
    >>> log_prob(torch.zeros(5, 4)).shape
    torch.Size([5])
    """
    path, unwrapped = as_path(folder, "folder"), unwrap(network)
    draw = DrawStep(unwrapped)
    shape = tuple(unwrapped.context_shape)
    reference = reference_of(unwrapped)
    context = (reference.new_zeros(_ROWS, *shape),) if shape else ()
    rows = torch.zeros(_ROWS, device=reference.device)
    position = torch.zeros((), dtype=torch.int64, device=reference.device)
    with torch.no_grad():
        events, encodings, state = draw.start(_ROWS, *context)
    path.mkdir(parents=True, exist_ok=True)
    for name, module, args in (
        ("log_prob", _Score(unwrapped), (events, *context)),
        ("start", _Start(draw), (rows, *context)),
        ("step", draw, (events, position, encodings, state)),
    ):
        torch.export.save(record(module, args), path / f"{name}.pt2")
    about = {
        "event_shape": draw.factorization.event_shape,
        "context_shape": shape,
        "dtype": str(events.dtype).removeprefix("torch."),
        "context_dtype": str(reference.dtype).removeprefix("torch."),
        "steps": _elements(draw.factorization),
    }
    (path / "model.json").write_text(json.dumps(about))


def _elements(factorization: Factorization) -> list[list[int]]:
    """The flat indices of the elements that each step draws."""
    elements = factorization.blocks.elements.tolist()
    ends = pairwise(factorization.layout.ends_of("value"))
    each = [elements[start:stop] for start, stop in ends]
    return [[at for block in blocks for at in each[block]] for blocks in factorization.steps]


class _Score(nn.Module):
    """The log-probabilities of events. A graph raises no errors, so they are -inf outside the
    support.
    """

    def __init__(self, network: ConditionalNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        p, fac = self.network.condition(context), self.network.factorization
        inside = fac.conditionals.inside(fac.split(x)).all(-1)  # (rows,)
        whole = inside.reshape(-1, *(1,) * len(fac.event_shape))
        scores = p.log_prob(torch.where(whole, x, p.bound.placeholder))
        return torch.where(inside, scores, -math.inf)


class _Start(nn.Module):
    """The arguments of the first step, as a module."""

    def __init__(self, draw: DrawStep) -> None:
        super().__init__()
        self.draw = draw

    def forward(
        self, rows: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensors, Tensors]:
        return self.draw.start(rows.shape[0], context)
