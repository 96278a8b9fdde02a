"""Bundles: a model's folder on disk, `model.json` and `model.safetensors`, nothing executable.

Reads, checks and writes them. Knows nothing of what computes a model, of sessions or of transport; torch is imported by
`save` alone and only when it is called. docs/bundles.md tells of the names below.
"""

from stepstream_server.bundles.describe import describe
from stepstream_server.bundles.features import Scaler
from stepstream_server.bundles.init import init_model
from stepstream_server.bundles.load import Bundle, load, load_all
from stepstream_server.bundles.save import Head, save
from stepstream_server.bundles.write import write
from stepstream_server.errors import BundleError
from stepstream_server.spec import FeaturesFront

__all__ = [
    "Bundle",
    "BundleError",
    "FeaturesFront",
    "Head",
    "Scaler",
    "describe",
    "init_model",
    "load",
    "load_all",
    "save",
    "write",
]
