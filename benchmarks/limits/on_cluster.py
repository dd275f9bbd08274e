"""The parts that need a cluster, in a process of their own: `python -m benchmarks.limits` starts it with Serve's fast
profile in its environment, which Serve reads when it is imported."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from pathlib import Path

from . import actor, driven
from .cluster import OFF, ON, application, cluster, deploy, write_keys
from .table import row, verdict

N_KEYS = 4
CHECKS_PER_S = 20_000
ADDED_MS = 0.5
NO_RPC = 0.7


async def main() -> None:
    """Three rows, all in one event loop, which Serve's handles hold on to."""
    with tempfile.TemporaryDirectory(prefix="nb") as folder, cluster() as rest:
        keys_file = Path(folder, "keys.json")
        tokens = write_keys(keys_file, N_KEYS)
        await _actor()
        one = [application("off", keys_file, OFF), application("on", keys_file, ON)]
        await asyncio.to_thread(deploy, rest, one)
        await _added(tokens)
        await asyncio.to_thread(deploy, rest, [application("two", keys_file, ON, n_ingress=2)])
        await _busy(tokens)


async def _actor() -> None:
    found = await actor.answered()
    others = "".join(f", {n:,} {what.lower()}" for what, n in found.outcomes.items() if what != "Passed")
    text = f"{found.per_s:,.0f}/s{others}"
    row(
        f"checks through the actor, messages of 64 from {actor.N_SENDERS} senders",
        f">= {CHECKS_PER_S:,}/s",
        verdict(text, reached=found.per_s >= CHECKS_PER_S),
    )


async def _added(tokens: list[str]) -> None:
    found = await driven.added(tokens)
    low, high = min(found.added_ms), max(found.added_ms)
    text = (
        f"{found.median_ms:+.2f} ms ({low:+.2f} to {high:+.2f}) on {min(found.off_ms):.1f} to {max(found.off_ms):.1f}, "
        f"{_share(found.by)} by a lease{_failed(found.failures)}"
    )
    row(
        f"limits on, {driven.PAIRED_PER_S:.0f} requests/s of {N_KEYS} keys, p50",
        f"<= {ADDED_MS} ms more than off",
        verdict(text, reached=found.median_ms <= ADDED_MS and not found.failures),
    )


async def _busy(tokens: list[str]) -> None:
    found, by = await driven.busy(tokens)
    n = sum(by.values())
    others = ", ".join(f"{by[name] / n:.1%} {name}" for name in ("ledger", "alone"))
    text = (
        f"{_share(by)} of {n:,} ({others}), p50 {found.p50_ms:.1f} ms, left at most {found.late_ms:.0f} ms late"
        f"{_failed(found.failures)}"
    )
    row(
        f"decisions without an RPC, 2 replicas, {driven.BUSY_PER_S:.0f} requests/s of {N_KEYS} keys",
        f">= {NO_RPC:.0%}",
        verdict(text, reached=by["lease"] / n >= NO_RPC and not found.failures),
    )


def _share(by: Mapping[str, int]) -> str:
    return f"{by['lease'] / sum(by.values()):.1%}"


def _failed(failures: Mapping[str, int]) -> str:
    return "".join(f", {n} failed with {name}" for name, n in failures.items())


if __name__ == "__main__":
    asyncio.run(main())
