"""Graphs that torch records serve any number of rows, and modes leave nothing behind."""

import copy
from contextlib import suppress

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import JitTrace_ELBO, Trace_ELBO
from table import CONTEXT, COVERING, FACTORIZATIONS, NETWORKS, build, random_made, slow_except
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

import ardist as ad
from ardist import networks

contexts = pytest.mark.parametrize("context_shape", [(), CONTEXT], ids=["", "context"])
BITS = FACTORIZATIONS["bernoulli-raster"]
# Notes of torch's exporters to themselves, and on its own recurrent modules.
exporting = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning",
    "ignore:.*:DeprecationWarning:(torch|onnx)",
    "ignore:The tensor attributes self.network.rnn",
)


def example(net):
    """The score as a module, its arguments for 6 rows, and what it says of them."""
    net, context_shape = net.eval().requires_grad_(False), net.context_shape
    context = torch.randn(6, *context_shape) if context_shape else None
    p = net.condition(context)
    x = p.sample(() if context_shape else (6,))
    args = (x, context) if context_shape else (x,)
    return ad.LogLikelihood(copy.deepcopy(net)), args, p.log_prob(x)


def exported(module, args):
    """A graph for any number of rows, from four of them."""
    return ad.export.record(module, tuple(arg[:4] for arg in args))


QUICK = ("made", "rnn-gru", "wavenet", "transformer", "pixelcnn", "plain")


@pytest.mark.slow
@exporting
@pytest.mark.parametrize(
    ("network", "context_shape"),
    slow_except(
        [(network, shape) for shape in (CONTEXT, ()) for network in NETWORKS],
        *((network, CONTEXT) for network in QUICK),
    ),
)
def test_exported_for_any_number_of_rows(network, context_shape):
    factorization = "image-raster" if network == "pixelcnn" else "columns-of-one-family"
    module, args, expected = example(build(network, factorization, context_shape))
    torch.testing.assert_close(exported(module, args).module()(*args), expected)


@pytest.mark.parametrize(
    "factorization",
    slow_except(["columns", "columns-ties", "nested-columns", "labels"], "columns-ties"),
)
def test_exported_with_blocks_of_several_families(factorization):
    module, args, expected = example(build("made", factorization, CONTEXT))
    torch.testing.assert_close(exported(module, args).module()(*args), expected)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of each shape that is checked
@contexts
@pytest.mark.parametrize("network", NETWORKS)
def test_traced_for_any_number_of_rows(network, context_shape):
    factorization = "image-raster" if network == "pixelcnn" else "bernoulli-raster"
    module, args, expected = example(build(network, factorization, context_shape))
    traced = torch.jit.trace(module, tuple(arg[:4] for arg in args), check_trace=False)
    torch.testing.assert_close(traced(*args), expected)


def test_a_compiled_loss_serves_batches_of_other_sizes():
    net = build("rnn-gru", "bernoulli-raster", CONTEXT)
    given = torch.randn(6, *CONTEXT)
    x = net.condition(given).sample()

    def model(x, context):
        pyro.module("network", net)
        with pyro.plate("rows", x.shape[0]):
            shift = pyro.sample("shift", dist.Normal(torch.zeros(()), torch.ones(())))
            pyro.sample("x", net.condition(context + shift.unsqueeze(-1)), obs=x)

    def guide(x, context):
        at = pyro.param("at", torch.zeros(()))
        with pyro.plate("rows", x.shape[0]):
            pyro.sample("shift", dist.Delta(at.expand(x.shape[0])))

    compiled, plain = JitTrace_ELBO(ignore_jit_warnings=True), Trace_ELBO()
    for rows in (4, 6, 3):
        found, expected = (
            elbo.loss_and_grads(model, guide, x[:rows], given[:rows]) for elbo in (compiled, plain)
        )
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@exporting
@pytest.mark.parametrize(
    ("network", "factorization"),
    [
        ("made", "columns"),
        ("rnn-gru", "ended"),
        ("wavenet", "normal-permutation"),
        ("transformer", "columns"),
        ("pixelcnn", "image-raster"),
        ("markov", "categorical-2"),
    ],
)
def test_onnx(network, factorization):
    module, args, expected = example(build(network, factorization, CONTEXT))
    program = torch.onnx.export(exported(module, args), dynamo=True, verbose=False)
    import onnxruntime

    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    names = [given.name for given in session.get_inputs()]
    found = session.run(None, dict(zip(names, (arg.numpy() for arg in args), strict=True)))[0]
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@exporting
@pytest.mark.parametrize(
    ("network", "factorization"),
    [
        ("made", "columns"),
        ("rnn-lstm", "ended"),
        ("wavenet", "normal-permutation"),
        ("transformer", "columns"),
        ("transformer-rotary", "categorical-2"),
        ("pixelcnn", "image-raster"),
        ("markov", "categorical-2"),
        ("masked", "columns"),
    ],
)
def test_a_step_in_onnx(network, factorization):
    net = build(network, factorization, CONTEXT).eval().requires_grad_(False)
    step = net.make_static_step(net.factorization)
    context = torch.randn(6, *CONTEXT)
    blocks = net.factorization.split(net.condition(context).sample())
    recorded = (blocks[:4], torch.tensor(0), *step.start(blocks[:4], context[:4]))
    program = torch.onnx.export(ad.export.record(step, recorded), dynamo=True, verbose=False)
    import onnxruntime

    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    names = [given.name for given in session.get_inputs()]
    encodings, state = step.start(blocks, context)
    for index in range(net.factorization.num_steps):
        args = (blocks, torch.tensor(index), *encodings, *state)
        found = session.run(None, dict(zip(names, (arg.numpy() for arg in args), strict=True)))
        params, state = step(blocks, torch.tensor(index), encodings, state)
        for one, expected in zip(found, (params, *state), strict=True):
            torch.testing.assert_close(torch.from_numpy(one), expected, rtol=1e-5, atol=1e-5)


SMALL = {
    "made": lambda: random_made(BITS, hidden_features=4),
    "transformer": lambda: networks.Transformer(BITS, dim=4, depth=1, heads=1, any_order=False),
    "pixelcnn": lambda: networks.PixelCNN(BITS, channels=4, depth=1, kernel_size=3),
}


@pytest.mark.slow
@exporting
@pytest.mark.parametrize("network", SMALL)
def test_compiled_ahead_of_time(network, tmp_path):
    from torch._inductor import aoti_compile_and_package, aoti_load_package

    module, args, expected = example(SMALL[network]())
    path = aoti_compile_and_package(
        exported(module, args),
        package_path=str(tmp_path / "score.pt2"),
        inductor_configs={"aot_inductor.compile_wrapper_opt_level": "O0"},
    )
    torch.testing.assert_close(aoti_load_package(path)(*args), expected)


# Modes.


def in_inference_mode(score, x):
    with torch.inference_mode():
        score(x)


def on_meta(score, x):
    """Where tensors that name no device have no values, so that the call may fail."""
    with torch.device("meta"), suppress(RuntimeError):
        score(x)


def with_fakes(score, x):
    """Which have no values either, for checks to read."""
    with FakeTensorMode(allow_non_fake_inputs=True), suppress(DataDependentOutputException):
        score(x)


def in_a_transform(score, x):
    torch.func.vmap(score)(x)


# Inference mode forbids most of what could be left behind; the others meet each network once.
FIRST_CALLS = [(*case, in_inference_mode) for case in COVERING]
FIRST_CALLS += [
    (network, "image-raster", mode)
    for network in NETWORKS
    for mode in (on_meta, with_fakes, in_a_transform)
]


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of torch, where it loops
@pytest.mark.parametrize(("network", "factorization", "mode"), FIRST_CALLS)
def test_a_first_call_under_a_mode_leaves_nothing_behind(network, factorization, mode):
    x = build(network, factorization).condition().sample((3,))
    net = build(network, factorization)  # with a factorization of its own, that nothing has used
    mode(lambda x: net.condition().log_prob(x), x)
    p = net.condition()
    score = p.log_prob(x).sum()
    if score.requires_grad:
        score.backward()
    expected = build(network, factorization).condition().log_prob(x).sum()
    assert torch.equal(score, expected)
    assert p.support.check(p.sample((2,))).all()


def test_a_first_step_under_a_rule_leaves_nothing_behind():
    """The places of the columns, which the rule has looked up, are tensors with values."""
    limits = ad.rules.All(ad.rules.When("a", {1}, b=0.0), ad.rules.Within(c={0, 2}))
    families = {"a": ad.families.Bernoulli(), "b": ad.families.Bernoulli()}
    fac = ad.Factorization.columns({**families, "c": ad.families.Categorical(3)}, rule=limits)
    net = random_made(fac, hidden_features=8).eval()
    draw = ad.DrawStep(net)
    with FakeTensorMode(allow_non_fake_inputs=True):
        events, encodings, state = draw.start(3)
        draw(events, torch.tensor(0), encodings, state)
    p = net.condition()
    assert p.log_prob(p.sample((3,))).isfinite().all()
