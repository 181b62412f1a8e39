"""Steps with the same shapes: their numbers are the decoder's, and one graph serves all of them."""

import copy

import pytest
import torch
from laws import assert_follows
from table import CASES, CONTEXT, COVERING, FACTORIZATIONS, build, slow_except
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

import ardist as ad
from ardist import networks
from ardist.rows import repeat_rows
from ardist.static import StaticDecoder

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


# CUDA graphs, without CUDA: operations are noted with their tensors, and run again on these.

# Operations that wait for the device, or copy numbers from Python to it.
FORBIDDEN = {"_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "lift_fresh"}


class Graph(TorchDispatchMode):
    """Replaces `torch.cuda.CUDAGraph`, and raises an error for operations that it cannot record.

    Operations run when they are noted, as their results must be there. So the first replay does
    nothing.
    """

    def __init__(self):
        super().__init__()
        self.noted, self.replays = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().removeprefix("aten::").split(".")[0]
        assert name not in FORBIDDEN, name
        result = function(*args, **(kwargs or {}))
        self.noted.append((function, args, kwargs or {}, result))
        return result

    def replay(self):
        self.replays += 1
        for function, args, kwargs, result in self.noted if self.replays > 1 else ():
            again = function(*args, **kwargs)
            for old, new in zip(tree_flatten(result)[0], tree_flatten(again)[0], strict=True):
                # A view of the same memory is up to date.
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


@pytest.fixture
def graphs(monkeypatch):
    made = []

    def make():
        made.append(Graph())
        return made[-1]

    monkeypatch.setattr(torch.cuda, "CUDAGraph", make)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: graph)
    monkeypatch.setattr(ad.static, "has_graphs", lambda reference: True)
    monkeypatch.setattr(ad.static, "_WARM_UP", 1)
    return made


RECORDED = {
    "rnn-gru": "ended",
    "rnn-lstm": "bernoulli-random",
    "wavenet": "normal-permutation",
    "wavenet-cycles": "bernoulli-random",
    "markov": "bernoulli-random",
    "transformer": "columns-permuted",
    "transformer-rotary": "bernoulli-random",
    "pixelcnn": "image-turned",
}


@pytest.mark.parametrize("network", RECORDED)
def test_a_recorded_step_gives_the_numbers_of_the_decoder(network, graphs):
    net = build(network, RECORDED[network], CONTEXT).double()
    fac, context = net.factorization, torch.randn(2, *CONTEXT, dtype=torch.float64)
    blocks = fac.split(net.condition(context).sample((2,)).flatten(0, 1))
    expected, rows = net.decoder(4, context), torch.tensor([2, 1, 0, 1])
    net.records_steps = True
    decoder = net.decoder(4, context)
    assert type(decoder) is StaticDecoder
    previous = None
    for index in range(fac.num_steps):
        params = decoder.step(previous)
        torch.testing.assert_close(params, expected.step(previous), rtol=1e-9, atol=1e-9)
        previous = fac.drawing_order.part(blocks, index, index + 1)
        if index == 1:
            decoder.select(rows)
            expected.select(rows)
    (graph,) = graphs
    assert graph.replays == fac.num_steps - 1 > 1


def test_a_decoder_that_records_can_be_copied_and_have_fewer_rows(graphs):
    net = build("rnn-lstm", "bernoulli-raster").double()
    blocks = net.condition().sample((3,)).flatten(1)
    expected = net.decoder(3)
    net.records_steps = True
    decoder = net.decoder(3)
    for each in (decoder, expected):
        each.prefill(blocks[:, :2])
    assert len(graphs) == 1
    parts = decoder.copy(), decoder
    parts[0].select(torch.tensor([2, 0]))
    expected.select(torch.tensor([2, 0, 1]))
    for index in range(2, net.factorization.num_steps - 1):
        params = expected.step(blocks[[2, 0, 1], index : index + 1])
        for part, rows in zip(parts, ([2, 0], [0, 1, 2]), strict=True):
            own = part.step(blocks[rows, index : index + 1])
            wanted = params[: len(rows)] if part is not decoder else params[[1, 2, 0]]
            torch.testing.assert_close(own, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("network", RECORDED)
def test_draws_by_recorded_steps_are_those_of_the_decoder(network, graphs):
    net = build(network, RECORDED[network], CONTEXT).double()
    context = torch.randn(2, *CONTEXT, dtype=torch.float64)
    p = net.condition(context)
    x = p.sample()
    observed = net.factorization.ranks.flatten() < 2
    mask = net.factorization.layout.expand_to_elements(observed).expand(2, -1)
    mask = net.factorization.merge(mask.reshape(2, *net.factorization.layout.value_shape))
    draws = []
    for records in (False, True):
        net.records_steps = records
        torch.manual_seed(0)
        draws.append((p.sample((3,)), p.given(x, mask).sample((3,))))
    torch.testing.assert_close(*draws)
    assert graphs


class OneDevice(TorchDispatchMode):
    """Raises an error for operations on tensors of devices other than `meta`."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for part in tree_flatten((args, kwargs, result))[0]:
            assert not isinstance(part, torch.Tensor) or part.device.type == "meta", function
        return result


@pytest.mark.parametrize("network", RECORDED)
def test_a_step_has_all_its_tensors_on_the_device(network):
    net = build(network, RECORDED[network], CONTEXT).eval().to("meta")
    layout = net.factorization.layout
    step = net.make_static_step(net.factorization)
    blocks = torch.zeros(4, *layout.value_shape, device="meta", dtype=layout.dtype(torch.float32))
    encodings, state = step.start(blocks, torch.zeros(4, *CONTEXT, device="meta"))
    position = torch.zeros((), dtype=torch.int64, device="meta")
    with torch.no_grad(), OneDevice():
        step.advance(blocks, position, encodings, state)
