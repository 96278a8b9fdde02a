"""Durable sessions: what the store is asked and told, and who waits until it has answered."""
