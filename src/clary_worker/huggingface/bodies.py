"""Bodies as sagemaker-huggingface-inference-toolkit reads and writes them, and its shape of an error.

| type | in | out |
| --- | --- | --- |
| application/json | {"inputs": ..., "parameters": {...}} | the pipeline's answer, without spaces, texts as they are |
| text/csv | a header with `inputs`, or `question` and `context` | one line an item, its keys as header |
| application/x-npy | an array, for a script of the user's | an array |
| image/*, audio/* | the bytes, as `inputs` | - |

Other types are refused, text/plain among them. Every failure is status 400 with the words of the cause.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import sys
import traceback
from typing import Any, Dict, List, Union

from .. import codecs, media
from ..contract import CSV, JSON, NPY, RequestError, Response
from . import tasks

_COLUMNS = ("question", "context", "inputs")
_IMAGES = ("image/jpeg", "image/png", "image/tiff", "image/bmp", "image/gif", "image/webp", "image/x-image")
_SOUNDS = ("audio/x-flac", "audio/mpeg", "audio/wave", "audio/ogg", "audio/x-audio")
WRITTEN = (JSON, CSV, NPY)


def failure(error: BaseException) -> Response:
    """{"code": 400, ...}, whatever went wrong; the traceback of what is no refusal of ours goes to the log."""
    if isinstance(error, RequestError):
        words = error.text
    else:
        traceback.print_exception(type(error), error, error.__traceback__, file=sys.stderr)
        words = str(error) or type(error).__name__
    told = {"code": 400, "type": "InternalServerException", "message": words}
    return Response((json.dumps(told, indent=2) + "\n").encode(), JSON, 400)


def decode(body: Union[bytes, str], content_type: str, task: str) -> Any:
    """What predict_fn gets. An absent type is JSON. Raises: RequestError."""
    kind = media.parse(content_type).kind if content_type else JSON
    known = media.parse(kind).known
    if known == CSV:
        if task in (tasks.ZERO_SHOT, tasks.TABLE_QA):
            raise RequestError("content type %s does not fit %s, whose inputs are nested; send %s" % (CSV, task, JSON))
        return _csv(body if isinstance(body, str) else body.decode())
    if known == JSON:
        try:
            return json.loads(body)
        except ValueError as error:
            raise RequestError("the body is no JSON: %s" % error) from None
    if known == NPY:
        return codecs.decode(body.encode() if isinstance(body, str) else body, NPY).rows
    if kind in _IMAGES:
        from PIL import Image

        return {"inputs": Image.open(io.BytesIO(bytes(body))).convert("RGB")}  # type: ignore[arg-type]
    if kind in _SOUNDS:
        return {"inputs": body}
    raise RequestError(
        "Content type %s is not supported by this framework. Send %s or %s, or write an input_fn." % (kind, JSON, CSV)
    )


def _csv(text: str) -> Dict[str, Any]:
    header = text.split("\n", 1)[0].lower()
    if not any(column in header for column in _COLUMNS):
        raise RequestError("a CSV body needs a header line that names its columns: inputs, or question and context")
    rows: List[Dict[str, Any]] = list(csv.DictReader(io.StringIO(text)))
    if not rows:
        raise RequestError("the CSV body holds no line below its header")
    return {"inputs": [row["inputs"] for row in rows] if "inputs" in rows[0] else rows}


def encode(prediction: Any, accept: str) -> tuple[bytes, str]:
    """(body, content type). Raises: RequestError for a type that is not written, ValueError for NaN in JSON."""
    kind = media.choose(accept, WRITTEN, JSON)
    if kind == CSV:
        rows = prediction if isinstance(prediction, list) else [prediction]
        if not rows or not all(isinstance(row, dict) for row in rows):
            raise RequestError("an answer of this task has no columns, so it cannot be CSV; ask for %s" % JSON)
        out = io.StringIO()
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue().encode(), CSV
    if kind == NPY:
        return codecs.encode(prediction, NPY), NPY
    if kind != JSON:
        raise RequestError("Accept %s is not supported by this framework. Ask for %s." % (accept, JSON))
    text = json.dumps(prediction, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)
    return text.encode(), JSON


def _plain(value: Any) -> Any:
    """NumPy's and torch's numbers and arrays, and dates, as JSON has them."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, datetime.datetime):
        return str(value)
    raise TypeError("an object of type %s cannot be written as JSON" % type(value).__name__)
