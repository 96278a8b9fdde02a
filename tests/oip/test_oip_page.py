"""The page for users of Triton names what there is: settings, metrics, reasons, fields of the configuration, commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stepstream_proto.oip.v2 import oip_pb2
from stepstream_server.app import Bound
from stepstream_server.config import Section, Settings
from stepstream_server.errors import Reason
from stepstream_server.telemetry import series
from support.command import shell
from support.oip.triton import Triton, sequence
from support.pages import ROOT, blocks

PAGE = ROOT / "docs" / "from-triton.md"
TEXT = PAGE.read_text()
CONFIG = TEXT.partition("## config.pbtxt, term by term")[2].partition("\n## ")[0]
CODES = {"NOT_FOUND", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "UNIMPLEMENTED"}


def test_settings_are_the_servers() -> None:
    """Each that is named can be set."""
    sections = {name: field.annotation for name, field in Settings.model_fields.items()}
    named = set(re.findall(r"`((?:engine|backend|door|log)\.\w+)`", TEXT))
    known = {
        f"{name}.{each}"
        for name, kind in sections.items()
        if isinstance(kind, type) and issubclass(kind, Section)
        for each in kind.model_fields
    }
    assert len(named) > 8
    assert named <= known


def test_metrics_are_the_servers() -> None:
    """Each that is named is exported."""
    named = set(re.findall(r"\bstepstream_\w+", TEXT)) - {"stepstream_server"}
    known = {each.name for each in vars(series).values() if isinstance(each, series.Series)}
    assert len(named) > 10
    assert {re.sub(r"_(sum|count|bucket)$", "", name) for name in named} <= known


def test_reasons_are_the_servers() -> None:
    """None is named that nobody gives."""
    named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)[`:]", TEXT)) - CODES
    assert {name for name in named if not name.startswith("SEQUENCE_")} <= {reason.name for reason in Reason}


@pytest.mark.parametrize(
    "message",
    [
        oip_pb2.ModelConfig,
        oip_pb2.ModelSequenceBatching,
        oip_pb2.ModelSequenceBatching.StrategyOldest,
        oip_pb2.ModelSequenceBatching.State,
    ],
    ids=lambda message: str(message.DESCRIPTOR.name),
)
def test_every_term_of_the_configuration_is_explained(message: type[oip_pb2.ModelConfig]) -> None:
    """Whatever `ModelConfig` tells has its row."""
    assert [field.name for field in message.DESCRIPTOR.fields if f"`{field.name}`" not in CONFIG] == []


async def test_the_commands_work(triton: Triton, bound: Bound, tmp_path: Path) -> None:
    """On sequence 7, as the page shows them."""
    await triton.infer("sync", sequence(7, -1.2, -1.3)[:1])
    (commands,) = blocks(PAGE, "sh")
    done = await shell(bound.listen, commands, tmp_path)
    assert (done.code, done.stderr) == (0, "")
    assert "int:7" in done.stdout
    assert (tmp_path / "int-7.snapshot").is_file()
