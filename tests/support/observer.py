"""An observer that remembers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from stepstream_server.engine.ports import InferenceTotals, Origin, TurnReport
from stepstream_server.errors import Reason


@dataclass
class Reports:
    """Keeps every turn's report."""

    turns: list[TurnReport] = field(default_factory=list)

    def turn(self, report: TurnReport) -> None:
        self.turns.append(report)

    def totals(self) -> InferenceTotals:
        """Nothing: reports are what is looked at."""
        return NOTHING

    @property
    def opened(self) -> Counter[Origin]:
        """Sessions that came to be, over all turns."""
        return sum((Counter(report.opened) for report in self.turns), Counter())

    @property
    def refused(self) -> Counter[Reason]:
        """Sessions that could not be had, over all turns."""
        return sum((Counter(report.refused) for report in self.turns), Counter())

    @property
    def failures(self) -> Counter[Reason]:
        """Steps refused or failed, over all turns."""
        return sum((Counter(report.failures) for report in self.turns), Counter())


class Unobserved:
    """Keeps nothing, where turns are many."""

    def turn(self, report: TurnReport) -> None:
        """Forgets it."""

    def totals(self) -> InferenceTotals:
        """As if nothing had been."""
        return NOTHING


NOTHING = InferenceTotals(0, 0, 0.0, 0.0, 0.0, {}, 0.0)  # what nobody has observed
