"""How two pieces of work are timed beside each other."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

Call = Callable[[], object]
# What, ours, peers, what is aimed at. A peer may be a part of the work, and how many make it.
Case = tuple[str, Call, dict[str, Call | tuple[Call, float]], str]


def timed(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compare(
    what: str, ours: Call, peers: dict[str, Call | tuple[Call, float]], aim: str, rounds: int
) -> None:
    """Prints how many times longer each peer takes than we do."""
    parts = {"ardist": (ours, 1.0)}
    parts |= {n: peer if isinstance(peer, tuple) else (peer, 1.0) for n, peer in peers.items()}
    for call, _ in parts.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(rounds):
        for name, (call, count) in parts.items():
            times[name].append(timed(call) * count)
    print(f"\n{what}; aim: {aim}")
    for name, (_, count) in parts.items():
        ratio = statistics.median(
            other / own for other, own in zip(times[name], times["ardist"], strict=True)
        )
        took = statistics.median(times[name]) * 1e3
        share = f" (1/{count:.0f} of it was timed)" if count > 1 else ""
        print(f"  {name:<44}{took:10.2f} ms {ratio:9.2f} x ardist's time{share}", flush=True)


def _status(name: str) -> float:
    """A line of the kernel's account of this process, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 2**10


def measure(call: Call) -> float:
    """Peak resident memory of a call above what is there before, in MiB (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before
