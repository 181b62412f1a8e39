"""Factorizations with shapes, partitions, orderings and families at random."""

import pickle

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ardist as ad
from ardist import families as fam

SCALARS = [fam.Bernoulli(), fam.Normal(), fam.Categorical(3), fam.Gamma(), fam.Poisson()]


def sizes(min_size, max_size):
    return st.lists(st.integers(1, 4), min_size=min_size, max_size=max_size).map(tuple)


@st.composite
def partitions(draw):
    """An event shape and a partition of it."""
    kind = draw(st.sampled_from(["scalars", "along", "patches", "split", "from_labels"]))
    if kind == "split":
        blocks = draw(st.lists(st.one_of(st.integers(1, 3), sizes(1, 2)), min_size=1, max_size=4))
        total = sum(torch.Size([b] if isinstance(b, int) else b).numel() for b in blocks)
        return (total,), ad.Partition.split(blocks)
    shape = draw(sizes(0 if kind in ("scalars", "from_labels") else 1, 3))
    if kind == "along":
        dims = draw(st.permutations(range(len(shape))))
        number = draw(st.integers(1, len(shape)))
        return shape, ad.Partition.along(*dims[:number])
    if kind == "patches":
        size = draw(st.lists(st.integers(1, 2), min_size=1, max_size=len(shape)))
        tiles = [n * m for n, m in zip(shape, size, strict=False)]
        return (*tiles, *shape[len(size) :]), ad.Partition.patches(size)
    if kind == "from_labels":
        count = torch.Size(shape).numel()
        labels = draw(st.lists(st.integers(-3, 3), min_size=count, max_size=count))
        return shape, ad.Partition.from_labels(torch.tensor(labels).view(shape))
    return shape, ad.Partition.scalars()


@st.composite
def orderings(draw, grid):
    """Any ordering that this grid can have."""
    count = grid.numel()
    named = ["raster", "reverse", "column_major", "snake", "diagonal", "checkerboard"]
    named += ["spiral"] * (len(grid) == 2) + ["hilbert"] * (len(grid) <= 3)
    most = 1 + (max(grid, default=1) - 1).bit_length()
    edges = st.lists(st.booleans(), min_size=count * count, max_size=count * count)
    order = draw(st.permutations(range(count)))
    return draw(
        st.one_of(
            st.sampled_from(named).map(lambda name: getattr(ad.Ordering, name)()),
            st.integers(1, most).map(ad.Ordering.multiscale),
            st.integers(0, 99).map(ad.Ordering.random),
            st.just(ad.Ordering.permutation(order)),
            st.lists(st.integers(-5, 5), min_size=count, max_size=count).map(
                lambda ranks: ad.Ordering.from_ranks(torch.tensor(ranks).view(grid))
            ),
            # A graph whose edges go back in some order has no cycle.
            edges.map(
                lambda values: ad.Ordering.from_graph(
                    torch.tensor(values).view(count, count).tril(-1)[order][:, order]
                )
            ),
        )
    )


@st.composite
def factorizations(draw):
    shape, partition = draw(partitions())
    cut = partition.apply(torch.Size(shape))
    count = cut.grid_shape.numel()
    blocks = cut.block_shapes * (count // len(cut.block_shapes))
    mixed = len(set(blocks)) > 1 or draw(st.booleans())
    forms = draw(st.lists(st.sampled_from(SCALARS), min_size=count, max_size=count))
    families = [
        fam.Independent(form, block) if block else form
        for form, block in zip(forms, blocks, strict=True)
    ]
    return ad.Factorization(
        shape,
        families if mixed else families[0],
        partition=partition,
        ordering=draw(orderings(cut.grid_shape)),
    )


@settings(max_examples=100, deadline=None, derandomize=True)
@given(factorizations(), st.lists(st.integers(1, 3), max_size=2).map(tuple))
def test_any_factorization_is_consistent(fac, lead):
    # Blocks hold each element of the event once.
    shape = torch.Size((*lead, *fac.event_shape))
    x = torch.arange(shape.numel()).view(shape)
    assert torch.equal(fac.merge(fac.split(x)), x)
    assert fac.split(x).shape == (*lead, *fac.layout.value_shape)

    # Steps and ranks say the same, and what a block depends on is drawn before it.
    ranks, depends = fac.ranks.flatten(), fac.dependencies
    assert fac.ranks.shape == fac.grid_shape
    assert ranks.unique().tolist() == list(range(fac.num_steps))
    assert [ranks[step].tolist() for step in fac.steps] == [
        [rank] * len(step) for rank, step in enumerate(fac.steps)
    ]
    assert sorted(block for step in fac.steps for block in step) == list(range(fac.num_blocks))
    earlier = ranks.unsqueeze(-1) > ranks
    if fac.ordering.name == "from_graph":
        assert not (depends & ~earlier).any()
        # Each block has a parent in the step before its own.
        last = depends & (ranks.unsqueeze(-1) == ranks + 1)
        assert torch.equal(last.any(-1), ranks > 0)
    else:
        assert torch.equal(depends, earlier)
        assert fac.is_transitive
    beyond = (depends.float() @ depends.float() > 0) & ~depends
    assert fac.is_transitive == (not beyond.any())
    assert fac.is_total == torch.equal(
        depends[fac.ranks.flatten().argsort()].sum(-1), torch.arange(fac.num_blocks)
    )

    # It is a value.
    again = pickle.loads(pickle.dumps(fac))
    assert again == fac
    assert hash(again) == hash(fac)
    assert repr(again) == repr(fac)
    assert "\n" not in f"{fac}"
    there = fac.with_ordering(ad.Ordering.raster())
    assert there.with_ordering(fac.ordering) == fac
    assert (there == fac) == torch.equal(there.dependencies, depends)

    # What its families draw lies in its support.
    values = fac.layout.sample(torch.randn(2, *fac.layout.param_shape))
    assert fac.support.check(fac.merge(values)).all()
    assert fac.inside(fac.merge(values)).all()
