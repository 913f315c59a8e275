"""What an instance type means on this host: a ceiling, never a reservation; a smaller host caps it and says so."""

from __future__ import annotations

from dataclasses import dataclass

from clary.domain.component import Capacity, Requirements
from clary.domain.prices import InstanceType

MIB = 1024 * 1024
KEPT_FREE_BYTES = 256 * MIB  # for the host itself
SERVERLESS_VCPU_MIB = 1769  # memory that carries one vCPU (AWS Lambda, which serverless inference is built on)


@dataclass(frozen=True, slots=True)
class Host:
    """This machine, measured."""

    cores: int
    memory_bytes: int
    available_bytes: int


@dataclass(frozen=True, slots=True)
class Share:
    """What one instance gets here."""

    cpus: float
    memory_bytes: int
    processes: int
    notes: tuple[str, ...]


def fit_instance(kind: InstanceType, host: Host, processes: int | None) -> Share:
    """An instance of `kind` on `host`; `processes` is SAGEMAKER_MODEL_SERVER_WORKERS when it is set."""
    notes = []
    memory = int(kind.memory_gib * 1024 * MIB)
    if memory > host.memory_bytes:
        notes.append(f"{kind.name}: memory {kind.memory_gib:g} GiB capped at the host's {host.memory_bytes // MIB} MiB")
    if kind.vcpu > host.cores:
        notes.append(f"{kind.name}: {kind.vcpu} vCPU capped at the host's {host.cores} cores")
    if kind.gpu:
        notes.append(f"{kind.name}: {kind.gpu} is not on this host; the model runs on CPU")
    return Share(
        cpus=min(kind.vcpu, host.cores),
        memory_bytes=min(memory, host.memory_bytes),
        processes=processes or max(1, min(kind.vcpu, host.cores)),
        notes=tuple(notes),
    )


def fit_copy(requirements: Requirements, kind: InstanceType, host: Host, processes: int | None) -> Share:
    """One copy of an inference component on an instance of `kind`."""
    whole = fit_instance(kind, host, processes)
    cpus = min(requirements.cpus, whole.cpus) if requirements.cpus else whole.cpus
    memory = requirements.max_memory_mib * MIB if requirements.max_memory_mib else whole.memory_bytes
    return Share(cpus, min(memory, whole.memory_bytes), processes or max(1, int(cpus)), whole.notes)


def capacity(kind: InstanceType) -> Capacity:
    """What an instance has for copies of inference components: all of it, for clary takes nothing of an instance."""
    return Capacity(float(kind.vcpu), int(kind.memory_gib * 1024))


def fit_serverless(memory_mib: int, host: Host) -> Share:
    """One concurrent slot of a serverless variant."""
    return Share(
        cpus=min(memory_mib / SERVERLESS_VCPU_MIB, float(host.cores)),
        memory_bytes=min(memory_mib * MIB, host.memory_bytes),
        processes=1,
        notes=(),
    )


def admit(artifact_bytes: int, workers: int, host: Host) -> str:
    """ "" when the workers may be tried, else why not. An artifact takes at least its own size in every worker."""
    need = artifact_bytes * workers
    free = host.available_bytes - KEPT_FREE_BYTES
    if need <= free:
        return ""
    return (
        f"There is not enough memory on this host: {workers} worker(s) of a model of {artifact_bytes // MIB} MiB need "
        f"{need // MIB} MiB, {max(free, 0) // MIB} MiB are free."
    )
