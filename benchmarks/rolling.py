"""The generator that has models rolled out: a process of its own that asks, reads what is drawn, and prints one line.

Each caller has one rollout at a time, over a connection of its own, and asks for the next when that has come to its end. It
checks that draws come once each, in order and in whole; anything else ends it with an error.

`python -m benchmarks.rolling PLAN` with a RollingPlan as JSON prints a load.Result as JSON.
"""

from __future__ import annotations

import json
import selectors
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from benchmarks.inputs import random_inputs
from benchmarks.load import Result
from benchmarks.process import cpu_seconds
from benchmarks.wire import Connection, WireError, connect
from stepstream_proto.v1 import inference_pb2

_PATH = "/stepstream.v1.InferenceService/Generate"
_ENDLESS = (1 << 32) - 1  # draws: weeks of them
_SHOWN = 500  # characters of a message that should not have come
_STALLED_SECONDS = 60.0  # without a single draw for this long, something is wrong


@dataclass(frozen=True, slots=True)
class RollingPlan:
    """What to ask of whom."""

    address: str  # HOST:PORT
    pid: int  # of the server, whose CPU time is read at both ends of the measurement
    model: str
    width: int  # values of an input, and so of a draw
    tokens: int = 0  # below which they are, which are int64 then; 0: they are float32
    callers: int = 1
    prompt_steps: int = 1
    max_steps: int = _ENDLESS
    temperature: float = 0.0
    warm_up_seconds: float = 0.3
    seconds: float = 1.5


def generate_request(plan: RollingPlan, number: int) -> inference_pb2.GenerateRequest:
    """A rollout of the plan, with a prompt and a seed of its own."""
    prompt = random_inputs(np.random.default_rng(number), (plan.prompt_steps, plan.width), plan.tokens)
    return inference_pb2.GenerateRequest(
        model=plan.model, prompt=[prompt.tobytes()], max_steps=plan.max_steps, temperature=plan.temperature, seed=number
    )


class Caller:
    """One rollout after the other, each with a seed of its own."""

    def __init__(self, connection: Connection, plan: RollingPlan, number: int) -> None:
        self._connection = connection
        self._plan = plan
        self._step_bytes = plan.width * (8 if plan.tokens else 4)
        self._request = generate_request(plan, number)
        self._end = plan.prompt_steps + plan.max_steps  # number behind the last draw
        self._next = 0  # number of the next draw
        self._sent = 0.0
        self._stream = 0
        self.draws = 0
        self.messages = 0
        self.ended = 0  # rollouts
        self.first_seconds: list[float] = []  # from each request to the first of its draws

    def begin(self) -> None:
        """Asks for a rollout."""
        self._stream = self._connection.open_stream(_PATH)
        self._next = self._plan.prompt_steps
        self._sent = time.perf_counter()
        self._connection.send(self._stream, self._request.SerializeToString(), last=True)
        self._request.seed += self._plan.callers

    def take(self, message: bytes, now: float) -> None:
        """Takes what was drawn; asks again if that was the last of it. Raises WireError."""
        response = inference_pb2.GenerateResponse.FromString(message)
        steps, rest = divmod(len(response.tokens if self._plan.tokens else response.values), self._step_bytes)
        following = self._next + steps
        if rest or not steps or (response.first_seq, response.next_seq) != (self._next, following):
            raise WireError(f"expected draws from {self._next} on, got {str(response)[:_SHOWN]}")
        if following > self._end or bool(response.ending) != (following == self._end):
            raise WireError(f"expected the last draw to be {self._end - 1}, got {str(response)[:_SHOWN]}")
        if self._next == self._plan.prompt_steps:
            self.first_seconds.append(now - self._sent)
        self._next = following
        self.draws += steps
        self.messages += 1
        if response.ending:
            self.ended += 1
            self.begin()

    def check(self) -> None:
        """Raises WireError if the server has ended a rollout that had not come to its end."""
        if self._connection.ended > self.ended:
            raise WireError(f"the server ended a rollout before draw {self._next} of {self._end}")

    def leave(self) -> None:
        """Cancels the rollout."""
        self._connection.reset(self._stream)
        self._connection.flush()
        self._connection.close()


class Rolling:
    """All callers of a plan, driven by one thread."""

    def __init__(self, plan: RollingPlan) -> None:
        self._selector = selectors.DefaultSelector()
        self._callers: dict[Connection, Caller] = {}
        for number in range(plan.callers):
            connection = connect(plan.address)
            self._selector.register(connection, selectors.EVENT_READ, connection)
            self._callers[connection] = Caller(connection, plan, number)

    def begin(self) -> None:
        """Has all of them ask at once, until each has got its first draw."""
        for connection, caller in self._callers.items():
            caller.begin()
            connection.flush()
        self._until(lambda: all(caller.draws for caller in self._callers.values()))

    def run(self, seconds: float) -> None:
        """Reads on for so long."""
        end = time.perf_counter() + seconds
        self._until(lambda: time.perf_counter() >= end)

    def close(self) -> None:
        """Cancels what is under way."""
        for caller in self._callers.values():
            caller.leave()

    @property
    def draws(self) -> int:
        """So far."""
        return sum(caller.draws for caller in self._callers.values())

    @property
    def messages(self) -> int:
        """So far."""
        return sum(caller.messages for caller in self._callers.values())

    @property
    def first_seconds(self) -> list[float]:
        """From each request to the first of its draws."""
        return [seconds for caller in self._callers.values() for seconds in caller.first_seconds]

    def _until(self, done: Callable[[], bool]) -> None:
        while not done():
            ready = self._selector.select(_STALLED_SECONDS)
            if not ready:
                raise WireError(f"no draw for {_STALLED_SECONDS:.0f} s")
            for key, _ in ready:
                connection = key.data
                caller = self._callers[connection]
                messages = connection.receive()
                now = time.perf_counter()
                for _, message in messages:
                    caller.take(message, now)
                caller.check()
                connection.flush()


def measure(plan: RollingPlan) -> Result:
    """Begins, warms up, counts what is drawn between two moments, and cancels. Raises WireError for what is not right."""
    rolling = Rolling(plan)
    rolling.begin()
    rolling.run(plan.warm_up_seconds)
    draws, messages, begun = rolling.draws, rolling.messages, time.perf_counter()
    own, servers = time.process_time(), cpu_seconds(plan.pid)
    rolling.run(plan.seconds)
    own, servers = time.process_time() - own, cpu_seconds(plan.pid) - servers
    draws, messages, seconds = rolling.draws - draws, rolling.messages - messages, time.perf_counter() - begun
    rolling.close()
    quantiles = np.quantile(rolling.first_seconds, [0.5, 0.99, 0.999]).tolist()
    return Result(draws, messages, seconds, own, servers, *quantiles)


def main() -> None:
    """One plan in, one result out."""
    print(json.dumps(asdict(measure(RollingPlan(**json.loads(sys.argv[1]))))), flush=True)


if __name__ == "__main__":
    main()
