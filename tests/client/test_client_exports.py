"""What `import stepstream` offers, and what it brings along."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import stepstream

PUBLIC = {
    "TLS",
    "AccessDenied",
    "AnswerDiscarded",
    "AnswerNotKept",
    "BlockTooLarge",
    "Client",
    "ClientOptions",
    "ConnectionEvent",
    "ConnectionLost",
    "DeadlineExceeded",
    "EngineFailed",
    "EngineLost",
    "GroupError",
    "HandleInUse",
    "HandleUnknown",
    "InputOutOfRange",
    "InvalidArgument",
    "InvalidInput",
    "MixedModels",
    "ModelError",
    "ModelFailed",
    "ModelMismatch",
    "ModelInfo",
    "ModelNotFound",
    "ModelNotReady",
    "NonFiniteInput",
    "NonFiniteState",
    "NotPermitted",
    "Outputs",
    "Overloaded",
    "ProtocolError",
    "QueueFull",
    "Rollout",
    "Sampling",
    "SecretMismatch",
    "SequenceError",
    "SequenceMismatch",
    "SequencePassed",
    "ServerDraining",
    "ServerFault",
    "Session",
    "SessionCapacity",
    "SessionClosed",
    "SessionDetached",
    "SessionEnded",
    "SessionError",
    "SessionEvicted",
    "SessionExists",
    "SessionExpired",
    "SessionGroup",
    "SessionInUse",
    "SessionInfo",
    "NoStore",
    "NotBitwise",
    "RecordUnreadable",
    "StoreUnavailable",
    "SessionLost",
    "SessionMoved",
    "SessionNotFound",
    "SessionQuarantined",
    "SessionTaken",
    "SnapshotCorrupt",
    "StepStreamError",
    "StreamReplaced",
    "TensorInfo",
    "Text",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "WindowFull",
}


def test_public_names_are_these() -> None:
    """A name comes or goes on purpose only."""
    assert set(stepstream.__all__) == PUBLIC
    assert all(hasattr(stepstream, name) for name in PUBLIC)


def test_every_module_is_private() -> None:
    """There is one way to import each public name."""
    public = {module.name for module in pkgutil.iter_modules(stepstream.__path__) if not module.name.startswith("_")}
    assert public == {"cli", "sync"}  # the command, which is run rather than imported, and the blocking twin


def test_importing_the_client_brings_no_server_and_no_compute() -> None:
    """The base install is enough."""
    names = "{'torch', 'onnx', 'onnxruntime', 'prometheus_client', 'stepstream_server', 'pydantic', 'grpc_status', 'rich'}"
    script = f"import sys, stepstream; print({names} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "set()"
