"""The policy over tours of examples/tours.py, its shortest tours, and a run of a few seconds."""

import sys
from importlib import import_module
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch

import ardist as ad

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def tours(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return import_module("tours")


def policy(tours, count=5):
    torch.manual_seed(0)
    fac = ad.Factorization((count,), ad.families.Categorical(count), rule=ad.rules.Distinct())
    return tours.Policy(fac, dim=16, depth=1, heads=2)


def test_the_policy_is_a_distribution_over_all_tours(tours):
    net = policy(tours)
    p = net.condition(torch.rand(3, 5, 2))
    states = p.enumerate_support()
    assert len(states) == 120
    torch.testing.assert_close(p.log_prob(states).exp().sum(0), torch.ones(3))
    assert (p.sample((50,)).sort(-1).values == torch.arange(5)).all()


def test_the_policy_passes_the_checks(tours):
    net, cities = policy(tours), torch.rand(2, 5, 2)
    ad.testing.check_autoregressive(net, cities)
    ad.testing.check_decoder(net, cities)


def test_the_shortest_tour_is_that_of_all_permutations(tours):
    for cities in np.random.default_rng(0).random((5, 7, 2)):
        places = torch.from_numpy(cities)
        others = [[0, *rest] for rest in permutations(range(1, 7))]
        every = tours.length(torch.tensor(others).unsqueeze(1), places.unsqueeze(0))
        found = tours.length(torch.tensor([tours.shortest(cities)]), places.unsqueeze(0))
        torch.testing.assert_close(found, every.min(0).values)


def test_the_shortest_tour_of_two_clusters_is_one_tour(tours):
    """Whose shortest edges make two tours, one in each cluster."""
    cluster = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]) / 10
    assert sorted(tours.shortest(np.concatenate((cluster, cluster + 5)))) == list(range(8))


def test_a_second_of_training_shortens_tours_and_draws_them(tours, monkeypatch, tmp_path, capsys):
    numbers = {"minutes": 0.03, "cities": 6, "test": 8, "draws": 4, "width": 2, "output": tmp_path}
    options = [f"--{name}={value}" for name, value in numbers.items()]
    monkeypatch.setattr(sys, "argv", ["tours.py", *options])
    tours.main()
    printed = capsys.readouterr().out
    above = [float(line.split()[-1].rstrip("%")) for line in printed.splitlines()[-4:]]
    assert above[-1] == 0 <= min(above)
    assert max(above) < 25
    assert (tmp_path / "tours.png").stat().st_size > 10_000
