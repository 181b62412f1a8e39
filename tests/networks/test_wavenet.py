"""What the table cannot hold of WaveNet: a past that is longer than its receptive field."""

import pytest
import torch

import ardist as ad
from ardist import families as fam
from ardist.networks import WaveNet


def small(length, **options):
    torch.manual_seed(3)
    options = {"channels": 6, "depth": 5, "max_dilation": 4, **options}
    return WaveNet(ad.Factorization((length,), fam.Categorical(4)), **options)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 11),  # the block before, and 1 + 2 + 4 + 1 + 2
        ({"max_dilation": 512}, 32),
        ({"max_dilation": 7, "depth": 3}, 8),  # as 4
        ({"kernel_size": 3, "depth": 2}, 7),
    ],
)
def test_a_conditional_sees_its_receptive_field_and_no_more(options, expected):
    net = small(40, **options)
    found = ad.testing.check_autoregressive(net)
    behind = torch.arange(40).unsqueeze(-1) - torch.arange(40)
    seen = (behind > 0) & (behind <= net.receptive_field)
    assert torch.equal(found.influence, seen)
    assert found.reach == seen.sum().item() / (40 * 39 / 2)
    assert net.receptive_field == expected


@pytest.mark.parametrize("options", [{}, {"kernel_size": 4, "max_dilation": 2}])
@pytest.mark.parametrize("kind", ["none", "vector", "blocks"])
@pytest.mark.parametrize("length", [5, pytest.param(37, marks=pytest.mark.slow)])
def test_rings_are_overwritten_in_time(options, kind, length):
    """Past several rounds of each ring, and from a prefix of any length."""
    shape = {"none": (), "vector": (3,), "blocks": (length, 3)}[kind]
    given = {} if kind == "none" else {"context_shape": shape, "context_kind": kind}
    net = small(length, **options, **given).double()
    context = torch.randn(2, *shape, dtype=torch.float64) if shape else None
    ad.testing.check_decoder(net, context, batch_size=4)
    x = torch.randint(4, (4, length))
    rows = torch.tensor([1, 1, 2, 3, 0])
    with torch.no_grad():
        params = net(x, context)
        for taken in range(1, length):
            decoder = net.decoder(4, context)
            torch.testing.assert_close(decoder.prefill(x[:, :taken]), params[:, taken : taken + 1])
            decoder.select(rows)
            for step in range(taken + 1, length):
                found = decoder.step(x[rows, step - 1 : step])
                torch.testing.assert_close(found, params[rows, step : step + 1])


def test_weights_of_other_dilations_are_refused():
    with pytest.raises(ValueError, match=r"dilations is \[1, 2, 4, 1, 2\], here \[1, 2, 1, 2, 1\]"):
        small(9, max_dilation=2).load_state_dict(small(9).state_dict())
