"""What may happen to the limits, in any order."""

from __future__ import annotations

from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from deployments.core.lease import MS, Check, Denied, Policies
from deployments.core.lessee import Passed

from .world import SUBJECTS, Replica, World, policies

TIMES_NS = (1, 3 * MS, 40 * MS, 60 * MS, 220 * MS, 550 * MS, 1_500 * MS, 5_000 * MS)
LIMITS = (1, 20, 200)
BURSTS = (2, 10, 30)

small = st.sampled_from(LIMITS), st.sampled_from(BURSTS)
rules = st.one_of(st.builds(policies, *small, st.just(10_000), st.just(1_000)), st.builds(policies, *small, *small))

# How often each happens, of 49 times.
EVENTS = {
    "crowd": 6,
    "few": 5,
    "requests": 5,
    "time": 8,
    "talk": 4,
    "speak": 4,
    "message": 5,
    "reply": 4,
    "refund": 2,
    "lose": 1,
    "ledger": 2,
    "die": 1,
    "leave": 1,
    "change": 1,
}
OFTEN = [event for event, often in EVENTS.items() for _ in range(often)]
events = st.sampled_from(OFTEN)
numbers = st.integers(0, 255)


class Machine(RuleBasedStateMachine):
    """The world's oracle asserts at every admission."""

    @initialize(replicas=st.integers(1, 3), rules=rules, max_subjects=st.sampled_from([1, 100]))
    def start(self, replicas: int, rules: Policies, max_subjects: int) -> None:
        self.world = World(replicas, rules, max_subjects)

    @rule(event=events, a=numbers, b=numbers)
    def something_happens(self, event: str, a: int, b: int) -> None:
        self.world.steps += 1
        getattr(self, f"_{event}")(a, b)

    def _replica(self, a: int) -> Replica:
        return self.world.replicas[a % len(self.world.replicas)]

    def _crowd(self, a: int, b: int) -> None:
        """At one replica, or at all of them: each until it is refused, or has to wait for the ledger."""
        subject, pairs = SUBJECTS[b % 2], b // 2 % 4
        for replica in self.world.replicas if a % 2 else [self._replica(a // 2)]:
            refused = self.world.refused
            while (
                self.world.refused == refused and not replica.waiting and not any(not one.gone for one in replica.asked)
            ):
                self.world.arrive(replica, subject, pairs)
                self.world.talk(replica)

    def _few(self, a: int, b: int) -> None:
        """Enough of them to be foreseen, and so leased ahead."""
        for _ in range(3):
            self.world.arrive(self._replica(a), SUBJECTS[b % 2], b // 2 % 2)
            self.world.talk(self._replica(a))

    def _time(self, a: int, b: int) -> None:
        self.world.pass_time(TIMES_NS[a % len(TIMES_NS)])

    def _talk(self, a: int, b: int) -> None:
        for replica in self.world.replicas:
            self.world.talk(replica)

    def _requests(self, a: int, b: int) -> None:
        """Some that travel in one message."""
        for _ in range(1 + a // 4 % 12):
            self.world.arrive(self._replica(a), SUBJECTS[b % 2], b // 2 % 4)

    def _speak(self, a: int, b: int) -> None:
        self.world.speak(self._replica(a))

    def _leave(self, a: int, b: int) -> None:
        if not self._replica(a).waiting:
            self.world.speak(self._replica(a), stays=False)

    def _message(self, a: int, b: int) -> None:
        if self.world.messages:
            self.world.deliver(a % len(self.world.messages), again=b % 4 == 0)

    def _reply(self, a: int, b: int) -> None:
        if self.world.replies:
            self.world.hear(a % len(self.world.replies), again=b % 4 == 0)

    def _lose(self, a: int, b: int) -> None:
        if b % 2 and self.world.messages:
            self.world.lose(a % len(self.world.messages))
        elif self.world.replies:
            self.world.lose_reply(a % len(self.world.replies))

    def _ledger(self, a: int, b: int) -> None:
        """It dies, and is back at once or is missed for a while; or it is back."""
        if self.world.ledger is not None:
            self.world.crash_ledger()
        if self.world.ledger is None and a % 2:
            self.world.restart_ledger()

    def _die(self, a: int, b: int) -> None:
        self.world.crash_replica(a % len(self.world.replicas), known=b % 2 == 0)

    def _change(self, a: int, b: int) -> None:
        self.world.change(policies(LIMITS[a % 3], BURSTS[b % 3], LIMITS[a // 3 % 3], BURSTS[b // 3 % 3]))

    def _refund(self, a: int, b: int) -> None:
        """One of the latest."""
        if self.world.done:
            self.world.refund(-1 - a % min(4, len(self.world.done)))

    @precondition(lambda self: self.world.steps % 50 == 49)  # it takes a world that has come to rest
    @rule(subject=st.sampled_from(SUBJECTS), pairs=st.integers(0, 6))
    def who_waits_as_told_passes_and_not_sooner(self, subject: str, pairs: int) -> None:
        world = self.world
        world.steps += 1
        world.quiet()
        replica, check = world.replicas[0], Check(subject, "", (1, pairs))
        if any(rate.burst < cost for rates in world.rates() for rate, cost in zip(rates, check.cost, strict=True)):
            return
        for _ in range(50):
            answer = world.ask(replica, check)
            if isinstance(answer, Denied):
                break
        assert isinstance(answer, Denied), answer
        for _ in range(3):  # to be refused costs nothing
            assert world.ask(replica, check) == answer
        world.pass_time(answer.retry_after_ns - 1)
        assert isinstance(world.ask(replica, check), Denied)
        world.pass_time(1)
        assert isinstance(world.ask(replica, check), Passed)


def thorough(runs: int) -> settings:
    """So many runs of 100 steps."""
    return settings(max_examples=runs, stateful_step_count=100, deadline=None)


def walk(seed: int) -> None:
    """The same, by plain chance: many times faster, and good enough where nothing is to be shrunk."""
    random = Random(seed)
    machine = Machine()
    wide, narrow = (10_000, 1_000), (random.choice(LIMITS), random.choice(BURSTS))
    rules = policies(*random.choice([narrow, (200, 30)]), *random.choice([narrow, wide]))
    machine.start(random.randint(1, 3), rules, random.choice((1, 100)))
    for step in range(1, 101):
        if step % 50:
            machine.something_happens(random.choice(OFTEN), random.randrange(256), random.randrange(256))
        else:
            machine.who_waits_as_told_passes_and_not_sooner(random.choice(SUBJECTS), random.randrange(7))
