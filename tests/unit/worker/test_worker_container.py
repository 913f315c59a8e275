"""What a container is made with, and the archive by which an image goes into the engine."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from clary_worker.container_config import ContainerSpec, create_body
from clary_worker.container_tasks import archive


def body(**fields: object) -> dict[str, object]:
    spec = {"engine": "/s", "image": "sha256:i", "uid": 52000, "memory_bytes": 1 << 30, "cpus": 1.5, **fields}
    found: dict[str, object] = create_body(ContainerSpec.from_dict(spec))
    return found


def test_every_wall_stands_unless_it_is_asked_not_to() -> None:
    made = body(environ={"B": "2", "A": "1 2"}, binds=[["/data/m", "/opt/ml/model", "ro"]], labels={"clary.run": "1"})
    assert made["Cmd"] == ["serve"]
    assert made["Env"] == ["A=1 2", "B=2"]
    host = made["HostConfig"]
    assert isinstance(host, dict)
    assert host["NetworkMode"] == "none"
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["Memory"] == host["MemorySwap"] == 1 << 30
    assert host["NanoCpus"] == 1_500_000_000
    assert host["PidsLimit"] > 0
    assert host["Mounts"] == [{"Type": "bind", "Source": "/data/m", "Target": "/opt/ml/model", "ReadOnly": True}]
    assert set(host["Tmpfs"]) == {"/tmp", "/run"}
    assert "Privileged" not in host
    loose = body(network=True, writable=True)["HostConfig"]
    assert isinstance(loose, dict)
    assert (loose["NetworkMode"], loose["ReadonlyRootfs"]) == ("bridge", False)


def test_volumes_of_the_image_lie_in_memory_unless_files_of_ours_are_there() -> None:
    spec = ContainerSpec("/s", "sha256:i", binds=[["/data/m", "/opt/ml/model", "ro"]])
    places = create_body(spec, ["/var/lib/nginx", "/opt/ml", "/opt/ml/model"])["HostConfig"]["Tmpfs"]
    assert set(places) == {"/tmp", "/run", "/var/lib/nginx"}


def test_root_of_an_image_is_the_endpoints_uid_and_another_user_stays() -> None:
    assert [body(user=user)["User"] for user in ("", "root", "0:0", "app", "1000:1000")] == [
        "52000:52000",
        "52000:52000",
        "52000:52000",
        "app",
        "1000:1000",
    ]


def test_an_archive_holds_each_layer_once_and_names_them_in_order(tmp_path: Path) -> None:
    contents = {"sha256:" + digit * 64: digit.encode() * size for digit, size in (("a", 1000), ("b", 512), ("c", 0))}
    for digest, content in contents.items():
        (tmp_path / digest).write_bytes(content)
    (tmp_path / "config").write_bytes(b"{}")
    a, b, c = contents
    order = {
        "tag": "repository:tag",
        "config": str(tmp_path / "config"),
        "layers": [{"digest": one, "path": str(tmp_path / one)} for one in (a, b, a, c)],
    }
    with tarfile.open(fileobj=io.BytesIO(b"".join(archive(order)))) as packed:
        names = packed.getnames()
        manifest = json.loads(packed.extractfile("manifest.json").read())[0]  # type: ignore[union-attr]
        layers = [packed.extractfile(name).read() for name in manifest["Layers"]]  # type: ignore[union-attr]
        config = packed.extractfile(manifest["Config"]).read()  # type: ignore[union-attr]
    assert len(names) == len(set(names)) == 5
    assert manifest["RepoTags"] == ["repository:tag"]
    assert layers == [contents[a], contents[b], contents[a], contents[c]]
    assert config == b"{}"
