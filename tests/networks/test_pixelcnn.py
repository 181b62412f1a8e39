"""PixelCNN: what each layer adds to what is seen, and the body it chooses."""

import pytest
import torch

import ardist as ad
from ardist import families as fam
from ardist.networks.gated_stacks import GatedStacks

IMAGE = ad.Factorization((6, 7), fam.Bernoulli())


def symmetries(height, width):
    """The ranks of raster order after each turn of the grid."""
    raster = torch.arange(height * width).view(height, width)
    flips = ((), (0,), (1,), (0, 1))
    return [ranks.flip(dims) for ranks in (raster, raster.T) for dims in flips]


def window(ranks, sideways):
    """What `sideways` pixels of reach show of the past, in raster order: (pixels, pixels) bool."""
    height, width = ranks.shape
    row = torch.arange(height).repeat_interleave(width)
    column = torch.arange(width).repeat(height)
    up = row.unsqueeze(1) - row
    left = column.unsqueeze(1) - column
    above = (up >= 1) & (up <= sideways + 1) & (left.abs() <= sideways)
    return above | (up == 0) & (left >= 1) & (left <= sideways + 1)


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_what_is_seen_is_a_whole_rectangle(depth, kernel_size):
    net = ad.networks.PixelCNN(IMAGE, channels=8, depth=depth, kernel_size=kernel_size)
    found = ad.testing.check_autoregressive(net).influence
    assert torch.equal(found, window(IMAGE.ranks, depth * (kernel_size // 2)))


def test_full_reach_at_the_documented_depth():
    for (height, width), depth in {(6, 7): 6, (9, 4): 7, (2, 5): 4, (5, 1): 3}.items():
        fac = ad.Factorization((height, width), fam.Normal())
        reach = {
            layers: ad.testing.check_autoregressive(
                ad.networks.PixelCNN(fac, channels=8, depth=layers)
            ).reach
            for layers in (depth - 1, depth)
        }
        assert reach[depth - 1] < 1 == reach[depth]


def test_dilation_reaches_as_far_in_fewer_layers():
    fac = IMAGE.with_families(fam.Categorical(5))
    net = ad.networks.PixelCNN(fac, channels=8, depth=3, dilation=(1, 2, 3))
    assert ad.testing.check_autoregressive(net).reach == 1.0
    ad.testing.check_decoder(net)


@pytest.mark.parametrize("ranks", symmetries(3, 4))
@pytest.mark.parametrize("kind", ["vector", "blocks"])
def test_all_symmetries_of_raster_order_share_one_mask(ranks, kind):
    fac = ad.Factorization(ranks.shape, fam.Normal(), ordering=ad.Ordering.from_ranks(ranks))
    shape = (2,) if kind == "vector" else (*ranks.shape, 2)
    net = ad.networks.PixelCNN(fac, channels=8, depth=3, context_shape=shape, context_kind=kind)
    assert isinstance(net.body, GatedStacks)
    context = torch.randn(2, *shape)
    found = ad.testing.check_autoregressive(net, context)
    assert found.reach == found.context_reach == 1.0
    ad.testing.check_decoder(net, context)


def test_turned_images_under_a_turned_order_cost_the_same():
    """The same weights say the same of them, pixel by pixel in the order of drawing."""
    for ranks in symmetries(6, 7):
        fac = ad.Factorization(ranks.shape, fam.Bernoulli(), ordering=ad.Ordering.from_ranks(ranks))
        torch.manual_seed(0)
        upright = ad.networks.PixelCNN(IMAGE, channels=8, depth=2)
        turned = ad.networks.PixelCNN(fac, channels=8, depth=2)
        state = upright.state_dict()
        order = ranks.flatten()
        state["position"] = state["position"][order]
        state["_extra_state"] = turned.state_dict()["_extra_state"]
        turned.load_state_dict(state)
        x = torch.rand(5, 42).round()
        expected = upright.condition().log_prob(x.view(5, 6, 7))
        found = turned.condition().log_prob(x[:, order].view(5, *ranks.shape))
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "ordering",
    [ad.Ordering.random(1), ad.Ordering.from_ranks([[0, 1, 2], [1, 2, 3], [2, 3, 4]])],
    ids=["random", "diagonal"],
)
def test_other_orders_have_other_masks(ordering):
    net = ad.networks.PixelCNN(
        ad.Factorization((3, 3), fam.Bernoulli(), ordering=ordering), channels=8, depth=2
    )
    assert not isinstance(net.body, GatedStacks)


def test_a_graph_that_equals_raster_order_is_raster_order():
    adjacency = torch.ones(6, 6).tril(-1)
    fac = ad.Factorization((2, 3), fam.Normal(), ordering=ad.Ordering.from_graph(adjacency))
    assert isinstance(ad.networks.PixelCNN(fac, channels=8, depth=2).body, GatedStacks)


def test_an_entry_of_a_feature_map_reaches_its_own_pixel_even_the_first():
    net = ad.networks.PixelCNN(
        IMAGE, channels=8, depth=2, context_shape=(6, 7, 3), context_kind="blocks"
    )
    context = torch.randn(1, 6, 7, 3)
    x = torch.rand(1, 42).round()
    for row, column in ((0, 0), (2, 3), (5, 6)):
        moved = context.clone()
        moved[0, row, column] += 1
        change = (net(x, context) - net(x, moved)).abs().sum(-1).view(6, 7) > 0
        assert change[row, column]
        assert not change[:row].any()


def test_colours_of_a_pixel_are_one_block():
    family = fam.Independent(fam.DiscretizedLogisticMixture(2, bins=16), (3,))
    fac = ad.Factorization((5, 4, 3), family, partition=ad.Partition.along(0, 1))
    net = ad.networks.PixelCNN(fac, channels=8, depth=3)
    ad.testing.check_decoder(net)
    p = net.condition()
    x = p.sample((2,))
    assert x.shape == (2, 5, 4, 3)
    assert p.log_prob_blocks(x).shape == (2, 5, 4)


def test_dropout_is_for_training_alone():
    net = ad.networks.PixelCNN(IMAGE, channels=8, depth=2, dropout=0.5)
    x = torch.rand(3, 42).round()
    assert not torch.equal(net(x), net(x))
    first = net.decoder(3).step(None)
    assert torch.equal(first, net.decoder(3).step(None))
    net.eval()
    assert torch.equal(net(x), net(x))
    torch.testing.assert_close(first, net(x)[:, :1])


def test_weights_of_another_order_are_refused():
    net = ad.networks.PixelCNN(IMAGE, channels=8, depth=2)
    other = ad.networks.PixelCNN(IMAGE.with_ordering(ad.Ordering.reverse()), channels=8, depth=2)
    with pytest.raises(ValueError, match="ordering"):
        other.load_state_dict(net.state_dict())
