"""Helpers that tests share: fakes, random models, running servers."""
