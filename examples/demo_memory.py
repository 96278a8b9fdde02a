"""A memory that survives its server: a durable session is told something, the server is killed, and the session still knows it.

Starts a server with a store on disk, tells a session of the model `memory` where somebody grew up, and kills the server with
SIGKILL. Another server is started on the same store and the same port, and the same session is asked for a language. The client
notices a pause. In the end the server is stopped, and the store removed.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from demo import MODELS, conclude
from monitor.server import running_server
from rich.console import Console

from stepstream import Client

MODEL = "memory"
TOLD, ASKED = "I grew up in Pakistan.", "I speak fluent"


async def run(console: Console) -> int:
    """The whole demonstration. Returns the exit code."""
    with tempfile.TemporaryDirectory() as name:
        models = Path(name) / "models"  # one alone is served sooner
        models.mkdir()
        (models / MODEL).symlink_to(MODELS / MODEL)
        store = ("--store.url", f"sqlite:{Path(name) / 'sessions.db'}")
        async with running_server(models, *store) as killed, Client(killed.address) as client:
            console.print(f"Server {killed.pid} at {killed.address}, its store is a file", highlight=False)
            session = await client.open_session(MODEL, durable=True)
            await session.chunk(TOLD, outputs="none")
            console.print(f"{TOLD:24} {session.next_seq} words, applied by server {killed.pid}", highlight=False)
            os.kill(killed.pid, signal.SIGKILL)
            began = time.perf_counter()
            async with running_server(models, *store, "--listen", killed.address) as server:
                console.print(f"[bold red]SIGKILL[/bold red] of server {killed.pid}; now server {server.pid}", highlight=False)
                answer = await session.generate(ASKED, max_steps=1, greedy=True).whole()
                seconds = time.perf_counter() - began
                console.print(f"{ASKED}[bold green]{answer}[/bold green].", highlight=False)
                console.print(
                    f"{session.next_seq} words, and one pause of {seconds:.1f} s: nothing was told twice.", highlight=False
                )
                await session.close()
    console.print(f"Server stopped with exit code {server.exit_code}")
    return int(server.exit_code != 0)


def main() -> int:
    """Runs the whole demonstration."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    console = Console()
    return conclude(run(console), console)


if __name__ == "__main__":
    sys.exit(main())
