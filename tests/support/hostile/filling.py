"""Fills messages of any type, by their descriptors, with what somebody would say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

BAD_TEXT = "~BADUTF8"  # in a text stands for bytes that are no UTF-8, which no library sends
NOT_UTF8 = b"\xff\xfe\xc0\x80\xed\xa0\x80\xf5"  # as long: lengths on the wire stay right
_DEPTH = 4  # of messages in messages


class Speaker(Protocol):
    """Somebody who says something in each field."""

    def fields(self, descriptor: Descriptor) -> Iterator[FieldDescriptor]:
        """Chooses the fields that are set, in the order in which they are."""

    def count(self, field: FieldDescriptor) -> tuple[int, int]:
        """Says how many elements a repeated field has, and how often they come again."""

    def value(self, field: FieldDescriptor) -> Any:
        """A scalar for the field."""


def described(kind: type[Message] | Message) -> Descriptor:
    """Describes a type of messages: the fields that one is made of."""
    descriptor: Any = kind.DESCRIPTOR  # of one of two types, which are alike
    return descriptor  # type: ignore[no-any-return]


def filled(kind: type[Message], speaker: Speaker, depth: int = 0) -> Message:
    """A message of a speaker's."""
    message = kind()
    for field in speaker.fields(described(kind)):
        fill(message, field, speaker, depth)
    return message


def fill(message: Message, field: FieldDescriptor, speaker: Speaker, depth: int = 0) -> None:
    """Sets one field of a message, unless messages in messages become too many."""
    if field.message_type is not None and depth >= _DEPTH:
        return
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        _fill_map(message, field, speaker, depth)
    elif field.is_repeated:
        elements, repeats = speaker.count(field)
        getattr(message, field.name).extend([_element(field, speaker, depth) for _ in range(elements)] * repeats)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(_element(field, speaker, depth))
    else:
        setattr(message, field.name, speaker.value(field))


def encoded(message: Message) -> bytes:
    """Encodes a message as bytes, in which texts may be no UTF-8."""
    return message.SerializeToString().replace(BAD_TEXT.encode(), NOT_UTF8)


def _fill_map(message: Message, field: FieldDescriptor, speaker: Speaker, depth: int) -> None:
    entry: Any = field.message_type
    entries, (key, held) = getattr(message, field.name), entry.fields
    for _ in range(speaker.count(field)[0]):
        name = speaker.value(key)
        if held.message_type is None:
            entries[name] = speaker.value(held)
        else:
            entries[name].CopyFrom(_element(held, speaker, depth))


def _element(field: FieldDescriptor, speaker: Speaker, depth: int) -> Any:
    return speaker.value(field) if field.message_type is None else filled(GetMessageClass(field.message_type), speaker, depth + 1)
