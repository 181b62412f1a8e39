"""The columns of a table, which encode whole tables as codes, and decode them."""

import warnings
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from ardist.shapes import described
from ardist.tables.columns import Column, Levels, Numbers
from ardist.tables.frames import as_frame
from ardist.tables.proposals import propose


@dataclass(frozen=True)
class Schema:
    """The columns of a table: how each is modeled, or why it is left out. It prints as a table.

    Attributes:
        columns: the columns that are modeled.
        left_out: the reasons why the other columns are left out, by name.

    >>> import pandas as pd
    >>> from ardist.tables import Schema
    >>> jobs = ["nurse", "cook", None, "cook"]
    >>> table = pd.DataFrame({"age": [31, 45, 31, 60] * 200, "job": jobs * 200})
    >>> Schema.of(table)
    column  kind      missing  values
    age     discrete       0%  30 numbers, 31 to 60
    job     category      25%  2 levels: cook, nurse
    """

    columns: tuple[Column, ...]
    left_out: dict[str, str]

    @staticmethod
    def of(data: Any, declared: Mapping[str, Any] | None = None) -> "Schema":
        """Proposes the schema of a table from its cells.

        Args:
            data: a table; see `TableDensity.fit`.
            declared: kinds, lists of ordered levels or columns by name, in place of proposals.

        Raises:
            ValueError: if a column cannot be modeled, or all are left out.
        """
        frame = as_frame(data)
        declared = {} if declared is None else declared
        if not isinstance(declared, Mapping):
            raise ValueError(
                f"columns: expected a dict of kinds by name, got {described(declared)}"
            )
        if unknown := sorted(set(declared) - set(frame.columns), key=str):
            raise ValueError(f"columns: expected names of {list(frame.columns)}, got {unknown}")
        columns, left_out = [], {}
        for name in frame.columns:
            found = propose(frame[name], declared.get(name))
            if isinstance(found, Column):
                columns.append(found)
                continue
            left_out[name] = found.reason
            if name not in declared:
                warnings.warn(f"column {name!r}: left out, since {found.reason}", stacklevel=2)
        if not columns:
            raise ValueError(f"X: expected a column that can be modeled, got {left_out}")
        return Schema(tuple(columns), left_out)

    @property
    def names(self) -> list[str]:
        """The names of the columns that are modeled."""
        return [column.name for column in self.columns]

    @property
    def all_names(self) -> list[str]:
        """The names of the columns that are modeled, then of the columns that are left out."""
        return [*self.names, *self.left_out]

    def part(self, names: Collection[str]) -> "Schema":
        """The schema of the columns with these names."""
        columns = tuple(column for column in self.columns if column.name in names)
        return Schema(columns, {n: reason for n, reason in self.left_out.items() if n in names})

    def encode(self, frame: pd.DataFrame) -> np.ndarray:
        """The codes of a table, (rows, columns) float64; NaN for cells and columns that are absent.

        Raises:
            ValueError: if a cell is impossible in its column.
        """
        codes = np.full((len(frame), len(self.columns)), np.nan)
        for place, column in enumerate(self.columns):
            if column.name not in frame:
                continue
            cells = frame[column.name]
            codes[:, place] = column.encode(cells)
            if isinstance(column, Levels):
                column.warn_of_unseen(cells)
        return codes

    def decode(self, codes: np.ndarray) -> pd.DataFrame:
        """The table of codes (rows, columns)."""
        cells = zip(self.columns, codes.T, strict=True)
        return pd.DataFrame({column.name: column.decode(part) for column, part in cells})

    def to_dict(self) -> dict[str, Any]:
        """The schema as lists, dicts, texts and numbers, for JSON."""
        columns = [{"class": type(c).__name__, **asdict(c)} for c in self.columns]
        return {"columns": columns, "left_out": self.left_out}

    @staticmethod
    def from_dict(entries: Mapping[str, Any]) -> "Schema":
        """The inverse of `to_dict`."""
        columns = tuple(_column(dict(entry)) for entry in entries["columns"])
        return Schema(columns, dict(entries["left_out"]))

    def __repr__(self) -> str:
        rows = [("column", "kind", "missing", "values")]
        for column in self.columns:
            rows.append((column.name, column.kind, f"{column.missing:.0%}", column.describe()))
        rows += [(name, "left out", "", reason) for name, reason in self.left_out.items()]
        widths = [max(len(row[place]) for row in rows) for place in range(3)]
        return "\n".join(
            f"{name:{widths[0]}}  {kind:{widths[1]}}  {share:>{widths[2]}}  {values}".rstrip()
            for name, kind, share, values in rows
        )


def _column(entry: dict[str, Any]) -> Column:
    classes = {"Levels": Levels, "Numbers": Numbers}
    cls = classes[entry.pop("class")]
    return cls(**{key: tuple(x) if isinstance(x, list) else x for key, x in entry.items()})
