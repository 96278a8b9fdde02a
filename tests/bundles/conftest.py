"""Bundles that use every field of a manifest: two cells, two programs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from stepstream_server.bundles import Bundle, write, write_program
from stepstream_server.bundles.declare import declare
from stepstream_server.bundles.program.confinement import Confinement
from stepstream_server.bundles.program.translate import spec_of
from stepstream_server.spec import (
    CellSpec,
    Constant,
    EmbeddingFront,
    FeaturesFront,
    GraphState,
    GraphTensor,
    HeadSpec,
    ModelSpec,
    Program,
    StateSpec,
    TensorSpec,
    TextSpec,
)
from support.graphs import graph
from support.spoil import random_weights

# A detector of voices, as people publish them: four samples behind two of the step before, a rate, a state [2, B, 3].
VOICE = """
voice (float[B,N] input, float[2,B,3] state, int64 sr) => (float[B,1] output, float[2,B,3] stateN) {
    sum = MatMul(input, ones)
    rate = Cast<to=1>(sr)
    share = Div(sum, rate)
    stateN = Add(state, share)
    last = Gather<axis=0>(stateN, top)
    output = MatMul(last, thirds)
}
"""
# A speaker of five tokens that remembers the one before.
SPEAKER = """
speaker (int64[B] token, int32[B] before) => (float[B,5] logits, int32[B] before_out) {
    before_out = Cast<to=6>(token)
    row = Gather(table, token)
    other = Gather(table, before)
    logits = Add(row, other)
}
"""


@pytest.fixture
def heart_spec() -> ModelSpec:
    """Numbers in: a normaliser with differences, an LSTM of two layers, one head of each kind that numbers allow."""
    return declare(
        "heart",
        CellSpec("lstm", 2, 4, 2),
        [
            HeadSpec("next", "quantiles", 3, 2.0, 0.5, "mv", (0.1, 0.5, 0.9), predicts="mv", description="mV"),
            HeadSpec("rate", "regression", 1, scale=60.0),
            HeadSpec("rhythm", "classes", 2, labels=("sinus", "ectopic")),
        ],
        front=FeaturesFront((0.1, 0.0), (0.5, 0.25), differences=True),
        input_name="mv",
        input_description="lead II, mV",
        version=3,
        description="Listens to a heart.",
        licence="ODC-By-1.0",
        provenance="Recorded for this test.",
        time_step_seconds=0.0125,
        extra={"patients": [1, 2]},
    )


@pytest.fixture
def heart(tmp_path: Path, heart_spec: ModelSpec) -> Bundle:
    """`heart_spec` on disk."""
    return write(tmp_path / "heart", heart_spec, random_weights(heart_spec))


@pytest.fixture
def text(tmp_path: Path) -> Bundle:
    """Tokens in, next token out."""
    spec = declare(
        "text",
        CellSpec("gru", 3, 4, 1),
        [HeadSpec("next", "next_token", 5, labels=("a", "b", "c", "d", "e"))],
        front=EmbeddingFront(5, 3),
        input_name="token",
        text=TextSpec("words", ("a", "b", "c", "d", "e")),
    )
    return write(tmp_path / "text", spec, random_weights(spec))


def voice_graph() -> bytes:
    """The file of `VOICE`."""
    ones = np.ones((6, 1), np.float32)
    return graph(VOICE, top=np.array(1), ones=ones, thirds=ones[:3] / 3).SerializeToString()


@pytest.fixture
def voice_spec() -> ModelSpec:
    """Numbers in, behind those of the step before; a constant, a stored initial state, a prediction of one step's numbers."""
    program = Program(
        inputs=(GraphTensor("input"),),
        carry=(2,),
        states=(GraphState("state", "stateN", 1),),
        outputs=(GraphTensor("output"),),
        constants=(Constant("sr", "int64", (), (16000,)),),
    )
    return spec_of(
        program,
        inputs=(TensorSpec("audio", "float32", (4,), "mono", range=1.0),),
        outputs=(TensorSpec("speech", "float32", (1,), "probability"),),
        states=[StateSpec("state", (2, 3), "float32", (0.0, 0.5, 1.0, 1.5, 2.0, 2.5))],
        heads=[HeadSpec("speech", "classes", 1, labels=("voice",), description="probability")],
        name="voice",
        version=2,
        description="Hears voices.",
        licence="MIT",
        provenance="Made for this test.",
        time_step_seconds=0.25,
        extra={"rooms": 3},
    )


@pytest.fixture
def voice(tmp_path: Path, voice_spec: ModelSpec) -> Bundle:
    """`voice_spec` on disk."""
    return write_program(tmp_path / "voice", voice_spec, voice_graph())


@pytest.fixture
def speaker(tmp_path: Path) -> Bundle:
    """Tokens in, next token out, and a state of whole numbers."""
    program = Program((GraphTensor("token"),), (0,), (GraphState("before", "before_out"),), (GraphTensor("logits"),))
    spec = spec_of(
        program,
        inputs=(TensorSpec("token", "int64", (), limit=5, text=TextSpec("words", ("a", "b", "c", "d", "e"))),),
        outputs=(TensorSpec("next", "float32", (5,)),),
        states=[StateSpec("before", (), "int32", (4,))],
        heads=[HeadSpec("next", "next_token", 5, labels=("a", "b", "c", "d", "e"))],
        name="speaker",
        version=1,
    )
    table = np.arange(25, dtype=np.float32).reshape(5, 5)
    return write_program(tmp_path / "speaker", spec, graph(SPEAKER, table=table).SerializeToString())


@pytest.fixture(scope="module")
def confinement() -> Iterator[Confinement]:
    """One process for all files that a module looks at."""
    with Confinement() as confinement:
        yield confinement
