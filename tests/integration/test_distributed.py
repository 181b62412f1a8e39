"""Processes train as one does, and sharded networks draw: DDP and FSDP2, by gloo on the CPU."""

import copy
import faulthandler
import itertools
import os
import shutil
from functools import partial

import pytest
import torch
from table import FACTORIZATIONS, random_made
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import ardist as ad
from ardist import families as fam
from ardist import networks

WORDS = ad.Factorization(6, fam.Categorical(5))
IMAGE, SNAKE = FACTORIZATIONS["image-raster"], FACTORIZATIONS["image-snake"]
ROWS, STEPS, WORLD = 8, 20, 2


def _nested(**context):
    chord = ad.Factorization(3, fam.Bernoulli())
    inner = random_made(chord, hidden_features=8, context_shape=(4,))
    fac = ad.Factorization((5, 3), fam.Nested(inner), partition=ad.Partition.along(0))
    return networks.RNN(fac, hidden_size=8, **context)


def _transformer(**context):
    return networks.Transformer(WORDS, dim=8, depth=2, heads=2, **context)


NETWORKS = {
    "made": partial(random_made, FACTORIZATIONS["normal-raster"], hidden_features=(16, 16)),
    "rnn": partial(networks.RNN, WORDS, hidden_size=8, cell="lstm", num_layers=2),
    "transformer": _transformer,
    "transformer, cross-attention": partial(
        networks.Transformer,
        WORDS,
        dim=8,
        depth=2,
        heads=2,
        context_kind="sequence",
        checkpoint_layers=True,
    ),
    "wavenet": partial(networks.WaveNet, WORDS, channels=8, depth=3, checkpoint_layers=True),
    "pixelcnn": partial(networks.PixelCNN, IMAGE, channels=8, depth=2),
    "pixelcnn, each pixel masked": partial(
        networks.PixelCNN, SNAKE, channels=8, depth=2, checkpoint_layers=True
    ),
    "nested": _nested,
}


def build(name):
    torch.manual_seed(0)
    shape = (2, 3) if "cross" in name else (3,)
    return NETWORKS[name](context_shape=shape).double()  # rounding would add up over the steps


def contexts(net):
    return torch.randn(ROWS, *net.context_shape, dtype=torch.float64)


def layers(net):
    """The parts that are sharded one by one."""
    body = getattr(net, "body", net)
    for name in ("layers", "blocks", "hidden"):
        if isinstance(found := getattr(body, name, None), nn.ModuleList):
            return list(found)
    return []


def by_ddp(net):
    return DistributedDataParallel(ad.LogLikelihood(net))


def by_fsdp(net, **options):
    for layer in layers(net):
        fully_shard(layer)
    return ad.LogLikelihood(fully_shard(net), **options)


def by_fsdp_around(net, **options):
    for layer in layers(net):
        fully_shard(layer)
    return fully_shard(ad.LogLikelihood(net, **options))


def whole(tensor):
    """All of a tensor, of which this process may have a shard."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def trains_as_one(rank, name):
    for wrapper, wrap in WRAPPERS.items():
        if (name, wrapper) != ("made", IN_CHUNKS):
            _trains_as_one(rank, name, wrap)


def _trains_as_one(rank, name, wrap):
    net = build(name)
    alone = copy.deepcopy(net)
    context = contexts(net)
    x = net.condition(context).sample()
    model, reference = wrap(net), ad.LogLikelihood(alone)
    optimizers = [torch.optim.SGD(module.parameters(), 0.1) for module in (model, reference)]
    world = torch.distributed.get_world_size()
    mine = slice(rank * ROWS // world, (rank + 1) * ROWS // world)
    for _ in range(STEPS):
        losses = [-model(x[mine], context[mine]).mean(), -reference(x, context).mean()]
        for optimizer, loss in zip(optimizers, losses, strict=True):
            optimizer.zero_grad()
            loss.backward()
        mean = losses[0].detach().clone()
        torch.distributed.all_reduce(mean)  # the sum
        torch.testing.assert_close(mean / world, losses[1].detach(), rtol=1e-9, atol=1e-9)
        for own, other in zip(net.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(whole(own.grad), other.grad, rtol=1e-9, atol=1e-9)
        for optimizer in optimizers:
            optimizer.step()


def draws_as_one(rank, name):
    net = build(name)
    alone = copy.deepcopy(net)
    context = contexts(net)
    model = by_fsdp(net)
    for _ in range(2):  # before and after a step of training
        p, q = net.condition(context), alone.condition(context)
        torch.manual_seed(1)
        x = p.sample((2,))
        torch.manual_seed(1)
        torch.testing.assert_close(x, q.sample((2,)), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(p.log_prob(x), q.log_prob(x), rtol=1e-9, atol=1e-9)
        first = net.factorization.split(torch.zeros(net.factorization.event_shape))
        first = torch.zeros_like(first, dtype=torch.bool)
        first[net.factorization.steps[0][0]] = True
        mask = net.factorization.merge(first)
        drawn = p.given(x, mask).sample()
        assert torch.equal(drawn[..., mask], x[..., mask])
        if net.factorization.has_rsample:
            p.rsample().sum().backward()
        for module in (model, ad.LogLikelihood(alone)):
            module.zero_grad()
            module(x, context).sum().backward()
            torch.optim.SGD(module.parameters(), 0.01).step()


def a_wrapper_that_is_sharded_says_so(rank):
    for wrap in (by_fsdp_around, lambda net: fully_shard(ad.LogLikelihood(net))):
        net = build("made")
        wrap(net)
        with pytest.raises(ValueError, match="network: expected fully_shard on the MADE itself"):
            net.condition(torch.zeros(3, dtype=torch.float64)).sample()


FIT = {"batch_size": 4, "lr": 0.02, "warmup": 0, "max_epochs": 4, "progress": False}
FITTED = {  # how it is wrapped, the options of fit, and whether it starts at the marginals
    "ddp": (lambda net: net, {"average": 0.5}, True),  # which fit wraps itself
    "ddp, wrapped": (by_ddp, {}, False),
    "fsdp": (lambda net: by_fsdp(net).network, {}, False),
}


def fitted(name, how, world=WORLD, stop_after=None, **options):
    """A network that is fitted on 20 rows as in so many processes, and its history."""
    net, context = build(name), torch.randn(20, 3, dtype=torch.float64)
    x, calls = net.condition(context).sample(), itertools.count()
    wrap, more, net.starts_at_data = FITTED[how]
    model = wrap(net) if world > 1 else net

    def stop(*_):
        if next(calls) == stop_after:
            raise InterruptedError

    net.register_forward_pre_hook(stop)
    return net, ad.training.fit(model, x, context, **FIT, **more, **options)


def assert_fitted(found, expected):
    net, history = found
    for one, other in zip((history.train, history.valid), expected["nats"], strict=True):
        assert one == pytest.approx(other, rel=1e-9)
    for own, other in zip(net.parameters(), expected["weights"], strict=True):
        torch.testing.assert_close(whole(own), other, rtol=1e-9, atol=1e-9)


def fits_as_one(rank, name, folder):
    for how in FITTED:
        expected = torch.load(folder / f"{how}.expected")
        with pytest.raises(InterruptedError):  # in the third epoch, after a checkpoint
            fitted(name, how, checkpoint=folder / f"{how}.pt", stop_after=14)
        torch.distributed.barrier()
        if rank == 0:
            shutil.copy(folder / f"{how}.pt", folder / f"{how}.half")
        torch.distributed.barrier()
        assert_fitted(fitted(name, how, checkpoint=folder / f"{how}.pt"), expected)


def _run(rank, check, file, world, args):
    faulthandler.enable()
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{file}", rank=rank, world_size=world
    )
    try:
        check(rank, *args)
    finally:
        torch.distributed.destroy_process_group()
    # FSDP2 keeps the group alive, so its threads still run. They may crash an interpreter that
    # shuts down.
    os._exit(0)


def in_processes(folder, check, *args, world=WORLD):
    torch.multiprocessing.spawn(_run, (check, folder / "store", world, args), nprocs=world)


IN_CHUNKS = "fsdp, in chunks"  # which a MADE does not support
WRAPPERS = {
    "ddp": by_ddp,
    "fsdp": by_fsdp,
    "fsdp, around": by_fsdp_around,
    IN_CHUNKS: partial(by_fsdp_around, chunk_size=3),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "world"), [*((name, WORLD) for name in NETWORKS), ("made", 4), ("transformer", 4)]
)
def test_processes_train_as_one(name, world, tmp_path):
    in_processes(tmp_path, trains_as_one, name, world=world)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_sharded_network_draws(name, tmp_path):
    in_processes(tmp_path, draws_as_one, name)


@pytest.mark.slow
def test_a_network_inside_a_sharded_wrapper_says_how_to_shard_it(tmp_path):
    in_processes(tmp_path, a_wrapper_that_is_sharded_says_so)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["made", "rnn"])
def test_two_processes_fit_and_resume_as_one(name, tmp_path):
    for how in FITTED:
        net, history = fitted(name, how, world=1)
        expected = {"weights": list(net.parameters()), "nats": (history.train, history.valid)}
        torch.save(expected, tmp_path / f"{how}.expected")
    in_processes(tmp_path, fits_as_one, name, tmp_path)
    for how in ("ddp", "fsdp"):  # the checkpoint of two processes is resumed by one
        expected = torch.load(tmp_path / f"{how}.expected")
        assert_fitted(fitted(name, how, world=1, checkpoint=tmp_path / f"{how}.half"), expected)
