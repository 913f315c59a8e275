"""From an `Image` to the environment that stands in for it. Pure: a function of the name, the host's Pythons, the mode.

An image is tried as a name of our own (`clary/sklearn:1.5.2`), then as one of AWS's repositories, matched by repository
and tag and never by registry account or region, so mirrors of a company resolve too. The framework version that the tag
means is taken exactly where wheels for one of the host's Pythons exist; else the nearest release that has them, and the
recipe says so (`substituted`); with mode EXACT that is a refusal. A refusal lists all that was tried.

Nearest means: the same major and minor version first, then the next newer (a newer reader usually opens an older
model), then the newest older.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from clary.images import locks
from clary.images.catalogue import AWS_REPOSITORIES, FRAMEWORKS, Framework, Release

# Part of every digest: raised when environments must be built anew though no pin changed.
RECIPE_FORMAT = 1


class ImagesMode(StrEnum):
    """NEAREST may stand another version in and says so; EXACT refuses instead."""

    NEAREST = "nearest"
    EXACT = "exact"


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python of the host: `version` "3.11.7", `path` of its executable with links followed, `prefix` its folder."""

    version: str
    path: str
    prefix: str

    @property
    def python(self) -> str:
        """The minor version, "3.11"."""
        return ".".join(self.version.split(".")[:2])


@dataclass(frozen=True, slots=True)
class Recipe:
    """An environment that can be built. `digest` names it: equal digests, equal environments."""

    image: str
    framework: str
    framework_version: str
    requested: str
    substituted: str | None
    python: str
    interpreter: Interpreter
    requirements: tuple[str, ...]
    locked: bool
    digest: str
    resolved_image: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why no recipe stands in for an image."""

    image: str
    reason: str
    tried: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f'image "{self.image}": {self.reason}' + (f"; tried {', '.join(self.tried)}" if self.tried else "")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What an image asks for. `version` is empty for the newest, two-part for any patch of a minor version.

    `server`: the server of that image, where ours takes its place. `base_version`: of what the framework stands on.
    """

    framework: Framework
    requested: str
    version: str
    python_hint: str | None = None
    notes: tuple[str, ...] = field(default_factory=tuple)
    server: str = ""
    base_version: str = ""


@dataclass(frozen=True, slots=True)
class _Base:
    """The chosen version of what a framework stands on, and how it answers what was asked ("" where nothing was)."""

    framework: Framework
    version: str
    substituted: str


# `1.2-1-cpu-py3`, `2.6.0-cpu-py312-ubuntu22.04-sagemaker`, `1.7-1-arm64`, `3.0-5`, `latest`.
AWS_TAG = re.compile(r"^(?P<version>\d+(\.\d+)*(-\d+)?)(?P<rest>(-[A-Za-z0-9._]+)*)$")
NATIVE_TAG = re.compile(r"^\d+(\.\d+)*$")
TORCH_WHEEL = re.compile(r"^torch-(?P<version>\d+(\.\d+)*)(\+(?P<local>[a-z0-9.]+))?-cp(?P<python>3\d+)-")


def resolve(
    image: str, interpreters: Sequence[Interpreter], mode: ImagesMode, *, local_wheels: Sequence[str] = ()
) -> Recipe | Refusal:
    """The recipe for an image, on the first of the given interpreters that has it.

    `local_wheels` are file names in the user's own wheel folders; where they hold torch, its versions are those.
    """
    wanted = _wanted(image)
    if isinstance(wanted, Refusal):
        return wanted
    if wanted.server and mode is ImagesMode.EXACT:
        reason = f"clary's own model server would take the place of {wanted.server}, and images=exact forbids that"
        return Refusal(image, reason, (f"clary/{wanted.framework.name}",))
    available = _available(wanted.framework, interpreters, local_wheels)
    if not available:
        pythons = ", ".join(one.version for one in interpreters) or "none"
        return Refusal(
            image,
            f"no release of {wanted.framework.distribution} has wheels for a Python of this host ({pythons})",
            (f"{wanted.framework.name} {wanted.requested}",),
        )
    version, exact = _choose(wanted, sorted({version for version, _ in available}, key=_numbers))
    interpreter = _interpreter(wanted, version, available)
    base = _base(wanted, version, interpreter, local_wheels)
    if mode is ImagesMode.EXACT and not (exact and (base is None or not base.substituted)):
        asked, given = (wanted.version, version) if base is None or not exact else (wanted.base_version, base.version)
        one = wanted.framework if base is None or not exact else base.framework
        return Refusal(
            image,
            f"{one.distribution} {asked} has no wheels for a Python of this host, "
            f"and images=exact forbids {given} in its place",
            tuple(f"{version} on Python {one.python}" for version, one in available),
        )
    return _recipe(image, wanted, version, exact, interpreter, base, bool(local_wheels))


def explain(
    image: str, interpreters: Sequence[Interpreter], mode: ImagesMode, *, local_wheels: Sequence[str] = ()
) -> list[str]:
    """What `clary image explain` prints: how an image resolves, line by line."""
    outcome = resolve(image, interpreters, mode, local_wheels=local_wheels)
    lines = [f"image        {image}"]
    if isinstance(outcome, Refusal):
        lines.append(f"refused      {outcome.reason}")
        return lines + [f"tried        {one}" for one in outcome.tried]
    lines += [
        f"framework    {outcome.framework} {outcome.framework_version} (asked: {outcome.requested})",
        f"python       {outcome.interpreter.version} ({outcome.interpreter.path})",
        f"resolved     {outcome.resolved_image}",
        f"locked       {'yes, with hashes' if outcome.locked else 'no: resolved when built'}",
    ]
    if outcome.substituted is not None:
        lines.insert(2, f"substituted  {outcome.substituted}")
    lines += [f"note         {note}" for note in outcome.notes]
    return lines + [f"package      {requirement}" for requirement in outcome.requirements]


def split_image(image: str) -> tuple[str, str, str]:
    """(registry host or "", repository, tag or ""); a digest behind `@` is dropped."""
    name, _, _digest = image.partition("@")
    head, slash, rest = name.partition("/")
    host = head if slash and ("." in head or ":" in head or head == "localhost") else ""
    path = rest if host else name
    repository, colon, tag = path.rpartition(":")
    return (host, repository, tag) if colon else (host, path, "")


def _wanted(image: str) -> _Wanted | Refusal:
    host, repository, tag = split_image(image)
    if not host and repository.startswith("clary/"):
        return _native(image, repository.removeprefix("clary/"), tag)
    aws = AWS_REPOSITORIES.get(repository.rpartition("/")[2])
    # Without a registry only names that cannot mean anything else: a bare `xgboost` is no image of AWS's.
    if aws is None or not (host or (repository == aws.repository and "-" in repository)):
        return Refusal(
            image,
            "no recipe stands in for it",
            (
                *(f"clary/{name}" for name in FRAMEWORKS),
                *(f"<registry>/{name}" for name in AWS_REPOSITORIES),
            ),
        )
    framework = FRAMEWORKS[aws.framework]
    if aws.server:
        return _Wanted(framework, tag, "", server=f"{aws.server} {tag}".rstrip())
    meant = aws.versions.get(tag)
    rest = base = ""
    if aws.marked:
        # `2.1.0-transformers4.37.0-cpu-py310`: torch's version, then that of the framework itself.
        match = re.match(
            rf"^(?P<base>\d+(\.\d+)*)-{aws.marked}(?P<version>\d+(\.\d+)*)(?P<rest>(-[A-Za-z0-9._]+)*)$", tag
        )
        if match is None:
            example = f"2.6.0-{aws.marked}4.49.0-cpu-py312"
            return Refusal(image, f'the tag "{tag}" of {aws.repository} tells no version', (example,))
        base, meant, tag, rest = match["base"], match["version"], f"{aws.marked} {match['version']}", match["rest"]
    elif meant is None:
        match = AWS_TAG.match(tag)
        if match is None:
            return Refusal(image, f'the tag "{tag}" of {aws.repository} tells no version', tuple(aws.versions))
        # A tag that the table lacks: `1.5-1` means some 1.5, `2.6.0` is a version as it stands.
        meant = aws.versions.get(match["version"]) or match["version"].partition("-")[0]
        tag, rest = match["version"], match["rest"]
    hint = re.search(r"-py3(\d+)", rest)
    notes = []
    if "-gpu" in rest or "-cu1" in rest:
        notes.append("a GPU image: it runs on the CPU here")
    if "arm64" in rest or "graviton" in aws.repository:
        notes.append("an arm64 image: it runs on the processor of this host")
    return _Wanted(framework, tag, meant, f"3.{hint[1]}" if hint else None, tuple(notes), base_version=base)


def _native(image: str, name: str, tag: str) -> _Wanted | Refusal:
    framework = FRAMEWORKS.get(name)
    if framework is None:
        return Refusal(image, f'clary has no framework "{name}"', tuple(f"clary/{one}" for one in FRAMEWORKS))
    if tag in ("", "latest"):
        return _Wanted(framework, tag or "latest", "")
    if NATIVE_TAG.match(tag) is None:
        return Refusal(image, f'the tag "{tag}" is no version', tuple(one.version for one in framework.releases))
    return _Wanted(framework, tag, tag)


def _available(
    framework: Framework, interpreters: Sequence[Interpreter], local_wheels: Sequence[str]
) -> list[tuple[str, Interpreter]]:
    """(version, interpreter) pairs that have wheels, in the order of releases and of the given interpreters."""
    if framework.stands_on:
        below = _available(FRAMEWORKS[framework.stands_on], interpreters, local_wheels)
        return [
            (release.version, one)
            for release in framework.releases
            for one in interpreters
            if one.python in release.pythons and _fitting(release, one, below)
        ]
    if not framework.locked:
        found = {
            (match["version"], f"{match['python'][0]}.{match['python'][1:]}")
            for match in map(TORCH_WHEEL.match, local_wheels)
            if match is not None
        }
        if found:
            return [
                (version, one)
                for version in sorted({version for version, _ in found}, key=_numbers)
                for one in interpreters
                if (version, one.python) in found
            ]
        return [
            (release.version, one)
            for release in framework.releases
            for one in interpreters
            if one.python in release.pythons
        ]
    locked = locks.pins().get(framework.locked_as or framework.name, {})
    return [
        (release.version, one)
        for release in framework.releases
        for one in interpreters
        if one.python in locked.get(release.version, {})
    ]


def _fitting(release: Release, interpreter: Interpreter, below: Sequence[tuple[str, Interpreter]]) -> list[str]:
    """The versions below, ascending, on which the release can stand."""
    oldest = _numbers(release.base_from)
    found = {version for version, one in below if one == interpreter and _numbers(version) >= oldest}
    return sorted(found, key=_numbers)


def _base(wanted: _Wanted, version: str, interpreter: Interpreter, local_wheels: Sequence[str]) -> _Base | None:
    """What is chosen below the framework; None for one that stands by itself."""
    release = wanted.framework.release(version)
    if not wanted.framework.stands_on or release is None:
        return None
    framework = FRAMEWORKS[wanted.framework.stands_on]
    fitting = _fitting(release, interpreter, _available(framework, [interpreter], local_wheels))
    chosen, exact = _choose(_Wanted(framework, wanted.base_version, wanted.base_version), fitting)
    return _Base(framework, chosen, "" if exact else f"{framework.distribution} {wanted.base_version} -> {chosen}")


def _choose(wanted: _Wanted, versions: Sequence[str]) -> tuple[str, bool]:
    """(the version to take, whether it is what was asked); `versions` ascend."""
    if not wanted.version:
        newest = wanted.framework.newest
        return (newest if newest in versions else versions[-1]), True
    if wanted.version in versions:
        return wanted.version, True
    asked = _numbers(wanted.version)
    patches = [one for one in versions if _numbers(one)[: len(asked)] == asked]
    if patches and len(asked) < 3:
        return patches[-1], True
    same_minor = [one for one in versions if _numbers(one)[:2] == asked[:2]]
    newer = [one for one in same_minor if _numbers(one) > asked] or [one for one in versions if _numbers(one) > asked]
    if same_minor and not any(_numbers(one) > asked for one in same_minor):
        return same_minor[-1], False
    return (newer[0] if newer else versions[-1]), False


def _interpreter(wanted: _Wanted, version: str, available: Sequence[tuple[str, Interpreter]]) -> Interpreter:
    able = [one for found, one in available if found == version]
    return next((one for one in able if one.python == wanted.python_hint), able[0])


def _recipe(
    image: str,
    wanted: _Wanted,
    version: str,
    exact: bool,
    interpreter: Interpreter,
    base: _Base | None,
    local_wheels: bool,
) -> Recipe:
    framework = wanted.framework
    if framework.locked:
        requirements = locks.pins()[framework.locked_as or framework.name][version][interpreter.python]
    elif base is not None:
        release = framework.release(version) or framework.releases[-1]
        below = base.framework.release(base.version) or base.framework.releases[-1]
        requirements = (
            *(*release.pins, f"{base.framework.distribution}=={base.version}"),
            *(*below.companions(interpreter.python), *release.also),
        )
    else:
        release = framework.release(version) or framework.releases[-1]
        requirements = (f"{framework.distribution}=={version}", *release.companions(interpreter.python))
    notes = list(wanted.notes)
    if wanted.python_hint is not None and wanted.python_hint != interpreter.python:
        notes.append(f"Python {interpreter.python} stands in for {wanted.python_hint}")
    if not framework.locked and not local_wheels:
        notes.append("its wheel comes from the package index; the default one there is a CUDA build, which is refused")
    digest = hashlib.sha256(
        json.dumps(
            [
                RECIPE_FORMAT,
                _environment_name(framework),
                version,
                interpreter.version,
                interpreter.path,
                sorted(requirements),
            ]
        ).encode()
    ).hexdigest()
    return Recipe(
        image=image,
        framework=framework.name,
        framework_version=version,
        requested=wanted.requested,
        substituted=_substituted(wanted, version, exact, base),
        python=interpreter.python,
        interpreter=interpreter,
        requirements=requirements,
        locked=framework.locked,
        digest=digest,
        resolved_image=f"clary/{framework.name}:{version}-py{interpreter.python.replace('.', '')}@sha256:{digest}",
        notes=tuple(notes),
    )


def _environment_name(framework: Framework) -> str:
    """By which framework an environment is known: two that stand on the same third one may share all of it."""
    return (framework.stands_on and framework.locked_as) or framework.name


def _substituted(wanted: _Wanted, version: str, exact: bool, base: _Base | None) -> str | None:
    if wanted.server:
        return f"{wanted.server} -> clary's model server with {wanted.framework.distribution} {version}"
    told = [] if exact else [f"{wanted.requested} -> {version}"]
    if base is not None and base.substituted:
        told.append(base.substituted)
    return ", ".join(told) or None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
