"""The shipped translator, measured on held-out phrases through the backend that serves it, and over real gRPC."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
from translation.evaluate import BUNDLE, KINDS, by_attention, exact, listed, vocabulary_of
from translation.pieces import END, SIGN, join
from translation.served import LONGEST, TRIAL_SECONDS

from stepstream import Client, InvalidInput
from stepstream_server.app import Bound
from stepstream_server.backends import build
from stepstream_server.backends.promise import check_promise
from stepstream_server.bundles import Bundle, load
from stepstream_server.config import BackendSettings
from support.background import in_background
from support.server import serving

README = Path(__file__).parents[2] / "examples" / "translation" / "README.md"
TOGETHER = 64


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The bundle that is shipped."""
    return load(BUNDLE)


def test_the_bundle_is_what_the_contract_says(bundle: Bundle) -> None:
    """A piece in per step, a score for each piece out; the end token stops it, and the likeliest piece is drawn."""
    spec, vocabulary = bundle.spec, tuple(vocabulary_of(bundle))
    (token,), (head,) = spec.inputs, spec.heads
    assert (spec.name, spec.version) == ("translate", 1)
    assert (token.name, token.dtype, token.shape, token.limit) == ("token", "int64", (), len(vocabulary))
    assert token.text is not None
    assert (token.text.codec, token.text.space, token.text.lower, token.text.unknown) == ("pieces", SIGN, True, "")
    assert vocabulary[:5] == (END, f"{SIGN}<en>", f"{SIGN}<de>", f"{SIGN}<fr>", f"{SIGN}<es>")
    assert (head.name, head.kind, head.width) == ("next", "next_token", len(vocabulary))
    assert (head.stop, head.temperature) == (((0,),), 0.0)
    assert [state.name for state in spec.states][:5] == ["h", "c", "memory", "position", "writes"]
    assert spec.licence.startswith("Apache-2.0")
    assert sum(file.stat().st_size for file in BUNDLE.iterdir()) < 1_400_000


def test_a_session_has_the_bits_of_one_alone(bundle: Bundle) -> None:
    """On random tokens, as the server tries it at its start, and behind sources with their tags, among 64 and by itself."""
    settings = BackendSettings(threads=1, trial_seconds=TRIAL_SECONDS)
    backend = build(bundle.spec, {}, settings, slots=TOGETHER, max_batch=TOGETHER, graph=bundle.graph)
    assert backend.max_batch == TOGETHER
    check_promise(backend, bundle.spec)
    random, pieces = np.random.default_rng(0), bundle.spec.inputs[0].limit
    tags = random.integers(1, 5, (TOGETHER, 1))
    rows = np.concatenate([random.integers(5, pieces, (TOGETHER, 12)), tags, random.integers(5, pieces, (TOGETHER, 6))], axis=1)
    slots = backend.allocate(TOGETHER)
    (together,) = backend.collect(backend.launch("step", slots, (rows,), rows.shape[1])).outputs
    for at in (0, 7, TOGETHER - 1):
        backend.zero(slots[:1])
        (alone,) = backend.collect(backend.launch("step", slots[:1], (rows[at : at + 1],), rows.shape[1])).outputs
        assert alone.tobytes() == together[at : at + 1].tobytes()


def test_the_readme_shows_what_the_bundle_reaches(bundle: Bundle) -> None:
    """Phrases that were never trained on, translated exactly, of the first of those that README.md's table is measured on."""
    shown = dict(re.findall(r"^\| (numbers|dates|times) \| \d+ \| ([\d.]+) %", README.read_text(), re.MULTILINE))
    trials = listed()
    hits = exact(by_attention(bundle, trials), trials, vocabulary_of(bundle))
    for kind in KINDS:
        share = hits[[each.kind == kind for each in trials]].mean()
        assert share == pytest.approx(float(shown[kind]) / 100, abs=0.08), kind  # three standard errors of 80 at 95 %


@pytest.fixture(scope="module")
def bound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bound]:
    """A server that has this model alone."""
    models = tmp_path_factory.mktemp("models")
    shutil.copytree(BUNDLE, models / "translate")
    with in_background(serving(models)) as background:
        yield background.value


@pytest.fixture
async def client(bound: Bound) -> AsyncIterator[Client]:
    """At that server."""
    async with Client(bound.listen) as client:
        yield client


async def test_held_out_phrases_are_translated_over_the_wire(client: Client, bundle: Bundle) -> None:
    """Forty at once, as the backend does alone; texts come whole and end by themselves."""
    trials = listed()[::6]
    written = await asyncio.gather(*(translated(client, f"{each.source} <{each.language}>") for each in trials))
    pieces = list(vocabulary_of(bundle))
    assert written == [join(pieces[token] for token in text) for text in by_attention(bundle, trials)]
    assert sum(text == each.translation for text, each in zip(written, trials, strict=True)) >= 0.8 * len(trials)


async def test_the_example_of_the_readme(client: Client) -> None:
    """In any case, and one text after another in one session."""
    texts = ["am dritten März <fr>", "Quatre-vingt-dix-sept <DE>", "half past eight <es>", "2026-11-30 <en>"]
    expected = ["le trois mars", "siebenundneunzig", "las ocho y media", "30 November 2026"]
    assert [await translated(client, text) for text in texts] == expected
    async with await client.open_session("translate") as session:
        assert [await session.generate(text, max_steps=LONGEST).whole() for text in texts] == expected


async def test_what_cannot_be_translated(client: Client) -> None:
    """A source without a tag is translated as nothing, a text of other pieces is refused, a long one does no harm."""
    assert await translated(client, "am dritten März") == ""
    with pytest.raises(InvalidInput, match="expected characters that the model has pieces for"):
        await translated(client, "guten Tag <fr>")
    assert await client.generate("translate", "mil " * 100 + "<de>", max_steps=LONGEST).whole()
    assert await translated(client, "mil <de>") == "eintausend"


async def translated(client: Client, text: str) -> str:
    """In a session of its own."""
    return await client.generate("translate", text, max_steps=LONGEST).whole()
