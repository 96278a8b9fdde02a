"""A store that carries each task out as soon as it is asked, or cannot: for front doors whose engines turn by themselves."""

from __future__ import annotations

from stepstream_server.engine.ports import Task
from support.stepped_store import SteppedStore


class InstantStore(SteppedStore):
    """A store that carries tasks out as they are submitted, on the engine's thread."""

    down = False  # whether nothing can be carried out, until it is said to be well again

    def submit(self, task: Task) -> None:
        super().submit(task)
        if self.down:
            self.fail()
        else:
            self.step()
