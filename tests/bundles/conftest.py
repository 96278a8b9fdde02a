"""Two bundles that use every field of a manifest."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepstream_server.bundles import Bundle, write
from stepstream_server.bundles.declare import declare
from stepstream_server.spec import CellSpec, EmbeddingFront, FeaturesFront, HeadSpec, ModelSpec
from support.spoil import random_weights


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
        text="words",
    )
    return write(tmp_path / "text", spec, random_weights(spec))
