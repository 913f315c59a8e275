"""Models that cannot be loaded: too large for their instance, or written by other versions (rows W3 and W5)."""

from __future__ import annotations

import json
import time

import pytest
from conftest import Clary, serverless

from clary.paths import Layout

GREEDY = """
def model_fn(model_dir):
    print("about to be greedy", flush=True)
    return [bytearray(b"x" * (16 << 20)) for _ in range(1 << 10)]
"""
# A pickle that names a class which this version of the library does not have.
STALE = b"\x80\x04csklearn.ensemble._forest\nForestOfYesterday\n)\x81."


def test_w5_a_model_larger_than_its_memory_ends_failed_as_out_of_memory(clary: Clary) -> None:
    if not clary.isolation()["cgroup_version"]:
        pytest.skip("no control groups here: nothing but the whole host's memory limits a worker")
    model = clary.model(clary.upload({"code/inference.py": GREEDY}), "clary/sklearn")
    warm = clary.endpoint(
        clary.config(serverless(clary.model(clary.upload({"code/inference.py": OK}), "clary/sklearn")))
    )
    began_s = time.monotonic()
    name = clary.endpoint(clary.config(serverless(model, memory=1024)), wait=False)
    state = clary.settled(name, 60)
    took_s = time.monotonic() - began_s
    reason = state.get("FailureReason", "")
    print(f"Failed after {took_s:.1f} s: {reason}")
    assert state["EndpointStatus"] == "Failed"
    assert "OutOfMemory" in reason
    assert "SIGKILL" in reason  # how it ended: no exit code, a signal
    assert "about to be greedy" in reason
    assert reason.count("Hint:") == 1
    assert took_s < 30  # the page's promise is 10 s on a quiet machine
    journal = [json.loads(line) for line in Layout(clary.data).journal.read_text().splitlines()]
    starts = [one for one in journal if one["event"] == "started" and f"/{name}/" in one["fleet"]]
    assert len(starts) == 1  # a second one would end likewise
    assert clary.invoke(warm, "x", "text/plain") == b"x"
    clary.delete(name)
    clary.delete(warm)


OK = """
def model_fn(model_dir):
    return None
def transform_fn(model, body, content_type, accept):
    return body, content_type
"""


def test_w3_a_pickle_of_another_version_ends_failed_and_says_so(clary: Clary) -> None:
    model = clary.model(clary.upload({"model.joblib": STALE}), "clary/sklearn")
    name = clary.endpoint(clary.config(serverless(model)), wait=False)
    state = clary.settled(name, 60)
    reason = state.get("FailureReason", "")
    print(reason)
    assert state["EndpointStatus"] == "Failed"
    assert "ForestOfYesterday" in reason
    assert reason.count("Hint:") == 1
    clary.delete(name)
