"""An engine over a hand-stepped store, which can die and be followed by another one over the same contents."""

from __future__ import annotations

from typing import Any

import numpy as np

from stepstream_server.config import EngineSettings, StoreSettings
from stepstream_server.engine.durable.questions import Keeping
from stepstream_server.engine.engine import Engine
from stepstream_server.engine.ports import NO_SEQ, Attach, Browse, Close, Ending, Import, Open, Opened
from stepstream_server.snapshots import Snapshot
from stepstream_server.store.layout import FORMAT
from stepstream_server.store.port import Row, Space
from support.backend import FakeBackend
from support.clock import FakeClock
from support.engine import Ear, Harness
from support.observer import Reports
from support.stepped_store import Contents, SteppedStore

_STARTED = 1.7e9  # unix seconds at which the clock's 0 lies


class Durable(Harness):
    """Sessions that survive `crash`. The store carries out what `step` says."""

    def __init__(self, backend: FakeBackend | None = None, *, always: bool = False, **settings: float) -> None:
        self.clock = FakeClock()
        self.contents = Contents(clock=self.unix)
        self._request = 0
        self._always, self._settings = always, settings
        self.crash(backend)

    def unix(self) -> float:
        """Unix seconds."""
        return self.clock() + _STARTED

    def crash(self, backend: FakeBackend | None = None) -> None:
        """The server dies with all that it has not written, and another one begins."""
        self.backend = backend or FakeBackend()
        self.reports = Reports()
        self.store = SteppedStore(self.spec, self.backend.numerics, self.contents)
        options = {"capacity": self.backend.slots, "rollout_hold_seconds": 0.0, **self._settings}
        self.engine = Engine(
            self.spec,
            self.backend,
            EngineSettings.model_validate(options),
            self.reports,
            self.clock,
            keeping=Keeping(self.store, StoreSettings(), self._always),
            wall_clock=self.unix,
        )
        self.store.inbox = self.engine.inbox
        self.ear = Ear()
        self.door = self.engine.connect(self.ear)

    def step(self, how: str = "step") -> list[Any]:
        """The store carries all out that it is asked, or it is down (`fail`), or its answers are lost (`lose_reply`); then the
        engine turns. Returns the outcomes of that turn."""
        for _ in range(len(self.store.tasks)):
            getattr(self.store, how)()
        return list(self.turn())

    def done(self, times: int = 4) -> list[Any]:
        """The store carries out all that it is asked, and the engine hears of it, until nothing more comes of it."""
        outcomes = list(self.turn())
        for _ in range(times):
            outcomes += self.step()
        return outcomes

    def asked(self) -> list[str]:
        """Gives what the store is asked and has not done."""
        return [type(task).__name__ for task in self.store.tasks]

    def stored(self) -> list[str]:
        """Keys of the sessions in the store."""
        return [key for key, _ in self.contents.archive.page(self._space, Browse(0, "", "", 1 << 30))]

    def ended(self, key: str) -> Ending | None:
        """How a session has ended, as the store knows it."""
        (kept,) = self.contents.archive.read(self._space, [key], self.unix())
        return kept if isinstance(kept, Ending) else None

    def write_newer_format(self, key: str) -> None:
        """Another server, of a newer version, has written the session."""
        (record,) = self.contents.archive.read(self._space, [key], self.unix())
        assert isinstance(record, bytes)
        newer = record[:8] + (FORMAT + 1).to_bytes(4, "little") + record[12:]
        self.contents.archive.put(self._space, [Row(key, float("inf"), b"", newer)])

    @property
    def _space(self) -> Space:
        return Space(self.spec.name, self.spec.version)

    def told(self, request: int) -> Any:
        """The reply to a request; None while there is none."""
        return self.ear.replies.get(request)

    def open_durably(self, ids: list[str], *, stream: int = 1, request_id: str = "", attached: bool = True) -> int:
        """Submits an open; the reply lies in `ear.replies` under the number returned."""
        request = self.request()
        handles = np.arange(len(ids), dtype=np.uint32) if attached else None
        self.door.submit(Open(stream, request, ids, handles, None, request_id, durable=True))
        return request

    def opened(self, *ids: str, **options: Any) -> list[Opened]:
        """Opens durable sessions, which the store has then."""
        request = self.open_durably(list(ids) or [""], **options)
        self.ear.outcomes = self.done()
        opened: list[Opened] = self.told(request)
        return opened

    def attach_again(
        self, session: Opened, *, stream: int = 1, handle: int = 0, acked: int = 0, replay_from: int = NO_SEQ, secret: bytes = b""
    ) -> int:
        """Submits an attach of a session of a former life."""
        request, handles = self.request(), np.array([handle], np.uint32)
        replay = np.array([replay_from])
        secrets = [secret or session.secret]
        self.door.submit(Attach(stream, request, handles, [session.id], secrets, np.array([acked]), replay_from=replay))
        return request

    def attached(self, session: Opened, **options: Any) -> Any:
        """Attaches one, whatever it takes: an Opened, or the error."""
        request = self.attach_again(session, **options)
        self.ear.outcomes = self.done()
        return self.told(request)[0]

    def submit_close(self, session: Opened, secret: bytes | None = None) -> int:
        request = self.request()
        self.door.submit(Close(request, session.id, session.secret if secret is None else secret))
        return request

    def submit_load(self, snapshot: Snapshot, session_id: str = "", request_id: str = "", *, durable: bool = True) -> int:
        request = self.request()
        self.door.submit(Import(request, snapshot, session_id, request_id, durable))
        return request
