"""The service as users start it: a subprocess, a port of its own, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import yaml

from tests.ports import free_port

ROOT = Path(__file__).parent.parent.parent
FAST = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
}
HAPROXY_PORTS = (
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(ROOT / "tests" / "launch"):
            item.add_marker("serve")


@dataclass
class Started:
    """A command that serves, in a session of its own."""

    process: subprocess.Popen[bytes]
    url: str
    output: Path
    env: dict[str, str]
    sessions: set[int] = field(default_factory=set)

    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def ask(self, payload: dict[str, Any]) -> httpx2.Response:
        return httpx2.post(f"{self.url}/v1/classify", json=payload, timeout=30, trust_env=False)

    def answers(self) -> bool:
        try:
            return self.ask({"text": "ready?", "labels": ["yes", "no"]}).status_code == 200
        except httpx2.HTTPError:
            return False

    def family(self) -> list[psutil.Process]:
        """What still runs of all that the command has started, even where the command itself has ended.

        By session: `serve run` leads one of its own. Those are remembered whenever this is asked, so ask while
        the command runs.
        """
        self.sessions |= {_session(child.pid) for child in _children(self.process.pid)} - {-1}
        return [p for p in psutil.process_iter() if _session(p.pid) in self.sessions and _runs(p)]

    def called(self, name: str) -> list[psutil.Process]:
        """Those of the family with this name; any of it may end meanwhile."""
        found = []
        for process in self.family():
            with suppress(psutil.NoSuchProcess):
                if process.name() == name:
                    found.append(process)
        return found

    def kill(self) -> None:
        """All of the family."""
        for process in self.family():
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def wait(self, seconds: float) -> int:
        """The exit code; meanwhile what it starts is remembered."""

        def ended() -> bool:
            self.family()
            return self.process.poll() is not None

        wait_until(ended, seconds, self.said)
        return self.process.returncode


Start = Callable[..., Started]


def wait_until(condition: Callable[[], bool], seconds: float, report: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s; {report()}"
        time.sleep(0.1)


@pytest.fixture
def config(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """The shipped config file on a free port, to be changed and written again."""
    data: dict[str, Any] = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    data["http_options"]["port"] = free_port()
    file = tmp_path / "serve_config.yaml"
    file.write_text(yaml.safe_dump(data))
    return file, data


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a command; kills what is left of it at the end of the test."""
    with starter(tmp_path) as run:
        yield run


@contextmanager
def starter(folder: Path) -> Iterator[Start]:
    """As the fixture `start`, for as long as the block runs; what the commands write is in the folder."""
    started: list[Started] = []
    # Ray's sockets lie here, and a socket's path may have 107 characters: pytest's folders are too deep.
    with tempfile.TemporaryDirectory(prefix="nli", ignore_cleanup_errors=True) as short:

        def run(*command: str, port: int, **env: str) -> Started:
            output = folder / f"output{len(started)}"
            whole = {**os.environ, "RAY_TMPDIR": short, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(folder)}
            whole |= {"HF_HUB_CACHE": str(folder / "hub")}  # whatever this machine's own cache holds
            whole |= {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30"}  # for `serve run` itself, too
            whole |= {name: str(free_port()) for name in HAPROXY_PORTS} | env
            with output.open("wb") as file:
                process = subprocess.Popen(
                    [sys.executable, "-m", *command],
                    cwd=folder,
                    env=whole,
                    stdout=file,
                    stderr=file,
                    start_new_session=True,
                    preexec_fn=_hear_sigint,
                )
            started.append(Started(process, f"http://127.0.0.1:{port}", output, whole, {process.pid}))
            return started[-1]

        try:
            yield run
        finally:
            for one in started:
                one.kill()
                one.process.kill()
                one.process.wait()


def _hear_sigint() -> None:
    """A run of the tests that was started with `&` has it ignored, which a child inherits."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return -1
