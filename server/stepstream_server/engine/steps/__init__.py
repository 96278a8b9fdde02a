"""Steps: what becomes of a row from its arrival to its answer."""
