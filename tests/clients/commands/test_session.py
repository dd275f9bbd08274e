"""How long the launcher waits for what it started; that all of a real service ends is shown in tests/launch."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from clients.commands import session

# Both wait a minute; a handler that returns does not end the wait.
WITH_RAYLET = """
import signal, subprocess, sys, time

command = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)", "--raylet_socket_name=x"]
raylet = subprocess.Popen(command, stdout=subprocess.PIPE)
raylet.stdout.readline()
signal.signal(signal.SIGINT, lambda *_: (raylet.kill(), raylet.wait()))
print("up", flush=True)
time.sleep(60)
"""
WITHOUT_RAYLET = """
import signal, sys, time

def end(*_):
    time.sleep(0.3)
    print("clean", flush=True)
    sys.exit()

signal.signal(signal.SIGINT, end)
print("up", flush=True)
time.sleep(60)
"""


def _stopped(code: str) -> tuple[float, bytes]:
    """How long it took to end it, and what it said meanwhile."""
    with session.start([sys.executable, "-c", code], os.environ, subprocess.PIPE) as leader:
        assert leader.stdout
        assert leader.stdout.readline() == b"up\n"
        started = time.monotonic()
        session.stop(leader, grace_s=40)
        took = time.monotonic() - started
        assert list(session.members(leader.pid)) == []
        return took, leader.stdout.read()


def test_whoever_has_ended_its_raylet_is_not_waited_for() -> None:
    took, _ = _stopped(WITH_RAYLET)

    assert took < 20


def test_whoever_has_no_raylet_of_its_own_may_end_by_itself() -> None:
    took, said = _stopped(WITHOUT_RAYLET)

    assert said == b"clean\n"
    assert took < 20
