"""How a process ends with the one that started it, also when that one is killed and can tell nobody.

Linux alone can send a signal at a parent's end (prctl(2), PR_SET_PDEATHSIG). On other systems nothing of this happens: children
that outlive their parent have to be ended by hand. The end that counts is that of the thread which has started the child.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent(parent: int) -> None:
    """Has this process killed at the end of its parent, whose process id is given. A fork of this process has to ask again."""
    _at_its_end(parent, signal.SIGKILL)


def end_after_parent(parent: int, seconds: float) -> None:
    """Has this process ended at most so many seconds after its parent, whose process id is given, whatever it does then. Until
    then it may end by itself; if it has been stopped (SIGSTOP), it goes on."""

    def hurry(number: int, frame: object) -> None:
        if os.getppid() != parent:  # else somebody has stopped it for a while
            signal.setitimer(signal.ITIMER_REAL, seconds)

    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # it ends the process
    signal.signal(signal.SIGCONT, hurry)
    _at_its_end(parent, signal.SIGCONT)  # beside SIGKILL the only one that reaches a process which is stopped


def _at_its_end(parent: int, number: signal.Signals) -> None:
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(number))
    if os.getppid() != parent:  # it ended before this was asked for
        os.kill(os.getpid(), number)
