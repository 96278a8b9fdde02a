"""Requests of administrators: a line of JSON, which is answered by lines of JSON.

Each line of an answer is an object of one field: `row`, an object of plain values; or, as the last one, `done`, how many rows
there were, or `error`, what was wrong in words.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

LINE_BYTES = 64 * 1024  # of a request; the longest that means anything takes less than one KiB

Row: TypeAlias = dict[str, Any]
Name = Annotated[str, Field(max_length=128, pattern=r"^[^/]*$")]  # as long as an id; `/` stands between tenants and ids


class _Request(BaseModel):
    """Knows no other fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class ListSessions(_Request):
    """Rows: open sessions."""

    command: Literal["list"] = "list"
    model: Name | None = None  # None: of all
    tenant: Name | None = None  # None: of all


class CloseSessions(_Request):
    """Rows: sessions that were closed."""

    command: Literal["close"] = "close"
    model: Name
    model_version: int | None = None  # None: every one that is served
    tenant: Name = ""
    session: Name | None = None
    all: bool = False  # all sessions of the tenant, in place of one

    @model_validator(mode="after")
    def _says_which(self) -> Self:
        if (self.session is not None) == self.all:
            raise ValueError("expected either session or all")
        return self


class ListTenants(_Request):
    """Rows: what each tenant has of each model, and may have."""

    command: Literal["tenants"] = "tenants"


class Drain(_Request):
    """Has the server stop as SIGTERM does."""

    command: Literal["drain"] = "drain"


class Reload(_Request):
    """Has the server read its file of tenants."""

    command: Literal["reload"] = "reload"


Request: TypeAlias = ListSessions | CloseSessions | ListTenants | Drain | Reload
_REQUESTS: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="command")])


class RequestError(Exception):
    """A line that is no request. The message names the field and repeats no value."""


def parse(line: bytes) -> Request:
    """Raises RequestError."""
    try:
        return _REQUESTS.validate_json(line)
    except ValidationError as error:
        faults = [_fault(".".join(map(str, each["loc"])), each["msg"]) for each in error.errors(include_input=False)[:5]]
        raise RequestError("; ".join(faults)) from None


def _fault(where: str, what: str) -> str:
    return f"{where or 'request'}: {what.removeprefix('Value error, ')}"[:500]
