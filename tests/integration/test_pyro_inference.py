"""Inference in Pyro with autoregressive latents, guides and weights, against exact answers."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws import quantile
from pyro import infer, poutine
from pyro.infer import autoguide
from table import NETWORKS, build, random_made, slow_except
from torch import nn

import ardist as ad
from ardist import families as fam

# A model small enough that every integral over its latent is a sum over nodes.

LATENTS = {
    "continuous": ad.Factorization(2, fam.Normal()),
    "discrete": ad.Factorization(2, fam.Bernoulli()),
    "chain": ad.Factorization.columns(a=fam.Bernoulli(), b=fam.Normal(), c=fam.Bernoulli()),
}
X = 0.7


def made(factorization, **options):
    """A small MADE whose blocks depend on each other."""
    net = random_made(factorization, hidden_features=(6,), **options)
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.4)
    return net.to(torch.get_default_dtype())


def nodes_of(factorization):
    """Events and weights of which a sum is an integral."""
    reals = torch.linspace(-9, 9, 241)
    each = [
        torch.tensor([0.0, 1.0]) if family.support.is_discrete else reals
        for family in factorization.layout.families
    ]
    step = (reals[1] - reals[0]).item()
    continuous = sum(not family.support.is_discrete for family in factorization.layout.families)
    return torch.cartesian_prod(*each), step**continuous


class Small:
    """x ~ Normal(sum(z), 1) under an autoregressive prior of z, with an autoregressive guide."""

    def __init__(self, latent, reparameterized=None, enumerate_guide=None):
        factorization = LATENTS[latent]
        self.prior, self.posterior = made(factorization), made(factorization)
        self.reparameterized, self.how = reparameterized, enumerate_guide
        self.events, self.weight = nodes_of(factorization)

    @property
    def weights(self):
        return [*self.prior.parameters(), *self.posterior.parameters()]

    def model(self):
        pyro.module("prior", self.prior)
        z = pyro.sample("z", self.prior.condition())
        pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=torch.tensor(X))
        return z

    def guide(self):
        pyro.module("posterior", self.posterior)
        q = self.posterior.condition()
        if self.reparameterized is not None:
            q = q.has_rsample_(self.reparameterized)
        return pyro.sample("z", q, infer={"enumerate": self.how})

    def log_joint(self):
        """log p(x, z) of all nodes."""
        likelihood = dist.Normal(self.events.sum(-1), 1.0).log_prob(torch.tensor(X))
        return self.prior.condition().log_prob(self.events) + likelihood

    def elbo(self):
        """The exact bound."""
        log_q = self.posterior.condition().log_prob(self.events)
        return (log_q.exp() * (self.log_joint() - log_q)).sum() * self.weight

    def log_evidence(self):
        return (self.log_joint().logsumexp(0) + math.log(self.weight)).detach()

    def posterior_moments(self):
        """Mean and variance of z given x."""
        probs = (self.log_joint() - self.log_evidence()).exp().detach() * self.weight
        mean = probs @ self.events
        return mean, probs @ (self.events - mean) ** 2


def gradients(small, elbo, batches=32):
    """An estimator's gradients, a row for each batch, and the exact gradient."""
    rows = []
    for _ in range(batches):
        elbo.loss_and_grads(small.model, small.guide)
        rows.append(torch.cat([weight.grad.flatten() for weight in small.weights]))
        for weight in small.weights:
            weight.grad = None
    exact = torch.autograd.grad(-small.elbo(), small.weights)
    return torch.stack(rows), torch.cat([gradient.flatten() for gradient in exact])


def deviation(found, exact):
    """The largest distance of a mean from the exact gradient, in standard errors."""
    error = found.std(0) / len(found) ** 0.5
    return ((found.mean(0) - exact).abs() / (error + 1e-4)).max()


UNBIASED = [
    (latent, reparameterized, elbo)
    for latent, reparameterized, elbos in [
        ("continuous", True, ("Trace", "TraceGraph", "TraceMeanField", "TraceEnum")),
        ("continuous", False, ("Trace", "TraceGraph", "TraceEnum")),
        ("discrete", None, ("Trace", "TraceGraph", "TraceEnum")),
        ("chain", True, ("Trace", "TraceEnum")),
        ("chain", False, ("Trace", "TraceGraph", "TraceEnum")),
    ]
    for elbo in elbos
]


def estimator(name, **options):
    return getattr(infer, f"{name}_ELBO")(
        num_particles=500,
        vectorize_particles=True,
        max_plate_nesting=0,
        strict_enumeration_warning=False,
        **options,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("latent", "reparameterized", "elbo"), UNBIASED)
def test_gradients_are_unbiased(latent, reparameterized, elbo, float64):
    """For prior and guide, against quadrature: by draws, by the score function, and by both."""
    pyro.set_rng_seed(1)  # networks whose gradients have light tails
    found, exact = gradients(Small(latent, reparameterized), estimator(elbo))
    assert deviation(found, exact) < quantile(len(found))
    # The errors are small enough that a wrong gradient would show.
    assert (found.mean(0) - exact).norm() < 0.2 * exact.norm()


def test_what_pyro_does_not_support_is_biased_or_refused(float64):
    """`TraceGraph_ELBO` asks a site with `has_rsample` for no score function at all, so that a
    chain of both kinds is biased under it; `TraceMeanField_ELBO` refuses any score function.
    """
    torch.random.manual_seed(1)  # always the same network, of which the bias is large
    small = Small("chain", True)
    for weight in small.weights:
        weight.data.mul_(3.0)
    found, exact = gradients(small, estimator("TraceGraph"))
    assert deviation(found, exact) > 10
    for latent, reparameterized in [("chain", True), ("chain", False), ("discrete", None)]:
        with pytest.raises(NotImplementedError, match="fully reparameterized"):
            gradients(Small(latent, reparameterized), estimator("TraceMeanField"))


@pytest.mark.parametrize("how", ["parallel", "sequential"])
def test_an_enumerated_guide_gives_the_exact_bound(how, float64):
    small = Small("discrete", enumerate_guide=how)
    elbo = infer.TraceEnum_ELBO(max_plate_nesting=0, strict_enumeration_warning=False)
    torch.testing.assert_close(-elbo.differentiable_loss(small.model, small.guide), small.elbo())
    found, exact = gradients(small, elbo, batches=1)
    torch.testing.assert_close(found[0], exact)


# Enumeration.

PARALLEL = {"enumerate": "parallel"}


@pytest.mark.parametrize("observed", [False, True], ids=["latent", "observed"])
@pytest.mark.parametrize("local", [False, True], ids=["global", "local"])
def test_a_context_enumerated_upstream(local, observed, float64):
    """The context gets a dimension left of the plates, or in them; a latent event one more."""
    net = made(LATENTS["discrete"], context_shape=(2,))
    contexts, probs = torch.randn(3, 2), torch.tensor([0.5, 0.3, 0.2])
    x, y = net.condition(contexts[0]).sample((4,)), torch.randn(4)

    def model():
        def context():
            return contexts[pyro.sample("c", dist.Categorical(probs), infer=PARALLEL)]

        given = None if local else context()
        with pyro.plate("rows", 4):
            p = net.condition(context() if given is None else given)
            z = pyro.sample("z", p, obs=x if observed else None, infer=PARALLEL)
            pyro.sample("y", dist.Normal(z.sum(-1), 1.0), obs=y)

    found = -infer.TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(model, lambda: None)
    p = net.condition(contexts.unsqueeze(1))
    events = x if observed else p.enumerate_support(expand=False)
    joint = p.log_prob(events) + dist.Normal(events.sum(-1), 1.0).log_prob(y)  # (..., 3, 4)
    each = joint if observed else joint.logsumexp(0)
    log_probs = probs.log()
    expected = (
        (each + log_probs.unsqueeze(-1)).logsumexp(0).sum()
        if local
        else (each.sum(-1) + log_probs).logsumexp(0)
    )
    torch.testing.assert_close(found, expected)
    for one, other in zip(
        torch.autograd.grad(found, list(net.parameters())),
        torch.autograd.grad(expected, list(net.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("configure", ["poutine.infer_config", "config_enumerate"])
def test_enumeration_as_pyro_configures_it(configure, float64):
    small = Small("discrete")
    model = (
        infer.config_enumerate(small.model, "parallel")
        if configure == "config_enumerate"
        else poutine.infer_config(small.model, config_fn=lambda _: PARALLEL)
    )
    loss = infer.TraceEnum_ELBO(max_plate_nesting=0).loss(model, lambda: None)
    assert -loss == pytest.approx(small.log_evidence().item())


def test_discrete_sites_with_event_dimensions_are_not_sampled_by_pyro():
    """`infer_discrete` takes values for ones without event dimensions, and the marginals of
    `TraceEnum_ELBO` are made as the site's own class of `logits`: both are for Categorical sites.
    """
    model = poutine.infer_config(Small("discrete").model, config_fn=lambda _: PARALLEL)
    with pytest.raises(ValueError, match="Invalid tensor shape"):
        infer.infer_discrete(model, first_available_dim=-1)()
    with pytest.raises(TypeError, match="logits"):
        infer.TraceEnum_ELBO(max_plate_nesting=0).compute_marginals(model, lambda: None)


# Importance weights.


@pytest.mark.parametrize("alpha", [0.0, 0.5])
@pytest.mark.parametrize("latent", list(LATENTS))
def test_renyi_bounds_of_many_particles(latent, alpha):
    small = Small(latent)
    elbo = infer.RenyiELBO(alpha, num_particles=20_000, vectorize_particles=True)
    log_q = small.posterior.condition().log_prob(small.events)
    powers = alpha * log_q + (1 - alpha) * small.log_joint()
    exact = (powers.logsumexp(0) + math.log(small.weight)) / (1 - alpha)
    assert -elbo.loss(small.model, small.guide) == pytest.approx(exact.item(), abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("latent", list(LATENTS))
def test_importance_weights(latent):
    small = Small(latent)
    weights, model_trace, _ = infer.importance.vectorized_importance_weights(
        small.model, small.guide, num_samples=20_000, max_plate_nesting=0
    )
    evidence = weights.logsumexp(0) - math.log(len(weights))
    torch.testing.assert_close(evidence, small.log_evidence(), rtol=0, atol=0.05)
    mean = weights.softmax(0).detach() @ model_trace.nodes["z"]["value"]
    torch.testing.assert_close(mean, small.posterior_moments()[0], rtol=0, atol=0.1)

    one_by_one = infer.Importance(small.model, small.guide, num_samples=100).run()
    evidence = one_by_one.get_log_normalizer()
    torch.testing.assert_close(evidence, small.log_evidence(), rtol=0, atol=0.3)


class Moves:
    """Two bits that follow two bits; the model hears their sum, the guide looks at it."""

    def __init__(self, net, hears):
        self.net, self.hears = net, hears

    def init(self, state):
        self.draw(state, 0, torch.tensor(0.0))

    def step(self, state, time, y):
        z = self.draw(state, time, y)
        if self.hears:
            pyro.sample(f"y{time}", dist.Normal(z.sum(-1), 0.5), obs=y)

    def draw(self, state, time, y):
        context = state["z"] if time else torch.zeros(2)
        if not self.hears:
            context = torch.cat([context, y.expand(*context.shape[:-1], 1)], -1)
        z = pyro.sample(f"z{time}", self.net.condition(context))
        if self.hears:
            state["z"] = z
        return z


def test_a_filter_finds_the_exact_state():
    net = made(LATENTS["discrete"], context_shape=(2,))
    data = torch.tensor([1.8, 0.3, 1.1])
    guide = Moves(made(LATENTS["discrete"], context_shape=(3,)), hears=False)
    smc = infer.SMCFilter(Moves(net, hears=True), guide, 20_000, max_plate_nesting=0)
    smc.init()
    for time, y in enumerate(data, 1):
        smc.step(time, y)
    found = smc.get_empirical()["z"].mean

    events = net.condition(torch.zeros(2)).enumerate_support()
    log_probs = net.condition(torch.zeros(2)).log_prob(events)
    moves = net.condition(events.unsqueeze(1)).log_prob(events)
    for y in data:
        attended = dist.Normal(events.sum(-1), 0.5).log_prob(y)
        log_probs = (log_probs.unsqueeze(1) + moves).logsumexp(0) + attended
    torch.testing.assert_close(found, log_probs.softmax(0) @ events, rtol=0, atol=0.02)


# Markov chains.


def run_nuts(model, num_samples, warmup_steps, *args, **options):
    kernel = infer.NUTS(model, **options)
    mcmc = infer.MCMC(kernel, num_samples, warmup_steps, disable_progbar=True)
    mcmc.run(*args)
    return mcmc.get_samples()


@pytest.mark.slow
def test_nuts_finds_the_exact_moments():
    """One chain over many copies of the latent in a plate."""
    small = Small("continuous")

    def model():
        with pyro.plate("copies", 64):
            small.model()

    z = run_nuts(model, 20, 30, max_tree_depth=4)["z"].flatten(0, 1)
    mean, variance = small.posterior_moments()
    torch.testing.assert_close(z.mean(0), mean, rtol=0, atol=0.1)
    torch.testing.assert_close(z.var(0), variance, rtol=0.15, atol=0)


CONSTRAINED = {
    "simplexes in one row": ad.Factorization.columns(a=fam.Dirichlet(2), b=fam.Dirichlet(2)),
    "columns": ad.Factorization.columns(a=fam.Gamma(), b=fam.Beta(), c=fam.Normal()),
    "grid": ad.Factorization((2, 2), fam.LogNormal(), ordering=ad.Ordering.random()),
    "vectors": ad.Factorization(
        (2, 3), fam.Dirichlet(3), partition=ad.Partition.along(0), ordering=ad.Ordering.reverse()
    ),
}


def constrained(name):
    net = made(CONSTRAINED[name])

    def model():
        with pyro.plate("rows", 2):
            z = pyro.sample("z", net.condition())
            total = z.flatten(-len(net.factorization.event_shape)).sum(-1)
            pyro.sample("x", dist.Normal(total, 1.0), obs=torch.tensor([1.0, 2.0]))

    return net, model


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CONSTRAINED))
def test_nuts_runs_on_the_support_by_its_bijection(name, float64):
    """The potential is -log p of the event under the change of variables, at any point."""
    net, model = constrained(name)
    points, potential, transforms, _ = infer.mcmc.util.initialize_model(model)
    free = torch.randn_like(points["z"])
    z = transforms["z"].inv(free)
    slope = transforms["z"].inv.log_abs_det_jacobian(free, z)
    total = z.flatten(-len(net.factorization.event_shape)).sum(-1)
    likelihood = dist.Normal(total, 1.0).log_prob(torch.tensor([1.0, 2.0]))
    expected = (net.condition().log_prob(z) + slope + likelihood).sum()
    torch.testing.assert_close(-potential({"z": free}), expected)
    drawn = run_nuts(model, 5, 5, max_tree_depth=3)["z"]
    assert net.condition().support.check(drawn).all()
    assert len(drawn.flatten(1).unique(dim=0)) > 1


@pytest.mark.slow
def test_nuts_over_a_positive_latent_finds_its_mean():
    """A Gamma prior alone, in many copies: its mean against the one by quadrature."""
    net = made(ad.Factorization(1, fam.Gamma()))

    def model():
        with pyro.plate("copies", 64):
            pyro.sample("z", net.condition())

    z = run_nuts(model, 20, 30, max_tree_depth=4)["z"]
    nodes = torch.logspace(-6, 2, 4001).unsqueeze(-1)
    density = net.condition().log_prob(nodes).exp().detach()
    exact = torch.trapezoid(density * nodes[:, 0], nodes[:, 0])
    torch.testing.assert_close(z.mean(), exact, rtol=0.15, atol=0)


# Guides made by Pyro.

AUTOGUIDES = [
    autoguide.AutoDelta,
    autoguide.AutoNormal,
    autoguide.AutoDiagonalNormal,
    autoguide.AutoMultivariateNormal,
    autoguide.AutoLowRankMultivariateNormal,
    autoguide.AutoIAFNormal,
    autoguide.AutoLaplaceApproximation,
    autoguide.AutoStructured,
    autoguide.AutoGaussian,
    autoguide.AutoNormalMessenger,
    autoguide.AutoRegressiveMessenger,
]


@pytest.mark.parametrize("name", list(CONSTRAINED))
@pytest.mark.parametrize("kind", AUTOGUIDES)
def test_autoguides_reach_every_support(kind, name):
    net, model = constrained(name)
    guide = kind(model)
    svi = infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), infer.Trace_ELBO())
    before = None
    for step in range(3):
        assert math.isfinite(svi.step())
        if step == 0:
            before = [weight.clone() for weight in guide.parameters()]
    drawn = guide()["z"]
    assert drawn.shape == (2, *net.factorization.event_shape)
    assert net.condition().support.check(drawn).all()
    moved = zip(before, guide.parameters(), strict=True)
    assert any(not torch.equal(*pair) for pair in moved)


@pytest.mark.slow
def test_a_trained_autoguide_finds_the_exact_moments():
    small = Small("continuous")
    model = poutine.block(small.model, hide_types=["param"])
    guide = autoguide.AutoMultivariateNormal(model)
    elbo = infer.Trace_ELBO(num_particles=32, vectorize_particles=True, max_plate_nesting=0)
    svi = infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.03}), elbo)
    for _ in range(200):
        svi.step()
    posterior = guide.get_posterior()
    mean, variance = small.posterior_moments()
    torch.testing.assert_close(posterior.mean.detach(), mean, rtol=0, atol=0.2)
    torch.testing.assert_close(posterior.variance.detach(), variance, rtol=0.3, atol=0)
    torch.testing.assert_close(
        -torch.tensor(svi.evaluate_loss()), small.log_evidence(), rtol=0, atol=0.2
    )


def test_what_autoguides_do_not_take_is_refused():
    """`AutoDiscreteParallel` is for Categorical and Bernoulli sites; the hierarchical guide needs
    the prior's mean, for which there is no formula; others need continuous blocks alone.
    """
    discrete = poutine.infer_config(Small("discrete").model, config_fn=lambda _: PARALLEL)
    with pytest.raises(NotImplementedError):
        autoguide.AutoDiscreteParallel(discrete)()
    with pytest.raises(NotImplementedError):
        autoguide.AutoHierarchicalNormalMessenger(Small("continuous").model)()
    with pytest.raises(ValueError, match="cannot handle discrete sample site 'z'"):
        autoguide.AutoNormal(Small("chain").model)()


# Predictions.


class Predicted:
    """z ~ p(z | context) in a plate, x ~ p(x | z), and y close to the sum of x."""

    def __init__(self):
        self.latent = made(LATENTS["continuous"], context_shape=(2,))
        self.output = made(ad.Factorization((2, 2), fam.Normal()), context_shape=(2,))
        self.contexts = torch.randn(3, 2)

    def __call__(self):
        with pyro.plate("rows", 3):
            z = pyro.sample("z", self.latent.condition(self.contexts))
            x = pyro.sample("x", self.output.condition(z))
            pyro.sample("y", dist.Normal(x.sum((-1, -2)), 0.01))


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("source", ["prior", "samples", "guide"])
def test_predictive(source, parallel):
    model = Predicted()
    given = {
        "prior": {"num_samples": 5},
        "samples": {"posterior_samples": {"z": torch.randn(5, 3, 2)}},
        "guide": {
            "num_samples": 5,
            "guide": autoguide.AutoNormal(poutine.block(model, hide=["x", "y"])),
        },
    }[source]
    found = infer.Predictive(model, parallel=parallel, return_sites=("z", "x", "y"), **given)()
    assert found["x"].shape == (5, 3, 2, 2)
    assert found["y"].shape == (5, 3)
    torch.testing.assert_close(found["y"], found["x"].sum((-1, -2)), rtol=0, atol=0.06)
    if source == "samples":
        assert torch.equal(found["z"], given["posterior_samples"]["z"])
    else:
        assert found["z"].shape == (5, 3, 2)


# Compiled by torch.jit.trace, as far as Pyro does that.


@pytest.mark.slow
@pytest.mark.parametrize(
    "network",
    slow_except(list(NETWORKS), "made", "rnn-gru", "wavenet", "transformer", "pixelcnn", "plain"),
)
def test_compiled_losses_follow_the_weights(network):
    """A latent and an observed site; the trace is made once, and the weights then move."""
    shape = "image-diagonal" if network == "pixelcnn" else "normal-raster"
    x = build(network, "bernoulli-raster").condition().sample((3,))

    def losses(elbo, **options):
        pyro.clear_param_store()
        prior, likelihood = build(network, shape), build(network, "bernoulli-raster")

        def model():
            pyro.module("prior", prior)
            pyro.module("likelihood", likelihood)
            with pyro.plate("rows", 3):
                z = pyro.sample("z", prior.condition())
                pyro.sample("x", likelihood.condition(), obs=x)
                pyro.sample("y", dist.Normal(z.flatten(1).sum(-1), 1.0), obs=torch.ones(3))

        guide = autoguide.AutoDelta(model, init_loc_fn=autoguide.init_to_median(num_samples=1))
        torch.manual_seed(1)
        optimizer = pyro.optim.Adam({"lr": 0.01})
        svi = infer.SVI(model, guide, optimizer, elbo(max_plate_nesting=1, **options))
        return torch.tensor([svi.step() for _ in range(3)])

    compiled = losses(infer.JitTrace_ELBO, ignore_jit_warnings=True)
    torch.testing.assert_close(compiled, losses(infer.Trace_ELBO))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("latent", "reparameterized", "elbo"),
    [
        ("continuous", False, "Trace"),
        ("discrete", None, "TraceGraph"),
        ("chain", False, "TraceEnum"),
    ],
)
def test_compiled_gradients_of_the_score_function_are_unbiased(
    latent, reparameterized, elbo, float64
):
    pyro.set_rng_seed(1)  # as above
    compiled = estimator(f"Jit{elbo}", ignore_jit_warnings=True)
    found, exact = gradients(Small(latent, reparameterized), compiled)
    assert deviation(found, exact) < quantile(len(found))
    assert (found.mean(0) - exact).norm() < 0.2 * exact.norm()


def test_gradients_through_draws_are_not_compiled():
    """They have a backward pass in Python, which a trace would never see again."""
    for latent in ("continuous", "chain"):
        with pytest.raises(NotImplementedError, match=r"torch\.jit\.trace.*has_rsample_\(False\)"):
            gradients(Small(latent, True), estimator("JitTrace", ignore_jit_warnings=True), 1)


def copying():
    """Each bit is most likely that before it, so that draws take from few to many passes."""
    net = random_made(ad.Factorization(5, fam.Bernoulli()), hidden_features=())
    net.direct.weight.data = 8.0 * torch.eye(5).roll(1, 0)
    net.direct.bias.data = torch.tensor([0.0, -4.0, -4.0, -4.0, -4.0])
    return net


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("make", [copying, lambda: build("rnn-gru", "ended-padded")])
def test_a_compiled_draw_does_not_repeat_how_the_first_one_went(make):
    """Neither how many passes that took, nor when its sequence ended."""
    p = make().requires_grad_(False).condition()
    drawn = []
    for _ in range(8):
        compiled = torch.jit.trace(lambda _: p.sample((1,)), torch.zeros(()), check_trace=False)
        drawn += [compiled(torch.zeros(())) for _ in range(80)]
    states = p.enumerate_support()
    same = [(torch.cat(drawn) == state).flatten(1).all(1) for state in states]
    shares = torch.stack(same).float().mean(1)
    torch.testing.assert_close(shares, p.log_prob(states).exp(), rtol=0, atol=0.08)


@pytest.mark.slow
def test_a_compiled_potential_is_the_plain_one():
    """Of a network that is fixed: a trace takes no weights with gradients for constants."""
    net, model = constrained("columns")
    net.requires_grad_(False)
    initialize = infer.mcmc.util.initialize_model
    points, plain, _, _ = initialize(model)
    _, compiled, _, _ = initialize(model, jit_compile=True, skip_jit_warnings=True)
    for _ in range(2):  # the first call makes the trace
        at = {"z": torch.randn_like(points["z"])}
        torch.testing.assert_close(compiled(at), plain(at))
    drawn = run_nuts(model, 2, 2, jit_compile=True, ignore_jit_warnings=True)["z"]
    assert net.condition().support.check(drawn).all()


# Priors on a network's weights.


class BayesianMADE:
    """x ~ a MADE over two bits, whose weights are standard normal latents."""

    def __init__(self, subsample_size=None):
        self.net = random_made(LATENTS["discrete"], hidden_features=())
        self.states = self.net.condition().enumerate_support()
        self.subsample_size = subsample_size
        self.x = torch.tensor([[0.0, 0.0]] * 3 + [[1.0, 1.0]] * 6 + [[1.0, 0.0]])

    def __call__(self, x):
        weights = {
            name: pyro.sample(name, dist.Normal(0.0, 1.0).expand(like.shape).to_event())
            for name, like in self.net.named_parameters()
        }
        with pyro.plate("rows", len(self.x), self.subsample_size):
            observed = None if x is None else pyro.subsample(x, event_dim=1)
            pyro.sample("x", self.net.condition(params=weights), obs=observed)

    def exact(self):
        """log p(x), and the probability of each state given x, by many draws from the prior."""
        weights = {
            name: torch.randn(200_000, *like.shape) for name, like in self.net.named_parameters()
        }
        scores = self.log_prob(weights, self.x).sum(-1)
        evidence = scores.logsumexp(0) - math.log(len(scores))
        return evidence, scores.softmax(0) @ self.log_prob(weights, self.states).exp()

    def log_prob(self, weights, value):
        """log_prob of values under many networks at once."""

        def of_one(weights):
            return self.net.condition(params=weights, validate_args=False).log_prob(value)

        return torch.func.vmap(of_one)(weights)

    def predicted(self, samples):
        """The probability of each state under draws of the weights."""
        weights = {name: samples[name] for name, _ in self.net.named_parameters()}
        return self.log_prob(weights, self.states).exp().mean(0)


def test_gradients_reach_weights_that_are_latents():
    model = BayesianMADE()
    weights = dict(model.net.named_parameters())
    trace = poutine.trace(poutine.condition(model, data=weights)).get_trace(model.x)
    trace.compute_log_prob()
    score = trace.nodes["x"]["log_prob"]
    expected = model.net.condition().log_prob(model.x)
    torch.testing.assert_close(score, expected)
    for one, other in zip(
        torch.autograd.grad(score.sum(), list(weights.values())),
        torch.autograd.grad(expected.sum(), list(weights.values())),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
        assert one.any()


@pytest.mark.slow
@pytest.mark.parametrize("subsample_size", slow_except([None, 5], None))
def test_a_mean_field_posterior_of_weights(subsample_size):
    """Close to the exact one, in evidence and in what it predicts, drawn or computed."""
    model = BayesianMADE(subsample_size)
    evidence, exact = model.exact()
    guide = autoguide.AutoNormal(model, init_scale=0.5)
    optimizer = pyro.optim.ClippedAdam({"lr": 0.05, "lrd": 0.99})
    svi = infer.SVI(model, guide, optimizer, infer.Trace_ELBO())
    for _ in range(250):
        svi.step(model.x)
    samples = infer.Predictive(guide, num_samples=100)(model.x)
    torch.testing.assert_close(model.predicted(samples), exact, rtol=0, atol=0.06)
    drawn = infer.Predictive(BayesianMADE(), posterior_samples=samples)(None)["x"]
    shares = torch.stack([(drawn == state).all(-1).float().mean() for state in model.states])
    torch.testing.assert_close(shares, exact, rtol=0, atol=0.08)
    bound = -sum(svi.evaluate_loss(model.x) for _ in range(100)) / 100
    assert evidence - 0.7 < bound < evidence + 0.2


@pytest.mark.slow
def test_nuts_over_weights():
    model = BayesianMADE()
    samples = run_nuts(model, 80, 40, model.x, max_tree_depth=4)
    torch.testing.assert_close(model.predicted(samples), model.exact()[1], rtol=0, atol=0.05)


def in_particles(model):
    elbo = infer.Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    return elbo.loss(model, autoguide.AutoNormal(model), model.x)


def in_parallel(model):
    return infer.Predictive(model, num_samples=3, parallel=True)(None)


@pytest.mark.parametrize("run", [in_particles, in_parallel])
def test_weights_of_several_networks_are_refused(run):
    """Vectorized, each weight has dimensions more: no network runs with it."""
    message = r"params: .*'direct\.weight' of shape \(2, 2\).*got \(3, 1, 2, 2\).*vmap"
    with pytest.raises(ValueError, match=message):
        run(BayesianMADE())
