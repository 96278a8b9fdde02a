"""Launches of one graph to compare: sessions that take the same steps each time, in batches of any number of rows."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from stepstream_server.errors import BundleError
from stepstream_server.programs import samples
from stepstream_server.programs.layout import results as names_of_results
from stepstream_server.programs.layout import zeros
from stepstream_server.programs.runtime import LaunchFailed, Sessions, launch
from stepstream_server.programs.samples import Arrays
from stepstream_server.spec import ModelSpec

STEPS = 40  # that are chained: a difference of one bit may need some to show
_SESSIONS = 64  # that differ; larger batches hold them several times
_LEAST_SESSIONS = 8  # of a model whose states are large
_NUMBERS = 1 << 22  # of all sessions' states, and of all their inputs, 16 MiB each: drawing them takes a tenth of a second
_PRIME = 11  # divides no size that is tried: sessions come to stand in other places

Clock = Callable[[], float]
Marks = dict[int, bytes]  # session -> digest of its outputs and last states


class Differs(Exception):
    """Rows of one session in one launch came out differently, or the launch failed."""


class Launches:
    """Launches of one graph."""

    def __init__(self, sessions: Sessions, spec: ModelSpec, clock: Clock = time.process_time) -> None:
        self._sessions = sessions
        self._spec = spec
        self._clock = clock
        self._names = names_of_results(spec)
        numbers = sum(each.elements for each in spec.inputs)
        self._different = _fitting(spec.state_bytes // 4 + numbers, _LEAST_SESSIONS, _SESSIONS)
        self._steps = _fitting(self._different * numbers, 2, STEPS)  # that differ; then inputs begin again
        self._inputs = samples.random_inputs(spec, self._different, self._steps)
        self._states = samples.random_states(spec, self._different)
        self._last = (1, 0.0)  # rows and seconds of the last launch

    def expected(self, rows: int) -> float:
        """Seconds that so many rows will take, by those before."""
        before, seconds = self._last
        return seconds * rows / before

    def check_alone(self) -> None:
        """One session by itself, twice. Where states on their way are not taken, all begin as sessions do. Raises BundleError."""
        try:
            first = self._alone()
        except Differs:
            self._states = samples.initial_states(self._spec, self._different)
            try:
                first = self._alone()
            except Differs as error:
                raise BundleError(f"model {self._spec.name}: {STEPS} steps of one session fail: {error}") from None
        if self._alone() != first:
            raise BundleError(f"model {self._spec.name}: equal inputs and states give other results each time")

    def marks(self, rows: int, *, thoroughly: bool) -> Marks:
        """The marks of all sessions of a launch. thoroughly: also in reverse, and with other rows beside half of them. Raises
        Differs if a session has two."""
        if rows == 1:
            return self._alone() | self._chained(np.array([0]))
        # The first sessions, so that every size has all that smaller ones had; but in other places.
        sessions = (np.arange(rows) * _PRIME + rows // 2) % min(rows, self._different)
        marks = self._chained(sessions)
        if thoroughly:
            if not agree(marks, self._chained(sessions[::-1])):
                raise Differs(f"a session's results change with its place among {rows} rows: the axis may be time, not the batch")
            others = np.concatenate([sessions[: rows // 2], self._different - 1 - sessions[rows // 2 :]])
            if not agree(marks, self._chained(others)):
                raise Differs(f"a session's results change with what the other rows of a launch of {rows} are")
        return marks

    def _alone(self) -> Marks:
        return self._chained(np.array([1]))  # a session that is on its way

    def _chained(self, sessions: NDArray[np.int64]) -> Marks:
        """The marks of sessions that take all steps in one batch."""
        begun = self._clock()
        digests = [hashlib.blake2b(digest_size=16) for _ in sessions]
        inputs = {name: values[sessions] for name, values in self._inputs.items()}
        states = {name: values[sessions] for name, values in self._states.items()}
        session = self._sessions.of(len(sessions))
        for step in range(STEPS):
            found = self._step(session, {**samples.at_step(inputs, step % self._steps), **states})
            states = samples.carried_on(found)
            for name, values in found.items():
                if name.startswith("output.") or step == STEPS - 1:
                    for digest, row in zip(digests, values, strict=True):
                        digest.update(np.ascontiguousarray(row).tobytes())
        self._last = len(sessions), self._clock() - begun
        marks: Marks = {}
        for number, digest in zip(sessions.tolist(), digests, strict=True):
            if marks.setdefault(number, digest.digest()) != digest.digest():
                raise Differs(f"a session's results change with its place among {len(sessions)} rows")
        return marks

    def _step(self, session: ort.InferenceSession, fed: Arrays) -> Arrays:
        """One launch. Raises Differs if it fails, or gives arrays of other shapes than were declared."""
        placed = {name: _placed(values) for name, values in fed.items()}
        try:
            found = launch(session, self._names, placed)
        except LaunchFailed as error:
            raise Differs(str(error)) from None
        rows = len(next(iter(fed.values())))
        for output in self._spec.outputs:
            _check_shape(f"output {output.name}", found[f"output.{output.name}"], (rows, 1, *output.shape))
        for name in fed:
            if name.startswith("state."):
                _check_shape(f"states of {name.removeprefix('state.')}", found[f"next_{name}"], fed[name].shape)
        return found


def agree(known: Marks, marks: Marks) -> bool:
    """Tells whether sessions have the marks that they had; takes those in that are new."""
    same = all(known.get(session, mark) == mark for session, mark in marks.items())
    known |= {session: mark for session, mark in marks.items() if session not in known}
    return same


def _placed(values: samples.Array) -> samples.Array:
    """The values where launches have them."""
    place = zeros(values.shape, values.dtype)
    place[...] = values
    return place


def _fitting(numbers: int, least: int, most: int) -> int:
    """How many of so many numbers each may be made: from `most`, halved until they fit, down to `least`."""
    while most > least and most * numbers > _NUMBERS:
        most //= 2
    return max(most, least)


def _check_shape(what: str, values: samples.Array, expected: tuple[int, ...]) -> None:
    if values.shape != expected:
        raise Differs(f"{what}: expected {list(expected)} of a batch of {expected[0]}, got {list(values.shape)}")
