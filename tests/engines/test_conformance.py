"""What the protocol promises, held against every engine, so that the fake one can be trusted in other tests."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from deployments.contract.errors import HypothesisTooLong
from deployments.engines.embedding import EmbeddingEngine
from deployments.engines.fake import FakeEngine
from deployments.engines.protocol import Engine, Pair
from deployments.engines.resolve import embedded_folder
from deployments.engines.torch import Device, TorchEngine

ROUNDING = 1e-5  # of fp32
WORDS = ["card", "refund", "screen", "phone", "cracked", "holiday", "is", "42", "Größe", "数学", "🙂"]
SENTENCES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=20).map(" ".join)
CLAIMS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(" ".join)  # within every limit


@dataclass(frozen=True)
class Subject:
    """An engine under test, and what is known of it from elsewhere."""

    engine: Engine
    length: Callable[[str, str], int]
    """Tokens that reach the model for a text and a hypothesis."""

    longest_hypothesis: int
    """In tokens; " 7" is one to every engine."""


def _crossed(folder: Path, longest_hypothesis: int) -> Subject:
    reference = AutoTokenizer.from_pretrained(folder)

    def length(text: str, hypothesis: str) -> int:
        return len(reference(text, hypothesis, truncation="only_first", max_length=64)["input_ids"])

    return Subject(TorchEngine(folder, "fp32", Device("cpu")), length, longest_hypothesis)


def _embedded(engine: EmbeddingEngine) -> Subject:
    reference = AutoTokenizer.from_pretrained(embedded_folder())

    def length(text: str, hypothesis: str) -> int:
        return sum(len(reference(s, truncation=True, max_length=256)["input_ids"]) for s in (text, hypothesis))

    return Subject(engine, length, 254)


def _fake() -> Subject:
    def length(text: str, hypothesis: str) -> int:
        return min(64, 3 + sum(len(re.findall(r"\w+", s)) for s in (text, hypothesis)))

    return Subject(FakeEngine(), length, 60)


@pytest.fixture(scope="module", params=["fake", "roberta", "bert", "embedding"])
def subject(request: pytest.FixtureRequest) -> Subject:
    if request.param == "fake":
        return _fake()
    if request.param == "embedding":
        return _embedded(request.getfixturevalue("embedding"))
    return _crossed(request.getfixturevalue(request.param), {"roberta": 59, "bert": 60}[request.param])


def _row(engine: Engine, texts: Sequence[str], hypotheses: Sequence[str]) -> list[Pair]:
    return [pair for row in engine.pairs(texts, hypotheses) for pair in row]


def test_one_row_per_text_and_one_pair_per_hypothesis(subject: Subject) -> None:
    grid = subject.engine.pairs(["one card", "two phones"], ["a", "b", "c"])
    logits = subject.engine.logits([pair for row in grid for pair in row])

    assert [len(row) for row in grid] == [3, 3]
    assert len({row[0].premise for row in grid}) == 2
    assert len({pair.hypothesis for pair in grid[0]}) == 3
    assert logits.shape == (6, 2)
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()
    assert len(np.unique(logits[:, 1])) == 6  # an engine that answers alike to all passes no other test here


def test_an_empty_batch_has_no_rows(subject: Subject) -> None:
    logits = subject.engine.logits([])

    assert logits.shape == (0, 2)
    assert logits.dtype == np.float32
    assert subject.engine.pairs([], ["a"]) == []


@settings(max_examples=12)
@given(texts=st.lists(SENTENCES, min_size=1, max_size=6), hypotheses=st.lists(CLAIMS, min_size=1, max_size=3))
def test_neighbours_and_padding_move_nothing(subject: Subject, texts: list[str], hypotheses: list[str]) -> None:
    pairs = _row(subject.engine, texts, hypotheses)

    together = subject.engine.logits(pairs)

    alone = np.concatenate([subject.engine.logits([pair]) for pair in pairs])
    np.testing.assert_allclose(together, alone, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(subject.engine.logits(pairs[::-1])[::-1], together, rtol=0, atol=ROUNDING)


def test_equal_pairs_get_equal_logits(subject: Subject) -> None:
    pairs = _row(subject.engine, ["a card", "a phone that is cracked", "a card"], ["refund", "refund"])

    logits = subject.engine.logits(pairs)

    assert pairs[0] == pairs[1] == pairs[4] == pairs[5]
    np.testing.assert_allclose(logits[[1, 4, 5]], logits[[0, 0, 0]], rtol=0, atol=ROUNDING)


@settings(max_examples=50)
@given(text=SENTENCES | SENTENCES.map(lambda s: f"{s} " * 30), hypothesis=CLAIMS)
def test_n_tokens_is_the_length_that_reaches_the_model(subject: Subject, text: str, hypothesis: str) -> None:
    pair = subject.engine.pairs([text], [hypothesis])[0][0]

    assert pair.n_tokens == subject.length(text, hypothesis)


def test_a_text_beyond_the_limit_is_cut_and_says_so(subject: Subject) -> None:
    short, long, longer = (f"card{' phone' * n}" for n in (3, 300, 9_000))

    (short_pair,), (long_pair,), (longer_pair,) = subject.engine.pairs([short, long, longer], ["holiday"])

    assert [pair.truncated for pair in (short_pair, long_pair, longer_pair)] == [False, True, True]
    assert long_pair == longer_pair  # what lies past the cut does not matter
    assert long_pair.hypothesis == short_pair.hypothesis
    assert long_pair.premise[: len(short_pair.premise)] == short_pair.premise


def test_the_longest_hypothesis_is_taken_whole_and_one_token_more_is_refused(subject: Subject) -> None:
    longest = subject.longest_hypothesis

    pair = subject.engine.pairs(["card"], [" 7" * longest])[0][0]
    with pytest.raises(HypothesisTooLong) as caught:
        subject.engine.pairs(["card"], ["holiday", " 7" * (longest + 1)])

    assert len(pair.hypothesis) == longest
    assert len(pair.premise) >= 1
    assert np.isfinite(subject.engine.logits([pair])).all()
    assert caught.value.args == (1, longest + 1, longest)


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\u200b", "\x00"])
def test_a_text_without_words_is_scored_all_the_same(subject: Subject, text: str) -> None:
    pairs = _row(subject.engine, [text], ["holiday"])

    assert np.isfinite(subject.engine.logits(pairs)).all()
