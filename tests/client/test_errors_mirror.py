"""The client's exceptions mirror the contract's reasons."""

from __future__ import annotations

import grpc
import pytest

import stepstream
from stepstream import StepStreamError, _errors, _translation
from stepstream_proto.v1 import common_pb2, inference_pb2
from stepstream_server.errors import Reason
from stepstream_server.rpc.boundary import STATUS


@pytest.mark.parametrize("reason", list(Reason), ids=lambda reason: reason.name)
def test_every_reason_of_the_server_is_a_class_of_the_client(reason: Reason) -> None:
    """In band, a reason arrives as the one class that has it as its own, with all that was said."""
    wire = common_pb2.Error(code=8, reason=reason.name, message="what", retry_delay_ms=250)
    error = _translation.from_wire(wire, {"expectedSeq": "7"})
    assert type(error).default_reason == reason.name
    assert type(error).default_code is STATUS[reason]
    assert type(error).__name__ in stepstream.__all__
    assert (error.code, error.reason, str(error), error.retry_delay) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        reason.name,
        "what",
        0.25,
    )
    assert error.metadata == {"expectedSeq": "7"}


def test_no_class_has_a_reason_that_the_server_never_gives() -> None:
    """Reasons of the table are the server's, and those with which it detaches sessions."""
    endings = {name.removeprefix("DETACH_REASON_") for name in list(inference_pb2.DetachReason.keys())}
    assert set(_translation.BY_REASON) - {reason.name for reason in Reason} == {"SESSION_TAKEN"}
    assert "SESSION_TAKEN" in endings


@pytest.mark.parametrize("name", [name for name in list(inference_pb2.DetachReason.keys()) if not name.endswith("UNSPECIFIED")])
def test_every_reason_to_detach_is_a_class(name: str) -> None:
    """A session that ends by itself ends with the class of its reason."""
    kind = _translation.BY_ENDING[inference_pb2.DetachReason.Value(name)]
    own = name.removeprefix("DETACH_REASON_")
    assert kind.default_reason == ("SESSION_DETACHED" if own == "REQUESTED" else own)


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK], ids=lambda code: code.name)
def test_an_unknown_reason_falls_back_to_its_code(code: grpc.StatusCode) -> None:
    """A newer server's reason still arrives as an error of the right kind, with its name."""
    error = _translation.translate(code.value[0], "SOMETHING_NEW", "what")
    assert isinstance(error, _translation.BY_CODE[code])
    assert (error.code, error.reason) == (code, "SOMETHING_NEW")


def test_every_error_is_public_and_has_one_root() -> None:
    """Callers can name each error, and catch all of them at once."""
    everything = vars(_errors).values()
    own = [each for each in everything if isinstance(each, type) and each.__module__ == _errors.__name__]
    kinds = {kind.__name__: kind for kind in own}
    assert all(issubclass(kind, StepStreamError) for kind in kinds.values())
    assert set(kinds) <= set(stepstream.__all__)


def test_a_mangled_status_still_gives_code_and_message() -> None:
    """Details that cannot be read do not hide the failure."""
    error = _translation.from_status(grpc.StatusCode.NOT_FOUND, "what", (("grpc-status-details-bin", b"\xff\xff"),))
    assert (error.code, error.reason, error.message) == (grpc.StatusCode.NOT_FOUND, "", "what")


def test_reasons_of_other_domains_are_not_ours() -> None:
    """A proxy's ErrorInfo does not make an error of this package's reasons."""
    from google.protobuf.any_pb2 import Any
    from google.rpc import error_details_pb2, status_pb2

    detail = Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason="SESSION_EXPIRED", domain="elsewhere"))
    trailer = status_pb2.Status(details=[detail]).SerializeToString()
    error = _translation.from_status(grpc.StatusCode.UNAVAILABLE, "what", (("grpc-status-details-bin", trailer),))
    assert type(error) is stepstream.Unavailable
