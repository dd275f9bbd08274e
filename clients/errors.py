"""What a client itself raises; what the service says arrives as the classes of deployments/contract/errors.py.

ClientError
+-- NotRunning     no Ray cluster, or no such application on it
+-- ClientClosed   the client was closed
+-- Forked         the client was made in another process
+-- InEventLoop    a call that blocks, made where it would stop an event loop
+-- WindowFull     as many are outstanding as `max_in_flight` allows
+-- SourceFailed   the iterable given to `map` raised
"""

from __future__ import annotations


class ClientError(RuntimeError):
    """The root; the message says what to do."""


class NotRunning(ClientError):
    """There is nobody to ask."""


class ClientClosed(ClientError):
    def __init__(self) -> None:
        super().__init__("this client is closed; make a new one")


class Forked(ClientError):
    def __init__(self, made_in: int, used_in: int) -> None:
        super().__init__(
            f"this client was made in process {made_in} and is used in process {used_in}: its threads and connections "
            "do not survive a fork; make a client in the process that uses it"
        )


class InEventLoop(ClientError):
    def __init__(self, call: str, instead: str) -> None:
        super().__init__(f"{call} would stop the event loop that runs in this thread; {instead}")


class WindowFull(ClientError):
    def __init__(self, max_in_flight: int) -> None:
        super().__init__(
            f"{max_in_flight:,} requests are outstanding, at most {max_in_flight:,} may be; wait for one of their "
            "futures, or make a client with a larger max_in_flight"
        )


class SourceFailed(ClientError):
    """All that came before was classified and yielded; the iterable's own error is the cause."""

    def __init__(self, n_before: int, error: Exception) -> None:
        super().__init__(
            f"the iterable raised {type(error).__name__} after {n_before:,} texts, whose results were all yielded; "
            "mend it, and go on from there"
        )
        self.n_before = n_before
