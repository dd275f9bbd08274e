"""Through Serve handles: what a lease adds to a request, and how many decisions need no RPC."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from .load import Round, Send, run

WARM_S = 2.0
ROUNDS, ROUND_S = 5, 4.0
PAIRED_PER_S = 100.0
BUSY_PER_S, BUSY_S = 300.0, 10.0


@dataclass(slots=True)
class Added:
    """Milliseconds at p50, round by round."""

    off_ms: list[float] = field(default_factory=list)
    on_ms: list[float] = field(default_factory=list)
    by: Counter[str] = field(default_factory=Counter)
    """Decisions while limits were on, by what made them."""

    failures: Counter[str] = field(default_factory=Counter)

    @property
    def added_ms(self) -> list[float]:
        """Between a round with limits and the one before it without."""
        return [on - off for on, off in zip(self.on_ms, self.off_ms, strict=True)]

    @property
    def median_ms(self) -> float:
        return statistics.median(self.added_ms)


async def added(tokens: Sequence[str]) -> Added:
    """The applications `off` and `on` take turns."""
    off, on = serve.get_app_handle("off"), serve.get_app_handle("on")
    for handle in (off, on):
        await run(_sender(handle, tokens), PAIRED_PER_S, WARM_S)
    found, before = Added(), await _decisions(on)
    for _ in range(ROUNDS):
        for handle, p50s in ((off, found.off_ms), (on, found.on_ms)):
            one = await run(_sender(handle, tokens), PAIRED_PER_S, ROUND_S)
            p50s.append(one.p50_ms)
            found.failures += one.failures
    found.by = await _decisions(on) - before
    return found


async def busy(tokens: Sequence[str]) -> tuple[Round, Counter[str]]:
    """The application `two`: its requests, and its decisions by what made them."""
    handle = serve.get_app_handle("two")
    await run(_sender(handle, tokens), BUSY_PER_S, WARM_S)
    before = await _decisions(handle)
    found = await run(_sender(handle, tokens), BUSY_PER_S, BUSY_S)
    return found, await _decisions(handle) - before


def _sender(handle: DeploymentHandle[Any], tokens: Sequence[str]) -> Send:
    return partial(_send, handle, tokens)


async def _send(handle: DeploymentHandle[Any], tokens: Sequence[str], number: int) -> None:
    request = {"text": f"text {number}", "labels": ["yes", "no"]}
    await handle.classify.remote(request, api_key=tokens[number % len(tokens)])


async def _decisions(handle: DeploymentHandle[Any]) -> Counter[str]:
    """Of all replicas together."""
    found: Counter[str] = Counter()
    for one in await handle.broadcast("decisions").results_async(timeout_s=5):
        found.update(one)
    return found
