"""What the launcher says once the service answers, and what ends it before it starts anything.

That it starts, answers and stops is shown in tests/launch.
"""

from __future__ import annotations

import socket
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from rich.console import Console

from clients.cli import main
from clients.commands.launch import _say_how_to_call
from clients.commands.readiness import Ready
from clients.commands.service import Service
from deployments.contract.args import ModelArgs
from tests.ports import free_port

ROOT = Path(__file__).parent.parent.parent.parent


@pytest.mark.parametrize("needs_key", [True, False])
def test_the_curl_to_try_has_the_header_for_a_key_only_where_one_is_needed(needs_key: bool) -> None:
    service = Service(Path("serve_config.yaml"), "nli", "127.0.0.1", 8000, ModelArgs(), needs_key)
    said = StringIO()

    _say_how_to_call(service, Ready("model", "torch-fp32", False, "repair (0.99)"), Console(file=said))

    assert ("-H 'Authorization: Bearer nli_...'" in said.getvalue()) == needs_key
    assert ("without a key it says" in said.getvalue()) == needs_key


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The shipped config with a model that is always there, to be changed; nothing may be started with it."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("this starts a process")

    monkeypatch.setattr("clients.commands.session.start", refuse)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "local")  # whatever cluster runs on this machine
    (tmp_path / "deployments").symlink_to(ROOT / "deployments")
    data: dict[str, Any] = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    data["applications"][0]["args"]["model"] = {"name": "embedded"}
    data["http_options"]["port"] = free_port()
    return data


def _up(config: dict[str, Any], folder: Path) -> str:
    """What it says in the end, which is no good one."""
    file = folder / "serve_config.yaml"
    file.write_text(yaml.safe_dump(config))

    result = CliRunner().invoke(main, ["up", str(file)])

    assert (result.exit_code, result.exc_info and result.exc_info[0]) == (1, SystemExit), result.output
    return " ".join(result.output.split())


def test_a_folder_that_is_no_model_ends_it_with_one_message(config: dict[str, Any], tmp_path: Path) -> None:
    config["applications"][0]["args"]["model"] = {"name": str(tmp_path)}

    said = _up(config, tmp_path)

    assert f"{tmp_path} is no model: config.json" in said
    assert "Starting Ray" not in said


def test_a_taken_port_ends_it_with_one_message(config: dict[str, Any], tmp_path: Path) -> None:
    port = config["http_options"]["port"]
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", port))
        holder.listen()

        assert f"port {port} is taken" in _up(config, tmp_path)


def test_a_misspelt_key_ends_it_with_what_was_meant(config: dict[str, Any], tmp_path: Path) -> None:
    config["applications"][0]["deployments"][1]["max_ongoing_request"] = 5

    assert "did you mean max_ongoing_requests?" in _up(config, tmp_path)


def test_a_log_that_cannot_be_written_is_told(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("clients.commands.launch.taken_ports", lambda *_, **__: ())  # whatever else listens here

    assert "cannot be written" in _up(config, tmp_path)
