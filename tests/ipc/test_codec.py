"""Whatever crosses the engine port between processes arrives as it was sent."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepstream_server import spec
from stepstream_server.engine import ports
from stepstream_server.engine.ports import PIECE, ROW, InferenceTotals, Reply, store
from stepstream_server.errors import CallerError, Reason, ServerFault
from stepstream_server.ipc import control
from stepstream_server.ipc.codec import decode, encode
from stepstream_server.snapshots import Snapshot
from support.records import JSON, errors, same, values

# Records of the backend port, of the observer port and of the store port, all of which lie within one process.
STAY = {ports.Computed, ports.EngineStats, ports.Launch, ports.TurnReport, ports.StoreDone}


def records(module: Any) -> list[type[Any]]:
    """The dataclasses that a module exports."""
    found = [getattr(module, name) for name in getattr(module, "__all__", vars(module))]
    return [each for each in found if isinstance(each, type) and dataclasses.is_dataclass(each)]


STAY |= {each for each in records(ports) if each.__module__ == store.__name__}
CROSS = [*(each for each in records(ports) if each not in STAY), Snapshot, *records(spec), *control.MESSAGES]


@pytest.mark.parametrize("record", CROSS, ids=lambda each: each.__name__)
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_every_record_arrives_as_it_was_sent(record: type[Any], data: st.DataObject) -> None:
    """Fields are equal and of the types that they had: members of enumerations, tuples, arrays of their dtypes and shapes."""
    sent = data.draw(values(record))
    arrived = decode(encode(sent))
    assert same(arrived, sent), (arrived, sent)


def test_what_never_crosses_is_known() -> None:
    """A record that is added to the ports crosses, unless it is said here that it need not."""
    assert set(records(ports)) >= STAY
    for record in STAY:
        with pytest.raises(TypeError, match=record.__name__):
            encode(object.__new__(record))


@given(st.lists(errors() | values(ports.Opened), max_size=4))
def test_errors_arrive_wherever_they_stand(found: list[Any]) -> None:
    """Among the sessions of a reply, with all that they say, and still of their kind."""
    assert same(decode(encode(Reply(1, found))), Reply(1, found))


def test_a_rollout_is_asked_as_it_was() -> None:
    """Tuples within tuples stay tuples, none at all is still none, and a seed needs all of its 64 bits."""
    prompt = (np.array([[1.0], [2.0]], np.float32),)
    asked = ports.Generate(
        7, 8, "id", b"secret", ports.NO_SEQ, ports.Commit.EACH, prompt, 2**32 - 1, 0.5, temperature=0.7, top_k=3, top_p=0.9,
        seed=2**64 - 1, stop=((1, 2), (3,)), paths=100, levels=(0.1, 0.5), outputs=True,
    )  # fmt: skip
    plain = ports.Generate(0, 0, "", b"", 2**62 - 1, ports.Commit.END, (), 1, 0.0)
    for sent in (asked, plain):
        arrived = decode(encode([sent]))[0]
        assert same(arrived, sent), arrived
        assert arrived.prompt_steps == sent.prompt_steps
    assert same(decode(encode(ports.Took(7, 256))), ports.Took(7, 256))


def test_a_rollout_is_told_as_it_was() -> None:
    """That it has begun, and what it has drawn, beside all else that a turn has for a front door."""
    pieces = np.array([(7, 10, 2, 12, 0, 2, 2), (8, 0, 0, 3, ports.RolloutEnding.STOP, 0, 0)], PIECE)
    for drawn in (np.arange(2), np.arange(2, dtype=np.float32)):
        rolled = ports.Rolled(pieces, drawn, (np.ones((2, 3), np.float32), np.zeros((2, 0), np.float32)))
        delivery = ports.Delivery([Reply(8, ports.Begun(10))], None, ports.RowErrors(), ports.Detached(), 3, rolled)
        assert same(decode(encode(delivery)), delivery)


@given(JSON)
def test_what_looks_like_a_record_is_none(extra: object) -> None:
    """Whatever the author of a model has noted: maps with an empty key, lists that begin with a number."""
    for value in (extra, {"": [0, extra]}, [0, extra], {"": {"": [3]}}):
        assert same(decode(encode(value)), value)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(0, ROW),
        np.zeros((0, 3), np.float32),
        np.zeros((3, 0, 2), np.int64),
        np.array(7.5, np.float32),
        np.arange(12).reshape(3, 4)[:, ::2],
        np.arange(6, dtype=np.float32).reshape(2, 3).T,
        np.array([np.nan, -0.0, np.inf], np.float32),
        np.ones((2, 3), np.longlong),
        np.frombuffer(bytes(range(160)), ROW),
        np.frombuffer(bytes(range(112)), PIECE),
        np.zeros(0, PIECE),
        *[np.ones(3, dtype) for dtype in ("float64", "uint32", "bool", "int32", "uint8", "int16")],
    ],
    ids=lambda array: f"{array.dtype.name}{list(array.shape)}",
)
def test_arrays_arrive_bit_for_bit(array: np.ndarray[Any, Any]) -> None:
    """Empty ones, scalars, views that are not contiguous, rows of blocks."""
    assert same(decode(encode(array)), array)


def test_numbers_of_numpy_arrive_as_plain_ones() -> None:
    """As a field, in a list, and as the key of a map."""
    totals = InferenceTotals(1, 2, 0.5, 0.25, 0.125, {np.int64(3): (np.int64(4), np.float64(0.5))}, 9.0)  # type: ignore[dict-item]
    assert same(decode(encode(totals)), InferenceTotals(1, 2, 0.5, 0.25, 0.125, {3: (4, 0.5)}, 9.0))
    assert same(decode(encode([np.bool_(True), np.float32(0.5), np.uint32(7)])), [True, 0.5, 7])


@pytest.mark.parametrize(
    "foreign",
    [
        object(),
        1j,
        {1, 2},
        ValueError("not ours"),
        Reason,
        np.zeros(2, np.complex64),
        np.array(["text"]),
        np.array([object()]),
        np.datetime64("2026-01-01"),
        Reply(1, object()),  # type: ignore[arg-type]
    ],
    ids=lambda each: type(each).__name__,
)
def test_what_is_foreign_does_not_cross(foreign: object) -> None:
    """It is refused where it is sent, not where it arrives."""
    for value in (foreign, [foreign], {"key": foreign}):
        with pytest.raises(TypeError, match="engine port"):
            encode(value)


def test_the_kind_of_an_error_is_kept() -> None:
    """The caller's and the server's own, which map to different statuses."""
    for kind in (CallerError, ServerFault):
        error = decode(encode(kind(Reason.QUEUE_FULL, "wait", field="x", expected_seq=3, retry_delay_seconds=0.5)))
        assert type(error) is kind
        assert (str(error), error.reason, error.retry_delay_seconds) == ("wait", Reason.QUEUE_FULL, 0.5)
