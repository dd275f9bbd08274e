"""The limits on a real cluster: exact over replicas, through crashes and roll-outs; and keys."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import RayError

from deployments import quota
from deployments.contract.errors import QuotaExceeded, ServiceError

from .conftest import App, Deploy
from .stand_ins import Admissions

LIMIT, BURST = 50, 25  # requests per second, and at once
CLOCK_ALLOWANCE_S = 0.005
OFFERED_PER_S = 4 * LIMIT
RATES = {"limit": LIMIT, "burst": BURST}
LIMITED = {"caller": {"requests": RATES, "pairs": None, "max_concurrent": 10_000}}
CAPS = {"caps": {"max_pairs": 100}}
GOOD: dict[str, Any] = {"text": "a cracked screen", "labels": ["repair"]}


async def _offer(
    app: App, seconds: float, meanwhile: Callable[[], Coroutine[Any, Any, None]] | None = None
) -> Counter[str]:
    """Requests at a steady rate, whatever becomes of the ones before; how many ended how."""
    handle, ends = app.handle, Counter[str]()

    async def ask() -> None:
        try:
            await handle.classify.remote(GOOD)
            ends["passed"] += 1
        except QuotaExceeded:
            ends["refused"] += 1
        except (ServiceError, RayError) as error:
            ends[type(error).__name__] += 1

    asked: list[asyncio.Task[None]] = []
    other: asyncio.Task[None] | None = asyncio.create_task(meanwhile()) if meanwhile else None
    start = time.monotonic()
    while (now := time.monotonic() - start) < seconds:
        while len(asked) < now * OFFERED_PER_S:
            asked.append(asyncio.create_task(ask()))
        await asyncio.sleep(0.005)
    if other:
        other.cancel()
    await asyncio.gather(*asked)
    return ends


def _assert_exact(passed: list[tuple[int, int]]) -> None:
    """No window holds more than burst + rate x (time + allowance), refunds taken off."""
    total, least = 0, 0.0
    for at, n in passed:
        grown = LIMIT * at / 1e9
        least = min(least, total - grown) if total else -grown
        total += n
        excess = total - grown - least - BURST - LIMIT * CLOCK_ALLOWANCE_S
        assert excess <= 0, f"{excess:.2f} requests too many in a window that ends {(at - passed[0][0]) / 1e9:.3f} s in"


def _used(passed: list[tuple[int, int]], since: float, until: float) -> float:
    """What part of the permitted rate was used."""
    return sum(n for at, n in passed if since <= at / 1e9 < until) / (LIMIT * (until - since))


@pytest.fixture
def limited(deploy: Deploy, tmp_path: Path) -> Callable[..., tuple[App, Admissions]]:
    def run(replicas: int) -> tuple[App, Admissions]:
        log = tmp_path / "admissions"
        ingress = {"num_replicas": replicas, "user_config": LIMITED, "graceful_shutdown_timeout_s": 5}
        return deploy(ingress=ingress, app=CAPS, admissions=str(log)), Admissions(log)

    return run


@pytest.mark.parametrize("replicas", [1, 4])
def test_at_four_times_the_limit_every_window_holds_and_the_rate_is_used(
    limited: Callable[..., tuple[App, Admissions]], replicas: int
) -> None:
    app, admissions = limited(replicas)

    start = time.monotonic()
    ends = asyncio.run(_offer(app, 5))

    passed = admissions.all()
    _assert_exact(passed)
    assert _used(passed, start + 1, start + 5) >= 0.97, ends
    assert ends["refused"] > ends["passed"] > 0
    assert set(ends) <= {"passed", "refused"}


def _ledger_pid(app: App) -> int:
    ledger = ray.get_actor(quota.name(app.name), namespace=quota.NAMESPACE)
    return int(ray.get(ledger.pid.remote(), timeout=10))


def test_killing_the_ledger_and_replicas_breaks_no_window(limited: Callable[..., tuple[App, Admissions]]) -> None:
    app, admissions = limited(4)
    seconds, chance = 18.0, random.Random(4)
    killed: list[int] = []

    async def kill() -> None:
        for turn in itertools.count():
            await asyncio.sleep(4)
            killed.append(chance.choice(app.pids("Ingress")) if turn % 2 else _ledger_pid(app))
            os.kill(killed[-1], signal.SIGKILL)

    start = time.monotonic()
    ends = asyncio.run(_offer(app, seconds, kill))

    passed = admissions.all()
    _assert_exact(passed)
    assert _used(passed, start + 1, start + seconds) >= 0.8, ends
    assert len(set(killed)) >= 4


def test_a_roll_out_breaks_no_window(limited: Callable[..., tuple[App, Admissions]]) -> None:
    app, admissions = limited(2)
    before = set(app.pids("Ingress"))

    async def redeploy() -> None:
        await asyncio.sleep(1)
        app.put(options={"seconds_per_pair": 0.0001})

    start = time.monotonic()
    ends = asyncio.run(_offer(app, 8, redeploy))

    app.wait_for("RUNNING")
    passed = admissions.all()
    _assert_exact(passed)
    assert _used(passed, start + 1, start + 8) >= 0.8, ends
    assert not before & set(app.pids("Ingress"))
