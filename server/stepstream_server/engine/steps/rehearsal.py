"""The rehearsal: has every compiled rule ready before the first caller comes.

Each is called once with nothing to do, on books of its own. What is compiled already, in this process or on disk, is not compiled
again.
"""

from __future__ import annotations

import numpy as np

from stepstream_server.config import EngineSettings
from stepstream_server.engine.books import Books, answer_cache, ledger, resolution, session_table, status
from stepstream_server.engine.books.records import CANDIDATE
from stepstream_server.engine.compiled import lies_on_disk
from stepstream_server.engine.ports import ROW
from stepstream_server.engine.steps import admission, one_shot, scheduler, settlement
from stepstream_server.spec import CellModel, CellSpec, HeadSpec, ModelSpec, StateSpec, TensorSpec

_SPEC = ModelSpec(
    name="rehearsal",
    version=1,
    inputs=(TensorSpec("x", "float32", (1,)),),
    outputs=(TensorSpec("y", "float32", (1,)),),
    states=(StateSpec("h", (1,)),),
    computation=CellModel(CellSpec("rnn", 1, 1, 1)),
    heads=(HeadSpec("y", "regression", 1),),
    fingerprint="",
)
_NOBODY = np.zeros(0, np.int64)


def is_prepared() -> bool:
    """Tells whether the rules lie on disk as compiled for this processor. Compiling them takes some 30 seconds."""
    return lies_on_disk(admission.admit)


def rehearse() -> None:
    """Loads all rules, or compiles them and keeps them on disk where that is possible."""
    books = Books(_SPEC, EngineSettings(capacity=1, max_batch=1))
    _rehearse_books(books)
    _rehearse_steps(books)


def _rehearse_books(books: Books) -> None:
    records, pages, table = books.records, books.cache.pages, books.table
    session_table.open_sessions(table.sessions, _NOBODY, _NOBODY, 0.0)
    session_table.end_sessions(table.sessions, _NOBODY)
    table.move(0, status.Event.OPENED)
    answer_cache.pages_used(pages)
    answer_cache.find_places(pages, 0, 0, _NOBODY)
    answer_cache.make_places(pages, 0, _NOBODY, _NOBODY)
    books.begin_at(0, 0, 0, 0)
    books.rolled_before(0, 0, 0)
    books.go_back(0, 0)
    books.reached_by(0, _NOBODY)
    books.acknowledge(_NOBODY, _NOBODY, 0.0)
    books.let_go_of_answers(_NOBODY)
    books.drop_held(_NOBODY)
    books.move_on(_NOBODY, 1, 0.0)
    books.mark_dirty(_NOBODY, 0.0)
    books.cache.find_all(_NOBODY, _NOBODY, _NOBODY)
    books.queued_streams()
    books.take_out(0)
    ledger.drop_streams(records, _NOBODY)
    resolution.resolve(records, 0, 0.0)


def _rehearse_steps(books: Books) -> None:
    candidates, plan = np.zeros(1, CANDIDATE), scheduler.Scheduler(1, 1.0, 1.0).plan
    rows = np.zeros(0, ROW)
    intake = books.take_in(0, "")
    admission.admit(books.arrays, rows, _NOBODY, _NOBODY, 0, intake, 0, 0, 0.0)
    admission.why_not_first(books.records, rows, _NOBODY, 0, 0.0, _NOBODY)
    scheduler.cut(books.arrays, candidates, candidates[:0], plan, 0.0, _NOBODY, _NOBODY)
    one_shot.all_free(books.table.sessions, _NOBODY)
    columns, seconds, steps = np.zeros((5, 0), np.int64), np.zeros((2, 0)), np.zeros((3, 0), np.int64)
    apart = np.zeros((2, 0), np.int64)
    settlement.settle(books.arrays, _NOBODY, 1, _NOBODY, 0.0, 0.0, columns, seconds, steps, apart)
    settlement.kept_answers(books.records, _NOBODY, columns, _NOBODY)
