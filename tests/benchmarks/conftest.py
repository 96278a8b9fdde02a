"""What the generators are tried on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.process import Server, module_command, running


@pytest.fixture(scope="module")
def echo() -> Iterator[Server]:
    """An echo of two inputs and one output."""
    with running(module_command("echo", "--input-bytes", "8", "--output-bytes", "4")) as server:
        yield server
