"""The books: all that an engine knows and changes, and the only code that writes it.

Everything else in the engine is functions over them. `records` says what is written down, `session_table` who there is, `queue`
what waits, `ledger` where each session's numbers stand, `status` what each session may do, `answer_cache` what is kept for
repeats, and `resolution` what rows are told that need no computing.
"""

from stepstream_server.engine.books.books import Books

__all__ = ["Books"]
