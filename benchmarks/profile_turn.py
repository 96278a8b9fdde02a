"""Where a turn's time goes: an engine and its backend turned by hand, without gRPC and threads.

`python -m benchmarks.profile_turn` prints the time of turns and of blocks, beside a launch of the backend alone. Hot, one turn
follows the other; cold, other memory was touched in between, as a server touches it that reads and writes messages between turns.
With `--json` it prints the figures of every round for another program, and with `--profile CASE` the functions in which the turns
spent their time.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import statistics
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.timing import interleave, median_seconds
from stepstream_server import backends
from stepstream_server.bundles import init_model
from stepstream_server.config import BackendSettings, EngineSettings
from stepstream_server.engine.engine import Engine
from stepstream_server.engine.ports import (
    NO_SEQ,
    NO_STREAM,
    ROW,
    Answers,
    Backend,
    Block,
    Call,
    Command,
    Delivery,
    InferenceTotals,
    Ints,
    Keep,
    Open,
    Opened,
    Reply,
    TurnReport,
)
from stepstream_server.errors import StepStreamError
from stepstream_server.spec import ModelSpec

_WIDTH = 16
_SECONDS = 1.0
_ROUNDS = 3
_TURNS = 300  # under the profiler
_WARM_UP_TURNS = 30
_TOUCHED_BYTES = 8 << 20  # more than the caches of one core hold
_HEAT = ("hot", "cold")


class _Silent:
    """An observer that hears nothing: telemetry is not what is timed."""

    def turn(self, report: TurnReport) -> None:
        """Nothing."""

    def totals(self) -> InferenceTotals:
        """Never asked for."""
        raise NotImplementedError


class Feeder(ABC):
    """A front door that, between turns, answers each delivery with the steps that it makes room for."""

    def __init__(self, batch: int, length: int) -> None:
        """Rows of all that is sent at once, and steps of each."""
        self.batch, self.length = batch, length
        self._steps = 0
        self._deliveries: list[Delivery] = []
        self._inputs = np.random.default_rng(0).normal(size=(batch * length, _WIDTH)).astype(np.float32)

    @property
    def steps(self) -> int:
        """All that were answered."""
        pending = [each.answers for each in self._deliveries if each.answers is not None]
        return self._steps + sum(int(answers.lengths.sum()) for answers in pending)

    @abstractmethod
    def open(self) -> list[Command]:
        """The first turn's commands."""

    @abstractmethod
    def _opened(self, reply: Reply) -> list[Command]:
        """What follows the reply to a command of the first turn."""

    @abstractmethod
    def _answered(self, answers: Answers) -> list[Command]:
        """What follows answers."""

    def next(self) -> list[Command]:
        """The next turn's. Raises RuntimeError if a step was refused."""
        deliveries, self._deliveries = self._deliveries, []
        return [command for delivery in deliveries for command in self._follow(delivery)]

    def deliver(self, delivery: Delivery) -> None:
        self._deliveries.append(delivery)

    def fail(self, error: StepStreamError) -> None:
        raise error

    def _follow(self, delivery: Delivery) -> list[Command]:
        if delivery.errors.streams:
            raise RuntimeError(f"a step was refused: {delivery.errors.messages[0]}")
        commands = [command for reply in delivery.replies for command in self._opened(reply)]
        if delivery.answers is not None:
            self._steps += int(delivery.answers.lengths.sum())
            commands += self._answered(delivery.answers)
        return commands


class Streams(Feeder):
    """Streams that hold their sessions, with so many blocks in flight on each."""

    def __init__(self, streams: int, sessions: int, length: int, in_flight: int) -> None:
        super().__init__(streams * sessions, length)
        self._shape = (streams, sessions, length)
        self._in_flight = in_flight
        self._held: dict[int, tuple[Ints, Ints]] = {}  # sessions and generations by stream
        self._seqs = [0] * streams
        self._done = [0] * streams  # steps

    def open(self) -> list[Command]:
        streams, sessions, _ = self._shape
        handles = np.arange(sessions, dtype=np.uint32)
        return [Open(stream, stream, [""] * sessions, handles) for stream in range(streams)]

    def next(self) -> list[Command]:
        """Blocks of different streams as one, as a front door gathers them."""
        blocks = [command for command in super().next() if isinstance(command, Block)]
        if self._shape[0] == 1 or not blocks:
            return [*blocks]
        rows, inputs = [block.rows for block in blocks], [block.inputs[0] for block in blocks]
        return [Block(np.concatenate(rows), (np.concatenate(inputs),))]

    def _opened(self, reply: Reply) -> list[Command]:
        opened = [each for each in reply.value if isinstance(each, Opened)] if isinstance(reply.value, list) else []
        columns = [each.session for each in opened], [each.generation for each in opened]
        self._held[reply.request] = np.array(columns[0]), np.array(columns[1])
        return [self._block(reply.request) for _ in range(self._in_flight)]

    def _answered(self, answers: Answers) -> list[Command]:
        streams, sessions, length = self._shape
        size = sessions * length
        steps = np.bincount(answers.streams, weights=answers.lengths, minlength=streams).astype(np.int64)
        blocks: list[Command] = []
        for stream in np.flatnonzero(steps).tolist():
            before = self._done[stream]
            self._done[stream] = before + int(steps[stream])
            blocks += [self._block(stream) for _ in range(self._done[stream] // size - before // size)]
        return blocks

    def _block(self, stream: int) -> Block:
        _, sessions, length = self._shape
        first, self._seqs[stream] = self._seqs[stream], self._seqs[stream] + length
        numbers, generations = self._held[stream]
        rows = np.zeros(sessions, ROW)
        rows["stream"], rows["handle"] = stream, np.arange(sessions)
        rows["session"], rows["generation"] = numbers, generations
        rows["first"], rows["length"] = first, length
        rows["acked"], rows["keep"] = self._done[stream] // sessions, Keep.ALL
        rows["arrival"], rows["deadline"] = time.monotonic(), np.inf
        return Block(rows, (self._inputs[: sessions * length],))


class Callers(Feeder):
    """One-shot callers of a session each, named by its id: a caller calls again, under a new number, once it is answered."""

    def __init__(self, callers: int) -> None:
        super().__init__(callers, 1)
        self._ids = [f"session-{caller}" for caller in range(callers)]
        self._calling: dict[int, str] = {}  # sessions by number of the call
        self._calls = 0

    def open(self) -> list[Command]:
        return [Open(NO_STREAM, 0, self._ids)]

    def _opened(self, reply: Reply) -> list[Command]:
        return [self._call(self._ids)]

    def _answered(self, answers: Answers) -> list[Command]:
        return [self._call([self._calling.pop(number) for number in answers.streams.tolist()])]

    def _call(self, ids: list[str]) -> Call:
        """A step of each, as a front door gathers them."""
        rows, first = len(ids), self._calls
        self._calls += rows
        self._calling.update(zip(range(first, self._calls), ids, strict=True))
        packed = np.zeros(rows, ROW)
        packed["stream"], packed["first"], packed["unkept"] = np.arange(first, self._calls), NO_SEQ, True
        packed["length"], packed["keep"] = 1, Keep.ALL
        packed["arrival"], packed["deadline"] = time.monotonic(), np.inf
        return Call(packed, ids, (), np.zeros(rows, np.bool_), (self._inputs[:rows],))


# Streams, sessions per stream, steps per row, blocks in flight per stream.
CASES: dict[str, Callable[[], Feeder]] = {
    "1 x 1": partial(Streams, 1, 1, 1, 1),
    "64 streams x 1": partial(Streams, 64, 1, 1, 1),
    "64 x 1": partial(Streams, 1, 64, 1, 4),
    "1000 x 1": partial(Streams, 1, 1000, 1, 4),
    "1 x 64": partial(Streams, 1, 1, 64, 4),
    "1 one-shot caller": partial(Callers, 1),
    "64 one-shot callers": partial(Callers, 64),
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """A model, and the threads that it is computed on."""

    hidden: int
    layers: int
    threads: int  # as the server's backend.threads


@dataclass(frozen=True, slots=True)
class Times:
    """Medians in microseconds. A block is all that a feeder sends at once: a message of one stream, or one of each stream or
    caller. A turn may answer several."""

    turn_us: float
    block_us: float


def build_engine(sizes: Sizes) -> Engine:
    """An engine as the server builds it, over random weights."""
    settings = EngineSettings()
    backend, spec = _backend(sizes, settings.capacity)
    return Engine(spec, backend, settings, _Silent())


class Crank:
    """Turns an engine by hand. Whatever is asked of an engine is asked here."""

    def __init__(self, engine: Engine, feeder: Feeder) -> None:
        self._engine = engine
        self._door = engine.connect(feeder)
        self._feeder = feeder
        self._turn(feeder.open(), lambda: None)

    def turn(self, ready: Callable[[], object]) -> float:
        """Seconds of the next turn, from when it is `ready`."""
        return self._turn(self._feeder.next(), ready)

    def _turn(self, commands: list[Command], ready: Callable[[], object]) -> float:
        if commands:
            self._door.submit(*commands)
        inbox = self._engine.inbox
        taken = [item for _ in range(inbox.qsize()) if (item := inbox.get_nowait()) is not None]
        ready()
        begun = time.perf_counter()
        self._engine.turn(taken, self._engine.clock() + self._engine.turn_budget)
        return time.perf_counter() - begun

    def times(self, seconds: float, ready: Callable[[], object]) -> Times:
        """Of turns in so many seconds. Left out is what happens between turns, where the feeder makes commands; medians leave
        out turns that other processes interrupted."""
        for _ in range(_WARM_UP_TURNS):
            self.turn(ready)
        turns: dict[int, list[float]] = {}  # seconds, by the number of steps that they answered
        before, end = self._feeder.steps, time.perf_counter() + seconds
        while not any(turns) or time.perf_counter() < end:
            taken = self.turn(ready)
            before, answered = self._feeder.steps, self._feeder.steps - before
            turns.setdefault(answered, []).append(taken)
        steps = sum(answered * len(each) for answered, each in turns.items())
        typical = sum(statistics.median(each) * len(each) for each in turns.values())
        turn = statistics.median(taken for each in turns.values() for taken in each)
        return Times(turn * 1e6, typical / steps * self._feeder.batch * self._feeder.length * 1e6)


def _backend(sizes: Sizes, slots: int) -> tuple[Backend, ModelSpec]:
    with tempfile.TemporaryDirectory() as folder:
        bundle = init_model(Path(folder) / "model", "lstm", _WIDTH, sizes.hidden, sizes.layers, 1, seed=0)
    settings = BackendSettings(threads=sizes.threads)
    backend = backends.build(bundle.spec, bundle.weights, settings, slots=slots, max_batch=EngineSettings().max_batch)
    backend.warm_up()
    return backend, bundle.spec


def measure(case: str, sizes: Sizes, rounds: int, seconds: float) -> dict[str, list[Times]]:
    """Turns of a case, hot and cold by turns: of each so many rounds of so many seconds."""
    crank = Crank(build_engine(sizes), CASES[case]())
    memory = np.zeros(_TOUCHED_BYTES, np.uint8)
    ready: dict[str, Callable[[], object]] = {"hot": lambda: None, "cold": lambda: np.add(memory, 1, out=memory)}
    return interleave({heat: partial(crank.times, seconds, ready[heat]) for heat in _HEAT}, rounds)


def launch_seconds(sizes: Sizes, feeder: Feeder, seconds: float) -> float:
    """Of launch and collect alone, for what the feeder sends at once."""
    backend, _ = _backend(sizes, slots=4096)
    slots = backend.allocate(feeder.batch)
    inputs = (np.random.default_rng(0).normal(size=(feeder.batch, feeder.length, _WIDTH)).astype(np.float32),)
    return median_seconds(lambda: backend.collect(backend.launch("step", slots, inputs, feeder.length)), seconds)


def profile(engine: Engine, feeder: Feeder) -> pstats.Stats:
    """Turns under cProfile."""
    crank = Crank(engine, feeder)
    profiler = cProfile.Profile()
    for _ in range(_TURNS):
        crank.turn(profiler.enable)
        profiler.disable()
    return pstats.Stats(profiler)


def _row(case: str, times: dict[str, list[Times]], launch: float) -> str:
    """A line for people: medians over the rounds."""
    cells = [f"{case:<20}"]
    for heat, rounds in times.items():
        turn, block = (statistics.median(getattr(each, name) for each in rounds) for name in ("turn_us", "block_us"))
        cells.append(f"{heat}: turn {turn:>6,.0f} µs, block {block:>6,.0f} µs")
    return "   ".join([*cells, f"launch alone {launch * 1e6:>6,.0f} µs"])


def main() -> None:
    """Times the engine without gRPC."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0, help="as the server's backend.threads")
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="of a round of a case (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help="of each case, hot and cold (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print every round's figures: {case: {hot or cold: [figures]}}")
    parser.add_argument("--profile", choices=CASES, help="print the functions in which this case spends its time")
    arguments = parser.parse_args()
    sizes = Sizes(arguments.hidden, arguments.layers, arguments.threads)
    if arguments.profile:
        profile(build_engine(sizes), CASES[arguments.profile]()).sort_stats("tottime").print_stats(25)
    elif arguments.json:
        print(json.dumps({case: _plain(measure(case, sizes, arguments.rounds, arguments.seconds)) for case in CASES}))
    else:
        for case, feeder in CASES.items():
            times = measure(case, sizes, arguments.rounds, arguments.seconds)
            print(_row(case, times, launch_seconds(sizes, feeder(), arguments.seconds)))


def _plain(times: dict[str, list[Times]]) -> dict[str, list[dict[str, float]]]:
    return {heat: [asdict(each) for each in rounds] for heat, rounds in times.items()}


if __name__ == "__main__":
    main()
