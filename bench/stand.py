"""A clary of the benchmark's own: started by its command line, asked by boto3, measured from outside, gone at the end.

Nothing in here reaches into clary's processes: endpoints are made through the API, workers and pids are what the
supervisor's socket tells, `park` is what `clary park` sends. Only the environments are shared between runs.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import environments
import load
import machine
from artifacts import Artifact
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

CLARY = str(Path(sys.executable).with_name("clary"))
ROLE = "arn:aws:iam::123456789012:role/clary-execution-role"
REGION = "us-east-1"
BUCKET = "bench-models"
SETTLE_LIMIT_S = 600.0  # the first endpoint of a framework builds its environment


@dataclass(slots=True)
class Stand:
    """One running clary."""

    data: Path
    port: int
    options: tuple[str, ...]
    variables: dict[str, str] = field(default_factory=dict)
    clients: dict[str, Any] = field(default_factory=dict)
    pid: int = 0
    up_s: float = 0.0  # of the last start

    # -- life ------------------------------------------------------------------------------------

    def up(self) -> float:
        """Starts it; seconds until `clary up --detach` returned, which is when it is ready."""
        started_s = time.perf_counter()
        self._command("up", "--detach", "--port", str(self.port), *self.options)
        self.up_s = time.perf_counter() - started_s
        self.pid = int(self.supervisor("list")["pid"])
        self.variables = json.loads(self._command("env", "--shell", "json"))
        return self.up_s

    def down(self) -> None:
        """Stops it, by pid where it does not stop itself."""
        below = machine.tree(self.pid) if self.pid else set()
        try:
            self._command("down")
        finally:
            for pid in below:
                if _mentions(pid, self.data):
                    os.kill(pid, 9)

    def _command(self, *arguments: str) -> str:
        folder = os.environ.get("CLARY_ENVIRONMENTS_DIR") or str(environments.cache_folder() / "clary")
        done = subprocess.run(
            [CLARY, *arguments, "--data", str(self.data)],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "CLARY_ENVIRONMENTS_DIR": folder},
        )
        if done.returncode:
            raise RuntimeError(f"clary {arguments[0]} failed: {(done.stdout + done.stderr).strip()[-500:]}")
        return done.stdout

    # -- its sockets -----------------------------------------------------------------------------

    def _ask(self, name: str, request: Mapping[str, Any]) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(str(self.data / "run" / name))
            connection.sendall(json.dumps({"id": 1, **request}).encode() + b"\n")
            answer: dict[str, Any] = json.loads(connection.makefile().readline())
        return answer

    def supervisor(self, operation: str, **fields: Any) -> dict[str, Any]:
        return self._ask("supervisor.sock", {"op": operation, **fields})

    def proxy(self, operation: str, **fields: Any) -> dict[str, Any]:
        return self._ask("proxy.sock", {"op": operation, **fields})

    def workers(self, endpoint: str) -> list[dict[str, Any]]:
        return [w for w in self.supervisor("list")["workers"] if w["fleet"].split("/")[1] == endpoint]

    def zygotes(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.supervisor("list")["zygotes"]
        return found

    def service_pid(self, name: str) -> int:
        return next(int(s["pid"]) for s in self.supervisor("list")["services"] if s["name"] == name)

    def park(self, *endpoints: str, limit_s: float = 30.0) -> None:
        """Lets the endpoints' workers go; returns when no process of theirs is left."""
        for endpoint in endpoints:
            self._ask("proxy.sock", {"op": "park", "region": REGION, "endpoint": endpoint})
        for endpoint in endpoints:
            machine.wait_until(lambda e=endpoint: not self.workers(e), limit_s, f"{endpoint} to sleep")

    # -- the API ---------------------------------------------------------------------------------

    def client(self, service: str) -> Any:
        if service not in self.clients:
            self.clients[service] = boto3.client(
                service,
                region_name=REGION,
                endpoint_url=f"http://127.0.0.1:{self.port}",
                aws_access_key_id=self.variables["AWS_ACCESS_KEY_ID"],
                aws_secret_access_key=self.variables["AWS_SECRET_ACCESS_KEY"],
                config=Config(retries={"total_max_attempts": 1}, read_timeout=SETTLE_LIMIT_S),
            )
        return self.clients[service]

    def model(self, artifact: Artifact, environment: Mapping[str, str] | None = None) -> str:
        """Uploads the artifact and creates the model; its name."""
        name = f"m-{uuid.uuid4().hex[:10]}"
        self.client("s3").create_bucket(Bucket=BUCKET)
        self.client("s3").put_object(Bucket=BUCKET, Key=f"{name}/model.tar.gz", Body=artifact.archive())
        self.client("sagemaker").create_model(
            ModelName=name,
            ExecutionRoleArn=ROLE,
            PrimaryContainer={
                "Image": artifact.image,
                "ModelDataUrl": f"s3://{BUCKET}/{name}/model.tar.gz",
                "Environment": dict(environment or {}),
            },
        )
        return name

    def config(self, model: str, serverless: bool) -> str:
        """An endpoint configuration with one variant; its name."""
        name = f"c-{uuid.uuid4().hex[:10]}"
        kind: dict[str, Any] = {"InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
        if serverless:
            kind = {"ServerlessConfig": {"MemorySizeInMB": 2048, "MaxConcurrency": 5}}
        self.client("sagemaker").create_endpoint_config(
            EndpointConfigName=name, ProductionVariants=[{"VariantName": "AllTraffic", "ModelName": model, **kind}]
        )
        return name

    def endpoint(self, config: str, **tags: str) -> str:
        """Creates an endpoint and waits until it is InService; its name. keep_alive_s is the tag clary:keep-alive-s."""
        name = f"e-{uuid.uuid4().hex[:10]}"
        given = [{"Key": f"clary:{key.replace('_', '-')}", "Value": value} for key, value in tags.items()]
        self.client("sagemaker").create_endpoint(EndpointName=name, EndpointConfigName=config, Tags=given)
        state = machine.wait_until(lambda: self._settled(name), SETTLE_LIMIT_S, f"{name} to be InService", 0.05)
        if state["EndpointStatus"] != "InService":
            raise RuntimeError(f"{name} is {state['EndpointStatus']}: {state.get('FailureReason')}")
        return name

    def _settled(self, name: str) -> dict[str, Any] | None:
        state: dict[str, Any] = self.client("sagemaker").describe_endpoint(EndpointName=name)
        return None if state["EndpointStatus"] == "Creating" else state

    def deploy(self, artifact: Artifact, serverless: bool = False, **environment: str) -> str:
        """From an artifact to an endpoint that serves; its name."""
        return self.endpoint(self.config(self.model(artifact, environment), serverless))

    def delete(self, endpoint: str) -> None:
        """Deletes an endpoint and waits until the API no longer lists it and no worker of it is left."""
        self.client("sagemaker").delete_endpoint(EndpointName=endpoint)
        listed = self.client("sagemaker").list_endpoints
        machine.wait_until(lambda: not listed(NameContains=endpoint)["Endpoints"], 60, f"{endpoint} to go", 0.01)
        machine.wait_until(lambda: not self.workers(endpoint), 60, f"workers of {endpoint} to go")

    # -- requests as bytes -----------------------------------------------------------------------

    def request(self, endpoint: str, artifact: Artifact, signed: bool = True) -> bytes:
        """An invocation's bytes; a signature holds for 15 minutes."""
        path = f"/endpoints/{endpoint}/invocations"
        host = f"127.0.0.1:{self.port}"
        headers = {"Content-Type": artifact.content_type}
        if signed:
            one = AWSRequest("POST", f"http://{host}{path}", headers=headers, data=artifact.body)
            key = Credentials(self.variables["AWS_ACCESS_KEY_ID"], self.variables["AWS_SECRET_ACCESS_KEY"])
            SigV4Auth(key, "sagemaker", REGION).add_auth(one)
            headers = dict(one.headers.items())
        return load.post(path, artifact.body, host, headers)

    def direct(self, artifact: Artifact) -> bytes:
        """The same invocation as a worker gets it on its own socket."""
        return load.post("/invocations", artifact.body, "worker", {"Content-Type": artifact.content_type})

    def ask_ok(self, request: bytes) -> float:
        """Milliseconds to a 200. Raises: RuntimeError quoting any other answer."""
        took_ms, status, answer = load.ask(self.port, request)
        if status != 200:
            raise RuntimeError(f"status {status}: {answer[-300:]!r}")
        return took_ms


def _mentions(pid: int, data: Path) -> bool:
    """Whether a process still lives and carries this data folder in its command line."""
    try:
        return os.fsencode(data) in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(*options: str) -> Iterator[Stand]:
    """A started clary with an empty data folder; both are gone afterwards."""
    one = Stand(Path(tempfile.mkdtemp(prefix="clary-bench-")), free_port(), options)
    try:
        one.up()
        yield one
    finally:
        one.down()
        shutil.rmtree(one.data, ignore_errors=True)


def pin_servers(pids: Sequence[int]) -> None:
    """The processes and all below them onto the servers' core."""
    for pid in pids:
        machine.pin(machine.tree(pid), machine.cores()[0])
