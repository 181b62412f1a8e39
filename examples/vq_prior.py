"""Discrete latent variables and their prior: a VQ-VAE, and a Transformer over its grid of codes.

    python examples/vq_prior.py [--data DIR]     # on digits, or on MNIST if DIR has mnist.npz

Prints how well test images are reconstructed from their codes (van den Oord et al. 2017), and the
nats of the codes under three priors. Plots samples of each prior. Needs scikit-learn, matplotlib
and tqdm.
"""

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import digits  # the example of that name
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.distributions import Categorical, Independent
from torch.utils.data import DataLoader

import ardist as ad

STEPS, BATCH, LEARNING_RATE = 2000, 64, 2e-3
WIDTH, SIZE = 64, 8  # of the networks' layers, and of a code's vector
MNIST = "train_images", "test_images"


class VQVAE(nn.Module):
    """Images (N, side, side) in [0, 1] to codes (N, side / scale, side / scale), and back."""

    def __init__(self, scale: int, num_codes: int) -> None:
        super().__init__()
        near = {"kernel_size": 3, "padding": 1}
        far = {"kernel_size": 2 * scale, "stride": scale, "padding": scale // 2}
        down, up = nn.Conv2d(1, WIDTH, **far), nn.ConvTranspose2d(WIDTH, 1, **far)
        inner = [nn.Conv2d(WIDTH, WIDTH, **near) for _ in range(2)]
        first, last = nn.Conv2d(SIZE, WIDTH, **near), nn.Conv2d(WIDTH, SIZE, **near)
        self.encoder = nn.Sequential(down, nn.GELU(), inner[0], nn.GELU(), last)
        self.decoder = nn.Sequential(first, nn.GELU(), inner[1], nn.GELU(), up)
        # Running sums of the vectors of each code, and of their number.
        self.register_buffer("sums", torch.ones(num_codes, SIZE + 1))

    @property
    def codebook(self) -> Tensor:
        return self.sums[:, :SIZE] / self.sums[:, SIZE:]

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (N, h, w, SIZE), and the codes (N, h, w) nearest to them."""
        z = self.encoder(x.unsqueeze(1)).movedim(1, -1)
        return z, torch.cdist(z.flatten(1, 2), self.codebook).argmin(-1).view(z.shape[:-1])

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z.movedim(-1, 1)).squeeze(1)

    def forward(self, x: Tensor) -> Tensor:
        """Minus the errors of pixels and of rounding, (N,). Training updates the codebook."""
        z, codes = self.encode(x)
        if self.training:
            one_hot = F.one_hot(codes.flatten(), len(self.sums)).float()
            seen = F.pad(z.detach().flatten(0, 2), (0, 1), value=1.0)
            self.sums.lerp_(one_hot.T @ seen, 0.02)
            unused = self.sums[:, SIZE] < 1  # these start again, at vectors of this batch
            self.sums[unused] = seen[torch.randint(len(seen), (int(unused.sum()),))]
        rounded = self.codebook[codes]
        passed = z + (rounded - z).detach()  # the gradient ignores the rounding
        errors = (self.decode(passed) - x).square().flatten(1).mean(1)
        return -errors - 0.02 * (z - rounded).square().flatten(1).mean(1)


def load(data: Path | None) -> list[Tensor]:
    """Train, validation and test images, (N, side, side) in [0, 1]."""
    if data is None:
        return [images / 16 for images in digits.load()]
    with np.load(data / "mnist.npz") as file:
        images, test = (torch.from_numpy(file[name]) / 255 for name in MNIST)
    return [images[:-1000], images[-1000:], test]


def fit(module: nn.Module, train: Tensor, valid: Tensor, collate: Callable, seed: int) -> None:
    loader = DataLoader(train, BATCH, shuffle=True, collate_fn=collate)
    every = min(50, len(loader))
    options = {"lr": LEARNING_RATE, "warmup": 0, "clip": None, "patience": None, "seed": seed}
    options |= {"max_epochs": STEPS // every, "steps_per_epoch": every}
    ad.training.fit(module, loader, valid=valid, **options)


@torch.no_grad()
def report(vqvae: VQVAE, net: ad.networks.Transformer, train: Tensor, test: Tensor) -> None:
    codes, (h, w), num_codes = vqvae.encode(test)[1], net.factorization.grid_shape, len(vqvae.sums)
    rebuilt, used = vqvae.decode(vqvae.codebook[codes]), codes.unique().numel()
    print(f"{len(test)} test images of {h} x {w} codes, which use {used} of {num_codes}")
    print(f"  root mean square error of a pixel {(rebuilt - test).square().mean().sqrt():.4f}")
    counts = F.one_hot(vqvae.encode(train[:10_000])[1], num_codes).sum(0) + 0.5
    priors = {
        "Transformer": net.condition(),
        "independent codes": Independent(Categorical(counts), 2),  # each position's frequencies
        "uniform codes": Independent(Categorical(torch.ones_like(counts)), 2),
    }
    panels = {"Test images": test[:16], "Test images, reconstructed from codes": rebuilt[:16]}
    for name, prior in priors.items():
        nats = -prior.log_prob(codes).mean().item()
        print(f"  {name:18}{nats:8.2f} nats an image, {nats / h / w / math.log(2):.3f} bits a code")
        drawn = prior.sample((48 if name == "Transformer" else 16,))
        panels[f"Sampled, {name}"] = vqvae.decode(vqvae.codebook[drawn])
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    axes = figure.subplots(len(panels), height_ratios=[len(x) for x in panels.values()])
    for axis, (title, images) in zip(axes, panels.items(), strict=True):
        tiles = F.pad(images, (0, 1, 0, 1), value=math.nan).unflatten(0, (-1, 16)).transpose(1, 2)
        color = "copper" if title.startswith("Sampled") else "gray"
        axis.imshow(tiles.flatten(2).flatten(0, 1), color, vmin=0, vmax=1)
        axis.set_title(title, loc="left")
        axis.set_axis_off()
    Path("output").mkdir(exist_ok=True)
    figure.savefig("output/vq_prior.png", dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="the folder of mnist.npz; digits without it")
    parser.add_argument("--threads", type=int, default=1, help="more are slower on a busy machine")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.data and not (args.data / "mnist.npz").is_file():
        parser.error(f"{args.data / 'mnist.npz'} is missing: an npz file with {MNIST}")
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    train, valid, test = load(args.data)
    scale, num_codes = (4, 128) if args.data else (2, 64)
    vqvae, side = VQVAE(scale, num_codes), test.shape[-1] // scale

    def images_of(rows: list[Tensor]) -> Tensor:
        x = torch.stack(rows)
        return x if args.data else digits.shifted(x)

    @torch.no_grad()
    def codes_of(rows: list[Tensor]) -> Tensor:
        return vqvae.encode(images_of(rows))[1]

    fit(vqvae, train, valid, images_of, args.seed)
    fac = ad.Factorization((side, side), ad.families.Categorical(num_codes))
    net = ad.networks.Transformer(fac, dim=64, depth=3, heads=4, any_order=False, dropout=0.2)
    with torch.no_grad():
        valid = vqvae.encode(valid)[1]
    fit(net, train, valid, codes_of, args.seed)
    report(vqvae, net, train, test)
    print(f"picture: output/vq_prior.png, after {time.process_time():.0f} s of CPU time")


if __name__ == "__main__":
    main()
