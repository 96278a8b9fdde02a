"""What is refused, and how `tritonclient` hears of it: statuses of calls, texts in a stream, or a stream that ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stepstream import Client
from support.oip.process import Driver
from support.oip.triton import STREAMS, Answer, Request, Tensor, Triton, Way, reading, sequence
from support.oip.waiting import expired
from support.server import serving

START, STEP, *_ = sequence(5, -1.2, -1.3, -1.4)
FLOATS = np.zeros((1, 1), "<f4")
NEVER_STARTED = "must specify the START flag on the first request of the sequence"
LISTED = {"name": "mv", "datatype": "FP32", "shape": ["1", "1"], "contents": {"fp32Contents": [0.0]}}
PAIR = Tensor("mv", np.zeros((2, 1), "<f4"))


def patched(**parameters: Any) -> Request:
    """A start whose parameters are others than `tritonclient` would send."""
    return replace(START, patch={"parameters": parameters})


def wrong_input(data: np.ndarray[Any, np.dtype[Any]] = FLOATS, **claims: Any) -> Request:
    """A start whose input says something of itself that is not so, or not what the model takes."""
    return replace(START, inputs=[Tensor("mv", data, claims=claims)])


def of_many(ids: Any = ("a", "b"), *more: Tensor) -> Request:
    """A request of two sequences."""
    return Request("ecg", [PAIR, Tensor("SEQUENCE_ID", ids), *more])


MALFORMED: dict[str, tuple[Request, str]] = {
    "no id": (replace(START, sequence=0), "sequence_id: expected"),
    "an id of 0": (patched(sequence_id={"int64Param": "0"}), "sequence_id: expected"),
    "an unsigned id of 0": (patched(sequence_id={"uint64Param": "0"}), "sequence_id: expected"),
    "an empty id": (patched(sequence_id={"stringParam": ""}), "sequence_id: expected 1 to 128"),
    "an id that is a flag": (patched(sequence_id={"boolParam": True}), "sequence_id: expected an integer or a string"),
    "an id that looks like an integer's": (replace(START, sequence="int:5"), "begins with 'int:'"),
    "an id that is too long": (replace(START, sequence="x" * 129), "sequence_id: expected 1 to 128"),
    "an id with a blank": (replace(START, sequence="bed 7"), "got 'bed 7'"),
    "an id that is not ASCII": (replace(START, sequence="bett-ä"), "sequence_id: expected 1 to 128"),
    "a start that is a number": (patched(sequence_start={"int64Param": "1"}), "sequence_start: expected a bool"),
    "an end that is a text": (patched(sequence_end={"stringParam": "true"}), "sequence_end: expected a bool"),
    "a step that is a text": (replace(START, parameters={"sequence_step": "0"}), "sequence_step: expected an integer"),
    "a step below 0": (replace(START, seq=-1), "sequence_step: expected an integer of 0 or more"),
    "a timeout below 0": (replace(START, timeout=-5), "timeout: expected"),
    "a timeout that is a text": (patched(timeout={"stringParam": "5"}), "timeout: expected an integer of microseconds"),
    "another datatype": (wrong_input(np.zeros((1, 1), "<f8")), "inputs[mv]: expected datatype FP32, got 'FP64'"),
    "a datatype that is none": (wrong_input(datatype="FLOAT"), "inputs[mv]: expected datatype FP32, got 'FLOAT'"),
    "integers for floats": (wrong_input(np.zeros((1, 1), "<i8")), "inputs[mv]: expected datatype FP32, got 'INT64'"),
    "a feature too many": (wrong_input(np.zeros((1, 2), "<f4")), "inputs[mv]: shape: expected [1, 1] or [1, T, 1], got [1, 2]"),
    "no batch dimension": (wrong_input(np.zeros(1, "<f4")), "got [1]"),
    "two rows of one sequence": (wrong_input(np.zeros((2, 1), "<f4")), "got [2, 1]"),
    "no steps": (wrong_input(np.zeros((1, 0, 1), "<f4")), "got [1, 0, 1]"),
    "too few bytes": (wrong_input(shape=[1, 2, 1]), "inputs[mv]: expected 8 bytes for shape [1, 2, 1], got 4"),
    "too many bytes": (wrong_input(np.zeros((1, 3, 1), "<f4"), shape=[1, 2, 1]), "expected 8 bytes for shape [1, 2, 1], got 12"),
    "a size below 0": (wrong_input(shape=[1, -1, 1]), "inputs[mv]: shape: expected"),
    "too few elements": (
        replace(START, inputs=[Tensor("mv", FLOATS, typed=True, claims={"shape": [1, 2, 1]})]),
        "inputs[mv]: expected 2 elements for shape [1, 2, 1], got 1",
    ),
    "elements and no bytes": (
        replace(START, patch={"rawInputContents": ["AAAA"]}),
        "raw_input_contents: expected one for each of 1 inputs, got 2",
    ),
    "no input": (replace(START, inputs=[]), "inputs[mv]: missing"),
    "an input twice": (replace(START, inputs=[reading(1.0), reading(2.0)]), "inputs[mv]: expected once"),
    "an unknown input": (replace(START, inputs=[reading(1.0), Tensor("kv", FLOATS)]), "inputs[kv]: expected only mv"),
    "an input of another name": (replace(START, inputs=[Tensor("kv", FLOATS)]), "inputs[kv]: expected only mv"),
    "elements raw and listed": (
        replace(START, inputs=[], patch={"inputs": [LISTED], "rawInputContents": ["AAAAAA=="]}),
        "inputs[mv]: expected elements in contents or in raw_input_contents, got both",
    ),
    "an unknown output": (
        replace(START, outputs=["next", "nxt"]),
        "expected some of next, ahead_9, ahead_27, got 'nxt'",
    ),
    "NaN": (wrong_input(np.array([[np.nan]], "<f4")), "NON_FINITE_INPUT"),
    "infinity": (wrong_input(np.array([[[1.0], [-np.inf]]], "<f4")), "NON_FINITE_INPUT"),
    "a version that is no number": (replace(START, version="v1"), "version: expected a number"),
    "a sequence twice": (of_many(["a", "a"]), "inputs[SEQUENCE_ID]: expected each sequence once, got 'a' again"),
    "a number twice": (of_many(np.array([1, 1], "<i8")), "inputs[SEQUENCE_ID]: expected each sequence once, got 'int:1' again"),
    "a sequence 0 of several": (of_many(np.array([1, 0], "<i8")), "SEQUENCE_ID"),
    "a bad id of several": (of_many(["a", "int:1"]), "SEQUENCE_ID"),
    "ids of another datatype": (of_many(np.array([1, 2], "<f4")), "inputs[SEQUENCE_ID]: expected datatype INT64 or BYTES"),
    "more rows than ids": (of_many(["a"]), "inputs[mv]: shape: expected [1, 1] or [1, T, 1], got [2, 1]"),
    "fewer flags than ids": (of_many(["a", "b"], Tensor("SEQUENCE_START", np.ones(1, "?"))), "SEQUENCE_START"),
    "flags that are numbers": (
        of_many(["a", "b"], Tensor("SEQUENCE_END", np.ones(2, "<i8"))),
        "inputs[SEQUENCE_END]: expected datatype BOOL, got 'INT64'",
    ),
    "a step of several below -1": (of_many(["a", "b"], Tensor("SEQUENCE_STEP", np.array([0, -2], "<i8"))), "SEQUENCE_STEP"),
    "ids both ways": (replace(of_many(), sequence=5), "inputs[SEQUENCE_ID]: expected either"),
    "a step beside ids": (replace(of_many(), parameters={"sequence_step": 0}), "or the parameter sequence_step, got both"),
    "flags without ids": (
        replace(START, inputs=[reading(1.0), Tensor("SEQUENCE_START", np.ones(1, "?"))]),
        "inputs[SEQUENCE_START]",
    ),
    "never started": (STEP, NEVER_STARTED),
    "an end that was never started": (
        replace(STEP, end=True),
        "must specify the START flag on the first request of the sequence",
    ),
}
OTHERS: dict[str, tuple[Request, str, str]] = {
    "an unknown model": (replace(START, model="egg"), "NOT_FOUND", "MODEL_NOT_FOUND: model: 'egg' is not served; served: ecg"),
    "an unknown version": (replace(START, version="7"), "NOT_FOUND", "MODEL_NOT_FOUND: version: 'ecg' has no version 7"),
    "an input in shared memory": (
        replace(START, inputs=[Tensor("mv", FLOATS, shared=True)]),
        "UNIMPLEMENTED",
        "NOT_IMPLEMENTED: inputs[mv]: shared memory",
    ),
    "an output in shared memory": (
        replace(START, patch={"outputs": [{"name": "next", "parameters": {"shared_memory_region": {"stringParam": "region"}}}]}),
        "UNIMPLEMENTED",
        "NOT_IMPLEMENTED: outputs[next]",
    ),
    "classes instead of numbers": (
        replace(START, patch={"outputs": [{"name": "next", "parameters": {"classification": {"int64Param": "3"}}}]}),
        "UNIMPLEMENTED",
        "NOT_IMPLEMENTED: outputs[next]",
    ),
}
CASES = {name: (request, "INVALID_ARGUMENT", text) for name, (request, text) in MALFORMED.items()} | OTHERS


def heard(answers: list[Answer], *, statuses: bool) -> dict[str, Any]:
    """What is not as `CASES` has it, by name."""
    wrong = {}
    for (name, (_, code, text)), answer in zip(CASES.items(), answers, strict=True):
        if answer.status != (code if statuses else None) or text not in answer.error:
            wrong[name] = (answer.status, answer.error or answer.outputs)
    return wrong


async def test_refusals_of_calls(triton: Triton, client: Client) -> None:
    """Each with the status that says whose fault it is and a text that names what is wrong; nothing is opened by any of them."""
    (answers,) = await triton.infer("sync", [request for request, _, _ in CASES.values()])
    assert heard(answers, statuses=True) == {}
    assert [each.id async for each in client.list_sessions()] == []


@pytest.mark.parametrize("at_once", [False, True], ids=["one by one", "at once"])
async def test_refusals_in_a_stream(triton: Triton, at_once: bool) -> None:
    """Texts in their places: the stream goes on, and a sequence on it too."""
    requests = [replace(START, sequence="good"), *(request for request, _, _ in CASES.values()), replace(STEP, sequence="good")]
    (answers,) = await triton.infer("sync_stream", requests, at_once=at_once)
    assert heard(answers[1:-1], statuses=False) == {}
    assert (answers[0].seq, answers[-1].seq) == (0, 1)


async def test_every_text_begins_with_the_reason(triton: Triton) -> None:
    """`tritonclient` shows nothing else of an error, so a program finds its name there."""
    (answers,) = await triton.infer("sync", [request for request, _, _ in CASES.values()])
    nameless = [answer.error for answer in answers if not answer.error.partition(":")[0].replace("_", "").isupper()]
    assert nameless == []


@pytest.mark.parametrize("at_once", [False, True], ids=["one by one", "at once"])
@pytest.mark.parametrize("way", STREAMS)
async def test_a_stream_may_ask_for_statuses(triton: Triton, client: Client, way: Way, at_once: bool) -> None:
    """With `triton_grpc_error` the first error ends the stream, behind the answers before it; its sequences live on."""
    requests = [START, replace(START, sequence="never", start=False), STEP]
    (answers,) = await triton.infer(way, requests, at_once=at_once, headers={"triton_grpc_error": "true"})
    assert [answer.status for answer in answers] == [None, "INVALID_ARGUMENT"]
    assert "must specify the START flag" in answers[1].error
    assert [each.id async for each in client.list_sessions("ecg")] == ["int:5"]


async def test_endings_are_told_apart(triton: Triton, client: Client) -> None:
    """Never started, ended, closed or moved by a native caller: each says which, as a status and in its text."""
    (answers,) = await triton.infer("sync", [replace(START, sequence=id) for id in ("ended", "closed", "moved")])
    assert [answer.error for answer in answers] == ["", "", ""]
    await triton.one(replace(STEP, sequence="ended", end=True))
    await client.close_session("ecg", "closed")
    await client.export_session("ecg", "moved", close=True)
    steps = [replace(STEP, sequence=id) for id in ("never", "ended", "closed", "moved")]
    (answers,) = await triton.infer("sync", steps)
    assert [(answer.status, answer.error.partition(":")[0]) for answer in answers] == [
        ("INVALID_ARGUMENT", "SESSION_NOT_FOUND"),
        ("NOT_FOUND", "SESSION_CLOSED"),
        ("NOT_FOUND", "SESSION_CLOSED"),
        ("NOT_FOUND", "SESSION_MOVED"),
    ]
    (answers,) = await triton.infer("sync_stream", steps)
    assert len({answer.error.partition(":")[0] for answer in answers}) == 3


async def test_an_id_may_be_used_again(triton: Triton) -> None:
    """A start needs no new id, however its last sequence has ended."""
    requests = [replace(START, end=True), START, replace(STEP, end=True), START]
    (answers,) = await triton.infer("sync", requests)
    assert [answer.seq for answer in answers] == [0, 0, 1, 0]


async def test_an_idle_sequence_expires(driver: Driver, models: Path) -> None:
    """And says so, unlike one that was never started; a start makes another."""
    async with serving(models, engine={"idle_ttl_seconds": 0.05}) as bound:
        triton = Triton(driver, bound.listen)
        assert (await triton.one(START)).seq == 0
        await expired(bound.listen)
        answer = await triton.one(STEP)
        assert (answer.status, answer.error.partition(":")[0]) == ("NOT_FOUND", "SESSION_EXPIRED")
        assert (await triton.one(START)).seq == 0


async def test_a_full_server_refuses_starts(driver: Driver, models: Path) -> None:
    """Those of new sequences alone: who is there goes on, or begins again."""
    async with serving(models, engine={"capacity": 2}) as bound:
        triton = Triton(driver, bound.listen)
        starts = [replace(START, sequence=id) for id in (1, 2, 3, 2)]
        (answers,) = await triton.infer("sync", [*starts, replace(STEP, sequence=1, end=True), starts[2]])
        assert [answer.status for answer in answers] == [None, None, "RESOURCE_EXHAUSTED", None, None, None]
        assert answers[2].error.startswith("SESSION_CAPACITY")


async def test_what_is_too_large_is_refused_before_it_runs(triton: Triton, client: Client) -> None:
    """Outputs of so many steps would not fit into a message, or the request is one that gRPC does not take."""
    for count, text in ((20_000, "BLOCK_TOO_LARGE: outputs: expected"), (2_000_000, "larger than max")):
        answer = await triton.one(replace(START, inputs=[Tensor("mv", np.zeros((1, count, 1), "<f4"))]))
        assert answer.status == "RESOURCE_EXHAUSTED"
        assert text in answer.error
    assert [each.id async for each in client.list_sessions("ecg")] == []


async def test_tokens_out_of_range_are_refused(triton: Triton) -> None:
    """The limit is in the model's properties."""
    bad: Mapping[str, Any] = {"model": "tokens", "sequence": 5, "start": True}
    for token in (-1, 5):
        answer = await triton.one(Request(inputs=[Tensor("x", np.array([token], "<i8"))], **bad))
        assert (answer.status, answer.error.partition(":")[0]) == ("INVALID_ARGUMENT", "INPUT_OUT_OF_RANGE")


async def test_a_request_may_have_a_timeout(triton: Triton, client: Client) -> None:
    """Triton's parameter, in microseconds, 0 for none: what has not begun to run by then is not applied."""
    requests = [START, *(replace(STEP, timeout=timeout) for timeout in (30_000_000, 1, 0))]
    (answers,) = await triton.infer("sync", requests)
    assert [answer.status for answer in answers] == [None, None, "DEADLINE_EXCEEDED", None]
    assert [answers[each].seq for each in (0, 1, 3)] == [0, 1, 2]
