"""Unshared: what its modules are given."""

import torch
from table import FACTORIZATIONS
from torch import nn

import ardist as ad
from ardist import families as fam
from ardist import networks

FAC = ad.Factorization.columns(
    a=fam.Bernoulli(), b=fam.Normal(), c=fam.Categorical(3), ordering=ad.Ordering.reverse()
)  # c, then b given c, then a given b and c


class Recording(nn.Module):
    """Keeps what it is given."""

    def __init__(self, inputs, outputs, dropout=0.0):
        super().__init__()
        self.map = nn.Sequential(nn.Dropout(dropout), nn.Linear(inputs, outputs))
        self.seen = []

    def forward(self, inputs):
        self.seen.append(inputs)
        return self.map(inputs)


def test_modules_are_given_the_features_of_their_past_and_the_context():
    modules = [Recording(1 + 3 + 2, 1), Recording(3 + 2, 2), Recording(2, 3)]
    net = networks.Unshared(FAC, modules=modules, context_shape=(2,))
    context, x = torch.randn(2, 2), torch.tensor([[1.0, 0.5, 2.0], [0.0, -3.0, 0.0]])
    b, c = x[:, 1:2], torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    for module in modules:
        module.seen.clear()
    found = net.condition(context).log_prob_blocks(x)
    expected = [torch.cat(past, 1) for past in ((b, c, context), (c, context), (context,))]
    for block, (module, inputs, family) in enumerate(
        zip(modules, expected, FAC.families, strict=True)
    ):
        torch.testing.assert_close(module.seen[0], inputs)
        value = x[:, block] if block != 2 else x[:, block].long()
        by_hand = family(module.map(inputs)).log_prob(value)
        torch.testing.assert_close(found[:, block], by_hand)


def test_a_graph_feeds_the_parents_alone():
    fac = FACTORIZATIONS["bernoulli-graph"]  # 1 and 2 depend on 0, and 3 on 1
    modules = [None, *(Recording(1, 1) for _ in range(3))]
    net = networks.Unshared(fac, modules=modules)
    for module in modules[1:]:
        module.seen.clear()
    blocks = torch.tensor([[0.0, 1.0, 1.0, 1.0], [1.0, 0.0, 1.0, 1.0]])
    net(blocks)
    assert [module.seen[0][:, 0].tolist() for module in modules[1:]] == [[0, 1], [0, 1], [1, 0]]


def test_a_sample_evaluates_each_factor_once():
    modules = [Recording(4, 1), Recording(3, 2), None]
    p = networks.Unshared(FAC, modules=modules).condition()
    for module in modules[:2]:
        module.seen.clear()
    p.sample((5,))
    assert [len(module.seen) for module in modules[:2]] == [1, 1]


def test_decoders_do_not_drop_out_and_leave_the_modes_alone():
    modules = {"a": Recording(4, 1, 0.5), "b": Recording(3, 2, 0.5), "c": None}
    net = networks.Unshared(FAC, modules=modules)
    modules["b"].eval()
    modes = [module.training for module in net.modules()]
    x = torch.tensor([[1.0, 0.5, 2.0]]).expand(6, 3)
    decoder = net.decoder(6)
    steps = [decoder.step(None), decoder.step(x[:, 2:]), decoder.step(x[:, 1:2])]
    assert [module.training for module in net.modules()] == modes
    torch.testing.assert_close(torch.cat(steps[::-1], 1), net.eval()(x))


def test_columns_take_modules_by_name_and_none_is_a_constant():
    given = {"c": None, "a": nn.Linear(4, 1), "b": nn.Linear(3, 2)}
    net = networks.Unshared(FAC, modules=given)
    assert net.factors[0] is given["a"]
    assert net.factors[1] is given["b"]
    logits = net.condition().conditionals(torch.zeros(3))["c"].logits
    torch.testing.assert_close(logits, net.factors[2].bias.log_softmax(-1))


def test_the_repr_shows_factorization_and_sizes():
    text = repr(networks.Unshared(FAC, hidden_features=(7,)))
    assert repr(FAC) in text
    assert "(2): Constant(3)" in text
    assert "Linear(in_features=4, out_features=7, bias=True)" in text


def test_one_row_with_a_context_becomes_several():
    fac = ad.Factorization(3, ad.families.Bernoulli())
    net = ad.networks.Unshared(fac, hidden_features=4, context_shape=(2,))
    context, rows = torch.randn(1, 2), torch.zeros(4, dtype=torch.int64)
    decoder = net.condition(context).bound.make_decoder(1, None)
    decoder.step(None)
    decoder.select(rows)
    x = torch.tensor([[0.0], [1.0], [0.0], [1.0]])
    params = decoder.step(x)
    blocks = torch.cat((x, torch.zeros(4, 2)), 1)
    torch.testing.assert_close(params, net(blocks, context)[:, 1:2])
