"""What is asked: cells, each a fixed list of requests that all systems get, and a number of clients.

One cell is the base; each other one varies one thing. Where a factor would make a request many times dearer (more
labels, longer texts, more clients) its lists are shorter, so that about as many pairs are under way.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from deployments.engines.samples import CALIBRATION, EVALUATION

TEMPLATE = "This example is {}."
N_LABELS = 5
_WORDS = [word for sample in (*CALIBRATION, *EVALUATION) for word in sample.text.split() if word.isascii()]
_NOUNS = sorted({word.lower() for word in _WORDS if word.isalpha() and len(word) > 3})


@dataclass(frozen=True, slots=True)
class Request:
    """Texts, each to be scored against all labels."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Text and label, text by text."""
        return [(text, label) for text in self.texts for label in self.labels]

    @property
    def n_pairs(self) -> int:
        return len(self.texts) * len(self.labels)


@dataclass(frozen=True, slots=True)
class Cell:
    """One row of the table."""

    name: str
    requests: tuple[Request, ...]
    clients: int
    warm: tuple[Request, ...] = ()
    """Asked before, untimed, of who has a cache: what repeated traffic repeats."""

    dear: bool = False
    """Left out for slow systems: with all of these they would take many minutes."""

    goal: bool = False
    """A figure to reach depends on it: measured in every round, others in the first."""

    @property
    def n_pairs(self) -> int:
        return sum(request.n_pairs for request in self.requests)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """In order, whatever lists they come in."""
        return [pair for request in self.requests for pair in request.pairs]


def cells(scale: float = 1.0) -> list[Cell]:
    """The base first.

    Args:
        scale: of the number of requests; less than 1 for a look, not for figures.
    """
    n = max(2, round(8 * scale))
    labels = tuple(_NOUNS[i * len(_NOUNS) // 128] for i in range(128))
    five = labels[:N_LABELS]
    mixed = _texts(random.Random(1), 32 * n, median=8, sigma=0.8)
    short = _texts(random.Random(2), 32 * n, median=4, sigma=0.3)
    long = _texts(random.Random(3), 4 * n, median=110, sigma=0.2)
    base = _lists(mixed, five, 32)
    return [
        Cell("base: 5 labels, mixed texts, lists of 32, 8 clients", base, 8, goal=True),
        Cell("1 label", _lists(mixed, labels[:1], 32), 8, dear=True),
        Cell("32 labels, lists of 5", _lists(mixed[: 5 * n], labels[:32], 5), 8, dear=True),
        Cell("128 labels, lists of 1", _lists(mixed[:n], labels, 1), 8, dear=True),
        Cell("short texts", _lists(short, five, 32), 8, dear=True),
        Cell("long texts, lists of 4", _lists(long, five, 4), 8, dear=True),
        Cell("single texts", _lists(mixed[: 8 * n], five, 1), 8),
        Cell("single texts, 32 clients", _lists(mixed, five, 1), 32, goal=True),
        Cell("1 client", base[:2], 1, dear=True),
        Cell("32 clients, lists of 8", _lists(mixed, five, 8), 32, dear=True),
        _repeated(mixed, five, 2 * n),
    ]


def _repeated(known: list[str], labels: tuple[str, ...], n: int) -> Cell:
    """Of 32 texts in a list 26 were asked before, which is 81 %; none comes twice meanwhile: two in flight are one."""
    rng = random.Random(4)
    hot = known + _texts(rng, 26 * n - len(known), median=8, sigma=0.8)
    new = _texts(rng, 6 * n, median=8, sigma=0.8)
    lists = [hot[26 * i : 26 * (i + 1)] + new[6 * i : 6 * (i + 1)] for i in range(n)]
    for one in lists:
        rng.shuffle(one)
    requests = tuple(Request(tuple(one), labels) for one in lists)
    return Cell("80 % repeated traffic", requests, 8, warm=_lists(hot, labels, 32), dear=True, goal=True)


def _lists(texts: list[str], labels: tuple[str, ...], size: int) -> tuple[Request, ...]:
    return tuple(Request(tuple(texts[i : i + size]), labels) for i in range(0, len(texts), size))


def _texts(rng: random.Random, n: int, *, median: float, sigma: float) -> list[str]:
    """Distinct texts of words in log-normal number."""
    found: dict[str, None] = {}
    while len(found) < n:
        size = min(200, max(2, round(median * rng.lognormvariate(0, sigma))))
        found[" ".join(rng.choice(_WORDS) for _ in range(size))] = None
    return list(found)
