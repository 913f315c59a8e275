"""The fields of a ModelConfig that are known, in one table, and the step from a tree of text to plain values.

Names, types and defaults are those of Triton's model_config.proto. Each field has a stance:

    READ      it is honoured
    NOTED     it changes speed or measurement, never an answer: read over, and the endpoint's note says so
    REFUSED   ignoring it would change answers: the model does not load, and the field is named
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Tuple

from .tensors import CONFIG_TYPES
from .textformat import Field, Scalar, TextError

READ, NOTED, REFUSED = "read", "noted", "refused"


class Kind(NamedTuple):
    """`type` is a scalar's name, or one of ENUMS or MESSAGES; `map`: a repeated {key, value}; `one_of`: its group."""

    type: str
    repeated: bool = False
    map: bool = False
    stance: str = READ
    one_of: str = ""


ENUMS: Dict[str, Tuple[str, ...]] = {
    "DataType": CONFIG_TYPES,
    "Format": ("FORMAT_NONE", "FORMAT_NHWC", "FORMAT_NCHW"),
    "Kind": ("KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"),
    "TimeoutAction": ("REJECT", "DELAY"),
}
_STRINGS = {"key": Kind("string"), "value": Kind("string")}
MESSAGES: Dict[str, Dict[str, Kind]] = {
    "ModelConfig": {
        "name": Kind("string"),
        "platform": Kind("string"),
        "backend": Kind("string"),
        "runtime": Kind("string", stance=NOTED),
        "version_policy": Kind("ModelVersionPolicy"),
        "max_batch_size": Kind("int32"),
        "input": Kind("ModelInput", repeated=True),
        "output": Kind("ModelOutput", repeated=True),
        "batch_input": Kind("BatchInput", repeated=True, stance=REFUSED),
        "batch_output": Kind("BatchOutput", repeated=True, stance=REFUSED),
        "optimization": Kind("ModelOptimizationPolicy", stance=NOTED),
        "dynamic_batching": Kind("ModelDynamicBatching", one_of="scheduling_choice"),
        "sequence_batching": Kind("ModelSequenceBatching", stance=REFUSED, one_of="scheduling_choice"),
        "ensemble_scheduling": Kind("ModelEnsembling", one_of="scheduling_choice"),
        "instance_group": Kind("ModelInstanceGroup", repeated=True),
        "default_model_filename": Kind("string"),
        "cc_model_filenames": Kind("StringEntry", map=True, stance=NOTED),
        "metric_tags": Kind("StringEntry", map=True, stance=NOTED),
        "parameters": Kind("ParameterEntry", map=True),
        "model_warmup": Kind("ModelWarmup", repeated=True, stance=NOTED),
        "model_operations": Kind("ModelOperations", stance=REFUSED),
        "model_transaction_policy": Kind("ModelTransactionPolicy"),
        "model_repository_agents": Kind("ModelRepositoryAgents", stance=REFUSED),
        "response_cache": Kind("ModelResponseCache", stance=NOTED),
        "model_metrics": Kind("ModelMetrics", stance=NOTED),
    },
    "ModelVersionPolicy": {
        "latest": Kind("Latest", one_of="policy_choice"),
        "all": Kind("All", one_of="policy_choice"),
        "specific": Kind("Specific", one_of="policy_choice"),
    },
    "Latest": {"num_versions": Kind("uint32")},
    "All": {},
    "Specific": {"versions": Kind("int64", repeated=True)},
    "ModelInput": {
        "name": Kind("string"),
        "data_type": Kind("DataType"),
        "format": Kind("Format"),
        "dims": Kind("int64", repeated=True),
        "reshape": Kind("ModelTensorReshape"),
        "is_shape_tensor": Kind("bool"),
        "allow_ragged_batch": Kind("bool"),
        "optional": Kind("bool"),
        "is_non_linear_format_io": Kind("bool"),
    },
    "ModelOutput": {
        "name": Kind("string"),
        "data_type": Kind("DataType"),
        "dims": Kind("int64", repeated=True),
        "reshape": Kind("ModelTensorReshape"),
        "label_filename": Kind("string"),
        "is_shape_tensor": Kind("bool"),
        "is_non_linear_format_io": Kind("bool"),
    },
    "ModelTensorReshape": {"shape": Kind("int64", repeated=True)},
    "ModelDynamicBatching": {
        "preferred_batch_size": Kind("int32", repeated=True),
        "max_queue_delay_microseconds": Kind("uint64"),
        "preserve_ordering": Kind("bool"),  # one HTTP connection's answers are in order anyway
        "priority_levels": Kind("uint64", stance=REFUSED),
        "default_priority_level": Kind("uint64", stance=REFUSED),
        "default_queue_policy": Kind("ModelQueuePolicy"),
        "priority_queue_policy": Kind("QueuePolicyEntry", map=True, stance=REFUSED),
    },
    "ModelQueuePolicy": {
        "timeout_action": Kind("TimeoutAction"),
        "default_timeout_microseconds": Kind("uint64"),
        "allow_timeout_override": Kind("bool", stance=REFUSED),
        "max_queue_size": Kind("uint32"),
    },
    "ModelInstanceGroup": {
        "name": Kind("string"),
        "kind": Kind("Kind"),
        "count": Kind("int32"),
        "rate_limiter": Kind("ModelRateLimiter", stance=NOTED),
        "gpus": Kind("int32", repeated=True),
        "secondary_devices": Kind("SecondaryDevice", repeated=True, stance=NOTED),
        "profile": Kind("string", repeated=True, stance=NOTED),
        "passive": Kind("bool", stance=REFUSED),
        "host_policy": Kind("string", stance=NOTED),
    },
    "ModelEnsembling": {
        "step": Kind("Step", repeated=True),
        "max_inflight_responses": Kind("uint32", stance=NOTED),
    },
    "Step": {
        "model_name": Kind("string"),
        "model_version": Kind("int64"),
        "input_map": Kind("StringEntry", map=True),
        "output_map": Kind("StringEntry", map=True),
        "model_namespace": Kind("string", stance=REFUSED),
    },
    "ModelParameter": {"string_value": Kind("string")},
    "ModelTransactionPolicy": {"decoupled": Kind("bool")},
    "StringEntry": _STRINGS,
    "ParameterEntry": {"key": Kind("string"), "value": Kind("ModelParameter")},
}
_BITS = {"int32": (-(1 << 31), (1 << 31) - 1), "uint32": (0, (1 << 32) - 1)}
_BITS.update({"int64": (-(1 << 63), (1 << 63) - 1), "uint64": (0, (1 << 64) - 1)})
_MAX_DIGITS = 66  # of 64 bits in octal or hexadecimal, with room; int() of millions would take its time
_TRUTHS = {"true": True, "True": True, "t": True, "1": True, "false": False, "False": False, "f": False, "0": False}


class Refused(Exception):
    """A field that is known and not served; the text names it."""


def values(fields: List[Field], message: str, noted: List[str]) -> Dict[str, Any]:
    """{name: value} of the fields that are set: lists where repeated, dicts for messages and maps.

    The names of NOTED fields are appended to `noted`. Raises: TextError for what is unknown or mistyped, Refused.
    """
    table = MESSAGES[message]
    found: Dict[str, Any] = {}
    groups: Dict[str, str] = {}
    for field in fields:
        kind = table.get(field.name)
        if kind is None:
            raise TextError(
                field.line,
                field.column,
                'Message type "inference.%s" has no field named "%s".' % (message, field.name),
            )
        if kind.one_of and groups.setdefault(kind.one_of, field.name) != field.name:
            raise TextError(
                field.line,
                field.column,
                'Field "%s" is specified along with field "%s", another member of oneof "%s".'
                % (field.name, groups[kind.one_of], kind.one_of),
            )
        if kind.stance == REFUSED and not _is_default(field):
            raise Refused("%s is not served here" % field.name)
        if kind.stance != READ:
            if kind.stance == NOTED and field.name not in noted:
                noted.append(field.name)
            continue
        value = _value(field, kind, noted)
        if kind.map:
            found.setdefault(field.name, {})[value.get("key", "")] = value.get("value", _empty(kind))
        elif kind.repeated:
            found.setdefault(field.name, []).append(value)
        elif field.name in found:
            raise TextError(
                field.line, field.column, 'Non-repeated field "%s" is specified multiple times.' % field.name
            )
        else:
            found[field.name] = value
    return found


def _is_default(field: Field) -> bool:
    return isinstance(field.value, Scalar) and field.value.text in ("false", "0", "")


def _empty(kind: Kind) -> Any:
    return "" if MESSAGES[kind.type]["value"].type == "string" else {}


def _value(field: Field, kind: Kind, noted: List[str]) -> Any:
    if kind.type in MESSAGES:
        if isinstance(field.value, Scalar):
            raise TextError(field.line, field.column, 'Expected "{", found "%s".' % field.value.text)
        return values(field.value, kind.type, noted)
    if not isinstance(field.value, Scalar):
        raise TextError(field.line, field.column, 'The field "%s" takes a value, not a message.' % field.name)
    return _scalar(field, field.value, kind.type)


def _scalar(field: Field, scalar: Scalar, kind: str) -> Any:
    if kind == "string":
        if scalar.kind != "string":
            raise TextError(field.line, field.column, "Expected string, got: %s" % scalar.text)
        return scalar.text
    if kind == "bool":
        if scalar.kind == "string" or scalar.text not in _TRUTHS:
            raise TextError(
                field.line,
                field.column,
                'Invalid value for boolean field "%s". Value: "%s".' % (field.name, scalar.text),
            )
        return _TRUTHS[scalar.text]
    if kind in ENUMS:
        names = ENUMS[kind]
        if scalar.kind == "word" and scalar.text in names:
            return scalar.text
        if scalar.kind == "number" and scalar.text.isdigit() and int(scalar.text) < len(names):
            return names[int(scalar.text)]
        raise TextError(
            field.line,
            field.column,
            'Unknown enumeration value of "%s" for field "%s".' % (scalar.text, field.name),
        )
    return _integer(field, scalar, kind)


def _integer(field: Field, scalar: Scalar, kind: str) -> int:
    text = scalar.text.lstrip("-")
    try:
        if scalar.kind != "number" or len(text) > _MAX_DIGITS:
            raise ValueError(text)
        octal = len(text) > 1 and text[0] == "0" and text.isdigit()
        found = int(text, 8) if octal else int(text, 0)
    except ValueError:
        raise TextError(field.line, field.column, "Expected integer, got: %s" % scalar.text) from None
    low, high = _BITS[kind]
    found = -found if scalar.text[0] == "-" else found
    if not low <= found <= high:
        raise TextError(field.line, field.column, "Integer out of range (%s)" % scalar.text)
    return found
