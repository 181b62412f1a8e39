"""Random rules for `fuzz.py`, and a joint under a rule by definition."""

import itertools
from typing import NamedTuple

import torch
from fuzz_definition import states_of

from ardist import families as fam
from ardist import rules


class Balanced(rules.Rule):
    """Brackets, 0 to open and 1 to close. The state is the number of open ones."""

    def start(self, rows, context, reference):
        return torch.zeros(rows, dtype=torch.int64, device=reference.device)

    def allowed(self, state, at):
        return torch.stack((state < at.left, state > 0), -1)

    def advance(self, state, value, at):
        return state + 1 - 2 * value


class Listed(rules.Rule):
    """A rule of a user's own: the events of a list. The state is a node of the tree of prefixes."""

    def __init__(self, events):
        nodes = {(): 0}
        for event in events:
            for size in range(1, len(event) + 1):
                nodes.setdefault(event[:size], len(nodes))
        width = 1 + max(itertools.chain(*events))
        table = torch.full((len(nodes), width), -1)
        for prefix, node in nodes.items():
            if prefix:
                table[nodes[prefix[:-1]], prefix[-1]] = node
        object.__setattr__(self, "table", table)

    def start(self, rows, context, reference):
        return torch.zeros(rows, dtype=torch.int64)

    def allowed(self, state, at):
        count = len(at.family.enumerate_support())
        found = self.table[state] >= 0
        extra = found.new_zeros(*found.shape[:-1], max(0, count - found.shape[-1]))
        return torch.cat((found, extra), -1)[..., :count]

    def advance(self, state, value, at):
        return self.table[state, value]


class Boxes(rules.Rule):
    """A rule of a user's own: each number within an interval of its block."""

    needs_total = depends_on_order = follows_reals = False

    def __init__(self, ends):
        object.__setattr__(self, "ends", torch.tensor(ends, dtype=torch.float64))  # (blocks, 2)

    def start(self, rows, context, reference):
        return reference.new_zeros(rows, 0)

    def allowed(self, state, at):
        ends = self.ends[at.blocks].expand(*state.shape[:2], 2)
        return rules.Interval(*ends.unbind(-1))

    def advance(self, state, value, at):
        return state


class Case(NamedTuple):
    """A rule, and whether an event follows it, given the numbers of its states as drawn."""

    rule: rules.Rule
    follows: object


def random_case(r, plan, names):
    """A rule that suits the blocks of a plan, of which some event follows."""
    drawn = list(itertools.chain(*plan.steps))
    families = [plan.families[block] for block in drawn]
    sizes = [len(states_of(family)) for family in families]
    count, width, is_total = len(sizes), sizes[0], plan.total
    is_scalar = not any(family.event_shape for family in families)
    makers = []
    if names and is_scalar:
        makers += [_within] * 2
        if any(plan.depends[b].any() for b in range(count)):
            makers.append(_when)
    if is_total:
        makers.append(_listed)
        if len(set(sizes)) == 1:
            makers += [_automaton, _walk, _regex]
            if is_scalar:
                makers += [_both]
        if plan.uniform and width >= count:
            makers.append(_distinct)
        if is_scalar:
            makers += [_sum, _end]
    if not makers:
        return None
    return r.choice(makers)(r, plan, names, drawn, sizes)


def _listed(r, plan, names, drawn, sizes):
    every = list(itertools.product(*map(range, sizes)))
    chosen = r.sample(every, r.randint(1, len(every)))
    return Case(Listed(chosen), lambda x: x in set(chosen))


def _automaton(r, plan, names, drawn, sizes):
    while True:
        states = r.randint(1, 4)
        table = [[r.randint(-1, states - 1) for _ in range(sizes[0])] for _ in range(states)]
        accepting = r.sample(range(states), r.randint(1, states))
        initial = r.randrange(states)

        def follows(x, table=table, accepting=accepting, initial=initial):
            state = initial
            for value in x:
                state = -1 if state < 0 else table[state][value]
            return state in accepting

        if any(map(follows, itertools.product(*map(range, sizes)))):
            return Case(rules.Automaton(table, accepting, initial), follows)


def _walk(r, plan, names, drawn, sizes):
    edges = [[int(r.random() < 0.7 or a == b) for b in range(sizes[0])] for a in range(sizes[0])]
    start, stop = (r.choice([None, r.randrange(sizes[0])]) for _ in range(2))
    if start is not None and stop is not None:
        stop = start

    def follows(x):
        ends = (start is None or x[0] == start) and (stop is None or x[-1] == stop)
        return ends and all(edges[a][b] for a, b in itertools.pairwise(x))

    return Case(rules.Automaton.walk(edges, start=start, stop=stop), follows)


def _regex(r, plan, names, drawn, sizes):
    symbols = "abcdefghijklmnopqrstuvwxyz"[: sizes[0]] if sizes[0] <= 26 else None
    if symbols is None:
        return _walk(r, plan, names, drawn, sizes)
    pattern = r.choice(["a*b*", "(a|b)*", "[^a].*|a*", ".*a?", "(ab?)*.*"])
    import re

    def follows(x):
        return re.fullmatch(pattern, "".join(symbols[i] for i in x)) is not None

    return Case(rules.Automaton.regex(pattern, symbols), follows)


def _distinct(r, plan, names, drawn, sizes):
    return Case(rules.Distinct(), lambda x: len(set(x)) == len(x))


def _sum(r, plan, names, drawn, sizes):
    total = r.randint(0, sum(sizes) - len(sizes))
    return Case(rules.Sum(total), lambda x: sum(x) == total)


def _end(r, plan, names, drawn, sizes):
    end, pad = (r.randrange(min(sizes)) for _ in range(2))
    return Case(rules.End(end, pad), lambda x: _is_padded(x, end, pad))


def _is_padded(x, end, pad):
    after = x[x.index(end) + 1 :] if end in x else ()
    return all(value == pad for value in after)


def _both(r, plan, names, drawn, sizes):
    one = _sum(r, plan, names, drawn, sizes)
    while True:
        two = _automaton(r, plan, names, drawn, sizes)

        def follows(x, two=two):
            return one.follows(x) and two.follows(x)

        if any(map(follows, itertools.product(*map(range, sizes)))):
            return Case(rules.All(one.rule, two.rule), follows)
        if r.random() < 0.3:
            return one


def _within(r, plan, names, drawn, sizes):
    wanted = {}
    for place, block in enumerate(drawn):
        if r.random() < 0.6 or not wanted:
            states = states_of(plan.families[block]).tolist()
            if r.random() < 0.5:
                values = set(r.sample(states, r.randint(1, len(states))))
                wanted[place] = names[block], values, values
            else:
                low, high = sorted(r.choices(states, k=2))
                inside = {state for state in states if low <= state <= high}
                ends = r.choice([(low, high), (low - 0.5, high + 0.5)])
                wanted[place] = names[block], ends, inside
    given = {name: values for name, values, _ in wanted.values()}

    def follows(x):
        each = ((states_of(plan.families[drawn[p]])[x[p]], v) for p, (_, _, v) in wanted.items())
        return all(float(value) in values for value, values in each)

    return Case(rules.Within(given), follows)


def _when(r, plan, names, drawn, sizes):
    triggers = [b for b in range(plan.count) if plan.depends[:, b].any()]
    trigger = r.choice(triggers)
    others = [b for b in range(plan.count) if plan.depends[b, trigger]]
    chosen = r.sample(others, r.randint(1, len(others)))
    states = [states_of(plan.families[block]).tolist() for block in range(plan.count)]
    values = set(r.sample(states[trigger], r.randint(1, len(states[trigger]))))
    constants = {block: r.choice(states[block]) for block in chosen}

    def follows(x):
        own = {block: states[block][x[place]] for place, block in enumerate(drawn)}
        free = own[trigger] in values
        return free or all(own[block] == constant for block, constant in constants.items())

    absent = {names[block]: constant for block, constant in constants.items()}
    return Case(rules.When(names[trigger], values, **absent), follows)


def numbers_of(plan, families, events):
    """The numbers of the states of each event's blocks, as drawn: a list of tuples."""
    each = []
    for block in itertools.chain(*plan.steps):
        states = families[block].enumerate_support().double()
        states = states.reshape(len(states), -1)
        value = plan.block(events, block).reshape(len(events), 1, -1)
        each.append((value == states).all(-1).int().argmax(-1))
    return [tuple(row) for row in torch.stack(each, 1).tolist()]


def local(plan, numbers, scores, follows):
    """log p of all events under a rule, by definition: each conditional restricted to the values
    that some event which follows the rule has after the same prefix, and normalized.

    Args:
        numbers: from `numbers_of`.
        scores: log p of each block without the rule, (events, rows, blocks).
        follows: whether each event follows the rule.
    """
    prefixes = {x[:size] for x, ok in zip(numbers, follows, strict=True) if ok
                for size in range(len(x) + 1)}  # fmt: skip
    total = torch.zeros(scores.shape[:2], dtype=torch.float64)
    for place, block in enumerate(itertools.chain(*plan.steps)):
        each = {}  # by prefix and value: the score
        for event, x in enumerate(numbers):
            each.setdefault(x[: place + 1], scores[event, :, block])
        masses = {}
        for x, score in each.items():
            if x in prefixes:
                masses.setdefault(x[:-1], []).append(score)
        masses = {x: torch.stack(parts).logsumexp(0) for x, parts in masses.items()}
        for event, x in enumerate(numbers):
            mass = masses[x[:place]] if x[: place + 1] in prefixes else torch.inf
            total[event] += each[x[: place + 1]] - mass
    return total


def is_restricted_inside(family):
    """Whether a rule comes before the truncation of a family, so that `local` does not hold."""
    return isinstance(family, fam.TopK | fam.Nucleus)
