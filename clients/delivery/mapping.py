"""Many texts through the same question: pulled as they are needed, sent in parts, never more than a few at a time."""

from __future__ import annotations

import queue
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from clients.errors import SourceFailed
from clients.results import Classification, Failed
from deployments.contract.errors import BodyTooLarge, CostTooLarge, InvalidRequest

from .blocking import refuse_in_event_loop
from .future import Future

PART_TEXTS = 64
PART_PAIRS = 1_024  # of a part, unless one text has more: several batches of the engine, a quarter of the usual cap
PART_CHARS = 100_000
MAX_PARTS = 16  # outstanding

OnError = Literal["raise", "yield", "skip"]
Row = Classification | Failed
Rows = Generator[Row, None, None]
Submit = Callable[[list[Any]], Future[Any]]
"""From texts to the future of their results."""


@dataclass(eq=False, slots=True)
class _Part:
    """Texts that are asked about in one request."""

    first: int
    """Place of its first text in the iterable."""

    texts: list[Any]
    future: Future[Any]


class Mapping:
    """One run over an iterable.

    Args:
        n_labels: pairs that each text makes.
        max_parts: requests that may be outstanding.
    """

    def __init__(self, submit: Submit, texts: Iterable[Any], n_labels: int, *, ordered: bool, max_parts: int) -> None:
        self._submit = submit
        self._texts = iter(texts)
        self._most_texts = max(1, min(PART_TEXTS, PART_PAIRS // n_labels))
        self._outstanding = _Ordered() if ordered else _Unordered()
        self._max_parts = min(MAX_PARTS, max_parts)
        self._pulled = 0
        self._ended: Exception | StopIteration | None = None
        """What the iterable raised last."""

    def rows(self) -> Rows:
        """What became of each text.

        Raises:
            SourceFailed: the iterable raised; what it gave before has been yielded.
        """
        refuse_in_event_loop("map()", "await submit(...) instead, or run map in a thread: asyncio.to_thread")
        try:
            while True:
                self._fill()
                if not (part := self._outstanding.take()):
                    break
                try:
                    yield from self._rows(part)
                finally:
                    part.future.cancel()  # where the waiting was interrupted
        finally:
            self._outstanding.cancel()
        if not isinstance(self._ended, StopIteration):
            assert self._ended
            raise SourceFailed(self._pulled, self._ended) from self._ended

    def _fill(self) -> None:
        while self._ended is None and len(self._outstanding) < self._max_parts:
            first = self._pulled
            if texts := self._pull():
                self._outstanding.add(self._part(first, texts))

    def _pull(self) -> list[Any]:
        texts: list[Any] = []
        chars = 0
        while len(texts) < self._most_texts and chars < PART_CHARS:
            try:
                text = next(self._texts)
            except Exception as error:  # StopIteration among them
                self._ended = error
                break
            texts.append(text)
            chars += len(text) if isinstance(text, str) else 0
        self._pulled += len(texts)
        return texts

    def _part(self, first: int, texts: list[Any]) -> _Part:
        return _Part(first, texts, self._submit(texts))

    def _rows(self, part: _Part) -> Rows:
        error = part.future.exception()
        if error is None:
            for row in part.future.result():
                yield _moved(row, part.first)
        elif len(part.texts) > 1 and _may_be_one_text(error):
            middle = len(part.texts) // 2
            halves = [(part.first, part.texts[:middle]), (part.first + middle, part.texts[middle:])]
            self._outstanding.put_back([self._part(*half) for half in halves])
        else:
            assert isinstance(error, Exception)
            yield from (Failed(part.first + i, error) for i in range(len(part.texts)))


def _may_be_one_text(error: BaseException) -> bool:
    """Whether halves of what was refused may pass: a wrong text spoils its part, and no other part."""
    if isinstance(error, InvalidRequest):
        return all(one.pointer == "" or one.pointer.startswith("/text") for one in error.errors)
    return isinstance(error, BodyTooLarge | CostTooLarge)


def _moved(row: Row, by: int) -> Row:
    if isinstance(row, Failed):
        return Failed(row.index + by, row.error)
    return Classification(row.scores, row.truncated, row.index + by)


class _Ordered:
    """Parts in the order of their texts."""

    def __init__(self) -> None:
        self._parts: deque[_Part] = deque()

    def __len__(self) -> int:
        return len(self._parts)

    def add(self, part: _Part) -> None:
        self._parts.append(part)

    def put_back(self, halves: list[_Part]) -> None:
        """In the place of the part that was taken last."""
        self._parts.extendleft(reversed(halves))

    def take(self) -> _Part | None:
        return self._parts.popleft() if self._parts else None

    def cancel(self) -> None:
        for part in self._parts:
            part.future.cancel()


class _Unordered:
    """Parts in the order in which they are answered."""

    def __init__(self) -> None:
        self._parts: set[_Part] = set()
        self._ended: queue.SimpleQueue[_Part] = queue.SimpleQueue()

    def __len__(self) -> int:
        return len(self._parts)

    def add(self, part: _Part) -> None:
        self._parts.add(part)
        part.future.on_end(partial(self._ended.put, part))

    def put_back(self, halves: list[_Part]) -> None:
        for half in halves:
            self.add(half)

    def take(self) -> _Part | None:
        if not self._parts:
            return None
        part = self._ended.get()
        self._parts.discard(part)
        return part

    def cancel(self) -> None:
        for part in self._parts:
            part.future.cancel()


def handled(rows: Rows, on_error: OnError) -> Rows:
    """What the caller wants of rows that failed: all in their places, none, or the first one raised."""
    with closing(rows):  # at once: a traceback that is kept would keep them, too
        for row in rows:
            if isinstance(row, Failed) and on_error == "raise":
                row.error.add_note(f"text {row.index:,} of the iterable given to map")
                raise row.error
            if not (isinstance(row, Failed) and on_error == "skip"):
                yield row


def shown(rows: Rows, total: int | None) -> Rows:
    """With a progress bar on stderr."""
    with closing(rows), _bar(total) as advance:
        for row in rows:
            yield row
            advance()


@contextmanager
def _bar(total: int | None) -> Iterator[Callable[[], None]]:
    columns = (TextColumn("classified"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty()) as progress:
        task = progress.add_task("", total=total)
        yield lambda: progress.advance(task)
