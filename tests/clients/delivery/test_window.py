from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from clients.delivery.callbacks import CallbackPool
from clients.delivery.future import Future
from clients.delivery.window import Window
from clients.errors import ClientClosed, WindowFull
from clients.results import Meta
from tests.clients.delivery.fake import until


@pytest.fixture
def pool() -> Iterator[CallbackPool]:
    pool = CallbackPool()
    yield pool
    pool.close(wait=True)


def _future(pool: CallbackPool, window: Window | None = None) -> Future[Any]:
    return Future(pool, window.leave if window else lambda _: None)


def _full(pool: CallbackPool, most: int) -> tuple[Window, list[Future[Any]]]:
    window = Window(most)
    inside = [_future(pool, window) for _ in range(most)]
    for future in inside:
        window.enter(future, block=False)
    return window, inside


def _entering(window: Window, future: Future[Any]) -> tuple[threading.Thread, list[object]]:
    """A thread that waits for room, and what has become of it."""
    found: list[object] = []

    def enter() -> None:
        try:
            window.enter(future, block=True)
            found.append("inside")
        except ClientClosed as error:
            found.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    until(lambda: found or window._changed._waiters)  # type: ignore[attr-defined]
    return thread, found


def test_who_does_not_want_to_wait_is_told_how_many_are_outstanding(pool: CallbackPool) -> None:
    window, _ = _full(pool, 2)

    with pytest.raises(WindowFull, match=r"2 requests are outstanding, at most 2 may be; .* larger max_in_flight"):
        window.enter(_future(pool), block=False)


async def test_nor_does_anybody_wait_in_an_event_loop(pool: CallbackPool) -> None:
    window, inside = _full(pool, 1)
    with pytest.raises(WindowFull):
        window.enter(_future(pool), block=True)
    inside[0].cancel()

    window.enter(_future(pool), block=True)


def test_who_waits_goes_on_when_one_ends_one_at_a_time(pool: CallbackPool) -> None:
    window, inside = _full(pool, 2)
    (first, entered), (second, also) = [_entering(window, _future(pool)) for _ in range(2)]
    before = len(entered + also)

    inside[0].settle("it", Meta())
    until(lambda: entered + also)
    assert (before, entered + also, len(window._inside)) == (0, ["inside"], 2)
    inside[1].cancel()
    first.join(20)
    second.join(20)

    assert entered + also == ["inside"] * 2


def test_who_has_seen_a_future_end_finds_room(pool: CallbackPool) -> None:
    """Even before whoever ended it has taken it out."""
    window = Window(1)
    ended = _future(pool)
    window.enter(ended, block=False)
    ended.settle("it", Meta())

    window.enter(_future(pool), block=False)
    with pytest.raises(WindowFull):
        window.enter(_future(pool), block=False)


def test_closed_it_lets_nobody_in_and_whoever_waited_is_told(pool: CallbackPool) -> None:
    window, inside = _full(pool, 1)
    waiting, found = _entering(window, _future(pool))

    outstanding = window.close()
    waiting.join(20)

    assert outstanding == inside
    assert [type(one) for one in found] == [ClientClosed]
    with pytest.raises(ClientClosed, match="make a new one"):
        window.enter(_future(pool), block=True)
    with pytest.raises(ClientClosed):
        window.check()


def test_leaving_twice_or_without_having_entered_changes_nothing(pool: CallbackPool) -> None:
    window, inside = _full(pool, 2)
    window.leave(inside[0])
    window.leave(inside[0])
    window.leave(_future(pool))
    window.enter(_future(pool), block=False)

    with pytest.raises(WindowFull):
        window.enter(_future(pool), block=False)


@pytest.mark.parametrize("most", [0, -1])
def test_a_window_that_lets_nobody_in_is_refused(most: int) -> None:
    with pytest.raises(ValueError, match=f"max_in_flight is {most}"):
        Window(most)
