"""What a test asks of `tritonclient`, and what it hears: the parent's side of `driver.py`."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from support.oip.process import Driver

Array = NDArray[Any]
Way = Literal["sync", "sync_stream", "aio", "aio_stream", "cut"]
WAYS: tuple[Way, ...] = ("sync", "sync_stream", "aio", "aio_stream")
STREAMS: tuple[Way, ...] = ("sync_stream", "aio_stream")
DATATYPES = {"<f4": "FP32", "<f8": "FP64", "<f2": "FP16", "<i8": "INT64", "<i4": "INT32", "|b1": "BOOL"}


@dataclass(frozen=True)
class Tensor:
    """An input. data: texts for a tensor of BYTES. claims: `shape`, `datatype` that the message says instead of the true ones."""

    name: str
    data: Array | Sequence[str]
    typed: bool = False
    shared: bool = False
    claims: Mapping[str, Any] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        """For the driver."""
        how = {"name": self.name, "typed": self.typed, "shared": self.shared, "claims": self.claims}
        if not isinstance(self.data, np.ndarray):
            return {**how, "datatype": "BYTES", "shape": [len(self.data)], "data": list(self.data)}
        dtype, data = self.data.dtype.str, base64.b64encode(self.data.tobytes()).decode()
        return {**how, "datatype": DATATYPES[dtype], "dtype": dtype, "shape": list(self.data.shape), "data": data}


@dataclass(frozen=True)
class Request:
    """A request of one sequence or, with tensors that say so, of several. seq: parameter `sequence_step`."""

    model: str
    inputs: Sequence[Tensor]
    sequence: int | str = 0
    start: bool = False
    end: bool = False
    seq: int | None = None
    id: str = ""
    version: str = ""
    outputs: Sequence[str] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    timeout: int | None = None  # microseconds
    compression: str = ""  # "gzip" or "deflate"; not on streams
    patch: Mapping[str, Any] | None = None  # JSON of what the message is to hold besides

    def told(self) -> dict[str, Any]:
        """For the driver."""
        parameters = dict(self.parameters) if self.seq is None else {**self.parameters, "sequence_step": self.seq}
        request = {
            "model_name": self.model,
            "model_version": self.version,
            "inputs": [tensor.told() for tensor in self.inputs],
            "outputs": list(self.outputs),
            "request_id": self.id,
            "sequence_id": self.sequence,
            "sequence_start": self.start,
            "sequence_end": self.end,
            "timeout": self.timeout,
            "compression": self.compression,
            "parameters": parameters,
        }
        return request if self.patch is None else {**request, "patch": self.patch}


@dataclass(frozen=True)
class Answer:
    """What came of a request: outputs, or an error."""

    id: str = ""
    model: tuple[str, str] = ("", "")
    parameters: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Array] = field(default_factory=dict)
    error: str = ""
    status: str | None = None
    """The status code's name; None for an error that came in a response of a stream."""

    @property
    def seq(self) -> int:
        """The first step applied."""
        return int(self.parameters["sequence_step"])


def _answer(told: Mapping[str, Any]) -> Answer:
    if "error" in told:
        status = told["status"]
        return Answer(error=told["error"], status=status and status.removeprefix("StatusCode."))
    outputs = {output["name"]: _array(output) for output in told["outputs"]}
    name, version = told["model"]
    return Answer(told["id"], (name, version), told["parameters"], outputs)


def _array(output: Mapping[str, Any]) -> Array:
    if output["datatype"] == "BYTES":
        return np.array(output["data"], np.object_).reshape(output["shape"])
    return np.frombuffer(base64.b64decode(output["data"]), output["dtype"]).reshape(output["shape"])


class Refused(Exception):
    """A call of the client other than an inference that the server refused."""


class Triton:
    """`tritonclient`, talking to one server; it does one thing after the other."""

    def __init__(self, driver: Driver, address: str) -> None:
        self._driver = driver
        self._address = address

    async def infer(
        self, way: Way, *lanes: Sequence[Request], at_once: bool = False, headers: Mapping[str, str] | None = None
    ) -> list[list[Answer]]:
        """Each lane's requests by a client of its own; at_once: without waiting for answers. Outcomes by lane, in the order in
        which they came on a stream, in the order of the requests otherwise."""
        told = [[request.told() for request in lane] for lane in lanes]
        done = await self._do(do="infer", way=way, lanes=told, at_once=at_once, headers=dict(headers or {}))
        return [[_answer(each) for each in lane] for lane in done]

    async def one(self, request: Request, way: Way = "sync") -> Answer:
        """A request's outcome."""
        (answer,) = (await self.infer(way, [request]))[0]
        return answer

    async def call(self, name: str, /, way: Literal["sync", "aio"] = "sync", **given: Any) -> Any:
        """A method of the client by its name. Raises Refused."""
        done = await self._do(do="call", way=way, name=name, given=given)
        if "error" in done:
            answer = _answer(done)
            raise Refused(f"{answer.status}: {answer.error}")
        return done["value"]

    async def _do(self, **command: Any) -> Any:
        return await self._driver.do({"address": self._address, **command})


# Requests ------------------------------------------------------------------------------------------------------------


def reading(*millivolts: float) -> Tensor:
    """The input of `ecg`: [1, 1] for one step, [1, T, 1] for more."""
    data = np.array(millivolts, "<f4")
    return Tensor("mv", data.reshape((1, 1) if len(data) == 1 else (1, -1, 1)))


def sequence(id: int | str, *millivolts: float, **more: Any) -> list[Request]:
    """A sequence for `ecg` from its start to its end, a request for each reading."""
    first = Request("ecg", [reading(0.0)], id, **more)
    steps = [replace(first, inputs=[reading(each)], id=f"{id}/{step}") for step, each in enumerate(millivolts)]
    steps[0] = replace(steps[0], start=True)
    steps[-1] = replace(steps[-1], end=True)
    return steps
