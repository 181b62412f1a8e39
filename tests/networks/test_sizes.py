"""Networks that are made from a factorization alone."""

import pytest
from table import FACTORIZATIONS, fits

import ardist as ad
from ardist import families as fam
from ardist import networks

SIZES = {
    "made": (networks.MADE, ("hidden_features",)),
    "masked": (networks.Masked, ("hidden_features",)),
    "unshared": (networks.Unshared, ("hidden_features",)),
    "markov": (networks.Markov, ("hidden_features",)),
    "rnn": (networks.RNN, ("hidden_size",)),
    "transformer": (networks.Transformer, ("dim", "depth", "heads")),
    "wavenet": (networks.WaveNet, ("channels", "depth")),
    "pixelcnn": (networks.PixelCNN, ("channels", "depth")),
}
CASES = [
    (network, name)
    for network in SIZES
    for name in ("scalar", "columns", "ended", "image-raster", "image-diagonal", "patches")
    if fits(network if network != "rnn" else "rnn-gru", name)
]


@pytest.mark.parametrize(("network", "name"), CASES)
def test_a_specification_has_the_sizes_that_resulted(network, name):
    make, sizes = SIZES[network]
    net = make(FACTORIZATIONS[name])
    arguments = net.to_spec()["args"]
    assert all(arguments[size] is not None for size in sizes)
    explicit = {size: arguments[size] for size in sizes}
    same = make(FACTORIZATIONS[name], **explicit)
    assert same.to_spec() == net.to_spec()
    assert {k: v.shape for k, v in same.state_dict().items()} == {
        k: v.shape for k, v in net.state_dict().items()
    }
    assert net.condition().sample((2,)).shape[0] == 2


def text(length, symbols=2):
    return ad.Factorization(length, fam.Categorical(symbols))


def image(*shape):
    return ad.Factorization(shape, fam.Bernoulli())


@pytest.mark.parametrize(
    ("make", "options", "expected"),
    [
        (networks.MADE, {}, {"hidden_features": (256, 256)}),
        (networks.Masked, {}, {"hidden_features": (256, 256)}),
        (networks.Unshared, {}, {"hidden_features": (256, 256)}),
        (networks.Markov, {"window": 3}, {"hidden_features": (256, 256)}),
        (networks.RNN, {}, {"hidden_size": 64}),
        (networks.Transformer, {}, {"dim": 64, "depth": 2, "heads": 4}),
        (networks.Transformer, {"dim": 10, "positions": "rotary"}, {"heads": 1}),
        (networks.WaveNet, {}, {"channels": 64, "depth": 3}),
        (networks.WaveNet, {"kernel_size": 3}, {"depth": 2}),
    ],
)
def test_sizes_of_a_small_text(make, options, expected):
    net = make(text(5), **options)
    assert {name: getattr(net, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("make", "factorization", "options", "expected"),
    [
        (networks.MADE, text(3, 40), {}, {"hidden_features": (512, 512)}),
        # One unit for each set: of no blocks, the first, the first two, ..., but not of all.
        (networks.MADE, text(600), {"direct": False}, {"hidden_features": (599, 599)}),
        (networks.Markov, text(9, 40), {"window": 3}, {"hidden_features": (512, 512)}),
        (networks.RNN, text(9, 65), {}, {"hidden_size": 256}),
        (networks.Transformer, text(64, 65), {}, {"dim": 256, "depth": 3, "heads": 4}),
        (networks.WaveNet, text(1025), {}, {"channels": 64, "depth": 11}),
        (networks.WaveNet, text(5000), {"max_dilation": 1}, {"depth": 30}),
        (networks.PixelCNN, image(8, 6), {}, {"channels": 64, "depth": 4}),
        (networks.PixelCNN, image(28, 28), {"kernel_size": 5}, {"depth": 7}),
        (networks.PixelCNN, image(99, 3), {}, {"depth": 12}),
        (networks.PixelCNN, image(8, 8), {"dilation": (1, 2, 4)}, {"depth": 3}),
    ],
)
def test_sizes_follow_the_factorization(make, factorization, options, expected):
    net = make(factorization, **options)
    assert {name: getattr(net, name) for name in expected} == expected


@pytest.mark.parametrize("length", [1, 2, 5, 64, 65])
def test_the_receptive_field_of_a_wavenet_covers_all_blocks(length):
    net = networks.WaveNet(text(length))
    assert net.receptive_field >= length
    if net.depth > 2:
        assert networks.WaveNet(text(length), depth=net.depth - 1).receptive_field < length


def test_a_network_of_ones_own_may_set_some_sizes():
    class Narrow(networks.Transformer):
        def __init__(self, factorization, dim=32):
            super().__init__(factorization, dim=dim)

    assert Narrow(text(4)).to_spec()["args"].keys() == {"factorization", "dim"}
