"""An administrator's end of the socket, for the command line."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from stepstream_server.admin.requests import Request, Row

_SILENT_SECONDS = 60.0  # that a row may take: engines answer within milliseconds, and a busy machine within seconds


class AdminError(Exception):
    """The server did not do what it was asked to. The message tells why."""


def ask(path: Path, request: Request) -> Iterator[Row]:
    """Has the server that listens at a path carry a request out, and returns what it tells, row by row. Iterating raises
    AdminError."""
    with socket.socket(socket.AF_UNIX) as call:
        call.settimeout(_SILENT_SECONDS)
        try:
            call.connect(str(path))
            with suppress(BrokenPipeError):  # it says why it does not listen
                call.sendall(request.model_dump_json().encode() + b"\n")
            yield from _rows(call)
        except OSError as error:
            raise AdminError(f"{path}: {error.strerror or error}") from None


def _rows(call: socket.socket) -> Iterator[Row]:
    with call.makefile("rb") as lines:
        for line in lines:
            told: dict[str, Any] = json.loads(line)
            if "error" in told:
                raise AdminError(told["error"])
            if "done" in told:
                return
            yield told["row"]
    raise AdminError("the server ended before it had answered")
