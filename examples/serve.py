"""Serves the density and the draws of a model that `ardist.export.write` wrote into a folder.

It needs torch and no other package, not even ardist:

    python examples/serve.py model/ --port 8000
    curl localhost:8000/log_prob -d '{"x": [[0, 1, 1, 0]]}'
    curl localhost:8000/sample -d '{"rows": 2, "seed": 0}'

`/log_prob` answers {"log_prob": [...]}, in nats, one for each event. `/sample` streams a line of
JSON for each step, {"elements": [...], "values": [[...], ...]}: the flat indices of the elements
that the step drew, and for each row their values. Both take "context", a list with one context for
each row, if the model needs contexts. The answer to an invalid request has the status 400, or 404
for another path, and is {"error": "..."}. Values outside the support are invalid, since
`log_prob.pt2` scores them as -inf.
"""

import argparse
import json
import math
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MAX_ROWS = 10_000  # of a request
MAX_BYTES = 2**26  # of a request


class Model:
    """The graphs in a folder."""

    def __init__(self, folder: Path) -> None:
        about = json.loads((folder / "model.json").read_text())
        self.event_shape, self.context_shape = about["event_shape"], about["context_shape"]
        self.dtype, self.context_dtype = (
            getattr(torch, about[name]) for name in ("dtype", "context_dtype")
        )
        self.steps = about["steps"]
        self._log_prob, self._start, self._step = (
            torch.export.load(folder / f"{name}.pt2").module()
            for name in ("log_prob", "start", "step")
        )

    def log_prob(self, x: list[Any], context: list[Any] | None = None) -> list[float]:
        """The log-probability of each event, in nats."""
        events = _tensor(x, "x", self.event_shape, self.dtype)
        scores = self._log_prob(events, *self._contexts(context, len(events))).tolist()
        for row, score in enumerate(scores):
            if not math.isfinite(score):
                raise ValueError(
                    f"x: expected events inside the support, got {x[row]} of log-probability "
                    f"{score} in row {row}"
                )
        return scores

    def sample(
        self, rows: int = 1, seed: int | None = None, context: list[Any] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yields the elements that each step draws, and their values in each row."""
        if type(rows) is not int or not 1 <= rows <= MAX_ROWS:
            raise ValueError(f"rows: expected an integer from 1 to {MAX_ROWS}, got {rows!r}")
        contexts = self._contexts(context, rows)
        if seed is not None:
            if type(seed) is not int or not 0 <= seed < 2**63:
                raise ValueError(f"seed: expected an integer from 0 to 2**63 - 1, got {seed!r}")
            torch.manual_seed(seed)
        events, encodings, state = self._start(torch.zeros(rows), *contexts)
        for position, elements in enumerate(self.steps):
            events, state = self._step(events, torch.tensor(position), encodings, state)
            yield {"elements": elements, "values": events.flatten(1)[:, elements].tolist()}

    def _contexts(self, context: list[Any] | None, rows: int) -> tuple[Tensor, ...]:
        if not self.context_shape:
            if context is not None:
                raise ValueError("context: expected none, since the model takes no contexts")
            return ()
        contexts = _tensor(context, "context", self.context_shape, self.context_dtype)
        if not contexts.isfinite().all():
            raise ValueError("context: expected finite numbers, got NaN or infinity")
        if len(contexts) != rows:
            raise ValueError(f"context: expected one for each of {rows} rows, got {len(contexts)}")
        return (contexts,)


def _tensor(values: Any, name: str, shape: list[int], dtype: torch.dtype) -> Tensor:
    """A list with an entry of this shape for each row, as a tensor. Raises if it is another."""
    try:
        exact = torch.tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{name}: expected lists of numbers, got {error}") from error
    if exact.dim() == 0 or list(exact.shape[1:]) != shape:
        raise ValueError(f"{name}: expected shape (rows, *{shape}), got {list(exact.shape)}")
    if not 1 <= len(exact) <= MAX_ROWS:
        raise ValueError(f"{name}: expected from 1 to {MAX_ROWS} rows, got {len(exact)}")
    tensor = exact.to(dtype)
    if not dtype.is_floating_point and not torch.equal(tensor.to(exact.dtype), exact):
        raise ValueError(f"{name}: expected integers, got others")
    return tensor


class Handler(BaseHTTPRequestHandler):
    """Answers POST requests one at a time, so that a seed belongs to one draw."""

    model: Model

    @torch.no_grad()
    def do_POST(self) -> None:
        try:
            given = self._given()
            if self.path == "/log_prob":
                lines = iter([{"log_prob": self.model.log_prob(**given)}])
            elif self.path == "/sample":
                lines = self.model.sample(**given)
            else:
                self._answer(404, [{"error": "expected /log_prob or /sample"}])
                return
            first = next(lines)  # before the status, since it may be an error
        except (TypeError, ValueError, RecursionError) as error:
            self._answer(400, [{"error": str(error)}])
            return
        self._answer(200, chain([first], lines))

    def _given(self) -> dict[str, Any]:
        """The arguments in the body of the request."""
        size = int(self.headers.get("Content-Length", 0))
        if not 0 <= size <= MAX_BYTES:
            raise ValueError(f"Content-Length: expected at most {MAX_BYTES} bytes, got {size}")
        given = json.loads(self.rfile.read(size))
        if not isinstance(given, dict):
            raise ValueError(f"expected an object of arguments, got {type(given).__name__}")
        return given

    def _answer(self, status: int, lines: Iterable[dict[str, Any]]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/x-ndjson")
        self.end_headers()
        for line in lines:
            self.wfile.write(json.dumps(line).encode() + b"\n")
            self.wfile.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="written by ardist.export.write")
    parser.add_argument("--port", type=int, default=8000, help="0 for any that is free")
    args = parser.parse_args()
    Handler.model = Model(args.folder)
    server = HTTPServer(("127.0.0.1", args.port), Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
