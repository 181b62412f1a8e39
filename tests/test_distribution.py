"""The distribution as an object: its checks, replaced parts, and the calls that it makes."""

import copy

import pytest
import torch
from laws import assert_follows
from table import CONTEXT, NETWORKS, build, random_made
from torch.func import functional_call

import ardist as ad
from ardist import families as fam
from ardist.scoring import teacher_forced_params


def plain(family=None, size=4, **options):
    options = {"hidden_features": (16,), **options}
    return random_made(ad.Factorization(size, family or fam.Normal()), **options)


with_context = {"context_shape": CONTEXT}


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
    assert p.log_prob(wrong) == -torch.inf
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


class Counting(torch.nn.Module):
    """Counts rows and calls of the network that it wraps."""

    def __init__(self, module):
        super().__init__()
        self.module, self.rows = module, []

    def forward(self, *args):
        self.rows.append(len(args[0]))
        return self.module(*args)


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
    assert_follows(q, q.sample((4000,)), states)
    # Each conditional is the family's, from the parameters that the network gives.
    conditionals = q.conditionals(states).logits
    if fac.end is None:
        params = teacher_forced_params(p.batch_of(states), states)[1]
        expected = TRUNCATED[name](params.reshape(*states.shape, 3)).logits
        torch.testing.assert_close(conditionals, expected)
    assert q.with_families(fam.Categorical(3)).log_prob(states).equal(p.log_prob(states))
    again = ad.AutoregressiveDistribution(
        net, factorization=fac.with_families(TRUNCATED[name])
    ).log_prob(states)
    assert again.equal(q.log_prob(states))


def test_families_of_columns_are_replaced_one_by_one():
    columns = {"a": fam.Categorical(3), "b": fam.Normal(), "c": fam.Categorical(2)}
    net = random_made(ad.Factorization.columns(columns), hidden_features=8)
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


def test_conditionals_of_no_events():
    net = random_made(ad.Factorization(3, fam.Normal()), hidden_features=4, context_shape=(2,))
    p = net.condition(torch.zeros(0, 2))
    assert p.conditionals(p.sample()).batch_shape == (0, 3)


def test_an_event_of_a_single_number_has_no_dimensions():
    p = plain(fam.Bernoulli(), size=()).condition()
    one = torch.tensor(1.0)
    with pytest.raises(ValueError, match=r"^value: expected block"):
        p.log_prob(one / 2)
    assert ad.information.calibration(p, one).pit.shape == (1, 1)
    assert ad.training.exposure_bias(p, one).on_data == -p.log_prob(one)
