"""Why a deployment does not start."""

from __future__ import annotations


class StartRefused(Exception):
    """What is configured cannot be served, or not so; the message says what to change."""
