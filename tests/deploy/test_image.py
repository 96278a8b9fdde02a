"""The Dockerfile, read as text: an image itself can only be built where there is a container engine."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from stepstream_server.config import Settings

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Instruction:
    """One line of a stage: `COPY a b` is verb COPY and text `a b`."""

    stage: str
    verb: str
    text: str


def instructions() -> list[Instruction]:
    """The Dockerfile's instructions, each with the name of the stage it is part of ("" before the first)."""
    found, stage = [], ""
    for line in (ROOT / "deploy/docker/Dockerfile").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        verb, _, text = line.partition(" ")
        if verb == "FROM":
            stage = text.split(" AS ")[1]
        found.append(Instruction(stage, verb, text))
    return found


def only(verb: str, stage: str) -> str:
    """The text of the one instruction of this verb in this stage."""
    (text,) = (each.text for each in instructions() if (each.verb, each.stage) == (verb, stage))
    return text


def test_targets() -> None:
    """There is a CPU and a CUDA image, both on the same runtime; without a target the CPU image is built."""
    bases = dict(each.text.split(" AS ")[::-1] for each in instructions() if each.verb == "FROM")
    assert bases["cpu"] == bases["cuda"] == "runtime"
    assert list(bases)[-1] == "cpu"


def test_base_image_is_pinned() -> None:
    """Every image from outside is one Python release, to the last number, of the version that the tests run on."""
    assert re.fullmatch(r"PYTHON=python:3\.11\.\d+-slim-[a-z]+", only("ARG", ""))
    stages = {each.stage for each in instructions()}
    bases = {each.text.split(" AS ")[0] for each in instructions() if each.verb == "FROM"}
    assert bases - stages == {"${PYTHON}"}


def test_installed_from_the_constraints() -> None:
    """Nothing is installed at a version that the tests did not run with; the CPU image has no torch."""
    installs = {each.stage: each.text for each in instructions() if "pip install" in each.text}
    assert set(installs) == {"install-cpu", "install-cuda"}
    assert all("--constraint constraints.txt" in text for text in installs.values())
    assert "torch" not in installs["install-cpu"]


def test_runs_as_nobody_in_particular() -> None:
    """The server runs as a numbered user, so that Kubernetes can tell that it is not root, and no later stage changes that."""
    users = [(each.stage, each.text) for each in instructions() if each.verb == "USER"]
    assert users == [("runtime", "10001:10001")]


def test_server_is_process_one() -> None:
    """Entry point and arguments are in exec form: no shell stands between SIGTERM and the server."""
    assert json.loads(only("ENTRYPOINT", "runtime")) == ["stepstream-server", "serve"]
    arguments = json.loads(only("CMD", "runtime"))
    assert arguments[arguments.index("--models") + 1] == "/models"
    assert all(arguments[arguments.index(flag) + 1].startswith("0.0.0.0:") for flag in ("--listen", "--metrics"))


def test_copied_files_exist_and_reach_the_builder() -> None:
    """Every COPY source lies in the project and .dockerignore lets it through."""
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = {
        source
        for each in instructions()
        if each.verb == "COPY" and not each.text.startswith("--from")
        for source in each.text.split()[:-1]
    }
    assert sources == let_through
    assert all((ROOT / source).exists() for source in sources)


def test_environment_names_real_settings() -> None:
    """The STEPSTREAM_ variables of the CUDA image are settings that the server accepts."""
    pairs = dict(
        word.split("=") for each in instructions() if each.verb == "ENV" for word in each.text.split() if word.startswith("STEP")
    )
    backend = {name.removeprefix("STEPSTREAM_BACKEND__").lower(): value for name, value in pairs.items()}
    assert Settings.model_validate({"backend": backend}).backend.device == "cuda"


def test_nothing_is_reported_home() -> None:
    """The image turns ONNX Runtime's telemetry off, which is on by default."""
    environments = [each.text for each in instructions() if (each.verb, each.stage) == ("ENV", "runtime")]
    assert "ORT_DISABLE_TELEMETRY=1" in environments
