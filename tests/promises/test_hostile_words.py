"""Words of strangers: wherever they are planted, none of them reaches the log unescaped."""

from __future__ import annotations

import asyncio
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from support.hostile.connection import ask, write_to
from support.hostile.filling import BAD_TEXT, NOT_UTF8
from support.hostile.frames import call, goaway, hello
from support.hostile.malformed import Case, planted
from support.hostile.methods import offered
from support.hostile.models import opened, write_models
from support.hostile.sending import Sender
from support.hostile.watched import Watched, events, watched
from support.hostile.wild import FORGED

PATH = "/stepstream.v1.ModelService/ListModels"
SIGN = "forged"  # in every word that is planted
WORDS = [
    FORGED,
    f"{SIGN}\r\n{SIGN}",
    f"\x1b[2J\x1b]0;{SIGN}\x07",
    f"{SIGN}\0{SIGN}",
    f"\u2028{SIGN}\x85{SIGN}\u202e",
    SIGN + BAD_TEXT,
]
HEADERS = [  # that gRPC or the server reads
    b"user-agent",
    b"grpc-timeout",
    b"grpc-encoding",
    b"grpc-accept-encoding",
    b"stepstream-client",
    b"stepstream-stream",
    b"triton_grpc_error",
]
LINE_OF_OURS = re.compile(r"\d{4}-\d\d-\d\dT\S+Z \[\w+ *\] ")  # of the console


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a model of numbers and one of tokens."""
    return write_models(tmp_path_factory.mktemp("models"))


def as_bytes(word: str) -> bytes:
    """Encodes the part of a word that goes over the wire where no message is around it."""
    return word.encode().replace(BAD_TEXT.encode(), NOT_UTF8)


def frames(word: bytes) -> Iterator[bytes]:
    """Connections over HTTP/2 with a word in every place that is no message."""
    yield hello(call(1, PATH, b"", (b"x-planted", word)))
    yield hello(call(1, PATH, b"", (b"x-planted-bin", word)))
    yield hello(call(1, PATH, b"", (word, b"planted")))
    for name in HEADERS:
        yield hello(call(1, PATH, b"", (name, word)))
    yield hello(call(1, word))
    yield hello(call(1, b"/" + word + b"/" + word))
    yield hello(call(1, b"/stepstream.v1.ModelService/" + word))
    yield hello(call(1, PATH, word))
    yield hello(call(1, PATH), goaway(word))


def requests(word: bytes) -> Iterator[bytes]:
    """HTTP/1.1 with a word in every place."""
    yield b"GET /" + word + b" HTTP/1.1\r\n\r\n"
    yield b"GET /metrics?name[]=" + word + b" HTTP/1.1\r\n\r\n"
    yield word + b" /metrics HTTP/1.1\r\n\r\n"
    yield b"GET /metrics " + word + b"\r\n\r\n"
    for name in (b"Host", b"Accept", b"User-Agent", b"Content-Length", word):
        yield b"GET /metrics HTTP/1.1\r\n" + name + b": " + word + b"\r\n\r\n"
    yield b"GET /metrics HTTP/1.1\r\nAccept: text/plain; version=" + word + b"\r\n\r\n"
    yield word


async def plant(server: Watched) -> None:
    """Says every word in every place."""
    words, addresses = [as_bytes(word) for word in WORDS], (server.address, server.metrics_address)
    await asyncio.gather(
        *(ask(server.address, data) for word in words for data in frames(word)),
        *(write_to(address, data) for word in words for data in requests(word) for address in addresses),
        *(write_to(server.address, hello(goaway(word))) for word in words),
    )
    async with grpc.aio.insecure_channel(server.server.listen, options=[("grpc.primary_user_agent", FORGED)]) as channel:
        known = await opened(channel)
    sender = Sender(server.server.listen)
    said = ((method, message) for method in offered() for word in WORDS for message in planted(method, known, word))
    await sender.send(Case(0, number, method, [message]) for number, (method, message) in enumerate(said))
    assert not sender.wrong, "\n\n".join(sender.wrong[:3])
    assert sender.codes["OK"]


async def planted_log(models: Path, tmp_path: Path, *flags: str) -> list[str]:
    """The lines of a server that all words were planted in, from its start to its end."""
    async with watched(models, tmp_path / "log", *flags, "--log.level", "debug") as server:
        await plant(server)
        await server.close_sessions()
        return await server.ended_well()


async def test_every_line_of_a_log_for_collectors_is_ours(models: Path, tmp_path: Path) -> None:
    """Each is one JSON object with the time, the level and the logger of an event that is none of theirs."""
    lines = await planted_log(models, tmp_path, "--workers", "1", "--log.format", "json")
    assert not [line for line in lines if any(map(is_control, line))]
    assert SIGN not in {event["event"] for event in events(lines)}


async def test_every_line_of_a_log_for_people_is_ours(models: Path, tmp_path: Path) -> None:
    """No control character but the ends of our lines, and no line that begins as a stranger wants it."""
    for line in await planted_log(models, tmp_path, "--workers", "0", "--log.format", "console"):
        assert not any(map(is_control, line)), ascii(line)
        assert SIGN not in line or LINE_OF_OURS.match(line), ascii(line)


def is_control(character: str) -> bool:
    """Tells whether a terminal or a reader of lines may take it for more than a character."""
    return unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp")
