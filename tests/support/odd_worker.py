"""A worker process that may misbehave: it does what the first file in the folder `ODD_WORKERS` is named after, and takes it away.

`1.dies` and the like, in their order; once there is no file left, workers are good ones, but that they serve nobody.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

from stepstream_server.ipc.codec import encode
from stepstream_server.ipc.control import Listening


def behaviour(folder: Path) -> str:
    """What this one is to do."""
    for file in sorted(folder.iterdir()):
        with suppress(FileNotFoundError):  # another worker was faster
            file.unlink()
            return file.suffix
    return ""


def main() -> None:
    """Arguments as of a real one."""
    line = socket.socket(fileno=int(sys.argv[2]))
    what = behaviour(Path(os.environ["ODD_WORKERS"]))
    if what == ".dies":
        sys.exit(3)
    if what != ".silent":
        answer = encode(Listening("no such address" if what == ".refuses" else ""))
        line.sendall(len(answer).to_bytes(4, "little") + answer)
    if what == ".deaf":
        line.close()
        signal.pause()
    while line.recv(1 << 16):
        pass


if __name__ == "__main__":
    main()
