"""A character model of Shakespeare: train it, score held-out text, sample text.

    python examples/char_lm.py --data DIR --network lstm

DIR holds tinyshakespeare.txt (https://github.com/karpathy/char-rnn, data/tinyshakespeare). The
network is trained on the first nine tenths and validated on the rest. `--recipe nanogpt` is
nanoGPT's recipe for a CPU with our Transformer. `--recipe own`, the default, is the best recipe
that we found for 30 minutes on two cores.

    torchrun --nproc-per-node 2 examples/char_lm.py --data DIR --network transformer --fsdp

trains in several processes, each with its share of the windows of a step, by DDP, or by FSDP2 with
`--fsdp`. With `--checkpoint FILE`, a run that was stopped resumes from its last checkpoint, in any
number of processes.
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard

import ardist as ad
from ardist import networks


class Recipe(NamedTuple):
    """How a network is built and trained.

    Attributes:
        build: makes the network from the factorization of a window.
        window: number of characters in a window. All but the first character are scored.
        batch: number of windows in a step, from anywhere in the text.
    """

    build: Callable[[ad.Factorization], networks.ConditionalNetwork]
    window: int
    batch: int
    steps: int
    learning_rate: float
    weight_decay: float = 0.1
    warmup: int = 100


RECIPES = {
    # https://github.com/karpathy/nanoGPT: its README on computers without a GPU
    ("transformer", "nanogpt"): Recipe(
        partial(networks.Transformer, any_order=False, dim=128, depth=4, heads=4),
        *(65, 12, 2000, 1e-3),
    ),
    ("transformer", "own"): Recipe(
        partial(networks.Transformer, any_order=False, dim=192, depth=4, heads=6, dropout=0.05),
        *(129, 16, 3000, 2e-3),
    ),
    ("wavenet", "own"): Recipe(
        partial(networks.WaveNet, channels=128, depth=10, max_dilation=16, dropout=0.1),
        *(129, 16, 3500, 6e-3),
    ),
    ("lstm", "own"): Recipe(
        partial(networks.RNN, cell="lstm", hidden_size=512, dropout=0.25),
        *(129, 32, 3000, 3e-3),
        weight_decay=0.02,
    ),
}


def load(folder: Path) -> tuple[Tensor, Tensor, str]:
    """Training and validation text as indices, and the characters of the indices."""
    path = folder / "tinyshakespeare.txt"
    if not path.exists():
        raise SystemExit(f"--data: expected tinyshakespeare.txt in {folder}")
    text = path.read_text()
    symbols = "".join(sorted(set(text)))
    index = {symbol: number for number, symbol in enumerate(symbols)}
    indices = torch.tensor([index[symbol] for symbol in text])
    split = int(0.9 * len(indices))
    return indices[:split], indices[split:], symbols


class PerCharacter(nn.Module):
    """The log-likelihood of each window per character, without the first character."""

    def __init__(self, net: networks.ConditionalNetwork) -> None:
        super().__init__()
        self.net = net

    def forward(self, batch: Tensor) -> Tensor:
        return self.net.condition().log_prob_blocks(batch)[:, 1:].mean(1)


def train(
    net: networks.ConditionalNetwork, text: Tensor, recipe: Recipe, args: argparse.Namespace
) -> None:
    """Trains in all processes, by DDP, or by FSDP2 with `--fsdp`."""
    if args.fsdp:
        for layer in getattr(net, "layers", ()):
            fully_shard(layer)
        fully_shard(net)
    every = min(args.every, recipe.steps)
    ad.training.fit(
        PerCharacter(net),
        text.unfold(0, recipe.window, 1),
        valid=None,
        batch_size=recipe.batch,
        lr=recipe.learning_rate,
        warmup=recipe.warmup,
        weight_decay=recipe.weight_decay,
        optimizer=partial(torch.optim.AdamW, betas=(0.9, 0.99)),
        max_epochs=math.ceil(recipe.steps / every),
        steps_per_epoch=every,
        checkpoint=args.checkpoint,
        seed=args.seed,
    )


@torch.no_grad()
def nats(net: networks.ConditionalNetwork, text: Tensor, before: int) -> float:
    """Mean negative log-likelihood of a character given at least `before` earlier ones.

    Networks for any length score the text as one event. Other networks score windows that overlap
    by `before` characters, and score each character once.
    """
    whole = ad.Factorization(len(text), net.factorization.families[0])
    if net.unsupported_reason(whole) is None:
        blocks = ad.AutoregressiveDistribution(net, factorization=whole).log_prob_blocks(text)
        return -blocks[1:].mean().item()
    window = net.factorization.num_blocks
    starts = torch.arange(0, len(text) - before, window - before)
    places = starts.unsqueeze(-1) + torch.arange(window)
    scored = (places < len(text)) & (places >= (starts + before).unsqueeze(-1))
    scored[0, 1:] = True
    padded = F.pad(text, (0, window))  # later characters have no effect
    total = 0.0
    for place, mask in zip(places.split(64), scored.split(64), strict=True):
        total -= net.condition().log_prob_blocks(padded[place])[mask].sum().item()
    return total / int(scored.sum())


@torch.no_grad()
def write(net: networks.ConditionalNetwork, prompt: Tensor, length: int) -> Tensor:
    """A text of `length` characters that continues the prompt: (length,).

    A network for a single window length starts each window with the last half of a full window.
    """
    family = net.factorization.families[0]
    whole = ad.Factorization(len(prompt) + length, family)
    fac = whole if net.unsupported_reason(whole) is None else net.factorization
    text = prompt
    while len(text) < whole.num_blocks:
        given = text if fac is whole else text[-(fac.num_blocks // 2) :]
        value = F.pad(given, (0, fac.num_blocks - len(given)))
        observed = torch.arange(fac.num_blocks) < len(given)
        p = ad.AutoregressiveDistribution(net, factorization=fac).given(value, observed)
        text = torch.cat((text, p.sample()[len(given) :]))
    return text[len(prompt) : whole.num_blocks]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="with tinyshakespeare.txt")
    parser.add_argument("--network", choices=sorted({name for name, _ in RECIPES}), default="lstm")
    parser.add_argument("--recipe", choices=("own", "nanogpt"), default="own")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="in place of the recipe's, for a shorter run")
    parser.add_argument("--prompt", default="ROMEO:\n")
    parser.add_argument("--fsdp", action="store_true", help="shard the network, under torchrun")
    parser.add_argument("--checkpoint", type=Path, help="file to save to, and to resume from")
    parser.add_argument(
        "--every", type=int, default=500, help="steps of an epoch, after which it is saved"
    )
    args = parser.parse_args()
    if (args.network, args.recipe) not in RECIPES:
        parser.error("--recipe nanogpt is for --network transformer")
    torch.set_num_threads(args.threads)
    if "RANK" in os.environ:  # set by torchrun
        distributed.init_process_group("gloo")
        if distributed.get_rank() > 0:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  only the first process prints
    torch.manual_seed(args.seed)
    text, held_out, symbols = load(args.data)
    recipe = RECIPES[args.network, args.recipe]
    recipe = recipe._replace(steps=args.steps or recipe.steps)
    net = recipe.build(ad.Factorization(recipe.window, ad.families.Categorical(len(symbols))))
    print(
        f"{len(text):,} characters to train on, {len(held_out):,} to validate, "
        f"{len(symbols)} symbols"
    )
    print(f"{sum(weight.numel() for weight in net.parameters()):,} weights")
    start = time.perf_counter()
    train(net, text, recipe, args)
    torch.manual_seed(args.seed)
    took = time.perf_counter() - start
    print(f"{took:.0f} s of training on {args.threads} threads, seed {args.seed}")
    print("Nats a character on the validation text, by the number of earlier ones:")
    if (
        net.unsupported_reason(ad.Factorization(len(held_out), net.factorization.families[0]))
        is None
    ):
        print(f"  {nats(net, held_out, 1):.4f}  all earlier ones")
    else:
        for before in (1, recipe.window // 2):
            most = recipe.window - 1
            print(f"  {nats(net, held_out, before):.4f}  {before} to {most} characters")
    print("For comparison: 1.669 5-gram; nanoGPT: 1.88 recipe for a CPU, 1.4697 for a GPU.")
    index = {symbol: number for number, symbol in enumerate(symbols)}
    prompt = torch.tensor([index[symbol] for symbol in args.prompt])
    written = "".join(symbols[number] for number in write(net, prompt, 500).tolist())
    print(f"{args.prompt}{written}")
    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
