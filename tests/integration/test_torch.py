"""A distribution of torch: in its mixtures and wrappers, its divergence, `torch.func`, compiled."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws import assert_frequencies, quantile
from pyro.infer import TraceMeanField_ELBO
from table import CONTEXT, FACTORIZATIONS, NETWORKS, build, fits, random_made, slow_except
from torch import nn
from torch.distributions import Distribution, kl_divergence
from torch.func import grad, hessian, jacrev, jvp, stack_module_state, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrizations, parametrize, prune

import ardist as ad
from ardist import families as fam

# Mixtures and wrappers.


def test_a_torch_mixture_of_simplexes_in_one_row():
    p = build("made", "columns-of-simplexes", CONTEXT).condition(torch.randn(3, *CONTEXT))
    mixture = dist.MixtureSameFamily(dist.Categorical(torch.ones(3)), p, validate_args=True)
    x = mixture.sample((5,))
    expected = p.log_prob(x.unsqueeze(1)).logsumexp(-1) - math.log(3)
    torch.testing.assert_close(mixture.log_prob(x), expected)
    with pytest.raises(ValueError, match="within the support"):
        mixture.log_prob(x + 0.1)


@pytest.mark.parametrize("network", ["made", "rnn-gru", "transformer"])
def test_components_of_a_torch_mixture_by_one_batch_of_contexts(network):
    """As many outputs of a network as components, for each row: samples follow log_prob."""
    torch.manual_seed(1)
    contexts = torch.randn(2, 3, *CONTEXT) * 3
    p = build(network, "bernoulli-permutation", CONTEXT).condition(contexts)
    mixture = dist.MixtureSameFamily(dist.Categorical(logits=torch.randn(2, 3)), p)
    assert (mixture.batch_shape, mixture.event_shape) == ((2,), (2, 2))
    states = p.enumerate_support(expand=False)[:, :, 0]
    probs = mixture.log_prob(states).exp()
    torch.testing.assert_close(probs.sum(0), torch.ones(2))
    drawn = mixture.sample((4000,))
    counts = (drawn == states.unsqueeze(1)).all(-1).all(-1).sum(1)
    for each, expected in zip(counts.T, probs.T, strict=True):
        assert_frequencies(each, expected)


def test_a_mixture_with_all_components_drawn_is_that_of_one_drawn(float64):
    """`MixtureSameFamily` and `Mixture` are the same joint."""
    p = build("made", "normal-graph", CONTEXT).double().condition(torch.randn(3, *CONTEXT))
    weights = dist.Categorical(logits=torch.randn(3))
    parts = [p.network.condition(context) for context in p.context]
    whole, apart = dist.MixtureSameFamily(weights, p), ad.Mixture(weights, parts)
    x = apart.sample((9,))
    torch.testing.assert_close(whole.log_prob(x), apart.log_prob(x))


def test_independent_rows_are_one_event():
    p = build("made", "normal-reverse", CONTEXT).condition(torch.randn(5, 2, *CONTEXT))
    for dims, batch in ((1, (5,)), (2, ())):
        q = torch.distributions.Independent(p, dims)
        assert (q.batch_shape, q.event_shape) == (batch, (5, 2, 4)[2 - dims :])
        x = q.rsample((3,))
        assert x.requires_grad
        torch.testing.assert_close(q.log_prob(x), p.log_prob(x).flatten(-dims).sum(-1))
        assert q.support.event_dim == dims + 1


def test_a_transformed_distribution_has_the_gradients_of_its_base(float64):
    net = random_made(ad.Factorization(3, fam.Normal()), hidden_features=(4,))

    def law(bias):
        base = net.condition(params={"head.bias": bias})
        parts = [dist.transforms.TanhTransform(), dist.transforms.AffineTransform(1.0, 2.0)]
        return dist.TransformedDistribution(base, parts)

    def draw(bias):
        torch.manual_seed(3)
        return law(bias).rsample((4,))

    bias = torch.randn_like(net.head.bias, requires_grad=True)
    assert torch.autograd.gradcheck(draw, (bias,))
    x = draw(bias).detach()
    assert law(bias).support.check(x).all()
    assert torch.autograd.gradcheck(lambda bias: law(bias).log_prob(x), (bias,))


def test_expansion_and_masks_of_pyro_around_each_other():
    p = build("rnn-gru", "columns", CONTEXT).condition(torch.randn(2, *CONTEXT))
    mask = torch.tensor([True, False])
    for q in (dist.ExpandedDistribution(p.mask(mask), (3, 2)), p.expand((3, 2)).mask(mask)):
        x = q.sample((4,))
        assert x.shape == (4, 3, 2, 4)
        torch.testing.assert_close(q.log_prob(x), p.log_prob(x) * mask)


# The divergence that torch knows.


def test_the_divergence_is_the_sum_over_all_events(float64):
    """Of an autoregressive distribution from another, and from a distribution of any class."""
    torch.manual_seed(2)
    p = build("rnn-gru", "bernoulli-raster", CONTEXT).double().condition(torch.randn(3, *CONTEXT))
    net = build("transformer", "bernoulli-raster", CONTEXT).double()
    other = net.condition(torch.randn(2, 1, *CONTEXT))
    orders = [ad.Ordering.raster(), ad.Ordering.reverse()]
    for q in (
        other,
        dist.Bernoulli(logits=torch.randn(2, 1, 2, 2)).to_event(2),
        ad.OrderingMixture(net, orders, other.context),
        ad.Mixture(dist.Categorical(torch.ones(2)), [other, p]),
    ):
        states = p.expand((2, 3)).enumerate_support()
        log_p, log_q = p.log_prob(states), q.log_prob(states)
        exact = (log_p.exp() * (log_p - log_q)).sum(0)
        found = kl_divergence(p, q)
        torch.testing.assert_close(found, exact)
        weights = list(p.network.parameters())
        for one, same in zip(
            torch.autograd.grad(found.sum(), weights),
            torch.autograd.grad(exact.sum(), weights),
            strict=True,
        ):
            torch.testing.assert_close(one, same)
    assert kl_divergence(p, p).abs().max() < 1e-12


def test_where_the_divergence_is_not_exact_torch_says_who_estimates_it():
    message = r"p: expected events .* ardist\.information\.kl_divergence\(p, q\) estimates it"
    p = build("made", "normal-2").condition()
    many = random_made(ad.Factorization(13, fam.Bernoulli()), hidden_features=(4,)).condition()
    product = dist.Bernoulli(torch.full((13,), 0.5)).to_event(1)
    for first, second in (
        (p, p),
        (p, dist.Normal(torch.zeros(2), 1.0).to_event(1)),
        (many, product),
    ):
        with pytest.raises(NotImplementedError, match=message):
            kl_divergence(first, second)


def test_the_mean_field_elbo_takes_the_divergence_where_it_is_exact():
    """It draws nothing then; it does so for reparameterized guides alone, unless unchecked."""
    prior, guide = (build("made", f"bernoulli-{name}").condition() for name in ("raster", "random"))

    def loss():
        return TraceMeanField_ELBO().differentiable_loss(
            lambda: pyro.sample("x", prior), lambda: pyro.sample("x", guide)
        )

    with pytest.raises(NotImplementedError, match="fully reparameterized"):
        loss()
    with pyro.validation_enabled(False):
        torch.testing.assert_close(loss(), kl_divergence(guide, prior))
        assert loss() == loss()


def test_the_mean_field_elbo_falls_back_on_draws():
    prior, guide = (build("made", f"normal-{name}").condition() for name in ("raster", "random"))
    torch.manual_seed(1)
    loss = TraceMeanField_ELBO(num_particles=2000, vectorize_particles=True).loss(
        lambda: pyro.sample("x", prior), lambda: pyro.sample("x", guide)
    )
    value, error = ad.information.kl_divergence(guide, prior, 2000)
    # Two estimates of as many draws each.
    assert abs(loss - value) < 2**0.5 * quantile(2000) * error


# Transforms of torch.func.

TRANSFORMED = [
    (network, factorization)
    for network in NETWORKS
    for factorization in ("normal-raster", "image-channels", "categorical-2", "columns")
    if fits(network, factorization)
]
transformed = pytest.mark.parametrize(("network", "factorization"), TRANSFORMED)
real = pytest.mark.parametrize("network", [n for n, f in TRANSFORMED if f == "normal-raster"])


def events(network, factorization, **options):
    """A network's score of one event under one context, and some of both."""
    net = build(network, factorization, CONTEXT).to(torch.get_default_dtype())
    contexts = torch.randn(4, *CONTEXT)
    x = net.condition(contexts).sample()

    def score(x, context, params=None):
        return net.condition(context, params=params, **options).log_prob(x)

    return net, score, x, contexts


@pytest.mark.parametrize("validate_args", [True, False])
@transformed
def test_vmap_over_events_and_contexts(network, factorization, validate_args):
    _, score, x, contexts = events(network, factorization, validate_args=validate_args)
    torch.testing.assert_close(vmap(score)(x, contexts), score(x, contexts))
    torch.testing.assert_close(vmap(score, (0, None))(x, contexts[0]), score(x, contexts[0]))
    torch.testing.assert_close(vmap(score, (None, 0))(x[0], contexts), score(x[0], contexts))
    both = vmap(vmap(score, (0, None)), (None, 0))(x, contexts)
    torch.testing.assert_close(both, score(x, contexts.unsqueeze(1)))


@transformed
def test_vmap_over_what_follows_from_a_joint(network, factorization):
    net, _, x, contexts = events(network, factorization)
    fac = net.factorization
    first = fac.merge(fac.layout.expand_to_elements(fac.ranks.flatten() == 0))
    weights = torch.distributions.Categorical(torch.tensor([0.3, 0.7]).to(x.device))

    def two(context):
        return ad.Mixture(weights, [net.condition(context), net.condition(2 * context)])

    ways = {
        "marginal": lambda x, c: net.condition(c).marginal(first).log_prob(x[..., first]),
        "given": lambda x, c: net.condition(c).given(x, first).log_prob(x),
        "mixture": lambda x, c: two(c).given(x, first).mixing.logits,
        "blocks": lambda x, c: net.condition(c).log_prob_blocks(x),
    }
    for way in ways.values():
        torch.testing.assert_close(vmap(way)(x, contexts), way(x, contexts))


@transformed
def test_an_ensemble_and_the_gradient_of_each_event(network, factorization):
    """`params` that differ from network to network, and from row to row."""
    net, score, x, contexts = events(network, factorization)
    members = [net, copy.deepcopy(net)]
    with torch.no_grad():
        for weight in members[1].parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    params, _ = stack_module_state(members)
    found = vmap(lambda own: score(x, contexts, own))(params)
    expected = torch.stack([member.condition(contexts).log_prob(x) for member in members])
    torch.testing.assert_close(found, expected)

    own = {name: weight.detach() for name, weight in net.named_parameters()}
    each = vmap(grad(lambda own, x, context: score(x, context, own)), (None, 0, 0))
    found = each(own, x, contexts)
    for row in range(len(x)):
        loss = score(x[row], contexts[row])
        weights = torch.autograd.grad(loss, list(net.parameters()), materialize_grads=True)
        for (name, _), one in zip(net.named_parameters(), weights, strict=True):
            torch.testing.assert_close(found[name][row], one)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of torch, where it loops
@real
def test_derivatives_by_events_and_contexts(network, float64):
    """Backwards, forwards and twice, one event by another: against autograd of all together."""
    _, score, x, contexts = events(network, "normal-raster")
    x, contexts = x.requires_grad_(), contexts.requires_grad_()
    exact = torch.autograd.grad(score(x, contexts).sum(), (x, contexts), create_graph=True)
    for place, one in enumerate(exact):
        torch.testing.assert_close(vmap(grad(score, place))(x, contexts), one)
        torch.testing.assert_close(vmap(jacrev(score, place))(x, contexts), one)
    steps = torch.randn_like(x), torch.randn_like(contexts)
    value, along = jvp(score, (x, contexts), steps)
    torch.testing.assert_close(value, score(x, contexts))
    expected = sum((g * step).flatten(1).sum(1) for g, step in zip(exact, steps, strict=True))
    torch.testing.assert_close(along, expected)
    second = hessian(score)(x[0], contexts[0])
    with sdpa_kernel(SDPBackend.MATH):  # torch's fused attention is differentiable once
        slope = torch.autograd.functional.hessian(lambda x: score(x, contexts[0]), x[0])
    torch.testing.assert_close(second, slope)


# Weights that torch computes from others.

COMPUTED = {
    "prune": (lambda module, name: prune.l1_unstructured(module, name, 0.5), prune.remove),
    "weight_norm": (nn.utils.weight_norm, nn.utils.remove_weight_norm),
    "spectral_norm": (
        lambda module, name: nn.utils.spectral_norm(module, name, n_power_iterations=50),
        nn.utils.remove_spectral_norm,
    ),
    "parametrization": (parametrizations.weight_norm, parametrize.remove_parametrizations),
}


def with_computed_weights(network, change):
    """A network, and the places of the weights that are changed."""
    net = build(network, "normal-raster")
    weights = [
        (module, name)
        for module in net.modules()
        for name, weight in module._parameters.items()
        if weight is not None and weight.dim() > 1
    ]
    with torch.no_grad():
        for module, name in weights:  # some start at zero, and have no direction
            weight = getattr(module, name)
            weight.add_(torch.randn_like(weight) * 0.1)
    for module, name in weights:
        change(module, name)
    return net, weights


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("how", COMPUTED)
@pytest.mark.parametrize(
    "network", slow_except([n for n in NETWORKS if fits(n, "normal-raster")], "made", "transformer")
)
def test_computed_weights_are_those_of_now(network, how):
    """In scores and draws after training steps, and of a network that has loaded their result."""
    change, fix = COMPUTED[how]
    (net, _), (loaded, _), (fixed, weights) = (
        with_computed_weights(network, change) for _ in range(3)
    )
    x, optimizer = torch.randn(3, 4), torch.optim.SGD(net.parameters(), 0.01)
    for _ in range(2):
        optimizer.zero_grad()
        net.condition().log_prob(x).mean().neg().backward()
        optimizer.step()
    loaded.load_state_dict(net.state_dict())
    fixed.load_state_dict(net.state_dict())
    for module, name in weights:
        fix(module, name)
    found = []
    for one in (net, loaded, fixed):
        torch.manual_seed(0)
        draws = one.eval().condition().sample((5,))  # before a parallel pass
        found.append((draws, one.condition().log_prob(draws)))
    torch.testing.assert_close(found[0], found[2])
    torch.testing.assert_close(found[1], found[2])


# torch.compile.


@pytest.fixture
def unchecked():
    """Without validation, which the first use of torch.compile turns off for the process."""
    before = Distribution._validate_args
    torch._dynamo.reset()
    Distribution.set_default_validate_args(False)
    yield
    torch._dynamo.reset()
    Distribution.set_default_validate_args(before)


IMAGES = {
    "normal": fam.Normal(),
    "bernoulli": fam.Bernoulli(),
    "categorical": fam.Categorical(5),
    "mixture": fam.Mixture(fam.Normal(), 3),
    "discretized": fam.DiscretizedLogisticMixture(2, bins=8),
}
EVENTS = {
    **{name: ad.Factorization((3, 3), family) for name, family in IMAGES.items()},
    "columns": FACTORIZATIONS["columns"],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "event"),
    slow_except(
        [
            *(("made", event) for event in EVENTS),
            ("rnn-gru", "categorical"),
            ("transformer", "bernoulli"),
            ("transformer", "columns"),
            ("pixelcnn", "discretized"),
            ("wavenet", "mixture"),
        ],
        ("made", "columns"),
        ("transformer", "bernoulli"),
    ),
)
def test_a_training_step_compiles_to_one_graph(network, event, unchecked):  # trap 26
    """From the first call on; one with another number of rows compiles once more, for any."""
    net = NETWORKS[network](copy.deepcopy(EVENTS[event]), context_shape=CONTEXT)
    plain, graphs = copy.deepcopy(net), []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    def step(x, context):
        return -net.condition(context).log_prob(x).mean()

    # Without it torch compiles what is before and after its recurrent modules, and not these.
    with torch._dynamo.config.patch(allow_rnn=True):
        compiled = torch.compile(step, backend=backend, fullgraph=True)
        for rows in (4, 6, 7):
            context = torch.randn(rows, *CONTEXT)
            x = plain.condition(context).sample()
            loss, expected = compiled(x, context), -plain.condition(context).log_prob(x).mean()
            torch.testing.assert_close(loss, expected)
            found = torch.autograd.grad(loss, list(net.parameters()))
            wanted = torch.autograd.grad(expected, list(plain.parameters()))
            for one, other in zip(found, wanted, strict=True):
                torch.testing.assert_close(one, other)
    assert len(graphs) == 2


def test_what_averages_gradients_under_distributed_data_parallel(tmp_path):
    """The wrapper's own forward; the network inside, called without it, trains alone."""
    net, x, reduced = build("made", "normal-raster"), torch.zeros(3, 4), []

    def hook(_, bucket):
        reduced.append(bucket)
        done = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        likelihood = DistributedDataParallel(ad.LogLikelihood(net))
        wrapped = DistributedDataParallel(net)
        for module in (likelihood, wrapped):
            module.register_comm_hook(None, hook)
        for score, averaged in (
            (lambda: likelihood(x), True),
            (lambda: ad.AutoregressiveDistribution(wrapped).log_prob(x), True),
            (lambda: wrapped.module.condition().log_prob(x), False),
        ):
            reduced.clear()
            score().sum().backward()
            assert bool(reduced) == averaged
    finally:
        torch.distributed.destroy_process_group()
