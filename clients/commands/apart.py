"""Work in a process of its own, of which one hears as it goes on: its memory and its threads are its own, too.

Ctrl-C reaches this process alone, which then ends the other.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any, TypeVar

T = TypeVar("T")
J = TypeVar("J")

_GOT, _FAILED, _DONE = "got", "failed", "done"


class Died(Exception):
    """The other process raised, or ended without a word; the message says which."""


def apart(work: Callable[[J], Iterator[T]], job: J) -> Iterator[T]:
    """What `work(job)` yields; both must be picklable.

    Raises:
        Died: it did not come to its end.
    """
    context = multiprocessing.get_context("spawn")  # a fork would begin with our memory and our libraries' threads
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(work, job, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield from _receive(ours)
    finally:
        process.kill()
        process.join()


def _receive(ours: Connection) -> Iterator[Any]:
    while True:
        try:
            kind, value = ours.recv()
        except EOFError:
            raise Died("the process ended; was the memory too small?") from None
        if kind == _FAILED:
            raise Died(value)
        if kind == _DONE:
            return
        yield value


def _send(work: Callable[[J], Iterator[T]], job: J, theirs: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for value in work(job):
            theirs.send((_GOT, value))
        theirs.send((_DONE, None))
    except Exception as error:  # the top of this process
        theirs.send((_FAILED, str(error) or type(error).__name__))
