"""Every test starts from the same random state and leaves the defaults as they were."""

import pyro
import pytest
import torch


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: runs only as far as the environment asks for it")


@pytest.fixture(autouse=True)
def _same_start():
    torch.manual_seed(0)
    pyro.clear_param_store()
    # torch.compile turns validation off for the whole process, in whichever test it runs.
    pyro.enable_validation(True)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def float64():
    """Runs a test in double precision."""
    torch.set_default_dtype(torch.float64)
