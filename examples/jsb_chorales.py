"""Bach's chorales: an RNN over time and a MADE within each chord (an RNN-NADE).

Three models are compared with published ones. The last one composes. Needs matplotlib, mido and
tqdm.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import mido
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

import ardist as ad
from ardist.networks import MADE, RNN

KEYS, LOWEST = 88, 21  # a piano, whose lowest key is MIDI's note 21; steps are quarter notes
# Chosen on the validation split alone, as is each model's epoch.
HIDDEN, DROPOUT, BATCH, LR, DECAY = 256, 0.4, 8, 5e-3, 0.01
INNER = partial(MADE, hidden_features=(400, 400), context_shape=(128,), residual=True, dropout=0.2)
IN_TIME = ad.Partition.along(0)  # blocks are chords
SEMITONES = 5  # by which no key of these data leaves the keyboard
HEAD = "nats a step             seconds  valid   test  published ([C] read there, [M] from memory)"
LENGTH, GIVEN = 64, 8  # steps of a sample, and of a real chorale to continue


def batch_of(rolls: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Padded rolls (N, steps, 88), and a mask of their steps (N, steps)."""
    masks = [torch.ones(len(roll), dtype=torch.bool) for roll in rolls]
    return pad_sequence(rolls, batch_first=True), pad_sequence(masks, batch_first=True)


class PerStep(nn.Module):
    """The log-likelihood of each roll, divided by the mean number of steps, (N,).

    Lengths are known and not modelled: the padding comes after a roll and is not scored.
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
    return -PerStep(net, sum(map(len, rolls)))(*batch_of(rolls)).sum().item()


class Transposed:
    """Makes batches in which a share of the rolls is in another key. The share falls to zero.

    Other keys teach harmony, but all of these chorales are in C.
    """

    def __init__(self, share: float, epochs: int) -> None:
        self.share, self.fall = share, share / epochs

    def __call__(self, rolls: list[Tensor]) -> tuple[Tensor, Tensor]:
        away = torch.rand(len(rolls)) < self.share
        shifts = torch.randint(-SEMITONES, SEMITONES + 1, away.shape) * away
        pairs = zip(rolls, shifts.tolist(), strict=True)
        return batch_of([roll.roll(shift, 1) for roll, shift in pairs])

    def after_epoch(self, history: ad.training.History) -> None:
        self.share -= self.fall


def fit(net: RNN, data: dict[str, list[Tensor]], moved: bool, epochs: int, seed: int) -> None:
    train, make = data["train"], Transposed(float(moved), epochs)
    options = {"lr": LR, "weight_decay": DECAY, "warmup": 0, "patience": None, "seed": seed}
    ad.training.fit(
        PerStep(net, sum(map(len, train)) / len(train)),
        DataLoader(train, BATCH, shuffle=True, collate_fn=make),
        valid=DataLoader(data["valid"], BATCH, collate_fn=batch_of),
        max_epochs=epochs,
        callbacks=[make.after_epoch],
        **options,
    )


def picture(rows: dict[str, Tensor], path: Path) -> None:
    """Two rolls a row: 0 is silence, 1 data in white, 2 sampled in orange."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    axes = figure.subplots(len(rows), 2, sharex=True, sharey=True)
    colors = ListedColormap(["#14141c", "white", "#ffa62b"])
    for row, (title, rolls) in zip(axes, rows.items(), strict=True):
        row[0].set_title(title, loc="left")
        for axis, roll in zip(row, rolls, strict=True):
            axis.imshow(roll.T, colors, vmin=0, vmax=2, aspect="auto", interpolation="nearest")
            axis.set_yticks(range(27, 78, 12), ["C3", "C4", "C5", "C6", "C7"])
            axis.set_ylim(20.5, 77.5)
    figure.supxlabel("quarter notes")
    figure.savefig(path, dpi=150)


def write_midi(roll: Tensor, path: Path) -> None:
    """Music for an organ, on which a key that stays on from step to step is held."""
    track = mido.MidiTrack([mido.Message("program_change", program=19)])
    file, waited = mido.MidiFile(tracks=[track]), 0
    for change in F.pad(roll, (0, 0, 1, 1)).diff(dim=0):
        for key in change.nonzero().flatten().tolist():
            kind = "note_on" if change[key] > 0 else "note_off"
            track.append(mido.Message(kind, note=LOWEST + key, time=waited))
            waited = 0
        waited += file.ticks_per_beat
    file.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="where jsb_chorales.npz is")
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("output"), help="for picture and music")
    args = parser.parse_args()
    path = args.data / "jsb_chorales.npz"
    if not path.is_file():
        parser.error(f"{path} is missing: an npz file of bit-packed piano rolls and their lengths")
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    data = {}
    with np.load(path) as file:
        for part in ("train", "valid", "test"):
            steps = torch.from_numpy(np.unpackbits(file[part], axis=1)[:, :KEYS]).float()
            data[part] = list(steps.split(file[f"{part}_len"].tolist()))
    print(", ".join(f"{len(rolls)} {part}" for part, rolls in data.items()), "chorales")
    print(f"{args.threads} threads, seed {args.seed}\n\n{HEAD}")
    keys = ad.Factorization(KEYS, ad.families.Bernoulli(), ordering=ad.Ordering.reverse())
    alone = ad.families.Independent(ad.families.Bernoulli(), (KEYS,))
    models = {
        "RNN, independent keys": (alone, False, "8.71 [C]"),
        "RNN-NADE": (ad.families.Nested(INNER(keys)), False, "5.83, Hessian-free 5.56 [M]"),
        "RNN-NADE, transposed": (ad.families.Nested(INNER(keys)), True, ""),
    }
    for name, (family, moved, published) in models.items():
        start = time.perf_counter()
        fac = ad.Factorization((LENGTH, KEYS), family, partition=IN_TIME)
        net = RNN(fac, hidden_size=HIDDEN, dropout=DROPOUT)
        fit(net, data, moved, args.epochs, args.seed)
        seconds = time.perf_counter() - start
        valid, test = (score(net, data[part]) for part in ("valid", "test"))
        print(f"{name:<22}{seconds:9.0f}{valid:7.3f}{test:7.3f}  {published}", flush=True)
    p, given = net.condition(), (torch.arange(LENGTH) < GIVEN).unsqueeze(-1)
    real = torch.stack([roll[:LENGTH] for roll in data["test"] if len(roll) >= LENGTH][:2])
    drawn, continued = p.sample((2,)), p.given(real, given.expand(LENGTH, KEYS)).sample()
    rows = {
        "Real, from the test set": real,
        f"Their first {GIVEN} steps, continued": continued * torch.where(given, 1, 2),
        "Sampled": 2 * drawn,
    }
    picture(rows, args.output / "jsb_chorales.png")
    write_midi(drawn[0], args.output / "jsb_chorales.mid")
    print(f"\npicture and music: {args.output / 'jsb_chorales'}.png and .mid")


if __name__ == "__main__":
    main()
