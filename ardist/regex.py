"""Regular expressions as deterministic automata over symbols of one or more characters.

The patterns have the syntax of `re`, whose own parser reads them. So the syntax, the flags and the
characters of each class are Python's, and no package is needed. Python's matcher backtracks, and
cannot tell which symbols may follow a prefix. An automaton can.

The parser is private: `re._parser`, which was the module `sre_parse` before Python 3.11. Its result
has the same form in Python 3.11 to 3.13. Another parser would be longer than this file, and would
differ from `re` in escapes, flags and classes. Three guards protect against other versions:
`import ardist` does not import this module, unknown parts of a pattern raise a `ValueError`, and
`tests/test_regex.py` compares the automata with `re` on random patterns.
"""

import re
from collections.abc import Iterable, Sequence
from re import _compiler, _parser  # type: ignore[attr-defined]
from typing import Any

import torch
from torch import Tensor

from ardist.shapes import described, is_sequence

_MAX_STATES = 4096

_LOOK = "an automaton reads each character once and in order"
_BACKTRACKS = "it depends on how a matcher searches, and not only on the sequence"
_REFUSED = {
    "GROUPREF": ("a back-reference", "no automaton can count what a group has matched"),
    "GROUPREF_EXISTS": ("a conditional group", _BACKTRACKS),
    "ASSERT": ("look-ahead or look-behind", _LOOK),
    "ASSERT_NOT": ("negative look-ahead or look-behind", _LOOK),
    "AT": (
        "an anchor or a word boundary inside",
        "the pattern is matched with the whole sequence",
    ),
    "ATOMIC_GROUP": ("an atomic group", _BACKTRACKS),
    "POSSESSIVE_REPEAT": ("a possessive repetition", _BACKTRACKS),
}
_CHARACTERS = (_parser.LITERAL, _parser.NOT_LITERAL, _parser.ANY, _parser.IN, _parser.FAILURE)
_REPEATS = (_parser.MAX_REPEAT, _parser.MIN_REPEAT)
_ANCHORS = {  # at the ends of a pattern, where they change nothing
    0: [(_parser.AT, at) for at in (_parser.AT_BEGINNING, _parser.AT_BEGINNING_STRING)],
    -1: [(_parser.AT, at) for at in (_parser.AT_END, _parser.AT_END_STRING)],
}


def compile(pattern: str, symbols: Sequence[str]) -> tuple[Tensor, Tensor, int]:
    """The smallest automaton that accepts the sequences of symbols that a pattern matches.

    A sequence is accepted if and only if `re.fullmatch` matches its concatenated symbols. The
    table is made by subset construction (Rabin and Scott 1959, "Finite automata and their decision
    problems") over the characters, then lifted to the symbols and minimized (Moore 1956,
    "Gedanken-experiments on sequential machines").

    Args:
        pattern: a pattern in the syntax of `re`: alternation, classes, groups, repetition and
            flags. Lazy and greedy repetition are the same, since they match the same sequences.
        symbols: the symbols of the automaton: characters, or tokens of several characters.

    Returns:
        the state after each state and symbol, (states, symbols) int64; whether a sequence may end
        in each state, (states,) bool; and the initial state. All states can be reached. At most one
        of them, the dead state, does not lead to an accepting state.

    Raises:
        ValueError: if the pattern is invalid, has a part that no automaton can follow, needs more
            than 4096 states or matches no sequence of the symbols.

    >>> from ardist import regex
    >>> table, accepting, initial = regex.compile("(ab)*", ["a", "b", "ab"])
    >>> table  # the last state is the dead one
    tensor([[1, 2, 0],
            [2, 0, 2],
            [2, 2, 2]])
    >>> accepting, initial
    (tensor([ True, False, False]), 0)
    """
    if not isinstance(pattern, str):
        raise ValueError(f"pattern: expected a string, got {described(pattern)}")
    texts = [*symbols] if is_sequence(symbols) or isinstance(symbols, str) else []
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise ValueError(
            f"symbols: expected a sequence of strings of at least one character, got "
            f"{described(symbols)}"
        )
    characters = sorted(set("".join(texts)))
    over_characters, accepting = _determinized(_Thompson(pattern, characters))
    table, accepting = _minimized(_lifted(over_characters, characters, texts), accepting)
    if not accepting.any():
        raise ValueError(
            f"pattern: expected one that some sequence of the symbols matches, got {pattern!r}"
        )
    return table, accepting, 0


class _Thompson:
    """A nondeterministic automaton over characters (Thompson 1968, "Regular expression search
    algorithm").

    A part of the pattern is a path from one state to another. It only adds transitions that leave
    its first state or enter its own new states, so that parts do not interfere.

    Attributes:
        free: for each state, the states that it reaches without a character.
        moves: for each state, pairs of a set of characters, by number, and the state after any of
            them.
        final: the state after the whole pattern; state 0 is before it.
    """

    def __init__(self, pattern: str, characters: Sequence[str]) -> None:
        self.pattern, self._characters = pattern, characters
        self.free: list[list[int]] = []
        self.moves: list[list[tuple[frozenset[int], int]]] = []
        try:
            parsed = _parser.parse(pattern)
            items = list(parsed)
            for end, anchors in _ANCHORS.items():
                if items and items[end] in anchors:
                    del items[end]
            self.final = self._sequence(items, parsed.state.flags, self._new())
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(
                f"pattern: expected a regular expression, got {pattern!r}: {error}"
            ) from None

    def _new(self) -> int:
        _check_size(len(self.free) + 1, self.pattern)
        self.free.append([])
        self.moves.append([])
        return len(self.free) - 1

    def _sequence(self, items: Iterable[Any], flags: int, state: int) -> int:
        """Adds parsed items after a state. Returns the state after them."""
        for operation, argument in items:
            state = self._item(operation, argument, flags, state)
        return state

    def _item(self, operation: Any, argument: Any, flags: int, state: int) -> int:
        if operation is _parser.SUBPATTERN:
            _, added, removed, items = argument
            return self._sequence(items, (flags | added) & ~removed, state)
        if operation in _REPEATS:
            return self._repeated(flags, state, *argument)
        end = self._new()
        if operation is _parser.BRANCH:
            for items in argument[1]:
                self.free[self._sequence(items, flags, state)].append(end)
        elif operation in _CHARACTERS:
            self.moves[state].append((self._matched(operation, argument, flags), end))
        else:
            part, why = _REFUSED.get(str(operation), (str(operation), "it is not known"))
            raise ValueError(
                f"pattern: expected none with {part}, since {why}, got {self.pattern!r}"
            )
        return end

    def _repeated(self, flags: int, state: int, least: int, most: Any, items: Any) -> int:
        for _ in range(least):
            state = self._sequence(items, flags, state)
        end = self._new()
        self.free[state].append(end)
        if most is _parser.MAXREPEAT:
            self.free[self._sequence(items, flags, end)].append(end)
            return end
        for _ in range(most - least):
            state = self._sequence(items, flags, state)
            self.free[state].append(end)
        return end

    def _matched(self, operation: Any, argument: Any, flags: int) -> frozenset[int]:
        """The numbers of the characters that a literal, a dot or a class matches, by `re`."""
        single = _parser.SubPattern(_parser.State(), [(operation, argument)])
        matches = _compiler.compile(single, flags).fullmatch
        return frozenset(number for number, each in enumerate(self._characters) if matches(each))

    def closure(self, states: Iterable[int]) -> frozenset[int]:
        """The states that are reached from these states without a further character."""
        found, left = set[int](), [*states]
        while left:
            if (state := left.pop()) not in found:
                found.add(state)
                left += self.free[state]
        return frozenset(found)

    def kinds(self) -> tuple[list[int], list[int]]:
        """The kind of each character, and an example of each kind: the pattern treats all
        characters of a kind alike.
        """
        classes = {matched for moves in self.moves for matched, _ in moves}
        kind_of, examples, numbers = list[int](), list[int](), dict[tuple[bool, ...], int]()
        for character in range(len(self._characters)):
            within = tuple(character in matched for matched in classes)
            if within not in numbers:
                numbers[within] = len(numbers)
                examples.append(character)
            kind_of.append(numbers[within])
        return kind_of, examples


def _check_size(size: int, pattern: str) -> None:
    if size > _MAX_STATES:
        raise ValueError(
            f"pattern: expected one whose automaton has at most {_MAX_STATES} states, got "
            f"{pattern!r}"
        )


def _determinized(automaton: _Thompson) -> tuple[Tensor, Tensor]:
    """The automaton of the sets of states that the same characters reach.

    Returns:
        its table, (sets, characters), and which sets accept. Set 0 is the first one.
    """
    kind_of, examples = automaton.kinds()
    first = automaton.closure([0])
    waiting, numbers, rows = [first], {first: 0}, list[list[int]]()
    for states in waiting:
        row = list[int]()
        for example in examples:
            moves = [move for state in states for move in automaton.moves[state]]
            after = automaton.closure(end for matched, end in moves if example in matched)
            if after not in numbers:
                _check_size(len(numbers) + 1, automaton.pattern)
                numbers[after] = len(numbers)
                waiting.append(after)
            row.append(numbers[after])
        rows.append(row)
    accepting = torch.tensor([automaton.final in states for states in waiting])
    return torch.tensor(rows)[:, kind_of], accepting


def _lifted(table: Tensor, characters: Sequence[str], symbols: Sequence[str]) -> Tensor:
    """The table of symbols, (states, symbols), from the table of their characters."""
    number = {character: column for column, character in enumerate(characters)}
    longest, none = max(map(len, symbols)), len(characters)
    columns = torch.tensor(
        [[*map(number.__getitem__, text), *[none] * (longest - len(text))] for text in symbols]
    )
    states = torch.arange(table.shape[0]).unsqueeze(-1)
    table = torch.cat((table, states), 1)  # a symbol that has ended changes nothing
    for column in columns.unbind(1):
        states = table[states, column]  # (states, symbols)
    return states


def _minimized(table: Tensor, accepting: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest automaton that accepts the same sequences from state 0, its first one."""
    distinct = table.unique(dim=1)
    group, count = accepting.long(), 0
    while int(group.max()) >= count:  # until no symbol separates two states of a group
        count = int(group.max()) + 1
        for after in distinct.unbind(1):
            group = (group * table.shape[0] + group[after]).unique(return_inverse=True)[1]
    members = torch.empty(count, dtype=torch.int64)
    members[group] = torch.arange(table.shape[0])  # one of each group
    reached = {int(group[0]): 0}
    waiting = [*reached]
    for state in waiting:
        for after in group[table[members[state]]].tolist():
            if after not in reached:
                reached[after] = len(reached)
                waiting.append(after)
    kept = members[waiting]
    number = torch.zeros(count, dtype=torch.int64)
    number[waiting] = torch.arange(len(waiting))
    return number[group[table[kept]]], accepting[kept]
