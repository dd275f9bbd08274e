"""What one ledger answers, message by message."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from deployments.core.bucket import PARTS, Rate
from deployments.core.lease import (
    ADDRESS,
    ALONE_NS,
    GRACE_NS,
    LEASE_NS,
    MS,
    QUIET_NS,
    SLOTS,
    Check,
    Closed,
    Denied,
    Granted,
    Holding,
    Left,
    Message,
    Permit,
    Policies,
    Rates,
    Refund,
    Reply,
    Unable,
)
from deployments.core.ledger import AHEAD_PART, Ledger

SECOND = 1_000 * MS
LATER = 3_600 * SECOND  # when every bucket is full
EPOCH = 7
NOTHING = Holding(None, 0, 0)
SLOW = Rate(1, SECOND, 10)  # a unit a second
WIDE = Rate(100_000, SECOND, 1_000_000)
ALWAYS = Rates(None, None)
OPEN_NS = LEASE_NS + GRACE_NS  # of a grant that nobody closes
FEW = 200 * LEASE_NS // SECOND  # units come in while a lease lasts, of 200 a second


class Asking:
    """A ledger, and replicas that say good-bye with every message, so that no time is lost by shares."""

    def __init__(
        self, caller: Rates, service: Rates = ALWAYS, max_subjects: int = 100, *, restarted: bool = False
    ) -> None:
        self.ledger = Ledger(EPOCH, 0, restarted=restarted, secret=b"secret", max_subjects=max_subjects)
        self.config = (1, Policies({"": caller}, service))
        self.now = LATER
        self._seqs = itertools.count(1)

    def send(
        self,
        *checks: Check,
        seq: int | None = None,
        epoch: int | None = EPOCH,
        closed: Sequence[Closed] = (),
        refunds: Sequence[Refund] = (),
    ) -> Reply:
        seq = next(self._seqs) if seq is None else seq
        message = Message("replica", seq, epoch, False, NOTHING, self.config, list(checks), list(closed), list(refunds))
        return self.ledger.handle(message, self.now)

    def ask(self, subject: str = "a", cost: tuple[int, int] = (1, 0), ahead: tuple[int, int] = (0, 0)) -> object:
        return self.send(Check(subject, "", cost, ahead)).answers[0]

    def grant(self, subject: str = "a", cost: tuple[int, int] = (1, 0), ahead: tuple[int, int] = (0, 0)) -> Granted:
        answer = self.ask(subject, cost, ahead)
        assert isinstance(answer, Granted), answer
        return answer

    def tokens(self, subject: str = "a") -> int:
        """Requests that the caller has left."""
        (left, _) = self.grant(subject, (0, 0)).left
        assert left is not None
        return left.tokens


def test_grants_what_is_there_and_says_what_is_left() -> None:
    asking = Asking(Rates(SLOW, Rate(4, SECOND, 40)))

    assert asking.ask(cost=(1, 3)) == Granted(1, (0, 0), (Left(9, SECOND), Left(37, SECOND // 4)))
    assert asking.ask("b", cost=(0, 0)) == Granted(2, (0, 0), (Left(10, 0), Left(40, 0)))


def test_says_when_the_next_token_comes_by_the_rate_though_a_lease_is_open() -> None:
    asking = Asking(Rates(SLOW, None))
    asking.grant(cost=(10, 0))

    asking.now += OPEN_NS - 1

    assert asking.ask(cost=(0, 0)) == Granted(2, (0, 0), (Left(0, SECOND), None))


def test_the_first_ledger_starts_with_full_buckets() -> None:
    asking = Asking(Rates(SLOW, None))
    asking.now = 0

    assert asking.grant(cost=(10, 0)).left == (Left(0, SECOND), None)


def test_after_a_restart_it_starts_with_empty_buckets_and_fills_them_once_no_old_grant_may_be_spent() -> None:
    """By its clock, which stands still until no share of the ledger before it may be used."""
    asking = Asking(Rates(SLOW, None), restarted=True)

    asking.now = QUIET_NS + ALONE_NS + LEASE_NS + SECOND - 1
    refused = asking.ask()
    asking.now += 1

    assert refused == Denied(1, ("caller-requests",), (Left(0, 1), None))
    assert isinstance(asking.ask(), Granted)


@pytest.mark.parametrize(
    ("cost", "violated", "wait_s"),
    [
        ((4, 0), ("caller-requests",), 1),
        ((0, 4), ("caller-pairs",), 2),
        ((6, 0), ("caller-requests", "service-requests"), 3),
        ((6, 7), ("caller-requests", "caller-pairs", "service-requests", "service-pairs"), 10),
    ],
)
def test_all_levels_are_debited_together_or_none_and_the_answer_names_those_that_forbid(
    cost: tuple[int, int], violated: tuple[str, ...], wait_s: int
) -> None:
    """The caller has 3 left of each, the service 5."""
    asking = Asking(
        Rates(Rate(1, SECOND, 10), Rate(1, 2 * SECOND, 10)), Rates(Rate(2, SECOND, 12), Rate(1, 5 * SECOND, 12))
    )
    grant = asking.grant(cost=(7, 7))
    asking.send(closed=[Closed(grant.id, (0, 0))])

    answer = asking.ask(cost=cost)

    assert isinstance(answer, Denied)
    assert (answer.violated, answer.retry_after_ns) == (violated, wait_s * SECOND)
    for _ in range(3):
        assert asking.ask(cost=cost) == answer
    assert isinstance(asking.ask(cost=(3, 3)), Granted)
    assert isinstance(asking.ask("another", cost=(2, 2)), Granted)
    assert isinstance(asking.ask("another", cost=(0, 1)), Denied)


def test_the_service_counts_all_callers_together() -> None:
    asking = Asking(Rates(SLOW, None), Rates(SLOW, None))

    answers = [asking.ask(subject) for subject in "abcdefghij"]

    assert all(isinstance(answer, Granted) for answer in answers)
    assert asking.ask("k") == Denied(OPEN_NS + SECOND, ("service-requests",), (Left(10, 0), None))


def test_a_check_that_leaves_the_service_alone_debits_the_caller_only() -> None:
    asking = Asking(Rates(SLOW, None), Rates(SLOW, None))
    spared = Check("a", "", (4, 0), service=False)

    assert asking.send(spared).answers == [Granted(1, (0, 0), (Left(6, SECOND), None))]
    assert isinstance(asking.ask("b", cost=(10, 0)), Granted)  # all that the service has
    passes, refused, by_service = asking.send(spared, spared, spared._replace(service=True, cost=(1, 0))).answers
    assert isinstance(passes, Granted)
    assert isinstance(refused, Denied)
    assert isinstance(by_service, Denied)
    assert (refused.violated, by_service.violated) == (("caller-requests",), ("service-requests",))
    assert asking.tokens() == 2


def test_unlimited_callers_pass_and_have_nothing_left_to_tell() -> None:
    assert Asking(ALWAYS).ask(cost=(1_000, 1_000)) == Granted(1, (0, 0), (None, None))


def test_answers_stand_in_the_order_of_the_checks() -> None:
    asking = Asking(Rates(SLOW, None))

    reply = asking.send(*(Check("a", "", (cost, 0)) for cost in (4, 7, 6)), seq=3)

    assert [type(answer) for answer in reply.answers] == [Granted, Denied, Granted]
    assert (reply.seq, reply.epoch, reply.permit) == (3, EPOCH, Permit(LATER, 0))


# Leases.


@pytest.mark.parametrize(
    ("requests", "pairs", "wanted", "ahead"),
    [
        (Rate(1_000, SECOND, 1_000), None, (7, 0), (7, 0)),  # as wanted
        (Rate(10_000, SECOND, 1_000), None, (500, 0), (1_000 // AHEAD_PART, 0)),  # a tenth of the burst
        (Rate(200, SECOND, 1_000), None, (500, 0), (FEW, 0)),  # what comes in while a lease lasts
        (Rate(SECOND // LEASE_NS - 1, SECOND, 1_000), None, (500, 0), (0, 0)),  # nothing comes in so soon
        (Rate(9_000, SECOND, AHEAD_PART - 1), None, (500, 0), (0, 0)),  # no tenth of the burst
        (WIDE, Rate(200, SECOND, 1_000), (FEW, 2 * FEW), (FEW // 2, FEW)),  # the other unit is scaled down with it
        (Rate(SECOND // LEASE_NS, SECOND, 1_000), WIDE, (2, 6), (1, 3)),
    ],
)
def test_ahead_go_at_most_a_tenth_of_the_burst_and_what_comes_in_while_a_lease_lasts(
    requests: Rate, pairs: Rate | None, wanted: tuple[int, int], ahead: tuple[int, int]
) -> None:
    assert Asking(Rates(requests, pairs)).grant(ahead=wanted).ahead == ahead


def test_the_bound_holds_for_all_leases_of_a_caller_together() -> None:
    asking = Asking(Rates(Rate(10_000, SECOND, 1_000), None))

    assert [asking.grant(ahead=(60, 0)).ahead[0] for _ in range(3)] == [60, 40, 0]
    assert asking.grant("b", ahead=(60, 0)).ahead[0] == 60


def test_ahead_goes_only_what_is_there_beside_the_cost() -> None:
    asking = Asking(Rates(Rate(1_000, SECOND, 100), None))
    asking.grant(cost=(90, 0))

    assert asking.grant(cost=(5, 0), ahead=(10, 0)) == Granted(2, (5, 0), (Left(0, MS), None))


def test_the_service_too_bounds_what_goes_ahead() -> None:
    asking = Asking(Rates(WIDE, None), Rates(Rate(10_000, SECOND, 50), None))

    assert asking.grant(ahead=(60, 0)).ahead[0] == 5


def test_a_closed_lease_comes_back_once() -> None:
    asking = Asking(Rates(Rate(100, 100 * SECOND, 100), None))
    lease = asking.grant(ahead=(0, 0), cost=(10, 0))
    tokens = []
    for _ in range(3):
        asking.send(closed=[Closed(lease.id, (4, 0))])
        tokens.append(asking.tokens())

    assert tokens == [94, 94, 94]


def test_a_closed_lease_comes_back_to_every_level() -> None:
    asking = Asking(Rates(SLOW, SLOW), Rates(SLOW, SLOW))
    lease = asking.grant(cost=(10, 10))
    asking.send(closed=[Closed(lease.id, (2, 4))])

    assert asking.ask("b", cost=(2, 4)) == Granted(2, (0, 0), (Left(8, SECOND), Left(6, SECOND)))
    assert asking.ask("a", cost=(0, 0)) == Granted(3, (0, 0), (Left(2, SECOND), Left(4, SECOND)))


def test_a_lease_of_another_ledger_brings_nothing_back() -> None:
    asking = Asking(Rates(SLOW, None))
    lease = asking.grant(cost=(10, 0))
    asking.send(closed=[Closed(lease.id, (10, 0))], epoch=EPOCH - 1)
    asking.send(closed=[Closed(lease.id, (10, 0))], epoch=None)

    assert asking.tokens() == 0


def test_a_lease_that_is_reported_after_its_grace_is_lost() -> None:
    asking = Asking(Rates(SLOW, None))
    lease = asking.grant(cost=(10, 0))
    asking.now += OPEN_NS
    asking.send(closed=[Closed(lease.id, (10, 0))])

    assert asking.tokens() == 0


def test_a_refund_counts_once_though_its_message_comes_twice() -> None:
    asking = Asking(Rates(SLOW, None))
    grant = asking.grant(cost=(10, 0))
    for _ in range(3):
        asking.send(closed=[Closed(grant.id, (0, 0))], refunds=[Refund(grant.id, (2, 0))], seq=50)

    assert asking.send(Check("a", "", (0, 0)), seq=51).answers == [Granted(2, (0, 0), (Left(2, SECOND), None))]


def test_a_refund_of_another_ledgers_grant_brings_nothing() -> None:
    asking = Asking(Rates(SLOW, None))
    grant = asking.grant(cost=(10, 0))
    asking.send(closed=[Closed(grant.id, (0, 0))])
    asking.send(refunds=[Refund(grant.id, (2, 0))], epoch=EPOCH - 1)

    assert asking.tokens() == 0


# Who is counted.


def _collision(ledger: Ledger) -> tuple[str, str]:
    seen: dict[str, str] = {}
    for number in range(SLOTS):
        address = f"{ADDRESS}2001:db8:{number:x}::/64"
        if (slot := ledger._slot(address)) in seen:
            return seen[slot], address
        seen[slot] = address
    raise AssertionError("more slots than there should be")


def test_addresses_of_the_same_slot_are_counted_as_one_and_keys_never() -> None:
    asking = Asking(Rates(SLOW, None), max_subjects=SLOTS)
    one, other = _collision(asking.ledger)
    asking.grant(one, (4, 0))
    asking.grant("key 1", (4, 0))

    assert [asking.tokens(subject) for subject in (one, other, "key 1", "key 2")] == [6, 6, 6, 10]


def test_every_address_has_one_of_65536_slots_which_only_the_secret_tells() -> None:
    ledgers = [Ledger(1, 0, restarted=False, secret=secret) for secret in (b"a", b"a", b"b")]
    slots = [[ledger._slot(f"{ADDRESS}198.51.{i}.7") for i in range(200)] for ledger in ledgers]

    assert slots[0] == slots[1]
    assert slots[0] != slots[2]
    assert {slot.startswith(ADDRESS) for slot in slots[0]} == {True}
    assert all(0 <= int(slot.removeprefix(ADDRESS)) < 65_536 for slot in slots[0])
    assert len(set(slots[0])) > 190


def test_the_table_holds_no_more_than_its_bound_and_drops_nobody_who_is_not_full() -> None:
    asking = Asking(Rates(SLOW, None), max_subjects=3)
    for subject in "abc":
        asking.grant(subject, (4, 0))

    refused = [asking.ask(f"other {i}") for i in range(20)]

    assert refused == 20 * [Unable("too many callers at a time have used up some of their quota")]
    assert [asking.tokens(subject) for subject in "abc"] == [6, 6, 6]


def test_who_is_full_again_makes_room() -> None:
    asking = Asking(Rates(SLOW, None), max_subjects=3)
    for subject, cost in (("a", 4), ("b", 1), ("c", 4)):
        grant = asking.grant(subject, (cost, 0))
        asking.send(closed=[Closed(grant.id, (0, 0))])
    asking.now += SECOND - 1
    sooner = asking.ask("d")
    asking.now += 1

    assert isinstance(sooner, Unable)
    assert asking.tokens("d") == 10
    assert [asking.tokens(subject) for subject in "ac"] == [7, 7]


def test_who_never_says_what_became_of_a_grant_makes_room_when_it_has_expired() -> None:
    asking = Asking(Rates(SLOW, None), max_subjects=1)
    asking.grant("a", (4, 0))
    asking.now += OPEN_NS + 4 * SECOND - 1
    sooner = asking.ask("b")
    asking.now += 1

    assert isinstance(sooner, Unable)
    assert asking.tokens("b") == 10
    assert len(asking.ledger._grants) == 1  # and nothing is kept of the first


def test_accounts_that_nobody_needs_go_before_the_table_is_full() -> None:
    asking = Asking(Rates(Rate(1, 1, 1), None), max_subjects=1_000)
    for i in range(200):
        grant = asking.grant(f"key {i}")
        asking.send(closed=[Closed(grant.id, (0, 0))])
        asking.now += 1

    assert len(asking.ledger._callers) <= 2


# Policies.


def test_who_was_told_its_policies_later_is_right() -> None:
    asking = Asking(Rates(SLOW, None))
    asking.grant()
    for told_at, burst in ((5, 40), (4, 50), (5, 60)):
        asking.config = (told_at, Policies({"": Rates(Rate(1, SECOND, burst), None)}, ALWAYS))
        asking.send()

    assert asking.tokens("new") == 40


def test_policies_that_nobody_was_ever_told_count_until_somebody_is() -> None:
    """A front door without user_config keeps its defaults, since the beginning."""
    asking = Asking(Rates(SLOW, None))
    asking.config = (0, asking.config[1])

    assert asking.tokens() == 10


def test_a_change_of_policies_adds_no_tokens_to_who_was_here() -> None:
    asking = Asking(Rates(SLOW, None), Rates(WIDE, None))
    asking.grant(cost=(4, 0))
    for told_at, burst in ((2, 1_000), (3, 3), (4, 1_000)):
        asking.config = (told_at, Policies({"": Rates(Rate(1, SECOND, burst), None)}, Rates(WIDE, None)))
        asking.send()

    assert asking.ask(cost=(0, 0)) == Denied(SECOND, ("caller-requests",), (Left(0, SECOND), None))  # 4 of 3 are open
    assert asking.tokens("new") == 1_000


def test_a_change_of_policies_counts_from_when_it_is_told_for_all_callers() -> None:
    asking = Asking(Rates(SLOW, None))
    asking.grant(cost=(10, 0))
    asking.now += OPEN_NS
    asking.config = (2, Policies({"": Rates(Rate(1_000, SECOND, 10), None)}, ALWAYS))
    asking.send()
    asking.now += 3 * MS

    assert asking.tokens() == 3


def test_a_caller_is_counted_by_the_tier_of_the_check_and_an_unknown_one_is_none() -> None:
    asking = Asking(Rates(SLOW, None))
    gold = Rates(Rate(1, SECOND, 50), None)
    asking.config = (2, Policies({"": Rates(SLOW, None), "gold": gold}, ALWAYS))

    found = asking.send(*(Check(f"of {tier}", tier, (0, 0)) for tier in ("", "gold", "lead"))).answers

    assert [one.left for one in found if isinstance(one, Granted)] == [
        (Left(tokens, 0), None) for tokens in (10, 50, 10)
    ]


def test_a_change_of_tier_adds_no_tokens() -> None:
    asking = Asking(Rates(SLOW, None))
    asking.config = (2, Policies({"": Rates(SLOW, None), "gold": Rates(Rate(1, SECOND, 50), None)}, ALWAYS))
    asking.grant(cost=(4, 0))
    for tier in ("gold", "", "gold"):
        answer = asking.send(Check("a", tier, (0, 0))).answers[0]

    assert isinstance(answer, Granted)
    assert answer.left == (Left(6, SECOND), None)


# Time.


def test_while_a_replica_may_be_alone_the_ledger_fills_nothing_and_what_it_may_have_given_is_missing() -> None:
    asking = Asking(Rates(Rate(1, SECOND, 5), None))
    holding = Message("other", 1, EPOCH, True, NOTHING, asking.config, [], [], [])
    assert asking.ledger.handle(holding, asking.now).permit == Permit(LATER, PARTS)

    asking.now += QUIET_NS + 3 * SECOND
    missing = 5 - asking.tokens()
    asking.now = LATER + QUIET_NS + ALONE_NS
    asking.send()
    asking.now += SECOND

    assert missing == 3
    assert asking.tokens() == 2  # 4 were missing in the end, and a second has passed since


def test_a_dead_replica_holds_nothing_but_what_it_may_have_spent_and_what_it_said_counts_once() -> None:
    asking = Asking(Rates(SLOW, None))
    holds = Message("other", 1, EPOCH, True, NOTHING, asking.config, [Check("a", "", (4, 0))], [], [])
    (grant,) = asking.ledger.handle(holds, asking.now).answers
    assert isinstance(grant, Granted)
    last = holds._replace(
        seq=2,
        holding=Holding(LATER, PARTS, 0),
        checks=[],
        closed=[Closed(grant.id, (0, 0))],
        refunds=[Refund(grant.id, (1, 0))],
    )
    asking.ledger.handle(last, asking.now)
    asking.now += QUIET_NS + 2 * SECOND
    asking.send()
    silent = [asking.ledger.silent()]
    asking.ledger.bury("other", asking.now)
    silent.append(asking.ledger.silent())
    doubled = asking.ledger.handle(last, asking.now)

    assert silent == [["other"], []]
    assert doubled.permit == Permit(asking.now, 0)
    assert [asking.tokens(subject) for subject in "ab"] == [7, 8]  # two may have been spent by who was alone
    asking.now += SECOND
    assert [asking.tokens(subject) for subject in "ab"] == [8, 9]


@pytest.mark.parametrize(("epoch", "share"), [(EPOCH, PARTS // 2), (EPOCH - 1, 0), (None, 0)])
def test_a_share_of_another_ledger_is_returned_only_by_who_has_met_this_one(epoch: int | None, share: int) -> None:
    ledger = Ledger(EPOCH, LATER, restarted=True, secret=b"secret")
    config = (1, Policies({"": ALWAYS}, ALWAYS))
    message = Message("replica", 1, epoch, True, Holding(LATER, 0, PARTS // 2), config, [], [], [])

    assert ledger.handle(message, LATER).permit == Permit(LATER, share)


def test_time_that_goes_back_gives_nothing_and_breaks_nothing() -> None:
    asking = Asking(Rates(SLOW, None))
    asking.grant(cost=(10, 0))
    asking.now -= SECOND

    assert asking.ask() == Denied(OPEN_NS + SECOND, ("caller-requests",), (Left(0, SECOND), None))
