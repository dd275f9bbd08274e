"""`HandleClient` in throughput mode, which is on only when it was set before Ray started: the same tests once more."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from .conftest import FAST, ROOT

LIMIT_S = 240
SLOW_AND_THE_SAME = ("another_deployment", "keys_and_limits", "async_actor", "outlives_a_restart")


@pytest.mark.timeout(LIMIT_S + 20)
def test_what_holds_in_default_mode_holds_in_throughput_mode() -> None:
    """A cluster, and a driver, of its own; the first of those tests asserts that the mode is on.

    But for four that deploy again, at ten seconds each: those by `RAY_SERVE_THROUGHPUT_OPTIMIZED=1 pytest` on the file.
    """
    but_for = " and ".join(f"not {name}" for name in SLOW_AND_THE_SAME)
    command = [sys.executable, "-m", "pytest", "-q", "tests/serve/test_handle_client.py", "-k", but_for]
    env = {**os.environ, **{name: value for name, value in FAST.items() if "HA_PROXY" not in name}}  # no HTTP here

    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=LIMIT_S)

    assert run.returncode == 0, run.stdout[-8_000:]
    assert " passed" in run.stdout
    assert "skipped" not in run.stdout
