"""Stores of durable sessions: where records lie while a server lives, and after it. `engine/ports/store.py` says what is asked of
them; this room carries it out on a thread of its own."""

from __future__ import annotations

from pathlib import Path

from stepstream_server.store.memory import MemoryStore
from stepstream_server.store.port import Archive, StoreError
from stepstream_server.store.sqlite import SqliteStore
from stepstream_server.store.thread import StoreThread

__all__ = ["StoreError", "StoreThread", "open_store"]


def open_store(url: str) -> StoreThread:
    """Opens `memory:` or `sqlite:FILE`, and starts the store's thread.

    Raises StoreError for a URL of another kind, and for a file that is in use, cannot be read or written, or is not a store of
    this version.
    """
    store = StoreThread(_archive(url))
    store.start()
    return store


def _archive(url: str) -> Archive:
    kind, _, rest = url.partition(":")
    if kind == "sqlite" and rest:
        return SqliteStore(Path(rest))
    if url == "memory:":
        return MemoryStore()
    raise StoreError(f"store.url: expected memory: or sqlite:FILE, got {url!r}")
