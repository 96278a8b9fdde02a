"""A worker process that may misbehave: it does what the first file in the folder `ODD_WORKERS` is named after, and takes it away.

`1.dies` and the like, in their order; once there is no file left, workers are good ones, but that they serve nobody.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from stepstream_server.ipc.codec import decode, encode
from stepstream_server.ipc.control import Count, Counts, Drained, DrainStreams, Listening


def behaviour(folder: Path) -> str:
    """Takes the name of what this worker is to do."""
    for file in sorted(folder.iterdir()):
        with suppress(FileNotFoundError):  # another worker was faster
            file.unlink()
            return file.suffix
    return ""


def tell(line: socket.socket, message: object) -> None:
    """Tells the main process something, as a channel does."""
    frame = encode(message)
    line.sendall(len(frame).to_bytes(4, "little") + frame)


def heard(line: socket.socket) -> Iterator[object]:
    """Hears the main process to its end."""
    with line.makefile("rb") as file:
        while size := file.read(4):
            yield decode(file.read(int.from_bytes(size, "little")))


def main() -> None:
    """Runs with the arguments of a real worker."""
    line = socket.socket(fileno=int(sys.argv[2]))
    what = behaviour(Path(os.environ["ODD_WORKERS"]))
    if what == ".dies":
        sys.exit(3)
    if what == ".stops":
        os.kill(os.getpid(), signal.SIGSTOP)
    if what != ".silent":
        tell(line, Listening("no such address" if what == ".refuses" else ""))
    if what == ".deaf":
        line.close()
        signal.pause()
    if what == ".hangs":
        os.kill(os.getpid(), signal.SIGSTOP)
    for message in heard(line):
        match message:
            case Count() if what != ".silent":
                tell(line, Counts([], 0.0, 0))
            case DrainStreams():
                tell(line, Drained(True))


if __name__ == "__main__":
    main()
