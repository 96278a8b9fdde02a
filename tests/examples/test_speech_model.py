"""The shipped digits bundle, through the backend that serves it and over the wire, and the figures that its README shows."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from speech import fetch, held_out, voices
from speech.decoding import Decoder
from speech.digits import listen
from speech.evaluate import BUNDLE, hardships, measure, tables
from speech.features import BANDS, FRAMES, RATE, SPAN, STEP, STEP_SECONDS, Floats, LogMel
from speech.joined import Utterance
from speech.scores import out_at, score, serve
from speech.voices import WORDS

from stepstream import Client
from stepstream_server.bundles import Bundle, load
from stepstream_server.spec import FeaturesFront, cell_model
from support.published import demand
from support.server import serving

LABELS = ("-", *WORDS)
README = (Path(fetch.__file__).parent / "README.md").read_text()


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The bundle that is shipped."""
    return load(BUNDLE)


@pytest.fixture
def recordings() -> dict[str, list[Utterance]]:
    """Three strings of each person."""
    demand(fetch.missing())
    return {name: held_out.person(name, 3) for name in fetch.PEOPLE}


def test_the_bundle_is_what_the_readme_says(bundle: Bundle) -> None:
    """Two frames in per step, scores of the blank and eleven words out."""
    spec = bundle.spec
    assert (spec.name, spec.version, spec.time_step_seconds, cell_model(spec).cell.kind) == ("digits", 1, STEP_SECONDS, "lstm")
    assert [(tensor.name, tensor.dtype, tensor.shape) for tensor in spec.inputs] == [("frames", "float32", (FRAMES * BANDS,))]
    assert [(head.name, head.kind, head.labels) for head in spec.heads] == [("symbol", "classes", LABELS)]
    assert isinstance(cell_model(spec).front, FeaturesFront)
    assert spec.licence.startswith("Apache-2.0")
    assert sum(file.stat().st_size for file in BUNDLE.iterdir()) < 1_000_000


def test_nothing_is_heard_in_silence(bundle: Bundle) -> None:
    """Digital silence, and a minute of hiss."""
    hiss = np.random.default_rng(0).normal(0, 1e-3, 60 * RATE).astype(np.float32)
    said = [Utterance(samples, (), ()) for samples in (np.zeros(5 * RATE, np.float32), hiss)]
    assert [Decoder().feed(scores) for scores in serve(bundle, said)] == [[], []]


def test_a_label_is_out_with_the_last_sample_of_its_step() -> None:
    """Delays are counted from the samples that the client has to wait for."""
    for step in (0, 7):
        samples = round(out_at(step) * RATE)
        assert len(LogMel().feed(np.zeros(samples))) == step + 1
        assert len(LogMel().feed(np.zeros(samples - 1))) == step
    said = Utterance(np.zeros(5 * STEP + SPAN, np.float32), (1, 3), (SPAN, SPAN + STEP))
    scores = np.eye(len(LABELS), dtype=np.float32)[[0, 2, 0, 5, 0, 0]]  # "one" a step late; "four" instead of "three"
    found = score([said], [scores])
    assert (found.digits, found.error, found.right) == (2, 0.5, {1: 1.0, 3: 0.0})
    np.testing.assert_allclose(found.delays, [STEP_SECONDS])


async def test_what_is_heard_over_the_wire_is_what_was_measured(
    bundle: Bundle, recordings: dict[str, list[Utterance]], tmp_path: Path
) -> None:
    """Word for word, in sessions side by side."""
    utterances = [each for several in recordings.values() for each in several]
    expected = [[label for _, label in Decoder().feed(scores)] for scores in serve(bundle, utterances)]

    async def at_once(samples: Floats) -> AsyncIterator[Floats]:
        yield samples

    async def heard(client: Client, utterance: Utterance) -> list[int]:
        async with client.open_session("digits") as session:
            return [word.label async for word in listen(session, at_once(utterance.samples))]

    shutil.copytree(BUNDLE, tmp_path / "digits")
    async with serving(tmp_path) as bound, Client(bound.listen) as client:
        assert (await client.model("digits")).outputs[0].labels == LABELS
        found = await asyncio.gather(*(heard(client, each) for each in utterances))
    assert found == expected


def test_the_readme_shows_the_figures_of_the_bundle(bundle: Bundle) -> None:
    """Its tables are what evaluate.py prints; a rounding of another processor may tip a word, or move one by a step."""
    demand(fetch.missing() or voices.missing())
    printed = tables(measure(bundle)).splitlines()
    shown = README[README.index(printed[0]) :].splitlines()[: len(printed)]
    for line, expected in zip(shown, printed, strict=True):
        assert line.split(" | ")[0] == expected.split(" | ")[0]
        tolerance = [0, 1, 20, 20] if " ms " in line else 3  # digits, per cent, milliseconds; shares in per cent
        np.testing.assert_array_less(np.abs(np.subtract(_figures(line), _figures(expected))), np.add(tolerance, 1e-9))


def test_the_readme_shows_what_a_long_session_and_noise_do(bundle: Bundle, long_run: bool) -> None:
    """One row of the table that evaluate.py prints."""
    if not long_run:
        pytest.skip("with --long")
    demand(fetch.missing())
    name = "Allison Smith"
    expected = hardships(bundle, {name: held_out.person(name)}).splitlines()[-1]
    [shown] = [line for line in README.splitlines() if line.startswith(f"| {name} |") and line.count("|") == expected.count("|")]
    np.testing.assert_allclose(_figures(shown), _figures(expected), atol=1)


def _figures(row: str) -> list[float]:
    """The numbers of a table's row, behind its name."""
    return [float(figure) for figure in re.findall(r"-?\d+(?:\.\d+)?", row.partition(" | ")[2])]
