"""Gradients through draws, compared with flow libraries."""

from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version

import torch
from harness import Call, Case, random_made
from masked import fit_random_walks

import ardist as ad
from ardist import families as fam
from ardist import networks


def made(features: int, trained: bool) -> networks.MADE:
    """A MADE of 512x512, up to 512 features without direct connections, like the peers'."""
    fac = ad.Factorization(features, fam.Normal())
    net = random_made(fac, hidden_features=(512, 512), direct=features > 512, activation=torch.relu)
    if trained:
        fit_random_walks(net)
    return net


def backward(draw: Callable[[int], torch.Tensor], module: torch.nn.Module) -> Callable[[int], None]:
    def work(batch: int) -> None:
        module.zero_grad()
        draw(batch).square().mean().backward()

    return work


def ours(features: int, trained: bool = False) -> Callable[[int], None]:
    net = made(features, trained)
    return backward(lambda batch: net.condition().rsample((batch,)), net)


def zukos(features: int) -> Callable[[int], None]:
    import zuko

    flow = zuko.flows.MAF(features, 0, transforms=1, hidden_features=(512, 512))
    return backward(lambda batch: flow().rsample((batch,)), flow)


def pyros(features: int) -> Callable[[int], None]:
    import pyro.distributions as dist
    from pyro.nn import AutoRegressiveNN

    net = AutoRegressiveNN(features, [512, 512])
    affine = dist.transforms.AffineAutoregressive(net, log_scale_min_clip=-5.0)
    return backward(lambda batch: affine._inverse(torch.randn(batch, features)), net)


ZUKO, PYRO = f"zuko {version('zuko')} MAF, one transform", f"pyro {version('pyro-ppl')}"
PYRO += " AffineAutoregressive"


def gradients() -> Iterator[Case]:
    fresh, trained, zuko, pyro = ours(64), ours(64, True), zukos(64), pyros(64)
    for batch in (64, 256):
        peers: dict[str, Call | tuple[Call, float]] = {
            ZUKO: partial(zuko, batch),
            PYRO: partial(pyro, batch),
        }
        what = f"MADE, D=64 Normal, hidden 512x512, batch {batch}: rsample with backward"
        yield what, partial(fresh, batch), peers, ">= 12"
        yield f"{what}, trained on random walks", partial(trained, batch), peers, ">= 12"


def gradients_of_many() -> Iterator[Case]:
    """zuko takes one pass per feature, and about a minute."""
    what = "MADE, D=784 Normal, hidden 512x512, batch 64: rsample with backward"
    yield what, partial(ours(784), 64), {ZUKO: partial(zukos(784), 64)}, ">= 100"


def rnn(length: int) -> networks.ConditionalNetwork:
    return networks.RNN(ad.Factorization(length, fam.Normal()), cell="lstm", hidden_size=128)


def transformer(length: int) -> networks.ConditionalNetwork:
    return networks.Transformer(ad.Factorization(length, fam.Normal()), dim=64, depth=2, heads=4)


def draws(network: Callable[[int], networks.ConditionalNetwork]) -> Callable[[int], object]:
    def prepare(length: int) -> Callable[[int], None]:
        net = network(length)
        return backward(lambda batch: net.condition().rsample((batch,)), net)

    return prepare


def scores(network: Callable[[int], networks.ConditionalNetwork]) -> Callable[[int], object]:
    def prepare(length: int) -> Callable[[int], None]:
        net = network(length)
        return backward(lambda batch: net.condition().log_prob(torch.randn(batch, length)), net)

    return prepare


# Functions that run with backward on a batch, from a number of blocks, for memory.py.
WORK: dict[str, Callable[[int], Callable[[int], object]]] = {
    "rsample made": ours,
    "rsample zuko": zukos,
    "rsample pyro": pyros,
    "rsample rnn": draws(rnn),
    "log_prob rnn": scores(rnn),
    "rsample transformer": draws(transformer),
    "log_prob transformer": scores(transformer),
    "log_prob made": scores(lambda length: made(length, False)),
}
