"""How fast the engine has been of late: seconds of a run as a line over its padded tokens.

The line's slope is the price of a token, its intercept the price of a run; both differ a hundredfold between
machines, so they are measured while serving. Old runs fade.
Source: least squares with exponential forgetting, as BentoML's CorkDispatcher fits `a n + b`.
"""

from __future__ import annotations

from dataclasses import dataclass

FADE = 0.95  # per run: the last twenty or so count
MIN_SPREAD = 0.05  # of the tokens, relative to their mean; below it a line's slope is noise


@dataclass(frozen=True, slots=True)
class Speed:
    """Weighted sums over past runs; `x` are padded tokens, `y` seconds."""

    n: float = 0.0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0

    def after(self, tokens: int, seconds: float) -> Speed:
        """With one run more."""
        return Speed(
            self.n * FADE + 1,
            self.x * FADE + tokens,
            self.y * FADE + seconds,
            self.xx * FADE + tokens * tokens,
            self.xy * FADE + tokens * seconds,
        )

    @property
    def tokens_per_s(self) -> float | None:
        """The engine's rate at the sizes that it ran of late; None before the first run."""
        return self.x / self.y if self.y > 0 else None

    @property
    def run_tokens(self) -> float:
        """What a run costs beside its tokens, in tokens; 0 while that is not known."""
        if self.n < 2:
            return 0.0
        mean_x, mean_y = self.x / self.n, self.y / self.n
        variance = self.xx / self.n - mean_x * mean_x
        if variance <= (MIN_SPREAD * mean_x) ** 2:
            return 0.0
        slope = (self.xy / self.n - mean_x * mean_y) / variance
        return max(0.0, mean_y / slope - mean_x) if slope > 0 else 0.0
