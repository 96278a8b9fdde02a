"""The socket that administrators speak to, and what becomes of each connection: one request, one answer, one line of the log."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import structlog

from stepstream_server.admin.office import Office
from stepstream_server.admin.requests import LINE_BYTES, Request, RequestError, parse
from stepstream_server.config import cannot_listen
from stepstream_server.errors import AccessError, StepStreamError

_CONNECTIONS = 8  # at once: administrators are few, and a listing of all sessions keeps engines busy
_SILENT_SECONDS = 10.0  # for which a connection may keep its request to itself, or its answer unread
_CREDENTIALS = struct.Struct("=iII")  # pid, uid, gid, as unix(7) has them

log = structlog.get_logger(__name__)


@asynccontextmanager
async def administered(path: str, office: Office) -> AsyncIterator[None]:
    """Serves administrators at this path until the block ends; empty: nobody is served. Raises OSError for a path that cannot be
    had."""
    if not path:
        yield
        return
    service = Service(office)
    with _listening(Path(path)) as bound:
        server = await asyncio.start_unix_server(service.connected, sock=bound, limit=LINE_BYTES)
        try:
            yield
        finally:
            server.close()
            await service.stop()


@contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    """A socket at this path until the block ends. Raises OSError."""
    with _bind(path) as bound:
        mine = path.stat()
        try:
            yield bound
        finally:
            with suppress(OSError):
                if os.path.samestat(path.stat(), mine):  # else another server has the path since
                    path.unlink()


def _bind(path: Path) -> socket.socket:
    """A socket that its owner alone can connect to once it listens. Raises OSError."""
    bound = socket.socket(socket.AF_UNIX)
    try:
        _clear(path)
        bound.bind(str(path))
        path.chmod(0o600)  # nobody can have connected: it does not listen yet
    except OSError as error:
        bound.close()
        raise cannot_listen("admin", str(path), error.strerror or error) from None
    return bound


def _clear(path: Path) -> None:
    """Removes the socket of a server that has died. Raises OSError for anything else there."""
    if not path.exists():
        return
    if not path.is_socket():
        raise OSError("there is a file already, and no socket")
    with socket.socket(socket.AF_UNIX) as caller:
        try:
            caller.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        else:
            raise OSError("another server listens there")


class Service:
    """Answers connections. On the main process's event loop."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._open: set[asyncio.Task[Any] | None] = set()  # a task for each connection

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Somebody has connected: carries out what they ask, and says so in the log."""
        task = asyncio.current_task()
        self._open.add(task)
        writer.transport.set_write_buffer_limits(0)  # so that whoever reads nothing is noticed
        with closing(writer):
            try:
                await self._serve(reader, writer)
            except (OSError, TimeoutError):
                writer.transport.abort()
            finally:
                self._open.discard(task)

    async def stop(self) -> None:
        """Breaks off what is under way."""
        left = [task for task in self._open if task is not None]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Raises OSError and TimeoutError where nobody reads the answer."""
        request, rows, outcome = None, 0, "broken off"
        try:
            request = await self._admit(reader)
            rows = await self._answer(request, writer)
            last: dict[str, Any] = {"done": rows}
            outcome = "done"
        except (RequestError, StepStreamError, AccessError) as error:
            last = {"error": str(error)}
            outcome = str(error)
        finally:
            _note(request, writer, outcome, rows)  # first, so that whoever has heard the outcome finds it in the log
        await _write(writer, last)

    async def _admit(self, reader: asyncio.StreamReader) -> Request:
        """Raises RequestError."""
        if len(self._open) > _CONNECTIONS:
            raise RequestError(f"all {_CONNECTIONS} connections of administrators are in use")
        return await _read(reader)

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> int:
        """Returns how many rows there were."""
        rows = 0
        async for row in self._office.answer(request):
            await _write(writer, {"row": row})
            rows += 1
        return rows


async def _read(reader: asyncio.StreamReader) -> Request:
    """Raises RequestError."""
    try:
        async with asyncio.timeout(_SILENT_SECONDS):
            return parse(await reader.readline())
    except TimeoutError:
        raise RequestError(f"request: expected a line within {_SILENT_SECONDS:g} s, got none") from None
    except ValueError:
        raise RequestError(f"request: expected a line of at most {LINE_BYTES} bytes, got more") from None


async def _write(writer: asyncio.StreamWriter, line: dict[str, Any]) -> None:
    """Raises OSError, and TimeoutError if it is not read."""
    writer.write(json.dumps(line).encode() + b"\n")
    async with asyncio.timeout(_SILENT_SECONDS):
        await writer.drain()


def _note(request: Request | None, writer: asyncio.StreamWriter, outcome: str, rows: int) -> None:
    """Who asked for what, and what came of it. request: None if it was none. rows: told, each a closed session for example."""
    command = request.command if request else ""
    given = request.model_dump(exclude={"command"}, exclude_defaults=True) if request else {}
    log.info("admin", command=command, arguments=given, **_peer(writer), outcome=outcome, rows=rows)


def _peer(writer: asyncio.StreamWriter) -> dict[str, int]:
    """The process and the user at the other end, where the system tells them."""
    if not hasattr(socket, "SO_PEERCRED"):
        return {}
    told = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(told)
    return {"pid": pid, "uid": uid}
