"""Compiles the engine's rules: plain scalar code for one row or one session, run over the rows of a turn by numba.

With NUMBA_DISABLE_JIT=1 the same lines run as Python, step by step in a debugger. Compiled code is kept on disk: in
NUMBA_CACHE_DIR if that is set, else beside the source in `__pycache__`. Where nothing can be written, what lies there is read
all the same, and what is missing is compiled in memory. One digest of all sources stands for each of them, since compiled code
contains the code of other modules.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache

_ENGINE = Path(__file__).parent
_F = TypeVar("_F", bound=Callable[..., Any])
# Nothing is divided by zero, and no array is made: what numba would add for both takes half of the time to compile.
_OPTIONS: dict[str, Any] = {"error_model": "numpy", "_nrt": False}
_config: Any = numba.config


def compiled(function: _F) -> _F:
    """Decorates a function of numbers and arrays.

    A call keeps the interpreter's lock: it takes microseconds, and a lock that was given away comes back after the switch
    interval.
    """
    dispatcher: Any = numba.njit(function, **_OPTIONS)
    if not _config.DISABLE_JIT:
        dispatcher._cache = _Cache(function)  # type: ignore[no-untyped-call]
    return cast(_F, dispatcher)


def cache_folder() -> Path:
    """The folder that compiled code is kept in."""
    return Path(_config.CACHE_DIR) / "stepstream" if _config.CACHE_DIR else _ENGINE / "__pycache__"


@cache
def _digest() -> str:
    """Stands for all sources in the engine."""
    sources = hashlib.sha256()
    for path in sorted(_ENGINE.rglob("*.py")):
        sources.update(path.read_bytes())
    return sources.hexdigest()


def lies_on_disk(function: Callable[..., Any]) -> bool:
    """Tells whether a compiled function lies there, for this processor and these sources."""
    dispatcher: Any = function
    return bool(_config.DISABLE_JIT or dispatcher._cache.has_one_for(dispatcher.targetctx.codegen()))


class _Locator:
    """Says where the compiled code of a function lies, and for which sources it stands; the interface is numba's."""

    @classmethod
    def from_function(cls, _function: Callable[..., Any], _file: str) -> Self:
        return cls()

    def get_cache_path(self) -> str:
        return str(cache_folder())

    def ensure_cache_path(self) -> None:
        with suppress(OSError):
            os.makedirs(self.get_cache_path(), exist_ok=True)

    def get_source_stamp(self) -> str:
        return _digest()

    def get_disambiguator(self) -> str:
        return "0"  # names are unique within a module


class _Files(CompileResultCacheImpl):
    _locator_classes = cast(Any, [_Locator])


class _Cache(FunctionCache):
    _impl_class = _Files

    def has_one_for(self, codegen: Any) -> bool:
        """Tells whether something was kept for that processor."""
        processor = codegen.magic_tuple()
        return any(processor in key for key in self._cache_file._load_index())  # type: ignore[no-untyped-call]

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keeps what was compiled, where that is possible."""
        with suppress(OSError):
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]
