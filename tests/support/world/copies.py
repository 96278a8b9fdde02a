"""Copies in a history: forks, snapshots and imports, of what is applied and of what is still queued."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stepstream_proto.v1 import inference_pb2, session_pb2
from stepstream_server.engine import ports
from stepstream_server.errors import Reason
from support.history import Live
from support.world.calls import Calls, key_of, turned_away
from support.world.served import (
    MODEL,
    TURN_STEPS,
    Secret,
)


@dataclass(frozen=True)
class Moved:
    """A snapshot and the session that it must become."""

    data: bytes
    session: Live


@dataclass
class Copies(Calls):
    """Sessions made of sessions."""

    snapshots: list[Moved] = field(default_factory=list)

    async def fork(self, live: Live, at_seq: int | None, count: int, secret: Secret) -> None:
        """Copies a session, and where it is copied more than once asks for the same copies again."""
        request = session_pb2.ForkSessionRequest(model=MODEL, id=live.id, secret=key_of(live, secret), count=count)
        request.request_id = self.number()
        call = self.served.front.sessions.ForkSession
        answer, at_seq = await self.copy(live, at_seq, secret, request, call)
        if at_seq is not None:
            for each in answer.sessions:
                self.sessions.append(Live(each.id, each.secret, live.known.fork(at_seq), live.idle_ttl, self.now))
            if count > 1:
                assert await call(request) == answer

    async def export(self, live: Live, at_seq: int | None, close: bool, secret: Secret) -> None:
        """Takes a snapshot."""
        request = session_pb2.ExportSessionRequest(model=MODEL, id=live.id, secret=key_of(live, secret), close=close)
        request.request_id = self.number() if close else ""
        call = self.served.front.sessions.ExportSession
        answer, at_seq = await self.copy(live, at_seq, secret, request, call)
        if at_seq is not None:
            copy = Live(live.id, b"", live.known.moved(at_seq), live.idle_ttl, self.now)
            self.snapshots.append(Moved(answer.snapshot, copy))
            if close:
                assert await call(request) == answer

    async def copy(self, live: Live, at_seq: int | None, secret: Secret, request: Any, call: Any) -> tuple[Any, int | None]:
        """Forks or exports at a seq. Returns the answer and where the copy was taken, None if it was refused."""
        if live.stream is not None:
            await live.stream.barrier()
        if live.known.quarantined:
            await self.hear(live)
        before, heard, hope = live.known.quarantined, live.known.next_seq, live.point
        most = heard + TURN_STEPS if self.held is live else hope  # steps that can be applied when the engine hears of it
        if at_seq is not None:
            request.at_seq = at_seq
        answer = await self.call(ports.Fork | ports.Export, call(request))
        moves = isinstance(request, session_pb2.ExportSessionRequest) and request.close and not isinstance(answer, tuple)
        if moves:
            await self.ended(live, inference_pb2.DETACH_REASON_SESSION_MOVED, Reason.SESSION_MOVED)
        else:
            await self.hear(live)
        if (refusal := turned_away(live, secret)) is not None:
            assert answer == refusal
            return answer, None
        wanted, now = hope if at_seq is None else at_seq, live.known.next_seq
        if isinstance(answer, tuple):
            reason, expected = answer
            legal = {
                Reason.SESSION_QUARANTINED: live.known.quarantined and (at_seq is None or at_seq <= now),
                Reason.SEQUENCE_PASSED: not before and wanted < expected and heard <= expected <= min(now, most),
                Reason.SEQUENCE_MISMATCH: at_seq is not None
                and wanted > expected
                and (expected == hope or (live.known.quarantined and expected == now)),
            }
            assert legal.get(reason), f"{answer} for a copy at {at_seq} of {live}, which was heard to {heard}, hoped to {hope}"
            return answer, None
        assert not before and heard <= wanted <= now and answer.next_seq == wanted, (
            f"copied at {answer.next_seq}: {at_seq}, {live}"
        )
        assert not moves or now == wanted
        return answer, wanted

    async def bring(self, moved: Moved, new_id: bool, spoil: bool) -> None:
        """Imports a snapshot, and asks for the same once more."""
        data = moved.data[:-1] + bytes([moved.data[-1] ^ 1]) if spoil else moved.data
        wanted = self.number() if new_id else moved.session.id
        request = session_pb2.ImportSessionRequest(snapshot=data, id=wanted if new_id else "")
        request.request_id = self.number()
        answer = await self.call(ports.Import, self.served.front.sessions.ImportSession(request))
        if spoil:
            assert answer == (Reason.SNAPSHOT_CORRUPT, 0), answer
            return
        if wanted in {each.id for each in self.sessions}:
            assert answer == (Reason.SESSION_EXISTS, 0), answer
            return
        assert not isinstance(answer, tuple), answer
        self.dead = [each for each in self.dead if each[0].id != wanted]
        reference = moved.session.known.copy()
        live = Live(wanted, answer.secret, reference, moved.session.idle_ttl, self.now)
        assert answer.bitwise
        self.compare(answer.session, live)
        self.sessions.append(live)
        again = await self.served.front.sessions.ImportSession(request)
        assert (again.session.id, again.secret) == (wanted, answer.secret)
