from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from deployments.runtime.garbage import EVERY, collect_rarely


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def test_garbage_is_looked_for_rarely_and_not_never() -> None:
    _, *others = gc.get_threshold()

    collect_rarely()

    assert gc.isenabled()
    assert gc.get_threshold() == (EVERY, *others)
