"""Our reading of the service models is botocore's own."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import botocore.model
import pytest
from botocore.loaders import Loader

from clary.wire import catalog
from clary.wire.patterns import matcher

KINDS = ["sagemaker", "sagemaker-runtime", "s3", "sts", "iam", "logs", "cloudwatch", "application-autoscaling", "ec2"]


def same(ours: Any, theirs: Any, seen: set[int]) -> None:
    if id(ours) in seen:
        return
    seen.add(id(ours))
    assert (ours.name, ours.type_name, ours.serialization) == (theirs.name, theirs.type_name, theirs.serialization)
    for key in ("required", "min", "max", "pattern", "enum", "sensitive"):
        assert ours.metadata.get(key) == theirs.metadata.get(key)
    match ours.type_name:
        case "structure":
            assert list(ours.members) == list(theirs.members)
            for name, member in ours.members.items():
                same(member, theirs.members[name], seen)
        case "list":
            same(ours.member, theirs.member, seen)
        case "map":
            same(ours.key, theirs.key, seen)
            same(ours.value, theirs.value, seen)


@pytest.mark.parametrize("name", KINDS)
def test_shapes_and_operations_equal_botocores(name: str) -> None:
    ours = catalog.service(name)
    raw = Loader(include_default_extras=False).load_service_model(name, "service-2")
    theirs = botocore.model.ServiceModel(raw, name)
    assert list(ours.operation_names) == list(theirs.operation_names)
    assert ours.signing_name == theirs.signing_name
    seen: set[int] = set()
    for operation_name in list(theirs.operation_names)[:: 5 if name in ("ec2", "sagemaker") else 1]:
        one, other = ours.operation(operation_name), theirs.operation_model(operation_name)
        assert one.has_streaming_input == other.has_streaming_input
        assert one.has_streaming_output == other.has_streaming_output
        assert one.has_event_stream_output == other.has_event_stream_output
        assert (one.input_shape is None) == (other.input_shape is None)
        if one.input_shape is not None:
            same(one.input_shape, other.input_shape, seen)
        assert (one.output_shape is None) == (other.output_shape is None)
        if one.output_shape is not None:
            same(one.output_shape, other.output_shape, seen)
        assert [shape.error_code for shape in one.error_shapes] == [
            shape.metadata.get("error", {}).get("code", shape.name) for shape in other.error_shapes
        ]


@pytest.mark.parametrize("name", catalog.SERVICES)
def test_every_served_service_has_a_model_and_a_head_that_agrees_with_it(name: str) -> None:
    head, model = catalog.profile(name), catalog.service(name)
    assert (head.signing_name, head.protocols, head.target_prefix) == (
        model.signing_name, model.protocols, model.target_prefix,
    )  # fmt: skip


@pytest.mark.parametrize("name", catalog.SERVICES)
def test_every_pattern_of_every_served_service_can_be_read(name: str) -> None:
    service = catalog.service(name)
    patterns = {raw["pattern"] for raw in service._shapes.values() if "pattern" in raw}
    read = [matcher(pattern)("some-value") for pattern in patterns]
    assert all(isinstance(matches, bool) for matches in read)


def test_reading_models_runs_no_code_of_botocore_and_keeps_no_documentation() -> None:
    code = (
        "import sys\nfrom clary.wire import catalog\ns = catalog.service('sagemaker')\n"
        "assert 'botocore.model' not in sys.modules and 'boto3' not in sys.modules\n"
        "assert not any(isinstance(x.get('documentation'), str) for x in s._shapes.values())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
