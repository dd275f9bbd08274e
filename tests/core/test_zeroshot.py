from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from deployments.core.zeroshot import hypotheses, rank, scores

Floats = NDArray[np.float64]

LOGITS = st.integers(1, 8).flatmap(
    lambda k: arrays(np.float64, (3, k, 2), elements=st.floats(-1e4, 1e4, allow_subnormal=False))
)


def test_the_label_stands_in_the_place_of_the_braces() -> None:
    assert hypotheses(["{x}", "b"], "It is {}.") == ["It is {x}.", "It is b."]


@given(LOGITS, st.booleans())
def test_scores_are_probabilities_however_large_the_logits(logits: Floats, multi_label: bool) -> None:
    table = scores(logits, multi_label=multi_label)

    assert table.shape == logits.shape[:-1]
    assert ((table >= 0) & (table <= 1)).all()
    if not multi_label and logits.shape[-2] > 1:
        np.testing.assert_allclose(table.sum(axis=-1), 1)


@given(LOGITS)
def test_one_label_is_scored_as_in_multi_label(logits: Floats) -> None:
    alone = logits[:, :1]

    assert np.array_equal(scores(alone, multi_label=False), scores(alone, multi_label=True))


@given(LOGITS)
def test_in_multi_label_the_other_labels_do_not_matter(logits: Floats) -> None:
    assert np.array_equal(scores(logits, multi_label=True)[:, :1], scores(logits[:, :1], multi_label=True))


@given(LOGITS, st.floats(-100, 100), st.booleans())
def test_a_constant_added_to_all_logits_changes_nothing(logits: Floats, constant: float, multi_label: bool) -> None:
    moved = scores(logits + constant, multi_label=multi_label)

    np.testing.assert_allclose(moved, scores(logits, multi_label=multi_label), atol=1e-9)


@given(LOGITS, st.booleans(), st.randoms())
def test_the_order_of_labels_permutes_the_scores(logits: Floats, multi_label: bool, random: object) -> None:
    order = list(range(logits.shape[-2]))
    random.shuffle(order)  # type: ignore[attr-defined]

    permuted = scores(logits[:, order], multi_label=multi_label)

    np.testing.assert_allclose(permuted, scores(logits, multi_label=multi_label)[:, order], atol=1e-12)


def test_known_values() -> None:
    logits = np.array([[[0.0, 1.0], [2.0, 3.0]]])

    np.testing.assert_allclose(scores(logits, multi_label=False), [[1 / (1 + np.e**2), np.e**2 / (1 + np.e**2)]])
    np.testing.assert_allclose(scores(logits, multi_label=True), [[1 / (1 + np.e**-1)] * 2])


def test_ranks_best_first_with_ties_in_the_callers_order() -> None:
    table = np.array([[0.1, 0.4, 0.1, 0.4], [0.1, 0.2, 0.3, 0.4]])

    assert rank(table, None).tolist() == [[1, 3, 0, 2], [3, 2, 1, 0]]
    assert rank(table, 3).tolist() == [[1, 3, 0], [3, 2, 1]]
    assert rank(table[0], 9).tolist() == [1, 3, 0, 2]
