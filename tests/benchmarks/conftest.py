"""What the generators are tried on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.process import Server, module_command, running
from stepstream_server.bundles import Bundle, init_model


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A model of two inputs, four units and three outputs."""
    return init_model(tmp_path / "small", "lstm", 2, 4, 1, 3, seed=0)


@pytest.fixture(scope="module")
def echo() -> Iterator[Server]:
    """An echo of two inputs and one output."""
    with running(module_command("echo", "--input-bytes", "8", "--output-bytes", "4")) as server:
        yield server


@pytest.fixture(scope="module")
def oip_echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An echo of the Open Inference Protocol for `small`: two inputs and three outputs."""
    bundle = init_model(tmp_path_factory.mktemp("models") / "small", "lstm", 2, 4, 1, 3, seed=0)
    with running(module_command("oip_echo", str(bundle.path))) as server:
        yield server
