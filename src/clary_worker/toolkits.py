"""Stand-ins for the small AWS packages that inference scripts import, for environments that lack them.

`from sagemaker_inference import content_types, decoder, encoder`, `from sagemaker_containers.beta.framework import
worker, encoders` and `from sagemaker_xgboost_container import encoder` stand at the top of many published scripts;
the packages themselves bring a whole model server along. A finder at the end of sys.meta_path answers for these names
only when no installed package did, and builds a module when it is asked for, so an unused one costs nothing.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from types import ModuleType
from typing import Any, Callable, Dict, NamedTuple, Optional, Sequence

from . import codecs, defaults, media
from .contract import CSV, JSON, JSON_LINES, LIBSVM, NPY, NPZ, RECORDIO, UnsupportedMedia


class Answer(NamedTuple):
    """worker.Response of sagemaker_containers, as far as scripts use it."""

    response: Any = None
    accept: Any = None
    status: int = 200
    mimetype: Any = None


def _response(response: Any = None, accept: Any = None, status: int = 200, **given: Any) -> Answer:
    return Answer(response, accept, status, given.get("mimetype", accept))


def _decode(obj: Any, content_type: str) -> Any:
    return defaults.to_rows(obj, content_type)


def _encode(array_like: Any, content_type: str) -> Any:
    """Text for CSV and JSON, bytes for the others, as the toolkit's encoder answers."""
    known = media.parse(content_type).known
    if known not in codecs.WRITTEN:
        raise UnsupportedMedia('The content type "%s" cannot be written.' % content_type)
    body = codecs.encode(array_like, known)
    return body.decode() if known in (CSV, JSON) else body


def _to(content_type: str) -> Callable[[Any], Any]:
    return lambda body: defaults.to_dmatrix(body, content_type)


_TYPES: Dict[str, Any] = {
    "JSON": JSON,
    "CSV": CSV,
    "NPY": NPY,
    "NPZ": NPZ,
    "JSONLINES": JSON_LINES,
    "LIBSVM": LIBSVM,
    "X_LIBSVM": "text/x-libsvm",
    "X_RECORDIO_PROTOBUF": RECORDIO,
    "RECORDIO_PROTOBUF": RECORDIO,
    "OCTET_STREAM": "application/octet-stream",
    "ANY": "*/*",
    "UTF8_TYPES": [JSON, CSV],
}
_CODERS: Dict[str, Any] = {"decode": _decode, "encode": _encode}
_ERRORS: Dict[str, Any] = {"UnsupportedFormatError": UnsupportedMedia}

# Module name -> what it holds. Packages come before their parts; a part is also an attribute of its package.
MODULES: Dict[str, Dict[str, Any]] = {
    "sagemaker_inference": {},
    "sagemaker_inference.content_types": _TYPES,
    "sagemaker_inference.decoder": _CODERS,
    "sagemaker_inference.encoder": _CODERS,
    "sagemaker_inference.errors": _ERRORS,
    "sagemaker_containers": {},
    "sagemaker_containers.beta": {},
    "sagemaker_containers.beta.framework": {},
    "sagemaker_containers.beta.framework.content_types": _TYPES,
    "sagemaker_containers.beta.framework.encoders": _CODERS,
    "sagemaker_containers.beta.framework.errors": _ERRORS,
    "sagemaker_containers.beta.framework.worker": {"Response": _response},
    "sagemaker_xgboost_container": {},
    "sagemaker_xgboost_container.encoder": {
        "decode": defaults.to_dmatrix,
        "csv_to_dmatrix": _to(CSV),
        "libsvm_to_dmatrix": _to(LIBSVM),
        "recordio_protobuf_to_dmatrix": _to(RECORDIO),
    },
}


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, fullname: str, path: Optional[Sequence[str]], target: Optional[ModuleType] = None
    ) -> Optional[importlib.machinery.ModuleSpec]:
        if fullname not in MODULES:
            return None
        package = any(name.startswith(fullname + ".") for name in MODULES)
        return importlib.machinery.ModuleSpec(fullname, self, is_package=package)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Optional[ModuleType]:
        return None

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__.update(MODULES[module.__name__])


def install() -> None:
    """Answers for the names from now on. Twice is once."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
