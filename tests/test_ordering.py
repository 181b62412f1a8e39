"""Orderings as values, on grids of every kind."""

import copy
import itertools
import pickle

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.figure import Figure

import ardist as ad
from ardist import families as fam
from ardist import networks

TOTAL = {
    "raster": ad.Ordering.raster(),
    "reverse": ad.Ordering.reverse(),
    "random": ad.Ordering.random(3),
    "column_major": ad.Ordering.column_major(),
    "snake": ad.Ordering.snake(),
    "spiral": ad.Ordering.spiral(),
    "hilbert": ad.Ordering.hilbert(),
}
TIED = {
    "diagonal": ad.Ordering.diagonal(),
    "checkerboard": ad.Ordering.checkerboard(),
    "multiscale": ad.Ordering.multiscale(2),
}
GIVEN = {
    "permutation": ad.Ordering.permutation([2, 0, 3, 1]),
    "from_ranks": ad.Ordering.from_ranks([[4, 1], [1, 0]]),
    "from_graph": ad.Ordering.from_graph([[0, 0, 0], [1, 0, 0], [0, 1, 0]]),
}
NAMED = {**TOTAL, **TIED}
ALL = {**NAMED, **GIVEN}
SHAPES = [
    *((), (1,), (5,), (8,), (1, 1), (1, 6), (6, 1), (2, 7), (3, 4), (4, 4), (5, 3), (7, 6)),
    *((1, 1, 3), (2, 3, 4), (3, 3, 3), (4, 2, 6), (2, 1, 3, 2)),
]
DIMENSIONS = {"spiral": (2,), "hilbert": (0, 1, 2, 3)}


def fits(name, shape):
    if name == "multiscale":
        return max(shape, default=1) > 1
    return len(shape) in DIMENSIONS.get(name, range(9))


def steps_between(ordering, shape):
    """Along each dimension the distance from each block to the next one: (num_blocks - 1, dims)."""
    order = ordering.ranks(torch.Size(shape)).flatten().argsort()
    places = torch.ones(shape).nonzero()[order]
    return (places[1:] - places[:-1]).abs()


@pytest.mark.parametrize(
    ("name", "shape"), [(name, shape) for name in NAMED for shape in SHAPES if fits(name, shape)]
)
def test_ranks_are_dense_and_total_where_promised(name, shape):
    ranks = NAMED[name].ranks(torch.Size(shape))
    assert ranks.shape == shape
    assert ranks.dtype == torch.int64
    assert ranks.is_contiguous()
    assert ranks.unique().tolist() == list(range(int(ranks.max()) + 1))
    assert torch.equal(ranks, copy.copy(NAMED[name]).ranks(torch.Size(shape)))
    if name in TOTAL:
        assert int(ranks.max()) + 1 == ranks.numel()


@pytest.mark.parametrize("name", ["snake", "spiral", "hilbert"])
def test_each_block_is_next_to_the_one_before(name):
    for shape in itertools.product(range(1, 14), repeat=2):
        assert (steps_between(TOTAL[name], shape).sum(-1) == 1).all(), shape


def test_snakes_and_hilbert_curves_in_other_dimensions():
    for shape in itertools.product(range(1, 6), repeat=3):
        assert (steps_between(ad.Ordering.snake(), shape).sum(-1) == 1).all(), shape
        steps = steps_between(ad.Ordering.hilbert(), shape)
        assert (steps <= 1).all(), shape  # at worst a diagonal step
        if all(size % 2 == 0 for size in shape):
            assert (steps.sum(-1) == 1).all(), shape
    assert (steps_between(ad.Ordering.snake(), (3, 2, 4, 3)).sum(-1) == 1).all()
    assert ad.Ordering.hilbert().ranks(torch.Size((5,))).tolist() == [0, 1, 2, 3, 4]


def test_a_hilbert_curve_fills_a_quadrant_before_it_goes_on():
    for shape in ((8, 8), (4, 4, 4)):
        ranks = ad.Ordering.hilbert().ranks(torch.Size(shape))
        corners = [
            ranks[tuple(slice(n // 2) for n in shape)],
            ranks[tuple([slice(2)] * len(shape))],
        ]
        for corner in corners:
            assert corner.max() == corner.numel() - 1


@pytest.mark.parametrize(
    ("ordering", "ranks"),
    [
        (ad.Ordering.raster(), [[0, 1, 2], [3, 4, 5]]),
        (ad.Ordering.reverse(), [[5, 4, 3], [2, 1, 0]]),
        (ad.Ordering.column_major(), [[0, 2, 4], [1, 3, 5]]),
        (ad.Ordering.column_major(), [[[0, 4], [2, 6]], [[1, 5], [3, 7]]]),
        (ad.Ordering.snake(), [[0, 1, 2], [5, 4, 3], [6, 7, 8]]),
        (ad.Ordering.snake(), [[[0, 1], [3, 2]], [[7, 6], [4, 5]]]),
        (ad.Ordering.spiral(), [[0, 1, 2, 3], [9, 10, 11, 4], [8, 7, 6, 5]]),
        (ad.Ordering.spiral(), [[0, 1, 2], [11, 12, 3], [10, 13, 4], [9, 14, 5], [8, 7, 6]]),
        (ad.Ordering.hilbert(), [[0, 1], [3, 2]]),
        (ad.Ordering.diagonal(), [[0, 1, 2], [1, 2, 3]]),
        (ad.Ordering.diagonal(), [[[0, 1], [1, 2]], [[1, 2], [2, 3]]]),
        (ad.Ordering.checkerboard(), [[0, 1, 0], [1, 0, 1]]),
        (ad.Ordering.checkerboard(), [[[0, 1], [1, 0]], [[1, 0], [0, 1]]]),
        (ad.Ordering.multiscale(1), [[0, 0], [0, 0]]),
        (ad.Ordering.multiscale(2), [[0, 1, 0], [1, 1, 1]]),
        (ad.Ordering.multiscale(4), [0, 3, 2, 3, 1, 3, 2, 3]),
        (ad.Ordering.permutation([2, 0, 3, 1]), [1, 3, 0, 2]),
        (ad.Ordering.permutation([2, 0, 3, 1]), [[1, 3], [0, 2]]),
        (ad.Ordering.from_ranks([9, 4, 4, -1]), [2, 1, 1, 0]),
    ],
)
def test_ranks_on_small_grids(ordering, ranks):
    assert ordering.ranks(torch.tensor(ranks).shape).tolist() == ranks


def test_orders_of_different_seeds_differ():
    four = torch.Size((4,))
    orders = {tuple(ad.Ordering.random(seed).ranks(four).tolist()) for seed in range(9)}
    assert len(orders) > 3
    assert ad.Ordering.random() == ad.Ordering.random(0)


def test_levels_are_lattices():
    for levels in range(1, 5):
        ranks = ad.Ordering.multiscale(levels).ranks(torch.Size((8, 6)))
        for level in range(levels):
            stride = 2 ** (levels - 1 - level)
            assert (ranks[::stride, ::stride] <= level).all()
            assert (ranks <= level).sum() == ranks[::stride, ::stride].numel()


@pytest.mark.parametrize("seed", range(5))
def test_the_rank_in_a_graph_is_the_length_of_the_longest_path(seed):
    torch.manual_seed(seed)
    perm = torch.randperm(9)
    parents = (torch.rand(9, 9) < 0.3).tril(-1)[perm][:, perm]

    def longest(block):
        return max((1 + longest(p) for p in parents[block].nonzero().flatten().tolist()), default=0)

    ordering = ad.Ordering.from_graph(parents)
    assert ordering.ranks(torch.Size((9,))).tolist() == [longest(block) for block in range(9)]
    cycle = parents | parents.T
    if cycle.any():
        with pytest.raises(ValueError, match=r"^adjacency: expected no cycle, got"):
            ad.Ordering.from_graph(cycle)


def test_orderings_are_values():
    for name, ordering in ALL.items():
        again = pickle.loads(pickle.dumps(ordering))
        assert again == ordering
        assert hash(again) == hash(ordering)
        if name in NAMED:
            assert eval(repr(ordering), {"Ordering": ad.Ordering}) == ordering
    assert len(set(ALL.values())) == len(ALL)
    assert ad.Ordering.multiscale(2) != ad.Ordering.multiscale(3)
    with pytest.raises(AttributeError):
        ad.Ordering.snake().name = "raster"


@pytest.mark.parametrize("name", list(TIED))
@pytest.mark.parametrize(
    "build",
    [
        lambda fac: networks.RNN(fac, hidden_size=4),
        lambda fac: networks.WaveNet(fac, channels=4, depth=2),
        lambda fac: networks.Markov(fac, hidden_features=(4,)),
        lambda fac: networks.FromModule(torch.nn.Linear(1, 1), fac),
    ],
)
def test_networks_name_the_order_that_they_cannot_follow(name, build):
    fac = ad.Factorization((3, 3), fam.Bernoulli(), ordering=TIED[name])
    with pytest.raises(ValueError, match=rf"factorization: .* got Ordering\.{name}\(2?\)$"):
        build(fac)


def test_ranks_are_printed():
    assert ad.Ordering.snake().show((2, 3)) == "0 1 2\n5 4 3"
    assert ad.Ordering.raster().show((2, 1, 6)) == " 0  1  2  3  4  5\n\n 6  7  8  9 10 11"
    assert ad.Ordering.reverse().show((3,)) == "2 1 0"
    assert ad.Ordering.raster().show(()) == "0"
    assert str(ad.Ordering.checkerboard()) == (
        "Ordering.checkerboard()\n0 1 0 1\n1 0 1 0\n0 1 0 1\n1 0 1 0"
    )
    assert str(GIVEN["permutation"]) == "Ordering.permutation(2, 0, 3, 1)\n1 3 0 2"
    assert str(GIVEN["from_ranks"]) == "Ordering.from_ranks(4, 1, 1, 0)\n2 1\n1 0"
    assert str(GIVEN["from_graph"]).endswith("\n0 1 2")
    assert len(str(ad.Ordering.multiscale(5)).splitlines()) == 17
    many = ad.Ordering.permutation(range(784))
    assert str(many) == repr(many) == "Ordering.permutation(0, 1, 2, 3, 4, 5, 6, 7, ...)"


@pytest.mark.parametrize("name", list(ALL))
def test_orderings_are_drawn(name):
    given = Figure().subplots()
    axes = ALL[name].plot(ax=given)
    assert axes is given
    assert axes.get_title() == repr(ALL[name])
    (image,) = axes.images
    ranks = torch.as_tensor(image.get_array())
    assert [text.get_text() for text in axes.texts] == [
        str(rank) for rank in ranks.flatten().sort().values.tolist()
    ]
    total = name in TOTAL or name in ("permutation", "from_graph")
    assert len(axes.lines) == total
    if name == "snake":
        assert ranks.shape == (8, 8)
        ((x, y),) = [line.get_data() for line in axes.lines]
        assert ([*x[:9]], [*y[:9]]) == ([0, 1, 2, 3, 4, 5, 6, 7, 7], [0] * 8 + [1])


def test_a_large_grid_has_no_numbers_and_a_figure_is_made_if_need_be():
    axes = ad.Ordering.raster().plot((12, 12))
    assert not axes.texts
    assert len(axes.lines[0].get_xdata()) == 144
    plt.close(axes.figure)
