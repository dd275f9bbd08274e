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
MIN_RUNS = 3  # small and large ones, each: a line through one run would follow its pause


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
        ordered = sorted(self.runs)
        apart = [
            (i, j) for i, j in itertools.combinations(range(len(ordered)), 2) if _are_apart(ordered[i], ordered[j])
        ]
        small, large = ({pair[end] for pair in apart} for end in (0, 1))
        if min(len(small), len(large)) < MIN_RUNS:
            return 0.0
        slopes = [(ordered[j][1] - ordered[i][1]) / (ordered[j][0] - ordered[i][0]) for i, j in apart]
        slope = statistics.median(slopes)
        if slope <= 0:
            return 0.0
        intercept = statistics.median(seconds - slope * tokens for tokens, seconds in self.runs)
        return max(0.0, intercept / slope)


def _are_apart(small: tuple[int, float], large: tuple[int, float]) -> bool:
    return large[0] >= APART * small[0] > 0
