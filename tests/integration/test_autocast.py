"""Training under autocast ends where training in float32 does."""

import pytest
import torch
from table import DEVICE, NETWORKS, build


def trained(network, dtype):
    """The loss in float32, in nats, after 200 steps on images whose pixels follow each other."""
    net = build(network, "image-raster").eval()  # without dropout, whose draws would differ
    changes = torch.rand(256, 9) < 0.2  # so that even the best loss is 4.7 nats
    x = (changes.cumsum(-1) % 2).reshape(256, 3, 3).float()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    scaler = torch.amp.GradScaler(DEVICE, enabled=dtype == torch.float16)
    for _ in range(200):
        with torch.autocast(DEVICE, dtype, enabled=dtype != torch.float32):
            loss = -net.condition().log_prob(x).mean()
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return -net.condition().log_prob(x).mean().item()


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_a_loss_under_autocast_is_that_of_float32(network):
    # oneDNN has an LSTM of half precision on some processors only, and torch does not ask which.
    with torch.backends.mkldnn.flags(enabled=False):
        expected = trained(network, torch.float32)
        for dtype in (torch.bfloat16, torch.float16):
            torch.manual_seed(0)
            assert trained(network, dtype) == pytest.approx(expected, rel=0.02), dtype
