"""Which pairs run together, and how one bad pair is kept from failing the others.

Pure: the engine comes in as a function. Lengths and budgets are in model tokens; a batch costs its number
of pairs times its longest pair, since shorter ones are padded to it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

MAX_PADDING = 0.05  # of a batch; more only where another run would cost more than the padding does


@dataclass(frozen=True, slots=True)
class Ok(Generic[R]):
    """What an item came to."""

    value: R


@dataclass(frozen=True, slots=True)
class Err:
    """What an item failed with."""

    error: Exception


def companions(lengths: Sequence[int], max_tokens: int, run_tokens: float = 0.0) -> list[int]:
    """The batch for the pair whose turn it is: that pair, and those nearest to it in length.

    Args:
        lengths: tokens of each waiting pair; the first is the one whose turn it is.
        max_tokens: padded tokens in one batch; a pair that is longer alone gets a batch of its own.
        run_tokens: what a run of the engine costs beside its tokens, in tokens: padding up to that is worth
            a run saved.

    Returns:
        Indices into `lengths`, 0 among them, the longest first.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    sums = [0, *itertools.accumulate(lengths[i] for i in order)]

    def padded(first: int, last: int) -> int:
        return (last - first + 1) * lengths[order[first]]

    def padding(first: int, last: int) -> int:
        return padded(first, last) - (sums[last + 1] - sums[first])

    def fits(first: int, last: int) -> bool:
        if first < 0 or last == len(order) or padded(first, last) > max_tokens:
            return False
        return padding(first, last) <= max(run_tokens, MAX_PADDING * padded(first, last))

    first = last = order.index(0)
    while options := [ends for ends in ((first - 1, last), (first, last + 1)) if fits(*ends)]:
        first, last = min(options, key=lambda ends: padding(*ends))
    return order[first : last + 1]


def plan(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Cut sequences into batches of similar length.

    Args:
        lengths: tokens of each sequence.
        max_tokens: padded tokens in one batch; a sequence that is longer alone gets a batch of its own.

    Returns:
        Indices into `lengths`, each once, the longest first: the largest memory is needed at the start.
    """
    batches: list[list[int]] = []
    room = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if room == 0:
            batches.append([])
            room = max(1, max_tokens // max(1, lengths[i]))
        batches[-1].append(i)
        room -= 1
    return batches


def isolate(run: Callable[[Sequence[T]], Sequence[R]], items: Sequence[T]) -> list[Ok[R] | Err]:
    """Run all items at once; where that raises, halve until the bad ones stand alone.

    One bad item among n costs at most 2 log2(n) + 3 runs.
    """
    try:
        return [Ok(result) for result in run(items)]
    except Exception as error:
        if len(items) == 1:
            return [Err(error)]
    middle = len(items) // 2
    return isolate(run, items[:middle]) + isolate(run, items[middle:])
