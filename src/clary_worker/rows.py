"""Tables to the matrix that a tabular model takes: rank, column count, names, sparse width; wrong ones refused early.

A model that would fail inside its library with a 500 and a stack of frames answers 400 with the column that is wrong.
"""

from __future__ import annotations

from typing import Any, List, Optional, Sequence

from .contract import BadRequest, Table


def matrix(table: Table, features: Optional[int], names: Optional[Sequence[str]] = None) -> Any:
    """A rank-2 array of (rows, features), numeric or object. Sparse rows stay sparse.

    `features` and `names` are the model's own, None when it does not say.

    Raises: BadRequest when the columns cannot fit.
    """
    if hasattr(table.rows, "tocsr"):
        return sparse(table.rows, features)
    rows = ranked(table, features, names)
    return rows if features is None else checked(rows, features)


def ranked(table: Table, features: Optional[int], names: Optional[Sequence[str]] = None) -> Any:
    """The dense rows with rank 2 and any column count. Named columns are put into the model's order; extra ones are
    left out, as a data frame's would be. Raises: BadRequest when a named column is missing or short."""
    if table.inputs is not None:
        return _named(table, names)
    rows = table.rows
    if table.columns is not None and names is not None and set(names) <= set(table.columns):
        if list(names) != table.columns:
            rows = rows[:, [table.columns.index(name) for name in names]]
        return rows
    if rows.ndim == 1:
        # A flat list is one row of the model's columns, unless its items are rows: JSON Lines of single values,
        # or a model of one column.
        items = features == 1 or (features is None and table.form in ("lines", "instances"))
        return rows.reshape(-1, 1) if items else rows.reshape(1, -1)
    return rows.reshape(rows.shape[0], -1) if rows.ndim > 2 else rows


def checked(rows: Any, features: int) -> Any:
    """The rows. Raises: BadRequest when they do not have `features` columns."""
    if rows.shape[1] != features:
        raise BadRequest("The model takes %d columns, the rows sent have %d." % (features, rows.shape[1]))
    return rows


def checked_indices(rows: Any, features: int) -> None:
    """Raises: BadRequest naming the largest index of sparse rows when it does not fit."""
    if len(rows.indices) and int(rows.indices.max()) >= features:
        raise BadRequest(
            "The model takes %d columns (0 to %d); a row sent has the index %d."
            % (features, features - 1, int(rows.indices.max()))
        )


def sparse(rows: Any, features: Optional[int]) -> Any:
    """The CSR rows with exactly `features` columns. Indices 1..n for a model of n columns are shifted to 0..n-1.

    Raises: BadRequest naming the largest index when it does not fit.
    """
    from scipy.sparse import csr_matrix

    rows = rows.tocsr()
    if features is None or rows.shape[1] == features:
        return rows
    indices = rows.indices
    if rows.shape[1] == features + 1 and len(indices) and int(indices.min()) >= 1:
        indices = indices - 1
    else:
        checked_indices(rows, features)
    return csr_matrix((rows.data, indices, rows.indptr), shape=(rows.shape[0], features))


def numeric(rows: Any) -> Any:
    """The rows as numbers. Raises: BadRequest naming the first cell that is none."""
    import numpy as np

    if getattr(rows, "dtype", None) is None or rows.dtype.kind != "O":
        return rows
    try:
        return rows.astype(np.float64)
    except (ValueError, TypeError):
        for number, row in enumerate(rows.reshape(rows.shape[0], -1), 1):
            for column, cell in enumerate(row, 1):
                try:
                    float(cell)
                except (ValueError, TypeError):
                    hint = "; send `text/csv; header=present` if this is the header" if number == 1 else ""
                    raise BadRequest(
                        "Row %d, column %d is not a number: %r%s." % (number, column, cell, hint)
                    ) from None
        raise


def _named(table: Table, names: Optional[Sequence[str]]) -> Any:
    import numpy as np

    inputs = table.inputs or {}
    order: List[str] = list(names) if names is not None else list(inputs)
    missing = [name for name in order if name not in inputs]
    if missing:
        raise BadRequest("The columns %s are missing; the model takes %s." % (", ".join(missing), ", ".join(order)))
    columns = [np.asarray(inputs[name]) for name in order]
    sizes = {column.shape for column in columns}
    if len(sizes) != 1 or columns[0].ndim != 1:
        raise BadRequest("The named columns differ in length: send one value a row in each.")
    if all(column.dtype.kind in "fiub" for column in columns):
        return np.column_stack(columns)
    rows: Any = np.empty((len(columns[0]), len(columns)), dtype=object)
    for place, column in enumerate(columns):
        rows[:, place] = column
    return rows
