"""The server that a team would write in an afternoon: `nn.LSTM` per session and step, on the event loop, one torch thread.

It speaks the same contract to the same load, so that only what it does differs; of the contract it does the least.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import torch

from benchmarks import bare
from benchmarks.echo import confirm, register
from stepstream_proto.v1 import inference_pb2, inference_pb2_grpc
from stepstream_server.bundles import Bundle, load
from stepstream_server.spec import cell_model

State = tuple[torch.Tensor, torch.Tensor]


class Plain(inference_pb2_grpc.InferenceServiceServicer):
    """One LSTM, one linear head, a dictionary of states per stream."""

    def __init__(self, bundle: Bundle) -> None:
        cell = cell_model(bundle.spec).cell
        self._lstm = torch.nn.LSTM(cell.input_size, cell.hidden_size, cell.layers, batch_first=True)
        self._head = torch.nn.Linear(cell.hidden_size, bundle.spec.outputs[0].elements)
        weights = {name: torch.from_numpy(value) for name, value in bundle.weights.items()}
        head = f"head.{bundle.spec.outputs[0].name}."
        self._lstm.load_state_dict({name.removeprefix("cell."): value for name, value in weights.items() if "cell." in name})
        self._head.load_state_dict({name.removeprefix(head): value for name, value in weights.items() if head in name})
        self._width = cell.input_size

    async def Stream(
        self,
        request_iterator: AsyncIterator[inference_pb2.StreamRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[inference_pb2.StreamResponse]:
        await context.send_initial_metadata(())
        states: dict[int, State | None] = {}
        async for request in request_iterator:
            if request.WhichOneof("message") == "block":
                yield inference_pb2.StreamResponse(answers=self._answer(request.block, states))
            else:
                yield confirm(request)

    @torch.inference_mode()
    def _answer(self, block: inference_pb2.Block, states: dict[int, State | None]) -> inference_pb2.Answers:
        handles = np.frombuffer(block.handles, "<u4").tolist()
        lengths = np.frombuffer(block.lengths, "<u4").tolist() if block.lengths else [1] * len(handles)
        values = torch.from_numpy(np.frombuffer(block.inputs[0], "<f4").reshape(-1, self._width).copy())
        outputs = []
        for handle, rows in zip(handles, torch.split(values, lengths), strict=True):
            top, states[handle] = self._lstm(rows[None], states.get(handle))
            outputs.append(self._head(top[0]))
        data = torch.cat(outputs).numpy().astype("<f4").tobytes()
        return inference_pb2.Answers(handles=block.handles, first_seqs=block.first_seqs, lengths=block.lengths, outputs=[data])


def main() -> None:
    """`python -m benchmarks.plain BUNDLE`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("bundle", type=Path)
    torch.set_num_threads(1)
    bare.serve(partial(register, Plain(load(parser.parse_args().bundle))))


if __name__ == "__main__":
    main()
