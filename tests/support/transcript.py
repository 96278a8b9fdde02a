"""A stream that notes what each of its handles was told, step by step, however the server grouped it."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable

import grpc
import numpy as np

from stepstream_proto.v1 import inference_pb2
from stepstream_server.errors import Reason
from support.reference import Outcome
from support.wire import StreamRequest, WireStream, block

NOBODY = 60_000  # a handle that stands for no session


class Transcript(WireStream):
    """Nothing is read but while somebody waits for something."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        super().__init__(channel)
        self.told: defaultdict[int, list[Outcome]] = defaultdict(list)  # by handle
        self.detached: dict[int, inference_pb2.DetachReason] = {}  # by handle, since it was last attached
        self.attached: deque[inference_pb2.Attached] = deque()
        self._barriers = 0
        self._unread = False  # something was sent since the server was last known to have read everything

    async def send(self, request: StreamRequest) -> None:
        self._unread = True
        await super().send(request)

    async def until(self, there: Callable[[], bool]) -> None:
        """Reads until the condition holds."""
        while not there():
            self._note(await self.receive())

    async def outcomes(self, handle: int, count: int) -> list[Outcome]:
        """The first `count` outcomes of a handle."""
        await self.until(lambda: len(self.told[handle]) >= count)
        return self.told[handle][:count]

    async def ending(self, handle: int) -> inference_pb2.DetachReason:
        """Why a handle no longer stands for its session. Whatever it was told before is noted by then."""
        await self.until(lambda: handle in self.detached)
        return self.detached[handle]

    async def answer(self) -> list[inference_pb2.AttachedSession]:
        """What came of the next opening or attaching."""
        await self.until(lambda: bool(self.attached))
        self._unread = False
        return list(self.attached.popleft().sessions)

    async def barrier(self) -> None:
        """Returns once the server has read all that was sent: a step for nobody is answered without any engine."""
        if self._unread:
            self._barriers += 1
            await self.send(block([NOBODY], [0], [1], np.zeros((1, 1), np.float32)))
            await self.outcomes(NOBODY, self._barriers)
            self._unread = False

    def free(self, handle: int) -> None:
        """The handle may stand for another session from now on."""
        self.told.pop(handle, None)
        self.detached.pop(handle, None)

    def _note(self, response: inference_pb2.StreamResponse) -> None:
        kind = response.WhichOneof("message")
        if kind == "attached":
            self.attached.append(response.attached)
            for each in response.attached.sessions:
                self.free(each.handle)  # what came too late for its former session
        elif kind == "detached":
            for handle in np.frombuffer(response.detached.handles, "<u4").tolist():
                self.detached[handle] = response.detached.reason
        elif kind == "answers":
            self._note_answers(response.answers)
        else:
            raise AssertionError(f"not expected: {response}")

    def _note_answers(self, answers: inference_pb2.Answers) -> None:
        handles, firsts = np.frombuffer(answers.handles, "<u4").tolist(), np.frombuffer(answers.first_seqs, "<u8").tolist()
        lengths = np.frombuffer(answers.lengths, "<u4").tolist() if answers.lengths else [1] * len(handles)
        kept = np.frombuffer(answers.kept, "<u4").tolist() if answers.kept else lengths
        sums = iter(np.frombuffer(answers.outputs[0], "<f4").tolist() if answers.outputs else [])
        for handle, first, length, last in zip(handles, firsts, lengths, kept, strict=True):
            told = self.told[handle]
            told += [(seq, None) for seq in range(first, first + length - last)]
            told += [(seq, next(sums)) for seq in range(first + length - last, first + length)]
        if next(sums, None) is not None:
            raise AssertionError(f"outputs of no row: {answers}")
        for each in answers.errors:
            reason = Reason[each.error.reason]
            self.told[each.handle] += [
                (seq, reason, each.expected_seq) for seq in range(each.first_seq, each.first_seq + each.length)
            ]
