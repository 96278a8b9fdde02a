"""What the page on the command line and the README's section show, as their readers would try it."""

from __future__ import annotations

import itertools
import re
import shutil
from pathlib import Path

import pytest

from stepstream.cli.app import app
from stepstream_server.app import Bound
from support.command import Done, shell, stepstream
from support.pages import README, ROOT, blocks

PAGE = ROOT / "docs" / "cli.md"
METRICS = "127.0.0.1:8102"  # as `make serve` has them
LINES = r"((?:(?!```).*\n)+)"
SHOWN = re.compile(rf"^```sh\n{LINES}```\n\n```\n{LINES}```", re.MULTILINE)
NUMBER = re.compile(r"-?\d+\.\d+")

pytestmark = pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed: scripts/apt-packages")


@pytest.fixture(scope="module")
def models() -> Path:
    """Those that `make serve` serves."""
    return ROOT / "models"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where examples are tried: the readings are there, and files that they write do not stay in the project."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


async def tried(text: str, bound: Bound, folder: Path) -> Done:
    """Runs a block of the pages."""
    text = text.replace(".venv/bin/", "").replace(METRICS, bound.metrics)
    return await shell(bound.listen, text, folder)


async def test_the_pages_examples_run_one_after_the_other(bound: Bound, folder: Path) -> None:
    """In one shell, as somebody who tries them all would; none of them complains."""
    done = await tried("".join(blocks(PAGE, "sh")), bound, folder)
    assert done.code == 0, done.stderr
    assert all(line.startswith("wrote bed-") for line in done.stderr.splitlines()), done.stderr
    first, rest = ((folder / name).read_text() for name in ("first.csv", "rest.csv"))
    whole = await tried("stepstream stream ecg < examples/ecg/held_out.csv", bound, folder)
    assert first + rest == whole.stdout


SHOWN_OUTPUTS = [
    *SHOWN.findall(README.read_text()),
    *SHOWN.findall(PAGE.read_text()),
    *re.findall(r"^(echo .*?) +# (\{.*\})$", PAGE.read_text(), re.MULTILINE),
]


@pytest.mark.parametrize(("command", "output"), SHOWN_OUTPUTS, ids=itertools.count())
async def test_what_is_shown_is_what_comes(command: str, output: str, bound: Bound, folder: Path) -> None:
    """Output shown below a command, or behind it, is the command's; its numbers as closely as another processor computes them."""
    done = await tried(command, bound, folder)
    assert NUMBER.sub("", done.stdout).strip() == NUMBER.sub("", output).strip()
    assert [float(each) for each in NUMBER.findall(done.stdout)] == pytest.approx(
        [float(each) for each in NUMBER.findall(output)], abs=1e-4
    )


def test_there_are_outputs_to_compare() -> None:
    """The README's, the page's three, and the one behind a command."""
    assert len(SHOWN_OUTPUTS) == 5


@pytest.mark.parametrize("name", [command.name or "" for command in app.registered_commands])
async def test_every_command_has_help_with_examples(name: str) -> None:
    """The examples are calls of the command, and the page knows it."""
    told = await stepstream("", name, "--help")
    assert told.code == 0
    examples = told.stdout.partition("Examples:\n")[2].partition("\n\n")[0]
    assert f"stepstream {name}" in examples
    assert f"`{name}`" in PAGE.read_text()
