from __future__ import annotations

import math
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from deployments.core.batching import Err, Ok, isolate, plan

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
