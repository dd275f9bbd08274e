"""`serve run serve_config.yaml`, as a user types it; test_up.py does the same in the fast profile."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROOT, Start, wait_until
from .readme import check_answers


@pytest.mark.timeout(180)
def test_serves_from_start_to_sigint(start: Start, config: tuple[Path, dict[str, Any]]) -> None:
    file, data = config
    port = data["http_options"]["port"]

    service = start("ray.serve.scripts", "run", "--app-dir", str(ROOT), str(file), port=port)
    wait_until(service.answers, 90, service.said)
    check_answers(service, port, "ray::ProxyActor")

    assert len(service.family()) > 5
    started = time.monotonic()
    service.process.send_signal(signal.SIGINT)
    assert service.wait(30) == 0
    assert time.monotonic() - started < 10
    wait_until(lambda: service.family() == [], 10, lambda: str(service.family()))
