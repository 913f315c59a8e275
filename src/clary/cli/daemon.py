"""`clary up` and `clary down`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from clary.cli.local import Local, port_owner, wait_until
from clary.cli.output import DataOption, console, data_dir, errors, fail
from clary.domain.errors import Invalid
from clary.settings import Settings, load, to_json
from clary.store.external.keys import KeyFile

START_LIMIT_S = 30.0
# Of the user's environment, what the tree may need: to find programs, and to install packages as the user would.
HANDED_ON = frozenset(
    ("PATH", "HOME", "LANG", "TMPDIR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "SSL_CERT_FILE")
) | frozenset(("SSL_CERT_DIR", "NETRC", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"))
STOP_LIMIT_S = 45.0


def up(
    data: DataOption = None,
    port: Annotated[int | None, typer.Option(help="The one port.", show_default="8787")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return when ready and leave it running.")] = False,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Accept any credentials (loopback only).")] = False,
    isolation: Annotated[str | None, typer.Option(help="auto or none.", show_default="auto")] = None,
    images: Annotated[str | None, typer.Option(help="nearest or exact.", show_default="nearest")] = None,
    insecure_listen: Annotated[bool, typer.Option("--insecure-listen", help="Allow a non-loopback host.")] = False,
) -> None:
    """Start clary on this machine; returns when it is ready (--detach) or when it is stopped."""
    if sys.platform != "linux":
        fail("clary runs on Linux only")
    local = Local(data_dir(data))
    flags = {
        "port": port,
        "host": host,
        "auth": False if no_auth else None,
        "isolation": isolation,
        "images": images,
        "insecure_listen": True if insecure_listen else None,
    }
    try:
        settings = load(local.layout.data, flags)
        if settings.s3_endpoint_url:
            KeyFile(local.layout.data, settings.s3_credentials_file).check()
    except Invalid as error:
        fail(str(error), 2)
    if pid := local.supervisor_pid():
        running = local.settings()
        if detach and running == settings:
            console().print(f"clary is up already: {local.url()} (pid {pid}, data {local.layout.data})")
            return
        fail(f"clary runs on {local.layout.data} already (pid {pid}, port {running.port}); `clary down` stops it")
    started_s = time.monotonic()
    process = start(local, settings)
    ready = wait_until(lambda: process.poll() is not None or local.answers(settings), START_LIMIT_S)
    if process.poll() is not None or not ready:
        _explain(local, settings, process)
    console().print(
        f"clary is up: [bold]{local.url()}[/bold] after {time.monotonic() - started_s:.2f} s "
        f"(pid {process.pid}, data {local.layout.data})"
    )
    if settings.s3_endpoint_url and (store := local.object_store())["state"] != "ok":
        errors().print(f"object store: {store['detail']}", style="yellow", markup=False, highlight=False)
    console().print('point your AWS clients at it: [bold]eval "$(clary env)"[/bold]', highlight=False)
    if not detach:
        _follow(process)


def start(local: Local, settings: Settings) -> subprocess.Popen[bytes]:
    """The supervisor, in a session of its own."""
    local.layout.make()
    local.layout.settings.write_text(to_json(settings))
    with (local.layout.logs / "supervisor.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-I", "-m", "clary.supervisor", "--data", str(local.layout.data)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
            env={
                name: value
                for name, value in os.environ.items()
                if name in HANDED_ON or name.upper() in HANDED_ON or name.startswith(("UV_", "PIP_", "CLARY_"))
            },
        )


def _explain(local: Local, settings: Settings, process: subprocess.Popen[bytes]) -> None:
    code = process.poll()
    if code == 74:
        fail(f"port {settings.port} is used by {port_owner(settings.port)}; choose another with --port")
    if code == 73:
        fail(f"another clary runs on {local.layout.data} (pid {local.supervisor_pid()})")
    tail = (local.layout.logs / "supervisor.log").read_text(errors="replace").splitlines()[-5:]
    if code is None:
        process.send_signal(signal.SIGTERM)
        control = local.layout.logs / "control.log"
        tail += control.read_text(errors="replace").splitlines()[-10:] if control.exists() else []
    fail("clary did not start; its logs end with\n  " + "\n  ".join(tail))


def _follow(process: subprocess.Popen[bytes]) -> None:
    """Stays until the supervisor ends; Ctrl-C stops it in order."""
    try:
        process.wait()
    except KeyboardInterrupt:
        console().print("stopping ...")
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_LIMIT_S)


def down(data: DataOption = None) -> None:
    """Stop clary: requests inside finish, workers end, nothing is left running."""
    local = Local(data_dir(data))
    pid = local.supervisor_pid()
    if not pid:
        console().print(f"no clary runs on {local.layout.data}")
        return
    stop(local, pid)
    console().print("clary is down")


def stop(local: Local, pid: int) -> None:
    """Asks the supervisor to end and waits for it."""
    os.kill(pid, signal.SIGTERM)
    if not wait_until(lambda: not _alive(pid, local.layout.data), STOP_LIMIT_S, 0.05):
        fail(f"the supervisor (pid {pid}) has not ended in {STOP_LIMIT_S:g} s; see {local.layout.logs}")


def _alive(pid: int, data: Path) -> bool:
    return Local(data).supervisor_pid() == pid
