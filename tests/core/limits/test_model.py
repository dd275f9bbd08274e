"""No window above burst + rate x time, whatever crashes, gets lost or changes."""

from __future__ import annotations

import pytest
from hypothesis.stateful import run_state_machine_as_test

from .machine import Machine, thorough


@pytest.mark.timeout(1_800)
def test_no_window_is_above_its_bound_whatever_happens(long: bool) -> None:
    run_state_machine_as_test(Machine, settings=thorough(5_000 if long else 300))
