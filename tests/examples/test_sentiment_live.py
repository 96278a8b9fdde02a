"""Words coloured as they are typed: the script of the sentiment example, at a terminal and on a pipe."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from sentiment import live
from sentiment.colours import colour
from sentiment.evaluate import BUNDLE, SHOWN
from sentiment.running import running_scores, tokens_of
from sentiment.sentences import WORD

from stepstream import Client
from stepstream_server.app import Bound
from stepstream_server.bundles import load
from support.command import environment
from support.shared_server import shared
from support.terminal import CTRL_C, CTRL_D, terminal

__all__ = ["shared"]  # a fixture

LIVE = (sys.executable, live.__file__)
TEXTS = (*SHOWN, "I DON'T get the hype: it's well-made, yes (and dull).")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the shipped model alone."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "sentiment").symlink_to(BUNDLE)
    return folder


def printed(text: str) -> str:
    """A text as it is to be shown, by the server's arithmetic."""
    (scores,) = running_scores(load(BUNDLE), [text])
    return "".join(f"{word} {score:+.1f}  " for word, score in zip(WORD.findall(text), scores, strict=True))


async def on_a_pipe(server: str, stdin: str) -> tuple[int, str]:
    """Runs the script; returns its exit code and what it printed, stderr and all."""
    process = await asyncio.create_subprocess_exec(
        *LIVE, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env=environment(server),
    )  # fmt: skip
    output, _ = await process.communicate(stdin.encode())
    return await process.wait(), output.decode()


async def test_lines_of_a_pipe_are_texts(shared: Bound) -> None:
    """Each from the beginning, a word and its score after the other, without colours."""
    code, output = await on_a_pipe(shared.listen, "\n".join(TEXTS))
    assert (code, output.splitlines()) == (0, [printed(text) for text in TEXTS])


async def test_words_are_scored_as_they_are_typed(shared: Bound) -> None:
    """A space finishes a word, Backspace takes letters back, Enter begins a new text, and Ctrl-D ends it all."""
    async with terminal(shared.listen, program=LIVE) as live:
        live.type("This movie is ")
        *_, last = printed("This movie is").split()
        await live.until(f"is {last}")
        live.type("nto\b\bot ")
        await live.until(f"not {printed('This movie is not').split()[-1]}")
        live.type("great.\r")
        await live.until(f". {printed('This movie is not great.').split()[-1]}")
        live.type("Great ")
        await live.until(f"Great {printed('Great').split()[-1]}")
        assert "\x1b[" in live.shown
        live.type(CTRL_D)
        assert await live.end() == 0


async def test_ctrl_c_ends_it_and_closes_the_session(shared: Bound) -> None:
    """In the middle of a word."""
    async with terminal(shared.listen, program=LIVE) as live:
        live.type("Great so f")
        await live.until(f"so {printed('Great so').split()[-1]}")
        await live.until("f")
        live.type(CTRL_C)
        assert await live.end() == 0
    async with Client(shared.listen) as client:
        assert [session async for session in client.list_sessions()] == []


def test_a_model_that_is_not_served_is_named(shared: Bound, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, which ends the script."""
    monkeypatch.setattr(sys, "argv", ["live.py", "--server", shared.listen, "--model", "mood"])
    with pytest.raises(SystemExit, match=r"live.py: .*mood"):
        live.main()


async def test_the_client_cuts_texts_as_the_training_did(shared: Bound) -> None:
    """Tokens are the same: letters of either size, contractions, marks, words that nobody knows, and other scripts."""
    texts = [
        *TEXTS,
        "Well-known co-op's 1st 'best'... :-) <unk> fa\u00e7ade \u0414\u0430 \u0130stanbul",
        "snake_case--x - ' don'",
        "",
    ]
    async with Client(shared.listen) as client:
        codec = (await client.model("sentiment")).inputs[0].text
    assert codec is not None
    for text, tokens in zip(texts, tokens_of(load(BUNDLE), texts), strict=True):
        assert codec.tokens(text).tolist() == tokens.tolist()


def test_colours_tell_good_from_bad() -> None:
    """Grey in the middle, and the same beyond the ends."""
    assert colour(0.0) == "rgb(128,128,128)"
    assert colour(2.0) == colour(4.0) == "rgb(49,130,189)"
    assert colour(-2.0) == colour(-3.5) == "rgb(214,39,40)"
    assert colour(1.0) == "rgb(88,129,158)"
