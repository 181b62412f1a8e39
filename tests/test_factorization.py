"""Partitions, orderings and factorizations as values."""

import copy
import datetime
import pickle
import sys
from itertools import accumulate
from types import SimpleNamespace

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from table import FACTORIZATIONS, VECTORS, random_made
from torch import Size
from torch.distributions import biject_to, constraints, transform_to

import ardist as ad
from ardist import families as fam

factorizations = pytest.mark.parametrize("name", FACTORIZATIONS)


@factorizations
def test_derived_members_agree(name):
    fac = FACTORIZATIONS[name]
    ranks = fac.ranks.flatten()
    assert fac.ranks.shape == fac.grid_shape
    assert fac.ranks.dtype == torch.int64
    assert ranks.unique().tolist() == list(range(fac.num_steps))
    assert sorted(block for step in fac.steps for block in step) == list(range(fac.num_blocks))
    assert fac.dependencies.shape == (fac.num_blocks, fac.num_blocks)
    earlier = ranks.unsqueeze(-1) > ranks
    assert not (fac.dependencies & ~earlier).any()
    if fac.ordering.name != "from_graph":
        assert torch.equal(fac.dependencies, earlier)
    assert fac.has_rsample == all(family.has_rsample for family in fac.layout.families)
    assert fac.support.event_dim == len(fac.event_shape)


@factorizations
def test_equality_hash_copies_and_repr(name):
    fac = FACTORIZATIONS[name]
    for other in (copy.deepcopy(fac), pickle.loads(pickle.dumps(fac))):
        if not name.startswith("nested"):  # whose networks are told apart by identity
            assert other == fac
            assert hash(other) == hash(fac)
        assert repr(other) == repr(fac)
    assert fac.with_ordering(fac.ordering) == fac
    assert fac.with_families(fac.families if len(fac.families) > 1 else fac.families[0]) == fac
    assert [other for other in FACTORIZATIONS.values() if other == fac] == [fac]


def test_equality_is_of_what_is_meant():
    family = fam.Normal()
    one = ad.Factorization(4, family)
    assert one == ad.Factorization((4,), [family] * 4, ordering=ad.Ordering.permutation(range(4)))
    assert one == ad.Factorization((4,), family, partition=ad.Partition.along(0))
    assert one != ad.Factorization((4,), family, ordering=ad.Ordering.reverse())
    assert one != ad.Factorization((2, 2), family)
    chain = torch.ones(4, 4).tril(-1).bool()
    assert one == ad.Factorization(4, family, ordering=ad.Ordering.from_graph(chain))
    assert ad.Factorization(4, family, ordering=ad.Ordering.from_graph(chain)).is_total


def test_a_factorization_is_frozen():
    with pytest.raises(AttributeError):
        FACTORIZATIONS["scalar"].event_shape = (3,)


def test_a_graph_keeps_its_parents():
    parents = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0]]).bool()
    fac = ad.Factorization(3, fam.Normal(), ordering=ad.Ordering.from_graph(parents))
    assert torch.equal(fac.dependencies, parents)  # not on its grandparent
    assert fac.ranks.tolist() == [0, 1, 2]
    assert not fac.is_total


def test_partitions():
    x = torch.arange(24).reshape(2, 3, 4)
    fac = ad.Factorization(
        (3, 4), fam.Independent(fam.Categorical(24), (3,)), partition=ad.Partition.along(1)
    )
    assert fac.split(x)[1, 2].tolist() == [14, 18, 22]
    mixed = ad.Factorization(
        6,
        [fam.Normal(), fam.Independent(fam.Normal(), (2, 2)), fam.Normal()],
        partition=ad.Partition.split([1, (2, 2), 1]),
    )
    assert mixed.split(torch.arange(6.0)).tolist() == [0, 1, 2, 3, 4, 5]
    assert [family.event_shape for family in mixed.layout.families] == [(), (2, 2), ()]


def test_columns_pack_and_unpack():
    fac = ad.Factorization.columns(
        {"kind": fam.Categorical(3), "share": fam.Parametric(dist.Dirichlet, event_shape=(2,))}
    )
    columns = {"kind": torch.tensor([2, 0]), "share": torch.tensor([[0.25, 0.75], [0.5, 0.5]])}
    x = fac.pack(columns)
    assert x.tolist() == [[2, 0.25, 0.75], [0, 0.5, 0.5]]
    back = fac.unpack(x)
    assert back["kind"].dtype == torch.int64
    assert all(torch.equal(back[name], columns[name]) for name in columns)

    class Frame(dict):
        """As polars has it: iterating gives columns, not names."""

        columns = ("kind", "share")

        def __iter__(self):
            return iter(self.values())

    assert torch.equal(fac.pack(Frame(columns)), x)
    halves = {"kind": columns["kind"].half(), "share": columns["share"]}
    assert fac.pack(halves).dtype == torch.float32
    row = {"kind": torch.tensor(2), "share": torch.tensor([0.25, 0.75])}
    one = fac.unpack(fac.pack(row))
    assert all(torch.equal(one[name], row[name]) for name in row)
    index = ad.Factorization.columns(a=fam.Categorical(3), b=fam.Categorical(4))
    assert index.pack({"a": torch.tensor([1]), "b": torch.tensor([3])}).dtype == torch.int64


@pytest.mark.parametrize("dtype", ["uint8", "uint64", "int64", "float64"])
def test_the_largest_numbers_of_a_dtype_are_packed(dtype):
    most = np.finfo(dtype).max if dtype == "float64" else np.iinfo(dtype).max
    fac = ad.Factorization.columns(a=fam.Normal())
    packed = fac.pack({"a": np.array([most, 1], dtype=dtype)})
    assert packed.squeeze(-1).tolist() == torch.tensor([float(most), 1.0]).tolist()


@pytest.mark.parametrize("dtype", ["int64", "float32"])
def test_masked_numbers_are_packed_as_missing(dtype):
    fac = ad.Factorization.columns(a=fam.Normal())
    packed = fac.pack({"a": np.ma.array([5, 1], mask=[True, False], dtype=dtype)})
    assert packed.isnan().squeeze(-1).tolist() == [True, False]


class NA:
    """What pandas has for a missing number: a thing of which nothing can be asked."""

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")

    __eq__ = __float__ = None


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ([1, None, 3], [1, torch.nan, 3]),
        (np.array([1, NA, 3], dtype=object), [1, torch.nan, 3]),
        (np.array([True, None, False], dtype=object), [1, torch.nan, 0]),
        (np.array([1.5, 2, 3]), [1.5, 2, 3]),
        (np.array([1.5, 2, 3], dtype=np.longdouble), [1.5, 2, 3]),
        (np.array([1, 2, 3], dtype=np.uint16), [1, 2, 3]),
        (np.array([1, 2, 3])[::-1], [3, 2, 1]),
        ([torch.tensor(1.0), torch.tensor(2), 3], [1, 2, 3]),
        (np.array(["2020-01-01"] * 3, dtype="M8[D]"), None),
        ([datetime.date(2020, 1, 1)] * 3, None),
        (np.array(["1", "2", "3"], dtype=object), None),
        ([1, None, "3"], None),
        ([1j, 2, 3], None),
        ([[1], [2, 3], []], None),
    ],
    ids=repr,
)
def test_a_column_of_any_kind_is_the_right_tensor_or_an_error(column, expected, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(NA=NA))
    fac = ad.Factorization.columns(a=fam.Normal(), b=fam.Categorical(4))
    if expected is None:
        with pytest.raises(ValueError, match="columns: expected numbers in 'b'"):
            fac.pack({"a": [0, 0, 0], "b": column})
        return
    x = fac.pack({"a": np.zeros(3), "b": column})
    assert x.dtype == torch.float32
    torch.testing.assert_close(x[:, 1], torch.tensor(expected), equal_nan=True, check_dtype=False)
    whole = fac.pack({"a": torch.zeros(3).double(), "b": column})
    assert whole.dtype == torch.float64


def nested(*args, **options):
    inner = ad.Factorization(2, *args, **options)
    return fam.Nested(random_made(inner, hidden_features=4, context_shape=(2,)))


# Families of vectors whose blocks share dimensions of the event.
SHARED = {
    f"{name}-{way}": factorization
    for name, family in {
        **VECTORS,
        "nested": nested([fam.Normal(), fam.Gamma()]),
        "nested-ended": nested(fam.Categorical(3), end=1, pad=0),
    }.items()
    for way, factorization in {
        "columns": ad.Factorization.columns(a=family, b=family),
        "mixed": ad.Factorization.columns(a=family, b=fam.Gamma(), c=family),
        "split": ad.Factorization(2, family, partition=ad.Partition.split([2])),
        "labels": ad.Factorization(
            (2, 2), family, partition=ad.Partition.from_labels([[0, 1], [1, 0]])
        ),
    }.items()
}
SHARED["patches"] = ad.Factorization(
    (2, 4), fam.Independent(fam.Dirichlet(2), (1,)), partition=ad.Partition.patches((1, 2))
)
SUPPORTS = {**FACTORIZATIONS, **SHARED}


@pytest.mark.parametrize("name", SUPPORTS)
def test_the_support_has_the_draws_and_nothing_else(name):
    fac = SUPPORTS[name]
    x = random_made(fac, hidden_features=8).condition().sample((3,)).double()
    assert fac.support.check(x).tolist() == [True] * 3
    blocks = fac.split(x)
    for block, family in enumerate(fac.layout.families):
        for number in (torch.nan, -7.0):
            value = fac.layout.gather_blocks("value", torch.full_like(blocks, number), [block])
            inside = bool(family.inside(value[0].reshape(family.event_shape)))
            found = fac.support.check(fac.merge(fac.layout.scatter_blocks(blocks, [block], value)))
            assert found.tolist() == [inside] * 3


@pytest.mark.parametrize("name", SUPPORTS)
def test_bijections_of_the_support(name):
    fac = SUPPORTS[name]
    if fac.support.is_discrete:
        with pytest.raises(NotImplementedError):
            biject_to(fac.support)
        return
    for registry in (biject_to, transform_to):
        transform = registry(fac.support)
        u = torch.randn(5, *transform.inverse_shape(fac.event_shape), dtype=torch.float64)
        x = transform(u)
        assert x.shape == (5, *fac.event_shape)
        assert fac.support.check(x).all()
        torch.testing.assert_close(transform(transform.inv(x)), x)
    transform = biject_to(fac.support)
    u = torch.randn(transform.inverse_shape(fac.event_shape), dtype=torch.float64)
    x = transform(u)
    torch.testing.assert_close(transform.inv(x), u)
    assert transform.forward_shape(u.shape) == x.shape
    # Of a simplex the last element follows from the others, and the Jacobian is theirs.
    jacobian = torch.autograd.functional.jacobian(lambda u: fac.split(transform(u)).flatten(), u)
    free = [
        start + element
        for start, f in zip(
            accumulate(fac.layout.sizes["value"], initial=0), fac.layout.families, strict=False
        )
        for element in range(Size(biject_to(f.support).inverse_shape(f.event_shape)).numel())
    ]
    expected = (
        torch.linalg.slogdet(jacobian.reshape(len(jacobian), -1)[free])[1]
        if free
        else torch.zeros(())
    )
    found = transform.log_abs_det_jacobian(u, x)
    torch.testing.assert_close(found.sum(), expected.to(found.dtype))


def test_the_jacobian_of_a_mixed_support_is_autograds():
    fac = ad.Factorization(
        5,
        [fam.Gamma(), fam.Parametric(dist.Dirichlet, event_shape=(3,)), fam.Beta()],
        partition=ad.Partition.split([1, 3, 1]),
    )
    transform = biject_to(fac.support)
    assert isinstance(fac.support, constraints.Constraint)
    u = torch.randn(4, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(transform, u)[[0, 1, 2, 4]]
    found = transform.log_abs_det_jacobian(u, transform(u))
    torch.testing.assert_close(found, torch.linalg.slogdet(jacobian)[1])


NORMAL = fam.Normal()
