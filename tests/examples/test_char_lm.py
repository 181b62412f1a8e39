"""The character model in several processes: it is killed, resumes, and changes their number."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

EXAMPLE = Path(__file__).parents[2] / "examples" / "char_lm.py"


@pytest.fixture
def start(tmp_path):
    """Starts the example on a short random text, under torchrun if there are several processes."""
    symbols = torch.randint(9, (6000,)).tolist()
    (tmp_path / "tinyshakespeare.txt").write_text("".join("ROME:\nabc"[i] for i in symbols))

    def run(checkpoint, *options, processes=2):
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
        launcher += [
            "--master-port",
            "0",
            "--rdzv-backend",
            "c10d",
            "--rdzv-endpoint",
            "localhost:0",
        ]
        command = [sys.executable, *(launcher if processes > 1 else ()), str(EXAMPLE)]
        command += ["--data", str(tmp_path), "--network", "transformer", "--recipe", "nanogpt"]
        command += ["--threads", "1", "--steps", "12", "--every", "4"]
        command += ["--checkpoint", str(tmp_path / checkpoint), *options]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(EXAMPLE.parents[1])}
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env
        )

    return run


def result(process):
    """What the example prints after training, without its time."""
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return re.split(r"seed \d+\n", printed)[1]


def workers(process):
    """The processes that torchrun has started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="it finds workers in /proc")
@pytest.mark.parametrize("options", [(), ("--fsdp",)], ids=["ddp", "fsdp"])
def test_a_run_whose_process_was_killed_resumes_to_the_same_numbers(options, start, tmp_path):
    expected = result(start("whole", *options))
    killed = start("killed", *options)
    while not (tmp_path / "killed").exists():
        assert killed.poll() is None
        time.sleep(0.05)
    os.kill(workers(killed)[-1], signal.SIGKILL)
    killed.communicate(timeout=300)
    assert killed.returncode != 0
    assert result(start("killed", *options)) == expected


@pytest.mark.slow
def test_a_checkpoint_of_two_processes_is_loaded_by_one(start):
    expected = result(start("moved", "--fsdp"))
    found = result(start("moved", processes=1))  # nothing is left to train
    numbers = [re.findall(r"^  (\d\.\d+)  ", text, re.MULTILINE) for text in (expected, found)]
    assert numbers[0] == numbers[1]
    assert len(numbers[0]) == 2
