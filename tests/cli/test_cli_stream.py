"""`stepstream stream`: lines in, lines out, through real pipes against a real server."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import signal
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stepstream import Client
from stepstream.cli.pipes import LINE_BYTES
from support.command import Done, ended, shell, start, stepstream
from support.process import server_process

HELD_OUT = Path(__file__).parents[2] / "examples" / "ecg" / "held_out.csv"
MEDIAN = ("--outputs", "next[10]")


def readings(count: int) -> list[str]:
    """The first of the held-out minute, as text."""
    return HELD_OUT.read_text().split()[1 : count + 1]


async def expected(client: Client, model: str, steps: object) -> dict[str, NDArray[np.float32]]:
    """What the client library gets for these steps from a new session."""
    async with client.open_session(model) as session:
        return dict(await session.chunk(steps))  # type: ignore[arg-type]


def columns(done: Done) -> dict[str, list[str]]:
    """CSV by column."""
    assert done.code == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    return {name: [row[name] for row in rows] for name in rows[0]}


async def open_sessions(client: Client) -> list[str]:
    """Ids."""
    return [info.id async for info in client.list_sessions()]


async def test_predictions_are_those_of_the_client_to_the_bit(server: str, client: Client) -> None:
    """Every line has its answer, in order, and text loses nothing; the header says which column is which number."""
    lines = readings(1500)  # more than a window
    outputs = await expected(client, "ecg", np.array(lines, np.float32))
    printed = columns(await stepstream(server, "stream", "ecg", stdin="mv\n" + "\n".join(lines)))
    assert printed.pop("seq") == [str(seq) for seq in range(1500)]
    assert list(printed) == [f"{name}[{i}]" for name in ("next", "ahead_9", "ahead_27") for i in range(21)]
    for name, numbers in printed.items():
        output, _, place = name.rstrip("]").partition("[")
        np.testing.assert_array_equal(np.array(numbers, np.float32), outputs[output][:, int(place)])
    assert await open_sessions(client) == []


async def test_json_lines_hold_the_same_numbers(server: str, client: Client) -> None:
    """With --json each line is an object: the step's number and its outputs by name."""
    outputs = await expected(client, "ecg", np.array(readings(3), np.float32))
    done = await stepstream(server, "stream", "ecg", "--json", "--outputs", "next,ahead_9[10]", stdin="\n".join(readings(3)))
    for seq, line in enumerate(done.stdout.splitlines()):
        answer = json.loads(line)
        assert answer["seq"] == seq
        np.testing.assert_array_equal(np.float32(answer["outputs"]["next"]), outputs["next"][seq])
        assert np.float32(answer["outputs"]["ahead_9[10]"]) == outputs["ahead_9"][seq, 10]
    assert done.stdout.count("\n") == 3


@pytest.mark.parametrize(
    ("flags", "lines"),
    [
        ((), "mv\n-1.5\n"),
        ((), "-1.5"),
        ((), "\ufefftime,mv\r\n0.1,-1.5\r\n\r\n"),
        ((), '"a, b","mv"\n"1,2","-1.5"\n'),
        (("--columns", "time,mv"), "0.1,-1.5\n"),
        (("--columns", "time,mv"), "t,volts\n0.1,-1.5\n"),
        ((), '{"mv": -1.5, "time": "now"}\n'),
        ((), '{"mv": [-1.5]}\n'),
        ((), "[-1.5]\n"),
        (("--format", "json"), "-1.5\n"),
    ],
)
async def test_a_reading_is_found_however_it_is_written(flags: tuple[str, ...], lines: str, server: str, client: Client) -> None:
    """With and without a header, among other columns, as JSON: one and the same reading."""
    outputs = await expected(client, "ecg", np.array([-1.5], np.float32))
    printed = columns(await stepstream(server, "stream", "ecg", *MEDIAN, *flags, stdin=lines))
    assert np.float32(printed["next[10]"][0]) == outputs["next"][0, 10]


@pytest.mark.parametrize("lines", ["x[0],x[1]\n1,2\n", "x[1],b,x[0]\n2,9,1\n", "1,2\n", '{"x": [1, 2]}\n', "[1, 2]\n"])
async def test_an_input_of_several_numbers_has_as_many_columns(lines: str, server: str, client: Client) -> None:
    """By name in any order, or in the model's order."""
    outputs = await expected(client, "pair", [[1.0, 2.0]])
    printed = columns(await stepstream(server, "stream", "pair", stdin=lines))
    assert np.float32(printed["y"][0]) == outputs["y"][0, 0]


@pytest.mark.parametrize("lines", ["x\n3\n4\n", "3\n4\n", "3.0\n4e0\n", '{"x": 3}\n{"x": 4.0}\n'])
async def test_tokens_are_whole_numbers(lines: str, server: str, client: Client) -> None:
    """A model of tokens takes a number a line and answers its logits; with a point and nothing behind it, it is whole."""
    outputs = await expected(client, "tokens", [3, 4])
    printed = columns(await stepstream(server, "stream", "tokens", stdin=lines))
    np.testing.assert_array_equal(np.array(printed["y[4]"], np.float32), outputs["y"][:, 4])


@pytest.mark.parametrize(
    ("model", "lines", "message"),
    [
        ("ecg", "mv\n-1.5\nlead off\n-1.4\n", "line 3: mv: expected a finite number, got 'lead off'"),
        ("ecg", "-1.5\nnan\n", "line 2: mv: expected a finite number, got nan"),
        ("ecg", "-1.5\n1e39\n", "line 2: mv: expected a finite number, got 1e+39"),
        ("ecg", "-1.5\n-1.4,2\n", "line 2: expected 1 columns, got 2"),
        ("ecg", '{"mv": -1.5}\n{"mv": -1.4\n', "line 2: expected JSON, got '{\"mv\": -1.4'"),
        ("ecg", '{"mv": -1.5}\n{"volts": -1.4}\n', "line 2: expected an object with 'mv', got one with 'volts'"),
        ("ecg", '{"mv": -1.5}\n{"mv": true}\n', "line 2: mv: expected a finite number, got True"),
        ("ecg", "-1.5\n1_0\n", "line 2: mv: expected a finite number, got '1_0'"),
        ("ecg", "-1.5\n\u0661\n", "line 2: mv: expected a finite number, got '\u0661'"),
        ("pair", "[1, 2]\n[1, 2, 3]\n", "line 2: x: expected a list of 2, got 3"),
        ("tokens", "1\n5\n", "line 2: x: expected a whole number >= 0 and < 5, got 5"),
        ("tokens", "1\n1.5\n", "line 2: x: expected a whole number >= 0 and < 5, got '1.5'"),
        ("tokens", '{"x": 1}\n{"x": 1.5}\n', "line 2: x: expected a whole number >= 0 and < 5, got 1.5"),
        ("tokens", "1\n0_1\n", "line 2: x: expected a whole number >= 0 and < 5, got '0_1'"),
    ],
)
async def test_a_bad_line_ends_it_after_the_answers_before(model: str, lines: str, message: str, server: str) -> None:
    """Exit code 2; line, field, expected and actual on stderr; what was good before has been answered."""
    done = await stepstream(server, "stream", model, "--no-header", stdin=lines)
    assert (done.code, done.stdout.count("\n")) == (2, 1)
    assert message in done.stderr
    told = await stepstream(server, "stream", model, "--json", stdin=lines)
    assert (told.code, told.error["reason"]) == (2, "USAGE")
    assert message in told.error["message"]


@pytest.mark.parametrize(
    ("model", "flags", "lines", "message"),
    [
        ("ecg", (), "time,volts\n0,1\n", "line 1: mv: expected one column of that name, got none among time,volts"),
        ("ecg", (), "mv,mv\n0,1\n", "line 1: mv: expected one column of that name, got several among mv,mv"),
        ("ecg", (), "0,1\n", "line 1: expected 1 columns (mv) or a header, got 2 columns"),
        ("ecg", ("--columns", "mv"), "0,1\n", "line 1: --columns: expected 2 names, as many as there are columns, got 1"),
        ("pair", (), "1\n", "line 1: expected 2 columns (x[0],x[1]) or a header, got 1 columns"),
    ],
)
async def test_columns_that_do_not_fit_end_it_at_once(
    model: str, flags: tuple[str, ...], lines: str, message: str, server: str
) -> None:
    """Also with --skip-bad: nothing that follows could be understood."""
    done = await stepstream(server, "stream", model, *flags, "--skip-bad", stdin=lines)
    assert (done.code, done.stdout) == (2, "")
    assert message in done.stderr


async def test_what_has_no_line_ends_is_refused(server: str) -> None:
    """Rather than read into memory for ever."""
    done = await stepstream(server, "stream", "ecg", *MEDIAN, stdin="-1.5\n" + "1" * (LINE_BYTES + 1))
    assert done.code == 2
    assert done.stderr == f"stepstream: line 2: expected at most {LINE_BYTES} bytes, got more\n"


async def test_bad_lines_can_be_left_out(server: str, client: Client) -> None:
    """--skip-bad reports them; the good ones are answered as if they were alone."""
    outputs = await expected(client, "ecg", np.array([-1.5, -1.4], np.float32))
    done = await stepstream(server, "stream", "ecg", *MEDIAN, "--skip-bad", stdin="mv\n-1.5\noff\n\n-1.4\n")
    np.testing.assert_array_equal(np.array(columns(done)["next[10]"], np.float32), outputs["next"][:, 10])
    assert done.stderr == "stepstream: line 3: mv: expected a finite number, got 'off'; skipped\n"


async def test_nothing_in_is_a_header_out(server: str) -> None:
    """An empty table is a table."""
    done = await stepstream(server, "stream", "ecg", *MEDIAN)
    assert (done.code, done.stdout, done.stderr) == (0, "seq,next[10]\n", "")


async def test_readings_are_answered_as_they_come(server: str) -> None:
    """Each answer can be read before the next reading is written."""
    process = await start(server, "stream", "ecg", *MEDIAN, "--no-header")
    assert process.stdin is not None
    assert process.stdout is not None
    for seq, reading in enumerate(readings(3)):
        process.stdin.write(f"{reading}\n".encode())
        assert (await process.stdout.readline()).startswith(f"{seq},".encode())
    assert (await ended(process)).code == 0


async def test_head_ends_it_quietly_and_the_session_is_closed(server: str, client: Client) -> None:
    """As a new user would try it: ten lines, no traceback, nothing left behind."""
    pipeline = "stepstream stream ecg < held_out.csv | head -3 | cut -d, -f1; echo ${PIPESTATUS[0]}"
    done = await shell(server, pipeline, HELD_OUT.parent)
    assert (done.stdout, done.stderr) == ("seq\n0\n1\n141\n", "")
    assert await open_sessions(client) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_ends_it_while_it_waits_for_input_and_the_session_is_closed(
    number: signal.Signals, code: int, server: str, client: Client
) -> None:
    """A silent pipe does not hold it up."""
    process = await start(server, "stream", "ecg", *MEDIAN, "--no-header")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"-1.5\n")
    await process.stdout.readline()
    assert len(await open_sessions(client)) == 1
    process.send_signal(number)
    assert await process.wait() == code
    assert process.stderr is not None
    assert await process.stderr.read() == b""
    assert await open_sessions(client) == []
    process.stdin.close()


async def test_a_signal_ends_it_while_nobody_reads(server: str, client: Client) -> None:
    """Nor does a full one on the other side; and it has stopped reading, so that memory is bounded."""
    process = await start(server, "stream", "ecg")
    assert process.stdin is not None
    assert process.stdout is not None
    feeding = asyncio.create_task(_feed_forever(process.stdin))
    await process.stdout.readexactly(1)
    process.send_signal(signal.SIGINT)
    await asyncio.wait([feeding])
    assert (await ended(process)).code == 130
    assert await open_sessions(client) == []


async def _feed_forever(stdin: asyncio.StreamWriter) -> None:
    try:
        while True:
            stdin.write(b"-1.5\n" * 1000)
            await stdin.drain()
    except ConnectionError:
        return


async def test_what_the_server_refuses_is_told_with_its_line(server: str) -> None:
    """A session that is closed meanwhile: exit code 1, what was answered before is there, and stderr says what to do."""
    secret = (await stepstream(server, "open", "ecg", "--id", "bed-7", "--json")).document["secret"]
    process = await start(server, "stream", "ecg", *MEDIAN, "--no-header", "--session", "bed-7", "--secret", secret)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"-1.5\n")
    assert (await process.stdout.readline()).startswith(b"0,")
    assert (await stepstream(server, "close", "ecg", "bed-7", "--secret", secret)).code == 0
    done = await ended(process, "-1.4\n")
    assert done.code == 1
    assert "line 2: " in done.stderr
    assert "[SESSION_CLOSED]\nOpen another with `stepstream open`.\n" in done.stderr


async def test_a_server_that_dies_is_told_with_the_line_it_came_to(models: Path) -> None:
    """Exit code 3, after the answers before; with --reconnect 0 at once."""
    async with server_process(models) as running:
        process = await start(running.listen, "stream", "ecg", *MEDIAN, "--no-header", "--reconnect", "0")
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"-1.5\n")
        assert (await process.stdout.readline()).startswith(b"0,")
        running.process.kill()
        await running.process.wait()
    done = await ended(process, "-1.4\n")
    assert done.code == 3
    assert "line 2: " in done.stderr
    assert "Is the server running there?" in done.stderr


async def test_a_session_is_gone_on_with_and_left_open(server: str, client: Client) -> None:
    """Two runs of --session give what one run would have given; the session counts on, and stays."""
    outputs = await expected(client, "ecg", np.array(readings(20), np.float32))
    opened = (await stepstream(server, "open", "ecg", "--id", "bed-7", "--json")).document
    go_on = ("stream", "ecg", *MEDIAN, "--session", "bed-7")
    first = await stepstream(server, *go_on, "--secret", opened["secret"], stdin="\n".join(readings(20)[:8]))
    rest = await stepstream(server, *go_on, stdin="\n".join(readings(20)[8:]), env={"STEPSTREAM_SECRET": opened["secret"]})
    printed = [columns(first), columns(rest)]
    assert [seq for each in printed for seq in each["seq"]] == [str(seq) for seq in range(20)]
    numbers = [number for each in printed for number in each["next[10]"]]
    np.testing.assert_array_equal(np.array(numbers, np.float32), outputs["next"][:, 10])
    info = await client.get_session("ecg", "bed-7")
    assert (info.next_seq, info.attached) == (20, False)


async def test_a_new_session_can_be_kept(server: str, client: Client) -> None:
    """--keep tells id and secret on stderr, with which it is found again."""
    done = await stepstream(server, "stream", "ecg", *MEDIAN, "--keep", "--json", stdin="-1.5\n")
    kept = json.loads(done.stderr)
    async with client.attach_session("ecg", kept["id"], bytes.fromhex(kept["secret"])) as session:
        assert session.next_seq == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--session", "bed-7"), "--session: expected --secret with it"),
        (("--session", "bed-7", "--secret", "xyz"), "--secret: expected hexadecimal digits"),
        (("--session", "bed-7", "--secret", "00", "--keep"), "--keep: "),
        (("--outputs", "next[21]"), "--outputs: expected names among next[21], ahead_9[21], ahead_27[21], got 'next[21]'"),
        (("--idle-ttl", "0"), "--idle-ttl"),
        (("--reconnect", "nan"), "--reconnect"),
        (("--format", "xml"), "--format"),
    ],
)
async def test_wrong_usage_is_told_before_anything_is_opened(
    flags: tuple[str, ...], message: str, server: str, client: Client
) -> None:
    """Exit code 2, naming the flag."""
    done = await stepstream(server, "stream", "ecg", *flags, stdin="-1.5\n")
    assert (done.code, done.stdout) == (2, "")
    assert message in done.stderr
    assert await open_sessions(client) == []
