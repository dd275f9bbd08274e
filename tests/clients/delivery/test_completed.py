from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from clients.delivery.client import Client
from clients.delivery.future import Future
from clients.errors import InEventLoop
from tests.clients.delivery.fake import LABELS, FakeService, client_of


@pytest.fixture
def service() -> FakeService:
    service = FakeService()
    service.held.close()
    return service


@pytest.fixture
def client(service: FakeService) -> Iterator[Client]:
    with client_of(service) as client:
        yield client
        service.held.open()


def _submit(client: Client, *texts: str) -> list[Future[Any]]:
    return [client.submit(text, LABELS) for text in texts]


def test_each_comes_once_in_the_order_in_which_they_end(service: FakeService, client: Client) -> None:
    a, b, c, d = _submit(client, *"abcd")
    completed = client.as_completed([a, b, c, d, a])
    found = []
    service.held.open("c")
    found.append(next(completed))
    b.cancel()
    found.append(next(completed))
    service.held.open("a")
    found.append(next(completed))
    service.held.open()

    assert [*found, *completed] == [c, b, a, d]


def test_those_that_have_ended_come_at_once_and_of_none_there_is_nothing(service: FakeService, client: Client) -> None:
    service.held.open()
    futures = _submit(client, *"ab")
    for future in futures:
        future.result()

    assert list(client.as_completed(futures, timeout=0)) == futures
    assert list(client.as_completed([])) == []


def test_more_may_be_added_while_iterating(service: FakeService, client: Client) -> None:
    service.held.open()
    completed = client.as_completed(_submit(client, "a"))
    seen = []
    for future in completed:
        seen.append(future.result().label)
        if len(seen) < 4:
            (more,) = _submit(client, seen[-1] + "a")
            completed.add(more)
            completed.add(more)

    assert seen == ["a", "aa", "aaa", "aaaa"]


def test_a_callback_may_add_more(service: FakeService, client: Client) -> None:
    (last,) = _submit(client, "last")  # as long as it is awaited, the loop goes on
    completed = client.as_completed([last])
    service.held.open("a", "aa", "aaa")

    def follow(text: str) -> None:
        (future,) = _submit(client, text)
        completed.add(future)
        future.add_done_callback(lambda future: go_on(future.result().label))

    def go_on(text: str) -> None:
        if text == "aaa":
            service.held.open()
        else:
            follow(text + "a")

    follow("a")

    assert [future.result().label for future in completed] == ["a", "aa", "aaa", "last"]


def test_after_the_timeout_it_raises_and_says_how_many_are_left(service: FakeService, client: Client) -> None:
    service.held.open("a")
    completed = client.as_completed(_submit(client, *"abc"), timeout=0.05)
    first = next(completed)

    with pytest.raises(TimeoutError, match="2 futures have not ended yet"):
        next(completed)
    assert first.result().label == "a"


async def test_in_an_event_loop_it_is_refused_and_says_what_to_do(service: FakeService, client: Client) -> None:
    completed = client.as_completed(_submit(client, *"ab"))

    with pytest.raises(InEventLoop, match="await the futures instead"):
        next(completed)
    service.held.open()
