"""Bach's chorales: an RNN over time and a MADE within each chord (an RNN-NADE).

Three models are scored beside published ones; the last composes. Needs matplotlib, mido, tqdm.
"""

import argparse
import copy
import math
import time
from functools import partial
from pathlib import Path

import mido
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

import ardist as ad
from ardist.networks import MADE, RNN

KEYS, LOWEST = 88, 21  # a piano, whose lowest key is MIDI's note 21; steps are quarter notes
# Chosen on the validation split alone, as is each model's epoch.
HIDDEN, DROPOUT, BATCH, LR, DECAY = 256, 0.4, 8, 5e-3, 0.01
INNER = partial(MADE, hidden_features=(400, 400), context_shape=(128,), residual=True, dropout=0.2)
IN_TIME = ad.Partition.along(0)  # blocks are chords
SEMITONES = 5  # by which no key of these data leaves the keyboard
HEAD = "nats a step             seconds  valid   test  published ([C] read there, [M] from memory)"
LENGTH, GIVEN = 64, 8  # steps of what is drawn, and how many of a real chorale to go on from


def nats(net: RNN, rolls: list[Tensor]) -> Tensor:
    """Mean negative log likelihood of a step given its whole past, over all steps of all rolls.

    Lengths are known and not modelled: what pads a roll comes after it and is not scored.
    """
    x = pad_sequence(rolls, batch_first=True)
    real = pad_sequence([torch.ones(len(roll)) for roll in rolls], batch_first=True) > 0
    fac = ad.Factorization(x.shape[1:], net.factorization.families[0], partition=IN_TIME)
    p = ad.AutoregressiveDistribution(net, factorization=fac)  # an RNN serves any length
    return -p.log_prob_blocks(x)[real].mean()


score = torch.no_grad()(nats)


def fit(net: RNN, data: dict[str, list[Tensor]], moved: bool, epochs: int) -> float:
    """Maximum likelihood; the weights of the epoch that is best in validation stay."""
    optimizer = torch.optim.AdamW(net.parameters(), LR, weight_decay=DECAY)
    best = math.inf
    for epoch in tqdm(range(epochs), "training", leave=False, disable=None):
        optimizer.param_groups[0]["lr"] = LR * math.cos(math.pi / 2 * epoch / epochs) ** 2
        net.train()
        for rows in torch.randperm(len(data["train"])).split(BATCH):
            # Other keys teach harmony, but all of these chorales are in C: ever fewer are moved.
            away = torch.rand(rows.shape) < moved * (1 - epoch / epochs)
            shifts = torch.randint(-SEMITONES, SEMITONES + 1, rows.shape) * away
            pairs = zip(rows.tolist(), shifts.tolist(), strict=True)
            optimizer.zero_grad()
            nats(net, [data["train"][row].roll(shift, 1) for row, shift in pairs]).backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
        if (now := score(net.eval(), data["valid"]).item()) < best:
            best, weights = now, copy.deepcopy(net.state_dict())
    net.load_state_dict(weights)
    return best


def picture(rows: dict[str, Tensor], path: Path) -> None:
    """Two rolls a row: 0 is silence, 1 data in white, 2 drawn in orange."""
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
        valid = fit(net, data, moved, args.epochs)
        test, seconds = score(net, data["test"]).item(), time.perf_counter() - start
        print(f"{name:<22}{seconds:9.0f}{valid:7.3f}{test:7.3f}  {published}", flush=True)
    p, given = net.condition(), (torch.arange(LENGTH) < GIVEN).unsqueeze(-1)
    real = torch.stack([roll[:LENGTH] for roll in data["test"] if len(roll) >= LENGTH][:2])
    drawn, continued = p.sample((2,)), p.given(real, given.expand(LENGTH, KEYS)).sample()
    rows = {
        "Real, from the test set": real,
        f"Their first {GIVEN} steps, continued": continued * torch.where(given, 1, 2),
        "Drawn": 2 * drawn,
    }
    picture(rows, args.output / "jsb_chorales.png")
    write_midi(drawn[0], args.output / "jsb_chorales.mid")
    print(f"\npicture and music: {args.output / 'jsb_chorales'}.png and .mid")


if __name__ == "__main__":
    main()
