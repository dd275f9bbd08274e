from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.core.speed import MIN_RUNS, RUNS, Speed


def _after(runs: list[tuple[int, float]]) -> Speed:
    speed = Speed()
    for tokens, seconds in runs:
        speed = speed.after(tokens, seconds)
    return speed


def test_nothing_is_known_before_the_first_run() -> None:
    assert Speed().tokens_per_s is None
    assert Speed().run_tokens == 0


@given(
    st.lists(st.integers(10, 100), min_size=MIN_RUNS, max_size=RUNS // 2),
    st.lists(st.integers(200, 4_096), min_size=MIN_RUNS, max_size=RUNS // 2),
    st.floats(0.001, 0.1),
    st.floats(1e-5, 1e-2),
    st.randoms(use_true_random=False),
)
def test_the_price_of_a_run_is_found_in_tokens(
    small: list[int], large: list[int], per_run: float, per_token: float, order: random.Random
) -> None:
    sizes = [*small, *large]
    order.shuffle(sizes)
    speed = _after([(tokens, per_run + per_token * tokens) for tokens in sizes])

    assert speed.run_tokens == pytest.approx(per_run / per_token, rel=1e-3, abs=0.1)


@given(st.lists(st.integers(10, 4_096), min_size=RUNS, max_size=40), st.floats(1e-5, 1e-2))
def test_the_rate_lies_among_those_that_were_measured(sizes: list[int], per_token: float) -> None:
    speed = _after([(tokens, 0.01 + per_token * tokens) for tokens in sizes])

    rates = [tokens / (0.01 + per_token * tokens) for tokens in sizes[-RUNS:]]
    assert speed.tokens_per_s is not None
    assert min(rates) <= speed.tokens_per_s <= max(rates)


def test_equal_sizes_tell_the_rate_but_not_the_price_of_a_run() -> None:
    speed = _after([(1_000, 0.5)] * 10)

    assert speed.tokens_per_s == pytest.approx(2_000)
    assert speed.run_tokens == 0


@given(st.lists(st.tuples(st.integers(480, 512), st.floats(0.9, 1.3)), min_size=1, max_size=40))
def test_sizes_that_are_nearly_equal_do_not_tell_it_either(runs: list[tuple[int, float]]) -> None:
    speed = _after([(tokens, 0.001 * tokens * noise) for tokens, noise in runs])

    assert speed.run_tokens == 0


@given(st.integers(1, MIN_RUNS - 1), st.floats(1, 50), st.randoms(use_true_random=False))
def test_nor_do_one_or_two_runs_of_another_size(n: int, pause: float, order: random.Random) -> None:
    runs = [(500, 0.5)] * 12 + [(20, 0.04 * pause)] * n
    order.shuffle(runs)

    assert _after(runs).run_tokens == 0


@pytest.mark.parametrize("pause", [(8, 4.0), (1_000, 60.0)])
def test_one_run_that_hit_a_pause_changes_little(pause: tuple[int, float]) -> None:
    usual = [(tokens, 0.01 + 0.001 * tokens) for tokens in range(100, 1_100, 100)]

    speed = _after([*usual, pause])

    assert speed.tokens_per_s == pytest.approx(_after(usual).tokens_per_s, rel=0.05)
    assert speed.run_tokens == pytest.approx(10, rel=0.5)


def test_the_past_is_forgotten() -> None:
    speed = _after([(1_000, 10.0)] * 50 + [(1_000, 1.0)] * RUNS)

    assert speed.tokens_per_s == pytest.approx(1_000)
