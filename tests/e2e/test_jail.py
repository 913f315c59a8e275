"""A model that tries to get out: what its code can reach of clary, of other models, of the host and of the network.

The model's script runs a probe by name and tells what came of it: "refused: ..." or what it got hold of.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Clary, instance

PROBES = '''
import ctypes
import json
import os
import socket
import subprocess


def read(path):
    with open(path, "rb") as file:
        return repr(file.read(200))


def listed(path):
    return sorted(os.listdir(path))


def write(path):
    with open(path, "w") as file:
        file.write("x")
    return "written"


def connect(host, port):
    with socket.create_connection((host, port), timeout=3):
        return "connected"


def connect_unix(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(path)
        return "connected"


def processes():
    """{process id: uid} of all that show."""
    return {int(name): os.stat("/proc/" + name).st_uid for name in os.listdir("/proc") if name.isdigit()}


def stop(pid):
    os.kill(pid, 9)
    return "killed"


def become_root():
    os.setuid(0)
    return "root"


def mount():
    if ctypes.CDLL(None, use_errno=True).mount(b"none", b"/tmp", b"tmpfs", 0, None) != 0:
        raise OSError(ctypes.get_errno(), "mount")
    return "mounted"


def setuid_program():
    return subprocess.run(["su", "-c", "id -u"], capture_output=True, text=True, check=True, timeout=5).stdout


def memory(path):
    with open(path, "rb") as file:
        file.seek(4096)
        return repr(file.read(16))


def environment():
    return dict(os.environ)


def identity():
    return [os.getuid(), os.getgid(), os.getgroups()]


def privileges():
    with open("/proc/self/status") as file:
        lines = dict(line.rstrip().split(":", 1) for line in file)
    return {name: lines[name].strip() for name in ("CapEff", "CapPrm", "CapBnd", "NoNewPrivs")}


def descriptors():
    """What the open descriptors point at."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink("/proc/self/fd/" + name))
        except OSError:
            pass
    return found


def model_fn(model_dir):
    return None


def transform_fn(model, body, content_type, accept):
    name, arguments = json.loads(body)
    try:
        return json.dumps({"got": globals()[name](*arguments)}), "application/json"
    except (OSError, subprocess.SubprocessError) as error:
        return json.dumps({"refused": "%s: %s" % (type(error).__name__, error)}), "application/json"
'''


@pytest.fixture(scope="module", params=["locked packages", "packages of the user's choice"])
def endpoints(clary: Clary, request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """The prober's endpoint and a neighbour's: children of a zygote with our rights, or of one without any."""
    level = clary.isolation()["level"]
    if level != "root":
        pytest.skip(f"isolation is {level!r} here ({clary.isolation()['reason']}): these walls stand only as root")
    files = {"code/inference.py": PROBES, "secret.txt": "of this model"}
    if request.param != "locked packages":
        files["code/requirements.txt"] = "humanize==4.12.3\n"
    model = clary.model(clary.upload(files), "clary/sklearn")
    names = (clary.endpoint(clary.config(instance(model))), clary.endpoint(clary.config(instance(model))))
    assert not any(worker["plain"] for name in names for worker in clary.workers(name))
    yield names
    for name in names:
        clary.delete(name)


def probe(clary: Clary, endpoint: str, name: str, *arguments: Any) -> dict[str, Any]:
    answer = clary.invoke(endpoint, json.dumps([name, arguments]), "application/json", Accept="application/json")
    found: dict[str, Any] = json.loads(answer)
    return found


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("listed", ""),
        ("listed", "keys"),
        ("read", "keys/identities.json"),
        ("read", "run/identity.json"),
        ("read", "run/launch.json"),
        ("read", "clary.db"),
        ("listed", "objects"),
        ("listed", "models"),
        ("listed", "logs"),
        ("connect_unix", "run/supervisor.sock"),
        ("connect_unix", "run/control.sock"),
        ("connect_unix", "run/gateway.sock"),
    ],
)
def test_the_data_folder_is_out_of_reach(clary: Clary, endpoints: tuple[str, str], name: str, place: str) -> None:
    assert "refused" in probe(clary, endpoints[0], name, str(clary.data / place))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("write", ["/opt/ml/model/secret.txt"]),
        ("write", ["/opt/ml/model/new.txt"]),
        ("write", ["/usr/new.txt"]),
        ("write", ["/new.txt"]),
        ("read", ["/etc/shadow"]),
        ("listed", ["/root"]),
        ("listed", ["/home"]),
        ("read", ["/proc/1/environ"]),
        ("memory", ["/proc/1/mem"]),
        ("memory", ["/dev/mem"]),
        ("become_root", []),
        ("mount", []),
        ("setuid_program", []),
        ("connect", ["1.1.1.1", 53]),
        ("connect", ["169.254.169.254", 80]),
    ],
)
def test_the_host_is_out_of_reach(clary: Clary, endpoints: tuple[str, str], name: str, arguments: list[Any]) -> None:
    assert "refused" in probe(clary, endpoints[0], name, *arguments)


def test_the_hosts_loopback_is_out_of_reach(clary: Clary, endpoints: tuple[str, str]) -> None:
    assert "refused" in probe(clary, endpoints[0], "connect", "127.0.0.1", clary.port)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert "refused" in probe(clary, endpoints[0], "connect", *listener.getsockname())


def test_other_workers_do_not_show_and_cannot_be_stopped(clary: Clary, endpoints: tuple[str, str]) -> None:
    mine, other = endpoints
    shown = probe(clary, mine, "processes")["got"]
    assert set(shown.values()) == {probe(clary, mine, "identity")["got"][0]}
    assert not {str(worker["pid"]) for worker in clary.workers(other)} & shown.keys()
    for pid in [worker["pid"] for worker in clary.workers(other)] + [clary.service_pid("control")]:
        assert "refused" in probe(clary, mine, "stop", pid)
    assert {worker["pid"] for worker in clary.workers(other)}
    assert probe(clary, other, "listed", "/opt/ml/model")["got"] == ["code", "secret.txt"]


def test_each_endpoint_has_a_uid_of_its_own_and_no_privilege(clary: Clary, endpoints: tuple[str, str]) -> None:
    mine, other = (probe(clary, name, "identity")["got"] for name in endpoints)
    assert mine[0] != other[0]
    for uid, gid, groups in (mine, other):
        assert uid >= 52000
        assert gid == uid
        assert groups in ([], [gid])
    held = probe(clary, endpoints[0], "privileges")["got"]
    assert held["NoNewPrivs"] == "1"
    assert int(held["CapEff"], 16) == 0
    assert int(held["CapPrm"], 16) == 0


def test_nothing_of_clary_is_left_in_the_environment_or_open(clary: Clary, endpoints: tuple[str, str]) -> None:
    environment = probe(clary, endpoints[0], "environment")["got"]
    secrets = clary.environment()
    assert secrets["AWS_SECRET_ACCESS_KEY"] not in json.dumps(environment)
    assert str(clary.data) not in json.dumps(environment)
    assert [name for name in environment if name.startswith(("AWS_SECRET", "AWS_ACCESS", "AWS_SESSION"))] == []
    opened = probe(clary, endpoints[0], "descriptors")["got"]
    files = [place for place in opened if place.startswith("/") and not place.startswith(("/dev/", "/proc/"))]
    # The worker's own log is its standard output; nothing else of the data folder may be open.
    assert [place for place in files if "/logs/workers/" not in place and not place.startswith("/opt/ml")] == []


def test_a_zygote_with_packages_of_the_users_choice_has_no_rights(clary: Clary, endpoints: tuple[str, str]) -> None:
    uids = {}
    for zygote in clary.supervisor(op="list")["zygotes"]:
        status = Path(f"/proc/{zygote['pid']}/status").read_text()
        facts = dict(line.split(":\t", 1) for line in status.splitlines())
        uids[zygote["key"].count("-") > 1] = int(facts["Uid"].split()[0])
        if zygote["key"].count("-") > 1:  # a third word: the role that it belongs to
            assert int(facts["CapEff"], 16) == int(facts["CapPrm"], 16) == 0
            assert facts["NoNewPrivs"] == "1"
            assert not os.path.exists(f"/proc/{zygote['pid']}/root{clary.data}")
    assert uids.get(True, 60001) > 60000
    assert uids.get(False, 0) == 0
    assert uids


def test_what_one_worker_leaves_in_tmp_no_other_sees(clary: Clary, endpoints: tuple[str, str]) -> None:
    assert probe(clary, endpoints[0], "write", "/tmp/note.txt") == {"got": "written"}
    assert "refused" in probe(clary, endpoints[1], "read", "/tmp/note.txt")
    assert not (clary.data.parent / "note.txt").exists()
