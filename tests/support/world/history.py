"""A whole history: what its sessions do while time passes, and how it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stepstream_proto.v1 import inference_pb2, session_pb2
from stepstream_server.engine.ports import Keep
from stepstream_server.errors import Reason
from support.history import Live, Row
from support.transcript import NOBODY
from support.wire import StreamRequest
from support.world.copies import Copies
from support.world.served import (
    MODEL,
    told,
)


@dataclass
class World(Copies):
    """One history."""

    async def wait(self, seconds: float) -> None:
        """Lets time pass on the server, and sessions expire."""
        self.go_on()
        for live in self.sessions:
            await self.hear(live)
        self.served.clock.advance(seconds)
        asleep = session_pb2.GetSessionRequest(model=MODEL, id="nobody")  # wakes the engine
        assert await told(self.served.front.sessions.GetSession(asleep)) == (Reason.SESSION_NOT_FOUND, 0)
        for live in [each for each in self.sessions if self.now - each.used_at >= each.idle_ttl]:
            await self.ended(live, inference_pb2.DETACH_REASON_SESSION_EXPIRED, Reason.SESSION_EXPIRED)

    async def knock(self, dead: Live, reason: Reason) -> None:
        """Whoever asks for an ended session is told how it ended; closing it succeeds."""
        self.go_on()
        inference, sessions = self.served.front.inference, self.served.front.sessions
        values = {"x": inference_pb2.Values(numbers=[1])}
        assert await told(inference.Step(inference_pb2.StepRequest(model=MODEL, session_id=dead.id, inputs=values))) == (
            reason,
            0,
        )
        assert await told(sessions.ForkSession(session_pb2.ForkSessionRequest(model=MODEL, id=dead.id))) == (reason, 0)
        closed = await sessions.CloseSession(session_pb2.CloseSessionRequest(model=MODEL, id=dead.id))
        assert closed.next_seq == 0

    async def finish(self) -> None:
        """Hears everything; each session stands where the reference says, and goes on from there."""
        self.go_on()
        for live in self.sessions:
            await self.hear(live)
        listed = await self.served.front.sessions.ListSessions(session_pb2.ListSessionsRequest(model=MODEL))
        found = {each.id: each for each in listed.sessions}
        assert found.keys() == {each.id for each in self.sessions}, (found, self.dead, self.sessions)
        for live in self.sessions:
            self.compare(found[live.id], live)
        await self.gather([each for each in self.sessions if each.stream is None])
        for place in self.streams:
            if lives := list(self.at(place).values()):
                rows = [(live, Row(live.known.next_seq, (1.0,), Keep.ALL)) for live in lives]
                await self.send(self.block(place, rows, Keep.ALL, acknowledges=True))
                await self.detach(place, lives, close=True, whole=True)
        late = [
            each for stream in self.streams.values() for handle, told in stream.told.items() if handle != NOBODY for each in told
        ]
        assert {each[1:] for each in late} <= {(Reason.HANDLE_UNKNOWN, 0)}

    async def gather(self, lives: Sequence[Live]) -> None:
        """Attaches sessions that nobody holds to one stream."""
        if not lives:
            return
        handles, stream = self.handles(0, len(lives)), self.stream(0)
        asked = [
            inference_pb2.AttachSession(handle=handle, id=live.id, secret=live.secret)
            for handle, live in zip(handles, lives, strict=True)
        ]
        answers = await self.ask(stream, StreamRequest(attach=inference_pb2.Attach(model=MODEL, sessions=asked)))
        for handle, live, answer in zip(handles, lives, answers, strict=True):
            await self.taken(live, stream, handle, answer)

    def leave(self) -> None:
        """Cuts all streams."""
        self.go_on()
        for stream in self.streams.values():
            stream.cut()
        while not self.served.front.ended.empty():
            self.served.front.ended.get_nowait()
