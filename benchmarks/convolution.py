"""WaveNet and PixelCNN compared with whole passes, and with convolutions written by hand."""

import math
import statistics
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from harness import Case, timed
from torch import Tensor, nn

import ardist as ad
from ardist import families as fam
from ardist import networks


def by_convolutions(net: networks.WaveNet) -> Callable[[Tensor], Tensor]:
    """The same network as it is usually written: F.conv1d over (N, channels, T)."""
    to_skip = net.skip.weight.split(net.channels, 1)

    def logits(inputs: Tensor) -> Tensor:  # of symbols (N, T), the last T of a longer sequence
        hidden = F.embedding(inputs, net.embedding.weight, None) + net.embedding.bias[0]
        hidden, skip = hidden.transpose(1, 2), net.skip.bias.unsqueeze(-1)
        for number, layer in enumerate(net.gated_layers):
            taps = layer.taps.flip(0).permute(2, 1, 0)
            padded = F.pad(hidden, (layer.reach, 0))
            sums = F.conv1d(padded, taps, layer.bias, dilation=layer.dilation)
            signal, gate = sums.chunk(2, 1)
            gated = signal.tanh() * gate.sigmoid()
            skip = skip + F.conv1d(gated, to_skip[number].unsqueeze(-1))
            if number < len(net.residual):
                hidden = hidden + F.conv1d(gated, net.residual[number].T.unsqueeze(-1))
        mixed = F.conv1d(skip.relu(), net.mix.weight.unsqueeze(-1), net.mix.bias).relu()
        return net.head(mixed.transpose(1, 2))

    return logits


def wavenet() -> Iterator[Case]:
    """Steps from ring buffers compared with passes over the receptive field; the parallel pass."""
    symbols, length = 256, 2048

    def build(length: int) -> networks.WaveNet:
        fac = ad.Factorization(length, fam.Categorical(symbols))
        return networks.WaveNet(fac, channels=64, depth=10)

    net = build(length)
    passes, field = by_convolutions(net), net.receptive_field
    some = 12  # steps of the peer that are timed

    @torch.no_grad()
    def by_passes(batch: int) -> None:
        x = torch.randint(symbols, (batch, field))
        for _ in range(some):
            chosen = torch.multinomial(passes(x)[:, -1].softmax(-1), 1)
            x = torch.cat((x[:, 1:], chosen), 1)

    for batch, aim in ((1, 60), (16, 300)):
        yield (
            f"WaveNet, 10 layers to dilation 512, 64 channels, 256 symbols: sample({batch}) of "
            f"{length}",
            (lambda batch=batch: net.condition().sample((batch,))),
            {
                "a pass over the receptive field a step": (
                    (lambda batch=batch: by_passes(batch)),
                    length / some,
                )
            },
            f">= {aim}",
        )

    sizes = (256, 512, 1024, 2048, 4096)
    nets = [build(size) for size in sizes]
    for batch in (1, 16):
        took = [
            [timed(lambda n=n, batch=batch: n.condition().sample((batch,))) for n in nets]
            for _ in range(5)
        ]
        logs = [math.log(statistics.median(times)) for times in zip(*took, strict=True)]
        at = [math.log(size) for size in sizes]
        middle = statistics.mean(at)
        slope = sum((a - middle) * t for a, t in zip(at, logs, strict=True)) / sum(
            (a - middle) ** 2 for a in at
        )
        print(f"\nWaveNet, sample({batch}) for T = 256 to 4096: time ~ T^{slope:.2f}; aim: <= 1.1")

    x = torch.randint(symbols, (4, length))

    def ours() -> None:
        (-net.condition().log_prob(x).mean()).backward()
        net.zero_grad()

    def by_hand() -> None:
        F.cross_entropy(passes(x).flatten(0, 1), x.flatten()).backward()
        net.zero_grad()

    yield (
        "the same, batch 4: log_prob with backward",
        ours,
        {"F.conv1d and F.cross_entropy": by_hand},
        ">= 0.95 (at most 1.05 times its time)",
    )


def pixelcnn() -> Iterator[Case]:
    """Sampling compared with a whole pass for each pixel. Only a few of the passes are timed."""
    side, some = 28, 6
    net = networks.PixelCNN(ad.Factorization((side, side), fam.Bernoulli()), channels=64, depth=7)

    @torch.no_grad()
    def by_passes(batch: int) -> None:
        x = torch.zeros(batch, side * side)
        for pixel in range(some):
            x[:, pixel] = net(x)[:, pixel, 0].sigmoid().bernoulli()

    for batch in (1, 16, 64):
        yield (
            f"gated PixelCNN, 28x28, 7 layers, 64 channels: sample({batch})",
            (lambda batch=batch: net.condition().sample((batch,))),
            {
                "a pass for each pixel": (
                    (lambda batch=batch: by_passes(batch)),
                    side * side / some,
                )
            },
            ">= 150" if batch == 16 else "none",
        )


def locally_masked() -> Iterator[Case]:
    """Locally masked convolution compared with the direct way: unfold, mask, multiply."""
    side, channels, kernel_size = 28, 64, 3
    num_pixels = side * side
    fac = ad.Factorization((side, side), fam.Bernoulli(), ordering=ad.Ordering.random())
    net = networks.PixelCNN(fac, channels=channels, depth=7, kernel_size=kernel_size)
    body = net.body
    masks = [
        (layer.windows < num_pixels).T.float().repeat(channels, 1).unsqueeze(0)
        for layer in body.layers
    ]  # (1, channels * taps, pixels), as `F.unfold` lays them out

    def convolved(x: Tensor, layer: nn.Module, mask: Tensor) -> Tensor:
        unfolded = F.unfold(x, kernel_size, padding=kernel_size // 2) * mask
        weight = layer.weight.permute(2, 1, 0).flatten(1)  # (channels, channels * taps)
        return (weight @ unfolded).view_as(x) + layer.bias.view(-1, 1, 1)

    def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.conv2d(x, weight[..., None, None], bias)

    def straight(blocks: Tensor) -> Tensor:
        """The network with the same parameters, (N, channels, H, W) inside."""
        features = net.embedding(blocks) + net.position
        inputs = features.transpose(1, 2).unflatten(2, (side, side))
        hidden = body.position.T.unflatten(1, (side, side))
        for layer, mask in zip(body.layers, masks, strict=True):
            added = convolved(inputs, layer, mask).relu()
            hidden = hidden + pointwise(added, layer.out.weight)
            inputs = hidden.relu()
        mixed = pointwise(hidden.relu(), net.mix.weight, net.mix.bias).relu()
        logits = pointwise(mixed, net.head.weight, net.head.bias)
        return logits.flatten(1)

    for batch in (16, 32):
        x = (torch.rand(batch, side, side) < 0.3).float()
        blocks = fac.split(x)
        torch.testing.assert_close(net(blocks).squeeze(-1), straight(blocks), rtol=1e-3, atol=1e-4)

        def ours(x: Tensor = x) -> None:
            (-net.condition().log_prob(x).mean()).backward()
            net.zero_grad()

        def by_hand(blocks: Tensor = blocks) -> None:
            losses = F.binary_cross_entropy_with_logits(straight(blocks), blocks, reduction="none")
            losses.sum(-1).mean().backward()
            net.zero_grad()

        yield (
            f"locally masked PixelCNN, 28x28, 7 layers, 64 channels, batch {batch}: "
            f"log_prob with backward",
            ours,
            {"unfold, mask and matmul": by_hand},
            ">= 1.3",
        )

    zeros = torch.zeros(16, num_pixels)
    yield (
        "the same: sample(16)",
        (lambda: net.condition().sample((16,))),
        {"a pass for each pixel": (torch.no_grad()(lambda: net(zeros)), num_pixels)},
        "none",
    )
