"""Every error has the text of the table, and the table has every error of the package."""

import ast
from itertools import chain
from pathlib import Path

import pytest
from errors import ERRORS

import ardist

ROOT = Path(ardist.__file__).parent
CASES = [(case, error) for error in chain(*ERRORS.values()) for case in error.cases]

# Errors that no user can meet, and why.
UNREACHABLE = {
    "networks/gated_stacks.py: GatedStacks.__init__": "PixelCNN asks first whether the order fits",
    "networks/sequence.py: UniformNetwork.in_order": "every network of the package defines it",
    "recomputation.py: gathered": "only in several processes; test_distributed.py",
    "families/restricted.py: Restricted.correct": "only bits and constants are corrected",
    "restriction.py: Restriction.__init__": "only a rule of one's own limits some of many vectors",
    "rollout.py: _accepted": "the clients of the package accept the blocks of each step",
}


@pytest.fixture(scope="module")
def raised():
    """What each call raises, under its place in the table."""
    return [_raised(case.call) for case, _ in CASES]


def _raised(call):
    try:
        call()
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize("index", range(len(CASES)), ids=[case.text[:60] for case, _ in CASES])
def test_it_says_what_the_table_says(index, raised):
    case, error = CASES[index]
    assert str(raised[index]) == case.text
    assert type(raised[index]) is error.kind


def test_no_error_is_left_out(raised):
    reached = {_place(error.__traceback__) for error in _with_causes(raised)}
    missing = {
        f"{path.relative_to(ROOT).as_posix()}: {name}"
        for path in ROOT.rglob("*.py")
        for name, lines in _raises(ast.parse(path.read_text()))
        if not any((str(path), line) in reached for line in lines)
    }
    assert missing == set(UNREACHABLE)


def _with_causes(errors):
    """The errors, and those that they are raised from."""
    for error in errors:
        while error is not None:
            yield error
            error = error.__cause__


def _place(traceback):
    """File and line of the innermost frame that is in the package."""
    place = None
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if Path(file).is_relative_to(ROOT):
            place = file, traceback.tb_lineno
        traceback = traceback.tb_next
    return place


def _raises(node, name=""):
    """The name of what is around each `raise`, and its lines."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Raise) and child.exc is not None:  # not what is raised again
            yield name, range(child.lineno, child.end_lineno + 1)
        is_named = isinstance(child, ast.ClassDef | ast.FunctionDef)
        yield from _raises(child, f"{name}.{child.name}".lstrip(".") if is_named else name)


def test_causes_and_cures_are_sentences():
    for error in chain(*ERRORS.values()):
        assert error.cause.endswith(".")
        assert error.cure.endswith(".")
