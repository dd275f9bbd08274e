"""Who may be alone, by what share, and how far the ledger's clock stays behind time for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.core.bucket import PARTS, Reserved
from deployments.core.lease import ALONE_NS, MS, QUIET_NS, Holding, Permit
from deployments.core.shares import Shares

NOTHING = Holding(None, 0, 0)
END_NS = QUIET_NS + ALONE_NS  # of a permit
START = 10**18


class Replica:
    """Says what it has, as a lessee does."""

    def __init__(self, shares: Shares, name: str = "a") -> None:
        self.shares = shares
        self.name = name
        self.seq = 0
        self.permit: Permit | None = None
        self.former_share = 0

    def renew(self, now: int, *, stays: bool = True, heard: bool = True) -> int:
        """The share that it is offered."""
        self.shares.advance(now)
        self.seq += 1
        if not stays:
            self.permit = None
        permit = self.shares.renew(self.name, self.seq, self.holding, stays=stays)
        if stays and heard:
            self.permit = permit
        assert permit.stamp == now
        return permit.share

    @property
    def holding(self) -> Holding:
        return Holding(self.permit.stamp, self.permit.share, self.former_share) if self.permit else NOTHING


def _shares(*, restarted: bool = False) -> Shares:
    return Shares(START, restarted=restarted)


def test_the_clock_runs_with_time_while_nobody_may_be_alone() -> None:
    shares = _shares()
    shares.advance(START + 10 * MS)

    assert (shares.clock, shares.reserved) == (START + 10 * MS, [])


def test_the_clock_never_goes_back() -> None:
    shares = _shares()
    shares.advance(START + 10 * MS)
    shares.advance(START)
    shares.advance(START + 10 * MS)

    assert shares.clock == START + 10 * MS


def test_one_replica_gets_all_and_two_come_to_have_half_each() -> None:
    shares = _shares()
    a, b = Replica(shares, "a"), Replica(shares, "b")

    offers = [(a.renew(START + i), b.renew(START + i)) for i in (1, 2, 3)]

    assert offers == [(PARTS, 0), (PARTS // 2, 0), (PARTS // 2, PARTS // 2)]


def test_what_is_offered_may_have_got_lost_so_the_larger_share_counts() -> None:
    shares = _shares()
    a, b = Replica(shares, "a"), Replica(shares, "b")
    a.renew(START)
    b.renew(START)
    offers = [a.renew(START + 1, heard=False), b.renew(START + 1), a.renew(START + 2), b.renew(START + 2)]

    assert offers == [PARTS // 2, 0, PARTS // 2, 0]


@pytest.mark.parametrize(
    ("silent_ns", "lost_ns"),
    [
        (QUIET_NS, 0),
        (QUIET_NS + 1, 1),
        (QUIET_NS + 1_000 * MS, 1_000 * MS),
        (END_NS, ALONE_NS),
        (10 * END_NS, ALONE_NS),
    ],
)
def test_the_clock_stands_still_while_the_only_replica_may_be_alone(silent_ns: int, lost_ns: int) -> None:
    shares = _shares()
    Replica(shares).renew(START)

    shares.advance(START + silent_ns)

    assert shares.clock == START + silent_ns - lost_ns


def test_the_clock_runs_slower_by_the_share_of_who_is_silent() -> None:
    shares = _shares()
    silent, other = Replica(shares, "silent"), Replica(shares, "other")
    for _ in range(3):
        silent.renew(START)
        other.renew(START)
    for ns in range(0, QUIET_NS + 1_000 * MS + 1, QUIET_NS // 5):
        other.renew(START + ns)

    assert shares.clock == START + QUIET_NS + 500 * MS  # half of the second is lost in which it may have been alone
    assert shares.reserved == [Reserved(shares.clock, 500 * MS, PARTS // 2)]


def test_what_is_lost_of_a_nanosecond_is_lost_whole() -> None:
    shares = _shares()
    silent, other = Replica(shares, "silent"), Replica(shares, "other")
    for _ in range(3):
        silent.renew(START)
        other.renew(START)
    shares.advance(START + QUIET_NS)
    other.renew(START + QUIET_NS, stays=False)
    for ns in (1, 2, 3):
        shares.advance(START + QUIET_NS + ns)

    assert shares.clock == START + QUIET_NS
    assert shares.reserved == [Reserved(START + QUIET_NS, 2, PARTS // 2)]  # one and a half


def test_what_was_reserved_runs_out_with_the_clock() -> None:
    shares = _shares()
    Replica(shares).renew(START)
    shares.advance(START + END_NS)
    reserved = [shares.reserved]
    for ns in (ALONE_NS - 1, ALONE_NS):
        shares.advance(START + END_NS + ns)
        reserved.append(shares.reserved)

    found = [Reserved(START + QUIET_NS, ALONE_NS, PARTS)]
    assert reserved == [found, found, []]


def test_a_larger_time_that_was_reserved_before_outlives_a_smaller_one() -> None:
    shares = _shares()
    Replica(shares, "long").renew(START)
    shares.advance(START + END_NS)
    Replica(shares, "short").renew(START + END_NS)
    shares.advance(START + END_NS + QUIET_NS + 100 * MS)

    clock = START + 2 * QUIET_NS
    large, small = Reserved(START + QUIET_NS, ALONE_NS, PARTS), Reserved(clock, 100 * MS, PARTS)
    assert (shares.clock, shares.reserved) == (clock, [large, small])
    shares.bury("short", START + END_NS + QUIET_NS + 100 * MS)
    shares.advance(START + END_NS + QUIET_NS + 200 * MS)
    assert shares.reserved == [large]


def test_a_larger_share_that_was_reserved_before_outlives_a_longer_time() -> None:
    """Of a small burst it may have held more."""
    shares = _shares()
    all_of_it = Replica(shares, "all")
    all_of_it.renew(START)
    shares.bury("all", START + QUIET_NS + 1_000 * MS)
    half, other = Replica(shares, "half"), Replica(shares, "other")
    for _ in range(3):
        half.renew(START + QUIET_NS + 1_000 * MS)
        other.renew(START + QUIET_NS + 1_000 * MS)
    other.renew(START + QUIET_NS + 1_000 * MS, stays=False)
    shares.advance(START + 2 * QUIET_NS + 1_000 * MS + 800 * MS)

    first = Reserved(START + QUIET_NS, 1_000 * MS, PARTS)
    assert shares.reserved == [first, Reserved(START + 2 * QUIET_NS + 400 * MS, 400 * MS, PARTS // 2)]


def test_a_replica_that_speaks_twice_in_the_quiet_time_costs_none() -> None:
    """Its last permit may not have arrived, but the one before it has."""
    shares = _shares()
    replica = Replica(shares)
    for i in range(100):
        replica.renew(START + i * QUIET_NS // 2)

    assert (shares.clock, shares.reserved) == (START + 99 * QUIET_NS // 2, [])


def test_replies_that_get_lost_count_from_the_last_that_it_has() -> None:
    """It may be alone though the ledger hears it."""
    shares = _shares()
    replica = Replica(shares)
    replica.renew(START)
    for i in range(1, 11):
        replica.renew(START + i * 100 * MS, heard=False)

    assert shares.clock == START + QUIET_NS


def test_who_may_be_alone_is_offered_no_more_than_it_has() -> None:
    shares = _shares()
    a, b = Replica(shares, "a"), Replica(shares, "b")
    for i in range(3):
        a.renew(START + i)
        b.renew(START + i)
    b.renew(START + 3, stays=False)

    offers = [a.renew(START + 2 + QUIET_NS, heard=False), a.renew(START + 2 + END_NS)]

    assert offers == [PARTS // 2, PARTS]


def test_a_replica_that_leaves_gives_its_share_back_at_once() -> None:
    shares = _shares()
    a, b = Replica(shares, "a"), Replica(shares, "b")
    a.renew(START)
    a.renew(START + 1, stays=False)

    assert b.renew(START + 1) == PARTS
    b.renew(START + 2, stays=False)
    shares.advance(START + 3 * END_NS)
    assert shares.clock == START + 3 * END_NS


def test_whatever_who_leaves_says_that_it_has_is_given_up() -> None:
    shares = _shares()
    a, b = Replica(shares, "a"), Replica(shares, "b")
    a.renew(START)
    shares.renew("a", 2, a.holding, stays=False)

    assert b.renew(START) == PARTS


def test_a_larger_share_counts_from_when_it_is_offered() -> None:
    """Not from when it is known to have arrived."""
    shares = _shares()
    a, b, c = Replica(shares, "a"), Replica(shares, "b"), Replica(shares, "c")
    for _ in range(3):
        a.renew(START)
        b.renew(START)
    b.renew(START, stays=False)

    assert (a.renew(START), c.renew(START)) == (PARTS, 0)


def test_who_has_left_is_not_counted_among_those_who_share() -> None:
    shares = _shares()
    a, b = Replica(shares, "a"), Replica(shares, "b")
    a.renew(START, stays=False)

    assert [b.renew(START), b.renew(START + 1)] == [PARTS, PARTS]


def test_a_crashed_replica_holds_its_share_until_it_has_run_out() -> None:
    shares = _shares()
    Replica(shares, "crashed").renew(START)
    other = Replica(shares, "other")

    offers = [other.renew(START + ns) for ns in (1, END_NS - 1, END_NS)]

    assert offers == [0, 0, PARTS]


def test_a_dead_replicas_share_is_free_at_once_and_only_what_it_may_have_spent_until_then_counts() -> None:
    shares = _shares()
    Replica(shares, "dead").renew(START)
    died = START + QUIET_NS + 1_000 * MS
    shares.bury("dead", died)
    clock = shares.clock
    offer = Replica(shares, "other").renew(died)
    shares.advance(died + 100 * MS)

    assert offer == PARTS
    assert (clock, shares.clock) == (START + QUIET_NS, START + QUIET_NS + 100 * MS)
    assert shares.reserved == [Reserved(START + QUIET_NS, 1_000 * MS, PARTS)]


def test_what_a_dead_replica_has_said_is_known_and_changes_nothing_when_it_comes_again() -> None:
    shares = _shares()
    dead = Replica(shares, "dead")
    dead.renew(START)
    dead.renew(START)
    shares.bury("dead", START)
    shares.bury("a stranger", START)
    again = [shares.renew("dead", seq, dead.holding, stays=True) for seq in (1, 2)]

    assert [shares.is_news("dead", seq) for seq in (1, 2, 3)] == [False, False, True]
    assert again == [Permit(START, 0)] * 2
    shares.advance(START + END_NS)
    assert (shares.clock, shares.reserved) == (START + END_NS, [])


def test_tells_who_may_be_alone() -> None:
    shares = _shares()
    silent, other, poor = (Replica(shares, name) for name in ("silent", "other", "poor"))
    for _ in range(3):
        silent.renew(START)
        other.renew(START)
    poor.renew(START)
    found = []
    for ns in (QUIET_NS, QUIET_NS + 1, END_NS - 1, END_NS):
        other.renew(START + ns - 1)
        other.renew(START + ns)
        found.append(shares.silent())

    assert found == [[], ["silent"], ["silent"], []]


def test_late_and_doubled_messages_change_nothing() -> None:
    shares = _shares()
    a, b = Replica(shares, "a"), Replica(shares, "b")
    a.renew(START)
    a.renew(START)
    for seq in (1, 2):
        assert not shares.is_news("a", seq)
        assert shares.renew("a", seq, NOTHING, stays=False) == Permit(START, 0)

    assert shares.is_news("a", 3)
    assert b.renew(START) == 0
    shares.advance(START + END_NS + 1)
    assert shares.clock == START + END_NS + 1 - ALONE_NS


def test_after_a_restart_all_shares_are_taken_until_they_run_out() -> None:
    shares = _shares(restarted=True)
    replica = Replica(shares)
    offers = [replica.renew(START + ns) for ns in (0, 100 * MS, END_NS - 1)]
    clock, reserved = shares.clock, shares.reserved

    assert offers == [0, 0, 0]
    assert (clock, reserved) == (START, [Reserved(START, 2 * END_NS - 1, PARTS)])  # before this ledger, too
    assert replica.renew(START + END_NS) == PARTS
    assert replica.renew(START + END_NS + 100 * MS) == PARTS
    assert shares.clock == START + 100 * MS


def test_after_a_restart_the_time_runs_by_the_shares_that_were_returned() -> None:
    shares = _shares(restarted=True)
    a, b = Replica(shares, "a"), Replica(shares, "b")
    for replica in (a, b):
        replica.renew(START)
        replica.former_share = PARTS // 4
    offers = [a.renew(START), a.renew(START), b.renew(START)]
    shares.advance(START + 100 * MS)

    assert offers == [PARTS // 4, PARTS // 4, PARTS // 4]  # what a gave back twice counts once
    assert shares.clock == START + 50 * MS


def test_a_share_comes_back_only_from_who_has_heard_from_this_ledger() -> None:
    shares = _shares(restarted=True)
    shares.renew("a", 1, Holding(None, 0, PARTS), stays=True)

    assert Replica(shares, "b").renew(START) == 0


@given(
    st.booleans(),
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.sampled_from(["heard", "lost", "leaves", "late", "new"]),
            st.sampled_from([0, 1, 50 * MS, QUIET_NS - 1, QUIET_NS + 1, 700 * MS, ALONE_NS, 2 * END_NS]),
        ),
        max_size=60,
    ),
)
def test_shares_never_sum_above_the_whole_and_the_clock_never_runs_faster_than_time(
    restarted: bool, steps: list[tuple[int, str, int]]
) -> None:
    """Of those who may be alone: each by the last permit that it has, while it holds."""
    shares, now = _shares(restarted=restarted), START
    replicas = [Replica(shares, f"replica {i}") for i in range(4)]
    crashed: list[Replica] = []
    for who, what, ns in steps:
        before, clock = now, shares.clock
        now += ns
        alone = [one.permit.share for one in replicas + crashed if one.permit and _alone(one.permit, before, now)]
        replica = replicas[who]
        if what == "new":
            crashed.append(replica)
            replicas[who] = Replica(shares, f"replica {now} {len(crashed)}")
            shares.advance(now)
        elif what == "late":
            shares.advance(now)
            shares.renew(replica.name, replica.seq - 1, NOTHING, stays=True)
        else:
            replica.renew(now, heard=what == "heard", stays=what != "leaves")

        held = [one.permit.share for one in replicas + crashed if one.permit and one.permit.stamp + END_NS > now]
        assert sum(held) <= PARTS
        assert 0 <= (shares.clock - clock) * PARTS <= ns * (PARTS - sum(alone))


def _alone(permit: Permit, since: int, until: int) -> bool:
    """All of this time."""
    return permit.stamp + QUIET_NS <= since and until <= permit.stamp + END_NS
