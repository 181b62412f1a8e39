"""Peak resident memory of draws beyond the memory before, each in its own process (Linux)."""

import subprocess
import sys
from collections.abc import Callable, Iterator

import attention
import gradients
import torch
from harness import Case, measure, random_made, use

import ardist as ad
from ardist import families as fam


def made(features: int) -> Callable[[int], object]:
    fac = ad.Factorization(features, fam.Bernoulli())
    net = random_made(fac, hidden_features=(512, 512))
    return lambda batch: net.condition().sample((batch,))


# Functions that draw a batch, made from a number on the command line.
WORK: dict[str, Callable[[int], Callable[[int], object]]] = {
    "made": made,
    **gradients.WORK,
    **{name: lambda _, name=name: attention.generators()[name] for name in attention.NAMES},
}


def peak(name: str, number: int, batch: int) -> float:
    """MiB, measured in a process of its own."""
    result = subprocess.run(
        [
            sys.executable, __file__, name, str(number), str(batch), str(torch.get_num_threads()),
            torch.get_default_device().type,
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(result.stdout.split()[-1])


def memory() -> Iterator[Case]:
    print("\npeak memory of sample(64), MADE of 512x512; aim: does not grow with D times 512")
    for features in (196, 392, 784):
        whole = features * 512 * 64 * 4 / 2**20
        found = peak("made", features, 64)
        print(f"  D={features:<5}{found:6.1f} MiB (D x 512 x 64 floats: {whole:.0f} MiB)")
    print("\npeak memory of 256 tokens, GPT of 4 layers, 128 wide; aim: at most a tenth of theirs")
    for batch in (16, 64):
        found = {name: peak(name, 0, batch) for name in attention.NAMES}
        for name, mebibytes in found.items():
            ratio = mebibytes / found["ardist"]
            print(f"  batch {batch}: {name:<34}{mebibytes:8.1f} MiB {ratio:6.1f} x ardist's")
    print("\npeak memory of rsample with backward, MADE of 512x512, D=64; aim: at most a tenth")
    for batch in (64, 256):
        found = {name: peak(f"rsample {name}", 64, batch) for name in ("made", "zuko", "pyro")}
        for name, mebibytes in found.items():
            ratio = mebibytes / found["made"]
            print(f"  batch {batch}: {name:<12}{mebibytes:8.1f} MiB {ratio:6.1f} x ardist's")
    print("\nthe same, batch 64, as D grows; aim: by no more than gradients of weights and draws")
    for features in (64, 256, 784):
        found = [peak(f"{what} made", features, 64) for what in ("rsample", "log_prob")]
        print(f"  D={features:<5}{found[0]:8.1f} MiB, log_prob with backward {found[1]:8.1f} MiB")
    print("\npeak memory of rsample over log_prob, with backward, batch 64; aim: at most 1.5")
    for name in ("rnn", "transformer"):
        for length in (64, 256):
            mine, other = (peak(f"{what} {name}", length, 64) for what in ("rsample", "log_prob"))
            print(f"  {name}, T={length:<5}{mine:8.1f} MiB, {other:8.1f} MiB: {mine / other:.2f}")
    yield from ()


if __name__ == "__main__":
    work, number, size, threads = sys.argv[1], *map(int, sys.argv[2:5])
    use(sys.argv[5])
    torch.set_num_threads(threads)
    draw = WORK[work](number)
    draw(1)
    print(f"{measure(lambda: draw(size)):.1f}")
