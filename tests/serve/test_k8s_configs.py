"""The serve config of each overlay of k8s/ on a real Ray, by the call that the KubeRay operator makes.

Put in its place is only what the pods bring: the folder of a small model, the key file, and nodes that offer GPUs
which are none, where the engine computes on the CPU. Serve runs already, so it keeps its own `http_options`
and `proxy_location`, as it does on a cluster that is changed in place.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import ray

from deployments.contract.keys import KeyFile, dump, new_key
from k8s.generate import OVERLAYS, config
from tests.serve.conftest import ROOT, Cluster, load, raw_request, wait_until
from tests.tiny import save_roberta

ASK = {"text": "My card was charged twice", "labels": ["billing", "repair"]}
NODES = 2  # of 4 CPUs and a GPU, as the fewest workers of each overlay
EDITS = 60  # requests under way while the config changes; below the burst of 100
HOSTS_APART = ("gpu", "prod-gpu")  # they differ in `allowed_hosts` only, so one of them is enough


@pytest.fixture(scope="module")
def workers(cluster: Cluster) -> Iterator[None]:
    """Nodes beside the first; at the end they go."""
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'serve' / 'fake_gpu'}"}
    env |= {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=4", "--num-gpus=1"]
    command += [f"--address={ray.get_runtime_context().gcs_address}", "--object-store-memory=100000000"]
    command += ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]  # any that are free
    processes = [
        subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(NODES)
    ]
    try:
        wait_until(lambda: ray.cluster_resources().get("GPU") == NODES, 60)  # type: ignore[no-untyped-call]
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_roberta(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("overlay", [each for each in OVERLAYS if each.name != "gpu"], ids=lambda each: each.name)
def test_the_serve_config_of_an_overlay_runs_changes_and_goes(
    cluster: Cluster, workers: None, model: Path, tmp_path: Path, overlay: Path
) -> None:
    record, token = new_key("acme", None, now=datetime.now(UTC))
    (tmp_path / "keys.json").write_text(dump(KeyFile(keys=(record,))))
    data = _with(config(overlay), model, tmp_path / "keys.json")
    changed = deepcopy(data)
    changed["applications"][0]["deployments"][0]["user_config"]["caller"]["requests"]["limit"] = 21
    key = {"Authorization": f"Bearer {token}"}

    _put(cluster, data)
    wait_until(lambda: _status(cluster) in ("RUNNING", "DEPLOY_FAILED"), 90, lambda: str(_application(cluster)))
    assert _status(cluster) == "RUNNING", _application(cluster)["message"]
    before = _replicas(cluster)

    answer = cluster.http.post("/v1/classify", json=ASK, headers=key)
    assert (answer.status_code, answer.json()["model"]) == (200, str(model)), answer.text
    assert cluster.http.post("/v1/classify", json=ASK).status_code == 401

    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(asyncio.run, load(cluster.http.base_url, 4, [raw_request(ASK, **key)] * EDITS))
        _put(cluster, changed)
        assert under_way.result()[200] == EDITS
    wait_until(lambda: ";q=21;" in _policy(cluster, key), 10)
    assert _replicas(cluster) == before

    _put(cluster, {"applications": []})
    wait_until(lambda: _application(cluster) == {}, 60)


def test_the_overlays_that_are_not_deployed_differ_in_their_hosts_only() -> None:
    one, other = (config(ROOT / "k8s" / "overlays" / name) for name in HOSTS_APART)
    for data in (one, other):
        del data["applications"][0]["args"]["allowed_hosts"]

    assert one == other


def _with(data: dict[str, Any], model: Path, keys: Path) -> dict[str, Any]:
    args = data["applications"][0]["args"]
    args["keys_file"] = str(keys)
    args["model"] = {name: value for name, value in args["model"].items() if name != "revision"} | {"name": str(model)}
    return data


def _put(cluster: Cluster, data: dict[str, Any]) -> None:
    cluster.rest.put("/api/serve/applications/", json=data).raise_for_status()


def _application(cluster: Cluster) -> dict[str, Any]:
    found: dict[str, Any] = cluster.rest.get("/api/serve/applications/").json()["applications"].get("nli", {})
    return found


def _status(cluster: Cluster) -> str:
    return str(_application(cluster).get("status"))


def _replicas(cluster: Cluster) -> set[str]:
    deployments = _application(cluster)["deployments"].values()
    return {replica["replica_id"] for deployment in deployments for replica in deployment["replicas"]}


def _policy(cluster: Cluster, key: dict[str, str]) -> str:
    return str(cluster.http.post("/v1/classify", json=ASK, headers=key).headers.get("RateLimit-Policy"))
