"""Plans, builds with a scripted runner, and one real environment that another uid imports."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from clary.domain.errors import NotFound, StoreFailed, Unsupported
from clary.images.environments import (
    MARKER,
    Environment,
    Progress,
    build,
    build_plan,
    environment_digest,
    find_environment,
    kept_pins,
    temp_folder,
)
from clary.images.interpreters import copied, copy_interpreter, copy_place, find_interpreters, others_can_read, probe
from clary.images.package_settings import pip_config_files, uv_environment
from clary.images.recipes import ImagesMode, Interpreter, Recipe, resolve
from clary.images.steps import OnLine, Step, run_step
from clary.images.worker_package import content_hash, site_packages, sync_worker_package

PUBLIC = Interpreter("3.11.7", "/bin/sh", "/")  # any program that everybody may run
UV = Path("/opt/uv")


def recipe(image: str = "clary/onnxruntime", interpreter: Interpreter = PUBLIC) -> Recipe:
    found = resolve(image, [interpreter], ImagesMode.NEAREST)
    assert isinstance(found, Recipe)
    return found


class ScriptedRun:
    """Plays uv: makes the folder at `venv`, prints what it is told to, fails where it is told to."""

    def __init__(self, *, output: dict[str, list[str]] | None = None, fail: str = "") -> None:
        self.output = output or {}
        self.fail = fail
        self.labels: list[str] = []
        self.steps: list[Step] = []

    def __call__(self, step: Step, on_line: OnLine) -> int:
        self.labels.append(step.label)
        self.steps.append(step)
        if step.label == "venv":
            (Path(step.argv[-1]) / "bin").mkdir(parents=True)
        for line in self.output.get(step.label, []):
            on_line(line)
        return 1 if step.label == self.fail else 0


def built(
    data_dir: Path, run: ScriptedRun, requirements_txt: str | None = None, image: str = "clary/onnxruntime"
) -> Environment:
    return build(recipe(image), data_dir, requirements_txt, UV, uv_environ={}, run=run)


def test_a_locked_plan_installs_exactly_the_hashed_pins(tmp_path: Path) -> None:
    steps = build_plan(recipe(), tmp_path, None, UV, uv_environ={"A": "b"})
    assert [step.label for step in steps] == ["venv", "install", "compile", "freeze"]
    install = steps[1]
    assert {"--require-hashes", "--no-deps", "--no-compile-bytecode"} <= set(install.argv)
    lines = install.stdin.splitlines()
    assert [line.split()[0] for line in lines] == list(recipe().requirements)
    assert all("--hash=sha256:" in line for line in lines)
    assert all(step.trusted and step.umask == 0o022 and step.env == {"A": "b"} for step in steps)


def test_a_users_requirements_are_not_trusted_and_stand_beside_the_pins(tmp_path: Path) -> None:
    steps = build_plan(recipe(), tmp_path, "# mine\nrequests==2.32.3\n\n", UV, uv_environ={})
    extra = [step for step in steps if not step.trusted]
    assert [step.label for step in extra] == ["resolve requirements.txt", "install requirements.txt"]
    kept = ["httptools==0.9.0", "onnxruntime==1.31.1", "orjson==3.13.0", "uvloop==0.23.0"]
    assert extra[1].stdin.splitlines() == ["requests==2.32.3", *kept]
    assert environment_digest(recipe(), "requests==2.32.3") != recipe().digest
    assert environment_digest(recipe(), "\n# nothing\n") == recipe().digest


def test_a_framework_that_the_user_names_is_theirs_and_told_as_installed(tmp_path: Path) -> None:
    own = "OnnxRuntime>=1.20\nnumpy==2.2.0"
    assert kept_pins(recipe(), own.splitlines()) == ["httptools==0.9.0", "orjson==3.13.0", "uvloop==0.23.0"]
    made = built(tmp_path, ScriptedRun(output={"freeze": ["onnxruntime==1.22.1"]}), own)
    assert (made.framework_version, made.trusted) == ("1.22.1", False)


def test_users_packages_leave_torch_and_transformers_where_they_are() -> None:
    found = recipe("clary/huggingface")
    held = {pin.partition("==")[0] for pin in kept_pins(found, ["sentence-transformers"])}
    assert held == {"transformers", "torch", "httptools", "orjson", "uvloop"}
    assert "torch==2.13.0" in kept_pins(found, ["transformers==4.50.0"])
    assert not any(pin.startswith("transformers") for pin in kept_pins(found, ["transformers==4.50.0"]))


def test_an_environment_without_a_framework_is_built_as_well(tmp_path: Path) -> None:
    bare = replace(recipe(), framework="command", framework_version="3.11", digest="c" * 64)
    made = build(
        bare, tmp_path, "requests", UV, uv_environ={}, run=ScriptedRun(output={"freeze": ["requests==2.32.3"]})
    )
    assert (made.framework, made.framework_version) == ("command", "3.11")
    assert kept_pins(bare, ["requests"]) == ["httptools==0.9.0", "orjson==3.13.0", "uvloop==0.23.0"]


def test_a_marker_that_tells_nothing_of_trust_is_not_trusted(tmp_path: Path) -> None:
    made = built(tmp_path, ScriptedRun())
    marker = json.loads((made.folder / MARKER).read_text())
    del marker["trusted"]
    (made.folder / MARKER).write_text(json.dumps(marker))
    found = find_environment(tmp_path, made.digest)
    assert found is not None
    assert found.trusted is False


@pytest.mark.parametrize(
    "line", ["-r other.txt", "-e .", "./local", "/abs/x.whl", "pkg @ file:///etc/x", "--requirement=x"]
)
def test_requirements_may_not_point_into_the_file_system(tmp_path: Path, line: str) -> None:
    with pytest.raises(Unsupported, match="file system"):
        build_plan(recipe(), tmp_path, line, UV, uv_environ={})


def test_an_environment_is_built_once_and_found_again(tmp_path: Path) -> None:
    run = ScriptedRun(output={"freeze": ["numpy==2.4.6", "Using Python 3.11"]})
    seen: list[Progress] = []
    made = build(recipe(), tmp_path, None, UV, uv_environ={}, run=run, on_progress=seen.append)
    assert (made.folder, made.lock) == (tmp_path / "envs" / recipe().digest, ("numpy==2.4.6",))
    assert made.trusted
    assert [one.label for one in seen] == ["venv", "install", "compile", "freeze", "done"]
    assert [one.done_ratio for one in seen] == sorted(one.done_ratio for one in seen)
    assert seen[-1].done_ratio == 1.0
    assert built(tmp_path, run) == made == find_environment(tmp_path, recipe().digest)
    assert run.labels == ["venv", "install", "compile", "freeze"]
    assert json.loads((made.folder / MARKER).read_text())["framework_version"] == "1.31.1"
    assert stat.S_IMODE((made.folder / MARKER).stat().st_mode) & 0o044 == 0o044


def test_a_failed_step_leaves_nothing_and_tells_its_last_lines(tmp_path: Path) -> None:
    run = ScriptedRun(output={"install": [f"line {n}" for n in range(50)]}, fail="install")
    with pytest.raises(StoreFailed, match="line 49") as caught:
        built(tmp_path, run)
    assert "line 20" not in str(caught.value)
    assert find_environment(tmp_path, recipe().digest) is None
    assert not temp_folder(tmp_path, recipe().digest).exists()
    assert built(tmp_path, ScriptedRun()).framework == "onnxruntime"


def test_what_a_killed_build_left_is_cleared(tmp_path: Path) -> None:
    left = temp_folder(tmp_path, recipe().digest)
    left.mkdir(parents=True)
    (left / "half").touch()
    assert not (built(tmp_path, ScriptedRun()).folder / "half").exists()


def test_cuda_libraries_are_refused_unless_allowed(tmp_path: Path) -> None:
    pulled = {"resolve": ["Would install 2 packages", " + nvidia-cublas==13.1.1.3", " + torch==2.13.0"]}
    run = ScriptedRun(output=pulled)
    with pytest.raises(Unsupported, match="CLARY_ALLOW_CUDA=1"):
        built(tmp_path, run, image="clary/pytorch")
    assert "install" not in run.labels
    torch = recipe("clary/pytorch")
    assert (
        build(torch, tmp_path, None, UV, uv_environ={}, allow_cuda=True, run=ScriptedRun(output=pulled)).trusted
        is False
    )
    with pytest.raises(Unsupported, match="CUDA"):
        built(tmp_path, ScriptedRun(output={"resolve requirements.txt": [" + nvidia-nccl-cu12==2.1"]}), "torch")


def test_two_builders_of_one_environment_build_it_once(tmp_path: Path) -> None:
    gate = threading.Barrier(2)
    run = ScriptedRun()

    def one() -> Environment:
        gate.wait()
        return built(tmp_path, run)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(one), pool.submit(one)
        assert first.result() == second.result()
    assert run.labels == ["venv", "install", "compile", "freeze"]


def test_a_private_python_is_copied_first(tmp_path: Path) -> None:
    private = tmp_path / "home" / "bin" / "python3.11"
    private.parent.mkdir(parents=True)
    private.touch(mode=0o755)
    (tmp_path / "home").chmod(0o700)
    interpreter = Interpreter("3.11.7", str(private), str(tmp_path / "home"))
    assert not others_can_read(private)
    steps = build_plan(recipe(interpreter=interpreter), tmp_path, None, UV, uv_environ={}, workers_have_other_uids=True)
    assert steps[0].label == "copy the interpreter"
    place = copy_place(interpreter, tmp_path)
    assert str(place / "bin" / "python3.11") in steps[1].argv
    same = build_plan(recipe(interpreter=interpreter), tmp_path, None, UV, uv_environ={}, workers_have_other_uids=False)
    assert same[0].label == "venv"
    assert str(private) in same[0].argv


def test_the_hosts_pythons_are_found_and_what_does_not_run_is_none(tmp_path: Path) -> None:
    shim = tmp_path / "python3.12"
    shim.write_text("#!/bin/sh\necho no such version >&2\nexit 127\n")
    shim.chmod(0o755)
    found = find_interpreters({"PATH": str(tmp_path)})
    assert found[0].version == ".".join(map(str, sys.version_info[:3]))
    assert found[0].python in ("3.11", "3.12", "3.13")
    assert len(found) == 1
    assert probe(str(shim)) is None
    assert probe("/does/not/exist") is None


def test_a_step_gets_its_input_and_gives_its_lines_and_status(tmp_path: Path) -> None:
    lines: list[str] = []
    step = Step("x", ("/bin/sh", "-c", "cat; umask; echo bad >&2; exit 3"), {}, tmp_path, 1, stdin="hello\n")
    assert run_step(step, lines.append) == 3
    assert lines == ["hello", "0022", "bad"]
    assert run_step(Step("x", ("/bin/sleep", "60"), {}, tmp_path, 1), lines.append, limit_s=0.2) == -9
    assert run_step(Step("x", ("/bin/true",), {}, tmp_path, 1, stdin="y" * 500_000), lines.append) == 0


# The real thing


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    """A data folder that other uids may walk into, as pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="clary-envs-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def uv() -> Path:
    found = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if found is None:
        pytest.fail("uv is needed: it is among the dependencies")
    return Path(found)


@pytest.fixture(scope="module")
def environment(data_dir: Path, uv: Path) -> Environment:
    found = resolve("clary/onnxruntime", find_interpreters(os.environ), ImagesMode.EXACT)
    assert isinstance(found, Recipe)
    environ = uv_environment(os.environ, pip_config_files(os.environ))
    return build(found, data_dir, None, uv, uv_environ=environ)


def as_another_uid(python: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Runs code in the environment as a uid that owns nothing, where we may change it."""
    other = {"user": 64_321, "group": 64_321, "extra_groups": []} if os.geteuid() == 0 else {}
    return subprocess.run(
        [str(python), "-I", "-c", code],
        text=True,
        capture_output=True,
        check=False,
        env={},
        cwd="/",
        **other,  # type: ignore[call-overload]
    )


def test_a_real_environment_is_importable_under_another_uid(environment: Environment) -> None:
    done = as_another_uid(
        environment.python,
        "import onnxruntime, httptools, uvloop, os, sys; print(onnxruntime.__version__, os.geteuid(), sys.prefix)",
    )
    assert done.returncode == 0, done.stderr
    version, uid, prefix = done.stdout.split()
    assert version == environment.framework_version
    assert int(uid) == (64_321 if os.geteuid() == 0 else os.geteuid())
    assert prefix == str(environment.folder)
    assert f"onnxruntime=={version}" in environment.lock


def test_a_real_environment_has_its_bytecode_and_nobody_else_may_write(environment: Environment) -> None:
    site = site_packages(environment.folder)
    assert list(site.glob("onnxruntime/__pycache__/__init__.*.pyc"))
    for folder, _, names in os.walk(environment.folder):
        for path in (Path(folder), *(Path(folder, name) for name in names)):
            if not path.is_symlink():
                assert stat.S_IMODE(path.stat().st_mode) & 0o022 == 0, path
                assert path.stat().st_mode & stat.S_IROTH, path


def wheel(folder: Path, name: str, files: dict[str, str]) -> None:
    """A wheel of version 1.0 with these files."""
    info = f"{name}-1.0.dist-info"
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)


def test_nothing_of_a_users_package_runs_while_it_is_built_in(uv: Path, tmp_path: Path) -> None:
    """A .pth file's line is run by every Python that starts with `site`, and a builder may be root."""
    ran = tmp_path / "ran"
    files = {
        "badge.pth": f"import pathlib; pathlib.Path({str(ran)!r}).touch()\n",
        "badge/__init__.py": "",
        "badge/broken.py": "print 'Python 2'\n",
        "badge/tests/test_badge.py": "",
    }
    wheel(tmp_path, "badge", files)
    found = resolve("clary/onnxruntime", find_interpreters(os.environ), ImagesMode.EXACT)
    assert isinstance(found, Recipe)
    bare = replace(found, requirements=(), digest="e" * 64)
    environ = {**uv_environment(os.environ, pip_config_files(os.environ)), "UV_FIND_LINKS": str(tmp_path)}
    made = build(bare, tmp_path, "badge", uv, uv_environ=environ)
    sync_worker_package(made.folder)
    assert made.lock == ("badge==1.0",)
    assert not ran.exists()
    compiled = {path.name.partition(".")[0] for path in (site_packages(made.folder) / "badge").rglob("*.pyc")}
    assert compiled == {"__init__"}
    subprocess.run([made.python, "-c", ""], check=True)
    assert ran.exists()  # the trap was armed


def test_a_built_environment_needs_no_network(environment: Environment, data_dir: Path) -> None:
    found = resolve("clary/onnxruntime:1.31.1", find_interpreters(os.environ), ImagesMode.EXACT)
    assert isinstance(found, Recipe)
    run = ScriptedRun()
    assert build(found, data_dir, None, UV, uv_environ={}, run=run) == environment
    assert run.labels == []


def test_the_worker_package_is_swapped_whole_when_its_content_differs(environment: Environment, tmp_path: Path) -> None:
    source = tmp_path / "clary_worker"
    source.mkdir()
    (source / "__init__.py").write_text("VERSION = 1\n")
    assert sync_worker_package(environment.folder, source=source) is True
    assert sync_worker_package(environment.folder, source=source) is False
    site = site_packages(environment.folder)
    assert list((site / "clary_worker").glob("__pycache__/*.pyc"))
    assert as_another_uid(environment.python, "import clary_worker as w; print(w.VERSION)").stdout == "1\n"
    for version in (2, 3):
        (source / "__init__.py").write_text(f"VERSION = {version}\n")
        assert sync_worker_package(environment.folder, source=source) is True
        done = as_another_uid(environment.python, "import clary_worker as w; print(w.VERSION, w.__file__)")
        assert done.stdout == f"{version} {site}/clary_worker/__init__.py\n"
    assert len(list(site.glob("clary_worker-*"))) == 2
    assert sync_worker_package(environment.folder) is True
    assert content_hash(site / "clary_worker") != content_hash(source)
    with pytest.raises(NotFound):
        sync_worker_package(tmp_path / "none")


def test_two_claries_may_put_the_same_package_into_one_environment_at_once(
    environment: Environment, tmp_path: Path
) -> None:
    source = tmp_path / "clary_worker"
    source.mkdir()
    (source / "__init__.py").write_text("VERSION = 'both'\n")

    def overtaken(step: Step, on_line: Callable[[str], None]) -> int:
        assert sync_worker_package(environment.folder, source=source) is True
        return run_step(step, on_line)

    assert sync_worker_package(environment.folder, source=source, run=overtaken) is True
    site = site_packages(environment.folder)
    assert as_another_uid(environment.python, "import clary_worker as w; print(w.VERSION)").stdout == "both\n"
    assert not list(site.glob(".clary_worker*"))
    assert sync_worker_package(environment.folder) is True


def test_a_copied_interpreter_runs_by_itself_under_another_uid(data_dir: Path) -> None:
    own = find_interpreters({})[0]
    if Path(own.prefix) == Path("/usr"):
        pytest.skip("the system's Python is readable by all and never copied")
    place = copy_place(own, data_dir)
    copy_interpreter(own, place)
    copy_interpreter(own, place)
    at = copied(own, place)
    done = as_another_uid(Path(at.path), "import ssl, sqlite3, ctypes, sys; print(sys.prefix)")
    assert done.stdout.strip() == str(place), done.stderr
    assert not (place / "lib" / f"python{own.python}" / "test").exists()
    assert [one.name for one in place.parent.iterdir()] == [place.name]
