"""One replica and the words of a ledger, which the tests write themselves."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.core.bucket import PARTS, Rate
from deployments.core.lease import (
    ADDRESS,
    ALONE_NS,
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
from deployments.core.lessee import ABANDON_NS, IDLE_NS, Lessee, Passed

SECOND = 1_000 * MS
START = 10**18
EPOCH = 7
RATES = Rates(Rate(10, SECOND, 20), None)
ALWAYS = Rates(None, None)
NOTHING = Holding(None, 0, 0)
NOBODY_KNOWS = Unable("the limits cannot be checked at this moment")
TOO_LARGE = Unable("the limits of a request of this size cannot be checked at this moment")
ONE = Check("a", "", (1, 0))


class Talk:
    """A replica at a time, and what it hears."""

    def __init__(self, caller: Rates = RATES, service: Rates = ALWAYS) -> None:
        self.now = START
        self.lessee = Lessee("replica")
        self.lessee.configure(1, Policies({"": caller, "gold": RATES}, service), self.now)

    def say(self, *checks: Check, stays: bool = True) -> Message:
        return self.lessee.message(checks, self.now, stays=stays)

    def hear(self, message: Message, *answers: Any, share: int = 0, epoch: int = EPOCH) -> Any:
        reply = Reply(message.seq, epoch, Permit(99, share), list(answers))
        return self.lessee.receive(reply, self.now)

    def decide(self, check: Check = ONE) -> Any:
        return self.lessee.decide(check, self.now)

    def alone(self, share: int = PARTS) -> None:
        """Since this moment."""
        self.hear(self.say(), share=share)
        self.now += QUIET_NS

    def lease(self, requests: int, pairs: int = 0, id: int = 1, left: tuple[Any, Any] = (None, None)) -> None:
        """For the subject a."""
        (outcome,) = self.hear(self.say(ONE._replace(cost=(0, 0))), Granted(id, (requests, pairs), left))
        assert isinstance(outcome, Passed)


# Leases.


def test_without_a_lease_the_ledger_must_be_asked() -> None:
    assert Talk().decide() is None


def test_decides_from_a_lease_without_asking_until_it_is_spent() -> None:
    talk = Talk()
    talk.lease(requests=2, id=5)

    assert [talk.decide() for _ in range(3)] == [Passed((None, None), EPOCH, 5)] * 2 + [None]
    assert talk.decide(ONE._replace(subject="b")) is None


def test_a_lease_must_hold_both_units() -> None:
    talk = Talk()
    talk.lease(requests=2, pairs=3)

    assert talk.decide(ONE._replace(cost=(1, 4))) is None
    assert isinstance(talk.decide(ONE._replace(cost=(1, 3))), Passed)
    assert talk.decide(ONE._replace(cost=(1, 1))) is None


def test_what_one_lease_lacks_another_may_have() -> None:
    talk = Talk()
    talk.lease(requests=2, pairs=1, id=1)
    talk.lease(requests=2, pairs=3, id=2)

    assert talk.decide(ONE._replace(cost=(1, 2))).grant == 2


def test_a_lease_ends_by_when_it_was_asked_for_however_late_it_comes() -> None:
    talk = Talk()
    message = talk.say(ONE._replace(cost=(0, 0)))
    talk.now += LEASE_NS - 1
    talk.hear(message, Granted(1, (5, 0), (None, None)))
    in_time = talk.decide()
    talk.now += 1

    assert isinstance(in_time, Passed)
    assert talk.decide() is None
    assert talk.say().closed == [Closed(1, (4, 0))]


def test_an_answer_that_comes_too_late_counts_for_nothing_and_is_given_back() -> None:
    talk = Talk()
    message = talk.say(ONE, ONE)
    talk.now += LEASE_NS
    outcomes = talk.hear(message, Granted(1, (5, 0), (None, None)), Denied(1, (), (None, None)))

    assert outcomes == [None, Denied(1, (), (None, None))]
    assert talk.decide() is None
    assert talk.say().closed == [Closed(1, (6, 0))]


def test_tells_what_is_left_at_the_ledger_and_leased_here() -> None:
    talk = Talk()
    talk.lease(requests=3, pairs=8, left=(Left(5, 7), Left(6, 0)))

    assert talk.decide(ONE._replace(cost=(1, 2))).left == (Left(7, 7), Left(12, 0))


def test_closed_leases_are_reported_until_a_reply_says_that_they_arrived() -> None:
    talk = Talk()
    talk.lease(requests=1)
    talk.decide()
    reported = [talk.say().closed]
    message = talk.say()
    reported.append(message.closed)
    talk.hear(message)
    reported.append(talk.say().closed)

    closed = [Closed(1, (0, 0))]
    assert reported == [closed, closed, []]


def test_what_is_closed_while_a_message_travels_is_reported_in_the_next() -> None:
    talk = Talk()
    talk.lease(requests=1)
    message = talk.say()
    talk.decide()
    talk.hear(message)

    assert talk.say().closed == [Closed(1, (0, 0))]


# Refunds.


def test_a_refund_goes_back_to_its_lease_while_that_lives() -> None:
    talk = Talk()
    talk.lease(requests=2)
    passed = talk.decide()
    talk.lessee.refund(passed, ONE, talk.now)

    assert talk.say().refunds == []
    assert [type(talk.decide()) for _ in range(3)] == [Passed, Passed, type(None)]


@pytest.mark.parametrize(("requests", "ns"), [(1, 0), (2, LEASE_NS)])
def test_a_refund_of_a_lease_that_is_spent_or_over_goes_to_the_ledger_once(requests: int, ns: int) -> None:
    talk = Talk()
    talk.lease(requests)
    passed = talk.decide()
    talk.now += ns
    talk.lessee.refund(passed, ONE, talk.now)
    message = talk.say()

    assert (message.closed, message.refunds) == ([Closed(1, (requests - 1, 0))], [Refund(1, (1, 0))])
    assert talk.say().refunds == []


def test_another_ledger_is_told_nothing_of_the_one_before_it() -> None:
    talk = Talk()
    talk.lease(requests=1, id=1)
    talk.lease(requests=5, id=2)
    spent, passed = talk.decide(), talk.decide()
    message = talk.say()
    talk.lessee.refund(spent, ONE, talk.now)
    talk.hear(message, epoch=EPOCH + 1)
    talk.lessee.refund(passed, ONE, talk.now)
    message = talk.say()

    assert (message.epoch, message.closed, message.refunds) == (EPOCH + 1, [], [])
    assert talk.decide() is None


# Asking.


def test_asks_for_as_much_ahead_as_who_asks_often_has_spent_of_late() -> None:
    talk = Talk()
    for cost in ((1, 2), (1, 3)):
        talk.decide(ONE._replace(cost=cost))
    talk.decide(Check("once", "gold", (1, 9)))
    talk.now += LEASE_NS - MS

    beside = talk.say(Check("once", "gold", (1, 9))).checks
    with_it = talk.say(ONE).checks

    assert beside == [Check("once", "gold", (1, 9)), Check("a", "", (0, 0), (2, 5))]
    assert with_it == [Check("a", "", (1, 0), (2, 5))]


def test_foresees_for_as_long_as_two_leases_at_most() -> None:
    talk = Talk()
    for _ in range(2):
        talk.decide()
    asked = []
    for _ in range(3):
        asked.append(talk.say().checks)
        talk.now += LEASE_NS

    expected = [Check("a", "", (0, 0), (2, 0))]
    assert asked == [expected, expected, []]


def test_foresees_nothing_from_before_a_pause() -> None:
    talk = Talk()
    for _ in range(2):
        talk.decide()
    talk.now += 2 * LEASE_NS

    assert talk.say().checks == []


def test_asks_ahead_beside_the_service_for_whom_it_does_not_count() -> None:
    talk = Talk()
    for _ in range(2):
        talk.decide(ONE._replace(service=False))

    assert talk.say().checks == [Check("a", "", (0, 0), (2, 0), service=False)]


def test_asks_for_no_lease_where_one_is_fresh() -> None:
    talk = Talk()
    talk.lease(requests=9)
    for _ in range(2):
        talk.decide()
    talk.now += LEASE_NS // 2 - 1
    fresh = talk.say().checks
    talk.now += 1

    assert fresh == []
    assert talk.say().checks == [Check("a", "", (0, 0), (2, 0))]


def test_ignores_a_reply_to_an_older_message_or_one_that_was_given_up_or_answered() -> None:
    talk = Talk()
    older, newer = talk.say(ONE), talk.say(ONE)
    answer = Granted(1, (5, 0), (None, None))

    assert talk.hear(older, answer) is None
    assert talk.hear(newer, answer) == [Passed((None, None), EPOCH, 1)]
    assert talk.hear(newer, answer) is None
    given_up = talk.say(ONE)
    talk.lessee.give_up()
    assert talk.hear(given_up, answer) is None


def test_a_message_is_under_way_until_it_is_answered_or_given_up_or_too_old() -> None:
    talk = Talk()
    message = talk.say()
    states = [talk.lessee.is_under_way(talk.now + ABANDON_NS - 1), talk.lessee.is_under_way(talk.now + ABANDON_NS)]
    talk.hear(message)
    states.append(talk.lessee.is_under_way(talk.now))
    talk.say()
    talk.lessee.give_up()
    states.append(talk.lessee.is_under_way(talk.now))

    assert states == [True, False, False, False]


def test_messages_are_numbered_and_say_what_the_replica_has() -> None:
    talk = Talk()
    first = talk.say()
    talk.hear(first, share=PARTS // 2)
    second = talk.say()

    config = (1, Policies({"": RATES, "gold": RATES}, Rates(None, None)))
    assert first == Message("replica", 1, None, True, NOTHING, config, [], [], [])
    assert second == Message("replica", 2, EPOCH, True, Holding(99, PARTS // 2, 0), config, [], [], [])


# Alone.


@pytest.mark.parametrize(
    ("ns", "alone"),
    [
        (0, False),
        (QUIET_NS - 1, False),
        (QUIET_NS, True),
        (QUIET_NS + ALONE_NS - 1, True),
        (QUIET_NS + ALONE_NS, False),
    ],
)
def test_counts_alone_only_for_a_while_after_it_has_heard_nothing_for_long(ns: int, alone: bool) -> None:
    talk = Talk()
    talk.hear(talk.say(), share=PARTS)
    talk.now += ns

    assert talk.lessee.counts_alone(talk.now) == alone
    assert (talk.lessee.alone(ONE, talk.now) == NOBODY_KNOWS) != alone
    assert (talk.decide() is None) != alone


def test_it_may_begin_after_the_reply_and_must_end_by_the_message() -> None:
    """Either way it is alone for no longer than the ledger thinks."""
    talk = Talk()
    message = talk.say()
    talk.now += 50 * MS
    talk.hear(message, share=PARTS)

    times = (50 * MS + QUIET_NS - 1, 50 * MS + QUIET_NS, QUIET_NS + ALONE_NS - 1, QUIET_NS + ALONE_NS)
    assert [talk.lessee.counts_alone(START + ns) for ns in times] == [False, True, True, False]


def test_never_counts_alone_without_a_share_or_before_it_has_met_a_ledger() -> None:
    stranger, poor = Talk(), Talk()
    poor.alone(share=0)

    for talk in (stranger, poor):
        assert not any(talk.lessee.counts_alone(talk.now + i * 100 * MS) for i in range(50))
    assert (stranger.lessee.has_met, poor.lessee.has_met) == (False, True)


@pytest.mark.parametrize(("share", "ns"), [(PARTS, SECOND // 10), (PARTS // 4, 4 * SECOND // 10)])
def test_alone_it_starts_with_nothing_and_counts_by_its_share(share: int, ns: int) -> None:
    """Of ten a second."""
    talk = Talk()
    talk.alone(share)

    refused = talk.decide()
    talk.now += ns - 1
    sooner = talk.decide()
    talk.now += 1
    passed = [talk.decide(), talk.decide()]

    assert refused == Denied(ns, ("caller-requests",), (None, None))
    assert sooner == Denied(1, ("caller-requests",), (None, None))
    assert passed == [Passed((None, None)), Denied(ns, ("caller-requests",), (None, None))]


def test_alone_it_fills_up_since_then_whenever_a_subject_comes_up_to_its_share_of_the_burst() -> None:
    talk = Talk(Rates(Rate(10, SECOND, 4), None))
    talk.alone(PARTS // 2)
    talk.now += 2 * SECOND

    passed = [talk.decide() for _ in range(3)]

    assert [type(one) for one in passed] == [Passed, Passed, Denied]


def test_alone_it_never_passes_what_is_larger_than_its_share_of_the_burst() -> None:
    talk = Talk(Rates(None, Rate(1_000, SECOND, 101)))
    talk.alone(PARTS // 2)
    talk.now += ALONE_NS - 1

    assert talk.decide(ONE._replace(cost=(1, 51))) == TOO_LARGE
    assert talk.decide(ONE._replace(cost=(1, 50))) == Passed((None, None))


def test_alone_it_keeps_no_more_buckets_than_there_are_slots_for_addresses() -> None:
    talk = Talk(Rates(Rate(1_000, SECOND, 100), None))  # more than ever fall on one slot
    talk.alone()
    talk.now += SECOND

    passed = [talk.lessee.alone(ONE._replace(subject=f"{ADDRESS}{i}"), talk.now) for i in range(2 * SLOTS)]

    assert all(isinstance(one, Passed) for one in passed)
    assert len(talk.lessee._own) <= SLOTS


def test_alone_it_debits_all_levels_or_none_and_names_those_that_forbid() -> None:
    talk = Talk(RATES, Rates(Rate(15, SECOND, 30), None))
    talk.alone()
    talk.now += SECOND // 5  # 2 of each caller, 3 of the service
    b, c = (ONE._replace(subject=subject) for subject in "bc")

    answers = [talk.decide(check) for check in (ONE, ONE, ONE, b, b, c)]

    by_the_caller = Denied(SECOND // 10, ("caller-requests",), (None, None))
    by_the_service = Denied(SECOND // 15 + 1, ("service-requests",), (None, None))
    passed = Passed((None, None))
    assert answers == [passed, passed, by_the_caller, passed, by_the_service, by_the_service]


def test_alone_it_leaves_the_service_alone_where_that_does_not_count() -> None:
    talk = Talk(RATES, Rates(Rate(15, SECOND, 30), None))
    talk.alone()
    talk.now += SECOND // 5  # 2 of each caller, 3 of the service
    b, c = (ONE._replace(subject=subject) for subject in "bc")
    spared = b._replace(service=False)

    answers = [talk.decide(check) for check in (spared, spared, spared, ONE, ONE, c, c, c._replace(service=False))]

    by_the_caller = Denied(SECOND // 10, ("caller-requests",), (None, None))
    by_the_service = Denied(SECOND // 15 + 1, ("service-requests",), (None, None))
    passed = Passed((None, None))
    assert answers == [passed, passed, by_the_caller, passed, passed, passed, by_the_service, passed]


def test_alone_it_spends_its_leases_too() -> None:
    talk = Talk()
    talk.hear(talk.say(ONE._replace(cost=(0, 0))), Granted(1, (1, 0), (None, None)), share=PARTS)

    assert talk.decide() == Passed((None, None), EPOCH, 1)


def test_what_passed_alone_is_not_refunded() -> None:
    talk = Talk()
    talk.alone()
    talk.now += SECOND // 10
    passed = talk.decide()
    talk.lessee.refund(passed, ONE, talk.now)

    assert passed == Passed((None, None))
    assert isinstance(talk.decide(), Denied)
    assert talk.say().refunds == []


def test_heard_again_it_starts_with_nothing_the_next_time() -> None:
    talk = Talk()
    talk.alone()
    talk.now += SECOND
    assert isinstance(talk.decide(), Passed)
    talk.alone()

    assert talk.decide() == Denied(SECOND // 10, ("caller-requests",), (None, None))


def test_other_policies_start_it_with_nothing() -> None:
    talk = Talk()
    talk.alone()
    talk.now += SECOND
    assert isinstance(talk.decide(), Passed)
    talk.lessee.configure(2, Policies({"": RATES}, ALWAYS), talk.now)

    assert talk.decide() == Denied(SECOND // 10, ("caller-requests",), (None, None))


def test_another_ledger_hears_what_share_it_was_alone_with() -> None:
    talk = Talk()
    talk.alone(PARTS // 2)
    talk.hear(talk.say(), share=1, epoch=EPOCH + 1)
    said = [talk.say().holding]
    talk.now += QUIET_NS + ALONE_NS
    talk.hear(talk.say(), share=2, epoch=EPOCH + 2)
    said.append(talk.say().holding)

    assert said == [Holding(99, 1, PARTS // 2), Holding(99, 2, 0)]  # a share that has run out is none


def test_who_leaves_gives_back_what_it_holds_and_is_alone_no_more() -> None:
    talk = Talk()
    message = talk.say(ONE._replace(cost=(0, 0)))
    talk.hear(message, Granted(1, (5, 0), (None, None)), share=PARTS)
    talk.decide()
    good_bye = talk.say(stays=False)
    talk.hear(good_bye, share=PARTS)
    talk.now += QUIET_NS

    assert (good_bye.stays, good_bye.holding, good_bye.closed) == (False, NOTHING, [Closed(1, (4, 0))])
    assert not talk.lessee.counts_alone(talk.now)
    assert talk.decide() is None
    assert talk.say().holding == NOTHING


def test_is_idle_a_second_after_the_last_request() -> None:
    talk = Talk()
    states = [talk.lessee.is_idle(talk.now)]
    talk.decide()
    states += [talk.lessee.is_idle(talk.now + IDLE_NS), talk.lessee.is_idle(talk.now + IDLE_NS + 1)]

    assert states == [True, False, True]


# Policies.


@pytest.mark.parametrize(("wanted", "tier"), [(None, ""), ("", ""), ("gold", "gold"), ("lead", "")])
def test_a_tier_that_nobody_configured_is_none(wanted: str | None, tier: str) -> None:
    assert Talk().lessee.tier(wanted) == tier


PAIRS = Rates(None, Rate(1, SECOND, 30))
FEW_PAIRS = Rates(None, Rate(1, SECOND, 20))


@pytest.mark.parametrize(
    ("caller", "service", "is_limited", "most_pairs"),
    [
        (ALWAYS, ALWAYS, False, None),
        (RATES, ALWAYS, True, None),
        (ALWAYS, RATES, True, None),
        (PAIRS, ALWAYS, True, 30),
        (PAIRS, FEW_PAIRS, True, 20),
        (FEW_PAIRS, PAIRS, True, 20),
    ],
)
def test_knows_what_is_limited_and_the_most_that_can_ever_pass(
    caller: Rates, service: Rates, is_limited: bool, most_pairs: int | None
) -> None:
    lessee = Talk(caller, service).lessee

    assert (lessee.is_limited(""), lessee.most_pairs("")) == (is_limited, most_pairs)
