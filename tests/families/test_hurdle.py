"""Point masses and a family."""

import pytest
import torch
from laws import assert_frequencies

from ardist import families as fam
from ardist.families.restricted import Limited


def test_a_hurdle_is_a_mixture_of_two_measures(float64):
    family = fam.Hurdle((0.0, 2.0), fam.LogNormal())
    params = torch.randn(30, 1, family.num_params)
    weights = params[..., :3].softmax(-1)
    value = torch.tensor([0.0, 2.0, 1.0, 3.5])
    scores = family.log_prob(params, value).exp()
    torch.testing.assert_close(scores[:, :2], weights[:, 0, :2])
    density = fam.LogNormal().log_prob(params[..., 3:], value[2:]).exp()
    torch.testing.assert_close(scores[:, 2:], weights[..., 2] * density)
    mass = family.mass(params, value)
    torch.testing.assert_close(mass[:, :2], weights[:, 0, :2])
    assert (mass[:, 2:] == 0).all()


def test_counts_are_zero_inflated(float64):
    family = fam.Hurdle((0.0, -1.0), fam.Poisson())
    params, counts = torch.randn(10, 1, 4), torch.arange(-1.0, 60.0)
    weights = params[..., :3].softmax(-1)
    expected = weights[..., 2] * fam.Poisson().log_prob(params[..., 3:], counts.clamp(min=0)).exp()
    expected[:, 0] = weights[:, 0, 1]
    expected[:, 1] += weights[:, 0, 0]
    torch.testing.assert_close(family.log_prob(params, counts).exp(), expected)
    torch.testing.assert_close(
        family.interval_log_prob(params, 0.0, 3.0).exp(), expected[:, 1:5].sum(1, keepdim=True)
    )
    draws = family.sample(params[0].expand(20_000, -1))
    assert_frequencies((draws.unsqueeze(-1) == counts).sum(0), expected[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_draw_is_exactly_a_point(dtype):
    family = fam.Hurdle((0.0, 0.1), fam.LogNormal())
    params = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0], dtype=dtype).expand(2000, -1)
    draws = family.sample(params)
    share = family._is_point(draws).double().mean(0)
    assert ((share - 0.42).abs() < 0.06).all()
    assert family.log_prob(params, draws).isfinite().all()


TENTH = fam.Hurdle((0.1, 1.0), fam.LogNormal())  # 0.1 is another number in each dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    "family",
    [
        TENTH,
        fam.Mixture(TENTH, 2),
        fam.Independent(fam.Mixture(TENTH, 2), (2,)),
        fam.Mixture(fam.Independent(TENTH, (2,)), 2),
        fam.Mixture(fam.Hurdle((0.3,), TENTH), 2),
        Limited(TENTH),
    ],
    ids=str,
)
def test_a_point_is_the_same_in_all_dtypes(family, dtype):
    params = torch.linspace(0.5, 1.0, family.num_params, dtype=torch.float64)
    if isinstance(family, Limited):
        params[-2], params[-1] = 0.1, 7.0
    value = torch.full(family.event_shape, 0.1, dtype=torch.float64)
    expected, params = family.log_prob(params, value), params.to(dtype)
    found = family.log_prob(params, value.to(dtype))
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), expected, rtol=8 * eps, atol=8 * eps)
    if family.has_cdf:
        jump = family.cdf(params, value.to(dtype)) - family.cdf(params, value.to(dtype) * 0.9)
        assert jump > 0.1
    draws = family.sample(params.expand(2000, -1))
    assert family.inside(draws).all()
    assert family._is_atom(draws).any()
    assert family.log_prob(params, draws).isfinite().all()


def test_draws_that_round_to_an_end_are_moved_inside_another_family():
    for family in (fam.Mixture(TENTH, 1), fam.Independent(TENTH, (1,))):
        wanted = torch.zeros(family.num_params, dtype=torch.float16)
        wanted[-2] = -30.0  # the location of a LogNormal
        assert family.inside(family.sample(wanted.expand(500, -1))).all()


def test_quantiles_stop_at_points(float64):
    family = fam.Hurdle((0.0,), fam.Normal())
    params = torch.zeros(4)
    uniform = torch.tensor([0.1, 0.3, 0.7, 0.9])
    value = family.icdf(params, uniform)
    assert value[1:3].tolist() == [0.0, 0.0]
    torch.testing.assert_close(family.cdf(params, value)[[0, 3]], uniform[[0, 3]])


def test_a_point_among_counts_adds_no_probability(float64):
    family = fam.Hurdle((0.5, 2.0), fam.Poisson())
    values = torch.cat((torch.arange(60.0), torch.tensor([0.5])))
    params = torch.randn(10, 1, 4)
    scores = family.log_prob(params, values)
    torch.testing.assert_close(scores.exp().sum(-1), torch.ones(10))
    torch.testing.assert_close(scores[:, -1], params[:, 0, :3].log_softmax(-1)[:, 0])


def test_integers_are_not_compared_with_points_as_integers():
    family = fam.Hurdle((0.5, 3.0), fam.LogNormal())
    assert family.inside(torch.tensor([-1, 0, 1, 3])).tolist() == [False, False, True, True]
    assert family._is_atom(torch.tensor([-1, 0, 1, 3])).tolist() == [False, False, False, True]


SPIKED = fam.Hurdle((0.0,), fam.Normal())
NESTED = [
    fam.Mixture(SPIKED, 2),
    fam.Hurdle((1.0, 0.0), SPIKED),
    fam.Hurdle((1.0,), fam.Mixture(SPIKED, 2)),
]


@pytest.mark.parametrize("family", NESTED, ids=str)
def test_a_hurdle_inside_another_family_keeps_its_two_measures(family, float64):
    params, least = torch.randn(10, family.num_params), 1e-9
    for point in (0.0, 1.0):
        value = torch.tensor(point)
        jump = family.cdf(params, value) - family.cdf(params, value - least)
        torch.testing.assert_close(family.mass(params, value), jump, rtol=0, atol=1e-8)
    for low, high in ((0.3, 0.4), (-0.2, 0.0), (-1.5, 2.5)):
        found = family.interval_log_prob(params, low, high).exp()
        ends = (family.cdf(params, torch.tensor(end)) for end in (low - least, high))
        torch.testing.assert_close(-found, next(ends) - next(ends), rtol=0, atol=1e-8)
    uniform = torch.rand(10)
    quantile = family.icdf(params, uniform)
    assert (family.cdf(params, quantile) >= uniform).all()
    assert (family.cdf(params, quantile - least) < uniform).all()
    assert (family.mass(params, torch.tensor(0.3)) == 0).all()


def test_only_points_of_independent_hurdles_have_mass():
    family = fam.Independent(SPIKED, (2,))
    mass = family.mass(torch.zeros(8), torch.tensor([[0.0, 0.0], [0.0, 1.0]]))
    assert mass.tolist() == [0.25, 0.0]


def test_only_the_point_within_an_interval_has_mass():
    params = torch.tensor([0.0, 0.0, 0.0, 0.0, -1.0, 2.0])  # and both ends
    mass = Limited(SPIKED).mass(params, torch.tensor([0.0, 0.5]))
    assert mass[0] > 0.5
    assert mass[1] == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_an_interval_that_ends_at_a_point_has_its_mass(dtype):
    inner, end = fam.Hurdle((0.1, 0.2), fam.Normal()), torch.tensor([0.1, 0.2], dtype=dtype)
    for family in (inner, fam.Mixture(inner, 2)):
        params = torch.zeros(family.num_params, dtype=torch.float64)
        reached = torch.tensor([1.0, 2.0]) + torch.special.ndtr(torch.tensor([0.1, 0.2]))
        for low, high, expected in (
            (-torch.inf, end, reached / 3),
            (end, torch.inf, (4 - reached) / 3),
            (end, end, torch.ones(2) / 3),
        ):
            found = family.interval_log_prob(params, low, high).exp().float()
            torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("inner", [fam.Poisson(), SPIKED, fam.Mixture(SPIKED, 2), fam.Normal()])
def test_within_limits_there_is_nothing_below_the_lower_one(inner, float64):
    params = torch.cat((torch.zeros(inner.num_params), torch.tensor([0.0, 3.0]))).requires_grad_()
    family = Limited(inner)
    found = family.cdf(params, torch.tensor([-7.0, -0.1, 3.0, 4.0]))
    assert found.tolist() == [0, 0, 1, 1]
    if inner.has_cdf_gradient:
        assert torch.autograd.grad(found.sum(), params)[0].isfinite().all()
    at_end, mass = family.cdf(params, torch.tensor(0.0)), family.mass(params, torch.tensor(0.0))
    torch.testing.assert_close(at_end, mass)


@pytest.mark.parametrize("point", [-7.0, -0.3])
def test_limits_may_be_around_a_point_and_the_end_of_the_family(point, float64):
    family, uniform = fam.Hurdle((point,), fam.LogNormal()), torch.linspace(0.01, 0.99, 99)
    params, low, high = torch.zeros(4), torch.tensor(-8.0), torch.tensor(0.7)
    found = Limited(family).icdf(torch.cat((params, torch.stack((low, high)))), uniform)
    expected = family.icdf(params, uniform * family.cdf(params, high))
    torch.testing.assert_close(found, expected)


def test_intervals_in_half_precision_keep_their_dtype():
    params = torch.zeros(4, dtype=torch.bfloat16)
    assert SPIKED.interval_log_prob(params, -1.0, 1.0).dtype is torch.bfloat16
