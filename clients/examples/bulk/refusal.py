"""Why a job does not start, or stops; the messages say what to change."""

from __future__ import annotations


class JobRefused(Exception):
    """Arguments, input, output folder or engine are not what the job can work with."""


class JobStopped(Exception):
    """Something went wrong on the way; what is finished stays, and another run goes on from there."""
