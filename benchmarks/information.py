"""How much the chain rule reduces the variance of entropy and divergence of a trained model."""

import time
from collections.abc import Iterator

import torch
from harness import Case
from torch import Tensor

import ardist as ad
from ardist import families as fam
from ardist import networks
from ardist.information import Estimate, entropy, kl_divergence

COUNT = 4000  # draws that a variance is estimated from


def information() -> Iterator[Case]:
    """Prints the variance of a plain estimate over the variance with analytic terms of blocks."""
    from sklearn.datasets import load_digits

    fac = ad.Factorization((8, 8), fam.Bernoulli())
    data = torch.tensor(load_digits().images > 7.5, dtype=torch.float32)
    start = time.perf_counter()
    p, half = _trained(fac, data, 600), _trained(fac, data[: len(data) // 2], 200)
    x = p.sample((COUNT,))
    with torch.no_grad():
        nats = -p.log_prob(x)
        print(
            f"\nvariance of a draw, plain -log p(x) or log p(x) / q(x) and by the chain rule "
            f"(MADE, 64 binary pixels of digits, trained {time.perf_counter() - start:.0f} s)"
        )
        _line("entropy", nats, entropy(p, COUNT))
        for what, q in (
            ("divergence from it trained on less", half),
            ("divergence from it before training", _trained(fac, data, 0)),
        ):
            _line(what, -nats - q.log_prob(x), kl_divergence(p, q, COUNT))
    yield from ()


def _trained(fac: ad.Factorization, data: Tensor, num_steps: int) -> ad.AutoregressiveDistribution:
    net = networks.MADE(fac, hidden_features=(256,))
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(num_steps):
        loss = -net.condition().log_prob(data[torch.randint(len(data), (64,))]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.condition()


def _line(what: str, plain: Tensor, estimate: Estimate) -> None:
    variance = (estimate.standard_error.square() * COUNT).item()
    print(
        f"  {what:<36}{plain.mean():8.2f} nats plain, {estimate.value:8.2f} by the chain rule; "
        f"variance {plain.var():9.3f} / {variance:8.3f} = {plain.var() / variance:6.1f}",
        flush=True,
    )
