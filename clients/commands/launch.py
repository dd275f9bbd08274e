"""`nli-serve up`: `serve run` under a launcher that can be trusted.

`serve run` alone stays alive with exit code 0 when the deploy fails, answers liveness while the model hangs, and
dies of SIGTERM without draining. Here: check, fetch, start, wait for a real answer, say how to call it, and end
with everything that was started.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from types import FrameType

from rich.console import Console

from deployments.engines.refusal import StartRefused
from deployments.engines.resolve import resolve

from . import session
from .profile import can_be_fast, environment, taken_ports
from .readiness import EXAMPLE, LaunchFailed, Ready, wait_until_ready
from .service import Service

STOP_GRACE_S = 7.5  # then SIGKILL, so that a stop takes less than 10 s
POLL_S = 0.2
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the last: the terminal is gone


def launch(service: Service, *, plain: bool, console: Console) -> int:
    """Serve until SIGINT or SIGTERM.

    Returns:
        The exit code: 0 after a clean stop.

    Raises:
        LaunchFailed: there is no such model, a port is taken, the deploy failed, or the service ended by itself.
        KeyboardInterrupt: stopped before it was ready.
    """
    try:
        resolve(service.model)  # as `build` will, twenty seconds later
    except StartRefused as error:
        raise LaunchFailed(str(error)) from error
    fast = can_be_fast() and not plain
    env = environment(fast=fast, inherited=os.environ)
    if taken := list(taken_ports(service.host, service.port, fast=fast, env=env)):
        raise LaunchFailed("\n".join(f"port {t.port} is taken; it is {t.purpose}" for t in taken))
    log = _log_file(service)
    console.print(f"Starting Ray Serve, {'fast' if fast else 'plain'} profile; its log: {log}", soft_wrap=True)
    with _signals_stop() as stop, log.open("wb") as output:
        child = session.start(_serve_run(service), env, output)
        try:
            with console.status("waiting for the first answer"):
                ready = wait_until_ready(service, child, env, log, stop)
            _say_how_to_call(service, ready, console)
            return _serve(child, log, stop)
        finally:
            _stop(child, console)


def _serve(child: subprocess.Popen[bytes], log: Path, stop: Event) -> int:
    while (code := child.poll()) is None:
        if stop.wait(POLL_S):
            return 0
    raise LaunchFailed(f"serve run ended by itself with exit code {code}; see {log}")


def _serve_run(service: Service) -> list[str]:
    folder = str(service.config.parent)
    return [sys.executable, "-m", "ray.serve.scripts", "run", "--app-dir", folder, str(service.config)]


def _say_how_to_call(service: Service, ready: Ready, console: Console) -> None:
    where = "the fallback, since the configured model is not on this machine" if ready.fallback else "as configured"
    key = " -H 'Authorization: Bearer nli_...'" if service.needs_key else ""  # of `nli-serve keys create`
    lines = [
        f"\nReady: {service.url}",
        f"Model: {ready.model} ({ready.engine}), {where}",
        f"Try:   curl {service.url}/v1/classify --json {shlex.quote(json.dumps(EXAMPLE))}{key}",
        f"       {'without a key ' if key else ''}it says: {ready.example}",
        "Stop:  Ctrl-C\n",
    ]
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def _stop(child: subprocess.Popen[bytes], console: Console) -> None:
    """Not to be interrupted: a second Ctrl-C would leave half of Ray behind."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOP_SIGNALS}
    try:
        with suppress(OSError):  # after SIGHUP there is no terminal
            console.print("Stopping")
        session.stop(child, STOP_GRACE_S)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _log_file(service: Service) -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    log = Path(state, "nli-serve", f"serve-{service.port}.log")
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
    except OSError as error:
        raise LaunchFailed(f"{log} cannot be written: {error.strerror}; set XDG_STATE_HOME") from error
    return log


@contextmanager
def _signals_stop() -> Iterator[Event]:
    """All of them mean: stop cleanly. SIGINT too: a shell that starts us with `&` has it ignored.

    An event and no exception, which could fall between the start of a process and the note of it.
    """
    stop = Event()

    def note(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, note) for number in STOP_SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
