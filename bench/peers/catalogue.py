"""The peers: what each is installed from, how it is started, how it is asked, and whether it can batch."""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import artifacts

MODELS = ("scikit-learn==1.9.1", "xgboost-cpu==3.2.0", "joblib>=1.6")
ROWS = {"echo": 1, "logistic": 1, "forest": 1, "xgboost": 100}
RAY = ("ray[serve]==2.60.0", *MODELS)
V2_PATH = "/v2/models/model/infer"


def rows(kind: str) -> list[list[float]]:
    """The rows of one request."""
    return [[1.0, 2.0, 3.0]] if kind == "echo" else artifacts.rows()[: ROWS[kind]]


def _plain(kind: str) -> dict[str, Any]:
    return {"inputs": rows(kind)}


def _instances(kind: str) -> dict[str, Any]:
    return {"instances": rows(kind)}


def _v2(datatype: str) -> Callable[[str], dict[str, Any]]:
    def body(kind: str) -> dict[str, Any]:
        sent = rows(kind)
        data = [value for row in sent for value in row]
        return {"inputs": [{"name": "inputs", "shape": [len(sent), len(sent[0])], "datatype": datatype, "data": data}]}

    return body


@dataclass(frozen=True, slots=True)
class Peer:
    """One server. `app` is run by the python of its own environment; `batching` is False where it has none."""

    name: str
    title: str
    package: str
    requirements: Sequence[str]
    app: str
    path: str
    payload: Callable[[str], dict[str, Any]]
    batching: bool
    start_limit_s: float = 60.0
    environment: str = ""  # of another peer, where both share one; else its own name
    variables: tuple[tuple[str, str], ...] = ()

    def body(self, kind: str) -> bytes:
        return json.dumps(self.payload(kind)).encode()


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "fastapi",
            "FastAPI + uvicorn",
            "fastapi",
            ("fastapi>=0.115", "uvicorn>=0.54", "uvloop==0.23.0", "httptools==0.9.0", *MODELS),
            "fastapi_app.py",
            "/predict",
            _plain,
            batching=False,
        ),
        Peer(
            "litserve",
            "LitServe",
            "litserve",
            ("litserve==0.2.19", *MODELS),
            "litserve_app.py",
            "/predict",
            _plain,
            True,
        ),
        Peer(
            "mlserver",
            "MLServer",
            "mlserver",
            ("mlserver==1.7.1", *MODELS),
            "mlserver_start.py",
            V2_PATH,
            _v2("FP64"),
            True,
        ),
        Peer(
            "bentoml",
            "BentoML",
            "bentoml",
            ("bentoml>=1.4.30,<1.5", *MODELS),
            "bentoml_start.py",
            "/predict",
            _plain,
            True,
        ),
        Peer(
            "triton",
            "Triton (pytriton)",
            "nvidia-pytriton",
            ("nvidia-pytriton==0.7.0", *MODELS),
            "triton_app.py",
            V2_PATH,
            _v2("FP32"),
            batching=True,
            # Its stub looks for libpython on its own and must find the one of this interpreter, not the system's.
            variables=(("LD_LIBRARY_PATH", str(sysconfig.get_config_var("LIBDIR"))),),
        ),
        Peer(
            "kserve",
            "KServe",
            "kserve",
            ("kserve==0.21.0", *MODELS),
            "kserve_app.py",
            "/v1/models/model:predict",
            _instances,
            batching=False,
        ),
        Peer("ray", "Ray Serve", "ray", RAY, "ray_app.py", "/predict", _plain, True, 120.0),
        Peer(
            "ray-haproxy",
            "Ray Serve, HAProxy mode",
            "ray",
            RAY,
            "ray_app.py",
            "/predict",
            _plain,
            batching=True,
            start_limit_s=120.0,
            environment="ray",
            variables=(("RAY_SERVE_ENABLE_HA_PROXY", "1"),),
        ),
    )
}
