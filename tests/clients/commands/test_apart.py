"""Work in another process; that imports this file, which therefore imports little."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from clients.commands.apart import Died, apart


def _count(last: int) -> Iterator[int]:
    yield from range(last)


def _fail(_: int) -> Iterator[int]:
    yield 1
    raise ValueError("no such thing")


def _die(_: int) -> Iterator[int]:
    yield 1
    os.kill(os.getpid(), signal.SIGKILL)


def test_work_apart_is_heard_of_as_it_goes_on_and_its_end_is_told_whatever_it_is() -> None:
    assert list(apart(_count, 3)) == [0, 1, 2]
    for work, message in ((_fail, "no such thing"), (_die, "the process ended")):
        heard = apart(work, 0)
        assert next(heard) == 1
        with pytest.raises(Died, match=message):
            next(heard)
