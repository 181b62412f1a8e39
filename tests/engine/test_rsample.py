"""Gradients through draws: those of plain autograd through the steps, for every network."""

import copy

import pytest
import torch
from laws import assert_mean
from table import CONTEXT, FACTORIZATIONS, FAMILIES, GPT, REPRESENTATIVE, build, random_made

import ardist as ad
from ardist import families as fam
from ardist import networks

# The straight-through gradient is of noise that is drawn anew each time.
REPARAMETERIZED = [
    case
    for case in REPRESENTATIVE
    if FACTORIZATIONS[case[1]].has_rsample and "straight_through" not in case[1]
]


def through_steps(p, x):
    """The draws x (rows, ...) once more, each step's from a pass over those before it."""
    fac, layout = p.factorization, p.factorization.layout
    drawn = fac.split(x)
    blocks = drawn.clone()
    observed = p.batch_of(x).evidence
    ranks = fac.ranks.flatten().to(drawn.device)
    steps = [(ranks == step).expand(len(x), -1) for step in range(fac.num_steps)]
    if p.ranks is not None:
        steps = [p.batch_of(x).ranks == step for step in range(fac.num_blocks)]
    for now in steps:
        params = p.batch_of(x).forward(blocks)
        again = layout.pathwise(params, drawn)
        if observed is not None:
            again = torch.where(observed[1], observed[0], again)
        blocks = torch.where(layout.expand_to_elements(now), again, blocks)
    return fac.merge(blocks)


def holds(p, inputs, tolerance=1e-9):
    """Draws, scores and gradients agree with those through the steps."""
    torch.manual_seed(3)
    x, score = p.rsample_and_log_prob()
    torch.manual_seed(3)
    torch.testing.assert_close(x, p.sample(), rtol=1e-8, atol=1e-8)
    again = through_steps(p, x.detach())
    torch.testing.assert_close(x, again, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(score, p.log_prob(again), rtol=1e-8, atol=1e-8)
    of_x, of_score = torch.randn_like(x), torch.randn_like(score)

    def gradients(x, score):
        total = (x * of_x).sum() + (0 if score is None else (score * of_score).sum())
        return torch.autograd.grad(total, inputs, allow_unused=True, retain_graph=True)

    torch.manual_seed(3)
    alone = p.rsample()
    for ours, theirs in (
        (gradients(x, score), gradients(again, p.log_prob(again))),
        (gradients(alone, None), gradients(again, None)),
        (gradients(alone, None), gradients(again, None)),  # and once more from the same graph
    ):
        for own, other in zip(ours, theirs, strict=True):
            if other is not None:
                own = torch.zeros_like(other) if own is None else own
                assert (own - other).abs().max() <= tolerance * (1 + other.abs().max())
    assert any(other is not None and other.abs().max() > 0 for other in theirs)


@pytest.mark.parametrize(("network", "factorization"), REPARAMETERIZED)
def test_gradients_are_those_through_the_steps(network, factorization, float64):
    net = build(network, factorization, CONTEXT).double()
    context = torch.randn(2, *CONTEXT, requires_grad=True)
    holds(net.condition(context), [*net.parameters(), context])


@pytest.mark.parametrize(
    "network", ["made", "made-residual", "rnn-lstm", "transformer", "unshared"]
)
def test_gradients_given_a_prefix(network, float64):
    net = build(network, "normal-raster", CONTEXT).double()
    context = torch.randn(3, *CONTEXT, requires_grad=True)
    value = torch.randn(3, 4, requires_grad=True)
    for mask in ([1, 1, 0, 0], [[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]):
        p = net.condition(context).given(value, torch.tensor(mask).bool())
        holds(p, [*net.parameters(), context, value])


@pytest.mark.parametrize("factorization", ["normal-raster", "normal-ties"])
def test_gradients_with_an_order_for_each_row(factorization, float64):
    net = build("transformer", factorization).double()
    ranks = torch.tensor([[0, 1, 2, 3], [3, 1, 0, 2], [2, 0, 1, 3]])
    holds(net.condition().with_ordering(ranks), list(net.parameters()))


def nested(network, **options):
    torch.manual_seed(0)
    inner = random_made(ad.Factorization(2, fam.Normal()), context_shape=(3,), hidden_features=8)
    fac = ad.Factorization((3, 2), fam.Nested(inner), partition=ad.Partition.along(0))
    return network(fac, **options).double()


@pytest.mark.parametrize(
    ("network", "options"),
    [
        (random_made, {"hidden_features": 16}),
        (networks.RNN, {"hidden_size": 8}),
        (networks.Transformer, GPT),
    ],
)
def test_gradients_reach_nested_networks(network, options, float64):
    net = nested(network, **options)
    p = net.condition().expand((3,))
    holds(p, list(net.parameters()))
    net.zero_grad()
    p.rsample().sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in net.nested.parameters())


ACTIVATIONS = [torch.nn.PReLU(), torch.nn.RReLU(0.1, 0.9), torch.nn.ReLU(inplace=True)]


def with_activation(activation, residual=False):
    return random_made(
        ad.Factorization(5, fam.Normal()),
        hidden_features=(12, 12, 12),
        activation=copy.deepcopy(activation),
        residual=residual,
    ).double()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("residual", [False, True])
def test_gradients_reach_a_module_as_activation(activation, residual, float64):
    net = with_activation(activation, residual).eval()
    holds(net.condition().expand((3,)), list(net.parameters()))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_those_of_the_pass_of_the_draw(activation, float64):
    """Its parameters and its mode, whatever the network has in the backward pass."""
    net = with_activation(activation)
    other = copy.deepcopy(net).eval()
    params = {name: torch.randn_like(p, requires_grad=True) for name, p in net.named_parameters()}
    other.load_state_dict(params, strict=False)
    found = []
    for p, sources in (
        (net.condition(params=params), [*params.values()]),
        (other.condition(), [*other.parameters()]),
    ):
        torch.manual_seed(3)
        draw = p.rsample((3,))
        found.append(torch.autograd.grad(draw.sin().sum(), sources))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("network", ["made", "rnn-gru", "transformer"])
def test_a_second_derivative_is_refused(network):
    net = build(network, "normal-raster", CONTEXT)
    context = torch.randn(*CONTEXT, requires_grad=True)
    for draw in (net.condition(context).rsample, net.condition(context).rsample_and_log_prob):
        x = draw()
        x = x[0].sum() + x[1] if isinstance(x, tuple) else x.sum()
        with pytest.raises(RuntimeError, match="rsample: a draw is differentiable once"):
            torch.autograd.grad(x, context, create_graph=True)
        with pytest.raises(RuntimeError, match="rsample: a draw is differentiable once"):
            x.backward(inputs=[context], create_graph=True)
        torch.autograd.grad(x, context)


@pytest.mark.parametrize("network", ["made", "rnn-gru", "transformer"])
def test_dropout_changes_nothing(network):
    kinds = {
        "made": (random_made, {"hidden_features": 32}),
        "rnn-gru": (networks.RNN, {"hidden_size": 8, "num_layers": 2}),
        "transformer": (networks.Transformer, GPT),
    }
    make, options = kinds[network]
    torch.manual_seed(0)
    net = make(ad.Factorization(4, fam.Normal()), dropout=0.5, **options)
    found = []
    for mode in (True, False):
        net.train(mode).zero_grad()
        torch.manual_seed(1)
        x = net.condition().rsample((5,))
        assert net.training == mode
        x.sum().backward()
        found.append(
            [x.detach(), *(w.grad.clone() for w in net.parameters() if w.grad is not None)]
        )
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_gradients_of_what_stands_in_for_the_parameters(float64):
    net = build("made", "normal-raster", CONTEXT).double()
    given = {n: (2 * w.detach()).requires_grad_() for n, w in net.named_parameters()}
    context = torch.randn(2, *CONTEXT)
    p = net.condition(context, params=given)
    torch.manual_seed(1)
    x = p.rsample()
    with torch.no_grad():  # before the backward pass, as an optimizer might
        for weight in net.parameters():
            weight.zero_()
    ours = torch.autograd.grad(x.sum(), list(given.values()))
    other = build("made", "normal-raster", CONTEXT).double()
    other.load_state_dict({**other.state_dict(), **given})
    torch.manual_seed(1)
    theirs = torch.autograd.grad(other.condition(context).rsample().sum(), list(other.parameters()))
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two)


def test_a_tolerance_is_an_approximation(float64):
    net = build("transformer", "normal-raster", CONTEXT).double()
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(2)
    context = torch.randn(2, *CONTEXT, requires_grad=True)

    def gradient(tol):
        torch.manual_seed(2)
        return torch.autograd.grad(net.condition(context).rsample((5,), tol=tol).sum(), context)[0]

    exact = gradient(0.0)
    assert not torch.allclose(gradient(10.0), exact, rtol=1e-6)
    torch.testing.assert_close(gradient(1e-12), exact, rtol=1e-8, atol=1e-8)


def test_no_graph_where_none_is_wanted():
    net = build("made", "normal-raster", CONTEXT)
    p = net.condition(torch.randn(2, *CONTEXT))
    with torch.no_grad():
        x, score = p.rsample_and_log_prob((3,))
    assert not x.requires_grad
    torch.testing.assert_close(score, p.log_prob(x))
    assert p.rsample((0,)).shape == (0, 2, 4)
    assert p.rsample_and_log_prob((0,))[1].shape == (0, 2)
    for weight in net.parameters():
        weight.requires_grad_(False)
    assert not p.rsample().requires_grad


def test_gradients_of_an_expectation_match_quadrature(float64):
    """Two steps, whose noise is integrated on a grid."""
    torch.manual_seed(0)
    net = random_made(
        ad.Factorization(2, fam.Normal()), hidden_features=(16,), activation=torch.tanh
    ).double()
    nodes, weights = (torch.as_tensor(part) for part in _hermite(40))
    noise = torch.cartesian_prod(nodes, nodes)
    weight = torch.cartesian_prod(weights, weights).prod(-1)

    def function(x):
        return torch.sin(x[:, 0]) * torch.exp(-0.1 * x[:, 1] ** 2) + x[:, 1] * x[:, 0]

    def from_noise(blocks):  # both steps from the noise, with a graph
        first = net.factorization.families[0].from_noise(net(blocks), noise)[:, 0]
        blocks = torch.stack((first, torch.zeros_like(first)), 1)
        second = net.factorization.families[0].from_noise(net(blocks), noise)[:, 1]
        return torch.stack((first, second), 1)

    exact = torch.autograd.grad(
        (weight * function(from_noise(torch.zeros_like(noise)))).sum(), list(net.parameters())
    )
    x = from_noise(torch.zeros_like(noise)).detach()
    attached = net.condition().reparameterized(x)
    ours = torch.autograd.grad((weight * function(attached)).sum(), list(net.parameters()))
    for one, other in zip(ours, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)
    # And by draws.
    bias = list(net.parameters())[-1]
    parts = torch.stack(
        [
            torch.autograd.grad(function(net.condition().rsample((500,))).mean(), bias)[0]
            for _ in range(40)
        ]
    )
    exact = exact[[w is bias for w in net.parameters()].index(True)]
    assert_mean(parts, exact)


def _hermite(count):
    from numpy.polynomial.hermite_e import hermegauss

    nodes, weights = hermegauss(count)
    return nodes, weights / weights.sum()


def test_discrete_chains_have_nothing_to_attach():
    p = build("made", "bernoulli-raster").condition()
    p.has_rsample_(True)
    assert not p.rsample().requires_grad
    columns = build("made", "columns", CONTEXT)
    context = torch.randn(2, *CONTEXT, requires_grad=True)
    p = columns.condition(context).has_rsample_(True)
    p.rsample((3,))[..., 1].sum().backward()
    assert context.grad.abs().min() > 0


# Families of one number with draws by the inverse CDF, and how exactly torch or a search has it.
EXACT = (
    dict.fromkeys(
        ("normal", "laplace", "logistic", "log_normal", "exponential", "spline", "transformed"),
        1e-6,
    )
    | dict.fromkeys(("mixture", "student_t", "gumbel"), 1e-5)
    | {"gamma": 1e-3, "beta": 1e-3}
)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(EXACT))
def test_gradients_of_an_expectation_in_two_dimensions(name, float64):
    """The mean over a grid of uniforms, by differences, for each reparameterized family."""
    torch.manual_seed(0)
    fac = ad.Factorization(2, FAMILIES[name])
    net = random_made(fac, hidden_features=(8,), activation=torch.tanh).double()
    axis = (torch.arange(12) + 0.5) / 12
    uniforms = torch.cartesian_prod(axis, axis)

    def function(x):
        return torch.sin(x[:, 0]) + torch.tanh(x[:, 1] * x[:, 0]) - 0.1 * x[:, 1]

    direction = {n: torch.randn_like(weight) for n, weight in net.named_parameters()}

    def mean(step):
        moved = {n: w.detach() + step * direction[n] for n, w in net.named_parameters()}
        p = net.condition(params=moved)
        return function(ad.transforms.Rosenblatt(p).inv(uniforms)).mean().item()

    step = 1e-4
    expected = (8 * (mean(step) - mean(-step)) - mean(2 * step) + mean(-2 * step)) / (12 * step)
    x = ad.transforms.Rosenblatt(net.condition()).inv(uniforms).detach()
    attached = net.condition().reparameterized(x)
    found = torch.autograd.grad(function(attached).mean(), list(net.parameters()))
    total = sum((g * v).sum() for g, v in zip(found, direction.values(), strict=True)).item()
    assert abs(total - expected) <= EXACT[name] * (1 + abs(expected))


def test_gradients_of_a_nested_networks_stand_ins(float64):
    net = nested(random_made, hidden_features=16)
    given = {n: (1.5 * w.detach()).requires_grad_() for n, w in net.named_parameters()}
    torch.manual_seed(1)
    x = net.condition(params=given).rsample((3,))
    ours = torch.autograd.grad(x.sum(), list(given.values()))
    other = nested(random_made, hidden_features=16)
    with torch.no_grad():
        for name, weight in other.named_parameters():
            weight.copy_(given[name])
    torch.manual_seed(1)
    theirs = torch.autograd.grad(other.condition().rsample((3,)).sum(), list(other.parameters()))
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("network", ["made", "rnn-gru", "transformer"])
def test_backward_under_autocast(network):
    net = build(network, "normal-raster")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        net.condition().rsample((3,)).sum().backward()
    assert any(
        weight.grad.abs().sum() > 0 for weight in net.parameters() if weight.grad is not None
    )
    p = build("made", "bernoulli-raster").condition().has_rsample_(True)
    assert not p.marginal(torch.ones(2, 2).bool()).has_rsample


def test_gradients_are_of_the_weights_that_drew():
    torch.manual_seed(0)
    net = random_made(ad.Factorization(4, fam.Normal()), hidden_features=(12, 12))
    start = [weight.detach().clone() for weight in net.parameters()]

    def gradients(factor):
        for weight, own in zip(net.parameters(), start, strict=True):
            weight.data.copy_(own)
        net.zero_grad()
        torch.manual_seed(3)
        x = net.condition().rsample((5,))
        with torch.no_grad():
            for weight in net.parameters():
                weight.mul_(factor)
        x.square().sum().backward()
        return [weight.grad.clone() for weight in net.parameters()]

    torch.testing.assert_close(gradients(1.5), gradients(1.0))
