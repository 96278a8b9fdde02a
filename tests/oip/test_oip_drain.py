"""What `tritonclient` hears of a server that is about to stop."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import numpy as np
import pytest

from support.front_door import wait_for
from support.gated_server import running
from support.health import NOT_SERVING, SERVING, Watch
from support.oip.process import Drivers
from support.oip.triton import Request, Tensor, Triton, sequence

START, STEP = (Request("pair", [Tensor("x", np.ones((1, 2), "<f4"))], 5, start=start) for start in (True, False))


async def test_a_draining_server_answers_what_it_has_and_takes_no_more(
    drivers: Drivers, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is alive and not ready; starts, steps and streams are refused with a status that says: elsewhere, or later."""
    async with (
        running(models, monkeypatch) as server,
        drivers.one() as driver,
        drivers.one() as another,
        grpc.aio.insecure_channel(server.bound.listen) as channel,
    ):
        triton, other = Triton(driver, server.bound.listen), Triton(another, server.bound.listen)
        assert (await other.one(START)).error == ""
        readiness = Watch(channel, "readiness")
        assert await readiness.status() == SERVING
        server.gate.close()
        accepted = asyncio.create_task(triton.infer("aio_stream", sequence(5, -1.2)))
        await wait_for(server.gate.reached)
        server.stop.set()
        assert await readiness.status() == NOT_SERVING

        assert await other.call("is_server_live") is True
        assert await other.call("is_server_ready") is False
        assert await other.call("is_model_ready", model_name="pair") is False
        (answers,) = await other.infer("sync", [STEP, START])
        answers += (await other.infer("sync_stream", [STEP]))[0]
        assert [(answer.status, answer.error.partition(":")[0]) for answer in answers] == [("UNAVAILABLE", "SERVER_DRAINING")] * 3
        server.gate.open()
        ((answer,),) = await accepted
        assert (answer.error, answer.seq) == ("", 0)
        assert await server.code == 0
