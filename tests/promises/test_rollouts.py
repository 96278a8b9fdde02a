"""The promises of rollouts, over real gRPC with a real server: a text depends neither on who else is served nor on how it is cut.

The model is the shipped one that continues Python source, and its prompts are pieces of this file; where rollouts are many and
what they say is no matter, a small one of bytes with random weights.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from numpy.typing import NDArray

from stepstream_proto.v1 import inference_pb2, inference_pb2_grpc, session_pb2, session_pb2_grpc
from stepstream_proto.v1.session_pb2 import CloseSessionRequest, ExportSessionRequest, GetSessionRequest, OpenSessionRequest
from stepstream_server import snapshots
from stepstream_server.bundles import write
from stepstream_server.spec import HeadSpec
from support.background import in_background
from support.generating import FOREVER, Told, request, tokens, whole
from support.models import random_model
from support.process import ServerProcess, server_process
from support.server import close_sessions
from support.wire import WireStream, block, steps_of
from support.workers import scraped

TEXT, NUMBERS, SMALL = "code", "numbers", "small"
SHIPPED = Path(__file__).parents[2] / "models"
SOURCE = np.frombuffer(Path(__file__).read_bytes(), np.uint8)
ACTIVE = "stepstream_rollouts_active"
ENDED = 'stepstream_rollouts_ended_total{ending="%s",model="small",version="1"}'
END, EACH, NONE = inference_pb2.COMMIT_END, inference_pb2.COMMIT_EACH, inference_pb2.COMMIT_NONE
STOPPED, FULL = inference_pb2.ROLLOUT_ENDING_STOP, inference_pb2.ROLLOUT_ENDING_LENGTH
ROLLOUTS, SESSIONS, STEPS = 200, 200, 12
GIVEN_UP = 500  # rollouts, of each way to commit


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the shipped model of text, and a small one of numbers."""
    folder = tmp_path_factory.mktemp("models")
    (folder / TEXT).symlink_to(SHIPPED / TEXT)
    head = HeadSpec("y", "quantiles", 3, levels=(0.1, 0.5, 0.9), predicts="x")
    write(folder / NUMBERS, *random_model(inputs=1, hidden=16, heads=[head], seed=4, name=NUMBERS))
    return folder


class Server:
    """A connection to one."""

    def __init__(self, channel: grpc.aio.Channel, metrics: str, model: str = TEXT) -> None:
        """model: what is meant where no other is named."""
        self.model = model
        self.channel = channel
        self.inference = inference_pb2_grpc.InferenceServiceStub(channel)
        self.sessions = session_pb2_grpc.SessionServiceStub(channel)
        self._metrics = metrics

    def generate(self, **fields: Any) -> Any:
        """A call of a rollout."""
        return self.inference.Generate(request(**{"model": self.model, **fields}))

    async def open(self, id: str, model: str = "") -> None:
        """A new session."""
        await self.sessions.OpenSession(OpenSessionRequest(model=model or self.model, id=id))

    async def fork(self, id: str, fork: str) -> None:
        """Another one that begins where a session stands."""
        await self.sessions.ForkSession(session_pb2.ForkSessionRequest(model=self.model, id=id, fork_ids=[fork]))

    async def close(self, id: str) -> None:
        """The session's end."""
        await self.sessions.CloseSession(CloseSessionRequest(model=self.model, id=id))

    async def next_seq(self, id: str) -> int:
        """Where it stands."""
        return int((await self.sessions.GetSession(GetSessionRequest(model=self.model, id=id))).session.next_seq)

    async def export(self, id: str, model: str = "") -> bytes:
        """Its snapshot."""
        exported = await self.sessions.ExportSession(ExportSessionRequest(model=model or self.model, id=id))
        return bytes(exported.snapshot)

    async def state(self, id: str, model: str = "") -> dict[str, object]:
        """All that it remembers, byte for byte, and how many steps it has made."""
        snapshot = snapshots.decode(await self.export(id, model))
        return {"steps": snapshot.next_seq, **{name: values.tobytes() for name, values in snapshot.states.items()}}

    async def metrics_when_nothing_rolls(self) -> dict[str, float]:
        """What Prometheus sees once no rollout is left, and the turn that ended the last one is over. Rollouts hold no slots."""
        while any(count for name, count in (await scraped(self._metrics)).items() if name.startswith(ACTIVE)):
            pass
        await self.sessions.ListSessions(session_pb2.ListSessionsRequest(model=self.model))
        seen = await scraped(self._metrics)
        assert not any(count for name, count in seen.items() if 'state="rollout"' in name)
        return seen


@pytest.fixture(scope="module")
def shared(models: Path) -> Iterator[ServerProcess]:
    """A process that serves them."""
    with in_background(server_process(models, "--workers", "0")) as background:
        yield background.value


@pytest_asyncio.fixture
async def server(shared: ServerProcess) -> AsyncIterator[Server]:
    """A connection to it; there are no sessions."""
    async with grpc.aio.insecure_channel(shared.listen) as channel:
        yield Server(channel, shared.metrics)
    await close_sessions(shared.listen)


@pytest_asyncio.fixture
async def small(tmp_path: Path) -> AsyncIterator[Server]:
    """A process that serves a small model of bytes."""
    write(tmp_path / SMALL, *random_model(inputs=8, hidden=32, outputs=256, tokens=256, seed=3, name=SMALL))
    async with server_process(tmp_path, "--workers", "0") as process, grpc.aio.insecure_channel(process.listen) as channel:
        yield Server(channel, process.metrics, SMALL)


# Alone and beside others ---------------------------------------------------------------------------------------------


def piece(rng: np.random.Generator, length: int) -> bytes:
    """Tokens of this file, from a random place on."""
    start = int(rng.integers(0, len(SOURCE) - length))
    return tokens(*SOURCE[start : start + length])


def random_rollouts(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Prompts short and long, short and long texts, cold and hot, some that stop early."""
    found = []
    for seed in range(ROLLOUTS):
        prompt = piece(rng, int(rng.choice([1, 3, 20, 400])))
        heat = float(rng.choice([0, 0.5, 1, 1.3]))
        stop = [tokens(*b"\n\n"), tokens(*b"return"), tokens(*b"):")] if seed % 4 == 0 else []
        found.append(
            {
                "prompt": [prompt],
                "max_steps": int(rng.integers(1, 80)),
                "temperature": heat,
                "top_k": int(rng.choice([0, 5, 40])),
                "top_p": float(rng.choice([0, 0.5, 0.95])),
                "seed": seed,
                "stop": stop,
            }
        )
    return found


class Live:
    """Sessions of one stream, stepped one step at a time; a message has one of as many as stand side by side in `order`."""

    def __init__(self, inputs: NDArray[np.int64], order: Sequence[int]) -> None:
        """inputs: [SESSIONS, STEPS]. order: whose next step comes next, each session STEPS times."""
        self._inputs = inputs
        self._order = order
        self.outputs = np.full((SESSIONS, STEPS, 256), np.nan, np.float32)
        self._answered = 0
        self._progress = asyncio.Condition()

    async def run(self, channel: grpc.aio.Channel) -> None:
        """All steps, each message sent when the one before it has been answered."""
        seqs, start = np.zeros(SESSIONS, np.int64), 0
        async with WireStream(channel) as stream:
            await stream.open(TEXT, range(SESSIONS))
            while start < len(self._order):
                handles = self._order[start : start + distinct(self._order[start : start + 40])]
                await stream.send(
                    block(handles, seqs[handles].tolist(), [1] * len(handles), self._inputs[handles, seqs[handles]])
                )
                await self._hear(stream, len(handles))
                seqs[handles] += 1
                start += len(handles)

    async def _hear(self, stream: WireStream, steps: int) -> None:
        while steps:
            answers = (await stream.receive()).answers
            assert not answers.errors, answers.errors
            handles, seqs = steps_of(answers)
            self.outputs[handles, seqs] = np.frombuffer(answers.outputs[0], "<f4").reshape(-1, 256)
            steps -= len(handles)
            async with self._progress:
                self._answered += len(handles)
                self._progress.notify_all()

    async def until(self, answered: int) -> None:
        """Waits until so many steps are answered."""
        async with self._progress:
            await self._progress.wait_for(lambda: self._answered >= answered)


def distinct(numbers: Sequence[int]) -> int:
    """How many there are before the first repeat."""
    return next((count for count in range(1, len(numbers)) if numbers[count] in numbers[:count]), len(numbers))


async def test_texts_and_outputs_are_bitwise_those_of_each_alone(server: Server) -> None:
    """Two hundred rollouts that begin at random moments beside two hundred sessions that make single steps."""
    rng = np.random.default_rng(17)
    wanted, inputs = random_rollouts(rng), rng.integers(0, 256, (SESSIONS, STEPS))
    each_session = np.repeat(np.arange(SESSIONS), STEPS)
    alone = [await whole(server.generate(**each)) for each in wanted]
    undisturbed = Live(inputs, each_session.tolist())
    await undisturbed.run(server.channel)
    assert not np.isnan(undisturbed.outputs).any()

    live = Live(inputs, rng.permutation(each_session).tolist())

    async def begin(fields: dict[str, Any], moment: int) -> Told:
        await live.until(moment)
        return await whole(server.generate(**fields))

    moments = rng.integers(0, SESSIONS * STEPS * 3 // 4, ROLLOUTS).tolist()
    stepping = asyncio.create_task(live.run(server.channel))
    together = await asyncio.gather(*map(begin, wanted, moments))
    await stepping
    for one, other in zip(alone, together, strict=True):
        assert (one.tokens, one.ending, one.next_seq) == (other.tokens, other.ending, other.next_seq)
    np.testing.assert_array_equal(live.outputs.view(np.uint32), undisturbed.outputs.view(np.uint32))
    assert {each.ending for each in alone} == {STOPPED, FULL}
    assert len({tuple(each.tokens) for each in alone}) > 0.8 * ROLLOUTS
    await server.metrics_when_nothing_rolls()


# Turns of a chat -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("commit", [EACH, END], ids=["each", "end"])
async def test_turns_of_a_chat_are_one_text(server: Server, commit: int) -> None:
    """Three questions in one session leave it as one prompt of all that was said does, and cost what is new in them alone."""
    rng = np.random.default_rng(23)
    questions = [piece(rng, 30) for _ in range(3)]
    plain = {"max_steps": 40, "temperature": 0.8, "commit": commit}
    await server.open("chat")
    said, sizes = b"", []
    for seed, question in enumerate(questions):
        wanted = request(model=TEXT, session_id="chat", seq=len(said) // 8, prompt=[question], seed=seed + 1, **plain)
        told = await whole(server.inference.Generate(wanted))
        said += question + tokens(*told.tokens)
        sizes.append(wanted.ByteSize())
        assert told.next_seq == len(said) // 8 == await server.next_seq("chat")
    assert max(sizes) - min(sizes) <= 3  # digits of a number
    await server.open("once")
    step = inference_pb2.StepRequest(model=TEXT, session_id="once", seq=0)
    step.inputs["byte"].numbers.extend(np.frombuffer(said, "<i8").tolist())
    await server.inference.Step(step)
    assert await server.state("once") == await server.state("chat")
    more = {"prompt": [], "max_steps": 60, "temperature": 1.0, "seed": 77, "commit": NONE}
    one, other = [await whole(server.generate(session_id=id, **more)) for id in ("once", "chat")]
    assert one.tokens == other.tokens
    fresh = await whole(server.generate(**{**more, "prompt": [said]}))
    assert fresh.tokens == one.tokens


# Given up ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("commit", [END, EACH, NONE], ids=["end", "each", "none"])
async def test_five_hundred_rollouts_given_up(small: Server, commit: int) -> None:
    """Each after a random number of tokens. With END and NONE their session is as if nothing had been; with EACH it has made the
    steps that were told and perhaps some more, the same that the same seed gives its twin."""
    rng = np.random.default_rng(commit)
    await small.open("session")
    await whole(small.generate(session_id="session", prompt=[piece(rng, 5)], max_steps=10, temperature=1.0))
    untouched, stood, begun, finished = await small.state("session"), 15, 0, 1
    for number in range(GIVEN_UP):
        compared = commit == EACH and number % 25 == 0
        if compared:
            await small.metrics_when_nothing_rolls()
            stood = await small.next_seq("session")
            await small.fork("session", "twin")
        draws = {"prompt": [], "temperature": 1.0, "seed": number, "commit": commit}
        least = int(rng.integers(0, 12))
        first, told = await give_up(small, least, session_id="session", max_steps=FOREVER, **draws)
        begun += least > 0
        if least:
            assert first >= stood if commit == EACH else first == 15
            stood = first + told
        if compared:
            await small.metrics_when_nothing_rolls()
            made = await small.next_seq("session") - await small.next_seq("twin")
            assert made >= told
            if made:
                await whole(small.generate(session_id="twin", max_steps=made, **draws))
                finished += 1
            assert await small.state("twin") == await small.state("session")
            await small.close("twin")
    seen = await small.metrics_when_nothing_rolls()
    ended = {how: int(seen[ENDED % how]) for how in ("STOP", "LENGTH", "CANCELLED", "FAILED")}
    assert begun <= ended.pop("CANCELLED") <= GIVEN_UP  # some were given up before the server had heard of them
    assert ended == {"STOP": 0, "LENGTH": finished, "FAILED": 0}
    assert seen['stepstream_sessions_open{model="small",version="1"}'] == 1
    if commit != EACH:
        assert await small.state("session") == untouched
    assert len((await whole(small.generate(session_id="session", prompt=[], max_steps=20))).tokens) == 20


async def give_up(server: Server, least: int, **fields: Any) -> tuple[int, int]:
    """Gives a rollout up after so many tokens at least: number of the first, and how many were told. It is begun again as long as
    the one before it has not left the session, which its server may be slow to hear of."""
    while True:
        call, told, first = server.generate(**fields), 0, -1
        try:
            while told < least:
                message = await call.read()
                first = message.first_seq if first < 0 else first
                told += len(message.tokens) // 8
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.FAILED_PRECONDITION, error
            continue
        call.cancel()
        return first, told


# Copies --------------------------------------------------------------------------------------------------------------


async def test_a_hundred_paths_leave_no_trace(server: Server) -> None:
    """A session that is forecast again and again gives, bit for bit, the outputs of one that never was."""
    readings = np.random.default_rng(29).normal(size=60).astype(np.float32)
    for id in ("forecast", "never"):
        await server.open(id, NUMBERS)
    found: list[Told] = []
    outputs: dict[str, list[float]] = {"forecast": [], "never": []}
    for seq, reading in enumerate(readings.tolist()):
        for id, seen in outputs.items():
            wanted = inference_pb2.StepRequest(model=NUMBERS, session_id=id, seq=seq)
            wanted.inputs["x"].numbers.append(reading)
            seen.extend((await server.inference.Step(wanted)).outputs["y"].numbers)
        if seq % 6 == 0:
            paths = {"max_steps": 10, "paths": 100, "temperature": 1.0, "seed": seq, "commit": NONE}
            told = await whole(server.generate(model=NUMBERS, session_id="forecast", prompt=[], **paths))
            spread = np.array(told.values).reshape(10, 3)
            assert (np.diff(spread, axis=1) > 0).all()
            found.append(told)
    assert outputs["forecast"] == outputs["never"]
    assert await server.state("forecast", NUMBERS) == await server.state("never", NUMBERS)
    assert len({tuple(each.values) for each in found}) == 10
    await server.metrics_when_nothing_rolls()


async def test_a_text_goes_on_at_another_server(server: Server, models: Path) -> None:
    """The same seed draws the same from a session as from its snapshot, which another process has imported."""
    await server.open("moved")
    await whole(server.generate(session_id="moved", prompt=[tokens(*b"def ")], max_steps=30, temperature=1.0, seed=1))
    snapshot = await server.export("moved")
    more = {"session_id": "moved", "prompt": [], "max_steps": 50, "temperature": 1.1, "top_p": 0.9, "seed": 2**64 - 1}
    here = await whole(server.generate(**more))
    async with server_process(models, "--workers", "1") as process, grpc.aio.insecure_channel(process.listen) as channel:
        other = Server(channel, process.metrics)
        await other.sessions.ImportSession(session_pb2.ImportSessionRequest(snapshot=snapshot))
        there = await whole(other.generate(**more))
        assert (there.tokens, there.next_seq) == (here.tokens, here.next_seq)
        assert await other.state("moved") == await server.state("moved")
