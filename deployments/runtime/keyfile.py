"""The key file, as a replica follows it: a key that is revoked there stops working here within seconds.

`nli-serve keys` replaces the file, and Kubernetes swaps a symlink that leads to it: either way another file stands
at the end of the path, which its stamp tells. A file that turns out broken, or is gone, locks nobody out: the last
good keys stay in force, and the log says so.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from deployments.contract.keys import Keyring, parse
from deployments.engines.refusal import StartRefused

POLL_S = 1.0

_log = logging.getLogger("ray.serve")

Stamp = tuple[int, int, int, int]


class KeyFileWatch:
    """Holds the keys of one file, the newest that were sound.

    Raises:
        StartRefused: there are none to begin with.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._refused: tuple[Stamp | None, str] | None = None  # what has been logged
        try:
            self._load(_stamp(path))
        except (OSError, ValueError) as error:
            raise StartRefused(
                f"the key file {path} cannot be used: {_why(error)}; mend it, or make a new one: "
                f"`nli-serve keys create --file {path} --tenant NAME`"
            ) from error

    @property
    def keyring(self) -> Keyring:
        """To be asked for each time, as it is another one after a change."""
        return self._keyring

    async def watch(self, poll_s: float = POLL_S) -> None:
        """Follow the file for ever."""
        while True:
            await asyncio.sleep(poll_s)
            try:
                self.refresh()
            except Exception:  # were this loop to end, a revoked key would work for ever
                _log.exception("the key file %s could not be looked at", self._path)

    def refresh(self) -> None:
        """Load the file if it has changed, or could not be loaded before; otherwise this is one stat."""
        stamp: Stamp | None = None
        try:
            stamp = _stamp(self._path)
            if stamp != self._loaded:
                self._load(stamp)
                _log.info("the key file %s has changed: %d keys", self._path, len(self._keyring))
            self._refused = None
        except (OSError, ValueError) as error:
            refused = stamp, _why(error)
            if refused != self._refused:
                _log.error(
                    "the key file %s cannot be used: %s; the keys of before stay in force", self._path, refused[1]
                )
            self._refused = refused

    def _load(self, stamp: Stamp) -> None:
        """The stamp is older than what is read, so a change in between is loaded the next time."""
        self._keyring = Keyring(parse(self._path.read_bytes()).keys)
        self._loaded = stamp


def _stamp(path: Path) -> Stamp:
    """Of what is at the end of all symlinks; ctime, since a change of the mode may make it readable."""
    found = path.stat()
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def _why(error: OSError | ValueError) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
