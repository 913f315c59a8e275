"""A loaded model: configuration, instances, queue. What executes is a backend's instance, by this port:

    execute(calls) -> results     one a call, in their order; may raise, and then all of them fail

`Tensors` is the port's half for backends that compute on arrays: calls become one execution and are cut apart again.
A joined execution that fails is repeated call by call, so that a bad request fails alone.
"""

from __future__ import annotations

import sys
import threading
import traceback
from typing import Any, Callable, Dict, List, Optional, Sequence

from .calls import Call, Meta, Result, check, never, shaped
from .config import ModelConfig
from .errors import InferError
from .scheduling import Queue

NESTED_LIMIT_S = 60.0  # that a call made inside another model's execution waits for a free instance


class Tensors:
    """An instance that computes {name: array} from {name: array}."""

    batched = False  # the first dimension of every tensor is the batch's

    def infer(self, inputs: Dict[str, Any], outputs: Sequence[str]) -> Dict[str, Any]:
        """The outputs asked for. May raise."""
        raise NotImplementedError

    def execute(self, calls: List[Call]) -> List[Result]:
        if len(calls) > 1:
            joined = self._joined(calls)
            if joined is not None:
                return joined
        return [self._alone(call) for call in calls]

    def _alone(self, call: Call) -> Result:
        try:
            return self.infer(call.inputs, call.outputs)
        except Exception as error:  # the worker's border: one call's failure is no other's
            return failed(error)

    def _joined(self, calls: List[Call]) -> Optional[List[Result]]:
        """All in one execution; None when that fails or does not answer row by row."""
        import numpy as np

        wanted = list(dict.fromkeys(name for call in calls for name in call.outputs))
        try:
            inputs = {name: np.concatenate([call.inputs[name] for call in calls]) for name in calls[0].inputs}
            found = self.infer(inputs, wanted)
        except Exception:  # the worker's border: whose fault it is shows when each goes alone
            return None
        total = sum(call.rows for call in calls)
        if any(not array.ndim or array.shape[0] != total for array in found.values()):
            return None
        results: List[Result] = []
        start = 0
        for call in calls:
            end = start + call.rows
            results.append({name: found[name][start:end] for name in call.outputs if name in found})
            start = end
        return results


def failed(error: BaseException) -> InferError:
    """A model's own failure as an answer; its traceback stays in the log."""
    if isinstance(error, InferError):
        return error
    traceback.print_exception(type(error), error, error.__traceback__, file=sys.stderr)
    return InferError("%s: %s" % (type(error).__name__, error))


class Model:
    """One version of a model. `submit` is for the loop's thread, `infer` for inside another model's execution."""

    def __init__(self, config: ModelConfig, version: int, instances: Sequence[Any], loader: str) -> None:
        self.config = config
        self.version = version
        self.loader = loader
        self._instances = list(instances)
        self._locks = {id(instance): threading.Lock() for instance in self._instances}
        self._holders: Dict[int, int] = {}  # instance -> thread that executes it
        self._queue: Optional[Queue] = None

    def open(self, loop: Any) -> None:
        """Gives the model its queue. Nothing is submitted before."""
        self._queue = Queue(self.config, self._instances, self._execute, loop)

    def submit(
        self,
        tensors: Dict[str, Any],
        outputs: Optional[Sequence[str]],
        meta: Meta,
        done: Callable[[Result], None],
        abandoned: Callable[[], bool] = never,
    ) -> None:
        """Calls `done` with the outputs or the error, now or later."""
        assert self._queue is not None
        try:
            call = check(self.config, tensors, outputs, meta, done, abandoned)
        except InferError as error:
            done(error)
            return
        self._queue.submit(call)

    def infer(self, tensors: Dict[str, Any], outputs: Optional[Sequence[str]], meta: Meta) -> Dict[str, Any]:
        """The outputs, computed on the caller's thread without a queue. Raises: InferError."""
        call = check(self.config, tensors, outputs, meta, lambda _result: None)
        instance = next((one for one in self._instances if not self._locks[id(one)].locked()), self._instances[0])
        result = self._execute(instance, [call], NESTED_LIMIT_S)[0]
        if isinstance(result, InferError):
            raise result
        return result

    def close(self) -> None:
        """Ends the threads, and tells the instances that they are not needed any more."""
        if self._queue is not None:
            self._queue.close()
        for instance in self._instances:
            finalize = getattr(instance, "finalize", None)
            if finalize is None:
                continue
            try:
                finalize()
            except Exception:  # the worker's border: the process leaves anyway
                traceback.print_exc(file=sys.stderr)

    def _execute(self, instance: Any, calls: List[Call], limit_s: float = -1.0) -> List[Result]:
        key = id(instance)
        if self._holders.get(key) == threading.get_ident():
            text = "model '%s' calls itself, and has no other instance" % self.config.name
            return [InferError(text)] * len(calls)
        if not self._locks[key].acquire(timeout=limit_s):
            return [InferError("model '%s' was busy for %g seconds" % (self.config.name, limit_s))] * len(calls)
        self._holders[key] = threading.get_ident()
        try:
            results: List[Result] = instance.execute(calls)
        except Exception as error:  # the worker's border
            return [failed(error)] * len(calls)
        finally:
            del self._holders[key]
            self._locks[key].release()
        return [
            result if isinstance(result, InferError) else shaped(self.config, result, call.outputs)
            for call, result in zip(calls, results)
        ]
