"""Handwritten digits in two minutes: train a PixelCNN, score it, sample and complete images.

An 8x8 image with ink levels 0, ..., 16 is sampled pixel by pixel, row by row. The distribution of
each pixel depends on all earlier pixels. Needs scikit-learn, matplotlib and tqdm.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor
from torch.distributions import Categorical, Independent
from torch.utils.data import DataLoader

import ardist as ad

LEVELS, PIXELS = 17, 64
EPOCHS, BATCH, LEARNING_RATE = 48, 64, 3e-3
ORDERINGS = {
    "raster": ad.Ordering.raster(),
    "snake": ad.Ordering.snake(),
    "diagonal": ad.Ordering.diagonal(),
    "spiral": ad.Ordering.spiral(),
    "hilbert": ad.Ordering.hilbert(),
    "checkerboard": ad.Ordering.checkerboard(),
    "multiscale": ad.Ordering.multiscale(3),
    "random": ad.Ordering.random(0),
}


def load() -> tuple[Tensor, Tensor, Tensor]:
    """Train, validation and test images: int64 (N, 8, 8)."""
    images = torch.as_tensor(load_digits().images).long()
    order = np.random.RandomState(0).permutation(len(images))
    return images[order[:1297]], images[order[1297:1547]], images[order[1547:]]


def build() -> ad.networks.PixelCNN:
    # In a mixture of discretized logistics, neighboring levels have similar probabilities.
    family = ad.families.DiscretizedLogisticMixture(5, bins=LEVELS)
    factorization = ad.Factorization((8, 8), family)  # pixel by pixel, in raster order
    return ad.networks.PixelCNN(factorization, channels=32, depth=5, dropout=0.3)


def shifted(x: Tensor) -> Tensor:
    """The images, with one in three moved left or right by a pixel."""
    windows = F.pad(x, (1, 1)).unfold(2, 8, 1)  # (N, 8, 3, 8)
    moves = torch.tensor([0, 1, 1, 1, 1, 2])[torch.randint(6, (len(x),))]
    return windows[torch.arange(len(x)), :, moves]


@torch.no_grad()
def nats(net: ad.networks.PixelCNN, x: Tensor) -> float:
    """Mean negative log-likelihood of an image, in nats."""
    return -net.condition().log_prob(x).mean().item()


def stack_shifted(rows: list[Tensor]) -> Tensor:
    return shifted(torch.stack(rows))


def fit(net: ad.networks.PixelCNN, train: Tensor, valid: Tensor, minutes: float) -> None:
    """Trains by maximum likelihood. On a slow machine the learning rate falls in fewer steps."""
    loader = DataLoader(train, BATCH, shuffle=True, collate_fn=stack_shifted)
    options = {"max_epochs": EPOCHS, "patience": None, "time_limit": 60 * minutes}
    ad.training.fit(net, loader, valid=valid, lr=LEARNING_RATE, **options)


def complete(net: ad.networks.PixelCNN, images: Tensor) -> Tensor:
    """The images with their lower halves resampled, given the upper halves."""
    upper = torch.arange(8).unsqueeze(-1).expand(8, 8) < 4
    return net.condition().given(images, upper).sample()


def picture(net: ad.networks.PixelCNN, test: Tensor, path: Path, columns: int = 16) -> None:
    """Plots digits and completions, with sampled pixels in orange, and orders of the pixels."""
    inks = ("white", "#ffa62b")
    data, drawn = (LinearSegmentedColormap.from_list("", ["#14141c", ink]) for ink in inks)
    samples = net.condition().sample((2 * columns,))
    chosen = test[2 * columns : 3 * columns]
    completed = drawn(complete(net, chosen.repeat(3, 1, 1)) / 16)
    completed[:, :4] = data(chosen.repeat(3, 1, 1)[:, :4] / 16)
    panels = {
        "Real digits": data(test[:columns] / 16),
        "Digits sampled from the model": drawn(samples / 16),
        "Originals, and three samples of their lower halves": np.concatenate(
            (data(chosen / 16), completed)
        ),
    }
    figure = Figure(figsize=(9, 6.2), layout="constrained")
    digits, orders = figure.subfigures(2, height_ratios=[4.4, 1])
    axes = digits.subplots(3, height_ratios=[len(tiles) for tiles in panels.values()])
    for axis, (title, tiles) in zip(axes, panels.items(), strict=True):
        framed = np.pad(tiles, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=1.0)
        rows = framed.reshape(-1, columns, 9, 9, 4).swapaxes(1, 2)
        axis.imshow(rows.reshape(-1, 9 * columns, 4))
        axis.set_title(title, loc="left")
    orders.suptitle(
        "Some orders in which a network may sample them, from dark to light", x=0.01, ha="left"
    )
    shown = orders.subplots(1, len(ORDERINGS))
    for axis, (name, ordering) in zip(shown, ORDERINGS.items(), strict=True):
        axis.imshow(ordering.ranks((8, 8)), cmap="YlOrBr_r")
        axis.set_title(name, fontsize="small")
    for axis in (*axes, *shown):
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="more are slower on a busy machine")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("output"), help="for digits.png")
    parser.add_argument("--minutes", type=float, default=2.0, help="of training, at most")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    train, valid, test = load()
    print(f"{len(train)} train, {len(valid)} validation and {len(test)} test images")
    net, start = build(), time.perf_counter()
    fit(net, train, valid, args.minutes)
    print(f"{time.perf_counter() - start:.0f} s on {args.threads} threads, seed {args.seed}")
    # For comparison: independent pixels, with the frequencies of the levels plus one.
    counts = F.one_hot(train, LEVELS).sum(0) + 1.0
    alone = -Independent(Categorical(counts), 2).log_prob(test).mean().item()
    for name, score in {"independent pixels": alone, "PixelCNN": nats(net, test)}.items():
        bits = score / PIXELS / math.log(2)
        print(f"test, {name}: {score:.2f} nats = {bits:.3f} bits per pixel")
    print("Expected: 79.5 nats for PixelCNN, plus or minus 0.5 between seeds and machines.")
    picture(net, test, args.output / "digits.png")
    print(f"picture: {args.output / 'digits.png'}")


if __name__ == "__main__":
    main()
