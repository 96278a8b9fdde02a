"""How a fake server makes a call fail, with the details that the contract knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2


def failed_call(
    code: grpc.StatusCode,
    reason: str,
    message: str,
    *,
    retry_seconds: int = 0,
    field_name: str = "",
    metadata: Mapping[str, str] | None = None,
) -> status_pb2.Status:
    """The google.rpc.Status of a call that fails, with all the details that the contract knows."""
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=reason, domain="stepstream.v1", metadata=metadata)]
    if retry_seconds:
        details.append(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=retry_seconds)))
    if field_name:
        violation = error_details_pb2.BadRequest.FieldViolation(field=field_name, description=message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    packed = []
    for detail in details:
        packed.append(AnyMessage())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=code.value[0], message=message, details=packed)


async def abort(context: Any, status: status_pb2.Status) -> None:
    """Ends a call with a status and its details."""
    code = next(each for each in grpc.StatusCode if each.value[0] == status.code)
    await context.abort(code, status.message, (("grpc-status-details-bin", status.SerializeToString()),))
