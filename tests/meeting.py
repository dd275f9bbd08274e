"""An engine that shows whether its streams are used at the same time."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from deployments.engines.fake import FakeEngine
from deployments.engines.protocol import FloatArray, Pair

PATIENCE_S = 10.0


class Meeting(FakeEngine):
    """Two streams; from `expect` on a run waits for another one to be under way."""

    def __init__(self) -> None:
        super().__init__(streams=2)
        self.met = threading.Event()
        self._expected = False
        self._lock = threading.Lock()
        self._under_way = 0

    def expect(self) -> None:
        self._expected = True

    def logits(self, pairs: Sequence[Pair]) -> FloatArray:
        with self._lock:
            self._under_way += 1
            if self._expected and self._under_way == self.streams:
                self.met.set()
        if self._expected:
            self.met.wait(PATIENCE_S)
        try:
            return super().logits(pairs)
        finally:
            with self._lock:
                self._under_way -= 1
