"""The named networks and factorizations for which every property is tested."""

import copy
import os
from collections.abc import Callable, Sequence
from itertools import cycle

import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import AffineTransform, StickBreakingTransform, TanhTransform

import ardist as ad
from ardist import families as fam
from ardist import networks
from ardist.networks.base import start_near_noise

CONTEXT = (3,)
# Where all tests run: new tensors are made there, and so are the networks, also those below.
DEVICE = os.environ.get("ARDIST_TEST_DEVICE", "cpu")
if "ARDIST_TEST_DEVICE" in os.environ:
    torch.set_default_device(DEVICE)


def random_made(factorization: ad.Factorization, **options: object) -> networks.MADE:
    """A MADE whose outputs have random weights.

    They start at zero, at which no block depends on another, so that most tests would hold nothing.
    """
    net = networks.MADE(factorization, **options)
    for layer in net.output_maps:
        layer.reset_parameters()
    start_near_noise(factorization, *net.output_maps)
    return net


ORDERINGS = {
    "raster": ad.Ordering.raster(),
    "reverse": ad.Ordering.reverse(),
    "permutation": ad.Ordering.permutation([2, 0, 3, 1]),
    "random": ad.Ordering.random(3),
    "ties": ad.Ordering.from_ranks([4, 1, 1, 0]),
    "graph": ad.Ordering.from_graph([[0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]]),
    "transitive": ad.Ordering.from_graph([[0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]]),
}

FAMILIES = {
    "bernoulli": fam.Bernoulli(),
    "categorical": fam.Categorical(3),
    "normal": fam.Normal(),
    "laplace": fam.Laplace(),
    "logistic": fam.Logistic(),
    "student_t": fam.StudentT(),
    "log_normal": fam.LogNormal(),
    "gamma": fam.Gamma(),
    "beta": fam.Beta(),
    "exponential": fam.Exponential(),
    "poisson": fam.Poisson(),
    "negative_binomial": fam.NegativeBinomial(),
    "geometric": fam.Geometric(),
    "von_mises": fam.VonMises(),
    "mixture": fam.Mixture(fam.Normal(), 2),
    "discretized": fam.DiscretizedLogisticMixture(2, bins=4),
    "gumbel": fam.Parametric(dist.Gumbel),
    "tempered": fam.Tempered(fam.Normal(), 0.5),
    "top_k": fam.TopK(fam.Tempered(fam.Categorical(4), 0.8), 2),
    "nucleus": fam.Nucleus(fam.Bernoulli(), 0.7),
    "relaxed_bernoulli": fam.Relaxed(fam.Bernoulli(), 0.7),
    "spline": fam.Spline(4),
    "transformed": fam.Transformed(fam.Normal(), TanhTransform()),
    "transformed_decreasing": fam.Transformed(fam.LogNormal(), AffineTransform(3.0, -2.0)),
    "ordinal": fam.Ordinal(3),
    "hurdle": fam.Hurdle((0.0,), fam.LogNormal()),
    "zero_inflated": fam.Hurdle((0.0, 2.0), fam.Poisson()),
    "truncated": fam.Truncated(fam.Normal(), -1.0, 2.0),
    "truncated_counts": fam.Truncated(fam.Poisson(), low=1),
    "rounded": fam.Rounded(fam.Logistic()),
}

VECTORS = {
    "dirichlet": fam.Dirichlet(2),
    "parametric_dirichlet": fam.Parametric(dist.Dirichlet, event_shape=(2,)),
    "multivariate_normal": fam.MultivariateNormal(2),
    "low_rank_multivariate_normal": fam.LowRankMultivariateNormal(2, rank=1),
    "one_hot": fam.OneHotCategorical(2),
    "relaxed": fam.Relaxed(fam.OneHotCategorical(2), 0.7),
    "straight_through": fam.Relaxed(fam.OneHotCategorical(2), 0.7, straight_through=True),
    "independent": fam.Independent(fam.Bernoulli(), (2,)),
    "independent_mixture": fam.Independent(fam.Mixture(fam.Normal(), 2), (2,)),
    "transformed_simplex": fam.Transformed(fam.MultivariateNormal(1), StickBreakingTransform()),
}


def _nested() -> fam.Nested:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        inner = ad.Factorization(2, fam.Bernoulli())
        return fam.Nested(random_made(inner, context_shape=(3,), hidden_features=(8,)))


FACTORIZATIONS = {
    **{
        f"bernoulli-{name}": ad.Factorization(
            4 if name == "ties" else (2, 2), fam.Bernoulli(), ordering=ordering
        )
        for name, ordering in ORDERINGS.items()
    },
    **{
        f"normal-{name}": ad.Factorization(4, fam.Normal(), ordering=ordering)
        for name, ordering in ORDERINGS.items()
    },
    **{f"{name}-2": ad.Factorization(2, family) for name, family in FAMILIES.items()},
    **{
        f"{name}-along": ad.Factorization((2, 2), family, partition=ad.Partition.along(dim))
        for dim, (name, family) in zip(cycle((0, 1)), VECTORS.items(), strict=False)
    },
    "scalar": ad.Factorization((), fam.Normal()),
    "nested": ad.Factorization((2, 2), _nested(), partition=ad.Partition.along(0)),
    "nested-columns": ad.Factorization.columns(
        {"a": fam.Bernoulli(), "b": _nested(), "c": fam.Categorical(3)}
    ),
    "ended": ad.Factorization(4, fam.Categorical(3), end=2),
    "ended-padded": ad.Factorization(
        (2, 2), fam.Categorical(3), ordering=ad.Ordering.random(3), end=1, pad=0
    ),
    "ended-columns": ad.Factorization(
        3,
        [fam.Categorical(4), fam.Bernoulli(), fam.Categorical(3)],
        ordering=ad.Ordering.reverse(),
        end=1,
        pad=0,
    ),
    "one-bernoulli": ad.Factorization(1, fam.Bernoulli()),
    "columns": ad.Factorization.columns(
        a=fam.Bernoulli(), b=fam.Normal(), c=fam.Categorical(3), d=fam.Bernoulli()
    ),
    "columns-permuted": ad.Factorization.columns(
        {"a": fam.Categorical(2), "b": fam.Gamma(), "c": fam.Categorical(3)},
        ordering=ad.Ordering.permutation([1, 2, 0]),
    ),
    "columns-in-units": ad.Factorization.columns(  # two are evaluated together
        a=fam.Transformed(fam.Normal(0.1), AffineTransform(1.0, 0.5)),
        b=fam.Bernoulli(),
        c=fam.Transformed(fam.Normal(0.2), AffineTransform(-2.0, 2.0)),
    ),
    "columns-ties": ad.Factorization.columns(
        {"a": fam.Normal(), "b": fam.Bernoulli(), "c": fam.Categorical(3), "d": fam.Bernoulli()},
        ordering=ad.Ordering.from_ranks([1, 0, 0, 2]),
    ),
    "image-raster": ad.Factorization((3, 3), fam.Bernoulli()),
    "image-turned": ad.Factorization(
        (3, 3), fam.Bernoulli(), ordering=ad.Ordering.from_ranks([[6, 3, 0], [7, 4, 1], [8, 5, 2]])
    ),
    "image-snake": ad.Factorization((3, 3), fam.Bernoulli(), ordering=ad.Ordering.snake()),
    "image-diagonal": ad.Factorization((3, 3), fam.Normal(), ordering=ad.Ordering.diagonal()),
    "image-spiral": ad.Factorization((3, 3), fam.Bernoulli(), ordering=ad.Ordering.spiral()),
    "image-hilbert": ad.Factorization((3, 3), fam.Normal(), ordering=ad.Ordering.hilbert()),
    "image-checkerboard": ad.Factorization(
        (3, 3), fam.Bernoulli(), ordering=ad.Ordering.checkerboard()
    ),
    "image-multiscale": ad.Factorization(
        (3, 3), fam.Bernoulli(), ordering=ad.Ordering.multiscale(3)
    ),
    "image-channels": ad.Factorization(
        (2, 3, 2), VECTORS["independent"], partition=ad.Partition.along(0, 1)
    ),
    "patches": ad.Factorization(
        (4, 2), fam.Independent(fam.Bernoulli(), (2, 1)), partition=ad.Partition.patches((2, 1))
    ),
    "labels": ad.Factorization(
        (2, 3),
        [
            fam.Independent(fam.Bernoulli(), (2,)),
            fam.Independent(fam.Bernoulli(), (3,)),
            fam.Categorical(3),
        ],
        partition=ad.Partition.from_labels([[0, 1, 0], [2, 1, 1]]),
        ordering=ad.Ordering.permutation([2, 0, 1]),
    ),
    "columns-of-simplexes": ad.Factorization.columns(a=fam.Dirichlet(2), b=fam.Dirichlet(2)),
    "columns-of-one-family": ad.Factorization.columns(a=fam.Bernoulli(), b=fam.Bernoulli()),
    "split": ad.Factorization(
        4,
        [fam.Bernoulli(), VECTORS["dirichlet"], fam.Bernoulli()],
        partition=ad.Partition.split([1, 2, 1]),
        ordering=ad.Ordering.reverse(),
    ),
}  # fmt: skip


class Plain(networks.ConditionalNetwork):
    """A user's network: masked linear maps, and no decoder of its own."""

    def __init__(self, factorization: ad.Factorization, context_shape: tuple[int, ...] = ()):
        super().__init__(factorization, context_shape=context_shape)
        layout = factorization.layout
        reads = factorization.dependencies.to(DEVICE)
        for dim, kind in enumerate(("param", "feature")):
            reads = reads.repeat_interleave(torch.tensor(layout.sizes[kind]), dim)
        self.register_buffer("mask", reads.to(torch.get_default_dtype()), persistent=False)
        self.weight = nn.Parameter(torch.randn(self.mask.shape) * 0.3)
        self.bias = nn.Parameter(torch.randn(self.mask.shape[0]) * 0.3)
        self.context = nn.Linear(3, self.mask.shape[0]) if context_shape else None

    def forward(self, blocks, context=None, ranks=None):
        features = self.factorization.layout.features(blocks).to(self.weight.dtype)
        params = features @ (self.weight * self.mask).T + self.bias
        if context is not None:
            encoding = self.context(context)
            params = (params.unflatten(0, (-1, context.shape[0])) + encoding).flatten(0, 1)
        return params.reshape(blocks.shape[0], *self.factorization.layout.param_shape)


def _of(network: Callable[..., nn.Module], **options: object) -> Callable[..., nn.Module]:
    return lambda fac, **context: network(fac, **options, **context)


class TinyGPT(nn.Module):
    """A causal module for blocks of any kind. Its outputs depend on the input at their position."""

    is_causal = True

    def __init__(self, fac: ad.Factorization, context_shape: tuple[int, ...] = ()):
        super().__init__()
        family = fac.layout.families[0]
        self.embed = nn.Linear(max(1, family.event_shape.numel()), 16)
        self.position = nn.Parameter(torch.randn(9, 16))
        self.attend = nn.Linear(16, 48)
        self.mix = nn.Sequential(nn.Linear(16, 48), nn.GELU(), nn.Linear(48, family.num_params))
        self.context = nn.Linear(3, 16) if context_shape else None

    def forward(self, blocks, context=None):
        values = blocks.reshape(*blocks.shape[:2], -1).to(self.position.dtype).asinh()
        x = self.embed(values) + self.position[: blocks.shape[1]]
        if context is not None:
            x = x + self.context(context).unsqueeze(1)
        q, k, v = self.attend(x).chunk(3, -1)
        return self.mix(x + F.scaled_dot_product_attention(q, k, v, is_causal=self.is_causal))


def _foreign(fac: ad.Factorization, context_shape: tuple[int, ...] = ()) -> nn.Module:
    return networks.FromModule(TinyGPT(fac, context_shape), fac, context_shape=context_shape)


class TinyBERT(TinyGPT):
    """A bidirectional module, for blocks of any kind."""

    is_causal = False


def _masked_module(fac: ad.Factorization, context_shape: tuple[int, ...] = ()) -> nn.Module:
    module = TinyBERT(fac, context_shape)
    mask = 7 if fac.layout.is_index else 7.0
    return networks.Masked.from_module(module, fac, mask=mask, context_shape=context_shape)


MADE = {"hidden_features": (48, 48)}
GPT = {"dim": 16, "depth": 2, "heads": 2}

NETWORKS = {
    "made": _of(random_made, **MADE),
    "made-residual": _of(random_made, **MADE, residual=True, direct=False, activation=torch.tanh),
    "made-linear": _of(random_made, hidden_features=()),
    "rnn-tanh": _of(networks.RNN, hidden_size=16, cell="tanh"),
    "rnn-gru": _of(networks.RNN, hidden_size=16, cell="gru", num_layers=2),
    "rnn-lstm": _of(networks.RNN, hidden_size=16, cell="lstm", num_layers=2, embedding_size=5),
    "wavenet": _of(networks.WaveNet, channels=16, depth=4),
    "wavenet-cycles": _of(
        networks.WaveNet, channels=16, depth=4, kernel_size=3, max_dilation=2, skip_channels=12
    ),
    "transformer": _of(networks.Transformer, **GPT),
    "transformer-plain": _of(networks.Transformer, **GPT, any_order=False),
    "transformer-rotary": _of(networks.Transformer, **GPT, positions="rotary"),
    # Two windows of 5 reach everywhere on grids of 3: other orders than raster may need both.
    "pixelcnn": _of(networks.PixelCNN, channels=16, depth=2, kernel_size=5),
    "unshared": _of(networks.Unshared, hidden_features=(24,)),
    # A window that reaches back to the first block of the longest factorization here.
    "markov": _of(networks.Markov, window=8, hidden_features=(48,)),
    "masked": _of(networks.Masked, hidden_features=(32, 32)),
    "masked-module": _masked_module,
    "foreign": _foreign,
    "plain": Plain,
}


# Families meet one network of each kind; orders and partitions meet all of them.
_MEETS_ALL_FAMILIES = (
    "made",
    "rnn-gru",
    "wavenet",
    "transformer",
    "unshared",
    "markov",
    "masked",
    "foreign",
    "plain",
)

# What the networks can follow, by the first part of their names; the others follow anything.
FOLLOWS: dict[str, Callable[[ad.Factorization], bool]] = {
    "rnn": lambda fac: fac.is_total,
    "wavenet": lambda fac: fac.is_total,
    "transformer": lambda fac: fac.is_transitive,
    "pixelcnn": lambda fac: len(fac.grid_shape) == 2 and fac.is_uniform and fac.is_transitive,
    "markov": lambda fac: fac.is_total and fac.is_uniform,
    "foreign": lambda fac: fac.is_total and fac.is_uniform,
    "masked-module": lambda fac: fac.is_uniform,
}


def fits(network: str, factorization: str) -> bool:
    """Whether a network can follow a factorization's order, and the pair is in the table."""
    follows = FOLLOWS.get(network, FOLLOWS.get(network.split("-")[0]))
    if follows is not None and not follows(FACTORIZATIONS[factorization]):
        return False
    name = factorization.removesuffix("-2").removesuffix("-along")
    return network in _MEETS_ALL_FAMILIES or name not in {**FAMILIES, **VECTORS}


def _covering() -> list[tuple[str, str]]:
    """Every factorization once, under the network that fits it and has had the fewest so far."""
    taken = dict.fromkeys(NETWORKS, 0)
    chosen = []
    for factorization in FACTORIZATIONS:
        network = min((name for name in NETWORKS if fits(name, factorization)), key=taken.get)
        taken[network] += 1
        chosen.append((network, factorization))
    return chosen


COVERING = _covering()

# A network sees the features of a family and the number of its parameters, so that six families
# represent all of them: two of indices, two of reals and two of vectors.
_SIX_FAMILIES = (
    *("categorical-2", "discretized-2", "gamma-2", "mixture-2"),
    *("dirichlet-along", "independent-along"),
)


def is_of_a_family(factorization: str) -> bool:
    """Whether the factorization is there for its family alone."""
    return factorization.removesuffix("-2").removesuffix("-along") in {**FAMILIES, **VECTORS}


# For properties of the pair: each network with each order and partition, and with six families.
# All families are in the covering set.
CASES = [
    (network, factorization)
    for network in NETWORKS
    for factorization in FACTORIZATIONS
    if fits(network, factorization)
    and (
        not is_of_a_family(factorization)
        or factorization in _SIX_FAMILIES
        or (network, factorization) in COVERING
    )
]

# For properties of the distribution: the covering set, and each network with a raster order, with
# ties and with columns.
_OF_EACH_NETWORK = ("normal-raster", "normal-ties", "columns")
REPRESENTATIVE = [
    (network, factorization)
    for network, factorization in CASES
    if (network, factorization) in COVERING
    or factorization in _OF_EACH_NETWORK
    or (network == "pixelcnn" and factorization in ("image-raster", "image-diagonal"))
]


def build(
    network: str, factorization: str, context_shape: tuple[int, ...] = (), **kind: str
) -> nn.Module:
    """A freshly initialized network of the table, always the same one."""
    torch.manual_seed(7)
    # A nested network belongs to the one around it.
    fac = copy.deepcopy(FACTORIZATIONS[factorization])
    return NETWORKS[network](fac, context_shape=context_shape, **kind)


def condition(network: nn.Module, batch: int | None = None) -> ad.AutoregressiveDistribution:
    """Its distribution, under `batch` contexts if it takes one."""
    if not network.context_shape:
        return network.condition()
    like = next(network.parameters())
    generator = torch.Generator(like.device).manual_seed(5)
    shape = CONTEXT if batch is None else (batch, *CONTEXT)
    context = torch.randn(shape, generator=generator, device=like.device)
    return network.condition(context.to(like.dtype))


def wild_params(family: fam.Family, count: int) -> torch.Tensor:
    """Raw parameters from 0.1 to 1e6 in size, or about 1."""
    size = 10 ** (7 * torch.rand(count, 1) - 1)
    is_wild = torch.rand(count, family.num_params) < 0.7
    return torch.randn(count, family.num_params) * torch.where(is_wild, size, 1.0)


def slow_except(values: Sequence[object], *quick: object) -> list[object]:
    """Values of a parametrized test, of which all but some are marked as slow."""
    return [
        value
        if value in quick
        else pytest.param(
            *(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow
        )
        for value in values
    ]
