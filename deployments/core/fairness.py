"""Whose turn it is: fair queueing by start tags, used twice, over tenants and over the requests of one tenant.

A flow's tag is the service it has had, in tokens; the flow with the least tag is next, and is charged for what it
gets. A flow that joins starts at its queue's clock, which advances as if every flow were served at once, each at
an equal share. So nobody pays for the past or is owed for it, a short request goes before the rest of a list that
has had its share, a stream of short ones cannot starve a list, and equal requests keep their order.
Source: Goyal, Vin, Cheng 1996, "Start-time Fair Queuing"; the clock is that of Parekh and Gallager 1993, since
requests, unlike network flows, come once and are gone.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Turns(Generic[K]):
    """The start tags of the flows of one queue."""

    def __init__(self) -> None:
        self._tags: dict[K, float] = {}
        self._clock = 0.0
        self._batch = -1
        self._batch_share = 0.0

    def __len__(self) -> int:
        return len(self._tags)

    def __iter__(self) -> Iterator[K]:
        return iter(self._tags)

    def join(self, flow: K) -> None:
        """The flow has something waiting."""
        self._tags.setdefault(flow, self._clock)

    def leave(self, flow: K) -> None:
        """Nothing of it waits any more; its past is forgotten."""
        self._tags.pop(flow, None)

    def charge(self, flow: K, cost: int, batch: int, *, keeps_turn: bool = False) -> None:
        """The flow is served in the batch of this number.

        The clock stands still until the next batch, so that who joins during this one comes before those in it.

        Args:
            keeps_turn: it stays where it is in the order, so that what has been begun is finished first.
        """
        if batch != self._batch:
            self._clock += self._batch_share
            self._batch, self._batch_share = batch, 0.0
        if not keeps_turn:
            self._tags[flow] += cost
        self._batch_share += cost / len(self._tags)

    def order(self, serve: Callable[[K], tuple[T, int] | None]) -> Iterator[tuple[T, int]]:
        """What would be served, in order, if nobody joined; changes nothing.

        Args:
            serve: the next thing of a flow and its cost; None when it has no more.
        """
        heap = [(tag, place, flow) for place, (flow, tag) in enumerate(self._tags.items())]
        heapq.heapify(heap)
        while heap:
            tag, place, flow = heap[0]
            served = serve(flow)
            if served is None:
                heapq.heappop(heap)
            else:
                yield served
                heapq.heapreplace(heap, (tag + served[1], place, flow))
