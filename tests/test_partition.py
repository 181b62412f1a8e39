"""Partitions as values, on events of every shape."""

import pickle

import pytest
import torch

import ardist as ad
from ardist import families as fam


def blocks_of(partition, event_shape):
    """The flat positions in each block, as nested lists of the block's shape."""
    cut = partition.apply(torch.Size(event_shape))
    number = cut.grid_shape.numel()
    shapes = cut.block_shapes * (number // len(cut.block_shapes))
    pieces = cut.elements.split([shape.numel() for shape in shapes])
    return [piece.view(shape).tolist() for piece, shape in zip(pieces, shapes, strict=True)]


@pytest.mark.parametrize(
    ("partition", "event_shape", "grid_shape", "blocks"),
    [
        (ad.Partition.patches(2), (4,), (2,), [[0, 1], [2, 3]]),
        (
            ad.Partition.patches((2, 3)),
            (2, 6),
            (1, 2),
            [[[0, 1, 2], [6, 7, 8]], [[3, 4, 5], [9, 10, 11]]],
        ),
        # The dimension that is not cut is kept whole, whatever its size.
        (
            ad.Partition.patches((1, 2)),
            (1, 4, 3),
            (1, 2),
            [[[[0, 1, 2], [3, 4, 5]]], [[[6, 7, 8], [9, 10, 11]]]],
        ),
        (ad.Partition.patches(1), (2, 1), (2, 1), [[[0]], [[1]]]),
        (ad.Partition.patches((2,)), (4, 2), (2,), [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]),
        (ad.Partition.from_labels([[5, -1, 5], [7, 7, 5]]), (2, 3), (3,), [1, [0, 2, 5], [3, 4]]),
        (ad.Partition.from_labels([1, 0, 1, 0]), (4,), (2,), [[1, 3], [0, 2]]),
        (ad.Partition.from_labels([2, 0, 1]), (3,), (3,), [1, 2, 0]),
        (ad.Partition.from_labels(torch.zeros(2, 2).int()), (2, 2), (1,), [[0, 1, 2, 3]]),
        (ad.Partition.from_labels(torch.tensor(3)), (), (1,), [0]),
    ],
)
def test_where_the_elements_of_each_block_are(partition, event_shape, grid_shape, blocks):
    cut = partition.apply(torch.Size(event_shape))
    assert cut.grid_shape == grid_shape
    assert cut.elements.dtype == torch.int64
    assert blocks_of(partition, event_shape) == blocks


def test_patches_are_the_tiles_of_an_image():
    image = torch.arange(28 * 28 * 3).view(28, 28, 3)
    family = fam.Independent(fam.Categorical(28 * 28 * 3), (4, 7, 3))
    fac = ad.Factorization((28, 28, 3), family, partition=ad.Partition.patches((4, 7)))
    assert fac.grid_shape == (7, 4)
    assert fac.is_uniform
    tiles = fac.split(image).view(7, 4, 4, 7, 3)
    assert torch.equal(tiles[2, 3], image[8:12, 21:28])
    assert torch.equal(fac.merge(fac.split(image)), image)


def test_labels_give_blocks_of_unequal_shapes():
    partition = ad.Partition.from_labels([[0, 1, 0], [2, 1, 1]])
    families = [
        fam.Independent(fam.Bernoulli(), (2,)),
        fam.Independent(fam.Normal(), (3,)),
        fam.Gamma(),
    ]
    fac = ad.Factorization((2, 3), families, partition=partition)
    assert not fac.is_uniform
    assert fac.layout.flat
    assert fac.split(torch.arange(6.0).view(2, 3)).tolist() == [0, 2, 1, 4, 5, 3]
    # Labels that give blocks of one shape take one family.
    pairs = ad.Partition.from_labels([0, 1, 1, 0])
    fac = ad.Factorization(4, fam.Independent(fam.Normal(), (2,)), partition=pairs)
    assert fac.is_uniform
    assert fac.split(torch.arange(4.0)).tolist() == [[0, 3], [1, 2]]


def test_a_factorization_is_what_its_partition_cuts():
    family = fam.Independent(fam.Normal(), (2,))

    def of(partition):
        return ad.Factorization((2, 2), family, partition=partition)

    rows = of(ad.Partition.along(0))
    assert of(ad.Partition.from_labels([[3, 3], [8, 8]])) == rows
    assert of(ad.Partition.from_labels([[3, 8], [3, 8]])) == of(ad.Partition.along(1)) != rows
    tiles = ad.Factorization(
        (2, 2), fam.Independent(fam.Normal(), (1, 2)), partition=ad.Partition.patches((1, 2))
    )
    assert tiles != rows  # blocks of another shape


PARTITIONS = [
    ad.Partition.scalars(),
    ad.Partition.along(0, 1),
    ad.Partition.patches(4),
    ad.Partition.patches((4, 4)),
    ad.Partition.split([1, 2, (2, 3)]),
    ad.Partition.from_labels([[0, 0], [1, 2]]),
    ad.Partition.from_labels([0, 0, 1, 2]),
]


def test_partitions_are_values():
    for partition in PARTITIONS:
        again = pickle.loads(pickle.dumps(partition))
        assert again == partition
        assert hash(again) == hash(partition)
    assert len(set(PARTITIONS)) == len(PARTITIONS)
    assert ad.Partition.from_labels([7, 3, 3]) == ad.Partition.from_labels(torch.tensor([1, 0, 0]))
    assert [repr(partition) for partition in PARTITIONS] == [
        "Partition.scalars()",
        "Partition.along(0, 1)",
        "Partition.patches(4)",
        "Partition.patches((4, 4))",
        "Partition.split([1, 2, (2, 3)])",
        "Partition.from_labels(0, 0, 1, 2)",
        "Partition.from_labels(0, 0, 1, 2)",
    ]
    assert len(repr(ad.Partition.from_labels(torch.arange(784)))) < 60
