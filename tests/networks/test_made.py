"""MADE: what its layers are given."""

import pytest
import torch
from table import CONTEXT, random_made

import ardist as ad
from ardist import families as fam
from ardist import networks


@pytest.mark.parametrize("options", [{}, {"direct": False}, {"hidden_features": ()}], ids=str)
def test_blocks_start_out_independent_and_learn_from_each_other(options):
    fac = ad.Factorization(4, fam.Bernoulli())
    net = networks.MADE(fac, context_shape=CONTEXT, **{"hidden_features": 16, **options})
    context = torch.randn(*CONTEXT, requires_grad=True).expand(50, *CONTEXT)
    params = net(torch.randint(2, (50, 4)).float(), context)
    assert torch.equal(params, params[:1].expand_as(params))
    (gradient,) = torch.autograd.grad(params.sum(), context)
    assert gradient.any() == (net.context_to_output is not None)
    context = torch.randn(50, *CONTEXT)
    optimizer = torch.optim.Adam(net.parameters(), 0.1)
    for _ in range(3):
        x = torch.randint(2, (50, 1)).float().expand(50, 4)
        optimizer.zero_grad()
        (-net.condition(context).log_prob(x).mean()).backward()
        optimizer.step()
    influence = ad.testing.check_autoregressive(net, context).influence
    assert torch.equal(influence, fac.dependencies)
    changed = net(torch.zeros(50, 4), context) != net(torch.ones(50, 4), context)
    assert changed.squeeze(-1).any(0).tolist() == [False, True, True, True]


def test_the_context_is_encoded_once_for_all_samples():
    net = random_made(
        ad.Factorization(4, fam.Normal()), hidden_features=(16,), context_shape=CONTEXT
    )
    rows = []
    net.context_to_hidden.register_forward_hook(lambda _, given, __: rows.append(len(given[0])))
    p = net.condition(torch.randn(2, *CONTEXT))
    p.log_prob(p.sample((50,)))
    assert rows == [2, 2]
    p.expand((50, 2)).log_prob(p.sample((50,)))
    assert rows == [2] * 4
