from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from deployments.core.fairness import Turns


def _next(turns: Turns[str], cost: int = 1) -> str:
    return next(turns.order(lambda flow: (flow, cost)))[0]


def _serve(turns: Turns[str], n: int, costs: dict[str, int], start: int = 0) -> list[str]:
    served = []
    for batch in range(start, start + n):
        flow = _next(turns)
        turns.charge(flow, costs[flow], batch)
        served.append(flow)
    return served


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.integers(1, 50), min_size=1, max_size=6))
def test_flows_that_always_wait_get_equal_shares(costs: dict[str, int]) -> None:
    turns: Turns[str] = Turns()
    for flow in costs:
        turns.join(flow)

    service = Counter[str]()
    for flow in _serve(turns, 500, costs):
        service[flow] += costs[flow]

    assert max(service.values()) - min(service[flow] for flow in costs) <= 2 * max(costs.values())


def test_equal_flows_keep_their_order() -> None:
    turns: Turns[str] = Turns()
    for flow in "abc":
        turns.join(flow)

    assert _serve(turns, 6, dict.fromkeys("abc", 5)) == list("abcabc")


def test_who_joins_comes_before_a_flow_that_has_had_its_share() -> None:
    turns: Turns[str] = Turns()
    turns.join("list")
    _serve(turns, 10, {"list": 100})

    turns.join("short")

    assert _next(turns) == "short"


def test_a_stream_of_newcomers_cannot_starve_a_list() -> None:
    turns: Turns[str] = Turns()
    turns.join("list")
    turns.charge("list", 1_000, 0)
    served = 0

    for batch in range(1, 200):  # somebody new waits at every moment
        if len(turns) == 1:
            turns.join(f"new{batch}")
        flow = _next(turns)
        turns.charge(flow, 10, batch)
        if flow != "list":
            turns.leave(flow)
        served += flow == "list"

    assert 80 <= served <= 120


def test_who_joins_during_a_batch_comes_before_those_in_it() -> None:
    turns: Turns[str] = Turns()
    turns.join("list")
    for _ in range(5):
        turns.charge("list", 20, batch=1)

    turns.join("short")

    assert turns._tags == {"list": 100, "short": 0}


def test_who_leaves_is_forgotten() -> None:
    turns: Turns[str] = Turns()
    turns.join("a")
    turns.join("b")
    turns.charge("a", 100, 0)
    turns.leave("a")

    assert list(turns) == ["b"]
    assert len(turns) == 1


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9)), max_size=20))
def test_looking_ahead_changes_nothing(past: list[tuple[str, int]]) -> None:
    turns: Turns[str] = Turns()
    for flow in "abc":
        turns.join(flow)
    for batch, (flow, cost) in enumerate(past):
        turns.charge(flow, cost, batch)

    def look() -> list[str]:
        left = dict.fromkeys("abc", 4)

        def serve(flow: str) -> tuple[str, int] | None:
            left[flow] -= 1
            return (flow, 3) if left[flow] >= 0 else None

        return [flow for flow, _ in turns.order(serve)]

    assert look() == look()
    assert Counter(look()) == {"a": 4, "b": 4, "c": 4}
