"""The arithmetic of one bucket, against tokens counted as fractions."""

from __future__ import annotations

from fractions import Fraction
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.core.bucket import PARTS, Bucket, Rate, Reserved

SECOND = 1_000_000_000
LONG_AGO = -(10**18)
RATE = Rate(limit=2, window_ns=SECOND, burst=4)  # a unit in half a second


def _full(rate: Rate = RATE, now: int = 0) -> Bucket:
    bucket = Bucket(rate, LONG_AGO)
    bucket.settle(now)
    return bucket


def _drained(rate: Rate = RATE) -> Bucket:
    bucket = _full(rate)
    bucket.debit(rate.burst)
    return bucket


def _tokens_at(bucket: Bucket, now: int) -> int:
    bucket.settle(now)
    return bucket.tokens(now)


@pytest.mark.parametrize(
    ("now", "tokens"),
    [(0, 0), (SECOND // 2 - 1, 0), (SECOND // 2, 1), (SECOND, 2), (2 * SECOND - 1, 3), (2 * SECOND, 4), (10**12, 4)],
)
def test_an_empty_bucket_fills_up_to_its_burst_by_whole_units(now: int, tokens: int) -> None:
    bucket = Bucket(RATE, empty_at=0)

    assert _tokens_at(bucket, now) == tokens


@pytest.mark.parametrize(("cost", "wait_ns"), [(0, 0), (1, 0), (2, SECOND // 2), (4, 3 * SECOND // 2)])
def test_says_how_long_a_cost_has_to_wait(cost: int, wait_ns: int) -> None:
    bucket = _full()
    bucket.debit(3)

    assert bucket.wait_ns(cost, now=0) == wait_ns


def test_a_rate_that_does_not_divide_a_nanosecond_loses_nothing() -> None:
    bucket = _drained(Rate(limit=3, window_ns=10, burst=3))  # a unit in 3 1/3 ns

    assert [bucket.wait_ns(cost, now=0) for cost in (1, 2, 3)] == [4, 7, 10]
    assert [bucket.tokens(now) for now in (3, 4, 6, 7, 9, 10)] == [0, 1, 1, 2, 2, 3]


def test_a_bucket_that_is_empty_in_the_future_owes_until_then() -> None:
    bucket = Bucket(RATE, empty_at=SECOND)

    assert _tokens_at(bucket, 0) == -2
    assert bucket.wait_ns(1, now=0) == 3 * SECOND // 2


def test_an_expired_grant_lets_the_bucket_fill_up_from_then_on() -> None:
    bucket = _full()
    bucket.grant(1, cost=0, ahead=3, expires=10 * SECOND)

    assert _tokens_at(bucket, 9 * SECOND) == 1
    assert bucket.wait_ns(4, now=9 * SECOND) == 5 * SECOND // 2  # a second until it expires, three units after it
    assert [_tokens_at(bucket, at * SECOND // 2) for at in (20, 21, 22, 23)] == [1, 2, 3, 4]


def test_a_wait_counts_what_has_come_in_before_the_grant_expires() -> None:
    bucket = _full()
    bucket.grant(1, cost=1, ahead=0, expires=SECOND)
    bucket.grant(2, cost=1, ahead=0, expires=3 * SECOND)

    assert [bucket.wait_ns(cost, now=0) for cost in (2, 3, 4)] == [0, 3 * SECOND // 2, 7 * SECOND // 2]


def test_what_a_closed_grant_left_comes_back_once() -> None:
    bucket = _full()
    bucket.grant(1, cost=1, ahead=2, expires=SECOND)
    tokens = []
    for _ in range(2):
        bucket.close(1, unspent=2)
        tokens.append(bucket.tokens(0))

    assert tokens == [3, 3]


def test_no_more_comes_back_than_was_granted() -> None:
    bucket = _full()
    bucket.debit(3)
    bucket.grant(1, cost=1, ahead=0, expires=SECOND)
    bucket.close(1, unspent=5)

    assert bucket.tokens(0) == 1


def test_a_grant_that_has_expired_brings_nothing_back() -> None:
    bucket = _full()
    bucket.grant(1, cost=0, ahead=4, expires=SECOND)
    bucket.settle(SECOND)
    bucket.close(1, unspent=4)
    bucket.refund(1, 4)

    assert bucket.tokens(SECOND) == 0


def test_counts_what_is_open_ahead_of_need() -> None:
    bucket = _full()
    bucket.grant(1, cost=1, ahead=1, expires=SECOND)
    bucket.grant(2, cost=0, ahead=2, expires=2 * SECOND)
    ahead = [bucket.ahead]
    bucket.close(2, unspent=2)
    ahead.append(bucket.ahead)
    bucket.settle(SECOND)
    ahead.append(bucket.ahead)

    assert ahead == [3, 1, 0]


def _spent(cost: int, rate: Rate = RATE) -> Bucket:
    """Full, and so much of it spent at the time 0."""
    bucket = _full(rate)
    bucket.grant(1, cost, ahead=0, expires=SECOND)
    bucket.close(1, unspent=0)
    return bucket


def test_a_refund_brings_back_what_was_spent_and_no_more_in_how_many_parts_it_may_come() -> None:
    bucket = _spent(3)
    tokens = []
    for _ in range(4):
        bucket.refund(1, 2)
        tokens.append(bucket.tokens(0))

    assert tokens == [3, 4, 4, 4]


def test_a_refund_of_what_time_has_refunded_brings_nothing() -> None:
    bucket = _spent(3)
    bucket.settle(3 * SECOND // 2)
    bucket.grant(2, cost=4, ahead=0, expires=10 * SECOND)
    bucket.refund(1, 3)

    assert bucket.tokens(3 * SECOND // 2) == 0


def test_a_refund_counts_while_time_has_not_refunded_it() -> None:
    bucket = _spent(3)
    bucket.settle(SECOND // 2)
    bucket.grant(2, cost=1, ahead=0, expires=10 * SECOND)
    bucket.close(2, unspent=0)
    bucket.refund(2, 1)

    assert bucket.tokens(SECOND // 2) == 2


def test_what_was_spent_first_is_refunded_by_time_first() -> None:
    bucket = _full()
    for id in (1, 2):
        bucket.grant(id, cost=2, ahead=0, expires=SECOND)
        bucket.close(id, unspent=0)
    bucket.settle(SECOND // 2)
    bucket.refund(1, 2)
    first = bucket.tokens(SECOND // 2)
    bucket.refund(2, 2)

    assert (first, bucket.tokens(SECOND // 2)) == (2, 4)


def test_the_next_unit_comes_by_the_rate_though_much_is_open() -> None:
    bucket = _full()
    fresh = bucket.next_ns(0)
    bucket.grant(1, cost=3, ahead=0, expires=100 * SECOND)
    bucket.settle(0)

    assert (fresh, bucket.next_ns(0)) == (0, -(-bucket.rate.window_ns // bucket.rate.limit))


def test_a_refund_from_a_full_bucket_brings_back_all_that_time_has_not() -> None:
    bucket = Bucket(Rate(limit=10, window_ns=3_600 * SECOND, burst=1_000), 0)
    now = 10**6 * SECOND
    bucket.settle(now)
    bucket.grant(1, cost=50, ahead=0, expires=now + SECOND)
    bucket.close(1, unspent=0)
    bucket.settle(now + SECOND // 10)
    bucket.refund(1, 50)
    bucket.settle(now + SECOND // 10)

    assert bucket.tokens(now + SECOND // 10) == 999  # a part of one had been refunded by time, and one is not divided


def test_others_who_have_been_filling_up_in_its_place_leave_it_as_much_less() -> None:
    bucket = _full()
    bucket.settle(10 * SECOND, reserved=[Reserved(10 * SECOND, SECOND, PARTS)])

    assert bucket.tokens(10 * SECOND) == 2


def test_what_others_had_is_refilled_since_then_and_never_more_than_a_burst() -> None:
    bucket = _full()
    bucket.settle(10 * SECOND, reserved=[Reserved(9 * SECOND, 100 * SECOND, PARTS)])

    assert [_tokens_at(bucket, at * SECOND) for at in (10, 11)] == [2, 4]


def test_what_others_had_does_not_help_who_is_emptier() -> None:
    bucket = _drained()
    bucket.settle(0, reserved=[Reserved(0, SECOND, PARTS)])

    assert bucket.tokens(0) == 0


@pytest.mark.parametrize(("share", "tokens"), [(PARTS // 4, 3), (PARTS // 2, 2), (PARTS // 2 + 1, 1), (PARTS, 0)])
def test_others_could_hold_no_more_of_the_burst_than_their_share(share: int, tokens: int) -> None:
    bucket = _full()
    bucket.settle(10 * SECOND, reserved=[Reserved(10 * SECOND, 100 * SECOND, share)])

    assert bucket.tokens(10 * SECOND) == tokens


def test_of_what_was_missing_at_several_times_the_most_is_missing_and_however_often_it_is_told() -> None:
    reserved = [
        Reserved(9 * SECOND, 100 * SECOND, PARTS),  # two units, a second later
        Reserved(19 * SECOND // 2, 100 * SECOND, PARTS // 4),  # one of them, and that is back by then
        Reserved(10 * SECOND, SECOND // 2, PARTS),  # one
    ]
    bucket = _full()
    tokens = []
    for at in (20, 20, 21, 23):
        bucket.settle(at * SECOND // 2, reserved)
        tokens.append(bucket.tokens(at * SECOND // 2))

    assert tokens == [2, 2, 3, 4]


@pytest.mark.parametrize(
    ("rate", "tokens"),
    [
        (Rate(2, SECOND, 40), 3),  # the tokens it has
        (Rate(2, SECOND, 2), 2),  # as far as they fit
        (Rate(200, SECOND, 3), 3),
        (Rate(1, 60 * SECOND, 4), 3),
    ],
)
def test_another_rate_adds_no_tokens(rate: Rate, tokens: int) -> None:
    bucket = _full()
    bucket.debit(1)
    bucket.change(rate, now=0)

    assert bucket.tokens(0) == tokens


def test_from_a_change_on_it_fills_up_at_the_new_rate() -> None:
    bucket = _drained()
    bucket.change(Rate(10, SECOND, 8), now=SECOND // 4)  # half a unit is lost

    assert [_tokens_at(bucket, SECOND // 4 + ns) for ns in (0, SECOND // 10 - 1, SECOND // 10, SECOND)] == [0, 0, 1, 8]


def test_is_full_when_nothing_is_missing_and_nothing_open() -> None:
    bucket = _full()
    states = [bucket.is_full(0)]
    bucket.grant(1, cost=0, ahead=1, expires=SECOND)
    states.append(bucket.is_full(SECOND - 1))
    bucket.close(1, unspent=1)
    states.append(bucket.is_full(0))
    bucket.debit(1)
    states += [bucket.is_full(SECOND // 2 - 1), bucket.is_full(SECOND // 2)]

    assert states == [True, False, True, False, True]


rates = st.builds(Rate, st.integers(1, 50), st.sampled_from([1, 7, 1_000, SECOND]), st.integers(1, 20))


@given(rates, st.data())
def test_tokens_are_those_of_a_bucket_counted_in_fractions(rate: Rate, data: st.DataObject) -> None:
    """Which is full less what is open, and where no expiry falls between two steps."""
    bucket, now, open, id = _full(rate), 0, dict[int, int](), 0
    tokens = Fraction(rate.burst)
    for _ in range(data.draw(st.integers(1, 20))):
        step = data.draw(st.integers(0, 2 * rate.window_ns))
        now += step
        bucket.settle(now)
        tokens = min(tokens + Fraction(rate.limit * step, rate.window_ns), Fraction(rate.burst - sum(open.values())))
        cost = data.draw(st.integers(0, rate.burst))
        what = data.draw(st.sampled_from(["debit", "grant", "close"]))
        assert (bucket.wait_ns(cost, now) == 0) == (cost <= tokens)
        if what == "close" and open:
            closed, amount = open.popitem()
            unspent = min(cost, amount)
            bucket.close(closed, unspent)
            tokens += unspent
        elif cost <= tokens and what == "grant":
            id += 1
            open[id] = cost
            bucket.grant(id, cost, 0, expires=10**15)
            tokens -= cost
        elif cost <= tokens:
            bucket.debit(cost)
            tokens -= cost

        assert bucket.tokens(now) == tokens // 1
        assert tokens + sum(open.values()) <= rate.burst


@given(rates, rates, st.integers(0, 20), st.integers(0, 20), st.integers(0, 2 * SECOND))
def test_a_change_keeps_tokens_and_open_ones_within_the_new_burst(
    old: Rate, new: Rate, debit: int, open: int, ns: int
) -> None:
    bucket = _full(old)
    bucket.debit(min(debit, old.burst))
    bucket.grant(1, 0, ahead=min(open, bucket.tokens(0)), expires=10**15)
    bucket.settle(ns)
    before = bucket.tokens(ns)
    bucket.change(new, ns)

    assert bucket.tokens(ns) == min(before, new.burst - bucket.ahead)
    assert _tokens_at(bucket, ns + 10**14) == new.burst - bucket.ahead


def test_in_10_000_random_waits_a_cost_is_refused_a_nanosecond_sooner_than_told_and_passes_as_told() -> None:
    random = Random(4)
    waited = 0
    while waited < 10_000:
        rate = Rate(random.randint(1, 1_000), random.choice((1, 7, 997, SECOND, 60 * SECOND)), random.randint(1, 50))
        bucket, now = _with_history(rate, random)
        cost = random.randint(1, rate.burst)
        wait = bucket.wait_ns(cost, now)
        if wait == 0:
            assert bucket.tokens(now) >= cost
            continue
        waited += 1
        if random.random() < 0.5:  # who looks in between changes nothing
            bucket.settle(now + random.randrange(wait))
        bucket.settle(now + wait - 1)
        assert (bucket.wait_ns(cost, now + wait - 1), bucket.tokens(now + wait - 1) < cost) == (1, True)
        bucket.settle(now + wait)
        assert (bucket.wait_ns(cost, now + wait), bucket.tokens(now + wait) >= cost) == (0, True)


def _with_history(rate: Rate, random: Random) -> tuple[Bucket, int]:
    """After some grants, some of them open still, some closed, some refunded, some expired."""
    fill = rate.burst * rate.window_ns // rate.limit + 1
    now = random.choice((0, 10**18))
    bucket, expires = Bucket(rate, now - random.randint(0, 2 * fill)), now
    for id in range(random.randint(1, 6)):
        now += random.randint(0, fill // 2)
        bucket.settle(now)
        amount = random.randint(0, max(0, bucket.tokens(now)))
        expires = max(expires, now + random.randint(1, 2 * fill))
        bucket.grant(id, amount, 0, expires)
        if random.random() < 0.5:
            bucket.close(random.randint(0, id), random.randint(0, amount))
        if random.random() < 0.2:
            bucket.refund(random.randint(0, id), random.randint(0, amount))
    return bucket, now
