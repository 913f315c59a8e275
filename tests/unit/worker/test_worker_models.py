"""Real models served without a script: every answer is the library's own, in every type it travels in."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
import worker_models
import xgboost
from worker_client import Worker
from worker_models import IRIS, MIXED, ROWS, csv_of

from clary_worker import recordio


@pytest.fixture(scope="module")
def served(start: Callable[..., Worker], models: dict[str, Path]) -> Callable[..., Worker]:
    """One worker a model folder, started at its first use."""
    running: dict[str, Worker] = {}

    def get(name: str, framework: str = "auto") -> Worker:
        if name not in running:
            running[name] = start(models[name], framework)
            assert not running[name].failure, running[name].log
        return running[name]

    return get


def npy_of(rows: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, rows)
    return out.getvalue()


def loaded(body: bytes) -> Any:
    return np.load(io.BytesIO(body), allow_pickle=False)


@pytest.mark.parametrize("name", ["forest", "logistic", "scaled"])
def test_a_classifier_answers_its_own_labels(
    served: Callable[..., Worker], estimators: dict[str, Any], name: str
) -> None:
    worker, expected = served(name), estimators[name].predict(ROWS).tolist()
    assert worker.invoke(json.dumps(ROWS.tolist()), "application/json").json == expected
    named = worker.invoke(json.dumps({"instances": ROWS.tolist()}), "application/json").json
    assert named == {"predictions": expected}
    assert loaded(worker.invoke(npy_of(ROWS), "application/x-npy").body).tolist() == expected
    lines = "\n".join(json.dumps(row) for row in ROWS.tolist())
    answer = worker.invoke(lines, "application/jsonlines")
    assert [json.loads(line) for line in answer.text.splitlines()] == expected


def test_a_regressor_answers_exact_numbers_as_text(served: Callable[..., Worker], estimators: dict[str, Any]) -> None:
    expected = estimators["regressor"].predict(ROWS[:, :3])
    answer = served("regressor").invoke(csv_of(ROWS[:, :3]))
    assert [float(line) for line in answer.text.splitlines()] == expected.tolist()
    assert answer.kind == "text/csv"


def test_labels_with_commas_and_quotes_survive_csv(served: Callable[..., Worker], estimators: dict[str, Any]) -> None:
    import csv

    answer = served("logistic").invoke(csv_of(ROWS))
    expected = estimators["logistic"].predict(ROWS).tolist()
    assert [row[0] for row in csv.reader(answer.text.splitlines())] == expected
    assert "versi,color" in expected or 'virgi"nica' in expected


def test_probabilities_come_when_the_environment_asks(
    start: Callable[..., Worker], models: dict[str, Path], estimators: dict[str, Any]
) -> None:
    worker = start(models["forest"], "sklearn", environ={"CLARY_SKLEARN_METHOD": "predict_proba"})
    answer = worker.invoke(csv_of(ROWS), accept="application/json")
    assert answer.json == estimators["forest"].predict_proba(ROWS).tolist()


def test_a_transformer_answers_its_transform(served: Callable[..., Worker], estimators: dict[str, Any]) -> None:
    answer = served("scaler").invoke(json.dumps(ROWS.tolist()), "application/json")
    assert answer.json == estimators["scaler"].transform(ROWS).tolist()


def test_a_pipeline_with_texts_takes_them_from_csv_and_json(
    served: Callable[..., Worker], estimators: dict[str, Any]
) -> None:
    worker, expected = served("mixed"), estimators["mixed"].predict(MIXED).tolist()
    assert [int(line) for line in worker.invoke(csv_of_mixed(MIXED)).text.splitlines()] == expected
    assert worker.invoke(json.dumps(MIXED.tolist()), "application/json").json == expected


def csv_of_mixed(rows: Any) -> str:
    return "\n".join(",".join(str(cell) for cell in row) for row in rows)


def test_documents_are_taken_one_a_row(served: Callable[..., Worker]) -> None:
    worker = served("texts")
    assert worker.invoke(json.dumps(["a good film", "bad, bad play"]), "application/json").json == [1, 0]
    assert worker.invoke(json.dumps({"instances": [["good"], ["bad"]]}), "application/json").json == {
        "predictions": [1, 0]
    }
    assert worker.invoke('"good, very good"\nbad film').text == "1\n0\n"


def test_a_flat_list_is_one_row(served: Callable[..., Worker], estimators: dict[str, Any]) -> None:
    answer = served("forest").invoke(json.dumps(ROWS[0].tolist()), "application/json")
    assert answer.json == estimators["forest"].predict(ROWS[:1]).tolist()


def test_estimators_run_on_one_thread(served: Callable[..., Worker]) -> None:
    worker = served("forest")
    worker.invoke(csv_of(ROWS))
    assert worker.detail["warmup"] is True
    assert worker.detail["batchable"] is True


@pytest.mark.parametrize("name", ["binary", "softprob", "linear"])
def test_a_booster_answers_as_booster_predict_does(
    served: Callable[..., Worker], trees: dict[str, Any], name: str
) -> None:
    worker, expected = served(name, "xgboost"), trees[name].predict(xgboost.DMatrix(ROWS))
    answer = worker.invoke(csv_of(ROWS), accept="application/json")
    assert answer.json == expected.tolist()
    scores = worker.invoke(json.dumps({"instances": [{"features": row} for row in ROWS.tolist()]}), "application/json")
    assert scores.json == {"predictions": [{"score": item} for item in expected.tolist()]}


@pytest.mark.parametrize("name", ["json", "pickled"])
def test_xgboost_model_files_load_as_json_and_as_pickle(
    served: Callable[..., Worker], trees: dict[str, Any], name: str
) -> None:
    answer = served(name, "xgboost").invoke(csv_of(ROWS))
    expected = trees["binary"].predict(xgboost.DMatrix(ROWS)).tolist()
    assert answer.text == ",".join(map(str, expected))
    assert answer.kind == "text/csv"


def test_xgboost_csv_has_a_line_a_row_in_a_transform_job(
    start: Callable[..., Worker], models: dict[str, Path], trees: dict[str, Any]
) -> None:
    worker = start(models["binary"], "xgboost", transform=True)
    expected = trees["binary"].predict(xgboost.DMatrix(ROWS)).tolist()
    assert worker.invoke(csv_of(ROWS)).text == "".join(f"{item}\n" for item in expected)


@pytest.mark.parametrize(
    ("name", "keys", "first"),
    [
        (
            "binary",
            "predicted_label, probability,probabilities,labels",
            lambda p: {
                "predicted_label": int(p > 0.5),
                "probability": p.item(),
                "probabilities": [1.0 - p.item(), p.item()],
                "labels": [0, 1],
            },
        ),
        (
            "softprob",
            "predicted_label,probability,labels",
            lambda p: {"predicted_label": int(p.argmax()), "probability": p.max().item(), "labels": [0, 1, 2]},
        ),
        ("abalone", "predicted_score", lambda p: {"predicted_score": p.item()}),
    ],
)
def test_selected_outputs_come_as_records(
    start: Callable[..., Worker], models: dict[str, Path], trees: dict[str, Any], name: str, keys: str, first: Any
) -> None:
    worker = start(models[name], "xgboost", environ={"SAGEMAKER_INFERENCE_OUTPUT": keys})
    rows = np.hstack([ROWS, ROWS, ROWS])[:, : trees[name].num_features()]
    expected = [first(item) for item in trees[name].predict(xgboost.DMatrix(rows))]
    assert worker.invoke(csv_of(rows), accept="application/json").json == {"predictions": expected}
    lines = worker.invoke(csv_of(rows), accept="application/jsonlines").text.splitlines()
    assert [json.loads(line) for line in lines] == expected
    cells = [f'"{value}"' if isinstance(value, list) else str(value) for value in expected[0].values()]
    assert worker.invoke(csv_of(rows)).text.splitlines()[0] == ",".join(cells)
    assert len(list(recordio.frames(worker.invoke(csv_of(rows), accept="application/x-recordio-protobuf").body))) == 64


def test_selected_outputs_that_cannot_be_are_refused(start: Callable[..., Worker], models: dict[str, Path]) -> None:
    worker = start(models["binary"], "xgboost", environ={"SAGEMAKER_INFERENCE_OUTPUT": "guess"})
    assert worker.failure["reason"] == "SAGEMAKER_INFERENCE_OUTPUT=guess names no output of XGBoost's"


def test_several_scores_a_row_are_a_csv_line_each(served: Callable[..., Worker], trees: dict[str, Any]) -> None:
    lines = served("softprob").invoke(csv_of(ROWS)).text.splitlines()
    expected = trees["softprob"].predict(xgboost.DMatrix(ROWS)).tolist()
    assert [[float(cell) for cell in line.split(",")] for line in lines] == expected


def test_libsvm_rows_of_the_abalone_set_answer_as_the_library_does(
    served: Callable[..., Worker], trees: dict[str, Any]
) -> None:
    import gzip

    text = gzip.decompress((worker_models.DATA / "tabular" / "abalone.train_0.libsvm.gz").read_bytes())
    lines = b"\n".join(text.splitlines()[:50])
    rows, _ = worker_models.abalone()
    answer = served("abalone", "xgboost").invoke(lines, "text/libsvm")
    assert answer.kind == "text/csv"
    expected = trees["abalone"].predict(xgboost.DMatrix(rows[:50])).tolist()
    assert [float(cell) for cell in answer.text.split(",")] == expected


def test_missing_cells_are_missing_values(served: Callable[..., Worker], trees: dict[str, Any]) -> None:
    rows = ROWS[:3].copy()
    rows[1, 2] = np.nan
    text = csv_of(rows).replace(b"nan", b"")
    answer = served("binary").invoke(text, accept="application/json")
    assert answer.json == trees["binary"].predict(xgboost.DMatrix(rows)).tolist()


def test_recordio_goes_both_ways(served: Callable[..., Worker], trees: dict[str, Any]) -> None:
    kind = "application/x-recordio-protobuf"
    rows = ROWS.astype(np.float32)
    answer = served("binary").invoke(recordio.encode_features(rows), kind)
    assert answer.kind == kind
    expected = trees["binary"].predict(xgboost.DMatrix(rows))
    assert len(list(recordio.frames(answer.body))) == len(rows)
    assert answer.body == recordio.encode(expected)


def test_a_wrapped_booster_answers_as_an_estimator(served: Callable[..., Worker]) -> None:
    expected = xgboost.XGBClassifier(n_estimators=5).fit(IRIS, worker_models.SPECIES).predict(ROWS)
    assert served("wrapped").invoke(json.dumps(ROWS.tolist()), "application/json").json == expected.tolist()


def test_lightgbm_answers_as_its_booster_does(served: Callable[..., Worker], models: dict[str, Path]) -> None:
    expected = lightgbm.Booster(model_file=models["lightgbm"] / "model.txt").predict(ROWS, num_threads=1)
    answer = served("lightgbm", "lightgbm").invoke(csv_of(ROWS))
    assert [float(line) for line in answer.text.splitlines()] == expected.tolist()


def test_skops_files_are_served(served: Callable[..., Worker], estimators: dict[str, Any]) -> None:
    answer = served("skops").invoke(json.dumps(ROWS.tolist()), "application/json")
    assert answer.json == estimators["logistic"].predict(ROWS).tolist()


@pytest.mark.parametrize("name", ["forest", "logistic"])
def test_onnx_answers_as_its_own_session_does(
    start: Callable[..., Worker], sockets: Callable[[], Path], estimators: dict[str, Any], name: str
) -> None:
    import onnxruntime

    folder = worker_models.onnx_of(estimators[name], sockets())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # threads add a forest's trees in another order, which shows in the last bit
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    label, chances = session.run(None, {session.get_inputs()[0].name: ROWS.astype(np.float32)})
    worker = start(folder, "onnxruntime")
    assert worker.detail["batchable"] is True
    assert worker.invoke(csv_of(ROWS), accept="application/json").json == label.tolist()
    other = start(folder, "onnxruntime", environ={"CLARY_SKLEARN_METHOD": "predict_proba"})
    expected = [list(row.values()) for row in chances]
    assert np.array_equal(np.float32(other.invoke(csv_of(ROWS), accept="application/json").json), np.float32(expected))


def test_an_onnx_image_model_takes_arrays_and_flat_rows(
    start: Callable[..., Worker], sockets: Callable[[], Path]
) -> None:
    import onnxruntime

    source = worker_models.DATA / "onnx" / "mnist.onnx"
    folder = sockets()
    (folder / "model.onnx").write_bytes(source.read_bytes())
    image = np.random.default_rng(3).random((1, 1, 28, 28)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"Input3": image})[0]
    worker = start(folder, "onnxruntime")
    assert worker.detail["batchable"] is False  # its first size is fixed at 1
    assert np.array_equal(loaded(worker.invoke(npy_of(image), "application/x-npy").body), expected)
    assert worker.invoke(csv_of(image.reshape(1, -1))).text.count(",") == 9
    assert worker.invoke(json.dumps({"inputs": {"Input3": image.tolist()}}), "application/json").status == 200
    assert worker.invoke(json.dumps([[1.0, 2.0]]), "application/json").text == (
        "The input 'Input3' takes rows of 784 values, the rows sent have 2.\n"
    )


@pytest.mark.parametrize(
    ("body", "kind", "accept", "status", "words"),
    [
        (b"1,2,3,4", "application/x-parquet", "", 415, 'The content type "application/x-parquet" is not read here'),
        (b"1,2,3", "text/csv", "", 400, "The model takes 4 columns, the rows sent have 3."),
        (b"1,2,3,4\n1,2,3", "text/csv", "", 400, "line 2 has 3 columns, line 1 has 4"),
        (b"", "text/csv", "", 400, "The request body is empty"),
        (b"[[1,2,3,4]", "application/json", "", 400, "is not JSON: Expecting ',' delimiter at line 1, column 11"),
        (b"[[1,2,3,4],[1,2]]", "application/json", "", 400, "row 2 has 2 values, row 1 has 4 values"),
        (b"a,b,c,d\n1,2,3,4", "text/csv", "", 400, "could not convert string to float"),
        (b"1,2,3,4", "text/csv", "image/png", 406, 'No type in Accept "image/png" can be written'),
        (b"junk", "application/x-npy", "", 400, "The npy body cannot be read"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(
    served: Callable[..., Worker], body: bytes, kind: str, accept: str, status: int, words: str
) -> None:
    answer = served("forest").invoke(body, kind, accept)
    assert answer.status == status
    assert words in answer.text
    assert answer.kind.startswith("text/plain")


def test_an_error_of_the_library_is_a_500_with_its_type(served: Callable[..., Worker]) -> None:
    answer = served("forest").invoke(b"nan,1e400,3,4")
    assert answer.status == 500
    assert answer.text.startswith("ValueError: Input X contains infinity")


def test_the_endpoints_default_accept_is_honoured(start: Callable[..., Worker], models: dict[str, Path]) -> None:
    worker = start(models["forest"], environ={"SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": "application/json"})
    assert worker.invoke(csv_of(ROWS[:1])).kind == "application/json"
    assert worker.invoke(csv_of(ROWS[:1]), accept="*/*").kind == "application/json"
    assert worker.invoke(csv_of(ROWS[:1]), accept="text/csv").kind == "text/csv"


def test_a_header_line_is_skipped_when_told(served: Callable[..., Worker], estimators: dict[str, Any]) -> None:
    answer = served("forest").invoke(b"a,b,c,d\n" + csv_of(ROWS), "text/csv; header=present", "application/json")
    assert answer.json == estimators["forest"].predict(ROWS).tolist()
