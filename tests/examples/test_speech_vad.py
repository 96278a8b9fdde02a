"""The voice activity detector over recordings, as its script feeds them to a server, and what is said where that cannot be."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from programs.fetch import RECORDINGS, SILERO
from programs.published import VAD
from speech import evaluate_vad, vad
from speech.evaluate_vad import Judged, ratio_rows, tables
from speech.mixtures import Mixture, mixture
from speech.segments import RATE, STEP, Segment
from speech.vad import detector, listen, paced, steps_of
from speech.vad_scores import match
from speech.wav import write

from stepstream import Client
from stepstream_server.bundles import Bundle
from support.background import in_background
from support.published import require
from support.server import serving

SHIPPED = Path(__file__).parents[2] / "models"
PAGE = Path(evaluate_vad.__file__).with_name("VAD.md")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The detector, in a folder beside a model of something else."""
    require(SILERO, RECORDINGS)
    folder = tmp_path_factory.mktemp("models")
    (folder / "ecg").symlink_to(SHIPPED / "ecg")
    return VAD.bundle(folder / "vad")


@pytest.fixture(scope="module")
def server(bundle: Bundle) -> Iterator[str]:
    """The address at which both are served."""
    with in_background(serving(bundle.path.parent, engine={"max_batch": 4})) as background:
        yield background.value.listen


@pytest.fixture(scope="module")
def made() -> Mixture:
    """Phrases with pauses of silence."""
    require(RECORDINGS)
    return mixture(False, None, 0, 0)


@pytest.fixture
def recording(made: Mixture, tmp_path: Path) -> Path:
    """The mixture, as a file."""
    write(tmp_path / "made.wav", made.samples, RATE)
    return tmp_path / "made.wav"


async def heard(server: str, samples: np.ndarray) -> list[Segment]:
    """Segments of a recording that is fed as fast as it goes."""
    async with Client(server) as client, detector(client, "vad") as session:
        return [segment async for segment in listen(session, samples, speed=np.inf)]


async def test_each_phrase_is_told_as_a_segment_of_its_own(server: str, made: Mixture) -> None:
    """Within half a second of its end, in the recording's time, and nothing else is."""
    told = await heard(server, made.samples)
    found = match(made.spans, told)
    assert (found.found, len(found.ends), found.made_up) == (len(made.spans), len(made.spans), 0)
    assert all(0 < delay < 500 for _, delay in found.ends)


async def test_a_recording_that_stops_within_a_word_ends_its_last_segment_there(server: str, made: Mixture) -> None:
    """Though the last step was not full."""
    begin, end = made.spans[0]
    samples = made.samples[: (begin + end) // 2 // STEP * STEP + 7]
    assert [(each.end, each.told) for each in await heard(server, samples)] == [(len(samples), len(samples) - 7 + STEP)]


def test_the_last_step_is_filled_up_with_silence() -> None:
    """And full scale is 1."""
    first, last = steps_of(np.full(STEP + 2, -32768, np.int16))
    assert (first == -1).all()
    assert last[:2].tolist() == [-1, -1]
    assert not last[2:].any()


async def test_steps_come_when_their_last_sample_has_been_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as fast as in life, by the loop's clock."""
    now = 100.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    with monkeypatch.context() as patched:
        patched.setattr(asyncio.get_running_loop(), "time", lambda: now)
        patched.setattr(asyncio, "sleep", sleep)
        times = [now async for _ in paced(np.zeros(2 * STEP + 1, np.int16), speed=2.0)]
    assert times == pytest.approx([100.016, 100.032, 100.048])


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The script's exit code."""
    monkeypatch.setattr(sys, "argv", ["vad.py", *arguments])
    return vad.main()


def test_the_script_prints_segments(
    server: str, recording: Path, made: Mixture, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line for each."""
    assert run(monkeypatch, str(recording), "--server", server, "--speed", "1000") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(made.spans)
    assert all(re.fullmatch(r"\d+\.\d\d s to \d+\.\d\d s", line) for line in lines)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("speech", "the server has no model speech, only ecg, vad: --serve starts a server that has it; --pack makes the bundle"),
        ("ecg", "ecg: expected a model from audio to speech, [('audio', (512,)), ('speech', (1,))], got [('mv', (1,)), "),
    ],
)
def test_a_server_without_the_model_is_told(
    server: str, recording: Path, model: str, why: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or with another of that name."""
    assert run(monkeypatch, str(recording), "--server", server, "--model", model) == 1
    assert why in capsys.readouterr().err


def test_recordings_that_cannot_be_fed_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anybody looks for a server."""
    (tmp_path / "empty.wav").touch()
    for name, why in {"empty.wav": "expected a wav file", "none.wav": "No such file", ".": "Is a directory"}.items():
        assert run(monkeypatch, str(tmp_path / name), "--server", "127.0.0.1:1") == 1
        assert why in capsys.readouterr().err


def test_what_was_not_fetched_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the command that helps."""
    monkeypatch.setattr(vad, "MODELS", tmp_path)
    monkeypatch.setattr("programs.fetch.FOLDER", tmp_path)
    assert run(monkeypatch, "--pack") == 1
    assert "python examples/programs/fetch.py" in capsys.readouterr().err


async def test_ctrl_c_stops_it(server: str, recording: Path) -> None:
    """With what was found until then, and no traceback."""
    command = [sys.executable, vad.__file__, str(recording), "--server", server]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, "--speed", "4", stdout=pipe, stderr=pipe, env=os.environ)
    assert process.stdout is not None
    assert re.fullmatch(rb"\d+\.\d\d s to \d+\.\d\d s\n", await process.stdout.readline())
    process.send_signal(signal.SIGINT)
    _, stderr = await process.communicate()
    assert (process.returncode, stderr.decode()) == (130, "Stopped.\n")


def test_the_page_shows_the_figures(bundle: Bundle, long_run: bool) -> None:
    """Those with noise 10 dB below speech, or all of them with --long."""
    if long_run:
        assert all(table in PAGE.read_text() for table in tables(Judged(bundle)))
        return
    assert "\n".join(ratio_rows(Judged(bundle, ["10"]), "10")) in PAGE.read_text()
