"""`stepstream complete` and `stepstream chat` against a real server: what they print is what the client library gets."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from stepstream import Client
from stepstream_server.bundles import TextSpec, write
from stepstream_server.spec import HeadSpec
from support.command import ended, shell, start, stepstream
from support.models import random_model, with_text

PROMPT = "def für(x):"
WORDS = ("good", "not", ",")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`letters`: a byte of text x -> y[256]. `words`: one of three words or <unk> -> a score y."""
    folder = tmp_path_factory.mktemp("models")
    spec, weights = random_model("lstm", inputs=8, outputs=256, tokens=256, name="letters")
    write(folder / "letters", with_text(spec, TextSpec("bytes")), weights)
    spec, weights = random_model("gru", inputs=4, tokens=4, heads=[HeadSpec("y", "regression", 1)], name="words")
    write(folder / "words", with_text(spec, TextSpec("words", (*WORDS, "<unk>"), unknown="<unk>", lower=True)), weights)
    strict, weights = random_model("gru", inputs=4, tokens=3, outputs=3, name="strict")
    write(folder / "strict", with_text(strict, TextSpec("words", WORDS)), weights)
    return folder


async def test_a_continuation_is_that_of_the_client(server: str, client: Client) -> None:
    """Text as the client makes it of tokens."""
    flags = ("--max-steps", "100", "--temperature", "0.9", "--top-k", "20", "--top-p", "0.9", "--seed", "3")
    done = await stepstream(server, "complete", "letters", *flags, stdin=PROMPT)
    rollout = client.generate("letters", PROMPT, max_steps=100, temperature=0.9, top_k=20, top_p=0.9, seed=3)
    assert (done.code, done.stdout) == (0, await rollout.whole())
    assert (await stepstream(server, "complete", "letters", "--greedy", "--max-steps", "9", stdin=PROMPT)).stdout == (
        await client.generate("letters", PROMPT, max_steps=9, greedy=True).whole()
    )


async def test_a_text_is_continued_from_the_command_line(server: str) -> None:
    """It goes on as one from stdin, with a line end behind it, since nothing follows."""
    flags = ("--max-steps", "20", "--seed", "3")
    piped = await stepstream(server, "complete", "letters", *flags, stdin=PROMPT)
    given = await stepstream(server, "complete", "letters", PROMPT, *flags)
    assert (given.code, given.stdout) == (0, f"{piped.stdout}\n")


async def test_each_token_of_a_text_is_a_step(server: str, client: Client) -> None:
    """Printed by its name beside what the client gets for the same text, in as many lines as it may have."""
    text = "Good, not good.\n\nBAD\tnot"
    async with client.open_session("words") as session:
        scores = (await session.chunk(text))["y"][:, 0]
    done = await stepstream(server, "stream", "words", "--text", stdin=text)
    rows = list(csv.reader(io.StringIO(done.stdout)))
    assert rows[0] == ["seq", "token", "y"]
    assert [row[:2] for row in rows[1:]] == [
        [str(seq), token] for seq, token in enumerate(["good", ",", "not", "good", "<unk>", "<unk>", "not"])
    ]
    np.testing.assert_array_equal(np.array([row[2] for row in rows[1:]], np.float32), scores)
    lines = (await stepstream(server, "stream", "words", "--text", "--json", stdin=text)).stdout.splitlines()
    assert [json.loads(line)["token"] for line in lines] == [row[1] for row in rows[1:]]
    assert json.loads(lines[0])["outputs"]["y"] == [float(rows[1][2])]


async def test_a_text_is_answered_word_by_word(server: str) -> None:
    """The answer to a word can be read once white space has ended the word, before the next one is written."""
    process = await start(server, "stream", "words", "--text", "--no-header")
    assert process.stdin is not None
    assert process.stdout is not None
    for seq, word in enumerate(("not", "good", "not")):
        process.stdin.write(f"{word} ".encode())
        assert (await process.stdout.readline()).startswith(f"{seq},{word},".encode())
    assert (await ended(process)).code == 0


async def test_each_byte_of_a_text_has_a_name(server: str) -> None:
    """It is shown as a character or a number, and a step."""
    done = await stepstream(server, "stream", "letters", "--text", "--outputs", "y[65]", stdin="ü,\n")
    assert [row[1] for row in csv.reader(io.StringIO(done.stdout))] == ["token", "\\xc3", "\\xbc", ",", "\\x0a"]


@pytest.mark.parametrize(
    ("model", "flags", "stdin", "answered", "told"),
    [
        ("strict", [], "good not\ngood bad not", 3, "line 2: text: expected words among the 3 that the model knows, got 'bad'"),
        ("words", ["--columns", "x"], "good", 0, "--text: expected neither --columns nor --format nor --skip-bad with it"),
    ],
)
async def test_what_is_no_text_of_the_model(
    server: str, model: str, flags: list[str], stdin: str, answered: int, told: str
) -> None:
    """It ends the stream behind the answers before it."""
    done = await stepstream(server, "stream", model, "--text", "--no-header", *flags, stdin=stdin)
    assert (done.code, len(done.stdout.splitlines())) == (2, answered)
    assert told in done.stderr


async def test_head_ends_it_quietly(server: str, tmp_path: Path) -> None:
    """As with any command that writes on."""
    pipeline = "printf x | stepstream complete letters --max-steps 1000000 | head -c 4 | wc -c; echo ${PIPESTATUS[1]}"
    done = await shell(server, pipeline, tmp_path)
    assert (done.stdout.split(), done.stderr) == (["4", "141"], "")


async def test_an_answer_in_pieces_is_that_of_one_rollout(server: str, client: Client) -> None:
    """Also behind an answer before, which is remembered."""
    done = await stepstream(
        server, "chat", "letters", "--max-steps", "100", "--seed", "3", "--json", stdin=f"{PROMPT}\nund so\\\n"
    )
    assert done.code == 0, done.stderr
    told = [json.loads(line)["text"] for line in done.stdout.splitlines()]
    async with client.open_session("letters") as session:
        for prompt, text in zip((f"{PROMPT}\n", "und so"), told, strict=True):
            assert await session.generate(prompt, max_steps=100, temperature=0.8, seed=3).whole() == text
    assert [info.id async for info in client.list_sessions()] == []
