"""Endpoints: what is wanted, what is served, and the one status that follows from the two.

Wanted and served are `Deployment`s: whole, self-contained snapshots of an endpoint configuration and its models taken
when the call was made, because both may be deleted or remade while the endpoint lives. A deployment's number is never
used again, so a fleet's name (`region/endpoint/variant/number`) never means two things.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from clary.domain.asynchronous import AsyncConfig, Bounds
from clary.domain.capture import Capture
from clary.domain.component import Component, HostVariant, Requirements
from clary.domain.containers import ExecutionMode
from clary.domain.fleet_name import CONTAINER_MARK, part_name
from clary.domain.routing import RoutingStrategy


class EndpointStatus(StrEnum):
    """The service model's EndpointStatus."""

    OUT_OF_SERVICE = "OutOfService"
    CREATING = "Creating"
    UPDATING = "Updating"
    SYSTEM_UPDATING = "SystemUpdating"
    ROLLING_BACK = "RollingBack"
    IN_SERVICE = "InService"
    DELETING = "Deleting"
    FAILED = "Failed"
    UPDATE_ROLLBACK_FAILED = "UpdateRollbackFailed"


@dataclass(frozen=True, slots=True)
class DataSource:
    """Where a container's files come from. `uri` names an object or, for a prefix, ends in "/"."""

    uri: str
    compressed: bool = True  # a tar.gz to unpack
    prefix: bool = False
    channel: str = ""  # of AdditionalModelDataSources; "" for the model itself


@dataclass(frozen=True, slots=True)
class Container:
    """One container of a model, as it was when the deployment was asked for."""

    image: str
    data: DataSource | None = None
    additional_data: tuple[DataSource, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    hostname: str = ""
    multi_model: bool = False  # `data` is the prefix below which its models lie
    cache_models: bool = True  # MultiModelConfig.ModelCacheSetting


@dataclass(frozen=True, slots=True)
class Serverless:
    """ServerlessConfig."""

    memory_mib: int
    max_concurrency: int
    provisioned_concurrency: int = 0


@dataclass(frozen=True, slots=True)
class Variant:
    """One production variant of a deployment."""

    name: str
    model_name: str
    container: Container
    role_arn: str = ""
    instance_type: str = ""
    instance_count: int = 1
    weight: float = 1.0
    serverless: Serverless | None = None
    startup_timeout_s: int = 480  # 8 min (container contract); ContainerStartupHealthCheckTimeoutInSeconds
    volume_gib: int = 30
    strategy: RoutingStrategy = RoutingStrategy.LEAST_OUTSTANDING_REQUESTS
    network_isolation: bool = False
    further: tuple[Container, ...] = ()  # of a model of several containers: those behind `container`, in order
    mode: ExecutionMode = ExecutionMode.SERIAL
    requirements: Requirements | None = None  # of an inference component, whose `instance_count` is of copies

    @property
    def parts(self) -> tuple[Variant, ...]:
        """One variant a container, each under its fleet's name for it; itself where it has one container only."""
        if not self.further:
            return (self,)
        return tuple(
            replace(self, name=part_name(self.name, one.hostname), container=one, further=())
            for one in (self.container, *self.further)
        )

    @property
    def production_variant(self) -> str:
        """The name that the API knows, of a variant or of a part of one."""
        return self.name.partition(CONTAINER_MARK)[0]


@dataclass(frozen=True, slots=True)
class Deployment:
    """A snapshot to be served. `number` is unique over all endpoints and never used again."""

    number: int
    config_name: str
    variants: tuple[Variant, ...]
    asked_at: str = ""  # ISO 8601
    asynchronous: AsyncConfig | None = None
    capture: Capture | None = None
    hosts: tuple[HostVariant, ...] = ()  # in place of `variants`: instances for inference components
    component: Component | None = None  # of an inference component, which has one variant, named as its host's

    @property
    def parts(self) -> tuple[Variant, ...]:
        """Of all variants: what has a fleet each."""
        return tuple(part for variant in self.variants for part in variant.parts)

    def fleet(self, region: str, owner: str, variant: str) -> str:
        """`owner` as `domain.fleet_name.owner_name` has it."""
        return f"{region}/{owner}/{variant}/{self.number}"


@dataclass(frozen=True, slots=True)
class Desired:
    """What the API's callers want of an endpoint."""

    target: Deployment
    revision: int = 0  # grows with every change of weights or capacities within a deployment
    deleted: bool = False
    deployment_config: dict[str, object] = field(default_factory=dict)  # LastDeploymentConfig
    keep_alive_s: float | None = None  # tag clary:keep-alive-s; None: adaptive
    scale_to_zero: bool = False  # tag clary:scale-to-zero on real-time variants
    scaling: dict[str, Bounds] = field(default_factory=dict)  # by variant: scalable targets


@dataclass(frozen=True, slots=True)
class DeployedContainer:
    """What an image became (DeployedImages)."""

    specified_image: str
    resolved_image: str
    resolved_at: str
    note: str = ""  # e.g. "substituted: 1.2-1 -> 1.2.2"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a variant's workers start from, resolved once per deployment: interpreter, files, uid."""

    python: str
    prefixes: tuple[str, ...]  # folders a worker must see: environment and base interpreter
    framework: str
    zygote: str  # key of the warm interpreter; "" where there must be none
    model_dir: str
    zygote_trusted: bool = True  # False: it holds packages of the user's choice and runs without rights
    zygote_imports: tuple[str, ...] = ()  # distributions that it imports besides the framework
    code_dir: str = ""
    artifact_bytes: int = 0
    etags: dict[str, str] = field(default_factory=dict)  # by URI, as they were when the files were fetched
    uid: int = -1
    image: DeployedContainer | None = None
    additional_dirs: dict[str, str] = field(default_factory=dict)  # by channel
    cache_dir: str = ""  # the deployment's own, written by its workers
    command: tuple[str, ...] = ()
    container: dict[str, str] = field(default_factory=dict)  # {"engine", "image", "user"}: a container, no interpreter


@dataclass(frozen=True, slots=True)
class Observed:
    """What the controller has seen to be so."""

    serving: Deployment | None = None
    routed: Deployment | None = None  # what the proxy has been told to route to; `serving` once it has confirmed
    retiring: tuple[Deployment, ...] = ()  # no longer routed to, still draining
    prepared: dict[str, Prepared] = field(default_factory=dict)  # by "number/part"
    revision: int = -1  # of the desired state that is in force
    failed_number: int = 0  # the deployment that was given up, with its reason
    failed_revision: int = 0  # ... and the revision of the desired state that asked for it
    failure_reason: str = ""
    progress: str = ""  # what is being waited for, in words
    notes: tuple[str, ...] = ()
    placement: tuple[int, ...] = ()  # of an inference component: the host's instance that each copy is on


def status(desired: Desired, observed: Observed) -> EndpointStatus:
    """The endpoint's status; total over every pair of values."""
    if desired.deleted:
        return EndpointStatus.DELETING
    failed = given_up(desired, observed)
    if observed.serving is None:
        return EndpointStatus.FAILED if failed else EndpointStatus.CREATING
    in_force = observed.serving.number == desired.target.number and observed.revision >= desired.revision
    return EndpointStatus.IN_SERVICE if failed or in_force else EndpointStatus.UPDATING


def given_up(desired: Desired, observed: Observed) -> bool:
    """Whether the target, or the counts and weights that were asked for last, will not come to be."""
    return observed.failed_number == desired.target.number and observed.failed_revision == desired.revision


def wanted(desired: Desired, observed: Observed) -> Deployment:
    """The deployment that is being worked for: the target, or where that was given up what still serves."""
    if given_up(desired, observed) and observed.serving is not None:
        return observed.serving
    return desired.target


def failure_reason(desired: Desired, observed: Observed) -> str:
    """Why the newest deployment was given up; "" when it was not. At most 1,024 characters, as the model allows."""
    return observed.failure_reason[:1024] if given_up(desired, observed) else ""


def prepared_of(observed: Observed, deployment: Deployment, variant: str) -> Prepared | None:
    return observed.prepared.get(f"{deployment.number}/{variant}")


def can_update(state: EndpointStatus) -> bool:
    return state in (EndpointStatus.IN_SERVICE, EndpointStatus.UPDATE_ROLLBACK_FAILED, EndpointStatus.OUT_OF_SERVICE)


def retain(new: Deployment, old: Deployment, excluded: frozenset[str]) -> Deployment:
    """RetainAllVariantProperties: variants of the same name keep count and weight, except what is excluded."""
    before = {variant.name: variant for variant in old.variants}

    def keep(variant: Variant) -> Variant:
        was = before.get(variant.name)
        if was is None or (was.serverless is None) != (variant.serverless is None):
            return variant
        return replace(
            variant,
            instance_count=variant.instance_count if "DesiredInstanceCount" in excluded else was.instance_count,
            weight=variant.weight if "DesiredWeight" in excluded else was.weight,
        )

    return replace(new, variants=tuple(keep(variant) for variant in new.variants))


def resized(deployment: Deployment, changes: dict[str, Variant]) -> Deployment:
    """The same deployment with some variants' weights or capacities changed in place."""
    return replace(deployment, variants=tuple(changes.get(v.name, v) for v in deployment.variants))
