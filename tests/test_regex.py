"""Automata of regular expressions, against Python's own matcher."""

import json
import re
from itertools import product
from random import Random

import pytest
import torch

import ardist as ad
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
    """The automaton accepts the same texts as `re.fullmatch`, and is the smallest that does."""
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


def test_a_part_of_a_pattern_that_is_not_known_is_refused(monkeypatch):
    known = [part for part in regex._CHARACTERS if str(part) != "ANY"]
    monkeypatch.setattr(regex, "_CHARACTERS", known)
    with pytest.raises(ValueError, match=r"expected none with ANY, since it is not known"):
        regex.compile("a.", "ab")


# `Automaton.regex`, under which blocks are drawn.


def texts(events, symbols, end=None):
    """The text of each event up to its end, and whether only padding follows it."""
    found = []
    for event in events.tolist():
        length = event.index(end) if end in event else len(event)
        found.append("".join(symbols[symbol] for symbol in event[:length]))
    return found


@pytest.mark.parametrize(("end", "pad"), [(None, None), (3, None), (3, 0)])
@pytest.mark.parametrize("pattern", ["a(b|ab)*", "(ab?){2,3}", "[^b]{1,4}", "(a|b)*ab(a|b)*", "a*"])
def test_no_draw_ends_outside_of_the_language(pattern, end, pad):
    """The support is all of the language that fits, with and without an end before the last block,
    and no probability is lost.
    """
    symbols, count = ["a", "b", "ab", "."], 4
    rule = ad.rules.Automaton.regex(pattern, symbols, end=end, pad=pad)
    fac = ad.Factorization(count, ad.families.Categorical(4), rule=rule)
    expected = set()
    for event in product(range(4), repeat=count):
        length = event.index(end) if end in event else count
        padding = {end if pad is None else pad}
        text = "".join(symbols[symbol] for symbol in event[:length])
        if set(event[length + 1 :]) <= padding and re.fullmatch(pattern, text):
            expected.add(event)
    states = fac.enumerate_support()
    assert {tuple(state) for state in states.tolist()} == expected
    assert len(states) == fac.num_states == len(expected)
    torch.manual_seed(0)
    p = ad.networks.RNN(fac, hidden_size=8).condition()
    torch.testing.assert_close(p.log_prob(states).logsumexp(0), torch.tensor(0.0))
    draws = p.sample((200,))
    assert {tuple(draw) for draw in draws.tolist()} <= expected


def test_a_length_that_no_match_has():
    symbols = "ab"
    rule = ad.rules.Automaton.regex("(ab)+", symbols)
    with pytest.raises(ValueError, match="no event follows"):
        ad.Factorization(5, ad.families.Categorical(2), rule=rule)
    assert ad.Factorization(6, ad.families.Categorical(2), rule=rule).num_states == 1


def test_draws_of_a_json_object_are_json():
    string, integer = r'"[a-z]*"', "(0|[1-9][0-9]*)"
    pattern = rf'\{{"name": {string}(, "ages": \[{integer}(, {integer})*\])?\}}'
    symbols = [".", '{"', '": ', ', "', ", ", "}", "[", "]", '"', "name", "ages", "ann", *"0123ab"]
    rule = ad.rules.Automaton.regex(pattern, symbols, end=0)
    fac = ad.Factorization(20, ad.families.Categorical(len(symbols)), rule=rule)
    torch.manual_seed(0)
    draws = ad.networks.RNN(fac, hidden_size=8).condition().sample((200,))
    kinds = set()
    for text in texts(draws, symbols, end=0):
        found = json.loads(text)
        kinds.add(tuple(found))
        assert isinstance(found["name"], str)
        assert all(type(age) is int for age in found.get("ages", []))
    assert kinds == {("name",), ("name", "ages")}
