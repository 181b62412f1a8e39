"""The incomplete gamma and beta functions, against formulas in forty digits and against scipy."""

import mpmath as mp
import numpy as np
import pytest
import torch
from scipy import special

from ardist import families as fam
from ardist.families.incomplete import log_betainc, log_gammainc

DEVIATIONS = [-60.0, -15.0, -4.0, -1.0, 0.1, 2.0, 6.0, 30.0]  # of the logarithm or the log odds
FEW, MANY = [0.01, 0.3, 0.99, 5.0], [0.02, 1.0, 40.0, 1e4]


def _logs(small, is_left):
    tails = mp.log(small), mp.log1p(-small)
    return tails if is_left else tails[::-1]


def _assert_close(found, expected, tol):
    found = torch.stack(found).T
    torch.testing.assert_close(found, torch.tensor(expected, dtype=found.dtype), rtol=tol, atol=tol)


@pytest.mark.parametrize("a", [*FEW, *MANY, 1e6])
def test_both_tails_of_the_gamma_function_are_exact_at_any_distance(a, float64):
    x = [a * np.exp(z / np.sqrt(a)) for z in DEVIATIONS if z / np.sqrt(a) < 20]
    expected = []
    with mp.workdps(40):
        for each in x:
            ends = (0, each) if each < a else (each, mp.inf)
            small = mp.gammainc(mp.mpf(a), *ends, regularized=True)
            expected.append([float(tail) for tail in _logs(small, each < a)])
    _assert_close(log_gammainc(torch.tensor(a), torch.tensor(x)), expected, 1e-8)


@pytest.mark.parametrize("a", FEW)
@pytest.mark.parametrize("b", MANY)
def test_both_tails_of_the_beta_function_are_exact_at_any_distance(a, b, float64):
    expected, places = [], []
    with mp.workdps(40):
        for z in DEVIATIONS:
            odds = mp.mpf(a) / b * mp.exp(z * mp.sqrt(1 / mp.mpf(a) + 1 / mp.mpf(b)))
            x, rest = odds / (1 + odds), 1 / (1 + odds)
            if min(x, rest) < 1e-290:
                continue
            is_left = a * rest > b * x
            ends = (a, b, 0, x) if is_left else (b, a, 0, rest)
            small = mp.betainc(*map(mp.mpf, ends), regularized=True)
            expected.append([float(tail) for tail in _logs(small, is_left)])
            places.append((float(x), float(rest)))
    x, rest = torch.tensor(places).T
    a, b = torch.tensor(a), torch.tensor(b)
    _assert_close(log_betainc(a, b, x, rest), expected, 1e-9)
    mirrored = torch.tensor([tails[::-1] for tails in expected]).tolist()
    _assert_close(log_betainc(b, a, rest, x), mirrored, 1e-9)


def test_the_beta_function_of_large_numbers_is_scipys():
    generator = np.random.default_rng(0)
    a, b = 10 ** generator.uniform(-2, 12, (2, 2000))
    x = generator.beta(a, b)
    below, above = (t.exp() for t in log_betainc(*map(torch.from_numpy, (a, b, x, 1 - x))))
    np.testing.assert_allclose(below.numpy(), special.betainc(a, b, x), rtol=0, atol=1e-8)
    torch.testing.assert_close(below + above, torch.ones_like(below), rtol=0, atol=1e-12)
    ends = torch.tensor([0.0, 1.0])
    tails = log_betainc(torch.tensor(2.0), torch.tensor(3.0), ends, 1 - ends)
    assert torch.stack(tails).exp().tolist() == [[0.0, 1.0], [1.0, 0.0]]


@pytest.mark.parametrize(
    ("family", "low"),
    [(fam.Gamma(), 1e3), (fam.Gamma(), 1e5), (fam.Poisson(), 1e3), (fam.NegativeBinomial(), 3e3)],
    ids=str,
)
def test_families_truncated_far_beyond_their_mass_are_normalized(family, low, float64):
    truncated, params = fam.Truncated(family, low=low), torch.zeros(family.num_params)
    if family.support.is_discrete:
        x, width = low + torch.arange(100.0), 1.0
    else:
        x, width = low + torch.linspace(0, 60, 60_001), 1e-3  # the rate is about 1
    scores = truncated.log_prob(params, x)
    total = torch.trapezoid(scores.exp(), dx=width) if width < 1 else scores.exp().sum()
    torch.testing.assert_close(total.item(), 1.0, rtol=0, atol=1e-5)
    draws = truncated.sample(params.expand(4000, -1))
    assert draws.min() >= low
    excess = (scores.exp() * (x - low)).sum() * width
    torch.testing.assert_close(draws.mean() - low, excess, rtol=0.1, atol=2e-3)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("tails", "near", "other"),
    [
        (log_gammainc, (5.0, 4.0), (5.0, 1e-80)),
        (log_betainc, (5.0, 4.0, 0.5, 0.5), (0.01, 0.02, 0.7, 0.3)),
    ],
)
def test_a_graph_holds_for_all_values(tails, near, other, float64):
    """Also far from the mode, or for shapes below 1, if it was recorded elsewhere."""
    near, other = (tuple(torch.tensor([x]) for x in given) for given in (near, other))
    graph = torch.jit.trace(tails, near, check_trace=False)
    torch.testing.assert_close(graph(*other), tails(*other))
