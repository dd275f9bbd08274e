"""What the limiter tells of how it came to its decisions."""

from __future__ import annotations

import time

from deployments.contract.limits import IngressConfig
from deployments.core.lease import Message, Reply
from deployments.core.ledger import Ledger
from deployments.runtime.limiter import Limiter


async def test_the_first_decisions_are_the_ledgers_and_once_a_key_is_busy_leases_make_them() -> None:
    ledger = Ledger(1, time.monotonic_ns() - 60_000_000_000, restarted=False, secret=b"test")

    async def ask(message: Message) -> Reply:
        return ledger.handle(message, time.monotonic_ns())

    limiter = Limiter("one", ask)
    limiter.configure(IngressConfig(), told_at=1)
    for _ in range(4):
        await limiter.admit("key", None, pairs=1)

    assert limiter.decisions["ledger"] >= 2
    assert limiter.decisions["lease"] >= 1
    assert limiter.decisions.total() == 4
