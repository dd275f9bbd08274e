"""One mode of Serve, whichever the environment sets: three ways to classify the same number of texts, by turns."""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ray import serve
from ray.serve import Application

from benchmarks.limits.cluster import OFF, OPTIONS, cluster, deploy
from benchmarks.scheduler.graphs import MODEL
from clients.handle import HandleClient
from clients.ray_private import with_router_of_its_own
from deployments.contract.args import AppArgs
from deployments.engines.fake import FakeEngine
from deployments.engines.protocol import Engine
from deployments.graph import assemble

N_TEXTS = 3_000
ROUNDS = 3
WINDOW = 64  # of the loop; 32 to 128 are equal, 256 is slower
LABELS = ["billing", "repair", "holiday"]
GOALS = {"submit": 5.0, "map": 10.0}


def graph(_args: dict[str, Any]) -> Application:
    """The service around the fake engine."""
    return assemble(AppArgs(auth="off"), MODEL, _load)


def _load(_gpu_fraction: float) -> Engine:
    return FakeEngine()


def main() -> None:
    """A line for each way: name, goal, what was found."""
    application = {
        "name": "nli",
        "route_prefix": "/nli",
        "import_path": "benchmarks.delivery.on_cluster:graph",
        "args": {},
        "deployments": [{"name": "Ingress", **OPTIONS, "user_config": OFF}, {"name": "Classifier", **OPTIONS}],
    }
    with cluster() as rest:
        deploy(rest, [application])
        with HandleClient("nli") as client:
            ways: dict[str, Callable[[list[str]], int]] = {
                "loop": _loop,
                "submit": lambda texts: _submit(client, texts),
                "map": lambda texts: sum(1 for _ in client.map(texts, LABELS)),
            }
            rates = _measure(ways)
    base = statistics.median(rates["loop"])
    _line("a loop over `handle.classify.remote(...)` and `.result()`", "", f"{base:,.0f}/s")
    for way, name in (("submit", "`submit` with a callback"), ("map", "`map`")):
        rate, ratio = statistics.median(rates[way]), statistics.median(rates[way]) / base
        missed = "" if ratio >= GOALS[way] else ": not reached"
        _line(name, f">= {GOALS[way]:.0f} x", f"{ratio:.1f} x ({rate:,.0f}/s){missed}")


def _measure(ways: dict[str, Callable[[list[str]], int]]) -> dict[str, list[float]]:
    """Texts a second; every text is another one, so that no cache helps."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for name, way in ways.items():
        way([f"warm {name} {i}" for i in range(N_TEXTS // 10)])
    for number in range(ROUNDS):
        for name, way in ways.items():
            texts = [f"text {i} of {name} in round {number}" for i in range(N_TEXTS)]
            started = time.perf_counter()
            n_done = way(texts)
            rates[name].append(n_done / (time.perf_counter() - started))
            assert n_done == N_TEXTS
    return rates


def _loop(texts: list[str]) -> int:
    """As people write it: a window of calls, the oldest awaited first."""
    handle = with_router_of_its_own(serve.get_app_handle("nli"))
    calls: deque[Any] = deque()
    n_done = 0
    for text in texts:
        calls.append(handle.classify.remote({"text": text, "labels": LABELS}))
        if len(calls) == WINDOW:
            n_done += len(calls.popleft().result()["results"])
    while calls:
        n_done += len(calls.popleft().result()["results"])
    return n_done


def _submit(client: HandleClient, texts: list[str]) -> int:
    ended = threading.Semaphore(0)
    labels: list[str] = []

    def on_done(future: Any) -> None:
        labels.append(future.result().label)
        ended.release()

    for text in texts:
        client.submit(text, LABELS, callback=on_done)
    for _ in texts:
        ended.acquire()
    return len(labels)


def _line(*cells: str) -> None:
    sys.stdout.write("\t".join(cells) + "\n")


if __name__ == "__main__":
    main()
