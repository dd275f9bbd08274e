"""What the protocol promises, held against every engine, so that the fake one can be trusted in other tests."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from deployments.contract.errors import HypothesisTooLong
from deployments.contract.model import EngineName
from deployments.engines.embedding import EmbeddingEngine
from deployments.engines.fake import FakeEngine
from deployments.engines.onnx import OnnxEngine
from deployments.engines.openvino import OpenVinoEngine
from deployments.engines.protocol import Engine, Pair
from deployments.engines.resolve import embedded_folder
from deployments.engines.torch import Device, TorchEngine

from .conftest import LoadEngine

ROUNDING = {"fp32": 1e-5, "bf16": 0.1, "fp16": 0.02, "int8": 0.05}  # of a logit; they spread by 0.6 or more
CROSS_ENGINES = ["torch-fp32", "torch-bf16", "onnx-fp32", "openvino-fp32", "openvino-bf16", "openvino-int8"]
WORDS = ["card", "refund", "screen", "phone", "cracked", "holiday", "is", "42", "Größe", "数学", "🙂"]
SENTENCES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=20).map(" ".join)
CLAIMS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(" ".join)  # within every limit
OUTLIERS = ["a", "card " * 300, "🙂" * 200, "7" * 60, "\x00", "Größe数学" * 12, "?!" * 100]  # unlike any other text


@dataclass(frozen=True)
class Subject:
    """An engine under test, and what is known of it from elsewhere."""

    engine: Engine
    length: Callable[[str, str], int]
    """Tokens that reach the model for a text and a hypothesis."""

    longest_hypothesis: int
    """In tokens; " 7" is one to every engine."""

    rounding: float
    """How far a pair's logits may be from themselves, in other company."""


def _crossed(engine: Engine, folder: Path, longest_hypothesis: int, precision: str) -> Subject:
    reference = AutoTokenizer.from_pretrained(folder)

    def length(text: str, hypothesis: str) -> int:
        return len(reference(text, hypothesis, truncation="only_first", max_length=64)["input_ids"])

    return Subject(engine, length, longest_hypothesis, ROUNDING[precision])


def _embedded(engine: EmbeddingEngine) -> Subject:
    reference = AutoTokenizer.from_pretrained(embedded_folder())

    def length(text: str, hypothesis: str) -> int:
        return sum(len(reference(s, truncation=True, max_length=256)["input_ids"]) for s in (text, hypothesis))

    return Subject(engine, length, 254, ROUNDING["fp32"])


def _fake() -> Subject:
    def length(text: str, hypothesis: str) -> int:
        return min(64, 3 + sum(len(re.findall(r"\w+", s)) for s in (text, hypothesis)))

    return Subject(FakeEngine(streams=2), length, 60, ROUNDING["fp32"])


SUBJECTS: list[Any] = ["fake", "embedding", *(f"roberta-{engine}" for engine in CROSS_ENGINES)]
SUBJECTS += [f"bert-{engine}" for engine in CROSS_ENGINES if not engine.endswith("bf16")]  # of another kind of inputs
GPU_ENGINES = ["torch-fp32", "torch-bf16", "torch-fp16"]
SUBJECTS += [
    pytest.param(f"{model}-{engine}-gpu", marks=pytest.mark.gpu)
    for model in ("roberta", "bert")
    for engine in GPU_ENGINES
]


@pytest.fixture(scope="module", params=SUBJECTS)
def subject(request: pytest.FixtureRequest, load_engine: LoadEngine) -> Subject:
    model, _, name = request.param.partition("-")
    if model == "fake":
        return _fake()
    if model == "embedding":
        return _embedded(request.getfixturevalue("embedding"))
    folder: Path = request.getfixturevalue(model)
    engine = load_engine(folder, name.removesuffix("-gpu"), gpu_fraction=0.5 if name.endswith("-gpu") else 0)
    return _crossed(engine, folder, {"roberta": 59, "bert": 60}[model], name.split("-")[1])


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
    np.testing.assert_allclose(together, alone, rtol=0, atol=subject.rounding)
    np.testing.assert_allclose(subject.engine.logits(pairs[::-1])[::-1], together, rtol=0, atol=subject.rounding)


def test_nor_does_what_runs_on_another_stream(subject: Subject) -> None:
    engine = subject.engine
    batches = [_row(engine, [f"card {'phone ' * n}" for n in range(i % 4, 12, 3)], ["refund"]) for i in range(8)]
    alone = [engine.logits(batch) for batch in batches]

    with ThreadPoolExecutor(engine.streams) as pool:
        together = list(pool.map(engine.logits, batches))

    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=subject.rounding)


@pytest.mark.parametrize("outlier", OUTLIERS)
def test_nor_does_an_outlier(subject: Subject, outlier: str) -> None:
    assert _moved_by(outlier, subject.engine) <= subject.rounding


def _moved_by(outlier: str, engine: Engine) -> float:
    """The largest change of a logit when the outlier joins a batch of others."""
    pairs = _row(engine, ["a card", "the phone is cracked", " ".join(WORDS * 2)], ["refund", "holiday"])
    neighbour = _row(engine, [outlier], ["holiday"])

    alone = np.concatenate([engine.logits([pair]) for pair in pairs])
    return float(np.abs(engine.logits([*neighbour, *pairs])[1:] - alone).max())


@pytest.mark.parametrize("model", ["roberta", "bert"])
def test_a_scale_over_the_batch_would_be_found(model: str, request: pytest.FixtureRequest) -> None:
    engine = TorchEngine(request.getfixturevalue(model), "fp32", Device("cpu"))
    for layer in engine.model.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_pre_hook(_quantise_by_the_largest_of_the_batch)

    moved = [_moved_by(outlier, engine) for outlier in OUTLIERS]

    assert min(moved) > ROUNDING["int8"]
    assert max(moved) > 2 * ROUNDING["bf16"]


def _quantise_by_the_largest_of_the_batch(_: Any, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    scale = inputs[0].abs().max() / 127
    return (torch.round(inputs[0] / scale) * scale,)


def test_equal_pairs_get_equal_logits(subject: Subject) -> None:
    pairs = _row(subject.engine, ["a card", "a phone that is cracked", "a card"], ["refund", "refund"])

    logits = subject.engine.logits(pairs)

    assert pairs[0] == pairs[1] == pairs[4] == pairs[5]
    np.testing.assert_allclose(logits[[1, 4, 5]], logits[[0, 0, 0]], rtol=0, atol=subject.rounding)


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


@pytest.mark.parametrize("name", ["onnx-fp32", "openvino-fp32"])  # torch's are in test_resolve.py
@pytest.mark.parametrize(("threads", "streams"), [(1, 1), (2, 2)])
def test_computes_with_as_many_threads_as_it_was_told(
    name: EngineName, roberta: Path, load_engine: LoadEngine, threads: int, streams: int
) -> None:
    engine = load_engine(roberta, name, threads)

    assert engine.streams == streams
    assert _threads(engine) == threads  # left to themselves both take every core


def _threads(engine: Engine) -> int:
    """Of all streams."""
    if isinstance(engine, OpenVinoEngine):
        model = engine._idle.get().get_compiled_model()
        assert model.get_property("NUM_STREAMS") == engine.streams
        return int(model.get_property("INFERENCE_NUM_THREADS"))
    assert isinstance(engine, OnnxEngine)
    pool = engine._session.get_session_options().intra_op_num_threads - 1  # for all calls; each brings a thread
    return int(pool) + engine.streams
