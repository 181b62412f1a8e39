"""Locally masked convolution: what the table of networks cannot hold."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, vmap

import ardist as ad
from ardist import networks
from ardist.networks import locally_masked
from ardist.networks.locally_masked import LocallyMasked

SNAKE = [[0, 1, 2, 3, 4], [9, 8, 7, 6, 5], [10, 11, 12, 13, 14], [19, 18, 17, 16, 15]]
DIAGONAL = [[row + column for column in range(5)] for row in range(4)]


def _chains():
    """A transitive graph: two interleaved sets of pixels that know nothing of each other."""
    pixels = torch.arange(20)
    same = pixels.unsqueeze(-1) % 2 == pixels % 2
    return same & (pixels.unsqueeze(-1) > pixels)


ORDERINGS = {
    "snake": ad.Ordering.from_ranks(SNAKE),
    "random": ad.Ordering.random(1),
    "diagonal": ad.Ordering.from_ranks(DIAGONAL),
    "graph": ad.Ordering.from_graph(_chains()),
}
orderings = pytest.mark.parametrize("ordering", list(ORDERINGS))
# A size of kernels and the dilation of each layer.
SIZES = [(3, (1, 1, 1)), (3, (2, 1)), (5, (1, 2)), (11, (1,))]
sizes = pytest.mark.parametrize(("kernel_size", "dilations"), SIZES)


def _factorization(ordering, family=None):
    return ad.Factorization((4, 5), family or ad.families.Normal(), ordering=ORDERINGS[ordering])


def _net(ordering, kernel_size, dilations, **options):
    torch.manual_seed(0)
    return networks.PixelCNN(
        _factorization(ordering),
        channels=16,
        depth=len(dilations),
        kernel_size=kernel_size,
        dilation=dilations,
        **options,
    )


def _reads(fac, kernel_size, dilation):
    """(pixels, pixels) bool: which pixel lies in the window of which, and may be read there."""
    place = torch.cartesian_prod(torch.arange(4), torch.arange(5))
    distance = place.unsqueeze(1) - place
    near = (distance.abs() <= kernel_size // 2 * dilation) & (distance % dilation == 0)
    return near.all(-1) & fac.dependencies


@orderings
@sizes
def test_reach_is_that_of_the_windows(ordering, kernel_size, dilations):
    net = _net(ordering, kernel_size, dilations)
    seen = _reads(net.factorization, kernel_size, dilations[0])
    for dilation in dilations[1:]:
        reads = _reads(net.factorization, kernel_size, dilation)
        seen = seen | (reads.float() @ seen.float() > 0)
    assert torch.equal(ad.testing.check_autoregressive(net).influence, seen)


@orderings
@sizes
def test_it_is_the_straight_unfold_mask_and_multiply(ordering, kernel_size, dilations):
    torch.manual_seed(0)
    fac = _factorization(ordering)
    body = LocallyMasked(
        fac,
        channels=6,
        kernel_size=kernel_size,
        dilations=dilations,
        context_size=0,
        dropout=0.0,
    ).double()
    features = torch.randn(3, 4, 5, 6, dtype=torch.float64)
    inputs, hidden = features.permute(0, 3, 1, 2), body.position.T.unflatten(1, (4, 5))
    for number, (layer, dilation) in enumerate(zip(body.layers, dilations, strict=True)):
        reads = _reads(fac, kernel_size, dilation)
        if number:
            reads = reads | torch.eye(20, dtype=torch.bool)
        options = {"dilation": dilation, "padding": kernel_size // 2 * dilation}
        # Through which tap a pixel reads another one: unfolding the numbers of pixels tells.
        numbers = torch.arange(1.0, 21).view(1, 1, 4, 5)
        read = F.unfold(numbers, kernel_size, **options)[0].long()  # (taps, pixels)
        mask = F.pad(reads, (1, 0))[torch.arange(20), read]
        unfolded = F.unfold(inputs, kernel_size, **options).unflatten(1, (6, -1))
        sums = torch.einsum("nctp,tcd->ndp", unfolded * mask, layer.weight)
        sums = sums.unflatten(2, (4, 5)) + layer.bias[:, None, None]
        hidden = hidden + torch.einsum("nchw,dc->ndhw", sums.relu(), layer.out.weight)
        inputs = hidden.relu()
    expected = hidden.permute(0, 2, 3, 1)
    torch.testing.assert_close(body(features), expected)
    weights = [*body.parameters()]
    direction = torch.randn_like(expected)
    found = torch.autograd.grad(body(features), weights, direction)
    torch.testing.assert_close(found, torch.autograd.grad(expected, weights, direction))


@orderings
@pytest.mark.parametrize("together", [1, 2**18])
def test_a_prefix_may_be_computed_in_pieces_under_a_map_of_contexts(
    ordering, together, monkeypatch
):
    monkeypatch.setattr(locally_masked, "_READ_AT_ONCE", together)
    net = _net(ordering, 5, (1, 2), context_shape=(4, 5, 3), context_kind="blocks")
    ad.testing.check_decoder(net, torch.randn(2, 4, 5, 3))


@orderings
def test_a_map_of_contexts_tells_of_the_pixel_and_of_those_before_it(ordering):
    net = _net(ordering, 11, (1, 1), context_shape=(4, 5, 3), context_kind="blocks")
    x, context = torch.randn(1, 20), torch.randn(1, 4, 5, 3)
    jacobian = torch.autograd.functional.jacobian(lambda c: net(x, c)[0], context)
    seen = jacobian.flatten(1, 2).flatten(2, 3).abs().sum((1, 3)) > 0
    assert torch.equal(seen, net.factorization.dependencies | torch.eye(20, dtype=torch.bool))


def test_an_ensemble_runs_under_vmap():
    members = [_net("random", 3, (1, 1)) for _ in range(2)]
    torch.nn.init.normal_(members[1].body.layers[0].weight)
    x = torch.randn(3, 20)
    stacked = {
        name: torch.stack([member.get_parameter(name) for member in members])
        for name, _ in members[0].named_parameters()
    }
    together = vmap(lambda params: functional_call(members[0], params, (x,)))(stacked)
    torch.testing.assert_close(together, torch.stack([member(x) for member in members]))
