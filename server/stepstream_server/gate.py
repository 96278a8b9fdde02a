"""Who may call, as the file of tenants says: told to front doors and engines at the start, and whenever the file changes."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Sequence
from pathlib import Path

import structlog

from stepstream_server.access import Access, AccessFile, limits
from stepstream_server.config import DoorSettings, split_address
from stepstream_server.desk import Desk
from stepstream_server.engine.ports import LimitTenants
from stepstream_server.errors import AccessError
from stepstream_server.fronts import Front

_OPEN = "whoever reaches it can open, list, look at and close sessions, and step, copy and export those that no stream holds"
_LOOK_SECONDS = 0.25  # between two looks at the file: who is no longer in it is refused within a second

log = structlog.get_logger(__name__)


class Gate:
    """On the main process's event loop."""

    def __init__(self, path: str) -> None:
        """path: of the file of tenants; empty: whoever reaches the server may call. Raises AccessError."""
        self._file = AccessFile(Path(path)) if path else None
        self.access: Access | None = None if self._file is None else self._file.read()

    def open(self, front: Front, desks: Sequence[Desk]) -> None:
        """Tells engines what tenants may have, before models are served. The front knows who may call."""
        self._front = front
        self._desks = desks
        self._limit()

    async def watch(self) -> None:
        """Looks at the file again and again, for ever."""
        while self._file is not None:
            await asyncio.sleep(_LOOK_SECONDS)
            if self._file.changed():
                self._reload_if_possible()

    def _reload_if_possible(self) -> None:
        """Whatever the file holds, it is looked at again later."""
        try:
            self.reload()
        except AccessError:  # it is logged
            pass
        except Exception:
            log.error("tenants_kept", exc_info=True)

    def reload(self) -> None:
        """Takes the file as it is now. Raises AccessError, which is logged, if it cannot be used: all stays as it was."""
        if self._file is None:
            raise AccessError("door.tokens: expected the path of a file of tenants to read again, got none")
        try:
            self.access = self._file.read()
        except AccessError as error:
            log.error("tenants_kept", error=str(error))
            raise
        log.info("tenants_taken", tenants=len(self.access.tenants))
        self._front.take_access(self.access)
        self._limit()

    def _limit(self) -> None:
        if self.access is not None:
            command = LimitTenants(limits(self.access, "sessions"), limits(self.access, "rollouts"))
            for desk in self._desks:
                desk.submit(command)


def warn_if_open(listen: str, door: DoorSettings) -> None:
    """Logs what strangers can do, or read, where a server is bound to more than this machine; the default is not."""
    if _is_loopback(split_address(listen)[0]):
        return
    if not door.tokens:
        log.warning("open_to_everybody", listen=listen, open=_OPEN, instead="door.tokens, see SECURITY.md")
    elif not door.tls_cert:
        log.warning("tokens_in_plaintext", listen=listen, unless="a proxy or a mesh encrypts", instead="door.tls_cert")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
