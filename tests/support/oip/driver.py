"""Drives an unmodified `tritonclient`: commands as JSON lines on stdin, what a server answered as JSON lines on stdout.

A process of its own, as a user's would be: it knows nothing of StepStream, not even its messages.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as aio
from google.protobuf import json_format
from tritonclient.grpc._utils import _get_inference_request
from tritonclient.utils import InferenceServerException

Json = dict[str, Any]
CONTENTS = {"FP32": "fp32_contents", "INT64": "int64_contents", "BOOL": "bool_contents", "BYTES": "bytes_contents"}
DEFAULTS = {
    "model_version": "", "outputs": None, "request_id": "", "sequence_id": 0, "sequence_start": False, "sequence_end": False,
    "priority": 0, "timeout": None, "parameters": None,
}  # fmt: skip


# Requests ------------------------------------------------------------------------------------------------------------


def arguments(request: Json) -> Json:
    """A request's arguments, as every call of `tritonclient` takes them."""
    plain = {name: request[name] for name in request if name in DEFAULTS or name == "model_name"}
    if request.get("compression"):
        plain["compression_algorithm"] = request["compression"]
    plain["inputs"] = [_input(tensor) for tensor in request["inputs"]]
    if request.get("outputs"):
        plain["outputs"] = [triton.InferRequestedOutput(name) for name in request["outputs"]]
    return plain


def _input(tensor: Json) -> triton.InferInput:
    """shared: in a shared memory region. typed: elements rather than raw bytes. claims: what the message is to say wrongly."""
    array: np.ndarray[Any, Any]
    if tensor["datatype"] == "BYTES":
        array = np.array([text.encode() for text in tensor["data"]], np.object_).reshape(tensor["shape"])
    else:
        array = np.frombuffer(base64.b64decode(tensor["data"]), tensor["dtype"]).reshape(tensor["shape"])
    made = triton.InferInput(tensor["name"], list(array.shape), tensor["datatype"])
    if tensor.get("shared"):
        return made.set_shared_memory("region", array.nbytes)
    made.set_data_from_numpy(array)
    if tensor.get("typed"):
        getattr(made._get_tensor().contents, CONTENTS[tensor["datatype"]]).extend(array.ravel().tolist())
        made._raw_content = None
    claims = tensor.get("claims", {})
    made.set_shape(claims.get("shape", tensor["shape"]))
    made._get_tensor().datatype = claims.get("datatype", tensor["datatype"])
    return made


def message(request: Json) -> Any:
    """The request as `tritonclient` would send it, changed by `patch` where its arguments cannot say what a test wants."""
    made = _get_inference_request(**{**DEFAULTS, **arguments(request)})
    made.MergeFrom(json_format.ParseDict(request["patch"], type(made)()))
    return made


# Answers -------------------------------------------------------------------------------------------------------------


def told(result: triton.InferResult | None, error: Exception | None) -> Json:
    """What came of a request."""
    if result is None:
        if isinstance(error, grpc.RpcError):  # an asynchronous stream that ends with a status
            return {"error": error.details(), "status": str(error.code())}
        assert isinstance(error, InferenceServerException)
        return {"error": error.message(), "status": error.status()}
    response = result.get_response()
    return {
        "id": response.id,
        "model": [response.model_name, response.model_version],
        "parameters": {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in response.parameters.items()},
        "outputs": [_output(result, output) for output in response.outputs],
    }


def _output(result: triton.InferResult, output: Any) -> Json:
    array = result.as_numpy(output.name)
    shape = {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
    if output.datatype == "BYTES":
        return {**shape, "data": [each.decode() for each in array.ravel()]}
    return {**shape, "dtype": array.dtype.str, "data": base64.b64encode(array.tobytes()).decode()}


# Ways of asking ------------------------------------------------------------------------------------------------------


def unary(client: triton.InferenceServerClient, requests: list[Json], at_once: bool, headers: Json) -> list[Json]:
    """`infer`, one after the other, or `async_infer`, all begun before the first is answered."""
    if not at_once:
        return [_infer(client, request, headers) for request in requests]
    answers: list[Json] = [{}] * len(requests)
    done = threading.Semaphore(0)

    def answered(place: int) -> Callable[..., None]:
        def callback(result: Any, error: Any) -> None:
            answers[place] = told(result, error)
            done.release()

        return callback

    for place, request in enumerate(requests):
        client.async_infer(callback=answered(place), headers=headers, **arguments(request))
    for _ in requests:
        done.acquire()
    return answers


def _infer(client: triton.InferenceServerClient, request: Json, headers: Json) -> Json:
    try:
        if "patch" in request:
            sent = message(request)
            return told(triton.InferResult(client._client_stub.ModelInfer(sent, metadata=tuple(headers.items()))), None)
        return told(client.infer(headers=headers, **arguments(request)), None)
    except (InferenceServerException, grpc.RpcError) as error:
        return told(None, error)


def stream(client: triton.InferenceServerClient, requests: list[Json], at_once: bool, headers: Json) -> list[Json]:
    """`start_stream` and `async_stream_infer`. A stream that has ended answers no more."""
    heard: SimpleQueue[Json] = SimpleQueue()
    client.start_stream(callback=lambda result, error: heard.put(told(result, error)), headers=headers)
    answers: list[Json] = []

    def listen() -> bool:
        answers.append(heard.get())
        return bool(answers[-1].get("status"))

    ended = False
    for request in requests:
        try:
            if "patch" in request:
                client._stream._enqueue_request(message(request))
            else:
                client.async_stream_infer(**arguments(request))
        except InferenceServerException:  # the stream has ended: why is heard next
            break
        if not at_once and (ended := listen()):
            break
    while not ended and len(answers) < len(requests):
        ended = listen()
    client.stop_stream(cancel_requests=ended)
    while not heard.empty():
        answers.append(heard.get())
    return answers


def cut(client: triton.InferenceServerClient, requests: list[Json], at_once: bool, headers: Json) -> list[Json]:
    """A stream that is cancelled after its first answer, with all the other requests under way."""
    heard: SimpleQueue[Json] = SimpleQueue()
    client.start_stream(callback=lambda result, error: heard.put(told(result, error)), headers=headers)
    for request in requests:
        client.async_stream_infer(**arguments(request))
    first = heard.get()
    client.stop_stream(cancel_requests=True)
    return [first]


async def unary_aio(client: aio.InferenceServerClient, requests: list[Json], at_once: bool, headers: Json) -> list[Json]:
    """`infer` of the asynchronous client, one after the other or all at once."""

    async def one(request: Json) -> Json:
        try:
            return told(await client.infer(headers=headers, **arguments(request)), None)
        except InferenceServerException as error:
            return told(None, error)

    if at_once:
        return list(await asyncio.gather(*map(one, requests)))
    return [await one(request) for request in requests]


async def stream_aio(client: aio.InferenceServerClient, requests: list[Json], at_once: bool, headers: Json) -> list[Json]:
    """`stream_infer` of the asynchronous client."""
    turn = asyncio.Semaphore(len(requests) if at_once else 1)

    async def asked() -> AsyncIterator[Json]:
        for request in requests:
            await turn.acquire()
            yield arguments(request)

    answers = []
    try:
        async for result, error in client.stream_infer(asked(), headers=headers):
            answers.append(told(result, error))
            turn.release()
    except grpc.RpcError as error:
        answers.append(told(None, error))
    return answers


# Commands ------------------------------------------------------------------------------------------------------------


def infer(address: str, way: str, lanes: list[list[Json]], at_once: bool, headers: Json) -> list[list[Json]]:
    """Each lane's requests by a client of its own, all lanes at the same time."""
    if way in ("aio", "aio_stream"):
        return asyncio.run(_infer_aio(address, unary_aio if way == "aio" else stream_aio, lanes, at_once, headers))
    play = {"sync": unary, "sync_stream": stream, "cut": cut}[way]

    def lane(requests: list[Json]) -> list[Json]:
        with triton.InferenceServerClient(address) as client:
            return play(client, requests, at_once, headers)

    with ThreadPoolExecutor(len(lanes)) as pool:
        return list(pool.map(lane, lanes))


async def _infer_aio(address: str, play: Any, lanes: list[list[Json]], at_once: bool, headers: Json) -> list[list[Json]]:
    async def lane(requests: list[Json]) -> list[Json]:
        async with aio.InferenceServerClient(address) as client:
            answers: list[Json] = await play(client, requests, at_once, headers)
            return answers

    return list(await asyncio.gather(*map(lane, lanes)))


def call(address: str, way: str, name: str, given: Json) -> Json:
    """One of the client's other methods, by its name."""
    try:
        if way == "aio":
            return {"value": asyncio.run(_call_aio(address, name, given))}
        with triton.InferenceServerClient(address) as client:
            return {"value": getattr(client, name)(**given)}
    except InferenceServerException as error:
        return told(None, error)


async def _call_aio(address: str, name: str, given: Json) -> Any:
    async with aio.InferenceServerClient(address) as client:
        return await getattr(client, name)(**given)


def main() -> None:
    """Answers commands until stdin ends."""
    for line in sys.stdin:
        command = json.loads(line)
        do = infer if command.pop("do") == "infer" else call
        print(json.dumps(do(**command)), flush=True)


if __name__ == "__main__":
    main()
