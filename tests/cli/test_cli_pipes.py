"""Stdin and stdout as other programs hand them over: non-blocking, and closed."""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import termios
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from stepstream import Client
from support.command import SCRIPT, Done, environment, shell, stepstream
from support.servicer import reciting, serving

PAGE = 4096  # bytes that a pipe holds at least
HELD_OUT = Path(__file__).parents[2] / "examples" / "ecg" / "held_out.csv"


def in_pipe(end: int) -> int:
    """How many bytes wait to be read."""
    (count,) = struct.unpack("i", fcntl.ioctl(end, termios.FIONREAD, b"\0" * 4))
    return int(count)


async def until(happened: Callable[[], bool]) -> None:
    """Looks again and again, since nobody tells."""

    def look() -> None:
        while not happened():
            os.sched_yield()

    await asyncio.to_thread(look)


async def write_late(end: int, pieces: Sequence[bytes]) -> None:
    """Each piece only once the one before has been read, when the other side has nothing to read."""
    try:
        for piece in pieces:
            await asyncio.to_thread(os.write, end, piece)
            await until(lambda: in_pipe(end) == 0)
    finally:
        os.close(end)


async def read_late(end: int, process: asyncio.subprocess.Process) -> bytes:
    """Nothing until the pipe is full, then in small pieces."""
    await until(lambda: in_pipe(end) > PAGE - 256 or process.returncode is not None)
    try:
        pieces = []
        while piece := await asyncio.to_thread(os.read, end, PAGE):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(end)


async def run_among_late_neighbours(server: str, *arguments: str, stdin: bytes = b"") -> Done:
    """Runs it on three pipes that are non-blocking at its ends, as a neighbour makes them that shares them."""
    (source, feed), (out, target), (told, tell) = os.pipe(), os.pipe(), os.pipe()
    for end in (source, target, tell):
        os.set_blocking(end, False)
    for end in (target, tell):
        fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, PAGE)
    process = await asyncio.create_subprocess_exec(
        SCRIPT, *arguments, stdin=source, stdout=target, stderr=tell, env=environment(server)
    )
    for end in (source, target, tell):
        os.close(end)
    fed = write_late(feed, [stdin[first : first + PAGE] for first in range(0, len(stdin), PAGE)])
    stdout, stderr, _ = await asyncio.gather(read_late(out, process), read_late(told, process), fed)
    return Done(await process.wait(), stdout.decode(), stderr.decode())


@pytest.mark.parametrize(
    "arguments",
    [
        ("stream", "ecg", "--outputs", "next"),
        ("stream", "tokens", "--columns", "x", "--no-header", "--skip-bad"),
        ("forecast", "ecg", "--seed", "1", "--horizon", "200", "--paths", "20"),
        ("forecast", "ecg", "--seed", "1", "--horizon", "200", "--paths", "20", "--json"),
    ],
)
async def test_readings_pass_through_non_blocking_pipes(server: str, arguments: tuple[str, ...]) -> None:
    """Nothing is lost and nothing comes twice, on stdout and on stderr, however late the neighbours are."""
    lines = "".join(f"{n % 9}.{n % 2}\n" for n in range(3000)) if "tokens" in arguments else HELD_OUT.read_text()
    expected = await stepstream(server, *arguments, stdin=lines)
    assert len(expected.stdout) > PAGE
    assert await run_among_late_neighbours(server, *arguments, stdin=lines.encode()) == expected


async def test_a_text_passes_through_non_blocking_pipes() -> None:
    """Prompt and continuation, which is printed as it comes."""
    text = "".join(f"line {n}\n" for n in range(2000))
    async with serving(reciting(text)) as address:
        done = await run_among_late_neighbours(address, "complete", "letters", "--max-steps", "10000", stdin=text[:900].encode())
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout == text[900:10900]


async def test_a_listing_and_a_snapshot_pass_through_non_blocking_pipes(server: str, client: Client, tmp_path: Path) -> None:
    """What other commands print goes the same way, and so does what `import` reads."""
    ids = sorted(f"{n:0100}" for n in range(60))
    async with client.open_sessions("ecg", 60, ids=ids):
        listed = await run_among_late_neighbours(server, "sessions")
    assert sorted(line.split()[0] for line in listed.stdout.splitlines()[1:]) == ids
    await stepstream(server, "open", "ecg", "--id", "bed-7")
    await stepstream(server, "export", "ecg", "bed-7", str(tmp_path / "snapshot"))
    snapshot = (tmp_path / "snapshot").read_bytes()
    imported = await run_among_late_neighbours(server, "import", "-", "--id", "twin", "--json", stdin=snapshot)
    assert (imported.code, imported.document["id"]) == (0, "twin")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("stream ecg <&-", "stdin: expected to be open for reading, got it closed"),
        ("forecast ecg <&-", "stdin: expected to be open for reading, got it closed"),
        ("complete letters <&-", "stdin: expected to be open for reading, got it closed"),
        ("chat letters <&-", "stdin: expected to be open for reading, got it closed"),
        ("import - <&-", "stdin: expected to be open for reading, got it closed"),
        ("stream ecg 0>written", "stdin: expected to be open for reading, got it closed"),
        ("stream ecg >&-", "stdout: expected to be open for writing, got it closed"),
        ("models >&-", "stdout: expected to be open for writing, got it closed"),
        ("open ecg >&-", "stdout: expected to be open for writing, got it closed"),
        ("models 1</dev/null", "stdout: expected to be open for writing, got it closed"),
    ],
)
async def test_a_closed_descriptor_is_named(server: str, client: Client, tmp_path: Path, call: str, message: str) -> None:
    """Exit code 2, and no socket is taken for it; nothing has been opened that stays."""
    text = "letters" in call
    async with serving(reciting("text")) as address:
        done = await shell(address if text else server, f"code=0; stepstream {call} || code=$?; exit $code", tmp_path)
    assert (done.code, done.stderr) == (2, f"stepstream: {message}\n")
    assert [info.id async for info in client.list_sessions()] == []


@pytest.mark.parametrize("closed", ["2>&-", "<&- 2>&-"])
async def test_nobody_need_hear_what_goes_wrong(server: str, tmp_path: Path, closed: str) -> None:
    """With stderr closed a command prints, and one that fails has its exit code; a stdin that is not read may be closed."""
    call = f"stepstream models {closed}; code=0; stepstream close ecg nobody {closed} || code=$?; exit $code"
    done = await shell(server, call, tmp_path)
    assert (done.code, done.stderr) == (1, "")
    assert done.stdout.startswith("MODEL ")
