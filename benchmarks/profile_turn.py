"""Where a turn's time goes: an engine and its backend turned by hand, without gRPC and threads.

`python -m benchmarks.profile_turn` prints steps per second and time of turns, beside a launch of the backend alone. With
`--profile CASE` it prints the functions in which the turns spent their time.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.timing import median_seconds
from stepstream_server import backends
from stepstream_server.bundles import init_model
from stepstream_server.config import BackendSettings, EngineSettings
from stepstream_server.engine.engine import Engine
from stepstream_server.engine.ports import (
    BLOCK_ROW,
    Backend,
    Block,
    Command,
    Delivery,
    Door,
    InferenceTotals,
    Ints,
    Keep,
    Open,
    Opened,
    TurnReport,
)
from stepstream_server.errors import StepStreamError
from stepstream_server.spec import ModelSpec

# Streams, sessions per stream, steps per row, blocks in flight per stream.
CASES = {
    "1 x 1": (1, 1, 1, 1),
    "64 streams x 1": (64, 1, 1, 1),
    "64 x 1": (1, 64, 1, 4),
    "1000 x 1": (1, 1000, 1, 4),
    "1 x 64": (1, 1, 64, 4),
}
_WIDTH = 16
_SECONDS = 1.0
_TURNS = 300  # under the profiler


class _Silent:
    """An observer that hears nothing: telemetry is not what is timed."""

    def turn(self, report: TurnReport) -> None:
        """Nothing."""

    def totals(self) -> InferenceTotals:
        """Never asked for."""
        raise NotImplementedError


class Feeder:
    """A front door that, between turns, answers each delivery with the blocks that it makes room for."""

    def __init__(self, streams: int, sessions: int, length: int, in_flight: int) -> None:
        self._shape = (streams, sessions, length)
        self._in_flight = in_flight
        self._deliveries: list[Delivery] = []
        self._opened: dict[int, tuple[Ints, Ints]] = {}  # sessions and generations by stream
        self._seqs = [0] * streams
        self._answered = [0] * streams
        self._inputs = np.random.default_rng(0).normal(size=(sessions * length, _WIDTH)).astype(np.float32)
        self.steps = 0

    def open(self) -> list[Command]:
        """The first turn's commands."""
        streams, sessions, _ = self._shape
        tags = np.arange(sessions, dtype=np.uint32)
        return [Open(stream, stream, [""] * sessions, tags) for stream in range(streams)]

    def next(self) -> list[Command]:
        """The next turn's. Raises RuntimeError if a step was refused."""
        deliveries, self._deliveries = self._deliveries, []
        return self._gathered([block for delivery in deliveries for block in self._blocks(delivery)])

    def deliver(self, delivery: Delivery) -> None:
        self._deliveries.append(delivery)

    def fail(self, error: StepStreamError) -> None:
        raise error

    def _gathered(self, blocks: list[Block]) -> list[Command]:
        """Those of different streams as one, as a front door does it."""
        if self._shape[0] == 1 or not blocks:
            return [*blocks]
        rows, inputs = [block.rows for block in blocks], [block.inputs[0] for block in blocks]
        return [Block(np.concatenate(rows), (np.concatenate(inputs),))]

    def _blocks(self, delivery: Delivery) -> list[Block]:
        if delivery.errors.streams:
            raise RuntimeError(f"a step was refused: {delivery.errors.messages[0]}")
        blocks: list[Block] = []
        for reply in delivery.replies:
            opened = [each for each in reply.value if isinstance(each, Opened)] if isinstance(reply.value, list) else []
            columns = [each.session for each in opened], [each.generation for each in opened]
            self._opened[reply.request] = np.array(columns[0]), np.array(columns[1])
            blocks += [self._block(reply.request) for _ in range(self._in_flight)]
        if delivery.answers is not None:
            blocks += self._refill(delivery.answers.streams, delivery.answers.lengths)
        return blocks

    def _refill(self, streams: Ints, lengths: Ints) -> list[Block]:
        self.steps += int(lengths.sum())
        size = self._shape[1] * self._shape[2]
        answered = np.bincount(streams, weights=lengths, minlength=self._shape[0]).astype(np.int64)
        blocks: list[Block] = []
        for stream in np.flatnonzero(answered).tolist():
            before = self._answered[stream]
            self._answered[stream] = before + int(answered[stream])
            blocks += [self._block(stream) for _ in range(self._answered[stream] // size - before // size)]
        return blocks

    def _block(self, stream: int) -> Block:
        _, sessions, length = self._shape
        first, self._seqs[stream] = self._seqs[stream], self._seqs[stream] + length
        numbers, generations = self._opened[stream]
        rows = np.zeros(sessions, BLOCK_ROW)
        rows["stream"], rows["tag"] = stream, np.arange(sessions)
        rows["session"], rows["generation"] = numbers, generations
        rows["first"], rows["length"] = first, length
        rows["acked"], rows["keep"] = self._answered[stream] // sessions, Keep.ALL
        rows["arrival"], rows["deadline"] = time.monotonic(), np.inf
        return Block(rows, (self._inputs,))


def build_engine(hidden: int, layers: int, threads: int) -> Engine:
    """An engine as the server builds it, over random weights."""
    settings = EngineSettings()
    backend, spec = _backend(hidden, layers, threads, settings.capacity)
    engine = Engine(spec, backend, settings, _Silent())
    engine.warm_up()
    return engine


def _backend(hidden: int, layers: int, threads: int, slots: int) -> tuple[Backend, ModelSpec]:
    with tempfile.TemporaryDirectory() as folder:
        bundle = init_model(Path(folder) / "model", "lstm", _WIDTH, hidden, layers, 1, seed=0)
    settings = BackendSettings(threads=threads)
    backend = backends.build(bundle.spec, bundle.weights, settings, slots=slots, max_batch=EngineSettings().max_batch)
    backend.warm_up()
    return backend, bundle.spec


def turns(engine: Engine, feeder: Feeder, seconds: float) -> tuple[float, float]:
    """Median seconds of a turn, and median steps per second of turns. Left out is what happens between turns, where the feeder
    makes blocks; medians leave out turns that other processes interrupted."""
    door = engine.connect(feeder)
    _turn(engine, door, feeder.open())
    times: list[float] = []
    rates: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        before = feeder.steps
        commands = feeder.next()
        if times:
            rates.append((feeder.steps - before) / times[-1])
        times.append(_turn(engine, door, commands))
    return statistics.median(times), statistics.median(rates)


def _turn(engine: Engine, door: Door, commands: list[Command]) -> float:
    """One turn with what was submitted; returns its seconds."""
    if commands:
        door.submit(*commands)
    taken = [item for _ in range(engine.inbox.qsize()) if (item := engine.inbox.get_nowait()) is not None]
    begun = time.perf_counter()
    engine.turn(taken)
    return time.perf_counter() - begun


def launch_seconds(hidden: int, layers: int, threads: int, batch: int, length: int, seconds: float) -> float:
    """Of launch and collect alone."""
    backend, _ = _backend(hidden, layers, threads, slots=4096)
    slots = backend.allocate(batch)
    inputs = (np.random.default_rng(0).normal(size=(batch, length, _WIDTH)).astype(np.float32),)
    return median_seconds(lambda: backend.collect(backend.launch("step", slots, inputs, length)), seconds)


def profile(engine: Engine, feeder: Feeder) -> pstats.Stats:
    """Turns under cProfile."""
    door = engine.connect(feeder)
    _turn(engine, door, feeder.open())
    profiler = cProfile.Profile()
    for _ in range(_TURNS):
        commands = feeder.next()
        profiler.enable()
        _turn(engine, door, commands)
        profiler.disable()
    return pstats.Stats(profiler)


def main() -> None:
    """Times the engine without gRPC."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0, help="as the server's backend.threads")
    parser.add_argument("--seconds", type=float, default=_SECONDS)
    parser.add_argument("--profile", choices=CASES, help="print the functions in which this case spends its time")
    arguments = parser.parse_args()
    sizes = (arguments.hidden, arguments.layers, arguments.threads)
    if arguments.profile:
        profile(build_engine(*sizes), Feeder(*CASES[arguments.profile])).sort_stats("tottime").print_stats(25)
        return
    for name, case in CASES.items():
        streams, sessions, length, _ = case
        turn, rate = turns(build_engine(*sizes), Feeder(*case), arguments.seconds)
        launch = launch_seconds(*sizes, streams * sessions, length, arguments.seconds)
        print(f"{name:<16} {rate:>10,.0f} steps/s   turn {turn * 1e6:>7,.0f} µs   launch alone {launch * 1e6:>7,.0f} µs")


if __name__ == "__main__":
    main()
