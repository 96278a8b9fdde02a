"""Everything that can go wrong, provoked on purpose: the rows of docs/errors.md, and a scenario for each."""
