"""`HandleClient` in throughput mode, which is on only when it was set before Ray started: the same tests once more."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from .conftest import FAST, ROOT

LIMIT_S = 240


@pytest.mark.timeout(LIMIT_S + 20)
def test_what_holds_in_default_mode_holds_in_throughput_mode(long: bool) -> None:
    """A cluster, and a driver, of its own; the first of those tests asserts that the mode is on."""
    if not long:
        pytest.skip("takes more than a minute: make test-long; test_fast_mode.py asks by every way in this mode")
    command = [sys.executable, "-m", "pytest", "-q", "tests/serve/test_handle_client.py"]
    env = {**os.environ, **{name: value for name, value in FAST.items() if "HA_PROXY" not in name}}  # no HTTP here

    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=LIMIT_S)

    assert run.returncode == 0, run.stdout[-8_000:]
    assert " passed" in run.stdout
    assert "skipped" not in run.stdout
