"""Small real models, trained and saved once a session."""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import skops.io
import xgboost
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris, load_svmlight_file
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

DATA = Path(__file__).resolve().parents[2] / "data"
IRIS, SPECIES = load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versi,color", 'virgi"nica'])
# Rows that no model has seen, with enough digits that a lossy path would show.
ROWS = np.random.default_rng(7).uniform(IRIS.min(0), IRIS.max(0), (64, 4))
MIXED = np.array([[float(i % 7), "red" if i % 3 else "blue", float(i % 5)] for i in range(60)], dtype=object)


def abalone() -> tuple[Any, Any]:
    with gzip.open(DATA / "tabular" / "abalone.train_0.libsvm.gz") as file:
        x, y = load_svmlight_file(file, zero_based=True)
    return x, y


def fitted() -> dict[str, Any]:
    texts = ["good film", "bad film", "good play", "bad play", "very good", "very bad"]
    mixed = make_pipeline(
        ColumnTransformer([("colour", OneHotEncoder(handle_unknown="ignore"), [1])], remainder="passthrough"),
        LogisticRegression(max_iter=500),
    )
    return {
        "forest": RandomForestClassifier(20, n_jobs=2, random_state=0).fit(IRIS, SPECIES),
        "regressor": RandomForestRegressor(10, random_state=0).fit(IRIS[:, :3], IRIS[:, 3]),
        "logistic": LogisticRegression(max_iter=500).fit(IRIS, NAMES[SPECIES]),
        "scaled": make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(IRIS, SPECIES),
        "scaler": StandardScaler().fit(IRIS),
        "mixed": mixed.fit(MIXED, np.arange(60) % 2),
        "texts": make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, [1, 0, 1, 0, 1, 0]),
    }


def boosters() -> dict[str, Any]:
    matrix = xgboost.DMatrix(IRIS, SPECIES)
    rows, ages = abalone()
    return {
        "binary": xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(IRIS, SPECIES == 1), 8),
        "softprob": xgboost.train({"objective": "multi:softprob", "num_class": 3}, matrix, 8),
        "linear": xgboost.train({"booster": "gblinear", "objective": "reg:squarederror"}, matrix, 8),
        "abalone": xgboost.train({"objective": "reg:squarederror"}, xgboost.DMatrix(rows, ages), 10),
    }


def save(new: Callable[[], Path], estimators: dict[str, Any], trees: dict[str, Any]) -> dict[str, Path]:
    """A model folder for each."""
    folders = {}
    for name, estimator in estimators.items():
        folders[name] = new()
        joblib.dump(estimator, folders[name] / "model.joblib")
    for name, booster in trees.items():
        folders[name] = new()
        booster.save_model(folders[name] / "model.ubj")
    folders["json"] = new()
    trees["binary"].save_model(folders["json"] / "m.json")
    (folders["json"] / "m.json").rename(folders["json"] / "xgboost-model")
    folders["pickled"] = new()
    (folders["pickled"] / "xgboost-model").write_bytes(pickle.dumps(trees["binary"]))
    folders["wrapped"] = new()
    wrapped = xgboost.XGBClassifier(n_estimators=5).fit(IRIS, SPECIES)
    joblib.dump(wrapped, folders["wrapped"] / "model.joblib")
    folders["lightgbm"] = new()
    light().save_model(folders["lightgbm"] / "model.txt")
    folders["skops"] = new()
    skops.io.dump(estimators["logistic"], folders["skops"] / "model.skops")
    return folders


def light() -> Any:
    parameters = {"objective": "regression", "verbosity": -1, "num_threads": 1}
    return lightgbm.train(parameters, lightgbm.Dataset(IRIS, SPECIES.astype(float)), 10)


def onnx_of(estimator: Any, folder: Path, inputs: Any = None) -> Path:
    from skl2onnx import to_onnx

    (folder / "model.onnx").write_bytes(
        to_onnx(estimator, inputs if inputs is not None else IRIS[:1].astype("f4")).SerializeToString()
    )
    return folder


def csv_of(rows: Any) -> bytes:
    return "\n".join(",".join(repr(cell) for cell in row) for row in np.asarray(rows).tolist()).encode()
