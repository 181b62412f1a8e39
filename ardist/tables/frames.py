"""Tables of any library as data frames of pandas."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy.sparse import issparse
from sklearn.utils import check_array
from torch import Tensor

from ardist.shapes import as_array, described, is_sequence

_ARRAYS = Tensor, np.ma.MaskedArray  # which pandas and scikit-learn do not read


def as_frame(data: Any, name: str = "X") -> pd.DataFrame:
    """A table as a data frame whose column names are strings without duplicates.

    Args:
        data: a frame of pandas, a table of polars, pyarrow or another library with the Arrow
            interface, a dict of columns or of cells (one row), a list of dicts of cells, or an
            array (rows, columns), whose columns are named x0, x1, ...
        name: the name of the argument, for errors.

    Raises:
        ValueError: if the data are not a table, or two columns have the same name.
    """
    if isinstance(data, pd.DataFrame):
        frame = data
    elif isinstance(data, Mapping) and not issparse(data):  # a sparse matrix may be a dict
        frame = _from_dict(data, name)
    elif is_records(data):
        frame = pd.DataFrame(list(data))
    elif isinstance(data, pd.Series):
        raise ValueError(
            f"{name}: expected a data frame, got a Series; to_frame() makes one of a column, and "
            f"to_dict() a row"
        )
    elif hasattr(data, "collect"):
        raise ValueError(
            f"{name}: expected a data frame, got a {type(data).__name__}; collect() makes one"
        )
    elif hasattr(data, "__arrow_c_stream__"):
        frame = pa.table(data).to_pandas()
    elif isinstance(data, str | bytes) or data is None:
        raise ValueError(
            f"{name}: expected a data frame, a dict of columns or an array, got {described(data)}; "
            f"pandas.read_csv and pandas.read_parquet read files"
        )
    elif _ndim(data) != 2:
        raise ValueError(
            f"{name}: expected a data frame, a dict of columns or an array (rows, columns), got "
            f"{described(data)}"
        )
    else:
        data = np.asarray(data, object) if is_sequence(data) else data  # may mix text and numbers
        data = as_array(data) if isinstance(data, _ARRAYS) else data
        array = check_array(
            data, dtype=None, ensure_all_finite=False, input_name=name, ensure_min_samples=0
        )
        frame = pd.DataFrame(array, columns=[f"x{i}" for i in range(array.shape[1])])
        frame = frame.infer_objects() if array.dtype == object else frame
    names = frame.columns.map(str)
    if not names.is_unique:
        twice = sorted(set(names[names.duplicated()]))
        raise ValueError(f"{name}: expected different names of columns, got {twice} twice")
    frame = frame.set_axis(names, axis=1)
    dtypes = {column: _plain(dtype) for column, dtype in frame.dtypes.items()}
    changed = {column: dtype for column, dtype in dtypes.items() if dtype is not None}
    return frame.astype(changed) if changed else frame


def _plain(dtype: Any) -> Any:
    """The dtype in place of one that its name does not restore or that cannot hold draws."""
    if isinstance(dtype, pd.SparseDtype):
        return dtype.subtype
    if isinstance(dtype, pd.DatetimeTZDtype) and "(" in str(dtype.tz):  # a zone of dateutil
        return pd.DatetimeTZDtype(dtype.unit, "UTC")
    if str(dtype).startswith("dictionary<"):  # of Arrow, as are decimals
        return pd.ArrowDtype(dtype.pyarrow_dtype.value_type)
    return "double[pyarrow]" if str(dtype).startswith("decimal") else None


def is_records(data: Any) -> bool:
    """Whether a table is a list of dicts of cells, one for each row."""
    return is_sequence(data) and len(data) > 0 and all(isinstance(row, Mapping) for row in data)


def scalar(cell: Any) -> Any:
    """A cell, taken out of an array or tensor without dimensions."""
    return cell.item() if isinstance(cell, np.ndarray | Tensor) and cell.ndim == 0 else cell


def _ndim(data: Any) -> int:
    """The number of dimensions of an array, or of lists in lists; 0 if their lengths differ."""
    try:
        return np.ndim(data)
    except ValueError:
        return 0


def _from_dict(columns: Mapping[Any, Any], name: str) -> pd.DataFrame:
    arrays = ((key, as_array(x) if isinstance(x, _ARRAYS) else x) for key, x in columns.items())
    columns = {key: scalar(column) for key, column in arrays}
    if all(np.ndim(column) == 0 for column in columns.values()):
        columns = {key: [cell] for key, cell in columns.items()}
    try:
        return pd.DataFrame(columns)
    except ValueError as error:
        raise ValueError(f"{name}: expected columns of one length, got {error}") from error
