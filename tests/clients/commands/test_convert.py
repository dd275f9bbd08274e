from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from clients.commands import convert as module
from clients.commands.convert import ConvertFailed, convert
from deployments.contract.args import ModelArgs
from deployments.contract.model import ServedModel
from deployments.engines.refusal import StartRefused
from tests.tiny import save_roberta


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The engines that something was made for; nothing is."""
    engines: list[str] = []

    def make(served: ServedModel, _: ModelArgs) -> Path:
        engines.append(served.engine)
        return Path("/cache/model.onnx")

    monkeypatch.setattr(module, "make", make)
    monkeypatch.setattr("deployments.engines.choice._lacking", lambda *_: None)
    return engines


def _said(model: ModelArgs) -> str:
    said = io.StringIO()
    convert(model, Console(file=said))
    return said.getvalue()


def test_what_the_engine_reads_is_made_and_its_place_told(tmp_path: Path, made: list[str]) -> None:
    folder = save_roberta(tmp_path)

    said = _said(ModelArgs(name=str(folder), engine="onnx"))

    assert made == ["onnx-fp32"]
    assert "onnx-fp32 is ready: /cache/model.onnx" in said


def test_for_an_engine_that_reads_the_weights_nothing_is_made_or_said(tmp_path: Path, made: list[str]) -> None:
    folder = save_roberta(tmp_path)

    assert _said(ModelArgs(name=str(folder))) == ""
    assert _said(ModelArgs(name="embedded")) == ""
    assert made == []


def test_a_refusal_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Path:
        raise StartRefused("set model.engine: torch")

    monkeypatch.setattr(module, "resolve", refuse)

    with pytest.raises(ConvertFailed, match=r"^set model\.engine: torch$"):
        _said(ModelArgs(name=str(tmp_path)))
