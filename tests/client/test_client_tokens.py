"""Tokens: every call shows one, a file's may be replaced while steps are under way, and none is ever repeated to anybody."""

from __future__ import annotations

import asyncio
import os
import threading
import traceback
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from stepstream import (
    TLS,
    AccessDenied,
    Client,
    ClientOptions,
    InvalidArgument,
    NotPermitted,
    Session,
    StepStreamError,
    Unauthenticated,
    sync,
)
from stepstream._token import MAX_TOKEN
from support.background import in_background
from support.doorkeeper import UNKNOWN, Doorkeeper
from support.events import until_kind
from support.servicer import QUICK, FakeServicer, reciting, serving
from support.status import failed_call

SHORT = replace(QUICK, reconnect_seconds=0.2)


@pytest.fixture
def doorkeeper() -> Doorkeeper:
    """It lets in those who show `first`."""
    return Doorkeeper("first")


@pytest.fixture
async def servicer() -> FakeServicer:
    """It recites a text as well."""
    return reciting("soup and bread. " * 10)


@pytest.fixture
async def address(servicer: FakeServicer, doorkeeper: Doorkeeper) -> AsyncIterator[str]:
    """The address where it is served, behind the doorkeeper."""
    async with serving(servicer, interceptors=[doorkeeper]) as bound:
        yield bound
    assert servicer.broken_rules == []


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with the token that is good at first."""
    path = tmp_path / "token"
    path.write_text("first\n")
    return path


def replaced(file: Path, token: str) -> None:
    """Puts another file in its place, as those who rotate secrets do."""
    new = file.with_suffix(".new")
    new.write_text(f"  {token}\n\n")
    new.rename(file)


def written(file: Path, text: str) -> None:
    """Writes over it."""
    file.write_text(text)


async def every_kind_of_call(client: Client) -> None:
    """One of each kind that the contract has: unary to three services, a rollout, a stream."""
    await client.models()
    async with client.open_session("level", id="a") as session:
        await session.step(1)
        await client.get_session("level", "a")
        await client.step("level", "a", 1, secret=session.secret)
    assert await client.generate("letters", "I like ", max_steps=4).whole()


# What calls show -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["token", "token_file"])
async def test_every_call_shows_the_token(given: str, address: str, doorkeeper: Doorkeeper, file: Path) -> None:
    """Unary calls, rollouts and streams, each once."""
    options = ClientOptions(token="first") if given == "token" else ClientOptions(token_file=str(file))
    async with Client(address, options) as client:
        await every_kind_of_call(client)
    assert {method for method, _ in doorkeeper.shown} == {"ListModels", "Stream", "GetModel", "GetSession", "Step", "Generate"}
    assert all(shown == ["Bearer first"] for _, shown in doorkeeper.shown)


async def test_without_a_token_none_is_shown(address: str, doorkeeper: Doorkeeper) -> None:
    """Servers that ask for none never see the header."""
    doorkeeper.good = None
    async with Client(address) as client:
        await every_kind_of_call(client)
    assert len(doorkeeper.shown) >= 6
    assert all(shown == [] for _, shown in doorkeeper.shown)


def test_the_blocking_client_shows_it_too(doorkeeper: Doorkeeper) -> None:
    """By the same options."""
    with in_background(serving(FakeServicer(), interceptors=[doorkeeper])) as server:
        with sync.Client(server.value, ClientOptions(token="first")) as client, client.open_session("level") as session:
            assert session.step(1)["count"][0] == 1
            assert len(client.models()) == 3
        with sync.Client(server.value, ClientOptions(token="other")) as client, pytest.raises(Unauthenticated):
            client.models()


# Tokens that are refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [SHORT, replace(SHORT, token="wrong")])
async def test_a_wrong_token_is_told_at_once(options: ClientOptions, address: str, doorkeeper: Doorkeeper) -> None:
    """By calls, rollouts and streams alike, each tried once."""
    async with Client(address, options) as client:
        with pytest.raises(Unauthenticated) as told:
            await client.models()
        assert (told.value.code, told.value.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
        with pytest.raises(Unauthenticated):
            await client.open_session("level")
        with pytest.raises(Unauthenticated):
            await client.get_session("level", "a")
    assert doorkeeper.turned_away == 3


async def test_a_file_that_never_had_a_good_token_is_told_at_once(address: str, doorkeeper: Doorkeeper, file: Path) -> None:
    """Patience is for tokens that were good once."""
    doorkeeper.good = "other"
    async with Client(address, replace(QUICK, token_file=file)) as client:
        with pytest.raises(Unauthenticated):
            await client.open_session("level")
    assert doorkeeper.turned_away == 1


async def test_not_permitted_has_a_class_of_its_own(address: str, doorkeeper: Doorkeeper) -> None:
    """The token is known; a wrong secret is still told as that."""
    doorkeeper.refusal = failed_call(grpc.StatusCode.PERMISSION_DENIED, "NOT_PERMITTED", "only for admins")
    async with Client(address, replace(SHORT, token="other")) as client:
        with pytest.raises(NotPermitted, match="only for admins"):
            await client.models()
    assert issubclass(NotPermitted, AccessDenied)


async def test_a_fixed_token_that_is_revoked_ends_the_sessions(
    address: str, servicer: FakeServicer, doorkeeper: Doorkeeper
) -> None:
    """At once, with the reason, also for a step that has no answer; nothing is tried again."""
    async with Client(address, replace(QUICK, token="first")) as client:
        session = await client.open_session("level", id="a")
        servicer.paused = True
        step = asyncio.ensure_future(session.step(1))
        await servicer.until(lambda: len(servicer.seen("block")) == 1)
        doorkeeper.good = "second"
        servicer.cut_streams(UNKNOWN)
        with pytest.raises(Unauthenticated):
            await step
        with pytest.raises(Unauthenticated):
            await session.step(1)
    assert doorkeeper.turned_away == 0


# Tokens that are replaced --------------------------------------------------------------------------------------------


def later(file: Path, doorkeeper: Doorkeeper, token: str) -> None:
    """The server knows a new token before the file has it, which it has after three refusals."""
    until = doorkeeper.turned_away + 3

    def replace_at_last() -> None:
        if doorkeeper.turned_away == until:
            replaced(file, token)

    doorkeeper.good, doorkeeper.on_refusal = token, replace_at_last


def earlier(file: Path, doorkeeper: Doorkeeper, token: str) -> None:
    """The file has the new token by the time the server ends the stream."""
    replaced(file, token)
    doorkeeper.good = token


def in_place(file: Path, doorkeeper: Doorkeeper, token: str) -> None:
    """The file is written over, which nothing but its contents may tell."""
    before = file.stat()
    written(file, token)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    doorkeeper.good = token


@pytest.mark.parametrize("change", [later, earlier, in_place])
async def test_steps_go_on_under_new_tokens(
    change: Callable[[Path, Doorkeeper, str], None], address: str, servicer: FakeServicer, doorkeeper: Doorkeeper, file: Path
) -> None:
    """Each step is answered once and in order, however often the server ends the stream for a token that is no longer good."""
    counts: list[float] = []

    async def step(session: Session) -> None:
        counts.append(float((await session.step(1))["count"][0]))

    async def twenty_steps(session: Session, token: str) -> None:
        """The server holds some of them back until it has been attached to under the new token."""
        attached = len(servicer.seen("attach"))
        servicer.pause_at["a"] = session.next_seq + 4
        steps = [asyncio.create_task(step(session)) for _ in range(20)]
        await servicer.until(lambda: servicer.sessions["a"].pending > 0)
        change(file, doorkeeper, token)
        servicer.cut_streams(UNKNOWN)
        await servicer.until(lambda: len(servicer.seen("attach")) > attached)
        servicer.release()
        await asyncio.gather(*steps)

    async with Client(address, replace(QUICK, token_file=file)) as client:
        session = await client.open_session("level", id="a")
        for token in ("agent", "bread", "cloud", "drums"):
            await twenty_steps(session, token)
            assert doorkeeper.shown[-1] == ("Stream", [f"Bearer {token}"])
    assert counts == list(range(1, 81))
    assert servicer.sessions["a"].next_seq == 80


async def test_an_old_token_is_shown_again_for_as_long_as_patience_lasts(
    address: str, servicer: FakeServicer, doorkeeper: Doorkeeper, file: Path
) -> None:
    """Then the sessions end with the reason."""
    async with Client(address, replace(SHORT, token_file=file)) as client:
        session = await client.open_session("level")
        doorkeeper.good = "second"
        servicer.cut_streams(UNKNOWN)
        with pytest.raises(Unauthenticated):
            await session.step(1)
    assert doorkeeper.turned_away >= 1


async def test_a_call_is_made_once_more_with_a_token_that_is_new(address: str, doorkeeper: Doorkeeper, file: Path) -> None:
    """That holds of one that must not be repeated otherwise, too, since what was turned away was not done."""
    async with Client(address, replace(SHORT, token_file=file)) as client:
        await client.step("level", "a", 1, open=True)
        doorkeeper.good, doorkeeper.on_refusal = "second", lambda: replaced(file, "second")
        assert (await client.step("level", "a", 1))["count"][0] == 2
        assert doorkeeper.shown[-2:] == [("Step", ["Bearer first"]), ("Step", ["Bearer second"])]
        doorkeeper.good, doorkeeper.on_refusal = "third", lambda: replaced(file, "third")
        assert "level" in {model.name for model in await client.models()}


async def test_a_rollout_goes_on_under_a_new_token(
    address: str, servicer: FakeServicer, doorkeeper: Doorkeeper, file: Path
) -> None:
    """With what it would have said anyway."""
    async with Client(address, replace(QUICK, token_file=file)) as client:
        whole = await client.generate("letters", "I like ", max_steps=40).whole()
        later(file, doorkeeper, "second")
        assert await client.generate("letters", "I like ", max_steps=40).whole() == whole
        assert doorkeeper.turned_away == 3
        servicer.rollouts.break_at, servicer.rollouts.breaks_with = [9, 20], UNKNOWN
        assert await client.generate("letters", "I like ", max_steps=40).whole() == whole
        assert len(servicer.rollouts.calls) == 5


async def test_a_rollout_that_is_applied_step_by_step_ends(
    address: str, servicer: FakeServicer, doorkeeper: Doorkeeper, file: Path
) -> None:
    """Nobody knows what was applied and not heard."""
    async with Client(address, replace(QUICK, token_file=file)) as client, client.open_session("letters") as session:
        servicer.rollouts.break_at, servicer.rollouts.breaks_with = [9], UNKNOWN
        with pytest.raises(Unauthenticated):
            await session.generate("I like ", max_steps=40, commit="each").whole()
        assert session.next_seq == 9


async def test_a_call_is_made_once_more_only(address: str, doorkeeper: Doorkeeper, file: Path) -> None:
    """The new token is not good either."""
    async with Client(address, replace(SHORT, token_file=file)) as client:
        await client.models()
        doorkeeper.good = "third"
        doorkeeper.on_refusal = lambda: replaced(file, f"token-{doorkeeper.turned_away}")
        with pytest.raises(Unauthenticated):
            await client.models()
    assert doorkeeper.turned_away == 2


async def test_a_file_that_is_missing_for_a_moment_leaves_the_token_in_use(address: str, file: Path) -> None:
    """It may be so while it is being replaced; empty files are passed over as well."""
    async with Client(address, ClientOptions(token_file=file)) as client:
        await client.models()
        written(file, "")
        await client.models()
        os.unlink(file)
        await client.models()


async def test_a_pipe_is_read_once(address: str, doorkeeper: Doorkeeper, tmp_path: Path) -> None:
    """It would be waited for without end where nobody writes to it again, as when its token is refused."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("first\n",))
    writer.start()
    async with Client(address, ClientOptions(token_file=pipe)) as client:
        for _ in range(3):
            await client.models()
        writer.join()
        doorkeeper.good = "second"
        with pytest.raises(Unauthenticated):
            await client.models()


# Tokens that cannot be used ------------------------------------------------------------------------------------------

UNSENDABLE = ["", "two words", "line\n", "naïve", "tab\there", "x" * (MAX_TOKEN + 1)]


@pytest.mark.parametrize("token", UNSENDABLE)
def test_a_token_that_cannot_be_sent_is_told_without_repeating_it(token: str) -> None:
    """Before any call is made."""
    with pytest.raises(
        ValueError, match=f"^token: expected 1 to {MAX_TOKEN} printable ASCII characters .* got {len(token)} "
    ) as told:
        ClientOptions(token=token)
    assert not token or token not in "".join(traceback.format_exception(told.value))


def test_a_token_is_text() -> None:
    """Bytes are told by their type."""
    with pytest.raises(ValueError, match=r"^token: expected str, got bytes$"):
        ClientOptions(token=b"first")  # type: ignore[arg-type]


def test_a_token_and_a_file_are_told_by_name() -> None:
    """One of them would be ignored."""
    with pytest.raises(ValueError, match=r"^token and token_file: expected one of them, got both$"):
        ClientOptions(token="first", token_file="second")


@pytest.mark.parametrize("text", ["", " \n", "two words", "x" * (MAX_TOKEN + 1), "naïve"])
async def test_a_file_without_a_token_is_told_without_repeating_it(text: str, address: str, file: Path) -> None:
    """By calls, rollouts and sessions alike, and once there is one it is used."""
    written(file, text)
    async with Client(address, ClientOptions(token_file=file)) as client:
        for asked in (client.models(), client.open_session("level").__aenter__()):
            with pytest.raises(InvalidArgument, match=f"^token_file {file}: expected 1 to {MAX_TOKEN} printable ASCII") as told:
                await asked
            assert not text.strip() or text not in "".join(traceback.format_exception(told.value))
        written(file, "first")
        assert await client.models()


async def test_a_file_that_is_not_there_is_told(address: str, tmp_path: Path) -> None:
    """With its name and what the system says."""
    async with Client(address, ClientOptions(token_file=tmp_path / "none")) as client:
        with pytest.raises(InvalidArgument, match="none: expected a readable file, got No such file or directory"):
            await client.models()


# What is never shown to people ---------------------------------------------------------------------------------------


async def test_nothing_that_is_printed_repeats_a_secret(
    address: str, servicer: FakeServicer, doorkeeper: Doorkeeper, caplog: pytest.LogCaptureFixture
) -> None:
    """Options, clients, sessions, infos, events, errors and the log."""
    caplog.set_level("DEBUG")
    doorkeeper.good = "token-of-mine"
    tls = TLS(private_key=b"key-of-mine", certificate_chain=b"chain")
    options = replace(SHORT, token="token-of-mine")
    printed: list[object] = [tls, options, replace(options, tls=tls)]
    async with Client(address, options) as client:
        events = client.events()
        async with client.open_sessions("level", 2, ids=["a", "b"]) as group:
            await group.step([[1.0], [1.0]])
            printed += [
                client,
                group,
                group[0],
                vars(client),
                await client.get_session("level", "a"),
                await until_kind(events, "connected"),
            ]
            doorkeeper.good = "other"
            servicer.cut_streams(UNKNOWN)
            printed.append(await until_kind(events, "ended"))
            with pytest.raises(StepStreamError) as told:
                await group.step([[1.0], [1.0]])
            printed += [told.value, *traceback.format_exception(told.value), vars(told.value)]
    text = " ".join(map(repr, printed)) + " ".join(map(str, printed)) + caplog.text
    for secret in ("token-of-mine", "key-of-mine", "secret of a", "secret of b"):
        assert secret not in text
