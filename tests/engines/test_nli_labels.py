from __future__ import annotations

import pytest

from deployments.engines.nli_labels import NliColumns, nli_columns
from deployments.engines.refusal import StartRefused


def _back(names: list[str]) -> dict[str, int]:
    return {name: i for i, name in enumerate(names)}


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (["contradiction", "entailment", "neutral"], (0, 1)),
        (["neutral", "entailment", "contradiction"], (2, 1)),
        (["ENTAILMENT", "NEUTRAL", "CONTRADICTION"], (2, 0)),
        (["entail", "neutral", "contradict"], (2, 0)),
        ([" Contradiction ", "Entailment"], (0, 1)),
        (["entailment", "not_entailment"], (1, 0)),
        (["not-entailment", "entailment"], (0, 1)),
        (["Not Entailment", "Entailment"], (0, 1)),
        (["entailment", "non_entailment"], (1, 0)),
    ],
)
def test_columns_are_found_by_name(names: list[str], columns: tuple[int, int]) -> None:
    assert nli_columns(dict(enumerate(names)), _back(names)) == NliColumns(*columns)


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["LABEL_0", "LABEL_1", "LABEL_2"],
        ["contradiction", "neutral"],
        ["entailment", "neutral"],
        ["entailment", "entailed", "contradiction"],
        ["entailment", "contradiction", "contradicts"],
        ["entailment", "neutral", "not_entailment"],
        ["negative", "positive"],
    ],
)
def test_names_that_are_missing_or_ambiguous_are_refused_and_shown(names: list[str]) -> None:
    with pytest.raises(StartRefused, match="exactly one class 'entailment' and one 'contradiction'") as caught:
        nli_columns(dict(enumerate(names)), {})

    assert all(repr(name) in str(caught.value) for name in names)


def test_a_label2id_that_says_otherwise_is_refused() -> None:
    with pytest.raises(StartRefused, match=r"label2id .* contradicts its id2label"):
        nli_columns({0: "contradiction", 1: "entailment"}, {"contradiction": 1, "entailment": 0})


def test_a_label2id_that_is_missing_or_only_generic_is_no_contradiction() -> None:
    names = {0: "contradiction", 1: "entailment"}

    assert nli_columns(names, {}) == nli_columns(names, {"LABEL_0": 0, "LABEL_1": 1}) == NliColumns(0, 1)
