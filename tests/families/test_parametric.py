"""Parametric: what it takes of a class of torch or Pyro."""

import copy

import pyro.distributions as dist
import torch

from ardist import families as fam


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
