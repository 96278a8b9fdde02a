"""A stream that breaks in the middle of a real model's launches: neighbours and heirs get the very bits they would have had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from stepstream_proto.v1 import inference_pb2
from stepstream_server import backends
from stepstream_server.engine.ports import Backend, Computed
from support.front_door import Gate, wait_for
from support.promised import KINDS, write_model
from support.server import serving
from support.wire import StreamRequest, WireStream, block, steps_of

SESSIONS, VICTIMS, STEPS = 7, 3, 24  # the first ones are cut

Outputs = dict[tuple[int, int], bytes]  # by handle and step


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Holds launches of the backend that the server builds."""
    build, gate = backends.build, Gate()

    def build_with_gate(*args: object, **options: object) -> Backend:
        backend: Backend = build(*args, **options)  # type: ignore[arg-type]
        collect = backend.collect

        def collect_when_open(ticket: Any) -> Computed:
            gate()
            return collect(ticket)

        monkeypatch.setattr(backend, "collect", collect_when_open)
        return backend

    monkeypatch.setattr(backends, "build", build_with_gate)
    return gate


async def send(stream: WireStream, handles: range, readings: NDArray[np.float32]) -> None:
    """All steps of some sessions, a row each."""
    rows = readings[handles.start : handles.stop].reshape(-1, readings.shape[-1])
    await stream.send(block(handles, [0] * len(handles), [STEPS] * len(handles), rows))


async def receive(stream: WireStream, steps: int) -> Outputs:
    """So many outputs, none of them refused."""
    outputs: Outputs = {}
    while len(outputs) < steps:
        answers = (await stream.receive()).answers
        assert not answers.errors
        handles, seqs = steps_of(answers)
        keys = zip(handles.tolist(), seqs.tolist(), strict=True)
        outputs |= {key: answers.outputs[0][4 * at : 4 * at + 4] for at, key in enumerate(keys)}
    return outputs


@pytest.mark.parametrize("cell", KINDS)
async def test_a_cut_in_the_middle_of_a_launch_changes_nobodys_bits(cell: str, gate: Gate, tmp_path: Path) -> None:
    """What was computed for the broken stream waits in its sessions, bit by bit what an undisturbed one hears."""
    write_model(tmp_path / "m", cell, 2, 16, 2, 1)
    readings = np.random.default_rng(11).normal(size=(SESSIONS, STEPS, 2)).astype(np.float32)
    async with serving(tmp_path) as bound, grpc.aio.insecure_channel(bound.listen) as channel:
        async with WireStream(channel) as quiet:
            await quiet.open("m", range(SESSIONS))
            await send(quiet, range(SESSIONS), readings)
            expected = await receive(quiet, SESSIONS * STEPS)
        async with WireStream(channel) as mates, WireStream(channel) as heir:
            victim = WireStream(channel)
            opened = await victim.open("m", range(VICTIMS))
            await mates.open("m", range(VICTIMS, SESSIONS))
            gate.close()
            await send(victim, range(VICTIMS), readings)
            await send(mates, range(VICTIMS, SESSIONS), readings)
            await wait_for(gate.reached)
            victim.cut()
            gate.open()
            mine = {key: value for key, value in expected.items() if key[0] < VICTIMS}
            others = {key: value for key, value in expected.items() if key[0] >= VICTIMS}
            assert await receive(mates, len(others)) == others
            asked = [
                inference_pb2.AttachSession(handle=handle, id=each.id, secret=each.secret) for handle, each in enumerate(opened)
            ]
            await heir.send(StreamRequest(attach=inference_pb2.Attach(model="m", sessions=asked)))
            applied = sum(each.next_seq for each in (await heir.receive()).attached.sessions)
            kept = await receive(heir, applied)
            assert kept == {key: mine[key] for key in kept}
            await send(heir, range(VICTIMS), readings)
            assert await receive(heir, len(mine)) == mine
