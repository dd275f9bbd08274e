"""Why a deployment does not start."""

from __future__ import annotations


class StartRefused(Exception):
    """The configured model cannot be served as configured; the message says what to change."""
