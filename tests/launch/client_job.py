"""A caller in Python of the application `nli`, as a process of its own; prints what came of it as one line of JSON.

`kill` in the arguments is a pid that gets SIGKILL while 200 futures are outstanding.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from typing import Any

import ray

from clients.delivery.future import Future
from clients.handle import HandleClient
from clients.results import Failed, classifications

TEXT, LABELS = "a cracked screen needs repair", ["billing", "repair", "holiday"]


@ray.remote(num_cpus=0)
def label_of(answer: Any) -> str:
    """Of what a reference held."""
    (row,) = classifications(answer)
    return "failed" if isinstance(row, Failed) else row.label


def ask(client: HandleClient) -> dict[str, Any]:
    """By every way that there is."""
    threads, called = set[str](), Counter[Future[Any]]()

    def on_done(future: Future[Any]) -> None:
        threads.add(threading.current_thread().name.rsplit("_")[0])
        called[future] += 1

    futures = [client.submit(f"about word{i}", ["other", f"word{i}"], callback=on_done) for i in range(100)]
    cancelled = [future.cancel() for future in futures[::10]]
    ended = {True: "cancelled"}
    labels = [ended.get(future.cancelled()) or future.result(30).label for future in futures]
    rows = client.map((f"text {i} on repair" for i in range(300)), LABELS)
    answer = {
        "one": client.classify(TEXT, LABELS).label,
        "several": [row.label for row in client.classify([TEXT, "billing"], LABELS)],
        "by reference": ray.get(label_of.remote(client.submit_ref(TEXT, LABELS)), timeout=30),
        "its future": classifications(client.future(client.submit_ref(TEXT, LABELS)).result(30))[0].label,
        "cancelled": sum(cancelled),
        "labels": labels,
        "mapped": Counter(row.label for row in rows),
    }
    client.close()  # so that every callback has run
    return answer | {"threads": sorted(threads), "called": [called[future] for future in futures]}


def kill(client: HandleClient, pid: int) -> dict[str, Any]:
    """How 200 futures end whose replica dies."""
    client.classify(TEXT, LABELS)
    others = ["other", "another", "a third", "a fourth"]  # so that all together take the engine a second
    futures = [client.submit(f"about word{i}, {pid}", [*others, f"word{i}"]) for i in range(200)]
    while not any(future.done() for future in futures):
        time.sleep(0.005)
    outstanding = sum(not future.done() for future in futures)
    os.kill(pid, signal.SIGKILL)
    ends = [repr(future.exception(70)) if future.exception(70) else future.result().label for future in futures]
    return {"outstanding": outstanding, "ends": ends}


if __name__ == "__main__":
    ray.init("auto", log_to_driver=False)
    with HandleClient("nli", deadline_s=60) as client:
        sys.stdout.write(json.dumps(kill(client, int(sys.argv[1])) if sys.argv[1:] else ask(client)))
