"""A container engine of the tests' own, and an image made of this machine's Python.

`dockerd` is Debian's, installed where it lacks and this is root on Debian; it keeps all of its state in a folder of the
test's and makes no network. The image needs no registry: one layer with the interpreter, its library and a server.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGES = ("docker.io", "runc")
START_LIMIT_S = 60.0
INSTALL_LIMIT_S = 80
LEFT_OUT = frozenset(("site-packages", "dist-packages", "test", "idlelib", "tkinter", "ensurepip", "__pycache__"))


def install() -> str:
    """Why there is no dockerd on this machine; "" when there is, perhaps from now on."""
    if os.geteuid() != 0:
        return "a container engine needs root"
    if shutil.which("dockerd"):
        return ""
    if not shutil.which("apt-get"):
        return "dockerd is not installed, and this is no Debian"
    quiet = {"DEBIAN_FRONTEND": "noninteractive", "PATH": os.environ["PATH"]}
    install = ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES]
    for command in (install, ["apt-get", "update"], install):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_LIMIT_S, env=quiet)
        except subprocess.TimeoutExpired:
            return f"{' '.join(command)} took longer than {INSTALL_LIMIT_S} s"
        if shutil.which("dockerd"):
            return ""
    return f"apt-get could not install {' '.join(PACKAGES)}: {(done.stdout + done.stderr)[-500:]}"


@dataclass
class ContainerEngine:
    """A running dockerd."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def socket(self) -> Path:
        return self.folder / "docker.sock"

    def ask(self, method: str, path: str) -> Any:
        """One call of the Engine API."""
        connection = http.client.HTTPConnection("localhost", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(60)
        connection.sock.connect(str(self.socket))
        connection.request(method, path)
        answer = connection.getresponse()
        raw = answer.read()
        connection.close()
        if answer.status == 404:
            raise FileNotFoundError(raw)
        assert answer.status < 400, raw
        return json.loads(raw) if raw.strip() else None

    def answers(self) -> bool:
        try:
            return bool(self.ask("GET", "/version"))
        except OSError:
            return False

    def containers(self) -> list[dict[str, Any]]:
        """All of them, running or not, each as inspected."""
        found = []
        for one in self.ask("GET", "/containers/json?all=1"):
            try:
                found.append(self.ask("GET", f"/containers/{one['Id']}/json"))
            except FileNotFoundError:
                continue  # it went while we looked
        return found

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            place = line.split()[1]
            if place.startswith(f"{self.folder}/"):
                subprocess.run(["umount", "--lazy", place], check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def start(folder: Path) -> ContainerEngine:
    """Waits until it answers. Raises: RuntimeError with the end of its log."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "dockerd.log"
    argv = ["dockerd", "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec"]
    argv += ["-H", f"unix://{folder}/docker.sock", "--pidfile", f"{folder}/pid"]
    argv += ["--iptables=false", "--ip6tables=false", "--bridge=none"]
    with log.open("wb") as out:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    engine = ContainerEngine(folder, process)
    deadline = time.monotonic() + START_LIMIT_S
    while not engine.answers():
        if process.poll() is not None or time.monotonic() > deadline:
            told = log.read_text()[-2000:]
            engine.stop()
            raise RuntimeError(f"dockerd did not start:\n{told}")
        time.sleep(0.1)
    return engine


def python_layer(server: str) -> bytes:
    """A layer with this interpreter under its own paths and /server.py, uncompressed."""
    executable = os.path.realpath(sys.executable)
    library = Path(sysconfig.get_paths()["stdlib"])
    wanted = {executable: Path(executable)}
    for file in _files(library):
        wanted[str(file)] = file
    for path in _libraries([executable, *map(str, (library / "lib-dynload").glob("*.so"))]):
        wanted[path] = Path(path)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", dereference=True) as archive:
        for name, path in sorted(wanted.items()):
            archive.add(path, name.lstrip("/"), recursive=False)
        raw = server.encode()
        entry = tarfile.TarInfo("server.py")
        entry.size, entry.mode = len(raw), 0o755
        archive.addfile(entry, io.BytesIO(raw))
    return packed.getvalue()


def entry_point() -> list[str]:
    return [os.path.realpath(sys.executable), "-I", "-u", "/server.py"]


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name in LEFT_OUT or path.name.startswith("config-"):
            continue
        if path.is_dir():
            yield from _files(path)
        elif path.suffix in (".py", ".so"):
            yield path


def _libraries(binaries: list[str]) -> set[str]:
    """The shared libraries of binaries and the loader, by the paths under which the loader finds them."""
    told = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False).stdout
    found = set()
    for line in told.splitlines():
        words = line.split()
        path = words[2] if "=>" in words and len(words) > 2 else words[0] if words else ""
        if path.startswith("/") and not path.endswith(":"):
            found.add(path)
    return found
