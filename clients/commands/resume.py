"""Downloading one large file so that a later process goes on where an earlier one was stopped.

By hand, because huggingface_hub no longer does it: since 2.x each process downloads to a file of its own name and
starts at zero (huggingface_hub#4228). What is fetched here becomes the blob of the hub's own cache, where
`snapshot_download` finds it and has nothing left to do.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx2
from filelock import FileLock
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

TRIES = 5  # without a byte of progress in between
IDLE_S = 30.0  # the longest pause between two chunks
CHUNK = 1 << 20


class WrongContent(Exception):
    """What came is not what was stated; it is deleted."""


def fetch(url: str, blob: Path, size: int, sha256: str, console: Console) -> None:
    """Download to `blob`, which appears whole and checked or not at all.

    Raises:
        WrongContent: another sha256, or a server that sends more than `size` bytes.
        httpx2.HTTPError: the network failed `TRIES` times in a row.
    """
    blob.parent.mkdir(parents=True, exist_ok=True)
    part = blob.with_name(f"{blob.name}.part")
    with FileLock(f"{part}.lock"):
        if blob.exists():
            return
        columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
        with Progress(*columns, console=console) as progress:
            _download(url, part, size, progress)
        if (digest := _sha256(part)) != sha256:
            part.unlink()
            raise WrongContent(f"it came with sha256 {digest}, but the Hub states {sha256}")
        part.rename(blob)


def _download(url: str, part: Path, size: int, progress: Progress) -> None:
    part.touch()
    bar = progress.add_task(url.rpartition("/")[2], total=size, completed=part.stat().st_size)
    tries = TRIES
    while (have := part.stat().st_size) < size:
        try:
            _append(url, part, progress, bar)
        except httpx2.TransportError:
            tries = TRIES if part.stat().st_size > have else tries - 1
            if tries == 0:
                raise
    if have > size:
        part.unlink()
        raise WrongContent(f"it has more than the {size:,} bytes that the Hub states")


def _append(url: str, part: Path, progress: Progress, bar: TaskID) -> None:
    """Add what the server sends from where the file ends; start over when it cannot send a part."""
    have = part.stat().st_size
    headers = {**build_hf_headers(), "Range": f"bytes={have}-"} if have else build_hf_headers()
    with httpx2.stream("GET", url, headers=headers, follow_redirects=True, timeout=IDLE_S) as response:
        response.raise_for_status()
        with part.open("ab") as file:
            if response.status_code != 206:
                file.truncate(0)
            for chunk in response.iter_raw(CHUNK):
                file.write(chunk)
                progress.update(bar, completed=file.tell())


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
