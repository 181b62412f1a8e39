"""Entropy, divergence and calibration against enumeration, quadrature and closed forms."""

import copy
import math

import matplotlib.pyplot as plt
import pyro.distributions as dist
import pytest
import torch
from laws import ALPHA, assert_mean, quantile
from scipy.stats import kstest
from table import CONTEXT, FAMILIES, GPT, build, condition, fits, random_made, slow_except
from torch.func import functional_call

import ardist as ad
from ardist import families as fam
from ardist import networks
from ardist.calibration import _kolmogorov_smirnov
from ardist.information import calibration, crps, entropy, kl_divergence
from ardist.training import exposure_bias

ENUMERABLE = [
    (network, factorization)
    for network in ("made", "rnn-gru", "transformer", "plain")
    for factorization in (
        *("bernoulli-raster", "bernoulli-ties", "bernoulli-graph", "bernoulli-random"),
        *("categorical-2", "discretized-2", "top_k-2", "nucleus-2"),
        *("one_hot-along", "independent-along", "nested", "nested-columns", "labels"),
        *("columns-of-one-family", "ended", "ended-padded", "ended-columns", "patches"),
    )
    if fits(network, factorization)
]


def pair(network="made", factorization="bernoulli-raster", scale=2.0, context=False):
    """Two different distributions of one kind, with conditionals far from uniform."""
    p = condition(build(network, factorization, CONTEXT if context else ()))
    q = condition(build(network, factorization, CONTEXT if context else ()))
    with torch.no_grad():
        for one, by in ((p, scale), (q, 0.5)):
            for parameter in one.network.parameters():
                parameter.mul_(by).add_(0.1 * torch.randn_like(parameter))
    return p, q


def inputs(*joints):
    return [parameter for one in joints for parameter in one.network.parameters()]


def agree(estimate, expected, samples=500):
    assert estimate.value.shape == estimate.standard_error.shape == expected.shape
    near = quantile(samples) * estimate.standard_error + 1e-5 * (1 + expected.abs())
    assert ((estimate.value - expected).abs() < near).all(), (estimate, expected)


def unbiased(draw, exact, wrt, repetitions=150):
    """The mean gradient of `draw` is that of `exact`, along its direction and random others."""

    def gradient(value):
        found = torch.autograd.grad(value, wrt, retain_graph=True, allow_unused=True)
        pairs = zip(found, wrt, strict=True)
        return torch.cat([(w * 0 if g is None else g).detach().flatten() for g, w in pairs])

    expected = gradient(exact)
    found = torch.stack([gradient(draw()) for _ in range(repetitions)])
    along = torch.cat((expected.unsqueeze(0), torch.randn(8, len(expected)).to(expected)))
    difference = (found - expected) @ along.T
    assert expected.norm() > 1e-3
    assert_mean(difference, 0.0, slack=1e-5 * along.norm(dim=1))


# Values.


@pytest.mark.parametrize(("network", "factorization"), ENUMERABLE)
def test_estimates_agree_with_enumeration(network, factorization):
    p, q = pair(network, factorization)
    x = p.enumerate_support()
    log_prob = p.log_prob(x)
    possible = log_prob > -torch.inf
    expected = -(log_prob.exp() * log_prob)[possible].sum()
    agree(entropy(p), expected)
    assert entropy(p).standard_error == 0
    agree(entropy(p, 1500), expected)
    if factorization not in ("top_k-2", "nucleus-2"):  # where it is infinite
        expected = (log_prob.exp() * (log_prob - q.log_prob(x)))[possible].sum()
        agree(kl_divergence(p, q), expected)
        agree(kl_divergence(p, q, 1500), expected)
        assert expected > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_every_family_agrees_with_plain_monte_carlo(family):
    p, q = pair("made", f"{family}-2", scale=1.0)
    x = p.sample((20000,))
    log_prob, other = p.log_prob(x), q.log_prob(x)
    plains = [(entropy(p, 5000), -log_prob)]
    if family not in ("top_k", "nucleus"):
        plains.append((kl_divergence(p, q, 5000), log_prob - other))
    for estimate, plain in plains:
        error = math.hypot(plain.std() / len(x) ** 0.5, estimate.standard_error)
        assert abs(plain.mean() - estimate.value) < quantile(5000) * error + 1e-6


CHAINS = {
    "the same": (ad.Ordering.raster(), ad.Ordering.raster(), True),
    "a graph within the order": (
        ad.Ordering.raster(),
        ad.Ordering.from_graph([[0, 0, 0], [1, 0, 0], [0, 0, 0]]),
        True,
    ),
    "ties within the order": (ad.Ordering.raster(), ad.Ordering.from_ranks([0, 1, 1]), True),
    "an order within the ties": (ad.Ordering.from_ranks([0, 0, 1]), ad.Ordering.raster(), True),
    "another order": (ad.Ordering.raster(), ad.Ordering.reverse(), False),
    "an order across the ties": (
        ad.Ordering.from_ranks([0, 1, 0]),
        ad.Ordering.raster(),
        False,
    ),
}


def of_order(ordering, seed):
    torch.manual_seed(seed)
    net = random_made(
        ad.Factorization(3, fam.Bernoulli(), ordering=ordering), hidden_features=(16,)
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(3)
    return net.condition()


@pytest.mark.parametrize("name", CHAINS)
def test_divergence_between_orders(name):
    first, second, one_chain = CHAINS[name]
    p, q = of_order(first, 0), of_order(second, 1)
    assert ad.information._is_one_chain(p, q) == one_chain
    agree(kl_divergence(p, q, 3000), kl_divergence(p, q).value)


def test_divergence_from_other_partitions_families_and_kinds():
    p = of_order(ad.Ordering.raster(), 0)
    x = p.enumerate_support()
    torch.manual_seed(1)
    whole = ad.Factorization(3, [fam.Independent(fam.Bernoulli(), (2,)), fam.Bernoulli()],
                             partition=ad.Partition.split([(2,), 1]))  # fmt: skip
    mixed = ad.Factorization(
        3, [fam.Bernoulli(), fam.Categorical(2), fam.Tempered(fam.Bernoulli(), 2.0)]
    )
    net = networks.Transformer(p.factorization, **GPT)
    for q in (
        random_made(whole, hidden_features=16).condition(),
        random_made(mixed, hidden_features=16).condition(),
        ad.OrderingMixture(net, [ad.Ordering.raster(), ad.Ordering.reverse()]),
        dist.Bernoulli(torch.tensor([0.2, 0.5, 0.7])).to_event(1),
    ):
        expected = (p.log_prob(x).exp() * (p.log_prob(x) - q.log_prob(x))).sum()
        agree(kl_divergence(p, q), expected)
        agree(kl_divergence(p, q, 3000), expected)


def test_no_variance_where_the_conditionals_do_not_depend_on_the_past():
    p, q = (
        random_made(ad.Factorization(5, fam.Normal()), hidden_features=()).condition()
        for _ in range(2)
    )
    with torch.no_grad():
        for one in (p, q):
            one.network.direct.weight.zero_()
            one.network.direct.bias.normal_()
    zeros = torch.zeros(5)
    first, second = p.conditionals(zeros), q.conditionals(zeros)
    for found, expected in (
        (entropy(p, 2), first.entropy()),
        (kl_divergence(p, q, 2), torch.distributions.kl_divergence(first, second)),
        (kl_divergence(p, p, 2), zeros),
    ):
        assert found.standard_error < 1e-5
        torch.testing.assert_close(found.value, expected.sum())


def test_batches_broadcast():
    p, q = pair(context=True)
    assert p.batch_shape == ()
    contexts = torch.randn(4, 1, *CONTEXT), torch.randn(3, *CONTEXT)
    p, q = p.network.condition(contexts[0]), q.network.condition(contexts[1])
    exact, found = kl_divergence(p, q), kl_divergence(p, q, 500)
    assert exact.value.shape == (4, 3)
    agree(found, exact.value)
    agree(entropy(p, 500), entropy(p).value)
    each = [entropy(p.network.condition(context)).value for context in contexts[0][:, 0]]
    torch.testing.assert_close(entropy(p).value[:, 0], torch.stack(each))


def test_observed_blocks_contribute_nothing():
    p, q = pair("transformer")
    value, mask = torch.ones(2, 2), torch.tensor([[True, False], [False, True]])
    p, q = p.given(value, mask), q.given(value, mask)
    x = p.enumerate_support()
    log_prob = p.log_prob(x)
    possible = log_prob > -torch.inf
    assert possible.sum() == 4
    gap = (log_prob.exp() * (log_prob - q.log_prob(x)))[possible].sum()
    for count in (None, 1500):
        agree(entropy(p, count), -(log_prob.exp() * log_prob)[possible].sum())
        agree(kl_divergence(p, q, count), gap)
    with pytest.raises(ValueError, match="q: expected the observed elements and values of p"):
        kl_divergence(p, q.given(value, ~mask))
    with pytest.raises(ValueError, match="q: expected the observed elements and values of p"):
        kl_divergence(p, dist.Bernoulli(torch.ones(2, 2) / 2).to_event(2))


@pytest.mark.parametrize("factorization", ["bernoulli-raster", "ended-padded"])
def test_orders_for_each_row(factorization):
    p, q = pair("transformer", factorization)
    ranks = torch.tensor([[[0, 1], [2, 3]], [[3, 1], [2, 0]]])
    rows, others = p.with_ordering(ranks), q.with_ordering(ranks)
    each = [p.with_ordering(ad.Ordering.from_ranks(r)) for r in ranks]
    expected = torch.stack([entropy(one).value for one in each])
    agree(entropy(rows), expected)
    agree(entropy(rows, 1500), expected)
    apart = [q.with_ordering(ad.Ordering.from_ranks(r)) for r in ranks]
    expected = torch.stack([kl_divergence(a, b).value for a, b in zip(each, apart, strict=True)])
    assert ad.information._is_one_chain(rows, others)
    assert not ad.information._is_one_chain(rows, q)
    agree(kl_divergence(rows, others, 1500), expected)
    unbiased(
        lambda: entropy(rows, 20).value.sum(),
        sum(entropy(one).value for one in each),
        inputs(p),
        100,
    )


def test_conditionals_that_are_nearly_certain():
    """torch's divergence of a Bernoulli from one of log odds 17 is infinite in float32."""
    fac = ad.Factorization(
        (2, 2), fam.Independent(fam.Bernoulli(), (2,)), partition=ad.Partition.along(0)
    )
    p, q = (random_made(fac, hidden_features=()).condition() for _ in range(2))
    with torch.no_grad():
        q.network.direct.bias.fill_(40.0)
    assert 10 < kl_divergence(p, q, 50).value < 200
    agree(kl_divergence(p, q, 5000), kl_divergence(p, q).value)


PRECISE = [
    (fam.Geometric(), [-10.0], [-10.1]),
    (fam.Gamma(), [1e5, 1.0], [1.001e5, 1.0]),
    (fam.Beta(), [1e5, 5e4], [1.001e5, 5e4]),
    (fam.StudentT(), [0.0, 1.0, 1e5], [0.0, 1.1, 1e5]),
    (fam.Independent(fam.Gamma(), (1,)), [1e5, 1.0], [1.001e5, 1.0]),
    (fam.Independent(fam.Gamma(), ()), [1e5, 1.0], [1.001e5, 1.0]),  # without dimensions
]


@pytest.mark.parametrize(("family", "of_p", "of_q"), PRECISE, ids=str)
def test_formulas_have_the_digits_of_scores(family, of_p, of_q):
    """In float32 the large terms of many formulas cancel: up to a nat is left."""
    block = ad.Partition.split([tuple(family.event_shape) or 1])
    fac = ad.Factorization(1, family, partition=block)
    net = networks.MADE(fac, hidden_features=())

    def joint(bias, dtype):
        params = {name: torch.zeros_like(each) for name, each in net.named_parameters()}
        params["direct.bias"] = torch.tensor(bias)
        return (
            copy.deepcopy(net)
            .to(dtype)
            .condition(params={name: each.to(dtype) for name, each in params.items()})
        )

    def nats(dtype):
        p, q = joint(of_p, dtype), joint(of_q, dtype)
        torch.manual_seed(0)
        found = [entropy(p, 2).value]
        if not isinstance(family, fam.StudentT):  # of which torch has no divergence
            found += [kl_divergence(p, q, 2).value, exposure_bias(q, p.sample((2,)), p, 2).on_data]
        return torch.stack([each.squeeze() for each in found])

    exact = nats(torch.float64)
    assert nats(torch.float32).dtype == torch.float32
    torch.testing.assert_close(nats(torch.float32).double(), exact, rtol=1e-4, atol=1e-6)


def test_estimates_in_half_precision_are_added_up_in_float32():
    """The sum of the squared errors is beyond the largest number of float16."""
    net = random_made(ad.Factorization(784, fam.Poisson()), hidden_features=4)
    exact = entropy(net.condition(), 200)
    found = entropy(net.half().condition(), 200)
    error = math.hypot(found.standard_error, exact.standard_error)
    assert abs(found.value - exact.value) < 6 * error
    assert found.standard_error < 2 * exact.standard_error


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_reports_of_many_rows_in_half_precision(dtype):
    families = [fam.Categorical(10), fam.Poisson(), fam.Poisson()]
    p = random_made(ad.Factorization(3, families), hidden_features=4).to(dtype).condition()
    torch.manual_seed(0)
    x = p.sample((200_000,))
    assert (calibration(p, x).p_value > 1e-4).all()
    on_data, on_own = exposure_bias(p, x)
    torch.testing.assert_close(on_data, on_own, rtol=0.2, atol=0)


def test_states_that_are_cut_off_leave_the_gradient_finite():
    p, q = (condition(build("made", "top_k-2")) for _ in range(2))
    estimate = kl_divergence(p, q, 20)
    assert estimate.value == 0
    assert all(g.isfinite().all() for g in torch.autograd.grad(estimate.value, inputs(p, q)))


@pytest.mark.parametrize("num_samples", [None, 100])
def test_an_infinite_divergence_is_infinite_and_has_no_gradient(num_samples):
    """Where a state is impossible under q, and its probability under p rounds to 0 or does not."""
    net = networks.Unshared(ad.Factorization(2, fam.Categorical(3)), modules=[None, None])
    with torch.no_grad():
        net.factors[0].bias.copy_(torch.tensor([0.0, 0.0, -200.0]))
        net.factors[1].bias.zero_()
    p = net.condition()
    q = p.with_families(fam.TopK(fam.Categorical(3), 2))
    found = kl_divergence(p, q, num_samples)
    assert found.value == torch.inf
    if num_samples is None:
        assert torch.distributions.kl_divergence(p, q) == torch.inf
    else:
        assert found.standard_error == torch.inf
    found.value.backward()
    assert all(weight.grad.isfinite().all() for weight in net.parameters())


@pytest.mark.parametrize("exact", [True, False])
def test_dropout_is_off(exact):
    net = networks.Transformer(ad.Factorization(3, fam.Bernoulli()), **GPT, dropout=0.5)
    other = copy.deepcopy(net)
    with torch.no_grad():
        other.head.weight.add_(torch.randn_like(other.head.weight))
    for train in (True, False):
        net.train(train), other.train(train)
        torch.manual_seed(0)
        count = None if exact else 50
        found = (
            entropy(net.condition(), count).value,
            kl_divergence(net.condition(), other.condition(), count).value,
        )
        assert net.training == train
        if train:
            first = found
    torch.testing.assert_close(found, first)


@pytest.mark.slow
def test_standard_errors_are_honest():
    p, q = pair("rnn-gru", "categorical-2", scale=3.0)
    with torch.no_grad():
        for call, args in ((entropy, (p,)), (kl_divergence, (p, q))):
            exact = call(*args).value
            found = [call(*args, 100) for _ in range(300)]
            z = torch.stack([(f.value - exact) / f.standard_error for f in found])
            assert z.mean().abs() < 0.25
            assert 0.85 < z.std() < 1.2


# Gradients.


@pytest.mark.parametrize(
    ("network", "factorization"),
    slow_except(
        [
            *(("made", name) for name in ("bernoulli-ties", "bernoulli-graph", "nested", "ended")),
            ("rnn-gru", "ended-columns"),
            ("transformer", "independent-along"),
            ("made", "labels"),
        ],
        ("made", "bernoulli-graph"),
        ("made", "ended"),
    ),
)
def test_gradients_agree_with_those_of_enumeration(network, factorization):
    p, q = pair(network, factorization)
    unbiased(lambda: entropy(p, 20).value, entropy(p).value, inputs(p))
    unbiased(lambda: kl_divergence(p, q, 20).value, kl_divergence(p, q).value, inputs(p, q))


def test_gradients_where_the_chains_differ():
    p, q = of_order(ad.Ordering.raster(), 0), of_order(ad.Ordering.reverse(), 1)
    unbiased(lambda: kl_divergence(p, q, 20).value, kl_divergence(p, q).value, inputs(p, q))


def normal_pair(float64):
    """Two chains of two normals whose scales depend on the past, and a grid of their events."""
    joints = []
    for seed in range(2):
        torch.manual_seed(seed)
        net = random_made(
            ad.Factorization(2, fam.Normal()),
            hidden_features=(8,),
            activation=torch.tanh,
            direct=False,  # so that scales are not small anywhere
        )
        joints.append(net.condition())
    side = torch.linspace(-20, 20, 401)
    return *joints, torch.cartesian_prod(side, side), (side[1] - side[0]) ** 2


@pytest.mark.slow
@pytest.mark.parametrize("pathwise", [True, False])
def test_gradients_agree_with_quadrature(float64, pathwise):
    p, q, x, cell = normal_pair(float64)
    log_prob = p.log_prob(x)
    assert abs(log_prob.exp().sum() * cell - 1) < 1e-9
    own = -(log_prob.exp() * log_prob).sum() * cell
    gap = (log_prob.exp() * (log_prob - q.log_prob(x))).sum() * cell
    p.has_rsample = pathwise
    agree(entropy(p, 5000), own)
    agree(kl_divergence(p, q, 5000), gap)
    unbiased(lambda: entropy(p, 200).value, own, inputs(p), 300)
    unbiased(lambda: kl_divergence(p, q, 200).value, gap, inputs(p, q), 300)


def gaussian(p):
    """The closed form of a chain of normals with linear locations and constant scales."""
    size = p.factorization.num_blocks
    events = torch.cat((torch.zeros(1, size), torch.eye(size)))
    params = functional_call(p.network, p.params, (events,))
    loc, slopes = params[0, :, 0], (params[1:, :, 0] - params[0, :, 0]).T
    root = torch.linalg.inv(torch.eye(size) - slopes)
    scale_tril = root * fam.Normal()(params[0]).scale
    return dist.MultivariateNormal(root @ loc, scale_tril=scale_tril.tril())


@pytest.mark.slow
def test_linear_gaussian_chains_have_a_closed_form(float64):
    net = random_made(ad.Factorization(4, fam.Normal()), hidden_features=())
    wrt = [torch.randn(shape).mul_(0.7).requires_grad_() for shape in ((8, 4), 8, (8, 4), 8)]
    of_loc = torch.tensor([[1.0], [0.0]]).repeat(4, 1)
    p, q = (
        net.condition(params={"direct.weight": weight * of_loc, "direct.bias": bias})
        for weight, bias in (wrt[:2], wrt[2:])
    )
    found = entropy(p, 20)
    assert found.standard_error < 1e-12
    torch.testing.assert_close(found.value, gaussian(p).entropy())
    gap = torch.distributions.kl_divergence(gaussian(p), gaussian(q))
    agree(kl_divergence(p, q, 3000), gap)
    agree(kl_divergence(p, gaussian(q), 3000), gap)
    unbiased(lambda: kl_divergence(p, q, 20).value, gap, wrt)
    unbiased(lambda: kl_divergence(p, gaussian(q), 20).value, gap, wrt)
    p.has_rsample = False
    unbiased(lambda: kl_divergence(p, q, 20).value, gap, wrt)
    unbiased(lambda: kl_divergence(p, gaussian(q), 20).value, gap, wrt)


@pytest.mark.parametrize("factorization", ["bernoulli-raster", "normal-raster"])
def test_nothing_is_spent_on_gradients_that_nobody_wants(factorization):
    p, _ = pair("plain", factorization)
    passes = []
    p.network.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    p.sample((10,))
    drawn = len(passes)
    with torch.no_grad():
        assert not entropy(p, 10).value.requires_grad
    assert not any(passes)  # a draw takes as many passes as its fixed point needs
    assert len(passes) <= drawn + p.factorization.num_steps + 1
    passes.clear()
    assert entropy(p, 10).value.requires_grad
    assert sum(passes) <= 2


def test_blocks_observed_in_part_are_refused_unless_events_are_summed_over():
    p = condition(build("made", "independent-along"))
    p = p.given(torch.ones(2, 2), torch.tensor([[True, False], [False, False]]))
    assert entropy(p).value < 3 * math.log(2)
    with pytest.raises(ValueError, match="p: expected blocks that are observed as a whole"):
        entropy(p, 10)


# Calibration.


@pytest.mark.parametrize("family", [name for name, f in FAMILIES.items() if f.has_cdf])
def test_own_draws_are_calibrated_and_others_are_not(family):
    p, q = pair("made", f"{family}-2", scale=1.0)
    with torch.no_grad():
        q.network.head.bias.add_(2.0 * torch.randn_like(q.network.head.bias))
    x = p.sample((2000,))
    found = calibration(p, x)
    assert found.pit.shape == (2000, 2)
    assert (found.p_value > ALPHA).all(), found.p_value
    if family not in ("top_k", "nucleus"):
        assert (calibration(q, x).p_value < ALPHA).any()


def test_calibration_goes_block_by_block():
    fac = ad.Factorization.columns(
        a=fam.Bernoulli(), b=fam.Dirichlet(2), c=fam.Normal(), d=fam.Categorical(4)
    )
    net = random_made(fac, context_shape=(2,), hidden_features=16)
    p = net.condition(torch.randn(700, 2))
    x = p.sample()
    found = calibration(p, x)
    assert found.blocks == ("column 'a'", "column 'b'", "column 'c'", "column 'd'")
    assert found.pit.shape == (700, 4)
    assert found.pit[:, 1].isnan().all()
    assert found.p_value.isnan().tolist() == [False, True, False, False]
    assert (found.p_value[[0, 2, 3]] > ALPHA).all()
    x[:, 3] += 1.0  # the third column
    assert (calibration(p, x).p_value < ALPHA).tolist() == [False, False, True, False]
    with pytest.raises(ValueError, match="p: expected a family with a CDF"):
        calibration(condition(build("made", "dirichlet-along")), torch.full((5, 2, 2), 0.5))


def test_calibration_leaves_out_what_is_certain():
    p = condition(build("made", "ended"))
    x = p.sample((4000,))
    found = calibration(p, x)
    after = torch.nn.functional.pad((x == 2).cumsum(-1)[:, :-1], (1, 0)) > 0
    assert torch.equal(found.pit.isnan(), after)
    assert (found.p_value > ALPHA).all()
    p = condition(build("made", "normal-raster"))
    p = p.given(torch.zeros(4), torch.tensor([True, False, False, False]))
    found = calibration(p, p.sample((100,)))
    assert found.pit[:, 0].isnan().all()
    assert (found.p_value[1:] > ALPHA).all()


@pytest.mark.parametrize("count", [20, 500, 20000])
def test_the_test_is_that_of_kolmogorov_and_smirnov(float64, count):
    pit = torch.rand(count, 12) ** (1 + torch.arange(12) / count**0.5 / 3)
    statistic, p_value = _kolmogorov_smirnov(pit)
    for column in range(12):
        expected = kstest(pit[:, column].numpy(), "uniform")
        assert abs(statistic[column] - expected.statistic) < 1e-12
        assert abs(p_value[column] - expected.pvalue) < 0.03
    with_gaps = torch.cat((pit, torch.full((50, 12), torch.nan)))[torch.randperm(count + 50)]
    found = _kolmogorov_smirnov(with_gaps)
    torch.testing.assert_close(found, (statistic, p_value))


def test_plot_of_nothing():
    p = networks.MADE(ad.Factorization(3, fam.Normal()), hidden_features=8).condition()
    assert calibration(p, torch.zeros(0, 3)).plot() == []
    plt.close("all")


def test_plot():
    p = condition(build("made", "image-raster"))
    found = calibration(p, p.sample((500,)))
    axes = found.plot()
    assert len(axes) == 9
    assert axes[0].get_title().startswith("block (0, 0), p = ")
    figure, pair = plt.subplots(1, 2)
    assert found.plot(pair) == list(pair)
    worst = sorted(found.p_value.argsort()[:2].tolist())
    assert [ax.get_title().split(",  p")[0].split(", p")[0] for ax in pair] == [
        found.blocks[block] for block in worst
    ]
    heights = torch.tensor([bar.get_height() for bar in pair[0].patches if bar.get_width() < 0.5])
    assert abs(heights.mean() - 1) < 1e-6
    plt.close(figure)
    plt.close(axes[0].figure)


def test_crps_of_draws_is_unbiased(float64):
    x = torch.linspace(-2, 2, 5)
    normal = torch.distributions.Normal(0.5, 1.5)
    z = (x - 0.5) / 1.5  # Gneiting and Raftery 2007, equation 21
    standard = torch.distributions.Normal(0.0, 1.0)
    exact = z * (2 * standard.cdf(z) - 1) + 2 * standard.log_prob(z).exp() - math.pi**-0.5
    few = crps(normal.sample((3, 40_000, 1)), x)  # three draws, forty thousand times
    error = few.std(0) / len(few) ** 0.5
    assert ((few.mean(0) - 1.5 * exact).abs() < 4.5 * error).all()
    draws = torch.randint(9, (7, 2, 5))
    pairs = (draws.unsqueeze(1) - draws).abs().sum((0, 1)) / (2 * 7 * 6)
    expected = (draws - 4).abs().double().mean(0) - pairs
    torch.testing.assert_close(crps(draws, torch.tensor(4)), expected)


def test_crps_of_more_values_than_a_draw_has_pairs_no_draw_with_a_value():
    draws, x = torch.randn(6, 2), torch.randn(6, 3, 2)  # six draws, and eighteen values
    torch.testing.assert_close(
        crps(draws, x), torch.stack([crps(draws, row) for row in x.flatten(0, 1)]).view(6, 3, 2)
    )
