"""Validation says what AWS says."""

from __future__ import annotations

import pytest

from clary.wire import catalog
from clary.wire.catalog import Call
from clary.wire.errors import WireError
from clary.wire.patterns import matcher
from clary.wire.validate import MAX_SHOWN_CHARACTERS, check, validate

VARIANT = {"VariantName": "v", "ModelName": "m"}
MODEL_ARN = "arn:aws:sagemaker:us-east-1:123456789012:model/a"
NAME_PATTERN = "[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}"


def shape(service: str, operation: str):
    return catalog.operation(service, operation).input_shape


CASES = [
    ("sagemaker", "CreateEndpoint", {"EndpointName": "a"},
     ["Value null at 'endpointConfigName' failed to satisfy constraint: Member must not be null"]),
    ("sagemaker", "DescribeEndpoint", {"EndpointName": "a_b"},
     [f"Value 'a_b' at 'endpointName' failed to satisfy constraint: Member must satisfy regular expression pattern: "
      f"{NAME_PATTERN}"]),
    ("sagemaker", "DescribeEndpoint", {"EndpointName": "a" * 64},
     [f"Value '{'a' * 64}' at 'endpointName' failed to satisfy constraint: Member must have length less than or equal "
      "to 63"]),
    ("sagemaker", "CreateEndpointConfig",
     {"EndpointConfigName": "c", "ProductionVariants": [{"VariantName": "v_", "ModelName": "m"}]},
     [f"Value 'v_' at 'productionVariants.1.member.variantName' failed to satisfy constraint: Member must satisfy "
      f"regular expression pattern: {NAME_PATTERN}"]),
    ("sagemaker", "CreateEndpointConfig",
     {"EndpointConfigName": "c", "ProductionVariants": [VARIANT, {**VARIANT, "InitialInstanceCount": 0}]},
     ["Value '0' at 'productionVariants.2.member.initialInstanceCount' failed to satisfy constraint: Member must have "
      "value greater than or equal to 1"]),
    ("sagemaker", "CreateEndpointConfig", {"EndpointConfigName": "c", "ProductionVariants": []},
     ["Value '[]' at 'productionVariants' failed to satisfy constraint: Member must have length greater than or equal "
      "to 1"]),
    ("sagemaker", "ListEndpoints", {"MaxResults": 101},
     ["Value '101' at 'maxResults' failed to satisfy constraint: Member must have value less than or equal to 100"]),
    ("sagemaker", "ListEndpoints", {"SortOrder": "Up"},
     ["Value 'Up' at 'sortOrder' failed to satisfy constraint: Member must satisfy enum value set: "
      "[Ascending, Descending]"]),
    ("sagemaker", "DescribeEndpoint", {"EndpointName": "a", "Colour": 1},
     ["Unknown member 'colour': the service model has no member Colour in DescribeEndpointInput; remove it, or upgrade "
      "botocore on the server if AWS has it by now"]),
    ("sagemaker", "DeleteTags", {"ResourceArn": MODEL_ARN, "TagKeys": ["a", "!"]},
     ["Value '[a, !]' at 'tagKeys' failed to satisfy constraint: Member must satisfy constraint: [Member must satisfy "
      r"regular expression pattern: ([\p{L}\p{Z}\p{N}_.:/=+\-@]*)]"]),
    ("sagemaker", "AddTags", {"ResourceArn": MODEL_ARN,
                              "Tags": [{"Key": "größe 大 é", "Value": "٣"}]}, []),
    ("sagemaker-runtime", "InvokeEndpoint", {"EndpointName": "a", "Body": b"x", "CustomAttributes": "ü"},
     [r"Value '***Sensitive Data Redacted***' at 'customAttributes' failed to satisfy constraint: Member must satisfy "
      r"regular expression pattern: \p{ASCII}*"]),
    ("application-autoscaling", "PutScalingPolicy",
     {"PolicyName": "p", "ServiceNamespace": "sagemaker", "ResourceId": "endpoint/e/variant/v😀",
      "ScalableDimension": "sagemaker:variant:DesiredInstanceCount"}, []),
]  # fmt: skip


@pytest.mark.parametrize(("service", "operation", "params", "errors"), CASES)
def test_each_breach_is_named_in_awss_words(service, operation, params, errors) -> None:
    assert validate(shape(service, operation), params) == errors


def test_map_keys_and_values_are_reported_on_the_map() -> None:
    found = validate(
        shape("sagemaker", "CreateModel"),
        {"ModelName": "m", "PrimaryContainer": {"Image": "i", "Environment": {"A": "x" * 1025, "1-": "y"}}},
    )
    assert len(found) == 2
    assert (
        "at 'primaryContainer.environment' failed to satisfy constraint: Map keys must satisfy constraint" in found[0]
    )
    assert "Map value must satisfy constraint: [Member must have length less than or equal to 1024]" in found[1]


def test_several_breaches_are_counted_and_joined() -> None:
    call = Call("sagemaker", "json", catalog.operation("sagemaker", "CreateEndpoint"))
    with pytest.raises(WireError) as caught:
        check(call, {"EndpointName": "_"})
    assert caught.value.code == "ValidationException"
    assert caught.value.status == 400
    assert caught.value.message.startswith("2 validation errors detected: Value null at 'endpointConfigName'")
    assert "; Value '_' at 'endpointName'" in caught.value.message


@pytest.mark.parametrize(
    ("service", "protocol", "operation", "params", "code"),
    [
        ("sagemaker", "json", "DescribeEndpoint", {}, "ValidationException"),
        ("sagemaker-runtime", "rest-json", "InvokeEndpoint", {}, "ValidationError"),
        ("logs", "json", "DescribeLogStreams", {"limit": 0}, "InvalidParameterException"),
        ("application-autoscaling", "json", "DescribeScalableTargets", {}, "ValidationException"),
        ("iam", "query", "GetRole", {}, "ValidationError"),
        ("cloudwatch", "json", "PutMetricData", {}, "ValidationError"),
        ("s3", "rest-xml", "GetObject", {}, "InvalidArgument"),
    ],
)
def test_the_code_is_the_services_own(service, protocol, operation, params, code) -> None:
    with pytest.raises(WireError) as caught:
        check(Call(service, protocol, catalog.operation(service, operation)), params)
    assert caught.value.code == code


def test_a_long_value_does_not_come_back_whole() -> None:
    (error,) = validate(shape("sagemaker", "DescribeEndpoint"), {"EndpointName": "a" * 1_000_000})
    assert len(error) < MAX_SHOWN_CHARACTERS + 200


@pytest.mark.parametrize(
    ("pattern", "value", "fits"),
    [
        (r"([\p{L}\p{Z}\p{N}_.:/=+\-@]*)", "naïve 値 ٣ a/b", True),
        (r"([\p{L}\p{Z}\p{N}_.:/=+\-@]*)", "no!", False),
        (r"([\p{L}\p{Z}\p{N}_.:/=+\-@]*)", "no—dash", False),
        (r"[\p{L}\p{M}\p{Z}\p{S}\p{N}\p{P}]*", "all — of €, e\u0301", True),
        (r"[\p{L}\p{M}\p{Z}\p{S}\p{N}\p{P}]*", "but\nno control", False),
        (r"\p{ASCII}*", "plain \t", True),
        (r"\A\S[\p{Print}]*\z", "a b", True),
        (r"\A\S[\p{Print}]*\z", "a\n", False),
        (r"[\w-_]*", "a-b_c", True),
        (r"[\u0020-\uD7FF\uE000-\uFFFD\uD800\uDC00-\uDBFF\uDFFF\t]*", "a😀\t", True),
        (r"[\u0020-\uD7FF\uE000-\uFFFD\uD800\uDC00-\uDBFF\uDFFF\t]*", "a\n", False),
        (r"[a-z]+", "abc\n", False),
        (r"^(?! )[\p{L}\p{N}\p{Z}-_]*(?<! )$", "a-b c_d", True),
    ],
)
def test_javas_patterns_mean_in_python_what_they_mean_in_java(pattern, value, fits) -> None:
    assert matcher(pattern)(value) is fits
