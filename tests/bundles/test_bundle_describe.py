"""What `inspect` prints."""

from __future__ import annotations

from stepstream_server.bundles import Bundle, describe, load
from support.spoil import edit


def facts(bundle: Bundle) -> list[tuple[str, str]]:
    """The lines as (name, value)."""
    return [(name.strip(), value) for name, _, value in (line.partition("  ") for line in describe(bundle).splitlines())]


def test_every_fact_is_there(heart: Bundle) -> None:
    """Tensors, states, sizes, cost of a session, fingerprint, licence and provenance."""
    lines = [(name, value.strip()) for name, value in facts(heart)]
    for expected in (
        ("model", "heart version 3"),
        ("input", "mv: float32 [1]  lead II, mV"),
        ("output", "next: float32 [3]  mV"),
        ("state", "c: float32 [2, 4]"),
        ("state", "last.rhythm: float32 [2]"),
        ("front", "2 normalised features, half of them differences from the step before"),
        ("cell", "lstm, input 2, hidden 4, 2 layers"),
        ("head", "next: quantiles of width 3 at 0.1, 0.5, 0.9, as a change of mv, fed back as mv by a rollout"),
        ("parameters", f"{16 * (2 + 4 + 2) + 16 * (4 + 4 + 2) + 6 * 5}"),
        ("state", f"{4 * (8 + 8 + 1 + 6)} bytes per session"),
        ("outputs", "24 bytes per step"),
        ("time step", "0.0125 s (80 per second)"),
        ("fingerprint", heart.spec.fingerprint),
        ("licence", "ODC-By-1.0"),
        ("provenance", "Recorded for this test."),
        ("extra.patients", "[1, 2]"),
    ):
        assert expected in lines


def test_tokens_are_told_with_their_range(text: Bundle) -> None:
    """A token input says which values are valid; what is not stated is said to be so."""
    lines = [(name, value.strip()) for name, value in facts(text)]
    assert ("input", "token: int64 [], 0 to 4") in lines
    assert ("front", "embedding of 5 tokens, width 3") in lines
    assert ("text", "tokens are words") in lines
    assert ("licence", "not stated") in lines
    assert not [name for name, _ in lines if name == "time step"]


def test_a_bundle_cannot_steer_the_terminal(heart: Bundle) -> None:
    """Control characters and line breaks of a manifest are not printed."""
    edit(heart.path, "description", "fine\x1b[2J\r\nlicence  MIT")
    printed = describe(load(heart.path))
    assert "\x1b" not in printed
    assert "\r" not in printed
    assert len(printed.splitlines()) == len(describe(heart).splitlines())
