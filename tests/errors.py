"""The errors that a user can meet: the text, a call that raises it, the cause and the cure.

`test_errors.py` checks every text, and that the table covers every `raise` of the package. The
documentation's page of errors is generated from this table.
"""

import contextlib
import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import pandas as pd
import polars
import pyro
import pyro.distributions as dist
import torch
from files import edited, pickled, saved, with_bytes, with_header
from pyro.distributions import transforms as flows
from pyro.nn import PyroSample
from pyro.nn.module import to_pyro_module_
from torch import nn
from torch.distributions import (
    AbsTransform,
    AffineTransform,
    ExpTransform,
    SigmoidTransform,
    StickBreakingTransform,
)
from torch.utils import data

import ardist as ad
from ardist import (
    command,
    guides,
    information,
    networks,
    rules,
    sampling,
    testing,
    training,
    transforms,
)
from ardist import families as fam
from ardist.tables import Schema, TableDensity


class Case(NamedTuple):
    """The text of an error, and a call that raises it."""

    text: str
    call: Callable[[], object]


class Error(NamedTuple):
    """Texts with the same cause and cure."""

    cases: tuple[Case, ...]
    cause: str
    cure: str
    kind: type[Exception]


def error(*cases: object, cause: str, cure: str, kind: type[Exception] = ValueError) -> Error:
    """Makes an `Error` from texts and calls in turn."""
    pairs = zip(cases[::2], cases[1::2], strict=True)
    return Error(tuple(Case(*pair) for pair in pairs), cause, cure, kind)


# Objects that the calls use.

NORMAL = fam.Normal()
FOUR = ad.Factorization(4, NORMAL)
BITS = ad.Factorization(3, fam.Bernoulli())
SYMBOLS = ad.Factorization(3, fam.Categorical(3))
IMAGE = ad.Factorization((3, 3), fam.Bernoulli())
COLUMNS = ad.Factorization.columns(a=fam.Bernoulli(), b=NORMAL)
BIT_PAIRS = ad.Factorization(
    (2, 2), fam.Independent(fam.Bernoulli(), (2,)), partition=ad.Partition.along(0)
)
TIED = ad.Factorization(3, NORMAL, ordering=ad.Ordering.from_ranks([0, 1, 1]))
CHAIN = ad.Ordering.from_graph([[0, 0, 0], [1, 0, 0], [0, 1, 0]])
FIRST = torch.tensor([True, False, False])
CUT = torch.tensor([[True, False], [False, False]])


def made(factorization=FOUR, **options):
    return networks.MADE(factorization, **{"hidden_features": 8, **options})


def rnn(factorization=FOUR, **options):
    return networks.RNN(factorization, **{"hidden_size": 8, **options})


def transformer(factorization=BITS, **options):
    return networks.Transformer(factorization, **{"dim": 16, "depth": 1, "heads": 2, **options})


def pixelcnn(factorization=IMAGE, **options):
    return networks.PixelCNN(factorization, **{"channels": 8, "depth": 2, **options})


def wavenet(**options):
    return networks.WaveNet(FOUR, **{"channels": 8, "depth": 2, **options})


def p(factorization=FOUR):
    return made(factorization).condition()


def mixture(component):
    return ad.Mixture(dist.Categorical(torch.ones(1)), [component])


def on_meta(make):
    """The result of a function that makes tensors on the meta device."""
    with torch.device("meta"):
        return make()


def cut():
    """A distribution with a partially observed block."""
    return p(BIT_PAIRS).given(torch.ones(2, 2), CUT)


def bound(*shape, **kind):
    """A distribution under contexts of this shape. The network expects (*batch_shape, 3)."""
    return made(context_shape=(3,)).condition(torch.zeros(*shape, **kind))


class Wrong(networks.ConditionalNetwork):
    """Returns the blocks in place of parameters."""

    def forward(self, blocks, context=None, ranks=None):
        return blocks


class Peeking(networks.ConditionalNetwork):
    """The log odds of a block are the next block, which is a leak."""

    def forward(self, blocks, context=None, ranks=None):
        return blocks.roll(-1, 1).unsqueeze(-1)


class Wide(nn.Module):
    """Three parameters for each row."""

    def forward(self, past, place):
        return past.new_zeros(len(past), 3)


class Off(networks.MADE):
    """A MADE of tiny weights whose decoder does something else."""

    def __init__(self, spoil):
        super().__init__(FOUR, hidden_features=8)
        self.spoil = spoil
        for weight in self.parameters():
            nn.init.constant_(weight, 1e-9)

    def decoder(self, *args, **options):
        decoder = super().decoder(*args, **options)
        step = decoder.step
        decoder.step = lambda previous: self.spoil(step(previous))
        return decoder


class Flat(fam.Bernoulli):
    """Every value has probability 1."""

    def log_prob(self, params, value):
        return torch.zeros_like(value)


NARROW = ad.Factorization(1, fam.Transformed(NORMAL, AffineTransform(9.0, 1e-3)))


def replaced(**methods):
    """A distribution with replaced methods."""
    result = p()
    vars(result).update(methods)
    return result


def with_sample():
    """A network of Pyro with a prior on its weights in the wrong place."""
    net = made()
    to_pyro_module_(net)
    net.direct.weight = PyroSample(dist.Normal(0.0, 1.0))
    return net


class ContextMask(rules.Rule):
    """A rule whose state is the context."""

    reads_context = True

    def start(self, rows, context, reference):
        return context

    def allowed(self, state, at):
        return None

    def advance(self, state, value, at):
        return state


class Allowing(ContextMask):
    """A rule that allows the same values in each block."""

    reads_context = False

    def __init__(self, what):
        object.__setattr__(self, "what", what)

    def __repr__(self):
        return "Allowing()"

    def start(self, rows, context, reference):
        return torch.zeros(rows)

    def allowed(self, state, at):
        return self.what


@dataclass
class Mutable(fam.Family):
    """A family that is not frozen, and so not hashable."""

    num_params = 1
    support = torch.distributions.constraints.real

    def __call__(self, params):
        return dist.Normal(params[..., 0], 1.0)


class Unreduced(fam.Family):
    """A family that keeps the dimension of its parameters."""

    num_params = 1
    support = torch.distributions.constraints.real

    def __call__(self, params):
        return dist.Normal(params, 1.0)


class Misaligned(networks.ConditionalNetwork):
    """A network that gives a row the context of another row."""

    def forward(self, blocks, context=None, ranks=None):
        own = context.repeat_interleave(blocks.shape[0] // context.shape[0], 0)
        return own.unsqueeze(1).expand(-1, blocks.shape[1], 1)


def pair():
    pyro.sample("x", dist.Normal(0.0, 1.0).expand((2,)).to_event(1))


def subsampled():
    with pyro.plate("rows", 10, subsample_size=5):
        pyro.sample("z", dist.Normal(0.0, 1.0))


def vmapped(drawn):
    return torch.func.vmap(lambda _: drawn.sample(), randomness="different")(torch.ones(2))


def traced():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as Pyro's option `ignore_jit_warnings`
        torch.jit.trace(lambda _: p().rsample(), torch.zeros(()))


def traced_with_params():
    net = made()
    params = {name: torch.zeros(value.shape) for name, value in net.named_parameters()}
    torch.jit.trace(lambda _: net.condition(params=params), torch.zeros(()))


def without(module, call):
    """A call without an installed package."""
    with mock.patch.dict(sys.modules, {module: None}):
        call()


class Foreign(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.linear = nn.Linear(size, 2)


def of_one_name():
    """Two functions with the same name."""
    named = [lambda x: x, lambda x: -x]
    for function in named:
        function.__name__ = "link"
    return dict(zip(("loc", "scale"), named, strict=True))


def normalized():
    net = made()
    nn.utils.parametrizations.weight_norm(net.head)
    return net


def loaded(change, **args):
    """Loads a file whose specification, tensors or metadata are changed by hand."""
    return ad.load(edited(change), **args)


def with_arguments(**args):
    return loaded(lambda spec, tensors, texts: spec["args"].update(args))


def with_texts(**changed):
    changed = {name.replace("_", "."): text for name, text in changed.items()}
    return loaded(lambda spec, tensors, texts: texts.update(changed))


def commanded(line, text=""):
    """Runs the command in a folder where people.csv has this text, without its own handling."""
    options = command._parser().parse_args(line.split())
    with contextlib.chdir(tempfile.mkdtemp()):
        Path("people.csv").write_text(text)
        options.run(options)


def nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


def twice():
    """The second derivative of a draw."""
    net = made()
    draw = net.condition().rsample()
    torch.autograd.grad(draw.sum(), list(net.parameters()), create_graph=True)


SIZES = (
    error(
        "event_shape: expected positive integers, got (0,)",
        lambda: ad.Factorization((0,), NORMAL),
        "event_shape: expected positive integers, got (2.5,)",
        lambda: ad.Factorization((2.5,), NORMAL),
        "size: expected positive integers, got (2, 1.5)",
        lambda: ad.Partition.patches((2, 1.5)),
        "size: expected positive integers, got 0",
        lambda: ad.Partition.patches(0),
        "levels: expected a positive integer, got 0",
        lambda: ad.Ordering.multiscale(0),
        "grid_shape: expected positive integers, got (2, 0)",
        lambda: ad.Ordering.snake().show((2, 0)),
        "num_categories: expected a positive integer, got 0",
        lambda: fam.Categorical(0),
        "num_categories: expected a positive integer, got 0",
        lambda: fam.OneHotCategorical(0),
        "num_components: expected a positive integer, got 0",
        lambda: fam.Mixture(NORMAL, 0),
        "shape: expected positive integers, got (0,)",
        lambda: fam.Independent(NORMAL, (0,)),
        "size: expected a positive integer, got 0",
        lambda: fam.MultivariateNormal(0),
        "size: expected a positive integer, got -1",
        lambda: fam.Dirichlet(-1),
        "rank: expected a positive integer, got 0",
        lambda: fam.LowRankMultivariateNormal(3, 0),
        "k: expected a positive integer, got 0",
        lambda: fam.TopK(fam.Categorical(3), 0),
        "bins: expected a positive integer, got 0",
        lambda: fam.Spline(0),
        "hidden_features: expected positive integers, got (0,)",
        lambda: made(hidden_features=(0,)),
        "hidden_features: expected positive integers, got (0,)",
        lambda: networks.Unshared(FOUR, hidden_features=(0,)),
        "context_shape: expected positive integers, got (0,)",
        lambda: made(context_shape=(0,)),
        "channels: expected a positive integer, got 0",
        lambda: pixelcnn(channels=0),
        "depth: expected a positive integer, got 0",
        lambda: pixelcnn(depth=0),
        "dilation: expected positive integers, got 0",
        lambda: pixelcnn(dilation=0),
        "channels: expected a positive integer, got 0",
        lambda: wavenet(channels=0),
        "depth: expected a positive integer, got 0",
        lambda: wavenet(depth=0),
        "max_dilation: expected a positive integer, got 0",
        lambda: wavenet(max_dilation=0),
        "skip_channels: expected a positive integer, got 0",
        lambda: wavenet(skip_channels=0),
        "window: expected a positive integer, got 0",
        lambda: networks.Markov(FOUR, hidden_features=4, window=0),
        "width: expected a positive integer, got 0",
        lambda: sampling.beam_search(p(BITS), 0),
        "k: expected a positive integer, got 0",
        lambda: sampling.without_replacement(p(BITS), 0),
        "num_particles: expected a positive integer, got 0",
        lambda: sampling.smc(p(BITS), rules.Sum(1), 0),
        cause="A size is zero, negative or not an integer.",
        cure="Use integers of at least 1.",
    ),
    error(
        "dropout: expected a probability in [0, 1), got 1.0",
        lambda: made(dropout=1.0),
        "dropout: expected a probability in [0, 1), got 1.0",
        lambda: wavenet(dropout=1.0),
        "dropout: expected a probability in [0, 1), got 1.0",
        lambda: pixelcnn(dropout=1.0),
        "dropout: expected a probability in [0, 1), got 1.0",
        lambda: transformer(dropout=1.0),
        cause="`dropout` is the probability that a unit is dropped. At 1 no unit would remain.",
        cure="Use a number of at least 0 and below 1.",
    ),
    error(
        "labels: expected integers, got torch.float32",
        lambda: ad.Partition.from_labels([0.0, 1.0]),
        "ranks: expected integers, got torch.float32",
        lambda: ad.Ordering.from_ranks([0.5, 1.0]),
        cause="Ranks and labels must be integers, not floats or booleans.",
        cure="Convert them to integers, for example with `tensor.long()`.",
    ),
)

ARGUMENTS = (
    error(
        "event_shape: expected positive integers, got None",
        lambda: ad.Factorization(None, NORMAL),
        "event_shape: expected positive integers, got 4.0",
        lambda: ad.Factorization(4.0, NORMAL),
        "event_shape: expected positive integers, got {2, 3}",
        lambda: ad.Factorization({2, 3}, NORMAL),
        "context_shape: expected positive integers, got None",
        lambda: made(context_shape=None),
        "hidden_features: expected a positive integer, got 0",
        lambda: transformer(hidden_features=0),
        "embedding_size: expected a positive integer, got 0",
        lambda: rnn(embedding_size=0),
        "seed: expected an integer, got 0.5",
        lambda: ad.Ordering.random(0.5),
        "seed: expected an integer between -2**63 and 2**63, got 9223372036854775808",
        lambda: ad.Ordering.random(2**63),
        "seed: expected an integer between -2**63 and 2**63, got -9223372036854775808",
        lambda: fit(seed=-(2**63)),
        "end: expected an integer, got True",
        lambda: ad.Factorization(3, fam.Categorical(3), end=True),
        cause="An argument is not an integer or a sequence of integers, or a seed does not fit "
        "into 64 bits. A set is not accepted, since it has no order.",
        cure="Use an integer, or a list or tuple of integers. `()` is the shape of a scalar "
        "event, and the shape of no context.",
    ),
    error(
        "sample_shape: expected a sequence of integers of at least 0, got 3",
        lambda: p().sample(3),
        "sample_shape: expected a sequence of integers of at least 0, got (-1,)",
        lambda: p().sample((-1,)),
        "sample_shape: expected a sequence of integers of at least 0, got (2.0,)",
        lambda: p().rsample((2.0,)),
        "batch_shape: expected a sequence of integers of at least 0, got None",
        lambda: p().expand(None),
        cause="The shape is not a sequence of integers of at least 0. A shape of one dimension is "
        "also a sequence.",
        cure="Pass a tuple of integers, as in `p.sample((3,))`.",
    ),
    error(
        "min_scale: expected a positive number, got -1.0",
        lambda: fam.StudentT(-1.0),
        "tol: expected a number of at least 0, got -1",
        lambda: p().rsample(tol=-1),
        "dropout: expected a probability in [0, 1), got None",
        lambda: made(dropout=None),
        cause="An argument is not a number, or it is infinite, NaN or outside the allowed range.",
        cure="Use a Python or NumPy number in the range that the message names.",
    ),
    error(
        "direct: expected True or False, got 'no'",
        lambda: made(direct="no"),
        "stationary: expected True or False, got a tensor of shape (), torch.bool on cpu",
        lambda: networks.Markov(FOUR, hidden_features=4, stationary=torch.tensor(True)),
        cause="The argument is a flag. Any nonempty string would count as true.",
        cure="Use `True` or `False`.",
    ),
    error(
        "activation: expected an elementwise function, got a module LayerNorm, which gives for "
        "shape (5, 7): Given normalized_shape=[16], expected input with shape [*, 16], but got "
        "input of size[5, 7]",
        lambda: made(hidden_features=16, activation=torch.nn.LayerNorm(16)),
        "activation: expected an elementwise function, got a module Flatten, which gives for shape "
        "(5, 7): a tensor of shape (35,), torch.float32 on cpu",
        lambda: made(activation=torch.nn.Flatten(0)),
        "activation: expected an elementwise function, got a module Softmax, which gives other "
        "numbers if there are fewer units or rows",
        lambda: made(activation=torch.nn.Softmax(-1)),
        cause="An activation computes each unit from that unit alone. `PReLU` with a slope for "
        "each unit does not, and a norm or a softmax would let blocks depend on later ones.",
        cure="Use an elementwise function or module, such as `torch.nn.PReLU()`.",
    ),
    error(
        "activation: expected a callable, got 'relu'",
        lambda: made(activation="relu"),
        "partition: expected a Partition, got 'scalars'",
        lambda: ad.Factorization(3, NORMAL, partition="scalars"),
        "factorization: expected a Factorization, got 4",
        lambda: ad.AutoregressiveDistribution(made(), factorization=4),
        "names: expected 2 different strings, one for each block, got 'ab'",
        lambda: ad.Factorization(2, NORMAL, names="ab"),
        "axes: expected a sequence of axes, got 3",
        lambda: information.calibration(p(), torch.zeros(9, 4)).plot(3),
        "given: expected a value and a mask, got a tensor of shape (4,), torch.float32 on cpu",
        lambda: sampling.ancestral(p(), given=torch.zeros(4)),
        cause="An argument has the wrong class, for example a string in place of an object.",
        cure="Use an object of the class that the message names.",
    ),
    error(
        "labels: expected numbers, got ['a', 'b']",
        lambda: ad.Partition.from_labels(["a", "b"]),
        "adjacency: expected 0 and 1, got 0.0, 0.5",
        lambda: ad.Ordering.from_graph([[0.0, 0.0], [0.5, 0.0]]),
        "quantiles: expected numbers within [0, 1], got [5, 95]",
        lambda: guides.AutoAutoregressive(pair).quantiles([5, 95]),
        "ranks: expected one for each of the 4 blocks, in all rows or in each of 2, got (3,)",
        lambda: made().decoder(2, ranks=torch.arange(3)),
        "table: expected numbers, got [[0, 1], [1]]",
        lambda: rules.Automaton([[0, 1], [1]], {0}),
        cause="An argument cannot be converted to a tensor of the expected numbers.",
        cure="Use a tensor, array or list of the numbers that the message names.",
    ),
    error(
        "value: expected a dense tensor, got torch.sparse_coo; value.to_dense() converts it",
        lambda: p().log_prob(torch.zeros(4).to_sparse()),
        "mask: expected a tensor with data, got a tensor of shape (4,), torch.bool on meta",
        lambda: p().marginal(torch.ones(4, dtype=torch.bool, device="meta")),
        "mask: expected real numbers, got a tensor of shape (4,), torch.complex64 on cpu",
        lambda: p().marginal(torch.ones(4, dtype=torch.complex64)),
        "network: expected parameters with data, got some on device meta",
        lambda: made().to("meta").condition().sample(),
        "network: expected a device that computes masks, got meta for MADE; build it on the CPU, "
        "then move it with .to('meta')",
        lambda: on_meta(made),
        "value: expected elements inside the support IndependentConstraint(Real(), 1), got "
        "[nan, nan]",
        lambda: p().marginal(torch.arange(4) < 2).log_prob(torch.full((2,), torch.nan)),
        cause="The tensor is sparse or complex, is on the device `meta` and has no data, or has "
        "numbers outside the support.",
        cure="Pass a dense, real tensor inside the support, on the device of the network. Build "
        "networks on a device other than `meta`.",
    ),
)

PARTITIONS = (
    error(
        "partition: expected distinct dimensions of an event of shape (3,), got Partition.along(1)",
        lambda: ad.Factorization(3, NORMAL, partition=ad.Partition.along(1)),
        "partition: expected distinct dimensions of an event of shape (3, 2), got "
        "Partition.along(0, 0)",
        lambda: ad.Partition.along(0, 0).apply(torch.Size((3, 2))),
        cause="A dimension does not exist in the event, or it is named twice.",
        cure="Use distinct dimensions of `event_shape`. Negative dimensions count from the last.",
    ),
    error(
        "dims: expected at least one dimension to cut along, got none",
        lambda: ad.Partition.along(),
        "size: expected at least one dimension, got none",
        lambda: ad.Partition.patches(()),
        "sizes: expected one for each block, got []",
        lambda: ad.Partition.split([]),
        cause="The partition has no dimension, size or slice.",
        cure="Pass at least one. Without a partition, each number is a block.",
    ),
    error(
        "partition: expected patches whose sides divide the first dimensions of the event shape "
        "(6, 4), got "
        "Partition.patches(3)",
        lambda: ad.Partition.patches(3).apply(torch.Size((6, 4))),
        "partition: expected patches whose sides divide the first dimensions of the event shape "
        "(4,), got "
        "Partition.patches((2, 2))",
        lambda: ad.Partition.patches((2, 2)).apply(torch.Size((4,))),
        cause="The sides of the patches do not divide the event.",
        cure="Use sides that divide the first dimensions of the event, or crop or pad the data.",
    ),
    error(
        "partition: expected labels of the event's shape (3,), got (2,)",
        lambda: ad.Partition.from_labels([0, 1]).apply(torch.Size((3,))),
        cause="The labels do not have the shape of the event.",
        cure="Use one label for each element of the event.",
    ),
    error(
        "partition: Partition.split([1, 1]) covers an event of shape (2,), got event_shape (3,)",
        lambda: ad.Factorization(3, [NORMAL] * 2, partition=ad.Partition.split([1, 1])),
        cause="The sizes do not sum to the length of the event.",
        cure="Use sizes that sum to the length of the event.",
    ),
)

ORDERINGS = (
    error(
        "perm: expected a permutation of 0, ..., 2, got 0, 2, 2",
        lambda: ad.Ordering.permutation([0, 2, 2]),
        cause="The list omits a block or names one twice.",
        cure="Use each of 0, ..., n - 1 once. `perm[k]` is the block that is sampled k-th.",
    ),
    error(
        "ordering: expected one over the 3 blocks of the grid (3,), got one over 2",
        lambda: ad.Factorization(3, NORMAL, ordering=ad.Ordering.permutation([1, 0])),
        "ordering: expected one over the 2 blocks of the grid (2,), got one over 1",
        lambda: ad.Factorization(2, NORMAL, ordering=ad.Ordering.from_graph([[0]])),
        "ordering: expected ranks of the grid's shape (2, 2), got (4,)",
        lambda: ad.Factorization((2, 2), NORMAL, ordering=ad.Ordering.from_ranks([0, 1, 2, 3])),
        "ordering: expected one over the 9 blocks of the grid (3, 3), got one over 4",
        lambda: ad.Ordering.permutation([1, 0, 2, 3]).plot((3, 3)),
        cause="The ordering was made for a different number of blocks or a different grid.",
        cure="Make the ordering for `Factorization.grid_shape`. The grid has one cell for each "
        "block, and a block can contain many numbers.",
    ),
    error(
        "ordering: spiral is for grids of two dimensions, got the grid (4,)",
        lambda: ad.Ordering.spiral().ranks(torch.Size((4,))),
        "ordering: spiral is for grids of two dimensions, got the grid (2, 2, 2)",
        lambda: ad.Factorization((2, 2, 2), NORMAL, ordering=ad.Ordering.spiral()),
        "ordering: hilbert is for grids of at most three dimensions, got the grid (2, 2, 2, 2)",
        lambda: ad.Ordering.hilbert().ranks(torch.Size((2, 2, 2, 2))),
        cause="This ordering is not defined on grids with this number of dimensions.",
        cure="Use another ordering, or use `Partition.along` to get a grid with the right number "
        "of dimensions.",
    ),
    error(
        "levels: a grid (3, 4) has at most 3, got 4",
        lambda: ad.Ordering.multiscale(4).ranks(torch.Size((3, 4))),
        cause="Each level halves the distance between pixels, and the last level has distance one.",
        cure="Use fewer levels.",
    ),
    error(
        "adjacency: expected a square matrix, got (1, 2)",
        lambda: ad.Ordering.from_graph([[0, 1]]),
        cause="The graph of n blocks is an (n, n) matrix. Row i marks the parents of block i.",
        cure="Use a square matrix.",
    ),
    error(
        "adjacency: expected no cycle, got 0 <- 1 <- 2 <- 0",
        lambda: ad.Ordering.from_graph([[0, 1, 0], [0, 0, 1], [1, 0, 0]]),
        cause="Blocks depend on each other in a cycle, so none of them can be sampled first.",
        cure="Remove one of the edges that the message lists.",
    ),
    error(
        "grid_shape: expected one or two dimensions, got (2, 2, 2)",
        lambda: ad.Ordering.snake().plot((2, 2, 2)),
        cause="`plot` supports grids of one or two dimensions.",
        cure="Use `show`, which prints a grid of any number of dimensions in slices.",
    ),
    error(
        "ordering: expected an Ordering, such as Ordering.permutation([1, 0]), got 'raster'",
        lambda: ad.Factorization(2, NORMAL, ordering="raster"),
        cause="The argument is a string or ranks, not an `ardist.Ordering`.",
        cure="Use `Ordering.raster()`, or `Ordering.from_ranks(ranks)`.",
    ),
)

FACTORIZATIONS = (
    error(
        "event_shape: a factorization is frozen; replace makes another one",
        lambda: setattr(FOUR, "event_shape", (5,)),
        cause="Factorizations are immutable, so their attributes cannot be set.",
        cure="Create a new factorization with `factorization.replace(event_shape=5)`.",
        kind=AttributeError,
    ),
    error(
        "families: expected members of ardist.families, got <class "
        "'pyro.distributions.torch.Normal'>; a family is Normal(), and dist.Normal(0., 1.) is "
        "a value of it",
        lambda: ad.Factorization(3, dist.Normal),
        "columns: expected a family for each name, got 3 for 'a'",
        lambda: ad.Factorization.columns(a=3),
        cause="A distribution or a distribution class is not a family. A family maps parameters "
        "to a distribution.",
        cure="Use a member of `ardist.families`, or make one, for example with "
        "`Parametric(dist.Gumbel)`.",
    ),
    error(
        "families: expected hashable families, as frozen dataclasses are, got Mutable()",
        lambda: ad.Factorization(3, Mutable()),
        "families: expected Unreduced() to return a distribution of batch_shape (2,) and "
        "event_shape () for parameters (2, 1), got (2, 1) and ()",
        lambda: ad.Factorization(3, Unreduced()),
        cause="The family is not hashable, or it does not return one conditional for each row of "
        "parameters.",
        cure="Make the family a frozen dataclass, and index the last dimension of the parameters, "
        "as in `params[..., 0]`.",
    ),
    error(
        "block: expected one of 0, ..., 3, got 9",
        lambda: FOUR.block_name(9),
        cause="No block has this index.",
        cure="Use an index in raster order of the grid.",
    ),
    error(
        "families: expected one for all or one for each of the 3 blocks, got 2",
        lambda: ad.Factorization(3, [NORMAL] * 2),
        "columns: expected at least one column, got none",
        lambda: ad.Factorization.columns(),
        cause="The number of families differs from the number of blocks.",
        cure="Use one family for all blocks, or one for each of the `Factorization.num_blocks` "
        "blocks.",
    ),
    error(
        "families: Normal() is a distribution of shape (), but its block has shape (2,); "
        "Independent(Normal(), (2,)) fits",
        lambda: ad.Factorization((3, 2), NORMAL, partition=ad.Partition.along(0)),
        "families: Dirichlet(2) is a distribution of shape (2,), but its block has shape ()",
        lambda: ad.Factorization(2, fam.Dirichlet(2)),
        cause="The shape of the block differs from the event shape of its family.",
        cure="Wrap the family as the message says, use a family for vectors, or partition the "
        "event into scalars.",
    ),
    error(
        "columns: this factorization has no names; Factorization.columns gives them",
        lambda: ad.Factorization(2, NORMAL).pack({}),
        cause="The factorization has no column names.",
        cure="Build the factorization with `Factorization.columns`, or index the tensor.",
    ),
    error(
        "columns: expected ['a', 'b'], got ['a']",
        lambda: COLUMNS.pack({"a": torch.zeros(2)}),
        "columns: expected a dict or a frame, got None",
        lambda: COLUMNS.pack(None),
        cause="A column is missing or unknown, or the columns are not in a dict or data frame.",
        cure="Pass a dict or data frame with exactly the columns of `Factorization.names`.",
    ),
    error(
        "columns: expected numbers in 'a', categories as 0, 1, ..., got Rome, Oslo",
        lambda: COLUMNS.pack({"a": ["Rome", "Oslo"], "b": [0, 1]}),
        cause="A column contains strings, dates or other values that are not numbers.",
        cure="Encode categories as integers: `np.unique(column, return_inverse=True)`.",
    ),
    error(
        "columns: expected (2,) in 'b', got (3,)",
        lambda: COLUMNS.pack({"a": [0, 1], "b": [0.5, 1.0, 1.5]}),
        cause="The columns differ in length, or the last dimensions of a column are not the event "
        "shape of its family.",
        cure="Use one value per event in each column.",
    ),
    error(
        "names: expected 2 different strings, one for each block, got ('a', 'a')",
        lambda: ad.Factorization(2, NORMAL, names=("a", "a")),
        "names: expected 2 different strings, one for each block, got ('a', 'b', 'c')",
        lambda: ad.Factorization(2, NORMAL, names=("a", "b", "c")),
        "columns: expected a family for each name, got Normal() for 1",
        lambda: ad.Factorization.columns({1: NORMAL}),
        cause="Columns are accessed by name, so the names have to be different strings.",
        cure="Use a different string for each block.",
    ),
    error(
        "x: expected (*lead, 2), got (3, 4)",
        lambda: ad.Factorization(2, NORMAL).split(torch.zeros(3, 4)),
        "blocks: expected (*lead, 2), got (3, 4)",
        lambda: ad.Factorization(2, NORMAL).merge(torch.zeros(3, 4)),
        cause="The last dimensions differ from the shape of the event, or from the shape of its "
        "blocks.",
        cure="Pass events of shape `(*lead, *event_shape)` to `split`. Pass blocks to `merge` in "
        "the form in which `split` returns them.",
    ),
    error(
        "families: expected finite discrete ones, got Factorization((2,), Normal())",
        lambda: ad.Factorization(2, NORMAL).enumerate_support(),
        cause="Events with real numbers or unbounded counts cannot be enumerated.",
        cure="Use `enumerate_support` only if all families are finite, such as Bernoulli and "
        "Categorical.",
    ),
    error(
        "end: expected blocks of one index each, 0, ..., n - 1, got Normal()",
        lambda: ad.Factorization(3, NORMAL, end=1),
        "end: expected blocks of one index each, 0, ..., n - 1, got Independent(Bernoulli(), (2,))",
        lambda: ad.Factorization(
            (2, 2), BIT_PAIRS.families[0], partition=ad.Partition.along(0), end=1
        ),
        "end: expected blocks of one index each, 0, ..., n - 1, got Hurdle((2.5,), Bernoulli())",
        lambda: ad.Factorization(3, fam.Hurdle((2.5,), fam.Bernoulli()), end=1),
        cause="The end of a sequence is a symbol, so the families must be distributions of "
        "symbols.",
        cure="Use Categorical or Bernoulli families and scalar blocks.",
    ),
    error(
        "end: expected one of 0, ..., 2, got 3",
        lambda: ad.Factorization(3, fam.Categorical(3), end=3),
        "pad: expected one of 0, ..., 2, got -100",
        lambda: ad.Factorization(3, fam.Categorical(3), end=1, pad=-100),
        cause="The end symbol or the padding symbol is not a state of the family.",
        cure="Use one of its states. For a separate padding symbol, add a state to the family.",
    ),
    error(
        "pad: expected none without an end, got 1",
        lambda: ad.Factorization(3, fam.Categorical(3), pad=1),
        cause="`pad` fills the blocks after `end`, and the factorization has no `end`.",
        cure="Pass `end` as well, or omit `pad`.",
    ),
    error(
        "end: expected an order without ties, in which each block may depend on all that are drawn "
        "before it, got Ordering.from_ranks(0, 0, 1)",
        lambda: ad.Factorization(
            3, fam.Categorical(3), end=1, ordering=ad.Ordering.from_ranks([0, 0, 1])
        ),
        cause="A block that is sampled in the same step as an end, or that does not depend on it, "
        "could not be padding.",
        cure="Use an ordering without ties. A graph needs all edges from earlier to later blocks.",
    ),
)

RULES = (
    error(
        "symbol: expected an integer, got 1.5",
        lambda: rules.End(1.5),
        "columns: expected at least one name, got []",
        lambda: rules.Within(),
        "columns: expected two ends (low, high), None for no end, for 'a', got (1, 2, 3)",
        lambda: rules.Within(a=(1, 2, 3)),
        "columns: expected a set of values for 'a', got set()",
        lambda: rules.Within(a=set()),
        "column: expected a name, got 1",
        lambda: rules.When(1, {1}, b=0.0),
        "absent: expected a constant for at least one column, got none",
        lambda: rules.When("a", {1}),
        "rules: expected at least one, got none",
        lambda: rules.All(),
        "table: expected (states, states of a block), or one for each block, got (2,)",
        lambda: rules.Automaton([0, 1], {0}),
        "table: expected next states from -1, for none, to 0, got 0 to 2",
        lambda: rules.Automaton([[0, 2]], {0}),
        "accepting: expected states from 0 to 0, got [1]",
        lambda: rules.Automaton([[0, 0]], {1}),
        "accepting: expected several states, got 0",
        lambda: rules.Automaton([[0, 0]], 0),
        "accepting: expected an integer of at least 0, got 0.5",
        lambda: rules.Automaton([[0, 0]], {0.5}),
        "adjacency: expected a square matrix, got (1, 2)",
        lambda: rules.Automaton.walk([[0, 1]]),
        "start: expected a node from 0 to 1, got 2",
        lambda: rules.Automaton.walk([[0, 1], [1, 0]], start=2),
        "end: expected one of 0, ..., 1, got 2",
        lambda: rules.Automaton.regex("a*", "ab", end=2),
        cause="An argument of the rule is invalid.",
        cure="Pass the numbers, names or sets that the message expects.",
    ),
    error(
        "rule: expected Allowing() to allow bool of shape (1, 1, 2), got torch.bool of shape "
        "(1, 2)",
        lambda: BITS.replace(rule=Allowing(torch.ones(1, 2, dtype=torch.bool))),
        "rule: expected Allowing() to allow an Interval, got True",
        lambda: p(FOUR.replace(rule=Allowing(True))).sample(),
        "rule: expected Allowing() to allow an Interval of two tensors (1, 1), got an Interval of "
        "[(), ()]",
        lambda: p(FOUR.replace(rule=Allowing(rules.Interval(0.0, 1.0)))).sample(),
        cause="The method `allowed` of your own rule returns a value of the wrong shape or type.",
        cure="Return a bool tensor of shape (rows, n, num_states) for finite blocks, or an "
        "`Interval` of two tensors of shape (rows, n) for numbers.",
    ),
    error(
        "rule: expected Allowing() to allow a value of block (0,) in step 0, got none after an "
        "allowed prefix, which must always have an allowed continuation; look ahead, with at.left",
        lambda: BITS.replace(rule=Allowing(torch.zeros(1, 1, 2, dtype=torch.bool))),
        "rule: expected Allowing() to allow a value of block (3,) in step 0, got none after an "
        "allowed prefix, which must always have an allowed continuation; look ahead, with at.left",
        lambda: (
            rnn(
                FOUR.replace(
                    ordering=ad.Ordering.reverse(),
                    rule=Allowing(rules.Interval(torch.ones(1, 1), torch.zeros(1, 1))),
                )
            )
            .condition()
            .sample()
        ),
        cause="Your own rule has a dead end: it allows a prefix that no allowed event continues.",
        cure="Allow only values that have an allowed continuation: `at.left` is the number of "
        "later blocks. `ardist.sampling.smc` supports dead ends.",
    ),
    error(
        "biject_to, transform_to: no map from reals onto the events that follow Sum(total=1); "
        "there is one for rules.Within with intervals of continuous columns",
        lambda: torch.distributions.biject_to(FOUR.replace(rule=rules.Sum(1.0)).support),
        cause="The allowed values of a block depend on earlier blocks, or they are isolated "
        "points.",
        cure="Use a guide whose distribution has the same rule, in place of autoguides or NUTS.",
        kind=NotImplementedError,
    ),
    error(
        "sample: torch.func.vmap does not support the steps of a draw, which write in place; give "
        "the context a leading dimension, or p.expand, to draw many at once",
        lambda: vmapped(p(BITS)),
        cause="`sample` was called inside `torch.func.vmap`.",
        cure="Sample the rows of all contexts together: `network.condition(contexts).sample()`.",
        kind=NotImplementedError,
    ),
    error(
        "rsample: transforms of torch.func do not take gradients through draws, which are "
        "implicit; torch.autograd.grad and backward do",
        lambda: torch.func.grad(lambda c: made(context_shape=(2,)).condition(c).rsample().sum())(
            torch.zeros(2)
        ),
        cause="`rsample` was called inside `torch.func.grad`, `jacrev` or a similar transform.",
        cure="Differentiate the sample with `torch.autograd.grad` or `backward`.",
        kind=NotImplementedError,
    ),
    error(
        "total: expected a sum from 0 to 3 of 3 blocks, got 4: no event follows Sum(total=4)",
        lambda: ad.Factorization(3, fam.Bernoulli(), rule=rules.Sum(4)),
        "total: expected a sum from 0 to inf of 3 blocks, got 0: no event follows Sum(total=0)",
        lambda: ad.Factorization(3, fam.Exponential(), rule=rules.Sum(0)),
        "rule: expected at least 3 states for as many different blocks, got 2 of Bernoulli():"
        " no event follows Distinct()",
        lambda: ad.Factorization(3, fam.Bernoulli(), rule=rules.Distinct()),
        "rule: expected an automaton that accepts events of 3 blocks, got Automaton(table=(2,"
        " 2), accepting=(1,), initial=0): no event follows it",
        lambda: ad.Factorization(
            3, fam.Categorical(2), rule=rules.Automaton([[1, -1], [-1, -1]], {1})
        ),
        "a: expected values of Bernoulli(), got frozenset({2}): no event follows Within(a={2})",
        lambda: COLUMNS.replace(rule=rules.Within(a={2})),
        cause="No event of this factorization follows the rule.",
        cure="Change the rule, the number of blocks or their families.",
    ),
    error(
        "rule: expected blocks with a finite set of states for Distinct(), got Normal()",
        lambda: FOUR.replace(rule=rules.Distinct()),
        "rule: expected blocks of one family for Distinct(), got 2 families",
        lambda: ad.Factorization(
            2, [fam.Categorical(2), fam.Categorical(3)], rule=rules.Distinct()
        ),
        "rule: expected consecutive integers or numbers with a CDF for Sum(total=1), got "
        "VonMises()",
        lambda: ad.Factorization(3, fam.VonMises(), rule=rules.Sum(1)),
        "rule: expected consecutive integers or numbers with a CDF for Sum(total=1), got "
        "Hurdle((0.0,), LogNormal())",
        lambda: ad.Factorization(3, fam.Hurdle((0,), fam.LogNormal()), rule=rules.Sum(1)),
        "rule: expected a real block last for Sum(total=1), since an integer cannot complete a "
        "sum of reals, got block (1,)",
        lambda: ad.Factorization(2, [fam.Normal(), fam.Bernoulli()], rule=rules.Sum(1)),
        "total: expected an integer for blocks of integers, got 1.5",
        lambda: ad.Factorization(2, fam.Poisson(), rule=rules.Sum(1.5)),
        "b: expected a column with finitely many values for a set, or one number with a CDF "
        "for an interval, got Normal() for frozenset({1.0})",
        lambda: COLUMNS.replace(rule=rules.Within(b={1.0})),
        "column: expected one with finitely many numbers as the trigger, got Normal() of 'b'",
        lambda: COLUMNS.replace(rule=rules.When("b", {1}, a=0)),
        "a: expected another column than the trigger",
        lambda: COLUMNS.replace(rule=rules.When("a", {1}, a=0)),
        "c: expected a number that Categorical(2) can have, got 2",
        lambda: ad.Factorization.columns(
            a=fam.Bernoulli(), c=fam.Categorical(2), rule=rules.When("a", {1}, c=2)
        ),
        "a: expected a column with finitely many values for a set, or one number with a CDF "
        "for an interval, got Independent(Normal(), (2,)) for (0, 1)",
        lambda: ad.Factorization(
            (2, 2),
            fam.Independent(NORMAL, (2,)),
            partition=ad.Partition.along(0),
            names=("a", "b"),
            rule=rules.Within(a=(0, 1)),
        ),
        cause="The rule does not support blocks of this kind, or one of its numbers is not a "
        "possible value.",
        cure="Use the kind of family or number that the message names, or limit other columns.",
    ),
    error(
        "table: expected one next state for each of the 3 states of Categorical(3), got a "
        "table of width 2",
        lambda: SYMBOLS.replace(rule=rules.Automaton([[0, 0]], {0})),
        "table: expected one for each of the 3 blocks, got 1",
        lambda: BITS.replace(rule=rules.Automaton([[[0, 0]]], {0})),
        cause="The table does not have one column for each state of a block, or there is not one "
        "table for each block.",
        cure="Pass a table of shape (states of the automaton, states of a block). -1 stands for "
        "no next state.",
    ),
    error(
        "rule: expected named columns, got a factorization without names; "
        "Factorization.columns gives them, here 'a'",
        lambda: FOUR.replace(rule=rules.Within(a=(0, 1))),
        "rule: expected names of columns among ['a', 'b'], got 'c'",
        lambda: COLUMNS.replace(rule=rules.Within(c=(0, 1))),
        cause="`Within` and `When` find blocks by their names.",
        cure="Name the columns with `Factorization.columns`, and use these names.",
    ),
    error(
        "rule: expected the trigger column 'a' before column 'b', which has to depend on it, "
        "got another order; a trigger that is missing or not observed comes later than what "
        "is observed",
        lambda: COLUMNS.replace(ordering=ad.Ordering.reverse(), rule=rules.When("a", {1}, b=0.0)),
        "rule: expected the trigger column 'a' before column 'b', which has to depend on it, "
        "got another order; a trigger that is missing or not observed comes later than what "
        "is observed",
        lambda: ad.Factorization.columns(
            a=fam.Bernoulli(),
            b=NORMAL,
            c=NORMAL,
            ordering=ad.Ordering.from_graph([[0, 0, 0], [0, 0, 1], [1, 0, 0]]),
            rule=rules.When("a", {1}, b=0.0),
        ),
        cause="The trigger of `When` must come before the columns that depend on it. If the "
        "trigger is missing or not observed, the observed columns come before it.",
        cure="Put the trigger first in the ordering, and observe it whenever you observe these "
        "columns.",
    ),
    error(
        "rule: expected an order without ties, in which each block may depend on all that are"
        " drawn before it, got Ordering.from_ranks(0, 0, 1)",
        lambda: ad.Factorization(
            3, fam.Bernoulli(), ordering=ad.Ordering.from_ranks([0, 0, 1]), rule=rules.Sum(1)
        ),
        cause="The allowed values of a block depend on all earlier blocks, so two blocks cannot "
        "be sampled in one step.",
        cure="Use an ordering without ties. A graph needs all edges from earlier to later blocks.",
    ),
    error(
        "rule, end: expected one of them, got Distinct() and 1; rules.All(rule, "
        "rules.End(end, pad)) combines them",
        lambda: ad.Factorization(3, fam.Categorical(3), rule=rules.Distinct(), end=1),
        cause="`end=` is short for the rule `End`, and the factorization already has a rule.",
        cure="Combine the two with `rules.All`.",
    ),
    error(
        "rule: expected rules that limit different blocks or are automata, got [Distinct(), "
        "End(symbol=1, pad=1)] for the same ones; ardist.sampling.smc supports them",
        lambda: ad.Factorization(
            12, fam.Categorical(12), rule=rules.All(rules.Distinct(), rules.End(1))
        ),
        cause="A prefix that each rule allows may have no continuation that all rules allow. Only "
        "automata can be combined exactly.",
        cure="Use automata or rules that limit different blocks, or condition on the rules with "
        "`ardist.sampling.smc`.",
    ),
    error(
        "value: expected block (1,) to follow Sum(total=1), given the blocks drawn before it,"
        " got 1.0",
        lambda: p(ad.Factorization(3, fam.Bernoulli(), rule=rules.Sum(1))).log_prob(torch.ones(3)),
        cause="The rule does not allow the value of this block, so the event is outside the "
        "support.",
        cure="Check events with `p.support.check(x)`. With `validate_args=False`, the "
        "log-probability of such events is -inf.",
    ),
)

FAMILIES = (
    error(
        "family: expected a Family, got <class 'pyro.distributions.torch.Normal'>",
        lambda: fam.Mixture(dist.Normal, 3),
        "family: expected a Family, got 3",
        lambda: fam.Independent(3, (2,)),
        "family: expected a Family, got <class 'pyro.distributions.torch.Bernoulli'>",
        lambda: fam.Relaxed(dist.Bernoulli, 1.0),
        "family: expected a Family, got 3",
        lambda: fam.Transformed(3, ExpTransform()),
        cause="A distribution, or a distribution class, is used where a family is expected.",
        cure="Use a member of `ardist.families`, such as `Mixture(Normal(), 3)`.",
    ),
    error(
        "min_scale: expected a positive number, got 0.0",
        lambda: fam.Normal(min_scale=0.0),
        "min_scale: expected a positive number, got -1.0",
        lambda: fam.Spline(4, min_scale=-1.0),
        "bound: expected a positive number, got 0.0",
        lambda: fam.Spline(4, bound=0.0),
        "temperature: expected a positive number, got 0.0",
        lambda: fam.Tempered(NORMAL, 0.0),
        "temperature: expected a positive number, got 0.0",
        lambda: fam.Relaxed(fam.Bernoulli(), 0.0),
        cause="A scale, temperature or bound is zero or negative.",
        cure="Use a positive number.",
    ),
    error(
        "bins: expected an integer of at least 2, got 1",
        lambda: fam.DiscretizedLogisticMixture(2, 1),
        cause="A variable with a single bin has only one value.",
        cure="Use the number of levels of the data, for example 256 for bytes.",
    ),
    error(
        "interval_log_prob: VonMises() has no CDF",
        lambda: fam.VonMises().interval_log_prob(torch.zeros(2), 0.0, 1.0),
        cause="The probability of an interval is the difference of two values of the CDF, and "
        "`Rounded` also needs a continuous family.",
        cure="Use a continuous family of one number with a CDF, such as a mixture of normals.",
        kind=NotImplementedError,
    ),
    error(
        "num_levels: expected an integer of at least 2, got 1",
        lambda: fam.Ordinal(1),
        cause="A variable with a single level has only one value.",
        cure="Use the number of levels of the data, or leave the variable out.",
    ),
    error(
        "points: expected at least one number, all finite and different, got ()",
        lambda: fam.Hurdle((), NORMAL),
        "points: expected at least one number, all finite and different, got (0.0, 0.0)",
        lambda: fam.Hurdle((0.0, 0.0), NORMAL),
        cause="`points` are the values at which a column has spikes, such as an income of 0.",
        cure="Name each spike once. Without spikes, use the family itself.",
    ),
    error(
        "family: expected a family of single numbers that are not indices, got Categorical(3)",
        lambda: fam.Hurdle((0.0,), fam.Categorical(3)),
        cause="Each category already has its own probability.",
        cure="Use the categorical family itself.",
    ),
    error(
        "family: expected a continuous one of a single number with a CDF, got Poisson()",
        lambda: fam.Rounded(fam.Poisson()),
        "family: expected a CDF, and a single real number or integers from a least one on, got "
        "VonMises()",
        lambda: fam.Truncated(fam.VonMises(), 0.0, 1.0),
        cause="The probability of an interval is the difference of two values of the CDF, and "
        "`Rounded` also needs a continuous family.",
        cure="Use a continuous family of one number with a CDF, such as a mixture of normals.",
    ),
    error(
        "family: expected a family without TopK, got Tempered(TopK(Categorical(4), 2), 0.5); apply "
        "TopK to the Truncated family instead",
        lambda: fam.Truncated(fam.Tempered(fam.TopK(fam.Categorical(4), 2), 0.5), 0, 2),
        cause="All states that `TopK` or `Nucleus` keeps may be outside the interval, which then "
        "has no distribution.",
        cure="Truncate first: `TopK(Truncated(family, low, high), k)`.",
    ),
    error(
        "low, high: expected an interval of values of LogNormal() in GreaterThan("
        "lower_bound=0.0), got -2.0 and 0.0",
        lambda: fam.Truncated(fam.LogNormal(), -2.0, 0.0),
        cause="No value of the family is in the interval.",
        cure="Use bounds within the family's support, with `low < high`.",
    ),
    error(
        "p: expected a probability in (0, 1], got 0.0",
        lambda: fam.Nucleus(fam.Bernoulli(), 0.0),
        "p: expected a probability in (0, 1], got 1.5",
        lambda: fam.Nucleus(fam.Bernoulli(), 1.5),
        cause="`p` is the probability mass that is kept, so it must be in (0, 1].",
        cure="Use a number above 0 and at most 1.",
    ),
    error(
        "family: expected a finite discrete family, got Poisson()",
        lambda: fam.TopK(fam.Poisson(), 3),
        "family: expected a finite discrete family, Normal, Laplace, or Independent of one of "
        "these, got Gamma()",
        lambda: fam.Tempered(fam.Gamma(), 0.5),
        "family: expected a finite discrete family, Normal, Laplace, or Independent of one of "
        "these, got LogNormal()",
        lambda: fam.Tempered(fam.Independent(fam.LogNormal(), (2,)), 0.5),
        cause="Truncating and tempering need a finite set of states. Normal and Laplace can be "
        "tempered through their scale.",
        cure="Use a finite discrete family, or use this family without truncating or tempering it.",
    ),
    error(
        "family: expected a family of single values, got Independent(Bernoulli(), (2,)); "
        "Independent(TopK(Bernoulli(), ...), (2,)) truncates each element",
        lambda: fam.TopK(fam.Independent(fam.Bernoulli(), (2,)), 1),
        "family: expected a family of single values, got Dirichlet(3)",
        lambda: fam.Nucleus(fam.Dirichlet(3), 0.5),
        cause="The most probable values of a vector are not the most probable values of its "
        "elements.",
        cure="Truncate the elements, inside `Independent`.",
    ),
    error(
        "family: expected Bernoulli or OneHotCategorical, got Categorical(3); for a vector use "
        "Independent(Relaxed(family, temperature), shape)",
        lambda: fam.Relaxed(fam.Categorical(3), 1.0),
        "family: expected Bernoulli or OneHotCategorical, got Independent(Bernoulli(), (2,)); "
        "for a vector use Independent(Relaxed(family, temperature), shape)",
        lambda: fam.Relaxed(fam.Independent(fam.Bernoulli(), (2,)), 1.0),
        cause="Only Bernoulli and OneHotCategorical have a continuous relaxation.",
        cure="Relax Bernoulli or OneHotCategorical. For vectors put `Relaxed` inside "
        "`Independent`.",
    ),
    error(
        "family: expected a continuous family, got Poisson()",
        lambda: fam.Transformed(fam.Poisson(), ExpTransform()),
        cause="Transforming a family needs a density, and this family is discrete.",
        cure="Transform a continuous family. For counts, use `Parametric` or your own family.",
    ),
    error(
        "transforms: expected at least one transform, got none",
        lambda: fam.Transformed(NORMAL, []),
        cause="The list of transforms is empty.",
        cure="Pass a transform, or use the family itself.",
    ),
    error(
        "transforms: expected bijective transforms, got <class "
        "'torch.distributions.transforms.ExpTransform'>",
        lambda: fam.Transformed(NORMAL, ExpTransform),
        "transforms: expected bijective transforms, got AbsTransform()",
        lambda: fam.Transformed(NORMAL, AbsTransform()),
        cause="A transform is a class and not an instance, or it is not bijective and has no "
        "density.",
        cure="Pass instances of bijective transforms.",
    ),
    error(
        "transforms: expected Normal() to fill the domain GreaterThan(lower_bound=0.0) of "
        "ExpTransform().inv, got values in Real()",
        lambda: fam.Transformed(NORMAL, ExpTransform().inv),
        "transforms: expected Gamma() to fill the domain Interval(lower_bound=0.0, "
        "upper_bound=1.0) of SigmoidTransform().inv, got values in GreaterThan(lower_bound=0.0)",
        lambda: fam.Transformed(fam.Gamma(), SigmoidTransform().inv),
        "transforms: expected Dirichlet(2) to fill the domain Real() of ExpTransform(), got "
        "values in Simplex()",
        lambda: fam.Transformed(fam.Dirichlet(2), ExpTransform()),
        "transforms: expected Independent(Exponential(), (2,)) to fill the domain Real() of "
        "AffineTransform(loc=<(2,)>, scale=1.0), got values in GreaterThanEq(lower_bound=0.0)",
        lambda: fam.Transformed(
            fam.Independent(fam.Exponential(), (2,)), AffineTransform(torch.tensor([1.0, 2.0]), 1.0)
        ),
        "transforms: expected Independent(Exponential(), (2,)) to fill the domain Real() of "
        "Permute(permutation=<(2,)>, dim=-1), got values in GreaterThanEq(lower_bound=0.0)",
        lambda: fam.Transformed(
            fam.Independent(fam.Exponential(), (2,)), flows.Permute(torch.tensor([1, 0]))
        ),
        "transforms: expected Independent(Exponential(), (2,)) to fill the domain Real() of "
        "Householder(), got values in GreaterThanEq(lower_bound=0.0)",
        lambda: fam.Transformed(fam.Independent(fam.Exponential(), (2,)), flows.Householder(2)),
        cause="The support of the family is not the domain of the transform, and the transform "
        "does not map it to an interval.",
        cure="First apply a transform whose values lie in that domain, or use a family with that "
        "support.",
    ),
    error(
        "transforms: expected values of at least 1 dimensions for StickBreakingTransform(), got "
        "values of Normal() with shape (); Independent(family, shape) makes blocks of numbers",
        lambda: fam.Transformed(NORMAL, StickBreakingTransform()),
        "transforms: expected transforms of values of shape (), as Normal() has, got "
        "AffineTransform(loc=<(3,)>, scale=1.0), which raises: The size of tensor a (3) must "
        "match the size of tensor b (2) at non-singleton dimension 0",
        lambda: fam.Transformed(NORMAL, AffineTransform(torch.zeros(3), 1.0)),
        "transforms: expected AffineTransform(loc=0.0, scale=1.0) to map 2 values of Normal() "
        "to shape (2, 1, 1), got (1, 2)",
        lambda: fam.Transformed(NORMAL, AffineTransform(torch.zeros(1, 1), 1.0)),
        cause="The transform expects vectors or a different length, or it changes the shape of "
        "the event.",
        cure="Transform `Independent(family, shape)`, or create the transform for the event shape "
        "of the family.",
    ),
    error(
        "transforms: expected a learned transform to be a torch.nn.Module, so that networks can "
        "register it, got AffineTransform(loc=0.0, scale=1.0)",
        lambda: fam.Transformed(NORMAL, AffineTransform(nn.Parameter(torch.zeros(())), 1.0)),
        cause="A parameter that is not in a module is neither trained nor saved with the network.",
        cure="Use a transform that is a module, such as Pyro's learned transforms.",
    ),
    error(
        "cls: expected a distribution class, got <class 'int'>",
        lambda: fam.Parametric(int),
        "cls: expected a distribution class whose arg_constraints is a dict, got a property "
        "in Uniform",
        lambda: fam.Parametric(dist.Uniform),
        cause="The class does not declare the constraints of its parameters, or they depend on "
        "others, as in `Uniform`. Its support does too, and a family has one fixed support.",
        cure="Use a distribution class of torch or Pyro with a dict `arg_constraints`.",
    ),
    error(
        "cls: expected a distribution whose support is the same for all parameters, got Pareto; "
        "fixed= gives constants for the parameters that change it",
        lambda: fam.Parametric(dist.Pareto),
        cause="The support depends on the parameters, and a family has one fixed support.",
        cure="Make these parameters constant: `Parametric(dist.Pareto, fixed={'scale': 1.0})`.",
    ),
    error(
        "fixed: expected a constant for the discrete total_count of Binomial, got none; "
        "fixed={'total_count': ...} gives it",
        lambda: fam.Parametric(dist.Binomial),
        cause="A network outputs real numbers, and this parameter is an integer.",
        cure="Make it constant: `Parametric(dist.Binomial, fixed={'total_count': 10})`.",
    ),
    error(
        "shapes: expected the shape of logits of Categorical, which does not follow from "
        "event_shape (), got none; shapes={'logits': ...} gives it",
        lambda: fam.Parametric(dist.Categorical),
        cause="The shape of the parameter does not follow from the shape of the block.",
        cure="Pass the shape: `Parametric(dist.Categorical, shapes={'logits': (5,)})`.",
    ),
    error(
        "links: expected free parameters of Normal, which are ['loc', 'scale'], got ['x']",
        lambda: fam.Parametric(dist.Normal, links={"x": torch.exp}),
        "fixed: expected arguments of Normal, which are ['loc', 'scale'], got ['x']",
        lambda: fam.Parametric(dist.Normal, fixed={"x": 1}),
        cause="The class has no such parameter, or the parameter is fixed.",
        cure="Use the parameter names of the class's constructor.",
    ),
    error(
        "fixed: expected all arguments that RelaxedBernoulli needs, got ['logits'], with which "
        "it raises: RelaxedBernoulli.__init__() missing 1 required positional argument: "
        "'temperature'; fixed= gives others",
        lambda: fam.Parametric(dist.RelaxedBernoulli),
        cause="The class has a required argument that is not in its `arg_constraints`.",
        cure="Pass the argument: `Parametric(dist.RelaxedBernoulli, fixed={'temperature': 0.5})`.",
    ),
    error(
        "links: expected a link for scale_tril of OMTMultivariateNormal, since torch has no "
        "transform to LowerTriangular(), got none; links={'scale_tril': ...} gives it",
        lambda: fam.Parametric(dist.OMTMultivariateNormal, event_shape=(2,)),
        cause="A transform maps real numbers to the parameter, and torch has no transform to its "
        "constraint.",
        cure="Pass a function in `links=`, or make the parameter constant with `fixed=`.",
    ),
    error(
        "fixed: expected to leave a parameter of Normal free, got constants for all of them",
        lambda: fam.Parametric(dist.Normal, fixed={"loc": 0.0, "scale": 1.0}),
        cause="All parameters are fixed, so there are none for the network to output.",
        cure="Leave at least one parameter free.",
    ),
    error(
        "event_shape: expected (3,), the shape of an event of OneHotCategorical, got ()",
        lambda: fam.Parametric(dist.OneHotCategorical, shapes={"logits": (3,)}),
        cause="The event shape of the distribution differs from the shape of the block.",
        cure="Pass the `event_shape` that follows from the shapes of the parameters.",
    ),
    error(
        "network: expected a conditional network, got a module Linear",
        lambda: fam.Nested(nn.Linear(2, 2)),
        cause="The argument of `Nested` is not an ardist network.",
        cure="Pass a network such as `networks.MADE`, not its distribution or another module.",
    ),
    error(
        "network: expected a network with a context, which gives it the parameters of the "
        "block, got context_shape=()",
        lambda: fam.Nested(made()),
        cause="The outer network passes earlier blocks to the inner network as its context, and "
        "the inner network takes no context.",
        cure="Build the inner network with `context_shape=(width,)`.",
    ),
    error(
        "from_noise: Gamma() has no noise that is independent of its parameters; sample(params) "
        "draws from it",
        lambda: fam.Gamma().from_noise(torch.zeros(2), torch.zeros(())),
        "noise: Gamma() has no noise that is independent of its parameters; sample(params) "
        "draws from it",
        lambda: fam.Gamma().noise((3,)),
        "to_noise: a value of Gamma() does not determine its noise; log_prob(params, value) "
        "scores the value",
        lambda: fam.Gamma().to_noise(torch.zeros(2), torch.ones(())),
        "log_abs_det_jacobian: draws of Gamma() are not a bijection of real noise; "
        "log_prob(params, value) scores the value",
        lambda: fam.Gamma().log_abs_det_jacobian(torch.zeros(2), torch.ones(())),
        "cdf, icdf: VonMises() has neither a CDF nor an inverse; sample(params) draws from it and "
        "log_prob(params, value) scores the value",
        lambda: fam.VonMises().cdf(torch.zeros(2), torch.ones(())),
        "cdf, icdf: Dirichlet(2) has neither a CDF nor an inverse; sample(params) draws from it "
        "and log_prob(params, value) scores the value",
        lambda: fam.Dirichlet(2).icdf(torch.zeros(2), torch.ones(())),
        cause="The family has no CDF, or its samples are not a function of noise and parameters.",
        cure="Check `has_noise`, `is_reparameterized` or `has_cdf` first. `sample` works for all "
        "families.",
        kind=NotImplementedError,
    ),
)

NETWORKS = (
    error(
        "factorization: expected a Factorization, got 3",
        lambda: made(3),
        cause="The first argument of a network is not a factorization.",
        cure="Pass `ardist.Factorization(event_shape, families)`.",
    ),
    error(
        "hidden_features: expected at least one layer, got ()",
        lambda: networks.Masked(FOUR, hidden_features=()),
        cause="The network has no hidden layers, so its predictions could not adapt to the set of "
        "observed blocks.",
        cure="Add a hidden layer.",
    ),
    error(
        "factorization: expected blocks of one family, since a module has one form of output, got "
        "Factorization.columns(a=Bernoulli(), b=Normal())",
        lambda: networks.Masked.from_module(nn.Identity(), COLUMNS, mask=0),
        cause="The module returns outputs of the same form for all blocks, but the families of "
        "the blocks differ.",
        cure="Use `networks.Masked(factorization, hidden_features=...)`.",
    ),
    error(
        "p: expected a network that predicts from any set, such as Masked, got MADE",
        lambda: ad.training.masked_log_prob(made().condition(), torch.zeros(4)),
        "p: expected no rule, since what it allows depends on the order, got "
        "Factorization((3,), Categorical(3), end=0); train p.with_rule(None)",
        lambda: ad.training.masked_log_prob(
            networks.Masked(
                ad.Factorization(3, fam.Categorical(3), end=0), hidden_features=4
            ).condition(),
            torch.zeros(3).long(),
        ),
        cause="This estimate scores blocks given any set of other blocks. Networks such as MADE "
        "predict only from earlier blocks, and the values that a rule allows depend on the order.",
        cure="Use `networks.Masked`, without a rule. For sequences with an end, maximize "
        "`p.log_prob(x)`, as `fit` does with `orderings=[network.factorization.ordering]`.",
    ),
    error(
        "hidden_features: expected a layer, or direct=True, got neither",
        lambda: made(hidden_features=(), direct=False),
        cause="The network has no hidden layers and no direct connections, so no block could "
        "depend on another.",
        cure="Add a hidden layer, or use `direct=True`.",
    ),
    error(
        "hidden_features: without direct connections every layer needs a unit for each of the "
        "3 distinct sets of dependencies, got (16, 2)",
        lambda: made(hidden_features=(16, 2), direct=False),
        cause="Each unit reads one set of earlier blocks. With fewer units than sets, some "
        "dependencies would be lost.",
        cure="Use wider layers, or `direct=True`.",
    ),
    error(
        "cell: expected one of ['gru', 'lstm', 'tanh'], got 'elman'",
        lambda: rnn(cell="elman"),
        "positions: expected one of ['learned', 'rotary'], got 'sine'",
        lambda: transformer(positions="sine"),
        cause="The cell or the kind of positions does not exist.",
        cure="Use one of the names that the message lists.",
    ),
    error(
        "heads: expected the number of heads to divide dim 16, got 3",
        lambda: transformer(heads=3),
        "heads: expected twice the number of heads to divide dim 15, got 3",
        lambda: transformer(positions="rotary", dim=15, heads=3),
        cause="Each head gets an equal share of `dim`. With rotary positions, this share must be "
        "even.",
        cure="Use a number of `heads` that divides `dim`, or half of `dim` with rotary positions.",
    ),
    error(
        "kernel_size: expected an odd number of at least 3, got 4",
        lambda: pixelcnn(kernel_size=4),
        "kernel_size: expected an odd number of at least 3, got 1",
        lambda: pixelcnn(kernel_size=1),
        "kernel_size: expected an integer of at least 2, got 1",
        lambda: wavenet(kernel_size=1),
        cause="The window of PixelCNN needs a center, so its size is odd. The window of WaveNet "
        "needs at least one earlier step.",
        cure="Use an odd number of at least 3 for PixelCNN, and a number of at least 2 for "
        "WaveNet.",
    ),
    error(
        "dilation: expected one for all or one for each of 2 layers, got (1, 2, 4)",
        lambda: pixelcnn(dilation=(1, 2, 4)),
        cause="The number of dilations differs from the number of layers.",
        cure="Use one number for all layers, or one for each layer.",
    ),
    error(
        "factorization: PixelCNN takes a two-dimensional grid of blocks, got one of shape (4,); "
        "Partition.along makes a block of the channels of a pixel",
        lambda: pixelcnn(ad.Factorization(4, NORMAL)),
        cause="PixelCNN uses neighborhoods on a two-dimensional grid.",
        cure="Partition an event (height, width, channels) with `Partition.along(0, 1)`. For "
        "sequences use WaveNet.",
    ),
    error(
        "factorization: PixelCNN takes blocks of one family, got Factorization((2, 2), "
        "[Normal(), Laplace(), Normal(), Laplace()])",
        lambda: pixelcnn(ad.Factorization((2, 2), [NORMAL, fam.Laplace()] * 2)),
        "factorization: Markov needs blocks of one family, since it has one map for all blocks, "
        "got Bernoulli() for column 'a' and Normal() for column 'b'",
        lambda: networks.Markov(COLUMNS, hidden_features=4),
        "factorization: FromModule needs blocks of one family, since it has one map for all "
        "blocks, got Bernoulli() for column 'a' and Normal() for column 'b'",
        lambda: networks.FromModule(nn.Identity(), COLUMNS),
        cause="The network uses the same map at all positions, so all blocks need the same family.",
        cure="Use MADE, Unshared, RNN or Transformer if the families differ.",
    ),
    error(
        "factorization: PixelCNN needs transitive dependencies, since a pixel reads the hidden "
        "states of those it depends on, got Ordering.from_graph(0, 0, 0, 1, 0, 0, 0, 1, ...)",
        lambda: pixelcnn(ad.Factorization((3, 1), NORMAL, ordering=CHAIN)),
        "factorization: Transformer needs transitive dependencies, since a token reads the hidden "
        "states of those it depends on, got Ordering.from_graph(0, 0, 0, 1, 0, 0, 0, 1, ...)",
        lambda: transformer(ad.Factorization(3, NORMAL, ordering=CHAIN)),
        cause="Each layer passes on the blocks that earlier layers have read, so a block would "
        "also depend on the ancestors of its parents.",
        cure="Use MADE or Unshared, which support any graph, or add the missing edges.",
    ),
    error(
        "factorization: RNN needs an order without ties, in which each block depends on all "
        "earlier blocks, got Ordering.from_ranks(0, 1, 1)",
        lambda: rnn(TIED),
        "factorization: WaveNet needs an order without ties, in which each block depends on all "
        "earlier blocks, got Ordering.from_ranks(0, 1, 1)",
        lambda: networks.WaveNet(TIED, channels=4, depth=2),
        "factorization: Markov needs an order without ties, in which each block depends on all "
        "earlier blocks, got Ordering.from_ranks(0, 1, 1)",
        lambda: networks.Markov(TIED, hidden_features=4),
        "factorization: FromModule needs an order without ties, in which each block depends on all "
        "earlier blocks, got Ordering.from_ranks(0, 1, 1)",
        lambda: networks.FromModule(nn.Identity(), TIED),
        cause="A network that reads one block after another cannot sample two blocks in one step "
        "or leave out a dependency.",
        cure="Use MADE, Unshared or Transformer for ties, and MADE or Unshared for graphs.",
    ),
    error(
        "context_kind: expected one of ['vector', 'blocks'], got 'sequence'",
        lambda: rnn(context_kind="sequence"),
        cause="The network does not take this kind of context.",
        cure="Use a kind that the message lists. Only Transformer takes sequences.",
    ),
    error(
        "context_shape: expected (C,) for a context of kind 'vector', got (2, 3)",
        lambda: made(context_shape=(2, 3)),
        "context_shape: expected (4, C) for a context of kind 'blocks', got (2, 5)",
        lambda: rnn(context_shape=(2, 5), context_kind="blocks"),
        "context_shape: expected (S, C) for a context of kind 'sequence', got (3,)",
        lambda: transformer(context_shape=(3,), context_kind="sequence"),
        "context_shape: expected (3, 3, C) for a context of kind 'blocks', got (6, 2, 3)",
        lambda: pixelcnn(context_shape=(6, 2, 3), context_kind="blocks"),
        cause="The shape of the context does not fit its kind.",
        cure="Use `(C,)` for a vector, `(*grid_shape, C)` for blocks and `(S, C)` for a sequence, "
        "without batch dimensions. Flatten other shapes.",
    ),
)

OWN_NETWORKS = (
    error(
        "ConditionalNetwork defines no hidden_states, which the default forward needs",
        lambda: networks.ConditionalNetwork(FOUR).condition().log_prob(torch.zeros(4)),
        "Wrong defines no hidden_states, which the default forward needs",
        lambda: Wrong(FOUR).hidden_states(torch.zeros(1, 4)),
        cause="A subclass of `ConditionalNetwork` defines neither `forward` nor `hidden_states`, "
        "or the missing `hidden_states` was called.",
        cure="Define `forward(self, blocks, context=None, ranks=None)`, which returns the "
        "parameters, or `hidden_states` with the same arguments and a module `head`.",
        kind=NotImplementedError,
    ),
    error(
        "network: Wrong returned parameters of shape (1, 4), expected (1, 4, 2)",
        lambda: Wrong(FOUR).condition().log_prob(torch.zeros(4)),
        cause="`forward` returned parameters of a shape that does not fit the families.",
        cure="Return `(N, *layout.param_shape)`: `num_params` numbers for each block, in raster "
        "order.",
    ),
    error(
        "network: expected a conditional network, got a module Linear",
        lambda: ad.AutoregressiveDistribution(nn.Linear(2, 2)),
        cause="The argument is not a network, or it is a module that does not contain one.",
        cure="Subclass `networks.ConditionalNetwork`, or wrap a causal module with "
        "`networks.FromModule`.",
    ),
    error(
        "network: expected evaluation mode, since a recorded step cannot switch dropout off, got "
        "a MADE in training mode; call network.eval()",
        lambda: ad.DrawStep(made()),
        cause="`DrawStep` and `export.write` record the network in its current mode, which is "
        "training mode.",
        cure="Call `network.eval()` first.",
    ),
    error(
        "factorization: expected a rule that does not read the context, which a recorded step does "
        "not keep, got ContextMask",
        lambda: ad.DrawStep(
            made().eval(), factorization=ad.Factorization(4, NORMAL, rule=ContextMask())
        ),
        cause="The rule of the factorization sets `reads_context`.",
        cure="Sample with `AutoregressiveDistribution.sample`.",
    ),
    error(
        "module: expected a Module, got <built-in function abs>",
        lambda: networks.FromModule(abs, SYMBOLS),
        "module: expected a Module, got <built-in function abs>",
        lambda: networks.Markov(FOUR, module=abs),
        cause="`FromModule` and `Markov` wrap modules. A function has no parameters to train.",
        cure="Call the function in the `forward` of a module.",
    ),
    error(
        "start: expected an integer, as blocks are, got 0.5",
        lambda: networks.FromModule(nn.Identity(), SYMBOLS, start=0.5),
        "start: expected a shape that broadcasts to a block (), got (2,)",
        lambda: networks.FromModule(nn.Identity(), FOUR, start=torch.zeros(2)),
        "start: expected an input of the module, got 3, and from the module: index out of range in "
        "self",
        lambda: (
            networks.FromModule(nn.Embedding(3, 3), SYMBOLS, start=3)
            .condition()
            .log_prob(torch.zeros(3, dtype=torch.int64))
        ),
        "mask: expected an input of the module, got 3, and from the module: index out of range in "
        "self",
        lambda: (
            networks.Masked.from_module(nn.Embedding(3, 3), SYMBOLS, mask=3)
            .condition()
            .log_prob(torch.zeros(3, dtype=torch.int64))
        ),
        cause="`start` (the first input of the module) or `mask` (the input for an unobserved "
        "block) is not a valid input. It is an index if blocks are symbols, and otherwise a "
        "number or vector.",
        cure="Pass an input of the shape and dtype of a block. For symbols, use an index that "
        "does not occur in the data, if the module has an embedding for it.",
    ),
    error(
        "module: expected outputs of shape (1, 3, 3), got (1, 3, 2)",
        lambda: (
            networks.FromModule(nn.Embedding(3, 2), SYMBOLS)
            .condition()
            .log_prob(torch.zeros(3, dtype=torch.int64))
        ),
        "module: expected outputs of shape (1, 4, 2), got (1, 4)",
        lambda: networks.FromModule(nn.Flatten(), FOUR).condition().log_prob(torch.zeros(4)),
        "module: expected parameters (rows, 2), got (8, 3) for 8 rows",
        lambda: networks.Markov(FOUR, module=Wide()).condition().log_prob(torch.zeros(2, 4)),
        "modules: expected the module for column 'b' to return shape (2, 2) for 2 rows, got (2, 4)",
        lambda: networks.Unshared(COLUMNS, modules={"a": None, "b": nn.Linear(1, 4)}),
        cause="The outputs of the module do not have the shape of the parameters of one "
        "conditional for each step.",
        cure="Let the last layer return `num_params` numbers in the last dimension, for each row "
        "and step.",
    ),
    error(
        "modules: expected a module for column 'b' that takes inputs of shape (rows, 1), got the "
        "error: mat1 and mat2 shapes cannot be multiplied (2x1 and 3x2)",
        lambda: networks.Unshared(COLUMNS, modules={"a": None, "b": nn.Linear(3, 2)}),
        cause="The module of a factor receives all blocks on which its block depends, but was "
        "built for another number of inputs.",
        cure="Use the input width that the message names, which includes the width of the context.",
    ),
    error(
        "module: expected no active dropout or batch norm in draws, got Dropout at '1'; call "
        ".eval() first",
        lambda: (
            networks.FromModule(nn.Sequential(nn.Linear(1, 2), nn.Dropout(0.5)), FOUR)
            .condition()
            .sample()
        ),
        cause="Dropout or batch norm would be active during sampling, so the samples would not "
        "follow the joint distribution.",
        cure="Call `network.eval()` before sampling, and `network.train()` after it.",
    ),
    error(
        "column: expected numbers, categories as 0, 1, ..., got 'nurse'",
        lambda: fam.auto("nurse"),
        "column: expected finite numbers, or NaN for missing ones, got infinity",
        lambda: fam.auto([1.0, float("inf")]),
        "column: expected finite numbers, or NaN for missing ones, got none",
        lambda: fam.auto([float("nan")]),
        cause="The column contains text or infinity, or only missing values.",
        cure="Replace infinity with NaN, and encode text with `pandas.factorize`, or use "
        "`TableDensity`, which also supports text and dates.",
    ),
    error(
        "hidden_features, modules: expected at most one of the two, got both",
        lambda: networks.Unshared(FOUR, modules=[None] * 4, hidden_features=()),
        "hidden_features, module: expected at most one of the two, got both",
        lambda: networks.Markov(FOUR, hidden_features=4, module=nn.Identity()),
        cause="The network either builds the modules from `hidden_features` or takes yours.",
        cure="Pass either `hidden_features` or modules.",
    ),
    error(
        "modules: expected one for each of the 4 blocks, got 2",
        lambda: networks.Unshared(FOUR, modules=[None, None]),
        "modules: expected ['a', 'b'], got ['a', 'b', 'c']",
        lambda: networks.Unshared(COLUMNS, modules={"a": None, "b": None, "c": None}),
        "modules: expected a sequence, since columns have no names, got ['a']",
        lambda: networks.Unshared(FOUR, modules={"a": None}),
        "modules: expected a module or None for column 'a', got 3",
        lambda: networks.Unshared(COLUMNS, modules={"a": 3, "b": None}),
        cause="The number or names of the modules differ from the blocks, or an item is not a "
        "module.",
        cure="Pass one module for each block, or `None` for a block without dependencies. Pass a "
        "dict only for named columns.",
    ),
    error(
        "blocks: expected blocks of whole steps from the first, which end at 1, 2, 3, 4, ..., "
        "got 9 after 0 steps",
        lambda: made().decoder(2).prefill(torch.zeros(2, 9)),
        cause="A decoder takes the blocks of whole steps, and takes a prefix only before its "
        "first step.",
        cure="Call `prefill` once, with the blocks of the first steps.",
    ),
    error(
        "_TransformerDecoder evaluates one step at a time",
        lambda: transformer().decoder(2).window(2),
        cause="The decoder cannot evaluate several steps at once.",
        cure="Check `max_window` first, and call `step`.",
        kind=NotImplementedError,
    ),
)

OTHER_FACTORIZATIONS = (
    error(
        "factorization: MADE was built for Factorization((4,), Normal()), got "
        "Factorization((5,), Normal())",
        lambda: ad.AutoregressiveDistribution(made(), factorization=ad.Factorization(5, NORMAL)),
        "factorization: MADE was built for Factorization((3,), Bernoulli()), got "
        "Factorization((3,), Normal())",
        lambda: p(BITS).with_families(NORMAL),
        "factorization: MADE was built for Factorization((4,), Normal()), got "
        "Factorization((5,), Normal())",
        lambda: made().decoder(2, factorization=ad.Factorization(5, NORMAL)),
        "factorization: MADE was built for Factorization((4,), Normal()), got "
        "Factorization((5,), Normal())",
        lambda: ad.DrawStep(made().eval(), factorization=ad.Factorization(5, NORMAL)),
        "factorization: Transformer was built for Factorization((3,), Bernoulli()), got "
        "Factorization((2, 3), Categorical(3))",
        lambda: ad.AutoregressiveDistribution(
            transformer(), factorization=ad.Factorization((2, 3), fam.Categorical(3))
        ),
        cause="The network was built for other blocks, families or dependencies.",
        cure="Build a network for this factorization.",
    ),
    error(
        "factorization: RNN was trained in the order Ordering.raster(), got "
        "Factorization((5,), Normal(), ordering=Ordering.reverse())",
        lambda: ad.AutoregressiveDistribution(
            rnn(), factorization=ad.Factorization(5, NORMAL, ordering=ad.Ordering.reverse())
        ),
        "factorization: Transformer with any_order=False was trained in the order "
        "Ordering.raster(), got Factorization((3,), Bernoulli(), ordering=Ordering.reverse())",
        lambda: transformer(any_order=False).condition().with_ordering(ad.Ordering.reverse()),
        cause="The network supports only the order in which it was trained.",
        cure="Use that order, or train a Transformer with `any_order=True`, its default.",
    ),
    error(
        "factorization: Transformer with learned positions was built for Factorization((3,), "
        "Bernoulli()), got Factorization((7,), Bernoulli())",
        lambda: ad.AutoregressiveDistribution(
            transformer(), factorization=ad.Factorization(7, fam.Bernoulli())
        ),
        cause="The Transformer has a learned vector for each position, and this event has "
        "different positions.",
        cure="Build the network with `positions='rotary'`, which supports any length.",
    ),
    error(
        "factorization: Markov with stationary=False was built for Factorization((4,), Normal()), "
        "got Factorization((5,), Normal())",
        lambda: networks.Markov(FOUR, window=1).condition(
            factorization=ad.Factorization(5, NORMAL)
        ),
        cause="The network reads the number of the step, and this event has a different number of "
        "steps.",
        cure="Build the network with `stationary=True`, which supports any length.",
    ),
    error(
        "factorization: RNN with context_kind='blocks' was built for Factorization((4,), "
        "Normal()), got Factorization((5,), Normal())",
        lambda: rnn(context_shape=(4, 2), context_kind="blocks").condition(
            torch.zeros(4, 2), factorization=ad.Factorization(5, NORMAL)
        ),
        "factorization: Transformer with context_kind='blocks' was built for Factorization((3,), "
        "Bernoulli()), got Factorization((5,), Bernoulli())",
        lambda: transformer(
            positions="rotary", context_shape=(3, 2), context_kind="blocks"
        ).condition(torch.zeros(3, 2), factorization=ad.Factorization(5, fam.Bernoulli())),
        cause="The context has a vector for each block of the factorization of the network, and "
        "this event has different blocks.",
        cure="Build a network for this factorization, and load the weights into it: "
        "`other.load_state_dict(network.state_dict())`.",
    ),
    error(
        "factorization: Transformer was built without ties, and supports orders without ties only, "
        "got Factorization((3,), Bernoulli(), ordering=Ordering.from_ranks(0, 1, 1))",
        lambda: transformer().condition().with_ordering(ad.Ordering.from_ranks([0, 1, 1])),
        cause="The Transformer was built without ties and samples one block per step.",
        cure="Build the network for a factorization with ties. It then supports orders with and "
        "without ties.",
    ),
    error(
        "factorization: Transformer takes another order as ranks, which cannot express a graph, "
        "got Factorization((3,), Bernoulli(), ordering=Ordering.from_graph(0, 0, 0, 1, 0, 0, 0, "
        "0, ...))",
        lambda: (
            transformer(BITS.with_ordering(ad.Ordering.from_ranks([0, 0, 1])))
            .condition()
            .with_ordering(ad.Ordering.from_graph([[0, 0, 0], [1, 0, 0], [0, 0, 0]]))
        ),
        cause="The Transformer takes another order as ranks, and ranks cannot express the missing "
        "edges of a graph.",
        cure="Build the network for the graph.",
    ),
    error(
        "ordering: MADE has one order for all rows, got ranks (2, 4)",
        lambda: p().with_ordering(torch.arange(4).expand(2, 4)),
        "ranks: MADE draws all rows in one order, got (2, 4)",
        lambda: made().decoder(2, ranks=torch.arange(4).expand(2, 4)),
        cause="The network uses one order for all rows.",
        cure="Use one order at a time, or use Masked or Transformer.",
    ),
    error(
        "ranks: expected one order for all rows, since the blocks differ in family, got (2, 2)",
        lambda: transformer(COLUMNS).decoder(2, ranks=torch.tensor([[0, 1], [1, 0]])),
        "ranks: expected no ties if each row has its own order, got ties",
        lambda: transformer().decoder(2, ranks=torch.tensor([[0, 1, 1], [2, 1, 0]])),
        cause="The cached decoder cannot use a different order for each row if the families "
        "differ or if there are ties.",
        cure="Call `sample`, which then uses whole passes, or use one order for all rows.",
    ),
    error(
        "state_dict: made for another factorization; families is Laplace(), here Normal()",
        lambda: made().load_state_dict(made(ad.Factorization(4, fam.Laplace())).state_dict()),
        "state_dict: made for another factorization; ordering is Ordering.reverse(), here "
        "Ordering.raster()",
        lambda: rnn().load_state_dict(
            rnn(ad.Factorization(4, NORMAL, ordering=ad.Ordering.reverse())).state_dict()
        ),
        cause="The weights were saved from a network with a different order, partition, family or "
        "option.",
        cure="Load the weights into a network that was built like the saved network.",
    ),
)

CONTEXTS = (
    error(
        "context: expected (N, 3) with an N that divides num_rows 4, got (3, 3)",
        lambda: ad.DrawStep(made(context_shape=(3,)).eval()).start(4, torch.zeros(3, 3)),
        "context: expected (N, 3) with an N that divides batch_size 4, got (0, 3)",
        lambda: made(context_shape=(3,)).decoder(4, torch.zeros(0, 3)),
        "context: expected (N, 3) with an N that divides batch_size 5, got (2, 3)",
        lambda: testing.check_decoder(made(context_shape=(3,)), torch.zeros(2, 3), batch_size=5),
        cause="The rows of a sample cannot be divided evenly among the contexts.",
        cure="Pass one context for each row, or a number of rows that is a multiple of the number "
        "of contexts.",
    ),
    error(
        "context: expected (*batch_shape, 3), got none; the network was built with "
        "context_shape (3,)",
        lambda: made(context_shape=(3,)).condition(),
        "context: expected (*batch_shape, 3), got none; the network was built with context_shape "
        "(3,)",
        lambda: transforms.AutoregressiveTransform(made(context_shape=(3,))),
        cause="The network needs a context and received none.",
        cure="Call `network.condition(context)`.",
    ),
    error(
        "context: expected none, since the network was built with context_shape (), got (3,)",
        lambda: made().condition(torch.zeros(3)),
        cause="The network takes no context and received one.",
        cure="Build the network with `context_shape=`, or call `condition()` without a context.",
    ),
    error(
        "context: expected a tensor, got float",
        lambda: made(context_shape=(3,)).condition(3.0),
        cause="The context is not a tensor.",
        cure="Convert it with `torch.as_tensor`.",
    ),
    error(
        "context: expected (*batch_shape, 3), got (5, 2)",
        lambda: bound(5, 2),
        "context: expected (*batch_shape, 3), got (5,); "
        "torch.nn.functional.one_hot(labels).float() makes vectors",
        lambda: made(context_shape=(3,)).condition(torch.zeros(5, dtype=torch.int64)),
        cause="The last dimensions of the context differ from `context_shape`.",
        cure="Pass a context of shape `(*batch_shape, *context_shape)`.",
    ),
    error(
        "context: expected finite numbers, got NaN or infinity in 15 of 15",
        lambda: made(context_shape=(3,)).condition(torch.full((5, 3), torch.nan)),
        "context: expected finite numbers, got NaN or infinity in 1 of 3",
        lambda: made(context_shape=(3,)).condition(torch.tensor([0.0, torch.inf, 1.0])),
        cause="The context contains NaN or infinity, so the parameters would be NaN.",
        cure="Replace missing features, and add a feature that marks the missing ones.",
    ),
    error(
        "context: expected a tensor on cpu, as the network, got meta",
        lambda: bound(5, 3, device="meta"),
        "value: expected a tensor on cpu, as the network, got meta",
        lambda: p().log_prob(torch.zeros(4, device="meta")),
        cause="The tensor and the network are on different devices.",
        cure="Move one of them with `.to(device)`.",
    ),
    error(
        "context: expected dtype torch.float32, as the network, got torch.float64; "
        "context.to(torch.float32) converts it",
        lambda: bound(5, 3, dtype=torch.float64),
        "value: expected dtype torch.float32, as the network, got torch.float64; "
        "value.to(torch.float32) converts it",
        lambda: p().log_prob(torch.zeros(4).double()),
        "z: expected dtype torch.float32, as the network, got torch.float64; z.to(torch.float32) "
        "converts it",
        lambda: transforms.AutoregressiveTransform(made())(torch.zeros(4).double()),
        "params['direct.weight']: expected dtype torch.float32, as the network, got "
        "torch.float64; params['direct.weight'].to(torch.float32) converts it",
        lambda: made().condition(params={"direct.weight": torch.zeros(8, 4).double()}),
        cause="The tensor and the network have different dtypes.",
        cure="Convert the tensor as the message says, or the network with `.double()`.",
    ),
    error(
        "network: expected one that ends with linear maps, such as MADE, got Wrong",
        lambda: Wrong(FOUR).start_at(torch.zeros(5, 4)),
        cause="`start_at` sets the last linear layer, and this network does not declare one.",
        cure="Name the last linear layer of your network `head`, or define `output_maps`.",
    ),
    error(
        "x: expected at least one event, got (0, 4)",
        lambda: made().start_at(torch.zeros(0, 4)),
        cause="`x` has no events, so it has no marginals.",
        cure="Pass the training events.",
    ),
    error(
        "x: expected values inside the support, or NaN for missing ones, got 1 blocks outside",
        lambda: made(BITS).start_at(torch.tensor([[0.0, 1.0, 2.0]])),
        cause="The data contains values outside the support of the families.",
        cure="Choose families with the support of the data, or correct the data.",
    ),
    error(
        "chunk_size: expected none for MADE, which has no hidden states that give the parameters "
        "of some of the blocks, got 16",
        lambda: made().condition(chunk_size=16),
        cause="The network computes the parameters of all blocks together.",
        cure="Omit `chunk_size`, or use an `RNN`, a `Transformer`, a `WaveNet` or a `PixelCNN`.",
    ),
    error(
        "chunk_size: expected none for a wrapped network, whose wrapper would not be called, got "
        "16; wrap LogLikelihood(network, chunk_size=...) instead",
        lambda: ad.AutoregressiveDistribution(nn.DataParallel(rnn()), chunk_size=16),
        cause="Scoring in chunks calls parts of the network directly and would bypass a wrapper "
        "such as DDP.",
        cure="Wrap `LogLikelihood(network, chunk_size=...)`.",
    ),
    error(
        "params: MADE has no parameters ['x']",
        lambda: made().condition(params={"x": torch.zeros(1)}),
        cause="`params` names a parameter that the network does not have.",
        cure="Use the names that `network.named_parameters()` returns.",
    ),
    error(
        "params: expected 'direct.weight' of shape (8, 4), as in MADE, got (3, 4, 4); for "
        "several networks at once use torch.func.vmap, and in Pyro vectorize_particles=False "
        "or parallel=False",
        lambda: made().condition(params={"direct.weight": torch.zeros(3, 4, 4)}),
        cause="A parameter differs in shape from the parameter of the network, often because it "
        "contains the weights of several networks.",
        cure="Pass the parameters of one network. Use `torch.func.vmap` for several.",
    ),
    error(
        "nan_policy: expected one of ['raise', 'marginalize'], got 'omit'",
        lambda: ad.AutoregressiveDistribution(made(), nan_policy="omit"),
        cause="Missing values either raise an error or are marginalized. There is no other policy.",
        cure="Use `'raise'` or `'marginalize'`.",
    ),
    error(
        "batch_shape: (2,) cannot be expanded to (3,)",
        lambda: p().expand((2,)).expand((3,)),
        "batch_shape: (2,) cannot be expanded to (3,)",
        lambda: ad.OrderingMixture(transformer(), [ad.Ordering.raster()]).expand((2,)).expand((3,)),
        cause="A batch dimension whose size is not 1 cannot be expanded.",
        cure="Expand only dimensions of size 1, or add dimensions in front.",
    ),
)

VALUES = (
    error(
        "value: expected a tensor, got float",
        lambda: p().log_prob(3.0),
        "mask: expected a tensor, got list",
        lambda: p(BITS).given(torch.zeros(3), [True, False, False]),
        "ordering: expected a tensor, got list",
        lambda: p(BITS).with_ordering([2, 1, 0]),
        cause="The value, mask or ranks are not a tensor. An ordering is an `Ordering` or a "
        "tensor of ranks.",
        cure="Convert it with `torch.as_tensor`: a value in the dtype of the network, a mask to "
        "bool, ranks to int64.",
    ),
    error(
        "value: expected (*lead, 4) whose lead broadcasts with batch_shape (), got (7, 3)",
        lambda: p().log_prob(torch.zeros(7, 3)),
        "value: expected (*lead, 4) whose lead broadcasts with batch_shape (), got ()",
        lambda: p().log_prob(torch.zeros(())),
        "x: expected (*lead, 4) whose lead broadcasts with batch_shape (), got (5, 2)",
        lambda: information.calibration(p(), torch.zeros(5, 2)),
        "value: expected (*lead, 4) whose lead broadcasts with batch_shape (), got (3,)",
        lambda: p().given(torch.zeros(3), torch.ones(4).bool()),
        cause="The last dimensions of the value differ from the event shape.",
        cure="Put sample and batch dimensions first: sample_shape + batch_shape + event_shape.",
    ),
    error(
        "draws: expected at least two in the first dimension, got (1, 4)",
        lambda: information.crps(torch.zeros(1, 4), torch.zeros(4)),
        cause="The spread of a forecast is estimated from pairs of samples, so at least two are "
        "needed.",
        cure="Pass `p.sample((1000,))`, with the samples in the first dimension.",
    ),
    error(
        "draws, x: expected (num_draws, *shape) and a shape that broadcasts with it, got (9, 4) "
        "and (3,)",
        lambda: information.crps(torch.zeros(9, 4), torch.zeros(3)),
        cause="The shape of the observed values differs from the shape of a sample.",
        cure="Pass observed values with the shape of one sample.",
    ),
    error(
        "value: expected (*lead, 4) whose lead broadcasts with batch_shape (5,), got (3, 4)",
        lambda: bound(5, 3).log_prob(torch.zeros(3, 4)),
        cause="The events do not broadcast with the batch of contexts.",
        cure="Pass one event for each context, or add a leading dimension.",
    ),
    error(
        "value: expected block (2,) inside the support Real() of Normal(), got [nan]; for "
        'log_prob, nan_policy="marginalize" takes NaN as missing',
        lambda: p().log_prob(torch.tensor([0.0, 1.0, torch.nan, 0.0])),
        "value: expected block (2,) inside the support IntegerInterval(lower_bound=0, "
        "upper_bound=2) of Categorical(3), got [3]",
        lambda: p(SYMBOLS).log_prob(torch.tensor([0, 1, 3])),
        "value: expected block (1,) inside the support IntegerInterval(lower_bound=0, "
        "upper_bound=2) of Categorical(3), got [0.5]",
        lambda: p(SYMBOLS).log_prob(torch.tensor([0, 0.5, 1])),
        "value: expected block (0,) inside the support Boolean() of Bernoulli(), got [0.5]",
        lambda: p(BITS).log_prob(torch.full((2, 3), 0.5)),
        "value: expected column 'b' inside the support GreaterThan(lower_bound=0.0) of "
        "Gamma(), got [-1.0]",
        lambda: p(ad.Factorization.columns(a=NORMAL, b=fam.Gamma())).log_prob(
            torch.tensor([1.0, -1.0])
        ),
        cause="A value is outside the support of its family, for example NaN, a category that "
        "does not exist, a fraction for a bit, or a negative number for a scale.",
        cure="Clean the data, use a family with that support, or use `nan_policy='marginalize'` "
        "for missing values.",
    ),
    error(
        "value: expected finite numbers under the mask, got -inf, which cannot be conditioned on",
        lambda: p().given(torch.full((4,), -torch.inf), torch.tensor([True, False, False, False])),
        cause="An observed value is infinite, which has probability zero.",
        cure="Clean the data, or exclude the element from the mask.",
    ),
    error(
        "value: expected no other values of elements that are observed already, got 1",
        lambda: p(BITS).given(torch.zeros(3), FIRST).given(torch.ones(3), FIRST),
        cause="An element was observed before with another value, so the evidence is impossible.",
        cure="Observe each element once, or start again from the distribution without evidence.",
    ),
    error(
        "value: expected pad 0 in block (1,), which comes after the end 1, got 2",
        lambda: p(ad.Factorization(3, fam.Categorical(3), end=1, pad=0)).log_prob(
            torch.tensor([1, 2, 0])
        ),
        cause="A value after the end of a sequence is not the padding.",
        cure="Fill the blocks after the end with `Factorization.pad`.",
    ),
)

CONDITIONING = (
    error(
        "mask: expected dtype torch.bool, got torch.float32",
        lambda: p(BITS).given(torch.zeros(3), torch.zeros(3)),
        "mask: expected (*lead, 3) whose lead broadcasts with batch_shape (), got (2,)",
        lambda: p(BITS).given(torch.zeros(3), torch.ones(2).bool()),
        cause="The mask is not a bool tensor, or its last dimensions differ from the event shape.",
        cure="Use a bool tensor whose last dimensions are `event_shape`, with True for each "
        "chosen element.",
    ),
    error(
        "mask: expected (*lead, 3) whose lead broadcasts with batch_shape (2,), got (5, 3)",
        lambda: p(BITS).expand((2,)).given(torch.zeros(3), torch.ones(5, 3).bool()),
        cause="The masks do not broadcast with the batch of contexts.",
        cure="Use one mask for all contexts, or one mask for each context.",
    ),
    error(
        "mask: expected (3,) with an element to keep, got (3,) with 0",
        lambda: p(BITS).marginal(torch.zeros(3).bool()),
        "mask: expected (3,) with an element to keep, got (2, 3) with 6",
        lambda: p(BITS).marginal(torch.ones(2, 3).bool()),
        cause="A marginal keeps the same elements in all rows, and at least one.",
        cure="Use one mask of the shape of the event. If rows differ, use `given` or NaN.",
    ),
    error(
        "mask: blocks under it depend on others in the order Ordering.raster(), and the order "
        "that puts them first is refused: factorization: MADE was built for "
        "Factorization((3,), Bernoulli()), got Factorization((3,), Bernoulli(), "
        "ordering=Ordering.from_ranks(1, 0, 2)); Masked and Transformer follow any order",
        lambda: p(BITS).marginal(torch.tensor([False, True, False])),
        cause="A block under the mask depends on a block that is not, so the result has no closed "
        "form in this order. The network does not support an order in which the blocks under the "
        "mask come first.",
        cure="Choose a prefix of the order, build the network for an order that begins with these "
        "blocks, or train a Transformer for any order.",
    ),
    error(
        "mask: expected whole blocks if other blocks depend on them, got parts of block (0,), "
        "block (1,)",
        lambda: (
            transformer(BIT_PAIRS)
            .condition()
            .given(torch.zeros(2, 2), torch.tensor([[True, False], [True, False]]))
        ),
        "mask: expected whole blocks if other blocks depend on them, got parts of block (0,)",
        lambda: (
            transformer(BIT_PAIRS)
            .condition()
            .given(torch.zeros(2, 2), CUT)
            .marginal(torch.tensor([[False, False], [True, True]]))
        ),
        cause="A block is only partially observed, and later blocks depend on all of it.",
        cure="Observe whole blocks, or partition the event into scalars.",
    ),
    error(
        "mask: expected whole blocks, since OneHotCategorical(3) cannot be conditioned on a "
        "part of its block, got 1 of 3 elements",
        lambda: p(
            ad.Factorization((1, 3), fam.OneHotCategorical(3), partition=ad.Partition.along(0))
        ).given(torch.eye(3)[:1], FIRST.unsqueeze(0)),
        cause="The family cannot condition on a part of its block.",
        cure="Observe the whole block, or use Independent, Nested or MultivariateNormal.",
    ),
    error(
        "mask: expected all of block (0,) or a part that Nested(Transformer, Factorization((2,), "
        "Bernoulli())) draws first, got 1 of its 2 elements",
        lambda: p(
            ad.Factorization(
                (2, 2),
                fam.Nested(transformer(ad.Factorization(2, fam.Bernoulli()), context_shape=(3,))),
                partition=ad.Partition.along(0),
            )
        ).marginal(torch.tensor([[False, True], [False, False]])),
        "mask: expected a whole block, or elements that come first in the order of "
        "Nested(Transformer, Factorization((2,), Bernoulli())), got elements that come first "
        "only in another order of its network",
        lambda: (
            made(
                ad.Factorization(
                    (1, 2),
                    fam.Nested(
                        transformer(ad.Factorization(2, fam.Bernoulli()), context_shape=(3,))
                    ),
                    partition=ad.Partition.along(0),
                )
            )
            .condition(nan_policy="marginalize")
            .log_prob(torch.tensor([[torch.nan, 1.0]]))
        ),
        cause="The inner network supports any order, so it would score this part in one order and "
        "sample it in another.",
        cure="Keep whole blocks, or the elements that come first in the inner order.",
    ),
    error(
        "ordering: expected (*lead, 3) whose lead broadcasts with batch_shape (), got (2,)",
        lambda: p(BITS).with_ordering(torch.zeros(2).long()),
        "ordering: expected integers, got torch.float32",
        lambda: transformer().condition().with_ordering(torch.zeros(2, 3)),
        cause="Ranks are one integer for each block, with optional leading dimensions for rows.",
        cure="Use int64 ranks of shape `(*lead, *grid_shape)`.",
    ),
    error(
        "ordering: Transformer was built without ties, and supports orders without ties only, got "
        "Factorization((3,), Bernoulli(), ordering=Ordering.from_ranks(0, 0, 1))",
        lambda: transformer().condition().with_ordering(torch.tensor([[0, 0, 1], [0, 1, 2]])),
        cause="The order of a row has ties, and the network was built without ties.",
        cure="Break the ties, or build the network for a factorization with ties.",
    ),
)

GRADIENTS = (
    error(
        "rsample: no gradients through draws of [Bernoulli()]; has_rsample_(True) asks for "
        "gradients of the other blocks",
        lambda: p(BITS).rsample(),
        cause="Samples of a discrete family, or of a family without a differentiable CDF, have no "
        "gradient.",
        cure="Use `Relaxed` or the score function. `has_rsample_(True)` enables gradients through "
        "the other blocks.",
        kind=NotImplementedError,
    ),
    error(
        "rsample: no gradients through block (0,), observed in part",
        lambda: (
            p(ad.Factorization((1, 3), fam.MultivariateNormal(3), partition=ad.Partition.along(0)))
            .given(torch.zeros(1, 3), FIRST.unsqueeze(0))
            .rsample()
        ),
        cause="The unobserved part of a partially observed block is sampled without gradients.",
        cure="Observe whole blocks.",
        kind=NotImplementedError,
    ),
    error(
        "rsample: a draw is differentiable once; its second derivative, which "
        "create_graph=True asks for, would be wrong",
        twice,
        cause="The gradient of a sample is computed implicitly and has no second derivative.",
        cure="Differentiate `log_prob`, which has derivatives of any order, or sample again. "
        "torch's fused attention has first derivatives only: call a Transformer under "
        "`torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`.",
        kind=RuntimeError,
    ),
    error(
        "mean: has no closed form; p.sample((1000,)).mean(0) estimates it",
        lambda: p().mean,
        "variance: has no closed form; p.sample((1000,)).var(0) estimates it",
        lambda: p().variance,
        cause="The moments and the entropy of a joint have no closed form.",
        cure="Estimate them from samples. `information.entropy` also returns a standard error.",
        kind=NotImplementedError,
    ),
    error(
        "mode: expected blocks with a finite set of states, got [Normal()]; the likeliest of some "
        "draws is x[p.log_prob(x).argmax(0)] with x = p.sample((1000,))",
        lambda: p().mode,
        cause="`mode` chooses the most likely state of each block, and some blocks do not have a "
        "finite set of states.",
        cure="Use the most likely of many samples, or maximize `log_prob` with gradients.",
        kind=NotImplementedError,
    ),
    error(
        "enumerate_support: expected at most 4096 states, got infinitely many",
        lambda: p().enumerate_support(),
        "enumerate_support: expected at most 4096 states, got 8192",
        lambda: p(ad.Factorization(13, fam.Bernoulli())).enumerate_support(),
        cause="The event has too many states to enumerate, or infinitely many.",
        cure="Estimate the quantity from samples, as `information.entropy` does.",
        kind=NotImplementedError,
    ),
)

SAMPLING = (
    error(
        "p: expected an AutoregressiveDistribution, got Normal(loc: 0.0, scale: 1.0)",
        lambda: sampling.greedy(dist.Normal(0.0, 1.0)),
        "p: expected an AutoregressiveDistribution, got Normal(loc: 0.0, scale: 1.0)",
        lambda: sampling.smc(dist.Normal(0.0, 1.0), rules.Sum(1), 10),
        cause="The samplers need the steps of an autoregressive joint, which other distributions "
        "do not have.",
        cure="Pass the autoregressive distribution itself, not a wrapper such as `.to_event` or "
        "`.mask`.",
    ),
    error(
        "p: expected blocks with a finite set of states, got [Normal()]",
        lambda: sampling.beam_search(p(), 2),
        "p: expected blocks with a finite set of states, got [Normal()]",
        lambda: sampling.greedy(p()),
        "p: expected blocks with a finite set of states, got [Normal()]",
        lambda: sampling.without_replacement(p(), 2),
        cause="Search compares the states of each block, and some blocks do not have a finite set "
        "of states.",
        cure="Use search only if all families are finite and discrete. Otherwise, sample and "
        "compare.",
    ),
    error(
        "rule: expected a Rule, got 1",
        lambda: sampling.smc(p(BITS), 1, 10),
        "threshold: expected one within [0, 1], got 2",
        lambda: sampling.smc(p(BITS), rules.Sum(1), 10, threshold=2),
        cause="`rule` is not a rule of `ardist.rules`, or `threshold`, a share of the particles, "
        "is outside [0, 1].",
        cure="Use a rule, and a threshold from 0 (never resample) to 1.",
    ),
    error(
        "rule: expected intervals of Normal() that have a probability, got a number under "
        "Within(b=(1.0, 1.0)); p.given(value, mask) conditions on it",
        lambda: sampling.smc(p(COLUMNS), rules.Within(b=(1.0, 1.0)), 10),
        cause="A continuous block equals a given number with probability zero.",
        cure="Condition on the number with `p.given(value, mask)`, and pass the result to `smc`.",
    ),
    error(
        "p: expected no block observed in part, got block (0,)",
        lambda: sampling.smc(cut(), rules.Automaton.walk(torch.ones(4, 4)), 10),
        cause="`smc` weights whole blocks, and this block is only partially observed.",
        cure="Observe the whole block, or partition the event into smaller blocks.",
    ),
    error(
        "p: expected one order for all rows, since Within(a=(0, None)) limits some blocks, got "
        "ranks of shape (20, 2)",
        lambda: sampling.smc(
            transformer(ad.Factorization.columns(a=NORMAL, b=NORMAL))
            .condition()
            .with_ordering(torch.tensor([[0, 1], [1, 0]])),
            rules.Within(a=(0, None)),
            10,
        ),
        cause="The rows have different orders, so one step samples different blocks in different "
        "rows, and the rule limits only some of these blocks.",
        cure="Use one order for all rows: call `smc` once for each order.",
    ),
    error(
        "p: expected families that draw from noise of their own, got [Gamma()]",
        lambda: sampling.fixed_point(p(ad.Factorization(2, fam.Gamma()))),
        cause="Fixed-point iteration samples the noise first, but this family has no noise that "
        "is independent of its parameters.",
        cure="Use `p.sample()` or `sampling.ancestral`.",
    ),
    error(
        "p: expected no block observed in part, since such draws have no noise, got block (0,)",
        lambda: sampling.fixed_point(cut()),
        cause="The unobserved part of a partially observed block is not a function of separate "
        "noise.",
        cure="Observe whole blocks, or use `sampling.ancestral`.",
    ),
    error(
        "tol: expected a number of at least 0, got -1.0",
        lambda: sampling.fixed_point(p(), tol=-1.0),
        cause="The tolerance is negative.",
        cure="Use 0 for the exact sample, or a small positive number.",
    ),
    error(
        "p: expected one order for all rows, where blocks differ in family or are tied, got "
        "ranks of shape (2, 3)",
        lambda: sampling.greedy(
            transformer(BITS.with_ordering(ad.Ordering.from_ranks([0, 1, 1])))
            .condition()
            .with_ordering(torch.tensor([[0, 1, 1], [1, 0, 1]]))
        ),
        cause="Rows with different orders would take different numbers of steps, or have "
        "different families in one step.",
        cure="Use `p.sample()`, or search the rows of one order at a time.",
    ),
)

MIXTURES = (
    error(
        "mixing: expected a Categorical, got a tensor of shape (2,), torch.float32 on cpu",
        lambda: ad.Mixture(torch.ones(2), [p(), p()]),
        cause="The weights of a mixture are not a categorical distribution.",
        cure="Pass `torch.distributions.Categorical`, with probs or logits.",
    ),
    error(
        "components: expected a sequence that is not empty, got []",
        lambda: ad.Mixture(dist.Categorical(torch.ones(1)), []),
        "orderings: expected a sequence that is not empty, got []",
        lambda: ad.OrderingMixture(transformer(), []),
        "orderings: expected a sequence that is not empty, got Ordering.raster()",
        lambda: ad.OrderingMixture(transformer(), ad.Ordering.raster()),
        cause="The components or orderings are not a list or tuple, or the list is empty.",
        cure="Pass a list or tuple with at least one component or ordering.",
    ),
    error(
        "components[0]: expected a Distribution, got 3",
        lambda: ad.Mixture(dist.Categorical(torch.ones(1)), [3]),
        "orderings[1]: expected an Ordering, got 3",
        lambda: ad.OrderingMixture(transformer(), [ad.Ordering.raster(), 3]),
        cause="An item of the list is not a distribution or not an ordering.",
        cure="Condition networks first: `network.condition(context)`. Pass orderings such as "
        "`Ordering.raster()`.",
    ),
    error(
        "components: expected 3, one for each weight of mixing, got 2",
        lambda: ad.Mixture(dist.Categorical(torch.ones(3)), [p(), p()]),
        cause="The number of components differs from the number of weights.",
        cure="Pass as many components as the last dimension of the weights.",
    ),
    error(
        "components[1]: expected the event_shape (4,) of the first component, got (3,)",
        lambda: ad.Mixture(dist.Categorical(torch.ones(2)), [p(), p(ad.Factorization(3, NORMAL))]),
        "components[1]: expected the support IndependentConstraint(Real(), 1) of the first "
        "component, got IndependentConstraint(GreaterThan(lower_bound=0.0), 1)",
        lambda: ad.Mixture(
            dist.Categorical(torch.ones(2)), [p(), p(ad.Factorization(4, fam.Gamma()))]
        ),
        "components: expected batch_shapes that broadcast with the batch_shape () of mixing, got "
        "[(2,), (3,)]",
        lambda: ad.Mixture(dist.Categorical(torch.ones(2)), [p().expand((2,)), p().expand((3,))]),
        cause="The components have different event shapes, supports or batch shapes.",
        cure="Mix distributions over the same events, and expand them to one batch shape.",
    ),
    error(
        "orderings[1]: factorization: Transformer was built without ties, and supports orders "
        "without ties only, got Factorization((3, 3), Bernoulli(), "
        "ordering=Ordering.checkerboard())",
        lambda: ad.OrderingMixture(
            transformer(IMAGE), [ad.Ordering.raster(), ad.Ordering.checkerboard()]
        ),
        cause="The network does not support one of the orderings. The rest of the message says "
        "why.",
        cure="Remove this ordering, or use a network that supports it.",
    ),
    error(
        "rsample: no gradients through draws of [AutoregressiveDistribution(MADE, "
        "batch_shape=(), event_shape=(3,))]",
        lambda: ad.Mixture(dist.Categorical(torch.ones(1)), [p(BITS)]).rsample(),
        "rsample: no gradients through draws to the weights, which require them; detach them, "
        "or leave the gradient to the score function",
        lambda: ad.Mixture(dist.Categorical(torch.ones(1, requires_grad=True)), [p()]).rsample(),
        cause="The samples of a component, or the choice of a component, have no gradients.",
        cure="Use components with `rsample`. Train the weights through `log_prob`, or detach them.",
        kind=NotImplementedError,
    ),
    error(
        "components[0]: expected an AutoregressiveDistribution, or a Mixture or Marginal of those, "
        "which condition on parts of an event, got "
        "Independent(Normal(loc: torch.Size([4]), scale: torch.Size([4])), 1)",
        lambda: mixture(dist.Normal(torch.zeros(4), 1.0).to_event(1)).marginal(torch.ones(4) > 0),
        cause="Other distributions have no `given` and no `marginal`.",
        cure="Mix autoregressive distributions.",
    ),
    error(
        "value: expected elements under the mask that a component can have, got 1 of 1 that none "
        "can",
        lambda: mixture(
            made(ad.Factorization(2, fam.Categorical(2), rule=rules.Distinct())).condition(
                validate_args=False
            )
        ).given(torch.ones(2), torch.ones(2) > 0),
        cause="The observed elements have probability zero under all components, so the "
        "conditional distribution does not exist.",
        cure="Observe values that at least one component can have.",
    ),
)

INFORMATION = (
    error(
        "p: expected an AutoregressiveDistribution, got Normal(loc: 0.0, scale: 1.0); with x = "
        "p.sample((1000,)), -p.log_prob(x).mean(0) estimates it for others, such as a Mixture",
        lambda: information.entropy(dist.Normal(0.0, 1.0)),
        "p: expected an AutoregressiveDistribution, got Normal(loc: 0.0, scale: 1.0); with x = "
        "p.sample((1000,)), (p.log_prob(x) - q.log_prob(x)).mean(0) estimates it for others, such "
        "as a Mixture",
        lambda: information.kl_divergence(dist.Normal(0.0, 1.0), p()),
        cause="The estimates need the blocks of an autoregressive joint, which other "
        "distributions, including mixtures and marginals, do not have.",
        cure="Pass an autoregressive distribution as the first argument, or average over samples, "
        "as the message shows. The second argument of `kl_divergence` can be any distribution.",
    ),
    error(
        "num_samples: expected an integer of at least 2, got 1",
        lambda: information.entropy(p(), 1),
        cause="A standard error needs at least two samples.",
        cure="Use at least two samples.",
    ),
    error(
        "q: expected the event_shape (4,) of p, got ()",
        lambda: information.kl_divergence(p(), dist.Normal(0.0, 1.0)),
        "q: expected a batch_shape that broadcasts with (2,), got (3,)",
        lambda: information.kl_divergence(
            p().expand((2,)), dist.Normal(0.0, 1.0).expand((3, 4)).to_event(1)
        ),
        cause="The two distributions have different event shapes, or batch shapes that do not "
        "broadcast.",
        cure="Use the same event shape for both, and batch shapes that broadcast.",
    ),
    error(
        "q: expected the observed elements and values of p, got 0 observed elements in q and 1 "
        "in p, or other values; q.given(value, mask) observes them",
        lambda: information.kl_divergence(p(BITS).given(torch.zeros(3), FIRST), p(BITS)),
        cause="The two distributions do not have the same observed elements with the same values.",
        cure="Call `given` on both, with the same value and mask.",
    ),
    error(
        "p: expected events that can be enumerated, for the exact divergence, got "
        "AutoregressiveDistribution(MADE, batch_shape=(), event_shape=(4,)); "
        "ardist.information.kl_divergence(p, q) estimates it",
        lambda: torch.distributions.kl_divergence(p(), p()),
        cause="torch's function returns exact divergences only, and this divergence has no closed "
        "form.",
        cure="Call `ardist.information.kl_divergence`, which estimates it with a standard error.",
        kind=NotImplementedError,
    ),
    error(
        "p: expected blocks that are observed as a whole or not at all, got block (0,) observed "
        "in part",
        lambda: information.entropy(cut(), 10),
        cause="The conditional of the unobserved part of a block has no closed form.",
        cure="Observe whole blocks.",
    ),
    error(
        "p: expected a family with a CDF, got [Dirichlet(2)]",
        lambda: information.calibration(
            p(ad.Factorization((2, 2), fam.Dirichlet(2), partition=ad.Partition.along(0))),
            torch.full((5, 2, 2), 0.5),
        ),
        cause="Calibration needs the CDF of at least one block, and no block has one.",
        cure="Use a family of scalars with a CDF for at least one block.",
    ),
)


class Nothing(nn.Module):
    """Returns a number for all rows."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return x.sum() + self.weight


class Constant(Nothing):
    """Gives each row this log-probability."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return self.weight + self.value * torch.ones(x.shape[0])


def fit(network=None, x=None, context=None, **options):
    """Trains on four numbers for an epoch."""
    options = {"valid": None, "max_epochs": 1, "progress": False, **options}
    x = torch.zeros(5, 4) if x is None else x
    return training.fit(made() if network is None else network, x, context, **options)


def fit_sharded():
    """As if FSDP2 had sharded the network."""
    with mock.patch("ardist.training.fitting.is_sharded", return_value=True):
        fit(average=0.9)


def fit_twice(**options):
    """Resumes from a checkpoint with other options."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        fit(checkpoint="run.pt")
        fit(checkpoint="run.pt", **options)


def fit_in_two_processes(**options):
    """As if this process were the first of two."""
    with mock.patch("ardist.training.batches.place", return_value=(0, 2)):
        fit(**options)


def with_number(number):
    """Rows with this number in the first place."""
    x = torch.zeros(5, 4)
    x[0, 0] = number
    return x


class Frozen(Nothing):
    """Gives scores without gradients."""

    def forward(self, x):
        return x.sum(-1)


class Listing(Nothing):
    """Gives scores in a list."""

    def forward(self, x):
        return [x.sum(-1) + self.weight]


def fit_from_text():
    """The checkpoint is another file."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("run.pt").write_text("a text")
        fit(checkpoint="run.pt")


class Stream(data.IterableDataset):
    """No rows, of unknown number."""

    def __iter__(self):
        return iter(())


ROWS = data.TensorDataset(torch.zeros(5, 4))

TRAINING = (
    error(
        "x: expected a tensor, a Dataset or a DataLoader, got list; torch.as_tensor(x) converts "
        "numbers",
        lambda: fit(x=[[0.0, 1.0]]),
        "context: expected none next to a TensorDataset, whose items are (x, context), got a "
        "tensor of shape (5, 3), torch.float32 on cpu",
        lambda: fit(x=ROWS, context=torch.zeros(5, 3)),
        "x: expected a Dataset with a length and items by index, got Stream; a DataLoader of it "
        "makes batches of a stream",
        lambda: fit(x=Stream()),
        "x: expected batches of a tensor or of tensors, got {'x': tensor([[0., 0., 0., 0.]])}",
        lambda: fit(x=data.DataLoader([{"x": torch.zeros(4)}])),
        "x: expected batches of x or (x, context), got 3 tensors",
        lambda: fit(x=data.TensorDataset(*[torch.zeros(5, 4)] * 3)),
        "x: expected a batch at least, got none",
        lambda: fit(x=data.DataLoader(Stream())),
        "valid: expected a batch at least, got none",
        lambda: fit(valid=data.DataLoader(Stream())),
        cause="`x` or `valid` is not a tensor, a Dataset or a DataLoader, has no batches, or has "
        "batches other than `x` or `(x, context)`.",
        cure="Convert an array with `torch.as_tensor`. Let the items of a Dataset be `(x, "
        "context)`, without a separate context.",
    ),
    error(
        "x: expected finite numbers, got NaN or infinity in 1 of 20",
        lambda: fit(x=with_number(torch.inf)),
        "valid: expected finite numbers, got NaN or infinity in 1 of 20",
        lambda: fit(valid=with_number(-torch.inf)),
        "valid: expected block (0,) inside the support Real() of Normal(), got [nan]; for "
        'log_prob, nan_policy="marginalize" takes NaN as missing',
        lambda: fit(valid=with_number(torch.nan)),
        'nan_policy: expected "raise", or blocks without NaN that come first in the order of the '
        "MADE, got 'marginalize' with NaN before other blocks; networks.Masked follows any order",
        lambda: fit(x=with_number(torch.nan), nan_policy="marginalize"),
        "x: expected a number at least, got NaN in all 20",
        lambda: fit(networks.Masked(FOUR), torch.full((5, 4), torch.nan), nan_policy="marginalize"),
        cause="The data contains infinite numbers, or NaN that the network cannot marginalize. A "
        "network with one order needs the missing blocks to come last.",
        cure="Remove these rows. If NaN marks missing values, train `networks.Masked` with "
        '`nan_policy="marginalize"`.',
    ),
    error(
        "batch_size: expected a multiple of 2 processes, got 3",
        lambda: fit_in_two_processes(batch_size=3),
        "x: expected a DataLoader with a DistributedSampler, since each of 2 processes has a share "
        "of the rows, got one with a SequentialSampler",
        lambda: fit_in_two_processes(x=data.DataLoader(ROWS)),
        "valid: expected a DataLoader with a DistributedSampler, since each of 2 processes has a "
        "share of the rows, got one with a RandomSampler",
        lambda: fit_in_two_processes(valid=data.DataLoader(ROWS, shuffle=True)),
        cause="The processes of `torchrun` cannot share the rows evenly.",
        cure="Use a `batch_size` that is a multiple of the number of processes. Pass tensors, a "
        "Dataset or `DataLoader(data, sampler=DistributedSampler(data))`.",
    ),
    error(
        "x: expected (N, 4), got (4,)",
        lambda: fit(x=torch.zeros(4)),
        "x: expected (N, 4), got (5, 3, 4)",
        lambda: fit(x=torch.zeros(5, 3, 4)),
        "context: expected one for each row of x, (5, 4), got (1, 3)",
        lambda: fit(made(context_shape=(3,)), context=torch.zeros(1, 3)),
        "context: expected (N, 3), got (5, 1, 3)",
        lambda: fit(made(context_shape=(3,)), context=torch.zeros(5, 1, 3)),
        cause="`x` or `context` has the wrong number of dimensions, or the two have different "
        "numbers of rows.",
        cure="Pass `x` of shape `(N, *event_shape)` and `context` of shape `(N, *context_shape)`.",
    ),
    error(
        "context: expected data, got a result with a graph, of which fit would need a new one in "
        "each step; context.detach() has none",
        lambda: fit(made(context_shape=(3,)), context=torch.nn.Linear(3, 3)(torch.zeros(5, 3))),
        cause="The data was computed by a network that records gradients.",
        cure="To train this network as well, put both networks into a module whose `forward` "
        "calls both. Otherwise, detach the result.",
    ),
    error(
        "valid: expected a share in [0, 1), a set or (x, context), got 1.0",
        lambda: fit(valid=1.0),
        "valid: expected (x, context), as the rows to train on, got a tensor of shape (5, 4), "
        "torch.float32 on cpu",
        lambda: fit(made(context_shape=(3,)), context=torch.zeros(5, 3), valid=ROWS.tensors[0]),
        "valid: expected a share that leaves a row to train on, got 0.1 of 1 rows",
        lambda: fit(x=torch.zeros(1, 4), valid=0.1),
        "valid: expected rows to validate on, or None, since a DataLoader cannot be split, got 0.1",
        lambda: fit(x=data.DataLoader(ROWS), valid=0.1),
        cause="No rows would be left to train on, a DataLoader cannot be split, or the validation "
        "rows have no contexts.",
        cure="Pass the rows to validate on: `x`, or `(x, context)`. A share such as `valid=0.1` "
        "works for tensors and Datasets with enough rows.",
    ),
    error(
        "max_epochs: expected a number, since neither time_limit nor patience in validation ends "
        "the training, got None",
        lambda: fit(max_epochs=None),
        cause="No argument limits the training, so it would not end.",
        cure="Pass `max_epochs`, `time_limit`, or `valid` with `patience`.",
    ),
    error(
        "average: expected 0, since it needs a copy of the network, which FSDP2 does not support, "
        "got 0.9",
        fit_sharded,
        cause="The weights of a network that `fully_shard` has sharded cannot be averaged.",
        cure="Omit `average=`, or train with DDP.",
    ),
    error(
        'orderings: expected "row", "batch" or Orderings, got \'random\'',
        lambda: fit(orderings="random"),
        'in_order: expected 0, since the orders are not random, got 0.5; orderings="row" makes '
        "them so",
        lambda: fit(in_order=0.5),
        "orderings: expected None, since no conditional network is inside Nothing, got 'row'",
        lambda: fit(Nothing(), orderings="row"),
        "orderings: expected None, since MADE was built for Factorization((4,), Normal()), got "
        "'row'; networks.Masked and Transformer follow any order",
        lambda: fit(orderings="row"),
        cause="`orderings` is invalid or not supported by the network, or `in_order` would have "
        "no effect.",
        cure='Use `"row"`, `"batch"` or a list of `ad.Ordering`, with a network that supports any '
        "order.",
    ),
    error(
        "optimizer: expected to be called with parameter groups and lr=, as torch.optim.AdamW is, "
        "and to return an Optimizer, got <class 'int'>",
        lambda: fit(optimizer=int),
        "optimizer: expected to be called with parameter groups and lr=, as torch.optim.AdamW is, "
        "and to return an Optimizer, got <class 'dict'>",
        lambda: fit(optimizer=dict),
        "network: expected parameters that require gradients, got none",
        lambda: fit(made().requires_grad_(False)),
        "network: expected parameters that can be trained, got a network that was made "
        "under torch.inference_mode",
        lambda: fit(torch.inference_mode()(made)()),
        cause="`optimizer` cannot be called with parameter groups and a learning rate, or the "
        "network has no parameters that can be trained.",
        cure="Use a class of `torch.optim`, or a `functools.partial` of one. Build the network "
        "outside `torch.inference_mode`, and do not freeze all of it.",
    ),
    error(
        "network: expected one log-probability for each row, (5,), got ()",
        lambda: fit(Nothing()),
        "network: expected one log-probability for each row, (5,), got list",
        lambda: fit(Listing()),
        "network: expected log-probabilities with gradients, got none",
        lambda: fit(Frozen()),
        "network: expected a forward that takes the tensors of a batch, 2, got Nothing.forward(x)",
        lambda: fit(Nothing(), context=torch.zeros(5, 3)),
        cause="The module does not take the tensors of a batch, or does not return one "
        "differentiable log-probability for each row.",
        cure="Define `forward(x)`, or `forward(x, context)` if there is a context, and return the "
        "log-probabilities as a tensor, before the mean over the batch.",
    ),
    error(
        "network: expected finite log-probabilities of x, got a mean of -inf in epoch 1; a smaller "
        "lr or clip can help",
        lambda: fit(Constant(-torch.inf)),
        cause="A row of finite numbers has probability zero, or the weights have become too large.",
        cure="Check that the data is inside the support, or use a smaller `lr` or `clip`.",
    ),
    error(
        "checkpoint: expected one of a run with {'lr': 0.1}, got {'lr': 0.001}; resume=False "
        "starts again",
        lambda: fit_twice(lr=0.1),
        "checkpoint: expected one of this network, got run.pt with weights of other names or "
        "shapes, or with others that are trained; resume=False starts again",
        lambda: fit_twice(network=made(hidden_features=5)),
        "checkpoint: expected a file that fit has written, got run.pt; resume=False replaces it",
        fit_from_text,
        "checkpoint: expected a file in a folder that exists, got missing/run.pt",
        lambda: fit(checkpoint="missing/run.pt"),
        "checkpoint: expected a path, got 3",
        lambda: fit(checkpoint=3),
        cause="The file is not a checkpoint of a run with these options, data and network, or "
        "`checkpoint` is not a valid path.",
        cure="Use the same options, data and network, another path, or `resume=False`.",
    ),
    error(
        "callbacks: expected a sequence of callables, got [3]",
        lambda: fit(callbacks=[3]),
        cause="`callbacks` is not a sequence of callables.",
        cure="Pass a list of functions that take a `History`.",
    ),
    error(
        "probability: expected one within [0, 1], got 1.5",
        lambda: training.scheduled_log_prob(p(), torch.zeros(4), 1.5),
        cause="The share of replaced blocks is not a probability.",
        cure="Use a number in [0, 1].",
    ),
    error(
        "p: expected nothing observed in it, got 1 of 3 elements",
        lambda: training.scheduled_log_prob(
            p(BITS).given(torch.zeros(3), FIRST), torch.zeros(3), 0.5
        ),
        cause="Scheduled sampling replaces blocks, and observed blocks cannot be replaced.",
        cure="Use the distribution without `given`.",
    ),
    error(
        "truth: expected one over Factorization((3,), Bernoulli()), got Factorization((4,), "
        "Normal())",
        lambda: training.exposure_bias(p(BITS), torch.zeros(2, 3), truth=p()),
        cause="The true distribution has different events or a different order, so its steps do "
        "not correspond to the steps of `p`.",
        cure="Define the true distribution with the factorization of `p`.",
    ),
    error(
        "truth: expected the observed elements and values of p, got 0 observed elements in truth "
        "and 1 in p, or other values; truth.given(value, mask) observes them",
        lambda: training.exposure_bias(
            p(BITS).given(torch.zeros(3), FIRST), torch.zeros(2, 3), truth=p(BITS)
        ),
        cause="Only one of the two distributions is conditioned on some element, or they are on "
        "different values. A divergence of their conditionals is infinite.",
        cure="Call `given` on both, with the same value and mask.",
    ),
)

TRANSFORMS = (
    error(
        "network: expected families whose draws are bijections of real noise, got [Bernoulli()]",
        lambda: transforms.AutoregressiveTransform(made(BITS)),
        cause="A flow needs families that are bijections of real noise. Discrete families, "
        "mixtures and Gamma are not.",
        cure="Use location-scale families, transforms of them, or splines.",
    ),
    error(
        "z: expected (*lead, 4) whose lead broadcasts with batch_shape (), got (5,)",
        lambda: transforms.AutoregressiveTransform(made())(torch.zeros(5)),
        "x: expected (*lead, 4) whose lead broadcasts with batch_shape (), got (5,)",
        lambda: transforms.AutoregressiveTransform(made()).inv(torch.zeros(5)),
        "z: expected (*lead, 4) whose lead broadcasts with batch_shape (2,), got (3, 4)",
        lambda: transforms.AutoregressiveTransform(made(context_shape=(3,)), torch.zeros(2, 3))(
            torch.zeros(3, 4)
        ),
        cause="The noise or value does not have the shape of the event, or does not broadcast "
        "with the batch of contexts.",
        cure="Use the shape `(*lead, *event_shape)`, with a lead that broadcasts with the batch.",
    ),
    error(
        "p: expected an AutoregressiveDistribution, got Normal(loc: 0.0, scale: 1.0)",
        lambda: transforms.Rosenblatt(dist.Normal(0.0, 1.0)),
        cause="The Rosenblatt transform needs the steps of an autoregressive joint.",
        cure="Pass the autoregressive distribution itself.",
    ),
    error(
        "p: expected families of one number with a CDF, got [Dirichlet(2)]",
        lambda: transforms.Rosenblatt(
            p(ad.Factorization((2, 2), fam.Dirichlet(2), partition=ad.Partition.along(0)))
        ),
        "p: expected families of one number with a CDF, got [VonMises()]",
        lambda: transforms.Rosenblatt(p(ad.Factorization(2, fam.VonMises()))),
        cause="Each block is mapped to a uniform number by its CDF. Vectors and some families "
        "have no CDF.",
        cure="Partition the event into scalars, with families whose `has_cdf` is True.",
    ),
    error(
        "p: expected no observed blocks, which have no uniform transform",
        lambda: transforms.Rosenblatt(p(BITS).given(torch.zeros(3), FIRST)),
        cause="An observed block is constant, so it has no uniform transform.",
        cure="Transform the distribution without `given`.",
    ),
    error(
        "u: expected numbers within [0, 1], got 1.5",
        lambda: transforms.Rosenblatt(p(BITS)).inv(torch.full((3,), 1.5)),
        cause="The inverse takes uniform numbers, and a CDF is never outside [0, 1].",
        cure="Use numbers in [0, 1], such as `torch.rand` returns.",
    ),
    error(
        "log_abs_det_jacobian: no bijection of draws of [Bernoulli()]",
        lambda: transforms.Rosenblatt(p(BITS)).log_abs_det_jacobian(torch.zeros(3), torch.zeros(3)),
        cause="The map is not a bijection for discrete values, so it has no Jacobian.",
        cure="Use `p.log_prob` to score events.",
        kind=NotImplementedError,
    ),
)

PYRO = (
    error(
        "rsample: torch.jit.trace does not record gradients through draws; has_rsample_(False) "
        "asks Pyro for the score function instead",
        traced,
        cause="A Jit ELBO traces the model, and the trace does not record gradients of samples.",
        cure="Use the ELBO without `Jit`, or `has_rsample_(False)`.",
        kind=NotImplementedError,
    ),
    error(
        "params: torch.jit.trace does not record a network whose parameters are replaced; use "
        "Pyro's inference without Jit ELBOs and jit_compile=True",
        traced_with_params,
        cause="A Jit ELBO, or NUTS with `jit_compile=True`, traces the model. torch cannot replace "
        "parameters of a module in a trace.",
        cure="Use the ELBO without `Jit`, and NUTS without `jit_compile`.",
        kind=NotImplementedError,
    ),
    error(
        "network: 'direct.weight' of PyroMADE is a PyroSample, which would be resampled in each "
        "pass of the network; keep it a Parameter, draw its value by pyro.sample and pass it as "
        "condition(context, params={'direct.weight': value})",
        lambda: with_sample().condition(),
        cause="A `PyroSample` attribute of the network would be sampled at every pass, outside "
        "the model.",
        cure="Sample the weights with `pyro.sample` in the model, and pass them to `condition` by "
        "name.",
    ),
    error(
        "family: expected one of a number on the real line with rsample, got Gamma()",
        lambda: guides.AutoAutoregressive(subsampled, fam.Gamma()),
        cause="The latent vector of the guide is real-valued and needs gradients, but this family "
        "has a different support or no `rsample`.",
        cure="Use Normal, StudentT, a spline, or a mixture of these.",
    ),
    error(
        "ordering: expected an Ordering, \"model\" or None, got 'graph'",
        lambda: guides.AutoAutoregressive(subsampled, ordering="graph"),
        cause='The ordering of the guide is neither an `Ordering`, nor `"model"`, nor `None`.',
        cure='Pass an `Ordering` over the latent vector, or `"model"`, or omit the argument.',
    ),
    error(
        "init_scale: expected a positive number, got 0.0",
        lambda: guides.AutoAutoregressive(subsampled, init_scale=0.0),
        cause="The initial scale of the guide is zero or negative.",
        cure="Use a positive number.",
    ),
    error(
        "model: expected no latents inside subsampled plates, got 'z' in 'rows' with 5 of 10",
        lambda: guides.AutoAutoregressive(subsampled)(),
        cause="The latents of a subsampled plate change from step to step, and the guide is a "
        "joint distribution over all latents.",
        cure="Use an amortized guide for them: a network with the data as its context.",
    ),
)

CHECKS = (
    error(
        "2 leaks: the parameters of block (0,) (rank 0) react to block (1,) (rank 1), on which "
        "they may not depend",
        lambda: testing.check_autoregressive(Peeking(BITS)),
        "module: 3 leaks: the parameters of block (0,) (rank 0) react to block (0,) (rank 0), "
        "on which they may not depend; an inclusive module needs shift=True",
        lambda: networks.FromModule(nn.Embedding(3, 3), SYMBOLS, shift=False, check=True),
        cause="Your network lets a block depend on itself or on later blocks.",
        cure="Find the connection between the two blocks that the message names. A module whose "
        "outputs include the current input needs `FromModule(shift=True)`.",
        kind=testing.CheckError,
    ),
    error(
        "decoder.step at step 0: differs from the parallel pass by 1.0e-02 relative to the "
        "largest parameter, expected at most 1e-05",
        lambda: testing.check_decoder(Off(lambda params: params + 0.01)),
        "decoder.step at step 0: expected parameters of shape (6, 1, 2), got (6, 1, 1)",
        lambda: testing.check_decoder(Off(lambda params: params[..., :1])),
        cause="Your decoder and your `forward` return different parameters.",
        cure="Compare them at the step that the message names. Check the cache, the positions and "
        "the order of the rows.",
        kind=testing.CheckError,
    ),
    error(
        "p: expected probabilities that sum to 1, got 4.0",
        lambda: testing.check_normalized(p(ad.Factorization(2, Flat()))),
        "p: expected probabilities that sum to 1, got 0.0 with num_points=3",
        lambda: testing.check_normalized(p(NARROW), num_points=3),
        cause="The `log_prob` of your family is not normalized, or the density has a kink or is "
        "too narrow for the grid of points.",
        cure="Add the missing constant, or increase `num_points`.",
        kind=testing.CheckError,
    ),
    error(
        "p: expected an event small enough to be enumerated, got 10368641602001 points",
        lambda: testing.check_normalized(p(ad.Factorization(5, NORMAL))),
        cause="The sum over all events has too many terms.",
        cure="Check a smaller event with the same families.",
    ),
    error(
        "p: expected no observed continuous elements, got some in p.given",
        lambda: testing.check_normalized(
            p(ad.Factorization(2, NORMAL)).given(torch.zeros(2), torch.tensor([True, False]))
        ),
        cause="An observed real number is a single point, over which nothing can be integrated.",
        cure="Check the distribution before you call `given`.",
    ),
    error(
        "log_prob under context 1 alone: differs by 1.5e+03",
        lambda: testing.check_shapes(
            Misaligned(BITS, context_shape=(1,)).condition(
                torch.tensor([[500.0], [-500.0], [500.0], [-500.0]])
            )
        ),
        cause="The network gives a row the context of another row.",
        cure="Row i of `blocks` has the context i % N of N contexts, so repeat contexts with "
        "`repeat`, not with `repeat_interleave`.",
        kind=testing.CheckError,
    ),
    error(
        "log_prob: expected shape (2,), got ()",
        lambda: testing.check_shapes(replaced(log_prob=lambda value: torch.zeros(()))),
        "sum of log_prob_blocks: differs by 4.0e+00",
        lambda: testing.check_shapes(
            replaced(
                log_prob=lambda value: torch.zeros(value.shape[:-1]),
                log_prob_blocks=torch.ones_like,
            )
        ),
        cause="The distribution does not follow torch's rules for shapes, or its results depend "
        "on the shape.",
        cure="Check the method at the start of the message.",
        kind=testing.CheckError,
    ),
)

FILES = (
    error(
        "to_spec: expected a value that JSON can hold as MADE.activation, got <lambda>; functions "
        "and classes need a name of their own",
        lambda: ad.save(made(activation=eval("lambda x: x")), "made.safetensors"),
        "to_spec: expected a value that JSON can hold as Parametric.links['scale'], got "
        "of_one_name.<locals>.<lambda>; functions and classes need a name of their own",
        lambda: fam.Parametric(dist.Normal, links=of_one_name()).to_spec(),
        cause="A file stores functions and classes by name. This function has no name, or shares "
        "its name with another function.",
        cure="Define the function with `def` and a unique name, and pass it to `ad.load` in "
        "`classes=`.",
    ),
    error(
        "to_spec: expected Foreign to keep the argument 'size' of its constructor as an attribute, "
        "got none of that name; a frozen dataclass keeps them, and a network of your own can make "
        "such a module in its constructor",
        lambda: ad.save(networks.Markov(FOUR, window=2, module=Foreign(2)), "markov.safetensors"),
        "to_spec: expected a value that JSON can hold as Markov.module, got a module Linear; a "
        "network of your own can make it in its constructor",
        lambda: ad.save(
            networks.Markov(FOUR, window=2, module=nn.Linear(2, 2)), "markov.safetensors"
        ),
        "to_spec: expected a value that JSON can hold as Parametric.fixed['rate'], got a learned "
        "tensor; a module of your own can make it in its constructor",
        lambda: fam.Parametric(
            dist.Gamma, fixed={"rate": torch.ones((), requires_grad=True)}
        ).to_spec(),
        cause="A specification stores the arguments of constructors. It cannot store a module or "
        "a learned tensor, or an argument that is not an attribute.",
        cure="Write a subclass of `networks.ConditionalNetwork` that makes the module in its "
        "constructor, and pass the subclass to `ad.load` in `classes=`. Or save only the "
        "`state_dict`.",
    ),
    error(
        "network: expected the tensors that the constructor of MADE makes, got another "
        "'head.parametrizations.weight.original0'; changes after construction, such as "
        "weight_norm, belong in the constructor",
        lambda: ad.save(normalized(), "made.safetensors"),
        "path: expected the tensors that the constructor of MADE makes, got another 'more'; "
        "changes after construction, such as weight_norm, belong in the constructor",
        lambda: loaded(lambda spec, tensors, texts: tensors.update(more=torch.zeros(0))),
        cause="The network was changed after its construction, or the file was changed after it "
        "was saved.",
        cure="Remove the change, such as a parametrization, before saving, or apply it in the "
        "constructor of your own network.",
    ),
    error(
        "folder: expected a path, got 3",
        lambda: ad.export.write(made().eval(), 3),
        "path: expected a path, got 3",
        lambda: ad.load(3),
        "path: expected a file in a folder that exists, got missing/net.safetensors",
        lambda: ad.save(made(), "missing/net.safetensors"),
        "classes: expected a sequence of classes, got <class 'ardist.networks.made.MADE'>",
        lambda: ad.load(saved(), classes=networks.MADE),
        "map_location: expected a device, got 0",
        lambda: ad.load(saved(), map_location=0),
        "metadata: expected texts by name, got {'columns': 3}",
        lambda: ad.save(made(), "made.safetensors", metadata={"columns": 3}),
        "metadata: expected 16 MiB at most, with the specification, got 17.0",
        lambda: ad.save(
            made(), f"{tempfile.mkdtemp()}/made.safetensors", metadata={"columns": "x" * 17 * 2**20}
        ),
        cause="An argument of `ad.save`, `ad.load` or `ad.export.write` is invalid.",
        cure="Pass an argument that the message expects.",
    ),
    error(
        "path: expected names of ardist, torch, Pyro and classes=, got 'Plain'",
        lambda: loaded(lambda spec, tensors, texts: {"class": "Plain", "args": {}}),
        "path: expected names of ardist, torch, Pyro and classes=, got 'os.system'",
        lambda: with_arguments(activation={"name": "os.system"}),
        cause="The file names a class or function outside ardist, torch and Pyro. `ad.load` uses "
        "such code only if you pass it.",
        cure="If the class or function is yours, pass it: `ad.load(path, classes=[Plain])`.",
    ),
    error(
        "path: expected format 1, got 2, which ardist 9.0 wrote; a newer ardist reads it",
        lambda: with_texts(ardist_format="2", ardist_version="9.0"),
        cause="A newer version of ardist wrote the file.",
        cure="Install that version or a newer one.",
    ),
    error(
        "path: expected a file that ardist.save wrote, got made.safetensors; torch.load reads "
        "files of torch.save",
        lambda: ad.load(pickled()),
        "path: expected JSON in the file, got Expecting value: line 1 column 7 (char 6)",
        lambda: ad.load(with_header('{"a": }')),
        "path: expected JSON in the file, got a key twice among ['a']",
        lambda: ad.load(with_header('{"a": {}, "a": {}}')),
        "path: expected JSON in the file, got the number NaN",
        lambda: ad.load(with_header('{"a": NaN}')),
        "path: made.safetensors is damaged: Error while deserializing header: incomplete metadata, "
        "file not fully covered",
        lambda: ad.load(with_bytes(saved().read_bytes()[:-1])),
        "path: made.safetensors is damaged: its checksum does not match its content",
        lambda: ad.load(with_bytes(saved().read_bytes()[:-1] + b"x")),
        cause="The file is of another kind, or it was changed or damaged after it was written.",
        cure="Copy or download the file again, or read it with the library that wrote it.",
    ),
    error(
        "path: expected a specification, got {'activation': 'relu'}",
        lambda: with_arguments(activation={"activation": "relu"}),
        "path: expected a specification of at most 64 levels, got more",
        lambda: with_arguments(hidden_features=nested(70)),
        "path: expected integers of 64 bits, got 9223372036854775808",
        lambda: with_arguments(hidden_features=2**63),
        "path: expected a dtype of floats, got int64",
        lambda: with_texts(ardist_dtype="int64"),
        "path: networks.MADE cannot be made: expected arguments ['factorization', "
        "'hidden_features', 'context_shape', 'direct', 'residual', 'activation', 'dropout'], got "
        "['width']",
        lambda: with_arguments(width=3),
        "path: networks.MADE cannot be made: hidden_features: expected at most 16777216, got "
        "1073741824",
        lambda: with_arguments(hidden_features=[8, 2**30]),
        "path: ardist.Factorization cannot be made: event_shape: expected at most 262144 elements, "
        "got [1024, 1024]",
        lambda: with_arguments(
            factorization={
                "class": "ardist.Factorization",
                "args": {"event_shape": [1024, 1024], "families": NORMAL.to_spec()},
            }
        ),
        "path: networks.MADE cannot be made: it takes more memory than a network with these "
        "tensors needs",
        lambda: with_arguments(hidden_features=[2**20, 2**20]),
        "path: the tensors do not fit the specification: Expecting value: line 1 column 1 (char 0)",
        lambda: loaded(lambda spec, tensors, texts: tensors["_extra_state"].fill_(0)),
        cause="The file was changed by hand, or its specification needs more memory than a "
        "network with its tensors.",
        cure="Do not use this file. Save the network again.",
    ),
)


PEOPLE = pd.DataFrame({"job": ["nurse", "cook"] * 20, "age": np.arange(40) % 7 + 0.5})
DAYS = pd.Series(pd.date_range("2024-01-01", periods=50))
MADE = partial(networks.MADE, hidden_features=8)


@cache
def table_model(network="masked"):
    kinds = {"age": "real"}
    return TableDensity(network, columns=kinds, max_epochs=1).fit(PEOPLE.assign(size=[1.5, 2] * 20))


def fit_table(cells, kind=None, name="x"):
    columns = None if kind is None else {name: kind}
    return TableDensity(columns=columns, max_epochs=1).fit(pd.DataFrame({name: cells}))


def load_table(text, network=None):
    """A model from a file with this text as its columns."""
    path = f"{tempfile.mkdtemp()}/model.safetensors"
    texts = {} if text is None else {"ardist.tables": text}
    ad.save(table_model().network_ if network is None else network, path, metadata=texts)
    return TableDensity.load(path)


OTHER_COLUMNS = {
    "missing": "model",
    "names": ["age"],
    "schema": {
        "columns": [
            {
                "class": "Levels",
                "name": "age",
                "kind": "bool",
                "dtype": "bool",
                "missing": 0.0,
                "levels": [False, True],
            }
        ],
        "left_out": {},
    },
}


TABLES = (
    error(
        "X: expected a data frame, a dict of columns or an array, got 'people.csv'; "
        "pandas.read_csv and pandas.read_parquet read files",
        lambda: TableDensity().fit("people.csv"),
        "X: expected a data frame, a dict of columns or an array, got None; "
        "pandas.read_csv and pandas.read_parquet read files",
        lambda: TableDensity().fit(None),
        "X: expected a data frame, got a Series; to_frame() makes one of a column, and to_dict() a "
        "row",
        lambda: TableDensity().fit(pd.Series([1.0, 2.0])),
        "X: expected a data frame, got a LazyFrame; collect() makes one",
        lambda: TableDensity().fit(polars.DataFrame({"age": [1.0, 2.0]}).lazy()),
        "X: expected a data frame, a dict of columns or an array (rows, columns), got array([1., "
        "2.])",
        lambda: TableDensity().fit(np.array([1.0, 2.0])),
        "X: expected columns of one length, got All arrays must be of the same length",
        lambda: TableDensity().fit({"age": [1, 2], "job": ["cook"]}),
        "X: expected different names of columns, got ['age'] twice",
        lambda: TableDensity().fit(pd.DataFrame([[1, 2]], columns=["age", "age"])),
        cause="The argument is not a data frame, a dict of columns or a two-dimensional array, or "
        "its columns differ in length or share a name.",
        cure="Read a file with `pandas.read_csv` or `pandas.read_parquet`. Give all columns the "
        "same length and different names.",
    ),
    error(
        "X: expected at least one column, got 0 feature(s)",
        lambda: TableDensity().fit(pd.DataFrame(index=range(9))),
        "X: expected at least 2 rows, got 1 sample(s)",
        lambda: fit_table([1.0]),
        "X: expected a column that can be modeled, got {'x': 'it is declared so'}",
        lambda: fit_table([1, 2], "left out"),
        cause="A table needs at least two rows, and at least one column that is neither empty, an "
        "identifier nor declared as left out.",
        cure="Check how the table was read. Use `columns=` to declare the kind of a column that "
        "would be left out.",
    ),
    error(
        "column 'x': expected cells of one type, numbers, text, bools or dates, got int, "
        "str; for example 1",
        lambda: fit_table([1, "two"] * 20),
        "column 'x': expected finite numbers, got infinity in 20 of 40 cells; NaN marks "
        "missing cells",
        lambda: fit_table([1.0, np.inf] * 20),
        "column 'x': expected numbers up to 1e+30, got one of size 1e+300; divide the column by a "
        "constant",
        lambda: fit_table([1.0, 1e300] * 20),
        "column 'x': expected numbers of at least 1e-30, got 1e-40; multiply the column by a "
        "constant",
        lambda: fit_table(np.geomspace(1e-40, 1, 40)),
        "column 'x': expected numbers with a deviation of at least 1e-30, got 5e-40; multiply the "
        "column by a constant",
        lambda: fit_table([1e-39, 2e-39] * 20, "real"),
        "column 'pay': expected numbers, got text such as '1.234,50'; pandas.read_csv "
        "with decimal=, thousands= or na_values= reads numbers, and columns={'pay': "
        "'category'} takes them as text",
        lambda: fit_table(["1.234,50", "20,00"] * 20, name="pay"),
        "column 'x': expected numbers, got text such as '1 234'; pandas.read_csv with "
        "decimal=, thousands= or na_values= reads numbers, and columns={'x': 'category'} "
        "takes them as text",
        lambda: fit_table(["1 234", "n/a", *map(str, range(38))]),
        "column 'x': expected dates such as 2024-12-31, got '2024-02-30'; "
        "pandas.to_datetime with format= reads others, and columns={'x': 'category'} "
        "takes them as text",
        lambda: fit_table(["2024-02-30", "2024-02-28"] * 20),
        "column 'x': expected dates such as 2024-12-31, got '31.12.2024'; "
        "pandas.to_datetime with format= reads others, and columns={'x': 'category'} "
        "takes them as text",
        lambda: fit_table(["31.12.2024", "01.02.2024"] * 20),
        cause="The cells of a column have several types, are infinite, too large or too small, or "
        "are text that looks like numbers or dates.",
        cure="Read the table with the options that the message names, rescale the column, replace "
        "infinities with NaN, or declare the column a category.",
    ),
    error(
        "column 'x': expected numbers, got 'one'",
        lambda: fit_table(["one", "two"] * 20, "real"),
        "column 'x': expected numbers, got '2024-01-01 00:00:00'",
        lambda: fit_table(DAYS, "real"),
        "column 'x': expected numbers, got '2024-01'",
        lambda: fit_table(DAYS.dt.to_period("M"), "discrete"),
        "column 'x': expected numbers, got '1j'",
        lambda: fit_table([1j, 2j] * 20, "real"),
        "column 'x': expected durations such as '1h 30min' or '01:30:00', got 5; "
        "pandas.to_timedelta with unit= reads numbers",
        lambda: fit_table(pd.Series([5, 6] * 20, dtype=object), "duration"),
        "column 'x': expected integers, got 0.5 in 20 of 40 cells, first in row 0",
        lambda: fit_table([0.5, 1.0] * 20, "count"),
        "column 'x': expected numbers above 0, apart from spikes, got -1.5",
        lambda: fit_table([-1.5, 1.0] * 20, "positive"),
        "column 'x': expected dates such as 2024-12-31, got 20240101; pandas.to_datetime with "
        "format= reads others",
        lambda: fit_table([20240101, 20240102] * 20, "date"),
        "column 'x': expected durations such as '1h 30min' or '01:30:00', got 5; "
        "pandas.to_timedelta with unit= reads numbers",
        lambda: fit_table([5, 6] * 20, "duration"),
        "column 'x': expected times of day such as 08:30 or 08:30:15, got '25:00' in 20 of "
        "40 cells",
        lambda: fit_table(["08:00", "25:00"] * 20, "clock"),
        "column 'x': expected times without a zone, as in fit, got "
        "'2024-01-01 00:00:00+00:00' with a zone; Series.dt.tz_localize(None) drops one",
        lambda: Schema.of(pd.DataFrame({"x": DAYS})).encode(
            pd.DataFrame({"x": DAYS.dt.tz_localize("UTC")})
        ),
        "column 'x': expected times of zone UTC, as in fit, got '2024-01-01 00:00:00' "
        "without a zone; Series.dt.tz_localize adds one",
        lambda: Schema.of(pd.DataFrame({"x": DAYS.dt.tz_localize("UTC")})).encode(
            pd.DataFrame({"x": DAYS})
        ),
        "column 'x': expected dates such as 2024-12-31, got 'Monday' in 20 of 40 cells; "
        "pandas.to_datetime with format= reads others",
        lambda: fit_table(["2024-01-01", "Monday"] * 20, "date"),
        "column 'x': expected one of [False, True], got 2 in 20 of 40 cells, first in row 0",
        lambda: fit_table([2, 1] * 20, "bool"),
        "column 'x': expected one of ['S', 'M', 'L'], got 'XL' in 20 of 40 cells, first in row 1",
        lambda: fit_table(["S", "XL"] * 20, ["S", "M", "L"]),
        "column 'x': expected numbers above 0, got -1.5",
        lambda: fit_table([1.0, 2.0] * 20, "positive").sample(given={"x": -1.5}),
        cause="A cell does not fit the kind of its column, which you declared or `fit` chose, or "
        "a given value is impossible.",
        cure="Correct or convert the cell, mark it as missing, or declare another kind in "
        "`columns=`.",
    ),
    error(
        "columns: expected a dict of kinds by name, got ['real']",
        lambda: TableDensity(columns=["real"]).fit(PEOPLE),
        "columns: expected names of ['job', 'age'], got ['jobs']",
        lambda: TableDensity(columns={"jobs": "category"}).fit(PEOPLE),
        "columns: expected a kind of ['bool', 'category', 'ordinal', 'discrete', "
        "'count', 'real', 'positive', 'date', 'time', 'duration', 'clock', 'left out'], or a "
        "list of "
        "ordered levels, for 'age', got 'integer'",
        lambda: TableDensity(columns={"age": "integer"}).fit(PEOPLE),
        "columns: expected a list of the levels of 'job' in their order, since its dtype "
        "str has none, got 'ordinal'",
        lambda: TableDensity(columns={"job": "ordinal"}).fit(PEOPLE),
        "columns: expected at least two different levels of 'job', none of them missing, got "
        "['cook']",
        lambda: TableDensity(columns={"job": ["cook"]}).fit(PEOPLE),
        "columns: expected at least two different levels of 'job', none of them missing, got "
        "['cook', 'nurse', None]",
        lambda: TableDensity(columns={"job": ["cook", "nurse", None]}).fit(PEOPLE),
        cause="`columns` does not map names of columns to kinds or to lists of ordered levels.",
        cure="Print `ardist.tables.Schema.of(table)` to see the names and the proposed kinds.",
    ),
    error(
        "network: expected 'masked' or a callable from a factorization to a network, got "
        "'transformer'",
        lambda: TableDensity("transformer").fit(PEOPLE),
        "network: expected 'masked' or a callable from a factorization to a network, got a module "
        "MADE",
        lambda: TableDensity(made()).fit(PEOPLE),
        "network: expected a callable that returns a network of ardist.networks, got None",
        lambda: TableDensity(lambda factorization: None).fit(PEOPLE),
        "network: expected one of the factorization that the callable takes, got one of "
        "Factorization((4,), Normal())",
        lambda: TableDensity(lambda factorization: made()).fit(PEOPLE),
        "network: expected one in torch.float32 on cpu, got torch.float64 on cpu",
        lambda: TableDensity(lambda factorization: MADE(factorization).double()).fit(PEOPLE),
        "network: expected one that follows any order, such as 'masked', to condition on "
        "later columns, got MADE",
        lambda: table_model(MADE).predict_proba({"age": 1.5}, "job"),
        "network: expected one that follows any order, such as 'masked', to integrate out missing "
        "cells, or columns that a marginal lacks, before others, got MADE",
        lambda: TableDensity(MADE).fit(PEOPLE.assign(job=[None, "cook", "nurse", "cook"] * 10)),
        cause="`network` is an unknown name, or it does not return a float32 network on the CPU "
        "for the factorization that it receives. Or the network supports only one order, and the "
        "query or the missing cells need another.",
        cure="Use the default, or `partial(networks.Transformer, dim=64, depth=3, heads=4)`. For "
        "a network with one order, train on `table.dropna()`, and condition only on earlier "
        "columns.",
    ),
    error(
        "X has 2 features, but TableDensity is expecting 3 features as input",
        lambda: table_model().score(np.zeros((3, 2))),
        "X: expected columns of ['job', 'age', 'size'], got ['id']",
        lambda: table_model().score(PEOPLE.assign(id=1)),
        "given: expected columns of ['job'], got ['age'], which this marginal has integrated out",
        lambda: table_model().marginal(["job"]).sample(given={"age": 1.5}),
        "X: expected the columns ['job', 'age', 'size'], got none named ['size']; "
        "X.assign(size=None) adds missing cells, and marginal(columns) needs no others",
        lambda: table_model().score(PEOPLE),
        "column: expected one of ['job', 'age', 'size'], got 'id'",
        lambda: table_model().predict_proba(PEOPLE, "id"),
        "columns: expected names, got 'age'",
        lambda: table_model().marginal("age"),
        "columns: expected names, got None",
        lambda: table_model().marginal(None),
        "df: expected the columns ['job', 'age', 'size'], got none named ['size']; "
        "df.assign(size=None) adds missing cells, and marginal(columns) needs no others",
        lambda: table_model().report(PEOPLE, PEOPLE),
        cause="The columns of the table differ from the columns that `fit` saw.",
        cure="Rename or drop columns. Queries (`predict_proba`, `quantile`, `impute`, ...) accept "
        "tables that lack columns. To score such a table, use `marginal`.",
    ),
    error(
        "column: expected one with finitely many values, got 'age', of kind real; "
        "density, cdf and quantile answer for numbers",
        lambda: table_model().predict_proba({"job": "cook"}, "age"),
        "column: expected one with an order, got 'job', of kind category; predict_proba "
        "gives the probabilities of its levels",
        lambda: table_model().cdf({"age": 1.5}, "job", ["cook"]),
        "q: expected probabilities within [0, 1], got 95",
        lambda: table_model().quantile({"job": "cook"}, "age", 95),
        "random_state: expected an integer from 0 to 2**32 - 1, None or a "
        "numpy.random.RandomState, got -1",
        lambda: table_model().sample(random_state=-1),
        "random_state: expected an integer from 0 to 2**32 - 1, None or a "
        "numpy.random.RandomState, got 'seed'",
        lambda: TableDensity(random_state="seed").fit(PEOPLE),
        "values: expected a list of values, got 40",
        lambda: table_model().density({"job": "cook"}, "age", 40),
        "column 'job': expected one of ['cook', 'nurse'], got 'pilot'",
        lambda: table_model().sample(given={"job": "pilot"}),
        "where: expected limits by name, got ['job']",
        lambda: table_model().sample(where=["job"]),
        "where: expected a list of values for 'job', of kind category, or a tuple of two ends for "
        "a column with an order, got ('cook', None)",
        lambda: table_model().sample(where={"job": ("cook", None)}),
        "where: expected a list of values for 'job', of kind category, or a tuple of two ends for "
        "a column with an order, got 'cook'",
        lambda: table_model().sample(where={"job": "cook"}),
        "where: expected values of ['cook', 'nurse'] for 'job', got ['pilot']",
        lambda: table_model().sample(where={"job": ["pilot"]}),
        "where: expected two ends in order for 'age', got (50, 40)",
        lambda: table_model().sample(where={"age": (50, 40)}),
        "where: expected limits (low, high) for 'age', of kind real, None for no limit, got "
        "[1.5, 2.5]; a list is for columns with finitely many values",
        lambda: table_model().sample(where={"age": [1.5, 2.5]}),
        "where: expected limits of 'age', of kind real, that hold values of a probability above 0, "
        "got (1.25, 1.25)",
        lambda: table_model().sample(where={"age": (1.25, 1.25)}),
        "where: expected two ends in order for 'size', got (2.0, 1.5)",
        lambda: table_model().sample(where={"size": (2.0, 1.5)}),
        "where: expected limits of 'size' that hold a value of [1.5, 2.0], got (5, 9)",
        lambda: table_model().sample(where={"size": (5, 9)}),
        "where: expected limits of 'job' that its given value 'cook' is within, got ['nurse']",
        lambda: table_model().sample(given={"job": "cook"}, where={"job": ["nurse"]}),
        "where: expected limits of 'age' that its given value 0.5 is within, got (1, 2)",
        lambda: table_model().sample(given={"age": 0.5}, where={"age": (1, 2)}),
        "X: expected at least one row, got 0 sample(s)",
        lambda: table_model().score(PEOPLE.assign(size=1.5)[:0]),
        "synthetic: expected at least 3 rows, got 2",
        lambda: table_model().report(*[PEOPLE.assign(size=1.5)[:n] for n in (9, 2)]),
        "given: expected one row with where=, got 40",
        lambda: table_model().sample(where={"size": [2]}, given=PEOPLE),
        cause="The query does not fit the kind of the column, or one of its values, limits or "
        "numbers of rows is invalid.",
        cure="Use `density`, `cdf` and `quantile` for numbers, `predict_proba` for categories, "
        "and lists of values. In `where=`, pass `(low, high)` for numbers and a list for "
        "categories.",
    ),
    error(
        "path: expected a file that TableDensity.save wrote, got a network without "
        "columns in model.safetensors; ardist.load reads it",
        lambda: load_table(None),
        "path: expected the columns of a table in model.safetensors, got KeyError('missing')",
        lambda: load_table("{}"),
        "path: expected the columns of a table in model.safetensors, got "
        "TypeError(\"'int' object is not iterable\")",
        lambda: load_table('{"missing": "model", "schema": {"columns": 1}}'),
        "path: expected a network of the columns in model.safetensors, got one of "
        "('job', 'age', 'size')",
        lambda: load_table(json.dumps(OTHER_COLUMNS)),
        cause="The file was written by `ardist.save`, not by `TableDensity.save`, or it was "
        "changed.",
        cure="Use `ardist.load` for a network, or save the model again.",
    ),
)

COMMAND = (
    error(
        "a.pt: expected a .safetensors file in a folder that exists",
        lambda: commanded("fit people.csv -o a.pt"),
        "people.txt: expected a file named .csv, .csv.gz or .parquet",
        lambda: commanded("describe people.txt"),
        "--given: expected NAME=VALUE, got 'age'",
        lambda: commanded("sample a.safetensors -g age"),
        "--given: expected a value, got age=",
        lambda: commanded("sample a.safetensors -g age="),
        cause="An argument of the command `ardist` is invalid.",
        cure="Run `ardist --help` or `ardist fit --help` for the list of arguments.",
    ),
    error(
        "people.csv: expected a table, got No columns to parse from file",
        lambda: commanded("describe people.csv", ""),
        "people.csv: expected columns separated by commas, got one named 'age;job'; "
        "pandas.read_csv with sep= reads others",
        lambda: commanded("describe people.csv", "age;job\n40;cook\n"),
        "people.csv: expected a table, got Error tokenizing data. C error: Expected 1 fields in "
        "line 3, saw 2; pandas.read_csv with sep=, decimal= or encoding= reads others",
        lambda: commanded("describe people.csv", "age\n40\n41,5"),
        "people.csv: expected a name for each column, got rows with more cells than names; "
        "pandas.read_csv with sep= or index_col= reads others",
        lambda: commanded("describe people.csv", "age\n40,5\n41,5"),
        "people.csv: expected different names of columns, got ['age'] twice",
        lambda: commanded("describe people.csv", "age,age"),
        "people.csv: expected a file that ardist.save wrote, got people.csv; torch.load reads "
        "files of torch.save",
        lambda: commanded("sample people.csv", "age"),
        cause="The file is not a table separated by commas, or not a model.",
        cure="Open the file to check its content. Convert other tables with pandas.",
    ),
)

PACKAGES = (
    error(
        "Ordering.plot needs matplotlib: pip install 'ardist[examples]'",
        lambda: without("matplotlib.pyplot", ad.Ordering.raster().plot),
        "Calibration.plot needs matplotlib: pip install 'ardist[examples]'",
        lambda: without("matplotlib.pyplot", information.calibration(p(), torch.zeros(9, 4)).plot),
        "progress: the bar is tqdm's; pip install tqdm",
        lambda: without("tqdm", lambda: sampling.ancestral(p(), progress=True)),
        cause="Plots need matplotlib and progress bars need tqdm. Neither is a dependency of "
        "ardist.",
        cure="Install the package that the message names.",
        kind=ImportError,
    ),
)

PATTERNS = (
    error(
        "pattern: expected a string, got 1",
        lambda: rules.Automaton.regex(1, "ab"),
        "symbols: expected a sequence of strings of at least one character, got ['a', '']",
        lambda: rules.Automaton.regex("a", ["a", ""]),
        cause="The pattern is not a string, or a symbol has no character.",
        cure="Pass a string as the pattern, and a name of at least one character for each symbol, "
        "including symbols such as the end.",
    ),
    error(
        "pattern: expected a regular expression, got '(a': missing ), unterminated subpattern at "
        "position 0",
        lambda: rules.Automaton.regex("(a", "ab"),
        cause="Python's `re` cannot read the pattern.",
        cure="Correct the pattern at the position that the message names. `re.escape` escapes "
        "special characters.",
    ),
    error(
        "pattern: expected none with a back-reference, since no automaton can count what a group "
        "has matched, got '(a)\\\\1'",
        lambda: rules.Automaton.regex(r"(a)\1", "ab"),
        "pattern: expected none with look-ahead or look-behind, since an automaton reads each "
        "character once and in order, got '(?=a)a'",
        lambda: rules.Automaton.regex("(?=a)a", "ab"),
        "pattern: expected none with an anchor or a word boundary inside, since the pattern is "
        "matched with the whole sequence, got 'a|^b'",
        lambda: rules.Automaton.regex("a|^b", "ab"),
        "pattern: expected none with a possessive repetition, since it depends on how a matcher "
        "searches, and not only on the sequence, got 'a*+b'",
        lambda: rules.Automaton.regex("a*+b", "ab"),
        cause="The automaton does not support this part of the pattern.",
        cure="Rewrite the pattern without it: omit anchors, use greedy repetition, and list the "
        "alternatives of a back-reference.",
    ),
    error(
        "pattern: expected one whose automaton has at most 4096 states, got '(a|b)*a(a|b){12}'",
        lambda: rules.Automaton.regex("(a|b)*a(a|b){12}", "ab"),
        cause="The automaton of this pattern has too many states. Long counted repetitions after "
        "an alternative multiply them.",
        cure="Use smaller numbers of repetitions.",
    ),
    error(
        "pattern: expected one that some sequence of the symbols matches, got 'c'",
        lambda: rules.Automaton.regex("c", "ab"),
        cause="The pattern requires characters that no symbol has.",
        cure="Add the missing symbols, or change the pattern.",
    ),
)

ERRORS = {
    "Sizes": SIZES,
    "Arguments": ARGUMENTS,
    "Partitions": PARTITIONS,
    "Orderings": ORDERINGS,
    "Factorizations": FACTORIZATIONS,
    "Rules": RULES,
    "Families": FAMILIES,
    "Networks": NETWORKS,
    "Networks of your own": OWN_NETWORKS,
    "Another factorization": OTHER_FACTORIZATIONS,
    "Contexts and parameters": CONTEXTS,
    "Values": VALUES,
    "Conditioning and orders": CONDITIONING,
    "Draws and gradients": GRADIENTS,
    "Sampling": SAMPLING,
    "Patterns": PATTERNS,
    "Mixtures": MIXTURES,
    "Information": INFORMATION,
    "Training": TRAINING,
    "Transforms": TRANSFORMS,
    "Pyro": PYRO,
    "Checks": CHECKS,
    "Files": FILES,
    "Tables": TABLES,
    "Command": COMMAND,
    "Packages": PACKAGES,
}
