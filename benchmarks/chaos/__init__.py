"""Servers and workers are killed under load, and no session may notice: what `make chaos` runs."""
