"""Callers of the Open Inference Protocol: an unmodified `tritonclient` in a process of its own, and what tests ask of it."""
