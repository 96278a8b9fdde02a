"""The command as such: help, version, flags, exit codes of errors, and what it takes to be installed."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

import stepstream
from stepstream import StepStreamError
from stepstream.cli.app import app, run
from stepstream.cli.options import ExitCode, NoMetrics, Options, advice

ERRORS = [
    error
    for error in (getattr(stepstream, name) for name in stepstream.__all__)
    if isinstance(error, type) and issubclass(error, StepStreamError) and error is not stepstream.GroupError
]
UNREACHABLE = {"Unavailable", "ConnectionLost", "EngineLost", "DeadlineExceeded"}


def test_the_version_is_told() -> None:
    """`--version` prints it and exits well."""
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout[:13]) == (0, "stepstream 0.")


def test_help_names_every_command_and_exit_code() -> None:
    """Each with one line that is not cut off."""
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    listed = result.stdout.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == [command.name for command in app.registered_commands]
    assert not any(line.endswith("...") for line in listed)
    assert all(f" {code.value} " in result.stdout.replace("\n", " ") for code in ExitCode)


@pytest.mark.parametrize(
    "arguments",
    [
        ["sing"],
        ["models", "--jsn"],
        ["open"],
        ["open", "ecg", "--idle-ttl", "soon"],
        ["open", "ecg", "--model-version", "0"],
        ["sessions", "--limit", "0"],
        ["fork", "ecg", "bed-7", "--count", "0"],
        ["fork", "ecg", "bed-7", "--at-seq", "-1"],
        ["forecast", "ecg", "--horizon", "12.5"],
        ["forecast", "ecg", "--seed", "1_0"],
        ["forecast", "ecg", "--temperature", "\u0661"],
        ["models", "--tls-ca", "/nowhere/at-all"],
        ["top", "--interval", "0"],
    ],
)
def test_wrong_usage_is_2(arguments: list[str]) -> None:
    """Unknown flags and commands, missing arguments, values out of range, files that are not there."""
    assert CliRunner().invoke(app, arguments).exit_code == 2


@pytest.mark.parametrize(
    "server", ["", "localhost", "localhost:", ":8101", "localhost:http", "localhost:\u0661", "http://localhost:8101"]
)
def test_a_server_is_host_and_port(server: str) -> None:
    """Anything else is told before a connection is tried."""
    result = CliRunner().invoke(app, ["models", "--server", server])
    assert result.exit_code == 2
    assert result.stderr == f"stepstream: --server: expected HOST:PORT, got {server!r}\n"


@pytest.mark.parametrize(
    "server", ["localhost:8101", "10.0.0.1:8101", "[::1]:8101", "unix:/run/stepstream.sock", "dns:///host:1"]
)
def test_servers_may_be_named_as_grpc_does(server: str) -> None:
    """Host and port, or with a scheme."""
    assert Options(server=server).server == server


def test_flags_stand_before_a_command_or_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those after it count most, the environment least."""
    monkeypatch.setenv("STEPSTREAM_SERVER", "environment:1")
    assert Options.merged({}, {}) == Options(server="environment:1")
    assert Options.merged({"server": "before:1", "json": True}, {"json": None}) == Options(server="before:1", json=True)
    assert Options.merged({"server": "before:1"}, {"server": "after:1"}) == Options(server="after:1")
    monkeypatch.delenv("STEPSTREAM_SERVER")
    assert Options.merged({}, {}) == Options(server="127.0.0.1:8101")


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_every_error_has_its_exit_code_and_its_reason(error: type[StepStreamError], capsys: pytest.CaptureFixture[str]) -> None:
    """1 where the server said no, 3 where there was none to say so; the reason stands behind the message."""

    async def work() -> None:
        raise error("odd session", retry_delay=0.5)

    expected = ExitCode.UNREACHABLE if error.__name__ in UNREACHABLE else ExitCode.REFUSED
    assert run(work, as_json=False) == expected
    told = capsys.readouterr().err
    assert told.startswith(f"stepstream: odd session [{error('').reason or error('').code.name}]\n")
    assert "(in 0.5 s)" in told


def test_advice_names_commands_and_flags_that_there_are() -> None:
    """It would otherwise send people the wrong way."""
    commands = typer.main.get_command(app)
    known = {command.name for command in app.registered_commands}
    flags = {flag for command in commands.commands.values() for each in command.params for flag in each.opts}  # type: ignore[attr-defined]
    for error in [*ERRORS, NoMetrics]:
        words = advice(error("")).replace("`", "").replace(",", "").replace(":", "").split()
        assert {words[place + 1].rstrip(".") for place, word in enumerate(words[:-1]) if word == "stepstream"} <= known
        assert {word for word in words if word.startswith("--")} <= flags


def test_importing_the_client_does_not_bring_the_command_along() -> None:
    """Not even where its extra is installed."""
    program = "import sys, stepstream; print({'stepstream.cli', 'typer', 'rich'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_what_only_terminals_need_waits_for_one() -> None:
    """Line editing, live tables and the parser of metrics take their time to import."""
    program = "import sys, stepstream.cli.app; print({'prompt_toolkit', 'rich', 'prometheus_client'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_the_missing_extra_is_named() -> None:
    """With the base install alone the command says in one line what to install."""
    program = "import sys; sys.modules['typer'] = None; from stepstream.cli import main; main()"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == "stepstream needs typer: pip install 'stepstream[cli]'\n"
