"""What Pyro's own tests hold its distributions to, for every order and every partition.

The shapes of draws and scores are in `ardist.testing.check_shapes`, and pickles in test_properties.
"""

import copy
import io

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.util import scale_and_mask
from table import CONTEXT, COVERING, FACTORIZATIONS, NETWORKS, build, is_of_a_family

BATCH = (2, 1)


# What Pyro asks for depends on a family only by whether it has `rsample` and few states.
CASES = [case for case in COVERING if not is_of_a_family(case[1])]


@pytest.fixture(params=CASES, ids="-".join)
def p(request):
    """A distribution with a batch dimension that can be expanded and one that can not."""
    network, factorization = request.param
    return build(network, factorization, CONTEXT).condition(torch.randn(*BATCH, *CONTEXT))


def same(found, expected):
    """Equal shapes, and numbers up to the rounding of other sizes of a batch."""
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def agree(small, large):
    """One scores the other's draws as the other does."""
    x, y = small.sample(), large.sample()
    assert y.shape == large.shape() == large.batch_shape + large.event_shape
    same(large.log_prob(x), small.log_prob(x).expand(large.batch_shape))
    same(large.log_prob(y), small.log_prob(y))


def test_the_table_is_covered():
    networks, factorizations = zip(*COVERING, strict=True)
    assert {*networks} == {*NETWORKS}
    assert [*factorizations] == [*FACTORIZATIONS]


def test_the_support_is_of_events(p):
    assert p.support.event_dim == p.event_dim == len(p.event_shape)
    families = p.factorization.layout.distinct
    assert p.support.is_discrete == any(family.support.is_discrete for family in families)
    inside = p.support.check(p.sample((3,)))
    assert inside.shape == (3, *BATCH)
    assert inside.all()


def test_values_of_other_shapes_are_refused(p):
    x = p.sample()
    with pytest.raises(ValueError, match="whose lead broadcasts with batch_shape"):
        p.log_prob(x[:1].expand(3, *x.shape[1:]))
    if p.event_shape:
        with pytest.raises(ValueError, match=r"value: expected \(\*lead"):
            p.log_prob(torch.cat((x, x), -1))


# Draws.


def test_shapes_are_any_sequence(p):
    whole = (3, *BATCH, *p.event_shape)
    for of_type in (torch.Size, tuple, list):
        shape = of_type((3,))
        assert p.sample(shape).shape == p(shape).shape == whole
        assert p.sample_and_log_prob(shape)[1].shape == (3, *BATCH)
        assert p.expand_by(shape).shape() == p.expand(of_type((3, *BATCH))).shape() == whole


def test_a_call_draws_as_has_rsample_says(p):
    p.context.requires_grad_()
    assert p.has_rsample == p.factorization.has_rsample
    for has_rsample in (p.has_rsample, False):
        q = p.expand(BATCH).has_rsample_(has_rsample)
        torch.manual_seed(3)
        x = q((2,))
        assert x.requires_grad == has_rsample
        torch.manual_seed(3)
        same(x, p.sample((2,)))
    with pytest.raises(ValueError, match="Expected value in"):
        p.has_rsample_("no")


def test_score_parts(p):
    """The score function is of what is not reparameterized, the entropy term of what is left."""
    x = p.sample((3,))
    score, blocks = p.log_prob(x), p.log_prob_blocks(x).reshape(3, *BATCH, -1)
    scored = torch.tensor([not family.has_rsample for family in p.factorization.layout.families])
    whole, function, entropy = p.expand(BATCH).has_rsample_(False).score_parts(x)
    same(whole, score)
    same(function, score)
    assert entropy == 0
    whole, function, entropy = p.expand(BATCH).has_rsample_(True).score_parts(x)
    same(whole, score)
    same(entropy, score)
    same(function + torch.zeros_like(score), blocks[..., scored].sum(-1))


# Batches.


def test_expansion(p):
    """Of new and of existing dimensions, one after another; what was expanded stays as it was."""
    shapes = (BATCH, (2, 4), (3, 2, 4), (5, 3, 2, 4))
    chain = [p]
    for shape in shapes:
        chain.append(chain[-1].expand(shape))
        agree(p, chain[-1])
    assert [q.batch_shape for q in chain] == [BATCH, *shapes]


def test_no_dimension_shrinks(p):
    for shape in ((3, 1), (4, 3), (2, 3, 1), (3,), ()):
        with pytest.raises(ValueError, match=r"batch_shape: \(2, 3\) cannot be expanded to"):
            p.expand((2, 3)).expand(shape)


def test_pyros_own_expansion(p):
    """Pyro falls back on it where an `expand` is not to be had."""
    agree(p, dist.TorchDistribution.expand(p, (3, 2, 4)))


def test_masks(p):
    """One that is larger than the batch expands it."""
    for mask in (torch.tensor(False), torch.tensor([[True], [False]]), torch.eye(2) > 0):
        q = p.mask(mask)
        assert q.batch_shape == torch.broadcast_shapes(BATCH, mask.shape)
        assert q.event_shape == p.event_shape
        agree(q, q.expand((3, *q.batch_shape)))
        x = q.sample((3,))
        same(q.log_prob(x), scale_and_mask(p.log_prob(x), mask=mask))
        parts = p.score_parts(x).scale_and_mask(mask=mask)
        for found, expected in zip(q.score_parts(x), parts, strict=True):
            same(torch.as_tensor(found), torch.as_tensor(expected))


def test_batch_dimensions_become_those_of_events(p):
    for count in range(3):
        q = p.to_event(count)
        cut = len(BATCH) - count
        assert (q.batch_shape, q.event_shape) == (BATCH[:cut], BATCH[cut:] + p.event_shape)
        assert q.support.event_dim == q.event_dim
        assert q.to_event(-count) is p
        agree(q, q.expand((3, *q.batch_shape)))
        x = q.sample((3,))
        assert q.support.check(x).shape == (3, *q.batch_shape)
        same(q.log_prob(x), p.log_prob(x).reshape(3, *q.batch_shape, -1).sum(-1))


def test_enumeration(p):
    if not p.has_enumerate_support:
        with pytest.raises(NotImplementedError, match="enumerate_support: expected at most"):
            p.enumerate_support()
        return
    for q in (p, p.expand((3, 2, 4)), p.mask(torch.tensor(True))):
        states, single = q.enumerate_support(), q.enumerate_support(expand=False)
        ones = (1,) * len(q.batch_shape)
        assert states.shape == (len(states), *q.batch_shape, *q.event_shape)
        assert single.shape == (len(states), *ones, *q.event_shape)
        assert torch.equal(states, single.expand(states.shape))
        assert states.dtype == q.sample().dtype
    assert p.support.check(p.enumerate_support()).all()
    same(p.log_prob(p.enumerate_support(expand=False)), p.log_prob(p.enumerate_support()))


# Copies.


def _saved(p):
    file = io.BytesIO()
    torch.save(p, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, _saved], ids=["copied", "saved"])
def test_copies_are_whole(p, copied):
    """With a network of their own, and with what was set on the instance."""
    p = p.expand((3, *BATCH)).has_rsample_(not p.has_rsample)
    p.has_enumerate_support = False
    q = copied(p)
    assert str(q) == str(p)
    assert (q.has_rsample, q.has_enumerate_support) == (p.has_rsample, False)
    x = p.sample()
    score = p.log_prob(x)
    assert torch.equal(q.log_prob(x), score)
    for weight in q.network.parameters():
        weight.data.zero_()
    assert torch.equal(p.log_prob(x), score)
