"""Control killed with -9 at every step it takes, by name, and at any moment (rows C2 and C3 of the fault matrix).

The names are read from the source: a step that gets a failpoint is killed here from then on. Every name has to be
reached, or the test fails. CLARY_TEST_KILLS=N makes it N kills at random moments in each row as well (one is the
suite's); CLARY_TEST_SEED repeats a run.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from conftest import Clary, instance, signal_to, wait_for
from test_faults import load

import clary
from clary.paths import Layout

KILLS = int(os.environ.get("CLARY_TEST_KILLS", "1"))
SEED = int(os.environ.get("CLARY_TEST_SEED", random.randrange(1 << 32)))
# A control that dies again and again is started ever later; a fresh tree starts it at once.
DEATHS_A_TREE = 4
SOURCE = Path(clary.__file__).parent
NAMES = sorted(
    {name for file in SOURCE.rglob("*.py") for name in re.findall(r'failpoint\("([^"]+)"\)', file.read_text())}
)
# The rooms whose steps an endpoint's life meets, and those whose steps are killed at elsewhere.
ROOMS = ("artifacts", "create_endpoint", "delete_endpoint", "endpoint", "preparation", "publication", "update_endpoint")
ELSEWHERE = ("asynchronous", "capture", "metering", "transform", "trigger")
# Where a name is met: everything else in these rooms is met by creating an endpoint.
OF_FAILURE = {"endpoint.after_failed"}
OF_UPDATE = {"update_endpoint.after_commit", "endpoint.after_retired"}
OF_DELETE = {"delete_endpoint.after_commit", "endpoint.after_removal_published"}
CREATE = [n for n in NAMES if n.partition(".")[0] in ROOMS and n not in OF_FAILURE | OF_UPDATE | OF_DELETE]
# An update takes the steps of a creation once more; these are the ones at which two deployments are there.
UPDATE = sorted(OF_UPDATE) + [name for name in CREATE if name.startswith("endpoint.")]

SERVER = """#!/usr/bin/env -S python3 -S -E
import os, signal, socket
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
listener = socket.create_server(("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"])))
while True:
    connection, _ = listener.accept()
    if os.fork():
        connection.close()
        continue
    with connection, connection.makefile("rb") as request:
        while request.readline():
            length = 0
            while (line := request.readline().strip()):
                if line.lower().startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            body = request.read(length)
            connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%b" % (len(body), body))
    os._exit(0)
"""


class Patient:
    """A clary whose control dies, and a tree anew now and then."""

    def __init__(self, one: Clary, armed: Path) -> None:
        self.one = one
        self.armed = armed
        self.deaths = 0
        self.models = 0

    def fresh(self) -> None:
        """Makes the next death a cheap one."""
        if self.deaths >= DEATHS_A_TREE:
            self.one.down()
            self.one.up()
            self.deaths = 0
        self.deaths += 1

    def config(self) -> str:
        """An endpoint configuration with a model that nobody has unpacked yet."""
        self.models += 1
        model = self.one.model(self.one.upload({"serve": SERVER, "n.txt": str(self.models)}), "clary/command")
        return self.one.config(instance(model))

    def arm(self, name: str) -> None:
        temporary = self.armed.with_suffix(".tmp")
        temporary.write_text(name)
        os.rename(temporary, self.armed)

    def disarmed(self) -> None:
        """Control has died where it was told to."""
        wait_for(lambda: not self.armed.exists(), 20, f"control to reach {self.armed}")

    def kill(self) -> None:
        pid = wait_for(lambda: self.one.service_pid("control"), 10, "control")
        try:
            signal_to(pid, signal.SIGKILL)
        except ProcessLookupError:
            return  # it is just being started again

    def try_to(self, operation: str, **request: Any) -> None:
        """A call whose answer may be lost with control; that it took effect shows later."""
        deadline = time.monotonic() + 20
        while True:
            try:
                getattr(self.one.client("sagemaker"), operation)(**request)
                return
            except BotoCoreError:
                pass  # the connection went with control
            except ClientError as error:
                code = error.response["Error"]["Code"]
                if code in ("ValidationException", "ConflictException"):
                    return  # done by a try whose answer was lost
                if code != "ServiceUnavailable":
                    raise
            assert time.monotonic() < deadline, operation
            time.sleep(0.05)

    def state(self, name: str) -> dict[str, Any]:
        """The endpoint once it has settled, asked through control's absences."""
        deadline = time.monotonic() + 40
        while True:
            try:
                found: dict[str, Any] = self.one.client("sagemaker").describe_endpoint(EndpointName=name)
                if found["EndpointStatus"] not in ("Creating", "Updating"):
                    return found
            except (ClientError, BotoCoreError) as error:
                found = {"error": str(error)}
            assert time.monotonic() < deadline, found
            time.sleep(0.05)

    def gone(self, name: str) -> None:
        """DeleteEndpoint works, and nothing of the endpoint is left."""
        self.try_to("delete_endpoint", EndpointName=name)
        wait_for(lambda: self.one.answers() and not self.one.exists(name), 40, f"{name} to be deleted")
        layout = Layout(self.one.data)
        wait_for(lambda: not self.one.supervisor(op="list")["workers"], 10, "every worker to leave")
        wait_for(lambda: not list(layout.worker_sockets.iterdir()), 10, "every worker's socket to go")
        wait_for(lambda: not groups(self.one), 10, "every control group to go")
        wait_for(lambda: not list(layout.models.glob(".*")), 10, "every half-made folder to go")


def groups(one: Clary) -> list[Path]:
    """The control groups of fleets that are there."""
    mine = "clary-" + hashlib.sha256(os.fsencode(one.data)).hexdigest()[:12]
    own = {line.split(":", 2)[2].strip("/") for line in Path("/proc/self/cgroup").read_text().splitlines()}
    trees = [Path("/sys/fs/cgroup"), *(tree for tree in Path("/sys/fs/cgroup").iterdir() if tree.is_dir())]
    bases = {tree / path / mine for tree in trees for path in {"", *own}}
    return [child for base in bases if base.is_dir() for child in base.iterdir() if child.is_dir()]


@pytest.fixture(scope="module")
def patient(start_clary: Callable[..., Clary], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Patient]:
    armed = tmp_path_factory.mktemp("failpoint") / "armed"
    yield Patient(start_clary(CLARY_FAILPOINT_FILE=str(armed)), armed)
    armed.unlink(missing_ok=True)


def asked(patient: Patient) -> dict[str, str]:
    """What CreateEndpoint is to be called with."""
    return {"EndpointName": f"e-{uuid.uuid4().hex[:10]}", "EndpointConfigName": patient.config()}


def test_every_step_belongs_to_a_room_that_is_killed_at() -> None:
    assert {name.partition(".")[0] for name in NAMES} <= {*ROOMS, *ELSEWHERE}


@pytest.mark.parametrize("step", CREATE)
def test_c2_killed_at_a_step_of_create_endpoint(patient: Patient, step: str) -> None:
    patient.fresh()
    request = asked(patient)
    patient.arm(step)
    patient.try_to("create_endpoint", **request)
    state = patient.state(request["EndpointName"])
    patient.disarmed()
    assert state["EndpointStatus"] == "InService", state
    assert patient.one.invoke(request["EndpointName"], "x", "text/plain") == b"x"
    patient.gone(request["EndpointName"])


def test_c2_killed_when_a_creation_has_failed(patient: Patient) -> None:
    patient.fresh()
    model = patient.one.model(patient.one.upload({"serve": "#!/bin/sh\nexit 3\n"}), "clary/command")
    request = {**asked(patient), "EndpointConfigName": patient.one.config(instance(model))}
    patient.arm("endpoint.after_failed")
    patient.try_to("create_endpoint", **request)
    assert patient.state(request["EndpointName"])["EndpointStatus"] == "Failed"
    patient.disarmed()
    patient.gone(request["EndpointName"])


@pytest.mark.parametrize("step", sorted(OF_DELETE))
def test_c2_killed_at_a_step_of_delete_endpoint(patient: Patient, step: str) -> None:
    patient.fresh()
    name = patient.one.endpoint(patient.config())
    patient.arm(step)
    patient.try_to("delete_endpoint", EndpointName=name)
    patient.disarmed()
    patient.gone(name)
    assert not patient.one.exists(name)


@pytest.mark.timeout(60 + 20 * KILLS)
def test_c2_killed_at_any_moment_of_create_endpoint(patient: Patient) -> None:
    dice, ended = random.Random(SEED), []
    for number in range(KILLS):
        patient.fresh()
        request = asked(patient)
        with at_any_moment(patient, dice):
            patient.try_to("create_endpoint", **request)
        state = patient.state(request["EndpointName"])
        assert state["EndpointStatus"] in ("InService", "Failed"), (state, SEED, number)
        ended.append(state["EndpointStatus"])
        print(f"{number + 1} {state['EndpointStatus']}", flush=True)
        patient.gone(request["EndpointName"])
    print(f"seed={SEED} kills={KILLS} InService={ended.count('InService')} Failed={ended.count('Failed')}")


@contextmanager
def at_any_moment(patient: Patient, dice: random.Random) -> Iterator[None]:
    """Control is killed while the block runs, or soon after it."""
    killer = threading.Timer(dice.uniform(0, 0.5), patient.kill)
    killer.start()
    try:
        yield
    finally:
        killer.join()


@pytest.fixture(scope="module")
def updating(patient: Patient) -> Iterator[list[str]]:
    """[endpoint, its configuration, another]; who updates it swaps the two."""
    configs = [patient.config(), patient.config()]
    name = patient.one.endpoint(configs[0])
    yield [name, *configs]
    patient.gone(name)


def update(patient: Patient, updating: list[str], killing: AbstractContextManager[object]) -> str:
    """One update under load while control is killed: no request fails; "old" or "new", as it ended."""
    name, old, new = updating
    wait_for(lambda: patient.one.answers(), 20, "the API")
    patient.one.ready(name)
    with load(patient.one, name, 1) as steady:
        with killing:
            patient.try_to("update_endpoint", EndpointName=name, EndpointConfigName=new)
        state = patient.state(name)
        settled = steady.served
        wait_for(lambda: steady.served > settled + 3, 10, "answers after the update")
    assert steady.failed == [], "\n".join([*steady.failed, patient.one.logs()])
    assert state["EndpointStatus"] == "InService", state
    assert state["EndpointConfigName"] in (old, new), state
    if state["EndpointConfigName"] == old:
        return "old"
    updating[1:] = [new, old]
    return "new"


@pytest.mark.parametrize("step", UPDATE)
def test_c3_killed_at_a_step_of_update_endpoint(patient: Patient, updating: list[str], step: str) -> None:
    patient.fresh()
    patient.arm(step)
    assert update(patient, updating, nullcontext()) == "new"
    patient.disarmed()


@pytest.mark.timeout(60 + 20 * KILLS)
def test_c3_killed_at_any_moment_of_update_endpoint(patient: Patient, updating: list[str]) -> None:
    dice, ended = random.Random(SEED), []
    for number in range(KILLS):
        patient.fresh()
        ended.append(update(patient, updating, at_any_moment(patient, dice)))
        print(f"{number + 1} {ended[-1]}", flush=True)
    print(f"seed={SEED} kills={KILLS} new={ended.count('new')} old={ended.count('old')}")
    assert len(ended) == KILLS
    assert set(ended) <= {"new", "old"}
