"""`nli-serve keys` with real files, as a user types it."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from filelock import FileLock

from clients.cli import main
from clients.commands import keys as commands
from deployments.contract.errors import Unauthorized
from deployments.contract.keys import KeyFile, KeyRecord, Keyring, dump, new_key, parse

TOKEN = re.compile(r"nli_[0-9a-f]{12}_[0-9a-f]{64}")
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def _run(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["keys", *map(str, words)])


def _create(file: Path, *more: str) -> tuple[str, str]:
    """The id and the token."""
    token = _run("create", "--file", file, "--tenant", "acme", *more).stdout.strip()
    return token.split("_")[1], token


def _keys(file: Path) -> tuple[KeyRecord, ...]:
    return parse(file.read_bytes()).keys


def _opens(file: Path, token: str) -> bool:
    try:
        Keyring(_keys(file)).verify(token, datetime.now(UTC))
    except Unauthorized:
        return False
    return True


def _refused(*words: str | Path) -> str:
    """What a command says that does nothing."""
    result = _run(*words)
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    assert isinstance(result.exception, SystemExit)
    return result.stderr


def test_a_new_key_stands_alone_on_stdout_and_nowhere_else(file: Path) -> None:
    result = _run("create", "--file", file, "--tenant", "acme")

    assert result.exit_code == 0, result.output
    assert TOKEN.fullmatch(result.stdout.removesuffix("\n"))
    assert len(TOKEN.findall(result.output)) == 1
    _, id, secret = result.stdout.strip().split("_")
    assert result.stderr.startswith(f"Key {id} of acme is in {file}. It is shown this once")
    assert [path.name for path in file.parent.iterdir() if secret in path.read_text()] == []
    assert _opens(file, result.stdout.strip())


def test_a_new_file_is_for_its_owner_only(file: Path) -> None:
    _create(file)

    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_tenant_tier_and_expiry_are_kept(file: Path) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    _create(file, "--tier", "gold", "--expires", "90d")

    (key,) = _keys(file)
    assert (key.tenant, key.tier, key.disabled) == ("acme", "gold", False)
    assert timedelta() <= key.created - before < timedelta(minutes=1)
    assert key.expires == key.created + timedelta(days=90)


@pytest.mark.parametrize(
    ("text", "hours"), [("30m", 0.5), ("12h", 12), ("4w", 672), ("99999w", 16_799_832), ("1d", 24)]
)
def test_a_time_has_a_unit(file: Path, text: str, hours: float) -> None:
    _create(file, "--expires", text)

    (key,) = _keys(file)
    assert key.expires == key.created + timedelta(hours=hours)


def test_a_second_key_leaves_the_first(file: Path) -> None:
    tokens = [_create(file)[1] for _ in range(2)]

    assert [_opens(file, token) for token in tokens] == [True, True]


def test_the_list_shows_the_state_and_nothing_secret(file: Path) -> None:
    kept = [new_key("acme", "gold", LONG_AGO + timedelta(hours=1), now=LONG_AGO), new_key("umbrella", now=LONG_AGO)]
    revoked, _ = new_key("a", now=LONG_AGO)
    records = [kept[0][0], kept[1][0], revoked.model_copy(update={"disabled": True})]
    file.write_text(dump(KeyFile(keys=tuple(records))))

    result = _run("list", "--file", file)

    assert [line.split() for line in result.stdout.splitlines()] == [
        ["id", "tenant", "tier", "created", "expires", "state"],
        [records[0].id, "acme", "gold", "2020-01-01T00:00Z", "2020-01-01T01:00Z", "expired"],
        [records[1].id, "umbrella", "-", "2020-01-01T00:00Z", "never", "active"],
        [records[2].id, "a", "-", "2020-01-01T00:00Z", "never", "revoked"],
    ]
    for record, token in kept:
        assert record.hash not in result.output
        assert token[-64:] not in result.output


def test_a_revoked_key_opens_no_door_and_stays_in_the_list(file: Path) -> None:
    (id, token), (_, other) = _create(file), _create(file)

    result = _run("revoke", id, "--file", file)

    assert (result.exit_code, result.stdout, result.stderr) == (0, "", f"Key {id} of acme is revoked.\n")
    assert (_opens(file, token), _opens(file, other)) == (False, True)
    assert f"{id}  acme" in _run("list", "--file", file).stdout


def test_a_rotated_key_takes_the_new_token_and_not_the_old(file: Path) -> None:
    (id, old), (_, other) = _create(file, "--tier", "gold", "--expires", "90d"), _create(file)
    before = _keys(file)

    result = _run("rotate", id, "--file", file)

    new = result.stdout.removesuffix("\n")
    assert TOKEN.fullmatch(new)
    assert result.stderr.startswith(f"Key {id} of acme has a new secret in {file}. It is shown this once")
    assert [_opens(file, token) for token in (old, new, other)] == [False, True, True]
    assert new[-64:] not in file.read_text()
    same = {"hash", "created"}
    assert [key.model_dump(exclude=same) for key in _keys(file)] == [key.model_dump(exclude=same) for key in before]


def test_a_key_that_is_revoked_or_expired_is_not_rotated(file: Path) -> None:
    expired, _ = new_key("acme", None, LONG_AGO, now=LONG_AGO)
    revoked, _ = new_key("acme", now=LONG_AGO)
    revoked = revoked.model_copy(update={"disabled": True})
    file.write_text(dump(KeyFile(keys=(expired, revoked))))

    assert "is expired, and a new secret would not change that; create" in _refused(
        "rotate", expired.id, "--file", file
    )
    assert "is revoked, and a new secret would not change that; create" in _refused(
        "rotate", revoked.id, "--file", file
    )
    assert _keys(file) == (expired, revoked)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["revoke", "0" * 12], f"has no key {'0' * 12}; `nli-serve keys list` shows what it has"),
        (["rotate", "0" * 12], f"has no key {'0' * 12}; `nli-serve keys list` shows what it has"),
        (["revoke", "nli_0_0"], "not an id: it is the 12 hex digits"),
        (["create", "--tenant", "a b"], "--tenant 'a b': allowed are 1 to 64 characters of A-Z a-z 0-9 . _ -"),
        (["create", "--tenant", ""], "--tenant '': allowed are"),
        (["create", "--tenant", "a\n"], r"--tenant 'a\n': allowed are"),
        (["create", "--tenant", "a", "--tier", "é"], "--tier 'é': allowed are"),
        (["create", "--tenant", "a", "--expires", "90"], "--expires '90': allowed are 1 to 99999 minutes, hours, days"),
        (["create", "--tenant", "a", "--expires", "0d"], "--expires '0d': allowed"),
        (["create", "--tenant", "a", "--expires", "-1d"], "--expires '-1d': allowed"),
        (["create", "--tenant", "a", "--expires", "1.5d"], "--expires '1.5d': allowed"),
        (["create", "--tenant", "a", "--expires", "100000d"], "--expires '100000d': allowed"),
    ],
    ids=str,
)
def test_a_mistake_is_told_and_changes_nothing(file: Path, words: list[str], said: str) -> None:
    _create(file)
    before = file.read_bytes()

    assert said in _refused(*words, "--file", file)
    assert file.read_bytes() == before


def test_a_token_in_place_of_an_id_is_not_repeated(file: Path) -> None:
    _, token = _create(file)

    assert token[-64:] not in _refused("revoke", token, "--file", file)


def test_a_key_is_revoked_once(file: Path) -> None:
    id, _ = _create(file)
    _run("revoke", id, "--file", file)

    assert f"the key {id} is revoked already" in _refused("revoke", id, "--file", file)


COMMANDS = [["create", "--tenant", "a"], ["list"], ["revoke", "0" * 12], ["rotate", "0" * 12]]


@pytest.mark.parametrize("words", COMMANDS, ids=str)
@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"version": 2, "keys": []}', b'{"keys": [{"id": "0"}]}'])
def test_a_broken_file_is_told_and_never_written_over(file: Path, words: list[str], content: bytes) -> None:
    file.write_bytes(content)

    said = _refused(*words, "--file", file)

    assert said.startswith(f"{file} is broken, and left as it is: ")
    assert file.read_bytes() == content


@pytest.mark.parametrize("words", COMMANDS[1:], ids=str)
def test_a_file_that_is_not_there_is_told(file: Path, words: list[str]) -> None:
    assert f"there is no {file}; `nli-serve keys create` makes it" in _refused(*words, "--file", file)
    assert not file.exists()


def test_a_folder_is_not_made(tmp_path: Path) -> None:
    said = _refused("create", "--tenant", "a", "--file", tmp_path / "no" / "keys.json")

    assert f"there is no folder {tmp_path / 'no'}; make it first" in said
    assert list(tmp_path.iterdir()) == []


def test_symlinks_in_a_circle_are_told(file: Path) -> None:
    file.symlink_to(file)

    assert f"{file} cannot be changed: " in _refused("create", "--tenant", "a", "--file", file)


def test_a_symlink_stays_and_the_file_at_its_end_changes(tmp_path: Path, file: Path) -> None:
    (tmp_path / "real").mkdir()
    file.symlink_to("real/keys.json")

    _create(file)

    assert file.is_symlink()
    assert len(_keys(tmp_path / "real" / "keys.json")) == 1


def test_a_change_keeps_the_mode_and_the_owner(file: Path) -> None:
    id, _ = _create(file)
    file.chmod(0o640)
    if os.getuid() == 0:
        os.chown(file, 1234, 1235)
    before = file.stat()

    _run("revoke", id, "--file", file)

    after = file.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert after.st_ino != before.st_ino


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    file: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    id, _ = _create(file)
    before = file.read_bytes()
    monkeypatch.setattr(step, _disk_full)

    said = _refused("rotate", id, "--file", file)

    assert f"{file} cannot be changed: [Errno 28] No space left on device" in said
    assert file.read_bytes() == before
    assert sorted(path.name for path in file.parent.iterdir()) == ["keys.json", "keys.json.lock"]


def _disk_full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_another_command_that_does_not_end_is_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "LOCK_S", 0.01)

    with FileLock(f"{file}.lock"):
        said = _refused("create", "--tenant", "a", "--file", file)

    assert f"another command holds {file}.lock; try again when it has ended" in said


def test_eight_processes_that_create_keys_at_once_lose_none(file: Path) -> None:
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(8)
    processes = [fork.Process(target=_create_five, args=(file, barrier.wait)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)

    assert [process.exitcode for process in processes] == [0] * 8
    assert len({key.id for key in _keys(file)}) == 40


def _create_five(file: Path, wait: Callable[[], object]) -> None:
    wait()
    for _ in range(5):
        commands.create(file, "acme", None, None, LONG_AGO)


@pytest.mark.parametrize("relative", [False, True])
def test_the_config_says_which_file(tmp_path: Path, relative: bool) -> None:
    (tmp_path / "conf").mkdir()
    config = _config(tmp_path / "conf", {"keys_file": "keys.json" if relative else f"{tmp_path}/conf/keys.json"})

    result = _run("create", "--tenant", "acme", "--config", config)

    assert result.exit_code == 0, result.output
    assert _opens(tmp_path / "conf" / "keys.json", result.stdout.strip())
    assert _run("list", "--config", config).stdout.count("acme") == 1


def test_the_file_that_is_named_goes_before_the_config(tmp_path: Path, file: Path) -> None:
    config = _config(tmp_path, {"keys_file": f"{tmp_path}/other.json"})

    _run("create", "--tenant", "acme", "--config", config, "--file", file)

    assert len(_keys(file)) == 1
    assert not (tmp_path / "other.json").exists()


@pytest.mark.parametrize(
    "args", [{}, {"keys_file": None}, {"keys_file": 5}, {"keys_file": ""}, {"keys_file": "\0"}, None]
)
def test_a_config_that_names_no_file_is_told(tmp_path: Path, args: object) -> None:
    config = _config(tmp_path, args)

    assert f"{config} names no key file: set args.keys_file to its absolute path" in _refused(
        "list", "--config", config
    )


def test_a_config_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    missing, broken = tmp_path / "no.yaml", tmp_path / "broken.yaml"
    broken.write_text("a: [")

    assert f"{missing} cannot be read: No such file or directory; name" in _refused("list", "--config", missing)
    assert "broken.yaml:1: while parsing" in _refused("list", "--config", broken)


def _config(folder: Path, args: object) -> Path:
    file = folder / "config.yaml"
    file.write_text(json.dumps({"applications": [{"args": args}]}))
    return file
