"""Prefixes with the model's own blocks: scheduled sampling and exposure bias."""

import pytest
import torch
from laws import assert_mean
from table import CONTEXT, build, random_made

import ardist as ad
from ardist import families as fam
from ardist import networks
from ardist.training import exposure_bias, scheduled_log_prob

NETWORKS = ("made", "rnn-gru", "transformer", "plain")


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    "factorization", ["bernoulli-permutation", "normal-raster", "columns", "ended"]
)
def test_at_probability_zero_it_is_log_prob(network, factorization, float64):
    net = build(network, factorization, CONTEXT).double()
    p = net.condition(torch.randn(2, *CONTEXT))
    x = p.sample((3,))
    found = scheduled_log_prob(p, x, 0.0)
    torch.testing.assert_close(found, p.log_prob(x))
    found.sum().backward()
    assert all(
        weight.grad.isfinite().all() for weight in net.parameters() if weight.grad is not None
    )


@pytest.mark.parametrize("network", NETWORKS)
def test_at_probability_one_the_past_is_the_models(network, float64):
    """The expected score, by enumeration of the pasts that a model draws."""
    net = build(network, "bernoulli-raster").double()
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(3)
    p = net.condition()
    fac, x = p.factorization, torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    states = p.enumerate_support()
    scores = torch.stack(
        [p.conditionals(past).log_prob(x) for past in states]
    )  # of x on each past, (16, 2, 2)
    if network == "rnn-gru":  # its draws are on its own draws
        weights = p.log_prob(states).exp()
    else:  # all draws are on the true past
        weights = p.conditionals(x).log_prob(states).flatten(1).sum(-1).exp()
    expected = (weights @ scores.flatten(1)).sum()
    torch.manual_seed(0)
    found = scheduled_log_prob(p, x.expand(4000, 2, 2), 1.0)
    assert_mean(found, expected)
    assert fac.num_blocks == 4


@pytest.mark.parametrize("network", NETWORKS)
def test_true_blocks_count_after_an_end_of_the_models_own(network, float64):
    """All draws end at once, and the data does not."""
    net = build(network, "ended")
    fac = net.factorization
    with torch.no_grad():
        for weight in net.parameters():
            weight.zero_()
        for name, weight in net.named_parameters():
            if name in ("head.bias", "bias", "output.bias"):
                weight.view(-1, 3)[:, fac.end] = 30.0
    p = net.condition()
    x = torch.tensor([[0, 1, 0, 1], [0, 2, 2, 2]])
    expected = torch.tensor([-120.0, -30.0])  # of blocks up to the data's end
    torch.testing.assert_close(scheduled_log_prob(p, x, 1.0), expected)


@pytest.mark.parametrize("network", NETWORKS)
def test_infinity_stays_in_its_block(network):
    net = build(network, "normal-raster")
    x = torch.tensor([[0.0, torch.inf, 1.0, -torch.inf], [0.0, 1.0, 1.0, 0.0]])
    found = scheduled_log_prob(net.condition(), x, 0.5)
    assert found.isinf().tolist() == [True, False]
    found.sum().backward()
    assert all(weight.grad.isfinite().all() for weight in net.parameters())


def test_half_of_the_past_is_replaced():
    """Each block repeats the one before it, which the model's own draws never do."""

    class Repeats(networks.ConditionalNetwork):
        def forward(self, blocks, context=None, ranks=None):
            before = torch.cat((torch.ones_like(blocks[:, :1]), blocks[:, :-1]), 1)
            return (before - 0.5).unsqueeze(-1) * torch.tensor([-8.0])

    p = Repeats(ad.Factorization(400, fam.Bernoulli())).condition()
    ones = torch.ones(50, 400)
    own = scheduled_log_prob(p, ones, 0.5) / 400
    # On a true past a one is unlikely (-4), on a replaced one, which is a zero, it is likely.
    share = (own - p.log_prob(ones) / 400) / 4.0
    assert share.mean().item() == pytest.approx(0.5, abs=0.02)


def test_orders_for_rows_and_contexts():
    net = build("transformer", "normal-raster", CONTEXT)
    p = net.condition(torch.randn(2, *CONTEXT))
    ranks = torch.tensor([[0, 1, 2, 3], [3, 1, 0, 2]])
    q = p.with_ordering(ranks)
    x = q.sample((3,))
    torch.testing.assert_close(scheduled_log_prob(q, x, 0.0), q.log_prob(x))
    assert scheduled_log_prob(q, x, 0.5).shape == (3, 2)


def chain(stays):
    """A Markov chain of two states that stays with this probability, as a network."""
    odds = torch.tensor([[stays, 1 - stays], [1 - stays, stays]]).log()

    class Chain(networks.ConditionalNetwork):
        def forward(self, blocks, context=None, ranks=None):
            first = torch.full((len(blocks), 1, 2), 0.5).log()
            return torch.cat((first, odds[blocks[:, :-1]]), 1)

    return Chain(ad.Factorization(6, fam.Categorical(2))).condition()


def test_exposure_is_what_is_lost_on_each_prefix():
    truth, p = chain(0.9), chain(0.6)
    torch.manual_seed(0)
    x = truth.sample((500,))
    found = exposure_bias(p, x, truth)
    each = 0.9 * torch.tensor(0.9 / 0.6).log() + 0.1 * torch.tensor(0.1 / 0.4).log()
    expected = torch.cat((torch.zeros(1), each.expand(5)))
    torch.testing.assert_close(found.on_data, expected)
    torch.testing.assert_close(found.on_own, expected)  # a chain of order one recovers at once
    unknown = exposure_bias(p, x, num_samples=4000)
    entropy = -(0.6 * torch.tensor(0.6).log() + 0.4 * torch.tensor(0.4).log())
    torch.testing.assert_close(unknown.on_own[1:].mean(), entropy, rtol=0.05, atol=0)
    assert unknown.on_data.sum().item() == pytest.approx(-p.log_prob(x).mean().item(), rel=1e-5)


@pytest.mark.parametrize("family", [fam.Bernoulli(), fam.Categorical(2)])
def test_exposure_is_finite_where_probabilities_round(family):
    """A sigmoid of 200 is 1 in float32."""
    net = networks.MADE(ad.Factorization(1, family), hidden_features=())

    def p(logit):
        params = {name: torch.zeros_like(each) for name, each in net.named_parameters()}
        params["direct.bias"][-1] = logit
        return net.condition(params=params)

    found = exposure_bias(p(200.0), torch.ones(3, 1), p(10.0))
    expected = 190 * torch.tensor(-10.0).sigmoid() - torch.tensor(-10.0).exp().log1p()
    torch.testing.assert_close(found.on_data.sum(), expected, rtol=1e-3, atol=0)


def test_exposure_of_columns():
    fac = ad.Factorization.columns(a=fam.Bernoulli(), b=fam.Normal())
    torch.manual_seed(0)
    p, truth = (random_made(fac, hidden_features=8).condition() for _ in range(2))
    found = exposure_bias(p, truth.sample((50,)), truth)
    assert found.on_data.shape == found.on_own.shape == (2,)
    assert (found.on_data > 0).all()


@pytest.mark.parametrize("network", ["made", "rnn-gru"])
def test_stand_ins_and_the_whole_batch(network):
    net = build(network, "normal-raster")
    given = {name: weight.detach() + 0.3 for name, weight in net.named_parameters()}
    p = net.condition(params=given).expand((5,))
    x = torch.randn(4)
    torch.testing.assert_close(scheduled_log_prob(p, x, 0.0), p.log_prob(x))


def test_exposure_leaves_out_missing_blocks():
    net = random_made(ad.Factorization(4, fam.Normal()), hidden_features=8)
    p = ad.AutoregressiveDistribution(net, nan_policy="marginalize")
    x = p.sample((50,))
    expected = exposure_bias(p, x).on_data
    gaps = x.clone()
    gaps[20:, 2:] = torch.nan  # the last blocks
    found = exposure_bias(p, gaps).on_data
    torch.testing.assert_close(found[:2], expected[:2])
    torch.testing.assert_close(found[2:], -p.log_prob_blocks(x[:20])[:, 2:].mean(0))


def test_the_truth_of_exposure_may_differ_by_row_in_context_and_not_in_order():
    fac = ad.Factorization(3, fam.Bernoulli())
    net = networks.Masked(fac, hidden_features=8, context_shape=(2,))
    torch.manual_seed(0)
    torch.nn.init.normal_(net.head.weight)
    truth, p = net.condition(torch.randn(5, 2)), net.condition(torch.randn(2))
    x = truth.sample((7,))
    found = exposure_bias(p, x, truth)
    each = [exposure_bias(p, x[:, i], net.condition(truth.context[i])) for i in range(5)]
    torch.testing.assert_close(found.on_data, torch.stack([e.on_data for e in each]).mean(0))
    ranks = torch.stack([torch.randperm(3) for _ in range(5)])
    same = exposure_bias(truth.with_ordering(ranks), x, truth.with_ordering(ranks))
    assert (same.on_data == 0).all()
    with pytest.raises(ValueError, match=r"^truth: expected one over"):
        exposure_bias(truth.with_ordering(ranks), x, truth)


def test_exposure_comes_without_dropout():
    fac = ad.Factorization(4, fam.Normal())
    net = random_made(fac, hidden_features=32, dropout=0.5)
    x = torch.randn(5, 4)
    first, again = (exposure_bias(net.condition(), x).on_data for _ in range(2))
    assert torch.equal(first, again)
    assert net.training


def test_values_outside_are_those_of_x():
    p = random_made(ad.Factorization(4, fam.Bernoulli()), hidden_features=8).condition()
    with pytest.raises(ValueError, match=r"^x: expected block \(0,\) inside the support"):
        exposure_bias(p, torch.full((3, 4), 0.5))


def test_the_weights_of_sets_are_as_precise_as_the_scores():
    """All blocks have one score, so that the estimate is exact for each set."""
    net = networks.Masked(ad.Factorization(7, fam.Bernoulli()), hidden_features=8).double()
    torch.nn.init.zeros_(net.head.weight)
    torch.nn.init.zeros_(net.head.bias)
    found = ad.training.masked_log_prob(net.condition(), torch.ones(50, 7).double())
    expected = -7 * torch.tensor(2.0).double().log().expand(50)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


def test_sets_in_order_are_prefixes(float64):
    net = networks.Masked(ad.Factorization(4, fam.Bernoulli()), hidden_features=8)
    p = net.condition().with_ordering(ad.Ordering.random(1))
    x, layout, expected = torch.tensor([[1.0, 0.0, 1.0, 0.0]]), net.factorization.layout, 0.0
    for size in range(4):
        read = p.factorization.ranks < size
        scores = layout.log_prob(net(x, observed=read.unsqueeze(0)), x)
        expected = expected + scores[0, ~read].mean()  # 4 / (4 - size), and each size 1/4
    found = ad.training.masked_log_prob(p, x.expand(4000, 4), in_order=1.0)
    assert_mean(found, expected)


@pytest.mark.parametrize("family", [fam.Bernoulli(), fam.Normal()], ids=str)
def test_the_pseudo_likelihood_scores_each_block_given_all_others(family, float64):
    net = networks.Masked(ad.Factorization(4, family), hidden_features=8, context_shape=(2,))
    torch.nn.init.normal_(net.head.weight)
    p = net.condition(torch.randn(3, 2))
    x = p.sample((5,))
    others = ~torch.eye(4, dtype=torch.bool)
    expected = sum(p.given(x, mask).log_prob(x) for mask in others)
    torch.testing.assert_close(ad.training.pseudo_log_prob(p, x), expected)


def test_the_pseudo_likelihood_of_a_long_event_in_half_precision():
    net = networks.Masked(ad.Factorization(784, fam.Categorical(4)), hidden_features=4)
    x = torch.randint(4, (2, 784))
    exact = ad.training.pseudo_log_prob(net.condition(), x)
    found = ad.training.pseudo_log_prob(net.bfloat16().condition(), x)
    torch.testing.assert_close(found.float(), exact, rtol=0.02, atol=0)
