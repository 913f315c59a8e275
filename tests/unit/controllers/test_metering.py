"""Raw usage to ledger and samples: exact, whatever happens between."""

from __future__ import annotations

import asyncio
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import metering_world
import pytest
from metering_world import LABELS, PRICES, SECOND_NS, START_NS, World, open_database

from clary.controllers import metering as metering_module
from clary.controllers.metering import Metering
from clary.controllers.reconciliation import reconcile
from clary.domain.errors import StoreFailed
from clary.domain.fleet_name import parse_fleet_name
from clary.domain.ledger import HOUR_MS, HOUR_NS
from clary.domain.metrics import Metric
from clary.domain.names import Place
from clary.paths import Layout
from clary.store.database import Database
from clary.store.ledger import By, Ledger, entries
from clary.store.series import read

BIG, BIG_2, SMALL, FIRST, SECOND = LABELS
M5_RATE = PRICES.instances["ml.m5.large"].nanousd_per_hour

JOB = "us-east-1/transform-job:nightly/:transform/9"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "data")
    yield made
    made.journal.close()


@pytest.fixture
def database(world: World) -> Iterator[Database]:
    opened = open_database(world.layout)
    yield opened
    opened.close()


async def drain(metering: Metering) -> None:
    more = True
    while more:
        _, more = await metering.look()


async def test_an_hour_of_an_instance_costs_its_list_price(world: World, database: Database) -> None:
    worker = world.start(BIG)
    world.pass_time(HOUR_NS)
    world.stop(worker)
    await drain(world.metering(database))
    (found,) = await Ledger(database).sums("endpoint")
    assert (found.endpoint, found.quantity, found.nanousd) == ("big", HOUR_NS, M5_RATE)
    assert found.instance_type == "ml.m5.large"
    assert "AWS list prices" in found.price_source
    assert reconcile(world.layout, database).exact


async def test_containers_of_one_instance_are_charged_once(world: World, database: Database) -> None:
    """The first lives for 100 s, the second from 50 s on for 150 s; the second instance has only one for 10 s."""
    first, other = world.start(FIRST), world.start(SECOND, instance=1)
    world.pass_time(10 * SECOND_NS)
    world.stop(other)
    world.pass_time(40 * SECOND_NS)
    metering = world.metering(database)
    await drain(metering)  # where looks fall changes nothing
    second = world.start(SECOND)
    world.pass_time(50 * SECOND_NS)
    world.stop(first)
    await drain(metering)
    world.pass_time(100 * SECOND_NS)
    world.stop(second)
    await drain(metering)
    (found,) = await Ledger(database).sums("variant")
    assert (found.endpoint, found.variant, found.quantity) == ("many", "v", 210 * SECOND_NS)
    charged = {entry.fleet: None for entry in await database.read(entries)}
    assert list(charged) == ["us-east-1/many/v/4"]
    told = reconcile(world.layout, database)
    assert told.exact
    assert told.unpriced == ()


async def test_a_pipelines_steps_are_its_containers_latency_and_its_requests_the_variants(
    world: World, database: Database
) -> None:
    world.start(FIRST)
    world.start(SECOND)
    for _ in range(3):
        world.meter.slot(FIRST).step(1000)
        world.meter.slot(SECOND).step(4000)
        world.request("us-east-1/many/v/4", model_us=5000)
    await drain(world.metering(database))
    seen = {}
    for name, container in product(("ContainerLatency", "ModelLatency", "Invocations"), ("a", "b", "")):
        dimensions = (("EndpointName", "many"), ("VariantName", "v"))
        own = (("ContainerName", container), *dimensions) if container else dimensions
        unit = "None" if name == "Invocations" else "Microseconds"
        metric = Metric("AWS/SageMaker", name, own, unit)
        place = Place("123456789012", "us-east-1")
        found = database.read_now(lambda c, m=metric, p=place: read(c, p, m, 0, 1 << 40))
        seen[name, container] = sum(sample.total for _, sample in found)
    assert seen == {
        ("ContainerLatency", "a"): 3000,
        ("ContainerLatency", "b"): 12_000,
        ("ContainerLatency", ""): 0,
        ("ModelLatency", "a"): 0,
        ("ModelLatency", "b"): 0,
        ("ModelLatency", ""): 15_000,
        ("Invocations", "a"): 0,
        ("Invocations", "b"): 0,
        ("Invocations", ""): 3,
    }
    assert reconcile(world.layout, database).exact


async def test_processes_of_one_instance_are_charged_once(world: World, database: Database) -> None:
    first, second = world.start(BIG), world.start(BIG)
    world.pass_time(100 * SECOND_NS)
    world.stop(first)
    world.pass_time(100 * SECOND_NS)
    world.stop(second)
    await drain(world.metering(database))
    (found,) = await Ledger(database).sums("variant")
    assert (found.variant, found.quantity) == ("AllTraffic", 200 * SECOND_NS)


async def test_living_workers_are_charged_every_ten_seconds_up_to_the_heartbeat(
    world: World, database: Database
) -> None:
    metering = world.metering(database)
    world.start(BIG)
    await drain(metering)
    seen = []
    for _ in range(25):
        world.pass_time(SECOND_NS)
        wrote, _ = await metering.look()
        seen.append(wrote)
    assert sum(seen) <= 4, "a look without anything due writes nothing"
    (found,) = await Ledger(database).sums()
    assert found.quantity == 21 * SECOND_NS  # at the first look and every ten seconds from there
    world.now_ns += 100 * SECOND_NS  # no heartbeat: nobody knows whether it lives
    await drain(metering)
    (found,) = await Ledger(database).sums()
    assert found.quantity == 25 * SECOND_NS
    assert reconcile(world.layout, database).exact


async def test_a_supervisor_that_died_ends_lives_at_its_last_beat(world: World, database: Database) -> None:
    metering = world.metering(database)
    world.start(BIG)
    world.pass_time(15 * SECOND_NS)
    await drain(metering)
    world.now_ns += HOUR_NS
    world.journal.close()
    world.journal = metering_world.Journal(world.layout.journal, world.heartbeat)
    await drain(metering)
    (found,) = await Ledger(database).sums()
    assert found.quantity == 15 * SECOND_NS
    assert metering.lives == 0
    assert reconcile(world.layout, database).exact


async def test_looks_asked_for_at_once_charge_nothing_twice(world: World, database: Database) -> None:
    worker = world.start(SMALL)
    metering = world.metering(database)
    for _ in range(20):
        for _ in range(7):
            world.request(SMALL, model_us=1500, size=3000)
        await asyncio.gather(*(metering.look() for _ in range(4)))
    world.stop(worker)
    await drain(metering)
    assert reconcile(world.layout, database).exact


async def test_serverless_is_charged_by_the_millisecond_and_the_byte(world: World, database: Database) -> None:
    worker = world.start(SMALL)
    for _ in range(1000):
        world.request(SMALL, model_us=1500, size=3000)
    world.pass_time(HOUR_NS)
    world.stop(worker)
    await drain(world.metering(database))
    sums = {found.meter: (found.quantity, found.nanousd) for found in await Ledger(database).sums()}
    rate = PRICES.serverless_nanousd_per_hour[2048]
    assert sums == {
        "serverless": (2000, rate * 2000 // HOUR_MS),
        "data_in": (3_000_000, PRICES.data_in_nanousd_per_gb * 3_000_000 // 10**9),
        "data_out": (6_000_000, PRICES.data_out_nanousd_per_gb * 6_000_000 // 10**9),
    }


async def test_usage_before_its_label_waits_and_is_not_lost(world: World, database: Database) -> None:
    metering = world.metering(database)
    world.request(SMALL, model_us=1500)
    await drain(metering)
    assert await Ledger(database).sums() == []
    assert reconcile(world.layout, database).unpriced == (SMALL,)
    world.start(SMALL)
    await drain(world.metering(database))
    sums = {found.meter: found.quantity for found in await Ledger(database).sums()}
    assert sums["serverless"] == 2
    result = reconcile(world.layout, database)
    assert result.exact
    assert result.unpriced == ()


async def test_days_are_cut_at_midnight(world: World, database: Database) -> None:
    day_ns = 24 * HOUR_NS
    world.now_ns = (START_NS // day_ns + 1) * day_ns - HOUR_NS // 2
    worker = world.start(BIG)
    world.pass_time(HOUR_NS)
    world.stop(worker)
    await drain(world.metering(database))
    assert [found.quantity for found in await Ledger(database).sums(By.DAY)] == [HOUR_NS // 2, HOUR_NS // 2]


async def test_sums_by_region_and_since(world: World, database: Database) -> None:
    for fleet in (BIG, SMALL):
        world.request(fleet)
        world.stop(world.start(fleet, late_ns=SECOND_NS))
    await drain(world.metering(database))
    ledger = Ledger(database)
    assert {found.region for found in await ledger.sums()} == {"us-east-1", "eu-west-1"}
    assert {found.region for found in await ledger.sums(region="eu-west-1")} == {"eu-west-1"}
    assert await ledger.sums(since_ns=world.now_ns + 1) == []


async def test_steady_charges_make_a_row_longer_instead_of_another(world: World, database: Database) -> None:
    metering = world.metering(database)
    world.now_ns = (START_NS // HOUR_NS + 1) * HOUR_NS
    world.start(BIG)
    for _ in range(120):
        world.pass_time(60 * SECOND_NS)
        await drain(metering)
    assert len(database.read_now(entries)) == 2


async def test_a_quiet_look_writes_nothing(world: World, database: Database) -> None:
    metering = world.metering(database)
    world.stop(world.start(BIG))
    world.request(BIG)
    await drain(metering)
    world.now_ns += HOUR_NS
    assert await metering.look() == (False, False)
    assert await world.metering(database).look() == (True, False), "a new start looks at every slot once"


async def test_looks_at_the_same_time_and_cancelled_ones_count_once(world: World, database: Database) -> None:
    metering = world.metering(database)
    for _ in range(10):
        world.stop(world.start(BIG, late_ns=SECOND_NS))
        world.start(SMALL)
        world.request(SMALL)
        world.pass_time(SECOND_NS)
        looks = [asyncio.create_task(metering.look()) for _ in range(4)]
        await asyncio.sleep(world.random.random() / 100)
        for look in looks[::2]:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)
    await drain(metering)
    result = reconcile(world.layout, database)
    assert result.exact, result.differences
    assert (result.behind_bytes, result.behind_requests) == (0, 0)
    metric = Metric("AWS/SageMaker", "Invocations", (("EndpointName", "small"), ("VariantName", "v")))
    found = database.read_now(lambda c: read(c, Place("123456789012", "eu-west-1"), metric, 0, 1 << 40))
    assert sum(sample.total for _, sample in found) == 10


async def test_a_failed_transaction_is_made_again_whole(world: World, database: Database) -> None:
    metering = world.metering(database)
    world.stop(world.start(BIG, late_ns=SECOND_NS))
    world.request(BIG)
    await drain(metering)
    world.now_ns += 10 * SECOND_NS
    world.stop(world.start(BIG, late_ns=SECOND_NS))
    world.request(BIG)
    with database.engine.connect() as other:
        other.exec_driver_sql("ALTER TABLE ledger RENAME TO elsewhere")
        other.commit()
        with pytest.raises(StoreFailed):
            await metering.look()
        other.exec_driver_sql("ALTER TABLE elsewhere RENAME TO ledger")
        other.commit()
    await drain(metering)
    assert reconcile(world.layout, database).exact


async def test_minutes_get_samples_and_quiet_ones_zeros(world: World, database: Database) -> None:
    metering = world.metering(database)
    world.now_ns = START_NS // (60 * SECOND_NS) * 60 * SECOND_NS
    first_s = world.now_ns // SECOND_NS
    world.start(BIG)
    await drain(metering)
    world.request(BIG, 200)
    world.request(BIG, 404)
    await drain(metering)
    world.request(BIG, 200)
    for _ in range(14):
        world.pass_time(10 * SECOND_NS)
        await drain(metering)
    dimensions = (("EndpointName", "big"), ("VariantName", "AllTraffic"))

    def of(name: str) -> list[tuple[int, float, float]]:
        metric = Metric("AWS/SageMaker", name, dimensions)
        found = database.read_now(lambda c: read(c, Place("123456789012", "us-east-1"), metric, 0, 1 << 40))
        return [(at_s - first_s, sample.count, sample.total) for at_s, sample in found]

    assert of("Invocations") == [(0, 3, 3), (60, 1, 0)]
    assert of("Invocation4XXErrors") == [(0, 3, 1), (60, 1, 0)]
    assert of("ModelLatency") == [(0, 3, 4500)]


@pytest.mark.parametrize(
    ("fleet", "namespace", "dimensions"),
    [
        (BIG, "/aws/sagemaker/Endpoints", (("EndpointName", "big"), ("VariantName", "AllTraffic"))),
        (JOB, "/aws/sagemaker/TransformJobs", (("Host", "nightly/0"),)),
    ],
)
async def test_gauges_of_a_living_process(
    world: World,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    fleet: str,
    namespace: str,
    dimensions: tuple[tuple[str, str], ...],
) -> None:
    monkeypatch.setitem(LABELS, JOB, LABELS[BIG])
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import sys; sys.stdout.write('x'); sys.stdout.flush(); sys.stdin.read()",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert child.stdout is not None
        assert await child.stdout.readexactly(1) == b"x"
        record = {"worker": "w1", "pid": child.pid, "fleet": fleet, "instance": 0, "started_ns": START_NS}
        metering = Metering(world.layout, database, PRICES, "123456789012", lambda: [record], lambda: world.now_ns)
        world.start(fleet)
        await drain(metering)
        world.pass_time(60 * SECOND_NS)
        await drain(metering)
    finally:
        await child.communicate(b"")
    place = Place("123456789012", "us-east-1")
    for name, limit in (("CPUUtilization", 100.0), ("MemoryUtilization", 5.0)):
        metric = Metric(namespace, name, dimensions)
        ((_, sample),) = database.read_now(lambda c, m=metric: read(c, place, m, 0, 1 << 40))
        assert 0 <= sample.total < limit
    assert sample.total > 0


async def test_loaded_models_are_counted_by_instance(world: World, database: Database) -> None:
    records = [
        {"worker": f"w{slot}", "pid": 0, "fleet": BIG, "instance": slot // 2, "started_ns": START_NS}
        for slot in range(4)
    ]
    metering = Metering(
        world.layout,
        database,
        PRICES,
        "123456789012",
        lambda: records,
        lambda: world.now_ns,
        lambda: {"w0": 3, "w1": 4, "w2": 5, "w3": 0, "another": 9},
    )
    world.start(BIG)
    await drain(metering)
    world.pass_time(60 * SECOND_NS)
    await drain(metering)
    name = parse_fleet_name(BIG)
    dimensions = (("EndpointName", name.endpoint), ("VariantName", name.variant))
    metric = Metric("/aws/sagemaker/Endpoints", "LoadedModelCount", dimensions)
    place = Place("123456789012", name.region)
    ((_, sample),) = database.read_now(lambda c: read(c, place, metric, 0, 1 << 40))
    assert (sample.count, sample.total, sample.smallest, sample.largest) == (2, 12.0, 5.0, 7.0)


async def test_lines_lost_to_a_power_cut_do_not_shift_the_reading(world: World, database: Database) -> None:
    world.stop(world.start(BIG, late_ns=SECOND_NS))
    kept = world.layout.journal.stat().st_size
    world.stop(world.start(BIG, late_ns=SECOND_NS // 2))
    await drain(world.metering(database))
    os.truncate(world.layout.journal, kept)  # these lines were charged; other lines take their place
    text = world.layout.journal.read_text()
    world.journal.close()
    world.journal = metering_world.Journal(world.layout.journal, world.heartbeat)
    world.journal._boot = "another"
    world.pass_time(100 * SECOND_NS)
    worker = world.start(BIG)
    world.pass_time(50 * SECOND_NS)
    world.stop(worker)
    assert world.layout.journal.read_text().startswith(text)
    await drain(world.metering(database))
    (found,) = await Ledger(database).sums()
    assert found.quantity == 51 * SECOND_NS


@pytest.mark.parametrize("seed", range(3))
async def test_any_cut_of_any_history_reconciles(tmp_path: Path, seed: int) -> None:
    world = World(tmp_path / "data", seed)
    database = open_database(world.layout)
    metering = world.metering(database)
    for _ in range(120):
        world.step()
        if world.random.random() < 0.4:
            await drain(metering)
        if world.random.random() < 0.1:
            metering = world.metering(database)  # as after a restart
    await drain(metering)
    result = reconcile(world.layout, database)
    assert result.exact, result.differences
    assert (result.behind_bytes, result.behind_requests) == (0, 0)
    assert result.ledger_nanousd > 0
    world.journal.close()
    database.close()


FAILPOINTS = sorted(set(re.findall(r'failpoint\("([^"]+)"\)', Path(metering_module.__file__).read_text())))


def spawn(layout: Layout, failpoint: str = "") -> subprocess.Popen[bytes]:
    environ = {**os.environ, "CLARY_FAILPOINT": failpoint}
    process = subprocess.Popen(
        [sys.executable, metering_world.__file__, str(layout.data)],
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_killed_at_every_failpoint_and_at_random_the_ledger_is_exact(tmp_path: Path) -> None:
    assert len(FAILPOINTS) >= 4
    world = World(tmp_path / "data", seed=42)
    world.beat()
    open_database(world.layout).close()
    chance = random.Random(7)
    for name in [*FAILPOINTS, *[""] * 5]:
        process = spawn(world.layout, name)
        for _ in range(30):
            world.step()
        if name:
            assert process.wait(timeout=30) == -9, f"{name} was never reached"
        else:
            for _ in range(20):
                world.step()
                time.sleep(chance.random() / 100)
            process.kill()
        process.communicate()
        result = reconcile(world.layout)
        assert result.exact, (name, result.differences)
    last = spawn(world.layout)
    last.communicate(timeout=30)
    assert last.returncode == 0
    result = reconcile(world.layout)
    assert result.exact, result.differences
    assert (result.behind_bytes, result.behind_requests) == (0, 0)
    assert result.ledger_nanousd > 0
    world.journal.close()


async def test_workers_on_another_fleets_instance_are_its_time_once(world: World, database: Database) -> None:
    """Copies of two inference components on one instance, one after a supervisor that was killed."""
    metering = world.metering(database)
    host = {"fleet": BIG, "instance": 3}
    fleets = [f"us-east-1/inference-component:c{number}/AllTraffic/{number}" for number in (7, 8)]

    def told(event: str, number: int) -> None:
        fleet = fleets[number]
        world.journal.record(
            event, at_ns=world.now_ns, worker=f"c{number}", fleet=fleet, instance=0, host=host, label=LABELS[BIG]
        )

    told("started", 0)
    world.pass_time(600 * SECOND_NS)
    told("started", 1)
    world.pass_time(600 * SECOND_NS)
    told("exited", 0)
    world.pass_time(600 * SECOND_NS)
    world.beat()
    world.journal.close()
    world.journal = metering_world.Journal(world.layout.journal, world.heartbeat)  # ends the second one on paper
    await drain(metering)
    rows = await database.read(entries)
    assert {(row.fleet, row.instance) for row in rows} == {(BIG, 3)}
    assert sum(row.quantity for row in rows) == 1800 * SECOND_NS
    assert sum(row.nanousd for row in rows) == M5_RATE // 2
    assert reconcile(world.layout, database).exact
