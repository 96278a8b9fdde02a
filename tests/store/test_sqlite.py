"""A store in a file: whose it is, what becomes of it when the disk or somebody else is in the way, and when its process dies."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from stepstream_server.engine.ports import Find, NotDone, Request, StoreDone, Write, Written
from stepstream_server.errors import Reason
from stepstream_server.store import StoreError, StoreThread, open_store
from stepstream_server.store.port import Errand, Result, Row, Space
from stepstream_server.store.sqlite import APPLICATION, SCHEMA, SqliteStore
from support.backend import counter_spec
from support.clock import FakeClock
from support.store_writer import KEYS
from support.storing import PATIENCE, Customer, check_same, group

_TESTS = Path(__file__).parents[1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Says where the store is."""
    return tmp_path / "sessions.db"


@pytest.fixture
def store(path: Path) -> Iterator[StoreThread]:
    """A store in the file."""
    opened = open_store(f"sqlite:{path}")
    yield opened
    opened.close()


def started(archive: SqliteStore) -> StoreThread:
    """A thread that serves."""
    store = StoreThread(archive)
    store.start()
    return store


# Whose file it is ------------------------------------------------------------------------------------------------------


def test_a_second_server_is_refused_until_the_first_has_ended(store: StoreThread, path: Path) -> None:
    """The message says who has the file."""
    with pytest.raises(StoreError, match=f"process {os.getpid()} keeps sessions in it and holds {path}.lock"):
        open_store(f"sqlite:{path}")
    assert isinstance(Customer(store).write(group(["a"])), Written)
    store.close()
    successor = open_store(f"sqlite:{path}")
    check_same(Customer(successor).find("a")[0], group(["a"]))
    successor.close()


def test_nobody_else_may_read_the_files(store: StoreThread, path: Path) -> None:
    """Whatever the process's umask: there are states in them, as in the server's memory."""
    Customer(store).write(group(["a"]))
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    assert modes == dict.fromkeys(["sessions.db", "sessions.db-wal", "sessions.db-shm", "sessions.db.lock"], 0o600)


def test_a_file_of_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    """It is refused also by who would only read it."""
    open_store(f"sqlite:{path}").close()
    with sqlite3.connect(path) as other:
        other.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    other.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=f"user_version: expected {SCHEMA}, got {SCHEMA + 1}"):
        open_store(f"sqlite:{path}")
    assert path.read_bytes() == before


def test_a_database_of_another_program_is_refused(path: Path) -> None:
    """It has tables, and they are not a store's."""
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE theirs (x)")
    other.close()
    with pytest.raises(StoreError, match=f"application_id: expected {APPLICATION}, got 0"):
        open_store(f"sqlite:{path}")


@pytest.mark.parametrize("place", ["no database", "a folder", "missing/sessions.db"])
def test_what_is_no_file_of_a_store_is_refused(tmp_path: Path, place: str) -> None:
    """Nothing stays open: the same place can be used once it is put right."""
    (tmp_path / "no database").write_bytes(b"words" * 1000)
    (tmp_path / "a folder").mkdir()
    with pytest.raises(StoreError, match=f"store sqlite:{tmp_path / place}: it cannot be opened: "):
        open_store(f"sqlite:{tmp_path / place}")
    shutil.rmtree(tmp_path)
    (tmp_path / place).parent.mkdir(parents=True)
    open_store(f"sqlite:{tmp_path / place}").close()


@pytest.mark.parametrize("url", ["", "sqlite:", "redis://127.0.0.1", "memory:more"])
def test_other_urls_are_refused(url: str) -> None:
    """The message says which there are."""
    with pytest.raises(StoreError, match="store.url: expected memory: or sqlite:FILE, got "):
        open_store(url)


def test_records_outlive_the_server_where_there_is_a_file(store: StoreThread) -> None:
    """The drain of a server tells its clients so."""
    assert store.outlives
    memory = open_store("memory:")
    assert not memory.outlives
    memory.close()


def test_a_backup_is_taken_while_the_server_serves(store: StoreThread, path: Path, tmp_path: Path) -> None:
    """By SQLite's own means, from another process's connection."""
    customer = Customer(store)
    customer.write(group(["a"]))
    with sqlite3.connect(path) as reader, sqlite3.connect(tmp_path / "copy.db") as copy:
        reader.backup(copy)
    reader.close()
    copy.close()
    assert isinstance(customer.write(group(["b"])), Written)
    restored = open_store(f"sqlite:{tmp_path / 'copy.db'}")
    check_same(Customer(restored).find("a")[0], group(["a"]))
    restored.close()


# Trouble ---------------------------------------------------------------------------------------------------------------


def check_not_done(outcome: object, path: Path, problem: str) -> None:
    """Asserts that a task was refused in the database's own words."""
    assert isinstance(outcome, NotDone)
    assert outcome.error.reason == Reason.STORE_UNAVAILABLE
    assert outcome.error.message == f"store sqlite:{path}: writing sessions failed: {problem}"
    assert outcome.error.retry_delay_seconds > 0


def test_while_another_holds_the_file_nothing_is_written_and_reads_go_on(store: StoreThread, path: Path) -> None:
    """Once it lets go, the next write is done; the log is told of the change, and once."""
    customer = Customer(store)
    customer.write(group(["a"]))
    with capture_logs() as logged:
        with holding(path):
            for _ in range(2):
                check_not_done(customer.write(group(["a"], seed=1)), path, "database is locked")
                check_same(customer.find("a")[0], group(["a"]))
        for _ in range(2):
            assert isinstance(customer.write(group(["a"], seed=2)), Written)
    check_same(customer.find("a")[0], group(["a"], seed=2))
    assert [(entry["event"], entry["operation"]) for entry in logged] == [
        ("store_failing", "writing"),
        ("store_recovered", "writing"),
    ]
    assert logged[0]["error"] == "database is locked"


class Held(SqliteStore):
    """A disk that is slow: groups wait until the test lets them go. Counts them."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.entered, self.released = threading.Semaphore(0), threading.Semaphore(0)
        self.sizes: list[int] = []  # tasks of each group

    async def carry_out(self, errands: Sequence[Errand], now: float) -> Sequence[Result]:
        self.sizes.append(len(errands))
        self.entered.release()
        self.released.acquire()
        return await super().carry_out(errands, now)


def test_a_slow_disk_makes_groups_larger_and_keeps_nobody(path: Path) -> None:
    """Tasks that come meanwhile are written at once afterwards, and each engine is told once."""
    archive = Held(path)
    store = started(archive)
    one, other = Customer(store), Customer(store, counter_spec("other"))
    one.submit(lambda number: Write(number, group(["a"])))
    archive.entered.acquire()
    for place in range(50):
        for customer in (one, other):
            customer.submit(lambda number, place=place: Write(number, group(["a"], next_seq=place + 10)))  # type: ignore[misc]
    assert one.told.empty()
    archive.released.release(2)
    assert len(one.told.get(timeout=PATIENCE).outcomes) == 1
    for customer in (one, other):
        assert [type(each) for each in customer.told.get(timeout=PATIENCE).outcomes] == [Written] * 50
    archive.released.release()
    check_same(one.find("a")[0], group(["a"], next_seq=59))
    assert archive.sizes == [1, 100, 1]
    store.close()


def test_reads_of_a_group_that_cannot_be_written_are_answered(path: Path) -> None:
    """They were asked for at once with a write, of another engine's even."""
    archive = Held(path)
    store = started(archive)
    one, other = Customer(store), Customer(store, counter_spec("other"))
    archive.released.release()
    one.write(group(["a"]))
    archive.entered.acquire()
    other.submit(lambda number: Find(number, ["x"]))
    archive.entered.acquire()
    with holding(path):
        one.submit(lambda number: Write(number, group(["a"], seed=1)))
        one.submit(lambda number: Find(number, ["a"]))
        other.submit(lambda number: Find(number, ["y"]))
        archive.released.release(10)
        written, found = one.outcomes(2)
    check_not_done(written, path, "database is locked")
    check_same(found.sessions[0], group(["a"]))  # type: ignore[union-attr]  # a Found
    assert [list(each.sessions) for each in other.outcomes(2)] == [[None], [None]]  # type: ignore[union-attr]  # likewise
    store.close()


class Faulty(SqliteStore):
    """A disk that fails once everything of a group has been written, a few times."""

    failures = 2

    def put(self, space: Space, rows: Sequence[Row]) -> None:
        super().put(space, rows)
        if self.failures:
            self.failures -= 1
            raise sqlite3.OperationalError("disk I/O error")


def test_after_an_error_of_the_disk_there_is_nothing_half_done_and_a_new_connection(path: Path) -> None:
    """Tasks that stood in the group before the failure are not done either."""
    store = started(Faulty(path))
    customer = Customer(store)
    for _ in range(2):
        check_not_done(customer.write(group(["a"])), path, "disk I/O error")
        assert customer.find("a") == [None]
    assert isinstance(customer.write(group(["a"])), Written)
    store.close()


def test_an_engine_that_cannot_be_told_does_not_stop_the_store(store: StoreThread) -> None:
    """Its loop may be closed already."""

    def refuse(done: StoreDone) -> None:
        raise RuntimeError("Event loop is closed")

    store.counter(counter_spec("gone"), "n", refuse).submit(Write(0, group(["a"])))
    assert isinstance(Customer(store).write(group(["a"])), Written)


def test_what_need_not_be_remembered_is_removed_a_little_at_a_time(path: Path) -> None:
    """With every group that writes."""
    clock = FakeClock(1e9)
    store = StoreThread(SqliteStore(path), clock)
    store.start()
    customer = Customer(store)
    customer.end(*(f"s{number}" for number in range(150)), until=clock() + 10)
    customer.create(group(["a"]), Request("r", b"what", clock() + 10))
    customer.end("kept")
    assert _count(path, "endings") == 151
    clock.advance(10)
    for left in (87, 23, 1):
        customer.write(group(["a"]))
        assert _count(path, "endings") == left
    assert _count(path, "requests") == 0
    store.close()


def _count(path: Path, table: str) -> int:
    with holding(path, "BEGIN") as reader:
        ((count,),) = reader.execute(f"SELECT count(*) FROM {table}").fetchall()
    return int(count)


@contextlib.contextmanager
def holding(path: Path, begin: str = "BEGIN IMMEDIATE") -> Iterator[sqlite3.Connection]:
    """Somebody else with a transaction on the file."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute(begin)
        yield other
        other.execute("ROLLBACK")


def test_everything_that_was_told_as_written_is_there_after_a_sigkill(path: Path) -> None:
    """The process dies in the middle of a write; its lock is gone with it."""
    command = [sys.executable, "-m", "support.store_writer", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=_TESTS) as child:
        assert child.stdout is not None
        told = [int(child.stdout.readline()) for _ in range(40)]
        child.kill()
        told += map(int, child.stdout.read().split())
    store = open_store(f"sqlite:{path}")
    for place, record in enumerate(Customer(store).find(*KEYS)):
        assert told[-1] <= record.snapshot.next_seq <= told[-1] + 1
        check_same(record, group(KEYS, next_seq=record.snapshot.next_seq), place)
    store.close()


def test_a_full_disk_loses_nothing_that_was_told_and_recovers_without_a_restart(tmp_path: Path) -> None:
    """On a small disk of its own, which the child fills and empties again."""
    private = ["unshare", "--mount", *(["--map-root-user"] if os.getuid() else [])]
    mount = f"mount -t tmpfs -o size=1m tmpfs {tmp_path}"
    if shutil.which("unshare") is None or subprocess.run([*private, "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("no private mount namespace with a tmpfs is to be had here")
    command = [sys.executable, "-m", "support.full_disk", str(tmp_path)]
    inside = [*private, "sh", "-c", f'{mount} && exec "$@"', "sh", *command]
    ended = subprocess.run(inside, capture_output=True, text=True, cwd=_TESTS)
    assert ended.returncode == 0, ended.stderr
    events = [word for word in ended.stdout.split() if word.startswith("store_") or word in ("read", "refused")]
    assert events == ["store_failing", "refused", "read", "store_recovered"]
