"""Probabilities of intervals, and the families that are made of them."""

import mpmath
import pytest
import torch
from laws import assert_cdf
from scipy import stats
from table import FAMILIES
from torch.distributions import AffineTransform, ExpTransform

from ardist import families as fam
from ardist.families.restricted import Limited, Pinned

WITH_CDF = {name: family for name, family in FAMILIES.items() if family.has_cdf}


@pytest.mark.parametrize("family", WITH_CDF.values(), ids=WITH_CDF.keys())
def test_an_interval_has_the_difference_of_the_cdf(family, float64):
    params = torch.randn(200, family.num_params)
    both = torch.stack((family.sample(params), family.sample(params))).double()
    low, high = both.amin(0), both.amax(0)
    found = family.interval_log_prob(params, low, high)
    mass = family.mass(params, low.long() if family.is_index else low)
    inside = family.cdf(params, high) - family.cdf(params, low) + mass
    torch.testing.assert_close(found.exp(), inside, rtol=1e-7, atol=1e-9)
    everything = family.interval_log_prob(params, -torch.inf, torch.inf)
    torch.testing.assert_close(everything, torch.zeros(200), rtol=0, atol=1e-9)
    assert (family.interval_log_prob(params, high + 1, high) == -torch.inf).all()


@pytest.mark.parametrize(
    "family", [fam.LogNormal(), fam.Gamma(), fam.Beta(), fam.Exponential()], ids=str
)
def test_there_is_little_between_an_end_and_the_next_number(family, float64):
    params = torch.zeros(family.num_params)
    near = torch.tensor([5e-324, 1e-310, 1e-301, 1e-299, 1e-200, 1e-100, 1e-30])
    below = family.interval_log_prob(params, 0.0, near).exp()
    above = family.interval_log_prob(params, near, torch.inf).exp()
    torch.testing.assert_close(below, torch.zeros(7), rtol=0, atol=1e-20)
    torch.testing.assert_close(above, torch.ones(7))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("constant", [-0.3, 0.1, 1.0])
@pytest.mark.parametrize(
    "inner", [fam.Normal(), fam.LogNormal(), fam.Hurdle((1,), fam.Gamma()), fam.Poisson()], ids=str
)
def test_an_interval_of_a_family_or_a_constant(inner, constant, dtype):
    """That of the family if a block is free, and otherwise all or nothing."""
    pinned, uniform = Pinned(inner, constant), torch.rand(50, dtype=dtype)
    params = torch.randn(inner.num_params, dtype=dtype)
    free, certain = (torch.cat((params, params.new_tensor([x]))) for x in (1.0, 0.0))
    for ends in [(0.1, 1.3), (0.2, 1.7), (-0.3, 1.0), (-torch.inf, 1.1), (1.0, torch.inf)]:
        wanted = inner.interval_log_prob(params, *ends)
        torch.testing.assert_close(pinned.interval_log_prob(free, *ends), wanted)
        is_inside = ends[0] <= constant <= ends[1]
        assert pinned.interval_log_prob(certain, *ends) == (0.0 if is_inside else -torch.inf)
        limits = params.new_tensor(ends)
        for part in (free, certain) if is_inside else (free,):
            limited = Limited(pinned)
            both = limited.restrict(part, limits)
            x = limited.icdf(both, uniform)
            assert ((limits[0] <= x) & (x <= limits[1])).all()
            assert limited.log_prob(both, x).isfinite().all()
            plain = Limited(inner)
            own = plain.icdf(plain.restrict(params, limits), uniform)
            expected = own if part is free else torch.full_like(own, constant)
            torch.testing.assert_close(x, expected)
            masses = limited.mass(both, x), plain.mass(plain.restrict(params, limits), x)
            torch.testing.assert_close(masses[0], masses[1] if part is free else masses[1] * 0 + 1)


@pytest.mark.parametrize(
    ("family", "law", "places"),
    [
        (fam.Normal(), stats.norm(scale=1 + 1e-6), (-30.0, -8.0, 8.0, 30.0)),
        (fam.Laplace(), stats.laplace(scale=1 + 1e-6), (-300.0, 300.0)),
        (fam.Logistic(), stats.logistic(scale=1 + 1e-6), (-300.0, 300.0)),
        (fam.StudentT(), stats.t(2, scale=1 + 1e-6), (-300.0, 300.0)),
        (fam.Exponential(), stats.expon(scale=1 / (1 + 1e-6)), (300.0,)),
        (fam.Gamma(), stats.gamma(1.01, scale=1 / (1 + 1e-6)), (300.0,)),
    ],
    ids=["Normal", "Laplace", "Logistic", "StudentT", "Exponential", "Gamma"],
)
def test_the_tails_are_exact_and_have_gradients(family, law, places):
    params = torch.zeros(family.num_params, dtype=torch.float64, requires_grad=True)
    for low in places:
        found = family.interval_log_prob(params, low, low + 0.5)
        with mpmath.workdps(40):
            tail = min((law.logcdf, law.logsf), key=lambda tail: tail(low))
            ends = [mpmath.exp(mpmath.mpf(float(tail(x)))) for x in (low, low + 0.5)]
            expected = float(mpmath.log(abs(ends[1] - ends[0])))
        assert found.item() == pytest.approx(expected, rel=1e-9)
        (slope,) = torch.autograd.grad(found, params)
        assert slope.isfinite().all()
        assert slope.abs().max() > 0.1


@pytest.mark.parametrize(
    "family",
    [
        fam.Truncated(fam.Normal(), -1.0, 2.0),
        fam.Truncated(fam.Normal(), low=12.0),
        fam.Truncated(fam.Normal(), high=-12.0),
        fam.Truncated(fam.Mixture(fam.Logistic(), 2), 0.0, 1.0),
        fam.Truncated(fam.LogNormal(), -1.0, 2.0),
    ],
    ids=str,
)
def test_truncated_draws_follow_a_density_that_integrates_to_one(family, float64):
    params = 0.3 * torch.randn(family.num_params)
    low, high = family._inner_ends
    x = torch.linspace(max(low, -13.0), min(high, 13.0), 200_001)[1:-1]
    total = torch.trapezoid(family.log_prob(params, x).exp(), x)
    torch.testing.assert_close(total, torch.tensor(1.0), rtol=1e-3, atol=1e-3)
    draws = family.sample(params.expand(5000, -1))
    assert_cdf(family.cdf(params, draws))
    outside = torch.tensor([low - 1, high + 1])
    assert (family.log_prob(params, outside[outside.isfinite()]) == -torch.inf).all()


@pytest.mark.parametrize(("low", "high"), [(1, torch.inf), (2, 6), (0, 0)])
@pytest.mark.parametrize("inner", [fam.Poisson(), fam.NegativeBinomial()], ids=str)
def test_truncated_counts_are_the_counts_renormalized(inner, low, high, float64):
    family = fam.Truncated(inner, low, high)
    params = torch.randn(20, 1, inner.num_params).requires_grad_()
    counts = torch.arange(400.0)
    inside = (counts >= low) & (counts <= high)
    scores = inner.log_prob(params, counts)
    expected = scores[:, inside] - scores[:, inside].logsumexp(-1, keepdim=True)
    found = family.log_prob(params, counts)
    torch.testing.assert_close(found[:, inside], expected, rtol=1e-6, atol=1e-6)
    assert (found[:, ~inside] == -torch.inf).all()
    slopes = [
        torch.autograd.grad(part[:, 0].sum(), params)[0] for part in (found[:, inside], expected)
    ]
    torch.testing.assert_close(*slopes, rtol=1e-5, atol=1e-6)


def test_counts_with_a_long_tail_far_above_the_mass_have_the_mass_of_the_interval(float64):
    inner = fam.Rounded(
        fam.Transformed(fam.Normal(), [AffineTransform(-40.0, 4.0), ExpTransform()])
    )
    params = torch.zeros(2, requires_grad=True)
    found = fam.Truncated(inner, low=3).log_prob(params, torch.tensor(3.0))
    expected = inner.log_prob(params, torch.tensor(3.0)) - inner.interval_log_prob(
        params, 3, torch.inf
    )
    torch.testing.assert_close(found, expected)
    slopes = [torch.autograd.grad(part, params)[0] for part in (found, expected)]
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("inner", [fam.Poisson(), fam.NegativeBinomial()], ids=str)
@pytest.mark.parametrize("low", [1, 3, 20, 60])
def test_counts_far_above_the_mass_are_normalized(inner, low, float64):
    params = torch.linspace(-25, 3, 30).unsqueeze(-1).expand(30, inner.num_params)
    params = params.clone().requires_grad_()
    scores = fam.Truncated(inner, low=low).log_prob(params.unsqueeze(1), low + torch.arange(2000.0))
    total = scores.logsumexp(-1)
    torch.testing.assert_close(total, torch.zeros(30), rtol=0, atol=1e-6)
    (slope,) = torch.autograd.grad(total.sum(), params)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-5)


def test_rounded_values_have_the_mass_of_their_interval(float64):
    inner = fam.Transformed(
        fam.Mixture(fam.Normal(), 2), [ExpTransform(), AffineTransform(-0.5, 1)]
    )
    family = fam.Rounded(inner)
    assert family.support.lower_bound == 0
    params = 0.3 * torch.randn(6)
    counts = torch.arange(2000.0)
    expected = inner.cdf(params, counts + 0.5) - inner.cdf(params, counts - 0.5)
    torch.testing.assert_close(family.log_prob(params, counts).exp(), expected)
    draws = family.sample(params.expand(20_000, -1))
    assert torch.equal(draws, draws.round())
    assert (draws == 0).double().mean().item() == pytest.approx(expected[0].item(), abs=0.02)
    uniform = torch.rand(500)
    value = family.icdf(params, uniform)
    assert (family.cdf(params, value) >= uniform).all()
    assert (family.cdf(params, value - 1) < uniform).all()


@pytest.mark.parametrize("loc", [-30.0, -1e4])
def test_draws_within_limits_far_from_the_mass_follow_its_tail(loc):
    uniform = torch.linspace(0.05, 0.95, 19)
    expected = -torch.log1p(-uniform) / -loc  # up to the curvature of the tail
    found = Limited(fam.Normal()).icdf(torch.tensor([loc, 0.0, 0.0, 1.0]), uniform)
    torch.testing.assert_close(found, expected, rtol=3 / loc**2 + 1e-5, atol=0)
    found = fam.Truncated(fam.Normal(), 0.0, 1.0).icdf(torch.tensor([loc, 0.0]), uniform)
    torch.testing.assert_close(found, expected, rtol=3 / loc**2 + 1e-5, atol=0)
