"""`stepstream chat` and `stepstream complete` against a server that recites a text, which tests can hold up."""

from __future__ import annotations

import json
import signal
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from stepstream.cli.keyboard import HISTORY_BYTES
from stepstream_proto.v1 import inference_pb2 as pb
from support.command import ended, start, stepstream
from support.servicer import WORDS, FakeServicer, reciting, serving
from support.terminal import CTRL_C, CTRL_D, HOME, UP, terminal

TEXT = "def f(x):\n    return für(x)\n\n# end € of it\n" + "".join(f"line {n:02}\n" for n in range(60))
FIRST = TEXT[: TEXT.index("\n") + 1]


@pytest.fixture
async def servicer() -> FakeServicer:
    """It has models to roll out; those of text recite TEXT."""
    return reciting(TEXT)


@pytest.fixture
async def fake(servicer: FakeServicer) -> AsyncIterator[str]:
    """Where it is served."""
    async with serving(servicer) as address:
        yield address
    assert servicer.broken_rules == []


# Complete ------------------------------------------------------------------------------------------------------------


async def test_a_text_is_continued(fake: str, servicer: FakeServicer) -> None:
    """Nothing but the continuation is on stdout."""
    flags = ("--max-steps", "20", "--temperature", "0.5", "--top-k", "3", "--top-p", "0.9", "--seed", "7")
    done = await stepstream(fake, "complete", "letters", *flags, stdin="def ")
    assert (done.code, done.stdout, done.stderr) == (0, TEXT[4:23], "")
    (call,) = servicer.rollouts.calls
    assert (call.temperature, call.top_k, call.top_p, call.seed, call.session_id) == (0.5, 3, 0.9, 7, "")


async def test_a_continuation_ends_at_a_stop_sequence(fake: str) -> None:
    """Any of several, unsaid; --json tells that it did."""
    done = await stepstream(fake, "complete", "letters", "--greedy", "--stop", "#", "--stop", "\n\n", stdin="def ")
    assert done.stdout == TEXT[4 : TEXT.index("\n\n")]
    told = (await stepstream(fake, "complete", "letters", "--json", "--stop", "\n\n", "--seed", "1", stdin="def ")).document
    assert told == {"text": done.stdout, "ending": "stop", "seed": 1, "next_seq": len(TEXT[: TEXT.index("#")].encode())}


async def test_a_continuation_comes_as_it_is_drawn(fake: str, servicer: FakeServicer) -> None:
    """And Ctrl-C ends it with 130."""
    servicer.rollouts.hold_at = 9
    process = await start(fake, "complete", "letters")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"def ")
    process.stdin.close()
    assert await process.stdout.readexactly(5) == b"f(x):"
    process.send_signal(signal.SIGINT)
    assert (await ended(process)).code == 130
    await servicer.until(lambda: servicer.rollouts.cancelled == 1)


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (("letters",), "", "stdin: expected a text to continue, got none"),
        (("level",), "1", "MODEL: expected a model of text, got level, which takes x"),
        (("digits",), "1", "MODEL: expected a model of text, got digits, which takes digit"),
        (("words",), "the dog", "text: expected words among the 8 that the model knows, got 'dog'"),
        (("letters", "--stop", ""), "a", "stop: expected 1 to 64 tokens, got 0 in ''"),
        (("letters", "--temperature", "-1"), "a", "--temperature"),
    ],
)
async def test_what_cannot_be_continued_is_said(fake: str, arguments: tuple[str, ...], stdin: str, message: str) -> None:
    """Exit code 2, and nothing on stdout."""
    done = await stepstream(fake, "complete", *arguments, stdin=stdin)
    assert (done.code, done.stdout) == (2, "")
    assert message in done.stderr


async def test_bytes_that_are_no_text_are_refused(fake: str) -> None:
    """With the place of the first."""
    process = await start(fake, "complete", "letters")
    _, stderr = await process.communicate(b"ab\xff")
    assert (process.returncode, stderr) == (2, b"stepstream: stdin: expected UTF-8, got 0xff at byte 2\n")


# Chat on pipes -------------------------------------------------------------------------------------------------------


async def test_lines_are_continued_in_one_memory(fake: str, servicer: FakeServicer) -> None:
    """Each with its line end, or without it behind a backslash; an empty line lets the model go on."""
    done = await stepstream(fake, "chat", "letters", "--max-steps", "10", "--seed", "3", stdin="def f\\\n\n(x)\n")
    assert (done.code, done.stderr) == (0, "")
    drawn = [TEXT.encode()[first : first + 10] for first in (5, 15, 29)]
    assert done.stdout.encode() == b"".join(each + b"\n" for each in drawn)
    assert {call.seed for call in servicer.rollouts.calls} == {3}
    assert not servicer.sessions


async def test_an_answer_is_drawn_in_pieces_by_one_seed(fake: str, servicer: FakeServicer) -> None:
    """Each step of them is the session's at once; characters and lines are those of one rollout."""
    done = await stepstream(fake, "chat", "letters", "--max-steps", "100", "--json", stdin=FIRST)
    told = json.loads(done.stdout)
    assert told["text"].encode() == TEXT.encode()[len(FIRST) : len(FIRST) + 100]
    assert (told["ending"], told["next_seq"]) == ("length", len(FIRST) + 100)
    calls = servicer.rollouts.calls
    assert [(call.max_steps, len(call.prompt), call.seed, call.commit) for call in calls] == [
        (steps, int(first), told["seed"], pb.COMMIT_EACH) for steps, first in ((32, True), (32, False), (32, False), (4, False))
    ]


async def test_an_answer_is_shown_as_it_is_drawn(fake: str, servicer: FakeServicer) -> None:
    """Not only once a piece is complete."""
    servicer.rollouts.hold_at = 9
    process = await start(fake, "chat", "letters")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"def \\\n")
    assert await process.stdout.readexactly(5) == b"f(x):"
    servicer.rollouts.hold_at = None
    await servicer.tell()
    assert (await ended(process)).code == 0


@pytest.mark.parametrize("before", range(30, 35))
async def test_a_stop_sequence_may_lie_across_pieces(fake: str, servicer: FakeServicer, before: int) -> None:
    """Wherever it begins, nothing of it is shown, it is remembered, and what only looks like its beginning is shown."""
    text = "a\n" + "x" * 10 + "EN" + "y" * (before - 12) + "END of it" + "z" * 100
    servicer.rollouts.text = list(text.encode())
    done = await stepstream(fake, "chat", "letters", "--stop", "END", "--stop", "never", "--json", stdin="a\n")
    place = text.index("END")
    assert json.loads(done.stdout)["text"] == text[2:place]
    assert (json.loads(done.stdout)["ending"], json.loads(done.stdout)["next_seq"]) == ("stop", place + 3)


async def test_words_are_talked_in(fake: str, servicer: FakeServicer) -> None:
    """A line end is no word."""
    servicer.rollouts.text = [WORDS.index(word) for word in ("the", "cat", "sat", "on", "the", "mat", ".")]
    done = await stepstream(fake, "chat", "words", "--stop", ".", stdin="the\n")
    assert done.stdout == " cat sat on the mat\n"
    done = await stepstream(fake, "chat", "words", "--max-steps", "1", stdin="the\nthe dog\n")
    assert (done.code, "line 2: text: expected words among the 8" in done.stderr) == (2, True)


async def test_a_memory_is_forked_reset_saved_and_loaded(fake: str, servicer: FakeServicer, tmp_path: Path) -> None:
    """Each command does to the memory what it says, and /back undoes what can be undone."""
    file = tmp_path / "memory"

    async def where(*lines: str) -> list[int]:
        """Where the memory stands after each line that is answered."""
        done = await stepstream(fake, "chat", "letters", "--max-steps", "1", "--json", stdin="\n".join([*lines, ""]))
        assert done.code == 0, done.stderr
        return [json.loads(line)["next_seq"] for line in done.stdout.splitlines()]

    assert await where("abc", "/fork", "d", "/fork", "", "/back", "/back", "d") == [5, 8, 9, 8]
    assert await where("abc", f"/save {file}", "defg", "/reset", "x") == [5, 11, 15]
    assert await where(f"/load {file}", "x", "/back", "y") == [8, 3]
    assert await where("//abc", "/quit", "d") == [6]
    assert not servicer.sessions


async def test_draws_can_be_set(fake: str, servicer: FakeServicer) -> None:
    """For what follows."""
    lines = "a\n/seed 12\n/temperature 0.25\nb\n/help\n"
    done = await stepstream(fake, "chat", "letters", "--max-steps", "1", "--seed", "11", "--top-k", "4", stdin=lines)
    calls = servicer.rollouts.calls
    assert [(call.seed, call.temperature, call.top_k) for call in calls] == [(11, 0.8, 4), (12, 0.25, 4)]
    assert "/temperature T" in done.stderr


@pytest.mark.parametrize(
    ("command", "own", "drawn"), [("chat", None, 0.8), ("chat", 0.0, 0.0), ("complete", 0.25, 0.25), ("complete", None, 1.0)]
)
async def test_a_model_is_drawn_at_its_own_temperature(
    fake: str, servicer: FakeServicer, command: str, own: float | None, drawn: float
) -> None:
    """The command has one for a model that does not say, and its help tells which."""
    if own is not None:
        servicer.models["letters"].rollout_temperature = own
    assert (await stepstream(fake, command, "letters", "--max-steps", "1", stdin="a\n")).code == 0
    assert [call.temperature for call in servicer.rollouts.calls] == [drawn]
    if own is None:
        told = " ".join((await stepstream(fake, command, "--help")).stdout.split())
        assert f"[default: as the model's author chose, or {drawn:g}]" in told


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/sing", "line 2: expected one of /fork, /back, /reset, /save, /load, /seed, /temperature, /help, /quit, got /sing"),
        ("/back", "line 2: /back: expected to be in a fork or in what was loaded, got the first memory"),
        ("/seed one", "line 2: /seed: expected a whole number from 0 to 2**64 - 1, got 'one'"),
        ("/seed 1_0", "line 2: /seed: expected a whole number from 0 to 2**64 - 1, got '1_0'"),
        ("/seed \u0661", "line 2: /seed: expected a whole number from 0 to 2**64 - 1, got '\u0661'"),
        ("/temperature 1_0", "line 2: /temperature: expected 0 or a positive number, got '1_0'"),
        ("/temperature nan", "line 2: /temperature: expected 0 or a positive number, got 'nan'"),
        ("/save", "line 2: /save: expected a file's name, got ''"),
        ("/save /nowhere/at/all", "line 2: FILE: expected one that can be written, got /nowhere/at/all"),
        ("/load /nowhere/at/all", "line 2: FILE: expected one that can be read, got /nowhere/at/all"),
    ],
)
async def test_a_line_that_goes_wrong_ends_it(fake: str, line: str, message: str) -> None:
    """Exit code 2, after the answers before."""
    done = await stepstream(fake, "chat", "letters", "--max-steps", "1", stdin=f"a\n{line}\nb\n")
    assert (done.code, done.stdout.count("\n")) == (2, 1)
    assert message in done.stderr


async def test_what_the_server_refuses_is_told_with_its_line(fake: str, servicer: FakeServicer) -> None:
    """Exit code 1."""
    process = await start(fake, "chat", "letters", "--max-steps", "1")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"a\n")
    await process.stdout.readline()
    servicer.end_session(next(iter(servicer.sessions)), pb.DETACH_REASON_SESSION_EXPIRED)
    done = await ended(process, "b\n")
    assert done.code == 1
    assert "line 2: " in done.stderr
    assert "[SESSION_EXPIRED]" in done.stderr or "[SESSION_NOT_FOUND]" in done.stderr  # as the news or the line comes first


# Chat at a terminal --------------------------------------------------------------------------------------------------


async def test_somebody_talks_at_a_terminal(fake: str, servicer: FakeServicer) -> None:
    """The prompt tells where one is; what goes wrong is told and passed over; Ctrl-D ends."""
    async with terminal(fake, "chat", "letters", "--max-steps", "5") as screen:
        await screen.until("/help lists what else there is.\n> ")
        screen.type("def f\\\n")
        await screen.until("> def f\\\n")
        assert await screen.until("> ") == TEXT[5:10] + "> "
        screen.type("/fork\n")
        await screen.until("/back returns to where it was made.\n1> ")
        screen.type("/sing\n")
        await screen.until("got /sing\n1> ")
        screen.type("/back\n")
        await screen.until("Back, at step 10.\n> ")
        screen.type(CTRL_D)
        assert await screen.end() == 0
    assert not servicer.sessions


async def test_ctrl_c_while_typing_clears_the_line(fake: str, servicer: FakeServicer) -> None:
    """The conversation goes on, and what was typed is fed to nobody."""
    async with terminal(fake, "chat", "letters", "--max-steps", "5") as screen:
        await screen.until("\n> ")
        screen.type("nonsense")
        await screen.until("nonsense")
        screen.type(CTRL_C)
        await screen.until("\n> ")
        screen.type("def f\\\n")
        await screen.until(TEXT[5:10])
        await screen.until("> ")
        screen.type("/quit\n")
        assert await screen.end() == 0


async def test_ctrl_c_ends_an_answer_and_what_is_shown_is_remembered(fake: str, servicer: FakeServicer) -> None:
    """To the last character of the piece that was being drawn; the conversation goes on behind it."""
    servicer.rollouts.hold_at = len(FIRST) + 40
    async with terminal(fake, "chat", "letters", "--max-steps", "300") as screen:
        await screen.until("\n> ")
        screen.type(FIRST)
        await screen.until("return für")
        await servicer.until(lambda: len(servicer.rollouts.calls) == 2)
        screen.type(CTRL_C)
        await screen.until("^C")
        servicer.rollouts.hold_at = None
        await servicer.tell()
        shown = await screen.until("> ")
        (session,) = servicer.sessions.values()
        assert session.next_seq == len(FIRST) + 64
        assert TEXT.encode()[: session.next_seq].decode().endswith(shown.removesuffix("> ").removesuffix("\n")[-20:])
        screen.type("\\\n")
        await screen.until(TEXT.encode()[session.next_seq :].decode()[:20])
        screen.type("/quit\n")
        assert await screen.end() == 0
    assert not servicer.sessions


async def test_ctrl_c_twice_ends_it_where_the_server_does_not_answer(fake: str, servicer: FakeServicer) -> None:
    """With 130, and the session is closed."""
    servicer.rollouts.hold_at = len(FIRST) + 40
    async with terminal(fake, "chat", "letters", "--max-steps", "300") as screen:
        await screen.until("\n> ")
        screen.type(FIRST)
        await servicer.until(lambda: len(servicer.rollouts.calls) == 2)
        assert await screen.end_by(CTRL_C) == 130
    assert not servicer.sessions


async def test_commands_say_what_they_did(fake: str, servicer: FakeServicer, tmp_path: Path) -> None:
    """Each of them, at a terminal; nothing of it is on stdout elsewhere."""
    said = [
        ("/fork", "In a fork: /back returns to where it was made."),
        ("/reset", "Everything is forgotten."),
        (f"/save {tmp_path}/m", f"Saved in {tmp_path}/m, at step 4."),
        (f"/load {tmp_path}/m", f"Loaded {tmp_path}/m, at step 4: /back returns to what was before."),
        ("/back", "Back, at step 4."),
        ("/seed 12", "Drawn by seed 12 from here on."),
        ("/temperature 0.5", "Drawn at temperature 0.5 from here on."),
    ]
    async with terminal(fake, "chat", "letters", "--max-steps", "1") as screen:
        screen.type("a\n")
        for line, answer in said:
            screen.type(f"{line}\n")
            await screen.until(f"{line}\n{answer}\n")
        await screen.until("> ")
        screen.type(CTRL_D)
        assert await screen.end() == 0
    done = await stepstream(fake, "chat", "letters", "--max-steps", "1", stdin="\n".join(["a", *(line for line, _ in said), ""]))
    assert (done.code, len(done.stdout), done.stderr) == (0, 2, "")


def fed(call: pb.GenerateRequest) -> str:
    """The text of a prompt, which is a column of bytes as int64."""
    return np.frombuffer(b"".join(call.prompt), np.int64).astype(np.uint8).tobytes().decode()


async def test_lines_are_edited_and_remembered(fake: str, servicer: FakeServicer, state: Path) -> None:
    """Keys move in the line; the next conversation knows it, from a file that nobody else may read."""
    async with terminal(fake, "chat", "letters", "--max-steps", "1") as screen:
        await screen.until("\n> ")
        screen.type(f"bc{HOME}a\n")
        await screen.until("> abc\n")
        await screen.until("> ")
        screen.type(CTRL_D)
        assert await screen.end() == 0
    async with terminal(fake, "chat", "letters", "--max-steps", "1") as screen:
        await screen.until("\n> ")
        screen.type(f"{UP}\n")
        await screen.until("> abc\n")
        await screen.until("> ")
        screen.type(CTRL_D)
        assert await screen.end() == 0
    assert [fed(call) for call in servicer.rollouts.calls] == ["abc\n", "abc\n"]
    history = state / "stepstream" / "chat_history"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (history, history.parent)] == [0o600, 0o700]


async def test_bytes_that_are_no_text_do_not_end_it(fake: str, servicer: FakeServicer) -> None:
    """They are told, and the model hears nothing of them."""
    async with terminal(fake, "chat", "letters", "--max-steps", "1") as screen:
        await screen.until("\n> ")
        screen.type("a\udcff\n")
        await screen.until("stepstream: expected UTF-8, got 0xff at byte 1\n> ")
        screen.type("/quit\n")
        assert await screen.end() == 0
    assert servicer.rollouts.calls == []


async def test_a_history_has_a_bound(fake: str, servicer: FakeServicer, state: Path) -> None:
    """The older half is forgotten, and what anybody could read is closed to others."""
    history = state / "stepstream" / "chat_history"
    history.parent.mkdir(parents=True)
    history.write_text("".join(f"\n# then\n+line {n}\n" for n in range(60_000)))
    assert history.stat().st_size > HISTORY_BYTES
    async with terminal(fake, "chat", "letters") as screen:
        await screen.until("\n> ")
        screen.type("/quit\n")
        assert await screen.end() == 0
    text = history.read_text()
    assert HISTORY_BYTES // 2 - 100 < len(text) < HISTORY_BYTES // 2 + 100
    assert text.startswith("\n# then\n+line ")
    assert "+line 59999\n" in text
    assert text.endswith("+/quit\n")
    assert stat.S_IMODE(history.stat().st_mode) == 0o600


async def test_a_conversation_needs_no_history(fake: str, servicer: FakeServicer, tmp_path: Path) -> None:
    """Where no folder can be made for it, it is that of this conversation."""
    (tmp_path / "file").touch()
    async with terminal(fake, "chat", "letters", "--max-steps", "1", XDG_STATE_HOME=str(tmp_path / "file")) as screen:
        screen.type("abc\n")
        await screen.until("> abc\n")
        screen.type(f"{UP}\n")
        await screen.until("> abc\n")
        screen.type("/quit\n")
        assert await screen.end() == 0


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
async def test_voices_are_told_apart(fake: str, servicer: FakeServicer, no_color: str, coloured: bool) -> None:
    """What is typed is bold, and in a colour unless NO_COLOR says no; the answer is as it comes."""
    async with terminal(fake, "chat", "letters", "--max-steps", "5", NO_COLOR=no_color) as screen:
        screen.type("def f\\\n")
        await screen.until(TEXT[5:10])
        screen.type("/quit\n")
        assert await screen.end() == 0
    assert ("\x1b[0;36;1m> def f" in screen.shown, "\x1b[0;1m> def f" in screen.shown) == (coloured, not coloured)
    assert TEXT[5:9] + "\r\n" in screen.shown
    assert ("\x1b[2mType a line" in screen.shown) == coloured


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_it_on_a_silent_pipe(fake: str, servicer: FakeServicer, number: signal.Signals) -> None:
    """Nobody clears a line there."""
    process = await start(fake, "chat", "letters", "--max-steps", "1")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"a\n")
    await process.stdout.readline()
    process.send_signal(number)
    assert await process.wait() == 128 + number
    assert not servicer.sessions
    process.stdin.close()
