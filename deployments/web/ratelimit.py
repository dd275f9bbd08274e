"""What is left of a caller's quotas, as header fields.

Source: draft-ietf-httpapi-ratelimit-headers-10: both fields are Lists (RFC 9651) of Strings, the names of the policies.
Ours: the parameter `nli-burst`, and `nli-unit` where a policy does not count requests, which has no registered unit.
"""

from __future__ import annotations

from collections.abc import Sequence

from deployments.core.quota import Quota


def fields(quotas: Sequence[Quota]) -> dict[str, str]:
    """`RateLimit-Policy` and `RateLimit`, the policy nearest to exhaustion first; none without quotas.

    A policy's name is a plain word: it is not escaped.
    """
    if not quotas:
        return {}
    nearest_first = sorted(quotas, key=lambda quota: quota.remaining / quota.burst)
    return {
        "RateLimit-Policy": ", ".join(_policy(quota) for quota in nearest_first),
        "RateLimit": ", ".join(_left(quota) for quota in nearest_first),
    }


def _policy(quota: Quota) -> str:
    unit = "" if quota.unit == "requests" else f';nli-unit="{quota.unit}"'
    return f'"{quota.name}";q={quota.limit};w={quota.window_s};nli-burst={quota.burst}{unit}'


def _left(quota: Quota) -> str:
    return f'"{quota.name}";r={quota.remaining};t={quota.next_s}'
