"""Serves the density and the draws of a model that `ardist.export.write` wrote into a folder.

It needs torch and no other package, not even ardist:

    python examples/serve.py model/ --port 8000
    curl localhost:8000/log_prob -d '{"x": [[0, 1, 1, 0]]}'
    curl localhost:8000/sample -d '{"rows": 2, "seed": 0}'

`/log_prob` answers {"log_prob": [...]}, in nats, one for each event. `/sample` streams a line of
JSON for each step, {"elements": [...], "values": [[...], ...]}: the flat indices of the elements
that the step drew, and for each row their values. Both take "context", a list with one for each
row, if the model needs contexts.
"""

import argparse
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


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
        return self._log_prob(events, *self._contexts(context, len(events))).tolist()

    def sample(
        self, rows: int = 1, seed: int | None = None, context: list[Any] | None = None
    ) -> Iterator[dict[str, Any]]:
        """The elements that each step draws, and their values in each row."""
        if not isinstance(rows, int) or rows < 1:
            raise ValueError(f"rows: expected a positive integer, got {rows!r}")
        contexts = self._contexts(context, rows)
        if seed is not None:
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
        if len(contexts) != rows:
            raise ValueError(f"context: expected one for each of {rows} rows, got {len(contexts)}")
        return (contexts,)


def _tensor(values: Any, name: str, shape: list[int], dtype: torch.dtype) -> Tensor:
    """A list with an entry of a shape for each row, as a tensor; a `ValueError` otherwise."""
    try:
        tensor = torch.tensor(values, dtype=dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name}: expected lists of numbers, got {error}") from error
    if tensor.dim() == 0 or list(tensor.shape[1:]) != shape:
        raise ValueError(f"{name}: expected shape (rows, *{shape}), got {list(tensor.shape)}")
    return tensor


class Handler(BaseHTTPRequestHandler):
    """Answers POST requests one at a time, so that a seed belongs to one draw."""

    model: Model

    @torch.no_grad()
    def do_POST(self) -> None:
        try:
            given = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            if self.path == "/log_prob":
                lines = iter([{"log_prob": self.model.log_prob(**given)}])
            elif self.path == "/sample":
                lines = self.model.sample(**given)
            else:
                self.send_error(404, "expected /log_prob or /sample")
                return
            first = next(lines)  # before the status, since it may be an error
        except (TypeError, ValueError) as error:
            self.send_error(400, explain=str(error))
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.end_headers()
        for line in chain([first], lines):
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
