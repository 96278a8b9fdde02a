"""Rollouts of the client at the real server: text, tokens, forecasts, early endings and broken connections."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stepstream import Client, ClientOptions, ConnectionLost, InvalidArgument, Session, StepStreamError, Text, sync
from stepstream_server.app import Bound
from stepstream_server.bundles import write
from stepstream_server.spec import HeadSpec, TextSpec
from support.background import in_background
from support.models import random_model, with_text
from support.proxy import Mischief, proxied
from support.server import close_sessions, serving

WORDS = ("the", "cat", "sat", "on", "a", "mat", ".", ",")
QUICK = ClientOptions(reconnect_first_seconds=0.001, reconnect_most_seconds=0.02)
DRAWS: dict[str, Any] = {"max_steps": 300, "seed": 9, "temperature": 0.9}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`letters` and `words` are of text, `tokens` of ids below 11; `walk` predicts its one number as quantiles."""
    folder = tmp_path_factory.mktemp("models")
    spec, weights = random_model("lstm", 8, 16, 1, 256, seed=3, tokens=256, name="letters")
    write(folder / "letters", with_text(spec, TextSpec("bytes")), weights)
    heads = [HeadSpec("next", "next_token", len(WORDS))]
    spec, weights = random_model("gru", 4, 16, seed=4, tokens=len(WORDS), heads=heads, name="words")
    write(folder / "words", with_text(spec, TextSpec("words", WORDS)), weights)
    write(folder / "tokens", *random_model("lstm", 3, 16, 1, 11, seed=5, tokens=11, name="tokens"))
    quantiles = [HeadSpec("next", "quantiles", 3, levels=(0.1, 0.5, 0.9), predicts="x")]
    write(folder / "walk", *random_model("lstm", 1, 16, seed=6, heads=quantiles, name="walk"))
    return folder


@pytest.fixture(scope="module")
def shared(models: Path) -> Iterator[Bound]:
    """A whole server for all tests, whose sessions' windows are small."""
    with in_background(serving(models, engine={"window_steps": 8})) as background:
        yield background.value


@pytest.fixture
async def bound(shared: Bound) -> AsyncIterator[Bound]:
    """Where it is, without sessions."""
    yield shared
    await close_sessions(shared.listen)


@pytest.fixture
async def client(bound: Bound) -> AsyncIterator[Client]:
    """A client of it."""
    async with Client(bound.listen, QUICK) as client:
        yield client


@pytest.fixture
async def text(client: Client) -> str:
    """What `letters` goes on with behind "def "."""
    text = await client.generate("letters", "def ", **DRAWS).whole()
    assert isinstance(text, str)
    return text


async def applied(client: Client, session: Session) -> int:
    """Steps, as the server counts them."""
    return (await client.get_session(session.model.name, session.id)).next_seq


async def test_every_way_gives_the_same_text(client: Client, text: str) -> None:
    """In one rollout or in several, committed or not, with or without a session, fed first or as a prompt."""
    async with client.open_session("letters", id="a") as session:
        assert session.model.text == Text("bytes")
        assert await session.generate("def ", **DRAWS, commit="none").whole() == text
        assert await client.generate("letters", "def ", **DRAWS, id="a", secret=session.secret, commit="none").whole() == text
        assert session.next_seq == 0
        pieces = [await session.generate("def ", **DRAWS | {"max_steps": 100}).whole()]
        pieces += [await session.generate(**DRAWS | {"max_steps": 1}, commit="each").whole() for _ in range(50)]
        pieces += [await session.generate(**DRAWS | {"max_steps": 150}, commit="each").whole()]
        assert text.startswith("".join(map(str, pieces)))
        assert session.next_seq == await applied(client, session) == 304
        await session.reset()
    async with client.open_session("letters") as session:
        await session.chunk("def ", outputs="none")
        assert await session.generate(**DRAWS).whole() == text


async def test_a_stop_sequence_ends_it(client: Client, text: str) -> None:
    """At its first place, unsaid; the state has it."""
    found = re.compile("[^�]{3}").search(text, 50)
    assert found is not None
    stop, place = found[0], text.index(found[0])
    async with client.open_session("letters") as session:
        rollout = session.generate("def ", **DRAWS, stop=[stop, "not in it, to be sure"])
        assert (await rollout.whole(), rollout.ending) == (text[:place], "stop")
        assert session.next_seq == rollout.next_seq


async def test_words_and_tokens(client: Client) -> None:
    """Each in its own form."""
    sentence = await client.generate("words", "the cat sat", max_steps=20, seed=1).whole()
    assert isinstance(sentence, str)
    assert set(re.findall(r"\w+|[.,]", sentence)) <= set(WORDS)
    assert len(re.findall(r"\w+|[.,]", sentence)) == 20
    tokens = await client.generate("tokens", [1, 2], max_steps=20, top_k=1).whole()
    greedy = await client.generate("tokens", [1, 2], max_steps=20, greedy=True).whole()
    assert np.array_equal(np.asarray(tokens), np.asarray(greedy))


async def test_a_forecast_leaves_the_session_as_it_was(client: Client) -> None:
    """To the bit, whatever is forecast in between; the median lies between the others."""
    readings = np.random.default_rng(5).normal(size=(40, 1)).astype(np.float32)
    async with client.open_session("walk") as session, client.open_session("walk") as twin:
        for first in range(0, 40, 4):
            values, outputs = await asyncio.gather(
                session.forecast(9, paths=30, seed=first, prompt=readings[:3]), session.chunk(readings[first : first + 4])
            )
            assert values.shape == (9, 3, 1)
            assert (np.diff(values, axis=1) >= 0).all()
            assert np.array_equal(outputs["next"], (await twin.chunk(readings[first : first + 4]))["next"])
        path = await session.forecast(9, paths=1, temperature=0)
        assert np.array_equal(path, np.asarray(await session.generate(max_steps=9, greedy=True).whole()))


async def test_calls_around_a_rollout_keep_their_order(client: Client, text: str) -> None:
    """Those begun before are part of it, those begun after run behind it, with the right numbers."""
    async with client.open_session("letters") as session, client.open_session("letters") as twin:
        fed, drawn, step, fork = await asyncio.gather(
            session.chunk("def ", "none"),
            session.generate(**DRAWS).whole(),
            session.step(65),
            session.fork(),
        )
        assert (fed["y"].shape, drawn, fork.next_seq) == ((0, 256), text, 305)
        await twin.generate("def ", **DRAWS).whole()
        assert np.array_equal(step["y"], (await twin.step(65))["y"])
        await fork.close()


@pytest.mark.parametrize("commit", ["end", "each", "none"])
async def test_leaving_early_leaves_the_right_number(client: Client, text: str, commit: Any) -> None:
    """Whenever that is, and whoever goes on."""
    async with client.open_session("letters") as session:
        for wanted in (1, 2, 30, 100):
            before, heard = session.next_seq, ""
            async for piece in session.generate("def ", max_steps=100_000, commit=commit):
                heard += str(piece)
                if len(heard) >= wanted:
                    break
            await session.step(65)
            moved = session.next_seq - before - 1
            assert moved >= len(heard) if commit == "each" else moved == 0
            assert session.next_seq == await applied(client, session)


async def test_what_the_server_refuses_is_an_error_of_the_package(client: Client) -> None:
    """Nothing to go on from, for one."""
    with pytest.raises(InvalidArgument):
        await client.generate("letters", None, max_steps=1).whole()
    async with client.open_session("letters") as session:
        with pytest.raises(StepStreamError):
            await session.generate(max_steps=1).whole()
        assert len((await session.step(65))["y"]) == 256


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("way", ["end", "none", "nowhere"])
async def test_a_broken_connection_changes_nothing(bound: Bound, text: str, way: str, seed: int) -> None:
    """However often it breaks, and whatever of that the server has noticed; else it is lost, and numbers are right."""
    mischief = Mischief(seed=seed, cuts=5, mean_bytes=2000, ghosts=0.3)
    async with proxied(bound.listen, mischief) as address, Client(address, QUICK) as client:
        if way == "nowhere":
            assert await client.generate("letters", "def ", **DRAWS).whole() == text
            return
        async with client.open_session("letters") as session:
            with suppress(ConnectionLost):  # its ending was not heard
                commit: Any = way
                assert await session.generate("def ", **DRAWS, commit=commit).whole() == text
            await session.step(65)
            assert session.next_seq == await applied(client, session)
            assert session.next_seq == 1 if way == "none" else session.next_seq in (1, 305)


@pytest.mark.parametrize("seed", range(4))
async def test_each_step_committed_keeps_its_number(bound: Bound, text: str, seed: int) -> None:
    """After a break it is the server who knows how far the session is."""
    mischief = Mischief(seed=seed, cuts=3, mean_bytes=1500, ghosts=0.0)
    heard = ""
    async with (
        proxied(bound.listen, mischief) as address,
        Client(address, QUICK) as client,
        client.open_session("letters") as session,
    ):
        with suppress(ConnectionLost):
            async for piece in session.generate("def ", **DRAWS, commit="each"):
                heard += str(piece)
        assert text.startswith(heard)
        await session.step(65)
        assert session.next_seq == await applied(client, session)


def test_the_blocking_twin_does_the_same(models: Path) -> None:
    """Plain loops and calls."""
    with in_background(serving(models)) as server, sync.Client(server.value.listen) as client:
        whole = client.generate("letters", "def ", **DRAWS).whole()
        with client.open_session("letters") as session:
            assert "".join(map(str, session.generate("def ", **DRAWS))) == whole
            for _ in session.generate(max_steps=100_000):
                break
            session.step(65)
            assert session.next_seq == 305
        with client.open_session("walk") as session:
            assert session.forecast(5, prompt=[0.5]).shape == (5, 3, 1)
