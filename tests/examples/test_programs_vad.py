"""A voice activity detector that others published, served: its probabilities are those that ONNX Runtime gives by hand."""

from __future__ import annotations

import asyncio
import json
import wave
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from programs.fetch import RECORDINGS, SILERO, files
from programs.published import CONTEXT, SAMPLES, VAD

from stepstream import Client
from stepstream_server.bundles import pack, propose
from support.published import require
from support.server import serving

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def recordings() -> list[Floats]:
    """Speech of five recordings, in whole steps [T, SAMPLES]."""
    require(SILERO, RECORDINGS)
    return [_read(path) for path in files(RECORDINGS)]


def _read(path: Path) -> Floats:
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / np.float32(32768)
    return samples[: len(samples) // SAMPLES * SAMPLES].reshape(-1, SAMPLES)


def _by_hand(session: ort.InferenceSession, steps: Floats) -> Floats:
    """Probabilities [T, 1] of one session at a time. The caller keeps the state, and the samples before a step."""
    context, state = np.zeros((1, CONTEXT), np.float32), np.zeros((2, 1, 128), np.float32)
    found = []
    for samples in steps:
        fed = np.concatenate([context, samples[None]], axis=1)
        output, state = session.run(None, {"input": fed, "state": state, "sr": np.array(16_000)})
        context = fed[:, -CONTEXT:]
        found.append(output[0])
    return np.array(found)


@pytest.fixture(scope="module")
def expected(recordings: list[Floats]) -> list[Floats]:
    """The probabilities of each recording, computed by hand."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(VAD.path, options, providers=["CPUExecutionProvider"])
    return [_by_hand(session, each) for each in recordings]


async def test_probabilities_are_those_of_the_runtime_by_hand_to_the_bit(
    recordings: list[Floats], expected: list[Floats], tmp_path: Path
) -> None:
    """Ten sessions at once: each recording step by step, and in chunks beside it."""
    VAD.bundle(tmp_path / "vad")

    async def steps(client: Client, audio: Floats) -> Floats:
        async with client.open_session("vad") as session:
            return np.array([(await session.step(each))["speech"] for each in audio])

    async def chunks(client: Client, audio: Floats) -> Floats:
        async with client.open_session("vad") as session:
            parts = [await session.chunk(part) for part in np.array_split(audio, 7)]
            return np.concatenate([part["speech"] for part in parts])

    async with serving(tmp_path) as bound, Client(bound.listen) as client:
        ways = [way(client, each) for way in (steps, chunks) for each in recordings]
        found = await asyncio.gather(*ways)
    for way, wanted in zip(found, [*expected, *expected], strict=True):
        assert np.array_equal(way, wanted)
        assert wanted.max() > 0.9  # somebody speaks


def test_completed_proposal_is_the_bundle(long_run: bool, tmp_path: Path) -> None:
    """The draft of `propose`, with a few fields put right, is packed as the model that is served."""
    if not long_run:
        pytest.skip("with --long")
    require(SILERO)
    draft = json.loads(propose(VAD.path).text)
    [audio], [speech] = draft["inputs"], draft["outputs"]
    draft |= {"name": "vad", "time_step_seconds": 0.032}
    audio |= {"name": "audio", "shape": [SAMPLES], "range": 1.0, "carry": CONTEXT}
    speech |= {"name": "speech"}
    packed = pack(VAD.path, json.dumps(draft), tmp_path / "packed")
    assert packed.warnings == []
    assert packed.bundle.spec.fingerprint == VAD.bundle(tmp_path / "vad").spec.fingerprint
