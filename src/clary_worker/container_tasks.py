"""What is asked of the container engine beside running workers; a program, each call a task of the supervisor's.

    look ENGINE              stdin: [names]               what the engine is, and what it holds under those names
    load ENGINE              stdin: {"tag", "config", "layers": [{"digest", "path"}]}   an image, from its blobs' files
    prune ENGINE REPOSITORY  stdin: [ids to keep]         images that were loaded and nothing needs any more
    sweep ENGINE DATA RUN    containers of this data folder that an earlier run left

The answer is one line of JSON, the last on stdout; what goes wrong is told on stderr, exit status 1.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tarfile
from typing import Any, Dict, Iterator, List
from urllib.parse import quote

from .container_config import DATA_LABEL, RUN_LABEL
from .engine import Engine, EngineError

LOAD_LIMIT_S = 600.0
_BLOCK = 1 << 20


def look(engine: Engine, names: List[str]) -> Dict[str, Any]:
    told = engine.call("GET", "/version")
    images = {}
    for name in names:
        found = engine.image(name)
        images[name] = None if found is None else _summary(found)
    return {"version": told.get("Version", ""), "platform": "%s/%s" % (told["Os"], told["Arch"]), "images": images}


def load(engine: Engine, order: Dict[str, Any]) -> Dict[str, Any]:
    """Streams an archive as `docker load` reads it. Raises: EngineError."""
    connection, response = engine.open("POST", "/images/load?quiet=1", archive(order), LOAD_LIMIT_S)
    try:
        for line in response:
            told = json.loads(line) if line.strip() else {}
            if "error" in told:
                raise EngineError(500, str(told["error"]))
    finally:
        connection.close()
    found = engine.image(order["tag"])
    if found is None:
        raise EngineError(500, "the engine took the image and does not hold it")
    return _summary(found)


def archive(order: Dict[str, Any]) -> Iterator[bytes]:
    """The pieces of the archive: config, layers (each once), and the manifest that names them."""
    names = {layer["digest"]: layer["digest"].replace(":", "-") + ".tar" for layer in order["layers"]}
    paths = {layer["digest"]: layer["path"] for layer in order["layers"]}
    manifest = [
        {
            "Config": "config.json",
            "RepoTags": [order["tag"]],
            "Layers": [names[one["digest"]] for one in order["layers"]],
        }
    ]
    yield from _member("config.json", order["config"])
    for digest, path in paths.items():
        yield from _member(names[digest], path)
    raw = json.dumps(manifest).encode()
    yield _head("manifest.json", len(raw)) + raw + b"\0" * (-len(raw) % 512)
    yield b"\0" * 1024


def prune(engine: Engine, repository: str, kept: List[str]) -> Dict[str, Any]:
    """Images tagged REPOSITORY:... whose id is not to be kept. One that a container uses stays. Raises: EngineError."""
    filters = quote(json.dumps({"reference": [repository]}))
    gone = []
    for image in engine.call("GET", "/images/json?filters=" + filters):
        if image["Id"] in kept:
            continue
        for tag in image.get("RepoTags") or ():
            with contextlib.suppress(EngineError):
                engine.call("DELETE", "/images/" + quote(tag, safe="/:"))
                gone.append(tag)
    return {"gone": gone}


def sweep(engine: Engine, data: str, run: str) -> Dict[str, Any]:
    """Removes containers of the data folder that are not of this run. Raises: EngineError."""
    filters = quote(json.dumps({"label": ["%s=%s" % (DATA_LABEL, data)]}))
    gone = []
    for container in engine.call("GET", "/containers/json?all=1&filters=" + filters):
        if container["Labels"].get(RUN_LABEL) != run and engine.remove(container["Id"]):
            gone.append(container["Id"][:12])
    return {"gone": gone}


def _summary(image: Dict[str, Any]) -> Dict[str, Any]:
    config = image.get("Config") or {}
    return {
        "id": image["Id"],
        "user": config.get("User") or "",
        "labels": config.get("Labels") or {},
        "digests": image.get("RepoDigests") or [],
    }


def _member(name: str, path: str) -> Iterator[bytes]:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        yield _head(name, size)
        while True:
            piece = file.read(_BLOCK)
            if not piece:
                break
            yield piece
        yield b"\0" * (-size % 512)


def _head(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size = size
    return entry.tobuf(tarfile.PAX_FORMAT)


def main(words: List[str]) -> int:
    operation, engine, more = words[0], Engine(words[1]), words[2:]
    try:
        if operation == "sweep":
            answer = sweep(engine, more[0], more[1])
        elif operation == "prune":
            answer = prune(engine, more[0], json.load(sys.stdin))
        elif operation == "load":
            answer = load(engine, json.load(sys.stdin))
        else:
            answer = look(engine, json.load(sys.stdin))
    except (EngineError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
