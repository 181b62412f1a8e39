"""The server answers what the network does, without the package."""

import json
import math
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import torch
from table import CONTEXT, build

import ardist as ad

SCRIPT = Path(__file__).parents[2] / "examples" / "serve.py"
CONTEXTS = [[0.0] * CONTEXT[0]]
# The package cannot be imported: any attempt raises an ImportError.
WITHOUT = (
    "import runpy, sys; sys.modules['ardist'] = None; script = sys.argv.pop(1);"
    "runpy.run_path(script, run_name='__main__')"
)


def post(url, **given):
    """The lines of the answer."""
    with urlopen(url, json.dumps(given).encode(), timeout=60) as answer:
        return [json.loads(line) for line in answer]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A network, and the address of a server that has its graphs."""
    folder = tmp_path_factory.mktemp("model")
    net = build("made", "columns-permuted", CONTEXT).eval()
    ad.export.write(net, folder)
    command = [sys.executable, "-c", WITHOUT, str(SCRIPT), str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        yield net, server.stdout.readline().strip()
        server.terminate()


def test_scores_and_draws_are_the_networks(served):
    net, url = served
    context = torch.randn(3, *CONTEXT)
    p = net.condition(context)
    x = p.sample()
    (answer,) = post(f"{url}/log_prob", x=x.tolist(), context=context.tolist())
    torch.testing.assert_close(torch.tensor(answer["log_prob"]), p.log_prob(x).detach())
    lines = post(f"{url}/sample", rows=3, seed=5, context=context.tolist())
    found = torch.zeros(3, 3)
    for line in lines:
        found[:, line["elements"]] = torch.tensor(line["values"])
    draw = ad.DrawStep(net)
    torch.manual_seed(5)
    with torch.no_grad():
        events, encodings, state = draw.start(3, context)
        for index in range(3):
            events, state = draw(events, torch.tensor(index), encodings, state)
    assert len(lines) == 3
    torch.testing.assert_close(found, events)


@pytest.mark.parametrize(
    ("path", "given", "text"),
    [
        ("log_prob", {"x": [[0.0, 1.0]]}, "x: expected shape (rows, *[3]), got [1, 2]"),
        ("log_prob", {"x": "a"}, "x: expected lists of numbers"),
        ("log_prob", {"x": []}, "x: expected shape (rows, *[3]), got [0]"),
        ("log_prob", {"x": [[0.0] * 3] * 10_001}, "x: expected from 1 to 10000 rows, got 10001"),
        ("log_prob", {"x": [[7.0, 7.0, 7.0]], "context": CONTEXTS}, "x: expected events inside"),
        ("log_prob", {"x": [[1.0, math.nan, 1.0]], "context": CONTEXTS}, "x: expected events in"),
        ("sample", {"context": [[math.inf] * 3]}, "context: expected finite numbers"),
        ("sample", {"rows": 0}, "rows: expected an integer from 1 to 10000, got 0"),
        ("sample", {"rows": True}, "rows: expected an integer from 1 to 10000, got True"),
        (
            "sample",
            {"rows": 10**12},
            "rows: expected an integer from 1 to 10000, got 1000000000000",
        ),
        ("sample", {"seed": 10**30, "context": CONTEXTS}, "seed: expected an integer from 0"),
        ("sample", {"seed": "a", "context": CONTEXTS}, "seed: expected an integer from 0"),
        ("sample", {"rows": 2, "context": [[0, 0, 0]]}, "context: expected one for each of 2"),
        ("sample", {"number": 2}, "unexpected keyword argument"),
    ],
)
def test_a_wrong_request_is_explained(served, path, given, text):
    _, url = served
    with pytest.raises(HTTPError) as raised:
        post(f"{url}/{path}", **given)
    with raised.value as answer:
        assert answer.code == 400
        assert text in json.loads(answer.read())["error"]


@pytest.mark.parametrize("body", [b"", b"{", b"3", b"[" * 100_000, b"\xff"])
def test_a_body_that_is_no_object_is_explained(served, body):
    _, url = served
    with pytest.raises(HTTPError) as raised:
        urlopen(f"{url}/sample", body, timeout=60)
    with raised.value as answer:
        assert answer.code == 400
        assert json.loads(answer.read())["error"]


def test_another_path_is_not_found(served):
    _, url = served
    with pytest.raises(HTTPError) as raised:
        post(f"{url}/other")
    with raised.value as answer:
        assert answer.code == 404
        assert json.loads(answer.read()) == {"error": "expected /log_prob or /sample"}
