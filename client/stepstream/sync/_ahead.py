"""Items of an async generator, taken ahead on the loop so that another thread gets many of them in one go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Generic, TypeVar

AHEAD = 64  # items that share a change of threads, which takes about as long as ten of them take the loop

Item = TypeVar("Item")


class Ahead(Generic[Item]):
    """A generator and what it has given and nobody has taken. Made anywhere, used on the loop."""

    def __init__(self, source: AsyncGenerator[Item, None]) -> None:
        self._source = source
        self._items: asyncio.Queue[Item | None] = asyncio.Queue(AHEAD)  # None: the end
        self._error: Exception | None = None  # that it ended with
        self._task: asyncio.Task[None] | None = None

    async def take(self) -> list[Item]:
        """What is there, at least one item; none at the end. Raises the generator's error after the items before it."""
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
        """The same, and waits until the generator has ended."""
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
