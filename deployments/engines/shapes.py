"""Shapes of batches that come again, for an engine that sets itself up for each one that it has not seen.

OpenVINO compiles kernels for every number of pairs, every width and every product of the two: in int8 on a CPU with
AMX that takes nearly as long as the batch itself, and 1 to 8 MiB that it keeps. Batches that are made of what waits
have more shapes than it remembers (docs/bench.md), so both numbers are rounded up to one of a few.
"""

from __future__ import annotations

PER_OCTAVE = 8  # numbers between one power of two and the next: an eighth is added at most, to a batch 4 % in all


def rounded(n: int) -> int:
    """The next number that comes again; up to 16, each does."""
    step = 1 << max(0, n.bit_length() - PER_OCTAVE.bit_length())
    return -(-n // step) * step
