"""Piano rolls, such as Bach's chorales: an RNN over time and a MADE in each chord (an RNN-NADE).

Three models are compared, and for the chorales also with published models. The last model composes.
Needs matplotlib, mido and tqdm.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import batches  # the module next to this one
import mido
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor, nn

import ardist as ad
from ardist.networks import MADE, RNN

KEYS, LOWEST = 88, 21  # a piano, whose lowest key is MIDI's note 21; steps are quarter notes
# Chosen only on the validation split, as is each model's epoch.
HIDDEN, DROPOUT, BATCH, LR, DECAY = 256, 0.4, 8, 5e-3, 0.01
INNER = partial(MADE, hidden_features=(400, 400), context_shape=(128,), residual=True, dropout=0.2)
IN_TIME = ad.Partition.along(0)  # blocks are chords
SEMITONES = 5  # of transposition, up or down
FORMAT = (
    "an .npz file with the arrays train, valid and test: rolls of 88 keys (steps, 88) one after "
    "another, bit-packed, and train_len, valid_len and test_len: the steps of each"
)
PUBLISHED = {  # nats a step of jsb_chorales.npz
    "RNN, independent keys": "8.71 [C]",
    "RNN-NADE": "5.83, Hessian-free 5.56 [M]",
}
LENGTH, GIVEN = 64, 8  # steps of a sample, and of a real chorale to continue


class PerStep(nn.Module):
    """The log-likelihood of each roll, divided by the mean number of steps, (N,).

    Lengths are known and not modeled: the padding comes after a roll and is not scored.
    """

    def __init__(self, net: RNN, steps: float) -> None:
        super().__init__()
        self.net, self.steps = net, steps

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        fac = ad.Factorization(x.shape[1:], self.net.factorization.families[0], partition=IN_TIME)
        p = ad.AutoregressiveDistribution(self.net, factorization=fac)  # an RNN supports any length
        return (p.log_prob_blocks(x) * real).sum(1) / self.steps


@torch.no_grad()
def score(net: RNN, rolls: list[Tensor]) -> float:
    """Mean negative log-likelihood of a step given all earlier ones, over all steps."""
    model = PerStep(net, sum(map(len, rolls)))
    return -sum(model(*batch).sum().item() for batch in batches.loader(rolls, BATCH))


def transposed(roll: Tensor, shift: int) -> Tensor:
    """A roll in another key, as far as its keys stay on the keyboard."""
    keys = roll.any(0).nonzero().flatten()
    if len(keys) == 0:
        return roll
    return roll.roll(min(max(shift, -int(keys[0])), KEYS - 1 - int(keys[-1])), 1)


class Transposed:
    """Makes batches in which a share of the rolls is in another key. The share falls to zero.

    Other keys teach harmony, but the data may have few keys: all chorales are in C.
    """

    def __init__(self, share: float, epochs: int) -> None:
        self.share, self.fall = share, share / epochs

    def __call__(self, rolls: list[Tensor]) -> tuple[Tensor, Tensor]:
        away = torch.rand(len(rolls)) < self.share
        shifts = torch.randint(-SEMITONES, SEMITONES + 1, away.shape) * away
        pairs = zip(rolls, shifts.tolist(), strict=True)
        return batches.padded([transposed(roll, shift) for roll, shift in pairs])

    def after_epoch(self, history: ad.training.History) -> None:
        self.share -= self.fall


def fit(net: RNN, data: dict[str, list[Tensor]], moved: bool, epochs: int, seed: int) -> None:
    train, make = data["train"], Transposed(float(moved), epochs)
    options = {"lr": LR, "weight_decay": DECAY, "warmup": 0, "patience": None, "seed": seed}
    ad.training.fit(
        PerStep(net, sum(map(len, train)) / len(train)),
        batches.loader(train, BATCH, jitter=0.5, make=make),
        valid=batches.loader(data["valid"], BATCH),
        max_epochs=epochs,
        callbacks=[make.after_epoch],
        **options,
    )


def picture(rows: dict[str, Tensor], path: Path) -> None:
    """Plots two rolls per row: 0 is silence, 1 is data in white, 2 is sampled in orange."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    axes = figure.subplots(len(rows), 2, sharex=True, sharey=True)
    colors = ListedColormap(["#14141c", "white", "#ffa62b"])
    for row, (title, rolls) in zip(axes, rows.items(), strict=True):
        row[0].set_title(title, loc="left")
        for axis, roll in zip(row, rolls, strict=True):
            axis.imshow(
                roll.T.numpy(), colors, vmin=0, vmax=2, aspect="auto", interpolation="nearest"
            )
            axis.set_yticks(range(27, 78, 12), ["C3", "C4", "C5", "C6", "C7"])
            axis.set_ylim(20.5, 77.5)
    figure.supxlabel("quarter notes")
    figure.savefig(path, dpi=150)


def write_midi(roll: Tensor, path: Path) -> None:
    """Writes a roll as music for an organ. A key that stays on from step to step is held."""
    track = mido.MidiTrack([mido.Message("program_change", program=19)])
    file, waited = mido.MidiFile(tracks=[track]), 0
    for change in F.pad(roll, (0, 0, 1, 1)).diff(dim=0):
        for key in change.nonzero().flatten().tolist():
            kind = "note_on" if change[key] > 0 else "note_off"
            track.append(mido.Message(kind, note=LOWEST + key, time=waited))
            waited = 0
        waited += file.ticks_per_beat
    file.save(path)


def read(path: Path) -> dict[str, list[Tensor]]:
    """The rolls (steps, 88) of each part."""
    data = {}
    with np.load(path) as file:
        for part in ("train", "valid", "test"):
            steps = torch.from_numpy(np.unpackbits(file[part], axis=1)[:, :KEYS]).float()
            data[part] = list(steps.split(file[f"{part}_len"].tolist()))
    return data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rolls", type=Path, required=True, help=FORMAT)
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("output"), help="for picture and music")
    args = parser.parse_args()
    if not args.rolls.is_file():
        parser.error(f"{args.rolls} is missing: {FORMAT}")
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    data, name = read(args.rolls), args.rolls.stem
    print(f"{name}:", ", ".join(f"{len(rolls)} {part}" for part, rolls in data.items()), "rolls")
    print(f"{args.threads} threads, seed {args.seed}\n")
    published = PUBLISHED if name == "jsb_chorales" else {}
    print(
        "nats a step             seconds  valid   test",
        " published ([C] read there, [M] from memory)" * bool(published),
    )
    keys = ad.Factorization(KEYS, ad.families.Bernoulli(), ordering=ad.Ordering.reverse())
    alone = ad.families.Independent(ad.families.Bernoulli(), (KEYS,))
    models = {
        "RNN, independent keys": (alone, False),
        "RNN-NADE": (ad.families.Nested(INNER(keys)), False),
        "RNN-NADE, transposed": (ad.families.Nested(INNER(keys)), True),
    }
    for model, (family, moved) in models.items():
        start = time.perf_counter()
        fac = ad.Factorization((LENGTH, KEYS), family, partition=IN_TIME)
        net = RNN(fac, hidden_size=HIDDEN, dropout=DROPOUT)
        fit(net, data, moved, args.epochs, args.seed)
        seconds = time.perf_counter() - start
        valid, test = (score(net, data[part]) for part in ("valid", "test"))
        text = f"{valid:7.3f}{test:7.3f}  {published.get(model, '')}"
        print(f"{model:<22}{seconds:9.0f}{text}", flush=True)
    p, given = net.condition(), (torch.arange(LENGTH) < GIVEN).unsqueeze(-1)
    longest = sorted(data["test"], key=len)[-2:]  # shorter ones end with silence
    real = torch.stack(
        [F.pad(roll, (0, 0, 0, max(LENGTH - len(roll), 0)))[:LENGTH] for roll in longest]
    )
    drawn, continued = p.sample((2,)), p.given(real, given.expand(LENGTH, KEYS)).sample()
    rows = {
        "Real, from the test set": real,
        f"Their first {GIVEN} steps, continued": continued * torch.where(given, 1, 2),
        "Sampled": 2 * drawn,
    }
    picture(rows, args.output / f"{name}.png")
    write_midi(drawn[0], args.output / f"{name}.mid")
    print(f"\npicture and music: {args.output / name}.png and .mid")


if __name__ == "__main__":
    main()
