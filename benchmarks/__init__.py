"""Measured comparisons: the server against the kernel that it runs and against an echo of the same messages.

`python -m benchmarks` prints the rows that docs/performance.md explains. `load`, `rolling` and `wire` make the load, `echo`,
`plain`, `kernel` and `bare_rollout` are what is compared with, one module per group of rows says what is measured. For the Open
Inference Protocol `analyzer` has NVIDIA's perf_analyzer make the load, and `oip_echo` is what is compared with.
"""
