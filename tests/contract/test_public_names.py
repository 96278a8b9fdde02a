"""The names that users may rely on. A change here is a change of the interface: it belongs into CHANGELOG.md."""

from __future__ import annotations

import inspect

import stepstream
from stepstream_server import bundles

BUNDLES = (
    "Bundle BundleError FeaturesFront Head Input Output Packed Proposal Scaler TextSpec "
    "describe init_model inspect load load_all pack propose save save_program write write_program"
)


def test_bundles_names() -> None:
    """Reading, checking and writing bundles is the server's only Python interface."""
    assert sorted(bundles.__all__) == BUNDLES.split()


def test_every_public_name_is_explained() -> None:
    """Each public class and function has a docstring, and so has each of a class's own public methods."""
    public = [getattr(module, name) for module in (stepstream, bundles) for name in module.__all__]
    explained = [each for each in public if inspect.isclass(each) or inspect.isfunction(each)]
    methods = [
        method
        for each in explained
        if inspect.isclass(each)
        for name, method in vars(each).items()
        if not name.startswith("_") and (inspect.isfunction(method) or isinstance(method, property))
    ]
    assert [each for each in (*explained, *methods) if not inspect.getdoc(each)] == []
