from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clients.delivery.budget import EARNED_BY, RetryBudget


def test_full_it_lets_all_that_may_be_outstanding_be_sent_once_more() -> None:
    budget = RetryBudget(3)

    assert [budget.spend() for _ in range(4)] == [True, True, True, False]


def test_ten_requests_that_are_sent_for_the_first_time_earn_one_more() -> None:
    budget = RetryBudget(1)
    budget.spend()
    found = []
    for _ in range(10):
        found.append(budget.spend())
        budget.earn()

    assert found == [False] * 10
    assert budget.spend()
    assert not budget.spend()


@given(st.integers(1, 300), st.lists(st.booleans(), max_size=300))
def test_never_more_are_sent_again_than_may_be_outstanding_and_a_tenth_of_what_was_sent_over_any_stretch(
    most: int, steps: list[bool]
) -> None:
    budget = RetryBudget(most)
    spent, earned = [0], [0]
    for sends_again in steps:
        spent.append(spent[-1] + (sends_again and budget.spend()))
        earned.append(earned[-1] + (not sends_again))
        if not sends_again:
            budget.earn()

    for i in range(len(spent)):
        for j in range(i, len(spent), 7):
            assert spent[j] - spent[i] <= most + (earned[j] - earned[i]) / EARNED_BY


@given(st.integers(1, 20), st.integers(0, 400))
def test_it_never_holds_more_than_may_be_outstanding(most: int, sent: int) -> None:
    budget = RetryBudget(most)
    for _ in range(sent):
        budget.earn()

    assert sum(budget.spend() for _ in range(most + 2)) == most
