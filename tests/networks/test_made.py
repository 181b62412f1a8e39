"""MADE: what its layers are given."""

import torch
from table import CONTEXT

import ardist as ad
from ardist import families as fam
from ardist import networks


def test_the_context_is_encoded_once_for_all_samples():
    net = networks.MADE(
        ad.Factorization(4, fam.Normal()), hidden_features=(16,), context_shape=CONTEXT
    )
    rows = []
    net.context_to_hidden.register_forward_hook(lambda _, given, __: rows.append(len(given[0])))
    p = net.condition(torch.randn(2, *CONTEXT))
    p.log_prob(p.sample((50,)))
    assert rows == [2, 2]
    p.expand((50, 2)).log_prob(p.sample((50,)))
    assert rows == [2] * 4
