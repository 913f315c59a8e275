"""TorchScript modules. A plain state_dict needs its network's class, so it is refused with that said.

Rows come in as float32, the type of nearly all exported modules. Requests are joined only after a trial with the
first request's own shape showed that two rows at once give what each gives alone.
"""

from __future__ import annotations

from typing import Any, List, Optional, Tuple

from . import rows
from .codecs import PLAIN
from .contract import BadRequest, LoadError, Table


def load_module(path: str, threads: int) -> Any:
    """The module in evaluation mode. Raises: LoadError when the file is no TorchScript archive."""
    import torch

    torch.set_num_threads(threads)
    try:
        return torch.jit.load(path, map_location="cpu").eval()
    except RuntimeError as error:
        raise LoadError(
            "%s is no TorchScript archive: %s" % (path, str(error).partition("\n")[0]),
            "save the model with torch.jit.script(model).save(path), or add code/inference.py with model_fn",
        ) from error


class TorchModel:
    style = PLAIN
    features: Optional[int] = None

    def __init__(self, module: Any, loader: str) -> None:
        import torch

        self._torch = torch
        self.loader = loader
        self.module = module
        self.batchable = False
        self._tried = False

    def shape(self, table: Table) -> Any:
        import numpy as np

        if table.inputs is not None and len(table.inputs) == 1:
            data = next(iter(table.inputs.values()))
        elif table.inputs is not None:
            data = rows.ranked(table, None)
        else:
            data = table.rows.toarray() if hasattr(table.rows, "toarray") else table.rows
        data = rows.numeric(data)
        if data.ndim == 1:
            data = data.reshape(1, -1)
        if data.dtype.kind == "O":
            raise BadRequest("The model takes numbers; texts were sent.")
        return self._torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32))

    def signature(self, data: Any) -> Any:
        return tuple(data.shape[1:])

    def join(self, parts: List[Any]) -> Tuple[Any, List[int]]:
        return self._torch.cat(parts), [int(part.shape[0]) for part in parts]

    def predict(self, data: Any) -> Any:
        with self._torch.inference_mode():
            found = self.module(data)
            if not self._tried:
                self._try(data, found)
        return _arrays(found)

    def warm(self) -> str:
        return "a TorchScript module does not tell its input's shape"

    def _try(self, data: Any, found: Any) -> None:
        self._tried = True
        if not isinstance(found, self._torch.Tensor) or not found.dim() or found.shape[0] != data.shape[0]:
            return
        twice = self.module(self._torch.cat([data, data.flip(0) * 0.5]))
        other = self.module(data.flip(0) * 0.5)
        joined = self._torch.cat([found, other])
        self.batchable = joined.shape == twice.shape and bool(self._torch.allclose(joined, twice, rtol=1e-5, atol=1e-6))


def _arrays(found: Any) -> Any:
    if isinstance(found, dict):
        return {str(name): value.cpu().numpy() for name, value in found.items()}
    if isinstance(found, (tuple, list)):
        return {"output_%d" % place: value.cpu().numpy() for place, value in enumerate(found)}
    return found.cpu().numpy()
