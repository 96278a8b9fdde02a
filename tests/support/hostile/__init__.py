"""Callers that mean no good, or have gone wrong: what they send, by a seed, and how a server must bear it."""
