"""The limits on a real cluster: exact over replicas, through crashes and roll-outs; and keys."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import ray
from ray.exceptions import RayError

from deployments import quota
from deployments.contract.errors import QuotaExceeded, ServiceError, Unauthorized
from deployments.contract.keys import KeyFile, dump, new_key

from .conftest import App, Deploy, load, raw_request, wait_until
from .stand_ins import Admissions

LIMIT, BURST = 50, 25  # requests per second, and at once
CLOCK_ALLOWANCE_S = 0.005
OFFERED_PER_S = 4 * LIMIT
RATES = {"limit": LIMIT, "burst": BURST}
LIMITED = {"caller": {"requests": RATES, "pairs": None, "max_concurrent": 10_000}}
CAPS = {"caps": {"max_pairs": 100}}
GOOD: dict[str, Any] = {"text": "a cracked screen", "labels": ["repair"]}


async def _offer(app: App, meanwhile: Coroutine[Any, Any, None]) -> Counter[str]:
    """Requests at a steady rate, whatever becomes of the ones before, until `meanwhile` ends; how many ended how."""
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
    other = asyncio.create_task(meanwhile)
    start = time.monotonic()
    while not other.done():
        while len(asked) < (time.monotonic() - start) * OFFERED_PER_S:
            asked.append(asyncio.create_task(ask()))
        await asyncio.sleep(0.005)
    await asyncio.gather(other, *asked)
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


def _ingress(replicas: int) -> dict[str, Any]:
    """Who is killed is missed soon."""
    options = {"num_replicas": replicas, "graceful_shutdown_timeout_s": 5, "health_check_period_s": 1}
    return {**options, "user_config": LIMITED}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ledger") / "admissions"


@pytest.fixture
def limited(borrow: Deploy, log: Path) -> Callable[..., tuple[App, Admissions]]:
    def run(replicas: int) -> tuple[App, Admissions]:
        return borrow(ingress=_ingress(replicas), app=CAPS, admissions=str(log)), Admissions(log)

    return run


def test_forged_forwarded_addresses_are_one_caller(limited: Callable[..., tuple[App, Admissions]]) -> None:
    app, _ = limited(1)
    pairs = {"limit": 1, "window_s": 60, "burst": 100}
    app.put(ingress={"user_config": {"caller": {"requests": None, "pairs": pairs}}})
    app.wait_for("RUNNING")
    wait_until(lambda: _post(app).status_code == 200, 10)

    forged = [raw_request(GOOD, **{"X-Forwarded-For": f"203.0.113.{i % 250}, 10.0.{i // 250}.1"}) for i in range(400)]
    seen = asyncio.run(load(app.http.base_url, 16, forged, allowed={200, 429}))

    assert seen[429] >= 300


@pytest.mark.parametrize("replicas", [1, 4])
def test_at_four_times_the_limit_every_window_holds_and_the_rate_is_used(
    limited: Callable[..., tuple[App, Admissions]], replicas: int, long: bool
) -> None:
    app, admissions = limited(replicas)
    seconds = 30 if long else 6

    start = time.monotonic()
    ends = asyncio.run(_offer(app, asyncio.sleep(seconds)))

    passed = admissions.all()
    _assert_exact(passed)
    by_second = [_used(passed, start + i, start + i + 1) for i in range(2, seconds)]
    # 0.98 to 0.996 where nothing else runs; a busy machine has come down to 0.96, and a lost quarter would be seen.
    assert statistics.median(by_second) >= 0.93, by_second
    assert ends["refused"] > ends["passed"] > 0
    assert set(ends) <= {"passed", "refused"}


async def _ledger_pid(app: App) -> int:
    ledger = ray.get_actor(quota.name(app.name), namespace=quota.NAMESPACE)
    pid: int = await ledger.pid.remote()
    return pid


@pytest.mark.timeout(300)
def test_killing_the_ledger_and_replicas_breaks_no_window(
    limited: Callable[..., tuple[App, Admissions]], long: bool
) -> None:
    app, admissions = limited(4)
    seconds, chance = 100.0 if long else 14.0, random.Random(4)
    killed: list[int] = []

    async def kill() -> None:
        for turn in range(int(seconds / 4)):
            await asyncio.sleep(4)
            pid = chance.choice(await asyncio.to_thread(app.pids, "Ingress")) if turn % 2 else await _ledger_pid(app)
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
        await asyncio.sleep(2)

    start = time.monotonic()
    ends = asyncio.run(_offer(app, kill()))

    passed = admissions.all()
    _assert_exact(passed)
    # What is lost are the seconds until a new ledger or replica is up: a fifth on a busy machine, 0.78 was seen.
    assert _used(passed, start + 1, start + seconds) >= 0.7, ends
    assert len(set(killed)) >= 3
    wait_until(lambda: all(map(psutil.pid_exists, app.pids("Ingress"))), 30)  # who was killed is missed by then
    app.wait_for("RUNNING")


@pytest.mark.timeout(300)
def test_a_roll_out_breaks_no_window(limited: Callable[..., tuple[App, Admissions]]) -> None:
    app, admissions = limited(2)
    before, ended = app.pids("Ingress"), 0.0
    assert len(before) == 2

    def replaced() -> bool:
        return len(app.pids("Ingress")) == 2 and not any(map(psutil.pid_exists, before))

    def by_second(seconds: int) -> list[float]:
        passed, now = admissions.all(), time.monotonic()
        return [_used(passed, now - i, now - i + 1) for i in range(seconds, 0, -1)]

    async def roll_out() -> None:
        nonlocal ended
        await asyncio.sleep(1)
        await asyncio.to_thread(app.put, ingress={**_ingress(2), "ray_actor_options": {"num_cpus": 0.2}})
        await asyncio.to_thread(wait_until, replaced, 60, lambda: f"{before}, {app.pids('Ingress')}", 0.2)
        await asyncio.sleep(5)
        # 0.96 to 1.02 of each second, and 0.4 of one where other processes take the cores.
        await asyncio.to_thread(
            wait_until, lambda: statistics.mean(by_second(5)) >= 0.9, 20, lambda: str(by_second(25)), 0.5
        )
        ended = time.monotonic()

    start = time.monotonic()
    ends = asyncio.run(_offer(app, roll_out()))

    passed = admissions.all()
    _assert_exact(passed)
    assert _used(passed, start + 1, ended) >= 0.65, ends
    assert statistics.median(_used(passed, start + i, start + i + 1) for i in range(1, int(ended - start))) >= 0.9, ends


# Keys.


PURPOSES = ("to be used", "to be revoked", "disabled", "slow")


class Keys:
    """A key file with a key for each purpose, all of which the replicas know from the start."""

    def __init__(self, file: Path) -> None:
        made = {purpose: new_key("acme", now=datetime.now(UTC)) for purpose in PURPOSES}
        self.file = file
        self.tokens = {purpose: token for purpose, (_, token) in made.items()}
        self._records = {purpose: record for purpose, (record, _) in made.items()}
        self.change("disabled", disabled=True)
        self.change("slow", tier="slow")

    def change(self, purpose: str, **changes: Any) -> None:
        self._records[purpose] = self._records[purpose].model_copy(update=changes)
        new = self.file.with_suffix(".new")
        new.write_text(dump(KeyFile(keys=tuple(self._records.values()))))
        new.rename(self.file)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys") / "keys.json")


@pytest.fixture
def guarded(borrow: Deploy, keys: Keys) -> Callable[..., App]:
    def run(replicas: int = 2, **user_config: Any) -> App:
        app = {"auth": "required", "keys_file": str(keys.file), "caps": {"max_pairs": 9_000}}
        return borrow(ingress={"num_replicas": replicas, "user_config": user_config}, app=app)

    return run


def _post(app: App, *authorization: str, body: dict[str, Any] = GOOD) -> httpx2.Response:
    fields = [("Authorization", value.encode()) for value in authorization]
    return app.http.post("/v1/classify", json=body, headers=[(name.encode(), value) for name, value in fields])


def test_a_key_opens_the_door_over_http_and_by_handle_and_nothing_else_does(
    guarded: Callable[..., App], keys: Keys
) -> None:
    token, gone = keys.tokens["to be used"], keys.tokens["disabled"]
    app = guarded(caller={"pairs": {"limit": 2_000, "burst": 9_000}})

    answer = _post(app, f"Bearer {token}")
    assert answer.status_code == 200
    assert answer.headers["ratelimit-policy"].count("caller-") == answer.headers["ratelimit"].count("caller-") == 2
    assert app.handle.classify.remote(GOOD, api_key=token).result(timeout_s=20)["results"]
    for wrong in ([], ["Bearer"], [f"Basic {token}"], [f"Bearer {token}0"], [f"Bearer {gone}"], ["Bearer é"]):
        refused = _post(app, *wrong)
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized"), wrong
        assert refused.headers["www-authenticate"] == "Bearer"
    twice = _post(app, f"Bearer {token}", f"Bearer {token}")
    assert (twice.status_code, twice.json()["code"]) == (400, "repeated_authorization")
    for wrong_key in (None, "", gone, 5):
        with pytest.raises(Unauthorized):
            app.handle.classify.remote(GOOD, api_key=wrong_key).result(timeout_s=20)


def test_a_revoked_key_stops_within_five_seconds_under_load(guarded: Callable[..., App], keys: Keys) -> None:
    token = keys.tokens["to be revoked"]
    app = guarded(caller={"requests": None, "pairs": None})
    requests = [raw_request({**GOOD, "text": f"{i}"}, Authorization=f"Bearer {token}") for i in range(100_000)]

    async def all_day() -> float:
        """Until the first refusal; how long it took from the revocation."""
        busy = asyncio.create_task(load(app.http.base_url, 8, requests))
        await asyncio.sleep(1)
        assert not busy.done()
        keys.change("to be revoked", disabled=True)
        revoked = time.monotonic()
        with pytest.raises(AssertionError, match="401"):
            await asyncio.wait_for(busy, 10)
        return time.monotonic() - revoked

    took = asyncio.run(all_day())

    wait_until(lambda: {_post(app, f"Bearer {token}").status_code for _ in range(10)} == {401}, 5 - took)


def test_a_key_has_the_limits_of_its_tier_and_a_wrong_request_costs_one(
    guarded: Callable[..., App], keys: Keys
) -> None:
    token = keys.tokens["slow"]
    slow = {"requests": {"limit": 1, "window_s": 600, "burst": 3}, "pairs": {"limit": 1, "window_s": 600, "burst": 4}}
    app = guarded(replicas=1, caller={"pairs": {"limit": 2_000, "burst": 9_000}}, tiers={"slow": slow})
    long = {**GOOD, "labels": ["word " * 50 + str(i) for i in range(3)], "template": "so {} " + "word " * 20}
    assert _post(app, f"Bearer {token}", body=long).status_code == 422  # the first of three, and its pairs come back

    answer = _post(app, f"Bearer {token}", body={**GOOD, "labels": ["a", "b", "c"]})
    assert (answer.status_code, answer.headers["ratelimit"].partition(";t")[0]) == (200, '"caller-pairs";r=1')
    never = _post(app, f"Bearer {token}", body={**GOOD, "labels": ["a", "b", "c", "d", "e"]})
    assert (never.status_code, never.json()["code"]) == (413, "cost_too_large")  # the third
    refused = _post(app, f"Bearer {token}")
    assert (refused.status_code, refused.json()["violated-policies"]) == (429, ["caller-requests"])
    assert 0 < int(refused.headers["retry-after"]) - 1 < refused.json()["retry_after_s"] <= 600
    assert "ratelimit-policy" in refused.headers
    with pytest.raises(QuotaExceeded, match="caller-requests"):
        app.handle.classify.remote(GOOD, api_key=token).result(timeout_s=20)
