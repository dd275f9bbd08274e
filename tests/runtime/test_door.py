from __future__ import annotations

import asyncio
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deployments.contract.errors import RepeatedAuthorization, TooManyConcurrent, Unauthorized
from deployments.contract.keys import KeyFile, dump, new_key
from deployments.runtime.door import Caller, Door
from deployments.runtime.keyfile import KeyFileWatch

ADDRESS = "address 198.51.100.7"
RECORD, TOKEN = new_key("acme", "gold", now=datetime(2026, 3, 1, tzinfo=UTC))
ONE, OTHER = Caller("key 1", "tenant acme"), Caller("key 2", "tenant acme")


@pytest.fixture
def locked(tmp_path: Path) -> Door:
    file = tmp_path / "keys.json"
    file.write_text(dump(KeyFile(keys=(RECORD,))))
    return Door(KeyFileWatch(file))


def test_by_key_a_caller_is_counted_by_its_key_and_shares_the_cache_of_its_tenant(locked: Door) -> None:
    caller = locked.identify([f"Bearer {TOKEN}"], ADDRESS)

    assert caller == Caller(f"key {RECORD.id}", "tenant acme", "gold")


def test_without_auth_everybody_comes_in_by_address_whatever_else_they_say() -> None:
    door = Door(None)

    for credentials in ([], [f"Bearer {TOKEN}"], ["a", "b"]):
        assert door.identify(credentials, ADDRESS) == Caller(ADDRESS, ADDRESS, None)


@pytest.mark.parametrize(
    ("credentials", "error"),
    [
        ([], Unauthorized),
        (["Bearer nonsense"], Unauthorized),
        ([f"Bearer {TOKEN[:-1]}{'0' if TOKEN[-1] != '0' else '1'}"], Unauthorized),
        ([f"Bearer {TOKEN}", f"Bearer {TOKEN}"], RepeatedAuthorization),
    ],
)
def test_without_a_sound_key_no_door_opens(locked: Door, credentials: list[str], error: type[Exception]) -> None:
    with pytest.raises(error):
        locked.identify(credentials, ADDRESS)


def test_a_key_that_is_revoked_while_the_door_stands_opens_it_no_more(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(dump(KeyFile(keys=(RECORD,))))
    watch = KeyFileWatch(file)
    door = Door(watch)
    file.write_text(dump(KeyFile(keys=(RECORD.model_copy(update={"disabled": True}),))))
    watch.refresh()

    with pytest.raises(Unauthorized, match="revoked"):
        door.identify([f"Bearer {TOKEN}"], ADDRESS)


def test_so_many_of_a_caller_are_inside_at_a_time_and_the_next_is_refused() -> None:
    door = Door(None)
    with ExitStack() as inside:
        for _ in range(3):
            inside.enter_context(door.inside(ONE, most=3))

        with pytest.raises(TooManyConcurrent) as caught, door.inside(ONE, most=3):
            pass

    assert caught.value.most == 3


def test_the_cap_of_one_caller_does_not_touch_another() -> None:
    door = Door(None)

    with door.inside(ONE, most=1), door.inside(OTHER, most=1), pytest.raises(TooManyConcurrent):
        door.inside(OTHER, most=1).__enter__()


def test_who_is_refused_takes_no_place() -> None:
    door = Door(None)
    with door.inside(ONE, most=1):
        for _ in range(3):
            with pytest.raises(TooManyConcurrent), door.inside(ONE, most=1):
                pass

        with door.inside(ONE, most=2):
            pass


async def test_a_place_is_free_again_after_an_answer_an_error_and_a_hang_up() -> None:
    door = Door(None)

    async def request(error: Exception | None = None, forever: bool = False) -> None:
        with door.inside(ONE, most=1):
            if error is not None:
                raise error
            if forever:
                await asyncio.Event().wait()

    await request()
    with suppress(RuntimeError):
        await request(RuntimeError())
    task = asyncio.create_task(request(forever=True))
    await asyncio.sleep(0)
    with pytest.raises(TooManyConcurrent):
        await request()
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    await request()
    assert not door._inside  # and nothing is kept of callers who have gone
