"""Inputs of a history: blocks, resets and acknowledgements, sent without waiting for what becomes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from stepstream_proto.v1 import inference_pb2, session_pb2
from stepstream_server.engine.ports import Keep
from stepstream_server.errors import Reason
from support.history import Ack, Live, Row, Zero
from support.transcript import Transcript
from support.wire import StreamRequest, u32, u64
from support.world.served import (
    MODEL,
    OUTPUTS,
)
from support.world.streams import Streams


@dataclass(frozen=True)
class Message:
    """A message of a stream and what it asks of each handle."""

    place: int
    request: StreamRequest
    inputs: tuple[tuple[int, Row | Zero, int | None], ...]  # handle, input, count acknowledged before it


@dataclass
class Inputs(Streams):
    """What streams are sent."""

    messages: list[Message] = field(default_factory=list)

    async def pipeline(self, live: Live, rows: Sequence[Sequence[float]], keep: Keep, overlap: int = 0) -> None:
        """Messages one after the other, each going on where the one before will have ended if nothing fails.

        The first one heals the session if need be. With an overlap each begins so many steps earlier, as a straddling repeat.
        """
        for place, stream in self.streams.items():
            if live.stream is stream and live.known.quarantined and not live.log:
                await self.send(self.reset(place, [(live, Zero(live.point))]))
            for values in rows if live.stream is stream else ():
                row = Row(max(0, live.point - overlap), tuple(values), keep)
                await self.send(self.block(place, [(live, row)], keep, acknowledges=not live.log))

    def block(self, place: int, rows: Sequence[tuple[Live, Row]], keep: Keep, acknowledges: bool) -> Message:
        """A block, not sent yet."""
        counts = [live.known.next_seq for live, _ in rows]
        message = inference_pb2.Block(
            handles=u32([live.handle for live, _ in rows]),
            first_seqs=u64([row.first for _, row in rows]),
            lengths=u32([row.steps for _, row in rows]),
            inputs=[np.array([value for _, row in rows for value in row.values], "<f4").tobytes()],
            outputs=OUTPUTS[keep],
            acked=u64(counts) if acknowledges else b"",
        )
        inputs = [(live.handle, row, count if acknowledges else None) for (live, row), count in zip(rows, counts, strict=True)]
        return Message(place, StreamRequest(block=message), tuple(inputs))

    def reset(self, place: int, zeros: Sequence[tuple[Live, Zero]]) -> Message:
        """Resets, not sent yet."""
        reset = inference_pb2.Reset(handles=u32([live.handle for live, _ in zeros]), seqs=u64([zero.first for _, zero in zeros]))
        return Message(place, StreamRequest(reset=reset), tuple((live.handle, zero, None) for live, zero in zeros))

    async def send(self, message: Message) -> None:
        """Sends without waiting for outcomes, unless what is on its way makes them a matter of timing."""
        here, stream = self.at(message.place), self.stream(message.place)
        for handle, given, count in message.inputs:
            if handle in here:
                await self.hear_before(here[handle], given, count)
        await stream.send(message.request)
        for handle, given, count in message.inputs:
            if handle not in here:
                await self.hear_stray(stream, handle, given)
                continue
            if count is not None:
                here[handle].note(Ack(count))
            here[handle].note(given)

    async def cut(self, place: int, back: int) -> None:
        """A stream breaks with all that is on its way; its client comes back at once on another one."""
        lives = self.at(place)
        self.stream(place).cut()
        former, self.streams[place] = self.streams[place], Transcript(self.served.front.channel)
        self.messages = [each for each in self.messages if each.place != place]
        if not lives:
            return
        asked = []
        for handle, live in lives.items():
            count = max(0, live.known.next_seq - back)
            live.log.append(Ack(count))
            asked.append(inference_pb2.AttachSession(handle=handle, id=live.id, secret=live.secret, acked=count))
        stream = self.stream(place)
        answers = await self.ask(stream, StreamRequest(attach=inference_pb2.Attach(model=MODEL, sessions=asked)))
        for answer, (handle, live) in zip(answers, lives.items(), strict=True):
            assert answer.error.reason == ""
            quarantined = (await self.get(live)).status == session_pb2.SESSION_STATUS_QUARANTINED
            told = former.told[handle][live.heard :]
            live.settle_cut(told, self.now, answer.next_seq, answer.acked, quarantined)
            self.bind(live, stream, handle)

    async def hear_stray(self, stream: Transcript, handle: int, given: Row | Zero) -> None:
        """An input for a handle that stands for nothing is refused. So may be what came too late for the session before."""
        seqs = range(given.first, given.first + given.steps)
        await stream.until(lambda: set(seqs) <= {each[0] for each in stream.told[handle]})
        assert {each[1:] for each in stream.told[handle]} == {(Reason.HANDLE_UNKNOWN, 0)}
        stream.free(handle)

    async def hear_before(self, live: Live, given: Row | Zero, count: int | None) -> None:
        """Waits for what would otherwise have two outcomes."""
        acknowledges_early = count is not None and (live.in_doubt or live.repeats or count > live.known.next_seq)
        if acknowledges_early or live.freed_late or (live.in_doubt and not live.surely_behind(given)):
            await self.hear(live)

    async def acknowledge(self, live: Live, count: int) -> None:
        """Says what was received, or, with nothing on its way, any number."""
        if count > live.known.next_seq or live.in_doubt:
            await self.hear(live)
        acknowledge = inference_pb2.Acknowledge(handles=u32([live.handle]), counts=u64([count]))
        assert live.stream is not None
        await live.stream.send(StreamRequest(acknowledge=acknowledge))
        live.note(Ack(count))

    async def acknowledge_behind_repeat(self, live: Live, keep: Keep) -> None:
        """Asks for all kept answers once more behind a step that is held, and says at once that they are not needed."""
        known = live.known
        for place in [place for place, stream in self.streams.items() if stream is live.stream]:
            await self.hear(live)
            self.hold(live)
            for row in (Row(known.next_seq, (1.0,), keep), Row(known.acked, (0.0,) * (known.next_seq - known.acked), keep)):
                if row.values:
                    await self.send(self.block(place, [(live, row)], keep, acknowledges=False))
            await self.acknowledge(live, known.next_seq)
