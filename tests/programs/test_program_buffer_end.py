"""The list of operators holds those that the runtime in use has."""

from __future__ import annotations

from scripts.buffer_end_operators import dependent
from stepstream_server.programs.buffer_end import OPERATORS, ROWS


def test_operators_whose_bits_depend_on_the_end_of_a_buffer_are_known() -> None:
    """Each that this version of the runtime has on this machine is in the list, and the multiple of rows that is asked for
    cures it."""
    found = dependent()
    assert found.keys() <= OPERATORS
    assert all(multiple and ROWS % multiple == 0 for multiple in found.values())
