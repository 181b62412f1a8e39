"""One network for every order: inpainting, p(x_S) of any set, and mixtures over orders.

A causal Transformer and a masked perceptron are trained on random orders, and a Transformer of the
same size only on raster order. The data are a table of categories 0, 1, ..., or digits of 8x8
pixels. Needs scikit-learn, matplotlib and tqdm.
"""

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import digits  # the example of that name
import numpy as np
import table_files  # the module next to this one
import torch
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Categorical
from torch.utils.data import DataLoader

import ardist as ad

LEARNING_RATE = 2e-3
ELEMENTS = 2**20  # scored at once


class Recipe(NamedTuple):
    """Rows in a batch, epochs, and options of the network and of `fit`."""

    batch: int
    epochs: int
    network: dict[str, Any]
    fit: dict[str, Any]


_ADAM = partial(torch.optim.AdamW, betas=(0.9, 0.98), fused=True)
_ROWS = {"optimizer": _ADAM, "orderings": "row"}  # a random order for each row
RECIPES = {
    "table": {
        "one order": Recipe(200, 31, {"dim": 32}, {"optimizer": _ADAM}),
        "causal": Recipe(200, 31, {"dim": 32}, _ROWS),
        "masked": Recipe(
            200,
            62,
            {"hidden_features": (256, 256), "dropout": 0.1},
            {"optimizer": _ADAM, "average": 0.998},
        ),
    },
    "digits": {
        "one order": Recipe(64, 119, {"dim": 64, "dropout": 0.1}, {"optimizer": _ADAM}),
        "causal": Recipe(64, 119, {"dim": 64, "dropout": 0.1}, _ROWS),
        "masked": Recipe(
            64,
            250,
            {"hidden_features": (512, 512), "dropout": 0.3},
            {"optimizer": _ADAM, "average": 0.998},
        ),
    },
}


def load(table: Path | None) -> tuple[ad.Factorization, Tensor, Tensor, Tensor]:
    """The factorization, and train, validation and test events."""
    if table is None:
        family = ad.families.DiscretizedLogisticMixture(5, bins=digits.LEVELS)
        return ad.Factorization((8, 8), family), *digits.load()
    parts = [torch.from_numpy(part) for part in table_files.read(table)]
    if not all((part >= 0).all() and not (part % 1).any() for part in parts):
        raise SystemExit(f"{table}: expected categories 0, 1, ...")
    states = int(max(part.max() for part in parts)) + 1
    family = ad.families.Bernoulli() if states <= 2 else ad.families.Categorical(states)
    return ad.Factorization(parts[0].shape[1:], family), *(part.long() for part in parts)


def random_ranks(count: int, fac: ad.Factorization) -> Tensor:
    """An order for each row: (count, *grid_shape)."""
    return torch.rand(count, fac.num_blocks).argsort(-1).reshape(count, *fac.grid_shape)


@torch.no_grad()
def nats(p: torch.distributions.Distribution, x: Tensor) -> float:
    """Mean negative log-likelihood."""
    rows = x.split(max(1, ELEMENTS // p.event_shape.numel() ** 2))
    return -torch.cat([p.log_prob(part) for part in rows]).mean().item()


def fit(
    kind: str, recipe: Recipe, fac: ad.Factorization, train: Tensor, valid: Tensor, seed: int
) -> ad.networks.ConditionalNetwork:
    """Trains a network of this kind by maximum likelihood, with the recipe for this data."""
    batch, epochs, options, training = recipe
    torch.manual_seed(seed)
    if kind == "masked":
        net = ad.networks.Masked(fac, **options)
    else:
        net = ad.networks.Transformer(fac, depth=3, heads=4, **options)
    collate = digits.stack_shifted if len(fac.grid_shape) == 2 else None
    ad.training.fit(
        net,
        DataLoader(train, batch, shuffle=True, collate_fn=collate),
        valid=valid,
        lr=LEARNING_RATE,
        warmup=100,
        max_epochs=epochs,
        patience=None,
        seed=seed,
        **training,
    )
    return net


def compare(
    train: Tensor,
    valid: Tensor,
    test: Tensor,
    networks: dict[str, ad.networks.ConditionalNetwork],
    seconds: dict[str, float],
) -> ad.networks.ConditionalNetwork:
    """Prints nats of test events by network, and returns the best one for any order."""
    states = int(max(x.max() for x in (train, valid, test))) + 1
    counts = torch.nn.functional.one_hot(train, states).sum(0) + 1.0
    alone = -Categorical(counts).log_prob(test)  # independent elements
    orderings = [ad.Ordering.random(seed) for seed in range(16)]
    columns = ("seconds", "raster", "random", "mix of 4", "mix of 16")
    print(f"{'nats on test':<21}" + "".join(f"{column:>10}" for column in columns))
    print(f"{'independent elements':<31}{alone.flatten(1).sum(-1).mean():10.3f}")
    scores = {}
    for kind, net in networks.items():
        p = net.condition()
        line = f"{kind:<21}{seconds[kind]:10.0f}{nats(p, test):10.3f}"
        if kind != "one order":
            each = [nats(p.with_ordering(ordering), test) for ordering in orderings]
            line += f"{sum(each) / len(each):10.3f}"
            for count in (4, 16):
                line += f"{nats(ad.OrderingMixture(net, orderings[:count]), test):10.3f}"
            scores[kind] = nats(ad.OrderingMixture(net, orderings), valid)
        print(line, flush=True)
    kind = min(scores, key=scores.__getitem__)
    p, fac = networks[kind].condition(), networks[kind].factorization
    print(f"nats of x_S on test by {kind!r}, mean of 8 random sets S of each size")
    for size in sorted({-(-fac.num_blocks * share // 16) for share in (1, 4, 8, 12)}):
        kept = [ranks < size for ranks in random_ranks(8, fac)]
        own = sum(nats(p.marginal(mask), test[:, mask]) for mask in kept) / 8
        other = sum(alone[:, mask].sum(-1).mean().item() for mask in kept) / 8
        print(f"  {size:3} elements  {own:8.3f}, independent {other:8.3f}")
    return networks[kind]


def picture(net: ad.networks.ConditionalNetwork, test: Tensor, path: Path, draws: int = 6) -> None:
    """Plots digits with inpainted regions: data in white, sampled pixels in orange."""
    inks = ("white", "#ffa62b")
    data, drawn = (LinearSegmentedColormap.from_list("", ["#14141c", ink]) for ink in inks)
    row, column = torch.arange(8).unsqueeze(-1), torch.arange(8)
    middle = (row - 3.5).abs().maximum((column - 3.5).abs()) < 2.5
    regions = {"lower half": row > 3, "right half": column > 3, "middle": middle}
    regions["three pixels in four"] = torch.rand(4, 8, 8) < 0.75
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    axes = figure.subplots(2, 2).flat
    for axis, (name, missing), x in zip(axes, regions.items(), test.split(4), strict=False):
        missing = missing.expand(4, 8, 8)
        filled = net.condition().given(x, ~missing).sample((draws,))  # (draws, 4, 8, 8)
        original, given = data(x / 16), data(x / 16)
        given[missing] = to_rgba("#4a6fa5")
        tiles = np.where(missing[..., None], drawn(filled / 16), original)
        tiles = np.stack((original, given, *tiles), 1)  # (4, 2 + draws, 8, 8, 4)
        framed = np.pad(tiles, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)), constant_values=1.0)
        axis.imshow(framed.swapaxes(1, 2).reshape(4 * 9, -1, 4))
        axis.set_xticks([3.5, 12.5, 17.5 + 4.5 * draws], ["original", "given", "inpainted"])
        axis.set(title=name, yticks=[], frame_on=False)
        axis.tick_params(length=0)
    figure.savefig(path, dpi=150, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, help=f"{table_files.FORMATS}; digits by default")
    parser.add_argument("--epochs", type=float, default=1.0, help="as a share of the recipes'")
    parser.add_argument("--threads", type=int, default=1, help="more are slower on a busy machine")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("output"), help="for any_order.png")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    fac, train, valid, test = load(args.table)
    networks, seconds, recipes = {}, {}, RECIPES["digits" if args.table is None else "table"]
    for kind, recipe in recipes.items():
        start = time.process_time()
        epochs = max(1, round(args.epochs * recipe.epochs))
        networks[kind] = fit(kind, recipe._replace(epochs=epochs), fac, train, valid, args.seed)
        seconds[kind] = time.process_time() - start
    print(f"{'digits' if args.table is None else args.table.stem}: {len(train)} training rows")
    best = compare(train, valid, test, networks, seconds)
    if args.table is None:
        args.output.mkdir(parents=True, exist_ok=True)
        picture(best, test, args.output / "any_order.png")
        print(f"picture: {args.output / 'any_order.png'}")


if __name__ == "__main__":
    main()
