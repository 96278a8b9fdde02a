"""The Open Inference Protocol, spoken so that clients of Triton and KServe work unchanged. Versioned as that protocol is."""
