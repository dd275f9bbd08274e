"""A cache of what is made of a model once: exported for another library, or quantised.

Each entry is a folder with the sha256 of each of its files. It appears whole, by a rename, and one process makes
it while others wait. An entry that is not as its sums say is made anew: a broken one is never served.
Entries are named by what they are made of, so none is ever out of date; old ones may be deleted at any time.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock

from ..refusal import StartRefused
from ..weights import needed, sha256

SUMS = "sha256.json"
NOT_OURS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}  # the disk is the reason

Make = Callable[[Path], None]
"""Writes its files into the folder that it is given."""


def key(folder: Path, recipe: str, packages: Sequence[str]) -> str:
    """What an entry is called: by its recipe, the versions of what makes it, and the model's files.

    Args:
        folder: the model's; its weights are read whole.
        recipe: how it is made; another name for every change of that.
        packages: distributions whose version matters.
    """
    made_of = {
        "recipe": recipe,
        "versions": {package: version(package) for package in packages},
        "files": {name: sha256(folder / name) for name in needed(folder)},
    }
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
    return f"{recipe}-{digest[:32]}"


def converted(root: Path, name: str, make: Make) -> Path:
    """The folder of an entry, which is made if it is not there or not whole.

    Raises:
        StartRefused: the cache cannot be written to.
    """
    folder = root / name
    if is_whole(folder):
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f"{name}.lock"):
            if not is_whole(folder):  # others may have made it meanwhile
                _make(folder, make)
    except OSError as error:
        if error.errno not in NOT_OURS:
            raise
        raise StartRefused(
            f"the converted model cannot be written to {root}: {error.strerror}; make room or give access "
            "there, set HF_HOME to a folder of another disk, or set model.engine: torch"
        ) from error
    return folder


def is_whole(folder: Path) -> bool:
    """Whether every file is there and has its sum."""
    try:
        sums = json.loads((folder / SUMS).read_text())
        return bool(sums) and all(sha256(folder / name) == digest for name, digest in sums.items())
    except (OSError, ValueError, AttributeError, TypeError):
        return False


def _make(folder: Path, make: Make) -> None:
    draft = folder.with_name(f".{folder.name}")
    shutil.rmtree(draft, ignore_errors=True)  # of a process that died
    draft.mkdir()
    try:
        make(draft)
        sums = {file.name: sha256(file) for file in sorted(draft.iterdir())}
        (draft / SUMS).write_text(json.dumps(sums))
        shutil.rmtree(folder, ignore_errors=True)  # a broken one
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
