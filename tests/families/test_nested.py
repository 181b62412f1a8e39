"""Distributions inside distributions."""

import copy

import pytest
import torch
from laws import assert_density
from table import random_made
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

import ardist as ad
from ardist import families as fam
from ardist import networks
from ardist.scoring import teacher_forced_params


def inner(family, size=2, context=4):
    return random_made(ad.Factorization(size, family), context_shape=(context,), hidden_features=8)


def chords(family=None, network=None, **options):
    """Three steps of two notes."""
    torch.manual_seed(0)
    nested = fam.Nested(inner(family or fam.Bernoulli()))
    fac = ad.Factorization((3, 2), nested, partition=ad.Partition.along(0))
    return (network or networks.RNN)(fac, **(options or {"hidden_size": 8}))


def test_the_inner_network_is_part_of_the_outer_one():
    net = chords()
    (own,) = net.nested
    assert own is net.factorization.families[0].network
    names = {name for name, _ in net.named_parameters()}
    assert {f"nested.0.{name}" for name, _ in own.named_parameters()} < names
    assert "nested.0.head.weight" in net.state_dict()
    twin = copy.deepcopy(net)
    assert twin.nested[0] is twin.factorization.families[0].network
    assert twin.nested[0] is not own
    assert net.double().condition().sample().dtype == torch.float64
    assert own.head.weight.dtype == torch.float64
    plain = networks.RNN(ad.Factorization(3, fam.Normal()), hidden_size=4)
    assert not hasattr(plain, "nested")


def test_the_joint_is_the_product_of_the_inner_ones(float64):
    p = chords().double().condition()
    x = p.sample((5,))
    params = teacher_forced_params(p.batch_of(x), x)[1]
    chord = p.network.nested[0]
    each = [chord.condition(params[:, step]).log_prob(x[:, step]) for step in range(3)]
    torch.testing.assert_close(p.log_prob(x), sum(each))
    torch.testing.assert_close(p.conditionals(x).log_prob(x), torch.stack(each, -1))


def test_to_any_depth(float64):
    torch.manual_seed(0)
    bottom = fam.Nested(inner(fam.Bernoulli()))
    middle = ad.Factorization((2, 2), bottom, partition=ad.Partition.along(0))
    middle = networks.RNN(middle, hidden_size=4, context_shape=(3,))
    top = ad.Factorization((2, 2, 2), fam.Nested(middle), partition=ad.Partition.along(0))
    net = networks.Transformer(top, dim=8, depth=1, heads=1).double()
    p = net.condition()
    ad.testing.check_normalized(p, tolerance=1e-9)
    states = p.enumerate_support()
    assert len(states) == 2**8
    x = p.sample((20000,)).flatten(1)
    code = (x * 2 ** torch.arange(7, -1, -1)).sum(-1).long()
    counts = torch.bincount(code, minlength=256)
    expected = p.log_prob(states).exp() * len(x)
    chi2 = ((counts - expected) ** 2 / expected)[expected > 5].sum()
    freedom = int((expected > 5).sum())
    assert chi2 < freedom + 5 * (2 * freedom) ** 0.5
    p.log_prob(states).sum().backward()
    assert all(weight.grad.isfinite().all() for weight in net.parameters())


def test_dependent_channels_of_pixels():
    """PixelCNN++'s way: a mixture of logistics for each channel, given the channels before it."""
    torch.manual_seed(0)
    channels = inner(fam.DiscretizedLogisticMixture(2, bins=8), size=3, context=6)
    fac = ad.Factorization((3, 3, 3), fam.Nested(channels), partition=ad.Partition.along(0, 1))
    net = networks.PixelCNN(fac, channels=8, depth=2)
    p = net.condition()
    x = p.sample((2,))
    assert x.shape == (2, 3, 3, 3)
    assert x.dtype == torch.int64
    assert p.log_prob_blocks(x).shape == (2, 3, 3)
    other = x.clone()
    other[:, 2, 2, 1] = (other[:, 2, 2, 1] + 4) % 8
    changed = p.log_prob_blocks(other) != p.log_prob_blocks(x)
    assert changed.nonzero()[:, 1:].unique(dim=0).tolist() == [[2, 2]]


def test_continuous_blocks_and_gradients_through_their_draws(float64):
    p = chords(fam.Normal()).double().condition()
    x = p.sample((3000,))
    first = p.network.nested[0].condition(teacher_forced_params(p.batch_of(x[:1]), x[:1])[1][0, 0])
    prob = first.log_prob(x[:, 0]).exp()
    assert_density(x[:, 0], prob, dim=2)
    assert p.has_rsample
    p.rsample((4,)).sum().backward()
    assert all(weight.grad is not None for weight in p.network.parameters())


def test_gradients_under_functional_call():
    net = chords()
    x = net.condition().sample((4,))
    module = ad.LogLikelihood(net)
    module(x).sum().backward()
    named = {name: value.detach().requires_grad_() for name, value in module.named_parameters()}
    functional_call(module, named, (x,)).sum().backward()
    for name, weight in module.named_parameters():
        assert weight.grad.abs().sum() > 0
        torch.testing.assert_close(named[name].grad, weight.grad)
    # And under `params=`, in scores and in draws.
    changed = {"nested.0.head.bias": torch.tensor([50.0, -50.0])}
    drawn = net.condition(params=changed).sample((6,))
    assert drawn[..., 0].eq(1).all()
    assert drawn[..., 1].eq(0).all()
    assert net.condition(params=changed).log_prob(1 - drawn).max() < -100


def test_gradients_under_distributed_data_parallel(tmp_path):
    net = chords()
    x = net.condition().sample((4,))
    module = ad.LogLikelihood(net)
    module(x).sum().backward()
    expected = [weight.grad.clone() for weight in net.parameters()]
    net.zero_grad()
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        DistributedDataParallel(module)(x).sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    for weight, gradient in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient)


def test_dropout_is_of_training_alone():
    torch.manual_seed(0)
    chord = random_made(
        ad.Factorization(2, fam.Bernoulli()), context_shape=(4,), hidden_features=32, dropout=0.5
    )
    fac = ad.Factorization((3, 2), fam.Nested(chord), partition=ad.Partition.along(0))
    net = networks.RNN(fac, hidden_size=8)
    x, score = net.condition().sample_and_log_prob((4,))
    assert not torch.equal(net.condition().log_prob(x), net.condition().log_prob(x))
    torch.testing.assert_close(net.eval().condition().log_prob(x), score)


def test_nested_are_equal_where_the_network_is_the_same():
    chord = inner(fam.Normal())
    assert fam.Nested(chord) == fam.Nested(chord)
    assert hash(fam.Nested(chord)) == hash(fam.Nested(chord))
    assert fam.Nested(chord) != fam.Nested(copy.deepcopy(chord))
    assert repr(fam.Nested(chord)) == "Nested(MADE, Factorization((2,), Normal()))"


def any_order_pairs():
    """Two blocks of two bits, whose inner network follows any order."""
    torch.manual_seed(1)
    fac = ad.Factorization(2, fam.Bernoulli())
    pair = networks.Transformer(fac, dim=8, depth=1, heads=2, context_shape=(3,))
    for weight in pair.parameters():
        weight.data.mul_(2.5)
    fac = ad.Factorization((2, 2), fam.Nested(pair), partition=ad.Partition.along(0))
    return random_made(fac, hidden_features=8).condition()


def test_searches_score_what_is_given_in_part_as_log_prob_does():
    mask = torch.tensor([[True, True], [False, True]])
    p = any_order_pairs().given(torch.zeros(2, 2), mask)
    x, log_prob = ad.sampling.beam_search(p, 4)
    torch.testing.assert_close(log_prob, p.log_prob(x))
    torch.testing.assert_close(log_prob.exp().sum(), torch.tensor(1.0))


def test_a_marginal_that_would_be_drawn_in_another_inner_order_is_refused():
    p = any_order_pairs()
    with pytest.raises(ValueError, match=r"expected all of block \(0,\) or a part that Nested"):
        p.marginal(torch.tensor([[False, True], [False, False]]))
    missing = torch.tensor([[torch.nan, 1.0], [1.0, 1.0]])
    with pytest.raises(ValueError, match=r"that come first in the order of Nested.*, got elements"):
        p.network.condition(nan_policy="marginalize").log_prob(missing.flip(0))
    q = p.marginal(torch.tensor([[True, False], [False, False]]))
    share = q.log_prob(torch.ones(1)).exp()
    drawn = q.sample((4000,)).mean()
    assert (drawn - share).abs() < 4 * (share * (1 - share) / 4000).sqrt()


def test_the_inner_order_that_answers_is_told():
    """Bayes' rule, under the joint of the inner order that the family names."""
    p = any_order_pairs()
    (nested,) = p.factorization.families
    for mask, order in (([True, False], [0, 1]), ([False, True], [1, 0])):
        mask = torch.tensor(mask)
        ordering = nested.ordering_given(mask)
        assert ordering.ranks(p.event_shape[:1]).tolist() == order
        x = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        params = teacher_forced_params(p.batch_of(x), x)[1]
        inner = nested.network.condition(params[0, 1]).with_ordering(ordering)
        blocks = inner.log_prob_blocks(x[1])
        q = p.given(x, torch.stack((torch.ones_like(mask), mask)))
        torch.testing.assert_close(q.log_prob(x), blocks[~mask].sum())
    rows = torch.eye(2, dtype=torch.bool)
    assert nested.ordering_given(rows).tolist() == [[0, 1], [1, 0]]
