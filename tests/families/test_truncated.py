"""Tempered, TopK and Nucleus against their definitions."""

import math

import pyro.distributions as dist
import pytest
import torch
from table import build, condition

from ardist import families as fam


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
