"""Folders of deployments that are gone go; those that are wanted, or too young to tell, stay."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from clary.controllers.gc import GarbageCollector
from clary.domain.endpoint import Container, Deployment, Desired, Observed, Prepared, Variant
from clary.domain.names import Place
from clary.paths import Layout
from clary.store import schema
from clary.store.codec import encode
from clary.store.database import Database
from clary.store.migrate import ensure_schema
from clary.store.resources import Resources


async def test_only_what_no_endpoint_names_is_removed(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.make()
    now = datetime.now(UTC)
    database = Database(f"sqlite:///{layout.database}")
    ensure_schema(database.engine, "control", schema.metadata, needed=schema.SCHEMA, file=layout.database, now=now)
    resources = Resources(database, lambda: now)
    for folder in (layout.models / "kept", layout.models / "old", layout.snapshots / "1-v", layout.snapshots / "2-v"):
        folder.mkdir()
        (folder / "file").write_text("x")
    deployment = Deployment(1, "c", (Variant("v", "m", Container("clary/sklearn")),))
    record = await resources.create("endpoint", Place(), "e", encode(Desired(deployment)))
    prepared = Prepared(
        "python", (), "sklearn", "", str(layout.models / "kept"), cache_dir=str(layout.snapshots / "1-v")
    )
    await resources.report(record.uid, encode(Observed(prepared={"1/v": prepared})))
    assert await GarbageCollector(layout, resources).collect() == 0  # all too young
    assert await GarbageCollector(layout, resources, grace_s=-1).collect() == 2
    assert [p.name for p in layout.models.iterdir()] == ["kept"]
    assert [p.name for p in layout.snapshots.iterdir()] == ["1-v"]
    database.close()


def test_what_a_dead_control_was_unpacking_goes_at_once_and_nothing_else(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.make()
    database = Database(f"sqlite:///{layout.database}")
    resources = Resources(database, lambda: datetime.now(UTC))
    whole, half, joined = layout.models / "a", layout.models / ".b.0a1b.tmp", layout.models / ".b.0a1b.archive"
    for folder in (whole, half):
        folder.mkdir()
        (folder / "file").write_text("x")
    joined.write_text("x")
    collector = GarbageCollector(layout, resources)
    (layout.models / ".c.tmp").mkdir()  # of the new control, which has just begun
    collector.clear()
    assert {place.name for place in layout.models.iterdir()} == {"a", ".c.tmp"}
    database.close()
