"""Answers and errors as clients know them: S3's oddities, error shapes, limits of what is read."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import cbor2
import pytest
from botocore import parsers
from botocore.compat import HTTPHeaders
from botocore.model import ServiceModel

from clary.wire import catalog
from clary.wire.catalog import Call
from clary.wire.errors import WireError
from clary.wire.http import Request, Response
from clary.wire.protocols import decode, encode, encode_error


def call(service: str, name: str, protocol: str, **more: Any) -> Call:
    return Call(service, protocol, catalog.operation(service, name), **more)


def header(response: Response, name: str) -> str | None:
    return next((value for key, value in response.headers if key.lower() == name.lower()), None)


def parsed_error(protocol: str, response: Response) -> dict[str, Any]:
    headers = HTTPHeaders()
    for key, value in response.headers:
        headers[key] = value
    sent = {"status_code": response.status, "headers": headers, "body": response.body, "context": {}}
    result: dict[str, Any] = parsers.create_parser(protocol).parse(sent, None)
    return result


def test_an_operation_without_output_answers_with_an_empty_body() -> None:
    response = encode(call("sagemaker", "DeleteEndpoint", "json"), {}, "id-1")
    assert (response.status, response.body) == (200, b"")
    assert header(response, "x-amzn-requestid") == "id-1"


@pytest.mark.parametrize(
    ("service", "operation", "protocol", "result", "status"),
    [
        ("sagemaker-runtime", "InvokeEndpointAsync", "rest-json", {"InferenceId": "i"}, 202),
        ("s3", "DeleteObject", "rest-xml", {}, 204),
        ("s3", "PutObject", "rest-xml", {"ETag": '"a"'}, 200),
    ],
)
def test_the_status_is_the_models(service, operation, protocol, result, status) -> None:
    assert encode(call(service, operation, protocol), result, "id-1").status == status


def test_a_prediction_passes_through_with_its_headers() -> None:
    body = object()
    result = {"Body": body, "ContentType": "text/csv", "InvokedProductionVariant": "v", "CustomAttributes": "c"}
    response = encode(call("sagemaker-runtime", "InvokeEndpoint", "rest-json"), result, "id-1")
    assert response.body is body
    assert header(response, "content-type") == "text/csv"
    assert header(response, "x-amzn-invoked-production-variant") == "v"
    assert [key.lower() for key, _ in response.headers].count("content-type") == 1


def test_timestamps_are_numbers_in_json_and_text_in_xml() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
    endpoint = encode(call("sagemaker", "DescribeEndpoint", "json"), {"CreationTime": moment}, "id-1")
    assert json.loads(endpoint.body) == {"CreationTime": 1767323045.678}
    role = encode(
        call("sts", "AssumeRole", "query"), {"Credentials": {"Expiration": moment.replace(microsecond=0)}}, "i"
    )
    assert b"<Expiration>2026-01-02T03:04:05Z</Expiration>" in role.body
    listing = {"Contents": [{"Key": "k", "LastModified": moment.replace(microsecond=0)}]}
    objects = encode(call("s3", "ListObjectsV2", "rest-xml"), listing, "i")
    assert b"<LastModified>2026-01-02T03:04:05.000Z</LastModified>" in objects.body
    head = encode(call("s3", "HeadObject", "rest-xml"), {"LastModified": moment}, "i")
    assert header(head, "last-modified") == "Fri, 02 Jan 2026 03:04:05 GMT"
    metric = encode(
        call("cloudwatch", "GetMetricStatistics", "smithy-rpc-v2-cbor"), {"Datapoints": [{"Timestamp": moment}]}, "i"
    )
    assert cbor2.loads(metric.body)["Datapoints"][0]["Timestamp"] == moment


def test_s3_answers_have_the_roots_that_strict_clients_check() -> None:
    objects = encode(call("s3", "ListObjectsV2", "rest-xml"), {"Name": "b"}, "i")
    assert (
        b'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name></ListBucketResult>'
        in objects.body
    )
    copied = encode(call("s3", "CopyObject", "rest-xml"), {"CopyObjectResult": {"ETag": '"e"'}}, "i")
    assert b"<CopyObjectResult xmlns=" in copied.body
    assert header(copied, "x-amz-request-id") == "i"
    assert header(copied, "x-amz-id-2") is not None


@pytest.mark.parametrize(("region", "text"), [("eu-west-1", ">eu-west-1</Loc"), (None, "></Loc")])
def test_a_buckets_location_is_a_bare_element(region: str | None, text: str) -> None:
    response = encode(call("s3", "GetBucketLocation", "rest-xml"), {"LocationConstraint": region}, "i")
    assert text.encode() in response.body
    assert response.body.count(b"LocationConstraint") == 2


def test_names_are_percent_encoded_when_the_listing_says_so() -> None:
    result = {
        "EncodingType": "url", "Prefix": "a b", "Delimiter": "/", "Name": "b",
        "Contents": [{"Key": "a b/\x01é"}], "CommonPrefixes": [{"Prefix": "a b/c+"}],
    }  # fmt: skip
    body = encode(call("s3", "ListObjectsV2", "rest-xml"), result, "i").body
    assert b"<Key>a%20b/%01%C3%A9</Key>" in body
    assert b"<CommonPrefixes><Prefix>a%20b/c%2B</Prefix></CommonPrefixes>" in body
    assert b"<Delimiter>/</Delimiter>" in body
    plain = encode(call("s3", "ListObjectsV2", "rest-xml"), {**result, "EncodingType": None}, "i").body
    assert "<Key>a b/&#x1;é</Key>".encode() in plain


ERRORS = [
    (call("sagemaker", "DescribeEndpoint", "json"), WireError("ValidationException", 400, "Could not find"), 400,
     "ValidationException"),
    (call("sagemaker", "CreateTrainingJob", "json"), WireError("ResourceInUse", 409, "taken"), 409, "ResourceInUse"),
    (call("sagemaker-runtime", "InvokeEndpoint", "rest-json"), WireError("ValidationError", 400, "no"), 400,
     "ValidationError"),
    (call("sagemaker-runtime", "InvokeEndpoint", "rest-json"), WireError("ModelError", 500, "bad"), 424, "ModelError"),
    (call("iam", "GetRole", "query"), WireError("NoSuchEntity", 400, "no role"), 404, "NoSuchEntity"),
    (call("sts", "GetCallerIdentity", "query"), WireError("AccessDeniedException", 403, "no"), 403, "AccessDenied"),
    (call("ec2", "DescribeVpcs", "ec2"), WireError("InvalidVpcID.NotFound", 400, "no"), 400, "InvalidVpcID.NotFound"),
    (call("s3", "GetObject", "rest-xml"), WireError("NoSuchKey", 404, "no <key>"), 404, "NoSuchKey"),
    (call("s3", "GetObject", "rest-xml"), WireError("InvalidSignatureException", 403, "no"), 403,
     "SignatureDoesNotMatch"),
    (call("cloudwatch", "GetDashboard", "json"), WireError("ResourceNotFound", 404, "no"), 404,
     "DashboardNotFoundError"),
    (call("cloudwatch", "PutMetricData", "smithy-rpc-v2-cbor"), WireError("ValidationError", 400, "no"), 400,
     "ValidationException"),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "error", "status", "code"), ERRORS, ids=[f"{e[0].protocol}-{e[3]}" for e in ERRORS])
def test_botocore_reads_the_code_and_the_message(asked: Call, error: WireError, status: int, code: str) -> None:
    response = encode_error(asked, error, "id-1")
    parsed = parsed_error(asked.protocol, response)
    assert response.status == status
    assert parsed["Error"]["Message"] == error.message
    assert parsed["Error"]["Code"] == code


@pytest.mark.parametrize("protocol", ["json", "rest-json", "rest-xml", "query", "ec2", "smithy-rpc-v2-cbor"])
def test_an_error_can_be_told_before_the_operation_is_known(protocol: str) -> None:
    response = encode_error(protocol, WireError("AccessDeniedException", 403, "no & <no>"), "id-1")
    parsed = parsed_error(protocol, response)
    assert response.status == 403
    assert parsed["Error"]["Code"].startswith("AccessDenied")
    assert parsed["Error"]["Message"] == "no & <no>"


def test_a_model_error_carries_its_modelled_members() -> None:
    members = {"OriginalStatusCode": 400, "OriginalMessage": "boom", "LogStreamArn": "arn"}
    asked = call("sagemaker-runtime", "InvokeEndpoint", "rest-json")
    response = encode_error(asked, WireError("ModelError", 424, "Received client error", members), "i")
    assert header(response, "x-amzn-errortype") == "ModelError"
    assert json.loads(response.body) == {"Message": "Received client error", **members}


def test_an_old_query_client_gets_the_old_code_in_a_header() -> None:
    asked = call("cloudwatch", "GetDashboard", "json", query_mode=True)
    response = encode_error(asked, WireError("ResourceNotFound", 404, "no"), "i")
    assert header(response, "x-amzn-query-error") == "ResourceNotFound;Sender"
    assert json.loads(response.body)["__type"] == "DashboardNotFoundError"
    assert parsed_error("json", response)["Error"]["Code"] == "ResourceNotFound"
    unasked = encode_error(call("cloudwatch", "GetDashboard", "json"), WireError("ResourceNotFound", 404, "no"), "i")
    assert header(unasked, "x-amzn-query-error") is None


def test_s3_errors_name_the_resource_and_heads_have_no_body() -> None:
    labels = {"Bucket": "b", "Key": "k"}
    error = WireError("NoSuchBucket", 404, "The specified bucket does not exist", {"BucketName": "b"})
    response = encode_error(call("s3", "GetObject", "rest-xml", labels=labels), error, "i")
    assert b"<BucketName>b</BucketName><Resource>/b/k</Resource><RequestId>i</RequestId>" in response.body
    head = encode_error(call("s3", "HeadBucket", "rest-xml", labels=labels), error, "i")
    assert (head.status, head.body) == (404, b"")
    assert parsed_error("rest-xml", head)["Error"]["Code"] == "404"


def test_extra_headers_of_an_error_are_sent() -> None:
    error = WireError("SlowDown", 503, "slow", headers={"Retry-After": "1"})
    assert header(encode_error("rest-xml", error, "i"), "retry-after") == "1"


def variant(member: bytes) -> bytes:
    return b'{"ProductionVariants":[{' + member + b"}]}"


JSON = call("sagemaker", "CreateEndpointConfig", "json")
S3 = call("s3", "DeleteObjects", "rest-xml", labels={"Bucket": "b"})
QUERY = call("iam", "SimulatePrincipalPolicy", "query")
CBOR = call("cloudwatch", "PutMetricData", "smithy-rpc-v2-cbor")

UNREADABLE = [
    ("not JSON", JSON, b"{", "SerializationException"),
    ("no object", JSON, b"[]", "SerializationException"),
    ("NaN", JSON, variant(b'"InitialVariantWeight":NaN'), "SerializationException"),
    ("a string for an integer", JSON, variant(b'"InitialInstanceCount":"1"'), "SerializationException"),
    ("a boolean for an integer", JSON, variant(b'"InitialInstanceCount":true'), "SerializationException"),
    ("a number for a string", JSON, b'{"EndpointConfigName":1}', "SerializationException"),
    ("an object for a list", JSON, b'{"Tags":{}}', "SerializationException"),
    ("deep nesting", JSON, b'{"Tags":' + b"[" * 100 + b"]" * 100 + b"}", "SerializationException"),
    ("very deep nesting", JSON, b"[" * 100_000, "SerializationException"),
    ("half a character", JSON, b'{"EndpointConfigName":"\\ud800"}', "SerializationException"),
    ("a huge number", JSON, b'{"EndpointConfigName":' + b"9" * 10_000 + b"}", "SerializationException"),
    ("bytes that are no UTF-8", JSON, b'{"EndpointConfigName":"\xff"}', "SerializationException"),
    ("not XML", S3, b"<Delete>", "MalformedXML"),
    ("a document type", S3, b'<!DOCTYPE a [<!ENTITY b "c">]><Delete>&b;</Delete>', "MalformedXML"),
    ("an external entity", S3, b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><Delete/>', "MalformedXML"),
    ("an undefined entity", S3, b"<Delete>&lol;</Delete>", "MalformedXML"),
    ("deep XML", S3, b"<a>" * 100 + b"</a>" * 100, "MalformedXML"),
    ("text for a boolean", S3, b"<Delete><Quiet>perhaps</Quiet></Delete>", "SerializationException"),
    ("a list without numbers", QUERY, b"Action=a&ActionNames.member.x=1", "SerializationException"),
    ("a list without its step", QUERY, b"Action=a&ActionNames.1=1", "SerializationException"),
    ("text for a number", QUERY, b"Action=a&MaxItems=many", "SerializationException"),
    ("bytes that are no form", QUERY, b"Action=%ff", "SerializationException"),
    ("a name of many dots", QUERY, b"Action=a&" + b"a." * 1000 + b"=1", "SerializationException"),
    ("not CBOR", CBOR, b"\xff", "SerializationException"),
    ("a CBOR string that ends early", CBOR, b"\xa1\x69Name", "SerializationException"),
    ("a CBOR length of 2^63", CBOR, b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff", "SerializationException"),
    ("a CBOR list of 2^62", CBOR, b"\x9b\x3f\xff\xff\xff\xff\xff\xff\xff", "SerializationException"),
    ("deep CBOR", CBOR, b"\x81" * 200 + b"\x00", "SerializationException"),
    ("a CBOR document that holds itself", CBOR, b"\xa1\x61a\xd8\x1c\x81\xd8\x1d\x00",
     "SerializationException"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "asked", "body", "code"), UNREADABLE, ids=[case[0] for case in UNREADABLE])
def test_what_cannot_be_read_is_refused(case: str, asked: Call, body: bytes, code: str) -> None:
    with pytest.raises(WireError) as caught:
        decode(asked, Request("POST", b"/", (), body))
    assert (caught.value.code, caught.value.status) == (code, 400)
    assert len(caught.value.message) < 1000


def test_unknown_members_are_kept_for_validation_to_name() -> None:
    got = decode(JSON, Request("POST", b"/", (), b'{"EndpointConfigName":"c","Colour":{"a":1},"Tags":null}'))
    assert got == {"EndpointConfigName": "c", "Colour": {"a": 1}}
    form = decode(QUERY, Request("POST", b"/", (), b"Action=a&Version=b&PolicySourceArn=p&Colour.member.1.Hue=red"))
    assert form == {"PolicySourceArn": "p", "Colour.member.1.Hue": "red"}
    xml = decode(S3, Request("POST", b"/b?delete", (), b"<Delete><Colour>red</Colour></Delete>"))
    assert xml["Delete"] == {"Colour": "red"}


def test_the_last_of_a_repeated_json_member_counts() -> None:
    assert decode(JSON, Request("POST", b"/", (), b'{"EndpointConfigName":"a","EndpointConfigName":"b"}')) == {
        "EndpointConfigName": "b"
    }


def test_a_streaming_body_is_handed_on_untouched() -> None:
    stream = object()
    asked = call("s3", "PutObject", "rest-xml", labels={"Bucket": "b", "Key": "k"})
    headers = ((b"x-amz-meta-colour", b"red"), (b"content-type", b"text/csv"), (b"content-length", b"5"))
    got = decode(asked, Request("PUT", b"/b/k", headers), stream)
    assert got["Body"] is stream
    assert (got["Metadata"], got["ContentType"], got["ContentLength"]) == ({"colour": "red"}, "text/csv", 5)


def test_every_modelled_error_of_the_inference_services_is_read_back_by_botocore() -> None:
    for service, protocol in (("sagemaker", "json"), ("sagemaker-runtime", "rest-json"), ("iam", "query")):
        ours = catalog.service(service)
        theirs = ServiceModel({"metadata": ours.metadata, "operations": {}, "shapes": dict(ours._shapes)}, service)
        for name in ours.operation_names:
            for shape in ours.operation(name).error_shapes:
                response = encode_error(call(service, name, protocol), WireError(shape.error_code, 400, "why"), "i")
                parsed = parsed_error(protocol, response)
                assert parsed["Error"]["Code"] == shape.error_code
                assert parsed["Error"]["Message"] == "why"
                assert theirs.shape_for(shape.name).metadata["exception"]
