"""At a pyro.sample site, with no wrapper."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal
from table import CONTEXT, build
from torch.distributions import biject_to, constraints

import ardist as ad
from ardist import families as fam
from ardist import networks


@pytest.mark.parametrize("network", ["made", "rnn-gru"])
@pytest.mark.parametrize("factorization", ["normal-reverse", "bernoulli-raster", "columns"])
def test_observed_and_latent_inside_plates(network, factorization):
    net = build(network, factorization, CONTEXT)
    context = torch.randn(5, *CONTEXT)
    x = net.condition(context).sample()

    def model(x=None):
        pyro.module("net", net)
        with pyro.plate("rows", 5):
            return pyro.sample("x", net.condition(context), obs=x)

    trace = poutine.trace(model).get_trace(x)
    trace.compute_log_prob()
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], net.condition(context).log_prob(x))
    assert model().shape == x.shape
    with pyro.plate("outer", 3, dim=-2):
        assert model().shape == (3, *x.shape)
    masked = poutine.trace(poutine.mask(model, mask=torch.tensor([True, False] * 2 + [True])))
    expected = net.condition(context).log_prob(x)[::2].sum()
    torch.testing.assert_close(masked.get_trace(x).log_prob_sum(), expected)


def test_a_prior_learns_under_svi():
    """A latent with an autoregressive prior, a mean-field guide, and vectorized particles."""
    prior = networks.MADE(ad.Factorization(2, fam.Normal()), hidden_features=(16,))
    data = torch.randn(20, 2) @ torch.tensor([[1.0, 0.9], [0.0, 0.3]])

    def model():
        pyro.module("prior", prior)
        with pyro.plate("data", 20):
            z = pyro.sample("z", prior.condition())
            pyro.sample("x", dist.Normal(z, 0.1).to_event(1), obs=data)

    guide = AutoNormal(model)
    elbo = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.03}), elbo)
    losses = [svi.step() for _ in range(150)]
    assert sum(losses[-10:]) < sum(losses[:10])
    assert Predictive(model, guide=guide, num_samples=4)()["z"].shape == (4, 20, 2)


def test_gradients_of_a_guide_match_the_exact_ones(float64):
    """Score-function gradients of a discrete guide are unbiased: mean of many against the sum."""
    net = networks.MADE(ad.Factorization(2, fam.Bernoulli()), hidden_features=(4,)).double()
    target = torch.tensor([[0.1, 0.2], [0.3, 0.4]])

    def model():
        x = torch.ones(2)
        with pyro.plate("particles", 20_000):
            x = pyro.sample("x", dist.Bernoulli(0.5).expand([2]).to_event(1))
            index = x.long()
            pyro.factor("f", (target[index[:, 0], index[:, 1]] * 4).log())

    def guide():
        pyro.module("net", net)
        with pyro.plate("particles", 20_000):
            pyro.sample("x", net.condition())

    Trace_ELBO().differentiable_loss(model, guide).backward()
    found = [weight.grad / 20_000 for weight in net.parameters()]
    net.zero_grad()
    p = net.condition()
    states = p.enumerate_support()
    log_q = p.log_prob(states)
    exact = (log_q.exp() * (log_q - target.flatten().log())).sum()
    expected = torch.autograd.grad(exact, list(net.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0.02)


def test_enumeration_of_a_small_event(float64):  # trap 18
    net = networks.MADE(ad.Factorization(2, fam.Bernoulli()), hidden_features=(4,)).double()
    p = net.condition().expand((3,))
    assert p.has_enumerate_support
    assert p.enumerate_support(expand=False).shape == (4, 1, 2)
    assert p.enumerate_support().shape == (4, 3, 2)
    x = torch.randn(3)

    def model():
        with pyro.plate("data", 3):
            z = pyro.sample("z", net.condition(), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    loss = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(model, lambda: None)
    states = net.condition().enumerate_support()
    joint = net.condition().log_prob(states) + dist.Normal(states.sum(-1), 1.0).log_prob(x[:, None])
    torch.testing.assert_close(-loss, joint.logsumexp(-1).sum())


def test_wrappers_of_torch():  # traps 8, 19, 20
    net = networks.MADE(
        ad.Factorization(2, fam.Normal()), hidden_features=(16,), context_shape=CONTEXT
    )
    context = torch.randn(4, *CONTEXT)
    p = net.condition(context)
    mixture = dist.MixtureSameFamily(dist.Categorical(logits=torch.zeros(4)), p)
    x = mixture.sample((5,))
    expected = (p.log_prob(x.unsqueeze(-2)) - torch.tensor(4.0).log()).logsumexp(-1)
    torch.testing.assert_close(mixture.log_prob(x), expected)
    assert p.to_event(1).log_prob(p.sample()).shape == ()
    flow = dist.TransformedDistribution(p, dist.transforms.ExpTransform())
    assert flow.log_prob(flow.sample((3,))).shape == (3, 4)


def test_the_support_is_declared():  # trap 14
    p = build("made", "columns", CONTEXT).condition(torch.zeros(2, *CONTEXT))
    assert isinstance(type(p).support, constraints.Constraint)  # a plain property is none
    assert p.support.event_dim == len(p.event_shape)
    transform = biject_to(build("made", "gamma-2").condition().support)
    assert (transform(torch.randn(5, 2)) > 0).all()


def test_sample_shapes_as_lists_and_tuples():  # trap 10
    p = build("made", "normal-2").condition()
    assert p.sample([3]).shape == p.sample((3,)).shape == p.expand_by([3]).sample().shape == (3, 2)
