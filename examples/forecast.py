"""Time series: Pacific sea surface temperatures, a year ahead, as 500 paths sampled from an RNN.

    python examples/forecast.py --family studentt

Four years are one event, and each month is a block with a context. A forecast is conditioned on
three years. Prints CRPS, MAE and coverage of forecasts from every month of the test years, compared
with a seasonal naive forecast and the climatology. The test years vary more than the years before.
Needs statsmodels, matplotlib and tqdm.
"""

import argparse
import math
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure
from statsmodels.datasets import elnino
from torch import Tensor, nn
from tqdm import tqdm

import ardist as ad

STUDENT, NORMAL = ad.families.StudentT(), ad.families.Normal()
FAMILIES = {"studentt": STUDENT, "mixture": ad.families.Mixture(NORMAL, 3), "normal": NORMAL}
YEAR, PAST, AHEAD, PATHS = 12, 36, 12, 500
VALID, TEST, END = (YEAR * (year - 1950) for year in (1986, 1993, 2011))  # in months
EPOCHS, BATCH, LEARNING_RATE = 100, 64, 3e-3


class Series:
    """The months from 1950 to 2010: degrees and anomalies (T,), context (T, 4)."""

    def __init__(self) -> None:
        table = torch.tensor(elnino.load_pandas().data.to_numpy()).float()[:, 1:]  # (years, 12)
        self.celsius, years, train = table.flatten(), len(table), table[: VALID // YEAR]
        # Units of four deviations: for small numbers tanh is nearly linear, which fits the ocean.
        self.usual, self.unit = train.mean(0).repeat(years), 4 * train.std(0).repeat(years)
        self.anomaly = (self.celsius - self.usual) / self.unit
        # The context of a month is known a year ahead: its time of year, the anomaly a year before,
        # and the mean of the year up to that month. Zeros precede 1950, but no window has them.
        before = torch.cat((torch.zeros(2 * YEAR - 1), self.anomaly[:-YEAR]))
        phase = torch.arange(END) * (2 * math.pi / YEAR)
        means = before.unfold(0, YEAR, 1).mean(-1)
        self.context = torch.stack((phase.sin(), phase.cos(), before[YEAR - 1 :], means), -1)


def windows(first: int, end: int) -> Tensor:
    """The months of all windows whose last year is between two months: (N, PAST + AHEAD)."""
    return torch.arange(first, end - AHEAD + 1).unsqueeze(-1) + torch.arange(-PAST, AHEAD)


class LastYear(nn.Module):
    """The log-likelihood of a month in the last year of each window, (N,)."""

    def __init__(self, net: ad.networks.RNN, series: Series) -> None:
        super().__init__()
        self.net, self.series = net, series

    def forward(self, months: Tensor) -> Tensor:
        p = self.net.condition(self.series.context[months])
        return p.log_prob_blocks(self.series.anomaly[months])[:, PAST:].mean(1)


def fit(net: ad.networks.RNN, series: Series, seed: int) -> None:
    train, valid = windows(2 * YEAR + PAST, VALID), windows(VALID, TEST)
    options = {"batch_size": BATCH, "weight_decay": 0.05, "patience": None, "seed": seed}
    options |= {"valid": valid, "max_epochs": EPOCHS, "lr": LEARNING_RATE}
    ad.training.fit(LastYear(net, series), train, **options)


def forecast(net: ad.networks.RNN, series: Series, test: Tensor) -> dict[str, Tensor]:
    """Draws of the months ahead by name, in degrees: (PATHS, N, AHEAD)."""
    known, parts = torch.arange(PAST + AHEAD) < PAST, list[Tensor]()
    for months in tqdm(test.split(20), "forecasts", leave=False, disable=None):
        p = net.condition(series.context[months]).given(series.anomaly[months], known)
        parts.append(p.sample((PATHS,))[..., PAST:])
    ahead, past = test[:, PAST:], series.celsius[:VALID]
    paths = torch.cat(parts, 1) * series.unit[ahead] + series.usual[ahead]
    # Naive: last year's value plus a random change from the training years. Climatology: the value
    # of this month in a random training year.
    changes = past[YEAR:] - past[:-YEAR]
    naive = series.celsius[ahead - YEAR] + changes[torch.randint(len(changes), paths.shape)]
    usual = past[torch.randint(VALID // YEAR, paths.shape) * YEAR + ahead % YEAR]
    return {"RNN": paths, "seasonal naive": naive, "climatology": usual}


def report(forecasts: dict[str, Tensor], truth: Tensor) -> None:
    scores = []
    for draws in forecasts.values():
        low, middle, high = draws.quantile(torch.tensor([0.1, 0.5, 0.9]), 0)
        inside = ((low <= truth) & (truth <= high)).float()
        scores.append((ad.information.crps(draws, truth), (middle - truth).abs(), inside))
    titles = "CRPS, degrees C", "MAE of the median, degrees C", "in the 80 % interval"
    for title, *each in zip(titles, *scores, strict=True):
        print(f"\n{title:30}" + "".join(f"{name:>16}" for name in forecasts))
        means = torch.stack([score.mean(0) for score in each], -1)  # (AHEAD, forecasts)
        rows = {f"month {month} ahead": means[month - 1] for month in (1, 3, 6, 9, 12)}
        for name, row in {**rows, "all": means.mean(0)}.items():
            print(f"  {name:28}" + "".join(f"{mean:16.3f}" for mean in row))


def picture(celsius: Tensor, paths: Tensor) -> None:
    """Plots the observations on fans of yearly forecasts, (PATHS, years, AHEAD)."""
    axis = Figure(figsize=(11, 3.6), layout="constrained").subplots()
    dates = 1950 + (torch.arange(TEST, END) + 0.5) / YEAR
    for share, color in ((0.95, "#fbe3d3"), (0.8, "#f6c39f"), (0.5, "#e8955a")):
        bands = paths.quantile(torch.tensor([1 - share, 1 + share]) / 2, 0)
        for i, year in enumerate(dates.split(YEAR)):
            label = f"{share:.0%} of the paths" if i == 0 else None
            axis.fill_between(year, *bands[:, i], color=color, lw=0, label=label)
    axis.plot(dates, celsius, "k", lw=1, label="observed")
    axis.set_title("Degrees C, and a forecast of each year made at its beginning", loc="left")
    axis.set(xticks=range(1993, 2012, 2), xmargin=0.005)
    axis.legend(ncols=4, frameon=False)
    Path("output").mkdir(exist_ok=True)
    axis.figure.savefig("output/forecast.png", dpi=150)
    print("\npicture: output/forecast.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=FAMILIES, default="studentt", help="of a month")
    parser.add_argument("--threads", type=int, default=1, help="more are slower on a busy machine")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    fac = ad.Factorization((PAST + AHEAD,), FAMILIES[args.family])
    options = {"cell": "tanh", "hidden_size": 64, "dropout": 0.2, "context_kind": "blocks"}
    net = ad.networks.RNN(fac, context_shape=(*fac.grid_shape, 4), **options)
    series, test = Series(), windows(TEST, END)
    fit(net, series, args.seed)
    forecasts = forecast(net, series, test)
    print(f"{len(test)} forecasts of a year, {time.process_time():.0f} s of CPU time")
    report(forecasts, series.celsius[test[:, PAST:]])
    picture(series.celsius[TEST:], forecasts["RNN"][:, ::YEAR])


if __name__ == "__main__":
    main()
