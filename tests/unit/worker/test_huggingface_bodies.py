"""Task inference and bodies of the Hugging Face room: what needs no transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clary_worker.contract import LoadError, RequestError
from clary_worker.huggingface import bodies, pipelines, tasks, tgi


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("BertForSequenceClassification", "text-classification"),
        ("RobertaForTokenClassification", "token-classification"),
        ("DistilBertForQuestionAnswering", "question-answering"),
        ("TapasForQuestionAnswering", "table-question-answering"),
        ("BertForMaskedLM", "fill-mask"),
        ("LlamaForCausalLM", "text-generation"),
        ("GPT2LMHeadModel", "text-generation"),
        ("BartForConditionalGeneration", "text2text-generation"),
        ("MarianMTModel", "text2text-generation"),
        ("BertForMultipleChoice", "multiple-choice"),
    ],
)
def test_an_architecture_tells_its_task(architecture: str, task: str) -> None:
    assert tasks.choose({}, {"architectures": [architecture, "Other"]}) == task
    assert tasks.choose({"HF_TASK": "feature-extraction"}, {"architectures": [architecture]}) == "feature-extraction"


@pytest.mark.parametrize("architectures", [[], None, ["BertModel"]])
def test_an_architecture_that_tells_none_asks_for_hf_task(architectures: Any) -> None:
    config = {"architectures": architectures}
    with pytest.raises(LoadError, match="task cannot be told") as caught:
        tasks.choose({}, config)
    assert "HF_TASK" in caught.value.hint


def test_a_config_that_is_absent_or_broken_is_told(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").touch()
    with pytest.raises(LoadError, match=r"no config.json lies at the top of the model; there is weights.bin"):
        tasks.read_config(str(tmp_path))
    for text in ("{", "[]"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(LoadError, match=r"config\.json"):
            tasks.read_config(str(tmp_path))


def test_a_model_id_that_is_a_path_names_the_model_or_a_folder_of_it(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    assert pipelines.place(str(tmp_path), {}) == str(tmp_path)
    assert pipelines.place(str(tmp_path), {"HF_MODEL_ID": "org/model"}) == str(tmp_path)
    assert pipelines.place(str(tmp_path), {"HF_MODEL_ID": "/opt/ml/model"}) == str(tmp_path)
    assert pipelines.place(str(tmp_path), {"HF_MODEL_ID": "/opt/ml/model/deep"}) == str(tmp_path / "deep")
    for wrong in ("/opt/ml/model/../secret", "/etc", "/opt/ml/model/absent"):
        with pytest.raises(LoadError, match="is no folder of the model"):
            pipelines.place(str(tmp_path), {"HF_MODEL_ID": wrong})


def test_tokens_for_a_hub_are_said_to_be_without_effect() -> None:
    assert pipelines.note({"HF_API_TOKEN": "x", "HF_TASK": "ner"}) == "HF_API_TOKEN has no effect: no hub is asked"


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        ('{"inputs": "a"}', "application/json; charset=utf-8", {"inputs": "a"}),
        (b'{"inputs": "a"}', "", {"inputs": "a"}),
        ("inputs\na\nb\n", "text/csv", {"inputs": ["a", "b"]}),
        (
            'question,context\nwho?,"john, of paris"\n',
            "text/csv",
            {"inputs": [{"question": "who?", "context": "john, of paris"}]},
        ),
        (b"RIFF", "audio/wave", {"inputs": b"RIFF"}),
    ],
)
def test_bodies_become_inputs(body: Any, content_type: str, expected: Any) -> None:
    assert bodies.decode(body, content_type, "") == expected


@pytest.mark.parametrize(
    ("body", "content_type", "task", "words"),
    [
        ("a", "text/plain", "", "Content type text/plain is not supported"),
        ("{", "application/json", "", "no JSON"),
        ("a,b\n1,2\n", "text/csv", "", "header line"),
        ("inputs\n", "text/csv", "", "no line below its header"),
        ("inputs\na\n", "text/csv", "zero-shot-classification", "does not fit zero-shot-classification"),
    ],
)
def test_bodies_that_are_not_read_are_refused(body: str, content_type: str, task: str, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        bodies.decode(body, content_type, task)


def test_answers_are_written_as_by_the_toolkit() -> None:
    rows = [{"label": "été", "score": np.float32(0.5)}, {"label": "b", "score": np.float32(0.25)}]
    assert bodies.encode(rows, "application/json") == (
        '[{"label":"été","score":0.5},{"label":"b","score":0.25}]'.encode(),
        "application/json",
    )
    assert bodies.encode(rows, "text/csv")[0] == "label,score\r\nété,0.5\r\nb,0.25\r\n".encode()
    assert bodies.encode(np.ones((1, 2)), "*/*")[0] == b"[[1.0,1.0]]"
    with pytest.raises(RequestError, match="no columns"):
        bodies.encode([[1.0]], "text/csv")
    with pytest.raises(RequestError, match="Accept image/png"):
        bodies.encode(rows, "image/png")
    with pytest.raises(ValueError, match="Out of range"):
        bodies.encode([float("nan")], "application/json")


def test_a_failure_has_the_toolkits_shape(capsys: pytest.CaptureFixture[str]) -> None:
    answer = bodies.failure(ValueError("too long"))
    assert answer.status == 400
    assert json.loads(answer.body) == {"code": 400, "type": "InternalServerException", "message": "too long"}  # type: ignore[arg-type]
    assert "ValueError: too long" in capsys.readouterr().err  # the log has the traceback
    assert json.loads(bodies.failure(RequestError("no")).body)["message"] == "no"  # type: ignore[arg-type]
    assert capsys.readouterr().err == ""


def test_tgis_request_becomes_transformers_words() -> None:
    plain = tgi.read({"inputs": "a"})
    assert plain.generate == {"max_new_tokens": 100, "do_sample": False, "return_full_text": False}
    assert plain == ("a", plain.generate, [], False, None, False)
    full = tgi.read(
        {
            "inputs": "a",
            "parameters": {
                "temperature": 0.5,
                "max_new_tokens": 5,
                "stop": ["x"],
                "seed": 3,
                "details": True,
                "best_of": 1,
            },
            "stream": True,
        }
    )
    assert full.generate == {"temperature": 0.5, "max_new_tokens": 5, "do_sample": True, "return_full_text": False}
    assert (full.stop, full.seed, full.details, full.stream) == (["x"], 3, True, True)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "inputs is one text"),
        ({"inputs": ["a"]}, "inputs is one text"),
        ({"inputs": "a", "parameters": []}, "parameters is an object"),
        ({"inputs": "a", "parameters": {"max_new_tokens": 0}}, "`max_new_tokens` must be strictly positive"),
        ({"inputs": "a", "parameters": {"temperature": -1}}, "`temperature` must be strictly positive"),
        ({"inputs": "a", "parameters": {"top_p": 1.5}}, "`top_p` must be > 0.0 and < 1.0"),
        ({"inputs": "a", "parameters": {"stop": "x"}}, "`stop` is a list"),
        ({"inputs": "a", "parameters": {"seed": "x"}}, "`seed` is a number"),
        ({"inputs": "a", "parameters": {"best_of": 3}}, "`best_of` is not served"),
        ({"inputs": "a", "parameters": {"wisdom": 3}}, "`wisdom` is not known"),
    ],
)
def test_what_tgi_refuses_or_we_do_not_have_is_refused(data: Any, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        tgi.read(data)
    assert words in caught.value.text
    answer = tgi.failure(caught.value)
    assert answer.status == 422
    assert json.loads(answer.body)["error_type"] == "validation"  # type: ignore[arg-type]
