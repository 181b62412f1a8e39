"""Rows of a table as events of a factorization."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ardist.factorization import Factorization
from ardist.families import Bernoulli, Family
from ardist.tables.columns import Column
from ardist.tables.schema import Schema


@dataclass(frozen=True)
class Events:
    """The blocks of a row: flags of missing cells, for some columns, then the cell of each column.

    Attributes:
        schema: the columns.
        has_flags: whether columns with missing cells have a block that says if the cell is missing.
        kept: the names of the columns that are read and written; cells of others are unknown.
    """

    schema: Schema
    has_flags: bool
    kept: tuple[str, ...]

    @cached_property
    def flagged(self) -> list[int]:
        """The places of the columns with a block that says whether the cell is missing."""
        columns = enumerate(self.schema.columns)
        return [place for place, column in columns if self.has_flags and column.missing > 0]

    @cached_property
    def factorization(self) -> Factorization:
        """The blocks in their order, with names."""
        columns = self.schema.columns
        names = [column.name for column in columns]
        flags = {}
        for place in self.flagged:
            name = f"{names[place]} is missing"
            while name in names:
                name = f"({name})"
            flags[name] = Bernoulli()
        return Factorization.columns({**flags, **{c.name: c.family for c in columns}})

    @cached_property
    def drawn(self) -> Factorization:
        """The factorization with the families from which blocks are drawn."""
        return self._with(column.drawn for column in self.schema.columns)

    @cached_property
    def listed(self) -> Factorization:
        """The factorization with the families of listed values."""
        return self._with(column.listed for column in self.schema.columns)

    def _with(self, families: Iterable[Family]) -> Factorization:
        flags = (Bernoulli() for _ in self.flagged)
        return self.factorization.with_families([*flags, *families])

    def place(self, name: str) -> int:
        """The place in the schema of a column that is kept.

        Raises:
            ValueError: if no such column has this name.
        """
        if name not in self.kept:
            reason = self.schema.left_out.get(name) if isinstance(name, str) else None
            why = "" if reason is None else f", which is left out, since {reason}"
            raise ValueError(f"column: expected one of {list(self.kept)}, got {name!r}{why}")
        return self.schema.names.index(name)

    def column(self, name: str) -> Column:
        """A column that is kept."""
        return self.schema.columns[self.place(name)]

    def block(self, name: str) -> int:
        """The block of the cells of a column."""
        return len(self.flagged) + self.place(name)

    def flag(self, name: str) -> int | None:
        """The block that says whether the cell of a column is missing, if there is one."""
        place = self.place(name)
        return self.flagged.index(place) if place in self.flagged else None

    def encode(self, frame: pd.DataFrame, *, is_whole: bool) -> Tensor:
        """The rows of a table, (rows, blocks), NaN if unknown.

        Args:
            frame: a table, which may lack columns.
            is_whole: whether missing cells are known to be missing, and impossible cells have a
                score. Otherwise cells are evidence.

        Raises:
            ValueError: if a cell is impossible in its column.
        """
        codes = self.schema.encode(frame[[name for name in frame.columns if name in self.kept]])
        for name in self.kept if not is_whole else ():
            if name in frame:
                place = self.place(name)
                self.schema.columns[place].check_evidence(frame[name], codes[:, place])
        flags = np.isnan(codes[:, self.flagged]).astype(float)
        if not is_whole:
            flags[flags > 0] = math.nan
        names = self.schema.names
        flags[:, [names[place] not in self.kept for place in self.flagged]] = math.nan
        return torch.from_numpy(np.concatenate((flags, codes), 1)).float()

    def decode(self, rows: Tensor) -> pd.DataFrame:
        """The table of rows. A cell is missing if its flag says so."""
        values = rows.double().numpy()
        flags, codes = np.split(values, [len(self.flagged)], 1)
        codes[:, self.flagged] = np.where(flags > 0, math.nan, codes[:, self.flagged])
        return self.schema.decode(codes)[list(self.kept)]
