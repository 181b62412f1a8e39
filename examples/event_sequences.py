"""Event sequences: a network over events, and in each the gap, the mark given it, and an end.

Without files, it simulates a Hawkes process, whose likelihood is known. `--data DIR` reads files in
EasyTPP's format (Xue et al. 2024): train.json, dev.json and test.json have a list of records with
`dim_process`, the number of marks, and lists `time_since_start` and `type_event`. The first event
of a sequence starts the clock and is not scored. Needs tqdm.
"""

import argparse
import json
from functools import partial
from pathlib import Path

import batches  # the module next to this one
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions.transforms import AffineTransform, ExpTransform

import ardist as ad
from ardist import families as fam
from ardist.networks import MADE, RNN, Transformer

FILES = {"train": "train.json", "valid": "dev.json", "test": "test.json"}
GPT = partial(Transformer, any_order=False, positions="rotary")
padded = partial(batches.padded, pad=1.0)  # by a gap, a mark and an end
NETWORKS = {"rnn": RNN, "transformer": GPT}  # for sequences of any length
BATCH, LR, PATIENCE, COMPONENTS, CONTEXT, LONGEST = 32, 3e-3, 6, 16, 64, 200
IN_TIME = ad.Partition.along(
    0
)  # a block is an event: its gap, its mark, and whether it is the last
# The Hawkes process: the rate of mark k is BASE[k] plus JUMP[k, m] after mark m, which decays.
BASE, DECAY, END = np.array([0.2, 0.1, 0.05]), 1.5, 1 / 40
JUMP = np.array([[0.4, 0.0, 0.8], [0.6, 0.2, 0.0], [0.0, 0.5, 0.3]])


def simulate(count: int, seed: int) -> tuple[list[Tensor], Tensor]:
    """Sequences (events, 3), and the mean true nats of gap, mark and end of an event, (3,)."""
    rng = np.random.default_rng(seed)
    events, nats = np.zeros((2, count, LONGEST, 3))
    mark, excited = rng.integers(3, size=count), np.zeros((count, 3))
    events[:, 0, 1] = mark
    for step in range(1, LONGEST):
        excited += JUMP[:, mark].T
        total, steady = excited.sum(1), BASE.sum()
        # The earlier of two events: at the steady rate, and at the excited rate if there is one.
        left = 1 + DECAY * np.log(rng.random(count)) / total
        soon = np.where(left > 0, -np.log(left.clip(1e-300)) / DECAY, np.inf)
        gap = np.minimum(soon, rng.exponential(1 / steady, count))
        fade = np.exp(-DECAY * gap)
        excited *= fade[:, None]
        rates = BASE + excited
        mark = (rates.cumsum(1) < rng.random((count, 1)) * rates.sum(1, keepdims=True)).sum(1)
        last = rng.random(count) < END
        events[:, step] = np.stack((gap, mark, last), 1)
        nats[:, step, 0] = steady * gap + total * (1 - fade) / DECAY - np.log(rates.sum(1))
        nats[:, step, 1] = np.log(rates.sum(1) / rates[np.arange(count), mark])
        nats[:, step, 2] = -np.log(np.where(last, END, 1 - END))
    kept = events[..., 2].cumsum(1) - events[..., 2] == 0
    rows = [torch.tensor(x[keep]).float() for x, keep in zip(events, kept, strict=True)]
    return rows, torch.tensor(nats[:, 1:][kept[:, 1:]]).mean(0)


def read(path: Path) -> tuple[list[Tensor], int]:
    """Sequences (events, 3), and the number of marks."""
    records, sequences = json.loads(path.read_text()), []
    for record in records:
        gaps = np.diff(record["time_since_start"], prepend=record["time_since_start"][0])
        last = np.arange(len(gaps)) == len(gaps) - 1
        sequences.append(torch.tensor(np.stack((gaps, record["type_event"], last), 1)).float())
    return [x for x in sequences if len(x) > 1], max(record["dim_process"] for record in records)


class PerEvent(nn.Module):
    """The log-likelihood of sequences, divided by the mean number of events, (N,)."""

    def __init__(self, net: nn.Module, family: fam.Family, events: float) -> None:
        super().__init__()
        self.net, self.family, self.events = net, family, events

    def parts(self, x: Tensor, real: Tensor) -> Tensor:
        """The scores of gap, mark and end of each event, (N, events - 1, 3); 0 for padding."""
        fac = ad.Factorization(x.shape[1:], self.family, partition=IN_TIME)
        p = ad.AutoregressiveDistribution(self.net, factorization=fac)  # of any length
        return (p.conditionals(x).log_prob_blocks(x) * real.unsqueeze(-1))[:, 1:]

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        return self.parts(x, real).sum((1, 2)) / self.events

    @torch.no_grad()
    def nats(self, sequences: list[Tensor]) -> Tensor:
        """The nats of gap, mark and end, as means over all events, (3,)."""
        loaded = batches.loader(sequences, BATCH, make=padded)
        total = sum(self.parts(*batch).double().sum((0, 1)) for batch in loaded)
        return -total / sum(len(x) - 1 for x in sequences)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="the folder of train.json, dev.json, test.json")
    parser.add_argument("--network", choices=NETWORKS, default="rnn")
    parser.add_argument("--simulate", type=int, default=1000, help="sequences to train on")
    parser.add_argument("--epochs", type=int, help="at most")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    if args.data is None:
        counts = {"train": args.simulate, "valid": 200, "test": 500}
        found = {part: simulate(n, 3 * args.seed + i) for i, (part, n) in enumerate(counts.items())}
        marks, truth = len(BASE), found["test"][1]
    else:
        found = {part: read(args.data / name) for part, name in FILES.items()}
        marks, truth = max(number for _, number in found.values()), None
    data = {part: sequences for part, (sequences, _) in found.items()}
    scored = torch.cat([x[1:] for x in data["train"]])
    least = scored[:, 0][scored[:, 0] > 0].min()  # for gaps of 0, whose density is unbounded
    for x in (scored, *data["train"], *data["valid"], *data["test"]):
        x[:, 0].clamp_(min=least)
    mean, deviation = scored[:, 0].log().mean().item(), scored[:, 0].log().std().item()
    normals = fam.Mixture(fam.Normal(min_scale=0.01), COMPONENTS)
    gap = fam.Transformed(normals, [AffineTransform(mean, deviation), ExpTransform()])
    event = ad.Factorization.columns(gap=gap, mark=fam.Categorical(marks), last=fam.Bernoulli())
    inner = MADE(event, hidden_features=(64, 64), context_shape=(CONTEXT,))
    inner.start_at(scored)
    fac = ad.Factorization((LONGEST, 3), fam.Nested(inner), partition=IN_TIME)
    net = NETWORKS[args.network](fac)
    model = PerEvent(net, fam.Nested(inner), len(scored) / len(data["train"]))
    rows = {"independent events": model.nats(data["test"])}
    train = batches.loader(data["train"], BATCH, jitter=0.5, make=padded)
    valid = batches.loader(data["valid"], BATCH, make=padded)
    options = {"lr": LR, "patience": PATIENCE, "max_epochs": args.epochs, "weight_decay": 0.01}
    history = ad.training.fit(model, train, valid=valid, seed=args.seed, **options)
    rows[args.network] = model.nats(data["test"])
    rows |= {} if truth is None else {"the process itself": truth}
    counts = ", ".join(f"{len(sequences)} {part}" for part, sequences in data.items())
    print(f"{args.data or 'Hawkes process'}: {counts} sequences, {marks} marks; {history}")
    print(f"{'nats of a test event':<22}{'gap':>8}{'mark':>8}{'both':>8}{'end':>8}")
    for name, (of_gap, of_mark, of_end) in rows.items():
        print(f"{name:<22}{of_gap:8.3f}{of_mark:8.3f}{of_gap + of_mark:8.3f}{of_end:8.3f}")
    first = torch.stack([x[0] for x in data["test"]])[:, None].expand(-1, LONGEST, -1)
    is_first = (torch.arange(LONGEST) == 0)[:, None].expand(-1, 3)
    drawn = net.condition().given(first, is_first).sample()
    ends = torch.cat((drawn[..., 2], torch.ones(len(drawn), 1)), 1).argmax(1)
    length = sum(len(x) - 1 for x in data["test"]) / len(data["test"])
    print(f"events to the end: {ends.float().mean():.1f} sampled, {length:.1f} test")


if __name__ == "__main__":
    main()
