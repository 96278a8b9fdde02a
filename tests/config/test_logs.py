"""What a log line is, whoever wrote it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from stepstream_server import logs
from stepstream_server.config import LogSettings


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Leaves logging as it was found."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    root.handlers = []  # so that reconfiguring does not close pytest's own
    yield
    structlog.reset_defaults()
    root.setLevel(level)
    root.handlers = handlers


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """What was logged as JSON, parsed."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_line_of_json() -> None:
    """Time, level, logger, event and its values."""
    stream = io.StringIO()
    logs.configure(LogSettings(), stream)
    structlog.get_logger("stepstream_server.app").info("model_ready", model="ecg", version=1)
    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "model_ready", "level": "info", "logger": "stepstream_server.app", "model": "ecg", "version": 1}


def test_the_standard_librarys_messages_are_lines_too() -> None:
    """grpc and asyncio log through `logging`: same stream, same form, exceptions in the line."""
    stream = io.StringIO()
    logs.configure(LogSettings(), stream)
    try:
        raise ValueError("odd")
    except ValueError:
        logging.getLogger("grpc.aio").exception("it %s", "failed")
    (line,) = lines(stream)
    assert (line["event"], line["level"], line["logger"]) == ("it failed", "error", "grpc.aio")
    assert "ValueError: odd" in line["exception"]


def test_events_below_the_level_are_dropped() -> None:
    """Whichever library they come from."""
    stream = io.StringIO()
    logs.configure(LogSettings(level="warning"), stream)
    structlog.get_logger("a").info("quiet")
    logging.getLogger("b").info("quiet")
    structlog.get_logger("a").warning("heard")
    assert [line["event"] for line in lines(stream)] == ["heard"]


def test_another_level_is_taken_and_told() -> None:
    """Whatever was dropped before and is then, and for loggers that were made before."""
    stream = io.StringIO()
    logs.configure(LogSettings(level="error"), stream)
    ours, theirs = structlog.get_logger("a"), logging.getLogger("b")
    logs.take_level("warning", source="file x")
    for level in ("info", "warning"):
        getattr(ours, level)(f"our {level}")
        getattr(theirs, level)(f"their {level}")
    told, *others = lines(stream)
    assert (told["event"], told["level"], told["log_level"], told["source"]) == ("log_level_taken", "info", "warning", "file x")
    assert [line["event"] for line in others] == ["our warning", "their warning"]


def test_the_console_form_is_for_people() -> None:
    """No JSON, and no colours where there is no terminal."""
    stream = io.StringIO()
    logs.configure(LogSettings(format="console"), stream)
    structlog.get_logger("a").info("model_ready", model="ecg")
    assert "model_ready" in stream.getvalue()
    assert "model=ecg" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


HOSTILE = 'x\n{"event": "forged"}\r\x1b[2J\x00\u2028\u202e\ud800'


@pytest.mark.parametrize("form", ["json", "console"])
def test_what_callers_send_begins_no_line(form: str) -> None:
    """Nothing of it clears a terminal either: in an event, a value, a message of a library, the text of an exception."""
    stream = io.StringIO()
    logs.configure(LogSettings.model_validate({"format": form}), stream)
    structlog.get_logger("a").info(HOSTILE, value=HOSTILE, values=[HOSTILE])
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logging.getLogger("grpc").exception("raised by [%s]", HOSTILE)
    written = stream.getvalue()
    assert written.isascii()
    assert set(filter(lambda each: not each.isprintable(), written)) == {"\n"}
    assert not any(line.startswith('{"event": "forged"}') for line in written.split("\n"))
    if form == "json":
        assert [line["event"] for line in lines(stream)] == [HOSTILE, f"raised by [{HOSTILE}]"]
    else:
        assert [line[0] for line in written.splitlines()].count(" ") >= 3  # all of the traceback
        assert r"ValueError: x" in written


def test_a_traceback_for_people_tells_no_values() -> None:
    """Variables may hold secrets."""
    stream = io.StringIO()
    logs.configure(LogSettings(format="console"), stream)
    password = "".join(["sword", "fish"])
    try:
        raise ValueError(len(password))
    except ValueError:
        structlog.get_logger("a").error("failed", exc_info=True)
    assert "ValueError: 9" in stream.getvalue()
    assert "swordfish" not in stream.getvalue()


def test_a_terminal_gets_the_console_form() -> None:
    """`auto` asks the stream."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    logs.configure(LogSettings(format="auto"), stream)
    structlog.get_logger("a").info("model_ready")
    assert not stream.getvalue().startswith("{")


def test_configuring_again_replaces() -> None:
    """Nothing is written twice, and loggers made before follow."""
    first, second = io.StringIO(), io.StringIO()
    logger = structlog.get_logger("a")
    logs.configure(LogSettings(), first)
    logger.info("one")
    logs.configure(LogSettings(), second)
    logger.info("two")
    assert [line["event"] for line in lines(first)] == ["one"]
    assert [line["event"] for line in lines(second)] == ["two"]


def test_a_client_that_goes_away_is_no_error_of_the_server() -> None:
    """gRPC's traceback about its broken write is left out; what else it logs is not."""
    stream = io.StringIO()
    logs.configure(LogSettings(), stream)
    grpc = logging.getLogger("grpc._cython.cygrpc")
    grpc.error("ExecuteBatchError raised in core by servicer method [/stepstream.v1.InferenceService/Stream]")
    grpc.error("Unexpected [ValueError] raised by servicer method")
    assert [line["event"] for line in lines(stream)] == ["Unexpected [ValueError] raised by servicer method"]
