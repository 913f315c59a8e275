"""Images pushed to and pulled from clary's own registry, by the protocol alone and by boto3's `ecr`."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from conftest import Clary, signal_to, wait_for
from registry_client import DOCKER, INDEX, OCI, RegistryClient, digest_of, layer_of

LARGE_MIB = int(os.environ.get("CLARY_TEST_LAYER_MIB", "0"))


def login(clary: Clary, region: str = "us-east-1") -> RegistryClient:
    data = clary.client("ecr", region).get_authorization_token()["authorizationData"][0]
    user, _, password = base64.b64decode(data["authorizationToken"]).decode().partition(":")
    assert user == "AWS"
    return RegistryClient(clary.port, password)


@pytest.fixture
def repository(clary: Clary) -> str:
    name = f"team/model-{uuid.uuid4().hex[:8]}"
    clary.client("ecr").create_repository(repositoryName=name)
    return name


@pytest.fixture
def registry(clary: Clary) -> RegistryClient:
    return login(clary)


def code_of(error: pytest.ExceptionInfo[ClientError]) -> str:
    code: str = error.value.response["Error"]["Code"]
    return code


def blob_files(clary: Clary) -> set[str]:
    return {f"sha256:{file.name}" for file in (clary.data / "registry" / "blobs").glob("*/*")}


@pytest.mark.parametrize("media_type", [DOCKER, OCI])
def test_an_image_comes_back_with_equal_digests(
    clary: Clary, registry: RegistryClient, repository: str, media_type: str
) -> None:
    layers = [layer_of({"a": os.urandom(300_000)}), layer_of({"b": b"small"})]
    digest = registry.push_image(repository, "1.0", layers, {"Entrypoint": ["/serve"]}, media_type)

    pulled = registry.ask("GET", f"/v2/{repository}/manifests/1.0", Accept=media_type)
    assert pulled.headers["Content-Type"] == media_type
    assert pulled.headers["Docker-Content-Digest"] == digest == digest_of(pulled.body)
    manifest = json.loads(pulled.body)
    for told, layer in zip(manifest["layers"], layers, strict=True):
        assert registry.ask("GET", f"/v2/{repository}/blobs/{told['digest']}").body == layer
    head = registry.ask("HEAD", f"/v2/{repository}/manifests/{digest}")
    assert (head.status, int(head.headers["Content-Length"]), head.body) == (200, len(pulled.body), b"")
    head = registry.ask("HEAD", f"/v2/{repository}/blobs/{digest_of(layers[0])}")
    assert int(head.headers["Content-Length"]) == len(layers[0])

    ecr = clary.client("ecr")
    detail = ecr.describe_images(repositoryName=repository)["imageDetails"][0]
    assert detail["imageDigest"] == digest
    assert detail["imageTags"] == ["1.0"]
    assert detail["imageSizeInBytes"] == manifest["config"]["size"] + sum(len(layer) for layer in layers)
    image = ecr.batch_get_image(repositoryName=repository, imageIds=[{"imageTag": "1.0"}, {"imageTag": "no"}])
    assert image["images"][0]["imageManifest"].encode() == pulled.body
    assert image["failures"][0]["failureCode"] == "ImageNotFound"
    assert ecr.list_images(repositoryName=repository)["imageIds"] == [{"imageDigest": digest, "imageTag": "1.0"}]
    checked = ecr.batch_check_layer_availability(
        repositoryName=repository, layerDigests=[digest_of(layers[0]), digest_of(b"never pushed")]
    )
    assert [one["layerAvailability"] for one in checked["layers"]] == ["AVAILABLE", "UNAVAILABLE"]


def test_parts_of_a_blob_are_served(registry: RegistryClient, repository: str) -> None:
    content = bytes(range(256)) * 8
    path = f"/v2/{repository}/blobs/{registry.push_blob(repository, content)}"
    for wanted, expected in (
        ("bytes=10-19", content[10:20]),
        ("bytes=2040-", content[2040:]),
        ("bytes=-5", content[-5:]),
    ):
        answer = registry.ask("GET", path, Range=wanted)
        assert (answer.status, answer.body) == (206, expected)
    assert registry.ask("GET", path, Range="bytes=10-19").headers["Content-Range"] == f"bytes 10-19/{len(content)}"
    answer = registry.ask("GET", path, Range=f"bytes={len(content)}-")
    assert (answer.status, answer.error()) == (416, "RANGE_INVALID")


def test_wrong_bytes_are_never_kept(clary: Clary, registry: RegistryClient, repository: str) -> None:
    content, wrong = os.urandom(5000), digest_of(os.urandom(8))
    for path, method in (
        (f"{registry.begin(repository)}?digest={wrong}", "PUT"),
        (f"/v2/{repository}/blobs/uploads/?digest={wrong}", "POST"),
    ):
        answer = registry.ask(method, path, content)
        assert (answer.status, answer.error()) == (400, "DIGEST_INVALID")
    assert registry.ask("HEAD", f"/v2/{repository}/blobs/{wrong}").status == 404
    assert not {wrong, digest_of(content)} & blob_files(clary)
    manifest = json.dumps({"schemaVersion": 2, "mediaType": OCI, "layers": [], "config": {
        "mediaType": "application/vnd.oci.image.config.v1+json", "size": 3, "digest": wrong}}).encode()  # fmt: skip
    answer = registry.ask("PUT", f"/v2/{repository}/manifests/1", manifest, Content_Type=OCI)
    assert answer.error() == "MANIFEST_BLOB_UNKNOWN"
    answer = registry.ask("PUT", f"/v2/{repository}/manifests/{wrong}", manifest, Content_Type=OCI)
    assert answer.error() == "DIGEST_INVALID"
    answer = registry.ask("PUT", f"/v2/{repository}/manifests/1", b"[]", Content_Type=OCI)
    assert answer.error() == "MANIFEST_INVALID"


def test_a_chunked_upload_keeps_its_order_and_can_be_left_and_ended(registry: RegistryClient, repository: str) -> None:
    place = registry.begin(repository)
    assert registry.ask("PATCH", place, b"0123456789", Content_Range="0-9").status == 202
    answer = registry.ask("PATCH", place, b"xx", Content_Range="5-6")
    assert (answer.status, answer.error()) == (416, "RANGE_INVALID")
    told = registry.ask("GET", place)
    assert (told.status, told.headers["Range"]) == (204, "0-9")
    assert registry.ask("PUT", f"{place}?digest={digest_of(b'0123456789ab')}", b"ab").status == 201
    assert registry.ask("GET", place).error() == "BLOB_UPLOAD_UNKNOWN"
    cancelled = registry.begin(repository)
    assert registry.ask("DELETE", cancelled).status == 204
    assert registry.ask("PATCH", cancelled, b"x").error() == "BLOB_UPLOAD_UNKNOWN"


def test_an_upload_is_gone_on_with_after_control_was_killed(
    clary: Clary, registry: RegistryClient, repository: str
) -> None:
    first, second = os.urandom(700_000), os.urandom(1000)
    place = registry.begin(repository)
    assert registry.ask("PATCH", place, first).status == 202
    pid = clary.service_pid("control")
    signal_to(pid, 9)
    wait_for(lambda: clary.service_pid("control") not in (0, pid), 30, "another control")
    wait_for(lambda: registry.ask("GET", place).status == 204, 30, "the upload's status")
    answer = registry.ask("PUT", f"{place}?digest={digest_of(first + second)}", second)
    assert answer.status == 201, answer.body
    assert registry.ask("GET", f"/v2/{repository}/blobs/{digest_of(first + second)}").body == first + second


def test_a_blob_is_mounted_from_another_repository_and_lies_on_the_disk_once(
    clary: Clary, registry: RegistryClient, repository: str
) -> None:
    other = f"{repository}-2"
    clary.client("ecr").create_repository(repositoryName=other)
    digest = registry.push_blob(repository, os.urandom(1234))
    answer = registry.ask("POST", f"/v2/{other}/blobs/uploads/?mount={digest}&from={repository}", b"")
    assert answer.status == 201
    assert registry.ask("GET", f"/v2/{other}/blobs/{digest}").status == 200
    unknown = registry.ask("POST", f"/v2/{other}/blobs/uploads/?mount={digest_of(b'?')}&from={repository}", b"")
    assert unknown.status == 202, "an ordinary upload takes the place of a mount that cannot be"
    clary.client("ecr").delete_repository(repositoryName=repository, force=True)
    assert registry.ask("GET", f"/v2/{other}/blobs/{digest}").status == 200
    clary.client("ecr").delete_repository(repositoryName=other, force=True)
    assert digest not in blob_files(clary)


def test_deleting_an_image_collects_what_nothing_else_names(
    clary: Clary, registry: RegistryClient, repository: str
) -> None:
    shared, own = layer_of({"s": os.urandom(900)}), layer_of({"o": os.urandom(900)})
    kept = registry.push_image(repository, "kept", [shared], {})
    gone = registry.push_image(repository, "gone", [shared, own], {})
    ecr = clary.client("ecr")
    with pytest.raises(ClientError) as refused:
        ecr.delete_repository(repositoryName=repository)
    assert code_of(refused) == "RepositoryNotEmptyException"
    answer = ecr.batch_delete_image(repositoryName=repository, imageIds=[{"imageDigest": gone}, {"imageTag": "?"}])
    assert answer["imageIds"] == [{"imageDigest": gone, "imageTag": "gone"}]
    assert answer["failures"][0]["failureCode"] == "ImageNotFound"
    assert digest_of(own) not in blob_files(clary)
    assert digest_of(shared) in blob_files(clary)
    assert registry.ask("GET", f"/v2/{repository}/manifests/{gone}").error() == "MANIFEST_UNKNOWN"
    assert registry.ask("DELETE", f"/v2/{repository}/manifests/{kept}").status == 202
    assert digest_of(shared) not in blob_files(clary)


def test_an_index_needs_its_images_and_holds_them(clary: Clary, registry: RegistryClient, repository: str) -> None:
    digest = registry.push_image(repository, "amd64", [layer_of({"a": b"1"})], {}, OCI)
    platform = {"os": "linux", "architecture": "amd64"}
    listed = [{"mediaType": OCI, "size": 1, "digest": digest, "platform": platform}]
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}
    whole = registry.push_manifest(repository, "all", json.dumps(index).encode(), INDEX)
    answer = registry.ask("DELETE", f"/v2/{repository}/manifests/{digest}")
    assert answer.status == 409
    assert registry.ask("DELETE", f"/v2/{repository}/manifests/{whole}").status == 202
    assert registry.ask("DELETE", f"/v2/{repository}/manifests/{digest}").status == 202


def test_tags_move_page_and_may_be_immutable(clary: Clary, registry: RegistryClient, repository: str) -> None:
    for number in range(5):
        registry.push_image(repository, f"v{number}", [layer_of({"n": b"%d" % number})], {})
    listed, path = [], f"/v2/{repository}/tags/list?n=2"
    while path:
        page = registry.ask("GET", path)
        listed += json.loads(page.body)["tags"]
        path = page.headers.get("Link", "<>").partition("<")[2].partition(">")[0]
    assert listed == [f"v{number}" for number in range(5)]
    assert repository in json.loads(registry.ask("GET", "/v2/_catalog").body)["repositories"]
    moved = registry.push_image(repository, "v0", [layer_of({"n": b"other"})], {})
    ecr = clary.client("ecr")
    assert ecr.describe_images(repositoryName=repository, imageIds=[{"imageTag": "v0"}])["imageDetails"][0][
        "imageDigest"
    ] == moved  # fmt: skip
    ecr.put_image_tag_mutability(repositoryName=repository, imageTagMutability="IMMUTABLE")
    manifest = registry.ask("GET", f"/v2/{repository}/manifests/v1").body
    answer = registry.ask("PUT", f"/v2/{repository}/manifests/v0", manifest, Content_Type=DOCKER)
    assert (answer.status, answer.error()) == (400, "TAG_INVALID")


def test_who_may_not_is_told_in_the_protocols_shape(clary: Clary, registry: RegistryClient, repository: str) -> None:
    nobody = RegistryClient(clary.port, None).ask("GET", "/v2/")
    assert (nobody.status, nobody.error()) == (401, "UNAUTHORIZED")
    assert nobody.headers["WWW-Authenticate"].startswith("Basic realm=")
    assert registry.ask("GET", "/v2/").status == 200
    token = clary.client("ecr").get_authorization_token()["authorizationData"][0]
    password = base64.b64decode(token["authorizationToken"]).decode().partition(":")[2]
    forged = password[:-1] + ("0" if password[-1] != "0" else "1")
    assert RegistryClient(clary.port, forged).ask("GET", "/v2/").status == 401
    assert 11.9 * 3600 < token["expiresAt"].timestamp() - time.time() < 12.1 * 3600
    assert token["proxyEndpoint"].endswith(f":{clary.port}")

    unknown = registry.ask("POST", "/v2/never-made/blobs/uploads/", b"")
    assert (unknown.status, unknown.error()) == (404, "NAME_UNKNOWN")
    assert b"create-repository" in unknown.body
    for path in ("/v2/../../etc/manifests/x", "/v2/%2e%2e/%2e%2e/manifests/x", "/v2/UPPER/tags/list"):
        assert registry.ask("GET", path).error() == "NAME_INVALID", path
    for path in ("..%2f..%2f..%2fetc%2fpasswd", "sha256:../../x", "sha512:" + "0" * 128):
        assert registry.ask("GET", f"/v2/{repository}/blobs/{path}").status in (400, 404, 405), path
    elsewhere = login(clary, "eu-west-1").ask("GET", f"/v2/{repository}/tags/list")
    assert elsewhere.error() == "NAME_UNKNOWN", "a repository belongs to its region"

    reader = f"reader-{uuid.uuid4().hex[:6]}"
    iam = clary.client("iam")
    iam.create_user(UserName=reader)
    may = {"Effect": "Allow", "Action": ["ecr:GetAuthorizationToken", "ecr:ListImages"], "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [may]})
    iam.put_user_policy(UserName=reader, PolicyName="read", PolicyDocument=document)
    key = iam.create_access_key(UserName=reader)["AccessKey"]
    ecr = boto3.client(
        "ecr",
        region_name="us-east-1",
        endpoint_url=clary.variables["AWS_ENDPOINT_URL"],
        aws_access_key_id=key["AccessKeyId"],
        aws_secret_access_key=key["SecretAccessKey"],
    )
    theirs = base64.b64decode(ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"])
    client = RegistryClient(clary.port, theirs.decode().partition(":")[2])
    assert client.ask("GET", f"/v2/{repository}/tags/list").status == 200
    denied = client.ask("POST", f"/v2/{repository}/blobs/uploads/", b"")
    assert (denied.status, denied.error()) == (403, "DENIED")
    iam.update_access_key(UserName=reader, AccessKeyId=key["AccessKeyId"], Status="Inactive")
    assert client.ask("GET", "/v2/").status == 401, "a disabled key takes its passwords with it"


def test_ecr_answers_as_aws_does(clary: Clary, repository: str) -> None:
    ecr = clary.client("ecr")
    told = ecr.describe_repositories(repositoryNames=[repository])["repositories"][0]
    assert told["repositoryArn"] == f"arn:aws:ecr:us-east-1:123456789012:repository/{repository}"
    assert told["repositoryUri"] == f"127.0.0.1:{clary.port}/{repository}"
    arn = told["repositoryArn"]
    ecr.tag_resource(resourceArn=arn, tags=[{"Key": "team", "Value": "vision"}])
    assert ecr.list_tags_for_resource(resourceArn=arn)["tags"] == [{"Key": "team", "Value": "vision"}]
    ecr.untag_resource(resourceArn=arn, tagKeys=["team"])
    assert ecr.list_tags_for_resource(resourceArn=arn)["tags"] == []
    assert ecr.describe_registry()["registryId"] == "123456789012"
    no_image = [{"imageTag": "x"}]
    for call, code in (
        (lambda: ecr.create_repository(repositoryName=repository), "RepositoryAlreadyExistsException"),
        (lambda: ecr.describe_repositories(repositoryNames=["no/such"]), "RepositoryNotFoundException"),
        (
            lambda: ecr.describe_images(repositoryName=repository, imageIds=no_image),
            "ImageNotFoundException",
        ),
        (
            lambda: ecr.put_lifecycle_policy(repositoryName=repository, lifecyclePolicyText="{}" * 50),
            "UnsupportedOperation",
        ),
        (
            lambda: ecr.create_repository(repositoryName="kms/x", encryptionConfiguration={"encryptionType": "KMS"}),
            "InvalidParameterException",
        ),
    ):
        with pytest.raises(ClientError) as refused:
            call()
        assert code_of(refused) == code


@pytest.mark.skipif(not LARGE_MIB, reason="a large layer takes time: CLARY_TEST_LAYER_MIB=500 asks for it")
def test_a_large_layer_streams_in_bounded_memory(clary: Clary, registry: RegistryClient, repository: str) -> None:
    pid = clary.service_pid("control")
    block = os.urandom(1 << 20)
    before = _peak_mib(pid)

    def pieces() -> Iterator[bytes]:
        for number in range(LARGE_MIB):
            yield number.to_bytes(8, "big") + block[8:]

    started = time.monotonic()
    digest = registry.push_stream(repository, pieces())
    pushed = time.monotonic()
    got = hashlib.sha256()
    connection: Any = registry._connection
    connection.request("GET", f"/v2/{repository}/blobs/{digest}", headers={"Authorization": f"Basic {registry._login}"})
    response = connection.getresponse()
    while piece := response.read(1 << 20):
        got.update(piece)
    pulled = time.monotonic()
    after = _peak_mib(pid)
    print(f"{LARGE_MIB} MiB: push {pushed - started:.1f} s, pull {pulled - pushed:.1f} s, peak {before} -> {after} MiB")
    assert f"sha256:{got.hexdigest()}" == digest
    assert after - before < 64, "the layer was gathered in memory"
    clary.client("ecr").delete_repository(repositoryName=repository, force=True)


def _peak_mib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM:"))


def test_without_signatures_the_password_tells_the_region_and_foreign_names_are_refused(
    start_clary: Callable[..., Clary],
) -> None:
    open_clary = start_clary("--no-auth")
    ecr = open_clary.client("ecr", "eu-central-1")
    ecr.create_repository(repositoryName="open/model")
    client = login(open_clary, "eu-central-1")
    digest = client.push_image("open/model", "1", [layer_of({"a": b"1"})], {})
    assert ecr.list_images(repositoryName="open/model")["imageIds"][0]["imageDigest"] == digest
    answer = client.ask("GET", "/v2/open/model/tags/list", Host="evil.example")
    assert answer.status != 200, "a web page must not reach an open clary by rebinding its name"
