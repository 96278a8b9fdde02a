"""Items of an async iterator, taken ahead on the loop so that another thread gets many of them in one go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing
from typing import Generic, Protocol, TypeVar

AHEAD = 64  # items that share a change of threads, which takes about as long as ten of them take the loop

Item = TypeVar("Item")
Given_co = TypeVar("Given_co", covariant=True)


class Source(Protocol[Given_co]):
    """What is iterated and closed in the end: a generator, a rollout."""

    def __aiter__(self) -> AsyncIterator[Given_co]: ...

    def aclose(self) -> Awaitable[object]: ...


class Ahead(Generic[Item]):
    """A source and what it has given and nobody has taken. Made anywhere, used on the loop."""

    def __init__(self, source: Source[Item]) -> None:
        self._source = source
        self._items: asyncio.Queue[Item | None] = asyncio.Queue(AHEAD)  # None: the end
        self._error: Exception | None = None  # that it ended with
        self._task: asyncio.Task[None] | None = None

    async def take(self) -> list[Item]:
        """What is there, at least one item; none at the end. Raises the source's error after the items before it."""
        if self._task is None:
            self._task = asyncio.create_task(self._fill(), name="stepstream items ahead")
        taken: list[Item] = []
        while not taken or not self._items.empty():
            if (item := await self._items.get()) is None:
                self._items.put_nowait(None)  # for the next call
                if self._error is not None and not taken:
                    raise self._error
                break
            taken.append(item)
        return taken

    def cancel(self) -> None:
        """Nothing more is wanted."""
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        """The same, and waits until the source has ended."""
        self.cancel()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _fill(self) -> None:
        try:
            async with aclosing(self._source) as source:
                async for item in source:
                    await self._items.put(item)
        except Exception as error:
            self._error = error
        await self._items.put(None)
