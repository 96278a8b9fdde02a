"""The settings page, the records and the help say the same."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from stepstream_server.cli import app
from stepstream_server.sources import fields, in_file_alone, variable

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_page_has_the_records_table() -> None:
    """Name, default, variable and reason of every setting; renew it with `stepstream-server settings`."""
    default = {key: "none" if field.default == "" else f"`{field.default}`" for key, field in fields()}
    where = {key: "none: in the file alone" if in_file_alone(key) else f"`{variable(key)}`" for key, _ in fields()}
    rows = [f"| `{key}` | {default[key]} | {where[key]} | {field.description} |" for key, field in fields()]
    table = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert table == rows


def test_the_command_prints_the_pages_table() -> None:
    """`stepstream-server settings` prints what the page shows."""
    assert CliRunner().invoke(app, ["settings"]).output in PAGE.read_text()


def test_the_help_lists_every_setting() -> None:
    """Each setting is a flag of `serve`, with its reason, but for those of single models."""
    help_text = " ".join(CliRunner().invoke(app, ["serve", "--help"], terminal_width=1000).output.split())
    for key, field in fields():
        assert (f"--{key} " in help_text) != in_file_alone(key)
        assert (str(field.description) in help_text) != in_file_alone(key)


def test_every_setting_has_a_reason() -> None:
    """A sentence, and a default that its own record accepts."""
    for key, field in fields():
        assert field.description, key
        assert field.description.endswith("."), key
