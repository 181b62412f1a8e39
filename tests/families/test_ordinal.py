"""Ordered categories by cumulative logits."""

import torch
from laws import assert_frequencies

from ardist import families as fam


def test_scores_are_differences_of_cumulative_logits(float64):
    family = fam.Ordinal(5)
    params = 2 * torch.randn(50, 1, 4)
    scores = family.log_prob(params, torch.arange(5))
    cumulative = scores.exp().cumsum(-1)
    torch.testing.assert_close(cumulative[:, -1], torch.ones(50))
    torch.testing.assert_close(cumulative[:, :-1], family._thresholds(params[:, 0]).sigmoid())
    moved = family.log_prob(params + torch.tensor([1.5, 0, 0, 0]), torch.arange(5)).exp()
    torch.testing.assert_close(
        moved.cumsum(-1)[:, :-1].logit(), cumulative[:, :-1].logit() + 1.5, rtol=1e-6, atol=1e-6
    )


def test_draws_follow_the_scores(float64):
    family, params = fam.Ordinal(4), torch.tensor([0.5, -1.0, 2.0])
    expected = family.log_prob(params, torch.arange(4)).exp()
    many = params.expand(20_000, -1)
    for draws in (family.sample(many), family(params).sample((20_000,))):
        assert_frequencies(draws.bincount(minlength=4), expected)


def test_features_say_which_thresholds_are_passed():
    found = fam.Ordinal(4).features(torch.tensor([0, 2, 3]))
    assert found.tolist() == [[0, 0, 0], [1, 1, 0], [1, 1, 1]]
