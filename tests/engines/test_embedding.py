"""The embedded bi-encoder with its real weights: what it computes, and that it means something."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from deployments.core.zeroshot import rank, scores
from deployments.engines.embedding import EmbeddingEngine
from deployments.engines.resolve import embedded_folder


def _scores(engine: EmbeddingEngine, text: str, labels: list[str], *, multi_label: bool = False) -> np.ndarray:
    return scores(engine.logits(engine.pairs([text], labels)[0]), multi_label=multi_label)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("My phone screen is cracked", ["repair", "billing", "holiday"]),
        ("I was charged twice this month", ["billing", "repair", "holiday"]),
        ("Two weeks on the beach in Greece", ["holiday", "billing", "repair"]),
    ],
)
def test_the_label_that_fits_comes_first(embedding: EmbeddingEngine, text: str, labels: list[str]) -> None:
    row = _scores(embedding, text, labels[::-1])

    assert labels[::-1][rank(row, 1)[0]] == labels[0]


def test_logits_are_threshold_and_cosine_of_the_model_cards_recipe(embedding: EmbeddingEngine) -> None:
    strings = ["My phone screen is cracked", "repair", "a long way " * 200]
    folder = embedded_folder()
    inputs = AutoTokenizer.from_pretrained(folder)(
        strings, padding=True, truncation=True, max_length=256, return_tensors="pt"
    )
    with torch.inference_mode():
        hidden = AutoModel.from_pretrained(folder)(**inputs).last_hidden_state
    mask = inputs["attention_mask"].unsqueeze(-1).float()
    vectors = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    cosines = [float(vectors[0] @ vectors[1]), float(vectors[2] @ vectors[1])]

    pairs = [row[0] for row in embedding.pairs([strings[0], strings[2]], [strings[1]])]
    logits = embedding.logits(pairs)

    np.testing.assert_allclose(logits[:, 0], 0.22 / 0.05, rtol=1e-6)
    np.testing.assert_allclose(logits[:, 1] * 0.05, cosines, rtol=0, atol=1e-6)
    assert [pair.truncated for pair in pairs] == [False, True]


def test_multi_label_is_a_logistic_of_the_cosine_around_the_threshold(embedding: EmbeddingEngine) -> None:
    logits = embedding.logits(embedding.pairs(["My phone screen is cracked"], ["repair", "holiday"])[0])
    cosine = logits[:, 1].astype(np.float64) * 0.05

    np.testing.assert_allclose(scores(logits, multi_label=True), 1 / (1 + np.exp(-(cosine - 0.22) / 0.05)), atol=1e-5)


@pytest.fixture
def encoded(embedding: EmbeddingEngine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each pass of the encoder, which starts without kept vectors."""
    rows: list[int] = []
    forward = embedding._model.forward

    def counted(*args: object, **inputs: torch.Tensor) -> object:
        rows.append(len(inputs["input_ids"]))
        return forward(*args, **inputs)

    monkeypatch.setattr(embedding._model, "forward", counted)
    monkeypatch.setattr(embedding, "_kept", {})
    return rows


def test_each_distinct_string_of_a_request_is_encoded_once_however_it_is_cut(
    embedding: EmbeddingEngine, encoded: list[int]
) -> None:
    grid = embedding.pairs(["one", "two", "one"], ["two", "three", "three", "four"])
    pairs = [pair for row in grid for pair in row]
    whole = embedding.logits(pairs)
    cut = np.concatenate([embedding.logits(pairs[i : i + 5]) for i in range(0, len(pairs), 5)])

    assert sum(encoded) == 4
    np.testing.assert_array_equal(cut, whole)


def test_labels_are_kept_for_later_requests_and_texts_are_not(embedding: EmbeddingEngine, encoded: list[int]) -> None:
    for _ in range(2):
        embedding.logits(embedding.pairs(["a text"], ["one label", "another"])[0])

    assert encoded == [3, 1]


def test_kept_labels_are_bounded(
    embedding: EmbeddingEngine, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.engines.embedding.KEPT_HYPOTHESES", 2)

    embedding.logits(embedding.pairs(["a text"], ["one", "two", "three"])[0])
    embedding.logits(embedding.pairs(["a text"], ["two", "three", "one"])[0])

    assert encoded == [4, 2]
    assert len(embedding._kept) == 2
    assert all(vector.untyped_storage().nbytes() == 384 * 4 for vector in embedding._kept.values())
