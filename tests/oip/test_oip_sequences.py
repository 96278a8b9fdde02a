"""An unmodified `tritonclient` steps sequences in every way it has, and gets the bits that the native client gets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stepstream import Client, SessionClosed
from support.oip.native import same_bits, same_tensors, steps
from support.oip.triton import STREAMS, WAYS, Request, Tensor, Triton, Way, reading, sequence

READINGS = [-1.20, -1.24, -1.29, 0.40, -1.34]
OTHERS = [0.10, 0.25, -0.75, 1.5, 0.5]


@pytest.mark.parametrize("way", WAYS)
async def test_a_sequence_is_a_session(triton: Triton, client: Client, way: Way) -> None:
    """From start to end: the bits of the native API, steps counted, ids returned, and closed behind its last step."""
    (answers,) = await triton.infer(way, sequence(7, *READINGS))
    same_bits(answers, await steps(client, "ecg", READINGS))
    assert [answer.seq for answer in answers] == [0, 1, 2, 3, 4]
    assert [answer.id for answer in answers] == [f"7/{step}" for step in range(5)]
    assert {answer.model for answer in answers} == {("ecg", "1")}
    with pytest.raises(SessionClosed):
        await client.get_session("ecg", "int:7")


@pytest.mark.parametrize(
    ("sequence_id", "session_id"),
    [
        (1, "int:1"),
        (2**63 - 1, f"int:{2**63 - 1}"),
        (-1, f"int:{2**64 - 1}"),
        (-(2**63), f"int:{2**63}"),
        ("bed-7", "bed-7"),
        ("7", "7"),
        ("A.b_c:d-" + "e" * 120, "A.b_c:d-" + "e" * 120),
    ],
)
@pytest.mark.parametrize("way", ["sync", "aio_stream"])
async def test_ids_name_sessions(triton: Triton, client: Client, sequence_id: int | str, session_id: str, way: Way) -> None:
    """Strings as they stand, integers behind a prefix: signed on the wire, unsigned as C++ clients mean them."""
    (answers,) = await triton.infer(way, [replace(request, end=False) for request in sequence(sequence_id, *READINGS)])
    same_bits(answers, await steps(client, "ecg", READINGS))
    assert [each.id async for each in client.list_sessions("ecg")] == [session_id]


async def test_an_unsigned_id_is_the_same_sequence(triton: Triton, client: Client) -> None:
    """What one client sends as `uint64_param` another sends as a negative `int64_param`."""
    start, step = sequence(-3, *READINGS)[:2]
    unsigned = {"parameters": {"sequence_id": {"uint64Param": str(2**64 - 3)}}}
    (answers,) = await triton.infer("sync", [start, replace(step, patch=unsigned)])
    same_bits(answers, await steps(client, "ecg", READINGS[:2]))


@pytest.mark.parametrize("way", WAYS)
async def test_sequences_interleave_on_one_connection(triton: Triton, client: Client, way: Way) -> None:
    """Each keeps its own state, whatever runs between its steps."""
    pairs = zip(sequence(1, *READINGS), sequence("one", *OTHERS), strict=True)
    (answers,) = await triton.infer(way, [request for pair in pairs for request in pair])
    same_bits(answers[::2], await steps(client, "ecg", READINGS))
    same_bits(answers[1::2], await steps(client, "ecg", OTHERS))


@pytest.mark.parametrize("way", STREAMS)
async def test_requests_of_a_stream_need_not_wait(triton: Triton, client: Client, way: Way) -> None:
    """Steps of one sequence that are under way together are applied in order, and so are those of its neighbours; responses come
    in the order of the requests."""
    many = [np.sin(np.arange(20) / (phase + 2)).tolist() for phase in range(8)]
    sequences = [sequence(1 + phase, *values) for phase, values in enumerate(many)]
    requests = [request for step in zip(*sequences, strict=True) for request in step]
    (answers,) = await triton.infer(way, requests, at_once=True)
    assert [answer.id for answer in answers] == [request.id for request in requests]
    for phase, values in enumerate(many):
        same_bits(answers[phase::8], await steps(client, "ecg", values))


@pytest.mark.parametrize("way", WAYS)
async def test_clients_side_by_side(triton: Triton, client: Client, way: Way) -> None:
    """Several clients, each with a stream and sequences of its own, at the same time."""
    many = [np.cos(np.arange(12) / (phase + 2)).tolist() for phase in range(6)]
    lanes = await triton.infer(way, *[sequence(f"lane-{phase}", *values) for phase, values in enumerate(many)])
    for values, answers in zip(many, lanes, strict=True):
        same_bits(answers, await steps(client, "ecg", values))


@pytest.mark.parametrize("way", ["sync", "aio"])
async def test_calls_of_many_sequences_at_once(triton: Triton, client: Client, way: Way) -> None:
    """`async_infer` and gathered `infer`: calls of different sequences that are all under way together."""
    starts = [sequence(id, value)[0] for id, value in enumerate(OTHERS, 1)]
    (answers,) = await triton.infer(way, starts, at_once=True)
    same_bits(answers, [(await steps(client, "ecg", [value]))[0] for value in OTHERS])


async def test_a_sequence_is_bound_to_no_stream(triton: Triton, client: Client) -> None:
    """One client starts it on a stream, others go on by a call, on another stream, and so on: the server knows it by its id."""
    requests, answers = sequence(99, *READINGS), []
    for way, request in zip((*WAYS, "sync_stream"), requests, strict=True):
        answers.append(await triton.one(request, way))
    same_bits(answers, await steps(client, "ecg", READINGS))


@pytest.mark.parametrize("way", WAYS)
async def test_several_steps_in_one_request(triton: Triton, client: Client, way: Way) -> None:
    """[1, T, 1] gives [1, T, 21], the bits of T requests, and single steps go on from there."""
    start, _, _, _, end = sequence(5, *READINGS)
    chunk = Request("ecg", [reading(*READINGS[1:4])], 5)
    (answers,) = await triton.infer(way, [start, chunk, end])
    expected = await steps(client, "ecg", READINGS)
    same_bits([answers[0], answers[2]], [expected[0], expected[4]])
    same_tensors(answers[1].outputs, {name: np.stack([each[name] for each in expected[1:4]])[np.newaxis] for name in expected[0]})
    assert [answer.seq for answer in answers] == [0, 1, 4]


@pytest.mark.parametrize("way", ["sync", "sync_stream"])
async def test_a_whole_sequence_in_one_request(triton: Triton, client: Client, way: Way) -> None:
    """Start, all steps and end."""
    answer = await triton.one(Request("ecg", [reading(*READINGS)], 5, start=True, end=True), way)
    expected = await steps(client, "ecg", READINGS)
    same_tensors(answer.outputs, {name: np.stack([each[name] for each in expected])[np.newaxis] for name in expected[0]})
    with pytest.raises(SessionClosed):
        await client.get_session("ecg", "int:5")


@pytest.mark.parametrize("way", WAYS)
async def test_only_the_outputs_asked_for_come_back(triton: Triton, client: Client, way: Way) -> None:
    """Those and no others, each with its own numbers."""
    request = replace(sequence(5, READINGS[0])[0], outputs=["ahead_27", "next"])
    answer = await triton.one(request, way)
    (expected,) = await steps(client, "ecg", READINGS[:1])
    assert set(answer.outputs) == {"next", "ahead_27"}
    for name, array in answer.outputs.items():
        np.testing.assert_array_equal(array, expected[name][np.newaxis])


@pytest.mark.parametrize("way", WAYS)
async def test_inputs_may_be_listed(triton: Triton, client: Client, way: Way) -> None:
    """Elements as `contents` instead of raw bytes mean the same."""
    requests = sequence(5, *READINGS)
    listed = [replace(request, inputs=[replace(request.inputs[0], typed=True)]) for request in requests]
    (answers,) = await triton.infer(way, listed)
    same_bits(answers, await steps(client, "ecg", READINGS))


@pytest.mark.parametrize("typed", [False, True], ids=["raw", "listed"])
@pytest.mark.parametrize("shape", [(1,), (1, 1)], ids=str)
async def test_tokens(triton: Triton, client: Client, shape: tuple[int, ...], typed: bool) -> None:
    """int64 inputs of no dimension: [1], or [1, 1] as the model's configuration has it."""
    tokens = [3, 0, 4, 4, 1]
    inputs = [[Tensor("x", np.full(shape, token, "<i8"), typed=typed)] for token in tokens]
    (answers,) = await triton.infer("sync", [Request("tokens", each, 5, start=not step) for step, each in enumerate(inputs)])
    same_bits(answers, await steps(client, "tokens", tokens))


@pytest.mark.parametrize("shape", [(1, 5), (1, 5, 1)], ids=str)
async def test_several_tokens_in_one_request(triton: Triton, client: Client, shape: tuple[int, ...]) -> None:
    """[1, T] and [1, T, 1] give [1, T, 5]."""
    tokens = [3, 0, 4, 4, 1]
    answer = await triton.one(Request("tokens", [Tensor("x", np.reshape(tokens, shape).astype("<i8"))], "poem", start=True))
    expected = await steps(client, "tokens", tokens)
    same_tensors(answer.outputs, {"y": np.stack([each["y"] for each in expected])[np.newaxis]})


@pytest.mark.parametrize(("version", "served"), [("", 2), ("2", 2), ("1", 1)])
async def test_a_version_may_be_chosen(triton: Triton, client: Client, version: str, served: int) -> None:
    """None is the newest; a sequence belongs to one version."""
    values: list[list[float]] = [[1.0, -1.0], [0.5, 0.25]]
    requests = [
        Request("pair", [Tensor("x", np.array([value], "<f4"))], 5, start=not step, version=version)
        for step, value in enumerate(values)
    ]
    (answers,) = await triton.infer("sync", requests)
    same_bits(answers, await steps(client, "pair", values, served))
    assert {answer.model for answer in answers} == {("pair", str(served))}
    assert [each.version async for each in client.list_sessions("pair")] == [served]


async def test_a_sequence_outlives_a_stream_that_is_cut(triton: Triton, client: Client) -> None:
    """What was under way is applied up to some step, without a hole; the sequence goes on from there on another stream."""
    values = np.sin(np.arange(200) / 5).tolist()
    requests = [replace(request, end=False) for request in sequence(5, *values)]
    await triton.infer("cut", requests, at_once=True)
    answer = await triton.one(Request("ecg", [reading(0.5)], 5), "aio_stream")
    assert 1 <= answer.seq <= 200
    same_bits([answer], (await steps(client, "ecg", [*values[: answer.seq], 0.5]))[-1:])


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("way", ["sync", "aio"])
async def test_requests_may_be_compressed(triton: Triton, client: Client, way: Way, algorithm: str) -> None:
    """As the client can be told to."""
    (answers,) = await triton.infer(way, [replace(request, compression=algorithm) for request in sequence(5, *READINGS)])
    same_bits(answers, await steps(client, "ecg", READINGS))
