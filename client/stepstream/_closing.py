"""What sessions and groups of them have in common as context managers: they close at the server on leaving."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import suppress
from types import TracebackType
from typing import Self

from stepstream._errors import StepStreamError


class ClosesOnLeaving(ABC):
    """An async context manager over `close`."""

    @abstractmethod
    async def close(self) -> None:
        """Closes at the server."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            await self.close()
            return
        with suppress(StepStreamError):  # what went wrong first is what the caller should hear of
            await self.close()
