"""What the service answers, as Python callers read it."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Any

from deployments.contract.errors import EngineFailed
from deployments.contract.wire import ClassifyResponse, QuotaState, Result


@dataclass(frozen=True, slots=True)
class Classification:
    """Which labels fit one text."""

    scores: Mapping[str, float]
    """From each label to its score in [0, 1], best first."""

    truncated: bool
    """Whether the model saw only the text's beginning."""

    index: int = 0
    """The place of its text in the list or iterable given."""

    @property
    def label(self) -> str:
        """The best one."""
        return next(iter(self.scores))

    @property
    def score(self) -> float:
        """Of the best label."""
        return next(iter(self.scores.values()))


@dataclass(frozen=True, slots=True)
class Failed:
    """Stands where the classification of one text of several would stand; reading it as one raises its error."""

    index: int
    """The place of its text in the list or iterable given."""

    error: Exception

    @property
    def label(self) -> str:
        raise self.error

    @property
    def score(self) -> float:
        raise self.error

    @property
    def scores(self) -> Mapping[str, float]:
        raise self.error

    @property
    def truncated(self) -> bool:
        raise self.error


@dataclass(frozen=True, slots=True)
class Meta:
    """How an answer came about."""

    request_id: str | None = None
    """Under which the server's log knows it; None: it never came to an answer."""

    model: str | None = None
    engine: str | None = None
    fallback: bool | None = None
    """Whether the configured model was not there, and the embedded one answered."""

    timings: Mapping[str, float] = field(default_factory=dict)
    """Seconds: `queue` and `engine` in the server, `total` from `submit` to the end."""

    quotas: tuple[QuotaState, ...] = ()
    """What was left when this request was admitted; empty: nothing limits this caller."""

    retries: int = 0
    """How many times it was sent again."""


def classifications(answer: ClassifyResponse) -> list[Classification | Failed]:
    """The results of an answer as HTTP and `submit_ref` give it, in the order of the texts."""
    return [_read(i, result) for i, result in enumerate(answer["results"])]


def _read(index: int, result: Any) -> Classification | Failed:
    if "error" in result:
        return Failed(index, EngineFailed(result["error"]["detail"]))
    found: Result = result
    return Classification(dict(zip(found["labels"], found["scores"], strict=True)), found["truncated"], index)


@dataclass(frozen=True, slots=True)
class Delivered:
    """What an actor's method gets as a callback: an ended future as plain values, since futures do not travel."""

    outcome: Any
    error: BaseException | None
    meta: Meta | None
    """None: it was cancelled."""

    def result(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.outcome

    def exception(self) -> BaseException | None:
        if isinstance(self.error, CancelledError):
            raise self.error  # as a future does
        return self.error

    def cancelled(self) -> bool:
        return isinstance(self.error, CancelledError)


def delivered(future: Future[Any]) -> Delivered:
    """Of a future that has ended."""
    meta = getattr(future, "meta", None)
    if future.cancelled():
        return Delivered(None, CancelledError(), meta)
    error = future.exception()
    return Delivered(None if error else future.result(), error, meta)
