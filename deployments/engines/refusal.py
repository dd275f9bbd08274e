"""Why a deployment does not start."""

from __future__ import annotations


class StartRefused(Exception):
    """What is configured cannot be served, or not so; the message says what to change."""


# What a message calls a replica's or a worker's share of a GPU, which is set in one place or the other.
SHARE = "num_gpus (ray_actor_options of the Classifier; --num-gpus of a job)"
