"""What survives: restarts, kill -9 at every step, damage, readers and writers at once, other processes, migrations."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from clary.domain.errors import Corrupt, InUse, PreconditionFailed, StoreFailed, Unsupported
from clary.store import migrate
from clary.store.blobs import Blobs, Durability
from clary.store.index_writer import IndexWriter, open_engine
from clary.store.object_info import CompletedPart, ObjectMetadata
from clary.store.object_schema import SCHEMA, SCHEMA_VERSION
from clary.store.objects import ObjectStore

PLAIN = ObjectMetadata()


def put(store: ObjectStore, key: str, body: bytes) -> None:
    with store.begin_put("b-1", key, metadata=PLAIN) as session:
        session.write(body)
        session.commit()


def read(store: ObjectStore, key: str) -> bytes:
    with store.open("b-1", key) as reader:
        return reader.read()


def blob_files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "objects" / "blobs").rglob("*") if path.is_file()]


def test_everything_is_there_after_a_restart(store: ObjectStore, open_store: object, tmp_path: Path) -> None:
    put(store, "k", b"one")
    upload = store.create_upload("b-1", "m", metadata=PLAIN)
    with store.begin_part("b-1", "m", upload.upload_id, 1) as session:
        session.write(b"part")
        part = session.commit()
    store.close()
    again = open_store()  # type: ignore[operator]
    assert read(again, "k") == b"one"
    again.complete("b-1", "m", upload.upload_id, [CompletedPart(1, part.etag)])
    assert read(again, "m") == b"part"
    again.verify("b-1", "m")


def test_a_second_opener_is_refused(store: ObjectStore, open_store: object) -> None:
    with pytest.raises(InUse, match="another process"):
        open_store()  # type: ignore[operator]


def test_a_start_removes_half_written_and_nameless_files(
    store: ObjectStore, open_store: object, tmp_path: Path
) -> None:
    put(store, "k", b"kept")
    [kept] = blob_files(tmp_path)
    store.close()
    root = tmp_path / "objects"
    (root / "tmp" / "half").write_bytes(b"x")
    orphan = kept.with_name(kept.parent.name + "0" * 30)
    orphan.write_bytes(b"renamed, never committed")
    with sqlite3.connect(root / "objects.db") as connection:
        connection.execute("INSERT INTO doomed VALUES ('00000001-" + "1" * 32 + "')")
    again = open_store()  # type: ignore[operator]
    assert blob_files(tmp_path) == [kept]
    assert list((root / "tmp").iterdir()) == []
    assert read(again, "k") == b"kept"


CHILD = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from clary.store.objects import ObjectStore
from clary.store.object_info import ObjectMetadata
store = ObjectStore(Path(sys.argv[1]), now=lambda: datetime.now(UTC))
store.create_bucket("b-1", "us-east-1")
number = 0
while True:
    number += 1
    with store.begin_put("b-1", f"k{number % 7}", metadata=ObjectMetadata(user={"n": str(number)})) as session:
        session.write(str(number).encode() * 500)
        session.commit()
    print(number, flush=True)
"""


def test_kill_9_loses_nothing_acknowledged_and_tears_nothing(tmp_path: Path, open_store: object) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path / "objects")], stdout=subprocess.PIPE)
    assert child.stdout is not None
    lines = [child.stdout.readline() for _ in range(40)]
    os.kill(child.pid, signal.SIGKILL)
    lines += child.stdout.readlines()
    child.wait()
    child.stdout.close()
    acknowledged = max(int(line) for line in lines if line.endswith(b"\n"))
    store = open_store()  # type: ignore[operator]
    keys = [one.key for one in store.list_objects("b-1").objects]
    assert len(keys) == 7
    newest = 0
    for key in keys:
        number = int(store.head("b-1", key).metadata.user["n"])
        assert read(store, key) == str(number).encode() * 500
        store.verify("b-1", key)
        newest = max(newest, number)
    assert newest in (acknowledged, acknowledged + 1)
    assert len(blob_files(tmp_path)) == 7


def test_damage_is_told_before_the_first_byte_and_by_the_scrub(store: ObjectStore, tmp_path: Path) -> None:
    put(store, "k", b"0123456789")
    [path] = blob_files(tmp_path)
    path.write_bytes(b"012345678X")
    assert read(store, "k") == b"012345678X"
    with pytest.raises(Corrupt, match="MD5"):
        store.verify("b-1", "k")
    path.write_bytes(b"0123")
    with pytest.raises(Corrupt, match="4 of 10 bytes"):
        store.open("b-1", "k")
    path.unlink()
    with pytest.raises(Corrupt, match="missing"):
        store.open("b-1", "k")


def test_a_file_cut_while_it_is_read_never_looks_whole(store: ObjectStore, tmp_path: Path) -> None:
    put(store, "k", b"0123456789")
    with store.open("b-1", "k") as reader:
        blob_files(tmp_path)[0].write_bytes(b"0123")
        with pytest.raises(Corrupt, match="early"):
            reader.read()


def test_readers_see_whole_versions_while_writers_replace_them(store: ObjectStore, tmp_path: Path) -> None:
    stop = threading.Event()
    put(store, "k", b"0" * 5000)

    def write(start: int) -> None:
        for number in range(start, start + 40):
            put(store, "k", str(number % 10).encode() * 5000)

    def watch() -> int:
        seen = 0
        while not stop.is_set():
            body = read(store, "k")
            assert len(body) == 5000
            assert len(set(body)) == 1
            seen += 1
        return seen

    with ThreadPoolExecutor(5) as pool:
        watchers = [pool.submit(watch) for _ in range(2)]
        for future in [pool.submit(write, start) for start in (1, 2, 3)]:
            future.result()
        stop.set()
        assert all(watcher.result() > 0 for watcher in watchers)
    assert len(blob_files(tmp_path)) == 1


def test_only_one_of_many_creators_of_a_key_wins(store: ObjectStore) -> None:
    def create(number: int) -> bool:
        session = store.begin_put("b-1", "once", metadata=PLAIN)
        session.write(str(number).encode())
        try:
            session.commit(if_none_match="*")
        except PreconditionFailed:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(create, range(16))) == 1


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path, session=1, durability=Durability.FULL)
    blobs.clear_temps()
    temp = blobs.start()
    os.close(temp._fd)  # type: ignore[arg-type]
    full = os.open("/dev/full", os.O_WRONLY)
    temp._fd = full
    with pytest.raises(StoreFailed, match="No space"):
        temp.write(b"x")
    temp.discard()
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("blob_id", ["", "../../x", "00000001-" + "g" * 32, "00000001-../" + "0" * 29])
def test_only_our_own_ids_become_paths(tmp_path: Path, blob_id: str) -> None:
    with pytest.raises(ValueError, match="not a blob id"):
        Blobs(tmp_path, session=1, durability=Durability.FULL).path(blob_id)


def test_a_job_that_fails_undoes_itself_alone_and_a_closed_writer_says_so(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "x.db", durability=Durability.FULL, readers=0)
    writer = IndexWriter(engine, name="test")
    writer.submit(lambda connection: connection.exec_driver_sql("CREATE TABLE t (n INTEGER PRIMARY KEY)").close())

    def add(number: int) -> None:
        def job(connection: object) -> None:
            connection.exec_driver_sql("INSERT INTO t VALUES (?)", (number,))  # type: ignore[attr-defined]
            if number % 3 == 0:
                raise ValueError(number)

        writer.submit(job)

    with ThreadPoolExecutor(8) as pool:
        outcomes = [future.exception() for future in [pool.submit(add, number) for number in range(30)]]
    assert [number for number, error in enumerate(outcomes) if error] == list(range(0, 30, 3))
    count = writer.submit(lambda connection: connection.exec_driver_sql("SELECT count(*) FROM t").scalar_one())
    assert count == 20
    writer.close()
    with pytest.raises(StoreFailed, match="closed"):
        add(1)
    engine.dispose()


def test_the_migrations_make_exactly_the_tables_of_the_code(store: ObjectStore, tmp_path: Path) -> None:
    store.close()
    engine = open_engine(tmp_path / "objects" / "objects.db", durability=Durability.FULL, readers=1)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA user_version").scalar_one() == SCHEMA_VERSION
        differences = compare_metadata(MigrationContext.configure(connection), SCHEMA)
    engine.dispose()
    assert [one for one in differences if "alembic_version" not in repr(one)] == []


def test_a_folder_of_a_newer_clary_is_refused_and_left_alone(
    store: ObjectStore, open_store: object, tmp_path: Path
) -> None:
    store.close()
    with sqlite3.connect(tmp_path / "objects" / "objects.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(Unsupported, match="schema 99"):
        open_store()  # type: ignore[operator]


def test_a_damaged_index_is_told_and_not_repaired(store: ObjectStore, open_store: object, tmp_path: Path) -> None:
    for number in range(60):
        put(store, f"key-{number:03d}" + "x" * 200, b"")
    store.close()
    file = tmp_path / "objects" / "objects.db"
    whole = file.read_bytes()
    file.write_bytes(whole[:8192] + b"\xff" * 4096 * 8 + whole[8192 + 4096 * 8 :])
    with pytest.raises(Corrupt, match="restore"):
        open_store()  # type: ignore[operator]
    file.write_bytes(whole)
    assert len(open_store().list_objects("b-1").objects) == 60  # type: ignore[operator]


def test_an_up_to_date_store_opens_without_alembic(store: ObjectStore, tmp_path: Path) -> None:
    store.close()
    code = (
        "import sys; from datetime import UTC, datetime; from pathlib import Path\n"
        "from clary.store.objects import ObjectStore\n"
        f"ObjectStore(Path({str(tmp_path / 'objects')!r}), now=lambda: datetime.now(UTC)).close()\n"
        "sys.exit('alembic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_five_copies_are_kept_and_are_whole(store: ObjectStore, tmp_path: Path) -> None:
    put(store, "k", b"x")
    file = tmp_path / "objects" / "objects.db"
    for minute in range(7):
        newest = migrate.keep_copy(file, datetime(2026, 1, 1, 0, minute, tzinfo=UTC))
    assert len(list(file.parent.glob("*.copy"))) == 5
    with sqlite3.connect(newest) as connection:
        assert connection.execute("SELECT count(*) FROM object").fetchone() == (1,)
