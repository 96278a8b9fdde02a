"""Bidirectional calls: one stream of the contract, and what streams of every protocol share."""
