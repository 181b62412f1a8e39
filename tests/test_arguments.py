"""Every public parameter rejects invalid values with an error that names it.

The signatures give the parameters, and the annotations give the invalid values. A new parameter is
covered as soon as `VALID` has a call of its callable, and a test checks that it has.
"""

import collections.abc
import functools
import inspect
import itertools
import math
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence

import matplotlib.axes
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from test_package import PUBLIC
from torch import Size, Tensor, nn
from torch.distributions import ExpTransform

import ardist as ad
from ardist import families as fam
from ardist import networks, tables

# Public names that are not tested here, and why.
RULES = [
    rule
    for rule in vars(ad.rules).values()
    if isinstance(rule, type) and issubclass(rule, ad.rules.Rule)
]
INSIDE = {
    "CheckError": "raised, and not made by users",
    "AutoregressiveDistribution.checked": "for what is made of it; `log_prob` is held",
    "AutoregressiveDistribution.checked_mask": "for what is made of it; `given` is held",
    "AutoregressiveDistribution.check_value": "for what is made of it; `log_prob` is held",
    "AutoregressiveDistribution.score_parts": "called by Pyro; `log_prob` is held",
    "Particles": "a result",
    "Marginal": "made by `AutoregressiveDistribution.marginal`",
    "Calibration": "a result, of which the method is held",
    "Estimate": "a result",
    "Exposure": "a result",
    "History": "a result",
    "Reach": "a result",
    "Specified.to_spec": "takes no arguments",
    "Step": "a result",
    "Family": "abstract, and made of nothing",
    "Ordering": "made by its static methods",
    "Partition": "made by its static methods",
    "Decoder": "for those who write networks, and called once a step",
    "StaticStep": "for those who write networks, and called once a step",
    "DrawStep.forward": "called once a step, and recorded",
    "AutoregressiveDistribution.batch": "for what is made of it; `log_prob` is held",
    "AutoregressiveDistribution.batch_of": "for what is made of it; `log_prob` is held",
    "AutoregressiveDistribution.reparameterized": "for families made of it; `rsample` is held",
    "AutoregressiveDistribution.with_first": "for what is made of it; `given` is held",
    "AutoregressiveDistribution.with_next": "for what is made of it; `marginal` is held",
    "AutoregressiveDistribution.draws_of": "for distributions made of it, which have checked",
    "AutoregressiveDistribution.observed_log_prob": "for mixtures of it; `Mixture.given` is held",
    "Marginal.observed_log_prob": "for mixtures of it; `Mixture.given` is held",
    "Mixture.observed_log_prob": "for mixtures of it; `Mixture.given` is held",
    "AutoregressiveDistribution.scores_of": "for distributions made of it, which have checked",
    "Factorization.block_name": "for messages",
    "Factorization.inside": "for distributions, which have checked",
    "Factorization.replace": "the constructor is held",
    "ConditionalNetwork.unsupported_reason": "answers with the reason why not",
    "ConditionalNetwork.make_decoder": "for those who write networks; `decoder` is held",
    "ConditionalNetwork.make_static_step": "for those who write networks; `DrawStep` is held",
    "ConditionalNetwork.forward": "for those who write networks, and called once a pass",
    "ConditionalNetwork.hidden_states": "for those who write networks, and called once a pass",
    "load": "reads a file; the table of errors holds its arguments",
    "save": "writes a file; the table of errors holds its arguments",
    "ConditionalNetwork.set_extra_state": "called by torch",
    "record": "passes its arguments on to torch.export",
    "Report": "made by `TableDensity.report`",
    **{
        f"{kind.__name__}.{method}": "takes tables; the table of errors and tests/tables hold them"
        for kind in (tables.TableDensity, tables.Schema, tables.Report)
        for method, member in vars(kind).items()
        if inspect.isfunction(getattr(member, "__func__", member)) and not method.startswith("_")
    },
    "TableDensity": "checks its arguments in `fit`, as scikit-learn asks",
    "Schema": "made by `Schema.of`",
    "write": "writes files; the table of errors holds its network",
    "At": "made by the package, for rules",
    "At.number": "for those who write rules",
    "Interval": "a result of rules",
    "Factorization.placeholder": "for networks and distributions",
    **{
        f"{rule.__name__}.{method}": "for those who write rules, and called once a step or a pass"
        for rule in RULES
        for method, member in vars(rule).items()
        if inspect.isfunction(member) and not method.startswith("_")
    },
    "Rule": "abstract, and made of nothing",
}

# Odd values that are accepted: parameters, alone or after their callable; values; and why.
ACCEPTED = (
    ("value, x, y", "truth values, integers", "converted to the dtype of the network"),
    ("sample_shape", "(0,)", "no draws, and `ancestral` says that there are none to show"),
    ("end, pad, seed, dims, cache_size", "0", "the first symbol, and so on"),
    ("seed, dims", "-1", "a seed as any other; the last dimension"),
    ("ranks, labels", "-1", "only their order matters"),
    ("ranks", "(-1,), (0,), Size((-1,))", "only their order matters"),
    ("ranks, labels", "a dimension more", "those of a grid of that shape"),
    ("perm", "(0,), a dimension more", "the permutation of one block; it is flattened"),
    (
        "split.x, merge.blocks, unpack.x",
        "complex, meta, another dtype, half precision",
        "only shapes matter",
    ),
    ("merge.blocks", "truth values, integers", "only shapes matter"),
    (
        "crps.draws, crps.x",
        "another dtype, half precision",
        "scored in the dtype that both have in common",
    ),
    ("crps.draws", "truth values, integers", "counts"),
    ("adjacency", "another dtype, half precision, integers", "0 and 1"),
    (
        "quantiles",
        "another dtype, half precision, integers, truth values, (True,)",
        "numbers within [0, 1]",
    ),
    (
        "start",
        "-1.0, another dtype, half precision, integers, truth values",
        "converted to the dtype of blocks",
    ),
    ("Independent.shape", "()", "a block of one number"),
    ("Truncated.low", "-1.0", "any number below the other bound"),
    ("Truncated.high", "inf", "no bound"),
    ("plot.axes", "()", "nothing is drawn"),
    ("columns", "{'x': ...}", "a column of that name"),
    ("model, init_loc_fn", "a class", "it can be called, too"),
    ("FromModule.module, Markov.module", "a module", "any module can be causal; `check=` looks"),
    ("AutoregressiveTransform.log_abs_det_jacobian.x", "*", "y tells all"),
    ("Rosenblatt.log_abs_det_jacobian.y", "*", "x tells all"),
    ("walk.start, walk.stop, initial, symbol", "0", "the first node or symbol"),
    ("symbol, End.pad", "-1", "the factorization refuses it"),
    ("total, absent", "-1.0", "any number"),
    ("When.column", "'x'", "the factorization refuses it"),
    ("regex.symbols", "'x'", "each character is a symbol"),
    ("fit.warmup", "0", "no warm-up"),
    ("fit.checkpoint", "'x'", "a file of that name"),
    ("fit.callbacks", "()", "none"),
)

# Parameters that have another name in messages, since they are passed on unchanged.
RENAMED = {
    "LogLikelihood.forward.x": "value",
    "Factorization.columns.families": "columns",
    "Within.named": "columns",
}


# Objects that the calls use.

NORMAL = fam.Normal()
FAC = ad.Factorization(4, NORMAL)
BITS = ad.Factorization(3, fam.Bernoulli())
COLUMNS = ad.Factorization.columns(a=fam.Bernoulli(), b=NORMAL)
CONTEXT = torch.zeros(2, 5)
X = torch.zeros(2, 4)
MASK = torch.tensor([True, True, False, False])


def made(fac, context_shape=()):
    return networks.MADE(fac, hidden_features=8, context_shape=context_shape)


def model():
    pyro.sample("x", dist.Normal(0.0, 1.0).expand((2,)).to_event(1))


NET = made(FAC, (5,)).eval()
P = NET.condition(CONTEXT)
FREE = made(FAC).condition()
ANY_SET = networks.Masked(FAC, hidden_features=8).condition()
DISCRETE = made(BITS).condition()
MIXTURE = ad.Mixture(dist.Categorical(torch.ones(2)), [P, FREE])
FLOW = ad.transforms.AutoregressiveTransform(NET, CONTEXT)
UNIFORMS = ad.transforms.Rosenblatt(P)
RASTER, IMAGE = ad.Ordering.raster(), ad.Factorization((3, 3), fam.Bernoulli())


class Foreign(nn.Module):
    def forward(self, blocks, context=None):
        return torch.zeros(*blocks.shape, 2)


class Factor(nn.Module):
    def forward(self, inputs):
        return torch.zeros(inputs.shape[0], 1)


def guide():
    result = ad.guides.AutoAutoregressive(model)
    result()
    return result


def of(self=None, **arguments):
    """The arguments of a call that is right."""
    return arguments if self is None else {"self": self, **arguments}


# A valid call of each callable, with a value for each tensor.
NETWORK = {"context_shape": (5,), "context_kind": "vector", "dropout": 0.1}
VALID: dict[str, Callable[[], dict[str, object]]] = {
    "AutoregressiveDistribution": lambda: of(
        network=NET, context=CONTEXT, params=dict(NET.named_parameters()), factorization=FAC
    ),
    "ConditionalNetwork.start_at": lambda: of(made(FAC, (5,)), x=X),
    "AutoregressiveDistribution.conditionals": lambda: of(P, value=X),
    "AutoregressiveDistribution.enumerate_support": lambda: of(DISCRETE, expand=True),
    "AutoregressiveDistribution.expand": lambda: of(P, batch_shape=(3, 2)),
    "AutoregressiveDistribution.given": lambda: of(P, value=X, mask=MASK),
    "AutoregressiveDistribution.log_prob": lambda: of(P, value=X),
    "AutoregressiveDistribution.log_prob_blocks": lambda: of(P, value=X),
    "AutoregressiveDistribution.marginal": lambda: of(P, mask=MASK),
    "AutoregressiveDistribution.rsample": lambda: of(P, sample_shape=(3,), tol=0.0),
    "AutoregressiveDistribution.rsample_and_log_prob": lambda: of(P, sample_shape=(3,), tol=0.0),
    "AutoregressiveDistribution.sample": lambda: of(P, sample_shape=(3,)),
    "AutoregressiveDistribution.sample_and_log_prob": lambda: of(P, sample_shape=(3,)),
    "AutoregressiveDistribution.with_families": lambda: of(P, families=fam.Laplace()),
    "AutoregressiveDistribution.with_ordering": lambda: of(P, ordering=torch.arange(4)),
    "DrawStep": lambda: of(network=made(FAC).eval(), factorization=FAC),
    "DrawStep.start": lambda: of(ad.DrawStep(NET), num_rows=4, context=CONTEXT),
    "AutoregressiveDistribution.with_rule": lambda: of(DISCRETE, rule=ad.rules.Sum(2)),
    "All": lambda: of(rules=(ad.rules.Sum(2),)),
    "Automaton": lambda: of(table=torch.zeros(1, 2, dtype=torch.int64), accepting=(0,), initial=0),
    "Automaton.regex": lambda: of(pattern="a*", symbols="ab", end=0, pad=0),
    "Automaton.walk": lambda: of(adjacency=torch.ones(2, 2), start=0, stop=1),
    "End": lambda: of(symbol=1, pad=0),
    "Sum": lambda: of(total=2),
    "When": lambda: of(column="a", values={1}, absent={"b": 0.0}),
    "Within": lambda: of(columns={"a": (0, 1)}, named={"b": {1}}),
    "Distinct": of,
    "Factorization": lambda: of(
        event_shape=(3,), families=fam.Categorical(3), partition=ad.Partition.scalars(),
        ordering=RASTER, names=("a", "b", "c"), end=1, pad=0,
    ),
    "Factorization.columns": lambda: of(
        columns={"a": NORMAL}, ordering=RASTER, families={"b": NORMAL}
    ),
    "Factorization.enumerate_support": lambda: of(BITS),
    "Factorization.merge": lambda: of(FAC, blocks=X),
    "Factorization.pack": lambda: of(COLUMNS, columns={"a": [0, 1], "b": [0.5, 1.0]}),
    "Factorization.split": lambda: of(FAC, x=X),
    "Factorization.unpack": lambda: of(COLUMNS, x=torch.zeros(3, 2)),
    "Factorization.with_families": lambda: of(FAC, families=NORMAL),
    "Factorization.with_ordering": lambda: of(FAC, ordering=RASTER),
    "LogLikelihood": lambda: of(network=NET, nan_policy="raise"),
    "LogLikelihood.forward": lambda: of(
        ad.LogLikelihood(NET), x=X, context=CONTEXT, ordering=torch.arange(4)
    ),
    "Marginal.expand": lambda: of(P.marginal(MASK), batch_shape=(3, 2)),
    "Marginal.given": lambda: of(P.marginal(MASK), value=X[:, :2], mask=MASK[:2]),
    "Marginal.log_prob": lambda: of(P.marginal(MASK), value=X[:, :2]),
    "Marginal.marginal": lambda: of(P.marginal(MASK), mask=MASK[:2]),
    "Marginal.rsample": lambda: of(P.marginal(MASK), sample_shape=(3,)),
    "Marginal.sample": lambda: of(P.marginal(MASK), sample_shape=(3,)),
    "Mixture": lambda: of(mixing=dist.Categorical(torch.ones(2)), components=[P, FREE]),
    "Mixture.enumerate_support": lambda: of(
        ad.Mixture(dist.Categorical(torch.ones(1)), [DISCRETE]), expand=True
    ),
    "Mixture.expand": lambda: of(MIXTURE, batch_shape=(3, 2)),
    "Mixture.given": lambda: of(MIXTURE, value=X, mask=MASK),
    "Mixture.log_prob": lambda: of(MIXTURE, value=X),
    "Mixture.marginal": lambda: of(MIXTURE, mask=MASK),
    "Mixture.rsample": lambda: of(MIXTURE, sample_shape=(3,)),
    "Mixture.sample": lambda: of(MIXTURE, sample_shape=(3,)),
    "OrderingMixture": lambda: of(
        network=NET, orderings=[RASTER], context=CONTEXT, params=dict(NET.named_parameters())
    ),
    "Ordering.checkerboard": of,
    "Ordering.column_major": of,
    "Ordering.dependencies": lambda: of(RASTER, grid_shape=Size((2, 2))),
    "Ordering.diagonal": of,
    "Ordering.from_graph": lambda: of(adjacency=torch.zeros(3, 3, dtype=torch.bool)),
    "Ordering.from_ranks": lambda: of(ranks=torch.arange(3)),
    "Ordering.hilbert": of,
    "Ordering.multiscale": lambda: of(levels=2),
    "Ordering.permutation": lambda: of(perm=torch.arange(3)),
    "Ordering.plot": lambda: of(RASTER, grid_shape=(2, 2)),
    "Ordering.random": lambda: of(seed=3, per_step=2),
    "Ordering.ranks": lambda: of(RASTER, grid_shape=Size((2, 2))),
    "Ordering.raster": of,
    "Ordering.reverse": of,
    "Ordering.show": lambda: of(RASTER, grid_shape=(2, 2)),
    "Ordering.snake": of,
    "Ordering.spiral": of,
    "Partition.along": lambda: of(dims=(0, 1)),
    "Partition.apply": lambda: of(ad.Partition.along(0), event_shape=Size((2, 3))),
    "Partition.from_labels": lambda: of(labels=torch.arange(3)),
    "Partition.patches": lambda: of(size=(2, 2)),
    "Partition.scalars": of,
    "Partition.split": lambda: of(sizes=[2, (2, 2)]),
    "Bernoulli": of,
    "Beta": of,
    "Categorical": lambda: of(num_categories=3),
    "Dirichlet": lambda: of(size=3),
    "DiscretizedLogisticMixture": lambda: of(num_components=2, bins=4),
    "Exponential": of,
    "Gamma": of,
    "Geometric": of,
    "Hurdle": lambda: of(points=(0.0,), family=NORMAL),
    "Independent": lambda: of(family=NORMAL, shape=(2, 3)),
    "Laplace": lambda: of(min_scale=0.1),
    "LogNormal": lambda: of(min_scale=0.1),
    "Logistic": lambda: of(min_scale=0.1),
    "LowRankMultivariateNormal": lambda: of(size=3, rank=1),
    "families.Mixture": lambda: of(family=NORMAL, num_components=3),
    "MultivariateNormal": lambda: of(size=3),
    "NegativeBinomial": of,
    "Nested": lambda: of(network=NET),
    "Normal": lambda: of(min_scale=0.1),
    "Nucleus": lambda: of(family=fam.Categorical(3), p=0.5),
    "OneHotCategorical": lambda: of(num_categories=3),
    "Ordinal": lambda: of(num_levels=3),
    "Parametric": lambda: of(
        cls=dist.Weibull, event_shape=(), links={"scale": torch.exp}, fixed={"concentration": 2.0},
        shapes={"scale": ()},
    ),
    "Poisson": of,
    "Relaxed": lambda: of(family=fam.Bernoulli(), temperature=0.5, straight_through=True),
    "Rounded": lambda: of(family=NORMAL),
    "Spline": lambda: of(bins=4, bound=3.0, min_scale=0.1),
    "StudentT": lambda: of(min_scale=0.1),
    "Tempered": lambda: of(family=NORMAL, temperature=0.5),
    "TopK": lambda: of(family=fam.Categorical(3), k=2),
    "Truncated": lambda: of(family=NORMAL, low=-1.0, high=2.0),
    "Transformed": lambda: of(family=NORMAL, transforms=[ExpTransform()]),
    "VonMises": of,
    "auto": lambda: of(column=[0.5, 1.5]),
    "AutoAutoregressive": lambda: of(model=model, hidden_features=8, init_scale=0.1),
    "AutoAutoregressive.get_base_dist": lambda: of(guide()),
    "AutoAutoregressive.get_posterior": lambda: of(guide()),
    "AutoAutoregressive.get_transform": lambda: of(guide()),
    "AutoAutoregressive.median": lambda: of(guide()),
    "AutoAutoregressive.quantiles": lambda: of(guide(), quantiles=torch.tensor([0.1, 0.5])),
    "calibration": lambda: of(p=P, x=X),
    "crps": lambda: of(draws=X.expand(3, 2, 4), x=X),
    "entropy": lambda: of(p=P, num_samples=3),
    "kl_divergence": lambda: of(p=P, q=FREE, num_samples=3),
    "MADE": lambda: of(
        factorization=FAC, hidden_features=(8,), context_shape=(5,), direct=True, dropout=0.1
    ),
    "RNN": lambda: of(factorization=FAC, hidden_size=4, num_layers=2, embedding_size=3, **NETWORK),
    "ConditionalNetwork": lambda: of(factorization=FAC, context_shape=(5,), context_kind="vector"),
    "ConditionalNetwork.condition": lambda: of(
        NET, context=CONTEXT, params=dict(NET.named_parameters()), nan_policy="raise"
    ),
    "ConditionalNetwork.decoder": lambda: of(
        NET, batch_size=2, context=CONTEXT, ranks=torch.arange(4), factorization=FAC
    ),
    "ConditionalNetwork.eval_mode": lambda: of(NET),
    "ConditionalNetwork.extra_repr": lambda: of(NET),
    "ConditionalNetwork.get_extra_state": lambda: of(NET),
    "FromModule": lambda: of(
        module=Foreign(), factorization=FAC, start=torch.zeros(()), context_shape=(5,)
    ),
    "Markov": lambda: of(factorization=FAC, window=2, hidden_features=(8,), context_shape=(5,)),
    "Markov with a module": lambda: of(factorization=FAC, window=2, module=Foreign()),
    "Masked": lambda: of(
        factorization=FAC, hidden_features=(8,), residual=True, chunk_size=4, **NETWORK
    ),
    "PixelCNN": lambda: of(
        factorization=IMAGE, channels=4, depth=2, kernel_size=3, dilation=(1, 2), **NETWORK
    ),
    "Transformer": lambda: of(
        factorization=FAC, dim=8, depth=1, heads=2, hidden_features=8, positions="learned",
        **NETWORK,
    ),
    "Unshared": lambda: of(factorization=FAC, hidden_features=(8,), context_shape=(5,)),
    "Unshared with modules": lambda: of(
        factorization=BITS, modules=[Factor(), Factor(), Factor()]
    ),
    "WaveNet": lambda: of(
        factorization=FAC, channels=4, depth=2, kernel_size=2, max_dilation=2, skip_channels=3,
        **NETWORK,
    ),
    "ancestral": lambda: of(p=P, sample_shape=(3,), given=(X, MASK)),
    "beam_search": lambda: of(p=DISCRETE, width=2),
    "fixed_point": lambda: of(p=P, sample_shape=(3,), tol=0.1),
    "greedy": lambda: of(p=DISCRETE),
    "smc": lambda: of(p=DISCRETE, rule=ad.rules.Sum(1), num_particles=20, threshold=0.5),
    "without_replacement": lambda: of(p=DISCRETE, k=2),
    "check_autoregressive": lambda: of(
        network=NET, context=CONTEXT, factorization=FAC, num_draws=1, seed=0
    ),
    "check_decoder": lambda: of(
        network=NET, context=CONTEXT, factorization=FAC, batch_size=2, tolerance=0.1, seed=0
    ),
    "check_normalized": lambda: of(p=DISCRETE, num_points=11, tolerance=0.1),
    "check_shapes": lambda: of(p=DISCRETE),
    "exposure_bias": lambda: of(p=P, x=X, truth=P, num_samples=2),
    "fit": lambda: of(
        network=networks.Masked(ad.Factorization(2, NORMAL), hidden_features=8),
        x=torch.zeros(2, 2), valid=0.5, batch_size=8, lr=0.01, max_epochs=1, steps_per_epoch=1,
        in_order=0.0, optimizer=torch.optim.SGD, average=0.5, progress=False, resume=False,
    ),
    "masked_log_prob": lambda: of(p=ANY_SET, x=X, observed=MASK, in_order=0.5),
    "pseudo_log_prob": lambda: of(p=ANY_SET, x=X),
    "scheduled_log_prob": lambda: of(p=P, x=X, probability=0.5),
    "AutoregressiveTransform": lambda: of(network=NET, context=CONTEXT, cache_size=1),
    "AutoregressiveTransform.forward_shape": lambda: of(FLOW, shape=Size((2, 4))),
    "AutoregressiveTransform.log_abs_det_jacobian": lambda: of(FLOW, x=X, y=X),
    "AutoregressiveTransform.with_cache": lambda: of(FLOW, cache_size=1),
    "Rosenblatt": lambda: of(p=P, cache_size=1),
    "Rosenblatt.forward_shape": lambda: of(UNIFORMS, shape=Size((2, 4))),
    "Rosenblatt.log_abs_det_jacobian": lambda: of(UNIFORMS, x=X, y=X),
    "Rosenblatt.randomized": lambda: of(UNIFORMS, x=X),
    "Rosenblatt.with_cache": lambda: of(UNIFORMS, cache_size=1),
    "Calibration.plot": lambda: of(ad.information.calibration(P, X.expand(3, 2, 4))),
}  # fmt: skip


def _public():
    """What is called, by its name: functions, constructors and methods, each of them once."""
    found = {}
    for name, value in PUBLIC.items():
        found["families.Mixture" if value is fam.Mixture else name.split(".")[-1]] = value
        # Families and networks keep the contract that their base has.
        bases = value.__mro__ if inspect.isclass(value) else ()
        kept = fam.Family | networks.Decoder | networks.StaticStep
        if issubclass(value, kept) if bases else True:
            continue
        if issubclass(value, networks.ConditionalNetwork):
            bases = [value] if value is networks.ConditionalNetwork else []
        for base in bases:
            for method, function in vars(base).items():
                function = getattr(function, "__func__", function)
                if (
                    inspect.isfunction(function)
                    and function.__module__.startswith("ardist.")
                    and not method.startswith("_")
                    and function not in found.values()
                ):
                    found[f"{base.__name__}.{method}"] = function
    return found


CALLABLES = _public()


def test_each_callable_has_a_call_that_is_right():
    held = {name.split()[0] for name in VALID}
    assert held | set(INSIDE) == set(CALLABLES)
    assert not held & set(INSIDE)


# Values that are wrong for some kinds of parameter, and for which `_fits` is asked.

TYPES = {
    "None": None,
    "True": True,
    "-1": -1,
    "4.0": 4.0,
    "nan": math.nan,
    "'x'": "x",
    "b'x'": b"x",
    "(-1,)": (-1,),
    "(1.5,)": (1.5,),
    "(True,)": (True,),
    "['x']": ["x"],
    "[None]": [None],
    "{'x': 1}": {"x": 1},
    "{3, 2}": {3, 2},
    "a generator": (each for each in ()),
    "an object": object(),
    "a class": int,
    "a function": model,
    "a module": nn.Linear(2, 2),
    "a distribution": dist.Normal(0.0, 1.0),
    "a tensor of one": torch.tensor(1.5),
    "a tensor": torch.zeros(7, 7),
    "an array of strings": np.array(["x"]),
}


def _fits(value, hint):
    """Whether a value is of the kind that an annotation says."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is typing.Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is type:
        return isinstance(value, type) and issubclass(value, inner[0])
    if origin is collections.abc.Callable:
        return callable(value)
    if origin is Mapping:
        keys, values = inner
        return isinstance(value, Mapping) and all(
            _fits(key, keys) and _fits(one, values) for key, one in value.items()
        )
    if origin in (Sequence, tuple):
        kind = tuple if origin is tuple else Sequence
        each = isinstance(value, kind) and not isinstance(value, str | bytes)
        return each and all(_fits(one, inner[0]) for one in value)
    if hint in (int, float):
        kinds = (int,) if hint is int else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool)
    if hint is Size:
        return isinstance(value, Size)
    return isinstance(value, origin or hint or type(None))


def _edges(hint, valid):
    """Values of the right kind, which may be wrong nonetheless."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for one in inner:
            yield from _edges(one, valid)
    elif hint is int:
        yield from {"0": 0, "-1": -1}.items()
    elif hint is float:
        yield from {"-1.0": -1.0, "nan": math.nan, "inf": math.inf}.items()
    elif hint is str:
        yield "'x'", "x"
    elif hint is Size or (origin is Sequence and inner[0] is int):
        yield from {"(-1,)": (-1,), "(0,)": (0,), "Size((-1,))": Size((-1,))}.items()
    elif origin in (Sequence, tuple):
        yield "()", ()
    elif origin is Mapping and isinstance(valid, Mapping):
        right = next(iter(valid.values()))
        yield from {"{'x': ...}": {"x": right}, "{1: ...}": {1: right}}.items()
    elif origin is collections.abc.Callable:
        yield "a class", int
    elif inspect.isclass(hint) and issubclass(hint, nn.Module):
        yield "a module", nn.Linear(2, 2)
    elif hint is Tensor and isinstance(valid, Tensor):
        other = torch.float64 if valid.is_floating_point() else torch.float32
        yield "complex", valid.to(torch.complex64)
        yield "sparse", valid.to_sparse()
        yield "meta", valid.to("meta")
        yield "a dimension more", valid.unsqueeze(-1)
        for label, dtype in (
            ("another dtype", other),
            ("half precision", torch.float16),
            ("truth values", torch.bool),
            ("integers", torch.int64),
        ):
            if dtype != valid.dtype:
                yield label, valid.to(dtype)


def _parameters(function):
    """Each parameter that is not Python's own or private, and its annotation."""
    init = function.__init__ if inspect.isclass(function) else function
    known = {**vars(inspect.getmodule(function)), "Axes": matplotlib.axes.Axes}
    hints = typing.get_type_hints(init, known)
    for name, parameter in inspect.signature(function).parameters.items():
        hint = hints.get(name)
        if not (name == "self" or name.startswith("_") or hint is typing.Any or hint is None):
            yield parameter, hint


def _wrong(hint, valid):
    """Values that a parameter should refuse, by what messages call them."""
    kinds = {label: value for label, value in TYPES.items() if not _fits(value, hint)}
    yield from {**kinds, **dict(_edges(hint, valid))}.items()


def _call(function, arguments):
    """With arguments by name, those of `*args` and `**kwargs` too."""
    signature = inspect.signature(function)
    given = {name: arguments[name] for name in signature.parameters if name in arguments}
    bound = inspect.BoundArguments(signature, given)
    return function(*bound.args, **bound.kwargs)


ROWS = [
    (name, label)
    for names, labels, _ in ACCEPTED
    for name in names.split(", ")
    for label in re.split(r", (?![^(]*\))", labels)
]


def _accepted(place):
    """The values that `Callable.method.parameter` accepts."""
    return {label for name, label in ROWS if f".{place}".endswith(f".{name}")}


def _attempt(function, arguments):
    """What a call raises, if it does."""
    try:
        result = _call(function, arguments)
        if inspect.isgenerator(result):
            next(result)
    except Exception as error:
        return error
    return None


def _is_named(error, name):
    """Whether a message begins with the name of the parameter, `name: ...` or `name[...]: ...`."""
    head = str(error).split(":")[0]
    return isinstance(error, ValueError | TypeError) and name in re.findall(r"\w+", head)


@functools.cache
def _attempts(name):
    """A call with each wrong value of each parameter: place, label and what it raises."""
    called, found = name.split()[0], []
    function, valid = CALLABLES[called], VALID[name]()
    for parameter, hint in _parameters(function):
        for label, value in _wrong(hint, valid.get(parameter.name)):
            if parameter.kind is parameter.VAR_POSITIONAL:
                value = (value,)
            if parameter.kind is parameter.VAR_KEYWORD:
                value = {"x": value}
            error = _attempt(function, {**valid, parameter.name: value})
            found.append((f"{called}.{parameter.name}", label, error))
    return found


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    """Where arguments that are paths may make files."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", VALID)
def test_each_parameter_refuses_what_it_cannot_take(name):
    failures = [
        f"{place}={label}: {type(error).__name__}: {error}"[:150]
        for place, label, error in _attempts(name)
        if not _accepted(place) & {label, "*"}
        and not _is_named(error, RENAMED.get(place, place.split(".")[-1]))
    ]
    assert not failures, "\n" + "\n".join(failures)


def test_no_exception_outlives_its_reason():
    tried = itertools.chain(*map(_attempts, VALID))
    accepted = [(place, label) for place, label, error in tried if error is None]
    for name, label in ROWS:
        assert any(
            f".{place}".endswith(f".{name}") and label in (found, "*") for place, found in accepted
        ), (name, label)


def _alike(value):
    """The same numbers of other types."""
    if isinstance(value, bool):
        return
    if isinstance(value, int):
        yield np.int64(value)
    elif isinstance(value, float):
        yield np.float64(value)
        yield np.float32(value)
    elif isinstance(value, list | tuple) and all(type(one) is int for one in value):
        yield Size(value)
        yield [np.int64(one) for one in value]


VALUES_OF_THE_PACKAGE = fam.Family | ad.Factorization | ad.Ordering | ad.Partition


@pytest.mark.parametrize("name", VALID)
def test_numbers_of_numpy_and_sizes_of_torch_are_taken(name):
    function, valid = CALLABLES[name.split()[0]], VALID[name]()
    result = _call(function, valid)
    for key, value in valid.items():
        for other in _alike(value):
            found = _call(function, {**valid, key: other})
            if isinstance(result, VALUES_OF_THE_PACKAGE) and not isinstance(other, np.float32):
                assert found == result
                assert repr(found) == repr(result)
