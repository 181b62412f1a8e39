"""The checks of `fuzz.py`, which compare a random model with its definition."""

import copy
import itertools
import math
import pickle
import random
from collections import Counter

import numpy as np
import torch
from fuzz_definition import (
    drawn,
    passes,
    scores,
    states_of,
    tempered,
)
from fuzz_models import NETWORKS, random_ordering
from fuzz_rules import Boxes, is_restricted_inside, local, numbers_of, random_case
from scipy import stats
from torch.distributions import biject_to

import ardist as ad
from ardist import families as fam
from ardist import sampling, transforms

DRAWS = 1000
NOT_APPLICABLE = object()


def same(got, expected, tol, what):
    got, expected = got.detach().double(), expected.detach().double()
    assert got.shape == expected.shape, f"{what}: shape {tuple(got.shape)}, {tuple(expected.shape)}"
    far = ~torch.isclose(got, expected, rtol=tol, atol=tol, equal_nan=True)
    far &= ~((got < -80) & (expected < -80) & (tol > 1e-5))
    if far.any():
        at = tuple(far.nonzero()[0].tolist())
        raise AssertionError(f"{what}: got {got[at]:.9g}, expected {expected[at]:.9g} at {at}")


def same_law(counts, log_probs, what):
    """Pearson's chi-square of counts of states, with a false-alarm rate under 1e-7."""
    probs, total = log_probs.exp().numpy(), counts.sum()
    assert not counts[probs == 0].any(), f"{what}: drew what has no probability"
    order = np.argsort(probs)[::-1]
    bins, seen, mass, count = [], [], 0.0, 0
    for state in order:
        mass, count = mass + probs[state] * total, count + counts[state]
        if mass >= 50:
            bins, seen, mass, count = [*bins, mass], [*seen, count], 0.0, 0
    if mass and bins:
        bins[-1], seen[-1] = bins[-1] + mass, seen[-1] + count
    if len(bins) > 1:
        statistic = sum((s - b) ** 2 / b for s, b in zip(seen, bins, strict=True))
        p = stats.chi2.sf(statistic, len(bins) - 1)
        assert p > 1e-9, f"{what}: chi-square {statistic:.1f} of {len(bins)} bins, p {p:.1g}"


def check_draws(m, draws, plans, evidence, what):
    """Draws (number, *batch, *shape) against the law, by counts or by draws of the definition."""
    x = draws.detach().double().reshape(len(draws), m.rows, *m.plan.shape)
    assert not x.isnan().any(), f"{what}: NaN"
    if evidence is not None:
        kept = ((x == evidence[0].to(draws.dtype).double()) | ~evidence[1]).all()
        assert kept, f"{what}: not what is observed"
    if m.plan.events is not None:
        table = m.log_prob(m.events, plans, evidence)
        for row in range(m.rows):
            if table[:, row].isnan().any():
                continue
            seen = Counter(tuple(e) for e in x[:, row].reshape(len(x), -1).tolist())
            assert set(seen) <= set(m.keys), f"{what}: not an event {set(seen) - set(m.keys)}"
            counts = np.array([seen[key] for key in m.keys])
            same_law(counts, table[:, row], what)
        return
    row = m.r.randrange(m.rows)  # one will do, where drawing by definition is slow
    plan = plans[row] if plans else m.plan
    given = None if evidence is None else (evidence[0][row], evidence[1])
    context = None if m.context is None else m.context_row(row).repeat_interleave(len(x) // 2, 0)
    with torch.no_grad():
        other = drawn(m.net64, plan, context, given, len(x) // 2)
    both = [torch.nan_to_num(part.reshape(len(part), -1).asinh()) for part in (x[:, row], other)]
    mixed = torch.randn(both[0].shape[1], 3).double()
    columns = [torch.cat((part, part @ mixed, part[:, :1] * part[:, 1:]), 1) for part in both]
    for column in range(columns[0].shape[1]):
        ours, theirs = (part[:, column].numpy() for part in columns)
        p = stats.ks_2samp(ours, theirs, method="asymp").pvalue
        assert p > 1e-10, f"{what}: Kolmogorov-Smirnov p {p:.1g} in column {column}"


def check_log_prob(m, q, plans, what, evidence=None, kept=None, net=None):
    """log_prob of a distribution at all events, or at random ones, against the definition."""
    if m.plan.events is None:
        x = m.random(4)
    else:
        x = m.events
        if q._validate_args and m.plan.end is not None:
            orders = plans or [m.plan]
            x = x[torch.stack([plan.is_valid for plan in orders]).all(0)]
    if evidence is not None and m.plan.events is None:
        x = torch.where(evidence[1], evidence[0], x)
    expected = m.log_prob(x, plans, evidence, kept, net).reshape(len(x), *m.batch)
    value = m.value(x)
    value = value if kept is None else value[..., kept]
    got = q.log_prob(value)
    assert got.shape == expected.shape, f"{what}: shape {tuple(got.shape)}"
    got = torch.where(expected.isnan(), torch.nan, got.double())
    same(got, expected, m.tol, what)


def follows(m, q, what, evidence=None, plans=None):
    """Scores and draws of a distribution of whole events, under the ordering that it names."""
    if evidence is not None and is_answered_in_another_inner_order(m, evidence[1]):
        return  # another joint, which the definition does not enumerate
    plans = plans or m.plans(q)
    check_log_prob(m, q, plans, what, evidence)
    check_draws(m, q.sample((DRAWS,)), plans, evidence, f"sample, {what}")


def is_answered_in_another_inner_order(m, mask):
    """Whether a nested network conditions on a part of its block in an order of its own choice."""
    for family, places in zip(m.plan.families, m.plan.places, strict=True):
        part = mask.reshape(-1)[places]
        if isinstance(family, fam.Nested) and part.any() and not part.all():
            ordering = family.ordering_given(part.reshape(family.event_shape))
            if ordering is not family.network.factorization.ordering:
                return True
    return False


def answer(promised, call):
    """The result of a call, or None if it raises an error that names the mask and is allowed."""
    try:
        return call()
    except ValueError as error:
        if promised:
            raise AssertionError(f"refused: {error}") from error
        if not str(error).startswith(("mask: ", "value: ")):
            raise AssertionError(f"the error does not name the mask: {error}") from error
    return None


def same_gradients(found, wanted, params, tol, what):
    for got, want, param in zip(found, wanted, params, strict=True):
        zero = torch.zeros_like(param)
        got, want = (zero if g is None else g.reshape(param.shape).to(zero) for g in (got, want))
        scale = max(1.0, want.abs().max().item()) if want.numel() else 1.0
        same(got / scale, want / scale, tol, what)


def random_mask(m, cut=False):
    """Some elements of the event, by whole blocks if not `cut`."""
    blocks = [block for block in range(m.plan.count) if m.r.random() < 0.5]
    mask = m.plan.mask(blocks)
    if cut:
        mask = torch.tensor([m.r.random() < 0.5 for _ in range(mask.numel())]).reshape(mask.shape)
    return mask.bool()


def is_partially_observed(m, mask):
    return any(0 < int(mask.reshape(-1)[p].sum()) < len(p) for p in m.plan.places)


def has_to_answer(m, mask):
    """Whether the documentation promises an answer for these elements put first."""
    if is_partially_observed(m, mask):
        return False
    whole = torch.tensor([bool(mask.reshape(-1)[p].all()) for p in m.plan.places])
    ancestral = not (m.plan.depends[whole][:, ~whole]).any()
    return ancestral or m.any_order


def possible_events(m):
    """An event of positive probability for each row: (rows, *shape)."""
    if m.plan.events is None:
        return m.random(1)[0]
    table = m.table
    return torch.stack([
        m.plan.events[m.r.choice((table[:, row] > -torch.inf).nonzero().flatten().tolist())]
        for row in range(m.rows)
    ])  # fmt: skip


# Checks: each takes a model, and returns NOT_APPLICABLE if it does not apply to the model.

CHECKS = {}


def check(function):
    CHECKS[function.__name__] = function
    return function


@check
def log_prob(m):
    x = m.random(3)
    blocks = m.scores(x).reshape(3, *m.batch, *m.plan.grid)
    total = m.scores(x).sum(-1).reshape(3, *m.batch)
    same(m.p.log_prob_blocks(m.value(x)), blocks, m.tol, "log_prob_blocks")
    same(m.p.log_prob(m.value(x)), total, m.tol, "log_prob")
    alike = x[:1, :1].expand(1, m.rows, *m.plan.shape)
    value = m.value(alike)[(0,) * (1 + len(m.batch))]
    expected = m.scores(alike).sum(-1).reshape(m.batch)
    same(m.p.log_prob(value), expected, m.tol, "log_prob of one event")
    wide = m.p.expand((2, *m.batch))
    same(wide.log_prob(m.value(x)[:2]), total[:2], m.tol, "log_prob of expanded")
    assert wide.log_prob(value).shape == (2, *m.batch), "expanded log_prob"
    assert wide.sample((3,)).shape == (3, 2, *m.batch, *m.plan.shape), "expanded sample"


@check
def gradient(m):
    x, params = m.random(2), list(m.net64.parameters())
    each = [scores(m.net64, m.plan, x[:, b], m.context_row(b)).sum() for b in range(m.rows)]
    if not torch.isfinite(torch.stack(each)).all():
        return NOT_APPLICABLE
    wanted = torch.autograd.grad(sum(each), params, allow_unused=True)
    total = m.p.log_prob(m.value(x)).sum()
    found = torch.autograd.grad(total, list(m.net.parameters()), allow_unused=True)
    return same_gradients(found, wanted, params, 30 * m.tol, "gradient of log_prob")


@check
def enumeration(m):
    if m.plan.events is None:
        return NOT_APPLICABLE
    wanted = {tuple(e.flatten().tolist()) for e in m.plan.padded(m.plan.events)}
    assert m.fac.num_states == len(wanted), f"num_states {m.fac.num_states}, {len(wanted)}"
    states = m.p.enumerate_support(expand=False)
    assert states.shape == (len(wanted), *(1,) * len(m.batch), *m.plan.shape), "shape of states"
    assert {tuple(e.flatten().tolist()) for e in states} == wanted, "other states"
    total = m.p.log_prob(states).logsumexp(0)
    same(total, torch.zeros(m.batch), 10 * m.tol, "normalization")
    return None


@check
def law(m):
    draws = m.p.sample((DRAWS,))
    assert draws.shape == (DRAWS, *m.batch, *m.plan.shape), "shape of draws"
    assert draws.dtype == m.value(m.random(1)).dtype, f"draws are {draws.dtype}"
    check_draws(m, draws, None, None, "sample")


@check
def inside(m):
    """Draws lie in the support, and have a finite log_prob in the checks of validate_args."""
    p = m.net.condition(m.context, validate_args=True)
    x = p.sample((5,))
    assert p.support.event_dim == len(m.plan.shape), "event_dim of the support"
    checked = p.support.check(x)
    assert checked.shape == (5, *m.batch), "shape of support.check"
    assert checked.all(), f"support.check: {checked.tolist()}"
    assert p.support.check(m.value(m.random(5))).all(), "support.check of other values"
    if m.plan.events is None:
        assert torch.isfinite(p.log_prob(x)).all(), "log_prob of draws"
    again, scored = p.sample_and_log_prob((2,))
    same(scored, p.log_prob(again), 10 * m.tol, "sample_and_log_prob")


@check
def bijection(m):
    discrete = [family.support.is_discrete for family in m.plan.families]
    assert m.p.support.is_discrete == any(discrete), "is_discrete"
    if any(discrete):
        return NOT_APPLICABLE
    link, x = biject_to(m.p.support), m.value(m.random(3))
    free = link.inv(x)
    same(link(free), x, 1e3 * m.tol, "biject_to and back")
    moved = link(torch.randn_like(free))
    assert moved.shape == x.shape, "shape of biject_to"
    assert m.p.support.check(moved).all(), "biject_to leaves the support"
    assert link.log_abs_det_jacobian(free, x).shape == x.shape[: x.dim() - len(m.plan.shape)]
    return None


@check
def conditionals(m):
    x = m.random(3)
    found, expected = m.p.conditionals(m.value(x)), m.scores(x)
    if isinstance(found, dict):
        assert list(found) == m.options["names"], "names"
        found = tuple(found.values())
    dtype = m.value(x).dtype
    if isinstance(found, tuple):
        got = torch.stack([
            one.log_prob(m.plan.block(x.flatten(0, 1), block)
                         .reshape(3, *m.batch, *m.plan.families[block].event_shape).to(dtype))
            for block, one in enumerate(found)
        ], -1)  # fmt: skip
    else:
        blocks = torch.stack([m.plan.block(x.flatten(0, 1), b) for b in range(m.plan.count)], 1)
        shape = (3, *m.batch, *m.plan.grid, *m.plan.families[0].event_shape)
        got = found.log_prob(blocks.reshape(shape).to(dtype)).reshape(3, *m.batch, -1)
    tol = max(m.tol, 1e-6)  # they are torch's, whose von Mises has seven digits
    same(got, expected.reshape(got.shape), tol, "log_prob of conditionals")


@check
def given(m):
    for cut in (False, True):
        mask, value = random_mask(m, cut), possible_events(m)
        q = answer(has_to_answer(m, mask), lambda: m.p.given(m.value(value[None])[0], mask))  # noqa: B023
        if q is not None and (m.plan.events is not None or not is_partially_observed(m, mask)):
            follows(m, q, f"given {mask.tolist()}", m.evidence(value, mask))


@check
def marginal(m):
    for cut, observe in itertools.product((False, True), repeat=2):
        kept, mask, value = random_mask(m, cut), random_mask(m), possible_events(m)
        p, evidence, union = m.p, None, kept
        if observe and has_to_answer(m, mask):
            p, evidence = p.given(m.value(value[None])[0], mask), m.evidence(value, mask)
            union = kept | mask
        if not kept.any():
            continue
        promised = has_to_answer(m, union) and not is_partially_observed(m, kept)
        q = answer(promised, lambda: p.marginal(kept))  # noqa: B023
        if q is None or (m.plan.events is None and is_partially_observed(m, kept)):
            continue
        what = f"marginal {kept.tolist()}" + (f" given {mask.tolist()}" if evidence else "")
        check_log_prob(m, q, m.plans(q), what, evidence, kept)
        draws = q.sample((3,))
        assert draws.shape == (3, *m.batch, int(kept.sum())), f"{what}: shape of draws"
        assert q.support.check(draws).all(), f"{what}: support.check"


@check
def marginal_twice(m):
    """A marginal that is conditioned, or reduced to fewer elements."""
    kept, value = random_mask(m), possible_events(m)
    part = random_mask(m) & kept
    q = answer(has_to_answer(m, kept), lambda: m.p.marginal(kept)) if part.any() else None
    if q is None or not fits_order_of(m, q, value):
        return NOT_APPLICABLE
    promised, what = has_to_answer(m, kept) and has_to_answer(m, part), f"marginal {kept.tolist()}"
    given = answer(promised, lambda: q.given(m.value(value[None])[0][..., kept], part[kept]))
    if given is not None:
        evidence = m.evidence(value, part)
        check_log_prob(m, given, m.plans(given), f"{what} given {part.tolist()}", evidence, kept)
    less = answer(promised, lambda: q.marginal(part[kept]))
    if less is not None:
        check_log_prob(m, less, m.plans(less), f"{what}, of it {part.tolist()}", None, part)
    return None


def fits_order_of(m, q, value):
    """Whether events are possible in the order that q answers in."""
    if m.plan.end is None:
        return True
    padded = [plan.padded(row[None])[0] for plan, row in zip(m.plans(q), value, strict=True)]
    return torch.equal(torch.stack(padded), value)


@check
def given_twice(m):
    first, second, value = random_mask(m), random_mask(m), possible_events(m)
    x, both = m.value(value[None])[0], first | second
    q = answer(has_to_answer(m, first), lambda: m.p.given(x, first))
    if q is None or not fits_order_of(m, q, value):
        return NOT_APPLICABLE
    promised = has_to_answer(m, first) and has_to_answer(m, both)
    q = answer(promised, lambda: q.given(x, second))
    if q is not None:
        follows(m, q, f"given {first.tolist()}, {second.tolist()}", m.evidence(value, both))
    return None


@check
def other_order(m):
    if not m.any_order:
        return NOT_APPLICABLE
    q = m.p.with_ordering(random_ordering(m.r, m.plan.grid, total=True))
    return follows(m, q, "with_ordering")


@check
def row_orders(m):
    if not (m.any_order and m.net.has_row_orders) or not m.batch:
        return NOT_APPLICABLE
    ranks = torch.stack([torch.randperm(m.plan.count) for _ in range(m.rows)])
    if m.serves_ties and m.plan.end is None and m.r.random() < 0.3:
        ranks = ranks // 2
    q = m.p.with_ordering(ranks.reshape(*m.batch, *m.plan.grid))
    follows(m, q, "row orders")
    mask, value = random_mask(m), possible_events(m)
    value = torch.cat([plan.padded(x[None]) for plan, x in zip(m.plans(q), value, strict=True)])
    q = q.given(m.value(value[None])[0], mask)
    return follows(m, q, "given in row orders", m.evidence(value, mask))


@check
def other_families(m):
    def changed(family):
        if isinstance(family, fam.Independent):
            return fam.Independent(changed(family.family), family.shape)
        choices, states = [family], states_of(family)
        small = states is not None and len(states) <= 9
        if type(family) in (fam.Normal, fam.Laplace) or small:
            choices.append(fam.Tempered(family, 0.6))
        if small and not family.event_shape:
            choices += [fam.TopK(family, 2), fam.Nucleus(family, 0.7)]
        return choices[choice % len(choices)]

    choice = m.r.randint(0, 11)
    families = [changed(family) for family in m.plan.families]
    own = m.net.factorization
    wanted = [changed(family) for family in own.layout.families]
    # A network for one family in all blocks has another layout than one for several.
    if families == m.plan.families or (len(set(wanted)) == 1) != own.is_uniform:
        return NOT_APPLICABLE
    q = m.p.with_families(wanted)
    plan = m.plan.replace(families=families)
    return follows(m, q, "with_families", plans=[plan] * m.rows)


def under_rule(m):
    """A random rule: the distribution under it, and log p of all events by definition."""
    plan = m.plan.replace(end=None, pad=None)
    if m.plan.events is None or any(map(is_restricted_inside, m.plan.families)):
        return None
    case = random_case(m.r, plan, m.options.get("names"))
    if case is None:
        return None
    numbers = numbers_of(plan, m.fac.layout.families, plan.events)
    follows = [bool(case.follows(x)) for x in numbers]
    if not any(follows):
        return None
    table = local(plan, numbers, m.scores(m.events, [plan] * m.rows), follows)
    free = m.net.condition(m.context, validate_args=False).with_rule(None)
    return free.with_rule(case.rule), torch.tensor(follows), table


@check
def rule(m):
    """All of a distribution under a rule."""
    if (found := under_rule(m)) is None or not found[1].any():
        return NOT_APPLICABLE
    p, follows, table = found
    if table.isnan().any():  # no allowed value has a probability, and the choice is even
        return NOT_APPLICABLE
    events, what = m.value(m.events), repr(p.factorization.rule)
    lead = (len(table), *m.batch)
    same(p.log_prob(events), table.reshape(lead), 2 * m.tol, f"log_prob under {what}")
    assert torch.equal(
        p.support.check(events), follows.reshape(-1, *(1,) * len(m.batch)).expand(lead)
    )
    assert p.factorization.num_states == int(follows.sum()), f"num_states under {what}"
    states = p.factorization.enumerate_support().double().reshape(int(follows.sum()), -1)
    assert {tuple(e) for e in states.tolist()} == {
        tuple(e) for e in m.plan.events[follows].reshape(int(follows.sum()), -1).tolist()
    }, f"states under {what}"
    ways = {"sample": p.sample((DRAWS,)), "mode": p.mode[None]}
    if p.factorization.conditionals.has_noise:
        ways["fixed_point"] = sampling.fixed_point(p, (DRAWS,))[0]
    for name, x in ways.items():
        x = x.double().reshape(len(x), m.rows, -1)
        for row in range(m.rows):
            seen = Counter(m.keys[tuple(e)] for e in x[:, row].tolist())
            counts = np.array([seen[number] for number in range(len(table))])
            same_law(counts, table[:, row], f"{name} under {what}") if name != "mode" else None
            assert (table[[*seen], row] > -torch.inf).all(), f"{name} leaves {what}"
    x, scores_ = sampling.beam_search(p, len(table))
    best = table.sort(0, descending=True).values.reshape(lead)[: len(x)]
    same(scores_, best, 10 * m.tol, f"beam_search under {what}")
    mask = m.plan.mask(itertools.chain(*m.plan.steps[: m.r.randint(0, len(m.plan.steps))])).bool()
    value = torch.stack([m.plan.events[m.r.choice((table[:, row] > -torch.inf).nonzero().flatten()
                         .tolist())] for row in range(m.rows)])  # fmt: skip
    agree = ((m.events == value) | ~mask).reshape(len(table), m.rows, -1).all(-1)
    joint = table.masked_fill(~agree, -torch.inf)
    q = p.given(m.value(value[None])[0], mask)
    same(q.log_prob(events), (joint - joint.logsumexp(0)).reshape(lead), 10 * m.tol, "given a rule")
    drawn_ = q.sample((50,)).double().reshape(50, m.rows, -1).tolist()
    for row, each in enumerate(zip(*drawn_, strict=True)):
        assert all(joint[m.keys[tuple(e)], row] > -torch.inf for e in each), f"given, {what}"
    if mask.any():
        got = p.marginal(mask).log_prob(m.value(value[None])[0][..., mask])
        same(got, joint.logsumexp(0).reshape(m.batch), 10 * m.tol, f"marginal under {what}")
    total = p.log_prob(m.value(value[None])).sum()
    found = torch.autograd.grad(total, list(m.net.parameters()), allow_unused=True)
    assert all(g is None or g.isfinite().all() for g in found), f"gradient under {what}"
    return None


@check
def intervals(m):
    """Numbers within intervals: scores by the family's CDF, draws inside."""
    each = m.plan.families
    if any(f.event_shape or f.support.is_discrete or not f.has_cdf for f in each):
        return NOT_APPLICABLE
    if m.plan.end is not None:
        return NOT_APPLICABLE
    x = m.random(1)[0]  # (rows, *shape)
    flat = x.reshape(m.rows, -1)
    ends = []
    for place in m.plan.places:
        low, high = float(flat[:, place].min()), float(flat[:, place].max())
        width = 0.1 + m.r.random() * 2
        ends.append((low - width * abs(low) - 1e-3, high + width * abs(high) + 1e-3))
    ends = [(m.r.choice([low, -math.inf]), m.r.choice([high, math.inf])) for low, high in ends]
    p = m.net.condition(m.context, validate_args=False).with_rule(Boxes(ends))
    free = m.scores(x[None])[0]  # (rows, blocks)
    expected = torch.zeros(m.rows, dtype=torch.float64)
    with torch.no_grad():
        for row in range(m.rows):
            params = passes(m.net64, m.plan, x[row : row + 1], m.context_row(row))
            for block, family in enumerate(each):
                own = params[block].double()
                low, high = (
                    family.cdf(own, own.new_tensor([end])) if math.isfinite(end) else float(end > 0)
                    for end in ends[block]
                )
                mass = torch.as_tensor(high - low)
                if not mass > 1e-3:
                    return NOT_APPLICABLE
                expected[row] += free[row, block] - mass.log().squeeze()
    same(
        p.log_prob(m.value(x[None])[0]), expected.reshape(m.batch), 1e2 * m.tol, "log_prob in boxes"
    )
    drawn_ = p.sample((200,))
    assert p.support.check(drawn_).all(), f"draws leave {ends}"
    assert p.log_prob(drawn_).isfinite().all(), f"draws in {ends} have no density"
    return None


@check
def ancestral(m):
    mask, value = random_mask(m), possible_events(m)
    evidence, given, plan = None, None, [m.plan] * m.rows
    if has_to_answer(m, mask) and m.r.random() < 0.5:
        given = m.value(value[None])[0], mask
        evidence, plan = m.evidence(value, mask), m.plans(m.p.given(*given))
    number = DRAWS if m.plan.events is not None else 4
    total = torch.zeros(number, *m.batch, dtype=torch.float64)
    for step in sampling.ancestral(m.p, (number,), given=given):
        if isinstance(step.conditional, tuple):
            pairs = zip(step.conditional, step.value, strict=True)
            total += torch.stack([one.log_prob(part) for one, part in pairs]).sum(0)
        else:
            total += step.conditional.log_prob(step.value).double().sum(-1)
    event = step.event.double().reshape(number, m.rows, *m.plan.shape)
    expected = m.scores(event, plan).sum(-1).reshape(number, *m.batch)
    tol = max(10 * m.tol, 1e-6)  # conditionals are torch's, whose von Mises has seven digits
    same(total, expected, tol, "sum of log_prob of steps")
    if m.plan.events is not None:
        check_draws(m, step.event, plan, evidence, "ancestral")


@check
def search(m):
    if m.plan.events is None:
        return NOT_APPLICABLE
    table = m.table.reshape(-1, *m.batch)
    best = table.sort(0, descending=True).values
    x, log_prob = sampling.beam_search(m.p, len(table) + 3)
    found = int((m.table > -torch.inf).sum(0).max())
    assert len(x) == found, f"beam_search: {len(x)} of {found} events"
    same(log_prob, best[:found], 10 * m.tol, "beam_search")
    real = x.double().reshape(found, m.rows, *m.plan.shape)
    own = m.scores(real).sum(-1).reshape(log_prob.shape)
    same(torch.where(log_prob > -torch.inf, own, -torch.inf), log_prob, 10 * m.tol, "its events")
    x, log_prob = sampling.greedy(m.p)
    same(log_prob, greedy_of(m).reshape(m.batch), 10 * m.tol, "greedy")
    return None


def greedy_of(m):
    """log_prob of the event that has the likeliest state of each block in turn."""
    found = []
    for row in range(m.rows):
        x = m.plan.random(1)
        for block in itertools.chain(*m.plan.steps):
            states = states_of(m.plan.families[block])
            each = x.reshape(1, -1).repeat(len(states), 1)
            each[:, m.plan.places[block]] = states.reshape(len(states), -1)
            each = each.reshape(-1, *m.plan.shape)
            with torch.no_grad():
                own = scores(m.net64, m.plan, each, m.context_row(row))[:, block]
            x = each[own.argmax()][None]
        with torch.no_grad():
            found.append(scores(m.net64, m.plan, x, m.context_row(row)).sum())
    return torch.stack(found)


@check
def without_replacement(m):
    if m.plan.events is None:
        return NOT_APPLICABLE
    keys, table = m.keys, m.table
    k = min(3, int((table > -torch.inf).sum(0).min()))
    x, log_prob, perturbed = sampling.without_replacement(m.p.expand((DRAWS, *m.batch)), k)
    x = x.double().reshape(k, DRAWS, m.rows, -1)
    assert (perturbed[:-1] >= perturbed[1:]).all(), "perturbed log-probabilities rise"
    for row in range(m.rows):
        numbers = torch.tensor([[keys[tuple(e)] for e in part] for part in x[:, :, row].tolist()])
        same(log_prob.reshape(k, DRAWS, -1)[..., row], table[numbers, row], 10 * m.tol, "log_prob")
        assert all(len(set(each)) == k for each in numbers.T.tolist()), "an event twice"
        first = table[:, row].exp()
        pairs = first[:, None] * first / (1 - first[:, None])
        laws = [first, torch.nan_to_num(pairs.fill_diagonal_(0.0)).sum(0)]
        for which, each in zip(range(min(k, 2)), laws, strict=False):
            counts = np.bincount(numbers[which].numpy(), minlength=len(table))
            same_law(counts, each.log(), f"draw {which} without replacement")
    return None


@check
def fixed_point(m):
    if not all(family.has_noise for family in m.fac.layout.distinct):
        return NOT_APPLICABLE
    x, number = sampling.fixed_point(m.p, (DRAWS,))
    assert number <= len(m.plan.steps), f"{number} passes"
    check_draws(m, x, None, None, "fixed_point")
    return None


@check
def decoder(m):
    """The decoder's steps, `prefill` and `select` against passes of the network."""
    plan, number = m.plan, 2 * m.rows
    fac = m.net.factorization
    if m.any_order and m.r.random() < 0.5:
        fac = fac.with_ordering(random_ordering(m.r, plan.grid, total=True))
        plan = plan.under(fac.ordering)
    x = plan.random(number).to(m.dtype).double()
    context = m.contexts
    repeated = None if context is None else context.repeat(2, *(1,) * (context.dim() - 1))
    narrow = None if context is None else context.to(m.dtype)
    start = m.r.randint(0, len(plan.steps) - 1)
    at = m.net.decoder(number, narrow, factorization=fac)
    for number_of, step in enumerate(plan.steps):
        if number_of < start:
            continue
        if number_of == start:
            done = list(itertools.chain(*plan.steps[:start]))
            got = at.prefill(pieces(m, plan, x, done)) if start else at.step(None)
        else:
            got = at.step(pieces(m, plan, x, plan.steps[number_of - 1]))
        with torch.no_grad():
            params = passes(m.net64, plan, x, repeated, step)
        want = [params[block] for block in step]
        want = torch.stack(want, 1) if plan.uniform else torch.cat(want, -1)
        same(got, want, 10 * m.tol, f"decoder at step {number_of} from {start}")
        if m.r.random() < 0.5:
            rows = torch.randint(len(x), (m.r.randint(1, 4),))
            at.select(rows)
            x, repeated = x[rows], None if repeated is None else repeated[rows]


def pieces(m, plan, x, blocks):
    """Some blocks as decoders take them."""
    each = [plan.block(x, block) for block in blocks]
    if plan.uniform:
        found = torch.stack(each, 1)
    else:
        found = torch.cat([part.reshape(len(x), -1) for part in each], 1)
    return found.long() if all(f.is_index for f in plan.families) else found.to(m.dtype)


def again(family, params, value):
    """A draw as a function of the parameters, by its CDF or its noise; None if not written here."""
    if isinstance(family, fam.Independent):
        inner = family.family
        each = params.reshape(-1, inner.num_params), value.reshape(-1, *inner.event_shape)
        found = again(inner, *each)
        return None if found is None else found.reshape(value.shape)
    if isinstance(family, fam.Tempered) and not family.event_shape and states_of(family) is None:
        made = tempered(family, params)
    elif type(family) in (fam.Normal, fam.Laplace, fam.LogNormal, fam.Exponential):
        made = family(params)
    elif isinstance(family, fam.MultivariateNormal):
        made = family(params)
        noise = torch.linalg.solve_triangular(
            made.scale_tril.detach(), (value - made.loc).detach()[..., None], upper=False
        )
        return made.loc + (made.scale_tril @ noise).squeeze(-1)
    else:
        return None
    value = value.detach()
    implicit = -(made.cdf(value) / made.log_prob(value).exp().detach())
    return value + implicit - implicit.detach()


@check
def rsample(m):
    """Gradients of draws against autograd through the steps of the definition."""
    if not all(family.has_rsample for family in m.fac.layout.distinct) or m.dtype == torch.float32:
        return NOT_APPLICABLE
    trial = [again(f, torch.zeros(1, f.num_params), m.plan.random(1).new_ones(1, *f.event_shape))
             for f in m.plan.families]  # fmt: skip
    if any(part is None for part in trial):
        return NOT_APPLICABLE
    context = None if m.context is None else m.context.clone().requires_grad_()
    p = m.net.condition(context)
    x, scored = p.rsample_and_log_prob((2,))
    same(scored, p.log_prob(x), 1e-8, "rsample_and_log_prob")
    weight = torch.randn(x.shape, dtype=torch.float64)
    inputs = [*m.net.parameters(), *([] if context is None else [context])]
    found = torch.autograd.grad((weight * x).sum() + scored.sum(), inputs, allow_unused=True)
    twin = None if m.context is None else m.contexts.clone().requires_grad_()
    total = 0.0
    for row in range(m.rows):
        fixed = x.detach().reshape(2, m.rows, *m.plan.shape)[:, row]
        one = None if twin is None else twin[row : row + 1]
        now = fixed
        for step in m.plan.steps:
            params = passes(m.net64, m.plan, now, one, step)
            moving = list(now.reshape(2, -1).unbind(1))
            for block in step:
                value = again(m.plan.families[block], params[block], m.plan.block(fixed, block))
                for place, part in zip(m.plan.places[block], value.reshape(2, -1).T, strict=True):
                    moving[place] = part
            now = torch.stack(moving, 1).reshape(fixed.shape)
        total = total + (weight.reshape(2, m.rows, *m.plan.shape)[:, row] * now).sum()
        total = total + scores(m.net64, m.plan, now, one).sum()
    twins = [*m.net64.parameters(), *([] if twin is None else [twin])]
    wanted = torch.autograd.grad(total, twins, allow_unused=True)
    return same_gradients(found, wanted, twins, 1e-7, "gradient of rsample")


def another(m):
    """A second network of the same kind, and its copy for the definition."""
    torch.manual_seed(m.seed + 1)
    other = m.built().to(m.dtype)
    return other, copy.deepcopy(other).double()


@check
def mixtures(m):
    other, net64 = another(m)
    logits, q = torch.randn(2).to(m.dtype), other.condition(m.context)
    p = ad.Mixture(torch.distributions.Categorical(logits=logits), [m.p, q])
    x = m.random(4)
    each = [m.scores(x).sum(-1), m.scores(x, [net64.plan] * m.rows, net64).sum(-1)]
    expected = (torch.stack(each, -1) + logits.double().log_softmax(-1)).logsumexp(-1)
    same(p.log_prob(m.value(x)), expected.reshape(4, *m.batch), m.tol, "Mixture")
    assert p.sample((2,)).shape == (2, *m.batch, *m.plan.shape), "shape of draws of a Mixture"
    if m.any_order:
        orders = [random_ordering(m.r, m.plan.grid, total=True) for _ in range(2)]
        p = ad.OrderingMixture(m.net, orders, m.context, validate_args=False)
        each = [m.scores(x, [m.plan.under(o)] * m.rows).sum(-1) for o in orders]
        expected = torch.stack(each, -1).logsumexp(-1) - math.log(2)
        same(p.log_prob(m.value(x)), expected.reshape(4, *m.batch), m.tol, "OrderingMixture")
        assert p.sample((2,)).shape == (2, *m.batch, *m.plan.shape), "draws of an OrderingMixture"


@check
def information(m):
    if m.plan.events is None:
        return NOT_APPLICABLE
    events, table = m.events, m.table
    nats = torch.where(table > -torch.inf, table, 0.0)
    expected = -(table.exp() * nats).sum(0).reshape(m.batch)
    value, error = ad.information.entropy(m.p)
    same(value, expected, 10 * m.tol, "entropy")
    assert not error.any(), "entropy is not exact"
    value, error = ad.information.entropy(m.p, 400)
    # By Hoeffding, for the sum of bounded entropies; heavy tails of -log p show in the error.
    bound = 0.2 * math.log(len(events)) + 8 * error
    assert ((value - expected).abs() < bound).all(), "entropy by draws"
    other, net64 = another(m)
    theirs = m.scores(events, [net64.plan] * m.rows, net64).sum(-1)
    if (theirs[table > -torch.inf] > -torch.inf).all():
        gap = torch.where(table > -torch.inf, table - theirs, 0.0)
        expected = (table.exp() * gap).sum(0).reshape(m.batch)
        q = other.condition(m.context)
        same(ad.information.kl_divergence(m.p, q).value, expected, 20 * m.tol, "kl_divergence")
        ad.information.kl_divergence(m.p, q, 10)
    return None


@check
def scheduled(m):
    x = m.random(3)
    got = ad.training.scheduled_log_prob(m.p, m.value(x), 0.0)
    same(got, m.scores(x).sum(-1).reshape(3, *m.batch), m.tol, "scheduled_log_prob at 0")
    if m.plan.events is None:
        return
    # At 1 each true block is scored after others: between its extremes over all prefixes.
    found = ad.training.scheduled_log_prob(m.p, m.value(x), 1.0).reshape(3, m.rows).double()
    free, shape = m.plan.replace(end=None, pad=None), (3, len(m.plan.events))
    every = m.plan.events.reshape(1, shape[1], -1).expand(3, -1, -1)
    for row in range(m.rows):
        low = high = torch.zeros(3, dtype=torch.float64)
        true, alive = x[:, row].reshape(3, 1, -1), ~m.plan.ended(x[:, row])
        for block in range(m.plan.count):
            mixed = torch.where(m.plan.mask([block]).reshape(-1), true, every)
            mixed = mixed.reshape(-1, *m.plan.shape)
            with torch.no_grad():
                each = scores(m.net64, free, mixed, m.context_row(row))[:, block].reshape(shape)
            low = low + torch.where(alive[:, block], each.amin(-1), 0.0)
            high = high + torch.where(alive[:, block], each.amax(-1), 0.0)
        fits = (found[:, row] >= low - 1e-3) & (found[:, row] <= high + 1e-3)
        what = f"{found[:, row].tolist()} not in {low.tolist()}, {high.tolist()}"
        assert fits.all(), f"scheduled_log_prob at 1: {what}"


@check
def flow(m):
    if not all(family.is_bijective for family in m.fac.layout.distinct):
        return NOT_APPLICABLE
    transform = transforms.AutoregressiveTransform(m.net, m.context)
    shape = (3, *m.batch, *m.plan.shape)
    z = (torch.randn(shape, dtype=torch.float64) * 0.7).to(m.dtype)
    x = transform(z)
    same(transform.inv(x), z, 1e3 * m.tol, "noise and back")
    if m.dtype == torch.float64:
        size = math.prod(m.plan.shape)
        jacobian = torch.autograd.functional.jacobian(lambda z: transform(z).flatten(), z)
        jacobian = jacobian.reshape(3 * m.rows, size, 3 * m.rows, size).transpose(1, 2)
        own = torch.stack([jacobian[row, row] for row in range(3 * m.rows)])
        expected = torch.linalg.slogdet(own).logabsdet.reshape(3, *m.batch)
        same(transform.log_abs_det_jacobian(z, x), expected, 1e-7, "log_abs_det_jacobian")
    return None


@check
def rosenblatt(m):
    if any(family.event_shape or not family.has_cdf for family in m.fac.layout.distinct):
        return NOT_APPLICABLE
    transform, x = transforms.Rosenblatt(m.p), m.value(m.random(3))
    u = transform(x)
    assert ((u >= 0) & (u <= 1)).all(), "Rosenblatt leaves the unit cube"
    uniforms = torch.rand(DRAWS, *m.batch, *m.plan.shape, dtype=torch.float64).to(m.dtype)
    if transform.bijective:
        middle = uniforms[:3] * 0.98 + 0.01
        same(transform(transform.inv(middle)), middle, 1e2 * max(m.tol, 1e-7), "Rosenblatt")
    check_draws(m, transform.inv(uniforms), None, None, "Rosenblatt.inv")
    if m.plan.events is not None:
        possible = m.value(possible_events(m)[None])
        assert (transform.inv(transform.randomized(possible)) == possible).all(), "randomized"
    return None


@check
def states(m):
    """Copies, pickles and state_dicts give the same scores; another column order raises."""
    x = m.value(m.random(2))
    wanted = m.p.log_prob(x)
    twin = m.built().to(m.dtype)
    twin.load_state_dict(m.net.state_dict())
    copies = {"state_dict": twin, "deepcopy": copy.deepcopy(m.net)}
    if m.name != "own":
        copies["pickle"] = pickle.loads(pickle.dumps(m.net))
    for name, net in copies.items():
        same(net.condition(m.context).log_prob(x), wanted, m.tol, name)
    if "names" in m.options and m.plan.count > 1:
        names = m.options["names"][1:] + m.options["names"][:1]
        r = random.Random()
        r.setstate(m.build)
        other = ad.Factorization(m.plan.shape, **{**m.options, "names": names})
        try:
            NETWORKS[m.name][0](r, other, **m.arguments).load_state_dict(m.net.state_dict())
        except (ValueError, RuntimeError):
            return
        raise AssertionError("a state of other columns is loaded")


@check
def missing(m):
    x, kept = possible_events(m)[None], random_mask(m, cut=m.r.random() < 0.3)
    p = m.net.condition(m.context, nan_policy="marginalize", validate_args=m.p._validate_args)
    value = torch.where(kept, m.value(x).to(m.dtype), torch.nan)
    got = answer(has_to_answer(m, kept), lambda: p.log_prob(value)[0])
    if got is None:
        return None
    q = (
        answer(not is_partially_observed(m, kept), lambda: m.p.marginal(kept))
        if kept.any()
        else m.p
    )
    if q is None or (is_partially_observed(m, kept) and m.plan.events is None):
        return NOT_APPLICABLE
    expected = m.log_prob(x, m.plans(q), None, kept)[0].reshape(m.batch)
    same(got, expected, m.tol, "log_prob with missing values")
    return None


@check
def infinite(m):
    """An infinite number scores -inf in its block, as in torch, and leaves the others alone."""
    real = [b for b, f in enumerate(m.plan.families)
            if type(f) in (fam.Normal, fam.Laplace, fam.Logistic, fam.StudentT)]  # fmt: skip
    if not real:
        return NOT_APPLICABLE
    block, x = m.r.choice(real), m.random(1)
    before = m.p.log_prob_blocks(m.value(x)).reshape(m.rows, -1)
    x.reshape(1, m.rows, -1)[..., m.plan.places[block]] = m.r.choice([1, -1]) * torch.inf
    after = m.p.log_prob_blocks(m.value(x)).reshape(m.rows, -1)
    assert (after[:, block] == -torch.inf).all(), f"infinite: {after[:, block].tolist()}"
    free = ~m.plan.depends[:, block]
    free[block] = False
    same(after[:, free], before[:, free], m.tol, "blocks that do not depend on an infinite one")
    assert not after.isnan().any(), "NaN in blocks after an infinite one"
    return None


def empty_batch(m):
    if m.context is None:
        return m.p.expand((0,))
    return m.net.condition(m.context.reshape(-1, *m.context.shape[len(m.batch) :])[:0])


@check
def empty(m):
    none = m.value(m.random(1))[:0]
    assert m.p.log_prob(none).shape == (0, *m.batch), "log_prob"
    assert m.p.sample((0,)).shape == (0, *m.batch, *m.plan.shape), "sample"
    p = empty_batch(m)
    x = p.sample((2,))
    assert x.shape == (2, 0, *m.plan.shape), "sample of an empty batch"
    assert p.log_prob(x).shape == (2, 0), "log_prob of an empty batch"
    assert p.log_prob_blocks(x).shape == (2, 0, *m.plan.grid), "log_prob_blocks"
    # torch makes no one-hot or Dirichlet distribution of an empty batch.
    if not any(family.event_shape for family in m.fac.layout.families):
        p.conditionals(x)
    if m.fac.has_rsample:
        assert p.rsample((2,)).shape == x.shape, "rsample"


@check
def empty_sets(m):
    p, mask = empty_batch(m), random_mask(m)
    if not has_to_answer(m, mask):
        return NOT_APPLICABLE
    x = p.sample((2,))
    assert p.given(x[0], mask).sample((2,)).shape == x.shape, "given"
    if mask.any():
        q = p.marginal(mask)
        assert q.log_prob(q.sample((2,))).shape == (2, 0), "marginal"
    return None
