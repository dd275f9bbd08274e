"""Which pairs run together, and how one bad pair is kept from failing the others.

Pure: the engine comes in as a function. Lengths and budgets are in model tokens; a batch costs its number
of pairs times its longest pair, since shorter ones are padded to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Ok(Generic[R]):
    """What an item came to."""

    value: R


@dataclass(frozen=True, slots=True)
class Err:
    """What an item failed with."""

    error: Exception


def plan(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Cut pairs into batches of similar length.

    Args:
        lengths: tokens of each pair.
        max_tokens: padded tokens in one batch; a pair that is longer alone gets a batch of its own.

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
