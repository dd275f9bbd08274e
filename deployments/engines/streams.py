"""How an engine shares out its cores: in streams, each of which runs batches of its own on its part of the threads.

Threads of one run wait for each other after every layer, so a core that something else needs for a moment stops all
of them, and a machine that serves always runs something else. Streams never wait for each other (docs/adr/0010).
"""

from __future__ import annotations

STREAMS = 2  # more were not measured; each has activations of its own in memory


def streams(threads: int) -> int:
    """Runs at a time, of equal parts of the threads."""
    return STREAMS if threads % STREAMS == 0 else 1
