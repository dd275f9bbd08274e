"""`nli-serve tune` on a tiny model, whose engines run in this process; they do run apart elsewhere."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from clients.commands import measure as measuring
from clients.commands import tune as tuning
from clients.commands.apart import Died
from clients.commands.measure import SHAPES, STEPS, Job, Measured, Shape
from clients.commands.tune import TuneRefused, tune
from deployments.contract.args import ModelArgs
from deployments.contract.model import ServedModel
from deployments.engines.fake import FakeEngine
from deployments.engines.protocol import Engine, FloatArray, Pair
from deployments.engines.refusal import StartRefused
from tests.meeting import Meeting
from tests.tiny import save_roberta


class Contrary:
    """Answers the contrary of what its engine does."""

    def __init__(self, engine: Engine) -> None:
        self.pairs, self.streams = engine.pairs, engine.streams
        self._engine = engine

    def logits(self, pairs: Sequence[Pair]) -> FloatArray:
        return -self._engine.logits(pairs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_roberta(tmp_path_factory.mktemp("roberta"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines load at once, and answer alike, but ONNX Runtime's the contrary, and OpenVINO's in int8 not at all."""

    def quick(served: ServedModel, args: ModelArgs, gpu_fraction: float, *_: object) -> Engine:
        assert gpu_fraction == (1.0 if args.device == "cuda" else 0.0)
        if served.engine == "openvino-int8":
            raise StartRefused("no scales today")
        return Contrary(FakeEngine()) if served.engine == "onnx-fp32" else FakeEngine()

    monkeypatch.setattr(measuring, "load", quick)
    monkeypatch.setattr(tuning, "sees_gpu", lambda: False)
    monkeypatch.setattr("deployments.engines.choice._lacking", lambda *_: None)
    monkeypatch.setattr(measuring, "needs_graph", lambda _: False)


def test_an_engine_is_measured_on_all_its_streams() -> None:
    engine = Meeting()
    engine.expect()

    assert measuring._rate(engine, engine.pairs(["a card"], ["refund"])[0], seconds=0) > 0

    assert engine.met.is_set()


def _here(work: Callable[[Job], Iterator[Any]], job: Job) -> Iterator[Any]:
    return work(dataclasses.replace(job, seconds=0.0))


def _tune(folder: Path, run: Any = _here) -> str:
    said = io.StringIO()
    tune(ModelArgs(name=str(folder), threads=1), Console(file=said, width=80), run)
    return said.getvalue()


@pytest.mark.usefixtures("quick")
def test_an_engine_that_answers_otherwise_fails_the_gate_and_is_not_advised(folder: Path) -> None:
    lines = {line.split()[0]: line.split()[5:] for line in _tune(folder).splitlines() if "-" in line[:12]}

    assert lines["torch-fp32"][:3] == ["0.0000", "0.0000", "0"]
    assert lines["torch-fp32"][-1] == "yes"
    assert float(lines["onnx-fp32"][0]) > 0.1
    assert lines["onnx-fp32"][-1] == "no"


@pytest.mark.usefixtures("quick")
def test_what_to_configure_is_the_fastest_that_is_accurate(folder: Path) -> None:
    rates = {"torch-fp32": 10.0, "torch-bf16": 20.0, "onnx-fp32": 40.0, "openvino-fp32": 30.0, "openvino-bf16": 25.0}

    def run(work: Callable[[Job], Iterator[Any]], job: Job) -> Iterator[Any]:
        for step in _here(work, job):
            rated = isinstance(step, Measured)
            yield dataclasses.replace(step, rates=(rates[job.served.engine],) * 4) if rated else step

    said = _tune(folder, run)

    assert "is openvino-fp32, 3.0 times torch-fp32" in said
    assert "  device: cpu\n  engine: openvino\n  precision: fp32\n" in said
    assert "Not measured: openvino-int8: no scales today" in said


@pytest.mark.usefixtures("quick")
def test_on_a_machine_with_a_gpu_torch_is_measured_there_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "sees_gpu", lambda: True)
    monkeypatch.setattr(measuring, "_reserved", lambda: 2**30)

    def run(work: Callable[[Job], Iterator[Any]], job: Job) -> Iterator[Any]:
        for step in _here(work, job):
            rate = 100.0 if job.name == "torch-fp16, GPU" else 10.0
            yield dataclasses.replace(step, rates=(rate,) * 4) if isinstance(step, Measured) else step

    said = _tune(folder, run)

    assert "is torch-fp16, GPU, 10.0 times torch-fp32" in said
    assert "  device: cuda\n  engine: torch\n  precision: fp16\n" in said
    assert "  ray_actor_options.num_gpus: 0.25\n  user_config.max_batch_tokens: 16384\n" in said
    assert all(line.split()[-2] == "1024" for line in said.splitlines() if ", GPU" in line[:16])
    measured = [line.split(" ", 1)[0] for line in said.splitlines() if ", GPU" in line[:16]]
    assert measured == ["torch-fp32,", "torch-bf16,", "torch-fp16,"]


@pytest.mark.usefixtures("quick")
def test_without_the_reference_nothing_is_said(folder: Path) -> None:
    def run(work: Callable[[Job], Iterator[Any]], job: Job) -> Iterator[Any]:
        raise Died("out of memory")

    with pytest.raises(TuneRefused, match=r"^torch-fp32: out of memory$"):
        _tune(folder, run)


@pytest.mark.parametrize(
    ("name", "message"), [("embedded", "has one engine"), ("/no/such/folder", "there is no such folder")]
)
def test_without_a_model_there_is_nothing_to_measure(name: str, message: str) -> None:
    with pytest.raises(TuneRefused, match=message):
        tune(ModelArgs(name=name), Console(file=io.StringIO()), _here)


@pytest.mark.usefixtures("quick")
def test_each_step_is_told_before_the_result(folder: Path) -> None:
    args = ModelArgs(name=str(folder), threads=1)
    served = ServedModel(name=str(folder), revision=None, engine="torch-fp32", fallback=False, template="{}")

    *steps, result = measuring.measure(Job(served, args, folder, seconds=0.0))

    assert len(steps) == STEPS
    assert isinstance(result, Measured)
    assert len(result.rates) == len(SHAPES)
    assert min(result.rates) > 0


def test_a_shape_is_as_long_as_it_says_or_as_the_model_takes() -> None:
    engine = FakeEngine(max_tokens=64)

    assert [pair.n_tokens for pair in measuring._pairs(engine, Shape(2, 32))] == [32, 32]
    assert [pair.n_tokens for pair in measuring._pairs(engine, Shape(1, 128))] == [64]
    assert np.isfinite(engine.logits(measuring._pairs(engine, Shape(1, 32)))).all()
