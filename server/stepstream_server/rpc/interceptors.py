"""Around every call of our services: errors become statuses, unknown ones without their text; calls are counted and bounded."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any, TypeAlias

import grpc
import structlog
from google.protobuf.message import DecodeError

from stepstream_server.errors import CallerError, Reason, ServerFault, StepStreamError
from stepstream_server.rpc.status import call_status

# Generic in their stubs only, hence the quotes.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Unary: TypeAlias = "Callable[[Any, Context], Awaitable[Any]]"
Generator: TypeAlias = "Callable[[Any, Context], AsyncIterator[Any]]"
Parse = Callable[[bytes], Any]  # raises DecodeError
Translate = Callable[[StepStreamError], StepStreamError]  # into a protocol's own words
OnCall = Callable[[str, str, str], None]  # service, method, name of the status code


class Boundary(grpc.aio.ServerInterceptor):
    """The last place that sees an exception before gRPC does."""

    def __init__(self, services: Mapping[str, Translate], on_call: OnCall, max_calls: int) -> None:
        self._services = services  # ours, by their names on the wire
        self._on_call = on_call
        self._max_calls = max_calls  # other than streams, which have a limit of their own
        self._calls = 0
        self._wrapped: dict[str, Handler] = {}  # by path

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wraps our handlers, each once; health and reflection speak gRPC themselves."""
        handler = await continuation(handler_call_details)
        path = handler_call_details.method
        if handler is None or path in self._wrapped:
            return self._wrapped.get(path)
        service, _, method = path.lstrip("/").rpartition("/")
        if service in self._services:
            handler = self._wrapped[path] = self._wrap(handler, service, method)
        return handler

    def _wrap(self, handler: Handler, service: str, method: str) -> Handler:
        kind = f"{_arity(handler.request_streaming)}_{_arity(handler.response_streaming)}"
        inner = getattr(handler, kind)
        parse, serializer = handler.request_deserializer or bytes, handler.response_serializer  # gRPC's None: bytes as they are
        make: Callable[..., Handler] = getattr(grpc, f"{kind}_rpc_method_handler")
        if handler.request_streaming:
            return make(self._duplex(inner, service, method), parse, None)
        # Parsed in the call: what gRPC cannot parse before it ends as UNKNOWN, uncounted.
        wrap: Callable[..., Unary | Generator] = self._generator if handler.response_streaming else self._unary
        return make(wrap(inner, parse, service, method), None, serializer)

    def _unary(self, inner: Unary, parse: Parse, service: str, method: str) -> Unary:
        async def call(request: bytes, context: Context) -> Any:
            async with self._guard(service, method, context):
                with self._place():
                    return await inner(parse(request), context)

        return call

    def _generator(self, inner: Generator, parse: Parse, service: str, method: str) -> Generator:
        async def call(request: bytes, context: Context) -> AsyncIterator[Any]:
            async with self._guard(service, method, context):
                with self._place():
                    async for response in inner(parse(request), context):
                        yield response

        return call

    def _duplex(self, inner: Unary, service: str, method: str) -> Unary:
        """A call that reads and writes by its context; what it writes is serialised already."""

        async def call(requests: Any, context: Context) -> None:
            async with self._guard(service, method, context):
                await inner(requests, context)

        return call

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        """One of the calls that may be open at once. Raises CallerError(QUEUE_FULL)."""
        if self._calls >= self._max_calls:
            raise CallerError(Reason.QUEUE_FULL, f"all {self._max_calls} calls are in use")
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    @contextlib.asynccontextmanager
    async def _guard(self, service: str, method: str, context: Context) -> AsyncIterator[None]:
        """Ends the call with the status of whatever it raises. A call that is cancelled stays so. It is counted before its caller
        can know that it has ended."""
        code, failure = grpc.StatusCode.CANCELLED, None
        try:
            yield
            code = grpc.StatusCode.OK
        except Exception as error:
            failure = call_status(self._services[service](_known(error, method)))
            code = failure.code
        finally:
            self._on_call(service, method, code.name)
        if failure is not None:
            await context.abort_with_status(failure)


def _arity(streaming: bool) -> str:
    return "stream" if streaming else "unary"


def _known(error: Exception, method: str) -> StepStreamError:
    """What the caller may be told. The text of an unknown exception may hold what is none of their business."""
    if isinstance(error, StepStreamError):
        return error
    if isinstance(error, DecodeError):  # protobuf's text names the type that was expected
        return CallerError(Reason.INVALID_ARGUMENT, f"message: {error}")
    structlog.get_logger(__name__).error("call failed", method=method, exc_info=error)
    return ServerFault(Reason.ENGINE_FAILED, "internal error")
