"""Bundles: a model's folder on disk, `model.json` with `model.safetensors` or `model.onnx`, nothing executable.

Reads, checks and writes them. Knows nothing of sessions, of transport or of what serves a model; torch is imported by `save`
and `save_program` alone, onnx where there is a program, and both only when they are needed. docs/bundles.md tells of the names.
"""

from stepstream_server.bundles.describe import describe
from stepstream_server.bundles.features import Scaler
from stepstream_server.bundles.init import init_model
from stepstream_server.bundles.load import Bundle, load, load_all
from stepstream_server.bundles.program.commands import Packed, Proposal, inspect, pack, propose
from stepstream_server.bundles.save import Head, save
from stepstream_server.bundles.save_program import Input, Output, save_program
from stepstream_server.bundles.write import write, write_program
from stepstream_server.errors import BundleError
from stepstream_server.spec import FeaturesFront, TextSpec

__all__ = [
    "Bundle",
    "BundleError",
    "FeaturesFront",
    "Head",
    "Input",
    "Output",
    "Packed",
    "Proposal",
    "Scaler",
    "TextSpec",
    "describe",
    "init_model",
    "inspect",
    "load",
    "load_all",
    "pack",
    "propose",
    "save",
    "save_program",
    "write",
    "write_program",
]
