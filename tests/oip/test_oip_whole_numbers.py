"""A program of whole numbers driven by an unmodified `tritonclient`: int32 in and out, an int32 state that begins at 100."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from stepstream_server.bundles import write_program
from support.graphs import counting
from support.oip.triton import STREAMS, WAYS, Answer, Request, Tensor, Triton, Way

MODEL = "counting"


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the program, which adds its input to a sum that begins at 100, and fails at the input 13."""
    folder = tmp_path_factory.mktemp("models")
    write_program(folder / MODEL, *counting(MODEL))
    return folder


def numbers(*values: int, dtype: str = "<i4") -> Tensor:
    """The input: [1, 1] for one step, [1, T, 1] for more."""
    data = np.array(values, dtype)
    return Tensor("x", data.reshape((1, 1) if len(data) == 1 else (1, -1, 1)))


def sequence(id: int | str, values: Sequence[int]) -> list[Request]:
    """A sequence from its start to its end, a request for each number."""
    last = len(values) - 1
    return [
        Request(MODEL, [numbers(value)], id, start=step == 0, end=step == last, id=f"{id}/{step}")
        for step, value in enumerate(values)
    ]


def sums(values: Sequence[int]) -> list[int]:
    """Sums that the program answers."""
    return list(itertools.accumulate(values, initial=100))[1:]


def outputs(answers: Sequence[Answer]) -> list[int]:
    """The number of each answer, which is of the type that was declared."""
    for answer in answers:
        assert not answer.error
        assert answer.outputs["y"].dtype == np.int32
    return [int(answer.outputs["y"].item()) for answer in answers]


@pytest.mark.parametrize("way", STREAMS)
async def test_sequences_in_flight_on_one_stream(triton: Triton, way: Way) -> None:
    """Named by numbers and by texts, in turns and without waiting: each its own sums, request ids echoed."""
    ids: list[int | str] = [1, "line-a", 2**40, "line-b", 7]
    wanted = {id: [20 * place + step for step in range(1, 9)] for place, id in enumerate(ids)}
    lanes = [sequence(id, wanted[id]) for id in ids]
    requests = [request for step in zip(*lanes, strict=True) for request in step]
    (answers,) = await triton.infer(way, requests, at_once=True)
    assert [answer.id for answer in answers] == [request.id for request in requests]
    for id in ids:
        mine = [answer for answer, request in zip(answers, requests, strict=True) if request.sequence == id]
        assert outputs(mine) == sums(wanted[id])
        assert [answer.seq for answer in mine] == list(range(8))


@pytest.mark.parametrize("way", WAYS)
async def test_a_sequence_begins_at_the_stored_state_each_time(triton: Triton, way: Way) -> None:
    """Start and end as they are said; several steps in one request are one after the other."""
    requests = [*sequence(3, [5, 6]), *sequence(3, [1])]
    (answers,) = await triton.infer(way, requests)
    assert outputs(answers) == [105, 111, 101]
    answer = await triton.one(Request(MODEL, [numbers(1, 2, 3)], 4, start=True, end=True), way)
    assert answer.outputs["y"].tolist() == [[[101], [103], [106]]]


async def test_metadata_and_configuration_say_int32(triton: Triton) -> None:
    """Inputs, outputs and the state."""
    metadata = await triton.call("get_model_metadata", model_name=MODEL, as_json=True)
    assert [(each["name"], each["datatype"], each["shape"]) for each in metadata["inputs"]] == [("x", "INT32", ["-1", "1"])]
    assert [(each["name"], each["datatype"]) for each in metadata["outputs"]] == [("y", "INT32")]
    config = (await triton.call("get_model_config", model_name=MODEL, as_json=True))["config"]
    assert config["input"][0]["data_type"] == config["output"][0]["data_type"] == "TYPE_INT32"
    assert config["sequence_batching"]["state"][0]["data_type"] == "TYPE_INT32"
    assert config["parameters"]["cell"]["string_value"] == "program"


async def test_whole_numbers_of_other_sizes(triton: Triton) -> None:
    """They are taken where int32 holds them, and refused by name where not."""
    answer = await triton.one(Request(MODEL, [numbers(-7, dtype="<i8")], 5, start=True))
    assert answer.outputs["y"].tolist() == [[93]]
    answer = await triton.one(Request(MODEL, [numbers(2**31, dtype="<i8")], 5))
    assert answer.status == "INVALID_ARGUMENT"
    assert answer.error.startswith(
        "INPUT_OUT_OF_RANGE: inputs[x]: expected numbers from -2147483648 to 2147483647, got 2147483648"
    )
    answer = await triton.one(Request(MODEL, [Tensor("x", np.array([[1.5]], "<f4"))], 5))
    assert answer.error.startswith("INVALID_ARGUMENT: inputs[x]: expected")


async def test_a_step_at_which_the_program_fails(triton: Triton) -> None:
    """It is refused with the reason, the sequence is quarantined, and its next start is welcome."""
    (answers,) = await triton.infer("aio", [*sequence(6, [1, 13, 2])[:3], *sequence(6, [4])])
    assert [answer.error.partition(":")[0] for answer in answers] == ["", "MODEL_FAILED", "SESSION_QUARANTINED", ""]
    assert answers[3].outputs["y"].tolist() == [[104]]
