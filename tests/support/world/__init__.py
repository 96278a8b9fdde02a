"""A counting model over real gRPC with everything that may happen to its sessions, each checked against the reference.

Where timing makes two outcomes legal, an order is forced by waiting for outcomes or for a stream to have been read; nothing
sleeps. Three things are only known from what the server says, and are checked to be possible: where a chunk was cut that failed
midway, how much of what was queued had been applied when a session was taken or a stream broke, and whether a copy was asked for
in time.
"""

from support.world.history import World
from support.world.served import POISON, Served

__all__ = ["POISON", "Served", "World"]
