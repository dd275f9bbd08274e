"""`nli-serve up` beside a cluster of somebody else, which a launcher that looks around would find."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.launch.conftest import ROOT, starter
from tests.ports import free_port
from tests.tiny import save_roberta

from .conftest import Cluster


@pytest.mark.timeout(180)
def test_a_classifier_whose_constructor_fails_ends_it_with_the_cause_whatever_else_runs_here(
    cluster: Cluster, tmp_path: Path
) -> None:
    folder = save_roberta(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"no weights")
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    config["http_options"]["port"] = port = free_port()
    config["applications"][0]["args"]["model"] = {"name": str(folder)}
    file = tmp_path / "serve_config.yaml"
    file.write_text(yaml.safe_dump(config))
    (tmp_path / "deployments").symlink_to(ROOT / "deployments")

    with starter(tmp_path) as start:
        service = start("clients.cli", "up", "--plain", str(file), port=port, RAY_AUTH_MODE="token")

        assert service.wait(120) == 1
        assert "plain profile" in service.said()
        assert f"the deploy failed: StartRefused: {folder} cannot be loaded, SafetensorError" in service.said()
        assert "Ready" not in service.said()
        assert "Traceback" not in service.said()
        assert len(service.sessions) > 1
        assert service.family() == []
        assert "nli" not in cluster.rest.get("/api/serve/applications/").json()["applications"]
