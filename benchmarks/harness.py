"""Times calls in turn, and measures their memory."""

import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import ardist as ad
from ardist import networks

Call = Callable[[], object]
_TURN = 0.1  # seconds
# A title, our call, the peers' calls and the aim. A peer may be a call for a part of the work, and
# the number of parts.
Case = tuple[str, Call, dict[str, Call | tuple[Call, float]], str]


def random_made(factorization: ad.Factorization, **options: Any) -> networks.MADE:
    """A MADE with random weights in all layers, like the peers'.

    The outputs of a new MADE depend on nothing, so windows of steps would draw them at once.
    """
    net = networks.MADE(factorization, **options)
    for layer in net.output_maps:
        layer.reset_parameters()
    return net


def use(device: str) -> None:
    """Makes a device the default of new tensors. Such a mode would slow down the CPU."""
    if device != "cpu":
        torch.set_default_device(device)


def timed(call: Call, count: int = 1) -> float:
    """The seconds of a call, as the mean of several in a row."""
    _wait()
    start = time.perf_counter()
    for _ in range(count):
        call()
    _wait()
    return (time.perf_counter() - start) / count


def _wait() -> None:
    """Waits until the device has finished its work."""
    if torch.get_default_device().type != "cpu":
        torch.accelerator.synchronize()


def compare(
    what: str, ours: Call, peers: dict[str, Call | tuple[Call, float]], aim: str, rounds: int
) -> None:
    """Prints how many times longer each peer takes than we do.

    In a turn, a call is repeated for at least `_TURN` seconds. The first call of a turn finds
    caches that another call has filled, which matters if it is short. So it is also reported.
    """
    parts = {"ardist": (ours, 1.0)}
    parts |= {n: peer if isinstance(peer, tuple) else (peer, 1.0) for n, peer in peers.items()}
    repeats = {name: _repeats(call) for name, (call, _) in parts.items()}
    firsts: dict[str, list[float]] = {name: [] for name in parts}
    times: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(rounds):
        for name, (call, share) in parts.items():
            first = timed(call)
            firsts[name].append(first * share)
            times[name].append((timed(call, repeats[name]) if repeats[name] else first) * share)
    print(f"\n{what}; aim: {aim}")
    for name, (_, share) in parts.items():
        took = statistics.median(times[name]) * 1e3
        ratio, cold = (_ratio(each[name], each["ardist"]) for each in (times, firsts))
        part = f" (1/{share:.0f} of it was timed)" if share > 1 else ""
        print(
            f"  {name:<44}{took:10.2f} ms {ratio:9.2f} x ardist's time, "
            f"{cold:.2f} x in first calls{part}",
            flush=True,
        )


def _repeats(call: Call) -> int:
    """How many calls fill a turn after the first one."""
    took = timed(call)
    if took < 10 * _TURN:  # the first call of all is slower
        took = timed(call)
    return math.ceil(_TURN / took) - 1


def _ratio(theirs: list[float], ours: list[float]) -> float:
    return statistics.median(other / own for other, own in zip(theirs, ours, strict=True))


def _status(name: str) -> float:
    """A line of the kernel's status of this process, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 2**10


def measure(call: Call) -> float:
    """Peak memory of a call beyond the memory before it, in MiB: of CUDA, or resident (Linux)."""
    if torch.get_default_device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        allocated = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - allocated) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before
