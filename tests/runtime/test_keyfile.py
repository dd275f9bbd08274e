from __future__ import annotations

import asyncio
import logging
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deployments.contract.errors import Unauthorized
from deployments.contract.keys import KeyFile, KeyRecord, dump, new_key
from deployments.engines.refusal import StartRefused
from deployments.runtime.keyfile import POLL_S, KeyFileWatch

NOW = datetime(2026, 3, 1, tzinfo=UTC)
RECORD, TOKEN = new_key("acme", now=NOW)
REVOKED = RECORD.model_copy(update={"disabled": True})
OTHER, OTHER_TOKEN = new_key("umbrella", now=NOW)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return _replace(tmp_path / "keys.json", RECORD)


def _replace(file: Path, *records: KeyRecord) -> Path:
    """As `nli-serve keys` does."""
    new = file.with_suffix(".new")
    new.write_text(dump(KeyFile(keys=records)))
    return new.replace(file)


def _opens(watch: KeyFileWatch, token: str = TOKEN) -> bool:
    try:
        watch.keyring.verify(token, NOW)
    except Unauthorized:
        return False
    return True


def _errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]


def test_loads_the_file_at_the_start(file: Path) -> None:
    assert KeyFileWatch(file).keyring.verify(TOKEN, NOW) == RECORD


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"version": 2}', b"\xff"])
def test_without_a_sound_file_it_refuses_to_start_and_says_what_to_do(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "keys.json"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(StartRefused) as caught:
        KeyFileWatch(file)

    assert str(caught.value).startswith(f"the key file {file} cannot be used: ")
    assert f"`nli-serve keys create --file {file} --tenant NAME`" in str(caught.value)


def test_a_folder_refuses_to_start(tmp_path: Path) -> None:
    with pytest.raises(StartRefused, match="Is a directory"):
        KeyFileWatch(tmp_path)


def test_a_revoked_key_opens_no_door_after_the_next_look(file: Path) -> None:
    watch = KeyFileWatch(file)
    _replace(file, REVOKED)

    watch.refresh()

    assert not _opens(watch)


def test_a_file_that_is_written_in_place_is_followed(file: Path) -> None:
    watch = KeyFileWatch(file)
    file.write_text(dump(KeyFile(keys=(RECORD, OTHER))))

    watch.refresh()

    assert _opens(watch)
    assert _opens(watch, OTHER_TOKEN)


def test_a_change_that_keeps_size_and_mtime_is_seen(file: Path) -> None:
    watch = KeyFileWatch(file)
    before = file.stat()
    other = OTHER.model_copy(update={"tenant": "acme"})
    _replace(file, other)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    watch.refresh()

    assert file.stat().st_size == before.st_size
    assert _opens(watch, OTHER_TOKEN)


def test_a_file_that_has_not_changed_is_not_read_again(file: Path) -> None:
    watch = KeyFileWatch(file)
    ring = watch.keyring

    watch.refresh()

    assert watch.keyring is ring


def test_a_swapped_symlink_is_followed_as_kubernetes_mounts_a_secret(tmp_path: Path) -> None:
    for name, record in (("..1", RECORD), ("..2", REVOKED)):
        (tmp_path / name).mkdir()
        _replace(tmp_path / name / "keys.json", record)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "keys.json").symlink_to("..data/keys.json")
    watch = KeyFileWatch(tmp_path / "keys.json")
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").replace(tmp_path / "..data")

    watch.refresh()

    assert not _opens(watch)


@pytest.mark.parametrize(
    "content", ["", "{", '{"version": 1, "keys": [{"hash": "' + TOKEN + '"}]}'], ids=["empty", "cut off", "wrong value"]
)
def test_a_broken_file_keeps_the_last_good_keys_and_is_logged_once(
    file: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    watch = KeyFileWatch(file)
    file.write_text(content)

    for _ in range(3):
        watch.refresh()

    assert _opens(watch)
    (said,) = _errors(caplog)
    assert said.startswith(f"the key file {file} cannot be used: ")
    assert TOKEN not in caplog.text
    assert RECORD.hash not in caplog.text


def test_each_broken_version_is_logged_until_a_good_one_is_loaded(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    watch = KeyFileWatch(file)
    for content in ("{", "{  "):
        file.write_text(content)
        watch.refresh()
    _replace(file, OTHER)
    watch.refresh()

    assert len(_errors(caplog)) == 2
    assert (_opens(watch), _opens(watch, OTHER_TOKEN)) == (False, True)


def test_a_vanished_file_keeps_the_last_good_keys_until_it_is_back(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watch = KeyFileWatch(file)
    file.unlink()
    for _ in range(3):
        watch.refresh()

    assert _opens(watch)
    (said,) = _errors(caplog)
    assert "No such file or directory; the keys of before stay in force" in said

    _replace(file, REVOKED)
    watch.refresh()

    assert not _opens(watch)


def test_a_file_that_vanishes_again_is_logged_again(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And it comes back as it was, with the same stamp: a mount that is gone for a while."""
    link = file.with_name("link.json")
    link.symlink_to(file)
    watch = KeyFileWatch(link)
    for target in ("nowhere", file, "nowhere"):
        link.unlink()
        link.symlink_to(target)
        watch.refresh()

    assert len(_errors(caplog)) == 2


def test_what_could_not_be_read_is_tried_again_though_it_has_not_changed(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = KeyFileWatch(file)
    _replace(file, REVOKED)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", _too_many_open_files)
        watch.refresh()
    assert _opens(watch)

    watch.refresh()

    assert not _opens(watch)


def _too_many_open_files(path: Path) -> bytes:
    raise OSError(24, "Too many open files", str(path))


class _StumblesOnce(KeyFileWatch):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.stumbled = False
        self.looked = asyncio.Event()

    def refresh(self) -> None:
        if not self.stumbled:
            self.stumbled = True
            raise MemoryError
        super().refresh()
        self.looked.set()


async def test_the_watch_goes_on_whatever_happens(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    watch = _StumblesOnce(file)
    task = asyncio.create_task(watch.watch(poll_s=0.001))
    _replace(file, REVOKED)

    await asyncio.wait_for(watch.looked.wait(), 10)

    assert not _opens(watch)
    assert f"the key file {file} could not be looked at" in caplog.text
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def test_it_looks_often_enough_for_five_seconds() -> None:
    assert POLL_S <= 2
