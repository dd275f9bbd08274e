"""The serve config of each overlay of k8s/ on a real Ray, by the call that the KubeRay operator makes.

What is put is the overlay's, byte for byte, but for the model: the folder of a small one, which has no revision. The
key file lies where the Secret is mounted, if this user may make that folder; else its path is another one, too.
The nodes offer GPUs which are none, and `device: cuda` stays in the config, so on them a stand-in of one function of
the engine computes on the CPU: without it each replica would refuse to start, as it must where torch finds no CUDA
(tests/engines/test_torch.py). Serve runs already, so it keeps its own `http_options` and `proxy_location`, as it does
on a cluster that is changed in place.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private.node import Node
from ray._private.parameter import RayParams

from deployments.contract.keys import KeyFile, dump, new_key
from k8s.generate import OVERLAYS, config
from tests.ports import free_port
from tests.serve.conftest import ROOT, Cluster, load, raw_request, wait_until
from tests.tiny import save_roberta

ASK = {"text": "My card was charged twice", "labels": ["billing", "repair"]}
NODES = 2  # of 4 CPUs and a GPU, as the fewest workers of each overlay
EDITS = 60  # requests under way while the config changes; below the burst of 100
MOUNTED = Path("/etc/nli/keys.json")  # of the Secret, in the pods of every overlay
HOSTS_APART = ("gpu", "prod-gpu")  # they differ in `allowed_hosts` only, so one of them is enough


@pytest.fixture(scope="module", autouse=True)
def _takes_a_minute(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--long"):
        pytest.skip("starts nodes and twelve engines: a minute or more; make test-long")


@pytest.fixture(scope="module")
def workers(cluster: Cluster) -> Iterator[None]:
    """Nodes beside the first; at the end they go."""
    nodes: list[Node] = []
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests' / 'serve' / 'fake_gpu'}")
            while len(nodes) < NODES:  # one after the other, as they would choose the same free ports
                nodes.append(_start())
                wait_until(lambda: _gpus() == len(nodes), 60)
        yield
    finally:
        for node in nodes:
            node.kill_all_processes(check_alive=False)


def _start() -> Node:
    """As `ray.cluster_utils` does; `ray start` would have everybody on this machine join the cluster of the tests."""
    params = RayParams(
        gcs_address=ray.get_runtime_context().gcs_address,
        num_cpus=4,
        num_gpus=1,
        object_store_memory=100_000_000,
        min_worker_port=0,
        max_worker_port=0,
        node_manager_port=0,
        dashboard_agent_listen_port=free_port(),
        include_log_monitor=False,  # type: ignore[arg-type]
    )
    return Node(params, head=False, shutdown_at_exit=False, spawn_reaper=True)


def _gpus() -> float:
    return float(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_roberta(tmp_path_factory.mktemp("model"))


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Path]:
    """Of the key file: where the overlays have it, on a machine that has nothing there and lets this user put it."""
    folder = MOUNTED.parent
    if folder.exists() or not os.access(folder.parent, os.W_OK):
        yield tmp_path / MOUNTED.name
        return
    folder.mkdir()
    try:
        yield MOUNTED
    finally:
        MOUNTED.unlink(missing_ok=True)
        folder.rmdir()


@pytest.mark.parametrize("overlay", [each for each in OVERLAYS if each.name != "gpu"], ids=lambda each: each.name)
def test_the_serve_config_of_an_overlay_runs_changes_and_goes(
    cluster: Cluster, workers: None, model: Path, keys: Path, overlay: Path
) -> None:
    record, token = new_key("acme", None, now=datetime.now(UTC))
    keys.write_text(dump(KeyFile(keys=(record,))))
    data = _with(config(overlay), model, keys)
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


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda each: each.name)
def test_nothing_but_the_model_is_another_than_what_is_applied(overlay: Path, model: Path) -> None:
    put, applied = _with(config(overlay), model, MOUNTED), config(overlay)

    for data in (put, applied):
        data["applications"][0]["args"]["model"] |= {"name": None, "revision": None}
    assert json.dumps(put) == json.dumps(applied)


def test_the_overlays_that_are_not_deployed_differ_in_their_hosts_only() -> None:
    one, other = (config(ROOT / "k8s" / "overlays" / name) for name in HOSTS_APART)
    for data in (one, other):
        del data["applications"][0]["args"]["allowed_hosts"]

    assert one == other


def _with(data: dict[str, Any], model: Path, keys: Path) -> dict[str, Any]:
    args = data["applications"][0]["args"]
    args["keys_file"] = str(keys)
    args["model"] |= {"name": str(model), "revision": None}
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
