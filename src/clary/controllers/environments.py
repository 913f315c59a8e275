"""Images to interpreters: resolve the recipe, build its environment once through the supervisor, keep it current.

The builds' commands run as tasks of the supervisor, the only process that starts others. What a user's
`requirements.txt` names is installed from wheels only, so that no stranger's build script runs as us; and the zygote of
such an environment runs without any rights, behind walls of its own, one an execution role.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from clary.controllers.preparation import Asked, Environment
from clary.domain.errors import Unsupported
from clary.images import environments, package_settings, repositories
from clary.images.interpreters import find_interpreters
from clary.images.recipes import ImagesMode, Interpreter, Recipe, Refusal, explain, resolve
from clary.images.steps import STEP_LIMIT_S, OnLine, Step
from clary.images.worker_package import content_hash, sync_worker_package, worker_source
from clary.runtimes.process import ProcessRuntime

COMMAND_IMAGE = "clary/command"
FUNCTION = "function"
_SERVER_NEEDS = ("httptools==", "uvloop==")


class RecipeEnvironments:
    """The `Environments` of preparation, from recipes."""

    def __init__(
        self, folder: Path, runtime: ProcessRuntime, uv: Path, mode: ImagesMode, environ: Mapping[str, str]
    ) -> None:
        self._folder = folder
        self._runtime = runtime
        self._uv = uv
        self._mode = mode
        self._environ = environ
        self._uv_environ = package_settings.uv_environment(environ, package_settings.pip_config_files(environ))
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="environments")
        self._interpreters: Sequence[Interpreter] = ()
        self._worker_hash = content_hash(worker_source())
        self._current: set[str] = set()  # environments whose worker package was brought up to date

    async def provide(
        self, asked: Asked, requirements_txt: str | None, model_dir: Path | None, on_progress: Callable[[str], None]
    ) -> Environment:
        """See `preparation.Environments`. Raises: Unsupported for an image nothing stands in for, StoreFailed."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._threads, self._provide, asked.image, requirements_txt, model_dir, on_progress, loop
        )

    async def refusal(self, image: str) -> Refusal | None:
        """Why no environment stands in for an image; None where one does."""
        found = await asyncio.get_running_loop().run_in_executor(self._threads, self.resolve, image)
        return found if isinstance(found, Refusal) else None

    @property
    def exact(self) -> bool:
        return self._mode is ImagesMode.EXACT

    async def pythons(self) -> Sequence[str]:
        """The minor versions of the host's interpreters, as "3.11"."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, self._found)
        return tuple(dict.fromkeys(one.python for one in found))

    async def provide_function(self, python: str) -> Environment:
        """An environment for functions: that Python and boto3, of the release whose botocore is ours.

        Raises: Unsupported when the host has no such Python, StoreFailed.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._provide_function, python, loop)

    def _provide_function(self, python: str, loop: asyncio.AbstractEventLoop) -> Environment:
        interpreter = next((one for one in self._found() if one.python == python), None)
        if interpreter is None:
            raise Unsupported(f"python{python}", "this host has no such interpreter")
        needs = (f"boto3=={version('botocore')}",)  # released together, under one number
        digest = hashlib.sha256(
            "\n".join((FUNCTION, interpreter.version, interpreter.path, *needs)).encode()
        ).hexdigest()
        name = f"clary/{FUNCTION}:{python}"
        recipe = Recipe(
            image=name,
            framework=FUNCTION,
            framework_version=interpreter.version,
            requested="",
            substituted=None,
            python=python,
            interpreter=interpreter,
            requirements=needs,
            locked=False,
            digest=digest,
            resolved_image=f"{name}@sha256:{digest}",
        )
        return self._built(recipe, None, lambda _progress: None, loop)

    def _found(self) -> Sequence[Interpreter]:
        if not self._interpreters:
            self._interpreters = find_interpreters(self._environ)
        return self._interpreters

    def resolve(self, image: str) -> Recipe | Refusal:
        """The recipe for an image on this host."""
        self._found()
        wheels = package_settings.local_wheels(self._uv_environ)
        if image.partition(":")[0] == COMMAND_IMAGE:
            return self._command_recipe(image, wheels)
        return resolve(image, self._interpreters, self._mode, local_wheels=wheels)

    def explain(self, image: str) -> list[str]:
        """How an image resolves, line by line."""
        found = self.resolve(image)
        if image.partition(":")[0] == COMMAND_IMAGE and isinstance(found, Recipe):
            return [f"{image}: your own server program, started by Python {found.python}", found.resolved_image]
        wheels = package_settings.local_wheels(self._uv_environ)
        return explain(image, self._interpreters, self._mode, local_wheels=wheels)

    def _command_recipe(self, image: str, wheels: Sequence[str]) -> Recipe | Refusal:
        """An interpreter with nothing but what our relay needs; the user's program brings the rest."""
        base = resolve("clary/onnxruntime", self._interpreters, self._mode, local_wheels=wheels)
        if isinstance(base, Refusal):
            return base
        needs = tuple(line for line in base.requirements if line.startswith(_SERVER_NEEDS))
        digest = hashlib.sha256("\n".join(("command", base.python, base.interpreter.path, *needs)).encode()).hexdigest()
        return replace(
            base,
            image=image,
            framework="command",
            framework_version=base.python,
            requested="",
            substituted=None,
            requirements=needs,
            digest=digest,
            resolved_image=f"{COMMAND_IMAGE}@sha256:{digest}",
            notes=(),
        )

    def _with_torch(self, recipe: Recipe) -> Recipe | Refusal:
        """The same with torch, which only repositories with TorchScript models pay for."""
        found = self.resolve("clary/triton-pytorch")
        if isinstance(found, Refusal):
            return found
        note = f"the repository holds a TorchScript model, so its environment has torch {found.framework_version}"
        return replace(found, image=recipe.image, substituted=recipe.substituted, notes=(*found.notes, note))

    def _provide(
        self,
        image: str,
        requirements_txt: str | None,
        model_dir: Path | None,
        on_progress: Callable[[str], None],
        loop: asyncio.AbstractEventLoop,
    ) -> Environment:
        recipe = self.resolve(image)
        if isinstance(recipe, Recipe) and recipe.framework == "triton" and model_dir is not None:
            recipe = self._with_torch(recipe) if repositories.needs_torch(model_dir) else recipe
        if isinstance(recipe, Refusal):
            raise Unsupported(f"image {image}", str(recipe))
        return self._built(recipe, requirements_txt, on_progress, loop)

    def _built(
        self,
        recipe: Recipe,
        requirements_txt: str | None,
        on_progress: Callable[[str], None],
        loop: asyncio.AbstractEventLoop,
    ) -> Environment:
        def told(progress: environments.Progress) -> None:
            on_progress(f"building environment ({progress.label}, {progress.done_ratio:.0%})")

        def run(step: Step, on_line: OnLine) -> int:
            return self._run(step, on_line, loop)

        built = environments.build(
            recipe,
            self._folder,
            requirements_txt,
            self._uv,
            uv_environ=self._uv_environ,
            allow_cuda=self._environ.get("CLARY_ALLOW_CUDA") == "1",
            run=run,
            on_progress=told,
        )
        if built.digest not in self._current:
            sync_worker_package(built.folder, run=run)
            self._current.add(built.digest)
        notes = [*recipe.notes, *([f"substituted: {recipe.substituted}"] if recipe.substituted else [])]
        return Environment(
            python=str(built.python),
            prefixes=(str(built.folder), _prefix(built.python)),
            framework=recipe.framework,
            # The worker package is part of the key: a zygote of an older one is never forked from.
            zygote="" if recipe.framework == "command" else f"{built.digest[:16]}-{self._worker_hash[:8]}",
            trusted=built.trusted,
            imports=tuple(
                dict.fromkeys(
                    environments.distribution_name(line) for line in environments.requirement_lines(requirements_txt)
                )
            ),
            resolved_image=recipe.resolved_image,
            note="; ".join(notes),
        )

    def _run(self, step: Step, on_line: OnLine, loop: asyncio.AbstractEventLoop) -> int:
        """One step as a task of the supervisor; its exit status."""
        argv = list(step.argv)
        if not step.trusted:
            argv += ["--only-binary", ":all:"]
        asked = self._runtime.request(
            "task",
            limit_s=STEP_LIMIT_S + 10,
            argv=argv,
            environ={"PATH": "/usr/local/bin:/usr/bin:/bin", **step.env},
            cwd=str(step.cwd),
            stdin=step.stdin,
            timeout_s=STEP_LIMIT_S,
        )
        result = asyncio.run_coroutine_threadsafe(asked, loop).result()
        for line in str(result["output"]).splitlines():
            on_line(line)
        return int(result["code"])


def _prefix(python: Path) -> str:
    """The folder of the interpreter that an environment stands on."""
    return str(Path(os.path.realpath(python)).parents[1])
