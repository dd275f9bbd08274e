"""Ray only where a test asks for it: under tests/serve, or by the mark `serve`."""

from __future__ import annotations

import gc
from functools import cache

import pytest
from hypothesis import HealthCheck, settings

gc.disable()  # until all is collected: what is imported lives to the end

# A loaded machine generates slowly and runs slowly; neither is a failure of the code under test.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("any-machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="check the limits for many more runs, and for longer")


def pytest_collection_finish() -> None:
    """The libraries' objects live to the end: freed of them, each of the garbage collector's rounds is short."""
    gc.freeze()
    gc.enable()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None and not _sees_gpu():
        pytest.skip("torch finds no GPU on this machine")


@cache
def _sees_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture
def long(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--long"))


@pytest.fixture(autouse=True)
def _no_ray(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("serve") is None:
        monkeypatch.setattr("ray.init", _refuse)


def _refuse(*_: object, **__: object) -> None:
    raise AssertionError("this test is not marked `serve`, yet it starts Ray")
