"""Each property once, for every network and factorization of the table."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from laws import assert_cdf, assert_density, assert_frequencies
from scipy.special import betainc
from scipy.stats import t as student_t
from scipy.stats import vonmises
from table import (
    CASES,
    CONTEXT,
    COVERING,
    FACTORIZATIONS,
    FAMILIES,
    GPT,
    NETWORKS,
    build,
    condition,
)
from torch.distributions import constraints

import ardist as ad
from ardist import networks
from ardist.decoding import Decoder
from ardist.rollout import Rollout
from ardist.scoring import teacher_forced_params

contexts = pytest.mark.parametrize("context_shape", [(), CONTEXT], ids=["", "context"])
cases = pytest.mark.parametrize(("network", "factorization"), CASES)

ENUMERABLE = [case for case in CASES if FACTORIZATIONS[case[1]].num_states is not None]
DIFFERENTIABLE = [
    case
    for case in CASES
    if not FACTORIZATIONS[case[1]].support.is_discrete and case[1] != "von_mises-2"
]
REPARAMETERIZED = [case for case in CASES if FACTORIZATIONS[case[1]].has_rsample]
HAS_CDF = [
    "beta",
    "relaxed_bernoulli",
    "student_t",
    "laplace",
    "logistic",
    "log_normal",
    "gamma",
    "exponential",
    "mixture",
    "gumbel",
    "von_mises",
    "spline",
    "transformed",
    "transformed_decreasing",
]
FREE = (
    *(
        "spline-2",
        "transformed-2",
        "normal-2",
        "mixture-2",
        "gamma-2",
        "beta-2",
        "student_t-2",
        "normal-raster",
    ),
    *("normal-raster", "columns", "columns-permuted", "image-raster", "image-diagonal"),
)


@cases
@contexts
def test_conditionals_depend_on_what_they_may_and_on_nothing_else(
    network, factorization, context_shape
):
    net = build(network, factorization, context_shape)
    context = torch.randn(CONTEXT) if context_shape else None
    found = ad.testing.check_autoregressive(net, context)
    assert found.reach == 1.0
    assert torch.equal(found.influence, net.factorization.dependencies)
    assert found.context_reach == (1.0 if context_shape else None)


@pytest.mark.parametrize(("network", "factorization"), DIFFERENTIABLE)
def test_jacobian_has_the_pattern_of_the_dependencies(network, factorization, float64):
    net = build(network, factorization)
    fac, layout = net.factorization, net.factorization.layout
    seen = torch.zeros(fac.num_blocks, fac.num_blocks, dtype=torch.bool)
    for _ in range(3):
        blocks = fac.split(net.condition().sample((1,)))
        jacobian = torch.autograd.functional.jacobian(lambda b: net(b).flatten(), blocks).flatten(1)
        rows = jacobian.split(layout.sizes["param"], 0)
        for i, row in enumerate(rows):
            columns = row.split(layout.sizes["value"], 1)
            for j, entry in enumerate(columns):
                seen[i, j] |= bool((entry != 0).any())
    assert torch.equal(seen, fac.dependencies)


@cases
@contexts
def test_decoder_gives_the_numbers_of_the_parallel_pass(network, factorization, context_shape):
    net = build(network, factorization, context_shape)
    context = torch.randn(2, *CONTEXT) if context_shape else None
    ad.testing.check_decoder(net, context)
    double = None if context is None else context.double()
    ad.testing.check_decoder(net.double(), double)


@cases
def test_draws_and_scores_in_other_dtypes(network, factorization):
    """float64 under a float32 default, and autocast."""
    net = build(network, factorization, CONTEXT)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        p = condition(net, 2)
        x = p.sample((3,))
        assert p.support.check(x).all()
        assert p.log_prob(x).isfinite().all()
    p = condition(net.double(), 2)
    x = p.sample((3,))
    assert x.dtype == (torch.int64 if p.factorization.layout.is_index else torch.float64)
    assert p.log_prob(x).dtype == torch.float64


# Whole passes begin with a draw, for which the meta device has no numbers.
@pytest.mark.parametrize(("network", "factorization"), [c for c in CASES if c[0] != "plain"])
def test_nothing_is_left_on_another_device(network, factorization):
    """The meta device refuses to be mixed with the CPU, as a GPU does."""
    net = build(network, factorization, CONTEXT).to("meta")
    fac, layout = net.factorization, net.factorization.layout
    blocks = torch.zeros(4, *layout.value_shape, device="meta", dtype=layout.dtype(torch.float32))
    context = torch.zeros(2, *CONTEXT, device="meta")
    assert net(blocks, context).device.type == "meta"
    decoder = net.decoder(4, context)
    assert decoder.step(None).device.type == "meta"
    if fac.num_steps > 1:
        first = layout.gather_blocks("value", blocks, fac.steps[0])
        assert decoder.step(first).device.type == "meta"
        decoder = net.decoder(4, context)
        assert decoder.prefill(first).device.type == "meta"
        decoder.select(torch.tensor([0, 1, 1], device="meta"))
        if fac.num_steps > 2:
            second = layout.gather_blocks("value", blocks, fac.steps[1])[:3]
            assert decoder.step(second).device.type == "meta"


@cases
def test_shapes_expansion_and_broadcasting(network, factorization):
    net = build(network, factorization, CONTEXT)
    ad.testing.check_shapes(condition(net, 4))
    ad.testing.check_shapes(build(network, factorization).condition())


@cases
def test_expanded_context_in_the_middle_of_the_batch(network, factorization):
    """The rows of a context that does not vary along an inner dimension are not mixed up."""
    p = condition(build(network, factorization, CONTEXT), 3)
    q = ad.AutoregressiveDistribution(p.network, p.context.unsqueeze(1)).expand((2, 3, 4))
    x = q.sample()
    each = [p.log_prob(x[:, :, i]) for i in range(4)]
    torch.testing.assert_close(q.log_prob(x), torch.stack(each, -1), rtol=1e-4, atol=1e-4)


# Every family once, and some factorizations under all networks.
INFINITE = [
    case
    for case in CASES
    if (case in COVERING or case[1] in ("normal-raster", "columns-ties", "image-diagonal"))
    and not all(f.support.is_discrete for f in FACTORIZATIONS[case[1]].layout.distinct)
]


@pytest.mark.parametrize(("network", "factorization"), INFINITE)
def test_infinity_has_no_density_and_reaches_no_other_block(network, factorization):
    net = build(network, factorization, CONTEXT)
    p, fac = condition(net, 2), net.factorization
    x = p.sample()
    # An event for each element and end that may be there.
    each = torch.eye(fac.event_shape.numel(), dtype=torch.bool).reshape(-1, 1, *fac.event_shape)
    events = torch.cat([x.masked_fill(each, end) for end in (torch.inf, -torch.inf)])
    which = fac.layout.count(fac.split(torch.cat((each, each)))) > 0  # (events, 1, num_blocks)
    possible = p.support.check(events).all(-1)
    events, which = events[possible].requires_grad_(), which[possible].expand(-1, 2, -1)
    scores = p.log_prob_blocks(events).reshape(which.shape)
    assert torch.equal(scores == -torch.inf, which)
    assert not scores.isnan().any()
    reached = (which.unsqueeze(-2) & fac.dependencies).any(-1) | which
    before = p.log_prob_blocks(x).reshape(which.shape[1:]).expand_as(scores)
    torch.testing.assert_close(scores[~reached], before[~reached], rtol=1e-4, atol=1e-4)
    if len(events):
        assert (p.log_prob(events) == -torch.inf).all()
        scores.sum().backward()
        gradients = [events.grad, *(weight.grad for weight in net.parameters())]
        assert all(part.isfinite().all() for part in gradients if part is not None)


@pytest.mark.parametrize(("network", "factorization"), ENUMERABLE)
def test_probabilities_sum_to_one(network, factorization, float64):
    net = build(network, factorization, CONTEXT).double()
    ad.testing.check_normalized(condition(net, 2), tolerance=1e-9)


@pytest.mark.parametrize(
    ("network", "factorization"),
    [("rnn-gru", "normal-2"), ("plain", "normal-2")]
    + [
        ("made", name)
        for name, value in FACTORIZATIONS.items()
        # A spline may be steeper than this grid is fine: test_transformed integrates single ones.
        if name.removesuffix("-2") in {*FAMILIES} - {"spline"} and value.num_states is None
    ]
    + [("made", "scalar"), ("made", "columns"), ("made", "columns-permuted")],
)
def test_densities_integrate_to_one(network, factorization, float64):
    net = build(network, factorization).double()
    ad.testing.check_normalized(net.condition(), num_points=501, tolerance=5e-3)


@cases
def test_samples_follow_log_prob(network, factorization):
    p = condition(build(network, factorization, CONTEXT))
    x = p.sample((4000,))
    assert p.support.check(x).all()
    if p.factorization.num_states is not None:
        states = p.enumerate_support()
        flat = states.flatten(1).double()
        which = torch.cdist(x.reshape(len(x), -1).double(), flat).argmin(-1)
        counts = torch.bincount(which, minlength=len(states))
        assert_frequencies(counts, p.log_prob(states).exp())
    elif factorization.removesuffix("-2") in HAS_CDF or factorization.startswith("normal"):
        with torch.no_grad():  # each block's probability integral transform
            uniform = _cdf(p.conditionals(x), x)
        for column in uniform.flatten(1).T:
            assert_cdf(column)
    elif factorization.endswith("-2") and not p.support.is_discrete:
        assert_density(x, p.log_prob(x).exp(), dim=2)
    else:
        _first_block_follows(p, x)


def _cdf(conditionals, x):
    """The CDF, from scipy where torch has none."""
    if isinstance(conditionals, torch.distributions.Beta):
        ends = conditionals.concentration1, conditionals.concentration0
        return torch.as_tensor(betainc(*(end.numpy() for end in ends), x.numpy()))
    if isinstance(conditionals, torch.distributions.RelaxedBernoulli):
        return (conditionals.temperature * x.logit() - conditionals.logits).sigmoid()
    if isinstance(conditionals, torch.distributions.StudentT):
        z = (x - conditionals.loc) / conditionals.scale
        return torch.as_tensor(student_t.cdf(z.numpy(), conditionals.df.numpy()))
    if isinstance(conditionals, torch.distributions.VonMises):  # scipy's goes on around the circle
        ends = conditionals.concentration, conditionals.loc
        return torch.as_tensor(vonmises.cdf(x.numpy(), *(end.numpy() for end in ends)) % 1)
    return conditionals.cdf(x)


def _first_block_follows(p, x):
    """The block that is drawn first has no past, and so one conditional."""
    fac = p.factorization
    first = fac.steps[0][0]
    family = fac.layout.families[first]
    params = teacher_forced_params(p.batch_of(x[:1]), x[:1])[1].detach()
    raw = fac.layout.gather_blocks("param", params, [first]).reshape(1, -1)
    values = fac.layout.gather_blocks("value", fac.split(x), [first])
    values = values.reshape(len(x), *family.event_shape)
    prob = family.log_prob(raw, values).exp()
    if not family.support.is_discrete:
        if not family.event_shape:
            parts = [(values, prob)]
        elif isinstance(family.support, type(constraints.simplex)):  # one coordinate is free
            parts = [(values[:, 0], prob)]
        else:  # in two dimensions the test rejects four in a hundred sets of right draws
            masks = torch.eye(values.shape[1], dtype=torch.bool)
            scores = family.marginal_log_prob(raw, values.unsqueeze(1), masks)
            parts = list(zip(values.T, scores.exp().T, strict=True))
        for part, density in parts:
            assert_density(part, density)
        return
    seen, counts = values.unique(dim=0, return_counts=True)
    probs = family.log_prob(raw, seen).exp()
    rest = (1 - probs.sum()).clamp(min=0).reshape(1)
    assert_frequencies(torch.cat((counts, counts.new_zeros(1))), torch.cat((probs, rest)))


@pytest.mark.parametrize(("network", "factorization"), [case for case in CASES if case[1] in FREE])
def test_log_prob_gradients_match_finite_differences(network, factorization, float64):
    net = build(network, factorization, CONTEXT).double()
    p = condition(net, 2)
    x = p.sample()
    context = p.context.clone().requires_grad_()
    named = dict(net.named_parameters())
    names = list(named)[:2] + list(named)[-2:]
    values = [named[name].detach().clone().requires_grad_() for name in names]

    def function(c, *replaced):
        return net.condition(c, params=dict(zip(names, replaced, strict=True))).log_prob(x)

    assert torch.autograd.gradcheck(function, (context, *values), fast_mode=True)


@pytest.mark.parametrize(("network", "factorization"), REPARAMETERIZED)
def test_rsample_has_gradients_to_parameters_and_context(network, factorization):
    net = build(network, factorization, CONTEXT)
    p = condition(net, 2)
    p.context.requires_grad_()
    x = p.rsample((3,))
    assert x.shape == (3, *p.batch_shape, *p.event_shape)
    assert p.support.check(x).all()
    x.square().sum().backward()
    assert p.context.grad.abs().sum() > 0
    assert all(w.grad is None or w.grad.isfinite().all() for w in net.parameters())


@cases
def test_round_trips(network, factorization):
    """Copies, pickles and states give the same distribution; events survive split and merge."""
    net = build(network, factorization, CONTEXT)
    p = condition(net, 2)
    x = p.sample((3,))
    assert torch.equal(net.factorization.merge(net.factorization.split(x)), x)
    score = p.log_prob(x)
    again = copy.deepcopy(FACTORIZATIONS[factorization])
    other = NETWORKS[network](again, context_shape=CONTEXT)
    other.load_state_dict(net.state_dict())
    for same in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), other):
        # Nested networks are told apart by identity.
        assert factorization.startswith("nested") or same.factorization == net.factorization
        assert str(same.factorization) == str(net.factorization)
        assert torch.equal(same.condition(p.context).log_prob(x), score)
    again = pickle.loads(pickle.dumps(p))
    assert torch.equal(again.log_prob(x), score)


@cases
def test_given_and_marginal_are_exact_where_the_set_is_ancestral(network, factorization):
    """Whole steps from the first: any network, and a number of steps for each row."""
    p = condition(build(network, factorization, CONTEXT), 2)
    fac, layout = p.factorization, p.factorization.layout
    x = p.sample((3,))
    blocks = p.log_prob_blocks(x).reshape(3, 2, -1)
    taken = torch.tensor([0, 1, fac.num_steps]).clamp(max=fac.num_steps).unsqueeze(-1)
    known = fac.ranks.flatten() < taken  # (3, num_blocks)
    masks = fac.merge(layout.expand_to_elements(known))
    for row, mask in enumerate(masks):
        rest = blocks[row][:, ~known[row]].sum(-1)
        q = p.given(x[row], mask)
        assert q.ordering == fac.ordering
        torch.testing.assert_close(q.log_prob(x[row]), rest, rtol=1e-4, atol=1e-4)
        drawn = q.sample((2,))
        assert torch.equal(drawn[..., mask], x[row][..., mask].expand(2, *x[row][..., mask].shape))
        assert q.log_prob(drawn).isfinite().all()
        if mask.any():
            kept = p.marginal(mask)
            assert kept.ordering == fac.ordering
            found = kept.log_prob(x[row][..., mask])
            expected = blocks[row][:, known[row]].sum(-1)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
            assert kept.support.check(kept.sample((2,))).all()
            assert kept.log_prob(kept.sample((2,))).isfinite().all()
    q = p.given(x, masks.unsqueeze(1))
    assert q.batch_shape == (3, 2)
    expected = torch.where(known.unsqueeze(1), 0.0, blocks)
    torch.testing.assert_close(
        q.log_prob_blocks(x).reshape(3, 2, -1), expected, rtol=1e-4, atol=1e-4
    )
    drawn = q.sample()
    agree = (drawn == x) | ~masks.unsqueeze(1)
    assert agree.all()
    other = x.clone()
    other[2] = p.sample()
    changed = (other[2] != x[2]).reshape(2, -1).any(-1)
    assert torch.equal(q.log_prob(other)[2].isinf(), changed)


BLOCKWISE = [
    (network, factorization)
    for network, factorization in CASES
    if factorization
    in ("bernoulli-random", "normal-ties", "columns", "image-turned", "image-snake", "scalar")
    and "blocks" in build(network, "image-raster").context_kinds
]


@pytest.mark.parametrize(("network", "factorization"), BLOCKWISE)
def test_a_context_for_each_block_reaches_that_block(network, factorization):
    shape = (*FACTORIZATIONS[factorization].grid_shape, 3)
    net = build(network, factorization, shape, context_kind="blocks").double()
    fac = net.factorization
    context = torch.randn(2, *shape, dtype=torch.float64)
    assert ad.testing.check_autoregressive(net, context).context_reach == 1.0
    ad.testing.check_decoder(net, context)
    ad.testing.check_shapes(net.condition(context))
    blocks = fac.split(net.condition(context[:1]).sample())
    before = net(blocks, context[:1])
    for block in range(fac.num_blocks):
        changed = context[:1].clone()
        changed.view(1, fac.num_blocks, 3)[:, block] += 1
        own = [
            fac.layout.gather_blocks("param", p, [block]) for p in (before, net(blocks, changed))
        ]
        assert not torch.allclose(*own)


@pytest.mark.parametrize("network", list(NETWORKS))
def test_a_compiled_network_is_called(network):
    net = build(network, "image-raster")
    calls = []

    def backend(graph, _):
        def counted(*args):
            calls.append(len(args))
            return graph.forward(*args)

        return counted

    x = net.condition().sample((3,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch._dynamo.reset()
        p = ad.AutoregressiveDistribution(torch.compile(net, backend=backend))
        found = p.log_prob(x)
        first = len(calls)
        p.log_prob(x)
    torch.testing.assert_close(found, net.condition().log_prob(x))
    assert first > 0
    assert len(calls) == 2 * first  # and not traced again
    assert p.sample((2,)).shape == (2, 3, 3)


ANY_ORDER = ("transformer", "transformer-rotary")


@pytest.mark.parametrize("network", [name for name in NETWORKS if name not in ANY_ORDER])
def test_a_state_of_another_order_is_refused(network):
    state = build(network, "bernoulli-raster").state_dict()
    with pytest.raises(ValueError, match="state_dict: made for another factorization"):
        build(network, "bernoulli-reverse").load_state_dict(state)


def _columns(**families):
    return ad.Factorization.columns(families)


def _of_pairs(dim, ordering=None):
    pairs = ad.families.Independent(FAMILIES["bernoulli"], (2,))
    partition = ad.Partition.along(dim)
    return ad.Factorization((2, 2), pairs, partition=partition, ordering=ordering)


def _permuted(*last):
    order = ad.Ordering.permutation([*range(9), *last])
    return ad.Factorization(11, FAMILIES["normal"], ordering=order)


NORMAL, LAPLACE = FAMILIES["normal"], FAMILIES["laplace"]
MEANINGS = {
    "names": (_columns(a=NORMAL, b=NORMAL), _columns(b=NORMAL, a=NORMAL)),
    "families": (_columns(a=NORMAL, b=LAPLACE), _columns(a=LAPLACE, b=NORMAL)),
    "partition": (_of_pairs(0), _of_pairs(1)),
    "ordering": (_permuted(9, 10), _permuted(10, 9)),
}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("network", ["made", "rnn-gru", "transformer-plain", "unshared"])
@pytest.mark.parametrize("part", MEANINGS)
def test_a_state_that_fits_and_means_something_else_is_refused(part, network, strict):
    own, other = (NETWORKS[network](fac) for fac in MEANINGS[part])
    with pytest.raises(ValueError, match=f"made for another factorization; {part} is"):
        own.load_state_dict(other.state_dict(), strict=strict)


@pytest.mark.parametrize(("network", "factorization"), COVERING)
def test_states_are_tensors_of_one_length(network, factorization):
    """So that they can be sent to other processes, and read by `weights_only`."""
    state, file = build(network, factorization).state_dict(), io.BytesIO()
    extra = [value for name, value in state.items() if name.endswith("_extra_state")]
    assert {(value.dtype, value.shape) for value in extra} == {(torch.uint8, (2048,))}
    torch.save(state, file)
    file.seek(0)
    build(network, factorization).load_state_dict(torch.load(file, weights_only=True))


def test_states_of_long_events_take_no_time():
    """A list of all pairs of blocks would not fit into the memory."""
    for fac in (
        ad.Factorization(10**5, FAMILIES["bernoulli"]),
        ad.Factorization((256, 256), FAMILIES["bernoulli"], ordering=ad.Ordering.snake()),
    ):
        net = networks.Markov(fac, hidden_features=())
        net.load_state_dict(net.state_dict())


@pytest.mark.parametrize("network", [name for name in NETWORKS if name not in ANY_ORDER])
def test_a_decoder_in_another_order_is_refused(network):
    net = build(network, "bernoulli-raster")
    other = FACTORIZATIONS["bernoulli-reverse"]
    name = type(net).__name__
    with pytest.raises(ValueError, match=f"factorization: {name} .*"):
        net.decoder(2, factorization=other)
    with pytest.raises(ValueError, match=f"factorization: {name} .*"):
        net.decoder(2, ranks=other.ranks.flatten())
    if not net.has_row_orders:
        with pytest.raises(ValueError, match=f"ranks: {name} draws all rows in one order"):
            net.decoder(2, ranks=torch.stack([other.ranks.flatten()] * 2))


def test_whole_passes_are_told_the_order():
    class AnyOrder(type(build("plain", "bernoulli-raster"))):
        def unsupported_reason(self, factorization):
            return None

        def forward(self, blocks, context=None, ranks=None):
            told.append(ranks)
            return blocks.unsqueeze(-1) * 0

    told = []
    net = AnyOrder(FACTORIZATIONS["bernoulli-raster"])
    other = FACTORIZATIONS["bernoulli-reverse"]
    net.decoder(2, factorization=other).step(None)
    assert torch.equal(told.pop(), other.ranks.flatten())
    net.decoder(2).step(None)
    assert told == [None]


@cases
def test_the_printed_network_shows_factorization_and_sizes(network, factorization):
    net = build(network, factorization, CONTEXT)
    shown = repr(net)
    assert shown.startswith(f"{type(net).__name__}(")
    assert str(net.factorization) in shown
    assert "context_shape=(3,)" in shown


DROPPING = {
    "made": (networks.MADE, {"hidden_features": 32}),
    "rnn": (networks.RNN, {"hidden_size": 8, "num_layers": 2}),
    "wavenet": (networks.WaveNet, {"channels": 8, "depth": 3}),
    "transformer": (networks.Transformer, GPT),
    "pixelcnn": (networks.PixelCNN, {"channels": 8, "depth": 2}),
    "pixelcnn, each pixel masked": (networks.PixelCNN, {"channels": 8, "depth": 2}),
}


@pytest.mark.parametrize("name", list(DROPPING))
def test_draws_and_their_scores_come_without_dropout(name):
    network, options = DROPPING[name]
    factorization = "image-snake" if "each pixel" in name else "image-raster"
    net = network(FACTORIZATIONS[factorization], dropout=0.5, **options)
    assert net.training
    x, score = net.condition().sample_and_log_prob((4,))
    assert not torch.equal(net.condition().log_prob(x), net.condition().log_prob(x))
    assert torch.equal(*(net.decoder(2).step(None) for _ in range(2)))
    blocks = net.factorization.split(x)
    first = net.factorization.steps[:3]
    prefix = net.factorization.layout.gather_blocks("value", blocks, [block for (block,) in first])
    assert torch.equal(*(net.decoder(4).prefill(prefix) for _ in range(2)))
    torch.manual_seed(1)
    drawn = net.condition().sample((3,))
    assert net.training
    net.eval()
    torch.testing.assert_close(net.condition().log_prob(x), score)
    torch.manual_seed(1)
    assert torch.equal(net.condition().sample((3,)), drawn)


@pytest.mark.parametrize("factorization", ["bernoulli-graph", "normal-permutation", "columns-ties"])
def test_windows_draw_what_single_steps_draw_from_the_same_noise(factorization, monkeypatch):
    net = build("made", factorization).double()
    order, p = net.factorization.drawing_order, net.condition()
    reference = torch.zeros((), dtype=torch.float64)
    noise = [layout.noise(50, reference) for layout in order.step_layouts]
    stepped = Rollout(p.batch((50,)), decoder=net.decoder(50))
    for step in stepped:
        step.accept(step.layout.from_noise(step.params, noise[step.index]))
    # The same noise for one window over all steps, family by family.
    whole = order.layout_of(0, order.num_steps)
    members = [family for layout in order.step_layouts for family in layout.distinct]
    pieces = [piece for each in noise for piece in each]
    together = [
        torch.cat([p for f, p in zip(members, pieces, strict=True) if f == family], 1)
        for family in whole.distinct
    ]
    decoder = net.decoder(50)
    decoder.max_window = order.num_steps
    windowed = Rollout(p.batch((50,)), decoder=decoder, windows=True)
    for step in windowed:
        assert step.is_window
        step.accept(step.from_params(lambda params: whole.from_noise(params, together)))
    torch.testing.assert_close(windowed.drawn, stepped.drawn, atol=1e-9, rtol=0)


def test_networks_without_a_decoder_are_sampled_by_whole_passes():
    net = build("plain", "bernoulli-random")
    made = build("made", "bernoulli-random")
    assert type(net.decoder(2)).__name__ == "WholePasses"
    assert isinstance(made.decoder(2), Decoder)
