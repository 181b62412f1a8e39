"""Families of single numbers, and the Dirichlet, against formulas in sixty digits."""

from functools import partial

import mpmath as mp
import pytest
import torch
from table import wild_params

from ardist import families as fam


def _positive(raw, least=1e-6):
    return mp.log(1 + mp.mpf(2) ** raw, 2) + mp.mpf(least)


def _log_odds(raw):
    return 15 * mp.tanh(raw / 15)


def _log_beta(*parts):
    return mp.fsum(map(mp.loggamma, parts)) - mp.loggamma(mp.fsum(parts))


def _normal(x, loc, raw):
    scale = _positive(raw)
    return -(((x - loc) / scale) ** 2) / 2 - mp.log(scale) - mp.log(2 * mp.pi) / 2


def _student(x, loc, raw, df):
    scale, df = _positive(raw), _positive(df, 1.0)
    front = mp.loggamma((df + 1) / 2) - mp.loggamma(df / 2) - mp.log(mp.pi * df) / 2
    return front - mp.log(scale) - (df + 1) / 2 * mp.log1p(((x - loc) / scale) ** 2 / df)


def _gamma(x, concentration, rate):
    a, rate = _positive(concentration, 1e-2), _positive(rate)
    return a * mp.log(rate) + (a - 1) * mp.log(x) - rate * x - mp.loggamma(a)


def _beta(x, first, second):
    a, b = _positive(first, 1e-2), _positive(second, 1e-2)
    return (a - 1) * mp.log(x) + (b - 1) * mp.log1p(-x) - _log_beta(a, b)


def _poisson(x, raw):
    rate = _positive(raw)
    return x * mp.log(rate) - rate - mp.loggamma(x + 1)


def _negative_binomial(x, count, odds):
    r, odds = _positive(count, 1e-2), _log_odds(odds)
    front = mp.loggamma(x + r) - mp.loggamma(r) - mp.loggamma(x + 1)
    return front - x * mp.log1p(mp.exp(-odds)) - r * mp.log1p(mp.exp(odds))


def _geometric(x, odds):
    odds = _log_odds(odds)
    return -x * mp.log1p(mp.exp(odds)) - mp.log1p(mp.exp(-odds))


def _von_mises(x, loc, raw):
    k = _positive(raw, 1e-3)
    return k * mp.cos(x - loc) - mp.log(2 * mp.pi * mp.besseli(0, k))


def _logistic(x, loc, raw):
    scale = _positive(raw)
    z = abs((x - loc) / scale)
    return -z - 2 * mp.log1p(mp.exp(-z)) - mp.log(scale)


EXACT = {
    fam.Normal(): _normal,
    fam.Laplace(): lambda x, m, s: -abs(x - m) / _positive(s) - mp.log(2 * _positive(s)),
    fam.Logistic(): _logistic,
    fam.LogNormal(): lambda x, m, s: _normal(mp.log(x), m, s) - mp.log(x),
    fam.StudentT(): _student,
    fam.Gamma(): _gamma,
    fam.Beta(): _beta,
    fam.Exponential(): lambda x, r: mp.log(_positive(r)) - _positive(r) * x,
    fam.Poisson(): _poisson,
    fam.NegativeBinomial(): _negative_binomial,
    fam.Geometric(): _geometric,
    fam.VonMises(): _von_mises,
    fam.Bernoulli(): lambda x, odds: -mp.log1p(mp.exp(-odds if x else odds)),
}


@pytest.mark.parametrize(("family", "exact"), EXACT.items(), ids=map(str, EXACT))
def test_scores_and_their_slopes_are_those_of_sixty_digits(family, exact):
    """From draws, and from values of other parameters, which are far out."""
    params = torch.cat(
        (torch.randn(10, family.num_params), wild_params(family, 50))
    ).requires_grad_()
    value = family.sample(params)
    value = torch.cat((value, value.roll(1)))
    params = torch.cat((params, params))
    found = family.log_prob(params, value)
    (slopes,) = torch.autograd.grad(found.sum(), params)
    with mp.workdps(60):
        for x, raw, score, slope in zip(
            value.tolist(), params.tolist(), found.tolist(), slopes.tolist(), strict=True
        ):
            x, raw = mp.mpf(x), list(map(mp.mpf, raw))
            expected = exact(x, *raw)
            if abs(expected) < 3e38:
                assert abs(score - expected) <= max(1e-5 * abs(expected), 1e-4)
            for number, one in enumerate(slope):
                order = tuple(int(number == other) for other in range(len(raw)))
                expected = mp.diff(partial(exact, x), tuple(raw), order)
                if abs(expected) < 3e38:
                    assert abs(one - expected) <= 1e-4 * abs(expected) + 1e-5


def test_dirichlet_scores_do_not_cancel():
    params = wild_params(fam.Dirichlet(3), 60)
    value = fam.Dirichlet(3).sample(params)
    found = fam.Dirichlet(3).log_prob(params, value)
    with mp.workdps(60):
        for x, raw, score in zip(value.tolist(), params.tolist(), found.tolist(), strict=True):
            a = [_positive(mp.mpf(one), 1e-2) for one in raw]
            terms = ((c - 1) * mp.log(mp.mpf(one)) for c, one in zip(a, x, strict=True))
            expected = mp.fsum(terms) - _log_beta(*a)
            assert abs(score - expected) <= max(1e-5 * abs(expected), 1e-4)
