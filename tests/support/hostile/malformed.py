"""Malformed messages by a seed and by the descriptors of what they claim to be: each case can be made again by its number alone.

A message begins as one that an honest caller might send, in which one field is out of the ordinary, or as one in which all are.
Then it is sent as it is, or its bytes are cut, joined, flipped or made of fields of other types.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from stepstream_proto.v1.inference_pb2 import OpenOnStream, StreamRequest
from support.hostile.filling import described, encoded, fill, filled
from support.hostile.honest import HANDLES, Honest, Model
from support.hostile.methods import Method
from support.hostile.wild import Wild
from support.wire import u32

_ON_A_STREAM = 80  # messages, at most
_BREAKS_STREAM = 0.02  # of a stream's messages are no messages at all: what follows them is not read

Way = Callable[[type[Message]], bytes]


class Case(NamedTuple):
    """One call and what is sent in it."""

    seed: int
    number: int
    method: Method
    messages: list[bytes]

    def __str__(self) -> str:
        sent = "\n".join(f"  {message.hex()}" for message in self.messages)
        return f"seed {self.seed}, case {self.number}, {self.method.path}:\n{sent}"


class Malformed:
    """Cases, numbered from 0: every call has its turn."""

    def __init__(self, seed: int, methods: Sequence[Method], models: Sequence[Model]) -> None:
        self._seed = seed
        self._methods = methods
        self._models = models

    def case(self, number: int) -> Case:
        """Makes a case by its number, whatever was made before."""
        method, make = self._methods[number % len(self._methods)], _Maker(Random(f"{self._seed}/{number}"), self._models)
        messages = make.stream(method.request) if method.client_streams else [make.message(method.request)]
        return Case(self._seed, number, method, messages)


def planted(method: Method, models: Sequence[Model], word: str) -> list[bytes]:
    """Messages with a word in their fields of text: in all of them at once, and in one after the other, all else being honest."""
    rng, kind, text = Random(word), method.request, FieldDescriptor.TYPE_STRING
    honest, messages = Honest(rng, models), [filled(kind, Wild(rng, word))]
    for field in described(kind).fields:
        if field.type == text:
            message = filled(kind, honest)
            fill(message, field, Wild(rng, word))
            messages.append(message)
    return [encoded(message) for message in messages]


class _Maker:
    """Makes the messages of one case."""

    def __init__(self, rng: Random, models: Sequence[Model]) -> None:
        self._rng = rng
        self._caller = Honest(rng, models)
        mostly_read = (self._hostile, *[self._nearly] * 3)
        self._ways: Sequence[Way] = (
            *mostly_read,
            self._broken,
            self._spliced,
            self._flipped,
            self._wrong_types,
            self._noise,
        )
        self._of_streams: Sequence[Way] = (*mostly_read, *[self._honest] * 4)

    def message(self, kind: type[Message]) -> bytes:
        """Makes a message in any way."""
        self._caller.go_on()
        return self._rng.choice(self._ways)(kind)

    def stream(self, kind: type[Message]) -> list[bytes]:
        """Makes messages, most of which can be read and are about one model; mostly behind one that opens sessions of it."""
        messages = []
        if kind is StreamRequest and self._rng.random() < 0.8:
            opened = OpenOnStream(model=self._caller.model.name, handles=u32(HANDLES))
            messages.append(StreamRequest(open=opened).SerializeToString())
        for _ in range(self._rng.randint(1, _ON_A_STREAM)):
            self._caller.go_on()
            ways = self._ways if self._rng.random() < _BREAKS_STREAM else self._of_streams
            messages.append(self._rng.choice(ways)(kind))
        return messages

    def _honest(self, kind: type[Message]) -> bytes:
        return filled(kind, self._caller).SerializeToString()

    def _hostile(self, kind: type[Message]) -> bytes:
        """A message in which every field is out of the ordinary."""
        return encoded(filled(kind, Wild(self._rng)))

    def _nearly(self, kind: type[Message]) -> bytes:
        """A message in which all is well but one field."""
        message = filled(kind, self._caller)
        self._spoil(message)
        return encoded(message)

    def _spoil(self, message: Message) -> None:
        """Gives one field, here or in a message within, a value that is out of the ordinary."""
        fields = described(message).fields
        if not fields:
            return
        field = self._rng.choice(fields)
        if field.message_type is not None and not field.is_repeated and message.HasField(field.name) and self._rng.random() < 0.8:
            self._spoil(getattr(message, field.name))
        else:
            message.ClearField(field.name)
            fill(message, field, Wild(self._rng))

    def _broken(self, kind: type[Message]) -> bytes:
        data = self._honest(kind)
        return data[: self._rng.randint(0, len(data))]

    def _spliced(self, kind: type[Message]) -> bytes:
        one, other = self._honest(kind), self._hostile(kind)
        return one[: self._rng.randint(0, len(one))] + other[self._rng.randint(0, len(other)) :]

    def _flipped(self, kind: type[Message]) -> bytes:
        data = bytearray(self._honest(kind) or b"\0")
        for _ in range(self._rng.randint(1, 4)):
            data[self._rng.randrange(len(data))] ^= 1 << self._rng.randrange(8)
        return bytes(data)

    def _wrong_types(self, kind: type[Message]) -> bytes:
        """Fields as the wire has them, of other types than they are declared, and some that nobody has declared."""
        numbers = [*(field.number for field in described(kind).fields), 19_000, 2**29 - 1, 0]
        return b"".join(self._wire_field(self._rng.choice(numbers)) for _ in range(self._rng.randint(1, 6)))

    def _noise(self, kind: type[Message]) -> bytes:
        return self._rng.randbytes(self._rng.choice((0, 1, 2, 10, 100, 1000)))

    def _wire_field(self, number: int) -> bytes:
        """A field of any type, of which there are more than protobuf has, and of any length."""
        kind = self._rng.randrange(7)
        tag = _varint(number << 3 | kind)
        if kind == 0:
            return tag + _varint(self._rng.choice((0, 1, 2**32, 2**64 - 1, 2**70)))
        if kind == 2:
            payload = self._rng.randbytes(self._rng.randint(0, 40))
            return tag + _varint(self._rng.choice((len(payload), len(payload) + 1, 2**31, 2**63))) + payload
        return tag + self._rng.randbytes({1: 8, 5: 4}.get(kind, 0))


def _varint(number: int) -> bytes:
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*data, number])
