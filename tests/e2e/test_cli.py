"""The command line as a person uses it, and as a program reads it."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import joblib
import pytest
from conftest import CLARY, Clary, Trained, free_port, instance, wait_for


@pytest.fixture
def model_file(forest: Trained, tmp_path: Path) -> Path:
    path = tmp_path / "iris.joblib"
    joblib.dump(forest.estimator, path)
    return path


def test_deploy_invoke_logs_cost_ps_status_tell_one_story(clary: Clary, model_file: Path, forest: Trained) -> None:
    told = json.loads(clary.run("deploy", str(model_file), "--name", "story", "--serverless", "--json").stdout)
    assert told["EndpointStatus"] == "InService"
    asked = clary.run("invoke", "story", "--body", forest.csv(3))
    assert asked.stdout.split() == ["0", "0", "0"]
    assert "text/csv" in asked.stderr
    rows = json.loads(clary.run("ps", "--json").stdout)
    assert {row["kind"] for row in rows} >= {"supervisor", "proxy", "control", "zygote"}
    status = json.loads(clary.run("status", "--json").stdout)
    assert any(fleet.split("/")[1] == "story" for fleet in status["fleets"])
    cost = json.loads(clary.run("cost", "--json").stdout)
    mine = {one["meter"]: one for one in cost["sums"] if one["endpoint"] == "story"}
    assert mine["serverless"]["nanousd"] > 0
    assert "exact" in clary.run("cost", "--verify").stdout
    clary.run("deploy", str(model_file), "--name", "story", "--json", check=False)  # converting is AWS's one-way street
    clary.delete("story")


def test_tables_are_for_people(clary: Clary) -> None:
    for command in (("ps",), ("status",), ("cost",), ("doctor",), ("image", "list")):
        done = clary.run(*command)
        assert done.stdout.strip(), command
        assert "Traceback" not in done.stdout + done.stderr


def test_doctor_tells_the_walls(clary: Clary) -> None:
    told = json.loads(clary.run("doctor", "--json").stdout)
    assert told["isolation"]["level"] in ("root", "user", "none")
    assert {check["what"] for check in told["checks"]} >= {"system", "python", "sqlite"}


@pytest.mark.parametrize(
    ("shell", "start"), [("sh", "export AWS_"), ("fish", "set -gx AWS_"), ("powershell", "$env:AWS_")]
)
def test_env_speaks_the_shells(clary: Clary, shell: str, start: str) -> None:
    lines = clary.run("env", "--shell", shell).stdout.splitlines()
    assert lines[0].startswith(start)
    assert any("AWS_SECRET_ACCESS_KEY" in line for line in lines)


def test_env_is_taken_by_a_shell(clary: Clary) -> None:
    script = f'eval "$({CLARY} env --data {clary.data})"; "{sys.executable}" -c "import boto3; ' + (
        "print(boto3.client('sts').get_caller_identity()['Account'])\""
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "123456789012", done.stderr


def test_keys_and_tables_are_for_their_owner_only(clary: Clary) -> None:
    for path in ("keys/identities.json", "run/identity.json", "run/launch.json", "run/routes.json"):
        assert (clary.data / path).stat().st_mode & 0o077 == 0, path


def test_image_explain_names_the_environment(clary: Clary) -> None:
    told = clary.run(
        "image", "explain", "123.dkr.ecr.eu-west-1.amazonaws.com/sagemaker-scikit-learn:1.2-1-cpu-py3"
    ).stdout
    assert "1.2" in told
    refused = clary.run("image", "explain", "me/unknown:1").stdout
    assert "me/unknown:1" in refused


def test_n1_a_used_port_is_told_with_its_owner(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        done = subprocess.run(
            [CLARY, "up", "--detach", "--data", str(tmp_path), "--port", str(port)], capture_output=True, text=True
        )
    assert done.returncode == 1
    assert str(port) in done.stderr
    assert f"pid {os.getpid()}" in done.stderr


def test_a_second_start_is_told_and_a_bad_setting_named(clary: Clary, tmp_path: Path) -> None:
    again = clary.run("up", "--detach", "--port", str(clary.port), check=False)
    assert again.returncode == 0
    assert "up already" in again.stdout
    other = clary.run("up", "--detach", "--port", str(free_port()), check=False)
    assert other.returncode == 1
    assert "clary down" in other.stderr
    bad = subprocess.run(
        [CLARY, "up", "--data", str(tmp_path), "--host", "0.0.0.0", "--no-auth"], capture_output=True, text=True
    )
    assert bad.returncode == 2
    assert "loopback" in bad.stderr


def test_commands_without_a_clary_say_how_to_start_one(tmp_path: Path) -> None:
    done = subprocess.run([CLARY, "ps", "--data", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "clary up" in done.stderr


def test_s4_a_locked_database_delays_writes_and_touches_no_invocation(
    start_clary: Callable[..., Clary], forest: Trained
) -> None:
    one = start_clary()
    name = one.endpoint(one.config(instance(one.model(one.upload(dict(forest.files)), "clary/sklearn"))))
    locked, release = threading.Event(), threading.Event()

    def hold() -> None:
        with sqlite3.connect(one.data / "clary.db", isolation_level=None, timeout=10) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            locked.set()
            release.wait(30)
            connection.execute("ROLLBACK")

    holder = threading.Thread(target=hold)
    holder.start()
    locked.wait(15)
    try:
        for _ in range(50):
            assert one.invoke(name, forest.csv(1)).strip() == b"0"
        with pytest.raises(Exception, match="ServiceUnavailable"):
            one.client("sagemaker").add_tags(
                ResourceArn=f"arn:aws:sagemaker:us-east-1:123456789012:endpoint/{name}",
                Tags=[{"Key": "k", "Value": "v"}],
            )
        assert one.client("sagemaker").describe_endpoint(EndpointName=name)["EndpointStatus"] == "InService"
    finally:
        release.set()
        holder.join()
    wait_for(one.answers, 10, "the API")
    one.client("sagemaker").add_tags(
        ResourceArn=f"arn:aws:sagemaker:us-east-1:123456789012:endpoint/{name}", Tags=[{"Key": "k", "Value": "v"}]
    )
    one.delete(name)


def test_logs_show_what_a_model_printed(clary: Clary, echo_files: dict[str, str]) -> None:
    name = clary.endpoint(clary.config(instance(clary.model(clary.upload(dict(echo_files)), "clary/sklearn"))))
    with pytest.raises(Exception, match="ModelError"):
        clary.invoke(name, "raise seen in the log", "text/plain")
    wait_for(lambda: "seen in the log" in clary.run("logs", name, check=False).stdout, 15, "the log line")
    clary.delete(name)
