"""Everything at once for many minutes: is the memory of each process flat, and does as much end as begins?

`python -m benchmarks.endurance` serves the shipped models, has a client use every feature (`users`) at a moderate rate, and
reads what each process has, the client's included, once a second. Sessions that nobody closes end within seconds, so that as much
goes as comes. It ends with 0 if a line fitted to the last half of each process's memory is flat, descriptors and threads of quiet
moments did not grow, every session that was opened was closed, and no use failed; else with 1. Row 11 (`soak`) is another thing:
ten million steps at full speed, packed into blocks of one model.

With `--kill` a worker is killed every so often. What replaces it is another process, whose memory begins anew: only processes
that were there all the time are judged by their memory. Flags that it does not know are the server's.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import select
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.machine import describe
from benchmarks.process import (
    ROOT,
    Vitals,
    children,
    cpu_seconds,
    listening,
    module_command,
    read_json,
    serve_command,
    started,
    vitals,
)
from benchmarks.soak import second_half
from benchmarks.users import UsersPlan, UsersResult

# Sessions that nobody closes end, ends are forgotten, and dead connections are noticed, well within the client's rests.
_FLAGS = ("--engine.idle_ttl_seconds", "8", "--engine.tombstone_seconds", "1", "--door.keepalive_seconds", "2")
_RATE = 12.0  # features per second: half of a core in all, so that a slow machine with two keeps up
_READ_SECONDS = 1.0  # processes are read
_SCRAPE_SECONDS = 3.0  # between two scrapes, more often than Prometheus'
_SETTLED_SECONDS, _LOOK_SECONDS = 30.0, 0.2  # for the last sessions to end, and between two looks
_MOST = 1.01  # memory at the end, as a multiple of that half-way
_MAIN, _CLIENT = "main", "client"
_OPENED, _CLOSED = "stepstream_sessions_opened_total", "stepstream_sessions_closed_total"

# What must be nothing once the load is gone, by its series.
_LEFT = {
    "stepstream_sessions_open": "sessions",
    "stepstream_state_bytes": "bytes of state",
    "stepstream_streams": "streams",
    "stepstream_pending_steps": "pending steps",
    "stepstream_rollouts_active": "rollouts",
    "stepstream_rollout_slots": "rollout slots",
}


@dataclass(frozen=True, slots=True)
class Trace:
    """Samples of a process, over time."""

    at: list[float] = field(default_factory=list)  # seconds
    vitals: list[Vitals] = field(default_factory=list)

    def values(self, name: str) -> list[int]:
        """Takes one field of all samples."""
        return [getattr(each, name) for each in self.vitals]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a process fared over the last half of a run; memory in bytes, of the fitted line."""

    process: str
    own: tuple[float, float]  # half-way and at the end
    resident: tuple[float, float]
    descriptors: tuple[int, int]  # the least of the third quarter and of the last
    threads: tuple[int, int]

    @property
    def flat(self) -> bool:
        """Tells that nothing of the process grew; to shrink is no fault."""
        grown = any(last > before for before, last in (self.descriptors, self.threads))
        return not grown and all(end <= _MOST * half for half, end in (self.own, self.resident))


@dataclass(frozen=True, slots=True)
class Balance:
    """Counts of the server once the load was gone."""

    opened: dict[str, int]  # sessions, by how
    closed: dict[str, int]  # by why
    left: dict[str, int]  # what is still there

    @property
    def even(self) -> bool:
        """Tells that every session that came has gone, and nothing else is left."""
        return sum(self.opened.values()) == sum(self.closed.values()) and not any(self.left.values())


@dataclass(frozen=True, slots=True)
class Run:
    """All that was measured."""

    seconds: float
    cores: dict[str, float]  # processor time per second, of the server's processes together and of the client
    traces: dict[str, Trace]
    balance: Balance
    features: UsersResult

    def verdicts(self) -> list[Verdict]:
        """Judges each process that was there from half-way to the end."""
        return [judge(name, trace) for name, trace in self.traces.items() if _lasted(trace, self.seconds)]

    @property
    def passed(self) -> bool:
        """Tells that nothing grew, was left over or failed, and everything was used."""
        unused = [name for name, count in self.features.used.items() if not count]
        return all(each.flat for each in self.verdicts()) and self.balance.even and not self.features.failed and not unused


def judge(process: str, trace: Trace) -> Verdict:
    """A process by its samples."""
    end = trace.at[-1]
    third, last = ([place for place, at in enumerate(trace.at) if low * end <= at <= (low + 0.25) * end] for low in (0.5, 0.75))

    def least(name: str) -> tuple[int, int]:
        values = trace.values(name)
        return min(values[place] for place in third), min(values[place] for place in last)

    own, resident = (second_half(trace.at, trace.values(name)) for name in ("own", "resident"))
    return Verdict(process, own, resident, least("descriptors"), least("threads"))


def _lasted(trace: Trace, seconds: float) -> bool:
    """Tells whether a process was there for the whole second half."""
    return trace.at[0] <= seconds / 2 and trace.at[-1] >= seconds - 3 * _READ_SECONDS


class Processes:
    """All processes of a run, by name; workers are numbered as they come."""

    def __init__(self, main: int, client: int) -> None:
        self._main = main
        self._names = {main: _MAIN, client: _CLIENT}
        self.traces: defaultdict[str, Trace] = defaultdict(Trace)

    def workers(self) -> list[int]:
        """Finds the workers that run now."""
        return sorted(children(self._main))

    def read(self, at: float) -> None:
        """Adds a sample of each; of those that end meanwhile none."""
        for pid in (self._main, *self.workers(), *(pid for pid, name in self._names.items() if name == _CLIENT)):
            name = self._names.setdefault(pid, f"worker {len(self._names) - 1}")
            with suppress(OSError):
                now = vitals(pid)
                self.traces[name].at.append(at)
                self.traces[name].vitals.append(now)


def measure(minutes: float, rate: float, flags: Sequence[str], kill_seconds: float = 0.0) -> Run:
    """One run. kill_seconds: between two deaths of workers; 0: none. Raises RuntimeError if server or client end early."""
    with started(serve_command(ROOT / "models", *_FLAGS, *flags)) as server:
        plan = UsersPlan(listening(server), minutes * 60, rate, lossy=kill_seconds > 0)
        url = listening(server, "metrics")
        with started(module_command("users", json.dumps(asdict(plan)))) as client:
            processes = Processes(server.pid, client.pid)
            begun, spent = time.perf_counter(), cpu_seconds(server.pid)
            _watch(client, processes, url, kill_seconds)
            seconds = time.perf_counter() - begun
            cores = {"server": (cpu_seconds(server.pid) - spent) / seconds, "client": cpu_seconds(client.pid) / seconds}
            features = UsersResult(**read_json(client))  # type: ignore[arg-type]  # fields of several types
        return Run(seconds, cores, dict(processes.traces), settled(url), features)


def _watch(client: subprocess.Popen[str], processes: Processes, url: str, kill_seconds: float) -> None:
    """Reads processes and scrapes metrics, and kills workers, until the client says what it did."""
    told, begun = client.stdout.fileno() if client.stdout else -1, time.perf_counter()
    due = {"read": 0.0, "scrape": 0.0} | ({"kill": kill_seconds} if kill_seconds else {})
    while True:
        at = time.perf_counter() - begun
        if at >= due["read"]:
            processes.read(at)
            due["read"] += _READ_SECONDS
        if at >= due["scrape"]:
            scrape(url)
            due["scrape"] += _SCRAPE_SECONDS
        if at >= due.get("kill", math.inf):
            os.kill(min(processes.workers()), signal.SIGKILL)
            due["kill"] += kill_seconds
        wait = max(0.0, min(due.values()) - (time.perf_counter() - begun))
        if select.select([told], [], [], wait)[0]:
            return


def scrape(url: str) -> dict[str, Counter[str]]:
    """The server's samples by series, added up over models; within a series by origin or reason, if it has either."""
    with urllib.request.urlopen(url) as page:
        text = page.read().decode()
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name][sample.labels.get("origin") or sample.labels.get("reason") or ""] += int(sample.value)
    return found


def settled(url: str) -> Balance:
    """Reads the server's counts once nothing is left, or after a while if something stays."""
    end = time.perf_counter() + _SETTLED_SECONDS
    while True:
        found = scrape(url)
        left = {name: found[series].total() for series, name in _LEFT.items()}
        balance = Balance(dict(found[_OPENED]), dict(found[_CLOSED]), left)
        if balance.even or time.perf_counter() > end:
            return balance
        time.sleep(_LOOK_SECONDS)  # noqa: TID251  # a server tells nobody that its last session has expired


def tell(run: Run) -> Iterator[str]:
    """A run as a table and some lines."""
    yield "| process | its own memory in MiB: half-way, end | | all in RAM | descriptors at rest | threads at rest | |"
    yield "|---|---|---|---|---|---|---|"
    for each in run.verdicts():
        (half, end), resident = ([size / 2**20 for size in sizes] for sizes in (each.own, each.resident))
        memory = f"{half:.2f}, {end:.2f} | {end / half - 1:+.2%} | {resident[0]:.2f}, {resident[1]:.2f}"
        counts = " | ".join(f"{before}, {last}" for before, last in (each.descriptors, each.threads))
        yield f"| {each.process} | {memory} | {counts} | {'flat' if each.flat else 'grew'} |"
    yield ""
    yield f"opened: {_counts(run.balance.opened)}"
    yield f"closed: {_counts(run.balance.closed)}"
    yield f"left over: {_counts({name: count for name, count in run.balance.left.items() if count}) or 'nothing'}"
    yield f"used: {_counts(run.features.used)}"
    others = {name: getattr(run.features, name) for name in ("broken", "skipped", "failed")}
    yield f"of other uses: {_counts(others)}; cores: {', '.join(f'{name} {share:.2f}' for name, share in run.cores.items())}"
    yield from run.features.failures


def _counts(counts: Mapping[str, int]) -> str:
    """The whole and its parts."""
    return f"{sum(counts.values()):,} ({', '.join(f'{name} {count:,}' for name, count in counts.items())})" if counts else ""


def main() -> int:
    """Prints a run, and returns 0 if it passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=2, help="of the server; default: %(default)s")
    parser.add_argument("--rate", type=float, default=_RATE, help="features begun per second; default: %(default)s")
    parser.add_argument("--kill", type=float, default=0.0, metavar="SECONDS", help="between two deaths of workers; default: none")
    parser.add_argument("--json", type=Path, help="where to write all samples")
    options, flags = parser.parse_known_args()
    machine = describe()
    print(f"{machine['cores']} cores, {machine['cpu']}, {machine['system']}, {machine['versions']}", flush=True)
    run = measure(options.minutes, options.rate, ("--workers", str(options.workers), *flags), options.kill)
    print("\n".join(tell(run)))
    if options.json:
        options.json.write_text(json.dumps({"machine": machine} | asdict(run), indent=1) + "\n")
    return 0 if run.passed else 1


if __name__ == "__main__":
    sys.exit(main())
