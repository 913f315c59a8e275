"""A real clary for the stories: the command line starts it, unmodified boto3 talks to it, and it must leave nothing."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import joblib
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier

CLARY = str(Path(sys.executable).with_name("clary"))
ROLE = "arn:aws:iam::123456789012:role/clary-execution-role"
# Environments are built once a machine: tests share them like a user's second start does.
SHARED = Path(os.environ.get("CLARY_TEST_ENVIRONMENTS", Path(tempfile.gettempdir()) / f"clary-test-{os.getuid()}"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def packed(files: Mapping[str, bytes | str]) -> bytes:
    """A model.tar.gz."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as archive:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o755
            archive.addfile(entry, io.BytesIO(data))
    return raw.getvalue()


@dataclass
class Clary:
    """A running clary and clients of it. Client retries are off: every failure shows."""

    data: Path
    port: int
    options: tuple[str, ...] = ()
    environ: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    clients: dict[Any, Any] = field(default_factory=dict)

    def run(
        self, *arguments: str, check: bool = True, limit_s: float = 120, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """One clary command on this data folder."""
        return subprocess.run(
            [CLARY, *arguments, "--data", str(self.data)],
            check=check,
            capture_output=True,
            text=True,
            timeout=limit_s,
            env={**os.environ, **self.environ},
            **options,
        )

    def up(self) -> None:
        done = self.run("up", "--detach", "--port", str(self.port), *self.options, check=False)
        assert done.returncode == 0, done.stdout + done.stderr + self.logs()

    def down(self) -> None:
        self.run("down")

    def logs(self) -> str:
        return "\n".join(
            f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-40:])
            for log in sorted((self.data / "logs").glob("*.log"))
        )

    def environment(self) -> dict[str, str]:
        """What `clary env` hands to clients."""
        found: dict[str, str] = json.loads(self.run("env", "--shell", "json").stdout)
        return found

    def client(self, service: str, region: str = "us-east-1", **options: Any) -> Any:
        key = (service, region, tuple(sorted(options.items())))
        if key not in self.clients:
            self.clients[key] = self._client(service, region, **options)
        return self.clients[key]

    def _client(self, service: str, region: str, **options: Any) -> Any:
        if not self.variables:
            self.variables = self.environment()
        variables = self.variables
        return boto3.client(
            service,
            region_name=region,
            endpoint_url=variables["AWS_ENDPOINT_URL"],
            aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
            config=Config(retries={"total_max_attempts": 1}, max_pool_connections=64, **options),
        )

    def supervisor(self, **request: Any) -> dict[str, Any]:
        """One request to the supervisor's own socket."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.data / "run" / "supervisor.sock"))
            connection.sendall(json.dumps({"id": 1, **request}).encode() + b"\n")
            answer: dict[str, Any] = json.loads(connection.makefile().readline())
        return answer

    def workers(self, endpoint: str) -> list[dict[str, Any]]:
        return [w for w in self.supervisor(op="list")["workers"] if w["fleet"].split("/")[1] == endpoint]

    def ready(self, endpoint: str) -> list[dict[str, Any]]:
        """The workers that serve, at least one: those being started have no process to speak of yet."""
        found: list[dict[str, Any]] = wait_for(
            lambda: [w for w in self.workers(endpoint) if w["state"] == "ready"], 30, f"a ready worker of {endpoint}"
        )
        return found

    def isolation(self) -> dict[str, Any]:
        """The walls around workers, by name."""
        found: dict[str, Any] = self.supervisor(op="list")["isolation"]
        return found

    def service_pid(self, name: str) -> int:
        return next(int(s["pid"]) for s in self.supervisor(op="list")["services"] if s["name"] == name)

    # -- models and endpoints --------------------------------------------------------------------

    def upload(self, files: dict[str, bytes | str], bucket: str = "models") -> str:
        """A model.tar.gz of `files` in the object store; its URI."""
        s3 = self.client("s3")
        s3.create_bucket(Bucket=bucket)
        key = f"{uuid.uuid4().hex}/model.tar.gz"
        s3.put_object(Bucket=bucket, Key=key, Body=packed(files))
        return f"s3://{bucket}/{key}"

    def model(self, uri: str, image: str, environment: dict[str, str] | None = None) -> str:
        name = f"m-{uuid.uuid4().hex[:10]}"
        self.client("sagemaker").create_model(
            ModelName=name,
            ExecutionRoleArn=ROLE,
            PrimaryContainer={"Image": image, "ModelDataUrl": uri, "Environment": environment or {}},
        )
        return name

    def config(self, *variants: dict[str, Any]) -> str:
        name = f"c-{uuid.uuid4().hex[:10]}"
        self.client("sagemaker").create_endpoint_config(EndpointConfigName=name, ProductionVariants=list(variants))
        return name

    def endpoint(self, config: str, wait: bool = True, tags: dict[str, str] | None = None) -> str:
        name = f"e-{uuid.uuid4().hex[:10]}"
        tagged = [{"Key": key, "Value": value} for key, value in (tags or {}).items()]
        self.client("sagemaker").create_endpoint(EndpointName=name, EndpointConfigName=config, Tags=tagged)
        if wait:
            state = self.settled(name)
            assert state["EndpointStatus"] == "InService", state.get("FailureReason", state)
        return name

    def settled(self, name: str, limit_s: float = 240) -> dict[str, Any]:
        """The endpoint's description once it is neither Creating nor Updating."""
        deadline = time.monotonic() + limit_s
        while True:
            state: dict[str, Any] = self.client("sagemaker").describe_endpoint(EndpointName=name)
            if state["EndpointStatus"] not in ("Creating", "Updating") or time.monotonic() > deadline:
                return state
            time.sleep(0.1)

    def delete(self, name: str) -> None:
        self.client("sagemaker").delete_endpoint(EndpointName=name)
        wait_for(lambda: not self.exists(name), 60, f"{name} to be deleted")

    def exists(self, name: str) -> bool:
        names = self.client("sagemaker").list_endpoints(NameContains=name)["Endpoints"]
        return bool(names)

    def answers(self) -> bool:
        """Whether the API is there."""
        try:
            self.client("sagemaker").list_models()
        except ClientError:
            return False
        return True

    def invoke(self, name: str, body: bytes | str, content_type: str = "text/csv", **options: Any) -> bytes:
        runtime = self.client("sagemaker-runtime")
        answer = runtime.invoke_endpoint(EndpointName=name, Body=body, ContentType=content_type, **options)
        found: bytes = answer["Body"].read()
        return found


def instance(model: str, name: str = "AllTraffic", count: int = 1, weight: float = 1.0, **extra: Any) -> dict[str, Any]:
    return {
        "VariantName": name,
        "ModelName": model,
        "InstanceType": "ml.m5.large",
        "InitialInstanceCount": count,
        "InitialVariantWeight": weight,
        **extra,
    }


def serverless(model: str, concurrency: int = 5, memory: int = 2048, **extra: Any) -> dict[str, Any]:
    config = {"MemorySizeInMB": memory, "MaxConcurrency": concurrency, **extra}
    return {"VariantName": "AllTraffic", "ModelName": model, "ServerlessConfig": config}


def wait_for(condition: Callable[[], Any], limit_s: float, what: str) -> Any:
    """The first truthy value of `condition()`; fails the test when there is none in time."""
    deadline = time.monotonic() + limit_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {limit_s} s for {what}"
        time.sleep(0.02)


def signal_to(pid: int, number: int) -> None:
    """os.kill for one real process: 0 and -1 would mean this test run itself and all who share its machine."""
    assert pid > 1, f"{pid} is no process of clary's: not started yet, or already gone"
    os.kill(pid, number)


@pytest.fixture(scope="session")
def start_clary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Clary]]:
    """Starts claries that are stopped, and must have left nothing running, at the end."""
    started: list[Clary] = []

    def start(*options: str, **environ: str) -> Clary:
        data = tmp_path_factory.mktemp("clary")
        SHARED.mkdir(exist_ok=True)
        one = Clary(data, free_port(), options, {"CLARY_ENVIRONMENTS_DIR": str(SHARED), **environ})
        one.up()
        started.append(one)
        return one

    yield start
    for one in started:
        one.down()
        assert not leftovers(one.data), "processes outlived `clary down`"
        shutil.rmtree(one.data, ignore_errors=True)


def leftovers(data: Path) -> list[str]:
    """Command lines of processes that still carry the data folder, or a path below it, in their arguments."""
    found = []
    own = re.compile(re.escape(str(data)) + r"(?![\w-])")  # clary1 is not clary10
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if own.search(line) and int(folder.name) != os.getpid():
            found.append(line)
    return found


@pytest.fixture(scope="session")
def clary(start_clary: Callable[..., Clary]) -> Clary:
    """One clary for all stories that do not hurt it."""
    return start_clary()


@dataclass(frozen=True)
class Trained:
    """A model, as the library knows it and as an archive's files."""

    estimator: Any
    rows: Any
    files: dict[str, bytes]

    def csv(self, count: int = 5) -> str:
        return "\n".join(",".join(repr(float(x)) for x in row) for row in self.rows[:count])


@pytest.fixture(scope="session")
def forest() -> Trained:
    rows, labels = load_iris(return_X_y=True)
    estimator = RandomForestClassifier(100, random_state=0).fit(rows, labels)
    file = io.BytesIO()
    joblib.dump(estimator, file)
    return Trained(estimator, rows, {"model.joblib": file.getvalue()})


@pytest.fixture(scope="session")
def forest_uri(clary: Clary, forest: Trained) -> str:
    return clary.upload(dict(forest.files))


ECHO = """
import os, time

def model_fn(model_dir):
    return None

def transform_fn(model, body, content_type, accept):
    text = body if isinstance(body, str) else body.decode()
    word, _, rest = text.partition(" ")
    if word == "sleep":
        time.sleep(float(rest))
    elif word == "pid":
        return str(os.getpid()), "text/plain"
    elif word == "die":
        os._exit(int(rest or 1))
    elif word == "raise":
        raise ValueError(rest)
    elif word == "leak":
        held = [bytearray(16 << 20) for _ in range(1 << 20)]
    elif word == "print":
        line = "x" * 1023
        for _ in range(int(rest) * 1024):
            print(line)
    return body, content_type
"""


@pytest.fixture(scope="session")
def echo_files() -> dict[str, str]:
    """A model whose script does what the body says: echo, sleep, die, raise, leak, print, tell its pid."""
    return {"code/inference.py": ECHO}
