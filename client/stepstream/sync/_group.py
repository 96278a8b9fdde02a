"""`stepstream.SessionGroup`, blocking."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self, overload

import stepstream
from stepstream._calls import Outputs
from stepstream._models import ModelInfo
from stepstream._session import WhichOutputs
from stepstream._tensors import Values
from stepstream.sync._session import Session

if TYPE_CHECKING:
    from stepstream.sync._client import Client


class SessionGroup(Sequence[Session]):
    """N sessions of one model, in a fixed order: as `stepstream.SessionGroup`, blocking."""

    def __init__(self, client: Client, group: stepstream.SessionGroup) -> None:
        self._client = client
        self._group = group
        self._sessions = [Session(client, each) for each in group]

    @property
    def model(self) -> ModelInfo:
        """As `stepstream.SessionGroup.model`."""
        return self._group.model

    def step(self, values: Values, *, timeout: float | None = None) -> Outputs:
        """As `stepstream.SessionGroup.step`."""
        return self._client._run(self._group.step(values, timeout=timeout))

    def chunk(self, values: Values, outputs: WhichOutputs = "all", *, timeout: float | None = None) -> Outputs:
        """As `stepstream.SessionGroup.chunk`."""
        return self._client._run(self._group.chunk(values, outputs, timeout=timeout))

    def reset(self) -> None:
        """As `stepstream.SessionGroup.reset`."""
        self._client._run(self._group.reset())

    def close(self) -> None:
        """As `stepstream.SessionGroup.close`."""
        self._client._run(self._group.close())

    def detach(self) -> None:
        """As `stepstream.SessionGroup.detach`."""
        self._client._run(self._group.detach())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._client._run(self._group.__aexit__(kind, error, traceback))

    def __len__(self) -> int:
        return len(self._sessions)

    @overload
    def __getitem__(self, index: int) -> Session: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Session]: ...
    def __getitem__(self, index: int | slice) -> Session | Sequence[Session]:
        return self._sessions[index]

    def __repr__(self) -> str:
        return repr(self._group)
