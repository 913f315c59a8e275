"""The two long-lived children, proxy and control: started, kept alive with backoff, stopped in order."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from clary.supervisor import processes

BACKOFF_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
CALM_AFTER_S = 60.0  # a child that lived this long starts its backoff anew
CRASH_LOOP = 5  # deaths within CALM_AFTER_S that are told as an alarm


@dataclass(slots=True)
class Service:
    """One child and how it is started again."""

    name: str
    argv: Sequence[str]
    environ: Mapping[str, str]
    descriptors: Mapping[int, int]
    log: Path
    nice: int = 0
    session_nice: int = 0
    pid: int = 0
    started_mono_s: float = 0.0
    restart_at_mono_s: float | None = 0.0
    deaths: list[float] = field(default_factory=list)

    def start(self, lifeline: Callable[[], int]) -> None:
        """Starts the child; its lifeline is its descriptor 3."""
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        life = lifeline()
        try:
            self.pid = processes.start(self.argv, self.environ, {1: log, 2: log, 3: life, **self.descriptors})
            with suppress(PermissionError):  # an ordinary user's processes are all equal
                os.setpriority(os.PRIO_PROCESS, self.pid, self.nice)
            if self.session_nice:
                processes.favour(self.pid, self.session_nice)
        finally:
            os.close(log)
            os.close(life)
        self.started_mono_s = time.monotonic()
        self.restart_at_mono_s = None

    def died(self, say: Callable[[str], None], facts: Mapping[str, object]) -> None:
        """Plans the restart: at once the first time, later and later when it keeps dying."""
        now = time.monotonic()
        self.pid = 0
        self.deaths = [at for at in self.deaths if now - at < CALM_AFTER_S] + [now]
        delay_s = BACKOFF_S[min(len(self.deaths) - 1, len(BACKOFF_S) - 1)]
        if now - self.started_mono_s > CALM_AFTER_S:
            delay_s = BACKOFF_S[0]
        self.restart_at_mono_s = now + delay_s
        alarm = " crash loop" if len(self.deaths) >= CRASH_LOOP else ""
        say(f"service={self.name} event=died{alarm} facts={dict(facts)} restart_in_s={delay_s} log={self.log}")

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.restart_at_mono_s = None
        if self.pid:
            processes.end(self.pid, number)
