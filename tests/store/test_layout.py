"""Records as bytes: what was written is read, and whatever else comes is refused, also if it has a right checksum."""

from __future__ import annotations

import functools
import json
import random
import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from stepstream_server import snapshots
from stepstream_server.engine.ports import HEAD, Group, Record
from stepstream_server.errors import Reason, StepStreamError
from stepstream_server.spec import ModelSpec, StateSpec, TensorSpec
from stepstream_server.store import layout
from stepstream_server.store.layout import FORMAT, Layout
from support.backend import counter_spec
from support.storing import check_same, group

CASES, MANY_CASES = 20_000, 200_000  # mutated records, and as many snapshots

SPEC = replace(
    counter_spec(),
    states=(
        StateSpec("h", (2, 3)),
        StateSpec("count", (), "int64"),
        StateSpec("seen", (5,), "bool"),
        StateSpec("none", (0, 4), "int32"),
    ),
    outputs=(TensorSpec("y", "float32", (2,)), TensorSpec("label", "int32", ()), TensorSpec("flag", "bool", (1,))),
)

_PREFIX = struct.Struct("<8sII")  # what DESIGN and the module say of the beginning, said again here on purpose
NUMBERS = st.integers(0, 2**62 - 1)
SECONDS = st.floats(0, 1e12)


def heads(unacknowledged: int) -> st.SearchStrategy[tuple[object, ...]]:
    """Numbers of a session with so many unacknowledged steps."""
    return st.builds(
        lambda acked, *rest: (acked + unacknowledged, acked, *rest),
        st.integers(0, 2**61), NUMBERS, NUMBERS, NUMBERS, SECONDS, SECONDS, SECONDS, st.booleans(),
    )  # fmt: skip


@st.composite
def groups(draw: st.DrawFn) -> Group:
    """Sessions of SPEC, with any numbers, as many unacknowledged steps each, and draws of some."""
    count, unacknowledged = draw(st.integers(0, 4)), draw(st.integers(0, 3))
    made = group([f"t/{place}" for place in range(count)], SPEC, unacknowledged=unacknowledged, seed=draw(st.integers(0, 99)))
    numbers = np.array([draw(heads(unacknowledged)) for _ in range(count)], HEAD)
    held = draw(st_numpy.arrays(np.bool_, count * unacknowledged))
    outputs = tuple(
        np.zeros((int(held.sum()), *each.shape), each.dtype) + np.array(draw(st.integers(0, 1)), each.dtype)
        for each in SPEC.outputs
    )
    drawn = {place: np.full((place + 1, 1), place, np.float32) for place in range(count) if draw(st.booleans())}
    return replace(made, heads=numbers, held=held, outputs=outputs, drawn=drawn)


@settings(max_examples=60)
@given(groups())
def test_what_was_written_is_read(sessions: Group) -> None:
    """All of it, under the key and with the description of its model."""
    records = Layout(SPEC, "by hand").encode(sessions)
    reader = Layout(SPEC, "by another hand")
    assert len(records) == len(sessions.keys)
    for place, (key, data) in enumerate(zip(sessions.keys, records, strict=True)):
        record = reader.decode(key, data)
        check_same(record, sessions, place)
        assert isinstance(record, Record)
        snapshot = record.snapshot
        told = (snapshot.model, snapshot.version, snapshot.fingerprint, snapshot.numerics, snapshot.id)
        assert told == (SPEC.name, SPEC.version, SPEC.fingerprint, "by hand", f"{place}")
        assert snapshot.bytes <= len(data)


def test_tensors_are_copied_in_whatever_order_they_lie() -> None:
    """A record is written from columns of any stride, and read into arrays that may be changed."""
    sessions = group(["a", "b"], SPEC, unacknowledged=2)
    turned = replace(sessions, states={name: np.asfortranarray(values) for name, values in sessions.states.items()})
    records = Layout(SPEC, "n").encode(turned)
    assert records == Layout(SPEC, "n").encode(sessions)
    record = Layout(SPEC, "n").decode("a", records[0])
    assert isinstance(record, Record)
    assert all(each.flags.writeable and each.flags.aligned for each in record.snapshot.states.values())


def test_the_format_is_that_of_its_number() -> None:
    """Bytes that format 1 has: whoever has to change this test changes FORMAT, and what docs/durability.md says of upgrades."""
    sessions = group(["a"], unacknowledged=2, drawn={0: np.ones((1, 1), np.float32)}, opened_at=1.0, epoch=3)
    states = {"last.sum": np.full((1, 1), 2, np.float32), "count": np.full((1, 1), 3, np.float32)}
    secrets, outputs = np.full((1, 32), 7, np.uint8), (np.full((1, 1), 4, np.float32), np.full((1, 1), 5, np.float32))
    (data,) = Layout(counter_spec(), "n").encode(replace(sessions, secrets=secrets, states=states, outputs=outputs))
    assert FORMAT == 1
    assert (len(data), sha256(data).hexdigest()[:16]) == (GOLDEN_BYTES, GOLDEN_DIGEST)


GOLDEN_BYTES, GOLDEN_DIGEST = 414, "e17640dc244b67b1"


def test_a_newer_format_is_named() -> None:
    """Before its checksum is looked at, which may be another then."""
    data = bytearray(_record())
    data[8:12] = struct.pack("<I", FORMAT + 1)
    error = _refusal(bytes(data))
    assert error.reason == Reason.RECORD_UNREADABLE
    assert error.message == "record of session a: expected format 1, got 2"


def test_every_flipped_bit_and_every_cut_is_refused() -> None:
    """The checksum covers all."""
    data = _record()
    for place in range(len(data)):
        assert _refusal(data[:place]).reason == Reason.RECORD_UNREADABLE
        spoiled = bytearray(data)
        spoiled[place] ^= 1 << place % 8
        assert _refusal(bytes(spoiled)).reason == Reason.RECORD_UNREADABLE
    assert _refusal(data + b"\0").reason == Reason.RECORD_UNREADABLE


def test_another_fingerprint_is_named() -> None:
    """Beside the one of the model that is served."""
    other: ModelSpec = replace(SPEC, fingerprint="f" * 64)
    error = Layout(other, "n").decode("tenant/a", _record())
    assert isinstance(error, StepStreamError)
    assert error.reason == Reason.MODEL_MISMATCH
    assert error.message == f"record of session a: expected the fingerprint {'f' * 64} of the model served, got {'0' * 64}"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"next_seq": -1}, "next_seq: expected a number from 0 up to 2^62, got -1"),
        ({"epoch": 2**62}, "epoch: expected"),
        ({"acked": 11}, "acked: expected at most next_seq 10, got 11"),
        ({"idle_ttl": float("nan")}, "idle_ttl: expected a number from 0 on, got nan"),
        ({"next_seq": 2**61}, "held: expected [2305843009213693942] of bool, got"),
    ],
)
def test_numbers_that_no_session_has_are_refused(change: dict[str, float], problem: str) -> None:
    """Though the checksum is right: it was made of them."""
    sessions = group(["a"], SPEC)
    heads = np.array(sessions.heads)
    for name, value in change.items():
        heads[name] = value
    body = _record()[_body_start(_record()) :]
    number = np.frombuffer(body[: layout.FIXED.itemsize], layout.FIXED).copy()
    number["head"] = heads
    error = _refusal(_resealed(_record(), number.tobytes() + body[layout.FIXED.itemsize :]))
    assert error.reason == Reason.RECORD_UNREADABLE
    assert problem in error.message


def described(**changes: object) -> bytes:
    """Gives what a record might say of a model."""
    states = [["h", "float32", [1]]]
    fields = {"fingerprint": "0" * 64, "numerics": "n", "states": states, "outputs": [], "draw": [["x", "float32", [1]]]}
    return json.dumps({**fields, **changes}).encode()


@pytest.mark.parametrize(
    "description",
    [
        b"[" * 100_000,
        b"{}",
        b"\xff",
        described(fingerprint=7),
        described(numerics="\ud800"),
        described(states=3),
        described(states=[["h", "float32", [2**61, 2**61]]]),
        described(states=[["h", "float32", [0, 2**61, 2**61]]]),
        described(states=[["h", "float32", [2**70]]]),
        described(states=[["h", "float32", [-1]]]),
        described(states=[["h", "float32", [True]]]),
        described(states=[["h", "float32", [0] * 100]]),
        described(states=[["h", "object", [1]]]),
        described(draw=[]),
    ],
)
def test_descriptions_of_no_model_are_refused(description: bytes) -> None:
    """With a right checksum, whatever they make of the bytes behind them."""
    data = _record()
    begin = _PREFIX.pack(data[:8], FORMAT, len(description)) + description
    body = data[_body_start(data) :]
    error = _refusal(begin + struct.pack("<I", crc32(body, crc32(begin))) + body)
    assert error.reason == Reason.RECORD_UNREADABLE


def test_mutated_records_are_refused_cleanly(long_run: bool) -> None:
    """Half of them with a right checksum. Those that can be read hold no more than their bytes."""
    _mutate(_records(), _reseal_record, lambda data: Layout(SPEC, "n").decode("a", data), MANY_CASES if long_run else CASES)


def test_mutated_snapshots_are_refused_cleanly(long_run: bool) -> None:
    """They are treated as records are: here what is refused is raised."""

    def decode(data: bytes) -> object:
        try:
            return snapshots.decode(data)
        except StepStreamError as error:
            return error

    exported = [snapshots.encode(_read(data).snapshot) for data in _records()]
    _mutate(exported, _reseal_snapshot, decode, MANY_CASES if long_run else CASES)


def test_reading_takes_memory_in_proportion_to_the_bytes() -> None:
    """Whatever sizes they name."""
    chance = random.Random(5)
    for data in _records():
        spoiled = [_reseal_record(_mutated(data, chance)) for _ in range(200)]
        tracemalloc.start()
        try:
            for each in spoiled:
                Layout(SPEC, "n").decode("a", each)
            assert tracemalloc.get_traced_memory()[1] < 50 * len(data) + 100_000
        finally:
            tracemalloc.stop()


def _mutate(originals: list[bytes], reseal: Callable[[bytes], bytes], decode: Callable[[bytes], object], cases: int) -> None:
    chance, refused = random.Random(20), 0
    for case in range(cases):
        data = _mutated(chance.choice(originals), chance)
        if case % 2:
            data = reseal(data)
        outcome = decode(data)
        if isinstance(outcome, StepStreamError):
            assert outcome.reason in (Reason.RECORD_UNREADABLE, Reason.MODEL_MISMATCH, Reason.SNAPSHOT_CORRUPT)
            assert len(outcome.message) < 1000
            refused += 1
        else:
            held = outcome.snapshot if isinstance(outcome, Record) else outcome
            assert isinstance(held, snapshots.Snapshot)
            assert held.bytes <= len(data)
    assert refused > cases / 2


def _mutated(data: bytes, chance: random.Random) -> bytes:
    """Some bytes changed, cut out, doubled, or put in."""
    spoiled = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5))):
        place = chance.randrange(len(spoiled) + 1)
        length = chance.choice((1, 1, 2, 8, 64))
        what = chance.randrange(5)
        if what == 0:
            spoiled[place : place + 1] = bytes([chance.randrange(256)])
        elif what == 1:
            del spoiled[place : place + length]
        elif what == 2:
            spoiled[place:place] = spoiled[place : place + length]
        elif what == 3:
            spoiled[place : place + length] = chance.choice((b"\0", b"\xff")) * length
        else:
            spoiled[place:place] = chance.randbytes(length)
    return bytes(spoiled)


@functools.cache
def _records() -> list[bytes]:
    """One that is plain, and one that has all that a record can have."""
    plain = Layout(SPEC, "n").encode(group(["a"], SPEC))
    full = group(["a"], SPEC, unacknowledged=4, drawn={0: np.ones((3, 1), np.float32)})
    return plain + Layout(SPEC, "n").encode(full)


def _record() -> bytes:
    return _records()[0]


def _read(data: bytes) -> Record:
    record = Layout(SPEC, "n").decode("a", data)
    assert isinstance(record, Record)
    return record


def _refusal(data: bytes) -> StepStreamError:
    error = Layout(SPEC, "n").decode("a", data)
    assert isinstance(error, StepStreamError)
    return error


def _body_start(data: bytes) -> int:
    return int(_PREFIX.size + _PREFIX.unpack_from(data)[2] + 4)


def _resealed(data: bytes, body: bytes) -> bytes:
    """A record with another body and its right checksum."""
    begin = data[: _body_start(data) - 4]
    return begin + struct.pack("<I", crc32(body, crc32(begin))) + body


def _reseal_record(data: bytes) -> bytes:
    """Gives the bytes a right checksum, and a right beginning; as they are if they have no place for that."""
    data = _record()[:12] + data[12:]
    start = _body_start(data) if len(data) >= _PREFIX.size else len(data) + 1
    return _resealed(data, data[start:]) if start <= len(data) else data


def _reseal_snapshot(data: bytes) -> bytes:
    """Gives a snapshot a right checksum: it is a line, the checksum of the rest, and the rest."""
    line = b"StepStream snapshot 1\n"
    payload = data[len(line) + 32 :]
    return line + sha256(payload).digest() + payload
