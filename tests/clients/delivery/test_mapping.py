"""`map`: lazy, bounded, in order or not, and what becomes of texts that fail."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future as PlainFuture
from typing import Any, Literal

import psutil
import pytest

from clients.delivery.client import Client
from clients.delivery.mapping import PART_CHARS, PART_PAIRS, PART_TEXTS, Mapping
from clients.errors import ClientClosed, InEventLoop, SourceFailed
from clients.results import Classification, Failed
from deployments.contract.errors import (
    BodyTooLarge,
    CostTooLarge,
    EngineFailed,
    FieldError,
    InvalidRequest,
    ServiceError,
    Unavailable,
)
from deployments.contract.wire import Ask
from tests.clients.delivery.fake import LABELS, FakeService, client_of, text_of, until

AHEAD = 1_024
"""Texts that may be pulled before the first of them is consumed."""


class Source:
    """An iterable that counts what is pulled out of it."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.pulled = 0

    def __iter__(self) -> Iterator[str]:
        for i in range(self.n):
            self.pulled += 1
            yield f"t{i}"


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def client(service: FakeService) -> Iterator[Client]:
    with client_of(service) as client:
        yield client
        service.held.open()


def _read(row: Classification | Failed) -> tuple[int, str]:
    """Its index, and its best label or the class of its error."""
    return row.index, type(row.error).__name__ if isinstance(row, Failed) else row.label


@pytest.mark.parametrize("n", [0, 1, 2, PART_TEXTS, PART_TEXTS + 1, 3 * AHEAD + 5])
@pytest.mark.parametrize("ordered", [True, False])
def test_each_text_has_its_row_with_its_index(client: Client, n: int, ordered: bool) -> None:
    rows = list(client.map(Source(n), LABELS, ordered=ordered))

    found = [_read(row) for row in rows]
    assert (found if ordered else sorted(found)) == [(i, f"t{i}") for i in range(n)]


@pytest.mark.parametrize("texts", [["a", "b"], ("a", "b"), iter(["a", "b"]), {"a": 1, "b": 2}, deque(["a", "b"])])
def test_any_iterable_will_do(client: Client, texts: Any) -> None:
    assert [_read(row) for row in client.map(texts, LABELS)] == [(0, "a"), (1, "b")]


@pytest.mark.parametrize("texts", ["a string", b"bytes"])
def test_a_string_is_refused_and_so_is_what_is_no_iterable(client: Client, texts: Any) -> None:
    with pytest.raises(TypeError, match="takes an iterable of texts; one text is for classify"):
        client.map(texts, LABELS)
    with pytest.raises(TypeError):
        client.map(5, LABELS)  # type: ignore[arg-type]


def test_nothing_is_pulled_before_it_is_iterated(service: FakeService, client: Client) -> None:
    source = Source(10)
    rows = client.map(source, LABELS)

    assert (source.pulled, service.asks) == (0, [])
    next(rows)
    assert source.pulled == 10


@pytest.mark.parametrize("ordered", [True, False])
def test_never_more_than_so_many_texts_are_pulled_ahead_of_those_consumed(client: Client, ordered: bool) -> None:
    source = Source(4 * AHEAD)
    ahead = [source.pulled - consumed for consumed, _ in enumerate(client.map(source, LABELS, ordered=ordered))]

    assert max(ahead) == AHEAD


@pytest.mark.parametrize("ordered", [True, False])
def test_nor_are_more_outstanding_than_the_client_allows(service: FakeService, ordered: bool) -> None:
    source = Source(10 * PART_TEXTS)
    with client_of(service, max_in_flight=2) as client:
        ahead = [source.pulled - i for i, _ in enumerate(client.map(source, LABELS, ordered=ordered))]

    assert max(ahead) == 2 * PART_TEXTS


def test_a_request_holds_64_texts_or_fewer_by_their_length_and_labels(service: FakeService, client: Client) -> None:
    list(client.map(Source(100), LABELS))
    list(client.map(["x" * (PART_CHARS // 2)] * 5, LABELS))
    list(client.map(Source(9), [f"label {i}" for i in range(PART_PAIRS // 4)]))
    list(client.map(Source(2), [f"label {i}" for i in range(PART_PAIRS + 1)]))

    lengths = [1 if isinstance(text, str) else len(text) for text in service.texts]
    assert lengths == [64, 36, 2, 2, 1, 4, 4, 1, 1, 1]


def test_unordered_rows_come_as_they_are_answered(service: FakeService, client: Client) -> None:
    service.behave = lambda ask: None if "t0" in text_of(ask) else 0.0
    rows = client.map(Source(3 * PART_TEXTS), LABELS, ordered=False)

    assert sorted(next(rows).index for _ in range(2 * PART_TEXTS)) == list(range(PART_TEXTS, 3 * PART_TEXTS))
    rows.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("ordered", [True, False])
def test_leaving_the_loop_cancels_what_is_under_way(service: FakeService, client: Client, ordered: bool) -> None:
    service.behave = lambda ask: 0.0 if "t0" in text_of(ask) else None
    for row in client.map(Source(4 * AHEAD), LABELS, ordered=ordered):
        assert row.label == "t0"
        until(lambda: len(service.asks) == 16)
        break

    assert not client._window._inside
    until(lambda: service.cancelled)


def test_so_does_an_error_in_the_loop_and_one_that_is_raised(service: FakeService, client: Client) -> None:
    service.behave = lambda ask: EngineFailed("no") if "t0" in text_of(ask) else None

    def read(on_error: Literal["raise", "yield"]) -> None:
        for row in client.map(Source(4 * AHEAD), LABELS, on_error=on_error):
            assert row.label

    for on_error in ("raise", "yield"):
        with pytest.raises(EngineFailed) as caught:
            read(on_error)

        assert caught.tb  # is kept, and with it what stands in its frames
        until(lambda: not client._window._inside)


def test_so_does_an_interrupt_while_it_waits() -> None:
    """Of the part that it waits for, too."""

    class Interrupted(PlainFuture[Any]):
        def exception(self, timeout: float | None = None) -> BaseException | None:
            raise KeyboardInterrupt

    futures = [Interrupted() for _ in range(3)]
    submitted = iter(futures)
    texts = Source(3 * PART_TEXTS)
    rows = Mapping(lambda _: next(submitted), texts, 2, ordered=True, max_parts=9).rows()  # type: ignore

    with pytest.raises(KeyboardInterrupt):
        next(rows)
    assert all(future.cancelled() for future in futures)


# Errors.


@pytest.mark.parametrize("wrong", [None, "", "  \n", 7, b"bytes", ["a"], "\ud800"], ids=repr)
@pytest.mark.parametrize("ordered", [True, False])
def test_a_wrong_text_in_the_middle_fails_alone(client: Client, wrong: Any, ordered: bool) -> None:
    texts: list[Any] = [f"t{i}" for i in range(150)]
    texts[70] = wrong
    rows = [_read(row) for row in client.map(texts, LABELS, on_error="yield", ordered=ordered)]

    assert (rows if ordered else sorted(rows)) == [(i, "InvalidRequest" if i == 70 else f"t{i}") for i in range(150)]


def _refuse_long(error: ServiceError) -> Any:
    """As the service does with a text that is too long for its caps, wherever it stands."""

    def behave(ask: Ask) -> ServiceError | float:
        text = text_of(ask)
        return error if any(len(one) > 9 for one in ([text] if isinstance(text, str) else text)) else 0.0

    return behave


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest([FieldError("/text/6", "200 characters, at most 9; cut the text")]),
        InvalidRequest([FieldError("", "too many pairs"), FieldError("/text", "too long")]),
        BodyTooLarge("too many bytes"),
        CostTooLarge("too many pairs"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("ordered", [True, False])
def test_so_does_one_that_only_the_service_refuses(
    service: FakeService, client: Client, error: ServiceError, ordered: bool
) -> None:
    service.behave = _refuse_long(error)
    texts = [f"t{i}" for i in range(130)]
    texts[6] = texts[129] = "much too long"
    rows = [_read(row) for row in client.map(texts, LABELS, on_error="yield", ordered=ordered)]

    expected = [(i, type(error).__name__ if i in (6, 129) else f"t{i}") for i in range(130)]
    assert (rows if ordered else sorted(rows)) == expected
    assert len(service.asks) == 3 + 2 * 6 + 2  # what is refused is halved


def test_an_error_of_the_whole_request_is_that_of_all_its_texts(service: FakeService, client: Client) -> None:
    service.behave = lambda ask: InvalidRequest([FieldError("/labels", "too many")]) if "t0" in text_of(ask) else 0.0
    rows = [_read(row) for row in client.map(Source(PART_TEXTS + 2), LABELS, on_error="yield")]

    assert rows == [(i, "InvalidRequest") for i in range(PART_TEXTS)] + [(64, "t64"), (65, "t65")]
    assert len(service.asks) == 2


def test_one_that_the_model_failed_on_fails_alone(service: FakeService, client: Client) -> None:
    def behave(ask: Ask) -> Any:
        answer: Any = service.answer(ask)
        for i, text in enumerate(text_of(ask)):
            if text == "t5":
                answer["results"][i] = {"error": {"detail": "no number"}}
        return {"answer": answer}

    service.behave = behave
    assert [_read(row) for row in client.map(Source(9), LABELS, on_error="yield")][5] == (5, "EngineFailed")


def test_on_error_decides_whether_it_is_raised_yielded_or_left_out(client: Client) -> None:
    texts: list[Any] = ["a", None, "b"]

    def indices(on_error: Literal["raise", "yield", "skip"]) -> Iterator[int]:
        return (row.index for row in client.map(texts, LABELS, on_error=on_error))

    assert (list(indices("yield")), list(indices("skip"))) == ([0, 1, 2], [0, 2])
    raising = indices("raise")
    assert next(raising) == 0
    with pytest.raises(InvalidRequest) as caught:
        next(raising)
    assert caught.value.__notes__ == ["text 1 of the iterable given to map"]


def test_another_on_error_is_refused_at_once(client: Client) -> None:
    with pytest.raises(ValueError, match="on_error is 'ignore'; allowed: raise, yield, skip"):
        client.map(["a"], LABELS, on_error="ignore")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("labels", "asking"),
    [([], {}), (None, {}), (["yes", "yes"], {}), (LABELS, {"top_k": 0}), (LABELS, {"deadline_s": "x"})],
)
def test_wrong_labels_and_options_are_raised_at_once(client: Client, labels: Any, asking: Any) -> None:
    source = Source(5)

    with pytest.raises(InvalidRequest):
        client.map(source, labels, on_error="skip", **asking)
    assert source.pulled == 0


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("n", [0, 3, PART_TEXTS, 2 * AHEAD + 1])
def test_when_the_iterable_raises_all_before_it_is_yielded_and_then_the_cause_is_told(
    client: Client, n: int, ordered: bool
) -> None:
    def source() -> Iterator[str]:
        yield from Source(n)
        raise OSError("the disk is gone")

    found: list[tuple[int, str]] = []
    with pytest.raises(SourceFailed, match=f"raised OSError after {n:,} texts") as caught:
        found.extend(_read(row) for row in client.map(source(), LABELS, ordered=ordered))

    assert sorted(found) == [(i, f"t{i}") for i in range(n)]
    assert (caught.value.n_before, str(caught.value.__cause__)) == (n, "the disk is gone")


def test_when_the_client_is_closed_meanwhile_the_loop_is_told(service: FakeService, client: Client) -> None:
    rows = client.map(Source(4 * AHEAD), LABELS)
    next(rows)
    client.close(wait=False)

    with pytest.raises(ClientClosed):
        list(rows)


def test_what_is_lost_with_a_replica_is_sent_again_within_a_map(service: FakeService, client: Client) -> None:
    service.lost = 2
    failed = iter([Unavailable("busy", 0.001)])
    service.behave = lambda _: next(failed, 0.0)

    assert [row.label for row in client.map(Source(200), LABELS)] == [f"t{i}" for i in range(200)]


async def test_in_an_event_loop_it_is_refused_and_says_what_to_do(client: Client) -> None:
    rows = client.map(Source(3), LABELS)

    with pytest.raises(InEventLoop, match=r"await submit\(...\) instead, or run map in a thread: asyncio.to_thread"):
        next(rows)


async def test_it_may_be_made_in_an_event_loop_and_iterated_in_a_thread(client: Client) -> None:
    rows = await asyncio.to_thread(list, client.map(Source(3), LABELS))

    assert [row.label for row in rows] == ["t0", "t1", "t2"]


def test_several_may_run_at_a_time_on_a_narrow_window(service: FakeService) -> None:
    with client_of(service, max_in_flight=1) as client:
        outer = [
            (row.label, [inner.label for inner in client.map([row.label + "a", row.label + "b"], LABELS)])
            for row in client.map(Source(3), LABELS)
        ]

    assert outer == [(f"t{i}", [f"t{i}a", f"t{i}b"]) for i in range(3)]


# The bar.


def test_the_bar_goes_to_stderr_and_nothing_else_does(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    for row in client.map(["a", "b"], LABELS, progress=True):
        print(row.label)  # noqa: T201

    out, err = capsys.readouterr()
    assert out == "a\nb\n"
    assert "2/2" in err


def test_what_the_loop_prints_goes_where_it_belongs_when_only_stderr_is_a_terminal(
    client: Client, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # by which rich takes stderr for one
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for row in client.map((text for text in "ab"), LABELS, progress=True):
        print(row.label)  # noqa: T201

    out, err = capsys.readouterr()
    assert out == "a\nb\n"
    assert "classified" in err
    assert "a\n" not in err


def test_leaving_the_loop_ends_the_bar(client: Client) -> None:
    before = threading.active_count()
    for _ in client.map(Source(5 * AHEAD), LABELS, progress=True):
        break
    assert threading.active_count() <= before + 1
    for _ in client.map(Source(3), LABELS, progress=True):
        pass


# Memory.


def test_over_a_million_texts_memory_stays_flat_within_20_mb(service: FakeService, client: Client) -> None:
    service.calls = deque(maxlen=1)
    process = psutil.Process(os.getpid())
    rows = client.map((f"text {i}" for i in range(1_000_000)), LABELS)
    seen = wrong = 0
    sizes = []
    for row in rows:
        wrong += row.index != seen or row.label != f"text {seen}"
        seen += 1
        if seen == 5_000 or seen % 100_000 == 0:
            gc.collect()
            sizes.append(process.memory_info().rss)

    assert (seen, wrong) == (1_000_000, 0)
    assert max(sizes) - sizes[0] < 20_000_000
