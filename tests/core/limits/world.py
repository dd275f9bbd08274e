"""A ledger, replicas, and a network that loses, delays and doubles what they say, in simulated time."""

from __future__ import annotations

from dataclasses import dataclass, field

from deployments.core.bucket import Rate
from deployments.core.lease import (
    ALONE_NS,
    LEASE_NS,
    MS,
    QUIET_NS,
    Check,
    Denied,
    Message,
    Policies,
    Rates,
    Reply,
    Unable,
)
from deployments.core.ledger import Ledger
from deployments.core.lessee import SERVICE, Lessee, Passed

from .oracle import WINDOW_NS, Oracle

PATIENCE_NS = 50 * MS  # of a check that waits for the ledger
START_NS = 10**18  # a machine that has been up for long, so that a float would show
DAY_NS = 24 * 3_600 * 10**9
SUBJECTS = ("a", "b")
SPREAD_NS = LEASE_NS + QUIET_NS + ALONE_NS  # a change of policies has reached everybody and everything by then


def policies(limit: int, burst: int, service_limit: int, service_burst: int) -> Policies:
    """Pairs cost twice as much as requests, in a bucket twice as large."""

    def rates(limit: int, burst: int) -> Rates:
        return Rates(Rate(limit, WINDOW_NS, burst), Rate(2 * limit, WINDOW_NS, 2 * burst))

    return Policies({"": rates(limit, burst)}, rates(service_limit, service_burst))


@dataclass
class Waiting:
    check: Check
    since: int
    gone: bool = False


@dataclass(eq=False)
class Replica:
    name: str
    lessee: Lessee
    skew: int
    """Its clock, less the time."""

    waiting: list[Waiting] = field(default_factory=list)
    asked: list[Waiting] = field(default_factory=list)
    """With the message under way."""


@dataclass
class Done:
    """An admission that can still be refunded."""

    replica: Replica
    passed: Passed
    check: Check
    at: int


class World:
    """Everything, and the oracle that watches it."""

    def __init__(self, replicas: int, rules: Policies, max_subjects: int = 3) -> None:
        self.now = START_NS
        self.oracle = Oracle(self.now)
        self.rules = rules
        self.messages: list[tuple[Replica, Message]] = []
        self.replies: list[tuple[Replica, Reply]] = []
        self.done: list[Done] = []
        self.refused = 0
        self.steps = 0
        self._names = 0
        self._configs = 0
        self._replaced: list[tuple[int, Policies]] = []  # and when
        self._max_subjects = max_subjects
        self._epoch = 0
        self.ledger: Ledger | None = self._new_ledger()
        self.replicas = [self._new_replica() for _ in range(replicas)]
        self._watch()

    # What may happen.

    def pass_time(self, ns: int) -> None:
        self.now += ns
        self._watch()

    def arrive(self, replica: Replica, subject: str, pairs: int) -> None:
        check = Check(subject, "", (1, pairs))
        decision = replica.lessee.decide(check, self._clock(replica))
        if decision is None:
            replica.waiting.append(Waiting(check, self.now))
        else:
            self._decided(replica, check, decision)

    def speak(self, replica: Replica, *, stays: bool = True) -> None:
        """The next message, unless one is under way, or waiting checks forbid to leave."""
        self._lose_patience(replica)
        clock = self._clock(replica)
        if replica.lessee.is_under_way(clock):
            return
        replica.asked, replica.waiting = replica.waiting, []
        message = replica.lessee.message([one.check for one in replica.asked], clock, stays=stays)
        self.messages.append((replica, message))

    def deliver(self, index: int, *, again: bool = False) -> None:
        """A message reaches the ledger, if there is one; `again`: and will once more."""
        replica, message = self.messages[index] if again else self.messages.pop(index)
        if self.ledger is not None:
            self.replies.append((replica, self.ledger.handle(message, self.now + DAY_NS)))

    def lose(self, index: int) -> None:
        del self.messages[index]

    def hear(self, index: int, *, again: bool = False) -> None:
        """A reply reaches its replica."""
        replica, reply = self.replies[index] if again else self.replies.pop(index)
        if replica not in self.replicas:
            return
        self._lose_patience(replica)
        outcomes = replica.lessee.receive(reply, self._clock(replica))
        if outcomes is None:
            return
        asked, replica.asked = replica.asked, []
        for one, outcome in zip(asked, outcomes, strict=False):
            if one.gone and isinstance(outcome, Passed):
                replica.lessee.refund(outcome, one.check, self._clock(replica))
            elif not one.gone and outcome is not None:
                self._decided(replica, one.check, outcome)

    def lose_reply(self, index: int) -> None:
        del self.replies[index]

    def crash_ledger(self) -> None:
        self.ledger = None

    def restart_ledger(self) -> None:
        self.ledger = self._new_ledger()

    def crash_replica(self, index: int, *, known: bool) -> None:
        """And the ledger may learn of it."""
        if known and self.ledger is not None:
            self.ledger.bury(self.replicas[index].name, self.now + DAY_NS)
        self.replicas[index] = self._new_replica()

    def change(self, rules: Policies) -> None:
        """Other policies, which reach one replica after the other."""
        self._replaced.append((self.now, self.rules))
        self.rules = rules
        self._watch()
        for replica in self.replicas:
            self._configure(replica)

    def refund(self, index: int) -> None:
        done = self.done.pop(index)
        if done.replica in self.replicas:
            done.replica.lessee.refund(done.passed, done.check, self._clock(done.replica))
            for subject, cost in self._costs(done.check):
                self.oracle.refunded(subject, cost, done.at)

    # A short way for a quiet world.

    def ask(self, replica: Replica, check: Check) -> Passed | Denied | Unable | None:
        """A check by itself, all the way to the ledger and back at once; the replica holds nothing after it."""
        assert self.ledger is not None
        message = replica.lessee.message([check], self._clock(replica), stays=False)
        outcomes = replica.lessee.receive(self.ledger.handle(message, self.now + DAY_NS), self._clock(replica))
        assert outcomes is not None
        if isinstance(outcomes[0], Passed):
            self._decided(replica, check, outcomes[0])
        return outcomes[0]

    def talk(self, replica: Replica) -> None:
        """What it has to say, to the ledger and back at once."""
        n_messages, n_replies = len(self.messages), len(self.replies)
        self.speak(replica)
        if len(self.messages) > n_messages:
            self.deliver(n_messages)
        if len(self.replies) > n_replies:
            self.hear(n_replies)

    def waits(self, replica: Replica) -> bool:
        """Whether a request there has no answer yet."""
        return any(not one.gone for one in (*replica.waiting, *replica.asked))

    def quiet(self) -> None:
        """No messages under way, nobody alone, nothing waiting."""
        if self.ledger is None:
            self.restart_ledger()
        self.messages.clear()
        self.replies.clear()
        for _ in range(2):
            for replica in self.replicas:
                replica.waiting.clear()
                replica.asked.clear()
                assert self.ledger is not None
                message = replica.lessee.message([], self._clock(replica), stays=False)
                replica.lessee.receive(self.ledger.handle(message, self.now + DAY_NS), self._clock(replica))
            self.pass_time(200 * 10**9)  # longer than any bucket takes to fill up

    def rates(self) -> list[tuple[Rate, Rate]]:
        """Requests and pairs, of both levels."""
        found = []
        for requests, pairs in (self.rules.tiers[""], self.rules.service):
            assert requests is not None
            assert pairs is not None
            found.append((requests, pairs))
        return found

    # Inside.

    def _clock(self, replica: Replica) -> int:
        return self.now + replica.skew

    def _new_ledger(self) -> Ledger:
        self._epoch += 1
        return Ledger(
            self._epoch,
            self.now + DAY_NS,
            restarted=self._epoch > 1,
            secret=b"secret",
            max_subjects=self._max_subjects,
        )

    def _new_replica(self) -> Replica:
        self._names += 1
        name = f"replica {self._names}"
        replica = Replica(name, Lessee(name), skew=self._names * 977 * MS)
        self._configure(replica)
        return replica

    def _configure(self, replica: Replica) -> None:
        self._configs += 1
        replica.lessee.configure(self._configs, self.rules, self._clock(replica))

    def _lose_patience(self, replica: Replica) -> None:
        """Checks that have waited for too long are decided without the ledger."""
        late = [
            one for one in (*replica.waiting, *replica.asked) if self.now - one.since >= PATIENCE_NS and not one.gone
        ]
        for one in late:
            one.gone = True
            self._decided(replica, one.check, replica.lessee.alone(one.check, self._clock(replica)))
        replica.waiting = [one for one in replica.waiting if not one.gone]

    def _decided(self, replica: Replica, check: Check, decision: Passed | Denied | Unable) -> None:
        if not isinstance(decision, Passed):
            self.refused += 1
            return
        for subject, cost in self._costs(check):
            self.oracle.passed(subject, cost, self.now)
        if decision.grant is not None:
            self.done.append(Done(replica, decision, check, self.now))

    def _costs(self, check: Check) -> list[tuple[tuple[str, int], int]]:
        return [((subject, unit), check.cost[unit]) for subject in (check.subject, SERVICE) for unit in (0, 1)]

    def _watch(self) -> None:
        """What is in force: what was told last, what may still be obeyed somewhere, and what the ledger goes by."""
        while self._replaced and self._replaced[0][0] + SPREAD_NS < self.now:
            del self._replaced[0]
        versions = [self.rules, *(rules for _, rules in self._replaced)]
        if self.ledger is not None and self.ledger.policies.tiers:
            versions.append(self.ledger.policies)
        for level in ("caller", "service"):
            for unit in (0, 1):
                rates = [(one.tiers[""] if level == "caller" else one.service)[unit] for one in versions]
                self.oracle.in_force((level, unit), [rate for rate in rates if rate], self.now)
