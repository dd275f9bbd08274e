"""What every test of the runtime needs."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture(autouse=True)
def _log_reaches_caplog(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing Ray or Serve, as any other test may have, cuts their loggers off from the root."""
    for name in ("ray", "ray.serve"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
