"""Conditionals and marginals of any set, orders for each row, and missing values."""

import pyro
import pytest
import torch
from laws import assert_density, assert_follows
from table import GPT, random_made
from torch.distributions import MultivariateNormal as TorchNormal
from torch.distributions import biject_to, constraints

import ardist as ad
from ardist import families as fam
from ardist import networks

MIXED = {"a": fam.Bernoulli(), "b": fam.Categorical(3), "c": fam.Bernoulli()}
DISCRETE = {
    "raster": ad.Factorization((2, 2), fam.Bernoulli()),
    "ties": ad.Factorization(4, fam.Bernoulli(), ordering=ad.Ordering.from_ranks([1, 0, 1, 0])),
    "columns": ad.Factorization.columns(MIXED),
    "columns-ties": ad.Factorization.columns(MIXED, ordering=ad.Ordering.from_ranks([1, 0, 1])),
    "ended": ad.Factorization(3, fam.Categorical(3), end=1, pad=0),
}
GRAPH = ad.Factorization(  # in which {0, 2} and {1} are ancestral
    4,
    fam.Bernoulli(),
    ordering=ad.Ordering.from_graph([[0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]]),
)


def transformer(factorization, **options):
    torch.manual_seed(0)
    net = networks.Transformer(factorization, **GPT, **options).double()
    with torch.no_grad():  # far from uniform, so that orders differ
        for weight in net.parameters():
            weight.mul_(4)
    return net


def masks_of(factorization):
    """Every subset of the elements."""
    size = factorization.event_shape.numel()
    every = torch.cartesian_prod(*[torch.tensor([False, True])] * size)
    return every.reshape(-1, *factorization.event_shape)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", list(DISCRETE))
def test_any_set_agrees_with_enumeration_under_the_order_it_names(name, float64):
    p = transformer(DISCRETE[name]).condition()
    orders = set()
    for mask in masks_of(p.factorization):
        q = p.given(p.bound.placeholder, mask)
        orders.add(str(q.ordering))
        joint = p.with_ordering(q.ordering)
        states = joint.enumerate_support()
        probs = joint.log_prob(states).exp()
        kept = states[:, mask]
        values = kept.unique(dim=0) if mask.any() else kept[:1]
        totals = [probs[(kept == value).all(-1)].sum() for value in values]
        if mask.any():
            marginal = p.marginal(mask)
            assert str(marginal.ordering) == str(q.ordering)
            close(marginal.log_prob(values).exp(), torch.stack(totals))
        for value, total in zip(values, totals, strict=True):
            event = states[(kept == value).all(-1)][0]
            agree = (kept == value).all(-1)
            found = p.given(event, mask).log_prob(states).exp()
            close(found, torch.where(agree, probs / total, 0.0))
    assert len(orders) > 2


@pytest.mark.parametrize(("end", "pad"), [(1, 0), (2, None)])
def test_marginals_of_what_is_given_agree_with_enumeration_where_sequences_end(end, pad, float64):
    """Of all values, those too that are impossible with what is observed."""
    fac = ad.Factorization(3, fam.Categorical(3), end=end, pad=pad)
    p = transformer(fac).condition(validate_args=True)
    masks = masks_of(fac)
    for mask, kept in [(a, b) for a in masks for b in masks if b.any() and not (a & b).any()]:
        for value in p.enumerate_support()[::7]:
            q = p.given(value, mask).marginal(kept)
            joint = p.with_ordering(q.ordering)
            states = joint.enumerate_support()
            agree = (states[:, mask] == value[mask]).all(-1)
            if not agree.any():  # impossible under the order that puts it first
                continue
            probs = joint.log_prob(states).exp() * agree
            every = torch.cartesian_prod(*[torch.arange(3)] * int(kept.sum()))
            every = every.reshape(-1, int(kept.sum()))
            found = [(states[:, kept] == one).all(-1) for one in every]
            expected = torch.stack([probs[which].sum() for which in found]) / probs.sum()
            close(q.log_prob(every).exp(), expected)


@pytest.mark.parametrize("name", list(DISCRETE))
def test_marginals_are_conditioned_and_marginalized_as_enumeration_says(name, float64):
    p = transformer(DISCRETE[name]).condition(validate_args=True)
    for kept in [mask for mask in masks_of(p.factorization) if mask.sum() > 1][::2]:
        marginal = p.marginal(kept)
        vector = marginal.sample()
        for part in torch.cartesian_prod(*[torch.tensor([False, True])] * len(vector))[1::2]:
            inner = torch.zeros_like(kept).masked_scatter_(kept, part)
            for q, seen in ((marginal.given(vector, part), inner), (marginal.marginal(part), None)):
                joint = p.with_ordering(q.ordering)
                states = joint.enumerate_support()
                probs = joint.log_prob(states).exp()
                if seen is not None:
                    probs = probs * (states[:, seen] == vector[part]).all(-1)
                    probs = probs / probs.sum()
                found = states[:, kept if seen is not None else inner]
                for value in found.unique(dim=0):
                    close(q.log_prob(value).exp(), probs[(found == value).all(-1)].sum())


CHAINS = ad.Ordering.from_graph(  # 0 -> 1 and 2 -> 3 -> 4
    [[0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0]]
)
PAIRS = fam.Independent(fam.Bernoulli(), (2,))


@pytest.mark.parametrize("factorization", [
    ad.Factorization(5, fam.Bernoulli(), ordering=CHAINS),
    ad.Factorization((2, 2), PAIRS, partition=ad.Partition.along(0)),
], ids=["graph", "cut"])  # fmt: skip
def test_marginals_depend_on_all_that_is_given(factorization, float64):
    """Or they are refused, if no order has the evidence before the kept elements."""
    p, found = transformer(factorization).condition(), 0
    masks = masks_of(factorization)[1:]
    for mask, kept in [(a, b) for a in masks for b in masks if not (a & b).any()]:
        try:
            event = p.bound.placeholder
            q = p.given(event, mask).marginal(kept)
        except ValueError:
            continue
        joint = p.with_ordering(q.ordering)
        states = joint.enumerate_support()
        probs = joint.log_prob(states).exp() * (states[:, mask] == event[mask]).all(-1)
        same = (states[:, kept] == 1).all(-1)
        expected = probs[same].sum() / probs.sum()
        close(q.log_prob(torch.ones(int(kept.sum()))).exp(), expected)
        found += 1
    assert found > 10


def test_missing_elements_of_what_is_given_are_those_of_each_row_alone(float64):
    graph = torch.zeros(5, 5).bool()
    graph[3, 1] = graph[4, 1] = graph[4, 2] = True
    fac = ad.Factorization(5, fam.Bernoulli(), ordering=ad.Ordering.from_graph(graph))
    p = transformer(fac).condition(nan_policy="marginalize")
    for mask in masks_of(fac)[1:-1:5]:
        q = p.given(p.sample(), mask)
        kept = masks_of(fac)[1:] & ~mask
        x = q.sample((len(kept),))
        found = q.log_prob(torch.where(kept | mask, x, torch.nan))
        alone = [q.marginal(k).log_prob(row[k]) for row, k in zip(x, kept, strict=True) if k.any()]
        close(found[kept.any(-1)], torch.stack(alone))


def test_elements_that_are_observed_already_keep_their_values(float64):
    p = transformer(DISCRETE["raster"]).condition()
    x, mask = p.sample(), torch.tensor([[True, True], [False, False]])
    q, more = p.given(x, mask), torch.tensor([[True, False], [True, False]])
    y = torch.where(mask, x, 1 - x)
    both = p.with_ordering(q.given(y, more).ordering).given(y, mask | more)
    states = p.enumerate_support()
    close(q.given(y, more).log_prob(states), both.log_prob(states))
    with pytest.raises(ValueError, match=r"^value: .* observed already, got 1$"):
        q.given(1 - x, more)
    assert q.observed_log_prob(1 - x, more) == -torch.inf


@pytest.mark.slow
@pytest.mark.parametrize("name", list(DISCRETE))
def test_draws_of_any_set_follow_its_log_prob(name, float64):
    torch.manual_seed(1)
    p = transformer(DISCRETE[name]).condition()
    for mask in masks_of(p.factorization)[1:-1]:
        q = p.given(p.sample(), mask)
        states = q.enumerate_support()
        assert_follows(q, q.sample((3000,)), states)


@pytest.mark.parametrize("name", list(DISCRETE))
def test_rows_may_be_observed_in_different_sets(name, float64):
    torch.manual_seed(2)
    p = transformer(DISCRETE[name]).condition()
    masks = masks_of(p.factorization)
    x = p.sample((len(masks),))
    if name == "ended":  # so that no row's observed part says that another part is padding
        x = torch.where(x == 1, 2, x)
    q = p.given(x, masks)
    assert q.batch_shape == (len(masks),)
    each = torch.stack(
        [p.given(*one).log_prob(x[i]) for i, one in enumerate(zip(x, masks, strict=True))]
    )
    close(q.log_prob(x), each)
    drawn = q.sample((200,))
    assert ((drawn == x) | ~masks).all()
    assert q.log_prob(drawn).isfinite().all()
    scores = torch.stack(
        [p.given(*one).log_prob(drawn[:, i]) for i, one in enumerate(zip(x, masks, strict=True))], 1
    )
    close(q.log_prob(drawn), scores)
    # The empty row is p itself: its draws are p's.
    assert_follows(p, p.given(x[:2], masks[:2]).sample((3000,))[:, 0])


@pytest.mark.parametrize("name", ["raster", "ties", "columns", "columns-ties"])
def test_an_order_for_each_row(name, float64):
    torch.manual_seed(3)
    p = transformer(DISCRETE[name]).condition()
    fac = p.factorization
    ranks = torch.rand(3, fac.num_blocks).argsort(-1).reshape(3, *fac.grid_shape)
    q = p.with_ordering(ranks)
    assert torch.equal(q.ordering, ranks)
    assert q.batch_shape == (3,)
    x = q.sample((2000,))
    for row in range(3):
        one = p.with_ordering(ad.Ordering.from_ranks(ranks[row]))
        close(q.log_prob(x)[:, row], one.log_prob(x[:, row]))
        assert_follows(one, x[:, row])
    assert q.expand((2, 3)).sample().shape == (2, 3, *p.event_shape)


class Linear(networks.ConditionalNetwork):
    """A user's network for any order, of each row too, without a decoder of its own."""

    has_row_orders = True

    def __init__(self, factorization):
        super().__init__(factorization)
        count, family = factorization.num_blocks, factorization.families[0]
        shape = (count, family.num_params, count, family.num_features)
        self.weight = torch.nn.Parameter(torch.randn(shape))

    def unsupported_reason(self, factorization):
        return None

    def forward(self, blocks, context=None, ranks=None):
        ranks = self.factorization.ranks.flatten() if ranks is None else ranks
        seen = (ranks.unsqueeze(-1) > ranks.unsqueeze(-2)).to(self.weight)
        features = self.factorization.families[0].features(blocks).to(self.weight)
        return torch.einsum(
            "ipjf,njf,nij->nip", self.weight, features, seen.expand(len(blocks), -1, -1)
        )


@pytest.mark.parametrize("family", [fam.Bernoulli(), fam.OneHotCategorical(2)], ids=str)
def test_an_order_for_each_row_of_a_network_without_a_decoder(family, float64):
    torch.manual_seed(4)
    partition = ad.Partition.along(0) if family.event_shape else None
    fac = ad.Factorization((4, *family.event_shape), family, partition=partition)
    p = Linear(fac).condition()
    ad.testing.check_decoder(p.network)
    ranks = torch.rand(3, 4).argsort(-1).argsort(-1)
    q = p.with_ordering(ranks)
    states = q.enumerate_support(expand=False)
    probs = q.log_prob(states).exp()
    close(probs.sum(0), torch.ones(3))
    x = q.sample((3000,))
    counts = (x == states.unsqueeze(1)).flatten(3).all(-1).double().mean(1)
    assert (counts - probs).abs().max() < 5.5 * (0.25 / 3000) ** 0.5
    best, score = ad.sampling.greedy(q)
    close(score, q.log_prob(best))
    with pytest.raises(ValueError, match="ranks: expected no ties if each row has its own order"):
        p.network.decoder(2, ranks=torch.zeros(2, 4, dtype=torch.int64))


def test_a_step_takes_one_pass_of_rows_whose_orders_have_ties():
    net = networks.Masked(ad.Factorization(6, fam.Bernoulli()), hidden_features=8)
    ranks, sets = torch.tensor([[0, 0, 1, 2, 2, 3], [2, 1, 0, 0, 1, 3]]), []
    net.predict = lambda *given, own=net.predict: sets.append(given[1]) or own(*given)
    x = net.condition().with_ordering(ranks).sample()
    assert x.shape == (2, 6)
    assert [len(observed) for observed in sets] == [2] * 4
    for step, observed in enumerate(sets):
        assert torch.equal(observed, ranks < step)


def test_a_decoder_that_drops_the_orders_of_rows_is_found():
    class Drops(Linear):
        def make_decoder(self, factorization, batch_size, context, ranks):
            return super().make_decoder(factorization, batch_size, context, None)

    with pytest.raises(ad.testing.CheckError, match="differs from the parallel pass"):
        ad.testing.check_decoder(Drops(ad.Factorization(4, fam.Bernoulli())))


def test_a_graph_is_conditioned_on_its_ancestors():
    graph = ad.Ordering.from_graph([[0, 0, 0], [0, 0, 0], [1, 0, 0]])
    net = random_made(ad.Factorization(3, fam.Normal(), ordering=graph), hidden_features=8)
    x = torch.randn(5, 3)
    p, blocks = net.condition(), net.condition().log_prob_blocks(x)
    for mask, rest in (([1, 0, 0], [1, 2]), ([0, 1, 0], [0, 2]), ([1, 0, 1], [1])):
        q = p.given(x, torch.tensor(mask).bool())
        assert q.ordering == graph
        torch.testing.assert_close(q.log_prob(x), blocks[:, rest].sum(-1))
    with pytest.raises(ValueError, match="mask: blocks under it depend on others in the order"):
        p.given(x, torch.tensor([False, False, True]))


def test_rows_that_need_another_order_than_a_graph_have_orders():
    p = transformer(GRAPH).condition()
    masks, x = masks_of(GRAPH), torch.ones(16, 4).double()
    q = p.given(x, masks)
    for ranks, mask in zip(q.ordering, masks, strict=True):
        assert not mask.any() or (ranks[mask] < mask.sum()).all()
    assert ((q.sample((5,)) == x) | ~masks).all()


def inner(size=2):
    torch.manual_seed(4)
    return random_made(
        ad.Factorization(size, fam.Bernoulli()), context_shape=(4,), hidden_features=8
    )


CUT = {
    "independent": lambda: fam.Independent(fam.Bernoulli(), (2,)),
    "nested": lambda: fam.Nested(inner()),
}


@pytest.mark.parametrize("name", list(CUT))
def test_a_mask_that_cuts_a_block_goes_to_its_family(name, float64):
    fac = ad.Factorization((2, 2), CUT[name](), partition=ad.Partition.along(0))
    torch.manual_seed(5)
    p = networks.RNN(fac, hidden_size=8).double().condition()
    states = p.enumerate_support()
    probs = p.log_prob(states).exp()
    for mask in ([[1, 0], [0, 0]], [[1, 1], [1, 0]]):
        mask = torch.tensor(mask).bool()
        kept = states[:, mask]
        for value in kept.unique(dim=0):
            agree = (kept == value).all(-1)
            total = probs[agree].sum()
            close(p.marginal(mask).log_prob(value).exp(), total)
            q = p.given(states[agree][0], mask)
            close(q.log_prob(states).exp(), torch.where(agree, probs / total, 0.0))
            drawn = q.sample((3000,)).flatten(1)
            counts = (drawn.unsqueeze(1) == states.flatten(1)).all(-1).double().mean(0)
            assert (counts - q.log_prob(states).exp()).abs().max() < 0.05
    with pytest.raises(ValueError, match=r"refused|whole blocks"):
        p.given(p.bound.placeholder, torch.tensor([[True, False], [True, False]]))


def test_a_normal_vector_is_cut_as_normal_vectors_are(float64):
    fac = ad.Factorization(
        5,
        [fam.Normal(), fam.MultivariateNormal(3), fam.Bernoulli()],
        partition=ad.Partition.split([1, 3, 1]),
    )
    torch.manual_seed(6)
    p = random_made(fac, hidden_features=16).double().condition()
    x = p.sample((4,))
    mask = torch.tensor([1, 1, 0, 1, 0]).bool()
    one, block, _ = p.conditionals(x)
    rows = torch.tensor([0, 2])
    part = TorchNormal(block.mean[..., rows], block.covariance_matrix[..., rows[:, None], rows])
    close(
        p.marginal(mask).log_prob(x[:, mask]), one.log_prob(x[:, 0]) + part.log_prob(x[:, [1, 3]])
    )
    q = p.given(x, mask)
    close(q.log_prob(x), p.log_prob(x) - p.marginal(mask).log_prob(x[:, mask]))
    drawn = q.sample((2000,))
    assert torch.equal(drawn[..., mask], x[:, mask].expand(2000, 4, 3))
    # The free coordinate, by its density.
    y = drawn[:, 0]
    density = q.given(x, torch.tensor([0, 0, 0, 0, 0]).bool()).log_prob_blocks(drawn)[:, 0, 1].exp()
    assert_density(y[:, 2], density)
    with pytest.raises(NotImplementedError, match="no gradients"):
        random_made(
            ad.Factorization((1, 3), fam.MultivariateNormal(3), partition=ad.Partition.along(0)),
            hidden_features=4,
        ).condition().given(torch.zeros(1, 3), torch.tensor([[True, False, False]])).rsample()


def test_conditions_add_up():
    p = transformer(ad.Factorization(4, fam.Bernoulli())).condition()
    x = p.sample()
    first, both = torch.tensor([0, 0, 1, 0]).bool(), torch.tensor([1, 0, 1, 0]).bool()
    q = p.given(x, first).given(x, torch.tensor([1, 0, 0, 0]).bool())
    r = p.given(x, first)
    assert str(q.ordering) == str(ad.Ordering.from_ranks([1, 2, 0, 3]))
    torch.testing.assert_close(
        q.log_prob(x), r.log_prob(x) - r.marginal(torch.tensor([1, 0, 0, 0]).bool()).log_prob(x[:1])
    )
    assert q.sample((5,))[:, both].eq(x[both]).all()
    # Another order, in which what is observed comes first all the same.
    turned = r.with_ordering(ad.Ordering.reverse())
    assert str(turned.ordering) == str(ad.Ordering.from_ranks([3, 2, 0, 1]))
    assert turned.sample((5,))[:, 2].eq(x[2]).all()


@pytest.mark.parametrize(
    "factorization", [*map(DISCRETE.get, ["raster", "columns", "columns-ties"]), GRAPH], ids=str
)
def test_nan_is_missing(factorization, float64):
    torch.manual_seed(7)
    net = transformer(factorization)
    p = net.condition(nan_policy="marginalize")
    masks = masks_of(p.factorization)
    x = p.sample((len(masks),)).double()
    missing = x.masked_fill(~masks, torch.nan)
    expected = [
        p.marginal(mask).log_prob(row[mask]) if mask.any() else row.new_zeros(())
        for row, mask in zip(x, masks, strict=True)
    ]
    found = p.log_prob(missing)
    close(found, torch.stack(expected))
    assert p.log_prob_blocks(missing).flatten(1)[~masks.flatten(1)].eq(0).all()
    found.sum().backward()
    assert all(w.grad is None or w.grad.isfinite().all() for w in net.parameters())
    close(p.log_prob(x), net.condition().log_prob(x))
    with pytest.raises(ValueError, match=r"value: expected .* inside the support"):
        net.condition().log_prob(missing)


def test_nan_in_a_float_event_needs_no_other_order_where_the_end_is_missing():
    net = networks.RNN(ad.Factorization(4, fam.Gamma()), hidden_size=8)
    p = net.condition(nan_policy="marginalize")
    x = p.sample((3,))
    lengths = torch.tensor([0, 2, 4]).unsqueeze(-1)
    cut = x.masked_fill(torch.arange(4) >= lengths, torch.nan)
    expected = torch.where(cut.isnan(), 0.0, p.log_prob_blocks(x))
    torch.testing.assert_close(p.log_prob_blocks(cut), expected)
    p.log_prob(cut).sum().backward()
    assert all(weight.grad.isfinite().all() for weight in net.parameters())
    cut[0, 0], cut[0, 1] = torch.nan, 1.0
    with pytest.raises(ValueError, match="RNN has one order for all rows"):
        p.log_prob(cut)
    with pytest.raises(ValueError, match=r"value: blocks without NaN depend on others .* RNN was "):
        p.log_prob(cut[:1])


def test_supports_of_marginals():
    keep = torch.tensor([True, False, True])
    net = random_made(ad.Factorization(3, fam.Gamma()), hidden_features=8)
    q = net.condition().marginal(torch.tensor([True, True, False]))
    assert isinstance(biject_to(q.support)(torch.zeros(2)), torch.Tensor)
    fac = ad.Factorization.columns(
        a=fam.Gamma(),
        b=fam.Dirichlet(3),
        c=fam.Normal(),
        ordering=ad.Ordering.from_ranks([0, 1, 2]),
    )
    p = random_made(fac, hidden_features=8).condition()
    q = p.marginal(torch.tensor([1, 1, 1, 1, 0]).bool())
    x = q.sample((4,))
    assert q.support.check(x).all()
    free = biject_to(q.support).inv(x)
    assert free.shape == (4, 3)
    torch.testing.assert_close(biject_to(q.support)(free), x)
    q = random_made(ad.Factorization.columns(a=fam.Gamma(), c=fam.Normal()), hidden_features=8)
    q = q.condition().marginal(torch.tensor([True, True]))
    assert torch.equal(
        q.support.check(torch.tensor([[1.0, -1.0], [-1.0, 1.0]])), torch.tensor([True, False])
    )
    assert constraints.is_dependent(type(q).support)
    with pytest.raises(ValueError, match="mask: blocks under it depend on others"):
        p.marginal(torch.tensor([True, False, False, False, True]))
    with pytest.raises(ValueError, match="mask: blocks under it depend on others"):
        net.condition().marginal(keep)


def test_the_marginal_of_an_event_without_dimensions():
    p = networks.MADE(ad.Factorization((), fam.Bernoulli()), hidden_features=4).condition()
    x = torch.tensor([0.0, 1.0])
    kept = p.marginal(torch.tensor(True))
    torch.testing.assert_close(kept.log_prob(x.unsqueeze(-1)), p.log_prob(x))
    assert kept.log_prob(torch.ones(1)).shape == ()


def test_marginals_are_distributions():
    net = random_made(ad.Factorization(3, fam.Normal()), hidden_features=8, context_shape=(2,))
    p = net.condition(torch.randn(4, 2))
    q = p.marginal(torch.tensor([True, True, False]))
    assert repr(q).startswith("Marginal(AutoregressiveDistribution(MADE")
    for shape in ((), (2,), (3, 2)):
        x = q.sample(shape)
        assert x.shape == q.shape(shape) == (*shape, 4, 2)
        assert q.log_prob(x).shape == (*shape, 4)
    wide = q.expand((3, 4))
    assert wide.sample((2,)).shape == (2, 3, 4, 2)
    assert wide.log_prob(q.sample()).shape == (3, 4)
    x = q.rsample()
    x.sum().backward()
    assert any(weight.grad is not None for weight in net.parameters())
    with pytest.raises(ValueError, match="value: expected elements inside the support"):
        q.log_prob(torch.full((2,), torch.nan))


def test_given_has_gradients_and_serves_any_batch():
    net = random_made(ad.Factorization(3, fam.Normal()), hidden_features=8, context_shape=(2,))
    p = net.condition(torch.randn(4, 2))
    mask = torch.tensor([True, False, False])
    value = torch.randn(5, 1, 3, requires_grad=True)
    q = p.given(value, mask)
    assert q.batch_shape == (5, 4)
    x = q.rsample((2,))
    assert x.shape == (2, 5, 4, 3)
    x[..., 2].sum().backward()
    assert value.grad[..., 0].abs().min() > 0
    assert q.expand((3, 5, 4)).sample().shape == (3, 5, 4, 3)
    assert q.log_prob(x).shape == (2, 5, 4)


def test_no_rows_at_all():
    p = transformer(ad.Factorization((2, 2), fam.Categorical(3))).condition()
    q = p.with_ordering(torch.zeros(0, 2, 2, dtype=torch.int64))
    assert q.sample((3,)).shape == (3, 0, 2, 2)
    assert q.log_prob(q.sample()).shape == (0,)


def test_missing_indices_are_nan_of_a_float_tensor(float64):
    p = transformer(ad.Factorization(3, fam.Categorical(3))).condition(nan_policy="marginalize")
    x = torch.tensor([[1.0, torch.nan, 2.0], [0.0, 1.0, torch.nan]])
    mask = ~x.isnan()
    expected = [p.marginal(m).log_prob(row[m].long()) for row, m in zip(x, mask, strict=True)]
    close(p.log_prob(x), torch.stack(expected))


def test_a_network_of_one_order_draws_no_row_in_another():
    net = transformer(ad.Factorization(3, fam.Bernoulli()), any_order=False)
    ranks = torch.tensor([[0, 1, 2], [2, 1, 0]])
    with pytest.raises(ValueError, match="ordering: Transformer has one order for all rows"):
        net.condition().with_ordering(ranks)
    with pytest.raises(ValueError, match="ranks: Transformer draws all rows in one order"):
        net.decoder(2, ranks=ranks)


def test_rows_with_ties_need_a_network_that_serves_ties():
    plain = transformer(ad.Factorization(3, fam.Bernoulli())).condition()
    tied = torch.tensor([[0, 0, 1], [0, 1, 2]])
    with pytest.raises(ValueError, match="ordering: Transformer was built without ties"):
        plain.with_ordering(tied)
    p = transformer(
        ad.Factorization(3, fam.Bernoulli(), ordering=ad.Ordering.from_ranks([0, 0, 1]))
    ).condition()
    q = p.with_ordering(tied)
    x = q.sample((4,))
    torch.testing.assert_close(q.log_prob(x)[:, 0], p.log_prob(x[:, 0]))


@pytest.mark.parametrize("ranks", [[[0, 0, 0], [0, 0, 0]], [[0, 0, 1], [1, 0, 0]]], ids=str)
def test_tied_blocks_of_rows_are_drawn_independently(ranks, float64):
    """Also if all rows have ties, so that there are fewer steps than blocks."""
    net = networks.Masked(ad.Factorization(3, fam.Bernoulli()), hidden_features=8)
    x = net.condition().with_ordering(torch.tensor(ranks)).sample((2000,))
    for row, own in enumerate(ranks):
        assert_follows(net.condition().with_ordering(ad.Ordering.from_ranks(own)), x[:, row])


@pytest.mark.parametrize("ordering", [ad.Ordering.raster(), ad.Ordering.reverse()])
def test_marginals_where_rows_have_orders_of_their_own(ordering, float64):
    torch.manual_seed(8)
    p = transformer(ad.Factorization(4, fam.Normal(), ordering=ordering)).condition()
    masks = torch.tensor([[0, 0, 0, 1], [0, 0, 1, 0]]).bool()
    q = p.given(torch.zeros(4), masks).marginal(torch.tensor([True, False, False, False]))
    assert q.sample((50,)).unique().numel() == 100
    ranks = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]])
    q = p.with_ordering(ranks).marginal(torch.tensor([False, False, False, True]))
    assert q.sample((50,)).unique().numel() == 100


def test_pyro_draws_blocks_that_are_observed_in_part():
    fac = ad.Factorization((2, 2), fam.MultivariateNormal(2), partition=ad.Partition.along(0))
    mask = torch.tensor([[True, True], [True, False]])
    p = networks.MADE(fac, hidden_features=8).condition().given(torch.zeros(2, 2), mask)
    mixture = ad.Mixture(torch.distributions.Categorical(torch.ones(2)), [p, p])
    assert (pyro.sample("x", p) == 0).eq(mask).all()
    assert (pyro.sample("x", mixture) == 0).eq(mask).all()
    assert (pyro.sample("x", p.marginal(mask | ~mask)) == 0).eq(mask.flatten()).all()
    assert p.with_families(fac.families[0]).has_rsample is False
    assert p.given(torch.zeros(2, 2), mask).has_rsample is False


def test_a_nested_network_of_any_order_is_cut_anywhere(float64):
    torch.manual_seed(9)
    chord = ad.Factorization(3, fam.Bernoulli())
    chord = networks.Transformer(chord, context_shape=(4,), **GPT).double()
    with torch.no_grad():
        for weight in chord.parameters():
            weight.mul_(6)
    fac = ad.Factorization((2, 3), fam.Nested(chord), partition=ad.Partition.along(0))
    p = random_made(fac, hidden_features=8).double().condition()
    states = p.enumerate_support()
    q = p.given(p.sample(), torch.tensor([[False, True, False], [False, False, False]]))
    close(q.log_prob(states).exp().sum(), torch.ones(()))
    assert_follows(q, q.sample((4000,)), states)


def test_values_and_ranks_of_other_shapes_and_dtypes():
    p = transformer(ad.Factorization(3, fam.Bernoulli())).condition()
    with pytest.raises(ValueError, match=r"value: expected \(\*lead, 3\) whose .* got \(4,\)"):
        p.given(torch.zeros(4), torch.ones(3).bool())
    with pytest.raises(ValueError, match=r"ordering: expected integers, got torch.float64"):
        p.with_ordering(torch.zeros(2, 3, dtype=torch.float64))
    q = p.with_ordering(torch.tensor([[0, 1, 2], [2, 1, 0]], dtype=torch.int32))
    assert q.sample((2,)).shape == (2, 2, 3)
    net = random_made(ad.Factorization(3, fam.Normal()), hidden_features=4, context_shape=(2,))
    empty = net.condition(torch.zeros(0, 2))
    empty = empty.given(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.bool))
    assert empty.sample((2,)).shape == (2, 0, 3)


def test_a_nested_sequence_that_ends_is_given():
    torch.manual_seed(0)
    word = ad.Factorization(3, fam.Categorical(4), end=0, pad=1)
    word = random_made(word, context_shape=(5,), hidden_features=8)
    fac = ad.Factorization((4, 3), fam.Nested(word), partition=ad.Partition.along(0))
    p = random_made(fac, hidden_features=16).condition()
    mask = (torch.arange(4) == 0).unsqueeze(-1).expand(4, 3)
    q = p.given(p.sample(), mask)
    assert q.log_prob(q.sample((5,))).isfinite().all()


def test_whole_inner_events_of_an_independent_block_are_kept():
    torch.manual_seed(0)
    family = fam.Independent(fam.Dirichlet(3), (2,))
    fac = ad.Factorization((2, 2, 3), family, partition=ad.Partition.along(0))
    p = random_made(fac, hidden_features=8).condition()
    mask = torch.zeros(2, 2, 3, dtype=torch.bool)
    mask[0, 1] = True
    q = p.marginal(mask)
    x = q.sample((4,))
    assert q.support.check(x).all()
    assert not q.support.check(2 * x).any()
    first = p.conditionals(p.sample()).base_dist.concentration[0, 1]
    expected = torch.distributions.Dirichlet(first).log_prob(x.squeeze(-1).reshape(4, 3))
    torch.testing.assert_close(q.log_prob(x), expected)


def test_parts_that_a_family_is_not_given_in_are_refused_at_once():
    fac = ad.Factorization((2, 3), fam.OneHotCategorical(3), partition=ad.Partition.along(0))
    p = random_made(fac, hidden_features=8).condition()
    mask = torch.tensor([[False, True, False], [False, False, False]])
    with pytest.raises(ValueError, match="a part of its block, got 1 of 3 elements"):
        p.given(torch.eye(3)[:2], mask)
    with pytest.raises(ValueError, match="a part of its block, got 1 of 3 elements"):
        p.marginal(mask)


def test_orders_that_are_no_graphs_never_list_all_pairs_of_blocks():
    """Of 20,000 blocks these would be gigabytes."""
    fac = ad.Factorization(20_000, fam.Bernoulli(), end=1)
    net = networks.Markov(fac, hidden_features=())
    observed = torch.arange(20_000) < 3
    net.condition().given(torch.zeros(20_000), observed)
    net.load_state_dict(net.state_dict())
    assert "dependencies" not in vars(fac)


def test_a_mask_that_cuts_a_block_is_blamed_and_no_value_that_was_not_given():
    partition = ad.Partition.split([1, 3])
    fac = ad.Factorization(4, [fam.Categorical(2), fam.OneHotCategorical(3)], partition=partition)
    p = random_made(fac, hidden_features=8).condition()
    with pytest.raises(ValueError, match="mask: expected whole blocks"):
        p.given(torch.tensor([0.0, 0.0, 0.0, 1.0]), torch.tensor([True, True, True, False]))


def test_what_is_given_twice_is_checked_together():
    """The end that a first value lacks is no padding that a second one breaks."""
    p = random_made(ad.Factorization(3, fam.Categorical(3), end=0), hidden_features=8).condition()
    x = torch.tensor([1, 2, 1])
    one, two = torch.tensor([[True, False, False], [False, True, False]])
    states = p.enumerate_support()
    twice, once = p.given(x, one).given(x, two), p.given(x, one | two)
    assert torch.equal(twice.log_prob(states), once.log_prob(states))
    with pytest.raises(ValueError, match="value: expected pad 0 in block"):
        p.given(torch.tensor([0, 1, 1]), one).given(x, two)


def test_anchors_of_independent_blocks_are_inside():
    word = ad.Factorization(3, fam.Categorical(3), end=2, pad=0)
    inner = random_made(word, context_shape=(2,), hidden_features=4)
    for family in (fam.OneHotCategorical(2), fam.Dirichlet(2), fam.Nested(inner)):
        several = fam.Independent(family, (2,))
        assert several.inside(several.placeholder())


class Copies(ad.networks.ConditionalNetwork):
    """The second block is certain to repeat the first element of the first one."""

    def forward(self, blocks, context=None, ranks=None):
        sign = 1 - 2 * blocks[:, :1, :1].double()
        second = 5 * torch.cat((sign, -sign) * 2, -1)
        return torch.cat((torch.zeros_like(second), second), 1).to(torch.get_default_dtype())


def test_a_value_that_disagrees_scores_minus_infinity_whatever_follows():
    family = fam.Independent(fam.TopK(fam.Categorical(2), 1), (2,))
    fac = ad.Factorization((2, 2), family, partition=ad.Partition.along(0))
    mask = torch.tensor([[True, True], [False, True]])
    q = Copies(fac).condition().given(torch.tensor([[0, 0], [0, 0]]), mask)
    assert q.log_prob(torch.tensor([[0, 0], [0, 0]])) == 0
    other = torch.tensor([[1, 1], [1, 0]])  # under which the observed 0 of the second is impossible
    assert q.log_prob(other) == -torch.inf
