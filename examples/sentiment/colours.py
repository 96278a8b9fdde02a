"""The colour of a score, for terminals."""

from __future__ import annotations

GREY, GOOD, BAD = (128, 128, 128), (49, 130, 189), (214, 39, 40)  # red, green, blue: of scores of 0, FULL or more, -FULL or less
FULL = 2.0


def colour(score: float) -> str:
    """A style of rich: grey at 0, then the bluer the better and the redder the worse."""
    share = min(abs(score) / FULL, 1.0)
    towards = GOOD if score > 0 else BAD
    mixed = (round((1 - share) * grey + share * full) for grey, full in zip(GREY, towards, strict=True))
    return f"rgb({','.join(map(str, mixed))})"
