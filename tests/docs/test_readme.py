"""What the README shows works: its shell commands, its calls; and the links of all pages."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.message_factory import GetMessageClass
from typer.models import CommandInfo
from typer.testing import CliRunner

from stepstream_proto.v1 import inference_pb2, model_pb2, session_pb2
from stepstream_server.cli import app
from stepstream_server.cli.admin import administration
from support.pages import PAGES, README, ROOT, blocks, name, output_of
from support.server import serving

PROTOS = (inference_pb2, model_pb2, session_pb2)


def commands() -> list[list[str]]:
    """The README's shell commands, in words."""
    return [shlex.split(line) for block in blocks(README, "sh") for line in block.replace("\\\n", " ").splitlines()]


@pytest.fixture
async def address() -> AsyncIterator[str]:
    """Where the shipped models are served."""
    async with serving(ROOT / "models") as bound:
        yield bound.listen


async def test_a_trained_module_is_saved_and_inspected_as_shown(tmp_path: Path) -> None:
    """The block that saves a module writes the bundle that the commands after it name."""
    (block,) = (block for block in blocks(README, "python") if "bundles import save" in block)
    await output_of(sys.executable, "-c", block, folder=tmp_path)
    (inspect,) = (words for words in commands() if words[:2] == ["stepstream-server", "inspect"])
    described = await output_of(sys.executable, "-m", "stepstream_server", *inspect[1:], folder=tmp_path)
    assert "tide version 1" in described


async def test_a_model_for_load_tests_is_made_as_shown(tmp_path: Path) -> None:
    """`init-model` takes the options shown."""
    (command,) = (words for words in commands() if words[:2] == ["stepstream-server", "init-model"])
    await output_of(sys.executable, "-m", "stepstream_server", *command[1:], folder=tmp_path)
    assert (tmp_path / command[2] / "model.json").is_file()


def test_administrators_commands_are_right(tmp_path: Path) -> None:
    """Every command of the group is shown, and as it is used: without a server its socket is all that is missing."""
    shown = [words[1:] for words in commands() if words[:2] == ["stepstream-server", "admin"]]
    assert {words[1] for words in shown} == {command.name or _name(command) for command in administration.registered_commands}
    for words in shown:
        result = CliRunner().invoke(app, [*words, "--socket", str(tmp_path / "nil")])
        assert (result.exit_code, result.stderr) == (1, f"{tmp_path / 'nil'}: No such file or directory\n")
    (token,) = (words[1:] for words in commands() if words[:2] == ["stepstream-server", "token"])
    assert CliRunner().invoke(app, token).exit_code == 0


def _name(command: CommandInfo) -> str:
    """That of a command which is named after its function."""
    return getattr(command.callback, "__name__", "")


async def test_the_grpcurl_calls_succeed(address: str) -> None:
    """Methods exist, bodies are JSON of their requests, and the server answers them in the order shown."""
    calls = [words for words in commands() if words[0] == "grpcurl"]
    assert [words[-1].rpartition("/")[2] for words in calls] == ["OpenSession", "Step"]
    async with grpc.aio.insecure_channel(address) as channel:
        answers = [await _call(channel, words[-1], words[words.index("-d") + 1]) for words in calls]
    assert len(answers[1].outputs["ahead_9"].numbers) == 21


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every link to a file of the project names one that is there."""
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_anchors_are_headings(page: Path) -> None:
    """Links to a place within a page, the same or another one, lead to one of its headings."""
    for path, anchor in re.findall(r"\]\(([^)#:\s]*)#([^)]+)\)", page.read_text()):
        assert anchor in _anchors(page.parent / path if path else page)


def _anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings: no punctuation, no capitals, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


async def _call(channel: grpc.aio.Channel, path: str, body: str) -> Any:
    """One call as grpcurl makes it."""
    service, _, name = path.partition("/")
    (method,) = (
        method
        for proto in PROTOS
        for each in proto.DESCRIPTOR.services_by_name.values()
        if each.full_name == service
        for method in each.methods
        if method.name == name
    )
    request = json_format.Parse(body, GetMessageClass(method.input_type)())
    serialize, parse = type(request).SerializeToString, GetMessageClass(method.output_type).FromString
    return await channel.unary_unary(f"/{path}", request_serializer=serialize, response_deserializer=parse)(request)
