"""Training under autocast ends where training in single precision does."""

import pytest
import torch

import ardist as ad
from ardist import families as fam
from ardist import networks

WORDS, IMAGE = (ad.Factorization(shape, fam.Categorical(5)) for shape in (16, (4, 4)))
REALS = ad.Factorization(8, fam.Mixture(fam.Normal(), 3))
NETWORKS = {
    "made": lambda: networks.MADE(REALS, hidden_features=(64, 64)),
    "gru": lambda: networks.RNN(WORDS, hidden_size=32),
    "lstm": lambda: networks.RNN(WORDS, hidden_size=32, cell="lstm"),
    "transformer": lambda: networks.Transformer(WORDS, dim=32, depth=2, heads=2),
    "wavenet": lambda: networks.WaveNet(WORDS, channels=16, depth=4),
    "pixelcnn": lambda: networks.PixelCNN(IMAGE, channels=16, depth=3),
    "masked": lambda: networks.Masked(WORDS, hidden_features=(64, 64)),
    "markov": lambda: networks.Markov(WORDS, window=2, hidden_features=(32,)),
}
ROWS, STEPS, BATCH = 2000, 200, 64


def rows(fac):
    """A noisy line of reals, or symbols that rise every second step but for a tenth of them."""
    if fac is REALS:
        return torch.randn(ROWS, 1) * torch.linspace(-1, 1, 8) + 0.3 * torch.randn(ROWS, 8)
    x = torch.randint(5, (ROWS, 1)) + torch.arange(16) // 2
    return ((x + (torch.rand(ROWS, 16) < 0.1)) % 5).reshape(ROWS, *fac.event_shape)


def trained(name, dtype):
    """The negative log-likelihood after 200 steps, in nats."""
    torch.manual_seed(0)
    net = NETWORKS[name]()
    x, optimizer = rows(net.factorization), torch.optim.Adam(net.parameters(), 3e-3)
    scaler = torch.amp.GradScaler("cpu", enabled=dtype is torch.float16)
    for _ in range(STEPS):
        p, batch = net.condition(), x[torch.randint(ROWS, (BATCH,))]
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            score = ad.training.masked_log_prob if name == "masked" else type(p).log_prob
            loss = -score(p, batch).mean()
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    with torch.no_grad():
        return -net.condition().log_prob(x).mean().item()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_half_precision_trains_as_single_does(name, dtype):
    assert trained(name, dtype) == pytest.approx(trained(name, None), rel=0.02)


def test_an_encoder_under_autocast_makes_contexts():
    encoder = torch.nn.Linear(3, 2)
    net = networks.MADE(REALS, context_shape=(2,), hidden_features=8)
    x, c = torch.randn(5, 8), torch.randn(5, 3)
    with torch.autocast("cpu", torch.bfloat16):
        p = net.condition(encoder(c))
        assert p.sample().shape == (5, 8)
        p.log_prob(x).sum().backward()
    assert encoder.weight.grad is not None
    torch.testing.assert_close(
        p.log_prob(x), net.condition(encoder(c)).log_prob(x), rtol=2e-2, atol=0.1
    )
    with pytest.raises(ValueError, match=r"context: expected dtype torch\.float32"):
        net.condition(encoder(c).bfloat16())
    with pytest.raises(ValueError, match="context: expected"):  # autocast knows no such device
        net.condition(encoder(c).bfloat16().to("meta"))
