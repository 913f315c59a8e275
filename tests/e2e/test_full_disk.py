"""The disk is full (row S1): writes are refused and say why, reads and invocations go on, and space brings all back."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from conftest import ROLE, SHARED, Clary, free_port, instance, leftovers, signal_to, wait_for
from test_faults import load

from clary.paths import Layout
from clary.proxy.meter import Meter

SIZE_MIB = 48


@pytest.fixture
def disk() -> Iterator[Path]:
    """A small disk of our own to fill."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk to fill")
    place = Path(tempfile.mkdtemp(prefix="clary-disk-"))  # short, so that the sockets lie on it too
    options = f"size={SIZE_MIB}m"
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, text=True)
    if made.returncode:
        place.rmdir()
        pytest.skip(f"no disk could be mounted here: {made.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
        place.rmdir()


@pytest.fixture
def small(disk: Path) -> Iterator[Clary]:
    """A clary on the small disk."""
    SHARED.mkdir(exist_ok=True)
    one = Clary(disk / "data", free_port(), (), {"CLARY_ENVIRONMENTS_DIR": str(SHARED)})
    one.up()
    try:
        yield one
    finally:
        one.down()
    assert not leftovers(one.data)


def fill(file: Path) -> None:
    """Takes every last byte."""
    with file.open("ab", buffering=0) as out:
        for size_bytes in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    out.write(b"f" * size_bytes)
            except OSError:
                continue  # full, by this measure


def exact(one: Clary) -> bool:
    """Whether the ledger says what the raw usage says; what it says otherwise is printed."""
    told = one.run("cost", "--verify", "--json", check=False)
    print(told.stdout, told.stderr)
    return bool(json.loads(told.stdout)["exact"])


def workers(one: Clary, name: str) -> set[str]:
    return {worker["worker"] for worker in one.workers(name)}


def test_s1_a_full_disk_refuses_writes_and_nothing_else(small: Clary, echo_files: dict[str, str]) -> None:
    s3, sagemaker = small.client("s3"), small.client("sagemaker")
    uri = small.upload(dict(echo_files))
    model = small.model(uri, "clary/sklearn", {"SAGEMAKER_MODEL_SERVER_WORKERS": "2"})
    name = small.endpoint(small.config(instance(model)))
    s3.put_object(Bucket="models", Key="kept", Body=b"kept")
    tree = small.supervisor(op="list")["pid"]
    services = {one["name"]: one["pid"] for one in small.supervisor(op="list")["services"]}
    ballast = small.data.parent / "ballast"
    container = {"Image": "clary/sklearn", "ModelDataUrl": uri, "Environment": {"FILL": "x" * 900}}
    told: ClientError | None = None
    with load(small, name, 1) as steady:
        fill(ballast)
        with pytest.raises(ClientError) as refused:
            s3.put_object(Bucket="models", Key="new", Body=b"n" * 100_000)
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] in (503, 507)
        assert "space" in str(refused.value) or "disk" in str(refused.value)
        for number in range(40):  # the database has a little room left in its own pages
            try:
                sagemaker.create_model(ModelName=f"m-{number}", ExecutionRoleArn=ROLE, PrimaryContainer=container)
            except ClientError as error:
                told = error
                break
        assert told is not None
        print(refused.value, told, sep="\n")
        assert told.response["ResponseMetadata"]["HTTPStatusCode"] in (503, 507)
        assert s3.get_object(Bucket="models", Key="kept")["Body"].read() == b"kept"
        assert sagemaker.describe_endpoint(EndpointName=name)["EndpointStatus"] == "InService"
    assert steady.failed == []
    assert steady.served > 0
    for _ in range(6):  # more ends and starts than the journal's last page has room for
        victim = small.ready(name)[0]
        signal_to(victim["pid"], signal.SIGKILL)
        wait_for(lambda gone=victim["worker"]: gone not in workers(small, name), 10, "the news of its end")
    assert small.supervisor(op="list")["pid"] == tree
    ballast.unlink()
    wait_for(small.answers, 20, "the API")
    wait_for(lambda: len(small.ready(name)) == 2, 20, "its successor")
    s3.put_object(Bucket="models", Key="new", Body=b"n" * 100_000)
    assert s3.get_object(Bucket="models", Key="new")["Body"].read() == b"n" * 100_000
    assert small.invoke(name, "x", "text/plain") == b"x"
    assert {one["name"]: one["pid"] for one in small.supervisor(op="list")["services"]} == services
    wait_for(lambda: exact(small), 10, "an exact ledger")
    small.delete(name)
    with sqlite3.connect(Layout(small.data).database) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_fleet_whose_count_finds_no_room_is_an_error_and_no_death(disk: Path) -> None:
    meter = Meter(disk / "counters")
    meter.slot("us-east-1/e/v/1")
    fill(disk / "ballast")
    with pytest.raises(OSError, match="No space left"):
        meter.slot("us-east-1/e/v/2")
    (disk / "ballast").unlink()
    assert meter.slot("us-east-1/e/v/2").number == 1
