"""Transform jobs: what is wanted of one, what was seen of it, and the one status that follows from the two.

A job carries a whole snapshot of its model, taken when it was created, as a deployment does: the model may be deleted
while the job runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from clary.domain.endpoint import Prepared, Variant
from clary.domain.transform_plan import Handling

JOB_MAX_S = 5 * 86_400.0  # the longest that a transform job may last (service quotas)


class TransformJobStatus(StrEnum):
    """The service model's TransformJobStatus."""

    IN_PROGRESS = "InProgress"
    COMPLETED = "Completed"
    FAILED = "Failed"
    STOPPING = "Stopping"
    STOPPED = "Stopped"


@dataclass(frozen=True, slots=True)
class TransformDesired:
    """What the API's callers want."""

    number: int  # of the job's fleet, drawn from the deployments' numbers
    variant: Variant  # the model and its instances
    handling: Handling
    source_type: str  # S3Prefix | ManifestFile
    source_uri: str
    output_uri: str
    request: dict[str, object] = field(default_factory=dict)  # what Describe gives back, by the API's member names
    stopped: bool = False
    capture_uri: str = ""  # below which the manifests of DataCaptureConfig go; "" for none
    asked_at: str = ""  # ISO 8601


@dataclass(frozen=True, slots=True)
class TransformObserved:
    """What the controller has seen to be so. Times are ISO 8601, "" while unknown."""

    prepared: Prepared | None = None
    further: tuple[Prepared, ...] = ()  # of a pipeline: what the containers behind the first start from
    objects: int = -1  # inputs; -1 until they were listed
    bytes: int = 0  # of all inputs
    started_at: str = ""
    ended_at: str = ""
    outcome: str = ""  # Completed | Failed | Stopped once it is decided
    failure_reason: str = ""
    published: int = 0  # outputs that are visible
    records: int = 0  # lines, or records of a binary kind, once the engine has ended
    progress: str = ""  # what is being waited for, in words
    notes: tuple[str, ...] = ()
    cleared: bool = False  # nothing of it runs or lies about any more


def status(desired: TransformDesired, observed: TransformObserved) -> TransformJobStatus:
    """The job's status; total over every pair of values."""
    if observed.outcome:
        return TransformJobStatus(observed.outcome)
    return TransformJobStatus.STOPPING if desired.stopped else TransformJobStatus.IN_PROGRESS


# What the stored form of a job that is over holds (`codec`'s JSON); jobs without it are looked after.
CLEARED = '"cleared": true'


def runs(desired: TransformDesired, observed: TransformObserved) -> bool:
    """Whether the job's instances may run."""
    return not observed.outcome and not desired.stopped


def is_overdue(created_at: datetime, now: datetime) -> bool:
    """Whether a job is so old that nothing is waited for any more."""
    return (now - created_at).total_seconds() > JOB_MAX_S
