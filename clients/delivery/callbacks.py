"""Where callbacks run: on threads of the client's own.

Never on the thread that delivers, since a callback may take its time; never on Ray's, where one call of Ray can wedge
the whole process (ray-project/ray#50980).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from typing import Any

THREADS = 4
Callback = Callable[[Any], object]
"""Called with the future."""

_log = logging.getLogger("nli_serve")


class CallbackPool:
    """Runs callbacks, and survives those that raise.

    Args:
        executor: the caller's own, which is not shut down here; None: `THREADS` threads.
        adapt: makes of what a caller registers what is called.
    """

    def __init__(
        self, executor: Executor | None = None, adapt: Callable[[Callback], Callback] = lambda callback: callback
    ) -> None:
        self.adapt = adapt
        self._own = None if executor else ThreadPoolExecutor(THREADS, thread_name_prefix="nli-callback")
        self._executor: Executor = executor or self._own  # type: ignore[assignment]
        self._changed = threading.Condition()
        self._backlog = 0
        """Futures whose callbacks have not run."""

        self._away = 0
        """Callbacks that have run here and go on elsewhere."""

        self._here = threading.local()
        self.errors = 0
        """How many callbacks have raised so far."""

    def start(self, work: Callable[[], None]) -> None:
        """Run it soon; on a thread for itself when the executor does not take it."""
        with self._changed:
            self._backlog += 1
        try:
            running = self._executor.submit(work)
        except Exception:  # shut down, or full: whatever the caller's own raises, it is none of the delivery's trouble
            self._run_late(work)
        else:
            running.add_done_callback(partial(self._has_run, work))

    def wait_below(self, most: int) -> None:
        """Until fewer futures than that have callbacks to be run: slow ones must not pile up without end.

        A callback does not wait for callbacks, and nobody for those of an executor of the caller's own: it may be on
        one of its threads that he submits.
        """
        if self._own and not self.is_here():
            with self._changed:
                self._changed.wait_for(lambda: self._backlog + self._away < most)

    def goes_away(self) -> None:
        """A callback goes on elsewhere."""
        with self._changed:
            self._away += 1

    def is_back(self, error: BaseException | None) -> None:
        """It has ended there."""
        if error:
            self.note(error)
        with self._changed:
            self._away -= 1
            self._changed.notify_all()

    def call(self, callback: Callback, future: object) -> None:
        """Run one callback now; what it raises is logged and counted."""
        within = self.is_here()  # of an executor that runs them at once
        self._here.yes = True
        try:
            callback(future)
        except BaseException as error:  # a `sys.exit` ends no thread of this pool either
            self.note(error)
        finally:
            self._here.yes = within

    def is_here(self) -> bool:
        """Whether this is a callback that asks."""
        return getattr(self._here, "yes", False)

    def note(self, error: BaseException) -> None:
        """A callback has raised."""
        with self._changed:
            self.errors += 1
        _log.error("a callback raised; the other callbacks still run", exc_info=error)

    def _has_run(self, work: Callable[[], None], running: Future[None]) -> None:
        if running.cancelled() or running.exception():  # it has not: the executor was shut down, or is of processes
            self._run_late(work)
        else:
            self._count_off()

    def _run_late(self, work: Callable[[], None]) -> None:
        def run() -> None:
            work()
            self._count_off()

        threading.Thread(target=run, name="nli-callback-late", daemon=True).start()

    def _count_off(self) -> None:
        with self._changed:
            self._backlog -= 1
            self._changed.notify_all()

    def close(self, *, wait: bool) -> None:
        if self._own:
            self._own.shutdown(wait=wait)
        if wait:
            with self._changed:
                self._changed.wait_for(lambda: not self._away)
