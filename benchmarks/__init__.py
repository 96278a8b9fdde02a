"""Measured comparisons: the server against the kernel that it runs and against an echo of the same messages.

`python -m benchmarks` prints the rows of the design's table of numbers. `load` and `wire` make the load, `echo`, `plain` and
`kernel` are what is compared with, one module per group of rows says what is measured.
"""
