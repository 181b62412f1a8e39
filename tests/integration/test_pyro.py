"""At a pyro.sample site, with no wrapper: plates, handlers and modules."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule, PyroParam, PyroSample
from pyro.nn.module import to_pyro_module_
from table import CONTEXT, NETWORKS, build, condition

import ardist as ad
from ardist import families as fam
from ardist import networks

OUTER, ROWS = 2, 6

SITES = {
    "scalars": ("made", "normal-permutation"),
    "a grid": ("rnn-gru", "bernoulli-raster"),
    "columns": ("made", "columns"),
    "vectors": ("unshared", "split"),
    "nested": ("made", "nested"),
    "a scalar": ("transformer", "scalar"),
}


class Site:
    """A model with one site in two plates, of which the inner one may be subsampled."""

    def __init__(self, name, subsample_size=None):
        self.net = build(*SITES[name], CONTEXT)
        self.contexts = torch.randn(ROWS, *CONTEXT)
        self.subsample_size = subsample_size
        self.x = self.net.condition(self.contexts).sample((OUTER,))

    def __call__(self, x=None, **options):
        pyro.module("net", self.net)
        with (
            pyro.plate("outer", OUTER, dim=-2),
            pyro.plate("rows", ROWS, self.subsample_size, dim=-1),
        ):
            p = self.net.condition(pyro.subsample(self.contexts, event_dim=1))
            observed = None if x is None else pyro.subsample(x, event_dim=len(p.event_shape))
            return pyro.sample("x", p, obs=observed, **options)

    def log_prob(self, x):
        return self.net.condition(self.contexts).log_prob(x)


@pytest.fixture(params=list(SITES))
def site(request):
    return Site(request.param)


def nodes_of(model, *args, **kwargs):
    trace = poutine.trace(model).get_trace(*args, **kwargs)
    trace.compute_log_prob()
    return trace.nodes


def drawn(p):
    torch.manual_seed(1)
    return p.sample()


# Plates.


@pytest.mark.parametrize("observed", [False, True], ids=["latent", "observed"])
@pytest.mark.parametrize("subsample_size", [None, 4])
@pytest.mark.parametrize("name", list(SITES))
def test_nested_and_subsampled_plates(name, subsample_size, observed):
    model = Site(name, subsample_size)
    nodes = nodes_of(model, model.x if observed else None)
    node, rows = nodes["x"], nodes["rows"]["value"]
    if observed:
        assert torch.equal(node["value"], model.x[:, rows])
    assert node["value"].shape == (OUTER, len(rows), *node["fn"].event_shape)
    expected = model.net.condition(model.contexts[rows]).log_prob(node["value"])
    torch.testing.assert_close(node["unscaled_log_prob"], expected)
    torch.testing.assert_close(node["log_prob"], expected * (ROWS / len(rows)))


@pytest.mark.parametrize("observed", [False, True], ids=["latent", "observed"])
def test_particles_are_one_more_plate(site, observed):
    with pyro.plate("particles", 3, dim=-3):
        node = nodes_of(site, site.x if observed else None)["x"]
    assert node["fn"].batch_shape == node["log_prob"].shape == (3, OUTER, ROWS)
    torch.testing.assert_close(node["log_prob"], site.log_prob(node["value"]).expand(3, -1, -1))
    if not observed:
        assert not torch.equal(node["value"][0], node["value"][1])


@pytest.mark.parametrize("vectorized", [False, True])
def test_the_loss_of_an_observed_site_is_its_negative_log_prob(site, vectorized):
    elbo = Trace_ELBO(num_particles=3, vectorize_particles=vectorized, max_plate_nesting=2)
    loss = elbo.differentiable_loss(site, lambda x: None, site.x)
    torch.testing.assert_close(-loss, site.log_prob(site.x).sum())


# Handlers.

KEPT = torch.tensor([True, False, True, True, False, False])

SCORES = {
    "mask": (lambda model: poutine.mask(model, mask=KEPT), lambda scores: scores * KEPT),
    "masked out": (lambda model: poutine.mask(model, mask=False), lambda scores: scores * 0),
    "scale": (lambda model: poutine.scale(model, scale=0.5), lambda scores: scores * 0.5),
    "both": (
        lambda model: poutine.scale(poutine.mask(model, mask=KEPT), scale=2.0),
        lambda scores: scores * KEPT * 2,
    ),
    "infer_config": (
        lambda model: poutine.infer_config(model, config_fn=lambda _: {"is_told": True}),
        lambda scores: scores,
    ),
}


@pytest.mark.parametrize("observed", [False, True], ids=["latent", "observed"])
@pytest.mark.parametrize("handler", list(SCORES))
def test_handlers_of_scores(site, handler, observed):
    handle, change = SCORES[handler]
    node = nodes_of(handle(site), site.x if observed else None)["x"]
    torch.testing.assert_close(node["log_prob"], change(site.log_prob(node["value"])))
    assert node["infer"].get("is_told", False) == (handler == "infer_config")


def test_condition_observes(site):
    node = nodes_of(poutine.condition(site, data={"x": site.x}))["x"]
    assert node["is_observed"]
    assert torch.equal(node["value"], site.x)
    torch.testing.assert_close(node["log_prob"], site.log_prob(site.x))


def test_replay_takes_the_draw_of_a_trace(site):
    trace = poutine.trace(site).get_trace()
    node = nodes_of(poutine.replay(site, trace=trace))["x"]
    assert not node["is_observed"]
    assert torch.equal(node["value"], trace.nodes["x"]["value"])
    torch.testing.assert_close(node["log_prob"], site.log_prob(node["value"]))


def test_an_intervention_replaces_the_value_and_not_the_site(site):
    """`do` lets the site draw as ever, and what comes after it see another value."""
    handled = poutine.do(site, data={"x": site.x})
    assert torch.equal(handled(), site.x)
    node = nodes_of(handled)["x"]
    assert not node["is_observed"]
    assert not torch.equal(node["value"], site.x)
    torch.testing.assert_close(node["log_prob"], site.log_prob(node["value"]))


def test_block_and_uncondition(site):
    assert "x" not in nodes_of(poutine.block(site, hide=["x"]))
    node = nodes_of(poutine.uncondition(site), site.x)["x"]
    assert not node["is_observed"]
    assert not torch.equal(node["value"], site.x)


def test_rows_observed_by_a_mask(site):
    """`obs_mask` has an entry for each row: it splits the site in two, and joins the values."""
    nodes = nodes_of(site, site.x, obs_mask=KEPT)
    value, drawn = nodes["x"]["value"], nodes["x_unobserved"]["value"]
    assert torch.equal(value[:, KEPT], site.x[:, KEPT])
    assert torch.equal(value[:, ~KEPT], drawn[:, ~KEPT])
    scores = nodes["x_observed"]["log_prob"] + nodes["x_unobserved"]["log_prob"]
    torch.testing.assert_close(scores, site.log_prob(value))


# Modules.


class InModule(PyroModule):
    """A network as an attribute of a model that is a module."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, contexts, x=None):
        with pyro.plate("rows", len(contexts)):
            return pyro.sample("x", self.net.condition(contexts), obs=x)


def as_function(net):
    def model(contexts, x=None):
        pyro.module("net", net)
        with pyro.plate("rows", len(contexts)):
            return pyro.sample("x", net.condition(contexts), obs=x)

    return model


def as_converted_module(net):
    model = InModule(net)
    to_pyro_module_(model)
    return model


@pytest.mark.parametrize("network", list(NETWORKS))
@pytest.mark.parametrize("build_model", [as_function, InModule, as_converted_module])
def test_a_model_trains_its_network(build_model, network):
    """Also where it is read only after the model has run, as in the score of an observed site."""
    net = build(network, "bernoulli-raster", CONTEXT)
    before = [weight.clone() for weight in net.parameters()]
    contexts, x = torch.randn(5, *CONTEXT), torch.ones(5, 2, 2)
    model = build_model(net)
    expected = -net.condition(contexts).log_prob(x).sum()
    svi = SVI(model, lambda *_: None, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    losses = [svi.step(contexts, x) for _ in range(2)]
    torch.testing.assert_close(torch.tensor(losses[0]), expected)
    assert losses[1] < losses[0]
    moved = [not torch.equal(*pair) for pair in zip(before, net.parameters(), strict=True)]
    assert all(moved)


@pytest.mark.parametrize("network", list(NETWORKS))
def test_a_converted_network_draws_and_scores_as_before(network):
    net = build(network, "bernoulli-raster", CONTEXT)
    x = drawn(condition(net, 5))
    expected = condition(net, 5).log_prob(x)
    to_pyro_module_(net)
    assert torch.equal(drawn(condition(net, 5)), x)
    assert torch.equal(condition(net, 5).log_prob(x), expected)


def test_a_constrained_parameter_of_a_network_is_trained():
    net = build("made-linear", "bernoulli-raster", CONTEXT)
    to_pyro_module_(net)
    net.direct.bias = PyroParam(torch.full_like(net.direct.bias, 0.5), dist.constraints.positive)
    contexts, x = torch.randn(5, *CONTEXT), torch.zeros(5, 2, 2)
    svi = SVI(InModule(net), lambda *_: None, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    losses = [svi.step(contexts, x) for _ in range(20)]
    assert losses[-1] < losses[0]
    assert (net.direct.bias > 0).all()
    assert (net.direct.bias < 0.5).all()


# Attributes that are samples.


class Declared(networks.MADE, PyroModule):
    """A prior that is declared in the class."""

    @PyroSample
    def temperature(self):
        return dist.Gamma(2.0, 2.0)


def _with_sample(net, name):
    to_pyro_module_(net)
    path, _, attribute = name.rpartition(".")
    setattr(net.get_submodule(path), attribute, PyroSample(dist.Normal(0.0, 1.0)))
    return net


REFUSED = {
    "hidden.0.weight": lambda: _with_sample(build("made", "bernoulli-raster"), "hidden.0.weight"),
    "start": lambda: _with_sample(build("rnn-gru", "bernoulli-raster"), "start"),
    "temperature": lambda: Declared(ad.Factorization(2, fam.Bernoulli()), hidden_features=(4,)),
    "module.attend.bias": lambda: _with_sample(
        build("foreign", "bernoulli-raster"), "module.attend.bias"
    ),
}

MAKE = {
    "condition": lambda net: net.condition(),
    "a distribution": ad.AutoregressiveDistribution,
    "a compiled network": lambda net: ad.AutoregressiveDistribution(
        torch.compile(net, backend="eager")
    ),
    "a mixture of orders": lambda net: ad.OrderingMixture(net, [net.factorization.ordering]),
}


@pytest.mark.parametrize("name", list(REFUSED))
@pytest.mark.parametrize("make", list(MAKE))
def test_a_pyro_sample_in_a_network_is_refused(make, name):
    with pytest.raises(ValueError, match=rf"'{name}' of .* PyroSample.*params=\{{'{name}': value"):
        MAKE[make](REFUSED[name]())


def test_a_submodule_of_pyro_is_looked_into():
    net = build("plain", "normal-2", CONTEXT)
    net.context = PyroModule[torch.nn.Linear](3, len(net.mask))
    contexts = torch.randn(4, *CONTEXT)
    assert net.condition(contexts).sample().shape == (4, 2)
    net.context.bias = PyroSample(dist.Normal(0.0, 1.0).expand([len(net.mask)]).to_event(1))
    with pytest.raises(ValueError, match=r"'context\.bias' of Plain is a PyroSample"):
        net.condition(contexts)


# Nothing survives a call (trap 28).


def _by_an_optimizer(net):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    for weight in net.parameters():
        weight.grad = torch.randn_like(weight)
    optimizer.step()


def _by_data(net):
    for weight in net.parameters():
        weight.data.add_(0.5 * torch.randn_like(weight))


def _by_loading(net):
    state = net.state_dict()
    changed = {name: state[name] + 0.5 * torch.randn_like(w) for name, w in net.named_parameters()}
    net.load_state_dict({**state, **changed})


CHANGES = {
    "an optimizer": _by_an_optimizer,
    "data": _by_data,
    "loading": _by_loading,
    "to": lambda net: net.to(torch.float64),
}


@pytest.mark.parametrize("change", list(CHANGES))
@pytest.mark.parametrize("network", list(NETWORKS))
def test_no_state_survives_between_calls(network, change):  # trap 28
    """After a draw and its score, all follows the weights as they are now."""
    case = (network, "image-diagonal" if network == "pixelcnn" else "normal-raster", CONTEXT)
    net = build(*case)
    old = condition(net, 3)
    x = old.sample()
    before = old.log_prob(x)
    CHANGES[change](net)
    fresh = build(*case).to(next(net.parameters()).dtype)  # with which nothing was computed
    fresh.load_state_dict(net.state_dict())
    expected, x = condition(fresh, 3), x.to(next(net.parameters()).dtype)
    kept = [condition(net, 3)] if change == "to" else [condition(net, 3), old]
    for p in kept:
        assert torch.equal(p.log_prob(x), expected.log_prob(x))
        assert torch.equal(drawn(p), drawn(expected))
    assert (change == "to") == torch.allclose(expected.log_prob(x), before.to(x.dtype))
