"""Rollouts: what is asked of one, and a session stepped on its own outputs at the server, piece by piece.

One call of its own per rollout. When it breaks, the same rollout goes on in another call: what has been delivered is fed rather
than drawn again, and what follows is drawn as it would have been, since draws depend on seed and number only.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any, Generic, Literal, Required, TypedDict, TypeVar, cast

import grpc
import numpy as np
from numpy.typing import NDArray

from stepstream._errors import (
    BlockTooLarge,
    ConnectionLost,
    InvalidArgument,
    InvalidInput,
    ProtocolError,
    QueueFull,
    SequenceError,
    ServerDraining,
    SessionInUse,
    StepStreamError,
    shown,
)
from stepstream._models import ModelInfo
from stepstream._options import Backoff
from stepstream._tensors import MAX_COUNT, Values, at_least_one, is_real, pack, step_count, whole
from stepstream._text import Writer
from stepstream._token import Metadata, Token
from stepstream._translation import breaks, from_rpc, lost
from stepstream_proto.v1 import inference_pb2 as pb

Commit = Literal["end", "each", "none"]
Stop = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]
"""One sequence that ends a rollout, or several: of text for models of text, else of tokens."""

MAX_STOPS = 16
MAX_STOP_TOKENS = 64
MAX_TOP_K = 2**32 - 1
_TOKEN = np.dtype(np.int64)  # of the contract, whatever the model's input has

_COMMITS: dict[str, pb.Commit] = {"end": pb.COMMIT_END, "each": pb.COMMIT_EACH, "none": pb.COMMIT_NONE}


class Sampling(TypedDict, total=False):
    """How a rollout draws, when it ends and what is left of it: the keywords of `generate`. Only `max_steps` must be given."""

    max_steps: Required[int]
    """Draws at most."""
    temperature: float | None
    """0 is greedy, 1 as the model predicts, more is more at random. None, the default: what the model's author chose, or 1."""
    top_k: int
    """Models of tokens only: draw among so many of the likeliest. 0, the default: no limit."""
    top_p: float
    """Models of tokens only: draw among the fewest tokens that have this share of the probability together. 0, the default: no
    limit."""
    greedy: bool
    """Take the likeliest token or the median, whatever the temperature. Default: False."""
    stop: Stop
    """Models of tokens only: up to 16 sequences of up to 64 tokens, one of which ends it, as do those of the model's author; text
    for models of text. Default: none."""
    seed: int | None
    """0 to 2**64 - 1. None, the default: at random; the rollout's `seed` tells."""
    commit: Commit
    """Decides what a rollout leaves in the session. "end", the default: all of its steps if it ends normally, else none. "each":
    each step at once. "none": nothing, since it runs on a copy."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a rollout is asked, complete but for what depends on its model."""

    request: pb.GenerateRequest
    stop: Stop = ()
    drawn_as_model: bool = False  # at the temperature that the model's author chose

    def address(self, model: ModelInfo, prompt: Values | None) -> None:
        """Adds what depends on the model. Raises InvalidArgument or InvalidInput naming field, expected and actual."""
        request = self.request
        request.model, request.version = model.name, model.version
        if self.drawn_as_model:
            request.temperature = 1.0 if model.rollout_temperature is None else model.rollout_temperature
        if not model.rollout_output or len(model.inputs) != 1:
            raise InvalidArgument(
                f"model: expected one with an output that predicts its input, got {model.name!r}, which has none"
            )
        if request.paths and is_of_tokens(model):
            raise InvalidArgument(f"model: expected one of numbers to forecast with, got {model.name!r}, which is of tokens")
        if prompt is not None:
            request.prompt.extend(_prompt(model, prompt))
        _stop(request, model, self.stop)


def ask(
    *,
    max_steps: int,
    temperature: float | None = None,
    top_k: int = 0,
    top_p: float = 0.0,
    greedy: bool = False,
    stop: Stop = (),
    seed: int | None = None,
    commit: Commit = "end",
) -> Asked:
    """A rollout by the keywords of `Sampling`. Raises InvalidArgument naming field, expected and actual."""
    if temperature is not None and not (is_real(temperature) and math.isfinite(temperature) and temperature >= 0):
        raise InvalidArgument(f"temperature: expected 0 or a positive number, got {temperature!r}")
    if not (is_real(top_p) and 0 <= top_p <= 1):
        raise InvalidArgument(f"top_p: expected at least 0 and at most 1, got {top_p!r}")
    if commit not in list(_COMMITS):  # of any type
        raise InvalidArgument(f"commit: expected 'end', 'each' or 'none', got {commit!r}")
    request = pb.GenerateRequest(
        max_steps=at_least_one("max_steps", max_steps),
        temperature=0.0 if greedy else temperature or 0.0,
        top_k=whole("top_k", top_k, 0, MAX_TOP_K),
        top_p=top_p,
        seed=secrets.randbelow(MAX_COUNT + 1) if seed is None else step_count("seed", seed),
        commit=_COMMITS[commit],
    )
    return Asked(request, stop, drawn_as_model=temperature is None and not greedy)


def ask_forecast(horizon: int, *, paths: int, levels: Sequence[float], temperature: float, seed: int | None) -> Asked:
    """Quantiles over paths, or the one path. Raises InvalidArgument naming field, expected and actual."""
    at_least_one("horizon", horizon)
    asked = ask(max_steps=horizon, temperature=temperature, seed=seed, commit="none")
    asked.request.paths = at_least_one("paths", paths)
    if paths > 1:
        if temperature == 0:
            raise InvalidArgument(f"temperature: expected a positive number, since {paths} paths would be the same, got 0")
        within = all(is_real(level) and 0 < level < 1 for level in levels)
        if not len(levels) or not within or any(low >= high for low, high in pairwise(levels)):
            raise InvalidArgument(f"levels: expected numbers between 0 and 1, ascending, got {list(levels)!r}")
        asked.request.levels.extend(levels)
    return asked


def is_of_tokens(model: ModelInfo) -> bool:
    """Whether what a rollout draws are tokens rather than numbers."""
    return model.inputs[0].dtype.kind == "i"


def _prompt(model: ModelInfo, prompt: Values) -> Sequence[bytes]:
    if model.text is None:
        return pack(model, prompt, (None,))[1]
    if not isinstance(prompt, str):
        raise InvalidInput(f"prompt: expected text, since {model.name!r} is a model of text, got {type(prompt).__name__}")
    tokens = model.text.tokens(prompt)
    return pack(model, tokens, (None,))[1] if len(tokens) else ()


def _stop(request: pb.GenerateRequest, model: ModelInfo, stop: Stop) -> None:
    sequences = _sequences(stop)
    if not is_of_tokens(model):
        if sequences or request.top_k or request.top_p:
            field = "stop" if sequences else "top_k" if request.top_k else "top_p"
            raise InvalidArgument(f"{field}: expected none, since {model.name!r} is a model of numbers, got one")
        return
    if len(sequences) > MAX_STOPS:
        raise InvalidArgument(f"stop: expected at most {MAX_STOPS} sequences, got {len(sequences)}")
    request.stop.extend(_stop_tokens(model, sequence) for sequence in sequences)


def _stop_tokens(model: ModelInfo, sequence: Any) -> bytes:
    text = model.text
    if isinstance(sequence, str) is (text is None):
        expected = "tokens" if text is None else "text"
        raise InvalidArgument(f"stop: expected sequences of {expected}, got {shown(sequence)}")
    tokens = sequence if text is None else text.tokens(sequence)
    count = _length(tokens)
    if not 0 < (count or 0) <= MAX_STOP_TOKENS:
        raise InvalidArgument(f"stop: expected 1 to {MAX_STOP_TOKENS} tokens, got {count} in {shown(sequence)}")
    return _resized(pack(model, tokens, (None,))[1][0], model.inputs[0].dtype, _TOKEN)


def _sequences(stop: Any) -> Sequence[Any]:
    """The sequences of `stop`, which may be a single one. Raises InvalidArgument."""
    if isinstance(stop, str):
        return [stop]
    try:
        sequences = list(stop)
    except Exception as error:  # one of the library that the object comes from
        raise InvalidArgument(f"stop: expected a sequence that ends it, or several, got {shown(stop)}") from error
    return [stop] if sequences and _length(sequences[0]) is None else sequences


def _length(value: Any) -> int | None:
    """How many there are; None for a single token, such as an array without axes."""
    try:
        return len(value)
    except TypeError:
        return None


Piece = str | NDArray[Any]
"""Of what a rollout draws: text, or int64 tokens [n, *shape], or float32 numbers [n, *shape]."""
PieceT = TypeVar("PieceT")
Ending = Literal["stop", "length"]

_ENDINGS: dict[int, Ending] = {pb.ROLLOUT_ENDING_STOP: "stop", pb.ROLLOUT_ENDING_LENGTH: "length"}

OpenCall = Callable[..., grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse]]


@dataclass
class Course:
    """How far a rollout is. Apart from the rollout, so that one that nobody refers to any more is freed, and ended, at once."""

    ending: Ending | None = None
    next_seq: int | None = None
    nothing: Piece = ""  # as a piece
    begun: bytes = b""  # of a character that its end has cut off


class Rollout(AsyncIterator[PieceT], Generic[PieceT]):
    """What is being generated, to be iterated once: whatever has come since the last piece, never empty.

    Pieces are str for models of text, int64 tokens [n, *shape] for others of tokens, float32 numbers [n, *shape] for those of
    numbers. It begins with the iteration, and leaving the loop early ends it at the server: at once if nothing else refers to
    it, else by `aclose`.
    """

    def __init__(self, seed: int, run: Callable[[Course], AsyncGenerator[Piece, None]]) -> None:
        self._seed = seed
        self._course = Course()
        self._pieces = cast(AsyncGenerator[PieceT, None], run(self._course))

    @property
    def seed(self) -> int:
        """What decides its draws: given again, it gives the same ones, from the same state by the same settings."""
        return self._seed

    @property
    def ending(self) -> Ending | None:
        """`stop`: one of the stop sequences was drawn; `length`: `max_steps` were. None: it has not ended, or not so."""
        return self._course.ending

    @property
    def next_seq(self) -> int | None:
        """Steps that it has applied so far, from its session's first on: with its prompt, and with a stop sequence, which is fed
        and no part of any piece. None before its first piece."""
        return self._course.next_seq

    async def whole(self) -> PieceT:
        """All pieces that are left in one, which may be empty. Raises what the iteration would raise."""
        return self._joined([piece async for piece in self])

    async def aclose(self) -> None:
        """Ends it at the server, unless it has ended."""
        await self._pieces.aclose()

    async def __anext__(self) -> PieceT:
        return await anext(self._pieces)

    def _joined(self, pieces: Sequence[PieceT]) -> PieceT:
        nothing = self._course.nothing
        if isinstance(nothing, str):
            return cast(PieceT, nothing.join(cast(Sequence[str], pieces)))
        return cast(PieceT, np.concatenate([nothing, *cast(Sequence[NDArray[Any]], pieces)]))


async def pieces(
    messages: AsyncGenerator[pb.GenerateResponse, None],
    model: ModelInfo,
    course: Course,
    *,
    writer: Writer | None = None,
    goes_on: bool = False,
    levels: int = 0,
) -> AsyncGenerator[Piece, None]:
    """What a rollout draws, as its caller wants it, from its messages; none is empty.

    writer: of a model of text. goes_on: what has begun of a character may be completed by the next rollout. levels: of quantiles,
    if they are asked for.
    """
    course.nothing = "" if writer else _drawn(model, pb.GenerateResponse(), levels)
    async with aclosing(messages):
        async for message in messages:
            course.next_seq = message.next_seq
            course.ending = _ENDINGS.get(message.ending)
            drawn = _drawn(model, message, levels)
            piece: Piece = drawn
            if writer is not None:
                finished = course.ending == "stop" or (course.ending is not None and not goes_on)
                piece = writer.text(drawn) + (writer.end() if finished else "")
                course.begun = writer.begun
            if len(piece):
                yield piece


async def messages(
    open_call: OpenCall,
    request: pb.GenerateRequest,
    model: ModelInfo,
    backoff: Backoff,
    token: Token,
    on_begun: Callable[[], None],
    stands: Callable[[], Awaitable[None]] | None = None,
) -> AsyncGenerator[pb.GenerateResponse, None]:
    """A rollout's messages, from as many calls as it takes while patience lasts. All errors are this package's. on_begun: called
    when there is something from the server. stands: waits until a durable session is where it was, before another call.

    One that commits each step is not called again, nor one whose place among its session's steps is not known: it might be
    applied twice. Quantiles over paths cannot be fed: they come once they are all there, and are asked for anew until then.
    """
    broken: StepStreamError | None = None
    together: list[pb.GenerateResponse] = []
    while True:
        told: list[bytes] = []  # by this call, in steps to be fed
        shown = token.metadata()
        try:
            async with aclosing(one_call(open_call, request, shown)) as source:
                async for message in source:
                    backoff.worked()
                    on_begun()
                    if request.paths > 1:
                        together.append(message)
                        continue
                    if request.session_id and not request.HasField("seq"):
                        request.seq = message.first_seq - steps_of(model, request.prompt)
                    told.append(fed_of(model, message))
                    yield message
            for message in together:
                yield message
            return
        except (ConnectionLost, ProtocolError):
            raise
        except StepStreamError as error:
            failure = error
        together.clear()
        broke = breaks(failure) or token.mends(failure, shown)
        delay = _delay(request, failure, broken, backoff, steps_of(model, told), broke=broke)
        if broke:
            broken = failure
        _feed(request, model, told)
        await asyncio.sleep(delay)
        if stands is not None:
            await stands()


async def one_call(
    open_call: OpenCall, request: pb.GenerateRequest, metadata: Metadata
) -> AsyncGenerator[pb.GenerateResponse, None]:
    """The messages of one call, the last of which tells how the rollout has ended. Raises this package's errors: ConnectionLost
    where the client was closed, ProtocolError for a call that ends otherwise."""
    call, ended = open_call(request, metadata=metadata), False
    try:
        async for message in call:
            ended = ended or message.ending != pb.ROLLOUT_ENDING_UNSPECIFIED
            yield message
        if not ended:
            raise ProtocolError("rollout: expected a last message that says how it ended, got none")
    except grpc.aio.AioRpcError as error:
        if not ended or request.paths > 1:
            raise from_rpc(error) from None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise ConnectionLost("the client was closed") from None
    finally:
        call.cancel()


def fed_of(model: ModelInfo, message: pb.GenerateResponse) -> bytes:
    """Gives what a message tells, as the model is fed with it."""
    return _resized(message.tokens, _TOKEN, model.inputs[0].dtype) or message.values


def _delay(
    request: pb.GenerateRequest,
    failure: StepStreamError,
    broken: StepStreamError | None,
    backoff: Backoff,
    told: int,
    *,
    broke: bool,
) -> float:
    """Seconds after which to call again, having been told so many steps. Raises what to tell the caller instead.

    broke: another call may fare better. broken: why it was called before this time. A call that the server has not missed yet
    may hold the session for a while; one that has ended there unheard has moved it on; and there may be more to feed by now than
    one message holds. Whoever placed a rollout that a server did not begin, since it is about to stop, knows better where to go
    on than a call that is repeated.
    """
    if isinstance(failure, ServerDraining) and broken is None and not told and request.HasField("seq"):
        raise failure
    if broken is not None and isinstance(failure, (SequenceError, BlockTooLarge)):
        raise lost(broken)
    refused = isinstance(failure, QueueFull) or (broken is not None and isinstance(failure, SessionInUse))  # it did not begin
    if not broke and not refused:
        raise failure
    placed = request.commit == pb.COMMIT_END and request.HasField("seq")
    repeatable = refused or ((placed or request.commit == pb.COMMIT_NONE) and told < request.max_steps)
    delay = backoff.delay(failure.retry_delay) if repeatable else None
    if delay is not None:
        return delay
    raise lost(failure) if told or broken is not None or request.commit == pb.COMMIT_EACH else failure


def _feed(request: pb.GenerateRequest, model: ModelInfo, told: Sequence[bytes]) -> None:
    """Has what was told fed, as a part of the prompt, rather than drawn again."""
    steps = steps_of(model, told)
    if steps:
        prompt = b"".join((*request.prompt, *told))
        request.prompt[:] = [prompt]
        request.max_steps -= steps


def steps_of(model: ModelInfo, columns: Sequence[bytes]) -> int:
    """How many steps of the model's one input there are."""
    return sum(map(len, columns)) // model.inputs[0].step_bytes


def _drawn(model: ModelInfo, message: pb.GenerateResponse, levels: int) -> NDArray[Any]:
    """What was drawn: [n, *shape], or with levels float32 [n, levels, *shape]."""
    spec = model.inputs[0]
    column, dtype = (message.tokens, _TOKEN) if is_of_tokens(model) else (message.values, spec.dtype)
    size = prod(spec.shape) * dtype.itemsize * max(levels, 1)
    if len(column) % size:
        raise ProtocolError(f"rollout: expected whole steps of {size} bytes, got {len(column)} bytes")
    shape = (levels, *spec.shape) if levels else spec.shape
    return np.frombuffer(column, dtype.newbyteorder("<")).astype(dtype).reshape(-1, *shape)


def _resized(column: bytes, dtype: np.dtype[Any], wanted: np.dtype[Any]) -> bytes:
    """A column of tokens as numbers of another size."""
    if dtype == wanted or not column:
        return column
    return np.frombuffer(column, dtype.newbyteorder("<")).astype(wanted.newbyteorder("<")).tobytes()
