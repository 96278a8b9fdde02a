"""Two models that are attacked, of numbers and of tokens, and what an honest caller knows of them."""

from __future__ import annotations

from pathlib import Path

import grpc
import numpy as np

from stepstream_proto.v1 import session_pb2, session_pb2_grpc
from stepstream_server import bundles
from stepstream_server.spec import HeadSpec
from support.hostile.honest import Model
from support.models import random_model

SMALL, TEXT = "small", "text"
_SESSIONS = 8  # of each


def write_models(folder: Path) -> Path:
    """Writes both, which can be rolled out; returns the folder."""
    bundles.write(folder / SMALL, *random_model(inputs=1, heads=[HeadSpec("y", "regression", 1, predicts="x")], name=SMALL))
    bundles.write(folder / TEXT, *random_model(tokens=32, outputs=32, inputs=8, name=TEXT))
    return folder


async def opened(channel: grpc.aio.Channel) -> list[Model]:
    """Opens sessions of both, for messages to name."""
    sessions = session_pb2_grpc.SessionServiceStub(channel)
    models = []
    for name, datatype, step in ((SMALL, "FP32", np.float32(0.5)), (TEXT, "INT64", np.int64(3))):
        ids = [f"{name}-{place}" for place in range(_SESSIONS)]
        answer = await sessions.OpenSessions(session_pb2.OpenSessionsRequest(model=name, count=len(ids), ids=ids))
        known = [(each.id, each.secret) for each in answer.sessions]
        exported = await sessions.ExportSession(session_pb2.ExportSessionRequest(model=name, id=ids[0], secret=known[0][1]))
        models.append(Model(name, datatype, step.tobytes(), known, exported.snapshot))
    return models
