"""Tokens in requests of the Open Inference Protocol: whole numbers of whatever size, raw or listed, and what is no token."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import numpy as np
import pytest

from stepstream_proto.oip.v2 import oip_pb2
from support.front_door import FrontDoor, front_door
from support.oip.wire import infer
from support.tokens import TOKENS, SpeakingBackend, logits_after, tokens_spec

LISTED = {
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
}


@pytest.fixture
async def speaking() -> AsyncIterator[FrontDoor]:
    """A model of TOKENS tokens, served."""
    async with front_door("speaker", spec=lambda name: tokens_spec(), backend=SpeakingBackend) as front:
        yield front


def request(datatype: str, tokens: list[int], *, raw: bool) -> oip_pb2.ModelInferRequest:
    """A sequence of these tokens, one step each."""
    made = oip_pb2.ModelInferRequest(model_name="speaker")
    made.parameters["sequence_id"].int64_param = 1
    made.parameters["sequence_start"].bool_param = True
    tensor = made.inputs.add(name="token", datatype=datatype, shape=[1, len(tokens)])
    if raw:
        made.raw_input_contents.append(np.array(tokens, datatype.lower()).tobytes())
    else:
        getattr(tensor.contents, LISTED[datatype]).extend(tokens)
    return made


async def refusal(front: FrontDoor, wrong: oip_pb2.ModelInferRequest) -> str:
    """What a request that is wrong hears."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await infer(front.channel, wrong)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return str(caught.value.details())


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "listed"])
async def test_tokens_are_whole_numbers_of_any_size(speaking: FrontDoor, raw: bool) -> None:
    """They are the tokens that they say, up to the last of the vocabulary, and no others."""
    tokens = [3, 0, TOKENS - 1]
    for datatype in LISTED:
        response = await infer(speaking.channel, request(datatype, tokens, raw=raw))
        logits = np.frombuffer(response.raw_output_contents[0], "<f4").reshape(3, TOKENS)
        np.testing.assert_array_equal(logits, logits_after(np.cumsum(tokens)), datatype)
        for wrong in (TOKENS, -1 if datatype.startswith("I") else np.iinfo(datatype.lower()).max):
            refused = await refusal(speaking, request(datatype, [0, wrong], raw=raw))
            assert refused.startswith("INPUT_OUT_OF_RANGE: "), datatype


async def test_what_is_no_number_of_its_datatype_is_no_token(speaking: FrontDoor) -> None:
    """Lists have room for more than the smaller datatypes; other kinds of numbers are none at all."""
    for datatype, wrong in (("INT8", 256), ("INT16", -40_000), ("UINT8", 256)):
        refused = await refusal(speaking, request(datatype, [wrong], raw=False))
        assert refused == f"INVALID_ARGUMENT: inputs[token]: expected numbers of datatype {datatype}, got {wrong}"
    wrong_kind = request("INT64", [1], raw=True)
    wrong_kind.inputs[0].datatype = "FP64"
    refused = await refusal(speaking, wrong_kind)
    assert refused.startswith("INVALID_ARGUMENT: inputs[token]: expected datatype INT64 or INT8 or INT16 or INT32 or UINT8 or ")
