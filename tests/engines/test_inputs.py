from __future__ import annotations

from pathlib import Path

import pytest

from deployments.engines.inputs import Inputs, pad


def test_short_rows_are_filled_up_on_the_right() -> None:
    assert pad([[5], [6, 7, 8]], 1).tolist() == [[5, 1, 1], [6, 7, 8]]
    assert pad([[5], [6, 7]], 1, width=4).tolist() == [[5, 1, 1, 1], [6, 7, 1, 1]]


@pytest.mark.parametrize("model", ["roberta", "bert"])
def test_beyond_the_pairs_the_last_one_is_repeated(model: str, request: pytest.FixtureRequest) -> None:
    inputs = Inputs(request.getfixturevalue(model))
    pairs = [row[0] for row in inputs.pairs(["a", "a long text about a card"], ["refund"])]
    exact = inputs.rows(pairs)

    rows = inputs.rows(pairs, (5, 40))

    width = exact["input_ids"].shape[1]
    assert list(rows) == inputs.names
    for name, array in rows.items():
        assert array.shape == (5, 40)
        assert array[:, :width].tolist() == exact[name][[0, 1, 1, 1, 1]].tolist()
    assert rows["attention_mask"].sum(axis=1).tolist() == [pairs[i].n_tokens for i in (0, 1, 1, 1, 1)]


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("roberta", ["input_ids", "attention_mask"]),
        ("bert", ["input_ids", "attention_mask", "token_type_ids"]),
    ],
)
def test_a_batch_is_as_wide_as_its_longest_pair(model: str, names: list[str], request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(model)
    inputs = Inputs(folder)
    pairs = [row[0] for row in inputs.pairs(["a", "a long text about a card"], ["refund"])]

    rows = inputs.rows(pairs)

    assert list(rows) == names
    assert {array.shape for array in rows.values()} == {(2, pairs[1].n_tokens)}
    assert rows["attention_mask"].sum(axis=1).tolist() == [pair.n_tokens for pair in pairs]
