"""The messages of the Open Inference Protocol against those of an unmodified `tritonclient`: on the wire they are the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LISTS = Path(__file__).with_name("oip_descriptors.py")

# KServe's protocol has them, Triton's has not.
OF_KSERVE = {
    "ModelMetadataResponse.properties",
    "ModelMetadataResponse.PropertiesEntry.key",
    "ModelMetadataResponse.PropertiesEntry.value",
}
# Theirs are one of several choices, of which we have no other.
ALONE = {"ModelConfig.sequence_batching", "ModelSequenceBatching.oldest"}
# Of these, which only servers write, we have but the fields that mean something here.
ABRIDGED = {
    "ModelConfig",
    "ModelInput",
    "ModelOutput",
    "ModelSequenceBatching",
    "ModelSequenceBatching.State",
    "ModelStatistics",
}


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    """What a process that has both sees: fields by `Message.field`, enums by name."""
    done = subprocess.run([sys.executable, "-W", "error", str(LISTS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


def test_both_live_in_one_process(found: dict[str, dict[str, Any]]) -> None:
    """Neither takes the other's names, and what one writes the other reads."""
    assert found["exchange"] == {"ours_to_theirs": "a/1", "theirs_to_ours": "a/1"}


def test_every_field_is_theirs(found: dict[str, dict[str, Any]]) -> None:
    """Name, number, type, label, presence, oneof, and what it holds."""
    ours = {name: field for name, field in found["ours"].items() if name not in OF_KSERVE}
    theirs = {name: field for name, field in found["theirs"].items() if name in ours}
    for name in ALONE:
        theirs[name] |= {"oneof": ""}
    assert len(ours) > 100
    assert ours == theirs


def test_no_field_of_a_request_or_an_answer_to_inference_is_missing(found: dict[str, dict[str, Any]]) -> None:
    """Messages are whole, but for what servers tell of their configuration."""
    messages = {_message(name) for name in found["ours"]}
    missing = {name for name in found["theirs"] if _message(name) in messages and name not in found["ours"]}
    assert {_message(name) for name in missing} == ABRIDGED


def test_enums_are_theirs(found: dict[str, dict[str, Any]]) -> None:
    """Names and numbers of the data types."""
    assert found["our_enums"] == {"DataType": found["their_enums"]["DataType"]}


def _message(field: str) -> str:
    """Whose field it is."""
    return field.rpartition(".")[0]
