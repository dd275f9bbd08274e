"""`nli-serve up`: a real answer before it says ready, the cause when there is none, a clean stop always.

What ends it before anything starts is in tests/clients/commands/test_launch.py; its launcher is killed in
test_fast_mode.py, where one runs anyway.
"""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROOT, Start, Started, wait_until
from .readme import check_answers

Config = tuple[Path, dict[str, Any]]


def _up(start: Start, config: Config, *options: str, **env: str) -> Started:
    file, data = config
    (file.parent / "deployments").symlink_to(ROOT / "deployments")
    return start("clients.cli", "up", str(file), *options, port=data["http_options"]["port"], **env)


def _ready(service: Started) -> str:
    """What it said once it was ready."""

    def settled() -> bool:
        service.family()
        return "Stop:" in service.said() or service.process.poll() is not None

    wait_until(settled, 120, service.said)
    assert "Ready:" in service.said(), service.said()
    assert len(service.family()) > 5
    return service.said()


@pytest.mark.timeout(180)
def test_without_the_hub_the_fallback_answers_in_the_fast_profile_until_it_is_stopped_within_ten_seconds(
    start: Start, config: Config
) -> None:
    service = _up(start, config, HF_ENDPOINT="http://127.0.0.1:9")
    said = _ready(service)

    assert "fast profile" in said
    assert f"Ready: {service.url}" in said
    assert re.search(r"Model: .* \(embedding-fp32\), the fallback, since the configured model is not on", said)
    assert f"curl {service.url}/v1/classify --json" in said
    check_answers(service, config[1]["http_options"]["port"], "haproxy")
    started = time.monotonic()
    service.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "Stopping" in service.said(), 5, service.said)
    service.process.send_signal(signal.SIGINT)  # the impatient second one
    assert service.wait(30) == 0
    assert time.monotonic() - started < 10
    assert service.family() == []


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_can_be_stopped_while_it_starts(start: Start, config: Config, number: int) -> None:
    service = _up(start, config, HF_ENDPOINT="http://127.0.0.1:9")
    wait_until(lambda: len(service.family()) > 4, 60, service.said)

    service.process.send_signal(number)

    assert service.wait(10) == 1
    assert service.family() == []
