"""ONNX models under ONNX Runtime, on the CPU.

The session tells its inputs and outputs, so the request is checked against them: element type, rank, fixed sizes.
One input takes rows (a matrix, or arrays of the input's own rank; flat rows are folded into fixed trailing sizes);
several take named arrays from JSON or npz; single-column inputs (as skl2onnx makes for mixed columns) are also filled
from one matrix, column by column. A classifier's (label, probabilities) answers the label; with
CLARY_SKLEARN_METHOD=predict_proba the probabilities.

Requests are joined only when every input's and output's first size is free, and a trial at the start showed that two
rows at once give what each gives alone (to a relative 1e-5: kernels may differ by batch size in the last bits).
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Tuple, Union

from .codecs import PLAIN
from .contract import BadRequest, LoadError, Table
from .rows import numeric

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int16)": "int16",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
    "tensor(string)": "object",
}


def open_session(model: Union[str, bytes], threads: int) -> Any:
    """A session of a file or its bytes, `threads` inside an operator, none between: calls come one at a time."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # A spinning pool burns the processor between requests.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class OnnxModel:
    style = PLAIN

    def __init__(self, session: Any, loader: str, method: str = "") -> None:
        self.loader = loader
        self.session = session
        self._inputs = session.get_inputs()
        outputs = session.get_outputs()
        for port in self._inputs:
            if port.type not in _DTYPES:
                raise LoadError(
                    "input %r of the ONNX model is %s, which is not served" % (port.name, port.type),
                    "export the model with tensor inputs",
                )
        names = [port.name for port in outputs]
        probabilities = next((name for name in names if name in ("probabilities", "output_probability")), "")
        if len(names) == 2 and probabilities:
            first = probabilities if method == "predict_proba" else next(n for n in names if n != probabilities)
            names = [first]
        self._names = names
        self.features = self._width()
        ports = self._inputs + [port for port in outputs if port.name in names]
        self.batchable = all(not port.shape or not isinstance(port.shape[0], int) for port in ports)

    def shape(self, table: Table) -> Dict[str, Any]:
        if table.inputs is not None:
            missing = [port.name for port in self._inputs if port.name not in table.inputs]
            if not missing:
                return {port.name: self._fit(port, table.inputs[port.name]) for port in self._inputs}
            if len(self._inputs) > 1:
                raise BadRequest("The inputs %s are missing." % ", ".join(missing))
        rows = _matrix(table)
        if len(self._inputs) == 1:
            return {self._inputs[0].name: self._fit(self._inputs[0], rows)}
        if rows.ndim == 1:
            rows = rows.reshape(1, -1)
        if rows.ndim != 2 or rows.shape[1] != len(self._inputs) or any(len(p.shape) > 2 for p in self._inputs):
            raise BadRequest(
                'The model takes the inputs %s; send {"inputs": {name: values}}.'
                % ", ".join(port.name for port in self._inputs)
            )
        return {port.name: self._fit(port, rows[:, [i]]) for i, port in enumerate(self._inputs)}

    def signature(self, data: Dict[str, Any]) -> Any:
        sizes = {value.shape[0] if value.ndim else -1 for value in data.values()}
        if len(sizes) != 1 or -1 in sizes:
            return None
        return tuple((name, value.shape[1:]) for name, value in data.items())

    def join(self, parts: List[Dict[str, Any]]) -> Tuple[Dict[str, Any], List[int]]:
        import numpy as np

        sizes = [next(iter(part.values())).shape[0] for part in parts]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, sizes

    def predict(self, data: Dict[str, Any]) -> Any:
        found = self.session.run(self._names, data)
        plain = [_plain(value) for value in found]
        if len(plain) == 1:
            # A regressor's or a label's single column is one value a row, as the library it came from answers.
            only = plain[0]
            if self.features is not None and only.ndim == 2 and only.shape[1] == 1:
                return only[:, 0]
            return only
        return {name: plain[place] for place, name in enumerate(self._names)}

    def warm(self) -> str:
        import numpy as np

        inputs: Dict[str, Any] = {}
        generator = np.random.RandomState(0)
        for port in self._inputs:
            sizes = [2 if place == 0 and not isinstance(n, int) else n for place, n in enumerate(port.shape)]
            if not all(isinstance(size, int) for size in sizes) or port.type == "tensor(string)":
                self.batchable = False
                return "the ONNX model does not tell the size of its input %r" % port.name
            inputs[port.name] = (generator.random_sample(sizes) * 4).astype(_DTYPES[port.type])
        both = self.predict(inputs)
        if self.batchable:
            self.batchable = self._row_wise(inputs, both)
        return ""

    def _row_wise(self, inputs: Dict[str, Any], both: Any) -> bool:
        import numpy as np

        alone = [self.predict({name: value[i : i + 1] for name, value in inputs.items()}) for i in (0, 1)]
        if not isinstance(both, dict):
            both, alone = {"": both}, [{"": part} for part in alone]
        for name, value in both.items():
            parts = [part[name] for part in alone]
            if any(part.ndim == 0 for part in parts):
                return False
            joined = np.concatenate(parts)
            if joined.shape != value.shape:
                return False
            same = np.array_equal(joined, value) if value.dtype.kind in "OUS" else np.allclose(joined, value, 1e-5)
            if not same:
                return False
        return True

    def _width(self) -> Optional[int]:
        """Columns of a tabular model, None for images, sequences and several inputs."""
        if len(self._inputs) == 1 and len(self._inputs[0].shape) == 2:
            size = self._inputs[0].shape[1]
            return size if isinstance(size, int) else None
        if all(len(port.shape) == 2 and port.shape[1] == 1 for port in self._inputs):
            return len(self._inputs)
        return None

    def _fit(self, port: Any, value: Any) -> Any:
        """The value with the port's rank, sizes and element type. Raises: BadRequest naming the input."""
        import numpy as np

        value = np.asarray(value)
        shape = port.shape
        fixed = [size for size in shape[1:] if isinstance(size, int)]
        if value.ndim == len(shape) - 1:
            column = len(shape) == 2 and shape[1] == 1
            value = value.reshape(-1, 1) if column else value.reshape((1, *value.shape))
        elif value.ndim == 2 and len(shape) > 2 and len(fixed) == len(shape) - 1:
            if value.shape[1] != int(np.prod(fixed)):
                raise BadRequest(
                    "The input %r takes rows of %d values, the rows sent have %d."
                    % (port.name, int(np.prod(fixed)), value.shape[1])
                )
            value = value.reshape([value.shape[0], *fixed])
        elif value.ndim == 1 and fixed and value.shape[0] == int(np.prod(fixed)):
            value = value.reshape([1, *fixed])
        if value.ndim != len(shape) or any(
            isinstance(size, int) and size != value.shape[place] for place, size in enumerate(shape)
        ):
            raise BadRequest(
                "The input %r takes the shape %s, sent was %s."
                % (port.name, [size if isinstance(size, int) else "n" for size in shape], list(value.shape))
            )
        if port.type == "tensor(string)":
            return value.astype(str).astype(object)
        return np.ascontiguousarray(numeric(value), dtype=_DTYPES[port.type])


def _matrix(table: Table) -> Any:
    import numpy as np

    if table.inputs is None:
        return table.rows.toarray() if hasattr(table.rows, "toarray") else table.rows
    columns = [np.asarray(column) for column in table.inputs.values()]
    if len(columns) == 1:
        return columns[0]
    if len({column.shape for column in columns}) != 1:
        raise BadRequest("The named columns differ in length: send one value a row in each.")
    return np.stack(columns, axis=-1)


def _plain(value: Any) -> Any:
    """An output as an array: sequences of maps (a classifier's ZipMap) become one row of probabilities each."""
    import numpy as np

    if isinstance(value, list) and value and isinstance(value[0], dict):
        return np.array([list(item.values()) for item in value])
    return np.asarray(value)
