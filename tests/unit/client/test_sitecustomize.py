"""The module that Python loads at start-up for users of the SageMaker SDKs, in an interpreter of its own."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

HOOK = files("clary.client").joinpath("sitecustomize.py.txt").read_text()
# The parts of both SDKs that matter here, as they look in releases 2.257 and 3.27.
STS = """
def sts_regional_endpoint(region):
    return f"https://sts.{region}.amazonaws.com"
"""
WAITING = """
import functools
DEFAULT_EP_POLL = 30
def traced(function):
    @functools.wraps(function)
    def inner(*args, **kwargs):
        return function(*args, **kwargs)
    return inner
class Session:
    @traced
    def wait_for_endpoint(self, endpoint, poll=DEFAULT_EP_POLL, live_logging=False):
        return poll
"""
VERSION_2 = {
    "sagemaker/__init__.py": "",
    "sagemaker/utils.py": STS,
    "sagemaker/session.py": "from sagemaker.utils import sts_regional_endpoint\n" + WAITING,
}
VERSION_3 = {  # a namespace package, spread over several distributions
    "sagemaker/core/__init__.py": "",
    "sagemaker/core/common_utils.py": STS,
    "sagemaker/core/helper/__init__.py": "",
    "sagemaker/core/helper/session_helper.py": STS + WAITING,
}


def python(folder: Path, program: str, **environ: str) -> str:
    """What the program prints, with the hook before `folder` on the path."""
    (folder / "hook").mkdir(exist_ok=True)
    (folder / "hook" / "sitecustomize.py").write_text(HOOK)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": f"{folder / 'hook'}:{folder}", **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


def write(folder: Path, tree: dict[str, str]) -> None:
    for name, text in tree.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("tree", "module"),
    [
        (VERSION_2, "sagemaker.session"),
        (VERSION_2, "sagemaker.utils"),
        (VERSION_3, "sagemaker.core.common_utils"),
        (VERSION_3, "sagemaker.core.helper.session_helper"),
    ],
)
@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"AWS_ENDPOINT_URL": "http://a:1"}, "http://a:1"),
        ({"AWS_ENDPOINT_URL": "http://a:1", "AWS_ENDPOINT_URL_STS": "http://b:2"}, "http://b:2"),
        ({}, "https://sts.eu-west-1.amazonaws.com"),
    ],
)
def test_sts_is_where_the_environment_says(
    tmp_path: Path, tree: dict[str, str], module: str, environ: dict[str, str], expected: str
) -> None:
    write(tmp_path, tree)
    program = f"import {module} as m; print(m.sts_regional_endpoint('eu-west-1'))"
    assert python(tmp_path, program, **environ) == expected


@pytest.mark.parametrize(
    ("tree", "module"), [(VERSION_2, "sagemaker.session"), (VERSION_3, "sagemaker.core.helper.session_helper")]
)
def test_endpoints_are_looked_at_every_second_and_as_told(tmp_path: Path, tree: dict[str, str], module: str) -> None:
    write(tmp_path, tree)
    program = f"from {module} import Session as S; print(S().wait_for_endpoint('e'), S().wait_for_endpoint('e', 30))"
    assert python(tmp_path, program, AWS_ENDPOINT_URL="http://a:1") == "1 30"
    assert python(tmp_path, program) == "30 30"


def test_an_sdk_without_those_functions_imports_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, {"sagemaker/__init__.py": "", "sagemaker/session.py": "x = 1\n", "sagemaker/utils.py": ""})
    assert python(tmp_path, "import sagemaker.session as s; print(s.x)", AWS_ENDPOINT_URL="http://a:1") == "1"


def test_a_sitecustomize_of_ones_own_runs_too(tmp_path: Path) -> None:
    write(tmp_path, {"sitecustomize.py": "import builtins\nbuiltins.MINE = 'ran'\n"})
    assert python(tmp_path, "print(MINE)", AWS_ENDPOINT_URL="http://a:1") == "ran"


def test_where_no_other_sitecustomize_is_nothing_happens(tmp_path: Path) -> None:
    assert python(tmp_path, "print('fine')", AWS_ENDPOINT_URL="http://a:1") == "fine"
