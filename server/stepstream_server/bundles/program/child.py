"""The process behind `Confinement`: reads requests, a line of JSON each, forks a job for each and answers with how it ended.

Jobs are forked rather than started, since importing onnx and onnxruntime takes half a second. This process itself never looks at
a file, so that no job finds it harmed.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from typing import Any

from stepstream_server.bundles.fields import printable
from stepstream_server.bundles.program.tasks import TASKS
from stepstream_server.errors import BundleError
from stepstream_server.parent import end_with_parent


def main() -> None:
    """Serves requests until there are no more. Argument: the id of the process that makes them."""
    end_with_parent(int(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "r+b") as nothing:  # a runtime that crashes says things
        for number in (1, 2):
            os.dup2(nothing.fileno(), number)
    for line in sys.stdin.buffer:
        answers.write(json.dumps(_served(json.loads(line))).encode() + b"\n")
        answers.flush()


def _served(request: dict[str, Any]) -> dict[str, Any]:
    """The answer of a job of its own, with `status` (a negative number: the signal that ended it) and `peak_bytes`."""
    reading, writing = os.pipe()
    parent, job = os.getpid(), os.fork()
    if not job:
        os.close(reading)
        _run(request, writing, parent)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    _, status, used = os.wait4(job, 0)
    ended = {"status": os.waitstatus_to_exitcode(status), "peak_bytes": used.ru_maxrss << 10}
    return ended | (json.loads(said) if said and not status else {})


def _run(request: dict[str, Any], writing: int, parent: int) -> None:
    """The job; it never returns."""
    try:
        end_with_parent(parent)
        _confine(request["bytes"], request["seconds"])
        text = json.dumps(_outcome(request))
        with os.fdopen(writing, "w") as pipe:
            pipe.write(text)
        os._exit(0)
    finally:
        os._exit(1)


def _confine(most_bytes: int, seconds: float) -> None:
    """Bounds this process: no more memory, no core file, and an alarm that ends it wherever it is."""
    resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _outcome(request: dict[str, Any]) -> dict[str, Any]:
    file = os.path.basename(request["arguments"][0])
    try:
        return {"value": TASKS[request["task"]](*request["arguments"])}
    except BundleError as error:
        return {"refused": printable(str(error))}
    except MemoryError:
        most = request["bytes"] >> 20
        return {"refused": f"{file}: expected a graph that can be tried within {most} MiB of memory, got one that wants more"}
    except Exception as error:  # whatever parsing and computing a file of any content may raise
        what = f"{type(error).__name__}: {str(error)[:300]}"
        return {"refused": printable(f"{file}: expected a graph that can be tried, got {what}")}


if __name__ == "__main__":
    main()
