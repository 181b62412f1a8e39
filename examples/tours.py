"""Short tours of random cities: a policy that is a distribution over tours, trained by REINFORCE.

    python examples/tours.py

The cities are the context and the tours are permutations, by the rule `Distinct`. The network is a
small attention model (Kool, van Hoof and Welling 2019, "Attention, learn to solve routing
problems!"). Its gradient weights each draw by its length minus the length of the policy's greedy
tour. Prints how much longer its tours are than the shortest tours, which scipy finds, and writes a
picture to output/tours.png. Needs matplotlib, scipy and tqdm.
"""

import argparse
import math
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, depth_first_order
from torch import Tensor, nn
from tqdm import tqdm

import ardist as ad
from ardist import networks
from ardist.rows import select_rows

BATCH, DRAWS, RATE, WARMUP = 64, 8, 2e-3, 50


class Cities(NamedTuple):
    """The encoded cities, which the steps of a tour read. Index S means no city.

    Attributes:
        last, first: what the last and the first city so far add to a query, (N, S + 1, dim).
        keys, values, targets: (N, S, dim).
        distances: the distances between all cities, (N, S + 1, S).
    """

    last: Tensor
    first: Tensor
    keys: Tensor
    values: Tensor
    targets: Tensor
    distances: Tensor


class Policy(networks.ConditionalNetwork):
    """An encoder of the cities, and a query for each step of the tour.

    The query is made from the last and the first city, and attends to the cities that are left. The
    logit of a city compares it with the result, minus a multiple of its distance from the last
    city.

    Args:
        factorization: blocks of one index each, in raster order.
        dim: the width of a city's encoding.
        depth: number of layers of the encoder.
        heads: number of attention heads.
    """

    context_kinds = ("sequence",)

    def __init__(
        self, factorization: ad.Factorization, dim: int = 64, depth: int = 2, heads: int = 4
    ) -> None:
        count = factorization.num_blocks
        super().__init__(factorization, context_shape=(count, 2), context_kind="sequence")
        self.heads = heads
        layers = [
            nn.TransformerEncoderLayer(dim, heads, 4 * dim, 0.0, batch_first=True, norm_first=True)
            for _ in range(depth)
        ]
        self.encoder = nn.Sequential(nn.Linear(2, dim), *layers, nn.LayerNorm(dim))
        self.maps = nn.Linear(dim, 5 * dim, bias=False)
        self.start = nn.Parameter(0.02 * torch.randn(2, 1, dim))
        self.out = nn.Linear(dim, dim, bias=False)
        self.nearness = nn.Parameter(torch.tensor(5.0))

    def encode(self, context: Tensor) -> Cities:
        cities = self.maps(self.encoder(context))
        last, first, *rest = cities.chunk(5, -1)  # (N, S, dim)
        starts = self.start.unsqueeze(1).expand(2, len(context), 1, -1)
        last, first = torch.cat((last, starts[0]), 1), torch.cat((first, starts[1]), 1)
        return Cities(last, first, *rest, F.pad(torch.cdist(context, context), (0, 0, 0, 1)))

    def logits(self, cities: Cities, last: Tensor, first: Tensor, visited: Tensor) -> Tensor:
        """Logits of the next city of steps, (M * N, L, S).

        Args:
            cities: the encoded cities of N contexts.
            last: the last city before each step, (M * N, L) int64.
            first: the first city of the tour at each step, (M * N, L) int64.
            visited: whether a city is in the tour so far, (M * N, L, S) bool.
        """
        count, size = len(cities.keys), cities.keys.shape[-1]

        def by_context(rows: Tensor) -> Tensor:  # (M * N, L, ...) to (N, M * L, ...)
            return rows.unflatten(0, (-1, count)).transpose(0, 1).flatten(1, 2)

        def of(part: Tensor, index: Tensor) -> Tensor:  # (N, M * L, ...)
            return part.gather(1, by_context(index).unsqueeze(-1).expand(-1, -1, part.shape[-1]))

        def split(part: Tensor) -> Tensor:  # (N, heads, ..., size)
            return part.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        query = of(cities.last, last) + of(cities.first, first)
        left = ~by_context(visited).unsqueeze(1)
        attended = F.scaled_dot_product_attention(
            split(query), split(cities.keys), split(cities.values), attn_mask=left
        )
        query = query + self.out(attended.transpose(1, 2).flatten(2))
        likeness = query @ cities.targets.transpose(1, 2) / math.sqrt(size)
        near = F.softplus(self.nearness) * of(cities.distances, last)
        logits = 10 * likeness.tanh() - near  # (N, M * L, S)
        return logits.unflatten(1, (-1, last.shape[1])).transpose(0, 1).flatten(0, 1)

    def forward(
        self, blocks: Tensor, context: Tensor | None = None, ranks: Tensor | None = None
    ) -> Tensor:
        count = blocks.shape[1]
        last = F.pad(blocks[:, :-1], (1, 0), value=count)
        first = F.pad(blocks[:, :1].expand(-1, count - 1), (1, 0), value=count)
        here = F.one_hot(blocks, count)
        return self.logits(self.encode(context), last, first, here.cumsum(1) > here)

    def make_decoder(self, factorization, batch_size, context, ranks):
        return PolicyDecoder(self, factorization, batch_size, self.encode(context))


class PolicyDecoder(networks.Decoder):
    """Encodes the cities once. Its cache is the last, the first and all visited cities."""

    def __init__(
        self, network: Policy, factorization: ad.Factorization, batch_size: int, cities: Cities
    ) -> None:
        super().__init__(factorization, batch_size)
        self.network, self.cities = network, cities
        count = factorization.num_blocks
        self.last = self.first = torch.full((batch_size, 1), count)
        self.visited = torch.zeros(batch_size, 1, count, dtype=torch.bool)

    @torch.no_grad()
    def step(self, previous: Tensor | None) -> Tensor:
        if previous is not None:
            self.first = self.first if self.num_taken else previous
            self.last, self.num_taken = previous, self.num_taken + 1
            self.visited = self.visited.scatter(2, previous.unsqueeze(1), True)
        return self.network.logits(self.cities, self.last, self.first, self.visited)

    def select(self, rows: Tensor) -> None:
        self.last, self.first, self.visited = (
            part[rows] for part in (self.last, self.first, self.visited)
        )
        self.cities = Cities(*(select_rows(part, rows) for part in self.cities))  # one a row
        self.batch_size = len(rows)


def length(tours: Tensor, cities: Tensor) -> Tensor:
    """The lengths of closed tours (..., N, S) of cities (N, S, 2): (..., N)."""
    index = tours.unsqueeze(-1).expand(*tours.shape, 2)
    places = cities.expand(*tours.shape, 2).gather(-2, index)
    return (places - places.roll(1, -2)).norm(dim=-1).sum(-1)


def shortest(cities: np.ndarray) -> list[int]:
    """The shortest tour of cities (S, 2), exactly.

    An integer program over the edges, with two at each city. If a solution consists of several
    tours, it is solved again with fewer edges inside of each (Dantzig, Fulkerson and Johnson 1954).
    """
    count = len(cities)
    a, b = np.triu_indices(count, 1)
    rows, low, high = [(a == city) | (b == city) for city in range(count)], [2] * count, [2] * count
    cost = np.linalg.norm(cities[a] - cities[b], axis=-1)
    while True:
        limits = LinearConstraint(np.array(rows), low, high)
        used = milp(cost, integrality=np.ones_like(cost), bounds=Bounds(0, 1), constraints=limits)
        on = used.x > 0.5
        graph = coo_array((np.ones(on.sum()), (a[on], b[on])), shape=(count, count))
        number, part = connected_components(graph, directed=False)
        if number == 1:
            return depth_first_order(graph.tocsr(), 0, directed=False)[0].tolist()
        for inside in (part == one for one in range(number)):
            rows.append(inside[a] & inside[b])
            low.append(0)
            high.append(inside.sum() - 1)


def train(net: Policy, seconds: float) -> int:
    """Trains for so many seconds of CPU time. Returns the number of steps."""
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
    start, steps, smooth = time.process_time(), 0, math.nan
    with tqdm(total=round(seconds), unit="s", desc="training", ncols=100) as bar:
        while (spent := time.process_time() - start) < seconds:
            for group in optimizer.param_groups:
                height = (1 + math.cos(math.pi * spent / seconds)) / 2
                group["lr"] = RATE * min(height, (steps + 1) / WARMUP)
            cities = torch.rand(BATCH, *net.context_shape)
            p = net.condition(cities)
            tours = p.sample((DRAWS,))
            lengths, greedy = length(tours, cities), length(p.mode, cities)
            loss = ((lengths - greedy) * p.log_prob(tours)).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            steps += 1
            mean = greedy.mean().item()
            smooth = mean if steps == 1 else 0.95 * smooth + 0.05 * mean
            bar.set_postfix_str(f"greedy {smooth:.3f}", refresh=False)
            bar.update(round(time.process_time() - start) - bar.n)
    return steps


@torch.no_grad()
def found(net: Policy, cities: Tensor, draws: int, width: int) -> dict[str, Tensor]:
    """The tours that each method of choice finds, by its name: (N, S)."""
    p = net.condition(cities)
    tours = p.sample((draws,))
    best = length(tours, cities).argmin(0).view(1, -1, 1).expand(1, *tours.shape[1:])
    beams = ad.sampling.beam_search(p, width)[0]
    top = length(beams, cities).argmin(0).view(1, -1, 1).expand(1, *beams.shape[1:])
    return {
        "greedy": p.mode,
        f"beam search of width {width}": beams.gather(0, top)[0],
        f"best of {draws} draws": tours.gather(0, best)[0],
    }


def picture(path: Path, cities: Tensor, tours: dict[str, Tensor], columns: int = 4) -> None:
    """Plots the first tours of each method, with one method per row."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        len(tours), columns, figsize=(2.5 * columns, 2.6 * len(tours)), squeeze=False
    )
    for row, (name, each) in zip(axes, tours.items(), strict=True):
        for axis, tour, places in zip(row, each, cities):  # noqa: B905  the first ones
            closed = places[torch.cat((tour, tour[:1]))]
            axis.plot(*closed.T, "-o", markersize=4)
            axis.set(xticks=[], yticks=[], aspect="equal", xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
            axis.set_title(f"{name}: {length(tour[None], places[None]).item():.3f}", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="of CPU time to train")
    parser.add_argument("--cities", type=int, default=20)
    parser.add_argument("--test", type=int, default=500, help="number of tours to compare")
    parser.add_argument("--draws", type=int, default=128)
    parser.add_argument("--width", type=int, default=16, help="of the beam search")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("output"), help="folder to write to")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    family, rule = ad.families.Categorical(args.cities), ad.rules.Distinct()
    net = Policy(ad.Factorization((args.cities,), family, rule=rule))
    test = torch.rand(args.test, args.cities, 2)
    steps = train(net, 60 * args.minutes)
    net.eval()
    print(f"{sum(x.numel() for x in net.parameters()):,} weights, {steps} steps of {BATCH} tours")
    tours = found(net, test, args.draws, args.width)
    best = [shortest(each) for each in tqdm(test.numpy(), "shortest tours", leave=False, ncols=100)]
    tours["shortest"] = torch.tensor(best)
    optimum = length(tours["shortest"], test).mean()
    print(f"Mean length of {args.test} tours of {args.cities} cities, and above the shortest:")
    for name, each in tours.items():
        mean = length(each, test).mean()
        print(f"  {name:26}{mean:8.3f}{mean / optimum - 1:8.2%}")
    picture(args.output / "tours.png", test, tours)


if __name__ == "__main__":
    main()
