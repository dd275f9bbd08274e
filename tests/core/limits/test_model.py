"""No window above burst + rate x time, whatever crashes, gets lost or changes."""

from __future__ import annotations

from hypothesis.stateful import run_state_machine_as_test

from .machine import Machine, thorough


def test_no_window_is_above_its_bound_whatever_happens() -> None:
    run_state_machine_as_test(Machine, settings=thorough(300))
