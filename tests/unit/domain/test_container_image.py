"""Names of images, their manifests and their ranges; the password of `docker login`."""

import json

import pytest

from clary.domain import container_image as names
from clary.domain import registry_login
from clary.domain.errors import Invalid

DIGEST = "sha256:" + "ab" * 32
ACCOUNT = "123456789012"


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("python", ("", "python", "", "")),
        ("team/model:1.0", ("", "team/model", "1.0", "")),
        ("localhost:8787/model:v1", ("localhost:8787", "model", "v1", "")),
        (f"localhost/model@{DIGEST}", ("localhost", "model", "", DIGEST)),
        (
            f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/a/b:t@{DIGEST}",
            (f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com", "a/b", "t", DIGEST),
        ),
        ("Upper/case", None),
        ("a//b", None),
        ("../etc", None),
        ("model:", None),
        ("model@sha256:12", None),
        ("", None),
    ],
)
def test_references_are_parted(image: str, expected: tuple[str, ...] | None) -> None:
    found = names.parse_reference(image)
    parts = None if found is None else (found.registry, found.repository, found.tag, found.digest)
    assert parts == expected


@pytest.mark.parametrize(
    ("image", "region"),
    [
        (f"{ACCOUNT}.dkr.ecr.eu-west-1.amazonaws.com/m", "eu-west-1"),
        ("localhost:8787/m", "us-east-1"),
        ("999999999999.dkr.ecr.eu-west-1.amazonaws.com/m", ""),
        ("localhost:5000/m", ""),
        ("m", ""),
    ],
)
def test_our_own_registry_goes_by_two_names(image: str, region: str) -> None:
    reference = names.parse_reference(image)
    assert reference is not None
    assert names.own_region(reference, ACCOUNT, "us-east-1", {"localhost:8787"}) == region


def test_no_repository_name_leads_out_of_its_folder() -> None:
    for name in ("..", "a/../b", "/a", "a/", "a" * 257, "a\0b", "a%2fb", "x"):
        with pytest.raises(Invalid):
            names.check_repository(name)
    assert names.check_repository("a-b/c_d/e.f") == "a-b/c_d/e.f"


def descriptor(**more: object) -> dict[str, object]:
    return {"mediaType": "application/octet-stream", "digest": DIGEST, "size": 3, **more}


def test_a_manifest_tells_its_blobs_and_leaves_out_what_lies_elsewhere() -> None:
    foreign = descriptor(mediaType="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")
    body = {"schemaVersion": 2, "config": descriptor(), "layers": [descriptor(size=4), foreign]}
    found = names.parse_manifest(json.dumps(body).encode(), names.OCI_MANIFEST)
    assert found.size_bytes == 7
    assert len(found.blobs) == 2


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"{", names.OCI_MANIFEST),
        (b"[]", names.OCI_MANIFEST),
        (b"[" * 100_000, names.OCI_MANIFEST),
        (json.dumps({"schemaVersion": 1}).encode(), names.OCI_MANIFEST),
        (json.dumps({"schemaVersion": 2, "config": {}, "layers": []}).encode(), names.OCI_MANIFEST),
        (json.dumps({"schemaVersion": 2, "mediaType": names.OCI_INDEX, "manifests": []}).encode(), names.OCI_MANIFEST),
        (json.dumps({"schemaVersion": 2, "config": descriptor(size=-1), "layers": []}).encode(), names.OCI_MANIFEST),
        (json.dumps({"schemaVersion": 2, "manifests": [descriptor()] * 1001}).encode(), names.OCI_INDEX),
    ],
)
def test_what_is_no_manifest_is_refused(body: bytes, content_type: str) -> None:
    with pytest.raises(Invalid) as refused:
        names.parse_manifest(body, content_type)
    assert refused.value.rule == "MANIFEST_INVALID"


def test_an_index_gives_the_image_of_this_platform() -> None:
    def index(*platforms: dict[str, str] | None) -> names.Manifest:
        listed = [
            descriptor(digest="sha256:" + f"{number:064x}", **({} if one is None else {"platform": one}))
            for number, one in enumerate(platforms)
        ]
        return names.parse_manifest(json.dumps({"schemaVersion": 2, "manifests": listed}).encode(), names.OCI_INDEX)

    both = index({"os": "linux", "architecture": "arm64"}, {"os": "linux", "architecture": "amd64"})
    found = names.of_platform(both, "linux/amd64")
    assert found is not None
    assert found.digest.endswith("1")
    assert names.of_platform(both, "linux/s390x") is None
    assert names.of_platform(index(None), "linux/amd64") is not None


def test_a_chunk_begins_where_the_upload_ends() -> None:
    for header in (None, "10-19", "bytes 10-19/40", "bytes 10-19/*"):
        names.chunk_start(header, 10)
    for header in ("0-9", "11-12", "10-", "x", "10-5", "9" * 400 + "-1"):
        with pytest.raises(Invalid) as refused:
            names.chunk_start(header, 10)
        assert refused.value.rule == "RANGE_INVALID"


def test_a_password_holds_for_its_key_and_its_time_alone() -> None:
    password = registry_login.password("AKIAEXAMPLE", "secret", "eu-west-1", 1000)
    login = registry_login.read(password)
    assert login is not None
    assert (login.access_key_id, login.region, login.expires_s) == ("AKIAEXAMPLE", "eu-west-1", 1000)
    assert registry_login.holds(login, "secret", 999.0)
    assert not registry_login.holds(login, "secret", 1000.0)
    assert not registry_login.holds(login, "another secret", 999.0)
    other = registry_login.read(registry_login.password("AKIAEXAMPLE", "secret", "eu-west-1", 9999))
    assert other is not None
    moved = registry_login.read(f"{other.text}.{login.seal}")
    assert moved is not None
    assert not registry_login.holds(moved, "secret", 999.0)
    for text in ("", "x", "ä.b", "Zm9v.00", password.partition(".")[0] + "!" * 600):
        found = registry_login.read(text)
        assert found is None or not registry_login.holds(found, "secret", 0.0)
