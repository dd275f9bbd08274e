"""The ledger of the limits: one named actor, which outlives replicas, roll-outs and its own death.

It starts again empty-handed within seconds of a crash (core/ledger.py); replicas count alone meanwhile.
"""

from __future__ import annotations

import gc
import os
import secrets
import time
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.serve._private.constants import SERVE_NAMESPACE

from deployments.core.lease import Message, Reply
from deployments.core.ledger import Ledger

PROTOCOL = 1  # counts up with every change of deployments/core/lease.py: both sides must be of the same
NAMESPACE = "nli-serve"
LOOK_S = 0.5  # between two looks at who of the silent has died


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)
class Quota:
    """The ledger of one application.

    Args:
        restarted: an actor of this name was there before.
    """

    def __init__(self, restarted: bool) -> None:
        again = ray.get_runtime_context().was_current_actor_reconstructed
        self._ledger = Ledger(
            secrets.randbits(62), time.monotonic_ns(), restarted=restarted or again, secret=os.urandom(16)
        )
        self._looked = 0.0
        gc.set_threshold(100_000)  # grants hold no cycles, and to walk over them took a quarter of the time of a check

    def check(self, message: Message) -> Reply:
        """One message of a replica; they are handled one after the other."""
        if time.monotonic() - self._looked > LOOK_S:
            self._bury_the_dead()
        return self._ledger.handle(message, time.monotonic_ns())

    def _bury_the_dead(self) -> None:
        """Serve's replicas are named actors, of which the cluster knows within a second that they have died."""
        self._looked = time.monotonic()
        for replica in self._ledger.silent():
            try:
                ray.get_actor(replica, namespace=SERVE_NAMESPACE)
            except ValueError:
                self._ledger.bury(replica, time.monotonic_ns())

    def pid(self) -> int:
        """Of the process, for tests that kill it."""
        return os.getpid()


def name(application: str) -> str:
    return f"quota-{application}-v{PROTOCOL}"


def open_ledger(application: str, *, restarted: bool = False) -> ActorHandle[Any]:
    """The application's ledger, which this starts if it is not there.

    On the node of whoever asks first, and elsewhere only once that is gone: Ray puts an actor that needs no CPU
    anywhere, the head without CPUs too, and a ledger that ends with the head is missed for as long as that is away.
    """
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    place = {"label_selector": here, "fallback_strategy": [{"label_selector": {}}]}
    options = {"name": name(application), "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True} | place
    ledger: ActorHandle[Any] = Quota.options(**options).remote(restarted)  # type: ignore[attr-defined]
    return ledger
