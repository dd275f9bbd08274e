"""The ledger as replicas reach it: checks a second through the real actor, by four senders with one message each.

Closed loop, as replicas are: the next message goes out when the reply to the one before it is in.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any, NamedTuple

from ray.actor import ActorHandle

from deployments.core.lessee import Lessee
from deployments.quota import open_ledger

from .pure import checks, senders, take

N_SENDERS = 4
N_KEYS = 100
WARM_S, SECONDS = 1.0, 5.0


class Answered(NamedTuple):
    """Checks a second that got a decision, and what became of all: `Passed`, `Denied`, or `late`, which is none."""

    per_s: float
    outcomes: Counter[str]


async def answered() -> Answered:
    ledger = open_ledger("bench")
    await ledger.pid.remote()
    await asyncio.sleep(0.2)  # its buckets start to fill 0.1 s after it
    replicas = senders(N_SENDERS)
    await _send(ledger, replicas, WARM_S)
    started = time.monotonic()
    outcomes = await _send(ledger, replicas, SECONDS)
    return Answered((outcomes.total() - outcomes["late"]) / (time.monotonic() - started), outcomes)


async def _send(ledger: ActorHandle[Any], replicas: list[Lessee], seconds: float) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    end = time.monotonic() + seconds

    async def sender(replica: Lessee) -> None:
        sent = 0
        while time.monotonic() < end:
            wanted = checks(N_KEYS, sent)
            reply = await ledger.check.remote(replica.message(wanted, time.monotonic_ns()))
            outcomes.update(take(replica, reply, time.monotonic_ns()))
            sent += len(wanted)

    await asyncio.gather(*map(sender, replicas))
    return outcomes
