"""Poison: what is not a number harms the session it came to, and nobody else by a single bit."""

from __future__ import annotations

from pathlib import Path

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from stepstream_proto.v1 import inference_pb2, session_pb2, session_pb2_grpc
from stepstream_server import backends
from stepstream_server.engine.ports import Backend
from support.promised import KINDS, write_model
from support.server import serving
from support.wire import StreamRequest, WireStream, block, u32, u64

SESSIONS, STEPS, VICTIM = 9, 12, 4


@pytest.fixture(params=KINDS)
def cell(request: pytest.FixtureRequest) -> str:
    """Every kind of cell, and a program."""
    return str(request.param)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Backend]:
    """The backends that the server builds, so that a test can reach into a session's state."""
    build, built = backends.build, list[Backend]()

    def build_and_remember(*args: object, **options: object) -> Backend:
        built.append(build(*args, **options))  # type: ignore[arg-type]
        return built[-1]

    monkeypatch.setattr(backends, "build", build_and_remember)
    return built


async def step_all(stream: WireStream, seqs: list[int], readings: NDArray[np.float32]) -> inference_pb2.Answers:
    """One step of every session in one block; answers and errors of however many messages, as one."""
    await stream.send(block(range(SESSIONS), seqs, [1] * SESSIONS, readings))
    total, rows = inference_pb2.Answers(), 0
    while rows < SESSIONS:
        answers = (await stream.receive()).answers
        total.handles += answers.handles
        total.outputs[:] = [b"".join([*total.outputs, *answers.outputs])]
        total.errors.extend(answers.errors)
        rows += len(answers.handles) // 4 + len(answers.errors)
    return total


def by_handle(answers: inference_pb2.Answers) -> dict[int, bytes]:
    """Each answered session's output."""
    handles = np.frombuffer(answers.handles, "<u4").tolist()
    return {handle: answers.outputs[0][4 * row : 4 * row + 4] for row, handle in enumerate(handles)}


async def test_poison_in_input_and_state_stays_where_it_is(cell: str, built: list[Backend], tmp_path: Path) -> None:
    """A NaN reading is refused; a NaN in the state quarantines; reset heals; all neighbours are bitwise undisturbed."""
    write_model(tmp_path / "m", cell, 2, 16, 2, 1)
    readings = np.random.default_rng(5).normal(size=(STEPS, SESSIONS, 2)).astype(np.float32)
    async with serving(tmp_path) as bound, grpc.aio.insecure_channel(bound.listen) as channel:
        async with WireStream(channel) as quiet:
            await quiet.open("m", range(SESSIONS))
            expected = [by_handle(await step_all(quiet, [step] * SESSIONS, readings[step])) for step in range(STEPS)]

        async with WireStream(channel) as stream:
            opened = await stream.open("m", range(SESSIONS))
            sessions = session_pb2_grpc.SessionServiceStub(channel)
            victim = await sessions.GetSession(session_pb2.GetSessionRequest(model="m", id=opened[VICTIM].id))
            seqs, poisoned = [0] * SESSIONS, readings.copy()
            poisoned[3, VICTIM, 1] = np.nan
            for step in range(STEPS):
                if step == 6:
                    plant_nan(built[0], victim.session.slot, "c" if cell == "lstm" else "h")
                answers = await step_all(stream, seqs, poisoned[step])
                outputs = by_handle(answers)
                neighbours = set(range(SESSIONS)) - {VICTIM}
                assert {handle: outputs[handle] for handle in neighbours} == {h: expected[step][h] for h in neighbours}
                if step < 3:
                    assert outputs[VICTIM] == expected[step][VICTIM]
                reasons = [error.error.reason for error in answers.errors]
                assert reasons == {3: ["NON_FINITE_INPUT"], 6: ["NON_FINITE_STATE"]}.get(
                    step, ["SESSION_QUARANTINED"] if step > 6 else []
                )
                seqs = [seq + (handle in outputs) for handle, seq in enumerate(seqs)]
            await stream.send(StreamRequest(reset=inference_pb2.Reset(handles=u32([VICTIM]), seqs=u64([seqs[VICTIM]]))))
            await stream.receive()
            await stream.send(block([VICTIM], [seqs[VICTIM] + 1], [1], readings[0, VICTIM]))
            assert (await stream.receive()).answers.outputs[0] == expected[0][VICTIM]


def plant_nan(backend: Backend, slot: int, name: str) -> None:
    """Spoils one number of one session's state. Nothing is in flight when a test calls this."""
    slots = np.array([slot])
    states = backend.read(slots)
    states[name][0, 1, 5] = np.nan
    backend.write(slots, states)
