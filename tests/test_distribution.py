"""The distribution as an object: what it refuses, what replaces what, and what runs when."""

import copy

import pytest
import torch
from table import CONTEXT, NETWORKS, build
from torch.func import functional_call

import ardist as ad
from ardist import families as fam
from ardist import networks


def plain(family=None, size=4, **options):
    options = {"hidden_features": (16,), **options}
    return networks.MADE(ad.Factorization(size, family or fam.Normal()), **options)


class Wrong(networks.ConditionalNetwork):
    """Returns what no factorization asks for."""

    def forward(self, blocks, context=None, ranks=None):
        return blocks


with_context = {"context_shape": CONTEXT}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: plain().condition(torch.zeros(3)), r"context: expected none, since the network"),
        (lambda: plain(**with_context).condition(), r"context: expected \(\*batch_shape, 3\), got"),
        (
            lambda: plain(**with_context).condition(torch.zeros(5, 2)),
            r"context: expected \(\*batch_shape, 3\), got \(5, 2\)",
        ),
        (lambda: plain(**with_context).condition(3.0), "context: expected a tensor, got float"),
        (
            lambda: plain(**with_context).condition(torch.zeros(5, 3).double()),
            "context: expected dtype torch.float32, as the network, got torch.float64",
        ),
        (
            lambda: plain(**with_context).condition(torch.zeros(5, 3, device="meta")),
            "context: expected a tensor on cpu, as the network, got meta",
        ),
        (
            lambda: plain(**with_context).condition(torch.full((5, 3), torch.nan)),
            "context: expected no NaN",
        ),
        (
            lambda: ad.AutoregressiveDistribution(torch.nn.Linear(2, 2)),
            "network: expected a conditional network, got Linear",
        ),
        (
            lambda: ad.AutoregressiveDistribution(
                plain(), factorization=ad.Factorization(5, fam.Normal())
            ),
            r"factorization: MADE was built for .*got Factorization\(\(5,\), Normal\(\)\)",
        ),
        (lambda: plain().condition(params={"x": torch.zeros(1)}), r"params: MADE has no para.*'x'"),
        (lambda: plain().condition().expand((2,)).expand((3,)), "batch_shape: .2,. cannot be"),
        (lambda: plain().condition().log_prob(3.0), "value: expected a tensor, got float"),
        (
            lambda: plain().condition().log_prob(torch.zeros(7, 3)),
            r"value: expected \(\*lead, 4\), got \(7, 3\)",
        ),
        (
            lambda: plain().condition().log_prob(torch.zeros(())),
            r"value: expected \(\*lead, 4\), got \(\)",
        ),
        (
            lambda: plain().condition().expand((5,)).log_prob(torch.zeros(3, 4)),
            r"value: expected leading dimensions that broadcast with batch_shape \(5,\), got",
        ),
        (
            lambda: plain().condition().log_prob(torch.zeros(4).double()),
            "value: expected dtype torch.float32, as the network, got torch.float64",
        ),
        (
            lambda: plain().condition().log_prob(torch.zeros(4, device="meta")),
            "value: expected a tensor on cpu, as the network, got meta",
        ),
        (
            lambda: plain().condition().log_prob(torch.tensor([0.0, 1.0, torch.nan, 0.0])),
            r"value: expected block \(2,\) inside the support Real\(\) of Normal\(\), got \[nan\]",
        ),
        (
            lambda: plain(fam.Categorical(3)).condition().log_prob(torch.tensor([0, 1, 2, 3])),
            r"block \(3,\) inside the support .* of Categorical\(3\), got \[3\]",
        ),
        (
            lambda: plain(fam.Categorical(3)).condition().log_prob(torch.tensor([0, 0.5, 1, 1])),
            r"block \(1,\) inside the support .* of Categorical\(3\), got \[0.5\]",
        ),
        (
            lambda: plain(fam.Bernoulli()).condition().log_prob(torch.full((2, 4), 0.3)),
            r"block \(0,\) inside the support Boolean\(\) of Bernoulli\(\), got \[0.3",
        ),
        (
            lambda: (
                networks.MADE(
                    ad.Factorization.columns(a=fam.Normal(), b=fam.Gamma()), hidden_features=(8,)
                )
                .condition()
                .log_prob(torch.tensor([1.0, -1.0]))
            ),
            r"value: expected column 'b' inside the support .* of Gamma\(\), got \[-1.0\]",
        ),
        (lambda: networks.MADE(3, hidden_features=(8,)), "factorization: expected a Factorization"),
        (lambda: plain(hidden_features=(0,)), "hidden_features: expected positive integers, got"),
        (lambda: plain(hidden_features=(), direct=False), "hidden_features: expected a layer, or"),
        (
            lambda: plain(hidden_features=(16, 2), direct=False),
            "hidden_features: without direct connections every layer needs a unit for each of the "
            r"3 distinct sets of dependencies, got \(16, 2\)",
        ),
        (lambda: plain(dropout=1.0), "dropout: expected a probability below 1, got 1.0"),
        (lambda: plain(context_shape=(2, 3)), r"context_shape: expected \(C,\) for a context of k"),
        (lambda: plain(context_shape=(0,)), "context_shape: expected positive integers"),
        (
            lambda: networks.RNN(ad.Factorization(4, fam.Normal()), hidden_size=8, cell="elman"),
            r"cell: expected one of \['gru', 'lstm', 'tanh'\], got 'elman'",
        ),
        (
            lambda: networks.RNN(
                ad.Factorization(3, fam.Normal(), ordering=ad.Ordering.from_ranks([0, 1, 1])),
                hidden_size=8,
            ),
            r"factorization: RNN follows orders .* without ties, got Ordering.from_ranks\(0, 1, 1",
        ),
        (
            lambda: networks.RNN(
                ad.Factorization(3, fam.Normal()),
                hidden_size=8,
                context_shape=(2, 5),
                context_kind="blocks",
            ),
            r"context_shape: expected \(3, C\) for a context of kind 'blocks', got \(2, 5\)",
        ),
        (
            lambda: networks.RNN(
                ad.Factorization(3, fam.Normal()), hidden_size=8, context_kind="sequence"
            ),
            r"context_kind: RNN takes \['vector', 'blocks'\], got 'sequence'",
        ),
        (
            lambda: ad.AutoregressiveDistribution(
                networks.RNN(ad.Factorization(3, fam.Normal()), hidden_size=8),
                factorization=ad.Factorization(5, fam.Normal(), ordering=ad.Ordering.reverse()),
            ),
            r"factorization: RNN was trained in the order Ordering.raster\(\)",
        ),
        (
            lambda: plain().load_state_dict(
                networks.MADE(
                    ad.Factorization(4, fam.Normal(), ordering=ad.Ordering.reverse()),
                    hidden_features=(16,),
                ).state_dict()
            ),
            "state_dict: made for another factorization; dependencies is",
        ),
        (
            lambda: plain().load_state_dict(plain(fam.Laplace()).state_dict()),
            r"families is \['Laplace\(\)'\], here \['Normal\(\)'\]",
        ),
        (
            lambda: plain().decoder(2).prefill(torch.zeros(2, 9)),
            "blocks: expected those of whole steps from the first, which end at 1, 2, 3, 4",
        ),
        (lambda: ad.testing.check_normalized(plain(size=5).condition()), "p: expected an event sm"),
        (
            lambda: Wrong(ad.Factorization(4, fam.Normal())).condition().log_prob(torch.zeros(4)),
            r"network: Wrong returned parameters of shape \(1, 4\), expected \(1, 4, 2\)",
        ),
    ],
)
def test_bad_input_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_refused_value_changes_nothing():
    net = plain()
    before = copy.deepcopy(net.state_dict())
    p = net.condition()
    with pytest.raises(ValueError, match="value"):
        p.log_prob(torch.full((4,), torch.nan))
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())
    assert p.log_prob(torch.zeros(4)).isfinite()


def test_validation_follows_the_flag():
    net = plain(fam.Bernoulli())
    wrong = torch.full((4,), 0.5)
    p = ad.AutoregressiveDistribution(net, validate_args=False)
    assert p.log_prob(wrong).isfinite()
    with pytest.raises(ValueError, match="Boolean"):
        ad.AutoregressiveDistribution(net, validate_args=True).log_prob(wrong)
    with pytest.raises(ValueError, match="Boolean"):
        ad.AutoregressiveDistribution(net, validate_args=True).expand((2,)).log_prob(wrong)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool, torch.float32])
def test_integers_pass_for_floats_and_whole_floats_for_integers(dtype):
    floats, index = plain(fam.Bernoulli()).condition(), plain(fam.Categorical(2)).condition()
    value = torch.tensor([0, 1, 1, 0])
    assert floats.log_prob(value.to(dtype)) == floats.log_prob(value.float())
    assert index.log_prob(value.to(dtype)) == index.log_prob(value)


def test_no_rsample_where_a_family_has_none():
    p = plain(fam.Poisson()).condition()
    assert not p.has_rsample
    with pytest.raises(NotImplementedError, match=r"rsample: no gradients .*Poisson\(\)"):
        p.rsample()
    with pytest.raises(NotImplementedError, match="infinitely many"):
        p.enumerate_support()
    with pytest.raises(NotImplementedError, match="at most 4096 states, got 8192"):
        plain(fam.Bernoulli(), size=13).condition().enumerate_support()


def test_has_rsample_can_be_set_and_survives_expand():  # trap 4
    p = plain().condition()
    p.has_rsample = False
    assert not p.expand((3,)).has_rsample
    assert plain().condition().has_rsample


def test_rsample_is_differentiated_through_all_steps(float64):
    """Against finite differences of the draw under the same noise."""
    net = build("made-residual", "normal-permutation", CONTEXT).double()

    def draw(context):
        torch.manual_seed(3)
        return net.condition(context).rsample((2,))

    assert torch.autograd.gradcheck(draw, torch.randn(2, *CONTEXT, requires_grad=True))


@pytest.mark.parametrize("network", list(NETWORKS))
def test_params_replace_the_networks_own(network):
    net, other = build(network, "bernoulli-raster"), build(network, "bernoulli-raster")
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    params = {name: w.detach().clone().requires_grad_() for name, w in other.named_parameters()}
    p = net.condition(params=params)
    x = p.sample((2000,))
    torch.testing.assert_close(p.log_prob(x), other.condition().log_prob(x))
    torch.manual_seed(1)
    replaced = p.sample((50,))
    torch.manual_seed(1)
    assert torch.equal(replaced, other.condition().sample((50,)))
    p.log_prob(x).sum().backward()
    assert any(value.grad is not None and value.grad.abs().sum() > 0 for value in params.values())
    assert all(weight.grad is None for weight in net.parameters())


def test_a_longer_factorization_replaces_an_rnns_own():
    net = networks.RNN(ad.Factorization(5, fam.Categorical(3)), hidden_size=8)
    longer = ad.Factorization(9, fam.Categorical(3))
    p = ad.AutoregressiveDistribution(net, factorization=longer)
    x = p.sample((4,))
    assert x.shape == (4, 9)
    ad.testing.check_decoder(net, factorization=longer)
    ad.testing.check_autoregressive(net, factorization=longer)
    prefix = net.condition().log_prob_blocks(x[:, :5])
    torch.testing.assert_close(p.log_prob_blocks(x)[:, :5], prefix)


class Counting(torch.nn.Module):
    """Counts rows and calls of what it wraps."""

    def __init__(self, module):
        super().__init__()
        self.module, self.rows = module, []

    def forward(self, *args):
        self.rows.append(len(args[0]))
        return self.module(*args)


def test_the_context_is_encoded_once_for_all_samples():
    net = plain(**with_context)
    net.context_to_hidden = counting = Counting(net.context_to_hidden)
    p = net.condition(torch.randn(2, 3))
    p.log_prob(p.sample((50,)))
    assert counting.rows == [2, 2]
    p.expand((50, 2)).log_prob(p.sample((50,)))
    assert counting.rows == [2] * 4


def test_expand_runs_nothing_and_log_prob_runs_one_pass():  # trap 6
    net = Counting(plain())
    p = ad.AutoregressiveDistribution(net).expand((3,)).expand((1000, 3))
    assert net.rows == []
    assert p.log_prob(torch.zeros(4)).shape == (1000, 3)
    assert net.rows == [1]


def test_wrapped_networks_are_networks():
    net = plain(fam.Bernoulli())
    wrapped = Counting(net)
    p = ad.AutoregressiveDistribution(wrapped)
    x = p.sample((7,))
    assert torch.equal(p.log_prob(x), net.condition().log_prob(x))
    assert wrapped.rows == [7]


def test_log_likelihood_is_the_log_prob_under_functional_call():
    net = plain(**with_context)
    module, x, context = ad.LogLikelihood(net), torch.randn(5, 4), torch.randn(5, 3)
    assert torch.equal(module(x, context), net.condition(context).log_prob(x))
    doubled = {name: 2 * weight for name, weight in module.named_parameters()}
    named = {name.removeprefix("network."): weight for name, weight in doubled.items()}
    expected = net.condition(context, params=named).log_prob(x)
    torch.testing.assert_close(functional_call(module, doubled, (x, context)), expected)


def test_conditionals_are_the_factors():
    for name in ("normal-reverse", "columns", "columns-of-one-family", "split"):
        p = build("made", name, CONTEXT).condition(torch.randn(2, *CONTEXT))
        x = p.sample((3,))
        blocks = p.log_prob_blocks(x)
        given = p.conditionals(x)
        fac = p.factorization
        if isinstance(given, dict):
            assert list(given) == list(fac.names)
            values = fac.unpack(x)
            each = [given[key].log_prob(values[key]) for key in given]
            torch.testing.assert_close(torch.stack(each, -1), blocks)
        elif isinstance(given, tuple):
            pieces = x.split(fac.layout.sizes["value"], -1)
            for piece, factor, block in zip(pieces, given, blocks.unbind(-1), strict=True):
                value = piece.reshape(3, 2, *factor.event_shape)
                torch.testing.assert_close(factor.log_prob(value), block)
        else:
            assert given.batch_shape == (3, 2, 4)
            torch.testing.assert_close(given.log_prob(x), blocks)


def test_draws_with_their_scores():
    p = plain().condition()
    x, score = p.sample_and_log_prob((5,))
    assert torch.equal(score, p.log_prob(x))
    assert score.requires_grad
    assert not x.requires_grad
    x, score = p.rsample_and_log_prob((5,))
    assert x.requires_grad
    assert torch.equal(score, p.log_prob(x))


@pytest.mark.parametrize("network", list(NETWORKS))
def test_no_state_survives_a_call(network):  # trap 28
    net = build(network, "bernoulli-raster")
    p = net.condition()
    x = p.sample((3,))
    before = p.log_prob(x)
    with torch.no_grad():
        for weight in net.parameters():
            weight.data += 0.3 * torch.randn_like(weight)
    assert not torch.equal(p.log_prob(x), before)
    ad.testing.check_decoder(net)


def test_rsample_comes_without_dropout():
    net = plain(dropout=0.5)
    torch.manual_seed(1)
    moved = net.condition().rsample((3,))
    assert net.training
    torch.manual_seed(1)
    assert torch.equal(net.eval().condition().rsample((3,)), moved)


@pytest.mark.parametrize("network", list(NETWORKS))
def test_sampling_changes_no_module(network):
    net = build(network, "bernoulli-raster")
    state = copy.deepcopy(net.state_dict())
    net.condition().sample((1,))
    net.condition().sample((3,))
    assert all(torch.equal(net.state_dict()[key], value) for key, value in state.items())
    assert net.training


def test_empty_batches():
    p = plain(**with_context).condition(torch.zeros(0, 3))
    assert p.sample((2,)).shape == (2, 0, 4)
    assert p.log_prob(torch.zeros(0, 4)).shape == (0,)
    assert plain(fam.Categorical(2)).condition().sample((0,)).dtype == torch.int64


def test_vmap_over_an_ensemble_of_parameters():
    net = plain(size=3)
    x = torch.randn(5, 3)
    stacked = {n: torch.stack([w, w + 0.1]) for n, w in net.named_parameters()}

    def score(params):
        return ad.AutoregressiveDistribution(net, params=params, validate_args=False).log_prob(x)

    found = torch.func.vmap(score)(stacked)
    each = [score({n: w[i] for n, w in stacked.items()}) for i in range(2)]
    torch.testing.assert_close(found, torch.stack(each))


TRUNCATED = {
    "tempered": fam.Tempered(fam.Categorical(3), 0.5),
    "top_k": fam.TopK(fam.Categorical(3), 2),
    "nucleus": fam.Nucleus(fam.TopK(fam.Tempered(fam.Categorical(3), 2.0), 2), 0.7),
}


@pytest.mark.parametrize("network", ["made", "rnn-gru", "transformer", "pixelcnn"])
@pytest.mark.parametrize("name", list(TRUNCATED))
def test_other_families_on_the_same_network(network, name, float64):
    torch.manual_seed(0)
    fac = ad.Factorization((2, 2), fam.Categorical(3), end=2 if network == "rnn-gru" else None)
    net = NETWORKS[network](fac).double()
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(3)
    p = net.condition()
    q = p.with_families(TRUNCATED[name])
    assert q.factorization.end == fac.end
    states = q.enumerate_support()
    ad.testing.check_normalized(q, tolerance=1e-9)
    x = q.sample((4000,))
    counts = (x.flatten(1).unsqueeze(1) == states.flatten(1)).all(-1).double().mean(0)
    probs = q.log_prob(states).exp()
    assert (counts - probs).abs().max() < 5 * (0.25 / 4000) ** 0.5
    assert counts[probs == 0].sum() == 0
    # Each conditional is the family's, from the parameters that the network gives.
    conditionals = q.conditionals(states).logits
    if fac.end is None:
        expected = TRUNCATED[name](p.joint.teach(states)[1].reshape(*states.shape, 3)).logits
        torch.testing.assert_close(conditionals, expected)
    assert q.with_families(fam.Categorical(3)).log_prob(states).equal(p.log_prob(states))
    again = ad.AutoregressiveDistribution(
        net, factorization=fac.with_families(TRUNCATED[name])
    ).log_prob(states)
    assert again.equal(q.log_prob(states))


def test_families_of_columns_are_replaced_one_by_one():
    columns = {"a": fam.Categorical(3), "b": fam.Normal(), "c": fam.Categorical(2)}
    net = networks.MADE(ad.Factorization.columns(columns), hidden_features=8)
    cold = [fam.Tempered(family, 0.01) for family in columns.values()]
    p = net.condition().with_families(cold)
    x = p.sample((50,))
    assert x.std(0).max() < 0.5
    assert list(p.conditionals(x)) == ["a", "b", "c"]
    with pytest.raises(ValueError, match=r"factorization: MADE was built for"):
        net.condition().with_families([fam.Normal(), fam.Normal(), fam.Categorical(2)])


@pytest.mark.parametrize(
    "family", [fam.Exponential(), fam.Logistic(), fam.Normal(), fam.Geometric()]
)
def test_draws_in_half_precision_follow_the_same_distribution(family):
    net = plain(family, size=1)
    with torch.no_grad():
        for weight in net.parameters():
            weight.zero_()
    torch.manual_seed(0)
    wide = net.condition().sample((20000,))
    narrow = net.to(torch.bfloat16).condition().sample((20000,))
    assert narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.float().mean(), wide.mean(), rtol=0.1, atol=0.05)
    torch.testing.assert_close(narrow.float().std(), wide.std(), rtol=0.1, atol=0.05)
