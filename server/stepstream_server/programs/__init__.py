"""A brought step function as a file in ONNX: reading it, refusing what cannot be served, bringing it into the shape that the
backend computes, and trying out what its launches must keep to.

Knows onnx and onnxruntime, and neither sessions nor bundles nor slots.
"""
