"""The token that a client's calls carry: given once, or read from a file that may be replaced while the client is in use."""

from __future__ import annotations

import re
from pathlib import Path
from stat import S_ISREG

from stepstream._errors import InvalidArgument, StepStreamError, Unauthenticated

Metadata = tuple[tuple[str, str], ...]
"""Of a call: pairs of key and value."""

MAX_TOKEN = 4096  # characters: half of the 8 KiB that a gRPC server takes as all of a call's metadata unless told otherwise
_SENDABLE = re.compile(rf"[!-~]{{1,{MAX_TOKEN}}}")


def bearer(name: str, token: str) -> Metadata:
    """The metadata that shows a token. Raises InvalidArgument naming where it came from, without repeating it."""
    if not isinstance(token, str):
        raise InvalidArgument(f"{name}: expected str, got {type(token).__name__}")
    if not _SENDABLE.fullmatch(token):
        others = sum(not "!" <= each <= "~" for each in token)
        expected = f"1 to {MAX_TOKEN} printable ASCII characters without spaces"
        raise InvalidArgument(f"{name}: expected {expected}, got {len(token)} characters, {others} of them others")
    return (("authorization", f"Bearer {token}"),)


class Token:
    """Says what the calls of one client show, and whether another try may show something better."""

    def __init__(self, token: str | None, file: Path | str | None) -> None:
        """token: fixed. file: where it stands instead, with any white space around it."""
        self._file = None if file is None else Path(file)
        self._stamp: tuple[int, ...] = ()  # tells the contents of the file apart
        self._metadata = () if token is None else bearer("token", token)
        self.accepted = False
        """Whether the server has ever accepted one."""

    def metadata(self) -> Metadata:
        """Makes what a call that begins now carries. Raises InvalidArgument while the file has never had a token."""
        if self._file is not None:
            self._read(self._file)
        return self._metadata

    def replaced(self, shown: Metadata) -> bool:
        """Tells whether the file has another token by now than a call has shown."""
        self._stamp = ()  # two changes within some milliseconds may look like one
        return self.metadata() != shown

    def mends(self, failure: StepStreamError, shown: Metadata) -> bool:
        """Tells whether a failure may be mended by what the file says: another token, or one to come where one was good."""
        return isinstance(failure, Unauthenticated) and self._file is not None and (self.replaced(shown) or self.accepted)

    def _read(self, file: Path) -> None:
        """Reads the file if it has changed. One that is just being replaced leaves the last token in use. A pipe is read once:
        opening it again might wait for ever."""
        try:
            found = file.stat()
            stamp = found.st_ino, found.st_size, found.st_mtime_ns
            if stamp == self._stamp or (self._metadata and not S_ISREG(found.st_mode)):
                return
            with file.open("rb") as opened:
                text = opened.read(2 * MAX_TOKEN).decode("ascii", "replace")
            self._metadata = bearer(f"token_file {file}", text.strip())
            self._stamp = stamp
        except OSError as error:
            if not self._metadata:
                raise InvalidArgument(f"token_file {file}: expected a readable file, got {error.strerror}") from None
        except InvalidArgument:
            if not self._metadata:
                raise
