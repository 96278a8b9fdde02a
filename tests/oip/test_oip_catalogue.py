"""What a server says of itself and its models, through the getters of `tritonclient`; and the calls that it has not."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import pytest

from support.oip.triton import Refused, Request, Tensor, Triton, sequence

BOTH = pytest.mark.parametrize("way", ["sync", "aio"])
HowToCall = Literal["sync", "aio"]
PARTS = ("success", "queue", "compute_input", "compute_infer", "compute_output")
HEADS = ("next", "ahead_9", "ahead_27")


@BOTH
async def test_liveness_and_readiness(triton: Triton, way: HowToCall) -> None:
    """Of the server, of models and of versions; what is not served is not ready."""
    assert await triton.call("is_server_live", way) is True
    assert await triton.call("is_server_ready", way) is True
    wanted = [("ecg", ""), ("ecg", "1"), ("pair", "2"), ("ecg", "2"), ("egg", "")]
    ready = [await triton.call("is_model_ready", way, model_name=name, model_version=number) for name, number in wanted]
    assert ready == [True, True, True, False, False]


@BOTH
async def test_the_server_names_itself(triton: Triton, way: HowToCall) -> None:
    """With the extensions that clients look for before they send sequences."""
    told = await triton.call("get_server_metadata", way, as_json=True)
    assert (told["name"], told["version"]) == ("stepstream", version("stepstream"))
    assert {"sequence", "sequence(string_id)", "model_configuration", "statistics"} == set(told["extensions"])


@BOTH
async def test_metadata(triton: Triton, way: HowToCall) -> None:
    """Names, datatypes and shapes, the first dimension open; all versions that are served."""
    told = await triton.call("get_model_metadata", way, model_name="ecg", as_json=True)
    assert (told["name"], told["versions"], told["platform"]) == ("ecg", ["1"], "stepstream")
    assert told["inputs"] == [{"name": "mv", "datatype": "FP32", "shape": ["-1", "1"]}]
    assert told["outputs"] == [
        {"name": each, "datatype": "FP32", "shape": ["-1", "21"]} for each in ("next", "ahead_9", "ahead_27")
    ]
    assert (await triton.call("get_model_metadata", way, model_name="pair", as_json=True))["versions"] == ["1", "2"]
    tokens = await triton.call("get_model_metadata", way, model_name="tokens", as_json=True)
    assert tokens["inputs"] == [{"name": "x", "datatype": "INT64", "shape": ["-1", "1"]}]


@BOTH
async def test_configuration(triton: Triton, way: HowToCall) -> None:
    """A sequence batcher with its limits and states, as load generators look for it."""
    told = (await triton.call("get_model_config", way, model_name="ecg", as_json=True))["config"]
    assert (told["name"], told["platform"], told["backend"], told["max_batch_size"]) == ("ecg", "stepstream", "stepstream", 1024)
    assert told["input"] == [{"name": "mv", "data_type": "TYPE_FP32", "dims": ["1"]}]
    assert [each["dims"] for each in told["output"]] == [["21"]] * 3
    batching = told["sequence_batching"]
    assert batching["max_sequence_idle_microseconds"] == "3600000000"
    assert batching["oldest"]["max_candidate_sequences"] == 100_000
    assert [(each["input_name"], each["data_type"]) for each in batching["state"]][:2] == [("h", "TYPE_FP32"), ("c", "TYPE_FP32")]
    assert told.get("model_transaction_policy", {}).get("decoupled", False) is False


async def test_a_request_made_from_the_configuration_is_answered(triton: Triton) -> None:
    """As a load generator makes it: [1, *dims] of the datatype said there, and all outputs by name."""
    for name in ("ecg", "pair", "tokens"):
        config = (await triton.call("get_model_config", model_name=name, as_json=True))["config"]
        inputs = [
            Tensor(each["name"], np.ones((1, *map(int, each["dims"])), "<f4" if each["data_type"] == "TYPE_FP32" else "<i8"))
            for each in config["input"]
        ]
        answer = await triton.one(Request(name, inputs, 5, start=True, outputs=[each["name"] for each in config["output"]]))
        shapes = {each["name"]: (1, *map(int, each["dims"])) for each in config["output"]}
        assert {output: array.shape for output, array in answer.outputs.items()} == shapes


@pytest.mark.own_server
@BOTH
async def test_statistics_grow(triton: Triton, way: HowToCall) -> None:
    """Steps, launches, failures and times; versions are numbers."""
    before = await statistics(triton, way)
    requests = sequence(5, -1.2, -1.3, -1.4)
    await triton.infer("sync", [*requests, requests[-1]])
    after = await statistics(triton, way)
    assert (after["name"], int(after["version"])) == ("ecg", 1)
    assert int(after["inference_count"]) - int(before.get("inference_count", 0)) == 3
    assert int(after["execution_count"]) - int(before.get("execution_count", 0)) == 3
    assert int(after["last_inference"]) > 1_600_000_000_000  # milliseconds since 1970
    told = after["inference_stats"]
    assert [int(told[part]["count"]) for part in ("success", "queue", "compute_input", "compute_infer", "compute_output")] == [
        3
    ] * 5
    assert int(told["success"]["ns"]) >= int(told["compute_infer"]["ns"]) > 0
    assert [(each["batch_size"], each["compute_infer"]["count"]) for each in after["batch_stats"]] == [("1", "3")]


async def test_statistics_of_all(triton: Triton) -> None:
    """Of every version of every model; of one model; of one version."""

    async def told(**of: Any) -> list[tuple[str, str]]:
        stats = await triton.call("get_inference_statistics", as_json=True, **of)
        return [(each["name"], each["version"]) for each in stats["model_stats"]]

    assert await told() == [("ecg", "1"), ("pair", "1"), ("pair", "2"), ("tokens", "1")]
    assert await told(model_name="pair") == [("pair", "1"), ("pair", "2")]
    assert await told(model_name="pair", model_version="1") == [("pair", "1")]


@BOTH
async def test_the_index(triton: Triton, way: HowToCall) -> None:
    """Every version, ready."""
    index = await triton.call("get_model_repository_index", way, as_json=True)
    told = [(each["name"], each["version"], each["state"]) for each in index["models"]]
    assert told == [("ecg", "1", "READY"), ("pair", "1", "READY"), ("pair", "2", "READY"), ("tokens", "1", "READY")]


@pytest.mark.parametrize("name", ["get_model_metadata", "get_model_config", "get_inference_statistics"])
async def test_unknown_models_are_not_described(triton: Triton, name: str) -> None:
    """Nor unknown versions, nor what is no version."""
    for model, number, reason in (
        ("egg", "", "NOT_FOUND: .*'egg' is not served; served: ecg, pair, tokens"),
        ("ecg", "3", "NOT_FOUND: .*no version 3"),
        ("ecg", "one", "INVALID_ARGUMENT: .*version: expected a number"),
    ):
        with pytest.raises(Refused, match=reason):
            await triton.call(name, model_name=model, model_version=number)


@BOTH
@pytest.mark.parametrize(
    ("name", "given", "instead"),
    [
        ("load_model", {"model_name": "ecg"}, "models are loaded when the server starts"),
        ("unload_model", {"model_name": "ecg"}, "models are loaded when the server starts"),
        ("get_system_shared_memory_status", {}, "shared memory"),
        ("register_system_shared_memory", {"name": "a", "key": "/a", "byte_size": 4}, "shared memory"),
        ("unregister_system_shared_memory", {}, "shared memory"),
        ("get_cuda_shared_memory_status", {}, "shared memory"),
        ("unregister_cuda_shared_memory", {}, "shared memory"),
        ("update_trace_settings", {"settings": {}}, "metrics"),
        ("get_trace_settings", {}, "metrics"),
        ("update_log_settings", {"settings": {"log_info": True}}, "log.level"),
        ("get_log_settings", {}, "log.level"),
    ],
)
async def test_what_is_not_there_says_what_to_do_instead(
    triton: Triton, name: str, given: dict[str, Any], instead: str, way: HowToCall
) -> None:
    """UNIMPLEMENTED, with a sentence."""
    with pytest.raises(Refused, match=f"^UNIMPLEMENTED: .*{instead}"):
        await triton.call(name, way, **given)


async def statistics(triton: Triton, way: HowToCall) -> dict[str, Any]:
    """Of the model `ecg`."""
    told = await triton.call("get_inference_statistics", way, model_name="ecg", as_json=True)
    (stats,) = told["model_stats"]
    assert isinstance(stats, dict)
    return stats
