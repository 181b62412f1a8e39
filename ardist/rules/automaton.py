"""Events that a finite automaton accepts: patterns, walks on graphs, products of rules."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ardist.families.base import states_of
from ardist.rules.base import At, Rule, Specification, State, bound, check_finite
from ardist.shapes import as_integer, as_integers, as_tensor, described


@dataclass(frozen=True, init=False, eq=False)
class Automaton(Rule):
    """Events that a deterministic finite automaton accepts, block by block in the order of drawing.

    Each block has the same number of states K, such as the symbols of a `Categorical(K)`. The
    factorization computes once which states of the automaton the remaining blocks can complete, so
    that every draw is accepted.

    Args:
        table: the next state of the automaton for each of its states and each state of a block,
            (S, K) integers, -1 if there is none; or (num_blocks, S, K), in the order of drawing, if
            blocks have different tables.
        accepting: the states of the automaton in which an event may end.
        initial: the state before the first block.

    Raises:
        ValueError: if the numbers are not states.

    >>> import ardist as ad
    >>> even = ad.rules.Automaton([[0, 1], [1, 0]], accepting={0})  # an even number of ones
    >>> ad.Factorization(3, ad.families.Bernoulli(), rule=even).enumerate_support().tolist()
    [[0.0, 0.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
    """

    table: Tensor
    accepting: tuple[int, ...]
    initial: int

    follows_reals = False
    # Of a bound rule, whose blocks with equal tables are one step. The next states of each step,
    # (S, K), and after a state of a block that is not allowed, the next state after the first
    # allowed one; whether the states of a block are allowed, (S, K); and the step of each block.
    _next: ClassVar[Tensor]
    _allowed: ClassVar[Tensor]
    _step: ClassVar[Tensor]

    def __init__(self, table: Any, accepting: Any, initial: int = 0) -> None:
        entries = as_integers(table, "table").long().cpu()
        if entries.dim() not in (2, 3):
            raise ValueError(
                f"table: expected (states, states of a block), or one for each block, got "
                f"{tuple(entries.shape)}"
            )
        count = entries.shape[-2]
        if not bool(((entries >= -1) & (entries < count)).all()):
            raise ValueError(
                f"table: expected next states from -1, for none, to {count - 1}, got "
                f"{int(entries.min())} to {int(entries.max())}"
            )
        states = accepting.tolist() if isinstance(accepting, Tensor) else accepting
        if not isinstance(states, Iterable):
            raise ValueError(f"accepting: expected several states, got {described(accepting)}")
        ends = sorted({as_integer(state, "accepting", 0) for state in states})
        for name, states in (("accepting", ends), ("initial", [as_integer(initial, "initial", 0)])):
            if not all(state < count for state in states):
                raise ValueError(f"{name}: expected states from 0 to {count - 1}, got {states}")
        vars(self).update(table=entries, accepting=tuple(ends), initial=int(initial))

    @staticmethod
    def regex(
        pattern: str, symbols: Sequence[str], *, end: int | None = None, pad: int | None = None
    ) -> "Automaton":
        """Sequences of symbols that match a regular expression as a whole.

        Args:
            pattern: with alternation, classes, repetition and groups, as in Python's `re`.
            symbols: the text of each state of a block: characters, or tokens of several.
            end: the symbol after which there is only `pad`, so that matches may be shorter than
                the event. By default a match fills the event.
            pad: the symbol after the end; `end` by default.

        Raises:
            ValueError: if the pattern uses other syntax, which the error names.

        >>> import ardist as ad
        >>> rule = ad.rules.Automaton.regex("a(b|c)*a", "abc")
        >>> fac = ad.Factorization(4, ad.families.Categorical(3), rule=rule)
        >>> ["".join("abc"[i] for i in x) for x in fac.enumerate_support()]
        ['abba', 'abca', 'acba', 'acca']
        """
        from ardist import regex  # on demand, since it depends on private modules of Python's `re`

        table, accepting, initial = regex.compile(pattern, symbols)
        found = Automaton(table, accepting.nonzero().flatten().tolist(), initial)
        return found if end is None else found._ending(end, end if pad is None else pad)

    @staticmethod
    def walk(adjacency: Any, start: int | None = None, stop: int | None = None) -> "Automaton":
        """Walks on a graph: each block is a node, and each node a successor of the one before it.

        Args:
            adjacency: (n, n) of 0 and 1; `adjacency[i, j]` is whether j may follow i.
            start: the first node; any by default.
            stop: the last node; any by default.

        >>> import ardist as ad
        >>> circle = ad.rules.Automaton.walk([[0, 1, 0], [0, 0, 1], [1, 0, 0]], start=0)
        >>> ad.Factorization(4, ad.families.Categorical(3), rule=circle).enumerate_support()
        tensor([[0, 1, 2, 0]])
        """
        edges = as_tensor(adjacency, "adjacency").cpu()
        if edges.dim() != 2 or edges.shape[0] != edges.shape[1]:
            raise ValueError(f"adjacency: expected a square matrix, got {tuple(edges.shape)}")
        count = edges.shape[0]
        for name, node in (("start", start), ("stop", stop)):
            if node is not None and not 0 <= as_integer(node, name) < count:
                raise ValueError(f"{name}: expected a node from 0 to {count - 1}, got {node}")
        nodes = torch.arange(count, device="cpu")
        is_first = nodes == start if start is not None else nodes >= 0
        # The state is the node, and before the first one it is n.
        reachable = torch.cat((edges != 0, is_first.unsqueeze(0)))
        table = torch.where(reachable, nodes, -1)
        return Automaton(table, range(count) if stop is None else (stop,), count)

    def _ending(self, end: int, pad: int) -> "Automaton":
        """The accepted sequences, followed by `end` and `pad` if they are shorter than an event."""
        count, width = self.table.shape[-2:]
        for name, symbol in (("end", end), ("pad", pad)):
            if not 0 <= as_integer(symbol, name) < width:
                raise ValueError(f"{name}: expected one of 0, ..., {width - 1}, got {symbol}")
        table = torch.cat((self.table, self.table.new_full((1, width), -1)))
        table[:, end] = -1
        table[list(self.accepting), end] = count
        table[count, pad] = count
        # An event without an end has to be accepted as a whole.
        return Automaton(table, (*self.accepting, count), self.initial)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Automaton)
            and (self.accepting, self.initial) == (other.accepting, other.initial)
            and torch.equal(self.table, other.table)
        )

    def __hash__(self) -> int:
        return hash((self.accepting, self.initial, self.table.shape, int(self.table.sum())))

    def __repr__(self) -> str:
        shape = tuple(self.table.shape)
        return f"Automaton(table={shape}, accepting={self.accepting}, initial={self.initial})"

    def bind(self, factorization: Specification, loose: bool = False) -> "Automaton":
        check_finite(self, factorization.layout.distinct)
        width = self.table.shape[-1]
        for family in factorization.layout.distinct:
            count = states_of(family).shape[0]
            if count != width:
                raise ValueError(
                    f"table: expected one next state for each of the {count} states of {family}, "
                    f"got a table of width {width}"
                )
        count = factorization.num_blocks
        if self.table.dim() == 3 and self.table.shape[0] != count:
            raise ValueError(
                f"table: expected one for each of the {count} blocks, got {self.table.shape[0]}"
            )
        feasible = torch.zeros(self.table.shape[-2], dtype=torch.bool)
        feasible[list(self.accepting)] = True
        found: dict[bytes, int] = {}  # the number of a step, by what is feasible after it
        allowed, following, step = list[Tensor](), list[Tensor](), [0] * count
        for position in range(count - 1, -1, -1):
            table = self.table if self.table.dim() == 2 else self.table[position]
            key = feasible.numpy().tobytes() + (
                b"" if table is self.table else table.numpy().tobytes()
            )
            if key not in found:
                found[key] = len(allowed)
                allowed.append((table >= 0) & feasible[table.clamp(min=0)])
                first = table.gather(1, allowed[-1].int().argmax(-1, keepdim=True)).clamp(min=0)
                following.append(torch.where(allowed[-1], table, first))
            step[position] = found[key]
            feasible = allowed[step[position]].any(-1)
        if not feasible[self.initial] and not loose:
            raise ValueError(
                f"rule: expected an automaton that accepts events of {count} blocks, got {self!r}: "
                f"no event follows it"
            )
        return bound(
            self,
            _allowed=torch.stack(allowed),
            _next=torch.stack(following),
            _step=torch.tensor(step),
        )

    # The state is the state of the automaton, (rows,) int64.

    def start(self, rows: int, context: Tensor | None, reference: Tensor) -> Tensor:
        return torch.full((rows,), self.initial, device=reference.device)

    def allowed(self, state: State, at: At) -> Tensor:
        allowed = self._allowed.to(state.device)
        return allowed[self._step[at.positions.cpu()].to(state.device), state]

    def advance(self, state: State, value: Tensor, at: At) -> Tensor:
        step = self._step[at.positions.cpu()].to(state.device).squeeze(-1)
        return self._next.to(state.device)[step, state, value.long()]

    def scan(self, state: State, values: Tensor, at: At) -> tuple[Tensor, Tensor]:
        steps, _, width = self._next.shape
        # All tables as one, (steps * S * K,). An entry is the offset of the next state's entries.
        places = (self._next * width).flatten().to(state.device)
        offset = self._step[at.positions.cpu()].to(state.device) * (self._next.numel() // steps)
        entries = (values.long() + offset).T.contiguous()  # (n, rows)
        place, before = state * width, list[Tensor]()
        for entry in entries.unbind(0):
            before.append(place)
            place = places.index_select(0, place + entry)
        return torch.stack(before, 1) // width, place // width

    def num_events(self, factorization: Specification) -> int:
        counts = np.zeros(self.table.shape[-2], dtype=object)
        counts[self.initial] = 1
        edges = [self._edges(step) for step in range(self._next.shape[0])]
        for step in self._step.tolist():
            source, target, number = edges[step]
            before, counts = counts, np.zeros_like(counts)
            np.add.at(counts, target, before[source] * number)
        return int(counts[list(self.accepting)].sum())

    def _edges(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The pairs of states before and after a step, and how many values join each pair."""
        source, value = self._allowed[step].nonzero().unbind(1)
        count = self._next.shape[1]
        pairs = source * count + self._next[step][source, value]
        pairs, number = pairs.unique(return_counts=True)
        return (pairs // count).numpy(), (pairs % count).numpy(), number.numpy().astype(object)

    def as_automaton(self, factorization: Specification) -> "Automaton":
        return self


def product(first: Automaton, second: Automaton) -> Automaton:
    """The automaton that accepts the events that both accept."""
    one, two = torch.broadcast_tensors(first.table.unsqueeze(-2), second.table.unsqueeze(-3))
    count = second.table.shape[-2]
    both = torch.where((one >= 0) & (two >= 0), one * count + two, -1)  # (..., S1, S2, K)
    accepting = [a * count + b for a in first.accepting for b in second.accepting]
    return Automaton(both.flatten(-3, -2), accepting, first.initial * count + second.initial)
