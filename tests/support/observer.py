"""An observer that remembers."""

from __future__ import annotations

from dataclasses import dataclass, field

from stepstream_server.engine.ports import TurnReport


@dataclass
class Reports:
    """Keeps every turn's report."""

    turns: list[TurnReport] = field(default_factory=list)

    def turn(self, report: TurnReport) -> None:
        self.turns.append(report)


class Unobserved:
    """Keeps nothing, where turns are many."""

    def turn(self, report: TurnReport) -> None:
        """Forgets it."""
