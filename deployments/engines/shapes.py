"""Shapes of batches that come again, for an engine that sets itself up for each one that it has not seen.

OpenVINO compiles kernels for every number of pairs, every width and every product of the two: in int8 on a CPU with
AMX that takes nearly as long as the batch itself, and 1 to 8 MiB that it keeps. Batches that are made of what waits
have thousands of shapes, more than it remembers (docs/bench.md), so both numbers are rounded up to one of a few.
"""

from __future__ import annotations

PER_OCTAVE = 8  # numbers from one power of two to the next; a power of two itself


def recurring(n_pairs: int, longest: int, max_tokens: int) -> tuple[int, int]:
    """What a batch is to be padded to: (pairs, tokens of each), the latter at most `max_tokens`."""
    return rounded_up(n_pairs), min(max_tokens, rounded_up(longest))


def rounded_up(n: int) -> int:
    """The next number that comes again, at most an eighth more; up to 16 each does."""
    step = 1 << max(0, n.bit_length() - PER_OCTAVE.bit_length())
    return -(-n // step) * step
