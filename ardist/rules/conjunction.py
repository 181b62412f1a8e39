"""Several rules at once."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar

import torch
from torch import Tensor

from ardist.families import Family
from ardist.families.restricted import Pinned, Restricted, restricted
from ardist.rules.automaton import product
from ardist.rules.base import At, Interval, Rule, Specification, State, bound
from ardist.shapes import check_type


@dataclass(frozen=True, init=False)
class All(Rule):
    """The events that follow all of several rules.

    Rules that limit different blocks apply independently. Rules that limit the same blocks are
    combined by the product of their automata, so that each allowed prefix can be completed. A
    factorization raises an error if one of these rules is no automaton: a prefix that each rule
    allows may then have no continuation that all rules allow. `ardist.sampling.smc` supports such
    rules.

    Args:
        rules: at least one.

    Raises:
        ValueError: if there is none, or one is not a rule.

    >>> import ardist as ad
    >>> rule = ad.rules.All(ad.rules.Sum(2), ad.rules.Automaton.walk([[1, 1], [1, 0]]))
    >>> fac = ad.Factorization(4, ad.families.Bernoulli(), rule=rule)  # no two ones in a row
    >>> fac.enumerate_support().tolist()
    [[0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 1.0, 0.0]]
    """

    rules: tuple[Rule, ...]
    _limits: ClassVar[Sequence[frozenset[int]]]  # of a bound rule: the blocks that each part limits

    def __init__(self, *rules: Rule) -> None:
        if not rules:
            raise ValueError("rules: expected at least one, got none")
        for index, rule in enumerate(rules):
            check_type(rule, Rule, f"rules[{index}]")
        vars(self).update(rules=rules, **_flags(rules))

    def __repr__(self) -> str:
        return f"All({', '.join(map(repr, self.rules))})"

    def bind(self, factorization: Specification, loose: bool = False) -> "Rule":  # type: ignore[override]
        rules = [rule.bind(factorization, loose) for rule in _each(self.rules)]
        groups = _overlapping(rules, factorization)
        if not loose:
            rules = [self._together([rules[i] for i in group], factorization) for group in groups]
        if len(rules) == 1:
            return rules[0]
        limits = [_limited(rule, factorization) for rule in rules]
        return bound(self, rules=tuple(rules), _limits=limits, **_flags(rules))

    def _together(self, rules: Sequence[Rule], factorization: Specification) -> Rule:
        """One rule for several that limit the same blocks."""
        if len(rules) == 1:
            return rules[0]
        found = [rule.as_automaton(factorization) for rule in rules]
        automata = [automaton for automaton in found if automaton is not None]
        if len(automata) < len(rules):
            raise ValueError(
                f"rule: expected rules that limit different blocks or are automata, got "
                f"{list(rules)} for the same ones; ardist.sampling.smc supports them"
            )
        return reduce(product, automata).bind(factorization)

    def restricted(self, family: Family, block: int) -> Restricted | None:
        forms = [rule.restricted(family, block) for rule in self._of(block)]
        return forms[0] if len(forms) == 1 else restricted(family) if forms else None

    def _of(self, block: int) -> list[Rule]:
        return [rule for rule, own in zip(self.rules, self._limits, strict=True) if block in own]

    def start(self, rows: int, context: Tensor | None, reference: Tensor) -> State:
        return tuple(rule.start(rows, context, reference) for rule in self.rules)

    def allowed(self, state: State, at: At) -> Any:
        blocks = set(at.blocks.flatten().tolist())
        found = [
            (rule, rule.allowed(part, at))
            for rule, part, own in zip(self.rules, state, self._limits, strict=True)
            if blocks & own
        ]
        if len(found) == 1:
            return found[0][1]
        return reduce(_both, (_as_set_of(rule, allowed, at) for rule, allowed in found))

    def advance(self, state: State, value: Tensor, at: At) -> State:
        pairs = zip(self.rules, state, strict=True)
        return tuple(rule.advance(part, value, at) for rule, part in pairs)

    def scan(self, state: State, values: Tensor, at: At) -> tuple[State, State]:
        pairs = zip(self.rules, state, strict=True)
        before, after = zip(*(rule.scan(part, values, at) for rule, part in pairs), strict=True)
        return before, after

    def log_potential(self, state: State, at: At) -> Tensor | None:
        pairs = zip(self.rules, state, strict=True)
        each = [rule.log_potential(part, at) for rule, part in pairs]
        found = [one for one in each if one is not None]
        return torch.stack(found).sum(0) if found else None

    def check_order(self, factorization: Specification, ranks: Tensor) -> None:
        for rule in self.rules:
            rule.check_order(factorization, ranks)


def _each(rules: Sequence[Rule]) -> Iterator[Rule]:
    """The rules, with each `All` replaced by its parts."""
    for rule in rules:
        yield from _each(rule.rules) if isinstance(rule, All) else (rule,)


def _flags(rules: Sequence[Rule]) -> dict[str, bool]:
    """The flags of several rules together: each is set if one of the rules has it."""
    names = ("needs_total", "reads_context", "depends_on_order", "follows_reals")
    return {name: any(getattr(rule, name) for rule in rules) for name in names}


def _limited(rule: Rule, factorization: Specification) -> frozenset[int]:
    """The blocks that a bound rule limits."""
    families = enumerate(factorization.layout.families)
    return frozenset(block for block, f in families if rule.restricted(f, block) is not None)


def _overlapping(rules: Sequence[Rule], factorization: Specification) -> list[list[int]]:
    """Groups of rules. Rules of different groups limit different blocks."""
    groups: list[tuple[list[int], frozenset[int]]] = []
    for index, rule in enumerate(rules):
        members, blocks = [index], _limited(rule, factorization)
        for group in [group for group in groups if group[1] & blocks]:
            groups.remove(group)
            members, blocks = group[0] + members, group[1] | blocks
        groups.append((members, blocks))
    return [members for members, _ in groups]


def _as_set_of(rule: Rule, allowed: Any, at: At) -> Any:
    """The allowed values as a mask of states or an interval, also for `Pinned` blocks."""
    forms = [rule.restricted(at.family, block) for block in at.blocks.flatten().tolist()]
    each = [form.constant if isinstance(form, Pinned) else math.nan for form in forms]
    if allowed is None or all(map(math.isnan, each)):
        return allowed
    # A block without a constant is free.
    constants = torch.tensor(each, dtype=torch.float64, device=allowed.device)
    constants = constants.reshape(at.blocks.shape)  # (n,) or (rows, n)
    states = at.family.enumerate_support()
    if states is not None:
        return allowed.unsqueeze(-1) | (states.to(constants) == constants.unsqueeze(-1))
    low = torch.where(allowed, -torch.inf, constants)
    return Interval(low, torch.where(allowed, torch.inf, constants))


def _both(one: Any, other: Any) -> Any:
    if one is None or other is None:
        return other if one is None else one
    if isinstance(one, Interval):
        return Interval(torch.maximum(one.low, other.low), torch.minimum(one.high, other.high))
    return one & other
