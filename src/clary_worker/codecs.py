"""Bodies to tables and predictions to bodies.

What is chosen where AWS's containers differ among themselves, and why:

| case | answer | as |
| --- | --- | --- |
| Accept absent or */* | the family that came in; libsvm gives csv | XGBoost container; clients get what they speak |
| same, SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT | that type | every toolkit |
| XGBoost CSV, a value a row | one line with commas, no line end | XGBoost container; CSVDeserializer reads it |
| the same under SAGEMAKER_BATCH | one line a row | XGBoost container |
| XGBoost CSV, several values a row | one line a row | the container prints Python lists: no CSV reader takes them |
| CSV, everything else | one line a row, each ended | numpy.savetxt in sagemaker-inference; texts are quoted |
| JSON for `instances` | {"predictions": [...]} | TensorFlow Serving |
| the same, boosters | {"predictions": [{"score": x}]} | the built-in XGBoost |
| JSON for `inputs` | {"outputs": ...} | TensorFlow Serving's columnar shape |
| JSON for anything else | the bare array | sagemaker-inference |
| JSON Lines | one prediction a line; boosters {"score": x} | the built-in XGBoost |
| npy of texts | numpy's unicode dtype, never a pickle | NumpyDeserializer reads without pickle |
| several named outputs (ONNX) | JSON and npz by name; csv and npy the first | |
| float32 as text | the text of its double | list(array) in both containers |
| XGBoost with SAGEMAKER_INFERENCE_OUTPUT | records of the keys asked for | XGBoost container |
| nan in JSON | NaN | Python's json in both containers |
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from typing import Any, Dict, List, NamedTuple

from . import csvtext, jsonrows, libsvm, media, recordio
from .contract import (
    CSV,
    JSON,
    JSON_LINES,
    LIBSVM,
    NPY,
    NPZ,
    RECORDIO,
    BadRequest,
    NotAcceptable,
    Table,
    UnsupportedMedia,
)

READ = (CSV, JSON, JSON_LINES, NPY, NPZ, LIBSVM, RECORDIO)
WRITTEN = (CSV, JSON, JSON_LINES, NPY, NPZ, RECORDIO)
_ANSWERS = {LIBSVM: CSV}  # types that are read and not written, and what answers them


class Style(NamedTuple):
    """How a family of models prints: the two ways in which the containers differ."""

    csv_one_line: bool = False  # XGBoost's one line for all rows
    scores: bool = False  # {"score": x} in JSON
    records: bool = False  # a prediction is a list of {key: value}: XGBoost's selected outputs


PLAIN = Style()


def decode(body: bytes, content_type: str) -> Table:
    """A table from a body; an absent content type is read as CSV, the XGBoost container's default.

    Raises: UnsupportedMedia naming what is read; BadRequest saying where the body is wrong.
    """
    kind = media.parse(content_type) if content_type else media.parse(CSV)
    known = kind.known
    if not known:
        raise UnsupportedMedia(
            'The content type "%s" is not read here; send one of: %s.' % (content_type, ", ".join(READ))
        )
    if not body:
        raise BadRequest("The request body is empty; send at least one row as %s." % known)
    if known == CSV:
        rows, names = csvtext.parse(body, kind.parameters)
        return Table(rows, "csv", columns=names)
    if known == JSON:
        return jsonrows.parse(body)
    if known == JSON_LINES:
        return jsonrows.parse_lines(body)
    if known == NPY:
        return Table(_npy(body), "npy")
    if known == NPZ:
        return _npz(body)
    if known == LIBSVM:
        return Table(libsvm.parse(body), "libsvm")
    return Table(recordio.parse(body), "recordio")


def _npy(body: bytes) -> Any:
    import numpy as np

    try:
        found = np.load(io.BytesIO(body), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise BadRequest("The npy body cannot be read: %s." % str(error).rstrip(".")) from None
    if not isinstance(found, np.ndarray):
        raise BadRequest("The npy body is an archive; send it as %s." % NPZ)
    if found.dtype.kind == "U":
        return found.astype(object)
    if found.dtype.kind not in "fiub":
        raise BadRequest("The npy body holds %s; numbers and texts are taken." % found.dtype)
    return found.reshape(1) if found.ndim == 0 else found


def _npz(body: bytes) -> Table:
    """A scipy sparse matrix (save_npz), a single array, or named inputs."""
    import numpy as np

    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, OSError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise BadRequest("The npz body cannot be read: %s." % str(error).rstrip(".")) from None
    if {"indices", "indptr", "data", "shape"} <= set(arrays):
        from scipy.sparse import csr_matrix

        try:
            matrix = csr_matrix(
                (arrays["data"], arrays["indices"], arrays["indptr"]), shape=tuple(int(n) for n in arrays["shape"])
            )
            matrix.check_format(full_check=True)
        except (ValueError, TypeError) as error:
            raise BadRequest("The npz body is no valid sparse matrix: %s." % str(error).rstrip(".")) from None
        return Table(matrix, "npz")
    if not arrays:
        raise BadRequest("The npz body holds no array.")
    if len(arrays) == 1:
        return Table(next(iter(arrays.values())), "npz")
    return Table(None, "npz", inputs=arrays)


def answer_type(accept: str, content_type: str, default_accept: str = "") -> str:
    """The type of the answer. Raises: NotAcceptable naming what can be written."""
    if accept in ("", "*/*"):
        accept = default_accept
    came = media.parse(content_type).known if content_type else CSV
    chosen = media.choose(accept, WRITTEN, _ANSWERS.get(came, came) or JSON)
    if not chosen:
        raise NotAcceptable('No type in Accept "%s" can be written; ask for one of: %s.' % (accept, ", ".join(WRITTEN)))
    return chosen


def encode(prediction: Any, kind: str, form: str = "", style: Style = PLAIN, transform: bool = False) -> bytes:
    """The body of `kind` (one of WRITTEN) for a prediction with one item a row.

    `prediction` is an array or anything that numpy makes one of, or {output name: array}. `form` is the request's.
    """
    if style.records:
        return _records(prediction, kind, transform)
    if kind == JSON:
        return _json(prediction, form, style)
    if isinstance(prediction, dict):
        if kind == NPZ:
            return _save_npz(prediction)
        prediction = next(iter(prediction.values()))
    rows = _rows(prediction)
    if kind == CSV:
        return _csv(rows, style.csv_one_line and not transform)
    if kind == JSON_LINES:
        items = [{"score": item} for item in rows.tolist()] if style.scores else rows.tolist()
        return "".join([json.dumps(item) + "\n" for item in items]).encode()
    if kind == NPY:
        return _save_npy(rows)
    if kind == NPZ:
        return _save_npz({"predictions": rows})
    if rows.dtype.kind not in "fiub":
        raise NotAcceptable("The model answers with texts, which %s cannot carry; ask for %s." % (RECORDIO, JSON))
    return recordio.encode(rows)


def _records(records: List[Dict[str, Any]], kind: str, transform: bool) -> bytes:
    """XGBoost's selected outputs, printed as its container does: a list in CSV is one quoted cell."""
    if kind == JSON:
        return json.dumps({"predictions": records}).encode()
    if kind == JSON_LINES:
        return "".join([json.dumps(record) + "\n" for record in records]).encode()
    if kind == RECORDIO:
        return b"".join([recordio.encode_record(record) for record in records])
    if kind != CSV:
        raise NotAcceptable("Selected outputs are records, which %s cannot carry; ask for %s." % (kind, JSON))
    lines = [
        ",".join(['"%s"' % value if isinstance(value, list) else str(value) for value in record.values()])
        for record in records
    ]
    return ("\n".join(lines) + ("\n" if transform else "")).encode()


def _rows(prediction: Any) -> Any:
    import numpy as np

    rows = prediction if isinstance(prediction, np.ndarray) else np.asarray(prediction)
    return rows.reshape(1) if rows.ndim == 0 else rows


def _json(prediction: Any, form: str, style: Style) -> bytes:
    if isinstance(prediction, dict):
        data: Any = {name: _rows(value).tolist() for name, value in prediction.items()}
    else:
        rows = _rows(prediction)
        data = rows.tolist()
        if style.scores and form == "instances":
            if data and rows.ndim == 1 and _all_finite(rows):
                # What json.dumps would write of the same, at half its time: a dict an item is dear.
                return ('{"predictions": [{"score": %s}]}' % '}, {"score": '.join(map(repr, data))).encode()
            data = [{"score": item} for item in data]
    if form == "instances":
        data = {"predictions": data}
    elif form == "inputs":
        data = {"outputs": data}
    return json.dumps(data).encode()


def _all_finite(rows: Any) -> bool:
    """Whether the array holds floats whose repr is their JSON: no nan, no infinity."""
    import numpy as np

    return rows.dtype.kind == "f" and bool(np.isfinite(rows).all())


def _csv(rows: Any, one_line: bool) -> bytes:
    if rows.ndim > 2:
        rows = rows.reshape(rows.shape[0], -1)
    if rows.dtype.kind not in "fiub":
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerows(rows.tolist() if rows.ndim == 2 else [[item] for item in rows.tolist()])
        return out.getvalue().encode()
    if rows.ndim == 1:
        words = list(map(repr, rows.tolist()))
        return (",".join(words) if one_line else "\n".join(words) + "\n").encode()
    return "".join([",".join(map(repr, row)) + "\n" for row in rows.tolist()]).encode()


def _plain(rows: Any) -> Any:
    """Without objects, so that no pickle is written."""
    return rows.astype(str) if rows.dtype.kind == "O" else rows


def _save_npy(rows: Any) -> bytes:
    import numpy as np

    out = io.BytesIO()
    np.save(out, _plain(rows), allow_pickle=False)
    return out.getvalue()


def _save_npz(outputs: Dict[str, Any]) -> bytes:
    import numpy as np

    out = io.BytesIO()
    np.savez(out, **{name: _plain(_rows(value)) for name, value in outputs.items()})
    return out.getvalue()
