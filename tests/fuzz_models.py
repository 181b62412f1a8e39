"""Random models for `fuzz.py`, each from a seed of its own."""

import copy
import itertools
import math
import random
from functools import cached_property

import numpy as np
import pyro.distributions as dist
import torch
from fuzz_definition import Plan, scores, states_of
from table import random_made
from torch import nn

import ardist as ad
from ardist import families as fam
from ardist import networks


class Own(networks.ConditionalNetwork):
    """A user's network: linear, for any order of each row, without a decoder."""

    has_row_orders = True

    def __init__(self, fac, context_shape=()):
        super().__init__(fac, context_shape=context_shape)
        layout = fac.layout
        self.outputs = torch.repeat_interleave(torch.tensor(layout.sizes["param"]))
        self.inputs = torch.repeat_interleave(torch.tensor(layout.sizes["feature"]))
        self.weight = nn.Parameter(torch.randn(len(self.outputs), len(self.inputs)) * 0.4)
        self.bias = nn.Parameter(torch.randn(len(self.outputs)) * 0.3)
        self.read = nn.Linear(2, len(self.outputs)) if context_shape else None

    def forward(self, blocks, context=None, ranks=None):
        fac, depends = self.factorization, self.factorization.dependencies
        if ranks is not None:
            depends = ranks.unsqueeze(-1) > ranks.unsqueeze(-2)
        mask = depends[..., self.outputs, :][..., self.inputs]
        features = fac.layout.features(blocks).to(self.weight.dtype)
        params = ((self.weight * mask) @ features.unsqueeze(-1)).squeeze(-1) + self.bias
        if context is not None:
            params = params + self.read(context).repeat(len(params) // len(context), 1)
        return params.reshape(len(blocks), *fac.layout.param_shape)

    def unsupported_reason(self, fac):
        own, same = self.factorization, fac.ordering.name != "from_graph" or fac.is_total
        alike = (fac.families, fac.partition) == (own.families, own.partition)
        return None if fac == own or (same and alike) else "other blocks"


class Inclusive(nn.Module):
    """A causal module for `FromModule`."""

    def __init__(self, fac, context_shape=()):
        super().__init__()
        family = fac.layout.families[0]
        self.gru = nn.GRU(max(1, math.prod(family.event_shape)), 8, batch_first=True)
        self.head = nn.Linear(8, family.num_params)
        self.read = nn.Linear(2, 8) if context_shape else None

    def forward(self, blocks, context=None):
        hidden = self.gru(
            blocks.flatten(2).to(self.head.bias.dtype).asinh()
            if blocks.dim() > 2
            else blocks[..., None].to(self.head.bias).asinh()
        )[0]
        return self.head(hidden if context is None else hidden + self.read(context)[:, None])


def _made(r, fac, **context):
    direct = r.random() < 0.7
    widths = r.choice([(16,), (12, 12), ()]) if direct else r.choice([(64,), (64, 64)])
    residual = r.random() < 0.3
    return random_made(fac, hidden_features=widths, direct=direct, residual=residual, **context)


NETWORKS = {
    "made": (_made, lambda plan: True),
    "rnn": (
        lambda r, fac, **c: networks.RNN(
            fac, hidden_size=8, cell=r.choice(["tanh", "gru", "lstm"]), num_layers=r.choice([1, 2]),
            **c,
        ),
        lambda plan: plan.total,
    ),
    "wavenet": (
        lambda r, fac, **c: networks.WaveNet(
            fac, channels=8, depth=r.choice([1, 3]), kernel_size=r.choice([2, 3]), **c
        ),
        lambda plan: plan.total,
    ),
    "pixelcnn": (
        lambda r, fac, **c: networks.PixelCNN(
            fac, channels=8, depth=r.choice([1, 2]), kernel_size=r.choice([3, 5]), **c
        ),
        lambda plan: len(plan.grid) == 2 and plan.uniform and plan.transitive,
    ),
    "transformer": (
        lambda r, fac, **c: networks.Transformer(
            fac, dim=8, depth=r.choice([1, 2]), heads=2, any_order=r.random() < 0.8,
            positions=r.choice(["learned", "rotary"]), **c,
        ),
        lambda plan: plan.transitive,
    ),
    "unshared": (
        lambda r, fac, **c: networks.Unshared(fac, hidden_features=r.choice([(), (8,)]), **c),
        lambda plan: True,
    ),
    "markov": (
        lambda r, fac, **c: networks.Markov(
            fac, window=r.choice([1, 2, 8]), hidden_features=8, **c
        ),
        lambda plan: plan.total and plan.uniform,
    ),
    "foreign": (
        lambda r, fac, **c: networks.FromModule(Inclusive(fac, **c), fac, **c),
        lambda plan: plan.total and plan.uniform,
    ),
    "masked": (
        lambda r, fac, **c: networks.Masked(
            fac, hidden_features=r.choice([(12,), (12, 12), (12, 8)]),
            residual=r.random() < 0.7, chunk_size=r.choice([None, 1, 8]), **c,
        ),
        lambda plan: True,
    ),
    "own": (lambda r, fac, **c: Own(fac, **c), lambda plan: True),
}  # fmt: skip

FINITE = [
    lambda r: fam.Bernoulli(),
    lambda r: fam.Categorical(r.choice([2, 3])),
    lambda r: fam.DiscretizedLogisticMixture(2, bins=3),
    lambda r: fam.Mixture(fam.Categorical(3), 2),
    lambda r: fam.TopK(fam.Categorical(3), 2),
    lambda r: fam.Nucleus(r.choice([fam.Categorical(3), fam.Bernoulli()]), 0.8),
    lambda r: fam.Tempered(r.choice([fam.Categorical(3), fam.Bernoulli()]), 0.7),
    lambda r: fam.Relaxed(fam.Bernoulli(), 0.7, straight_through=True),
]
RARE = [lambda r: fam.Parametric(dist.Categorical, shapes={"logits": (3,)})]
NOISE = [lambda r: r.choice([fam.Normal, fam.Laplace, fam.LogNormal, fam.Exponential])()]
COUNTS = [lambda r: fam.Poisson(), lambda r: fam.NegativeBinomial(), lambda r: fam.Geometric()]
REALS = [
    *(lambda r, name=name: getattr(fam, name)()
      for name in ("Normal", "Laplace", "Logistic", "LogNormal", "StudentT", "Gamma", "Beta",
                   "Exponential", "VonMises")),
    lambda r: fam.Mixture(r.choice([fam.Normal(), fam.Logistic(), fam.Gamma()]), 2),
    lambda r: fam.Tempered(r.choice([fam.Normal(), fam.Laplace()]), 0.6),
    lambda r: fam.Parametric(dist.Gumbel),
    lambda r: fam.Relaxed(fam.Bernoulli(), 0.7),
    lambda r: fam.Spline(3),
    lambda r: fam.Transformed(fam.Normal(), dist.transforms.SigmoidTransform()),
]  # fmt: skip


def random_family(r, shape, kind, depth=0):
    """A family of blocks of this shape: finite, or of any kind."""
    pool = list(FINITE)
    if kind != "finite":
        pools = {"noise": NOISE, "real": [*REALS, *COUNTS], "any": [*FINITE, *REALS, *COUNTS]}
        pool = pools[kind]
    if r.random() < 0.01 and kind == "finite":
        pool = RARE
    if not shape:
        return r.choice(pool)(r)
    choices = ["independent"] * 2 + ["nested"] * (depth == 0)
    if len(shape) == 1 and shape[0] > 1:
        finite = ["one_hot", "straight"]
        reals = ["dirichlet", "mvn", "low_rank", "relaxed"]
        choices += {"finite": finite, "noise": ["mvn"]}.get(kind, reals)
    choice = r.choice(choices)
    if choice == "nested":
        return random_nested(r, shape, kind)
    if choice == "independent":
        keep = r.randint(0, len(shape)) if len(shape) > 1 else 0
        inner = random_family(r, shape[keep:] if keep else (), kind, depth)
        return fam.Independent(inner, shape[:keep] if keep else shape)
    size = shape[0]
    one_hot = fam.OneHotCategorical(size)
    return {
        "one_hot": lambda: r.choice([one_hot, one_hot, fam.TopK(one_hot, 1 + (size > 2))]),
        "straight": lambda: fam.Relaxed(one_hot, 0.7, straight_through=True),
        "dirichlet": lambda: fam.Dirichlet(size),
        "mvn": lambda: fam.MultivariateNormal(size),
        "low_rank": lambda: fam.LowRankMultivariateNormal(size, rank=1),
        "relaxed": lambda: fam.Relaxed(one_hot, 0.7),
    }[choice]()


def random_nested(r, shape, kind):
    plan, options = random_plan(r, kind, shape=shape, depth=1)
    fac = ad.Factorization(plan.shape, **options)
    name = r.choice([name for name, (_, fits) in NETWORKS.items() if fits(plan)])
    net = NETWORKS[name][0](r, fac, context_shape=(2,))
    net.plan = plan
    return fam.Nested(net)


def random_partition(r, shape):
    """A partition of a random shape: shape, grid, places and shapes of blocks, and itself."""
    kinds = ["scalars"] * 2 + ["along", "patches", "split", "labels"]
    kind = r.choice(kinds)
    if shape is None:
        shapes = [(), (1,), (2,), (3,), (4,), (2, 2), (2, 3), (3, 2), (1, 2, 2), (2, 1, 2)]
        shape = r.choice(shapes)
    if (kind == "split" and len(shape) != 1) or (kind in ("along", "patches") and not shape):
        kind = "scalars"
    index = np.arange(math.prod(shape)).reshape(shape)
    if kind == "scalars":
        places = [[int(place)] for place in index.flatten()]
        return shape, shape, places, [()] * len(places), ad.Partition.scalars()
    if kind == "along":
        dims = r.sample(range(len(shape)), r.randint(1, len(shape)))
        kept = [dim for dim in range(len(shape)) if dim not in dims]
        grid = tuple(shape[dim] for dim in dims)
        cells = np.transpose(index, (*dims, *kept)).reshape(math.prod(grid), -1)
        block = tuple(shape[dim] for dim in kept)
        return shape, grid, cells.tolist(), [block] * len(cells), ad.Partition.along(*dims)
    if kind == "patches":
        sizes = [r.choice([d for d in range(1, n + 1) if n % d == 0]) for n in shape]
        sizes = sizes[: r.randint(1, len(sizes))]
        grid, block = (
            tuple(n // m for n, m in zip(shape, sizes, strict=False)),
            (*sizes, *shape[len(sizes) :]),
        )
        places = [
            index[tuple(slice(a * m, a * m + m) for a, m in zip(at, sizes, strict=False))]
            .flatten()
            .tolist()
            for at in itertools.product(*map(range, grid))
        ]
        return shape, grid, places, [block] * len(places), ad.Partition.patches(sizes)
    if kind == "split":
        sizes = []
        while sum(sizes) < shape[0]:
            sizes.append(r.randint(1, min(3, shape[0] - sum(sizes))))
        ends = [0, *itertools.accumulate(sizes)]
        places = [list(range(a, b)) for a, b in itertools.pairwise(ends)]
        blocks = [() if size == 1 else (size,) for size in sizes]
        return shape, (len(sizes),), places, blocks, ad.Partition.split(sizes)
    labels = torch.tensor([r.randint(-1, 2) for _ in range(index.size)]).reshape(shape)
    places = [np.flatnonzero(labels.flatten() == n).tolist() for n in labels.unique().tolist()]
    blocks = [() if len(place) == 1 else (len(place),) for place in places]
    return shape, (len(places),), places, blocks, ad.Partition.from_labels(labels)


def random_ordering(r, grid, total=False):
    count = math.prod(grid)
    order = r.sample(range(count), count)
    named = ["raster", "reverse", "column_major", "snake"]
    named += ["spiral"] * (len(grid) == 2) + ["hilbert"] * (len(grid) <= 3)
    named += ["permutation", "random"] * 2
    if not total:
        named += ["diagonal", "checkerboard", "multiscale", "ties", "graph", "graph"]
    name = r.choice(named)
    if name == "multiscale":
        most = 1 + (max(grid, default=1) - 1).bit_length()
        return ad.Ordering.multiscale(r.randint(1, most))
    if name == "ties":
        ranks = [r.randint(0, count) for _ in range(count)]
        return ad.Ordering.from_ranks(torch.tensor(ranks).reshape(grid))
    if name == "graph":
        chance = r.choice([0.3, 0.7, 1.0])
        return ad.Ordering.from_graph(
            [
                [order[j] < order[i] and r.random() < chance for j in range(count)]
                for i in range(count)
            ]
        )
    arguments = {"permutation": [order], "random": [r.randint(0, 99)]}.get(name, [])
    return getattr(ad.Ordering, name)(*arguments)


def random_plan(r, kind, shape=None, depth=0):
    """A plan and the arguments of its factorization."""
    shape, grid, places, blocks, partition = random_partition(r, shape)
    if len(set(blocks)) == 1 and r.random() < 0.6:
        families = [random_family(r, blocks[0], kind, depth)] * len(blocks)
        argument = families[0]
    else:
        argument = families = [random_family(r, block, kind, depth) for block in blocks]
    end = pad = None
    single = [
        states_of(family) if not block else None
        for family, block in zip(families, blocks, strict=True)
    ]
    if r.random() < 0.5 and all(s is not None for s in single):
        smallest = min(map(len, single))
        end, pad = r.randrange(smallest), r.choice([None, r.randrange(smallest)])
    ordering = random_ordering(r, grid, total=end is not None or r.random() < 0.6)
    plan = Plan(shape, grid, places, families, ordering, end, end if pad is None else pad)
    options = {"families": argument, "partition": partition, "ordering": ordering}
    if end is not None:
        options.update(end=end, pad=pad)
    if depth == 0 and r.random() < 0.3 and len(shape) == 1 and not any(blocks):
        options["names"] = [f"c{number}" for number in range(len(blocks))]
    return plan, options


class Model:
    """A network, its copy in float64 for the definition, a context, and the distribution."""

    def __init__(self, seed):
        r = self.r = random.Random(seed)
        torch.manual_seed(seed)
        kind = r.choice(["finite", "finite", "finite", "noise", "real", "any"])
        while True:
            self.plan, self.options = random_plan(r, kind)
            if self.plan.events is not None or (kind != "finite" and self.plan.end is None):
                break
        self.seed, self.precision = seed, r.choice(["float32", "double()", "default float64"])
        if self.precision == "default float64":
            torch.set_default_dtype(torch.float64)
            for family in self.plan.families:
                for module in family.modules:
                    module.double()
        self.fac = ad.Factorization(self.plan.shape, **self.options)
        names = [name for name, (_, fits) in NETWORKS.items() if fits(self.plan)]
        self.name = r.choice([*names, *(name for name in ("own", "transformer") if name in names)])
        self.arguments, self.batch = self._context_of(r)
        self.build = r.getstate()
        self.net = self.built()
        if self.precision == "double()":
            self.net.double()
        self.dtype = torch.float32 if self.precision == "float32" else torch.float64
        self.tol = 2e-4 if self.precision == "float32" else 1e-9
        self.net64 = copy.deepcopy(self.net).double()
        self.plan = self.net64.plan
        self.context = None
        if self.arguments:
            shape = (*self.batch, *self.arguments["context_shape"])
            self.context = torch.randn(shape, dtype=torch.float64).to(self.dtype)
        self.rows = math.prod(self.batch)
        self.contexts = None if self.context is None else self.context.double().reshape(
            self.rows, *self.arguments["context_shape"])  # fmt: skip
        self.p = self.net.condition(self.context, validate_args=r.choice([None, False]))
        serves_all = self.name in ("own", "masked")
        self.any_order = serves_all or getattr(self.net, "any_order", False)
        self.serves_ties = serves_all or getattr(self.net, "two_streams", False)

    def built(self):
        """A network of this kind, with weights from torch's random state."""
        r = random.Random()
        r.setstate(self.build)
        net = NETWORKS[self.name][0](r, copy.deepcopy(self.fac), **self.arguments)
        net.plan = self.plan.replace(families=list(net.factorization.layout.families))
        with torch.no_grad():
            for param in net.parameters():
                param.add_(torch.randn_like(param) * 0.25)
        return net

    def _context_of(self, r):
        if r.random() < 0.4:
            return {}, ()
        kinds = {"rnn": networks.RNN, "wavenet": networks.WaveNet, "pixelcnn": networks.PixelCNN,
                 "transformer": networks.Transformer}  # fmt: skip
        kind = r.choice(getattr(kinds.get(self.name), "context_kinds", ("vector",)))
        shape = {"vector": (2,), "blocks": (*self.plan.grid, 2), "sequence": (3, 2)}[kind]
        arguments = {"context_shape": shape}
        if self.name in kinds:
            arguments["context_kind"] = kind
        return arguments, r.choice([(), (1,), (2,), (2, 1), (3,)])

    def __str__(self):
        return f"{self.name} {self.fac} {self.arguments} batch {self.batch} {self.precision}"

    def context_row(self, row):
        return None if self.contexts is None else self.contexts[row : row + 1]

    def value(self, x):
        """Events (number, rows, *shape) as the distribution takes them."""
        x = x.reshape(len(x), *self.batch, *self.plan.shape)
        return x.long() if all(f.is_index for f in self.plan.families) else x.to(self.dtype)

    def random(self, number):
        """Events in the precision of the model: (number, rows, *shape)."""
        x = torch.stack([self.plan.random(number) for _ in range(self.rows)], 1)
        return x.to(self.dtype).double()

    def scores(self, x, plans=None, net=None):
        """By definition: events (number, rows, *shape) to (number, rows, blocks)."""
        plans = plans or [self.plan] * self.rows
        net = net or self.net64
        with torch.no_grad():
            each = [
                scores(net, plan, x[:, row], self.context_row(row))
                for row, plan in enumerate(plans)
            ]
        return torch.stack(each, 1)

    def plans(self, q):
        """The plan of each row under the ordering of a distribution."""
        if not isinstance(q.ordering, torch.Tensor):
            return [self.plan.under(q.ordering)] * self.rows
        return [self.plan.under(ranks) for ranks in q.ordering.reshape(self.rows, *self.plan.grid)]

    def log_prob(self, x, plans=None, evidence=None, kept=None, net=None):
        """By definition: log p(kept elements of x | evidence), (number, rows).

        NaN where the evidence is impossible. Evidence is (values (rows, *shape), mask).
        """
        if self.plan.events is None:
            blocks, shape = self.scores(x, plans, net), self.plan.shape
            count = torch.ones(shape, dtype=torch.bool) if kept is None else kept
            count = count if evidence is None else count & ~evidence[1]
            counted = [bool(count.reshape(-1)[places].any()) for places in self.plan.places]
            return blocks[..., counted].sum(-1)
        events, own = self.events, net is None and (not plans or {*plans} == {self.plan})
        joint = self.table if own else self.scores(events, plans, net).sum(-1)
        agree = torch.ones(joint.shape, dtype=torch.bool)
        if evidence is not None:
            agree = ((events == evidence[0]) | ~evidence[1]).reshape(*joint.shape, -1).all(-1)
        joint = joint.masked_fill(~agree, -torch.inf)
        same = events.unsqueeze(0) == x.unsqueeze(1)
        same = same if kept is None else same | ~kept
        same = same.reshape(len(x), *joint.shape, -1).all(-1)
        return joint.masked_fill(~same, -torch.inf).logsumexp(1) - joint.logsumexp(0)

    @cached_property
    def events(self):
        """All of them, for each row: (number, rows, *shape)."""
        return self.plan.events.unsqueeze(1).expand(-1, self.rows, *self.plan.shape)

    @cached_property
    def keys(self):
        """The number of each event, by its elements."""
        return {tuple(e.flatten().tolist()): i for i, e in enumerate(self.plan.events)}

    def evidence(self, value, mask):
        """Observed values (rows, *shape), in the precision of the model, and a mask."""
        return value.to(self.dtype).double(), mask

    @cached_property
    def table(self):
        """log p of all events: (number, rows)."""
        with torch.random.fork_rng():  # so that a check alone draws what it draws after others
            return self.scores(self.events).sum(-1)
