"""RNN: other lengths, and parameters that differ from network to network."""

from functools import partial

import pytest
import torch
from torch.func import vmap

import ardist as ad
from ardist import families as fam
from ardist import networks


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


@pytest.mark.parametrize("cell", ["tanh", "gru", "lstm"])
def test_an_ensemble_may_differ_in_one_weight_alone(cell):
    factorization = ad.Factorization(3, fam.Bernoulli())
    net = networks.RNN(factorization, hidden_size=4, num_layers=2, cell=cell)
    x = net.condition().sample((5,))

    def score(name, weight):
        return net.condition(params={name: weight}).log_prob(x)

    for name, weight in net.named_parameters():
        several = torch.stack((weight, weight * 0.5))
        found = vmap(partial(score, name))(several)
        torch.testing.assert_close(found, torch.stack([score(name, one) for one in several]))
