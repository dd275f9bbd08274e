"""Converted engines answer as torch does, or are refused; nobody is told that they were made."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from deployments.contract.model import EngineName
from deployments.engines.convert.graph import default_cache, graph, needs_graph
from deployments.engines.convert.traced import compare, tracing
from deployments.engines.fake import FakeEngine
from deployments.engines.protocol import FloatArray, Pair
from deployments.engines.refusal import StartRefused
from tests.engines.conftest import LoadEngine, skip_unable

TEXTS = ["My phone screen is cracked.", "refund my card please", "holiday " * 40]
HYPOTHESES = ["This example is billing.", "holiday"]


@pytest.mark.parametrize("model", ["roberta", "bert"])
@pytest.mark.parametrize(
    ("name", "near", "apart"),
    [
        ("onnx-fp32", 1e-5, 0.0),
        ("openvino-fp32", 1e-5, 0.0),
        ("openvino-bf16", 0.1, 1e-3),
        ("openvino-int8", 0.4, 1e-3),  # a tiny random model rounds coarsely; its logits spread over 2
    ],
)
def test_logits_are_torchs_within_the_precision(
    model: str, name: EngineName, near: float, apart: float, request: pytest.FixtureRequest, load_engine: LoadEngine
) -> None:
    folder: Path = request.getfixturevalue(model)
    reference, engine = load_engine(folder, "torch-fp32"), load_engine(folder, name)
    pairs = [pair for row in reference.pairs(TEXTS, HYPOTHESES) for pair in row]

    moved = np.abs(engine.logits(pairs) - reference.logits(pairs))

    assert engine.pairs(TEXTS, HYPOTHESES) == reference.pairs(TEXTS, HYPOTHESES)
    assert np.median(moved) <= near
    assert moved.max() >= apart  # in bf16 and int8 it was really that which computed
    if name.endswith("fp32"):
        assert moved.max() <= near


def test_a_broken_graph_is_made_anew(roberta: Path, conversions: Path, load_engine: LoadEngine, tmp_path: Path) -> None:
    skip_unable("onnx-fp32")
    file = graph("onnx-fp32", roberta, 1, tmp_path)
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"?")

    assert graph("onnx-fp32", roberta, 1, tmp_path) == file

    assert file.read_bytes() != content[:-1] + b"?"


class Wrong(FakeEngine):
    """Right for one pair at a time only."""

    def logits(self, pairs: Sequence[Pair]) -> FloatArray:
        return super().logits(pairs) + (0.01 if len(pairs) > 1 else 0.0)


class NoNumber(FakeEngine):
    def logits(self, pairs: Sequence[Pair]) -> FloatArray:
        return super().logits(pairs) * np.float32("nan")


def test_a_graph_that_answers_otherwise_is_refused() -> None:
    compare("onnx", FakeEngine(), FakeEngine())

    with pytest.raises(StartRefused, match=r"differ from torch's by 0\.01, more than 0\.0001; set model\.engine"):
        compare("onnx", FakeEngine(), Wrong())
    with pytest.raises(StartRefused, match="differ from torch's by nan"):
        compare("onnx", FakeEngine(), NoNumber())


def test_what_tracing_raises_is_one_line_that_says_what_to_set() -> None:
    with (
        pytest.raises(StartRefused, match=r"exported for onnx, RuntimeError: first; set model\.engine: torch$"),
        tracing("onnx"),
    ):
        raise RuntimeError("first\nsecond")


def test_nothing_is_reported_to_the_makers_of_a_library(roberta: Path, load_engine: LoadEngine) -> None:
    load_engine(roberta, "openvino-int8")

    assert sys.modules["openvino_telemetry"] is None
    for user in ("openvino.tools.ovc.convert_impl", "openvino.tools.ovc.telemetry_utils"):
        if user in sys.modules:  # not where another process converted
            assert sys.modules[user].tm.__name__ == "openvino.tools.ovc.telemetry_stub"


@pytest.mark.parametrize(
    ("name", "needs"),
    [("torch-fp32", False), ("torch-bf16", False), ("embedding-fp32", False), ("onnx-fp32", True)],
)
def test_only_other_libraries_need_a_graph(name: EngineName, needs: bool) -> None:
    assert needs_graph(name) is needs


def test_graphs_lie_beside_what_the_hub_keeps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))

    assert default_cache() == tmp_path / "nli-serve"
