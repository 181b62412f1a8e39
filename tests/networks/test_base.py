"""What holds of every network."""

import copy
import io
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from table import (
    CASES,
    CONTEXT,
    COVERING,
    DEVICE,
    FACTORIZATIONS,
    FAMILIES,
    GPT,
    NETWORKS,
    REPRESENTATIVE,
    TinyGPT,
    build,
    random_made,
    slow_except,
)
from torch import nn

import ardist as ad
from ardist import networks

cases = pytest.mark.parametrize(
    ("network", "factorization", "context_shape"),
    [(*case, CONTEXT) for case in CASES] + [(*case, ()) for case in COVERING],
    ids=lambda value: value if isinstance(value, str) else "context" if value else "alone",
)

DIFFERENTIABLE = [
    case
    for case in REPRESENTATIVE
    if not FACTORIZATIONS[case[1]].support.is_discrete and case[1] != "von_mises-2"
]


@cases
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
    seen = torch.zeros_like(fac.dependencies)
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
def test_decoder_gives_the_numbers_of_the_parallel_pass(network, factorization, context_shape):
    net = build(network, factorization, context_shape)
    if context_shape:
        context = torch.randn(2, *CONTEXT, dtype=torch.float64)
        ad.testing.check_decoder(net.double(), context)
    else:
        ad.testing.check_decoder(net)
        ad.testing.check_decoder(net.double())


# Whole passes begin with a draw, for which the meta device has no numbers.
@pytest.mark.parametrize(
    ("network", "factorization"), [case for case in REPRESENTATIVE if case[0] != "plain"]
)
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


TAKES_BLOCKS = {
    network for network in NETWORKS if "blocks" in build(network, "image-raster").context_kinds
}
BLOCKWISE = [
    (network, factorization)
    for network, factorization in CASES
    if network in TAKES_BLOCKS
    and (
        factorization in ("bernoulli-random", "normal-ties", "columns", "image-snake")
        or (network, factorization) == ("pixelcnn", "image-turned")  # its masks are one, turned
    )
]


@pytest.mark.parametrize(("network", "factorization"), BLOCKWISE)
def test_a_context_for_each_block_reaches_that_block_and_later_ones(network, factorization):
    shape = (*FACTORIZATIONS[factorization].grid_shape, 3)
    net = build(network, factorization, shape, context_kind="blocks").double()
    fac = net.factorization
    context = torch.randn(2, *shape, dtype=torch.float64)
    assert ad.testing.check_autoregressive(net, context).context_reach == 1.0
    ad.testing.check_decoder(net, context)
    ad.testing.check_shapes(net.condition(context))
    blocks = fac.split(net.condition(context[:1]).sample())
    owner = torch.repeat_interleave(torch.tensor(fac.layout.sizes["param"]))
    before = net(blocks, context[:1]).flatten()
    after = fac.dependencies | torch.eye(fac.num_blocks, dtype=torch.bool)
    for block in range(fac.num_blocks):
        changed = context[:1].clone()
        changed.view(1, fac.num_blocks, 3)[:, block] += 1
        moved = owner[(net(blocks, changed).flatten() - before).abs() > 1e-6].unique()
        assert block in moved
        if network not in ("masked", "pixelcnn"):  # which read the context of later blocks, too
            assert after[moved, block].all()


@pytest.mark.parametrize(
    "network",
    slow_except(list(NETWORKS), "made", "rnn-gru", "wavenet", "transformer", "pixelcnn", "plain"),
)
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


def test_a_compiled_network_is_looked_through():
    net = build("rnn-gru", "normal-raster")
    compiled = torch.compile(net, backend="eager")
    params = {name: weight.detach() + 0.1 for name, weight in net.named_parameters()}
    p, x = ad.AutoregressiveDistribution(compiled, params=params), torch.zeros(4)
    torch.testing.assert_close(p.log_prob(x), net.condition(params=params).log_prob(x))
    with pytest.raises(ValueError, match=r"^chunk_size: expected none for a wrapped network"):
        ad.AutoregressiveDistribution(compiled, chunk_size=2)


ANY_ORDER = ("transformer", "transformer-rotary", "masked", "masked-module")


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


@pytest.mark.parametrize("assign", [False, True], ids=["to_empty", "assign"])
@pytest.mark.parametrize(
    ("network", "factorization"), [case for case in REPRESENTATIVE if case[0] != "plain"]
)
def test_a_state_fills_a_network_without_numbers(network, factorization, assign):
    """Also the masks, which are not in it. Networks of the user have to see to theirs."""
    net = build(network, factorization).eval()
    x, empty = net.condition().sample((3,)), copy.deepcopy(net).to("meta")
    if not assign:
        empty.to_empty(device=DEVICE)
        for tensor in (*empty.parameters(), *empty.buffers()):
            tensor.data.fill_(1)
    empty.load_state_dict(net.state_dict(), assign=assign)
    p, found = net.condition(), empty.condition()
    torch.testing.assert_close(found.log_prob(x), p.log_prob(x))
    torch.manual_seed(1)
    expected = p.sample((2,))
    torch.manual_seed(1)
    torch.testing.assert_close(found.sample((2,)), expected)


def test_a_module_without_numbers_can_be_wrapped():
    fac = FACTORIZATIONS["normal-random"]
    whole = networks.FromModule(TinyGPT(fac), fac, start=2.0)
    with torch.device("meta"):
        module = TinyGPT(fac)
    net = networks.FromModule(module, fac, start=2.0)
    assert "start=2.0" in repr(net)
    net.load_state_dict(whole.state_dict(), assign=True)
    x = torch.randn(3, 4)
    torch.testing.assert_close(net.condition().log_prob(x), whole.condition().log_prob(x))


def test_states_of_long_events_take_no_time():
    """A list of all pairs of blocks would not fit into the memory."""
    for fac in (
        ad.Factorization(10**5, FAMILIES["bernoulli"]),
        ad.Factorization((256, 256), FAMILIES["bernoulli"], ordering=ad.Ordering.snake()),
    ):
        net = networks.Markov(fac, hidden_features=())
        net.load_state_dict(net.state_dict())


@pytest.mark.parametrize("context_shape", [(), CONTEXT], ids=["alone", "context"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_copied_decoder_goes_on_by_itself(network, context_shape):
    net = build(network, "image-raster", context_shape)
    context = torch.randn(1, *CONTEXT) if context_shape else None
    zeros, ones = torch.zeros(2, 1), torch.ones(2, 1)
    decoder = net.decoder(2, context)
    decoder.prefill(torch.ones(2, 2))
    decoder.select(torch.tensor([1, 0]))  # which keeps no graph either, also with gradients
    kept, expected = decoder.copy(), []
    for block in (zeros, ones, zeros):
        expected.append(decoder.step(block))
    for block in (ones, zeros):
        kept.copy().step(block)
    for block, params in zip((zeros, ones, zeros), expected, strict=True):
        torch.testing.assert_close(kept.step(block), params)
    assert all(part is net for part in vars(kept).values() if isinstance(part, type(net)))


LONG = {
    "rnn": (networks.RNN, {"hidden_size": 4}),
    "wavenet": (networks.WaveNet, {"channels": 4, "depth": 3}),
    "markov": (networks.Markov, {"window": 2, "hidden_features": ()}),
}


@pytest.mark.parametrize("name", LONG)
def test_long_events_need_no_pairs_of_blocks(name):
    """Dependencies are a matrix of T x T, which is made only if it is asked for."""
    network, options = LONG[name]
    fac = ad.Factorization(20_000, FAMILIES["normal"], ordering=ad.Ordering.random(1))
    net = network(fac, **options)
    net.load_state_dict(net.state_dict())
    x, observed = torch.randn(20_000), torch.zeros(20_000, dtype=torch.bool)
    observed[fac.ranks < 19_990] = True
    p = net.condition().given(x, observed)
    assert p.log_prob(p.sample()).isfinite()
    assert "dependencies" not in vars(fac)


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


@pytest.mark.parametrize("network", NETWORKS)
def test_the_printed_network_shows_factorization_and_sizes(network):
    net = build(network, "image-raster", CONTEXT)
    shown = repr(net)
    assert shown.startswith(f"{type(net).__name__}(")
    assert str(net.factorization) in shown
    assert "context_shape=(3,)" in shown


NO_OUTPUT_MAPS = ("plain", "foreign", "masked-module")  # modules of which no last layer is known


@pytest.mark.parametrize("context_shape", [(), CONTEXT], ids=["alone", "context"])
@pytest.mark.parametrize("network", [name for name in NETWORKS if name not in NO_OUTPUT_MAPS])
def test_a_decoder_goes_on_without_rows(network, context_shape):
    net = build(network, "image-raster", context_shape)
    decoder = net.decoder(2, torch.randn(2, *CONTEXT) if context_shape else None)
    params = decoder.step(None)
    decoder.select(torch.empty(0, dtype=torch.int64))
    for _ in range(2):
        assert decoder.step(torch.zeros(0, 1)).shape == (0, *params.shape[1:])


@pytest.mark.parametrize("network", [name for name in NETWORKS if name not in NO_OUTPUT_MAPS])
def test_conditionals_start_as_the_marginals_of_data(network):
    factorization = "bernoulli-raster" if network != "pixelcnn" else "image-raster"
    net = build(network, factorization, CONTEXT)
    shape = net.factorization.event_shape
    x = (torch.rand(300, *shape) < torch.linspace(0.1, 0.9, shape.numel()).reshape(shape)).float()
    x[:100, 0, 0] = torch.nan  # missing
    net.start_at(x)
    p = net.condition(torch.randn(300, *CONTEXT))
    probs = p.conditionals(x.nan_to_num()).probs.flatten(1)
    assert torch.equal(probs, probs[:1].expand_as(probs))  # whatever the context and other blocks
    if network.split("-")[0] in ("made", "masked", "unshared"):
        counts, ones = (~x.isnan()).sum(0), x.nansum(0)
    else:  # one map for all blocks
        counts, ones = (~x.isnan()).sum().expand(shape), x.nansum().expand(shape)
    expected = (ones + 0.5) / (counts + 1)  # with one more value, half a one
    torch.testing.assert_close(probs[0], expected.flatten())


@pytest.mark.parametrize("network", ["made", "rnn-gru", "masked", "unshared", "transformer"])
def test_mixed_columns_start_as_the_marginals_of_data(network):
    net = build(network, "columns-permuted")  # a category, a positive number and a category
    x = torch.stack((torch.arange(90) % 2, 1 + torch.arange(90) % 5, torch.arange(90) % 3), -1)
    net.start_at(x.float())
    each = net.condition().conditionals(x[:1].float())
    torch.testing.assert_close(each["a"].probs, torch.full((1, 2), 1 / 2))
    torch.testing.assert_close(each["c"].probs, torch.full((1, 3), 1 / 3))
    assert each["b"].mean.item() == pytest.approx(3.0, rel=0.01)


def test_padding_has_no_part_in_the_start_and_nested_networks_start_too():
    net = build("rnn-gru", "ended")  # the end is 2, and so is the padding
    net.start_at(torch.tensor([[0, 2, 2, 2], [1, 0, 2, 2]]))
    logits = net(torch.zeros(1, 4, dtype=torch.int64))[0, 0]
    torch.testing.assert_close(logits.softmax(-1), torch.tensor([7.0, 4.0, 7.0]) / 18)
    net = build("rnn-gru", "nested")  # (2, 2) bits, two a block
    net.start_at(torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]]]))
    inner = net.factorization.families[0].network
    probs = inner.condition(torch.randn(3)).conditionals(torch.zeros(2)).probs
    torch.testing.assert_close(probs, torch.tensor([3.5, 1.5]) / 5)


DROPPING = {
    "made": (random_made, {"hidden_features": 32}),
    "rnn": (networks.RNN, {"hidden_size": 8, "num_layers": 2}),
    "wavenet": (networks.WaveNet, {"channels": 8, "depth": 3}),
    "transformer": (networks.Transformer, GPT),
    "masked": (networks.Masked, {"hidden_features": (32, 32)}),
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
    blocks, order = net.factorization.split(x), net.factorization.drawing_order.blocks
    found = net.decoder(4).step(None), net.decoder(4).prefill(blocks[:, order[:3]])
    torch.manual_seed(1)
    drawn = net.condition().sample((3,))
    assert net.training
    params = net.eval()(blocks)
    torch.testing.assert_close(torch.cat(found, 1), params[:, [order[0], order[3]]])
    torch.testing.assert_close(net.condition().log_prob(x), score)
    torch.manual_seed(1)
    assert torch.equal(net.condition().sample((3,)), drawn)


@pytest.mark.parametrize("network", [name for name in NETWORKS if name not in NO_OUTPUT_MAPS])
def test_draws_change_no_mode_without_dropout(network, monkeypatch):
    """So that threads can share a network, and compilers see one mode."""
    nets = [build(network, name) for name in ("image-raster", "image-snake")]
    changed, plain = [], nn.Module.__setattr__

    def watched(module, name, value):
        if name == "training":
            changed.append(module)
        plain(module, name, value)

    monkeypatch.setattr(nn.Module, "__setattr__", watched)
    for net in nets:
        net.condition().sample_and_log_prob((2,))
    assert not changed


@pytest.mark.parametrize("network", ["made", "rnn-gru", "wavenet", "transformer", "markov"])
def test_threads_share_a_network(network):
    net = build(network, "normal-random")
    transform = ad.transforms.AutoregressiveTransform(net)
    noise = torch.randn(40, 3, 4)
    expected = [transform(z).detach() for z in noise]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda z: transform(z).detach(), noise))
    assert all(map(torch.equal, found, expected))
    assert all(module.training for module in net.modules())


class Strict(nn.Linear):
    """A module that only draws may call."""

    def forward(self, x):
        assert not self.training
        return super().forward(x)


def test_modules_that_may_follow_their_mode_change_it():
    fac = ad.Factorization.columns(a=NORMAL, b=NORMAL, c=NORMAL, d=NORMAL)
    normed = nn.utils.spectral_norm(nn.Linear(2, 2))
    random = nn.Sequential(nn.RReLU(), nn.BatchNorm1d(3), nn.Linear(3, 2))
    net = networks.Unshared(fac, modules=[None, Strict(1, 2), normed, random])
    before = copy.deepcopy(net.state_dict())
    x, score = net.condition().sample_and_log_prob((3,))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())
    torch.testing.assert_close(net.eval().condition().log_prob(x), score)
