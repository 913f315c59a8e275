"""An external S3 in the place of our own store: a second clary, with an address, an account and keys of its own.

Clients keep the first one's address and keys. What they upload there lies in the second one's data folder, and models,
inputs, outputs and captured calls come from it and go to it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import urllib.request
import uuid
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from conftest import ROLE, Clary, Trained, free_port, instance, wait_for

AWS = str(Path(sys.executable).with_name("aws"))
MIB = 1 << 20


def key_file(store: Clary, folder: Path, **changed: str) -> Path:
    """The store's keys as a file for whoever uses it."""
    variables = {**store.environment(), **changed}
    path = folder / f"keys-{uuid.uuid4().hex}"
    path.touch(0o600)
    path.write_text(
        "[default]\n"
        f"aws_access_key_id = {variables['AWS_ACCESS_KEY_ID']}\n"
        f"aws_secret_access_key = {variables['AWS_SECRET_ACCESS_KEY']}\n"
    )
    return path


@pytest.fixture(scope="module")
def store(start_clary: Callable[..., Clary]) -> Clary:
    """The external S3."""
    return start_clary(CLARY_ACCOUNT="999988887777")


@pytest.fixture(scope="module")
def front(start_clary: Callable[..., Clary], store: Clary, tmp_path_factory: pytest.TempPathFactory) -> Clary:
    """The clary that is under test."""
    keys = key_file(store, tmp_path_factory.mktemp("keys"))
    url = store.environment()["AWS_ENDPOINT_URL"]
    return start_clary(CLARY_S3_ENDPOINT_URL=url, CLARY_S3_CREDENTIALS_FILE=str(keys))


@pytest.fixture
def bucket(front: Clary) -> str:
    name = f"b-{uuid.uuid4().hex[:10]}"
    front.client("s3").create_bucket(Bucket=name)
    return name


@pytest.fixture
def s3(front: Clary) -> Any:
    return front.client("s3")


def refused(code: str, work: Callable[[], Any]) -> str:
    """The message of a refusal with that code."""
    with pytest.raises(ClientError) as caught:
        work()
    assert caught.value.response["Error"]["Code"] == code, caught.value
    return str(caught.value.response["Error"]["Message"])


# -- clients of S3 through the front ---------------------------------------------------------------


def test_objects_lie_in_the_external_store_alone(front: Clary, store: Clary, s3: Any, bucket: str) -> None:
    s3.put_object(
        Bucket=bucket, Key="a b/ü+&.txt", Body=b"text", ContentType="text/plain", Metadata={"who": "me"}, Tagging="k=v"
    )
    there = store.client("s3").get_object(Bucket=bucket, Key="a b/ü+&.txt")
    assert (there["Body"].read(), there["ContentType"], there["Metadata"]) == (b"text", "text/plain", {"who": "me"})
    here = s3.get_object(Bucket=bucket, Key="a b/ü+&.txt")
    assert (here["Body"].read(), here["ETag"], here["TagCount"]) == (b"text", there["ETag"], 1)
    assert not (front.data / "objects").exists()
    assert bucket in [one["Name"] for one in s3.list_buckets()["Buckets"]]
    assert front.environment()["AWS_ACCESS_KEY_ID"] != store.environment()["AWS_ACCESS_KEY_ID"]


def test_large_objects_go_up_in_parts_and_come_down_in_ranges(s3: Any, bucket: str, tmp_path: Path) -> None:
    whole = os.urandom(21 * MIB + 17)
    (tmp_path / "up").write_bytes(whole)
    transfer = TransferConfig(multipart_threshold=8 * MIB, multipart_chunksize=8 * MIB)
    s3.upload_file(str(tmp_path / "up"), bucket, "large", Config=transfer)
    assert s3.head_object(Bucket=bucket, Key="large")["ETag"].endswith('-3"')
    s3.download_file(bucket, "large", str(tmp_path / "down"), Config=transfer)
    assert (tmp_path / "down").read_bytes() == whole
    part = s3.get_object(Bucket=bucket, Key="large", Range="bytes=100-199")
    assert (part["Body"].read(), part["ContentRange"]) == (whole[100:200], f"bytes 100-199/{len(whole)}")
    s3.put_object(Bucket=bucket, Key="one", Body=whole)
    assert hashlib.md5(s3.get_object(Bucket=bucket, Key="one")["Body"].read()).digest() == hashlib.md5(whole).digest()
    s3.put_object(Bucket=bucket, Key="none", Body=b"")
    assert s3.get_object(Bucket=bucket, Key="none")["Body"].read() == b""


def test_lists_deletes_copies_and_conditions(s3: Any, bucket: str) -> None:
    for number in range(5):
        s3.put_object(Bucket=bucket, Key=f"d/{number}", Body=b"x" * number)
    page = s3.list_objects_v2(Bucket=bucket, Prefix="d/", MaxKeys=2)
    assert [one["Key"] for one in page["Contents"]] == ["d/0", "d/1"]
    rest = s3.list_objects_v2(Bucket=bucket, Prefix="d/", ContinuationToken=page["NextContinuationToken"])
    assert [one["Size"] for one in rest["Contents"]] == [2, 3, 4]
    assert s3.list_objects_v2(Bucket=bucket, Delimiter="/")["CommonPrefixes"] == [{"Prefix": "d/"}]
    s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "d/3"})
    assert s3.get_object(Bucket=bucket, Key="copy")["Body"].read() == b"xxx"
    gone = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "d/0"}, {"Key": "d/1"}, {"Key": "absent"}]})
    assert {one["Key"] for one in gone["Deleted"]} == {"d/0", "d/1", "absent"}
    etag = s3.head_object(Bucket=bucket, Key="d/2")["ETag"]
    assert s3.get_object(Bucket=bucket, Key="d/2", IfMatch=etag)["Body"].read() == b"xx"
    with pytest.raises(ClientError) as caught:
        s3.get_object(Bucket=bucket, Key="d/2", IfNoneMatch=etag)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 304
    refused("PreconditionFailed", lambda: s3.put_object(Bucket=bucket, Key="d/2", Body=b"", IfNoneMatch="*"))
    refused("NoSuchKey", lambda: s3.get_object(Bucket=bucket, Key="absent"))
    refused("NoSuchBucket", lambda: s3.put_object(Bucket="absent-" + bucket, Key="k", Body=os.urandom(4 * MIB)))
    refused("404", lambda: s3.head_object(Bucket=bucket, Key="absent"))
    assert s3.head_object(Bucket=bucket, Key="d/2", ExpectedBucketOwner="123456789012")["ContentLength"] == 2
    refused("403", lambda: s3.head_object(Bucket=bucket, Key="d/2", ExpectedBucketOwner="999988887777"))


@pytest.mark.parametrize("version", ["s3v4", "s3"])
def test_presigned_addresses_are_ours(front: Clary, bucket: str, version: str) -> None:
    s3 = front.client("s3", signature_version=version)
    where = {"Bucket": bucket, "Key": "pre signed"}
    put = urllib.request.Request(s3.generate_presigned_url("put_object", where), b"body", method="PUT")
    put.add_header("Content-Type", "")
    with urllib.request.urlopen(put, timeout=30) as answer:
        assert answer.status == 200
    address = s3.generate_presigned_url("get_object", {**where, "ResponseContentType": "text/x-test"})
    assert address.startswith(front.environment()["AWS_ENDPOINT_URL"])
    with urllib.request.urlopen(address, timeout=30) as answer:
        assert (answer.read(), answer.headers["Content-Type"]) == (b"body", "text/x-test")


def chunked(front: Clary, target: str, content: bytes, checksum: bytes, **more: str) -> tuple[int, bytes]:
    """PUT of an aws-chunked body with its CRC32 behind it, as SDKs send them over TLS."""
    variables = front.environment()
    request = AWSRequest(
        "PUT",
        variables["AWS_ENDPOINT_URL"] + target,
        headers={
            "X-Amz-Trailer": "x-amz-checksum-crc32",
            "X-Amz-Decoded-Content-Length": str(len(content)),
            "Content-Encoding": "aws-chunked",
            **more,
        },
    )
    request.context["checksum"] = {"request_algorithm": {"in": "trailer"}}
    credentials = Credentials(variables["AWS_ACCESS_KEY_ID"], variables["AWS_SECRET_ACCESS_KEY"])
    S3SigV4Auth(credentials, "s3", "us-east-1").add_auth(request)
    pieces = [content[at : at + 100_000] for at in range(0, len(content), 100_000)]
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    body += b"0\r\nx-amz-checksum-crc32:" + checksum + b"\r\n\r\n"
    sent = urllib.request.Request(request.url, body, dict(request.headers), method="PUT")
    try:
        with urllib.request.urlopen(sent, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def crc32(content: bytes) -> bytes:
    return base64.b64encode(zlib.crc32(content).to_bytes(4, "big"))


def test_chunked_bodies_keep_their_checksums(front: Clary, s3: Any, bucket: str) -> None:
    content = os.urandom(3 * MIB + 5)
    status, told = chunked(front, f"/{bucket}/chunked", content, crc32(content), **{"Content-Type": "a/b"})
    assert status == 200, told
    found = s3.get_object(Bucket=bucket, Key="chunked", ChecksumMode="ENABLED")
    assert found["Body"].read() == content
    assert (found["ChecksumCRC32"], found["ContentType"]) == (crc32(content).decode(), "a/b")
    status, told = chunked(front, f"/{bucket}/bad", content, crc32(b"something else"))
    assert status == 400
    assert b"BadDigest" in told or b"checksum" in told
    refused("404", lambda: s3.head_object(Bucket=bucket, Key="bad"))


def test_many_at_once(s3: Any, bucket: str) -> None:
    bodies = {f"many/{number}": os.urandom(1000 + number) for number in range(200)}

    def there_and_back(item: tuple[str, bytes]) -> bool:
        s3.put_object(Bucket=bucket, Key=item[0], Body=item[1])
        return bool(s3.get_object(Bucket=bucket, Key=item[0])["Body"].read() == item[1])

    with ThreadPoolExecutor(32) as threads:
        assert all(threads.map(there_and_back, bodies.items()))


def test_our_policies_hold_in_front_of_it(front: Clary, bucket: str) -> None:
    iam = front.client("iam")
    iam.create_user(UserName="reader")
    allowed = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/open/*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    iam.put_user_policy(UserName="reader", PolicyName="read", PolicyDocument=document)
    key = iam.create_access_key(UserName="reader")["AccessKey"]
    reader = boto3.client(
        "s3",
        region_name="us-east-1",
        endpoint_url=front.environment()["AWS_ENDPOINT_URL"],
        aws_access_key_id=key["AccessKeyId"],
        aws_secret_access_key=key["SecretAccessKey"],
        config=Config(retries={"total_max_attempts": 1}),
    )
    for name in ("open/a", "shut/a"):
        front.client("s3").put_object(Bucket=bucket, Key=name, Body=b"x")
    assert reader.get_object(Bucket=bucket, Key="open/a")["Body"].read() == b"x"
    refused("AccessDenied", lambda: reader.get_object(Bucket=bucket, Key="shut/a"))
    refused("AccessDenied", lambda: reader.put_object(Bucket=bucket, Key="open/b", Body=b""))
    source = {"Bucket": bucket, "Key": "shut/a"}
    refused("AccessDenied", lambda: reader.copy_object(Bucket=bucket, Key="open/c", CopySource=source))
    refused("AccessDenied", lambda: reader.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "open/a"}]}))
    refused("AccessDenied", reader.list_buckets)
    keyless = f"{front.environment()['AWS_ENDPOINT_URL']}/{bucket}/open/a"
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(keyless, timeout=30)
    assert caught.value.code == 403


def test_what_only_our_own_store_does_is_refused_by_name(s3: Any, bucket: str) -> None:
    rule = {"QueueArn": "arn:aws:sqs:us-east-1:123456789012:q", "Events": ["s3:ObjectCreated:*"]}
    told = refused(
        "NotImplemented",
        lambda: s3.put_bucket_notification_configuration(
            Bucket=bucket, NotificationConfiguration={"QueueConfigurations": [rule]}
        ),
    )
    assert "external object store" in told
    assert "PutBucketNotificationConfiguration" in told
    told = refused("NotImplemented", lambda: s3.put_bucket_policy(Bucket=bucket, Policy="{}"))
    assert "not among the operations that are passed on" in told


def test_awscli_copies_and_syncs(front: Clary, bucket: str, tmp_path: Path) -> None:
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "AWS_PAGER": "", **front.environment()}
    there, back = tmp_path / "there", tmp_path / "back"
    (there / "deep").mkdir(parents=True)
    (there / "small.txt").write_text("small")
    (there / "deep" / "big.bin").write_bytes(os.urandom(17 * MIB))

    def aws(*arguments: str) -> str:
        done = subprocess.run([AWS, *arguments], env=environ, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout

    aws("s3", "sync", "--quiet", str(there), f"s3://{bucket}/a")
    assert aws("s3", "sync", str(there), f"s3://{bucket}/a") == ""
    aws("s3", "cp", "--quiet", "--recursive", f"s3://{bucket}/a", str(back))
    for name in ("small.txt", "deep/big.bin"):
        assert (back / name).read_bytes() == (there / name).read_bytes()


# -- what control reads and writes -----------------------------------------------------------------


@pytest.fixture(scope="module")
def uri(front: Clary, forest: Trained) -> str:
    return front.upload(dict(forest.files))


@pytest.fixture(scope="module")
def endpoint(front: Clary, uri: str) -> str:
    return front.endpoint(front.config(instance(front.model(uri, "clary/sklearn"))))


def predictions(text: bytes | str) -> list[float]:
    return [float(word) for word in (text.decode() if isinstance(text, bytes) else text).split()]


def test_a_models_archive_comes_from_there(front: Clary, endpoint: str, forest: Trained) -> None:
    found = predictions(front.invoke(endpoint, forest.csv(20), Accept="text/csv"))
    assert found == [float(value) for value in forest.estimator.predict(forest.rows[:20])]
    assert list((front.data / "fetched").iterdir()) == []


def test_an_archive_in_parts_and_one_that_is_missing(front: Clary, s3: Any, bucket: str, forest: Trained) -> None:
    filler = os.urandom(18 * MIB)
    uri = front.upload({**forest.files, "code/filler.bin": filler}, bucket)
    key = uri.removeprefix(f"s3://{bucket}/")
    s3.copy_object(Bucket=bucket, Key="again/model.tar.gz", CopySource={"Bucket": bucket, "Key": key})
    name = front.endpoint(front.config(instance(front.model(f"s3://{bucket}/again/model.tar.gz", "clary/sklearn"))))
    expected = [float(value) for value in forest.estimator.predict(forest.rows[:3])]
    assert predictions(front.invoke(name, forest.csv(3), Accept="text/csv")) == expected
    front.delete(name)
    told = refused("ValidationException", lambda: front.model(f"s3://{bucket}/none.tar.gz", "clary/sklearn"))
    assert f"s3://{bucket}/none.tar.gz" in told


def test_models_of_a_multi_model_endpoint(front: Clary, s3: Any, bucket: str, uri: str, forest: Trained) -> None:
    source = dict(zip(("Bucket", "Key"), uri.removeprefix("s3://").split("/", 1), strict=True))
    for number in range(3):
        s3.copy_object(Bucket=bucket, Key=f"many/{number}.tar.gz", CopySource=source)
    model = f"m-{uuid.uuid4().hex[:10]}"
    front.client("sagemaker").create_model(
        ModelName=model,
        ExecutionRoleArn=ROLE,
        PrimaryContainer={"Image": "clary/sklearn", "Mode": "MultiModel", "ModelDataUrl": f"s3://{bucket}/many/"},
    )
    name = front.endpoint(front.config(instance(model)))
    expected = [float(value) for value in forest.estimator.predict(forest.rows[:4])]
    for number in range(3):
        answer = front.invoke(name, forest.csv(4), TargetModel=f"{number}.tar.gz", Accept="text/csv")
        assert predictions(answer) == expected
    with pytest.raises(ClientError, match="Failed to download"):
        front.invoke(name, forest.csv(4), TargetModel="absent.tar.gz")
    front.delete(name)


def asynchronous(front: Clary, uri: str, bucket: str) -> str:
    """An asynchronous endpoint."""
    config = f"c-{uuid.uuid4().hex[:10]}"
    front.client("sagemaker").create_endpoint_config(
        EndpointConfigName=config,
        ProductionVariants=[instance(front.model(uri, "clary/sklearn"))],
        AsyncInferenceConfig={
            "OutputConfig": {"S3OutputPath": f"s3://{bucket}/out", "S3FailurePath": f"s3://{bucket}/bad"}
        },
    )
    return front.endpoint(config)


def transform(front: Clary, model: str, bucket: str) -> str:
    """A transform job from in/ to results/."""
    job = f"t-{uuid.uuid4().hex[:10]}"
    front.client("sagemaker").create_transform_job(
        TransformJobName=job,
        ModelName=model,
        TransformInput={
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{bucket}/in/"}},
            "ContentType": "text/csv",
            "SplitType": "Line",
        },
        TransformOutput={"S3OutputPath": f"s3://{bucket}/results", "AssembleWith": "Line", "Accept": "text/csv"},
        TransformResources={"InstanceType": "ml.m5.large", "InstanceCount": 1},
    )
    return job


def ended(front: Clary, job: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        told: dict[str, Any] = front.client("sagemaker").describe_transform_job(TransformJobName=job)
        return told if told["TransformJobStatus"] in ("Completed", "Failed", "Stopped") else None

    found: dict[str, Any] = wait_for(look, 120, f"the end of {job}")
    return found


def test_asynchronous_inputs_and_outputs(
    front: Clary, store: Clary, s3: Any, bucket: str, uri: str, forest: Trained
) -> None:
    name = asynchronous(front, uri, bucket)
    runtime = front.client("sagemaker-runtime")
    s3.put_object(Bucket=bucket, Key="in", Body=forest.csv(50), ContentType="text/csv")
    good = runtime.invoke_endpoint_async(EndpointName=name, InputLocation=f"s3://{bucket}/in", Accept="text/csv")
    bad = runtime.invoke_endpoint_async(EndpointName=name, InputLocation=f"s3://{bucket}/absent", Accept="text/csv")

    def there(uri: str) -> bytes | None:
        """In the external store itself."""
        try:
            found = store.client("s3").get_object(Bucket=bucket, Key=uri.removeprefix(f"s3://{bucket}/"))
        except store.client("s3").exceptions.NoSuchKey:
            return None
        body: bytes = found["Body"].read()
        return body

    answer = wait_for(lambda: there(good["OutputLocation"]), 60, "the output")
    assert predictions(answer) == [float(value) for value in forest.estimator.predict(forest.rows[:50])]
    reason = wait_for(lambda: there(bad["FailureLocation"]), 60, "the failure")
    assert b"cannot be read" in reason
    front.delete(name)


def test_a_batch_transform_job(front: Clary, s3: Any, bucket: str, uri: str, forest: Trained) -> None:
    for number in range(3):
        s3.put_object(Bucket=bucket, Key=f"in/{number}.csv", Body=forest.csv(10 + number))
    told = ended(front, transform(front, front.model(uri, "clary/sklearn"), bucket))
    assert told["TransformJobStatus"] == "Completed", told
    for number in range(3):
        found = s3.get_object(Bucket=bucket, Key=f"results/{number}.csv.out")["Body"].read()
        assert predictions(found) == [float(v) for v in forest.estimator.predict(forest.rows[: 10 + number])]


def test_captured_calls_are_delivered_there(front: Clary, s3: Any, bucket: str, uri: str, forest: Trained) -> None:
    config = f"c-{uuid.uuid4().hex[:10]}"
    front.client("sagemaker").create_endpoint_config(
        EndpointConfigName=config,
        ProductionVariants=[instance(front.model(uri, "clary/sklearn"))],
        DataCaptureConfig={
            "EnableCapture": True,
            "InitialSamplingPercentage": 100,
            "DestinationS3Uri": f"s3://{bucket}/calls",
            "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
            "CaptureContentTypeHeader": {"CsvContentTypes": ["text/csv"]},
        },
    )
    name = front.endpoint(config)
    front.invoke(name, forest.csv(1), InferenceId="mine")
    front.delete(name)
    listed = wait_for(lambda: s3.list_objects_v2(Bucket=bucket, Prefix="calls/").get("Contents"), 90, "a captured call")
    line = s3.get_object(Bucket=bucket, Key=listed[0]["Key"])["Body"].read().decode().splitlines()[0]
    assert json.loads(line)["captureData"]["endpointInput"]["data"] == forest.csv(1)


# -- what people are told, and what happens without it ---------------------------------------------


def test_people_are_told_which_store_it_is(front: Clary, store: Clary, clary: Clary) -> None:
    url = store.environment()["AWS_ENDPOINT_URL"]
    told = json.loads(front.run("status", "--json").stdout)["object_store"]
    assert told["state"] == "ok"
    assert url in told["detail"]
    checks = {one["what"]: one for one in json.loads(front.run("doctor", "--json").stdout)["checks"]}
    assert (checks["object store"]["state"], url in checks["object store"]["detail"]) == ("ok", True)
    own = json.loads(clary.run("status", "--json").stdout)["object_store"]
    assert (own["state"], "our own" in own["detail"]) == ("ok", True)


def test_keys_are_kept_to_ourselves(front: Clary, store: Clary) -> None:
    secret = store.environment()["AWS_SECRET_ACCESS_KEY"]
    for path in front.data.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert secret.encode() not in path.read_bytes(), path


@pytest.fixture
def start_here(tmp_path: Path, store: Clary) -> Iterator[Callable[..., Clary]]:
    """A front of this test's own, perhaps one that does not come up."""
    found: list[Clary] = []

    def start(**environ: str) -> Clary:
        url = store.environment()["AWS_ENDPOINT_URL"]
        one = Clary(tmp_path / "data", free_port(), (), {"CLARY_S3_ENDPOINT_URL": url, **environ})
        found.append(one)
        return one

    yield start
    for one in found:
        one.run("down", check=False)


def test_a_key_file_that_others_may_read_is_refused(
    start_here: Callable[..., Clary], store: Clary, tmp_path: Path
) -> None:
    keys = key_file(store, tmp_path)
    keys.chmod(0o644)
    one = start_here(CLARY_S3_CREDENTIALS_FILE=str(keys))
    done = one.run("up", "--detach", "--port", str(one.port), check=False)
    assert done.returncode == 2
    assert "chmod 600" in done.stderr
    missing = start_here()
    done = missing.run("up", "--detach", "--port", str(one.port), check=False)
    assert done.returncode == 2
    assert "keys/external-s3 cannot be read" in "".join(done.stderr.split("\n"))


def test_wrong_keys_are_told_and_may_be_replaced(
    start_here: Callable[..., Clary], store: Clary, tmp_path: Path
) -> None:
    keys = key_file(store, tmp_path, AWS_SECRET_ACCESS_KEY="wrong" * 8)
    one = start_here(CLARY_S3_CREDENTIALS_FILE=str(keys))
    done = one.run("up", "--detach", "--port", str(one.port), check=False)
    assert done.returncode == 0, done.stderr
    assert "refuses the keys" in " ".join(done.stderr.split())
    check = next(
        check for check in json.loads(one.run("doctor", "--json").stdout)["checks"] if check["what"] == "object store"
    )
    assert check["state"] == "missing"
    assert "SignatureDoesNotMatch" in check["detail"]
    told = refused("AccessDenied", lambda: one.client("s3").create_bucket(Bucket="anything"))
    assert "clary's own keys" in told
    assert "s3_credentials_file" in told
    os.replace(key_file(store, tmp_path), keys)
    one.client("s3").list_buckets()
    assert json.loads(one.run("status", "--json").stdout)["object_store"]["state"] == "ok"


def test_a_lost_store_fails_what_needs_it_and_nothing_else(
    front: Clary, store: Clary, s3: Any, bucket: str, endpoint: str, uri: str, forest: Trained
) -> None:
    url = store.environment()["AWS_ENDPOINT_URL"]
    config = front.config(instance(front.model(uri, "clary/sklearn")))
    patient = asynchronous(front, uri, bucket)
    s3.put_object(Bucket=bucket, Key="in/a.csv", Body=forest.csv(5), ContentType="text/csv")
    model = front.client("sagemaker").describe_endpoint_config(EndpointConfigName=config)["ProductionVariants"][0]
    expected = [float(value) for value in forest.estimator.predict(forest.rows[:5])]
    store.down()
    try:
        told = refused("ServiceUnavailable", s3.list_buckets)
        assert url in told
        told = refused("ServiceUnavailable", lambda: front.model(f"s3://{bucket}/model.tar.gz", "clary/sklearn"))
        assert url in told
        assert predictions(front.invoke(endpoint, forest.csv(5), Accept="text/csv")) == expected
        accepted = front.client("sagemaker-runtime").invoke_endpoint_async(
            EndpointName=patient, InputLocation=f"s3://{bucket}/in/a.csv", Accept="text/csv"
        )
        name = front.endpoint(config, wait=False)
        state = front.settled(name)
        assert state["EndpointStatus"] == "Failed", state
        assert url in state["FailureReason"]
        shown = json.loads(front.run("status", "--json").stdout)["object_store"]
        assert (shown["state"], url in shown["detail"]) == ("missing", True)
        job = transform(front, model["ModelName"], bucket)

        def says_why() -> bool:
            jobs = {one["job"]: one for one in json.loads(front.run("jobs", "--json").stdout)}
            return url in jobs[job]["progress"]

        wait_for(says_why, 60, "the job to say what it waits for")
    finally:
        store.up()
    assert ended(front, job)["TransformJobStatus"] == "Completed"
    assert predictions(s3.get_object(Bucket=bucket, Key="results/a.csv.out")["Body"].read()) == expected
    key = accepted["OutputLocation"].removeprefix(f"s3://{bucket}/")
    wait_for(lambda: "Contents" in s3.list_objects_v2(Bucket=bucket, Prefix=key), 60, "what was accepted meanwhile")
    assert predictions(s3.get_object(Bucket=bucket, Key=key)["Body"].read()) == expected
    again = front.endpoint(config)
    assert predictions(front.invoke(again, forest.csv(5), Accept="text/csv")) == expected
