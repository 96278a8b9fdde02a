"""The command: usage, exit codes, signals. The server itself is a stand-in here; `tests/system` starts the real one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stepstream_server.access import Access, Principals, Role
from stepstream_server.cli import app

# Runs the command with an `app` room whose `serve` does what the test's body says.
HARNESS = """
import asyncio, sys, types
from types import SimpleNamespace

room = types.ModuleType("stepstream_server.app")

async def serve(settings, *, stop, on_started, levels):
{body}

room.serve = serve
sys.modules["stepstream_server.app"] = room
from stepstream_server.cli import main
sys.argv = ["stepstream-server", "serve", "--engine.capacity", "7", *{flags!r}]
main()
"""
WAIT = 'on_started(SimpleNamespace(listen="127.0.0.1:40123", metrics="127.0.0.1:40124", health=""))\nawait stop.wait()'


def command(body: str, *flags: str) -> subprocess.Popen[str]:
    """The command in a process of its own, with a stand-in for the server."""
    program = HARNESS.format(body=textwrap.indent(body, "    "), flags=flags)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STEPSTREAM_")}
    return subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def read_line(process: subprocess.Popen[str]) -> str:
    """The next line on stdout."""
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_stop_and_the_servers_code_is_the_commands(number: signal.Signals) -> None:
    """The server gets its settings, says where it listens on stdout and in the log, stops when told, and its code goes out."""
    with command(f"{WAIT}\nprint(settings.engine.capacity)\nreturn 5") as process:
        assert json.loads(read_line(process)) == {"listening": "127.0.0.1:40123", "metrics": "http://127.0.0.1:40124/metrics"}
        process.send_signal(number)
        stdout, stderr = process.communicate()
    assert (process.returncode, stdout) == (5, "7\n")
    assert '"event": "listening"' in stderr


def test_where_it_listens_is_told_in_the_form_of_the_log() -> None:
    """In words, a line each, where the log is for people too."""
    with command(WAIT, "--log.format", "console") as process:
        assert read_line(process) == "listening 127.0.0.1:40123\n"
        assert read_line(process) == "metrics http://127.0.0.1:40124/metrics\n"
        process.terminate()
        assert process.communicate()[0] == ""


def test_a_second_signal_ends_at_once() -> None:
    """Whoever does not want to wait for the drain need not."""
    with command(f"{WAIT}\nprint('draining', flush=True)\nawait asyncio.Event().wait()") as process:
        read_line(process)
        process.send_signal(signal.SIGTERM)
        assert read_line(process) == "draining\n"
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert process.returncode == -signal.SIGTERM


def test_a_hang_up_reads_the_level_anew_where_it_was_named(tmp_path: Path) -> None:
    """From the file, which has changed; what a flag says stays. Processes of the server are told too."""
    file = tmp_path / "settings.toml"
    told = "while True: print(await levels.get(), flush=True)"
    for flags, level, source in (
        ((), "debug", f"file {file}"),
        (("--log.level", "error"), "error", "flag --log.level; flags and variables stay as they were at the start"),
    ):
        file.write_text('log.level = "warning"')
        with command(f"{WAIT.splitlines()[0]}\n{told}", "--config", str(file), *flags) as process:
            read_line(process)
            file.write_text('log.level = "debug"')
            process.send_signal(signal.SIGHUP)
            assert read_line(process) == f"{level}\n"
            process.kill()
            (line,) = [json.loads(line) for line in process.communicate()[1].splitlines()]
        assert (line["event"], line["log_level"], line["source"]) == ("log_level_taken", level, source)


@pytest.mark.parametrize(
    "error",
    [
        "from stepstream_server.errors import BundleError as E\nraise E('odd bundle')",
        "from stepstream_server.errors import Reason, ServerFault as E\nraise E(Reason.ENGINE_FAILED, 'odd bundle')",
        "raise OSError('odd bundle')",
    ],
)
def test_what_keeps_the_server_from_starting_is_one_line(error: str) -> None:
    """A bundle that cannot be served, a backend that does not hold its promise, a taken port: exit code 1, no traceback."""
    with command(error) as process:
        stdout, stderr = process.communicate()
    assert (process.returncode, stdout, stderr) == (1, "", "odd bundle\n")


def test_wrong_settings_are_told_before_anything_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 2 and the message, without the server's rooms being imported."""
    monkeypatch.setitem(sys.modules, "stepstream_server.app", None)  # importing it would raise
    result = CliRunner().invoke(app, ["serve", "--engine.capacity", "0"])
    assert result.exit_code == 2
    assert result.stderr == "flag --engine.capacity: engine.capacity: must be greater than 0; got '0'\n"


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown variable of ours keeps the server from starting."""
    monkeypatch.setenv("STEPSTREAM_LISTN", "127.0.0.1:0")
    result = CliRunner().invoke(app, ["serve"])
    assert result.exit_code == 2
    assert "STEPSTREAM_LISTEN" in result.stderr


@pytest.mark.parametrize("arguments", [["serve", "--listn", "x"], ["init-model"], ["init-model", "m", "--cell", "cnn"], ["sing"]])
def test_wrong_usage_is_2(arguments: list[str]) -> None:
    """Unknown flags and commands, missing arguments, values out of range."""
    assert CliRunner().invoke(app, arguments).exit_code == 2


def test_the_version_is_told() -> None:
    """`--version` prints it and exits well."""
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.startswith("stepstream-server 0.")


def test_a_model_is_written_and_inspected(tmp_path: Path) -> None:
    """What `init-model` writes, `inspect` describes; writing over it is refused with exit code 1."""
    arguments = ["init-model", str(tmp_path / "load"), "--cell", "gru", "--inputs", "3", "--hidden", "5", "--seed", "1"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    described = CliRunner().invoke(app, ["inspect", str(tmp_path / "load")])
    assert described.exit_code == 0
    assert "load" in described.stdout
    assert "gru" in described.stdout
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 1
    assert str(tmp_path / "load") in again.stderr


def test_what_is_no_bundle_is_one_line(tmp_path: Path) -> None:
    """`inspect` of an empty folder: exit code 1 and a message that names the missing file."""
    result = CliRunner().invoke(app, ["inspect", str(tmp_path)])
    assert result.exit_code == 1
    assert "model.json" in result.stderr


def test_a_token_is_printed_once_and_its_entry_beside_it() -> None:
    """The entry alone is a file of tenants, in which the token is known and from which it cannot be read."""
    result = CliRunner().invoke(app, ["token", "--tenant", "ward.3", "--role", "admin", "--name", 'Dr. "X" \\'])
    assert result.exit_code == 0
    token = result.stdout.strip()
    access = Access.model_validate(tomllib.loads(result.stderr))
    found = Principals(access).of_token(token)
    assert found is not None
    assert (found.tenant, found.role, found.name) == ("ward.3", Role.ADMIN, 'Dr. "X" \\')
    assert token not in result.stderr


def test_a_token_needs_a_tenant_that_can_be() -> None:
    """Exit code 2, and no token."""
    result = CliRunner().invoke(app, ["token", "--tenant", "a/b"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "tenants: expected names of 1 to 64 characters" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["drain"], 2, "admin: expected the path of a socket from --socket, STEPSTREAM_ADMIN or a file, got none"),
        (["list", "--config", "missing.toml"], 2, "file missing.toml: expected readable TOML"),
        (["close", "--model", "m", "--socket", "nil"], 2, "close: expected either session or all"),
        (["tenants", "--socket", "nil"], 1, "nil: No such file or directory"),
    ],
)
def test_administrators_are_told_what_is_missing(
    arguments: list[str], code: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket, settings, an argument, a server."""
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["admin", *arguments])
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith(told)


def test_the_commands_help_loads_no_engine() -> None:
    """`--help` is quick because nothing heavy is imported for it."""
    heavy = {"grpc", "numpy", "onnxruntime", "prometheus_client", "torch"}
    program = f"import sys, stepstream_server.cli; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_the_missing_extra_is_named() -> None:
    """With the base install alone the command says in one line what to install."""
    program = "import sys; sys.modules['structlog'] = None; import stepstream_server.cli"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == "stepstream-server needs structlog: pip install 'stepstream[server]'\n"
