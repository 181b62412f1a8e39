"""Dates, times, durations and times of day as numbers of seconds, and back."""

import re
from typing import Any

import numpy as np
import pandas as pd

UNITS = {"date": 86_400.0, "time": 1.0, "duration": 1.0, "clock": 1.0}  # in seconds
DAY = 86_400.0
_MOST_NANOSECONDS = 2.0**22  # in seconds; float64 resolves longer durations to microseconds only
_TEXT_OF = {"date": "%Y-%m-%d", "time": "%Y-%m-%d %H:%M:%S", "clock": "%H:%M"}
_EXAMPLES = {
    "date": "dates such as 2024-12-31",
    "time": "dates such as 2024-12-31",
    "duration": "durations such as '1h 30min' or '01:30:00'",
    "clock": "times of day such as 08:30 or 08:30:15",
}
_CURES = {
    "date": "; pandas.to_datetime with format= reads others",
    "time": "; pandas.to_datetime with format= reads others",
    "duration": "; pandas.to_timedelta with unit= reads numbers",
    "clock": "",
}
_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(:([0-5]\d)(\.\d{1,6})?)?")
_ZONE = re.compile(r":\d\d.*(Z|[-+]\d\d(:?\d\d)?)$")  # in the text of a time


def seconds_of(cells: pd.Series, name: str, kind: str, dtype: str) -> np.ndarray:
    """Cells in seconds, float64: since 1970 in UTC, since midnight, or of a duration; or NaN.

    Args:
        cells: the cells of a column. Missing cells give NaN.
        name: the name of the column.
        kind: one of `UNITS`.
        dtype: the dtype of the column. Text without a time zone is in the time zone of the column.

    Raises:
        ValueError: if a cell is not of this kind, or has a time zone and the column has none, or
            has none, is not text, and the column has one.
    """
    if isinstance(cells.dtype, pd.CategoricalDtype):
        cells = cells.astype(object)
    is_missing = cells.isna().to_numpy()
    present = cells[~is_missing]
    if pd.api.types.is_numeric_dtype(present.infer_objects().dtype) and len(present):
        raise ValueError(
            f"column {name!r}: expected {_EXAMPLES[kind]}, got {present.iloc[0]}{_CURES[kind]}"
        )
    try:
        if kind == "clock":
            found = clock_of(cells)
        elif kind == "duration":
            found = pd.to_timedelta(cells, errors="coerce")
        else:
            found = _in_utc(cells, name, dtype)
    except TypeError:  # dates are no durations
        found = pd.Series(pd.NaT, cells.index, dtype="timedelta64[us]")
    odd = found.isna().to_numpy() & ~is_missing
    if odd.any():
        raise ValueError(
            f"column {name!r}: expected {_EXAMPLES[kind]}, got {cells[odd].iloc[0]!r} in "
            f"{odd.sum()} of {len(cells)} cells{_CURES[kind]}"
        )
    if kind == "clock":
        return found.to_numpy(dtype=float)
    if kind == "duration":
        ticks = "ns" if "[ns]" in str(found.dtype) else "us"  # Arrow has types of its own
        return found.astype(f"timedelta64[{ticks}]").to_numpy() / np.timedelta64(1, "s")
    numbers = found.astype("datetime64[us]").to_numpy().astype(np.int64) / 1e6
    numbers[is_missing] = np.nan
    return numbers


def as_dates(cells: pd.Series) -> pd.Series:
    """Dates, and text in the format of ISO 8601, in UTC; NaT for other cells."""
    return pd.to_datetime(cells, utc=True, format="ISO8601", errors="coerce")


def clock_of(cells: pd.Series) -> pd.Series:
    """The seconds since midnight of texts hh:mm or hh:mm:ss and of `datetime.time`, or NaN."""
    parts = cells.astype(object).where(cells.notna(), "").map(str).map(_CLOCK.fullmatch)
    return parts.map(
        lambda found: (
            np.nan
            if found is None
            else 3600.0 * int(found[1])
            + 60 * int(found[2])
            + float(found[3][1:] if found[3] else 0)
        )
    ).astype(float)


def _in_utc(cells: pd.Series, name: str, dtype: str) -> pd.Series:
    """Moments in UTC, as a dtype without a zone; NaT for other cells.

    In a column with a zone, text without a zone is local time, as pandas reads it.
    """
    moments = as_dates(cells).dt.tz_localize(None)
    if not dtype.startswith("datetime64"):
        return moments  # text, which has a zone of its own or is in UTC
    own: Any = pd.api.types.pandas_dtype(dtype)
    zone = getattr(own, "tz", None)
    text = cells.map(lambda cell: isinstance(cell, str)).to_numpy(dtype=bool)
    has_zone = np.array([_has_zone(cell) for cell in cells], dtype=bool)
    odd = (has_zone if zone is None else ~has_zone & ~text) & moments.notna().to_numpy()
    if odd.any():
        wanted = "times without a zone" if zone is None else f"times of zone {zone}"
        cure = "tz_localize(None) drops one" if zone is None else "tz_localize adds one"
        raise ValueError(
            f"column {name!r}: expected {wanted}, as in fit, got {str(cells[odd].iloc[0])!r} "
            f"{'without' if zone else 'with'} a zone; Series.dt.{cure}"
        )
    if zone is None:
        return moments
    local = pd.Series(text & ~has_zone, index=cells.index)
    shifted = moments.where(local).dt.tz_localize(zone, ambiguous=True, nonexistent="shift_forward")
    return moments.where(~local, shifted.dt.tz_convert("UTC").dt.tz_localize(None))


def _has_zone(cell: Any) -> bool:
    if isinstance(cell, str):
        return _ZONE.search(cell) is not None
    return getattr(cell, "tzinfo", None) is not None


def from_seconds(numbers: np.ndarray, name: str, kind: str, dtype: str, unit: float) -> pd.Series:
    """The inverse of `seconds_of`, in a dtype. Text has the precision of the unit."""
    is_missing = ~np.isfinite(numbers)
    numbers = np.where(is_missing, 0, numbers)
    ends = (np.trunc(end / unit) * unit for end in _range_of(dtype))  # dates have no time
    numbers = numbers % DAY if kind == "clock" else numbers.clip(*ends)
    if kind == "duration":
        is_fine = "[ns" in dtype and np.abs(numbers).max(initial=0.0) < _MOST_NANOSECONDS
        places, ticks = (9, "ns") if is_fine else (6, "us")
        cells = pd.Series((numbers * 10.0**places).round().astype(f"timedelta64[{ticks}]"))
        cells = (cells.astype(str) if dtype == "object" else cells).rename(name)
        return cells.astype(dtype).mask(is_missing)
    moments = pd.Series((numbers * 1e6).round().astype("datetime64[us]"), name=name)
    if dtype == "time":
        return moments.dt.time.mask(is_missing)
    own: Any
    if dtype.startswith("datetime64"):
        own = pd.api.types.pandas_dtype(dtype)
        if isinstance(own, pd.DatetimeTZDtype):
            moments = moments.dt.tz_localize("UTC")
        return moments.astype(own).mask(is_missing)
    if dtype.startswith(("timestamp", "date32")):  # of Arrow
        own = pd.api.types.pandas_dtype(dtype)
        is_local = getattr(own.pyarrow_dtype, "tz", None) is None
        moments = moments if is_local else moments.dt.tz_localize("UTC")
        return moments.astype(own).mask(is_missing)
    text = moments.dt.strftime(_TEXT_OF[kind] + ":%S" * (kind == "clock" and unit < 60))
    return text.astype(dtype).mask(is_missing)


def unit_of(seconds: np.ndarray, kind: str) -> float:
    """The unit of a column in seconds: 60 if all times of day are whole minutes."""
    return 60.0 if kind == "clock" and not (seconds % 60).any() else UNITS[kind]


def _range_of(dtype: str) -> tuple[float, float]:
    """The least and the largest number of seconds that a dtype holds."""
    has_offset = "," in dtype and "UTC" not in dtype
    least, most = (
        (-9_223_372_036.0, 9_223_372_036.0)
        if "[ns" in dtype
        else (-62_135_596_800.0, 253_402_300_799.0)  # years 1 to 9999
    )
    return least + has_offset * DAY, most - has_offset * DAY
