"""A few steps of examples/constrained_text.py, and its words."""

import re
import sys
from importlib import import_module
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
TEXT = "the sing-song of a ring: bring no string, or `nothing`. Thing2 ringing, sting! king king"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return import_module("constrained_text")


def test_words_of_a_text_and_back(example):
    words = example.words_of(TEXT)
    assert words == [
        "a",
        "bring",
        "king",
        "no",
        "of",
        "or",
        "ring",
        "ringing",
        "sting",
        "string",
        "the",
    ]
    assert example.decode(example.encode(words)) == words


def test_all_words_match_the_pattern(example, monkeypatch, tmp_path, capsys):
    (tmp_path / "text.txt").write_text(TEXT)
    options = [
        f"--data={tmp_path / 'text.txt'}",
        "--pattern=.{1,4}ing",
        "--epochs=20",
        "--draws=400",
    ]
    monkeypatch.setattr(sys, "argv", ["constrained_text.py", *options])
    example.main()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "11 words, 54.55% of which match '.{1,4}ing'"
    assert printed[1].startswith("Without the rule: ")
    assert printed[3].startswith("By the rule: ")
    assert "log probability of the rule" in printed[5]
    for line in (printed[4], printed[7]):
        assert all(re.fullmatch(".{1,4}ing", word) for word in line.split())
