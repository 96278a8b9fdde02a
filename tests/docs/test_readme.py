"""What the README shows works: its Python, its shell commands, its calls, its links."""

from __future__ import annotations

import asyncio
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

from stepstream_proto.v1 import inference_pb2, model_pb2, session_pb2
from support.server import serving

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "deploy" / "README.md", ROOT / "CONTRIBUTING.md"]
ADDRESS = "127.0.0.1:8101"  # where the README's server listens
PROTOS = (inference_pb2, model_pb2, session_pb2)


def blocks(language: str) -> list[str]:
    """The README's code blocks in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    """The README's shell commands, in words."""
    return [shlex.split(line) for block in blocks("sh") for line in block.replace("\\\n", " ").splitlines()]


@pytest.fixture
async def address() -> AsyncIterator[str]:
    """Where the shipped models are served."""
    async with serving(ROOT / "models") as bound:
        yield bound.listen


async def output_of(*command: str, folder: Path) -> str:
    """What a command prints, on either stream; fails if the command does."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0, printed.decode()
    return printed.decode()


@pytest.mark.parametrize("block", [block for block in blocks("python") if ADDRESS in block])
async def test_python_of_clients_runs(block: str, address: str, tmp_path: Path) -> None:
    """Each client block is a whole program that works against a server and prints something."""
    assert await output_of(sys.executable, "-W", "error", "-c", block.replace(ADDRESS, address), folder=tmp_path)


def test_there_are_clients_to_run() -> None:
    """The test above does not pass for want of blocks."""
    assert sum(ADDRESS in block for block in blocks("python")) == 2


async def test_a_trained_module_is_saved_and_inspected_as_shown(tmp_path: Path) -> None:
    """The block that saves a module writes the bundle that the commands after it name."""
    (block,) = (block for block in blocks("python") if "bundles import save" in block)
    await output_of(sys.executable, "-c", block, folder=tmp_path)
    (inspect,) = (words for words in commands() if words[:2] == ["stepstream-server", "inspect"])
    described = await output_of(sys.executable, "-m", "stepstream_server", *inspect[1:], folder=tmp_path)
    assert "tide version 1" in described


async def test_a_model_for_load_tests_is_made_as_shown(tmp_path: Path) -> None:
    """`init-model` takes the options shown."""
    (command,) = (words for words in commands() if words[:2] == ["stepstream-server", "init-model"])
    await output_of(sys.executable, "-m", "stepstream_server", *command[1:], folder=tmp_path)
    assert (tmp_path / command[2] / "model.json").is_file()


async def test_the_grpcurl_calls_succeed(address: str) -> None:
    """Methods exist, bodies are JSON of their requests, and the server answers them in the order shown."""
    calls = [words for words in commands() if words[0] == "grpcurl"]
    assert [words[-1].rpartition("/")[2] for words in calls] == ["OpenSession", "Step"]
    async with grpc.aio.insecure_channel(address) as channel:
        answers = [await _call(channel, words[-1], words[words.index("-d") + 1]) for words in calls]
    assert len(answers[1].outputs["ahead_9"].numbers) == 21


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every link to a file of the project names one that is there."""
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def test_anchors_are_headings() -> None:
    """Links within the README lead to one of its headings."""
    headings = {heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", README, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= headings


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
