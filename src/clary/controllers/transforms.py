"""Makes transform jobs what they should be: inputs pinned, environment prepared, instances started, the engine run,
outputs published, everything put away. Each look takes a job one step further; any step may be repeated.

The engine is a process of its own (`clary.transform`), started by the supervisor as our task. It outlives us: when
control comes back, a second one is started, waits for the first one's lock, and finds all done. What it makes lies in
the job's folder; publishing it is ours, because control alone has the object store open.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from clary.controllers.loop import Key, Loop
from clary.controllers.preparation import Preparation
from clary.controllers.publication import Endpoint, Publisher, TransformJob, read_job
from clary.controllers.transform_objects import TransformObjects
from clary.domain.endpoint import Deployment, Desired, Observed
from clary.domain.errors import AccessDenied, Invalid, NotFound, StoreFailed
from clary.domain.fleet_name import TRANSFORM_JOB, account_of
from clary.domain.rollout import START_ATTEMPTS
from clary.domain.transform_job import CLEARED, JOB_MAX_S, TransformJobStatus, TransformObserved, is_overdue
from clary.domain.transform_plan import Order
from clary.failpoints import failpoint
from clary.paths import Layout
from clary.runtimes.process import ProcessRuntime
from clary.store.codec import encode
from clary.store.resources import Record, Resources
from clary.transform.folder import JobFolder

log = logging.getLogger(__name__)

LOOK_S = 0.25
SLOW_LOOK_S = 1.0
OBJECTS_AGAIN_S = 5.0
ENGINE_DEATHS = 5  # without any progress between them
OUTPUT_GONE = "ClientError: the bucket of S3OutputPath was deleted while the job ran"
CAPTURE_GONE = "ClientError: the bucket of DataCaptureConfig.DestinationS3Uri does not exist"
REASON_CHARS = 1024  # FailureReason


@dataclass(slots=True)
class _Engine:
    task: asyncio.Task[dict[str, Any]]
    deaths: int = 0
    progress: Mapping[str, Any] | None = None  # as it stood at the last death


class TransformController:
    """One level-triggered loop over all jobs that are not put away, keyed by uid."""

    def __init__(
        self,
        layout: Layout,
        resources: Resources,
        runtime: ProcessRuntime,
        preparation: Preparation,
        publisher: Publisher,
        objects: TransformObjects,
        now: Callable[[], datetime],
        environ: Mapping[str, str],
    ) -> None:
        self._layout = layout
        self._resources = resources
        self._runtime = runtime
        self._preparation = preparation
        self._publisher = publisher
        self._objects = objects
        self._now = now
        self._environ = environ
        self.loop = Loop("transforms", self.reconcile)
        self._engines: dict[int, _Engine] = {}
        self._published: dict[int, bool] = {}  # uid -> whether the launch table that is out has its fleet
        self._outputs: dict[int, list[tuple[str, str]]] = {}  # uid -> where each input's output goes
        self._fleets: dict[str, int] = {}

    async def watch(self) -> None:
        """Asks for a look at every job that a commit has changed, and at all of them every half minute."""
        version = -1
        seen: dict[int, Record] = {}
        while True:
            if not await self._resources.changed_since(version, timeout_s=30.0):
                seen = {}
            version = self._resources.version
            found = {record.uid: record for record in await self._resources.unfinished(TRANSFORM_JOB, CLEARED)}
            for uid, record in found.items():
                if seen.get(uid) != record:
                    self._fleets[read_job(record).fleet] = uid
                    self.loop.add(uid)
            seen = found

    def fleet_changed(self, fleet: str) -> None:
        """A worker of `fleet` changed its state."""
        uid = self._fleets.get(account_of(fleet))
        if uid is not None:
            self.loop.add(uid)

    def progress(self, uid: int) -> dict[str, Any]:
        """What the job's engine told last; empty when it has told nothing."""
        return self._folder(uid).progress()

    async def reconcile(self, key: Key) -> float | None:
        assert isinstance(key, int)
        found = await self._resources.by_uid(key)
        if found is None:
            return None
        job = read_job(found[0])
        if job.observed.cleared:
            return None
        if job.observed.outcome:
            return await self._clear(job)
        if job.desired.stopped:
            return await self._stop(job)
        if job.observed.objects < 0:
            return await self._plan(job)
        if job.observed.prepared is None:
            return await self._prepare(job)
        return await self._run(job)

    # -- before it runs --------------------------------------------------------------------------

    async def _plan(self, job: TransformJob) -> float | None:
        try:
            count, total = await asyncio.to_thread(self._objects.plan, job.desired, self._folder(job.record.uid))
        except Invalid as error:
            return await self._end(job, TransformJobStatus.FAILED, f"ClientError: {error.why}")
        except AccessDenied as error:
            return await self._end(job, TransformJobStatus.FAILED, f"ClientError: {error}")
        except StoreFailed as error:
            return await self._wait_for_objects(job, error)
        failpoint("transform.before_planned")
        await self._report(job, objects=count, bytes=total, progress="preparing")
        failpoint("transform.after_planned")
        return 0.0

    async def _wait_for_objects(self, job: TransformJob, error: StoreFailed) -> float | None:
        """The object store is lost for now: the job says so, and is looked at again as long as a job may last."""
        if is_overdue(job.record.created_at, self._now()):
            outcome = TransformJobStatus.STOPPED if job.desired.stopped else TransformJobStatus.FAILED
            return await self._end(job, outcome, f"InternalServerError: no object store for too long: {error}")
        if job.observed.progress != (told := f"waiting: {error}"):
            log.warning("job=%s event=objects_lost reason=%s", job.record.name, error)
            await self._report(job, progress=told)
        return OBJECTS_AGAIN_S

    async def _prepare(self, job: TransformJob) -> float | None:
        variant = job.desired.variant
        deployment = Deployment(job.desired.number, "", (variant,), job.desired.asked_at)
        like = Endpoint(job.record, Desired(target=deployment), Observed())
        prepared, problem, progress = await self._preparation.look(like, deployment, self.loop.add)
        if problem:
            return await self._end(job, TransformJobStatus.FAILED, f"ClientError: {problem}")
        if prepared is None:
            if progress != job.observed.progress:
                await self._report(job, progress=progress)
            return SLOW_LOOK_S
        made = [prepared[f"{deployment.number}/{part.name}"] for part in variant.parts]
        notes = [note for part in variant.parts for note in self._publisher.share(part).notes]
        notes += [one.image.note for one in made if one.image and one.image.note]
        await self._report(
            job,
            prepared=made[0],
            further=tuple(made[1:]),
            progress="running",
            started_at=self._now().isoformat(),
            notes=tuple(dict.fromkeys(notes)),
        )
        failpoint("transform.after_prepared")
        return 0.0

    # -- while it runs ---------------------------------------------------------------------------

    async def _run(self, job: TransformJob) -> float | None:
        uid, folder = job.record.uid, self._folder(job.record.uid)
        if not self._published.get(uid):
            await self._publisher.publish()
            self._published[uid] = True
            failpoint("transform.after_launch")
        engine = self._engines.get(uid)
        if engine is None:
            engine = self._engines[uid] = _Engine(self._start_engine(job, folder))
        ended = engine.task.done()
        try:
            job = await self._publish_outputs(job, folder)
        except NotFound:
            return await self._end(job, TransformJobStatus.FAILED, OUTPUT_GONE)
        except AccessDenied as error:
            return await self._end(job, TransformJobStatus.FAILED, f"ClientError: {error}")
        except StoreFailed as error:
            return await self._wait_for_objects(job, error)
        for view in (self._runtime.view(fleet) for fleet in job.fleets):
            if not view.ready and (view.hopeless or view.failures >= START_ATTEMPTS):
                return await self._end(job, TransformJobStatus.FAILED, f"AlgorithmError: {view.reason}")
        if not ended:
            return LOOK_S
        return await self._engine_ended(job, folder, engine)

    def _start_engine(self, job: TransformJob, folder: JobFolder) -> asyncio.Task[dict[str, Any]]:
        """Runs the engine as the supervisor's task; its end asks for a look."""
        logs = self._layout.worker_logs / job.fleet.replace("/", "~")
        logs.mkdir(mode=0o700, exist_ok=True)
        variant = job.desired.variant
        assert job.observed.prepared is not None
        prepared = (job.observed.prepared, *job.observed.further)
        processes = min(
            self._publisher.share(part, prepared=made).processes
            for part, made in zip(variant.parts, prepared, strict=True)
        )
        folder.write_order(
            Order(
                fleets=job.fleets,
                instances=variant.instance_count,
                processes=processes,
                handling=job.desired.handling,
                start_timeout_s=variant.startup_timeout_s,
                log=str(logs / "data-log.log"),
            )
        )
        work = self._runtime.request(
            "task",
            limit_s=JOB_MAX_S + 10,
            argv=[
                sys.executable,
                "-I",
                "-m",
                "clary.transform",
                "--data",
                str(self._layout.data),
                "--job",
                str(folder.path),
            ],
            environ={"LANG": "C.UTF-8", "PATH": "/usr/bin:/bin", **self._environ},
            timeout_s=JOB_MAX_S,
        )
        task = asyncio.create_task(work)
        task.add_done_callback(lambda _: self.loop.add(job.record.uid))
        return task

    async def _publish_outputs(self, job: TransformJob, folder: JobFolder) -> TransformJob:
        """Makes visible what is whole."""
        numbers = await asyncio.to_thread(folder.finished)
        if not numbers:
            return job
        uid = job.record.uid
        if uid not in self._outputs:
            self._outputs[uid] = await asyncio.to_thread(
                lambda: [(one.output_bucket, one.output_key) for one in folder.inputs()]
            )
        content_type = job.desired.handling.accept or job.desired.handling.content_type
        for number in numbers:
            bucket, key = self._outputs[uid][number]
            await asyncio.to_thread(self._objects.publish, folder, number, bucket, key, content_type)
        count = len(await asyncio.to_thread(folder.published))
        return await self._report(job, published=count, progress="running")

    async def _engine_ended(self, job: TransformJob, folder: JobFolder, engine: _Engine) -> float | None:
        uid = job.record.uid
        try:
            result = engine.task.result()
        except StoreFailed as error:  # the supervisor's connection broke: what became of the engine is unknown
            log.info("job=%s event=engine_lost reason=%s", job.record.name, error)
            result = {"code": -1, "output": ""}
        if result["code"] == 0:
            job = await self._report(job, records=folder.progress().get("lines", 0))
            failed = await asyncio.to_thread(folder.failed)
            if not failed and job.desired.capture_uri:
                began = datetime.fromisoformat(job.observed.started_at)
                try:
                    await asyncio.to_thread(self._objects.capture, job.record.name, job.desired, began, folder)
                except NotFound:
                    return await self._end(job, TransformJobStatus.FAILED, CAPTURE_GONE)
                except AccessDenied as error:
                    return await self._end(job, TransformJobStatus.FAILED, f"ClientError: {error}")
                except StoreFailed as error:
                    return await self._wait_for_objects(job, error)
            if not failed:
                return await self._end(job, TransformJobStatus.COMPLETED, "")
            return await self._end(job, TransformJobStatus.FAILED, _reason(failed, job.observed.objects))
        progress = {**folder.progress(), "published": job.observed.published}
        deaths = 1 if progress != engine.progress else engine.deaths + 1
        log.warning(
            "job=%s event=engine_died deaths=%d facts=%s output=%r",
            job.record.name,
            deaths,
            result.get("facts"),
            str(result["output"])[-2000:],
        )
        if deaths >= ENGINE_DEATHS:
            return await self._end(
                job,
                TransformJobStatus.FAILED,
                f"InternalServerError: the job's engine ended {deaths} times in a row without progress; its last words "
                f"are in clary's log of control. {str(result['output'])[-300:]}",
            )
        self._engines[uid] = _Engine(self._start_engine(job, folder), deaths, progress)
        return LOOK_S

    # -- its end ---------------------------------------------------------------------------------

    async def _stop(self, job: TransformJob) -> float | None:
        folder = self._folder(job.record.uid)
        if not self._halted(job.record.uid, folder):
            return LOOK_S / 5
        reason = ""
        if folder.path.exists():
            try:
                job = await self._publish_outputs(job, folder)
            except NotFound:
                reason = OUTPUT_GONE
            except StoreFailed as error:
                return await self._wait_for_objects(job, error)
        return await self._end(job, TransformJobStatus.STOPPED, reason)

    async def _end(self, job: TransformJob, outcome: TransformJobStatus, reason: str) -> float | None:
        failpoint("transform.before_ended")
        await self._report(
            job,
            touch=True,
            outcome=outcome.value,
            ended_at=self._now().isoformat(),
            failure_reason=reason[:REASON_CHARS],
            progress="",
        )
        failpoint("transform.after_ended")
        log.info("job=%s event=%s reason=%r", job.record.name, outcome.lower(), reason)
        return 0.0

    async def _clear(self, job: TransformJob) -> float | None:
        """Engine, workers, folder and uid go, in this order; then nothing is left to look at."""
        uid, folder = job.record.uid, self._folder(job.record.uid)
        if not self._halted(uid, folder):
            return LOOK_S / 5
        if self._published.get(uid, True):
            await self._publisher.publish()
            self._published[uid] = False
        if any(event["fleet"] in job.fleets for event in self._runtime.workers.values()):
            return SLOW_LOOK_S
        await asyncio.to_thread(shutil.rmtree, folder.path, True)
        failpoint("transform.after_cleared_folder")
        await self._resources.free_worker_uid(uid)
        for fleet in job.fleets:
            self._runtime.forget(fleet)
        for held in (self._engines, self._published, self._outputs):
            held.pop(uid, None)
        self._fleets.pop(job.fleet, None)
        await self._report(job, cleared=True)
        return None

    def _halted(self, uid: int, folder: JobFolder) -> bool:
        """Whether no engine of the job lives; it is told to stop."""
        if not folder.path.exists():
            return True
        folder.stop.touch()
        engine = self._engines.get(uid)
        if engine is not None and not engine.task.done():
            return False
        lock = folder.lock()
        if lock is None:
            return False
        lock.close()
        return True

    # -- small steps -----------------------------------------------------------------------------

    def _folder(self, uid: int) -> JobFolder:
        return JobFolder(Path(self._layout.transforms / str(uid)))

    async def _report(self, job: TransformJob, touch: bool = False, **changes: Any) -> TransformJob:
        observed: TransformObserved = replace(job.observed, **changes)
        if observed == job.observed:
            return job
        await self._resources.report(job.record.uid, encode(observed), touch=touch)
        return replace(job, observed=observed)


def _reason(failed: Mapping[int, str], objects: int) -> str:
    """FailureReason: AWS's sentence first, then the object and the line."""
    first = failed[min(failed)]
    head = "ClientError: See job logs for more information. "
    many = f"{len(failed)} of {objects} objects failed, the first: " if objects > 1 else ""
    return head + many + first
