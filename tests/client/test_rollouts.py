"""Rollouts and forecasts of a session and without one: what is asked, what comes, and where it leaves the session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

from stepstream import (
    Client,
    ConnectionLost,
    InvalidArgument,
    InvalidInput,
    SecretMismatch,
    SequenceMismatch,
    Session,
    SessionInUse,
    SessionNotFound,
    StepStreamError,
    Text,
    sync,
)
from stepstream_proto.v1 import inference_pb2 as pb
from support.background import in_background
from support.servicer import WORDS, FakeServicer, error, reciting, rolling_models, serving

TEXT = "def f(x):\n    return für(x)\n\n# end € of it"


@pytest.fixture
async def servicer() -> FakeServicer:
    """With models to roll out; those of text recite TEXT."""
    return reciting(TEXT)


@pytest.fixture
async def session(client: Client) -> AsyncIterator[Session]:
    """A new session `a` of a model of text."""
    async with client.open_session("letters", id="a") as session:
        yield session


async def test_text_comes_in_pieces_as_it_is_drawn(session: Session, servicer: FakeServicer) -> None:
    """The prompt is fed and not repeated; the session goes on behind it all."""
    rollout = session.generate("def ", max_steps=10)
    assert [piece async for piece in rollout] == list(TEXT[4:14])
    assert (rollout.ending, rollout.next_seq, session.next_seq, session.acked) == ("length", 14, 14, 14)
    assert (await session.step(0))["count"] == [15]
    (call,) = servicer.rollouts.calls
    assert (call.model, call.version, call.session_id, call.secret, call.seq) == ("letters", 1, "a", session.secret, 0)
    assert (call.max_steps, call.temperature, call.top_k, call.top_p, call.commit) == (10, 1.0, 0, 0.0, pb.COMMIT_END)


async def test_text_can_be_fed_without_going_on(session: Session) -> None:
    """As a chunk of its tokens; of a character too, as many as it has bytes."""
    outputs = await session.chunk("é!")
    assert outputs["count"].ravel().tolist() == [1, 2, 3]
    assert session.next_seq == 3


async def test_settings_are_those_of_the_call(session: Session, servicer: FakeServicer) -> None:
    """Each arrives under its name; greedy is a temperature of 0."""
    settings: dict[str, Any] = {"max_steps": 3, "temperature": 0.5, "top_k": 7, "top_p": 0.25, "seed": 2**64 - 1}
    assert session.generate("a", **settings).seed == 2**64 - 1
    await session.generate("a", **settings, commit="none", stop="é").whole()
    await session.generate("a", max_steps=1, temperature=2.0, greedy=True, stop=["x", "yz"]).whole()
    first, second = servicer.rollouts.calls
    assert (first.max_steps, first.temperature, first.top_k, first.top_p, first.seed) == tuple(settings.values())
    assert first.commit == pb.COMMIT_NONE
    assert [np.frombuffer(stop, "<i8").tolist() for stop in first.stop] == [[0xC3, 0xA9]]
    assert (second.temperature, [len(stop) for stop in second.stop]) == (0.0, [8, 16])


async def test_a_seed_is_chosen_and_told(client: Client, servicer: FakeServicer) -> None:
    """Given again it gives the same draws, in one rollout or in several."""
    rollout = client.generate("digits", [1, 2, 3], max_steps=40)
    drawn = await rollout.whole()
    assert rollout.seed == servicer.rollouts.calls[0].seed != client.generate("digits", [1], max_steps=1).seed
    assert isinstance(drawn, np.ndarray)
    assert (drawn.dtype.name, drawn.shape) == ("int64", (40,))
    servicer.rollouts.text = None
    async with client.open_session("digits") as session:
        whole = await session.generate([1, 2, 3], max_steps=40, seed=5, commit="none").whole()
        first = await session.generate([1, 2, 3], max_steps=15, seed=5).whole()
        rest = await session.generate(max_steps=25, seed=5).whole()
    assert [*first, *rest] == [*whole]


@pytest.mark.parametrize("pieces", [1, 2, 3, 100])
async def test_characters_are_never_torn(session: Session, servicer: FakeServicer, pieces: int) -> None:
    """However the server cuts what it sends."""
    servicer.rollouts.pieces = pieces
    told = [piece async for piece in session.generate(TEXT[:4], max_steps=len(TEXT.encode()) - 4)]
    assert "".join(told) == TEXT[4:]
    assert all(told)


async def test_a_character_that_the_end_cuts_off_waits_for_the_next_rollout(session: Session) -> None:
    """If that goes on right there, also on a copy."""
    cut = len(TEXT[: TEXT.index("ü")].encode()) + 1
    assert await session.generate("def ", max_steps=cut - 4).whole() == TEXT[4 : TEXT.index("ü")]
    assert await session.generate(max_steps=1, commit="none").whole() == "ü"
    assert await session.generate(max_steps=3).whole() == "ür("


async def test_the_beginning_of_a_character_is_replaced_where_nothing_goes_on(client: Client, session: Session) -> None:
    """Without a commit there is no next rollout, and what comes in between leaves it incomplete."""
    cut = len(TEXT[: TEXT.index("ü")].encode()) + 1
    assert await session.generate("def ", max_steps=cut - 4, commit="none").whole() == TEXT[4 : TEXT.index("ü")] + "�"
    assert await client.generate("letters", "def ", max_steps=cut - 4).whole() == TEXT[4 : TEXT.index("ü")] + "�"
    await session.generate("def ", max_steps=cut - 4).whole()
    await session.step(0xC3)
    assert await session.generate(max_steps=1).whole() == "r"


async def test_a_stop_sequence_ends_it_unsaid(session: Session, servicer: FakeServicer) -> None:
    """What may be its beginning comes once it is not."""
    rollout = session.generate("def ", max_steps=100, stop=["\n\n", "nothing"])
    told = [piece async for piece in rollout]
    assert "".join(told) == TEXT[4 : TEXT.index("\n\n")]
    assert (rollout.ending, "\n " in told) == ("stop", True)
    assert session.next_seq == rollout.next_seq == len(TEXT[: TEXT.index("\n\n") + 2].encode())


async def test_words_are_written_as_words(client: Client, servicer: FakeServicer) -> None:
    """Spaces between them and none before a mark."""
    servicer.rollouts.text = [WORDS.index(word) for word in ("the", "cat", "sat", ",", "it's", "on", ".")]
    async with client.open_session("words") as session:
        assert session.model.text == Text("words", WORDS)
        pieces = [piece async for piece in session.generate("the", max_steps=9, stop=".")]
        assert pieces == [" cat", " sat", ",", " it's", " on"]
        with pytest.raises(InvalidInput, match="'dog'"):
            session.generate("the dog", max_steps=1)


async def test_numbers_come_as_arrays(client: Client, servicer: FakeServicer) -> None:
    """Of the input's shape."""
    async with client.open_session("walk") as session:
        servicer.rollouts.pieces = 2
        pieces = [np.asarray(piece) async for piece in session.generate([0.5, 0.25], max_steps=5)]
        assert [piece.shape for piece in pieces] == [(2, 1), (2, 1), (1, 1)]
        assert pieces[0].dtype == np.float32
        assert session.next_seq == 7
        again = await client.generate("walk", [[0.5]], max_steps=3, id=session.id, secret=session.secret, commit="none").whole()
        assert np.asarray(again).shape == (3, 1)


# The place among the session's calls ---------------------------------------------------------------------------------


async def test_calls_behind_a_rollout_run_after_it(session: Session, servicer: FakeServicer) -> None:
    """Those before it have their outcome first, and numbers go on behind its last step."""
    servicer.rollouts.text = [1] * 100
    servicer.rollouts.hold_at = 5
    before = asyncio.ensure_future(session.chunk([1, 1]))
    rollout = asyncio.ensure_future(session.generate("\x01", max_steps=4).whole())
    await servicer.until(lambda: servicer.rollouts.running == 1)
    behind = asyncio.gather(session.step(1), session.reset(), session.fork(), session.step(1))
    assert (await before)["count"].tolist() == [[1], [2]]
    servicer.rollouts.hold_at = None
    await servicer.tell()
    assert await rollout == "\x01" * 4
    step, _, fork, last = await behind
    assert (step["count"][0], last["count"][0], fork.next_seq, session.next_seq) == (8, 1, 9, 10)


async def test_one_that_commits_nothing_is_in_nobodys_way_once_it_has_begun(session: Session, servicer: FakeServicer) -> None:
    """Steps go on beside it, and it leaves them as they would have been."""
    servicer.rollouts.hold_at = 6
    async with aclosing(session.generate("def ", max_steps=4, commit="none")) as rollout:
        assert await anext(rollout) == "f"
        assert (await session.step(7))["total"][0] == 7
        servicer.rollouts.hold_at = None
        await servicer.tell()
        assert await rollout.whole() == "(x)"
    assert (rollout.next_seq, session.next_seq, (await session.step(1))["count"][0]) == (8, 1, 2)


async def test_behind_a_failed_step_it_does_not_begin(client: Client, servicer: FakeServicer) -> None:
    """Like a step, and the session can be used on."""
    async with client.open_session("letters", id="b") as session:
        servicer.failures["b", 0] = error(9, "NON_FINITE_INPUT")
        step = asyncio.ensure_future(session.step(1))
        rollout = asyncio.ensure_future(session.generate("a", max_steps=1).whole())
        with pytest.raises(SequenceMismatch):
            await rollout
        assert step.exception() is not None
        assert not servicer.rollouts.calls
        assert (await session.step(1))["count"] == [1]


@pytest.mark.parametrize("how", ["break", "aclose", "cancel"])
@pytest.mark.parametrize("commit", ["end", "each", "none"])
async def test_leaving_early_ends_it_at_the_server(session: Session, servicer: FakeServicer, how: str, commit: Any) -> None:
    """Each step committed at once stays, else nothing does; later calls have the right numbers, and wait for it to be over."""
    servicer.rollouts.hold_at = 7
    servicer.rollouts.linger = 2 if commit == "each" else 0

    async def listen() -> None:
        rollout = session.generate("def ", max_steps=100, commit=commit)
        async for piece in rollout:
            if piece == "x":
                break
        if how == "aclose":
            await rollout.aclose()

    if how == "cancel":
        servicer.rollouts.pieces = 1000  # nothing comes
        listening = asyncio.ensure_future(listen())
        await servicer.until(lambda: servicer.rollouts.running == 1)
        await asyncio.sleep(0)
        listening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await listening
    else:
        await listen()
    step = asyncio.ensure_future(session.step(0))
    await servicer.until(lambda: servicer.rollouts.cancelled == 1)
    applied = {"end": 0, "none": 0, "each": 9}[commit]  # what it had applied, and what came of it until it was over
    await step
    assert session.next_seq == applied + 1 == servicer.sessions["a"].next_seq


async def test_a_rollout_that_was_never_begun_holds_nothing_up(session: Session) -> None:
    """It takes its place with the iteration."""
    session.generate("def ", max_steps=100)
    assert (await session.step(0))["count"] == [1]


async def test_one_that_fails_leaves_the_session_where_it_stood(session: Session, servicer: FakeServicer) -> None:
    """The error is the package's own, and the next call goes on."""
    with pytest.raises(InvalidArgument):
        await session.generate(max_steps=1).whole()  # nothing to go on from
    with pytest.raises(StepStreamError):
        await session.generate("a" * len(TEXT.encode()), max_steps=1).whole()  # the fake has no more text
    assert (await session.step(0))["count"] == [1]


async def test_a_client_that_is_closed_meanwhile_says_so(client: Client, session: Session, servicer: FakeServicer) -> None:
    """Not as a cancellation, which nobody asked for."""
    servicer.rollouts.hold_at = 6
    rollout = asyncio.ensure_future(session.generate("def ", max_steps=9).whole())
    await servicer.until(lambda: servicer.rollouts.running == 1)
    await client.close()
    with pytest.raises(ConnectionLost):
        await rollout
    await client.__aenter__()


# Without a session, or by its id -------------------------------------------------------------------------------------


async def test_a_rollout_needs_no_session(client: Client, servicer: FakeServicer) -> None:
    """It begins at the start, and nothing is left of it."""
    rollout = client.generate("letters", "def ", max_steps=5)
    assert await rollout.whole() == TEXT[4:9]
    assert rollout.next_seq == 9
    assert not servicer.sessions
    assert not servicer.received


async def test_a_session_is_rolled_out_by_id(client: Client, servicer: FakeServicer) -> None:
    """By its secret while it is held; the model's version may be named."""
    session = await client.open_session("letters", id="a")
    with pytest.raises(SessionInUse):
        await client.generate("letters", "def ", max_steps=5, id="a").whole()
    with pytest.raises(SecretMismatch):
        await client.generate("letters", "def ", max_steps=5, id="a", secret=b"wrong").whole()
    with pytest.raises(SessionNotFound):
        await client.generate("letters", "def ", max_steps=5, id="b").whole()
    await session.detach()
    assert await client.generate("letters", "def ", max_steps=5, id="a", version=1).whole() == TEXT[4:9]
    assert await client.generate("letters", None, max_steps=5, id="a", commit="none").whole() == TEXT[9:14]
    assert (await client.get_session("letters", "a")).next_seq == 9


# Forecasts -----------------------------------------------------------------------------------------------------------


async def test_a_forecast_is_quantiles_by_step(client: Client, servicer: FakeServicer) -> None:
    """Of the paths' values, in ascending order; and the session stays where it is."""
    async with client.open_session("walk", id="a") as session:
        await session.chunk([1.0, 2.0])
        values = await session.forecast(4, paths=50, levels=[0.1, 0.5, 0.9], seed=3)
        assert (values.shape, values.dtype.name) == ((4, 3, 1), "float32")
        assert (np.diff(values[:, :, 0], axis=1) > 0).all()
        assert (await session.forecast(4, paths=1, seed=3, prompt=[5.0])).shape == (4, 1)
        assert np.array_equal(values, await session.forecast(4, paths=50, seed=3))
        assert (await session.step(1.0))["total"][0] == 4
        quantiles, path, _ = servicer.rollouts.calls
        assert (quantiles.paths, list(quantiles.levels), quantiles.commit) == (50, [0.1, 0.5, 0.9], pb.COMMIT_NONE)
        assert (path.paths, list(path.levels), len(path.prompt)) == (1, [], 1)


async def test_a_forecast_is_in_nobodys_way_once_it_has_begun(client: Client, servicer: FakeServicer) -> None:
    """The session's next reading does not wait for what was forecast before it."""
    async with client.open_session("walk") as session:
        await session.chunk([1.0, 2.0])
        servicer.rollouts.hold_at = 2
        forecast = asyncio.ensure_future(session.forecast(4, paths=50))
        await servicer.until(lambda: servicer.rollouts.running == 1)
        assert (await session.step(1.0))["total"][0] == 4
        assert not forecast.done()
        servicer.rollouts.hold_at = None
        await servicer.tell()
        assert (await forecast).shape == (4, 3, 1)


# Arguments -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("max_steps", {"max_steps": 0}),
        ("max_steps", {"max_steps": 2**32}),
        ("temperature", {"temperature": -0.1}),
        ("temperature", {"temperature": float("nan")}),
        ("temperature", {"temperature": float("inf")}),
        ("top_k", {"top_k": -1}),
        ("top_p", {"top_p": 1.1}),
        ("top_p", {"top_p": float("nan")}),
        ("seed", {"seed": -1}),
        ("seed", {"seed": 2**64}),
        ("commit", {"commit": "never"}),
        ("stop", {"stop": ""}),
        ("stop", {"stop": ["a", ""]}),
        ("stop", {"stop": ["a"] * 17}),
        ("stop", {"stop": "a" * 65}),
        ("stop", {"stop": [[1, 2]]}),
        ("prompt", {"prompt": [1, 2]}),
    ],
)
async def test_settings_are_checked_before_anything_is_sent(
    session: Session, client: Client, servicer: FakeServicer, field: str, settings: dict[str, Any]
) -> None:
    """When the rollout is asked for, or at the latest when it is begun; the error names the field."""
    asked: dict[str, Any] = {"prompt": "a", "max_steps": 1} | settings
    with pytest.raises(InvalidArgument, match=f"^{field}: expected"):
        session.generate(**asked)
    with pytest.raises(InvalidArgument, match=f"^{field}: expected"):
        await client.generate("letters", **asked).whole()
    assert not servicer.rollouts.calls


@pytest.mark.parametrize(
    ("field", "model", "ask"),
    [
        ("model", "level", lambda session: session.generate([1.0], max_steps=1)),
        ("model", "mixed", lambda session: session.generate({"a": [1.0], "token": [1]}, max_steps=1)),
        ("stop", "walk", lambda session: session.generate([1.0], max_steps=1, stop=[1])),
        ("top_k", "walk", lambda session: session.generate([1.0], max_steps=1, top_k=1)),
        ("top_p", "walk", lambda session: session.generate([1.0], max_steps=1, top_p=0.5)),
        ("input 'x'", "walk", lambda session: session.generate("text", max_steps=1)),
        ("input 'digit'", "digits", lambda session: session.generate([10], max_steps=1)),
        ("input 'digit'", "digits", lambda session: session.generate([1], max_steps=1, stop=[10])),
        ("stop", "digits", lambda session: session.generate([1], max_steps=1, stop="1")),
    ],
)
async def test_what_a_model_cannot_do_is_said(client: Client, field: str, model: str, ask: Callable[[Session], Any]) -> None:
    """Models of numbers have no tokens to stop at, and some cannot be rolled out at all."""
    async with client.open_session(model) as session:
        with pytest.raises(InvalidArgument, match=f"^{field}: expected"):
            ask(session)


@pytest.mark.parametrize(
    ("field", "model", "settings"),
    [
        ("model", "digits", {}),
        ("horizon", "walk", {"horizon": 0}),
        ("paths", "walk", {"paths": 0}),
        ("temperature", "walk", {"temperature": 0}),
        ("levels", "walk", {"levels": []}),
        ("levels", "walk", {"levels": [0.5, 0.5]}),
        ("levels", "walk", {"levels": [0.0, 0.5]}),
        ("levels", "walk", {"levels": [0.5, float("nan")]}),
    ],
)
async def test_what_cannot_be_forecast_is_said(client: Client, field: str, model: str, settings: dict[str, Any]) -> None:
    """Before anything is sent."""
    async with client.open_session(model) as session:
        with pytest.raises(InvalidArgument, match=f"^{field}: expected"):
            await session.forecast(**{"horizon": 1, **settings})


async def test_several_sequences_of_tokens_or_one(client: Client, servicer: FakeServicer) -> None:
    """A flat list is one."""
    stops: list[Any] = [[1, 2], [[1, 2], [3]], np.array([1, 2]), ()]
    for stop in stops:
        await client.generate("digits", [1], max_steps=1, stop=stop).whole()
    told = [[np.frombuffer(each, "<i8").tolist() for each in call.stop] for call in servicer.rollouts.calls]
    assert told == [[[1, 2]], [[1, 2], [3]], [[1, 2]], []]


# Without asyncio -----------------------------------------------------------------------------------------------------


def test_the_blocking_twin_does_the_same() -> None:
    """Pieces by a plain loop, left early or not; the whole; forecasts."""
    servicer = FakeServicer()
    servicer.models |= rolling_models()
    servicer.rollouts.text = list(TEXT.encode())
    with in_background(serving(servicer)) as server, sync.Client(server.value) as client:
        with client.open_session("letters", id="a") as session:
            rollout = session.generate("def ", max_steps=10, seed=4)
            assert "".join(str(piece) for piece in rollout) == TEXT[4:14]
            assert (rollout.seed, rollout.ending, rollout.next_seq, session.next_seq) == (4, "length", 14, 14)
            rollout = session.generate(max_steps=10, commit="none")
            assert next(rollout) == TEXT[14]
            assert rollout.whole() == TEXT[15:23]
            server.call(lambda: setattr(servicer.rollouts, "hold_at", 20))
            for piece in session.generate(max_steps=10):
                assert piece == TEXT[14]
                break
            assert session.step(0)["count"] == [15]
            server.call(lambda: setattr(servicer.rollouts, "hold_at", None))
            rollout = session.generate(max_steps=10)
            next(rollout)
            rollout.close()
            assert list(rollout) == []
        assert client.generate("letters", "def ", max_steps=5).whole() == TEXT[4:9]
        with client.open_session("walk") as session:
            assert session.forecast(3, prompt=[1.0]).shape == (3, 3, 1)
    assert servicer.broken_rules == []
