"""`python -m benchmarks.chaos`: kills workers and servers under load, and exits with 1 if any session noticed.

Client processes play scripts, which a seed decides: sessions of shipped models with paced steps, of which many are in flight,
chunks, resets, timeouts that fire, rollouts that commit each step, and takeovers by another client. Phases: a worker is killed;
the server is killed; the server is told to end. It starts again on the same file and port. Then the same scripts are played at a
server that nobody disturbs: every output must be the same to the bit, none may be missing, and no step may count twice.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from subprocess import PIPE

from benchmarks.chaos.disturbing import ALL, RESTART, SERVER, WORKER, Disturbed, Kind, disturbed
from benchmarks.chaos.judging import Runs, differences, quantile
from benchmarks.chaos.players import PlayersPlan, PlayersResult, read
from benchmarks.chaos.script import READINGS, WORDS, Act, Reset, Roll, script
from benchmarks.process import ROOT, module_command, running, serve_command

_KINDS = {kind.name: kind for kind in (WORKER, SERVER, RESTART, ALL)}
_SOON_SECONDS = 0.3  # until all client processes have heard when to begin
_HIT = 0.9  # share of the kills that must find steps in flight
_LIFE = 2.0  # of a server, at least, in starts: on a slow machine everything takes its time, or nobody would get to work
_SHOWN = 20  # differences
_LATE_SECONDS = 30.0  # that client processes may take beyond the time that they give their players
_PLAIN_SECONDS = 240.0  # for the undisturbed run


@dataclass(frozen=True, slots=True)
class Size:
    """How much is done in each phase."""

    sessions: int
    steps: int  # of each session
    processes: int  # of clients
    seconds: dict[str, float]  # of load, by phase
    times: dict[str, int]  # that something is done to the server
    limit: float  # seconds, beyond those of the load, until what has not ended never will
    counts: bool  # whether there must have been enough kills, and enough of them must have hit


FULL = Size(
    sessions=1000,
    steps=300,
    processes=4,
    seconds={"worker": 70.0, "server": 140.0, "restart": 45.0},
    times={"worker": 22, "server": 22, "restart": 8},
    limit=60.0,
    counts=True,
)
SHORT = Size(
    sessions=80,
    steps=60,
    processes=2,
    seconds={"all": 4.0},
    times={"all": 3},
    limit=30.0,
    counts=False,
)


class Phase:
    """One phase: the load, what happens to the server, and what is said of it."""

    def __init__(self, kind: Kind, size: Size, seed: int, folder: Path, undisturbed: str) -> None:
        self._kind = kind
        self._size = size
        self._seed = seed
        self._folder = folder
        self._undisturbed = undisturbed  # address of that server
        self._numbers = numbers(seed, size)

    def run(self, models: Path) -> list[str]:
        """Runs it, prints what it showed, and returns all that is wrong."""
        with disturbed(models, self._folder, self._kind) as server:
            mine = self._load(server)
            faults = [] if (code := server.stop()) == 0 else [f"the server ended with code {code}\n{server.log()}"]
        plain = self._plain()
        for found, expected in zip(mine, plain, strict=True):
            faults += differences(self._seed, self._size.steps, found.played, expected.played)
        faults += self._tell(server, mine)
        return faults

    def _load(self, server: Disturbed) -> list[PlayersResult]:
        """All scripts, while things happen to the server."""
        size, name = self._size, self._kind.name
        seconds = max(size.seconds[name], size.times[name] * _LIFE * server.start_seconds)
        plans = [
            PlayersPlan(
                address=server.address,
                seed=self._seed,
                steps=size.steps,
                numbers=[each for each in self._numbers if each // 10 % size.processes == process],  # all kinds for each
                out=str(self._folder / f"{process}.json"),
                process=process,
                seconds=seconds,
                limit=seconds + size.limit,
            )
            for process in range(size.processes)
        ]
        with Players(plans) as players:
            began, ended = time.monotonic() + _SOON_SECONDS, threading.Event()
            todo = (self._seed, size.times[name], began, seconds, ended)
            disturbing = threading.Thread(target=server.disturb, args=todo)
            disturbing.start()
            try:
                return players.play(began, seconds + size.limit + _LATE_SECONDS)
            finally:
                ended.set()
                disturbing.join()

    def _plain(self) -> list[PlayersResult]:
        """The scripts of each client process once more, undisturbed."""
        plans = [
            PlayersPlan(
                address=self._undisturbed,
                seed=self._seed,
                steps=self._size.steps,
                numbers=[],
                out=str(self._folder / f"{process}.plain.json"),
                told=str(self._folder / f"{process}.json"),
            )
            for process in range(self._size.processes)
        ]
        with Players(plans) as players:
            return players.play(time.monotonic(), _PLAIN_SECONDS)

    def _tell(self, server: Disturbed, results: Sequence[PlayersResult]) -> list[str]:
        """Counts and pauses. Returns what is wrong with them."""
        runs, outages = Runs(results), server.outages
        hits = [runs.hit(each) for each in outages]
        hit = sum(1 for each in hits if each)
        played = [each for result in results for each in result.played]
        acts: list[Act] = [act for each in self._numbers for act in script(self._seed, each, self._size.steps).acts]
        sizes = [script(self._seed, each, 1).sessions for each in self._numbers]
        steps = sum(told.applied * script(self._seed, each.number, 1).sessions for each in played for told in each.told)
        pauses = runs.pauses(outages)
        print(f"{self._kind.says}: {len(outages)} times, {hit} with steps in flight", end="")
        print(f" (median {quantile([float(len(each)) for each in hits], 0.5):.0f} calls), ", end="")
        print(f"{sum(1 for each in hits if any(flight.rolls for flight in each))} with a rollout under way")
        print(f"  {sum(sizes)} sessions, {steps:,} steps, {sum(isinstance(act, Reset) for act in acts)} resets,", end="")
        print(f" {sum(isinstance(act, Roll) for act in acts)} rollouts,", end="")
        print(
            f" {sum(each.overdue for each in played)} timeouts fired, {sum(each.takeovers for each in played)} takeovers,", end=""
        )
        print(f" of which {sum(each.repeated for each in played)} repeated what was not durable")
        print(f"  pauses: p50 {quantile(pauses, 0.5):.3f} s, p99 {quantile(pauses, 0.99):.3f} s, ", end="")
        print(f"longest {max(pauses, default=0.0):.3f} s", flush=True)
        faults = []
        if self._size.counts and len(outages) < self._size.times[self._kind.name]:
            faults.append(f"expected {self._size.times[self._kind.name]} times, got {len(outages)}")
        if self._size.counts and hit < _HIT * len(outages):
            faults.append(f"expected steps in flight {_HIT:.0%} of the times, got {hit} of {len(outages)}")
        return faults


def numbers(seed: int, size: Size) -> list[int]:
    """Scripts of as many sessions as are wanted."""
    found: list[int] = []
    sessions = 0
    while sessions < size.sessions:
        found.append(len(found))
        sessions += script(seed, found[-1], 1).sessions
    return found


class Players:
    """Client processes, ended with the block."""

    def __init__(self, plans: Sequence[PlayersPlan]) -> None:
        self._plans = plans
        self._processes = [
            subprocess.Popen(
                module_command("chaos.players", json.dumps(asdict(plan))), cwd=ROOT, stdin=PIPE, stdout=PIPE, text=True
            )
            for plan in plans
        ]

    def __enter__(self) -> Players:
        for process in self._processes:
            if process.stdout is not None:
                process.stdout.readline()  # that it is there
        return self

    def play(self, began: float, limit: float) -> list[PlayersResult]:
        """Gives what they say of their plans. Raises RuntimeError if one fails, TimeoutExpired if one takes longer than so many
        seconds."""
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.write(f"{began}\n")
                process.stdin.flush()
        for process in self._processes:
            process.communicate(timeout=limit)
            if process.returncode:
                raise RuntimeError(f"a client process failed with code {process.returncode}")
        return [read(plan.out) for plan in self._plans]

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.communicate()


def main() -> int:
    """Runs the phases. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--short", action="store_const", dest="size", const=SHORT, default=FULL, help="some seconds")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--phases", help=f"of a whole run; default: {','.join(FULL.times)}")
    options = parser.parse_args()
    wrong = 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        models = folder / "models"
        models.mkdir()
        for model in (READINGS, WORDS):
            (models / model).symlink_to(ROOT / "models" / model)
        plain = stack.enter_context(running(serve_command(models, "--workers", "0")))
        for name in options.phases.split(",") if options.phases else options.size.times:
            began = time.monotonic()
            faults = Phase(_KINDS[name], options.size, options.seed, folder / name, plain.address).run(models)
            wrong += len(faults)
            print(f"  {len(faults)} differences; {time.monotonic() - began:.0f} s", flush=True)
            for fault in faults[:_SHOWN]:
                print(f"  ! {fault}", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
