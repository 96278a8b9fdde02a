"""Rollouts: sessions, or copies of them, stepped on their own outputs; and how the next input is drawn."""
