"""Mixtures over orderings: exact, and a distribution like any other."""

import copy
import math
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from table import CONTEXT, GPT, Plain
from torch.distributions import biject_to, constraints

import ardist as ad
from ardist import families as fam
from ardist import networks

ORDERINGS = [ad.Ordering.raster(), ad.Ordering.random(1), ad.Ordering.reverse()]


class AnyOrder(networks.ConditionalNetwork):
    """Serves any order but no order for each row: a linear map, masked by the ranks."""

    def __init__(self, factorization, context_shape=()):
        super().__init__(factorization, context_shape=context_shape)
        count = factorization.num_blocks
        width = factorization.families[0].num_params
        self.weight = torch.nn.Parameter(torch.randn(count, width, count))
        self.bias = torch.nn.Parameter(torch.randn(count, width))
        self.context = torch.nn.Linear(3, count * width) if context_shape else None

    def accepts(self, factorization):
        return None

    def forward(self, blocks, context=None, ranks=None):
        ranks = self.factorization.ranks.flatten() if ranks is None else ranks
        sees = (ranks.unsqueeze(-1) > ranks).unsqueeze(1)
        values = blocks.to(self.weight.dtype)
        params = torch.einsum("nj,ipj->nip", values, self.weight * sees) + self.bias
        if context is None:
            return params
        encoding = self.context(context).view(len(context), *self.bias.shape)
        return (params.unflatten(0, (-1, len(context))) + encoding).flatten(0, 1)


def _transformer(factorization, context_shape=()):
    net = networks.Transformer(factorization, **GPT, context_shape=context_shape)
    with torch.no_grad():  # orders that differ clearly
        for weight in net.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
    return net


TOTAL = ad.Factorization((2, 2), fam.Bernoulli())
TIES = TOTAL.with_ordering(ad.Ordering.checkerboard())
COLUMNS = ad.Factorization.columns(a=fam.Bernoulli(), b=fam.Categorical(3), c=fam.Bernoulli())
ENDED = ad.Factorization(3, fam.Categorical(3), end=1, pad=0)
MIXTURES = {  # network, its factorization, and the orderings
    "rows": (_transformer, TOTAL, ORDERINGS),
    "one": (_transformer, TOTAL, ORDERINGS[1:2]),
    "ties": (_transformer, TIES, [*ORDERINGS, ad.Ordering.checkerboard()]),
    "columns": (_transformer, COLUMNS, ORDERINGS),
    "ended": (_transformer, ENDED, ORDERINGS),
    "groups": (AnyOrder, TOTAL, ORDERINGS),
    "normal": (_transformer, ad.Factorization(3, fam.Normal()), ORDERINGS),
    "normal, groups": (AnyOrder, ad.Factorization(3, fam.Normal()), ORDERINGS),
}
DISCRETE = [name for name in MIXTURES if "normal" not in name]
each = pytest.mark.parametrize("name", MIXTURES)
discrete = pytest.mark.parametrize("name", DISCRETE)


def mixture(name, batch=None, **options):
    """A mixture of the table, under `batch` contexts, or without a context."""
    build, factorization, orderings = MIXTURES[name]
    net = build(factorization, () if batch is None else CONTEXT).to(torch.get_default_dtype())
    context = None if batch is None else torch.randn(*batch, *CONTEXT)
    return ad.OrderingMixture(net, orderings, context, **options)


@each
def test_log_prob_is_that_of_the_mean_over_orderings(name, float64):
    p = mixture(name, (2,))
    net, context = p.components[0].network, p.components[0].context
    x = p.sample((5,))
    probs = [
        ad.AutoregressiveDistribution(
            net,
            context,
            factorization=net.factorization.with_ordering(ordering),
            validate_args=False,
        ).log_prob(x).exp()
        for ordering in MIXTURES[name][2]
    ]  # fmt: skip
    if len(probs) > 1:
        assert not torch.allclose(probs[0], probs[1], rtol=1e-3)
    torch.testing.assert_close(p.log_prob(x).exp(), torch.stack(probs).mean(0))


@discrete
def test_probabilities_sum_to_one(name, float64):
    p = mixture(name, (2,))
    states = p.enumerate_support()
    assert len(states.unique(dim=0)) == len(states)
    assert p.support.check(states).all()
    torch.testing.assert_close(p.log_prob(states).exp().sum(0), torch.ones(2))


@discrete
def test_samples_follow_log_prob(name):
    """Each context's draws by their counts, beside a mixture that has always one component."""
    p = mixture(name, (2,))
    x = p.sample((3000,))
    states = p.enumerate_support(expand=False)
    same = (x.unsqueeze(0) == states.unsqueeze(1)).flatten(3).all(-1)
    assert same.any(0).all()
    counts = same.sum(1).double()
    expected = p.log_prob(states).exp().double() * len(x)
    kept = expected > 5
    chi2 = torch.where(kept, (counts - expected) ** 2 / expected, 0.0).sum(0)
    freedom = kept.sum(0) - 1
    assert (chi2 < freedom + 5 * (2 * freedom) ** 0.5 + 5).all()


@pytest.mark.parametrize("name", ["normal", "normal, groups"])
def test_continuous_samples_follow_log_prob(name, float64):
    """Importance weights between the mixture and one of its components have mean one."""
    p = mixture(name, (2,))
    x = p.sample((4000,))
    for component in p.components:
        weight = (component.log_prob(x) - p.log_prob(x)).exp()  # at most the number of components
        error = weight.std(0) / len(x) ** 0.5
        assert ((weight.mean(0) - 1).abs() < 5 * error).all()
        assert (error > 1e-4).all()


@each
def test_shapes_expansion_and_broadcasting(name):
    for batch in (None, (), (2,), (3, 1)):
        p = mixture(name, batch)
        shape, event = p.batch_shape, p.event_shape
        assert (shape, event) == (torch.Size(batch or ()), MIXTURES[name][1].event_shape)
        for sample in ((), (2,), (3, 2), (0,)):
            x = p.sample(sample)
            assert x.shape == p.shape(sample) == torch.Size(sample) + shape + event
            assert p.log_prob(x).shape == torch.Size(sample) + shape
        x = p.sample()
        for larger in (shape, (2, *shape), (3, 1, *shape), (2, 3, 4)[3 - len(shape) :]):
            if any(old not in (1, new) for old, new in zip(shape, larger[-len(shape) :])):
                continue
            q = p.expand(larger)
            assert q.batch_shape == torch.Size(larger)
            y = q.sample((2,))
            assert y.shape == (2, *larger, *event)
            torch.testing.assert_close(q.log_prob(x), p.log_prob(x).expand(larger))
            torch.testing.assert_close(q.log_prob(y), p.log_prob(y))
        single = x.reshape(-1, *event)[0]
        torch.testing.assert_close(p.log_prob(single), p.log_prob(single.expand((*shape, *event))))
