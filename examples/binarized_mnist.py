"""Statically binarized MNIST, pixel by pixel: likelihoods next to published ones, and a picture.

    torchrun --nproc-per-node 2 examples/binarized_mnist.py --data DIR

trains in several processes, each with its share of the images of a step. A run that was stopped
resumes from its last checkpoint, with `torchrun` or without. Needs matplotlib and tqdm.
"""

import argparse
import math
import os
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, distributed, nn

import ardist as ad

FILE, SIDE = "mnist_binarized_larochelle.npz", 28
WARMUP, SAVE_EVERY, MAX_NORM = 50, 500, 50.0


class Recipe(NamedTuple):
    """A network and how it is trained."""

    network: type[ad.networks.ConditionalNetwork]
    steps: int
    batch: int
    lr: float
    options: dict[str, Any]  # of the network


MADE, CNN, GPT = ad.networks.MADE, ad.networks.PixelCNN, ad.networks.Transformer
# Recipes for "cpu" take at most an hour on two cores. PixelCNN's was chosen on validation images.
RECIPES = {
    ("made", "cpu"): Recipe(MADE, 20_000, 100, 1e-3, {"hidden_features": [2000], "dropout": 0.3}),
    ("made", "cuda"): Recipe(MADE, 50_000, 100, 1e-3, {"hidden_features": [8000], "dropout": 0.5}),
    ("pixelcnn", "cpu"): Recipe(
        CNN, 6_000, 32, 3e-3, {"channels": 32, "depth": 6, "dilation": [1, 2, 4] * 2}
    ),
    ("pixelcnn", "cuda"): Recipe(
        *(CNN, 40_000, 128, 2e-3),
        {"channels": 96, "depth": 12, "dilation": [1, 2, 4] * 4, "dropout": 0.3},
    ),
    ("transformer", "cpu"): Recipe(
        GPT, 2000, 16, 2e-3, {"dim": 64, "depth": 4, "heads": 4, "any_order": False}
    ),
    ("transformer", "cuda"): Recipe(
        *(GPT, 40_000, 128, 1e-3),
        {"dim": 256, "depth": 8, "heads": 8, "any_order": False, "dropout": 0.1},
    ),
}
PUBLISHED = """\
205.79  independent pixels               computed on these files
 97.45  FVSBN                            quoted from memory
 88.40  MADE, 8000 units                 quoted from memory
 88.33  NADE, 500 units                  quoted from memory
 86.64  MADE, 2 x 8000 units, 32 masks   quoted from memory
 85.10  EoNADE, 2 layers, 128 orders     quoted from memory
 81.30  PixelCNN                         read in its source
 79.20  PixelRNN, 7 layers               read in its source"""


def load(path: Path) -> list[Tensor]:
    """Train, validation and test images: (N, 28, 28) of zeros and ones."""
    with np.load(path, allow_pickle=False) as data:
        parts = [np.unpackbits(data[part], axis=1) for part in ("train", "valid", "test")]
    return [torch.from_numpy(part).float().view(-1, SIDE, SIDE) for part in parts]


@torch.no_grad()
def nats(network: nn.Module, images: Tensor) -> Tensor:
    """The nats of each pixel given the earlier pixels: (N, 28, 28)."""
    p, device = ad.AutoregressiveDistribution(network), next(network.parameters()).device
    return torch.cat([-p.log_prob_blocks(part.to(device)).cpu() for part in images.split(250)])


def mean(scores: Tensor) -> float:
    return scores.double().sum((1, 2)).mean().item()


class Likelihood(ad.LogLikelihood):
    """The log-likelihood, computed in bfloat16 on a GPU."""

    def forward(self, x: Tensor, *others: Any) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.is_cuda):
            return super().forward(x, *others)


def fit(network: nn.Module, recipe: Recipe, train: Tensor, valid: Tensor, path: Path) -> float:
    """Trains by maximum likelihood, from the checkpoint if it exists. Returns the total minutes."""
    every = min(SAVE_EVERY, recipe.steps)
    history = ad.training.fit(
        Likelihood(network),
        train,
        valid=valid[:1000],
        batch_size=recipe.batch,
        lr=recipe.lr,
        warmup=WARMUP,
        clip=MAX_NORM,
        optimizer=partial(torch.optim.Adam, betas=(0.9, 0.99)),
        max_epochs=math.ceil(recipe.steps / every),
        steps_per_epoch=every,
        patience=None,
        checkpoint=path,
    )
    return history.seconds[-1] / 60


def picture(network: nn.Module, test: Tensor, path: Path, columns: int = 10) -> None:
    """Plots samples, and the nats of each pixel of test digits."""
    samples = ad.AutoregressiveDistribution(network).sample((4 * columns,)).cpu()
    digits = test[500 :: len(test) // columns]
    maps = nats(network, digits)
    figure = Figure(figsize=(9, 6.6), layout="constrained")
    axes = figure.subplots(3, height_ratios=[4, 1, 1])
    for axis, tiles, colors, top, title in (
        (axes[0], samples, "gray", 1, "Digits sampled from the model"),
        (axes[1], digits, "gray", 1, "Digits of the test set"),
        (axes[2], maps, "inferno", 3, "Their nats, by pixel and in total"),
    ):
        framed = F.pad(tiles, (1, 1, 1, 1), value=math.nan).unflatten(0, (-1, columns))
        rows = framed.transpose(1, 2).flatten(2).flatten(0, 1)
        shown = axis.imshow(rows, cmap=colors, vmin=0, vmax=top)
        axis.set_title(title, loc="left")
        axis.set(xticks=[], yticks=[], frame_on=False)
    totals = [f"{total:.0f}" for total in maps.sum((1, 2))]
    axes[2].set_xticks([(SIDE + 2) * (i + 0.5) for i in range(columns)], totals)
    axes[2].tick_params(length=0)
    figure.colorbar(shown, cax=axes[2].inset_axes([1.01, 0, 0.01, 1]), ticks=[0, 1, 2, 3])
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help=f"folder of {FILE}")
    parser.add_argument(
        "--network", choices=["made", "pixelcnn", "transformer"], default="pixelcnn"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, help="instead of the recipe's, for a quick look")
    parser.add_argument("--output", type=Path, default=Path("output"), help="folder to write to")
    args = parser.parse_args()
    if not (args.data / FILE).is_file():
        parser.error(f"{args.data / FILE} is missing: bits of `train`, `valid` and `test` images")
    torch.set_num_threads(args.threads)
    device = args.device
    if "RANK" in os.environ:  # set by torchrun
        distributed.init_process_group("nccl" if device == "cuda" else "gloo")
        if device == "cuda":
            device = f"cuda:{os.environ['LOCAL_RANK']}"
            torch.cuda.set_device(device)
    torch.manual_seed(0)
    args.output.mkdir(parents=True, exist_ok=True)
    recipe = RECIPES[args.network, args.device]
    recipe = recipe._replace(steps=args.steps or recipe.steps)
    train, valid, test = load(args.data / FILE)
    factorization = ad.Factorization((SIDE, SIDE), ad.families.Bernoulli())  # in raster order
    network = recipe.network(factorization, **recipe.options).to(device)
    rank = distributed.get_rank() if distributed.is_initialized() else 0
    size = sum(weight.numel() for weight in network.parameters())
    if rank == 0:
        print(f"{args.network} {recipe.options}, {size} weights; {recipe.steps} steps of")
        print(
            f"{recipe.batch} images, learning rate {recipe.lr}, {args.threads} threads", flush=True
        )
    path = args.output / f"binarized_mnist_{args.network}.pt"
    minutes = fit(network, recipe, train, valid, path)
    if distributed.is_initialized():
        distributed.destroy_process_group()
    if rank > 0:
        return
    print(f"{minutes:.0f} minutes; {mean(nats(network, valid)):.2f} nats on the validation images")
    own = f"{mean(nats(network, test)):6.2f}  {'ardist, ' + args.network:32} <<< this run"
    print("\nnats on the test images", *sorted([own, *PUBLISHED.splitlines()])[::-1], sep="\n")
    picture(network, test, path.with_suffix(".png"))
    print(f"\npicture: {path.with_suffix('.png')}")


if __name__ == "__main__":
    main()
