"""Prints as JSON what the messages of our `oip.proto` and those of `tritonclient` are made of, in a process that has both."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from tritonclient.grpc import model_config_pb2, service_pb2

from stepstream_proto.oip.v2 import oip_pb2


def messages(file: FileDescriptor) -> Iterator[Descriptor]:
    """All of a file, inner ones too."""
    waiting = list(file.message_types_by_name.values())
    while waiting:
        message = waiting.pop()
        waiting += message.nested_types
        yield message


def short(name: str) -> str:
    """A name without its package, which is not on the wire."""
    for package in ("stepstream.oip.v2.", "inference."):
        name = name.removeprefix(package)
    return name


def field(a: FieldDescriptor) -> dict[str, Any]:
    """What a field is on the wire, and what code calls it."""
    held = a.message_type or a.enum_type
    return {
        "number": a.number,
        "type": a.type,
        "repeated": a.is_repeated,
        "required": a.is_required,
        "packed": a.is_packed,
        "presence": a.has_presence,
        "holds": short(held.full_name) if held else "",
        "oneof": a.containing_oneof.name if a.containing_oneof else "",
    }


def described(*files: FileDescriptor) -> dict[str, Any]:
    """All fields, by `Message.field`."""
    return {short(a.full_name): field(a) for file in files for message in messages(file) for a in message.fields}


def enums(*files: FileDescriptor) -> dict[str, Any]:
    """Numbers by name, by enum."""
    return {
        each.name: {value.name: value.number for value in each.values}
        for file in files
        for each in file.enum_types_by_name.values()
    }


def exchanged() -> dict[str, str]:
    """A request written by one side and read by the other."""
    ours = oip_pb2.ModelInferRequest.FromString(
        service_pb2.ModelInferRequest(model_name="a", model_version="1").SerializeToString()
    )
    theirs = service_pb2.ModelInferRequest.FromString(
        oip_pb2.ModelInferRequest(model_name="a", model_version="1").SerializeToString()
    )
    return {
        "ours_to_theirs": f"{theirs.model_name}/{theirs.model_version}",
        "theirs_to_ours": f"{ours.model_name}/{ours.model_version}",
    }


if __name__ == "__main__":
    triton = (service_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR)
    found = {
        "ours": described(oip_pb2.DESCRIPTOR),
        "theirs": described(*triton),
        "our_enums": enums(oip_pb2.DESCRIPTOR),
        "their_enums": enums(*triton),
        "exchange": exchanged(),
    }
    json.dump(found, sys.stdout)
