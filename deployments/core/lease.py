"""What replicas of the front door and the ledger say to each other, and the times that both keep to.

Times are nanoseconds on the speaker's own monotonic clock: clocks are never compared, only how long something took.
A replica has one message under way at a time, which carries all its waiting checks.
"""

from __future__ import annotations

from typing import NamedTuple

from .bucket import Rate

MS = 1_000_000  # ns
ADDRESS = "address "  # begins the subjects of callers without a key, of which there may be any number
SLOTS = 65_536  # that they share: a collision only makes a limit stricter
LEASE_NS = 200 * MS  # from sending the message: after that nothing that its reply grants may be spent
GRACE_NS = 1_000 * MS  # for the report of what a lease has left; then that is lost
QUIET_NS = 500 * MS  # without a word from the ledger, until a replica counts alone
ALONE_NS = 4_000 * MS  # at most: the ledger is back 1.3 to 3.4 s after a SIGKILL


class Rates(NamedTuple):
    """Of one level; None: not limited."""

    requests: Rate | None
    pairs: Rate | None


class Policies(NamedTuple):
    """What holds for each caller, by tier ("": no tier), and for all together."""

    tiers: dict[str, Rates]
    service: Rates


class Check(NamedTuple):
    """May this request pass?"""

    subject: str
    """Who is counted: a key, an address."""

    tier: str
    cost: tuple[int, int]
    """Requests and pairs; (0, 0) only asks for a lease."""

    ahead: tuple[int, int] = (0, 0)
    """What the replica expects to spend for this subject within `LEASE_NS`."""

    service: bool = True
    """Whether the level above all callers counts, too."""


class Left(NamedTuple):
    """Of one of the caller's own quotas."""

    tokens: int
    next_ns: int
    """Until one more; 0: it is full."""


class Granted(NamedTuple):
    """It may, if the answer comes in time, and so may more of the same subject."""

    id: int
    ahead: tuple[int, int]
    left: tuple[Left | None, Left | None]
    """Requests and pairs, after this."""


class Denied(NamedTuple):
    """It may after `retry_after_ns`."""

    retry_after_ns: int
    violated: tuple[str, ...]
    """Names of policies."""

    left: tuple[Left | None, Left | None]


class Unable(NamedTuple):
    """Nobody can tell whether it may."""

    reason: str


class Closed(NamedTuple):
    """A grant from which nothing will be spent any more."""

    id: int
    unspent: tuple[int, int]


class Refund(NamedTuple):
    """Spent from a closed grant, but the service could not do the work."""

    id: int
    cost: tuple[int, int]


class Permit(NamedTuple):
    """To count alone, should the ledger fall silent."""

    stamp: int
    """The ledger's time."""

    share: int
    """In `PARTS`."""


class Holding(NamedTuple):
    """What a replica has."""

    stamp: int | None
    """Of its newest permit from this ledger."""

    share: int
    former_share: int
    """Had from another ledger, and given up when it heard from this one."""


class Message(NamedTuple):
    """From a replica."""

    replica: str
    seq: int
    epoch: int | None
    """Of the ledger that it heard from last: of that one are `holding`, `closed` and `refunds`."""

    stays: bool
    """False: it has nothing to do, and holds nothing any more."""

    holding: Holding
    config: tuple[int, Policies]
    """When the replica was told its policies, by any clock that all replicas roughly share, and what they are."""

    checks: list[Check]
    closed: list[Closed]
    refunds: list[Refund]


class Reply(NamedTuple):
    """To a message; `answers` in the order of its checks."""

    seq: int
    epoch: int
    permit: Permit
    answers: list[Granted | Denied | Unable]


def names(level: str) -> tuple[str, str]:
    """Of the policies of a level."""
    return f"{level}-requests", f"{level}-pairs"
