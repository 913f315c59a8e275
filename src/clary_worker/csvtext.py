"""CSV bodies to arrays: two exact fast paths for numbers, and the csv module for everything else.

The fast path of small bodies deletes every byte that a plain number may hold and looks at what is left: if that is the
same run of commas on each line, the body is a numeric matrix without quotes, text or ragged rows, at the cost of one C
call. Large ones go to numpy.loadtxt, which looks at all that by itself. Empty cells, words, quotes and malformed
numbers fall through to the slow path, which knows lines and columns and so can say where a body is wrong. All three
give the nearest double to the text (as Python's float does).

Features only: text/csv carries no label at hosting, so `label_size` is read past, as AWS's hosting containers do.
"""

from __future__ import annotations

import csv
import io
from typing import Any, Dict, List, Optional, Tuple

from .contract import BadRequest

_NUMBER_BYTES = b"0123456789.+-eE \t"
_SMALL_CELLS = 64  # up to here float() a cell beats numpy's parser call (1.5 against 1.8 us for four cells)
_MANY_BYTES = 2048  # from here on loadtxt, at 40 ns a cell, has made up for its start of 4 us; fromstring takes 70
_LOADTXT_IN_C = (1, 23)  # the numpy whose loadtxt is no Python any more
_MISSING = frozenset(("", "nan", "NaN", "NAN", "null", "None", "NA", "N/A"))


def numbers(body: bytes) -> Any:
    """A (rows, columns) float64 array, or None when the body is not plainly numeric."""
    import numpy as np

    if b"\r" in body:
        body = body.replace(b"\r\n", b"\n")
    if len(body) >= _MANY_BYTES and tuple(map(int, np.__version__.split(".")[:2])) >= _LOADTXT_IN_C:
        return _many_numbers(body)
    body = body.strip(b"\n")
    left = body.translate(None, _NUMBER_BYTES)
    end = left.find(b"\n")
    if end < 0:
        if left.count(b",") != len(left):
            return None
        rows, columns = 1, len(left) + 1
    else:
        columns = end + 1
        rows, rest = divmod(len(left) + 1, columns)
        if rest or left + b"\n" != left[:columns] * rows or left.count(b",") != rows * (columns - 1):
            return None
        body = body.replace(b"\n", b",")
    cells = rows * columns
    try:
        if cells <= _SMALL_CELLS:
            flat = np.array([float(cell) for cell in body.split(b",")])
        else:
            flat = np.fromstring(body, sep=",")
    except (ValueError, DeprecationWarning):  # numpy before 2.3 warns where later ones raise
        return None
    if flat.size != cells:
        return None
    return flat.reshape(rows, columns)


def _many_numbers(body: bytes) -> Any:
    import numpy as np

    if not body.isascii() or body.isspace():  # it reads Latin-1, where other bytes are blanks; and warns of no data
        return None
    try:
        return np.loadtxt(io.BytesIO(body), delimiter=",", comments=None, ndmin=2)
    except ValueError:
        return None


def parse(body: bytes, parameters: Dict[str, str]) -> Tuple[Any, Optional[List[str]]]:
    """The rows (float64, or object where a column holds text) and the header's names, if `header=present`.

    Empty cells are missing values (nan). In a column with any text, every cell stays text, missing ones nan.

    Raises: BadRequest naming the line for ragged rows, an empty body, or bytes that are not UTF-8.
    """
    if parameters.get("header") != "present":
        found = numbers(body)
        if found is not None:
            return found, None
    lines = _lines(body)
    names: Optional[List[str]] = None
    if parameters.get("header") == "present" and lines:
        names = [name.strip() for name in lines[0][1]]
        lines = lines[1:]
    if not lines:
        raise BadRequest("The CSV body holds no row; send one line of comma-separated values for each row.")
    width = len(names) if names is not None else len(lines[0][1])
    for number, cells in lines:
        if len(cells) != width:
            first = "the header" if names is not None else "line %d" % lines[0][0]
            raise BadRequest(
                "The CSV body is ragged: line %d has %d columns, %s has %d." % (number, len(cells), first, width)
            )
    return _array([cells for _, cells in lines], width), names


def _lines(body: bytes) -> List[Tuple[int, List[str]]]:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRequest("The CSV body is not UTF-8 text: byte %d is wrong." % error.start) from None
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    try:
        return [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise BadRequest("The CSV body cannot be read at line %d: %s." % (reader.line_num, error)) from None


def _array(lines: List[List[str]], width: int) -> Any:
    import numpy as np

    try:
        return np.array([[_number(cell) for cell in cells] for cells in lines], dtype=np.float64).reshape(-1, width)
    except ValueError:
        pass  # a column of text: decided column by column below
    rows: Any = np.empty((len(lines), width), dtype=object)
    for column in range(width):
        cells = [line[column] for line in lines]
        try:
            rows[:, column] = [_number(cell) for cell in cells]
        except ValueError:
            rows[:, column] = [float("nan") if cell == "" else cell for cell in cells]
    return rows


def _number(cell: str) -> float:
    if cell.strip() in _MISSING:
        return float("nan")
    if "_" in cell:
        raise ValueError(cell)  # float() reads 1_0 as ten; a CSV cell never means that
    return float(cell)
