"""`nli-serve keys`: the file of API keys that the service reads.

Each change writes the whole file anew, in one step, under a lock that all these commands share: a reader sees the old
file or the new one, and of two changes at once none is lost. A file that is broken is never written over.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from filelock import FileLock, Timeout

from deployments.contract.keys import ID, NAME, KeyFile, KeyRecord, dump, new_key, parse, renewed

from .document import read
from .parts import args

LOCK_S = 10.0  # to wait for other changes, which take milliseconds
UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
HEAD = ("id", "tenant", "tier", "created", "expires", "state")


class KeysRefused(Exception):
    """Why nothing was done; the message is for the user."""


def create(file: Path, tenant: str, tier: str | None, expires: str | None, now: datetime) -> tuple[KeyRecord, str]:
    """Add a key, and the file if there is none.

    Args:
        expires: how long from now, as in `90d`; None: for ever.

    Returns:
        The record and the token, which stands nowhere else.
    """
    for option, name in (("--tenant", tenant), ("--tier", tier)):
        if name is not None and not re.fullmatch(NAME, name):
            raise KeysRefused(f"{option} {name!r}: allowed are 1 to 64 characters of A-Z a-z 0-9 . _ -")
    record, token = new_key(tenant, tier, None if expires is None else now + _duration(expires), now=now)
    with _alone(file) as target:
        keys = load(target).keys if target.exists() else ()
        _write(target, KeyFile(keys=(*keys, record)))
    return record, token


def revoke(file: Path, id: str) -> KeyRecord:
    """Disable a key for ever; it stays in the file, which so says who once had one."""
    with _alone(file) as target:
        keys = load(target)
        record = _find(keys, id, target)
        if record.disabled:
            raise KeysRefused(f"the key {id} is revoked already")
        record = record.model_copy(update={"disabled": True})
        _write(target, _with(keys, record))
    return record


def rotate(file: Path, id: str, now: datetime) -> tuple[KeyRecord, str]:
    """Give a key another secret; returns what `create` does."""
    with _alone(file) as target:
        keys = load(target)
        record = _find(keys, id, target)
        if (state := _state(record, now)) != "active":
            raise KeysRefused(f"the key {id} is {state}, and a new secret would not change that; create a new key")
        record, token = renewed(record, now=now)
        _write(target, _with(keys, record))
    return record, token


def load(file: Path) -> KeyFile:
    try:
        return parse(file.read_bytes())
    except FileNotFoundError as error:
        raise KeysRefused(
            f"there is no {file}; `nli-serve keys create` makes it, or name another with --file"
        ) from error
    except OSError as error:
        raise KeysRefused(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise KeysRefused(f"{file} is broken, and left as it is: {error}; mend it, or restore a copy") from error


def table(keys: KeyFile, now: datetime) -> str:
    """One line a key, and one above them; times in UTC."""
    rows = [HEAD, *(_row(record, now) for record in keys.keys)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def configured(config: Path) -> Path:
    """The key file that a config names; a relative path starts at the config's folder."""
    try:
        document = read(config)
    except OSError as error:
        raise KeysRefused(f"{config} cannot be read: {error.strerror}; name the key file with --file") from error
    for problem in document.problems:
        raise KeysRefused(document.describe(problem))
    named = args(document.data).get("keys_file")
    if not isinstance(named, str) or not named or "\0" in named:
        raise KeysRefused(f"{config} names no key file: set args.keys_file to its absolute path, or say --file PATH")
    return config.parent / named


def _duration(text: str) -> timedelta:
    match = re.fullmatch(r"([1-9][0-9]{0,4})([mhdw])", text)  # five digits of weeks end before the year 9999
    if match is None:
        raise KeysRefused(
            f"--expires {text!r}: allowed are 1 to 99999 minutes, hours, days or weeks, as in 30m 12h 90d 4w"
        )
    return timedelta(**{UNITS[match[2]]: int(match[1])})


def _find(keys: KeyFile, id: str, file: Path) -> KeyRecord:
    if not re.fullmatch(ID, id):  # not repeated here: it may be a token
        raise KeysRefused("not an id: it is the 12 hex digits between nli_ and _, which `nli-serve keys list` shows")
    for record in keys.keys:
        if record.id == id:
            return record
    raise KeysRefused(f"{file} has no key {id}; `nli-serve keys list` shows what it has")


def _with(keys: KeyFile, changed: KeyRecord) -> KeyFile:
    return KeyFile(keys=tuple(changed if record.id == changed.id else record for record in keys.keys))


def _row(record: KeyRecord, now: datetime) -> tuple[str, ...]:
    expires = _minute(record.expires) if record.expires else "never"
    return record.id, record.tenant, record.tier or "-", _minute(record.created), expires, _state(record, now)


def _minute(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%MZ}"


def _state(record: KeyRecord, now: datetime) -> str:
    if record.disabled:
        return "revoked"
    return "active" if record.refusal(now) is None else "expired"


@contextmanager
def _alone(file: Path) -> Iterator[Path]:
    """The file that all symlinks lead to, which no other of these commands changes meanwhile."""
    try:
        target = file.resolve()
        if not target.parent.is_dir():
            raise KeysRefused(f"there is no folder {target.parent}; make it first, or name another file with --file")
        with FileLock(f"{target}.lock", timeout=LOCK_S):
            yield target
    except Timeout as error:
        raise KeysRefused(f"another command holds {error.lock_file}; try again when it has ended") from error
    except (OSError, RuntimeError) as error:  # the latter for symlinks in a circle
        raise KeysRefused(f"{file} cannot be changed: {error}") from error


def _write(file: Path, keys: KeyFile) -> None:
    """Whole or not at all, and on the disk: a revoked key must not come back with the power."""
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # of mode 0600
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            if file.exists():
                before = file.stat()
                os.fchown(descriptor, before.st_uid, before.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
            out.write(dump(keys))
            out.flush()
            os.fsync(descriptor)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(file.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
