import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from stepstream_proto.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DetachReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DETACH_REASON_UNSPECIFIED: _ClassVar[DetachReason]
    DETACH_REASON_REQUESTED: _ClassVar[DetachReason]
    DETACH_REASON_SESSION_TAKEN: _ClassVar[DetachReason]
    DETACH_REASON_SESSION_CLOSED: _ClassVar[DetachReason]
    DETACH_REASON_SESSION_EXPIRED: _ClassVar[DetachReason]
    DETACH_REASON_SESSION_EVICTED: _ClassVar[DetachReason]
    DETACH_REASON_SESSION_MOVED: _ClassVar[DetachReason]

class Commit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COMMIT_UNSPECIFIED: _ClassVar[Commit]
    COMMIT_END: _ClassVar[Commit]
    COMMIT_EACH: _ClassVar[Commit]
    COMMIT_NONE: _ClassVar[Commit]

class RolloutEnding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLLOUT_ENDING_UNSPECIFIED: _ClassVar[RolloutEnding]
    ROLLOUT_ENDING_STOP: _ClassVar[RolloutEnding]
    ROLLOUT_ENDING_LENGTH: _ClassVar[RolloutEnding]
DETACH_REASON_UNSPECIFIED: DetachReason
DETACH_REASON_REQUESTED: DetachReason
DETACH_REASON_SESSION_TAKEN: DetachReason
DETACH_REASON_SESSION_CLOSED: DetachReason
DETACH_REASON_SESSION_EXPIRED: DetachReason
DETACH_REASON_SESSION_EVICTED: DetachReason
DETACH_REASON_SESSION_MOVED: DetachReason
COMMIT_UNSPECIFIED: Commit
COMMIT_END: Commit
COMMIT_EACH: Commit
COMMIT_NONE: Commit
ROLLOUT_ENDING_UNSPECIFIED: RolloutEnding
ROLLOUT_ENDING_STOP: RolloutEnding
ROLLOUT_ENDING_LENGTH: RolloutEnding

class StreamRequest(_message.Message):
    __slots__ = ("open", "attach", "block", "acknowledge", "reset", "detach")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    ATTACH_FIELD_NUMBER: _ClassVar[int]
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGE_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    DETACH_FIELD_NUMBER: _ClassVar[int]
    open: OpenOnStream
    attach: Attach
    block: Block
    acknowledge: Acknowledge
    reset: Reset
    detach: Detach
    def __init__(self, open: _Optional[_Union[OpenOnStream, _Mapping]] = ..., attach: _Optional[_Union[Attach, _Mapping]] = ..., block: _Optional[_Union[Block, _Mapping]] = ..., acknowledge: _Optional[_Union[Acknowledge, _Mapping]] = ..., reset: _Optional[_Union[Reset, _Mapping]] = ..., detach: _Optional[_Union[Detach, _Mapping]] = ...) -> None: ...

class StreamResponse(_message.Message):
    __slots__ = ("attached", "answers", "detached", "drain", "durable")
    ATTACHED_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    DETACHED_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    DURABLE_FIELD_NUMBER: _ClassVar[int]
    attached: Attached
    answers: Answers
    detached: Detached
    drain: Drain
    durable: Durable
    def __init__(self, attached: _Optional[_Union[Attached, _Mapping]] = ..., answers: _Optional[_Union[Answers, _Mapping]] = ..., detached: _Optional[_Union[Detached, _Mapping]] = ..., drain: _Optional[_Union[Drain, _Mapping]] = ..., durable: _Optional[_Union[Durable, _Mapping]] = ...) -> None: ...

class OpenOnStream(_message.Message):
    __slots__ = ("model", "version", "handles", "ids", "idle_ttl", "request_id", "durable")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    HANDLES_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    IDLE_TTL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    DURABLE_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    handles: bytes
    ids: _containers.RepeatedScalarFieldContainer[str]
    idle_ttl: _duration_pb2.Duration
    request_id: str
    durable: bool
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., handles: _Optional[bytes] = ..., ids: _Optional[_Iterable[str]] = ..., idle_ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., request_id: _Optional[str] = ..., durable: _Optional[bool] = ...) -> None: ...

class Attach(_message.Message):
    __slots__ = ("model", "version", "sessions")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    sessions: _containers.RepeatedCompositeFieldContainer[AttachSession]
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., sessions: _Optional[_Iterable[_Union[AttachSession, _Mapping]]] = ...) -> None: ...

class AttachSession(_message.Message):
    __slots__ = ("handle", "id", "secret", "acked", "replay_from")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    ACKED_FIELD_NUMBER: _ClassVar[int]
    REPLAY_FROM_FIELD_NUMBER: _ClassVar[int]
    handle: int
    id: str
    secret: bytes
    acked: int
    replay_from: int
    def __init__(self, handle: _Optional[int] = ..., id: _Optional[str] = ..., secret: _Optional[bytes] = ..., acked: _Optional[int] = ..., replay_from: _Optional[int] = ...) -> None: ...

class Attached(_message.Message):
    __slots__ = ("model", "version", "sessions", "window")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    sessions: _containers.RepeatedCompositeFieldContainer[AttachedSession]
    window: _common_pb2.Window
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., sessions: _Optional[_Iterable[_Union[AttachedSession, _Mapping]]] = ..., window: _Optional[_Union[_common_pb2.Window, _Mapping]] = ...) -> None: ...

class AttachedSession(_message.Message):
    __slots__ = ("handle", "id", "secret", "next_seq", "acked", "epoch", "error", "durable_seq", "bitwise", "durable")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    NEXT_SEQ_FIELD_NUMBER: _ClassVar[int]
    ACKED_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    DURABLE_SEQ_FIELD_NUMBER: _ClassVar[int]
    BITWISE_FIELD_NUMBER: _ClassVar[int]
    DURABLE_FIELD_NUMBER: _ClassVar[int]
    handle: int
    id: str
    secret: bytes
    next_seq: int
    acked: int
    epoch: int
    error: _common_pb2.Error
    durable_seq: int
    bitwise: bool
    durable: bool
    def __init__(self, handle: _Optional[int] = ..., id: _Optional[str] = ..., secret: _Optional[bytes] = ..., next_seq: _Optional[int] = ..., acked: _Optional[int] = ..., epoch: _Optional[int] = ..., error: _Optional[_Union[_common_pb2.Error, _Mapping]] = ..., durable_seq: _Optional[int] = ..., bitwise: _Optional[bool] = ..., durable: _Optional[bool] = ...) -> None: ...

class Durable(_message.Message):
    __slots__ = ("handles", "counts")
    HANDLES_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    handles: bytes
    counts: bytes
    def __init__(self, handles: _Optional[bytes] = ..., counts: _Optional[bytes] = ...) -> None: ...

class Block(_message.Message):
    __slots__ = ("handles", "first_seqs", "lengths", "inputs", "outputs", "acked", "timeout")
    HANDLES_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQS_FIELD_NUMBER: _ClassVar[int]
    LENGTHS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    ACKED_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    handles: bytes
    first_seqs: bytes
    lengths: bytes
    inputs: _containers.RepeatedScalarFieldContainer[bytes]
    outputs: _common_pb2.Outputs
    acked: bytes
    timeout: _duration_pb2.Duration
    def __init__(self, handles: _Optional[bytes] = ..., first_seqs: _Optional[bytes] = ..., lengths: _Optional[bytes] = ..., inputs: _Optional[_Iterable[bytes]] = ..., outputs: _Optional[_Union[_common_pb2.Outputs, str]] = ..., acked: _Optional[bytes] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Acknowledge(_message.Message):
    __slots__ = ("handles", "counts")
    HANDLES_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    handles: bytes
    counts: bytes
    def __init__(self, handles: _Optional[bytes] = ..., counts: _Optional[bytes] = ...) -> None: ...

class Reset(_message.Message):
    __slots__ = ("handles", "seqs")
    HANDLES_FIELD_NUMBER: _ClassVar[int]
    SEQS_FIELD_NUMBER: _ClassVar[int]
    handles: bytes
    seqs: bytes
    def __init__(self, handles: _Optional[bytes] = ..., seqs: _Optional[bytes] = ...) -> None: ...

class Detach(_message.Message):
    __slots__ = ("handles", "close")
    HANDLES_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    handles: bytes
    close: bool
    def __init__(self, handles: _Optional[bytes] = ..., close: _Optional[bool] = ...) -> None: ...

class Answers(_message.Message):
    __slots__ = ("handles", "first_seqs", "lengths", "kept", "outputs", "durable_seqs", "errors")
    HANDLES_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQS_FIELD_NUMBER: _ClassVar[int]
    LENGTHS_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    DURABLE_SEQS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    handles: bytes
    first_seqs: bytes
    lengths: bytes
    kept: bytes
    outputs: _containers.RepeatedScalarFieldContainer[bytes]
    durable_seqs: bytes
    errors: _containers.RepeatedCompositeFieldContainer[RowError]
    def __init__(self, handles: _Optional[bytes] = ..., first_seqs: _Optional[bytes] = ..., lengths: _Optional[bytes] = ..., kept: _Optional[bytes] = ..., outputs: _Optional[_Iterable[bytes]] = ..., durable_seqs: _Optional[bytes] = ..., errors: _Optional[_Iterable[_Union[RowError, _Mapping]]] = ...) -> None: ...

class RowError(_message.Message):
    __slots__ = ("handle", "first_seq", "length", "error", "expected_seq")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQ_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_SEQ_FIELD_NUMBER: _ClassVar[int]
    handle: int
    first_seq: int
    length: int
    error: _common_pb2.Error
    expected_seq: int
    def __init__(self, handle: _Optional[int] = ..., first_seq: _Optional[int] = ..., length: _Optional[int] = ..., error: _Optional[_Union[_common_pb2.Error, _Mapping]] = ..., expected_seq: _Optional[int] = ...) -> None: ...

class Detached(_message.Message):
    __slots__ = ("handles", "reason", "error")
    HANDLES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    handles: bytes
    reason: DetachReason
    error: _common_pb2.Error
    def __init__(self, handles: _Optional[bytes] = ..., reason: _Optional[_Union[DetachReason, str]] = ..., error: _Optional[_Union[_common_pb2.Error, _Mapping]] = ...) -> None: ...

class Drain(_message.Message):
    __slots__ = ("deadline", "resume")
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    deadline: _duration_pb2.Duration
    resume: bool
    def __init__(self, deadline: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., resume: _Optional[bool] = ...) -> None: ...

class Values(_message.Message):
    __slots__ = ("numbers",)
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    numbers: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, numbers: _Optional[_Iterable[float]] = ...) -> None: ...

class StepRequest(_message.Message):
    __slots__ = ("model", "version", "session_id", "secret", "seq", "inputs", "outputs", "written_behind")
    class InputsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Values
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Values, _Mapping]] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_BEHIND_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    session_id: str
    secret: bytes
    seq: int
    inputs: _containers.MessageMap[str, Values]
    outputs: _common_pb2.Outputs
    written_behind: bool
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., session_id: _Optional[str] = ..., secret: _Optional[bytes] = ..., seq: _Optional[int] = ..., inputs: _Optional[_Mapping[str, Values]] = ..., outputs: _Optional[_Union[_common_pb2.Outputs, str]] = ..., written_behind: _Optional[bool] = ...) -> None: ...

class StepResponse(_message.Message):
    __slots__ = ("seq", "next_seq", "outputs", "durable_seq", "epoch")
    class OutputsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Values
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Values, _Mapping]] = ...) -> None: ...
    SEQ_FIELD_NUMBER: _ClassVar[int]
    NEXT_SEQ_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    DURABLE_SEQ_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    seq: int
    next_seq: int
    outputs: _containers.MessageMap[str, Values]
    durable_seq: int
    epoch: int
    def __init__(self, seq: _Optional[int] = ..., next_seq: _Optional[int] = ..., outputs: _Optional[_Mapping[str, Values]] = ..., durable_seq: _Optional[int] = ..., epoch: _Optional[int] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("model", "version", "session_id", "secret", "seq", "prompt", "max_steps", "temperature", "top_k", "top_p", "seed", "stop", "commit", "paths", "levels", "outputs")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    LEVELS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    session_id: str
    secret: bytes
    seq: int
    prompt: _containers.RepeatedScalarFieldContainer[bytes]
    max_steps: int
    temperature: float
    top_k: int
    top_p: float
    seed: int
    stop: _containers.RepeatedScalarFieldContainer[bytes]
    commit: Commit
    paths: int
    levels: _containers.RepeatedScalarFieldContainer[float]
    outputs: bool
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., session_id: _Optional[str] = ..., secret: _Optional[bytes] = ..., seq: _Optional[int] = ..., prompt: _Optional[_Iterable[bytes]] = ..., max_steps: _Optional[int] = ..., temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., seed: _Optional[int] = ..., stop: _Optional[_Iterable[bytes]] = ..., commit: _Optional[_Union[Commit, str]] = ..., paths: _Optional[int] = ..., levels: _Optional[_Iterable[float]] = ..., outputs: _Optional[bool] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("first_seq", "outputs", "tokens", "next_seq", "values", "ending", "durable_seq", "epoch")
    FIRST_SEQ_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    NEXT_SEQ_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    ENDING_FIELD_NUMBER: _ClassVar[int]
    DURABLE_SEQ_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    first_seq: int
    outputs: _containers.RepeatedScalarFieldContainer[bytes]
    tokens: bytes
    next_seq: int
    values: bytes
    ending: RolloutEnding
    durable_seq: int
    epoch: int
    def __init__(self, first_seq: _Optional[int] = ..., outputs: _Optional[_Iterable[bytes]] = ..., tokens: _Optional[bytes] = ..., next_seq: _Optional[int] = ..., values: _Optional[bytes] = ..., ending: _Optional[_Union[RolloutEnding, str]] = ..., durable_seq: _Optional[int] = ..., epoch: _Optional[int] = ...) -> None: ...
