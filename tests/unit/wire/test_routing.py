"""Which operation a request means: every service, every protocol, and the hundred operations of S3."""

from __future__ import annotations

import pytest

from clary.wire import catalog
from clary.wire.errors import WireError
from clary.wire.http import Request

FORM = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}


def request(method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b"") -> Request:
    pairs = tuple((name.lower().encode(), value.encode()) for name, value in (headers or {}).items())
    return Request(method, target.encode(), pairs, body)


CASES = [
    # signing name, method, target, headers, body -> service, protocol, operation, labels
    ("sagemaker", "POST", "/", {"X-Amz-Target": "SageMaker.ListModels"}, b"{}", "sagemaker", "json", "ListModels", {}),
    (None, "POST", "/", {"X-Amz-Target": "SageMaker.ListModels"}, b"{}", "sagemaker", "json", "ListModels", {}),
    ("logs", "POST", "/", {"X-Amz-Target": "Logs_20140328.GetLogEvents"}, b"{}", "logs", "json", "GetLogEvents", {}),
    ("sagemaker", "POST", "/endpoints/a/invocations", {}, b"x", "sagemaker-runtime", "rest-json", "InvokeEndpoint",
     {"EndpointName": "a"}),
    ("sagemaker", "POST", "/endpoints/..%2Fx/invocations", {}, b"x", "sagemaker-runtime", "rest-json",
     "InvokeEndpoint", {"EndpointName": "../x"}),
    (None, "POST", "/endpoints/a/async-invocations", {}, b"", "sagemaker-runtime", "rest-json", "InvokeEndpointAsync",
     {"EndpointName": "a"}),
    ("sagemaker", "POST", "/endpoints/a/invocations-response-stream", {}, b"", "sagemaker-runtime", "rest-json",
     "InvokeEndpointWithResponseStream", {"EndpointName": "a"}),
    ("sagemaker", "PUT", "/BatchPutMetrics", {}, b"{}", "sagemaker-metrics", "rest-json", "BatchPutMetrics", {}),
    ("sagemaker", "GET", "/FeatureGroup/g", {}, b"", "sagemaker-featurestore-runtime", "rest-json", "GetRecord", None),
    ("sts", "POST", "/", FORM, b"Action=GetCallerIdentity&Version=2011-06-15", "sts", "query", "GetCallerIdentity", {}),
    (None, "POST", "/", FORM, b"Action=GetRole&Version=2010-05-08&RoleName=r", "iam", "query", "GetRole", {}),
    (None, "POST", "/", FORM, b"Action=ListTagsForResource&Version=2010-08-01", "cloudwatch", "query",
     "ListTagsForResource", {}),
    ("monitoring", "POST", "/", {"X-Amz-Target": "GraniteServiceVersion20100801.PutMetricData"}, b"{}", "cloudwatch",
     "json", "PutMetricData", {}),
    ("monitoring", "POST", "/", FORM, b"Action=PutMetricData&Version=2010-08-01", "cloudwatch", "query",
     "PutMetricData", {}),
    ("monitoring", "POST", "/service/GraniteServiceVersion20100801/operation/ListMetrics",
     {"smithy-protocol": "rpc-v2-cbor"}, b"", "cloudwatch", "smithy-rpc-v2-cbor", "ListMetrics", {}),
    ("ec2", "POST", "/", FORM, b"Action=DescribeSubnets&Version=2016-11-15", "ec2", "ec2", "DescribeSubnets", {}),
    ("s3", "GET", "/", {}, b"", "s3", "rest-xml", "ListBuckets", {}),
    ("s3", "PUT", "/b", {}, b"", "s3", "rest-xml", "CreateBucket", {"Bucket": "b"}),
    ("s3", "HEAD", "/b/", {}, b"", "s3", "rest-xml", "HeadBucket", {"Bucket": "b"}),
    ("s3", "GET", "/b?location", {}, b"", "s3", "rest-xml", "GetBucketLocation", {"Bucket": "b"}),
    ("s3", "GET", "/b?list-type=2&prefix=p", {}, b"", "s3", "rest-xml", "ListObjectsV2", {"Bucket": "b"}),
    ("s3", "GET", "/b?prefix=p&encoding-type=url", {}, b"", "s3", "rest-xml", "ListObjects", {"Bucket": "b"}),
    ("s3", "GET", "/b?versions", {}, b"", "s3", "rest-xml", "ListObjectVersions", {"Bucket": "b"}),
    ("s3", "GET", "/b?uploads", {}, b"", "s3", "rest-xml", "ListMultipartUploads", {"Bucket": "b"}),
    ("s3", "POST", "/b?delete", {}, b"<Delete/>", "s3", "rest-xml", "DeleteObjects", {"Bucket": "b"}),
    ("s3", "GET", "/b?analytics", {}, b"", "s3", "rest-xml", "ListBucketAnalyticsConfigurations", {"Bucket": "b"}),
    ("s3", "GET", "/b?analytics&id=1", {}, b"", "s3", "rest-xml", "GetBucketAnalyticsConfiguration", {"Bucket": "b"}),
    ("s3", "GET", "/b?lifecycle", {}, b"", "s3", "rest-xml", "GetBucketLifecycleConfiguration", {"Bucket": "b"}),
    ("s3", "PUT", "/b/k", {}, b"", "s3", "rest-xml", "PutObject", {"Bucket": "b", "Key": "k"}),
    ("s3", "PUT", "/b/a//b/../c%2Fd%20e+f", {}, b"", "s3", "rest-xml", "PutObject",
     {"Bucket": "b", "Key": "a//b/../c/d e+f"}),
    ("s3", "PUT", "/b/k", {"x-amz-copy-source": "/b/o"}, b"", "s3", "rest-xml", "CopyObject",
     {"Bucket": "b", "Key": "k"}),
    ("s3", "PUT", "/b/k?partNumber=1&uploadId=u", {}, b"", "s3", "rest-xml", "UploadPart", {"Bucket": "b", "Key": "k"}),
    ("s3", "PUT", "/b/k?partNumber=1&uploadId=u", {"x-amz-copy-source": "/b/o"}, b"", "s3", "rest-xml",
     "UploadPartCopy", {"Bucket": "b", "Key": "k"}),
    ("s3", "POST", "/b/k?uploads", {}, b"", "s3", "rest-xml", "CreateMultipartUpload", {"Bucket": "b", "Key": "k"}),
    ("s3", "POST", "/b/k?uploads=", {}, b"", "s3", "rest-xml", "CreateMultipartUpload", {"Bucket": "b", "Key": "k"}),
    ("s3", "POST", "/b/k?uploadId=u", {}, b"<a/>", "s3", "rest-xml", "CompleteMultipartUpload",
     {"Bucket": "b", "Key": "k"}),
    ("s3", "DELETE", "/b/k?uploadId=u", {}, b"", "s3", "rest-xml", "AbortMultipartUpload", {"Bucket": "b", "Key": "k"}),
    ("s3", "GET", "/b/k?uploadId=u", {}, b"", "s3", "rest-xml", "ListParts", {"Bucket": "b", "Key": "k"}),
    ("s3", "GET", "/b/k?tagging", {}, b"", "s3", "rest-xml", "GetObjectTagging", {"Bucket": "b", "Key": "k"}),
    ("s3", "GET", "/b/k?attributes", {}, b"", "s3", "rest-xml", "GetObjectAttributes", {"Bucket": "b", "Key": "k"}),
    ("s3", "GET", "/b/k?X-Amz-Expires=9&x-id=GetObject", {}, b"", "s3", "rest-xml", "GetObject",
     {"Bucket": "b", "Key": "k"}),
    ("s3", "GET", "/k/l", {"host": "my.bucket.s3.eu-west-1.local:8787"}, b"", "s3", "rest-xml", "GetObject",
     {"Bucket": "my.bucket", "Key": "k/l"}),
    ("s3", "GET", "/?list-type=2", {"host": "b.s3.localhost"}, b"", "s3", "rest-xml", "ListObjectsV2", {"Bucket": "b"}),
    ("s3", "GET", "/", {"host": "s3.localhost"}, b"", "s3", "rest-xml", "ListBuckets", {}),
    (None, "GET", "/b/k", {}, b"", "s3", "rest-xml", "GetObject", {"Bucket": "b", "Key": "k"}),
    (None, "PUT", "/b/k", FORM, b"", "s3", "rest-xml", "PutObject", {"Bucket": "b", "Key": "k"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("signing", "method", "target", "headers", "body", "service", "protocol", "name", "labels"),
    CASES,
    ids=[f"{case[5]}-{case[7]}-{number}" for number, case in enumerate(CASES)],
)
def test_a_request_finds_its_operation(signing, method, target, headers, body, service, protocol, name, labels) -> None:
    call = catalog.route(request(method, target, headers, body), signing)
    assert (call.service, call.protocol, call.operation.name) == (service, protocol, name)
    if labels is not None:
        assert dict(call.labels) == labels


REFUSALS = [
    ("sagemaker", "POST", "/", {"X-Amz-Target": "SageMaker.Make"}, b"{}", "UnknownOperationException", 400, "json"),
    ("s3", "POST", "/", {"X-Amz-Target": "SageMaker.ListModels"}, b"{}", "UnknownOperationException", 400, "json"),
    ("sagemaker", "GET", "/bucket/key", {}, b"", "UnknownOperationException", 404, "rest-json"),
    ("s3", "POST", "/endpoints/a/invocations", {}, b"", "MethodNotAllowed", 405, "rest-xml"),
    ("quantum", "POST", "/", {}, b"", "UnknownOperationException", 400, "rest-xml"),
    ("sts", "POST", "/", FORM, b"Action=MakeCoffee&Version=2011-06-15", "InvalidAction", 400, "query"),
    ("sts", "POST", "/", FORM, b"", "MissingAction", 400, "query"),
    ("monitoring", "POST", "/service/X/operation/Y", {"smithy-protocol": "rpc-v2-cbor"}, b"",
     "UnknownOperationException", 404, "smithy-rpc-v2-cbor"),
    ("s3", "POST", "/b", {}, b"", "MethodNotAllowed", 405, "rest-xml"),
]  # fmt: skip


@pytest.mark.parametrize(("signing", "method", "target", "headers", "body", "code", "status", "protocol"), REFUSALS)
def test_a_request_that_means_nothing_is_refused_in_its_protocol(
    signing, method, target, headers, body, code, status, protocol
) -> None:
    with pytest.raises(WireError) as caught:
        catalog.route(request(method, target, headers, body), signing)
    assert (caught.value.code, caught.value.status, caught.value.protocol) == (code, status, protocol)
    assert caught.value.message


@pytest.mark.parametrize(
    ("signing", "target", "headers", "protocol"),
    [
        ("sagemaker", "/", {"X-Amz-Target": "SageMaker.CreateModel"}, "json"),
        ("sagemaker", "/endpoints/a/invocations", {}, "rest-json"),
        ("sts", "/", FORM, "query"),
        ("s3", "/b/k", {}, "rest-xml"),
        (None, "/b/k", {}, "rest-xml"),
        (None, "/", FORM, "query"),
        (None, "/endpoints/a/invocations", {}, "rest-json"),
        ("monitoring", "/", FORM, "query"),
        ("ec2", "/", FORM, "ec2"),
    ],
)
def test_the_protocol_of_an_error_is_known_before_the_operation_is(signing, target, headers, protocol) -> None:
    assert catalog.protocol_of(request("POST", target, headers), signing) == protocol


def test_every_s3_operation_finds_itself() -> None:
    """Each template, filled in with its own literals and required query and headers, leads back to its operation."""
    service = catalog.service("s3")
    # Two operations with one and the same request; the model's newer one answers.
    twins = {
        "GetBucketLifecycle", "PutBucketLifecycle", "GetBucketNotification", "PutBucketNotification",
        "ListDirectoryBuckets",
    }  # fmt: skip
    for name in service.operation_names:
        operation = service.operation(name)
        if name in twins:
            continue
        uri = operation.http["requestUri"].replace("{Bucket}", "b").replace("{Key+}", "k")
        headers = {}
        shape = operation.input_shape
        for member in shape.required_members if shape is not None else ():
            traits = shape.members[member].serialization
            if traits.get("location") == "querystring" and f"{traits['name']}=" not in uri:
                uri += ("&" if "?" in uri else "?") + f"{traits['name']}=1"
            elif traits.get("location") == "header":
                headers[traits["name"]] = "1"
        call = catalog.route(request(operation.http["method"], uri, headers), "s3")
        assert call.operation.name == name, uri
