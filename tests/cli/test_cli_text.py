"""`stepstream complete` and `stepstream chat` against a real server: what they print is what the client library gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepstream import Client
from stepstream_server.bundles import TextSpec, write
from support.command import shell, stepstream
from support.models import random_model, with_text

PROMPT = "def für(x):"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`letters`: a byte of text x -> y[256]."""
    folder = tmp_path_factory.mktemp("models")
    spec, weights = random_model("lstm", inputs=8, outputs=256, tokens=256, name="letters")
    write(folder / "letters", with_text(spec, TextSpec("bytes")), weights)
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
