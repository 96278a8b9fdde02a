"""Which changes of the contract the breaking-change check lets pass."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts import check_breaking
from stepstream_proto.v1 import common_pb2, inference_pb2, model_pb2, session_pb2

ROOT = Path(__file__).parents[2]
FILES = (common_pb2, inference_pb2, model_pb2, session_pb2)


def calls_that_do_not_work_yet() -> set[str]:
    """The calls that the contract's own comments say answer UNIMPLEMENTED for now."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / "proto").rglob("*.proto")))
    return set(re.findall(r"Answers UNIMPLEMENTED for now\.\n\s*rpc (\w+)\(", text))


def test_only_messages_of_unfinished_calls_may_change() -> None:
    """The exempt messages are the requests and responses of calls that the contract calls unimplemented, and Generate's enum."""
    exempt = {
        name
        for file in FILES
        for name in (*file.DESCRIPTOR.message_types_by_name, *file.DESCRIPTOR.enum_types_by_name)
        if check_breaking.UNFINISHED.fullmatch(name)
    }
    expected = {f"{call}{side}" for call in calls_that_do_not_work_yet() for side in ("Request", "Response")}
    assert expected
    assert exempt == expected | {"Commit"}


@pytest.mark.parametrize(
    ("message", "passes"),
    [
        ('Field "7" on message "GenerateRequest" changed name from "max_steps" to "limit".', True),
        ('Enum value "3" on enum "Commit" changed name from "COMMIT_NONE" to "COMMIT_NO".', True),
        ('Field "4" with name "drain" on message "StreamResponse" changed type from "stepstream.v1.Drain" to "bytes".', False),
        ('Field "1" on message "StepRequest" changed name from "model" to "GenerateRequest".', False),
        ('RPC "Generate" on service "InferenceService" changed from server streaming to server unary.', False),
        ('Previously present file "stepstream_proto/v1/model.proto" was deleted.', False),
    ],
)
def test_reads_what_changed_from_bufs_words(message: str, passes: bool) -> None:
    """Only the message or enum that changed decides, not a name that occurs elsewhere in the text."""
    assert check_breaking.unfinished({"message": message}) is passes
