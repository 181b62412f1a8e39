"""Times ardist beside its peers: `make bench`, or `python benchmarks/run.py [NAME ...]`.

A and B run in turn in one process, and what is reported is the ratio of each pair's times, as
its median, since a shared machine's absolute times say little. Every timed call includes all the
preparation of weights that it needs.
"""

import argparse
import platform
import resource
import statistics
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ardist as ad
from ardist import families as fam
from ardist import networks
from ardist.sampling import draw

warnings.filterwarnings("ignore")  # the peers' own, of deprecated calls

Call = Callable[[], object]
Case = tuple[str, Call, dict[str, Call], str]  # what, ours, peers, what is aimed at


def timed(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compare(what: str, ours: Call, peers: dict[str, Call], aim: str, rounds: int) -> None:
    """Prints how many times longer each peer takes than we do."""
    calls = {"ardist": ours, **peers}
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(timed(call))
    print(f"\n{what}; aim: {aim}")
    for name in calls:
        ratio = statistics.median(
            other / own for other, own in zip(times[name], times["ardist"], strict=True)
        )
        took = statistics.median(times[name]) * 1e3
        print(f"  {name:<34}{took:10.2f} ms {ratio:9.2f} x ardist's time", flush=True)


def by_passes(network: Callable[[Tensor], Tensor], size: int, features: int) -> Call:
    """Samples Bernoullis as the peers do: a whole pass for each feature."""

    @torch.no_grad()
    def sample() -> Tensor:
        x = torch.zeros(size, features)
        for i in range(features):
            x[:, i] = torch.bernoulli(network(x)[:, i].sigmoid())
        return x

    return sample


def made_sampling() -> Iterator[Case]:
    import zuko
    from nflows.transforms.made import MADE as NflowsMADE  # noqa: N811

    features, hidden = 784, 512
    net = networks.MADE(
        ad.Factorization(features, fam.Bernoulli()), hidden_features=(hidden, hidden)
    )
    nflows = NflowsMADE(features, hidden, num_blocks=1, use_residual_blocks=False)
    adjacency = torch.ones(features, features).tril(-1).bool()
    masked = zuko.nn.MaskedMLP(adjacency, (hidden, hidden))
    peers = {
        f"nflows {version('nflows')} MADE": by_passes(nflows, 64, features),
        f"zuko {version('zuko')} MaskedMLP": by_passes(masked, 64, features),
    }  # pyro's AutoRegressiveNN refuses fewer hidden units than features
    yield (
        "MADE, D=784 Bernoulli, hidden 512x512: sample(64)",
        (lambda: net.condition().sample((64,))),
        peers,
        ">= 100 of the fastest",
    )

    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    x = (torch.rand(8, features) < 0.3).float()

    def after_a_step() -> None:
        (-net.condition().log_prob(x).mean()).backward()
        optimizer.step()
        start = time.perf_counter()
        net.condition().sample((64,))
        spent.append(time.perf_counter() - start)

    spent: list[float] = []
    for _ in range(9):
        after_a_step()
    fastest = min(timed(peer) for peer in peers.values())
    print(
        f"\nthe same just after an optimizer step; aim: >= 60\n  ardist "
        f"{statistics.median(spent) * 1e3:.2f} ms, fastest peer {fastest * 1e3:.0f} ms, "
        f"{fastest / statistics.median(spent):.0f} x ardist's time"
    )


def made_scoring() -> Iterator[Case]:
    net = networks.MADE(ad.Factorization(784, fam.Bernoulli()), hidden_features=(512, 512))
    x = (torch.rand(256, 784) < 0.3).float()
    layers = [*net.hidden, net.head]

    def by_hand() -> None:
        h = x
        for number, layer in enumerate(layers):
            h = F.linear(h, layer.weight * layer.mask, layer.bias)
            h = F.relu(h) if number + 1 < len(layers) else h
        logits = h + F.linear(x, net.direct.weight * net.direct.mask)
        losses = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
        losses.sum(-1).mean().backward()
        net.zero_grad()

    def ours() -> None:
        (-net.condition().log_prob(x).mean()).backward()
        net.zero_grad()

    yield (
        "MADE, D=784, batch 256: log_prob with backward",
        ours,
        {"the same network by hand": by_hand},
        ">= 0.91 (at most 1.10 times its time)",
    )


def made_continuous() -> Iterator[Case]:
    import pyro.distributions as dist
    import zuko
    from nflows.transforms.autoregressive import MaskedAffineAutoregressiveTransform
    from pyro.nn import AutoRegressiveNN

    features, hidden = 64, 512
    net = networks.MADE(
        ad.Factorization(features, fam.Normal()), hidden_features=(hidden, hidden), direct=False
    )  # as the peers', without direct connections
    maf = zuko.flows.MAF(features, 0, transforms=1, hidden_features=(hidden, hidden))
    nflows = MaskedAffineAutoregressiveTransform(
        features, hidden, num_blocks=1, use_residual_blocks=False
    )
    affine = dist.transforms.AffineAutoregressive(
        AutoRegressiveNN(features, [hidden, hidden]), log_scale_min_clip=-5.0
    )
    z = torch.randn(64, features)

    def without_graph(call: Call) -> Call:
        return torch.no_grad()(call)

    yield (
        "MADE, D=64 Normal, hidden 512x512: sample(64)",
        (lambda: net.condition().sample((64,))),
        {
            f"zuko {version('zuko')} MAF, one transform": without_graph(
                lambda: maf().sample((64,))
            ),
            f"nflows {version('nflows')} MAF": without_graph(lambda: nflows.inverse(z)),
            f"pyro {version('pyro-ppl')} AffineAutoregressive": without_graph(
                lambda: affine._inverse(z)
            ),
        },
        ">= 15 of the fastest",
    )


def made_windows() -> Iterator[Case]:
    """MADE's windows of steps beside single steps, where steps depend little and strongly."""
    features = 64
    fac = ad.Factorization(features, fam.Normal())
    net = networks.MADE(fac, hidden_features=(512, 512))
    like = net.head.weight

    @torch.no_grad()
    def step_by_step() -> None:
        decoder = net.decoder(64)
        decoder.max_window = 1
        draw(decoder, like)

    def case(what: str) -> Case:
        return f"MADE, D=64 Normal, {what}: sample(64)", (lambda: net.condition().sample((64,))), {
            "the same decoder step by step": step_by_step
        }, "none"  # fmt: skip

    yield case("fresh")
    walks = torch.randn(4000, features).cumsum(-1) / 4
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(300):
        loss = -net.condition().log_prob(walks[torch.randint(4000, (128,))]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    yield case("trained on random walks")


def lstm() -> Iterator[Case]:
    steps, size, symbols = 256, 256, 65
    net = networks.RNN(
        ad.Factorization(steps, fam.Categorical(symbols)),
        cell="lstm", hidden_size=size, num_layers=2,
    )  # fmt: skip
    embedding, head = nn.Embedding(symbols, size), nn.Linear(size, symbols)
    module = nn.LSTM(size, size, 2, batch_first=True)
    cells = nn.LSTMCell(size, size), nn.LSTMCell(size, size)

    @torch.no_grad()
    def by_cells(batch: int) -> Tensor:
        states = [(torch.zeros(batch, size), torch.zeros(batch, size)) for _ in cells]
        token, drawn = torch.zeros(batch, dtype=torch.int64), []
        for _ in range(steps):
            h = embedding(token)
            for i, cell in enumerate(cells):
                states[i] = cell(h, states[i])
                h = states[i][0]
            token = torch.multinomial(head(h).softmax(-1), 1).squeeze(1)
            drawn.append(token)
        return torch.stack(drawn, 1)

    @torch.no_grad()
    def by_module(batch: int) -> Tensor:
        state = torch.zeros(2, batch, size), torch.zeros(2, batch, size)
        token, drawn = torch.zeros(batch, dtype=torch.int64), []
        for _ in range(steps):
            h, state = module(embedding(token).unsqueeze(1), state)
            token = torch.multinomial(head(h[:, 0]).softmax(-1), 1).squeeze(1)
            drawn.append(token)
        return torch.stack(drawn, 1)

    for batch, aim in ((1, ">= 1.3 of the cells"), (16, ">= 1.3 of the cells"), (64, ">= 1 of nn")):
        yield (
            f"LSTM 2x256, T=256, 65 symbols: sample({batch})",
            (lambda batch=batch: net.condition().sample((batch,))),
            {
                "a loop over nn.LSTMCell": lambda batch=batch: by_cells(batch),
                "a loop over nn.LSTM": lambda batch=batch: by_module(batch),
            },
            aim,
        )

    x = torch.randint(symbols, (64, steps))

    def ours() -> None:
        (-net.condition().log_prob(x).mean()).backward()
        net.zero_grad()

    def raw() -> None:
        inputs = torch.cat((torch.zeros(64, 1, size), embedding(x[:, :-1])), 1)
        logits = head(module(inputs)[0])
        F.cross_entropy(logits.flatten(0, 1), x.flatten()).backward()
        for part in (module, embedding, head):
            part.zero_grad()

    yield (
        "the same, batch 64: log_prob with backward",
        ours,
        {"nn.LSTM and F.cross_entropy": raw},
        ">= 0.95 (at most 1.05 times its time)",
    )


class HandGPT(nn.Module):
    """The GPT of `gpt`'s sizes as one would write it by hand, in nanoGPT's form."""

    def __init__(self, symbols: int, length: int, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.tokens, self.places = nn.Embedding(symbols, dim), nn.Embedding(length, dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2 * depth + 1))
        self.attend = nn.ModuleList(nn.Linear(dim, 3 * dim) for _ in range(depth))
        self.out = nn.ModuleList(nn.Linear(dim, dim) for _ in range(depth))
        self.up = nn.ModuleList(nn.Linear(dim, 4 * dim) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(4 * dim, dim) for _ in range(depth))
        self.head = nn.Linear(dim, symbols)

    def forward(self, index: Tensor) -> Tensor:
        batch, length = index.shape
        x = self.tokens(index) + self.places(torch.arange(length))
        for i, (attend, out) in enumerate(zip(self.attend, self.out, strict=True)):
            q, k, v = (
                part.view(batch, length, self.heads, -1).transpose(1, 2)
                for part in attend(self.norms[2 * i](x)).split(x.shape[-1], -1)
            )
            heard = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + out(heard.transpose(1, 2).reshape(batch, length, -1))
            x = x + self.down[i](F.gelu(self.up[i](self.norms[2 * i + 1](x))))
        logits: Tensor = self.head(self.norms[-1](x))
        return logits


def gpt() -> Iterator[Case]:
    from transformers import GPT2Config, GPT2LMHeadModel
    from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper

    symbols, length, dim, depth, heads = 65, 256, 128, 4, 4
    net = networks.Transformer(
        ad.Factorization(length, fam.Categorical(symbols)),
        dim=dim, depth=depth, heads=heads, any_order=False,
    )  # fmt: skip
    hugging = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=symbols + 1, n_positions=length + 1, n_embd=dim, n_layer=depth, n_head=heads,
            bos_token_id=symbols, eos_token_id=None,
        )
    ).eval()  # fmt: skip
    other = AutoregressiveWrapper(
        TransformerWrapper(
            num_tokens=symbols, max_seq_len=length + 1,
            attn_layers=Decoder(dim=dim, depth=depth, heads=heads, attn_dim_head=dim // heads),
        )
    ).eval()  # fmt: skip

    def by_hugging(batch: int) -> object:
        start = torch.full((batch, 1), symbols)
        return hugging.generate(
            start, attention_mask=torch.ones_like(start), do_sample=True, top_k=0, top_p=1.0,
            max_new_tokens=length, pad_token_id=symbols,
        )  # fmt: skip

    def by_x_transformers(batch: int) -> object:
        start = torch.zeros(batch, 1, dtype=torch.int64)
        return other.generate(start, length, cache_kv=True, filter_logits_fn=lambda logits: logits)

    for batch, aim in ((1, 5), (16, 3), (64, 2)):
        yield (
            f"GPT of 4 layers, 4 heads, 128 wide, 65 symbols: sample({batch}) of 256",
            (lambda batch=batch: net.condition().sample((batch,))),
            {
                f"transformers {version('transformers')} GPT-2 generate, cached": (
                    lambda batch=batch: by_hugging(batch)
                ),
                f"x-transformers {version('x-transformers')} generate, cached": (
                    lambda batch=batch: by_x_transformers(batch)
                ),
            },
            f">= {aim} of the fastest",
        )

    hand, x = HandGPT(symbols, length, dim, depth, heads), torch.randint(symbols, (64, length))

    def ours() -> None:
        (-net.condition().log_prob(x).mean()).backward()
        net.zero_grad()

    def by_hand() -> None:
        shifted = F.pad(x[:, :-1], (1, 0))
        F.cross_entropy(hand(shifted).flatten(0, 1), x.flatten()).backward()
        hand.zero_grad()

    yield (
        "the same, batch 64: log_prob with backward",
        ours,
        {"the same GPT by hand, F.cross_entropy": by_hand},
        ">= 0.95 (at most 1.05 times its time)",
    )


class Constant(networks.ConditionalNetwork):
    """A network that costs nothing, to time what is around it."""

    def __init__(self, factorization: ad.Factorization, params: Tensor) -> None:
        super().__init__(factorization)
        self.params = params

    def forward(self, blocks: Tensor, context: object = None, ranks: object = None) -> Tensor:
        return self.params


def scoring() -> Iterator[Case]:
    logits, x = torch.randn(64, 784, 256), torch.randint(256, (64, 784))
    net = Constant(ad.Factorization(784, fam.Categorical(256)), logits)
    yield "scoring (64, 784, 256) logits", (lambda: net.condition().log_prob(x)), {
        "F.cross_entropy": lambda: F.cross_entropy(
            logits.view(-1, 256), x.view(-1), reduction="none"
        ).view(64, 784).sum(-1)
    }, ">= 0.91 (at most 1.1 times its time)"  # fmt: skip


def memory() -> Iterator[Case]:
    """Peak resident memory above the network's own (Linux), each size in its own process."""
    print("\npeak memory of sample(64), MADE of 512x512; aim: does not grow with D times 512")
    for features in (196, 392, 784):
        result = subprocess.run(
            [sys.executable, __file__, "--peak", str(features)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        whole = features * 512 * 64 * 4 / 2**20
        print(f"  D={features:<5}{result.stdout.strip()} (D x 512 x 64 floats: {whole:.0f} MiB)")
    yield from ()


def print_peak(features: int) -> None:
    fac = ad.Factorization(features, fam.Bernoulli())
    net = networks.MADE(fac, hidden_features=(512, 512))
    net.condition().sample((1,))
    sizes, done = [], threading.Event()

    def watch() -> None:
        while not done.is_set():
            resident = int(Path("/proc/self/statm").read_text().split()[1])
            sizes.append(resident * resource.getpagesize() / 2**20)

    watcher = threading.Thread(target=watch)
    watcher.start()
    time.sleep(0.05)
    before = sizes[-1]
    for _ in range(30):
        net.condition().sample((64,))
    done.set()
    watcher.join()
    print(f"{max(sizes) - before:6.1f} MiB")


CASES = {
    case.__name__: case
    for case in (
        made_sampling,
        made_scoring,
        made_continuous,
        made_windows,
        lstm,
        gpt,
        scoring,
        memory,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(CASES)}; all by default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.peak:
        print_peak(args.peak)
        return
    print(
        f"torch {torch.__version__}, {platform.machine()}, {args.threads} threads, float32, "
        f"median of {args.rounds} rounds in turn"
    )
    for name in args.names or CASES:
        for case in CASES[name]():
            compare(*case, rounds=args.rounds)


if __name__ == "__main__":
    main()
