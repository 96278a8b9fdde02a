"""Sessions as wholes: how they come to be, who holds them, how they are copied and how they end."""
