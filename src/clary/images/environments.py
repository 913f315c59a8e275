"""From a recipe to a folder with a Python in it: `envs/<digest>/bin/python`.

A plan is a list of commands for uv; running it builds under a temporary name beside the final one, and one rename
makes the environment exist. A marker file inside holds what was really installed, so an environment is built once,
found again by its digest and usable without a network. Two builders of the same digest wait for one another.

The digest covers the recipe and the user's `requirements.txt`. Environments belong to whoever runs clary and everybody
may read them; nobody else may write, so bytecode is compiled while building.

Torch brings gigabytes of CUDA libraries from the default index. What a plan would pull is therefore resolved first and
refused when it names them, unless that is allowed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clary.domain.errors import StoreFailed, Unsupported
from clary.images import locks
from clary.images.catalogue import FRAMEWORKS, SERVING, Framework
from clary.images.interpreters import copied, copy_place, open_to_read, others_can_read
from clary.images.recipes import Interpreter, Recipe
from clary.images.steps import OnLine, Run, Step, run_step

MARKER = "clary-environment.json"
CUDA_PACKAGES = r"^(\s*\+ )?(nvidia-|cuda-)[a-z0-9-]+==?"
INSTALLED = Path(__file__).with_name("installed.py")
# How many of a failed step's last lines its error shows.
TOLD_LINES = 20


@dataclass(frozen=True, slots=True)
class Environment:
    """A built environment. `lock` is what `uv pip freeze` saw in it.

    `trusted`: everything in it came from our own hashed locks, so a privileged process may import it.
    """

    digest: str
    folder: Path
    framework: str
    framework_version: str
    lock: tuple[str, ...]
    trusted: bool

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a build is: the step under way, the share that is done before it (0 to 1)."""

    label: str
    done_ratio: float


def environment_digest(recipe: Recipe, requirements_txt: str | None) -> str:
    """The name of the environment: the recipe's own digest, or that with the user's requirements hashed in."""
    lines = requirement_lines(requirements_txt)
    if not lines:
        return recipe.digest
    return hashlib.sha256("\n".join([recipe.digest, *lines]).encode()).hexdigest()


def requirement_lines(requirements_txt: str | None) -> list[str]:
    """The lines that say something, in order."""
    lines = (line.strip() for line in (requirements_txt or "").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def find_environment(data_dir: Path, digest: str) -> Environment | None:
    """The environment of that digest, None when it is not built."""
    folder = data_dir / "envs" / digest
    try:
        told = json.loads((folder / MARKER).read_text())
    except FileNotFoundError:
        return None
    return Environment(
        digest, folder, told["framework"], told["framework_version"], tuple(told["lock"]), told.get("trusted", False)
    )


def build_plan(
    recipe: Recipe,
    data_dir: Path,
    requirements_txt: str | None,
    uv: Path,
    *,
    uv_environ: Mapping[str, str],
    allow_cuda: bool = False,
    workers_have_other_uids: bool | None = None,
) -> list[Step]:
    """The commands that build the environment under its temporary name.

    `uv_environ` comes from `package_settings.uv_environment`. `workers_have_other_uids` is true as root.
    Raises: Unsupported for requirements that point into the build host's file system.
    """
    digest = environment_digest(recipe, requirements_txt)
    temp = temp_folder(data_dir, digest)
    python = str(temp / "bin" / "python")
    env = dict(uv_environ)
    own = requirement_lines(requirements_txt)
    _refuse_local(own)
    steps: list[Step] = []

    def add(
        label: str,
        argv: Sequence[str],
        weight: float,
        *,
        stdin: str = "",
        trusted: bool = True,
        guarded: bool = False,
    ) -> None:
        refuse = CUDA_PACKAGES if guarded and not allow_cuda else None
        steps.append(Step(label, tuple(argv), env, data_dir, weight, stdin=stdin, trusted=trusted, refuse=refuse))

    interpreter = recipe.interpreter
    others = os.geteuid() == 0 if workers_have_other_uids is None else workers_have_other_uids
    if others and not others_can_read(Path(interpreter.path)):
        place = copy_place(interpreter, data_dir)
        if not place.is_dir():
            steps.append(_copy_step(interpreter, place, env, data_dir))
        interpreter = copied(interpreter, place)
    add("venv", [str(uv), "venv", "--relocatable", "--python", interpreter.path, str(temp)], 1)
    # uv compiles in a Python that runs the packages' .pth files; ours does not (`installed`).
    install = [str(uv), "pip", "install", "--python", python, "--no-compile-bytecode", "--link-mode", "copy"]
    theirs = "\n".join([*own, *kept_pins(recipe, own)])
    if own:  # before anything is installed: a name or version that does not exist is told in a second
        add(
            "resolve requirements.txt", [*install, "--dry-run", "-r", "-"], 5, stdin=theirs, trusted=False, guarded=True
        )
    if recipe.locked:
        add("install", [*install, "--no-deps", "--require-hashes", "-r", "-"], 60, stdin=locked_text(recipe))
    else:
        text = "\n".join(recipe.requirements)
        add("resolve", [*install, "--dry-run", "-r", "-"], 5, stdin=text, guarded=True)
        add("install", [*install, "-r", "-"], 60, stdin=text, guarded=True)
    if own:
        add("install requirements.txt", [*install, "-r", "-"], 30, stdin=theirs, trusted=False, guarded=True)
    packages = str(temp / "lib" / f"python{interpreter.python}" / "site-packages")
    for label, weight in (("compile", 10), ("freeze", 1)):
        add(label, [python, "-I", "-S", str(INSTALLED), label, packages], weight)
    return steps


def build(
    recipe: Recipe,
    data_dir: Path,
    requirements_txt: str | None,
    uv: Path,
    *,
    uv_environ: Mapping[str, str],
    allow_cuda: bool = False,
    run: Run = run_step,
    on_line: OnLine = lambda _line: None,
    on_progress: Callable[[Progress], None] = lambda _progress: None,
) -> Environment:
    """The environment, built unless it is there. Blocks for as long as it takes; call it on a thread.

    Raises: Unsupported when the plan is refused, StoreFailed when a step fails (its last lines are in the message).
    """
    digest = environment_digest(recipe, requirements_txt)
    folder = data_dir / "envs" / digest
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{digest}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        there = find_environment(data_dir, digest)
        if there is not None:
            return there
        temp = temp_folder(data_dir, digest)
        shutil.rmtree(temp, ignore_errors=True)
        try:
            steps = build_plan(recipe, data_dir, requirements_txt, uv, uv_environ=uv_environ, allow_cuda=allow_cuda)
            frozen = _run_all(recipe, steps, run, on_line, on_progress)
            marker = {
                "digest": digest,
                "framework": recipe.framework,
                "framework_version": _framework_version(recipe, frozen),
                "python": recipe.interpreter.version,
                "requirements_txt": requirements_txt,
                "lock": frozen,
                "trusted": recipe.locked and not requirement_lines(requirements_txt),
            }
            (temp / MARKER).write_text(json.dumps(marker, indent=1) + "\n")
            open_to_read(temp)
            temp.rename(folder)
        finally:
            shutil.rmtree(temp, ignore_errors=True)
    built = find_environment(data_dir, digest)
    assert built is not None
    return built


def temp_folder(data_dir: Path, digest: str) -> Path:
    """Where an environment is built; as long as the final name, beside it."""
    return data_dir / "envs" / f".building-{digest}"


def locked_text(recipe: Recipe) -> str:
    """A requirements file of the recipe's pins with the hashes of our locks."""
    known = locks.hashes()
    return "\n".join(" ".join([pin, *(f"--hash={value}" for value in known[pin])]) for pin in recipe.requirements)


def kept_pins(recipe: Recipe, own: Sequence[str]) -> list[str]:
    """The pins that hold against a user's own requirements: the framework, unless they name it, and what serving needs.

    All else may change by them, as in a container where `pip install -r` runs last. A conflict is told by the resolver.
    """
    named = {distribution_name(line) for line in own}
    held = _distributions(recipe) - named | {distribution_name(pin) for pin in SERVING}
    return [pin for pin in recipe.requirements if distribution_name(pin) in held]


def distribution_name(requirement: str) -> str:
    """The normal form of a requirement's name (PyPA, "Names and normalization"); empty where it starts with none."""
    found = re.match(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", requirement)
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""


def _distributions(recipe: Recipe) -> set[str]:
    """The names under which the framework, and what it stands on, may be installed; none without a framework."""
    framework = FRAMEWORKS.get(recipe.framework)
    if framework is None:
        return set()
    return _names(framework) | (_names(FRAMEWORKS[framework.stands_on]) if framework.stands_on else set())


def _names(framework: Framework) -> set[str]:
    return {framework.distribution, f"{framework.distribution}-cpu"}


def _framework_version(recipe: Recipe, lock: Sequence[str]) -> str:
    """The version that was really installed: a user's requirements may have named another."""
    framework = FRAMEWORKS.get(recipe.framework)
    distributions = set() if framework is None else _names(framework)
    for line in lock:
        if distribution_name(line) in distributions and "==" in line:
            return line.partition("==")[2].partition("+")[0]
    return recipe.framework_version


def _run_all(
    recipe: Recipe,
    steps: Sequence[Step],
    run: Run,
    on_line: OnLine,
    on_progress: Callable[[Progress], None],
) -> list[str]:
    """Runs the steps in order; returns the lines of the last, which is the freeze."""
    whole = sum(step.weight for step in steps)
    done = 0.0
    lines: list[str] = []
    for step in steps:
        on_progress(Progress(step.label, done / whole))
        lines = []

        def heard(line: str, lines: list[str] = lines) -> None:
            lines.append(line)
            on_line(line)

        status = run(step, heard)
        refused = [line.strip() for line in lines if step.refuse is not None and re.search(step.refuse, line)]
        if refused:
            raise Unsupported(
                f"{recipe.framework} {recipe.framework_version} with CUDA libraries ({len(refused)} packages, "
                f"as {refused[0].removeprefix('+ ')})",
                "it would download gigabytes for a GPU; point pip's find-links or uv's index at CPU builds, "
                "or set CLARY_ALLOW_CUDA=1",
            )
        if status:
            told = "\n".join(lines[-TOLD_LINES:])
            raise StoreFailed(
                f"building the environment for {recipe.image}, step {step.label}", detail=f"exit {status}\n{told}"
            )
        done += step.weight
    on_progress(Progress("done", 1.0))
    return [line for line in lines if "==" in line or " @ " in line]


def _copy_step(interpreter: Interpreter, place: Path, env: Mapping[str, str], data_dir: Path) -> Step:
    source = str(Path(__file__).resolve().parents[2])
    arguments = ("copy", interpreter.version, interpreter.path, interpreter.prefix, str(place))
    return Step(
        "copy the interpreter",
        (sys.executable, "-m", "clary.images.interpreters", *arguments),
        {**env, "PYTHONPATH": source},
        data_dir,
        5,
    )


def _refuse_local(lines: Sequence[str]) -> None:
    for line in lines:
        if re.match(r"(-r|-c|-e|--requirement|--constraint|--editable|file:|\.|/)", line) or " @ file:" in line:
            raise Unsupported(
                f'requirements.txt line "{line}"', "it points into the file system; name packages of an index or a URL"
            )
