"""Bundles of programs: a step function brought as a graph in ONNX, and a manifest that says what its tensors are."""
