"""Ports for servers that are started later.

Not the kernel's choice (`bind` to 0): it is of those that it gives to outgoing connections as well, of which a Ray
cluster makes hundreds until the server has started.
"""

from __future__ import annotations

import random
import socket
from contextlib import suppress

# Below what Linux gives to outgoing connections (from 32,768), and beside Ray's: 10,002 to 19,999 are its workers',
# 30,000 to 31,000 those of Serve's replicas behind HAProxy. In any order, since several processes choose.
_candidates = iter(random.sample(range(20_000, 30_000), 10_000))


def free_port() -> int:
    """One that nothing is bound to now, on any address, and that was not given before."""
    for port in _candidates:
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("", port))
            return port
    raise RuntimeError("no port is free between 20,000 and 30,000")
