"""The survey of published step functions: what becomes of a file is told as the server says it."""

from __future__ import annotations

from pathlib import Path

import pytest
from programs.fetch import LICENCES, PIECES, SILERO
from programs.published import PUBLISHED, Published
from programs.survey import row

from programs import fetch
from stepstream_server.bundles import Bundle, BundleError


def test_every_file_has_a_licence_and_a_name_of_its_own() -> None:
    """All of them lie in one folder."""
    assert {piece.package for piece in PIECES} == set(LICENCES)
    assert len({Path(piece.member).name for piece in PIECES}) == len(PIECES)
    assert {published.file for published in PUBLISHED} <= {Path(piece.member).name for piece in PIECES}


def test_what_was_not_fetched_is_named_with_the_command_that_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package and the command are told."""
    monkeypatch.setattr(fetch, "FOLDER", tmp_path)
    why = fetch.missing(SILERO)
    assert "of silero-vad==6.2.3 is missing" in why
    assert "python examples/programs/fetch.py" in why


def test_refusal_stands_in_the_table(tmp_path: Path) -> None:
    """With its reason."""

    def refused(published: Published, folder: Path) -> Bundle:
        raise BundleError("model.onnx: Loop is not served")

    published = Published("Loops", SILERO, "loops.onnx", refused)
    assert row(published, tmp_path) == ("Loops", "silero-vad==6.2.3", "loops.onnx", "refused: model.onnx: Loop is not served", "")
