"""What a Transformer does that other networks do not: any order, cross-attention, any length."""

import pytest
import torch

import ardist as ad
from ardist import families as fam
from ardist.networks import Transformer

TOTAL = ad.Factorization((2, 3), fam.Categorical(3))
TIED = TOTAL.with_ordering(ad.Ordering.from_ranks([[0, 1, 0], [2, 1, 2]]))
SIZES = {"dim": 16, "depth": 2, "heads": 2}


def build(factorization, **options):
    torch.manual_seed(0)
    return Transformer(factorization, **{**SIZES, **options})


def test_positions_that_are_read_and_predicted_start_as_one_table_in_which_near_ones_are_alike():
    net = Transformer(ad.Factorization((8, 8), fam.Bernoulli()), dim=32, depth=1, heads=2)
    assert torch.equal(net.read_places, net.target_places)
    places = net.read_places.detach().unflatten(0, (8, 8))
    assert places.std().item() == pytest.approx(0.1, rel=0.01)
    torch.testing.assert_close(places.mean((0, 1)), torch.zeros(32), rtol=0, atol=1e-6)
    away = [(places[3, 3] - places[3 + step, 3 - step]).norm().item() for step in (1, 2, 3)]
    assert 0 < away[0] < away[1] < away[2]
    assert len({tuple(place) for place in places.flatten(0, 1).tolist()}) == 64


@pytest.mark.parametrize("grid", [(), (1,), (1, 5), (2, 3, 4)])
def test_positions_of_any_grid_differ(grid):
    fac = ad.Factorization(grid, fam.Bernoulli())
    net = Transformer(fac, dim=16, depth=1, heads=2)
    places = net.target_places.detach()
    assert places.isfinite().all()
    assert torch.unique(places, dim=0).shape == (fac.num_blocks, 16)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize(
    ("own", "other"),
    [
        (TOTAL, TOTAL.with_ordering(ad.Ordering.random(1))),
        (TOTAL.with_ordering(ad.Ordering.random(2)), TOTAL),
        (TIED, TIED.with_ordering(ad.Ordering.from_ranks([[1, 0, 0], [0, 0, 2]]))),
        (TIED, TOTAL.with_ordering(ad.Ordering.reverse())),
    ],
    ids=["to random", "to raster", "to ties", "to reverse"],
)
def test_another_order_is_a_distribution_of_its_own(own, other, positions, float64):
    net = build(own, positions=positions)
    found = ad.testing.check_autoregressive(net, factorization=other)
    assert found.reach == 1.0
    ad.testing.check_decoder(net, factorization=other)
    p = ad.AutoregressiveDistribution(net, factorization=other)
    ad.testing.check_normalized(p, tolerance=1e-9)
    # Another order really gives other numbers, and the network's own is not touched.
    x = p.sample((4,))
    assert not torch.allclose(p.log_prob(x), net.condition().log_prob(x))
    again = ad.AutoregressiveDistribution(net, factorization=own)
    assert torch.equal(again.log_prob(x), net.condition().log_prob(x))


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("own", [TOTAL, TIED], ids=["one stream", "two streams"])
@pytest.mark.parametrize("kind", ["vector", "blocks"])
def test_each_row_in_an_order_of_its_own(own, positions, kind, float64):
    shape = (3,) if kind == "vector" else (2, 3, 3)
    net = build(own, positions=positions, context_shape=shape, context_kind=kind)
    orders = [ad.Ordering.raster(), ad.Ordering.reverse(), ad.Ordering.random(1)] * 2
    factorizations = [own.with_ordering(order) for order in orders]
    ranks = torch.stack([fac.ranks.flatten() for fac in factorizations])
    blocks, context = torch.randint(3, (6, 6)), torch.randn(2, *shape)
    params = net(blocks, context, ranks)
    for row, fac in enumerate(factorizations):
        each = slice(row, row + 1)
        given = context[row % 2 : row % 2 + 1]
        alone = net(blocks[each], given, fac.ranks.flatten())
        torch.testing.assert_close(params[each], alone)
    # The decoder draws each row's blocks in that row's order.
    order = ranks.argsort(-1)
    drawn, expected = blocks.gather(1, order), params.gather(1, order[..., None].expand_as(params))
    decoder = net.decoder(6, context, ranks)
    rows = torch.tensor([5, 0, 2, 3])
    torch.testing.assert_close(decoder.prefill(drawn[:, :2])[:, 0], expected[:, 2])
    torch.testing.assert_close(decoder.step(drawn[:, 2:3])[:, 0], expected[:, 3])
    decoder.select(rows)
    torch.testing.assert_close(decoder.step(drawn[rows, 3:4])[:, 0], expected[rows, 4])


def test_ranks_of_all_rows_are_another_order():
    net = build(TOTAL)
    other = TOTAL.with_ordering(ad.Ordering.random(1))
    blocks = torch.randint(3, (2, 6))
    with torch.no_grad():
        expected = net(blocks, None, other.ranks.flatten())
    decoder = net.decoder(2, ranks=other.ranks.flatten())
    for number, (block,) in enumerate(other.steps):
        before = None if number == 0 else blocks[:, other.steps[number - 1]]
        torch.testing.assert_close(decoder.step(before)[:, 0], expected[:, block])


@pytest.mark.parametrize("own", [TOTAL, TIED], ids=["one stream", "two streams"])
def test_a_sequence_to_cross_attend(own, float64):
    net = build(own, context_shape=(5, 3), context_kind="sequence")
    context = torch.randn(2, 5, 3)
    assert ad.testing.check_autoregressive(net, context).context_reach == 1.0
    ad.testing.check_decoder(net, context)
    p = net.condition(context)
    x = p.sample((3,))
    assert p.batch_shape == (2,)
    assert x.shape == (3, 2, 2, 3)
    # The memory of a context is not repeated for its rows, and each row asks its own.
    alone = [net.condition(context[i]).log_prob(x[:, i]) for i in range(2)]
    torch.testing.assert_close(p.log_prob(x), torch.stack(alone, -1))
    # The result depends on every entry of the sequence and on its position.
    moved = net.condition(context.flip(1)).log_prob(x)
    assert ((moved - p.log_prob(x)).abs() > 1e-12).all()


def test_a_vector_for_each_block_reaches_that_block():
    net = build(TOTAL, context_shape=(2, 3, 4), context_kind="blocks").double()
    context = torch.randn(2, 2, 3, 4, dtype=torch.float64)
    ad.testing.check_decoder(net, context)
    blocks = torch.randint(3, (1, 6))
    changed = context[:1].clone()
    changed[0, 0, 2] += 1  # the third block: it and what comes after it
    difference = (net(blocks, changed) - net(blocks, context[:1])).abs().sum(-1)[0]
    assert (difference[:2] == 0).all()
    assert (difference[2:] > 0).all()


@pytest.mark.parametrize(
    ("any_order", "ordering"),
    [
        (True, ad.Ordering.reverse()),
        (False, ad.Ordering.reverse()),
        (True, ad.Ordering.from_ranks([0, 1, 0, 1, 2, 2])),
    ],
)
def test_rotary_positions_serve_another_length(any_order, ordering, float64):
    own = ad.Factorization(6, fam.Bernoulli(), ordering=ordering)
    net = build(own, any_order=any_order, positions="rotary")
    longer = ad.Factorization(9, fam.Bernoulli(), ordering=ad.Ordering.reverse())
    assert net.unsupported_reason(longer) is None
    ad.testing.check_decoder(net, factorization=longer)
    p = ad.AutoregressiveDistribution(net, factorization=longer)
    assert ad.testing.check_autoregressive(net, factorization=longer).reach == 1.0
    ad.testing.check_normalized(p, tolerance=1e-9)


def test_states_leave_out_what_the_network_is_free_in():
    other = TOTAL.with_ordering(ad.Ordering.reverse())
    build(other).load_state_dict(build(TOTAL).state_dict())  # any order
    with pytest.raises(ValueError, match="ordering is"):
        build(other, any_order=False).load_state_dict(build(TOTAL, any_order=False).state_dict())
    rotary, short = {"positions": "rotary"}, ad.Factorization(4, fam.Categorical(3))
    build(short, **rotary).load_state_dict(build(TOTAL, **rotary).state_dict())  # any length
    with pytest.raises(ValueError, match="families is"):
        build(ad.Factorization(4, fam.Bernoulli()), **rotary).load_state_dict(
            build(short, **rotary).state_dict()
        )


def test_decoders_never_drop_out():
    net = build(TOTAL, dropout=0.5).train()
    ad.testing.check_decoder(net)
    first = [net.decoder(2).step(None) for _ in range(2)]
    assert torch.equal(*first)
    blocks = torch.randint(3, (2, 6))
    assert not torch.equal(net(blocks), net(blocks))
