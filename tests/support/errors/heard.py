"""What a scenario has heard of a failure, on whichever way it came, as the client's exception for it."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass, field

import grpc
import numpy as np
import pytest

from stepstream import StepStreamError
from stepstream._translation import BY_ENDING, from_rpc, from_wire
from stepstream_proto.v1 import common_pb2
from support import planted
from support.wire import WireStream


@dataclass(frozen=True)
class Failure:
    """One failure and the way it came: `row`, `session`, `detach`, `ended` or `call`, in the words of docs/errors.md."""

    way: str
    error: StepStreamError

    @property
    def details(self) -> frozenset[str]:
        """In the words of docs/errors.md."""
        facts = {name for name in ("field", "expectedSeq") if self.error.metadata.get(name, "0") != "0"}
        facts |= {"since"} & self.error.metadata.keys()
        if self.error.retry_delay is not None:
            facts.add(f"retry {self.error.retry_delay * 1000:.0f} ms")
        return frozenset(facts)


@dataclass
class Heard:
    """The failures of one scenario, in order. Each method waits for one and fails the test if something else comes."""

    failures: list[Failure] = field(default_factory=list)

    async def call(self, answer: Awaitable[object]) -> None:
        """A call, or a whole stream, that fails."""
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await answer
        self._hear("call", from_rpc(failed.value))

    async def client(self, answer: Awaitable[object]) -> None:
        """A call of the Python client that raises."""
        with pytest.raises(StepStreamError) as raised:
            await answer
        self._hear("client", raised.value)

    async def row(self, stream: WireStream, seq: int | None = None) -> None:
        """A refused row among a stream's next answers: the first, or the one that begins at `seq`."""
        while True:
            for row in (await stream.receive()).answers.errors:
                if seq is None or row.first_seq == seq:
                    self._hear("row", from_wire(row.error, {"expectedSeq": str(row.expected_seq)}))
                    return

    async def attached(self, stream: WireStream) -> None:
        """A session that could not be opened on a stream, or attached to it."""
        (session,) = (await stream.receive()).attached.sessions
        self.session(session.error)

    def session(self, error: common_pb2.Error) -> None:
        """One of many sessions asked for."""
        self._hear("session", from_wire(error))

    async def detach(self, stream: WireStream) -> None:
        """A detach that was refused."""
        detached = (await stream.receive()).detached
        self._hear("detach", from_wire(detached.error))

    async def ended(self, stream: WireStream) -> None:
        """A handle that no longer stands for a session."""
        while not (detached := (await stream.receive()).detached).handles:
            pass
        assert len(np.frombuffer(detached.handles, "<u4")) == 1
        self._hear("ended", BY_ENDING[detached.reason]("the session has ended here"))

    def _hear(self, way: str, error: StepStreamError) -> None:
        planted.check(f"{error!r} {error}")
        self.failures.append(Failure(way, error))
