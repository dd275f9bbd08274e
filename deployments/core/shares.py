"""Who may count alone when the ledger is out of reach, and how fast the ledger's own clock therefore runs.

A replica that has not heard from the ledger for `QUIET_NS` counts alone for up to `ALONE_NS`: it has a *share* of
every rate, and starts with nothing. Meanwhile the ledger may well be alive and serve others. So that both together
never give out more than the rate, the ledger counts what it gives out on a clock of its own, which stands still by the
share of each replica that may be alone; the shares never exceed 1 together.

A replica starts from the last permit that it has received, of which the ledger knows by its echo in the next message.
Permits after that may have got lost or not: the ledger assumes the earliest start and the latest end.
Source: Doorman's safe capacity and learning mode (github.com/youtube/doorman), made exact.
"""

from __future__ import annotations

from dataclasses import dataclass

from .bucket import PARTS, Reserved
from .lease import ALONE_NS, QUIET_NS, Holding, Permit

MAX_RESERVED = 8  # each is looked at by every bucket


@dataclass(slots=True)
class _Holder:
    """A replica that may be alone between `since` and `until`."""

    share: int
    since: int
    until: int
    seq: int = 0
    stays: bool = False


class Shares:
    """The ledger's clock.

    Args:
        restarted: others may hold shares of a ledger before this one; they are counted until returned, or run out.
    """

    def __init__(self, now: int, *, restarted: bool) -> None:
        self._now = now
        self.clock = now
        """Nanoseconds by which the ledger counts; never faster than time."""

        self.reserved: list[Reserved] = []
        """For those who may have been alone, by the clock; oldest first."""

        alone_ns = QUIET_NS + ALONE_NS  # before this ledger, and after
        self._former = _Holder(PARTS if restarted else 0, now - alone_ns, now + alone_ns)
        self._returned: set[str] = set()
        self._holders: dict[str, _Holder] = {}

    def advance(self, now: int) -> None:
        """Let time pass."""
        now = max(now, self._now)
        alone = [self._former, *self._holders.values()]
        lost = sum(one.share * max(0, min(now, one.until) - max(self._now, one.since)) for one in alone)
        self.clock += now - self._now - -(-lost // PARTS)
        self._reserve([one for one in alone if one.share and one.since < now and one.until > self._now], now)
        self._now = now
        for replica in [name for name, one in self._holders.items() if one.until <= now]:
            del self._holders[replica]
        if self._former.until <= now:
            self._former.share = 0

    def _reserve(self, alone: list[_Holder], now: int) -> None:
        """Keep in mind what these may hold, and forget what cannot be missing anywhere any more."""
        kept = [one for one in self.reserved if one.at + one.ns > self.clock]
        if alone:
            held = -(-sum(one.share * (min(now, one.until) - one.since) for one in alone) // PARTS)
            share = min(PARTS, sum(one.share for one in alone))
            kept = [one for one in kept if one.share > share or one.at + one.ns > self.clock + held]
            kept.append(Reserved(self.clock, held, share))
        self.reserved = _merged(kept)

    def is_news(self, replica: str, seq: int) -> bool:
        """Whether no message of this replica with this or a later number has come."""
        known = self._holders.get(replica)
        return known is None or seq > known.seq

    def silent(self) -> list[str]:
        """Replicas that may be alone, or may have died."""
        return [name for name, one in self._holders.items() if one.share and one.since < self._now]

    def bury(self, replica: str, now: int) -> None:
        """It has died, and so holds nothing any more; what it said before may still arrive twice."""
        self.advance(now)  # until now it may have been alone
        if one := self._holders.get(replica):
            one.share, one.stays = 0, False

    def renew(self, replica: str, seq: int, holding: Holding, *, stays: bool) -> Permit:
        """A message of a replica: what it says of itself now counts, and it gets the next permit.

        Args:
            seq: numbers the replica's messages; an old one that comes late changes nothing.
            holding: the permit that it has, and what it had from the ledger before this one.
            stays: whether it wants to hold a share from now on; if not, it has stopped using the one it had.
        """
        now = self._now
        if not self.is_news(replica, seq):
            return Permit(now, 0)
        self._holders.pop(replica, None)
        self._take_back(replica, holding)
        others = self._holders.values()
        free = PARTS - self._former.share - sum(one.share for one in others)
        offer = min(free, PARTS // (1 + sum(one.stays for one in others))) if stays else 0
        if holding.stamp is None or holding.stamp + QUIET_NS + ALONE_NS <= now:
            share, since = offer, now + QUIET_NS  # it has none, or may not use it any more
        else:
            since = holding.stamp + QUIET_NS
            offer = offer if since > now else min(offer, holding.share)  # no more to who may be alone at this time
            share = max(holding.share, offer)
        self._holders[replica] = _Holder(share if stays else 0, since, now + QUIET_NS + ALONE_NS, seq, stays)
        return Permit(now, offer)

    def _take_back(self, replica: str, holding: Holding) -> None:
        if holding.stamp is not None and replica not in self._returned and self._former.share:
            self._returned.add(replica)
            self._former.share = max(0, self._former.share - holding.former_share)


def _merged(reserved: list[Reserved]) -> list[Reserved]:
    """Not too many: of the two oldest one that reserves at least as much as both."""
    while len(reserved) > MAX_RESERVED:
        old, new, *rest = reserved
        reserved = [Reserved(new.at, max(new.ns, old.at + old.ns - new.at), max(new.share, old.share)), *rest]
    return reserved
