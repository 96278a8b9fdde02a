"""One-shot calls of a history: steps and closings by id, queued behind what streams have sent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stepstream_proto.v1 import inference_pb2, session_pb2
from stepstream_server.engine import ports
from stepstream_server.engine.ports import NO_SEQ, Keep
from stepstream_server.errors import Reason
from support.history import Live
from support.reference import Outcome
from support.world.inputs import Inputs
from support.world.served import (
    MODEL,
    OUTPUTS,
    POISON,
    Refused,
    Secret,
)


@dataclass
class Calls(Inputs):
    """What is asked without a stream."""

    async def step(self, live: Live, seq: int, values: Sequence[float], keep: Keep, secret: Secret) -> None:
        """A one-shot step behind whatever is queued."""
        if live.stream is not None:
            await live.stream.barrier()
        if live.in_doubt or live.freed_late or (seq != NO_SEQ and live.log):  # what is freed late fills the window until then
            await self.hear(live)
        inputs = {"x": inference_pb2.Values(numbers=values)}
        request = inference_pb2.StepRequest(
            model=MODEL, session_id=live.id, secret=key_of(live, secret), inputs=inputs, outputs=OUTPUTS[keep]
        )
        if seq != NO_SEQ:
            request.seq = seq
        answer = await self.call(ports.Call, self.served.front.inference.Step(request))
        await self.hear(live)
        if (refusal := turned_away(live, secret)) is not None:
            assert answer == refusal
            return
        first = live.known.next_seq if seq == NO_SEQ else seq
        if seq != NO_SEQ:
            acknowledges = first <= live.known.next_seq
        else:  # nobody else is there to do it, if no stream is
            acknowledges = live.stream is None and not live.known.quarantined and not any(map(math.isnan, values))
        if acknowledges:
            live.known.acknowledge(first)
        failed_from = (await self.get(live)).next_seq if POISON in values else None
        before = live.known.next_seq
        outcomes = list(live.known.send(first, values, keep, cached=seq != NO_SEQ, failed_from=failed_from))
        if live.known.next_seq != before:
            live.used_at = self.now
        live.settle([], self.now)
        assert _response(answer) == _of_outcomes(first, outcomes), f"{answer} for {outcomes} of {live.known}"

    async def close(self, live: Live, secret: Secret) -> None:
        """Closes by id."""
        if live.stream is not None:
            await live.stream.barrier()
        request = session_pb2.CloseSessionRequest(model=MODEL, id=live.id, secret=key_of(live, secret))
        answer = await self.call(ports.Close, self.served.front.sessions.CloseSession(request))
        if (refusal := turned_away(live, secret)) is not None:
            assert answer == refusal
            return
        await self.ended(live, inference_pb2.DETACH_REASON_SESSION_CLOSED, Reason.SESSION_CLOSED)
        assert answer.next_seq == live.known.next_seq


def key_of(live: Live, secret: Secret) -> bytes:
    """What a caller shows for a secret."""
    return {"right": live.secret, "wrong": bytes(len(live.secret)), "none": b""}[secret]


def turned_away(live: Live, secret: Secret) -> Refused | None:
    """Why a caller without the right secret is turned away."""
    if secret == "wrong":
        return Reason.SECRET_MISMATCH, 0
    return (Reason.SESSION_IN_USE, 0) if secret == "none" and live.stream is not None else None


def _response(answer: Any) -> Any:
    if isinstance(answer, tuple):
        return answer
    return answer.seq, answer.next_seq, list(answer.outputs["sum"].numbers)


def _of_outcomes(first: int, outcomes: Sequence[Outcome]) -> Any:
    """What a one-shot step is answered whose steps come to this."""
    for each in outcomes:
        if len(each) == 3:
            return each[1], each[2]
    return first, first + len(outcomes), [each[1] for each in outcomes if each[1] is not None]
