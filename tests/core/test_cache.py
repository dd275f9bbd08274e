from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.core.cache import ENTRY_BYTES, Digests, PairCache, Scored

DIGESTS = Digests(b"secret")


def _scored(i: int) -> Scored:
    return Scored(i + 0.25, i + 0.5, i + 1_000, False)


def _key(text: str, hypothesis: str, scope: str = "a", digests: Digests = DIGESTS) -> int:
    return digests.grid(scope, [text], [hypothesis])[0][0]


@given(st.lists(st.text(), unique=True, max_size=6), st.lists(st.text(), unique=True, max_size=6))
def test_distinct_pairs_have_distinct_keys_of_128_bits(texts: list[str], hypotheses: list[str]) -> None:
    grid = DIGESTS.grid("a", texts, hypotheses)

    keys = [key for row in grid for key in row]
    assert len(set(keys)) == len(texts) * len(hypotheses)
    assert all(0 <= key < 1 << 128 for key in keys)
    assert grid == DIGESTS.grid("a", texts, hypotheses)


def test_a_key_depends_on_scope_secret_and_which_string_is_which() -> None:
    assert len({_key("x", "y"), _key("y", "x"), _key("x", "y", "b"), _key("x", "y", "a", Digests(b"other"))}) == 4
    assert _key("1:x", "y", "") != _key("x", "y", "1:")  # a scope cannot be moved into a text
    assert _key("x", "x") != 0


def test_what_was_not_used_for_longest_goes_first() -> None:
    cache = PairCache(3 * ENTRY_BYTES)
    for i in range(3):
        cache.put(i, _scored(i))

    assert cache.get(0) == _scored(0)
    cache.put(3, _scored(3))

    assert [cache.get(i) for i in range(4)] == [_scored(0), None, _scored(2), _scored(3)]


def test_it_can_be_made_smaller_and_switched_off() -> None:
    cache = PairCache(10 * ENTRY_BYTES)
    for i in range(10):
        cache.put(i, _scored(i))

    cache.resize(2 * ENTRY_BYTES + 1)
    assert len(cache) == 2

    cache.resize(0)
    cache.put(1, _scored(1))
    assert len(cache) == 0


@pytest.mark.parametrize("n", [5_000, 5_500, 11_000])  # after the table has grown it is half empty
def test_its_bound_in_bytes_holds(n: int) -> None:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        cache = PairCache(n * ENTRY_BYTES)
        for i in range(n + 1_000):
            cache.put(_key(str(i), ""), _scored(i))
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()

    assert len(cache) == n
    assert 0.5 * n * ENTRY_BYTES < held <= n * ENTRY_BYTES
