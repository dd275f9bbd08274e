"""Ending a process and everything that it started.

`serve run` leads a session of its own, and all that Ray starts below it stays in that session, even what is
orphaned when `serve run` itself is killed (seen: HAProxy and two agents). A cluster that it only joined is
in another session, and is left alone.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

POLL_S = 0.05
KILL_S = 5.0  # for what was killed to be gone
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def start(
    command: Sequence[str], env: Mapping[str, str], output: IO[bytes] | int, errors: int = subprocess.STDOUT
) -> subprocess.Popen[bytes]:
    """Start a command as the leader of a new session, out of reach of the terminal's Ctrl-C.

    On Linux it gets SIGINT when this process dies, even of SIGKILL.
    """
    return subprocess.Popen(
        command,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        start_new_session=True,
        preexec_fn=_end_with_parent,
    )


def stop(leader: subprocess.Popen[bytes], grace_s: float) -> None:
    """SIGINT to the leader, `grace_s` for a clean end, SIGKILL to whatever of its session is left.

    The end of a Ray cluster that it started is clean once its raylet is gone, and all workers with it: what Ray then
    waits for, one process after the other, has nothing to save.
    """
    if leader.poll() is None:
        had_raylet = _has_raylet(leader.pid)
        leader.send_signal(signal.SIGINT)
        wait_until(lambda: leader.poll() is not None or (had_raylet and not _has_raylet(leader.pid)), grace_s)
    leader.kill()  # for systems without /proc
    wait_until(lambda: not _kill_members(leader.pid), KILL_S)
    leader.wait()


def argument(session: int, name: str) -> str | None:
    """The value of a command-line argument, `--name=value`, of some process of a session."""
    for pid in members(session):
        try:
            words = Path("/proc", str(pid), "cmdline").read_text(errors="replace").split("\0")
        except OSError:  # gone meanwhile
            continue
        for word in words:
            if word.startswith(f"{name}="):
                return word.partition("=")[2]
    return None


def members(session: int) -> Iterator[int]:
    """The pids of a session that still run. Linux only: elsewhere nothing is found."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            pid = int(folder.name)
            if os.getsid(pid) == session and "Z" not in (folder / "stat").read_text().rpartition(")")[2].split()[0]:
                yield pid
        except OSError:  # gone meanwhile
            continue


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _has_raylet(session: int) -> bool:
    return argument(session, "--raylet_socket_name") is not None


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)


def _kill_members(session: int) -> bool:
    """Whether there were any: Ray may start more in the meantime, so this is done until there are none."""
    found = list(members(session))
    for pid in found:
        _kill(pid)
    return bool(found)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
