"""Hugging Face's images: pipelines of every task, the toolkit's contract, generated text token by token.

The models are made small and random by the environment that serves them (scripts/huggingface_models.py), which asks
transformers' own pipelines, too; an endpoint must answer the same. Skipped, in the recipe's words, only where the
recipe itself refuses because no CPU build of torch can be had.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from botocore.exceptions import ClientError
from conftest import ROLE, SHARED, Clary, instance, serverless, wait_for

AWS = (
    "763104351884.dkr.ecr.us-east-1.amazonaws.com/"
    "huggingface-pytorch-inference:2.6.0-transformers4.57.6-cpu-py311-ubuntu22.04"
)
TGI = "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-tgi-inference:2.7.0-tgi3.3.4-gpu-py311-cu124"
MAKER = Path(__file__).parent / "scripts" / "huggingface_models.py"
TEXT = "the cat sat on the mat"
# An environment of a gigabyte is copied and compiled, and two interpreters import it.
BUILD_LIMIT_S = 280
CASES = (
    "text-classification",
    "text-classification of many",
    "token-classification",
    "question-answering",
    "feature-extraction",
    "fill-mask",
    "zero-shot-classification",
    "text-generation",
    "text2text-generation",
    "summarization",
)


HUB = "s3://hub/snapshots/"


@pytest.fixture(scope="module")
def clary(start_clary: Callable[..., Clary]) -> Clary:
    """A clary of this file's own, which knows a place of snapshots."""
    return start_clary(CLARY_HUGGING_FACE_MODELS=HUB)


class Made:
    """The models' folders, and what transformers answered for them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cases: dict[str, Any] = json.loads((folder / "expected.json").read_text())["cases"]

    def files(self, name: str) -> dict[str, bytes | str]:
        return {path.name: path.read_bytes() for path in sorted((self.folder / name).iterdir())}


@pytest.fixture(scope="module")
def made(clary: Clary, tmp_path_factory: pytest.TempPathFactory) -> Made:
    told = clary.run("image", "explain", "clary/huggingface", check=False)
    if "no release of" in told.stdout:
        pytest.skip("NO TORCH, so Hugging Face is NOT tested here: " + told.stdout)
    pulled = clary.run("image", "pull", "clary/huggingface", check=False, limit_s=BUILD_LIMIT_S)
    if "with CUDA libraries" in pulled.stdout + pulled.stderr:
        pytest.skip("NO TORCH, so Hugging Face is NOT tested here: " + pulled.stdout + pulled.stderr)
    assert pulled.returncode == 0, pulled.stdout + pulled.stderr
    digest = "".join(told.stdout.partition("@sha256:")[2].split())[:64]  # a narrow terminal cuts it in two
    folder = tmp_path_factory.mktemp("huggingface")
    python = SHARED / "envs" / digest / "bin" / "python"
    done = subprocess.run([python, MAKER, folder], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return Made(folder)


def deploy(clary: Clary, files: dict[str, bytes | str], image: str = AWS, wait: bool = True, **environment: str) -> str:
    model = clary.model(clary.upload(files), image, environment)
    return clary.endpoint(clary.config(instance(model)), wait)


def ask(clary: Clary, endpoint: str, request: Any) -> Any:
    return json.loads(clary.invoke(endpoint, json.dumps(request), "application/json"))


def near(wanted: Any) -> Any:
    """What is equal to `wanted`, numbers within a float's error: the worker may add in another order."""
    if isinstance(wanted, dict):
        return {name: near(value) for name, value in wanted.items()}
    if isinstance(wanted, list):
        return [near(value) for value in wanted]
    return pytest.approx(wanted, rel=1e-4, abs=1e-5) if isinstance(wanted, float) else wanted


@pytest.mark.parametrize("case", CASES)
def test_an_endpoint_answers_as_transformers_own_pipeline(clary: Clary, made: Made, case: str) -> None:
    told = made.cases[case]
    name = deploy(clary, made.files(told["model"]), HF_TASK=told["task"])
    request = {"inputs": told["inputs"], **({"parameters": told["parameters"]} if told["parameters"] else {})}
    assert ask(clary, name, request) == near(told["answer"])
    clary.delete(name)


@pytest.fixture(scope="module")
def classifier(clary: Clary, made: Made) -> str:
    """An endpoint whose task is told by config.json alone, with the shortest name of the image."""
    return deploy(clary, made.files("classifier"), "clary/huggingface")


@pytest.fixture(scope="module")
def teller(clary: Clary, made: Made) -> str:
    return deploy(clary, made.files("endless"), SAGEMAKER_MODEL_SERVER_WORKERS="1")


def refused(
    clary: Clary, endpoint: str, body: bytes | str, content_type: str, status: int = 400, **options: Any
) -> Any:
    """The JSON of a refusal."""
    with pytest.raises(ClientError) as caught:
        clary.invoke(endpoint, body, content_type, **options)
    told = caught.value.response
    assert told["Error"]["Code"] == "ModelError"
    assert told["OriginalStatusCode"] == status  # type: ignore[typeddict-item]
    return json.loads(told["OriginalMessage"])  # type: ignore[typeddict-item]


def test_the_task_is_told_by_the_architecture(clary: Clary, made: Made, classifier: str) -> None:
    told = made.cases["text-classification"]
    assert ask(clary, classifier, {"inputs": told["inputs"]}) == near(told["answer"])
    image = clary.client("sagemaker").describe_endpoint(EndpointName=classifier)["ProductionVariants"][0]
    assert image["DeployedImages"][0]["ResolvedImage"].startswith("clary/huggingface:4.57.6-py3")


def test_bodies_are_read_and_written_as_by_the_toolkit(clary: Clary, made: Made, classifier: str) -> None:
    told = made.cases["text-classification of many"]
    rows = [[item[0]] for item in told["answer"]]
    both = "inputs\n" + "\n".join(told["inputs"]) + "\n"
    found = json.loads(clary.invoke(classifier, both, "text/csv"))
    assert [[one] for one in found] == near(rows)
    csv = clary.invoke(classifier, both, "text/csv", Accept="text/csv").decode().splitlines()
    assert csv[0] == "label,score"
    assert [line.partition(",")[0] for line in csv[1:]] == [row[0]["label"] for row in rows]
    npy = clary.invoke(classifier, json.dumps({"inputs": TEXT}), "application/json", Accept="application/x-npy")
    assert np.load(io.BytesIO(npy), allow_pickle=False).tolist()


def test_a_refusal_has_the_toolkits_shape(clary: Clary, classifier: str) -> None:
    told = refused(clary, classifier, TEXT, "text/plain")
    assert (told["code"], told["type"]) == (400, "InternalServerException")
    assert "Content type text/plain is not supported by this framework" in told["message"]
    assert "the body is no JSON" in refused(clary, classifier, "{", "application/json")["message"]
    assert "not list" in refused(clary, classifier, "[1]", "application/json")["message"]
    assert "needs a header line" in refused(clary, classifier, "a,b\n1,2", "text/csv")["message"]
    assert "must be of type `str`" in refused(clary, classifier, '{"inputs": [5]}', "application/json")["message"]
    stream = json.dumps({"inputs": TEXT, "stream": True})
    assert "task is text-classification" in refused(clary, classifier, stream, "application/json")["message"]
    accept = {"Accept": "image/png"}
    assert "image/png" in refused(clary, classifier, '{"inputs": "a"}', "application/json", **accept)["message"]


@pytest.mark.parametrize(
    ("name", "environment", "words"),
    [
        ("masked", {"HF_TASK": "mind-reading"}, "no pipeline for HF_TASK=mind-reading"),
        ("", {}, "no config.json lies at the top of the model"),
        (
            "classifier",
            {"HF_MODEL_ID": "org/absent"},
            'HF_MODEL_ID "org/absent" is not among the snapshots of s3://hub/',
        ),
        ("classifier", {"HF_MODEL_ID": "../x"}, "neither org/model, nor s3://bucket/prefix/"),
        ("classifier", {"HF_MODEL_ID": "/opt/ml/model/deep"}, "is no folder of the model"),
    ],
)
def test_what_cannot_be_served_ends_failed_with_its_reason(
    clary: Clary, made: Made, name: str, environment: dict[str, str], words: str
) -> None:
    files = made.files(name) if name else {"readme.txt": "no model"}
    endpoint = deploy(clary, files, wait=False, **environment)
    state = clary.settled(endpoint)
    assert state["EndpointStatus"] == "Failed"
    assert words in state["FailureReason"]
    clary.delete(endpoint)


# -- weights without model data


def put(clary: Clary, files: dict[str, bytes | str], bucket: str, prefix: str) -> str:
    s3 = clary.client("s3")
    s3.create_bucket(Bucket=bucket)
    for name, content in files.items():
        s3.put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=content)
    return f"s3://{bucket}/{prefix}/"


def without_data(clary: Clary, environment: dict[str, str]) -> str:
    name = f"hub-{uuid.uuid4().hex[:10]}"
    clary.client("sagemaker").create_model(
        ModelName=name, ExecutionRoleArn=ROLE, PrimaryContainer={"Image": AWS, "Environment": environment}
    )
    return name


def test_a_model_id_may_be_a_prefix_or_the_name_of_a_snapshot(clary: Clary, made: Made) -> None:
    told = made.cases["question-answering"]
    prefix = put(clary, made.files("answers"), "weights", "squad/answers")
    put(clary, made.files("answers"), "hub", "snapshots/org/answers@v2")
    for environment in (
        {"HF_MODEL_ID": prefix, "HF_TASK": "question-answering", "HF_API_TOKEN": "not-a-token"},
        {"HF_MODEL_ID": "org/answers", "HF_MODEL_REVISION": "v2"},
    ):
        name = clary.endpoint(clary.config(instance(without_data(clary, environment))))
        assert ask(clary, name, {"inputs": told["inputs"]}) == near(told["answer"])
        clary.delete(name)
    with pytest.raises(ClientError, match=r"Could not find model data at s3://weights/none/"):
        without_data(clary, {"HF_MODEL_ID": "s3://weights/none/"})
    name = clary.endpoint(clary.config(instance(without_data(clary, {"HF_MODEL_ID": "org/answers"}))), wait=False)
    assert "tried s3://hub/snapshots/org/answers/" in clary.settled(name)["FailureReason"]  # not the revision v2
    clary.delete(name)


def test_an_archive_may_bring_the_script_for_a_models_weights(clary: Clary, made: Made) -> None:
    prefix = put(clary, made.files("classifier"), "weights", "scripted")
    script = "def output_fn(prediction, accept):\n    return prediction[0]['label'], 'text/plain'\n"
    name = deploy(clary, {"code/inference.py": script}, HF_MODEL_ID=prefix)
    found = clary.invoke(name, json.dumps({"inputs": TEXT}), "application/json")
    assert found.decode() == made.cases["text-classification"]["answer"][0]["label"]
    clary.delete(name)


# -- scripts

EMBEDDING = """
import torch
from transformers import AutoModel, AutoTokenizer

def model_fn(model_dir):
    return AutoModel.from_pretrained(model_dir).eval(), AutoTokenizer.from_pretrained(model_dir)

def predict_fn(data, model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    encoded = tokenizer(data["inputs"], padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**encoded).last_hidden_state
    mask = encoded["attention_mask"].unsqueeze(-1)
    return {"vectors": ((states * mask).sum(1) / mask.sum(1))}
"""


def test_sentence_embeddings_by_a_script_as_the_toolkits_examples_have_it(clary: Clary, made: Made) -> None:
    name = deploy(clary, {**made.files("masked"), "code/inference.py": EMBEDDING})
    found = ask(clary, name, {"inputs": [TEXT, "a good dog"]})["vectors"]
    tokens = np.array(made.cases["feature-extraction"]["answer"][0])
    assert found[0] == near(tokens.mean(0).tolist())
    assert len(found) == 2
    clary.delete(name)


STREAMER = """
from threading import Thread
from transformers import TextIteratorStreamer

def transform_fn(model, body, content_type, accept):
    streamer = TextIteratorStreamer(model.tokenizer, skip_prompt=True, skip_special_tokens=True)
    ids = model.tokenizer(body.decode(), return_tensors="pt")["input_ids"]
    options = {"input_ids": ids, "streamer": streamer, "max_new_tokens": 8, "do_sample": False}
    Thread(target=model.model.generate, kwargs=options).start()
    return (piece for piece in streamer if piece), "text/plain"
"""


def test_a_script_may_stream_with_transformers_own_streamer(clary: Clary, made: Made) -> None:
    name = deploy(clary, {**made.files("teller"), "code/inference.py": STREAMER})
    answer = clary.client("sagemaker-runtime").invoke_endpoint_with_response_stream(
        EndpointName=name, Body=TEXT, ContentType="text/plain"
    )
    pieces = [event["PayloadPart"]["Bytes"].decode() for event in answer["Body"]]
    whole = made.cases["text-generation"]["answer"][0]["generated_text"]
    assert "".join(pieces).split() == whole.removeprefix(TEXT).replace(".", " .").split()
    assert len(pieces) > 1
    clary.delete(name)


# -- tokens


def stream(clary: Clary, endpoint: str, request: Any) -> Any:
    answer = clary.client("sagemaker-runtime").invoke_endpoint_with_response_stream(
        EndpointName=endpoint, Body=json.dumps({**request, "stream": True}), ContentType="application/json"
    )
    assert answer["ContentType"] == "text/event-stream"
    return answer["Body"]


def events(body: Any) -> list[dict[str, Any]]:
    text = b"".join(event["PayloadPart"]["Bytes"] for event in body).decode()
    lines = text.split("\n\n")
    assert lines.pop() == ""
    assert all(line.startswith("data:") for line in lines)
    return [json.loads(line.removeprefix("data:")) for line in lines]


def test_a_text_is_streamed_token_by_token(clary: Clary, made: Made, teller: str) -> None:
    request = {"inputs": TEXT, "parameters": {"max_new_tokens": 12, "do_sample": False}}
    whole = ask(clary, teller, request)[0]["generated_text"]
    found = events(stream(clary, teller, request))
    assert [one["index"] for one in found] == list(range(1, 13))
    assert [one["generated_text"] for one in found[:-1]] == [None] * 11
    assert TEXT + found[-1]["generated_text"] == whole
    assert found[-1]["details"] == {"finish_reason": "length", "generated_tokens": 12, "seed": None}
    said = "".join(one["token"]["text"] for one in found if not one["token"]["special"])
    assert said.split() == whole.removeprefix(TEXT).replace(".", " .").split()
    assert all(one["token"]["logprob"] < 0 and isinstance(one["token"]["id"], int) for one in found)


def test_the_first_token_leaves_before_the_last_is_made(clary: Clary, teller: str) -> None:
    times = []
    for _event in stream(clary, teller, {"inputs": TEXT, "parameters": {"max_new_tokens": 400, "do_sample": False}}):
        times.append(time.monotonic())
    # Held back until the end they would come at once; a token of 400 takes at least its two hundredth of the whole.
    assert len(times) > 20
    assert times[-1] - times[0] > 0.05


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def test_a_caller_that_leaves_ends_the_generation(clary: Clary, teller: str) -> None:
    (worker,) = clary.ready(teller)
    before = threads(worker["pid"])
    # Some minutes of tokens, were they all made.
    body = stream(clary, teller, {"inputs": TEXT, "parameters": {"max_new_tokens": 90_000, "do_sample": False}})
    next(iter(body))
    assert threads(worker["pid"]) > before
    body.close()
    wait_for(lambda: threads(worker["pid"]) <= before, 30, "the generation to end")
    assert clary.ready(teller)[0]["pid"] == worker["pid"]
    assert ask(clary, teller, {"inputs": TEXT, "parameters": {"max_new_tokens": 2}})


def test_a_stream_that_cannot_be_is_refused_before_it_begins(clary: Clary, teller: str) -> None:
    for request, words in (
        ({"inputs": [TEXT, TEXT]}, "a stream is of one text"),
        ({"inputs": TEXT, "parameters": {"num_beams": 3}}, "beam"),
        ({"inputs": TEXT, "parameters": {"max_time": 1.0}}, "max_time"),
    ):
        told = refused(clary, teller, json.dumps({**request, "stream": True}), "application/json")
        assert words in told["message"]


def test_tgis_image_asks_and_answers_as_tgi(clary: Clary, made: Made) -> None:
    name = deploy(clary, made.files("endless"), TGI, HF_MODEL_ID="/opt/ml/model", SM_NUM_GPUS="1")
    request = {"inputs": TEXT, "parameters": {"max_new_tokens": 6, "details": True}}
    (found,) = ask(clary, name, request)
    assert found["details"]["finish_reason"] == "length"
    assert found["details"]["generated_tokens"] == len(found["details"]["tokens"]) == 6
    assert not found["generated_text"].startswith(TEXT)
    streamed = events(stream(clary, name, request))
    assert streamed[-1]["generated_text"] == found["generated_text"]
    assert [one["token"]["id"] for one in streamed] == [one["id"] for one in found["details"]["tokens"]]
    stop = found["generated_text"].split()[2]
    (short,) = ask(clary, name, {"inputs": TEXT, "parameters": {"stop": [stop], "details": True}})
    assert short["details"]["finish_reason"] == "stop_sequence"
    assert short["generated_text"].endswith(stop)
    sampled = {"inputs": TEXT, "parameters": {"max_new_tokens": 6, "temperature": 2.0, "seed": 7}}
    assert ask(clary, name, sampled) == ask(clary, name, sampled)
    wrong = json.dumps({"inputs": TEXT, "parameters": {"max_new_tokens": 0}})
    told = refused(clary, name, wrong, "application/json", 422)
    assert told == {
        "error": "Input validation error: `max_new_tokens` must be strictly positive",
        "error_type": "validation",
    }
    grammar = json.dumps({"inputs": TEXT, "parameters": {"grammar": {"type": "json"}}})
    assert "`grammar` is not served" in refused(clary, name, grammar, "application/json", 422)["error"]
    clary.delete(name)


# -- sleep, and many models


def test_a_sleeping_model_wakes_to_the_same_answer(clary: Clary, made: Made) -> None:
    told = made.cases["fill-mask"]
    model = clary.model(clary.upload(made.files("masked")), AWS)
    name = clary.endpoint(clary.config(serverless(model, memory=4096)), tags={"clary:keep-alive-s": "0.1"})
    for _ in range(2):
        wait_for(lambda: not clary.workers(name), 60, "the endpoint to sleep")
        request = {"inputs": told["inputs"], "parameters": told["parameters"]}
        assert ask(clary, name, request) == near(told["answer"])
    clary.delete(name)


def test_many_models_share_a_worker(clary: Clary, made: Made) -> None:
    s3 = clary.client("s3")
    for name in ("classifier", "masked"):
        bucket, _, key = clary.upload(made.files(name)).removeprefix("s3://").partition("/")
        s3.copy_object(Bucket=bucket, Key=f"many/{name}.tar.gz", CopySource={"Bucket": bucket, "Key": key})
    model = f"many-{uuid.uuid4().hex[:8]}"
    clary.client("sagemaker").create_model(
        ModelName=model,
        ExecutionRoleArn=ROLE,
        PrimaryContainer={"Image": AWS, "Mode": "MultiModel", "ModelDataUrl": "s3://models/many/"},
    )
    name = clary.endpoint(clary.config(instance(model)))
    for case in ("text-classification", "fill-mask"):
        told = made.cases[case]
        body = json.dumps({"inputs": told["inputs"], "parameters": told["parameters"]})
        found = clary.invoke(name, body, "application/json", TargetModel=f"{told['model']}.tar.gz")
        assert json.loads(found) == near(told["answer"])
    clary.delete(name)


def test_sagemakers_sdk_deploys_a_hugging_face_model(clary: Clary, made: Made, tmp_path: Path) -> None:
    """The stories of the script; what `clary env` prints is all that it is given."""
    python = Path(__file__).parents[2] / ".venvs" / "sdk2" / "bin" / "python"
    if not python.exists():
        pytest.skip("sdk2 is not installed: make setup puts it into .venvs/")
    clary.client("s3").create_bucket(Bucket="hub")
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "HTTPS_PROXY": "http://127.0.0.1:9",  # telemetry goes nowhere
        "NO_PROXY": "127.0.0.1,localhost",
        **clary.environment(),
    }
    script = MAKER.with_name("sdk2_huggingface.py")
    done = subprocess.run(
        [python, script, made.folder, AWS], env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    for story in ("model_data", "hub", "entry_point"):
        assert f"{story}: done" in done.stdout
