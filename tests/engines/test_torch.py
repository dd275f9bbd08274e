from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, RobertaForSequenceClassification

from deployments.core.cache import Scored
from deployments.engines.refusal import StartRefused
from deployments.engines.run import run
from deployments.engines.torch import Device, TorchEngine, _load, prepare
from tests.tiny import save_roberta

CPU = Device("cpu")
TEXTS = ["My phone screen is cracked.", "refund my card please"]
HYPOTHESES = ["This example is billing.", "holiday"]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("order", ["C-E-N", "C-N-E", "E-C-N", "E-N-C", "N-C-E", "N-E-C"])
def test_columns_are_contradiction_and_entailment_in_any_order(order: str, tmp_path: Path) -> None:
    names = {"C": "contradiction", "E": "entailment", "N": "neutral"}
    folder = save_roberta(tmp_path, {i: names[letter] for i, letter in enumerate(order.split("-"))})
    engine = TorchEngine(folder, "fp32", CPU)
    inputs = AutoTokenizer.from_pretrained(folder)(TEXTS[0], HYPOTHESES[0], return_tensors="pt")
    with torch.inference_mode():
        raw = AutoModelForSequenceClassification.from_pretrained(folder)(**inputs).logits[0].numpy()

    got = engine.logits(engine.pairs(TEXTS[:1], HYPOTHESES[:1])[0])[0]

    letters = order.split("-")
    np.testing.assert_allclose(got, [raw[letters.index("C")], raw[letters.index("E")]], rtol=0, atol=1e-5)


def test_bf16_is_near_fp32(roberta: Path) -> None:
    exact, rounded = TorchEngine(roberta, "fp32", CPU), TorchEngine(roberta, "bf16", CPU)
    pairs = [pair for row in exact.pairs(TEXTS, HYPOTHESES) for pair in row]

    got, expected = rounded.logits(pairs), exact.logits(pairs)

    assert got.dtype == np.float32
    assert not np.array_equal(got, expected)
    np.testing.assert_allclose(got, expected, rtol=0, atol=0.3)  # weights of this size round coarsely; spread is 2


def test_a_label2id_that_the_config_leaves_out_is_not_needed(tmp_path: Path) -> None:
    folder = save_roberta(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    del config["label2id"]
    (folder / "config.json").write_text(json.dumps(config))

    assert TorchEngine(folder, "fp32", CPU).pairs(["a"], ["b"])


def test_a_model_without_a_trained_head_is_refused(tmp_path: Path) -> None:
    folder = save_roberta(tmp_path)
    RobertaForSequenceClassification.from_pretrained(folder).roberta.save_pretrained(folder)

    with pytest.raises(StartRefused, match=r"lacks 4 weights, e\.g\. classifier\.dense\.bias"):
        TorchEngine(folder, "fp32", CPU)


@pytest.mark.parametrize(
    "read", [lambda folder: TorchEngine(folder, "fp32", CPU), lambda folder: _load(folder, torch.float32)]
)
def test_code_that_a_model_brings_is_neither_run_nor_asked_about(
    read: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_roberta(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModelForSequenceClassification": "own.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    asked: list[str] = []

    def agree(question: str = "") -> str:
        asked.append(question)
        return "y"

    monkeypatch.setattr("builtins.input", agree)

    with pytest.raises(ValueError, match="contains custom code"):
        read(folder)

    assert asked == []
    assert not (tmp_path / "ran").exists()


def test_the_engine_takes_the_threads_it_is_given() -> None:
    prepare(Device("cpu", threads=1))
    assert torch.get_num_threads() == 1

    prepare(Device("cpu", threads=2))
    assert torch.get_num_threads() == 2


def test_cuda_where_there_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    with pytest.raises(StartRefused, match="torch finds no CUDA on this machine"):
        prepare(Device("cuda", 0.25))


@pytest.mark.parametrize(("fraction", "limits"), [(0.25, [0.25]), (1.0, []), (2.0, [])])
def test_a_share_of_a_gpu_is_a_share_of_its_memory(
    fraction: float, limits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_to: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", set_to.append)

    assert prepare(Device("cuda", fraction)) == torch.device("cuda")
    assert set_to == limits


def test_attention_that_plans_for_each_new_shape_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    try:
        prepare(Device("cuda", 1.0))

        assert not torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
        assert torch.backends.cuda.mem_efficient_sdp_enabled()  # type: ignore[no-untyped-call]
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def test_what_a_run_that_ended_the_memory_held_is_gone_before_the_next_run(
    roberta: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TorchEngine(roberta, "fp32", Device("cpu"))
    held: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []
    forward = engine.model.forward

    def limited(**inputs: torch.Tensor) -> object:
        alive.append(sum(ref() is not None for ref in held))
        activation = torch.zeros(8)
        held.append(weakref.ref(activation))
        if len(inputs["input_ids"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(**inputs)

    monkeypatch.setattr(engine.model, "forward", limited)

    ran = run(engine, [row[0] for row in engine.pairs([f"text {i}" for i in range(16)], ["refund"])])

    assert ran.out_of_memory
    assert all(isinstance(result, Scored) for result in ran.results)
    assert set(alive) == {0}
