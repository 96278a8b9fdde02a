"""A running server's metrics, as Prometheus would read them."""

from __future__ import annotations

import asyncio
import urllib.request

from prometheus_client.parser import text_string_to_metric_families


async def sample(url: str, name: str, **labels: str) -> float | None:
    """The value of a series, None if there is none of these labels."""
    text = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
    samples = [each for family in text_string_to_metric_families(text) for each in family.samples]
    return next((each.value for each in samples if each.name == name and each.labels == labels), None)
