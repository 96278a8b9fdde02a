"""Several sequences in one request: tensors SEQUENCE_ID, SEQUENCE_START, SEQUENCE_END and SEQUENCE_STEP beside the inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from stepstream import Client
from support.oip.native import same_tensors, steps
from support.oip.triton import WAYS, Answer, Request, Tensor, Triton, Way

READINGS = np.sin(np.arange(24, dtype="<f4") / 3).reshape(4, 6)  # [sequences, steps]
TEXTS = ["a", "b", "c", "d"]
NUMBERS = np.array([1, 2, 2**63 - 1, -1], "<i8")


def batch(
    ids: Sequence[str] | np.ndarray[tuple[int], np.dtype[np.int64]],
    readings: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    *,
    start: Sequence[bool] | None = None,
    end: Sequence[bool] | None = None,
    seqs: Sequence[int] | None = None,
    outputs: Sequence[str] = (),
    typed: bool = False,
) -> Request:
    """readings: [B], a step each, or [B, T]."""
    inputs = [Tensor("mv", np.ascontiguousarray(readings[..., np.newaxis], "<f4"), typed), Tensor("SEQUENCE_ID", ids, typed)]
    for name, flags in (("SEQUENCE_START", start), ("SEQUENCE_END", end)):
        if flags is not None:
            inputs.append(Tensor(name, np.array(flags, "?"), typed))
    if seqs is not None:
        inputs.append(Tensor("SEQUENCE_STEP", np.array(seqs, "<i8"), typed))
    return Request("ecg", inputs, outputs=outputs)


def errors(answer: Answer) -> list[str]:
    """Each sequence's error's reason; empty for none."""
    return [str(text).partition(":")[0] for text in answer.outputs["SEQUENCE_ERROR"]]


def applied(answer: Answer) -> list[int]:
    """Each sequence's first step."""
    return [int(seq) for seq in answer.outputs["SEQUENCE_STEP"]]


@pytest.mark.parametrize("typed", [False, True], ids=["raw", "listed"])
@pytest.mark.parametrize("ids", [TEXTS, NUMBERS], ids=["texts", "numbers"])
async def test_sequences_of_one_request(triton: Triton, client: Client, ids: Sequence[str], typed: bool) -> None:
    """Start, steps and end of four sequences in a request per step; outputs have the bits of four native sessions."""
    last = READINGS.shape[1] - 1
    requests = [
        batch(ids, column, start=[step == 0] * 4, end=[step == last] * 4, typed=typed) for step, column in enumerate(READINGS.T)
    ]
    (answers,) = await triton.infer("sync", requests)
    expected = [await steps(client, "ecg", row.tolist()) for row in READINGS]
    for step, answer in enumerate(answers):
        assert answer.error == ""
        assert (applied(answer), errors(answer)) == ([step] * 4, [""] * 4)
        outputs = {name: answer.outputs[name] for name in answer.outputs if not name.startswith("SEQUENCE_")}
        same_tensors(outputs, {name: np.stack([row[step][name] for row in expected]) for name in expected[0][0]})
    assert [each.id async for each in client.list_sessions("ecg")] == []


@pytest.mark.parametrize("way", WAYS)
async def test_chunks_of_sequences(triton: Triton, client: Client, way: Way) -> None:
    """[B, T, 1] gives [B, T, 21]."""
    answer = await triton.one(batch(TEXTS, READINGS, start=[True] * 4), way)
    expected = [await steps(client, "ecg", row.tolist()) for row in READINGS]
    (many,) = await triton.infer(way, [batch(TEXTS, READINGS[:, :1], outputs=["SEQUENCE_STEP"])])
    assert answer.outputs["next"].shape == (4, 6, 21)
    np.testing.assert_array_equal(
        answer.outputs["next"], np.stack([[outputs["next"] for outputs in row] for row in expected]), strict=True
    )
    assert applied(many[0]) == [6] * 4
    assert list(many[0].outputs) == ["SEQUENCE_STEP"]


async def test_single_and_several_are_the_same_sequences(triton: Triton, client: Client) -> None:
    """What one request started goes on in another that names it by a parameter, and the other way round."""
    await triton.one(batch(NUMBERS[:2], READINGS[:2, 0], start=[True, True]))
    one = await triton.one(Request("ecg", [Tensor("mv", READINGS[1:2, 1:2].copy())], 2))
    both = await triton.one(batch(NUMBERS[:2], READINGS[:2, 2]))
    expected = await steps(client, "ecg", READINGS[1, :3].tolist())
    np.testing.assert_array_equal(one.outputs["next"][0], expected[1]["next"])
    np.testing.assert_array_equal(both.outputs["next"][1], expected[2]["next"])
    assert applied(both) == [1, 2]


@pytest.mark.own_server
@pytest.mark.parametrize("way", ["sync", "aio_stream"])
async def test_a_sequence_that_fails_harms_no_other(triton: Triton, client: Client, way: Way) -> None:
    """Its error is in its place, with outputs that are no numbers; the request and the others succeed."""
    await triton.one(batch(["a", "b", "over"], READINGS[:3, 0], start=[True] * 3, end=[False, False, True]))
    readings = READINGS[:, 1].copy()
    readings[1] = np.nan
    answer = await triton.one(batch(["a", "b", "c", "over"], readings, start=[False] * 4), way)
    assert errors(answer) == ["", "NON_FINITE_INPUT", "SESSION_NOT_FOUND", "SESSION_CLOSED"]
    assert applied(answer) == [1, -1, -1, -1]
    assert "START flag" in answer.outputs["SEQUENCE_ERROR"][2]
    expected = await steps(client, "ecg", READINGS[0, :2].tolist())
    np.testing.assert_array_equal(answer.outputs["next"][0], expected[1]["next"])
    assert np.isnan(answer.outputs["next"][1:]).all()
    assert (await client.get_session("ecg", "b")).next_seq == 1


async def test_numbered_steps_of_several_sequences(triton: Triton, client: Client) -> None:
    """SEQUENCE_STEP makes each row exactly once; -1 leaves a row to the next free number."""
    await triton.one(batch(TEXTS, READINGS[:, 0], start=[True] * 4))
    request = batch(TEXTS, READINGS[:, 1], seqs=[1, 1, -1, 5])
    first, again = (await triton.infer("sync", [request, request]))[0]
    assert (applied(first), applied(again)) == ([1, 1, 1, -1], [1, 1, 2, -1])
    assert errors(first) == errors(again) == ["", "", "", "SEQUENCE_MISMATCH"]
    assert first.outputs["next"][:2].tobytes() == again.outputs["next"][:2].tobytes()
    assert [(await client.get_session("ecg", id)).next_seq for id in TEXTS] == [2, 2, 3, 1]


async def test_starts_and_ends_of_some(triton: Triton, client: Client) -> None:
    """Flags count for their own row: one begins again, one ends, one goes on."""
    await triton.one(batch(["a", "b", "c"], READINGS[:3, 0], start=[True] * 3))
    answer = await triton.one(batch(["a", "b", "c"], READINGS[:3, 1], start=[True, False, False], end=[False, True, False]))
    assert (applied(answer), errors(answer)) == ([0, 1, 1], ["", "", ""])
    assert {each.id: each.next_seq async for each in client.list_sessions("ecg")} == {"a": 1, "c": 2}
