"""Ensembles: models joined by named tensors. A step runs as soon as all its tensors are there, steps side by side.

Each step goes through its own model's queue, so its requests are batched with those of other ensembles' requests, as
that model's configuration says. The ensemble itself has neither queue nor instance.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Sequence, Set

from ..contract import LoadError
from .calls import Meta, Result, check, never
from .config import ModelConfig, Step
from .errors import InferError, about

_HINT = "correct ensemble_scheduling in the ensemble's config.pbtxt"


class Ensemble:
    """Stands where a `Model` does. `members` are the steps' models, in the steps' order."""

    loader = "ensemble"

    def __init__(self, config: ModelConfig, version: int, members: Sequence[Any]) -> None:
        self.config = config
        self.version = version
        self._members = list(members)
        _prove(config, self._members)

    def open(self, loop: Any) -> None:
        """Nothing: its members have the queues."""

    def close(self) -> None:
        """Nothing: its members are closed as models of the repository."""

    def submit(
        self,
        tensors: Dict[str, Any],
        outputs: Optional[Sequence[str]],
        meta: Meta,
        done: Callable[[Result], None],
        abandoned: Callable[[], bool] = never,
    ) -> None:
        """As of a model."""
        try:
            call = check(self.config, tensors, outputs, meta, done, abandoned)
        except InferError as error:
            done(error)
            return
        _Run(self.config, self._members, tensors, call.outputs, meta, done, abandoned).go()

    def infer(self, tensors: Dict[str, Any], outputs: Optional[Sequence[str]], meta: Meta) -> Dict[str, Any]:
        """As of a model: every step on the caller's thread."""
        found: List[Result] = []
        call = check(self.config, tensors, outputs, meta, found.append)
        direct = [_Direct(member) for member in self._members]
        _Run(self.config, direct, tensors, call.outputs, meta, found.append, never).go()
        if isinstance(found[0], InferError):
            raise found[0]
        return found[0]


class _Direct:
    """A member whose `submit` computes at once."""

    def __init__(self, member: Any) -> None:
        self.config = member.config
        self._member = member

    def submit(
        self,
        tensors: Dict[str, Any],
        outputs: Optional[Sequence[str]],
        meta: Meta,
        done: Callable[[Result], None],
        abandoned: Callable[[], bool],
    ) -> None:
        try:
            result: Result = self._member.infer(tensors, outputs, meta)
        except InferError as error:
            result = error
        done(result)


class _Run:
    """One request on its way through the steps."""

    def __init__(
        self,
        config: ModelConfig,
        members: Sequence[Any],
        tensors: Dict[str, Any],
        outputs: Sequence[str],
        meta: Meta,
        done: Callable[[Result], None],
        abandoned: Callable[[], bool],
    ) -> None:
        self._config = config
        self._members = members
        self._tensors = dict(tensors)
        self._absent = {port.name for port in config.inputs if port.name not in tensors}
        self._outputs = outputs
        self._meta = meta
        self._done = done
        self._abandoned = abandoned
        self._steps = list(range(len(config.steps)))  # those not begun
        self._running = 0
        self._failed = False

    def go(self) -> None:
        """Begins every step whose tensors are there, and ends when none runs and none can begin."""
        if self._failed:
            return
        ready = [place for place in self._steps if self._is_ready(self._config.steps[place])]
        self._steps = [place for place in self._steps if place not in ready]
        self._running += len(ready)
        for place in ready:
            if not self._failed:
                self._begin(place)
        if not self._running and not ready:
            self._end()

    def _is_ready(self, step: Step) -> bool:
        return all(name in self._tensors or name in self._absent for name in step.inputs.values())

    def _begin(self, place: int) -> None:
        step, member = self._config.steps[place], self._members[place]
        tensors = {key: self._tensors[name] for key, name in step.inputs.items() if name in self._tensors}
        wanted = [key for key in step.outputs if member.config.output(key) is not None]

        def ended(result: Result) -> None:
            self._running -= 1
            if self._failed:
                return
            if isinstance(result, InferError):
                self._failed = True
                self._done(InferError("in ensemble '%s', %s" % (self._config.name, result.text)))
                return
            for key, array in result.items():
                # Several steps may be given the same array, and a Python model may write into its inputs: a view that
                # is read only makes it copy first.
                shared = array.view()
                shared.flags.writeable = False
                self._tensors[step.outputs[key]] = shared
            self.go()

        member.submit(tensors, wanted, self._meta, ended, self._abandoned)

    def _end(self) -> None:
        self._failed = True  # nothing follows
        lacking = [name for name in self._outputs if name not in self._tensors]
        if lacking:
            text = "unexpected deadlock, at least one output is not set while no more ensemble steps can be made"
            self._done(
                InferError("in ensemble '%s', %s" % (self._config.name, about(self._meta.request_id, text).text))
            )
            return
        self._done({name: self._tensors[name] for name in self._outputs})


def _prove(config: ModelConfig, members: Sequence[Any]) -> None:
    """Raises LoadError where a tensor has no maker or two, a name is unknown, or types and batch sizes do not fit."""

    def wrong(text: str, *words: Any) -> LoadError:
        return LoadError("ensemble '%s': %s" % (config.name, text % words), _HINT)

    if not config.steps:
        raise wrong("must specify 'step' in ensemble_scheduling")
    if config.batching is not None:
        raise wrong("dynamic_batching belongs to its models, not to the ensemble")
    types = {port.name: port.datatype for port in config.inputs}
    for step, member in zip(config.steps, members):
        its: ModelConfig = member.config
        if config.max_batch_size > its.max_batch_size:
            raise wrong(
                "ensemble allows maximum batch size %d, but it contains model %s which only allows maximum batch size "
                "to be %d",
                config.max_batch_size,
                its.name,
                its.max_batch_size,
            )
        for key, name in step.outputs.items():
            port = its.output(key)
            if port is None:
                raise wrong("step of model '%s' maps its output '%s', which it does not have", its.name, key)
            if name in types:
                raise wrong("tensor '%s' is written by two", name)
            types[name] = port.datatype
    for step, member in zip(config.steps, members):
        _prove_inputs(step, member.config, types, wrong)
    for port in config.outputs:
        if types.get(port.name) != port.datatype:
            raise wrong(
                "output '%s' is %s, but its steps make it %s", port.name, port.datatype, types.get(port.name, "nowhere")
            )
    _prove_order(config, wrong)


def _prove_inputs(step: Step, its: ModelConfig, types: Dict[str, str], wrong: Any) -> None:
    for key, name in step.inputs.items():
        port = its.input(key)
        if port is None:
            raise wrong("step of model '%s' maps its input '%s', which it does not have", its.name, key)
        if types.get(name, port.datatype) != port.datatype:
            raise wrong(
                "input '%s' of model '%s' is %s, but tensor '%s' is %s", key, its.name, port.datatype, name, types[name]
            )
    for port in its.inputs:
        if not port.optional and port.name not in step.inputs:
            raise wrong("input '%s' of model '%s' is mapped to no tensor", port.name, its.name)


def _prove_order(config: ModelConfig, wrong: Any) -> None:
    there: Set[str] = {port.name for port in config.inputs}
    left = list(config.steps)
    while left:
        ready = [step for step in left if all(name in there for name in step.inputs.values())]
        if not ready:
            lacking = sorted({name for step in left for name in step.inputs.values()} - there)
            raise wrong("no step can begin: nobody writes the tensors %s", ", ".join(lacking))
        left = [step for step in left if step not in ready]
        for step in ready:
            there.update(step.outputs.values())
