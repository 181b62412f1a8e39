"""Families: draws inside the support, finite scores and gradients, agreement with torch."""

import copy
import math

import pyro.distributions as dist
import pytest
import torch
from laws import assert_cdf
from scipy.stats import beta
from table import FAMILIES, VECTORS, build, condition
from torch.distributions import (
    AffineTransform,
    SigmoidTransform,
    SoftplusTransform,
    TanhTransform,
    constraints,
)

from ardist import families as fam

ALL = {**FAMILIES, **VECTORS}
families = pytest.mark.parametrize("family", ALL.values(), ids=ALL.keys())
named = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())

DRAWS = 100_000


@named
def test_extreme_parameters_give_finite_numbers_inside_the_support(family):
    """100,000 conditionals with raw parameters from N(0, 3^2), in float32."""
    params = (3 * torch.randn(DRAWS, family.num_params)).requires_grad_()
    value = family.sample(params)
    assert value.shape == (DRAWS,)
    assert family.support.check(value).all()
    score = family.log_prob(params, value)
    assert score.isfinite().all()
    (gradient,) = torch.autograd.grad(score.sum(), params)
    assert gradient.isfinite().all()
    assert family.features(value).isfinite().all()
    assert family.features(value).abs().max() < 100


WILD = [
    *(fam.MultivariateNormal(size) for size in (1, 3, 32)),
    *(fam.LowRankMultivariateNormal(*sizes) for sizes in ((1, 1), (3, 2), (200, 20))),
    *(fam.Dirichlet(size) for size in (1, 3, 1000)),
    *(fam.OneHotCategorical(size) for size in (1, 30)),
    fam.TopK(fam.Categorical(30), 4),
    fam.TopK(fam.OneHotCategorical(5), 2),
    fam.TopK(fam.DiscretizedLogisticMixture(3, 16), 3),
    fam.Nucleus(fam.Categorical(30), 0.9),
    fam.Nucleus(fam.TopK(fam.Tempered(fam.Categorical(65), 0.8), 40), 0.9),
    fam.Tempered(fam.Laplace(), 3.0),
    fam.Tempered(fam.DiscretizedLogisticMixture(3, 16), 0.3),
    fam.Tempered(fam.Independent(fam.Bernoulli(), (4,)), 0.1),
    *(fam.Spline(bins) for bins in (1, 8, 64)),
    fam.Mixture(fam.Spline(5), 4),
    fam.Transformed(fam.Normal(), AffineTransform(3.0, -2.0)),
    fam.Transformed(fam.Normal(), [TanhTransform(), AffineTransform(0.0, 100.0)]),
    fam.Transformed(fam.Laplace(), SoftplusTransform()),
    fam.Transformed(fam.Mixture(fam.Logistic(), 3), SigmoidTransform()),
]


@pytest.mark.parametrize("family", WILD, ids=str)
def test_wild_parameters_give_finite_draws_scores_and_gradients(family):
    """Raw parameters from N(0, 10^2), in float32."""
    params = (10 * torch.randn(500, family.num_params)).requires_grad_()
    value = family.sample(params)
    assert family.support.check(value).all()
    assert family.features(value).isfinite().all()
    score = family.log_prob(params, value)
    assert score.isfinite().all()
    (gradient,) = torch.autograd.grad(score.sum(), params)
    assert gradient.isfinite().all()
    if family.has_rsample:
        draw = family.rsample(params)
        (gradient,) = torch.autograd.grad((draw * torch.randn_like(draw)).sum(), params)
        assert gradient.isfinite().all()


@families
def test_fused_scores_are_those_of_the_distribution(family, float64):
    params = 2 * torch.randn(500, family.num_params)
    value = family.sample(params)
    expected = family(params).log_prob(value)
    torch.testing.assert_close(family.log_prob(params, value), expected, rtol=1e-6, atol=1e-7)


@families
def test_shapes(family):
    params = torch.randn(4, 3, family.num_params)
    assert family(params).batch_shape == (4, 3)
    assert family(params).event_shape == family.event_shape
    value = family.sample(params)
    assert value.shape == (4, 3, *family.event_shape)
    assert family.log_prob(params, value).shape == (4, 3)
    assert family.log_prob(params, value[:1]).shape == (4, 3)
    assert family.log_prob(params[:1], value).shape == (4, 3)
    features = family.features(value)
    assert features.shape == (4, 3, family.num_features)
    weight, bias = torch.randn(7, family.num_features), torch.randn(7)
    projected = family.project(value, weight, bias)
    torch.testing.assert_close(projected, features @ weight.T + bias, rtol=1e-4, atol=1e-5)
    assert family.support.event_dim == len(family.event_shape)
    if family.has_noise:
        noise = family.noise((4, 3))
        assert noise.shape == (4, 3, *family.noise_shape)
        assert family.from_noise(params, noise).shape == value.shape
    if family.has_rsample:
        assert family.rsample(params.requires_grad_()).requires_grad


@families
def test_values_are_compared_by_value(family):
    again = {**FAMILIES, **VECTORS}
    same = [other for other in again.values() if other == family]
    assert same == [family]
    assert len({family, *same}) == 1


@pytest.mark.parametrize(
    "family",
    [
        *(fam.Mixture(f, 3) for f in (fam.Normal(), fam.Laplace(), fam.Logistic())),
        fam.Mixture(fam.LogNormal(), 2),
        fam.Mixture(fam.Exponential(), 2),
        fam.Spline(3),
        fam.Mixture(fam.Spline(3), 2),
        fam.Transformed(fam.Normal(), SigmoidTransform()),
        fam.Exponential(),
        fam.Gamma(),
        fam.Beta(),
    ],
    ids=str,
)
def test_rsample_has_the_gradient_of_the_expectation(family, float64):
    """d/d params E[f(x)], by draws and by quadrature over the density."""
    params = (0.5 * torch.randn(family.num_params)).requires_grad_()

    def function(x):
        return (x / (1 + x.square())).sin()

    draws = function(family.rsample(params.expand(200_000, -1)))
    (found,) = torch.autograd.grad(draws.mean(), params)
    transform = torch.distributions.biject_to(family.support)
    u = torch.linspace(-40, 40, 400_001)
    x = transform(u)
    weight = transform.log_abs_det_jacobian(u, x)
    inside = (x > 0) & (x < 1) if family.support is constraints.unit_interval else x.isfinite()
    x, weight = x[inside], weight[inside]
    integral = (function(x) * (family.log_prob(params, x) + weight).exp()).sum() * 80 / 400_000
    (expected,) = torch.autograd.grad(integral, params)
    torch.testing.assert_close(found, expected, rtol=0, atol=6e-3)


def test_a_mixture_is_torchs_mixture(float64):
    family = fam.Mixture(fam.Normal(), 4)
    params = torch.randn(50, family.num_params)
    reference = dist.MixtureSameFamily(
        dist.Categorical(logits=params[:, :4]), fam.Normal()(params[:, 4:].unflatten(-1, (4, 2)))
    )
    x = torch.randn(50)
    torch.testing.assert_close(family.log_prob(params, x), reference.log_prob(x))
    torch.testing.assert_close(family.cdf(params, x), reference.cdf(x))


@pytest.mark.parametrize("bins", [2, 17, 256])
def test_discretized_logistics_are_normalized_and_safe_in_the_tails(bins):
    family = fam.DiscretizedLogisticMixture(3, bins)
    params = 6 * torch.randn(1000, 1, family.num_params)
    scores = family.log_prob(params, torch.arange(bins))
    assert scores.isfinite().all()
    torch.testing.assert_close(scores.logsumexp(-1), torch.zeros(1000), rtol=0, atol=1e-4)


def test_discretized_logistics_are_differences_of_the_cdf(float64):
    family = fam.DiscretizedLogisticMixture(1, 5)
    params = torch.tensor([0.0, 0.3, 1.0])
    scale = torch.tensor(1 + 2 ** (1.0 - 2)).log2() + 0.01 / 5
    edges = torch.tensor([-math.inf, -0.75, -0.25, 0.25, 0.75, math.inf])
    mass = torch.sigmoid((edges - 0.3) / scale).diff()
    torch.testing.assert_close(family.log_prob(params, torch.arange(5)).exp(), mass)


GAUSSIANS = [fam.MultivariateNormal(4), fam.LowRankMultivariateNormal(4, rank=2)]
gaussians = pytest.mark.parametrize("family", GAUSSIANS, ids=str)


@gaussians
def test_gaussian_draws_have_the_covariance_of_the_distribution(family, float64):
    params = torch.randn(family.num_params)
    draws = family.sample(params.expand(DRAWS, -1))
    expected = family(params)
    scale = expected.covariance_matrix.diagonal().sqrt()
    error = (draws.mean(0) - expected.mean) / scale
    torch.testing.assert_close(error, torch.zeros(4), rtol=0, atol=0.02)
    error = (draws.T.cov() - expected.covariance_matrix) / scale.outer(scale)
    torch.testing.assert_close(error, torch.zeros(4, 4), rtol=0, atol=0.02)


@gaussians
def test_gaussian_marginals_are_those_of_the_part_of_the_covariance(family, float64):
    """A mask a row, each of the 16 that there are."""
    mask = torch.cartesian_prod(*[torch.tensor([False, True])] * 4)
    params = torch.randn(3, 1, family.num_params).requires_grad_()
    value = torch.randn(3, 16, 4)
    found = family.marginal_log_prob(params, value, mask)
    whole = family(params)
    for row, kept in enumerate(mask):
        covariance = whole.covariance_matrix[:, 0][:, kept][:, :, kept]
        part = dist.MultivariateNormal(whole.mean[:, 0, kept], covariance) if kept.any() else None
        expected = part.log_prob(value[:, row, kept]) if part else torch.zeros(3)
        torch.testing.assert_close(found[:, row], expected)
    torch.testing.assert_close(found[:, -1], family.log_prob(params, value)[:, -1])
    (gradient,) = torch.autograd.grad(found.sum(), params)
    assert gradient.isfinite().all()


@gaussians
def test_gaussian_draws_given_a_part_follow_the_conditional(family, float64):
    mask = torch.tensor([[True, False, False, True], [False, True, False, False], [False] * 4])
    params, value = torch.randn(family.num_params), torch.randn(3, 4)
    draws = family.sample_given(params, value.expand(DRAWS, 3, 4), mask)
    assert torch.equal(draws[..., mask], value[mask].expand(DRAWS, -1))
    whole = family(params)
    for row, kept in enumerate(mask):
        cross = whole.covariance_matrix[~kept][:, kept]
        gain = cross @ whole.covariance_matrix[kept][:, kept].inverse()
        mean = whole.mean[~kept] + gain @ (value[row] - whole.mean)[kept]
        covariance = whole.covariance_matrix[~kept][:, ~kept] - gain @ cross.T
        scale = covariance.diagonal().sqrt()
        drawn = draws[:, row, ~kept]
        error = (drawn.mean(0) - mean) / scale
        torch.testing.assert_close(error, torch.zeros_like(error), rtol=0, atol=0.02)
        error = (drawn.T.cov() - covariance) / scale.outer(scale)
        torch.testing.assert_close(error, torch.zeros_like(error), rtol=0, atol=0.02)


@gaussians
def test_wild_parameters_give_finite_marginals(family):
    params = (10 * torch.randn(2000, family.num_params)).requires_grad_()
    value, mask = family.sample(params), torch.rand(2000, 4) < 0.5
    score = family.marginal_log_prob(params, value, mask)
    assert score.isfinite().all()
    (gradient,) = torch.autograd.grad(score.sum(), params)
    assert gradient.isfinite().all()
    draws = family.sample_given(params, value, mask)
    assert draws.isfinite().all()
    assert torch.equal(draws[mask], value[mask])


def test_independent_elements_are_given_and_kept_one_by_one(float64):
    family = fam.Independent(fam.Categorical(3), (2, 2))
    params, value = torch.randn(5, 12), torch.randint(3, (5, 2, 2))
    mask = torch.rand(5, 2, 2) < 0.5
    each = fam.Categorical(3).log_prob(params.unflatten(-1, (2, 2, 3)), value)
    expected = (each * mask).sum((-1, -2))
    torch.testing.assert_close(family.marginal_log_prob(params, value, mask), expected)
    draws = torch.stack([family.sample_given(params, value, mask) for _ in range(50)])
    assert torch.equal(draws[:, mask], value[mask].expand(50, -1))
    assert (draws[:, ~mask] != draws[0, ~mask]).any(0).all()


def test_independent_vectors_may_be_cut(float64):
    family = fam.Independent(GAUSSIANS[0], (2,))
    params, value = torch.randn(family.num_params), torch.randn(2, 4)
    mask = torch.tensor([[True, False, True, False], [True] * 4])
    each = GAUSSIANS[0].marginal_log_prob(params.unflatten(-1, (2, -1)), value, mask)
    torch.testing.assert_close(family.marginal_log_prob(params, value, mask), each.sum())
    assert torch.equal(family.sample_given(params, value, mask)[mask], value[mask])
    family = fam.Independent(fam.Dirichlet(4), (2,))
    with pytest.raises(ValueError, match="mask: expected one that cuts no block"):
        family.marginal_log_prob(torch.randn(8), value, mask)


@pytest.mark.parametrize("concentration", [0.02, 0.3, 5.0])
def test_dirichlet_draws_follow_their_density_and_have_its_gradient(concentration, float64):
    raw = math.log2(2 ** (concentration - 0.01) - 1)  # the inverse of the link
    params = torch.full((2,), raw).requires_grad_()
    draws = fam.Dirichlet(2).rsample(params.expand(DRAWS, 2))[:, 0]
    (found,) = torch.autograd.grad(draws.mean(), params)
    distribution = fam.Dirichlet(2)(params)
    (expected,) = torch.autograd.grad(distribution.mean[0], params)
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0)
    # Those below one half: near one they round to it.
    lower = draws[:5000][draws[:5000] < 0.5]
    follows = beta(concentration, concentration)
    assert_cdf(lower, lambda x: follows.cdf(x) / follows.cdf(0.5))


def _sharper(power):
    return lambda p: p**power


def _largest(count):
    return lambda p: p * torch.zeros_like(p).scatter(0, p.topk(count).indices, 1.0)


def _of_mass(mass):
    def kept(p):
        order, total, result = p.argsort(descending=True), 0.0, torch.zeros_like(p)
        for state in order:
            if total < mass:
                result[state] = p[state]
            total += p[state].item()
        return result

    return kept


FINITE = [
    fam.Bernoulli(),
    fam.Categorical(6),
    fam.OneHotCategorical(5),
    fam.DiscretizedLogisticMixture(2, bins=7),
    fam.Mixture(fam.Categorical(5), 2),
    fam.Parametric(dist.Binomial, fixed={"total_count": 4}),
]
CUT = [
    *((fam.Tempered(family, 0.5), _sharper(2.0)) for family in FINITE),
    *((fam.TopK(family, 2), _largest(2)) for family in FINITE),
    *((fam.Nucleus(family, 0.6), _of_mass(0.6)) for family in FINITE),
    (fam.Tempered(fam.Categorical(6), 3.0), _sharper(1 / 3)),
    (fam.Tempered(fam.Tempered(fam.Categorical(6), 3.0), 0.5), _sharper(2 / 3)),
    (fam.TopK(fam.Categorical(6), 1), _largest(1)),
    (fam.TopK(fam.Categorical(6), 9), _largest(6)),
    (fam.Nucleus(fam.Categorical(6), 1.0), _largest(6)),
    (fam.Nucleus(fam.Categorical(6), 1e-9), _largest(1)),
]


def _normalized(p):
    return p / p.sum()


@pytest.mark.parametrize(("family", "expected"), CUT, ids=[str(family) for family, _ in CUT])
def test_finite_families_are_cut_and_sharpened(family, expected, float64):
    """Against the definition, state after state; draws against the scores."""
    inner = family.family
    while isinstance(inner, fam.Tempered):
        inner = inner.family
    states = inner.enumerate_support()
    states = states if inner.is_index else states.to(torch.float64)
    params = 2 * torch.randn(5, family.num_params)
    for row in params:
        full = inner.log_prob(row, states).exp()
        found = family.log_prob(row, states)
        torch.testing.assert_close(found.exp(), _normalized(expected(full)))
        torch.testing.assert_close(family(row).log_prob(states), found)
    for draws in (family.sample(row.expand(20_000, -1)), family(row).sample((20_000,))):
        assert draws.dtype == states.dtype
        same = (draws.unsqueeze(1) == states).reshape(len(draws), len(states), -1).all(-1)
        assert same.any(-1).all()
        p = found.exp()
        error = (same.double().mean(0) - p).abs()
        assert (error <= 5 * (p * (1 - p) / 20_000).sqrt()).all()


@pytest.mark.parametrize(
    "family",
    [family for family, _ in CUT if not isinstance(family, fam.Tempered)],
    ids=str,
)
def test_what_is_cut_has_no_probability_and_leaves_gradients_finite(family):
    params = (3 * torch.randn(50, 1, family.num_params)).requires_grad_()
    states = family.enumerate_support()
    scores = family.log_prob(params, states if family.is_index else states.float())
    assert not scores.isnan().any()
    (gradient,) = torch.autograd.grad(scores[scores.isfinite()].sum(), params)
    assert gradient.isfinite().all()
    (gradient,) = torch.autograd.grad(family.log_prob(params, states[0]).sum(), params)
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("family", "kept"),
    [
        (fam.TopK(fam.Categorical(5), 3), [0, 1, 2]),
        (fam.TopK(fam.OneHotCategorical(5), 3), [0, 1, 2]),
        (fam.Nucleus(fam.Categorical(4), 0.5), [0, 1]),
        (fam.Nucleus(fam.Categorical(4), 0.51), [0, 1, 2]),
        (fam.TopK(fam.Nucleus(fam.Categorical(4), 0.51), 2), [0, 1]),
        (fam.TopK(fam.Bernoulli(), 1), [0]),
    ],
    ids=str,
)
def test_of_equal_states_the_first_are_kept(family, kept):
    scores = family.log_prob(torch.zeros(family.num_params), family.enumerate_support())
    assert scores.isfinite().nonzero().flatten().tolist() == kept
    torch.testing.assert_close(scores[kept], torch.full((len(kept),), -math.log(len(kept))))


def test_ties_with_the_last_state_kept_are_cut_and_larger_states_are_not():
    params = torch.tensor([1.0, 0.0, 1.0, 2.0, 1.0, 1.0])
    scores = fam.TopK(fam.Categorical(6), 3).log_prob(params, torch.arange(6))
    assert scores.isfinite().tolist() == [True, False, True, True, False, False]


def test_tempered_densities_are_powers(float64):
    params, x = torch.randn(20, 2), torch.randn(20)
    for t in (0.3, 2.0):
        scale = fam.Normal()(params).scale * math.sqrt(t)
        found = fam.Tempered(fam.Normal(), t)
        torch.testing.assert_close(
            found.log_prob(params, x), dist.Normal(params[:, 0], scale).log_prob(x)
        )
        scale = fam.Laplace()(params).scale * t
        found = fam.Tempered(fam.Laplace(), t)
        torch.testing.assert_close(found(params).scale, scale)
        torch.testing.assert_close(
            found.log_prob(params, x), dist.Laplace(params[:, 0], scale).log_prob(x)
        )
        cdf = found.cdf(params, found.from_noise(params, found.noise((20,))))
        assert ((cdf > 0) & (cdf < 1)).all()


def test_tempered_products_are_products_of_tempered(float64):
    tempered = fam.Tempered(fam.Independent(fam.Bernoulli(), (3,)), 0.25)
    params = torch.randn(7, 3)
    value = tempered.sample(params)
    torch.testing.assert_close(
        tempered.log_prob(params, value),
        fam.Independent(fam.Bernoulli(), (3,)).log_prob(4 * params, value),
    )
    mask = torch.tensor([True, False, True])
    torch.testing.assert_close(
        tempered.marginal_log_prob(params, value, mask),
        fam.Independent(fam.Bernoulli(), (2,)).log_prob(4 * params[:, mask], value[:, mask]),
    )


@pytest.mark.parametrize(
    "family", [family for family, _ in CUT] + [fam.Tempered(fam.Normal(), 0.5)], ids=str
)
def test_the_heads_of_a_network_stay_valid(family):
    inner = family.family
    for name in ("num_params", "num_features", "event_shape", "is_index", "modules"):
        assert getattr(family, name) == getattr(inner, name)
    assert str(family.support) == str(inner.support)
    assert torch.equal(family.placeholder(), inner.placeholder())
    value = family.sample(torch.randn(9, family.num_params))
    assert torch.equal(family.features(value), inner.features(value))
    weight = torch.randn(3, family.num_features)
    assert torch.equal(family.project(value, weight), inner.project(value, weight))


@pytest.mark.parametrize("cut", [lambda f: fam.TopK(f, 2), lambda f: fam.Nucleus(f, 0.5)])
def test_a_network_serves_cut_families_as_it_is(cut):
    p = condition(build("rnn-gru", "categorical-2")).with_families(cut(fam.Categorical(3)))
    scores = p.log_prob(p.enumerate_support())
    torch.testing.assert_close(scores.logsumexp(0), torch.tensor(0.0))
    assert scores.isinf().any()
    assert p.log_prob(p.sample((500,))).isfinite().all()


def test_parametric_takes_logits_and_scale_tril():
    assert fam.Parametric(dist.Bernoulli).num_params == 1
    assert fam.Parametric(dist.NegativeBinomial).num_params == 2
    assert fam.Parametric(dist.MultivariateNormal, event_shape=(3,)).num_params == 12
    assert fam.Parametric(dist.OneHotCategorical, event_shape=(4,)).num_params == 4
    assert fam.Parametric(dist.Categorical, shapes={"logits": (5,)}).num_params == 5
    assert fam.Parametric(dist.Normal, event_shape=(3,)).num_params == 6


def test_parametric_takes_constants_and_links():
    family = fam.Parametric(dist.Binomial, fixed={"total_count": 10})
    assert family.num_params == 1
    assert family.support.upper_bound == 10
    family = fam.Parametric(dist.Normal, fixed={"loc": 0.0}, links={"scale": torch.ones_like})
    assert family(torch.tensor([3.0])).scale == 1.0
    family = fam.Parametric(dist.Bernoulli, fixed={}, links={"logits": torch.neg})
    assert family(torch.tensor([2.0])).logits == -2.0


def test_copies_have_the_states_of_the_original():
    for cls, shape in ((dist.Bernoulli, ()), (dist.OneHotCategorical, (3,))):
        family = fam.Parametric(cls, event_shape=shape)
        assert torch.equal(copy.deepcopy(family).enumerate_support(), family.enumerate_support())


def test_a_support_that_torch_cannot_transform_to_has_an_anchor_all_the_same():
    class Known(constraints.Constraint):
        event_dim = 0

        def check(self, value):
            return value > 5

    class Shifted(fam.Family):
        num_params = 1
        support = Known()

        def __call__(self, params):
            away = dist.Exponential(params[..., 0].exp(), validate_args=False)
            return dist.TransformedDistribution(away, AffineTransform(5.0, 1.0))

    assert Shifted().placeholder() > 5
    assert torch.equal(Shifted().placeholder(), Shifted().placeholder())
