"""Where an image comes from: recipe, own registry, the engine, else a refusal that lists what was tried."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clary.controllers.container_fleets import as_container
from clary.controllers.containers import Containers
from clary.controllers.preparation import Asked, Environment
from clary.domain import container_image as names
from clary.domain.endpoint import Prepared
from clary.domain.errors import Unsupported
from clary.domain.names import Place
from clary.images.recipes import Refusal
from clary.paths import engine_socket
from clary.store.registry import Image

ACCOUNT = "123456789012"
ECR = f"{ACCOUNT}.dkr.ecr.eu-west-1.amazonaws.com"
CONFIG, LAYER, CHILD = ("sha256:" + digit * 64 for digit in "abc")


class Recipes:
    """Stands in for `clary/...` and nothing else."""

    async def refusal(self, image: str) -> Refusal | None:
        return None if image.startswith("clary/") else Refusal(image, "no recipe stands in for it", ("recipes",))

    async def provide(self, asked: Asked, *_: object) -> Environment:
        return Environment("/python", (), "sklearn", "key", f"{asked.image}@recipe")


class Engine:
    """The supervisor's tasks, as an engine that holds `images` answers them."""

    def __init__(self, images: Mapping[str, Mapping[str, Any]]) -> None:
        self.images = dict(images)
        self.loaded: list[dict[str, Any]] = []
        self.pruned: list[list[str]] = []

    async def request(self, _operation: str, *, argv: list[str], stdin: str, **_: object) -> dict[str, Any]:
        told = json.loads(stdin)
        answer: dict[str, Any] = {}
        match argv[4]:
            case "look":
                found = {name: self.images.get(name) for name in told}
                answer = {"version": "1", "platform": "linux/amd64", "images": found}
            case "load":
                self.loaded.append(told)
                answer = self.images[told["tag"]] = held("sha256:loaded")
            case "prune":
                self.pruned.append(told)
                answer = {"gone": []}
        return {"code": 0, "output": "a word on stderr\n" + json.dumps(answer)}


class Registry:
    """One repository of one region."""

    def __init__(self, images: Mapping[str, Image]) -> None:
        self._images = images
        self.files = SimpleNamespace(path=lambda digest: Path("/blobs") / digest)

    async def find(self, _kind: str, place: Place, name: str) -> Any:
        return SimpleNamespace(uid=7) if (place.region, name) == ("eu-west-1", "team/model") else None

    async def image(self, _repository: int, target: str) -> Image | None:
        return self._images.get(target)


def held(identifier: str, **labels: str) -> dict[str, Any]:
    return {"id": identifier, "user": "app", "labels": labels, "digests": []}


def image_of(body: dict[str, Any], media_type: str, digest: str = "sha256:" + "d" * 64) -> Image:
    return Image(digest, media_type, "", json.dumps(body).encode(), 0, datetime.now(UTC), ("1",))


def descriptor(digest: str, **more: object) -> dict[str, Any]:
    return {"mediaType": "x", "digest": digest, "size": 1, **more}


ONE = image_of({"schemaVersion": 2, "config": descriptor(CONFIG), "layers": [descriptor(LAYER)]}, names.OCI_MANIFEST)
INDEX = image_of(
    {
        "schemaVersion": 2,
        "manifests": [descriptor(CHILD, platform={"os": "linux", "architecture": "amd64"})],
    },
    names.OCI_INDEX,
)
ELSEWHERE = image_of(
    {"schemaVersion": 2, "manifests": [descriptor(CHILD, platform={"os": "linux", "architecture": "s390x"})]},
    names.OCI_INDEX,
    "sha256:" + "e" * 64,
)


@pytest.fixture
def engine() -> Engine:
    return Engine({"of-the-engine:1": held("sha256:own")})


@pytest.fixture
def containers(engine: Engine, tmp_path: Path) -> Containers:
    socket = tmp_path / "docker.sock"
    socket.touch()
    return made(engine, f"unix://{socket}")


def made(engine: Engine, docker: str, root: bool = True) -> Containers:
    registry: Any = Registry({"1": ONE, "latest": ONE, ONE.digest: ONE, CHILD: ONE, "index": INDEX, "far": ELSEWHERE})
    recipes: Any = Recipes()
    runtime: Any = engine
    return Containers(recipes, registry, registry, runtime, ACCOUNT, ["localhost:8787"], docker, root, "mark")


async def provided(containers: Containers, image: str, **more: Any) -> Environment:
    return await containers.provide(Asked(image, "eu-west-1", **more), None, None, lambda _text: None)


async def test_a_recipe_comes_first(containers: Containers, engine: Engine) -> None:
    assert (await provided(containers, "clary/sklearn")).framework == "sklearn"
    assert not await containers.is_container(Asked("clary/sklearn", "eu-west-1"))
    assert not engine.loaded


@pytest.mark.parametrize("name", [f"{ECR}/team/model:1", f"{ECR}/team/model@{ONE.digest}", "localhost:8787/team/model"])
async def test_the_own_registry_goes_into_the_engine_once(containers: Containers, engine: Engine, name: str) -> None:
    for _ in range(2):
        found = await provided(containers, name)
    assert found.framework == "container"
    assert found.resolved_image == f"{ECR}/team/model@{ONE.digest}"
    assert found.container["image"] == "sha256:loaded"
    assert found.container["user"] == "app"
    assert [order["layers"] for order in engine.loaded] == [[{"digest": LAYER, "path": f"/blobs/{LAYER}"}]]


async def test_an_index_means_the_image_of_the_engines_platform(containers: Containers, engine: Engine) -> None:
    await provided(containers, f"{ECR}/team/model:index")
    assert engine.loaded[0]["config"] == f"/blobs/{CONFIG}"
    with pytest.raises(Unsupported, match="no image for linux/amd64; there are: linux/s390x"):
        await provided(containers, f"{ECR}/team/model:far")


async def test_what_the_engine_holds_is_served_as_it_is(containers: Containers, engine: Engine) -> None:
    found = await provided(containers, "of-the-engine:1")
    assert found.container["image"] == "sha256:own"
    assert found.resolved_image == "of-the-engine:1@sha256:own"
    assert not engine.loaded


async def test_a_refusal_lists_what_was_tried(containers: Containers, engine: Engine) -> None:
    for image, words in (
        (f"{ECR}/no/such:1", "own registry (no repository no/such in eu-west-1)"),
        (f"{ECR}/team/model:2", "own registry (team/model in eu-west-1 has no 2)"),
        ("somewhere.example/a:1", "own registry (the name is of another registry)"),
        ("nginx", "holds no such image"),
        ("No Image", "it is no image's name"),
    ):
        with pytest.raises(Unsupported) as refused:
            await provided(containers, image)
        assert words in str(refused.value)
        assert "recipes" in str(refused.value)
        told = await containers.refusal(image, "eu-west-1")
        assert words in told
        assert "recipes" in told
    for image in ("clary/sklearn", "of-the-engine:1", f"{ECR}/team/model:1"):
        assert await containers.refusal(image, "eu-west-1") == ""
    for containers, words in (
        (made(engine, "off"), "the setting docker is off"),
        (made(engine, "auto", root=False), "only root"),
        (made(engine, "unix:///no/such.sock"), "/no/such.sock does not exist"),
    ):
        with pytest.raises(Unsupported, match=words):
            await provided(containers, f"{ECR}/team/model:1")


async def test_many_models_need_the_label(containers: Containers, engine: Engine) -> None:
    with pytest.raises(Unsupported, match=names.MULTI_MODEL_LABEL):
        await provided(containers, "of-the-engine:1", multi_model=True)
    engine.images["of-the-engine:1"] = held("sha256:own", **{names.MULTI_MODEL_LABEL: "true"})
    assert (await provided(containers, "of-the-engine:1", multi_model=True)).framework == "container"


async def test_what_is_wanted_or_was_just_loaded_is_not_forgotten(containers: Containers, engine: Engine) -> None:
    await provided(containers, f"{ECR}/team/model:1")
    await containers.prune({"sha256:wanted"})
    await containers.prune({"sha256:wanted"})  # nothing has changed: the engine is not asked again
    assert engine.pruned == [["sha256:loaded", "sha256:wanted"]]


def test_the_setting_means_a_socket(tmp_path: Path) -> None:
    assert engine_socket("off") == ""
    assert engine_socket("unix:///a/b.sock") == "/a/b.sock"


def test_a_fleet_of_containers_tells_the_image_the_contract_and_not_our_own_paths() -> None:
    fleet = {
        "zygote": "warm",
        "environ": {"PATH": "/env/bin", "HOME": "/tmp", "AWS_REGION": "eu-west-1", "SAGEMAKER_BIND_TO_PORT": "8080"},
        "binds": [["/data/m", "/opt/ml/model", "ro"], ["/data/cache", "/var/cache/clary", "rw"]],
        "memory_bytes": 1 << 30,
        "cpus": 1.5,
        "uid": 52000,
        "network": False,
        "worker": {"multi_model": False, "code_dir": "/data/code", "model_dir": "/data/m"},
    }
    prepared = Prepared(
        "/p", (), "container", "", "/data/m", container={"engine": "/s", "image": "sha256:i", "user": ""}
    )
    found = as_container(fleet, prepared, {"HOME": "/mine", "SAGEMAKER_SUBMIT_DIRECTORY": "s3://b/code.tar.gz"}, False)
    assert (found["container"], found["zygote"], found["binds"]) == (True, "", [])
    spec = found["worker"]["container"]
    assert spec["binds"] == [["/data/m", "/opt/ml/model", "ro"]]
    assert spec["environ"]["HOME"] == "/mine"
    assert "PATH" not in spec["environ"]
    assert spec["environ"]["SAGEMAKER_SUBMIT_DIRECTORY"] == "/opt/ml/code"
    assert spec["environ"]["SM_MODEL_DIR"] == "/opt/ml/model"
    assert (spec["memory_bytes"], spec["cpus"], spec["uid"]) == (1 << 30, 1.5, 52000)
