"""A store in one file on a disk of this machine, by SQLite: all models of one server, one transaction per group of errands.

A commit is on the disk when it returns (WAL, `synchronous=FULL`). Locks are the ordinary ones, so that `sqlite3 FILE .backup`
works while the server serves. A second server is refused by a lock on `FILE.lock`, which the kernel lets go of however the
process ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import itertools
import json
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stepstream_server.engine.ports import Browse, Create, End, Ending, FindOverdue, Write
from stepstream_server.store.port import Added, Errand, Kept, Result, Row, Space, StoreError, carry_out

SCHEMA = 1  # PRAGMA user_version: of the tables; records have a format number of their own
APPLICATION = 0x53745374  # PRAGMA application_id, "StSt": whose file it is, as `file` and other programs see it

# Another program that holds the file's lock is waited for so long, since reads and other engines wait too: writes are tried again
# by who asks for them, a tenth of a second later and on.
_BUSY_SECONDS = 0.1
_WAL_BYTES = 1 << 26  # to which the log shrinks after a burst: 64 MiB, so that it does not keep the disk that it once needed
_FORGOTTEN_AT_ONCE = 64  # with every group that writes: as many as it usually adds, so that the past does not heap up

_TABLES = """
CREATE TABLE records (
    model TEXT NOT NULL, version INTEGER NOT NULL, key TEXT NOT NULL,
    due REAL NOT NULL, head BLOB NOT NULL, record BLOB NOT NULL,
    PRIMARY KEY (model, version, key));
CREATE INDEX records_by_due ON records (model, version, due);
CREATE TABLE endings (
    model TEXT NOT NULL, version INTEGER NOT NULL, key TEXT NOT NULL, ending INTEGER NOT NULL, until REAL NOT NULL,
    PRIMARY KEY (model, version, key));
CREATE INDEX endings_by_until ON endings (until);
CREATE TABLE requests (
    model TEXT NOT NULL, version INTEGER NOT NULL, id TEXT NOT NULL, what BLOB NOT NULL, keys TEXT NOT NULL, until REAL NOT NULL,
    PRIMARY KEY (model, version, id));
CREATE INDEX requests_by_until ON requests (until);
"""
_IS = "model = ? AND version = ?"

# Rows are written by statements of as many as a power of two. Python lets other threads run at every statement, and where they
# are busy it has the interpreter back 5 ms later: with a statement for each row, a busy server would write 200 rows a second.
_ROWS_AT_ONCE = 256


@functools.cache
def _put(count: int) -> str:
    """The statement that writes so many rows."""
    columns = len(Row._fields)
    values = (f"(?1, ?2, {', '.join(f'?{3 + columns * row + column}' for column in range(columns))})" for row in range(count))
    return (
        f"INSERT INTO records VALUES {', '.join(values)} ON CONFLICT DO UPDATE "
        "SET due = excluded.due, head = excluded.head, record = excluded.record"
    )


class SqliteStore:
    """Records in a file."""

    outlives = True

    def __init__(self, path: Path) -> None:
        self.name = f"sqlite:{path}"
        self._path = path
        self._lock = -1  # descriptor of FILE.lock
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> None:
        try:
            self._lock_file()
            self._connection = self._connect()
        except (OSError, sqlite3.Error) as error:
            await self.close()
            raise StoreError(f"store {self.name}: it cannot be opened: {error}") from error
        except StoreError:
            await self.close()
            raise

    async def close(self) -> None:
        self._disconnect()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    async def carry_out(self, errands: Sequence[Errand], now: float) -> Sequence[Result]:
        writes = any(isinstance(errand.task, Create | Write | End) for errand in errands)
        try:
            if self._connection is None:
                self._connection = self._connect()
            self._connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
            results = [carry_out(self, errand, now) for errand in errands]
            if writes:
                self._forget(now)
            self._connection.execute("COMMIT")
        except BaseException as error:
            self._undo(error)
            raise
        return results

    # Shelf -----------------------------------------------------------------------------------------------------------

    def read(self, space: Space, keys: Sequence[str], now: float) -> list[Kept]:
        return [self._kept(space, key, now) for key in keys]

    def _kept(self, space: Space, key: str, now: float) -> Kept:
        for (record,) in self._run(f"SELECT record FROM records WHERE {_IS} AND key = ?", *space, key):
            return bytes(record)
        for (ending,) in self._run(f"SELECT ending FROM endings WHERE {_IS} AND key = ? AND until > ?", *space, key, now):
            return Ending(ending)
        return None

    def add(self, space: Space, rows: Sequence[Row], task: Create, now: float) -> Added:
        request = task.request
        if request is not None:
            made = self._run(
                f"SELECT what, until, keys FROM requests WHERE {_IS} AND id = ? AND until > ?", *space, request.id, now
            )
            for what, until, keys in made:
                return Added(before=(what, until, [(key, self._kept(space, key, now)) for key in json.loads(keys)]))
        taken = [row.key for row in rows if self._run(f"SELECT 1 FROM records WHERE {_IS} AND key = ?", *space, row.key)]
        if taken:
            return Added(taken)
        self.put(space, rows)
        if request is not None and rows:
            keys = json.dumps([row.key for row in rows])
            values = (*space, request.id, request.what, keys, request.until)
            self._run("INSERT OR REPLACE INTO requests VALUES (?, ?, ?, ?, ?, ?)", *values)
        return Added()

    def put(self, space: Space, rows: Sequence[Row]) -> None:
        start = 0
        while start < len(rows):
            count = min(_ROWS_AT_ONCE, 1 << (len(rows) - start).bit_length() - 1)
            values = itertools.chain.from_iterable(rows[start : start + count])
            self._open_connection.execute(_put(count), (*space, *values))
            start += count

    def remove(self, space: Space, task: End) -> None:
        keys = [(*space, key) for key in task.keys]
        self._open_connection.executemany(f"DELETE FROM records WHERE {_IS} AND key = ?", keys)
        endings = [(*key, int(task.ending), task.until) for key in keys]
        self._open_connection.executemany("INSERT OR REPLACE INTO endings VALUES (?, ?, ?, ?, ?)", endings)

    def overdue(self, space: Space, task: FindOverdue) -> list[str]:
        query = f"SELECT key FROM records WHERE {_IS} AND due < ? ORDER BY due LIMIT ?"
        return [key for (key,) in self._run(query, *space, task.now, task.most)]

    def page(self, space: Space, task: Browse) -> list[tuple[str, bytes]]:
        mine, bounds = "instr(key, '/') = 0", [task.after]
        if task.tenant:  # its keys lie between these two, since 0 follows /
            mine, bounds = "key < ?", [max(task.after, f"{task.tenant}/"), f"{task.tenant}0"]
        query = f"SELECT key, head FROM records WHERE {_IS} AND key > ? AND {mine} ORDER BY key LIMIT ?"
        return self._run(query, *space, *bounds, task.most)

    def _forget(self, now: float) -> None:
        """Forgets some of what need not be remembered any more."""
        for table in ("endings", "requests"):
            past = f"SELECT rowid FROM {table} WHERE until <= ? LIMIT ?"
            self._run(f"DELETE FROM {table} WHERE rowid IN ({past})", now, _FORGOTTEN_AT_ONCE)

    # The file --------------------------------------------------------------------------------------------------------

    @property
    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise sqlite3.OperationalError("not connected")
        return self._connection

    def _run(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        return self._open_connection.execute(statement, values).fetchall()

    def _lock_file(self) -> None:
        """Takes the lock that says whose the file is, for life. Raises StoreError if another server has it."""
        path = f"{self._path}.lock"
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._lock, 32, 0).decode(errors="replace").strip()
            message = f"store {self.name}: expected a file of its own, but process {owner} keeps sessions in it and holds {path}"
            raise StoreError(message) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def _connect(self) -> sqlite3.Connection:
        """A connection to the file, which is made if it is not there, for its owner alone. Raises sqlite3.Error, StoreError and
        OSError."""
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))  # what SQLite puts beside it has its mode
        connection = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Sees that the file is one of ours, and has its tables."""
        fresh = not connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
        if not fresh:
            self._expect(connection, "application_id", APPLICATION, "that is what stores have")
            self._expect(connection, "user_version", SCHEMA, "another version of StepStream has made it")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
        ((mode,),) = connection.execute("PRAGMA journal_mode = WAL").fetchall()
        if mode != "wal":
            raise StoreError(f"store {self.name}: expected a disk that can have a write-ahead log, got journal_mode {mode}")
        if fresh:
            numbers = f"PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {SCHEMA};"
            connection.executescript(f"BEGIN IMMEDIATE; {_TABLES} {numbers} COMMIT;")

    def _expect(self, connection: sqlite3.Connection, name: str, value: int, why: str) -> None:
        ((found,),) = connection.execute(f"PRAGMA {name}").fetchall()
        if found != value:
            raise StoreError(f"store {self.name}: {name}: expected {value}, got {found}: {why}")

    def _undo(self, error: BaseException) -> None:
        """Leaves nothing half done, and a connection that can be used: after anything but a full disk or a lock, a new one."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        try:
            if self._connection is not None and self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            code = 0
        if code not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL):
            self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()
