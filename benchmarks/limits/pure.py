"""The arithmetic alone, no Ray: CPU microseconds of one check, as a bucket, a replica and the ledger see it."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence

from deployments.core.bucket import Bucket, Rate
from deployments.core.lease import Check, Policies, Rates, Reply
from deployments.core.ledger import Ledger
from deployments.core.lessee import Lessee, Passed

SECOND_NS = 1_000_000_000
NEVER = Rate(1_000_000, SECOND_NS, 1_000_000)  # counted, and never reached
BOTH_LEVELS = Policies({"": Rates(NEVER, NEVER)}, Rates(NEVER, NEVER))
PER_MESSAGE = 64
STEP_NS = 50_000  # between two checks: 20,000 a second
N_CHECKS = 20_000
ROUNDS = 5


def debit() -> float:
    """One bucket: settle, ask how long to wait, take."""

    def once() -> float:
        bucket, now = Bucket(NEVER, 0), SECOND_NS
        started = time.process_time_ns()
        for _ in range(N_CHECKS):
            now += STEP_NS
            bucket.settle(now)
            if bucket.wait_ns(1, now) == 0:
                bucket.debit(1)
        return _us(time.process_time_ns() - started, N_CHECKS)

    return _median(once)


def lease() -> float:
    """One replica: a check that a lease covers, of two levels by two units."""

    def once() -> float:
        replica = Lessee("one")
        replica.configure(1, BOTH_LEVELS, 0)
        check = Check("key", "", (1, 4), (N_CHECKS // 2, 4 * N_CHECKS))
        message = replica.message([check], SECOND_NS)
        replica.receive(_ledger().handle(message, SECOND_NS), SECOND_NS)
        started = time.process_time_ns()
        decisions = [replica.decide(check, SECOND_NS) for _ in range(N_CHECKS // 2)]
        spent = time.process_time_ns() - started
        assert all(isinstance(decision, Passed) for decision in decisions), "not all were covered by the lease"
        return _us(spent, len(decisions))

    return _median(once)


def handle(n_keys: int) -> float:
    """The ledger: a check of two levels by two units, in messages that also bring back the leases before."""

    def once() -> float:
        ledger, now, spent = _ledger(), SECOND_NS, 0
        replicas = senders(4)
        for i in range(N_CHECKS // PER_MESSAGE):
            now += PER_MESSAGE * STEP_NS
            replica = replicas[i % len(replicas)]
            message = replica.message(checks(n_keys, i * PER_MESSAGE), now)
            started = time.process_time_ns()
            reply = ledger.handle(message, now)
            spent += time.process_time_ns() - started
            assert set(take(replica, reply, now)) == {"Passed"}, "the limits are too low"
        return _us(spent, N_CHECKS)

    return _median(once)


def senders(n: int) -> list[Lessee]:
    """Replicas that know the policies."""
    replicas = [Lessee(f"replica {i}") for i in range(n)]
    for replica in replicas:
        replica.configure(1, BOTH_LEVELS, 0)
    return replicas


def checks(n_keys: int, first: int) -> Sequence[Check]:
    """Those of one message, of keys that take turns."""
    return [Check(f"key {(first + i) % n_keys}", "", (1, 4)) for i in range(PER_MESSAGE)]


def take(replica: Lessee, reply: Reply, now: int) -> Counter[str]:
    """What became of the checks of a message: `Passed`, `Denied`, or `late`."""
    outcomes = replica.receive(reply, now)
    assert outcomes is not None, "a reply to another message"
    return Counter("late" if one is None else type(one).__name__ for one in outcomes)


def _ledger() -> Ledger:
    return Ledger(1, 0, restarted=False, secret=bytes(16))


def _median(once: Callable[[], float]) -> float:
    return statistics.median(once() for _ in range(ROUNDS))


def _us(spent_ns: int, n: int) -> float:
    return spent_ns / n / 1_000
