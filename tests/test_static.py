"""Steps with the same shapes: their numbers are the decoder's, and one graph serves all of them."""

import copy

import pytest
import torch
from laws import assert_follows
from table import CASES, CONTEXT, COVERING, FACTORIZATIONS, build, slow_except

import ardist as ad
from ardist import networks
from ardist.rows import repeat_rows

ROWS = 4


def assert_same_as_decoder(net, context=None, factorization=None):
    """The parameters of each step of a draw, and its state, which `forward` leaves as it was."""
    net = net.double().eval()
    fac = net.factorization if factorization is None else factorization
    order, p = fac.drawing_order, net.condition(context, factorization=factorization)
    blocks = fac.split(p.sample((ROWS,) if context is None else (ROWS // context.shape[0],)))
    blocks = blocks.reshape(ROWS, *fac.layout.value_shape)
    decoder = net.decoder(ROWS, context, factorization=factorization)
    step = net.make_static_step(fac)
    earlier = fac.layout.placeholder(blocks.double()).expand_as(blocks)
    with torch.no_grad():
        context = None if context is None else repeat_rows(context, ROWS)
        encodings, state = step.start(blocks, context)
        assert all(part.shape[0] == ROWS for part in (*encodings, *state))
        previous = None
        for index in range(fac.num_steps):
            position, before = torch.tensor(index), copy.deepcopy(state)
            params, after = step(earlier, position, encodings, state)
            assert all(map(torch.equal, state, before))
            assert torch.equal(step.advance(earlier, position, encodings, state), params)
            assert all(map(torch.equal, state, after))
            if not step.is_single:
                params = order.part(params, index, index + 1, "param")
            torch.testing.assert_close(params, decoder.step(previous), rtol=1e-9, atol=1e-9)
            previous = order.part(blocks, index, index + 1)
            earlier = order.put(earlier, previous, index)


@pytest.mark.parametrize(
    ("network", "factorization", "context_shape"),
    slow_except(
        [(*case, shape) for case in CASES if case in COVERING for shape in (CONTEXT, ())],
        *((*case, CONTEXT) for case in COVERING),
    ),
)
def test_the_numbers_are_those_of_the_decoder(network, factorization, context_shape):
    net = build(network, factorization, context_shape)
    context = torch.randn(2, *CONTEXT, dtype=torch.float64) if context_shape else None
    assert_same_as_decoder(net, context)


@pytest.mark.parametrize(
    ("network", "factorization", "kind"),
    [
        ("rnn-lstm", "bernoulli-random", "blocks"),
        ("wavenet", "bernoulli-random", "blocks"),
        ("markov", "bernoulli-random", "blocks"),
        ("transformer", "columns-permuted", "blocks"),
        ("transformer-rotary", "bernoulli-random", "sequence"),
        ("pixelcnn", "image-turned", "blocks"),
        ("masked", "columns-ties", "sequence"),
    ],
)
def test_the_numbers_under_other_kinds_of_context(network, factorization, kind):
    grid = FACTORIZATIONS[factorization].grid_shape
    shape = (*grid, 3) if kind == "blocks" else (5, 3)
    net = build(network, factorization, shape, context_kind=kind)
    assert_same_as_decoder(net, torch.randn(2, *shape, dtype=torch.float64))


LONGER = ad.Factorization(9, ad.families.Normal())
OTHERS = {
    "rnn-gru": LONGER,
    "wavenet-cycles": LONGER,
    "transformer-rotary": LONGER,
    "transformer": FACTORIZATIONS["normal-random"],
    "masked": FACTORIZATIONS["normal-ties"],
}


@pytest.mark.parametrize("network", OTHERS)
def test_the_numbers_for_another_length_or_order(network):
    assert_same_as_decoder(build(network, "normal-raster"), factorization=OTHERS[network])


KINDS = {
    "made": "columns",
    "rnn-gru": "ended",
    "wavenet": "normal-permutation",
    "transformer": "columns",
    "transformer-rotary": "bernoulli-random",
    "pixelcnn": "image-turned",
    "unshared": "columns",
    "markov": "categorical-2",
    "masked": "columns-ties",
    "foreign": "categorical-2",
    "plain": "columns",
}


@pytest.mark.parametrize("network", slow_except(list(KINDS), "markov"))
def test_one_compiled_graph_serves_all_steps(network):
    net = build(network, KINDS[network], CONTEXT).eval()
    draw, graphs = ad.DrawStep(net), []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(draw, fullgraph=True, backend=backend)
    with torch.no_grad():
        events, encodings, state = draw.start(ROWS, torch.randn(2, *CONTEXT))
        for index in range(net.factorization.num_steps):
            position = torch.tensor(index)
            torch.manual_seed(index)
            expected = draw(events, position, encodings, state)
            torch.manual_seed(index)
            events, state = compiled(events, position, encodings, state)
            torch.testing.assert_close((events, state), expected)
    assert len(graphs) == 1


def drawn(draw, rows, context=None):
    """Events by a draw of all steps."""
    with torch.no_grad():
        events, encodings, state = draw.start(rows, context)
        for index in range(draw.factorization.num_steps):
            events, state = draw(events, torch.tensor(index), encodings, state)
    return events


@pytest.mark.parametrize(("network", "factorization"), COVERING)
def test_draws_are_inside_the_support(network, factorization):
    net = build(network, factorization).eval()
    p = net.condition()
    x = drawn(ad.DrawStep(net), 6)
    assert x.dtype == p.sample().dtype
    assert p.support.check(x).all()


@pytest.mark.parametrize(
    ("network", "factorization"),
    [
        ("rnn-gru", "ended-padded"),
        ("made", "ended-columns"),
        ("unshared", "bernoulli-graph"),
        ("transformer", "bernoulli-ties"),
        ("pixelcnn", "patches"),
    ],
)
def test_draws_follow_the_distribution(network, factorization):
    net = build(network, factorization).eval()
    assert_follows(net.condition(), drawn(ad.DrawStep(net), 2000))


def test_draws_under_contexts_and_other_families():
    net = build("rnn-gru", "categorical-2", CONTEXT).eval()
    fac = net.factorization.with_families(ad.families.TopK(ad.families.Categorical(3), 2))
    context = torch.randn(2, *CONTEXT)
    x = drawn(ad.DrawStep(net, factorization=fac), 4000, context).unflatten(0, (-1, 2))
    for number in range(2):
        p = net.condition(context[number], factorization=fac)
        assert_follows(p, x[:, number], net.factorization.enumerate_support())


def test_a_prompt_is_written_into_the_events():
    net = build("rnn-gru", "bernoulli-raster").eval()
    prompt, known = (
        torch.tensor([[1.0, 0.0], [0.0, 0.0]]),
        torch.tensor([[True, True], [False] * 2]),
    )
    draw = ad.DrawStep(net)
    with torch.no_grad():
        events, encodings, state = draw.start(2000)
        for index in range(4):
            events, state = draw(events, torch.tensor(index), encodings, state)
            events = torch.where(known, prompt, events)
    p = net.condition().given(prompt, known)
    assert_follows(p, events, net.factorization.enumerate_support())


def test_a_step_follows_the_network_to_another_dtype():
    step = networks.RNN(LONGER, hidden_size=4).make_static_step(LONGER).double()
    assert {part.dtype for part in step.state_dict().values()} - {torch.uint8} == {torch.float64}
