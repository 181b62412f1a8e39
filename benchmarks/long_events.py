"""Memory and time of long events and large vocabularies: `python benchmarks/long_events.py`.

Each number is measured in a process of its own. Freed blocks return to the system at once
(`MALLOC_MMAP_THRESHOLD_`), since glibc otherwise keeps blocks below 32 MiB and the peak would
depend on their layout. It needs no other library.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import torch
from harness import Case, measure

import ardist as ad
from ardist import families as fam
from ardist import networks

SYMBOLS, TOKENS = 50_257, 1024
WORDS = ad.Factorization(TOKENS, fam.Categorical(SYMBOLS))
VOCABULARY: dict[str, Callable[[], networks.ConditionalNetwork]] = {
    "Transformer, 2 layers of 128": lambda: networks.Transformer(
        WORDS, dim=128, depth=2, heads=2, any_order=False
    ),
    "GRU of 128": lambda: networks.RNN(WORDS, hidden_size=128),
    "WaveNet, 8 layers of 32": lambda: networks.WaveNet(WORDS, channels=32, depth=8),
}
LONG: dict[str, Callable[[ad.Factorization], networks.ConditionalNetwork]] = {
    "GRU of 32": lambda fac: networks.RNN(fac, hidden_size=32),
    "WaveNet, 10 layers of 16": lambda fac: networks.WaveNet(fac, channels=16, depth=10),
    "Markov, window 4": lambda fac: networks.Markov(fac, window=4, hidden_features=16),
}


def vocabulary(name: str, chunk_size: int) -> str:
    """MiB of log_prob with backward, beyond the network and its gradients."""
    net = VOCABULARY[name]()
    for weight in net.parameters():
        weight.grad = torch.zeros_like(weight)
    x = torch.randint(SYMBOLS, (TOKENS,))
    p = net.condition(chunk_size=chunk_size or None)
    return f"{measure(lambda: p.log_prob(x).backward()):.0f} MiB"


def long(name: str, length: int) -> str:
    """Seconds and MiB of each operation on an event of this length."""
    fac = ad.Factorization(length, fam.Normal())
    found, built = [], list[networks.ConditionalNetwork]()

    def timed(what: str, call: Callable[[], object]) -> None:
        start = time.process_time()
        mebibytes = measure(call)
        found.append(f"{what} {time.process_time() - start:.2f} s {mebibytes:.0f} MiB")

    timed("build", lambda: built.append(LONG[name](fac)))
    (net,) = built
    x = torch.randn(length)
    observed = torch.arange(length) < length // 2
    timed("state_dict", lambda: net.load_state_dict(net.state_dict()))
    timed("log_prob", lambda: net.condition().log_prob(x).backward())
    timed("given", lambda: net.condition().given(x, observed).log_prob(x))
    timed("sample", lambda: net.condition().sample())
    timed("given.sample", lambda: net.condition().given(x, observed).sample())
    return ", ".join(found)


def _alone(*args: object) -> str:
    """The output of this file with arguments, in a process of its own."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, *map(str, args)],
        capture_output=True, text=True, check=True,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)},
    )  # fmt: skip
    return result.stdout.strip()


def long_events() -> Iterator[Case]:
    print(f"\nlog_prob of {TOKENS} of {SYMBOLS:,} symbols with backward; aim: below 250 MiB")
    for name in VOCABULARY:
        found = [f"{size or 'none'}: {_alone('vocabulary', name, size)}" for size in (0, 128)]
        print(f"  {name:<32} chunk_size {', '.join(found)}", flush=True)
    print("\none event of T reals; aim: linear in T")
    for name in LONG:
        for length in (5_000, 20_000):
            print(f"  {name}, T={length}: {_alone('long', name, length)}", flush=True)
    yield from ()


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) == 4:
        print({"vocabulary": vocabulary, "long": long}[sys.argv[1]](sys.argv[2], int(sys.argv[3])))
    else:
        list(long_events())
