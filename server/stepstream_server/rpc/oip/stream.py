"""One ModelStreamInfer call: requests of any models and sequences, answered one by one in their order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from stepstream_proto.oip.v2 import oip_pb2
from stepstream_server.errors import StepStreamError
from stepstream_server.rpc.callers import Party
from stepstream_server.rpc.oip.layouts import Layouts
from stepstream_server.rpc.oip.requests import LONGEST_ID, Request, decode_request
from stepstream_server.rpc.oip.responses import encode_failure, encode_in_stream, encode_response, translate
from stepstream_server.rpc.one_shot import Asked, Caller
from stepstream_server.rpc.quotas import Pace
from stepstream_server.rpc.stream.call import Call, Common
from stepstream_server.rpc.stream.flow_control import Credits, Flow, Lookahead

_FOREVER = float("inf")
_OBJECT_BYTES = 512  # that hold a response in memory, beside its bytes
_GRPC_ERRORS = "triton_grpc_error"  # of a call's metadata: the first error ends the call, with its status


class _Place(Asked):
    """A request's place among the responses; it keeps what the response is made of until then."""

    __slots__ = ("_stream", "credits", "error", "id", "request", "response")

    def __init__(self, stream: InferStream, id: str, request: Request | None) -> None:
        """request: None if it was not understood."""
        self._stream = stream
        self.id = id
        self.request = request
        self.response: bytes | None = None  # None: not ready
        self.error: StepStreamError | None = None
        if request is None:
            super().__init__(0, 0)
            self.credits = 1
        else:
            super().__init__(request.layout.rows, request.layout.steps)
            self.credits = request.layout.credits

    def done(self) -> None:
        self._stream.answer(self)


class InferStream(Call):
    """On the event loop's thread. What a client has not read yet is bounded by credits, as on a stream of our own contract."""

    def __init__(
        self,
        number: int,
        party: Party,
        common: Common,
        *,
        layouts: Layouts,
        grpc_errors: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        flow = Flow(Credits(common.settings.stream_credit_steps), Lookahead(), Pace(common.quotas, party.tenant))
        super().__init__(self._take, self._respond, party, flow, common)
        self._layouts = layouts
        self._grpc_errors = grpc_errors
        self._clock = clock
        self._caller = Caller(number)
        self._places: deque[_Place] = deque()  # of requests that are not answered yet, in their order
        self._held_bytes = 0  # of responses that wait, nearly

    @property
    def unread_bytes(self) -> int:
        """What waits to be written, nearly."""
        return self._held_bytes

    def drain(self, seconds: float, *, resume: bool) -> None:
        """The protocol has no words for it: clients hear of it by their next request."""

    def let_go(self) -> None:
        """Drops what is queued and what is unread. The sequences live on."""
        self._caller.leave()
        self._places.clear()
        self._hold(-self._held_bytes)

    def answer(self, place: _Place) -> None:
        """All that a response is made of is there."""
        if place.request is not None:
            try:
                self._fill(place, encode_in_stream(encode_response(place.request, place.outcomes)))
            except StepStreamError as error:
                self._fail(place, error)

    def _take(self, message: oip_pb2.ModelInferRequest) -> None:
        try:
            request = decode_request(message, self._layouts, self._party.tenant, self._clock(), _FOREVER)
        except StepStreamError as error:
            self._fail(self._enter(_Place(self, message.id[:LONGEST_ID], None)), error)
            return
        place = self._enter(_Place(self, request.id, request))
        try:
            self._caller.ask(request.layout.engine, request.steps, place)
            self._flow.lookahead.sent(request.layout.engine)
            self._flow.pace.take(request.layout.rows * request.layout.steps)
        except StepStreamError as error:
            self._fail(place, error)

    def _enter(self, place: _Place) -> _Place:
        """Takes its place behind the requests before it."""
        self._places.append(place)
        self._credits.take(place.credits)
        return place

    def _respond(self) -> tuple[bytes, int] | None:
        """The response whose turn it is, if it is ready. Raises StepStreamError where errors end the call."""
        place = self._places[0] if self._places else None
        if place is None or place.response is None:
            return None
        self._places.popleft()
        if place.error is not None and self._grpc_errors:
            raise place.error
        self._hold(-len(place.response) - _OBJECT_BYTES)
        return place.response, place.credits

    def _fail(self, place: _Place, error: StepStreamError) -> None:
        place.error = error
        self._fill(place, encode_failure(place.id, translate(error)))

    def _fill(self, place: _Place, response: bytes) -> None:
        place.response = response
        place.request, place.outcomes = None, []  # what it was made of: nobody counts that
        self._hold(len(response) + _OBJECT_BYTES)
        if self._places and self._places[0] is place:
            self.grown()
        elif self._unread.bytes > self._unread.limit:
            self._unread.on_full()

    def _hold(self, size: int) -> None:
        self._held_bytes += size
        self._unread.bytes += size


def wants_grpc_errors(metadata: Iterable[tuple[str, Any]] | None) -> bool:
    """Whether a call's metadata asks for errors as statuses rather than in their places."""
    return dict(metadata or ()).get(_GRPC_ERRORS) == "true"
