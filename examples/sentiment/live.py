"""Colours words as they are typed by how the text sounds so far: every finished word is one step of a session.

Serve the model (`make serve`), then type. A space finishes a word, Enter begins a new text, Backspace takes letters back from a
word that is not finished, Ctrl-C or Ctrl-D ends. From a pipe it reads lines, each of them a text.
"""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from prompt_toolkit.input import Input, create_input
from prompt_toolkit.key_binding import KeyPress
from prompt_toolkit.keys import Keys
from rich.console import Console
from rich.text import Text

sys.path.insert(0, str(Path(__file__).parents[1]))  # its neighbours are `sentiment.…`, from wherever it is started

from sentiment.colours import colour
from sentiment.sentences import WORD

from stepstream import StepStreamError
from stepstream.sync import Client, Session

ROOM = 24  # columns that a word and its score should find on a line
ENDS = (Keys.ControlC, Keys.ControlD)


class Texts:
    """Words go to the session one by one, and to the screen with the score that came back."""

    def __init__(self, session: Session, console: Console) -> None:
        self._session = session
        self.console = console
        self.column = 0  # of the screen, where the next word goes

    def add(self, text: str) -> None:
        """Steps the session on each word of a text that no word goes on behind."""
        for word in WORD.findall(text):
            # One step, but for a letter such as the dotted capital I, which in lower case is a letter and a mark.
            score = float(self._session.chunk(word, outputs="last")["score"][0, 0])
            shown = Text(f"{word} {score:+.1f}  ", style=colour(score))
            self.console.print(shown, end="")
            self.column += shown.cell_len

    def begin(self) -> None:
        """A new text, on a new line."""
        self._session.reset()
        self.new_line()

    def new_line(self) -> None:
        """Goes on below."""
        self.console.print()
        self.column = 0


class Typing:
    """Letters are shown as they are typed, and make room for their word when it is finished."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts
        self._console = texts.console
        self._letters = ""  # of the word that is not finished

    def follow(self, keys: Iterable[KeyPress]) -> None:
        """Until the keys end, or one of them says so."""
        for press in keys:
            if press.key in ENDS:
                break
            if press.key in (Keys.ControlM, Keys.ControlJ):  # Enter
                self._finish()
                self._texts.begin()
            elif press.key == Keys.ControlH:  # Backspace
                self._show(self._letters[:-1])
            elif press.data.isspace():
                self._finish()
            elif press.data.isprintable():
                self._show(self._letters + press.data)
        self._texts.new_line()

    def _finish(self) -> None:
        letters = self._letters
        self._show("")
        self._texts.add(letters)

    def _show(self, letters: str) -> None:
        """These letters in the place of those that are shown."""
        self._console.file.write("\b \b" * Text(self._letters).cell_len)
        if not self._letters and self._texts.column + ROOM > self._console.width:
            self._texts.new_line()
        self._console.file.write(letters)
        self._console.file.flush()
        self._letters = letters


def pressed(keyboard: Input) -> Iterator[KeyPress]:
    """Keys, each as soon as it is pressed, until the terminal goes away."""
    while not keyboard.closed:
        select.select([keyboard.fileno()], [], [])
        yield from keyboard.read_keys()


def follow(session: Session, console: Console) -> None:
    """Reads stdin to its end: keys of a terminal, lines of anything else."""
    texts = Texts(session, console)
    if sys.stdin.isatty() and console.is_terminal:
        keyboard = create_input()
        with keyboard.raw_mode():
            Typing(texts).follow(pressed(keyboard))
        return
    for line in sys.stdin:
        texts.add(line)
        texts.begin()


def main() -> None:
    """Opens a session and follows what is typed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default=os.environ.get("STEPSTREAM_SERVER", "127.0.0.1:8101"), help="default: %(default)s")
    parser.add_argument("--model", default="sentiment", help="default: %(default)s")
    options = parser.parse_args()
    try:
        with suppress(KeyboardInterrupt), Client(options.server) as client, client.open_session(options.model) as session:
            follow(session, Console(highlight=False, soft_wrap=True))
    except StepStreamError as error:
        sys.exit(f"live.py: {error}")


if __name__ == "__main__":
    main()
