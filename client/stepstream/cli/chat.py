"""`stepstream chat`: lines typed, continuations shown, all in one memory that can be forked, saved and loaded."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, contextmanager
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import typer

from stepstream import Client, ConnectionLost, Session, SessionEnded, StepStreamError, Unavailable
from stepstream.cli import show
from stepstream.cli.generating import RECONNECT_SECONDS, Draws, Seed, Stops, TopK, TopP, misuse, model_of_text, own_temperature
from stepstream.cli.options import AtLine, Durable, IdleTtl, Misuse, Model, ModelVersion, Options, real, told, told_plainly, whole
from stepstream.cli.pipes import STDERR, STDIN, Worker, read_lines
from stepstream.cli.sessions import Replacing, read_snapshot
from stepstream.cli.streaming import in_the_end

PIECE_STEPS = 32  # drawn by one call: what Ctrl-C may have to wait for, a few ms; a call of its own costs as much as a few steps

TEMPERATURE = 0.8  # of a model that does not say: people would rather read what is likely than all that is possible

HELP = """\
A line is fed with its line end, one that ends with \\ without it; an empty line lets the model go on.
/fork             go on in a copy; /back returns to where it was made
/back             leave the fork, or what was loaded, and forget it
/reset            forget everything
/save FILE        write what is remembered to a file
/load FILE        go on from such a file; /back returns
/seed N           draw by this seed
/temperature T    draw at this temperature
/help             this list
/quit             end; Ctrl-D too
//...             a line that begins with /
Ctrl-C ends a continuation; what is shown is what is remembered."""


async def chat(
    options: Options,
    model: Model,
    *,
    max_steps: Annotated[int, typer.Option(min=1, max=2**32 - 1, metavar="N", help="Draws at most after each line.")] = 400,
    temperature: Annotated[float | None, own_temperature(TEMPERATURE)] = None,
    top_k: TopK = 0,
    top_p: TopP = 0.0,
    stop: Stops = None,
    seed: Seed = None,
    idle_ttl: IdleTtl = None,
    durable: Durable = False,
    model_version: ModelVersion = None,
) -> None:
    r"""Talks with a model of text.

    Type a line and see what the model goes on with, in a memory that lasts: the lines and all that was shown. A line is fed
    with its line end; one that ends with a backslash without it, so that the model goes on within the line. Ctrl-C ends a
    continuation after some characters more, all of which are shown: what is shown is what is remembered. While you type it
    clears the line; Ctrl-D or /quit ends. /help lists what else there is: /fork, /back, /reset, /save, /load, /seed,
    /temperature.

    Without a terminal it reads lines from stdin and writes the continuations, each ended with a line end; with --json each is an
    object.

    Examples:
        stepstream chat code --temperature 0.6 --stop $'\n\n'
        printf 'def mean(values):\n/reset\nclass Queue:\n' | stepstream chat code --max-steps 100 --seed 1
    """
    async with options.client() as client:
        served = await model_of_text(client, model, model_version)
    if temperature is None:
        temperature = TEMPERATURE if served.rollout_temperature is None else served.rollout_temperature
    draws = Draws(temperature, top_k, top_p, seed, stop or [])
    async with options.client(RECONNECT_SECONDS) as client, AsyncExitStack() as sessions:
        first = await client.open_session(served.name, version=served.version, idle_ttl=idle_ttl, durable=durable)
        await sessions.enter_async_context(in_the_end(first.close))
        await Chat(client, first, sessions, draws, max_steps, as_json=options.json).run()


class Chat:
    """One conversation."""

    def __init__(
        self, client: Client, session: Session, opened: AsyncExitStack, draws: Draws, max_steps: int, *, as_json: bool
    ) -> None:
        self._client = client
        self._sessions = [session]  # the last one is talked to, those before are where it was forked or loaded
        self._opened = opened
        self._draws = draws
        self._max_steps = max_steps
        self._as_json = as_json
        self._at_terminal = os.isatty(STDIN) and os.isatty(STDERR)
        self._interrupted = self._over = False
        self._ending = ""  # of an answer, once it has one
        self._commands: dict[str, Callable[[str], Awaitable[None]]] = {
            "fork": self._fork,
            "back": self._back,
            "reset": self._reset,
            "save": self._save,
            "load": self._load,
            "seed": self._seed,
            "temperature": self._temperature,
            "help": self._help,
            "quit": self._quit,
        }

    async def run(self) -> None:
        """Until the lines end."""
        number = 0
        self._note("Type a line; /help lists what else there is.")
        with self._interruptible():
            async with aclosing(self._typed() if self._at_terminal else self._read()) as lines:
                async for line in lines:
                    number += 1
                    self._interrupted = False
                    await self._heed(number, line)
                    if self._over:
                        return

    async def _typed(self) -> AsyncGenerator[bytes, None]:
        from stepstream.cli.keyboard import Keyboard  # other commands start sooner without it

        keyboard = Keyboard()
        while (line := await keyboard.line("> " if len(self._sessions) == 1 else f"{len(self._sessions) - 1}> ")) is not None:
            yield line.encode(errors="surrogateescape")  # as bytes that are no text are handed on

    async def _read(self) -> AsyncGenerator[bytes, None]:
        with Worker() as reading:
            async for batch in read_lines(reading):
                for line in batch:
                    yield line

    async def _heed(self, number: int, line: bytes) -> None:
        """At a terminal a line that goes wrong is told and passed over, elsewhere it ends the conversation."""
        try:
            try:
                await self._line(line.decode().removesuffix("\r"))
            except UnicodeDecodeError as error:
                raise Misuse(f"expected UTF-8, got {error.object[error.start]:#x} at byte {error.start}") from None
        except Misuse as fault:
            if not self._at_terminal:
                raise Misuse(f"line {number}: {fault}") from None
            typer.echo(told_plainly(str(fault), "USAGE", as_json=self._as_json), err=True)
        except StepStreamError as error:
            gone = isinstance(error, (SessionEnded, Unavailable)) and not isinstance(error, ConnectionLost)
            if gone or not self._at_terminal:
                raise AtLine(number, error) from None
            typer.echo(told(error, None, as_json=self._as_json), err=True)

    async def _line(self, line: str) -> None:
        if line.startswith("/") and not line.startswith("//"):
            name, _, rest = line[1:].partition(" ")
            command = self._commands.get(name)
            if command is None:
                raise Misuse(f"expected one of {', '.join(f'/{each}' for each in self._commands)}, got /{name}")
            await command(rest.strip())
            return
        text = line.removeprefix("/") if line.startswith("//") else line
        fed = text[:-1] if text.endswith("\\") else f"{text}\n" if text else ""
        with misuse():
            await self._turn(fed)

    # The continuation ------------------------------------------------------------------------------------------------

    async def _turn(self, prompt: str) -> None:
        """Shows what the model goes on with, as it is drawn; each step is remembered at once.

        It is drawn by one rollout of a few steps after the other, so that it can end between two of them with nothing remembered
        that is not shown. By the same seed they are the draws of one long rollout. One that ends with what may be the beginning
        of a stop sequence is followed by single steps until that is decided.
        """
        left, held, shown, ending = self._max_steps, "", "", ""
        try:
            while left and not ending:
                across = bool(held)  # a stop sequence may have begun before, of which the server does not know
                steps = 1 if across else min(PIECE_STEPS, left)
                async for text in self._drawn(prompt, steps):
                    held += text
                    end = _place(held, self._draws.stop) if across else len(held)
                    if end < len(held):
                        ending = "stop"
                    sure = end if ending else end - _begun(held, self._draws.stop)
                    shown += self._show(held[:sure])
                    held = held[sure:end]
                ending = ending or self._ending
                prompt, left = "", left - steps
        finally:  # whatever ends it, what is held is remembered
            shown += self._show(held)
            if shown and not shown.endswith("\n"):
                self._show("\n")
        if self._as_json:
            where = {"seed": self._draws.seed, "next_seq": self._sessions[-1].next_seq}
            typer.echo(show.line({"text": shown, "ending": ending or "length", **where}))
        elif not shown:
            typer.echo()

    async def _drawn(self, prompt: str, steps: int) -> AsyncGenerator[str, None]:
        """The text of one rollout, piece by piece; `_ending` says whether the answer ends with it."""
        session = self._sessions[-1]
        before = session.next_seq
        rollout = session.generate(prompt, max_steps=steps, commit="each", **self._draws.arguments())
        self._draws.seed = rollout.seed  # one for all
        try:
            async for piece in rollout:
                yield str(piece)
        except ConnectionLost:
            if unheard := session.next_seq - (rollout.next_seq or before):
                self._note(f"\nThe connection broke: {unheard} steps are remembered that could not be shown.")
            raise
        self._ending = "stop" if rollout.ending == "stop" else "interrupted" if self._interrupted else ""

    def _show(self, text: str) -> str:
        if not self._as_json:
            typer.echo(text, nl=False)
        return text

    # Commands --------------------------------------------------------------------------------------------------------

    async def _fork(self, rest: str) -> None:
        await self._go_on_in(await self._sessions[-1].fork())
        self._note("In a fork: /back returns to where it was made.")

    async def _back(self, rest: str) -> None:
        if len(self._sessions) == 1:
            raise Misuse("/back: expected to be in a fork or in what was loaded, got the first memory")
        await self._sessions.pop().close()
        self._note(f"Back, {self._where()}.")

    async def _reset(self, rest: str) -> None:
        await self._sessions[-1].reset()
        self._note("Everything is forgotten.")

    async def _save(self, rest: str) -> None:
        name = _file("/save", rest)
        with Replacing(name) as target:
            target.write(await self._sessions[-1].export())
        self._note(f"Saved in {name}, {self._where()}.")

    async def _load(self, rest: str) -> None:
        name = _file("/load", rest)
        snapshot = await read_snapshot(name)
        loaded = await self._client.import_session(snapshot, id=f"chat-{uuid4().hex}", durable=self._sessions[0].durable)
        model, mine = loaded.model, self._sessions[-1].model
        if (model.name, model.version) != (mine.name, mine.version):
            await loaded.close()
            raise Misuse(
                f"/load: expected a memory of {mine.name} version {mine.version}, got {model.name} version {model.version}"
            )
        await self._go_on_in(loaded)
        self._note(f"Loaded {name}, {self._where()}: /back returns to what was before.")

    async def _go_on_in(self, session: Session) -> None:
        await self._opened.enter_async_context(in_the_end(session.close))
        self._sessions.append(session)

    async def _seed(self, rest: str) -> None:
        try:
            seed = whole(rest)
        except ValueError:
            seed = -1
        if not 0 <= seed < 2**64:
            raise Misuse(f"/seed: expected a whole number from 0 to 2**64 - 1, got {rest!r}")
        self._draws.seed = seed
        self._note(f"Drawn by seed {seed} from here on.")

    async def _temperature(self, rest: str) -> None:
        try:
            temperature = real(rest)
        except ValueError:
            temperature = -1.0
        if not 0 <= temperature < float("inf"):
            raise Misuse(f"/temperature: expected 0 or a positive number, got {rest!r}")
        self._draws.temperature = temperature
        self._note(f"Drawn at temperature {temperature:g} from here on.")

    async def _help(self, rest: str) -> None:
        typer.echo(HELP, err=True)

    async def _quit(self, rest: str) -> None:
        self._over = True

    # The terminal ----------------------------------------------------------------------------------------------------

    def _where(self) -> str:
        """How far the memory is."""
        return f"at step {self._sessions[-1].next_seq:,}"

    def _note(self, text: str) -> None:
        """For people at a terminal: dimmed, since it is neither theirs nor the model's."""
        if self._at_terminal:
            typer.echo(text if os.environ.get("NO_COLOR") else typer.style(text, dim=True), err=True)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """At a terminal Ctrl-C ends a continuation; the second time that a server is waited for, and anywhere else, it ends the
        command. While a line is typed it is a key, which the keyboard heeds."""
        before = signal.getsignal(signal.SIGINT)

        def interrupt(number: int, frame: Any) -> None:
            if not self._interrupted:
                self._interrupted = True
            elif callable(before):
                before(number, frame)

        if self._at_terminal:
            signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def _file(command: str, name: str) -> str:
    if not name or name == "-":
        raise Misuse(f"{command}: expected a file's name, got {name!r}")
    return str(Path(name).expanduser())


def _begun(text: str, stops: Sequence[str]) -> int:
    """How many of the last characters may be the beginning of a stop sequence."""
    longest = max(map(len, stops), default=0)
    lengths = range(min(longest - 1, len(text)), 0, -1)
    return next((n for n in lengths if any(len(stop) > n and stop.startswith(text[-n:]) for stop in stops)), 0)


def _place(text: str, stops: Sequence[str]) -> int:
    """Where the first stop sequence in the text begins; its end without any."""
    return min((text.find(stop) for stop in stops if stop in text), default=len(text))
