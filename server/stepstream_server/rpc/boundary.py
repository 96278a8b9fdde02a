"""Around every call of every service: errors become statuses, unknown ones without their text; calls are counted and bounded.

Here is the only table from `Reason` to a gRPC status, and how an error looks on the wire: in band and in trailers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
import structlog
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from stepstream_proto.v1 import common_pb2
from stepstream_server.access import Principal
from stepstream_server.errors import CallerError, Reason, ServerFault, StepStreamError
from stepstream_server.rpc.accepting import Server
from stepstream_server.rpc.authentication import Authentication
from stepstream_server.rpc.callers import Context, principal

DOMAIN = "stepstream.v1"  # of every ErrorInfo: whose reasons these are

_CODES: dict[grpc.StatusCode, tuple[Reason, ...]] = {
    grpc.StatusCode.NOT_FOUND: (
        Reason.MODEL_NOT_FOUND,
        Reason.SESSION_NOT_FOUND,
        Reason.SESSION_CLOSED,
        Reason.SESSION_EXPIRED,
        Reason.SESSION_EVICTED,
        Reason.SESSION_MOVED,
        Reason.HANDLE_UNKNOWN,
    ),
    grpc.StatusCode.ALREADY_EXISTS: (Reason.SESSION_EXISTS, Reason.HANDLE_IN_USE),
    grpc.StatusCode.FAILED_PRECONDITION: (
        Reason.SESSION_IN_USE,
        Reason.SESSION_QUARANTINED,
        Reason.NON_FINITE_STATE,
        Reason.MODEL_FAILED,
        Reason.SEQUENCE_PASSED,
        Reason.MODEL_MISMATCH,
        Reason.NO_STORE,
    ),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (
        Reason.SESSION_CAPACITY,
        Reason.WINDOW_FULL,
        Reason.QUEUE_FULL,
        Reason.BLOCK_TOO_LARGE,
    ),
    grpc.StatusCode.UNAUTHENTICATED: (Reason.UNAUTHENTICATED,),
    grpc.StatusCode.PERMISSION_DENIED: (Reason.SECRET_MISMATCH, Reason.NOT_PERMITTED),
    grpc.StatusCode.ABORTED: (Reason.SEQUENCE_MISMATCH, Reason.STREAM_REPLACED),
    grpc.StatusCode.OUT_OF_RANGE: (Reason.ANSWER_DISCARDED, Reason.ANSWER_NOT_KEPT),
    grpc.StatusCode.DEADLINE_EXCEEDED: (Reason.DEADLINE_EXCEEDED,),
    grpc.StatusCode.INVALID_ARGUMENT: (
        Reason.INVALID_ARGUMENT,
        Reason.NON_FINITE_INPUT,
        Reason.INPUT_OUT_OF_RANGE,
        Reason.MIXED_MODELS,
    ),
    grpc.StatusCode.UNAVAILABLE: (
        Reason.SERVER_DRAINING,
        Reason.MODEL_NOT_READY,
        Reason.ENGINE_LOST,
        Reason.STORE_UNAVAILABLE,
    ),
    grpc.StatusCode.INTERNAL: (Reason.ENGINE_FAILED,),
    grpc.StatusCode.DATA_LOSS: (Reason.SNAPSHOT_CORRUPT, Reason.SESSION_LOST, Reason.RECORD_UNREADABLE),
    grpc.StatusCode.UNIMPLEMENTED: (Reason.NOT_IMPLEMENTED,),
}
_OK, _CANCELLED = grpc.StatusCode.OK.name, grpc.StatusCode.CANCELLED.name

STATUS: dict[Reason, grpc.StatusCode] = {reason: code for code, reasons in _CODES.items() for reason in reasons}

# Of a message. Trailers have it three times, and clients take 8 KiB of trailers; what came from a caller may be of any length.
MOST_CHARACTERS = 1000

# Milliseconds, where the error itself gives no advice: what usually makes the refusal go away.
RETRY_DELAY_MS: dict[Reason, int] = {
    Reason.QUEUE_FULL: 20,  # ten turns of the engine
    Reason.SESSION_CAPACITY: 1000,  # sessions come and go in seconds rather than turns
    Reason.MODEL_NOT_READY: 1000,  # warm-up takes a second or two
    Reason.SERVER_DRAINING: 1000,  # another replica, or this one restarted
    Reason.ENGINE_LOST: 1000,  # another replica, or this one restarted
    Reason.STORE_UNAVAILABLE: 100,  # the first pause of an engine between two attempts to write
}

MESSAGE_SECONDS = 30.0  # in which a request must have come whole: 4 MiB at 1 Mbit/s

# Generic in its stub only, hence the quotes.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Unary: TypeAlias = "Callable[[Any, Context], Awaitable[Any]]"
Generator: TypeAlias = "Callable[[Any, Context], AsyncIterator[Any]]"
Parse = Callable[[bytes], Any]  # raises DecodeError
Serialize = Callable[[Any], bytes]
Translate = Callable[[StepStreamError], StepStreamError]  # into a protocol's own words
OnCall = Callable[[str, str, str], None]  # service, method, name of the status code


def wire_error(error: StepStreamError) -> common_pb2.Error:
    """An error in band: of a row, a handle or one session of many."""
    encoded = row_error(error.reason, error.message, error.retry_delay_seconds)
    if error.since is not None:
        encoded.metadata["since"] = str(error.since)
    return encoded


def row_error(reason: Reason, message: str, retry_delay_seconds: float = 0.0) -> common_pb2.Error:
    """An error in band for which no exception was raised: refusals cross the engine port as columns."""
    return common_pb2.Error(
        code=STATUS[reason].value[0],
        reason=reason.name,
        message=message[:MOST_CHARACTERS],
        retry_delay_ms=_retry_delay_ms(reason, retry_delay_seconds),
    )


def call_status(error: StepStreamError) -> grpc.Status:
    """An error that ends a call: google.rpc.Status with ErrorInfo, RetryInfo and BadRequest, as trailers."""
    message = error.message[:MOST_CHARACTERS]
    details: list[Message] = [ErrorInfo(reason=error.reason.name, domain=DOMAIN, metadata=_metadata(error))]
    if delay := _retry_delay_ms(error.reason, error.retry_delay_seconds):
        retry = RetryInfo()
        retry.retry_delay.FromMilliseconds(delay)
        details.append(retry)
    if error.field:
        violation = BadRequest.FieldViolation(field=error.field, description=message)
        details.append(BadRequest(field_violations=[violation]))
    status = Status(code=STATUS[error.reason].value[0], message=message, details=[_packed(each) for each in details])
    return rpc_status.to_status(status)


def _metadata(error: StepStreamError) -> dict[str, str]:
    numbers = {"since": error.since}
    if error.reason is Reason.SEQUENCE_MISMATCH or error.expected_seq:
        numbers["expectedSeq"] = error.expected_seq
    return {name: str(number) for name, number in numbers.items() if number is not None}


def _retry_delay_ms(reason: Reason, seconds: float) -> int:
    return round(seconds * 1000) or RETRY_DELAY_MS.get(reason, 0)


def _packed(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


class Limit:
    """How many calls of a kind may be open at once."""

    def __init__(self, most: float, what: str) -> None:
        """what: they are called, in the plural."""
        self._most = most
        self._what = what
        self._open = 0

    def enter(self) -> None:
        """Counts one more. Raises CallerError(QUEUE_FULL) if there are as many as there may be."""
        if self._open >= self._most:
            raise CallerError(Reason.QUEUE_FULL, f"all {self._most} {self._what} are in use")
        self._open += 1

    def leave(self) -> None:
        """One that was counted is over."""
        self._open -= 1

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Counts one more until the block ends. Raises CallerError(QUEUE_FULL)."""
        self.enter()
        try:
            yield
        finally:
            self.leave()


class Arrivals:
    """Requests of calls that have one, which may take their time to come whole. Each may hold as much memory as a message, so of
    too many the oldest is given up: honest ones come within milliseconds."""

    def __init__(self, most: int) -> None:
        """most: requests at once."""
        self._most = most
        self._waiting: dict[asyncio.Timeout, None] = {}  # the oldest first

    async def next(self, context: Context) -> bytes:
        """The request of a call. Raises CallerError if there is none, or if it is given up."""
        if len(self._waiting) >= self._most:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            oldest.reschedule(asyncio.get_running_loop().time())
        try:
            async with asyncio.timeout(MESSAGE_SECONDS) as waiting:
                self._waiting[waiting] = None
                message: Any = await context.read()
        except TimeoutError:
            problem = f"message: expected it whole within {MESSAGE_SECONDS:g} s, and sooner than {self._most} others"
            raise CallerError(Reason.DEADLINE_EXCEEDED, problem) from None
        finally:
            self._waiting.pop(waiting, None)
        if message is grpc.aio.EOF:
            raise CallerError(Reason.INVALID_ARGUMENT, "message: expected one, got none")
        return bytes(message)


@dataclass(frozen=True, slots=True)
class Service:
    """How calls of a service are treated."""

    translate: Translate  # an error into the words of its protocol
    limit: Limit  # of its calls other than streams, which have limits of their own
    arrivals: Arrivals  # of their requests; those of anybody's calls are apart, or strangers could drive out callers' requests
    open: bool = False  # whether anybody may call it who reaches the server


class Boundary:
    """Services are added to it in a server's place. Around each call it is the last that sees an exception before gRPC does."""

    def __init__(
        self,
        server: Server,
        services: Mapping[str, Service],
        authentication: Authentication,
        on_call: OnCall,
    ) -> None:
        self._server = server
        self._authentication = authentication
        self._services = services  # by their names on the wire
        self._on_call = on_call
        self._unsent: set[asyncio.Task[Any]] = set()  # gRPC's, of calls whose responses are not sent yet

    async def answered(self, seconds: float) -> bool:
        """Waits until the responses of all unary calls that are under way now are sent. Returns whether all were within so many
        seconds."""
        under_way = list(self._unsent)
        return not under_way or not (await asyncio.wait(under_way, timeout=seconds))[1]

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Does nothing: generated code adds each service by the names of its methods, too."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Handler]) -> None:
        """Adds a service."""
        wrapped = {method: self._wrap(handler, service, method) for method, handler in handlers.items()}
        self._server.add_registered_method_handlers(service, wrapped)

    def _wrap(self, handler: Handler, service: str, method: str) -> Handler:
        """A request is read and parsed in the call: what gRPC cannot read before the call ends never, and what it cannot parse
        ends as UNKNOWN, uncounted. So all calls are streams of requests to gRPC."""
        kinds: Any = handler  # whose types know no asynchronous functions
        parse, serializer = handler.request_deserializer or bytes, handler.response_serializer  # gRPC's None: bytes as they are
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(self._duplex(kinds.stream_stream, service, method), parse, None)
        if handler.response_streaming:
            responses: Any = self._generator(kinds.unary_stream, parse, serializer or bytes, service, method)
            return grpc.stream_stream_rpc_method_handler(responses, None, None)
        response: Any = self._unary(kinds.unary_unary, parse, service, method)
        return grpc.stream_unary_rpc_method_handler(response, None, serializer)

    def _unary(self, inner: Unary, parse: Parse, service: str, method: str) -> Unary:
        """Without context managers, which would take as long as all else here."""
        limit, arrivals, admit = self._services[service].limit, self._services[service].arrivals, self._admit

        async def call(requests: object, context: Context) -> Any:
            code = _CANCELLED
            try:
                whose = admit(service, context)
                request = await arrivals.next(context)
                self._authentication.refuse_if_over(whose)  # it may have taken its time to come
                self._note()
                limit.enter()
                try:
                    response = await inner(parse(request), context)
                finally:
                    limit.leave()
                code = _OK
                return response
            except grpc.aio.AbortError:  # of a protocol whose statuses stand for no reason of ours
                code = context.code().name  # as it was given to `abort`
                raise
            except Exception as error:
                failure = self._status(error, service, method)
                code = failure.code.name
            finally:
                self._on_call(service, method, code)  # before its caller can know that it has ended
            await context.abort_with_status(failure)

        return call

    def _generator(self, inner: Generator, parse: Parse, serialize: Serialize, service: str, method: str) -> Unary:
        """Writes responses in the call, so that all that ends it is seen here."""

        async def call(requests: object, context: Context) -> None:
            async with self._guard(service, method, context):
                request = await self._services[service].arrivals.next(context)
                with self._services[service].limit.entered():
                    async for response in inner(parse(request), context):
                        await write(context, serialize(response))

        return call

    def _duplex(self, inner: Unary, service: str, method: str) -> Unary:
        """A call that reads and writes by its context; what it writes is serialised already."""

        async def call(requests: Any, context: Context) -> None:
            async with self._guard(service, method, context):
                await inner(requests, context)

        return call

    def _admit(self, service: str, context: Context) -> Principal | None:
        """Finds out whose call it is, for all that handles it; None where it may be anybody's. Raises
        CallerError(UNAUTHENTICATED)."""
        if self._services[service].open:
            return None
        whose = self._authentication.principal_of(context)
        principal.set(whose)
        return whose

    def _note(self) -> None:
        """The call of this task is unary."""
        task = asyncio.current_task()
        if task is not None:  # which it never is here
            self._unsent.add(task)
            task.add_done_callback(self._unsent.discard)

    def _status(self, error: Exception, service: str, method: str) -> grpc.Status:
        """The status that a call ends with for what it has raised."""
        return call_status(self._services[service].translate(_known(error, method)))

    @contextlib.asynccontextmanager
    async def _guard(self, service: str, method: str, context: Context) -> AsyncIterator[None]:
        """Ends the call with the status of whatever it raises. A call that is cancelled stays so. It is counted before its caller
        can know that it has ended."""
        code, failure = _CANCELLED, None
        try:
            whose = self._admit(service, context)
            async with self._authentication.lasting(whose):
                yield
            code = _OK
        except Exception as error:
            failure = self._status(error, service, method)
            code = failure.code.name
        finally:
            self._on_call(service, method, code)
        if failure is not None:
            await context.abort_with_status(failure)


async def write(context: Context, message: bytes) -> None:
    """Writes a message that is serialised already.

    Raises CancelledError where the client is gone, which gRPC knows before it cancels the call.
    """
    try:
        await context.write(message)
    except grpc.aio.InternalError as gone:
        raise asyncio.CancelledError from gone


def _known(error: Exception, method: str) -> StepStreamError:
    """What the caller may be told. The text of an unknown exception may hold what is none of their business."""
    if isinstance(error, StepStreamError):
        return error
    if isinstance(error, DecodeError):  # protobuf's text names the type that was expected
        return CallerError(Reason.INVALID_ARGUMENT, f"message: {error}")
    structlog.get_logger(__name__).error("call failed", method=method, exc_info=error)
    return ServerFault(Reason.ENGINE_FAILED, "internal error")
