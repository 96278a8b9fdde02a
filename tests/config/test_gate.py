"""The words of a server that is bound to more than its own machine: who could do what, said at its start."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from stepstream_server.config import DoorSettings
from stepstream_server.gate import warn_if_open

TOKENS, TLS = {"tokens": "tenants.toml"}, {"tls_cert": "tls.crt", "tls_key": "tls.key"}


@pytest.mark.parametrize(
    ("listen", "door", "event"),
    [
        ("0.0.0.0:8101", {}, "open_to_everybody"),
        ("[::]:8101", TLS, "open_to_everybody"),
        ("stepstream.example:8101", {}, "open_to_everybody"),
        ("0.0.0.0:8101", TOKENS, "tokens_in_plaintext"),
        ("0.0.0.0:8101", TOKENS | TLS, ""),
        ("127.0.0.1:8101", {}, ""),
        ("127.0.0.2:8101", TOKENS, ""),
        ("[::1]:8101", {}, ""),
        ("localhost:8101", {}, ""),
    ],
)
def test_what_is_open_is_said_once(listen: str, door: dict[str, str], event: str) -> None:
    """On its own machine nothing has to be said."""
    with capture_logs() as logged:
        warn_if_open(listen, DoorSettings.model_validate(door))
    assert [(each["event"], each["log_level"], each["listen"]) for each in logged] == [(event, "warning", listen)] * bool(event)
