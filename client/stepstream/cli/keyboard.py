"""Lines typed at a terminal: edited as they are typed, and remembered from one conversation to the next."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.lexers import SimpleLexer
from prompt_toolkit.output import create_output
from prompt_toolkit.styles import Style

HISTORY_BYTES = 1 << 20  # some ten thousand lines; beyond it the older half is forgotten when the next conversation begins
# What is typed, to tell it from answers; with NO_COLOR it is bold alone.
YOURS = "class:yours"
STYLE = Style.from_dict({"yours": "ansicyan bold"})


class Keyboard:
    """Prompts on stderr, so that stdout holds answers alone."""

    def __init__(self) -> None:
        self._session: PromptSession[str] = PromptSession(
            history=_history(), lexer=SimpleLexer(YOURS), output=create_output(sys.stderr), style=STYLE, enable_suspend=True
        )

    async def line(self, prompt: str) -> str | None:
        """The next line, which has several where they were pasted together; None at Ctrl-D. Ctrl-C begins it afresh."""
        while True:
            try:
                return await self._session.prompt_async([(YOURS, prompt)])
            except KeyboardInterrupt:
                continue
            except EOFError:
                return None


class _Lines(FileHistory):
    """A history in a file, which a full disk does not end the conversation for."""

    def store_string(self, string: str) -> None:
        with suppress(OSError):
            super().store_string(string)


def _history() -> History:
    """The user's, in a file for their eyes alone; where there is no folder for it, of this conversation only."""
    try:
        path = _state() / "stepstream" / "chat_history"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        path.chmod(0o600)
        _shorten(path)
        return _Lines(str(path))
    except (OSError, RuntimeError):  # RuntimeError: nobody knows the user's home
        return InMemoryHistory()


def _state() -> Path:
    """Where programs keep what they remember, as the XDG base directory specification has it."""
    given = os.environ.get("XDG_STATE_HOME", "")
    return Path(given) if os.path.isabs(given) else Path("~/.local/state").expanduser()


def _shorten(path: Path) -> None:
    """Keeps the younger half of a history that has grown too long, from the beginning of an entry on."""
    entries = path.read_bytes()
    if len(entries) > HISTORY_BYTES:
        begin = entries.find(b"\n#", len(entries) - HISTORY_BYTES // 2)
        path.write_bytes(entries[begin:] if begin >= 0 else b"")
