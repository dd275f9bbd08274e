"""What is asked of a GPU beside what all engines are asked (test_conformance.py): graphs, memory, their failures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from deployments.core.cache import Scored
from deployments.engines import cuda
from deployments.engines.cuda import GAIN, MAX_TOKENS, Forward, next_shape, shapes
from deployments.engines.protocol import OutOfMemory, Pair
from deployments.engines.run import run
from deployments.engines.torch import Device, TorchEngine
from tests.tiny import bert_tokenizer, deberta_tokenizer, save_tiny, xlmr_tokenizer

LENGTHS = [8, 64, 100, 512, 8_194]
LAUNCH_S = 0.01  # of the stand-in's kernels, one by one
gpu = pytest.mark.gpu


@pytest.mark.parametrize("max_tokens", LENGTHS)
def test_every_shape_is_small_and_there_once(max_tokens: int) -> None:
    found = shapes(max_tokens)

    assert len(found) == len(set(found))
    assert all(n_pairs * n_tokens <= MAX_TOKENS for n_pairs, n_tokens in found)


@given(n_pairs=st.integers(1, 2_000), longest=st.integers(1, 8_194), max_tokens=st.sampled_from(LENGTHS))
def test_the_next_shape_holds_the_batch_and_is_less_than_twice_as_large_each_way(
    n_pairs: int, longest: int, max_tokens: int
) -> None:
    longest = min(longest, max_tokens)

    pairs, tokens = next_shape(n_pairs, longest, max_tokens)

    assert n_pairs <= pairs < max(2 * n_pairs, 9)
    assert longest <= tokens < max(2 * longest, 17)
    assert tokens <= max_tokens
    assert ((pairs, tokens) in shapes(max_tokens)) == (pairs * tokens <= MAX_TOKENS)


def test_the_width_of_what_is_not_replayed_is_aligned_and_no_more_than_the_model_takes() -> None:
    forward = _unreplayed(62)

    assert forward.shape(1_000, 9) == (1_000, 16)
    assert forward.shape(1_000, 58) == (1_000, 62)


def _unreplayed(max_tokens: int) -> Forward:
    """Without a GPU, so without graphs."""
    forward = Forward.__new__(Forward)
    forward._graphs, forward._max_tokens = {}, max_tokens
    return forward


class Recorded:
    """What stands in for a CUDA graph on a CPU: the call that was made in it, made again."""

    model: Any
    """That of the test; it remembers its last call."""

    inputs: dict[str, torch.Tensor]
    logits: torch.Tensor

    def __init__(self) -> None:
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        self.model.now += self.model.replay_s(self.inputs["input_ids"].numel())
        self.logits.copy_(self.model.compute(self.inputs))


class Recording:
    """As `torch.cuda.graph`."""

    def __init__(self, graph: Recorded, pool: object, stream: object) -> None:
        self._graph = graph

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self._graph.inputs, self._graph.logits = Recorded.model.inputs, Recorded.model.logits


class Sums:
    """A model whose logits say what it read: the sums of ids and of the mask."""

    device = torch.device("cpu")

    def __init__(self, memory: int = 1 << 30, slow_tokens: int = 0, slow_s: float = 0.0) -> None:
        self.memory, self.slow_tokens, self.slow_s = memory, slow_tokens, slow_s
        self.n_calls = 0
        self.now = 0.0  # of a clock that only this model moves

    def replay_s(self, tokens: int) -> float:
        return self.slow_s if tokens == self.slow_tokens else 0.0

    def compute(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.stack([inputs["input_ids"].sum(1), inputs["attention_mask"].sum(1)], 1).float()

    def __call__(self, **inputs: torch.Tensor) -> Any:
        if inputs["input_ids"].numel() > self.memory:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.n_calls += 1
        self.now += LAUNCH_S
        self.inputs, self.logits = inputs, self.compute(inputs)
        return SimpleNamespace(logits=self.logits)


@pytest.fixture
def no_gpu_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What there is of torch.cuda in cuda.py, on a CPU."""
    stream = SimpleNamespace(wait_stream=lambda _: None)
    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    for name in ("synchronize", "graph_pool_handle", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorded)
    monkeypatch.setattr(torch.cuda, "graph", Recording)
    monkeypatch.setattr(cuda, "time", SimpleNamespace(perf_counter=lambda: Recorded.model.now))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)


def _sums(model: Sums) -> Forward:
    Recorded.model = model
    return Forward(model, ["input_ids", "attention_mask"], 64)


def _rows(n: int, width: int) -> dict[str, Any]:
    ids = np.arange(n * width, dtype=np.int64).reshape(n, width)
    return {"input_ids": ids, "attention_mask": (ids % 3 > 0).astype(np.int64)}


@pytest.mark.usefixtures("no_gpu_needed")
def test_each_batch_is_read_whole_replayed_or_not() -> None:
    model = Sums()
    forward = _sums(model)
    made = model.n_calls

    for n, width in [(8, 16), (128, 64), (8, 32), (8, 16), (2_000, 16), (256, 32)]:
        rows = _rows(n, width)
        assert forward.shape(n, width) == (n, width)
        got = forward(rows)
        assert got.tolist() == [
            [a.sum(), b.sum()] for a, b in zip(rows["input_ids"], rows["attention_mask"], strict=True)
        ]

    assert model.n_calls == made + 1  # the one of 2,000 rows
    assert set(forward._graphs) == set(shapes(64))


@pytest.mark.usefixtures("no_gpu_needed")
def test_a_graph_that_gains_too_little_on_the_launches_it_saves_is_the_end() -> None:
    forward = _sums(Sums(slow_tokens=1_024, slow_s=1.01 * LAUNCH_S / GAIN))

    assert set(forward._graphs) == {shape for shape in shapes(64) if shape[0] * shape[1] < 1_024}
    assert forward.shape(30, 30) == (30, 32)  # and not the graph of 32 x 32


@pytest.mark.usefixtures("no_gpu_needed")
def test_graphs_are_kept_that_gain_enough_and_the_log_counts_them(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ray.serve")

    forward = _sums(Sums(slow_tokens=1_024, slow_s=0.99 * LAUNCH_S / GAIN))

    assert set(forward._graphs) == set(shapes(64))
    assert f"{len(shapes(64))} CUDA graphs, the largest of {MAX_TOKENS} tokens" in caplog.text


@pytest.mark.usefixtures("no_gpu_needed")
def test_graphs_that_do_not_all_fit_into_memory_leave_it_to_the_batches(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ray.serve")

    forward = _sums(Sums(memory=2_048))

    assert forward._graphs == {}
    assert "no CUDA graphs" in caplog.text
    assert "out of memory" in caplog.text


class Wrapped(Sums):
    """A real model, on the CPU."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = model

    def compute(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        logits: torch.Tensor = self._model(**inputs).logits
        return logits


@pytest.mark.usefixtures("no_gpu_needed")
@pytest.mark.parametrize("model", ["roberta", "bert"])
def test_what_a_batch_is_padded_with_is_in_no_answer(model: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(model)
    engine, reference = _engine(folder, kind="cpu"), _engine(folder, kind="cpu")
    Recorded.model = Wrapped(engine.model)
    engine._cuda = Forward(Recorded.model, engine._inputs.names, 64)
    pairs = _pairs(reference, 300, words=30)

    for batch in (pairs[:5], pairs[20:21], pairs[30:100], pairs):
        np.testing.assert_allclose(engine.logits(batch), reference.logits(batch), rtol=0, atol=1e-5)


def _engine(folder: Path, precision: Any = "fp32", kind: Any = "cuda") -> TorchEngine:
    return TorchEngine(folder, precision, Device(kind, 1.0))


def _pairs(engine: TorchEngine, n: int, words: int = 3) -> list[Pair]:
    texts = [f"card {i} " + "phone " * (i % words) for i in range(n)]
    return [row[0] for row in engine.pairs(texts, ["refund"])]


def _forward(engine: TorchEngine) -> Forward:
    assert engine._cuda is not None
    return engine._cuda


@gpu
@pytest.mark.parametrize("n", [1, 7, 8, 9, 300, 1_000])
def test_a_batch_gets_the_cpu_s_logits_whether_replayed_or_computed(roberta: Path, n: int) -> None:
    on_gpu, on_cpu = _engine(roberta), _engine(roberta, kind="cpu")
    pairs = _pairs(on_cpu, n, words=50)

    np.testing.assert_allclose(on_gpu.logits(pairs), on_cpu.logits(pairs), rtol=0, atol=2e-5)


@gpu
def test_small_batches_are_replayed_and_large_ones_are_not(roberta: Path) -> None:
    forward = _forward(_engine(roberta))

    assert forward.shape(5, 20) == (8, 32)
    assert forward.shape(129, 61) == (129, 64)  # 256 x 64 would be more than is replayed
    assert forward.shape(2_000, 9) == (2_000, 16)
    assert (8, 16) in forward._graphs


@gpu
def test_a_replay_launches_no_kernel_of_its_own(roberta: Path) -> None:
    engine = _engine(roberta)
    calls: list[object] = []
    engine.model.register_forward_hook(lambda *_: calls.append(None))

    engine.logits(_pairs(engine, 5))
    assert calls == []

    engine.logits(_pairs(engine, 1_000))
    assert len(calls) == 1


@gpu
def test_what_one_batch_left_in_a_graph_is_not_in_the_next(roberta: Path) -> None:
    engine, reference = _engine(roberta), _engine(roberta, kind="cpu")
    pairs = _pairs(reference, 64, words=50)
    batches = [pairs[:n] for n in (64, 1, 33, 5, 64, 8, 2)] + [pairs[n:] for n in (60, 30, 63)]

    for batch in batches:
        np.testing.assert_allclose(engine.logits(batch), reference.logits(batch), rtol=0, atol=2e-5)


def _deberta(folder: Path) -> Path:
    tokenizer = deberta_tokenizer()
    config = {"relative_attention": True, "position_buckets": 16, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 2}
    config |= {"max_position_embeddings": 64, "norm_rel_ebd": "layer_norm", "share_att_key": True}
    return save_tiny(folder, DebertaV2ForSequenceClassification, DebertaV2Config, tokenizer, **config)


def _xlmr(folder: Path) -> Path:
    more = {"max_position_embeddings": 66, "type_vocab_size": 1}
    return save_tiny(folder, XLMRobertaForSequenceClassification, XLMRobertaConfig, xlmr_tokenizer(), **more)


def _albert(folder: Path) -> Path:
    more = {"max_position_embeddings": 64, "embedding_size": 16}
    return save_tiny(folder, AlbertForSequenceClassification, AlbertConfig, bert_tokenizer(), **more)


def _electra(folder: Path) -> Path:
    more = {"max_position_embeddings": 64, "embedding_size": 16}
    return save_tiny(folder, ElectraForSequenceClassification, ElectraConfig, bert_tokenizer(), **more)


@gpu
@pytest.mark.parametrize("save", [_xlmr, _albert, _electra])
def test_other_families_are_replayed_too(save: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = save(tmp_path)
    engine, reference = _engine(folder), _engine(folder, kind="cpu")
    pairs = _pairs(reference, 40, words=50)

    assert (8, 64) in _forward(engine)._graphs
    for batch in (pairs, pairs[:3], pairs[:1]):
        np.testing.assert_allclose(engine.logits(batch), reference.logits(batch), rtol=0, atol=1e-4)


@gpu
def test_deberta_s_own_code_copies_from_the_cpu_and_is_computed(tmp_path: Path) -> None:
    folder = _deberta(tmp_path)
    engine, reference = _engine(folder), _engine(folder, kind="cpu")
    pairs = _pairs(reference, 40, words=50)

    assert _forward(engine)._graphs == {}
    for batch in (pairs, pairs[:3], pairs[:1]):
        np.testing.assert_allclose(engine.logits(batch), reference.logits(batch), rtol=0, atol=1e-4)


@gpu
def test_a_model_that_no_graph_can_hold_is_computed_and_the_log_says_so(
    roberta: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ray.serve")
    capture = Forward._capture

    def look_at_values(forward: Forward, names: Sequence[str]) -> None:
        forward._model.register_forward_pre_hook(lambda *_, **inputs: _look(inputs), with_kwargs=True)
        capture(forward, names)

    def _look(inputs: Any) -> None:
        torch.zeros(1, device="cuda").item()

    monkeypatch.setattr(Forward, "_capture", look_at_values)
    engine, reference = _engine(roberta), _engine(roberta, kind="cpu")
    pairs = _pairs(reference, 20, words=50)

    assert _forward(engine)._graphs == {}
    assert "no CUDA graphs" in caplog.text
    for _ in range(3):
        np.testing.assert_allclose(engine.logits(pairs), reference.logits(pairs), rtol=0, atol=2e-5)


@gpu
def test_fp16_is_nearer_to_fp32_than_bf16(roberta: Path) -> None:
    exact = _engine(roberta, kind="cpu")
    pairs = _pairs(exact, 200, words=50)
    expected = exact.logits(pairs)

    fp16, bf16 = (np.abs(_engine(roberta, name).logits(pairs) - expected).max() for name in ("fp16", "bf16"))

    assert 0 < fp16 < bf16 / 3


@pytest.fixture
def little_memory() -> Iterator[float]:
    """A share that holds a tiny model, its graphs, and batches of some size."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    yield (torch.cuda.memory_reserved() + 512 * 2**20) / total
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@gpu
def test_a_batch_beyond_the_share_of_memory_is_told_and_run_in_parts(roberta: Path, little_memory: float) -> None:
    engine = TorchEngine(roberta, "fp32", Device("cuda", little_memory))
    pairs = _pairs(engine, 150_000, words=50)

    with pytest.raises(OutOfMemory):
        engine.logits(pairs)
    ran = run(engine, pairs)

    assert ran.out_of_memory
    assert all(isinstance(result, Scored) for result in ran.results)
    assert torch.cuda.memory_reserved() <= little_memory * torch.cuda.get_device_properties(0).total_memory


@gpu
def test_without_memory_for_graphs_batches_are_computed(roberta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", full)
    engine, reference = _engine(roberta), _engine(roberta, kind="cpu")
    pairs = _pairs(reference, 20)

    assert _forward(engine)._graphs == {}
    np.testing.assert_allclose(engine.logits(pairs), reference.logits(pairs), rtol=0, atol=2e-5)
