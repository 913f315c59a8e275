"""Which file of an archive is the model, how it loads, and what is said when it does not."""

from __future__ import annotations

import ast
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import joblib
import pytest
import sklearn
import skops.io
import worker_models
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import FunctionTransformer
from worker_models import IRIS, SPECIES

import clary_worker
from clary_worker import artifacts, loader
from clary_worker.contract import LoadError

INSTALLED = sklearn.__version__.encode()
HEADS = {
    "xgboost-model": b'{"learner":{}}',
    "m.json": b'{"learner":{}, "version":[3,2,0]}',
    "other.json": b'{"name": "config"}',
    "m.txt": b"tree\nversion=v4\n",
    "notes.txt": b"hello",
    "m.bin": b"PK\x03\x04",
    "pytorch_model.bin": b"\x80\x02\x8a\n",
}


def folder_of(tmp_path: Path, *names: str) -> Path:
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(HEADS.get(path.name, b"x"))
    return tmp_path


@pytest.mark.parametrize(
    ("names", "framework", "chosen", "kind"),
    [
        (["model.joblib"], "sklearn", "model.joblib", "pickle"),
        (["clf.pkl", "notes.txt", "other.json"], "sklearn", "clf.pkl", "pickle"),
        (["xgboost-model"], "xgboost", "xgboost-model", "xgboost"),
        (["m.json", "other.json"], "xgboost", "m.json", "xgboost"),
        (["m.txt"], "auto", "m.txt", "lightgbm"),
        (["net.onnx"], "auto", "net.onnx", "onnx"),
        (["model.pt"], "pytorch", "model.pt", "torch"),
        (["a.skops"], "auto", "a.skops", "skops"),
        (["inner/model.joblib", "code/inference.py"], "sklearn", "inner/model.joblib", "pickle"),
        (["scaler.joblib", "model.joblib"], "sklearn", "model.joblib", "pickle"),
        (["encoder.pkl", "net.onnx"], "onnxruntime", "net.onnx", "onnx"),
        (["encoder.pkl", "net.onnx"], "sklearn", "encoder.pkl", "pickle"),
        (["pytorch_model.bin"], "auto", "pytorch_model.bin", "pickle"),
    ],
)
def test_the_model_is_found_by_name_and_first_bytes(
    tmp_path: Path, names: list[str], framework: str, chosen: str, kind: str
) -> None:
    found = artifacts.find(str(folder_of(tmp_path, *names)), framework)
    assert (found.path, found.kind) == (str(tmp_path / chosen), kind)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "no model was found in the archive; it holds no file"),
        (["notes.txt", "m.bin"], "it holds m.bin, notes.txt"),
        (["a.joblib", "b.joblib"], "the archive holds 2 models: a.joblib, b.joblib"),
    ],
)
def test_none_or_several_models_are_listed(tmp_path: Path, names: list[str], words: str) -> None:
    with pytest.raises(LoadError) as caught:
        artifacts.find(str(folder_of(tmp_path, *names)), "sklearn")
    assert words in caught.value.reason
    assert "code/inference.py" in caught.value.hint


def test_an_old_xgboost_file_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    shutil.copy(worker_models.DATA / "tabular" / "xgboost_saved_booster.bin", tmp_path / "xgboost-model")
    with pytest.raises(LoadError) as caught:
        loader.load(str(tmp_path), "xgboost", 1, {})
    assert re.fullmatch(
        r"xgboost-model is in XGBoost's old binary format, which XGBoost \d.* no longer reads", caught.value.reason
    )
    assert "save_model('model.ubj')" in caught.value.hint


def test_a_broken_xgboost_file_names_the_library_version(tmp_path: Path) -> None:
    (tmp_path / "xgboost-model").write_bytes(b'{"learner": {"broken": true}}')
    with pytest.raises(LoadError, match=r"^XGBoost \d.* cannot read xgboost-model: "):
        loader.load(str(tmp_path), "xgboost", 1, {})


def test_a_pickle_of_another_version_is_served_with_a_note(tmp_path: Path) -> None:
    model = LogisticRegression(max_iter=500).fit(IRIS, SPECIES)
    older = b"1.0." + b"9" * (len(INSTALLED) - 4)
    plain = pickle.dumps(model).replace(INSTALLED, older)
    (tmp_path / "model.pkl").write_bytes(plain)
    _, note = loader.load(str(tmp_path), "sklearn", 1, {})
    assert re.fullmatch(r"saved with scikit-learn 1\.0\.9+, served with \d.*", note)


def test_a_pickle_that_fails_names_both_versions(tmp_path: Path) -> None:
    broken = pickle.dumps(LogisticRegression(max_iter=500).fit(IRIS, SPECIES)).replace(
        b"LogisticRegression", b"LogisticRegressioM"
    )
    (tmp_path / "model.pkl").write_bytes(broken.replace(INSTALLED, b"0.20." + b"0" * (len(INSTALLED) - 5)))
    with pytest.raises(LoadError) as caught:
        loader.load(str(tmp_path), "sklearn", 1, {})
    assert re.search(r"saved with scikit-learn 0\.20.*; installed is scikit-learn \d", caught.value.reason)


def test_a_pickle_that_needs_an_absent_module_names_it(tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(b"cno_such_package.models\nModel\n.")
    with pytest.raises(LoadError, match=r"model\.pkl needs the module no_such_package, which this environment lacks"):
        loader.load(str(tmp_path), "sklearn", 1, {})


def test_a_pickled_dictionary_is_refused_with_its_keys(tmp_path: Path) -> None:
    joblib.dump({"model": 1, "columns": 2}, tmp_path / "model.joblib")
    with pytest.raises(LoadError, match=r"holds a dictionary \(model, columns\), not a model"):
        loader.load(str(tmp_path), "sklearn", 1, {})


def shout(value: object) -> object:
    return value


def test_untrusted_skops_types_are_listed_and_can_be_trusted(tmp_path: Path) -> None:
    skops.io.dump(FunctionTransformer(shout).fit(IRIS), tmp_path / "model.skops")
    with pytest.raises(LoadError) as caught:
        loader.load(str(tmp_path), "sklearn", 1, {})
    assert "types that are not trusted" in caught.value.reason
    name = caught.value.hint.partition("CLARY_SKOPS_TRUSTED=")[2].partition(" ")[0]
    predictor, _ = loader.load(str(tmp_path), "sklearn", 1, {"CLARY_SKOPS_TRUSTED": name})
    assert predictor.method == "transform"


def test_an_unknown_method_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    joblib.dump(LogisticRegression(max_iter=500).fit(IRIS, SPECIES), tmp_path / "model.joblib")
    with pytest.raises(LoadError, match="CLARY_SKLEARN_METHOD=guess is not a method"):
        loader.load(str(tmp_path), "sklearn", 1, {"CLARY_SKLEARN_METHOD": "guess"})


def test_torchscript_is_served(start: Callable[..., object], sockets: Callable[[], Path]) -> None:
    torch = pytest.importorskip(
        "torch", reason="torch is not installed beside the tests; tests/e2e/test_pytorch.py has one of its own"
    )
    folder = sockets()
    torch.jit.script(torch.nn.Linear(4, 2)).save(str(folder / "model.pt"))
    predictor, _ = loader.load(str(folder), "pytorch", 1, {})
    from clary_worker import codecs

    data = predictor.shape(codecs.decode(b"1,2,3,4\n5,6,7,8", "text/csv"))
    assert predictor.predict(data).shape == (2, 2)
    assert predictor.batchable


def test_an_absent_framework_is_named(tmp_path: Path) -> None:
    if "torch" in sys.modules:
        pytest.skip("torch is installed here: what is said without it is NOT tested")
    (tmp_path / "model.pt").write_bytes(b"PK")
    with pytest.raises(LoadError, match=r"model\.pt needs torch, which this environment lacks"):
        loader.load(str(tmp_path), "pytorch", 1, {})


def test_preload_leaves_out_what_is_absent_and_starts_no_thread() -> None:
    code = (
        "import os, sys; from clary_worker import loader, server; assert 'numpy' not in sys.modules; "
        "done = loader.preload('sklearn'); assert loader.preload('pytorch'); "
        "assert 'joblib' in done and 'sklearn.ensemble' in done; print(len(os.listdir('/proc/self/task')))"
    )
    environ = {
        "PYTHONPATH": str(Path(clary_worker.__file__ or "").parents[1]),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
    assert done.stdout == "1\n", done.stderr


SOURCES = sorted(Path(clary_worker.__file__ or "").parent.glob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_file_is_python_3_8_and_imports_nothing_of_clary(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    allowed = {*sys.stdlib_module_names, "clary_worker", "httptools", "uvloop"}
    for node in tree.body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        assert {name.partition(".")[0] for name in names} <= allowed
    assert "clary." not in "".join(ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))


@pytest.mark.parametrize("form", ["json", "ubj"])
def test_a_booster_of_a_newer_xgboost_is_refused_with_both_versions(tmp_path: Path, form: str) -> None:
    xgboost = pytest.importorskip("xgboost", reason="xgboost is not in this environment: its models are NOT tested")
    rows = xgboost.DMatrix([[0.0], [1.0]], [0, 1])
    content = bytes(xgboost.train({}, rows, 1).save_raw(form))
    major, minor, patch = (int(part) for part in xgboost.__version__.split("."))
    if form == "json":
        newer = content.replace(b"[%d,%d,%d]" % (major, minor, patch), b"[%d,%d,%d]" % (major + 1, minor, patch))
    else:
        newer = content.replace(
            b"i" + bytes([major]) + b"i" + bytes([minor]) + b"i", b"i" + bytes([major + 1, 105, minor, 105])
        )
    assert newer != content
    (tmp_path / f"model.{form}").write_bytes(newer)
    with pytest.raises(LoadError) as caught:
        loader.load(str(tmp_path), "xgboost", 1, {})
    assert xgboost.__version__ in caught.value.reason
    assert f"{major + 1}.{minor}.{patch}" in caught.value.reason
