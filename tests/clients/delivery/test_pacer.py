"""The client's own count of its quotas; times are numbers that tests set."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.delivery.pacer import LEAST, LESS, MORE, Pacer
from deployments.contract.wire import QuotaState

A_MOMENT = 1e-6  # seconds; floats of monotonic clocks are exact to less


def quota(unit: str, limit: int, window_s: int, burst: int, remaining: int | None = None) -> QuotaState:
    return {
        "name": f"caller-{unit}",
        "unit": "pairs" if unit == "pairs" else "requests",
        "limit": limit,
        "window_s": window_s,
        "burst": burst,
        "remaining": burst if remaining is None else remaining,
        "next_s": 0,
    }


def _pacer(*quotas: QuotaState, now: float = 0.0) -> Pacer:
    pacer = Pacer()
    pacer.learn({"max_concurrent": 8, "max_deadline_s": 120.0, "quotas": list(quotas)}, now)
    return pacer


def _share(pacer: Pacer, now: float) -> float:
    """Of a rate that it has not heard of yet, with nothing left."""
    rate = int(now) + 1
    pacer.see([quota("requests", rate, 1, 1, remaining=0)], now)
    return 1 / rate / pacer.wait_s(1, now)


def test_before_it_is_told_anything_everything_may_be_sent() -> None:
    pacer = Pacer()

    assert (pacer.wait_s(1_000_000, 0.0), pacer.max_concurrent) == (0.0, None)


def test_a_burst_may_be_sent_at_once_and_then_as_the_rate_goes() -> None:
    pacer = _pacer(quota("requests", 10, 1, 3))
    waits = []
    for _ in range(5):
        waits.append(round(pacer.wait_s(1, 0.0), 9))
        pacer.take(1)

    assert waits == [0.0, 0.0, 0.0, 0.1, 0.2]


def test_requests_and_pairs_are_counted_apart_and_the_longer_wait_counts() -> None:
    pacer = _pacer(quota("requests", 10, 1, 1), quota("pairs", 10, 1, 10))
    pacer.take(8)

    assert [round(pacer.wait_s(pairs, 0.0), 9) for pairs in (1, 3, 10)] == [0.1, 0.1, 0.8]


def test_what_costs_more_than_a_burst_is_sent_at_once_and_costs_nothing_here() -> None:
    pacer = _pacer(quota("pairs", 10, 1, 10))
    pacer.take(10)
    pacer.take(11)

    assert pacer.wait_s(11, 0.0) == 0.0
    assert round(pacer.wait_s(1, 0.0), 9) == 0.1


def test_what_is_left_counts_where_the_policy_is_new_or_changed_and_not_where_it_is_old_news() -> None:
    pacer = _pacer(quota("requests", 1, 1, 4, remaining=2))
    pacer.see([quota("requests", 1, 1, 4, remaining=0)], 0.0)
    before = pacer.wait_s(1, 0.0)
    pacer.see([quota("requests", 2, 1, 4, remaining=0)], 0.0)

    assert (before, pacer.wait_s(1, 0.0)) == (0.0, 0.5)


def test_a_policy_of_a_unit_that_this_version_does_not_know_is_left_to_the_service() -> None:
    unknown = quota("requests", 1, 1, 1, remaining=0)
    unknown["unit"] = "tokens"  # type: ignore[typeddict-item]

    assert _pacer(unknown).wait_s(1, 0.0) == 0.0


def test_after_a_refusal_nothing_is_sent_for_as_long_as_the_service_says() -> None:
    pacer = Pacer()
    pacer.refused(2.0, now=1.0)
    pacer.refused(0.5, now=1.5)

    assert [pacer.wait_s(1, now) for now in (1.5, 2.5, 3.0)] == [1.5, 0.5, 0.0]


def test_refusals_of_one_period_lessen_the_share_once_and_the_next_period_once_more() -> None:
    pacer = Pacer()
    for now in (0.0, 0.1, 0.9):
        pacer.refused(1.0, now)
    assert _share(pacer, now=10.0) == pytest.approx(LESS)

    pacer.refused(1.0, now=10.0)
    assert _share(pacer, now=20.0) == pytest.approx(LESS * LESS)


def test_what_passes_gives_share_back_up_to_the_whole() -> None:
    pacer = Pacer()
    pacer.refused(0.0, now=0.0)
    for _ in range(10):
        pacer.passed()
    assert _share(pacer, now=1.0) == pytest.approx(LESS + 10 * MORE)

    pacer = Pacer()
    pacer.refused(0.0, now=0.0)
    for _ in range(100):
        pacer.passed()
    assert _share(pacer, now=1.0) == pytest.approx(1.0)


def test_however_often_it_is_refused_a_little_is_still_sent() -> None:
    pacer = Pacer()
    for now in range(100):
        pacer.refused(0.5, float(now))

    assert _share(pacer, now=1_000.0) == pytest.approx(LEAST)


def test_the_smaller_number_of_those_that_may_be_under_way_counts() -> None:
    pacer = Pacer()
    found = []
    for most in (7, 9, 3):
        pacer.crowded(most)
        found.append(pacer.max_concurrent)

    assert found == [7, 7, 3]


rates = st.tuples(st.integers(1, 1_000), st.integers(1, 3_600), st.integers(1, 200))
steps = st.lists(
    st.tuples(
        st.one_of(st.just(0.0), st.floats(0.0, 5.0), st.just(-1.0)),  # -1: for as long as it says
        st.integers(1, 250),
        st.sampled_from(["send", "send", "send", "refused", "passed"]),
    ),
    max_size=60,
)


@given(rates, rates, steps)
def test_over_no_time_is_more_sent_than_a_burst_and_what_the_rate_gives(
    requests: tuple[int, int, int], pairs: tuple[int, int, int], steps: list[tuple[float, int, str]]
) -> None:
    """Whatever the share; what is dearer than a burst aside."""
    pacer, now = _pacer(quota("requests", *requests), quota("pairs", *pairs), now=1_000.0), 1_000.0
    sent: list[tuple[float, int]] = []
    for dt, cost, what in steps:
        now += dt if dt >= 0 else min(pacer.wait_s(cost, now), 1e6)
        if what == "refused":
            pacer.refused(0.1, now)
        elif what == "passed":
            pacer.passed()
        elif cost <= pairs[2] and pacer.wait_s(cost, now) <= 0:
            pacer.take(cost)
            sent.append((now, cost))

    for i, (begin, _) in enumerate(sent):
        n_requests = n_pairs = 0
        for at, cost in sent[i:]:
            n_requests, n_pairs = n_requests + 1, n_pairs + cost
            assert n_requests <= requests[2] + requests[0] / requests[1] * (at - begin) + A_MOMENT
            assert n_pairs <= pairs[2] + pairs[0] / pairs[1] * (at - begin) + A_MOMENT


@given(rates, st.lists(st.integers(1, 200), min_size=1, max_size=20), st.integers(0, 3), st.integers(1, 200))
def test_the_wait_is_exact(rate: tuple[int, int, int], costs: list[int], refusals: int, cost: int) -> None:
    """Not permitted a moment before, permitted a moment after; while nothing else is sent."""
    pacer, now = _pacer(quota("pairs", *rate)), 0.0
    for i in range(refusals):
        now = 2.0 * i
        pacer.refused(1.0, now)
    for one in costs:
        pacer.take(one)
    wait = pacer.wait_s(cost, now)
    moment = max(A_MOMENT, wait * 1e-9)

    if wait > 2 * moment:
        assert pacer.wait_s(cost, now + wait / 2) == pytest.approx(wait / 2, abs=moment)
        assert pacer.wait_s(cost, now + wait - moment) > 0.0
    assert pacer.wait_s(cost, now + wait + moment) == 0.0
