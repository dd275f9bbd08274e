"""A server as a process of its own: started, asked until it answers, and ended with everything that it started."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from clients.commands import session

from .http import Http, HttpFailed

ROOT = Path(__file__).parent.parent.parent
READY_LIMIT_S = 180.0
GRACE_S = 20.0  # `nli-serve up` takes up to 13 s itself
POLL_S = 0.1


class Server:
    """Runs `python ARGUMENTS` until it is stopped.

    Raises:
        RuntimeError: it ended, or never answered; the message has the end of its log.
    """

    def __init__(self, arguments: Sequence[str], env: Mapping[str, str], port: int, path: str, body: object) -> None:
        self._log = Path(env["BENCH_FOLDER"], f"{port}.log")
        started = time.monotonic()
        with self._log.open("wb") as log:
            self._child = session.start(
                [sys.executable, *arguments], {**os.environ, **env, "PYTHONPATH": str(ROOT)}, log
            )
        self.http = Http(port)
        try:
            self._wait(path, body)
        except BaseException:
            self.stop()
            raise
        self.first_answer_s = time.monotonic() - started

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return self._child

    def stop(self) -> None:
        session.stop(self._child, GRACE_S)

    def _wait(self, path: str, body: object) -> None:
        deadline = time.monotonic() + READY_LIMIT_S
        while time.monotonic() < deadline and self._child.poll() is None:
            try:
                self.http.post(path, body)
            except (HttpFailed, OSError):
                time.sleep(POLL_S)
            else:
                return
        end = self._log.read_text(errors="replace")[-2_000:]
        raise RuntimeError(f"no answer on {path}; the log ends: {end}")
