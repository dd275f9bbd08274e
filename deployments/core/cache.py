"""Pairs that were scored before: found again by a keyed digest, so that no text is kept.

A process serves one model and has a secret of its own, so the model is part of every key. The scope is: by
default that of the tenant, since an answer that comes too fast would tell one tenant what another has sent.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

ENTRY_BYTES = 400  # of one key and one `Scored` in the table; a test weighs it


class Scored(NamedTuple):
    """What is known of a pair once the engine has run it."""

    contradiction: float
    entailment: float
    n_tokens: int
    truncated: bool


class Digests:
    """128-bit keyed digests (BLAKE2b) of pairs; nobody without the secret can make two that meet."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def grid(self, scope: str, texts: Sequence[str], hypotheses: Sequence[str]) -> list[list[int]]:
        """One row per text, one key per hypothesis.

        The two digests of a pair are independent and uniform, so their exclusive or is as good as a third, at a
        twentieth of the time.
        """
        columns = [self._digest(b"hypothesis", scope, hypothesis) for hypothesis in hypotheses]
        return [[row ^ column for column in columns] for row in (self._digest(b"text", scope, t) for t in texts)]

    def _digest(self, kind: bytes, scope: str, string: str) -> int:
        state = hashlib.blake2b(key=self._secret, digest_size=16, person=kind)
        state.update(f"{len(scope)}:{scope}".encode())
        state.update(string.encode())
        return int.from_bytes(state.digest())


class PairCache:
    """The pairs used last, as many as fit; 0 bytes keep none."""

    def __init__(self, max_bytes: int) -> None:
        self._entries: OrderedDict[int, Scored] = OrderedDict()
        self.resize(max_bytes)

    def __len__(self) -> int:
        return len(self._entries)

    def resize(self, max_bytes: int) -> None:
        """Hold to another limit from now on."""
        self._most = max_bytes // ENTRY_BYTES
        self._shrink()

    def get(self, key: int) -> Scored | None:
        """What is known of the pair, which is thereby the last to go."""
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
        return found

    def put(self, key: int, scored: Scored) -> None:
        """Remember, and forget what was not used for longest."""
        self._entries[key] = scored
        self._entries.move_to_end(key)
        self._shrink()

    def _shrink(self) -> None:
        while len(self._entries) > self._most:
            self._entries.popitem(last=False)
