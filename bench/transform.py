"""Batch transform against the loop that one would write instead: the same model, file and environment.

The loop is a program of one thread in the Python of the job's own worker: it reads pieces as large as the job's
requests, decodes CSV, predicts, and writes one line a record. It is timed without its imports and without loading the
model, once with pandas' parser and once with numpy's; the job is timed from CreateTransformJob to its TransformEndTime,
publication of the output included. Nothing is pinned.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import artifacts
import machine
import stand
from artifacts import Artifact
from report import Table, spread, verdict
from scale import Scale
from wake import interpreter

RATIO = 0.9
PAYLOAD_MB = 6  # SageMaker's default of MaxPayloadInMB
PROCESSES = (1, 2)
JOB_LIMIT_S = 300.0
ZYGOTES_GONE_S = 90.0
LOOK_EVERY_S = 0.5  # a call costs milliseconds of the same cores; the end is told with its time
LINES_COMPARED = 1000  # of both outputs
TOLERANCE = 1e-5  # pandas' parser is not exact to the last bit

LOADERS = {
    "xgboost": """
import xgboost
booster = xgboost.Booster(model_file={model!r})
booster.set_param({{"nthread": 1}})
predict = lambda rows: booster.inplace_predict(rows, validate_features=False)
""",
    "logistic": """
import joblib
predict = joblib.load({model!r}).predict
""",
}
DECODERS = {
    "pandas": "import io, pandas\ndecode = lambda body: pandas.read_csv(io.BytesIO(body), header=None).to_numpy()\n",
    "numpy": "import io, numpy\ndecode = lambda body: numpy.loadtxt(io.BytesIO(body), delimiter=',', ndmin=2)\n",
}
LOOP = """
import time
{load}{decode}
decode(b"1,2\\n")
started_s, cpu_s, count, rest = time.perf_counter(), time.process_time(), 0, b""
with open({source!r}, "rb") as source, open({output!r}, "w") as output:
    while body := source.read({size}):
        body = rest + body
        end = body.rfind(b"\\n") + 1
        rest = body[end:]
        answers = predict(decode(body[:end])).tolist()
        count += len(answers)
        output.write("\\n".join(map(str, answers)) + "\\n")
print(count, time.perf_counter() - started_s, time.process_time() - cpu_s)
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One way through the file. `cpu_s` is of all processes that took part; `start_s` until a job's workers begin."""

    records: int
    seconds: float
    cpu_s: float
    start_s: float = 0.0

    @property
    def records_per_s(self) -> float:
        return self.records / self.seconds


@dataclass(frozen=True, slots=True)
class Subject:
    """A model, its file of records below the bucket, and the loop's own copies of both."""

    artifact: Artifact
    folder: Path
    records: int

    @property
    def source(self) -> Path:
        return self.folder.parent / "records.csv"

    @property
    def output(self) -> Path:
        return self.folder / "loop.out"


def table(scale: Scale) -> Table:
    """Per model the two loops and the jobs of one and of two processes."""
    found: dict[tuple[str, str], list[Run]] = defaultdict(list)
    titles, firsts = {}, {}
    with stand.running() as one, _files(one, scale.records) as subjects:
        for subject in subjects:
            titles[subject.artifact.kind] = subject.artifact.title
            models = {
                count: one.model(subject.artifact, {"SAGEMAKER_MODEL_SERVER_WORKERS": str(count)})
                for count in PROCESSES
            }
            python = _python(one, models[1])
            machine.wait_until(
                lambda: all(not zygote["pid"] for zygote in one.zygotes()), ZYGOTES_GONE_S, "the zygotes to leave"
            )
            _loop(subject, python, "numpy")  # what the job's output is compared with
            firsts[subject.artifact.kind] = _job(one, subject, models[1])
            for number in range(scale.rounds):
                machine.say(f"transform: {subject.artifact.title}: round {number + 1} of {scale.rounds}")
                for name in DECODERS:
                    found[subject.artifact.kind, _loop_title(name)].append(_loop(subject, python, name))
                for count, model in models.items():
                    found[subject.artifact.kind, _job_title(count)].append(_job(one, subject, model))
    rows, notes = [], []
    for kind, title in titles.items():
        mine = {way: runs for (of, way), runs in found.items() if of == kind}
        rows += [_row(title, way, runs, mine) for way, runs in mine.items()]
        notes.append(f"{title}, {_job_title(1)}: {verdict(_ratio(mine[_job_title(1)], mine), RATIO, False, _OF_LOOP)}.")
        notes.append(f"{title}, one process, the first job of its image: {firsts[kind].records_per_s:,.0f} records/s.")
    return Table(
        name="transform",
        title="Batch transform against a bare loop",
        headers=("model", "way", "records/s", "of the faster loop's", "CPU us/record", "start, s"),
        rows=rows,
        notes=[
            *notes,
            f"{scale.records:,} records of 30 columns in one object; SplitType Line, MultiRecord, MaxPayloadInMB "
            f"{PAYLOAD_MB}, AssembleWith Line, one instance. A job's time is from CreateTransformJob to Completed.",
            "The loop has one thread, reads pieces of that size, decodes with pandas.read_csv or numpy.loadtxt; it is "
            "timed without imports and without loading the model. A job's ratio is to the faster of the two, by round.",
            "The jobs of the table begin with the zygote of their environment at hand, as within 45 s of a job or "
            "endpoint of the same image; the first one has it started, and waits for its imports.",
        ],
        raw={f"{kind} {way}": [asdict(run) for run in runs] for (kind, way), runs in found.items()},
    )


_OF_LOOP = "of the loop's records/s"


def _loop_title(decoder: str) -> str:
    return f"loop, {decoder}"


def _job_title(processes: int) -> str:
    return f"job, {processes} process{'es' if processes > 1 else ''}"


def _ratio(runs: list[Run], mine: Mapping[str, list[Run]]) -> float:
    """The median over the rounds of records/s, as a share of the faster loop's of the same round."""
    loops = zip(*(mine[_loop_title(name)] for name in DECODERS), strict=True)
    best = [max(run.records_per_s for run in both) for both in loops]
    return statistics.median(run.records_per_s / loop for run, loop in zip(runs, best, strict=True))


def _row(title: str, way: str, runs: list[Run], mine: Mapping[str, list[Run]]) -> tuple[str, ...]:
    return (
        title,
        way,
        spread(run.records_per_s for run in runs),
        f"{_ratio(runs, mine):.2f}",
        spread((1e6 * run.cpu_s / run.records for run in runs), 2),
        spread((run.start_s for run in runs), 2) if runs[0].start_s else "",
    )


@contextmanager
def _files(one: stand.Stand, records: int) -> Iterator[list[Subject]]:
    """The file of records, here and in the bucket, and a folder for each model; gone afterwards."""
    models = [artifacts.xgboost_model(1), artifacts.sklearn_model("logistic")]
    with tempfile.TemporaryDirectory(prefix="clary-bench-") as place:
        folder = Path(place)
        subjects = []
        for artifact in models:
            own = folder / artifact.kind
            own.mkdir()
            for name, content in artifact.files.items():
                (own / name).write_bytes(content)
            subjects.append(Subject(artifact, own, records))
        machine.say(f"transform: writing and uploading {records:,} records")
        _write_records(subjects[0].source, records)
        one.client("s3").create_bucket(Bucket=stand.BUCKET)
        one.client("s3").upload_file(str(subjects[0].source), stand.BUCKET, "transform/in/records.csv")
        yield subjects


def _write_records(path: Path, records: int) -> None:
    """The set's rows over and over, each time another one first, so that no two megabytes are the same."""
    lines = [",".join(map(repr, row)).encode() + b"\n" for row in artifacts.rows()]
    with path.open("wb") as file:
        for start in range(0, records, len(lines)):
            turn = start // len(lines) % len(lines)
            file.write(b"".join((lines[turn:] + lines[:turn])[: records - start]))


def _python(one: stand.Stand, model: str) -> str:
    """The interpreter of the model's environment, as a worker of an endpoint of it shows."""
    endpoint = one.endpoint(one.config(model, serverless=False))
    found = interpreter(int(one.workers(endpoint)[0]["pid"]))
    one.delete(endpoint)
    return found


def _loop(subject: Subject, python: str, decoder: str) -> Run:
    name = next(iter(subject.artifact.files))
    code = LOOP.format(
        load=LOADERS[subject.artifact.kind].format(model=str(subject.folder / name)),
        decode=DECODERS[decoder],
        source=str(subject.source),
        output=str(subject.output),
        size=PAYLOAD_MB << 20,
    )
    environ = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [python, "-I", "-c", code], check=True, capture_output=True, text=True, timeout=JOB_LIMIT_S, env=environ
    )
    count, seconds, cpu_s = done.stdout.split()
    return Run(int(count), float(seconds), float(cpu_s))


def _job(one: stand.Stand, subject: Subject, model: str) -> Run:
    """One job, its output compared with the loop's. Raises: RuntimeError."""
    name = f"t-{uuid.uuid4().hex[:10]}"
    sagemaker, s3 = one.client("sagemaker"), one.client("s3")
    source = {"S3DataType": "S3Prefix", "S3Uri": f"s3://{stand.BUCKET}/transform/in/"}
    before_s, started_at = machine.cpu_s(machine.tree(one.pid)), time.time()
    sagemaker.create_transform_job(
        TransformJobName=name,
        ModelName=model,
        BatchStrategy="MultiRecord",
        MaxPayloadInMB=PAYLOAD_MB,
        TransformInput={"DataSource": {"S3DataSource": source}, "ContentType": "text/csv", "SplitType": "Line"},
        TransformOutput={"S3OutputPath": f"s3://{stand.BUCKET}/{name}", "AssembleWith": "Line"},
        TransformResources={"InstanceType": "ml.m5.large", "InstanceCount": 1},
    )
    told = machine.wait_until(lambda: _ended(one, name), JOB_LIMIT_S, f"the end of {name}", LOOK_EVERY_S)
    if told["TransformJobStatus"] != "Completed":
        raise RuntimeError(f"{name} is {told['TransformJobStatus']}: {told.get('FailureReason')}")
    spent_s = machine.cpu_s(machine.tree(one.pid)) - before_s
    key = f"{name}/records.csv.out"
    _compare(s3.get_object(Bucket=stand.BUCKET, Key=key)["Body"].read(), subject.output.read_bytes(), subject.records)
    s3.delete_object(Bucket=stand.BUCKET, Key=key)
    seconds = told["TransformEndTime"].timestamp() - started_at
    return Run(subject.records, seconds, spent_s, told["TransformStartTime"].timestamp() - started_at)


def _ended(one: stand.Stand, name: str) -> dict[str, Any] | None:
    told: dict[str, Any] = one.client("sagemaker").describe_transform_job(TransformJobName=name)
    return None if told["TransformJobStatus"] == "InProgress" else told


def _compare(job: bytes, loop: bytes, records: int) -> None:
    """Raises: RuntimeError when the job's output is not what the loop found: an answer a record, in order."""
    theirs, ours = loop.splitlines(), job.splitlines()
    if not len(ours) == len(theirs) == records:
        raise RuntimeError(f"of {records} records the job answered {len(ours)} and the loop {len(theirs)}")
    for number in range(0, records, max(1, records // LINES_COMPARED)):
        if abs(float(ours[number]) - float(theirs[number])) > TOLERANCE:
            raise RuntimeError(f"line {number + 1}: the job says {ours[number]!r}, the loop {theirs[number]!r}")
