"""text/libsvm bodies to sparse rows, as AWS's XGBoost container reads them: `[label] index:value ...` a line.

Indices stand as written (the container does not shift them, and XGBoost's own reader counts from 0 by default); a
predictor whose model counts from 0 and sees indices 1..n may shift by one (`rows.sparse`). A label, a `qid:` and a
comment after # are read past. Needs scipy, which every framework that takes sparse rows brings along.
"""

from __future__ import annotations

from typing import Any, List

from .contract import BadRequest


def parse(body: bytes) -> Any:
    """A float32 CSR matrix of (lines, largest index + 1): float32 is what XGBoost keeps.

    Raises: BadRequest naming the line and the token that is not index:value.
    """
    import numpy as np
    from scipy.sparse import csr_matrix

    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest("The libsvm body is not UTF-8 text: byte %d is wrong." % error.start) from None
    indices: List[int] = []
    values: List[float] = []
    ends = [0]
    for number, line in enumerate(text.splitlines(), 1):
        tokens = line.partition("#")[0].split()
        if not tokens:
            continue
        for position, token in enumerate(tokens):
            index, colon, value = token.partition(":")
            if (not colon and position == 0) or index == "qid":
                continue
            try:
                place = int(index)
                if not colon or place < 0:
                    raise ValueError(token)
                values.append(float(value))
                indices.append(place)
            except ValueError:
                raise BadRequest(
                    "The libsvm body is wrong at line %d: %r is not index:value." % (number, token)
                ) from None
        ends.append(len(indices))
    if len(ends) == 1:
        raise BadRequest("The libsvm body holds no row; send `label index:value ...`, one line for each row.")
    if indices and max(indices) >= 2**31 - 1:
        raise BadRequest("The libsvm body has the index %d; the largest that is taken is 2147483646." % max(indices))
    width = max(indices) + 1 if indices else 1
    matrix = csr_matrix(
        (
            np.array(values, dtype=np.float32),
            np.array(indices, dtype=np.int32),
            np.array(ends, dtype=np.int32),
        ),
        shape=(len(ends) - 1, width),
    )
    matrix.sort_indices()
    return matrix
