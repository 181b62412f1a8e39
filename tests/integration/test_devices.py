"""Networks, rules and training on another device than the CPU, which is emulated."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_no_tensor_is_on_another_device_than_the_network():
    script = Path(__file__).parents[1] / "emulated_device.py"
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
