"""Relaxed families: their density, draws, gradients, and what they are made of."""

import math

import pytest
import torch
from laws import assert_cdf
from table import build, condition

from ardist import families as fam

TEMPERATURES = [0.1, 0.5, 1.0, 2.0]
temperatures = pytest.mark.parametrize("temperature", TEMPERATURES)
BINARY, ONE_HOT = fam.Bernoulli(), fam.OneHotCategorical(3)


@temperatures
def test_densities_are_torchs(temperature, float64):
    logits = 2 * torch.randn(500, 3)
    family = fam.Relaxed(ONE_HOT, temperature)
    law = torch.distributions.RelaxedOneHotCategorical(torch.tensor(temperature), logits=logits)
    x = family.sample(logits)
    keep = (x > 1e-12).all(-1)  # closer to a corner torch does not count
    torch.testing.assert_close(family.log_prob(logits, x)[keep], law.log_prob(x)[keep])
    family = fam.Relaxed(BINARY, temperature)
    law = torch.distributions.RelaxedBernoulli(torch.tensor(temperature), logits=logits[:, 0])
    x = family.sample(logits[:, :1])
    keep = (x > 1e-12) & (x < 1 - 1e-12)
    torch.testing.assert_close(family.log_prob(logits[:, :1], x)[keep], law.log_prob(x)[keep])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_densities_integrate_to_one(temperature, float64):
    """Over the log odds, in which they are smooth; the colder, the more is where x rounds to 1."""
    u = torch.linspace(-35 / temperature, 35 / temperature, 20_001)
    width = u[1] - u[0]
    params, slope = torch.randn(4, 1, 1), torch.sigmoid(u) * torch.sigmoid(-u)
    x = torch.sigmoid(u)
    score = fam.Relaxed(BINARY, temperature).log_prob(params, x)
    inside = x < 1 - 1e-15
    mass = (score.exp() * slope * inside).sum(-1) * width
    torch.testing.assert_close(mass, torch.ones(4), rtol=0, atol=1e-5)
    # Two numbers on the simplex are one and what is left of it.
    pair = fam.Relaxed(fam.OneHotCategorical(2), temperature)
    both = torch.cat((params, torch.zeros_like(params)), -1)
    again = pair.log_prob(both, torch.stack((x, 1 - x), -1))
    torch.testing.assert_close(again[:, inside], score[:, inside])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_density_on_a_triangle_integrates_to_one(temperature, float64):
    u = torch.linspace(-16 / temperature, 16 / temperature, 601)
    both = torch.cartesian_prod(u, u)
    x = torch.cat((both, torch.zeros(len(both), 1)), -1).softmax(-1)
    # The slope of the map from two logits to the simplex is the product of the three shares.
    score = fam.Relaxed(ONE_HOT, temperature).log_prob(torch.tensor([0.5, -0.3, 0.1]), x)
    mass = (score + x.log().sum(-1)).exp().sum() * (u[1] - u[0]) ** 2
    torch.testing.assert_close(mass, torch.tensor(1.0), rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", [BINARY, ONE_HOT, fam.OneHotCategorical(40)], ids=str)
@temperatures
@pytest.mark.parametrize("straight_through", [False, True])
def test_draws_scores_and_gradients_are_finite_in_float32(family, temperature, straight_through):
    relaxed = fam.Relaxed(family, temperature, straight_through=straight_through)
    params = (3 * torch.randn(20_000, family.num_params)).requires_grad_()
    x = relaxed.sample(params.detach())
    assert relaxed.inside(x).all()
    score = relaxed.log_prob(params, x)
    assert score.isfinite().all()
    (gradient,) = torch.autograd.grad(score.sum(), params)
    assert gradient.isfinite().all()
    again = relaxed.pathwise(params, x)
    assert torch.equal(again, x)
    (gradient,) = torch.autograd.grad((again * torch.randn_like(again)).sum(), params)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("family", [BINARY, ONE_HOT], ids=str)
def test_cold_draws_have_the_probabilities_of_the_family(family):
    params = torch.randn(family.num_params)
    noise = family.noise((50_000,))
    hard = family.from_noise(params, noise)
    cold = fam.Relaxed(family, 1e-3).from_noise(params, noise)
    assert (cold - hard).abs().mean() < 1e-3
    assert torch.equal(cold.round(), hard)
    straight = fam.Relaxed(family, 1.0, straight_through=True)
    assert torch.equal(straight.from_noise(params, noise), hard)
    assert torch.equal(straight.log_prob(params, hard), family.log_prob(params, hard))


@pytest.mark.parametrize("family", [BINARY, ONE_HOT], ids=str)
def test_noise_and_value_give_the_same_gradients(family, float64):
    relaxed = fam.Relaxed(family, 0.7)
    params = torch.randn(50, family.num_params).requires_grad_()
    noise = relaxed.noise((50,), dtype=torch.float64)
    x = relaxed.from_noise(params, noise)
    along = torch.randn_like(x)
    (expected,) = torch.autograd.grad((x * along).sum(), params)
    for known in (None, noise):
        again = relaxed.pathwise(params, x, known)
        (found,) = torch.autograd.grad((again * along).sum(), params)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("family", [BINARY, ONE_HOT], ids=str)
def test_noise_behind_a_choice_follows_its_law_and_leads_to_the_choice(family, float64):
    relaxed = fam.Relaxed(family, 0.7, straight_through=True)
    params = torch.randn(family.num_params).expand(20_000, -1)
    value = family.sample(params)
    noise = relaxed._hard_noise(params, value)
    assert torch.equal(family.from_noise(params, noise), value)
    law = "logistic" if family is BINARY else "gumbel_r"
    for each in noise.unsqueeze(-1).flatten(1).unbind(-1):
        assert_cdf(each, law)


def test_the_straight_gradient_is_that_of_the_relaxed_draw(float64):
    params = torch.randn(50, 3).requires_grad_()
    noise = ONE_HOT.noise((50,), dtype=torch.float64)
    along = torch.randn(50, 3)
    gradients = []
    for straight_through in (False, True):
        family = fam.Relaxed(ONE_HOT, 0.7, straight_through=straight_through)
        x = family.from_noise(params, noise)
        gradients.append(torch.autograd.grad((x * along).sum(), params)[0])
        again = family.pathwise(params, x, noise)
        gradients.append(torch.autograd.grad((again * along).sum(), params)[0])
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0])


@pytest.mark.parametrize("straight_through", [False, True])
def test_a_trained_network_serves_relaxed_families(straight_through):
    p = condition(build("rnn-gru", "bernoulli-2"))
    relaxed = p.with_families(fam.Relaxed(BINARY, 0.5, straight_through=straight_through))
    x, score = relaxed.rsample_and_log_prob((7,))
    assert relaxed.support.check(x.detach()).all()
    assert ((x == x.round()).all()) == straight_through
    gradients = torch.autograd.grad(x.sum() + score.sum(), list(p.network.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)
    if straight_through:
        torch.testing.assert_close(relaxed.log_prob(x.detach()), p.log_prob(x.detach()))
        assert relaxed.enumerate_support().shape == p.enumerate_support().shape


def test_it_prints_as_it_was_written():
    assert str(fam.Relaxed(BINARY, 0.5)) == "Relaxed(Bernoulli(), 0.5)"
    family = fam.Relaxed(BINARY, 0.5, straight_through=True)
    assert str(family) == "Relaxed(Bernoulli(), 0.5, straight_through=True)"
    assert math.isclose(family.temperature, 0.5)
