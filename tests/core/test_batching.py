from __future__ import annotations

import math
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from deployments.core.batching import MAX_PADDING, Err, Ok, companions, isolate, plan

LENGTHS = st.lists(st.integers(1, 512), max_size=200)


@given(LENGTHS, st.integers(1, 4096))
def test_a_plan_holds_every_pair_once(lengths: list[int], max_tokens: int) -> None:
    batches = plan(lengths, max_tokens)

    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))


@given(LENGTHS, st.integers(1, 4096))
def test_a_batch_fits_the_budget_or_is_one_pair(lengths: list[int], max_tokens: int) -> None:
    for batch in plan(lengths, max_tokens):
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= max_tokens


def test_similar_lengths_run_together_the_longest_first() -> None:
    assert plan([10, 500, 12, 490], max_tokens=1_000) == [[1, 3], [2, 0]]


@given(LENGTHS.filter(len), st.integers(1, 4096), st.floats(0, 500))
def test_a_batch_holds_the_pair_whose_turn_it_is_and_fits(
    lengths: list[int], max_tokens: int, run_tokens: float
) -> None:
    batch = companions(lengths, max_tokens, run_tokens)

    padded = len(batch) * max(lengths[i] for i in batch)
    padding = padded - sum(lengths[i] for i in batch)
    assert 0 in batch
    assert len(set(batch)) == len(batch)
    assert len(batch) == 1 or padded <= max_tokens
    assert padding <= max(run_tokens, MAX_PADDING * padded)
    assert [lengths[i] for i in batch] == sorted((lengths[i] for i in batch), reverse=True)


@given(LENGTHS.filter(len), st.integers(1, 4096))
def test_nobody_of_a_length_within_the_batch_is_left_out_for_somebody_else(lengths: list[int], max_tokens: int) -> None:
    batch = companions(lengths, max_tokens)

    inside = range(min(lengths[i] for i in batch) + 1, max(lengths[i] for i in batch))
    assert [i for i in range(len(lengths)) if lengths[i] in inside and i not in batch] == []


def test_the_nearest_in_length_come_along_and_the_rest_waits() -> None:
    assert companions([100, 500, 101, 99, 20, 100], max_tokens=4_096) == [2, 0, 5, 3]
    assert companions([100, 500, 101, 99, 20, 100], max_tokens=200) == [0, 5]
    assert companions([500, 100], max_tokens=100) == [0]


def test_padding_is_taken_where_a_run_costs_more() -> None:
    assert companions([30, 20, 10], max_tokens=4_096) == [0]
    assert companions([30, 20, 10], max_tokens=4_096, run_tokens=10) == [0, 1]
    assert companions([30, 20, 10], max_tokens=4_096, run_tokens=30) == [0, 1, 2]


@given(st.integers(1, 300), st.data())
def test_one_bad_item_fails_alone_within_2_log2_n_plus_3_runs(n: int, data: st.DataObject) -> None:
    bad = data.draw(st.integers(0, n - 1))
    runs = 0

    def run(items: Sequence[int]) -> list[int]:
        nonlocal runs
        runs += 1
        if bad in items:
            raise RuntimeError("poison")
        return [item * 10 for item in items]

    results = isolate(run, range(n))

    assert runs <= 2 * math.log2(n) + 3
    assert isinstance(results[bad], Err)
    assert [r for i, r in enumerate(results) if i != bad] == [Ok(i * 10) for i in range(n) if i != bad]


@given(st.sets(st.integers(0, 40)), st.integers(1, 40))
def test_every_item_gets_its_own_result_whoever_fails(bad: set[int], n: int) -> None:
    def run(items: Sequence[int]) -> list[int]:
        if bad & set(items):
            raise RuntimeError("poison")
        return list(items)

    results = isolate(run, range(n))

    assert [isinstance(r, Err) for r in results] == [i in bad for i in range(n)]
    assert all(r.value == i for i, r in enumerate(results) if isinstance(r, Ok))
