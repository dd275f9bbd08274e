"""`nli-serve up`: a real answer before it says ready, the cause when there is none, a clean stop always."""

from __future__ import annotations

import re
import signal
import socket
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.tiny import save_roberta

from .conftest import ROOT, Start, wait_until

Config = tuple[Path, dict[str, Any]]


def _write(config: Config) -> None:
    file, data = config
    file.write_text(yaml.safe_dump(data))


def _up(start: Start, config: Config, *options: str, **env: str) -> Any:
    file, data = config
    (file.parent / "deployments").symlink_to(ROOT / "deployments")
    return start("clients.cli", "up", str(file), *options, port=data["http_options"]["port"], **env)


@pytest.mark.parametrize(("options", "number"), [((), signal.SIGTERM), (("--plain",), signal.SIGINT)])
@pytest.mark.timeout(180)
def test_says_how_to_call_it_once_it_answers_and_stops_within_ten_seconds(
    start: Start, config: Config, tmp_path: Path, options: tuple[str, ...], number: int
) -> None:
    config[1]["applications"][0]["args"]["model"] = {"name": str(save_roberta(tmp_path / "model"))}
    _write(config)

    service = _up(start, config, *options)
    wait_until(lambda: "Stop:" in service.said() or service.process.poll() is not None, 120, service.said)

    said = service.said()
    assert f"Ready: {service.url}" in said
    assert re.search(r"Model: .*model \(torch-fp32\), as configured", said)
    assert f"curl {service.url}/v1/classify --json" in said
    assert ("fast profile" in said) == (not options)
    assert service.answers()
    before = service.session()
    assert len(before) > 5
    started = time.monotonic()
    service.process.send_signal(number)
    assert service.process.wait(timeout=30) == 0
    assert time.monotonic() - started < 10
    assert not [p for p in before if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.timeout(180)
def test_a_classifier_whose_constructor_fails_ends_it_with_the_cause(
    start: Start, config: Config, tmp_path: Path
) -> None:
    folder = save_roberta(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"no weights")
    config[1]["applications"][0]["args"]["model"] = {"name": str(folder)}
    _write(config)

    service = _up(start, config)

    assert service.process.wait(timeout=120) == 1
    assert f"the deploy failed: StartRefused: {folder} cannot be loaded, SafetensorError" in service.said()
    assert "Ready" not in service.said()
    assert "Traceback" not in service.said()
    assert not service.session()


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


@pytest.mark.timeout(120)
def test_can_be_stopped_while_it_starts(start: Start, config: Config) -> None:
    service = _up(start, config, HF_ENDPOINT="http://127.0.0.1:9")
    wait_until(lambda: len(service.session()) > 4, 60, service.said)
    before = service.session()

    service.process.send_signal(signal.SIGTERM)

    assert service.process.wait(timeout=10) != 0
    assert not [p for p in before if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
