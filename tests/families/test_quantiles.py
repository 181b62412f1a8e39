"""CDFs of families and their inverses, against scipy and against each other."""

import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from table import FAMILIES
from torch.distributions import AffineTransform, ExpTransform, SigmoidTransform

import ardist as ad
from ardist import families as fam
from ardist.families.quantiles import of_counts
from ardist.families.restricted import Limited

DISCRETE = [
    fam.Bernoulli(),
    fam.Categorical(7),
    fam.DiscretizedLogisticMixture(3, bins=16),
    fam.Poisson(),
    fam.Geometric(),
    fam.NegativeBinomial(),
    fam.Tempered(fam.Categorical(7), 0.5),
    fam.TopK(fam.Categorical(7), 3),
    fam.Nucleus(fam.DiscretizedLogisticMixture(3, bins=16), 0.7),
    fam.Mixture(fam.Poisson(), 2),
    fam.Mixture(fam.Categorical(5), 2),
    fam.Parametric(dist.Binomial, fixed={"total_count": 9}),
    fam.Relaxed(fam.Bernoulli(), 0.5, straight_through=True),
]
CONTINUOUS = [
    *(family for family in FAMILIES.values() if family.has_cdf and not family.support.is_discrete),
    *(fam.Mixture(f(), 3) for f in (fam.Gamma, fam.LogNormal, fam.StudentT, fam.Exponential)),
    fam.Mixture(fam.Relaxed(fam.Bernoulli(), 0.5), 2),
    fam.Transformed(fam.StudentT(), [AffineTransform(0.0, 0.1), SigmoidTransform()]),
    fam.Transformed(fam.Mixture(fam.Normal(), 2), [AffineTransform(1.0, -2.0), ExpTransform()]),
    *map(fam.Parametric, (dist.Gamma, dist.HalfNormal, dist.HalfCauchy, dist.Weibull)),
    fam.Parametric(dist.Pareto, fixed={"scale": 2.0}),
]


def _scipy(family, params):
    """The same distributions of scipy."""
    made = family(torch.as_tensor(params))
    names = {
        fam.Normal: (stats.norm, "loc", "scale"),
        fam.Laplace: (stats.laplace, "loc", "scale"),
        fam.Logistic: (stats.logistic, "loc", "scale"),
        fam.StudentT: (stats.t, "df", "loc", "scale"),
        fam.Beta: (stats.beta, "concentration1", "concentration0"),
        fam.Poisson: (stats.poisson, "rate"),
    }
    if type(family) in names:
        make, *parts = names[type(family)]
        return make(*(getattr(made, part).numpy() for part in parts))
    if isinstance(family, fam.LogNormal):
        return stats.lognorm(made.scale.numpy(), scale=made.loc.exp().numpy())
    if isinstance(family, fam.Gamma):
        return stats.gamma(made.concentration.numpy(), scale=1 / made.rate.numpy())
    if isinstance(family, fam.Exponential):
        return stats.expon(scale=1 / made.rate.numpy())
    if isinstance(family, fam.Geometric):
        return stats.geom(made.probs.numpy(), loc=-1)
    return stats.nbinom(made.total_count.numpy(), 1 - made.probs.numpy())


NAMED = [
    *(fam.Normal(), fam.Laplace(), fam.Logistic(), fam.StudentT(), fam.LogNormal(), fam.Gamma()),
    *(fam.Beta(), fam.Exponential(), fam.Poisson(), fam.NegativeBinomial(), fam.Geometric()),
]


@pytest.mark.parametrize("family", NAMED, ids=str)
@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_cdfs_are_scipys(family, spread, float64):
    params = spread * torch.randn(500, family.num_params)
    value = family.sample(params)
    reference = _scipy(family, params)
    expected = torch.from_numpy(reference.cdf(value.numpy()))
    torch.testing.assert_close(family.cdf(params, value), expected, rtol=1e-7, atol=1e-9)
    uniform = torch.rand(500)
    found, expected = family.icdf(params, uniform), torch.from_numpy(reference.ppf(uniform.numpy()))
    if family.support.is_discrete:
        assert torch.equal(found, expected.clamp(min=0))
    else:
        inside = (expected > 1e-300) & (expected < 1e300)
        torch.testing.assert_close(found[inside], expected[inside], rtol=1e-7, atol=1e-10)
    for result in (family.cdf(params[0], value[:3]), family.icdf(params[0], uniform[:3])):
        assert result.shape == (3,)


@pytest.fixture(params=[torch.float32, torch.float64], ids=str)
def dtype(request):
    """A dtype, which is the default one during the test."""
    torch.set_default_dtype(request.param)
    return request.param


@pytest.mark.parametrize("family", CONTINUOUS, ids=str)
def test_a_cdf_and_its_inverse_undo_each_other(family, dtype):
    assert family.has_cdf
    params = torch.randn(500, family.num_params, dtype=dtype)
    uniform = 0.01 + 0.98 * torch.rand(500, dtype=dtype)
    value = family.icdf(params, uniform)
    assert value.dtype == dtype
    assert family.support.check(value).all()
    # Between neighboring numbers a steep CDF makes a leap.
    steps = 4 * torch.finfo(dtype).eps * value.abs() * family.log_prob(params, value).exp()
    tolerance = steps + (1e-10 if dtype == torch.float64 else 1e-6)
    assert ((family.cdf(params, value) - uniform).abs() <= tolerance).all()


@pytest.mark.parametrize("family", CONTINUOUS, ids=str)
def test_the_slopes_of_a_cdf_are_right(family, float64):
    params = torch.randn(20, family.num_params)
    value = family.icdf(params, 0.1 + 0.8 * torch.rand(20)).requires_grad_()
    (slope,) = torch.autograd.grad(family.cdf(params, value).sum(), value)
    torch.testing.assert_close(slope, family.log_prob(params, value).exp(), rtol=1e-6, atol=1e-9)
    if not family.has_cdf_gradient:
        return
    params.requires_grad_()
    (found,) = torch.autograd.grad(family.cdf(params, value).sum(), params)
    along = torch.randn_like(params)
    with torch.no_grad():
        above, below = (family.cdf(params + h * along, value) for h in (1e-5, -1e-5))
    # Of torch's gradients of Gamma and Beta draws a few digits are right.
    expected = (above - below) / 2e-5
    torch.testing.assert_close((found * along).sum(-1), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", DISCRETE, ids=str)
def test_a_discrete_cdf_is_a_sum_and_its_inverse_the_first_value_to_reach(family, dtype):
    assert family.has_cdf
    params = torch.randn(200, family.num_params, dtype=dtype)
    states = family.enumerate_support()
    if states is None:
        states = torch.arange(400.0)
    states = states if family.is_index else states.to(dtype)
    sums = family.log_prob(params.unsqueeze(1), states).exp().cumsum(-1)
    found = family.cdf(params.unsqueeze(1), states)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(found, sums, rtol=0, atol=tolerance)
    assert (family.cdf(params, torch.full((200,), -1)).abs() == 0).all()
    uniform = torch.rand(200, dtype=dtype)
    value = family.icdf(params, uniform)
    assert value.dtype == states.dtype
    assert (family.cdf(params, value) >= uniform - tolerance).all()
    assert (family.cdf(params, value - 1) < uniform + tolerance).all()
    assert family.log_prob(params, value).isfinite().all()


def test_a_search_among_counts_is_the_same_in_graphs():
    """As of a step of `Truncated` counts, which takes much longer to record."""

    class Search(torch.nn.Module):
        def forward(self, uniform):
            return of_counts(lambda value: 1 - 0.9 ** (value + 1).clamp(min=0), uniform)

    search, uniform = Search(), torch.cat((torch.tensor([0.0, 1e-30, 1.0]), torch.rand(100)))
    recorded = ad.export.record(search, (torch.rand(5),)).module()
    for function in (recorded, torch.func.vmap(search)):
        assert torch.equal(function(uniform), search(uniform))


def test_values_without_probability_are_never_reached():
    family, params = fam.TopK(fam.Categorical(6), 2), torch.tensor([0.0, 9.0, 0.0, 9.0, 0.0, 0.0])
    uniform = torch.tensor([0.0, 1e-30, 0.49, 0.51, 1 - 2**-24, 1.0])
    assert family.icdf(params, uniform).tolist() == [1, 1, 1, 3, 3, 3]


WITH_CDF = [*DISCRETE, *CONTINUOUS]


@pytest.mark.parametrize("family", WITH_CDF, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_cdf_is_zero_below_the_support_and_one_above_it(family, dtype):
    params = torch.randn(20, family.num_params, dtype=dtype).requires_grad_()
    lower, upper = family._ends.lower, family._ends.upper
    for below in {-torch.inf, lower - 1, -1e30}:
        found = family.cdf(params, torch.tensor(below, dtype=dtype))
        if below < lower or below == -torch.inf:
            assert (found == 0).all()
    for above in {torch.inf, upper + 1, 1e30}:
        found = family.cdf(params, torch.tensor(above, dtype=dtype))
        if above > upper or above == torch.inf:
            assert (found == 1).all()
    if not family.support.is_discrete:  # and at its ends, near which half of the mass may be
        for end, expected in ((lower, 0.0), (upper, 1.0)):
            found = family.cdf(20 * params, torch.tensor(end, dtype=dtype))
            assert (found == expected).all()
    value = family.sample(params)
    value = torch.where(torch.arange(20) < 5, -torch.inf, value.to(dtype))
    found = family.cdf(params, value)
    assert ((found >= 0) & (found <= 1)).all()
    if family.has_cdf_gradient:
        (slope,) = torch.autograd.grad(found.sum(), params)
        assert slope.isfinite().all()
        assert (slope[:5] == 0).all()


FAR = [
    *((family, 1.0) for family in WITH_CDF),
    (fam.Mixture(fam.Normal(), 2), 1e4),
    (fam.Mixture(fam.StudentT(), 2), 1e4),
    (fam.StudentT(), 1e4),
    (fam.Parametric(dist.Gumbel), 30.0),
    (fam.Poisson(), 1e4),
    (fam.Poisson(), 1e9),
    (fam.Gamma(), 1e3),
    (fam.Beta(), 1e3),
    (fam.NegativeBinomial(), 5.0),
]


@pytest.mark.parametrize(("family", "size"), FAR, ids=str)
def test_a_cdf_reaches_the_uniform_first_at_its_inverse_which_is_monotone(family, size):
    params = size * torch.randn(20, 1, family.num_params)
    if isinstance(family, fam.Parametric):
        params[..., 1:] = params[..., 1:].clamp(-3, 3)  # through exp
    uniform = torch.cat((torch.rand(20, 15), torch.tensor([1e-6, 1 - 1e-6]).expand(20, 2)), 1)
    uniform = uniform.sort(-1).values
    value = family.icdf(params, uniform)
    assert family.inside(value).all()
    assert (value.diff(dim=-1) >= -4e-6 * value[..., 1:].abs()).all()
    found = family.cdf(params, value)
    if family.is_index:
        before = value - 1
    else:
        before = torch.nextafter(value, torch.tensor(-torch.inf))
        after = torch.nextafter(value, torch.tensor(torch.inf))
    step = (
        8 * (family.cdf(params, after) - family.cdf(params, before)) if not family.is_index else 0
    )
    reach = 1e-6 + (0 if family.support.is_discrete else step)
    lower, upper = family._ends.within(torch.float32)
    # torch keeps the sigmoid two units in the last place below one.
    assert ((found >= uniform - reach) | (value >= upper * (1 - 3e-7))).all()
    assert ((family.cdf(params, before) <= uniform + reach) | (value <= lower)).all()


BELOW_ZERO = [
    fam.Rounded(fam.Transformed(fam.Normal(), AffineTransform(-40.0, 6.0))),
    fam.Mixture(fam.Rounded(fam.Transformed(fam.Normal(), AffineTransform(-40.0, 6.0))), 2),
    fam.Hurdle((-2.0, 0.0), fam.Transformed(fam.Normal(), AffineTransform(0.5, 0.4))),
    fam.Hurdle((-3.0,), fam.Rounded(fam.Transformed(fam.Normal(), AffineTransform(0.0, 5.0)))),
]


@pytest.mark.parametrize(
    "family",
    [*BELOW_ZERO, *(f for f in FAMILIES.values() if f.has_cdf and f.enumerate_support() is None)],
    ids=str,
)
def test_draws_within_limits_are_those_of_the_family(family, float64):
    params = torch.zeros(4000, family.num_params)
    draws = family.sample(params)
    low, high = draws.quantile(0.2), draws.quantile(0.8)
    limited = Limited(family)
    inside = limited.sample(torch.cat((params, torch.stack((low, high)).expand(4000, 2)), -1))
    assert ((low <= inside) & (inside <= high)).all()
    kept = draws[(low <= draws) & (draws <= high)]
    at = kept.quantile(torch.tensor([0.0, 0.25, 0.5, 0.75]))
    expected = (kept.unsqueeze(-1) <= at).double().mean(0)
    torch.testing.assert_close(
        (inside.unsqueeze(-1) <= at).double().mean(0), expected, rtol=0, atol=0.05
    )


def test_quantiles_of_the_laplace_reach_far_into_the_tail(float64):
    uniform = torch.tensor([1e-300, 1e-60, 0.3, 0.9])
    expected = torch.from_numpy(stats.laplace.ppf(uniform.cpu().numpy()))
    found = fam.Laplace().icdf(torch.zeros(2), uniform)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=0)
