"""Unmodified boto3 clients against the whole of this package, without a socket.

A client hands its finished request to a hook; the hook authenticates, routes, decodes and validates it, lets a handler
answer, and hands the encoded response back.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.exceptions import ClientError

from clary.wire import catalog
from clary.wire.aws_chunked import ChunkDecoder
from clary.wire.errors import WireError
from clary.wire.eventstream import event_frame, exception_frame
from clary.wire.http import Request, Response
from clary.wire.protocols import decode, encode, encode_error
from clary.wire.sigv4 import Credential, PayloadMode, authenticate, check_payload, scope_of
from clary.wire.validate import check

KEY = Credential("AKIDEXAMPLE", "secret")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Ring:
    def find(self, access_key_id: str) -> Credential | None:
        return KEY if access_key_id == KEY.access_key_id else None


class Raw(io.BytesIO):
    def stream(self, **_kwargs: Any) -> Any:
        while chunk := self.read(7):
            yield chunk


class Server:
    """Answers one client. `handlers` by operation; `calls` is what came in."""

    def __init__(self, **handlers: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self.handlers = handlers
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def client(self, service: str, url: str = "http://localhost:8787", secret: str = "secret") -> Any:
        client = boto3.client(
            service,
            region_name="us-east-1",
            endpoint_url=url,
            aws_access_key_id=KEY.access_key_id,
            aws_secret_access_key=secret,
            config=Config(retries={"total_max_attempts": 1}),
        )
        client.meta.events.register("before-send", self._before_send)
        return client

    def _before_send(self, request: Any, **_kwargs: Any) -> AWSResponse:
        split = urlsplit(request.url)
        target = split.path + (f"?{split.query}" if split.query else "")
        headers = [(b"host", split.netloc.encode())]
        headers += [
            (name.lower().encode(), value if isinstance(value, bytes) else str(value).encode())
            for name, value in request.headers.items()
            if name.lower() != "host"
        ]
        body = request.body
        if hasattr(body, "read"):
            body = body.read()
        body = body.encode() if isinstance(body, str) else bytes(body or b"")
        response = self.answer(Request(request.method, target.encode(), tuple(headers), body), split.scheme == "https")
        return AWSResponse(request.url, response.status, dict(response.headers), Raw(response.body))

    def answer(self, request: Request, secure: bool) -> Response:
        call = None
        scope = scope_of(request)
        try:
            verdict = authenticate(request, Ring(), datetime.now(UTC), secure_transport=secure)
            body = request.body
            if verdict.payload is PayloadMode.STREAMING_UNSIGNED_TRAILER:
                decoder = ChunkDecoder.of(request, verdict)
                body = b"".join(decoder.feed(request.body))
                assert decoder.finish()
            elif verdict.payload is PayloadMode.SIGNED:
                check_payload(verdict, sha256(request.body).hexdigest())
            call = catalog.route(request, verdict.service)
            params = decode(call, request, body if call.operation.has_streaming_input else None)
            check(call, params)
            self.calls.append((call.operation.name, params))
            return encode(call, self.handlers[call.operation.name](params), "request-1")
        except WireError as error:
            protocol = error.protocol or catalog.protocol_of(request, scope.service if scope else None)
            return encode_error(call or protocol, error, "request-1")


def refuse(code: str, status: int, message: str, **members: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def handler(_params: dict[str, Any]) -> dict[str, Any]:
        raise WireError(code, status, message, members)

    return handler


def test_an_endpoint_is_made_described_and_waited_for() -> None:
    described = {"EndpointName": "e", "EndpointStatus": "InService", "CreationTime": NOW, "LastModifiedTime": NOW}
    arn = {"EndpointConfigArn": "arn:aws:sagemaker:us-east-1:123456789012:endpoint-config/c"}
    server = Server(CreateEndpointConfig=lambda _: arn, DescribeEndpoint=lambda _: described)
    client = server.client("sagemaker")
    variant = {"VariantName": "v", "ModelName": "m", "InitialInstanceCount": 1, "InitialVariantWeight": 1}
    made = client.create_endpoint_config(EndpointConfigName="c", ProductionVariants=[variant])
    assert made["EndpointConfigArn"] == arn["EndpointConfigArn"]
    assert made["ResponseMetadata"]["RequestId"] == "request-1"
    client.get_waiter("endpoint_in_service").wait(EndpointName="e")
    assert client.describe_endpoint(EndpointName="e")["CreationTime"] == NOW
    assert server.calls[0] == ("CreateEndpointConfig", {"EndpointConfigName": "c", "ProductionVariants": [variant]})


def test_bad_names_and_wrong_keys_are_client_errors() -> None:
    server = Server()
    with pytest.raises(ClientError) as caught:
        server.client("sagemaker").describe_endpoint(EndpointName="a_b")
    assert caught.value.response["Error"]["Code"] == "ValidationException"
    assert "1 validation error detected: Value 'a_b' at 'endpointName'" in str(caught.value)
    for service, call, code in (
        ("sagemaker", lambda c: c.list_models(), "InvalidSignatureException"),
        ("sagemaker-runtime", lambda c: c.invoke_endpoint(EndpointName="e", Body=b""), "InvalidSignatureException"),
        ("s3", lambda c: c.list_buckets(), "SignatureDoesNotMatch"),
        ("sts", lambda c: c.get_caller_identity(), "SignatureDoesNotMatch"),
    ):
        with pytest.raises(ClientError) as caught:
            call(server.client(service, secret="wrong"))
        assert caught.value.response["Error"]["Code"] == code


def test_predictions_and_their_errors_come_through() -> None:
    answer = {"Body": b"0.5", "ContentType": "text/csv", "InvokedProductionVariant": "v"}
    server = Server(InvokeEndpoint=lambda _: answer, InvokeEndpointAsync=lambda _: {"OutputLocation": "s3://b/o"})
    client = server.client("sagemaker-runtime")
    got = client.invoke_endpoint(EndpointName="e", Body=b"1,2", ContentType="text/csv", CustomAttributes="a=b")
    assert got["Body"].read() == b"0.5"
    assert (got["ContentType"], got["InvokedProductionVariant"]) == ("text/csv", "v")
    assert server.calls[0][1] == {
        "EndpointName": "e", "Body": b"1,2", "ContentType": "text/csv", "CustomAttributes": "a=b",
    }  # fmt: skip
    sent = client.invoke_endpoint_async(EndpointName="e", InputLocation="s3://b/i")
    assert (sent["ResponseMetadata"]["HTTPStatusCode"], sent["OutputLocation"]) == (202, "s3://b/o")
    server.handlers["InvokeEndpoint"] = refuse("ModelError", 424, "bad", OriginalStatusCode=400, OriginalMessage="m")
    with pytest.raises(client.exceptions.ModelError) as caught:
        client.invoke_endpoint(EndpointName="e", Body=b"")
    assert caught.value.response["OriginalStatusCode"] == 400
    assert caught.value.response["OriginalMessage"] == "m"


def test_a_streamed_prediction_arrives_in_parts_and_may_break_off() -> None:
    frames = event_frame("PayloadPart", b"hel") + event_frame("PayloadPart", b"lo")
    server = Server(InvokeEndpointWithResponseStream=lambda _: {"Body": frames, "ContentType": "text/plain"})
    client = server.client("sagemaker-runtime")
    got = client.invoke_endpoint_with_response_stream(EndpointName="e", Body=b"")
    assert b"".join(event["PayloadPart"]["Bytes"] for event in got["Body"]) == b"hello"
    assert got["ContentType"] == "text/plain"
    broken = frames + exception_frame("ModelStreamError", b'{"Message":"gone","ErrorCode":"StreamBroken"}')
    server.handlers["InvokeEndpointWithResponseStream"] = lambda _: {"Body": broken}
    events = client.invoke_endpoint_with_response_stream(EndpointName="e", Body=b"")["Body"]
    with pytest.raises(ClientError, match="gone"):
        list(events)


@pytest.mark.parametrize("url", ["http://localhost:8787", "https://localhost:8787"])
def test_objects_go_in_and_out_signed_or_chunked(url: str) -> None:
    key = "a//b/../ü +%41"
    server = Server(
        PutObject=lambda _: {"ETag": '"e"'},
        GetObject=lambda _: {"Body": b"data", "ContentLength": 4, "Metadata": {"colour": "red"}, "LastModified": NOW},
        HeadObject=refuse("404", 404, "Not Found"),
        DeleteObjects=lambda params: {"Deleted": [{"Key": one["Key"]} for one in params["Delete"]["Objects"]]},
        GetBucketLocation=lambda _: {"LocationConstraint": "eu-west-1"},
    )
    client = server.client("s3", url)
    assert client.put_object(Bucket="bucket", Key=key, Body=b"data", Metadata={"Colour": "red"})["ETag"] == '"e"'
    name, params = server.calls[0]
    assert (name, params["Bucket"], params["Key"], params["Body"]) == ("PutObject", "bucket", key, b"data")
    assert params["Metadata"] == {"colour": "red"}
    got = client.get_object(Bucket="bucket", Key=key)
    assert (got["Body"].read(), got["Metadata"], got["LastModified"]) == (
        b"data", {"colour": "red"}, NOW.replace(microsecond=0),
    )  # fmt: skip
    with pytest.raises(ClientError) as caught:
        client.head_object(Bucket="bucket", Key=key)
    assert caught.value.response["Error"] == {"Code": "404", "Message": "Not Found"}
    deleted = client.delete_objects(Bucket="bucket", Delete={"Objects": [{"Key": key}, {"Key": "<&>"}]})
    assert [one["Key"] for one in deleted["Deleted"]] == [key, "<&>"]
    assert client.get_bucket_location(Bucket="bucket")["LocationConstraint"] == "eu-west-1"


def test_listings_survive_keys_that_xml_cannot_hold() -> None:
    keys = ["plain", "a b", "ü", "<&>", "line\nbreak", "\x01"]
    server = Server(ListObjectsV2=lambda params: {
        "Name": "b", "EncodingType": params.get("EncodingType"), "Contents": [{"Key": key} for key in keys],
    })  # fmt: skip
    listed = server.client("s3").list_objects_v2(Bucket="bucket", Prefix="a b")
    assert [one["Key"] for one in listed["Contents"]] == keys
    assert server.calls[0][1] == {"Bucket": "bucket", "Prefix": "a b", "EncodingType": "url"}


def test_presigned_urls_of_boto3_are_accepted() -> None:
    server = Server(GetObject=lambda _: {"Body": b"data"})
    for region in ("us-east-1", "eu-central-1"):
        client = boto3.client(
            "s3", region_name=region, endpoint_url="http://localhost:8787",
            aws_access_key_id=KEY.access_key_id, aws_secret_access_key="secret",
        )  # fmt: skip
        url = client.generate_presigned_url(
            "get_object", Params={"Bucket": "b-c-d", "Key": "k é", "ResponseContentType": "text/csv"}
        )
        split = urlsplit(url)
        request = Request("GET", f"{split.path}?{split.query}".encode(), ((b"host", split.netloc.encode()),))
        assert server.answer(request, False).status == 200
        assert server.calls[-1] == (
            "GetObject", {"Bucket": "b-c-d", "Key": "k é", "ResponseContentType": "text/csv"},
        )  # fmt: skip


def test_the_other_services_answer_in_their_protocols() -> None:
    point = {"Timestamp": NOW, "Average": 1.5}
    server = Server(
        GetCallerIdentity=lambda _: {"Account": "123456789012"},
        GetRole=refuse("NoSuchEntity", 404, "The role with name r cannot be found."),
        GetMetricStatistics=lambda _: {"Label": "l", "Datapoints": [point]},
        GetDashboard=refuse("ResourceNotFound", 404, "no such dashboard"),
        GetLogEvents=lambda _: {"events": [{"timestamp": 1, "message": "m"}], "nextForwardToken": "t"},
        DescribeScalableTargets=lambda _: {"ScalableTargets": []},
        DescribeSubnets=lambda _: {"Subnets": [{"SubnetId": "subnet-1"}]},
    )
    assert server.client("sts").get_caller_identity()["Account"] == "123456789012"
    iam = server.client("iam")
    with pytest.raises(iam.exceptions.NoSuchEntityException):
        iam.get_role(RoleName="r")
    cloudwatch = server.client("cloudwatch")
    statistics = cloudwatch.get_metric_statistics(
        Namespace="AWS/SageMaker",
        MetricName="Invocations",
        StartTime=NOW,
        EndTime=NOW,
        Period=60,
        Statistics=["Average"],
    )
    assert statistics["Datapoints"] == [point]
    assert server.calls[-1][1]["StartTime"] == NOW
    with pytest.raises(ClientError) as caught:
        cloudwatch.get_dashboard(DashboardName="d")
    assert caught.value.response["Error"]["Code"] == "ResourceNotFound"
    events = server.client("logs").get_log_events(logGroupName="/aws/sagemaker/Endpoints/e", logStreamName="s")
    assert events["events"] == [{"timestamp": 1, "message": "m"}]
    scaling = server.client("application-autoscaling")
    assert scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"] == []
    assert server.client("ec2").describe_subnets(SubnetIds=["subnet-1"])["Subnets"] == [{"SubnetId": "subnet-1"}]
