"""How fast the engine has been of late: the seconds of a run as a line over its padded tokens.

The line's slope is the price of a token, its intercept the price of a run; both differ a hundredfold between
machines, so they are measured while serving. Both are medians: one run that hit a pause of the machine must not
turn away callers.
Source: Sen 1968, "Estimates of the regression coefficient based on Kendall's tau" (the Theil-Sen line).
"""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass
from functools import cached_property

RUNS = 16  # that count
APART = 2  # times as large: between runs of like size, noise is steeper than the line
MIN_SLOPES = 8  # pairs of runs so far apart; with fewer a line is a guess


@dataclass(frozen=True)
class Speed:
    """The last runs: padded tokens and seconds of each."""

    runs: tuple[tuple[int, float], ...] = ()

    def after(self, tokens: int, seconds: float) -> Speed:
        """With one run more."""
        return Speed((*self.runs[1 - RUNS :], (tokens, seconds)))

    @cached_property
    def tokens_per_s(self) -> float | None:
        """The rate at which half of the last tokens were run, or faster; None before the first run."""
        by_rate = sorted((tokens / seconds, tokens) for tokens, seconds in self.runs if seconds > 0)
        half = sum(tokens for _, tokens in by_rate) / 2
        passed = 0
        for rate, tokens in by_rate:
            passed += tokens
            if passed >= half:
                return rate
        return None

    @cached_property
    def run_tokens(self) -> float:
        """What a run costs beside its tokens, in tokens; 0 while that is not known."""
        apart = [(a, b) for a, b in itertools.combinations(sorted(self.runs), 2) if b[0] >= APART * a[0] > 0]
        slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in apart]
        if len(slopes) < MIN_SLOPES or (slope := statistics.median(slopes)) <= 0:
            return 0.0
        intercept = statistics.median(seconds - slope * tokens for tokens, seconds in self.runs)
        return max(0.0, intercept / slope)
