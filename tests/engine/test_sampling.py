"""Ways to draw and to search, against enumeration and against each other."""

import math
import sys
from itertools import chain, pairwise, product

import pytest
import torch
from fuzz_rules import Listed
from laws import assert_cdf, assert_frequencies, assert_mean
from table import CONTEXT, FACTORIZATIONS, build, condition, fits, random_made

import ardist as ad
from ardist import families as fam
from ardist import networks
from ardist.families.stacked import form_of
from ardist.layout import Layout
from ardist.sampling import ancestral, beam_search, fixed_point, greedy, without_replacement

# Images for the network that is made for them, and all families for one of the others.
CASES = [
    (network, name)
    for network in ("made", "rnn-gru", "transformer", "pixelcnn", "plain")
    for name in FACTORIZATIONS
    if fits(network, name)
    and name.startswith("image") == (network == "pixelcnn")
    and (network == "made" or not name.endswith(("-2", "-along")))
]
FINITE = [case for case in CASES if (FACTORIZATIONS[case[1]].num_states or 4096) < 1024]
PUSHED = [case for case in CASES if FACTORIZATIONS[case[1]].layout.has_noise]


def conditioned(network, factorization, context=CONTEXT):
    return condition(build(network, factorization, context).double(), 2)


def transformer(size=4, family=None, **options):
    torch.manual_seed(0)
    fac = ad.Factorization(size, family or fam.Categorical(3), **options)
    return networks.Transformer(fac, dim=16, depth=1, heads=2, context_shape=CONTEXT).double()


def as_set(events):
    return {tuple(event) for event in events.flatten(1).tolist()}


def assert_finds_everything(p):
    """A beam wider than there are events has all that are possible, in order, rightly scored."""
    states = p.enumerate_support()
    scores = p.log_prob(states)
    events, log_prob = beam_search(p, len(states) + 3)
    assert log_prob.shape == events.shape[: 1 + len(p.batch_shape)]
    assert len(events) == (scores > -math.inf).sum(0).max()
    assert (log_prob[:-1] >= log_prob[1:]).all()
    found = log_prob > -math.inf
    torch.testing.assert_close(p.log_prob(events)[found], log_prob[found])
    count = math.prod(p.batch_shape)
    rows = zip(
        *(x.reshape(len(x), count, -1).unbind(1) for x in (events, found, states, scores)),
        strict=True,
    )
    for event, is_found, state, score in rows:
        possible = state[score.squeeze(-1) > -math.inf]
        assert as_set(event[is_found.squeeze(-1)]) == as_set(possible)
        assert is_found.sum() == len(possible)


def counted(events, states):
    """How often each state is among the events, which are all states."""
    same = (events.unsqueeze(1) == states).flatten(2).all(-1)
    assert same.any(-1).all()
    return same.double().sum(0)


@pytest.mark.parametrize(("network", "factorization"), FINITE)
def test_a_wide_beam_finds_every_event(network, factorization):
    assert_finds_everything(conditioned(network, factorization))


def beam_by_enumeration(p, width):
    """Beam search over probabilities of beginnings that are sums over all events."""
    fac = p.factorization
    states = p.enumerate_support()
    blocks, scores = fac.split(states), p.log_prob(states)
    order = list(chain(*fac.steps))
    kept = torch.ones(len(states), dtype=torch.bool)
    for length in range(1, len(order) + 1):
        begins = fac.layout.gather_blocks("value", blocks, order[:length]).reshape(len(states), -1)
        number = begins.unique(dim=0, return_inverse=True)[1]
        mass = torch.full((int(number.max()) + 1,), -math.inf, dtype=scores.dtype)
        for begin in number[kept].unique():
            mass[begin] = scores[kept & (number == begin)].logsumexp(0)
        best = mass.topk(min(width, int((mass > -math.inf).sum()))).indices
        kept &= torch.isin(number, best)
    found = kept.nonzero().squeeze(-1)
    found = found[scores[found].argsort(descending=True)]
    return states[found], scores[found]


@pytest.mark.parametrize("width", [1, 2, 5])
@pytest.mark.parametrize(
    ("network", "factorization"),
    [
        ("made", "bernoulli-ties"),
        ("made", "bernoulli-transitive"),
        ("made", "labels"),
        ("made", "ended"),
        ("rnn-gru", "ended-columns"),
        ("rnn-gru", "nested-columns"),
        ("transformer", "ended-padded"),
        ("transformer", "bernoulli-ties"),
        ("transformer", "independent-along"),
        ("pixelcnn", "image-checkerboard"),
        ("pixelcnn", "image-turned"),
        ("plain", "columns-of-one-family"),
    ],
)
def test_a_narrow_beam_keeps_the_best_beginnings(network, factorization, width):
    p = conditioned(network, factorization, ())
    events, log_prob = beam_search(p, width)
    expected, scores = beam_by_enumeration(p, width)
    assert torch.equal(events, expected)
    torch.testing.assert_close(log_prob, scores)
    if width == 1:
        event, score = greedy(p)
        assert torch.equal(event, expected[0])
        assert score == log_prob[0]
        assert torch.equal(p.mode, event)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("search", [beam_search, without_replacement])
def test_scores_of_a_search_in_half_precision_have_the_digits_of_single_precision(search, dtype):
    torch.manual_seed(0)
    net = networks.RNN(ad.Factorization(100, fam.Categorical(20)), hidden_size=16).to(dtype)
    events, log_prob, *perturbed = search(net.condition(), 5)
    assert {part.dtype for part in (log_prob, *perturbed)} == {torch.float32}
    expected = net.double().condition().log_prob(events)
    torch.testing.assert_close(log_prob.double(), expected, rtol=0, atol=0.3)


def test_the_mode_is_greedy_and_leaves_the_random_state_alone():
    net = build("transformer", "categorical-2", CONTEXT).double()
    p = net.condition(torch.randn(3, *CONTEXT, dtype=torch.float64)).expand((2, 3))
    rows = p.with_ordering(torch.tensor([[[0, 1]], [[1, 0]]]))
    first = torch.tensor([True, False])
    for q in (p, rows, p.given(torch.tensor([2, 0]), first)):
        state = torch.get_rng_state()
        assert torch.equal(q.mode, greedy(q)[0])
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(p.marginal(first).mode, p.mode[..., :1])
    fac = ad.Factorization(
        (2, 3), fam.Independent(fam.Bernoulli(), 3), partition=ad.Partition.along(0)
    )
    cut = networks.RNN(fac, hidden_size=8).condition()
    cut = cut.given(
        torch.tensor([[1.0, 0, 0], [0, 1, 0]]), torch.tensor([[True] * 3, [True, False, False]])
    )
    assert torch.equal(cut.mode, greedy(cut)[0])
    for q in (p, p.marginal(first)):  # there is no formula, and nothing says that there is one
        assert type(q).entropy is torch.distributions.Distribution.entropy
    nets = [build("made", "normal-raster").condition() for _ in range(2)]
    mixture = ad.Mixture(torch.distributions.Categorical(torch.ones(2)), nets)
    for q in (nets[0], mixture):
        for name in ("mode", "mean", "variance"):
            with pytest.raises(NotImplementedError):
                getattr(q, name)


def test_rows_of_a_batch_are_searched_each_on_its_own():
    net = build("rnn-gru", "ended", CONTEXT).double()
    contexts = torch.randn(2, 3, *CONTEXT, dtype=torch.float64)
    events, log_prob = beam_search(net.condition(contexts), 4)
    assert events.shape == (4, 2, 3, 4)
    for i in range(2):
        for j in range(3):
            alone, score = beam_search(net.condition(contexts[i, j]), 4)
            assert torch.equal(events[:, i, j], alone)
            torch.testing.assert_close(log_prob[:, i, j], score)
    expanded, scores = beam_search(net.condition(contexts).expand((5, 2, 3)), 4)
    assert torch.equal(expanded, events.unsqueeze(1).expand_as(expanded))
    torch.testing.assert_close(scores, log_prob.unsqueeze(1).expand_as(scores))


def test_a_search_stops_when_all_have_ended():
    class Ending(networks.ConditionalNetwork):
        calls = 0

        def forward(self, blocks, context=None, ranks=None):
            self.calls += 1
            return torch.tensor([-math.inf, -math.inf, 0.0]).expand(*blocks.shape, 3)

    net = Ending(ad.Factorization(100, fam.Categorical(3), end=2, pad=0))
    events, log_prob = beam_search(net.condition(), 7)
    assert net.calls == 1
    assert events.tolist() == [[2] + [0] * 99]
    assert log_prob.tolist() == [0.0]
    steps = list(ancestral(net.condition(), (2,)))
    assert len(steps) == 1
    assert steps[-1].event.tolist() == [[2] + [0] * 99] * 2


# What is observed, other orders, other forms and other parameters.

SETS = {
    "prefix": [True, True, False, False],
    "any": [False, True, False, True],
    "rows": [[True, False, False, True], [False, False, True, False]],
    "ragged": [[True, False, False, False], [True, True, True, False]],
    "all": [True] * 4,
    "none": [False] * 4,
}
VARIANTS = [*SETS, "ended", "cut", "cut-nested", "row-orders", "top-k", "replaced", "longer"]


def variant(name):
    if name.startswith("cut"):
        factorization = "nested" if name == "cut-nested" else "independent-along"
        p = conditioned("made", factorization)
        mask = torch.zeros(2, 2, dtype=torch.bool)
        mask[0, 0] = True
        return p.given(torch.tensor([[1.0, 0.0], [0.0, 0.0]]).double(), mask)
    context = torch.randn(2, *CONTEXT, dtype=torch.float64)
    if name == "longer":
        net = networks.RNN(ad.Factorization(2, fam.Bernoulli()), hidden_size=4).double()
        fac = ad.Factorization(5, fam.Bernoulli(), ordering=ad.Ordering.raster())
        return ad.AutoregressiveDistribution(net, factorization=fac)
    p = transformer(**({"end": 2, "pad": 0} if name == "ended" else {})).condition(context)
    if name == "ended":
        prefix = torch.tensor([True, True, False, False])
        return p.given(torch.tensor([[0, 1, 0, 0], [1, 2, 0, 0]]), prefix)
    if name == "row-orders":
        return p.with_ordering(torch.tensor([[2, 0, 3, 1], [0, 1, 2, 3]]))
    if name == "top-k":
        return p.with_families(fam.TopK(fam.Categorical(3), 2))
    if name == "replaced":
        other = {key: value + 0.3 for key, value in p.network.named_parameters()}
        return p.network.condition(context, params=other)
    return p.given(torch.tensor([1, 2, 0, 1]), torch.tensor(SETS[name]))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_wide_beam_finds_every_event_of_what_follows_from_a_joint(name):
    p = variant(name)
    totals = p.log_prob(p.enumerate_support()).exp().sum(0)
    torch.testing.assert_close(totals, torch.ones_like(totals))
    assert_finds_everything(p)


# Draws without replacement.

CALLS = {
    "made": ("made", "bernoulli-ties"),
    "ended": ("rnn-gru", "ended-columns"),
    "nested": ("made", "nested"),
}


@pytest.mark.parametrize("case", CALLS)
def test_without_replacement_draws_pairs_with_their_probabilities(case):
    p = conditioned(*CALLS[case], ())
    states = p.enumerate_support()
    probs = p.log_prob(states).exp().detach()
    rows = 4000
    events, log_prob, perturbed = without_replacement(p.expand((rows,)), 2)
    torch.testing.assert_close(p.log_prob(events), log_prob)
    assert (perturbed[0] > perturbed[1]).all()
    same = (events.unsqueeze(2) == states).flatten(3).all(-1)
    first, second = same.int().argmax(-1)
    assert (first != second).all()
    counts = torch.zeros(len(states), len(states), dtype=torch.float64)
    counts.index_put_((first, second), torch.ones(rows).double(), accumulate=True)
    pairs = probs.unsqueeze(-1) * probs / (1 - probs).unsqueeze(-1)
    assert_frequencies(counts.flatten(), pairs.fill_diagonal_(0.0).flatten())
    # The largest of all perturbed log-probabilities is a standard Gumbel.
    assert_cdf(perturbed[0], "gumbel_r")


def test_weights_of_a_draw_without_replacement_give_unbiased_estimates():
    p = conditioned("rnn-gru", "ended", ())
    states = p.enumerate_support()

    def value(events):
        return events.double().square().sum(-1)

    exact = (p.log_prob(states).exp() * value(states)).sum()
    events, log_prob, perturbed = without_replacement(p.expand((4000,)), 5)
    weights = log_prob.exp() / -torch.expm1(-torch.exp(log_prob - perturbed[-1]))
    estimates = (weights * value(events))[:-1].sum(0)
    assert_mean(estimates, exact)
    assert estimates.std() < value(p.sample((4000,))).std()  # less than that of one draw


@pytest.mark.parametrize("name", ["ended", "rows", "top-k", "ragged"])
def test_all_events_are_drawn_where_there_are_no_more(name):
    p = variant(name)
    events, log_prob, perturbed = without_replacement(p, 200)
    wanted, scores = beam_search(p, 200)
    assert events.shape == wanted.shape
    for row in range(2):
        torch.testing.assert_close(log_prob[:, row].sort(descending=True).values, scores[:, row])
        assert as_set(events[:, row]) == as_set(wanted[:, row])
    assert torch.equal(log_prob == -math.inf, perturbed == -math.inf)


# Draws step by step.


@pytest.mark.parametrize(("network", "factorization"), CASES)
def test_steps_show_the_conditionals_of_the_event(network, factorization):
    p = conditioned(network, factorization)
    fac = p.factorization
    total, seen = 0.0, []
    for index, step in enumerate(ancestral(p, (3,))):
        assert step.index == index
        assert step.blocks.tolist() == fac.steps[index]
        seen += step.blocks.tolist()
        if isinstance(step.conditional, tuple):
            pairs = list(zip(step.conditional, step.value, strict=True))
            assert all(one.batch_shape == (3, 2) for one, _ in pairs)
            total = total + sum(one.log_prob(value) for one, value in pairs)
        else:
            assert step.conditional.batch_shape == (3, 2, len(step.blocks))
            total = total + step.conditional.log_prob(step.value).sum(-1)
        assert step.event.shape == (3, 2, *fac.event_shape)
        assert p.support.check(step.event).all()
    torch.testing.assert_close(p.log_prob(step.event), total)
    assert fac.end is not None or sorted(seen) == list(range(fac.num_blocks))


def test_steps_of_a_single_row_of_columns():
    net = build("made", "columns")
    steps = list(ancestral(net.condition()))
    shapes = [tuple(family.event_shape) for family in net.factorization.layout.families]
    assert [tuple(value.shape) for step in steps for value in step.value] == shapes


@pytest.mark.parametrize("name", VARIANTS)
def test_steps_of_what_follows_from_a_joint(name):
    p = variant(name)
    states, probs = p.enumerate_support(), p.log_prob(p.enumerate_support()).exp()
    if not p.batch_shape:
        p, states, probs = p.expand((1,)), states.unsqueeze(1), probs.unsqueeze(-1)
    *_, last = ancestral(p, (2000,))
    for row in range(len(probs[0])):
        assert_frequencies(counted(last.event[:, row], states[:, row]), probs[:, row])


def test_orders_for_each_row_are_shown():
    p = variant("row-orders")
    steps = list(ancestral(p, (3,)))
    order = torch.stack([step.blocks.squeeze(-1) for step in steps], -1)
    assert order.shape == (3, 2, 4)
    assert order[0].tolist() == [[1, 3, 0, 2], [0, 1, 2, 3]]
    total = sum(step.conditional.log_prob(step.value).sum(-1) for step in steps)
    torch.testing.assert_close(p.log_prob(steps[-1].event), total)


def test_given_is_a_shorthand():
    p = transformer().condition(torch.randn(2, *CONTEXT, dtype=torch.float64))
    value, mask = torch.tensor([1, 2, 0, 1]), torch.tensor(SETS["any"])
    steps = list(ancestral(p, (5,), given=(value, mask)))
    assert [step.blocks.item() for step in steps] == [1, 3, 0, 2]
    assert steps[-1].event[..., mask].eq(value[mask]).all()


def test_the_network_is_left_as_it_was_between_steps():
    net = networks.Transformer(
        ad.Factorization(4, fam.Bernoulli()), dim=8, depth=1, heads=1, dropout=0.5
    )
    for step in ancestral(net.condition(), (2,)):
        assert all(module.training for module in net.modules())
        assert torch.is_grad_enabled()
        assert not step.value.requires_grad


def test_a_bar_shows_the_progress(monkeypatch, capsys):
    p = conditioned("made", "bernoulli-raster", ())
    steps = ancestral(p, (2,), progress=True)
    assert next(steps).index == 0
    assert len(list(steps)) == 3
    assert "4/4" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match=r"^progress: the bar is tqdm's; pip install tqdm$"):
        ancestral(p, progress=True)


# Fixed points.


def steps_from(noise, p, lead, monkeypatch):
    """The event that `ancestral` draws from the noise of all blocks, family by family."""
    fac, batch = p.factorization, p.batch(lead)
    layout, ranks = batch.source.layout, batch.ranks
    forms = [form_of(family) for family in layout.families]
    members = {
        form: [block for block, other in enumerate(forms) if other == form] for form in forms
    }
    places = list(members)
    step = iter(range(fac.num_steps))

    def sample(part, params):
        now = next(step)
        if ranks is not None:
            at = (ranks == now).int().argmax(-1)
            return part.from_noise(params, [noise[0][torch.arange(len(ranks)), at].unsqueeze(1)])
        given = []
        for form in dict.fromkeys(form_of(family) for family in part.families):
            mine = [members[form].index(b) for b in fac.steps[now] if forms[b] == form]
            given.append(noise[places.index(form)][:, mine])
        return part.from_noise(params, given)

    with monkeypatch.context() as patch:
        patch.setattr(Layout, "sample", sample)
        *_, last = ancestral(p, lead[: len(lead) - len(p.batch_shape)])
    return last.event


def assert_same_as_steps(p, monkeypatch, rows=5):
    lead = torch.Size((rows, *p.batch_shape))
    noise = p.factorization.layout.noise(lead.numel(), p.bound.reference)
    with monkeypatch.context() as patch:
        patch.setattr(Layout, "noise", lambda *_: noise)
        x, passes = fixed_point(p, (rows,))
    assert 1 <= passes <= p.factorization.num_steps
    assert x.shape == lead + p.event_shape
    expected = steps_from(noise, p, lead, monkeypatch)
    torch.testing.assert_close(x, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("network", "factorization"), PUSHED)
def test_a_fixed_point_is_what_steps_draw_from_the_same_noise(network, factorization, monkeypatch):
    assert_same_as_steps(conditioned(network, factorization), monkeypatch)


@pytest.mark.parametrize("name", [n for n in VARIANTS if not n.startswith("cut")])
def test_a_fixed_point_of_what_follows_from_a_joint(name, monkeypatch):
    assert_same_as_steps(variant(name), monkeypatch)


def test_rows_of_tied_orders_have_a_fixed_point():
    p = transformer(ordering=ad.Ordering.from_ranks([0, 1, 1, 2])).condition(
        torch.randn(2, *CONTEXT, dtype=torch.float64)
    )
    p = p.with_ordering(torch.tensor([[0, 1, 1, 2], [1, 0, 1, 0]]))
    states = p.enumerate_support()
    x, passes = fixed_point(p, (2000,))
    assert passes <= 3
    for row in range(2):
        probs = p.log_prob(states)[:, row].exp()
        assert_frequencies(counted(x[:, row], states[:, row]), probs)


class Chain(networks.ConditionalNetwork):
    """Each block is the one before and a step: the hardest case of an iteration."""

    def forward(self, blocks, context=None, ranks=None):
        loc = torch.nn.functional.pad(blocks[:, :-1], (1, 0))
        return torch.stack((loc, torch.full_like(loc, -2.0)), -1)


def test_passes_and_tolerance():
    p = Chain(ad.Factorization(20, fam.Normal())).condition()
    x, passes = fixed_point(p, (3,))
    assert passes == 20
    early, fewer = fixed_point(p, (3,), tol=0.5)
    assert fewer < passes
    assert early.shape == x.shape
    # Integers beside reals have to stay as they are, whatever the tolerance.
    columns = ad.Factorization.columns(a=fam.Categorical(3), b=fam.Bernoulli(), c=fam.Normal())
    net = random_made(columns, hidden_features=16).double()
    torch.manual_seed(0)
    exact, _ = fixed_point(net.condition(), (50,), tol=0.0)
    torch.manual_seed(0)
    rough, _ = fixed_point(net.condition(), (50,), tol=100.0)
    assert torch.equal(exact[:, :2], rough[:, :2])
    assert fixed_point(p, (0,))[0].shape == (0, 20)


def test_dropout_is_off_and_nothing_keeps_a_graph():
    net = random_made(ad.Factorization(6, fam.Normal()), hidden_features=16, dropout=0.5)
    found = []
    for mode in (True, False):
        net.train(mode)
        torch.manual_seed(0)
        found.append(fixed_point(net.condition(), (3,))[0])
    assert torch.equal(*found)
    assert not found[0].requires_grad


def test_rows_in_orders_of_their_own_take_few_passes():
    """As where cells of a table are missing; a pass a step would be 24."""
    kinds = (fam.Normal(), fam.Bernoulli(), fam.Categorical(3))
    fac = ad.Factorization.columns({f"column {i}": kinds[i % 3] for i in range(24)})
    net = networks.Transformer(fac, dim=8, depth=1, heads=1)
    p = net.condition().with_ordering(torch.rand(5, 24).argsort(-1))
    passes = []
    with torch.no_grad():
        net.head.weight.mul_(50)  # so that columns depend on each other
        net.register_forward_hook(lambda *given: passes.append(1))
        torch.manual_seed(1)
        found = p.sample()
        assert 2 < len(passes) < 24
        torch.manual_seed(1)
        assert torch.equal(found, fixed_point(p)[0])
        # One by one, from the same noise.
        torch.manual_seed(1)
        noise = fac.layout.noise(5, found)
        blocks = torch.zeros_like(found)
        for step in range(24):
            drawn = fac.layout.from_noise(net(blocks, None, p.ordering), noise)
            blocks = torch.where(p.ordering == step, drawn, blocks)
        torch.testing.assert_close(found, blocks)


class OnesAfterAOne(ad.rules.Rule):
    """What follows is certain, and is not what blocks that are not drawn hold."""

    def start(self, rows, context, reference):
        return torch.zeros(rows, dtype=torch.bool)

    def allowed(self, state, at):
        return torch.stack((~state, torch.ones_like(state)), -1)

    def advance(self, state, value, at):
        return state | (value == 1)

    def rest(self, state, at):
        return torch.ones(*state.shape, at.positions.shape[-1]) if state.all() else None


def test_the_last_step_has_the_blocks_that_are_certain():
    torch.manual_seed(0)
    fac = ad.Factorization(12, fam.Bernoulli(), rule=OnesAfterAOne())
    p = networks.MADE(fac, hidden_features=8).condition()
    *_, last = ancestral(p)
    assert last.index < 11
    assert last.event[last.index :].eq(1).all()


@pytest.mark.parametrize("network", ["rnn-gru", "transformer", "made"])
def test_ancestral_can_begin_after_what_is_observed(network):
    p = build(network, "bernoulli-random").condition()
    fac = p.factorization
    observed = fac.ranks < 2
    value = p.sample((3,))
    steps = list(ancestral(p, given=(value, observed), skip_observed=True))
    assert [step.index for step in steps] == [2, 3]
    assert torch.equal(steps[0].event[..., observed], value[..., observed])
    others = list(ancestral(p, given=(value, observed)))[2:]
    torch.testing.assert_close(steps[0].conditional.probs, others[0].conditional.probs)
    whole = torch.ones_like(observed)
    assert not list(ancestral(p, given=(value, whole), skip_observed=True))


def test_rows_with_fewer_events_go_on_with_allowed_ones():
    """A rule that refuses to go on after anything else finds out."""
    words = [w for w in product(range(3), repeat=4) if all(a != b for a, b in pairwise(w))]
    fac = ad.Factorization(4, fam.Categorical(3), rule=Listed(words))
    observed = torch.arange(4) < torch.arange(3).unsqueeze(-1)  # in three rows none, one and two
    p = networks.RNN(fac, hidden_size=8).double().condition()
    p = p.given(torch.tensor([0, 1, 0, 0]), observed)
    states = p.enumerate_support(expand=False)
    wanted = p.log_prob(states).sort(0, descending=True).values
    assert (wanted > -torch.inf).sum(0).tolist() == [24, 8, 4]
    events, log_prob = beam_search(p, len(states))
    torch.testing.assert_close(log_prob, wanted)
    assert p.support.check(events).all()
    events, log_prob, _ = without_replacement(p, len(states))
    torch.testing.assert_close(log_prob.sort(0, descending=True).values, wanted)
    assert p.support.check(events).all()
