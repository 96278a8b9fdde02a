"""A server of the contract in plain Python, for tests of the client: a model that adds up its inputs, and every rule of the
stream that a client can notice. Tests can hold answers back, plan failures, cut the stream, and read what was received.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from google.protobuf.duration_pb2 import Duration
from google.rpc import status_pb2
from numpy.typing import NDArray

from stepstream import ClientOptions
from stepstream_proto.v1 import (
    common_pb2,
    inference_pb2,
    inference_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    session_pb2_grpc,
)
from stepstream_proto.v1.inference_pb2 import StreamRequest, StreamResponse
from support.rolling import FakeRollouts
from support.status import abort, failed_call
from support.unary import FakeSessionService

# Of a client that loses no time where streams break.
QUICK = ClientOptions(reconnect_first_seconds=0.001, reconnect_most_seconds=0.01)

ABORTED, OUT_OF_RANGE, RESOURCE_EXHAUSTED, NOT_FOUND, UNAVAILABLE = 10, 11, 8, 5, 14

FLOAT, INT = common_pb2.DATA_TYPE_FLOAT32, common_pb2.DATA_TYPE_INT64

WORDS = ("the", "cat", "sat", "on", "mat", ".", ",", "it's")

TEXT = common_pb2.Text(codec="words", vocabulary=WORDS, unknown=WORDS.index("it's"), lower=True)

Outcome = NDArray[np.float32]  # [3]: running sum, its negative, steps since the start or the last reset


def error(code: int, reason: str, message: str = "", retry_delay_ms: int = 0) -> common_pb2.Error:
    """An error as it travels in band."""
    return common_pb2.Error(code=code, reason=reason, message=message or reason, retry_delay_ms=retry_delay_ms)


def adder(name: str, *inputs: common_pb2.TensorSpec, version: int = 1) -> model_pb2.Model:
    """A model that adds up all numbers of its inputs. Outputs: `total` [2], the sum and its negative; `count` [1], steps."""
    return model_pb2.Model(
        name=name,
        version=version,
        cell="rnn",
        inputs=inputs,
        outputs=[
            common_pb2.TensorSpec(name="total", data_type=FLOAT, shape=[2]),
            common_pb2.TensorSpec(name="count", data_type=FLOAT, shape=[1]),
        ],
        states=[common_pb2.TensorSpec(name="h", data_type=FLOAT, shape=[1])],
        fingerprint="00",
        time_step=Duration(nanos=11_111_111),
        window=common_pb2.Window(steps=8, bytes=1 << 20),
    )


def roller(name: str, input: common_pb2.TensorSpec, text: str = "", words: Sequence[str] = ()) -> model_pb2.Model:
    """An adder that can be rolled out."""
    model = adder(name, input)
    model.text, model.rollout_output = text, "total"
    model.words.extend(words)
    return model


def default_models() -> list[model_pb2.Model]:
    """`pairs` takes x [2]; `level` takes x [1]; `mixed` takes a float32 [1] and a token below 10."""
    return [
        adder("pairs", common_pb2.TensorSpec(name="x", data_type=FLOAT, shape=[2])),
        adder("level", common_pb2.TensorSpec(name="x", data_type=FLOAT, shape=[1])),
        adder(
            "mixed",
            common_pb2.TensorSpec(name="a", data_type=FLOAT, shape=[1]),
            common_pb2.TensorSpec(name="token", data_type=INT, shape=[], limit=10),
        ),
    ]


def told_model() -> model_pb2.Model:
    """A model, `told`, that adds up words: tokens, or text."""
    return adder("told", common_pb2.TensorSpec(name="word", data_type=INT, limit=len(WORDS), text=TEXT))


def rolling_models() -> dict[str, model_pb2.Model]:
    """By name: `letters` takes bytes of text, `words` takes WORDS, `digits` tokens below 10, `walk` a float32 [1]."""
    models = [
        roller("letters", common_pb2.TensorSpec(name="byte", data_type=INT, limit=256), "bytes"),
        roller("words", common_pb2.TensorSpec(name="word", data_type=INT, limit=len(WORDS)), "words", WORDS),
        roller("digits", common_pb2.TensorSpec(name="digit", data_type=INT, limit=10)),
        roller("walk", common_pb2.TensorSpec(name="x", data_type=FLOAT, shape=[1])),
    ]
    return {model.name: model for model in models}


@dataclass(eq=False)
class FakeStream:
    """One client's stream."""

    out: asyncio.Queue[StreamResponse | status_pb2.Status | None] = field(default_factory=asyncio.Queue)
    sessions: dict[int, FakeSession] = field(default_factory=dict)  # by handle


@dataclass(eq=False)
class FakeSession:
    """One session's life."""

    id: str
    secret: bytes
    model: model_pb2.Model
    next_seq: int = 0
    acked: int = 0
    pending: int = 0  # steps admitted and not applied
    total: float = 0.0
    count: int = 0
    kept: dict[int, Outcome | None] = field(default_factory=dict)
    stream: FakeStream | None = None
    handle: int = 0
    opened_by: str = ""  # request id
    rolling: bool = False  # a rollout that commits is under way
    durable: bool = False
    durable_seq: int = 0
    epoch: int = 0
    bitwise: bool = True
    past: list[tuple[float, int]] = field(default_factory=lambda: [(0.0, 0)])  # total and count after so many steps
    drawn: dict[int, Any] = field(default_factory=dict)  # by number: draws since the last other step

    def remember(self) -> None:
        """Notes where it stands."""
        del self.past[self.next_seq :]
        self.past += [(0.0, 0)] * (self.next_seq - len(self.past))  # of one that came from elsewhere
        self.past.append((self.total, self.count))

    def restore(self, seq: int) -> None:
        """Goes back to where it stood after so many steps, as its record of that time says."""
        (self.total, self.count), self.next_seq = self.past[seq], seq
        self.acked = min(self.acked, seq)
        self.kept = {each: outcome for each, outcome in self.kept.items() if each < seq}
        self.drawn = {each: value for each, value in self.drawn.items() if each < seq}
        self.durable_seq, self.rolling = seq, False
        self.epoch += 1

    def acknowledge(self, count: int) -> None:
        self.acked = max(self.acked, min(count, self.next_seq))
        for seq in [seq for seq in self.kept if seq < self.acked]:
            del self.kept[seq]


@dataclass
class Job:
    """A row on its way."""

    session: FakeSession
    stream: FakeStream
    seq: int
    length: int
    sums: list[float] | None  # of each step's inputs; None: a reset
    keep: int

    def keeps(self, index: int) -> bool:
        if self.sums is None or self.keep == common_pb2.OUTPUTS_NONE:
            return False
        return self.keep != common_pb2.OUTPUTS_LAST or index == self.length - 1


class FakeServicer(inference_pb2_grpc.InferenceServiceServicer, model_pb2_grpc.ModelServiceServicer):
    """Both services. `broken_rules` lists what a correct client never does."""

    def __init__(
        self, *, window_steps: int = 8, window_bytes: int = 1 << 20, capacity: int = 1000, replay_steps: int = 0
    ) -> None:
        self.models = {model.name: model for model in default_models()}
        self.window = common_pb2.Window(steps=window_steps, bytes=window_bytes, replay_steps=replay_steps)
        self.capacity = capacity
        self.pieces = 0  # answers are sent in pieces of so many steps; 0: as they were asked
        self.paused = False  # rows are admitted and not run
        self.pause_at: dict[str, int] = {}  # by session id: rows from this number on are admitted and not run
        self.losing = False  # answers are not sent
        self.mute = False  # opening and attaching are not answered
        self.failures: dict[tuple[str, int], common_pb2.Error] = {}  # by session id and seq; each happens once
        self.always_full = False  # no step is admitted
        self.always_durable = False  # whatever was asked for
        self.attach_refusals: list[common_pb2.Error] = []  # what the next attached sessions are refused with, one after the other
        self.not_ready = 0  # so many openings and attachings are put off
        self.refusal: status_pb2.Status | None = None  # what every unary call and stream is refused with
        self.refusals: list[status_pb2.Status] = []  # what the next ones are refused with, one after the other
        self.refused = 0  # calls and streams so far
        self.versions_asked: list[int] = []  # of models
        self.metadata: list[Any] = []  # of each stream
        self.received: list[StreamRequest] = []
        self.broken_rules: list[str] = []
        self.streams: list[FakeStream] = []
        self.sessions: dict[str, FakeSession] = {}
        self.opened: dict[str, list[str]] = {}  # ids by request id
        self._jobs: list[Job] = []
        self._attached: list[tuple[FakeStream, StreamResponse]] = []
        self._news = asyncio.Condition()
        self.unary = FakeSessionService(self)
        self.rollouts = FakeRollouts(self)

    # What tests do with it -------------------------------------------------------------------------------------------

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until the condition holds; it is looked at after each message and each `tell`."""
        async with self._news:
            await self._news.wait_for(condition)

    async def tell(self) -> None:
        """Has every condition that is waited for looked at again."""
        async with self._news:
            self._news.notify_all()

    def seen(self, kind: str) -> list[Any]:
        """The messages of one kind so far."""
        return [getattr(each, kind) for each in self.received if each.WhichOneof("message") == kind]

    def release(self) -> None:
        """Runs what was held back, and from now on everything at once."""
        self.paused = False
        self.pause_at.clear()
        self._run()

    def speak(self) -> None:
        """Says what was kept back while mute."""
        self.mute = False
        for stream, response in self._attached:
            stream.out.put_nowait(response)
        self._attached.clear()

    def cut_streams(self, status: status_pb2.Status | None = None) -> None:
        """Ends every stream, with UNAVAILABLE unless told otherwise."""
        for stream in self.streams:
            stream.out.put_nowait(status or status_pb2.Status(code=14, message="cut"))

    def crash(self, **restored: int) -> None:
        """Ends every stream; sessions, by id, stand at the numbers given when they are found again."""
        self._jobs.clear()
        for id, seq in restored.items():
            self.sessions[id].restore(seq)
        self.cut_streams()

    def write(self, id: str, count: int | None = None) -> None:
        """Tells a durable session's holder that so many steps are in the store; None: all that were applied."""
        session = self.sessions[id]
        session.durable_seq = session.next_seq if count is None else count
        if session.stream is not None:
            handles, counts = np.array([session.handle], "<u4"), np.array([session.durable_seq], "<u8")
            durable = inference_pb2.Durable(handles=handles.tobytes(), counts=counts.tobytes())
            session.stream.out.put_nowait(StreamResponse(durable=durable))

    def announce_drain(self, *, resume: bool = False) -> None:
        for stream in self.streams:
            drain = inference_pb2.Drain(deadline=Duration(seconds=1), resume=resume)
            stream.out.put_nowait(StreamResponse(drain=drain))

    def end_session(self, id: str, reason: inference_pb2.DetachReason) -> None:
        """Detaches a session without being asked."""
        session = self.sessions[id]
        self._jobs = [job for job in self._jobs if job.session is not session]
        session.pending = 0
        if session.stream is not None:
            self._detach(session.stream, session.handle, reason)
        if reason != inference_pb2.DETACH_REASON_SESSION_TAKEN:
            del self.sessions[id]

    def new_session(self, id: str, model: model_pb2.Model) -> FakeSession:
        """A session that nobody holds yet."""
        session = self.sessions[id] = FakeSession(id, f"secret of {id}".encode(), model)
        return session

    def unheld(self, model: model_pb2.Model, original: FakeSession | None) -> FakeSession:
        """A copy of a session, or a new one, that nobody can name."""
        if original is None:
            return FakeSession("", b"", model)
        return dataclasses.replace(original, kept={}, stream=None, past=[*original.past], drawn={**original.drawn})

    # Unary calls -----------------------------------------------------------------------------------------------------

    async def ListModels(self, request: model_pb2.ListModelsRequest, context: Any) -> model_pb2.ListModelsResponse:
        await self._refuse(context)
        return model_pb2.ListModelsResponse(models=self.models.values())

    async def GetModel(self, request: model_pb2.GetModelRequest, context: Any) -> model_pb2.GetModelResponse:
        self.versions_asked.append(request.version)
        await self._refuse(context)
        model = self.models.get(request.name)
        if model is None or request.version not in (0, model.version):
            message = f"model: expected one of {list(self.models)}, got {request.name!r}"
            await abort(context, failed_call(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", message, field_name="name"))
        return model_pb2.GetModelResponse(model=model)

    async def Step(self, request: inference_pb2.StepRequest, context: Any) -> inference_pb2.StepResponse:
        return await self.unary.step(request, context)

    async def Generate(
        self, request: inference_pb2.GenerateRequest, context: Any
    ) -> AsyncIterator[inference_pb2.GenerateResponse]:
        await self._refuse(context)
        async with aclosing(self.rollouts.generate(request, context)) as responses:
            async for response in responses:
                yield response

    async def _refuse(self, context: Any) -> None:
        refusal = self.refusals.pop(0) if self.refusals else self.refusal
        if refusal is not None:
            self.refused += 1
            await self.tell()
            await abort(context, refusal)

    # The stream ------------------------------------------------------------------------------------------------------

    async def Stream(self, requests: AsyncIterator[StreamRequest], context: Any) -> AsyncIterator[StreamResponse]:
        self.metadata.append(context.invocation_metadata())
        await self._refuse(context)
        await context.send_initial_metadata(())
        stream = FakeStream()
        self.streams.append(stream)
        listener = asyncio.create_task(self._listen(requests, stream))
        try:
            while (item := await stream.out.get()) is not None:
                if isinstance(item, status_pb2.Status):
                    await abort(context, item)
                else:
                    yield item
        finally:
            listener.cancel()
            self.streams.remove(stream)
            self._jobs = [job for job in self._jobs if job.stream is not stream]
            for session in stream.sessions.values():
                session.stream, session.pending = None, 0

    async def _listen(self, requests: AsyncIterator[StreamRequest], stream: FakeStream) -> None:
        async for request in requests:
            self.received.append(request)
            kind = request.WhichOneof("message")
            try:
                getattr(self, f"_heed_{kind}")(stream, getattr(request, kind or ""))
            except Exception as failure:  # of the fake itself: must not look like a server that takes its time
                self.broken_rules.append(repr(failure))
                stream.out.put_nowait(status_pb2.Status(code=13, message=repr(failure)))
            await self.tell()
        stream.out.put_nowait(None)

    def _heed_open(self, stream: FakeStream, request: inference_pb2.OpenOnStream) -> None:
        handles = np.frombuffer(request.handles, "<u4").tolist()
        ids = list(request.ids) or [f"made-{len(self.sessions) + index}" for index in range(len(handles))]
        ids = self.opened.setdefault(request.request_id, ids) if request.request_id else ids
        model = self.models.get(request.model)
        entries = []
        for handle, id in zip(handles, ids, strict=True):
            entry = inference_pb2.AttachedSession(handle=handle, id=id)
            if handle in stream.sessions:
                self.broken_rules.append(f"handle {handle} was reused")
            if model is None:
                entry.error.CopyFrom(error(NOT_FOUND, "MODEL_NOT_FOUND"))
            elif id in self.sessions and request.request_id and self.sessions[id].opened_by == request.request_id:
                self._take(self.sessions[id])
                self._hold(stream, handle, self.sessions[id])
                entry.secret = self.sessions[id].secret
            elif id in self.sessions:
                entry.error.CopyFrom(error(6, "SESSION_EXISTS"))
            elif len(self.sessions) >= self.capacity:
                entry.error.CopyFrom(error(RESOURCE_EXHAUSTED, "SESSION_CAPACITY", retry_delay_ms=1500))
            else:
                session = self.new_session(id, model)
                session.opened_by, session.durable = request.request_id, request.durable or self.always_durable
                self._hold(stream, handle, session)
                entry.secret = session.secret
            entries.append(entry)
        self._say_attached(stream, request.model, model, entries)

    def _heed_attach(self, stream: FakeStream, request: inference_pb2.Attach) -> None:
        model = self.models.get(request.model)
        entries, resent = [], []
        for wish in request.sessions:
            entry = inference_pb2.AttachedSession(handle=wish.handle, id=wish.id)
            session = self.sessions.get(wish.id)
            if session is None:
                entry.error.CopyFrom(error(NOT_FOUND, "SESSION_NOT_FOUND"))
            elif session.secret != wish.secret:
                entry.error.CopyFrom(error(7, "SECRET_MISMATCH"))
            elif self.attach_refusals:
                entry.error.CopyFrom(self.attach_refusals.pop(0))
            elif session.durable and session.next_seq < min(wish.acked, _replayed_from(wish)):
                entry.error.CopyFrom(error(15, "SESSION_LOST"))
                entry.error.metadata["since"] = str(session.next_seq)
            else:
                self._take(session)
                session.acknowledge(wish.acked)
                self._hold(stream, wish.handle, session)
                entry.next_seq, entry.acked = session.next_seq, session.acked
                resent += [(session, seq, session.kept[seq]) for seq in sorted(session.kept)]
            entries.append(entry)
        self._say_attached(stream, request.model, model, entries)
        for session, seq, outcome in resent:
            self._say_answers(stream, [(session.handle, seq, [outcome])])

    def _say_attached(
        self,
        stream: FakeStream,
        name: str,
        model: model_pb2.Model | None,
        entries: list[inference_pb2.AttachedSession],
    ) -> None:
        version = model.version if model else 0
        for entry in entries:
            self._tell_endurance(stream, entry)
        if self.not_ready:
            self.not_ready -= 1
            self._put_off(stream, entries)
        attached = inference_pb2.Attached(model=name, version=version, sessions=entries, window=self.window)
        self._attached.append((stream, StreamResponse(attached=attached)))
        if not self.mute:
            self.speak()

    def _put_off(self, stream: FakeStream, entries: list[inference_pb2.AttachedSession]) -> None:
        """Takes back what was opened or attached."""
        for entry in entries:
            if (session := stream.sessions.pop(entry.handle, None)) is not None:
                session.stream = None
            entry.error.CopyFrom(error(UNAVAILABLE, "MODEL_NOT_READY", retry_delay_ms=1))

    def _take(self, session: FakeSession) -> None:
        if session.stream is not None:
            self.end_session(session.id, inference_pb2.DETACH_REASON_SESSION_TAKEN)

    def _hold(self, stream: FakeStream, handle: int, session: FakeSession) -> None:
        stream.sessions[handle] = session
        session.stream, session.handle = stream, handle

    def _tell_endurance(self, stream: FakeStream, entry: inference_pb2.AttachedSession) -> None:
        session = stream.sessions.get(entry.handle)
        if session is not None and session.durable:
            entry.durable, entry.bitwise, entry.epoch = True, session.bitwise, session.epoch
            entry.durable_seq = session.durable_seq

    def _heed_detach(self, stream: FakeStream, request: inference_pb2.Detach) -> None:
        for handle in np.frombuffer(request.handles, "<u4").tolist():
            session = stream.sessions.get(handle)
            if session is None:
                self._detach(stream, handle, inference_pb2.DETACH_REASON_REQUESTED, error(NOT_FOUND, "HANDLE_UNKNOWN"))
                continue
            self._jobs = [job for job in self._jobs if job.session is not session]
            session.pending = 0
            if request.close:
                del self.sessions[session.id]
            closed = inference_pb2.DETACH_REASON_SESSION_CLOSED
            self._detach(stream, handle, closed if request.close else inference_pb2.DETACH_REASON_REQUESTED)

    def _detach(
        self,
        stream: FakeStream,
        handle: int,
        reason: inference_pb2.DetachReason,
        problem: common_pb2.Error | None = None,
    ) -> None:
        session = stream.sessions.pop(handle, None)
        if session is not None:
            session.stream = None
        handles = np.array([handle], "<u4").tobytes()
        stream.out.put_nowait(StreamResponse(detached=inference_pb2.Detached(handles=handles, reason=reason, error=problem)))

    def _heed_acknowledge(self, stream: FakeStream, request: inference_pb2.Acknowledge) -> None:
        counts = np.frombuffer(request.counts, "<u8").tolist()
        for handle, count in zip(np.frombuffer(request.handles, "<u4").tolist(), counts, strict=True):
            if handle in stream.sessions:
                stream.sessions[handle].acknowledge(count)

    def _heed_reset(self, stream: FakeStream, request: inference_pb2.Reset) -> None:
        seqs = np.frombuffer(request.seqs, "<u8").tolist()
        for handle, seq in zip(np.frombuffer(request.handles, "<u4").tolist(), seqs, strict=True):
            self._admit(stream, handle, seq, 1, None, common_pb2.OUTPUTS_NONE)
        self._run()

    def _heed_block(self, stream: FakeStream, block: inference_pb2.Block) -> None:
        handles = np.frombuffer(block.handles, "<u4").tolist()
        seqs = np.frombuffer(block.first_seqs, "<u8").tolist()
        lengths = np.frombuffer(block.lengths, "<u4").tolist() or [1] * len(handles)
        acked = np.frombuffer(block.acked, "<u8").tolist() or [0] * len(handles)
        sums = self._sums(stream, handles, block, sum(lengths))
        first = 0
        for handle, seq, length, count in zip(handles, seqs, lengths, acked, strict=True):
            if handle in stream.sessions:
                stream.sessions[handle].acknowledge(count)
            self._admit(stream, handle, seq, length, sums[first : first + length], block.outputs)
            first += length
        self._run()

    def _sums(self, stream: FakeStream, handles: list[int], block: inference_pb2.Block, steps: int) -> list[float]:
        model = next((stream.sessions[handle].model for handle in handles if handle in stream.sessions), None)
        if model is None:
            return [0.0] * steps
        total = np.zeros(steps)
        for spec, column in zip(model.inputs, block.inputs, strict=True):
            values = np.frombuffer(column, "<f4" if spec.data_type == FLOAT else "<i8")
            total += values.reshape(steps, -1).sum(1)
        return [float(each) for each in total]

    def _admit(self, stream: FakeStream, handle: int, seq: int, length: int, sums: list[float] | None, keep: int) -> None:
        session = stream.sessions.get(handle)
        if session is None:
            self._say_error(stream, handle, seq, length, error(NOT_FOUND, "HANDLE_UNKNOWN"), 0)
            return
        if session.rolling:
            self.broken_rules.append(f"step {seq} of {session.id} during a rollout")
        expected = session.next_seq + session.pending
        job = Job(session, stream, seq, length, sums, keep)
        if seq > expected:
            self._say_error(stream, handle, seq, length, error(ABORTED, "SEQUENCE_MISMATCH"), expected)
        elif seq < session.next_seq:
            known = min(session.next_seq - seq, length)
            self._repeat(Job(session, stream, seq, known, None, keep))
            if known < length:
                self._admit(stream, handle, seq + known, length - known, sums and sums[known:], keep)
        elif self.always_full:
            self._say_error(stream, handle, seq, length, error(RESOURCE_EXHAUSTED, "QUEUE_FULL"), expected)
        elif expected + length - session.acked > self.window.steps or self._bytes(session, job) > self.window.bytes:
            self.broken_rules.append(f"window of {session.id} exceeded at {seq}")
            self._say_error(stream, handle, seq, length, error(RESOURCE_EXHAUSTED, "WINDOW_FULL"), expected)
        else:
            session.pending += length
            self._jobs.append(job)

    def _bytes(self, session: FakeSession, job: Job) -> int:
        kept = sum(outcome is not None for outcome in session.kept.values())
        for each in (*(mine for mine in self._jobs if mine.session is session), job):
            kept += sum(each.keeps(index) for index in range(each.length))
        return 12 * kept

    def _repeat(self, job: Job) -> None:
        for seq in range(job.seq, job.seq + job.length):
            if seq < job.session.acked:
                problem = error(OUT_OF_RANGE, "ANSWER_DISCARDED")
                self._say_error(job.stream, job.session.handle, seq, 1, problem, job.session.next_seq)
            else:
                self._say_answers(job.stream, [(job.session.handle, seq, [job.session.kept[seq]])])

    def _run(self) -> None:
        if self.paused:
            return
        jobs = [job for job in self._jobs if job.seq < self.pause_at.get(job.session.id, job.seq + 1)]
        self._jobs = [job for job in self._jobs if job not in jobs]
        answers: dict[FakeStream, list[tuple[int, int, list[Outcome | None]]]] = {}
        problems: list[tuple[FakeStream, int, int, int, common_pb2.Error, int]] = []
        failed: set[str] = set()
        for job in jobs:
            session, handle = job.session, job.session.handle
            session.pending -= job.length
            outcomes: list[Outcome | None] = []
            for index in range(job.length):
                problem = self.failures.pop((session.id, job.seq + index), None)
                if session.id in failed or problem is not None:
                    problem = problem or error(ABORTED, "SEQUENCE_MISMATCH")
                    rest = (job.seq + index, job.length - index)
                    problems.append((job.stream, handle, *rest, problem, session.next_seq))
                    failed.add(session.id)
                    break
                outcomes.append(self._apply(job, index))
            if outcomes:
                answers.setdefault(job.stream, []).extend(self._cut(handle, job.seq, outcomes))
        for stream, rows in answers.items():
            self._say_answers(stream, rows)
        for each in problems:
            self._say_error(*each)

    def _apply(self, job: Job, index: int) -> Outcome | None:
        session = job.session
        if job.sums is None:
            session.total, session.count = 0.0, 0
        else:
            session.total += job.sums[index]
            session.count += 1
        outcome = np.array([session.total, -session.total, session.count], np.float32) if job.keeps(index) else None
        session.kept[session.next_seq] = outcome
        session.next_seq += 1
        session.drawn.clear()
        session.remember()
        return outcome

    def _cut(self, handle: int, seq: int, outcomes: list[Outcome | None]) -> Iterator[tuple[int, int, list[Outcome | None]]]:
        size = self.pieces or len(outcomes)
        for first in range(0, len(outcomes), size):
            yield handle, seq + first, outcomes[first : first + size]

    def _say_answers(self, stream: FakeStream, rows: list[tuple[int, int, list[Outcome | None]]]) -> None:
        if self.losing:
            return
        outcomes = [outcome for _, _, row in rows for outcome in row if outcome is not None]
        table = np.array(outcomes, "<f4").reshape(-1, 3)
        answers = inference_pb2.Answers(
            handles=np.array([handle for handle, _, _ in rows], "<u4").tobytes(),
            first_seqs=np.array([seq for _, seq, _ in rows], "<u8").tobytes(),
            lengths=np.array([len(row) for _, _, row in rows], "<u4").tobytes(),
            kept=np.array([sum(each is not None for each in row) for _, _, row in rows], "<u4").tobytes(),
            outputs=[table[:, :2].tobytes(), table[:, 2:].tobytes()],
        )
        stream.out.put_nowait(StreamResponse(answers=answers))

    def _say_error(
        self, stream: FakeStream, handle: int, seq: int, length: int, problem: common_pb2.Error, expected: int
    ) -> None:
        row = inference_pb2.RowError(handle=handle, first_seq=seq, length=length, error=problem, expected_seq=expected)
        stream.out.put_nowait(StreamResponse(answers=inference_pb2.Answers(errors=[row])))


def _replayed_from(wish: inference_pb2.AttachSession) -> int:
    return wish.replay_from if wish.HasField("replay_from") else wish.acked


@asynccontextmanager
async def serving(
    servicer: FakeServicer,
    credentials: grpc.ServerCredentials | None = None,
    *,
    local: str = "127.0.0.1:0",
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
) -> AsyncIterator[str]:
    """Runs a servicer, on a free port unless told otherwise, encrypted if there are credentials. Gives the address."""
    server = grpc.aio.server(interceptors=interceptors, options=[("grpc.so_reuseport", 0)])
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(servicer, server)
    model_pb2_grpc.add_ModelServiceServicer_to_server(servicer, server)
    session_pb2_grpc.add_SessionServiceServicer_to_server(servicer.unary, server)
    port = server.add_insecure_port(local) if credentials is None else server.add_secure_port(local, credentials)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def reciting(text: str) -> FakeServicer:
    """One with models to roll out; those of text recite this one, whatever they are fed."""
    servicer = FakeServicer()
    servicer.models |= rolling_models()
    servicer.rollouts.text = list(text.encode())
    return servicer
