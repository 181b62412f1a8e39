"""What limits each step loop: the operations of a step, and the time compared with one pass.

A teacher-forced pass over the same rows does the same arithmetic without sequential steps, and its
time is a lower bound. If a step takes about as long as the dispatch of its operations, some 5 us
each in eager torch, dispatch is the limit. If it takes many times as long at a larger batch,
arithmetic and memory are the limit.
"""

import statistics
from collections.abc import Iterator
from typing import Any

import torch
from harness import Case, random_made, timed
from torch.utils._python_dispatch import TorchDispatchMode

import ardist as ad
from ardist import families as fam
from ardist import networks

TEXT = ad.Factorization(256, fam.Categorical(65))
IMAGE = ad.Factorization((28, 28), fam.Bernoulli())
RANDOM = IMAGE.with_ordering(ad.Ordering.random())
RASTER = "PixelCNN, 7 layers of 64"
NETWORKS = {
    "MADE, D=784, 512x512": lambda: random_made(IMAGE, hidden_features=(512, 512)),
    "LSTM 2x256": lambda: networks.RNN(TEXT, cell="lstm", hidden_size=256, num_layers=2),
    "GPT, 4 layers of 128": lambda: networks.Transformer(
        TEXT, dim=128, depth=4, heads=4, any_order=False
    ),
    "WaveNet, 10 layers of 64": lambda: networks.WaveNet(TEXT, channels=64, depth=10),
    RASTER: lambda: networks.PixelCNN(IMAGE, channels=64, depth=7),
    "the same, random order": lambda: networks.PixelCNN(RANDOM, channels=64, depth=7),
}


class Count(TorchDispatchMode):
    """Counts operations other than views."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += not func.is_view
        return func(*args, **(kwargs or {}))


def limits() -> Iterator[Case]:
    print("\nsteps: time, operations, and a draw compared with one teacher-forced pass")
    for name, build in NETWORKS.items():
        net = build()
        fac = net.factorization
        with Count() as count:
            net.condition().sample((2,))
        operations = count.operations / fac.num_steps
        for batch in (1, 16, 64):
            blocks = fac.split(net.condition().sample((batch,)))
            drawn, passed = [], []
            with torch.no_grad():
                for _ in range(3):
                    drawn.append(timed(lambda n=net, b=batch: n.condition().sample((b,))))
                    passed.append(timed(lambda n=net, b=blocks: n(b)))
            took = statistics.median(drawn) / fac.num_steps * 1e6
            ratio = statistics.median(d / p for d, p in zip(drawn, passed, strict=True))
            print(
                f"  {name:<26} batch {batch:<3} {took:8.0f} us a step, {operations:5.1f} operations"
                f", {took / operations:6.1f} us each; a draw is {ratio:5.1f} passes",
                flush=True,
            )
    yield from ()


def recorded() -> Iterator[Case]:
    print("\ndraws by recorded steps (`records_steps`), which are CUDA graphs on CUDA")
    for name in ("LSTM 2x256", "GPT, 4 layers of 128", "WaveNet, 10 layers of 64", RASTER):
        net, own = NETWORKS[name](), NETWORKS[name]()
        net.records_steps = True
        for batch in (1, 16, 64):
            yield (
                f"{name}, sample({batch}) by recorded steps",
                lambda n=net, b=batch: n.condition().sample((b,)),
                {"by the decoder": lambda n=own, b=batch: n.condition().sample((b,))},
                "above 1 on CUDA",
            )
