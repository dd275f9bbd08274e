from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.core.speed import Speed


def _after(runs: list[tuple[int, float]]) -> Speed:
    speed = Speed()
    for tokens, seconds in runs:
        speed = speed.after(tokens, seconds)
    return speed


def test_nothing_is_known_before_the_first_run() -> None:
    assert (Speed().tokens_per_s, Speed().run_tokens) == (None, 0.0)


@given(
    st.lists(st.integers(10, 4_096), min_size=8, max_size=60).filter(lambda sizes: max(sizes) > 2 * min(sizes)),
    st.floats(0.001, 0.1),
    st.floats(1e-5, 1e-2),
)
def test_the_price_of_a_run_is_found_in_tokens(sizes: list[int], per_run: float, per_token: float) -> None:
    speed = _after([(tokens, per_run + per_token * tokens) for tokens in [*sizes, *sizes]])

    if speed.run_tokens > 0:  # 0 where the sizes that still count are too alike
        assert speed.run_tokens == pytest.approx(per_run / per_token, rel=1e-3, abs=0.5)


def test_sizes_that_differ_tell_the_price_of_a_run() -> None:
    assert _after([(100, 0.6), (1_000, 1.5), (500, 1.0)]).run_tokens == pytest.approx(500)


def test_equal_sizes_tell_the_rate_but_not_the_price_of_a_run() -> None:
    speed = _after([(1_000, 0.5)] * 10)

    assert speed.tokens_per_s == pytest.approx(2_000)
    assert speed.run_tokens == 0


def test_the_past_fades() -> None:
    speed = _after([(1_000, 10.0)] * 5 + [(1_000, 1.0)] * 100)

    assert speed.tokens_per_s == pytest.approx(1_000, rel=0.05)
