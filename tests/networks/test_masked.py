"""Masked: any order, and an objective that is their mean."""

from itertools import permutations

import pytest
import torch
from laws import assert_mean
from table import build

import ardist as ad
from ardist.training import masked_log_prob

ORDERS = [ad.Ordering.permutation(order) for order in permutations(range(4))]


@pytest.mark.parametrize("network", ["masked", "masked-module"])
def test_the_objective_is_the_mean_over_all_orders_by_one_pass(network):
    net = build(network, "bernoulli-raster").eval()
    p = net.condition()
    x = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    with torch.no_grad():
        exact = torch.stack([p.with_ordering(order).log_prob(x) for order in ORDERS]).mean()
        estimates = torch.cat([masked_log_prob(p, x.expand(50, 2, 2)) for _ in range(100)])
    assert_mean(estimates, exact)


def test_the_objective_leaves_missing_elements_out():
    net = build("masked", "normal-raster").eval()
    p = net.condition(nan_policy="marginalize")
    x = torch.tensor([0.5, torch.nan, -1.0, 2.0])
    with torch.no_grad():
        known = ~x.isnan()
        exact = torch.stack(
            [
                p.with_ordering(order).marginal(known).log_prob(x[known])
                for order in ORDERS
                if order.ranks((4,))[1] == 3
            ]
        ).mean()
        estimates = torch.cat([masked_log_prob(p, x.expand(50, 4)) for _ in range(100)])
    assert_mean(estimates, exact)


@pytest.mark.parametrize("order", ORDERS[::5], ids=str)
def test_every_order_is_autoregressive_and_normalized(order):
    net = build("masked", "bernoulli-raster")
    fac = net.factorization.with_ordering(order)
    found = ad.testing.check_autoregressive(net, factorization=fac)
    assert torch.equal(found.influence, fac.dependencies)
    ad.testing.check_decoder(net, factorization=fac)
    ad.testing.check_normalized(net.condition(factorization=fac))


def test_rows_with_equal_prefixes_share_a_pass(monkeypatch):
    net = build("masked", "columns").double()  # a bit, a number, one of three, a bit
    torch.nn.init.normal_(net.head.weight)
    blocks = net.factorization.split(net.condition().sample((300,)))
    params = net(blocks).split(net.factorization.layout.sizes["param"], 1)
    counts, run = [], net.run

    def counted(sums, **kwargs):
        counts.append(sums.shape[0])
        return run(sums, **kwargs)

    monkeypatch.setattr(net, "run", counted)
    decoder, flipped = net.decoder(300), torch.arange(299, -1, -1)
    assert torch.allclose(decoder.step(None), params[0])
    assert torch.allclose(decoder.step(blocks[:, :1]), params[1])
    decoder.select(flipped)
    for step in (2, 3):
        found = decoder.step(blocks[flipped][:, step - 1 : step])
        assert torch.allclose(found, params[step][flipped])
    assert counts == [1, 2, 300, 300]
