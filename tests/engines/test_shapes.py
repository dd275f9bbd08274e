from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertConfig, BertForSequenceClassification

from deployments.engines.inputs import IdArray, Inputs
from deployments.engines.protocol import Pair
from deployments.engines.shapes import PER_OCTAVE, rounded
from tests.tiny import bert_tokenizer, save_tiny

from .conftest import LoadEngine

NUMBERS = st.integers(min_value=1, max_value=1 << 20)


@pytest.mark.parametrize(("n", "expected"), [(1, 1), (16, 16), (17, 18), (31, 32), (33, 36), (65, 72), (512, 512)])
def test_a_number_is_rounded_up_to_one_that_comes_again(n: int, expected: int) -> None:
    assert rounded(n) == expected


@given(n=NUMBERS)
def test_at_most_an_eighth_is_added(n: int) -> None:
    assert n <= rounded(n) <= n + n / PER_OCTAVE


@given(n=NUMBERS)
def test_a_rounded_number_stays(n: int) -> None:
    assert rounded(rounded(n)) == rounded(n)


@given(a=NUMBERS, b=NUMBERS)
def test_more_is_never_rounded_to_less(a: int, b: int) -> None:
    assert rounded(min(a, b)) <= rounded(max(a, b))


@pytest.mark.parametrize("octave", range(3, 20))
def test_there_are_eight_numbers_to_an_octave(octave: int) -> None:
    assert len({rounded(n) for n in range(1 << octave, 2 << octave)} - {2 << octave}) == PER_OCTAVE


def test_openvino_runs_in_shapes_that_come_again_and_answers_for_the_pairs_alone(
    roberta: Path, load_engine: LoadEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load_engine(roberta, "openvino-fp32")
    pairs = [row[0] for row in engine.pairs([f"card {'phone ' * n}" for n in range(40)], ["refund"])]
    alone = np.concatenate([engine.logits([pair]) for pair in pairs])
    shapes = _shapes(monkeypatch)

    for n in range(1, len(pairs) + 1):
        np.testing.assert_allclose(engine.logits(pairs[:n]), alone[:n], rtol=0, atol=1e-5)

    assert shapes == [(rounded(n), rounded(pair.n_tokens)) for n, pair in enumerate(pairs, 1)]


def test_no_shape_is_wider_than_the_model_takes(
    tmp_path: Path, load_engine: LoadEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = 50
    bert = BertForSequenceClassification, BertConfig, bert_tokenizer()
    folder = save_tiny(tmp_path, *bert, max_position_embeddings=longest)  # none for a 51st, padding or not
    torch, openvino = load_engine(folder, "torch-fp32"), load_engine(folder, "openvino-fp32")
    [[pair]] = torch.pairs(["card " * longest], ["refund"])
    shapes = _shapes(monkeypatch)

    logits = openvino.logits([pair])

    assert shapes == [(1, longest)]
    assert longest < rounded(longest)
    np.testing.assert_allclose(logits, torch.logits([pair]), rtol=0, atol=1e-5)


def _shapes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Of all batches from now on."""
    found = []
    rows = Inputs.rows

    def record(self: Inputs, pairs: Sequence[Pair], shape: tuple[int, int] | None = None) -> dict[str, IdArray]:
        made = rows(self, pairs, shape)
        found.append(made["input_ids"].shape)
        return made

    monkeypatch.setattr(Inputs, "rows", record)
    return found
