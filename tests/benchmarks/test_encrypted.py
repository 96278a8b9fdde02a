"""Generators speak TLS and show tokens, call as well as stream, and what they see is told beside what others see."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.certificates import LOCAL, make_certificate
from benchmarks.drive import run, run_calls
from benchmarks.encrypted import tell
from benchmarks.load import Plan, Result
from stepstream_server.access import entry, make_token
from stepstream_server.bundles import Bundle
from support.certificates import OPENSSL
from support.server import serving

RESULT = Result(steps=10, blocks=10, seconds=1.0, generator_cpu=0.5, server_cpu=0.001, p50=0.001, p99=0.002, p999=0.003)


@pytest.mark.skipif(OPENSSL is None, reason="openssl makes the certificate")
@pytest.mark.parametrize("drive", [run, run_calls], ids=["streams", "calls"])
async def test_a_server_with_tls_and_tokens_is_loaded(bundle: Bundle, tmp_path: Path, drive: Callable[[Plan], Result]) -> None:
    """By those who trust it and show a token; without the one or the other no step is taken."""
    token, tenants = make_token(), tmp_path / "tenants.toml"
    tenants.write_text(entry("bench", token))
    key, certificate = make_certificate(tmp_path, "server", "-addext", LOCAL)
    door = {"tls_cert": str(certificate), "tls_key": str(key), "tokens": str(tenants)}
    async with serving(bundle.path.parent, door=door) as bound:
        plan = Plan(bound.listen, os.getpid(), bundle.spec.name, 2, 3, streams=3, connections=3, seconds=0.05)
        right = replace(plan, authority_file=str(certificate), token=token)
        assert (await asyncio.to_thread(drive, right)).steps >= 3
        with pytest.raises(RuntimeError, match="the server ended it"):
            await asyncio.to_thread(drive, replace(right, token=make_token()))
        other = make_certificate(tmp_path, "other", "-addext", LOCAL)[1]
        with pytest.raises(RuntimeError, match="certificate verify failed"):
            await asyncio.to_thread(drive, replace(right, authority_file=str(other)))


def test_a_row_tells_figures_and_what_they_are_of_the_first() -> None:
    """Ratios are of the same round."""
    slow = replace(RESULT, seconds=2.0, p50=0.003, p99=0.004, server_cpu=0.0025)
    rows = tell("calls", {"plaintext": [RESULT, slow], "TLS": [slow, slow]})
    assert rows == [
        "| calls | plaintext | 8 | 2,000 | 3,000 | 175 | 50,000 | 1.00 | 1.00 | 1.00 | 1.00 |",
        "| calls | TLS | 5 | 3,000 | 4,000 | 250 | 50,000 | 0.75 | 2.00 | 1.50 | 1.75 |",
    ]
