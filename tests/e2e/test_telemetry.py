"""What a real endpoint leaves behind: its log, its metrics, and a bill that says what the raw usage says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from conftest import Clary, Trained, instance, serverless, wait_for

from clary.controllers.reconciliation import reconcile
from clary.paths import Layout


def told(clary: Clary, endpoint: str) -> list[str]:
    """The lines that the endpoint's workers printed."""
    logs = clary.client("logs")
    try:
        found = logs.filter_log_events(logGroupName=f"/aws/sagemaker/Endpoints/{endpoint}")["events"]
    except logs.exceptions.ResourceNotFoundException:
        return []
    return [event["message"] for event in found]


def total(clary: Clary, endpoint: str, metric: str, variant: str = "AllTraffic") -> float:
    """A metric's sum over the last minutes."""
    now = datetime.now(UTC)
    points: list[dict[str, Any]] = clary.client("cloudwatch").get_metric_statistics(
        Namespace="AWS/SageMaker",
        MetricName=metric,
        Dimensions=[{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": variant}],
        StartTime=now - timedelta(minutes=10),
        EndTime=now + timedelta(minutes=1),
        Period=60,
        Statistics=["Sum"],
    )["Datapoints"]
    return sum(point["Sum"] for point in points)


def test_a_worker_that_dies_at_its_start_leaves_its_words_in_the_log(clary: Clary) -> None:
    script = "import sys\nprint('about to fail', flush=True)\ndef model_fn(d):\n    sys.exit('nothing to load')\n"
    model = clary.model(clary.upload({"inference.py": script, "code/inference.py": script}), "clary/sklearn")
    name = clary.endpoint(clary.config(instance(model)), wait=False)
    wait_for(lambda: any("about to fail" in line for line in told(clary, name)), 60, "the worker's words")
    clary.delete(name)
    assert any("about to fail" in line for line in told(clary, name)), "they outlive the endpoint"


def test_requests_are_counted_and_the_bill_is_exact(clary: Clary, forest: Trained, forest_uri: str) -> None:
    model = clary.model(forest_uri, "clary/sklearn")
    fixed = clary.endpoint(clary.config(instance(model)))
    on_demand = clary.endpoint(clary.config(serverless(model)))
    for _ in range(7):
        clary.invoke(fixed, forest.csv())
        clary.invoke(on_demand, forest.csv())
    for name in (fixed, on_demand):
        wait_for(lambda name=name: total(clary, name, "Invocations") == 7, 20, "seven invocations")
        assert total(clary, name, "ModelLatency") > 0
        assert total(clary, name, "Invocation5XXErrors") == 0
    clary.delete(fixed)
    clary.delete(on_demand)

    def settled() -> bool:
        found = reconcile(Layout(clary.data))
        assert found.exact, found.differences
        return found.behind_bytes == found.behind_requests == 0 and found.ledger_nanousd > 0

    wait_for(settled, 20, "the ledger to hold all usage")
