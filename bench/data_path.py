"""What the proxy adds: a worker asked on its own unix socket, through the proxy, and through it with signatures."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import artifacts
import machine
import stand
from load import Order, Outcome, measure
from report import Table, spread, verdict
from scale import Scale

CONNECTIONS = (1, 32)
ADDED_P50_MS = {"unsigned": 0.15, "signed": 0.30}
PROXY_PER_S = {"unsigned": 25_000, "signed": 12_000}
TOGETHER_PER_S = {"unsigned": 12_000, "signed": 8_000}
WAYS = ("direct", "unsigned", "signed")
Rounds = dict[tuple[str, int], list[Outcome]]


@dataclass(frozen=True, slots=True)
class Way:
    """One way to the echo model: `address` and `request` as the load generator takes them, and whose CPU to meter."""

    one: stand.Stand
    endpoint: str
    signed: bool
    direct: bool

    def order(self, connections: int, scale: Scale) -> Order:
        artifact = artifacts.raw_echo()
        worker = self.one.workers(self.endpoint)[0]
        request = self.one.direct(artifact) if self.direct else self.one.request(self.endpoint, artifact, self.signed)
        return Order(
            address=f"unix:{worker['address']}" if self.direct else f"tcp:127.0.0.1:{self.one.port}",
            requests=[request],
            connections=connections,
            seconds=scale.seconds,
            core=machine.cores()[1],
            cpu_of={"proxy": [self.one.service_pid("proxy")], "worker": [worker["pid"]]},
        )


@contextmanager
def _ways() -> Iterator[dict[str, Way]]:
    """Two claries, one with --no-auth, each with one echo endpoint of one process."""
    with stand.running("--no-auth") as unsigned, stand.running() as signed:
        echo = artifacts.raw_echo()
        endpoints = [one.deploy(echo, SAGEMAKER_MODEL_SERVER_WORKERS="1") for one in (unsigned, signed)]
        yield {
            "direct": Way(unsigned, endpoints[0], signed=False, direct=True),
            "unsigned": Way(unsigned, endpoints[0], signed=False, direct=False),
            "signed": Way(signed, endpoints[1], signed=True, direct=False),
        }


def table(scale: Scale) -> Table:
    """The three ways on one core, then the proxy with a core of its own."""
    with _ways() as ways:
        stand.pin_servers([ways["unsigned"].one.pid, ways["signed"].one.pid])
        together = _rounds(ways, WAYS, CONNECTIONS, scale)
        for way in ("unsigned", "signed"):
            workers = ways[way].one.workers(ways[way].endpoint)
            machine.pin([worker["pid"] for worker in workers], machine.cores()[1])
        apart = _rounds(ways, ("unsigned", "signed"), (32,), scale)
    return Table(
        name="data_path",
        title="Data path: what the proxy adds",
        headers=(
            "way",
            "connections",
            "requests/s",
            "p50 ms",
            "p99 ms",
            "added p50 us",
            "proxy CPU us/request",
            "worker CPU us/request",
        ),
        rows=_rows(together),
        notes=_notes(together, apart),
        raw={
            name: {f"{way} {count}": [asdict(outcome) for outcome in found] for (way, count), found in rounds.items()}
            for name, rounds in (("one core", together), ("proxy on its own core", apart))
        },
    )


def _rounds(ways: Mapping[str, Way], names: Sequence[str], connections: Sequence[int], scale: Scale) -> Rounds:
    found: Rounds = defaultdict(list)
    for number in range(scale.rounds):
        machine.say(f"data path: round {number + 1} of {scale.rounds}")
        for count in connections:
            for name in names:
                outcome = measure(ways[name].order(count, scale))
                if outcome.errors:
                    raise RuntimeError(f"{name}: {outcome.errors} failed requests, the first: {outcome.first_error}")
                found[name, count].append(outcome)
    return found


def _rows(rounds: Rounds) -> list[tuple[str, ...]]:
    found = []
    for (way, count), outcomes in sorted(rounds.items(), key=lambda item: (item[0][1], WAYS.index(item[0][0]))):
        added = [1000 * ms for ms in _added_ms(rounds, way, count)]
        found.append(
            (
                {"direct": "worker's socket", "unsigned": "proxy, --no-auth", "signed": "proxy, SigV4"}[way],
                str(count),
                spread(o.requests_per_s for o in outcomes),
                spread((o.p50_ms for o in outcomes), 3),
                spread((o.p99_ms for o in outcomes), 3),
                "" if way == "direct" else spread(added),
                "" if way == "direct" else spread((o.cpu_us["proxy"] for o in outcomes), 1),
                spread((o.cpu_us["worker"] for o in outcomes), 1),
            )
        )
    return found


def _added_ms(rounds: Rounds, way: str, count: int) -> list[float]:
    """Round by round, how much later the median answer comes than the worker's own."""
    return [one.p50_ms - bare.p50_ms for one, bare in zip(rounds[way, count], rounds["direct", count], strict=True)]


def _notes(together: Rounds, apart: Rounds) -> list[str]:
    notes = ["Echo script, 11 bytes, proxy and worker share one core; the load generator has another."]
    for way in ("unsigned", "signed"):
        added = statistics.median(_added_ms(together, way, 1))
        notes.append(f"Added p50 at one connection, {way}: {verdict(added, ADDED_P50_MS[way], True, 'ms')}.")
    for way in ("unsigned", "signed"):
        alone = 1e6 / statistics.median(o.cpu_us["proxy"] for o in together[way, 32])
        told = verdict(alone, PROXY_PER_S[way], False, "requests/s")
        notes.append(f"The proxy alone on one core, {way}, as 1e6 / its CPU us per request at 32 connections: {told}.")
    for way in ("unsigned", "signed"):
        both = statistics.median(o.requests_per_s for o in together[way, 32])
        told = verdict(both, TOGETHER_PER_S[way], False, "requests/s")
        notes.append(f"Proxy and worker together on one core, {way}, 32 connections: {told}.")
    for way in ("unsigned", "signed"):
        outcomes = apart[way, 32]
        busy = statistics.median(o.cpu_us["proxy"] * o.requests_per_s / 1e6 for o in outcomes)
        notes.append(
            f"Measured with the proxy on a core of its own (worker and load generator share the other), {way}, "
            f"32 connections: {spread(o.requests_per_s for o in outcomes)} requests/s with the proxy's core "
            f"{busy:.0%} busy, {spread((o.cpu_us['proxy'] for o in outcomes), 1)} us of it a request."
        )
    return notes
