"""`nli-serve up`: a real answer before it says ready, the cause when there is none, a clean stop always."""

from __future__ import annotations

import re
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tiny import save_roberta

from .conftest import ROOT, Start, Started, wait_until
from .readme import check_answers

Config = tuple[Path, dict[str, Any]]


def _write(config: Config) -> None:
    file, data = config
    file.write_text(yaml.safe_dump(data))


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


@pytest.mark.timeout(180)
def test_a_killed_launcher_leaves_nothing_behind(start: Start, config: Config, tmp_path: Path) -> None:
    config[1]["applications"][0]["args"]["model"] = {"name": str(save_roberta(tmp_path / "model"))}
    config[1]["applications"][0]["args"]["caps"] = {"max_labels": 2}  # fewer than the example has
    _write(config)

    service = _up(start, config, "--plain")
    said = _ready(service)

    assert "plain profile" in said
    assert f"Ready: {service.url}" in said
    assert re.search(r"Model: .*model \(torch-fp32\), as configured", said)
    assert "it says: 422" in said
    assert service.answers()

    service.process.kill()

    wait_until(lambda: service.family() == [], 30, lambda: str(service.family()))


@pytest.mark.timeout(60)
def test_a_folder_that_is_no_model_ends_it_with_one_message(start: Start, config: Config, tmp_path: Path) -> None:
    config[1]["applications"][0]["args"]["model"] = {"name": str(tmp_path)}
    _write(config)

    service = _up(start, config)

    assert service.process.wait(timeout=50) == 1
    assert f"{tmp_path} is no model: config.json" in service.said()
    assert "Starting Ray" not in service.said()


@pytest.mark.timeout(60)
def test_a_taken_port_ends_it_with_one_message(start: Start, config: Config) -> None:
    port = config[1]["http_options"]["port"]
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", port))
        holder.listen()

        service = _up(start, config, HF_ENDPOINT="http://127.0.0.1:9")
        code = service.process.wait(timeout=50)

    assert code == 1
    assert f"port {port} is taken" in service.said()


@pytest.mark.timeout(60)
def test_a_misspelt_key_ends_it_before_anything_starts(start: Start, config: Config) -> None:
    config[1]["applications"][0]["deployments"][1]["max_ongoing_request"] = 5
    _write(config)

    service = _up(start, config)

    assert service.process.wait(timeout=50) == 1
    assert "did you mean max_ongoing_requests?" in service.said()


@pytest.mark.timeout(60)
def test_a_log_that_cannot_be_written_is_told(start: Start, config: Config, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    service = _up(start, config, XDG_STATE_HOME=str(tmp_path / "file"), HF_ENDPOINT="http://127.0.0.1:9")

    assert service.process.wait(timeout=50) == 1
    assert "cannot be written" in service.said()
    assert "Traceback" not in service.said()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_can_be_stopped_while_it_starts(start: Start, config: Config, number: int) -> None:
    service = _up(start, config, HF_ENDPOINT="http://127.0.0.1:9")
    wait_until(lambda: len(service.family()) > 4, 60, service.said)

    service.process.send_signal(number)

    assert service.wait(10) == 1
    assert service.family() == []
