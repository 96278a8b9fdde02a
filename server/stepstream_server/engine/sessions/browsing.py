"""Browsing: lists of a tenant's sessions, those in memory first, then those that only the store has."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from stepstream_server.engine.books.session_table import SessionTable
from stepstream_server.engine.durable.questions import Questions
from stepstream_server.engine.ports import HEAD, Browse, Browsed, List, NotDone, Outcome, Page, SessionInfo, TurnReport, Value
from stepstream_server.engine.sessions.finding import Finding
from stepstream_server.engine.sessions.lifecycle import Lifecycle

Tell = Callable[[Value], None]


class Browsing:
    """Pages of sessions."""

    def __init__(
        self,
        table: SessionTable,
        lifecycle: Lifecycle,
        questions: Questions | None,
        finding: Finding | None,
        wall_clock: Callable[[], float],
    ) -> None:
        """questions, finding: None where there is no store. wall_clock: unix seconds."""
        self._table = table
        self._lifecycle = lifecycle
        self._questions = questions
        self._finding = finding
        self._wall_clock = wall_clock

    def list(self, command: List, tell: Tell, now: float) -> None:
        """Tells a page, now or in a later turn."""
        if isinstance(command.start, str):
            self._list_stored(command, command.start, tell)
            return
        sessions, following = self._table.page(command.tenant, command.start, command.most)
        in_store = "" if self._questions is not None else None
        tell(Page(self._lifecycle.info(sessions, now), in_store if following is None else following))

    def _list_stored(self, command: List, after: str, tell: Tell) -> None:
        if self._questions is None:
            tell(Page([], None))
            return
        browse = partial(Browse, tenant=command.tenant, after=after, most=command.most)
        self._questions.ask(browse, partial(self._browsed, command.most, tell))

    def _browsed(self, most: int, tell: Tell, outcome: Outcome, _now: float, _report: TurnReport) -> None:
        if isinstance(outcome, NotDone):
            tell(outcome.error)
        elif isinstance(outcome, Browsed):
            infos = [
                self._info(key, head)
                for key, head in zip(outcome.keys, outcome.heads, strict=True)
                if key not in self._table and not (self._finding is not None and self._finding.concerned(key))
            ]
            tell(Page(infos, outcome.keys[-1] if len(outcome.keys) == most else None))

    def _info(self, key: str, head: Any) -> SessionInfo:
        """head: of HEAD."""
        fields = dict(zip(HEAD.names or (), head.item(), strict=True))
        unix = self._wall_clock()
        return SessionInfo(
            id=key,
            quarantined=fields["quarantined"],
            next_seq=fields["next_seq"],
            acked=fields["acked"],
            pending_steps=0,
            age=unix - fields["opened_at"],
            idle=unix - fields["used_at"],
            idle_ttl=fields["idle_ttl"],
            attached=False,
            slot=0,
            epoch=fields["epoch"],
            durable=True,
            durable_seq=fields["next_seq"],
            stored=True,
        )
