"""The blocking twin of `stepstream`: the same names without `await`, for plain scripts, threads and notebooks.

    from stepstream import sync

    with sync.Client("127.0.0.1:8101") as client, client.open_session("ecg") as session:
        outputs = session.step([0.12])

Everything else (errors, options, records) is `stepstream`'s own. Each method does what the one of the same name there does, on
an event loop in a background thread, one per client; so it works as well where a loop runs already. It may be used from several
threads at once. A call that Ctrl-C interrupts is cancelled as `asyncio` cancels it.

A client works in the process that made it, and a process with a client must not fork: gRPC's threads do not survive it, and the
child may crash at once. Start processes before there is a client, or by the `spawn` method of `multiprocessing`.
"""

from stepstream.sync._client import Client
from stepstream.sync._session import Rollout, Session, SessionGroup

__all__ = ["Client", "Rollout", "Session", "SessionGroup"]
