"""Automata of regular expressions, against Python's own matcher."""

import re
from itertools import product
from random import Random

import pytest
import torch

from ardist import regex

CHARACTERS = ["a", "b", "1", " ", "_", "\n", "é"]
TOKENS = ["a", "ab", "ba", "b1", "1", "\n", " é"]

PATTERNS = [
    "",
    "a",
    "ab|ba|",
    "(a|b)*1",
    "(a*)*b",
    "(?:a|ab)+",
    "(?P<name>a?b){2}",
    "a{2,3}?b+?1??",
    "(ab){1,}|a{0}",
    "a{,2}",
    "[^ab]*",
    "[a-b1]+[^\\d]",
    r"\w\W|\d\D|\s\S",
    r"[\w\s]{3}",
    ".{2}",
    "(?s:.)a",
    "(?i)A(?-i:b)*",
    "(?a)\\w+",
    "(?x) a b  # a comment",
    "^(a|b)+$",
    r"\Aab*\Z",
    "(|a)(b|)",
    "(((a)))",
    r"\x61\u00e9?[\n ]",
    "[]a]+",
]


def assert_language(pattern, symbols, length):
    """The automaton accepts just what `re.fullmatch` does, and is the smallest that does."""
    table, accepting, initial = regex.compile(pattern, symbols)
    assert_smallest(table, accepting, initial)
    after, accepted, matches = table.tolist(), accepting.tolist(), re.compile(pattern).fullmatch
    reached = {"": initial}
    for _ in range(length):
        for text, state in reached.items():
            assert accepted[state] == bool(matches(text)), text
        pairs = product(reached.items(), enumerate(symbols))
        reached = {text + symbol: after[state][k] for (text, state), (k, symbol) in pairs}


def assert_smallest(table, accepting, initial):
    """All states are reached, and any two differ in a sequence that one of them accepts."""
    states = len(table)
    assert table.dtype == torch.int64
    assert accepting.shape == (states,)
    reached = torch.arange(states) == initial
    for _ in range(states):
        reached[table[reached]] = True
    assert reached.all()
    differ = accepting.unsqueeze(0) != accepting.unsqueeze(1)
    for _ in range(states):  # pairs that a symbol takes to states that differ
        after = differ[table.T.unsqueeze(2), table.T.unsqueeze(1)]  # (symbols, states, states)
        differ = differ | after.any(0)
    assert torch.equal(differ, ~torch.eye(states, dtype=torch.bool))


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("symbols", [CHARACTERS, TOKENS], ids=["characters", "tokens"])
def test_it_accepts_what_python_matches(pattern, symbols):
    assert_language(pattern, symbols, 4)


def random_pattern(random, depth):
    """A pattern of nested parts over the characters a, b and 1."""
    if depth == 0:
        return random.choice(["a", "b", "1", ".", "[ab]", "[^b]", r"\d", r"\w", ""])
    parts = [random_pattern(random, depth - 1) for _ in range(random.randint(1, 3))]
    joined = random.choice(["", "|"]).join(parts)
    repeated = ["", "?", "*", "+", "??", "*?", "+?", "{2}", "{0,2}", "{1,}", "{,1}?"]
    return f"{random.choice(['(', '(?:'])}{joined}){random.choice(repeated)}"


@pytest.mark.parametrize("seed", range(5))
def test_random_patterns(seed):
    random = Random(seed)
    for _ in range(25):
        pattern = random_pattern(random, random.randint(1, 2))
        assert_language(pattern, random.choice([["a", "b", "1"], ["a", "ab", "b1a", "b", "1"]]), 4)


def test_a_json_object():
    """A nested value up to a depth, over tokens."""
    text, number = r'"[a-z ]*"', r"-?(0|[1-9]\d*)(\.\d+)?"
    value = f"({text}|{number}|true|false|null)"
    pattern = rf"\{{({text}: {value}(, {text}: {value})*)?\}}"
    tokens = ['{"', '": ', ', "', "}", "{", '"', "age", "name", "a", "4", "0", "true", "null", "."]
    table, accepting, initial = regex.compile(pattern, tokens)
    number = {token: column for column, token in enumerate(tokens)}

    def accepted(*sequence):
        state = initial
        for token in sequence:
            state = table[state, number[token]]
        return bool(accepting[state])

    assert accepted('{"', "name", '": ', '"', "a", '"', ', "', "age", '": ', "4", "0", "}")
    assert accepted("{", "}")
    assert not accepted('{"', "age", '": ', "0", "4", "}")  # a number begins with no other zero
    assert not accepted('{"', "age", '": ', "4", ".", "}")
    assert not accepted('{"', "age", '": ', "4")


def test_the_table_has_one_dead_state():
    table, accepting, _ = regex.compile("ab|abb|c.c", "abc")
    lively = accepting.clone()
    for _ in range(len(table)):
        lively |= lively[table].any(1)
    assert (~lively).sum() == 1
    assert (table[~lively] == (~lively).nonzero()).all()


def test_a_long_repetition_and_many_tokens():
    table, accepting, _ = regex.compile("[a-y]{300}z*", [chr(97 + i % 26) * 2 for i in range(999)])
    assert table.shape == (152, 999)  # 151 counts of pairs, and the dead state
    assert accepting.sum() == 1
