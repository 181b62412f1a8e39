"""What holds of every family: dtypes, infinities, ends of supports, scores without cancellation."""

import copy

import pyro.distributions as dist
import pytest
import torch
from table import FACTORIZATIONS, FAMILIES, VECTORS, random_made, wild_params
from torch.distributions import ExpTransform, HalfNormal, SigmoidTransform, constraints

import ardist as ad
from ardist import families as fam
from ardist.families.guards import Ends

ALL = {
    **FAMILIES,
    **VECTORS,
    "one_hot_grid": fam.Independent(fam.OneHotCategorical(3), (2,)),
    "mixed_categorical": fam.Mixture(fam.Categorical(3), 2),
    "mixed_beta": fam.Mixture(fam.Beta(), 2),
    "parametric_categorical": fam.Parametric(dist.Categorical, shapes={"logits": (3,)}),
    "parametric_beta": fam.Parametric(dist.Beta),
    "transformed_gamma": fam.Transformed(fam.Gamma(), ExpTransform().inv),
    "transformed_mixture": fam.Transformed(fam.Mixture(fam.Normal(), 2), SigmoidTransform()),
    "long_spline": fam.Spline(32),
    "image": fam.DiscretizedLogisticMixture(3, bins=256),
    "sound": fam.DiscretizedLogisticMixture(3, bins=5000),
    "nested": FACTORIZATIONS["nested"].families[0],
}
families = pytest.mark.parametrize("family", ALL.values(), ids=ALL.keys())
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def _in(family, dtype):
    """The family, with what is learned in it in a dtype."""
    family = copy.deepcopy(family)
    for module in family.modules:
        module.to(dtype)
    return family


@families
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scores_and_draws_have_the_dtype_of_the_parameters(family, dtype):
    family = _in(family, dtype)
    params = torch.randn(100, family.num_params, dtype=dtype).requires_grad_()
    draws = [family.sample(params)]
    if family.has_noise:
        draws.append(family.from_noise(params, family.noise((100,), dtype=dtype)))
    if family.has_rsample:
        draws += [family.rsample(params), family.pathwise(params, draws[0])]
        assert all(draw.requires_grad for draw in draws[-2:])
    for draw in draws:
        assert draw.dtype == (torch.int64 if family.is_index else dtype)
        assert draw.isfinite().all()
        assert family.inside(draw).all()
    score = family.log_prob(params, draws[0])
    assert score.dtype == dtype
    assert score.isfinite().all()
    (gradient,) = torch.autograd.grad(score.sum(), params)
    assert not gradient.isnan().any()
    if family.has_cdf:
        assert family.cdf(params, draws[0]).dtype == dtype
        inverse = family.icdf(params, torch.rand(100).to(dtype))
        assert inverse.dtype == draws[0].dtype
        assert family.inside(inverse).all()
    if family.event_shape:
        mask = torch.rand(100, *family.event_shape[:1]) < 0.5
        mask = mask.reshape(100, -1, *[1] * (len(family.event_shape) - 1)).expand_as(draws[0])
        if isinstance(family, (fam.MultivariateNormal, fam.LowRankMultivariateNormal)):
            assert family.marginal_log_prob(params, draws[0], mask).dtype == dtype
            assert family.sample_given(params, draws[0], mask).dtype == dtype


@families
def test_half_precision_scores_are_float32s_rounded(family):
    half = torch.bfloat16
    if family.modules:  # whose weights are rounded too
        return
    params = torch.randn(200, family.num_params).to(half)
    value = family.sample(params)
    wide = value if family.is_index else value.float()
    expected = family.log_prob(params.float(), wide)
    found = family.log_prob(params, value).float()
    eps = torch.finfo(half).eps
    inside = ((wide - value.float()).abs() == 0) & (wide != 1)  # not moved off an end
    inside = inside.reshape(200, -1).all(-1)
    torch.testing.assert_close(found[inside], expected[inside], rtol=eps, atol=eps)


@families
@pytest.mark.parametrize("number", [torch.inf, -torch.inf])
def test_an_infinite_value_scores_no_nan(family, number):
    if isinstance(family, fam.Nested):  # whose inner network reads it
        return
    params = torch.randn(6, family.num_params).requires_grad_()
    value = family.sample(params).float()
    flat = value.reshape(6, -1)
    flat[:3, 0] = number
    value = flat.reshape(value.shape)
    score = family.log_prob(params, value)
    assert (score[:3] == -torch.inf).all()
    assert score[3:].isfinite().all()
    (gradient,) = torch.autograd.grad(score.sum(), params)
    assert gradient.isfinite().all()
    assert not family.features(value).isnan().any()
    weight = torch.rand(5, family.num_features)
    assert not family.project(value, weight).isnan().any()


def test_states_of_no_probability_leave_the_others_finite():
    params = torch.tensor([0.0, -torch.inf, 1.0]).requires_grad_()
    states = torch.eye(3)
    for family in (fam.OneHotCategorical(3), fam.Categorical(3)):
        values = states if family.event_shape else torch.arange(3)
        scores = family.log_prob(params, values)
        assert scores.isfinite().tolist() == [True, False, True]
        assert scores[1] == -torch.inf
        (gradient,) = torch.autograd.grad(scores[0], params)
        assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("family", "ends"),
    [
        (fam.Beta(), [0.0, 1.0]),
        (fam.Parametric(dist.Beta), [0.0, 1.0]),
        (fam.Parametric(dist.Gamma), [0.0]),
        (fam.Mixture(fam.Beta(), 2), [0.0, 1.0]),
        (fam.Transformed(fam.Beta(), torch.distributions.AffineTransform(-1.0, 2.0)), [-1.0, 1.0]),
        (fam.Relaxed(fam.Bernoulli(), 0.1), [0.0, 1.0]),
        (fam.Dirichlet(2), [[0.0, 1.0], [1.0, 0.0]]),
        (fam.Parametric(dist.Dirichlet, event_shape=(2,)), [[0.0, 1.0]]),
        (fam.Relaxed(fam.OneHotCategorical(2), 0.1), [[0.0, 1.0]]),
        (fam.Transformed(fam.Normal(), SigmoidTransform()), [0.0, 1.0]),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_at_a_closed_end_scores_and_gradients_are_finite(family, ends, dtype):
    params = torch.linspace(-4, 1, 5).unsqueeze(-1).expand(5, family.num_params).to(dtype)
    params = params.clone().requires_grad_()
    for end in ends:
        score = family.log_prob(params, torch.tensor(end, dtype=dtype))
        assert score.isfinite().all()
        (gradient,) = torch.autograd.grad(score.sum(), params)
        assert gradient.isfinite().all()
    # As draws that rounding put there.
    nearest = torch.tensor(ends[0], dtype=dtype)
    nearest = family._rounded(nearest, dtype)
    torch.testing.assert_close(
        family.log_prob(params, nearest), family.log_prob(params, torch.tensor(ends[0]).to(dtype))
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "ends", [(0.0, 1.0), (-2.0, 5.0), (-3.14159265, 3.14159265), (0.1, 0.3), (0.0, torch.inf)]
)
def test_the_nearest_numbers_inside_are_next_to_the_ends(ends, dtype):
    lower, upper = torch.tensor(Ends(*ends).within(dtype), dtype=torch.float64)
    assert torch.stack((lower, upper)).to(dtype).double().equal(torch.stack((lower, upper)))
    assert ends[0] < lower
    assert upper < ends[1]
    for found, end, direction in ((lower, ends[0], -torch.inf), (upper, ends[1], torch.inf)):
        one = found.to(dtype)
        away = torch.nextafter(one, torch.tensor(direction, dtype=dtype)).double()
        assert end == 0 or not ends[0] < away < ends[1]


def test_scores_outside_are_minus_infinity():
    for family in FAMILIES.values():
        params = torch.randn(3, family.num_params)
        ends = family._ends
        for beyond in (ends.lower - 1, ends.upper + 1):
            if abs(beyond) < torch.inf and not family.is_index:
                assert (family.log_prob(params, torch.tensor(beyond)) == -torch.inf).all()


DISCRETE = {name: f for name, f in ALL.items() if f.support.is_discrete and not f.event_shape}


@pytest.mark.parametrize("family", DISCRETE.values(), ids=DISCRETE.keys())
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_numbers_that_are_no_state_score_minus_infinity(family, dtype):
    value = torch.arange(-6, 24).div(4) if dtype.is_floating_point else torch.arange(-3, 6)
    value = torch.cat((value, torch.tensor([250, 1000]))).to(dtype)
    params = torch.randn(family.num_params).requires_grad_()
    scores = family.log_prob(params, value)
    inside = family.inside(value)
    assert (scores[~inside] == -torch.inf).all()
    # The states score as they do alone, where a guard masks nothing.
    torch.testing.assert_close(scores[inside], family.log_prob(params, value[inside]))
    if not isinstance(family, (fam.TopK, fam.Nucleus)):
        assert scores[inside].isfinite().all()
    (gradient,) = torch.autograd.grad(scores[scores.isfinite()].sum(), params)
    assert gradient.isfinite().all()
    if dtype.is_floating_point:
        assert not family.log_prob(params, torch.tensor(torch.nan, dtype=dtype)).isfinite()


# Scores without cancellation.


@families
def test_float32_scores_are_float64s_over_the_range_of_the_links(family):
    if isinstance(family, (fam.Nested, fam.Parametric)):  # whose links are a network, or torch's
        params = torch.randn(400, family.num_params)
    else:
        params = torch.cat([s * torch.randn(400, family.num_params) for s in (1, 5)])
        params = torch.cat((params, wild_params(family, 1200)))
    value = family.sample(params)
    assert family.inside(value).all()
    found = family.log_prob(params.requires_grad_(), value)
    wide, exact = params.detach().double().requires_grad_(), _in(family, torch.float64)
    expected = exact.log_prob(wide, value if family.is_index else value.double())
    fits = expected.abs() < torch.finfo(torch.float32).max
    assert fits.double().mean() > 0.9  # vectors may be so far off that no float32 holds it
    torch.testing.assert_close(found[fits].double(), expected[fits], rtol=1e-5, atol=1e-4)
    (slope,) = torch.autograd.grad(found[fits].sum(), params)
    (expected,) = torch.autograd.grad(expected[fits].sum(), wide)
    fits = expected.abs() < torch.finfo(torch.float32).max
    assert not slope.isnan().any()
    scale = 1e-4 * expected.abs().amax(-1, keepdim=True) + 1e-4 * expected.abs() + 1e-5
    assert ((slope.double() - expected).abs() <= scale)[fits].all()


# What families say of themselves.


class Ordered(fam.Family):
    """A user's family that draws integers and does not say so."""

    num_params = 3
    support = constraints.integer_interval(0, 2)
    num_features = 1

    def __call__(self, params):
        return dist.Categorical(logits=params, validate_args=False)


class Counts(Ordered):
    """One that draws floats from the same support."""

    num_params = 1

    def __call__(self, params):
        return dist.Binomial(2, logits=params[..., 0], validate_args=False)


def test_families_that_draw_integers_have_indices():
    assert fam.Parametric(dist.Categorical, shapes={"logits": (3,)}).is_index
    assert not fam.Parametric(dist.Binomial, fixed={"total_count": 3}).is_index
    assert Ordered().is_index
    assert not Counts().is_index
    state = torch.get_rng_state()
    assert Ordered().is_index
    assert torch.equal(torch.get_rng_state(), state)
    for family in (Ordered(), Counts(), ALL["parametric_categorical"]):
        p = random_made(ad.Factorization(2, family), hidden_features=8).condition()
        x = p.sample((50,))
        assert x.dtype == (torch.int64 if family.is_index else torch.float32)
        given = p.given(x, torch.tensor([True, False])).sample()
        assert given.dtype == x.dtype
        assert p.log_prob(p.enumerate_support()).logsumexp(0).abs() < 1e-5


class Held(fam.Family):
    """A user's family that holds tensors."""

    num_params = 2
    num_features = 2
    event_shape = torch.Size((2,))
    support = constraints.real_vector

    def __init__(self):
        self.root = torch.tensor([[1.0, 0.0], [0.5, 2.0]])

    def __call__(self, params):
        return dist.MultivariateNormal(params, scale_tril=self.root, validate_args=False)

    def features(self, value):
        return value @ self.root


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "family",
    [
        Held(),
        fam.Parametric(dist.MultivariateNormal, (2,), fixed={"scale_tril": torch.eye(2)}),
        fam.Parametric(dist.MultivariateNormal, (2,), fixed={"loc": torch.zeros(2)}),
    ],
    ids=["held", "scale_tril", "loc"],
)
def test_tensors_that_a_family_holds_follow_the_network(family, dtype):
    fac = ad.Factorization((3, 2), family, partition=ad.Partition.along(0))
    net = random_made(fac, hidden_features=8).to(dtype)
    p = net.condition()
    x = p.sample((4,))
    assert x.dtype == dtype
    assert p.log_prob(x).dtype == dtype
    assert p.log_prob(x).isfinite().all()
    if dtype == torch.float64:
        ad.testing.check_autoregressive(net)


class Positive(Held):
    """One that scores by its parent's method, under another support."""

    event_shape = torch.Size()
    num_params = 1
    num_features = 1
    support = constraints.positive

    def __call__(self, params):
        return HalfNormal(params[..., 0].exp(), validate_args=False)

    def features(self, value):
        return value.unsqueeze(-1)


class Half(Positive):
    support = constraints.less_than(0.0)

    def log_prob(self, params, value):
        return super().log_prob(params, -value)

    def sample(self, params):
        return -super().sample(params)


def test_what_an_override_calls_by_super_is_not_guarded_by_itself():
    params = torch.zeros(100, 1)
    value = Half().sample(params)
    assert (value < 0).all()
    torch.testing.assert_close(Half().log_prob(params, value), Positive().log_prob(params, -value))
    assert (Half().log_prob(params, -value) == -torch.inf).all()


@pytest.mark.parametrize(
    ("cls", "options", "count"),
    [
        (dist.ZeroInflatedPoisson, {}, 2),
        (dist.ZeroInflatedPoisson, {"fixed": {"gate": 0.3}}, 1),
        (dist.ZeroInflatedNegativeBinomial, {}, 3),
        (dist.ZeroInflatedDistribution, {"fixed": {"base_dist": dist.Poisson(2.0)}}, 1),
        (dist.RelaxedBernoulli, {"fixed": {"temperature": 0.5}}, 1),
        (dist.NegativeBinomial, {"fixed": {"total_count": torch.tensor(3.0)}}, 1),
    ],
)
def test_of_parameters_that_say_the_same_parametric_takes_one(cls, options, count):
    family = fam.Parametric(cls, **options)
    assert family.num_params == count
    value = family.sample(torch.randn(20, count))
    assert family.log_prob(torch.randn(20, count), value).isfinite().all()


@pytest.mark.parametrize(
    ("family", "count"),
    [
        (fam.Independent(fam.OneHotCategorical(3), (2, 2)), 81),
        (fam.Independent(fam.Bernoulli(), (2, 3)), 64),
        (fam.Independent(fam.Mixture(fam.Categorical(4), 2), (2,)), 16),
        (fam.Independent(fam.Independent(fam.Categorical(2), (2,)), (1,)), 4),
        (fam.Independent(ALL["nested"], (2,)), 16),
        (fam.Mixture(fam.Independent(fam.OneHotCategorical(2), (2,)), 2), 4),
        (fam.Independent(fam.Categorical(300), (2,)), None),
        (fam.Independent(fam.Normal(), (2,)), None),
    ],
    ids=str,
)
def test_products_of_finite_families_are_finite(family, count):
    states = family.enumerate_support()
    if count is None:
        assert states is None
        return
    assert states.shape == (count, *family.event_shape)
    assert states.unique(dim=0).shape == states.shape
    states = states if family.is_index else states.float()
    assert family.inside(states).all()
    assert family.inside(family.placeholder())
    scores = family.log_prob(torch.randn(family.num_params), states)
    torch.testing.assert_close(scores.logsumexp(0), torch.tensor(0.0), rtol=0, atol=1e-5)


def test_a_first_call_in_inference_mode_breaks_no_later_one():
    for family in (fam.StudentT(), fam.Mixture(fam.StudentT(), 2), fam.Beta(), fam.Gamma()):
        family = copy.deepcopy(family)
        params = torch.randn(5, family.num_params)
        with torch.inference_mode():
            family.rsample(params)
            family.icdf(params, torch.rand(5))
        params.requires_grad_()
        draw = family.rsample(params)
        assert torch.autograd.grad(draw.sum(), params)[0].isfinite().all()
