"""One request to one model: its tensors checked against the configuration, and where its result goes.

Checks and their order are those of Triton's core, and so are the words. Arrays keep the batch dimension where the
model has one; `reshape` of the configuration is applied here on the way in and, by `shaped`, on the way out.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

from .config import ModelConfig, Port
from .errors import InferError, about
from .tensors import datatype_of, listed

Result = Union[Dict[str, Any], InferError]  # output name -> array


class Meta(NamedTuple):
    """What a request says beside its tensors."""

    request_id: str = ""
    parameters: Dict[str, Any] = {}  # noqa: RUF012  # read only
    correlation_id: Union[int, str] = 0


def never() -> bool:
    return False


class Call:
    """A checked request. `done` is called once, on the loop's thread; `abandoned` tells that nobody waits any more."""

    __slots__ = ("abandoned", "arrived_s", "done", "inputs", "meta", "outputs", "rows", "signature")

    def __init__(
        self,
        inputs: Dict[str, Any],
        outputs: Sequence[str],
        rows: int,
        signature: Any,
        meta: Meta,
        done: Callable[[Result], None],
        abandoned: Callable[[], bool] = never,
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs  # the names that are wanted
        self.rows = rows  # 1 for a model without a batch dimension
        self.signature = signature  # equal for calls that may be executed as one batch
        self.meta = meta
        self.done = done
        self.abandoned = abandoned
        self.arrived_s = 0.0


def check(
    config: ModelConfig,
    tensors: Dict[str, Any],
    outputs: Optional[Sequence[str]],
    meta: Meta,
    done: Callable[[Result], None],
    abandoned: Callable[[], bool] = never,
) -> Call:
    """The call that these tensors make. `outputs` None means all. Raises: InferError."""

    def wrong(text: str, *words: Any) -> InferError:
        return about(meta.request_id, text % words)

    for name in tensors:
        if config.input(name) is None:
            raise wrong("unexpected inference input '%s' for model '%s'", name, config.name)
    if outputs is None:
        wanted: Sequence[str] = [port.name for port in config.outputs]
    else:
        wanted = outputs
        for name in wanted:
            if config.output(name) is None:
                raise wrong("unexpected inference output '%s' for model '%s'", name, config.name)
    _check_names(config, tensors, wrong)
    rows = _check_batch(config, tensors, wrong) if config.max_batch_size else 1
    arrays = {name: _fitted(config, name, array, wrong) for name, array in tensors.items()}
    shapes = [(name, array.shape[1:]) for name, array in sorted(arrays.items()) if not _is_ragged(config.input(name))]
    return Call(arrays, wanted, rows, (len(arrays), tuple(shapes)), meta, done, abandoned)


def shaped(config: ModelConfig, outputs: Dict[str, Any], wanted: Sequence[str]) -> Dict[str, Any]:
    """The outputs that are wanted, in the shapes that the configuration promises."""
    found = {}
    for name in wanted:
        array = outputs.get(name)
        if array is None:
            continue
        port = config.output(name)
        if port is not None and port.reshape is not None:
            lead = array.shape[:1] if config.max_batch_size else ()
            array = array.reshape(lead + _reshaped(port.reshape, port.dims, array.shape[len(lead) :]))
        found[name] = array
    return found


def _is_ragged(port: Optional[Port]) -> bool:
    return port is not None and port.ragged


def _check_names(config: ModelConfig, tensors: Dict[str, Any], wrong: Any) -> None:
    missing = [port.name for port in config.inputs if not port.optional and port.name not in tensors]
    if not missing:
        return
    required = sum(not port.optional for port in config.inputs)
    total = len(config.inputs)
    expected = "%d inputs" % total if required == total else "number of inputs between %d and %d" % (required, total)
    raise wrong(
        "expected %s but got %d inputs for model '%s'. Got input(s) [%s], but missing required input(s) [%s]. "
        "Please provide all required input(s).",
        expected,
        len(tensors),
        config.name,
        ",".join("'%s'" % name for name in tensors),
        ",".join("'%s'" % name for name in missing),
    )


def _check_batch(config: ModelConfig, tensors: Dict[str, Any], wrong: Any) -> int:
    rows = -1
    for name, array in tensors.items():
        if not array.ndim:
            raise wrong("input '%s' has no shape but model requires batch dimension for '%s'", name, config.name)
        if rows < 0:
            rows = array.shape[0]
        elif array.shape[0] != rows:
            raise wrong("input '%s' batch size does not match other inputs for '%s'", name, config.name)
    if rows > config.max_batch_size:
        raise wrong("inference request batch-size must be <= %d for '%s'", config.max_batch_size, config.name)
    return max(rows, 1) if not tensors else rows


_NOTE = (
    "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended to each "
    "input shape. If you want to specify the full shape including the batch dim in your input dims config, try setting "
    "max_batch_size to zero. See the model configuration docs for more info on max_batch_size."
)


def _fitted(config: ModelConfig, name: str, array: Any, wrong: Any) -> Any:
    port = config.input(name)
    assert port is not None
    datatype = datatype_of(array)
    if datatype != port.datatype:
        raise wrong(
            "inference input '%s' data-type is '%s', but model '%s' expects '%s'",
            name,
            datatype,
            config.name,
            port.datatype,
        )
    batched = bool(config.max_batch_size)
    shape = array.shape[1:] if batched else array.shape
    if len(shape) != len(port.dims) or any(want not in (-1, size) for want, size in zip(port.dims, shape)):
        raise wrong(
            "unexpected shape for input '%s' for model '%s'. Expected %s, got %s. %s",
            name,
            config.name,
            listed(([-1] if batched else []) + list(port.dims)),
            listed(array.shape),
            _NOTE if batched else "",
        )
    if port.reshape is None:
        return array
    return array.reshape((array.shape[:1] if batched else ()) + _reshaped(port.dims, port.reshape, shape))


def _reshaped(dims: Sequence[int], into: Sequence[int], shape: Sequence[int]) -> Tuple[int, ...]:
    """`into` with its -1 replaced, in order, by the sizes that `shape` has where `dims` says -1."""
    free: List[int] = [size for want, size in zip(dims, shape) if want == -1]
    return tuple(free.pop(0) if size == -1 else size for size in into)
